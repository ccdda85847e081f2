//! What the main thread is asked by others while it waits for signals: the status, a reload, settings of the central node. They put
//! their question into a bounded queue and ring; the pipeline is asked for its ledger only, and never waited for long.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde_json::{Value, json};

use super::signal::Bell;
use super::{Control, PATIENCE, Reload, account, settings};
use crate::clock::Clock;
use crate::config::{Config, FilterSettings, SettingsSource};
use crate::confine::Confinement;
use crate::control::{Answer, Request};
use crate::ledger::{Ledger, Row};
use crate::loader::{Counters, Skips};
use crate::metrics;
use crate::procfs::Proc;
use crate::reader::ReaderCounters;
use crate::sink::delivery::{Context, Delivery, Health};
use crate::sink::synchronize::{Apply, SettingsReport};
use crate::spool;

/// Questions that may wait; further ones are refused.
const QUEUE: usize = 4;
/// Who asks waits so long for the main thread, which waits for the pipeline in turn.
const ASK_PATIENCE: Duration = Duration::from_secs(8);
/// Rates are measured over this time.
const RATE_SPAN: Duration = Duration::from_secs(1);

/// What can be asked.
enum Ask {
    Status,
    Reload,
    Settings(FilterSettings),
}

/// A question and where its answer goes.
pub(super) struct Asked {
    ask: Ask,
    answer: SyncSender<Result<Value, String>>,
}

/// Asks the main thread; cheap to clone.
#[derive(Clone)]
pub(super) struct Asker {
    questions: SyncSender<Asked>,
    bell: Arc<Bell>,
}

/// The queue of questions.
pub(super) fn queue(bell: &Arc<Bell>) -> (Asker, Receiver<Asked>) {
    let (questions, receiver) = sync_channel(QUEUE);
    let asker = Asker {
        questions,
        bell: Arc::clone(bell),
    };
    (asker, receiver)
}

impl Asker {
    fn ask(&self, ask: Ask) -> Result<Value, String> {
        let (answer, receiver) = sync_channel(1);
        self.questions
            .try_send(Asked { ask, answer })
            .map_err(|_full| "the sensor is busy or stopping".to_owned())?;
        self.bell.ring();
        receiver
            .recv_timeout(ASK_PATIENCE)
            .unwrap_or_else(|_timeout| Err("the sensor is busy".to_owned()))
    }

    /// For the control socket.
    pub(super) fn control(&self) -> Answer {
        let asker = self.clone();
        Box::new(move |request| match request {
            Request::Reload => asker.ask(Ask::Reload),
            Request::Status => {
                let (first, began) = (asker.ask(Ask::Status)?, Instant::now());
                std::thread::sleep(RATE_SPAN);
                let mut second = asker.ask(Ask::Status)?;
                let rates = rates(&first, &second, began.elapsed());
                if let Some(status) = second.as_object_mut() {
                    status.insert("rates".to_owned(), rates);
                }
                Ok(second)
            }
        })
    }

    /// For the metrics.
    pub(super) fn status(&self) -> metrics::Status {
        let asker = self.clone();
        Arc::new(move || asker.ask(Ask::Status))
    }

    /// For the synchronisation with the central node.
    pub(super) fn apply(&self) -> Apply {
        let asker = self.clone();
        Arc::new(move |settings| asker.ask(Ask::Settings(settings.clone())).map(drop))
    }
}

/// Records and events seen per second, by row.
fn rates(first: &Value, second: &Value, time: Duration) -> Value {
    let seen = |status: &Value, row: &str| -> Option<f64> {
        let row = status.pointer("/ledger/rows")?.get(row)?;
        let number = |pointer| row.pointer(pointer).and_then(Value::as_f64);
        let taken = number("/kernel/attempted").or_else(|| number("/daemon/received"));
        Some(taken.unwrap_or_default() + number("/daemon/synthesised").unwrap_or_default())
    };
    let rates = Row::all().filter_map(|row| {
        let passed = seen(second, row.name())? - seen(first, row.name())?;
        let rate = passed / time.as_secs_f64().max(0.001);
        Some((row.name().to_owned(), json!((rate * 10.0).round() / 10.0)))
    });
    Value::Object(rates.collect())
}

