//! The service: delivery and synchronisation. Who speaks is known from the connection ([`crate::listen`]).
//!
//! Memory of one delivery is bounded by the window: a packet takes its bytes out of it when it has arrived and gives them back when
//! its answer has been taken by the agent's side of the connection. An agent that does not read its answers is not read from.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use sensor_proto::v1;
use sensor_proto::v1::central_node_server::{CentralNode, CentralNodeServer};
use sensor_proto::v1::deliver_response::Message;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::agent_id::Peer;
use crate::clock::now_ns;
use crate::config::Config;
use crate::listen::{self, Bounds};
use crate::packet::{self, Limits};
use crate::store::StoreError;
use crate::store::write::{Prepared, RETRY_WHEN_FULL, Stored};
use crate::writer::{self, Disk, Job, Writer};

/// The hello comes within this time.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// Packets of one delivery that may be on the way, whatever their size.
const PACKETS_ON_THE_WAY: usize = 256;
/// Packets that are opened at once, over all connections: each may need some times its body's limit.
const OPENED_AT_ONCE: usize = 2;
/// Streams (requests) of one connection at once: a delivery, a synchronisation, and one of each that is about to end.
const STREAMS_PER_CONNECTION: u32 = 4;
/// How much a connection may send before its requests are read.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// A connection that is silent is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Hellos name few positions: epochs of one agent that still have packets waiting.
const POSITIONS_MAX: usize = 64;
/// A frame is a packet and some bytes around it.
const FRAME_EXTRA_BYTES: usize = 4_096;
/// Requests of synchronisation at most.
const SYNC_BYTES_MAX: usize = 1 << 20;
/// Connections that wait to be served.
const INCOMING: usize = 16;
/// A node that stops lets deliveries end so long.
const STOP_TIME: Duration = Duration::from_secs(5);

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] listen::TlsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another node has the store.
    #[error("{folder}: another central node serves from this store")]
    AlreadyRunning {
        /// The data folder.
        folder: std::path::PathBuf,
    },
    /// The address cannot be listened on.
    #[error("{address}: cannot listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No thread, no lock.
    #[error("the system refuses")]
    System(#[source] io::Error),
}

/// A running node. Dropping it stops it without waiting; [`Node::stop`] waits until everything that was taken is stored.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    writer: Option<Writer>,
    thread: Option<JoinHandle<()>>,
    _lock: std::fs::File,
}

impl Node {
    /// Opens the store, listens and serves, within the runtime of the caller.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let acceptor = listen::tls(&config.tls)?;
        let disk = Disk {
            folder: config.folder.clone(),
            reserve_bytes: config.reserve_bytes,
        };
        let connection = writer::open(&disk)?;
        let lock = lock(&config)?;
        let listener =
            TcpListener::bind(config.listen)
                .await
                .map_err(|source| StartError::Listen {
                    address: config.listen,
                    source,
                })?;
        let address = listener.local_addr().map_err(StartError::System)?;
        let (writer, thread) =
            Writer::start(connection, config.retention, disk).map_err(StartError::System)?;
        tokio::spawn(writer.look_regularly());
        let (connections, incoming) = mpsc::channel(INCOMING);
        let bounds = Bounds {
            connections: config.max_connections,
            per_agent: config.max_connections_per_agent,
        };
        let accepting = tokio::spawn(listen::accept(listener, acceptor, bounds, connections));
        let (stop, mut stopped) = watch::channel(false);
        let service = Service {
            writer: writer.clone(),
            opening: Arc::new(Semaphore::new(OPENED_AT_ONCE)),
            limits: config.limits,
            window_bytes: config.window_bytes,
            sync_period: config.sync_period,
            stopped: stopped.clone(),
        };
        let frame_bytes = config
            .limits
            .packet_bytes
            .max(SYNC_BYTES_MAX)
            .saturating_add(FRAME_EXTRA_BYTES);
        let service = CentralNodeServer::new(service)
            .max_decoding_message_size(frame_bytes)
            .max_encoding_message_size(frame_bytes);
        let router = tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(CONNECTION_WINDOW_BYTES)
            .http2_max_header_list_size(16 << 10)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .http2_max_pending_accept_reset_streams(Some(32))
            .add_service(service);
        let served = tokio::spawn(async move {
            let until = async move {
                // A sender that is gone stops the node, too.
                drop(stopped.wait_for(|stop| *stop).await);
            };
            let served = router
                .serve_with_incoming_shutdown(ReceiverStream::new(incoming), until)
                .await;
            if let Err(error) = served {
                tracing::error!(error = %writer::chain(&error), "serving failed");
            }
            accepting.abort();
        });
        Ok(Self {
            address,
            stop,
            served,
            writer: Some(writer),
            thread: Some(thread),
            _lock: lock,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes nothing more, stores what was taken, and ends.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(STOP_TIME, &mut self.served)
            .await
            .is_err()
        {
            self.served.abort();
        }
        let counters = self.writer.take().map(|writer| writer.counters());
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the writer ended by a fault");
            }
        }
        if let Some(counters) = counters {
            tracing::info!(%counters, "stopped");
        }
    }
}

