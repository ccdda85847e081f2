//! How much memory a message takes once it is decoded, found before it is: two bytes on the wire can be an empty
//! message of a kilobyte in memory.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::wire::{Fields, Value, WireError};
use crate::schema::{self, Kind};

/// Messages in messages; the protobuf decoder follows 100.
const DEPTH: usize = 64;

/// Why a message is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Malformed(WireError),
    /// Messages in messages in messages.
    TooDeep,
    /// It takes more than the limit.
    TooMuch,
}

impl From<WireError> for Refused {
    fn from(error: WireError) -> Self {
        Self::Malformed(error)
    }
}

/// What a field takes.
#[derive(Clone, Copy, Debug)]
enum Cost {
    /// Nothing beyond its place in the message that holds it.
    Inline,
    /// A list of numbers: bytes for each.
    Numbers(usize),
    /// Its bytes, and so much for each.
    Bytes(usize),
    /// A message: its index, and what its place takes where that is not in the message that holds it.
    Message(usize, usize),
}

#[derive(Debug, Default)]
struct Plan {
    fields: HashMap<u32, Cost>,
}

static PLANS: LazyLock<(Vec<Plan>, HashMap<&'static str, usize>)> = LazyLock::new(|| {
    let index: HashMap<&'static str, usize> = (0..)
        .zip(schema::MESSAGES)
        .map(|(index, message)| (message.name, index))
        .collect();
    let plans = schema::MESSAGES
        .iter()
        .map(|message| Plan {
            fields: message
                .fields
                .iter()
                .map(|field| (field.number, cost(message.name, field, &index)))
                .collect(),
        })
        .collect();
    (plans, index)
});

fn cost(holder: &str, field: &schema::Field, index: &HashMap<&'static str, usize>) -> Cost {
    match field.kind {
        Kind::Message(name) => {
            let own = field.repeated || boxed(holder, name);
            let place = if own {
                inline(name, &mut Vec::new())
            } else {
                0
            };
            index
                .get(name)
                .map_or(Cost::Inline, |index| Cost::Message(*index, place))
        }
        Kind::Text | Kind::KernelText | Kind::Hex | Kind::Uuid | Kind::Ip | Kind::Mac => {
            Cost::Bytes(if field.repeated { VEC } else { 0 })
        }
        Kind::Bool
        | Kind::Unsigned(_)
        | Kind::Mask(_)
        | Kind::Signed(_)
        | Kind::Time
        | Kind::Enum(_) => {
            if field.repeated {
                Cost::Numbers(8)
            } else {
                Cost::Inline
            }
        }
    }
}

const VEC: usize = size_of::<Vec<u8>>();

/// A message that contains itself is behind a pointer there.
fn boxed(holder: &str, name: &str) -> bool {
    fn reaches(from: &str, to: &str, seen: &mut Vec<&'static str>) -> bool {
        let Some(message) = schema::message(from) else {
            return false;
        };
        if seen.contains(&message.name) {
            return false;
        }
        seen.push(message.name);
        message.fields.iter().any(|field| {
            if let Kind::Message(inner) = field.kind {
                !field.repeated && (inner == to || reaches(inner, to, seen))
            } else {
                false
            }
        })
    }
    name == holder || reaches(name, holder, &mut Vec::new())
}

/// At least the bytes that a message takes where it stands.
fn inline(name: &'static str, above: &mut Vec<&'static str>) -> usize {
    let Some(message) = schema::message(name) else {
        return 0;
    };
    if above.contains(&name) {
        return 8;
    }
    above.push(name);
    let mut sum = 8_usize;
    let mut rows: HashMap<&str, usize> = HashMap::new();
    for field in message.fields {
        let bytes = match field.kind {
            _ if field.repeated => VEC,
            Kind::Message(inner) => inline(inner, above).saturating_add(8),
            Kind::Text | Kind::KernelText | Kind::Hex | Kind::Uuid | Kind::Ip | Kind::Mac => VEC,
            Kind::Bool
            | Kind::Unsigned(_)
            | Kind::Mask(_)
            | Kind::Signed(_)
            | Kind::Time
            | Kind::Enum(_) => {
                if field.presence {
                    16
                } else {
                    8
                }
            }
        };
        match field.oneof {
            Some(oneof) => {
                let largest = rows.entry(oneof).or_default();
                *largest = (*largest).max(bytes);
            }
            None => sum = sum.saturating_add(bytes),
        }
    }
    above.pop();
    rows.values().fold(sum, |sum, row| sum.saturating_add(*row))
}

