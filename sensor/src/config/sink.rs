//! The tables `[sink.NAME]`: receivers of packets. Secrets (keys, passwords) stand in files of their own; here are only
//! their paths, so that nothing that shows the configuration can show them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::unit::{Size, Span};
use crate::config::{Checks, ConfigProblem};

pub mod jetstream;
pub mod kafka;
pub mod local;
pub mod otlp;
pub mod remote;

pub use jetstream::{Authentication, JetStreamConfig};
pub use kafka::{KafkaCompression, KafkaConfig, SaslMechanism};
pub use local::FileSinkConfig;
pub use otlp::{OtlpConfig, OtlpProtocol};
pub use remote::{RemoteConfig, SinkFormat};

/// Sinks at once. Each costs a connection, a window of memory and a cursor.
pub const MAX_SINKS: usize = 8;
/// Pins of one sink: a key, the one after it, and those of a cluster.
const MAX_PINS: usize = 16;
/// Longest host name (RFC 1035).
const MAX_HOST: usize = 253;

/// Some seconds of 20,000 events a second, and many packets for a receiver far away; and the memory that this sink takes at most,
/// about.
pub const SINK_WINDOW: Size = Size::mib(8);
/// Time for name, connection, proxy and TLS together.
pub const SINK_CONNECT_TIMEOUT: Span = Span::secs(15);
/// A receiver syncs its disk before it acknowledges; one that is silent for longer is taken for dead.
pub const SINK_ACK_TIMEOUT: Span = Span::secs(60);
/// A fleet that comes back after an outage does so within a minute, spread by jitter.
pub const SINK_RETRY_MAX: Span = Span::secs(60);
/// Settings arrive within minutes, and a fleet of ten thousand asks 170 times a second.
pub const SINK_SYNC_PERIOD: Span = Span::secs(60);

const fn window() -> Size {
    SINK_WINDOW
}

const fn connect_timeout() -> Span {
    SINK_CONNECT_TIMEOUT
}

const fn ack_timeout() -> Span {
    SINK_ACK_TIMEOUT
}

const fn retry_max() -> Span {
    SINK_RETRY_MAX
}

/// What kind of receiver it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkType {
    /// The central node: gRPC over mutual TLS.
    CentralNode,
    /// NATS JetStream: each message acknowledged by its stream.
    #[serde(rename = "jetstream")]
    JetStream,
    /// Kafka.
    Kafka,
    /// An OpenTelemetry receiver: log records over gRPC or HTTP.
    Otlp,
    /// A file on this host.
    File,
    /// Standard output.
    Stdout,
}

/// Keys of every kind.
const KEYS: [&str; 5] = [
    "type",
    "window",
    "connect_timeout",
    "ack_timeout",
    "retry_max",
];
/// Keys of the central node, beside those of every kind.
const CENTRAL_NODE_KEYS: [&str; 9] = [
    "address",
    "ca_file",
    "pins",
    "server_name",
    "certificate_file",
    "key_file",
    "proxy",
    "proxy_credentials_file",
    "sync_period",
];

impl SinkType {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CentralNode => "central_node",
            Self::JetStream => "jetstream",
            Self::Kafka => "kafka",
            Self::Otlp => "otlp",
            Self::File => "file",
            Self::Stdout => "stdout",
        }
    }

    /// Keys that it takes, beside those of every kind.
    const fn keys(self) -> &'static [&'static str] {
        match self {
            Self::CentralNode => &CENTRAL_NODE_KEYS,
            Self::JetStream => &JetStreamConfig::KEYS,
            Self::Kafka => &kafka::KEYS,
            Self::Otlp => &OtlpConfig::KEYS,
            Self::File => &local::FILE_KEYS,
            Self::Stdout => &local::STDOUT_KEYS,
        }
    }
}

impl SinkTable {
    /// The files that it names to be read.
    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [
            &mut self.ca_file,
            &mut self.certificate_file,
            &mut self.key_file,
            &mut self.credentials_file,
            &mut self.headers_file,
            &mut self.proxy_credentials_file,
        ]
        .into_iter()
        .flatten()
    }
}

