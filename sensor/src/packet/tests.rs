//! What goes into a packet and when, and that numbers, chain and account go on over runs.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sensor_common::record::RecordKind;
use sensor_proto::packet::{self as packets, OpenedPacket};

use super::outlet::Account;
use super::*;
use crate::clock::Clock;
use crate::enrich::process::ProcessTable;
use crate::enrich::process::tests::describer;
use crate::ledger::{Ledger, Row};
use crate::spool::storage::Disk;
use crate::spool::{HostIdentity, Item, Now, SharedSpool, Spool, SpoolConfig};

const RUN: Run = Run {
    agent_id: [1; 16],
    boot_id: [3; 16],
    run_id: [4; 16],
    began_time_ns: 77,
};
const SMALL: Limits = Limits {
    events: 3,
    bytes: 100_000,
    age_ns: 5_000,
    heartbeat_ns: 60_000,
};
const FIRST: Place = Place {
    epoch: [2; 16],
    sequence: 1,
    previous: None,
};

fn sealer(blind: Option<v1::BlindInterval>) -> Sealer {
    Sealer::new(v1::Stream::Process, SMALL, RUN, blind, 1_000).unwrap()
}

fn exit(counter: u64, time: u64) -> v1::Event {
    v1::Event {
        id: Some(v1::EventId {
            counter,
            ..v1::EventId::default()
        }),
        time_boot_ns: time,
        body: Some(v1::event::Body::Exit(v1::Exit::default())),
        ..v1::Event::default()
    }
}

fn facts(boot_ns: u64) -> Facts {
    Facts {
        time_ns: 1_000_000,
        boot_ns,
        wall_minus_boot_ns: 5,
        agent: v1::Agent::default(),
        host: v1::Host::default(),
        ledger: v1::LedgerReport {
            rows: vec![v1::LedgerRow {
                name: "exit".to_owned(),
                ..v1::LedgerRow::default()
            }],
            ..v1::LedgerReport::default()
        },
        tombstones: Vec::new(),
    }
}

fn open(packed: &Packed) -> OpenedPacket {
    packets::open(&packed.bytes, &packets::Limits::default()).unwrap()
}

#[test]
fn a_packet_is_due_by_count_bytes_and_age() {
    let mut sealer = sealer(None);
    // The first of a run comes soon, with or without events.
    assert_eq!(sealer.due_ns(), 1_000 + SMALL.age_ns);
    for counter in 1..=3 {
        assert!(!sealer.is_full());
        sealer.event(exit(counter, 10 * counter), 2_000);
    }
    assert!(sealer.is_full());
    assert_eq!(sealer.waiting(), 3);
    let packed = sealer.seal(FIRST, facts(3_000)).unwrap();
    assert_eq!(packed.counts, [(v1::EventType::Exit, 3)]);
    assert_eq!((packed.first_boot_ns, packed.last_boot_ns), (Some(10), 30));
    assert_eq!((sealer.waiting(), sealer.is_full()), (0, false));

    // Nothing to say: a heartbeat after a minute. Something: five seconds after it came.
    assert_eq!(sealer.due_ns(), 3_000 + SMALL.heartbeat_ns);
    sealer.event(exit(4, 40), 20_000);
    sealer.event(exit(5, 50), 24_000);
    assert_eq!(sealer.due_ns(), 20_000 + SMALL.age_ns);

    let mut large = exit(6, 60);
    if let Some(v1::event::Body::Exit(body)) = &mut large.body {
        body.absent = vec![v1::Absent::new(1, v1::AbsentReason::Pending); 30_000];
    }
    sealer.event(large, 24_000);
    assert!(sealer.is_full(), "of bytes");
}

#[test]
fn the_first_packet_tells_the_blind_interval_and_all_tell_how_many_are_packed() {
    let interval = v1::BlindInterval {
        to_boot_ns: 9,
        ..v1::BlindInterval::default()
    };
    let mut sealer = sealer(Some(interval.clone()));
    sealer.event(exit(1, 10), 2_000);
    let first = sealer.seal(FIRST, facts(3_000)).unwrap();
    let opened = open(&first);
    assert_eq!(opened.body().blind.as_ref(), Some(&interval));
    assert_eq!(opened.header().run_id, [4; 16]);
    let packed = |opened: &OpenedPacket| opened.body().ledger.as_ref().unwrap().rows[0].packed;
    assert_eq!(packed(&opened), 1);

    let next = Place {
        sequence: 2,
        previous: Some(first.digest),
        ..FIRST
    };
    // A heartbeat.
    let second = sealer.seal(next, facts(70_000)).unwrap();
    let opened = open(&second);
    assert_eq!((opened.body().blind.as_ref(), packed(&opened)), (None, 1));
    assert_eq!(opened.header().last_boot_ns, Some(70_000));
    assert_eq!(
        opened.header().previous_digest.as_deref(),
        Some(&first.digest[..])
    );
}

