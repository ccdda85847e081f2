//! From the eBPF object to attached programs: by trial, one program at a time.
//!
//! Every row of [`crate::probe::PROBES`] is tried in its order until one candidate works; what was refused, and why, goes into the
//! [`Coverage`]. What the programs are told ([`Settings`]) depends on which hooks work and is frozen before the first
//! program loads. So the loader assumes, tries, and where the outcome says otherwise starts over with what it learnt;
//! candidates that were refused stay refused, so this ends. In practice the first row shows what the kernel admits.
//!
//! Nothing is pinned: every program, map and link goes when [`Loaded`] and its handles are dropped.

use std::cell::OnceCell;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::CgroupArray;
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use rustix::fs::{Mode, OFlags};
use sensor_common::map::{self, Settings, feature};
use sensor_common::record::{Lane, RecordKind};
use zerocopy::IntoBytes as _;

use crate::exit::ExitStatus;
use crate::kernel::btf::{Btf, BtfError};
use crate::kernel::feature::{Capability, Features, Lockdown};
use crate::kernel::layout::Resolution;
use crate::kernel::sys;
use crate::probe::{Attach, BackendChoice};

mod coverage;
mod handle;
mod log;
mod trial;

pub use coverage::{Attached, Chosen, Coverage, Degraded, KindCoverage, Refusal};
pub use handle::{
    ConnectingTable, CounterTable, Counters, OpenFiles, ReaderAwake, Ring, TableError,
};
pub use log::{LogObject, ProgramLog};
use trial::{Known, Outcome, Trial, errno, settings, unload};

/// The eBPF object, as `cargo xtask build-ebpf` made it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/sensor.bpf.o");

/// How often loading starts over at most: once per candidate that the kernel could refuse is more than enough.
const MAX_PASSES: usize = 16;
/// Records that tell what happened; without any of them the others (ends, closes) are of nothing.
const TELLING: [RecordKind; 4] = [
    RecordKind::Exec,
    RecordKind::FileCreate,
    RecordKind::Connect,
    RecordKind::ModuleLoad,
];
/// A map with one entry per possible CPU.
const PER_CPU_MAPS: [&str; 1] = ["scratch_exec"];

/// Why there is nothing to read from.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The process may not load programs.
    #[error("{} missing: run as root or grant it", names(.missing))]
    MissingCapability {
        /// What it would need.
        missing: Vec<Capability>,
    },
    /// The kernel's types are needed and not there.
    #[error("the kernel shows no usable types (BTF)")]
    NoTypes(#[source] BtfError),
    /// aya could not read the kernel's types, although we could.
    #[error("the kernel's types are not understood")]
    TypesNotUnderstood(#[source] aya::BtfError),
    /// The object is not one of this build.
    #[error("the eBPF object has ABI version {found:?}, this program {expected}")]
    Abi {
        /// Version in the object; `None` if it has none.
        found: Option<u32>,
        /// Ours.
        expected: u32,
    },
    /// The kernel refused the object's maps or the object is damaged.
    #[error("the eBPF object was refused")]
    Object(#[source] Box<EbpfError>),
    /// Maps could not be made within the limit on locked memory.
    #[error(
        "not enough locked memory for the maps (limit {limit_bytes} bytes): grant CAP_SYS_RESOURCE or set LimitMEMLOCK=infinity"
    )]
    LockedMemory {
        /// `RLIMIT_MEMLOCK`.
        limit_bytes: u64,
        /// What was refused.
        source: Box<EbpfError>,
    },
    /// The object lacks a map.
    #[error("the eBPF object has no map {name}")]
    NoMap {
        /// Its name.
        name: &'static str,
    },
    /// A map of the object could not be used.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The object with logs is not there.
    #[error(
        "no object with logs at {}: make one with `cargo xtask build-ebpf --log`, or name it: --ebpf-log=FILE",
        places(.tried)
    )]
    NoLogObject {
        /// Where it was looked for.
        tried: Vec<PathBuf>,
        /// Why the last one could not be read.
        source: crate::procfs::ProcError,
    },
    /// The programs' log cannot be read.
    #[error("the programs' log cannot be read")]
    Log(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The scope's folder could not be opened.
    #[error("cannot open the cgroup {path}")]
    ScopeUnreadable {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The scope's folder is not in a cgroup version 2 hierarchy.
    #[error(
        "{path} is no cgroup of version 2: the sensor runs scoped to one or, on purpose, without a scope"
    )]
    ScopeNotCgroup2 {
        /// As given.
        path: PathBuf,
    },
    /// No record that tells what happened can be got.
    #[error("no hook works on this kernel: {first}")]
    NothingAttached {
        /// The first refusal.
        first: String,
        /// All of them.
        coverage: Box<Coverage>,
    },
    /// The kernel lets no program read its memory, so nothing tells what happens.
    #[error(
        "the kernel is locked down (confidentiality) and lets no program read its memory: boot it with lockdown=integrity or without"
    )]
    LockedDown {
        /// What was refused.
        coverage: Box<Coverage>,
    },
    /// The kernel kept refusing what it had accepted before.
    #[error("the kernel's answers changed while programs were loaded ({passes} times)")]
    Unsettled {
        /// How often loading started over.
        passes: usize,
    },
}

