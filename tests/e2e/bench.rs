//! What delivery costs: real events of this machine, from the kernel through sensor, spool and central node, on one box; then a
//! recording of such events as fast as pipeline, spool and node take it, since a machine that makes events has less left for
//! delivering them. `cargo xtask bench delivery` runs it. It measures and ends by itself; it fails only if an event is missing
//! that nothing counted.
//!
//! The sensor is asked by a shell outside the watched cgroup: a question from inside would be an event itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sensor_tests::harness::{Ledger, Options, Sensor};
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::trigger::command_in;
use serde_json::Value;
use tempfile::TempDir;

use crate::delivery::{Node, state_folder};

pub(crate) const TESTS: &[Test] = &[Test::on_host(
    "bench::delivery",
    delivery,
    "timing says nothing in an emulated machine",
)];

/// Seconds of load, a quarter for each kind and for the recording; the variable makes this program measure instead of testing.
pub(crate) const SECONDS: &str = "SENSOR_BENCH_SECONDS";
/// Threads that make the load: one more than is idle on two processors.
const THREADS: usize = 3;
/// Time after which a packet is sealed, and some more.
const SEALED: Duration = Duration::from_secs(6);
/// Nothing is acknowledged for so long although packets wait: more will not come.
const STUCK: Duration = Duration::from_secs(60);
/// Time between two questions under load, beside the second that an answer takes.
const BETWEEN: Duration = Duration::from_millis(500);
/// Different programs that run.
const PROGRAMS: usize = 40;
/// Event types that count.
const EVENTS: &str = "exec,exit,file_create,connect";
/// What begins a line for `cargo xtask bench`, which is not part of the table.
const SAID: &str = "bench: ";

/// A process's use of the machine.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Ticks of `_SC_CLK_TCK`, user and system.
    ticks: u64,
    /// Most that was resident.
    peak_kib: u64,
}

impl Cost {
    /// proc_pid_stat(5) and proc_pid_status(5); none of a process that has ended.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let number = |place: usize| -> Option<u64> { fields.get(place)?.parse().ok() };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib = resident.trim().trim_end_matches(" kB");
        Some(Self {
            ticks: number(11)? + number(12)?,
            peak_kib: kib.trim().parse().ok()?,
        })
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
    /// Events in packets that are in the spool.
    waiting: u64,
}

impl Sink {
    fn events(&self, kinds: &[&str]) -> u64 {
        let count = |kind: &&str| self.acked[*kind].as_u64().unwrap_or(0);
        kinds.iter().map(count).sum()
    }
}

