//! Workers against a receiver in this process, which is told how to misbehave. Everything waits on conditions.

#![expect(
    clippy::unused_result_ok,
    clippy::wildcard_enum_match_arm,
    reason = "a receiver that misbehaves does not care whether it is heard"
)]

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message as _;
use sensor_proto::packet::{Label, Packer};
use sensor_proto::v1;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;

use super::verdict::{Delay, Detail, RetryInfo, RpcStatus};
use super::*;
use crate::config::Form;
use crate::config::{HostPort, ReceiverConfig, SinkConfig, TlsConfig};
use crate::sink::delivery::State;
use crate::sink::delivery::tests::{Host, LONG, Pki, check_account, start, wait};
use crate::spool::{Counts, Entry, Stream};

const AGENT: [u8; 16] = [1; 16];
const TOKEN: &str = "opensesame-4711";
const GRPC: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// How the receiver behaves from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// As it should.
    Good,
    /// Takes it and has something to say.
    Warns,
    /// Takes all but one record of each request.
    Partial,
    /// Not now, and for a second.
    Busy,
    /// Not now, until an instant long ago.
    BusyUntil,
    /// Does not know us, and tells everybody our token.
    Denies,
    /// It is not good.
    BadData,
    /// It is too much.
    TooLarge,
    /// A page of a log-in form.
    Page,
    /// Something that is no message.
    Nonsense,
    /// A body without end.
    Huge,
    /// Headers without end.
    HugeHeader,
    /// Never an answer.
    Silent,
    /// Neither yes nor no.
    NoStatus,
    /// Somewhere else.
    Redirects,
    /// No HTTP.
    Garbage,
    /// Takes the connection and ends it.
    Hangs,
    /// Takes one request per connection.
    Closes,
}

#[derive(Clone)]
struct Receiver {
    manner: Arc<Mutex<Manner>>,
    requests: Arc<Mutex<Vec<ExportLogsServiceRequest>>>,
    headers: Arc<Mutex<HeaderMap>>,
}

type Body = BoxBody<Bytes, Infallible>;

impl Receiver {
    fn manner(&self) -> Manner {
        *self.manner.lock().unwrap()
    }

