//! From the bytes of a packet to its events.

use std::collections::HashMap;
use std::io;
use std::sync::OnceLock;

use prost::Message as _;

use super::budget::{self, Refused};
use super::columns::{self, Base, Contradiction, Rows};
use super::wire::{Fields, Value, WireError};
use super::{Digest, stream_of};
use crate::json::{Actor, Lineage, Origin, write_event_json};
use crate::v1;

/// Bytes of a header at most: a real one has a few hundred.
const HEADER_BYTES: usize = 16 << 10;
/// Ancestors that the view of an event tells of, the parent among them.
const ANCESTORS: usize = 16;

/// What is opened at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a packet.
    pub packet_bytes: usize,
    /// Bytes of its body after decompression.
    pub body_bytes: usize,
    /// Bytes of memory of the decoded body, roughly; growing lists may take twice that for a moment.
    pub memory_bytes: usize,
}

impl Default for Limits {
    /// 4 MiB, 16 MiB, 64 MiB: far beyond what this build's sealer makes.
    fn default() -> Self {
        Self {
            packet_bytes: 4 << 20,
            body_bytes: 16 << 20,
            memory_bytes: 64 << 20,
        }
    }
}

/// Why a packet is refused.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is longer than the limit.
    #[error("packet of {bytes} bytes, at most {limit} are taken")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// It is no `TelemetryPacket`.
    #[error("not a packet: {what} at byte {offset}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where, from the beginning of the packet.
        offset: usize,
    },
    /// A field of the header is missing or has an impossible value.
    #[error("header: {field} is missing or impossible")]
    Header {
        /// Name of the field.
        field: &'static str,
    },
    /// The body would be longer than the limit.
    #[error("body of {bytes} bytes, at most {limit} are unpacked")]
    BodyTooLarge {
        /// Length that the header tells.
        bytes: u64,
        /// The limit.
        limit: usize,
    },
    /// A way of compression that this build does not know.
    #[error("compression {0} is not known")]
    Compression(i32),
    /// The body does not decompress.
    #[error("the body does not decompress to {bytes} bytes")]
    Decompress {
        /// Length that the header tells.
        bytes: u64,
        /// What the decompressor said; none: another length came out.
        source: Option<io::Error>,
    },
    /// The decompressed body is no `PacketBody`.
    #[error("the body is malformed: {what}")]
    Body {
        /// What is wrong.
        what: String,
    },
    /// The decoded body would take more memory than the limit.
    #[error("the body takes more than {limit} bytes of memory")]
    Memory {
        /// The limit.
        limit: usize,
    },
    /// Two parts of it say different things.
    #[error("the packet contradicts itself: {what}")]
    Contradiction {
        /// The field that does not fit the rest.
        what: &'static str,
    },
}

impl From<Contradiction> for OpenError {
    fn from(contradiction: Contradiction) -> Self {
        Self::Contradiction {
            what: contradiction.0,
        }
    }
}

/// A row, and how it was before its process ended.
#[derive(Debug)]
struct Living(OnceLock<Box<v1::Process>>);

/// A packet that was opened: header, events and rows whole, as before they were packed.
#[derive(Debug)]
pub struct OpenedPacket {
    header: v1::PacketHeader,
    digest: Digest,
    body: v1::PacketBody,
    rows: Rows,
    /// The newest row of each process.
    newest: HashMap<Vec<u8>, usize>,
    living: Vec<Living>,
    origin: Origin,
}

/// Reads the header alone: identity, chain, counts, times. What it says of the body is not compared with it.
///
/// # Errors
/// [`OpenError`].
pub fn read_header(
    packet: &[u8],
    limits: &Limits,
) -> Result<(v1::PacketHeader, Digest), OpenError> {
    let (header, _) = split(packet, limits)?;
    Ok((header, super::digest(packet)))
}

