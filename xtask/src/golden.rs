//! `cargo xtask golden`: recorded streams of tests/golden against the events that a replay makes of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

use crate::command::run_shown;
use crate::matrix::{Matrix, Selection};
use crate::place::Place;
use crate::test::summary;
use crate::vm::Plan;
use crate::{native, vm};

/// Suite that makes the streams.
const SUITE: &str = "record";
/// Set for tests/tests/golden.rs: take over what replays give as what is expected.
const UPDATE: &str = "UPDATE_GOLDEN";
/// All streams together; they are read by every clone.
const MAX_BYTES: u64 = 300 << 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Take over the events that replays give now as what is expected; look at the difference before committing it.
    #[arg(long)]
    update: bool,
    /// Record the streams again, in guests and on this machine's kernel (as root), and take over their events.
    #[arg(long)]
    record: bool,
    /// With --record: only these kernels of tests/vm/kernels.toml; `this` is this machine's.
    #[arg(long, value_delimiter = ',', requires = "record")]
    kernels: Vec<String>,
}

/// The task; false if a recording suite failed.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<bool> {
    if args.record && !record(place, &args.kernels)? {
        return Ok(false);
    }
    let mut command = Command::new("cargo");
    command
        .args([
            "test",
            "--quiet",
            "--package",
            "sensor-tests",
            "--test",
            "golden",
        ])
        .current_dir(&place.root);
    if args.update || args.record {
        command.env(UPDATE, "1");
    }
    run_shown(&mut command)?;
    Ok(true)
}

fn folder(place: &Place) -> PathBuf {
    place.root.join("tests/golden")
}

/// Runs the suite that records and takes the streams out of its logs.
fn record(place: &Place, kernels: &[String]) -> anyhow::Result<bool> {
    let started = Instant::now();
    let here = kernels.is_empty() || kernels.iter().any(|name| name == "this");
    let selection = Selection {
        kernels: kernels
            .iter()
            .filter(|name| *name != "this")
            .cloned()
            .collect(),
        suites: vec![SUITE.to_owned()],
        ..Selection::default()
    };
    let mut rows = Vec::new();
    let guests = kernels.is_empty() || !selection.kernels.is_empty();
    if guests {
        rows.extend(vm::guests(place, &Plan::of(selection.clone()))?);
    }
    if here {
        rows.extend(native::suites(
            place,
            &selection,
            &native::Asked::default(),
        )?);
    }
    if summary(&rows, started) > 0 {
        return Ok(false);
    }
    if guests {
        for cell in Matrix::read(place)?.cells(&selection)? {
            let log = vm::results_log(place, &cell);
            keep(place, &cell.kernel.version, &log)?;
        }
    }
    if here {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let version: Vec<&str> = release.split('.').take(2).collect();
        for log in native::logs_of(place, SUITE)? {
            keep(place, &version.join("."), &log)?;
        }
    }
    let mut total = 0;
    for entry in fs::read_dir(folder(place))? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|end| end == "zst") {
            total += entry.metadata()?.len();
        }
    }
    println!("{total} bytes of streams in {}", folder(place).display());
    ensure!(total <= MAX_BYTES, "more than {MAX_BYTES} bytes of streams");
    Ok(true)
}

/// Writes the recordings in a suite's log as files.
fn keep(place: &Place, version: &str, log: &Path) -> anyhow::Result<()> {
    let text = fs::read(log).with_context(|| log.display().to_string())?;
    let streams = recordings(&String::from_utf8_lossy(&text))?;
    ensure!(!streams.is_empty(), "no recording in {}", log.display());
    for (backend, bytes) in streams {
        fs::write(
            folder(place).join(format!("{version}-{backend}.rec.zst")),
            bytes,
        )?;
    }
    Ok(())
}

/// The recordings by name, in the order in which they came; `recording NAME HEX` somewhere in a line is a piece of one.
fn recordings(log: &str) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for line in log.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [.., "recording", name, digits] = words[..] else {
            continue;
        };
        let bytes = unhex(digits).with_context(|| format!("a piece of recording {name}"))?;
        match found.last_mut() {
            Some((last, whole)) if last == name => whole.extend(bytes),
            _ => found.push((name.to_owned(), bytes)),
        }
    }
    Ok(found)
}

fn unhex(digits: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(digits.len().is_multiple_of(2), "half a byte");
    let digit = |byte: u8| match char::from(byte).to_digit(16) {
        Some(value) => Ok(u8::try_from(value)?),
        None => bail!("{:?} is no digit", char::from(byte)),
    };
    digits
        .as_bytes()
        .chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => Ok(digit(*high)? << 4 | digit(*low)?),
            _ => bail!("half a byte"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recordings_are_put_together_from_their_lines() {
        let log = "out 1 running\nout 2 recording fentry 00ff\nout 3 recording fentry 10\nrecording kprobe 7f\n";
        let found = recordings(log).unwrap();
        assert_eq!(
            found,
            [
                ("fentry".to_owned(), vec![0, 255, 16]),
                ("kprobe".to_owned(), vec![127])
            ]
        );
    }

    #[test]
    fn a_damaged_line_is_an_error() {
        recordings("recording fentry 0").unwrap_err();
        recordings("recording fentry 0g").unwrap_err();
    }
}
