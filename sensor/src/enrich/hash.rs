//! Hashes of files, each with where it comes from and what it is worth.
//!
//! The kernel says which content an event is about ([`FileIdentity`]); the pool opens the file as soon as it can (the race
//! is to open: who has a descriptor keeps the content, whatever becomes of the name), compares, reads, compares again, and
//! says what that proves ([`HashVerdict`]). Only `verified` means: of the very content of the event. What was read once is
//! not read again while its identity stands ([`HashPool::lookup`]).
//!
//! Refused: FIFOs, devices and kernel interfaces are never opened for reading; file systems that can hang are not unless
//! configured. Bounded: jobs, descriptors, threads, bytes and time per file, cache entries, watches; each bound counts.
//! Nothing here blocks the caller: every job that [`HashPool::submit`] accepts gives exactly one [`HashResult`].
//!
//! # What a verdict rests on
//!
//! A write moves `ctime`, but by a clock that stands still for up to 10 ms (whole seconds on some file systems). So a
//! change can hide only within one such granule of an older one: a file changed within it before the event is `racy`, and
//! reading starts no earlier than one granule after `ctime`. Two things prove more than times do: while a program runs,
//! its file cannot be opened for writing (tried at the start; not on overlayfs), so what is read of a process that is
//! found running it is what was executed, even if the file was unlinked or renamed since, which moves `ctime` too; and a
//! read lease tells whether a writer is left.

mod cache;
mod count;
mod digest;
mod fs;
mod guard;
mod identity;
mod judge;
mod open;
mod pool;
mod read;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sensor_common::record::FileIdentity;
use sensor_proto::v1::{HashSource, HashVerdict, Hashes};

pub use self::count::HashStats;
pub use self::digest::{Algorithms, Digests};
pub use self::fs::{RefusedFileSystems, UnknownFileSystem};
#[cfg(test)]
pub(crate) use self::identity::observe;
pub(crate) use self::identity::{Seen, observe_again, same_file};
pub(crate) use self::open::{Opener, Reached, Unreached, open_for_reading};
pub use self::pool::{HashPool, executables_are_frozen};
use super::file::FileFacts;

/// What a job's file is to its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// The program that a process executes.
    Executed,
    /// The interpreter of a program or script.
    Interpreter,
    /// A script.
    Script,
    /// A file that was created, after it was closed.
    Created,
    /// A kernel module.
    Module,
}

impl What {
    /// Which jobs go first: lower ranks.
    const fn rank(self) -> usize {
        match self {
            Self::Executed => 0,
            Self::Interpreter | Self::Script | Self::Module => 1,
            Self::Created => 2,
        }
    }
}

/// A process, safe from reuse of its pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessStart {
    /// Thread group id, in the daemon's pid namespace.
    pub tgid: u32,
    /// Start of the group leader, ns of the boot clock.
    pub start_boot_ns: u64,
}

/// Where a file may be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The process of the event: its executable, its root, its working directory.
    pub process: Option<ProcessStart>,
    /// Another process to see the path through when that one has ended; used if it is in the same mount namespace.
    pub fallback: Option<ProcessStart>,
    /// Inode number of the mount namespace in which the path holds. 0: not known.
    pub mount_namespace: u32,
    /// Path in the root of the process, or relative to its working directory. `None`: not known whole.
    pub path: Option<Vec<u8>>,
}

/// What is known of writers of a created file, when its job is submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// The last one has closed it.
    Gone,
    /// One is left.
    Left,
    /// Nobody could say: the hash is `open` at best, unless a lease shows otherwise.
    Unknown,
}

/// A file that is open already ([`super::close_watch`] hands it over).
#[derive(Debug)]
pub struct OpenFile {
    reached: Reached,
    _held: Held,
}

impl OpenFile {
    pub(crate) const fn new(reached: Reached, held: Held) -> Self {
        Self {
            reached,
            _held: held,
        }
    }
}

/// A place among the files that may be held open at a time; given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    count: Arc<AtomicUsize>,
}

