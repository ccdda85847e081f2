//! Where things are: the workspace, the target directory, the toolchain.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::command::output;

/// The paths that every task needs.
#[derive(Debug)]
pub(crate) struct Place {
    /// Root of the workspace.
    pub(crate) root: PathBuf,
    /// Cargo's target directory; the only folder that tasks install into.
    pub(crate) target: PathBuf,
}

impl Place {
    /// Finds the workspace by this crate's own folder and the target directory as cargo does.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask stands in the workspace's root")?
            .to_owned();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::path::absolute(dir)?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// Folder for tools that are installed once and kept, one per version.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }
}

/// The pinned toolchain that runs us.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// Its installation folder.
    pub(crate) sysroot: PathBuf,
    /// Release number: `1.95.0`.
    pub(crate) release: String,
    /// Triple of this machine.
    pub(crate) host: String,
    /// Release with commit and date: `1.95.0 (59807616e 2026-04-14)`.
    pub(crate) version: String,
    /// Commit that it was made from.
    pub(crate) commit: String,
}

impl Toolchain {
    /// Asks `rustc` in the workspace's folder, so that rust-toolchain.toml counts.
    pub(crate) fn find(place: &Place) -> anyhow::Result<Self> {
        let ask = |argument: &[&str]| {
            output(
                Command::new("rustc")
                    .args(argument)
                    .current_dir(&place.root),
            )
        };
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
        let verbose = ask(&["-vV"])?;
        let field = |name: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::to_owned)
                .with_context(|| format!("no {name:?} in the output of rustc -vV"))
        };
        Ok(Self {
            sysroot,
            release: field("release: ")?,
            version: field("rustc ")?,
            host: field("host: ")?,
            commit: field("commit-hash: ")?,
        })
    }

    /// The real compiler and cargo, not rustup's proxies.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.sysroot.join("bin").join(name)
    }
}
