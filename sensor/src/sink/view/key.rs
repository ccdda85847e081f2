//! Bytes that a terminal sends, as keys. What it sends for keys that mean nothing here (arrows, function keys, mouse) is passed over
//! whole, so that no part of it is taken for a letter.

/// A key that may mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A character that can be seen, or a space.
    Char(char),
    /// Return.
    Enter,
    /// Backspace.
    Backspace,
    /// The whole input is to be taken back (Ctrl-U).
    Clear,
    /// Escape, alone.
    Escape,
}

const ESCAPE: u8 = 0x1b;
/// A sequence is no longer than this.
const LONGEST: usize = 64;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Ground,
    /// After Escape.
    Escaped,
    /// In `ESC [ ... letter`, after so many bytes.
    Sequence(usize),
    /// One more byte belongs to it: `ESC O x`.
    OneMore,
}

/// Takes bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Keys {
    state: State,
    /// A character that has not come whole.
    character: Vec<u8>,
}

impl Keys {
    /// Whether an Escape waits for what may follow it.
    pub(super) const fn waits(&self) -> bool {
        !matches!(self.state, State::Ground)
    }

    /// Nothing more comes: Escape was a key of its own.
    pub(super) fn settle(&mut self) -> Option<Key> {
        let state = std::mem::take(&mut self.state);
        (state == State::Escaped).then_some(Key::Escape)
    }

    /// The key that ends with this byte, if one does.
    pub(super) fn byte(&mut self, byte: u8) -> Option<Key> {
        match self.state {
            State::Ground => self.ground(byte),
            State::Escaped => {
                self.state = match byte {
                    b'[' => State::Sequence(0),
                    b'O' => State::OneMore,
                    ESCAPE => return Some(Key::Escape),
                    // Alt and a key: nothing here.
                    _ => State::Ground,
                };
                None
            }
            State::Sequence(length) => {
                let ends = matches!(byte, 0x40..=0x7e) || length >= LONGEST;
                self.state = if ends {
                    State::Ground
                } else {
                    State::Sequence(length + 1)
                };
                None
            }
            State::OneMore => {
                self.state = State::Ground;
                None
            }
        }
    }

    fn ground(&mut self, byte: u8) -> Option<Key> {
        if byte >= 0x80 {
            return self.part(byte);
        }
        self.character.clear();
        match byte {
            ESCAPE => {
                self.state = State::Escaped;
                None
            }
            b'\r' | b'\n' => Some(Key::Enter),
            0x08 | 0x7f => Some(Key::Backspace),
            0x15 => Some(Key::Clear),
            0x20..=0x7e => Some(Key::Char(char::from(byte))),
            _ => None,
        }
    }

    /// A byte of a character that has several.
    fn part(&mut self, byte: u8) -> Option<Key> {
        self.character.push(byte);
        let whole = match std::str::from_utf8(&self.character) {
            Ok(text) => text.chars().next(),
            Err(error) if error.error_len().is_none() && self.character.len() < 4 => return None,
            Err(_) => None,
        };
        self.character.clear();
        whole.filter(|c| !c.is_control()).map(Key::Char)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        let mut found: Vec<Key> = bytes.iter().filter_map(|byte| keys.byte(*byte)).collect();
        found.extend(keys.settle());
        found
    }

    #[test]
    fn letters_and_what_edits_them() {
        assert_eq!(
            keys("q ä漢\r\x7f\x08\x15".as_bytes()),
            [
                Key::Char('q'),
                Key::Char(' '),
                Key::Char('ä'),
                Key::Char('漢'),
                Key::Enter,
                Key::Backspace,
                Key::Backspace,
                Key::Clear,
            ]
        );
    }

    #[test]
    fn sequences_are_passed_over_whole() {
        assert_eq!(
            keys(b"\x1b[A\x1b[1;5q\x1bOq\x1b[<0;1;1Mx"),
            [Key::Char('x')]
        );
        assert_eq!(keys(b"\x1bq"), []);
        assert_eq!(keys(b"\x1b"), [Key::Escape]);
        assert_eq!(keys(b"\x1b\x1b"), [Key::Escape, Key::Escape]);
        assert_eq!(keys(b"\xff\xc3q\x01\x04"), [Key::Char('q')]);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for key in keys(&bytes) {
                if let Key::Char(character) = key {
                    prop_assert!(!character.is_control());
                }
            }
        }
    }
}
