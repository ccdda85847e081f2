//! `sensor-fuzz`: one target until its time is over. `cargo xtask fuzz` builds it with counters and starts it.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what came of it is told there"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use nix::sys::resource::{Resource, setrlimit};
use sensor_fuzz::engine::{self, Settings};
use sensor_fuzz::targets::{TARGETS, by_name};

/// Address space of the process: what a length in an input can make somebody allocate ends here.
const MEMORY_BYTES: u64 = 4 << 30;

#[derive(Debug, Parser)]
#[command(about = "Fuzzes one target of the sensor")]
struct Args {
    /// Which; without one, all names are printed.
    target: Option<String>,
    /// How long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where the generator of random numbers begins.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder of the target's inputs.
    #[arg(long, default_value = "fuzz")]
    folder: PathBuf,
    /// Run this input once instead.
    #[arg(long)]
    input: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let Some(name) = &args.target else {
        for target in TARGETS {
            println!("{}", target.name);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let target = by_name(name).with_context(|| format!("no target {name:?}"))?;
    setrlimit(Resource::RLIMIT_AS, MEMORY_BYTES, MEMORY_BYTES)?;
    if let Some(file) = &args.input {
        engine::replay(target, file)?;
        println!("{name}: nothing wrong with {}", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let settings = Settings {
        time: Duration::from_secs(args.seconds),
        seed: args.seed,
        folder: args.folder,
    };
    let report = engine::fuzz(target, &settings)?;
    let (taken, all) = report.edges;
    println!(
        "{name}: {} inputs run, {} kept, {taken} of {all} edges",
        report.runs, report.corpus
    );
    let Some((file, said)) = report.found else {
        return Ok(ExitCode::SUCCESS);
    };
    eprintln!("{name}: {said}\ninput: {}", file.display());
    Ok(ExitCode::FAILURE)
}