    fn be(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn records(&self) -> Vec<LogRecord> {
        let requests = self.requests.lock().unwrap().clone();
        requests
            .into_iter()
            .flat_map(|request| request.resource_logs)
            .flat_map(|resource| resource.scope_logs)
            .flat_map(|scope| scope.log_records)
            .collect()
    }

    fn ids(&self) -> Vec<String> {
        self.records()
            .iter()
            .map(|record| text(record, "log.record.uid"))
            .collect()
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let grpc = request.uri().path() == GRPC;
        let (head, body) = request.into_parts();
        let mut bytes = body.collect().await.unwrap().to_bytes().to_vec();
        let mut zipped = head.headers.get("content-encoding").is_some();
        if grpc {
            zipped = bytes[0] == 1;
            assert_eq!(head.headers["te"], "trailers");
            bytes.drain(..5);
        } else {
            assert_eq!(head.uri.path(), "/v1/logs");
        }
        if zipped {
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(bytes.as_slice())
                .read_to_end(&mut plain)
                .unwrap();
            bytes = plain;
        }
        let request = ExportLogsServiceRequest::decode(bytes.as_slice()).unwrap();
        *self.headers.lock().unwrap() = head.headers;
        let manner = self.manner();
        if matches!(
            manner,
            Manner::Good | Manner::Warns | Manner::Partial | Manner::Closes
        ) {
            self.requests.lock().unwrap().push(request);
        }
        if manner == Manner::Silent {
            std::future::pending::<()>().await;
        }
        if grpc {
            in_grpc(manner)
        } else {
            in_http(manner)
        }
    }
}

fn success(manner: Manner) -> Vec<u8> {
    let partial = |rejected_log_records, error_message: &str| ExportLogsPartialSuccess {
        rejected_log_records,
        error_message: error_message.to_owned(),
    };
    ExportLogsServiceResponse {
        partial_success: match manner {
            Manner::Warns => Some(partial(0, "soon no more")),
            Manner::Partial => Some(partial(1, "one is \x1b[31mtoo old")),
            _ => None,
        },
    }
    .encode_to_vec()
}

fn rpc_status(retry_seconds: Option<i64>) -> RpcStatus {
    let info = |seconds| RetryInfo {
        retry_delay: Some(Delay { seconds, nanos: 0 }),
    };
    RpcStatus {
        code: 8,
        message: "no".to_owned(),
        details: retry_seconds
            .map(|seconds| Detail {
                type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
                value: info(seconds).encode_to_vec(),
            })
            .into_iter()
            .collect(),
    }
}

fn endless() -> Body {
    // A megabyte is more than any honest answer.
    Full::new(Bytes::from(vec![b'x'; 1 << 20])).boxed()
}

fn in_http(manner: Manner) -> Response<Body> {
    let plain = |status: u16, kind: &str, body: Vec<u8>| {
        Response::builder()
            .status(status)
            .header("content-type", kind)
            .body(Full::new(Bytes::from(body)).boxed())
            .unwrap()
    };
    let proto = "application/x-protobuf";
    let failed = |status: u16| plain(status, proto, rpc_status(None).encode_to_vec());
    let with = |mut response: Response<Body>, name: &'static str, value: String| {
        response.headers_mut().insert(name, value.parse().unwrap());
        response
    };
    match manner {
        Manner::Good | Manner::Warns | Manner::Partial => plain(200, proto, success(manner)),
        Manner::Closes => with(plain(200, proto, vec![]), "connection", "close".to_owned()),
        Manner::Busy => with(failed(429), "retry-after", "1".to_owned()),
        Manner::BusyUntil => {
            let then = "Sun, 06 Nov 1994 08:49:37 GMT".to_owned();
            with(failed(503), "retry-after", then)
        }
        Manner::Denies => plain(401, "text/plain", format!("not with {TOKEN}").into_bytes()),
        Manner::BadData => failed(400),
        Manner::TooLarge => failed(413),
        Manner::Page => plain(200, "text/html", b"<html>log in".to_vec()),
        Manner::Nonsense | Manner::NoStatus => plain(200, proto, vec![0xff; 10]),
        Manner::Huge => Response::builder()
            .header("content-type", proto)
            .body(endless())
            .unwrap(),
        Manner::HugeHeader => with(plain(200, proto, vec![]), "x-long", "x".repeat(1 << 17)),
        Manner::Redirects => with(
            plain(307, proto, vec![]),
            "location",
            "http://127.0.0.1/".to_owned(),
        ),
        Manner::Silent | Manner::Garbage | Manner::Hangs => unreachable!(),
    }
}

