//! Segments without their spool: for `sensor decode`, and for fuzzing.

use std::io;

use super::codec::Decoder;
use super::entry::{Entry, Epoch, Stream};
use super::segment::{Found, MAGIC, Scanner, SegmentHeader};
use super::storage::ReadAt;

/// Why a file cannot be read as a segment.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It does not begin as one.
    #[error("no segment of a spool (magic at byte 0)")]
    Magic,
    /// Its header is damaged, or of another version, and so is the marker in it.
    #[error("the header of the segment is damaged (bytes 0 to {bytes})")]
    Header {
        /// Bytes that were looked at.
        bytes: u64,
    },
    /// The system cannot read it.
    #[error("reading the segment at byte {offset}")]
    Io {
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
}

/// What stands in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// The first thing: whose it is. `whole` is false if the checksum of the header is wrong.
    Header {
        /// Agent that made it.
        agent_id: [u8; 16],
        /// Its epoch.
        epoch: Epoch,
        /// Its stream.
        stream: Stream,
    },
    /// A packet that is whole, and where its record ends.
    Packet {
        /// The packet.
        entry: Entry,
        /// End of the record, bytes from the start.
        end: u64,
    },
    /// Bytes that are no record.
    Damage {
        /// First of them.
        from: u64,
        /// First behind them.
        to: u64,
    },
}

/// Goes through a segment; `each` says whether to go on. Memory: one packet at a time.
///
/// # Errors
/// [`InspectError`]; damage inside is none, it is shown.
pub fn inspect(
    file: &impl ReadAt,
    length: u64,
    mut each: impl FnMut(Inspected) -> bool,
) -> Result<(), InspectError> {
    let io = |offset| move |source| InspectError::Io { offset, source };
    let mut magic = [0; 8];
    super::segment::read_full(file, &mut magic, 0).map_err(io(0))?;
    if magic != *MAGIC {
        return Err(InspectError::Magic);
    }
    let Some((header, records_at)) = SegmentHeader::read(file).map_err(io(0))? else {
        return Err(InspectError::Header {
            bytes: length.min(super::segment::HEADER_MAX_BYTES_U64),
        });
    };
    let mut offset = u64::try_from(records_at).unwrap_or(u64::MAX);
    let shown = Inspected::Header {
        agent_id: header.agent_id,
        epoch: header.epoch,
        stream: header.stream,
    };
    if !each(shown) {
        return Ok(());
    }
    let mut scanner = Scanner::new(file, header.marker, offset, length, false);
    loop {
        let shown = match scanner.step().map_err(io(offset))? {
            Found::Record { head, body, end } => {
                offset = end;
                Inspected::Packet {
                    entry: head.entry(header.epoch, header.stream, body),
                    end,
                }
            }
            Found::Damage { from, to, .. } => {
                offset = to;
                Inspected::Damage { from, to }
            }
            Found::End => return Ok(()),
        };
        if !each(shown) {
            return Ok(());
        }
    }
}

/// Entry for fuzzing: these bytes as a segment, and, with the marker taken from its place whatever the checksum says, as
/// records. Gives packets and damaged bytes; never panics, never holds more than a packet.
#[must_use]
pub fn fuzz_open(bytes: &[u8]) -> (u64, u64) {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let mut packets = 0_u64;
    let mut damaged = 0_u64;
    let outcome = inspect(&bytes, length, |found| {
        match found {
            Inspected::Header { .. } => {}
            Inspected::Packet { .. } => packets = packets.saturating_add(1),
            Inspected::Damage { from, to } => {
                damaged = damaged.saturating_add(to.saturating_sub(from));
            }
        }
        true
    });
    if outcome.is_ok() {
        return (packets, damaged);
    }
    let mut input = Decoder::new(bytes);
    let Some(marker) = input.u64() else {
        return (packets, damaged);
    };
    let mut scanner = Scanner::new(&bytes, marker, 0, length, true);
    while let Ok(found) = scanner.step() {
        match found {
            Found::Record { .. } => packets = packets.saturating_add(1),
            Found::Damage { from, to, .. } => {
                damaged = damaged.saturating_add(to.saturating_sub(from));
            }
            Found::End => break,
        }
    }
    (packets, damaged)
}