/// Opens a packet.
///
/// # Errors
/// [`OpenError`]: it is refused as a whole.
pub fn open(packet: &[u8], limits: &Limits) -> Result<OpenedPacket, OpenError> {
    let (header, compressed) = split(packet, limits)?;
    let encoded = decompress(&header, compressed, limits)?;
    match budget::decoded_bytes("PacketBody", &encoded, limits.memory_bytes) {
        Ok(_) => {}
        Err(Refused::Malformed(error)) => {
            return Err(OpenError::Body {
                what: error.to_string(),
            });
        }
        Err(Refused::TooDeep) => {
            return Err(OpenError::Body {
                what: "messages in messages without end".to_owned(),
            });
        }
        Err(Refused::TooMuch) => {
            return Err(OpenError::Memory {
                limit: limits.memory_bytes,
            });
        }
    }
    let body = v1::PacketBody::decode(encoded.as_slice()).map_err(|error| OpenError::Body {
        what: error.to_string(),
    })?;
    whole(header, super::digest(packet), body)
}

/// Header and compressed body of a packet.
fn split<'a>(packet: &'a [u8], limits: &Limits) -> Result<(v1::PacketHeader, &'a [u8]), OpenError> {
    if packet.len() > limits.packet_bytes {
        return Err(OpenError::TooLarge {
            bytes: packet.len(),
            limit: limits.packet_bytes,
        });
    }
    let malformed = |what, offset| OpenError::Malformed { what, offset };
    let (mut header, mut body) = (None, None);
    for field in Fields::of(packet) {
        let (number, value) =
            field.map_err(|WireError { offset }| malformed("damaged field", offset))?;
        let (slot, bytes) = match (number, value) {
            (1, Value::Bytes(bytes)) => (&mut header, bytes),
            (2, Value::Bytes(bytes)) => (&mut body, bytes),
            (1 | 2, _) => return Err(malformed("field of a wrong type", 0)),
            // A newer writer's.
            (_, _) => continue,
        };
        if slot.replace(bytes).is_some() {
            return Err(malformed("field that came before", 0));
        }
    }
    let header = header.ok_or(malformed("no header", packet.len()))?;
    let body = body.unwrap_or_default();
    if header.len() > HEADER_BYTES {
        return Err(malformed("header without end", 0));
    }
    let header =
        v1::PacketHeader::decode(header).map_err(|_damage| malformed("damaged header", 0))?;
    check_header(&header)?;
    Ok((header, body))
}

fn check_header(header: &v1::PacketHeader) -> Result<(), OpenError> {
    let need = |good: bool, field| {
        if good {
            Ok(())
        } else {
            Err(OpenError::Header { field })
        }
    };
    need(header.schema_version > 0, "schema_version")?;
    need(header.agent_id.len() == 16, "agent_id")?;
    need(header.epoch.len() == 16, "epoch")?;
    need(header.boot_id.len() == 16, "boot_id")?;
    need(header.run_id.len() == 16, "run_id")?;
    need(
        matches!(header.stream(), v1::Stream::Process | v1::Stream::Bulk),
        "stream",
    )?;
    need(header.sequence > 0, "sequence")?;
    let previous = header.previous_digest.as_ref().map(Vec::len);
    let good = if header.sequence == 1 {
        previous.is_none()
    } else {
        previous == Some(32)
    };
    need(good, "previous_digest")?;
    need(header.last_boot_ns.is_some(), "last_boot_ns")?;
    need(header.first_boot_ns <= header.last_boot_ns, "first_boot_ns")
}

fn decompress(
    header: &v1::PacketHeader,
    compressed: &[u8],
    limits: &Limits,
) -> Result<Vec<u8>, OpenError> {
    let bytes = header.body_bytes;
    let length = usize::try_from(bytes)
        .ok()
        .filter(|length| *length <= limits.body_bytes)
        .ok_or(OpenError::BodyTooLarge {
            bytes,
            limit: limits.body_bytes,
        })?;
    let other_length = OpenError::Decompress {
        bytes,
        source: None,
    };
    let body = match header.compression() {
        v1::Compression::None => compressed.to_vec(),
        v1::Compression::Zstd => {
            // The frame tells its size first: a bomb is refused before a byte is unpacked.
            let told = zstd::zstd_safe::get_frame_content_size(compressed);
            if told.ok().flatten() != Some(bytes) {
                return Err(other_length);
            }
            zstd::bulk::decompress(compressed, length).map_err(|source| OpenError::Decompress {
                bytes,
                source: Some(source),
            })?
        }
        v1::Compression::Unspecified => return Err(OpenError::Compression(header.compression)),
    };
    if body.len() == length {
        Ok(body)
    } else {
        Err(other_length)
    }
}

