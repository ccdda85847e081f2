//! The network between sensor and central node is cut, without either being told: packets just vanish.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sensor_tests::harness::{Options, Sensor, end_shared, run_to_end};
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::wait_for;
use serde_json::Value;

use crate::delivery::{Node, assert_once_in_order, run, runs, state_folder};

pub(crate) const TESTS: &[Test] = &[Test::on_host(
    "network::cut",
    cut,
    "the central node is built for this machine only",
)];

const IP: &str = "/usr/sbin/ip";
const NSENTER: &str = "/usr/bin/nsenter";
const NODE_ADDRESS: &str = "192.0.2.1";
const SENSOR_ADDRESS: &str = "192.0.2.2";
/// Programs before, during and after the cut.
const PROGRAMS: usize = 20;
/// Seconds without a network, where nobody asks for more; longer than everything that waits for an answer.
const SECONDS: u64 = 8;

/// A network namespace, kept by a process that sleeps.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let child = Command::new("/usr/bin/unshare")
            .args(["--net", "--kill-child", "/bin/sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let namespace = Self(child);
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        wait_for("a network namespace", Place::here().patience(), || {
            let its = std::fs::read_link(format!("/proc/{}/ns/net", namespace.pid())).ok()?;
            (its != own).then_some(())
        });
        namespace
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// What runs a program in it, as a command's first words.
    fn wrapper(&self) -> Vec<String> {
        [NSENTER, "--target", &self.pid(), "--net"]
            .map(str::to_owned)
            .to_vec()
    }

    fn ip(&self, words: &str) {
        let status = Command::new(NSENTER)
            .args(["--target", &self.pid(), "--net", IP])
            .args(words.split(' '))
            .status()
            .unwrap();
        assert!(status.success(), "ip {words}: {status}");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop((self.0.kill(), self.0.wait()));
    }
}

/// The sensor's sink, as `sensor status` has it.
fn sink() -> Value {
    let scope = Place::here().scope.display().to_string();
    let (status, said, log) = run_to_end(&["status", "--json", "--scope-cgroup", &scope]);
    assert!(status.success(), "{log}");
    let said: Value = serde_json::from_str(&said).unwrap();
    said["sinks"][0].clone()
}

fn cut() {
    // One sensor at a time.
    end_shared();
    let seconds = std::env::var("SENSOR_CUT_SECONDS")
        .map_or(SECONDS, |seconds| seconds.parse().expect("seconds"));
    let (here, there) = (Namespace::new(), Namespace::new());
    here.ip(&format!(
        "link add name sensor type veth peer name node netns {}",
        there.pid()
    ));
    for (namespace, name, address) in [
        (&here, "sensor", SENSOR_ADDRESS),
        (&there, "node", NODE_ADDRESS),
    ] {
        namespace.ip(&format!("address add {address}/24 dev {name}"));
        namespace.ip(&format!("link set {name} up"));
    }
    let node = Node::behind(there.wrapper(), NODE_ADDRESS);
    let state = state_folder();
    let config = node.sensor_config(state.path())
        + "connect_timeout = \"2s\"\nack_timeout = \"2s\"\nretry_max = \"1s\"\n";
    let sensor = Sensor::start(Options {
        events: "exec,exit".to_owned(),
        config,
        keep: |_| Value::Null,
        wrapper: here.wrapper().into_iter().map(Into::into).collect(),
        ..Options::default()
    });
    let mut wanted = Vec::new();
    let mut programs = |when: &str| {
        for number in 0..PROGRAMS {
            let mark = format!("delivery-{when}-{number}");
            run(&mark);
            wanted.push(mark);
        }
        wanted.last().unwrap().clone()
    };
    node.wait_for(&programs("before"));
    assert_eq!(sink()["state"], "delivering");

    there.ip("link set node down");
    programs("during");
    wait_for("a sink that retries", Place::here().patience(), || {
        let sink = sink();
        let attempts = sink["attempts"].as_u64().unwrap_or(0);
        (sink["state"] == "retrying" && attempts > 1).then_some(())
    });
    std::thread::sleep(Duration::from_secs(seconds));
    let meanwhile = sink();
    assert_eq!(meanwhile["state"], "retrying", "{meanwhile}");
    assert!(
        meanwhile["account"]["waiting_packets"].as_u64().unwrap() > 0,
        "{meanwhile}"
    );

    there.ip("link set node up");
    node.wait_for(&programs("after"));
    assert_eq!(sink()["state"], "delivering");
    sensor.stop().assert_clean();
    let events = node.events();
    assert_once_in_order(&events);
    assert_eq!(runs(&events), wanted);
}
