//! A million random and mutated records: the decoder refuses them or makes events of them, and never panics.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sensor::event::Context;
    use sensor_common::layout::KernelLayout;
    use sensor_common::record::{
        ConnectRecord, ExecRecord, ExitRecord, FileCloseRecord, FileCreateRecord, ForkRecord,
        Header, ModuleLoadRecord, Record, RecordKind, RecordRef, ScriptRecord, Text,
    };
    use sensor_fuzz::targets::decode::convert;
    use sensor_proto::json::write_json;

    const ROUNDS: u32 = 1_000_000;
    /// Printed with a failure, so that it can be had again.
    const SEED: u64 = 0x5e45_0a11_d00d_0001;

    /// A small generator (xorshift64*): the same sequence everywhere.
    struct Random(u64);

    impl Random {
        fn word(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        /// Below `limit`, which is not 0.
        fn below(&mut self, limit: usize) -> usize {
            usize::try_from(self.word() % u64::try_from(limit).unwrap()).unwrap()
        }

        fn bytes(&mut self, count: usize) -> Vec<u8> {
            let mut bytes = Vec::with_capacity(count + 8);
            while bytes.len() < count {
                bytes.extend(self.word().to_le_bytes());
            }
            bytes.truncate(count);
            bytes
        }

        /// A string of a record: often printable, sometimes with anything in it.
        fn text(&mut self, tail: &mut Vec<u8>) -> Text {
            let length = match self.below(8) {
                0 => 0,
                1 => self.below(600),
                _ => self.below(40),
            };
            let mut bytes = self.bytes(length);
            if self.below(3) > 0 {
                for byte in &mut bytes {
                    *byte = b' ' + *byte % 95;
                }
            }
            tail.extend(bytes);
            let len = u32::try_from(length).unwrap();
            let true_len = match self.below(6) {
                0 => Text::LONGER,
                1 if len == 0 => Text::ABSENT,
                2 => len + 7,
                _ => len,
            };
            Text { len, true_len }
        }
    }

    /// A head of random bytes with a right header, and the strings that it names.
    fn record<T: Record>(
        random: &mut Random,
        set: impl Fn(&mut T, &mut dyn FnMut() -> Text),
    ) -> Vec<u8> {
        let size = size_of::<T>();
        let mut head = T::read_from_bytes(&random.bytes(size)).unwrap();
        let mut tail = Vec::new();
        set(&mut head, &mut || random.text(&mut tail));
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend(tail);
        bytes[0..2].copy_from_slice(&(T::KIND as u16).to_ne_bytes());
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[4..8].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    fn valid(random: &mut Random) -> Vec<u8> {
        match random.below(RecordKind::ALL.len()) {
            0 => record(random, |head: &mut ExecRecord, text| {
                head.path = text();
                head.filename = text();
                head.interpreter = text();
                head.working_directory = text();
                head.arguments = text();
                head.environment = text();
            }),
            1 => record(random, |_: &mut ExitRecord, _| {}),
            2 => record(random, |_: &mut ForkRecord, _| {}),
            3 => record(random, |head: &mut ScriptRecord, text| head.path = text()),
            4 => record(random, |head: &mut FileCreateRecord, text| {
                head.path = text();
                head.other = text();
                head.how = u32::from(head.header.cpu % 8);
            }),
            5 => record(random, |_: &mut FileCloseRecord, _| {}),
            6 => record(random, |head: &mut ConnectRecord, text| head.path = text()),
            _ => record(random, |head: &mut ModuleLoadRecord, text| {
                head.path = text()
            }),
        }
    }

    /// A sample: random, right, or right with something changed.
    fn sample(random: &mut Random) -> Vec<u8> {
        let mut bytes = match random.below(8) {
            0 => {
                let length = random.below(900);
                return random.bytes(length);
            }
            1 => {
                // A right header before anything.
                let length = size_of::<Header>() + random.below(900);
                let mut bytes = random.bytes(length);
                let kind = RecordKind::ALL[random.below(RecordKind::ALL.len())];
                bytes[0..2].copy_from_slice(&(kind as u16).to_ne_bytes());
                bytes[4..8].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
                return bytes;
            }
            2..=4 => return valid(random),
            _ => valid(random),
        };
        for _ in 0..=random.below(4) {
            let place = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[place] ^= 1 << random.below(8),
                1 => bytes[place] = u8::MAX,
                2 => bytes.truncate(place.max(1)),
                _ => bytes.insert(place, 0),
            }
        }
        // Half of them with a size that fits again, so that more than the size is looked at.
        if random.below(2) == 0 && bytes.len() >= 8 {
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[4..8].copy_from_slice(&length.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn a_million_samples_never_panic() {
        let resolved = KernelLayout {
            values: [0; sensor_common::layout::Field::COUNT],
        };
        let layouts = [KernelLayout::EMPTY, resolved];
        let mut random = Random(SEED);
        let mut kinds: BTreeMap<RecordKind, u32> = BTreeMap::new();
        let mut errors: BTreeMap<&str, u32> = BTreeMap::new();
        let mut text = Vec::new();
        for round in 0..ROUNDS {
            let bytes = sample(&mut random);
            let record = match RecordRef::parse(&bytes) {
                Ok(record) => record,
                Err(error) => {
                    *errors.entry(error.name()).or_default() += 1;
                    continue;
                }
            };
            *kinds.entry(record.kind()).or_default() += 1;
            let context = Context {
                layout: &layouts[random.below(2)],
                wall_minus_boot_ns: i64::from_ne_bytes(random.word().to_ne_bytes()),
            };
            let event = convert(&context, &record);
            // JSON is what leaves: one in eight, since it costs most.
            if round % 8 == 0 {
                text.clear();
                write_json(&event, &mut text);
                let whole: Result<serde_json::Value, _> = serde_json::from_slice(&text);
                assert!(
                    whole.is_ok_and(|value| value.is_object()),
                    "round {round} of seed {SEED:#x}: {}",
                    String::from_utf8_lossy(&text)
                );
            }
        }
        // The test would prove nothing if the samples were all alike.
        for kind in RecordKind::ALL {
            assert!(
                kinds.get(kind).is_some_and(|count| *count > 10_000),
                "{kind:?}: {kinds:?}"
            );
        }
        for name in ["short", "unknown_kind", "size", "head", "tail"] {
            assert!(
                errors.get(name).is_some_and(|count| *count > 1_000),
                "{name}: {errors:?}"
            );
        }
    }
}
