//! What leaves: segments that everybody has, and, with a tombstone, what does not fit or is too old.

use std::io;

use super::cursor::Cursor;
use super::entry::{Cause, Counts, Item, Now, Stream, Tombstone};
use super::log::{Damage, Log};
use super::segment::{Mark, Stamp};
use super::storage::Storage;
use super::{DiskFault, EPOCHS_MAX, Spool};

/// Packets that a sink comes upon and that are not there.
#[derive(Debug)]
pub(super) struct GapFound {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) digest: Option<[u8; 32]>,
    pub(super) totals: Counts,
    pub(super) damage: Option<Damage>,
}

impl<S: Storage> Spool<S> {
    /// Turns a gap, or its first part, into what the sink gets; a gap that nobody knew of becomes a tombstone.
    pub(super) fn explain(
        &mut self,
        sink: &str,
        index: usize,
        gap: GapFound,
        before: &Counts,
        now: Now,
    ) -> Option<Item> {
        let log = self.logs.get(index)?;
        let (epoch, stream) = (log.epoch, log.stream);
        let mut gap = gap;
        // Not over what the sink has finished out of order.
        if let Some((to, totals)) = self
            .sinks
            .get(sink)
            .and_then(|cursor| cursor.next_flight(log, gap.from))
            && to < gap.to
        {
            gap = GapFound {
                to,
                digest: None,
                totals,
                ..gap
            };
        }
        let known = self.tombstones.of(epoch, stream, gap.from).cloned();
        // Nor over what is explained already.
        if known.is_none()
            && let Some(next) = self.tombstones.behind(epoch, stream, gap.from)
            && next.from <= gap.to
        {
            gap = GapFound {
                to: next.from.saturating_sub(1),
                digest: None,
                totals: next.totals.minus(&next.counts),
                ..gap
            };
        }
        let mut told = match known {
            Some(known) if known.to < gap.to => Tombstone {
                from: gap.from,
                ..known
            },
            Some(known) => Tombstone {
                from: gap.from,
                to: gap.to,
                last_digest: if known.to == gap.to {
                    known.last_digest
                } else {
                    gap.digest
                },
                totals: gap.totals,
                ..known
            },
            None => {
                if let Some(damage) = &gap.damage {
                    let Damage { name, from, to } = damage;
                    self.quarantine.keep(&self.storage, log, name, *from, *to);
                }
                let cause = if gap.damage.is_some() {
                    Cause::Corrupt
                } else {
                    Cause::Missing
                };
                let mut found = Tombstone {
                    id: 0,
                    epoch,
                    stream,
                    from: gap.from,
                    to: gap.to,
                    counts: gap.totals.minus(before),
                    last_digest: gap.digest,
                    unread_by: Vec::new(),
                    cause,
                    time_ns: now.wall_ns,
                    totals: gap.totals,
                };
                found.unread_by = unread_by(self.sinks.values(), log, gap.to);
                tracing::warn!(
                    %epoch, stream = stream.name(), from = found.from, to = found.to,
                    cause = cause.name(), "packets are missing in the spool"
                );
                self.count_evicted(cause, &found.counts.clone());
                self.tombstones.add(found.clone());
                found
            }
        };
        told.counts = told.totals.minus(before);
        let log = self.logs.get(index)?;
        let cursor = self.sinks.get_mut(sink)?;
        let mark = Mark {
            sequence: told.to,
            digest: [0; 32],
            totals: told.totals.clone(),
        };
        let from = told.from;
        let cause = told.cause;
        let counts = told.counts.clone();
        let item = Item::Gap(told);
        cursor.given(log, from, (counts, &mark), Some(cause), None, item.weight());
        Some(item)
    }

    pub(super) fn count_evicted(&mut self, cause: Cause, counts: &Counts) {
        self.evicted.entry(cause).or_default().add_all(counts);
    }

