//! The configuration: read from files, checked as a whole, and from then on a plain value that each part gets its piece of.
//! Refuses to know what is on the host: whether a cgroup exists or a kernel can do something is found out by those who use it.
//!
//! Defaults < sensor.toml < files of conf.d by name < filter settings of the central node < flags. Lists and values of a later source replace those of an earlier
//! one, except `filter.rule`, whose rules follow one another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sensor_proto::v1::EventType;
use serde::Deserialize as _;

pub mod document;
pub mod file;
mod form;
pub mod metrics;
mod parse;
pub mod rule;
pub mod sink;
pub mod spool;
pub mod template;
pub mod unit;

pub use document::{docs_markdown, schema_json};
pub use file::{BackendChoice, ConfigFile, OutputFormat};
pub use form::Form;
pub use metrics::MetricsAddress;
pub use parse::Position;
pub use rule::{FilterRule, RuleAction};
pub use sink::{
    Authentication, CentralNodeConfig, FileSinkConfig, HostPort, JetStreamConfig, KafkaCompression,
    KafkaConfig, OtlpConfig, OtlpProtocol, ProxyConfig, ReceiverConfig, RemoteConfig,
    SaslMechanism, SinkConfig, SinkFormat, TlsConfig,
};
pub use spool::SpoolLimits;
pub use unit::{EventName, Size, Span};

use crate::config::file::{FilterTable, SettingsFile};
use crate::config::parse::Parsed;
use crate::config::rule::RulesFile;
use crate::config::sink::SinkTable;

/// File in the state directory with the filter settings of the central node.
pub const SETTINGS_FILE: &str = "filter-settings.toml";
/// Where the configuration lies unless the command line says otherwise.
pub const DIRECTORY: &str = "/etc/sensor";
/// No sensible configuration is longer; whatever else the path names must not fill memory.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Compiled form of one regular expression; what is larger costs too much time per event as well.
pub const MAX_REGEX_BYTES: usize = 1 << 20;
/// Longest name of a host (RFC 1035).
const MAX_HOST_NAME: usize = 253;
/// The kernel takes larger rings, but they are locked memory.
const MAX_RING: u64 = 1 << 30;

/// The configuration as meant: checked, in base units.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Event types that are reported; never empty.
    pub events: BTreeSet<EventType>,
    /// Directory of the cgroup outside which nothing is seen; absolute.
    pub scope_cgroup: Option<PathBuf>,
    /// Kind of hooks.
    pub backend: BackendChoice,
    /// Sizes of the rings.
    pub ring: RingConfig,
    /// Decoded events that may wait for enrichment; at least 1.
    pub reader_queue: usize,
    /// Order of events.
    pub reorder: ReorderConfig,
    /// Memory of processes.
    pub process_table: ProcessTableConfig,
    /// Hashes.
    pub hash: HashConfig,
    /// Environment variables and secrets; in both lists `*` stands for any characters.
    pub environment: EnvironmentConfig,
    /// Ask systemd's user database for names.
    pub user_varlink: bool,
    /// Facts of containers.
    pub container: ContainerConfig,
    /// The host that is watched.
    pub host: HostConfig,
    /// Where events go.
    pub output: OutputConfig,
    /// Where things are kept that survive a restart; absolute.
    pub state_directory: PathBuf,
    /// Privileges are given up once the sensor watches.
    pub confine: bool,
    /// Limits of what waits for receivers.
    pub spool: SpoolLimits,
    /// Receivers of packets, by name.
    pub sinks: BTreeMap<String, SinkConfig>,
    /// Where the sensor answers for itself.
    pub metrics: Option<MetricsAddress>,
    /// Filter rules, in order; not compiled yet.
    pub rules: Vec<FilterRule>,
}

/// Sizes of the rings in bytes: powers of two, at least one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Process lane.
    pub process_bytes: u32,
    /// File lane.
    pub file_bytes: u32,
    /// Network lane.
    pub network_bytes: u32,
    /// Control lane.
    pub control_bytes: u32,
}

/// How events of different processors are put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReorderConfig {
    /// How long an event waits for earlier ones.
    pub window: Duration,
    /// Events that may wait; at least 1.
    pub capacity: usize,
}

/// Memory of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessTableConfig {
    /// Memory that processes may take.
    pub budget_bytes: usize,
    /// How long an ended process is remembered.
    pub grace: Duration,
}

