//! A sink's place in every stream, what it has been given and has not acknowledged, and its account.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::codec::{Decoder, Encoder};
use super::entry::{Cause, Counts, Epoch, PacketId, Stream};
use super::log::{Hint, Log};
use super::segment::Mark;
use super::slot::SlotFile;
use super::storage::{Storage, StorageFile};

/// Folder of the cursor files.
pub(super) const FOLDER: &str = "cursors";
const HALF_BYTES: usize = 128 << 10;
const VERSION: u16 = 1;
/// Longest name of a sink, bytes.
pub(super) const NAME_MAX_BYTES: usize = 64;

/// What became of what a sink was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Acked,
    Rejected,
    Evicted(Cause),
}

/// Given to the sink, not behind it yet.
#[derive(Clone, Debug)]
struct Flight {
    to: u64,
    counts: Counts,
    /// The stream up to and with it.
    totals: Counts,
    weight: usize,
    gap: Option<Cause>,
    outcome: Option<Outcome>,
}

/// Its place in one stream of one epoch.
#[derive(Clone, Debug, Default)]
struct Position {
    /// Everything up to here is acknowledged, rejected or explained.
    done: u64,
    done_totals: Counts,
    /// The same, as the cursor file has it.
    saved: u64,
    /// Events of the stream before the sink began.
    base: Counts,
    /// Given to the sink up to here.
    read: u64,
    read_totals: Counts,
    hint: Option<Hint>,
    /// By first sequence.
    flights: BTreeMap<u64, Flight>,
}

impl Position {
    fn at(sequence: u64, totals: &Counts, base: &Counts) -> Self {
        Self {
            done: sequence,
            done_totals: totals.clone(),
            saved: 0,
            base: base.clone(),
            read: sequence,
            read_totals: totals.clone(),
            hint: None,
            flights: BTreeMap::new(),
        }
    }
}

/// Epoch and stream, in the order in which epochs are delivered.
pub(super) type Key = (u64, Stream);

/// A sink's terms of the account, events by type. `sealed = acked + evicted + rejected + waiting`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkAccount {
    /// Its name.
    pub name: String,
    /// In packets sealed since the sink is there, and in those that were kept when it came.
    pub sealed: Counts,
    /// In packets that it acknowledged.
    pub acked: Counts,
    /// In packets that went before it acknowledged them, by cause.
    pub evicted: BTreeMap<Cause, Counts>,
    /// In packets that it refused for good.
    pub rejected: Counts,
    /// In packets that it has not acknowledged, and in gaps that it has not passed.
    pub waiting: Counts,
    /// Packets that it has not acknowledged.
    pub waiting_packets: u64,
    /// Bytes of packets that it has been given and has not acknowledged.
    pub in_flight_bytes: usize,
    /// Acknowledgements of what it had not been given.
    pub false_acks: u64,
}

impl SinkAccount {
    /// Whether the identity holds, for every type.
    #[must_use]
    pub fn balances(&self) -> bool {
        let mut sum = self.acked.clone();
        for counts in self.evicted.values() {
            sum.add_all(counts);
        }
        sum.add_all(&self.rejected);
        sum.add_all(&self.waiting);
        sum == self.sealed
    }
}

/// A sink.
#[derive(Debug)]
pub(super) struct Cursor<F> {
    pub(super) name: String,
    file: Option<SlotFile<F>>,
    dirty: bool,
    positions: BTreeMap<Key, (Epoch, Position)>,
    acked: Counts,
    evicted: BTreeMap<Cause, Counts>,
    rejected: Counts,
    /// Sealed in epochs that are gone.
    closed: Counts,
    pub(super) in_flight_bytes: usize,
    pub(super) false_acks: u64,
}

