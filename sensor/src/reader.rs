//! Takes samples out of the rings, or out of a recording, and passes them on in batches. It waits for nothing else.
//!
//! One thread drains the process lane to its end before each bounded bite of the other lanes. A sample is copied once,
//! into the arena of a [`Batch`]; batches go through a bounded queue, and when that is full they are dropped and
//! counted: the rings go on being emptied. A share of the queue is kept for the process lane. While a part of the
//! queue waits, only full batches join it: it is room for records, not for looks at the rings.
//!
//! While records come, the reader polls by timer and tells the programs that it needs no wake-up. After a quiet spell it
//! takes that back, looks once more, and sleeps until a program wakes it. A wake-up that falls between is bounded by a
//! timeout.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use sensor_common::counter::KIND_SLOTS;
use sensor_common::record::{Header, Lane, RecordKind};
use zerocopy::FromBytes as _;

use crate::confine::{Confinement, Role};
use crate::loader::{ReaderAwake, Ring, TableError};
use crate::recording::{Footer, Recording, RecordingError};

mod batch;

pub use batch::{Batch, BatchReceiver, BatchSender, queue};

/// Records taken from a bulk lane before the process lane is looked at again.
const BITE: usize = 256;
/// Records taken from the process lane before the bulk lanes are looked at.
const PROCESS_BITE: usize = 16 * 1024;
/// Rounds through all lanes before the stop signal is looked at.
const ROUNDS: usize = 64;
/// Times the rings are drained at the end, while something is left.
const LAST_LOOKS: usize = 64;
/// Time between two looks at the rings while records come. The process lane is looked at each time.
const TICK: Duration = Duration::from_millis(5);
/// Bulk lanes are looked at every so many ticks.
const BULK_TICKS: u32 = 3;
/// Quiet time after which the reader sleeps.
const QUIET: Duration = Duration::from_millis(100);
/// Longest sleep: what a lost wake-up costs at most.
const SLEEP: Duration = Duration::from_millis(250);
/// CPUs whose sequences are followed; records of others count as received only.
const CPUS_MAX: usize = 8192;
/// Token of the stop signal among the lanes' numbers.
const STOP_TOKEN: u64 = u64::MAX;

/// What the reader counts. Read at any time by anyone.
#[derive(Debug, Default)]
pub struct ReaderCounters {
    received: Kinds,
    queue_full: Kinds,
    missing: [AtomicU64; Lane::COUNT],
    wakeups: AtomicU64,
    sleeps: AtomicU64,
}

/// A counter per kind of record, the last one for samples of no known kind.
#[derive(Debug)]
struct Kinds([AtomicU64; KIND_SLOTS as usize + 1]);

impl Default for Kinds {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; KIND_SLOTS as usize + 1])
    }
}

impl Kinds {
    fn slot(&self, kind: Option<RecordKind>) -> Option<&AtomicU64> {
        match kind {
            Some(kind) => self.0.get(usize::try_from(kind.slot()).ok()?),
            None => self.0.last(),
        }
    }