/// Hashes of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashConfig {
    /// Threads; at least 1.
    pub threads: usize,
    /// Larger files are not hashed.
    pub max_file_bytes: u64,
    /// Time that one file may take.
    pub timeout: Duration,
    /// Make MD5.
    pub md5: bool,
    /// Make SHA-1.
    pub sha1: bool,
    /// Files that may wait; at least 1.
    pub queue: usize,
    /// How long an event waits for its hashes.
    pub hold: Duration,
    /// Contents remembered; at least 1.
    pub cache_entries: usize,
    /// Types of file systems that are never read.
    pub refused_filesystems: Vec<String>,
    /// Ask for read leases.
    pub leases: bool,
}

/// Environment variables and secrets; in both lists `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentConfig {
    /// Names of variables that are sent.
    pub allow: Vec<String>,
    /// Names whose values are replaced, whatever their case, beside the usual words for secrets.
    pub redact: Vec<String>,
}

/// Facts of containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Read the runtimes' files at all.
    pub files: bool,
    /// Names of labels that are sent; `*` stands for any characters.
    pub labels: Vec<String>,
    /// Folders of Docker; these and the following are absolute, from the host's root.
    pub docker: Vec<PathBuf>,
    /// Folders of containerd.
    pub containerd: Vec<PathBuf>,
    /// Folders of CRI-O and Podman.
    pub storage: Vec<PathBuf>,
}

/// The host that is watched, as the sensor sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Where its root is mounted; absolute.
    pub root: PathBuf,
    /// Its name, where the kernel would tell another.
    pub name: Option<String>,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            root: "/".into(),
            name: None,
        }
    }
}

/// Where events go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputConfig {
    /// How they are written.
    pub format: OutputFormat,
    /// File they are appended to; absolute. Absent: standard output.
    pub path: Option<PathBuf>,
    /// Size at which a file is set aside.
    pub rotate_bytes: Option<u64>,
    /// Age at which a file is set aside.
    pub rotate_age: Option<Duration>,
    /// Files set aside that are kept.
    pub keep: usize,
    /// Memory for events that wait to be written.
    pub buffer_bytes: usize,
}

/// What the command line overrides, and of the environment what a container is told of its host by.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// `--events`
    pub events: Option<Vec<EventName>>,
    /// `--scope-cgroup`
    pub scope_cgroup: Option<PathBuf>,
    /// `--backend`
    pub backend: Option<BackendChoice>,
    /// `--format`
    pub format: Option<OutputFormat>,
    /// `HOST_ROOT`
    pub host_root: Option<PathBuf>,
    /// `NODE_NAME`
    pub host_name: Option<String>,
    /// `CREDENTIALS_DIRECTORY`: where the service manager puts what `LoadCredential=` of the unit names (systemd.exec(5)).
    pub credentials: Option<PathBuf>,
}

/// Filter settings that the central node gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterSettings {
    /// Version that the node gave them; higher is newer.
    pub version: u64,
    /// A TOML document of `[[filter.rule]]` tables.
    pub document: String,
}

/// Which filter settings of the central node count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SettingsSource {
    /// Those of the state directory, if there are any.
    #[default]
    Stored,
    /// These, to see whether they would do.
    Candidate(FilterSettings),
    /// None.
    None,
}

/// Where to look for the configuration.
#[derive(Clone, Debug)]
pub struct Sources {
    /// `--config`: this file and no other; it must exist.
    pub file: Option<PathBuf>,
    /// Else `sensor.toml` and `conf.d/*.toml` in this directory, as far as they exist.
    pub directory: PathBuf,
    /// Filter settings of the central node.
    pub settings: SettingsSource,
    /// What the command line overrides.
    pub overrides: Overrides,
}

