//! Which columns a line of a given width has, and how texts are put into them.

use sensor_proto::v1::EventType;

use super::row::{Cell, Row, Who};
use super::style::{RESET, REVERSE, Style, short_type};
use super::text::{Keep, columns, fit};
use super::tree::Place;
use super::{Glyphs, Look};

const USER: usize = 11;
const HASH: usize = 12;
const VERDICT: usize = 10;
/// Of a process's column, what is left for its name and id by the steps of its descent.
const NAME: usize = 14;
/// Of a text that gives way, so much can still be read.
const READABLE: usize = 16;
/// A step of descent.
pub(super) const STEP: usize = 2;

/// Columns of a line; each has a gap behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// Of the time: with milliseconds, with seconds, or none.
    time: usize,
    /// Of the type's name, or four letters for it.
    event_type: usize,
    user: usize,
    process: usize,
    /// The hash and its verdict, or a mark for the verdict.
    hash: bool,
    /// Room for what happened; none: any.
    what: Option<usize>,
}

/// From wide to narrow, each with the least room for what happened with which it is taken.
const LADDER: [(Columns, usize); 6] = [
    (ladder(12, 11, USER, 32, true), 64),
    (ladder(12, 11, USER, 24, true), 24),
    (ladder(12, 11, USER, 24, false), 24),
    (ladder(8, 11, 0, 24, false), 24),
    (ladder(8, 4, 0, 20, false), 16),
    (ladder(0, 4, 0, 16, false), 0),
];

const fn ladder(
    time: usize,
    event_type: usize,
    user: usize,
    process: usize,
    hash: bool,
) -> Columns {
    Columns {
        time,
        event_type,
        user,
        process,
        hash,
        what: None,
    }
}

impl Columns {
    pub(super) fn of(width: Option<usize>) -> Self {
        let [(widest, _), .., (narrowest, _)] = LADDER;
        let Some(width) = width else {
            return widest;
        };
        let with = |(columns, least): &(Self, usize)| {
            let what = width.checked_sub(columns.fixed())?;
            let what = Some(what).filter(|what| what >= least);
            what.map(|what| Self {
                what: Some(what),
                ..*columns
            })
        };
        LADDER.iter().find_map(with).unwrap_or(Self {
            what: Some(0),
            ..narrowest
        })
    }

    /// What everything takes that is not what happened.
    const fn fixed(&self) -> usize {
        const fn with_gap(columns: usize) -> usize {
            if columns == 0 { 0 } else { columns + 1 }
        }
        let hash = if self.hash { HASH + 1 + VERDICT + 1 } else { 2 };
        with_gap(self.time)
            + with_gap(self.event_type)
            + with_gap(self.user)
            + with_gap(self.process)
            + hash
    }

    /// Steps of descent that the column of the process has room for.
    pub(super) const fn steps(&self) -> usize {
        let steps = self.process.saturating_sub(NAME) / STEP;
        if steps < 2 { 2 } else { steps }
    }

    /// Whether other columns are named than by these.
    pub(super) const fn named_alike(&self, other: &Self) -> bool {
        self.time == other.time
            && self.event_type == other.event_type
            && self.user == other.user
            && self.process == other.process
            && self.hash == other.hash
    }
}

/// A line while it is written; ends at the terminal's edge whatever is put into it.
pub(super) struct Line<'o> {
    out: &'o mut Vec<u8>,
    color: bool,
    glyphs: Glyphs,
    left: usize,
    wide: bool,
    /// In reverse: a bar.
    reverse: bool,
}

impl<'o> Line<'o> {
    pub(super) fn new(look: &Look, out: &'o mut Vec<u8>) -> Self {
        Self {
            out,
            color: look.color,
            glyphs: look.glyphs(),
            left: look.line_width().unwrap_or(usize::MAX),
            wide: look.wide,
            reverse: false,
        }
    }

