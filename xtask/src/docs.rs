//! `cargo xtask docs`: the generated pages of docs/, each printed by an example of the crate that knows, and the tables of
//! docs/kernels.md, from the kernel matrix.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::apt::write_if_changed;
use crate::command::{output, run_shown};
use crate::matrix::{Kernel, Matrix};
use crate::place::Place;

/// Page, crate, the example that prints it and its argument. A new page is a new row.
const PAGES: [(&str, &str, &str, &str); 14] = [
    ("docs/events.md", "sensor-proto", "events_md", ""),
    ("docs/config.md", "sensor", "config-docs", ""),
    ("docs/hooks.md", "sensor", "hooks-docs", ""),
    ("docs/formats.md", "sensor", "formats-docs", ""),
    (
        "docs/data-provision.md",
        "sensor",
        "data-provision-docs",
        "",
    ),
    ("packaging/sensor.toml", "sensor", "default-config", ""),
    (
        "packaging/man/sensor.8",
        "sensor",
        "command-line-docs",
        "man",
    ),
    (
        "packaging/completions/sensor.bash",
        "sensor",
        "command-line-docs",
        "bash",
    ),
    (
        "packaging/completions/sensor.fish",
        "sensor",
        "command-line-docs",
        "fish",
    ),
    (
        "packaging/completions/_sensor",
        "sensor",
        "command-line-docs",
        "zsh",
    ),
    (
        "packaging/man/central-node.8",
        "central-node",
        "node-command-line-docs",
        "man",
    ),
    (
        "packaging/completions/central-node.bash",
        "central-node",
        "node-command-line-docs",
        "bash",
    ),
    (
        "packaging/completions/central-node.fish",
        "central-node",
        "node-command-line-docs",
        "fish",
    ),
    (
        "packaging/completions/_central-node",
        "central-node",
        "node-command-line-docs",
        "zsh",
    ),
];

/// The page that has the kernel matrix between these lines.
const KERNELS: &str = "docs/kernels.md";
const BEGIN: &str =
    "<!-- Made from tests/vm/kernels.toml by `cargo xtask docs`; do not edit. -->\n";
const END: &str = "<!-- The end of what is made. -->\n";

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
    build(place)?;
    for (page, package, example, argument) in PAGES {
        let text = print(place, package, example, argument)?;
        if write_if_changed(&place.root.join(page), &text)? {
            println!("{page} written");
        }
    }
    if write_if_changed(&place.root.join(KERNELS), &kernels(place)?)? {
        println!("{KERNELS} written");
    }
    Ok(())
}

/// The page of kernels with its tables made anew.
fn kernels(place: &Place) -> anyhow::Result<String> {
    let old = fs::read_to_string(place.root.join(KERNELS)).context(KERNELS)?;
    let (before, rest) = old
        .split_once(BEGIN)
        .with_context(|| format!("{KERNELS} lacks the line {BEGIN}"))?;
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("{KERNELS} lacks the line {END}"))?;
    let tables = tables(Matrix::read(place)?.kernels());
    Ok(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}

fn tables(kernels: &[Kernel]) -> String {
    let mut text = String::from("| version | suite | package | role |\n|---|---|---|---|\n");
    for kernel in kernels {
        text.push_str(&format!(
            "| {} | Debian {} | `{}` | {} |\n",
            kernel.version,
            kernel.suite,
            kernel.package,
            kernel.role.name()
        ));
    }
    let kinds: BTreeSet<&String> = kernels
        .iter()
        .flat_map(|kernel| kernel.hooks.values())
        .flat_map(|hooks| hooks.keys())
        .collect();
    text.push_str(
        "\nThe hook that the sensor must choose there for each kind of record, by `--backend`:\n\n",
    );
    text.push_str("| version | `--backend` |");
    kinds
        .iter()
        .for_each(|kind| text.push_str(&format!(" {kind} |")));
    text.push_str(&format!("\n|---|---|{}\n", "---|".repeat(kinds.len())));
    for kernel in kernels {
        for (backend, hooks) in &kernel.hooks {
            text.push_str(&format!("| {} | {} |", kernel.version, backend.name()));
            for kind in &kinds {
                let hook = hooks.get(*kind).map_or("missing", String::as_str);
                text.push_str(&format!(" {hook} |"));
            }
            text.push('\n');
        }
    }
    text
}

/// Fails if a page differs from what is printed now.
pub(crate) fn check(place: &Place) -> anyhow::Result<()> {
    build(place)?;
    let mut stale = Vec::new();
    for (page, package, example, argument) in PAGES {
        let old = fs::read_to_string(place.root.join(page)).unwrap_or_default();
        if old != print(place, package, example, argument)? {
            stale.push(page);
        }
    }
    if fs::read_to_string(place.root.join(KERNELS))? != kernels(place)? {
        stale.push(KERNELS);
    }
    if !stale.is_empty() {
        bail!("{} is stale: run `cargo xtask docs`", stale.join(", "));
    }
    Ok(())
}

/// Builds what prints, as `cargo test --workspace` has built it: naming one crate would compile everything below it again.
fn build(place: &Place) -> anyhow::Result<()> {
    run_shown(
        Command::new("cargo")
            .args(["build", "--quiet", "--locked", "--workspace", "--examples"])
            .current_dir(&place.root),
    )
}

fn print(place: &Place, package: &str, example: &str, argument: &str) -> anyhow::Result<String> {
    output(Command::new(place.target.join("debug/examples").join(example)).arg(argument))
        .with_context(|| format!("example {example} of {package}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_have_a_row_for_each_kernel_and_backend() {
        let kernel = toml::from_str(
            "version='5.10'\nsuite='s'\npackage='p'\nrole='oldest'\n\
             [hooks]\nauto = { exec = 'tracepoint', file_close = 'fentry' }\n\
             syscall-exit = { exec = 'tracepoint', file_close = 'missing' }\n",
        )
        .unwrap();
        let text = tables(&[kernel]);
        for row in [
            "| 5.10 | Debian s | `p` | oldest |",
            "| version | `--backend` | exec | file_close |",
            "| 5.10 | auto | tracepoint | fentry |",
            "| 5.10 | syscall-exit | tracepoint | missing |",
        ] {
            assert!(text.contains(row), "no {row} in:\n{text}");
        }
    }
}
