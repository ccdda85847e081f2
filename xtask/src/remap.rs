//! No path of this machine in what rustc makes: so the bytes do not depend on where a clone lies, nor tell who built them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::apt::write_if_changed;
use crate::place::{Place, Toolchain};

/// What paths are replaced by begins with it.
const NOWHERE: &str = "/nonexistent";

/// rustc's flag that replaces one beginning of paths; of several that fit it takes the last one.
pub(crate) fn flag(from: &Path, to: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(from);
    flag.push(format!("={NOWHERE}/{to}"));
    flag
}

/// The flags for the sources of crates, from whatever registry they are.
pub(crate) fn cargo() -> anyhow::Result<Vec<OsString>> {
    let home = cargo_home()?;
    let mut flags = vec![flag(&home, "cargo")];
    if let Ok(registries) = fs::read_dir(home.join("registry/src")) {
        for registry in registries {
            flags.push(flag(&registry?.path(), "cargo"));
        }
    }
    Ok(flags)
}

/// Where cargo keeps what it fetched.
pub(crate) fn cargo_home() -> anyhow::Result<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Ok(PathBuf::from(home)),
        None => Ok(PathBuf::from(
            std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?,
        )
        .join(".cargo")),
    }
}

/// Writes a program that cargo is to call as its `RUSTC_WRAPPER`: it adds the flags to what is compiled for a named target. As
/// flags of cargo's own they would be part of its names of crates, and so of the bytes.
pub(crate) fn wrapper(place: &Place, toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    let mut flags = cargo()?;
    flags.push(flag(&place.root, "sensor"));
    flags.push(flag(&place.target, "sensor/target"));
    // The name that the standard library's sources have where they are not installed.
    let mut library = OsString::from("--remap-path-prefix=");
    library.push(toolchain.sysroot.join("lib/rustlib/src/rust"));
    library.push(format!("=/rustc/{}", toolchain.commit));
    flags.push(library);
    let mut quoted = String::new();
    for flag in &flags {
        let flag = flag.to_str().context("a path that is no text")?;
        ensure!(!flag.contains('\''), "a quote in {flag}");
        quoted.push_str(&format!(" '{flag}'"));
    }
    let path = place.target.join("rustc-of-nowhere");
    write_if_changed(
        &path,
        &format!(
            "#!/bin/sh\ncase \" $* \" in\n*' --target '*) exec \"$@\"{quoted} ;;\nesac\nexec \"$@\"\n"
        ),
    )?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Fails if one of these paths stands in a file. One of a single name is not looked for: `/src` may well stand there.
pub(crate) fn none_inside(bytes: &[u8], paths: &[&Path]) -> anyhow::Result<()> {
    let text = String::from_utf8_lossy(bytes);
    for path in paths.iter().filter(|path| path.components().count() > 2) {
        let needle = path.to_str().context("a path that is no text")?;
        ensure!(!text.contains(needle), "it contains the path {needle}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::command::output;

    #[test]
    fn the_wrapper_adds_flags_for_named_targets_only() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            root: "/some/where".into(),
            target: folder.path().to_owned(),
        };
        let toolchain = Toolchain::find(&Place::find().unwrap()).unwrap();
        let wrapper = wrapper(&place, &toolchain).unwrap();
        let run = |arguments: &[&str]| output(Command::new(&wrapper).arg("echo").args(arguments));
        assert_eq!(run(&["--crate-name", "a b"]).unwrap(), "--crate-name a b\n");
        let said = run(&["--target", "x", "main.rs"]).unwrap();
        assert!(said.starts_with("--target x main.rs --remap"), "{said}");
        assert!(
            said.contains(" --remap-path-prefix=/some/where=/nonexistent/sensor "),
            "{said}"
        );
        assert!(said.contains("=/rustc/") && toolchain.commit.len() == 40);
    }

    #[test]
    fn a_path_inside_is_found() {
        let path = Path::new("/home/somebody");
        none_inside(b"/home/somewhere", &[path]).unwrap();
        none_inside(b"at /home/somebody/x.rs:1", &[path]).unwrap_err();
        none_inside(b"at h2-0.4/src/lib.rs:1", &[Path::new("/src")]).unwrap();
    }
}
