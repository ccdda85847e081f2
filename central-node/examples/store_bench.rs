//! How fast the node opens and stores packets, how much it keeps, and how long questions take.
//!
//! `cargo run --release -p central-node --features testing --example store_bench -- FOLDER [MILLIONS]`
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a measurement for people"
)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use central_node::agent_id::Peer;
use central_node::packet::{Limits, open};
use central_node::query::{Criteria, Criterion, Order, search};
use central_node::store;
use central_node::store::write::{self, Prepared};
use central_node::testing::{Maker, Seen};
use sensor_proto::v1;
use uuid::Uuid;

/// Events of a packet.
const EVENTS: u64 = 1_000;
/// Packets of a transaction.
const BATCH: u64 = 20;

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}

/// exec and exit of 40 programs, connections of 10 of them.
fn repeated(makers: &mut [Maker; 2], number: u64) -> Vec<u8> {
    let [process, bulk] = makers;
    let mut seen = Seen::default();
    if number % 3 == 2 {
        for n in 0..EVENTS {
            let pid = u32::try_from(number * 100 + n / 10).unwrap();
            let path = format!("/usr/bin/program-{}", pid % 10);
            let address = [10, 0, 0, u8::try_from(n % 50).unwrap()];
            bulk.connect(&mut seen, pid, &path, address, 443);
        }
        return bulk.seal(seen).unwrap();
    }
    for n in 0..EVENTS / 2 {
        let pid = u32::try_from(number * 1_000 + n).unwrap();
        let path = format!("/usr/bin/program-{}", pid % 40);
        process.exec(&mut seen, pid, &path);
        process.exit(&mut seen, pid, &path);
    }
    process.seal(seen).unwrap()
}

/// Files, each with a path and a hash of its own.
fn unique(makers: &mut [Maker; 2], number: u64) -> Vec<u8> {
    let [_, bulk] = makers;
    let mut seen = Seen::default();
    for n in 0..EVENTS {
        let file = format!("/home/alice/work/{number}/file-{n}");
        bulk.create(&mut seen, 7, "/usr/bin/tar", &file);
    }
    bulk.seal(seen).unwrap()
}

fn measure(name: &str, folder: &Path, packets: u64, make: fn(&mut [Maker; 2], u64) -> Vec<u8>) {
    let folder = folder.join(name);
    let mut connection = store::create(&folder).unwrap();
    let agent_id = Uuid::new_v4();
    let process = Maker::new(agent_id, v1::Stream::Process);
    let bulk = Maker {
        stream: v1::Stream::Bulk,
        counter: 1 << 40,
        ..process.clone()
    };
    let mut makers = [process, bulk];
    let peer = Peer {
        agent_id,
        certificate: [0; 32],
        not_after_ns: i64::MAX,
    };
    let limits = Limits::default();
    let (mut wall, mut used, mut wire) = (Duration::ZERO, Duration::ZERO, 0);
    for batch in 0..packets / BATCH {
        let made: Vec<_> = (0..BATCH)
            .map(|n| make(&mut makers, batch * BATCH + n))
            .collect();
        wire += made.iter().map(Vec::len).sum::<usize>();
        let (began, cpu_before) = (Instant::now(), cpu());
        let transaction = connection.transaction().unwrap();
        let agent = write::agent(&transaction, &peer).unwrap();
        for bytes in made {
            let prepared = Prepared::new(open(bytes, &limits).unwrap());
            write::packet(&transaction, agent, &prepared).unwrap();
        }
        transaction.commit().unwrap();
        wall += began.elapsed();
        used += cpu() - cpu_before;
    }
    let events = packets / BATCH * BATCH * EVENTS;
    let per = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(u32::try_from(events).unwrap());
    let length = std::fs::metadata(folder.join(store::FILE)).unwrap().len();
    println!(
        "{name}: {events} events, {:.0} events/s, {:.1} us CPU/event, {} bytes/event received, {} bytes/event stored",
        1e6 / per(wall),
        per(used),
        wire / usize::try_from(events).unwrap(),
        length / events,
    );
    questions(&folder);
}

fn questions(folder: &Path) {
    let connection = store::open(folder).unwrap();
    let of = |add: fn(&mut Criterion)| {
        let mut criterion = Criterion::default();
        add(&mut criterion);
        Criteria {
            criteria: vec![criterion],
            ..Criteria::default()
        }
    };
    for (name, criteria) in [
        (
            "process, newest 100",
            of(|c| c.process("/usr/bin/program-7").unwrap()),
        ),
        (
            "address, newest 100",
            of(|c| c.address("10.0.0.7").unwrap()),
        ),
        (
            "path, one match",
            of(|c| c.path("/home/alice/work/10/file-10").unwrap()),
        ),
        ("hash, no match", of(|c| c.hash(&"ab".repeat(32)).unwrap())),
        (
            "pattern, no match (opens all)",
            of(|c| c.path("/nowhere/*").unwrap()),
        ),
    ] {
        let began = Instant::now();
        let mut found = 0;
        search(&connection, &criteria, Order::NewestFirst, &mut |_| {
            found += 1;
            Ok(found < 100)
        })
        .unwrap();
        println!(
            "  {name}: {found} found in {:.1} ms",
            began.elapsed().as_secs_f64() * 1e3
        );
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().unwrap_or_else(|| "store-bench".to_owned()));
    let millions: u64 = args.next().map_or(1, |millions| millions.parse().unwrap());
    measure("repeated", &folder, millions * 1_000, repeated);
    measure("unique", &folder, millions * 1_000, unique);
}