fn in_grpc(manner: Manner) -> Response<Body> {
    use base64::Engine as _;
    let message = |bytes: Vec<u8>| {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        Full::new(Bytes::from([&[0], length.as_slice(), &bytes].concat()))
    };
    let head = || Response::builder().header("content-type", "application/grpc");
    let ended = |body: Full<Bytes>, status: &'static str| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        let body = body.with_trailers(std::future::ready(Some(Ok::<_, Infallible>(trailers))));
        head().body(body.boxed()).unwrap()
    };
    let failed = |code: u16, text: &str, retry: Option<i64>| {
        let details = rpc_status(retry).encode_to_vec();
        let details = base64::engine::general_purpose::STANDARD_NO_PAD.encode(details);
        head()
            .header("grpc-status", code)
            .header("grpc-message", text)
            .header("grpc-status-details-bin", details)
            .body(Full::default().boxed())
            .unwrap()
    };
    match manner {
        Manner::Good | Manner::Warns | Manner::Partial => ended(message(success(manner)), "0"),
        Manner::Closes => ended(message(vec![]), "0"),
        Manner::Busy => failed(8, "slow%20down", Some(1)),
        Manner::BusyUntil => failed(14, "", Some(0)),
        Manner::Denies => failed(16, &format!("not with {TOKEN}"), None),
        Manner::BadData => failed(3, "bad", None),
        Manner::TooLarge => failed(8, "too large", None),
        Manner::Page => Response::builder()
            .header("content-type", "text/html")
            .body(Full::from("<html>log in").boxed())
            .unwrap(),
        Manner::Nonsense => ended(Full::from(vec![0xff; 10]), "0"),
        Manner::Huge => head().body(endless()).unwrap(),
        Manner::HugeHeader => head()
            .header("x-long", "x".repeat(1 << 17))
            .body(Full::default().boxed())
            .unwrap(),
        Manner::NoStatus => head().body(message(success(manner)).boxed()).unwrap(),
        Manner::Redirects => Response::builder()
            .status(307)
            .body(Full::default().boxed())
            .unwrap(),
        Manner::Silent | Manner::Garbage | Manner::Hangs => unreachable!(),
    }
}

/// A receiver that listens.
struct Served {
    receiver: Receiver,
    address: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

async fn serve(
    receiver: Receiver,
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http2: bool,
) {
    match receiver.manner() {
        Manner::Garbage => {
            stream.write_all(&[0x55; 1 << 16]).await.ok();
            stream.read_to_end(&mut Vec::new()).await.ok();
            return;
        }
        Manner::Hangs => {
            stream.read_exact(&mut [0; 24]).await.ok();
            return;
        }
        _ => {}
    }
    let service = service_fn(move |request| {
        let receiver = receiver.clone();
        async move { Ok::<_, Infallible>(receiver.answer(request).await) }
    });
    let stream = TokioIo::new(stream);
    if http2 {
        http2::Builder::new(TokioExecutor::new())
            .serve_connection(stream, service)
            .await
            .ok();
    } else {
        http1::Builder::new()
            .serve_connection(stream, service)
            .await
            .ok();
    }
}

impl Served {
    /// In plain text, or behind TLS, which agrees on HTTP/2.
    fn new(manner: Manner, protocol: OtlpProtocol, tls: Option<(&Pki, &str)>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let receiver = Receiver {
            manner: Arc::new(Mutex::new(manner)),
            requests: Arc::default(),
            headers: Arc::default(),
        };
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tls.map(|(pki, who)| pki.server(who));
        let seen = receiver.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, receiver) = (acceptor.clone(), seen.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(receiver, stream, protocol == OtlpProtocol::Grpc).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(receiver, stream, true).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            receiver,
            address,
            runtime,
        }
    }
}

fn config(address: SocketAddr, protocol: OtlpProtocol, tls: Option<TlsConfig>) -> SinkConfig {
    SinkConfig {
        window_bytes: 256 << 10,
        ack_timeout: Duration::from_secs(2),
        retry_max: Duration::from_secs(1),
        receiver: ReceiverConfig::Otlp(OtlpConfig {
            address: HostPort {
                host: address.ip().to_string(),
                port: address.port(),
            },
            tls,
            proxy: None,
            connect_timeout: Duration::from_secs(5),
            protocol,
            path: match protocol {
                OtlpProtocol::Http => "/v1/logs".to_owned(),
                OtlpProtocol::Grpc => GRPC.to_owned(),
            },
            headers_file: None,
            form: Form::Json,
            gzip: true,
            requests: 4,
        }),
    }
}

fn otlp(config: &mut SinkConfig) -> &mut OtlpConfig {
    match &mut config.receiver {
        ReceiverConfig::Otlp(otlp) => otlp,
        other => panic!("{other:?}"),
    }
}

