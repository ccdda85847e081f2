//! From the sensor through its spool to the central node, with either side killed on the way: what was durable arrives, once
//! and in order; of the rest the node says from when to when it is blind.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sensor_tests::coverage::time_ns;
use sensor_tests::harness::{Options, Sensor};
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::{oracle, wait_for};
use serde_json::Value;
use tempfile::TempDir;

const REASON: &str = "the central node is built for this machine only";

pub(crate) const TESTS: &[Test] = &[
    Test::on_host("delivery::of_everything_once", of_everything_once, REASON),
    Test::on_host("delivery::after_an_outage", after_an_outage, REASON),
    Test::on_host(
        "delivery::by_credentials_of_the_service",
        credentials,
        REASON,
    ),
    Test::on_host("delivery::a_key_that_others_may_read", open_key, REASON),
    Test::on_host("delivery::chaos", chaos, REASON),
];

/// Rounds of [`chaos`] where nobody asks for more ($SENSOR_CHAOS_ROUNDS).
const ROUNDS: u64 = 10;
/// Programs that run in a round, before and after something is killed.
pub(crate) const PROGRAMS: u64 = 30;
/// The program whose runs are counted.
const PROGRAM: &str = "/bin/true";

/// The central node's program, its certificates and data.
pub(crate) struct Node {
    program: PathBuf,
    folder: PathBuf,
    /// The folder, where it goes with the node.
    _temporary: Option<TempDir>,
    /// Port of the first start, kept at later ones.
    port: u16,
    child: Option<Child>,
    /// Words before the program of its server, which run it in a network of its own.
    wrapper: Vec<String>,
    /// Where it listens.
    host: String,
}

impl Node {
    pub(crate) fn new() -> Self {
        Self::behind(Vec::new(), "127.0.0.1")
    }

    /// A node whose server runs by these words, and listens at this address.
    pub(crate) fn behind(wrapper: Vec<String>, host: &str) -> Self {
        let folder = state_folder();
        let mut node = Self::of(folder.path(), wrapper, host);
        node._temporary = Some(folder);
        node
    }

