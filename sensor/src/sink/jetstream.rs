//! NATS JetStream as a receiver: every message is published with an id for the stream's duplicate window and the name of the
//! stream that must take it, and counts as safe when the stream has acknowledged it. Own code for the publisher's half of the
//! protocol, so that addresses, proxy-less connections, certificates and limits are the same as everywhere here
//! (docs/decisions/0030-jetstream-client.md).
//!
//! Refuses acknowledgements of what was not sent, of another stream or without a place in it.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use uuid::Uuid;

use crate::config::{HostPort, JetStreamConfig};
use crate::sink::connect::{self, ConnectError, Names};
use crate::sink::delivery::{Fault, LEAST_PACKET_BYTES, Outcome, Terms, printable};
use crate::sink::messages::{Message, Part, Tally, Unpacking, packet_id};
use crate::sink::piped::{Outcomes, Packets, Piped};
use crate::spool::{Entry, PACKET_MAX_BYTES, PacketId};

mod credentials;
mod wire;

use wire::{Frame, Framer, Info, Output, WireError};

/// What a server takes that does not say.
const MAX_PAYLOAD: usize = 1 << 20;
/// Room for the headers of a message.
const HEADER_BYTES: usize = 1 << 10;
/// Messages on the way at most; a server holds 10,000 for a stream before it refuses.
const MAX_MESSAGES: usize = 4_096;
/// Bytes of them.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// What waits to be written before more is taken.
const MAX_OUTPUT: usize = 512 << 10;
/// The server is asked for a sign of life so often, and has until the next time to give it.
const PING: Duration = Duration::from_secs(20);
/// The stream that is made: how long it keeps, how much, and for how long it knows duplicates.
const STREAM_AGE: Duration = Duration::from_secs(7 * 86_400);
const STREAM_BYTES: u64 = 1 << 30;
const STREAM_DUPLICATES: Duration = Duration::from_secs(600);

/// Errors of JetStream: no such stream; a stream of that name was made meanwhile.
const STREAM_NOT_FOUND: u64 = 10_059;
const STREAM_NAME_IN_USE: u64 = 10_058;
/// The subject belongs to another stream.
const WRONG_STREAM: u64 = 10_060;
/// Longer than the stream takes.
const MESSAGE_TOO_LONG: u64 = 10_054;

/// A connection, encrypted or not.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}
type Stream = Box<dyn Wire>;

/// A server or cluster, with what it takes to connect.
#[derive(Debug)]
pub struct JetStream {
    config: JetStreamConfig,
    agent_id: [u8; 16],
    names: Names,
    /// The address that is tried first.
    next: usize,
}

/// A connection that has said who we are.
struct Link {
    framer: Framer<ReadHalf<Stream>>,
    output: Output<WriteHalf<Stream>>,
    max_payload: usize,
    /// Answers come below it.
    inbox: String,
    /// Number of the last message.
    last: u64,
}

/// Answer of a stream, or of the server about a stream.
#[derive(Debug, Deserialize)]
struct Answer {
    error: Option<ApiError>,
    stream: Option<String>,
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
}

