//! One file of a stream: a header, then records; and the scanner, which finds every record that is whole, also behind
//! damage. The format is in the documentation of [`super`].

use std::io;

use super::codec::{Decoder, Encoder};
use super::entry::{Counts, Entry, Epoch, PACKET_MAX_BYTES, PacketId, Stream, TYPES_MAX};
use super::storage::ReadAt;

/// First bytes of every segment.
pub(super) const MAGIC: &[u8; 8] = b"SENSEG\r\n";
/// Version of the format that is written; no other is read.
const VERSION: u16 = 1;
/// Bytes of an encoded [`Counts`] at most.
const COUNTS_MAX_BYTES: usize = 2 + TYPES_MAX * 10;
/// Bytes of a header of a segment at most.
const HEADER_MAX_BYTES: usize = 256 + COUNTS_MAX_BYTES;
/// The same, as a place in a file.
pub(super) const HEADER_MAX_BYTES_U64: u64 = 256 + 2 + 128 * 10;
const _: () = assert!(HEADER_MAX_BYTES == 256 + 2 + 128 * 10, "the two differ");
/// Bytes of the head of a record at most.
const HEAD_MAX_BYTES: usize = 128 + 2 * COUNTS_MAX_BYTES;
/// Bytes that a search for the next record reads at once.
const SEARCH_BYTES: usize = 64 << 10;
/// What is skipped where the disk cannot read.
const BLOCK_BYTES: u64 = 4096;

/// A point in a stream: everything up to and with a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The packet; 0 before the first.
    pub(super) sequence: u64,
    /// Its digest, zeros before the first.
    pub(super) digest: [u8; 32],
    /// Events up to and with it.
    pub(super) totals: Counts,
}

impl Mark {
    /// The digest; `None` where it was in a header that is damaged.
    pub(super) fn known_digest(&self) -> Option<[u8; 32]> {
        (self.sequence == 0 || self.digest != [0; 32]).then_some(self.digest)
    }
}

/// When something was written, by both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Boot clock, ns.
    pub(super) boot_ns: u64,
    /// Wall clock, ns since 1970.
    pub(super) wall_ns: i64,
    /// Boot.
    pub(super) boot_id: [u8; 16],
}

/// First thing in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) agent_id: [u8; 16],
    pub(super) epoch: Epoch,
    pub(super) stream: Stream,
    /// Starts each record of this segment; nobody who writes into packets can know it.
    pub(super) marker: u64,
    /// The stream before the segment's first packet.
    pub(super) start: Mark,
    /// When it was made.
    pub(super) stamp: Stamp,
    /// The stream's last event before the segment, boot clock of `last_event_boot`, ns.
    pub(super) last_event_boot_ns: u64,
    /// Boot of that event; zeros if there was none.
    pub(super) last_event_boot: [u8; 16],
    /// When the packet with that event was sealed, wall clock, ns since 1970.
    pub(super) last_sealed_ns: i64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.bytes(MAGIC)
            .u16(VERSION)
            .u16(0)
            .u8(self.stream.number())
            .bytes(&[0; 3])
            .bytes(&self.agent_id)
            .bytes(&self.epoch.0)
            .u64(self.marker)
            .u64(self.start.sequence)
            .bytes(&self.start.digest)
            .u64(self.stamp.boot_ns)
            .i64(self.stamp.wall_ns)
            .bytes(&self.stamp.boot_id)
            .u64(self.last_event_boot_ns)
            .bytes(&self.last_event_boot)
            .i64(self.last_sealed_ns)
            .counts(&self.start.totals);
        let length = out.len().saturating_add(4);
        out.patch_u16(10, u16::try_from(length).unwrap_or(u16::MAX));
        let crc = crc32c::crc32c(out.so_far());
        out.u32(crc);
        out.finish()
    }

    /// The header and its length, if these bytes begin with one that is whole.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut lengths = Decoder::new(bytes);
        if lengths.bytes(8)? != MAGIC || lengths.u16()? != VERSION {
            return None;
        }
        let length = usize::from(lengths.u16()?);
        let mut input = Decoder::new(whole(bytes, length)?.get(12..)?);
        let stream = Stream::from_number(input.u8()?)?;
        input.bytes(3)?;
        let header = Self {
            agent_id: input.array()?,
            epoch: Epoch(input.array()?),
            stream,
            marker: input.u64()?,
            start: Mark {
                sequence: input.u64()?,
                digest: input.array()?,
                totals: Counts::new(),
            },
            stamp: Stamp {
                boot_ns: input.u64()?,
                wall_ns: input.i64()?,
                boot_id: input.array()?,
            },
            last_event_boot_ns: input.u64()?,
            last_event_boot: input.array()?,
            last_sealed_ns: input.i64()?,
        };
        let totals = input.counts()?;
        Some((
            Self {
                start: Mark {
                    totals,
                    ..header.start
                },
                ..header
            },
            length,
        ))
    }

    /// The header of a segment, and its length.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn read(file: &impl ReadAt) -> io::Result<Option<(Self, usize)>> {
        let mut bytes = vec![0; HEADER_MAX_BYTES];
        let length = read_full(file, &mut bytes, 0)?;
        Ok(Self::parse(bytes.get(..length).unwrap_or_default()))
    }
}

