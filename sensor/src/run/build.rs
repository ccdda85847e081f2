//! Every part from the configuration: the kernel's side, the sink, the pipeline.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::thread::CapabilitySet;
use sensor_common::record::{Lane, RecordKind};
use sensor_proto::v1;
use uuid::Uuid;

use super::signal::Bell;
use super::{Request, RunError};
use crate::clock::Clock;
use crate::config::{Config, OutputFormat, ReceiverConfig};
use crate::confine::capability::Trial;
use crate::confine::{self, Confinement, Places as OwnPlaces};
use crate::enrich::close_watch::{CloseConfig, CloseWatch};
use crate::enrich::container::{ContainerFacts, Places};
use crate::enrich::environment::Policy;
use crate::enrich::hash::{HashConfig, HashPool, executables_are_frozen};
use crate::enrich::host::{self, HostFacts};
use crate::enrich::process::{Describer, Limits, ProcessTable};
use crate::enrich::user::Users;
use crate::filter::Filter;
use crate::kernel::feature::Features;
use crate::loader::{
    self, ConnectingTable, Counters, Coverage, Handles, LoadOptions, Loaded, ProgramLog, Scope,
    Skips, Watch,
};
use crate::packet::Packets;
use crate::packet::outlet::Account;
use crate::pipeline::{Backends, Output, Parts, Pipeline};
use crate::probe::Backend;
use crate::procfs::{self, Proc};
use crate::reader::Source;
use crate::recording::Header;
use crate::selftest;
use crate::sink::connect::tls::own_certificate;
use crate::sink::delivery::Context;
use crate::sink::synchronize::{Apply, Management, SettingsReport};
use crate::sink::view::{self, Screen};
use crate::sink::{self, Notice, SinkHandle};
use crate::spool::storage::Disk;
use crate::spool::{HostIdentity, NewEpoch, Now, Opening, SharedSpool, Spool, SpoolConfig};

/// Socket of systemd's user database, from the host's root.
const VARLINK: &str = "run/systemd/userdb/io.systemd.Multiplexer";
/// Identity of the hardware, as its firmware tells.
const PRODUCT_UUID: &str = "/sys/class/dmi/id/product_uuid";
/// Namespace of agent ids made from machine ids.
const AGENT_NAMESPACE: Uuid = Uuid::from_u128(0x9f1b_5a3c_61c4_4c9e_8f5e_2d0c_7a11_93e2);

/// The kernel's side: programs attached, self-test done.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Keeps the programs attached.
    pub(super) loaded: Loaded,
    /// The scope, kept open.
    pub(super) scope: Option<Scope>,
    /// Counters of the programs.
    pub(super) counters: Arc<Counters>,
    /// What the kernel counts of programs that it skipped.
    pub(super) skips: Arc<Skips>,
    /// TCP connects under way.
    pub(super) connecting: ConnectingTable,
    /// The self-test's child, whose events are no news.
    pub(super) child_tgid: Option<u32>,
    /// The self-test found what it should.
    pub(super) self_test_passed: bool,
    /// `/proc` has other process ids than the kernel's records: the sensor runs in a pid namespace of its own.
    foreign_proc: bool,
}

impl Kernel {
    /// Starts passing on what the programs log, if their object was built to. A thread of its own: after [`confine`].
    pub(super) fn follow_log(
        &mut self,
        request: &Request<'_>,
    ) -> Result<Option<ProgramLog>, RunError> {
        let wanted = request.object.is_some();
        Ok(wanted.then(|| self.loaded.follow_log()).transpose()?)
    }
}

/// Programs attached, their handles, and what the self-test said.
type Attached = (Loaded, Handles, selftest::Report);

fn attach(
    features: &Features,
    options: &LoadOptions<'_>,
    scope: Option<&Scope>,
    proc: &Proc,
    clock: &Clock,
) -> Result<Attached, RunError> {
    let mut loaded = loader::load(features, options)?;
    let mut handles = loaded.take_handles()?;
    let [process, ..] = &mut handles.rings;
    let report = selftest::run(&mut loaded, process, scope, proc, clock);
    Ok((loaded, handles, report))
}

