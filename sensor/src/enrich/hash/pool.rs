//! The threads of the pool and what they share.
//!
//! One thread opens (quick, newest job first: the youngest process is the one that will be gone first), some threads read
//! (programs before created files, else oldest first), one thread watches the others. A thread that does not come back
//! from a system call is given up: its job ends with `timeout`, another thread takes its place, a bounded number of times.

mod opening;
mod reading;
mod watching;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use sensor_common::record::FileIdentity;
use sensor_proto::v1::{HashSource, HashVerdict};
use tokio::sync::mpsc::{self, OwnedPermit};

use super::cache::{Cache, ContentKey};
use super::count::{Counters, HashStats, add};
use super::digest::Digests;
use super::fs::FsClass;
use super::guard::Guard;
use super::identity;
use super::judge::{Claim, empty};
use super::open::Opener;
use super::{HashConfig, HashJob, HashResult, Known, Released, What};
use crate::clock::Clock;
use crate::confine::Confinement;
use crate::enrich::file::{FileFacts, descriptor_path};
use crate::kernel::sys;
use crate::procfs::Proc;

const RANKS: usize = 3;
/// How often the watching thread looks while there is work.
const WATCH_PERIOD: Duration = Duration::from_millis(500);
/// Longest that opening may take before its thread is given up.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// What a reading thread may be late, for its last chunk, before it is given up.
const GRACE: Duration = Duration::from_secs(2);
const STACK_BYTES: usize = 256 << 10;

/// The hash pool: a handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct HashPool {
    shared: Arc<Shared>,
}

/// The right to give one result, and the duty.
#[derive(Debug)]
struct Ticket {
    token: u64,
    permit: OwnedPermit<HashResult>,
}

/// A job that is not open yet.
#[derive(Debug)]
struct Waiting {
    job: HashJob,
    permit: OwnedPermit<HashResult>,
    since: Instant,
}

/// A job whose file is open.
#[derive(Debug)]
struct Pinned {
    ticket: Ticket,
    claim: Claim,
    file: OwnedFd,
    key: Option<ContentKey>,
    /// The key in [`State::in_flight`] under which others wait for this one.
    leads: Option<ContentKey>,
    since: Instant,
}

/// A job whose content another one reads.
#[derive(Debug)]
struct Follower {
    ticket: Ticket,
    claim: Claim,
}

/// What a thread is at; taken away by the watching thread when it is given up.
#[derive(Debug)]
struct Busy {
    ticket: Ticket,
    deadline: Instant,
    opening: bool,
    leads: Option<ContentKey>,
    abandoned: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    waiting: [VecDeque<Waiting>; RANKS],
    ready: [BTreeMap<(Instant, u64), Pinned>; RANKS],
    pinned: usize,
    in_flight: HashMap<ContentKey, Vec<Follower>>,
    busy: HashMap<u64, Busy>,
    next: u64,
    replaced: usize,
    watching: bool,
    stopping: bool,
}

impl State {
    fn waiting_len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    fn serial(&mut self) -> u64 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn is_idle(&self) -> bool {
        self.pinned == 0 && self.busy.is_empty() && self.waiting_len() == 0
    }
}

/// What a remembered content is.
#[derive(Clone, Debug)]
struct Remembered {
    digests: Digests,
    facts: Arc<FileFacts>,
    source: HashSource,
    /// For memory file systems: since when its file is watched, wall clock.
    watched_wall_ns: i64,
}

#[derive(Debug)]
struct Store {
    cache: Cache<Remembered>,
    guard: Option<Guard>,
}

#[derive(Debug)]
struct Shared {
    config: HashConfig,
    opener: Opener,
    clock: Arc<Clock>,
    confinement: Confinement,
    /// Whether this kernel lets nobody write a program that runs.
    executables_frozen: bool,
    sender: mpsc::Sender<HashResult>,
    state: Mutex<State>,
    open_work: Condvar,
    read_work: Condvar,
    watch_work: Condvar,
    store: Mutex<Store>,
    stopping: AtomicBool,
    counters: Counters,
}

