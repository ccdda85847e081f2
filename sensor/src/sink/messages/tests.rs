//! Packets as the packer makes them, taken apart. [`entry`] also serves the tests of the sinks.

use sensor_proto::packet::{Label, Packer};
use sensor_proto::v1;
use serde_json::Value;

use super::*;
use crate::spool::{Epoch, Stream};

/// Agent of [`entry`].
pub(crate) const AGENT: [u8; 16] = [1; 16];
/// Epoch of [`entry`].
pub(crate) const EPOCH: Epoch = Epoch([2; 16]);

/// A packet of this many exits, each with arguments of so many bytes; their counters begin at `sequence * 10_000`.
pub(crate) fn entry(sequence: u64, events: u64, argument_bytes: usize) -> Entry {
    let label = Label {
        agent_id: AGENT,
        epoch: EPOCH.0,
        stream: v1::Stream::Process,
        sequence,
        previous: (sequence > 1).then_some([9; 32]),
        sealed_time_ns: 5_000,
        boot_id: [3; 16],
        run_id: [4; 16],
        accounted_boot_ns: 9,
    };
    let process = v1::Process {
        unique_pid: vec![7; 16],
        pid: 7,
        argv: vec![vec![b'x'; argument_bytes]],
        ..v1::Process::default()
    };
    let event = |number| Event {
        id: Some(v1::EventId {
            counter: sequence * 10_000 + number,
            ..v1::EventId::default()
        }),
        time_ns: 1_000,
        process: Some(process.reference()),
        body: Some(v1::event::Body::Exit(v1::Exit {
            code: Some(3),
            ..v1::Exit::default()
        })),
        ..Event::default()
    };
    let body = v1::PacketBody {
        events: (0..events).map(event).collect(),
        processes: if events > 0 {
            vec![process.clone()]
        } else {
            vec![]
        },
        ledger: Some(v1::LedgerReport::default()),
        ..v1::PacketBody::default()
    };
    let packed = Packer::new().unwrap().pack(&label, body).unwrap();
    Entry {
        id: PacketId {
            epoch: EPOCH,
            stream: Stream::Process,
            sequence,
        },
        digest: packed.digest,
        sealed_time_ns: 5_000,
        boot_id: [3; 16],
        last_event_boot_ns: 9,
        counts: [(101, events)].into_iter().collect(),
        bytes: packed.bytes,
    }
}

async fn parts(form: Form, packet: Entry) -> (Vec<Vec<Message>>, Part) {
    let mut unpacking = Unpacking::begin(form, packet);
    let mut parts = Vec::new();
    loop {
        match unpacking.next().await {
            Part::Messages(messages) => parts.push(messages),
            last @ (Part::End | Part::Unreadable(_)) => return (parts, last),
        }
    }
}

#[tokio::test]
async fn a_message_has_the_id_that_its_event_has_in_every_form() {
    for (form, pointer) in [
        (Form::Json, "/id"),
        (Form::Ecs, "/event/id"),
        (Form::Ocsf, "/metadata/uid"),
    ] {
        let (parts, last) = parts(form, entry(1, 3, 10)).await;
        assert_eq!(last, Part::End);
        let messages = parts.concat();
        assert_eq!(messages.len(), 3);
        for (index, message) in messages.iter().enumerate() {
            let line: Value = serde_json::from_slice(&message.line).unwrap();
            let id = line.pointer(pointer).and_then(Value::as_str);
            assert_eq!(id, Some(message.id.as_str()), "{form:?}");
            assert!(message.id.ends_with(&format!("/{}", 10_000 + index)));
            assert_eq!(message.event_type, EventType::Exit);
            assert_eq!(message.time_ns, 1_000);
        }
    }
    let id = packet_id(AGENT, entry(1, 0, 0).id);
    assert_eq!(
        id,
        "01010101-0101-0101-0101-010101010101/02020202020202020202020202020202/process/1"
    );
}

#[tokio::test]
async fn a_large_packet_comes_in_parts_and_a_heartbeat_in_none() {
    let (several, last) = parts(Form::Json, entry(1, 100, 20_000)).await;
    assert_eq!(last, Part::End);
    assert!(several.len() > 3, "{}", several.len());
    for part in &several {
        // The last line goes over the limit.
        let bytes: usize = part.iter().map(|message| message.line.len()).sum();
        assert!(bytes < PART_BYTES + 100_000, "{bytes}");
    }
    assert_eq!(several.concat().len(), 100);
    assert_eq!(parts(Form::Json, entry(2, 0, 0)).await, (vec![], Part::End));
}

#[tokio::test]
async fn what_is_no_packet_says_so() {
    let mut broken = entry(1, 3, 10);
    broken.bytes.truncate(40);
    let (none, last) = parts(Form::Json, broken).await;
    assert!(none.is_empty());
    assert!(
        matches!(&last, Part::Unreadable(why) if why.contains("not a packet")),
        "{last:?}"
    );
}

#[test]
fn a_packet_is_settled_when_its_last_message_is() {
    let (one, two) = (entry(1, 0, 0).id, entry(2, 0, 0).id);
    let mut tally = Tally::default();
    tally.sent(one);
    tally.sent(one);
    tally.sent(two);
    assert_eq!(tally.acked(one), None);
    // All that was sent is answered, but there is more to come.
    assert_eq!(tally.acked(one), None);
    tally.sent(one);
    assert_eq!(tally.whole(one), None);
    assert_eq!(tally.acked(one), Some(Outcome::Acked));
    // Nothing is known of it any more.
    assert_eq!(tally.acked(one), None);
    // One message refused: the packet is, once the others are answered.
    assert_eq!(tally.refused(two, "too long", false), None);
    assert_eq!(tally.whole(two), None);
    assert_eq!(
        tally.refused(two, "later", true),
        Some(Outcome::Rejected {
            why: "too long".to_owned()
        })
    );
    // A heartbeat has no messages.
    assert_eq!(tally.whole(one), Some(Outcome::Acked));
}
