//! The disk queue between packets and sinks.
//!
//! See docs/decisions/0021-spool-format.md for the reasons. One [`Spool`] has a state directory (0700, files 0600), which a
//! lock keeps from other processes:
//!
//! ```text
//! identity                                 agent id, epoch, hashes of machine-id and hardware UUID, which file this is
//! clean                                    there from an orderly close to the next opening
//! tombstones                               what went unread, and why
//! cursors/<sink>.cursor                    a sink's place and account
//! spool/<n>-<epoch>/<stream>/<first>-<marker>.seg
//! quarantine/                              damaged parts, for an operator
//! rejected/                                packets that a sink refused, and its reason
//! ```
//!
//! **Streams.** An epoch has two streams, process and bulk, each with sequences 1, 2, 3, ... and a chain of digests. An epoch
//! begins whenever sequences of the old one could be used twice ([`NewEpoch`]); what the old one still has is delivered
//! under its own name.
//!
//! **Segments** (8 MiB or an hour) are only appended to. All numbers are little endian, checksums are CRC-32C.
//!
//! | header | bytes |
//! |---|---|
//! | `SENSEG\r\n` | 8 |
//! | version (1), length of the header | 2 + 2 |
//! | stream (1 process, 2 bulk), 3 zeros | 4 |
//! | agent id, epoch | 16 + 16 |
//! | marker: random, also in the file's name | 8 |
//! | sequence and digest of the packet before | 8 + 32 |
//! | boot clock, wall clock, boot id, when it was begun | 8 + 8 + 16 |
//! | last event before: boot clock, boot id; wall clock of its packet | 8 + 16 + 8 |
//! | events of the stream before: number of types, then type and events of each | 2 + n * (2 + 8) |
//! | checksum of all that | 4 |
//!
//! | record | bytes |
//! |---|---|
//! | marker | 8 |
//! | length of the head (up to its checksum), 0 | 2 + 2 |
//! | length of the packet | 4 |
//! | sequence, digest | 8 + 32 |
//! | wall clock of sealing, boot clock of appending, boot id, boot clock of the last event | 8 + 8 + 16 + 8 |
//! | events of the packet by type | 2 + n * 10 |
//! | events of the stream up to and with it, by type | 2 + n * 10 |
//! | checksum of the head | 4 |
//! | the packet | its length |
//! | checksum of the head's checksum and the packet | 4 |
//!
//! The marker lets a scan find the next record behind damage; it is secret, so nothing inside a packet passes for a record.
//! Since each record and each header says what the stream had before it, the events in packets that are missing are known.
//!
//! **What a power cut costs:** the packets since the last [`Spool::sync`], at most `unsynced_bytes` of them, and
//! acknowledgements since a cursor was last written (`cursor_interval_ns`), whose packets are offered again. A sink is only
//! given what is durable, or what belongs to an epoch that has no durable part. A killed process costs nothing that was
//! appended.
//!
//! **What is never lost silently:** a packet leaves by acknowledgement of every sink, by rejection, or by eviction (bytes, age,
//! memory), corruption or loss of its file, and those are gaps ([`Item::Gap`]) in every sink's stream, with the events that
//! were in them.
//!
//! This module does not know what a packet contains, reads no clock (the caller says [`Now`]), and starts no thread.

use std::collections::BTreeMap;
use std::io;

use self::age::WallWatch;
use self::cursor::{Cursor, Outcome};
use self::log::{Log, LogSync, Rules};
use self::memory::Memory;
use self::quarantine::Quarantine;
use self::segment::{Mark, Stamp};
use self::storage::Storage;
use self::tombstone::Tombstones;

mod age;
mod codec;
mod cursor;
mod entry;
mod evict;
mod identity;
mod inspect;
mod log;
mod memory;
mod open;
mod quarantine;
mod recover;
mod segment;
mod shared;
mod slot;
pub mod storage;
mod tombstone;

pub use cursor::SinkAccount;
pub use entry::{
    Cause, Counts, Entry, Epoch, Item, NextPacket, Now, PACKET_MAX_BYTES, PacketId, Stream,
    TYPES_MAX, Tombstone,
};
pub use identity::{HostIdentity, Identity, NewEpoch};
pub use inspect::{InspectError, Inspected, fuzz_open, inspect};
pub use log::LastEvent;
pub use open::{Opening, Previous};
pub use recover::Recovery;
pub use shared::SharedSpool;