impl LoadError {
    /// The exit code of a process that it ends.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::MissingCapability { .. } | Self::LockedMemory { .. } => ExitStatus::Privilege,
            Self::NoTypes(_) | Self::TypesNotUnderstood(_) | Self::LockedDown { .. } => {
                ExitStatus::KernelUnsupported
            }
            Self::ScopeUnreadable { .. }
            | Self::ScopeNotCgroup2 { .. }
            | Self::NoLogObject { .. } => ExitStatus::Usage,
            Self::Abi { .. } | Self::NoMap { .. } => ExitStatus::Internal,
            Self::Object(_)
            | Self::Table(_)
            | Self::Log(_)
            | Self::NothingAttached { .. }
            | Self::Unsettled { .. } => ExitStatus::LoadFailed,
        }
    }
}

fn places(tried: &[PathBuf]) -> String {
    let places: Vec<_> = tried
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    places.join(" or ")
}

fn names(missing: &[Capability]) -> String {
    let names: Vec<_> = missing.iter().map(|one| one.name()).collect();
    names.join(" and ")
}

/// The cgroup outside of which nothing is recorded.
#[derive(Debug)]
pub struct Scope {
    folder: OwnedFd,
    path: PathBuf,
    id: u64,
}

impl Scope {
    /// Opens the folder of a cgroup of version 2.
    ///
    /// # Errors
    /// [`LoadError::ScopeUnreadable`] and [`LoadError::ScopeNotCgroup2`]: never a wider scope instead.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let unreadable = |errno: rustix::io::Errno| LoadError::ScopeUnreadable {
            path: path.to_owned(),
            source: errno.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(unreadable)?;
        let kind =
            nix::sys::statfs::fstatfs(&folder).map_err(|errno| LoadError::ScopeUnreadable {
                path: path.to_owned(),
                source: errno.into(),
            })?;
        if kind.filesystem_type() != nix::sys::statfs::CGROUP2_SUPER_MAGIC {
            return Err(LoadError::ScopeNotCgroup2 {
                path: path.to_owned(),
            });
        }
        let id = rustix::fs::fstat(&folder).map_err(unreadable)?.st_ino;
        Ok(Self {
            folder,
            path: path.to_owned(),
            id,
        })
    }

    /// Moves a process into the cgroup.
    ///
    /// # Errors
    /// The kernel's: a cgroup that has controllers for its children takes no processes itself.
    pub fn admit(&self, pid: u32) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.folder, "cgroup.procs", flags, Mode::empty())?;
        rustix::io::write(file, pid.to_string().as_bytes())?;
        Ok(())
    }

    /// As given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cgroup's id: the inode number of its folder.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// What is recorded.
#[derive(Debug)]
pub enum Watch<'a> {
    /// The whole machine.
    Machine,
    /// One cgroup.
    Scope(&'a Scope),
    /// Nothing: programs are loaded and attached for a report only.
    Nothing,
}