/// Loads and attaches the programs and compares what they say of a known child with `/proc`.
pub(super) fn kernel(
    request: &Request<'_>,
    features: &Features,
    proc: &Proc,
    clock: &Clock,
) -> Result<(Kernel, Source), RunError> {
    let config = request.config;
    let scope = config
        .scope_cgroup
        .as_deref()
        .map(Scope::open)
        .transpose()?;
    let ring = &config.ring;
    let mut ring_bytes = LoadOptions::RING_BYTES;
    for (lane, bytes) in [
        (Lane::Process, ring.process_bytes),
        (Lane::File, ring.file_bytes),
        (Lane::Network, ring.network_bytes),
        (Lane::Control, ring.control_bytes),
    ] {
        if let Some(slot) = ring_bytes.get_mut(lane as usize) {
            *slot = bytes;
        }
    }
    let mut options = LoadOptions {
        backend: config.backend,
        watch: scope.as_ref().map_or(Watch::Machine, Watch::Scope),
        ring_bytes,
        object: request.object.as_ref(),
        ..LoadOptions::default()
    };
    let mut attached = attach(features, &options, scope.as_ref(), proc, clock)?;
    // In a pid namespace of its own the sensor does not know its number; the record of its child does.
    let own_tgid = attached.2.own_tgid.unwrap_or(options.own_tgid);
    let foreign_proc = own_tgid != options.own_tgid;
    if foreign_proc {
        tracing::warn!(
            own = own_tgid,
            "process ids here are not the kernel's, nothing is read of /proc: run the sensor in the host's pid namespace"
        );
        drop(attached);
        options.own_tgid = own_tgid;
        attached = attach(features, &options, scope.as_ref(), proc, clock)?;
    }
    let (loaded, handles, report) = attached;
    let Handles {
        rings,
        counters,
        reader_awake,
        connecting,
        ..
    } = handles;
    for (kind, verdict) in [
        (RecordKind::Exec, &report.exec),
        (RecordKind::Exit, &report.exit),
    ] {
        match verdict {
            selftest::Verdict::Passed { .. } => {
                tracing::debug!(kind = kind.name(), %verdict, "self-test");
            }
            selftest::Verdict::Failed(_) => {
                tracing::error!(kind = kind.name(), %verdict, "self-test");
            }
            selftest::Verdict::NotRun(_) => {
                tracing::warn!(kind = kind.name(), %verdict, "self-test");
            }
        }
    }
    let skips = loaded
        .skips()
        .map_err(RunError::start("counters of the programs"))?;
    let kernel = Kernel {
        loaded,
        scope,
        counters: Arc::new(counters),
        skips: Arc::new(skips),
        connecting,
        child_tgid: report.child_tgid,
        self_test_passed: [&report.exec, &report.exit]
            .iter()
            .all(|verdict| matches!(verdict, selftest::Verdict::Passed { .. })),
        foreign_proc,
    };
    let source = Source::Rings {
        rings: Box::new(rings),
        awake: reader_awake,
        before: report.samples,
    };
    Ok((kernel, source))
}

/// What came of giving up privileges, and what had to be found out before.
#[derive(Debug)]
pub(super) struct Confined {
    /// For threads.
    pub(super) confinement: Confinement,
    /// [`executables_are_frozen`].
    executables_frozen: bool,
}

/// As the very first: nobody else looks into the memory that will hold what processes said. `None`: not wanted.
pub(super) fn hide(config: &Config) -> Option<io::Result<()>> {
    config.confine.then(confine::hide_memory)
}