/// Answers them.
pub(super) struct Desk<'d> {
    pub(super) config: &'d Config,
    pub(super) reload: Reload<'d>,
    pub(super) pipeline: &'d SyncSender<Control>,
    pub(super) kernel: &'d Counters,
    pub(super) skips: &'d Skips,
    pub(super) reader: &'d ReaderCounters,
    pub(super) hooks: String,
    pub(super) clock: &'d Clock,
    pub(super) proc: &'d Proc,
    pub(super) began: Instant,
    pub(super) context: Option<&'d Context>,
    pub(super) delivery: Option<&'d Delivery>,
    pub(super) settings: &'d Mutex<SettingsReport>,
    pub(super) confinement: &'d Confinement,
}

impl Desk<'_> {
    /// Answers all that wait.
    pub(super) fn answer(&self, questions: &Receiver<Asked>) {
        while let Ok(Asked { ask, answer }) = questions.try_recv() {
            let result = match ask {
                Ask::Status => self.status(),
                Ask::Reload => self.reload(SettingsSource::Stored).map(|()| Value::Null),
                Ask::Settings(settings) => self.settle(settings).map(|()| Value::Null),
            };
            // Who asked may have given up waiting.
            drop(answer.try_send(result));
        }
    }

    /// Reads the rules again and hands them to the pipeline.
    pub(super) fn reload(&self, settings: SettingsSource) -> Result<(), String> {
        let filter = (self.reload)(settings)?;
        self.pipeline
            .send(Control::Filter(filter))
            .map_err(|_gone| "the sensor is stopping".to_owned())?;
        tracing::info!("filter rules reloaded");
        Ok(())
    }

    /// Takes settings of the central node, as a whole or not at all.
    fn settle(&self, settings: FilterSettings) -> Result<(), String> {
        self.reload(SettingsSource::Candidate(settings.clone()))?;
        if let Err(error) = settings::store(&self.config.state_directory, &settings) {
            // They are in force; after a restart the node gives them again, since it is told of the older version then.
            tracing::error!(%error, "filter settings cannot be kept for the next start");
        }
        Ok(())
    }

    /// The account as it stands.
    pub(super) fn ledger(&self) -> Option<Ledger> {
        let (sender, answer) = sync_channel(1);
        self.pipeline.try_send(Control::Ledger(sender)).ok()?;
        let mut ledger = *answer.recv_timeout(PATIENCE).ok()?;
        account(&mut ledger, self.kernel, self.skips, self.reader);
        Some(ledger)
    }

    /// What the sensor takes of the machine; what cannot be had is left out.
    fn process(&self) -> Value {
        let mut process = serde_json::Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            process.extend(value.map(|value| (name.to_owned(), value)));
        };
        let seconds = |time: TimeVal| {
            Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or_default())
                .as_secs_f64()
        };
        let usage = getrusage(UsageWho::RUSAGE_SELF);
        let cpu = usage.map(|usage| seconds(usage.user_time()) + seconds(usage.system_time()));
        put("cpu_seconds", cpu.ok().map(Value::from));
        let own = self.proc.own().ok();
        let own = own.as_ref();
        put(
            "resident_memory_bytes",
            own.and_then(|own| own.resident_bytes().ok())
                .map(Value::from),
        );
        put(
            "open_fds",
            own.and_then(|own| own.open_descriptors().ok())
                .map(Value::from),
        );
        let ticks = own
            .and_then(|own| own.stat().ok())
            .map(|stat| stat.start_ticks);
        let started = ticks.zip(self.proc.boot_time_seconds().ok());
        let started = started.map(|(ticks, booted)| {
            Value::from(
                booted.saturating_add(ticks / rustix::param::clock_ticks_per_second().max(1)),
            )
        });
        put("start_time_seconds", started);
        Value::Object(process)
    }

    fn status(&self) -> Result<Value, String> {
        let ledger = self.ledger().ok_or("the pipeline does not answer")?;
        let now_ns = self.clock.wall_now_ns().unwrap_or_default();
        let spool = self.context.and_then(|context| {
            let now = context.now();
            context.spool.with(|spool| spool.status(now))
        });
        let report = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = match (&report.refused, report.applied) {
            (Some((version, why)), _) => {
                json!({"version": version, "state": "refused", "error": why, "applied": report.applied})
            }
            (None, Some(version)) => json!({"version": version, "state": "applied"}),
            (None, None) => Value::Null,
        };
        drop(report);
        let health = self.delivery.map(Delivery::health).unwrap_or_default();
        let sinks = health.iter().map(|health| sink(health, spool.as_ref()));
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "now_ns": now_ns,
            "uptime_seconds": self.began.elapsed().as_secs(),
            "hooks": self.hooks,
            "scope": self.config.scope_cgroup.as_deref().map(Path::to_string_lossy),
            "process": self.process(),
            "confinement": self.confinement.layers(),
            "ledger": ledger.to_json(None),
            "spool": spool.as_ref().map(spool_value),
            "sinks": sinks.collect::<Vec<_>>(),
            "settings": settings,
        }))
    }
}

