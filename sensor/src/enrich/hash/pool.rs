//! The threads of the pool and what they share.
//!
//! One thread opens (quick, newest job first: the youngest process is the one that will be gone first), some threads read
//! (programs before created files, else oldest first), one thread watches the others. A thread that does not come back
//! from a system call is given up: its job ends with `timeout`, another thread takes its place, a bounded number of times.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
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
use super::guard::Guard;
use super::identity::{self, FsClass, Match, OnDevice};
use super::judge::{Claim, Frozen, Proof, empty, judged};
use super::open::{Opener, Unreached};
use super::read::{self, CHUNK_BYTES, Limits, Reading};
use super::{HashConfig, HashJob, HashResult, Known, Released, What, Writers};
use crate::clock::Clock;
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
    ) -> std::io::Result<(Self, mpsc::Receiver<HashResult>)> {
        if config.leases {
            sys::ignore_sigio()?;
        }
        let (sender, receiver) = mpsc::channel(config.outstanding.max(1));
        let executables_frozen = executables_are_frozen(&proc);
        let opener = Opener::new(proc, clock.tick_ns(), config.remote);
        let store = Store {
            cache: Cache::new(config.cache_entries),
            guard: None,
        };
        let threads = config.threads.max(1);
        let shared = Arc::new(Shared {
            config,
            opener,
            clock,
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

/// Tries to open the daemon's own program for writing. Kernels 6.11 to 6.12.1 allow it, and overlayfs does.
fn executables_are_frozen(proc: &Proc) -> bool {
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

    // ---- giving results

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

    // ---- opening

    fn open_loop(self: &Arc<Self>) {
        let abandoned = Arc::new(AtomicBool::new(false));
        loop {
            let (serial, waiting) = {
                let mut state = self.state();
                let waiting = loop {
                    if state.stopping {
                        return;
                    }
                    let newest = if state.pinned < self.config.pinned {
                        state.waiting.iter_mut().find_map(VecDeque::pop_back)
                    } else {
                        None
                    };
                    if let Some(waiting) = newest {
                        break waiting;
                    }
                    state = self.wait(&self.open_work, state, None);
                };
                state.pinned = state.pinned.saturating_add(1);
                let serial = state.serial();
                let (ticket, job, since) = waiting.split();
                let busy = Busy {
                    ticket,
                    deadline: Instant::now() + OPEN_LIMIT,
                    opening: true,
                    leads: None,
                    abandoned: Arc::clone(&abandoned),
                };
                state.busy.insert(serial, busy);
                (serial, (job, since))
            };
            let (job, since) = waiting;
            let opened = self.open(job);
            let mut state = self.state();
            let Some(busy) = state.busy.remove(&serial) else {
                return;
            };
            match opened {
                Ok((claim, file)) => self.admit(state, busy.ticket, claim, file, since),
                Err(reason) => {
                    state.pinned = state.pinned.saturating_sub(1);
                    drop(state);
                    self.give(busy.ticket, empty(verdict_of(reason)));
                }
            }
        }
    }

    fn open(&self, job: HashJob) -> Result<(Claim, OwnedFd), Unreached> {
        let expected = job.identity.filter(|identity| identity.inode != 0);
        let reached = match job.open {
            // Handed over by the watch on its last writer; look again, it may have changed meanwhile.
            Some(open) => {
                let before = open.reached;
                let mut reached = self.opener.examine(
                    before.file,
                    before.source,
                    expected.as_ref(),
                    Some(before.device),
                    None,
                )?;
                reached.default_acl = before.default_acl;
                reached
            }
            None => self.opener.reach(job.what, &job.place, expected.as_ref())?,
        };
        let mut frozen = None;
        if job.what == What::Executed
            && reached.source == HashSource::ProcExe
            && expected.is_some()
            && self.executables_frozen
            && FsClass::of(reached.seen.identity.fs_magic) != FsClass::Overlay
            && let (Some(process), Some(start)) = (reached.process, job.place.process)
            && self.opener.runs(&process, start, &reached.seen)
        {
            frozen = Some(Frozen { process, start });
        }
        let mut identity = reached.seen.identity;
        if let (Some(expected), OnDevice::Yes) = (&expected, reached.device) {
            identity.device = expected.device;
            identity.generation = expected.generation;
        }
        let claim = Claim {
            what: job.what,
            expected,
            event_wall_ns: job.event_wall_ns,
            writers: if job.what == What::Created {
                job.writers
            } else {
                Writers::Gone
            },
            source: reached.source,
            seen: reached.seen,
            matched: reached.matched,
            device: reached.device,
            frozen,
            default_acl: reached.default_acl,
            identity,
        };
        Ok((claim, reached.file))
    }

    /// Takes an opened job in: answered from the cache, joined to another of the same content, or queued for reading.
    fn admit(
        &self,
        mut state: MutexGuard<'_, State>,
        ticket: Ticket,
        claim: Claim,
        file: OwnedFd,
        since: Instant,
    ) {
        if state.stopping {
            state.pinned = state.pinned.saturating_sub(1);
            drop(state);
            self.release(ticket, Released::Stopped);
            return;
        }
        let now_ns = self.wall_now_ns();
        let mut leads = None;
        let proven = claim.device == OnDevice::Yes;
        let key = ContentKey::of(&claim.identity).filter(|_| proven);
        let memory = FsClass::of(claim.identity.fs_magic) == FsClass::Memory;
        if let Some(key) = key {
            let found = if memory {
                self.find_watched(claim.what, &key, claim.event_wall_ns)
            } else {
                self.store().cache.find(&key)
            };
            if let Some(found) = found
                && claim.writers == Writers::Gone
            {
                state.pinned = state.pinned.saturating_sub(1);
                drop(state);
                drop(file);
                self.open_work.notify_one();
                add(&self.counters.hits_open, 1);
                let proof = Proof {
                    whole: true,
                    settled: true,
                    still_frozen: claim.frozen.is_some(),
                    quiet: true,
                    quiet_since_event: memory,
                    writers: Writers::Gone,
                };
                let result = HashResult {
                    digests: Some(found.digests),
                    facts: Some(found.facts),
                    cached: true,
                    ..judged(claim, &proof)
                };
                self.give(ticket, result);
                return;
            }
            if !memory && claim.what != What::Created {
                if let Some(followers) = state.in_flight.get_mut(&key) {
                    followers.push(Follower { ticket, claim });
                    state.pinned = state.pinned.saturating_sub(1);
                    drop(state);
                    add(&self.counters.merged, 1);
                    self.open_work.notify_one();
                    return;
                }
                state.in_flight.insert(key, Vec::new());
                leads = Some(key);
            }
        }
        let granule_ns = identity::granule_ns(&claim.identity);
        let wait_ns = claim
            .identity
            .ctime_ns
            .saturating_add(granule_ns)
            .saturating_sub(now_ns)
            .saturating_add(1);
        // Further in the future than a granule: the clock was put back, waiting proves nothing.
        let wait = if (0..=granule_ns).contains(&wait_ns) {
            Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(0))
        } else {
            Duration::ZERO
        };
        let rank = claim.what.rank();
        let serial = state.serial();
        let at = (Instant::now() + wait, serial);
        let pinned = Pinned {
            ticket,
            claim,
            file,
            key,
            leads,
            since,
        };
        if let Some(queue) = state.ready.get_mut(rank) {
            queue.insert(at, pinned);
        }
        drop(state);
        self.read_work.notify_one();
    }

    // ---- reading

    fn read_loop(self: &Arc<Self>) {
        // Refused only if someone made it nicer before: then it is as wished.
        let _refused = rustix::process::setpriority_process(None, self.config.nice);
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        let abandoned = Arc::new(AtomicBool::new(false));
        loop {
            let (serial, claim, file, key, deadline) = {
                let mut state = self.state();
                let pinned = loop {
                    if state.stopping {
                        return;
                    }
                    let now = Instant::now();
                    let ready = state.ready.iter_mut().find_map(|queue| {
                        let (at, _) = queue.first_key_value()?;
                        if at.0 > now {
                            return None;
                        }
                        queue.pop_first()
                    });
                    if let Some((_, pinned)) = ready {
                        break pinned;
                    }
                    let next = state
                        .ready
                        .iter()
                        .filter_map(|queue| queue.first_key_value().map(|(at, _)| at.0))
                        .min();
                    state = self.wait(&self.read_work, state, next);
                };
                let serial = state.serial();
                let deadline = Instant::now() + self.config.timeout;
                let busy = Busy {
                    ticket: pinned.ticket,
                    deadline: deadline + GRACE,
                    opening: false,
                    leads: pinned.leads,
                    abandoned: Arc::clone(&abandoned),
                };
                state.busy.insert(serial, busy);
                (serial, pinned.claim, pinned.file, pinned.key, deadline)
            };
            let outcome = self.read(&claim, &file, key, deadline, &mut buffer, &abandoned);
            drop(file);
            let mut state = self.state();
            let Some(busy) = state.busy.remove(&serial) else {
                return;
            };
            state.pinned = state.pinned.saturating_sub(1);
            let followers = busy
                .leads
                .and_then(|key| state.in_flight.remove(&key))
                .unwrap_or_default();
            drop(state);
            self.open_work.notify_one();
            for Follower { ticket, claim } in followers {
                self.finish(ticket, claim, &outcome);
            }
            self.finish(busy.ticket, claim, &outcome);
        }
    }

    fn read(
        &self,
        claim: &Claim,
        file: &OwnedFd,
        key: Option<ContentKey>,
        deadline: Instant,
        buffer: &mut [u8],
        abandoned: &AtomicBool,
    ) -> Outcome {
        let memory = FsClass::of(claim.identity.fs_magic) == FsClass::Memory;
        let mut guarded = None;
        if memory && let Some(key) = key {
            let mut store = self.store();
            if store.guard.is_none() {
                store.guard = Guard::new(self.config.watches);
            }
            if let Some(guard) = &mut store.guard
                && guard.watch(file.as_fd(), key)
            {
                guarded = Some((key, self.wall_now_ns()));
            }
        }
        let began_ns = self.wall_now_ns();
        let limits = Limits {
            algorithms: self.config.algorithms,
            file_bytes: self.config.file_bytes,
            deadline,
        };
        let stop = || abandoned.load(Ordering::Relaxed) || self.stopping.load(Ordering::Relaxed);
        let (content, before, whole, open) =
            match read::read(file.as_fd(), &claim.seen, &limits, buffer, stop) {
                Reading::Done {
                    content,
                    before,
                    whole,
                    file,
                } => (content, before, whole, file),
                Reading::TooLarge => return Outcome::Without(HashVerdict::TooLarge),
                Reading::Unreadable => return Outcome::Without(HashVerdict::Unreadable),
                Reading::Timeout => return Outcome::Without(HashVerdict::Timeout),
                Reading::Abandoned => return Outcome::Stopped,
            };
        add(&self.counters.read_files, 1);
        add(&self.counters.read_bytes, before.identity.size);
        let still_frozen = claim
            .frozen
            .as_ref()
            .is_some_and(|frozen| self.opener.runs(&frozen.process, frozen.start, &claim.seen));
        let writers = self.writers(claim, &open);
        let whole = whole && identity::unchanged(&claim.seen, &before);
        let settled = !identity::within_granule(&before.identity, began_ns);
        let quiet = writers == Writers::Gone
            && guarded.is_some_and(|(key, _)| {
                let mut store = self.store();
                store
                    .guard
                    .as_mut()
                    .is_some_and(|guard| guard.is_quiet(&key))
            });
        let proof = Proof {
            whole,
            settled,
            still_frozen,
            quiet,
            quiet_since_event: false,
            writers,
        };
        // Remembered under the identity that the open file had, if nothing could have changed unseen.
        if whole
            && settled
            && let Some(key) = key
        {
            let watched_wall_ns = match (memory, guarded) {
                (false, _) => Some(0),
                (true, Some((_, since))) if quiet => Some(since),
                (true, _) => None,
            };
            if let Some(watched_wall_ns) = watched_wall_ns
                && writers == Writers::Gone
            {
                let remembered = Remembered {
                    digests: content.digests,
                    facts: Arc::clone(&content.facts),
                    source: claim.source,
                    watched_wall_ns,
                };
                self.store().cache.insert(key, remembered);
            }
        }
        let mut identity = before.identity;
        identity.device = claim.identity.device;
        identity.generation = claim.identity.generation;
        if identity.generation == 0 {
            identity = identity::with_generation(identity, &open);
        }
        Outcome::Read {
            digests: content.digests,
            facts: content.facts,
            proof,
            identity,
        }
    }

    /// Whether a writer is left after reading: for created files, and where one could go on writing through a mapping
    /// that he has already written through, which moves no time until the page was written back.
    ///
    /// Programs, interpreters, scripts and modules need no asking on ordinary file systems: the kernel opened them such
    /// that a writer would have made that fail, and the first write of a later one moves `ctime`.
    fn writers(&self, claim: &Claim, file: &OwnedFd) -> Writers {
        let class = FsClass::of(claim.identity.fs_magic);
        let same = claim.matched == Some(Match::Same);
        let opened_by_kernel = claim.what != What::Created
            && class == FsClass::Plain
            && same
            && self.executables_frozen;
        if opened_by_kernel {
            return Writers::Gone;
        }
        if self.config.leases
            && let Ok(left) = sys::open_for_writing(file.as_fd())
        {
            return if left { Writers::Left } else { Writers::Gone };
        }
        match class {
            FsClass::Plain if claim.what == What::Created && same => claim.writers,
            // Its leases say little: the writer may hold the file underneath. What is remembered is looked up by the
            // times of the open file only.
            FsClass::Overlay if claim.what == What::Created => claim.writers,
            FsClass::Overlay => Writers::Gone,
            FsClass::Plain | FsClass::Memory | FsClass::Remote | FsClass::Kernel => {
                Writers::Unknown
            }
        }
    }

    fn finish(&self, ticket: Ticket, claim: Claim, outcome: &Outcome) {
        match outcome {
            Outcome::Without(verdict) => {
                let result = HashResult {
                    source: claim.source,
                    identity: Some(claim.identity),
                    default_acl: claim.default_acl,
                    ..empty(*verdict)
                };
                self.give(ticket, result);
            }
            Outcome::Stopped => self.release(ticket, Released::Stopped),
            Outcome::Read {
                digests,
                facts,
                proof,
                identity,
            } => {
                let result = HashResult {
                    digests: Some(*digests),
                    facts: Some(Arc::clone(facts)),
                    identity: Some(*identity),
                    ..judged(claim, proof)
                };
                self.give(ticket, result);
            }
        }
    }

    // ---- watching

    fn watch_loop(self: &Arc<Self>) {
        loop {
            let mut released = Vec::new();
            let mut late = Vec::new();
            let mut lost = Vec::new();
            {
                let mut state = self.state();
                if state.stopping {
                    return;
                }
                if state.is_idle() {
                    state.watching = false;
                    state = self.wait(&self.watch_work, state, None);
                } else {
                    let until = Instant::now() + WATCH_PERIOD;
                    state = self.wait(&self.watch_work, state, Some(until));
                }
                if state.stopping {
                    return;
                }
                let now = Instant::now();
                self.give_up(&mut state, now, &mut late, &mut lost);
                self.release_old(&mut state, now, &mut released);
            }
            for ticket in late {
                self.give(ticket, empty(HashVerdict::Timeout));
            }
            for ticket in released {
                self.release(ticket, Released::WaitedTooLong);
            }
            for opening in lost {
                // Without a thread in its place the pool goes on with fewer; jobs then end by waiting too long.
                let started = if opening {
                    self.spawn("hash-open", Self::open_loop)
                } else {
                    self.spawn("hash-read", Self::read_loop)
                };
                if let Err(error) = started {
                    tracing::warn!(%error, "hash thread not replaced");
                }
            }
        }
    }

    fn give_up(
        &self,
        state: &mut State,
        now: Instant,
        late: &mut Vec<Ticket>,
        lost: &mut Vec<bool>,
    ) {
        let overdue: Vec<u64> = state
            .busy
            .iter()
            .filter(|(_, busy)| busy.deadline < now)
            .map(|(serial, _)| *serial)
            .collect();
        for serial in overdue {
            let Some(busy) = state.busy.remove(&serial) else {
                continue;
            };
            busy.abandoned.store(true, Ordering::Relaxed);
            state.pinned = state.pinned.saturating_sub(1);
            add(&self.counters.stuck, 1);
            if let Some(followers) = busy.leads.and_then(|key| state.in_flight.remove(&key)) {
                late.extend(followers.into_iter().map(|follower| follower.ticket));
            }
            late.push(busy.ticket);
            if state.replaced < self.config.replacements {
                state.replaced = state.replaced.saturating_add(1);
                lost.push(busy.opening);
            }
        }
    }

    fn release_old(&self, state: &mut State, now: Instant, released: &mut Vec<Ticket>) {
        let limit = self.config.wait_limit;
        for queue in &mut state.waiting {
            while queue
                .front()
                .is_some_and(|waiting| now.duration_since(waiting.since) > limit)
            {
                released.extend(queue.pop_front().map(Waiting::ticket));
            }
        }
        let mut keys = Vec::new();
        for queue in &mut state.ready {
            let old = |pinned: &Pinned| now.duration_since(pinned.since) > limit;
            while queue
                .first_key_value()
                .is_some_and(|(_, pinned)| old(pinned))
            {
                if let Some((_, pinned)) = queue.pop_first() {
                    state.pinned = state.pinned.saturating_sub(1);
                    keys.extend(pinned.leads);
                    released.push(pinned.ticket);
                }
            }
        }
        for key in keys {
            let followers = state.in_flight.remove(&key).unwrap_or_default();
            released.extend(followers.into_iter().map(|follower| follower.ticket));
        }
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

/// How reading for a claim, and for those who follow it, ended.
#[derive(Debug)]
enum Outcome {
    Read {
        digests: Digests,
        facts: Arc<FileFacts>,
        proof: Proof,
        identity: FileIdentity,
    },
    Without(HashVerdict),
    Stopped,
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

const fn verdict_of(reason: Unreached) -> HashVerdict {
    match reason {
        Unreached::Gone => HashVerdict::Gone,
        Unreached::Unreadable => HashVerdict::Unreadable,
        Unreached::Refused => HashVerdict::RefusedFs,
        Unreached::Replaced => HashVerdict::Drifted,
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::Seen;
    use super::*;

    fn shared(config: HashConfig) -> (Arc<Shared>, mpsc::Receiver<HashResult>) {
        let clock = Arc::new(Clock::new().unwrap());
        let (pool, receiver) = HashPool::spawn(config, Proc::default(), clock).unwrap();
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
        // True on every kernel that the sensor is tested on, unless the test program lies on overlayfs.
        let magic = rustix::fs::statfs("/proc/self/exe").unwrap().f_type;
        if FsClass::of(u64::try_from(magic).unwrap()) == FsClass::Plain {
            assert!(executables_are_frozen(&Proc::default()));
        }
        assert!(!executables_are_frozen(&Proc::new("/nonexistent")));
    }
}