/// `[sink.NAME]`; keys that end in `_file` take an absolute path, or `credential:NAME` for a credential that the service manager
/// gives the service (`LoadCredential=NAME:...`, systemd.exec(5)).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SinkTable {
    /// Kind of receiver.
    pub r#type: SinkType,
    /// Where it listens: `host:port`, `192.0.2.1:port` or `[2001:db8::1]:port`. Names are looked up in /etc/hosts and then by DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Where the members of a cluster listen, instead of `address`; any of them will do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Whether the connection is encrypted. Absent: it is. Only `false` speaks in plain text; the central node is never spoken to
    /// that way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<bool>,
    /// Certificates (PEM) of the authorities that the receiver's certificate must come from. Absent: only `pins` count. The
    /// system's authorities are never used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the receiver's public key (its SubjectPublicKeyInfo), 64 hexadecimal digits; one of them must be that of its
    /// certificate. With `ca_file` both must hold; without it, the key alone is the identity, and neither name nor dates count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<String>,
    /// Name that the receiver's certificate must have. Absent: the host that is connected to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The sensor's own certificate with its chain (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// Its private key (PEM); a file that group or others may read is refused. Read again at every connection, as the certificate is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// How a JetStream server is told who we are: what `credentials_file` holds. Absent: only our certificate, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// File with what the receiver wants to know us by; one that group or others may read is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_file: Option<PathBuf>,
    /// What is sent: the packets as they are, or a message (in files and on standard output a line) per event. Absent: `native`; to an OTLP
    /// receiver, which takes events only, to files and to standard output `json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<SinkFormat>,
    /// Subject that a JetStream sink publishes to; `{agent}` becomes the agent's id, `{stream}` becomes `process` or `bulk`, and, with
    /// a message per event, `{type}` becomes its type. Absent: `sensor.{agent}.{stream}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Name of the stream of JetStream that must take what is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Make that stream if it does not exist: files, 7 days, 1 GiB, the oldest go first, duplicates known for 10 minutes. Absent: no;
    /// the sensor then needs to publish only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_stream: Option<bool>,
    /// Kafka: topic that records go to; it must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Kafka: how the `user:password` of `credentials_file` is shown to the brokers. `plain` needs TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<SaslMechanism>,
    /// Kafka: how batches of events are compressed. Absent: `zstd`; packets (`native`) are compressed as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<KafkaCompression>,
    /// How an OTLP receiver is spoken to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<OtlpProtocol>,
    /// Path of an OTLP receiver that is spoken to over HTTP; absent: `/v1/logs`. Of a sink of type `file`: the file, made with mode 0600 in a
    /// folder that must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A file that would grow beyond this is set aside as `<path>.1` and a new one begun. Absent: `"256MiB"`; `"0B"`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_size: Option<Size>,
    /// A file whose first event was written longer ago than this is set aside. Absent: `"1d"`; `"0s"`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_age: Option<Span>,
    /// Files set aside that are kept; older ones are deleted. Absent: 7.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<u32>,
    /// File with headers for an OTLP receiver, lines `Name: value`, such as tokens; one that group or others may read is refused. Read
    /// again at every connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers_file: Option<PathBuf>,
    /// Whether requests to an OTLP receiver are compressed. Absent: they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gzip: Option<bool>,
    /// Requests to an OTLP receiver that may be on the way at once, each with a megabyte of log records at most; over HTTP/1.1 it is always one.
    /// Absent: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<usize>,
    /// HTTP proxy that connects through (CONNECT): `host:port`. Absent: none; environment variables are not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// File with `user:password` for the proxy; one that group or others may read is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_credentials_file: Option<PathBuf>,
    /// Bytes of packets that may be on the way without acknowledgement; also what this sink takes of memory, about. The receiver may ask
    /// for less.
    #[serde(default = "window")]
    pub window: Size,
    /// Time for name, connection, proxy and TLS together.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Span,
    /// With packets on the way and nothing acknowledged for so long, the connection is given up and tried again.
    #[serde(default = "ack_timeout")]
    pub ack_timeout: Span,
    /// Longest pause between two attempts; the first is half a second, each is twice the one before, and chance takes up to
    /// half of it.
    #[serde(default = "retry_max")]
    pub retry_max: Span,
    /// How often the sensor tells of its state and asks for settings, unless the node asks otherwise; kept between 5 s and 1 h.
    /// Absent: 60 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_period: Option<Span>,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Name or literal address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(out, "[{}]:{}", self.host, self.port)
        } else {
            write!(out, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = ConfigProblem;

    fn from_str(typed: &str) -> Result<Self, ConfigProblem> {
        let wrong = || ConfigProblem::NotAnAddress(typed.to_owned());
        let (host, port) = typed.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(wrong)?;
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(Some(inner)) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(wrong()),
            None if is_host(host) => host,
            None => return Err(wrong()),
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// A literal address of version 4, or labels of letters, digits, `-` and `_`.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    !name.is_empty() && name.len() <= MAX_HOST && name.split('.').all(label)
}

/// A receiver of packets, as meant.
#[derive(Clone, Debug, PartialEq)]
pub struct SinkConfig {
    /// Bytes on the way at most.
    pub window_bytes: usize,
    /// With packets on the way, silence for so long ends the connection.
    pub ack_timeout: Duration,
    /// Longest pause between attempts.
    pub retry_max: Duration,
    /// Who receives.
    pub receiver: ReceiverConfig,
}

/// Who receives.
#[derive(Clone, Debug, PartialEq)]
pub enum ReceiverConfig {
    /// The central node.
    CentralNode(CentralNodeConfig),
    /// NATS JetStream.
    JetStream(JetStreamConfig),
    /// Kafka.
    Kafka(KafkaConfig),
    /// An OTLP receiver.
    Otlp(OtlpConfig),
    /// A file.
    File(FileSinkConfig),
    /// Standard output, in this form.
    Stdout(SinkFormat),
}

impl ReceiverConfig {
    /// Name of its type, as in the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CentralNode(_) => SinkType::CentralNode.name(),
            Self::JetStream(_) => SinkType::JetStream.name(),
            Self::Kafka(_) => SinkType::Kafka.name(),
            Self::Otlp(_) => SinkType::Otlp.name(),
            Self::File(_) => SinkType::File.name(),
            Self::Stdout(_) => SinkType::Stdout.name(),
        }
    }

    /// Where it is, for people; no secrets.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::CentralNode(node) => node.address.to_string(),
            Self::JetStream(config) => config.remote.address(),
            Self::Kafka(kafka) => kafka.remote.address(),
            Self::Otlp(config) => config.address.to_string(),
            Self::File(config) => config.path.display().to_string(),
            Self::Stdout(_) => "standard output".to_owned(),
        }
    }
}

