//! The manual and the completions of a program, from its command line's types. The example of the central node has this module, too.

use std::io::{self, Write as _};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Prints what the first argument names: `man`, which ends with `end`, or the completions of a shell.
pub(crate) fn print(mut command: Command, end: &str) -> io::Result<()> {
    let what = std::env::args().nth(1).unwrap_or_default();
    let mut out = Vec::new();
    if what == "man" {
        manual(command, end, &mut out)?;
    } else {
        let shell: Shell = what.parse().map_err(io::Error::other)?;
        let name = command.get_name().to_owned();
        clap_complete::generate(shell, &mut command, name, &mut out);
    }
    io::stdout().write_all(&out)
}

/// One page: the program, then every subcommand in a section of its own.
fn manual(mut command: Command, end: &str, out: &mut Vec<u8>) -> io::Result<()> {
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
            &format!("{} {}", command.get_name(), subcommand.get_name()),
            out,
        )?;
    }
    man.render_extra_section(out)?;
    out.write_all(end.as_bytes())
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
