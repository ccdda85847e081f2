//! One file per subcommand.

pub mod agents;
pub mod certificates;
pub mod query;
pub mod serve;
pub mod settings;

use std::io::{self, Write};

use crate::exit::ExitStatus;
use crate::store::StoreError;
use crate::writer::chain;

/// Where a command writes.
pub struct Streams<'a> {
    /// What was asked for.
    pub out: &'a mut dyn Write,
    /// What went wrong.
    pub err: &'a mut dyn Write,
}

impl std::fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").finish_non_exhaustive()
    }
}

impl Streams<'_> {
    /// Says what went wrong, with its causes, and how to end.
    pub fn fail(&mut self, error: &dyn std::error::Error, status: ExitStatus) -> ExitStatus {
        // What cannot be printed is left to the exit code.
        drop(writeln!(self.err, "central-node: {}", chain(error)));
        status
    }

    /// How to end after writing: a reader that has closed its end had enough, which is no failure.
    pub fn written(&mut self, result: io::Result<()>) -> ExitStatus {
        match result {
            Ok(()) => ExitStatus::Ok,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitStatus::Ok,
            Err(error) => self.fail(&error, ExitStatus::Output),
        }
    }
}

/// How to end when the store does not do what it should.
#[must_use]
pub fn store_status(error: &StoreError) -> ExitStatus {
    match error {
        StoreError::Missing { .. }
        | StoreError::Foreign { .. }
        | StoreError::Folder { .. }
        | StoreError::Open { .. } => ExitStatus::Usage,
        StoreError::Newer { .. } | StoreError::Corrupt { .. } | StoreError::Failed(_) => {
            ExitStatus::Internal
        }
        StoreError::Full(_) => ExitStatus::Output,
    }
}