    /// A bar of so many columns.
    pub(super) fn bar(look: &Look, columns: usize, out: &'o mut Vec<u8>) -> Self {
        Self {
            left: columns,
            reverse: true,
            ..Self::new(look, out)
        }
    }

    /// Puts a text of at most `room` columns and returns how many it took.
    pub(super) fn put(&mut self, style: Style, text: &str, keep: Keep, room: usize) -> usize {
        let room = room.min(self.left);
        let (text, columns) = fit(text, room, keep, self.glyphs.cut);
        if columns == 0 {
            return 0;
        }
        let code = style.code().filter(|_| self.color);
        let reverse = self.color && self.reverse;
        if reverse {
            self.out.extend_from_slice(REVERSE.as_bytes());
        }
        self.out
            .extend_from_slice(code.unwrap_or_default().as_bytes());
        self.out.extend_from_slice(text.as_bytes());
        if code.is_some() || reverse {
            self.out.extend_from_slice(RESET.as_bytes());
        }
        self.left = self.left.saturating_sub(columns);
        columns
    }

    pub(super) fn pad(&mut self, columns: usize) {
        let columns = columns.min(self.left);
        self.out.resize(self.out.len() + columns, b' ');
        self.left = self.left.saturating_sub(columns);
    }

    /// A text in a column of its own, with the gap to the next; nothing for a column that is left out.
    fn column(&mut self, style: Style, text: &str, columns: usize) {
        if columns == 0 {
            return;
        }
        let used = self.put(style, text, Keep::Head, columns);
        self.pad(columns.saturating_sub(used) + 1);
    }

    /// The names of the columns.
    pub(super) fn header(mut self, columns: &Columns) {
        let time = if columns.time < 10 {
            "UTC"
        } else {
            "TIME (UTC)"
        };
        self.column(Style::Dim, time, columns.time);
        self.column(Style::Dim, "TYPE", columns.event_type);
        self.column(Style::Dim, "USER", columns.user);
        self.column(Style::Dim, "PROCESS", columns.process);
        if !columns.hash {
            self.pad(2);
        }
        match columns.what.filter(|_| columns.hash) {
            Some(what) => self.column(Style::Dim, "WHAT", what),
            None => self.column(Style::Dim, "WHAT", 4),
        }
        if columns.hash {
            self.column(Style::Dim, "SHA-256", HASH);
            self.column(Style::Dim, "VERDICT", VERDICT);
        }
        self.end();
    }

    /// The ancestors of the process on the next line.
    pub(super) fn chain(mut self, columns: &Columns, place: &Place) {
        let before = columns.fixed()
            - columns.process
            - 1
            - if columns.hash { HASH + VERDICT + 2 } else { 2 };
        self.pad(before);
        self.descent(place.chain_depth, true, usize::MAX);
        let mut text = place.chain.join(self.glyphs.arrow);
        if place.chain_cut {
            text.insert_str(0, self.glyphs.arrow.trim_start());
            text.insert(0, self.glyphs.cut);
        }
        self.put(Style::Dim, &text, Keep::Tail, usize::MAX);
        self.end();
    }

