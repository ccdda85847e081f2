//! Descent in a stream of lines. What comes below a line is not known when it is written, so that the rails of a drawn tree
//! (`├─`) would be guesses. Instead, a process stands one step to the right of its parent as long as the parent can still be
//! seen; when it cannot, the chain of ancestors is told once, on a line of its own (docs/decisions/0047-live-view.md).

use std::collections::{HashMap, VecDeque};

use super::row::{Key, Row, Who};

/// Lines that are assumed to be in view where nobody knows.
const LINES: usize = 40;
/// More than this many lines are nobody's screen.
const MOST_LINES: usize = 500;

/// Where a process stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The ancestors to be told first, the farthest first, and how far to the right; empty: they can be seen.
    pub(super) chain: Vec<String>,
    pub(super) chain_depth: usize,
    /// There are more than these.
    pub(super) chain_cut: bool,
    /// How far to the right the process stands.
    pub(super) depth: usize,
    /// Its first line that can be seen.
    pub(super) first: bool,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    line: u64,
    depth: usize,
}

/// The processes that can be seen: those named in the lines of the last screenful.
#[derive(Debug, Default)]
pub(super) struct Tree {
    seen: HashMap<Key, Seen>,
    /// As they were named, the oldest first.
    order: VecDeque<(u64, Key)>,
    line: u64,
}

impl Tree {
    /// Lines that were written since the last call of this or [`Self::place`], beyond the one of that.
    pub(super) fn wrote(&mut self, lines: usize) {
        let lines = u64::try_from(lines).unwrap_or(u64::MAX);
        self.line = self.line.saturating_add(lines);
    }

    /// Nothing can be seen any more.
    pub(super) fn forget(&mut self) {
        self.seen.clear();
        self.order.clear();
    }

    /// Where the process of this row stands, on a screen of so many lines, with room for so many steps to the right.
    pub(super) fn place(&mut self, row: &Row, lines: Option<usize>, room: usize) -> Place {
        self.scroll(lines);
        let mut place = Place {
            chain: Vec::new(),
            chain_depth: 0,
            chain_cut: false,
            depth: 0,
            first: false,
        };
        let Some(who) = &row.who else {
            self.line += 1;
            return place;
        };
        if let Some(seen) = self.seen.get(&who.key) {
            place.depth = seen.depth;
        } else {
            place.first = true;
            self.descend(row, room, &mut place);
        }
        self.line += 1;
        self.saw(who.key, place.depth);
        place
    }

    /// Finds the nearest ancestor that can be seen and tells those between.
    fn descend(&mut self, row: &Row, room: usize, place: &mut Place) {
        if row.lineage.is_empty() {
            return;
        }
        let known = |who: &Who| Some(self.seen.get(&who.key)?.depth);
        let nearest = row.lineage.iter().map(known).enumerate();
        let nearest = nearest.filter_map(|(index, depth)| Some((index, depth?)));
        // Those between take a line one step to the right of it, and the process stands one step further.
        let steps = |index: usize| if index == 0 { 1 } else { 2 };
        let nearest = nearest
            .take(1)
            .find(|(index, depth)| depth + steps(*index) <= room);
        let told = match nearest {
            Some((index, depth)) => {
                place.depth = depth + steps(index);
                place.chain_depth = depth + 1;
                index
            }
            None => {
                place.depth = 1;
                place.chain_cut = row.lineage_cut;
                row.lineage.len()
            }
        };
        let told = row.lineage.get(..told).unwrap_or_default();
        place.chain = told.iter().rev().map(Who::label).collect();
        if !told.is_empty() {
            self.line += 1;
        }
        for ancestor in told {
            self.saw(ancestor.key, place.chain_depth);
        }
    }

    fn saw(&mut self, key: Key, depth: usize) {
        let line = self.line;
        self.seen.insert(key, Seen { line, depth });
        self.order.push_back((line, key));
    }

    /// Forgets what is above the screen by now.
    fn scroll(&mut self, lines: Option<usize>) {
        let lines = lines.unwrap_or(LINES).clamp(1, MOST_LINES);
        let lines = u64::try_from(lines).unwrap_or(u64::MAX);
        // The line that comes moves the oldest one out.
        let top = (self.line + 1).saturating_sub(lines);
        while let Some((line, key)) = self.order.front().copied() {
            if line > top {
                break;
            }
            self.order.pop_front();
            if self.seen.get(&key).is_some_and(|seen| seen.line == line) {
                self.seen.remove(&key);
            }
        }
    }
}