/// One node per store: a lock that ends with the process.
fn lock(config: &Config) -> Result<std::fs::File, StartError> {
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(config.folder.join("lock"))
        .map_err(StartError::System)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::AlreadyRunning {
            folder: config.folder.clone(),
        }),
        Err(std::fs::TryLockError::Error(error)) => Err(StartError::System(error)),
    }
}

#[derive(Debug)]
struct Service {
    writer: Writer,
    opening: Arc<Semaphore>,
    limits: Limits,
    window_bytes: usize,
    sync_period: Duration,
    stopped: watch::Receiver<bool>,
}

/// An answer on its way to the agent, with the window's bytes of its packet.
struct Answer {
    message: Message,
    _window: Option<Window>,
}

/// Places of a packet that is on the way.
struct Window {
    _bytes: OwnedSemaphorePermit,
    _packet: OwnedSemaphorePermit,
}

fn peer<T>(request: &Request<T>) -> Result<Arc<Peer>, Status> {
    request
        .extensions()
        .get::<Arc<Peer>>()
        .cloned()
        .ok_or_else(|| Status::unauthenticated("no client certificate"))
}

fn store_is_full() -> Status {
    Status::unavailable("the store takes nothing now")
}

#[tonic::async_trait]
impl CentralNode for Service {
    type DeliverStream =
        Pin<Box<dyn Stream<Item = Result<v1::DeliverResponse, Status>> + Send + 'static>>;

