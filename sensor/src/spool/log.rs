//! One stream of one epoch: its segments on the disk, and its tail in memory, which holds what is not durable yet.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entry::{Counts, Entry, Epoch, NextPacket, PacketId, Stream};
use super::segment::{
    Found, Mark, RecordHead, Scanner, SegmentHeader, Stamp, encode_record, read_full,
};
use super::storage::{Storage, StorageFile};

/// Bytes that are copied at once.
const COPY_BYTES: usize = 256 << 10;
/// How often a read of a segment may fail before what cannot be read is given up as damaged.
const READ_FAILURES: u32 = 3;

/// When a stream's last event was, as far as packets tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastEvent {
    /// Boot; zeros if the stream never had a packet.
    pub boot_id: [u8; 16],
    /// Boot clock of that boot, ns.
    pub boot_ns: u64,
    /// When its packet was sealed, wall clock, ns since 1970.
    pub sealed_time_ns: i64,
}

/// A file of the stream.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) name: String,
    /// First sequence that belongs to it.
    pub(super) first: u64,
    pub(super) marker: u64,
    /// Where its records begin.
    pub(super) records_at: u64,
    /// Length as far as it has been written.
    pub(super) bytes: u64,
    /// The stream before it.
    pub(super) start: Mark,
    /// When its first and its last packet came; of the first, when it was made.
    pub(super) oldest: Stamp,
    pub(super) newest: Stamp,
    /// When the last packet before it came; `None` if nobody knows.
    before: Option<Stamp>,
    read_failures: u32,
}

impl Segment {
    /// One whose header is damaged, from its first record.
    pub(super) fn salvaged(
        name: String,
        (first, marker): (u64, u64),
        head: &RecordHead,
        records_at: u64,
        bytes: u64,
    ) -> Self {
        Self {
            name,
            first,
            marker,
            records_at,
            bytes,
            start: Mark {
                sequence: first.saturating_sub(1),
                digest: [0; 32],
                totals: head.totals.minus(&head.counts),
            },
            oldest: head.stamp(),
            newest: head.stamp(),
            before: None,
            read_failures: 0,
        }
    }

    pub(super) fn new(name: String, header: &SegmentHeader, records_at: u64, bytes: u64) -> Self {
        Self {
            name,
            first: header.start.sequence.saturating_add(1),
            marker: header.marker,
            records_at,
            bytes,
            start: header.start.clone(),
            oldest: header.stamp,
            newest: header.stamp,
            before: (header.last_event_boot != [0; 16]).then_some(Stamp {
                boot_ns: header.last_event_boot_ns,
                wall_ns: header.last_sealed_ns,
                boot_id: header.last_event_boot,
            }),
            read_failures: 0,
        }
    }
}

/// A packet that is not durable.
#[derive(Debug)]
struct Tailed {
    entry: Entry,
    totals: Counts,
    stamp: Stamp,
}

/// The open segment.
#[derive(Debug)]
struct Writer<F> {
    file: Arc<F>,
    /// As far as it is durable.
    durable_bytes: u64,
}

/// Where a sink goes on reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    marker: u64,
    sequence: u64,
    offset: u64,
}

/// What stands at a place of the stream.
#[derive(Debug)]
pub(super) enum Read {
    Packet {
        entry: Entry,
        /// The stream up to and with it.
        totals: Counts,
        hint: Option<Hint>,
    },
    /// Not there: up to and with this point.
    Gap {
        to: u64,
        /// Of the last packet that is missing, where known.
        digest: Option<[u8; 32]>,
        totals: Counts,
        damage: Option<Damage>,
    },
    /// Nothing yet.
    Nothing,
}

/// Bytes of a segment that are no records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) name: String,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// What to make durable, outside of any lock.
#[derive(Debug)]
pub(super) struct LogSync<F> {
    pub(super) epoch: Epoch,
    pub(super) stream: Stream,
    file: Arc<F>,
    sequence: u64,
    bytes: u64,
}

