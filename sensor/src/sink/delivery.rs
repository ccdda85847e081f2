//! Delivery of packets to receivers, most of them elsewhere: one worker per sink takes packets from the spool by its cursor, hands them to
//! the receiver within a window of bytes, and takes what the receiver says of each. Refuses to keep anything that the spool
//! does not have: what is on the way when a connection ends is given again after [`Spool::rewind`](crate::spool::Spool::rewind).
//!
//! A further kind of receiver is a variant of [`Receiver`] and of [`Session`]: `open` connects and says its [`Terms`], `send`
//! takes a packet without waiting (the worker keeps within the terms), `outcome` waits for the next [`Outcome`] and may be
//! dropped while it waits; or its session is a [`Piped`], whose task does the same. Every error is a [`Fault`]: it ends the session, and the worker tries again with growing pauses.
//!
//! Memory: the window, once as packets that wait for their acknowledgement and once at most on their way into the connection,
//! whatever the receiver does.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::config::{ReceiverConfig, SinkConfig};
use crate::confine::{Confinement, Role};
use crate::ledger::SinkAccount;
use crate::sink::central_node::{CentralNode, NodeSession};
use crate::sink::jetstream::JetStream;
use crate::sink::kafka::Kafka;
use crate::sink::local::Local;
use crate::sink::otlp::Otlp;
use crate::sink::piped::Piped;
use crate::sink::synchronize::{Management, Synchronizer};
use crate::spool::{Entry, Item, Now, PacketId, SharedSpool, SinkError};

/// Threads for all sinks together: they wait for the network most of the time.
const THREADS: usize = 2;
/// First pause after a fault.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// A receiver may ask for a longer pause than the configuration's; not for a longer one than this.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// The spool rings when there is something new; this is for a ring that was missed while its disk could not be read.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Packets on the way at once; small packets must not be without number.
pub const MAX_IN_FLIGHT: usize = 1_024;
/// A receiver that takes less is none.
pub const LEAST_PACKET_BYTES: usize = 64 << 10;

/// What the receiver says of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is safe there.
    Acked,
    /// Not now: the session ends, and everything that is not acknowledged is offered again.
    Retry {
        /// Why.
        why: String,
        /// How long the receiver wants to be left alone; none: it does not say.
        after: Option<Duration>,
    },
    /// Refused for good: it is set aside.
    Rejected {
        /// Why.
        why: String,
    },
}

/// Why a session could not begin or cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word}: {why}")]
pub struct Fault {
    /// A short word for the status: `name`, `unreachable`, `timeout`, `proxy`, `certificate`, `own_certificate`, `tls`,
    /// `refused`, `credentials`, `no_stream`, `topic`, `protocol`, `closed`, `silent`, `output`, `retry`, `spool`.
    pub word: &'static str,
    /// For people; no secrets, and nothing of the receiver's but shortened printable text.
    pub why: String,
    /// How long the receiver wants to be left alone.
    pub after: Option<Duration>,
}

impl Fault {
    /// A fault without a wish for a pause.
    pub fn new(word: &'static str, why: impl Into<String>) -> Self {
        Self {
            word,
            why: why.into(),
            after: None,
        }
    }

    /// The receiver broke the protocol; counted.
    pub fn protocol(why: impl Into<String>) -> Self {
        Self::new(PROTOCOL, why)
    }

    /// An error with its causes on one line.
    pub fn of(word: &'static str, error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let line = error.to_string();
            if !text.contains(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            cause = error.source();
        }
        Self::new(word, printable(&text))
    }
}

/// Word of faults that the receiver's protocol errors are.
pub const PROTOCOL: &str = "protocol";
/// Text of others that is kept, in characters.
const MAX_TEXT: usize = 300;

/// Text that may come from elsewhere, fit for a terminal and a log.
pub fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// What a receiver allows in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Bytes on the way at most; one packet always.
    pub window_bytes: usize,
    /// Longest packet.
    pub max_packet_bytes: usize,
}

/// A kind of receiver, with what it needs to connect.
#[derive(Debug)]
pub enum Receiver {
    /// The central node.
    CentralNode(CentralNode),
    /// NATS JetStream.
    JetStream(JetStream),
    /// Kafka.
    Kafka(Kafka),
    /// An OTLP receiver.
    Otlp(Otlp),
    /// A file or standard output.
    Local(Local),
}

