//! Workers against a receiver in this process, which is told how to misbehave. Everything waits on conditions.

#![expect(
    clippy::unused_result_ok,
    clippy::wildcard_enum_match_arm,
    reason = "a receiver that misbehaves does not care whether it is heard"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sensor_proto::v1;
use sensor_proto::v1::central_node_server::{CentralNode as Service, CentralNodeServer};
use sensor_proto::v1::deliver_response::Message;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::config::{CentralNodeConfig, FilterSettings, HostPort, ProxyConfig, TlsConfig};
use crate::spool::{Counts, HostIdentity, Spool, SpoolConfig, Stream, storage::Disk};

/// Generous: CI compiles and runs guests at the same time.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// How the node behaves from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As it should.
    Good,
    /// Does not even shake hands.
    NoTls,
    /// Shakes hands and then writes what is no HTTP/2.
    Garbage,
    /// Shakes hands and announces a frame of 16 MiB.
    EnormousFrame,
    /// Takes the connection and says nothing.
    Dumb,
    /// No answer to the hello.
    NoWelcome,
    /// An acknowledgement where the welcome belongs.
    AckFirst,
    /// Takes packets of a byte only.
    TinyPackets,
    /// A welcome, then never a word.
    Silent,
    /// A welcome for every packet.
    Welcomes,
    /// Answers without content.
    Empty,
    /// Acknowledges with a digest of its own.
    WrongDigest,
    /// The right digest under another packet's name.
    WrongName,
    /// Acknowledges twice.
    Twice,
    /// Refuses for good.
    Refuses,
    /// Refuses for half a second.
    Busy,
    /// A refusal with a megabyte of text.
    HugeAnswer,
    /// Ends the delivery after the first packet, unacknowledged.
    Hangs,
    /// Acknowledges some packets and ends the delivery.
    Breaks,
    /// An error of gRPC.
    Denies,
}

#[derive(Clone)]
struct Node {
    manner: Arc<Mutex<Manner>>,
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    hellos: Arc<Mutex<Vec<v1::Hello>>>,
    window: u64,
    most_on_the_way: Arc<AtomicUsize>,
    syncs: Arc<Mutex<Vec<v1::SyncRequest>>>,
    settings: Arc<Mutex<Vec<v1::Settings>>>,
}

impl Node {
    fn manner(&self) -> Manner {
        *self.manner.lock().unwrap()
    }

