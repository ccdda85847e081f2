//! The core library's sources for `-Z build-std=core`: from the toolchain, by rustup, or from Debian.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use sha2::{Digest as _, Sha256};

use crate::apt::Apt;
use crate::command::quiet;
use crate::place::{Place, Toolchain};

/// Suite whose package rust-src is as new as the pinned compiler.
const SUITE: &str = "trixie-backports";

/// Where to take the sources from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Source {
    /// The toolchain's own component, else Debian's package.
    Auto,
    /// The toolchain's own component, added by rustup if it is not there.
    Rustup,
    /// Debian's package of the same version.
    Debian,
}

/// Gives the folder that holds `library/`.
pub(crate) fn find(
    place: &Place,
    toolchain: &Toolchain,
    source: Source,
) -> anyhow::Result<PathBuf> {
    match source {
        Source::Rustup => rustup(place, toolchain),
        Source::Debian => debian(place, toolchain),
        Source::Auto => rustup(place, toolchain).or_else(|by_rustup| {
            debian(place, toolchain).with_context(|| {
                format!(
                    "no sources of Rust's core library {}; only `cargo xtask build-ebpf` needs them.\n\
                     by rustup: {by_rustup:#}\nby Debian",
                    toolchain.release
                )
            })
        }),
    }
}

fn is_complete(folder: &Path) -> bool {
    folder.join("library/core/src/lib.rs").exists() && folder.join("library/Cargo.lock").exists()
}

fn rustup(place: &Place, toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    let folder = toolchain.sysroot.join("lib/rustlib/src/rust");
    if !is_complete(&folder) {
        quiet(
            Command::new("rustup")
                .args(["component", "add", "rust-src"])
                .current_dir(&place.root),
        )?;
    }
    if !is_complete(&folder) {
        bail!(
            "rustup added rust-src, but {} has no library/core",
            folder.display()
        );
    }
    Ok(folder)
}

fn debian(place: &Place, toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    let release = &toolchain.release;
    let home = place.tools().join(format!("rust-src-{release}"));
    let folder = home.join(format!("usr/src/rustc-{release}"));
    if is_complete(&folder) {
        return Ok(folder);
    }
    let apt = Apt::open(&place.tools().join("apt-rust-src"), &[SUITE])?;
    let all = apt.candidates("rust-src")?;
    let prefix = format!("{release}+");
    let Some(candidate) = all.iter().find(|one| one.version.starts_with(&prefix)) else {
        let known: Vec<_> = all.iter().map(|one| one.version.as_str()).collect();
        bail!(
            "package rust-src {release} is gone from the index of {SUITE} (it has {}). \
             Only `cargo xtask build-ebpf` needs it: everything else builds with the committed object",
            known.join(", ")
        );
    };
    println!("fetching Debian's rust-src {}", candidate.version);
    let fresh = tempfile::tempdir_in(place.tools())?;
    apt.unpack_version("rust-src", candidate, fresh.path())?;
    if home.exists() {
        fs::remove_dir_all(&home)?;
    }
    fs::rename(fresh.keep(), &home)?;
    if !is_complete(&folder) {
        bail!(
            "package rust-src {} has no {}",
            candidate.version,
            folder.display()
        );
    }
    Ok(folder)
}

/// Digest of the core library's sources: every file's relative path and content, in order of path.
pub(crate) fn digest(rust_src: &Path) -> anyhow::Result<String> {
    let base = rust_src.join("library/core/src");
    let mut files = Vec::new();
    collect(&base, &mut files)?;
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        let name = file.strip_prefix(&base)?;
        let content = fs::read(&file)?;
        digest.update(name.as_os_str().as_encoded_bytes());
        digest.update([0]);
        digest.update(u64::try_from(content.len())?.to_le_bytes());
        digest.update(&content);
    }
    Ok(hex(&digest.finalize()))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