impl<F: StorageFile> LogSync<F> {
    pub(super) fn run(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// What stays the same for all packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) agent_id: [u8; 16],
    pub(super) segment_bytes: u64,
    pub(super) segment_span_ns: u64,
}

/// The stream.
#[derive(Debug)]
pub(super) struct Log<F> {
    pub(super) epoch: Epoch,
    pub(super) ordinal: u64,
    pub(super) stream: Stream,
    /// Folder of its segments.
    pub(super) folder: PathBuf,
    pub(super) segments: VecDeque<Segment>,
    writer: Option<Writer<F>>,
    /// Last segment and how much of it may stay, before anything is written again.
    repair: Option<(String, u64)>,
    /// Files that were begun and must go before anything is written again.
    leftovers: Vec<String>,
    /// The stream before the tail; everything up to here is on the disk, or gone.
    pub(super) stored: Mark,
    /// The last segment was synced by us, or by nobody.
    pub(super) proven: bool,
    tail: VecDeque<Tailed>,
    pub(super) tail_bytes: u64,
    /// The epoch began in memory: its tail is offered to sinks.
    pub(super) tail_offered: bool,
    /// Of the stream.
    pub(super) end: Mark,
    /// The last one up to `stored`.
    pub(super) last_event: LastEvent,
}

impl<F: StorageFile> Log<F> {
    /// A stream without packets.
    pub(super) fn new(epoch: Epoch, ordinal: u64, stream: Stream, tail_offered: bool) -> Self {
        Self {
            epoch,
            ordinal,
            stream,
            folder: epoch_folder(epoch, ordinal).join(stream.name()),
            segments: VecDeque::new(),
            writer: None,
            repair: None,
            leftovers: Vec::new(),
            stored: Mark::default(),
            proven: true,
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_offered,
            end: Mark::default(),
            last_event: LastEvent::default(),
        }
    }

    /// What its next packet is called.
    pub(super) fn next_packet(&self) -> NextPacket {
        NextPacket {
            id: PacketId {
                epoch: self.epoch,
                stream: self.stream,
                sequence: self.end.sequence.saturating_add(1),
            },
            previous_digest: self.end.digest,
        }
    }

    /// Bytes on the disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.segments
            .iter()
            .fold(0, |sum, segment| sum.saturating_add(segment.bytes))
    }

    /// Last sequence that sinks may have.
    pub(super) fn offered(&self) -> u64 {
        if self.tail_offered {
            self.end.sequence
        } else if self.proven {
            self.stored.sequence
        } else {
            self.segments
                .back()
                .map_or(self.stored.sequence, |last| last.start.sequence)
        }
    }

    /// The stream at the end of a segment.
    pub(super) fn segment_end(&self, index: usize) -> &Mark {
        self.segments
            .get(index.saturating_add(1))
            .map_or(&self.stored, |next| &next.start)
    }

    /// When a segment's last packet came, at the latest.
    pub(super) fn segment_newest(&self, index: usize) -> Option<Stamp> {
        match self.segments.get(index.saturating_add(1)) {
            Some(next) => Some(next.before.unwrap_or(next.oldest)),
            None => self.segments.get(index).map(|segment| segment.newest),
        }
    }

    /// Puts a packet at the end of the tail.
    pub(super) fn push(&mut self, entry: Entry, stamp: Stamp) {
        let mut totals = self.end.totals.clone();
        totals.add_all(&entry.counts);
        self.end = Mark {
            sequence: entry.id.sequence,
            digest: entry.digest,
            totals: totals.clone(),
        };
        self.tail_bytes = self.tail_bytes.saturating_add(weight(&entry));
        self.tail.push_back(Tailed {
            entry,
            totals,
            stamp,
        });
    }