/// Folder of the epochs.
const FOLDER: &str = "spool";
/// Sinks at a time.
const SINKS_MAX: usize = 16;
/// Epochs at a time; older ones are evicted.
const EPOCHS_MAX: usize = 16;

/// Limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Bytes of segments, both streams together.
    pub disk_bytes: u64,
    /// Bytes of packets in memory while the disk cannot be written.
    pub memory_bytes: u64,
    /// Age at which packets go unread, ns.
    pub age_ns: u64,
    /// Parts of the budget for process and bulk, as in a ratio.
    pub shares: [u32; 2],
    /// Length at which a segment is closed, bytes.
    pub segment_bytes: u64,
    /// Time after which a segment is closed, ns: by so much may packets stay beyond their age.
    pub segment_span_ns: u64,
    /// Bytes of packets that are appended before the spool syncs by itself.
    pub unsynced_bytes: u64,
    /// Cursors are written at most so often, ns.
    pub cursor_interval_ns: u64,
    /// Bytes that a sink may have been given and not acknowledged; one packet always.
    pub read_ahead_bytes: usize,
    /// Bytes of the folder with damaged parts.
    pub quarantine_bytes: u64,
    /// Bytes of the folder with refused packets.
    pub rejected_bytes: u64,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            disk_bytes: 1 << 30,
            memory_bytes: 32 << 20,
            age_ns: 21 * 24 * 3_600_000_000_000,
            shares: [1, 1],
            segment_bytes: 8 << 20,
            segment_span_ns: 3_600_000_000_000,
            unsynced_bytes: 4 << 20,
            cursor_interval_ns: 1_000_000_000,
            read_ahead_bytes: 8 << 20,
            quarantine_bytes: 64 << 20,
            rejected_bytes: 64 << 20,
        }
    }
}

/// Why a packet was not taken. None of these is the disk's fault: that is the spool's to deal with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// It does not carry the identity that is next; ask again and seal it anew.
    #[error("the packet is called {got:?}, the next one is {expected:?}")]
    NotNext {
        /// Its identity.
        got: PacketId,
        /// The one that is next.
        expected: PacketId,
    },
    /// Longer than [`PACKET_MAX_BYTES`].
    #[error("the packet has {bytes} bytes, more than {PACKET_MAX_BYTES}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// More event types than [`TYPES_MAX`].
    #[error("the packet counts {types} event types, more than {TYPES_MAX}")]
    TooManyTypes {
        /// How many.
        types: usize,
    },
}

/// Why a sink cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Not one of those that the spool serves.
    #[error("the spool has no sink `{sink}`")]
    Unknown {
        /// Its name.
        sink: String,
    },
    /// A name that is no file name, or too many sinks.
    #[error(
        "`{sink}` cannot be a sink of the spool (letters, digits, `_`, `-`, `.`, at most 64; at most {SINKS_MAX} sinks)"
    )]
    Refused {
        /// Its name.
        sink: String,
    },
    /// It acknowledges what it was not given, or a second time.
    #[error("sink `{sink}` was not given {id:?}, or is done with it")]
    NotGiven {
        /// Its name.
        sink: String,
        /// What it named.
        id: PacketId,
    },
    /// The disk cannot be read right now; try again. After a few times what cannot be read becomes a gap.
    #[error("the spool cannot be read")]
    Read(#[source] io::Error),
}

/// Why packets are kept in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// No space left, or over a quota.
    Full,
    /// Mounted read-only.
    ReadOnly,
    /// Anything else, as the system says it.
    Other(String),
}

/// Where packets go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// To the disk.
    Disk,
    /// To memory, until the disk works again.
    Memory {
        /// What the disk said.
        why: DiskFault,
        /// Since when, boot clock, ns.
        since_boot_ns: u64,
    },
}

/// What goes on in a stream's class, all epochs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStatus {
    /// Bytes of segments.
    pub disk_bytes: u64,
    /// Bytes of packets that are in memory only.
    pub memory_bytes: u64,
    /// Packets that are in memory only.
    pub memory_packets: u64,
    /// Segments.
    pub segments: u64,
    /// Last sequence of the current epoch.
    pub sequence: u64,
    /// Last sequence of the current epoch that is durable.
    pub durable_sequence: u64,
    /// Age of the oldest packet, ns.
    pub oldest_age_ns: u64,
}

