//! When the last writer of a created file closed it, where no hook of the kernel tells (the syscall-exit backend).
//!
//! The file is opened with `O_PATH` as soon as its creation is known: from then on its name may change or go. A read lease
//! tells at once whether a writer is left; while one is, inotify says when some writer closes, and the lease is asked
//! again. Where leases cannot be had (not the owner and no CAP_LEASE, or the file system has none) the file must lie still
//! for a while, and the result says that nobody could tell.
//!
//! Refused: what is no regular file, and file systems that can hang. Bounded: requests, files watched, time per file, files
//! handed over and not fetched; every request that [`CloseWatch::submit`] accepts gives exactly one [`Closed`].

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use rustix::fs::FileType;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use sensor_common::record::FileIdentity;
use tokio::sync::mpsc::{self, OwnedPermit};

use super::file::descriptor_path;
use super::hash::{
    HashConfig, HashJob, Held, OpenFile, Opener, Place, Reached, RefusedFileSystems, Seen,
    Unreached, What, Writers, observe_again, open_for_reading, same_file,
};
use crate::kernel::sys;
use crate::procfs::Proc;

/// After a writer closed, and inotify said so, the kernel still counts him for a moment: ask again after 1, 2, 4, ... ms, this often.
const RECHECKS: u32 = 6;
/// How often a file is asked for that inotify watches: its word may have come just before the watch began.
const WATCHED_PERIOD: Duration = Duration::from_secs(10);
/// How often a file is asked for that inotify could not watch.
const UNWATCHED_PERIOD: Duration = Duration::from_millis(250);

/// Settings. Each default says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseConfig {
    /// Requests not looked at yet.
    pub waiting: usize,
    /// Files watched, each an open descriptor.
    pub watched: usize,
    /// Results that nobody has fetched yet, requests waiting included.
    pub outstanding: usize,
    /// Open files in results that are not hashed yet; further results come without.
    pub handed: usize,
    /// Longest that a file is watched: then it counts as kept open. A minute: downloads and builds end sooner.
    pub give_up_after: Duration,
    /// How long a file must lie still where no lease can be had.
    pub quiet: Duration,
    /// Whether leases are asked for.
    pub leases: bool,
    /// File systems that are not looked at.
    pub refused: RefusedFileSystems,
}

impl Default for CloseConfig {
    fn default() -> Self {
        Self {
            waiting: 16_384,
            watched: 256,
            outstanding: 32_768,
            handed: 128,
            give_up_after: Duration::from_secs(60),
            quiet: Duration::from_secs(1),
            leases: true,
            refused: RefusedFileSystems::default(),
        }
    }
}

impl CloseConfig {
    /// The settings that go with the pool's.
    #[must_use]
    pub fn with(hash: &HashConfig) -> Self {
        Self {
            leases: hash.leases,
            refused: hash.refused.clone(),
            ..Self::default()
        }
    }
}

/// A created file to watch.
#[derive(Clone, Debug)]
pub struct CloseRequest {
    /// Given back in the result.
    pub token: u64,
    /// The file as the kernel had it when it was created.
    pub identity: FileIdentity,
    /// Where to look for it.
    pub place: Place,
}

/// How it is known that a file was closed, or why it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseEnd {
    /// A lease was granted: no writer is left.
    Lease,
    /// A writer closed it, and it lay still since; whether another is left could not be asked.
    Notified,
    /// It lay still; whether a writer is left could not be asked.
    Quiet,
    /// A writer is left after [`CloseConfig::give_up_after`].
    StillOpen,
    /// Newer files needed its place.
    Displaced,
    /// Its name was gone before it could be opened.
    Gone,
    /// Its name was another file's before it could be opened.
    Replaced,
    /// It could not be opened, or is no regular file.
    Unreadable,
    /// It lies on a file system that can hang.
    RefusedFs,
    /// The watch was stopped.
    Stopped,
}

const ENDS: usize = 10;