    /// Writes the last packet of the tail behind the others, which are written.
    ///
    /// # Errors
    /// What the system says; then [`Self::fail`] is next.
    pub(super) fn write_last<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        rules: &Rules,
    ) -> io::Result<()> {
        let last = self.tail.len().saturating_sub(1);
        self.write_from(storage, rules, last)
    }

    fn write_from<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        rules: &Rules,
        first: usize,
    ) -> io::Result<()> {
        let mut index = first;
        // A rotation empties the tail in front of `index`.
        loop {
            let Some(tailed) = self.tail.get(index) else {
                return Ok(());
            };
            let stamp = tailed.stamp;
            let open = self.segments.back().zip(self.writer.as_ref());
            let full = open.is_none_or(|(segment, _)| {
                segment.bytes >= rules.segment_bytes
                    || (segment.bytes > segment.records_at
                        && (stamp.boot_id != segment.oldest.boot_id
                            || stamp.boot_ns.saturating_sub(segment.oldest.boot_ns)
                                > rules.segment_span_ns))
            });
            if full {
                let before = self.tail.len();
                self.sync_up_to(index)?;
                index = index.saturating_sub(before.saturating_sub(self.tail.len()));
                self.begin_segment(storage, rules, stamp)?;
            }
            let (Some(segment), Some(writer), Some(tailed)) = (
                self.segments.back_mut(),
                self.writer.as_ref(),
                self.tail.get(index),
            ) else {
                return Err(io::ErrorKind::NotFound.into());
            };
            let record =
                encode_record(segment.marker, &tailed.entry, &tailed.totals, &tailed.stamp);
            writer.file.write_at(&record, segment.bytes)?;
            segment.bytes = segment.bytes.saturating_add(wide(record.len()));
            segment.newest = tailed.stamp;
            index = index.saturating_add(1);
        }
    }

    /// Makes the open segment durable, and with it the first packets of the tail, which are all that it has.
    fn sync_up_to(&mut self, packets: usize) -> io::Result<()> {
        let (Some(writer), Some(segment)) = (self.writer.as_mut(), self.segments.back()) else {
            return Ok(());
        };
        if writer.durable_bytes < segment.bytes {
            writer.file.sync()?;
            writer.durable_bytes = segment.bytes;
        }
        for _ in 0..packets {
            self.pop_stored();
        }
        Ok(())
    }

    fn pop_stored(&mut self) {
        if let Some(tailed) = self.tail.pop_front() {
            self.tail_bytes = self.tail_bytes.saturating_sub(weight(&tailed.entry));
            self.last_event = LastEvent {
                boot_id: tailed.entry.boot_id,
                boot_ns: tailed.entry.last_event_boot_ns,
                sealed_time_ns: tailed.entry.sealed_time_ns,
            };
            self.stored = Mark {
                sequence: tailed.entry.id.sequence,
                digest: tailed.entry.digest,
                totals: tailed.totals,
            };
        }
    }

    /// Begins a segment for the first packet of the tail; durable when it returns.
    pub(super) fn begin_segment<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        rules: &Rules,
        stamp: Stamp,
    ) -> io::Result<()> {
        self.writer = None;
        if self.segments.is_empty() {
            make_folders(storage, &self.folder)?;
        }
        let [a, b, c, d, e, f, g, h, ..] = storage.random()?;
        let marker = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let header = SegmentHeader {
            agent_id: rules.agent_id,
            epoch: self.epoch,
            stream: self.stream,
            marker,
            start: self.stored.clone(),
            stamp,
            last_event_boot_ns: self.last_event.boot_ns,
            last_event_boot: self.last_event.boot_id,
            last_sealed_ns: self.last_event.sealed_time_ns,
        };
        let bytes = header.encode();
        let name = segment_name(self.stored.sequence.saturating_add(1), marker);
        let path = self.folder.join(&name);
        self.leftovers.push(name.clone());
        let file = storage.create(&path)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        storage.sync_folder(&self.folder)?;
        self.leftovers.pop();
        let length = wide(bytes.len());
        self.segments
            .push_back(Segment::new(name, &header, length, length));
        self.writer = Some(Writer {
            file: Arc::new(file),
            durable_bytes: length,
        });
        Ok(())
    }

    /// Closes the open segment, so that it can be evicted; the stream goes on in a new one.
    pub(super) fn rotate<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        rules: &Rules,
        stamp: Stamp,
    ) -> io::Result<()> {
        self.sync_up_to(self.tail.len())?;
        self.begin_segment(storage, rules, stamp)
    }

    /// What to sync, if anything was written since the last time.
    pub(super) fn begin_sync(&self) -> Option<LogSync<F>> {
        let (writer, segment) = self.writer.as_ref().zip(self.segments.back())?;
        (writer.durable_bytes < segment.bytes).then(|| LogSync {
            epoch: self.epoch,
            stream: self.stream,
            file: Arc::clone(&writer.file),
            sequence: self.end.sequence,
            bytes: segment.bytes,
        })
    }

    /// The sync was done: the packets that were written before it are durable.
    pub(super) fn finish_sync(&mut self, sync: &LogSync<F>) {
        let Some(writer) = self.writer.as_mut() else {
            return;
        };
        // Of a segment that was closed in the meantime, all is durable already.
        if Arc::ptr_eq(&writer.file, &sync.file) {
            writer.durable_bytes = writer.durable_bytes.max(sync.bytes);
            while self
                .tail
                .front()
                .is_some_and(|tailed| tailed.entry.id.sequence <= sync.sequence)
            {
                self.pop_stored();
            }
        }
    }

    /// The disk failed: what was written and not synced is not there any more, it is in the tail.
    pub(super) fn fail(&mut self) {
        if let (Some(writer), Some(segment)) = (self.writer.take(), self.segments.back_mut()) {
            segment.bytes = writer.durable_bytes;
            self.repair = Some((segment.name.clone(), writer.durable_bytes));
        }
    }

    /// Whether the disk has not got everything.
    pub(super) fn owes(&self) -> bool {
        !self.tail.is_empty() || self.repair.is_some() || !self.proven
    }

    /// Packets in the tail.
    pub(super) fn tail_packets(&self) -> usize {
        self.tail.len()
    }

    /// Writes the tail to the disk that has come back; durable when it returns.
    ///
    /// # Errors
    /// What the system says; then [`Self::fail`] is next, and this may be called again later.
    pub(super) fn settle<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        rules: &Rules,
    ) -> io::Result<()> {
        self.writer = None;
        self.remove_leftovers(storage)?;
        if let Some((name, bytes)) = self.repair.clone() {
            let file = storage.open(&self.folder.join(name), true)?;
            file.truncate(bytes)?;
            file.sync()?;
            self.repair = None;
        }
        self.prove(storage)?;
        if self.tail.is_empty() {
            return Ok(());
        }
        // Not in a new one: two segments with the same first sequence would dispute it.
        self.reopen(storage)?;
        self.write_from(storage, rules, 0)?;
        self.sync_up_to(self.tail.len())
    }

    fn remove_leftovers<S: Storage<File = F>>(&mut self, storage: &S) -> io::Result<()> {
        if self.leftovers.is_empty() {
            return Ok(());
        }
        while let Some(name) = self.leftovers.last() {
            match storage.remove(&self.folder.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            self.leftovers.pop();
        }
        storage.sync_folder(&self.folder)
    }

    /// Makes sure that the last segment, which another process wrote, is durable before it is offered. It is written again,
    /// with the same bytes: after a sync that failed, the system may hold as clean what never got to the disk.
    pub(super) fn prove<S: Storage<File = F>>(&mut self, storage: &S) -> io::Result<()> {
        if !self.proven {
            if let Some(segment) = self.segments.back() {
                let file = storage.open(&self.folder.join(&segment.name), true)?;
                let mut buffer = vec![0; COPY_BYTES];
                let mut at = 0;
                while at < segment.bytes {
                    let left = usize::try_from(segment.bytes.saturating_sub(at));
                    let wanted = left.unwrap_or(COPY_BYTES).min(COPY_BYTES);
                    let part = buffer.get_mut(..wanted).unwrap_or_default();
                    let length = read_full(&file, part, at)?;
                    if length == 0 {
                        break;
                    }
                    file.write_at(part.get(..length).unwrap_or_default(), at)?;
                    at = at.saturating_add(wide(length));
                }
                file.sync()?;
                storage.sync_folder(&self.folder)?;
            }
            self.proven = true;
        }
        Ok(())
    }

    /// Goes on writing the last segment.
    pub(super) fn reopen<S: Storage<File = F>>(&mut self, storage: &S) -> io::Result<()> {
        if let Some(segment) = self.segments.back() {
            let file = storage.open(&self.folder.join(&segment.name), true)?;
            if file.length()? != segment.bytes {
                file.truncate(segment.bytes)?;
                file.sync()?;
            }
            self.writer = Some(Writer {
                file: Arc::new(file),
                durable_bytes: segment.bytes,
            });
        }
        Ok(())
    }

    /// Somebody knows of packets behind the last one that is there: the stream had them.
    pub(super) fn reach(&mut self, sequence: u64, totals: &Counts) {
        if sequence > self.end.sequence && self.tail.is_empty() {
            self.end = Mark {
                sequence,
                digest: [0; 32],
                totals: totals.clone(),
            };
            self.stored = self.end.clone();
        }
    }

    /// Nothing more is written: another epoch has begun.
    pub(super) fn close(&mut self) {
        self.writer = None;
    }

    /// Whether it is being written to the disk.
    pub(super) const fn is_open(&self) -> bool {
        self.writer.is_some()
    }

    /// Forgets the oldest packet of the tail: [`Self::stored`] goes over it.
    pub(super) fn drop_oldest_of_tail(&mut self) {
        self.pop_stored();
    }

    /// When the oldest packet came.
    pub(super) fn oldest(&self) -> Option<Stamp> {
        self.segments
            .iter()
            .find(|segment| segment.bytes > segment.records_at)
            .map(|segment| segment.oldest)
            .or_else(|| self.tail.front().map(|tailed| tailed.stamp))
    }

    /// The packet with this sequence, or why there is none.
    ///
    /// # Errors
    /// What the system says; a few times, then what cannot be read is a gap.
    pub(super) fn read<S: Storage<File = F>>(
        &mut self,
        storage: &S,
        sequence: u64,
        hint: Option<Hint>,
    ) -> io::Result<Read> {
        if sequence > self.offered() {
            return Ok(Read::Nothing);
        }
        if sequence > self.stored.sequence {
            return Ok(self.read_tail(sequence));
        }
        let after = self
            .segments
            .partition_point(|segment| segment.first <= sequence);
        let Some(index) = after.checked_sub(1) else {
            // In front of all segments.
            let to = self
                .segments
                .front()
                .map_or(&self.stored, |segment| &segment.start);
            return Ok(gap(to, None));
        };
        let end = self.segment_end(index).clone();
        if sequence > end.sequence {
            return Ok(Read::Nothing);
        }
        let (epoch, stream) = (self.epoch, self.stream);
        let Some(segment) = self.segments.get_mut(index) else {
            return Ok(Read::Nothing);
        };
        let read = read_segment(
            storage,
            &self.folder,
            segment,
            &end,
            sequence,
            hint,
            (epoch, stream),
        );
        match read {
            Ok(read) => Ok(read),
            // The file is gone: all of it is a gap.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(gap(&end, None)),
            Err(error) => {
                segment.read_failures = segment.read_failures.saturating_add(1);
                Err(error)
            }
        }
    }

    fn read_tail(&self, sequence: u64) -> Read {
        let index = sequence
            .checked_sub(self.stored.sequence.saturating_add(1))
            .and_then(|index| usize::try_from(index).ok());
        match index.and_then(|index| self.tail.get(index)) {
            Some(tailed) => Read::Packet {
                entry: tailed.entry.clone(),
                totals: tailed.totals.clone(),
                hint: None,
            },
            None => Read::Nothing,
        }
    }
}

