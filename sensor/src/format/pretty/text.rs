//! Text that is safe to print, measured in columns of a terminal; numbers for people.

use std::borrow::Cow;

use unicode_width::UnicodeWidthChar as _;

/// What one text may contribute to a line when nothing limits the line.
pub(super) const MAX_TEXT_BYTES: usize = 8_192;
/// Where a text was cut.
pub(super) const CUT: char = '…';

/// Which end of a text that is too long is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    Head,
    Tail,
}

/// `13:37:00.042`
pub(super) fn time(time_ns: i64) -> String {
    let millis = time_ns.div_euclid(1_000_000).rem_euclid(86_400_000);
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let (seconds, millis) = (millis / 1_000 % 60, millis % 1_000);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{millis:03}")
}

/// A span of time in two to four digits and a unit.
pub(super) fn span(ns: u64) -> String {
    const UNITS: [(u64, &str); 5] = [
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
    ];
    scaled(ns, &UNITS, "ns")
}

pub(super) fn bytes(count: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1 << 40, " TiB"),
        (1 << 30, " GiB"),
        (1 << 20, " MiB"),
        (1 << 10, " KiB"),
    ];
    scaled(count, &UNITS, " B")
}

fn scaled(value: u64, units: &[(u64, &str)], smallest: &str) -> String {
    match units.iter().find(|(factor, _)| value >= *factor) {
        Some((factor, unit)) if value / factor < 10 => {
            format!("{}.{}{unit}", value / factor, value % factor * 10 / factor)
        }
        Some((factor, unit)) => format!("{}{unit}", value / factor),
        None => format!("{value}{smallest}"),
    }
}

/// Bytes from outside as text that is safe to print: control characters, characters that reorder text
/// and bytes that are not UTF-8 are escaped.
pub fn clean(bytes: &[u8]) -> Cow<'_, str> {
    let plain = |byte: &u8| matches!(byte, 0x20..=0x7e);
    if bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes);
    }
    let bytes = bytes.get(..MAX_TEXT_BYTES).unwrap_or(bytes);
    let mut text = String::with_capacity(bytes.len() + 16);
    // An accent or two on a letter is a name; a pile of them is an attack on the lines above.
    let mut accents = 0;
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let columns = character.width().unwrap_or_default();
            accents = if columns == 0 { accents + 1 } else { 0 };
            let marks = columns == 0 && (accents > 2 || text.is_empty());
            if character.is_control() || is_format(character) || marks {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    Cow::Owned(text)
}

/// Characters without a form of their own that change how their neighbours are shown: marks of direction, joiners, separators,
/// tags, variation selectors.
pub(super) const fn is_format(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Columns of a text on a terminal.
pub(super) fn columns(text: &str) -> usize {
    text.chars()
        .map(|character| character.width().unwrap_or_default())
        .sum()
}

/// The text, or as much of it as so many columns hold, with a mark where it was cut; and its columns.
pub(super) fn fit(text: &str, room: usize, keep: Keep, mark: char) -> (Cow<'_, str>, usize) {
    let width = columns(text);
    if width <= room {
        return (Cow::Borrowed(text), width);
    }
    if room == 0 {
        return (Cow::Borrowed(""), 0);
    }
    let mut used = 1;
    let mut fits = |character: &char| {
        used += character.width().unwrap_or_default();
        used <= room
    };
    let cut = match keep {
        Keep::Head => {
            let mut cut: String = text.chars().take_while(&mut fits).collect();
            cut.push(mark);
            cut
        }
        Keep::Tail => {
            let mut cut: Vec<char> = text.chars().rev().take_while(&mut fits).collect();
            cut.push(mark);
            cut.into_iter().rev().collect()
        }
    };
    let width = columns(&cut);
    (Cow::Owned(cut), width)
}

/// The text for a terminal that knows ASCII only: everything else is escaped.
pub(super) fn ascii(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            CUT => plain.push('~'),
            _ if character.is_ascii() => plain.push(character),
            _ => plain.extend(character.escape_unicode()),
        }
    }
    Cow::Owned(plain)
}
