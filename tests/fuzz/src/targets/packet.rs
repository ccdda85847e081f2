//! Packets: what the decoder and a receiver get from anybody.

use prost::Message as _;
use sensor_proto::packet::{Label, Limits, Packer, open, read_header};
use sensor_proto::v1;

/// What is opened at most: enough for every input, so little that a bomb is refused at once.
const LIMITS: Limits = Limits {
    packet_bytes: 1 << 16,
    body_bytes: 1 << 20,
    memory_bytes: 4 << 20,
};

/// Opens a packet; what opens has a header that reads alone, and events that are JSON.
pub fn run(bytes: &[u8]) {
    let opened = match open(bytes, &LIMITS) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            std::hint::black_box(read_header(bytes, &LIMITS).is_ok());
            return;
        }
    };
    read_header(bytes, &LIMITS).expect("the header is read first");
    let mut json = Vec::new();
    for event in opened.events() {
        json.clear();
        opened.write_event_json(event, &mut json);
        serde_json::from_slice::<serde_json::Value>(&json).expect("JSON");
        if let Some(process) = opened.actor(event) {
            std::hint::black_box(opened.ancestors(process));
        }
    }
}

/// Two events and a row; compressed, and stored, where a change of a byte is one of the body.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let label = Label {
        agent_id: [1; 16],
        epoch: [2; 16],
        stream: v1::Stream::Process,
        sequence: 1,
        previous: None,
        sealed_time_ns: 5_000,
        boot_id: [3; 16],
        run_id: [4; 16],
        accounted_boot_ns: 9,
    };
    let process = v1::Process {
        unique_pid: vec![7; 16],
        pid: 7,
        comm: Some(b"sleep".to_vec()),
        ..v1::Process::default()
    };
    let event = |counter, code| v1::Event {
        id: Some(v1::EventId {
            counter,
            ..v1::EventId::default()
        }),
        process: Some(process.reference()),
        body: Some(v1::event::Body::Exit(v1::Exit {
            code: Some(code),
            ..v1::Exit::default()
        })),
        ..v1::Event::default()
    };
    let body = v1::PacketBody {
        events: vec![event(10, 3), event(11, u32::MAX)],
        processes: vec![process.clone()],
        ledger: Some(v1::LedgerReport::default()),
        ..v1::PacketBody::default()
    };
    let packed = Packer::new()
        .and_then(|mut packer| packer.pack(&label, body))
        .expect("a body that fits its label");
    let mut stored = v1::TelemetryPacket::decode(packed.bytes.as_slice()).expect("just packed");
    let body = zstd::bulk::decompress(&stored.body, packed.body_bytes).expect("just compressed");
    stored.body = stored_frame(&body);
    vec![packed.bytes, stored.encode_to_vec()]
}

/// A frame of one block that is not compressed.
fn stored_frame(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short");
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd];
    // One segment, whose length has four bytes; the last block, raw.
    frame.push(0xa0);
    frame.extend(length.to_le_bytes());
    frame.extend(&(length << 3 | 1).to_le_bytes()[..3]);
    frame.extend(body);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_open() {
        for seed in seeds() {
            assert_eq!(open(&seed, &LIMITS).unwrap().events().len(), 2);
        }
    }
}
