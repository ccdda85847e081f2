//! A packet as OTLP requests: a log record for each event, the resource from the packet's agent and host. Opened, written and
//! compressed on a thread that may block, a request at a time.
//!
//! Attributes are few: what backends index, by the names of OpenTelemetry's semantic conventions. The whole event, in the configured
//! form, is the body: a map, since a string would have to be parsed before anything in it can be asked for. Bytes
//! that are not UTF-8 are told as in the JSON view.

use std::collections::HashSet;
use std::fmt;
use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message as _;
use sensor_proto::json::address;
use sensor_proto::packet::{Limits, OpenedPacket, open};
use sensor_proto::v1;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::config::Form;
use crate::config::OtlpProtocol;
use crate::format::packet::write;
use crate::sink::delivery::printable;
use crate::spool::Entry;

/// Bytes of log records in one request before compression. Many receivers take 4 MiB at most, the default of gRPC; a record
/// that is longer goes alone.
const REQUEST_BYTES: usize = 1 << 20;

/// How requests are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Making {
    /// Form of the body.
    pub(super) form: Form,
    /// What stands around a request.
    pub(super) protocol: OtlpProtocol,
    /// Compressed with gzip.
    pub(super) gzip: bool,
}

/// A request, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Made {
    /// The body of the HTTP request.
    pub(super) bytes: Bytes,
    /// Log records in it.
    pub(super) records: usize,
}

/// What comes of a packet.
#[derive(Debug)]
pub(super) enum Part {
    /// Some of its events.
    Request(Made),
    /// There are no more. A heartbeat has none at all.
    End,
    /// It cannot be opened: it never will be.
    Unreadable(String),
}

/// A packet that is being made into requests.
#[derive(Debug)]
pub(super) struct Unpacking(mpsc::Receiver<Part>);

impl Unpacking {
    /// Begins. Needs a runtime.
    pub(super) fn begin(making: Making, packet: Entry) -> Self {
        let (sender, parts) = mpsc::channel(1);
        // Ends early when nobody wants the rest: sending fails then.
        tokio::task::spawn_blocking(move || take_apart(making, &packet, &sender));
        Self(parts)
    }

    /// The next part; after [`Part::End`] and [`Part::Unreadable`] there is none. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Part {
        let part = self.0.recv().await;
        part.unwrap_or_else(|| Part::Unreadable("it could not be taken apart".to_owned()))
    }
}

fn take_apart(making: Making, packet: &Entry, parts: &mpsc::Sender<Part>) {
    let last = match open(&packet.bytes, &Limits::default()) {
        Ok(opened) => match requests(making, &opened, |made| {
            parts.blocking_send(Part::Request(made)).is_ok()
        }) {
            Ok(true) => Part::End,
            // Nobody listens: the session has ended.
            Ok(false) => return,
            Err(error) => Part::Unreadable(printable(&error.to_string())),
        },
        Err(error) => Part::Unreadable(printable(&error.to_string())),
    };
    drop(parts.blocking_send(last));
}

/// Why an event is not written.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    /// Our own JSON is not read back.
    #[error("its body cannot be written")]
    Body(#[from] serde_json::Error),
    /// Compression failed.
    #[error("it cannot be compressed")]
    Compression(#[from] std::io::Error),
}

/// Makes the requests of a packet; false: `take` wants no more.
fn requests(
    making: Making,
    packet: &OpenedPacket,
    mut take: impl FnMut(Made) -> bool,
) -> Result<bool, RecordError> {
    let resource = resource(packet);
    let prefix = id_prefix(packet);
    let (mut records, mut bytes) = (Vec::new(), 0_usize);
    for event in packet.events() {
        let record = record(making.form, packet, event, &prefix)?;
        let length = record.encoded_len();
        if bytes > 0 && bytes.saturating_add(length) > REQUEST_BYTES {
            let made = request(making, &resource, std::mem::take(&mut records))?;
            if !take(made) {
                return Ok(false);
            }
            bytes = 0;
        }
        bytes = bytes.saturating_add(length);
        records.push(record);
    }
    Ok(records.is_empty() || take(request(making, &resource, records)?))
}

fn request(
    making: Making,
    resource: &Resource,
    log_records: Vec<LogRecord>,
) -> Result<Made, RecordError> {
    let records = log_records.len();
    let message = ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource.clone()),
            scope_logs: vec![ScopeLogs {
                scope: Some(InstrumentationScope {
                    name: "sensor".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                log_records,
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    };
    let mut bytes = message.encode_to_vec();
    if making.gzip {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&bytes)?;
        bytes = encoder.finish()?;
    }
    let bytes = match making.protocol {
        OtlpProtocol::Http => bytes.into(),
        OtlpProtocol::Grpc => framed(making.gzip, &bytes),
    };
    Ok(Made { bytes, records })
}

/// A message of gRPC: whether it is compressed, its length, itself.
fn framed(compressed: bool, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(u8::from(compressed));
    // Limits of packets keep it far below 4 GiB.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(message);
    frame.freeze()
}

/// `<agent id>/<epoch>/`, what every id of the packet begins with.
fn id_prefix(packet: &OpenedPacket) -> String {
    let header = packet.header();
    let epoch: String = header
        .epoch
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{}/{epoch}/", agent_id(packet))
}

fn agent_id(packet: &OpenedPacket) -> Uuid {
    // Opening has checked that it has 16 bytes.
    Uuid::from_slice(&packet.header().agent_id).unwrap_or_default()
}

/// Attributes being collected; a name comes once.
#[derive(Debug, Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn put(&mut self, key: &str, value: Value) {
        self.0.push(key_value(key.to_owned(), value));
    }

    fn text(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text
            && !text.is_empty()
        {
            self.put(key, Value::StringValue(text.to_owned()));
        }
    }

    /// Kernel text: what is not UTF-8 in it is replaced; the body has it whole.
    fn bytes(&mut self, key: &str, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            self.text(key, Some(&String::from_utf8_lossy(bytes)));
        }
    }

    fn number(&mut self, key: &str, number: Option<u32>) {
        if let Some(number) = number {
            self.put(key, Value::IntValue(i64::from(number)));
        }
    }

    fn address(&mut self, key: &str, bytes: Option<&[u8]>) {
        if let Some(address) = bytes.and_then(address) {
            self.put(key, Value::StringValue(address.to_string()));
        }
    }
}

