//! Where events go. Each sink has a thread of its own behind a queue that is bounded in bytes; what the queue cannot take is
//! lost and counted, per event type and cause. Refuses to know what a line says: it gets whole lines and how many events of
//! which type they are.
//!
//! Of a batch that was begun, either all is written or it is taken back where the target allows that: a target that fails for
//! a while (disk full) resumes exactly where it stopped, so that no line is torn or doubled.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sensor_proto::v1::EventType;

use crate::confine::{Confinement, Role};
use crate::format::pretty::Row;
use crate::ledger::SinkAccount;

pub mod central_node;
pub mod connect;
pub mod delivery;
pub mod file;
pub mod jetstream;
pub mod kafka;
pub mod local;
pub mod messages;
pub mod otlp;
pub mod piped;
pub mod stdout;
pub mod synchronize;
pub mod view;

/// Cause of loss: the queue was full, since the target was slow or failing.
pub const OUTPUT_FULL: &str = "output_full";
/// Cause of loss: the target takes nothing any more.
pub const OUTPUT_CLOSED: &str = "output_closed";
/// Cause of loss: the sensor stopped before the target took it.
pub const OUTPUT_UNFINISHED: &str = "output_unfinished";

/// How long [`SinkHandle::send`] waits for room while the target is healthy. Long enough for a reader that is slower than a
/// burst, short enough for the queue before the sink, which holds a second of a burst.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a thread that was told to give up has for taking back what it began.
const LAST_MOMENT: Duration = Duration::from_millis(500);
/// First and longest pause between two attempts on a failing target.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(2);

/// Whole lines, or rows that become lines where they are shown, and how many events of each type they are.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Lines, each with its line end.
    pub lines: Vec<u8>,
    /// Rows, for a sink that takes these.
    pub rows: Vec<Row>,
    /// Memory of the rows.
    pub row_bytes: usize,
    /// Events in them, by type.
    pub counts: BTreeMap<EventType, u64>,
}

impl Batch {
    /// What it takes of the queue.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lines.len().saturating_add(self.row_bytes)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.rows.is_empty()
    }

    /// Adds a row.
    pub fn row(&mut self, row: Row) {
        self.row_bytes = self.row_bytes.saturating_add(row.bytes());
        self.rows.push(row);
    }

    /// Notes that a line was added which is an event of this type.
    pub fn count(&mut self, event_type: EventType) {
        *self.counts.entry(event_type).or_default() += 1;
    }
}

/// What a sink tells while it runs.
#[derive(Debug)]
pub enum Notice {
    /// Writing fails; it is tried again. Told once until it recovers.
    Failing(io::Error),
    /// Writing works again.
    Recovered {
        /// For how long it did not.
        after: Duration,
        /// Events lost meanwhile.
        lost: u64,
    },
    /// A file could not be set aside; it grows on. Told once until it works again.
    NotRotated(io::Error),
    /// The target takes nothing any more: the reader of standard output has gone.
    Closed(io::Error),
    /// Who watches the live view wants to leave.
    Left,
}

/// Who is told; called from the sink's thread.
pub type Listener = Box<dyn Fn(Notice) + Send>;

/// Wakes the thread that waits for this event descriptor.
fn ring(bell: &OwnedFd) {
    match rustix::io::write(bell, &1_u64.to_ne_bytes()) {
        // One that is full rings already. Threads that may not write are heard at its next look at the clock.
        Ok(_) | Err(_) => {}
    }
}

/// Something that bytes are written to.
pub(crate) trait Target: Send + 'static {
    /// Called between batches, before one of this length begins.
    fn begin(&mut self, length: usize, listener: &Listener) -> io::Result<()>;
    /// Writes some of the bytes and returns how many; 0 is an error.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Takes back the beginning of a batch whose end will never come, as far as possible.
    fn take_back(&mut self, written: usize);
    /// Whether this error will never pass.
    fn is_final(&self, error: &io::Error) -> bool;
}

/// A running sink.
#[derive(Debug)]
pub struct SinkHandle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something changed: a batch came or went, the end was asked for.
    changed: Condvar,
    capacity_bytes: usize,
    /// Rung with [`Self::changed`], for a thread that waits for descriptors; whether its rows are to be in ASCII.
    bell: Option<(Arc<OwnedFd>, bool)>,
}