impl Held {
    /// Takes a place, if fewer than `limit` are taken.
    pub(crate) fn new(count: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        if count.fetch_add(1, Ordering::Relaxed) >= limit {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self {
            count: Arc::clone(count),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One file to hash.
#[derive(Debug)]
pub struct HashJob {
    /// Given back in the result; the pool does not look at it.
    pub token: u64,
    /// What the file is to the event.
    pub what: What,
    /// The file as the kernel had it. `None`: the backend does not say; the verdict is `racy` at best.
    pub identity: Option<FileIdentity>,
    /// When the kernel had it so: wall clock, ns since 1970.
    pub event_wall_ns: i64,
    /// Where to look for it.
    pub place: Place,
    /// For created files.
    pub writers: Writers,
    /// The file, if it is open already.
    pub open: Option<OpenFile>,
}

/// Why a job was given back unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// Newer jobs needed its place.
    QueueFull,
    /// It waited longer than [`HashConfig::wait_limit`].
    WaitedTooLong,
    /// The pool was stopped.
    Stopped,
}

/// What became of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct HashResult {
    /// Of the job.
    pub token: u64,
    /// What the digests are worth. `Unspecified` with `released`.
    pub verdict: HashVerdict,
    /// How the content was reached. `Unspecified`: it was not.
    pub source: HashSource,
    /// The digests. `None`: the content was not read, or not to its end.
    pub digests: Option<Digests>,
    /// The file as the pool had it open: the kernel's device where it could be found out, else `st_dev`; generation 0 where
    /// the file system tells none. `None`: it was not opened.
    pub identity: Option<FileIdentity>,
    /// Further facts about the open file. `None`: it was not read.
    pub facts: Option<Arc<FileFacts>>,
    /// Access list that new files inherit in the folder of a created file.
    pub default_acl: Option<String>,
    /// The digests were in the cache.
    pub cached: bool,
    /// The job was given back unread.
    pub released: Option<Released>,
}

impl HashResult {
    /// The message of the schema. `None`: the job was released; the field is absent then.
    #[must_use]
    pub fn message(&self) -> Option<Hashes> {
        if self.released.is_some() {
            return None;
        }
        Some(message(self.digests.as_ref(), self.source, self.verdict))
    }
}

/// What [`HashPool::lookup`] found: `verified`.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// The digests.
    pub digests: Digests,
    /// How they were reached when they were made.
    pub source: HashSource,
    /// Further facts about the file.
    pub facts: Arc<FileFacts>,
}

impl Known {
    /// The message of the schema.
    #[must_use]
    pub fn message(&self) -> Hashes {
        message(Some(&self.digests), self.source, HashVerdict::Verified)
    }
}

fn message(digests: Option<&Digests>, source: HashSource, verdict: HashVerdict) -> Hashes {
    Hashes {
        md5: digests.and_then(|digests| digests.md5.map(|md5| md5.to_vec())),
        sha1: digests.and_then(|digests| digests.sha1.map(|sha1| sha1.to_vec())),
        sha256: digests.map(|digests| digests.sha256.to_vec()),
        source: source.into(),
        verdict: verdict.into(),
    }
}

/// The pool's settings. Each default says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashConfig {
    /// Which digests are made.
    pub algorithms: Algorithms,
    /// Threads that read. Two: the machine has other things to do, and one big file must not hold the small ones.
    pub threads: usize,
    /// Niceness of those threads: below ordinary work.
    pub nice: i32,
    /// Jobs waiting to be opened. A burst of 4,096 processes.
    pub waiting: usize,
    /// Files held open for reading. A quarter of the customary 1,024.
    pub pinned: usize,
    /// Results that nobody has fetched yet, jobs waiting and merged ones included.
    pub outstanding: usize,
    /// Larger files are not read. 256 MiB: nearly every program and library.
    pub file_bytes: u64,
    /// Longest that reading one file may take.
    pub timeout: Duration,
    /// Longest that a job may wait for a thread.
    pub wait_limit: Duration,
    /// Threads that may be started in place of ones that do not come back from a system call.
    pub replacements: usize,
    /// Contents remembered. About 400 bytes each.
    pub cache_entries: usize,
    /// Watches on remembered files of memory file systems.
    pub watches: usize,
    /// File systems that are not read.
    pub refused: RefusedFileSystems,
    /// Whether a read lease is asked for to see whether writers are left (needs CAP_LEASE for files of others). Who opens
    /// such a file for writing in these microseconds waits.
    pub leases: bool,
    /// What [`executables_are_frozen`] said with the privileges of the start; `None`: the pool asks.
    pub executables_frozen: Option<bool>,
}

impl Default for HashConfig {
    fn default() -> Self {
        Self {
            algorithms: Algorithms::default(),
            threads: 2,
            nice: 10,
            waiting: 4096,
            pinned: 256,
            outstanding: 16_384,
            file_bytes: 256 << 20,
            timeout: Duration::from_secs(30),
            wait_limit: Duration::from_secs(120),
            replacements: 4,
            cache_entries: 8192,
            watches: 512,
            refused: RefusedFileSystems::default(),
            leases: true,
            executables_frozen: None,
        }
    }
}

impl HashConfig {
    /// The pool's settings as configured.
    ///
    /// # Errors
    /// [`UnknownFileSystem`] for a name in `hash.refused_filesystems`.
    pub fn new(config: &crate::config::HashConfig) -> Result<Self, UnknownFileSystem> {
        Ok(Self {
            algorithms: Algorithms {
                md5: config.md5,
                sha1: config.sha1,
            },
            threads: config.threads,
            waiting: config.queue,
            // As many again may be under way or not fetched.
            outstanding: config.queue.saturating_mul(2),
            file_bytes: config.max_file_bytes,
            timeout: config.timeout,
            cache_entries: config.cache_entries,
            refused: RefusedFileSystems::by_name(&config.refused_filesystems)?,
            leases: config.leases,
            ..Self::default()
        })
    }
}