    async fn deliver(
        &self,
        request: Request<Streaming<v1::DeliverRequest>>,
    ) -> Result<Response<Self::DeliverStream>, Status> {
        let peer = peer(&request)?;
        let mut requests = request.into_inner();
        let first = tokio::time::timeout(HELLO_TIME, requests.message())
            .await
            .map_err(|_elapsed| Status::deadline_exceeded("no hello came"))??;
        let hello = first
            .and_then(|first| first.hello)
            .ok_or_else(|| Status::invalid_argument("the first message is a hello"))?;
        if hello.agent_id != peer.agent_id.as_bytes() {
            return Err(Status::permission_denied(
                "the hello's agent id is not that of the client certificate",
            ));
        }
        if hello.positions.len() > POSITIONS_MAX {
            return Err(Status::invalid_argument("too many positions"));
        }
        let (done, positions) = oneshot::channel();
        let job = Job::Hello {
            peer: Arc::clone(&peer),
            positions: hello.positions,
            done,
        };
        self.writer
            .send(job)
            .await
            .map_err(|_refused| store_is_full())?;
        let positions = positions.await.map_err(|_gone| store_is_full())?;
        let welcome = v1::Welcome {
            positions,
            window_bytes: u64::try_from(self.window_bytes).unwrap_or(u64::MAX),
            max_packet_bytes: u64::try_from(self.limits.packet_bytes).unwrap_or(u64::MAX),
            node_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        // One place more than packets on the way: for the welcome and the status at the end.
        let (answers, out) = mpsc::channel(PACKETS_ON_THE_WAY.saturating_add(2));
        let delivery = Delivery {
            peer,
            writer: self.writer.clone(),
            opening: Arc::clone(&self.opening),
            limits: self.limits,
            bytes: Arc::new(Semaphore::new(self.window_bytes)),
            packets: Arc::new(Semaphore::new(PACKETS_ON_THE_WAY)),
            answers,
        };
        let mut stopped = self.stopped.clone();
        tokio::spawn(async move {
            let message = Message::Welcome(welcome);
            delivery.answer(message, None).await;
            let end = tokio::select! {
                end = delivery.run(requests) => end,
                _ = stopped.wait_for(|stop| *stop) => Err(Status::unavailable("the node stops")),
                // The agent is gone, or does not want answers any more.
                () = delivery.answers.closed() => Ok(()),
            };
            if let Err(status) = end {
                tracing::debug!(agent = %delivery.peer.agent_id, %status, "delivery ended");
                // Who has gone needs no status.
                drop(delivery.answers.send(Err(status)).await);
            }
        });
        let out = ReceiverStream::new(out).map(|answer: Result<Answer, Status>| {
            answer.map(|answer| v1::DeliverResponse {
                message: Some(answer.message),
            })
        });
        Ok(Response::new(Box::pin(out)))
    }

    async fn synchronize(
        &self,
        request: Request<v1::SyncRequest>,
    ) -> Result<Response<v1::SyncResponse>, Status> {
        let peer = peer(&request)?;
        let request = request.into_inner();
        if request.agent_id != peer.agent_id.as_bytes() {
            return Err(Status::permission_denied(
                "the agent id is not that of the client certificate",
            ));
        }
        if peer.not_after_ns < now_ns() {
            return Err(Status::unauthenticated("the client certificate has ended"));
        }
        let (done, settings) = oneshot::channel();
        let job = Job::Synchronize {
            peer,
            request: Box::new(request),
            done,
        };
        self.writer
            .send(job)
            .await
            .map_err(|_refused| store_is_full())?;
        let settings = settings.await.map_err(|_gone| store_is_full())?;
        Ok(Response::new(v1::SyncResponse {
            settings,
            period_ms: Some(u64::try_from(self.sync_period.as_millis()).unwrap_or(u64::MAX)),
            node_time_ns: now_ns(),
        }))
    }
}

/// One delivery.
struct Delivery {
    peer: Arc<Peer>,
    writer: Writer,
    opening: Arc<Semaphore>,
    limits: Limits,
    bytes: Arc<Semaphore>,
    packets: Arc<Semaphore>,
    answers: mpsc::Sender<Result<Answer, Status>>,
}

impl Delivery {
    async fn answer(&self, message: Message, window: Option<Window>) {
        let answer = Answer {
            message,
            _window: window,
        };
        // An agent that has gone asks again when it is back.
        drop(self.answers.send(Ok(answer)).await);
    }

    async fn run(&self, mut requests: Streaming<v1::DeliverRequest>) -> Result<(), Status> {
        while let Some(request) = requests.message().await? {
            if request.hello.is_some() {
                return Err(Status::invalid_argument("a second hello"));
            }
            let Some(bytes) = request.packet else {
                return Err(Status::invalid_argument("a message without a packet"));
            };
            if self.peer.not_after_ns < now_ns() {
                return Err(Status::unauthenticated("the client certificate has ended"));
            }
            let window = self.window(bytes.len()).await?;
            self.packet(bytes, window).await?;
        }
        // All answers that are owed go out before the stream ends: each holds a place.
        let all = u32::try_from(PACKETS_ON_THE_WAY).unwrap_or(u32::MAX);
        drop(self.packets.acquire_many(all).await);
        Ok(())
    }

    /// Waits until the window has room for a packet.
    async fn window(&self, bytes: usize) -> Result<Window, Status> {
        let closed = |_closed| Status::internal("the window is gone");
        // A frame cannot be longer than the window by more than its limit; it takes all of it then.
        let bytes = bytes.min(self.limits.packet_bytes);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Ok(Window {
            _bytes: Arc::clone(&self.bytes)
                .acquire_many_owned(bytes)
                .await
                .map_err(closed)?,
            _packet: Arc::clone(&self.packets)
                .acquire_owned()
                .await
                .map_err(closed)?,
        })
    }