/// Why a thread that takes rows gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoRows {
    /// There are none at the moment.
    Yet,
    /// No more come.
    Closing,
    /// All was given up.
    GivenUp,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Batch>,
    /// Length of the queue and of the batch that is being written.
    bytes: usize,
    /// A batch is being written.
    busy: bool,
    /// Events of that batch.
    in_flight: BTreeMap<EventType, u64>,
    accounts: BTreeMap<EventType, SinkAccount>,
    /// No more batches come.
    closing: bool,
    /// The thread writes nothing any more.
    ended: bool,
    /// What is not written is given up: by the closing side, or since the target is closed.
    given_up: Option<&'static str>,
    /// Writing fails, or waiting for room was in vain: do not wait again until something was written.
    unwell: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells every thread that something changed.
    fn tell(&self) {
        self.changed.notify_all();
        if let Some((bell, _)) = &self.bell {
            ring(bell);
        }
    }

    /// The rows of the next batch, which leaves the queue; their events are in flight.
    fn take(&self) -> Result<Vec<Row>, NoRows> {
        let mut state = self.lock();
        if state.given_up.is_some() {
            return Err(NoRows::GivenUp);
        }
        let Some(batch) = state.queue.pop_front() else {
            return Err(if state.closing {
                NoRows::Closing
            } else {
                NoRows::Yet
            });
        };
        for (event_type, count) in &batch.counts {
            *state.in_flight.entry(*event_type).or_default() += count;
        }
        state.busy = true;
        state.unwell = false;
        state.bytes = state.bytes.saturating_sub(batch.bytes());
        drop(state);
        self.changed.notify_all();
        Ok(batch.rows)
    }

    /// These events, which were in flight, are shown.
    fn acked(&self, counts: &BTreeMap<EventType, u64>) {
        let mut state = self.lock();
        if state.land(counts) {
            state.change(counts, |account, count| account.acked += count);
        }
    }

    /// These events, which were in flight, are lost.
    fn dropped(&self, counts: &BTreeMap<EventType, u64>, cause: &str) {
        let mut state = self.lock();
        if state.land(counts) {
            state.lose(counts, cause);
        }
    }

    /// Nothing is in flight.
    fn idle(&self) {
        let mut state = self.lock();
        if state.busy {
            state.busy = false;
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The thread writes nothing any more.
    fn ended(&self) {
        let mut state = self.lock();
        state.busy = false;
        state.ended = true;
        drop(state);
        self.changed.notify_all();
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>, time: Duration) -> MutexGuard<'s, State> {
        self.changed
            .wait_timeout(state, time)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}

impl State {
    fn lose(&mut self, counts: &BTreeMap<EventType, u64>, cause: &str) {
        for (event_type, count) in counts {
            let account = self.accounts.entry(*event_type).or_default();
            *account.lost.entry(cause.to_owned()).or_default() += count;
        }
    }

    fn change(
        &mut self,
        counts: &BTreeMap<EventType, u64>,
        change: impl Fn(&mut SinkAccount, u64),
    ) {
        for (event_type, count) in counts {
            change(self.accounts.entry(*event_type).or_default(), *count);
        }
    }

    fn leave(&mut self, counts: &BTreeMap<EventType, u64>) {
        self.change(counts, |account, count| {
            account.waiting = account.waiting.saturating_sub(count);
        });
    }

    /// Takes these out of what is in flight. False: they were told as lost already.
    fn land(&mut self, counts: &BTreeMap<EventType, u64>) -> bool {
        if self.given_up.is_some() {
            return false;
        }
        for (event_type, count) in counts {
            let flying = self.in_flight.entry(*event_type).or_default();
            *flying = flying.saturating_sub(*count);
        }
        self.leave(counts);
        true
    }

    fn lost(&self) -> u64 {
        self.accounts
            .values()
            .flat_map(|account| account.lost.values())
            .sum()
    }

    /// Gives up all that waits, the batch that is being written included.
    fn give_up(&mut self, cause: &'static str) {
        self.given_up = Some(cause);
        let waiting = std::mem::take(&mut self.queue)
            .into_iter()
            .map(|batch| batch.counts);
        let in_flight = std::mem::take(&mut self.in_flight);
        for counts in waiting
            .chain(std::iter::once(in_flight))
            .collect::<Vec<_>>()
        {
            self.leave(&counts);
            self.lose(&counts, cause);
        }
        self.bytes = 0;
    }
}

impl SinkHandle {
    /// Starts a thread of this name that writes to the target.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn spawn(
        name: &str,
        mut target: impl Target,
        capacity_bytes: usize,
        listener: Listener,
        confinement: &Confinement,
    ) -> io::Result<Self> {
        let confinement = confinement.clone();
        Self::with(name, capacity_bytes, None, move |shared| {
            confinement.enter(Role::Output);
            Worker { shared, listener }.run(&mut target);
        })
    }

    /// Starts a thread of this name that takes rows, in ASCII if that is said, and is told by a bell that there are some.
    ///
    /// # Errors
    /// When the thread cannot be started.
    fn spawn_rows(
        name: &str,
        capacity_bytes: usize,
        bell: (Arc<OwnedFd>, bool),
        work: impl FnOnce(&Shared) + Send + 'static,
    ) -> io::Result<Self> {
        Self::with(name, capacity_bytes, Some(bell), work)
    }

    fn with(
        name: &str,
        capacity_bytes: usize,
        bell: Option<(Arc<OwnedFd>, bool)>,
        work: impl FnOnce(&Shared) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            capacity_bytes,
            bell,
        });
        let seen = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || work(&seen))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Whether it takes rows instead of lines, and if so, whether in ASCII.
    #[must_use]
    pub fn rows(&self) -> Option<bool> {
        self.shared.bell.as_ref().map(|(_, ascii)| *ascii)
    }

    /// Hands over a batch. Waits half a second at most, and only while the target is well; what finds no room then is
    /// lost and counted.
    pub fn send(&self, batch: Batch) {
        if batch.counts.is_empty() && batch.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        state.change(&batch.counts, |account, count| account.sealed += count);
        let length = batch.bytes();
        let until = Instant::now() + PATIENCE;
        // An empty queue takes a batch of any length, else one longer than the queue could never be sent.
        let fits =
            |state: &State| state.bytes == 0 || state.bytes + length <= self.shared.capacity_bytes;
        while !fits(&state) && !state.unwell && state.given_up.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.unwell = true;
                break;
            }
            state = self.shared.wait(state, left);
        }
        if let Some(cause) = state.given_up {
            state.lose(&batch.counts, cause);
        } else if fits(&state) {
            state.change(&batch.counts, |account, count| account.waiting += count);
            state.bytes += length;
            state.queue.push_back(batch);
            drop(state);
            self.shared.tell();
        } else {
            state.lose(&batch.counts, OUTPUT_FULL);
        }
    }

    /// The account per event type.
    pub fn accounts(&self) -> BTreeMap<EventType, SinkAccount> {
        self.shared.lock().accounts.clone()
    }

    /// The account of all types together.
    pub fn account(&self) -> SinkAccount {
        total(self.shared.lock().accounts.values())
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.lock().bytes
    }

    /// Writes what waits, for at most this time; what is left then is lost and counted. Returns the final account per type.
    pub fn close_and_join(mut self, time: Duration) -> BTreeMap<EventType, SinkAccount> {
        let until = Instant::now() + time;
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.tell();
        while state.busy || !state.queue.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.give_up(OUTPUT_UNFINISHED);
                self.shared.tell();
                break;
            }
            state = self.shared.wait(state, left);
        }
        // A thread that sits in a write that nobody reads would never end; it can count nothing any more.
        let until = Instant::now() + LAST_MOMENT;
        while !state.ended && Instant::now() < until {
            state = self
                .shared
                .wait(state, until.saturating_duration_since(Instant::now()));
        }
        let accounts = state.accounts.clone();
        let ended = state.ended;
        drop(state);
        if let Some(thread) = self.thread.take().filter(|_| ended)
            && thread.join().is_err()
        {
            tracing::error!("sink thread panicked");
        }
        accounts
    }
}