/// Seals packets of so many exits each, with arguments of so many bytes; gives the ids of their events.
fn seal(host: &Host, packets: u64, events: u64, argument_bytes: usize) -> Vec<String> {
    let now = host.context.now();
    let mut ids = Vec::new();
    for packet in 0..packets {
        host.context.spool.with(|spool| {
            let next = spool.next_packet(Stream::Process);
            let process = v1::Process {
                unique_pid: vec![7; 16],
                pid: 7,
                image: Some(v1::FileInfo {
                    path: Some(b"/usr/bin/caf\xe9".to_vec()),
                    ..v1::FileInfo::default()
                }),
                argv: vec![vec![b'x'; argument_bytes]],
                container: Some(Box::new(v1::Container {
                    id: "c0ffee".to_owned(),
                    ..v1::Container::default()
                })),
                credentials: Some(v1::Credentials {
                    effective_user: Some(v1::User {
                        id: 1000,
                        name: Some("eve".to_owned()),
                        ..v1::User::default()
                    }),
                    ..v1::Credentials::default()
                }),
                capabilities: Some(v1::Capabilities {
                    effective: Some(u64::MAX),
                    ..v1::Capabilities::default()
                }),
                ..v1::Process::default()
            };
            let event = |number| v1::Event {
                id: Some(v1::EventId {
                    counter: packet * 10_000 + number,
                    ..v1::EventId::default()
                }),
                time_ns: 1_000,
                processed_time_ns: Some(2_000),
                process: Some(process.reference()),
                body: Some(v1::event::Body::Exit(v1::Exit {
                    code: Some(3),
                    ..v1::Exit::default()
                })),
                ..v1::Event::default()
            };
            let label = Label {
                agent_id: AGENT,
                epoch: next.id.epoch.0,
                stream: v1::Stream::Process,
                sequence: next.id.sequence,
                previous: (next.id.sequence > 1).then_some(next.previous_digest),
                sealed_time_ns: now.wall_ns,
                boot_id: [3; 16],
                run_id: [4; 16],
                accounted_boot_ns: now.boot_ns,
            };
            let body = v1::PacketBody {
                events: (0..events).map(event).collect(),
                processes: if events > 0 {
                    vec![process.clone()]
                } else {
                    vec![]
                },
                ledger: Some(v1::LedgerReport::default()),
                agent: Some(v1::Agent {
                    id: AGENT.to_vec(),
                    version: "1.2.3".to_owned(),
                    ..v1::Agent::default()
                }),
                host: Some(v1::Host {
                    name: "web1".to_owned(),
                    addresses: vec![vec![192, 0, 2, 1]],
                    os: Some(v1::OperatingSystem {
                        r#type: "linux".to_owned(),
                        architecture: "x86_64".to_owned(),
                        ..v1::OperatingSystem::default()
                    }),
                    ..v1::Host::default()
                }),
                ..v1::PacketBody::default()
            };
            let packed = Packer::new().unwrap().pack(&label, body).unwrap();
            let mut counts = Counts::new();
            counts.add(101, events);
            let entry = Entry {
                id: next.id,
                digest: packed.digest,
                sealed_time_ns: now.wall_ns,
                boot_id: [3; 16],
                last_event_boot_ns: now.boot_ns,
                counts,
                bytes: packed.bytes,
            };
            let agent = uuid::Uuid::from_bytes(AGENT);
            ids.extend(
                (0..events).map(|number| {
                    format!("{agent}/{}/{}", next.id.epoch, packet * 10_000 + number)
                }),
            );
            spool.append(entry, now).unwrap();
        });
    }
    host.context.spool.sync(now);
    ids
}

fn text(record: &LogRecord, key: &str) -> String {
    match attribute(record, key) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key}: {other:?}"),
    }
}

fn attribute(record: &LogRecord, key: &str) -> Option<Value> {
    let found = record.attributes.iter().find(|one| one.key == key)?;
    found.value.clone()?.value
}

