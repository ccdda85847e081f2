//! What went unread, and why: kept until every sink has passed it and the packer has told it.

use std::io;
use std::path::Path;

use super::codec::{Decoder, Encoder};
use super::entry::{Cause, Epoch, Stream, Tombstone};
use super::segment::Mark;
use super::slot::SlotFile;
use super::storage::{Storage, StorageFile};

const FILE: &str = "tombstones";
const HALF_BYTES: usize = 256 << 10;
const VERSION: u16 = 1;
/// Most that are kept.
const KEPT_MAX: usize = 256;

/// All of them, oldest first.
#[derive(Debug)]
pub(super) struct Tombstones<F> {
    file: Option<SlotFile<F>>,
    dirty: bool,
    kept: Vec<Tombstone>,
    next_id: u64,
    told: u64,
    /// Forgotten since there were too many.
    pub(super) dropped: u64,
}

/// The tombstones at a moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    kept: Vec<Tombstone>,
    next_id: u64,
    dropped: u64,
}

impl<F: StorageFile> Tombstones<F> {
    pub(super) const fn new() -> Self {
        Self {
            file: None,
            dirty: false,
            kept: Vec::new(),
            next_id: 1,
            told: 0,
            dropped: 0,
        }
    }

    /// Those of the file; none if it is damaged or not there.
    pub(super) fn load<S: Storage<File = F>>(storage: &S) -> io::Result<Self> {
        let path = Path::new(FILE);
        let opened = match SlotFile::open(storage, path, HALF_BYTES, true) {
            Ok((file, content)) => Ok((Some(file), content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::new()),
            Err(_) => {
                SlotFile::open(storage, path, HALF_BYTES, false).map(|(_, content)| (None, content))
            }
        };
        let (file, content) = opened?;
        let mut tombstones = content
            .and_then(|content| Self::parse(&content))
            .unwrap_or_else(Self::new);
        tombstones.file = file;
        // It may have been written and not synced by a process that was killed: it is written again.
        tombstones.dirty = true;
        Ok(tombstones)
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let mut input = Decoder::new(content);
        if input.u16()? != VERSION {
            return None;
        }
        let mut tombstones = Self::new();
        tombstones.next_id = input.u64()?;
        tombstones.told = input.u64()?;
        tombstones.dropped = input.u64()?;
        for _ in 0..input.u16()? {
            let mut tombstone = Tombstone {
                id: input.u64()?,
                epoch: Epoch(input.array()?),
                stream: Stream::from_number(input.u8()?)?,
                from: input.u64()?,
                to: input.u64()?,
                counts: input.counts()?,
                totals: input.counts()?,
                last_digest: None,
                unread_by: Vec::new(),
                cause: Cause::from_number(input.u8()?)?,
                time_ns: input.i64()?,
            };
            let known = input.u8()? != 0;
            let digest = input.array()?;
            tombstone.last_digest = known.then_some(digest);
            for _ in 0..input.u8()? {
                tombstone.unread_by.push(input.text()?);
            }
            tombstones.kept.push(tombstone);
        }
        Some(tombstones)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u16(VERSION)
            .u64(self.next_id)
            .u64(self.told)
            .u64(self.dropped)
            .u16(u16::try_from(self.kept.len()).unwrap_or(u16::MAX));
        for tombstone in &self.kept {
            out.u64(tombstone.id)
                .bytes(&tombstone.epoch.0)
                .u8(tombstone.stream.number())
                .u64(tombstone.from)
                .u64(tombstone.to)
                .counts(&tombstone.counts)
                .counts(&tombstone.totals)
                .u8(tombstone.cause.number())
                .i64(tombstone.time_ns)
                .u8(u8::from(tombstone.last_digest.is_some()))
                .bytes(&tombstone.last_digest.unwrap_or_default())
                .u8(u8::try_from(tombstone.unread_by.len()).unwrap_or(u8::MAX));
            for sink in tombstone.unread_by.iter().take(usize::from(u8::MAX)) {
                out.text(sink);
            }
        }
        out.finish()
    }

    /// Writes the file if there is news. When it has become too long, the oldest ones are forgotten: the gap stays visible,
    /// its cause becomes [`Cause::Missing`].
    ///
    /// # Errors
    /// What the system says; it stays dirty.
    pub(super) fn save<S: Storage<File = F>>(&mut self, storage: &S) -> io::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        let mut content = self.encode();
        while content.len() > HALF_BYTES - 64 && !self.kept.is_empty() {
            self.forget_oldest();
            content = self.encode();
        }
        match &mut self.file {
            Some(file) => file.write(&content)?,
            None => {
                self.file = Some(SlotFile::put(
                    storage,
                    Path::new(FILE),
                    HALF_BYTES,
                    &content,
                )?);
            }
        }
        self.dirty = false;
        Ok(())
    }

