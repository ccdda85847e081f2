//! What becomes of packets.

use std::collections::BTreeMap;

use central_node::certificate::{Authority, CA};
use central_node::packet::digest;
use central_node::server::Node;
use central_node::testing::{Maker, Place, Seen};
use sensor_proto::v1;
use sensor_proto::v1::deliver_response::Message;
use time::OffsetDateTime;
use uuid::Uuid;

use super::agent::{Delivery, acked, client, refused, windowed};

struct World {
    _folder: tempfile::TempDir,
    place: Place,
    ca: std::path::PathBuf,
    node: Node,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path()).unwrap();
        let node = place.start().await.unwrap();
        Self {
            ca: folder.path().join(CA),
            _folder: folder,
            place,
            node,
        }
    }

    async fn delivery(&self, agent_id: Uuid) -> Delivery {
        let pair = self.place.agent(agent_id).unwrap();
        let mut client = client(self.node.address(), &self.ca, Some(&pair))
            .await
            .unwrap();
        Delivery::begin(&mut client, agent_id, Vec::new())
            .await
            .unwrap()
    }

    /// What `agents --json` says, by agent.
    fn agents(&self) -> BTreeMap<Uuid, serde_json::Value> {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_central-node"))
            .args(["agents", "--json", "--since", "36500d", "--data"])
            .arg(self.place.data())
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|agent| (agent["agent_id"].as_str().unwrap().parse().unwrap(), agent))
            .collect()
    }
}

