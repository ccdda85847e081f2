//! One rule: from its text to something that is asked per event. Refuses rules that can never match: such a rule is a
//! mistake that would otherwise be found when the missing event is needed.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::str::FromStr;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use ipnet::IpNet;
use regex::bytes::{RegexSet, RegexSetBuilder};
use sensor_proto::v1::event::Body;
use sensor_proto::v1::{
    Connect, ContainerRuntime, Credentials, Direction, Endpoint, EventType, FileInfo, Group,
    HashVerdict, Hashes, Transport, User,
};

use crate::config::{EventName, FilterRule, MAX_REGEX_BYTES, RuleAction};
use crate::filter::{MAX_RULES, RuleInfo, RulePlace, Subject};

/// Longest id of a rule: it is a label of counters.
const MAX_ID_BYTES: usize = 64;
/// Longest list of a criterion.
const MAX_LIST: usize = 10_000;

/// Something wrong with a rule.
#[derive(Debug, thiserror::Error)]
#[error("{}{problem}", if key.is_empty() { String::new() } else { format!("{key}: ") })]
pub struct RuleError {
    /// Position of the rule in the list, from 0.
    pub rule: usize,
    /// Key within the rule, such as `remote_ip[2]`; empty: the rule as a whole.
    pub key: String,
    /// What is wrong.
    #[source]
    pub problem: RuleProblem,
}

impl RuleError {
    /// Something wrong at a key of a rule.
    pub fn new(rule: usize, key: impl Into<String>, problem: RuleProblem) -> Self {
        Self {
            rule,
            key: key.into(),
            problem,
        }
    }
}

/// What can be wrong with a rule.
#[derive(Debug, thiserror::Error)]
pub enum RuleProblem {
    /// More rules than allowed.
    #[error("more than {MAX_RULES} rules")]
    TooMany,
    /// A list that is too long.
    #[error("more than {MAX_LIST} entries")]
    TooLong,
    /// An id that cannot label a counter.
    #[error("`{}` is not an id: 1 to {MAX_ID_BYTES} letters, digits, `-`, `_`, `.`", .0.escape_default())]
    BadId(String),
    /// An id that an earlier rule has.
    #[error("another rule has the id `{0}`")]
    Duplicate(String),
    /// Not a pattern.
    #[error("not a pattern: {}", .0.kind())]
    BadPattern(globset::Error),
    /// Not a regular expression.
    #[error("not a regular expression: {0}")]
    BadRegex(regex::Error),
    /// Not a digest of the right length.
    #[error("`{typed}` is not a digest of {digits} hexadecimal digits")]
    BadDigest {
        /// What was typed.
        typed: String,
        /// How many digits it should have.
        digits: usize,
    },
    /// Not a number or range.
    #[error("`{0}` is not a number or a range such as \"1024-65535\"")]
    BadRange(String),
    /// Not a user or group.
    #[error("`{0}` is not a name, an id or a range of ids")]
    BadAccount(String),
    /// Not an address.
    #[error(
        "`{0}` is not an address, a network such as \"10.0.0.0/8\", \"loopback\" or \"external\""
    )]
    BadAddress(String),
    /// Not one of the words allowed.
    #[error("`{typed}` is none of {allowed}")]
    BadWord {
        /// What was typed.
        typed: String,
        /// What would do.
        allowed: String,
    },
    /// A criterion that an event type of the rule does not have.
    #[error("an event of type {event} has no {criterion}, so the rule could never match it")]
    NeverMatches {
        /// The event type.
        event: EventName,
        /// The criterion.
        criterion: &'static str,
    },
    /// Criteria that no event type has together.
    #[error("no event has all of these criteria, so the rule could never match")]
    Contradiction,
    /// An event type that is never merged.
    #[error(
        "events of type {0} are never merged: name the types in `event`, of file_create and connect"
    )]
    NotMerged(EventName),
}

