//! Opening: what was there, whether the last run ended in order, and whether its epoch may go on.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::age::WallWatch;
use super::codec::{Decoder, Encoder};
use super::cursor::{self, Cursor};
use super::entry::{Cause, Epoch, Now, Stream, Tombstone};
use super::identity::{self, HostIdentity, Identity, NewEpoch};
use super::log::LastEvent;
use super::quarantine::Quarantine;
use super::recover::{Findings, Recovery, recover};
use super::segment::{Mark, Stamp};
use super::slot::SlotFile;
use super::storage::{Storage, StorageFile};
use super::tombstone::Tombstones;
use super::{SINKS_MAX, Spool, SpoolConfig};

const CLEAN: &str = "clean";
const CLEAN_HALF_BYTES: usize = 1024;

/// How the run before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Previous {
    /// There was none.
    None,
    /// In order: everything that was sealed is there.
    Clean,
    /// Otherwise. Between the last event of each stream and the first of this run the sensor was blind: what happened then,
    /// and what had not reached the disk, nobody knows.
    Unclean,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// How the run before this one ended.
    pub previous: Previous,
    /// Its last durable event, of process and bulk; `None` where there was none or it is not known.
    pub last_events: [Option<LastEvent>; 2],
    /// Why this run has another epoch; `None` if it goes on with the one before.
    pub new_epoch: Option<NewEpoch>,
    /// What was damaged.
    pub recovery: Recovery,
}

/// Ends of the two streams at an orderly close.
#[derive(Debug)]
struct CleanMark {
    epoch: Epoch,
    ends: [(u64, [u8; 32]); 2],
}

impl<S: Storage> Spool<S> {
    /// Opens the spool of a folder for these sinks; others that it served before are forgotten. Damage is no error; a disk
    /// that does not work is none either: packets are kept in memory then.
    ///
    /// # Errors
    /// [`io::Error`] only if the system has no random numbers to begin with.
    pub fn open(
        storage: S,
        config: SpoolConfig,
        host: HostIdentity,
        sinks: &[&str],
        now: Now,
    ) -> io::Result<(Self, Opening)> {
        let mut quarantine =
            Quarantine::open(&storage, config.quarantine_bytes, config.rejected_bytes);
        let stored = identity::load(&storage);
        let mut findings = recover(&storage, &mut quarantine);
        let clean = load_clean(&storage);
        let tombstones = Tombstones::load(&storage).unwrap_or_else(|_| {
            findings.report.unreadable = findings.report.unreadable.saturating_add(1);
            Tombstones::new()
        });
        let cursors = load_sinks(&storage, sinks, &mut findings);

        let (mut identity, ordinal, mut reason) = match stored {
            Ok(Some((stored, file))) => {
                let reason = stored.differs(&host, file).or_else(|| {
                    tail_is_lost(stored.identity.epoch, clean.as_ref(), &cursors, &findings)
                        .then_some(NewEpoch::Tail)
                });
                (stored.identity, stored.ordinal, reason)
            }
            // Segments know the agent too.
            Ok(None) | Err(_) => {
                let agent_id = match findings.agent_id {
                    Some(agent_id) => agent_id,
                    None => storage.random()?,
                };
                let identity = Identity {
                    agent_id,
                    epoch: Epoch::default(),
                    created_ns: now.wall_ns,
                };
                (identity, 0, Some(NewEpoch::Created))
            }
        };
        if let Some(agent_id) = host.agent_id.filter(|id| *id != identity.agent_id) {
            identity.agent_id = agent_id;
            reason = reason.or(Some(NewEpoch::AgentId));
        }
        let previous = if findings.logs.is_empty() && matches!(reason, Some(NewEpoch::Created)) {
            Previous::None
        } else if clean.is_some_and(|clean| clean.epoch == identity.epoch) && reason.is_none() {
            Previous::Clean
        } else {
            Previous::Unclean
        };
        let last_events = Stream::ALL.map(|stream| {
            findings
                .logs
                .iter()
                .rfind(|log| log.stream == stream && log.last_event.boot_id != [0; 16])
                .map(|log| log.last_event)
        });
        let Findings {
            logs,
            gaps,
            max_ordinal,
            report,
            ..
        } = findings;
        let mut spool = Self {
            storage,
            config,
            host,
            identity,
            ordinal,
            max_ordinal: max_ordinal.max(ordinal),
            logs,
            sinks: cursors,
            tombstones,
            quarantine,
            memory: None,
            wall: WallWatch::new(host.boot_id, now),
            cursors_saved_ns: now.boot_ns,
            evicted: BTreeMap::new(),
            disk_failures: 0,
            disk_recoveries: 0,
            read_errors: 0,
        };
        // A stream of which everybody has everything has no file any more, and one that lost its end had more than it has.
        for log in &mut spool.logs {
            for (done, totals) in spool
                .sinks
                .values()
                .filter_map(|cursor| cursor.done_mark(log))
                .collect::<Vec<_>>()
            {
                log.reach(done, &totals);
            }
            for tombstone in spool.tombstones.all() {
                if (tombstone.epoch, tombstone.stream) == (log.epoch, log.stream) {
                    log.reach(tombstone.to, &tombstone.totals);
                }
            }
        }
        for cursor in spool.sinks.values_mut() {
            for log in &spool.logs {
                cursor.follow(log);
            }
        }
        if let Err(error) = spool.begin(reason, now) {
            spool.enter_memory(&error, now);
        }
        for gap in gaps {
            spool.bury_found(gap, now);
        }
        spool.finish_evictions(now);
        spool.evict_epochs(now);
        spool.save_cursors(now, true);
        spool.make_tombstones(now);
        spool.keep_budgets(now);
        let new_epoch = match reason {
            None if spool.memory.is_some() => Some(NewEpoch::Memory),
            reason => reason,
        };
        Ok((
            spool,
            Opening {
                previous,
                last_events,
                new_epoch,
                recovery: report,
            },
        ))
    }

