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
use sensor_common::record::{
    ConnectRecord, ExecRecord, ExitRecord, FileCloseRecord, FileCreateRecord, FileIdentity,
    ForkRecord, Header, Lane, ModuleLoadRecord, Parsed, RecordKind, RecordRef, ScriptRecord,
    Subject, Text, TextRef, file_flag, module_flag,
};
use sensor_proto::v1::event::Body;
use sensor_proto::{field, v1};

use crate::clock::Clock;
use crate::config::RuleAction;
use crate::enrich::close_watch::{CloseEnd, CloseRequest, CloseWatch, Closed};
use crate::enrich::container::Question;
use crate::enrich::file::FileFacts;
use crate::enrich::hash::{
    HashJob, HashPool, HashResult, Place, ProcessStart, Released, What, Writers,
};
use crate::enrich::host::HostFacts;
use crate::enrich::process::{ProcessImage, ProcessKey, ProcessTable, describe};
use crate::enrich::recent::Recent;
use crate::event::{self, Context};
use crate::filter::aggregate::Aggregator;
use crate::filter::{self, Filter};
use crate::ledger::{Ledger, Row, SELF_TEST};
use crate::packet::Packets;

mod account;
mod hold;
mod late;
mod output;
mod reorder;
mod settle;

use hold::{Hold, Ticket};
use late::{Created, FileKey, FileNumbers, Late, Sent, Slot, Target};
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

    /// Asks for the hash of a record's file at once: who opens first keeps the content.
    fn hash_early(&mut self, record: &RecordRef<'_>) -> EarlyHash {
        match record {
            RecordRef::Exec(exec) => {
                let head = &exec.head;
                self.ask(
                    What::Executed,
                    Some(head.file),
                    &head.header,
                    &head.subject,
                    Some(path_of(exec.text(0))),
                    Writers::Gone,
                )
            }
            RecordRef::Script(script) => {
                let head = &script.head;
                self.ask(
                    What::Script,
                    Some(head.file),
                    &head.header,
                    &head.subject,
                    Some(path_of(script.text(0))),
                    Writers::Gone,
                )
            }
            RecordRef::ModuleLoad(module) => {
                let head = &module.head;
                if head.flags & module_flag::FILE_KNOWN == 0 {
                    return EarlyHash::None;
                }
                self.ask(
                    What::Module,
                    Some(head.file),
                    &head.header,
                    &head.subject,
                    Some(path_of(module.text(0))),
                    Writers::Gone,
                )
            }
            RecordRef::FileCreate(created) => {
                let head = &created.head;
                let path = path_of(created.text(0));
                if head.flags & file_flag::CLOSE_FOLLOWS != 0 {
                    self.late.created(head, path);
                    return EarlyHash::None;
                }
                if !regular(&head.file) {
                    return EarlyHash::None;
                }
                if self.closes.is_some() {
                    let head = *head;
                    return self.watch(&head, path);
                }
                // Nobody tells when its writers are gone.
                self.ask(
                    What::Created,
                    Some(head.file),
                    &head.header,
                    &head.subject,
                    Some(path),
                    Writers::Unknown,
                )
            }
            RecordRef::FileClose(closed) => {
                let head = closed.head;
                let Some(open) = self.late.open_file((head.file_key, head.created_boot_ns)) else {
                    return EarlyHash::None;
                };
                let path = open.path.clone();
                if !regular(&head.file) {
                    return EarlyHash::None;
                }
                let writers = if head.flags & file_flag::WRITERS_LEFT == 0 {
                    Writers::Gone
                } else {
                    Writers::Left
                };
                self.ask(
                    What::Created,
                    Some(head.file),
                    &head.header,
                    &head.subject,
                    Some(path),
                    writers,
                )
            }
            RecordRef::Exit(_) | RecordRef::Fork(_) | RecordRef::Connect(_) => EarlyHash::None,
        }
    }

    fn ask(
        &mut self,
        what: What,
        identity: Option<FileIdentity>,
        header: &Header,
        subject: &Subject,
        path: Option<Option<Vec<u8>>>,
        writers: Writers,
    ) -> EarlyHash {
        let event_wall_ns = self.clock.wall_ns(header.time_boot_ns);
        let Some((pool, _)) = &self.hashes else {
            return EarlyHash::None;
        };
        if let Some(identity) = &identity
            && let Some(known) = pool.lookup(what, identity, event_wall_ns)
        {
            return EarlyHash::Known(Box::new(known.message()), known.facts);
        }
        let token = self.late.token();
        let place = self.place(header, subject, path.flatten());
        let Some((pool, _)) = &self.hashes else {
            return EarlyHash::None;
        };
        let job = HashJob {
            token,
            what,
            identity,
            event_wall_ns,
            place,
            writers,
            open: None,
        };
        match pool.submit(job) {
            Ok(()) => {
                self.late.expect(token, Target::Early);
                EarlyHash::Asked(token)
            }
            Err(_job) => EarlyHash::Refused,
        }
    }

    /// Where the file of a record may be reached.
    fn place(&mut self, header: &Header, subject: &Subject, path: Option<Vec<u8>>) -> Place {
        let fallback = self.table.find_tgid(header.tgid).and_then(|image| {
            let parent = image.process.parent.as_ref()?;
            Some(ProcessStart {
                tgid: parent.pid,
                start_boot_ns: parent.start_boot_ns?,
            })
        });
        Place {
            process: Some(ProcessStart {
                tgid: header.tgid,
                start_boot_ns: header.start_boot_ns,
            }),
            fallback,
            mount_namespace: subject.mnt_ns,
            path,
        }
    }

    /// Watches a created file until its last writer is gone; it is hashed then, under the same token.
    fn watch(&mut self, record: &FileCreateRecord, path: Option<Vec<u8>>) -> EarlyHash {
        let place = self.place(&record.header, &record.subject, path);
        let token = self.late.token();
        let Some((watch, _)) = &self.closes else {
            return EarlyHash::None;
        };
        let request = CloseRequest {
            token,
            identity: record.file,
            place: place.clone(),
        };
        if watch.submit(request).is_err() {
            return EarlyHash::Refused;
        }
        self.places.insert(token, place);
        self.late.expect(token, Target::Early);
        EarlyHash::Asked(token)
    }

    /// Created files that were closed, or that nobody can say more of, go on to the hash pool.
    fn take_closes(&mut self) {
        loop {
            let Some((_, closes)) = &mut self.closes else {
                return;
            };
            let Ok(closed) = closes.try_recv() else {
                return;
            };
            let (token, end) = (closed.token, closed.end);
            let place = self.places.remove(&token).unwrap_or_default();
            let now_wall_ns = self.clock.wall_ns(self.now());
            let job = closed.into_job(place, now_wall_ns);
            let refused = match (job, &self.hashes) {
                (Some(job), Some((pool, _))) => pool.submit(job).is_err(),
                (Some(_), None) | (None, _) => true,
            };
            if refused {
                self.hash_arrived(unread(token, end));
            }
        }
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

    fn record(&mut self, waiting: Waiting) {
        let Waiting { kind, bytes, hash } = waiting;
        match RecordRef::parse(&bytes) {
            Ok(RecordRef::Exec(record)) => self.exec(&record, hash),
            Ok(RecordRef::Script(record)) => self.script(&record, hash),
            Ok(RecordRef::Exit(record)) => self.exit(&record.head),
            Ok(RecordRef::Fork(record)) => self.fork(&record.head),
            Ok(RecordRef::FileCreate(record)) => self.file_create(&record, hash),
            Ok(RecordRef::FileClose(record)) => self.file_close(&record.head, hash),
            Ok(RecordRef::Connect(record)) => self.connect(&record),
            Ok(RecordRef::ModuleLoad(record)) => self.module_load(&record, hash),
            // It was parsed when it came.
            Err(_) => self.ledger.lost(Row::Kind(kind), "internal_error"),
        }
    }

    /// Names the acting process in `event`, and its credentials where they are not those of the process's row.
    fn act(
        &mut self,
        event: &mut v1::Event,
        header: &Header,
        subject: &Subject,
    ) -> Arc<ProcessImage> {
        let image = self.table.actor(header, subject);
        self.attribute(event, header, subject, &image);
        image
    }

    fn attribute(
        &mut self,
        event: &mut v1::Event,
        header: &Header,
        subject: &Subject,
        image: &ProcessImage,
    ) {
        event.process = Some(v1::ProcessRef {
            tid: Some(header.pid),
            ..image.reference()
        });
        event.io_uring = event::by_io_uring(subject);
        let mut credentials = describe::credentials(subject);
        if !describe::same_ids(image.process.credentials.as_ref(), &credentials) {
            self.table
                .describer
                .name_credentials(&mut credentials, &image.process);
            event.credentials = Some(credentials);
        }
    }

    fn wanted(&mut self, kind: RecordKind, event_type: v1::EventType) -> bool {
        let wanted = self.events.contains(&event_type);
        if !wanted {
            self.ledger.filtered(Row::Kind(kind), "not_selected");
        }
        wanted
    }

    fn exec(&mut self, record: &Parsed<'_, ExecRecord>, hash: EarlyHash) {
        let head = &record.head;
        let before = self.table.find_tgid(head.header.tgid);
        let image = self.table.on_exec(record);
        let scripts = self.scripts.remove(&head.header.tgid).unwrap_or_default();
        let mut waits = Vec::new();
        let mut ready: Vec<(Slot, Ready)> = Vec::new();
        sort(hash, Slot::Image, &mut waits, &mut ready);
        if scripts.len() == image.process.script_chain.len() {
            for (slot, hash) in (0..).map(Slot::Script).zip(scripts) {
                sort(hash, slot, &mut waits, &mut ready);
            }
        }
        let pending = waits.clone();
        let updated = self
            .table
            .update(image.key, image.process.exec_id, |process| {
                for (slot, ready) in ready {
                    if let Some(file) = process_file(process, slot) {
                        ready.put(file);
                    }
                }
                for (_, slot) in &pending {
                    if let Some(file) = process_file(process, *slot) {
                        await_hash(file);
                    }
                }
            });
        let image = updated.unwrap_or(image);
        if !self.wanted(RecordKind::Exec, v1::EventType::Exec) {
            // The process's row still gets its hashes.
            for (token, slot) in waits {
                self.hash_to_row(token, slot, &image);
            }
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&head.header),
            &head.header,
            Lane::Process,
            self.backend(RecordKind::Exec),
        );
        self.attribute(&mut event, &head.header, &head.subject, &image);
        let mut body = event::exec(record);
        body.previous = before
            .filter(|before| {
                before.key == image.key && before.process.exec_id != image.process.exec_id
            })
            .map(|before| before.reference());
        event.body = Some(Body::Exec(body));
        self.hold_event(RecordKind::Exec, event, image, waits, None);
    }

    /// The exec event is not wanted: the result goes to the process's row alone.
    fn hash_to_row(&mut self, token: u64, slot: Slot, image: &Arc<ProcessImage>) {
        let sent = Sent {
            id: v1::EventId::default(),
            event_type: v1::EventType::Unspecified,
            process: Some(image.reference()),
            file: None,
        };
        if let Some(result) = self.late.redirect(token, Target::Sent(sent.clone(), slot)) {
            self.patch(&sent, slot, &result);
        }
    }

    fn script(&mut self, record: &Parsed<'_, ScriptRecord>, hash: EarlyHash) {
        self.table.on_script(record);
        self.ledger.merged(Row::Kind(RecordKind::Script));
        if self.scripts.len() >= SCRIPTS_CAPACITY {
            // Execs that failed: their scripts are of no use any more.
            for (_, stale) in std::mem::take(&mut self.scripts) {
                self.scripts_forgotten += 1;
                self.abandon(stale);
            }
        }
        let rounds = self.scripts.entry(record.head.header.tgid).or_default();
        rounds.push(hash);
        if rounds.len() > SCRIPTS_PER_EXEC {
            let stale = vec![rounds.remove(0)];
            self.abandon(stale);
        }
    }

    fn abandon(&mut self, hashes: Vec<EarlyHash>) {
        for hash in hashes {
            if let EarlyHash::Asked(token) = hash {
                self.late.redirect(token, Target::Nobody);
            }
        }
    }

    fn exit(&mut self, record: &ExitRecord) {
        let image = self.table.on_exit(record);
        if let Some(stale) = self.scripts.remove(&record.header.tgid) {
            self.abandon(stale);
        }
        if !self.wanted(RecordKind::Exit, v1::EventType::Exit) {
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&record.header),
            &record.header,
            Lane::Process,
            self.backend(RecordKind::Exit),
        );
        self.attribute(&mut event, &record.header, &record.subject, &image);
        event.body = Some(Body::Exit(event::exit(&self.context(), record)));
        self.hold_event(RecordKind::Exit, event, image, Vec::new(), None);
    }

    fn fork(&mut self, record: &ForkRecord) {
        let child = self.table.on_fork(record);
        if !self.wanted(RecordKind::Fork, v1::EventType::Fork) {
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&record.header),
            &record.header,
            Lane::Process,
            self.backend(RecordKind::Fork),
        );
        let actor = self.act(&mut event, &record.header, &record.subject);
        let mut body = event::fork(record);
        body.child = Some(child.reference());
        event.body = Some(Body::Fork(body));
        self.hold_event(RecordKind::Fork, event, actor, Vec::new(), None);
    }

    fn file_create(&mut self, record: &Parsed<'_, FileCreateRecord>, hash: EarlyHash) {
        let head = &record.head;
        let key = (head.file_key, head.header.time_boot_ns);
        let follows = head.flags & file_flag::CLOSE_FOLLOWS != 0;
        if !self.wanted(RecordKind::FileCreate, v1::EventType::FileCreate) {
            self.abandon(vec![hash]);
            if let Some(open) = self.late.open_file(key) {
                open.event = Some(Created::Dropped);
            }
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&head.header),
            &head.header,
            Lane::File,
            self.backend(RecordKind::FileCreate),
        );
        let actor = self.act(&mut event, &head.header, &head.subject);
        let mut body = event::file_create(&self.context(), record);
        let (mut waits, mut ready) = (Vec::new(), Vec::new());
        let slot = if follows {
            Slot::Created
        } else {
            Slot::Watched
        };
        sort(hash, slot, &mut waits, &mut ready);
        if let Some(file) = &mut body.file {
            self.table.describer.name_file(file, &actor.process);
            for (_, ready) in ready {
                ready.put(file);
            }
            if follows || !waits.is_empty() {
                await_hash(file);
            }
        }
        event.body = Some(Body::FileCreate(body));
        self.hold_event(
            RecordKind::FileCreate,
            event,
            actor,
            waits,
            follows.then_some(key),
        );
    }

    fn file_close(&mut self, record: &FileCloseRecord, hash: EarlyHash) {
        let row = Row::Kind(RecordKind::FileClose);
        let created = self.late.closed(record).and_then(|open| open.event);
        let Some(created) = created else {
            // The creation was lost, or forgotten: there is nothing to add to.
            self.abandon(vec![hash]);
            self.ledger.lost(row, "creation_unknown");
            return;
        };
        self.ledger.merged(row);
        let path = TextRef {
            bytes: b"",
            text: Text {
                len: 0,
                true_len: Text::ABSENT,
            },
        };
        let mut closed = event::file_info(&self.context(), &record.file, path);
        match created {
            Created::Dropped => self.abandon(vec![hash]),
            Created::Held(ticket) => {
                if let Some(held) = self.hold.get_mut(ticket) {
                    held.open = None;
                    if let Some(Body::FileCreate(body)) = &mut held.event.body {
                        body.closed = true;
                        if let Some(file) = &mut body.file {
                            event::merge_closed(file, closed);
                        }
                    }
                }
                match hash {
                    EarlyHash::Asked(token) => {
                        if let Some(held) = self.hold.get_mut(ticket) {
                            held.hashes.push((token, Slot::Created));
                        }
                        if let Some(result) = self
                            .late
                            .redirect(token, Target::Held(ticket, Slot::Created))
                        {
                            self.hash_for_held(ticket, Slot::Created, &result);
                        }
                    }
                    EarlyHash::Known(..) | EarlyHash::None | EarlyHash::Refused => {
                        if let (Some(held), Some(ready)) =
                            (self.hold.get_mut(ticket), Ready::of(hash))
                            && let Some(file) = event_file(&mut held.event, Slot::Created)
                        {
                            ready.put(file);
                        }
                        self.hold.arrived(ticket);
                    }
                }
            }
            Created::Sent(sent) => match hash {
                EarlyHash::Asked(token) => {
                    let target = Target::SentClosed(sent.clone(), Box::new(closed.clone()));
                    if let Some(result) = self.late.redirect(token, target) {
                        self.patch_closed(sent, closed, &result);
                    }
                }
                EarlyHash::Known(..) | EarlyHash::None | EarlyHash::Refused => {
                    if let Some(ready) = Ready::of(hash) {
                        ready.put(&mut closed);
                    }
                    self.patch_event(&sent, v1::patch::Part::ClosedFile(closed));
                }
            },
        }
    }

    fn connect(&mut self, record: &Parsed<'_, ConnectRecord>) {
        let head = &record.head;
        let kind = RecordKind::Connect;
        let body = event::connect(record);
        let attempt = (head.socket_key, head.started_boot_ns);
        if let Some(Some(sent)) = self.attempts.remove(&attempt) {
            // The attempt was reported as in progress: this is its result.
            self.ledger.merged(Row::Kind(kind));
            let part = v1::ConnectPatch {
                result: body.result,
                errno: body.errno,
                duration_ns: body.duration_ns,
                local: body.local,
            };
            self.patch_event(&sent, v1::patch::Part::Connect(part));
            return;
        }
        if !self.wanted(kind, v1::EventType::Connect) {
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&head.header),
            &head.header,
            Lane::Network,
            self.backend(kind),
        );
        let actor = self.act(&mut event, &head.header, &head.subject);
        event.body = Some(Body::Connect(body));
        self.hold_event(kind, event, actor, Vec::new(), None);
    }

    fn module_load(&mut self, record: &Parsed<'_, ModuleLoadRecord>, hash: EarlyHash) {
        let head = &record.head;
        let kind = RecordKind::ModuleLoad;
        if !self.wanted(kind, v1::EventType::ModuleLoad) {
            self.abandon(vec![hash]);
            return;
        }
        let mut event = event::envelope(
            &self.context_of(&head.header),
            &head.header,
            Lane::Process,
            self.backend(kind),
        );
        let actor = self.act(&mut event, &head.header, &head.subject);
        let mut body = event::module_load(&self.context(), record);
        let (mut waits, mut ready) = (Vec::new(), Vec::new());
        sort(hash, Slot::Module, &mut waits, &mut ready);
        if let Some(file) = &mut body.file {
            self.table.describer.name_file(file, &actor.process);
            for (_, ready) in ready {
                ready.put(file);
            }
            if !waits.is_empty() {
                await_hash(file);
            }
        }
        event.body = Some(Body::ModuleLoad(body));
        self.hold_event(kind, event, actor, waits, None);
    }

    /// Puts an event into the hold; it leaves at once if it waits for nothing and nothing is before it.
    fn hold_event(
        &mut self,
        kind: RecordKind,
        event: v1::Event,
        actor: Arc<ProcessImage>,
        hashes: Vec<(u64, Slot)>,
        open: Option<FileKey>,
    ) {
        // Where a process begins what it runs; its other events find the facts there, or follow it.
        let container = if kind == RecordKind::Exec {
            self.table.describer.containers.awaited(&actor.process)
        } else {
            None
        };
        let others = usize::from(open.is_some()) + usize::from(container.is_some());
        let waits = u32::try_from(hashes.len() + others).unwrap_or(u32::MAX);
        let deadline = self.now().saturating_add(self.hold_ns);
        let row = Row::Kind(kind);
        // What a process runs is told by many events, and begins with one.
        let image = if kind == RecordKind::Exec {
            actor.bytes()
        } else {
            0
        };
        let bytes = HELD_BYTES.saturating_add(image);
        let held = Held {
            event,
            row,
            actor: Some(actor),
            hashes: hashes.clone(),
            open,
            container,
        };
        let ticket = self.hold.push(Box::new(held), waits, deadline, bytes);
        if let Some(open) = open.and_then(|key| self.late.open_file(key)) {
            open.event = Some(Created::Held(ticket));
        }
        for (token, slot) in hashes {
            if let Some(result) = self.late.redirect(token, Target::Held(ticket, slot)) {
                self.hash_for_held(ticket, slot, &result);
            }
        }
    }

    fn take_hashes(&mut self) {
        loop {
            let Some((_, results)) = &mut self.hashes else {
                return;
            };
            let Ok(result) = results.try_recv() else {
                return;
            };
            self.hash_arrived(result);
        }
    }

    fn hash_arrived(&mut self, result: HashResult) {
        match self.late.arrive(result) {
            Some((Target::Held(ticket, slot), result)) => {
                self.hash_for_held(ticket, slot, &result);
            }
            Some((Target::Sent(sent, slot), result)) => self.patch(&sent, slot, &result),
            Some((Target::SentClosed(sent, closed), result)) => {
                self.patch_closed(sent, *closed, &result);
            }
            Some((Target::Early | Target::Nobody, _)) | None => {}
        }
    }

    fn hash_for_held(&mut self, ticket: Ticket, slot: Slot, result: &HashResult) {
        let Some(held) = self.hold.get_mut(ticket) else {
            return;
        };
        held.hashes.retain(|(token, _)| *token != result.token);
        match slot {
            Slot::Created | Slot::Watched | Slot::Module => {
                let context = Context {
                    layout: &self.layout,
                    wall_minus_boot_ns: self.clock.offset_ns(),
                };
                if let Some(Body::FileCreate(body)) = &mut held.event.body {
                    let verified = result.verdict == v1::HashVerdict::Verified;
                    body.closed |= verified && slot == Slot::Watched;
                }
                if let Some(file) = event_file(&mut held.event, slot) {
                    if slot == Slot::Watched {
                        put_final(&context, file, result);
                    }
                    put_hash(file, result);
                }
            }
            Slot::Image | Slot::Script(_) => {
                if let Some(actor) = &held.actor {
                    let put = |process: &mut v1::Process| {
                        if let Some(file) = process_file(process, slot) {
                            put_hash(file, result);
                        }
                    };
                    self.table.update(actor.key, actor.process.exec_id, put);
                    // The row of this event stays as of its time: the process may have ended meanwhile.
                    held.actor = Some(actor.amended(put));
                }
            }
        }
        self.hold.arrived(ticket);
    }

    /// Lets go of everything in the hold that is complete or over its time.
    fn release(&mut self, now: u64) {
        while let Some((_, held)) = self.hold.pop_ready(now) {
            let Held {
                event,
                row,
                actor,
                hashes,
                open,
                container: _,
            } = *held;
            let event_type = event.event_type();
            // The newest row of the same program: its hashes may have come with another event.
            let actor = actor.map(|actor| match self.table.find(actor.key) {
                Some(newest)
                    if newest.process.exec_id == actor.process.exec_id
                        && newest.process.end_time_ns == actor.process.end_time_ns =>
                {
                    newest
                }
                _ => actor,
            });
            let process = event.process.clone();
            let owes = actor.as_ref().filter(|actor| self.table.owes(actor));
            let begins = owes
                .filter(|_| event_type == v1::EventType::Exec)
                .map(|actor| (actor.key, actor.process.exec_id));
            let sent = self.seal(row, event, actor.clone());
            if let Some(program) = begins {
                self.begun.keep(program, sent.clone());
            }
            for (token, slot) in hashes {
                let target = match &sent {
                    Some(sent) => Target::Sent(sent.clone(), slot),
                    None if matches!(slot, Slot::Image | Slot::Script(_)) => Target::Sent(
                        Sent {
                            id: v1::EventId::default(),
                            event_type: v1::EventType::Unspecified,
                            process: process.clone(),
                            file: None,
                        },
                        slot,
                    ),
                    None => Target::Nobody,
                };
                debug_assert!(event_type != v1::EventType::Unspecified);
                self.late.expect(token, target);
            }
            if let Some(open) = open.and_then(|key| self.late.open_file(key)) {
                open.event = Some(sent.map_or(Created::Dropped, Created::Sent));
            }
        }
    }

    /// Asks the filter and sends the event on its way; `None` if it was dropped or merged on purpose.
    fn seal(
        &mut self,
        row: Row,
        mut event: v1::Event,
        actor: Option<Arc<ProcessImage>>,
    ) -> Option<Sent> {
        let parent = actor.as_ref().and_then(|actor| self.table.parent(actor));
        let subject = filter::Subject {
            event: &event,
            process: actor.as_ref().map(|actor| &actor.process),
            parent: parent.as_ref().map(|parent| &parent.process),
        };
        let decision = self.filter.decide(&subject);
        match (decision.action(), decision) {
            (RuleAction::Include, _) => {}
            (RuleAction::Exclude, filter::Decision::Rule(rule, _)) => {
                self.ledger.filtered(row, &rule.id);
                return None;
            }
            (RuleAction::Aggregate, filter::Decision::Rule(rule, _)) => {
                self.ledger.merged(row);
                for displaced in self.aggregator.push(&rule.id, event) {
                    self.aggregates_displaced += 1;
                    self.deliver(displaced, None, None);
                }
                return None;
            }
            (RuleAction::Exclude | RuleAction::Aggregate, filter::Decision::Default) => {}
        }
        self.counter += 1;
        let id = v1::EventId {
            counter: self.counter,
            ..v1::EventId::default()
        };
        event.id = Some(id.clone());
        let sent = Sent {
            id,
            event_type: event.event_type(),
            process: event.process.clone(),
            file: match &event.body {
                Some(Body::FileCreate(body)) => body.file.as_ref(),
                Some(Body::ModuleLoad(body)) => body.file.as_ref(),
                _ => None,
            }
            .map(FileNumbers::of),
        };
        self.ledger.sealed(row);
        self.render(event, actor.as_ref(), parent.as_ref());
        Some(sent)
    }

    /// An event of the daemon's own making: a patch or an aggregate.
    fn deliver(
        &mut self,
        mut event: v1::Event,
        actor: Option<Arc<ProcessImage>>,
        parent: Option<Arc<ProcessImage>>,
    ) {
        self.counter += 1;
        event.id = Some(v1::EventId {
            counter: self.counter,
            ..v1::EventId::default()
        });
        let row = if event.event_type() == v1::EventType::Aggregate {
            Row::Aggregate
        } else {
            Row::Patch
        };
        self.ledger.synthesised(row);
        self.ledger.sealed(row);
        self.render(event, actor.as_ref(), parent.as_ref());
    }

    fn render(
        &mut self,
        mut event: v1::Event,
        actor: Option<&Arc<ProcessImage>>,
        parent: Option<&Arc<ProcessImage>>,
    ) {
        if self.live {
            // A replay gives the same events each time; when it was processed says nothing there.
            event.processed_time_ns = self.clock.wall_now_ns().ok();
        }
        let table = &mut self.table;
        self.output.event(
            &event,
            actor.map(Arc::as_ref),
            parent.map(|parent| &parent.process),
            |image| table.ancestors(image),
        );
        let now = self.packet_now();
        if let Some(packets) = &mut self.packets
            && let Some(full) = packets.event(event, actor, &mut self.table, now)
        {
            self.seal_packet(full);
        }
    }

    /// Seals the packet of a stream, with the account as it stands.
    fn seal_packet(&mut self, stream: v1::Stream) {
        self.account();
        if let Some(packets) = &mut self.packets
            && let Err(error) = packets.seal(stream, &mut self.ledger)
        {
            tracing::error!(%error, ?stream, "a packet is not in the spool");
        }
    }

    /// Seals what is due and says when there will be more to seal.
    fn seal_due(&mut self) -> Option<Duration> {
        let now = self.packet_now();
        let until = |next: u64| Duration::from_nanos(next.saturating_sub(now));
        // Two streams: a third round would find nothing.
        for _ in 0..2 {
            let (due, next_ns) = self.packets.as_ref()?.due(now);
            let Some(stream) = due else {
                return Some(until(next_ns));
            };
            self.seal_packet(stream);
        }
        self.packets
            .as_ref()
            .map(|packets| until(packets.due(now).1))
    }

    /// The hash of an event that has left.
    fn patch(&mut self, sent: &Sent, slot: Slot, result: &HashResult) {
        let mut whole = None;
        if matches!(slot, Slot::Image | Slot::Script(_))
            && let Some(process) = &sent.process
            && let Some(start) = process.start_boot_ns
        {
            let key = self.table.key(process.pid, start);
            self.table.update(key, process.exec_id, |row| {
                if let Some(file) = process_file(row, slot) {
                    put_hash(file, result);
                    whole = Some(file.clone());
                }
            });
        }
        if sent.event_type == v1::EventType::Unspecified {
            return;
        }
        let watched = slot == Slot::Watched;
        let file = whole.unwrap_or_else(|| {
            let mut file = sent.file.map(FileNumbers::info).unwrap_or_default();
            if watched {
                put_final(&self.context(), &mut file, result);
            }
            put_hash(&mut file, result);
            file
        });
        if watched && result.verdict == v1::HashVerdict::Verified {
            // Only what nobody writes any more is verified: this is the close that no hook of this backend saw.
            return self.patch_event(sent, v1::patch::Part::ClosedFile(file));
        }
        let (slot, index) = slot.schema();
        let part = v1::FilePatch {
            slot: slot.into(),
            index,
            file: Some(file),
        };
        self.patch_event(sent, v1::patch::Part::File(part));
    }

    fn patch_closed(&mut self, sent: Sent, mut closed: v1::FileInfo, result: &HashResult) {
        put_hash(&mut closed, result);
        self.patch_event(&sent, v1::patch::Part::ClosedFile(closed));
    }

    fn patch_event(&mut self, sent: &Sent, mut part: v1::patch::Part) {
        if let (Some(file), Some(process)) = (part_file(&mut part), &sent.process) {
            let key = self
                .table
                .key(process.pid, process.start_boot_ns.unwrap_or(0));
            if let Some(row) = self.table.find(key) {
                self.table.describer.name_file(file, &row.process);
            }
        }
        let now = self.now();
        let event = v1::Event {
            time_ns: self.clock.wall_ns(now),
            time_boot_ns: now,
            backend: v1::Backend::Daemon.into(),
            process: sent.process.clone(),
            body: Some(Body::Patch(v1::Patch {
                // A row that no event began has no number.
                of: (sent.id.counter != 0).then(|| sent.id.clone()),
                of_type: sent.event_type.into(),
                part: Some(part),
            })),
            ..v1::Event::default()
        };
        let actor = sent.process.as_ref().and_then(|process| {
            let key = self.table.key(process.pid, process.start_boot_ns?);
            self.table.find_program(key, process.exec_id)
        });
        self.deliver(event, actor, None);
    }
}

