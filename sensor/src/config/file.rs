//! The configuration file as typed: one struct per table, each key with its meaning, each default a constant with its reason.
//! Refuses to decide what values mean together: that is `Config`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::metrics::MetricsTable;
use crate::config::rule::FilterRule;
use crate::config::sink::SinkTable;
use crate::config::spool::SpoolTable;
use crate::config::unit::{EventName, Size, Span};

/// Configuration of `sensor`. Every key has a default; an empty file is a good configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigFile {
    /// What is reported.
    pub events: EventsTable,
    /// Where the sensor looks.
    pub scope: ScopeTable,
    /// How programs are attached to the kernel.
    pub loader: LoaderTable,
    /// Ring buffers between the kernel and the sensor. Each lane has its own, so that a flood in one does not displace
    /// another. Sizes are powers of two and at least one page.
    pub ring: RingTable,
    /// Between the rings and the rest of the pipeline.
    pub reader: ReaderTable,
    /// Events leave in the order of the kernel's clock; those of different processors are sorted within a window.
    pub reorder: ReorderTable,
    /// Memory of processes, running and recently ended.
    pub process_table: ProcessTableTable,
    /// Hashes of executed, created and loaded files.
    pub hash: HashTable,
    /// Environment variables of executed programs, and secrets.
    pub environment: EnvironmentTable,
    /// Names of users and groups.
    pub user: UserTable,
    /// What is told of containers beyond their identity.
    pub container: ContainerTable,
    /// The host that is watched, for a sensor in a container; elsewhere the sensor sees it by itself.
    pub host: HostTable,
    /// Where events go.
    pub output: OutputTable,
    /// Where things are kept that survive a restart.
    pub state: StateTable,
    /// What the sensor gives up once it watches: capabilities, system calls, files. See [confinement.md](confinement.md).
    pub confine: ConfineTable,
    /// What waits for receivers, in `spool` under `state.directory`; only with sinks. Read at start: a smaller limit is kept from
    /// then on, and what is over it goes, told to every sink.
    pub spool: SpoolTable,
    /// Receivers that packets are delivered to from the spool, each under a name of its own (`[sink.headquarters]`): small
    /// letters, digits, `-` and `_`, at most 32. Each has its own place in the spool; what one does not take does not hold
    /// up another. See [delivery.md](delivery.md).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sink: BTreeMap<String, SinkTable>,
    /// How the sensor itself is watched.
    pub metrics: MetricsTable,
    /// Which events are dropped or merged on purpose. Rules are read again on SIGHUP; every other change needs a restart.
    pub filter: FilterTable,
}

/// `[events]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventsTable {
    /// Event types that are reported. Processes are followed through exec, exit and fork whether or not these are reported.
    pub enabled: Vec<EventName>,
}

/// Default of `events.enabled` leaves these out: a fork says nothing that the exec or the exit of the child does not say
/// again, and there are many.
const OFF_BY_DEFAULT: [&str; 1] = ["fork"];

impl Default for EventsTable {
    fn default() -> Self {
        let enabled = EventName::all()
            .filter(|name| !OFF_BY_DEFAULT.contains(&name.to_string().as_str()))
            .collect();
        Self { enabled }
    }
}

/// `[scope]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScopeTable {
    /// Directory of a cgroup (version 2): nothing outside it is recorded, read or shown. Absent: the whole host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
}

/// Kind of hooks that the loader uses.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum BackendChoice {
    /// The best that this kernel allows, chosen per event type by trial.
    #[default]
    Auto,
    /// BPF trampolines only.
    Fentry,
    /// Kprobes only.
    Kprobe,
    /// The exit of system calls only.
    SyscallExit,
}

/// `[loader]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoaderTable {
    /// Kind of hooks. All but `auto` are for tests and for finding faults.
    pub backend: BackendChoice,
}

/// Execs and exits are few but must not be lost: room for some 10,000 execs with short arguments while the reader is stopped.
pub const RING_PROCESS: Size = Size::mib(4);
/// Unpacking an archive creates 100,000 files in a burst of a second: at 200 bytes each they fit nearly whole.
pub const RING_FILE: Size = Size::mib(16);
/// Connections come in smaller bursts than files; 50,000 fit.
pub const RING_NETWORK: Size = Size::mib(8);
/// Heartbeats and notices of the probes: a few per second.
pub const RING_CONTROL: Size = Size::kib(256);

/// `[ring]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RingTable {
    /// Exec, fork, exit, module loads.
    pub process: Size,
    /// File creations.
    pub file: Size,
    /// Connections.
    pub network: Size,
    /// What the probes tell the sensor itself.
    pub control: Size,
}

