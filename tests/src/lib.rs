//! What the end-to-end tests of the sensor are made of: starting it, doing things that it must report, and comparing what it
//! reports with what the kernel says elsewhere.
//!
//! The suites are in `e2e/`; one program holds them all, so that the same file runs on this host and as the only program of a guest.
//! Nothing here takes anything from the sensor's own sources but the public schema: the tests see what its users see.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends by panicking, at the line where it went wrong"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "results of tests are printed; triggers are programs of their own"
)]

pub mod coverage;
pub mod harness;
pub mod oracle;
pub mod place;
pub mod program;
pub mod runner;
pub mod trigger;
pub mod views;

use std::time::{Duration, Instant};

/// Waits until `look` gives something; panics with `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {limit:?} in vain for {what}"
        );
        // Looking again needs no more than this; the condition itself ends the wait.
        std::thread::sleep(Duration::from_millis(2));
    }
}
