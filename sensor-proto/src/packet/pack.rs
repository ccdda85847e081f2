//! From events to the bytes of a packet.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use prost::Message as _;

use super::columns::{self, Base, Rows};
use super::{Digest, stream_of};
use crate::{SCHEMA_VERSION, v1};

/// Compression level: beyond it, time grows faster than packets shrink.
const LEVEL: i32 = 3;

/// What a packet is called, and when and where it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Identity of the agent: 16 bytes of a UUID.
    pub agent_id: [u8; 16],
    /// The epoch of its state.
    pub epoch: [u8; 16],
    /// Stream.
    pub stream: v1::Stream,
    /// Place in the stream: 1, 2, 3, ...
    pub sequence: u64,
    /// Digest of the packet before it; none for the first.
    pub previous: Option<Digest>,
    /// Now, by the wall clock, ns since 1970.
    pub sealed_time_ns: i64,
    /// Boot of the host.
    pub boot_id: [u8; 16],
    /// This run of the daemon.
    pub run_id: [u8; 16],
    /// Time up to which the stream is accounted for, by the boot clock: what a heartbeat says.
    pub accounted_boot_ns: u64,
}

/// A packet, ready to be kept and sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Packed {
    /// An encoded `TelemetryPacket`.
    pub bytes: Vec<u8>,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// Events by type, in the order of the types' numbers.
    pub counts: Vec<(v1::EventType, u64)>,
    /// Time of the earliest event by the boot clock; none of a heartbeat.
    pub first_boot_ns: Option<u64>,
    /// Time of the latest event, or of a heartbeat, by the boot clock.
    pub last_boot_ns: u64,
    /// Length of the body before compression.
    pub body_bytes: usize,
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed")
            .field("bytes", &self.bytes.len())
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

/// Why no packet was made. All but the last are faults of the caller.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// An event has no counter, or another agent's identity.
    #[error("event {index} has no id of this agent")]
    Id {
        /// Position in the list.
        index: usize,
    },
    /// An event belongs to another stream.
    #[error("event {index} belongs to another stream")]
    Stream {
        /// Position in the list.
        index: usize,
    },
    /// Two rows describe the same program of the same process.
    #[error("two rows of the same process")]
    DuplicateRow,
    /// The sequence is 0, or only one of sequence and previous digest is that of a first packet.
    #[error("sequence {sequence} does not go with its previous digest")]
    Chain {
        /// The sequence.
        sequence: u64,
    },
    /// The compressor failed: no memory.
    #[error("cannot compress")]
    Compress(#[source] io::Error),
}

/// Makes packets; keeps the compressor's memory (about 1 MiB) between them.
pub struct Packer {
    compressor: zstd::bulk::Compressor<'static>,
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    /// A packer.
    ///
    /// # Errors
    /// [`PackError::Compress`].
    pub fn new() -> Result<Self, PackError> {
        let compressor = zstd::bulk::Compressor::new(LEVEL).map_err(PackError::Compress)?;
        Ok(Self { compressor })
    }

    /// Seals a body whose events and rows are whole: ids with the counter alone or with this agent's identity, rows each once.
    /// Columns, and what the header has for all of them, are set here.
    ///
    /// # Errors
    /// [`PackError`]; then nothing was made.
    pub fn pack(&mut self, label: &Label, body: v1::PacketBody) -> Result<Packed, PackError> {
        if label.sequence == 0 || (label.sequence == 1) != label.previous.is_none() {
            return Err(PackError::Chain {
                sequence: label.sequence,
            });
        }
        let mut counts: BTreeMap<i32, (v1::EventType, u64)> = BTreeMap::new();
        let (mut first_boot_ns, mut last_boot_ns) = (None::<u64>, None::<u64>);
        for (index, event) in body.events.iter().enumerate() {
            let own = |field: &Option<Vec<u8>>, label: &[u8; 16]| {
                field.as_ref().is_none_or(|bytes| bytes == label)
            };
            let id = event.id.as_ref().ok_or(PackError::Id { index })?;
            if !own(&id.agent_id, &label.agent_id) || !own(&id.epoch, &label.epoch) {
                return Err(PackError::Id { index });
            }
            if stream_of(event) != label.stream {
                return Err(PackError::Stream { index });
            }
            let event_type = event.event_type();
            let count = counts.entry(event_type.into()).or_insert((event_type, 0));
            count.1 = count.1.saturating_add(1);
            let time = event.time_boot_ns;
            first_boot_ns = Some(first_boot_ns.map_or(time, |first| first.min(time)));
            last_boot_ns = Some(last_boot_ns.map_or(time, |last| last.max(time)));
        }
        let counts: Vec<_> = counts.into_values().collect();
        let last_boot_ns = last_boot_ns.unwrap_or(label.accounted_boot_ns);
        let base = Base::new(
            label.boot_id,
            label.sealed_time_ns,
            first_boot_ns.unwrap_or(0),
            body.wall_minus_boot_ns,
        );
        let encoded = slim(body, &base)?.encode_to_vec();
        let compressed = self
            .compressor
            .compress(&encoded)
            .map_err(PackError::Compress)?;
        let header = v1::PacketHeader {
            schema_version: SCHEMA_VERSION,
            agent_id: label.agent_id.to_vec(),
            epoch: label.epoch.to_vec(),
            stream: label.stream.into(),
            sequence: label.sequence,
            previous_digest: label.previous.map(|digest| digest.to_vec()),
            sealed_time_ns: label.sealed_time_ns,
            boot_id: label.boot_id.to_vec(),
            run_id: label.run_id.to_vec(),
            counts: counts
                .iter()
                .map(|(event_type, count)| v1::TypeCount {
                    r#type: (*event_type).into(),
                    count: *count,
                })
                .collect(),
            first_boot_ns,
            last_boot_ns: Some(last_boot_ns),
            compression: v1::Compression::Zstd.into(),
            body_bytes: u64::try_from(encoded.len()).unwrap_or(u64::MAX),
        };
        let packet = v1::TelemetryPacket {
            header: Some(header),
            body: compressed,
        };
        let bytes = packet.encode_to_vec();
        Ok(Packed {
            digest: super::digest(&bytes),
            bytes,
            counts,
            first_boot_ns,
            last_boot_ns,
            body_bytes: encoded.len(),
        })
    }
}

/// Takes out what columns and header tell.
fn slim(mut body: v1::PacketBody, base: &Base) -> Result<v1::PacketBody, PackError> {
    let rows = Rows::of(&body.processes).ok_or(PackError::DuplicateRow)?;
    // Rows leave out times of events, events leave out identities of rows.
    let points = columns::turning_points(&body.events, &rows);
    let events = columns::take_events(&mut body.events, &body.processes, &rows, base);
    let process_columns = columns::take_processes(&mut body.processes, &points, &rows, base);
    body.event_columns = (!body.events.is_empty()).then_some(events);
    body.process_columns = (!body.processes.is_empty()).then_some(process_columns);
    if let Some(agent) = &mut body.agent {
        agent.id.clear();
        agent.epoch.clear();
    }
    if let Some(host) = &mut body.host {
        host.boot_id.clear();
    }
    Ok(body)
}