fn key_value(key: String, value: Value) -> KeyValue {
    KeyValue {
        key,
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

/// Who reports: the agent, and the host that it runs on.
fn resource(packet: &OpenedPacket) -> Resource {
    let mut attributes = Attributes::default();
    attributes.text("service.name", Some("sensor"));
    let id = agent_id(packet).to_string();
    attributes.text("service.instance.id", Some(&id));
    if let Some(agent) = &packet.body().agent {
        attributes.text("service.version", Some(&agent.version));
    }
    if let Some(host) = &packet.body().host {
        attributes.text("host.name", Some(&host.name));
        let addresses: Vec<AnyValue> = host
            .addresses
            .iter()
            .filter_map(|bytes| address(bytes))
            .map(|address| AnyValue {
                value: Some(Value::StringValue(address.to_string())),
            })
            .collect();
        if !addresses.is_empty() {
            let values = ArrayValue { values: addresses };
            attributes.put("host.ip", Value::ArrayValue(values));
        }
        if let Some(os) = &host.os {
            attributes.text("host.arch", Some(architecture(&os.architecture)));
            attributes.text("os.type", Some(&os.r#type));
            attributes.text("os.name", os.name.as_deref());
            attributes.text("os.version", os.version.as_deref());
            attributes.text("os.description", os.full_name.as_deref());
            attributes.text("os.build_id", Some(&os.kernel_release));
        }
    }
    Resource {
        attributes: attributes.0,
        ..Resource::default()
    }
}

/// The conventions have names of their own for some.
fn architecture(kernel: &str) -> &str {
    match kernel {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i686" | "i386" => "x86",
        other => other,
    }
}

fn record(
    form: Form,
    packet: &OpenedPacket,
    event: &v1::Event,
    id_prefix: &str,
) -> Result<LogRecord, RecordError> {
    let mut line = Vec::new();
    write(form, packet, event, &mut line);
    let body: Body = serde_json::from_slice(&line)?;
    let time = |time_ns: i64| u64::try_from(time_ns).unwrap_or_default();
    let observed = event.processed_time_ns;
    Ok(LogRecord {
        time_unix_nano: time(event.time_ns),
        observed_time_unix_nano: time(observed.unwrap_or(event.time_ns)),
        severity_number: SeverityNumber::Info.into(),
        severity_text: "INFO".to_owned(),
        body: Some(body.0),
        attributes: attributes(packet, event, id_prefix),
        event_name: event_name(event.event_type()),
        ..LogRecord::default()
    })
}

/// `sensor.exec` and so on: names of events are to have a namespace.
fn event_name(event_type: v1::EventType) -> String {
    let name = event_type.as_str_name();
    let name = name.strip_prefix("EVENT_TYPE_").unwrap_or(name);
    format!("sensor.{}", name.to_ascii_lowercase())
}

fn attributes(packet: &OpenedPacket, event: &v1::Event, id_prefix: &str) -> Vec<KeyValue> {
    let mut attributes = Attributes::default();
    let counter = event.id.as_ref().map_or(0, |id| id.counter);
    let id = format!("{id_prefix}{counter}");
    attributes.text("log.record.uid", Some(&id));
    if let Some(reference) = &event.process {
        attributes.number("process.pid", Some(reference.pid));
    }
    if let Some(process) = packet.actor(event) {
        about_process(process, event, &mut attributes);
    }
    match &event.body {
        Some(v1::event::Body::Exit(exit)) => {
            attributes.number("process.exit.code", exit.code);
        }
        Some(v1::event::Body::FileCreate(create)) => {
            about_file(create.file.as_ref(), &mut attributes);
        }
        Some(v1::event::Body::ModuleLoad(module)) => {
            about_file(module.file.as_ref(), &mut attributes);
        }
        Some(v1::event::Body::Connect(connect)) => about_connection(connect, &mut attributes),
        Some(
            v1::event::Body::Exec(_)
            | v1::event::Body::Fork(_)
            | v1::event::Body::Patch(_)
            | v1::event::Body::Aggregate(_),
        )
        | None => {}
    }
    let mut seen = HashSet::new();
    debug_assert!(
        attributes.0.iter().all(|one| seen.insert(one.key.clone())),
        "a name comes once"
    );
    attributes.0
}

fn about_process(process: &v1::Process, event: &v1::Event, attributes: &mut Attributes) {
    if let Some(parent) = &process.parent {
        attributes.number("process.parent_pid", Some(parent.pid));
    }
    let path = process.image.as_ref().and_then(|file| file.path.as_deref());
    attributes.bytes("process.executable.path", path);
    attributes.bytes("process.executable.name", path.map(base_name));
    // Those with which it acted; absent where they are the process's own.
    let credentials = event.credentials.as_ref().or(process.credentials.as_ref());
    if let Some(credentials) = credentials {
        if let Some(user) = &credentials.effective_user {
            attributes.number("process.user.id", Some(user.id));
            attributes.text("process.user.name", user.name.as_deref());
            attributes.text("user.name", user.name.as_deref());
        }
        if let Some(user) = &credentials.real_user {
            attributes.number("process.real_user.id", Some(user.id));
            attributes.text("process.real_user.name", user.name.as_deref());
        }
    }
    if let Some(container) = &process.container {
        attributes.text("container.id", Some(&container.id));
        attributes.text("container.name", container.name.as_deref());
        attributes.text("k8s.pod.uid", container.pod_id.as_deref());
    }
}

fn about_file(file: Option<&v1::FileInfo>, attributes: &mut Attributes) {
    let path = file.and_then(|file| file.path.as_deref());
    attributes.bytes("file.path", path);
    attributes.bytes("file.name", path.map(base_name));
}

fn about_connection(connect: &v1::Connect, attributes: &mut Attributes) {
    let transport = match connect.transport() {
        v1::Transport::Tcp | v1::Transport::Mptcp => Some("tcp"),
        v1::Transport::Udp | v1::Transport::Udplite => Some("udp"),
        v1::Transport::Unix => Some("unix"),
        v1::Transport::Unspecified
        | v1::Transport::Icmp
        | v1::Transport::Icmpv6
        | v1::Transport::Sctp
        | v1::Transport::Dccp
        | v1::Transport::Raw => None,
    };
    attributes.text("network.transport", transport);
    let family = match connect.family() {
        v1::AddressFamily::Inet => Some("ipv4"),
        v1::AddressFamily::Inet6 => Some("ipv6"),
        v1::AddressFamily::Unix | v1::AddressFamily::Unspecified => None,
    };
    attributes.text("network.type", family);
    let mut end = |prefix: &str, end: Option<&v1::Endpoint>| {
        let Some(end) = end else { return };
        let key = format!("network.{prefix}.address");
        match &end.unix_path {
            Some(path) => attributes.bytes(&key, Some(path)),
            None => attributes.address(&key, end.address.as_deref()),
        }
        attributes.number(&format!("network.{prefix}.port"), end.port);
    };
    end("local", connect.local.as_ref());
    end("peer", connect.remote.as_ref());
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// JSON as a value of OTLP. Numbers that are no i64 become decimal text, as OpenTelemetry's mapping of attribute types has it.
#[derive(Debug, PartialEq)]
pub(super) struct Body(pub(super) AnyValue);

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(BodyVisitor)
    }
}

struct BodyVisitor;

impl Body {
    const fn of(value: Value) -> Self {
        Self(AnyValue { value: Some(value) })
    }
}

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Body, E> {
        Ok(Body(AnyValue { value: None }))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Body, E> {
        Ok(Body::of(Value::BoolValue(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Body, E> {
        Ok(Body::of(Value::IntValue(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Body, E> {
        Ok(Body::of(match i64::try_from(value) {
            Ok(value) => Value::IntValue(value),
            Err(_beyond) => Value::StringValue(value.to_string()),
        }))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Body, E> {
        Ok(Body::of(Value::DoubleValue(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Body, E> {
        Ok(Body::of(Value::StringValue(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Body, E> {
        Ok(Body::of(Value::StringValue(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Body, A::Error> {
        let mut values = Vec::new();
        while let Some(Body(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Body::of(Value::ArrayValue(ArrayValue { values })))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
        let mut values = Vec::new();
        while let Some((key, Body(value))) = map.next_entry::<String, Body>()? {
            values.push(KeyValue {
                key,
                value: Some(value),
                ..KeyValue::default()
            });
        }
        Ok(Body::of(Value::KvlistValue(KeyValueList { values })))
    }
}