/// What the loader is asked for.
#[derive(Debug)]
pub struct LoadOptions<'a> {
    /// Families of hooks that may be used.
    pub backend: BackendChoice,
    /// What is recorded.
    pub watch: Watch<'a>,
    /// Size of each lane's ring in bytes, rounded up to a power of two of pages; indexed by [`Lane`].
    pub ring_bytes: [u32; Lane::COUNT],
    /// Created files that can be open at the same time.
    pub open_files_entries: u32,
    /// TCP connects that can be under way at the same time.
    pub connecting_entries: u32,
    /// Unread bytes of a bulk ring from which its polling reader is woken.
    pub wake_bytes: u64,
    /// The daemon's own process id in the initial pid namespace, whose doings are not reported.
    pub own_tgid: u32,
    /// Another object than the one that this program comes with: the one with logs.
    pub object: Option<&'a LogObject>,
    /// Keep the verifier's whole log for `debug`: slow where large programs are refused.
    pub full_verifier_log: bool,
}

impl LoadOptions<'_> {
    /// Ring sizes in bytes by default: process, file, network, control.
    pub const RING_BYTES: [u32; Lane::COUNT] = [4 << 20, 16 << 20, 8 << 20, 256 << 10];
    /// Backlog in bytes at which a polling reader is woken by default.
    pub const WAKE_BYTES: u64 = 256 << 10;
}

impl Default for LoadOptions<'_> {
    fn default() -> Self {
        Self {
            backend: BackendChoice::Auto,
            watch: Watch::Machine,
            ring_bytes: Self::RING_BYTES,
            open_files_entries: map::OPEN_FILES_ENTRIES,
            connecting_entries: map::CONNECTING_ENTRIES,
            wake_bytes: Self::WAKE_BYTES,
            own_tgid: std::process::id(),
            object: None,
            full_verifier_log: false,
        }
    }
}

/// The handles of the loaded object; each is there once.
#[derive(Debug)]
pub struct Handles {
    /// A ring per lane, in the order of [`Lane::ALL`].
    pub rings: [Ring; Lane::COUNT],
    /// The kernel side's counters.
    pub counters: Counters,
    /// Says whether the reader polls.
    pub reader_awake: ReaderAwake,
    /// TCP connects under way.
    pub connecting: ConnectingTable,
    /// Created files still open.
    pub open_files: OpenFiles,
}

/// What a program may have missed without a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// The kernel skipped it at most so many times.
    AtMost(u64),
    /// This kernel does not count it.
    Unobservable,
}

