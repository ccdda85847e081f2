//! `cargo xtask docs`: the generated pages of docs/, each printed by an example of the crate that knows.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::apt::write_if_changed;
use crate::command::output;
use crate::place::Place;

/// Page, crate and the example that prints it. A new page is a new row.
const PAGES: [(&str, &str, &str); 4] = [
    ("docs/events.md", "sensor-proto", "events_md"),
    ("docs/config.md", "sensor", "config-docs"),
    ("docs/hooks.md", "sensor", "hooks-docs"),
    ("docs/formats.md", "sensor", "formats-docs"),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compare only; fail if a page is stale.
    #[arg(long)]
    check: bool,
}

/// The task.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<()> {
    if args.check {
        return check(place);
    }
    for (page, package, example) in PAGES {
        let text = print(place, package, example)?;
        if write_if_changed(&place.root.join(page), &text)? {
            println!("{page} written");
        }
    }
    Ok(())
}

/// Fails if a page differs from what is printed now.
pub(crate) fn check(place: &Place) -> anyhow::Result<()> {
    let mut stale = Vec::new();
    for (page, package, example) in PAGES {
        let old = fs::read_to_string(place.root.join(page)).unwrap_or_default();
        if old != print(place, package, example)? {
            stale.push(page);
        }
    }
    if !stale.is_empty() {
        bail!("{} is stale: run `cargo xtask docs`", stale.join(", "));
    }
    Ok(())
}

fn print(place: &Place, package: &str, example: &str) -> anyhow::Result<String> {
    output(
        Command::new("cargo")
            .args([
                "run",
                "--quiet",
                "--locked",
                "--package",
                package,
                "--example",
                example,
            ])
            .current_dir(&place.root),
    )
    .with_context(|| format!("example {example} of {package}"))
}