/// The spool's part of the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who it is.
    pub identity: Identity,
    /// Where packets go.
    pub state: State,
    /// Process and bulk.
    pub classes: [ClassStatus; 2],
    /// Epochs that have packets, the current one included.
    pub epochs: usize,
    /// The sinks' accounts.
    pub sinks: Vec<SinkAccount>,
    /// Tombstones that are kept.
    pub tombstones: usize,
    /// Tombstones that were forgotten since there were too many.
    pub tombstones_dropped: u64,
    /// Events that went unread, by cause; since the spool was opened.
    pub evicted: BTreeMap<Cause, Counts>,
    /// Bytes of damaged parts that are kept.
    pub quarantine_bytes: u64,
    /// Damaged parts that could not be kept.
    pub quarantine_unsaved: u64,
    /// Bytes of refused packets that are kept.
    pub rejected_bytes: u64,
    /// Refused packets that could not be kept.
    pub rejected_unsaved: u64,
    /// How often the disk failed.
    pub disk_failures: u64,
    /// How often it came back.
    pub disk_recoveries: u64,
    /// Reads that failed.
    pub read_errors: u64,
}

/// The disk did not take everything before the end: what it did not take is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{packets} packets were in memory only and are gone")]
pub struct Unsaved {
    /// How many packets; 0: only the mark of a close in order is missing.
    pub packets: usize,
    /// Events in those of them that a sink has not acknowledged, by sink.
    pub unacknowledged: BTreeMap<String, Counts>,
}

/// What a sync does, outside of any lock: [`Spool::begin_sync`], [`Sync::run`], [`Spool::finish_sync`].
#[derive(Debug)]
pub struct Sync<S: Storage = storage::Disk> {
    logs: Vec<LogSync<S::File>>,
}

impl<S: Storage> Sync<S> {
    /// Waits for the disk.
    ///
    /// # Errors
    /// What the system says.
    pub fn run(&self) -> io::Result<()> {
        self.logs.iter().try_for_each(LogSync::run)
    }
}

/// The spool. Not shared: [`SharedSpool`] is.
#[derive(Debug)]
pub struct Spool<S: Storage = storage::Disk> {
    storage: S,
    config: SpoolConfig,
    host: HostIdentity,
    identity: Identity,
    ordinal: u64,
    max_ordinal: u64,
    /// By epoch, then stream; the last two are the current epoch's.
    logs: Vec<Log<S::File>>,
    sinks: BTreeMap<String, Cursor<S::File>>,
    tombstones: Tombstones<S::File>,
    quarantine: Quarantine,
    memory: Option<Memory>,
    wall: WallWatch,
    cursors_saved_ns: u64,
    evicted: BTreeMap<Cause, Counts>,
    disk_failures: u64,
    disk_recoveries: u64,
    read_errors: u64,
}

impl<S: Storage> Spool<S> {
    /// Who this spool is. The epoch changes while it runs, if the disk fails.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What the next packet of a stream has to call itself.
    #[must_use]
    pub fn next_packet(&self, stream: Stream) -> NextPacket {
        self.current(stream).map_or(
            // There are always two current streams.
            NextPacket {
                id: PacketId {
                    epoch: self.identity.epoch,
                    stream,
                    sequence: 1,
                },
                previous_digest: [0; 32],
            },
            Log::next_packet,
        )
    }

    /// Takes a packet. When the disk fails it is kept in memory, and the next packet belongs to another epoch
    /// ([`Self::next_packet`]). May sync, if much is not durable.
    ///
    /// # Errors
    /// [`AppendError`]: the packet is not taken.
    pub fn append(&mut self, entry: Entry, now: Now) -> Result<(), AppendError> {
        let expected = self.next_packet(entry.id.stream).id;
        if entry.id != expected {
            return Err(AppendError::NotNext {
                got: entry.id,
                expected,
            });
        }
        if entry.bytes.len() > PACKET_MAX_BYTES {
            return Err(AppendError::TooLarge {
                bytes: entry.bytes.len(),
            });
        }
        if entry.counts.types() > TYPES_MAX {
            return Err(AppendError::TooManyTypes {
                types: entry.counts.types(),
            });
        }
        self.wall.observe(now);
        let rules = self.rules();
        let on_disk = self.memory.is_none();
        let stamp = Stamp {
            boot_ns: now.boot_ns,
            wall_ns: entry.sealed_time_ns,
            boot_id: entry.boot_id,
        };
        let Self { logs, storage, .. } = self;
        let epoch = self.identity.epoch;
        let stream = entry.id.stream;
        let Some(log) = logs
            .iter_mut()
            .rfind(|log| log.epoch == epoch && log.stream == stream)
        else {
            return Ok(());
        };
        log.push(entry, stamp);
        if on_disk {
            if let Err(error) = log.write_last(storage, &rules) {
                self.enter_memory(&error, now);
            } else if self.unsynced_bytes() > self.config.unsynced_bytes {
                self.sync_streams(now);
            }
        }
        self.keep_budgets(now);
        Ok(())
    }