/// What the kernel counts of the programs that it skipped, each with its name; for kprobes and kretprobes it has a counter that
/// it shows nobody.
#[derive(Debug)]
pub struct Skips(Vec<(&'static str, Option<OwnedFd>)>);

impl Skips {
    /// What each program may have missed until now (`recursion_misses`).
    #[must_use]
    pub fn read(&self) -> Vec<(&'static str, Unseen)> {
        let read = |program: &OwnedFd| sys::recursion_misses(program.as_fd()).ok().flatten();
        let programs = self.0.iter().map(|(name, program)| {
            let misses = program.as_ref().and_then(read);
            (*name, misses.map_or(Unseen::Unobservable, Unseen::AtMost))
        });
        programs.collect()
    }
}

/// A loaded and attached object. Everything is detached when it is dropped.
#[derive(Debug)]
pub struct Loaded {
    ebpf: Ebpf,
    coverage: Coverage,
    settings: Settings,
    layout: Resolution,
    open_files_entries: u32,
    /// How often the object was loaded.
    passes: usize,
}

impl Loaded {
    /// What was chosen and refused.
    #[must_use]
    pub fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Where this kernel keeps its fields, and what it lacks.
    #[must_use]
    pub fn layout(&self) -> &Resolution {
        &self.layout
    }

    /// What the programs were told.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How often loading started over because a hook was refused.
    #[must_use]
    pub fn restarts(&self) -> usize {
        self.passes.saturating_sub(1)
    }

    /// Handles to the kernel's own counters of the programs that are attached now, which outlive the attachment.
    ///
    /// # Errors
    /// dup(2) of a program's descriptor.
    pub fn skips(&self) -> io::Result<Skips> {
        let programs = self.coverage.programs().into_iter();
        let counters = programs.map(|attached| {
            let program = match attached.attach {
                Attach::Kprobe(_) | Attach::Kretprobe(_) => None,
                Attach::Tracepoint(_) | Attach::Fentry(_) | Attach::Fexit(_) => self
                    .ebpf
                    .program(attached.program)
                    .and_then(|program| program.fd().ok())
                    .map(|fd| fd.as_fd().try_clone_to_owned())
                    .transpose()?,
            };
            Ok((attached.program, program))
        });
        counters.collect::<io::Result<_>>().map(Skips)
    }

    /// Takes a kind of record out of service: its programs are detached unless another kind needs them.
    pub fn refuse(&mut self, kind: RecordKind, reason: &str) {
        let Some(entry) = self.coverage.kinds.iter_mut().find(|e| e.kind == kind) else {
            return;
        };
        let Some(chosen) = entry.chosen.take() else {
            return;
        };
        entry
            .refused
            .push(Refusal::before_trial(chosen.backend, reason));
        entry.lost = crate::probe::of(kind).map_or("", |probe| probe.lost);
        let needed = self.coverage.programs();
        for attached in chosen.programs {
            if !needed.contains(&attached) {
                unload(&mut self.ebpf, attached);
            }
        }
    }

    /// Starts telling what the programs log, if their object was built to.
    ///
    /// # Errors
    /// [`LoadError::Log`].
    pub fn follow_log(&mut self) -> Result<ProgramLog, LoadError> {
        ProgramLog::follow(&mut self.ebpf)
    }

    /// The rings, counters and tables; once.
    ///
    /// # Errors
    /// [`LoadError::NoMap`] if they were taken before or the object lacks one, [`LoadError::Table`] if one cannot be used.
    pub fn take_handles(&mut self) -> Result<Handles, LoadError> {
        let ebpf = &mut self.ebpf;
        let mut take = |name: &'static str| {
            ebpf.take_map(name)
                .map(|map| (name, map))
                .ok_or(LoadError::NoMap { name })
        };
        let mut ring = |lane: Lane, name: &'static str| {
            let (name, map) = take(name)?;
            Ring::new(lane, name, map)
        };
        let rings = [
            ring(Lane::Process, map::RING_PROCESS)?,
            ring(Lane::File, map::RING_FILE)?,
            ring(Lane::Network, map::RING_NETWORK)?,
            ring(Lane::Control, map::RING_CONTROL)?,
        ];
        let (name, counters) = take(map::COUNTERS)?;
        let counters = Counters::new(name, counters)?;
        let (name, awake) = take(map::READER_AWAKE)?;
        let reader_awake = ReaderAwake::new(name, awake)?;
        let (name, connecting) = take(map::CONNECTING)?;
        let connecting = ConnectingTable::new(name, connecting)?;
        let (name, open_files) = take(map::OPEN_FILES)?;
        let open_files = OpenFiles::new(name, open_files, self.open_files_entries)?;
        Ok(Handles {
            rings,
            counters,
            reader_awake,
            connecting,
            open_files,
        })
    }
}

/// Loads the object and attaches what works.
///
/// # Errors
/// Only what leaves nothing to record; a hook that is refused is in the [`Coverage`].
pub fn load(features: &Features, options: &LoadOptions<'_>) -> Result<Loaded, LoadError> {
    let missing = features.capabilities.missing_for_load();
    if !missing.is_empty() {
        return Err(LoadError::MissingCapability { missing });
    }
    check_abi(object(options))?;
    let layout = Resolution::new(&Btf::from_kernel().map_err(LoadError::NoTypes)?);
    let types = aya::Btf::from_sys_fs().map_err(LoadError::TypesNotUnderstood)?;
    let loaded = load_object(features, options, layout, &types);
    drop(types);
    sys::trim_heap();
    loaded
}

