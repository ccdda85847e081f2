//! There and back again, refusals, and what an event costs.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::sample::{Filler, pool};
use crate::v1::event::Body;

const AGENT: [u8; 16] = [0xa1; 16];
const EPOCH: [u8; 16] = [0xe2; 16];
const BOOT: [u8; 16] = [0xb3; 16];

fn label(stream: v1::Stream) -> Label {
    Label {
        agent_id: AGENT,
        epoch: EPOCH,
        stream,
        sequence: 7,
        previous: Some([9; 32]),
        sealed_time_ns: 1_700_000_100_000_000_000,
        boot_id: BOOT,
        run_id: [4; 16],
        accounted_boot_ns: 77,
    }
}

fn pack(label: &Label, body: v1::PacketBody) -> Packed {
    Packer::new().unwrap().pack(label, body).unwrap()
}

fn reopen(packed: &Packed) -> OpenedPacket {
    open(&packed.bytes, &Limits::default()).unwrap()
}

/// A body with whatever the schema allows, as a sealer may hand it over.
fn arbitrary_body(seed: u64, stream: v1::Stream) -> v1::PacketBody {
    let mut filler = Filler::new(seed, seed.is_multiple_of(2));
    let descriptor = pool().get_message_by_name("sensor.v1.PacketBody").unwrap();
    let message = filler.message(&descriptor);
    let mut body = v1::PacketBody::decode(message.encode_to_vec().as_slice()).unwrap();
    body.event_columns = None;
    body.process_columns = None;
    body.agent = Some(v1::Agent {
        id: AGENT.to_vec(),
        epoch: EPOCH.to_vec(),
        ..body.agent.unwrap_or_default()
    });
    body.host.get_or_insert_default().boot_id = BOOT.to_vec();
    let event = pool().get_message_by_name("sensor.v1.Event").unwrap();
    for _ in 0..6 {
        let message = filler.message(&event);
        body.events
            .push(v1::Event::decode(message.encode_to_vec().as_slice()).unwrap());
    }
    body.events.retain(|event| stream_of(event) == stream);
    let mut keys = BTreeSet::new();
    body.processes
        .retain(|row| keys.insert((row.unique_pid.clone(), row.exec_id)));
    for (index, event) in body.events.iter_mut().enumerate() {
        event.id = Some(v1::EventId {
            counter: filler.number() >> (seed % 60),
            ..v1::EventId::default()
        });
        // Half of them act through a row that is there, in every way that columns know.
        let rows = body.processes.len();
        if rows > 0 && filler.number().is_multiple_of(2) {
            let row = &mut body.processes[index % rows];
            if seed.is_multiple_of(3) {
                row.ns_pid = Some(row.pid);
                row.start_time_ns = row
                    .start_boot_ns
                    .cast_signed()
                    .wrapping_add(body.wall_minus_boot_ns);
            }
            let reference = v1::ProcessRef {
                tid: Some(row.pid ^ u32::try_from(index).unwrap()),
                ..row.reference()
            };
            match &mut event.body {
                Some(Body::Exit(exit)) => {
                    let run = event.time_boot_ns.saturating_sub(row.start_boot_ns);
                    exit.run_duration_ns = Some(run);
                    row.end_time_ns = Some(event.time_ns);
                }
                Some(Body::Exec(exec)) => {
                    exec.previous = row.exec_id.checked_sub(1).map(|exec_id| v1::ProcessRef {
                        exec_id,
                        ..row.reference()
                    });
                    row.exec_time_ns = Some(event.time_ns);
                }
                Some(Body::Fork(fork)) => fork.child = Some(row.reference()),
                _ => {}
            }
            event.process = Some(reference);
        }
        if seed.is_multiple_of(5) {
            event.processed_time_ns = None;
        }
    }
    body
}

