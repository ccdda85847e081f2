//! Entry point: arguments, command, exit code.
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::ExitCode;

use central_node::args::{self, Args, Command};
use central_node::command::{self, Streams};
use central_node::exit::ExitStatus;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
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
    if let Err(error) = log(args.log_level.as_deref()) {
        drop(writeln!(io::stderr(), "central-node: --log-level: {error}"));
        return ExitStatus::Usage.into();
    }
    dispatch(&args).into()
}

/// Logs go to standard error, so that standard output is what was asked for.
fn log(level: Option<&str>) -> Result<(), tracing_subscriber::filter::ParseError> {
    let asked = level
        .map(str::to_owned)
        .or_else(|| std::env::var("SENSOR_LOG").ok());
    let filter = EnvFilter::try_new(asked.unwrap_or_else(|| "info".to_owned()))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    Ok(())
}

fn dispatch(args: &Args) -> ExitStatus {
    let (mut out, mut err) = (io::BufWriter::new(io::stdout().lock()), io::stderr());
    let mut streams = Streams {
        out: &mut out,
        err: &mut err,
    };
    let status = match &args.command {
        Command::Serve(args) => command::serve::run(args, &mut streams),
        Command::Agents(args) => command::agents::run(args, &mut streams),
        Command::Query(args) => command::query::query(args, &mut streams),
        Command::Export(args) => command::query::export(args, &mut streams),
        Command::Settings(args) => command::settings::run(args, &mut streams),
        Command::Certificates(args) => command::certificates::run(args, &mut streams),
    };
    let flushed = out.flush();
    let mut streams = Streams {
        out: &mut io::sink(),
        err: &mut err,
    };
    let written = streams.written(flushed);
    if written == ExitStatus::Ok {
        status
    } else {
        written
    }
}