impl<F: StorageFile> Cursor<F> {
    /// A new sink: it begins with the oldest packet that is there.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            file: None,
            dirty: true,
            positions: BTreeMap::new(),
            acked: Counts::new(),
            evicted: BTreeMap::new(),
            rejected: Counts::new(),
            closed: Counts::new(),
            in_flight_bytes: 0,
            false_acks: 0,
        }
    }

    /// The sink as its file tells; `None` if the file is damaged. Positions get their ordinals from the streams that
    /// there are.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn load<S: Storage<File = F>>(
        storage: &S,
        name: &str,
        ordinals: &BTreeMap<Epoch, u64>,
    ) -> io::Result<Option<Self>> {
        let path = path(name);
        let (file, content) = match SlotFile::open(storage, &path, HALF_BYTES, true) {
            Ok(opened) => opened,
            // What cannot be written can be read: it is written again when the disk is back.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
            Err(_) => {
                let (_, content) = SlotFile::open(storage, &path, HALF_BYTES, false)?;
                return Ok(content.and_then(|content| Self::parse(name, &content, ordinals)));
            }
        };
        let mut cursor = content.and_then(|content| Self::parse(name, &content, ordinals));
        if let Some(cursor) = &mut cursor {
            cursor.file = Some(file);
            // It may have been written and not synced by a process that was killed: it is written again.
            cursor.dirty = true;
        }
        Ok(cursor)
    }

    fn parse(name: &str, content: &[u8], ordinals: &BTreeMap<Epoch, u64>) -> Option<Self> {
        let mut input = Decoder::new(content);
        if input.u16()? != VERSION {
            return None;
        }
        let mut cursor = Self::new(name);
        cursor.acked = input.counts()?;
        cursor.rejected = input.counts()?;
        cursor.closed = input.counts()?;
        for _ in 0..input.u8()? {
            let cause = Cause::from_number(input.u8()?)?;
            cursor.evicted.insert(cause, input.counts()?);
        }
        for _ in 0..input.u16()? {
            let epoch = Epoch(input.array()?);
            let stream = Stream::from_number(input.u8()?)?;
            let done = input.u64()?;
            let totals = input.counts()?;
            let base = input.counts()?;
            match ordinals.get(&epoch) {
                Some(ordinal) => {
                    let mut position = Position::at(done, &totals, &base);
                    position.saved = done;
                    cursor
                        .positions
                        .insert((*ordinal, stream), (epoch, position));
                }
                // The epoch is gone: what was sealed in it, as far as this cursor came.
                None => cursor.closed.add_all(&totals.minus(&base)),
            }
        }
        Some(cursor)
    }

    /// Writes the file if there is news; durable when it returns.
    ///
    /// # Errors
    /// What the system says; it stays dirty.
    pub(super) fn save<S: Storage<File = F>>(&mut self, storage: &S) -> io::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        let content = self.encode();
        match &mut self.file {
            Some(file) => file.write(&content)?,
            None => {
                super::log::make_folders(storage, Path::new(FOLDER))?;
                let path = path(&self.name);
                self.file = Some(SlotFile::put(storage, &path, HALF_BYTES, &content)?);
            }
        }
        self.dirty = false;
        for (_, position) in self.positions.values_mut() {
            position.saved = position.done;
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u16(VERSION)
            .counts(&self.acked)
            .counts(&self.rejected)
            .counts(&self.closed)
            .u8(u8::try_from(self.evicted.len()).unwrap_or(u8::MAX));
        for (cause, counts) in &self.evicted {
            out.u8(cause.number()).counts(counts);
        }
        out.u16(u16::try_from(self.positions.len()).unwrap_or(u16::MAX));
        for ((_, stream), (epoch, position)) in &self.positions {
            out.bytes(&epoch.0)
                .u8(stream.number())
                .u64(position.done)
                .counts(&position.done_totals)
                .counts(&position.base);
        }
        out.finish()
    }

    /// The disk failed: the file has to be opened again.
    pub(super) fn fail(&mut self) {
        self.file = None;
        self.dirty = true;
    }

    /// Begins to follow a stream that it does not know, with the first packet that is there.
    pub(super) fn follow(&mut self, log: &Log<F>) {
        let start = log
            .segments
            .front()
            .map_or(&log.stored, |segment| &segment.start);
        let key = (log.ordinal, log.stream);
        self.positions.entry(key).or_insert_with(|| {
            self.dirty = true;
            (
                log.epoch,
                Position::at(start.sequence, &start.totals, &start.totals),
            )
        });
    }

    /// Whether it was further than the stream now is.
    pub(super) fn is_ahead_of(&self, log: &Log<F>) -> bool {
        self.positions
            .get(&(log.ordinal, log.stream))
            .is_some_and(|(_, position)| position.done > log.end.sequence)
    }

    /// Forgets a stream that is gone; all of it is behind the sink.
    pub(super) fn forget(&mut self, log: &Log<F>) {
        if let Some((_, position)) = self.positions.remove(&(log.ordinal, log.stream)) {
            self.closed
                .add_all(&position.done_totals.minus(&position.base));
            self.dirty = true;
        }
    }

    /// Last sequence of a stream that is behind the sink.
    pub(super) fn done(&self, log: &Log<F>) -> u64 {
        self.positions
            .get(&(log.ordinal, log.stream))
            .map_or(0, |(_, position)| position.done)
    }

    /// The same, with the events of the stream up to there.
    pub(super) fn done_mark(&self, log: &Log<F>) -> Option<(u64, Counts)> {
        self.positions
            .get(&(log.ordinal, log.stream))
            .map(|(_, position)| (position.done, position.done_totals.clone()))
    }

    /// A stream goes as a whole: what the sink is not done with is evicted.
    pub(super) fn give_up(&mut self, log: &Log<F>, cause: Cause) {
        if let Some((_, position)) = self.positions.remove(&(log.ordinal, log.stream)) {
            for flight in position.flights.values() {
                self.in_flight_bytes = self.in_flight_bytes.saturating_sub(flight.weight);
            }
            self.evicted
                .entry(cause)
                .or_default()
                .add_all(&log.end.totals.minus(&position.done_totals));
            self.closed.add_all(&log.end.totals.minus(&position.base));
            self.dirty = true;
        }
    }

    /// The same, as far as it is durable.
    pub(super) fn saved(&self, log: &Log<F>) -> u64 {
        self.positions
            .get(&(log.ordinal, log.stream))
            .map_or(0, |(_, position)| position.saved)
    }

    /// Where it goes on reading a stream, leaving out what it acknowledged out of order.
    pub(super) fn reading(&mut self, log: &Log<F>) -> Option<(u64, Option<Hint>, Counts)> {
        let (_, position) = self.positions.get_mut(&(log.ordinal, log.stream))?;
        while let Some(flight) = position.flights.get(&position.read.saturating_add(1)) {
            position.read = flight.to;
            position.read_totals = flight.totals.clone();
            position.hint = None;
        }
        Some((
            position.read.saturating_add(1),
            position.hint,
            position.read_totals.clone(),
        ))
    }

    /// First thing behind a sequence that the sink has finished out of order: a gap ends in front of it.
    pub(super) fn next_flight(&self, log: &Log<F>, sequence: u64) -> Option<(u64, Counts)> {
        let (_, position) = self.positions.get(&(log.ordinal, log.stream))?;
        let (from, flight) = position.flights.range(sequence..).next()?;
        Some((from.saturating_sub(1), flight.totals.minus(&flight.counts)))
    }

    /// Something was given to the sink: packets `from` to `mark`.
    pub(super) fn given(
        &mut self,
        log: &Log<F>,
        from: u64,
        (counts, to): (Counts, &Mark),
        gap: Option<Cause>,
        hint: Option<Hint>,
        weight: usize,
    ) {
        let Some((_, position)) = self.positions.get_mut(&(log.ordinal, log.stream)) else {
            return;
        };
        position.read = to.sequence;
        position.read_totals = to.totals.clone();
        position.hint = hint;
        position.flights.insert(
            from,
            Flight {
                to: to.sequence,
                counts,
                totals: to.totals.clone(),
                weight,
                gap,
                outcome: None,
            },
        );
        self.in_flight_bytes = self.in_flight_bytes.saturating_add(weight);
    }

    /// The sink is done with something; true if it had it. Of a gap nothing is acknowledged or refused: it is explained.
    pub(super) fn finish(&mut self, id: PacketId, outcome: Outcome) -> bool {
        let position = self
            .positions
            .iter_mut()
            .find(|((_, stream), (epoch, _))| *stream == id.stream && *epoch == id.epoch)
            .map(|(_, (_, position))| position);
        let Some(position) = position else {
            return false;
        };
        let Some(flight) = position
            .flights
            .get_mut(&id.sequence)
            .filter(|flight| flight.outcome.is_none())
        else {
            return false;
        };
        flight.outcome = Some(flight.gap.map_or(outcome, Outcome::Evicted));
        while let Some(entry) = position.flights.first_entry().filter(|entry| {
            entry.get().outcome.is_some() && *entry.key() == position.done.saturating_add(1)
        }) {
            let flight = entry.remove();
            position.done = flight.to;
            position.done_totals = flight.totals;
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(flight.weight);
            self.dirty = true;
            match flight.outcome {
                Some(Outcome::Rejected) => self.rejected.add_all(&flight.counts),
                Some(Outcome::Evicted(cause)) => {
                    self.evicted
                        .entry(cause)
                        .or_default()
                        .add_all(&flight.counts);
                }
                Some(Outcome::Acked) | None => self.acked.add_all(&flight.counts),
            }
        }
        // After a rewind: what was acknowledged out of order before is not given again.
        if position.read < position.done {
            position.read = position.done;
            position.read_totals = position.done_totals.clone();
            position.hint = None;
        }
        true
    }

    /// What it has been given and is not done with is given again.
    pub(super) fn rewind(&mut self) {
        for (_, position) in self.positions.values_mut() {
            position.flights.retain(|_, flight| {
                if flight.outcome.is_none() {
                    self.in_flight_bytes = self.in_flight_bytes.saturating_sub(flight.weight);
                }
                flight.outcome.is_some()
            });
            position.read = position.done;
            position.read_totals = position.done_totals.clone();
            position.hint = None;
        }
    }

    /// Its account.
    pub(super) fn account<'a>(&self, logs: impl Iterator<Item = &'a Log<F>>) -> SinkAccount
    where
        F: 'a,
    {
        let mut account = SinkAccount {
            name: self.name.clone(),
            sealed: self.closed.clone(),
            acked: self.acked.clone(),
            evicted: self.evicted.clone(),
            rejected: self.rejected.clone(),
            in_flight_bytes: self.in_flight_bytes,
            false_acks: self.false_acks,
            ..SinkAccount::default()
        };
        for log in logs {
            if let Some((_, position)) = self.positions.get(&(log.ordinal, log.stream)) {
                account
                    .sealed
                    .add_all(&log.end.totals.minus(&position.base));
                account
                    .waiting
                    .add_all(&log.end.totals.minus(&position.done_totals));
                account.waiting_packets = account
                    .waiting_packets
                    .saturating_add(log.end.sequence.saturating_sub(position.done));
            }
        }
        account
    }

    /// Events in packets that are not durable and that it has not acknowledged.
    pub(super) fn unsaved<'a>(&self, logs: impl Iterator<Item = &'a Log<F>>) -> Counts
    where
        F: 'a,
    {
        let mut unsaved = Counts::new();
        for log in logs {
            if let Some((_, position)) = self.positions.get(&(log.ordinal, log.stream)) {
                let kept = if position.done > log.stored.sequence {
                    &position.done_totals
                } else {
                    &log.stored.totals
                };
                unsaved.add_all(&log.end.totals.minus(kept));
            }
        }
        unsaved
    }
}

/// The file of a sink.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}.cursor"))
}

/// Sinks that have a file.
pub(super) fn saved_names<S: Storage>(storage: &S) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = storage
        .names(Path::new(FOLDER))?
        .iter()
        .filter_map(|name| name.strip_suffix(".cursor"))
        .filter(|name| is_name(name))
        .map(str::to_owned)
        .collect();
    names.sort();
    Ok(names)
}

/// Whether a sink may be called so: it becomes the name of a file.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX_BYTES
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}