fn within(value: &AnyValue, path: &str) -> Value {
    let mut value = value.clone();
    for step in path.split('.') {
        let Some(Value::KvlistValue(map)) = value.value else {
            panic!("no map at {step} of {path}")
        };
        let found = map.values.into_iter().find(|one| one.key == step);
        value = found
            .unwrap_or_else(|| panic!("no {step} of {path}"))
            .value
            .unwrap();
    }
    value.value.unwrap()
}

fn set(ids: &[String]) -> BTreeSet<&str> {
    ids.iter().map(String::as_str).collect()
}

/// The receiver misbehaves, the sink says so with this word, nothing is lost, and all arrives when the receiver behaves.
fn misbehaves(manner: Manner, protocol: OtlpProtocol, word: &str) {
    let (host, served) = (Host::new(), Served::new(manner, protocol, None));
    let sealed = seal(&host, 5, 3, 100);
    let delivery = start(&host, config(served.address, protocol, None));
    let what = format!("{manner:?} in {protocol:?}: {word}");
    let seen = wait(&delivery, &what, |health| health.faults.contains_key(word));
    let said = seen.last_fault.unwrap();
    assert!(
        said.len() < 1_500 && !said.contains(char::is_control),
        "{said}"
    );
    assert_eq!(seen.rejected_packets, 0, "{what}");
    served.receiver.be(Manner::Good);
    wait(&delivery, &what, |health| health.acked_packets >= 5);
    // A second time some may have come; with the same id, so that it can be told.
    assert_eq!(set(&served.receiver.ids()), set(&sealed), "{what}");
    check_account(&host, 15, 0);
    delivery.stop(LONG);
}

const BOTH: [OtlpProtocol; 2] = [OtlpProtocol::Grpc, OtlpProtocol::Http];

#[test]
fn records_arrive_once_with_names_that_others_know() {
    for protocol in BOTH {
        let (host, served) = (Host::new(), Served::new(Manner::Good, protocol, None));
        let sealed = seal(&host, 20, 10, 100);
        // A heartbeat says nothing to those who take events only.
        seal(&host, 1, 0, 0);
        let delivery = start(&host, config(served.address, protocol, None));
        let done = wait(&delivery, "all", |health| health.acked_packets >= 21);
        assert!(matches!(done.state, State::Delivering { .. }), "{done:?}");
        let ids = served.receiver.ids();
        assert_eq!((set(&ids), ids.len()), (set(&sealed), sealed.len()));
        check_account(&host, 200, 0);
        let records = served.receiver.records();
        let record = &records[0];
        assert_eq!(record.event_name, "sensor.exit");
        assert_eq!(
            (record.time_unix_nano, record.observed_time_unix_nano),
            (1_000, 2_000)
        );
        for (key, wanted) in [
            ("process.executable.path", "/usr/bin/caf\u{fffd}"),
            ("process.executable.name", "caf\u{fffd}"),
            ("process.user.name", "eve"),
            ("user.name", "eve"),
            ("container.id", "c0ffee"),
        ] {
            assert_eq!(text(record, key), wanted, "{key}");
        }
        assert_eq!(attribute(record, "process.pid"), Some(Value::IntValue(7)));
        assert_eq!(
            attribute(record, "process.exit.code"),
            Some(Value::IntValue(3))
        );
        let body = record.body.as_ref().unwrap();
        assert_eq!(
            within(body, "id"),
            Value::StringValue(text(record, "log.record.uid"))
        );
        assert_eq!(within(body, "process.pid"), Value::IntValue(7));
        let requests = served.receiver.requests.lock().unwrap().clone();
        let resource = requests[0].resource_logs[0].resource.clone().unwrap();
        let told = LogRecord {
            attributes: resource.attributes,
            ..LogRecord::default()
        };
        let agent = uuid::Uuid::from_bytes(AGENT).to_string();
        for (key, wanted) in [
            ("service.name", "sensor"),
            ("service.instance.id", agent.as_str()),
            ("service.version", "1.2.3"),
            ("host.name", "web1"),
            ("host.arch", "amd64"),
            ("os.type", "linux"),
        ] {
            assert_eq!(text(&told, key), wanted, "{key}");
        }
        delivery.stop(LONG);
    }
}

