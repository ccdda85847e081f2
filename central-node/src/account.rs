//! What the node remembers of a packet's account when its body is gone: losses, tombstones, blind intervals. Pure.

use std::collections::BTreeMap;

use prost::Message as _;
use sensor_proto::v1;

use crate::packet::Packet;

/// Where a loss happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Origin {
    /// Not known to this build.
    Unspecified = 0,
    /// In the kernel: a ring or a table was full.
    Kernel = 1,
    /// Between ring and decoder.
    Reader = 2,
    /// In the daemon's pipeline.
    Daemon = 3,
    /// Over the rate of a process: told as an aggregate, not one by one.
    Throttled = 4,
}

impl Origin {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Kernel => "kernel",
            Self::Reader => "reader",
            Self::Daemon => "daemon",
            Self::Throttled => "throttled",
        }
    }
}

/// One counter of a run that is not 0.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Loss {
    /// Name of the event type or record kind.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Where it was lost.
    #[prost(enumeration = "Origin", tag = "2")]
    pub origin: i32,
    /// Cause, as docs/loss.md lists them.
    #[prost(string, tag = "3")]
    pub cause: String,
    /// How many since the run began.
    #[prost(uint64, tag = "4")]
    pub count: u64,
}

/// The account of one packet, as it is kept; empty for a packet that lost nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Account {
    /// Counters of losses, since the run began.
    #[prost(message, repeated, tag = "1")]
    pub losses: Vec<Loss>,
    /// Packets that were given up.
    #[prost(message, repeated, tag = "2")]
    pub tombstones: Vec<v1::Tombstone>,
    /// Time before the run in which nobody watched.
    #[prost(message, optional, tag = "3")]
    pub blind: Option<v1::BlindInterval>,
    /// Events on their way in the agent when the account was drawn up.
    #[prost(uint64, tag = "4")]
    pub waiting: u64,
    /// Calls that the kernel skipped at most, since the run began.
    #[prost(uint64, tag = "5")]
    pub unseen_at_most: u64,
    /// Events in packets of this stream since the run began, this packet's among them, by type; types without any are left out.
    /// Nothing in a store of a node that did not keep it.
    #[prost(message, repeated, tag = "6")]
    pub packed: Vec<v1::TypeCount>,
}

impl Account {
    /// The account that a packet carries.
    #[must_use]
    pub fn of(body: &v1::PacketBody) -> Self {
        let mut losses = Vec::new();
        let mut waiting = 0u64;
        let mut unseen_at_most = 0u64;
        let mut packed = Vec::new();
        if let Some(ledger) = &body.ledger {
            for row in &ledger.rows {
                let mut add = |origin: Origin, causes: &[v1::CauseCount]| {
                    for cause in causes.iter().filter(|cause| cause.count > 0) {
                        losses.push(Loss {
                            name: row.name.clone(),
                            origin: origin.into(),
                            cause: cause.cause.clone(),
                            count: cause.count,
                        });
                    }
                };
                add(Origin::Kernel, &row.lost_in_kernel);
                add(Origin::Reader, &row.lost_in_reader);
                add(Origin::Daemon, &row.lost);
                if row.throttled > 0 {
                    losses.push(Loss {
                        name: row.name.clone(),
                        origin: Origin::Throttled.into(),
                        cause: "rate".to_owned(),
                        count: row.throttled,
                    });
                }
                for place in &row.waiting {
                    waiting = waiting.saturating_add(place.count);
                }
                if row.packed > 0
                    && let Some(event_type) = v1::EventType::from_short_name(&row.name)
                {
                    packed.push(v1::TypeCount {
                        r#type: event_type.into(),
                        count: row.packed,
                    });
                }
            }
            for program in &ledger.unseen_at_most {
                unseen_at_most = unseen_at_most.saturating_add(program.misses.unwrap_or_default());
            }
        }
        Self {
            losses,
            tombstones: body.tombstones.clone(),
            blind: body.blind.clone(),
            waiting,
            unseen_at_most,
            packed,
        }
    }