impl Receiver {
    fn new(config: &ReceiverConfig, context: &Context) -> Self {
        match config {
            ReceiverConfig::CentralNode(node) => {
                Self::CentralNode(CentralNode::new(node.clone(), context.agent_id()))
            }
            ReceiverConfig::JetStream(config) => {
                Self::JetStream(JetStream::new(config.clone(), context.agent_id()))
            }
            ReceiverConfig::Kafka(kafka) => {
                Self::Kafka(Kafka::new(kafka.clone(), context.agent_id()))
            }
            ReceiverConfig::Otlp(config) => Self::Otlp(Otlp::new(config.clone())),
            ReceiverConfig::File(config) => {
                Self::Local(Local::file(config.clone(), Arc::clone(&context.clock)))
            }
            ReceiverConfig::Stdout(format) => Self::Local(Local::stdout(*format)),
        }
    }

    async fn open(&mut self, waiting: &VecDeque<Entry>) -> Result<(Session, Terms), Fault> {
        match self {
            Self::CentralNode(node) => {
                let (session, terms) = node.open(waiting).await?;
                Ok((Session::CentralNode(Box::new(session)), terms))
            }
            Self::Otlp(receiver) => {
                let (session, terms) = receiver.open().await?;
                Ok((Session::Piped(session), terms))
            }
            Self::Local(place) => {
                let (session, terms) = place.open().await?;
                Ok((Session::Piped(session), terms))
            }
            Self::JetStream(server) => {
                let (session, terms) = server.open().await?;
                Ok((Session::Piped(session), terms))
            }
            Self::Kafka(kafka) => {
                let (session, terms) = kafka.open().await?;
                Ok((Session::Piped(session), terms))
            }
        }
    }
}

/// A connection to a receiver.
#[derive(Debug)]
pub enum Session {
    /// To the central node.
    CentralNode(Box<NodeSession>),
    /// Done by a task.
    Piped(Piped),
}

impl Session {
    fn send(&mut self, packet: &Entry) -> Result<(), Fault> {
        match self {
            Self::CentralNode(session) => session.send(packet),
            Self::Piped(session) => session.send(packet),
        }
    }

    async fn outcome(&mut self) -> Result<(PacketId, Outcome), Fault> {
        match self {
            Self::CentralNode(session) => session.outcome().await,
            Self::Piped(session) => session.outcome().await,
        }
    }
}

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where packets are.
    pub spool: SharedSpool,
    /// The clocks.
    pub clock: Arc<Clock>,
}

impl Context {
    /// Now, for the spool; a clock that cannot be read stands still.
    pub fn now(&self) -> Now {
        Now {
            wall_ns: self.clock.wall_now_ns().unwrap_or_default(),
            boot_ns: self.clock.boot_ns().unwrap_or_default(),
        }
    }

    fn agent_id(&self) -> [u8; 16] {
        let id = self.spool.with(|spool| spool.identity().agent_id);
        id.unwrap_or_default()
    }
}

/// Where a sink stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It has not connected yet.
    Starting,
    /// Connected; packets go out as they come.
    Delivering {
        /// Wall clock, ns since 1970.
        since_ns: i64,
    },
    /// Not connected; it is tried again.
    Retrying {
        /// Since when nothing was acknowledged for it: wall clock, ns since 1970.
        since_ns: i64,
        /// [`Fault::word`].
        word: &'static str,
        /// [`Fault::why`].
        why: String,
        /// Attempts since.
        attempts: u64,
    },
    /// Over.
    Stopped,
}

/// What a sink does and has done, without its account, which the spool keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Name in the configuration.
    pub name: String,
    /// Kind of receiver.
    pub kind: &'static str,
    /// Where the receiver is.
    pub address: String,
    /// Where it stands.
    #[serde(flatten)]
    pub state: State,
    /// Sessions that began.
    pub sessions: u64,
    /// Sessions and attempts that ended with a fault, by word.
    pub faults: BTreeMap<&'static str, u64>,
    /// The last of them, as text.
    pub last_fault: Option<String>,
    /// Packets acknowledged.
    pub acked_packets: u64,
    /// Bytes of them.
    pub acked_bytes: u64,
    /// Packets refused for good, and set aside.
    pub rejected_packets: u64,
    /// The last reason for that.
    pub last_rejection: Option<String>,
    /// Gaps passed: packets that were given up before this sink had them.
    pub gaps: u64,
    /// Last acknowledgement: wall clock, ns since 1970.
    pub last_ack_ns: Option<i64>,
    /// Last synchronisation: wall clock, ns since 1970; central nodes only.
    pub last_sync_ns: Option<i64>,
    /// Synchronisations that failed.
    pub sync_faults: u64,
    /// Why the last of them did.
    pub last_sync_fault: Option<String>,
    /// Packets on the way.
    pub in_flight_packets: usize,
    /// Bytes of them.
    pub in_flight_bytes: usize,
}

