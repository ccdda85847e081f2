//! The only task runner: `cargo xtask <task>`. Everything it installs goes below the target directory.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a task runner talks to the person who started it"
)]

mod apt;
mod build_ebpf;
mod command;
mod place;
mod rust_src;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::place::Place;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "Builds and tests of the sensor",
    version
)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the eBPF object reproducibly into sensor/bpf/.
    BuildEbpf(build_ebpf::Args),
    /// Boot kernels of the matrix in QEMU and run tests there.
    Vm(vm::Args),
    /// Run every test.
    Test,
}

fn main() -> ExitCode {
    // Cargo calls us as its compiler while the eBPF object is built.
    let mut arguments = std::env::args_os().skip(1);
    let result = if arguments
        .next()
        .is_some_and(|first| first == build_ebpf::SHIM)
    {
        build_ebpf::rustc_shim(arguments.collect())
    } else {
        run(Args::parse())
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::find()?;
    match args.task {
        Task::BuildEbpf(args) => build_ebpf::run(&place, &args),
        Task::Vm(args) => vm::run(&place, &args),
        Task::Test => test::run(&place),
    }
}
