//! Prints what stands in packaging/man and packaging/completions: `man`, `bash`, `fish` or `zsh`, from the command line's types.

#[path = "../../sensor/examples/command-line-docs/pages.rs"]
mod pages;

use clap::CommandFactory as _;

/// Files, and where to read on.
const END: &str = "\
.SH FILES
.TP
/etc/central-node/central-node.toml
The configuration of the service.
.TP
/etc/central-node/tls
Its certificate and key (server.pem, server.key), and the authority of agents' certificates (ca.pem).
.TP
/var/lib/central-node
The store.
.SH SEE ALSO
.BR sensor (8),
.BR systemctl (1),
.BR journalctl (1)
";

fn main() -> std::io::Result<()> {
    pages::print(central_node::args::Args::command(), END)
}
