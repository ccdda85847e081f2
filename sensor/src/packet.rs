//! Events into telemetry packets: a [`Sealer`] per stream collects them with the processes that they refer to, and seals a
//! packet when there are enough of them, when they are old enough, or, with nothing to say, as a heartbeat; [`Packets`] gives
//! each its place in the spool. Knows neither records nor sinks; what a packet looks like is `sensor_proto::packet`'s to know.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sensor_proto::packet::{Label, PackError, Packed, Packer};
use sensor_proto::v1;

use crate::enrich::process::{ProcessImage, ProcessKey};

pub mod outlet;
mod report;

pub use outlet::Packets;

/// When a packet is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events in it.
    pub events: usize,
    /// Bytes of its events and rows before compression, roughly: the event that goes beyond is the last.
    pub bytes: usize,
    /// Age of its first event, ns.
    pub age_ns: u64,
    /// Time since the packet before, when there is nothing to say, ns.
    pub heartbeat_ns: u64,
}

impl Limits {
    /// 1,024 events, 768 KiB (receivers that take a megabyte take every packet), 5 s, a minute.
    pub const DEFAULT: Self = Self {
        events: 1_024,
        bytes: 768 << 10,
        age_ns: 5_000_000_000,
        heartbeat_ns: 60_000_000_000,
    };
}

/// What every packet of a run says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Identity of the agent.
    pub agent_id: [u8; 16],
    /// Boot of the host.
    pub boot_id: [u8; 16],
    /// Random identity of this run.
    pub run_id: [u8; 16],
    /// When the run began, wall clock, ns since 1970.
    pub began_time_ns: i64,
}

/// Place of the next packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Epoch.
    pub epoch: [u8; 16],
    /// Place in the stream.
    pub sequence: u64,
    /// Digest of the packet before; none for the first.
    pub previous: Option<[u8; 32]>,
}

/// Now, and what is told beside the events.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Wall clock, ns since 1970.
    pub time_ns: i64,
    /// Boot clock, ns.
    pub boot_ns: u64,
    /// Wall clock less boot clock, ns.
    pub wall_minus_boot_ns: i64,
    /// The agent.
    pub agent: v1::Agent,
    /// The host.
    pub host: v1::Host,
    /// The account; what the sealer itself counts is entered by it.
    pub ledger: v1::LedgerReport,
    /// Packets that were given up.
    pub tombstones: Vec<v1::Tombstone>,
}

/// Collects events of one stream.
#[derive(Debug)]
pub struct Sealer {
    stream: v1::Stream,
    limits: Limits,
    run: Run,
    packer: Packer,
    events: Vec<v1::Event>,
    /// Rows in the order in which they were needed.
    rows: Vec<Arc<ProcessImage>>,
    places: HashMap<(ProcessKey, u32), usize>,
    bytes: usize,
    /// When its first event came, boot clock, ns.
    opened_ns: Option<u64>,
    /// When the packet before was sealed, or the run began, boot clock, ns.
    sealed_ns: u64,
    /// The run has no packet in this stream yet.
    first: bool,
    blind: Option<v1::BlindInterval>,
    /// Events in packets of this run, by type.
    packed: BTreeMap<v1::EventType, u64>,
}

impl Sealer {
    /// A sealer with nothing in it. `blind` goes into its first packet.
    ///
    /// # Errors
    /// [`PackError::Compress`].
    pub fn new(
        stream: v1::Stream,
        limits: Limits,
        run: Run,
        blind: Option<v1::BlindInterval>,
        now_boot_ns: u64,
    ) -> Result<Self, PackError> {
        Ok(Self {
            stream,
            limits,
            run,
            packer: Packer::new()?,
            events: Vec::new(),
            rows: Vec::new(),
            places: HashMap::new(),
            bytes: 0,
            opened_ns: None,
            sealed_ns: now_boot_ns,
            first: true,
            blind,
            packed: BTreeMap::new(),
        })
    }

    /// Its stream.
    #[must_use]
    pub const fn stream(&self) -> v1::Stream {
        self.stream
    }

    /// Adds an event of this stream; its id has a counter.
    pub fn event(&mut self, event: v1::Event, now_boot_ns: u64) {
        self.bytes = self
            .bytes
            .saturating_add(prost::Message::encoded_len(&event));
        self.opened_ns.get_or_insert(now_boot_ns);
        self.events.push(event);
    }

    /// Adds the row of a process, or puts it in the place of an older one of the same program. True if it was not there: then
    /// its ancestors may not be there either.
    pub fn row(&mut self, image: &Arc<ProcessImage>) -> bool {
        let place = self.rows.len();
        let known = *self
            .places
            .entry((image.key, image.process.exec_id))
            .or_insert(place);
        if let Some(row) = self.rows.get_mut(known) {
            // Of a process that has ended nothing newer is told than its end.
            let ended = row.process.end_time_ns.is_some() && image.process.end_time_ns.is_none();
            if !ended {
                *row = Arc::clone(image);
            }
            return false;
        }
        self.bytes = self
            .bytes
            .saturating_add(prost::Message::encoded_len(&image.process));
        self.rows.push(Arc::clone(image));
        true
    }

    /// Events that are in no packet yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.events.len()
    }

    /// Whether a packet must be sealed before anything is added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.events.len() >= self.limits.events || self.bytes >= self.limits.bytes
    }

    /// When a packet is to be sealed even if nothing more comes, boot clock, ns.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        let silent = if self.first {
            self.limits.age_ns
        } else {
            self.limits.heartbeat_ns
        };
        let heartbeat = self.sealed_ns.saturating_add(silent);
        self.opened_ns.map_or(heartbeat, |opened| {
            opened.saturating_add(self.limits.age_ns).min(heartbeat)
        })
    }

    /// Seals what there is, be it nothing.
    ///
    /// # Errors
    /// [`PackError`]: the events are gone, [`Sealer::waiting`] said how many.
    pub fn seal(&mut self, place: Place, facts: Facts) -> Result<Packed, PackError> {
        let events = std::mem::take(&mut self.events);
        let rows = std::mem::take(&mut self.rows);
        self.places.clear();
        self.bytes = 0;
        self.opened_ns = None;
        self.sealed_ns = facts.boot_ns;
        let mut packed = self.packed.clone();
        for event in &events {
            *packed.entry(event.event_type()).or_default() += 1;
        }
        let mut ledger = facts.ledger;
        for row in &mut ledger.rows {
            let of_row = v1::EventType::from_short_name(&row.name);
            row.packed = of_row
                .and_then(|event_type| packed.get(&event_type))
                .copied()
                .unwrap_or(0);
        }
        let label = Label {
            agent_id: self.run.agent_id,
            epoch: place.epoch,
            stream: self.stream,
            sequence: place.sequence,
            previous: place.previous,
            sealed_time_ns: facts.time_ns,
            boot_id: self.run.boot_id,
            run_id: self.run.run_id,
            accounted_boot_ns: facts.boot_ns,
        };
        let body = v1::PacketBody {
            agent: Some(facts.agent),
            host: Some(facts.host),
            processes: rows.iter().map(|image| image.process.clone()).collect(),
            events,
            ledger: Some(ledger),
            tombstones: facts.tombstones,
            blind: self.blind.clone(),
            wall_minus_boot_ns: facts.wall_minus_boot_ns,
            ..v1::PacketBody::default()
        };
        let sealed = self.packer.pack(&label, body)?;
        self.packed = packed;
        self.first = false;
        self.blind = None;
        Ok(sealed)
    }
}

#[cfg(test)]
mod tests;
