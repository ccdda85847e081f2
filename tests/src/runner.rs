//! Runs the tests of a program one after another and tells the results as Rust's own test harness does.
//!
//! One at a time, since only one sensor may run on a machine and most tests share it.

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use crate::place::Place;

/// One test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Its name: suite and what must hold, `exec::scripts`.
    pub name: &'static str,
    /// Panics if it does not hold.
    pub run: fn(),
    /// Where it can run.
    pub place: Where,
}

/// Where a test can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// On every host, scoped, and in guests.
    Anywhere,
    /// It changes the machine, or needs one without a scope.
    Guest,
    /// It needs what guests do not have (the reason).
    Host(&'static str),
}

impl Test {
    /// A test that runs everywhere.
    pub const fn new(name: &'static str, run: fn()) -> Self {
        Self {
            name,
            run,
            place: Where::Anywhere,
        }
    }

    /// A test for guests.
    pub const fn in_guest(name: &'static str, run: fn()) -> Self {
        Self {
            name,
            run,
            place: Where::Guest,
        }
    }

    /// A test for hosts, and what guests lack for it.
    pub const fn on_host(name: &'static str, run: fn(), reason: &'static str) -> Self {
        Self {
            name,
            run,
            place: Where::Host(reason),
        }
    }
}

/// What was asked for on the command line, as far as Rust's own harness would understand it.
#[derive(Debug, Default)]
struct Asked {
    filters: Vec<String>,
    skipped: Vec<String>,
    exact: bool,
    list: bool,
}

fn asked(words: &[String]) -> Result<Asked, String> {
    let mut asked = Asked::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--exact" => asked.exact = true,
            "--list" => asked.list = true,
            "--nocapture" | "--no-capture" | "-q" | "--quiet" | "--show-output" => {}
            // Tests run one at a time whatever is asked for.
            "--test-threads" | "--format" | "--color" => {
                words.next();
            }
            "--skip" => asked.skipped.extend(words.next().cloned()),
            other if other.starts_with("--test-threads=") || other.starts_with("--color=") => {}
            other if other.starts_with('-') => return Err(format!("unknown option {other}")),
            other => asked.filters.push(other.to_owned()),
        }
    }
    Ok(asked)
}

impl Asked {
    fn wants(&self, name: &str) -> bool {
        let hit = |filter: &String| {
            if self.exact {
                name == filter
            } else {
                name.contains(filter.as_str())
            }
        };
        (self.filters.is_empty() || self.filters.iter().any(hit)) && !self.skipped.iter().any(hit)
    }
}

/// How often a test may run whose events the kernel kept from the sensor, by the sensor's own account.
const ATTEMPTS: u32 = 3;

/// Runs a test; gives what to say of it. In a guest, a test that failed runs again if the kernel skipped programs below its
/// sensor, which happens on kernels that preempt (decision 0015) and is counted: the events are unseen, and the test can say
/// nothing of them. It has failed if it does not pass in the end.
fn attempt(test: &Test, guest: bool, skipped: fn() -> u64) -> Result<String, String> {
    let mut told = String::new();
    for _ in 0..ATTEMPTS {
        if std::panic::catch_unwind(AssertUnwindSafe(test.run)).is_ok() {
            return Ok(format!("ok{told}"));
        }
        let count = if guest { skipped() } else { 0 };
        if count == 0 {
            break;
        }
        told = format!(" (again: the kernel had skipped at most {count} programs)");
        eprintln!("{}: run{told}", test.name);
    }
    Err(format!("FAILED{told}"))
}

/// Runs what `words` ask for, then `last`, which closes what the tests shared; gives the exit code (101: a test failed).
///
/// `skipped` ends the sensors of a test that failed and gives how many of their programs the kernel had skipped.
pub fn run(
    tests: &[Test],
    words: &[String],
    place: &Place,
    last: Test,
    skipped: fn() -> u64,
) -> u8 {
    let asked = match asked(words) {
        Ok(asked) => asked,
        Err(problem) => {
            eprintln!("{problem}");
            return 2;
        }
    };
    let mut chosen: Vec<&Test> = tests.iter().filter(|test| asked.wants(test.name)).collect();
    if asked.list {
        for test in &chosen {
            println!("{}: test", test.name);
        }
        return 0;
    }
    if !chosen.is_empty() {
        chosen.push(&last);
    }
    println!("\nrunning {} tests", chosen.len());
    let (mut passed, mut ignored, mut failed) = (0, 0, Vec::new());
    let begun = Instant::now();
    for test in chosen {
        let unfit = match test.place {
            Where::Guest if !place.guest => Some("guests only"),
            Where::Host(reason) if place.guest => Some(reason),
            Where::Anywhere | Where::Guest | Where::Host(_) => None,
        };
        let verdict = if let Some(reason) = unfit {
            ignored += 1;
            format!("ignored, {reason}")
        } else {
            match attempt(test, place.guest, skipped) {
                Ok(said) => {
                    passed += 1;
                    said
                }
                Err(said) => {
                    failed.push(test.name);
                    said
                }
            }
        };
        println!("test {} ... {verdict}", test.name);
        std::io::stdout().flush().expect("standard output");
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    for name in &failed {
        println!("    {name}");
    }
    println!(
        "\ntest result: {result}. {passed} passed; {} failed; {ignored} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        failed.len(),
        tests.iter().filter(|test| !asked.wants(test.name)).count(),
        begun.elapsed().as_secs_f64()
    );
    if failed.is_empty() { 0 } else { 101 }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_test_runs_again_only_where_the_kernel_skipped_programs() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let second = Test::new("passes the second time", || {
            assert!(RUNS.fetch_add(1, Ordering::Relaxed) > 0, "the first time");
        });
        let said = attempt(&second, true, || 3);
        assert_eq!(
            said,
            Ok("ok (again: the kernel had skipped at most 3 programs)".to_owned())
        );
        for (guest, skipped) in [(true, (|| 0) as fn() -> u64), (false, || 3)] {
            RUNS.store(0, Ordering::Relaxed);
            assert_eq!(attempt(&second, guest, skipped), Err("FAILED".to_owned()));
            assert_eq!(RUNS.load(Ordering::Relaxed), 1, "it ran once");
        }
    }

    #[test]
    fn a_test_that_never_passes_has_failed() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let never = Test::new("never passes", || {
            RUNS.fetch_add(1, Ordering::Relaxed);
            panic!("as always");
        });
        attempt(&never, true, || 1).unwrap_err();
        assert_eq!(RUNS.load(Ordering::Relaxed), ATTEMPTS);
    }
}
