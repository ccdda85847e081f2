//! `cargo xtask test`: every test of the project.

use std::process::Command;

use anyhow::ensure;

use crate::place::Place;

/// Runs the tests of the workspace.
pub(crate) fn run(place: &Place) -> anyhow::Result<()> {
    let status = Command::new("cargo")
        .args(["test", "--workspace"])
        .current_dir(&place.root)
        .status()?;
    ensure!(status.success(), "tests failed");
    Ok(())
}
