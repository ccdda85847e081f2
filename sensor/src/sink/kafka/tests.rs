//! Sessions with a broker in this process, which is told how to misbehave. Everything waits on conditions.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what a manner does not change is as it should be"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::config::{RemoteConfig, SinkFormat, TlsConfig};
use crate::sink::delivery::tests::Pki;
use crate::sink::messages::tests::{AGENT, entry};

/// Generous: CI compiles and runs guests at the same time.
const LONG: Duration = Duration::from_secs(60);
const TOPIC: &str = "events";
const PARTITIONS: i32 = 5;

/// How the broker behaves from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// As it should.
    Good,
    /// Answers in another protocol.
    Garbage,
    /// Announces an answer of 2 GiB.
    Huge,
    /// Announces one below zero.
    Negative,
    /// Says nothing.
    Silent,
    /// Closes at the first question.
    HangsUp,
    /// Answers a question that was not asked.
    WrongNumber,
    /// Says more than it was asked.
    Talks,
    /// Knows only what Kafka had before it had headers.
    Old,
    /// A list of versions without end.
    Endless,
    /// An error for the topic.
    Topic(i16),
    /// Nobody leads the partitions.
    Leaderless,
    /// Its own name is none.
    Nowhere,
    /// An error for each batch.
    Refuses(i16),
    /// Speaks of another partition.
    Elsewhere,
    /// Closes at the first batch.
    Falls,
    /// Batches of more records than this, and values longer than 10,000 bytes, are too large.
    Narrow(usize),
    /// Asks for pauses.
    Throttles,
    /// An error for whoever makes themselves known.
    Denies(i16),
}

/// A record as it was stored.
#[derive(Clone, Debug)]
struct Stored {
    partition: i32,
    key: String,
    value: Vec<u8>,
    headers: BTreeMap<String, String>,
}

#[derive(Clone)]
struct Cluster {
    manner: Arc<Mutex<Manner>>,
    stored: Arc<Mutex<Vec<Stored>>>,
    /// Each kind of question that was asked, and at which version.
    asked: Arc<Mutex<Vec<(i16, i16)>>>,
    logins: Arc<Mutex<Vec<Vec<u8>>>>,
    /// All connections end when it changes.
    closing: watch::Sender<u32>,
    produce: (i16, i16),
    address: SocketAddr,
}

fn number<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (head, rest) = bytes.split_first_chunk().unwrap();
    *bytes = rest;
    *head
}

fn text(bytes: &mut &[u8]) -> String {
    let length = i16::from_be_bytes(number(bytes));
    let (head, rest) = bytes.split_at(length.try_into().unwrap());
    *bytes = rest;
    String::from_utf8(head.to_vec()).unwrap()
}

fn varint(bytes: &mut &[u8]) -> i64 {
    let (mut value, mut shift) = (0_u64, 0);
    loop {
        let [byte] = number(bytes);
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return (value >> 1).cast_signed() ^ -(value & 1).cast_signed();
        }
    }
}

fn blob(bytes: &mut &[u8]) -> Vec<u8> {
    let length = usize::try_from(varint(bytes)).unwrap();
    let (head, rest) = bytes.split_at(length);
    *bytes = rest;
    head.to_vec()
}

/// Reads a batch as the format's description has it.
fn records(partition: i32, batch: &[u8]) -> Vec<Stored> {
    assert_eq!(batch[16], 2);
    let checked = &batch[21..];
    assert_eq!(batch[17..21], crc32c::crc32c(checked).to_be_bytes());
    let codec = i16::from_be_bytes(checked[..2].try_into().unwrap());
    let count = i32::from_be_bytes(checked[36..40].try_into().unwrap());
    let mut body = checked[40..].to_vec();
    if codec == 4 {
        body = zstd::bulk::decompress(&body, 16 << 20).unwrap();
    } else {
        assert_eq!(codec, 0);
    }
    let mut rest = body.as_slice();
    let mut found = Vec::new();
    for offset in 0..count {
        let record = blob(&mut rest);
        let mut record = record.as_slice();
        let [attributes] = number(&mut record);
        assert_eq!(attributes, 0);
        let _after_ms = varint(&mut record);
        assert_eq!(varint(&mut record), i64::from(offset));
        let key = String::from_utf8(blob(&mut record)).unwrap();
        let value = blob(&mut record);
        let headers = (0..varint(&mut record)).map(|_| {
            let mut text = || String::from_utf8(blob(&mut record)).unwrap();
            (text(), text())
        });
        let headers = headers.collect();
        assert_eq!(record, b"");
        found.push(Stored {
            partition,
            key,
            value,
            headers,
        });
    }
    assert_eq!(rest, b"");
    found
}

