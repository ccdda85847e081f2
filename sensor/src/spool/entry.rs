//! What goes in and what comes out: packets, the counts that explain them, and the gaps between them.

use std::collections::BTreeMap;
use std::fmt;

/// Distinct event types that one packet may count; there are fewer types than that.
pub const TYPES_MAX: usize = 128;
/// Longest packet that is taken, bytes.
pub const PACKET_MAX_BYTES: usize = 4 << 20;

/// 128 random bits; each belongs to one continuous history of a spool. Sequences are unique within an epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub [u8; 16]);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

/// The two priority classes; each has its own sequence, digest chain and segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Events of the process lane: exec, exit, fork, modules, integrity.
    Process,
    /// Everything else.
    Bulk,
}

impl Stream {
    /// Both, the more urgent one first.
    pub const ALL: [Self; 2] = [Self::Process, Self::Bulk];

    /// Its name, as folders and the status have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Bulk => "bulk",
        }
    }

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Process => 1,
            Self::Bulk => 2,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|stream| stream.number() == number)
    }
}

/// Identity of a packet, apart from the agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its stream.
    pub stream: Stream,
    /// Its place in that stream of that epoch: 1, 2, 3, ...
    pub sequence: u64,
}

/// What the next packet of a stream has to call itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextPacket {
    /// Its identity.
    pub id: PacketId,
    /// Digest of the packet before it in its stream; zeros for the first.
    pub previous_digest: [u8; 32],
}

/// Events by number of the event type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<u16, u64>);

impl Counts {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds events of one type.
    pub fn add(&mut self, event_type: u16, events: u64) {
        if events > 0 {
            let slot = self.0.entry(event_type).or_default();
            *slot = slot.saturating_add(events);
        }
    }

    /// Adds all of another.
    pub fn add_all(&mut self, other: &Self) {
        for (event_type, events) in other.iter() {
            self.add(event_type, events);
        }
    }

    /// What this has beyond the other; never below 0.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.iter()
            .map(|(event_type, events)| (event_type, events.saturating_sub(other.of(event_type))))
            .collect()
    }

    /// Events of one type.
    #[must_use]
    pub fn of(&self, event_type: u16) -> u64 {
        self.0.get(&event_type).copied().unwrap_or(0)
    }

    /// By type, in the order of their numbers; types without events are left out.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        self.0
            .iter()
            .map(|(event_type, events)| (*event_type, *events))
    }

    /// Events of all types.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0
            .values()
            .fold(0, |sum, events| sum.saturating_add(*events))
    }

    /// Distinct types.
    #[must_use]
    pub fn types(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<(u16, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (u16, u64)>>(counts: I) -> Self {
        let mut sum = Self::new();
        for (event_type, events) in counts {
            sum.add(event_type, events);
        }
        sum
    }
}

/// An instant, by both clocks (`clock.rs` reads them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Wall clock, ns since 1970.
    pub wall_ns: i64,
    /// Boot clock, ns.
    pub boot_ns: u64,
}

/// A sealed packet. The spool does not look into `bytes`, nor does its `Debug` show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who it is: what [`super::Spool::next_packet`] said.
    pub id: PacketId,
    /// SHA-256 of `bytes`.
    pub digest: [u8; 32],
    /// When it was sealed, wall clock, ns since 1970.
    pub sealed_time_ns: i64,
    /// Boot in which it was sealed.
    pub boot_id: [u8; 16],
    /// Up to this instant of the boot clock, in ns, the packets of its stream tell everything: the time of the last event
    /// in it, or, for a heartbeat, until when there was nothing to say.
    pub last_event_boot_ns: u64,
    /// Its events by type.
    pub counts: Counts,
    /// The packet.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("id", &self.id)
            .field("sealed_time_ns", &self.sealed_time_ns)
            .field("counts", &self.counts)
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// Why packets of a stream are no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The byte budget was full.
    Bytes,
    /// Older than the age limit.
    Age,
    /// Damaged on the disk.
    Corrupt,
    /// The disk could not be written and the memory budget was full.
    Memory,
    /// More epochs with undelivered packets than are kept.
    Epochs,
    /// Nobody knows: the file was not there.
    Missing,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 6] = [
        Self::Bytes,
        Self::Age,
        Self::Corrupt,
        Self::Memory,
        Self::Epochs,
        Self::Missing,
    ];

    /// Its name in status and counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "spool_bytes",
            Self::Age => "spool_age",
            Self::Corrupt => "spool_corrupt",
            Self::Memory => "spool_memory",
            Self::Epochs => "spool_epochs",
            Self::Missing => "spool_missing",
        }
    }

    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Bytes => 1,
            Self::Age => 2,
            Self::Corrupt => 3,
            Self::Memory => 4,
            Self::Epochs => 5,
            Self::Missing => 6,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.number() == number)
    }
}

/// Packets that were there and are not any more: a gap with its explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Number of this tombstone; grows when it is made and when it is extended by further packets.
    pub id: u64,
    /// Epoch of the packets.
    pub epoch: Epoch,
    /// Stream of the packets.
    pub stream: Stream,
    /// First sequence.
    pub from: u64,
    /// Last sequence, itself gone too.
    pub to: u64,
    /// What was in them, by type.
    pub counts: Counts,
    /// Digest of the last one, to which the next packet's chain refers; `None` where nobody knows.
    pub last_digest: Option<[u8; 32]>,
    /// Names of the sinks that had not acknowledged all of them when they went.
    pub unread_by: Vec<String>,
    /// Why they went.
    pub cause: Cause,
    /// Wall clock when they went (last), ns since 1970.
    pub time_ns: i64,
    /// Events of the stream up to and with `to`, by type.
    pub(super) totals: Counts,
}

/// What a sink gets, in the order of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A packet.
    Packet(Entry),
    /// In its place: why some are not there, as far as this sink had not acknowledged them.
    Gap(Tombstone),
}

impl Item {
    /// By this it is acknowledged: the packet's identity, or that of the first packet of the gap.
    #[must_use]
    pub const fn id(&self) -> PacketId {
        match self {
            Self::Packet(entry) => entry.id,
            Self::Gap(gap) => PacketId {
                epoch: gap.epoch,
                stream: gap.stream,
                sequence: gap.from,
            },
        }
    }

    /// Bytes that it takes of a sink's read-ahead.
    #[must_use]
    pub(super) const fn weight(&self) -> usize {
        match self {
            Self::Packet(entry) => entry.bytes.len().saturating_add(FRAME_WEIGHT),
            Self::Gap(_) => FRAME_WEIGHT,
        }
    }
}

/// What a packet costs beside its bytes, about.
const FRAME_WEIGHT: usize = 256;