    /// An event.
    pub(super) fn row(mut self, columns: &Columns, row: &Row, place: &Place) {
        let style = Style::of_type(row.event_type);
        let time = row.time.get(..columns.time).unwrap_or(&row.time);
        self.column(Style::Dim, time, columns.time);
        let name = if columns.event_type < 10 {
            short_type(row.event_type)
        } else {
            row.event_type.short_name()
        };
        self.column(style, name, columns.event_type);
        let user = if row.raised {
            Style::Doubtful
        } else {
            Style::Plain
        };
        self.column(user, &row.user, columns.user);
        self.process(row.who.as_ref(), row.event_type, columns.process, place);
        if !columns.hash {
            let mark = row.digest.as_ref();
            let mark = mark.map(|digest| (digest.style, digest.style.verdict_mark()));
            let (style, mark) = mark.unwrap_or((Style::Plain, ""));
            self.column(style, mark, 1);
        }
        let room = columns.what.filter(|_| !self.wide).unwrap_or(usize::MAX);
        let used = self.cells(&row.cells, room);
        if columns.hash
            && let Some(digest) = &row.digest
        {
            let room = columns.what.unwrap_or_default();
            self.pad(room.saturating_sub(used) + 1);
            let width = if self.wide { digest.sha256.len() } else { HASH };
            let sha256 = digest.sha256.get(..width).unwrap_or(&digest.sha256);
            self.column(Style::Plain, sha256, width.max(HASH));
            self.put(digest.style, digest.verdict, Keep::Head, VERDICT);
        } else if self.wide
            && let Some(digest) = &row.digest
        {
            self.pad(1);
            self.put(Style::Plain, &digest.sha256, Keep::Head, usize::MAX);
            self.pad(1);
            self.put(digest.style, digest.verdict, Keep::Head, usize::MAX);
        }
        self.end();
    }

    /// The steps of descent before a name; returns their columns.
    fn descent(&mut self, depth: usize, first: bool, room: usize) -> usize {
        let mut used = 0;
        for step in 1..=depth {
            let glyph = match (step == depth, first) {
                (true, true) => self.glyphs.child,
                (true, false) => "  ",
                (false, _) => self.glyphs.rail,
            };
            used += self.put(Style::Dim, glyph, Keep::Head, room.saturating_sub(used));
        }
        used
    }

    /// Name and id of the process, to the right of its parent; the id is always whole.
    fn process(&mut self, who: Option<&Who>, event_type: EventType, width: usize, place: &Place) {
        let mut used = 0;
        if let Some(who) = who {
            let id = format!("[{}]", who.pid);
            used = self.descent(place.depth, place.first, width.saturating_sub(id.len() + 1));
            let room = width.saturating_sub(used + id.len());
            let style = Style::of_name(event_type);
            used += self.put(style, &who.name, Keep::Head, room);
            used += self.put(Style::Dim, &id, Keep::Head, width.saturating_sub(used));
        }
        self.pad(width.saturating_sub(used) + 1);
    }

    /// Texts with a gap between each two, all in so many columns: what matters least is left out first, then the longest
    /// gives way as long as something can be read of it. Returns the columns that they took.
    fn cells(&mut self, cells: &[Cell], room: usize) -> usize {
        let room = room.min(self.left);
        let mut shown: Vec<(&Cell, usize)> = cells
            .iter()
            .map(|cell| (cell, columns(&cell.text)))
            .collect();
        let total =
            |shown: &[(&Cell, usize)]| shown.iter().map(|(_, width)| width + 1).sum::<usize>();
        while total(&shown) > room.saturating_add(1) {
            let spare = |(index, (cell, _)): &(usize, &(&Cell, usize))| {
                *index > 0 && cell.style == Style::Dim && cell.keep == Keep::Head
            };
            let Some((index, _)) = shown.iter().enumerate().rfind(spare) else {
                break;
            };
            shown.remove(index);
        }
        let over = total(&shown).saturating_sub(room.saturating_add(1));
        let longest = shown.iter().map(|(_, width)| *width).max();
        let (mut used, mut shortened) = (0, over == 0);
        for (index, (cell, width)) in shown.into_iter().enumerate() {
            if index > 0 && used < room {
                self.pad(1);
                used += 1;
            }
            let mut limit = room.saturating_sub(used);
            if !shortened && Some(width) == longest {
                shortened = true;
                limit = limit.min(width.saturating_sub(over).max(READABLE));
            }
            used += self.put(cell.style, &cell.text, cell.keep, limit);
        }
        used
    }

    pub(super) fn end(self) {
        while self.out.last() == Some(&b' ') {
            self.out.pop();
        }
        self.out.push(b'\n');
    }
}
