//! Both sealers and the spool that takes what they seal.

use std::fmt;
use std::sync::Arc;

use sensor_proto::packet::{PackError, stream_of};
use sensor_proto::v1;

use super::report::{self, report};
use super::{Facts, Limits, Place, Run, Sealer};
use crate::clock::Clock;
use crate::enrich::process::{ProcessImage, ProcessTable};
use crate::ledger::Ledger;
use crate::spool::storage::{Disk, Storage};
use crate::spool::{AppendError, Entry, Now, Opening, Previous, SharedSpool, Stream};

/// Tombstones in one packet at most; further ones come with the next.
const TOMBSTONES: usize = 256;
/// Events of a run are numbered from the number of packets before it times this: more than any run numbers beyond its
/// durable packets, so that no number comes twice in an epoch.
const NUMBERS_PER_PACKET: u64 = 1 << 20;

/// Enters what kernel and reader have counted; called before each packet.
pub struct Account(pub Box<dyn FnMut(&mut Ledger) + Send>);

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Account")
    }
}

/// Why a packet is not in the spool.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It could not be made.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The spool did not take it.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The spool was closed.
    #[error("the spool is closed")]
    Closed,
}

/// The way of events into packets.
#[derive(Debug)]
pub struct Packets<S: Storage = Disk> {
    spool: SharedSpool<S>,
    clock: Arc<Clock>,
    run: Run,
    sealers: [Sealer; 2],
    agent: v1::Agent,
    host: v1::Host,
    account: Account,
    /// Events that were in packets that could not be made; a fault of the sensor.
    unsealed: u64,
}

