//! What becomes of packets.

use central_node::certificate::{Authority, CA};
use central_node::packet::digest;
use central_node::server::Node;
use central_node::testing::{Maker, Place, Seen};
use sensor_proto::v1;
use sensor_proto::v1::deliver_response::Message;
use time::OffsetDateTime;
use uuid::Uuid;

use super::agent::{Delivery, acked, client, refused};

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