#[test]
fn rows_of_the_account_are_told_in_the_stream_of_their_events() {
    let mut ledger = Ledger::new();
    ledger.decoded(Row::Kind(RecordKind::Exec));
    ledger.decoded(Row::Kind(RecordKind::Connect));
    ledger.waiting(Row::Kind(RecordKind::Exec), "hold", 1);
    ledger.unseen("exec", Some(3));
    ledger.unseen("exit", Some(0));
    let names = |stream| {
        let report = report::report(&ledger, stream, 1, 2, &[]);
        report
            .rows
            .into_iter()
            .map(|row| row.name)
            .collect::<Vec<_>>()
    };
    let (process, bulk) = (names(v1::Stream::Process), names(v1::Stream::Bulk));
    for row in Row::all() {
        let told = [&process, &bulk]
            .iter()
            .filter(|names| names.iter().any(|name| name == row.name()))
            .count();
        let both = matches!(row, Row::Patch | Row::Unknown);
        assert_eq!(told, if both { 2 } else { 1 }, "{}", row.name());
    }
    let report = report::report(&ledger, v1::Stream::Process, 1, 2, &[]);
    let exec = report.rows.iter().find(|row| row.name == "exec").unwrap();
    assert_eq!((exec.decoded, exec.waiting[0].count), (1, 1));
    assert_eq!(report.unseen_at_most.len(), 1);
}

fn shared(folder: &Path, now: Now) -> (SharedSpool, crate::spool::Opening) {
    let disk = Disk::lock(folder).unwrap();
    let host = HostIdentity {
        boot_id: [3; 16],
        ..HostIdentity::default()
    };
    let (spool, opening) = Spool::open(disk, SpoolConfig::default(), host, &["one"], now).unwrap();
    (SharedSpool::new(spool), opening)
}

/// A table that knows nobody.
fn table() -> ProcessTable {
    let limits = crate::enrich::process::Limits {
        budget_bytes: 1 << 20,
        grace: std::time::Duration::from_secs(30),
    };
    let describer = describer(Path::new("/nonexistent"), false);
    ProcessTable::new(limits, [3; 16], false, describer)
}

#[test]
fn numbers_and_chain_go_on_over_runs_and_the_break_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(Clock::new().unwrap());
    let now = Now {
        wall_ns: clock.wall_now_ns().unwrap(),
        boot_ns: clock.boot_ns().unwrap(),
    };
    let asked = Arc::new(Mutex::new(0));
    let mut all: Vec<OpenedPacket> = Vec::new();
    let mut numbers = Vec::new();
    for (run, clean) in [(1_u8, true), (2, false), (3, true)] {
        let (spool, opening) = shared(folder.path(), now);
        let count = Arc::clone(&asked);
        let account = Account(Box::new(move |ledger: &mut Ledger| {
            *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            ledger.unseen("exec", Some(1));
        }));
        let mut packets = Packets::new(
            spool.clone(),
            &opening,
            Arc::clone(&clock),
            [3; 16],
            [run; 16],
            v1::Host::default(),
            account,
        )
        .unwrap();
        numbers.push(packets.first_number());
        let mut ledger = Ledger::new();
        let mut table = table();
        let event = exit(packets.first_number() + 1, now.boot_ns);
        assert_eq!(packets.event(event, None, &mut table, now.boot_ns), None);
        assert_eq!(packets.waiting(), 1);
        packets.seal(v1::Stream::Process, &mut ledger).unwrap();
        assert_eq!(packets.waiting(), 0);
        packets.finish(&mut ledger);
        spool.sync(now);
        let items = spool
            .with(|spool| spool.next("one", usize::MAX, now))
            .unwrap()
            .unwrap();
        for item in items {
            let Item::Packet(entry) = item else {
                panic!("nothing is missing");
            };
            let opened = packets::open(&entry.bytes, &packets::Limits::default()).unwrap();
            assert_eq!(*opened.digest(), entry.digest);
            assert_eq!(opened.header().sequence, entry.id.sequence);
            // What was acknowledged before a crash may be offered again.
            if all.iter().all(|known| known.digest() != opened.digest()) {
                all.push(opened);
            }
            spool
                .with(|spool| spool.ack("one", entry.id))
                .unwrap()
                .unwrap();
        }
        if clean {
            spool.close(now).unwrap();
        }
    }
    assert_eq!(all.len(), 9, "an event, and two last packets, in each run");
    assert_eq!(*asked.lock().unwrap(), 9, "the account is fresh in each");
    assert!(
        numbers.windows(2).all(|pair| pair[0] < pair[1]),
        "{numbers:?}"
    );
    let process: Vec<&OpenedPacket> = all
        .iter()
        .filter(|opened| opened.header().stream() == v1::Stream::Process)
        .collect();
    for pair in process.windows(2) {
        assert_eq!(
            pair[1].header().previous_digest.as_deref(),
            Some(&pair[0].digest()[..])
        );
        assert_eq!(pair[1].header().sequence, pair[0].header().sequence + 1);
        assert_eq!(pair[1].header().epoch, pair[0].header().epoch);
    }
    let blind: Vec<Option<bool>> = process
        .iter()
        .map(|opened| {
            opened
                .body()
                .blind
                .as_ref()
                .map(|blind| blind.after_clean_stop)
        })
        .collect();
    assert_eq!(blind, [None, None, Some(true), None, Some(false), None]);
    let last = process[4].body().blind.clone().unwrap();
    assert_eq!(last.from_boot_id.as_deref(), Some(&[3_u8; 16][..]));
    assert!(last.from_boot_ns.unwrap() <= last.to_boot_ns);
}