/// Event types that a rule may merge: those of the bulk lanes.
const MERGEABLE: [EventType; 2] = [EventType::FileCreate, EventType::Connect];
/// Event types that are about a file besides the executable.
const WITH_FILE: [EventType; 3] = [
    EventType::Exec,
    EventType::FileCreate,
    EventType::ModuleLoad,
];
const WITH_MODULE: [EventType; 1] = [EventType::ModuleLoad];
const WITH_CONNECTION: [EventType; 1] = [EventType::Connect];

/// A compiled rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) info: RuleInfo,
    /// Cheapest first.
    criteria: Vec<Criterion>,
}

#[derive(Debug)]
enum Criterion {
    InContainer(bool),
    MountNamespace(HashSet<u32>),
    Direction(Vec<Direction>),
    Protocol(Vec<Protocol>),
    Port(End, Ranges<u32>),
    Account(Who, Accounts),
    ContainerRuntime(Vec<ContainerRuntime>),
    Address(End, Networks),
    Digest(Object, Algorithm, HashSet<Vec<u8>>),
    Text(Text, Patterns),
    CommandLine(RegexSet),
}

/// Texts that patterns are compared with.
#[derive(Clone, Copy, Debug)]
enum Text {
    ImagePath,
    ParentPath,
    WorkingDirectory,
    ContainerId,
    ContainerName,
    ContainerImage,
    PodNamespace,
    CgroupPath,
    FilePath,
    ModuleName,
    UnixPath,
}

#[derive(Clone, Copy, Debug)]
enum Object {
    Image,
    File,
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Md5,
    Sha256,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Local,
    Remote,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    RealUser,
    EffectiveUser,
    LoginUser,
    RealGroup,
}

#[derive(Debug)]
enum Protocol {
    Named(Transport),
    Number(u32),
}

#[derive(Debug)]
struct Ranges<T>(Vec<RangeInclusive<T>>);

#[derive(Debug)]
struct Accounts {
    ids: Ranges<u32>,
    names: HashSet<String>,
}

#[derive(Debug, Default)]
struct Networks {
    networks: Vec<IpNet>,
    loopback: bool,
    external: bool,
}

/// Patterns by the way in which they are looked up.
#[derive(Debug)]
struct Patterns {
    ignore_case: bool,
    exact: HashSet<Vec<u8>>,
    /// Prefixes, each with its closing slash.
    below: Vec<Vec<u8>>,
    globs: GlobSet,
}

impl Rule {
    pub(super) fn compile(index: usize, typed: &FilterRule) -> Result<Self, Vec<RuleError>> {
        let mut compiler = Compiler {
            index,
            typed,
            errors: Vec::new(),
            found: Vec::new(),
        };
        compiler.criteria();
        let events = compiler.events();
        if !compiler.errors.is_empty() {
            return Err(compiler.errors);
        }
        let mut found = compiler.found;
        found.sort_by_key(|found| found.criterion.cost());
        let info = RuleInfo {
            id: typed.id.clone(),
            action: typed.action,
            events,
            criteria: found.iter().map(|found| found.shown.clone()).collect(),
            place: RulePlace::Userspace,
        };
        Ok(Self {
            info,
            criteria: found.into_iter().map(|found| found.criterion).collect(),
        })
    }

    pub(super) fn matches(&self, subject: &Subject<'_>) -> bool {
        self.criteria
            .iter()
            .all(|criterion| criterion.holds(subject))
    }
}

struct Found {
    key: &'static str,
    criterion: Criterion,
    shown: String,
}

struct Compiler<'t> {
    index: usize,
    typed: &'t FilterRule,
    errors: Vec<RuleError>,
    found: Vec<Found>,
}

