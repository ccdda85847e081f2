//! From the sensor to Kafka: librdkafka's mock cluster, which stands still and is killed on the way, read by librdkafka's consumer.
//! What comes twice has the same id in its headers; without what comes twice, each event is there once and in order.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sensor_tests::harness::Sensor;
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::{trigger, wait_for};
use serde_json::Value;

use crate::delivery::{assert_once_in_order, run, runs, sensor, state_folder};

const REASON: &str = "the cluster runs on this machine only";

pub(crate) const TESTS: &[Test] = &[Test::on_host(
    "kafka::through_outages_once",
    through_outages_once,
    REASON,
)];

const SCRIPT: &str = include_str!("kafka.py");
const TOPIC: &str = "sensor.events";
const BROKERS: &str = "3";
/// Programs that run between two outages.
const PROGRAMS: usize = 20;

/// The script outside the watched cgroup; it is killed at the end.
struct Script(Child);

impl Script {
    fn start(words: &[&str]) -> Self {
        let python = std::env::var_os("SENSOR_PYTHON").map(PathBuf::from);
        let python = python.expect(
            "SENSOR_PYTHON names no Python with confluent_kafka; `cargo xtask receivers` fetches one",
        );
        let mut command: Command = trigger::command_in(&Place::here().outside, &python);
        let child = command
            .args(["-c", SCRIPT])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().try_into().unwrap());
        kill(pid, signal).unwrap();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Also one that stands still.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

struct Cluster {
    script: Script,
    answers: BufReader<std::process::ChildStdout>,
    addresses: Vec<String>,
}

impl Cluster {
    fn start() -> Self {
        let mut script = Script::start(&["cluster", BROKERS]);
        let mut answers = BufReader::new(script.0.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let addresses: Vec<String> =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert_eq!(addresses.len().to_string(), BROKERS);
        Self {
            script,
            answers,
            addresses,
        }
    }

    fn make_topic(&mut self) {
        let commands = self.script.0.stdin.as_mut().unwrap();
        writeln!(commands, "{TOPIC}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line, "made\n");
    }

    /// Configuration of a sensor that delivers here.
    fn sensor_config(&self, state: &Path) -> String {
        format!(
            "[state]\ndirectory = {state:?}\n[sink.kafka]\ntype = \"kafka\"\naddresses = {:?}\ntls = false\ntopic = {TOPIC:?}\n\
             format = \"json\"\nconnect_timeout = \"5s\"\nack_timeout = \"2s\"\nretry_max = \"1s\"\n",
            self.addresses
        )
    }
}

/// What a consumer has read.
struct Reader {
    _script: Script,
    records: Arc<Mutex<Vec<Value>>>,
}

impl Reader {
    fn of(cluster: &Cluster) -> Self {
        let mut script = Script::start(&["read", &cluster.addresses.join(","), TOPIC]);
        let lines = BufReader::new(script.0.stdout.take().unwrap()).lines();
        let records = Arc::<Mutex<Vec<Value>>>::default();
        let seen = Arc::clone(&records);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let record = serde_json::from_str(&line).unwrap();
                seen.lock().unwrap().push(record);
            }
        });
        Self {
            _script: script,
            records,
        }
    }

    fn records(&self) -> Vec<Value> {
        self.records.lock().unwrap().clone()
    }

    /// Waits until it has read of this run of the program.
    fn wait_for(&self, mark: &str) {
        wait_for(&format!("{mark} in the topic"), patience(), || {
            let records = self.records();
            let events: Vec<Value> = records
                .iter()
                .map(|record| record["value"].clone())
                .collect();
            runs(&events)
                .iter()
                .any(|known| known == mark)
                .then_some(())
        });
    }
}

/// Generous: the cluster and its reader are two more programs on a busy machine.
fn patience() -> Duration {
    Place::here().patience() * 6
}

fn wait_log(sensor: &Sensor, what: &str, wanted: impl Fn(&str) -> bool) {
    wait_for(what, patience(), || {
        let log = sensor.log();
        log.iter().any(|line| wanted(line)).then_some(())
    });
}

/// Runs programs with these numbers.
fn programs(numbers: std::ops::Range<usize>) -> String {
    let mut last = String::new();
    for number in numbers {
        last = run(&format!("delivery-{number}")).mark;
    }
    last
}

fn through_outages_once() {
    let state = state_folder();
    let mut first = Cluster::start();
    let watching = sensor(&first.sensor_config(state.path()));
    // It makes no topic, and says which is not there.
    wait_log(&watching, "the missing topic", |line| {
        line.contains(TOPIC) && line.contains("UNKNOWN_TOPIC_OR_PARTITION")
    });
    first.make_topic();
    let last = programs(0..PROGRAMS);
    let before = Reader::of(&first);
    before.wait_for(&last);

    // The cluster stands still: it is given up and tried again, and goes on when the cluster does.
    first.script.signal(Signal::SIGSTOP);
    let last = programs(PROGRAMS..2 * PROGRAMS);
    wait_log(&watching, "the silence", |line| {
        line.contains("not delivering") && (line.contains("silent") || line.contains("timeout"))
    });
    first.script.signal(Signal::SIGCONT);
    before.wait_for(&last);

    // It is gone with all that it had; what it had not acknowledged is kept for the one that comes after it.
    let mut records = before.records();
    drop(first);
    programs(2 * PROGRAMS..3 * PROGRAMS);
    watching.stop().assert_clean();
    let mut second = Cluster::start();
    second.make_topic();
    let watching = sensor(&second.sensor_config(state.path()));
    let last = programs(3 * PROGRAMS..3 * PROGRAMS + 1);
    let after = Reader::of(&second);
    after.wait_for(&last);
    let end = watching.stop();
    let ledger = end.assert_clean();
    let account = &ledger.0["sinks"]["kafka"];
    assert_eq!(account["lost"], serde_json::json!({}), "{account}");
    // What was read of the first cluster after the list was taken, if any, comes once more below.
    records.extend(after.records());

    // By its header a consumer knows what it has seen.
    let mut seen = BTreeMap::new();
    let mut events = Vec::new();
    let (mut keys, mut places) = (BTreeSet::new(), BTreeSet::new());
    for record in &records {
        let (headers, value) = (&record["headers"], &record["value"]);
        let id = headers["id"].as_str().unwrap();
        assert_eq!(value["id"], id, "{record}");
        assert_eq!(headers["type"], value["type"], "{record}");
        assert_eq!(headers["agent"], value["agent"]["id"], "{record}");
        assert_eq!(headers["format"], "json");
        let key = record["key"].as_str().unwrap();
        let stream = headers["stream"].as_str().unwrap();
        assert_eq!(
            key,
            format!("{}/{stream}", headers["agent"].as_str().unwrap())
        );
        keys.insert(key);
        places.insert((key, record["partition"].as_i64()));
        if let Some(told) = seen.insert(id, value) {
            assert_eq!(told, value, "two events are {id}");
            continue;
        }
        events.push(value.clone());
    }
    // A key is in one partition, whatever cluster.
    assert_eq!(keys.len(), places.len(), "{places:?}");
    assert_once_in_order(&events);
    let wanted: Vec<String> = (0..=3 * PROGRAMS)
        .map(|number| format!("delivery-{number}"))
        .collect();
    assert_eq!(runs(&events), wanted);
}