#[derive(Debug, Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl JetStream {
    /// For packets of this agent.
    #[must_use]
    pub fn new(config: JetStreamConfig, agent_id: [u8; 16]) -> Self {
        Self {
            config,
            agent_id,
            names: Names::default(),
            next: 0,
        }
    }

    /// Connects to the first member that answers.
    pub(super) async fn open(&mut self) -> Result<(Piped, Terms), Fault> {
        let addresses = self.config.remote.addresses.clone();
        let count = addresses.len().max(1);
        let share = u32::try_from(count).unwrap_or(u32::MAX);
        let limit = self.config.remote.connect_timeout / share;
        let mut last = Fault::new("name", "no address");
        // Whom a session was with comes last for the next one.
        let turn = self.next % count;
        let order = addresses.iter().cycle().skip(turn).take(addresses.len());
        for address in order {
            self.next = (self.next + 1) % count;
            let greeting = tokio::time::timeout(limit, self.greet(address)).await;
            let greeting = greeting.unwrap_or_else(|_elapsed| {
                Err(Fault::of("timeout", &ConnectError::TimedOut(limit)))
            });
            match greeting {
                Ok(link) => return Ok(self.begin(link)),
                Err(fault) => {
                    tracing::debug!(%address, %fault, "a server does not take us");
                    last = fault;
                }
            }
        }
        Err(last)
    }

    fn begin(&self, link: Link) -> (Piped, Terms) {
        let room = match self.config.format.form() {
            None => link.max_payload - HEADER_BYTES,
            // What is too long is told by the event.
            Some(_) => PACKET_MAX_BYTES,
        };
        let terms = Terms {
            window_bytes: usize::MAX,
            max_packet_bytes: room.min(PACKET_MAX_BYTES),
        };
        let publisher = Publisher {
            config: self.config.clone(),
            agent_id: self.agent_id,
            agent: Uuid::from_bytes(self.agent_id).to_string(),
            tally: Tally::default(),
            on_the_way: HashMap::new(),
            bytes: 0,
        };
        let session = Piped::start(|packets, outcomes| async move {
            match publisher.run(link, packets, outcomes).await {
                Ok(()) => Fault::new("closed", "the session is over"),
                Err(fault) => fault,
            }
        });
        (session, terms)
    }

    async fn greet(&self, address: &HostPort) -> Result<Link, Fault> {
        let refused = |error: ConnectError| Fault::of(error.word(), &error);
        let stream = connect::tcp(address, None, &self.names)
            .await
            .map_err(refused)?;
        let mut framer = Framer::new(stream);
        let Frame::Info(info) = framer.next().await? else {
            return Err(Fault::protocol("the server does not begin with INFO"));
        };
        let stream = framer.into_inner()?;
        let stream: Stream = match self.config.remote.tls(address) {
            Some(tls) => {
                if !info.tls_required && !info.tls_available {
                    return Err(Fault::new("tls", "the server offers no TLS"));
                }
                let stream = connect::tls::connect(stream, &tls, &[])
                    .await
                    .map_err(|error| refused(error.into()))?;
                Box::new(stream)
            }
            None if info.tls_required => {
                return Err(Fault::new("tls", "the server speaks TLS only"));
            }
            None => Box::new(stream),
        };
        self.introduce(stream, &info).await
    }

    /// Says who we are, listens to answers and looks for the stream.
    async fn introduce(&self, stream: Stream, info: &Info) -> Result<Link, Fault> {
        if !info.headers {
            return Err(Fault::protocol("the server takes no headers"));
        }
        let told = info.max_payload.map(usize::try_from);
        let max_payload = told.map_or(MAX_PAYLOAD, |told| told.unwrap_or(usize::MAX));
        if max_payload < LEAST_PACKET_BYTES {
            let why = format!("the server takes messages of {max_payload} bytes only");
            return Err(Fault::protocol(why));
        }
        let mut connect = Map::from_iter([
            ("verbose".to_owned(), false.into()),
            ("pedantic".to_owned(), false.into()),
            ("headers".to_owned(), true.into()),
            ("no_responders".to_owned(), true.into()),
            ("echo".to_owned(), false.into()),
            ("protocol".to_owned(), 1.into()),
            ("lang".to_owned(), "rust".into()),
            ("name".to_owned(), "sensor".into()),
            ("version".to_owned(), env!("CARGO_PKG_VERSION").into()),
        ]);
        if let Some((kind, path)) = &self.config.credentials {
            let fields = credentials::fields(*kind, path, &info.nonce)
                .map_err(|error| Fault::of("credentials", &error))?;
            connect.extend(fields);
        }
        let (reader, writer) = tokio::io::split(stream);
        let mut link = Link {
            framer: Framer::new(reader),
            output: Output::new(writer),
            max_payload,
            inbox: format!("_INBOX.{}", Uuid::new_v4().simple()),
            last: 0,
        };
        let inbox = &link.inbox;
        let hello = format!(
            "CONNECT {}\r\nSUB {inbox}.* 1\r\nPING\r\n",
            Value::from(connect)
        );
        link.output.push(hello.as_bytes());
        loop {
            link.output.drain().await.map_err(WireError::from)?;
            match link.framer.next().await? {
                Frame::Pong => break,
                frame @ (Frame::Info(_)
                | Frame::Ping
                | Frame::Ok
                | Frame::Error(_)
                | Frame::Message { .. }) => link.aside(frame)?,
            }
        }
        if self.config.create_stream {
            self.make_stream(&mut link).await?;
        }
        Ok(link)
    }

    async fn make_stream(&self, link: &mut Link) -> Result<(), Fault> {
        let stream = &self.config.stream;
        let answer = link
            .ask(&format!("$JS.API.STREAM.INFO.{stream}"), b"")
            .await?;
        match answer.error {
            None => return Ok(()),
            Some(error) if error.err_code == STREAM_NOT_FOUND => {}
            Some(error) => return Err(Fault::new("no_stream", printable(&error.description))),
        }
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let wish = json!({
            "name": stream,
            "subjects": [self.config.subject.pattern()],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "num_replicas": 1,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": STREAM_BYTES,
            "max_age": nanos(STREAM_AGE),
            "duplicate_window": nanos(STREAM_DUPLICATES),
        });
        let answer = link
            .ask(
                &format!("$JS.API.STREAM.CREATE.{stream}"),
                wish.to_string().as_bytes(),
            )
            .await?;
        match answer.error {
            None => {
                tracing::info!(stream, "made the stream");
                Ok(())
            }
            Some(error) if error.err_code == STREAM_NAME_IN_USE => Ok(()),
            Some(error) => Err(Fault::new("no_stream", printable(&error.description))),
        }
    }
}

