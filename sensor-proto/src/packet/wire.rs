//! Reading the wire format of protobuf without decoding it.

/// One field as it stands in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint,
    Fixed32,
    Fixed64,
    Bytes(&'a [u8]),
}

/// What is no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a protobuf message at byte {offset}")]
pub(super) struct WireError {
    /// Where, from the beginning of the message.
    pub(super) offset: usize,
}

/// Fields of a message, one after another.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    length: usize,
    failed: bool,
}

impl<'a> Fields<'a> {
    pub(super) const fn of(message: &'a [u8]) -> Self {
        Self {
            rest: message,
            length: message.len(),
            failed: false,
        }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            // Bits beyond the 64th are dropped, as every decoder does.
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u32, Value<'a>)> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0)?;
        let value = match key & 7 {
            0 => {
                self.varint()?;
                Value::Varint
            }
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Value::Fixed32
            }
            // Groups: no writer of proto3 makes them.
            _ => return None,
        };
        Some((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        let offset = self.length.saturating_sub(self.rest.len());
        let field = self.field();
        self.failed = field.is_none();
        Some(field.ok_or(WireError { offset }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_order_and_damage_has_a_place() {
        let bytes = [
            0x08, 0x96, 0x01, // 1: varint
            0x12, 0x02, b'h', b'i', // 2: bytes
            0x1d, 1, 2, 3, 4, // 3: fixed32
            0x21, 1, 2, 3, 4, 5, 6, 7, 8, // 4: fixed64
        ];
        let all: Vec<_> = Fields::of(&bytes).map(Result::unwrap).collect();
        assert_eq!(
            all,
            [
                (1, Value::Varint),
                (2, Value::Bytes(b"hi")),
                (3, Value::Fixed32),
                (4, Value::Fixed64)
            ]
        );
        for cut in [1, 2, 4, 6, 8, 20] {
            let mut fields = Fields::of(&bytes[..cut]);
            assert!(fields.any(|field| field.is_err()), "cut at {cut}");
            assert!(fields.next().is_none());
        }
        let group = Fields::of(&[0x08, 0x01, 0x0b]).last().unwrap();
        assert_eq!(group, Err(WireError { offset: 2 }));
        // A length beyond the end, a varint without end, field number 0.
        for bytes in [&[0x12, 0xff, 0x01, 0][..], &[0xff; 12], &[0x00, 0x01]] {
            Fields::of(bytes).next().unwrap().unwrap_err();
        }
    }
}