    fn be(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn packets(&self) -> Vec<Vec<u8>> {
        self.packets.lock().unwrap().clone()
    }

    fn answers(&self, bytes: &[u8]) -> Vec<v1::DeliverResponse> {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let (stream, sequence, epoch) = name_in(bytes);
        let ack = v1::Ack {
            epoch,
            stream,
            sequence,
            digest: digest.to_vec(),
            status: v1::AckStatus::Stored.into(),
        };
        let refusal = v1::Refusal {
            digest: digest.to_vec(),
            reason: v1::RefusalReason::Busy.into(),
            detail: None,
            retry_after_ms: None,
        };
        let messages = match self.manner() {
            Manner::Silent | Manner::Hangs => vec![],
            Manner::Welcomes => vec![Some(Message::Welcome(v1::Welcome::default()))],
            Manner::Empty => vec![None],
            Manner::WrongDigest => vec![Some(Message::Ack(v1::Ack {
                digest: vec![7; 32],
                ..ack
            }))],
            Manner::WrongName => vec![Some(Message::Ack(v1::Ack {
                sequence: sequence + 1,
                ..ack
            }))],
            Manner::Twice => vec![Some(Message::Ack(ack.clone())), Some(Message::Ack(ack))],
            Manner::Refuses => vec![Some(Message::Refusal(v1::Refusal {
                reason: v1::RefusalReason::Schema.into(),
                detail: Some("no\x1b[31m".to_owned()),
                ..refusal
            }))],
            Manner::Busy => vec![Some(Message::Refusal(v1::Refusal {
                retry_after_ms: Some(500),
                ..refusal
            }))],
            Manner::HugeAnswer => vec![Some(Message::Refusal(v1::Refusal {
                detail: Some("x".repeat(1 << 20)),
                ..refusal
            }))],
            _ => {
                self.packets.lock().unwrap().push(bytes.to_vec());
                vec![Some(Message::Ack(ack))]
            }
        };
        let wrap = |message| v1::DeliverResponse { message };
        messages.into_iter().map(wrap).collect()
    }
}

type Answers =
    Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::DeliverResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Service for Node {
    type DeliverStream = Answers;

    async fn deliver(
        &self,
        request: Request<Streaming<v1::DeliverRequest>>,
    ) -> Result<Response<Answers>, Status> {
        if self.manner() == Manner::Denies {
            return Err(Status::permission_denied("not\nyou"));
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let node = self.clone();
        tokio::spawn(async move {
            let mut requests = request.into_inner();
            let (mut unanswered, mut answered) = (0, 0);
            while let Ok(Some(request)) = requests.message().await {
                let mut answers = Vec::new();
                if let Some(hello) = request.hello {
                    node.hellos.lock().unwrap().push(hello);
                    match node.manner() {
                        Manner::NoWelcome => {}
                        Manner::AckFirst => answers.push(v1::DeliverResponse {
                            message: Some(Message::Ack(v1::Ack::default())),
                        }),
                        manner => answers.push(v1::DeliverResponse {
                            message: Some(Message::Welcome(v1::Welcome {
                                positions: vec![],
                                window_bytes: node.window,
                                max_packet_bytes: if manner == Manner::TinyPackets {
                                    1
                                } else {
                                    1 << 20
                                },
                                node_version: "test".to_owned(),
                            })),
                        }),
                    }
                }
                if let Some(packet) = request.packet {
                    unanswered += packet.len();
                    node.most_on_the_way.fetch_max(unanswered, Ordering::SeqCst);
                    answers.extend(node.answers(&packet));
                    if !answers.is_empty() {
                        unanswered -= packet.len();
                    }
                    if node.manner() == Manner::Hangs {
                        return;
                    }
                }
                for answer in answers {
                    if sender.send(Ok(answer)).await.is_err() {
                        return;
                    }
                    answered += 1;
                }
                // The welcome, and three packets.
                if node.manner() == Manner::Breaks && answered == 4 {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn synchronize(
        &self,
        request: Request<v1::SyncRequest>,
    ) -> Result<Response<v1::SyncResponse>, Status> {
        self.syncs.lock().unwrap().push(request.into_inner());
        Ok(Response::new(v1::SyncResponse {
            settings: self.settings.lock().unwrap().clone(),
            // Less than the agent allows.
            period_ms: Some(1),
            node_time_ns: 0,
        }))
    }
}

/// Authorities and certificates in files.
pub(crate) struct Pki {
    folder: tempfile::TempDir,
    pub(crate) server_pin: [u8; 32],
}

impl Pki {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server_pin = [0; 32];
        for authority in ["ca", "other"] {
            let mut parameters = CertificateParams::new(vec![]).unwrap();
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let name = &mut parameters.distinguished_name;
            name.push(rcgen::DnType::CommonName, authority);
            let key = KeyPair::generate().unwrap();
            let issuer = CertifiedIssuer::self_signed(parameters, key).unwrap();
            let write = |name: &str, text: &str| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                std::fs::set_permissions(path, mode).unwrap();
            };
            write(&format!("{authority}.pem"), &issuer.pem());
            for role in ["server", "agent"] {
                let parameters =
                    CertificateParams::new(vec!["node.test".to_owned(), "127.0.0.1".to_owned()])
                        .unwrap();
                let key = KeyPair::generate().unwrap();
                let certificate = parameters.signed_by(&key, &issuer).unwrap();
                write(&format!("{authority}-{role}.pem"), &certificate.pem());
                write(&format!("{authority}-{role}.key"), &key.serialize_pem());
                if (authority, role) == ("ca", "server") {
                    use rcgen::PublicKeyData as _;
                    server_pin = Sha256::digest(key.subject_public_key_info()).into();
                }
            }
        }
        Self { folder, server_pin }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn server(&self, who: &str) -> tokio_rustls::TlsAcceptor {
        let read = |name: String| std::fs::read(self.path(&name)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        let ca = read("ca.pem".to_owned());
        roots
            .add(CertificateDer::from_pem_slice(&ca).unwrap())
            .unwrap();
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&provider),
        )
        .build()
        .unwrap();
        let chain = CertificateDer::from_pem_slice(&read(format!("{who}-server.pem"))).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&read(format!("{who}-server.key"))).unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![chain], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    }

    pub(crate) fn tls(&self) -> TlsConfig {
        TlsConfig {
            ca_file: Some(self.path("ca.pem")),
            pins: vec![],
            server_name: "node.test".to_owned(),
            identity: Some((self.path("ca-agent.pem"), self.path("ca-agent.key"))),
        }
    }
}

/// A spool in a folder of its own.
pub(crate) struct Host {
    _folder: tempfile::TempDir,
    pub(crate) context: Context,
}

impl Host {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Clock::new().unwrap());
        let now = Now {
            wall_ns: clock.wall_now_ns().unwrap(),
            boot_ns: clock.boot_ns().unwrap(),
        };
        let disk = Disk::lock(folder.path()).unwrap();
        let host = HostIdentity::default();
        let (spool, _) = Spool::open(disk, SpoolConfig::default(), host, &["node"], now).unwrap();
        Self {
            _folder: folder,
            context: Context {
                spool: SharedSpool::new(spool),
                clock,
            },
        }
    }

    /// Seals packets of this length, one event each, and makes them durable.
    pub(crate) fn seal(&self, stream: Stream, count: usize, length: usize) -> Vec<Vec<u8>> {
        let now = self.context.now();
        let sealed = (0..count).map(|_| {
            let sealed = self.context.spool.with(|spool| {
                let next = spool.next_packet(stream);
                let mut bytes = next.id.epoch.0.to_vec();
                bytes.push(if stream == Stream::Process { 1 } else { 2 });
                bytes.extend(next.id.sequence.to_le_bytes());
                bytes.resize(length.max(bytes.len()), 0);
                let mut counts = Counts::new();
                counts.add(100, 1);
                let entry = Entry {
                    id: next.id,
                    digest: Sha256::digest(&bytes).into(),
                    sealed_time_ns: now.wall_ns,
                    boot_id: [1; 16],
                    last_event_boot_ns: now.boot_ns,
                    counts,
                    bytes: bytes.clone(),
                };
                spool.append(entry, now).unwrap();
                bytes
            });
            sealed.unwrap()
        });
        let sealed = sealed.collect();
        self.context.spool.sync(now);
        sealed
    }
}

/// Stream, sequence and epoch of a packet of [`Host::seal`].
fn name_in(bytes: &[u8]) -> (i32, u64, Vec<u8>) {
    let sequence = u64::from_le_bytes(bytes[17..25].try_into().unwrap());
    (i32::from(bytes[16]), sequence, bytes[..16].to_vec())
}

/// A node behind TLS.
struct Served {
    node: Node,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Served {
    fn new(pki: &Pki, who: &str, manner: Manner, window: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let node = Node {
            manner: Arc::new(Mutex::new(manner)),
            packets: Arc::default(),
            hellos: Arc::default(),
            window,
            most_on_the_way: Arc::default(),
            syncs: Arc::default(),
            settings: Arc::default(),
        };
        let acceptor = pki.server(who);
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let plain = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let behind = plain.local_addr().unwrap();
        let service = CentralNodeServer::new(node.clone()).max_decoding_message_size(8 << 20);
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(plain)),
        );
        let seen = node.clone();
        runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (acceptor, node) = (acceptor.clone(), seen.clone());
                tokio::spawn(async move {
                    if node.manner() == Manner::NoTls {
                        stream.write_all(b"SSH-2.0-x\r\n").await.ok();
                        return;
                    }
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    match node.manner() {
                        Manner::Garbage => {
                            stream.write_all(&[0x55; 1 << 16]).await.ok();
                            stream.read_to_end(&mut Vec::new()).await.ok();
                        }
                        Manner::EnormousFrame => {
                            // Settings, then data of 16 MiB on stream 1.
                            let frames = [
                                0, 0, 0, 4, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1,
                            ];
                            stream.write_all(&frames).await.ok();
                            while stream.write_all(&[0; 1 << 16]).await.is_ok() {}
                        }
                        Manner::Dumb => {
                            stream.read_to_end(&mut Vec::new()).await.ok();
                        }
                        _ => {
                            let mut plain = TcpStream::connect(behind).await.unwrap();
                            tokio::io::copy_bidirectional(&mut stream, &mut plain)
                                .await
                                .ok();
                        }
                    }
                });
            }
        });
        Self {
            node,
            address,
            _runtime: runtime,
        }
    }
}