/// Gives up, for good, what a sensor that watches does not need. `hidden`: what [`hide`] gave; `writes`: what is written goes to
/// a file or the spool.
pub(super) fn confine(
    config: &Config,
    kernel: &Kernel,
    proc: &Proc,
    hidden: Option<io::Result<()>>,
    writes: bool,
) -> Confined {
    let executables_frozen = executables_are_frozen(proc);
    let Some(hidden) = hidden else {
        tracing::warn!("not confined, as configured: every privilege of the start is kept");
        return Confined {
            confinement: Confinement::default(),
            executables_frozen,
        };
    };
    let folder = |path: &Path| match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new(".").to_owned(),
        Some(folder) => folder.to_owned(),
        None => path.to_owned(),
    };
    let spooled = writes && !config.sinks.is_empty();
    let places = OwnPlaces {
        output: config.output.path.as_deref().filter(|_| writes).map(folder),
        state: spooled.then(|| config.state_directory.clone()),
        files: config
            .sinks
            .values()
            .filter_map(|sink| {
                let ReceiverConfig::File(file) = &sink.receiver else {
                    return None;
                };
                writes.then(|| folder(&file.path))
            })
            .collect(),
    };
    let counters = || kernel.counters.read().is_ok();
    let own: Vec<_> = [&places.output, &places.state]
        .into_iter()
        .flatten()
        .chain(&places.files)
        .map(|folder| (folder, move || confine::may_write(folder)))
        .collect();
    let mut trials = vec![Trial {
        // Before Linux 5.19, where unprivileged users may not use bpf(2).
        wants: &[CapabilitySet::BPF, CapabilitySet::SYS_ADMIN],
        what: "reading BPF maps".to_owned(),
        works: &counters,
    }];
    trials.extend(own.iter().map(|(folder, works)| Trial {
        wants: &[CapabilitySet::DAC_OVERRIDE],
        what: format!("writing to {}", folder.display()),
        works,
    }));
    let confinement = Confinement::begin(hidden, &places, &trials);
    for layer in confinement.layers() {
        tracing::debug!(
            layer = layer.layer,
            in_force = layer.in_force,
            detail = layer.detail,
            "confined"
        );
    }
    Confined {
        confinement,
        executables_frozen,
    }
}

/// Why the sink takes no more, for the main thread.
pub(super) type Closed = Arc<Mutex<Option<String>>>;

/// Whether somebody sits at a terminal and the live view is for them.
pub(super) fn watched(config: &Config) -> bool {
    let output = &config.output;
    let lines = matches!(output.format, OutputFormat::Auto | OutputFormat::Pretty);
    output.path.is_none() && lines && !delivers_to_stdout(config) && view::possible()
}

/// Whether standard output belongs to a sink behind the spool.
fn delivers_to_stdout(config: &Config) -> bool {
    let mut receivers = config.sinks.values().map(|sink| &sink.receiver);
    receivers.any(|to| matches!(to, ReceiverConfig::Stdout(_)))
}

/// Opens the output; if it is watched, as a live view with keys.
pub(super) fn sink(
    config: &Config,
    clock: &Arc<Clock>,
    closed: &Closed,
    bell: &Arc<Bell>,
    watched: bool,
    confinement: &Confinement,
) -> Result<(SinkHandle, Option<Screen>), RunError> {
    let (closed, bell) = (Arc::clone(closed), Arc::clone(bell));
    let listener = Box::new(move |notice| match notice {
        Notice::Failing(error) => tracing::error!(%error, "output fails, events wait"),
        Notice::Recovered { after, lost } => {
            tracing::warn!(?after, lost, "output works again");
        }
        Notice::NotRotated(error) => tracing::error!(%error, "output file cannot be rotated"),
        Notice::Closed(error) => {
            *closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            bell.ring();
        }
        Notice::Left => bell.ring(),
    });
    let output = &config.output;
    let refused = |error: io::Error| RunError::Output(error.into());
    if watched {
        return view::spawn(output.buffer_bytes, listener, confinement)
            .map(|(sink, screen)| (sink, Some(screen)))
            .map_err(refused);
    }
    let sink = match &output.path {
        None => sink::stdout::spawn(output.buffer_bytes, listener, confinement).map_err(refused),
        Some(path) => {
            let rotation = sink::file::Rotation {
                bytes: output.rotate_bytes,
                age: output.rotate_age,
                keep: output.keep,
            };
            let clock = Arc::clone(clock);
            let now = Box::new(move || clock.wall_now_ns().unwrap_or_default());
            let bytes = output.buffer_bytes;
            sink::file::spawn(path, rotation, now, bytes, listener, confinement)
                .map_err(|error| RunError::Output(error.into()))
        }
    };
    Ok((sink?, None))
}

