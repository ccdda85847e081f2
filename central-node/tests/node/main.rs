//! The node as agents meet it: over the loopback, with real certificates.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::tests_outside_test_module,
    reason = "all of it is tests"
)]

mod agent;
mod delivery;
mod keeping;
mod program;