/// The central node.
#[derive(Clone, Debug, PartialEq)]
pub struct CentralNodeConfig {
    /// Where it listens.
    pub address: HostPort,
    /// How it is trusted and who we are.
    pub tls: TlsConfig,
    /// Way through a proxy.
    pub proxy: Option<ProxyConfig>,
    /// Time for name, connection, proxy and TLS together.
    pub connect_timeout: Duration,
    /// Time between two synchronisations, unless the node asks otherwise.
    pub sync_period: Duration,
}

/// How a server is trusted, and who we are to it.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsConfig {
    /// Certificates of authorities. With none, there are pins.
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of public keys (SubjectPublicKeyInfo).
    pub pins: Vec<[u8; 32]>,
    /// Name that the certificate must have.
    pub server_name: String,
    /// Own certificate and key; both or none.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// An HTTP proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyConfig {
    /// Where it listens.
    pub address: HostPort,
    /// File with `user:password`.
    pub credentials_file: Option<PathBuf>,
}

fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte))
}

fn pin(typed: &str) -> Option<[u8; 32]> {
    let mut pin = [0; 32];
    if typed.len() != 64 || !typed.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (slot, digits) in pin.iter_mut().zip(typed.as_bytes().chunks(2)) {
        *slot = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(pin)
}

/// Checks the tables of all sinks.
pub(super) fn check(
    tables: BTreeMap<String, SinkTable>,
    output: Option<&Path>,
    checks: &mut Checks,
) -> BTreeMap<String, SinkConfig> {
    if tables.len() > MAX_SINKS {
        checks.wrong("sink", ConfigProblem::TooManySinks(MAX_SINKS));
    }
    let mut sinks = BTreeMap::new();
    for (name, table) in tables {
        // Without a key: the table.
        let key = |key: &str| match key {
            "" => format!("sink.{name}"),
            key => format!("sink.{name}.{key}"),
        };
        if !is_name(&name) {
            checks.wrong(format!("sink.{name}"), ConfigProblem::NotASinkName);
        }
        belongs(&key, &table, checks);
        let window_bytes =
            checks.memory(&key("window"), table.window, Size::kib(64)..=Size::mib(256));
        let ack_timeout = checks.time(
            &key("ack_timeout"),
            table.ack_timeout,
            Span::secs(1)..=Span::secs(3600),
        );
        let retry_max = checks.time(
            &key("retry_max"),
            table.retry_max,
            Span::secs(1)..=Span::secs(3600),
        );
        let receiver = match table.r#type {
            SinkType::CentralNode => {
                ReceiverConfig::CentralNode(central_node(&key, &table, checks))
            }
            SinkType::JetStream => {
                ReceiverConfig::JetStream(JetStreamConfig::check(&key, &table, checks))
            }
            SinkType::Kafka => ReceiverConfig::Kafka(kafka::check(&key, &table, checks)),
            SinkType::Otlp => ReceiverConfig::Otlp(OtlpConfig::check(&key, &table, checks)),
            SinkType::File => ReceiverConfig::File(local::check(&key, &table, checks)),
            SinkType::Stdout => ReceiverConfig::Stdout(local::format(&table)),
        };
        sinks.insert(
            name,
            SinkConfig {
                window_bytes,
                ack_timeout,
                retry_max,
                receiver,
            },
        );
    }
    local::apart(&sinks, output, checks);
    sinks
}