/// The file that a patch tells.
fn part_file(part: &mut v1::patch::Part) -> Option<&mut v1::FileInfo> {
    match part {
        v1::patch::Part::File(patch) => patch.file.as_mut(),
        v1::patch::Part::ClosedFile(file) => Some(file),
        v1::patch::Part::Process(_) | v1::patch::Part::Connect(_) => None,
    }
}

/// A hash that is there, or the reason why there is none and none will come.
#[derive(Debug)]
enum Ready {
    Known(Box<v1::Hashes>, Arc<FileFacts>),
    Refused,
}

impl Ready {
    fn of(hash: EarlyHash) -> Option<Self> {
        match hash {
            EarlyHash::Known(hashes, facts) => Some(Self::Known(hashes, facts)),
            EarlyHash::Refused => Some(Self::Refused),
            EarlyHash::None | EarlyHash::Asked(_) => None,
        }
    }

    fn put(self, file: &mut v1::FileInfo) {
        unawait(file);
        match self {
            Self::Known(hashes, facts) => {
                file.hashes = Some(*hashes);
                put_facts(file, &facts);
            }
            Self::Refused => file.absent.push(v1::Absent::new(
                field::file_info::HASHES,
                v1::AbsentReason::ReleasedEarly,
            )),
        }
    }
}

