//! What delivery costs: real events of this machine, from the kernel through sensor, spool and central node, on one box.
//! `cargo xtask bench delivery` runs it; it measures, and fails only if an event is missing and
//! was not counted.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sensor_tests::harness::{Options, Sensor, run_to_end};
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::wait_for;
use serde_json::Value;

use crate::delivery::{Node, state_folder};

pub(crate) const TESTS: &[Test] = &[Test::on_host(
    "bench::delivery",
    delivery,
    "timing says nothing in an emulated machine",
)];

/// Seconds of load, a third for each kind; the variable makes this program measure instead of testing.
pub(crate) const SECONDS: &str = "SENSOR_BENCH_SECONDS";
/// Threads that make the load: one more than is idle on two processors.
const THREADS: usize = 3;
/// Time after which a packet is sealed, and some more.
const SEALED: Duration = Duration::from_secs(6);
/// Different programs that run.
const PROGRAMS: usize = 40;

/// A process's use of the machine.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Ticks of `_SC_CLK_TCK`, user and system.
    ticks: u64,
    resident_kib: u64,
}

impl Cost {
    /// proc_pid_stat(5) and proc_pid_status(5).
    fn of(pid: u32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let number = |place: usize| -> u64 { fields[place].parse().unwrap() };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.unwrap().trim().trim_end_matches(" kB");
        Self {
            ticks: number(11) + number(12),
            resident_kib: kib.trim().parse().unwrap(),
        }
    }

    fn seconds_since(self, before: Self) -> f64 {
        let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap();
        (self.ticks - before.ticks) as f64 / hertz.unwrap() as f64
    }
}

/// What the sensor says of its one sink.
#[derive(Clone)]
struct Sink {
    acked: Value,
    bytes: u64,
    waiting: u64,
}

impl Sink {
    fn now() -> Self {
        // Asking costs, too.
        std::thread::sleep(Duration::from_millis(500));
        let scope = Place::here().scope.display().to_string();
        let (status, said, log) = run_to_end(&["status", "--json", "--scope-cgroup", &scope]);
        assert!(status.success(), "{log}");
        let said: Value = serde_json::from_str(&said).unwrap();
        let sink = &said["sinks"][0];
        Self {
            acked: sink["account"]["acked"].clone(),
            bytes: sink["acked_bytes"].as_u64().unwrap(),
            waiting: sink["account"]["waiting_packets"].as_u64().unwrap(),
        }
    }

    fn events(&self, kinds: &[&str]) -> u64 {
        let count = |kind: &&str| self.acked[*kind].as_u64().unwrap_or(0);
        kinds.iter().map(count).sum()
    }
}

/// Runs `work` in some threads until the time is over; gives how often.
fn load(time: Duration, work: &(impl Fn(u64) + Sync)) -> u64 {
    let count = AtomicU64::new(0);
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while Instant::now() < end {
                    work(count.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
    });
    count.into_inner()
}

struct Measured {
    what: &'static str,
    kinds: &'static [&'static str],
    offered: u64,
    events: u64,
    bytes: u64,
    seconds: f64,
    sensor: f64,
    node: f64,
}

fn delivery() {
    let seconds: u64 = std::env::var(SECONDS).unwrap().parse().expect("seconds");
    let time = Duration::from_secs(seconds.div_ceil(3));
    let node = Node::new();
    let state = state_folder();
    let sensor = Sensor::start(Options {
        events: "exec,exit,file_create,connect".to_owned(),
        config: node.sensor_config(state.path()),
        keep: |_| Value::Null,
        // The events go to the node alone.
        output: Some(fs::File::create("/dev/null").unwrap()),
        ..Options::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let programs: Vec<_> = (0..PROGRAMS)
        .map(|number| {
            let program = folder.path().join(format!("program-{number}"));
            fs::copy("/bin/true", &program).unwrap();
            program
        })
        .collect();
    // A port where nobody listens: it was free a moment ago.
    let closed = {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap()
    };
    let run = |number: u64| {
        let program = &programs[usize::try_from(number).unwrap() % PROGRAMS];
        let status = Command::new(program)
            .args(["--number", &(number % 100).to_string()])
            .stdin(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    };
    let connect = |_| drop(TcpStream::connect(closed).expect_err("nobody listens"));
    let files = folder.path().join("files");
    fs::create_dir(&files).unwrap();
    let write = |number: u64| {
        let path = files.join(number.to_string());
        fs::write(&path, format!("content {number}")).unwrap();
    };
    let mut rows = Vec::new();
    let mut peak = (0, 0);
    let mut phase = |what, kinds: &'static [&'static str], work: &dyn Fn() -> u64| {
        let quiet = || {
            wait_for("an empty spool", Place::here().patience() * 4, || {
                let sink = Sink::now();
                (sink.waiting == 0).then_some(sink)
            })
        };
        let before = quiet();
        let costs = [sensor.pid(), node.pid()].map(Cost::of);
        let began = Instant::now();
        let done = work();
        let seconds = began.elapsed().as_secs_f64();
        // Packets are sealed when they are full or some seconds old: until then more may come.
        let (mut last, mut same) = (Sink::now(), Instant::now());
        let limit = Place::here().patience() * 4;
        let after = wait_for("a node that has it all", limit, || {
            let sink = Sink::now();
            if sink.events(kinds) != last.events(kinds) || sink.waiting > 0 {
                (last, same) = (sink, Instant::now());
                return None;
            }
            (same.elapsed() > SEALED).then_some(sink)
        });
        let now = [sensor.pid(), node.pid()].map(Cost::of);
        peak.0 = peak.0.max(now[0].resident_kib);
        peak.1 = peak.1.max(now[1].resident_kib);
        rows.push(Measured {
            what,
            kinds,
            offered: done,
            events: after.events(kinds) - before.events(kinds),
            bytes: after.bytes - before.bytes,
            seconds,
            sensor: now[0].seconds_since(costs[0]),
            node: now[1].seconds_since(costs[1]),
        });
    };
    phase("programs that run and end", &["exec", "exit"], &|| {
        load(time, &run) * 2
    });
    phase("refused connections", &["connect"], &|| {
        load(time, &connect)
    });
    phase("files of unique content", &["file_create"], &|| {
        load(time, &write)
    });
    let end = sensor.stop();
    let ledger = end.assert_clean();
    for row in &rows {
        // More than a machine can take is offered: what is not there was counted.
        let lost: u64 = row.kinds.iter().map(|kind| ledger.lost(kind)).sum();
        assert!(
            row.events + lost >= row.offered,
            "{}: {} of {}, {lost} lost: {:#}",
            row.what,
            row.events,
            row.offered,
            ledger.0
        );
    }
    show(&rows, peak);
}

/// A table as docs/delivery.md has it.
fn show(rows: &[Measured], peak: (u64, u64)) {
    println!(
        "| load | offered | delivered | delivered/s | bytes/event on the wire | sensor, us CPU/event | node, us CPU/event |"
    );
    println!("|---|---|---|---|---|---|---|");
    for row in rows {
        let events = row.events as f64;
        println!(
            "| {} ({}) | {} | {} | {:.0} | {:.1} | {:.1} | {:.1} |",
            row.what,
            row.kinds.join(", "),
            row.offered,
            row.events,
            events / row.seconds,
            row.bytes as f64 / events,
            row.sensor * 1e6 / events,
            row.node * 1e6 / events,
        );
    }
    println!(
        "Resident at most: sensor {} KiB, node {} KiB.",
        peak.0, peak.1
    );
}