    /// There is a file for tombstones before the disk can be full.
    fn make_tombstones(&mut self, now: Now) {
        if self.memory.is_none()
            && let Err(error) = self.tombstones.make(&self.storage)
        {
            self.enter_memory(&error, now);
        }
    }

    /// Goes on with the epoch, or begins another, on the disk.
    fn begin(&mut self, reason: Option<NewEpoch>, now: Now) -> io::Result<()> {
        for log in &mut self.logs {
            log.prove(&self.storage)?;
        }
        if reason.is_none() {
            let epoch = self.identity.epoch;
            for log in self.logs.iter_mut().filter(|log| log.epoch == epoch) {
                log.reopen(&self.storage)?;
            }
            // Again, since a process that was killed may have written and not synced it.
            identity::save(&self.storage, self.identity, self.ordinal, &self.host)?;
            return self.remove_clean();
        }
        self.remove_clean()?;
        let epoch = self.random_epoch(now);
        self.begin_epoch(epoch, false);
        let rules = self.rules();
        let stamp = Stamp {
            boot_ns: now.boot_ns,
            wall_ns: now.wall_ns,
            boot_id: self.host.boot_id,
        };
        for log in self.logs.iter_mut().filter(|log| log.epoch == epoch) {
            log.begin_segment(&self.storage, &rules, stamp)?;
        }
        identity::save(&self.storage, self.identity, self.ordinal, &self.host)
    }

    /// A gap that the recovery came upon, unless it is known or behind everybody.
    fn bury_found(&mut self, gap: super::recover::FoundGap, now: Now) {
        let Some(log) = self
            .logs
            .iter()
            .find(|log| log.epoch == gap.epoch && log.stream == gap.stream)
        else {
            return;
        };
        let unread_by: Vec<String> = self
            .sinks
            .values()
            .filter(|cursor| cursor.done(log) < gap.to.sequence)
            .map(|cursor| cursor.name.clone())
            .collect();
        let behind_all = !self.sinks.is_empty() && unread_by.is_empty();
        let known = self
            .tombstones
            .of(gap.epoch, gap.stream, gap.from)
            .is_some();
        if behind_all || known {
            return;
        }
        self.count_evicted(Cause::Corrupt, &gap.counts);
        self.tombstones.add(Tombstone {
            id: 0,
            epoch: gap.epoch,
            stream: gap.stream,
            from: gap.from,
            to: gap.to.sequence,
            counts: gap.counts,
            last_digest: gap.to.known_digest(),
            unread_by,
            cause: Cause::Corrupt,
            time_ns: now.wall_ns,
            totals: gap.to.totals,
        });
    }