/// Events by the name of their type.
fn counts(counts: &spool::Counts) -> Value {
    let named = counts.iter().map(|(number, events)| {
        let known = sensor_proto::v1::EventType::try_from(i32::from(number)).ok();
        let name = known.map_or_else(|| number.to_string(), |known| known.short_name().to_owned());
        (name, json!(events))
    });
    Value::Object(named.collect())
}

fn causes<'c>(causes: impl Iterator<Item = (&'c spool::Cause, &'c spool::Counts)>) -> Value {
    let named = causes.map(|(cause, counts)| (cause.name().to_owned(), json!(counts.total())));
    Value::Object(named.collect())
}

fn spool_value(status: &spool::Status) -> Value {
    let (state, why) = match &status.state {
        spool::State::Disk => ("disk", None),
        spool::State::Memory { why, .. } => {
            let why = match why {
                spool::DiskFault::Full => "full".to_owned(),
                spool::DiskFault::ReadOnly => "read-only".to_owned(),
                spool::DiskFault::Other(text) => text.clone(),
            };
            ("memory", Some(why))
        }
    };
    let streams = spool::Stream::ALL.iter().zip(&status.classes);
    let streams = streams.map(|(stream, class)| {
        let value = json!({
            "disk_bytes": class.disk_bytes,
            "memory_bytes": class.memory_bytes,
            "memory_packets": class.memory_packets,
            "segments": class.segments,
            "sequence": class.sequence,
            "durable_sequence": class.durable_sequence,
            "oldest_age_seconds": class.oldest_age_ns / 1_000_000_000,
        });
        (stream.name().to_owned(), value)
    });
    json!({
        "agent_id": uuid::Uuid::from_bytes(status.identity.agent_id).to_string(),
        "epoch": status.identity.epoch.to_string(),
        "state": state,
        "why": why,
        "streams": Value::Object(streams.collect()),
        "epochs": status.epochs,
        "tombstones": status.tombstones,
        "tombstones_dropped": status.tombstones_dropped,
        "evicted": causes(status.evicted.iter()),
        "quarantine_bytes": status.quarantine_bytes,
        "quarantine_unsaved": status.quarantine_unsaved,
        "rejected_bytes": status.rejected_bytes,
        "rejected_unsaved": status.rejected_unsaved,
        "disk_failures": status.disk_failures,
        "disk_recoveries": status.disk_recoveries,
        "read_errors": status.read_errors,
    })
}

fn sink(health: &Health, spool: Option<&spool::Status>) -> Value {
    let mut value = serde_json::to_value(health).unwrap_or_default();
    let account = spool.and_then(|spool| spool.sinks.iter().find(|sink| sink.name == health.name));
    if let (Some(fields), Some(account), Some(spool)) = (value.as_object_mut(), account, spool) {
        let oldest = spool.classes.iter().map(|class| class.oldest_age_ns).max();
        // The oldest packet of the spool waits for this sink if any does; exact for a sink alone.
        let lag = oldest.filter(|_| account.waiting_packets > 0);
        fields.insert(
            "lag_seconds".to_owned(),
            json!(lag.unwrap_or_default() / 1_000_000_000),
        );
        fields.insert(
            "account".to_owned(),
            json!({
                "sealed": counts(&account.sealed),
                "acked": counts(&account.acked),
                "evicted": causes(account.evicted.iter()),
                "rejected": counts(&account.rejected),
                "waiting": counts(&account.waiting),
                "waiting_packets": account.waiting_packets,
                "balances": account.balances(),
                "false_acks": account.false_acks,
            }),
        );
    }
    value
}