impl Compiler<'_> {
    fn wrong(&mut self, key: impl Into<String>, problem: RuleProblem) {
        self.errors.push(RuleError::new(self.index, key, problem));
    }

    fn criteria(&mut self) {
        let typed = self.typed;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if typed.id.is_empty() || typed.id.len() > MAX_ID_BYTES || !typed.id.bytes().all(allowed) {
            self.wrong("id", RuleProblem::BadId(typed.id.clone()));
        }
        if let Some(inside) = typed.in_container {
            self.add(
                "in_container",
                inside.to_string(),
                Criterion::InContainer(inside),
            );
        }
        if !typed.mount_namespace.is_empty() {
            let shown = format!("any of {:?}", typed.mount_namespace);
            let numbers = typed.mount_namespace.iter().copied().collect();
            self.add("mount_namespace", shown, Criterion::MountNamespace(numbers));
        }
        self.list(
            "direction",
            &typed.direction,
            direction,
            Criterion::Direction,
        );
        self.list("protocol", &typed.protocol, protocol, Criterion::Protocol);
        for (key, end, ports) in [
            ("local_port", End::Local, &typed.local_port),
            ("remote_port", End::Remote, &typed.remote_port),
        ] {
            self.list(key, ports, port, |ranges| {
                Criterion::Port(end, Ranges(ranges))
            });
        }
        for (key, who, accounts) in [
            ("user", Who::RealUser, &typed.user),
            ("effective_user", Who::EffectiveUser, &typed.effective_user),
            ("login_user", Who::LoginUser, &typed.login_user),
            ("group", Who::RealGroup, &typed.group),
        ] {
            self.list(key, accounts, account, |found| {
                let (mut ids, mut names) = (Vec::new(), HashSet::new());
                for account in found {
                    match account {
                        Account::Ids(range) => ids.push(range),
                        Account::Name(name) => drop(names.insert(name)),
                    }
                }
                Criterion::Account(
                    who,
                    Accounts {
                        ids: Ranges(ids),
                        names,
                    },
                )
            });
        }
        self.list(
            "container_runtime",
            &typed.container_runtime,
            runtime,
            Criterion::ContainerRuntime,
        );
        for (key, end, addresses) in [
            ("local_ip", End::Local, &typed.local_ip),
            ("remote_ip", End::Remote, &typed.remote_ip),
        ] {
            self.list(key, addresses, address, |found| {
                let mut networks = Networks::default();
                for address in found {
                    match address {
                        Address::Network(network) => networks.networks.push(network),
                        Address::Loopback => networks.loopback = true,
                        Address::External => networks.external = true,
                    }
                }
                Criterion::Address(end, networks)
            });
        }
        for (key, object, algorithm, digests) in [
            ("image_md5", Object::Image, Algorithm::Md5, &typed.image_md5),
            (
                "image_sha256",
                Object::Image,
                Algorithm::Sha256,
                &typed.image_sha256,
            ),
            ("file_md5", Object::File, Algorithm::Md5, &typed.file_md5),
            (
                "file_sha256",
                Object::File,
                Algorithm::Sha256,
                &typed.file_sha256,
            ),
        ] {
            self.list(
                key,
                digests,
                |text| digest(text, algorithm),
                |found| Criterion::Digest(object, algorithm, found.into_iter().collect()),
            );
        }
        for (key, text, patterns) in [
            ("image_path", Text::ImagePath, &typed.image_path),
            ("parent_path", Text::ParentPath, &typed.parent_path),
            (
                "working_directory",
                Text::WorkingDirectory,
                &typed.working_directory,
            ),
            ("container_id", Text::ContainerId, &typed.container_id),
            ("container_name", Text::ContainerName, &typed.container_name),
            (
                "container_image",
                Text::ContainerImage,
                &typed.container_image,
            ),
            ("pod_namespace", Text::PodNamespace, &typed.pod_namespace),
            ("cgroup_path", Text::CgroupPath, &typed.cgroup_path),
            ("file_path", Text::FilePath, &typed.file_path),
            ("module_name", Text::ModuleName, &typed.module_name),
            ("unix_path", Text::UnixPath, &typed.unix_path),
        ] {
            self.patterns(key, text, patterns);
        }
        self.command_line();
    }

    fn add(&mut self, key: &'static str, shown: String, criterion: Criterion) {
        self.found.push(Found {
            key,
            criterion,
            shown: format!("{key}: {shown}"),
        });
    }

    /// A criterion whose entries are read one by one.
    fn list<T>(
        &mut self,
        key: &'static str,
        entries: &[String],
        read: impl Fn(&str) -> Result<T, RuleProblem>,
        criterion: impl FnOnce(Vec<T>) -> Criterion,
    ) {
        if entries.is_empty() {
            return;
        }
        if entries.len() > MAX_LIST {
            return self.wrong(key, RuleProblem::TooLong);
        }
        let mut sound = Vec::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            match read(entry) {
                Ok(value) => sound.push(value),
                Err(problem) => self.wrong(format!("{key}[{at}]"), problem),
            }
        }
        self.add(key, shown(entries), criterion(sound));
    }

    fn patterns(&mut self, key: &'static str, text: Text, entries: &[String]) {
        if entries.is_empty() {
            return;
        }
        if entries.len() > MAX_LIST {
            return self.wrong(key, RuleProblem::TooLong);
        }
        let ignore_case = self.typed.ignore_case;
        let fold = |text: &str| {
            let bytes = text.as_bytes();
            if ignore_case {
                bytes.to_ascii_lowercase()
            } else {
                bytes.to_vec()
            }
        };
        let mut patterns = Patterns {
            ignore_case,
            exact: HashSet::new(),
            below: Vec::new(),
            globs: GlobSet::empty(),
        };
        let mut globs = GlobSetBuilder::new();
        let mut ways = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            let plain = |text: &str| !text.contains(['*', '?', '[', '{', '\\']);
            let stem = entry
                .strip_suffix("**")
                .filter(|stem| stem.ends_with('/') && plain(stem));
            if plain(entry) {
                patterns.exact.insert(fold(entry));
                ways.push(format!("{entry} (exact)"));
            } else if let Some(stem) = stem {
                patterns.below.push(fold(stem));
                ways.push(format!("{entry} (prefix)"));
            } else {
                let glob = GlobBuilder::new(entry)
                    .literal_separator(true)
                    .backslash_escape(true)
                    .case_insensitive(ignore_case)
                    .build();
                match glob {
                    Ok(glob) => drop(globs.add(glob)),
                    Err(error) => {
                        self.wrong(format!("{key}[{at}]"), RuleProblem::BadPattern(error));
                    }
                }
                ways.push(format!("{entry} (glob)"));
            }
        }
        match globs.build() {
            Ok(set) => patterns.globs = set,
            Err(error) => self.wrong(key, RuleProblem::BadPattern(error)),
        }
        self.add(key, shown(&ways), Criterion::Text(text, patterns));
    }

    fn command_line(&mut self) {
        const KEY: &str = "command_line";
        let entries = &self.typed.command_line;
        if entries.is_empty() {
            return;
        }
        if entries.len() > MAX_LIST {
            return self.wrong(KEY, RuleProblem::TooLong);
        }
        let build = |entries: &[String]| {
            RegexSetBuilder::new(entries)
                .case_insensitive(self.typed.ignore_case)
                .size_limit(MAX_REGEX_BYTES)
                .build()
        };
        match build(entries) {
            Ok(set) => self.add(KEY, shown(entries), Criterion::CommandLine(set)),
            Err(error) => {
                let single = entries
                    .iter()
                    .enumerate()
                    .find_map(|(at, entry)| Some((at, build(std::slice::from_ref(entry)).err()?)));
                match single {
                    Some((at, error)) => {
                        self.wrong(format!("{KEY}[{at}]"), RuleProblem::BadRegex(error));
                    }
                    None => self.wrong(KEY, RuleProblem::BadRegex(error)),
                }
            }
        }
    }

    /// The event types that the rule can match; tells where these and the criteria exclude one another.
    fn events(&mut self) -> Vec<EventType> {
        let mut events: Vec<EventType> = self.typed.event.iter().map(|name| name.0).collect();
        events.sort_unstable();
        events.dedup();
        let mut wrong = Vec::new();
        for event in &events {
            for found in &self.found {
                if !found.criterion.applies_to(*event) {
                    let problem = RuleProblem::NeverMatches {
                        event: EventName(*event),
                        criterion: found.key,
                    };
                    wrong.push((found.key, problem));
                }
            }
        }
        if events.is_empty() {
            events = EventName::all()
                .map(|name| name.0)
                .filter(|event| {
                    self.found
                        .iter()
                        .all(|found| found.criterion.applies_to(*event))
                })
                .collect();
            if events.is_empty() {
                wrong.push(("", RuleProblem::Contradiction));
            }
        }
        if self.typed.action == RuleAction::Aggregate {
            let kept = events.iter().find(|event| !MERGEABLE.contains(event));
            if let Some(kept) = kept {
                wrong.push(("action", RuleProblem::NotMerged(EventName(*kept))));
            }
        }
        for (key, problem) in wrong {
            self.wrong(key, problem);
        }
        events
    }
}