impl HashPool {
    /// Starts the threads. The receiver gives one result for every job accepted.
    ///
    /// # Errors
    /// What starting a thread says.
    pub fn spawn(
        config: HashConfig,
        proc: Proc,
        clock: Arc<Clock>,
        confinement: Confinement,
    ) -> std::io::Result<(Self, mpsc::Receiver<HashResult>)> {
        if config.leases {
            sys::ignore_sigio()?;
        }
        let (sender, receiver) = mpsc::channel(config.outstanding.max(1));
        let executables_frozen = config
            .executables_frozen
            .unwrap_or_else(|| executables_are_frozen(&proc));
        let opener = Opener::new(proc, clock.tick_ns(), config.refused.clone());
        let store = Store {
            cache: Cache::new(config.cache_entries),
            guard: None,
        };
        let threads = config.threads.max(1);
        let shared = Arc::new(Shared {
            config,
            opener,
            clock,
            confinement,
            executables_frozen,
            sender,
            state: Mutex::default(),
            open_work: Condvar::new(),
            read_work: Condvar::new(),
            watch_work: Condvar::new(),
            store: Mutex::new(store),
            stopping: AtomicBool::new(false),
            counters: Counters::default(),
        });
        let started = shared
            .spawn("hash-open", Shared::open_loop)
            .and_then(|()| {
                (0..threads).try_for_each(|_| shared.spawn("hash-read", Shared::read_loop))
            })
            .and_then(|()| shared.spawn("hash-watch", Shared::watch_loop));
        if let Err(error) = started {
            shared.stop();
            return Err(error);
        }
        Ok((Self { shared }, receiver))
    }

    /// What is known already of a content, `verified`; costs no system call on ordinary file systems. Never answers for
    /// overlayfs, nor where the time of the event leaves a doubt: submit a job then.
    #[must_use]
    pub fn lookup(&self, what: What, identity: &FileIdentity, event_wall_ns: i64) -> Option<Known> {
        let found = self.shared.lookup(what, identity, event_wall_ns);
        let counters = &self.shared.counters;
        add(
            if found.is_some() {
                &counters.hits
            } else {
                &counters.misses
            },
            1,
        );
        found
    }

    /// Hands a job over. When too many wait, the oldest of the least urgent kind is released.
    ///
    /// # Errors
    /// The job itself, if the pool is stopped or nobody fetches its results.
    pub fn submit(&self, job: HashJob) -> Result<(), Box<HashJob>> {
        self.shared.submit(job)
    }

    /// Ends the pool: what was not read is released, readers end at their next chunk.
    pub fn stop(&self) {
        self.shared.stop();
    }

    /// What the pool has done and holds.
    #[must_use]
    pub fn stats(&self) -> HashStats {
        self.shared.stats()
    }

    /// Whether this kernel refuses to open a running program for writing, as tried at the start.
    #[must_use]
    pub fn executables_frozen(&self) -> bool {
        self.shared.executables_frozen
    }
}