impl Cluster {
    async fn start(manner: Manner) -> Self {
        Self::with(manner, None, (3, 13)).await
    }

    async fn with(
        manner: Manner,
        tls: Option<tokio_rustls::TlsAcceptor>,
        produce: (i16, i16),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = Self {
            manner: Arc::new(Mutex::new(manner)),
            stored: Arc::default(),
            asked: Arc::default(),
            logins: Arc::default(),
            closing: watch::Sender::new(0),
            produce,
            address: listener.local_addr().unwrap(),
        };
        let own = cluster.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (own, tls) = (own.clone(), tls.clone());
                tokio::spawn(async move {
                    // Whoever gives up or is not believed is no matter of the broker's.
                    match tls {
                        None => drop(own.serve(stream).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(own.serve(stream).await);
                            }
                        }
                    }
                });
            }
        });
        cluster
    }

    fn be(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn stored(&self) -> Vec<Stored> {
        self.stored.lock().unwrap().clone()
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let mut closing = self.closing.subscribe();
        loop {
            let mut length = [0; 4];
            tokio::select! {
                read = stream.read_exact(&mut length) => drop(read?),
                _ = closing.changed() => return Ok(()),
            }
            let length = usize::try_from(i32::from_be_bytes(length)).unwrap();
            assert!(length < 2 << 20, "a question of {length} bytes");
            let mut question = vec![0; length];
            stream.read_exact(&mut question).await?;
            let manner = *self.manner.lock().unwrap();
            match manner {
                Manner::Garbage => stream.write_all(b"HTTP/1.1 400 No\r\n\r\n").await?,
                Manner::Huge => stream.write_all(&i32::MAX.to_be_bytes()).await?,
                Manner::Negative => stream.write_all(&(-1_i32).to_be_bytes()).await?,
                Manner::Silent => {}
                Manner::HangsUp => return Ok(()),
                _ => {
                    let Some(mut answer) = self.answer(manner, &question) else {
                        return Ok(());
                    };
                    if manner == Manner::WrongNumber {
                        answer[0] ^= 1;
                    }
                    let length = i32::try_from(answer.len()).unwrap();
                    let mut bytes = length.to_be_bytes().to_vec();
                    bytes.append(&mut answer);
                    if manner == Manner::Talks {
                        bytes.extend([0; 3]);
                    }
                    // At once: two small writes would wait for each other.
                    stream.write_all(&bytes).await?;
                }
            }
            stream.flush().await?;
        }
    }

    /// None: the connection ends.
    fn answer(&self, manner: Manner, mut question: &[u8]) -> Option<Vec<u8>> {
        let question = &mut question;
        let api = i16::from_be_bytes(number(question));
        let version = i16::from_be_bytes(number(question));
        let correlation: [u8; 4] = number(question);
        assert_eq!(text(question), "sensor");
        self.asked.lock().unwrap().push((api, version));
        let mut answer = correlation.to_vec();
        match api {
            wire::API_VERSIONS => {
                let produce = if manner == Manner::Old {
                    (0, 2)
                } else {
                    self.produce
                };
                let count = if manner == Manner::Endless {
                    i32::MAX
                } else {
                    2
                };
                answer.extend([0, 0]);
                answer.extend(count.to_be_bytes());
                for number in [0, produce.0, produce.1, 3, 0, 12] {
                    answer.extend(i16::to_be_bytes(number));
                }
            }
            wire::SASL_HANDSHAKE => {
                let known = text(question) == "PLAIN" && manner != Manner::Denies(33);
                answer.extend(if known { 0_i16 } else { 33 }.to_be_bytes());
                answer.extend(1_i32.to_be_bytes());
                answer.extend(b"\0\x05PLAIN");
            }
            wire::SASL_AUTHENTICATE => {
                let length = i32::from_be_bytes(number(question));
                assert_eq!(question.len(), usize::try_from(length).unwrap());
                self.logins.lock().unwrap().push(question.to_vec());
                let error = match manner {
                    Manner::Denies(error) => error,
                    _ => 0,
                };
                answer.extend(error.to_be_bytes());
                answer.extend(b"\0\x04who?\0\0\0\0");
            }
            wire::METADATA => {
                assert_eq!(question[..], *b"\0\0\0\x01\0\x06events\0");
                answer.extend([0; 4]);
                answer.extend(1_i32.to_be_bytes());
                answer.extend(7_i32.to_be_bytes());
                // A name, so that it must be looked up.
                let name = if manner == Manner::Nowhere {
                    "no where"
                } else {
                    "localhost"
                };
                answer.extend(i16::try_from(name.len()).unwrap().to_be_bytes());
                answer.extend(name.as_bytes());
                answer.extend(i32::from(self.address.port()).to_be_bytes());
                answer.extend(b"\0\x04rack\xff\xff");
                answer.extend(7_i32.to_be_bytes());
                let error = match manner {
                    Manner::Topic(error) => error,
                    _ => 0,
                };
                answer.extend(1_i32.to_be_bytes());
                answer.extend(error.to_be_bytes());
                answer.extend(b"\0\x06events\0");
                let partitions = if error == 0 { PARTITIONS } else { 0 };
                answer.extend(partitions.to_be_bytes());
                for partition in (0..partitions).rev() {
                    let leader = if manner == Manner::Leaderless { -1 } else { 7 };
                    answer.extend([0, 0]);
                    for number in [partition, leader, 1, 7, 1, 7] {
                        answer.extend(i32::to_be_bytes(number));
                    }
                }
            }
            wire::PRODUCE => {
                if manner == Manner::Falls {
                    return None;
                }
                answer.extend(self.produced(manner, version, question));
            }
            other => panic!("question {other}"),
        }
        Some(answer)
    }

    fn produced(&self, manner: Manner, version: i16, question: &mut &[u8]) -> Vec<u8> {
        // No transaction, all replicas.
        assert_eq!(number(question), [0xff; 4]);
        assert_eq!(i32::from_be_bytes(number(question)), 30_000);
        assert_eq!(number(question), 1_i32.to_be_bytes());
        assert_eq!(text(question), TOPIC);
        assert_eq!(number(question), 1_i32.to_be_bytes());
        let partition = i32::from_be_bytes(number(question));
        let length = i32::from_be_bytes(number(question));
        assert_eq!(question.len(), usize::try_from(length).unwrap());
        let records = records(partition, question);
        let error = match manner {
            Manner::Refuses(error) => error,
            Manner::Narrow(most)
                if records.len() > most
                    || records.iter().any(|record| record.value.len() > 10_000) =>
            {
                10
            }
            _ => 0,
        };
        if error == 0 && manner != Manner::Elsewhere {
            self.stored.lock().unwrap().extend(records);
        }
        let mut answer = 1_i32.to_be_bytes().to_vec();
        answer.extend(b"\0\x06events\0\0\0\x01");
        let told = if manner == Manner::Elsewhere {
            99
        } else {
            partition
        };
        answer.extend(told.to_be_bytes());
        answer.extend(error.to_be_bytes());
        answer.extend([0; 16]);
        if version >= 5 {
            answer.extend([0; 8]);
        }
        if version >= 8 {
            answer.extend(b"\0\0\0\0\0\x07why \x1b[m");
        }
        let throttle = if manner == Manner::Throttles { 1 } else { 0 };
        answer.extend(i32::to_be_bytes(throttle));
        answer
    }

    fn config(&self, format: SinkFormat, tls: Option<TlsConfig>) -> KafkaConfig {
        let compression = match format {
            SinkFormat::Native => KafkaCompression::None,
            SinkFormat::Json | SinkFormat::Ecs | SinkFormat::Ocsf => KafkaCompression::Zstd,
        };
        KafkaConfig {
            remote: RemoteConfig::for_tests(&[self.address], tls),
            topic: TOPIC.to_owned(),
            format,
            compression,
            sasl: None,
        }
    }

    fn sink(&self, format: SinkFormat) -> Kafka {
        Kafka::new(self.config(format, None), AGENT)
    }
}

