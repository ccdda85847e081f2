//! `cargo xtask bench`: what delivery costs on this machine. The measuring itself is `bench::delivery` of tests/e2e.

use std::fs;
use std::time::Instant;

use crate::matrix::Selection;
use crate::native::{self, Asked};
use crate::place::Place;
use crate::test::summary;

const SUITE: &str = "e2e";
/// What begins the lines beside the table.
const SAID: &str = "bench: ";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What is measured.
    #[arg(value_enum)]
    what: What,
    /// Seconds of load.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// Sensor, spool and central node on this machine, with real events.
    Delivery,
}

/// The task: prints the table of docs/delivery.md; false if an event was lost.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<bool> {
    let What::Delivery = args.what;
    let selection = Selection {
        suites: vec![SUITE.to_owned()],
        ..Selection::default()
    };
    let asked = Asked {
        arguments: vec!["bench::delivery".to_owned()],
        variables: vec![("SENSOR_BENCH_SECONDS", args.seconds.to_string())],
        // After each load what waits is delivered, however long that takes this machine.
        more_seconds: args.seconds.saturating_mul(4) + 300,
    };
    let started = Instant::now();
    let rows = native::suites(place, &selection, &asked)?;
    for log in native::logs_of(place, SUITE)? {
        let text = fs::read_to_string(&log)?;
        text.lines()
            .filter(|line| line.starts_with('|') || line.starts_with(SAID))
            .for_each(|line| println!("{}", line.strip_prefix(SAID).unwrap_or(line)));
    }
    Ok(summary(&rows, started) == 0)
}
