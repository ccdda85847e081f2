//! Colours and attributes, each with one meaning, and the words and marks that say the same without them.

use std::ffi::OsStr;

use sensor_proto::v1::{EventType, HashVerdict};

/// Colours and attributes; each has one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Nothing to say.
    Plain,
    /// New code begins to run: programs, kernel modules.
    Bold,
    /// What matters least: times, forks, ordinary ends, ancestors.
    Dim,
    /// Files.
    File,
    /// Connections.
    Network,
    /// As it should be.
    Good,
    /// To be looked at.
    Doubtful,
    /// Failed, or not to be had.
    Bad,
}

/// Ends every style.
pub(super) const RESET: &str = "\x1b[0m";

/// Begins a text in a bar.
pub(super) const REVERSE: &str = "\x1b[7m";

impl Style {
    /// The escape sequence that begins it.
    pub(super) const fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bold => Some("\x1b[1m"),
            Self::Dim => Some("\x1b[2m"),
            Self::File => Some("\x1b[36m"),
            Self::Network => Some("\x1b[35m"),
            Self::Good => Some("\x1b[32m"),
            Self::Doubtful => Some("\x1b[33m"),
            Self::Bad => Some("\x1b[31m"),
        }
    }

    /// Of the type of an event.
    #[must_use]
    pub const fn of_type(event_type: EventType) -> Self {
        match event_type {
            EventType::Exec | EventType::ModuleLoad => Self::Bold,
            EventType::Exit | EventType::Fork | EventType::Patch => Self::Dim,
            EventType::FileCreate => Self::File,
            EventType::Connect => Self::Network,
            EventType::Aggregate | EventType::Unspecified => Self::Plain,
        }
    }

    /// Of the name of a process that has such an event.
    pub(super) const fn of_name(event_type: EventType) -> Self {
        match event_type {
            EventType::FileCreate | EventType::Connect => Self::Plain,
            EventType::Exec
            | EventType::Exit
            | EventType::Fork
            | EventType::ModuleLoad
            | EventType::Patch
            | EventType::Aggregate
            | EventType::Unspecified => Self::of_type(event_type),
        }
    }

    /// Of a verdict; `None`: nothing was said about a hash.
    pub(super) const fn of_verdict(verdict: HashVerdict) -> Option<Self> {
        match verdict {
            HashVerdict::Verified => Some(Self::Good),
            HashVerdict::Drifted | HashVerdict::Racy | HashVerdict::Open => Some(Self::Doubtful),
            HashVerdict::TooLarge
            | HashVerdict::Unreadable
            | HashVerdict::Gone
            | HashVerdict::RefusedFs
            | HashVerdict::Timeout => Some(Self::Bad),
            HashVerdict::Unspecified => None,
        }
    }

    /// What stands for a verdict where its word has no room.
    pub(super) const fn verdict_mark(self) -> &'static str {
        match self {
            Self::Good => "+",
            Self::Doubtful => "~",
            Self::Plain | Self::Bold | Self::Dim | Self::File | Self::Network | Self::Bad => "!",
        }
    }
}

/// Four letters for a type of event, where its name has no room.
pub(super) const fn short_type(event_type: EventType) -> &'static str {
    match event_type {
        EventType::Exec => "exec",
        EventType::Exit => "exit",
        EventType::Fork => "fork",
        EventType::FileCreate => "file",
        EventType::Connect => "conn",
        EventType::ModuleLoad => "modl",
        EventType::Patch => "late",
        EventType::Aggregate => "many",
        EventType::Unspecified => "?",
    }
}

/// Whether colours are wanted, by the environment variable NO_COLOR (<https://no-color.org>): not when it is set and not empty.
#[must_use]
pub fn color_wanted(no_color: Option<&OsStr>) -> bool {
    no_color.is_none_or(OsStr::is_empty)
}

/// Whether the locale has UTF-8: the first of LC_ALL, LC_CTYPE and LANG that is set and not empty says so.
#[must_use]
pub fn utf8_wanted(variable: impl FnMut(&str) -> Option<std::ffi::OsString>) -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(variable)
        .find(|value| !value.is_empty());
    let Some(locale) = set else {
        return false;
    };
    let name = locale.to_string_lossy().to_ascii_lowercase();
    name.contains("utf-8") || name.contains("utf8")
}
