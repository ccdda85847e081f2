//! From the sensor through its spool to rotel, an OTLP receiver that is not ours. Counts and ids are read from what it logs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::{trigger, wait_for};
use tempfile::TempDir;

use crate::delivery::{PROGRAMS, run, sensor, state_folder};

const REASON: &str = "the receivers are fetched for this machine only";

pub(crate) const TESTS: &[Test] = &[
    Test::on_host(
        "otlp::grpc_of_everything_once",
        grpc_of_everything_once,
        REASON,
    ),
    Test::on_host(
        "otlp::http_of_everything_once",
        http_of_everything_once,
        REASON,
    ),
    Test::on_host(
        "otlp::grpc_when_the_receiver_is_killed",
        grpc_when_the_receiver_is_killed,
        REASON,
    ),
    Test::on_host(
        "otlp::http_when_the_receiver_is_killed",
        http_when_the_receiver_is_killed,
        REASON,
    ),
];

/// rotel, with what it logs.
struct Rotel {
    program: PathBuf,
    folder: TempDir,
    grpc: u16,
    http: u16,
    child: Option<Child>,
}

/// A record as rotel tells it.
#[derive(Debug, Default)]
struct Told {
    name: String,
    body: String,
    attributes: BTreeMap<String, String>,
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Rotel {
    fn new() -> Self {
        let program = std::env::var_os("SENSOR_ROTEL").map(PathBuf::from);
        let program =
            program.expect("SENSOR_ROTEL: `cargo xtask receivers` fetches rotel and prints it");
        let mut rotel = Self {
            program,
            folder: tempfile::tempdir().unwrap(),
            grpc: free_port(),
            http: free_port(),
            child: None,
        };
        rotel.start();
        rotel
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .unwrap();
        // Outside the watched cgroup.
        let child = trigger::command_in(&Place::here().outside, &self.program)
            .args(["start", "--exporter", "blackhole"])
            .args(["--debug-log", "logs", "--debug-log-verbosity", "detailed"])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{}", self.grpc)])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{}", self.http)])
            .arg("--pid-file")
            .arg(self.folder.path().join("pid"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        for port in [self.grpc, self.http] {
            wait_for(
                &format!("rotel on port {port}"),
                Place::here().patience(),
                || TcpStream::connect(("127.0.0.1", port)).ok(),
            );
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
    }

    /// Kills it as the kernel would when memory is short.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What it has told so far, a record that is just being written left out.
    fn told(&self) -> Vec<Told> {
        let bytes = fs::read(self.log()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let mut all = Vec::new();
        let mut current = Told::default();
        for line in text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            let line = line.trim_end();
            if line.starts_with("LogRecord #") {
                current = Told::default();
            } else if let Some(name) = line.strip_prefix("EventName: ") {
                name.clone_into(&mut current.name);
            } else if let Some(body) = line.strip_prefix("Body: ") {
                body.clone_into(&mut current.body);
            } else if let Some((key, value)) = line
                .strip_prefix("     -> ")
                .and_then(|attribute| attribute.split_once(": "))
            {
                current.attributes.insert(key.to_owned(), value.to_owned());
            } else if line.starts_with("Flags: ") {
                all.push(std::mem::take(&mut current));
            }
        }
        all
    }

    /// Ids of the execs and exits of marked runs.
    fn ids_of_runs(&self) -> Runs {
        let mut runs = Runs::default();
        for record in self.told() {
            let name = match record.name.as_str() {
                "sensor.exec" => "exec",
                "sensor.exit" => "exit",
                _ => continue,
            };
            if let Some(mark) = mark_in(&record.body) {
                runs.0.entry((mark, name)).or_default().insert(record.id());
            }
        }
        runs
    }

    /// Waits until it has told of the exec and the exit of all these runs.
    fn wait_for(&self, marks: &[String]) {
        let what = format!("{} runs at rotel, the last {:?}", marks.len(), marks.last());
        wait_for(&what, Place::here().patience() * 3, || {
            let runs = self.ids_of_runs();
            let has = |mark: &String, name| runs.0.contains_key(&(mark.clone(), name));
            let all = marks
                .iter()
                .all(|mark| has(mark, "exec") && has(mark, "exit"));
            all.then_some(())
        });
    }

    fn config(&self, protocol: &str, state: &Path) -> String {
        let port = if protocol == "grpc" {
            self.grpc
        } else {
            self.http
        };
        format!(
            "[state]\ndirectory = {state:?}\n[sink.rotel]\ntype = \"otlp\"\nprotocol = \"{protocol}\"\naddress = \"127.0.0.1:{port}\"\n\
             tls = false\nretry_max = \"2s\"\n"
        )
    }
}

impl Drop for Rotel {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Told {
    fn id(&self) -> String {
        self.attributes["log.record.uid"].clone()
    }
}

/// By mark and event, the ids that were told.
#[derive(Debug, Default)]
struct Runs(BTreeMap<(String, &'static str), BTreeSet<String>>);

/// The mark among the arguments of a run.
fn mark_in(body: &str) -> Option<String> {
    let (_, rest) = body.split_once("Str(otlp-")?;
    let (number, _) = rest.split_once(')')?;
    Some(format!("otlp-{number}"))
}

/// Whether something that was sent to this port lies unread.
fn unread(port: u16) -> bool {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let place = format!("0100007F:{port:04X}");
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let established = fields.get(1) == Some(&place.as_str()) && fields.get(3) == Some(&"01");
        let queues = fields.get(4).and_then(|queues| queues.split_once(':'));
        established && queues.is_some_and(|(_, unread)| unread != "00000000")
    })
}

fn marks(numbers: std::ops::Range<u64>) -> Vec<String> {
    let names = numbers.map(|number| format!("otlp-{number}"));
    names.inspect(|mark| drop(run(mark))).collect()
}

fn of_everything_once(protocol: &str) {
    let rotel = Rotel::new();
    let state = state_folder();
    let config = rotel.config(protocol, state.path());
    let sensor = sensor(&config);
    let wanted = marks(0..PROGRAMS);
    rotel.wait_for(&wanted);
    let end = sensor.stop();
    let ledger = end.assert_clean();
    let account = &ledger.0["sinks"]["rotel"];
    let number = |key: &str| account[key].as_u64().unwrap();
    assert_eq!(
        number("acked") + number("waiting"),
        number("sealed"),
        "{account}"
    );
    // A receiver that lives has everything once: as many as were acknowledged, each with an id of its own.
    let told = wait_for("all that is acknowledged", Place::here().patience(), || {
        let told = rotel.told();
        (u64::try_from(told.len()).unwrap() >= number("acked")).then_some(told)
    });
    let ids: BTreeSet<String> = told.iter().map(Told::id).collect();
    assert_eq!(ids.len(), told.len(), "something is there twice");
    assert!(number("acked") >= 2 * PROGRAMS, "{account}");
    for (run, ids) in rotel.ids_of_runs().0 {
        assert_eq!(ids.len(), 1, "{run:?} has {ids:?}");
    }
    let exec = told
        .iter()
        .find(|record| record.name == "sensor.exec")
        .unwrap();
    assert!(
        exec.attributes["process.executable.path"].starts_with("Str(/"),
        "{exec:?}"
    );
}

fn grpc_of_everything_once() {
    of_everything_once("grpc");
}

fn http_of_everything_once() {
    of_everything_once("http");
}

fn when_the_receiver_is_killed(protocol: &str) {
    let mut rotel = Rotel::new();
    let state = state_folder();
    let config = rotel.config(protocol, state.path());
    let port = if protocol == "grpc" {
        rotel.grpc
    } else {
        rotel.http
    };
    let sensor = sensor(&config);
    let mut wanted = marks(0..PROGRAMS);
    // What it acknowledged and did not tell dies with it: it is stopped when it has told everything.
    rotel.wait_for(&wanted);
    rotel.signal(Signal::SIGSTOP);
    wanted.extend(marks(PROGRAMS..2 * PROGRAMS));
    wait_for("a request on the way", Place::here().patience(), || {
        unread(port).then_some(())
    });
    rotel.kill();
    wanted.extend(marks(2 * PROGRAMS..3 * PROGRAMS));
    rotel.start();
    wanted.extend(marks(3 * PROGRAMS..4 * PROGRAMS));
    rotel.wait_for(&wanted);
    sensor.stop().assert_clean();
    // All of them at least once, and by their ids once.
    let runs = rotel.ids_of_runs();
    assert_eq!(runs.0.len(), 2 * wanted.len(), "{:?}", runs.0.keys());
    for (run, ids) in &runs.0 {
        assert_eq!(ids.len(), 1, "{run:?} has {ids:?}");
    }
}

fn grpc_when_the_receiver_is_killed() {
    when_the_receiver_is_killed("grpc");
}

fn http_when_the_receiver_is_killed() {
    when_the_receiver_is_killed("http");
}
