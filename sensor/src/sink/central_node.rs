//! The central node as a receiver: gRPC over mutual TLS. An acknowledgement counts only for a packet of this session and with its
//! digest; anything else breaks the protocol and ends the session. Answers are small: longer ones are refused unread.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sensor_proto::v1;
use sensor_proto::v1::central_node_client::CentralNodeClient;
use sensor_proto::v1::deliver_response::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Streaming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::config::CentralNodeConfig;
use crate::sink::connect::{self, ConnectError, Names};
use crate::sink::delivery::{Fault, LEAST_PACKET_BYTES, MAX_IN_FLIGHT, Outcome, Terms, printable};
use crate::sink::synchronize::Line;
use crate::spool::{Entry, Epoch, PACKET_MAX_BYTES, PacketId, Stream};

/// A welcome, an acknowledgement or a refusal; longer answers are refused.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// Room for a packet and what stands around it.
const MAX_REQUEST_BYTES: usize = PACKET_MAX_BYTES + (64 << 10);
/// The node is asked for a sign of life so often, and has so long to give it.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of answers that may come before they are read. HTTP/2 ends a connection in which too many small frames lie unread: it
/// allows half of the window for what each lacks to 256 bytes. The answers to all that is on the way must not do that while
/// the worker reads a slow disk; that is a quarter of this, and the rest is for synchronisation on the same connection.
const RECEIVE_WINDOW: u32 = 1 << 20;
const _: () = assert!(RECEIVE_WINDOW as usize >= 4 * 256 * MAX_IN_FLIGHT);
/// Headers of an answer.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// A central node, with what it takes to connect.
#[derive(Debug)]
pub struct CentralNode {
    config: CentralNodeConfig,
    agent_id: [u8; 16],
    names: Names,
    line: Line,
}

impl CentralNode {
    /// For packets of this agent.
    #[must_use]
    pub fn new(config: CentralNodeConfig, agent_id: [u8; 16]) -> Self {
        Self {
            config,
            agent_id,
            names: Names::default(),
            line: Line::new(None),
        }
    }

    /// Tells of the connection while there is one.
    pub(super) fn line(&self) -> tokio::sync::watch::Receiver<Option<Channel>> {
        self.line.subscribe()
    }

    /// Connects and greets; `waiting` is what will be sent first.
    pub(super) async fn open(
        &mut self,
        waiting: &VecDeque<Entry>,
    ) -> Result<(NodeSession, Terms), Fault> {
        let limit = self.config.connect_timeout;
        let greeting = self.greet(waiting);
        tokio::time::timeout(limit, greeting)
            .await
            .map_err(|_elapsed| Fault::of("timeout", &ConnectError::TimedOut(limit)))?
    }

    async fn greet(&self, waiting: &VecDeque<Entry>) -> Result<(NodeSession, Terms), Fault> {
        let channel = channel(&self.config, &self.names).await?;
        let mut client = CentralNodeClient::new(channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES)
            .max_encoding_message_size(MAX_REQUEST_BYTES);
        // The worker has no more than so many on the way, and the hello comes first: sending never waits.
        let (requests, queue) = mpsc::channel(MAX_IN_FLIGHT + 1);
        let hello = v1::DeliverRequest {
            hello: Some(v1::Hello {
                agent_id: self.agent_id.to_vec(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
                schema_version: sensor_proto::SCHEMA_VERSION,
                positions: positions(waiting),
            }),
            packet: None,
        };
        requests
            .try_send(hello)
            .map_err(|error| Fault::of("closed", &error))?;
        let mut answers = client
            .deliver(ReceiverStream::new(queue))
            .await
            .map_err(|status| fault(&status))?
            .into_inner();
        let welcome = match next(&mut answers).await? {
            Message::Welcome(welcome) => welcome,
            Message::Ack(_) | Message::Refusal(_) => {
                return Err(Fault::protocol("the first answer is no welcome"));
            }
        };
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let terms = Terms {
            window_bytes: size(welcome.window_bytes),
            max_packet_bytes: size(welcome.max_packet_bytes).min(PACKET_MAX_BYTES),
        };
        if terms.max_packet_bytes < LEAST_PACKET_BYTES {
            return Err(Fault::protocol(format!(
                "the node takes packets of {} bytes only",
                welcome.max_packet_bytes
            )));
        }
        self.line.send_replace(Some(channel));
        let session = NodeSession {
            requests,
            answers,
            sent: HashMap::new(),
            line: self.line.clone(),
        };
        Ok((session, terms))
    }
}

/// A connection to the node, TLS and HTTP/2 done. The caller limits the time.
pub(super) async fn channel(config: &CentralNodeConfig, names: &Names) -> Result<Channel, Fault> {
    let refused = |error: ConnectError| Fault::of(error.word(), &error);
    let stream = connect::tcp(&config.address, config.proxy.as_ref(), names)
        .await
        .map_err(refused)?;
    let stream = connect::tls::connect(stream, &config.tls, &[b"h2"])
        .await
        .map_err(|error| refused(error.into()))?;
    let endpoint = Endpoint::from_shared(format!("http://{}", config.address))
        .map_err(|error| Fault::of("name", &error))?
        .user_agent(concat!("sensor/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| Fault::of("name", &error))?
        .initial_stream_window_size(RECEIVE_WINDOW)
        .initial_connection_window_size(RECEIVE_WINDOW)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    // This connection and no other: who wants a new one begins anew, with names, proxy and certificates.
    let once = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_uri| {
        let taken = once.lock().map_or(None, |mut once| once.take());
        std::future::ready(taken.ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::NotConnected, "the connection has ended")
        }))
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| Fault::of("closed", &error))
}

