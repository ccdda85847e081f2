//! Kafka: packets, or a record per event, with the acknowledgement of all replicas. Creates no topics, and leaves repeating to the
//! worker: whatever fails ends the session, and a new one begins with what was not acknowledged.
//!
//! A stream (process, bulk) has a key of its own, hence a partition and a lane: a connection to the partition's leader with one request on the way,
//! as many records in it as a batch may have. So the order of a stream is that of its partition, whatever fails. Records that come
//! twice have the same `id` in their headers.
//!
//! Memory beyond the window: for each of the two lanes a packet that is being taken apart and two batches.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use uuid::Uuid;

use crate::config::{HostPort, KafkaCompression, KafkaConfig, SaslMechanism};
use crate::sink::connect::{ConnectError, Names, read_secret};
use crate::sink::delivery::{Fault, MAX_IN_FLIGHT, Outcome, Terms};
use crate::sink::messages::{Message, Part, Tally, Unpacking, packet_id};
use crate::sink::piped::{Outcomes, Packets, Piped};
use crate::spool::{Entry, PACKET_MAX_BYTES, PacketId, Stream};

mod batch;
mod broker;
mod sasl;
mod wire;

use batch::{Codec, Record};
use broker::Broker;
use sasl::Credentials;
use wire::{Meaning, Metadata, Produced};

/// Bytes of records in a batch; topics take a mebibyte by default (`max.message.bytes`), head and all.
const BATCH_BYTES: usize = 900 << 10;
/// A batch that a topic refuses is halved down to this; what is still refused then is one record.
const LEAST_BATCH_BYTES: usize = 16 << 10;
/// A broker closes what is silent for ten minutes by default; routers forget earlier.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Time for an answer: twice what a leader waits for its followers. The worker looks at both lanes together; one of them may be
/// silent alone.
const ANSWER: Duration = Duration::from_secs(60);
/// A quota's pause is kept up to this; the broker does not read during the rest of it anyway (KIP-219).
const THROTTLE_MAX: Duration = Duration::from_secs(10);

/// A Kafka cluster, with what it takes to connect.
#[derive(Debug)]
pub struct Kafka {
    config: KafkaConfig,
    agent_id: [u8; 16],
    names: Names,
    /// Which of the addresses is asked first.
    first: usize,
    batch_bytes: usize,
    keep_alive: Duration,
}

impl Kafka {
    /// For packets of this agent.
    #[must_use]
    pub fn new(config: KafkaConfig, agent_id: [u8; 16]) -> Self {
        Self {
            config,
            agent_id,
            names: Names::default(),
            first: 0,
            batch_bytes: BATCH_BYTES,
            keep_alive: KEEP_ALIVE,
        }
    }

    /// Finds the topic's leaders and connects to them.
    pub(super) async fn open(&mut self) -> Result<(Piped, Terms), Fault> {
        let limit = self.config.remote.connect_timeout;
        let lanes = tokio::time::timeout(limit, Box::pin(self.lanes()))
            .await
            .map_err(|_elapsed| Fault::of("timeout", &ConnectError::TimedOut(limit)))?;
        let (process, bulk) = lanes?;
        let session =
            Piped::start(|packets, outcomes| Box::pin(session(process, bulk, packets, outcomes)));
        let terms = Terms {
            window_bytes: usize::MAX,
            max_packet_bytes: PACKET_MAX_BYTES,
        };
        Ok((session, terms))
    }

    async fn lanes(&mut self) -> Result<(Lane, Lane), Fault> {
        let credentials = match &self.config.sasl {
            None => None,
            Some((mechanism, path)) => {
                let own = |error| Fault::of("credentials", &error);
                let bytes = read_secret(path, "credentials_file").map_err(own)?;
                let credentials = Credentials::read(&bytes).ok_or_else(|| {
                    Fault::new(
                        "credentials",
                        "credentials_file: it is not user:password on one line",
                    )
                })?;
                Some((*mechanism, credentials))
            }
        };
        let sasl = credentials
            .as_ref()
            .map(|(mechanism, known)| (*mechanism, known));
        let metadata = self.discover(sasl).await?;
        let process = self.lane(Stream::Process, &metadata, sasl).await?;
        let bulk = self.lane(Stream::Bulk, &metadata, sasl).await?;
        Ok((process, bulk))
    }

