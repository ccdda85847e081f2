//! Builds every part, starts the threads, and stops them in order.
//!
//! Threads: this one waits for signals; `reader` empties the rings; `pipeline` owns everything between; the hash pool and
//! the sink have their own. At the end the hooks go first, then the rings are emptied, then what is under way is
//! finished, then the sink, and last the account is drawn up.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sensor_common::counter::KernelCounter;
use sensor_common::record::{Lane, RecordKind};

use crate::clock::{Clock, ClockError};
use crate::config::{Config, SettingsSource};
use crate::confine::{Confinement, Role};
use crate::control;
use crate::exit::ExitStatus;
use crate::filter::Filter;
use crate::kernel::feature::Features;
use crate::ledger::{KernelAccount, Ledger, QUEUE_FULL, Row, SELF_TEST, SinkAccount};
use crate::loader::{self, Counters, LoadError, LogObject, Skips};
use crate::metrics;
use crate::notify::Notifier;
use crate::packet::outlet::Account;
use crate::pipeline::Pipeline;
use crate::procfs::Proc;
use crate::reader::{self, BatchReceiver, Reader, ReaderCounters, ReaderError, Source};
use crate::recording::{Footer, Recorder, RecordingError};
use crate::sink::SinkHandle;
use crate::sink::delivery::{self, Context, Delivery};
use crate::sink::synchronize::SettingsReport;
use crate::spool::Counts;

mod build;
mod desk;
mod instance;
mod screen;
mod service;
mod settings;
mod signal;

use build::Confined;
use desk::Desk;
use instance::Instance;
pub use instance::InstanceError;
use screen::View;
use service::Service;
use signal::{Bell, Signals, Wake};

/// How long what is under way at the end may take: hashes of large files, a slow sink.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pipeline looks at its clock, and at the wall clock, at least so often.
const PULSE: Duration = Duration::from_millis(250);
/// How often the table of connects and the host's facts are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// TCP connects without a result for so long are reported as in progress.
const ATTEMPT_AGE: Duration = Duration::from_secs(1);
/// Attempts that are looked at in one round.
const ATTEMPTS_PER_ROUND: usize = 1_024;
/// Events in a full batch, about.
const EVENTS_PER_BATCH: usize = 512;
/// Memory of forgotten processes for which the heap is looked through.
const TRIM_BYTES: usize = 1 << 20;
/// A replay waits for sinks as long as they take something; one that takes nothing for so long is left.
const REPLAY_PATIENCE: Duration = Duration::from_secs(30);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(10);
/// How often `--stats` prints.
const STATISTICS_EVERY: Duration = Duration::from_secs(10);

/// What is asked of a run.
#[derive(Debug)]
pub struct Request<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Stop by itself after this time.
    pub duration: Option<Duration>,
    /// Print the account while running, and at the end as JSON too.
    pub stats: bool,
    /// Why the stored filter settings of the central node are left out; `None`: they are not, or there are none.
    pub settings_fault: Option<String>,
    /// The object whose programs log, if what they log is wanted.
    pub object: Option<LogObject>,
}

/// Where locks and control sockets are.
pub const RUNTIME_FOLDER: &str = instance::FOLDER;

/// Reads the rules anew, with these settings of the central node.
pub type Reload<'a> = &'a dyn Fn(SettingsSource) -> Result<Filter, String>;

/// Why a run could not begin or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another instance runs, or the lock cannot be had.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// Nothing could be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The output cannot be opened.
    #[error("cannot open the output")]
    Output(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The output was closed from the other side.
    #[error("the output was closed: {0}")]
    OutputClosed(String),
    /// The output did not take everything before the end.
    #[error("{0} events could not be written before the end")]
    OutputUnfinished(u64),
    /// Events in memory that no sink had and the spool's disk did not take.
    #[error("{0} events were neither delivered nor spooled: the state directory cannot be written")]
    Unsaved(u64),
    /// A recording cannot be written or read.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The reader ended by itself.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// A clock cannot be read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// A part could not be built.
    #[error("cannot start: {part}")]
    Start {
        /// Which.
        part: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A thread is gone without an answer.
    #[error("thread {0} panicked")]
    Panicked(&'static str),
}

impl RunError {
    fn start<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        part: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Start {
            part,
            source: source.into(),
        }
    }

    /// The exit code of the process.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::Instance(InstanceError::Running { .. }) => ExitStatus::AlreadyRunning,
            Self::Load(error) => error.status(),
            Self::Output(_)
            | Self::OutputClosed(_)
            | Self::OutputUnfinished(_)
            | Self::Unsaved(_)
            | Self::Instance(InstanceError::Io { .. }) => ExitStatus::Output,
            Self::Recording(RecordingError::Io { .. }) => ExitStatus::Output,
            Self::Recording(_) | Self::Instance(InstanceError::Scope { .. }) => ExitStatus::Usage,
            Self::Reader(ReaderError::Recording(_)) => ExitStatus::Usage,
            Self::Reader(_) | Self::Clock(_) | Self::Start { .. } | Self::Panicked(_) => {
                ExitStatus::Internal
            }
        }
    }
}