/// A shell outside the watched cgroup that asks the sensor how it stands.
struct Asker {
    shell: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Asker {
    fn start() -> Self {
        let place = Place::here();
        let mut shell = command_in(&place.outside, Path::new("/bin/sh"))
            .arg("-c")
            .arg(
                "while read -r _; do \"$0\" status --json --scope-cgroup \"$1\" || echo null; done",
            )
            .arg(&place.sensor)
            .arg(&place.scope)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let answers = BufReader::new(shell.stdout.take().unwrap());
        Self {
            questions: shell.stdin.take(),
            shell,
            answers,
        }
    }

    /// None: the sensor is too busy to answer.
    fn ask(&mut self) -> Option<Sink> {
        self.questions.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap();
        let sink = said.get("sinks")?.get(0)?;
        let waiting = sink["account"]["waiting"].as_object().unwrap();
        Some(Sink {
            acked: sink["account"]["acked"].clone(),
            bytes: sink["acked_bytes"].as_u64().unwrap(),
            waiting: waiting.values().filter_map(Value::as_u64).sum(),
        })
    }

    /// Waits until nothing moves any more: all is delivered, or the rest does not come. Also says when something moved last.
    fn settled(&mut self) -> (Sink, Instant) {
        let (mut last, mut moved): (Option<Sink>, _) = (None, Instant::now());
        loop {
            let now = self.ask();
            match (&last, &now) {
                (Some(before), Some(sink)) if before.acked == sink.acked => {}
                (_, Some(_)) => moved = Instant::now(),
                (_, None) => {}
            }
            let still = moved.elapsed();
            last = now.or(last);
            match &last {
                Some(sink) if (sink.waiting == 0 && still > SEALED) || still > STUCK => {
                    return (sink.clone(), moved);
                }
                Some(_) => {}
                None => assert!(still < STUCK, "the sensor does not answer"),
            }
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        // The end of its questions is its end.
        self.questions = None;
        drop(self.shell.wait());
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

/// What makes events.
struct Maker {
    /// Programs, then files.
    folder: TempDir,
    closed: SocketAddr,
    files: AtomicU64,
}

impl Maker {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..PROGRAMS {
            fs::copy("/bin/true", folder.path().join(format!("program-{number}"))).unwrap();
        }
        // Below the ports that the kernel gives to clients: there a connection could meet itself.
        let closed = (1..1024)
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .find(|address| TcpStream::connect(address).is_err())
            .unwrap();
        Self {
            folder,
            closed,
            files: AtomicU64::new(0),
        }
    }

    fn run(&self, number: u64) {
        let program = usize::try_from(number).unwrap() % PROGRAMS;
        let status = Command::new(self.folder.path().join(format!("program-{program}")))
            .args(["--number", &(number % 100).to_string()])
            .stdin(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    }

    fn connect(&self) {
        drop(TcpStream::connect(self.closed).expect_err("nobody listens"));
    }

    fn write(&self) {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("file-{number}"));
        fs::write(&path, format!("content {number}")).unwrap();
        // Seldom more than some thousand at once.
        if let Some(old) = number.checked_sub(4_096) {
            drop(fs::remove_file(
                self.folder.path().join(format!("file-{old}")),
            ));
        }
    }

    /// An exec, an exit and a connection.
    fn mix(&self, number: u64) {
        self.run(number);
        self.connect();
    }
}

struct Row {
    what: String,
    offered: u64,
    events: u64,
    bytes: u64,
    /// Length of the load, s.
    load: f64,
    /// Acknowledged per second while it lasted.
    rate: f64,
    /// Until everything that came had come, s.
    took: f64,
    sensor: f64,
    node: f64,
}

struct Bench {
    node: Node,
    asker: Asker,
    maker: Maker,
    time: Duration,
    rows: Vec<Row>,
    offered: BTreeMap<&'static str, u64>,
    peak_kib: [u64; 2],
}

impl Bench {
    /// Measures one load of real events: `work` makes one event of each kind.
    fn phase(
        &mut self,
        sensor: &Sensor,
        what: &str,
        kinds: &[&'static str],
        work: impl Fn(&Maker, u64) + Sync,
    ) {
        let (before, _) = self.asker.settled();
        let pids = [sensor.pid(), self.node.pid()];
        let costs = pids.map(|pid| Cost::of(pid).unwrap());
        let over = AtomicBool::new(false);
        let began = Instant::now();
        let (done, seconds, looks) = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut looks = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(BETWEEN);
                    if let Some(sink) = self.asker.ask() {
                        looks.push((began.elapsed().as_secs_f64(), sink));
                    }
                }
                looks
            });
            let (maker, time) = (&self.maker, self.time);
            let done = load(time, &|number| work(maker, number));
            let seconds = began.elapsed().as_secs_f64();
            over.store(true, Ordering::Relaxed);
            (done, seconds, asking.join().unwrap())
        });
        let (after, last) = self.asker.settled();
        let took = last.duration_since(began).as_secs_f64().max(seconds);
        let now = pids.map(|pid| Cost::of(pid).unwrap());
        for (peak, now) in self.peak_kib.iter_mut().zip(now) {
            *peak = now.peak_kib.max(*peak);
        }
        let (start, events) = (before.events(kinds), after.events(kinds));
        // Until the last answer under load; a load that is shorter than an answer has only the whole.
        let last = looks.iter().rfind(|(at, _)| *at <= seconds);
        let rate = match last {
            Some((at, sink)) => (sink.events(kinds) - start) as f64 / at,
            None => (events - start) as f64 / took,
        };
        for kind in kinds {
            *self.offered.entry(kind).or_default() += done;
        }
        self.rows.push(Row {
            what: format!("{what} ({})", kinds.join(", ")),
            offered: done * u64::try_from(kinds.len()).unwrap(),
            events: events - start,
            bytes: after.bytes - before.bytes,
            load: seconds,
            rate,
            took,
            sensor: now[0].seconds_since(costs[0]),
            node: now[1].seconds_since(costs[1]),
        });
    }

    /// Records the mix, then sends the recording through pipeline, spool and node as fast as these take it.
    fn recorded(&mut self) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mix.rec");
        let recorder = Sensor::start(Options {
            events: EVENTS.to_owned(),
            record: Some(file.clone()),
            ..Options::default()
        });
        let began = Instant::now();
        let maker = &self.maker;
        load(self.time, &|number| maker.mix(number));
        let load = began.elapsed().as_secs_f64();
        recorder.stop().assert_clean();
        let state = state_folder();
        let config = folder.path().join("sensor.toml");
        fs::write(&config, self.node.sensor_config(state.path())).unwrap();
        let place = Place::here();
        let log = folder.path().join("log");
        let before = Cost::of(self.node.pid()).unwrap();
        let began = Instant::now();
        let mut replay = command_in(&place.outside, &place.sensor)
            .args([
                "replay",
                "--deliver",
                "--stats",
                "--events",
                "exec,exit,connect",
                "--format",
                "json",
            ])
            .arg("--config")
            .arg(&config)
            .arg(&file)
            .env("NO_COLOR", "1")
            .env_remove("SENSOR_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut cost = Cost::default();
        let status = loop {
            if let Some(now) = Cost::of(replay.id()) {
                cost = now;
            }
            if let Some(status) = replay.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let took = began.elapsed().as_secs_f64();
        let now = Cost::of(self.node.pid()).unwrap();
        self.peak_kib[1] = now.peak_kib.max(self.peak_kib[1]);
        let said = fs::read_to_string(&log).unwrap();
        assert!(status.success(), "{status}: {said}");
        let ledger = said.lines().find_map(|line| line.strip_prefix("ledger "));
        let ledger = Ledger(serde_json::from_str(ledger.unwrap()).unwrap());
        let account = &ledger.0["sinks"]["node"];
        let number = |term: &str| account[term].as_u64().unwrap();
        let bytes = said.lines().find_map(|line| {
            let (_, rest) = line.split_once("acknowledged in this run")?;
            let (_, bytes) = rest.split_once("bytes=")?;
            bytes.split(' ').next()?.parse().ok()
        });
        println!(
            "{SAID}The recording has {} events, {} of its records were not kept; the process that replayed it had {} KiB resident at most.",
            number("sealed"),
            ["exec", "exit", "connect"]
                .map(|kind| ledger.lost(kind))
                .iter()
                .sum::<u64>(),
            cost.peak_kib
        );
        self.rows.push(Row {
            what: "the mix, recorded and replayed at full speed".to_owned(),
            offered: number("sealed"),
            events: number("acked"),
            bytes: bytes.unwrap_or_else(|| panic!("no bytes are told: {said}")),
            load,
            rate: number("acked") as f64 / took,
            took,
            sensor: cost.seconds_since(Cost::default()),
            node: now.seconds_since(before),
        });
    }

    /// A table as docs/delivery.md has it.
    fn show(&self) {
        println!(
            "| load | offered/s | delivered/s | delivered | bytes/event on the wire | sensor: CPU, per event | node: CPU, per event |"
        );
        println!("|---|---|---|---|---|---|---|");
        for row in &self.rows {
            let events = row.events.max(1) as f64;
            let cost = |seconds: f64| {
                format!(
                    "{:.0} %, {:.1} µs",
                    seconds / row.took * 100.0,
                    seconds * 1e6 / events
                )
            };
            println!(
                "| {} | {:.0} | {:.0} | {} of {} | {:.1} | {} | {} |",
                row.what,
                row.offered as f64 / row.load,
                row.rate,
                row.events,
                row.offered,
                row.bytes as f64 / events,
                cost(row.sensor),
                cost(row.node),
            );
        }
        println!(
            "{SAID}Resident at most: sensor {} KiB, node {} KiB.",
            self.peak_kib[0], self.peak_kib[1]
        );
    }
}

