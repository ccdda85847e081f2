//! Prints what stands in packaging/man and packaging/completions: `man`, `bash`, `fish` or `zsh`, from the command line's types.

mod pages;

use clap::CommandFactory as _;

/// Files, and where to read on.
const END: &str = "\
.SH FILES
.TP
/etc/sensor/sensor.toml, /etc/sensor/conf.d/*.toml
The configuration; see `sensor config schema`.
.TP
/var/lib/sensor
Identity, spool, places of the sinks, filter settings of the central node.
.TP
/var/log/sensor/events.jsonl
Where the packaged configuration has events written to.
.TP
/run/sensor
Lock and control socket of the running sensor.
.SH SEE ALSO
.BR systemctl (1),
.BR journalctl (1)
";

fn main() -> std::io::Result<()> {
    pages::print(sensor::args::Args::command(), END)
}
