//! When the disk cannot be written: packets are kept in memory, within a budget, under an epoch of their own, since they are
//! offered to sinks before they are durable. When the disk is back they are written to it.

use std::io;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::cursor::Cursor;
use super::entry::{Epoch, Now, Stream};
use super::identity;
use super::log::Log;
use super::segment::Stamp;
use super::storage::Storage;
use super::{DiskFault, Spool};

/// First and longest time between two tries of a disk that failed, ns.
const RETRY_MIN_NS: u64 = 1_000_000_000;
const RETRY_MAX_NS: u64 = 60_000_000_000;

/// The disk is out of order.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) why: DiskFault,
    pub(super) since_boot_ns: u64,
    retry_boot_ns: u64,
    pause_ns: u64,
}

impl Memory {
    fn new(error: &io::Error, now: Now) -> Self {
        Self {
            why: fault(error),
            since_boot_ns: now.boot_ns,
            retry_boot_ns: now.boot_ns.saturating_add(RETRY_MIN_NS),
            pause_ns: RETRY_MIN_NS,
        }
    }
}

fn fault(error: &io::Error) -> DiskFault {
    let kind = error.kind();
    if matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) {
        DiskFault::Full
    } else if kind == io::ErrorKind::ReadOnlyFilesystem {
        DiskFault::ReadOnly
    } else {
        DiskFault::Other(error.to_string())
    }
}

impl<S: Storage> Spool<S> {
    /// The disk failed. What is not durable stays in memory; what is sealed from now on belongs to a new epoch.
    pub(super) fn enter_memory(&mut self, error: &io::Error, now: Now) {
        self.disk_failures = self.disk_failures.saturating_add(1);
        for log in &mut self.logs {
            log.fail();
        }
        self.sinks.values_mut().for_each(Cursor::fail);
        self.tombstones.fail();
        if let Some(memory) = &mut self.memory {
            memory.why = fault(error);
            return;
        }
        tracing::warn!(%error, "the spool cannot write its disk: packets are kept in memory");
        self.memory = Some(Memory::new(error, now));
        let epoch = self.random_epoch(now);
        self.begin_epoch(epoch, true);
    }

    /// Two streams of a new epoch, which becomes the current one.
    pub(super) fn begin_epoch(&mut self, epoch: Epoch, in_memory: bool) {
        self.max_ordinal = self.max_ordinal.saturating_add(1);
        self.ordinal = self.max_ordinal;
        self.identity.epoch = epoch;
        for stream in Stream::ALL {
            let log = Log::new(epoch, self.ordinal, stream, in_memory);
            for cursor in self.sinks.values_mut() {
                cursor.follow(&log);
            }
            self.logs.push(log);
        }
    }

    /// 128 bits that nobody had before. Should the kernel have none, what is unlikely to come again.
    pub(super) fn random_epoch(&self, now: Now) -> Epoch {
        Epoch(self.storage.random().unwrap_or_else(|_| {
            let mut hasher = Sha256::new();
            hasher.update(self.identity.agent_id);
            hasher.update(self.identity.epoch.0);
            hasher.update(self.host.boot_id);
            hasher.update(now.boot_ns.to_le_bytes());
            hasher.update(now.wall_ns.to_le_bytes());
            let digest: [u8; 32] = hasher.finalize().into();
            let mut bytes = [0; 16];
            for (to, from) in bytes.iter_mut().zip(digest) {
                *to = from;
            }
            bytes
        }))
    }

    /// Tries a disk that failed, if it is time.
    pub(super) fn retry_disk(&mut self, now: Now, at_once: bool) {
        let Some(memory) = &mut self.memory else {
            return;
        };
        if !at_once && now.boot_ns < memory.retry_boot_ns {
            return;
        }
        memory.pause_ns = memory.pause_ns.saturating_mul(2).min(RETRY_MAX_NS);
        memory.retry_boot_ns = now.boot_ns.saturating_add(memory.pause_ns);
        match self.settle(now) {
            Ok(()) => {
                self.memory = None;
                self.disk_recoveries = self.disk_recoveries.saturating_add(1);
                tracing::info!("the spool writes its disk again");
            }
            Err(error) => self.enter_memory(&error, now),
        }
    }

    /// Everything to the disk, oldest first. The identity comes last: should we die before, the old epoch goes on, and this
    /// one is an old one with what it has.
    fn settle(&mut self, now: Now) -> io::Result<()> {
        let rules = self.rules();
        let epoch = self.identity.epoch;
        for log in &mut self.logs {
            log.settle(&self.storage, &rules)?;
            if log.epoch == epoch {
                if log.segments.is_empty() {
                    let stamp = Stamp {
                        boot_ns: now.boot_ns,
                        wall_ns: now.wall_ns,
                        boot_id: self.host.boot_id,
                    };
                    log.begin_segment(&self.storage, &rules, stamp)?;
                }
                if !log.is_open() {
                    log.reopen(&self.storage)?;
                }
            } else {
                log.close();
            }
        }
        self.remove_clean()?;
        identity::save(&self.storage, self.identity, self.ordinal, &self.host)?;
        self.storage.sync_folder(Path::new(""))?;
        for log in &mut self.logs {
            log.tail_offered = false;
        }
        for cursor in self.sinks.values_mut() {
            cursor.save(&self.storage)?;
        }
        self.tombstones.save(&self.storage)
    }
}