/// Sends packets and waits for what becomes of each.
async fn send(
    session: &mut Piped,
    packets: &[Entry],
) -> Result<BTreeMap<PacketId, Outcome>, Fault> {
    for packet in packets {
        session.send(packet)?;
    }
    let mut outcomes = BTreeMap::new();
    while outcomes.len() < packets.len() {
        let next = tokio::time::timeout(LONG, session.outcome());
        let (id, outcome) = next.await.expect("an outcome")?;
        assert_eq!(outcomes.insert(id, outcome), None);
    }
    Ok(outcomes)
}

/// Ends of ids, in the order of the log.
fn counters(stored: &[Stored]) -> Vec<u64> {
    let ids = stored.iter().map(|record| &record.headers["id"]);
    ids.map(|id| id.rsplit_once('/').unwrap().1.parse().unwrap())
        .collect()
}

fn in_bulk(mut packet: Entry) -> Entry {
    packet.id.stream = Stream::Bulk;
    packet
}

#[tokio::test]
async fn events_come_as_records_in_order_and_with_their_names() {
    for produce in [(3, 3), (0, 5), (3, 7), (8, 13)] {
        let cluster = Cluster::with(Manner::Good, None, produce).await;
        let (mut session, terms) = cluster.sink(SinkFormat::Json).open().await.unwrap();
        assert_eq!(terms.max_packet_bytes, PACKET_MAX_BYTES);
        // The third is a heartbeat; the last is of the other stream.
        let packets = [
            entry(1, 700, 2_000),
            entry(2, 3, 10),
            entry(3, 0, 0),
            in_bulk(entry(4, 5, 10)),
        ];
        let outcomes = send(&mut session, &packets).await.unwrap();
        assert!(
            outcomes.values().all(|outcome| *outcome == Outcome::Acked),
            "{outcomes:?}"
        );
        let stored = cluster.stored();
        let (process, bulk): (Vec<_>, Vec<_>) = stored
            .into_iter()
            .partition(|record| record.key.ends_with("/process"));
        let expected: Vec<u64> = (10_000..10_700).chain(20_000..20_003).collect();
        assert_eq!(counters(&process), expected);
        assert_eq!(counters(&bulk), (40_000..40_005).collect::<Vec<u64>>());
        for records in [&process, &bulk] {
            let keys: BTreeSet<_> = records
                .iter()
                .map(|record| (&record.key, record.partition))
                .collect();
            assert_eq!(keys.len(), 1);
        }
        let first = &process[0];
        assert_eq!(first.key, "01010101-0101-0101-0101-010101010101/process");
        let line: serde_json::Value = serde_json::from_slice(&first.value).unwrap();
        assert_eq!(line["id"], first.headers["id"]);
        let header = |name: &str| first.headers[name].as_str();
        assert_eq!(header("agent"), "01010101-0101-0101-0101-010101010101");
        assert_eq!(header("epoch"), "02".repeat(16));
        assert_eq!(header("stream"), "process");
        assert_eq!(header("sequence"), "1");
        assert_eq!(header("digest"), hex(&packets[0].digest));
        assert_eq!(header("format"), "json");
        assert_eq!(header("type"), "exit");
    }
}