fn some(maker: &mut Maker, count: u32) -> Vec<u8> {
    let mut seen = Seen::default();
    for pid in 1..=count {
        maker.exec(&mut seen, pid, "/usr/bin/true");
    }
    maker.seal(seen).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_is_acknowledged_by_its_digest_and_the_second_time_as_a_duplicate() {
    let world = World::new().await;
    let agent_id = Uuid::new_v4();
    let mut delivery = world.delivery(agent_id).await;
    assert_eq!(delivery.welcome.positions, []);
    let mut maker = Maker::new(agent_id, v1::Stream::Process);
    let packet = some(&mut maker, 3);
    let Message::Ack(ack) = delivery.deliver(packet.clone()).await else {
        panic!("no ack");
    };
    assert_eq!(ack.status(), v1::AckStatus::Stored);
    assert_eq!(ack.digest, digest(&packet));
    assert_eq!(
        (ack.epoch.as_slice(), ack.stream(), ack.sequence),
        (maker.epoch.as_slice(), v1::Stream::Process, 1)
    );
    assert_eq!(
        acked(&delivery.deliver(packet).await),
        v1::AckStatus::Duplicate
    );
    world.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_packet_of_the_same_identity_is_a_conflict_every_time() {
    let world = World::new().await;
    let agent_id = Uuid::new_v4();
    let mut delivery = world.delivery(agent_id).await;
    let mut maker = Maker::new(agent_id, v1::Stream::Process);
    let mut clone = maker.clone();
    let (packet, other) = (some(&mut maker, 3), some(&mut clone, 4));
    assert_eq!(
        acked(&delivery.deliver(packet.clone()).await),
        v1::AckStatus::Stored
    );
    for _ in 0..2 {
        let answer = delivery.deliver(other.clone()).await;
        assert_eq!(acked(&answer), v1::AckStatus::Conflict);
        let Message::Ack(ack) = answer else {
            panic!("no ack");
        };
        assert_eq!(ack.digest, digest(&other));
    }
    assert_eq!(
        acked(&delivery.deliver(packet).await),
        v1::AckStatus::Duplicate
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cannot_write_as_another() {
    let world = World::new().await;
    let (agent_id, other) = (Uuid::new_v4(), Uuid::new_v4());
    let mut delivery = world.delivery(agent_id).await;
    let mut foreign = Maker::new(other, v1::Stream::Process);
    let answer = delivery.deliver(some(&mut foreign, 1)).await;
    assert_eq!(refused(&answer), v1::RefusalReason::NotYours);
    // Nor say that it is another, in a hello or a synchronisation.
    let pair = world.place.agent(agent_id).unwrap();
    let mut client = client(world.node.address(), &world.ca, Some(&pair))
        .await
        .unwrap();
    let begun = Delivery::begin(&mut client, other, Vec::new()).await;
    assert_eq!(begun.err().unwrap().code(), tonic::Code::PermissionDenied);
    let request = v1::SyncRequest {
        agent_id: other.as_bytes().to_vec(),
        ..v1::SyncRequest::default()
    };
    let answer = client.synchronize(request).await;
    assert_eq!(answer.unwrap_err().code(), tonic::Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_accepted_without_a_valid_certificate() {
    let world = World::new().await;
    let agent_id = Uuid::new_v4();
    let address = world.node.address();
    let (stranger, _) = Authority::new(time::Duration::days(1)).unwrap();
    let day = time::Duration::days(1);
    let expired = OffsetDateTime::now_utc() - 3 * day;
    let future = OffsetDateTime::now_utc() + 3 * day;
    let own = world.place.authority();
    for (name, pair) in [
        ("none", None),
        (
            "of another authority",
            Some(stranger.agent(agent_id, day).unwrap()),
        ),
        (
            "expired",
            Some(own.agent_from(agent_id, expired, day).unwrap()),
        ),
        (
            "not yet valid",
            Some(own.agent_from(agent_id, future, day).unwrap()),
        ),
        (
            "of a server",
            Some(own.server(&["localhost".to_owned()], day).unwrap()),
        ),
    ] {
        // With TLS 1.3 the client may learn of the refusal only when it reads.
        let Ok(mut client) = client(address, &world.ca, pair.as_ref()).await else {
            continue;
        };
        let begun = Delivery::begin(&mut client, agent_id, Vec::new()).await;
        assert!(begun.is_err(), "a certificate {name} was accepted");
        let answer = client.synchronize(v1::SyncRequest::default()).await;
        assert!(answer.is_err(), "a certificate {name} was accepted");
    }
    // And the node is well.
    world.delivery(agent_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_order_is_stored_and_the_welcome_tells_what_is_durable() {
    let world = World::new().await;
    let agent_id = Uuid::new_v4();
    let mut delivery = world.delivery(agent_id).await;
    let mut maker = Maker::new(agent_id, v1::Stream::Process);
    let packets: Vec<_> = (0..6).map(|_| some(&mut maker, 2)).collect();
    // 1, 3, 2 and 6: after 3 there is a gap.
    for index in [0, 2, 1, 5] {
        let answer = delivery.deliver(packets[index].clone()).await;
        assert_eq!(acked(&answer), v1::AckStatus::Stored);
    }
    let ask = |sequence| v1::StreamPosition {
        epoch: maker.epoch.to_vec(),
        stream: v1::Stream::Process.into(),
        sequence,
        digest: None,
    };
    let pair = world.place.agent(agent_id).unwrap();
    let mut client = client(world.node.address(), &world.ca, Some(&pair))
        .await
        .unwrap();
    for (next, durable) in [(1, 3), (2, 3), (4, 3), (5, 3), (6, 6), (9, 6)] {
        let delivery = Delivery::begin(&mut client, agent_id, vec![ask(next)])
            .await
            .unwrap();
        let [position] = delivery.welcome.positions.as_slice() else {
            panic!("{:?}", delivery.welcome);
        };
        assert_eq!(position.sequence, durable, "the next one is {next}");
        let index = usize::try_from(durable).unwrap() - 1;
        assert_eq!(position.digest, Some(digest(&packets[index]).to_vec()));
    }
    // Another agent learns nothing of it.
    let other = Uuid::new_v4();
    let pair = world.place.agent(other).unwrap();
    let mut client = super::agent::client(world.node.address(), &world.ca, Some(&pair))
        .await
        .unwrap();
    let delivery = Delivery::begin(&mut client, other, vec![ask(1)])
        .await
        .unwrap();
    assert_eq!(delivery.welcome.positions, []);
    let agents = world.agents();
    let stream = &agents[&agent_id]["completeness"][0];
    let missing: Vec<_> = stream["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["finding"] == "missing")
        .map(|finding| {
            (
                finding["first_sequence"].as_i64(),
                finding["last_sequence"].as_i64(),
            )
        })
        .collect();
    assert_eq!(missing, [(Some(4), Some(5))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_enormous_packets_are_refused_and_the_next_is_taken() {
    let world = World::new().await;
    let agent_id = Uuid::new_v4();
    let mut delivery = world.delivery(agent_id).await;
    let mut maker = Maker::new(agent_id, v1::Stream::Process);
    let good = some(&mut maker, 2);
    let mut cut = good.clone();
    cut.truncate(good.len() - 9);
    for garbage in [b"garbage".to_vec(), Vec::new(), vec![0xff; 100_000], cut] {
        let answer = delivery.deliver(garbage).await;
        assert_eq!(refused(&answer), v1::RefusalReason::Malformed);
    }
    // Longer than the node takes, and within the frame's limit.
    let limit = usize::try_from(delivery.welcome.max_packet_bytes).unwrap();
    let answer = delivery.deliver(vec![0; limit + 1]).await;
    assert_eq!(refused(&answer), v1::RefusalReason::TooLarge);
    assert_eq!(acked(&delivery.deliver(good).await), v1::AckStatus::Stored);
    // A frame beyond the limit ends the stream, and the node is well.
    delivery.send(vec![0; limit * 2]).await;
    assert_eq!(
        delivery.answer().await.unwrap_err().code(),
        tonic::Code::OutOfRange
    );
    world.delivery(agent_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_instead_of_frames_harms_nobody() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let world = World::new().await;
    let agent_id = Uuid::new_v4();
    let pair = world.place.agent(agent_id).unwrap();
    let address = world.node.address();
    // Before TLS.
    let mut plain = tokio::net::TcpStream::connect(address).await.unwrap();
    plain.write_all(&[0x16; 4_096]).await.unwrap();
    // A client that says nothing keeps its place only for the time of a handshake.
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    // After TLS, instead of HTTP/2: the connection ends.
    let mut inside = super::agent::connect(address, &world.ca, Some(&pair))
        .await
        .unwrap();
    inside.write_all(&[0xa5; 64 << 10]).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(super::agent::LONG, inside.read_to_end(&mut rest)).await;
    drop(ended.unwrap());
    world.delivery(agent_id).await;
}

/// What may lie between an agent that reads no answers and a node that has stopped reading, in packets: the node's own places
/// (256) and the answers in HTTP/2 on both sides (two times 4 KiB), and packets in it (1 MiB of the node's window, as much in
/// the client, 64 KiB in gRPC). With packets of 300 bytes and more, and answers of 70, well below this.
const BETWEEN_MAX: u32 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_reads_no_answers_is_not_read_from() {
    let world = World::new().await;
    let agent_id = Uuid::new_v4();
    let pair = world.place.agent(agent_id).unwrap();
    let mut client = windowed(world.node.address(), &world.ca, Some(&pair), Some(4 << 10))
        .await
        .unwrap();
    let mut slow = Delivery::begin(&mut client, agent_id, Vec::new())
        .await
        .unwrap();
    let mut maker = Maker::new(agent_id, v1::Stream::Process);
    let packet = some(&mut maker, 1);
    assert!(packet.len() > 300, "{}", packet.len());
    // Duplicates are answered, too. At some time the node stops reading, and sending does not return. On a machine that is too
    // busy this may end early, and the rest holds all the same.
    let mut sent = 0u32;
    while tokio::time::timeout(std::time::Duration::from_secs(3), slow.send(packet.clone()))
        .await
        .is_ok()
    {
        sent += 1;
        assert!(sent < BETWEEN_MAX, "it reads on");
    }
    // Meanwhile others are served.
    let other = Uuid::new_v4();
    let mut delivery = world.delivery(other).await;
    let mut theirs = Maker::new(other, v1::Stream::Process);
    let answer = delivery.deliver(some(&mut theirs, 1)).await;
    assert_eq!(acked(&answer), v1::AckStatus::Stored);
    // And when it reads, every packet was answered once.
    for _ in 0..sent {
        acked(&slow.answer().await.unwrap());
    }
    assert_eq!(slow.finish().message().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_reach_an_agent_once() {
    let world = World::new().await;
    let agent_id = Uuid::new_v4();
    let pair = world.place.agent(agent_id).unwrap();
    let mut client = client(world.node.address(), &world.ca, Some(&pair))
        .await
        .unwrap();
    let mut request = v1::SyncRequest {
        agent_id: agent_id.as_bytes().to_vec(),
        agent_version: "0.1.0".to_owned(),
        waiting_packets: 3,
        ..v1::SyncRequest::default()
    };
    let answer = client
        .synchronize(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.settings, []);
    assert_eq!(answer.period_ms, Some(300_000));
    let document = "[[filter.rule]]\nname = 'quiet'\naction = 'exclude'\n";
    let connection = central_node::store::open(&world.place.data()).unwrap();
    let set = |agent: Option<Uuid>, document: &str| {
        let agent = agent.map(|agent| *agent.as_bytes());
        central_node::store::write::set_settings(&connection, agent, "filter", document).unwrap()
    };
    let first = set(None, document);
    set(Some(Uuid::new_v4()), "another's");
    let answer = client
        .synchronize(request.clone())
        .await
        .unwrap()
        .into_inner();
    let [settings] = answer.settings.as_slice() else {
        panic!("{:?}", answer.settings);
    };
    assert_eq!(settings.document, document);
    assert_eq!(settings.version, u64::try_from(first).unwrap());
    let status = |version| v1::SettingsStatus {
        r#type: "filter".to_owned(),
        version,
        state: v1::ApplyState::Refused.into(),
        error: Some("no such rule".to_owned()),
    };
    request.settings = vec![status(settings.version)];
    let answer = client
        .synchronize(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.settings, [], "what it has is not sent again");
    let own = set(Some(agent_id), "");
    let answer = client.synchronize(request).await.unwrap().into_inner();
    assert_eq!(answer.settings.len(), 1);
    assert_eq!(answer.settings[0].version, u64::try_from(own).unwrap());
    let agents = world.agents();
    let state = &agents[&agent_id]["state"];
    assert_eq!(state["waiting_packets"], 3);
    assert_eq!(state["settings"][0]["error"], "no such rule");
}