impl CloseEnd {
    const fn index(self) -> usize {
        match self {
            Self::Lease => 0,
            Self::Notified => 1,
            Self::Quiet => 2,
            Self::StillOpen => 3,
            Self::Displaced => 4,
            Self::Gone => 5,
            Self::Replaced => 6,
            Self::Unreadable => 7,
            Self::RefusedFs => 8,
            Self::Stopped => 9,
        }
    }

    /// What a hash job is told of writers.
    #[must_use]
    pub const fn writers(self) -> Writers {
        match self {
            Self::Lease => Writers::Gone,
            Self::StillOpen => Writers::Left,
            Self::Notified
            | Self::Quiet
            | Self::Displaced
            | Self::Gone
            | Self::Replaced
            | Self::Unreadable
            | Self::RefusedFs
            | Self::Stopped => Writers::Unknown,
        }
    }
}

/// What became of a request.
#[derive(Debug)]
pub struct Closed {
    /// Of the request.
    pub token: u64,
    /// How it ended.
    pub end: CloseEnd,
    /// The file as it was then, device and generation as in the request. `None`: it was never open.
    pub identity: Option<FileIdentity>,
    /// The open file, for the hash pool.
    pub open: Option<OpenFile>,
}

impl Closed {
    /// The job for the hash pool. `None`: there is nothing to hash.
    #[must_use]
    pub fn into_job(self, place: Place, now_wall_ns: i64) -> Option<HashJob> {
        Some(HashJob {
            token: self.token,
            what: What::Created,
            identity: Some(self.identity?),
            event_wall_ns: now_wall_ns,
            place,
            writers: self.end.writers(),
            open: self.open,
        })
    }
}

/// What the watch has done and holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloseStats {
    /// Requests accepted.
    pub accepted: u64,
    /// Requests refused by [`CloseWatch::submit`].
    pub refused: u64,
    /// Results, in the order of [`CloseEnd`].
    pub ends: [u64; ENDS],
    /// Files that inotify could not watch (the user's limit), asked for by time instead.
    pub unwatched: u64,
    /// Times that inotify lost events; every file is asked for then.
    pub overflows: u64,
    /// Gauge: requests not looked at yet.
    pub waiting: usize,
    /// Gauge: files watched.
    pub watched: usize,
}

impl CloseStats {
    /// Results that ended so.
    #[must_use]
    pub fn ended(&self, end: CloseEnd) -> u64 {
        self.ends.get(end.index()).copied().unwrap_or(0)
    }
}

#[derive(Debug)]
struct Ticket {
    token: u64,
    permit: OwnedPermit<Closed>,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    ends: [AtomicU64; ENDS],
    unwatched: AtomicU64,
    overflows: AtomicU64,
    watched: AtomicUsize,
}

#[derive(Debug)]
struct Shared {
    config: CloseConfig,
    sender: mpsc::Sender<Closed>,
    waiting: Mutex<VecDeque<(CloseRequest, Ticket)>>,
    wake: EventFd,
    stopping: AtomicBool,
    counters: Counters,
}

/// The watch on created files: a handle, cheap to clone.
#[derive(Clone, Debug)]
pub struct CloseWatch {
    shared: Arc<Shared>,
}

impl CloseWatch {
    /// Starts the thread. The receiver gives one result for every request accepted.
    ///
    /// # Errors
    /// What making an eventfd, an inotify instance (`EMFILE`: the user's instances are used up) or a thread says.
    pub fn spawn(
        config: CloseConfig,
        proc: Proc,
        tick_ns: u64,
    ) -> std::io::Result<(Self, mpsc::Receiver<Closed>)> {
        if config.leases {
            sys::ignore_sigio()?;
        }
        let (sender, receiver) = mpsc::channel(config.outstanding.max(1));
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let opener = Opener::new(proc, tick_ns, config.refused.clone());
        let shared = Arc::new(Shared {
            config,
            sender,
            waiting: Mutex::default(),
            wake,
            stopping: AtomicBool::new(false),
            counters: Counters::default(),
        });
        let mut watcher = Watcher {
            shared: Arc::clone(&shared),
            opener,
            inotify,
            files: HashMap::new(),
            by_watch: HashMap::new(),
            timers: BTreeSet::new(),
            handed: Arc::default(),
            next: 0,
        };
        std::thread::Builder::new()
            .name("close-watch".to_owned())
            .stack_size(256 << 10)
            .spawn(move || watcher.run())?;
        Ok((Self { shared }, receiver))
    }