fn load_object(
    features: &Features,
    options: &LoadOptions<'_>,
    layout: Resolution,
    types: &aya::Btf,
) -> Result<Loaded, LoadError> {
    // Before Linux 5.11 maps are charged to this limit. A refusal shows when they are made.
    let _unprivileged = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    let cpus = aya::util::nr_cpus()
        .ok()
        .and_then(|cpus| u32::try_from(cpus).ok())
        .unwrap_or(1);
    let base = Settings {
        own_tgid: options.own_tgid,
        scoped: u32::from(!matches!(options.watch, Watch::Machine)),
        features: if features.task_btf.is_available() {
            feature::TASK_BTF
        } else {
            0
        },
        syscall_exit_kinds: 0,
        wake_bytes: wake_bytes(options),
    };
    let told: [OnceCell<Settings>; MAX_PASSES] = Default::default();
    let table = layout.layout;
    let open_files_entries = options.open_files_entries.max(1);
    let mut loader = EbpfLoader::new();
    loader
        .btf(None)
        .verifier_log_level(if options.full_verifier_log {
            VerifierLogLevel::DEBUG | VerifierLogLevel::STATS
        } else {
            VerifierLogLevel::STATS
        })
        .override_global(map::LAYOUT, table.as_bytes(), true)
        .map_max_entries(map::OPEN_FILES, open_files_entries)
        .map_max_entries(map::CONNECTING, options.connecting_entries.max(1));
    for name in PER_CPU_MAPS {
        loader.map_max_entries(name, cpus);
    }
    for (name, bytes) in [
        map::RING_PROCESS,
        map::RING_FILE,
        map::RING_NETWORK,
        map::RING_CONTROL,
    ]
    .into_iter()
    .zip(options.ring_bytes)
    {
        // The loader rounds up to a power of two of pages; 0 would be refused, more than 1 GiB cannot be rounded.
        loader.map_max_entries(name, bytes.clamp(4096, 1 << 30));
    }
    let mut known = Known::new(features, &layout);
    let mut assumed = settings(base, &known.expected(options.backend));
    for (pass, slot) in told.iter().enumerate() {
        let current = slot.get_or_init(|| assumed);
        loader.override_global(map::SETTINGS, current.as_bytes(), true);
        let mut ebpf = loader.load(object(options)).map_err(object_error)?;
        if let Watch::Scope(scope) = options.watch {
            enter_scope(&mut ebpf, scope)?;
        }
        let mut trial = Trial::new(ebpf, types, &features.bpf_loop);
        match known.try_all(&mut trial, options.backend, base, current) {
            Outcome::Settled(coverage) => {
                if !TELLING.iter().any(|kind| coverage.backend(*kind).is_some()) {
                    let coverage = Box::new(coverage);
                    if features.lockdown == Lockdown::Confidentiality {
                        return Err(LoadError::LockedDown { coverage });
                    }
                    let first = coverage
                        .kinds
                        .iter()
                        .flat_map(|entry| &entry.refused)
                        .next()
                        .map_or_else(String::new, ToString::to_string);
                    return Err(LoadError::NothingAttached { first, coverage });
                }
                return Ok(Loaded {
                    ebpf: trial.ebpf,
                    coverage,
                    settings: *current,
                    layout,
                    open_files_entries,
                    passes: pass.saturating_add(1),
                });
            }
            Outcome::Otherwise(settings) => {
                tracing::debug!(pass, "a hook was refused, loading again without it");
                assumed = settings;
            }
        }
    }
    Err(LoadError::Unsettled { passes: MAX_PASSES })
}

fn object<'a>(options: &LoadOptions<'a>) -> &'a [u8] {
    options.object.map_or(OBJECT, LogObject::bytes)
}

/// The backlog at which a polling reader is woken: well below what the smallest ring that can be flooded holds.
fn wake_bytes(options: &LoadOptions<'_>) -> u64 {
    let [process, file, network, _control] = options.ring_bytes;
    let smallest = process.min(file).min(network);
    options.wake_bytes.min(u64::from(smallest / 4))
}

