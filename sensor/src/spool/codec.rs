//! Little-endian fields in and out of byte strings; what is read is never trusted.

use super::entry::{Counts, TYPES_MAX};

/// Fields into bytes.
#[derive(Debug, Default)]
pub(super) struct Encoder(Vec<u8>);

impl Encoder {
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(super) fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// The first [`TYPES_MAX`] types; `append` refuses packets that have more.
    pub(super) fn counts(&mut self, counts: &Counts) -> &mut Self {
        let types = counts.types().min(TYPES_MAX);
        self.u16(u16::try_from(types).unwrap_or(u16::MAX));
        for (event_type, events) in counts.iter().take(types) {
            self.u16(event_type).u64(events);
        }
        self
    }

    /// At most 255 bytes of text.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        let bytes = text.as_bytes();
        let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        self.u8(length)
            .bytes(bytes.get(..usize::from(length)).unwrap_or_default())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn so_far(&self) -> &[u8] {
        &self.0
    }

    /// Overwrites two bytes that were written as a place for a length.
    pub(super) fn patch_u16(&mut self, at: usize, value: u16) {
        let end = at.saturating_add(2);
        if let Some(place) = self.0.get_mut(at..end) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Bytes into fields; `None` when they end early or make no sense.
#[derive(Clone, Debug)]
pub(super) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn counts(&mut self) -> Option<Counts> {
        let types = usize::from(self.u16()?);
        if types > TYPES_MAX {
            return None;
        }
        let mut counts = Counts::new();
        for _ in 0..types {
            counts.add(self.u16()?, self.u64()?);
        }
        Some(counts)
    }

    pub(super) fn text(&mut self) -> Option<String> {
        let length = usize::from(self.u8()?);
        String::from_utf8(self.bytes(length)?.to_vec()).ok()
    }
}
