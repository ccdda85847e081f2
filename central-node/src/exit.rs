//! Exit codes of the program, as those of the sensor. Refuses to hold messages: who fails prints why, once.

/// How the program ended, as its parent sees it (documented in `central-node --help`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// All went as asked.
    Ok,
    /// The command line, the configuration or a file named by it is wrong.
    Usage,
    /// Another node serves from this store.
    AlreadyRunning,
    /// A fault of the node itself, or its store is damaged or newer.
    Internal,
    /// Output could not be written, or the address cannot be listened on.
    Output,
}

impl ExitStatus {
    /// The number that the parent process sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Usage => 2,
            Self::AlreadyRunning => 6,
            Self::Internal => 70,
            Self::Output => 74,
        }
    }
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
