//! Synchronisation with the central node, over the connection that delivers: tells of the sensor's state, takes filter settings and
//! reports what became of them. Refuses to decide about settings: they are handed on, and the answer is reported. Without a
//! connection nothing is said; delivery makes the connection.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sensor_proto::v1;
use sensor_proto::v1::central_node_client::CentralNodeClient;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::clock::Clock;
use crate::config::{CentralNodeConfig, FilterSettings, HostConfig};
use crate::enrich::host::HostFacts;
use crate::procfs::Proc;
use crate::sink::central_node::fault;
use crate::sink::connect::tls::own_certificate;
use crate::sink::delivery::{Context, Fault, Shared, printable};
use crate::spool::SinkAccount;

/// What the node may ask for is kept within these.
const PERIOD_LEAST: Duration = Duration::from_secs(5);
const PERIOD_MOST: Duration = Duration::from_secs(3600);
/// Time for one synchronisation.
const PATIENCE: Duration = Duration::from_secs(30);
/// Settings with a document beyond this are refused; an answer much beyond it is not read.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Kinds of settings in one answer.
const MAX_SETTINGS: usize = 16;
/// The only kind that is known.
const FILTER: &str = "filter";

/// The connection of the delivery, while there is one.
pub type Line = watch::Sender<Option<Channel>>;

/// What became of filter settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SettingsReport {
    /// Version in force; none: there are no settings.
    pub applied: Option<u64>,
    /// Version that was refused last, with the reason, if none was applied since.
    pub refused: Option<(u64, String)>,
}

/// Takes filter settings: validates, applies and keeps them, or says why not. May wait some seconds.
pub type Apply = Arc<dyn Fn(&FilterSettings) -> Result<(), String> + Send + Sync>;

/// What is told of the host and of the sensor, beside what the spool knows.
#[derive(Clone)]
pub struct Management {
    /// Where the host is seen.
    pub view: HostConfig,
    /// Files of the host.
    pub proc: Proc,
    /// Event types without a hook or with a lesser one.
    pub degraded: Vec<String>,
    /// The start-up self-test passed.
    pub self_test_passed: bool,
    /// What became of settings.
    pub report: Arc<Mutex<SettingsReport>>,
    /// Takes settings.
    pub apply: Apply,
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Management")
            .field("degraded", &self.degraded)
            .finish_non_exhaustive()
    }
}

impl Management {
    /// What became of settings.
    #[must_use]
    pub fn report(&self) -> SettingsReport {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.clone()
    }
}

/// Synchronises with one node.
pub(super) struct Synchronizer {
    pub(super) config: CentralNodeConfig,
    pub(super) context: Context,
    pub(super) management: Management,
    /// Settings of this node count; of several central nodes only the first by name decides.
    pub(super) decides: bool,
    pub(super) health: Shared,
    pub(super) line: watch::Receiver<Option<Channel>>,
    /// Digests of what was refused, so that it is not tried again at every synchronisation.
    pub(super) refused: HashSet<[u8; 32]>,
}

impl Synchronizer {
    pub(super) async fn run(mut self, mut stop: watch::Receiver<Option<Instant>>) {
        loop {
            let channel = tokio::select! {
                // An error means that nobody is left who could ask, or connect.
                _ = stop.wait_for(Option::is_some) => return,
                line = self.line.wait_for(Option::is_some) => match line {
                    Ok(channel) => channel.clone(),
                    Err(_gone) => return,
                },
            };
            let mut period = self.config.sync_period;
            if let Some(channel) = channel {
                match tokio::time::timeout(PATIENCE, self.once(channel)).await {
                    Ok(Ok(wanted)) => period = wanted.unwrap_or(period),
                    Ok(Err(fault)) => self.failed(&fault),
                    Err(_elapsed) => {
                        self.failed(&Fault::new("timeout", "no answer to a synchronisation"));
                    }
                }
            }
            tokio::select! {
                _ = stop.wait_for(Option::is_some) => return,
                () = tokio::time::sleep(period.clamp(PERIOD_LEAST, PERIOD_MOST)) => {}
            }
        }
    }

    fn failed(&self, fault: &Fault) {
        tracing::debug!(%fault, "not synchronised");
        self.health.change(|health| {
            health.sync_faults += 1;
            health.last_sync_fault = Some(fault.to_string());
        });
    }

    /// Tells, takes, and tells again what became of it; the period that the node wants.
    async fn once(&mut self, channel: Channel) -> Result<Option<Duration>, Fault> {
        let mut client =
            CentralNodeClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let mut period = None;
        // Once more after settings came, so that the node learns at once what became of them.
        for _ in 0..2 {
            let request = tokio::task::block_in_place(|| self.request())?;
            let answer = client
                .synchronize(request)
                .await
                .map_err(|status| fault(&status))?
                .into_inner();
            period = answer.period_ms.map(Duration::from_millis);
            let now = self.context.now().wall_ns;
            self.health.change(|health| health.last_sync_ns = Some(now));
            if answer.settings.len() > MAX_SETTINGS {
                return Err(Fault::protocol("too many settings in one answer"));
            }
            let mut news = false;
            for settings in answer.settings {
                news |= tokio::task::block_in_place(|| self.take(settings));
            }
            if !news {
                break;
            }
        }
        Ok(period)
    }