/// What stands before a checksum, if both are there and agree; `length` is that of both.
fn whole(bytes: &[u8], length: usize) -> Option<&[u8]> {
    let (covered, crc) = bytes
        .get(..length)?
        .split_at_checked(length.checked_sub(4)?)?;
    (crc32c::crc32c(covered).to_le_bytes() == *crc).then_some(covered)
}

/// What stands in a record before the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) sequence: u64,
    pub(super) digest: [u8; 32],
    pub(super) sealed_time_ns: i64,
    pub(super) boot_ns: u64,
    pub(super) boot_id: [u8; 16],
    pub(super) last_event_boot_ns: u64,
    pub(super) counts: Counts,
    /// Events of the stream up to and with this packet.
    pub(super) totals: Counts,
    pub(super) body_bytes: u32,
}

impl RecordHead {
    pub(super) fn mark(&self) -> Mark {
        Mark {
            sequence: self.sequence,
            digest: self.digest,
            totals: self.totals.clone(),
        }
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp {
            boot_ns: self.boot_ns,
            wall_ns: self.sealed_time_ns,
            boot_id: self.boot_id,
        }
    }

    /// Turns it into what a sink gets.
    pub(super) fn entry(self, epoch: Epoch, stream: Stream, bytes: Vec<u8>) -> Entry {
        Entry {
            id: PacketId {
                epoch,
                stream,
                sequence: self.sequence,
            },
            digest: self.digest,
            sealed_time_ns: self.sealed_time_ns,
            boot_id: self.boot_id,
            last_event_boot_ns: self.last_event_boot_ns,
            counts: self.counts,
            bytes,
        }
    }

    fn parse(bytes: &[u8], marker: u64) -> Option<(Self, usize)> {
        let mut lengths = Decoder::new(bytes);
        if lengths.u64()? != marker {
            return None;
        }
        let length = usize::from(lengths.u16()?);
        let mut input = Decoder::new(whole(bytes, length)?.get(12..)?);
        let head = Self {
            body_bytes: input.u32()?,
            sequence: input.u64()?,
            digest: input.array()?,
            sealed_time_ns: input.i64()?,
            boot_ns: input.u64()?,
            boot_id: input.array()?,
            last_event_boot_ns: input.u64()?,
            counts: input.counts()?,
            totals: input.counts()?,
        };
        let fits = usize::try_from(head.body_bytes).is_ok_and(|bytes| bytes <= PACKET_MAX_BYTES);
        (fits && head.sequence > 0).then_some((head, length))
    }
}

