//! What a line is made of: everything that the view says of one event, safe to print, before it is known how wide the line
//! will be. A row lives on its own, so that it can wait until somebody goes on reading.

use std::borrow::Cow;

use sensor_proto::v1::{Credentials, EventType, FileInfo, Process, User};

use super::style::Style;
use super::text::{Keep, ascii, clean, time};
use super::what::what;
use crate::format::View;

/// Part of a line.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) text: Cow<'static, str>,
    pub(super) style: Style,
    pub(super) keep: Keep,
}

impl Cell {
    pub(super) fn new(style: Style, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            text: text.into(),
            style,
            keep: Keep::Head,
        }
    }

    pub(super) fn tail(style: Style, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            keep: Keep::Tail,
            ..Self::new(style, text)
        }
    }
}

/// Which process: its public identity, and its number where that is not known.
pub(super) type Key = (Option<[u8; 16]>, u32);

/// A process, as the view names it.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) key: Key,
    pub(super) pid: u32,
    pub(super) name: String,
}

impl Who {
    fn of(process: &Process) -> Self {
        Self {
            key: (id(&process.unique_pid), process.pid),
            pid: process.pid,
            name: name(Some(process)),
        }
    }

    /// `bash[4711]`
    pub(super) fn label(&self) -> String {
        format!("{}[{}]", self.name, self.pid)
    }
}

/// What is known of the content of a file.
#[derive(Clone, Debug)]
pub(super) struct Digest {
    /// SHA-256 in hexadecimal; empty where there is none.
    pub(super) sha256: String,
    pub(super) verdict: &'static str,
    pub(super) style: Style,
}

/// What a line says.
#[derive(Clone, Debug)]
pub struct Row {
    pub(super) event_type: EventType,
    pub(super) time: String,
    pub(super) user: String,
    pub(super) raised: bool,
    pub(super) who: Option<Who>,
    /// The parent, its parent, and so on.
    pub(super) lineage: Box<[Who]>,
    /// There are more ancestors than these.
    pub(super) lineage_cut: bool,
    pub(super) cells: Vec<Cell>,
    pub(super) digest: Option<Digest>,
}

fn id(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}

fn name(process: Option<&Process>) -> String {
    process
        .and_then(Process::name)
        .map_or_else(|| "?".to_owned(), |name| clean(name).into_owned())
}

impl Row {
    /// Of an event; for a terminal that knows ASCII only, everything else is escaped.
    #[must_use]
    pub fn of(view: &View<'_>, ascii_only: bool) -> Self {
        let event = view.event;
        let event_type = event.event_type();
        let what = what(view, Style::of_name(event_type));
        let who = event.process.as_ref().map(|reference| Who {
            key: (reference.unique_pid.as_deref().and_then(id), reference.pid),
            pid: reference.pid,
            name: name(view.process),
        });
        let (user, raised) = user(view);
        let mut row = Self {
            event_type,
            time: time(event.time_ns),
            user,
            raised,
            who,
            lineage: view
                .lineage
                .iter()
                .map(|process| Who::of(process))
                .collect(),
            lineage_cut: view.lineage_cut,
            cells: what.cells,
            digest: what.file.and_then(digest),
        };
        if ascii_only {
            row.escape();
        }
        row
    }

    fn escape(&mut self) {
        let texts = self
            .who
            .iter_mut()
            .chain(&mut self.lineage)
            .map(|who| &mut who.name)
            .chain([&mut self.user]);
        for text in texts {
            if let Cow::Owned(plain) = ascii(text) {
                *text = plain;
            }
        }
        for cell in &mut self.cells {
            if let Cow::Owned(plain) = ascii(&cell.text) {
                cell.text = plain.into();
            }
        }
    }

    /// Type of its event.
    #[must_use]
    pub const fn event_type(&self) -> EventType {
        self.event_type
    }

    /// Memory that it takes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let who = |who: &Who| size_of::<Who>() + who.name.len();
        let cells = self.cells.iter();
        let lineage = self.lineage.iter();
        size_of::<Self>()
            + self.time.len()
            + self.user.len()
            + self.who.as_ref().map_or(0, who)
            + lineage.map(who).sum::<usize>()
            + cells
                .map(|cell| size_of::<Cell>() + cell.text.len())
                .sum::<usize>()
            + self.digest.as_ref().map_or(0, |digest| digest.sha256.len())
    }

    /// Whether it says this text, given in small letters; a text with `[` is also looked for among the ancestors, so that
    /// `bash[4711]` finds what descends from it.
    #[must_use]
    pub fn says(&self, text: &str) -> bool {
        let has = |said: &str| said.to_lowercase().contains(text);
        let ancestors = self.lineage.iter().filter(|_| text.contains('['));
        has(&self.user)
            || has(self.event_type.short_name())
            || self.cells.iter().any(|cell| has(&cell.text))
            || self
                .digest
                .as_ref()
                .is_some_and(|digest| has(&digest.sha256) || has(digest.verdict))
            || self
                .who
                .iter()
                .chain(ancestors)
                .any(|who| has(&who.label()))
    }
}

/// Real user, and the effective one where it is another: `alice>root`; and whether it is.
fn user(view: &View<'_>) -> (String, bool) {
    let row = view
        .process
        .and_then(|process| process.credentials.as_ref());
    both_users(view.event.credentials.as_ref(), row)
}

/// The same of credentials.
pub(super) fn users(credentials: &Credentials) -> String {
    both_users(Some(credentials), None).0
}

/// The second where the first say nothing.
fn both_users(here: Option<&Credentials>, row: Option<&Credentials>) -> (String, bool) {
    let of = |part: fn(&Credentials) -> Option<&User>| {
        here.and_then(part).or_else(|| row.and_then(part))
    };
    let name = |user: &User| match &user.name {
        Some(name) => clean(name.as_bytes()).into_owned(),
        None => user.id.to_string(),
    };
    let real = of(|credentials| credentials.real_user.as_ref());
    let effective = of(|credentials| credentials.effective_user.as_ref());
    match (real, effective) {
        (Some(real), Some(effective)) if real.id != effective.id => {
            (format!("{}>{}", name(real), name(effective)), true)
        }
        (Some(user), _) | (None, Some(user)) => (name(user), false),
        (None, None) => (String::new(), false),
    }
}

fn digest(file: &FileInfo) -> Option<Digest> {
    let hashes = file.hashes.as_ref()?;
    let verdict = hashes.verdict();
    let style = Style::of_verdict(verdict)?;
    let mut sha256 = String::new();
    for byte in hashes.sha256.iter().flatten() {
        sha256.push_str(&format!("{byte:02x}"));
    }
    Some(Digest {
        sha256,
        verdict: verdict.short_name(),
        style,
    })
}
