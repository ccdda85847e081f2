//! From raw records to events at the sinks, in the order of the kernel's boot clock.
//!
//! `sample -> decode -> [reorder window] -> process table, names -> [hold] -> filter -> sink`. One thread owns all of it.
//! What is late (the hash of a file, the close of a created file) arrives within the hold or follows as a patch event.
//! It never waits for anything but its sink: a full sink makes the reader's queue fill, where losses are counted.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sensor_common::layout::KernelLayout;
use sensor_common::map::{Connecting, OPEN_FILES_ENTRIES};
use sensor_common::record::{FileIdentity, Header, Lane, RecordKind, RecordRef, TextRef};
use sensor_proto::v1;
use sensor_proto::v1::event::Body;

use crate::clock::Clock;
use crate::enrich::close_watch::{CloseWatch, Closed};
use crate::enrich::container::Question;
use crate::enrich::file::FileFacts;
use crate::enrich::hash::{HashPool, HashResult, Place};
use crate::enrich::host::HostFacts;
use crate::enrich::process::{ProcessImage, ProcessKey, ProcessTable};
use crate::enrich::recent::Recent;
use crate::event::{self, Context};
use crate::filter::Filter;
use crate::filter::aggregate::Aggregator;
use crate::ledger::{Ledger, Row, SELF_TEST};
use crate::packet::Packets;

mod account;
mod early;
mod fill;
mod hold;
mod late;
mod output;
mod record;
mod release;
mod reorder;
mod settle;

use hold::Hold;
use late::{FileKey, Late, Sent, Slot};
pub use output::Output;
use reorder::Reorder;

/// Events that may wait for something late, and their bytes: what comes in the hold's time when there is very much to do.
const HOLD_CAPACITY: usize = 16_384;
const HOLD_BYTES: usize = 24 << 20;
/// Bytes of an event in the hold beside the description of its process, about.
const HELD_BYTES: usize = 2_048;
/// Bytes of records that may wait for earlier ones.
const REORDER_BYTES: usize = 16 << 20;
/// Processes whose exec has opened a script and not happened yet.
const SCRIPTS_CAPACITY: usize = 4_096;
/// Scripts on the way to one exec; the kernel follows 5.
const SCRIPTS_PER_EXEC: usize = 8;
/// Exec events that a late name or place may still complete.
const BEGUN_CAPACITY: usize = 4_096;
/// TCP attempts that were reported as in progress and may still get a result.
const ATTEMPTS_CAPACITY: usize = 4_096;

/// Which hook each event type has.
pub type Backends = HashMap<RecordKind, v1::Backend>;

/// What the pipeline needs from the outside.
#[derive(Debug)]
pub struct Parts {
    /// Fields that the records have.
    pub layout: KernelLayout,
    /// The clock of the host where the records were made.
    pub clock: Arc<Clock>,
    /// Live, or driven by the times of a recording.
    pub live: bool,
    /// Event types that are reported.
    pub events: BTreeSet<v1::EventType>,
    /// Hook per record kind.
    pub backends: Backends,
    /// The self-test's child, whose records are no news.
    pub own_child: Option<u32>,
    /// This host and this sensor, looked at again now and then; none in a replay.
    pub host: Option<(HostFacts, v1::Agent)>,
    /// Processes.
    pub table: ProcessTable,
    /// The pool and its results; none in a replay.
    pub hashes: Option<(HashPool, tokio::sync::mpsc::Receiver<HashResult>)>,
    /// Tells when the last writer of a created file is gone, where no hook does.
    pub closes: Option<(CloseWatch, tokio::sync::mpsc::Receiver<Closed>)>,
    /// Rules.
    pub filter: Filter,
    /// Where events go.
    pub output: Output,
    /// Where they go as packets, if anybody wants these.
    pub packets: Option<Packets>,
    /// Width of the reorder window and the most that it holds.
    pub reorder: (Duration, usize),
    /// How long an event may wait for what is late.
    pub hold: Duration,
}

/// A record in the reorder window.
#[derive(Debug)]
struct Waiting {
    kind: RecordKind,
    bytes: Box<[u8]>,
    hash: EarlyHash,
}

