//! `cargo xtask test`: every test of the project, and a table of where the time went.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::command::{self, tail};
use crate::harness::{Tally, print_failures};
use crate::matrix::{Matrix, Selection};
use crate::place::Place;
use crate::vm::Plan;
use crate::{build_ebpf, containers, docs, fuzz, lint, native, vm};

/// The promise is 40 minutes on two cores from a cold clone; beyond this something is wrong.
const LIMIT: Duration = Duration::from_secs(55 * 60);
/// Time for each target of tests/fuzz; `cargo xtask fuzz` takes more.
const FUZZ_SECONDS: u64 = 5;
/// Lines of a failed step's output that are shown.
const SHOWN_LINES: usize = 80;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Every suite on every kernel, whatever its role; images and manifests.
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Only what needs neither root nor guests nor the eBPF toolchain: lints, unit tests, documents.
    #[arg(long)]
    quick: bool,
}

/// A row of the summary.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// The kernel release that really ran it; `-` where no kernel matters.
    kernel: String,
    suite: String,
    backend: String,
    passed: usize,
    pub(crate) failed: usize,
    ignored: usize,
    seconds: u64,
}

impl Row {
    pub(crate) fn new(
        kernel: &str,
        suite: &str,
        backend: &str,
        tally: &Tally,
        seconds: u64,
    ) -> Self {
        Self {
            kernel: kernel.to_owned(),
            suite: suite.to_owned(),
            backend: backend.to_owned(),
            passed: tally.passed,
            failed: tally.failed,
            ignored: tally.ignored,
            seconds,
        }
    }

    pub(crate) fn print(&self) {
        println!(
            "{:<32} {:<14} {:<13} {:>5} passed {:>3} failed {:>3} ignored {:>5} s",
            self.kernel,
            self.suite,
            self.backend,
            self.passed,
            self.failed,
            self.ignored,
            self.seconds
        );
    }
}

/// Prints the table and the one line that says it all; gives the number of failures.
pub(crate) fn summary(rows: &[Row], started: Instant) -> usize {
    println!("\n{:<32} {:<14} backend", "kernel", "suite");
    rows.iter().for_each(Row::print);
    let passed: usize = rows.iter().map(|row| row.passed).sum();
    let failed: usize = rows.iter().map(|row| row.failed).sum();
    println!("{} s in all", started.elapsed().as_secs());
    println!("{passed} passed, {failed} failed");
    failed
}

/// The task.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<bool> {
    let started = Instant::now();
    let rows = Arc::new(Mutex::new(Vec::new()));
    watch_the_clock(Arc::clone(&rows), started);
    let add = |new: Vec<Row>| {
        rows.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(new)
    };
    let step = |name: &str, what: &mut dyn FnMut() -> anyhow::Result<Vec<Row>>| {
        println!("== {name}");
        let began = Instant::now();
        match what() {
            Ok(found) if found.is_empty() => {
                let tally = Tally {
                    passed: 1,
                    ..Tally::default()
                };
                let row = Row::new("-", name, "-", &tally, began.elapsed().as_secs());
                row.print();
                add(vec![row]);
            }
            Ok(found) => add(found),
            Err(error) => {
                println!("FAILED: {error:#}");
                let tally = Tally {
                    failed: 1,
                    ..Tally::default()
                };
                add(vec![Row::new(
                    "-",
                    name,
                    "-",
                    &tally,
                    began.elapsed().as_secs(),
                )]);
            }
        }
    };
    let none = |result: anyhow::Result<()>| result.map(|()| Vec::new());

    step("format", &mut || none(lint::format(place)));
    step("clippy", &mut || none(lint::workspace(place)));
    step("unit", &mut || unit(place));
    step("docs", &mut || none(docs::check(place)));
    if !args.quick {
        step("fuzz", &mut || fuzz::targets(place, FUZZ_SECONDS, 0, &[]));
    }
    if args.quick {
        println!("quick: the eBPF object, suites on this machine and guests did not run");
    } else {
        step("clippy-ebpf", &mut || none(build_ebpf::clippy(place)));
        step("ebpf-object", &mut || none(build_ebpf::check(place)));
        let selection = Selection {
            full: args.full,
            ..Selection::default()
        };
        let matrix = Matrix::read(place)?;
        if !matrix.native(&selection)?.is_empty() {
            step("native", &mut || {
                native::suites(place, &selection, &native::Asked::default())
            });
        }
        step("guests", &mut || {
            vm::guests(place, &Plan::by_role(args.full))
        });
        step("containers", &mut || none(containers::check(place)));
    }
    let rows = rows.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(summary(&rows, started) == 0)
}

/// Fails the whole run when it takes too long, and still says what was done.
fn watch_the_clock(rows: Arc<Mutex<Vec<Row>>>, started: Instant) {
    std::thread::spawn(move || {
        std::thread::sleep(LIMIT);
        let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = Tally {
            failed: 1,
            ..Tally::default()
        };
        rows.push(Row::new("-", "time limit", "-", &tally, LIMIT.as_secs()));
        command::end_descendants();
        println!("\nFAILED: not done within {} minutes", LIMIT.as_secs() / 60);
        summary(&rows, started);
        std::process::exit(1);
    });
}

/// `cargo test --workspace`: a row for each test program.
fn unit(place: &Place) -> anyhow::Result<Vec<Row>> {
    let log = place.target.join("unit.log");
    let began = Instant::now();
    let output = Command::new("cargo")
        .args(["test", "--locked", "--workspace", "--no-fail-fast"])
        .current_dir(&place.root)
        .env("CARGO_TERM_COLOR", "never")
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    fs::write(&log, format!("{errors}{said}"))?;
    let mut tally = Tally::default();
    said.lines().for_each(|line| tally.line(line, 0));
    tally.ended(output.status.code());
    let row = Row::new("-", "unit", "-", &tally, began.elapsed().as_secs());
    row.print();
    if tally.failed > 0 {
        let names: BTreeSet<_> = tally.problems.iter().collect();
        names.iter().for_each(|problem| println!("  {problem}"));
        print_failures(&said.lines().collect::<Vec<_>>());
        println!("--- the end of {}", log.display());
        print!("{}{}", tail(&said, SHOWN_LINES), tail(&errors, SHOWN_LINES));
    }
    Ok(vec![row])
}