/// The first waiting packet of each epoch and stream.
fn positions(waiting: &VecDeque<Entry>) -> Vec<v1::StreamPosition> {
    let mut first = BTreeMap::new();
    for entry in waiting {
        let PacketId { epoch, stream, .. } = entry.id;
        first.entry((epoch, stream)).or_insert(entry);
    }
    first
        .into_values()
        .map(|entry| v1::StreamPosition {
            epoch: entry.id.epoch.0.to_vec(),
            stream: schema_stream(entry.id.stream).into(),
            sequence: entry.id.sequence,
            digest: Some(entry.digest.to_vec()),
        })
        .collect()
}

const fn schema_stream(stream: Stream) -> v1::Stream {
    match stream {
        Stream::Process => v1::Stream::Process,
        Stream::Bulk => v1::Stream::Bulk,
    }
}

/// A delivery under way.
#[derive(Debug)]
pub struct NodeSession {
    requests: mpsc::Sender<v1::DeliverRequest>,
    answers: Streaming<v1::DeliverResponse>,
    /// What was sent and not answered, by digest.
    sent: HashMap<[u8; 32], PacketId>,
    line: Line,
}

impl Drop for NodeSession {
    fn drop(&mut self) {
        self.line.send_replace(None);
    }
}

impl NodeSession {
    pub(super) fn send(&mut self, packet: &Entry) -> Result<(), Fault> {
        let request = v1::DeliverRequest {
            hello: None,
            packet: Some(packet.bytes.clone()),
        };
        self.requests
            .try_send(request)
            .map_err(|_closed| Fault::new("closed", "the node takes no more packets"))?;
        self.sent.insert(packet.digest, packet.id);
        Ok(())
    }

    /// May be dropped while it waits.
    pub(super) async fn outcome(&mut self) -> Result<(PacketId, Outcome), Fault> {
        match next(&mut self.answers).await? {
            Message::Welcome(_) => Err(Fault::protocol("a second welcome")),
            Message::Ack(ack) => {
                let id = self.answered(&ack.digest)?;
                let named = identity(&ack);
                if named != Some(id) {
                    return Err(Fault::protocol(format!(
                        "an acknowledgement with the digest of {id:?} names {named:?}"
                    )));
                }
                if ack.status() == v1::AckStatus::Conflict {
                    tracing::error!(
                        ?id,
                        "the node has another packet of this identity: a clone of this host's state is at work"
                    );
                }
                Ok((id, Outcome::Acked))
            }
            Message::Refusal(refusal) => {
                let id = self.answered(&refusal.digest)?;
                let mut why = refusal.reason().as_str_name().to_ascii_lowercase();
                why = why.trim_start_matches("refusal_reason_").to_owned();
                if let Some(detail) = &refusal.detail {
                    why.push_str(": ");
                    why.push_str(&printable(detail));
                }
                let outcome = match refusal.retry_after_ms {
                    Some(after) => Outcome::Retry {
                        why,
                        after: Some(Duration::from_millis(after)),
                    },
                    None => Outcome::Rejected { why },
                };
                Ok((id, outcome))
            }
        }
    }

    fn answered(&mut self, digest: &[u8]) -> Result<PacketId, Fault> {
        let known = <[u8; 32]>::try_from(digest).ok();
        known
            .and_then(|digest| self.sent.remove(&digest))
            .ok_or_else(|| {
                Fault::protocol("an answer to a packet that was not sent, or with a wrong digest")
            })
    }
}

fn identity(ack: &v1::Ack) -> Option<PacketId> {
    let stream = match ack.stream() {
        v1::Stream::Process => Stream::Process,
        v1::Stream::Bulk => Stream::Bulk,
        v1::Stream::Unspecified => return None,
    };
    Some(PacketId {
        epoch: Epoch(ack.epoch.as_slice().try_into().ok()?),
        stream,
        sequence: ack.sequence,
    })
}

async fn next(answers: &mut Streaming<v1::DeliverResponse>) -> Result<Message, Fault> {
    match answers.message().await {
        Ok(Some(v1::DeliverResponse {
            message: Some(message),
        })) => Ok(message),
        Ok(Some(_)) => Err(Fault::protocol("an empty answer")),
        Ok(None) => Err(Fault::new("closed", "the node has ended the delivery")),
        Err(status) => Err(fault(&status)),
    }
}

/// What a failed call means.
pub(super) fn fault(status: &Status) -> Fault {
    let word = match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => "refused",
        // What cannot be decoded, is too long, or breaks HTTP/2.
        Code::Internal | Code::OutOfRange | Code::Unimplemented | Code::InvalidArgument => {
            super::delivery::PROTOCOL
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unavailable
        | Code::DataLoss => "closed",
    };
    let code = status.code();
    let told = printable(status.message());
    Fault::new(word, format!("{told} ({code:?})"))
}
