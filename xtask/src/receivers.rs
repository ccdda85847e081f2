//! The receivers that suites deliver to: nats-server, rotel for OTLP, librdkafka's mock cluster for Kafka; and Prometheus, which
//! scrapes. Debian packages and wheels of the Python registry, unpacked below target/receivers; nothing of this machine is used but its apt sources and its
//! pip configuration, so that a bare Debian is enough.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::apt::{Apt, write_if_changed};
use crate::command::{output, quiet};
use crate::place::Place;

/// Changed when anything of the lists below changes.
const FOLDER: &str = "receivers-2";
/// The Python that the wheels below are for; its C library is the one that starts it.
const PYTHON_SUITE: &str = "bookworm";
const PYTHON: &str = "python3.11";
/// The interpreter, the library that rotel is linked with, and pip as the wheel that virtual environments get.
const PYTHON_PACKAGES: [&str; 3] = [PYTHON, "libpython3.11", "python3-pip-whl"];
/// Debian 12 itself has 2.9, which is too old for our client.
const NATS_SUITE: &str = "trixie";
const NATS_LEAST: (u32, u32) = (2, 10);
/// Wheels with their digests, as pip wants them with `--require-hashes`.
const WHEELS: &str = "\
    rotel==0.0.1a15 --hash=sha256:2f4117e58410c933e0dc042a268ef738dab2e3a5d63b5831209acdac2a6ddcb7\n\
    confluent-kafka==2.16.1 --hash=sha256:24f613cc81a856b6fbb2d7d11044a9aa770044eecc1f83ff84618688b056be06\n";
const LOADER: &str = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

/// The task: lines for a shell, to run a suite by hand.
pub(crate) fn run(place: &Place) -> anyhow::Result<()> {
    for (name, path) in Receivers::find(place)?.variables() {
        println!("export {name}='{}'", path.display());
    }
    Ok(())
}

/// Programs for the environment of a suite.
#[derive(Debug)]
pub(crate) struct Receivers {
    nats_server: PathBuf,
    rotel: PathBuf,
    python: PathBuf,
    prometheus: PathBuf,
    promtool: PathBuf,
}

impl Receivers {
    /// Fetches them unless they are there.
    pub(crate) fn find(place: &Place) -> anyhow::Result<Self> {
        let folder = place.target.join("receivers");
        let root = folder.join(FOLDER);
        if !root.exists() {
            eprintln!("fetching nats-server, rotel, librdkafka and prometheus");
            fs::create_dir_all(&folder)?;
            let fresh = tempfile::tempdir_in(&folder)?;
            fetch(place, fresh.path())?;
            fs::rename(fresh.keep(), &root)?;
        }
        // Written anew each time: the target directory may have moved.
        let scripts = folder.join("bin");
        fs::create_dir_all(&scripts)?;
        let receivers = Self {
            nats_server: scripts.join("nats-server"),
            rotel: scripts.join("rotel"),
            python: scripts.join("python"),
            prometheus: scripts.join("prometheus"),
            promtool: scripts.join("promtool"),
        };
        script(
            &root,
            &root.join("nats/usr/sbin/nats-server"),
            &receivers.nats_server,
        )?;
        script(
            &root,
            &root.join("wheels/rotel/rotel-agent"),
            &receivers.rotel,
        )?;
        script(&root, &python(&root), &receivers.python)?;
        let programs = root.join("prometheus/usr/bin");
        script(&root, &programs.join("prometheus"), &receivers.prometheus)?;
        script(&root, &programs.join("promtool"), &receivers.promtool)?;
        Ok(receivers)
    }

    /// Variables that tell a suite where they are.
    pub(crate) fn variables(&self) -> [(&'static str, &Path); 5] {
        [
            ("SENSOR_NATS_SERVER", &self.nats_server),
            ("SENSOR_ROTEL", &self.rotel),
            ("SENSOR_PYTHON", &self.python),
            ("SENSOR_PROMETHEUS", &self.prometheus),
            ("SENSOR_PROMTOOL", &self.promtool),
        ]
    }
}

fn fetch(place: &Place, into: &Path) -> anyhow::Result<()> {
    let vm = place.target.join("vm");
    fs::create_dir_all(&vm)?;
    // The package indexes are the ones of the kernels.
    let open = |suite: &str| Apt::open(&vm.join(format!("apt-{suite}")), &[suite]);
    open(NATS_SUITE)?.unpack("nats-server", &into.join("nats"))?;
    // Without what it depends on: that is for its web pages.
    open(PYTHON_SUITE)?.unpack("prometheus", &into.join("prometheus"))?;
    open(PYTHON_SUITE)?.unpack_with_dependencies(
        PYTHON_SUITE,
        &PYTHON_PACKAGES,
        &into.join("python"),
    )?;
    let nats = into.join("nats-server");
    script(into, &into.join("nats/usr/sbin/nats-server"), &nats)?;
    let version = output(Command::new(&nats).arg("--version"))?;
    ensure!(
        numbers(&version).is_some_and(|version| version >= NATS_LEAST),
        "nats-server of Debian {NATS_SUITE} says {version:?}, the tests need {NATS_LEAST:?} or newer"
    );
    let pip = fs::read_dir(into.join("python/usr/share/python-wheels"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("pip-"))
        })
        .context("package python3-pip-whl has no wheel of pip")?;
    let wanted = into.join("wheels.txt");
    fs::write(&wanted, WHEELS)?;
    let interpreter = into.join("interpreter");
    script(into, &python(into), &interpreter)?;
    quiet(
        Command::new(&interpreter)
            // A wheel is a zip file that can be run from.
            .arg(pip.join("pip"))
            .args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-cache-dir",
                "--no-deps",
                "--no-compile",
                "--only-binary=:all:",
                "--require-hashes",
                "--target",
            ])
            .arg(into.join("wheels"))
            .arg("--requirement")
            .arg(&wanted),
    )
    .context(
        "cannot fetch rotel and confluent-kafka: is the Python registry of this machine's pip configuration reached?",
    )
}

fn python(root: &Path) -> PathBuf {
    root.join("python/usr/bin").join(PYTHON)
}

/// The first two numbers of a text: "nats-server: v2.10.27" has (2, 10).
fn numbers(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Writes a script that becomes this program, with the loader and the libraries of `root`, whatever this machine has.
fn script(root: &Path, program: &Path, to: &Path) -> anyhow::Result<()> {
    ensure!(
        program.is_file(),
        "no {} in what was fetched",
        program.display()
    );
    let python = root.join("python");
    let libraries = LIBRARIES.map(|folder| python.join(folder).display().to_string());
    write_if_changed(
        to,
        &format!(
            "#!/bin/sh\nexport PYTHONHOME='{}' PYTHONPATH='{}' PYTHONDONTWRITEBYTECODE=1\n\
             exec '{}' --library-path '{}' '{}' \"$@\"\n",
            python.join("usr").display(),
            root.join("wheels").display(),
            python.join(LOADER).display(),
            libraries.join(":"),
            program.display(),
        ),
    )?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let at_least = |text| numbers(text).is_some_and(|version| version >= NATS_LEAST);
        assert!(at_least("nats-server: v2.10.27\n"));
        assert!(at_least("nats-server: v3.0.0"));
        assert!(!at_least("nats-server: v2.9.10"));
        assert!(!at_least("nats-server: unknown"));
    }
}
