//! `cargo xtask soak`: the sensor under mixed load in a guest for a long time. The test itself is `soak::mixed_load` of tests/e2e.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use crate::matrix::{Matrix, Selection};
use crate::place::Place;
use crate::test::summary;
use crate::vm::{self, Plan};

const SUITE: &str = "soak";
/// What begins the line that has the figures.
const TOLD: &str = "told ";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long: 90s, 30m, 2h.
    #[arg(long = "for", default_value = "30m", value_parser = seconds)]
    seconds: u64,
    /// Kernels by version, as in tests/vm/kernels.toml.
    #[arg(long, value_delimiter = ',', default_value = "6.1")]
    kernels: Vec<String>,
}

fn seconds(text: &str) -> anyhow::Result<u64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number = text.strip_suffix(unit).unwrap_or(text);
    let number: u64 = number
        .parse()
        .with_context(|| format!("{text}: no number"))?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => anyhow::bail!("{text}: a number with s, m or h"),
    };
    let seconds = number.saturating_mul(factor);
    ensure!(
        (60..=7 * 24 * 3600).contains(&seconds),
        "{text}: from 60s to 168h"
    );
    Ok(seconds)
}

/// The task: false if memory, descriptors or BPF objects grow, or the account does not close.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<bool> {
    let selection = Selection {
        kernels: args.kernels.clone(),
        suites: vec![SUITE.to_owned()],
        ..Selection::default()
    };
    let cells = Matrix::read(place)?.cells(&selection)?;
    let started = Instant::now();
    let variable = format!("SENSOR_SOAK_SECONDS={}", args.seconds);
    let rows = vm::guests(place, &Plan::long(selection, variable, args.seconds))?;
    for cell in &cells {
        let text = fs::read_to_string(vm::results_log(place, cell))?;
        for (_, told) in text.lines().filter_map(|line| line.split_once(TOLD)) {
            println!("{}: {told}", cell.kernel.version);
        }
    }
    Ok(summary(&rows, started) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(seconds("90s").unwrap(), 90);
        assert_eq!(seconds("30m").unwrap(), 1800);
        assert_eq!(seconds("2h").unwrap(), 7200);
        for wrong in ["30", "m", "1d", "59s", "-1m", "99999999999999999999h"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