/// The account of a run that ended.
#[derive(Debug)]
pub struct Summary {
    /// All of it.
    pub ledger: Ledger,
    /// How long it ran.
    pub ran: Duration,
    /// Why it ended, if nobody asked it to.
    pub fault: Option<RunError>,
}

/// What the main thread tells the pipeline's.
enum Control {
    Filter(Filter),
    Ledger(SyncSender<Box<Ledger>>),
}

/// Watches this host until a signal comes, the time is up, or the output is closed.
///
/// `tell` is given the account as it stands, now and then, if statistics are asked for.
///
/// # Errors
/// [`RunError`].
pub fn live(
    request: &Request<'_>,
    filter: Filter,
    reload: Reload<'_>,
    tell: &mut dyn FnMut(&Ledger),
) -> Result<Summary, RunError> {
    let config = request.config;
    let called = Instant::now();
    let hidden = build::hide(config);
    let (proc, features) = look()?;
    let _instance = Instance::claim(Path::new(instance::FOLDER), config.scope_cgroup.as_deref())?;
    let bell = Arc::new(Bell::new().map_err(RunError::start("event descriptor"))?);
    let watched = build::watched(config);
    let signals = Signals::block(watched).map_err(RunError::start("signals"))?;
    let clock = Arc::new(Clock::new()?);
    let closed = build::Closed::default();
    let notifier = Notifier::from_environment();
    notifier.starting("attaching programs");
    let (mut kernel, source) = build::kernel(request, &features, &proc, &clock)?;
    let (context, opening) = build::spool(config, &proc, &clock)?.unzip();
    // Every thread that is started from here on has less than this one had.
    let confined = build::confine(config, &kernel, &proc, hidden, true);
    let confinement = &confined.confinement;
    let _log = kernel.follow_log(request)?;
    // Gives the terminal back wherever this function is left.
    let (sink, screen) = build::sink(config, &clock, &closed, &bell, watched, confinement)?;
    let mut view = View::new(screen, config, kernel.loaded.coverage());
    let counters = Arc::new(ReaderCounters::default());
    let packets = context
        .as_ref()
        .zip(opening.as_ref())
        .map(|(context, opening)| {
            let (skips, reader) = (Arc::clone(&kernel.skips), Arc::clone(&counters));
            let kernel = Arc::clone(&kernel.counters);
            let account = Account(Box::new(move |ledger| {
                account(ledger, &kernel, &skips, &reader);
            }));
            (context, opening, account)
        });
    let pipeline = build::pipeline(
        config,
        &kernel,
        &features,
        &proc,
        &clock,
        (filter, &confined),
        (sink, packets),
    )?;
    let keeper = context
        .as_ref()
        .map(|context| Keeper::start(context, config.spool.sync_period, confinement))
        .transpose()?;
    let (sender, receiver) = reader::queue(batches(config));
    let reader = Reader::spawn(
        source,
        sender,
        Arc::clone(&counters),
        None,
        Box::new(|| {}),
        confinement,
    )?;
    let began = Instant::now();
    let after_ms = u64::try_from((began - called).as_millis()).unwrap_or(u64::MAX);
    tracing::info!(layers = %confinement.brief(), "confined");
    tracing::info!(after_ms, hooks = %kernel.loaded.coverage().brief(), "ready");
    let (control, commands) = sync_channel(4);
    let connecting = kernel.connecting;
    let thread = std::thread::Builder::new()
        .name("pipeline".to_owned())
        .spawn(move || drive(pipeline, &receiver, &commands, Some(connecting)))
        .map_err(RunError::start("pipeline thread"))?;
    let (asker, questions) = desk::queue(&bell);
    let stored = settings::version(&config.state_directory);
    let report = Arc::new(Mutex::new(match &request.settings_fault {
        None => SettingsReport {
            applied: stored,
            refused: None,
        },
        Some(why) => SettingsReport {
            applied: None,
            refused: stored.map(|version| (version, why.clone())),
        },
    }));
    let delivery = match &context {
        None => None,
        Some(context) => {
            let management = build::management(
                config,
                (kernel.loaded.coverage(), kernel.self_test_passed),
                &proc,
                &report,
                asker.apply(),
            );
            Delivery::start(&config.sinks, context, Some(&management), confinement)
                .map_err(RunError::start("sinks"))?
        }
    };
    let socket = control::socket_path(Path::new(instance::FOLDER), config.scope_cgroup.as_deref())
        .map_err(RunError::start("control socket"))?;
    let socket = control::Server::start(&socket, asker.control(), confinement)
        .map_err(RunError::start("control socket"))?;
    let metrics = config
        .metrics
        .clone()
        .map(|address| metrics::Server::start(address, asker.status(), confinement))
        .transpose()
        .map_err(RunError::start("metrics"))?;
    let desk = Desk {
        config,
        reload,
        pipeline: &control,
        kernel: &kernel.counters,
        skips: &kernel.skips,
        reader: &counters,
        hooks: kernel.loaded.coverage().brief(),
        clock: &clock,
        proc: &proc,
        began,
        context: context.as_ref(),
        delivery: delivery.as_ref(),
        settings: &report,
        confinement,
    };
    let deadline = request.duration.map(|duration| began + duration);
    let mut next_statistics = request.stats.then(|| began + STATISTICS_EVERY);
    let mut service = Service::new(&notifier, &config.events, kernel.loaded.coverage());
    service.ready();
    let fault = loop {
        let until = [deadline, next_statistics, service.due(), view.due()]
            .into_iter()
            .flatten()
            .min();
        match signals
            .wait(&bell, until)
            .map_err(RunError::start("signals"))?
        {
            Wake::Stop => break None,
            Wake::Reload => {
                service.reloading();
                if let Err(fault) = desk.reload(SettingsSource::Stored) {
                    tracing::error!(%fault, "filter rules not reloaded, the old ones stay");
                }
                service.ready();
            }
            Wake::Bell => {
                let reason = closed.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(reason) = reason {
                    break Some(RunError::OutputClosed(reason));
                }
                if view.left() {
                    break None;
                }
                desk.answer(&questions);
            }
            Wake::Suspend => view.suspend(&signals),
            Wake::Continued => view.continued(),
            Wake::Resized => view.resized(),
            Wake::Statistics => {
                if let Some(ledger) = desk.ledger() {
                    tell(&ledger);
                }
            }
            Wake::Timeout => {
                let now = Instant::now();
                if deadline.is_some_and(|deadline| now >= deadline) {
                    break None;
                }
                let ledger = desk.ledger();
                if next_statistics.is_some_and(|next| now >= next) {
                    next_statistics = Some(now + STATISTICS_EVERY);
                    if let Some(ledger) = &ledger {
                        tell(ledger);
                    }
                }
                service.look(now, ledger.as_ref());
                view.look(now, ledger.as_ref());
            }
        }
    };
    service.stopping();
    // Questions from here on find nobody.
    drop(questions);
    drop((socket, metrics));
    // No hook fires from here on.
    drop(kernel.loaded);
    reader.stop();
    let read = reader.join();
    drop(control);
    let (mut ledger, sink) = thread
        .join()
        .map_err(|_panic| RunError::Panicked("pipeline"))?;
    account(&mut ledger, &kernel.counters, &kernel.skips, &counters);
    let unwritten = close(&mut ledger, sink);
    drop(keeper);
    let unsaved = context
        .as_ref()
        .map_or(0, |context| finish_delivery(&mut ledger, context, delivery));
    let fault = fault
        .or_else(|| closed_reason(&closed))
        .or_else(|| read.err().map(RunError::from))
        .or_else(|| (unwritten > 0).then_some(RunError::OutputUnfinished(unwritten)))
        .or_else(|| (unsaved > 0).then_some(RunError::Unsaved(unsaved)));
    Ok(Summary {
        ledger,
        ran: began.elapsed(),
        fault,
    })
}