    /// Hands a request over.
    ///
    /// # Errors
    /// The request itself, if too many wait, or the watch is stopped.
    pub fn submit(&self, request: CloseRequest) -> Result<(), Box<CloseRequest>> {
        let shared = &self.shared;
        let refused = |request| {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            Err(Box::new(request))
        };
        let Ok(permit) = shared.sender.clone().try_reserve_owned() else {
            return refused(request);
        };
        let mut waiting = shared.waiting();
        if waiting.len() >= shared.config.waiting || shared.stopping.load(Ordering::Relaxed) {
            return refused(request);
        }
        let first = waiting.is_empty();
        let token = request.token;
        waiting.push_back((request, Ticket { token, permit }));
        drop(waiting);
        shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
        if first {
            shared.wake();
        }
        Ok(())
    }

    /// Ends the watch: what it holds is given back as [`CloseEnd::Stopped`].
    pub fn stop(&self) {
        // Under the lock: no request comes in after the thread has emptied the queue for the last time.
        let waiting = self.shared.waiting();
        self.shared.stopping.store(true, Ordering::Relaxed);
        drop(waiting);
        self.shared.wake();
    }

    /// What the watch has done and holds.
    #[must_use]
    pub fn stats(&self) -> CloseStats {
        let waiting = self.shared.waiting().len();
        let counters = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CloseStats {
            accepted: read(&counters.accepted),
            refused: read(&counters.refused),
            ends: counters.ends.each_ref().map(read),
            unwatched: read(&counters.unwatched),
            overflows: read(&counters.overflows),
            waiting,
            watched: counters.watched.load(Ordering::Relaxed),
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<(CloseRequest, Ticket)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Fails only when the count is full: then the thread is awake anyway.
        let _full = self.wake.write(1);
    }

    fn give(
        &self,
        ticket: Ticket,
        end: CloseEnd,
        identity: Option<FileIdentity>,
        open: Option<OpenFile>,
    ) {
        if let Some(counter) = self.counters.ends.get(end.index()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        ticket.permit.send(Closed {
            token: ticket.token,
            end,
            identity,
            open,
        });
    }
}

/// A file that is watched.
#[derive(Debug)]
struct Watched {
    ticket: Ticket,
    created: FileIdentity,
    reached: Reached,
    seen: Seen,
    /// Since when it has lain still.
    still_since: Instant,
    deadline: Instant,
    check_at: Instant,
    /// Checks after the last word of inotify.
    checks: u32,
    /// A writer has closed it.
    notified: bool,
    watch: Watch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Not,
    By(i32),
    Refused,
}

/// Whether a writer is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Gone,
    Left,
    Untold,
}

/// The thread's own state.
#[derive(Debug)]
struct Watcher {
    shared: Arc<Shared>,
    opener: Opener,
    inotify: OwnedFd,
    files: HashMap<u64, Watched>,
    by_watch: HashMap<i32, Vec<u64>>,
    timers: BTreeSet<(Instant, u64)>,
    handed: Arc<AtomicUsize>,
    next: u64,
}

impl Watcher {
    fn run(&mut self) {
        while !self.shared.stopping.load(Ordering::Relaxed) {
            self.wait();
            self.read_events();
            // A few at a time, so that a flood of new files does not keep the others waiting.
            for _ in 0..64 {
                let Some((request, ticket)) = self.shared.waiting().pop_front() else {
                    break;
                };
                self.begin(request, ticket);
            }
            let now = Instant::now();
            while let Some((at, number)) = self.timers.first().copied()
                && at <= now
            {
                self.timers.remove(&(at, number));
                self.check(number, now);
            }
            let watched = self.files.len();
            self.shared
                .counters
                .watched
                .store(watched, Ordering::Relaxed);
        }
        let waiting = std::mem::take(&mut *self.shared.waiting());
        for (_, ticket) in waiting {
            self.shared.give(ticket, CloseEnd::Stopped, None, None);
        }
        let files = std::mem::take(&mut self.files);
        for (_, file) in files {
            self.shared.give(file.ticket, CloseEnd::Stopped, None, None);
        }
        self.shared.counters.watched.store(0, Ordering::Relaxed);
    }