/// Whether this kernel lets nobody write a program that runs: tries to open the daemon's own for writing. Kernels 6.11 to 6.12.1
/// allow it, and overlayfs does. Only who may write the program can tell.
#[must_use]
pub fn executables_are_frozen(proc: &Proc) -> bool {
    let Ok(own) = proc.own().and_then(|own| own.executable_handle()) else {
        return false;
    };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = rustix::fs::open(descriptor_path(&own), flags, Mode::empty());
    matches!(opened, Err(Errno::TXTBSY))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        condition: &Condvar,
        state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, State> {
        match until {
            None => condition
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let time = until.saturating_duration_since(Instant::now());
                condition
                    .wait_timeout(state, time)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        }
    }

    fn spawn(self: &Arc<Self>, name: &str, body: fn(&Arc<Self>)) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || body(&shared))
            .map(drop)
    }

    fn wall_now_ns(&self) -> i64 {
        // Does not fail on a kernel that the sensor supports; 0 settles nothing.
        self.clock.wall_now_ns().unwrap_or(0)
    }

    fn lookup(&self, what: What, identity: &FileIdentity, event_wall_ns: i64) -> Option<Known> {
        if identity.fs_magic == 0 {
            // Not observed: what its times are worth is not known.
            return None;
        }
        let key = ContentKey::of(identity)?;
        let class = FsClass::of(identity.fs_magic);
        let found = match class {
            FsClass::Plain if !identity::within_granule(identity, event_wall_ns) => {
                self.store().cache.find(&key)?
            }
            FsClass::Memory => self.find_watched(what, &key, event_wall_ns)?,
            FsClass::Plain | FsClass::Overlay | FsClass::Remote | FsClass::Kernel => return None,
        };
        Some(Known {
            digests: found.digests,
            source: found.source,
            facts: found.facts,
        })
    }

    /// A remembered content on a memory file system that nobody can have written since before the event. Programs,
    /// interpreters and modules are opened by the kernel such that a writer would have made that fail.
    fn find_watched(&self, what: What, key: &ContentKey, event_wall_ns: i64) -> Option<Remembered> {
        if what == What::Created || !self.executables_frozen {
            return None;
        }
        let mut store = self.store();
        let found = store.cache.find(key)?;
        let quiet = store
            .guard
            .as_mut()
            .is_some_and(|guard| guard.is_quiet(key));
        if !quiet {
            store.cache.remove(key);
            return None;
        }
        (event_wall_ns > found.watched_wall_ns).then_some(found)
    }

    fn submit(&self, job: HashJob) -> Result<(), Box<HashJob>> {
        let Ok(permit) = self.sender.clone().try_reserve_owned() else {
            add(&self.counters.refused, 1);
            return Err(Box::new(job));
        };
        // What needs no opening to be refused.
        if let Some(verdict) = self.refusal(&job) {
            add(&self.counters.accepted, 1);
            let ticket = Ticket {
                token: job.token,
                permit,
            };
            self.give(ticket, empty(verdict));
            return Ok(());
        }
        let mut oldest = None;
        {
            let mut state = self.state();
            if state.stopping {
                add(&self.counters.refused, 1);
                return Err(Box::new(job));
            }
            add(&self.counters.accepted, 1);
            if state.waiting_len() >= self.config.waiting {
                oldest = state.waiting.iter_mut().rev().find_map(VecDeque::pop_front);
            }
            let rank = job.what.rank();
            if let Some(queue) = state.waiting.get_mut(rank) {
                queue.push_back(Waiting {
                    job,
                    permit,
                    since: Instant::now(),
                });
            }
            self.wake_watch(&mut state);
        }
        self.open_work.notify_one();
        if let Some(oldest) = oldest {
            self.release(oldest.ticket(), Released::QueueFull);
        }
        Ok(())
    }

    fn refusal(&self, job: &HashJob) -> Option<HashVerdict> {
        let identity = job.identity.as_ref()?;
        let kind = FileType::from_raw_mode(identity.mode);
        if identity.mode != 0 && kind != FileType::RegularFile {
            return Some(HashVerdict::Unreadable);
        }
        if identity.fs_magic != 0 && !self.opener.reads(identity.fs_magic) {
            return Some(HashVerdict::RefusedFs);
        }
        (identity.size > self.config.file_bytes).then_some(HashVerdict::TooLarge)
    }

    fn wake_watch(&self, state: &mut State) {
        if !state.watching {
            state.watching = true;
            self.watch_work.notify_one();
        }
    }

    fn give(&self, ticket: Ticket, mut result: HashResult) {
        result.token = ticket.token;
        let index = usize::try_from(i32::from(result.verdict)).unwrap_or(0);
        if let Some(counter) = self.counters.results.get(index) {
            add(counter, 1);
        }
        ticket.permit.send(result);
    }

    fn release(&self, ticket: Ticket, reason: Released) {
        let counter = match reason {
            Released::QueueFull => &self.counters.released_full,
            Released::WaitedTooLong => &self.counters.released_late,
            Released::Stopped => &self.counters.released_stopped,
        };
        add(counter, 1);
        let result = HashResult {
            released: Some(reason),
            ..empty(HashVerdict::Unspecified)
        };
        self.give(ticket, result);
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        let mut released = Vec::new();
        {
            let mut state = self.state();
            state.stopping = true;
            for queue in &mut state.waiting {
                released.extend(queue.drain(..).map(Waiting::ticket));
            }
            for queue in &mut state.ready {
                let ready = std::mem::take(queue);
                released.extend(ready.into_values().map(|pinned| pinned.ticket));
            }
            let in_flight = std::mem::take(&mut state.in_flight);
            released.extend(
                in_flight
                    .into_values()
                    .flatten()
                    .map(|follower| follower.ticket),
            );
        }
        self.open_work.notify_all();
        self.read_work.notify_all();
        self.watch_work.notify_all();
        for ticket in released {
            self.release(ticket, Released::Stopped);
        }
    }

    fn stats(&self) -> HashStats {
        let (waiting, pinned) = {
            let state = self.state();
            (state.waiting_len(), state.pinned)
        };
        let store = self.store();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        HashStats {
            accepted: read(&counters.accepted),
            refused: read(&counters.refused),
            results: counters.results.each_ref().map(read),
            released_full: read(&counters.released_full),
            released_late: read(&counters.released_late),
            released_stopped: read(&counters.released_stopped),
            hits: read(&counters.hits),
            misses: read(&counters.misses),
            hits_open: read(&counters.hits_open),
            merged: read(&counters.merged),
            read_files: read(&counters.read_files),
            read_bytes: read(&counters.read_bytes),
            evicted: store.cache.evicted(),
            stuck: read(&counters.stuck),
            waiting,
            pinned,
            cached: store.cache.len(),
            watches: store.guard.as_ref().map_or(0, Guard::len),
        }
    }
}

