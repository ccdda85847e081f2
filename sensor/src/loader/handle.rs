//! What the rest of the daemon gets of the loaded object: rings, counters and tables, without aya's types.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use sensor_common::counter::{COUNTER_COUNT, KernelCounter};
use sensor_common::map::{Connecting, OpenFile};
use sensor_common::record::{Lane, RecordKind};

use super::LoadError;

/// A map that the object should have could not be used.
#[derive(Debug, thiserror::Error)]
#[error("map {name}")]
pub struct TableError {
    /// Its name.
    pub name: &'static str,
    /// Why.
    pub source: MapError,
}

/// The consumer's end of one lane's ring buffer. There is one per lane.
pub struct Ring {
    lane: Lane,
    ring: RingBuf<MapData>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

impl Ring {
    pub(super) fn new(lane: Lane, name: &'static str, map: Map) -> Result<Self, LoadError> {
        let ring = RingBuf::try_from(map)
            .map_err(|source| LoadError::Table(TableError { name, source }))?;
        Ok(Self { lane, ring })
    }

    /// The lane whose records come here.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// Shows the oldest sample to `look` and frees its place; `None` when there is none.
    pub fn next<R>(&mut self, look: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.ring.next().map(|sample| look(&sample))
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// The kernel side's counters, sums over all CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterTable {
    values: Vec<u64>,
}

impl Default for CounterTable {
    fn default() -> Self {
        Self {
            values: vec![0; usize::try_from(COUNTER_COUNT).unwrap_or(0)],
        }
    }
}

impl CounterTable {
    /// The value of one counter of one kind of record.
    #[must_use]
    pub fn value(&self, kind: RecordKind, counter: KernelCounter) -> u64 {
        usize::try_from(counter.index(kind))
            .ok()
            .and_then(|index| self.values.get(index))
            .copied()
            .unwrap_or(0)
    }
}

/// Reads the kernel side's counters.
pub struct Counters {
    map: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl Counters {
    pub(super) fn new(name: &'static str, map: Map) -> Result<Self, LoadError> {
        let map = PerCpuArray::try_from(map)
            .map_err(|source| LoadError::Table(TableError { name, source }))?;
        Ok(Self { map })
    }

    /// All counters of all known kinds, one system call for each.
    ///
    /// # Errors
    /// [`TableError`] with the errno of bpf(2).
    pub fn read(&self) -> Result<CounterTable, TableError> {
        let mut table = CounterTable::default();
        for kind in RecordKind::ALL {
            for counter in KernelCounter::ALL {
                let index = counter.index(*kind);
                let values = self.map.get(&index, 0).map_err(|source| TableError {
                    name: sensor_common::map::COUNTERS,
                    source,
                })?;
                let slot = usize::try_from(index)
                    .ok()
                    .and_then(|index| table.values.get_mut(index));
                if let Some(slot) = slot {
                    *slot = values.iter().fold(0, |sum, value| sum.wrapping_add(*value));
                }
            }
        }
        Ok(table)
    }
}

/// Tells the programs whether the reader polls a lane by timer, so that they need not wake it.
pub struct ReaderAwake {
    map: Array<MapData, u32>,
}

impl fmt::Debug for ReaderAwake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaderAwake").finish_non_exhaustive()
    }
}

impl ReaderAwake {
    pub(super) fn new(name: &'static str, map: Map) -> Result<Self, LoadError> {
        let map =
            Array::try_from(map).map_err(|source| LoadError::Table(TableError { name, source }))?;
        Ok(Self { map })
    }

    /// Says that the reader polls `lane` (or that it sleeps and wants to be woken).
    ///
    /// # Errors
    /// [`TableError`] with the errno of bpf(2).
    pub fn set(&mut self, lane: Lane, awake: bool) -> Result<(), TableError> {
        self.map
            .set(lane as u32, u32::from(awake), 0)
            .map_err(|source| TableError {
                name: sensor_common::map::READER_AWAKE,
                source,
            })
    }
}

/// TCP connects that have no result yet.
pub struct ConnectingTable {
    map: HashMap<MapData, u64, Connecting>,
}

impl fmt::Debug for ConnectingTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectingTable").finish_non_exhaustive()
    }
}

impl ConnectingTable {
    pub(super) fn new(name: &'static str, map: Map) -> Result<Self, LoadError> {
        let map = HashMap::try_from(map)
            .map_err(|source| LoadError::Table(TableError { name, source }))?;
        Ok(Self { map })
    }

    /// Up to `limit` entries that began at least `older_than_ns` before `now_boot_ns`. They stay: their result may still
    /// come.
    ///
    /// # Errors
    /// [`TableError`] with the errno of bpf(2), unless an entry vanished while it was looked at.
    pub fn older_than(
        &self,
        now_boot_ns: u64,
        older_than_ns: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Connecting)>, TableError> {
        let failed = |source| TableError {
            name: sensor_common::map::CONNECTING,
            source,
        };
        let mut old = Vec::new();
        // Of a hash that changes meanwhile an iteration can miss entries or start over: it is bounded, the next one is soon.
        let bound = usize::try_from(sensor_common::map::CONNECTING_ENTRIES)
            .unwrap_or(usize::MAX)
            .saturating_mul(4);
        for key in self.map.keys().take(bound) {
            if old.len() >= limit {
                break;
            }
            let key = key.map_err(failed)?;
            match self.map.get(&key, 0) {
                Ok(entry) => {
                    let age = now_boot_ns.saturating_sub(entry.header.time_boot_ns);
                    if age >= older_than_ns {
                        old.push((key, entry));
                    }
                }
                Err(error) if vanished(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(old)
    }
}

/// Created files that are still open for writing.
pub struct OpenFiles {
    map: HashMap<MapData, u64, OpenFile>,
    entries: u32,
}

impl fmt::Debug for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFiles")
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

impl OpenFiles {
    pub(super) fn new(name: &'static str, map: Map, entries: u32) -> Result<Self, LoadError> {
        let map = HashMap::try_from(map)
            .map_err(|source| LoadError::Table(TableError { name, source }))?;
        Ok(Self { map, entries })
    }

    /// How many there are now: a system call for each, so for reports only.
    ///
    /// # Errors
    /// [`TableError`] with the errno of bpf(2).
    pub fn count(&self) -> Result<usize, TableError> {
        let bound = usize::try_from(self.entries).unwrap_or(usize::MAX);
        let mut count = 0_usize;
        for key in self.map.keys().take(bound) {
            key.map_err(|source| TableError {
                name: sensor_common::map::OPEN_FILES,
                source,
            })?;
            count = count.saturating_add(1);
        }
        Ok(count)
    }

    /// How many there can be.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.entries
    }
}

fn vanished(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound | MapError::ElementNotFound)
        || super::errno(error) == Some(nix::libc::ENOENT)
}