impl From<WireError> for Fault {
    fn from(error: WireError) -> Self {
        let word = match error {
            WireError::Closed | WireError::Io(_) => "closed",
            WireError::Protocol(_) => super::delivery::PROTOCOL,
        };
        Self::of(word, &error)
    }
}

impl Link {
    /// What a server may say at any time.
    fn aside(&mut self, frame: Frame) -> Result<(), Fault> {
        match frame {
            Frame::Ping => {
                self.output.push(b"PONG\r\n");
                Ok(())
            }
            Frame::Pong | Frame::Ok => Ok(()),
            Frame::Info(info) if info.ldm => {
                Err(Fault::new("closed", "the server is about to stop"))
            }
            Frame::Info(_) => Ok(()),
            Frame::Error(text) => {
                let small = text.to_ascii_lowercase();
                let denied = [
                    "authorization",
                    "authentication",
                    "permissions",
                    "credentials",
                ];
                let word = if denied.iter().any(|word| small.contains(word)) {
                    "refused"
                } else {
                    "closed"
                };
                Err(Fault::new(word, printable(&text)))
            }
            Frame::Message { .. } => Err(Fault::protocol("an answer to what was not asked")),
        }
    }

    /// Number of an answer to one of our messages.
    fn number(&self, subject: &str) -> Option<u64> {
        let rest = subject.strip_prefix(&self.inbox)?.strip_prefix('.')?;
        rest.parse().ok()
    }

    /// A subject of its own for the answer to the next message.
    fn reply(&mut self) -> (u64, String) {
        self.last += 1;
        (self.last, format!("{}.{}", self.inbox, self.last))
    }

    /// Asks the server; only while nothing else is on the way.
    async fn ask(&mut self, subject: &str, payload: &[u8]) -> Result<Answer, Fault> {
        let (number, reply) = self.reply();
        self.output.publish(subject, &reply, "", payload);
        loop {
            self.output.drain().await.map_err(WireError::from)?;
            match self.framer.next().await? {
                Frame::Message {
                    subject,
                    status,
                    payload,
                } if self.number(&subject) == Some(number) => return answer(status, &payload),
                frame @ (Frame::Info(_)
                | Frame::Ping
                | Frame::Pong
                | Frame::Ok
                | Frame::Error(_)
                | Frame::Message { .. }) => self.aside(frame)?,
            }
        }
    }
}

fn answer(status: Option<u16>, payload: &[u8]) -> Result<Answer, Fault> {
    match status {
        None => serde_json::from_slice(payload)
            .map_err(|_quoted| Fault::protocol("an answer that makes no sense")),
        Some(503) => Err(Fault::new(
            "no_stream",
            "no stream takes the subject, or the server has no JetStream",
        )),
        Some(status) => Err(Fault::protocol(format!("an answer with status {status}"))),
    }
}

/// The task of a session.
struct Publisher {
    config: JetStreamConfig,
    agent_id: [u8; 16],
    agent: String,
    tally: Tally,
    /// Messages without acknowledgement: their packet and length.
    on_the_way: HashMap<u64, (PacketId, usize)>,
    bytes: usize,
}

impl Publisher {
    /// Well when the worker wants no more.
    async fn run(
        mut self,
        mut link: Link,
        mut packets: Packets,
        outcomes: Outcomes,
    ) -> Result<(), Fault> {
        let mut unpacking: Option<(PacketId, Unpacking)> = None;
        let mut ping = tokio::time::interval(PING);
        ping.reset();
        let mut pinged = false;
        loop {
            let room = link.output.waiting() < MAX_OUTPUT
                && self.on_the_way.len() < MAX_MESSAGES
                && self.bytes < MAX_MESSAGE_BYTES;
            let idle = unpacking.is_none();
            let part = async {
                match &mut unpacking {
                    Some((_, unpacking)) => unpacking.next().await,
                    None => std::future::pending().await,
                }
            };
            let settled = tokio::select! {
                frame = link.framer.next() => match frame? {
                    Frame::Message { subject, status, payload } => {
                        let number = link.number(&subject);
                        self.answered(number, status, &payload)?
                    }
                    frame @ (Frame::Info(_) | Frame::Ping | Frame::Pong | Frame::Ok | Frame::Error(_)) => {
                        pinged &= frame != Frame::Pong;
                        link.aside(frame)?;
                        None
                    }
                },
                drained = link.output.drain(), if link.output.is_busy() => {
                    drained.map_err(WireError::from)?;
                    None
                }
                part = part, if room => self.part(&mut link, &mut unpacking, part),
                packet = packets.recv(), if room && idle => match packet {
                    None => return Ok(()),
                    Some(packet) => {
                        self.packet(&mut link, &mut unpacking, packet);
                        None
                    }
                },
                _ = ping.tick() => {
                    if pinged {
                        return Err(Fault::new("silent", "no answer to a ping"));
                    }
                    link.output.push(b"PING\r\n");
                    pinged = true;
                    None
                }
            };
            if let Some(settled) = settled
                && outcomes.send(settled).await.is_err()
            {
                return Ok(());
            }
        }
    }

