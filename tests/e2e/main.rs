//! The end-to-end tests: something is done, the sensor must tell it, and what it tells must be what the kernel says elsewhere.
//!
//! `cargo test` runs them on this host as root, in a cgroup of their own to which the sensor is confined. `cargo xtask vm` runs the same
//! program in guests with every backend.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends by panicking, at the line where it went wrong"
)]
#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::exit,
    reason = "why no test can run and what was measured is told there; what confines itself is a program of its own"
)]

use std::process::ExitCode;

use sensor_tests::harness;
use sensor_tests::place::Place;
use sensor_tests::runner::{self, Test};
use sensor_tests::trigger;

mod bench;
mod clock;
mod common;
mod conditions;
mod confine;
mod connect;
mod delivery;
mod exec;
mod exit;
mod fault;
mod file_create;
mod flood;
mod formats;
mod host;
mod kafka;
mod local;
mod metrics;
mod module_load;
mod names;
mod network;
mod otlp;
mod receivers_nats;
mod reset;
mod scope;
mod soak;
mod view;

fn main() -> ExitCode {
    trigger::dispatch();
    confine::dispatch();
    let place = match Place::enter() {
        Ok(place) => place,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(101);
        }
    };
    let measures = std::env::var_os(bench::SECONDS).is_some();
    let tests: Vec<Test> = [
        host::TESTS,
        exec::TESTS,
        exit::TESTS,
        file_create::TESTS,
        connect::TESTS,
        module_load::TESTS,
        scope::TESTS,
        formats::TESTS,
        delivery::TESTS,
        names::TESTS,
        receivers_nats::TESTS,
        kafka::TESTS,
        network::TESTS,
        clock::TESTS,
        reset::TESTS,
        conditions::TESTS,
        otlp::TESTS,
        metrics::TESTS,
        local::TESTS,
        confine::TESTS,
        view::TESTS,
        fault::TESTS,
        flood::TESTS,
    ]
    .concat();
    let tests = if std::env::var_os(soak::SECONDS).is_some() {
        soak::TESTS.to_vec()
    } else if measures {
        bench::TESTS.to_vec()
    } else {
        tests
    };
    let words: Vec<String> = std::env::args().skip(1).collect();
    let last = Test::new(
        "ledger::of_the_shared_sensor_is_closed",
        harness::end_shared,
    );
    let code = runner::run(&tests, &words, place, last, harness::skipped_by_the_kernel);
    place.leave();
    ExitCode::from(code)
}
