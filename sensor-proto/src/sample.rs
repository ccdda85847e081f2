//! Messages filled by their descriptor, for tests: a field added to the schema is filled and compared without a word here.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends by panicking, at the line where it went wrong"
)]

use std::sync::LazyLock;

use prost::Message as _;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value,
};

use crate::schema;

/// The compiled schema.
#[must_use]
pub fn pool() -> DescriptorPool {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET).unwrap());
    POOL.clone()
}

/// Makes messages from a seed.
#[derive(Debug)]
pub struct Filler {
    state: u64,
    /// Every field is set (of a oneof, one); else each that can be absent with even chance.
    pub full: bool,
    /// Messages may contain themselves this often.
    depth: usize,
}

impl Filler {
    /// The same seed gives the same messages.
    #[must_use]
    pub fn new(seed: u64, full: bool) -> Self {
        Self {
            state: seed ^ 0x9e37_79b9_7f4a_7c15,
            full,
            depth: 1,
        }
    }

    /// splitmix64.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number() % u64::try_from(limit).unwrap()).unwrap()
    }

    /// A message with its fields set.
    pub fn message(&mut self, of: &MessageDescriptor) -> DynamicMessage {
        let message = self.fill(of, &mut Vec::new());
        // As a reader gets it: a default value that has no presence is the same as none.
        DynamicMessage::decode(of.clone(), message.encode_to_vec().as_slice()).unwrap()
    }

    /// A message of that name within `sensor.v1`, as its generated type.
    pub fn typed<M: prost::Message + Default>(&mut self, name: &str) -> M {
        let of = pool()
            .get_message_by_name(&format!("sensor.v1.{name}"))
            .unwrap();
        M::decode(self.message(&of).encode_to_vec().as_slice()).unwrap()
    }

    fn fill(&mut self, of: &MessageDescriptor, above: &mut Vec<String>) -> DynamicMessage {
        above.push(of.full_name().to_owned());
        let mut message = DynamicMessage::new(of.clone());
        for field in of.fields().filter(|field| !in_oneof(field)) {
            self.set(&mut message, &field, above);
        }
        for oneof in of.oneofs().filter(|oneof| !oneof.is_synthetic()) {
            let rows: Vec<_> = oneof.fields().collect();
            let row = self.below(rows.len());
            self.set(&mut message, &rows[row], above);
        }
        above.pop();
        message
    }

    fn set(
        &mut self,
        message: &mut DynamicMessage,
        field: &FieldDescriptor,
        above: &mut Vec<String>,
    ) {
        let always = !field.supports_presence() && field.cardinality() != Cardinality::Repeated;
        if !self.full && !always && self.number().is_multiple_of(2) {
            return;
        }
        if let Kind::Message(of) = field.kind() {
            let depth = above.iter().filter(|name| *name == of.full_name()).count();
            if depth > self.depth {
                return;
            }
        }
        let value = if field.cardinality() == Cardinality::Repeated {
            let len = 1 + self.below(3);
            Value::List((0..len).map(|_| self.value(field, above)).collect())
        } else {
            self.value(field, above)
        };
        message.set_field(field, value);
    }

    fn value(&mut self, field: &FieldDescriptor, above: &mut Vec<String>) -> Value {
        let bits = self.number();
        // Small and large numbers alike.
        let number = bits >> self.below(64);
        let low = u32::try_from(number & 0xffff_ffff).unwrap();
        match field.kind() {
            Kind::Bool => Value::Bool(self.full || bits.is_multiple_of(2)),
            Kind::Uint32 | Kind::Fixed32 if field.full_name() == "sensor.v1.Absent.field" => {
                Value::U32(u32::try_from(1 + bits % 45).unwrap())
            }
            Kind::Uint32 | Kind::Fixed32 => Value::U32(low),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(number),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(low.cast_signed()),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(bits.cast_signed()),
            Kind::String => Value::String(self.text()),
            Kind::Bytes => {
                let row = field.parent_message().name().to_owned();
                let kind = schema::message(&row)
                    .and_then(|row| row.fields.iter().find(|known| known.name == field.name()))
                    .map(|known| known.kind);
                Value::Bytes(self.bytes(kind).into())
            }
            Kind::Enum(of) => {
                let values: Vec<_> = of.values().map(|value| value.number()).collect();
                let index = self.below(values.len() + 1);
                // One more than there are: a number of a newer schema.
                Value::EnumNumber(values.get(index).copied().unwrap_or(77_777))
            }
            Kind::Message(of) => Value::Message(self.fill(&of, above)),
            Kind::Float | Kind::Double => panic!("{}: the schema has no floats", field.full_name()),
        }
    }

    fn text(&mut self) -> String {
        let chars = [
            'a', '/', '"', '\\', '\u{1b}', '\n', '\u{7f}', 'ß', '\u{202e}', '\u{2028}', '😀', '\0',
        ];
        let len = self.below(12);
        (0..len).map(|_| chars[self.below(chars.len())]).collect()
    }

    fn bytes(&mut self, kind: Option<schema::Kind>) -> Vec<u8> {
        let len = match kind {
            Some(schema::Kind::Uuid) => 16,
            Some(schema::Kind::Ip) => [4, 16, 5][self.below(3)],
            Some(schema::Kind::KernelText) if self.number().is_multiple_of(2) => {
                return self.text().into_bytes();
            }
            _ => self.below(20),
        };
        (0..len).map(|_| self.number().to_le_bytes()[0]).collect()
    }
}

fn in_oneof(field: &FieldDescriptor) -> bool {
    field
        .containing_oneof()
        .is_some_and(|oneof| !oneof.is_synthetic())
}