fn sort(hash: EarlyHash, slot: Slot, waits: &mut Vec<(u64, Slot)>, ready: &mut Vec<(Slot, Ready)>) {
    match hash {
        EarlyHash::Asked(token) => waits.push((token, slot)),
        EarlyHash::None | EarlyHash::Known(..) | EarlyHash::Refused => {
            ready.extend(Ready::of(hash).map(|hash| (slot, hash)));
        }
    }
}

fn process_file(process: &mut v1::Process, slot: Slot) -> Option<&mut v1::FileInfo> {
    match slot {
        Slot::Image => process.image.as_mut(),
        Slot::Script(index) => process.script_chain.get_mut(usize::try_from(index).ok()?),
        Slot::Created | Slot::Watched | Slot::Module => None,
    }
}

fn event_file(event: &mut v1::Event, slot: Slot) -> Option<&mut v1::FileInfo> {
    match (&mut event.body, slot) {
        (Some(Body::FileCreate(body)), Slot::Created | Slot::Watched) => body.file.as_mut(),
        (Some(Body::ModuleLoad(body)), Slot::Module) => body.file.as_mut(),
        _ => None,
    }
}

/// The hash follows.
fn await_hash(file: &mut v1::FileInfo) {
    file.absent.push(v1::Absent::new(
        field::file_info::HASHES,
        v1::AbsentReason::Pending,
    ));
}