impl Default for RingTable {
    fn default() -> Self {
        Self {
            process: RING_PROCESS,
            file: RING_FILE,
            network: RING_NETWORK,
            control: RING_CONTROL,
        }
    }
}

/// One second of a heavy burst; at some 500 bytes per decoded event this is 16 MiB at worst.
pub const READER_QUEUE: u32 = 32_768;

/// `[reader]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReaderTable {
    /// Decoded events that may wait for enrichment; more are lost and counted as `queue_full`.
    pub queue: u32,
}

impl Default for ReaderTable {
    fn default() -> Self {
        Self {
            queue: READER_QUEUE,
        }
    }
}

/// Rings are drained at least this often; what is older than this is not overtaken any more.
pub const REORDER_WINDOW: Span = Span::millis(50);
/// As many as the queue behind the reader holds.
pub const REORDER_CAPACITY: u32 = 32_768;

/// `[reorder]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReorderTable {
    /// How long an event waits for earlier ones of other processors.
    pub window: Span,
    /// Events that may wait so; when more do, the oldest leave early.
    pub capacity: u32,
}

impl Default for ReorderTable {
    fn default() -> Self {
        Self {
            window: REORDER_WINDOW,
            capacity: REORDER_CAPACITY,
        }
    }
}

/// Some 10,000 processes with ordinary arguments and environment; keeps the daemon under 64 MB whatever the host does.
pub const PROCESS_TABLE_BUDGET: Size = Size::mib(24);
/// Late events of an ended process (a file's last close, a hash) come within seconds.
pub const PROCESS_TABLE_GRACE: Span = Span::secs(30);

/// `[process_table]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessTableTable {
    /// Memory that processes may take; beyond it those ended longest ago are forgotten first, and counted.
    pub budget: Size,
    /// How long an ended process is remembered.
    pub grace: Span,
}

impl Default for ProcessTableTable {
    fn default() -> Self {
        Self {
            budget: PROCESS_TABLE_BUDGET,
            grace: PROCESS_TABLE_GRACE,
        }
    }
}

/// One thread hashes 500 MB/s and more; a second one keeps small files moving while a large one is read.
pub const HASH_THREADS: u32 = 2;
/// Executables and modules are smaller; reading more would cost the host seconds of disk time per file.
pub const HASH_MAX_FILE_SIZE: Size = Size::mib(256);
/// A healthy disk reads the largest allowed file in this time.
pub const HASH_TIMEOUT: Span = Span::secs(10);
/// Files of one burst; a waiting file costs some 200 bytes.
pub const HASH_QUEUE: u32 = 8_192;
/// Most files are hashed within it; what takes longer follows as a patch event.
pub const HASH_HOLD: Span = Span::millis(200);
/// All programs of a busy host; some 200 bytes each.
pub const HASH_CACHE_ENTRIES: u32 = 16_384;
/// File systems whose reads can hang on another process or host, or have no content of their own.
pub const HASH_REFUSED_FILESYSTEMS: [&str; 16] = [
    "fuse", "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "autofs", "coda", "gfs2", "ocfs2",
    "lustre", "proc", "sysfs", "devpts",
];

/// `[hash]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HashTable {
    /// Threads that read files.
    pub threads: u32,
    /// Larger files are not hashed: verdict `too_large`.
    pub max_file_size: Size,
    /// Time that one file may take: verdict `timeout`.
    pub timeout: Span,
    /// Make MD5 as well. SHA-256 is always made.
    pub md5: bool,
    /// Make SHA-1 as well.
    pub sha1: bool,
    /// Files that may wait to be hashed; more leave without a hash, and are counted.
    pub queue: u32,
    /// How long an event waits for its hashes before it leaves without them and a patch event follows.
    pub hold: Span,
    /// Contents whose hashes are remembered.
    pub cache_entries: u32,
    /// File systems that are never read, by type name: verdict `refused_fs`.
    pub refused_filesystems: Vec<String>,
    /// Ask for a read lease on a created file, and give it back at once, to learn whether a writer is left (needs CAP_LEASE for
    /// files of others). Who opens the file for writing in these microseconds waits; who asked not to wait fails.
    pub leases: bool,
}

impl Default for HashTable {
    fn default() -> Self {
        Self {
            threads: HASH_THREADS,
            max_file_size: HASH_MAX_FILE_SIZE,
            timeout: HASH_TIMEOUT,
            md5: true,
            sha1: false,
            queue: HASH_QUEUE,
            hold: HASH_HOLD,
            cache_entries: HASH_CACHE_ENTRIES,
            refused_filesystems: owned(&HASH_REFUSED_FILESYSTEMS),
            leases: true,
        }
    }
}