impl Sources {
    /// The usual places.
    pub fn new(file: Option<PathBuf>, overrides: Overrides) -> Self {
        Self {
            file,
            directory: PathBuf::from(DIRECTORY),
            settings: SettingsSource::default(),
            overrides,
        }
    }
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigProblem {
    /// A file could not be read.
    #[error("cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// A file is too long.
    #[error("longer than {MAX_FILE_BYTES} bytes")]
    FileTooLong,
    /// A file is not text.
    #[error("not UTF-8 text")]
    NotText,
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// No such key.
    #[error("unknown key{}", nearest.as_ref().map(|key| format!(", did you mean `{key}`?")).unwrap_or_default())]
    UnknownKey {
        /// The key that was probably meant.
        nearest: Option<String>,
    },
    /// The value has the wrong type or form.
    #[error("{0}")]
    WrongValue(String),
    /// A number, size or time out of range.
    #[error("{value} is out of range: {least} to {most}")]
    OutOfRange {
        /// The value.
        value: String,
        /// Least that is allowed.
        least: String,
        /// Most that is allowed.
        most: String,
    },
    /// A ring of a size that the kernel does not take.
    #[error("{value} is not a power of two of at least one page ({page})")]
    NotPages {
        /// The value.
        value: Size,
        /// Size of a page on this host.
        page: Size,
    },
    /// An empty list or text where there must be something.
    #[error("must not be empty")]
    Empty,
    /// A relative path.
    #[error("{} is not an absolute path", .0.display())]
    NotAbsolute(PathBuf),
    /// Not the name of a credential, or not where one can stand.
    #[error("{} is not `credential:` and the plain name of a file of the service's credentials", .0.display())]
    NotACredential(PathBuf),
    /// Whoever is on the host decides what the sensor does.
    #[error("anybody may write it (mode {mode:o}); take that away: chmod o-w")]
    Writable {
        /// Its permissions.
        mode: u32,
    },
    /// Not a name of a sink.
    #[error("a sink's name is small letters, digits, `-` and `_`, at most 32")]
    NotASinkName,
    /// More sinks than are allowed.
    #[error("at most {0} sinks")]
    TooManySinks(usize),
    /// A key that another kind of sink has.
    #[error("a sink of type `{0}` has no such key")]
    NotOfSinkType(&'static str),
    /// A key that contradicts another.
    #[error("makes no sense with {0}")]
    Contradicts(&'static str),
    /// Not a subject of NATS.
    #[error(
        "`{}` is no subject: words with dots between, and {{agent}}, {{stream}} or, with a message per event, {{type}} in them",
        .0.escape_default()
    )]
    NotASubject(String),
    /// Not a name of a stream of JetStream.
    #[error("`{}` is no name of a stream", .0.escape_default())]
    NotAStream(String),
    /// Not what Kafka takes for a topic.
    #[error("`{}` is no name of a topic", .0.escape_default())]
    NotATopic(String),
    /// Not a path of HTTP.
    #[error("`{}` is no path: it begins with / and has plain characters only", .0.escape_default())]
    NotAPath(String),
    /// Not `host:port`.
    #[error("`{}` is not host:port", .0.escape_default())]
    NotAnAddress(String),
    /// Neither an address with a port nor a socket.
    #[error("`{}` is neither address:port nor unix:/path", .0.escape_default())]
    NotAListener(String),
    /// An address that others can reach, unasked for.
    #[error("{0} is not a loopback address; `metrics.remote = true` allows others")]
    NotLoopback(std::net::IpAddr),
    /// Not a digest of a key.
    #[error("`{}` is not 64 hexadecimal digits", .0.escape_default())]
    NotAPin(String),
    /// Not a name that a certificate can have.
    #[error("`{}` is neither a host name nor an address", .0.escape_default())]
    NotAServerName(String),
    /// A key that must stand beside another.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Not a pattern of names of variables.
    #[error("`{}` is not a name of a variable", .0.escape_default())]
    NotAName(String),
}

/// Where something wrong stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file.
    File(PathBuf, Option<Position>),
    /// On the command line, or in a default.
    Elsewhere(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, None) => write!(out, "{}", path.display()),
            Self::File(path, Some(at)) => {
                write!(out, "{}:{}:{}", path.display(), at.line, at.column)
            }
            Self::Elsewhere(what) => out.write_str(what),
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Debug)]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// Path of the key, such as `filter.rule[2].id`; empty: the file as a whole.
    pub key: String,
    /// What.
    pub problem: ConfigProblem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(out, "{}: ", self.key)?;
        }
        write!(out, "{}", self.problem)
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.problem)
    }
}

/// Everything that is wrong with the configuration: one line each.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            write!(out, "{error}")?;
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                write!(out, ": {cause}")?;
                source = cause.source();
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl ConfigErrors {
    /// By place: file by file, from top to bottom; what stands in no file at the end.
    fn sorted(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by(|one, other| one.place.cmp(&other.place));
        Self(errors)
    }
}

/// A configuration that was read and is sound.
#[derive(Debug)]
pub struct Loaded {
    /// As meant.
    pub config: Config,
    /// As typed, with defaults, flags and the rules of `filter.rules_file` filled in.
    pub file: ConfigFile,
    places: Places,
}

impl Loaded {
    /// Where a key of [`Loaded::file`] stands; used by checks of a layer above, such as the filter's compiler.
    pub fn locate(&self, key: &str) -> Place {
        self.places.locate(key)
    }