    /// Makes durable what was appended, writes cursors, removes what everybody has, evicts what is too old, and tries a disk
    /// that failed. To be called every half second or so, also when nothing was appended.
    pub fn sync(&mut self, now: Now) {
        let sync = self.begin_sync();
        let result = sync.run();
        self.finish_sync(&sync, result, now);
    }

    /// First part of [`Self::sync`].
    #[must_use]
    pub fn begin_sync(&self) -> Sync<S> {
        Sync {
            logs: self.logs.iter().filter_map(Log::begin_sync).collect(),
        }
    }

    /// Last part of [`Self::sync`]: `result` is what [`Sync::run`] gave.
    pub fn finish_sync(&mut self, sync: &Sync<S>, result: io::Result<()>, now: Now) {
        self.adopt_sync(sync, result, now);
        self.wall.observe(now);
        self.retry_disk(now, false);
        self.save_cursors(now, false);
        self.remove_acknowledged(now);
        self.evict_old(now);
    }

    fn adopt_sync(&mut self, sync: &Sync<S>, result: io::Result<()>, now: Now) {
        match result {
            Ok(()) => {
                for done in &sync.logs {
                    let log = self
                        .logs
                        .iter_mut()
                        .find(|log| log.epoch == done.epoch && log.stream == done.stream);
                    if let Some(log) = log {
                        log.finish_sync(done);
                    }
                }
            }
            Err(error) => self.enter_memory(&error, now),
        }
    }

    fn sync_streams(&mut self, now: Now) {
        let sync = self.begin_sync();
        let result = sync.run();
        self.adopt_sync(&sync, result, now);
    }

    /// Closes in order: everything durable, and a mark that nothing is missing.
    ///
    /// # Errors
    /// [`Unsaved`]: the disk does not take what is in memory.
    pub fn close(mut self, now: Now) -> Result<(), Unsaved> {
        self.sync_streams(now);
        self.retry_disk(now, true);
        self.save_cursors(now, true);
        self.remove_acknowledged(now);
        let packets = self.logs.iter().map(Log::tail_packets).sum();
        if self.memory.is_some() || packets > 0 || self.write_clean().is_err() {
            let unacknowledged = self.sinks.values().map(|cursor| {
                let counts = cursor.unsaved(self.logs.iter());
                (cursor.name.clone(), counts)
            });
            return Err(Unsaved {
                packets,
                unacknowledged: unacknowledged.collect(),
            });
        }
        Ok(())
    }

    /// Begins to serve a sink; one that is new begins with the oldest packet that is there.
    ///
    /// # Errors
    /// [`SinkError::Refused`].
    pub fn add_sink(&mut self, sink: &str) -> Result<(), SinkError> {
        if self.sinks.contains_key(sink) {
            return Ok(());
        }
        if !cursor::is_name(sink) || self.sinks.len() >= SINKS_MAX {
            return Err(SinkError::Refused {
                sink: sink.to_owned(),
            });
        }
        let mut cursor = Cursor::new(sink);
        for log in &self.logs {
            cursor.follow(log);
        }
        self.sinks.insert(sink.to_owned(), cursor);
        Ok(())
    }

    /// Stops to serve a sink: it counts no longer, its place is forgotten.
    ///
    /// # Errors
    /// [`SinkError::Unknown`].
    pub fn remove_sink(&mut self, sink: &str) -> Result<(), SinkError> {
        self.sinks
            .remove(sink)
            .ok_or_else(|| unknown(sink))
            .map(|_| {
                // If this fails the next opening forgets it.
                let _gone = self.storage.remove(&cursor::path(sink));
            })
    }