/// Variables that change what a program loads or runs, say who is behind it, or mark a container; nothing else leaves the host.
pub const ENVIRONMENT_ALLOW: &[&str] = &[
    // the dynamic linker and the C library
    "LD_*",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "LOCPATH",
    "MALLOC_*",
    // who and where
    "PATH",
    "SHELL",
    "HOME",
    "PWD",
    "USER",
    "LOGNAME",
    "TERM",
    // remote and raised sessions
    "SSH_*",
    "SUDO_*",
    "PKEXEC_UID",
    "DOAS_USER",
    "XDG_SESSION_ID",
    "XDG_SESSION_TYPE",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    // service manager
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDS",
    "SYSTEMD_EXEC_PID",
    // containers
    "container",
    "container_uuid",
    "KUBERNETES_SERVICE_HOST",
    "ECS_CONTAINER_METADATA_URI*",
    "AWS_EXECUTION_ENV",
    // proxies
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    // interpreters and tools that run what these name
    "BASH_ENV",
    "BASH_FUNC_*",
    "BASHOPTS",
    "SHELLOPTS",
    "ENV",
    "IFS",
    "PS4",
    "PROMPT_COMMAND",
    "ZDOTDIR",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "PYTHONWARNINGS",
    "PYTHONBREAKPOINT",
    "PYTHONUSERBASE",
    "PERL5LIB",
    "PERL5OPT",
    "PERL5DB",
    "PERLLIB",
    "RUBYLIB",
    "RUBYOPT",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_REPL_EXTERNAL_MODULE",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "CLASSPATH",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "LUA_INIT*",
    "LUA_PATH*",
    "LUA_CPATH*",
    "R_PROFILE*",
    "DOTNET_STARTUP_HOOKS",
    "CORECLR_PROFILER*",
    "COR_PROFILER*",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "OPENSSL_ENGINES",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_EXTERNAL_DIFF",
    "GIT_EXEC_PATH",
    "GIT_CONFIG_*",
    "PAGER",
    "EDITOR",
    "VISUAL",
    "BROWSER",
    "HISTFILE",
    "HISTCONTROL",
    "HISTSIZE",
];
/// The sensor knows the usual words (password, token, api key, ...) and the habits of common tools by itself, and masks what
/// has the form of a key or token whatever its name; a broad `*TOKEN*` here would also hide `--max-tokens 100`.
pub const ENVIRONMENT_REDACT: &[&str] = &["*COOKIE*"];

/// `[environment]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EnvironmentTable {
    /// Names of the variables that are sent; `*` stands for any characters. All others only count.
    pub allow: Vec<String>,
    /// Further names, beside the usual words for secrets, whose values are replaced before anything is written, in the
    /// environment and in arguments (`--password=...`); `*` stands for any characters, case does not matter.
    pub redact: Vec<String>,
}

impl Default for EnvironmentTable {
    fn default() -> Self {
        Self {
            allow: owned(ENVIRONMENT_ALLOW),
            redact: owned(ENVIRONMENT_REDACT),
        }
    }
}

/// `[user]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UserTable {
    /// Ask systemd's user database (varlink) for names that no passwd or group file has.
    pub varlink: bool,
}

impl Default for UserTable {
    fn default() -> Self {
        Self { varlink: true }
    }
}

/// Labels that say what a container is and which part of what it plays; none of them is made for secrets.
pub const CONTAINER_LABELS: &[&str] = &[
    "app",
    "app.kubernetes.io/*",
    "k8s-app",
    "helm.sh/chart",
    "com.docker.compose.project",
    "com.docker.compose.service",
    "com.docker.swarm.service.name",
    "org.opencontainers.image.ref.name",
    "org.opencontainers.image.revision",
    "org.opencontainers.image.source",
    "org.opencontainers.image.title",
    "org.opencontainers.image.vendor",
    "org.opencontainers.image.version",
];
/// `data-root` of Docker.
pub const CONTAINER_DOCKER: &[&str] = &["/var/lib/docker"];
/// `state` of containerd: its own, and where others bring one along (K3s and RKE2, k0s, MicroK8s).
pub const CONTAINER_CONTAINERD: &[&str] = &[
    "/run/containerd",
    "/run/k3s/containerd",
    "/run/k0s/containerd",
    "/var/snap/microk8s/common/run/containerd",
];
/// `graphroot` and `runroot` of CRI-O and Podman.
pub const CONTAINER_STORAGE: &[&str] = &["/var/lib/containers/storage", "/run/containers/storage"];