    /// Its stored form; nothing for an empty one.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        (self != &Self::default()).then(|| self.encode_to_vec())
    }

    /// Reads the stored form; an unreadable one counts as empty, since the packet itself is kept beside.
    #[must_use]
    pub fn decode_stored(stored: Option<&[u8]>) -> Self {
        stored
            .and_then(|bytes| Self::decode(bytes).ok())
            .unwrap_or_default()
    }

    /// Counters by key, for differences between packets.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<(String, i32, String), u64> {
        self.losses
            .iter()
            .map(|loss| {
                let key = (loss.name.clone(), loss.origin, loss.cause.clone());
                (key, loss.count)
            })
            .collect()
    }
}

/// The account counts fewer packed events than there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoesNotAddUp;

/// One packet as [`crate::completeness`] sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Sequence number.
    pub sequence: i64,
    /// Run of the daemon that sealed it.
    pub run: [u8; 16],
    /// Boot of the host in which its events happened.
    pub boot: Vec<u8>,
    /// When that run began, by the wall clock: ns since 1970.
    pub run_began_ns: i64,
    /// When it was sealed, by the wall clock: ns since 1970.
    pub sealed_ns: i64,
    /// When its account was drawn up: ns since boot.
    pub at_boot_ns: i64,
    /// Its earliest event: ns since boot; as `last_boot_ns` for a heartbeat.
    pub first_boot_ns: i64,
    /// Up to here the stream is accounted for: ns since boot.
    pub last_boot_ns: i64,
    /// Events by number of the type.
    pub counts: Vec<(i32, u64)>,
    /// Losses and gaps that it tells of.
    pub account: Account,
    /// The packet before it, as stored, has another digest than this one names.
    pub chain_broken: bool,
    /// A packet of this identity with other content was refused its place.
    pub conflict: bool,
}

impl Summary {
    /// The summary of an opened packet.
    #[must_use]
    pub fn of(packet: &Packet) -> Self {
        let (header, body) = (packet.opened.header(), packet.opened.body());
        let ledger = body.ledger.as_ref();
        let last_boot_ns = signed(header.last_boot_ns.unwrap_or_default());
        Self {
            sequence: packet.place.sequence,
            run: <[u8; 16]>::try_from(header.run_id.as_slice()).unwrap_or_default(),
            boot: header.boot_id.clone(),
            run_began_ns: ledger.map_or(0, |ledger| ledger.run_began_time_ns),
            sealed_ns: header.sealed_time_ns,
            at_boot_ns: ledger.map_or(last_boot_ns, |ledger| signed(ledger.at_boot_ns)),
            first_boot_ns: header.first_boot_ns.map_or(last_boot_ns, signed),
            last_boot_ns,
            counts: header
                .counts
                .iter()
                .map(|count| (count.r#type, count.count))
                .collect(),
            account: Account::of(body),
            chain_broken: false,
            conflict: false,
        }
    }

    /// Events in the packets between an earlier packet of the same run and this one, by type, as the agent's account has them:
    /// what it packed since, less what is in this packet. None where one of the two does not tell.
    ///
    /// # Errors
    /// [`DoesNotAddUp`].
    pub fn between(&self, before: &Self) -> Result<Option<BTreeMap<i32, u64>>, DoesNotAddUp> {
        let of = |counts: &[v1::TypeCount], r#type: i32| {
            let count = counts.iter().find(|count| count.r#type == r#type);
            count.map_or(0, |count| count.count)
        };
        if before.account.packed.is_empty() && !before.counts.is_empty() {
            return Ok(None);
        }
        let mut between = BTreeMap::new();
        for count in before.account.packed.iter().chain(&self.account.packed) {
            let r#type = count.r#type;
            let here = self.counts.iter().find(|(number, _)| *number == r#type);
            let others = of(&self.account.packed, r#type)
                .checked_sub(of(&before.account.packed, r#type))
                .and_then(|since| since.checked_sub(here.map_or(0, |(_, count)| *count)))
                .ok_or(DoesNotAddUp)?;
            if others > 0 {
                between.insert(r#type, others);
            }
        }
        Ok(Some(between))
    }

    /// Wall-clock time of an instant of the boot clock, by the offset at the time of sealing.
    #[must_use]
    pub fn wall_ns(&self, boot_ns: i64) -> i64 {
        self.sealed_ns
            .saturating_sub(self.at_boot_ns)
            .saturating_add(boot_ns)
    }
}

/// A count as SQLite stores it.
#[must_use]
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