    /// Keys outside the filter rules whose values differ, such as `ring.file`: what a running sensor takes in only by a restart.
    #[must_use]
    pub fn differing_keys(&self, other: &Self) -> Vec<String> {
        let keys = |loaded: &Self| {
            let mut keys = BTreeMap::new();
            // A sound configuration has no value that TOML lacks.
            let table = toml::Table::try_from(&loaded.file).unwrap_or_default();
            flatten(&table, "", &mut keys);
            keys.retain(|key, _| !key.starts_with("filter."));
            keys
        };
        let (mine, theirs) = (keys(self), keys(other));
        let all: BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
        all.into_iter()
            .filter(|key| mine.get(*key) != theirs.get(*key))
            .cloned()
            .collect()
    }

    /// The effective configuration as TOML. There is nothing to mask in it: no key holds a secret itself.
    ///
    /// # Errors
    /// What serialisation reports; a sound configuration has no value that TOML lacks.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(&self.file)
    }

    /// The same, a line for each key, with where its value comes from: a file with line and column, a flag, or `default`.
    ///
    /// # Errors
    /// As [`Loaded::to_toml`].
    pub fn to_toml_with_origins(&self) -> Result<String, toml::ser::Error> {
        let mut keys = BTreeMap::new();
        flatten(&toml::Table::try_from(&self.file)?, "", &mut keys);
        keys.remove(RULES_KEY);
        let mut lines: Vec<String> = keys
            .iter()
            .map(|(key, value)| format!("{key} = {value}  # {}", self.places.origin(key)))
            .collect();
        for (index, rule) in self.file.filter.rule.iter().enumerate() {
            let origin = self.places.origin(&format!("{RULES_KEY}[{index}]"));
            lines.push(format!("\n[[{RULES_KEY}]]  # {origin}"));
            lines.push(toml::to_string(rule)?.trim_end().to_owned());
        }
        lines.push(String::new());
        Ok(lines.join("\n"))
    }
}

/// The values of a table by their whole keys.
fn flatten(table: &toml::Table, above: &str, keys: &mut BTreeMap<String, toml::Value>) {
    for (name, value) in table {
        let key = if above.is_empty() {
            name.clone()
        } else {
            format!("{above}.{name}")
        };
        match value {
            toml::Value::Table(below) => flatten(below, &key, keys),
            toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_)
            | toml::Value::Array(_) => {
                keys.insert(key, value.clone());
            }
        }
    }
}

/// Rules of a file of their own, with the places of their keys.
#[derive(Debug)]
pub struct LoadedRules {
    /// The rules, in order.
    pub rules: Vec<FilterRule>,
    places: Places,
}

impl LoadedRules {
    /// Where a key such as `rule[2].id` stands.
    pub fn locate(&self, key: &str) -> Place {
        self.places.locate(key)
    }
}

/// Which keys stand where, over all files.
#[derive(Debug, Default)]
struct Places {
    /// In order of precedence, the weakest first.
    files: Vec<(PathBuf, BTreeMap<String, Position>)>,
    /// For each rule of the whole list: its file, and the path of its table there.
    rules: Vec<(usize, String)>,
    /// Keys that the command line overrode, with the flag.
    flags: Vec<(&'static str, &'static str)>,
}

/// Key of the list that grows from file to file.
const RULES_KEY: &str = "filter.rule";

impl Places {
    fn locate(&self, key: &str) -> Place {
        if let Some((_, flag)) = self.flags.iter().find(|(overridden, _)| *overridden == key) {
            return Place::Elsewhere(flag);
        }
        let rule = key
            .strip_prefix(RULES_KEY)
            .and_then(|rest| rest.strip_prefix('['));
        if let Some((index, rest)) = rule.and_then(|rest| rest.split_once(']'))
            && let Some((file, table)) = index
                .parse()
                .ok()
                .and_then(|index: usize| self.rules.get(index))
            && let Some(place) = self.files.get(*file)
        {
            return Self::locate_in(place, &format!("{table}{rest}"))
                .unwrap_or_else(|| Place::File(place.0.clone(), None));
        }
        let found = self
            .files
            .iter()
            .rev()
            .find_map(|file| Self::locate_in(file, key));
        found.unwrap_or(Place::Elsewhere("default"))
    }

    /// Who set a key: as [`Places::locate`], but a table around it that leaves it out has not.
    fn origin(&self, key: &str) -> Place {
        let flag = self.flags.iter().any(|(overridden, _)| *overridden == key);
        let set = |file: &(PathBuf, BTreeMap<String, Position>)| file.1.contains_key(key);
        if flag || key.starts_with(RULES_KEY) || self.files.iter().any(set) {
            return self.locate(key);
        }
        Place::Elsewhere("default")
    }