/// What this kernel can do. Without the privilege to load programs nothing else is tried: who lacks it is told that, not
/// that some file cannot be made.
fn look() -> Result<(Proc, Features), LoadError> {
    let proc = Proc::new("/proc");
    let features = Features::probe(&proc);
    let missing = features.capabilities.missing_for_load();
    if missing.is_empty() {
        Ok((proc, features))
    } else {
        Err(LoadError::MissingCapability { missing })
    }
}

fn closed_reason(closed: &build::Closed) -> Option<RunError> {
    let reason = closed.lock().unwrap_or_else(PoisonError::into_inner).take();
    reason.map(RunError::OutputClosed)
}

/// Writes the kernel's records to a file until a signal comes or the time is up; the account's sink is the recording.
///
/// # Errors
/// [`RunError`].
pub fn record(request: &Request<'_>, file: &Path) -> Result<Summary, RunError> {
    let config = request.config;
    let hidden = build::hide(config);
    let (proc, features) = look()?;
    let _instance = Instance::claim(Path::new(instance::FOLDER), config.scope_cgroup.as_deref())?;
    let bell = Bell::new().map_err(RunError::start("event descriptor"))?;
    let signals = Signals::block(false).map_err(RunError::start("signals"))?;
    let clock = Clock::new()?;
    let (mut kernel, source) = build::kernel(request, &features, &proc, &clock)?;
    let header = build::recording_header(&kernel, &features, &proc, &clock)?;
    let mut taking = Taking {
        recorder: Recorder::create(file, &header)?,
        own_child: kernel.child_tgid,
        ledger: Ledger::new(),
        written: 0,
    };
    // The file is open; nothing else is written.
    let Confined { confinement, .. } = build::confine(config, &kernel, &proc, hidden, false);
    let _log = kernel.follow_log(request)?;
    let counters = Arc::new(ReaderCounters::default());
    let (sender, receiver) = reader::queue(batches(config));
    let reader = Reader::spawn(
        source,
        sender,
        Arc::clone(&counters),
        None,
        Box::new(|| {}),
        &confinement,
    )?;
    let began = Instant::now();
    let thread = std::thread::Builder::new()
        .name("recorder".to_owned())
        .spawn(move || -> Result<Taking, RecordingError> {
            confinement.enter(Role::Output);
            loop {
                match receiver.receive(PULSE) {
                    Ok(batch) => {
                        for sample in batch.iter() {
                            taking.sample(sample)?;
                        }
                        receiver.recycle(batch);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(taking),
                }
            }
        })
        .map_err(RunError::start("recorder thread"))?;
    tracing::info!(hooks = %kernel.loaded.coverage().brief(), "ready");
    let deadline = request.duration.map(|duration| Instant::now() + duration);
    while !thread.is_finished() {
        let pulse = Instant::now() + ROUND;
        let until = deadline.map_or(pulse, |deadline| deadline.min(pulse));
        match signals
            .wait(&bell, Some(until))
            .map_err(RunError::start("signals"))?
        {
            Wake::Stop => break,
            Wake::Timeout if deadline.is_some_and(|deadline| Instant::now() >= deadline) => break,
            Wake::Timeout
            | Wake::Reload
            | Wake::Statistics
            | Wake::Suspend
            | Wake::Continued
            | Wake::Resized
            | Wake::Bell => {}
        }
    }
    drop(kernel.loaded);
    reader.stop();
    let read = reader.join();
    let Taking {
        recorder,
        mut ledger,
        written,
        ..
    } = thread
        .join()
        .map_err(|_panic| RunError::Panicked("recorder"))??;
    account(&mut ledger, &kernel.counters, &kernel.skips, &counters);
    let footer = footer(&ledger, &kernel.counters, &counters)?;
    read?;
    recorder.finish(&footer)?;
    let account = SinkAccount {
        sealed: written,
        acked: written,
        ..SinkAccount::default()
    };
    ledger.sink("recording", account);
    Ok(Summary {
        ledger,
        ran: began.elapsed(),
        fault: None,
    })
}

/// What the recorder's thread has.
struct Taking {
    recorder: Recorder,
    /// The self-test's child, whose records are no news, until its end.
    own_child: Option<u32>,
    ledger: Ledger,
    written: u64,
}

impl Taking {
    /// Writes one sample, whatever it is: what cannot be parsed is what somebody will want to look at.
    fn sample(&mut self, sample: &[u8]) -> Result<(), RecordingError> {
        let header = reader::header_of(sample);
        let kind = header.and_then(|header| RecordKind::from_number(header.kind));
        let row = kind.map_or(Row::Unknown, Row::Kind);
        self.ledger.decoded(row);
        if let (Some(header), Some(kind)) = (header, kind)
            && self.own_child == Some(header.tgid)
        {
            self.ledger.filtered(row, SELF_TEST);
            if kind == RecordKind::Exit {
                self.own_child = None;
            }
            return Ok(());
        }
        self.recorder.write(sample)?;
        self.ledger.sealed(row);
        self.written = self.written.saturating_add(1);
        Ok(())
    }
}

/// What a recording says at its end: what happened to the records that are not in it.
fn footer(ledger: &Ledger, kernel: &Counters, reader: &ReaderCounters) -> Result<Footer, RunError> {
    let table = kernel.read().map_err(RunError::start("kernel counters"))?;
    let mut footer = Footer {
        unseen_at_most: ledger.unseen_at_most().clone(),
        ..Footer::default()
    };
    for kind in RecordKind::ALL {
        let values = KernelCounter::ALL
            .iter()
            .map(|counter| table.value(*kind, *counter));
        footer
            .counters
            .insert(kind.name().to_owned(), values.collect());
    }
    for row in Row::all() {
        let account = ledger.account(row).daemon;
        for (cause, counts, into) in [
            (QUEUE_FULL, &account.lost_in_reader, &mut footer.queue_full),
            (SELF_TEST, &account.filtered, &mut footer.self_test),
        ] {
            if let Some(count) = counts.get(cause) {
                into.insert(row.name().to_owned(), *count);
            }
        }
    }
    for lane in Lane::ALL {
        footer
            .sequence_gaps
            .insert(lane.name().to_owned(), reader.missing(lane));
    }
    Ok(footer)
}

/// Enters what a recording says of the records that are not in it.
fn recorded(ledger: &mut Ledger, footer: &Footer) {
    for kind in RecordKind::ALL {
        if let Some(values) = footer.counters.get(kind.name()) {
            ledger.kernel(*kind, KernelAccount::from_counters(values));
        }
    }
    for row in Row::all() {
        let of = |counts: &BTreeMap<String, u64>| counts.get(row.name()).copied().unwrap_or(0);
        ledger.recorded(row, of(&footer.queue_full), of(&footer.self_test));
    }
    for lane in Lane::ALL {
        let missing = footer.sequence_gaps.get(lane.name()).copied();
        ledger.sequence_gap(lane.name(), missing.unwrap_or(0));
    }
    for (program, misses) in &footer.unseen_at_most {
        ledger.unseen(program, *misses);
    }
}

/// Sends a recording through the pipeline; with `deliver` through the spool to the sinks of the configuration, too, as fast as they
/// take it.
///
/// # Errors
/// [`RunError`].
pub fn replay(
    config: &Config,
    filter: Filter,
    file: &Path,
    deliver: bool,
) -> Result<Summary, RunError> {
    let began = Instant::now();
    let recording = crate::recording::Recording::open(file)?;
    let bell = Arc::new(Bell::new().map_err(RunError::start("event descriptor"))?);
    let closed = build::Closed::default();
    let clock = Arc::new(Clock::new()?);
    let unconfined = Confinement::default();
    let (sink, _nobody) = build::sink(config, &clock, &closed, &bell, false, &unconfined)?;
    let counters = Arc::new(ReaderCounters::default());
    let (context, opening) = if deliver {
        build::spool(config, &Proc::new("/proc"), &clock)?.unzip()
    } else {
        (None, None)
    };
    let packets = context
        .as_ref()
        .zip(opening.as_ref())
        .map(|(context, opening)| {
            let reader = Arc::clone(&counters);
            let account = Account(Box::new(move |ledger| received(ledger, &reader)));
            (context, opening, account)
        });
    let pipeline = build::replay(config, recording.header(), filter, sink, packets)?;
    let keeper = context
        .as_ref()
        .map(|context| Keeper::start(context, config.spool.sync_period, &unconfined))
        .transpose()?;
    let delivery = match &context {
        None => None,
        // Nobody's settings are for a recording.
        Some(context) => Delivery::start(&config.sinks, context, None, &unconfined)
            .map_err(RunError::start("sinks"))?,
    };
    let (sender, receiver) = reader::queue(batches(config));
    let reader = Reader::spawn(
        Source::Recording(Box::new(recording)),
        sender,
        Arc::clone(&counters),
        None,
        Box::new(|| {}),
        &unconfined,
    )?;
    let (control, commands) = sync_channel(1);
    drop(control);
    let (mut ledger, sink) = drive(pipeline, &receiver, &commands, None);
    let read = reader.join();
    received(&mut ledger, &counters);
    if let Ok(Some(footer)) = &read {
        recorded(&mut ledger, footer);
    }
    let unwritten = close(&mut ledger, sink);
    drop(keeper);
    let unsaved = context.as_ref().map_or(0, |context| {
        context.spool.sync(context.now());
        wait_for_sinks(context);
        finish_delivery(&mut ledger, context, delivery)
    });
    let fault = closed_reason(&closed)
        .or_else(|| read.err().map(RunError::from))
        .or_else(|| (unwritten > 0).then_some(RunError::OutputUnfinished(unwritten)))
        .or_else(|| (unsaved > 0).then_some(RunError::Unsaved(unsaved)));
    Ok(Summary {
        ledger,
        ran: began.elapsed(),
        fault,
    })
}

/// Waits while sinks take what waits for them.
fn wait_for_sinks(context: &Context) {
    let (mut least, mut since) = (u64::MAX, Instant::now());
    while since.elapsed() < REPLAY_PATIENCE {
        let accounts = context.spool.with(|spool| spool.accounts());
        let waiting = accounts.unwrap_or_default().iter().fold(0, |sum, account| {
            account.waiting_packets.saturating_add(sum)
        });
        if waiting == 0 {
            break;
        }
        if waiting < least {
            (least, since) = (waiting, Instant::now());
        }
        std::thread::sleep(LOOK);
    }
}

/// The reader's queue in batches; a batch holds a few hundred events when there is much to do.
fn batches(config: &Config) -> usize {
    (config.reader_queue / EVENTS_PER_BATCH).max(2)
}

/// The pipeline's thread: batches as they come, and what is due by the clock.
fn drive(
    mut pipeline: Pipeline,
    receiver: &BatchReceiver,
    commands: &Receiver<Control>,
    mut connecting: Option<loader::ConnectingTable>,
) -> (Ledger, SinkHandle) {
    let mut next_round = Instant::now() + ROUND;
    // Batches came since the last round; memory was used since it was last given back; what the process table held then.
    let (mut busy, mut used, mut kept) = (false, false, 0_usize);
    loop {
        let wait = pipeline.advance().map_or(PULSE, |wait| wait.min(PULSE));
        match receiver.receive(wait) {
            Ok(batch) => {
                pipeline.look_at_clock();
                for sample in batch.iter() {
                    pipeline.sample(sample);
                }
                receiver.recycle(batch);
                busy = true;
            }
            Err(RecvTimeoutError::Timeout) => pipeline.look_at_clock(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        while let Ok(command) = commands.try_recv() {
            match command {
                Control::Filter(filter) => pipeline.set_filter(filter),
                Control::Ledger(answer) => {
                    // Who asked may have given up waiting.
                    drop(answer.try_send(Box::new(pipeline.ledger().clone())));
                }
            }
        }
        if Instant::now() >= next_round {
            next_round = Instant::now() + ROUND;
            pipeline.round();
            if busy {
                used = true;
            } else if used || pipeline.kept_bytes().saturating_add(TRIM_BYTES) < kept {
                // What a burst took goes back to the system once it is quiet, and again when its processes are forgotten.
                pipeline.shrink();
                crate::kernel::sys::trim_heap();
                kept = pipeline.kept_bytes();
                used = false;
            }
            busy = false;
            if let Some(table) = &mut connecting {
                attempts(&mut pipeline, table, ATTEMPT_AGE);
            }
        }
    }
    if let Some(table) = &mut connecting {
        attempts(&mut pipeline, table, Duration::ZERO);
    }
    let (ledger, output) = pipeline.finish(PATIENCE);
    (ledger, output.into_sink())
}

fn attempts(pipeline: &mut Pipeline, table: &mut loader::ConnectingTable, age: Duration) {
    let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
    match table.older_than(pipeline.now(), age, ATTEMPTS_PER_ROUND) {
        Ok(waiting) => pipeline.attempts(waiting),
        Err(error) => tracing::debug!(%error, "connects under way cannot be read"),
    }
}

/// Enters what kernel and reader have counted, and what the kernel itself skipped.
fn account(ledger: &mut Ledger, kernel: &Counters, skips: &Skips, reader: &ReaderCounters) {
    for (program, misses) in skips.read() {
        let misses = match misses {
            loader::Unseen::AtMost(misses) => Some(misses),
            loader::Unseen::Unobservable => None,
        };
        ledger.unseen(program, misses);
    }
    match kernel.read() {
        Ok(table) => {
            for kind in RecordKind::ALL {
                let values: Vec<u64> = KernelCounter::ALL
                    .iter()
                    .map(|counter| table.value(*kind, *counter))
                    .collect();
                ledger.kernel(*kind, KernelAccount::from_counters(&values));
            }
        }
        Err(error) => tracing::error!(%error, "the kernel's counters cannot be read"),
    }
    for lane in Lane::ALL {
        ledger.sequence_gap(lane.name(), reader.missing(lane));
    }
    received(ledger, reader);
}

fn received(ledger: &mut Ledger, reader: &ReaderCounters) {
    for kind in RecordKind::ALL {
        ledger.reader(
            Row::Kind(*kind),
            reader.received(Some(*kind)),
            reader.queue_full(Some(*kind)),
        );
    }
    ledger.reader(Row::Unknown, reader.received(None), reader.queue_full(None));
}

/// The thread that makes durable what was appended to the spool; ends when it is dropped.
struct Keeper {
    stop: Option<SyncSender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Keeper {
    fn start(
        context: &Context,
        period: Duration,
        confinement: &Confinement,
    ) -> Result<Self, RunError> {
        let confinement = confinement.clone();
        let (stop, stopped) = sync_channel::<()>(1);
        let context = context.clone();
        let thread = std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || {
                confinement.enter(Role::Spool);
                while stopped.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                    context.spool.sync(context.now());
                }
            })
            .map_err(RunError::start("spool thread"))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the spool's thread ended by itself");
        }
    }
}

/// Delivers what waits to those who take it now, and enters the accounts of the sinks; the rest stays in the spool. How many events,
/// at most for one of them, are gone since the disk did not take them.
fn finish_delivery(ledger: &mut Ledger, context: &Context, delivery: Option<Delivery>) -> u64 {
    context.spool.sync(context.now());
    for health in delivery
        .map(|delivery| delivery.stop(PATIENCE))
        .unwrap_or_default()
    {
        tracing::info!(
            sink = %health.name,
            packets = health.acked_packets,
            bytes = health.acked_bytes,
            "acknowledged in this run"
        );
    }
    let accounts = context.spool.with(|spool| spool.accounts());
    let closed = context.spool.close(context.now());
    let mut most = 0;
    for account in accounts.unwrap_or_default() {
        let unsaved = closed.as_ref().err();
        let unsaved = unsaved.and_then(|unsaved| unsaved.unacknowledged.get(&account.name));
        let unsaved = unsaved.map_or(0, Counts::total);
        most = most.max(unsaved);
        ledger.sink(
            &account.name,
            delivery::ledger_account(&account).gone(delivery::SINK_UNSAVED, unsaved),
        );
    }
    if let Err(unsaved) = closed {
        tracing::error!(%unsaved, "the spool is not closed in order");
    }
    most
}

/// Closes the sink and enters its account; returns how many events it could not finish.
fn close(ledger: &mut Ledger, sink: SinkHandle) -> u64 {
    let accounts = sink.close_and_join(PATIENCE);
    let account = crate::sink::total(accounts.values());
    let unwritten = account.lost.get(crate::sink::OUTPUT_UNFINISHED).copied();
    ledger.sink("output", account);
    unwritten.unwrap_or_default()
}