    /// Writes cursors, if it is time; while the disk is out of order it may still work.
    pub(super) fn save_cursors(&mut self, now: Now, at_once: bool) {
        let due =
            now.boot_ns.saturating_sub(self.cursors_saved_ns) >= self.config.cursor_interval_ns;
        if !due && !at_once {
            return;
        }
        self.cursors_saved_ns = now.boot_ns;
        let mut result = Ok(());
        for cursor in self.sinks.values_mut() {
            result = result.and(cursor.save(&self.storage));
        }
        let Self {
            tombstones,
            logs,
            sinks,
            ..
        } = self;
        if !sinks.is_empty() {
            tombstones.prune(|tombstone| {
                let log = logs
                    .iter()
                    .find(|log| log.epoch == tombstone.epoch && log.stream == tombstone.stream);
                log.is_none_or(|log| {
                    sinks
                        .values()
                        .all(|cursor| cursor.saved(log) >= tombstone.to)
                })
            });
        }
        result = result.and(self.tombstones.save(&self.storage));
        if let Err(error) = result
            && self.memory.is_none()
        {
            self.enter_memory(&error, now);
        }
    }

    /// Removes segments and epochs that every sink is done with, durably.
    pub(super) fn remove_acknowledged(&mut self, now: Now) {
        if self.sinks.is_empty() {
            return;
        }
        if let Err(error) = self.try_remove_acknowledged()
            && self.memory.is_none()
        {
            self.enter_memory(&error, now);
        }
    }

    fn try_remove_acknowledged(&mut self) -> io::Result<()> {
        let current = self.identity.epoch;
        let sinks = &self.sinks;
        for log in &mut self.logs {
            let everybody = sinks
                .values()
                .map(|cursor| cursor.saved(log))
                .min()
                .unwrap_or(0);
            while let Some(segment) = log.segments.front() {
                let is_last = log.segments.len() == 1;
                let keep = is_last && log.epoch == current;
                if keep || log.segment_end(0).sequence > everybody || (is_last && log.owes()) {
                    break;
                }
                remove(&self.storage, log, &segment.name.clone())?;
                log.segments.pop_front();
            }
        }
        self.drop_empty_epochs()
    }

    fn drop_empty_epochs(&mut self) -> io::Result<()> {
        let current = self.identity.epoch;
        let sinks = &self.sinks;
        let finished = |log: &Log<S::File>| {
            log.segments.is_empty()
                && !log.owes()
                && sinks
                    .values()
                    .all(|cursor| cursor.saved(log) >= log.end.sequence)
        };
        let gone: Vec<u64> = self
            .logs
            .chunk_by(|one, other| one.ordinal == other.ordinal)
            .filter(|logs| logs.iter().all(|log| log.epoch != current && finished(log)))
            .filter_map(|logs| logs.first().map(|log| log.ordinal))
            .collect();
        for ordinal in gone {
            self.sync_removals(ordinal)?;
            for log in self.logs.iter().filter(|log| log.ordinal == ordinal) {
                for cursor in self.sinks.values_mut() {
                    cursor.forget(log);
                }
                // Empty folders harm nobody; the next opening tries again.
                let _gone = self.storage.remove_folder(&log.folder);
                if log.stream == Stream::Bulk
                    && let Some(parent) = log.folder.parent()
                {
                    let _gone = self.storage.remove_folder(parent);
                }
            }
            self.logs.retain(|log| log.ordinal != ordinal);
        }
        Ok(())
    }

