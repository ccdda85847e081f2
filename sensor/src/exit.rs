//! Exit codes of the program: the only list. Refuses to hold messages: who fails prints why, once.

/// How the program ended, as its parent sees it (documented in `sensor --help`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// All went as asked.
    Ok = 0,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// A capability is missing.
    Privilege = 3,
    /// This kernel lacks what the sensor cannot do without.
    KernelUnsupported = 4,
    /// The kernel refused the programs.
    LoadFailed = 5,
    /// Another instance runs.
    AlreadyRunning = 6,
    /// A fault of the sensor itself.
    Internal = 70,
    /// Events could not be written where they should go, or `/run/sensor`, where the lock is, not at all.
    Output = 74,
}

impl From<ExitStatus> for std::process::ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

impl ExitStatus {
    /// The number that the parent process sees.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Usage => 2,
            Self::Privilege => 3,
            Self::KernelUnsupported => 4,
            Self::LoadFailed => 5,
            Self::AlreadyRunning => 6,
            Self::Internal => 70,
            Self::Output => 74,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_documented_list() {
        for (status, code) in [
            (ExitStatus::Ok, 0),
            (ExitStatus::Usage, 2),
            (ExitStatus::Privilege, 3),
            (ExitStatus::KernelUnsupported, 4),
            (ExitStatus::LoadFailed, 5),
            (ExitStatus::AlreadyRunning, 6),
            (ExitStatus::Internal, 70),
            (ExitStatus::Output, 74),
        ] {
            assert_eq!(status.code(), code);
            assert!(
                crate::args::HELP_EXIT_CODES.contains(&format!("{code:>4}  ")),
                "{code}"
            );
        }
    }
}