/// Opens the spool in the state directory, if there are sinks that read from it.
pub(super) fn spool(
    config: &Config,
    proc: &Proc,
    clock: &Arc<Clock>,
) -> Result<Option<(Context, Opening)>, RunError> {
    if config.sinks.is_empty() {
        return Ok(None);
    }
    let disk = Disk::lock(&config.state_directory).map_err(RunError::start("state directory"))?;
    let uuid = procfs::read_file(Path::new(PRODUCT_UUID), "product_uuid", 64).ok();
    let host = HostIdentity {
        boot_id: proc.boot_id().map_err(RunError::start("boot id"))?,
        machine_id: host::machine_id(&config.host.root),
        hardware_uuid: uuid
            .and_then(|text| Uuid::try_parse_ascii(text.trim_ascii()).ok())
            .map(Uuid::into_bytes),
        agent_id: enrolled_as(config),
    };
    let windows = config.sinks.values().map(|sink| sink.window_bytes);
    let limits = SpoolConfig {
        disk_bytes: config.spool.disk_bytes,
        age_ns: u64::try_from(config.spool.age.as_nanos()).unwrap_or(u64::MAX),
        memory_bytes: config.spool.memory_bytes,
        segment_bytes: config.spool.segment_bytes,
        unsynced_bytes: config.spool.unsynced_bytes,
        read_ahead_bytes: windows.max().unwrap_or_default(),
        ..SpoolConfig::default()
    };
    let now = Now {
        wall_ns: clock.wall_now_ns()?,
        boot_ns: clock.boot_ns()?,
    };
    let names: Vec<&str> = config.sinks.keys().map(String::as_str).collect();
    let (spool, opening) =
        Spool::open(disk, limits, host, &names, now).map_err(RunError::start("spool"))?;
    let recovery = &opening.recovery;
    tracing::info!(
        previous_run = ?opening.previous,
        new_epoch = opening.new_epoch.map(NewEpoch::name),
        segments = recovery.segments,
        torn_bytes = recovery.torn_bytes,
        damaged_bytes = recovery.damaged_bytes,
        lost_packets = recovery.lost_packets,
        unreadable = recovery.unreadable,
        reset_sinks = recovery.reset_sinks.join(" "),
        forgotten_sinks = recovery.forgotten_sinks.join(" "),
        "spool opened"
    );
    let context = Context {
        spool: SharedSpool::new(spool),
        clock: Arc::clone(clock),
    };
    Ok(Some((context, opening)))
}

/// The agent id that the first certificate for a central node names. A certificate that cannot be read is the sink's
/// fault, told and tried again there.
fn enrolled_as(config: &Config) -> Option<[u8; 16]> {
    config.sinks.values().find_map(|sink| {
        let ReceiverConfig::CentralNode(node) = &sink.receiver else {
            return None;
        };
        let (certificate, _key) = node.tls.identity.as_ref()?;
        let own = own_certificate(certificate).ok()?;
        own.agent_id.map(Uuid::into_bytes)
    })
}

/// What the central node is told of this sensor, and who takes its settings.
pub(super) fn management(
    config: &Config,
    (coverage, self_test_passed): (&Coverage, bool),
    proc: &Proc,
    report: &Arc<Mutex<SettingsReport>>,
    apply: Apply,
) -> Management {
    let lesser = coverage.kinds.iter().filter(|kind| {
        kind.chosen.is_none() || !kind.refused.is_empty() || !kind.degraded.is_empty()
    });
    Management {
        view: config.host.clone(),
        proc: proc.clone(),
        degraded: lesser.map(|kind| kind.kind.name().to_owned()).collect(),
        self_test_passed,
        report: Arc::clone(report),
        apply,
    }
}

fn policy(config: &Config) -> Result<Policy, RunError> {
    Policy::new(&config.environment.allow, &config.environment.redact)
        .map_err(RunError::start("environment policy"))
}

fn limits(config: &Config) -> Limits {
    Limits {
        budget_bytes: config.process_table.budget_bytes,
        grace: config.process_table.grace,
    }
}

