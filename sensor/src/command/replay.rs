//! `sensor replay FILE`.

use crate::args::ReplayArgs;
use crate::command::Streams;
use crate::command::run::{finish, load};
use crate::config::Sources;
use crate::exit::ExitStatus;
use crate::run;

/// Sends recorded kernel records through the pipeline again.
pub fn run(args: &ReplayArgs, sources: &Sources, streams: &mut Streams<'_>) -> ExitStatus {
    let (loaded, filter) = match load(sources) {
        Ok(both) => both,
        Err(fault) => return streams.refuse(&fault),
    };
    if args.deliver && loaded.config.sinks.is_empty() {
        return streams.refuse(&"--deliver: the configuration has no sinks");
    }
    let ended = run::replay(&loaded.config, filter, &args.file, args.deliver);
    finish(ended, args.stats, streams)
}