/// What is known about the hash of a record's file when the record arrives.
#[derive(Debug)]
enum EarlyHash {
    /// It has no file that is hashed.
    None,
    /// Known from before.
    Known(Box<v1::Hashes>, Arc<FileFacts>),
    /// Asked for.
    Asked(u64),
    /// The pool took no more.
    Refused,
}

/// An event in the hold.
#[derive(Debug)]
struct Held {
    event: v1::Event,
    row: Row,
    /// Row of the acting process when the event was made.
    actor: Option<Arc<ProcessImage>>,
    /// Hash jobs that are not back: token and file.
    hashes: Vec<(u64, Slot)>,
    /// A created file that is not closed.
    open: Option<FileKey>,
    /// Its container, whose facts will be there in a moment.
    container: Option<Question>,
}

/// The pipeline.
#[derive(Debug)]
pub struct Pipeline {
    layout: KernelLayout,
    clock: Arc<Clock>,
    live: bool,
    /// Newest record time; the clock of a replay.
    newest_boot_ns: u64,
    events: BTreeSet<v1::EventType>,
    backends: Backends,
    own_child: Option<u32>,
    host: Option<(HostFacts, v1::Agent)>,
    table: ProcessTable,
    hashes: Option<(HashPool, tokio::sync::mpsc::Receiver<HashResult>)>,
    closes: Option<(CloseWatch, tokio::sync::mpsc::Receiver<Closed>)>,
    /// Places of the files that are watched until they are closed, by token; bounded by the watch.
    places: HashMap<u64, Place>,
    filter: Filter,
    aggregator: Aggregator,
    aggregates_displaced: u64,
    output: Output,
    packets: Option<Packets>,
    ledger: Ledger,
    reorder: Reorder<Waiting>,
    hold: Hold<Box<Held>>,
    hold_ns: u64,
    late: Late,
    /// Hashes of the scripts that an exec under way has opened, by process id.
    scripts: HashMap<u32, Vec<EarlyHash>>,
    scripts_forgotten: u64,
    /// TCP attempts that were in progress for a while: socket and start to the event, none if that was filtered.
    attempts: HashMap<(u64, u64), Option<Sent>>,
    attempts_order: VecDeque<(u64, u64)>,
    attempts_forgotten: u64,
    /// Exec events that have left while something of their process was still to come; none if filtered.
    begun: Recent<(ProcessKey, u32), Option<Sent>>,
    counter: u64,
}

