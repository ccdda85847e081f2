//! The daemon's own log: structured lines on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What is logged unless something else is asked for.
const DEFAULT: &str = "info";

/// Starts logging: by `level` if given, else by the environment variable `SENSOR_LOG`.
///
/// # Errors
/// What is wrong with the level or the variable.
pub fn start(level: Option<&str>) -> Result<(), ParseError> {
    let variable = std::env::var("SENSOR_LOG").ok();
    let directives = level.or(variable.as_deref()).unwrap_or(DEFAULT);
    let filter = EnvFilter::builder().parse(directives)?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .with_target(false)
        .init();
    Ok(())
}
