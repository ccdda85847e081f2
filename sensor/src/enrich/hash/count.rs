//! What the pool counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the pool has done and holds. Every count but the gauges only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashStats {
    /// Jobs accepted. Each gives one result.
    pub accepted: u64,
    /// Jobs refused by [`super::HashPool::submit`].
    pub refused: u64,
    /// Results by verdict, indexed by [`sensor_proto::v1::HashVerdict`]; 0: released unread.
    pub results: [u64; 10],
    /// Results released for want of room.
    pub released_full: u64,
    /// Results released after waiting too long.
    pub released_late: u64,
    /// Results released by the end of the pool.
    pub released_stopped: u64,
    /// Look-ups answered.
    pub hits: u64,
    /// Look-ups not answered.
    pub misses: u64,
    /// Jobs answered from the cache once their file was open.
    pub hits_open: u64,
    /// Jobs that took the result of another of the same content.
    pub merged: u64,
    /// Files read to their end.
    pub read_files: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Cache entries that went for want of room.
    pub evicted: u64,
    /// Threads that were given up.
    pub stuck: u64,
    /// Gauge: jobs waiting to be opened.
    pub waiting: usize,
    /// Gauge: files open, those being read included.
    pub pinned: usize,
    /// Gauge: cache entries.
    pub cached: usize,
    /// Gauge: watches on memory file systems.
    pub watches: usize,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) results: [AtomicU64; 10],
    pub(super) released_full: AtomicU64,
    pub(super) released_late: AtomicU64,
    pub(super) released_stopped: AtomicU64,
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) hits_open: AtomicU64,
    pub(super) merged: AtomicU64,
    pub(super) read_files: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) stuck: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