fn array(bytes: &[u8]) -> [u8; 16] {
    // The header was checked.
    bytes.try_into().unwrap_or_default()
}

/// Puts everything back, and compares what is told twice.
fn whole(
    header: v1::PacketHeader,
    digest: Digest,
    mut body: v1::PacketBody,
) -> Result<OpenedPacket, OpenError> {
    let contradiction = |what| OpenError::Contradiction { what };
    let base = Base::new(
        array(&header.boot_id),
        header.sealed_time_ns,
        header.first_boot_ns.unwrap_or(0),
        body.wall_minus_boot_ns,
    );
    let carries = |event: &v1::Event| event.id.is_some() || event.time_boot_ns != 0;
    if body.events.iter().any(carries) {
        return Err(contradiction("events"));
    }
    let process_columns = body.process_columns.take().unwrap_or_default();
    columns::put_processes(&mut body.processes, &process_columns, &base)?;
    let event_columns = body.event_columns.take().unwrap_or_default();
    columns::put_events(&mut body.events, &event_columns, &body.processes, &base)?;
    let rows = Rows::of(&body.processes).ok_or(contradiction("processes"))?;
    columns::put_turning_points(&mut body.processes, &process_columns, &body.events, &rows)?;
    check_counts(&header, &body)?;

    let agent = body.agent.get_or_insert_default();
    for (slot, own) in [
        (&mut agent.id, &header.agent_id),
        (&mut agent.epoch, &header.epoch),
    ] {
        if !slot.is_empty() && slot != own {
            return Err(contradiction("agent"));
        }
        slot.clone_from(own);
    }
    let host = body.host.get_or_insert_default();
    if !host.boot_id.is_empty() && host.boot_id != header.boot_id {
        return Err(contradiction("host"));
    }
    host.boot_id.clone_from(&header.boot_id);

    let origin = Origin::new(agent, host);
    let mut newest: HashMap<Vec<u8>, usize> = HashMap::with_capacity(body.processes.len());
    for (index, process) in body.processes.iter().enumerate() {
        let place = newest.entry(process.unique_pid.clone()).or_insert(index);
        if body
            .processes
            .get(*place)
            .is_some_and(|known| known.exec_id < process.exec_id)
        {
            *place = index;
        }
    }
    let living = body
        .processes
        .iter()
        .map(|_| Living(OnceLock::new()))
        .collect();
    Ok(OpenedPacket {
        header,
        digest,
        body,
        rows,
        newest,
        living,
        origin,
    })
}