    /// True if there is something new to report.
    fn take(&mut self, settings: v1::Settings) -> bool {
        if settings.r#type != FILTER {
            tracing::warn!(
                kind = printable(&settings.r#type),
                "settings of an unknown kind"
            );
            return false;
        }
        let mut hash = Sha256::new();
        hash.update(settings.version.to_le_bytes());
        hash.update(&settings.document);
        let digest: [u8; 32] = hash.finalize().into();
        if self.refused.contains(&digest) {
            return false;
        }
        let version = settings.version;
        let applied = self.management.report().applied;
        if self.decides && applied == Some(version) {
            return false;
        }
        let result = if !self.decides {
            Err("another central node decides about the filter".to_owned())
        } else if applied.is_some_and(|applied| version < applied) {
            Err(format!(
                "not newer than version {}",
                applied.unwrap_or_default()
            ))
        } else {
            (self.management.apply)(&FilterSettings {
                version,
                document: settings.document,
            })
        };
        let mut report = self
            .management
            .report
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => {
                tracing::info!(version, "filter settings of the central node are in force");
                *report = SettingsReport {
                    applied: Some(version),
                    refused: None,
                };
            }
            Err(why) => {
                let why = printable(&why);
                tracing::error!(
                    version,
                    why,
                    "filter settings of the central node are refused"
                );
                report.refused = Some((version, why));
                // A node that changes its mind without end must not fill memory.
                if self.refused.len() >= MAX_SETTINGS {
                    self.refused.clear();
                }
                self.refused.insert(digest);
            }
        }
        true
    }

    fn request(&self) -> Result<v1::SyncRequest, Fault> {
        let Management {
            view,
            proc,
            degraded,
            self_test_passed,
            ..
        } = &self.management;
        let clock: &Clock = &self.context.clock;
        let host = HostFacts::new(view.clone(), proc.clone(), clock)
            .map_err(|error| Fault::of("host", &error))?
            .current()
            .clone();
        let now = self.context.now();
        let status = self.context.spool.with(|spool| spool.status(now));
        let status = status.ok_or_else(|| Fault::new("spool", "the spool is closed"))?;
        let health = self.health.health();
        let own = status.sinks.iter().find(|sink| sink.name == health.name);
        let enrollment = self.config.tls.identity.as_ref().map(|(path, _)| {
            let own = own_certificate(path).ok();
            v1::Enrollment {
                certificate_sha256: own
                    .as_ref()
                    .map(|own| own.sha256.to_vec())
                    .unwrap_or_default(),
                not_after_time_ns: own.and_then(|own| own.not_after_ns).unwrap_or_default(),
                last_error: health.last_fault.clone(),
            }
        });
        let report = self.management.report();
        let applied = report.applied.map(|version| v1::SettingsStatus {
            r#type: FILTER.to_owned(),
            version,
            state: v1::ApplyState::Applied.into(),
            error: None,
        });
        let refused = report.refused.map(|(version, why)| v1::SettingsStatus {
            r#type: FILTER.to_owned(),
            version,
            state: v1::ApplyState::Refused.into(),
            error: Some(why),
        });
        let bytes = status.classes.iter();
        let spool_bytes = bytes
            .map(|class| class.disk_bytes + class.memory_bytes)
            .sum();
        Ok(v1::SyncRequest {
            agent_id: status.identity.agent_id.to_vec(),
            server_base: format!("https://{}", self.config.address),
            mac: host.mac_addresses.clone(),
            host: Some(host),
            local_time_ns: now.wall_ns,
            utc_offset_seconds: crate::clock::utc_offset_seconds(now.wall_ns),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            content: None,
            enrollment,
            self_protection: Some(v1::SelfProtection {
                degraded: degraded.clone(),
                self_test_passed: *self_test_passed,
                // Nothing looks after the links once they are made; root can switch off kprobes and ftrace as a whole.
                attached: None,
            }),
            settings: applied.into_iter().chain(refused).collect(),
            tasks: Vec::new(),
            file_requests: Vec::new(),
            sinks: status.sinks.iter().map(sink_report).collect(),
            waiting_packets: own.map(|own| own.waiting_packets).unwrap_or_default(),
            spool_bytes,
        })
    }
}

fn sink_report(account: &SinkAccount) -> v1::SinkReport {
    let evicted = account.evicted.values();
    v1::SinkReport {
        name: account.name.clone(),
        sealed: account.sealed.total(),
        acked: account.acked.total(),
        evicted: evicted.map(crate::spool::Counts::total).sum(),
        rejected: account.rejected.total(),
        waiting: account.waiting.total(),
    }
}