    /// A node with its files in a folder, which stay there: with the store and the certificates that are there, or new ones.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self::of(folder, Vec::new(), "127.0.0.1")
    }

    fn of(folder: &Path, wrapper: Vec<String>, host: &str) -> Self {
        let program = std::env::var_os("SENSOR_NODE_BIN").map(PathBuf::from);
        let program =
            program.unwrap_or_else(|| Place::here().sensor.with_file_name("central-node"));
        assert!(
            program.is_file(),
            "{} is not there: build it with `cargo build -p central-node`, or name it in SENSOR_NODE_BIN",
            program.display()
        );
        let mut node = Self {
            program,
            folder: folder.to_owned(),
            _temporary: None,
            port: 0,
            child: None,
            wrapper,
            host: host.to_owned(),
        };
        if !node.certificates().exists() {
            let made = node
                .command(&["certificates", "--agent", "new", "--folder"])
                .arg(node.certificates())
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
        }
        node.start();
        node
    }

    fn certificates(&self) -> PathBuf {
        self.folder.join("certificates")
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// A command of the node outside the watched cgroup.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = sensor_tests::trigger::command_in(&Place::here().outside, &self.program);
        command.args(words);
        command
    }

    pub(crate) fn start(&mut self) {
        let place = self.certificates();
        let mut words: Vec<PathBuf> = self.wrapper.iter().map(PathBuf::from).collect();
        words.push(self.program.clone());
        let (program, rest) = words.split_first().unwrap();
        let mut child = sensor_tests::trigger::command_in(&Place::here().outside, program)
            .args(rest)
            .args(["serve", "--listen", &format!("{}:{}", self.host, self.port)])
            .arg("--data")
            .arg(self.data())
            .arg("--certificate")
            .arg(place.join("server.pem"))
            .arg("--key")
            .arg(place.join("server.key"))
            .arg("--client-ca")
            .arg(place.join("ca.pem"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        self.child = Some(child);
        let address = line.trim().strip_prefix("listening on ");
        let address = address.unwrap_or_else(|| panic!("the node says {line:?}"));
        self.port = address.rsplit(':').next().unwrap().parse().unwrap();
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Kills it as the kernel would when memory is short.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// What a question to its store is answered with, line by line.
    pub(crate) fn lines(&self, words: &[&str]) -> Vec<Value> {
        let output = self
            .command(words)
            .arg("--data")
            .arg(self.data())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let lines = output.stdout.split(|byte| *byte == b'\n');
        lines
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        let lines = self.lines(&["export"]);
        lines
            .into_iter()
            .map(|line| line["event"].clone())
            .collect()
    }

    /// The agent's certificate and key.
    fn agent(&self) -> (PathBuf, PathBuf) {
        let certificate = fs::read_dir(self.certificates())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                name.starts_with("agent-") && name.ends_with(".pem")
            })
            .unwrap();
        let key = certificate.with_extension("key");
        (certificate, key)
    }

    /// Configuration of a sensor that delivers here.
    pub(crate) fn sensor_config(&self, state: &Path) -> String {
        let (certificate, key) = self.agent();
        format!(
            "[state]\ndirectory = {state:?}\n[sink.node]\ntype = \"central_node\"\naddress = \"{}:{}\"\n\
             ca_file = {:?}\ncertificate_file = {certificate:?}\nkey_file = {key:?}\nserver_name = \"localhost\"\n",
            self.host,
            self.port,
            self.certificates().join("ca.pem"),
        )
    }

    /// Waits until the store has this run of the program.
    pub(crate) fn wait_for(&self, mark: &str) {
        wait_for(
            &format!("{mark} at the node"),
            Place::here().patience() * 3,
            || {
                runs(&self.events())
                    .iter()
                    .any(|known| known == mark)
                    .then_some(())
            },
        );
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn state_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

pub(crate) fn sensor(config: &str) -> Sensor {
    Sensor::start(Options {
        events: "exec,exit".to_owned(),
        config: config.to_owned(),
        keep: |_| Value::Null,
        ..Options::default()
    })
}

/// A run of the program: which, and between which times of the wall clock.
pub(crate) struct Run {
    pub(crate) mark: String,
    pub(crate) began: i128,
    pub(crate) ended: i128,
}

/// Runs the program, marked, and waits for its end.
pub(crate) fn run(mark: &str) -> Run {
    let began = oracle::clocks().0;
    let status = Command::new(PROGRAM).arg(mark).status().unwrap();
    assert!(status.success(), "{status}");
    Run {
        mark: mark.to_owned(),
        began,
        ended: oracle::clocks().0,
    }
}

/// Marks of the runs that these events tell of, in their order.
pub(crate) fn runs(events: &[Value]) -> Vec<String> {
    let execs = events.iter().filter(|event| event["type"] == "exec");
    let marks = execs.filter_map(|event| event["process"]["argv"][1].as_str());
    marks
        .filter(|mark| mark.starts_with("delivery-"))
        .map(str::to_owned)
        .collect()
}

/// Nothing is there twice, and what the process stream tells is in order.
pub(crate) fn assert_once_in_order(events: &[Value]) {
    let mut ids = BTreeSet::new();
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for event in events {
        let id = event["id"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "{id} is there twice");
        if !matches!(event["type"].as_str(), Some("exec" | "exit")) {
            continue;
        }
        let (epoch, number) = id.rsplit_once('/').unwrap();
        let number = number.parse().unwrap();
        if let Some(before) = last.insert(epoch.to_owned(), number) {
            assert!(before < number, "{id} comes after {before}");
        }
    }
}

/// Delivers what a sensor has left, until the node has so many events.
fn flush(config: &str, node: &Node, count: usize) {
    if node.events().len() < count {
        let rest = sensor(config);
        wait_for(
            &format!("{count} events at the node"),
            Place::here().patience() * 2,
            || (node.events().len() >= count).then_some(()),
        );
        rest.stop().assert_clean();
    }
}

/// Keys and certificates as systemd gives them to a service that has `LoadCredential=` in its unit.
fn credentials() {
    let node = Node::new();
    let (state, given) = (state_folder(), state_folder());
    let (certificate, key) = node.agent();
    let mut config = node.sensor_config(state.path());
    for (path, name) in [(&certificate, "agent.pem"), (&key, "agent.key")] {
        let copy = given.path().join(name);
        fs::copy(path, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o400)).unwrap();
        let typed = format!("{path:?}");
        assert!(config.contains(&typed), "{config}");
        config = config.replace(&typed, &format!("\"credential:{name}\""));
    }
    let mut folder = OsString::from("CREDENTIALS_DIRECTORY=");
    folder.push(given.path());
    let sensor = Sensor::start(Options {
        events: "exec,exit".to_owned(),
        config,
        keep: |_| Value::Null,
        wrapper: vec!["/usr/bin/env".into(), folder],
        ..Options::default()
    });
    run("delivery-by-credentials");
    node.wait_for("delivery-by-credentials");
    sensor.stop().assert_clean();
}

/// It is not used, which the log says; once it is its owner's alone, what has waited goes out.
fn open_key() {
    let node = Node::new();
    let state = state_folder();
    let (_, key) = node.agent();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let sensor = sensor(&node.sensor_config(state.path()));
    sensor.wait_log("word of the key's permissions", |line| {
        line.contains("key_file: group or others may read it (mode 644); make it 0600")
    });
    run("delivery-after-chmod");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    node.wait_for("delivery-after-chmod");
    sensor.stop().assert_clean();
}

fn of_everything_once() {
    let node = Node::new();
    let state = state_folder();
    let config = node.sensor_config(state.path());
    let sensor = sensor(&config);
    for number in 0..PROGRAMS {
        run(&format!("delivery-{number}"));
    }
    let end = sensor.stop();
    let ledger = end.assert_clean();
    let account = &ledger.0["sinks"]["node"];
    let number = |key: &str| account[key].as_u64().unwrap();
    let sealed = number("sealed");
    assert!(sealed >= 2 * PROGRAMS, "{account}");
    assert_eq!(number("acked") + number("waiting"), sealed, "{account}");
    // A sensor waits a few seconds only for its receivers; what a busy machine did not do in them the next run does.
    flush(&config, &node, usize::try_from(sealed).unwrap());
    // Counted by the receiver, not by the sender.
    let events = node.events();
    // A run that only flushes tells of the questions to the node, too.
    assert!(u64::try_from(events.len()).unwrap() >= sealed);
    assert_once_in_order(&events);
    let wanted: Vec<String> = (0..PROGRAMS)
        .map(|number| format!("delivery-{number}"))
        .collect();
    assert_eq!(runs(&events), wanted);
    // The sensor is who its certificate says.
    let (certificate, _) = node.agent();
    let name = certificate.file_stem().unwrap().to_str().unwrap();
    let agent = name.strip_prefix("agent-").unwrap();
    assert!(events.iter().all(|event| event["agent"]["id"] == agent));
}

fn after_an_outage() {
    let mut node = Node::new();
    let state = state_folder();
    let config = node.sensor_config(state.path());
    node.kill();
    let first = sensor(&config);
    for number in 0..PROGRAMS {
        run(&format!("delivery-{number}"));
    }
    // It ends while nobody takes anything: all is kept.
    let end = first.stop();
    let ledger = end.assert_clean();
    assert_eq!(ledger.0["sinks"]["node"]["acked"], 0);
    node.start();
    let second = sensor(&config);
    let last = run(&format!("delivery-{PROGRAMS}"));
    node.wait_for(&last.mark);
    second.stop().assert_clean();
    let events = node.events();
    assert_once_in_order(&events);
    let wanted: Vec<String> = (0..=PROGRAMS)
        .map(|number| format!("delivery-{number}"))
        .collect();
    assert_eq!(runs(&events), wanted);
}

/// Spans of the wall clock about which the node says that it knows nothing.
pub(crate) fn blind(node: &Node) -> Vec<(i128, i128)> {
    let agents = node.lines(&["agents", "--json", "--since", "365d"]);
    let streams = agents
        .iter()
        .flat_map(|agent| agent["completeness"].as_array().unwrap())
        .filter(|stream| stream["stream"] == "process");
    let findings = streams.flat_map(|stream| stream["findings"].as_array().unwrap());
    findings
        .filter(|finding| matches!(finding["finding"].as_str(), Some("blind" | "unknown")))
        .map(|finding| {
            let time = |key: &str, open| {
                finding[key]
                    .as_str()
                    .map_or(open, |text| time_ns(text).unwrap())
            };
            (time("from", i128::MIN), time("to", i128::MAX))
        })
        .collect()
}

fn chaos() {
    let rounds = std::env::var("SENSOR_CHAOS_ROUNDS")
        .map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let mut node = Node::new();
    let state = state_folder();
    let config = node.sensor_config(state.path());
    let mut told: Vec<Run> = Vec::new();
    let (mut killed, mut arrived) = (0, 0);
    let mut current = sensor(&config);
    // Any order does; this one is the same each time.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..rounds {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let until = random % PROGRAMS;
        for number in 0..PROGRAMS {
            if number == until {
                // In every other round something has arrived before the blow: a packet is sealed some seconds after its first event.
                if random & 0x400 != 0
                    && let Some(run) = told.last()
                {
                    node.wait_for(&run.mark);
                    arrived = told.len();
                }
                if random & 0x300 != 0x100 {
                    node.kill();
                }
                if random & 0x300 != 0 {
                    current.kill();
                    killed += 1;
                    current = sensor(&config);
                }
            }
            told.push(run(&format!("delivery-{round}-{number}")));
            if number % 8 == 0 {
                // Time enough for some packets to be sealed and sent before the next blow, now and then.
                std::thread::sleep(Duration::from_millis(random >> 40 & 0xff));
            }
        }
        if node.child.is_none() {
            node.start();
        }
    }
    // The last of all is delivered, and with it all before it.
    let last = format!("delivery-{rounds}-0");
    told.push(run(&last));
    node.wait_for(&last);
    current.stop().assert_clean();
    let events = node.events();
    assert_once_in_order(&events);
    let stored = runs(&events);
    let known: BTreeSet<&str> = stored.iter().map(String::as_str).collect();
    assert_eq!(known.len(), stored.len(), "a run is there twice");
    let blind = blind(&node);
    let mut missing = 0;
    for run in &told {
        if known.contains(run.mark.as_str()) {
            continue;
        }
        missing += 1;
        assert!(
            blind
                .iter()
                .any(|(from, to)| run.began <= *to && run.ended >= *from),
            "{} is missing, and the node does not say that it was blind then: {blind:?}, {}..{}",
            run.mark,
            run.began,
            run.ended,
        );
    }
    // The process stream is in order: with one run all before it were durable, but for what was lost by an earlier blow.
    let stored_then = told
        .iter()
        .take(arrived)
        .filter(|run| known.contains(run.mark.as_str()))
        .count();
    assert!(
        stored_then > 0 || arrived == 0,
        "nothing is left of what had arrived"
    );
    assert!(
        killed > 0 || missing == 0,
        "{missing} are missing, and the sensor was never killed"
    );
    println!(
        "{rounds} rounds, the sensor killed {killed} times: {} of {} programs stored, the others within {} blind spans",
        stored.len(),
        told.len(),
        blind.len()
    );
}