#[test]
fn whatever_is_packed_comes_back_whole() {
    let mut events = 0;
    for seed in 0..200 {
        let stream = [v1::Stream::Process, v1::Stream::Bulk][usize::from(seed % 4 == 1)];
        let body = arbitrary_body(seed, stream);
        events += body.events.len();
        let packed = pack(&label(stream), body.clone());
        let opened = reopen(&packed);
        assert!(*opened.body() == body, "seed {seed}");
        assert_eq!(*opened.digest(), packed.digest);
        let header = opened.header();
        assert_eq!(header.first_boot_ns, packed.first_boot_ns);
        assert_eq!(header.last_boot_ns, Some(packed.last_boot_ns));
        let told: Vec<_> = header
            .counts
            .iter()
            .map(|count| (count.r#type(), count.count))
            .collect();
        assert_eq!(told, packed.counts);
        let (alone, digest) = read_header(&packed.bytes, &Limits::default()).unwrap();
        assert_eq!((&alone, digest), (header, packed.digest));
        for event in opened.events() {
            let mut line = Vec::new();
            opened.write_event_json(event, &mut line);
            serde_json::from_slice::<serde_json::Value>(&line).unwrap();
        }
    }
    assert!(events > 400, "{events} events");
}

#[test]
fn a_heartbeat_carries_the_account_alone() {
    let body = v1::PacketBody {
        agent: Some(v1::Agent {
            id: AGENT.to_vec(),
            epoch: EPOCH.to_vec(),
            version: "1".to_owned(),
            schema_version: 1,
        }),
        ledger: Some(v1::LedgerReport {
            at_boot_ns: 5,
            ..v1::LedgerReport::default()
        }),
        ..v1::PacketBody::default()
    };
    let first = Label {
        sequence: 1,
        previous: None,
        ..label(v1::Stream::Bulk)
    };
    let packed = pack(&first, body);
    assert!(packed.bytes.len() < 300, "{}", packed.bytes.len());
    let opened = reopen(&packed);
    assert!(opened.events().is_empty());
    assert_eq!(opened.header().first_boot_ns, None);
    assert_eq!(opened.header().last_boot_ns, Some(77));
    assert_eq!(opened.body().ledger.as_ref().unwrap().at_boot_ns, 5);
}

#[test]
fn the_packer_refuses_what_it_must_not_seal() {
    let mut packer = Packer::new().unwrap();
    let event = |counter| v1::Event {
        id: Some(v1::EventId {
            counter,
            ..v1::EventId::default()
        }),
        body: Some(Body::Exit(v1::Exit::default())),
        ..v1::Event::default()
    };
    let body = |events| v1::PacketBody {
        events,
        ..v1::PacketBody::default()
    };
    let process = label(v1::Stream::Process);
    let none = v1::Event {
        id: None,
        ..event(1)
    };
    let error = packer
        .pack(&process, body(vec![event(1), none]))
        .unwrap_err();
    assert!(matches!(error, PackError::Id { index: 1 }));
    let mut foreign = event(1);
    foreign.id.as_mut().unwrap().epoch = Some(vec![0; 16]);
    let error = packer.pack(&process, body(vec![foreign])).unwrap_err();
    assert!(matches!(error, PackError::Id { index: 0 }));
    let error = packer
        .pack(&label(v1::Stream::Bulk), body(vec![event(1)]))
        .unwrap_err();
    assert!(matches!(error, PackError::Stream { index: 0 }));
    let twice = v1::PacketBody {
        processes: vec![v1::Process::default(); 2],
        ..v1::PacketBody::default()
    };
    let error = packer.pack(&process, twice).unwrap_err();
    assert!(matches!(error, PackError::DuplicateRow));
    for (sequence, previous) in [(0, None), (1, Some([0; 32])), (2, None)] {
        let label = Label {
            sequence,
            previous,
            ..process
        };
        let error = packer.pack(&label, body(Vec::new())).unwrap_err();
        assert!(matches!(error, PackError::Chain { .. }));
    }
}

/// A packet whose header and body are as they are told, not as they belong together.
fn forge(header: v1::PacketHeader, body: &[u8]) -> Vec<u8> {
    v1::TelemetryPacket {
        header: Some(v1::PacketHeader {
            compression: v1::Compression::None.into(),
            body_bytes: body.len().try_into().unwrap(),
            ..header
        }),
        body: body.to_vec(),
    }
    .encode_to_vec()
}

/// Header and encoded body of a good packet.
fn parts(packed: &Packed) -> (v1::PacketHeader, Vec<u8>) {
    let packet = v1::TelemetryPacket::decode(packed.bytes.as_slice()).unwrap();
    let header = packet.header.unwrap();
    let length = usize::try_from(header.body_bytes).unwrap();
    let body = zstd::bulk::decompress(&packet.body, length).unwrap();
    (header, body)
}

#[test]
fn contradictions_are_refused() {
    let packed = pack(
        &label(v1::Stream::Process),
        mix::body(v1::Stream::Process, 60).remove(0),
    );
    let (header, body) = parts(&packed);
    let limits = Limits::default();
    open(&forge(header.clone(), &body), &limits).unwrap();
    let refused = |change: &dyn Fn(&mut v1::PacketHeader)| {
        let mut header = header.clone();
        change(&mut header);
        open(&forge(header, &body), &limits)
            .unwrap_err()
            .to_string()
    };
    for (change, told) in [
        (
            &(|header: &mut v1::PacketHeader| header.counts[0].count += 1)
                as &dyn Fn(&mut v1::PacketHeader),
            "counts",
        ),
        (&|header| header.counts.clear(), "counts"),
        // Times of events are told from it.
        (&|header| header.first_boot_ns = Some(0), "last_boot_ns"),
        (&|header| header.first_boot_ns = None, "first_boot_ns"),
        (
            &|header| header.last_boot_ns = Some(u64::MAX),
            "last_boot_ns",
        ),
        (&|header| header.stream = v1::Stream::Bulk.into(), "stream"),
        (&|header| header.stream = 0, "stream"),
        (&|header| header.sequence = 0, "sequence"),
        (&|header| header.sequence = 1, "previous_digest"),
        (
            &|header| header.previous_digest = Some(vec![1; 31]),
            "previous_digest",
        ),
        (&|header| header.agent_id.clear(), "agent_id"),
        (&|header| header.epoch.push(0), "epoch"),
        (&|header| header.boot_id.clear(), "boot_id"),
        (&|header| header.run_id.clear(), "run_id"),
        (&|header| header.schema_version = 0, "schema_version"),
    ] {
        let error = refused(change);
        assert!(error.contains(told), "{error} does not name {told}");
    }

    let with = |change: &dyn Fn(&mut v1::PacketBody)| {
        let mut whole = v1::PacketBody::decode(body.as_slice()).unwrap();
        change(&mut whole);
        open(&forge(header.clone(), &whole.encode_to_vec()), &limits)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    for (change, told) in [
        (
            &(|body: &mut v1::PacketBody| body.agent.as_mut().unwrap().id = vec![1; 16])
                as &dyn Fn(&mut v1::PacketBody),
            "agent",
        ),
        (
            &|body| body.host.as_mut().unwrap().boot_id = vec![1; 16],
            "host",
        ),
        (&|body| drop(body.events.pop()), "event_columns"),
        (
            &|body| {
                let columns = body.event_columns.as_mut().unwrap();
                columns.process_row[0] = u32::MAX;
            },
            "process_row",
        ),
        (
            &|body| {
                let columns = body.event_columns.as_mut().unwrap();
                columns.derived[0] = 0xff;
            },
            "derived",
        ),
        (
            &|body| {
                let columns = body.process_columns.as_mut().unwrap();
                columns.pid_delta[0] = -1;
            },
            "pid_delta",
        ),
        (
            &|body| {
                let columns = body.process_columns.as_mut().unwrap();
                columns.parent_row[0] = 1_000_000;
            },
            "parent_row",
        ),
        (
            &|body| {
                let columns = body.process_columns.as_mut().unwrap();
                columns.start_boot_delta_ns.truncate(3);
            },
            "start_boot_delta_ns",
        ),
        (&|body| body.events[0].time_boot_ns = 1, "events"),
    ] {
        let error = with(change);
        assert!(error.contains(told), "{error} does not name {told}");
    }
}

/// A newer writer: another schema version, a type of event and fields that this reader does not know.
#[test]
fn a_newer_writers_packet_opens() {
    let mut body = mix::body(v1::Stream::Bulk, 5).remove(0);
    body.events[1].body = None;
    let packed = pack(&label(v1::Stream::Bulk), body.clone());
    let (mut header, mut encoded) = parts(&packed);
    header.schema_version = 99;
    for count in &mut header.counts {
        if count.r#type == 0 {
            count.r#type = 104;
        }
    }
    // Field 5000, five bytes.
    let unknown = [0xc2, 0xb8, 0x02, 0x05, 1, 2, 3, 4, 5];
    encoded.extend_from_slice(&unknown);
    let mut packet = forge(header, &encoded);
    packet.extend_from_slice(&unknown);
    let opened = open(&packet, &Limits::default()).unwrap();
    assert!(*opened.body() == body);
    assert_eq!(*opened.digest(), digest(&packet));
    assert_eq!(opened.events()[1].event_type(), v1::EventType::Unspecified);
}

#[test]
fn bombs_are_refused_before_they_go_off() {
    let good = pack(&label(v1::Stream::Process), v1::PacketBody::default());
    let (header, _) = parts(&good);
    let limits = Limits::default();
    let bomb = |compressed: Vec<u8>, body_bytes: u64| {
        let packet = v1::TelemetryPacket {
            header: Some(v1::PacketHeader {
                body_bytes,
                ..header.clone()
            }),
            body: compressed,
        };
        open(&packet.encode_to_vec(), &limits).unwrap_err()
    };
    let gigabyte = zstd::bulk::compress(&vec![0; 256 << 20], 1).unwrap();
    let error = bomb(gigabyte.clone(), 256 << 20);
    assert!(matches!(error, OpenError::BodyTooLarge { .. }), "{error}");
    // The header lies.
    let error = bomb(gigabyte.clone(), 1000);
    assert!(matches!(error, OpenError::Decompress { .. }), "{error}");
    // A second frame behind the one that was told.
    let mut two = zstd::bulk::compress(&[0; 100], 1).unwrap();
    two.extend_from_slice(&gigabyte);
    let error = bomb(two, 100);
    assert!(matches!(error, OpenError::Decompress { .. }), "{error}");
    // Two bytes each, a kilobyte in memory.
    let empty_events = [0x22, 0x00].repeat(2 << 20);
    let error = open(
        &forge(header.clone(), &empty_events),
        &Limits {
            packet_bytes: 16 << 20,
            ..limits
        },
    )
    .unwrap_err();
    assert!(matches!(error, OpenError::Memory { .. }), "{error}");
    let error = open(&vec![0; (4 << 20) + 1], &limits).unwrap_err();
    assert!(matches!(error, OpenError::TooLarge { .. }), "{error}");
    let mut unknown = header;
    unknown.compression = 9;
    let packet = v1::TelemetryPacket {
        header: Some(unknown),
        body: Vec::new(),
    };
    let error = open(&packet.encode_to_vec(), &limits).unwrap_err();
    assert!(matches!(error, OpenError::Compression(9)), "{error}");
}

#[test]
fn an_event_shows_its_process_as_it_was() {
    let mut body = mix::body(v1::Stream::Process, 3).remove(0);
    // As the table has them: ended rows.
    let packed = pack(&label(v1::Stream::Process), std::mem::take(&mut body));
    let opened = reopen(&packed);
    let of = |wanted: v1::EventType| {
        let event = opened
            .events()
            .iter()
            .find(|event| event.event_type() == wanted);
        let mut line = Vec::new();
        opened.write_event_json(event.unwrap(), &mut line);
        serde_json::from_slice::<serde_json::Value>(&line).unwrap()
    };
    let exec = of(v1::EventType::Exec);
    assert_eq!(exec["process"]["end_time"], serde_json::Value::Null);
    assert!(exec["process"]["image"]["hashes"]["sha256"].is_string());
    assert!(
        exec["process"]["parent"]["image"]["path"].is_string(),
        "{exec}"
    );
    assert!(exec["process"]["ancestors"][0]["path"].is_string());
    let exit = of(v1::EventType::Exit);
    assert!(exit["process"]["end_time"].is_string());
    assert_eq!(
        exec["id"].as_str().unwrap().rsplit_once('/').unwrap().0,
        format!("{}/{}", uuid::Uuid::from_bytes(AGENT), "e2".repeat(16))
    );
}

/// The bound of the specification, for programs that run again and again.
#[test]
fn an_event_of_a_repeated_program_costs_less_than_60_bytes() {
    let measure = |stream, keep: &dyn Fn(v1::EventType) -> bool| {
        let mut packer = Packer::new().unwrap();
        let (mut bytes, mut raw, mut events) = (0, 0, 0);
        for mut body in mix::body(stream, 1_500) {
            body.events.retain(|event| keep(event.event_type()));
            events += body.events.len();
            raw += body.encoded_len();
            let packed = packer.pack(&label(stream), body).unwrap();
            bytes += packed.bytes.len();
        }
        let per_event = |bytes: usize| bytes.checked_div(events).unwrap();
        (per_event(bytes), per_event(raw), bytes, events)
    };
    let mut all = (0, 0);
    for (name, stream, only) in [
        ("exec alone", v1::Stream::Process, Some(v1::EventType::Exec)),
        ("exit alone", v1::Stream::Process, Some(v1::EventType::Exit)),
        ("exec and exit", v1::Stream::Process, None),
        ("connect", v1::Stream::Bulk, None),
    ] {
        let keep = |event_type| only.is_none_or(|only| only == event_type);
        let (wire, raw, bytes, events) = measure(stream, &keep);
        println!("{name}: {wire} bytes per event on the wire, {raw} before, {events} events");
        assert!(wire < 60, "{name}: {wire} bytes");
        if only.is_none() {
            all = (all.0 + bytes, all.1 + events);
        }
    }
    println!("mix: {} bytes per event", all.0 / all.1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        drop(open(&bytes, &Limits::default()));
        drop(read_header(&bytes, &Limits::default()));
    }

    /// Damage behind the header and behind the compression.
    #[test]
    fn mutated_packets_never_panic(
        seed in 0_usize..20,
        inner in any::<bool>(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (packed, header, body) = seed_packet(seed);
        let mut bytes = if inner { body } else { packed.bytes.clone() };
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let packet = if inner { forge(header, &bytes) } else { bytes };
        if let Ok(opened) = open(&packet, &Limits::default()) {
            for event in opened.events() {
                let mut line = Vec::new();
                opened.write_event_json(event, &mut line);
                serde_json::from_slice::<serde_json::Value>(&line).unwrap();
            }
        }
    }
}

/// Packets are slow to invent.
fn seed_packet(seed: usize) -> (Packed, v1::PacketHeader, Vec<u8>) {
    type Seeds = Vec<(Packed, v1::PacketHeader, Vec<u8>)>;
    static PACKETS: LazyLock<Seeds> = LazyLock::new(|| {
        let of = |seed| {
            let body = arbitrary_body(seed, v1::Stream::Process);
            let packed = pack(&label(v1::Stream::Process), body);
            let (header, body) = parts(&packed);
            (packed, header, body)
        };
        (0..20).map(of).collect()
    });
    PACKETS[seed].clone()
}

/// A busy host: a few programs that run again and again, with all that the sensor tells of them.
mod mix {
    use super::*;

    const OFFSET: i64 = 1_699_990_000_123_456_789;

    /// xorshift: the same mix on every run.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, below: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % below
        }
    }

    fn unique_pid(pid: u32, start: u64) -> Vec<u8> {
        let boot = uuid::Uuid::from_bytes(BOOT).hyphenated().to_string();
        let id = crate::identity::unique_pid(&boot, pid, start / 10_000_000);
        id.as_bytes().to_vec()
    }

    fn bytes_of(dice: &mut Dice, length: usize) -> Vec<u8> {
        (0..length)
            .map(|_| u8::try_from(dice.roll(256)).unwrap())
            .collect()
    }

    fn file(dice: &mut Dice, path: &str) -> v1::FileInfo {
        let user = Some(v1::User {
            id: 0,
            name: Some("root".to_owned()),
            domain: None,
        });
        let group = Some(v1::Group {
            id: 0,
            name: Some("root".to_owned()),
        });
        v1::FileInfo {
            path: Some(path.as_bytes().to_vec()),
            device: Some(0x0080_0001),
            inode: Some(dice.roll(1 << 22)),
            generation: Some(u32::try_from(dice.roll(1 << 32)).unwrap()),
            r#type: v1::FileType::Regular.into(),
            mode: Some(0o100_755),
            owner_user: user,
            owner_group: group,
            size: Some(dice.roll(1 << 20)),
            links: Some(1),
            btime_ns: Some(OFFSET - i64::try_from(dice.roll(1 << 50)).unwrap()),
            mtime_ns: Some(OFFSET - i64::try_from(dice.roll(1 << 50)).unwrap()),
            ctime_ns: Some(OFFSET - i64::try_from(dice.roll(1 << 50)).unwrap()),
            fs_magic: Some(0xef53),
            unique_id: Some(bytes_of(dice, 16)),
            attributes: Some(0x0010_0000),
            content_type: v1::ContentType::ElfShared.into(),
            hashes: Some(v1::Hashes {
                md5: Some(bytes_of(dice, 16)),
                sha1: None,
                sha256: Some(bytes_of(dice, 32)),
                source: v1::HashSource::ProcExe.into(),
                verdict: v1::HashVerdict::Verified.into(),
            }),
            ..v1::FileInfo::default()
        }
    }

    fn credentials(uid: u32, name: &str) -> v1::Credentials {
        let user = Some(v1::User {
            id: uid,
            name: Some(name.to_owned()),
            domain: None,
        });
        let group = Some(v1::Group {
            id: uid,
            name: Some(name.to_owned()),
        });
        v1::Credentials {
            real_user: user.clone(),
            effective_user: user.clone(),
            saved_user: user,
            real_group: group.clone(),
            effective_group: group.clone(),
            saved_group: group.clone(),
            supplementary_groups: group.into_iter().collect(),
            absent: vec![v1::Absent::new(9, v1::AbsentReason::NotSet)],
            ..v1::Credentials::default()
        }
    }

    fn process(dice: &mut Dice, path: &str, argv: &[String], pid: u32, start: u64) -> v1::Process {
        let value = |text: &str| Some(text.as_bytes().to_vec());
        v1::Process {
            unique_pid: unique_pid(pid, start),
            exec_id: 1,
            pid,
            ns_pid: Some(pid),
            start_boot_ns: start,
            start_time_ns: start.cast_signed() + OFFSET,
            r#type: v1::ProcessType::Exec.into(),
            image: Some(file(dice, path)),
            comm: value(path.rsplit('/').next().unwrap()),
            argv: argv.iter().map(|word| word.as_bytes().to_vec()).collect(),
            argv_true_bytes: Some(40),
            environment: [
                ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"),
                ("HOME", "/root"),
                ("SHELL", "/bin/bash"),
            ]
            .map(|(name, text)| v1::EnvironmentVariable {
                name: name.as_bytes().to_vec(),
                value: value(text),
                redacted: false,
            })
            .to_vec(),
            environment_true_bytes: Some(612),
            environment_withheld: Some(14),
            working_directory: value("/srv/build/work"),
            credentials: Some(credentials(0, "root")),
            capabilities: Some(v1::Capabilities {
                effective: Some(0x1ff_ffff_ffff),
                permitted: Some(0x1ff_ffff_ffff),
                inheritable: Some(0),
                bounding: Some(0x1ff_ffff_ffff),
                ambient: Some(0),
            }),
            session: Some(v1::Session {
                sid: Some(812),
                absent: vec![v1::Absent::new(1, v1::AbsentReason::NotSet)],
                ..v1::Session::default()
            }),
            namespaces: Some(v1::Namespaces {
                mnt: Some(4_026_531_841),
                pid: Some(4_026_531_836),
                net: Some(4_026_531_840),
                uts: Some(4_026_531_838),
                ipc: Some(4_026_531_839),
                user: Some(4_026_531_837),
                cgroup: Some(4_026_531_835),
                time: Some(4_026_531_834),
            }),
            cgroup_id: Some(4_211),
            cgroup_path: value("/system.slice/builder.service"),
            fileless: Some(false),
            secure_exec: Some(false),
            ptraced: Some(false),
            ..v1::Process::default()
        }
    }

    /// Bodies as the sealer fills them, at most 1,024 events each, of a host on which so many processes come and go.
    pub(super) fn body(stream: v1::Stream, processes: u32) -> Vec<v1::PacketBody> {
        let mut dice = Dice(0x2545_f491_4f6c_dd1d);
        let init = process(
            &mut dice,
            "/usr/lib/systemd/systemd",
            &["/sbin/init".to_owned()],
            1,
            20_000_000,
        );
        let mut shell = process(
            &mut dice,
            "/usr/bin/bash",
            &["bash".to_owned(), "/srv/build/run.sh".to_owned()],
            812,
            9_000_000_000,
        );
        shell.parent = Some(init.reference());
        let programs: Vec<(&str, v1::Process)> = [
            "/usr/bin/cc1",
            "/usr/bin/as",
            "/usr/bin/ld",
            "/usr/bin/make",
            "/usr/bin/git",
            "/usr/bin/curl",
            "/usr/bin/sed",
            "/usr/bin/grep",
            "/usr/bin/cat",
            "/usr/bin/tr",
        ]
        .into_iter()
        .map(|path| (path, process(&mut dice, path, &[], 0, 0)))
        .collect();

        let mut rows: Vec<v1::Process> = Vec::new();
        let mut events: Vec<(u64, usize, v1::EventType)> = Vec::new();
        let (mut now, mut pid) = (3_600_000_000_000_u64, 20_000_u32);
        for index in 0..processes {
            now += 100_000 + dice.roll(3_000_000);
            pid += 1 + u32::try_from(dice.roll(3)).unwrap();
            let (path, program) = &programs[usize::try_from(dice.roll(10)).unwrap()];
            let mut row = program.clone();
            row.pid = pid;
            row.ns_pid = Some(pid);
            row.start_boot_ns = now;
            row.start_time_ns = now.cast_signed() + OFFSET;
            row.unique_pid = unique_pid(pid, now);
            row.parent = Some(shell.reference());
            row.argv = vec![
                path.as_bytes().to_vec(),
                b"-o".to_vec(),
                format!("out/{index}.o").into_bytes(),
            ];
            let exec = now + 300_000 + dice.roll(400_000);
            let exit = exec + 900_000 + dice.roll(20_000_000);
            row.exec_time_ns = Some(exec.cast_signed() + OFFSET);
            row.end_time_ns = Some(exit.cast_signed() + OFFSET);
            let at = rows.len();
            events.push((exec, at, v1::EventType::Exec));
            events.push((
                exec + 400_000 + dice.roll(400_000),
                at,
                v1::EventType::Connect,
            ));
            events.push((exit, at, v1::EventType::Exit));
            rows.push(row);
        }
        events.sort();
        let mut sequences = [[0_u64; 8]; 2];
        let mut bodies: Vec<v1::PacketBody> = Vec::new();
        let mut body = v1::PacketBody::default();
        let mut used = BTreeSet::new();
        let count = events.len();
        for (counter, (time, row, event_type)) in events.into_iter().enumerate() {
            let process = &rows[row];
            let cpu = usize::try_from(dice.roll(8)).unwrap();
            let lane = usize::from(event_type == v1::EventType::Connect);
            sequences[lane][cpu] += 1;
            let event = v1::Event {
                id: Some(v1::EventId {
                    counter: u64::try_from(counter).unwrap() + 1,
                    ..v1::EventId::default()
                }),
                time_ns: time.cast_signed() + OFFSET,
                time_boot_ns: time,
                cpu: Some(u32::try_from(cpu).unwrap()),
                sequence: Some(sequences[lane][cpu]),
                lane: if lane == 0 {
                    v1::Lane::Process
                } else {
                    v1::Lane::Network
                }
                .into(),
                backend: v1::Backend::Fentry.into(),
                process: Some(v1::ProcessRef {
                    tid: Some(process.pid),
                    ..process.reference()
                }),
                // The reorder window, and what the daemon does in a batch.
                processed_time_ns: Some(
                    (time + 50_000_000 + dice.roll(40_000)).cast_signed() + OFFSET,
                ),
                body: Some(if event_type == v1::EventType::Exec {
                    Body::Exec(v1::Exec {
                        previous: Some(v1::ProcessRef {
                            exec_id: 0,
                            ..process.reference()
                        }),
                        filename: process.image.as_ref().and_then(|image| image.path.clone()),
                        ..v1::Exec::default()
                    })
                } else if event_type == v1::EventType::Exit {
                    Body::Exit(v1::Exit {
                        code: Some(u32::from(dice.roll(20) == 0)),
                        run_duration_ns: Some(time - process.start_boot_ns),
                        user_duration_ns: Some(dice.roll(9_000_000)),
                        system_duration_ns: Some(dice.roll(4_000_000)),
                        ..v1::Exit::default()
                    })
                } else {
                    Body::Connect(v1::Connect {
                        family: v1::AddressFamily::Inet.into(),
                        socket_type: v1::SocketType::Stream.into(),
                        transport: v1::Transport::Tcp.into(),
                        protocol: Some(6),
                        direction: v1::Direction::Outbound.into(),
                        local: Some(v1::Endpoint {
                            address: Some(vec![10, 0, 3, 17]),
                            port: Some(32_768 + u32::try_from(dice.roll(28_000)).unwrap()),
                            ..v1::Endpoint::default()
                        }),
                        remote: Some(v1::Endpoint {
                            address: Some(vec![10, 0, 0, u8::try_from(dice.roll(12)).unwrap()]),
                            port: Some(443),
                            ..v1::Endpoint::default()
                        }),
                        result: v1::ConnectResult::Established.into(),
                        duration_ns: Some(200_000 + dice.roll(3_000_000)),
                        socket_cookie: Some(u64::try_from(counter).unwrap() * 2 + 4_097),
                        ..v1::Connect::default()
                    })
                }),
                ..v1::Event::default()
            };
            if stream_of(&event) == stream {
                if used.insert(row) {
                    body.processes.push(process.clone());
                }
                body.events.push(event);
            }
            if body.events.len() == 1_024 || (counter + 1 == count && !body.events.is_empty()) {
                used.clear();
                body.processes.push(shell.clone());
                body.processes.push(init.clone());
                body.wall_minus_boot_ns = OFFSET;
                body.agent = Some(v1::Agent {
                    id: AGENT.to_vec(),
                    epoch: EPOCH.to_vec(),
                    version: "0.1.0".to_owned(),
                    schema_version: 1,
                });
                body.host = Some(v1::Host {
                    name: "builder".to_owned(),
                    boot_id: BOOT.to_vec(),
                    boot_time_ns: OFFSET,
                    ..v1::Host::default()
                });
                let row = |name: &str| v1::LedgerRow {
                    name: name.to_owned(),
                    in_kernel: true,
                    attempted: 70_000,
                    submitted: 70_000,
                    decoded: 70_000,
                    sealed: 70_000,
                    packed: 70_000,
                    ..v1::LedgerRow::default()
                };
                body.ledger = Some(v1::LedgerReport {
                    run_began_time_ns: OFFSET,
                    at_boot_ns: time,
                    rows: ["exec", "exit", "fork", "script", "module_load", "patch"]
                        .map(row)
                        .to_vec(),
                    ..v1::LedgerReport::default()
                });
                bodies.push(std::mem::take(&mut body));
            }
        }
        bodies
    }
}