fn config(address: SocketAddr, tls: TlsConfig) -> SinkConfig {
    SinkConfig {
        window_bytes: 256 << 10,
        ack_timeout: Duration::from_secs(2),
        retry_max: Duration::from_secs(1),
        receiver: ReceiverConfig::CentralNode(CentralNodeConfig {
            address: HostPort {
                host: address.ip().to_string(),
                port: address.port(),
            },
            tls,
            proxy: None,
            connect_timeout: Duration::from_secs(5),
            sync_period: Duration::from_secs(60),
        }),
    }
}

pub(crate) fn start(host: &Host, config: SinkConfig) -> Delivery {
    let sinks = BTreeMap::from([("node".to_owned(), config)]);
    Delivery::start(&sinks, &host.context, None, &Confinement::default())
        .unwrap()
        .unwrap()
}

pub(crate) fn health(delivery: &Delivery) -> Health {
    delivery.health().remove(0)
}

pub(crate) fn wait(delivery: &Delivery, what: &str, condition: impl Fn(&Health) -> bool) -> Health {
    let until = std::time::Instant::now() + LONG;
    loop {
        let health = health(delivery);
        if condition(&health) {
            return health;
        }
        assert!(std::time::Instant::now() < until, "{what}: {health:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn check_account(host: &Host, acked: u64, rejected: u64) {
    let accounts = host.context.spool.with(|spool| spool.accounts()).unwrap();
    let account = &accounts[0];
    assert!(account.balances(), "{account:?}");
    assert_eq!(account.acked.total(), acked, "{account:?}");
    assert_eq!(account.rejected.total(), rejected, "{account:?}");
    assert_eq!(account.waiting.total(), 0, "{account:?}");
}

/// The node misbehaves, the sink says so with this word, nothing is lost, and all arrives when the node behaves.
fn misbehaves(manner: Manner, word: &str) {
    let (pki, host) = (Pki::new(), Host::new());
    let served = Served::new(&pki, "ca", manner, 1 << 20);
    let sealed = host.seal(Stream::Process, 20, 1_000);
    let delivery = start(&host, config(served.address, pki.tls()));
    let seen = wait(&delivery, word, |health| health.faults.contains_key(word));
    assert!(seen.in_flight_bytes <= 256 << 10);
    let text = seen.last_fault.unwrap();
    assert!(
        text.len() < 1_500 && !text.contains(char::is_control),
        "{text}"
    );
    served.node.be(Manner::Good);
    let done = wait(&delivery, "all", |health| health.acked_packets >= 20);
    assert!(matches!(done.state, State::Delivering { .. }), "{done:?}");
    // What was stored before the fault may come twice, in order; nothing is missing.
    let mut stored = served.node.packets();
    stored.sort_by_key(|bytes| name_in(bytes).1);
    stored.dedup();
    assert_eq!(stored, sealed);
    check_account(&host, 20, 0);
    delivery.stop(LONG);
}

#[test]
fn packets_arrive_once_and_in_order_within_the_window() {
    let (pki, host) = (Pki::new(), Host::new());
    let served = Served::new(&pki, "ca", Manner::Good, 40_000);
    let first = host.seal(Stream::Bulk, 50, 10_000);
    let delivery = start(&host, config(served.address, pki.tls()));
    wait(&delivery, "first", |health| health.acked_packets == 50);
    // News of the spool wake the worker.
    let second = host.seal(Stream::Process, 7, 100);
    let done = wait(&delivery, "second", |health| health.acked_packets == 57);
    assert_eq!(done.sessions, 1);
    assert_eq!((done.in_flight_packets, done.in_flight_bytes), (0, 0));
    assert!(
        done.last_ack_ns.is_some() && done.faults.is_empty(),
        "{done:?}"
    );
    let packets = served.node.packets();
    assert_eq!(packets, [first, second].concat());
    assert!(served.node.most_on_the_way.load(Ordering::SeqCst) <= 40_000);
    let hello = served.node.hellos.lock().unwrap()[0].clone();
    assert_eq!(hello.positions.len(), 1);
    assert_eq!(hello.positions[0].sequence, 1);
    check_account(&host, 57, 0);
    assert_eq!(delivery.stop(LONG)[0].state, State::Stopped);
}

/// Answers come one by one, each in a frame of its own, while the worker does something else: reading a slow disk, say.
#[test]
fn answers_to_all_that_is_on_the_way_may_lie_unread() {
    let (pki, host) = (Pki::new(), Host::new());
    let served = Served::new(&pki, "ca", Manner::Good, 1 << 20);
    let sealed = host.seal(Stream::Process, MAX_IN_FLIGHT, 100);
    let config = config(served.address, pki.tls());
    let ReceiverConfig::CentralNode(node) = config.receiver else {
        panic!("another receiver");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let mut node = CentralNode::new(node, [1; 16]);
    let packets = host.context.spool.with(|spool| {
        let items = spool.next("node", 1 << 20, host.context.now()).unwrap();
        items.into_iter().filter_map(|item| match item {
            Item::Packet(entry) => Some(entry),
            Item::Gap(_) => None,
        })
    });
    let packets: Vec<Entry> = packets.unwrap().collect();
    assert_eq!(packets.len(), MAX_IN_FLIGHT);
    runtime.block_on(async {
        let (mut session, _) = node.open(&VecDeque::new()).await.unwrap();
        for packet in &packets {
            session.send(packet).unwrap();
        }
        // Nothing is read meanwhile.
        let until = Instant::now() + LONG;
        while served.node.packets.lock().unwrap().len() < sealed.len() {
            assert!(Instant::now() < until, "the node stopped reading");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for packet in &packets {
            let told = tokio::time::timeout(LONG, session.outcome()).await;
            assert_eq!(told.unwrap().unwrap(), (packet.id, Outcome::Acked));
        }
    });
}

#[test]
fn a_stop_delivers_what_waits_and_a_dead_receiver_does_not_hold_it_up() {
    let (pki, host) = (Pki::new(), Host::new());
    let served = Served::new(&pki, "ca", Manner::Good, 1 << 20);
    let delivery = start(&host, config(served.address, pki.tls()));
    wait(&delivery, "session", |health| health.sessions == 1);
    host.seal(Stream::Process, 30, 1_000);
    assert_eq!(delivery.stop(LONG)[0].acked_packets, 30);
    served.node.be(Manner::Silent);
    host.seal(Stream::Process, 3, 1_000);
    let delivery = start(&host, config(served.address, pki.tls()));
    wait(&delivery, "sent", |health| health.in_flight_packets == 3);
    let health = delivery.stop(Duration::from_millis(50));
    assert_eq!(
        (health[0].acked_packets, &health[0].state),
        (0, &State::Stopped)
    );
    // They are the spool's still.
    served.node.be(Manner::Good);
    let delivery = start(&host, config(served.address, pki.tls()));
    wait(&delivery, "again", |health| health.acked_packets == 3);
    delivery.stop(LONG);
    check_account(&host, 33, 0);
}

/// A run may be shorter than a handshake.
#[test]
fn a_stop_at_once_delivers_what_waits() {
    let (pki, host) = (Pki::new(), Host::new());
    let served = Served::new(&pki, "ca", Manner::Good, 1 << 20);
    host.seal(Stream::Process, 30, 1_000);
    let delivery = start(&host, config(served.address, pki.tls()));
    assert_eq!(delivery.stop(LONG)[0].acked_packets, 30);
    check_account(&host, 30, 0);
}

/// Connections that break at the end of a run are made again, as long as something gets through.
#[test]
fn a_stop_goes_on_after_connections_that_break() {
    let (pki, host) = (Pki::new(), Host::new());
    let served = Served::new(&pki, "ca", Manner::Breaks, 1 << 20);
    host.seal(Stream::Process, 10, 1_000);
    let delivery = start(&host, config(served.address, pki.tls()));
    let health = &delivery.stop(LONG)[0];
    assert_eq!(health.acked_packets, 10, "{health:?}");
    assert!(health.sessions >= 4, "{health:?}");
    check_account(&host, 10, 0);
    // Who takes nothing is tried once.
    served.node.be(Manner::Hangs);
    host.seal(Stream::Process, 1, 1_000);
    let delivery = start(&host, config(served.address, pki.tls()));
    let health = &delivery.stop(LONG)[0];
    assert_eq!(health.acked_packets, 0, "{health:?}");
    assert!(health.sessions <= 2, "{health:?}");
}

#[test]
fn a_receiver_without_tls() {
    misbehaves(Manner::NoTls, "tls");
}

#[test]
fn a_receiver_that_sends_garbage() {
    misbehaves(Manner::Garbage, PROTOCOL);
}

#[test]
fn a_receiver_that_sends_an_enormous_frame() {
    misbehaves(Manner::EnormousFrame, PROTOCOL);
}

#[test]
fn a_receiver_that_says_nothing_at_all() {
    misbehaves(Manner::Dumb, "timeout");
}

#[test]
fn a_receiver_that_does_not_greet() {
    misbehaves(Manner::NoWelcome, "timeout");
}

#[test]
fn a_receiver_that_acknowledges_before_it_greets() {
    misbehaves(Manner::AckFirst, PROTOCOL);
}

#[test]
fn a_receiver_that_takes_no_real_packet() {
    misbehaves(Manner::TinyPackets, PROTOCOL);
}

#[test]
fn a_receiver_that_is_silent() {
    misbehaves(Manner::Silent, "silent");
}

#[test]
fn a_receiver_that_greets_twice() {
    misbehaves(Manner::Welcomes, PROTOCOL);
}

#[test]
fn a_receiver_with_empty_answers() {
    misbehaves(Manner::Empty, PROTOCOL);
}

#[test]
fn a_receiver_with_a_wrong_digest() {
    misbehaves(Manner::WrongDigest, PROTOCOL);
}

#[test]
fn a_receiver_that_acknowledges_what_was_not_sent() {
    misbehaves(Manner::WrongName, PROTOCOL);
}

#[test]
fn a_receiver_that_acknowledges_twice() {
    let (pki, host) = (Pki::new(), Host::new());
    let served = Served::new(&pki, "ca", Manner::Twice, 1 << 20);
    host.seal(Stream::Process, 5, 1_000);
    let delivery = start(&host, config(served.address, pki.tls()));
    // Each session gets one true acknowledgement.
    let done = wait(&delivery, "all", |health| {
        health.acked_packets == 5 && health.faults.contains_key(PROTOCOL)
    });
    assert_eq!(done.rejected_packets, 0);
    delivery.stop(LONG);
    check_account(&host, 5, 0);
}

#[test]
fn a_receiver_with_a_huge_answer() {
    misbehaves(Manner::HugeAnswer, PROTOCOL);
}

#[test]
fn a_receiver_that_hangs_up() {
    misbehaves(Manner::Hangs, "closed");
}

#[test]
fn a_receiver_that_denies() {
    misbehaves(Manner::Denies, "refused");
}

#[test]
fn a_receiver_that_is_busy() {
    misbehaves(Manner::Busy, "retry");
}

#[test]
fn what_is_refused_for_good_is_set_aside_and_counted() {
    let (pki, host) = (Pki::new(), Host::new());
    let served = Served::new(&pki, "ca", Manner::Refuses, 1 << 20);
    host.seal(Stream::Bulk, 3, 1_000);
    // Longer than this node takes: not sent at all.
    host.seal(Stream::Bulk, 1, (1 << 20) + 1);
    let delivery = start(&host, config(served.address, pki.tls()));
    let done = wait(&delivery, "rejected", |health| health.rejected_packets == 4);
    let why = done.last_rejection.unwrap();
    assert!(!why.contains(char::is_control), "{why}");
    served.node.be(Manner::Good);
    host.seal(Stream::Bulk, 1, 1_000);
    wait(&delivery, "the next", |health| health.acked_packets == 1);
    delivery.stop(LONG);
    check_account(&host, 1, 4);
    let status = host
        .context
        .spool
        .with(|spool| spool.status(host.context.now()));
    assert!(status.unwrap().rejected_bytes > 1 << 20);
}

/// With this TLS the node is refused with this word.
fn refused(pki: &Pki, who: &str, tls: TlsConfig, word: &str) {
    let host = Host::new();
    let served = Served::new(pki, who, Manner::Good, 1 << 20);
    host.seal(Stream::Process, 1, 100);
    let delivery = start(&host, config(served.address, tls));
    let health = wait(&delivery, word, |health| !health.faults.is_empty());
    assert!(health.faults.contains_key(word), "{word}: {health:?}");
    assert_eq!(served.node.packets(), Vec::<Vec<u8>>::new());
    delivery.stop(LONG);
}

/// With this TLS the node is believed.
fn believed(pki: &Pki, who: &str, tls: TlsConfig) {
    let host = Host::new();
    let served = Served::new(pki, who, Manner::Good, 1 << 20);
    host.seal(Stream::Process, 1, 100);
    let delivery = start(&host, config(served.address, tls));
    wait(&delivery, "believed", |health| health.acked_packets == 1);
    delivery.stop(LONG);
}

#[test]
fn authorities_and_pins_are_asked_as_configured() {
    let pki = Pki::new();
    let pin = pki.server_pin;
    let with = |ca: Option<&str>, pins: Vec<[u8; 32]>, server_name: &str| TlsConfig {
        ca_file: ca.map(|name| pki.path(name)),
        pins,
        server_name: server_name.to_owned(),
        ..pki.tls()
    };
    believed(
        &pki,
        "ca",
        with(Some("ca.pem"), vec![[0; 32], pin], "node.test"),
    );
    believed(&pki, "ca", with(None, vec![pin], "another.name"));
    believed(&pki, "ca", with(Some("ca.pem"), vec![], "127.0.0.1"));
    for (who, tls) in [
        ("other", with(Some("ca.pem"), vec![], "node.test")),
        ("other", with(None, vec![pin], "node.test")),
        ("other", with(Some("other.pem"), vec![pin], "node.test")),
        ("ca", with(Some("ca.pem"), vec![[0; 32]], "node.test")),
        ("ca", with(Some("other.pem"), vec![pin], "node.test")),
        ("ca", with(Some("ca.pem"), vec![], "another.name")),
    ] {
        refused(&pki, who, tls, "certificate");
    }
}

#[test]
fn own_certificates_that_cannot_be_used_are_told_apart() {
    let pki = Pki::new();
    let identity = |certificate: &str, key: &str| TlsConfig {
        identity: Some((pki.path(certificate), pki.path(key))),
        ..pki.tls()
    };
    for (certificate, key) in [
        ("missing.pem", "ca-agent.key"),
        ("ca-agent.pem", "missing.key"),
        ("ca-agent.pem", "other-agent.key"),
        ("ca-agent.key", "ca-agent.key"),
        ("ca-agent.pem", "ca-agent.pem"),
    ] {
        refused(&pki, "ca", identity(certificate, key), "own_certificate");
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(pki.path("other-agent.key"), mode).unwrap();
    refused(
        &pki,
        "ca",
        identity("other-agent.pem", "other-agent.key"),
        "own_certificate",
    );
    // The node does not know this authority: with TLS 1.3 that shows when the greeting is answered.
    let host = Host::new();
    let served = Served::new(&pki, "ca", Manner::Good, 1 << 20);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(pki.path("other-agent.key"), mode).unwrap();
    let tls = identity("other-agent.pem", "other-agent.key");
    let delivery = start(&host, config(served.address, tls));
    wait(&delivery, "refused", |health| !health.faults.is_empty());
    assert_eq!(health(&delivery).sessions, 0);
    delivery.stop(LONG);
}

/// A proxy that wants these credentials, or none; counts the connections that it made.
fn proxy(wanted: Option<&'static str>) -> (tokio::runtime::Runtime, SocketAddr, Arc<AtomicUsize>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    runtime.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head
                    .strip_prefix("CONNECT ")
                    .and_then(|rest| rest.split(' ').next())
                    .unwrap();
                let given = head
                    .lines()
                    .find_map(|line| line.strip_prefix("Proxy-Authorization: Basic "));
                if given != wanted {
                    let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
                    stream.write_all(answer).await.ok();
                    return;
                }
                let mut to = TcpStream::connect(target.parse::<SocketAddr>().unwrap())
                    .await
                    .unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                stream
                    .write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
                    .await
                    .unwrap();
                tokio::io::copy_bidirectional(&mut stream, &mut to)
                    .await
                    .ok();
            });
        }
    });
    (runtime, address, made)
}