    /// Gives a sink what comes next: packets and gaps, each stream in its order, the process stream first but not alone. At
    /// most `max_bytes` of packets (one always), and never more than the read-ahead allows beside what it has not
    /// acknowledged. Nothing is given twice, until [`Self::rewind`].
    ///
    /// # Errors
    /// [`SinkError::Unknown`], [`SinkError::Read`].
    pub fn next(&mut self, sink: &str, max_bytes: usize, now: Now) -> Result<Vec<Item>, SinkError> {
        let in_flight = self
            .sinks
            .get(sink)
            .ok_or_else(|| unknown(sink))?
            .in_flight_bytes;
        let room = self.config.read_ahead_bytes.saturating_sub(in_flight);
        if room == 0 {
            return Ok(Vec::new());
        }
        let budget = max_bytes.min(room);
        let mut items = Vec::new();
        let mut spent = 0_usize;
        // A quarter is for bulk, if it has anything; then what is left for whoever has more.
        let process = budget.saturating_sub(budget / 4);
        for (stream, limit) in [
            (Stream::Process, process),
            (Stream::Bulk, budget),
            (Stream::Process, budget),
        ] {
            if let Err(error) = self.give(sink, stream, limit, &mut spent, &mut items, now) {
                self.read_errors = self.read_errors.saturating_add(1);
                if items.is_empty() {
                    return Err(SinkError::Read(error));
                }
                break;
            }
        }
        Ok(items)
    }

    fn give(
        &mut self,
        sink: &str,
        stream: Stream,
        limit: usize,
        spent: &mut usize,
        items: &mut Vec<Item>,
        now: Now,
    ) -> io::Result<()> {
        let mut index = 0;
        // Epochs in their order: all of the older first.
        while let Some(log) = self.logs.get(index) {
            if log.stream != stream {
                index = index.saturating_add(1);
                continue;
            }
            if *spent >= limit && !items.is_empty() {
                return Ok(());
            }
            let Some(item) = self.read_one(sink, index, now)? else {
                index = index.saturating_add(1);
                continue;
            };
            *spent = spent.saturating_add(item.weight());
            items.push(item);
        }
        Ok(())
    }

    fn read_one(&mut self, sink: &str, index: usize, now: Now) -> io::Result<Option<Item>> {
        let (Some(log), Some(cursor)) = (self.logs.get_mut(index), self.sinks.get_mut(sink)) else {
            return Ok(None);
        };
        let Some((sequence, hint, before)) = cursor.reading(log) else {
            return Ok(None);
        };
        match log.read(&self.storage, sequence, hint)? {
            log::Read::Nothing => Ok(None),
            log::Read::Packet {
                entry,
                totals,
                hint,
            } => {
                let item = Item::Packet(entry);
                let counts = match &item {
                    Item::Packet(entry) => entry.counts.clone(),
                    Item::Gap(_) => Counts::new(),
                };
                let mark = Mark {
                    sequence,
                    digest: [0; 32],
                    totals,
                };
                cursor.given(log, sequence, (counts, &mark), None, hint, item.weight());
                Ok(Some(item))
            }
            log::Read::Gap {
                to,
                digest,
                totals,
                damage,
            } => {
                let gap = evict::GapFound {
                    from: sequence,
                    to,
                    digest,
                    totals,
                    damage,
                };
                Ok(self.explain(sink, index, gap, &before, now))
            }
        }
    }

    /// A sink is done with a packet or a gap that it was given, in any order.
    ///
    /// # Errors
    /// [`SinkError::NotGiven`]: counted; nothing changes.
    pub fn ack(&mut self, sink: &str, id: PacketId) -> Result<(), SinkError> {
        self.finish(sink, id, Outcome::Acked)
    }

    /// A sink refuses a packet for good: it is set aside with the reason, and the sink is done with it.
    ///
    /// # Errors
    /// [`SinkError::NotGiven`]: counted; nothing changes.
    pub fn reject(
        &mut self,
        sink: &str,
        entry: &Entry,
        reason: &str,
        now: Now,
    ) -> Result<(), SinkError> {
        self.finish(sink, entry.id, Outcome::Rejected)?;
        let stamp = Stamp {
            boot_ns: now.boot_ns,
            wall_ns: now.wall_ns,
            boot_id: self.host.boot_id,
        };
        let context = (self.identity.agent_id, stamp);
        if !self
            .quarantine
            .set_aside(&self.storage, sink, reason, entry, context)
        {
            tracing::warn!(sink, id = ?entry.id, "a refused packet could not be set aside");
        }
        Ok(())
    }