/// The health of one sink; shared between its worker and those who ask.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Health>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Health> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.lock());
    }

    /// As it stands.
    #[must_use]
    pub fn health(&self) -> Health {
        self.lock().clone()
    }
}

/// Why delivery cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The threads cannot be started.
    #[error("cannot start the threads of the sinks")]
    Threads(#[source] std::io::Error),
    /// The spool does not serve the sink.
    #[error(transparent)]
    Spool(#[from] SinkError),
}

/// All workers.
#[derive(Debug)]
pub struct Delivery {
    runtime: tokio::runtime::Runtime,
    stop: watch::Sender<Option<Instant>>,
    workers: Vec<(Shared, JoinHandle<()>)>,
    context: Context,
}

impl Delivery {
    /// Starts a worker for every sink; none and no thread without sinks. With `management`, central nodes are told of the
    /// sensor's state, and the first of them by name gives settings.
    ///
    /// # Errors
    /// [`DeliveryError`].
    pub fn start(
        sinks: &BTreeMap<String, SinkConfig>,
        context: &Context,
        management: Option<&Management>,
        confinement: &Confinement,
    ) -> Result<Option<Self>, DeliveryError> {
        if sinks.is_empty() {
            return Ok(None);
        }
        let confined = confinement.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("sinks")
            .on_thread_start(move || confined.enter(Role::Delivery))
            .enable_all()
            .build()
            .map_err(DeliveryError::Threads)?;
        let (stop, stopped) = watch::channel(None);
        let mut workers = Vec::new();
        let mut decides = true;
        for (name, config) in sinks {
            context
                .spool
                .with(|spool| spool.add_sink(name))
                .transpose()?;
            let health = Shared(Arc::new(Mutex::new(Health {
                name: name.clone(),
                kind: config.receiver.name(),
                address: config.receiver.address(),
                state: State::Starting,
                sessions: 0,
                faults: BTreeMap::new(),
                last_fault: None,
                acked_packets: 0,
                acked_bytes: 0,
                rejected_packets: 0,
                last_rejection: None,
                gaps: 0,
                last_ack_ns: None,
                last_sync_ns: None,
                sync_faults: 0,
                last_sync_fault: None,
                in_flight_packets: 0,
                in_flight_bytes: 0,
            })));
            let news = Arc::new(Notify::new());
            let bell = Arc::clone(&news);
            context.spool.on_news(move || bell.notify_one());
            let receiver = Receiver::new(&config.receiver, context);
            if let (
                Receiver::CentralNode(node),
                ReceiverConfig::CentralNode(config),
                Some(management),
            ) = (&receiver, &config.receiver, management)
            {
                let synchronizer = Synchronizer {
                    config: config.clone(),
                    context: context.clone(),
                    management: management.clone(),
                    decides: std::mem::take(&mut decides),
                    health: health.clone(),
                    line: node.line(),
                    refused: HashSet::new(),
                };
                runtime.spawn(synchronizer.run(stopped.clone()));
            }
            let worker = Worker {
                name: name.clone(),
                config: config.clone(),
                receiver,
                context: context.clone(),
                health: health.clone(),
                news,
                stop: stopped.clone(),
                waiting: VecDeque::new(),
                in_flight: HashMap::new(),
                in_flight_bytes: 0,
                acked: false,
            };
            workers.push((health, runtime.spawn(worker.run())));
        }
        Ok(Some(Self {
            runtime,
            stop,
            workers,
            context: context.clone(),
        }))
    }

    /// How every sink stands, by name.
    #[must_use]
    pub fn health(&self) -> Vec<Health> {
        let health = self.workers.iter().map(|(shared, _)| shared.health());
        health.collect()
    }

    /// What the workers share.
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// Delivers what waits to those who take it, for at most this time. What is left stays in the spool for the next run.
    pub fn stop(self, patience: Duration) -> Vec<Health> {
        let deadline = Instant::now() + patience;
        self.stop.send_replace(Some(deadline));
        let (shared, workers): (Vec<Shared>, Vec<JoinHandle<()>>) =
            self.workers.into_iter().unzip();
        self.runtime.block_on(async {
            for worker in workers {
                if let Ok(Err(error)) = tokio::time::timeout_at(deadline + GRACE, worker).await {
                    tracing::error!(%error, "a sink's worker ended by itself");
                }
            }
        });
        self.runtime.shutdown_timeout(GRACE);
        shared.iter().map(Shared::health).collect()
    }
}

/// What a worker that saw the deadline needs to end.
const GRACE: Duration = Duration::from_millis(500);

/// Cause in the ledger: the sink refused it for good, and it was set aside.
pub const SINK_REJECTED: &str = "sink_rejected";
/// Cause of what the spool had in memory at the end and the disk did not take.
pub const SINK_UNSAVED: &str = "spool_unsaved";

/// A sink's account as the ledger has it: what was given up before the sink had it, and what it refused, is lost to this sink.
#[must_use]
pub fn ledger_account(account: &crate::spool::SinkAccount) -> SinkAccount {
    let evicted = account.evicted.iter();
    let mut lost: BTreeMap<String, u64> = evicted
        .map(|(cause, counts)| (cause.name().to_owned(), counts.total()))
        .collect();
    lost.insert(SINK_REJECTED.to_owned(), account.rejected.total());
    lost.retain(|_, count| *count > 0);
    SinkAccount {
        sealed: account.sealed.total(),
        acked: account.acked.total(),
        lost,
        waiting: account.waiting.total(),
    }
}

struct Worker {
    name: String,
    config: SinkConfig,
    receiver: Receiver,
    context: Context,
    health: Shared,
    news: Arc<Notify>,
    stop: watch::Receiver<Option<Instant>>,
    /// Taken from the spool and not sent yet; counts in the window.
    waiting: VecDeque<Entry>,
    /// Sent and not settled.
    in_flight: HashMap<PacketId, Entry>,
    in_flight_bytes: usize,
    /// Something was settled in this session.
    acked: bool,
}

impl Worker {
    async fn run(mut self) {
        let mut pause = RETRY_FIRST;
        loop {
            self.acked = false;
            match self.session().await {
                Ok(()) => break,
                Err(fault) => {
                    if self.acked {
                        pause = RETRY_FIRST;
                    }
                    let stopping = self.stop.borrow().is_some();
                    let wanted = fault.after.unwrap_or_default().min(PAUSE_MAX);
                    self.failed(&fault);
                    // At a stop, who took something a moment ago is tried again, and who did not is not waited for.
                    if stopping && !self.acked {
                        break;
                    }
                    let asked = self.rest(jittered(pause).max(wanted)).await;
                    if asked && (fault.after.is_some() || !self.owes()) {
                        break;
                    }
                    pause = pause.saturating_mul(2).min(self.config.retry_max);
                }
            }
        }
        self.take_back();
        self.health.lock().state = State::Stopped;
    }

    /// One connection, from its beginning to its end; well only when a stop was asked for.
    async fn session(&mut self) -> Result<(), Fault> {
        self.take_back();
        let mut stop = self.stop.clone();
        self.refill(self.config.window_bytes)?;
        let given_up = self.given_up();
        let opened = tokio::select! {
            // What waits stays in the spool.
            () = given_up => return Ok(()),
            opened = self.receiver.open(&self.waiting) => opened,
        };
        let (mut session, terms) = opened?;
        let since_ns = self.context.now().wall_ns;
        {
            let mut health = self.health.lock();
            health.state = State::Delivering { since_ns };
            health.sessions += 1;
        }
        tracing::info!(sink = %self.name, "delivering");
        let window = terms.window_bytes.min(self.config.window_bytes);
        let mut progress = Instant::now();
        loop {
            let news = self.fill(&mut session, window, terms.max_packet_bytes)?;
            let stopping = *stop.borrow_and_update();
            if let Some(deadline) = stopping
                && (Instant::now() >= deadline
                    || (self.in_flight.is_empty() && self.waiting.is_empty()))
            {
                return Ok(());
            }
            if self.in_flight.is_empty() {
                progress = Instant::now();
            }
            let silent = progress + self.config.ack_timeout;
            let wake = match stopping {
                Some(deadline) => silent.min(deadline),
                None if self.in_flight.is_empty() => Instant::now() + LOOK_AGAIN,
                None => silent,
            };
            tokio::select! {
                told = session.outcome() => {
                    let (id, outcome) = told?;
                    self.settle(id, outcome)?;
                    progress = Instant::now();
                }
                () = self.news.notified(), if news => {}
                _ = stop.changed(), if stopping.is_none() => {}
                () = tokio::time::sleep_until(wake) => {
                    if !self.in_flight.is_empty() && Instant::now() >= silent {
                        let time = self.config.ack_timeout;
                        return Err(Fault::new("silent", format!("nothing was acknowledged for {time:?}")));
                    }
                }
            }
        }
    }

    /// Sends what the window allows; true if there is room, so that news of the spool matter.
    fn fill(
        &mut self,
        session: &mut Session,
        window: usize,
        longest: usize,
    ) -> Result<bool, Fault> {
        loop {
            if self.waiting.is_empty() {
                let room = window.saturating_sub(self.in_flight_bytes);
                if room == 0 || self.in_flight.len() >= MAX_IN_FLIGHT {
                    return Ok(false);
                }
                self.refill(room)?;
            }
            let Some(next) = self.waiting.front() else {
                return Ok(true);
            };
            let length = next.bytes.len();
            // One packet always, else one longer than the window would wait for ever.
            let fits = self.in_flight.is_empty() || self.in_flight_bytes + length <= window;
            if length <= longest && (!fits || self.in_flight.len() >= MAX_IN_FLIGHT) {
                return Ok(false);
            }
            let Some(packet) = self.waiting.pop_front() else {
                return Ok(true);
            };
            if length > longest {
                let why = format!("{length} bytes are more than the receiver takes ({longest})");
                self.reject(&packet, &why)?;
                continue;
            }
            session.send(&packet)?;
            self.in_flight_bytes += length;
            self.in_flight.insert(packet.id, packet);
            self.note_flight();
        }
    }

    /// Takes packets from the spool; gaps are passed at once, since packets tell of them.
    fn refill(&mut self, bytes: usize) -> Result<(), Fault> {
        let now = self.context.now();
        let Self { context, name, .. } = self;
        // The disk may be slow, and other sinks have something to do meanwhile.
        let items = tokio::task::block_in_place(|| {
            context.spool.with(|spool| spool.next(name, bytes, now))
        });
        let items = match items {
            None => return Err(Fault::new("spool", "the spool is closed")),
            Some(Err(error)) => return Err(Fault::of("spool", &error)),
            Some(Ok(items)) => items,
        };
        for item in items {
            match item {
                Item::Packet(entry) => self.waiting.push_back(entry),
                Item::Gap(gap) => {
                    let id = Item::Gap(gap).id();
                    self.tell_spool(|spool, sink| spool.ack(sink, id))?;
                    self.health.lock().gaps += 1;
                }
            }
        }
        Ok(())
    }

    fn settle(&mut self, id: PacketId, outcome: Outcome) -> Result<(), Fault> {
        match outcome {
            Outcome::Acked => {
                let packet = self.landed(id)?;
                self.tell_spool(|spool, sink| spool.ack(sink, id))?;
                let bytes = u64::try_from(packet.bytes.len()).unwrap_or(u64::MAX);
                let now = self.context.now().wall_ns;
                let mut health = self.health.lock();
                health.acked_packets += 1;
                health.acked_bytes = health.acked_bytes.saturating_add(bytes);
                health.last_ack_ns = Some(now);
                self.acked = true;
            }
            Outcome::Rejected { why } => {
                let packet = self.landed(id)?;
                self.reject(&packet, &why)?;
                self.acked = true;
            }
            Outcome::Retry { why, after } => {
                return Err(Fault {
                    word: "retry",
                    why,
                    after,
                });
            }
        }
        Ok(())
    }

    fn landed(&mut self, id: PacketId) -> Result<Entry, Fault> {
        let packet = self
            .in_flight
            .remove(&id)
            .ok_or_else(|| Fault::protocol(format!("an answer to what was not sent: {id:?}")))?;
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(packet.bytes.len());
        self.note_flight();
        Ok(packet)
    }

    fn reject(&mut self, packet: &Entry, why: &str) -> Result<(), Fault> {
        let now = self.context.now();
        tracing::warn!(sink = %self.name, id = ?packet.id, why, "a packet is refused for good and set aside");
        tokio::task::block_in_place(|| {
            self.tell_spool(|spool, sink| spool.reject(sink, packet, why, now))
        })?;
        let mut health = self.health.lock();
        health.rejected_packets += 1;
        health.last_rejection = Some(why.to_owned());
        Ok(())
    }

    fn tell_spool(
        &self,
        tell: impl FnOnce(&mut crate::spool::Spool, &str) -> Result<(), SinkError>,
    ) -> Result<(), Fault> {
        match self.context.spool.with(|spool| tell(spool, &self.name)) {
            None => Err(Fault::new("spool", "the spool is closed")),
            // Evicted meanwhile: the spool has settled it already and counts the answer.
            Some(Ok(()) | Err(SinkError::NotGiven { .. })) => Ok(()),
            Some(Err(error)) => Err(Fault::of("spool", &error)),
        }
    }

    /// What is taken and not settled is the spool's again.
    fn take_back(&mut self) {
        self.waiting.clear();
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.note_flight();
        let rewound = self.context.spool.with(|spool| spool.rewind(&self.name));
        if let Some(Err(error)) = rewound {
            tracing::error!(sink = %self.name, %error, "the spool does not take back what was not acknowledged");
        }
    }

    fn note_flight(&self) {
        let mut health = self.health.lock();
        health.in_flight_packets = self.in_flight.len();
        health.in_flight_bytes = self.in_flight_bytes;
    }

    fn failed(&self, fault: &Fault) {
        let now = self.context.now().wall_ns;
        let mut health = self.health.lock();
        *health.faults.entry(fault.word).or_default() += 1;
        health.last_fault = Some(fault.to_string());
        let (since_ns, attempts, same) = match &health.state {
            State::Retrying {
                since_ns,
                attempts,
                word,
                ..
            } => (*since_ns, attempts + 1, *word == fault.word),
            State::Starting | State::Delivering { .. } | State::Stopped => (now, 1, false),
        };
        health.state = State::Retrying {
            since_ns,
            word: fault.word,
            why: fault.why.clone(),
            attempts,
        };
        drop(health);
        if same {
            tracing::debug!(sink = %self.name, %fault, "still not delivering");
        } else {
            tracing::warn!(sink = %self.name, %fault, "not delivering, packets wait in the spool");
        }
    }

    /// Waits; true if a stop is asked for. A stop ends the wait, one that was asked for before lasts until its deadline.
    async fn rest(&mut self, time: Duration) -> bool {
        let deadline = *self.stop.borrow();
        if let Some(deadline) = deadline {
            tokio::time::sleep_until(deadline.min(Instant::now() + time)).await;
            return true;
        }
        tokio::select! {
            // An error means that nobody is left who could ask.
            _ = self.stop.wait_for(Option::is_some) => true,
            () = tokio::time::sleep(time) => false,
        }
    }

    /// Waits until connecting makes no sense any more: a stop was asked for, and its deadline has come or nothing waits.
    fn given_up(&self) -> impl Future<Output = ()> + use<> {
        let mut stop = self.stop.clone();
        let (context, name) = (self.context.clone(), self.name.clone());
        async move {
            let deadline = stop.wait_for(Option::is_some).await.map(|asked| *asked);
            if let Ok(Some(deadline)) = deadline
                && owes(&context, &name)
            {
                tokio::time::sleep_until(deadline).await;
            }
        }
    }

    /// Whether packets wait for this sink, and a stop leaves time for them.
    fn owes(&self) -> bool {
        let deadline = *self.stop.borrow();
        deadline.is_none_or(|deadline| Instant::now() < deadline) && owes(&self.context, &self.name)
    }
}

/// Whether packets wait for a sink.
fn owes(context: &Context, sink: &str) -> bool {
    let accounts = context.spool.with(|spool| spool.accounts());
    accounts
        .unwrap_or_default()
        .iter()
        .any(|account| account.name == sink && account.waiting_packets > 0)
}

/// Chance takes up to half, so that a fleet does not come back at one moment.
fn jittered(pause: Duration) -> Duration {
    let [chance, ..] = uuid::Uuid::new_v4().into_bytes();
    pause.mul_f64(0.5 + f64::from(chance) / 512.0)
}

#[cfg(test)]
pub(crate) mod tests;