/// The machine, for those who read the figures.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap();
    let models = cpus.lines().filter(|line| line.starts_with("model name"));
    let models: Vec<&str> = models.filter_map(|line| line.split(": ").nth(1)).collect();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let busy = fs::read_to_string("/proc/loadavg").unwrap();
    format!(
        "{} processors ({}), Linux {}, load average before {}",
        models.len(),
        models.first().unwrap_or(&"?"),
        release.trim(),
        busy.split(' ').next().unwrap_or("?")
    )
}

fn delivery() {
    let seconds: u64 = std::env::var(SECONDS).unwrap().parse().expect("seconds");
    println!("{SAID}{}", machine());
    let node = Node::new();
    let state = state_folder();
    let sensor = Sensor::start(Options {
        events: EVENTS.to_owned(),
        config: node.sensor_config(state.path()),
        keep: |_| Value::Null,
        // The events go to the node alone.
        output: Some(fs::File::create("/dev/null").unwrap()),
        ..Options::default()
    });
    let mut bench = Bench {
        node,
        asker: Asker::start(),
        maker: Maker::new(),
        time: Duration::from_secs(seconds.div_ceil(4)),
        rows: Vec::new(),
        offered: BTreeMap::new(),
        peak_kib: [0; 2],
    };
    let mix = ["exec", "exit", "connect"];
    bench.phase(
        &sensor,
        "programs that run, connect and end",
        &mix,
        Maker::mix,
    );
    bench.phase(&sensor, "refused connections", &["connect"], |maker, _| {
        maker.connect()
    });
    bench.phase(
        &sensor,
        "files of unique content",
        &["file_create"],
        |maker, _| maker.write(),
    );
    let end = sensor.stop();
    let ledger = end.assert_clean();
    for (kind, offered) in &bench.offered {
        missing(ledger, kind, *offered);
    }
    bench.recorded();
    bench.show();
}

/// Tells what was lost of a kind, and fails if something is missing that nothing counted.
fn missing(ledger: &Ledger, kind: &str, offered: u64) {
    let row = &ledger.0["rows"][kind];
    let causes: BTreeSet<String> = ["kernel/lost", "daemon/lost_in_reader", "daemon/lost"]
        .iter()
        .filter_map(|place| row.pointer(&format!("/{place}"))?.as_object())
        .flatten()
        .filter(|(_, count)| count.as_u64() > Some(0))
        .map(|(cause, count)| format!("{cause} {count}"))
        .collect();
    if !causes.is_empty() {
        let causes: Vec<String> = causes.into_iter().collect();
        println!("{SAID}Lost of {kind}: {}.", causes.join(", "));
    }
    let sealed = ledger.daemon(kind, "sealed");
    // The kernel skips a program that is busy on the same processor, and counts only that.
    let unseen = ledger.unseen("");
    assert!(
        sealed + ledger.lost(kind) + unseen >= offered,
        "{kind}: {sealed} of {offered}: {:#}",
        ledger.0
    );
}
