//! A packet as the node takes it: opened by `sensor_proto::packet`, with its place in the store. Pure; bounded by the limits
//! given. Refuses to look at anything that was stored before.

use sensor_proto::packet::{OpenError, OpenedPacket};
use sensor_proto::v1;

pub use sensor_proto::packet::{Digest, Limits, digest};

/// Place of a packet: (epoch, stream, sequence); the agent is the certificate's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Epoch of the agent.
    pub epoch: [u8; 16],
    /// Number of the stream (`v1::Stream`).
    pub stream: i32,
    /// Sequence number, from 1.
    pub sequence: i64,
}

/// A packet that is what it says.
#[derive(Debug)]
pub struct Packet {
    /// The bytes as they came.
    pub bytes: Vec<u8>,
    /// Where it belongs.
    pub place: Place,
    /// Digest of the packet before.
    pub previous: Option<Digest>,
    /// What it says.
    pub opened: OpenedPacket,
}

/// Why a packet is refused for good.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A value that cannot be stored.
    #[error("{part}: {problem}")]
    Value {
        /// Where in the packet.
        part: &'static str,
        /// What is wrong there.
        problem: &'static str,
    },
}

impl Fault {
    const fn value(part: &'static str, problem: &'static str) -> Self {
        Self::Value { part, problem }
    }

    /// The reason that is told to the agent.
    #[must_use]
    pub const fn reason(&self) -> v1::RefusalReason {
        match self {
            Self::Open(
                OpenError::TooLarge { .. }
                | OpenError::BodyTooLarge { .. }
                | OpenError::Memory { .. },
            ) => v1::RefusalReason::TooLarge,
            Self::Open(OpenError::Compression(_)) => v1::RefusalReason::Schema,
            Self::Open(
                OpenError::Malformed { .. }
                | OpenError::Header { .. }
                | OpenError::Decompress { .. }
                | OpenError::Body { .. }
                | OpenError::Contradiction { .. },
            )
            | Self::Value { .. } => v1::RefusalReason::Malformed,
        }
    }
}

fn array<const N: usize>(bytes: &[u8], part: &'static str) -> Result<[u8; N], Fault> {
    bytes
        .try_into()
        .map_err(|_error| Fault::value(part, "wrong length"))
}

/// Agent and place of a packet, without opening its body: what can be said of a packet that is refused.
#[must_use]
pub fn place(bytes: &[u8], limits: &Limits) -> Option<([u8; 16], Place)> {
    let (header, _) = sensor_proto::packet::read_header(bytes, limits).ok()?;
    let agent = array(&header.agent_id, "header.agent_id").ok()?;
    Some((agent, place_of(&header).ok()?))
}

fn place_of(header: &v1::PacketHeader) -> Result<Place, Fault> {
    Ok(Place {
        epoch: array(&header.epoch, "header.epoch")?,
        stream: header.stream,
        sequence: i64::try_from(header.sequence)
            .map_err(|_error| Fault::value("header.sequence", "out of range"))?,
    })
}

/// Opens a packet, and checks what the store relies on beyond that.
///
/// # Errors
/// [`Fault`].
pub fn open(bytes: Vec<u8>, limits: &Limits) -> Result<Packet, Fault> {
    let opened = sensor_proto::packet::open(&bytes, limits)?;
    let (header, body) = (opened.header(), opened.body());
    let place = place_of(header)?;
    let previous = match &header.previous_digest {
        Some(previous) => Some(array(previous, "header.previous_digest")?),
        None => None,
    };
    check_counters(&body.events)?;
    check_ledger(body)?;
    Ok(Packet {
        bytes,
        place,
        previous,
        opened,
    })
}

/// Numbers of events are in range, each once.
fn check_counters(events: &[v1::Event]) -> Result<(), Fault> {
    let part = "event.id.counter";
    let mut counters = Vec::with_capacity(events.len());
    for event in events {
        let counter = event.id.as_ref().map_or(0, |id| id.counter);
        if counter == 0 || i64::try_from(counter).is_err() {
            return Err(Fault::value(part, "out of range"));
        }
        counters.push(counter);
    }
    counters.sort_unstable();
    if counters.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(Fault::value(part, "twice"));
    }
    Ok(())
}

/// There is an account, and no row is told twice.
fn check_ledger(body: &v1::PacketBody) -> Result<(), Fault> {
    let ledger = body
        .ledger
        .as_ref()
        .ok_or(Fault::value("body.ledger", "missing"))?;
    let mut names: Vec<&str> = ledger.rows.iter().map(|row| row.name.as_str()).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair.first() == pair.last()) {
        return Err(Fault::value("body.ledger.rows", "a name twice"));
    }
    Ok(())
}