/// A list for people, cut when it is long.
fn shown(entries: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = entries
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(" | ");
    if let Some(more) = entries.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        text.push_str(&format!(" | {more} more"));
    }
    text
}

fn word<T>(
    typed: &str,
    known: Option<T>,
    mut all: impl Iterator<Item = &'static str>,
) -> Result<T, RuleProblem> {
    known.ok_or_else(|| {
        let mut allowed = String::new();
        for name in all.by_ref() {
            allowed.push_str(if allowed.is_empty() { "" } else { ", " });
            allowed.push_str(name);
        }
        RuleProblem::BadWord {
            typed: typed.to_owned(),
            allowed,
        }
    })
}

/// Values of an enumeration of the schema, without its zero. None has more than this.
fn values<T: TryFrom<i32>>() -> impl Iterator<Item = T> {
    (1..64).filter_map(|number| T::try_from(number).ok())
}

fn direction(typed: &str) -> Result<Direction, RuleProblem> {
    let known = values::<Direction>().find(|known| known.short_name() == typed);
    word(
        typed,
        known,
        values::<Direction>().map(Direction::short_name),
    )
}

fn runtime(typed: &str) -> Result<ContainerRuntime, RuleProblem> {
    let known = values::<ContainerRuntime>().find(|known| known.short_name() == typed);
    word(
        typed,
        known,
        values::<ContainerRuntime>().map(ContainerRuntime::short_name),
    )
}

