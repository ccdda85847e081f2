//! What is left of a message when parts of it are told elsewhere: for views in other schemas, which have names of their own for
//! some fields and put the others, as they are, under one name.
//!
//! A field that is told elsewhere is written nevertheless where its value says more than the other schema can:
//! - a number beyond 63 bits, an enumeration's value that this build does not know, an address or identity of another length
//!   than such have;
//! - of text that is not UTF-8 the raw form, `*_raw`.
//!
//! Lists of absent fields are written always.

use super::{ToJson, Writer};

/// A message of which a part can be written; implemented for every message of the schema by the build script.
pub trait ToRest: ToJson {
    /// Appends the fields that are not told elsewhere, each with a comma behind it, without brackets. Of an event, the body is not among them.
    fn write_rest(&self, w: &mut Writer<'_>, told: Told<'_>);
}

impl<T: ToRest> ToRest for Box<T> {
    fn write_rest(&self, w: &mut Writer<'_>, told: Told<'_>) {
        self.as_ref().write_rest(w, told);
    }
}

/// Which fields of a message are told elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Omit {
    /// A bit for each field number below 64.
    fields: u64,
    /// Of these fields, which are messages, a part is.
    within: Vec<(u32, Omit)>,
}

impl Omit {
    /// The field of that number is told elsewhere. Numbers from 64 on are those of parts ([`Omit::part`]) and have no effect.
    pub fn field(&mut self, number: u32) {
        self.fields |= bit(number);
    }

    /// Of the field of that number, which is a message, a part is told elsewhere.
    pub fn part(&mut self, number: u32, omit: Omit) {
        self.within.push((number, omit));
    }

    /// Of the field of that number, which is a message, nothing is told elsewhere after all.
    pub fn whole(&mut self, number: u32) {
        self.fields &= !bit(number);
        self.within.retain(|(part, _)| *part != number);
    }

    /// Nothing is told elsewhere.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields == 0 && self.within.is_empty()
    }

    /// What is told, for [`ToRest::write_rest`].
    #[must_use]
    pub fn told(&self) -> Told<'_> {
        Told {
            fields: self.fields,
            within: &self.within,
        }
    }

    /// The same, if `told`; else nothing is.
    #[must_use]
    pub fn told_if(&self, told: bool) -> Told<'_> {
        if told { self.told() } else { Told::NOTHING }
    }
}

/// What an [`Omit`] says, with exceptions.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    fields: u64,
    within: &'a [(u32, Omit)],
}

impl Told<'_> {
    /// Nothing is told elsewhere.
    pub const NOTHING: Told<'static> = Told {
        fields: 0,
        within: &[],
    };

    /// The same, but for the field of that number: this time it is not told elsewhere.
    #[must_use]
    pub fn but(self, number: u32) -> Self {
        Self {
            fields: self.fields & !bit(number),
            ..self
        }
    }

    pub(super) fn tells(self, number: u32) -> bool {
        self.fields & bit(number) != 0
    }

    pub(super) fn tells_number(self, number: u32, value: u64) -> bool {
        self.tells(number) && i64::try_from(value).is_ok()
    }
}

fn bit(number: u32) -> u64 {
    1_u64.checked_shl(number).unwrap_or(0)
}

impl Writer<'_> {
    /// A field that is a message, whole or in part.
    pub(super) fn rest_field(
        &mut self,
        key: &[u8],
        number: u32,
        value: &impl ToRest,
        told: Told<'_>,
    ) {
        if told.tells(number) {
            return;
        }
        let part = told.within.iter().find(|(field, _)| *field == number);
        let Some((_, omit)) = part else {
            self.key(key);
            value.write_json(self);
            return self.comma();
        };
        let start = self.out.len();
        self.key(key);
        self.begin();
        let empty = self.out.len();
        value.write_rest(self, omit.told());
        if self.out.len() == empty {
            self.out.truncate(start);
        } else {
            self.end();
            self.comma();
        }
    }

    /// Kernel text, or what its telling elsewhere has lost.
    pub(super) fn rest_text(&mut self, key: &[u8], raw_key: &[u8], value: &[u8], told: bool) {
        if !told {
            self.kernel_text_field(key, raw_key, value);
        } else if std::str::from_utf8(value).is_err() {
            self.key(raw_key);
            self.hex(value);
            self.comma();
        }
    }

    /// A list of kernel texts, or what its telling elsewhere has lost.
    pub(super) fn rest_texts(&mut self, key: &[u8], raw_key: &[u8], list: &[Vec<u8>], told: bool) {
        if !told {
            self.kernel_texts(key, raw_key, list);
        } else if list.iter().any(|value| std::str::from_utf8(value).is_err()) {
            self.list(raw_key, list, |w, value| w.hex(value));
        }
    }
}