impl Waiting {
    fn split(self) -> (Ticket, HashJob, Instant) {
        let ticket = Ticket {
            token: self.job.token,
            permit: self.permit,
        };
        (ticket, self.job, self.since)
    }

    fn ticket(self) -> Ticket {
        self.split().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::hash::Writers;
    use crate::enrich::hash::identity::{Match, OnDevice, Seen};
    use sensor_proto::v1::HashSource;

    fn shared(config: HashConfig) -> (Arc<Shared>, mpsc::Receiver<HashResult>) {
        let clock = Arc::new(Clock::new().unwrap());
        let unconfined = Confinement::default();
        let (pool, receiver) = HashPool::spawn(config, Proc::default(), clock, unconfined).unwrap();
        (pool.shared, receiver)
    }

    /// A thread that does not come back: its job and those that wait for it end, another thread is started, and what it
    /// brings when it does come back is not given a second time.
    #[test]
    fn a_stuck_thread_is_given_up() {
        let config = HashConfig {
            replacements: 1,
            ..HashConfig::default()
        };
        let (shared, mut receiver) = shared(config);
        let ticket = |token| Ticket {
            token,
            permit: shared.sender.clone().try_reserve_owned().unwrap(),
        };
        let identity = FileIdentity {
            inode: 1,
            device: 1,
            ..FileIdentity::default()
        };
        let key = ContentKey::of(&identity).unwrap();
        let claim = Claim {
            what: What::Executed,
            expected: Some(identity),
            event_wall_ns: 0,
            writers: Writers::Gone,
            source: HashSource::Path,
            seen: Seen {
                identity,
                mount_id: 0,
            },
            matched: Some(Match::Same),
            device: OnDevice::Yes,
            frozen: None,
            default_acl: None,
            identity,
        };
        let abandoned = Arc::new(AtomicBool::new(false));
        {
            let mut state = shared.state();
            for (serial, token, opening) in [(1001, 1, false), (1002, 2, true)] {
                let busy = Busy {
                    ticket: ticket(token),
                    deadline: Instant::now(),
                    opening,
                    leads: (!opening).then_some(key),
                    abandoned: Arc::clone(&abandoned),
                };
                state.busy.insert(serial, busy);
                state.pinned += 1;
            }
            let follower = Follower {
                ticket: ticket(3),
                claim,
            };
            state.in_flight.insert(key, vec![follower]);
            shared.wake_watch(&mut state);
        }
        let mut tokens: Vec<u64> = (0..3)
            .map(|_| {
                let result = receiver.blocking_recv().unwrap();
                assert_eq!(result.verdict, HashVerdict::Timeout);
                assert_eq!(result.digests, None);
                result.token
            })
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, [1, 2, 3]);
        assert!(abandoned.load(Ordering::Relaxed));
        let state = shared.state();
        assert_eq!((state.pinned, state.replaced), (0, 1));
        assert!(state.in_flight.is_empty());
        drop(state);
        assert_eq!(shared.stats().stuck, 2);
        shared.stop();
        receiver.try_recv().unwrap_err();
    }

    #[test]
    fn a_running_program_is_not_written() {
        // True on every kernel that the sensor is tested on, if the test program is ours to write and not on overlayfs.
        let program = std::fs::canonicalize("/proc/self/exe").unwrap();
        let magic = rustix::fs::statfs(&program).unwrap().f_type;
        let ours = rustix::fs::access(&program, rustix::fs::Access::WRITE_OK).is_ok();
        if ours && FsClass::of(u64::try_from(magic).unwrap()) == FsClass::Plain {
            assert!(executables_are_frozen(&Proc::default()));
        }
        assert!(!executables_are_frozen(&Proc::new("/nonexistent")));
    }
}