fn gap(to: &Mark, damage: Option<Damage>) -> Read {
    Read::Gap {
        to: to.sequence,
        digest: to.known_digest(),
        totals: to.totals.clone(),
        damage,
    }
}

fn read_segment<S: Storage>(
    storage: &S,
    folder: &Path,
    segment: &Segment,
    end: &Mark,
    sequence: u64,
    hint: Option<Hint>,
    (epoch, stream): (Epoch, Stream),
) -> io::Result<Read> {
    let tolerant = segment.read_failures >= READ_FAILURES;
    let file = storage.open(&folder.join(&segment.name), false)?;
    let offset = hint
        .filter(|hint| hint.marker == segment.marker && hint.sequence == sequence)
        .map_or(segment.records_at, |hint| hint.offset);
    let mut scanner = Scanner::new(&file, segment.marker, offset, segment.bytes, tolerant);
    let mut damage = None;
    loop {
        match scanner.step()? {
            Found::Record {
                head,
                body,
                end: next,
            } => {
                if head.sequence < sequence {
                    damage = None;
                    continue;
                }
                if head.sequence > end.sequence {
                    return Ok(gap(end, damage));
                }
                if head.sequence == sequence {
                    let totals = head.totals.clone();
                    return Ok(Read::Packet {
                        entry: head.entry(epoch, stream, body),
                        totals,
                        hint: Some(Hint {
                            marker: segment.marker,
                            sequence: sequence.saturating_add(1),
                            offset: next,
                        }),
                    });
                }
                return Ok(Read::Gap {
                    to: head.sequence.saturating_sub(1),
                    digest: None,
                    totals: head.totals.minus(&head.counts),
                    damage,
                });
            }
            Found::Damage { from, to, .. } => {
                damage = Some(Damage {
                    name: segment.name.clone(),
                    from,
                    to,
                });
            }
            Found::End => return Ok(gap(end, damage)),
        }
    }
}