    /// The key itself, else the nearest table or list around it.
    fn locate_in(file: &(PathBuf, BTreeMap<String, Position>), key: &str) -> Option<Place> {
        let mut key = key;
        loop {
            if let Some(position) = file.1.get(key) {
                return Some(Place::File(file.0.clone(), Some(*position)));
            }
            key = key.get(..key.rfind(['.', '['])?)?;
        }
    }
}

/// Reads and checks the configuration.
///
/// # Errors
/// All that is wrong with it.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    let mut errors = Vec::new();
    let mut places = Places::default();
    let mut merged = toml::Table::new();
    for path in paths(sources, &mut errors) {
        let Some(parsed) = read::<ConfigFile>(&path, &mut errors) else {
            continue;
        };
        adopt(path, parsed, &mut places, &mut merged);
    }
    let settings = match &sources.settings {
        SettingsSource::None => None,
        SettingsSource::Candidate(candidate) => {
            // Not a file yet; errors name it so.
            let name = format!("filter settings {} of the central node", candidate.version);
            parsed::<SettingsFile>(Path::new(&name), candidate.document.clone(), &mut errors)
                .map(|parsed| (PathBuf::from(name), parsed))
        }
        SettingsSource::Stored => {
            let directory = state_directory(&merged);
            let path = directory.join(SETTINGS_FILE);
            // An absent file is the usual case, and a sensor without privilege may not look.
            path.is_file()
                .then(|| read::<SettingsFile>(&path, &mut errors))
                .flatten()
                .map(|parsed| (path, parsed))
        }
    };
    if let Some((path, parsed)) = settings {
        adopt(path, parsed, &mut places, &mut merged);
    }
    let mut file = ConfigFile::deserialize(merged).unwrap_or_default();
    sources.overrides.apply(&mut file, &mut places);
    if let Some(path) = file.filter.rules_file.take_if(|path| path.is_absolute())
        && let Some(parsed) = read::<RulesFile>(&path, &mut errors)
    {
        let more = RulesFile::deserialize(parsed.table)
            .unwrap_or_default()
            .rule;
        for index in 0..more.len() {
            places
                .rules
                .push((places.files.len(), format!("rule[{index}]")));
        }
        places.files.push((path, parsed.positions));
        file.filter.rule.extend(more);
    }
    match Config::try_from(file.clone()) {
        Ok(config) if errors.is_empty() => Ok(Loaded {
            config,
            file,
            places,
        }),
        Ok(_) => Err(ConfigErrors::sorted(errors)),
        Err(problems) => {
            errors.extend(problems.into_iter().map(|fault| ConfigError {
                place: places.locate(&fault.key),
                key: fault.key,
                problem: fault.problem,
            }));
            Err(ConfigErrors::sorted(errors))
        }
    }
}

/// Reads a file of rules.
///
/// # Errors
/// All that is wrong with its text; the rules' meaning is checked by the filter's compiler.
pub fn load_rules(path: &Path) -> Result<LoadedRules, ConfigErrors> {
    let mut errors = Vec::new();
    let parsed = read::<RulesFile>(path, &mut errors);
    match parsed {
        Some(parsed) if errors.is_empty() => {
            let rules = RulesFile::deserialize(parsed.table)
                .unwrap_or_default()
                .rule;
            let files = vec![(path.to_owned(), parsed.positions)];
            Ok(LoadedRules {
                rules,
                places: Places {
                    files,
                    ..Places::default()
                },
            })
        }
        _ => Err(ConfigErrors(errors)),
    }
}

/// Adds what one file says.
fn adopt(path: PathBuf, parsed: Parsed, places: &mut Places, merged: &mut toml::Table) {
    for index in 0..rules_in(&parsed.table) {
        places
            .rules
            .push((places.files.len(), format!("{RULES_KEY}[{index}]")));
    }
    places.files.push((path, parsed.positions));
    merge(merged, parsed.table, &mut String::new());
}

/// `state.directory` before everything else is known.
fn state_directory(merged: &toml::Table) -> PathBuf {
    let typed = merged.get("state").and_then(|state| state.get("directory"));
    let typed = typed.and_then(toml::Value::as_str);
    PathBuf::from(typed.unwrap_or(file::STATE_DIRECTORY))
}