    fn finish(&mut self, sink: &str, id: PacketId, outcome: Outcome) -> Result<(), SinkError> {
        let cursor = self.sinks.get_mut(sink).ok_or_else(|| unknown(sink))?;
        if cursor.finish(id, outcome) {
            return Ok(());
        }
        cursor.false_acks = cursor.false_acks.saturating_add(1);
        Err(SinkError::NotGiven {
            sink: sink.to_owned(),
            id,
        })
    }

    /// A sink lost its connection: what it was given and is not done with is given again, in order.
    ///
    /// # Errors
    /// [`SinkError::Unknown`].
    pub fn rewind(&mut self, sink: &str) -> Result<(), SinkError> {
        self.sinks
            .get_mut(sink)
            .ok_or_else(|| unknown(sink))
            .map(Cursor::rewind)
    }

    /// Names of the sinks.
    pub fn sinks(&self) -> impl Iterator<Item = &str> {
        self.sinks.keys().map(String::as_str)
    }

    /// Gaps that no packet has told yet, for the next one.
    pub fn untold_tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.tombstones.untold()
    }

    /// A packet was appended that tells all tombstones up to this [`Tombstone::id`].
    pub fn told_tombstones(&mut self, id: u64) {
        self.tombstones.told(id);
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self, now: Now) -> Status {
        let class = |stream: Stream| {
            let mut class = ClassStatus::default();
            for log in self.logs.iter().filter(|log| log.stream == stream) {
                class.disk_bytes = class.disk_bytes.saturating_add(log.disk_bytes());
                class.memory_bytes = class.memory_bytes.saturating_add(log.tail_bytes);
                class.memory_packets = class
                    .memory_packets
                    .saturating_add(u64::try_from(log.tail_packets()).unwrap_or(u64::MAX));
                class.segments = class
                    .segments
                    .saturating_add(u64::try_from(log.segments.len()).unwrap_or(u64::MAX));
                if let Some(oldest) = log.oldest() {
                    let age = self.wall.age_ns(&oldest, now);
                    class.oldest_age_ns = class.oldest_age_ns.max(age);
                }
                if log.epoch == self.identity.epoch {
                    class.sequence = log.end.sequence;
                    class.durable_sequence = log.stored.sequence;
                }
            }
            class
        };
        let (quarantine_bytes, rejected_bytes) = self.quarantine.bytes();
        Status {
            identity: self.identity,
            state: self.state(),
            classes: Stream::ALL.map(class),
            epochs: self.logs.len() / Stream::ALL.len(),
            sinks: self.accounts(),
            tombstones: self.tombstones.all().len(),
            tombstones_dropped: self.tombstones.dropped,
            evicted: self.evicted.clone(),
            quarantine_bytes,
            quarantine_unsaved: self.quarantine.damaged_unsaved,
            rejected_bytes,
            rejected_unsaved: self.quarantine.rejected_unsaved,
            disk_failures: self.disk_failures,
            disk_recoveries: self.disk_recoveries,
            read_errors: self.read_errors,
        }
    }

    /// The sinks' accounts.
    #[must_use]
    pub fn accounts(&self) -> Vec<SinkAccount> {
        self.sinks
            .values()
            .map(|cursor| cursor.account(self.logs.iter()))
            .collect()
    }

    /// Where packets go.
    #[must_use]
    pub fn state(&self) -> State {
        self.memory
            .as_ref()
            .map_or(State::Disk, |memory| State::Memory {
                why: memory.why.clone(),
                since_boot_ns: memory.since_boot_ns,
            })
    }

    fn current(&self, stream: Stream) -> Option<&Log<S::File>> {
        self.logs
            .iter()
            .rfind(|log| log.epoch == self.identity.epoch && log.stream == stream)
    }

    fn rules(&self) -> Rules {
        // A small budget still has a few segments, so that eviction takes a part and not all.
        let part = (self.config.disk_bytes / 8).max(4096);
        Rules {
            agent_id: self.identity.agent_id,
            segment_bytes: self.config.segment_bytes.min(part),
            segment_span_ns: self.config.segment_span_ns,
        }
    }

    fn unsynced_bytes(&self) -> u64 {
        self.logs
            .iter()
            .fold(0, |sum, log| sum.saturating_add(log.tail_bytes))
    }
}

fn unknown(sink: &str) -> SinkError {
    SinkError::Unknown {
        sink: sink.to_owned(),
    }
}

#[cfg(test)]
mod tests;