fn through(
    address: SocketAddr,
    pki: &Pki,
    proxy: SocketAddr,
    credentials: Option<PathBuf>,
) -> SinkConfig {
    let mut config = config(address, pki.tls());
    let ReceiverConfig::CentralNode(node) = &mut config.receiver else {
        unreachable!()
    };
    node.proxy = Some(ProxyConfig {
        address: HostPort {
            host: proxy.ip().to_string(),
            port: proxy.port(),
        },
        credentials_file: credentials,
    });
    config
}

#[test]
fn through_a_proxy() {
    let pki = Pki::new();
    let served = Served::new(&pki, "ca", Manner::Good, 1 << 20);
    let credentials = pki.path("proxy");
    std::fs::write(&credentials, "sensor:open sesame\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&credentials, mode).unwrap();
    for (wanted, given) in [
        (None, None),
        (Some("c2Vuc29yOm9wZW4gc2VzYW1l"), Some(credentials.clone())),
    ] {
        let host = Host::new();
        host.seal(Stream::Process, 3, 100);
        let (_runtime, address, made) = proxy(wanted);
        let config = through(served.address, &pki, address, given);
        let delivery = start(&host, config);
        wait(&delivery, "through", |health| health.acked_packets == 3);
        delivery.stop(LONG);
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }
    let host = Host::new();
    let (_runtime, address, made) = proxy(Some("c29tZW9uZTplbHNl"));
    let config = through(served.address, &pki, address, Some(credentials.clone()));
    let delivery = start(&host, config);
    let health = wait(&delivery, "407", |health| {
        health.faults.contains_key("proxy")
    });
    let text = format!("{health:?}");
    assert!(
        text.contains("407") && !text.contains("sesame") && !text.contains("c2Vuc29y"),
        "{text}"
    );
    delivery.stop(LONG);
    assert_eq!(made.load(Ordering::SeqCst), 0);
}

#[test]
fn pauses_have_chance_in_them_and_a_limit() {
    let pause = Duration::from_secs(8);
    let pauses: Vec<Duration> = (0..200).map(|_| jittered(pause)).collect();
    assert!(pauses.iter().all(|one| *one >= pause / 2 && *one <= pause));
    assert!(pauses.iter().any(|one| *one != pauses[0]));
}

#[test]
fn text_of_others_is_short_and_printable() {
    assert_eq!(printable("a\x1b[31m\nb"), "a\u{fffd}[31m\u{fffd}b");
    assert_eq!(printable(&"ä".repeat(10_000)).chars().count(), MAX_TEXT);
}

fn settings(version: u64, document: &str) -> v1::Settings {
    v1::Settings {
        r#type: "filter".to_owned(),
        version,
        document: document.to_owned(),
    }
}

#[test]
fn the_node_is_told_and_its_settings_are_taken_and_reported() {
    use crate::sink::synchronize::SettingsReport;
    let (pki, host) = (Pki::new(), Host::new());
    let served = Served::new(&pki, "ca", Manner::Good, 1 << 20);
    let taken: Arc<Mutex<Vec<(u64, String)>>> = Arc::default();
    let seen = Arc::clone(&taken);
    let management = Management {
        view: crate::config::HostConfig::default(),
        proc: crate::procfs::Proc::new("/proc"),
        degraded: vec!["connect".to_owned()],
        self_test_passed: true,
        report: Arc::new(Mutex::new(SettingsReport::default())),
        apply: Arc::new(move |settings| {
            let FilterSettings { version, document } = settings.clone();
            seen.lock().unwrap().push((version, document.clone()));
            if document == "good" {
                Ok(())
            } else {
                Err("rule 2:\nno such key".to_owned())
            }
        }),
    };
    host.seal(Stream::Bulk, 2, 100);
    *served.node.settings.lock().unwrap() = vec![settings(3, "bad")];
    let sinks = BTreeMap::from([("node".to_owned(), config(served.address, pki.tls()))]);
    let delivery = Delivery::start(
        &sinks,
        &host.context,
        Some(&management),
        &Confinement::default(),
    );
    let delivery = delivery.unwrap().unwrap();
    let syncs = |count: usize| {
        let found = || served.node.syncs.lock().unwrap().len() >= count;
        wait(&delivery, "synchronised", |_| found());
        served.node.syncs.lock().unwrap().clone()
    };
    // What became of it is told at once, and not tried again.
    let told = syncs(2);
    assert_eq!(told[0].settings, []);
    let refused = &told[1].settings[0];
    assert_eq!(
        (refused.version, refused.state()),
        (3, v1::ApplyState::Refused)
    );
    assert!(refused.error.as_deref().unwrap().contains("no such key"));
    let first = &told[0];
    assert_eq!(first.agent_id.len(), 16);
    assert!(first.server_base.starts_with("https://127.0.0.1:"));
    let own = first.host.as_ref().unwrap();
    assert!(!own.name.is_empty() && own.boot_id.len() == 16);
    assert!(first.local_time_ns > 0 && !first.agent_version.is_empty());
    let enrollment = first.enrollment.as_ref().unwrap();
    assert_eq!(enrollment.certificate_sha256.len(), 32);
    assert!(enrollment.not_after_time_ns > first.local_time_ns);
    let protection = first.self_protection.as_ref().unwrap();
    assert_eq!(protection.degraded, ["connect"]);
    assert!(protection.self_test_passed);
    assert_eq!(first.sinks[0].sealed, 2);
    *served.node.settings.lock().unwrap() = vec![settings(4, "good")];
    wait(&delivery, "applied", |_| {
        management.report().applied == Some(4)
    });
    let before = served.node.syncs.lock().unwrap().len();
    let told = syncs(before + 1);
    let applied = &told.last().unwrap().settings;
    assert_eq!(
        (applied.len(), applied[0].version, applied[0].state()),
        (1, 4, v1::ApplyState::Applied)
    );
    // Older ones are not taken any more.
    *served.node.settings.lock().unwrap() = vec![settings(2, "good")];
    wait(&delivery, "old", |_| management.report().refused.is_some());
    assert_eq!(management.report().applied, Some(4));
    let taken = taken.lock().unwrap().clone();
    assert_eq!(taken, [(3, "bad".to_owned()), (4, "good".to_owned())]);
    assert!(health(&delivery).last_sync_ns.is_some());
    delivery.stop(LONG);
}
