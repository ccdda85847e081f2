//! The part of Kafka's protocol that a producer needs: what is asked, byte by byte, and what the answers say. Versions are those
//! from before the "flexible" encoding (KIP-482); every broker from 1.0 to 4.x has them. Refuses to believe a length: what is
//! not in the frame is an error, and nothing is reserved for what is only announced.

use crate::config::HostPort;
use crate::sink::delivery::{Fault, printable};

/// `Produce`.
pub(super) const PRODUCE: i16 = 0;
/// `Metadata`.
pub(super) const METADATA: i16 = 3;
/// `SaslHandshake`.
pub(super) const SASL_HANDSHAKE: i16 = 17;
/// `ApiVersions`.
pub(super) const API_VERSIONS: i16 = 18;
/// `SaslAuthenticate`.
pub(super) const SASL_AUTHENTICATE: i16 = 36;

/// The first that says whether a topic may be created by asking for it.
pub(super) const METADATA_VERSION: i16 = 4;
/// The first with headers.
const PRODUCE_LEAST: i16 = 3;
/// The last before the flexible encoding; it says why a record is refused.
const PRODUCE_MOST: i16 = 8;
/// The first at which brokers take zstd (KIP-110).
pub(super) const PRODUCE_ZSTD: i16 = 7;
/// Answers of a first version, which has raw bytes inside of it.
pub(super) const SASL_HANDSHAKE_VERSION: i16 = 1;

/// Who we are in the broker's logs.
const CLIENT_ID: &str = "sensor";
/// How long the leader may wait for its followers before it says that they are too slow, ms.
const REPLICATION_TIMEOUT_MS: i32 = 30_000;

/// Why an answer cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// It ends before its time.
    #[error("it is too short")]
    Short,
    /// A length below zero.
    #[error("a length of {0}")]
    Length(i32),
    /// Text that is not UTF-8.
    #[error("text that is not UTF-8")]
    NotText,
}

/// A request under construction: its length, its header, and what is written after them.
#[derive(Debug)]
pub(super) struct Request(Vec<u8>);

impl Request {
    pub(super) fn new(api: i16, version: i16, correlation: i32) -> Self {
        let mut request = Self(vec![0; 4]);
        request.i16(api);
        request.i16(version);
        request.i32(correlation);
        request.text(CLIENT_ID);
        request
    }

    pub(super) fn i16(&mut self, number: i16) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    pub(super) fn i32(&mut self, number: i32) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    pub(super) fn boolean(&mut self, value: bool) {
        self.0.push(u8::from(value));
    }

    /// At most 32,767 bytes: names are checked by the configuration.
    pub(super) fn text(&mut self, text: &str) {
        let length = i16::try_from(text.len()).unwrap_or_default();
        self.i16(length);
        let kept = usize::try_from(length).unwrap_or_default();
        self.0
            .extend_from_slice(text.as_bytes().get(..kept).unwrap_or_default());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        self.0.extend_from_slice(bytes);
    }

    /// With the length in front.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = self.0.len().saturating_sub(4);
        let length = i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes();
        if let Some(place) = self.0.first_chunk_mut() {
            *place = length;
        }
        self.0
    }
}

/// What is left of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.chunk()?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.chunk()?))
    }

    fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.chunk()?))
    }

    fn boolean(&mut self) -> Result<bool, WireError> {
        Ok(self.chunk::<1>()? != [0])
    }

    /// None: the text is null.
    pub(super) fn text(&mut self) -> Result<Option<String>, WireError> {
        let length = self.i16()?;
        if length == -1 {
            return Ok(None);
        }
        let length =
            usize::try_from(length).map_err(|_negative| WireError::Length(length.into()))?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_other| WireError::NotText)?;
        Ok(Some(text.to_owned()))
    }

    /// Null is empty.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.i32()?;
        if length == -1 {
            return Ok(&[]);
        }
        let length = usize::try_from(length).map_err(|_negative| WireError::Length(length))?;
        self.take(length)
    }

    /// Null is empty. Every item has at least a byte, so that the list is no longer than the frame.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = self.i32()?;
        if count < -1 {
            return Err(WireError::Length(count));
        }
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }
}

/// The versions that a broker has of what we ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Versions {
    /// Of `Produce`.
    pub(super) produce: i16,
}

/// What a broker says that it has.
pub(super) fn versions(answer: &[u8]) -> Result<Versions, Fault> {
    let broken = broken("ApiVersions");
    let mut reader = Reader::new(answer);
    let error = reader.i16().map_err(&broken)?;
    if error != 0 {
        return Err(fault(error, "ApiVersions"));
    }
    let known = reader
        .list(|reader| Ok((reader.i16()?, reader.i16()?, reader.i16()?)))
        .map_err(&broken)?;
    let best = |api: i16, least: i16, most: i16| {
        let (_, from, to) = known.iter().find(|(key, _, _)| *key == api)?;
        let version = most.min(*to);
        (version >= least.max(*from)).then_some(version)
    };
    let lacks =
        |what: &str| Fault::protocol(format!("the broker has no version of {what} that we speak"));
    best(METADATA, METADATA_VERSION, METADATA_VERSION).ok_or_else(|| lacks("Metadata"))?;
    let produce = best(PRODUCE, PRODUCE_LEAST, PRODUCE_MOST).ok_or_else(|| lacks("Produce"))?;
    Ok(Versions { produce })
}

