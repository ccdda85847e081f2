//! The live view: one line an event, for people at a terminal, and the ancestors of a process when they cannot be seen.
//!
//! A line is never longer than the terminal is wide, unless whole paths and hashes were asked for, and nothing that came from
//! outside reaches the terminal as anything but visible text: control characters, characters that reorder text and bytes that
//! are not UTF-8 are shown escaped.

mod columns;
mod row;
mod style;
mod text;
mod tree;
mod what;

use columns::{Columns, Line};
pub use row::Row;
pub use style::{Style, color_wanted, utf8_wanted};
pub use text::clean;
use text::{Keep, columns as width_of};
use tree::Tree;

/// How lines look.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// With colours.
    pub color: bool,
    /// ASCII only.
    pub ascii: bool,
    /// Processes below their parents.
    pub tree: bool,
    /// Whole paths, arguments and hashes; lines then go over as many rows of the terminal as they need.
    pub wide: bool,
    /// Columns of the terminal; none: lines are as long as they are.
    pub width: Option<usize>,
    /// Rows of the terminal.
    pub height: Option<usize>,
}

/// Characters that not every terminal has.
#[derive(Clone, Copy, Debug)]
struct Glyphs {
    /// Before a child; as wide as the others, two columns.
    child: &'static str,
    /// Under an ancestor.
    rail: &'static str,
    /// Between parent and child on one line.
    arrow: &'static str,
    /// Where a text was cut.
    cut: char,
}

impl Look {
    const fn glyphs(&self) -> Glyphs {
        if self.ascii {
            Glyphs {
                child: "`-",
                rail: "| ",
                arrow: " > ",
                cut: '~',
            }
        } else {
            Glyphs {
                child: "└ ",
                rail: "│ ",
                arrow: " → ",
                cut: text::CUT,
            }
        }
    }

    /// Where lines end.
    fn line_width(&self) -> Option<usize> {
        self.width.filter(|_| !self.wide)
    }
}

/// Writes the lines of the live view, one after another.
#[derive(Debug)]
pub struct Pretty {
    look: Look,
    tree: Tree,
    /// The columns that were named last.
    named: Option<Columns>,
}

impl Pretty {
    /// From the first line on.
    #[must_use]
    pub fn new(look: Look) -> Self {
        Self {
            look,
            tree: Tree::default(),
            named: None,
        }
    }

    /// How the next lines look.
    pub const fn look(&mut self) -> &mut Look {
        &mut self.look
    }

    /// The columns are named again before the next line, and ancestors told again.
    pub fn begin_anew(&mut self) {
        self.named = None;
        self.tree.forget();
    }

    /// Others wrote so many lines.
    pub fn passed_over(&mut self, lines: usize) {
        self.tree.wrote(lines);
    }

    /// Appends the line of an event with its line end; before it, the names of the columns where these are others than before,
    /// and the ancestors of its process where they cannot be seen.
    pub fn row(&mut self, row: &Row, out: &mut Vec<u8>) {
        let columns = Columns::of(self.look.width);
        if self.named.is_none_or(|named| !named.named_alike(&columns)) {
            Line::new(&self.look, out).header(&columns);
            self.named = Some(columns);
            self.tree.wrote(1);
        }
        let mut place = self.tree.place(row, self.look.height, columns.steps());
        if !self.look.tree {
            place.depth = 0;
        } else if !place.chain.is_empty() {
            Line::new(&self.look, out).chain(&columns, &place);
        }
        let begin = out.len();
        Line::new(&self.look, out).row(&columns, row, &place);
        if let Some(width) = self.look.width.filter(|_| self.look.wide) {
            let line = out.get(begin..).unwrap_or_default();
            let used = String::from_utf8_lossy(line);
            // Escape sequences make the line a little longer than it is; nothing depends on it but when ancestors are told again.
            self.tree
                .wrote(width_of(&used).saturating_sub(1) / width.max(1));
        }
    }

    /// Appends texts, each in its style, on as many lines as the terminal's width asks for; those after the first are indented.
    pub fn words(&mut self, words: &[(Style, String)], out: &mut Vec<u8>) {
        const INDENT: usize = 9;
        let width = self.look.width.unwrap_or(usize::MAX);
        let mut line = Line::new(&self.look, out);
        let mut used = 0;
        for (index, (style, word)) in words.iter().enumerate() {
            let (text, gap) = (self.plain(word), if index > 1 { 2 } else { 0 });
            let columns = width_of(&text);
            if used > INDENT && used + gap + columns > width {
                line.end();
                self.tree.wrote(1);
                line = Line::new(&self.look, out);
                line.pad(INDENT);
                used = INDENT;
            } else {
                line.pad(gap);
                used += gap;
            }
            used += line.put(*style, &text, Keep::Head, usize::MAX);
        }
        line.end();
        self.tree.wrote(1);
    }

    /// Appends a bar of at most one column less than the terminal has, without a line end: texts from the left, as far as they fit,
    /// and the first of the hints that has room to the right of them.
    pub fn bar(&self, words: &[(Style, String)], hints: &[&str], out: &mut Vec<u8>) {
        let room = self
            .look
            .width
            .map_or(usize::MAX, |width| width.saturating_sub(1));
        let mut line = Line::bar(&self.look, room, out);
        let mut used = line.put(Style::Plain, " ", Keep::Head, 1);
        for (index, (style, word)) in words.iter().enumerate() {
            if index > 0 {
                used += line.put(Style::Plain, "  ", Keep::Head, 2);
            }
            let text = self.plain(word);
            used += line.put(*style, &text, Keep::Head, room.saturating_sub(used));
        }
        let fits = |hint: &&&str| used + 2 + hint.len() < room;
        if let Some(hint) = hints.iter().find(fits) {
            let fill = self.look.width.map_or(2, |_| room - used - hint.len() - 1);
            line.put(Style::Plain, &" ".repeat(fill), Keep::Head, fill);
            line.put(Style::Plain, hint, Keep::Head, hint.len());
            line.put(Style::Plain, " ", Keep::Head, 1);
        }
    }

    /// The text, if need be in ASCII.
    fn plain<'t>(&self, word: &'t str) -> std::borrow::Cow<'t, str> {
        if self.look.ascii {
            text::ascii(word)
        } else {
            word.into()
        }
    }
}

#[cfg(test)]
mod tests;