/// Sums accounts of several event types.
pub fn total<'a, I: IntoIterator<Item = &'a SinkAccount>>(accounts: I) -> SinkAccount {
    let mut sum = SinkAccount::default();
    for account in accounts {
        sum.sealed += account.sealed;
        sum.acked += account.acked;
        sum.waiting += account.waiting;
        for (cause, count) in &account.lost {
            *sum.lost.entry(cause.clone()).or_default() += count;
        }
    }
    sum
}

struct Worker<'w> {
    shared: &'w Shared,
    listener: Listener,
}

/// Since when writing fails, and how much was lost until then.
struct Failure {
    began: Instant,
    lost_before: u64,
    pause: Duration,
}

impl Worker<'_> {
    fn run(&self, target: &mut impl Target) {
        let mut failure = None;
        while let Some(batch) = self.next() {
            if !self.write(target, &batch, &mut failure) {
                break;
            }
        }
        self.shared.ended();
    }

    /// The next batch; none when no more come, or all was given up.
    fn next(&self) -> Option<Batch> {
        let mut state = self.shared.lock();
        loop {
            if state.given_up.is_some() {
                return None;
            }
            if let Some(batch) = state.queue.pop_front() {
                state.in_flight.clone_from(&batch.counts);
                state.busy = true;
                return Some(batch);
            }
            if state.closing {
                return None;
            }
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes a batch whole, however long that takes. False: nothing is written any more.
    fn write(
        &self,
        target: &mut impl Target,
        batch: &Batch,
        failure: &mut Option<Failure>,
    ) -> bool {
        let mut written = 0;
        let mut begun = false;
        loop {
            let rest = batch.lines.get(written..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let attempt = if begun {
                Ok(())
            } else {
                target.begin(rest.len(), &self.listener)
            };
            begun = attempt.is_ok();
            match attempt.and_then(|()| target.write(rest)) {
                Ok(0) => self.failed(&io::Error::from(io::ErrorKind::WriteZero), failure),
                Ok(count) => {
                    written += count;
                    self.recovered(failure);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if target.is_final(&error) => {
                    self.shared.lock().give_up(OUTPUT_CLOSED);
                    self.shared.changed.notify_all();
                    (self.listener)(Notice::Closed(error));
                    return false;
                }
                Err(error) => self.failed(&error, failure),
            }
            if failure.is_some() && !self.pause(failure) {
                target.take_back(written);
                return false;
            }
        }
        let mut state = self.shared.lock();
        if state.given_up.is_some() {
            // Written after all, but already told as lost: lost is what may be missing.
            return false;
        }
        let counts = std::mem::take(&mut state.in_flight);
        state.leave(&counts);
        state.change(&counts, |account, count| account.acked += count);
        state.bytes = state.bytes.saturating_sub(batch.lines.len());
        state.unwell = false;
        state.busy = false;
        drop(state);
        self.shared.changed.notify_all();
        true
    }

    fn failed(&self, error: &io::Error, failure: &mut Option<Failure>) {
        let mut state = self.shared.lock();
        state.unwell = true;
        let lost_before = state.lost();
        drop(state);
        self.shared.changed.notify_all();
        if failure.is_none() {
            *failure = Some(Failure {
                began: Instant::now(),
                lost_before,
                pause: RETRY_FIRST,
            });
            let told = match error.raw_os_error() {
                Some(number) => io::Error::from_raw_os_error(number),
                None => io::Error::from(error.kind()),
            };
            (self.listener)(Notice::Failing(told));
        }
    }

    fn recovered(&self, failure: &mut Option<Failure>) {
        if let Some(failure) = failure.take() {
            let mut state = self.shared.lock();
            state.unwell = false;
            let lost = state.lost().saturating_sub(failure.lost_before);
            drop(state);
            (self.listener)(Notice::Recovered {
                after: failure.began.elapsed(),
                lost,
            });
        }
    }

    /// Waits before the next attempt. False: there will be none.
    fn pause(&self, failure: &mut Option<Failure>) -> bool {
        let time = failure.as_mut().map_or(RETRY_FIRST, |failure| {
            let time = failure.pause;
            failure.pause = (time * 2).min(RETRY_LONGEST);
            time
        });
        let until = Instant::now() + time;
        let mut state = self.shared.lock();
        loop {
            if state.given_up.is_some() {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.shared.wait(state, left);
        }
    }
}

#[cfg(test)]
mod tests;