/// Asks for one topic, which is not created by that.
pub(super) fn metadata_request(request: &mut Request, topic: &str) {
    request.i32(1);
    request.text(topic);
    request.boolean(false);
}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) node: i32,
    pub(super) host: String,
    pub(super) port: i32,
}

impl Member {
    /// Where to connect, if it makes sense.
    pub(super) fn address(&self) -> Result<HostPort, Fault> {
        let Self { host, port, .. } = self;
        let typed = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        typed.parse().map_err(|_problem| {
            let typed = printable(&typed);
            Fault::protocol(format!(
                "Metadata: a broker at `{typed}`, which is no address"
            ))
        })
    }
}

/// The cluster and the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) brokers: Vec<Member>,
    /// Leader of each partition by index; -1: none now.
    pub(super) leaders: Vec<i32>,
}

impl Metadata {
    pub(super) fn read(answer: &[u8], topic: &str) -> Result<Self, Fault> {
        let broken = broken("Metadata");
        let mut reader = Reader::new(answer);
        let (brokers, topics) = Self::parts(&mut reader).map_err(broken)?;
        let (error, _, partitions) = topics
            .into_iter()
            .find(|(_, name, _)| name.as_deref() == Some(topic))
            .ok_or_else(|| Fault::protocol("Metadata: an answer without the topic"))?;
        if error != 0 {
            return Err(fault(error, &format!("topic {topic}")));
        }
        // In any order; what is not told has no leader.
        let mut leaders = vec![-1; partitions.len()];
        for (index, leader) in partitions {
            let slot = usize::try_from(index)
                .ok()
                .and_then(|index| leaders.get_mut(index));
            *slot.ok_or_else(|| {
                Fault::protocol(format!("Metadata: partition {index} beyond their number"))
            })? = leader;
        }
        if leaders.is_empty() {
            return Err(Fault::new(
                TOPIC,
                format!("topic {topic} has no partitions"),
            ));
        }
        Ok(Self { brokers, leaders })
    }

    fn parts(reader: &mut Reader<'_>) -> Result<(Vec<Member>, Vec<Topic>), WireError> {
        let _throttle_ms = reader.i32()?;
        let brokers = reader.list(|reader| {
            let member = Member {
                node: reader.i32()?,
                host: reader.text()?.unwrap_or_default(),
                port: reader.i32()?,
            };
            let _rack = reader.text()?;
            Ok(member)
        })?;
        let _cluster = reader.text()?;
        let _controller = reader.i32()?;
        let topics = reader.list(|reader| {
            let error = reader.i16()?;
            let name = reader.text()?;
            let _internal = reader.boolean()?;
            let partitions = reader.list(|reader| {
                let _error = reader.i16()?;
                let index = reader.i32()?;
                let leader = reader.i32()?;
                reader.list(Reader::i32)?;
                reader.list(Reader::i32)?;
                Ok((index, leader))
            })?;
            Ok((error, name, partitions))
        })?;
        Ok((brokers, topics))
    }
}

/// Error, name, and the index and leader of each partition.
type Topic = (i16, Option<String>, Vec<(i32, i32)>);

/// Asks a leader to append a batch, and to answer when all replicas that count have it.
pub(super) fn produce_request(request: &mut Request, topic: &str, partition: i32, batch: &[u8]) {
    // No transaction.
    request.i16(-1);
    // All of them.
    request.i16(-1);
    request.i32(REPLICATION_TIMEOUT_MS);
    request.i32(1);
    request.text(topic);
    request.i32(1);
    request.i32(partition);
    request.bytes(batch);
}

/// What a leader says of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Produced {
    /// 0: it is stored.
    pub(super) error: i16,
    /// More of it, for people.
    pub(super) message: Option<String>,
    /// How long the broker wants to be left alone, ms.
    pub(super) throttle_ms: i32,
}

impl Produced {
    pub(super) fn read(
        answer: &[u8],
        version: i16,
        topic: &str,
        partition: i32,
    ) -> Result<Self, Fault> {
        let mut reader = Reader::new(answer);
        let (answers, throttle_ms) =
            Self::parts(&mut reader, version).map_err(broken("Produce"))?;
        let mut own = answers
            .into_iter()
            .filter(|(name, _)| name.as_deref() == Some(topic))
            .flat_map(|(_, partitions)| partitions)
            .filter(|(index, _, _)| *index == partition);
        let (_, error, message) = own
            .next()
            .ok_or_else(|| Fault::protocol("Produce: an answer without the partition"))?;
        Ok(Self {
            error,
            message: message.as_deref().map(printable),
            throttle_ms,
        })
    }