/// A record as it is in the file.
pub(super) fn encode_record(marker: u64, entry: &Entry, totals: &Counts, stamp: &Stamp) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u64(marker)
        .u16(0)
        .u16(0)
        .u32(u32::try_from(entry.bytes.len()).unwrap_or(u32::MAX))
        .u64(entry.id.sequence)
        .bytes(&entry.digest)
        .i64(entry.sealed_time_ns)
        .u64(stamp.boot_ns)
        .bytes(&entry.boot_id)
        .u64(entry.last_event_boot_ns)
        .counts(&entry.counts)
        .counts(totals);
    let length = out.len().saturating_add(4);
    out.patch_u16(8, u16::try_from(length).unwrap_or(u16::MAX));
    let head_crc = crc32c::crc32c(out.so_far());
    let body_crc = body_crc(head_crc, &entry.bytes);
    out.u32(head_crc).bytes(&entry.bytes).u32(body_crc);
    out.finish()
}

/// Bound to the head, so that a body never passes for another record's.
fn body_crc(head_crc: u32, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head_crc.to_le_bytes()), body)
}

/// What a scan comes upon.
#[derive(Debug)]
pub(super) enum Found {
    /// A record that is whole.
    Record {
        head: Box<RecordHead>,
        body: Vec<u8>,
        /// Where it ends, and the next begins.
        end: u64,
    },
    /// Bytes that are none.
    Damage {
        /// First of them.
        from: u64,
        /// First behind them: a whole record, or the end of the file.
        to: u64,
        /// Head of the last record in it of which only the packet is damaged.
        head: Option<Box<RecordHead>>,
    },
    /// Nothing any more.
    End,
}

/// Goes through the records of a segment.
#[derive(Debug)]
pub(super) struct Scanner<'f, F> {
    file: &'f F,
    marker: u64,
    offset: u64,
    end: u64,
    /// What cannot be read counts as damage.
    tolerant: bool,
}

/// Why there is no record at an offset.
enum Bad {
    Io(io::Error),
    /// Nothing that looks like one.
    Head,
    /// The head is whole; the record ends here.
    Body(Box<RecordHead>, u64),
}

impl<'f, F: ReadAt> Scanner<'f, F> {
    /// From `offset`, where a record begins, up to `end`. With `tolerant`, what the disk cannot read is damage; else it
    /// is an error.
    pub(super) const fn new(
        file: &'f F,
        marker: u64,
        offset: u64,
        end: u64,
        tolerant: bool,
    ) -> Self {
        Self {
            file,
            marker,
            offset,
            end,
            tolerant,
        }
    }

    /// The next thing. Memory: one packet at most, whatever the file says.
    ///
    /// # Errors
    /// What the system says, unless tolerant.
    pub(super) fn step(&mut self) -> io::Result<Found> {
        if self.offset >= self.end {
            return Ok(Found::End);
        }
        let from = self.offset;
        let mut last_head = None;
        let mut search_from = match self.probe(from) {
            Ok(found) => return Ok(self.take(found)),
            Err(bad) => self.after(from, bad, &mut last_head)?,
        };
        // Every turn goes forward: by a byte at least, over a whole record where its head can be trusted.
        loop {
            let Some(candidate) = self.search(search_from)? else {
                self.offset = self.end;
                return Ok(Found::Damage {
                    from,
                    to: self.end,
                    head: last_head,
                });
            };
            match self.probe(candidate) {
                Ok(_) => {
                    self.offset = candidate;
                    return Ok(Found::Damage {
                        from,
                        to: candidate,
                        head: last_head,
                    });
                }
                Err(bad) => search_from = self.after(candidate, bad, &mut last_head)?,
            }
        }
    }

    fn take(&mut self, (head, body, end): (Box<RecordHead>, Vec<u8>, u64)) -> Found {
        self.offset = end;
        Found::Record { head, body, end }
    }

    fn after(&self, at: u64, bad: Bad, last_head: &mut Option<Box<RecordHead>>) -> io::Result<u64> {
        match bad {
            Bad::Io(error) if !self.tolerant => Err(error),
            Bad::Io(_) | Bad::Head => Ok(at.saturating_add(1)),
            Bad::Body(head, end) => {
                *last_head = Some(head);
                Ok(end)
            }
        }
    }