/// The pipeline of a live run, its table filled with what runs already.
pub(super) fn pipeline(
    config: &Config,
    kernel: &Kernel,
    features: &Features,
    proc: &Proc,
    clock: &Arc<Clock>,
    (filter, confined): (Filter, &Confined),
    (sink, packets): (SinkHandle, Option<(&Context, &Opening, Account)>),
) -> Result<Pipeline, RunError> {
    let layout = kernel.loaded.layout().layout;
    // Under a scope the search would leave it, and the first process is outside.
    let (search, host) = match &kernel.scope {
        None => (features.cgroup2.clone(), proc.process(1)),
        Some(_) => (None, proc.own()),
    };
    let namespace = match &kernel.scope {
        None => proc
            .own()
            .and_then(|own| procfs::cgroup_namespace_root(&own)),
        Some(_) => Ok(None),
    };
    let namespace = namespace.unwrap_or_else(|error| {
        tracing::warn!(%error, "the sensor's cgroup namespace is not known: paths of cgroups are as it shows them");
        None
    });
    let places = Places::new(search, namespace.unwrap_or_default())
        .map_err(RunError::start("container search"))?;
    let describer = Describer {
        proc: if kernel.foreign_proc {
            // Its numbers are those of other processes.
            Proc::new("/nonexistent")
        } else {
            proc.clone()
        },
        clock: Arc::clone(clock),
        layout,
        policy: policy(config)?,
        places,
        containers: ContainerFacts::new(
            &config.container,
            &config.host.root,
            &config.environment.redact,
            proc.clone(),
            confined.confinement.clone(),
        )
        .map_err(RunError::start("facts of containers"))?,
        users: Users::new(
            config.host.root.clone(),
            host.ok().as_ref(),
            config.user_varlink.then(|| config.host.root.join(VARLINK)),
        )
        .map_err(RunError::start("user names"))?,
        live: true,
        owing: false,
    };
    let boot_id = proc.boot_id().map_err(RunError::start("boot id"))?;
    let mut table = ProcessTable::new(limits(config), boot_id, kernel.scope.is_some(), describer);
    let found = match &kernel.scope {
        _ if kernel.foreign_proc => Ok(0),
        None => table.snapshot(),
        Some(scope) => table.snapshot_cgroup(scope.path()),
    }
    .map_err(RunError::start("snapshot of processes"))?;
    tracing::debug!(processes = found, "snapshot");
    let hash = HashConfig {
        executables_frozen: Some(confined.executables_frozen),
        ..HashConfig::new(&config.hash).map_err(RunError::start("hash pool"))?
    };
    // Also where a hook tells of closes: it cannot for files that got their first name by a link, nor when its table is full.
    let closes = CloseWatch::spawn(CloseConfig::with(&hash), proc.clone(), clock.tick_ns())
        .map_err(RunError::start("watch for the last writer"))?;
    let threads = confined.confinement.clone();
    let (pool, results) = HashPool::spawn(hash, proc.clone(), Arc::clone(clock), threads)
        .map_err(RunError::start("hash pool"))?;
    let host = HostFacts::new(config.host.clone(), proc.clone(), clock)
        .map_err(RunError::start("facts of the host"))?;
    let current = host.current().clone();
    let packets = packets
        .map(|(context, opening, account)| {
            Packets::new(
                context.spool.clone(),
                opening,
                Arc::clone(clock),
                boot_id,
                Uuid::new_v4().into_bytes(),
                current.clone(),
                account,
            )
        })
        .transpose()
        .map_err(RunError::start("packets"))?;
    // Lines and packets name the same agent.
    let agent = packets.as_ref().map_or_else(
        || agent(&config.host.root),
        |packets| packets.agent().clone(),
    );
    let backends = kernel
        .loaded
        .coverage()
        .kinds
        .iter()
        .filter_map(|kind| Some((kind.kind, schema_backend(kind.chosen.as_ref()?.backend))))
        .collect();
    Ok(Pipeline::new(Parts {
        layout,
        clock: Arc::clone(clock),
        live: true,
        events: config.events.clone(),
        backends,
        own_child: kernel.child_tgid,
        host: Some((host, agent.clone())),
        table,
        hashes: Some((pool, results)),
        closes: Some(closes),
        filter,
        output: output(config, agent, current, sink, packets.is_some()),
        packets,
        reorder: (config.reorder.window, config.reorder.capacity),
        hold: config.hash.hold,
    }))
}

/// Lines of events; none if standard output, where they would go, is a sink of its own.
fn output(
    config: &Config,
    agent: v1::Agent,
    host: v1::Host,
    sink: SinkHandle,
    delivers: bool,
) -> Output {
    let to_stdout = config.output.path.is_none();
    let output = Output::new(config.output.format, to_stdout, agent, host, sink);
    if delivers && to_stdout && delivers_to_stdout(config) {
        return output.silent();
    }
    output
}

fn schema_backend(backend: Backend) -> v1::Backend {
    match backend {
        Backend::Tracepoint => v1::Backend::Tracepoint,
        Backend::Fentry => v1::Backend::Fentry,
        Backend::Kprobe => v1::Backend::Kprobe,
        Backend::SyscallExit => v1::Backend::SyscallExit,
    }
}