#[test]
fn the_body_has_the_form_that_is_configured() {
    for (form, id) in [(Form::Ecs, "event.id"), (Form::Ocsf, "metadata.uid")] {
        let (host, served) = (
            Host::new(),
            Served::new(Manner::Good, OtlpProtocol::Http, None),
        );
        seal(&host, 1, 1, 10);
        let mut config = config(served.address, OtlpProtocol::Http, None);
        otlp(&mut config).form = form;
        let delivery = start(&host, config);
        wait(&delivery, "one", |health| health.acked_packets == 1);
        let record = served.receiver.records().remove(0);
        let wanted = Value::StringValue(text(&record, "log.record.uid"));
        assert_eq!(within(record.body.as_ref().unwrap(), id), wanted);
        delivery.stop(LONG);
    }
}

#[test]
fn a_large_packet_comes_in_requests_that_receivers_take() {
    for protocol in BOTH {
        let (host, served) = (Host::new(), Served::new(Manner::Good, protocol, None));
        let sealed = seal(&host, 2, 200, 20_000);
        let delivery = start(&host, config(served.address, protocol, None));
        wait(&delivery, "both", |health| health.acked_packets == 2);
        let requests = served.receiver.requests.lock().unwrap().clone();
        assert!(requests.len() > 4, "{}", requests.len());
        for request in &requests {
            // Records up to a megabyte, and what stands around them.
            assert!(
                request.encoded_len() < 1_100_000,
                "{}",
                request.encoded_len()
            );
        }
        let ids = served.receiver.ids();
        assert_eq!((set(&ids), ids.len()), (set(&sealed), sealed.len()));
        delivery.stop(LONG);
    }
}

#[test]
fn what_is_refused_for_good_is_set_aside_and_counted() {
    for protocol in BOTH {
        for (manner, wanted) in [
            (
                Manner::BadData,
                ["InvalidArgument: bad", "400 Bad Request: no"],
            ),
            (
                Manner::TooLarge,
                ["ResourceExhausted: too large", "413 Payload Too Large: no"],
            ),
            (
                Manner::Partial,
                ["1 of 3 log records refused: one is \u{fffd}[31mtoo old"; 2],
            ),
        ] {
            let (host, served) = (Host::new(), Served::new(manner, protocol, None));
            seal(&host, 2, 3, 100);
            let delivery = start(&host, config(served.address, protocol, None));
            let seen = wait(&delivery, "refused", |health| health.rejected_packets == 2);
            let why = seen.last_rejection.unwrap();
            let wanted = wanted[usize::from(protocol == OtlpProtocol::Http)];
            assert!(why.contains(wanted), "{manner:?} {protocol:?}: {why}");
            assert!(seen.faults.is_empty(), "{:?}", seen.faults);
            served.receiver.be(Manner::Warns);
            seal(&host, 1, 3, 100);
            wait(&delivery, "the next", |health| health.acked_packets == 1);
            check_account(&host, 3, 6);
            delivery.stop(LONG);
        }
    }
}

#[test]
fn a_receiver_that_is_busy_is_left_alone_as_it_wants() {
    for protocol in BOTH {
        misbehaves(Manner::Busy, protocol, "retry");
        misbehaves(Manner::BusyUntil, protocol, "retry");
    }
}

