//! Statically linked programs for guests, and for suites on this machine: the sensor, the central node, process 1, test programs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::command::quiet;
use crate::place::{Place, Toolchain};
use crate::remap;

/// Copies without debug information, below target/vm.
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

/// What cargo is asked for.
const PROGRAMS: [&str; 8] = [
    "build",
    "--package",
    "sensor",
    "--package",
    "central-node",
    "--package",
    "sensor-vm-init",
    "--bins",
];

impl StaticPrograms {
    /// Builds them to be released: no path of this machine is in them, so that the bytes do not depend on where the clone lies. It
    /// costs a second compilation beside that for tests.
    pub(crate) fn release(place: &Place) -> anyhow::Result<Self> {
        let toolchain = Toolchain::find(place)?;
        let programs = build(place, &toolchain, &PROGRAMS, true)?;
        let home = remap::cargo_home()?;
        let builder = [
            place.root.as_path(),
            &place.target,
            &toolchain.sysroot,
            &home,
        ];
        for name in ["sensor", "central-node"] {
            let program = programs.get(name).context("a program")?;
            remap::none_inside(&fs::read(program)?, &builder)
                .with_context(|| format!("the static program {name}"))?;
        }
        Self::of(programs, BTreeMap::new())
    }

    /// Builds them with these test targets of crate sensor-tests.
    pub(crate) fn build(place: &Place, tests: &BTreeSet<&str>) -> anyhow::Result<Self> {
        let toolchain = Toolchain::find(place)?;
        let programs = build(place, &toolchain, &PROGRAMS, false)?;
        let mut arguments = vec!["test", "--no-run", "--package", "sensor-tests"];
        for test in tests {
            arguments.extend(["--test", test]);
        }
        let tests = if tests.is_empty() {
            BTreeMap::new()
        } else {
            build(place, &toolchain, &arguments, false)?
        };
        Self::of(programs, tests)
    }

    fn of(
        mut programs: BTreeMap<String, PathBuf>,
        tests: BTreeMap<String, PathBuf>,
    ) -> anyhow::Result<Self> {
        let mut take = |name: &str| {
            programs
                .remove(name)
                .with_context(|| format!("cargo built no program {name}"))
        };
        Ok(Self {
            init: take("sensor-vm-init")?,
            sensor: take("sensor")?,
            node: take("central-node")?,
            tests,
        })
    }

    /// The program of a test target.
    pub(crate) fn test(&self, name: &str) -> anyhow::Result<&PathBuf> {
        self.tests
            .get(name)
            .with_context(|| format!("cargo built no test program {name}"))
    }
}

/// Runs cargo for static programs; gives their stripped copies by target name. `released`: without paths of this machine.
fn build(
    place: &Place,
    toolchain: &Toolchain,
    arguments: &[&str],
    released: bool,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let (task, rest) = arguments.split_first().context("a cargo command")?;
    // No musl here: glibc links statically too. With --target, build scripts and macros stay dynamic.
    let mut flags = String::from("-Ctarget-feature=+crt-static");
    let mut cargo = Command::new("cargo");
    if released {
        // Nobody reads line tables of a program that is stripped; and cargo, which does not see what the wrapper adds, keeps
        // these apart by it.
        flags.push_str("\x1f-Cdebuginfo=0");
        cargo.env("RUSTC_WRAPPER", remap::wrapper(place, toolchain)?);
    }
    let output = cargo
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
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
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
    let folder = place.target.join(if released {
        "vm/released"
    } else {
        "vm/programs"
    });
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