/// This sensor: an id of the machine that does not tell its machine id, and a number of this run.
fn agent(root: &Path) -> v1::Agent {
    let machine = host::machine_id(root).unwrap_or_default();
    let id = Uuid::new_v5(&AGENT_NAMESPACE, &machine);
    v1::Agent {
        id: id.as_bytes().to_vec(),
        epoch: Uuid::new_v4().as_bytes().to_vec(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema_version: sensor_proto::SCHEMA_VERSION,
    }
}

/// The pipeline of a replay: nothing of this host is looked at.
pub(super) fn replay(
    config: &Config,
    header: &Header,
    filter: Filter,
    sink: SinkHandle,
    packets: Option<(&Context, &Opening, Account)>,
) -> Result<Pipeline, RunError> {
    let layout = header.kernel_layout();
    let clock = Arc::new(Clock::fixed(header.wall_minus_boot_ns, header.tick_ns));
    let boot_id: Uuid = header
        .boot_id
        .parse()
        .map_err(RunError::start("boot id of the recording"))?;
    let proc = Proc::new("/nonexistent");
    let places = Places::new(None, Vec::new()).map_err(RunError::start("container search"))?;
    let describer = Describer {
        proc: proc.clone(),
        clock: Arc::clone(&clock),
        layout,
        policy: policy(config)?,
        places,
        containers: ContainerFacts::none(),
        users: Users::new("/nonexistent".into(), None, None)
            .map_err(RunError::start("user names"))?,
        live: false,
        owing: false,
    };
    let table = ProcessTable::new(limits(config), boot_id.into_bytes(), false, describer);
    let host = v1::Host {
        os: Some(v1::OperatingSystem {
            r#type: "linux".to_owned(),
            kernel_release: header.kernel_release.clone(),
            architecture: header.machine.clone(),
            ..v1::OperatingSystem::default()
        }),
        boot_id: boot_id.as_bytes().to_vec(),
        boot_time_ns: header.wall_minus_boot_ns,
        ..v1::Host::default()
    };
    let packets = packets
        .map(|(context, opening, account)| {
            Packets::new(
                context.spool.clone(),
                opening,
                Arc::clone(&context.clock),
                boot_id.into_bytes(),
                Uuid::new_v4().into_bytes(),
                host.clone(),
                account,
            )
        })
        .transpose()
        .map_err(RunError::start("packets"))?;
    let agent = match &packets {
        Some(packets) => packets.agent().clone(),
        None => v1::Agent {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema_version: sensor_proto::SCHEMA_VERSION,
            ..v1::Agent::default()
        },
    };
    let backends: Backends = header
        .backends
        .iter()
        .filter_map(|(kind, backend)| {
            let kind = RecordKind::ALL.iter().find(|known| known.name() == kind)?;
            Some((*kind, v1::Backend::from_short_name(backend)?))
        })
        .collect();
    Ok(Pipeline::new(Parts {
        layout,
        clock,
        live: false,
        events: config.events.clone(),
        backends,
        own_child: None,
        host: None,
        table,
        hashes: None,
        closes: None,
        filter,
        output: output(config, agent, host, sink, packets.is_some()),
        packets,
        reorder: (config.reorder.window, config.reorder.capacity),
        hold: config.hash.hold,
    }))
}

/// What a recording must say for its records to be read elsewhere.
pub(super) fn recording_header(
    kernel: &Kernel,
    features: &Features,
    proc: &Proc,
    clock: &Clock,
) -> Result<Header, RunError> {
    let boot_id = proc.boot_id().map_err(RunError::start("boot id"))?;
    let coverage = kernel.loaded.coverage();
    Ok(Header {
        abi_version: sensor_common::ABI_VERSION,
        kernel_release: features.release.clone(),
        machine: features.machine.clone(),
        boot_id: Uuid::from_bytes(boot_id).to_string(),
        wall_minus_boot_ns: clock.offset_ns(),
        tick_ns: clock.tick_ns(),
        layout: kernel.loaded.layout().layout.values.to_vec(),
        backends: coverage
            .kinds
            .iter()
            .filter_map(|kind| {
                let backend = schema_backend(kind.chosen.as_ref()?.backend);
                Some((kind.kind.name().to_owned(), backend.short_name().to_owned()))
            })
            .collect(),
        coverage: serde_json::to_value(coverage).map_err(RunError::start("coverage"))?,
    })
}