#[test]
fn times_to_wait_are_read_from_both_forms() {
    let (host, served) = (
        Host::new(),
        Served::new(Manner::Busy, OtlpProtocol::Grpc, None),
    );
    seal(&host, 1, 1, 10);
    let mut otlp_config = config(served.address, OtlpProtocol::Grpc, None);
    let config = otlp(&mut otlp_config).clone();
    served.runtime.block_on(async {
        let mut receiver = Otlp::new(config);
        let (mut session, _) = receiver.open().await.unwrap();
        let packets = host.context.spool.with(|spool| {
            spool.add_sink("here").unwrap();
            spool.next("here", 1 << 20, host.context.now()).unwrap()
        });
        for item in packets.unwrap() {
            if let crate::spool::Item::Packet(packet) = item {
                session.send(&packet).unwrap();
            }
        }
        let (_, outcome) = session.outcome().await.unwrap();
        assert_eq!(
            outcome,
            Outcome::Retry {
                why: "ResourceExhausted: slow down".to_owned(),
                after: Some(Duration::from_secs(1)),
            }
        );
    });
}

#[test]
fn a_receiver_that_breaks_the_protocol() {
    for protocol in BOTH {
        for manner in [
            Manner::Page,
            Manner::Nonsense,
            Manner::NoStatus,
            Manner::Huge,
        ] {
            misbehaves(manner, protocol, "protocol");
        }
        misbehaves(Manner::Garbage, protocol, "protocol");
    }
    misbehaves(Manner::HugeHeader, OtlpProtocol::Http, "protocol");
}

#[test]
fn a_receiver_whose_headers_never_end() {
    // What is too long for HTTP/2 ends the request, not the connection.
    let (host, served) = (
        Host::new(),
        Served::new(Manner::HugeHeader, OtlpProtocol::Grpc, None),
    );
    seal(&host, 1, 1, 10);
    let delivery = start(&host, config(served.address, OtlpProtocol::Grpc, None));
    wait(&delivery, "a fault", |health| !health.faults.is_empty());
    served.receiver.be(Manner::Good);
    wait(&delivery, "all", |health| health.acked_packets == 1);
    delivery.stop(LONG);
}

#[test]
fn a_receiver_that_is_silent() {
    for protocol in BOTH {
        misbehaves(Manner::Silent, protocol, "silent");
    }
}

#[test]
fn a_receiver_that_hangs_up() {
    for protocol in BOTH {
        misbehaves(Manner::Hangs, protocol, "closed");
    }
}

#[test]
fn what_is_about_us_is_no_reason_to_give_packets_up() {
    for protocol in BOTH {
        misbehaves(Manner::Denies, protocol, "refused");
        misbehaves(Manner::Redirects, protocol, "refused");
    }
}

#[test]
fn a_connection_that_is_ended_between_requests_is_no_fault() {
    let (host, served) = (
        Host::new(),
        Served::new(Manner::Closes, OtlpProtocol::Http, None),
    );
    let delivery = start(&host, config(served.address, OtlpProtocol::Http, None));
    for packet in 1..4 {
        seal(&host, 1, 1, 10);
        let seen = wait(&delivery, "one more", |health| {
            health.acked_packets == packet
        });
        assert!(seen.faults.is_empty(), "{:?}", seen.faults);
    }
    delivery.stop(LONG);
}

#[test]
fn headers_come_from_a_file_and_are_never_told() {
    use std::os::unix::fs::PermissionsExt as _;
    for protocol in BOTH {
        let (host, served) = (Host::new(), Served::new(Manner::Denies, protocol, None));
        seal(&host, 1, 1, 10);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        std::fs::write(
            &path,
            format!("# ours\nAuthorization: Bearer {TOKEN}\n\nX-Scope: a b\n"),
        )
        .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut config = config(served.address, protocol, None);
        otlp(&mut config).headers_file = Some(path.clone());
        let delivery = start(&host, config);
        let seen = wait(&delivery, "refused", |health| {
            health.faults.contains_key("refused")
        });
        let said = format!("{seen:?}");
        assert!(
            said.contains("not with (redacted)") && !said.contains(TOKEN),
            "{said}"
        );
        let headers = served.receiver.headers.lock().unwrap().clone();
        assert_eq!(headers["authorization"], format!("Bearer {TOKEN}"));
        assert_eq!(headers["x-scope"], "a b");
        // Others may read it now.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        served.receiver.be(Manner::Hangs);
        wait(&delivery, "credentials", |health| {
            health.faults.contains_key("credentials")
        });
        delivery.stop(LONG);
    }
}