    #[expect(
        clippy::type_complexity,
        reason = "the nesting is that of the answer, and is read once"
    )]
    fn parts(
        reader: &mut Reader<'_>,
        version: i16,
    ) -> Result<(Vec<(Option<String>, Vec<(i32, i16, Option<String>)>)>, i32), WireError> {
        let answers = reader.list(|reader| {
            let name = reader.text()?;
            let partitions = reader.list(|reader| {
                let index = reader.i32()?;
                let error = reader.i16()?;
                let _offset = reader.i64()?;
                let _append_time = reader.i64()?;
                if version >= 5 {
                    let _start = reader.i64()?;
                }
                let mut message = None;
                if version >= 8 {
                    let records = reader.list(|reader| {
                        let _index = reader.i32()?;
                        reader.text()
                    })?;
                    message = reader
                        .text()?
                        .or_else(|| records.into_iter().flatten().next());
                }
                Ok((index, error, message))
            })?;
            Ok((name, partitions))
        })?;
        Ok((answers, reader.i32()?))
    }
}

/// Makes the fault of an answer that cannot be read.
pub(super) fn broken(what: &'static str) -> impl Fn(WireError) -> Fault {
    move |error| Fault::protocol(format!("{what}: the answer cannot be read: {error}"))
}

/// Word of faults that are the topic's: it is not there, or has no leader.
pub(super) const TOPIC: &str = "topic";

/// What becomes of records that a broker does not store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Not these records in one batch, or one of them not at all.
    Records,
    /// The session ends with this word.
    Session(&'static str),
}

/// What an error code means; the names are those of Kafka's list of errors.
pub(super) const fn meaning(code: i16) -> (&'static str, Meaning) {
    use Meaning::{Records, Session};
    match code {
        3 => ("UNKNOWN_TOPIC_OR_PARTITION", Session(TOPIC)),
        5 => ("LEADER_NOT_AVAILABLE", Session(TOPIC)),
        17 => ("INVALID_TOPIC_EXCEPTION", Session(TOPIC)),
        10 => ("MESSAGE_TOO_LARGE", Records),
        18 => ("RECORD_LIST_TOO_LARGE", Records),
        32 => ("INVALID_TIMESTAMP", Records),
        87 => ("INVALID_RECORD", Records),
        29 => ("TOPIC_AUTHORIZATION_FAILED", Session(REFUSED)),
        31 => ("CLUSTER_AUTHORIZATION_FAILED", Session(REFUSED)),
        33 => ("UNSUPPORTED_SASL_MECHANISM", Session(REFUSED)),
        34 => ("ILLEGAL_SASL_STATE", Session(REFUSED)),
        54 => ("SECURITY_DISABLED", Session(REFUSED)),
        58 => ("SASL_AUTHENTICATION_FAILED", Session(REFUSED)),
        44 => ("POLICY_VIOLATION", Session(REFUSED)),
        35 => ("UNSUPPORTED_VERSION", Session(PROTOCOL)),
        42 => ("INVALID_REQUEST", Session(PROTOCOL)),
        43 => ("UNSUPPORTED_FOR_MESSAGE_FORMAT", Session(PROTOCOL)),
        76 => ("UNSUPPORTED_COMPRESSION_TYPE", Session(PROTOCOL)),
        2 => ("CORRUPT_MESSAGE", Session(RETRY)),
        6 => ("NOT_LEADER_OR_FOLLOWER", Session(RETRY)),
        7 => ("REQUEST_TIMED_OUT", Session(RETRY)),
        8 => ("BROKER_NOT_AVAILABLE", Session(RETRY)),
        13 => ("NETWORK_EXCEPTION", Session(RETRY)),
        19 => ("NOT_ENOUGH_REPLICAS", Session(RETRY)),
        20 => ("NOT_ENOUGH_REPLICAS_AFTER_APPEND", Session(RETRY)),
        56 => ("KAFKA_STORAGE_ERROR", Session(RETRY)),
        74 => ("FENCED_LEADER_EPOCH", Session(RETRY)),
        75 => ("UNKNOWN_LEADER_EPOCH", Session(RETRY)),
        89 => ("THROTTLING_QUOTA_EXCEEDED", Session(RETRY)),
        _ => ("another error", Session(RETRY)),
    }
}

const REFUSED: &str = "refused";
const RETRY: &str = "retry";
const PROTOCOL: &str = crate::sink::delivery::PROTOCOL;

/// An error code as the end of a session.
pub(super) fn fault(code: i16, what: &str) -> Fault {
    let (name, meaning) = meaning(code);
    let word = match meaning {
        Meaning::Session(word) => word,
        Meaning::Records => RETRY,
    };
    Fault::new(word, format!("{what}: {name} ({code})"))
}

#[cfg(test)]
mod tests;