fn protocol(typed: &str) -> Result<Protocol, RuleProblem> {
    if let Ok(number) = typed.parse() {
        return Ok(Protocol::Number(number));
    }
    let known = values::<Transport>().find(|known| known.short_name() == typed);
    word(
        typed,
        known,
        values::<Transport>().map(Transport::short_name),
    )
    .map(Protocol::Named)
}

fn range<T: FromStr + PartialOrd + Copy>(typed: &str) -> Option<RangeInclusive<T>> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| text.parse::<T>().ok().filter(|_| digits(text));
    let (low, high) = match typed.split_once('-') {
        Some((low, high)) => (number(low)?, number(high)?),
        None => {
            let number = number(typed)?;
            (number, number)
        }
    };
    (low <= high).then_some(low..=high)
}

fn port(typed: &str) -> Result<RangeInclusive<u32>, RuleProblem> {
    let range = range::<u16>(typed).ok_or_else(|| RuleProblem::BadRange(typed.to_owned()))?;
    Ok(u32::from(*range.start())..=u32::from(*range.end()))
}

enum Account {
    Ids(RangeInclusive<u32>),
    Name(String),
}

fn account(typed: &str) -> Result<Account, RuleProblem> {
    if let Some(range) = range(typed) {
        return Ok(Account::Ids(range));
    }
    // A name may hold nearly anything but a colon; one that begins with a digit is an id gone wrong.
    let name = !typed.is_empty()
        && !typed.contains([':', '/', '\n', '\0', '*', ' '])
        && !typed.starts_with(|first: char| first.is_ascii_digit() || first == '-');
    if name {
        Ok(Account::Name(typed.to_owned()))
    } else {
        Err(RuleProblem::BadAccount(typed.escape_default().to_string()))
    }
}