    fn probe(&self, at: u64) -> Result<(Box<RecordHead>, Vec<u8>, u64), Bad> {
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; HEAD_MAX_BYTES.min(left)];
        let length = read_full(self.file, &mut bytes, at).map_err(Bad::Io)?;
        let (head, head_bytes) =
            RecordHead::parse(bytes.get(..length).unwrap_or_default(), self.marker)
                .ok_or(Bad::Head)?;
        let head = Box::new(head);
        let body_bytes = usize::try_from(head.body_bytes).unwrap_or(usize::MAX);
        let record_bytes = head_bytes.saturating_add(body_bytes).saturating_add(4);
        if record_bytes > left {
            // Cut off; what is behind its head may still be records, if it is the length that is wrong.
            return Err(Bad::Head);
        }
        let wide = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let body_at = at.saturating_add(wide(head_bytes));
        let end = at.saturating_add(wide(record_bytes));
        let mut body = vec![0; body_bytes.saturating_add(4)];
        let whole = match read_full(self.file, &mut body, body_at) {
            Ok(length) => length == body.len(),
            Err(error) if !self.tolerant => return Err(Bad::Io(error)),
            Err(_) => false,
        };
        let stored = body.split_off(body_bytes.min(body.len()));
        let head_crc = bytes
            .get(head_bytes.saturating_sub(4)..head_bytes)
            .and_then(|crc| crc.try_into().ok())
            .map_or(0, u32::from_le_bytes);
        if whole && body_crc(head_crc, &body).to_le_bytes().as_slice() == stored.as_slice() {
            Ok((head, body, end))
        } else {
            Err(Bad::Body(head, end))
        }
    }

    /// Where the marker stands next.
    fn search(&self, from: u64) -> io::Result<Option<u64>> {
        let marker = self.marker.to_le_bytes();
        let mut at = from;
        let mut window = vec![0; SEARCH_BYTES];
        while at < self.end {
            let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
            let wanted = left.min(SEARCH_BYTES);
            let length =
                match read_full(self.file, window.get_mut(..wanted).unwrap_or_default(), at) {
                    Ok(length) => length,
                    Err(error) if !self.tolerant => return Err(error),
                    Err(_) => {
                        // The chunk may be readable in part: block by block.
                        match self.search_blocks(at, wanted, &marker) {
                            Ok(found) => return Ok(Some(found)),
                            Err(next) => {
                                at = next;
                                continue;
                            }
                        }
                    }
                };
            let bytes = window.get(..length).unwrap_or_default();
            if let Some(found) = position(bytes, &marker) {
                return Ok(Some(at.saturating_add(found)));
            }
            if length < marker.len() {
                return Ok(None);
            }
            // A marker may begin in the last seven bytes.
            at = at.saturating_add(u64::try_from(length.saturating_sub(7)).unwrap_or(u64::MAX));
        }
        Ok(None)
    }

    /// The same over a chunk of which some blocks cannot be read; `Err` says where to go on.
    fn search_blocks(&self, from: u64, bytes: usize, marker: &[u8; 8]) -> Result<u64, u64> {
        let end = from.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        let mut at = from;
        let mut block = vec![0; usize::try_from(BLOCK_BYTES).unwrap_or(4096) + 7];
        while at < end {
            let next = (at / BLOCK_BYTES)
                .saturating_add(1)
                .saturating_mul(BLOCK_BYTES);
            let wanted = usize::try_from(next.min(self.end).saturating_sub(at))
                .unwrap_or(block.len())
                .saturating_add(7)
                .min(block.len());
            // With the first bytes of the next block, or, where that cannot be read, without.
            for wanted in [wanted, wanted.saturating_sub(7)] {
                let window = block.get_mut(..wanted).unwrap_or_default();
                if let Ok(length) = read_full(self.file, window, at) {
                    let inside = window.get(..length).unwrap_or_default();
                    if let Some(found) = position(inside, marker) {
                        return Ok(at.saturating_add(found));
                    }
                    break;
                }
            }
            at = next;
        }
        Err(at)
    }
}

fn position(bytes: &[u8], marker: &[u8; 8]) -> Option<u64> {
    bytes
        .windows(marker.len())
        .position(|window| window == marker)
        .and_then(|at| u64::try_from(at).ok())
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_full(file: &impl ReadAt, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0_usize;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(length) => done = done.saturating_add(length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