#[test]
fn headers_files_that_are_none_are_refused_without_quoting_them() {
    let parsed = parse(b" Authorization :  Bearer x:y \r\n#c\n\nB: 2").unwrap();
    let values: Vec<_> = parsed
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    assert_eq!(
        values,
        [("authorization", b"Bearer x:y".as_slice()), ("b", b"2")]
    );
    for text in [
        "secret",
        "a b: secret",
        "x: sec\u{1}ret",
        "Host: secret",
        &"a: secret\n".repeat(65),
    ] {
        let error = parse(text.as_bytes()).unwrap_err();
        let said = format!("{error} {error:?}");
        assert!(!said.contains("secret"), "{said}");
    }
}

#[test]
fn certificates_are_asked_for() {
    let pki = Pki::new();
    for protocol in BOTH {
        // Another authority's.
        let (host, served) = (
            Host::new(),
            Served::new(Manner::Good, protocol, Some((&pki, "other"))),
        );
        seal(&host, 1, 1, 10);
        let delivery = start(&host, config(served.address, protocol, Some(pki.tls())));
        wait(&delivery, "not believed", |health| {
            health.faults.contains_key("certificate")
        });
        assert_eq!(served.receiver.records(), []);
        delivery.stop(LONG);
        // Its own.
        let served = Served::new(Manner::Good, protocol, Some((&pki, "ca")));
        let delivery = start(&host, config(served.address, protocol, Some(pki.tls())));
        wait(&delivery, "believed", |health| health.acked_packets == 1);
        delivery.stop(LONG);
    }
}

/// gRPC as its own library speaks it.
#[derive(Clone, Default)]
struct Library(Arc<Mutex<Vec<ExportLogsServiceRequest>>>);

#[tonic::async_trait]
impl LogsService for Library {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, Status> {
        let mut requests = self.0.lock().unwrap();
        requests.push(request.into_inner());
        match requests.len() {
            1 => Err(Status::unavailable("not yet")),
            2 => Err(Status::invalid_argument("never")),
            _ => Ok(tonic::Response::new(ExportLogsServiceResponse::default())),
        }
    }
}

#[test]
fn the_library_of_grpc_is_understood() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let library = Library::default();
    runtime.spawn(
        tonic::transport::Server::builder()
            .add_service(LogsServiceServer::new(library.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let host = Host::new();
    seal(&host, 3, 1, 10);
    let mut config = config(address, OtlpProtocol::Grpc, None);
    // One after another, so that it is known who is refused; compression is left out of the library here.
    (otlp(&mut config).requests, otlp(&mut config).gzip) = (1, false);
    let delivery = start(&host, config);
    let seen = wait(&delivery, "all", |health| health.acked_packets == 2);
    assert_eq!(seen.rejected_packets, 1);
    assert_eq!(
        seen.last_rejection.as_deref(),
        Some("InvalidArgument: never")
    );
    assert_eq!(seen.faults.get("retry"), Some(&1), "{:?}", seen.faults);
    delivery.stop(LONG);
}

#[test]
fn numbers_beyond_64_bits_with_sign_are_text() {
    let body: record::Body =
        serde_json::from_str(r#"{"a":[1,-2,18446744073709551615,1.5,true,null,"x"]}"#).unwrap();
    let Value::ArrayValue(list) = within(&body.0, "a") else {
        panic!()
    };
    let values: Vec<_> = list.values.into_iter().map(|value| value.value).collect();
    assert_eq!(
        values,
        [
            Some(Value::IntValue(1)),
            Some(Value::IntValue(-2)),
            Some(Value::StringValue("18446744073709551615".to_owned())),
            Some(Value::DoubleValue(1.5)),
            Some(Value::BoolValue(true)),
            None,
            Some(Value::StringValue("x".to_owned())),
        ]
    );
}