impl<S: Storage> Packets<S> {
    /// Packets of this run into a spool that was just opened.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn new(
        spool: SharedSpool<S>,
        opening: &Opening,
        clock: Arc<Clock>,
        boot_id: [u8; 16],
        run_id: [u8; 16],
        host: v1::Host,
        account: Account,
    ) -> Result<Self, SealError> {
        let now = now(&clock);
        let identity = spool
            .with(|spool| *spool.identity())
            .ok_or(SealError::Closed)?;
        let run = Run {
            agent_id: identity.agent_id,
            boot_id,
            run_id,
            began_time_ns: now.wall_ns,
        };
        let sealer = |stream: Stream, last| {
            Sealer::new(
                report::stream(stream),
                Limits::DEFAULT,
                run,
                blind(opening, last, now),
                now.boot_ns,
            )
        };
        let [process, bulk] = opening.last_events;
        Ok(Self {
            sealers: [
                sealer(Stream::Process, process)?,
                sealer(Stream::Bulk, bulk)?,
            ],
            spool,
            clock,
            run,
            agent: agent(identity.agent_id, identity.epoch.0),
            host,
            account,
            unsealed: 0,
        })
    }

    /// The agent, as events and packets name it now.
    #[must_use]
    pub const fn agent(&self) -> &v1::Agent {
        &self.agent
    }

    /// Number of the event before the first of this run.
    #[must_use]
    pub fn first_number(&self) -> u64 {
        let packets = self.spool.with(|spool| {
            Stream::ALL.map(|stream| spool.next_packet(stream).id.sequence.saturating_sub(1))
        });
        let packets = packets.unwrap_or_default();
        packets
            .iter()
            .fold(0_u64, |sum, packets| sum.saturating_add(*packets))
            .saturating_mul(NUMBERS_PER_PACKET)
    }

    /// The host's facts have changed. True if the epoch has, too: since the last time the spool had to begin a new one.
    pub fn refresh(&mut self, host: &v1::Host) -> bool {
        self.host.clone_from(host);
        let epoch = self.spool.with(|spool| spool.identity().epoch.0);
        let changed = epoch.is_some_and(|epoch| self.agent.epoch != epoch);
        if let (true, Some(epoch)) = (changed, epoch) {
            self.agent.epoch = epoch.to_vec();
        }
        changed
    }

    /// Adds an event with the rows that it refers to. Its stream, if that packet is full now: [`Self::seal`] it.
    pub fn event(
        &mut self,
        event: v1::Event,
        actor: Option<&Arc<ProcessImage>>,
        table: &mut ProcessTable,
        now_boot_ns: u64,
    ) -> Option<v1::Stream> {
        let stream = stream_of(&event);
        let sealer = self
            .sealers
            .iter_mut()
            .find(|sealer| sealer.stream() == stream)?;
        let find = |table: &mut ProcessTable, reference: &v1::ProcessRef| {
            let key = table.key(reference.pid, reference.start_boot_ns?);
            table
                .find(key)
                .filter(|image| image.process.exec_id == reference.exec_id)
        };
        let mut rows = Vec::new();
        match (actor, &event.process) {
            (Some(actor), _) => rows.push(Arc::clone(actor)),
            (None, Some(reference)) => rows.extend(find(table, reference)),
            (None, None) => {}
        }
        if let Some(v1::event::Body::Fork(fork)) = &event.body {
            rows.extend(fork.child.as_ref().and_then(|child| find(table, child)));
        }
        for image in rows {
            if sealer.row(&image) {
                for ancestor in table.ancestors(&image).0 {
                    sealer.row(&ancestor);
                }
            }
        }
        sealer.event(event, now_boot_ns);
        sealer.is_full().then_some(stream)
    }

    /// The stream whose packet is due, and when the next one will be.
    #[must_use]
    pub fn due(&self, now_boot_ns: u64) -> (Option<v1::Stream>, u64) {
        let first = self.sealers.iter().min_by_key(|sealer| sealer.due_ns());
        first.map_or((None, u64::MAX), |sealer| {
            let due_ns = sealer.due_ns();
            ((due_ns <= now_boot_ns).then(|| sealer.stream()), due_ns)
        })
    }

    /// Events that are in no packet yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.sealers.iter().map(Sealer::waiting).sum()
    }

    /// Events whose packet could not be made.
    #[must_use]
    pub const fn unsealed(&self) -> u64 {
        self.unsealed
    }

    /// Seals what a stream has and gives it to the spool.
    ///
    /// # Errors
    /// [`SealError`]: the events are gone, counted in [`Self::unsealed`].
    pub fn seal(&mut self, of: v1::Stream, ledger: &mut Ledger) -> Result<(), SealError> {
        (self.account.0)(ledger);
        let now = now(&self.clock);
        let wall_minus_boot_ns = self.clock.offset_ns();
        let (run, agent, host) = (self.run, &self.agent, &self.host);
        let Some(sealer) = self.sealers.iter_mut().find(|sealer| sealer.stream() == of) else {
            return Ok(());
        };
        let events = sealer.waiting();
        let stream = match of {
            v1::Stream::Process => Stream::Process,
            v1::Stream::Bulk | v1::Stream::Unspecified => Stream::Bulk,
        };
        let sealed = self.spool.with(|spool| -> Result<(), SealError> {
            let next = spool.next_packet(stream);
            let mut last_told = None;
            let tombstones = spool
                .untold_tombstones()
                .take(TOMBSTONES)
                .map(|gap| {
                    last_told = last_told.max(Some(gap.id));
                    report::tombstone(gap)
                })
                .collect();
            let accounts = spool.accounts();
            let facts = Facts {
                time_ns: now.wall_ns,
                boot_ns: now.boot_ns,
                wall_minus_boot_ns,
                agent: agent.clone(),
                host: host.clone(),
                ledger: report(ledger, of, run.began_time_ns, now.boot_ns, &accounts),
                tombstones,
            };
            let place = Place {
                epoch: next.id.epoch.0,
                sequence: next.id.sequence,
                previous: (next.id.sequence > 1).then_some(next.previous_digest),
            };
            // The epoch of ids is the header's.
            let facts = Facts {
                agent: v1::Agent {
                    epoch: place.epoch.to_vec(),
                    ..facts.agent
                },
                ..facts
            };
            let packed = sealer.seal(place, facts)?;
            let counts = packed.counts.iter().filter_map(|(event_type, count)| {
                let number = u16::try_from(i32::from(*event_type)).ok()?;
                Some((number, *count))
            });
            let entry = Entry {
                id: next.id,
                digest: packed.digest,
                sealed_time_ns: now.wall_ns,
                boot_id: run.boot_id,
                last_event_boot_ns: packed.last_boot_ns,
                counts: counts.collect(),
                bytes: packed.bytes,
            };
            spool.append(entry, now)?;
            if let Some(id) = last_told {
                spool.told_tombstones(id);
            }
            Ok(())
        });
        let outcome = sealed.unwrap_or(Err(SealError::Closed));
        if outcome.is_err() {
            let events = u64::try_from(events).unwrap_or(u64::MAX);
            self.unsealed = self.unsealed.saturating_add(events);
        }
        outcome
    }

    /// Seals both streams for the last time, with the final account.
    pub fn finish(&mut self, ledger: &mut Ledger) {
        for stream in [v1::Stream::Process, v1::Stream::Bulk] {
            if let Err(error) = self.seal(stream, ledger) {
                tracing::error!(%error, ?stream, "the last packet is not in the spool");
            }
        }
    }
}

/// This sensor under the identity of its spool.
fn agent(id: [u8; 16], epoch: [u8; 16]) -> v1::Agent {
    v1::Agent {
        id: id.to_vec(),
        epoch: epoch.to_vec(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema_version: sensor_proto::SCHEMA_VERSION,
    }
}

fn now(clock: &Clock) -> Now {
    Now {
        wall_ns: clock.wall_now_ns().unwrap_or_default(),
        boot_ns: clock.boot_ns().unwrap_or_default(),
    }
}

/// The time before this run in which nobody watched; none if there was no run before.
fn blind(
    opening: &Opening,
    last: Option<crate::spool::LastEvent>,
    now: Now,
) -> Option<v1::BlindInterval> {
    if opening.previous == Previous::None {
        return None;
    }
    Some(v1::BlindInterval {
        from_boot_id: last.map(|last| last.boot_id.to_vec()),
        from_boot_ns: last.map(|last| last.boot_ns),
        from_time_ns: last.map(|last| last.sealed_time_ns),
        to_boot_ns: now.boot_ns,
        to_time_ns: now.wall_ns,
        after_clean_stop: opening.previous == Previous::Clean,
    })
}
