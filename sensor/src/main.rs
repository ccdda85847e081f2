//! Entry point: arguments, configuration, command, exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use sensor::args::{self, Args, Command};
use sensor::command::{self, Streams};
use sensor::config::Sources;
use sensor::exit::ExitStatus;
use sensor::sink::view::Console;

fn main() -> ExitCode {
    sensor::kernel::sys::set_up_heap();
    if let Some(status) = sensor::selftest::child(std::env::args_os()) {
        return status;
    }
    let args = match args::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => {
            // What cannot be printed is left to the exit code.
            drop(error.print());
            return ExitCode::from(
                u8::try_from(error.exit_code()).unwrap_or(ExitStatus::Usage.code()),
            );
        }
    };
    if let Err(error) = command::log::start(args.log_level.as_deref()) {
        drop(writeln!(io::stderr(), "sensor: {error}"));
        return ExitStatus::Usage.into();
    }
    dispatch(&args).into()
}

fn dispatch(args: &Args) -> ExitStatus {
    let overrides = args
        .overrides()
        .with_environment(|name| std::env::var_os(name));
    let sources = Sources::new(args.config.clone(), overrides);
    // Above the bottom line of the live view, while there is one.
    let (mut out, mut err) = (io::stdout(), Console);
    let mut streams = Streams {
        out: &mut out,
        err: &mut err,
    };
    match &args.command {
        None => command::run::run(&args.run.capture, &sources, &mut streams),
        Some(Command::Run(run)) => command::run::run(&run.capture, &sources, &mut streams),
        Some(Command::Record(record)) => command::record::run(record, &sources, &mut streams),
        Some(Command::Replay(replay)) => command::replay::run(replay, &sources, &mut streams),
        Some(Command::Decode(decode)) => {
            command::decode::run(decode, &mut io::stdin().lock(), &mut streams)
        }
        Some(Command::Doctor { json }) => command::doctor::run(*json, &sources, &mut streams),
        Some(Command::Status { json, scope_cgroup }) => {
            command::status::run(*json, scope_cgroup.as_deref(), &mut streams)
        }
        Some(Command::Reload { scope_cgroup }) => {
            command::reload::run(scope_cgroup.as_deref(), &mut streams)
        }
        Some(Command::DataProvision { json }) => {
            command::data_provision::run(*json, &sources, &mut streams)
        }
        Some(Command::Config(config)) => command::config::run(config, &sources, &mut streams),
        Some(Command::Filter(filter)) => {
            command::filter::run(filter, &sources, &mut io::stdin().lock(), &mut streams)
        }
        Some(Command::Install(args)) => command::install::install(args, &mut streams),
        Some(Command::Uninstall(args)) => command::install::uninstall(args, &mut streams),
    }
}