fn paths(sources: &Sources, errors: &mut Vec<ConfigError>) -> Vec<PathBuf> {
    if let Some(file) = &sources.file {
        return vec![file.clone()];
    }
    let mut unreadable = |path: &Path, error: std::io::Error| {
        if error.kind() != std::io::ErrorKind::NotFound {
            errors.push(ConfigError {
                place: Place::File(path.to_owned(), None),
                key: String::new(),
                problem: ConfigProblem::Unreadable(error),
            });
        }
    };
    let mut paths = Vec::new();
    let main = sources.directory.join("sensor.toml");
    match main.metadata() {
        Ok(_) => paths.push(main),
        Err(error) => unreadable(&main, error),
    }
    let directory = sources.directory.join("conf.d");
    let mut more = Vec::new();
    match directory.read_dir() {
        Ok(entries) => {
            for entry in entries {
                match entry {
                    Ok(entry) => more.push(entry.path()),
                    Err(error) => unreadable(&directory, error),
                }
            }
        }
        Err(error) => unreadable(&directory, error),
    }
    more.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "toml")
    });
    more.sort();
    paths.extend(more);
    paths
}

fn read<T: serde::de::DeserializeOwned + schemars::JsonSchema>(
    path: &Path,
    errors: &mut Vec<ConfigError>,
) -> Option<Parsed> {
    match text(path) {
        Ok(text) => parsed::<T>(path, text, errors),
        Err(problem) => {
            errors.push(ConfigError {
                place: Place::File(path.to_owned(), None),
                key: String::new(),
                problem,
            });
            None
        }
    }
}

fn parsed<T: serde::de::DeserializeOwned + schemars::JsonSchema>(
    path: &Path,
    text: String,
    errors: &mut Vec<ConfigError>,
) -> Option<Parsed> {
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        errors.push(ConfigError {
            place: Place::File(path.to_owned(), None),
            key: String::new(),
            problem: ConfigProblem::FileTooLong,
        });
        return None;
    }
    let mut parsed = parse::parse::<T>(&text);
    errors.extend(
        parsed
            .faults
            .drain(..)
            .map(|(key, position, problem)| ConfigError {
                place: Place::File(path.to_owned(), Some(position)),
                key,
                problem,
            }),
    );
    Some(parsed)
}