    fn wait(&self) {
        if !self.shared.waiting().is_empty() {
            return;
        }
        let timeout = match self.timers.first() {
            None => PollTimeout::NONE,
            Some((at, _)) => {
                // Rounded up: waking early would mean spinning.
                let time = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut descriptors = [
            PollFd::new(self.shared.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
        ];
        // An interruption is as good as a wake-up.
        let _interrupted = poll(&mut descriptors, timeout);
        let _empty = self.shared.wake.read();
    }

    /// Opens a new file and asks once: most are closed by then.
    fn begin(&mut self, request: CloseRequest, ticket: Ticket) {
        let identity = &request.identity;
        let kind = FileType::from_raw_mode(identity.mode);
        if identity.mode != 0 && kind != FileType::RegularFile {
            return self.shared.give(ticket, CloseEnd::Unreadable, None, None);
        }
        if identity.fs_magic != 0 && !self.opener.reads(identity.fs_magic) {
            return self.shared.give(ticket, CloseEnd::RefusedFs, None, None);
        }
        let expected = Some(identity).filter(|identity| identity.inode != 0);
        let reached = match self.opener.reach(What::Created, &request.place, expected) {
            Ok(reached) => reached,
            Err(reason) => {
                let end = match reason {
                    Unreached::Gone => CloseEnd::Gone,
                    Unreached::Unreadable => CloseEnd::Unreadable,
                    Unreached::Refused => CloseEnd::RefusedFs,
                    Unreached::Replaced => CloseEnd::Replaced,
                };
                return self.shared.give(ticket, end, None, None);
            }
        };
        // The inode number may be another file's by now.
        if let Ok(file) = open_for_reading(&reached.file)
            && !same_file(identity, &file)
        {
            return self.shared.give(ticket, CloseEnd::Replaced, None, None);
        }
        if self.files.len() >= self.shared.config.watched {
            // The oldest has the smallest number.
            if let Some(oldest) = self.files.keys().min().copied() {
                self.end(oldest, CloseEnd::Displaced);
            }
        }
        let now = Instant::now();
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let file = Watched {
            ticket,
            created: request.identity,
            seen: reached.seen,
            reached,
            still_since: now,
            deadline: now + self.shared.config.give_up_after,
            check_at: now,
            checks: 0,
            notified: false,
            watch: Watch::Not,
        };
        self.files.insert(number, file);
        self.check(number, now);
    }

    /// Asks whether a writer is left, and what follows.
    fn check(&mut self, number: u64, now: Instant) {
        let leases = self.shared.config.leases;
        let Some(file) = self.files.get_mut(&number) else {
            return;
        };
        let mut asked = ask(file, leases);
        if asked != Asked::Gone && file.watch == Watch::Not {
            let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MODIFY;
            let path = descriptor_path(&file.reached.file);
            match inotify::add_watch(&self.inotify, path, flags) {
                Ok(watch) => {
                    file.watch = Watch::By(watch);
                    self.by_watch.entry(watch).or_default().push(number);
                }
                Err(_) => {
                    file.watch = Watch::Refused;
                    let unwatched = &self.shared.counters.unwatched;
                    unwatched.fetch_add(1, Ordering::Relaxed);
                }
            }
            // He may have closed it before the watch began.
            asked = ask(file, leases);
        }
        if let Ok(seen) = observe_again(file.reached.file.as_fd(), &file.seen)
            && seen != file.seen
        {
            file.seen = seen;
            file.still_since = now;
        }
        let still = now.duration_since(file.still_since) >= self.shared.config.quiet;
        let end = match asked {
            Asked::Gone => Some(CloseEnd::Lease),
            Asked::Untold if still && file.notified => Some(CloseEnd::Notified),
            Asked::Untold if still => Some(CloseEnd::Quiet),
            Asked::Left | Asked::Untold if now >= file.deadline => Some(CloseEnd::StillOpen),
            Asked::Left | Asked::Untold => None,
        };
        if let Some(end) = end {
            return self.end(number, end);
        }
        let next = if asked == Asked::Untold {
            file.still_since + self.shared.config.quiet
        } else if file.checks < RECHECKS {
            let wait = Duration::from_millis(1 << file.checks);
            file.checks = file.checks.saturating_add(1);
            now + wait
        } else if file.watch == Watch::Refused {
            now + UNWATCHED_PERIOD
        } else {
            now + WATCHED_PERIOD
        };
        file.check_at = next.min(file.deadline).max(now);
        self.timers.insert((file.check_at, number));
    }

    fn read_events(&mut self) {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
        let mut closed = Vec::new();
        let mut changed = Vec::new();
        let mut overflow = false;
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        // Ends with EAGAIN.
        while let Ok(event) = reader.next() {
            let events = event.events();
            if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                overflow = true;
            } else if events.contains(ReadFlags::CLOSE_WRITE) {
                closed.push(event.wd());
            } else {
                changed.push(event.wd());
            }
        }
        let now = Instant::now();
        if overflow {
            let overflows = &self.shared.counters.overflows;
            overflows.fetch_add(1, Ordering::Relaxed);
            closed = self.by_watch.keys().copied().collect();
        }
        for watch in changed {
            for number in self.by_watch.get(&watch).into_iter().flatten() {
                if let Some(file) = self.files.get_mut(number) {
                    file.still_since = now;
                }
            }
        }
        for watch in closed {
            let numbers = self.by_watch.get(&watch).cloned().unwrap_or_default();
            for number in numbers {
                if let Some(file) = self.files.get_mut(&number) {
                    self.timers.remove(&(file.check_at, number));
                    file.notified = true;
                    file.still_since = now;
                    file.checks = 0;
                    self.check(number, now);
                }
            }
        }
    }

    fn end(&mut self, number: u64, end: CloseEnd) {
        let Some(file) = self.files.remove(&number) else {
            return;
        };
        self.timers.remove(&(file.check_at, number));
        if let Watch::By(watch) = file.watch
            && let Some(numbers) = self.by_watch.get_mut(&watch)
        {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_watch.remove(&watch);
                let _gone = inotify::remove_watch(&self.inotify, watch);
            }
        }
        let seen = observe_again(file.reached.file.as_fd(), &file.seen).unwrap_or(file.seen);
        let mut identity = seen.identity;
        if file.reached.on_device() {
            identity.device = file.created.device;
            identity.generation = file.created.generation;
        }
        let open = Held::new(&self.handed, self.shared.config.handed)
            .map(|held| OpenFile::new(file.reached, held));
        self.shared.give(file.ticket, end, Some(identity), open);
    }
}

fn ask(file: &Watched, leases: bool) -> Asked {
    if !leases {
        return Asked::Untold;
    }
    // Anew each time: a descriptor kept open for reading would stand in the way of others' leases.
    let Ok(open) = open_for_reading(&file.reached.file) else {
        return Asked::Untold;
    };
    match sys::open_for_writing(open.as_fd()) {
        Ok(false) => Asked::Gone,
        Ok(true) => Asked::Left,
        Err(_) => Asked::Untold,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};

    use sensor_proto::v1::HashVerdict;
    use tempfile::TempDir;
    use tokio::sync::mpsc::Receiver;

    use super::*;
    use crate::clock::Clock;
    use crate::enrich::hash::{HashPool, observe};

    const PATIENCE: Duration = Duration::from_secs(300);

    struct Fixture {
        folder: TempDir,
        watch: CloseWatch,
        closed: Receiver<Closed>,
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            self.watch.stop();
        }
    }

