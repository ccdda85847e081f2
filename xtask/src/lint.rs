//! `cargo xtask lint`: formatting and clippy, for the workspace and for the eBPF crate on its own target.

use std::process::Command;

use crate::build_ebpf;
use crate::command::run_shown;
use crate::place::Place;

/// The task.
pub(crate) fn run(place: &Place) -> anyhow::Result<()> {
    format(place)?;
    workspace(place)?;
    build_ebpf::clippy(place)?;
    println!("ok");
    Ok(())
}

/// Formatting of everything.
pub(crate) fn format(place: &Place) -> anyhow::Result<()> {
    run_shown(
        Command::new("cargo")
            .args(["fmt", "--all", "--check"])
            .current_dir(&place.root),
    )?;
    run_shown(
        Command::new("cargo")
            .args(["fmt", "--check"])
            .current_dir(place.root.join("sensor-ebpf")),
    )
}

/// Clippy over the workspace: every warning is an error here, so that the tree stays buildable while one edits.
pub(crate) fn workspace(place: &Place) -> anyhow::Result<()> {
    clippy(place, &["--workspace", "--all-targets"])?;
    // Those that plain `cargo test` leaves out (`test = false`) are in no set but their own.
    clippy(place, &["--package", "sensor-tests", "--test", "*"])
}

fn clippy(place: &Place, what: &[&str]) -> anyhow::Result<()> {
    run_shown(
        Command::new("cargo")
            .args(["clippy", "--quiet", "--locked"])
            .args(what)
            .args(["--", "--deny", "warnings"])
            .current_dir(&place.root),
    )
}
