//! Fuzzing of everything that reads bytes from elsewhere, guided by coverage.
//!
//! [`targets::TARGETS`] is the list of what is fuzzed; `cargo xtask fuzz` builds this program with the compiler's own
//! coverage counters (stable flags, [`coverage`]) and runs each target with [`engine`]. Without these counters, as in
//! `cargo test`, targets still run; the engine says that it sees nothing and refuses.
#![deny(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a target fails by panicking; that is what the engine looks for"
)]

pub mod coverage;
pub mod engine;
pub mod mutate;
pub mod targets;