enum Address {
    Network(IpNet),
    Loopback,
    External,
}

fn address(typed: &str) -> Result<Address, RuleProblem> {
    match typed {
        "loopback" => return Ok(Address::Loopback),
        "external" => return Ok(Address::External),
        _ => {}
    }
    let network = typed.parse::<IpNet>().ok().or_else(|| {
        typed
            .parse::<IpAddr>()
            .ok()
            .map(|address| IpNet::from(address.to_canonical()))
    });
    network
        .map(Address::Network)
        .ok_or_else(|| RuleProblem::BadAddress(typed.escape_default().to_string()))
}

fn digest(typed: &str, algorithm: Algorithm) -> Result<Vec<u8>, RuleProblem> {
    let digits = match algorithm {
        Algorithm::Md5 => 32,
        Algorithm::Sha256 => 64,
    };
    let bad = || RuleProblem::BadDigest {
        typed: typed.escape_default().to_string(),
        digits,
    };
    if typed.len() != digits {
        return Err(bad());
    }
    let nibble = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
            .ok_or_else(bad)
    };
    let (pairs, _) = typed.as_bytes().as_chunks::<2>();
    pairs
        .iter()
        .map(|[high, low]| Ok(nibble(*high)? << 4 | nibble(*low)?))
        .collect()
}

impl Criterion {
    fn applies_to(&self, event: EventType) -> bool {
        let within: &[EventType] = match self {
            Self::InContainer(_)
            | Self::MountNamespace(_)
            | Self::Account(..)
            | Self::ContainerRuntime(_)
            | Self::Digest(Object::Image, ..)
            | Self::CommandLine(_) => return true,
            Self::Text(text, _) => match text {
                Text::ImagePath
                | Text::ParentPath
                | Text::WorkingDirectory
                | Text::ContainerId
                | Text::ContainerName
                | Text::ContainerImage
                | Text::PodNamespace
                | Text::CgroupPath => return true,
                Text::FilePath => &WITH_FILE,
                Text::ModuleName => &WITH_MODULE,
                Text::UnixPath => &WITH_CONNECTION,
            },
            Self::Direction(_) | Self::Protocol(_) | Self::Port(..) | Self::Address(..) => {
                &WITH_CONNECTION
            }
            Self::Digest(Object::File, ..) => &WITH_FILE,
        };
        within.contains(&event)
    }

    /// Order of evaluation: numbers, then sets, then texts, then regular expressions.
    fn cost(&self) -> u8 {
        match self {
            Self::InContainer(_) | Self::Direction(_) | Self::Protocol(_) | Self::Port(..) => 0,
            Self::MountNamespace(_) | Self::ContainerRuntime(_) | Self::Account(..) => 1,
            Self::Address(..) | Self::Digest(..) => 2,
            Self::Text(..) => 3,
            Self::CommandLine(_) => 4,
        }
    }

    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::InContainer(inside) => subject
                .process
                .is_some_and(|process| process.container.is_some() == *inside),
            Self::MountNamespace(numbers) => subject
                .process
                .and_then(|process| process.namespaces.as_ref()?.mnt)
                .is_some_and(|number| numbers.contains(&number)),
            Self::Direction(directions) => {
                connect(subject).is_some_and(|connect| directions.contains(&connect.direction()))
            }
            Self::Protocol(protocols) => connect(subject).is_some_and(|connect| {
                protocols.iter().any(|protocol| match protocol {
                    Protocol::Named(transport) => connect.transport() == *transport,
                    Protocol::Number(number) => connect.protocol == Some(*number),
                })
            }),
            Self::Port(end, ranges) => end
                .of(subject)
                .and_then(|endpoint| endpoint.port)
                .is_some_and(|port| ranges.contains(port)),
            Self::Account(who, accounts) => who
                .of(subject)
                .is_some_and(|(id, name)| accounts.contains(id, name)),
            Self::ContainerRuntime(runtimes) => subject
                .process
                .and_then(|process| process.container.as_ref())
                .is_some_and(|container| runtimes.contains(&container.runtime())),
            Self::Address(end, networks) => end
                .of(subject)
                .and_then(ip)
                .is_some_and(|address| networks.contains(address)),
            Self::Digest(object, algorithm, digests) => object.any(subject, |file| {
                file.hashes
                    .as_ref()
                    .filter(|hashes| hashes.verdict() == HashVerdict::Verified)
                    .and_then(|hashes| algorithm.of(hashes))
                    .is_some_and(|digest| digests.contains(digest))
            }),
            Self::Text(text, patterns) => text.any(subject, |bytes| patterns.contain(bytes)),
            Self::CommandLine(expressions) => subject
                .process
                .filter(|process| !process.argv.is_empty())
                .is_some_and(|process| expressions.is_match(&process.argv.join(&b' '))),
        }
    }
}