    /// Makes the file, if it is not there, with all the room that it will ever need: on a disk that is full there would be none.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make<S: Storage<File = F>>(&mut self, storage: &S) -> io::Result<()> {
        self.dirty |= self.file.is_none();
        self.save(storage)
    }

    /// The disk failed.
    pub(super) fn fail(&mut self) {
        self.file = None;
        self.dirty = true;
    }

    /// What [`Self::take_back`] needs.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            kept: self.kept.clone(),
            next_id: self.next_id,
            dropped: self.dropped,
        }
    }

    /// As it was: what was added since did not come to pass.
    pub(super) fn take_back(&mut self, before: Snapshot) {
        let Snapshot {
            kept,
            next_id,
            dropped,
        } = before;
        (self.kept, self.next_id, self.dropped) = (kept, next_id, dropped);
        self.dirty = true;
    }

    fn forget_oldest(&mut self) {
        if !self.kept.is_empty() {
            self.kept.remove(0);
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Adds one; its `id` is set here. One that goes on where another of the same cause ended becomes part of that.
    pub(super) fn add(&mut self, mut tombstone: Tombstone) {
        self.dirty = true;
        tombstone.id = self.next_id;
        self.next_id = self.next_id.saturating_add(1);
        let continued = self.kept.iter_mut().find(|kept| {
            kept.epoch == tombstone.epoch
                && kept.stream == tombstone.stream
                && kept.cause == tombstone.cause
                && kept.to.saturating_add(1) == tombstone.from
        });
        if let Some(kept) = continued {
            kept.id = tombstone.id;
            kept.to = tombstone.to;
            kept.counts.add_all(&tombstone.counts);
            kept.totals = tombstone.totals;
            kept.last_digest = tombstone.last_digest;
            kept.time_ns = tombstone.time_ns;
            for sink in tombstone.unread_by {
                if !kept.unread_by.contains(&sink) {
                    kept.unread_by.push(sink);
                }
            }
            self.kept.sort_by_key(|kept| kept.id);
            return;
        }
        self.kept.push(tombstone);
        if self.kept.len() > KEPT_MAX {
            self.forget_oldest();
        }
    }

    /// The one that tells of a packet.
    pub(super) fn of(&self, epoch: Epoch, stream: Stream, sequence: u64) -> Option<&Tombstone> {
        self.kept.iter().find(|kept| {
            kept.epoch == epoch
                && kept.stream == stream
                && (kept.from..=kept.to).contains(&sequence)
        })
    }

    /// The parts of a stream behind `start` up to `end` of which none tells, in order.
    pub(super) fn untold_of(
        &self,
        epoch: Epoch,
        stream: Stream,
        start: &Mark,
        end: &Mark,
    ) -> Vec<(Mark, Mark)> {
        let mut parts = Vec::new();
        let mut from = start.clone();
        while from.sequence < end.sequence {
            let next = from.sequence.saturating_add(1);
            if let Some(known) = self.of(epoch, stream, next) {
                from = Mark {
                    sequence: known.to,
                    digest: known.last_digest.unwrap_or_default(),
                    totals: known.totals.clone(),
                };
                continue;
            }
            let to = match self.behind(epoch, stream, next) {
                Some(known) if known.from <= end.sequence => Mark {
                    sequence: known.from.saturating_sub(1),
                    digest: [0; 32],
                    totals: known.totals.minus(&known.counts),
                },
                Some(_) | None => end.clone(),
            };
            parts.push((from, to.clone()));
            from = to;
        }
        parts
    }

    /// The first one of a stream that begins behind a sequence.
    pub(super) fn behind(&self, epoch: Epoch, stream: Stream, sequence: u64) -> Option<&Tombstone> {
        self.kept
            .iter()
            .filter(|kept| kept.epoch == epoch && kept.stream == stream && kept.from > sequence)
            .min_by_key(|kept| kept.from)
    }

    /// Those that the packer has not told yet.
    pub(super) fn untold(&self) -> impl Iterator<Item = &Tombstone> {
        self.kept.iter().filter(|kept| kept.id > self.told)
    }

    /// The packer told all up to this id.
    pub(super) fn told(&mut self, id: u64) {
        if id > self.told {
            self.told = id.min(self.next_id.saturating_sub(1));
            self.dirty = true;
        }
    }

    /// Forgets those that were told and that no sink has before it.
    pub(super) fn prune(&mut self, passed: impl Fn(&Tombstone) -> bool) {
        let told = self.told;
        let before = self.kept.len();
        self.kept.retain(|kept| kept.id > told || !passed(kept));
        self.dirty |= self.kept.len() != before;
    }

    pub(super) fn all(&self) -> &[Tombstone] {
        &self.kept
    }
}