    /// Asks the configured addresses in turn, each time beginning with another one until one answers.
    async fn discover(
        &mut self,
        sasl: Option<(SaslMechanism, &Credentials)>,
    ) -> Result<Metadata, Fault> {
        let first = self.first;
        self.first = first.wrapping_add(1);
        let count = self.config.remote.addresses.len();
        let mut last = Fault::new("unreachable", "no address");
        for turn in 0..count {
            let place = first.wrapping_add(turn);
            let index = place.checked_rem(count).unwrap_or_default();
            let Some(address) = self.config.remote.addresses.get(index) else {
                continue;
            };
            match self.ask(address, sasl).await {
                Ok(metadata) => {
                    self.first = index;
                    return Ok(metadata);
                }
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn ask(
        &self,
        address: &HostPort,
        sasl: Option<(SaslMechanism, &Credentials)>,
    ) -> Result<Metadata, Fault> {
        let mut broker = self.connect(address, sasl).await?;
        broker.metadata(&self.config.topic).await
    }

    async fn connect(
        &self,
        address: &HostPort,
        sasl: Option<(SaslMechanism, &Credentials)>,
    ) -> Result<Broker, Fault> {
        let tls = self.config.remote.tls(address);
        Broker::connect(address, tls.as_ref(), sasl, &self.names).await
    }

    async fn lane(
        &self,
        stream: Stream,
        metadata: &Metadata,
        sasl: Option<(SaslMechanism, &Credentials)>,
    ) -> Result<Lane, Fault> {
        let agent = Uuid::from_bytes(self.agent_id).to_string();
        let key = batch::key(&agent, stream).into_bytes();
        let topic = self.config.topic.clone();
        let partition = batch::partition(&key, metadata.leaders.len());
        let leader = metadata.leaders.get(partition).copied().unwrap_or(-1);
        let member = metadata.brokers.iter().find(|broker| broker.node == leader);
        let member = member.ok_or_else(|| {
            Fault::new(
                wire::TOPIC,
                format!("topic {topic}: partition {partition} has no leader"),
            )
        })?;
        let broker = self.connect(&member.address()?, sasl).await?;
        let partition = i32::try_from(partition)
            .map_err(|_beyond| Fault::protocol("Metadata: partitions without end"))?;
        let compressed = self.config.compression == KafkaCompression::Zstd
            && broker.produce_version() >= wire::PRODUCE_ZSTD;
        Ok(Lane {
            broker,
            topic,
            partition,
            key,
            agent_id: self.agent_id,
            agent,
            config: self.config.clone(),
            codec: if compressed {
                Codec::Zstd
            } else {
                Codec::Plain
            },
            batch_bytes: self.batch_bytes,
            keep_alive: self.keep_alive,
            opened: None,
            held: None,
            tally: Tally::default(),
        })
    }
}

/// Deals packets to the lane of their stream; the first lane that fails ends both.
async fn session(process: Lane, bulk: Lane, mut packets: Packets, outcomes: Outcomes) -> Fault {
    let (to_process, for_process) = mpsc::channel(MAX_IN_FLIGHT);
    let (to_bulk, for_bulk) = mpsc::channel(MAX_IN_FLIGHT);
    let deal = async {
        while let Some(packet) = packets.recv().await {
            let lane = match packet.id.stream {
                Stream::Process => &to_process,
                Stream::Bulk => &to_bulk,
            };
            if lane.send(packet).await.is_err() {
                break;
            }
        }
        over()
    };
    let process = process.run(for_process, outcomes.clone());
    let bulk = bulk.run(for_bulk, outcomes);
    tokio::select! {
        fault = deal => fault,
        fault = process => fault,
        fault = bulk => fault,
    }
}

fn over() -> Fault {
    Fault::new("closed", "the session is over")
}

/// A stream on its way to the leader of its partition.
#[derive(Debug)]
struct Lane {
    broker: Broker,
    topic: String,
    partition: i32,
    key: Vec<u8>,
    agent_id: [u8; 16],
    agent: String,
    config: KafkaConfig,
    codec: Codec,
    /// Bytes of records in a batch; less after the topic refused one.
    batch_bytes: usize,
    keep_alive: Duration,
    /// The packet that is being taken apart.
    opened: Option<Opened>,
    /// A record that did not fit any more.
    held: Option<(PacketId, Record)>,
    tally: Tally,
}

#[derive(Debug)]
struct Opened {
    id: PacketId,
    /// Of all of its records.
    headers: Vec<(&'static str, String)>,
    parts: Unpacking,
    ready: VecDeque<Message>,
}

/// Records of one request and the packets that they are of.
#[derive(Debug, Default)]
struct Gathered {
    records: Vec<Record>,
    owners: Vec<PacketId>,
    bytes: usize,
}

impl Lane {
    async fn run(mut self, mut packets: Packets, outcomes: Outcomes) -> Fault {
        loop {
            let round = async {
                let gathered = self.gather(&mut packets, &outcomes).await?;
                self.deliver(gathered, &outcomes).await
            };
            if let Err(fault) = round.await {
                return fault;
            }
        }
    }

    /// What there is, up to a batch; waits only for the first record.
    async fn gather(
        &mut self,
        packets: &mut Packets,
        outcomes: &Outcomes,
    ) -> Result<Gathered, Fault> {
        let mut gathered = Gathered::default();
        loop {
            let wait = gathered.records.is_empty();
            let Some((id, record)) = self.next(packets, outcomes, wait).await? else {
                return Ok(gathered);
            };
            let size = record.size(&self.key);
            if !wait && gathered.bytes + size > self.batch_bytes {
                self.held = Some((id, record));
                return Ok(gathered);
            }
            self.tally.sent(id);
            if self.config.format.form().is_none() {
                // Nothing to say yet: its one record is on the way.
                self.tally.whole(id);
            }
            gathered.bytes += size;
            gathered.records.push(record);
            gathered.owners.push(id);
        }
    }

    async fn next(
        &mut self,
        packets: &mut Packets,
        outcomes: &Outcomes,
        wait: bool,
    ) -> Result<Option<(PacketId, Record)>, Fault> {
        loop {
            if let Some(held) = self.held.take() {
                return Ok(Some(held));
            }
            if let Some(opened) = &mut self.opened {
                if let Some(message) = opened.ready.pop_front() {
                    return Ok(Some((opened.id, record(message, &opened.headers))));
                }
                let id = opened.id;
                match opened.parts.next().await {
                    Part::Messages(messages) => {
                        opened.ready = messages.into();
                        continue;
                    }
                    Part::End => {}
                    // Its outcome is said below, with what was sent of it before.
                    Part::Unreadable(why) => drop(self.tally.refused(id, why, false)),
                }
                self.opened = None;
                let outcome = self.tally.whole(id);
                tell(outcomes, id, outcome).await?;
                continue;
            }
            let packet = if wait {
                self.idle(packets).await?
            } else {
                match packets.try_recv() {
                    Ok(packet) => packet,
                    Err(_none) => return Ok(None),
                }
            };
            let (id, headers) = (packet.id, self.headers(&packet));
            match self.config.format.form() {
                None => return Ok(Some((id, self.whole(packet, headers)))),
                Some(form) => {
                    self.opened = Some(Opened {
                        id,
                        headers,
                        parts: Unpacking::begin(form, packet),
                        ready: VecDeque::new(),
                    });
                }
            }
        }
    }

    /// Waits for a packet, and looks after the connection meanwhile.
    async fn idle(&mut self, packets: &mut Packets) -> Result<Entry, Fault> {
        loop {
            tokio::select! {
                packet = packets.recv() => return packet.ok_or_else(over),
                fault = self.broker.broken() => return Err(fault),
                () = tokio::time::sleep(self.keep_alive) => {}
            }
            in_time(self.broker.ask_versions()).await?;
        }
    }

    /// By these a consumer knows what it has seen.
    fn headers(&self, packet: &Entry) -> Vec<(&'static str, String)> {
        let PacketId {
            epoch,
            stream,
            sequence,
        } = packet.id;
        vec![
            ("agent", self.agent.clone()),
            ("epoch", epoch.to_string()),
            ("stream", stream.name().to_owned()),
            ("sequence", sequence.to_string()),
            ("digest", hex(&packet.digest)),
            ("format", self.config.format.name().to_owned()),
        ]
    }

    fn whole(&self, packet: Entry, mut headers: Vec<(&'static str, String)>) -> Record {
        headers.push(("id", packet_id(self.agent_id, packet.id)));
        Record {
            time_ms: packet.sealed_time_ns / 1_000_000,
            headers,
            value: packet.bytes,
        }
    }

    /// Until each of the records is stored or refused for good.
    async fn deliver(&mut self, gathered: Gathered, outcomes: &Outcomes) -> Result<(), Fault> {
        let mut left = vec![gathered];
        while let Some(mut some) = left.pop() {
            let bytes = batch::encode(&self.key, &some.records, self.codec)
                .map_err(|error| Fault::of("protocol", &error))?;
            let asked = self.broker.produce(&self.topic, self.partition, &bytes);
            let produced = in_time(asked).await?;
            drop(bytes);
            let (name, meaning) = wire::meaning(produced.error);
            let why = || {
                let told = produced.message.as_deref();
                let told = told.map_or_else(String::new, |told| format!(": {told}"));
                format!("topic {}: {name} ({}){told}", self.topic, produced.error)
            };
            match meaning {
                _ if produced.error == 0 => {
                    for id in some.owners {
                        let outcome = self.tally.acked(id);
                        tell(outcomes, id, outcome).await?;
                    }
                }
                Meaning::Session(word) => return Err(Fault::new(word, why())),
                Meaning::Records if some.records.len() > 1 => {
                    let half = some.records.len() / 2;
                    self.batch_bytes = (self.batch_bytes / 2).max(LEAST_BATCH_BYTES);
                    left.push(Gathered {
                        records: some.records.split_off(half),
                        owners: some.owners.split_off(half),
                        bytes: 0,
                    });
                    left.push(some);
                }
                Meaning::Records => {
                    for id in some.owners {
                        let outcome = self.tally.refused(id, why(), true);
                        tell(outcomes, id, outcome).await?;
                    }
                }
            }
            let throttle = Duration::from_millis(produced.throttle_ms.max(0).unsigned_abs().into());
            if !throttle.is_zero() {
                tokio::time::sleep(throttle.min(THROTTLE_MAX)).await;
            }
        }
        Ok(())
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::time::timeout(ANSWER, answer)
        .await
        .map_err(|_elapsed| Fault::new("silent", format!("no answer within {ANSWER:?}")))?
}

/// Reads an answer as each of those that a broker gives; how many of them it can be. For fuzzing: all of it is the broker's.
#[must_use]
pub fn readable(answer: &[u8]) -> usize {
    const ANY: &str = "events";
    let versions = wire::versions(answer).is_ok();
    let metadata = Metadata::read(answer, ANY).is_ok_and(|metadata| {
        let addresses = metadata.brokers.iter().map(wire::Member::address);
        addresses.filter(Result::is_ok).count() <= metadata.brokers.len()
    });
    let produced = (3..=8).filter(|&version| Produced::read(answer, version, ANY, 0).is_ok());
    usize::from(versions) + usize::from(metadata) + produced.count()
}

async fn tell(outcomes: &Outcomes, id: PacketId, outcome: Option<Outcome>) -> Result<(), Fault> {
    match outcome {
        None => Ok(()),
        Some(outcome) => outcomes.send((id, outcome)).await.map_err(|_nobody| over()),
    }
}

fn record(message: Message, headers: &[(&'static str, String)]) -> Record {
    let mut headers = headers.to_vec();
    headers.push(("id", message.id));
    headers.push(("type", message.event_type.short_name().to_owned()));
    Record {
        time_ms: message.time_ns / 1_000_000,
        headers,
        value: message.line,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
