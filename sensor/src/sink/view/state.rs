//! What keys do: a machine without a terminal. Refuses to write or to know how lines look.

use sensor_proto::v1::EventType;

use super::key::Key;
use crate::format::pretty::Row;

/// Characters of a text to look for.
const LONGEST_TEXT: usize = 64;

/// The types of events, by their keys.
pub(super) const TYPES: [(char, EventType); 8] = [
    ('1', EventType::Exec),
    ('2', EventType::Exit),
    ('3', EventType::Fork),
    ('4', EventType::FileCreate),
    ('5', EventType::Connect),
    ('6', EventType::ModuleLoad),
    ('7', EventType::Patch),
    ('8', EventType::Aggregate),
];

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing.
    Nothing,
    /// The bottom line says something else.
    Status,
    /// Lines from here on look otherwise: columns and ancestors are told again.
    Anew,
    /// The keys and colours are told.
    Help,
    /// Who watches leaves.
    Quit,
}

/// What who watches has chosen.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Nothing is shown; events wait.
    pub(super) paused: bool,
    /// Processes stand below their parents.
    pub(super) tree: bool,
    /// Whole paths and hashes.
    pub(super) wide: bool,
    /// Types that are shown; empty: all.
    pub(super) types: Vec<EventType>,
    /// Text that is looked for, in small letters; empty: any.
    pub(super) text: String,
    /// The text that is being typed.
    pub(super) prompt: Option<String>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            paused: false,
            tree: true,
            wide: false,
            types: Vec::new(),
            text: String::new(),
            prompt: None,
        }
    }
}

impl State {
    /// Whether a row is wanted.
    pub(super) fn shows(&self, row: &Row) -> bool {
        (self.types.is_empty() || self.types.contains(&row.event_type()))
            && (self.text.is_empty() || row.says(&self.text))
    }

    /// Whether anything is left out.
    pub(super) const fn filters(&self) -> bool {
        !self.types.is_empty() || !self.text.is_empty()
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: Key) -> Act {
        if let Some(text) = self.prompt.take() {
            return self.typed(text, key);
        }
        match key {
            Key::Char('q') => Act::Quit,
            Key::Char(' ') => {
                self.paused = !self.paused;
                Act::Status
            }
            Key::Char('t') => {
                self.tree = !self.tree;
                Act::Anew
            }
            Key::Char('w') => {
                self.wide = !self.wide;
                Act::Anew
            }
            Key::Char('?' | 'h') => Act::Help,
            Key::Char('/') => {
                self.prompt = Some(self.text.clone());
                Act::Status
            }
            Key::Char('0') => {
                self.types.clear();
                Act::Anew
            }
            Key::Char(digit) => self.toggle(digit),
            Key::Escape if self.filters() => {
                self.types.clear();
                self.text.clear();
                Act::Anew
            }
            Key::Enter | Key::Backspace | Key::Clear | Key::Escape => Act::Nothing,
        }
    }

    /// The first type that is chosen is the only one; then others come and go.
    fn toggle(&mut self, digit: char) -> Act {
        let Some((_, event_type)) = TYPES.iter().find(|(key, _)| *key == digit) else {
            return Act::Nothing;
        };
        match self.types.iter().position(|chosen| chosen == event_type) {
            Some(index) => drop(self.types.remove(index)),
            None => self.types.push(*event_type),
        }
        Act::Anew
    }

    fn typed(&mut self, mut text: String, key: Key) -> Act {
        match key {
            Key::Enter => {
                self.text = text.trim().to_lowercase();
                return Act::Anew;
            }
            Key::Escape => return Act::Status,
            Key::Backspace => drop(text.pop()),
            Key::Clear => text.clear(),
            Key::Char(character) if text.chars().count() < LONGEST_TEXT => text.push(character),
            Key::Char(_) => {}
        }
        self.prompt = Some(text);
        Act::Status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(keys: &str) -> (State, Act) {
        let mut state = State::default();
        let mut act = Act::Nothing;
        for key in keys.chars() {
            act = state.key(match key {
                '\n' => Key::Enter,
                '<' => Key::Backspace,
                '^' => Key::Clear,
                '\u{1b}' => Key::Escape,
                other => Key::Char(other),
            });
        }
        (state, act)
    }

    #[test]
    fn one_key_each() {
        assert_eq!(after("q").1, Act::Quit);
        assert_eq!(after("?").1, Act::Help);
        assert!(after(" ").0.paused && !after("  ").0.paused);
        assert!(!after("t").0.tree && after("tt").0.tree);
        assert!(after("w").0.wide && !after("ww").0.wide);
        assert_eq!(after("x9\n<^\u{1b}").1, Act::Nothing);
    }

    #[test]
    fn types_come_and_go() {
        assert_eq!(after("15").0.types, [EventType::Exec, EventType::Connect]);
        assert_eq!(after("151").0.types, [EventType::Connect]);
        assert!(!after("11").0.filters());
        assert!(!after("150").0.filters());
        assert!(!after("15\u{1b}").0.filters());
    }

    #[test]
    fn a_text_is_typed_and_nothing_else_happens_meanwhile() {
        let (state, act) = after("/Curl q t\n");
        assert_eq!((state.text.as_str(), act), ("curl q t", Act::Anew));
        assert!(state.tree && state.prompt.is_none());
        // It can be changed, left as it was, taken back and cleared.
        assert_eq!(after("/ab\n/<c\n").0.text, "ac");
        assert_eq!(after("/ab\n/xyz\u{1b}").0.text, "ab");
        assert_eq!(after("/ab\n/^\n").0.text, "");
        assert_eq!(after("/ab\n\u{1b}").0.text, "");
        assert_eq!(after("/ab").0.prompt.as_deref(), Some("ab"));
        let long = format!("/{}\n", "x".repeat(500));
        assert_eq!(after(&long).0.text.len(), LONGEST_TEXT);
    }
}