impl Pipeline {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let nanoseconds =
            |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            layout: parts.layout,
            clock: parts.clock,
            live: parts.live,
            newest_boot_ns: 0,
            events: parts.events,
            backends: parts.backends,
            own_child: parts.own_child,
            host: parts.host,
            table: parts.table,
            hashes: parts.hashes,
            closes: parts.closes,
            places: HashMap::new(),
            filter: parts.filter,
            aggregator: Aggregator::default(),
            aggregates_displaced: 0,
            output: parts.output,
            counter: parts.packets.as_ref().map_or(0, Packets::first_number),
            packets: parts.packets,
            ledger: Ledger::new(),
            reorder: Reorder::new(nanoseconds(parts.reorder.0), parts.reorder.1, REORDER_BYTES),
            hold: Hold::new(HOLD_CAPACITY, HOLD_BYTES),
            hold_ns: nanoseconds(parts.hold),
            late: Late::new(usize::try_from(OPEN_FILES_ENTRIES).unwrap_or(usize::MAX)),
            scripts: HashMap::new(),
            scripts_forgotten: 0,
            attempts: HashMap::new(),
            attempts_order: VecDeque::new(),
            attempts_forgotten: 0,
            begun: Recent::new(BEGUN_CAPACITY),
        }
    }

    fn context(&self) -> Context<'_> {
        Context {
            layout: &self.layout,
            wall_minus_boot_ns: self.clock.offset_ns(),
        }
    }

    /// The context with the wall clock as it stood when a record was made.
    fn context_of(&self, header: &Header) -> Context<'_> {
        Context {
            wall_minus_boot_ns: self.clock.offset_at_ns(header.time_boot_ns),
            ..self.context()
        }
    }

    /// Looks whether the wall clock was set; to be called before records are taken in, and at least every so often that the
    /// time between two looks is short.
    pub fn look_at_clock(&self) {
        if self.live
            && let Err(error) = self.clock.refresh()
        {
            tracing::debug!(%error, "the wall clock cannot be read");
        }
    }

    /// Now by the boot clock; in a replay the newest record's time.
    pub fn now(&self) -> u64 {
        if self.live {
            self.clock.boot_ns().unwrap_or(self.newest_boot_ns)
        } else {
            self.newest_boot_ns
        }
    }

    /// Now for packets, which are as old as they are here, also those of a recording.
    fn packet_now(&self) -> u64 {
        self.clock.boot_ns().unwrap_or(self.newest_boot_ns)
    }

    /// Takes one sample as it came out of its ring.
    pub fn sample(&mut self, bytes: &[u8]) {
        let record = match RecordRef::parse(bytes) {
            Ok(record) => record,
            Err(error) => {
                self.ledger.decode_error(claimed(bytes), error.name());
                return;
            }
        };
        let (kind, time) = (record.kind(), record.header().time_boot_ns);
        self.ledger.decoded(Row::Kind(kind));
        self.newest_boot_ns = self.newest_boot_ns.max(time);
        if self.own_child == Some(record.header().tgid) {
            self.ledger.filtered(Row::Kind(kind), SELF_TEST);
            // The number may be given to another process after this one's end.
            if kind == RecordKind::Exit {
                self.own_child = None;
            }
            return;
        }
        let hash = self.hash_early(&record);
        self.reorder.push(
            time,
            bytes.len().saturating_add(size_of::<Waiting>()),
            Waiting {
                kind,
                bytes: bytes.into(),
                hash,
            },
        );
    }

    /// Moves everything on that is due, and returns how long nothing will be: at most until the next call.
    pub fn advance(&mut self) -> Option<Duration> {
        self.take_closes();
        self.take_hashes();
        let now = self.now();
        while let Some(waiting) = self.reorder.pop_due(now) {
            self.record(waiting);
        }
        self.take_containers();
        self.release(now);
        for event in self.aggregator.due(now) {
            self.deliver(event, None, None);
        }
        self.output.flush();
        let next = [self.reorder.next_due(), self.hold.next_deadline()]
            .into_iter()
            .flatten()
            .min();
        let next = next.map(|next| Duration::from_nanos(next.saturating_sub(now)));
        let wait = [next, self.seal_due()].into_iter().flatten().min()?;
        // A hash that comes back, or a file about a container, releases its event before the deadline.
        Some(if self.late.expecting() || self.awaits_container() {
            wait.min(Duration::from_millis(5))
        } else {
            wait
        })
    }

    /// Attempts of the table of connects that have been without a result for a while; each is reported once.
    pub fn attempts(&mut self, attempts: Vec<(u64, Connecting)>) {
        if !self.events.contains(&v1::EventType::Connect) {
            return;
        }
        let now = self.now();
        for (socket, attempt) in attempts {
            let key = (socket, attempt.header.time_boot_ns);
            if self.attempts.contains_key(&key) {
                continue;
            }
            let backend = self.backend(RecordKind::Connect);
            let mut event =
                event::envelope(&self.context(), &attempt.header, Lane::Network, backend);
            event.time_boot_ns = now;
            event.time_ns = self.clock.wall_ns(now);
            event.body = Some(Body::Connect(event::in_progress(&attempt)));
            let row = Row::Kind(RecordKind::Connect);
            self.ledger.synthesised(row);
            let actor = self.act(&mut event, &attempt.header, &attempt.subject);
            while self.attempts.len() >= ATTEMPTS_CAPACITY {
                let Some(oldest) = self.attempts_order.pop_front() else {
                    break;
                };
                if self.attempts.remove(&oldest).is_some() {
                    self.attempts_forgotten += 1;
                }
            }
            let sent = self.seal(row, event, Some(actor));
            self.attempts.insert(key, sent);
            self.attempts_order.push_back(key);
        }
    }

    /// What is done about once a second: the host's facts may have changed, processes have been gone long enough.
    pub fn round(&mut self) {
        if let Some((host, agent)) = &mut self.host {
            let mut changed = host.refresh(&self.clock);
            if let Some(packets) = &mut self.packets
                && packets.refresh(host.current())
            {
                agent.clone_from(packets.agent());
                changed = true;
            }
            if changed {
                self.output.set_origin(agent, host.current());
            }
        }
        let now = self.now();
        self.table.expire(now);
        self.settle();
    }

    /// Memory that the process table holds, about.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.table.gauge().bytes
    }

    /// What a burst took and nothing needs now goes back to the allocator.
    pub fn shrink(&mut self) {
        self.reorder.shrink();
        self.hold.shrink();
        self.late.shrink();
        self.places.shrink_to_fit();
        self.scripts.shrink_to_fit();
        self.table.shrink_to_fit();
    }

    /// New rules; what is being merged under the old ones is told first.
    pub fn set_filter(&mut self, filter: Filter) {
        for event in self.aggregator.drain() {
            self.deliver(event, None, None);
        }
        self.filter = filter;
    }

    /// Everything goes on its way, the hashes that are under way for at most `patience`; returns the account and the sink.
    pub fn finish(mut self, patience: Duration) -> (Ledger, Output) {
        while let Some(waiting) = self.reorder.pop_due(u64::MAX) {
            self.record(waiting);
        }
        let until = std::time::Instant::now() + patience;
        while self.hold.len() > 0
            && (self.late.expecting() || self.awaits_container())
            && std::time::Instant::now() < until
        {
            self.take_closes();
            self.take_hashes();
            self.take_containers();
            self.release(self.now());
            std::thread::sleep(Duration::from_millis(1));
        }
        self.release(u64::MAX);
        for event in self.aggregator.drain() {
            self.deliver(event, None, None);
        }
        if let Some((watch, _)) = &self.closes {
            watch.stop();
        }
        if let Some((pool, _)) = &self.hashes {
            pool.stop();
        }
        self.output.flush();
        self.account();
        if let Some(packets) = &mut self.packets {
            packets.finish(&mut self.ledger);
            self.ledger.place("packets.unsealed", packets.unsealed());
        }
        (self.ledger, self.output)
    }

    /// The account as it stands, with what waits here.
    pub fn ledger(&mut self) -> &mut Ledger {
        self.account();
        &mut self.ledger
    }

    fn account(&mut self) {
        for row in Row::all() {
            self.ledger.waiting(row, "reorder", 0);
            self.ledger.waiting(row, "hold", 0);
        }
        let count = |rows: &mut dyn Iterator<Item = Row>| {
            let mut counts: HashMap<&'static str, (Row, u64)> = HashMap::new();
            for row in rows {
                counts.entry(row.name()).or_insert((row, 0)).1 += 1;
            }
            counts
        };
        let reorder = count(&mut self.reorder.items().map(|waiting| Row::Kind(waiting.kind)));
        let hold = count(&mut self.hold.items().map(|held| held.row));
        for (row, number) in reorder.into_values() {
            self.ledger.waiting(row, "reorder", number);
        }
        for (row, number) in hold.into_values() {
            self.ledger.waiting(row, "hold", number);
        }
        self.account_of_places();
        if let Some(packets) = &self.packets {
            let waiting = u64::try_from(packets.waiting()).unwrap_or(u64::MAX);
            self.ledger.place("packets.open", waiting);
            self.ledger.place("packets.unsealed", packets.unsealed());
        }
    }

    fn backend(&self, kind: RecordKind) -> v1::Backend {
        self.backends
            .get(&kind)
            .copied()
            .unwrap_or(v1::Backend::Unspecified)
    }
}

/// The row of a sample's kind, as far as it has a known one.
fn claimed(sample: &[u8]) -> Row {
    sample
        .first_chunk::<2>()
        .and_then(|number| RecordKind::from_number(u16::from_ne_bytes(*number)))
        .map_or(Row::Unknown, Row::Kind)
}

fn path_of(text: TextRef<'_>) -> Option<Vec<u8>> {
    (!text.text.absent() && !text.text.truncated() && !text.bytes.is_empty())
        .then(|| text.bytes.to_vec())
}

fn regular(file: &FileIdentity) -> bool {
    v1::FileType::from_mode(file.mode) == v1::FileType::Regular
}

#[cfg(test)]
mod tests;
