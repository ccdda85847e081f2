//! Files as an operator has them, whole and damaged.

use std::path::PathBuf;

use sensor_proto::packet::{Label, Packer};
use sensor_proto::v1;
use serde_json::Value;

use super::*;
use crate::spool::storage::Disk;
use crate::spool::{Entry, HostIdentity, Now, Spool, SpoolConfig, Stream};

/// A packet with two exits of process 7.
fn packet(sequence: u64, previous: Option<[u8; 32]>) -> sensor_proto::packet::Packed {
    let label = Label {
        agent_id: [1; 16],
        epoch: [2; 16],
        stream: v1::Stream::Process,
        sequence,
        previous,
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
    let event = |counter| v1::Event {
        id: Some(v1::EventId {
            counter,
            ..v1::EventId::default()
        }),
        process: Some(process.reference()),
        body: Some(v1::event::Body::Exit(v1::Exit {
            code: Some(3),
            ..v1::Exit::default()
        })),
        ..v1::Event::default()
    };
    let body = PacketBody {
        events: vec![event(sequence * 10), event(sequence * 10 + 1)],
        processes: vec![process.clone()],
        ledger: Some(v1::LedgerReport::default()),
        ..PacketBody::default()
    };
    Packer::new().unwrap().pack(&label, body).unwrap()
}

struct Told {
    status: ExitStatus,
    lines: Vec<Value>,
    complaints: String,
}

fn decode(file: &Path, input: &[u8], format: DecodeFormat) -> Told {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = DecodeArgs {
        file: file.to_owned(),
        format,
    };
    let mut streams = Streams {
        out: &mut out,
        err: &mut err,
    };
    let status = run(&args, &mut &*input, &mut streams);
    let text = String::from_utf8(out).unwrap();
    Told {
        status,
        lines: text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
        complaints: String::from_utf8(err).unwrap(),
    }
}

fn standard_input(bytes: &[u8], format: DecodeFormat) -> Told {
    decode(Path::new("-"), bytes, format)
}

fn two() -> (Vec<u8>, usize) {
    let first = packet(1, None);
    let second = packet(2, Some(first.digest));
    let length = first.bytes.len();
    ([first.bytes, second.bytes].concat(), length)
}

#[test]
fn packets_one_after_another_become_events() {
    let (bytes, _) = two();
    let told = standard_input(&bytes, DecodeFormat::Json);
    assert_eq!(told.status, ExitStatus::Ok, "{}", told.complaints);
    let counters: Vec<&str> = told
        .lines
        .iter()
        .map(|line| line["id"].as_str().unwrap().rsplit('/').next().unwrap())
        .collect();
    assert_eq!(counters, ["10", "11", "20", "21"]);
    assert_eq!(told.lines[0]["process"]["comm"], "sleep");
    assert_eq!(told.lines[0]["exit"]["code"], 3);
    for format in [DecodeFormat::Ecs, DecodeFormat::Ocsf] {
        let told = standard_input(&bytes, format);
        assert_eq!((told.status, told.lines.len()), (ExitStatus::Ok, 4));
    }
    let told = standard_input(&bytes, DecodeFormat::Packet);
    assert_eq!(told.lines.len(), 2);
    assert_eq!(told.lines[1]["header"]["sequence"], 2);
    assert_eq!(
        told.lines[0]["digest"],
        told.lines[1]["header"]["previous_digest"]
    );
    assert!(told.lines[0]["body"]["ledger"].is_object());
    assert!(told.lines[0]["body"].get("events").is_none());
    assert_eq!(
        standard_input(b"", DecodeFormat::Json).status,
        ExitStatus::Ok
    );
}

#[test]
fn a_damaged_packet_is_told_with_its_place_and_the_next_is_printed() {
    let (mut bytes, second) = two();
    // In the compressed body of the first.
    bytes[second - 3] ^= 0xff;
    let told = standard_input(&bytes, DecodeFormat::Json);
    assert_eq!(told.status, ExitStatus::Usage);
    assert_eq!(told.lines.len(), 2);
    assert!(
        told.complaints.starts_with("byte 0: "),
        "{}",
        told.complaints
    );
    assert!(
        told.complaints
            .contains("1 packets decoded, 1 places damaged")
    );
}

#[test]
fn what_ends_early_or_is_no_packet_is_said() {
    let (bytes, second) = two();
    let told = standard_input(&bytes[..second + 40], DecodeFormat::Json);
    assert_eq!((told.status, told.lines.len()), (ExitStatus::Usage, 2));
    assert!(told.complaints.contains("ends within a packet"));
    for bytes in [
        &b"hello, world"[..],
        b"\x0a\xff\xff\xff\xff\x7f",
        b"\x12\x00",
    ] {
        let told = standard_input(bytes, DecodeFormat::Json);
        assert_eq!((told.status, told.lines.len()), (ExitStatus::Usage, 0));
    }
    let told = decode(Path::new("/nonexistent"), b"", DecodeFormat::Json);
    assert_eq!(told.status, ExitStatus::Usage);
    assert!(told.complaints.contains("/nonexistent"));
}

/// Files below a folder with this ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_segment_of_the_spool_is_read_around_damage() {
    let folder = tempfile::tempdir().unwrap();
    let now = Now {
        wall_ns: 1_700_000_000_000_000_000,
        boot_ns: 1_000_000_000,
    };
    let disk = Disk::lock(folder.path()).unwrap();
    let host = HostIdentity {
        boot_id: [3; 16],
        ..HostIdentity::default()
    };
    let config = SpoolConfig::default();
    let (mut spool, _) = Spool::open(disk, config, host, &["one"], now).unwrap();
    for sequence in 1..=3 {
        let previous = (sequence > 1).then_some([9; 32]);
        let packed = packet(sequence, previous);
        spool
            .append(
                Entry {
                    id: spool.next_packet(Stream::Process).id,
                    digest: packed.digest,
                    sealed_time_ns: 5_000,
                    boot_id: [3; 16],
                    last_event_boot_ns: 9,
                    counts: [(101, 2)].into_iter().collect(),
                    bytes: packed.bytes,
                },
                now,
            )
            .unwrap();
    }
    spool.sync(now);
    spool.close(now).unwrap();
    let segments = files(folder.path(), ".seg");
    let mut lines = 0;
    for segment in &segments {
        let told = decode(segment, b"", DecodeFormat::Json);
        assert_eq!(told.status, ExitStatus::Ok, "{}", told.complaints);
        lines += told.lines.len();
    }
    assert_eq!(lines, 6);

    // The same from standard input, with a byte of the second packet changed.
    let largest = segments
        .iter()
        .max_by_key(|path| path.metadata().unwrap().len());
    let mut bytes = std::fs::read(largest.unwrap()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    let told = standard_input(&bytes, DecodeFormat::Json);
    assert_eq!((told.status, told.lines.len()), (ExitStatus::Usage, 4));
    assert!(told.complaints.contains("no record"), "{}", told.complaints);
}