#[tokio::test]
async fn packets_come_as_they_are() {
    let cluster = Cluster::start(Manner::Good).await;
    let (mut session, _) = cluster.sink(SinkFormat::Native).open().await.unwrap();
    let packets = [entry(1, 3, 10), entry(2, 0, 0)];
    let outcomes = send(&mut session, &packets).await.unwrap();
    assert!(
        outcomes.values().all(|outcome| *outcome == Outcome::Acked),
        "{outcomes:?}"
    );
    let stored = cluster.stored();
    assert_eq!(stored.len(), 2);
    for (record, packet) in stored.iter().zip(&packets) {
        assert_eq!(record.value, packet.bytes);
        assert_eq!(record.headers["id"], packet_id(AGENT, packet.id));
        assert_eq!(record.headers["format"], "native");
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_refused_alone() {
    let cluster = Cluster::start(Manner::Throttles).await;
    let (mut session, _) = cluster.sink(SinkFormat::Ecs).open().await.unwrap();
    let mut broken = entry(2, 3, 10);
    broken.bytes.truncate(40);
    let packets = [entry(1, 3, 10), broken, entry(3, 3, 10)];
    let outcomes = send(&mut session, &packets).await.unwrap();
    assert!(
        matches!(outcomes[&packets[1].id], Outcome::Rejected { .. }),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[&packets[0].id], Outcome::Acked);
    assert_eq!(outcomes[&packets[2].id], Outcome::Acked);
    assert_eq!(cluster.stored().len(), 6);
}

#[tokio::test]
async fn batches_shrink_to_what_the_topic_takes() {
    for most in [1, 3, 40] {
        let cluster = Cluster::start(Manner::Narrow(most)).await;
        let (mut session, _) = cluster.sink(SinkFormat::Json).open().await.unwrap();
        // The one in the middle is too large in any company.
        let packets = [entry(1, 100, 10), entry(2, 2, 20_000), entry(3, 100, 10)];
        let outcomes = send(&mut session, &packets).await.unwrap();
        assert_eq!(outcomes[&packets[0].id], Outcome::Acked);
        assert_eq!(outcomes[&packets[2].id], Outcome::Acked);
        let Outcome::Rejected { why } = &outcomes[&packets[1].id] else {
            panic!("{outcomes:?}");
        };
        assert!(
            why.contains("MESSAGE_TOO_LARGE (10): why \u{fffd}[m"),
            "{why}"
        );
        let expected: Vec<u64> = (10_000..10_100).chain(30_000..30_100).collect();
        assert_eq!(counters(&cluster.stored()), expected);
    }
}

#[tokio::test]
async fn a_broker_that_misbehaves_ends_the_session_with_a_word() {
    for (manner, word) in [
        (Manner::Garbage, "protocol"),
        (Manner::Huge, "protocol"),
        (Manner::Negative, "protocol"),
        (Manner::HangsUp, "closed"),
        (Manner::WrongNumber, "protocol"),
        (Manner::Talks, "protocol"),
        (Manner::Old, "protocol"),
        (Manner::Endless, "protocol"),
        (Manner::Topic(3), "topic"),
        (Manner::Topic(5), "topic"),
        (Manner::Topic(29), "refused"),
        (Manner::Leaderless, "topic"),
        (Manner::Nowhere, "protocol"),
        (Manner::Refuses(6), "retry"),
        (Manner::Refuses(7), "retry"),
        (Manner::Refuses(-1), "retry"),
        (Manner::Refuses(3), "topic"),
        (Manner::Refuses(29), "refused"),
        (Manner::Refuses(76), "protocol"),
        (Manner::Elsewhere, "protocol"),
        (Manner::Falls, "closed"),
    ] {
        let cluster = Cluster::start(manner).await;
        let mut sink = cluster.sink(SinkFormat::Json);
        let packets = [entry(1, 3, 10)];
        let fault = match sink.open().await {
            Err(fault) => fault,
            Ok((mut session, _)) => send(&mut session, &packets).await.unwrap_err(),
        };
        assert_eq!(fault.word, word, "{manner:?}: {fault}");
        assert!(!fault.why.contains(char::is_control), "{manner:?}: {fault}");
        assert!(cluster.stored().is_empty());
        // The same sink goes on when the broker does.
        cluster.be(Manner::Good);
        let (mut session, _) = sink.open().await.unwrap();
        let outcomes = send(&mut session, &packets).await.unwrap();
        assert_eq!(outcomes[&packets[0].id], Outcome::Acked);
        assert_eq!(cluster.stored().len(), 3);
    }
}

#[tokio::test]
async fn a_silent_broker_is_given_up() {
    let cluster = Cluster::start(Manner::Silent).await;
    let mut config = cluster.config(SinkFormat::Json, None);
    config.remote.connect_timeout = Duration::from_millis(50);
    let fault = Kafka::new(config, AGENT).open().await.unwrap_err();
    assert_eq!(fault.word, "timeout", "{fault}");
}

#[tokio::test]
async fn an_address_that_does_not_answer_gives_way_to_the_next() {
    let cluster = Cluster::start(Manner::Good).await;
    let mut config = cluster.config(SinkFormat::Json, None);
    let nobody: SocketAddr = ([127, 0, 0, 2], cluster.address.port()).into();
    config.remote = RemoteConfig::for_tests(&[nobody, cluster.address, nobody], None);
    let mut sink = Kafka::new(config, AGENT);
    for _ in 0..3 {
        sink.open().await.unwrap();
        assert_eq!(sink.first, 1);
    }
    sink.config.remote = RemoteConfig::for_tests(&[nobody], None);
    let fault = sink.open().await.unwrap_err();
    assert_eq!(fault.word, "unreachable", "{fault}");
}

#[tokio::test]
async fn an_idle_connection_is_kept_and_its_end_noticed() {
    let cluster = Cluster::start(Manner::Good).await;
    let mut sink = cluster.sink(SinkFormat::Json);
    sink.keep_alive = Duration::from_millis(1);
    let (mut session, _) = sink.open().await.unwrap();
    let asked = || {
        let asked = cluster.asked.lock().unwrap();
        asked
            .iter()
            .filter(|(api, _)| *api == wire::API_VERSIONS)
            .count()
    };
    let deadline = tokio::time::Instant::now() + LONG;
    while asked() < 20 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    send(&mut session, &[entry(1, 3, 10)]).await.unwrap();
    assert_eq!(cluster.stored().len(), 3);
    // The broker closes what has nothing to say.
    let mut sink = cluster.sink(SinkFormat::Json);
    let (mut session, _) = sink.open().await.unwrap();
    cluster.closing.send_modify(|times| *times += 1);
    let ended = tokio::time::timeout(LONG, session.outcome()).await.unwrap();
    let fault = ended.unwrap_err();
    assert_eq!(fault.word, "closed", "{fault}");
}

#[tokio::test]
async fn tls_is_believed_only_as_configured() {
    let pki = Pki::new();
    let good = Cluster::with(Manner::Good, Some(pki.server("ca")), (3, 13)).await;
    let other = Cluster::with(Manner::Good, Some(pki.server("other")), (3, 13)).await;
    let plain = Cluster::start(Manner::Garbage).await;
    let named = TlsConfig {
        server_name: "somebody.test".to_owned(),
        ..pki.tls()
    };
    let pinned = TlsConfig {
        ca_file: None,
        pins: vec![[7; 32]],
        ..pki.tls()
    };
    for (cluster, tls, word) in [
        (&good, Some(pki.tls()), None),
        (&other, Some(pki.tls()), Some("certificate")),
        (&good, Some(named), Some("certificate")),
        (&good, Some(pinned), Some("certificate")),
        (&plain, Some(pki.tls()), Some("tls")),
        // The other way round: an alert of TLS comes where an answer should.
        (&good, None, Some("tls")),
    ] {
        let mut sink = Kafka::new(cluster.config(SinkFormat::Json, tls), AGENT);
        match sink.open().await {
            Ok((mut session, _)) => {
                assert_eq!(word, None);
                send(&mut session, &[entry(1, 3, 10)]).await.unwrap();
            }
            Err(fault) => assert_eq!(Some(fault.word), word, "{fault}"),
        }
    }
    assert_eq!(good.stored().len(), 3);
}

#[tokio::test]
async fn a_password_is_shown_to_the_broker_and_to_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials");
    let write = |text: &str, mode| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let cluster = Cluster::start(Manner::Good).await;
    let mut config = cluster.config(SinkFormat::Json, None);
    config.sasl = Some((SaslMechanism::Plain, path.clone()));
    let mut sink = Kafka::new(config.clone(), AGENT);
    write("agent:pass:word\n", 0o600);
    let (mut session, _) = sink.open().await.unwrap();
    send(&mut session, &[entry(1, 3, 10)]).await.unwrap();
    let logins = cluster.logins.lock().unwrap().clone();
    // One to ask, and one for each lane.
    assert_eq!(logins, vec![b"\0agent\0pass:word".to_vec(); 3]);
    for (manner, mode, text, word) in [
        (Manner::Denies(58), 0o600, "agent:pass:word", "refused"),
        (Manner::Denies(33), 0o600, "agent:pass:word", "refused"),
        (Manner::Good, 0o640, "agent:pass:word", "credentials"),
        (Manner::Good, 0o600, "pass:word\nand more", "credentials"),
    ] {
        cluster.be(manner);
        write(text, mode);
        let fault = sink.open().await.unwrap_err();
        assert_eq!(fault.word, word, "{fault}");
        let shown = format!("{fault} {fault:?} {sink:?}");
        assert!(!shown.contains("pass:word"), "{shown}");
    }
    // The broker knows another mechanism only.
    cluster.be(Manner::Good);
    write("agent:pass:word", 0o600);
    config.sasl = Some((SaslMechanism::ScramSha256, path.clone()));
    let fault = Kafka::new(config, AGENT).open().await.unwrap_err();
    assert!(
        fault.word == "refused" && fault.why.contains("the broker offers PLAIN"),
        "{fault}"
    );
}