    /// Takes on a packet: whole, or to be taken apart.
    fn packet(
        &mut self,
        link: &mut Link,
        unpacking: &mut Option<(PacketId, Unpacking)>,
        packet: Entry,
    ) {
        let id = packet.id;
        match self.config.format.form() {
            Some(form) => *unpacking = Some((id, Unpacking::begin(form, packet))),
            None => {
                let name = packet_id(self.agent_id, id);
                self.publish(link, id, &name, "", "application/x-protobuf", &packet.bytes);
                // Its answer settles it.
                self.tally.whole(id);
            }
        }
    }

    fn part(
        &mut self,
        link: &mut Link,
        unpacking: &mut Option<(PacketId, Unpacking)>,
        part: Part,
    ) -> Option<(PacketId, Outcome)> {
        let id = unpacking.as_ref()?.0;
        let outcome = match part {
            Part::Messages(messages) => {
                for message in messages {
                    self.event(link, id, &message);
                }
                return None;
            }
            Part::End => self.tally.whole(id),
            Part::Unreadable(why) => {
                self.tally.refused(id, why, false);
                self.tally.whole(id)
            }
        };
        *unpacking = None;
        outcome.map(|outcome| (id, outcome))
    }

    fn event(&mut self, link: &mut Link, packet: PacketId, message: &Message) {
        let length = message.line.len();
        if length > link.max_payload - HEADER_BYTES {
            let most = link.max_payload;
            let why = format!(
                "event {}: {length} bytes are more than the server takes ({most})",
                message.id
            );
            self.tally.refused(packet, why, false);
            return;
        }
        let event_type = message.event_type.short_name();
        self.publish(
            link,
            packet,
            &message.id,
            event_type,
            "application/json",
            &message.line,
        );
    }

    fn publish(
        &mut self,
        link: &mut Link,
        packet: PacketId,
        id: &str,
        event_type: &str,
        content: &str,
        payload: &[u8],
    ) {
        let stream = packet.stream.name();
        let subject = self.config.subject.fill(&self.agent, stream, event_type);
        let headers = format!(
            "Nats-Msg-Id: {id}\r\nNats-Expected-Stream: {}\r\nContent-Type: {content}\r\n",
            self.config.stream
        );
        let (number, reply) = link.reply();
        link.output.publish(&subject, &reply, &headers, payload);
        self.on_the_way.insert(number, (packet, payload.len()));
        self.bytes += payload.len();
        self.tally.sent(packet);
    }

    /// The stream's word on one message.
    fn answered(
        &mut self,
        number: Option<u64>,
        status: Option<u16>,
        payload: &[u8],
    ) -> Result<Option<(PacketId, Outcome)>, Fault> {
        let (packet, length) = number
            .and_then(|number| self.on_the_way.remove(&number))
            .ok_or_else(|| {
                Fault::protocol("an acknowledgement of what was not sent, or a second one")
            })?;
        self.bytes = self.bytes.saturating_sub(length);
        let answer = answer(status, payload)?;
        let outcome = match answer.error {
            Some(error) if error.err_code == MESSAGE_TOO_LONG => {
                let why = format!("{length} bytes: {}", printable(&error.description));
                self.tally.refused(packet, why, true)
            }
            Some(error) => {
                let word = if error.err_code == WRONG_STREAM {
                    "no_stream"
                } else {
                    "retry"
                };
                return Err(Fault::new(word, printable(&error.description)));
            }
            None => {
                if answer.stream.as_deref() != Some(self.config.stream.as_str()) {
                    let named = printable(&answer.stream.unwrap_or_default());
                    let why = format!("an acknowledgement by stream `{named}`");
                    return Err(Fault::protocol(why));
                }
                if answer.seq.unwrap_or(0) == 0 {
                    return Err(Fault::protocol(
                        "an acknowledgement without a place in the stream",
                    ));
                }
                if answer.duplicate {
                    tracing::debug!(id = ?packet, "the stream has it already");
                }
                self.tally.acked(packet)
            }
        };
        Ok(outcome.map(|outcome| (packet, outcome)))
    }
}

#[cfg(test)]
mod tests;