fn enter_scope(ebpf: &mut Ebpf, scope: &Scope) -> Result<(), LoadError> {
    let name = map::SCOPE_CGROUP;
    let map = ebpf.map_mut(name).ok_or(LoadError::NoMap { name })?;
    let failed = |source| LoadError::Table(TableError { name, source });
    let mut array = CgroupArray::try_from(map).map_err(failed)?;
    array.set(0, scope.folder.as_raw_fd(), 0).map_err(failed)
}

/// The object's ABI version, read from its symbol.
fn check_abi(bytes: &[u8]) -> Result<(), LoadError> {
    let expected = sensor_common::ABI_VERSION;
    let found = abi(bytes);
    if found == Some(expected) {
        Ok(())
    } else {
        Err(LoadError::Abi { found, expected })
    }
}

fn abi(bytes: &[u8]) -> Option<u32> {
    let file = object::File::parse(bytes).ok()?;
    let symbol = file
        .symbols()
        .find(|symbol| symbol.name() == Ok(map::ABI))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let start = usize::try_from(symbol.address().checked_sub(section.address())?).ok()?;
    let value = section.data().ok()?.get(start..start.checked_add(4)?)?;
    value.try_into().ok().map(u32::from_le_bytes)
}

fn object_error(error: EbpfError) -> LoadError {
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(RLIM_INFINITY, |(soft, _)| soft);
    let source = Box::new(error);
    if limit != RLIM_INFINITY && errno(&*source) == Some(libc::EPERM) {
        LoadError::LockedMemory {
            limit_bytes: limit,
            source,
        }
    } else {
        LoadError::Object(source)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::trial::tests::features;
    use super::*;
    use crate::probe::PROBES;

    #[test]
    fn the_committed_object_is_of_this_abi() {
        assert_eq!(abi(OBJECT), Some(sensor_common::ABI_VERSION));
        assert_eq!(abi(b"no object"), None);
        let error = check_abi(b"").unwrap_err();
        assert!(matches!(error, LoadError::Abi { found: None, .. }));
    }

    #[test]
    fn the_committed_object_has_every_program_of_the_table_and_no_other() {
        let file = object::File::parse(OBJECT).unwrap();
        let functions: BTreeSet<String> = file
            .symbols()
            .filter(|symbol| {
                symbol.kind() == object::SymbolKind::Text
                    && symbol.is_global()
                    && symbol.section_index().is_some_and(|index| {
                        let name = file.section_by_index(index).unwrap();
                        let name = name.name().unwrap();
                        ["tp_btf", "fentry", "fexit", "kprobe", "kretprobe"]
                            .iter()
                            .any(|section| name.starts_with(section))
                    })
            })
            .map(|symbol| symbol.name().unwrap().to_owned())
            .collect();
        let wanted: BTreeSet<String> = PROBES
            .iter()
            .flat_map(|probe| probe.candidates)
            .flat_map(|candidate| candidate.parts)
            .flat_map(|part| part.programs)
            .map(|program| (*program).to_owned())
            .collect();
        assert_eq!(functions, wanted);
    }

    #[test]
    fn a_small_ring_wakes_its_reader_in_time() {
        let mut options = LoadOptions::default();
        assert_eq!(wake_bytes(&options), LoadOptions::WAKE_BYTES);
        options.ring_bytes[Lane::File as usize] = 64 << 10;
        assert_eq!(wake_bytes(&options), 16 << 10);
    }

    #[test]
    fn a_scope_that_is_no_cgroup_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            Scope::open(folder.path()),
            Err(LoadError::ScopeNotCgroup2 { .. })
        ));
        assert!(matches!(
            Scope::open(&folder.path().join("missing")),
            Err(LoadError::ScopeUnreadable { .. })
        ));
    }

    #[test]
    fn without_capabilities_the_missing_ones_are_named() {
        let mut features = features(Some(true));
        features.capabilities.effective = 0;
        let error = load(&features, &LoadOptions::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "CAP_BPF and CAP_PERFMON missing: run as root or grant it"
        );
    }
}
