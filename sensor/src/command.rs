//! The subcommands: what each prints and how it ends. Refuse to know more than their arguments, and print only to what they
//! are given, so that tests read what a user would.

use std::fmt;
use std::io::Write;

use crate::exit::ExitStatus;

pub mod config;
pub mod data_provision;
pub mod decode;
pub mod doctor;
pub mod filter;
pub mod install;
pub mod log;
pub mod record;
pub mod reload;
pub mod replay;
pub mod run;
pub mod status;

/// Standard output and standard error of a command.
pub struct Streams<'a> {
    /// What was asked for.
    pub out: &'a mut dyn Write,
    /// What went wrong.
    pub err: &'a mut dyn Write,
}

impl fmt::Debug for Streams<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Streams")
    }
}

impl Streams<'_> {
    /// Prints the answer.
    fn answer(&mut self, text: &str) -> ExitStatus {
        let written = self
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush());
        match written {
            Ok(()) => ExitStatus::Ok,
            Err(error) => {
                self.complain(&format!("cannot write to standard output: {error}"));
                ExitStatus::Output
            }
        }
    }

    /// Prints what is wrong with the configuration, each fault on its line.
    fn refuse(&mut self, faults: &dyn fmt::Display) -> ExitStatus {
        self.complain(&faults.to_string());
        ExitStatus::Usage
    }

    fn complain(&mut self, text: &str) {
        // Where standard error is closed as well, the exit code is all that is left to say.
        drop(writeln!(self.err, "{text}"));
    }
}