/// Counts and times of the header against the events.
fn check_counts(header: &v1::PacketHeader, body: &v1::PacketBody) -> Result<(), OpenError> {
    let contradiction = |what| OpenError::Contradiction { what };
    // Types of a newer writer are events without body here.
    let mut counts: HashMap<v1::EventType, u64> = HashMap::new();
    let mut told: HashMap<v1::EventType, u64> = HashMap::new();
    for event in &body.events {
        *counts.entry(event.event_type()).or_default() += 1;
        let known = event.event_type() != v1::EventType::Unspecified;
        if known
            && stream_of(event) != header.stream()
            && header.schema_version == crate::SCHEMA_VERSION
        {
            return Err(contradiction("stream"));
        }
    }
    for count in &header.counts {
        if count.count > 0 {
            let told = told.entry(count.r#type()).or_default();
            *told = told.saturating_add(count.count);
        }
    }
    if counts != told {
        return Err(contradiction("counts"));
    }
    let times = body.events.iter().map(|event| event.time_boot_ns);
    let (first, last) = (times.clone().min(), times.max());
    if header.first_boot_ns != first {
        return Err(contradiction("first_boot_ns"));
    }
    if last.is_some() && header.last_boot_ns != last {
        return Err(contradiction("last_boot_ns"));
    }
    Ok(())
}

impl OpenedPacket {
    /// The header.
    #[must_use]
    pub const fn header(&self) -> &v1::PacketHeader {
        &self.header
    }

    /// SHA-256 of the packet's bytes.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The body: agent, host, events and rows whole, ledger, tombstones, blind interval. Ids of events have the counter alone;
    /// agent and epoch are the header's. Columns are spent.
    #[must_use]
    pub const fn body(&self) -> &v1::PacketBody {
        &self.body
    }

    /// The body by value.
    #[must_use]
    pub fn into_body(self) -> v1::PacketBody {
        self.body
    }

    /// Events, as [`OpenedPacket::body`] has them.
    #[must_use]
    pub fn events(&self) -> &[v1::Event] {
        &self.body.events
    }

    /// Agent and host, rendered for the JSON of its events.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The row of a program of a process.
    #[must_use]
    pub fn process(&self, unique_pid: &[u8], exec_id: u32) -> Option<&v1::Process> {
        self.body
            .processes
            .get(self.rows.find(unique_pid, exec_id)?)
    }

    /// The row that a reference means; where that program of the process is not here, its newest one that is.
    #[must_use]
    pub fn referred(&self, reference: &v1::ProcessRef) -> Option<&v1::Process> {
        self.body.processes.get(self.referred_index(reference)?)
    }

    fn referred_index(&self, reference: &v1::ProcessRef) -> Option<usize> {
        let unique_pid = reference.unique_pid.as_deref()?;
        self.rows
            .find(unique_pid, reference.exec_id)
            .or_else(|| self.newest.get(unique_pid).copied())
    }

    /// The process that acted, as it was at the time of the event: one that ended later has no end.
    #[must_use]
    pub fn actor(&self, event: &v1::Event) -> Option<&v1::Process> {
        let reference = event.process.as_ref()?;
        let index = self
            .rows
            .find(reference.unique_pid.as_deref()?, reference.exec_id)?;
        let process = self.body.processes.get(index)?;
        if process.end_time_ns.is_none_or(|end| end <= event.time_ns) {
            return Some(process);
        }
        let living = self.living.get(index)?.0.get_or_init(|| {
            Box::new(v1::Process {
                end_time_ns: None,
                ..process.clone()
            })
        });
        Some(living)
    }

    /// Parent, its parent and so on, up to 16, as of the end of the packet; true if there are more that are not told.
    #[must_use]
    pub fn ancestors(&self, process: &v1::Process) -> (Vec<&v1::Process>, bool) {
        let mut all = Vec::new();
        let mut next = process.parent.as_ref();
        while all.len() < ANCESTORS {
            let Some(reference) = next else {
                return (all, false);
            };
            let Some(found) = self.referred(reference) else {
                return (all, !reference.out_of_scope);
            };
            all.push(found);
            next = found.parent.as_ref();
        }
        let more = next.is_some_and(|reference| !reference.out_of_scope);
        (all, more)
    }

    /// Appends an event of this packet as one JSON object without line end: process, parent, ancestors, agent and host in place.
    pub fn write_event_json(&self, event: &v1::Event, out: &mut Vec<u8>) {
        let Some(process) = self.actor(event) else {
            return write_event_json(event, Actor::Unknown, &self.origin, out);
        };
        let (lineage, ancestors_truncated) = self.ancestors(process);
        let (parent, ancestors) = match lineage.split_first() {
            Some((parent, ancestors)) => (Some(*parent), ancestors),
            None => (None, lineage.as_slice()),
        };
        let lineage = Lineage {
            process,
            parent,
            ancestors,
            ancestors_truncated,
        };
        write_event_json(event, Actor::Row(lineage), &self.origin, out);
    }
}
