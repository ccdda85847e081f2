//! `cargo xtask fuzz`: targets of tests/fuzz, guided by coverage.
//!
//! The counters come from LLVM's SanitizerCoverage, which stable rustc reaches by stable flags. They are for the sensor's
//! own crates only: cargo calls [`rustc_shim`] as the compiler of workspace members, and that adds the flags by name. The
//! engine is in tests/fuzz/src/engine.rs; libFuzzer would need a C++ compiler (docs/decisions/0025-fuzzing.md).

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};

use crate::apt::write_if_changed;
use crate::command::{output, run_shown, tail};
use crate::harness::Tally;
use crate::place::Place;
use crate::test::{Row, summary};

/// First argument when cargo calls this program as the compiler of workspace members.
pub(crate) const SHIM: &str = "fuzz-rustc-shim";
/// Crates whose edges are counted.
const INSTRUMENTED: [&str; 3] = ["sensor", "sensor_common", "sensor_proto"];
/// Counters per edge and calls at comparisons; checked like a debug build, optimised enough to be quick.
const FLAGS: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=3",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Copt-level=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "-Ccodegen-units=8",
];
/// The engine looks at every counter after every run.
const ENGINE: &str = "sensor_fuzz";
const ENGINE_FLAGS: [&str; 2] = ["-Copt-level=3", "-Cdebug-assertions=on"];
/// Lines of a failed target's output that are shown.
const SHOWN_LINES: usize = 40;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Time for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these targets.
    #[arg(long, value_delimiter = ',')]
    target: Vec<String>,
    /// Where the generator begins; another number goes other ways.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Run this input once instead, in the one target that is named.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
}

/// The task: a row for each target; false if one of them found something.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<bool> {
    let started = Instant::now();
    if let Some(input) = &args.input {
        let program = build(place)?;
        let mut command = Command::new(program);
        run_shown(command.args(&args.target).arg("--input").arg(input))?;
        return Ok(true);
    }
    let rows = targets(place, args.seconds, args.seed, &args.target)?;
    Ok(summary(&rows, started) == 0)
}

/// Runs targets one after the other; without names all of them.
pub(crate) fn targets(
    place: &Place,
    seconds: u64,
    seed: u64,
    names: &[String],
) -> anyhow::Result<Vec<Row>> {
    let program = build(place)?;
    let known = output(&mut Command::new(&program))?;
    let known: Vec<&str> = known.lines().collect();
    for name in names {
        ensure!(
            known.contains(&name.as_str()),
            "no target {name:?}; there are {}",
            known.join(", ")
        );
    }
    let mut rows = Vec::new();
    for name in known {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            rows.push(target(place, &program, name, seconds, seed)?);
        }
    }
    Ok(rows)
}

fn target(
    place: &Place,
    program: &Path,
    name: &str,
    seconds: u64,
    seed: u64,
) -> anyhow::Result<Row> {
    let folder = place.target.join("fuzz").join(name);
    let began = Instant::now();
    let done = Command::new(program)
        .arg(name)
        .args(["--seconds", &seconds.to_string()])
        .args(["--seed", &seed.to_string()])
        .arg("--folder")
        .arg(&folder)
        .stdin(Stdio::null())
        .output()
        .context("cannot start the fuzzer")?;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let mut tally = Tally::default();
    if done.status.success() {
        tally.passed = 1;
        print!("{said}");
    } else {
        tally.fail(format!("{name}: {}", done.status));
        println!("{name}: {}", done.status);
        print!("{}", tail(&said, SHOWN_LINES));
        print!(
            "{}",
            tail(&String::from_utf8_lossy(&done.stderr), SHOWN_LINES)
        );
        // A panic names its own input; after an abort or a hang it is the one that ran.
        println!(
            "again: cargo xtask fuzz --target {name} --input FILE, with the file named above or {}",
            folder.join("running").display()
        );
    }
    let row = Row::new(
        "-",
        &format!("fuzz-{name}"),
        "-",
        &tally,
        began.elapsed().as_secs(),
    );
    row.print();
    Ok(row)
}

/// Builds the fuzzer with counters.
fn build(place: &Place) -> anyhow::Result<PathBuf> {
    let folder = place.target.join("fuzz");
    fs::create_dir_all(&folder)?;
    let shim = folder.join("rustc");
    write_if_changed(
        &shim,
        &format!(
            "#!/bin/sh\nexec '{}' {SHIM} \"$@\"\n",
            std::env::current_exe()?.display()
        ),
    )?;
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755))?;
    run_shown(
        Command::new("cargo")
            .args(["build", "--quiet", "--locked", "--package", "sensor-fuzz"])
            .current_dir(&place.root)
            // Cargo keeps what a wrapper built apart from the rest; dependencies are those of the unit tests.
            .env("RUSTC_WORKSPACE_WRAPPER", &shim)
            .env_remove("RUSTC_WRAPPER"),
    )
    .context("the fuzzer does not build")?;
    let program = folder.join("sensor-fuzz");
    // Under its own name: any other build would put one without counters in its place.
    fs::copy(place.target.join("debug/sensor-fuzz"), &program)?;
    Ok(program)
}

/// Stands between cargo and rustc: `RUSTC ARGUMENT...`, with the flags added for the crates that are counted.
pub(crate) fn rustc_shim(arguments: Vec<OsString>) -> anyhow::Result<()> {
    let (rustc, rest) = arguments.split_first().context("no compiler is named")?;
    let mut command = Command::new(rustc);
    command.args(rest);
    let name = rest
        .iter()
        .skip_while(|argument| *argument != "--crate-name")
        .nth(1);
    if name.is_some_and(|name| INSTRUMENTED.iter().any(|counted| name == counted)) {
        command.args(FLAGS);
    } else if name.is_some_and(|name| name == ENGINE) {
        command.args(ENGINE_FLAGS);
    }
    Err(command.exec()).context("cannot start rustc")
}
