//! Suites on this machine's own kernel, as root; each keeps the sensor scoped to a cgroup that it makes itself.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::command::tail;
use crate::harness::{Tally, print_failures};
use crate::matrix::{Backend, Matrix, Selection, Suite};
use crate::place::Place;
use crate::receivers::Receivers;
use crate::static_programs::StaticPrograms;
use crate::test::{Row, summary};
use crate::vm::packages::Programs;

const SHOWN_LINES: usize = 30;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Suites by name, as in tests/vm/kernels.toml; all that run natively without it.
    #[arg(long, value_delimiter = ',')]
    suite: Vec<String>,
    /// Only these backends.
    #[arg(long, value_enum, value_delimiter = ',')]
    backend: Vec<Backend>,
    /// Arguments for the test harness, such as the name of a test.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// The task: prints rows, fails if any test failed.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<bool> {
    let selection = Selection {
        suites: args.suite.clone(),
        backends: args.backend.clone(),
        ..Selection::default()
    };
    let started = Instant::now();
    let asked = Asked {
        arguments: args.arguments.clone(),
        ..Asked::default()
    };
    let rows = suites(place, &selection, &asked)?;
    ensure!(
        !rows.is_empty(),
        "no suite of tests/vm/kernels.toml runs natively"
    );
    Ok(summary(&rows, started) == 0)
}

/// What the test programs are given beyond what the matrix says.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Arguments, such as the name of a test.
    pub(crate) arguments: Vec<String>,
    /// Variables of the environment.
    pub(crate) variables: Vec<(&'static str, String)>,
    /// Time beyond the suite's.
    pub(crate) more_seconds: u64,
}

/// Runs the native suites of a selection one after the other.
pub(crate) fn suites(
    place: &Place,
    selection: &Selection,
    asked: &Asked,
) -> anyhow::Result<Vec<Row>> {
    let cells = Matrix::read(place)?.native(selection)?;
    if cells.is_empty() {
        return Ok(Vec::new());
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let root = status.lines().any(|line| line.starts_with("Uid:\t0\t0\t"));
    ensure!(
        root,
        "suites on this machine load eBPF programs: run as root"
    );
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?
        .trim()
        .to_owned();
    let programs = StaticPrograms::build(
        place,
        &cells.iter().map(|(suite, _)| suite.test.as_str()).collect(),
    )?;
    let strace = place.target.join("vm/programs/strace");
    Programs::find(place)?.strace(&strace)?;
    let logs = logs(place);
    fs::create_dir_all(&logs)?;
    let mut rows = Vec::new();
    for (suite, backend) in cells {
        let mut command = Command::new(programs.test(&suite.test)?);
        command
            .arg("--test-threads=1")
            .args(&suite.arguments)
            .args(&asked.arguments)
            .current_dir(&place.root)
            .env("SENSOR_BIN", &programs.sensor)
            .env("SENSOR_NODE_BIN", &programs.node)
            .envs(asked.variables.iter().cloned())
            .env("SENSOR_STRACE", &strace)
            .env("SENSOR_BACKEND", backend.name())
            .env_remove("SENSOR_GUEST");
        let log = logs.join(log_name(&suite.name, backend));
        let started = Instant::now();
        if suite.receivers {
            match Receivers::find(place) {
                Ok(receivers) => {
                    command.envs(receivers.variables());
                }
                // What the other suites found is not lost for a registry that is not reached.
                Err(error) => {
                    let mut tally = Tally::default();
                    tally.fail(format!("{error:#}"));
                    rows.push(row(&release, &suite, backend, &tally, started));
                    println!("  {error:#}");
                    continue;
                }
            }
        }
        let tally = watch(
            &mut command,
            Duration::from_secs(suite.timeout_seconds + asked.more_seconds),
            &log,
        )?;
        rows.push(row(&release, &suite, backend, &tally, started));
        if tally.failed > 0 {
            tally
                .problems
                .iter()
                .for_each(|problem| println!("  {problem}"));
            let text = fs::read_to_string(&log)?;
            print_failures(&text.lines().collect::<Vec<_>>());
            println!("--- the end of {}", log.display());
            print!("{}", tail(&text, SHOWN_LINES));
        }
    }
    Ok(rows)
}

/// A row of the table, printed.
fn row(release: &str, suite: &Suite, backend: Backend, tally: &Tally, started: Instant) -> Row {
    let kernel = format!("{release} (this one)");
    let seconds = started.elapsed().as_secs();
    let row = Row::new(&kernel, &suite.name, backend.name(), tally, seconds);
    row.print();
    row
}

fn logs(place: &Place) -> PathBuf {
    place.target.join("native-logs")
}

fn log_name(suite: &str, backend: Backend) -> String {
    format!("{suite}-{}.log", backend.name())
}

/// What the test programs of a suite said, when it ran last.
pub(crate) fn logs_of(place: &Place, suite: &str) -> anyhow::Result<Vec<PathBuf>> {
    let selection = Selection {
        suites: vec![suite.to_owned()],
        ..Selection::default()
    };
    let cells = Matrix::read(place)?.native(&selection)?;
    let log =
        |(suite, backend): &(Suite, Backend)| logs(place).join(log_name(&suite.name, *backend));
    Ok(cells.iter().map(log).collect())
}

/// Runs a test program with its output in `log`, ends it when it takes too long.
fn watch(command: &mut Command, timeout: Duration, log: &Path) -> anyhow::Result<Tally> {
    // One pipe for both, so that what a test says stands before its verdict.
    let (pipe, write) = std::io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(write.try_clone()?)
        .stderr(write)
        .spawn()
        .context("cannot start the test program")?;
    // The command holds the pipe's other end until its next use; the end of the lines must not wait for that.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, lines) = mpsc::sync_channel(256);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n') {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut tally = Tally::default();
    let mut text = String::new();
    let deadline = Instant::now() + timeout;
    let mut before = Instant::now();
    let mut late = false;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let line = String::from_utf8_lossy(&line).into_owned();
                let elapsed = before.elapsed().as_millis();
                tally.line(&line, u64::try_from(elapsed).unwrap_or(u64::MAX));
                before = Instant::now();
                text.push_str(&line);
                text.push('\n');
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                late = true;
                child.kill()?;
                break;
            }
        }
    }
    let status = child.wait()?;
    fs::write(log, text)?;
    if late {
        tally.fail(format!(
            "the suite took longer than {} s and was ended",
            timeout.as_secs()
        ));
    } else {
        tally.ended(status.code());
    }
    Ok(tally)
}
