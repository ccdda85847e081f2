//! `sensor record FILE`.

use crate::args::RecordArgs;
use crate::command::Streams;
use crate::command::run::{finish, load, log_object};
use crate::config::Sources;
use crate::exit::ExitStatus;
use crate::run::{self, Request};

/// Writes the kernel's records to a file.
pub fn run(args: &RecordArgs, sources: &Sources, streams: &mut Streams<'_>) -> ExitStatus {
    let (loaded, _filter) = match load(sources) {
        Ok(both) => both,
        Err(fault) => return streams.refuse(&fault),
    };
    let capture = &args.capture;
    let object = match log_object(capture) {
        Ok(object) => object,
        Err(error) => return finish(Err(error.into()), false, streams),
    };
    let request = Request {
        config: &loaded.config,
        duration: capture.duration,
        stats: capture.stats,
        settings_fault: None,
        object,
    };
    finish(run::record(&request, &args.file), capture.stats, streams)
}