/// Bytes of memory that an encoded message of that name takes once it is decoded, roughly and rather too many.
///
/// # Errors
/// [`Refused`], also when it would be more than `limit`.
pub(super) fn decoded_bytes(name: &str, encoded: &[u8], limit: usize) -> Result<usize, Refused> {
    let (plans, index) = &*PLANS;
    let mut left = limit;
    if let Some(index) = index.get(name) {
        spend(plans, *index, encoded, &mut left, 0)?;
    }
    Ok(limit.saturating_sub(left))
}

fn spend(
    plans: &[Plan],
    index: usize,
    encoded: &[u8],
    left: &mut usize,
    depth: usize,
) -> Result<(), Refused> {
    if depth > DEPTH {
        return Err(Refused::TooDeep);
    }
    let Some(plan) = plans.get(index) else {
        return Ok(());
    };
    for field in Fields::of(encoded) {
        let (number, value) = field?;
        // What this build does not know is passed over by the decoder as well.
        let Some(cost) = plan.fields.get(&number) else {
            continue;
        };
        let bytes = match (cost, value) {
            (Cost::Message(_, place), _) => *place,
            (Cost::Bytes(each), Value::Bytes(bytes)) => bytes.len().saturating_add(*each),
            (Cost::Numbers(each), Value::Bytes(packed)) => packed.len().saturating_mul(*each),
            (Cost::Numbers(each), _) => *each,
            (Cost::Inline | Cost::Bytes(_), _) => 0,
        };
        *left = left.checked_sub(bytes).ok_or(Refused::TooMuch)?;
        if let (Cost::Message(inner, _), Value::Bytes(bytes)) = (cost, value) {
            spend(plans, *inner, bytes, left, depth.saturating_add(1))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::v1;

    /// The reckoning is never below what a type really takes.
    #[test]
    fn places_are_at_least_as_large_as_the_types() {
        for (name, bytes) in [
            ("Event", size_of::<v1::Event>()),
            ("Process", size_of::<v1::Process>()),
            ("FileInfo", size_of::<v1::FileInfo>()),
            ("LedgerRow", size_of::<v1::LedgerRow>()),
            ("Tombstone", size_of::<v1::Tombstone>()),
            ("EnvironmentVariable", size_of::<v1::EnvironmentVariable>()),
            ("Group", size_of::<v1::Group>()),
            ("Absent", size_of::<v1::Absent>()),
            ("CauseCount", size_of::<v1::CauseCount>()),
            ("ProgramMisses", size_of::<v1::ProgramMisses>()),
            ("SinkReport", size_of::<v1::SinkReport>()),
            ("TypeCount", size_of::<v1::TypeCount>()),
        ] {
            let reckoned = inline(schema::message(name).unwrap().name, &mut Vec::new());
            assert!(reckoned >= bytes, "{name}: {reckoned} < {bytes}");
            assert!(reckoned < 4 * bytes, "{name}: {reckoned} for {bytes}");
        }
    }

    #[test]
    fn empty_messages_are_not_free() {
        // A list of 1,000 empty events: two bytes each.
        let encoded: Vec<u8> = [0x22, 0x00].repeat(1_000);
        let bytes = decoded_bytes("PacketBody", &encoded, usize::MAX).unwrap();
        assert!(bytes >= 1_000 * size_of::<v1::Event>());
        assert_eq!(
            decoded_bytes("PacketBody", &encoded, 100_000),
            Err(Refused::TooMuch)
        );
        // The same two levels down.
        let process = v1::Process {
            script_chain: vec![v1::FileInfo::default(); 1_000],
            ..v1::Process::default()
        };
        let body = v1::PacketBody {
            processes: vec![process],
            ..v1::PacketBody::default()
        };
        let bytes = decoded_bytes("PacketBody", &body.encode_to_vec(), usize::MAX).unwrap();
        assert!(bytes >= 1_000 * size_of::<v1::FileInfo>());
    }

    #[test]
    fn a_chain_of_samples_is_too_deep() {
        let mut event = v1::Event::default();
        for _ in 0..50 {
            event = v1::Event {
                body: Some(v1::event::Body::Aggregate(Box::new(v1::Aggregate {
                    sample: Some(Box::new(event)),
                    ..v1::Aggregate::default()
                }))),
                ..v1::Event::default()
            };
        }
        let body = v1::PacketBody {
            events: vec![event],
            ..v1::PacketBody::default()
        };
        assert_eq!(
            decoded_bytes("PacketBody", &body.encode_to_vec(), usize::MAX),
            Err(Refused::TooDeep)
        );
    }
}