/// `[container]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerTable {
    /// Read image, name and pod of a container in the files that its runtime keeps. They are read once for each container, by a
    /// thread of its own; no runtime is asked. Off: only what the path of its cgroup tells.
    pub files: bool,
    /// Names of the labels that are sent; `*` stands for any characters. All others only count. Values that look secret are
    /// replaced as in the environment (`environment.redact`).
    pub labels: Vec<String>,
    /// Where Docker keeps its data (`data-root`): folders, from the host's root.
    pub docker: Vec<PathBuf>,
    /// Where containerd keeps the state of what runs (`state`): folders, from the host's root.
    pub containerd: Vec<PathBuf>,
    /// Where CRI-O and Podman keep containers and images (`graphroot`, `runroot`): folders, from the host's root. Those that users
    /// run without root are found in the usual places below their homes.
    pub storage: Vec<PathBuf>,
}

impl Default for ContainerTable {
    fn default() -> Self {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect();
        Self {
            files: true,
            labels: owned(CONTAINER_LABELS),
            docker: paths(CONTAINER_DOCKER),
            containerd: paths(CONTAINER_CONTAINERD),
            storage: paths(CONTAINER_STORAGE),
        }
    }
}

/// `[confine]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConfineTable {
    /// Off only to find out whether a fault comes from it: the sensor then keeps every privilege that it was started with.
    pub enabled: bool,
}

impl Default for ConfineTable {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// How events are written.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum OutputFormat {
    /// `pretty` on a terminal, else `json`.
    #[default]
    Auto,
    /// One line an event, for people.
    Pretty,
    /// One JSON object a line.
    Json,
    /// One JSON object a line, in the Elastic Common Schema.
    Ecs,
    /// One JSON object a line, in the Open Cybersecurity Schema Framework.
    Ocsf,
}

/// A day of an ordinary host in a few files, each small enough for ordinary tools.
pub const OUTPUT_ROTATE_SIZE: Size = Size::mib(256);
/// One file a day at most.
pub const OUTPUT_ROTATE_AGE: Span = Span::secs(86_400);
/// With the default size at most 2 GiB of disk.
pub const OUTPUT_KEEP: u32 = 7;
/// Some seconds of a heavy burst, while a disk is full or slow.
pub const OUTPUT_BUFFER: Size = Size::mib(8);

/// `[output]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutputTable {
    /// How events are written to standard output. A file gets JSON lines unless this says `pretty`.
    pub format: OutputFormat,
    /// File that events are appended to, made with mode 0600. Absent: standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// A file that would grow beyond this is set aside as `<path>.1` and a new one begun. `"0B"`: never.
    pub rotate_size: Size,
    /// A file whose first event was written longer ago than this is set aside. `"0s"`: never.
    pub rotate_age: Span,
    /// Files set aside that are kept; older ones are deleted.
    pub keep: u32,
    /// Memory for events that wait to be written, while the output is slow or the disk full; more are lost and counted as
    /// `output_full`.
    pub buffer: Size,
}

impl Default for OutputTable {
    fn default() -> Self {
        Self {
            format: OutputFormat::default(),
            path: None,
            rotate_size: OUTPUT_ROTATE_SIZE,
            rotate_age: OUTPUT_ROTATE_AGE,
            keep: OUTPUT_KEEP,
            buffer: OUTPUT_BUFFER,
        }
    }
}

/// `[host]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HostTable {
    /// Where the host's root is mounted: its machine-id, os-release, names of users and groups are read below it. The environment
    /// variable `HOST_ROOT` overrides it.
    pub root: PathBuf,
    /// Name of the host. Absent: what the kernel says, which in a container may be the container's. The environment variable
    /// `NODE_NAME` overrides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Default for HostTable {
    fn default() -> Self {
        Self {
            root: "/".into(),
            name: None,
        }
    }
}

/// Where the file system hierarchy has variable state.
pub const STATE_DIRECTORY: &str = "/var/lib/sensor";

/// `[state]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StateTable {
    /// Folder of the sensor's own, made with mode 0700 when something is to be kept: identity, spool, places of the sinks, filter
    /// settings of the central node. One process at a time; a second sensor with sinks, under a scope, needs another.
    pub directory: PathBuf,
}

impl Default for StateTable {
    fn default() -> Self {
        Self {
            directory: STATE_DIRECTORY.into(),
        }
    }
}

/// Filter settings of the central node: rules and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SettingsFile {
    /// The rules' table.
    pub filter: SettingsTable,
}

/// `[filter]` of filter settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SettingsTable {
    /// The rules, in order.
    pub rule: Vec<FilterRule>,
}

/// `[filter]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FilterTable {
    /// A file of `[[rule]]` tables, which follow the rules of the configuration itself. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules_file: Option<PathBuf>,
    /// Filter rules, in order: those of sensor.toml, those of the files in conf.d by name, those of the central node's settings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<FilterRule>,
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
