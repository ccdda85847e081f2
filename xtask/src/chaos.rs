//! `cargo xtask chaos`: sensor and central node are killed at random under load, and what the node has is compared with what
//! was done. The test itself is `delivery::chaos` of tests/e2e; the test command runs 10 rounds of it.

use std::fs;
use std::time::Instant;

use crate::matrix::Selection;
use crate::native::{self, Asked};
use crate::place::Place;
use crate::test::summary;

const SUITE: &str = "e2e";
/// A round starts both programs again; on a busy machine that takes a while.
const SECONDS_PER_ROUND: u64 = 15;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many rounds.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
}

/// The task: false if an event is missing without an explanation, is there twice, or out of order.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<bool> {
    let selection = Selection {
        suites: vec![SUITE.to_owned()],
        ..Selection::default()
    };
    let asked = Asked {
        arguments: vec!["delivery::chaos".to_owned()],
        variables: vec![("SENSOR_CHAOS_ROUNDS", args.rounds.to_string())],
        more_seconds: args.rounds.saturating_mul(SECONDS_PER_ROUND),
    };
    let started = Instant::now();
    let rows = native::suites(place, &selection, &asked)?;
    for log in native::logs_of(place, SUITE)? {
        let text = fs::read_to_string(&log)?;
        text.lines()
            .filter(|line| line.contains(" rounds, the sensor killed "))
            .for_each(|line| println!("{line}"));
    }
    Ok(summary(&rows, started) == 0)
}
