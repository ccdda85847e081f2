//! Batches of samples and the bounded queue that they go through.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::time::Duration;

/// Bytes after which a batch is passed on.
const BATCH_BYTES: usize = 256 << 10;
/// Records after which a batch is passed on.
const BATCH_RECORDS: usize = 1024;
/// Batches that are kept for their memory. A few are in use at a time; more of them, after a burst, would be memory that
/// nobody gives back.
const SPARE: usize = 4;
/// Share of the queue that only the process lane may fill: one in so many places.
const RESERVED: usize = 4;
/// One in so many places: what bulk batches with little in them may fill, and what those of the process lane must leave.
const CROWD: usize = 8;

/// Samples, copied one after the other into one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    arena: Vec<u8>,
    /// Where each sample ends.
    ends: Vec<usize>,
}

impl Batch {
    /// Adds a copy of `sample`.
    pub fn push(&mut self, sample: &[u8]) {
        self.arena.extend_from_slice(sample);
        self.ends.push(self.arena.len());
    }

    /// How many samples there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all samples.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// The samples, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let sample = self.arena.get(start..*end).unwrap_or_default();
            start = *end;
            sample
        })
    }

    /// Empties it and keeps its memory, unless one huge sample made that large.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.arena.shrink_to(BATCH_BYTES.saturating_mul(2));
        self.ends.clear();
    }

    pub(super) fn full(&self) -> bool {
        self.arena.len() >= BATCH_BYTES || self.ends.len() >= BATCH_RECORDS
    }
}

/// The reader's end of the queue.
#[derive(Debug)]
pub struct BatchSender {
    batches: SyncSender<Batch>,
    used: Receiver<Batch>,
    waiting: Arc<AtomicUsize>,
    capacity: usize,
}

/// The other end.
#[derive(Debug)]
pub struct BatchReceiver {
    batches: Receiver<Batch>,
    used: SyncSender<Batch>,
    waiting: Arc<AtomicUsize>,
}

/// A queue for `capacity` batches (at least 2).
#[must_use]
pub fn queue(capacity: usize) -> (BatchSender, BatchReceiver) {
    let capacity = capacity.max(2);
    let (batches, received) = sync_channel(capacity);
    let (used, reused) = sync_channel(SPARE.min(capacity));
    let waiting = Arc::new(AtomicUsize::new(0));
    (
        BatchSender {
            batches,
            used: reused,
            waiting: Arc::clone(&waiting),
            capacity,
        },
        BatchReceiver {
            batches: received,
            used,
            waiting,
        },
    )
}

impl BatchSender {
    /// An empty batch, one that was used before if there is one.
    pub(super) fn fresh(&self) -> Batch {
        self.used.try_recv().unwrap_or_default()
    }

    /// Whether the room that is left is for full batches only: for `bulk` soon, for the process lane, which shall not wait
    /// for company behind a flood of another, late.
    pub(super) fn crowded(&self, bulk: bool) -> bool {
        let waiting = self.waiting.load(Ordering::Acquire);
        if bulk {
            let room = self.capacity.saturating_sub(self.reserved(bulk));
            waiting.saturating_mul(CROWD) >= room
        } else {
            waiting
                >= self
                    .capacity
                    .saturating_sub(self.capacity.div_euclid(CROWD))
        }
    }

    /// Places that only the process lane may take.
    fn reserved(&self, bulk: bool) -> usize {
        if bulk {
            self.capacity.div_ceil(RESERVED)
        } else {
            0
        }
    }

    /// Queues a batch, or gives it back if there is no room (for `bulk`: outside the reserved share).
    pub(super) fn offer(&self, batch: Batch, bulk: bool) -> Result<(), Batch> {
        let waiting = self.waiting.load(Ordering::Acquire);
        if waiting.saturating_add(self.reserved(bulk)) >= self.capacity {
            return Err(batch);
        }
        self.waiting.fetch_add(1, Ordering::AcqRel);
        match self.batches.try_send(batch) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                self.waiting.fetch_sub(1, Ordering::AcqRel);
                Err(batch)
            }
        }
    }

    /// Queues a batch and waits for room; false when nobody reads any more.
    pub(super) fn put(&self, batch: Batch) -> bool {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        self.batches.send(batch).is_ok()
    }
}

impl BatchReceiver {
    /// The next batch, waiting at most `timeout`.
    ///
    /// # Errors
    /// [`RecvTimeoutError::Disconnected`] when the reader has ended and everything was received.
    pub fn receive(&self, timeout: Duration) -> Result<Batch, RecvTimeoutError> {
        let batch = self.batches.recv_timeout(timeout)?;
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        Ok(batch)
    }

    /// The next batch if there is one.
    ///
    /// # Errors
    /// As [`BatchReceiver::receive`].
    pub fn try_receive(&self) -> Result<Batch, TryRecvError> {
        let batch = self.batches.try_recv()?;
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        Ok(batch)
    }

    /// Gives a batch back, for its memory; beyond a few that is given to the system.
    pub fn recycle(&self, mut batch: Batch) {
        batch.clear();
        match self.used.try_send(batch) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Batches that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_what_was_put_in() {
        let mut batch = Batch::default();
        for sample in [&b"one"[..], b"", b"three"] {
            batch.push(sample);
        }
        assert_eq!(
            batch.iter().collect::<Vec<_>>(),
            [&b"one"[..], b"", b"three"]
        );
        assert_eq!((batch.len(), batch.bytes()), (3, 8));
        batch.clear();
        assert!(batch.is_empty());
        assert_eq!(batch.iter().count(), 0);
    }

    #[test]
    fn after_a_burst_few_batches_are_kept() {
        let (sender, receiver) = queue(64);
        for _ in 0..64 {
            let mut batch = Batch::default();
            batch.push(&[1; 300 << 10]);
            sender.offer(batch, false).unwrap();
        }
        while let Ok(batch) = receiver.try_receive() {
            receiver.recycle(batch);
        }
        let kept: usize = (0..64).map(|_| sender.fresh().arena.capacity()).sum();
        assert!(kept > 0 && kept <= SPARE * 2 * BATCH_BYTES, "{kept} bytes");
    }

    #[test]
    fn used_batches_come_back() {
        let (sender, receiver) = queue(4);
        let mut batch = sender.fresh();
        batch.push(b"sample");
        sender.offer(batch, false).unwrap();
        assert_eq!(receiver.waiting(), 1);
        let batch = receiver.try_receive().unwrap();
        let memory = batch.arena.as_ptr();
        receiver.recycle(batch);
        let fresh = sender.fresh();
        assert_eq!(fresh.arena.as_ptr(), memory);
        assert!(fresh.is_empty());
        assert_eq!(receiver.waiting(), 0);
    }
}