fn connect<'a>(subject: &Subject<'a>) -> Option<&'a Connect> {
    match &subject.event.body {
        Some(Body::Connect(connect)) => Some(connect),
        Some(
            Body::Exec(_)
            | Body::Exit(_)
            | Body::Fork(_)
            | Body::FileCreate(_)
            | Body::ModuleLoad(_)
            | Body::Patch(_)
            | Body::Aggregate(_),
        )
        | None => None,
    }
}

fn ip(endpoint: &Endpoint) -> Option<IpAddr> {
    let bytes = endpoint.address.as_deref()?;
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    };
    Some(address.to_canonical())
}

impl End {
    fn of<'a>(self, subject: &Subject<'a>) -> Option<&'a Endpoint> {
        let connect = connect(subject)?;
        match self {
            Self::Local => connect.local.as_ref(),
            Self::Remote => connect.remote.as_ref(),
        }
    }
}

impl Who {
    /// Id and name: as the event says it, else as the process has it.
    fn of<'a>(self, subject: &Subject<'a>) -> Option<(u32, Option<&'a str>)> {
        let here = subject.event.credentials.as_ref();
        let row = subject
            .process
            .and_then(|process| process.credentials.as_ref());
        here.and_then(|credentials| self.within(credentials))
            .or_else(|| row.and_then(|credentials| self.within(credentials)))
    }

    fn within(self, credentials: &Credentials) -> Option<(u32, Option<&str>)> {
        fn user(user: Option<&User>) -> Option<(u32, Option<&str>)> {
            user.map(|user| (user.id, user.name.as_deref()))
        }
        fn group(group: Option<&Group>) -> Option<(u32, Option<&str>)> {
            group.map(|group| (group.id, group.name.as_deref()))
        }
        match self {
            Self::RealUser => user(credentials.real_user.as_ref()),
            Self::EffectiveUser => user(credentials.effective_user.as_ref()),
            Self::LoginUser => user(credentials.login_user.as_ref()),
            Self::RealGroup => group(credentials.real_group.as_ref()),
        }
    }
}

impl Object {
    fn any<'a>(self, subject: &Subject<'a>, test: impl Fn(&'a FileInfo) -> bool) -> bool {
        let process = subject.process;
        match self {
            Self::Image => process
                .and_then(|process| process.image.as_ref())
                .is_some_and(test),
            Self::File => match &subject.event.body {
                Some(Body::FileCreate(create)) => create.file.as_ref().is_some_and(test),
                Some(Body::ModuleLoad(load)) => load.file.as_ref().is_some_and(test),
                Some(Body::Exec(_)) => {
                    process.is_some_and(|process| process.script_chain.iter().any(test))
                }
                Some(
                    Body::Exit(_)
                    | Body::Fork(_)
                    | Body::Connect(_)
                    | Body::Patch(_)
                    | Body::Aggregate(_),
                )
                | None => false,
            },
        }
    }
}