/// What a packet counts in memory.
fn weight(entry: &Entry) -> u64 {
    wide(entry.bytes.len()).saturating_add(512)
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Folder of an epoch.
pub(super) fn epoch_folder(epoch: Epoch, ordinal: u64) -> PathBuf {
    Path::new(super::FOLDER).join(format!("{ordinal:08}-{epoch}"))
}

/// Epoch and ordinal from the name of a folder.
pub(super) fn parse_epoch_folder(name: &str) -> Option<(u64, Epoch)> {
    let (ordinal, epoch) = name.split_once('-')?;
    let ordinal = ordinal.parse().ok()?;
    let value = u128::from_str_radix(epoch, 16).ok()?;
    let epoch = Epoch(value.to_be_bytes());
    (epoch_folder(epoch, ordinal).file_name()?.to_str()? == name).then_some((ordinal, epoch))
}

/// File of a segment; its marker is in the name too, so that a damaged header loses nothing.
pub(super) fn segment_name(first: u64, marker: u64) -> String {
    format!("{first:020}-{marker:016x}.seg")
}

/// First sequence and marker from the name of a file.
pub(super) fn parse_segment_name(name: &str) -> Option<(u64, u64)> {
    let (first, marker) = name.strip_suffix(".seg")?.split_once('-')?;
    let parsed = (first.parse().ok()?, u64::from_str_radix(marker, 16).ok()?);
    (segment_name(parsed.0, parsed.1) == name).then_some(parsed)
}

/// Makes a folder and those above it, each durable.
pub(super) fn make_folders<S: Storage>(storage: &S, folder: &Path) -> io::Result<()> {
    let mut path = PathBuf::new();
    for part in folder {
        let parent = path.clone();
        path.push(part);
        storage.create_folder(&path)?;
        storage.sync_folder(&parent)?;
    }
    Ok(())
}
