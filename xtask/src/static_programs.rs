//! Statically linked programs for guests, and for suites on this machine: the sensor, the central node, process 1, test programs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::command::quiet;
use crate::place::{Place, Toolchain};

/// Copies without debug information, below target/vm/programs.
#[derive(Debug)]
pub(crate) struct StaticPrograms {
    /// Process 1 of guests.
    pub(crate) init: PathBuf,
    /// The daemon, as it is released.
    pub(crate) sensor: PathBuf,
    /// The central node. Always built, since other sets of packages would be compiled with other features, again.
    pub(crate) node: PathBuf,
    tests: BTreeMap<String, PathBuf>,
}

/// One line of cargo's `--message-format=json`, as far as it matters.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<MessageTarget>,
}

#[derive(Deserialize)]
struct MessageTarget {
    name: String,
}

impl StaticPrograms {
    /// Builds them with these test targets of crate sensor-tests.
    pub(crate) fn build(place: &Place, tests: &BTreeSet<&str>) -> anyhow::Result<Self> {
        let toolchain = Toolchain::find(place)?;
        let mut programs = build(
            place,
            &toolchain,
            &[
                "build",
                "--package",
                "sensor",
                "--package",
                "central-node",
                "--package",
                "sensor-vm-init",
                "--bins",
            ],
        )?;
        let mut arguments = vec!["test", "--no-run", "--package", "sensor-tests"];
        for test in tests {
            arguments.extend(["--test", test]);
        }
        let mut take = |name: &str| {
            programs
                .remove(name)
                .with_context(|| format!("cargo built no program {name}"))
        };
        Ok(Self {
            init: take("sensor-vm-init")?,
            sensor: take("sensor")?,
            node: take("central-node")?,
            tests: if tests.is_empty() {
                BTreeMap::new()
            } else {
                build(place, &toolchain, &arguments)?
            },
        })
    }

    /// The program of a test target.
    pub(crate) fn test(&self, name: &str) -> anyhow::Result<&PathBuf> {
        self.tests
            .get(name)
            .with_context(|| format!("cargo built no test program {name}"))
    }
}

/// Runs cargo for static programs; gives their stripped copies by target name.
fn build(
    place: &Place,
    toolchain: &Toolchain,
    arguments: &[&str],
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let (task, rest) = arguments.split_first().context("a cargo command")?;
    let output = Command::new("cargo")
        .arg(task)
        .args([
            "--quiet",
            "--locked",
            "--release",
            "--target",
            &toolchain.host,
        ])
        .arg("--message-format=json-render-diagnostics")
        .args(rest)
        .current_dir(&place.root)
        // No musl here: glibc links statically too. With --target, build scripts and macros stay dynamic.
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            OsString::from("-Ctarget-feature=+crt-static"),
        )
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "the static programs do not build ({})",
        output.status
    );
    let folder = place.target.join("vm/programs");
    fs::create_dir_all(&folder)?;
    let mut programs = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Message = serde_json::from_str(line).context("cargo's messages")?;
        if let (Some(executable), Some(target)) = (message.executable, message.target) {
            let stripped = folder.join(&target.name);
            quiet(
                Command::new("strip")
                    .arg("--strip-debug")
                    .arg("-o")
                    .arg(&stripped)
                    .arg(&executable),
            )?;
            programs.insert(target.name, stripped);
        }
    }
    Ok(programs)
}