fn unawait(file: &mut v1::FileInfo) {
    file.absent
        .retain(|gap| gap.field != field::file_info::HASHES);
}

fn put_hash(file: &mut v1::FileInfo, result: &HashResult) {
    unawait(file);
    match result.message() {
        Some(hashes) => file.hashes = Some(hashes),
        None => file.absent.push(v1::Absent::new(
            field::file_info::HASHES,
            v1::AbsentReason::ReleasedEarly,
        )),
    }
    if let Some(facts) = &result.facts {
        put_facts(file, facts);
    }
    file.default_acl.clone_from(&result.default_acl);
}

/// The file as it was when its last writer had gone, where the hash pool or the watch saw it.
fn put_final(context: &Context<'_>, file: &mut v1::FileInfo, result: &HashResult) {
    let Some(identity) = &result.identity else {
        return;
    };
    let path = TextRef {
        bytes: b"",
        text: Text {
            len: 0,
            true_len: Text::ABSENT,
        },
    };
    let last = event::file_info(context, identity, path);
    // Of a patch these are all that says which file it is.
    file.device = file.device.or(last.device);
    file.inode = file.inode.or(last.inode);
    file.generation = file.generation.or(last.generation);
    event::merge_closed(file, last);
}

/// The result for a created file that nobody could open.
fn unread(token: u64, end: CloseEnd) -> HashResult {
    let (verdict, released) = match end {
        CloseEnd::Gone => (v1::HashVerdict::Gone, None),
        CloseEnd::Replaced => (v1::HashVerdict::Drifted, None),
        CloseEnd::Unreadable => (v1::HashVerdict::Unreadable, None),
        CloseEnd::RefusedFs => (v1::HashVerdict::RefusedFs, None),
        CloseEnd::StillOpen => (v1::HashVerdict::Open, None),
        CloseEnd::Stopped => (v1::HashVerdict::Unspecified, Some(Released::Stopped)),
        CloseEnd::Lease | CloseEnd::Notified | CloseEnd::Quiet | CloseEnd::Displaced => {
            (v1::HashVerdict::Unspecified, Some(Released::QueueFull))
        }
    };
    HashResult {
        token,
        verdict,
        source: v1::HashSource::Unspecified,
        digests: None,
        identity: None,
        facts: None,
        default_acl: None,
        cached: false,
        released,
    }
}

/// What the open file said of itself beyond its hash.
fn put_facts(file: &mut v1::FileInfo, facts: &FileFacts) {
    file.btime_ns = facts.btime_ns;
    file.attributes = Some(facts.attributes);
    file.set_content_type(facts.content);
    file.capabilities = facts.capabilities;
    file.acl.clone_from(&facts.acl);
    if let (Some(device), Some(inode)) = (file.device, file.inode) {
        let id = sensor_proto::identity::file_unique_id(
            facts.fs_id,
            device,
            inode,
            file.generation.filter(|generation| *generation != 0),
            facts.btime_ns,
        );
        file.unique_id = Some(id.as_bytes().to_vec());
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