fn text(path: &Path) -> Result<String, ConfigProblem> {
    let file = std::fs::File::open(path).map_err(ConfigProblem::Unreadable)?;
    let meta = file.metadata().map_err(ConfigProblem::Unreadable)?;
    let mode = meta.mode() & 0o7777;
    // Devices (/dev/null) and pipes are what they are; a file without a name (memfd_create) nobody else can open.
    if meta.is_file() && meta.nlink() > 0 && mode & 0o002 != 0 {
        return Err(ConfigProblem::Writable { mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(ConfigProblem::Unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE_BYTES) {
        return Err(ConfigProblem::FileTooLong);
    }
    String::from_utf8(bytes).map_err(|_not_utf8: std::string::FromUtf8Error| ConfigProblem::NotText)
}

fn rules_in(table: &toml::Table) -> usize {
    let rules = table.get("filter").and_then(|filter| filter.get("rule"));
    rules.and_then(toml::Value::as_array).map_or(0, Vec::len)
}

fn merge(into: &mut toml::Table, from: toml::Table, path: &mut String) {
    for (key, value) in from {
        let outer = path.len();
        if outer > 0 {
            path.push('.');
        }
        path.push_str(&key);
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new, path),
            (Some(toml::Value::Array(old)), toml::Value::Array(new)) if path == RULES_KEY => {
                old.extend(new);
            }
            (_, value) => {
                into.insert(key, value);
            }
        }
        path.truncate(outer);
    }
}

impl Overrides {
    /// With what these variables of the environment say; empty ones say nothing.
    #[must_use]
    pub fn with_environment(self, variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let told = |name| variable(name).filter(|value| !value.is_empty());
        Self {
            host_root: told("HOST_ROOT").map(PathBuf::from),
            host_name: told("NODE_NAME").map(|name| name.to_string_lossy().into_owned()),
            credentials: told("CREDENTIALS_DIRECTORY").map(PathBuf::from),
            ..self
        }
    }

    fn apply(&self, file: &mut ConfigFile, places: &mut Places) {
        if let Some(events) = &self.events {
            file.events.enabled.clone_from(events);
            places.flags.push(("events.enabled", "--events"));
        }
        if let Some(cgroup) = &self.scope_cgroup {
            file.scope.cgroup = Some(cgroup.clone());
            places.flags.push(("scope.cgroup", "--scope-cgroup"));
        }
        if let Some(backend) = self.backend {
            file.loader.backend = backend;
            places.flags.push(("loader.backend", "--backend"));
        }
        if let Some(format) = self.format {
            file.output.format = format;
            places.flags.push(("output.format", "--format"));
        }
        if let Some(root) = &self.host_root {
            file.host.root.clone_from(root);
            places.flags.push(("host.root", "HOST_ROOT"));
        }
        if let Some(name) = &self.host_name {
            file.host.name = Some(name.clone());
            places.flags.push(("host.name", "NODE_NAME"));
        }
        // Outside of the service, in `sensor config check` say, there is none: then it is where the service's would be.
        let credentials = self.credentials.as_deref();
        let credentials = credentials.unwrap_or(Path::new(SERVICE_CREDENTIALS));
        for path in file.sink.values_mut().flat_map(SinkTable::files_mut) {
            if let Some(name) = path.to_str().and_then(credential) {
                *path = credentials.join(name);
            }
        }
    }
}

/// Where systemd puts the credentials of the packaged service.
const SERVICE_CREDENTIALS: &str = "/run/credentials/sensor.service";
/// What a path begins with that names a credential of the service.
const CREDENTIAL: &str = "credential:";

/// The name in `credential:NAME`, if systemd would take it: a file's name, plain ASCII, without a colon.
fn credential(typed: &str) -> Option<&str> {
    let name = typed.strip_prefix(CREDENTIAL)?;
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && !matches!(byte, b'/' | b':');
    let fits = (1..=255).contains(&name.len()) && name.bytes().all(plain);
    (fits && !matches!(name, "." | "..")).then_some(name)
}

/// One thing that is wrong with the values of the configuration.
#[derive(Debug)]
pub struct KeyProblem {
    /// Path of the key.
    pub key: String,
    /// What is wrong.
    pub problem: ConfigProblem,
}

/// Collects what is wrong while values are turned into base units.
#[derive(Default)]
struct Checks(Vec<KeyProblem>);

impl Checks {
    fn wrong(&mut self, key: impl Into<String>, problem: ConfigProblem) {
        self.0.push(KeyProblem {
            key: key.into(),
            problem,
        });
    }

    fn range<T: PartialOrd + fmt::Display>(
        &mut self,
        key: &str,
        value: T,
        range: RangeInclusive<T>,
    ) {
        if !range.contains(&value) {
            let (value, least, most) = (
                value.to_string(),
                range.start().to_string(),
                range.end().to_string(),
            );
            self.wrong(key, ConfigProblem::OutOfRange { value, least, most });
        }
    }

    fn count(&mut self, key: &str, value: u32, most: u32) -> usize {
        self.range(key, value, 1..=most);
        usize::try_from(value).unwrap_or(usize::MAX)
    }

    fn memory(&mut self, key: &str, value: Size, range: RangeInclusive<Size>) -> usize {
        self.range(key, value, range);
        usize::try_from(value.bytes()).unwrap_or(usize::MAX)
    }

    fn time(&mut self, key: &str, value: Span, range: RangeInclusive<Span>) -> Duration {
        self.range(key, value, range);
        value.duration()
    }

    fn ring(&mut self, key: &str, value: Size, page: Size) -> u32 {
        match u32::try_from(value.bytes()) {
            Ok(bytes) if bytes.is_power_of_two() && value >= page && value.bytes() <= MAX_RING => {
                bytes
            }
            Ok(bytes) if u64::from(bytes) <= MAX_RING => {
                self.wrong(key, ConfigProblem::NotPages { value, page });
                bytes
            }
            _ => {
                self.range(key, value, page..=Size::mib(1024));
                0
            }
        }
    }

    fn absolute(&mut self, key: &str, path: Option<PathBuf>) -> Option<PathBuf> {
        if let Some(relative) = path.as_ref().filter(|path| !path.is_absolute()) {
            let problem = if relative.to_string_lossy().starts_with(CREDENTIAL) {
                ConfigProblem::NotACredential(relative.clone())
            } else {
                ConfigProblem::NotAbsolute(relative.clone())
            };
            self.wrong(key, problem);
        }
        path
    }

    fn folders(&mut self, key: &str, folders: Vec<PathBuf>) -> Vec<PathBuf> {
        for (index, folder) in folders.iter().enumerate() {
            self.absolute(&format!("{key}[{index}]"), Some(folder.clone()));
        }
        folders
    }

    fn host_name(&mut self, key: &str, name: Option<String>) -> Option<String> {
        let fits = |name: &String| {
            (1..=MAX_HOST_NAME).contains(&name.len())
                && !name.contains(|byte: char| byte.is_control() || byte.is_whitespace())
        };
        if let Some(unfit) = name.as_ref().filter(|name| !fits(name)) {
            self.wrong(key, ConfigProblem::NotAName(unfit.clone()));
        }
        name
    }

    fn names(&mut self, key: &str, names: Vec<String>) -> Vec<String> {
        for (index, name) in names.iter().enumerate() {
            if name.is_empty() || name.contains(['=', '\0']) {
                self.wrong(
                    format!("{key}[{index}]"),
                    ConfigProblem::NotAName(name.clone()),
                );
            }
        }
        names
    }
}

/// Memory that a queue of so many entries may take is bounded by this count for every queue.
const MAX_QUEUE: u32 = 1 << 20;

impl TryFrom<ConfigFile> for Config {
    type Error = Vec<KeyProblem>;

    fn try_from(file: ConfigFile) -> Result<Self, Vec<KeyProblem>> {
        let mut checks = Checks::default();
        let page = u32::try_from(rustix::param::page_size() / 1024).map_or(Size::kib(4), Size::kib);
        let FilterTable {
            rules_file,
            rule: rules,
        } = file.filter;
        checks.absolute("filter.rules_file", rules_file);
        if file.events.enabled.is_empty() {
            checks.wrong("events.enabled", ConfigProblem::Empty);
        }
        let (hash, output) = (file.hash, file.output);
        let sinks = sink::check(file.sink, output.path.as_deref(), &mut checks);
        let config = Self {
            events: file.events.enabled.iter().map(|name| name.0).collect(),
            scope_cgroup: checks.absolute("scope.cgroup", file.scope.cgroup),
            backend: file.loader.backend,
            ring: RingConfig {
                process_bytes: checks.ring("ring.process", file.ring.process, page),
                file_bytes: checks.ring("ring.file", file.ring.file, page),
                network_bytes: checks.ring("ring.network", file.ring.network, page),
                control_bytes: checks.ring("ring.control", file.ring.control, page),
            },
            reader_queue: checks.count("reader.queue", file.reader.queue, MAX_QUEUE),
            reorder: ReorderConfig {
                window: checks.time(
                    "reorder.window",
                    file.reorder.window,
                    Span::secs(0)..=Span::secs(10),
                ),
                capacity: checks.count("reorder.capacity", file.reorder.capacity, MAX_QUEUE),
            },
            process_table: ProcessTableConfig {
                budget_bytes: checks.memory(
                    "process_table.budget",
                    file.process_table.budget,
                    Size::mib(1)..=Size::mib(4096),
                ),
                grace: checks.time(
                    "process_table.grace",
                    file.process_table.grace,
                    Span::secs(0)..=Span::secs(3600),
                ),
            },
            hash: HashConfig {
                threads: checks.count("hash.threads", hash.threads, 64),
                max_file_bytes: hash.max_file_size.bytes(),
                timeout: checks.time(
                    "hash.timeout",
                    hash.timeout,
                    Span::millis(1)..=Span::secs(3600),
                ),
                md5: hash.md5,
                sha1: hash.sha1,
                queue: checks.count("hash.queue", hash.queue, MAX_QUEUE),
                hold: checks.time("hash.hold", hash.hold, Span::secs(0)..=Span::secs(10)),
                cache_entries: checks.count("hash.cache_entries", hash.cache_entries, MAX_QUEUE),
                refused_filesystems: hash.refused_filesystems,
                leases: hash.leases,
            },
            environment: EnvironmentConfig {
                allow: checks.names("environment.allow", file.environment.allow),
                redact: checks.names("environment.redact", file.environment.redact),
            },
            user_varlink: file.user.varlink,
            confine: file.confine.enabled,
            container: ContainerConfig {
                files: file.container.files,
                labels: checks.names("container.labels", file.container.labels),
                docker: checks.folders("container.docker", file.container.docker),
                containerd: checks.folders("container.containerd", file.container.containerd),
                storage: checks.folders("container.storage", file.container.storage),
            },
            host: HostConfig {
                root: checks
                    .absolute("host.root", Some(file.host.root))
                    .unwrap_or_default(),
                name: checks.host_name("host.name", file.host.name),
            },
            output: OutputConfig {
                format: output.format,
                path: checks.absolute("output.path", output.path),
                rotate_bytes: Some(output.rotate_size.bytes()).filter(|bytes| *bytes > 0),
                rotate_age: Some(output.rotate_age.duration()).filter(|age| !age.is_zero()),
                keep: checks.count("output.keep", output.keep, 10_000),
                buffer_bytes: checks.memory(
                    "output.buffer",
                    output.buffer,
                    Size::kib(64)..=Size::mib(1024),
                ),
            },
            state_directory: checks
                .absolute("state.directory", Some(file.state.directory))
                .unwrap_or_default(),
            spool: spool::check(&file.spool, &mut checks),
            metrics: metrics::check(file.metrics, &mut checks),
            sinks,
            rules,
        };
        if checks.0.is_empty() {
            Ok(config)
        } else {
            Err(checks.0)
        }
    }
}

#[cfg(test)]
mod tests;