    /// An epoch's segments are gone for good when this returns. Only then may cursors forget it: a power cut that brings a
    /// segment back would have it delivered, and counted, a second time.
    fn sync_removals(&self, ordinal: u64) -> io::Result<()> {
        for log in self.logs.iter().filter(|log| log.ordinal == ordinal) {
            match self.storage.sync_folder(&log.folder) {
                // It never came to the disk.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// What does not fit goes, oldest first, of the class furthest over its share.
    pub(super) fn keep_budgets(&mut self, now: Now) {
        while self.memory.is_none() && self.disk_bytes(None) > self.config.disk_bytes {
            let Some(stream) = self.class_to_evict(|log| {
                log.segments
                    .iter()
                    .any(|segment| segment.bytes > segment.records_at)
                    .then(|| log.disk_bytes())
            }) else {
                return;
            };
            match self.evict_segment(stream, Cause::Bytes, now) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => self.enter_memory(&error, now),
            }
        }
        let full = |spool: &Self| {
            spool.memory.is_some() && spool.unsynced_bytes() > spool.config.memory_bytes
        };
        if full(self)
            && self
                .memory
                .as_ref()
                .is_some_and(|memory| memory.why == DiskFault::Full)
        {
            // The oldest are on the disk that is full: without them, it may not be.
            let stream =
                self.class_to_evict(|log| (log.segments.len() > 1).then(|| log.disk_bytes()));
            if let Some(stream) = stream
                && matches!(self.evict_segment(stream, Cause::Bytes, now), Ok(true))
            {
                self.retry_disk(now, true);
            }
        }
        while full(self) {
            let Some(stream) =
                self.class_to_evict(|log| (log.tail_packets() > 0).then_some(log.tail_bytes))
            else {
                return;
            };
            self.evict_from_memory(stream, Cause::Memory, now);
        }
    }

    fn disk_bytes(&self, stream: Option<Stream>) -> u64 {
        self.logs
            .iter()
            .filter(|log| stream.is_none_or(|stream| stream == log.stream))
            .fold(0, |sum, log| sum.saturating_add(log.disk_bytes()))
    }

    /// The class whose use is largest for its share, among those that have something.
    fn class_to_evict(&self, used: impl Fn(&Log<S::File>) -> Option<u64>) -> Option<Stream> {
        let [process, bulk] = Stream::ALL.map(|stream| {
            self.logs
                .iter()
                .filter(|log| log.stream == stream)
                .filter_map(&used)
                .fold(None, |sum: Option<u64>, bytes| {
                    Some(sum.unwrap_or(0).saturating_add(bytes))
                })
        });
        let [process_share, bulk_share] = self.config.shares.map(|share| u128::from(share.max(1)));
        match (process, bulk) {
            (None, None) => None,
            (Some(_), None) => Some(Stream::Process),
            (None, Some(_)) => Some(Stream::Bulk),
            (Some(process), Some(bulk)) => {
                let over = u128::from(process).saturating_mul(bulk_share)
                    > u128::from(bulk).saturating_mul(process_share);
                Some(if over { Stream::Process } else { Stream::Bulk })
            }
        }
    }

    /// Removes the oldest segment of a class that has packets; false if there is none.
    fn evict_segment(&mut self, stream: Stream, cause: Cause, now: Now) -> io::Result<bool> {
        let index = self.logs.iter().position(|log| {
            log.stream == stream
                && log
                    .segments
                    .iter()
                    .any(|segment| segment.bytes > segment.records_at)
        });
        match index {
            Some(index) => self.evict_front(index, cause, now),
            None => Ok(false),
        }
    }

    /// Removes the oldest segment of a stream; the stream goes on in a new one if it was the only one. The tombstone is
    /// durable before the segment goes.
    fn evict_front(&mut self, index: usize, cause: Cause, now: Now) -> io::Result<bool> {
        let rules = self.rules();
        let current = self.identity.epoch;
        let Some(log) = self.logs.get_mut(index) else {
            return Ok(false);
        };
        let only = log.segments.len() == 1;
        if only && log.epoch == current {
            if self.memory.is_some() {
                return Ok(false);
            }
            let stamp = Stamp {
                boot_ns: now.boot_ns,
                wall_ns: now.wall_ns,
                boot_id: self.host.boot_id,
            };
            log.rotate(&self.storage, &rules, stamp)?;
        } else if only && log.owes() {
            // What was cut off by the failing disk has to be put right first.
            return Ok(false);
        }
        let Some(segment) = log.segments.front() else {
            return Ok(false);
        };
        let name = segment.name.clone();
        let start = segment.start.clone();
        let end = log.segment_end(0).clone();
        let before = (self.tombstones.snapshot(), self.evicted.clone());
        self.bury(index, &start, &end, cause, now);
        let removed = self.tombstones.save(&self.storage).and_then(|()| {
            self.logs
                .get(index)
                .map_or(Ok(()), |log| remove(&self.storage, log, &name))
        });
        if let Err(error) = removed {
            // It is still there, and will be delivered: nothing is told of it.
            let (tombstones, evicted) = before;
            self.tombstones.take_back(tombstones);
            self.evicted = evicted;
            return Err(error);
        }
        if let Some(log) = self.logs.get_mut(index) {
            log.segments.pop_front();
        }
        Ok(true)
    }

    /// Leaves a tombstone for packets of a stream behind `start` up to `end`, unless every sink durably has them.
    fn bury(&mut self, index: usize, start: &Mark, end: &Mark, cause: Cause, now: Now) {
        let Some(log) = self.logs.get(index) else {
            return;
        };
        let everybody = self
            .sinks
            .values()
            .map(|cursor| cursor.saved(log))
            .min()
            .unwrap_or(0);
        if everybody >= end.sequence {
            return;
        }
        let (epoch, stream) = (log.epoch, log.stream);
        // Some may have gone before, from memory, and are told already.
        for (start, end) in self.tombstones.untold_of(epoch, stream, start, end) {
            let Some(log) = self.logs.get(index) else {
                return;
            };
            if everybody >= end.sequence {
                continue;
            }
            let tombstone = Tombstone {
                id: 0,
                epoch,
                stream,
                from: start.sequence.saturating_add(1),
                to: end.sequence,
                counts: end.totals.minus(&start.totals),
                last_digest: end.known_digest(),
                unread_by: unread_by(self.sinks.values(), log, end.sequence),
                cause,
                time_ns: now.wall_ns,
                totals: end.totals,
            };
            self.count_evicted(cause, &tombstone.counts.clone());
            self.tombstones.add(tombstone);
        }
    }

    /// Forgets the oldest packet of a class that is in memory only.
    fn evict_from_memory(&mut self, stream: Stream, cause: Cause, now: Now) {
        let index = self
            .logs
            .iter()
            .position(|log| log.stream == stream && log.tail_packets() > 0);
        let Some((index, log)) =
            index.and_then(|index| self.logs.get_mut(index).map(|log| (index, log)))
        else {
            return;
        };
        let start = log.stored.clone();
        log.drop_oldest_of_tail();
        let end = log.stored.clone();
        self.bury(index, &start, &end, cause, now);
    }

    /// Everything that is older than the limit goes.
    pub(super) fn evict_old(&mut self, now: Now) {
        let mut index = 0;
        while let Some(log) = self.logs.get(index) {
            let has_packets = log
                .segments
                .front()
                .is_some_and(|segment| segment.bytes > segment.records_at);
            let too_old = log
                .segment_newest(0)
                .is_some_and(|stamp| self.wall.age_ns(&stamp, now) > self.config.age_ns);
            if self.memory.is_none() && has_packets && too_old {
                match self.evict_front(index, Cause::Age, now) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => self.enter_memory(&error, now),
                }
            }
            index = index.saturating_add(1);
        }
    }

    /// Evicts the oldest epochs while there are too many.
    pub(super) fn evict_epochs(&mut self, now: Now) {
        while self.logs.len() / Stream::ALL.len() > EPOCHS_MAX && self.memory.is_none() {
            let oldest = self.logs.first().map(|log| log.ordinal);
            for index in 0..Stream::ALL.len() {
                while self
                    .logs
                    .get(index)
                    .is_some_and(|log| Some(log.ordinal) == oldest && !log.segments.is_empty())
                {
                    match self.evict_front(index, Cause::Epochs, now) {
                        Ok(true) => {}
                        Ok(false) => return,
                        Err(error) => {
                            self.enter_memory(&error, now);
                            return;
                        }
                    }
                }
            }
            if let Some(Err(error)) = oldest.map(|ordinal| self.sync_removals(ordinal)) {
                self.enter_memory(&error, now);
                return;
            }
            let before = self.logs.len();
            for log in self.logs.iter().filter(|log| Some(log.ordinal) == oldest) {
                for cursor in self.sinks.values_mut() {
                    cursor.give_up(log, Cause::Epochs);
                }
                let _gone = self.storage.remove_folder(&log.folder);
                if log.stream == Stream::Bulk
                    && let Some(parent) = log.folder.parent()
                {
                    let _gone = self.storage.remove_folder(parent);
                }
            }
            self.logs.retain(|log| Some(log.ordinal) != oldest);
            if self.logs.len() == before {
                return;
            }
        }
    }
}

fn remove<S: Storage>(storage: &S, log: &Log<S::File>, name: &str) -> io::Result<()> {
    match storage.remove(&log.folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn unread_by<'a, F: super::storage::StorageFile + 'a>(
    sinks: impl Iterator<Item = &'a Cursor<F>>,
    log: &Log<F>,
    to: u64,
) -> Vec<String> {
    sinks
        .filter(|cursor| cursor.done(log) < to)
        .map(|cursor| cursor.name.clone())
        .collect()
}