    async fn packet(&self, bytes: Vec<u8>, window: Window) -> Result<(), Status> {
        let limits = self.limits;
        let opening = Arc::clone(&self.opening)
            .acquire_owned()
            .await
            .map_err(|_closed| Status::internal("opening is gone"))?;
        let own = *self.peer.agent_id.as_bytes();
        let outcome = tokio::task::spawn_blocking(move || {
            let _opening = opening;
            examine(bytes, &own, &limits)
        })
        .await
        .map_err(|_panicked| Status::internal("a packet could not be looked at"))?;
        match outcome {
            Ok(packet) => self.store(packet, window).await,
            Err(refused) => self.refuse(*refused, window).await,
        }
    }

    async fn store(&self, packet: Box<Prepared>, window: Window) -> Result<(), Status> {
        let (place, digest) = (packet.place, packet.digest);
        let (done, stored) = oneshot::channel();
        let job = Job::Packet {
            peer: Arc::clone(&self.peer),
            packet,
            done,
        };
        self.writer
            .send(job)
            .await
            .map_err(|_refused| store_is_full())?;
        // The next packet is read meanwhile; answers may overtake each other, each says which packet it is about.
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let message = match stored.await {
                Ok(stored) => Message::Ack(v1::Ack {
                    epoch: place.epoch.to_vec(),
                    stream: place.stream,
                    sequence: u64::try_from(place.sequence).unwrap_or_default(),
                    digest: digest.to_vec(),
                    status: match stored {
                        Stored::New => v1::AckStatus::Stored,
                        Stored::Duplicate => v1::AckStatus::Duplicate,
                        Stored::Conflict => v1::AckStatus::Conflict,
                    }
                    .into(),
                }),
                Err(_gone) => Message::Refusal(v1::Refusal {
                    digest: digest.to_vec(),
                    reason: v1::RefusalReason::Store.into(),
                    detail: Some("the store takes nothing now".to_owned()),
                    retry_after_ms: u64::try_from(RETRY_WHEN_FULL.as_millis()).ok(),
                }),
            };
            let answer = Answer {
                message,
                _window: Some(window),
            };
            // An agent that has gone sends the packet again and learns then.
            drop(answers.send(Ok(answer)).await);
        });
        Ok(())
    }

    async fn refuse(&self, refused: Refused, window: Window) -> Result<(), Status> {
        let message = Message::Refusal(v1::Refusal {
            digest: refused.digest.to_vec(),
            reason: refused.reason.into(),
            detail: Some(refused.detail.clone()),
            retry_after_ms: None,
        });
        tracing::warn!(agent = %self.peer.agent_id, reason = refused.reason.as_str_name(), detail = refused.detail, "packet refused");
        let job = Job::Refusal {
            peer: Arc::clone(&self.peer),
            place: refused.place,
            digest: refused.digest,
            reason: refused.reason,
            detail: refused.detail,
        };
        self.writer
            .send(job)
            .await
            .map_err(|_refused| store_is_full())?;
        self.answer(message, Some(window)).await;
        Ok(())
    }
}

/// A packet that is refused for good.
struct Refused {
    place: Option<packet::Place>,
    digest: packet::Digest,
    reason: v1::RefusalReason,
    detail: String,
}

/// Opens a packet, checks whose it is, and works out what is stored of it.
fn examine(bytes: Vec<u8>, own: &[u8; 16], limits: &Limits) -> Result<Box<Prepared>, Box<Refused>> {
    let digest = packet::digest(&bytes);
    let whose = packet::place(&bytes, limits);
    let refused = |reason, detail| {
        Box::new(Refused {
            // Of another's packet nothing is believed.
            place: whose.and_then(|(agent, place)| (agent == *own).then_some(place)),
            digest,
            reason,
            detail,
        })
    };
    if whose.is_some_and(|(agent, _)| agent != *own) {
        return Err(refused(
            v1::RefusalReason::NotYours,
            "the packet's agent id is not that of the client certificate".to_owned(),
        ));
    }
    match packet::open(bytes, limits) {
        Ok(packet) => Ok(Box::new(Prepared::new(packet))),
        Err(fault) => Err(refused(fault.reason(), fault.to_string())),
    }
}