    /// Segments whose tombstone was written and that were still there when the last run ended.
    fn finish_evictions(&mut self, now: Now) {
        for index in 0..self.logs.len() {
            while let Some(log) = self.logs.get(index) {
                let Some(segment) = log.segments.front() else {
                    break;
                };
                let end = log.segment_end(0);
                let (epoch, stream) = (log.epoch, log.stream);
                let told = |sequence| {
                    self.tombstones
                        .of(epoch, stream, sequence)
                        .is_some_and(|tombstone| {
                            matches!(tombstone.cause, Cause::Bytes | Cause::Age | Cause::Epochs)
                        })
                };
                // Its beginning or its end went before, perhaps, for another cause.
                let evicted = end.sequence > segment.start.sequence
                    && (told(segment.first) || told(end.sequence))
                    && self
                        .tombstones
                        .untold_of(epoch, stream, &segment.start, end)
                        .is_empty();
                if !evicted || log.segments.len() == 1 || self.memory.is_some() {
                    break;
                }
                let path = log.folder.join(&segment.name);
                if let Err(error) = self.storage.remove(&path) {
                    self.enter_memory(&error, now);
                    break;
                }
                if let Some(log) = self.logs.get_mut(index) {
                    log.segments.pop_front();
                }
            }
        }
    }

    /// Marks that nothing is missing.
    pub(super) fn write_clean(&self) -> io::Result<()> {
        let mut out = Encoder::default();
        out.bytes(&self.identity.epoch.0);
        for stream in Stream::ALL {
            let end = self
                .current(stream)
                .map_or_else(Mark::default, |log| log.end.clone());
            out.u64(end.sequence).bytes(&end.digest);
        }
        SlotFile::create(
            &self.storage,
            Path::new(CLEAN),
            CLEAN_HALF_BYTES,
            &out.finish(),
        )
        .map(|_| ())
    }

    /// From here on something may be missing. Durable when it returns.
    pub(super) fn remove_clean(&self) -> io::Result<()> {
        match self.storage.remove(Path::new(CLEAN)) {
            Ok(()) => self.storage.sync_folder(Path::new("")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn load_clean<S: Storage>(storage: &S) -> Option<CleanMark> {
    let (_, content) = SlotFile::open(storage, Path::new(CLEAN), CLEAN_HALF_BYTES, false).ok()?;
    let content = content?;
    let mut input = Decoder::new(&content);
    Some(CleanMark {
        epoch: Epoch(input.array()?),
        ends: [
            (input.u64()?, input.array()?),
            (input.u64()?, input.array()?),
        ],
    })
}

/// Whether sequences of the epoch may have been used that are not there: then it cannot go on.
fn tail_is_lost<F: StorageFile>(
    epoch: Epoch,
    clean: Option<&CleanMark>,
    cursors: &BTreeMap<String, Cursor<F>>,
    findings: &Findings<F>,
) -> bool {
    if findings.doubtful.contains(&epoch) {
        return true;
    }
    Stream::ALL.iter().enumerate().any(|(index, stream)| {
        let log = findings
            .logs
            .iter()
            .find(|log| log.epoch == epoch && log.stream == *stream);
        let Some(log) = log.filter(|log| !log.segments.is_empty()) else {
            return true;
        };
        let closed_at = clean
            .filter(|clean| clean.epoch == epoch)
            .and_then(|clean| clean.ends.get(index));
        closed_at.is_some_and(|end| *end != (log.end.sequence, log.end.digest))
            || cursors.values().any(|cursor| cursor.is_ahead_of(log))
    })
}

fn load_sinks<S: Storage>(
    storage: &S,
    sinks: &[&str],
    findings: &mut Findings<S::File>,
) -> BTreeMap<String, Cursor<S::File>> {
    let ordinals: BTreeMap<Epoch, u64> = findings
        .logs
        .iter()
        .map(|log| (log.epoch, log.ordinal))
        .collect();
    let mut cursors = BTreeMap::new();
    for sink in sinks.iter().filter(|sink| cursor::is_name(sink)) {
        if cursors.len() >= SINKS_MAX {
            break;
        }
        let cursor = match Cursor::load(storage, sink, &ordinals) {
            Ok(Some(cursor)) => cursor,
            Ok(None) => {
                findings.report.reset_sinks.push((*sink).to_owned());
                Cursor::new(sink)
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    findings.report.reset_sinks.push((*sink).to_owned());
                }
                Cursor::new(sink)
            }
        };
        cursors.insert((*sink).to_owned(), cursor);
    }
    for name in cursor::saved_names(storage).unwrap_or_default() {
        if !cursors.contains_key(&name) {
            // If this fails the next opening forgets it.
            let _gone = storage.remove(&cursor::path(&name));
            findings.report.forgotten_sinks.push(name);
        }
    }
    cursors
}