    fn add(&self, kind: Option<RecordKind>) {
        if let Some(slot) = self.slot(kind) {
            slot.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn value(&self, kind: Option<RecordKind>) -> u64 {
        self.slot(kind)
            .map_or(0, |slot| slot.load(Ordering::Relaxed))
    }
}

impl ReaderCounters {
    /// Samples taken out of the rings; `None`: of no known kind.
    #[must_use]
    pub fn received(&self, kind: Option<RecordKind>) -> u64 {
        self.received.value(kind)
    }

    /// Of those, samples dropped because the queue was full.
    #[must_use]
    pub fn queue_full(&self, kind: Option<RecordKind>) -> u64 {
        self.queue_full.value(kind)
    }

    /// Sequence numbers of a lane that were passed over so far: lost in the kernel, or not yet read.
    #[must_use]
    pub fn missing(&self, lane: Lane) -> u64 {
        self.missing
            .get(lane as usize)
            .map_or(0, |missing| missing.load(Ordering::Relaxed))
    }

    /// How often the reader looked at the rings.
    #[must_use]
    pub fn wakeups(&self) -> u64 {
        self.wakeups.load(Ordering::Relaxed)
    }

    /// How often it found so little that it went to sleep.
    #[must_use]
    pub fn sleeps(&self) -> u64 {
        self.sleeps.load(Ordering::Relaxed)
    }
}

/// Where samples come from.
pub enum Source {
    /// The kernel.
    Rings {
        /// In the order of [`Lane::ALL`].
        rings: Box<[Ring; Lane::COUNT]>,
        /// Tells the programs whether the reader polls.
        awake: ReaderAwake,
        /// Samples that were taken out before, by the self-test; they go first.
        before: Batch,
    },
    /// A recording, as fast as it is taken: nothing is dropped.
    Recording(Box<Recording<BufReader<File>>>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rings { .. } => f.write_str("Rings"),
            Self::Recording(_) => f.write_str("Recording"),
        }
    }
}

/// Sees every sample before it is queued: the recorder.
pub type Tee = Box<dyn FnMut(&[u8]) + Send>;
/// Called after a batch was queued, and once at the end.
pub type Notify = Box<dyn Fn() + Send>;

/// Why the reader ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// epoll(7) or eventfd(2) failed.
    #[error("the reader cannot wait for its rings")]
    Wait(#[source] io::Error),
    /// The programs could not be told.
    #[error("the programs cannot be told that the reader sleeps")]
    Awake(#[from] TableError),
    /// The recording is damaged.
    #[error("the recording ends early")]
    Recording(#[from] RecordingError),
    /// The thread could not be started.
    #[error("the reader's thread cannot be started")]
    Thread(#[source] io::Error),
    /// The thread is gone without an answer.
    #[error("the reader's thread panicked")]
    Panicked,
}

/// The reader's thread.
#[derive(Debug)]
pub struct Reader {
    thread: JoinHandle<Result<Option<Footer>, ReaderError>>,
    stop: Arc<Stop>,
}

#[derive(Debug)]
struct Stop {
    asked: AtomicBool,
    event: EventFd,
}

impl Reader {
    /// Starts the thread `reader`.
    ///
    /// # Errors
    /// [`ReaderError::Wait`] or [`ReaderError::Thread`].
    pub fn spawn(
        source: Source,
        sender: BatchSender,
        counters: Arc<ReaderCounters>,
        tee: Option<Tee>,
        notify: Notify,
        confinement: &Confinement,
    ) -> Result<Self, ReaderError> {
        let confinement = confinement.clone();
        let wait = |errno: nix::errno::Errno| ReaderError::Wait(errno.into());
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = Arc::new(Stop {
            asked: AtomicBool::new(false),
            event: EventFd::from_value_and_flags(0, flags).map_err(wait)?,
        });
        let intake = Intake::new(sender, counters, tee, notify);
        let asked = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || {
                confinement.enter(Role::Reader);
                match source {
                    Source::Rings {
                        rings,
                        awake,
                        before,
                    } => Polling::new(*rings, awake, intake, asked)?
                        .run(&before)
                        .map(|()| None),
                    Source::Recording(recording) => replay(*recording, intake, &asked),
                }
            })
            .map_err(ReaderError::Thread)?;
        Ok(Self { thread, stop })
    }

    /// Whether the thread has ended: at the end of a recording, or for an error.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Asks the thread to take out what is still there, and to end.
    pub fn stop(&self) {
        self.stop.asked.store(true, Ordering::Release);
        if let Err(errno) = self.stop.event.write(1) {
            // The thread then notices at the end of its sleep.
            tracing::debug!(%errno, "the reader was not woken");
        }
    }

    /// Waits until the thread has ended; without [`Reader::stop`] that is the end of the recording. Gives the account at
    /// the end of a recording that was read to there.
    ///
    /// # Errors
    /// Why it ended early.
    pub fn join(self) -> Result<Option<Footer>, ReaderError> {
        self.thread.join().map_err(|_panic| ReaderError::Panicked)?
    }
}

fn replay(
    mut recording: Recording<BufReader<File>>,
    mut intake: Intake,
    stop: &Stop,
) -> Result<Option<Footer>, ReaderError> {
    let mut sample = Vec::new();
    let result = loop {
        if stop.asked.load(Ordering::Acquire) {
            break Ok(());
        }
        match recording.next_record(&mut sample) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(error.into()),
        }
        let bulk = intake.take(&sample);
        if intake.batch(bulk).full() && !intake.put(bulk) {
            break Ok(());
        }
    };
    for bulk in [false, true] {
        if !intake.put(bulk) {
            break;
        }
    }
    result.map(|()| recording.footer().cloned())
}

/// Counts, copies and passes on.
struct Intake {
    sender: BatchSender,
    counters: Arc<ReaderCounters>,
    tee: Option<Tee>,
    notify: Notify,
    process: Batch,
    bulk: Batch,
    sequences: Sequences,
    /// It waits for room instead of dropping: nothing new is owed to the rings.
    ending: bool,
}

impl Intake {
    fn new(
        sender: BatchSender,
        counters: Arc<ReaderCounters>,
        tee: Option<Tee>,
        notify: Notify,
    ) -> Self {
        Self {
            sender,
            counters,
            tee,
            notify,
            process: Batch::default(),
            bulk: Batch::default(),
            sequences: Sequences::default(),
            ending: false,
        }
    }

    fn batch(&mut self, bulk: bool) -> &mut Batch {
        if bulk {
            &mut self.bulk
        } else {
            &mut self.process
        }
    }

    /// Copies one sample; whether it went to the bulk batch.
    fn take(&mut self, sample: &[u8]) -> bool {
        if let Some(tee) = &mut self.tee {
            tee(sample);
        }
        let header = header_of(sample);
        let kind = header.and_then(|header| RecordKind::from_number(header.kind));
        self.counters.received.add(kind);
        let lane = kind.map_or(Lane::Control, RecordKind::lane);
        if let (Some(header), Some(_)) = (header, kind) {
            let missing = self.sequences.follow(lane, header.cpu, header.sequence);
            if let Some(slot) = self.counters.missing.get(lane as usize) {
                slot.store(missing, Ordering::Relaxed);
            }
        }
        let bulk = lane != Lane::Process;
        self.batch(bulk).push(sample);
        bulk
    }

    /// Passes a batch on if it holds anything, or keeps it for more if others wait already; drops it if it is full and the
    /// queue is too.
    fn flush(&mut self, bulk: bool) {
        if self.ending {
            self.put(bulk);
            return;
        }
        let crowded = self.sender.crowded(bulk);
        let batch = self.batch(bulk);
        if batch.is_empty() || (crowded && !batch.full()) {
            return;
        }
        let fresh = self.sender.fresh();
        let batch = std::mem::replace(self.batch(bulk), fresh);
        match self.sender.offer(batch, bulk) {
            Ok(()) => (self.notify)(),
            Err(mut dropped) => {
                for sample in dropped.iter() {
                    self.counters.queue_full.add(kind_of(sample));
                }
                dropped.clear();
                *self.batch(bulk) = dropped;
            }
        }
    }

    /// Passes a batch on and waits for room; false when nobody reads any more.
    fn put(&mut self, bulk: bool) -> bool {
        if self.batch(bulk).is_empty() {
            return true;
        }
        let fresh = self.sender.fresh();
        let batch = std::mem::replace(self.batch(bulk), fresh);
        let read = self.sender.put(batch);
        (self.notify)();
        read
    }
}

impl Drop for Intake {
    /// The other end sees a closed queue when it looks: wake it, after the queue is closed.
    fn drop(&mut self) {
        let (closed, _) = queue(2);
        self.sender = closed;
        (self.notify)();
    }
}

/// The header of a sample; `None`: it is too short for one.
#[must_use]
pub fn header_of(sample: &[u8]) -> Option<Header> {
    Header::read_from_prefix(sample)
        .ok()
        .map(|(header, _)| header)
}

fn kind_of(sample: &[u8]) -> Option<RecordKind> {
    RecordKind::from_number(header_of(sample)?.kind)
}

/// Follows the running numbers of each CPU and lane. They start at 1, and neighbours may change places in the ring.
#[derive(Default)]
struct Sequences {
    /// Highest number by CPU and lane.
    highest: Vec<[u64; Lane::COUNT]>,
    /// By lane: sum of the highest numbers, and records seen.
    lanes: [(u64, u64); Lane::COUNT],
}

impl Sequences {
    /// Numbers of this lane that were passed over so far.
    fn follow(&mut self, lane: Lane, cpu: u16, sequence: u64) -> u64 {
        let cpu = usize::from(cpu);
        let Some((sum, seen)) = self.lanes.get_mut(lane as usize) else {
            return 0;
        };
        if cpu < CPUS_MAX {
            if self.highest.len() <= cpu {
                self.highest.resize(cpu.saturating_add(1), [0; Lane::COUNT]);
            }
            let slot = self
                .highest
                .get_mut(cpu)
                .and_then(|lanes| lanes.get_mut(lane as usize));
            if let Some(highest) = slot {
                *seen = seen.saturating_add(1);
                if sequence > *highest {
                    *sum = sum.saturating_add(sequence.saturating_sub(*highest));
                    *highest = sequence;
                }
            }
        }
        sum.saturating_sub(*seen)
    }
}

/// The rings and how the reader waits for them.
struct Polling {
    rings: [Ring; Lane::COUNT],
    awake: ReaderAwake,
    intake: Intake,
    epoll: Epoll,
    stop: Arc<Stop>,
}

impl Polling {
    fn new(
        rings: [Ring; Lane::COUNT],
        awake: ReaderAwake,
        intake: Intake,
        stop: Arc<Stop>,
    ) -> Result<Self, ReaderError> {
        let wait = |errno: nix::errno::Errno| ReaderError::Wait(errno.into());
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(wait)?;
        for ring in &rings {
            // Edges only: a ring that holds something and is left for the next tick must not end the wait.
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
            let event = EpollEvent::new(flags, u64::from(ring.lane() as u32));
            epoll.add(ring, event).map_err(wait)?;
        }
        let event = EpollEvent::new(EpollFlags::EPOLLIN, STOP_TOKEN);
        epoll.add(&stop.event, event).map_err(wait)?;
        Ok(Self {
            rings,
            awake,
            intake,
            epoll,
            stop,
        })
    }

    fn run(mut self, before: &Batch) -> Result<(), ReaderError> {
        for sample in before.iter() {
            let bulk = self.intake.take(sample);
            if self.intake.batch(bulk).full() {
                self.intake.flush(bulk);
            }
        }
        let mut polling = false;
        let mut last_record = Instant::now();
        let mut ticks = 0_u32;
        let mut bulk_due = true;
        loop {
            self.intake.counters.wakeups.fetch_add(1, Ordering::Relaxed);
            let stop = self.stop.asked.load(Ordering::Acquire);
            self.intake.ending |= stop;
            let (taken, left) = self.drain(bulk_due || stop);
            if stop {
                // One look after the last record is enough where the programs are detached; where they are not, the
                // bound ends it.
                let looks = (0..LAST_LOOKS).take_while(|_look| self.drain(true).1);
                tracing::debug!(looks = looks.count(), "the rings are empty");
                return Ok(());
            }
            if taken > 0 {
                last_record = Instant::now();
                if !polling {
                    self.tell(true)?;
                    polling = true;
                }
            } else if polling && last_record.elapsed() >= QUIET {
                self.tell(false)?;
                polling = false;
                self.intake.counters.sleeps.fetch_add(1, Ordering::Relaxed);
                // What came while the programs still thought that we poll.
                bulk_due = true;
                continue;
            }
            if left {
                continue;
            }
            let woken = self.wait(if polling { TICK } else { SLEEP })?;
            ticks = ticks.wrapping_add(1);
            bulk_due = !polling || woken || ticks.is_multiple_of(BULK_TICKS);
        }
    }

    /// Says to the programs of all lanes whether the reader polls.
    fn tell(&mut self, polls: bool) -> Result<(), TableError> {
        Lane::ALL
            .into_iter()
            .try_for_each(|lane| self.awake.set(lane, polls))
    }

    /// Waits for an edge or the time; whether there was an edge.
    fn wait(&self, timeout: Duration) -> Result<bool, ReaderError> {
        let timeout = EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::ZERO);
        let mut events = [EpollEvent::empty(); Lane::COUNT + 1];
        match self.epoll.wait(&mut events, timeout) {
            Ok(count) => Ok(count > 0),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(errno) => Err(ReaderError::Wait(errno.into())),
        }
    }

    /// Takes what is there: the process lane first, and before each bite of another lane again. Bounded, so that a flood
    /// cannot keep the reader from its stop signal; says how much it took and whether something is left.
    fn drain(&mut self, bulk: bool) -> (usize, bool) {
        let [process, others @ ..] = &mut self.rings;
        let mut taken = 0_usize;
        let mut left = true;
        for _round in 0..ROUNDS {
            let prompt = bite(process, &mut self.intake, PROCESS_BITE);
            self.intake.flush(false);
            left = prompt == PROCESS_BITE;
            taken = taken.saturating_add(prompt);
            if bulk {
                for ring in others.iter_mut() {
                    let bulky = bite(ring, &mut self.intake, BITE);
                    left |= bulky == BITE;
                    taken = taken.saturating_add(bulky);
                }
            }
            if !left {
                break;
            }
        }
        self.intake.flush(true);
        (taken, left)
    }
}

/// Takes at most `limit` samples out of one ring.
fn bite(ring: &mut Ring, intake: &mut Intake, limit: usize) -> usize {
    for taken in 0..limit {
        let Some(bulk) = ring.next(|sample| intake.take(sample)) else {
            return taken;
        };
        if intake.batch(bulk).full() {
            intake.flush(bulk);
        }
    }
    limit
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::RecvTimeoutError;

    use sensor_common::record::{ExitRecord, FileCloseRecord, Record};
    use zerocopy::IntoBytes as _;

    use super::*;

    fn sample<R: Record>(cpu: u16, sequence: u64) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<R>()];
        let header = Header {
            kind: R::KIND as u16,
            cpu,
            size: u32::try_from(size_of::<R>()).unwrap(),
            sequence,
            ..Header::default()
        };
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        bytes
    }

    fn exit(sequence: u64) -> Vec<u8> {
        sample::<ExitRecord>(0, sequence)
    }

    fn close(sequence: u64) -> Vec<u8> {
        sample::<FileCloseRecord>(0, sequence)
    }

    /// So many make a batch full.
    const RECORDS: u64 = 1024;

    /// A full batch of one record.
    fn fill(intake: &mut Intake, record: &[u8]) {
        for _record in 0..RECORDS {
            intake.take(record);
        }
    }

    fn intake(capacity: usize) -> (Intake, BatchReceiver, Arc<ReaderCounters>) {
        let (sender, receiver) = queue(capacity);
        let counters = Arc::new(ReaderCounters::default());
        let intake = Intake::new(sender, Arc::clone(&counters), None, Box::new(|| {}));
        (intake, receiver, counters)
    }

    #[test]
    fn a_full_queue_drops_and_counts_by_kind_and_keeps_room_for_processes() {
        let (mut intake, receiver, counters) = intake(4);
        for _batch in 0..5 {
            fill(&mut intake, &close(1));
            intake.flush(true);
        }
        let files = Some(RecordKind::FileClose);
        // Three of four places are for bulk lanes.
        assert_eq!(receiver.waiting(), 3);
        assert_eq!(counters.received(files), 5 * RECORDS);
        assert_eq!(counters.queue_full(files), 2 * RECORDS);
        for _batch in 0..2 {
            fill(&mut intake, &exit(1));
            intake.flush(false);
        }
        assert_eq!(counters.queue_full(Some(RecordKind::Exit)), RECORDS);
        assert_eq!(receiver.waiting(), 4);
        // What was dropped is not sent later.
        drop(receiver.try_receive().unwrap());
        intake.flush(false);
        assert_eq!(receiver.waiting(), 3);
    }

    /// A reader that looks often must not fill the queue with looks: few records each, and the next stall would lose some.
    #[test]
    fn records_wait_for_company_while_the_queue_is_crowded() {
        let (mut intake, receiver, counters) = intake(8);
        for sequence in 1..=500 {
            for (record, bulk) in [(close(sequence), true), (exit(sequence), false)] {
                intake.take(&record);
                intake.flush(bulk);
            }
        }
        for kind in [RecordKind::FileClose, RecordKind::Exit] {
            assert_eq!(counters.queue_full(Some(kind)), 0);
        }
        assert!(receiver.waiting() < 8);
        let mut received = 0;
        let mut take = |intake: &mut Intake| {
            while let Ok(batch) = receiver.try_receive() {
                received += batch.len();
            }
            intake.flush(true);
            intake.flush(false);
        };
        take(&mut intake);
        take(&mut intake);
        assert_eq!(received, 1000);
    }

    #[test]
    fn at_the_end_nothing_is_dropped() {
        let (mut intake, receiver, counters) = intake(2);
        intake.ending = true;
        let reading = std::thread::spawn(move || {
            let mut received = 0;
            while let Ok(batch) = receiver.receive(Duration::from_secs(10)) {
                received += batch.len();
            }
            received
        });
        for sequence in 1..=100 {
            intake.take(&exit(sequence));
            intake.flush(false);
        }
        drop(intake);
        assert_eq!(reading.join().unwrap(), 100);
        assert_eq!(counters.queue_full(Some(RecordKind::Exit)), 0);
    }

    #[test]
    fn what_is_no_record_is_counted_and_passed_on() {
        let (mut intake, receiver, counters) = intake(4);
        intake.take(b"short");
        let mut unknown = exit(1);
        unknown[0..2].copy_from_slice(&9999_u16.to_ne_bytes());
        intake.take(&unknown);
        intake.flush(true);
        assert_eq!(counters.received(None), 2);
        assert_eq!(receiver.try_receive().unwrap().len(), 2);
    }

    #[test]
    fn gaps_are_counted_whatever_the_order() {
        let mut sequences = Sequences::default();
        let mut follow = |cpu, sequence| sequences.follow(Lane::File, cpu, sequence);
        assert_eq!(follow(0, 1), 0);
        // 2 and 3 change places.
        assert_eq!(follow(0, 3), 1);
        assert_eq!(follow(0, 2), 0);
        // Another CPU begins with 2: its first is lost.
        assert_eq!(follow(7, 2), 1);
        assert_eq!(follow(0, 6), 3);
        // A CPU beyond any machine is not followed and takes no memory.
        assert_eq!(follow(u16::MAX, 1 << 40), 3);
        assert_eq!(sequences.highest.len(), 8);
        assert_eq!(sequences.follow(Lane::Process, 0, 1), 0);
    }

    #[test]
    fn the_tee_sees_every_sample_before_it_can_be_dropped() {
        let (sender, _receiver) = queue(2);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tee = Arc::clone(&seen);
        let tee: Tee = Box::new(move |sample| tee.lock().unwrap().push(sample.to_vec()));
        let counters = Arc::new(ReaderCounters::default());
        let mut intake = Intake::new(sender, counters, Some(tee), Box::new(|| {}));
        for _batch in 0..4 {
            fill(&mut intake, &close(1));
            intake.flush(true);
        }
        let records = usize::try_from(RECORDS).unwrap();
        assert_eq!(seen.lock().unwrap().len(), 4 * records);
        assert_eq!(
            intake.counters.queue_full(Some(RecordKind::FileClose)),
            3 * RECORDS
        );
    }

    fn record(count: u64) -> (tempfile::TempDir, Recording<BufReader<File>>) {
        use crate::recording::{Footer, Header as RecordingHeader, Recorder};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stream");
        let header = RecordingHeader {
            abi_version: sensor_common::ABI_VERSION,
            kernel_release: String::new(),
            machine: String::new(),
            boot_id: String::new(),
            wall_minus_boot_ns: 0,
            tick_ns: 10_000_000,
            backends: [].into(),
            layout: Vec::new(),
            coverage: serde_json::Value::Null,
        };
        let mut writer = Recorder::create(&path, &header).unwrap();
        for sequence in 1..=count {
            writer.write(&exit(sequence)).unwrap();
            writer.write(&close(sequence)).unwrap();
        }
        writer.finish(&Footer::default()).unwrap();
        let recording = Recording::open(&path).unwrap();
        (folder, recording)
    }

    #[test]
    fn a_recording_is_played_without_loss_through_a_small_queue() {
        let (_folder, recording) = record(5000);
        let (sender, receiver) = queue(2);
        let counters = Arc::new(ReaderCounters::default());
        let source = Source::Recording(Box::new(recording));
        let reader = Reader::spawn(
            source,
            sender,
            Arc::clone(&counters),
            None,
            Box::new(|| {}),
            &Confinement::default(),
        );
        let mut received = 0;
        loop {
            match receiver.receive(Duration::from_secs(10)) {
                Ok(batch) => {
                    received += batch.len();
                    receiver.recycle(batch);
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the reader is stuck"),
            }
        }
        reader.unwrap().join().unwrap();
        assert_eq!(received, 10_000);
        for kind in [RecordKind::Exit, RecordKind::FileClose] {
            assert_eq!(counters.received(Some(kind)), 5000);
            assert_eq!(counters.queue_full(Some(kind)), 0);
        }
        assert_eq!(counters.missing(Lane::Process), 0);
    }

    #[test]
    fn a_reader_whose_receiver_is_gone_ends() {
        let (_folder, recording) = record(5000);
        let (sender, receiver) = queue(2);
        drop(receiver);
        let counters = Arc::new(ReaderCounters::default());
        let source = Source::Recording(Box::new(recording));
        let reader = Reader::spawn(
            source,
            sender,
            counters,
            None,
            Box::new(|| {}),
            &Confinement::default(),
        )
        .unwrap();
        reader.join().unwrap();
    }
}
