//! `sensor reload`: the daemon reads its filter rules again, all or nothing.

use std::path::Path;

use crate::command::Streams;
use crate::command::status::{ask, failed};
use crate::control::{Request, Response};
use crate::exit::ExitStatus;

/// Asks the daemon of the host, or of a scope; says what is wrong with the rules, if anything.
pub fn run(scope: Option<&Path>, streams: &mut Streams<'_>) -> ExitStatus {
    match ask(scope, Request::Reload) {
        Ok(Response::Ok(_)) => streams.answer("filter rules reloaded\n"),
        Ok(Response::Error(why)) => streams.refuse(&why),
        Err(error) => failed(&error, streams),
    }
}
