//! Prints what stands in packaging/man and packaging/completions: `man`, `bash`, `fish` or `zsh`, from the command line's types.

use std::io::{self, Write as _};

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

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

fn main() -> io::Result<()> {
    let what = std::env::args().nth(1).unwrap_or_default();
    let mut out = Vec::new();
    if what == "man" {
        manual(&mut out)?;
    } else {
        let shell: Shell = what.parse().map_err(io::Error::other)?;
        clap_complete::generate(
            shell,
            &mut sensor::args::Args::command(),
            "sensor",
            &mut out,
        );
    }
    io::stdout().write_all(&out)
}

/// One page: the program, then every subcommand in a section of its own.
fn manual(out: &mut Vec<u8>) -> io::Result<()> {
    let mut command = sensor::args::Args::command();
    command.build();
    let man = Man::new(command.clone()).section("8");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    let mut list = Vec::new();
    man.render_subcommands_section(&mut list)?;
    // They have no pages of their own, but sections below.
    out.write_all(String::from_utf8_lossy(&list).replace("(8)", "").as_bytes())?;
    for subcommand in command.get_subcommands() {
        section(
            subcommand,
            &format!("sensor {}", subcommand.get_name()),
            out,
        )?;
    }
    man.render_extra_section(out)?;
    out.write_all(END.as_bytes())
}

fn section(command: &Command, name: &str, out: &mut Vec<u8>) -> io::Result<()> {
    if command.get_name() == "help" {
        return Ok(());
    }
    let deeper: Vec<&Command> = command
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
        .collect();
    if deeper.is_empty() {
        let man = Man::new(command.clone());
        let mut text = Vec::new();
        man.render_synopsis_section(&mut text)?;
        man.render_description_section(&mut text)?;
        man.render_options_section(&mut text)?;
        // What are sections of a page of its own are parts of one here.
        let text = String::from_utf8_lossy(&text).replace(".SH ", ".SS ");
        writeln!(out, ".SH \"{}\"", name.to_uppercase())?;
        out.write_all(text.as_bytes())?;
    }
    for command in deeper {
        section(command, &format!("{name} {}", command.get_name()), out)?;
    }
    Ok(())
}
