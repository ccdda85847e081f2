//! The only task runner: `cargo xtask <task>`. Everything it installs goes below the target directory.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "a task runner talks to the person who started it"
)]

mod apt;
mod archive;
mod bench;
mod build_ebpf;
mod chaos;
mod command;
mod container_tools;
mod containers;
mod dist;
mod docs;
mod fuzz;
mod golden;
mod harness;
mod image;
mod lint;
mod matrix;
mod native;
mod place;
mod receivers;
mod remap;
mod rust_src;
mod sbom;
mod soak;
mod static_programs;
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
    /// Run suites on this machine's own kernel.
    Native(native::Args),
    /// Fetch the receivers that suites deliver to, and print the variables that name them.
    Receivers,
    /// Run every test: lints, unit tests, documents, the eBPF object, this machine, guests.
    Test(test::Args),
    /// Kill sensor and central node at random under load, and compare what arrived with what was done.
    Chaos(chaos::Args),
    /// Run the sensor in a guest under mixed load for a long time: memory, descriptors and BPF objects must stay flat.
    Soak(soak::Args),
    /// Measure: what delivery costs, in events, bytes, processor time and memory.
    Bench(bench::Args),
    /// Fuzz what reads bytes from elsewhere, guided by coverage.
    Fuzz(fuzz::Args),
    /// Replay the recorded streams of tests/golden, or record them again.
    Golden(golden::Args),
    /// Make container images of the sensor and the central node, without a container engine.
    Image(image::Args),
    /// Check formatting and run clippy, the eBPF crate included.
    Lint,
    /// Write the generated pages of docs/ and packaging/.
    Docs(docs::Args),
    /// Make what is released, below target/dist: Debian package, tarball, bills of materials, sums.
    Dist,
}

fn main() -> ExitCode {
    // Cargo calls us as its compiler while the eBPF object or the fuzzer is built.
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next().unwrap_or_default();
    let result = if first == build_ebpf::SHIM {
        build_ebpf::rustc_shim(arguments.collect()).map(|()| true)
    } else if first == fuzz::SHIM {
        fuzz::rustc_shim(arguments.collect()).map(|()| true)
    } else {
        run(Args::parse())
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        // The task has said what failed; its summary is the last line.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a task; false if its tests failed.
fn run(args: Args) -> anyhow::Result<bool> {
    let place = Place::find()?;
    match args.task {
        Task::BuildEbpf(args) => build_ebpf::run(&place, &args).map(|()| true),
        Task::Vm(args) => vm::run(&place, &args),
        Task::Native(args) => native::run(&place, &args),
        Task::Receivers => receivers::run(&place).map(|()| true),
        Task::Test(args) => test::run(&place, &args),
        Task::Bench(args) => bench::run(&place, &args),
        Task::Chaos(args) => chaos::run(&place, &args),
        Task::Soak(args) => soak::run(&place, &args),
        Task::Fuzz(args) => fuzz::run(&place, &args),
        Task::Golden(args) => golden::run(&place, &args),
        Task::Image(args) => image::run(&place, &args).map(|()| true),
        Task::Lint => lint::run(&place).map(|()| true),
        Task::Docs(args) => docs::run(&place, &args).map(|()| true),
        Task::Dist => dist::run(&place).map(|()| true),
    }
}