/// Every key must be one of the kind's.
fn belongs(key: &dyn Fn(&str) -> String, table: &SinkTable, checks: &mut Checks) {
    // What can be read can be written; what is absent is left out.
    let typed = toml::Table::try_from(table).unwrap_or_default();
    for name in typed.keys() {
        if !KEYS.contains(&name.as_str()) && !table.r#type.keys().contains(&name.as_str()) {
            checks.wrong(key(name), ConfigProblem::NotOfSinkType(table.r#type.name()));
        }
    }
}

/// The sink that a sound table says.
#[cfg(test)]
pub(crate) fn check_for_tests(table: SinkTable) -> SinkConfig {
    let mut checks = Checks::default();
    let mut sinks = check(
        BTreeMap::from([("test".to_owned(), table)]),
        None,
        &mut checks,
    );
    assert!(checks.0.is_empty(), "{:?}", checks.0);
    sinks.remove("test").unwrap()
}

fn central_node(
    key: &dyn Fn(&str) -> String,
    table: &SinkTable,
    checks: &mut Checks,
) -> CentralNodeConfig {
    let address = match &table.address {
        Some(typed) => host_port(&key("address"), typed, checks),
        None => {
            checks.wrong(key(""), ConfigProblem::Missing("`address`"));
            NOWHERE
        }
    };
    let proxy = proxy(key, table, checks);
    let tls = tls(key, table, &address.host, checks);
    if tls.identity.is_none() && table.certificate_file.is_none() && table.key_file.is_none() {
        checks.wrong(key(""), ConfigProblem::Missing("`certificate_file`"));
    }
    CentralNodeConfig {
        address,
        tls,
        proxy,
        connect_timeout: connect_time(key, table, checks),
        sync_period: checks.time(
            &key("sync_period"),
            table.sync_period.unwrap_or(SINK_SYNC_PERIOD),
            Span::secs(5)..=Span::secs(3600),
        ),
    }
}

fn connect_time(key: &dyn Fn(&str) -> String, table: &SinkTable, checks: &mut Checks) -> Duration {
    checks.time(
        &key("connect_timeout"),
        table.connect_timeout,
        Span::secs(1)..=Span::secs(600),
    )
}

/// Stands for an address that is missing or wrong; the configuration is not used then.
const NOWHERE: HostPort = HostPort {
    host: String::new(),
    port: 0,
};

fn host_port(key: &str, typed: &str, checks: &mut Checks) -> HostPort {
    typed.parse().unwrap_or_else(|problem| {
        checks.wrong(key, problem);
        NOWHERE
    })
}

fn proxy(
    key: &dyn Fn(&str) -> String,
    table: &SinkTable,
    checks: &mut Checks,
) -> Option<ProxyConfig> {
    let credentials_file = checks.absolute(
        &key("proxy_credentials_file"),
        table.proxy_credentials_file.clone(),
    );
    match &table.proxy {
        Some(typed) => Some(ProxyConfig {
            address: host_port(&key("proxy"), typed, checks),
            credentials_file,
        }),
        None => {
            if credentials_file.is_some() {
                checks.wrong(
                    key("proxy_credentials_file"),
                    ConfigProblem::Missing("`proxy`"),
                );
            }
            None
        }
    }
}

fn tls(
    key: &dyn Fn(&str) -> String,
    table: &SinkTable,
    host: &str,
    checks: &mut Checks,
) -> TlsConfig {
    let ca_file = checks.absolute(&key("ca_file"), table.ca_file.clone());
    if ca_file.is_none() && table.pins.is_empty() {
        checks.wrong(
            key("ca_file"),
            ConfigProblem::Missing("what says whom to trust, `ca_file` or `pins`,"),
        );
    }
    checks.range(&key("pins"), table.pins.len(), 0..=MAX_PINS);
    let mut pins = Vec::new();
    for (index, typed) in table.pins.iter().enumerate() {
        match pin(typed) {
            Some(pin) => pins.push(pin),
            None => checks.wrong(
                format!("{}[{index}]", key("pins")),
                ConfigProblem::NotAPin(typed.clone()),
            ),
        }
    }
    let server_name = table.server_name.clone().unwrap_or_else(|| host.to_owned());
    if table.server_name.is_some()
        && !is_host(&server_name)
        && server_name.parse::<IpAddr>().is_err()
    {
        checks.wrong(
            key("server_name"),
            ConfigProblem::NotAServerName(server_name.clone()),
        );
    }
    let certificate = checks.absolute(&key("certificate_file"), table.certificate_file.clone());
    let private = checks.absolute(&key("key_file"), table.key_file.clone());
    let identity = match (certificate, private) {
        (Some(certificate), Some(private)) => Some((certificate, private)),
        (None, None) => None,
        (Some(_), None) => {
            checks.wrong(
                key("certificate_file"),
                ConfigProblem::Missing("`key_file`"),
            );
            None
        }
        (None, Some(_)) => {
            checks.wrong(
                key("key_file"),
                ConfigProblem::Missing("`certificate_file`"),
            );
            None
        }
    };
    TlsConfig {
        ca_file,
        pins,
        server_name,
        identity,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses() {
        for (typed, host, port) in [
            ("node.example:8443", "node.example", 8443),
            ("192.0.2.1:1", "192.0.2.1", 1),
            ("[2001:db8::1]:443", "2001:db8::1", 443),
            ("a-b_c:65535", "a-b_c", 65535),
        ] {
            let parsed: HostPort = typed.parse().unwrap();
            assert_eq!((parsed.host.as_str(), parsed.port), (host, port));
            assert_eq!(parsed.to_string(), typed);
        }
        for typed in [
            "",
            "node",
            "node:",
            ":1",
            "node:0",
            "node:65536",
            "http://node:1",
            "2001:db8::1:443",
            "[node]:1",
            "[::1:1",
            "a b:1",
            "user@node:1",
            "a..b:1",
        ] {
            assert!(typed.parse::<HostPort>().is_err(), "{typed}");
        }
    }

    #[test]
    fn pins_are_digests() {
        assert_eq!(pin(&"0a".repeat(32)), Some([10; 32]));
        assert_eq!(pin(&"0a".repeat(31)), None);
        assert_eq!(pin(&"+a".repeat(32)), None);
        assert_eq!(pin(&"ä".repeat(32)), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            drop(text.parse::<HostPort>());
            pin(&text);
        }
    }
}