    impl Fixture {
        fn new(config: CloseConfig) -> Self {
            let (watch, closed) = CloseWatch::spawn(config, Proc::default(), 10_000_000).unwrap();
            Self {
                folder: tempfile::tempdir().unwrap(),
                watch,
                closed,
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        /// Creates a file and reports its creation as the kernel would: still empty.
        fn create(&self, name: &str, token: u64) -> (PathBuf, File) {
            let path = self.path(name);
            let file = File::create(&path).unwrap();
            self.watch.submit(request(token, &path, &file)).unwrap();
            (path, file)
        }

        fn next(&mut self) -> Closed {
            wait_for(|| self.closed.try_recv().ok())
        }

        fn none(&mut self) {
            assert!(self.closed.try_recv().is_err(), "a result too early");
        }
    }

    fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = condition() {
                return value;
            }
            assert!(Instant::now() < deadline, "waited too long");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn request(token: u64, path: &Path, file: &File) -> CloseRequest {
        CloseRequest {
            token,
            identity: observe(file.as_fd(), None).unwrap().identity,
            place: place(path),
        }
    }

    fn place(path: &Path) -> Place {
        Place {
            path: Some(path.as_os_str().as_bytes().to_vec()),
            ..Place::default()
        }
    }

    #[test]
    fn closed_at_once() {
        let mut fixture = Fixture::new(CloseConfig::default());
        let (path, mut file) = fixture.create("file", 1);
        file.write_all(b"content").unwrap();
        drop(file);
        let closed = fixture.next();
        assert_eq!((closed.token, closed.end), (1, CloseEnd::Lease));
        let identity = closed.identity.unwrap();
        assert_eq!(identity.size, 7);
        assert_eq!(
            identity,
            observe(File::open(&path).unwrap().as_fd(), None)
                .unwrap()
                .identity
        );
        assert!(closed.open.is_some());
        wait_for(|| (fixture.watch.stats().watched == 0).then_some(()));
    }

    /// From creation to a verified hash, with a writer who takes his time.
    #[test]
    fn kept_open_then_hashed() {
        let mut fixture = Fixture::new(CloseConfig::default());
        let (path, mut file) = fixture.create("file", 1);
        wait_for(|| (fixture.watch.stats().watched == 1).then_some(()));
        for _ in 0..100 {
            file.write_all(b"more").unwrap();
        }
        let second = OpenOptions::new().append(true).open(&path).unwrap();
        drop(file);
        // One of two writers is gone: not yet.
        wait_for(|| (fixture.watch.stats().watched == 1).then_some(()));
        fixture.none();
        drop(second);
        let closed = fixture.next();
        assert_eq!(closed.end, CloseEnd::Lease);
        assert_eq!(closed.identity.unwrap().size, 400);

        let clock = Arc::new(Clock::new().unwrap());
        let patient = HashConfig {
            timeout: PATIENCE,
            ..HashConfig::default()
        };
        let (pool, mut results) = HashPool::spawn(
            patient,
            Proc::default(),
            Arc::clone(&clock),
            crate::confine::Confinement::default(),
        )
        .unwrap();
        // The name is of no use to the pool: it has the file.
        fs::rename(&path, fixture.path("renamed")).unwrap();
        let identity = closed.identity;
        let now = clock.wall_now_ns().unwrap();
        let mut job = closed.into_job(place(&path), now).unwrap();
        // The rename moved ctime.
        let renamed = File::open(fixture.path("renamed")).unwrap();
        job.identity = Some(observe(renamed.as_fd(), None).unwrap().identity);
        pool.submit(job).unwrap();
        let result = wait_for(|| results.try_recv().ok());
        assert_eq!(result.verdict, HashVerdict::Verified);
        assert_eq!(result.identity.unwrap().inode, identity.unwrap().inode);
        pool.stop();
    }

    #[test]
    fn renamed_linked_and_deleted_while_open() {
        let mut fixture = Fixture::new(CloseConfig::default());
        let (first, renamed) = fixture.create("first", 1);
        let (second, linked) = fixture.create("second", 2);
        let (third, deleted) = fixture.create("third", 3);
        wait_for(|| (fixture.watch.stats().watched == 3).then_some(()));
        fs::rename(&first, fixture.path("elsewhere")).unwrap();
        fs::hard_link(&second, fixture.path("link")).unwrap();
        fs::remove_file(&third).unwrap();
        fixture.none();
        for (token, mut file) in [(3, deleted), (1, renamed), (2, linked)] {
            file.write_all(b"content").unwrap();
            drop(file);
            let closed = fixture.next();
            assert_eq!((closed.token, closed.end), (token, CloseEnd::Lease));
            let identity = closed.identity.unwrap();
            assert_eq!(identity.size, 7);
            let links = match token {
                3 => 0,
                2 => 2,
                _ => 1,
            };
            assert_eq!(identity.nlink, links);
        }
    }

    #[test]
    fn gone_or_replaced_before_it_was_opened() {
        let mut fixture = Fixture::new(CloseConfig::default());
        let path = fixture.path("file");
        let file = File::create(&path).unwrap();
        let gone = request(1, &path, &file);
        fs::remove_file(&path).unwrap();
        fixture.watch.submit(gone.clone()).unwrap();
        let closed = fixture.next();
        assert_eq!((closed.end, closed.identity), (CloseEnd::Gone, None));
        assert!(closed.into_job(Place::default(), 0).is_none());
        // Another file of the same name; `file` keeps its inode number from being used again.
        fs::write(&path, b"other").unwrap();
        fixture.watch.submit(gone.clone()).unwrap();
        assert_eq!(fixture.next().end, CloseEnd::Replaced);
        // Even if it had the same inode number, it was born later.
        let other = File::open(&path).unwrap();
        let now = observe(other.as_fd(), None).unwrap().identity;
        let before = FileIdentity {
            ctime_ns: now.ctime_ns - 50_000_000,
            ..now
        };
        let born = other.metadata().unwrap().created().is_ok();
        fixture
            .watch
            .submit(CloseRequest {
                identity: before,
                ..gone
            })
            .unwrap();
        let expected = if born {
            CloseEnd::Replaced
        } else {
            CloseEnd::Lease
        };
        assert_eq!(fixture.next().end, expected);
    }

    #[test]
    fn a_writer_who_stays_is_given_up() {
        let mut fixture = Fixture::new(CloseConfig {
            give_up_after: Duration::from_millis(200),
            ..CloseConfig::default()
        });
        let (path, file) = fixture.create("file", 1);
        let closed = fixture.next();
        assert_eq!(closed.end, CloseEnd::StillOpen);
        let job = closed.into_job(place(&path), 0).unwrap();
        assert_eq!(job.writers, Writers::Left);
        drop(file);
    }

    #[test]
    fn without_leases_a_file_must_lie_still() {
        let quiet = Duration::from_secs(2);
        let mut fixture = Fixture::new(CloseConfig {
            leases: false,
            quiet,
            ..CloseConfig::default()
        });
        let (_, mut file) = fixture.create("file", 1);
        let mut last = Instant::now();
        for _ in 0..10 {
            file.write_all(b"more").unwrap();
            last = Instant::now();
            let until = last + Duration::from_millis(50);
            wait_for(|| (Instant::now() >= until).then_some(()));
        }
        fixture.none();
        drop(file);
        let closed = fixture.next();
        assert!(last.elapsed() >= quiet);
        assert_eq!(closed.end, CloseEnd::Notified);
        assert_eq!(closed.end.writers(), Writers::Unknown);
        assert_eq!(closed.identity.unwrap().size, 40);
        // Closed before anyone looked: nothing tells.
        let (_, file) = fixture.create("second", 2);
        drop(file);
        let end = fixture.next().end;
        assert!(
            matches!(end, CloseEnd::Quiet | CloseEnd::Notified),
            "{end:?}"
        );
    }

    #[test]
    fn refusals() {
        let mut fixture = Fixture::new(CloseConfig::default());
        let path = fixture.path("file");
        let file = File::create(&path).unwrap();
        let base = request(1, &path, &file);
        let with = |mode, fs_magic| CloseRequest {
            identity: FileIdentity {
                mode,
                fs_magic,
                ..base.identity
            },
            ..base.clone()
        };
        let regular = base.identity.mode;
        fixture.watch.submit(with(regular, 0x6969)).unwrap();
        assert_eq!(fixture.next().end, CloseEnd::RefusedFs);
        let fifo = regular & 0o7777 | 0o010_000;
        fixture.watch.submit(with(fifo, 0xef53)).unwrap();
        assert_eq!(fixture.next().end, CloseEnd::Unreadable);
    }

    #[test]
    fn bounded() {
        let mut fixture = Fixture::new(CloseConfig {
            watched: 10,
            handed: 5,
            outstanding: 60,
            ..CloseConfig::default()
        });
        let files: Vec<(PathBuf, File)> = (0..50)
            .map(|token| fixture.create(&token.to_string(), token))
            .collect();
        // The ten youngest stay; the oldest of the others come back first.
        for token in 0..40 {
            let closed = fixture.next();
            assert_eq!((closed.token, closed.end), (token, CloseEnd::Displaced));
        }
        wait_for(|| (fixture.watch.stats().watched == 10).then_some(()));
        // Of what is closed and not fetched, only five files are held open.
        drop(files);
        let closed: Vec<Closed> = (0..10).map(|_| fixture.next()).collect();
        assert!(closed.iter().all(|closed| closed.end == CloseEnd::Lease));
        assert_eq!(
            closed.iter().filter(|closed| closed.open.is_some()).count(),
            5
        );
        let stats = fixture.watch.stats();
        assert_eq!((stats.accepted, stats.refused), (50, 0));
        assert_eq!(stats.ends.iter().sum::<u64>(), 50);
        let path = fixture.path("more");
        let file = File::create(&path).unwrap();
        let mut refused = 0;
        for token in 0..100 {
            let result = fixture.watch.submit(request(token, &path, &file));
            refused += u64::from(result.is_err());
        }
        // Nobody fetches: 60 results can be kept.
        assert_eq!(refused, 40);
        fixture.watch.stop();
        for _ in 0..60 {
            let end = fixture.next().end;
            assert!(
                matches!(end, CloseEnd::Stopped | CloseEnd::Displaced),
                "{end:?}"
            );
        }
        let again = request(0, &path, &file);
        fixture.watch.submit(again).unwrap_err();
    }

    #[test]
    fn a_flood() {
        let mut fixture = Fixture::new(CloseConfig::default());
        let path = |number: u64| fixture.folder.path().join(number.to_string());
        for number in 0..5_000 {
            let path = path(number);
            let mut file = File::create(&path).unwrap();
            let request = request(number, &path, &file);
            file.write_all(&number.to_le_bytes()).unwrap();
            drop(file);
            fixture.watch.submit(request).unwrap();
        }
        // Nearly in order: who started a process meanwhile held a descriptor for it until its exec.
        let mut tokens: Vec<u64> = (0..5_000)
            .map(|_| {
                let closed = fixture.next();
                assert_eq!(closed.end, CloseEnd::Lease);
                assert_eq!(closed.identity.unwrap().size, 8);
                closed.token
            })
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, (0..5_000).collect::<Vec<_>>());
        let stats = fixture.watch.stats();
        assert_eq!((stats.overflows, stats.unwatched), (0, 0));
    }
}