impl Algorithm {
    fn of(self, hashes: &Hashes) -> Option<&[u8]> {
        match self {
            Self::Md5 => hashes.md5.as_deref(),
            Self::Sha256 => hashes.sha256.as_deref(),
        }
    }
}

impl Text {
    fn any(self, subject: &Subject<'_>, test: impl Fn(&[u8]) -> bool) -> bool {
        let path = |file: &FileInfo| file.path.as_deref().is_some_and(&test);
        let process = subject.process;
        let inside = process.and_then(|process| process.container.as_deref());
        match self {
            Self::ImagePath => Object::Image.any(subject, path),
            Self::FilePath => Object::File.any(subject, path),
            Self::ParentPath => {
                let image = subject.parent.and_then(|parent| parent.image.as_ref());
                image.is_some_and(path)
            }
            Self::WorkingDirectory => process
                .and_then(|process| process.working_directory.as_deref())
                .is_some_and(test),
            Self::ContainerId => inside.is_some_and(|container| test(container.id.as_bytes())),
            Self::ContainerName => inside
                .and_then(|container| container.name.as_ref())
                .is_some_and(|name| test(name.as_bytes())),
            Self::ContainerImage => inside
                .and_then(|container| container.image.as_ref())
                .is_some_and(|image| test(image.as_bytes())),
            Self::PodNamespace => inside
                .and_then(|container| container.pod_namespace.as_ref())
                .is_some_and(|namespace| test(namespace.as_bytes())),
            Self::CgroupPath => process
                .and_then(|process| process.cgroup_path.as_deref())
                .is_some_and(test),
            Self::ModuleName => match &subject.event.body {
                Some(Body::ModuleLoad(load)) => load.name.as_deref().is_some_and(test),
                Some(
                    Body::Exec(_)
                    | Body::Exit(_)
                    | Body::Fork(_)
                    | Body::FileCreate(_)
                    | Body::Connect(_)
                    | Body::Patch(_)
                    | Body::Aggregate(_),
                )
                | None => false,
            },
            Self::UnixPath => End::Remote.of(subject).is_some_and(|endpoint| {
                let name = endpoint.unix_path.as_deref();
                match name {
                    Some(name) if endpoint.unix_abstract => test(&[b"@", name].concat()),
                    Some(name) => test(name),
                    None => false,
                }
            }),
        }
    }
}

impl<T: PartialOrd> Ranges<T> {
    fn contains(&self, value: T) -> bool {
        self.0.iter().any(|range| range.contains(&value))
    }
}

impl Accounts {
    fn contains(&self, id: u32, name: Option<&str>) -> bool {
        self.ids.contains(id) || name.is_some_and(|name| self.names.contains(name))
    }
}

impl Networks {
    fn contains(&self, address: IpAddr) -> bool {
        self.networks
            .iter()
            .any(|network| network.contains(&address))
            || (self.loopback && address.is_loopback())
            || (self.external && is_external(address))
    }
}

/// Whether an address belongs to none of the ranges that stay within a host, a link or an organisation.
fn is_external(address: IpAddr) -> bool {
    let unspecified = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    let within = match address {
        IpAddr::V4(address) => {
            // 100.64.0.0/10 is shared by the customers of a carrier (RFC 6598).
            let [first, second, ..] = address.octets();
            address.is_private()
                || address.is_link_local()
                || address.is_broadcast()
                || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    };
    !unspecified && !within
}

impl Patterns {
    fn contain(&self, bytes: &[u8]) -> bool {
        let folded = if self.ignore_case {
            Cow::Owned(bytes.to_ascii_lowercase())
        } else {
            Cow::Borrowed(bytes)
        };
        self.exact.contains(folded.as_ref())
            || self
                .below
                .iter()
                .any(|prefix| folded.starts_with(prefix) && folded.len() > prefix.len())
            || (!self.globs.is_empty() && self.globs.is_match(Path::new(OsStr::from_bytes(bytes))))
    }
}
