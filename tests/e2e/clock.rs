//! The wall clock is set, forward and back, by hours and by a month, while the sensor runs, while it does not, and while packets
//! wait: everything arrives once and in order, each event with the time that the clock showed then, and nothing goes for its age.

use std::collections::BTreeMap;
use std::ops::Range;

use nix::sys::time::{TimeSpec, TimeValLike as _};
use nix::time::{ClockId, clock_settime};
use sensor_tests::coverage::time_ns;
use sensor_tests::harness::{Options, Sensor, end_shared};
use sensor_tests::oracle;
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::wait_for;
use serde_json::{Value, json};

use crate::delivery::{Node, assert_once_in_order, run, runs, state_folder};

pub(crate) const TESTS: &[Test] = &[Test::in_guest("clock::is_set", is_set)];

/// Programs between two settings of the clock.
const PROGRAMS: usize = 5;
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
/// How far an event's time may be from what a program reads beside it; the settings are hours.
const TOLERANCE_NS: i128 = 1_000_000_000;
/// A time that no clock here reaches.
const NEVER: &str = "2100-01-01T00:00:00Z";

/// Sets the wall clock so many seconds ahead.
pub(crate) fn set_ahead(seconds: i64) {
    let now = i64::try_from(oracle::clocks().0).unwrap();
    let then = TimeSpec::nanoseconds(now + seconds * 1_000_000_000);
    clock_settime(ClockId::CLOCK_REALTIME, then).unwrap();
}

fn start(config: &str) -> Sensor {
    Sensor::start(Options {
        events: "exec,exit".to_owned(),
        config: config.to_owned(),
        keep: |event| json!({"type": event["type"], "mark": event["process"]["argv"][1]}),
        ..Options::default()
    })
}

/// What ran, with the span of both clocks in which it did.
#[derive(Default)]
struct Told {
    marks: Vec<String>,
    spans: BTreeMap<String, (Range<i128>, Range<i128>)>,
}

impl Told {
    /// Runs programs.
    fn programs(&mut self, phase: &str) {
        for number in 0..PROGRAMS {
            let mark = format!("delivery-{phase}-{number}");
            let began = oracle::clocks().1;
            let run = run(&mark);
            let spans = (
                run.began - TOLERANCE_NS..run.ended + TOLERANCE_NS,
                began..oracle::clocks().1,
            );
            self.spans.insert(mark.clone(), spans);
            self.marks.push(mark);
        }
    }

    /// As [`Self::programs`]; waits until the sensor has told of them: then it has looked at the clock since.
    fn seen_programs(&mut self, phase: &str, sensor: &Sensor) {
        self.programs(phase);
        let last = self.last();
        sensor.expect(last, |event| {
            event["type"] == "exec" && event["mark"] == *last
        });
    }

    fn last(&self) -> &str {
        self.marks.last().unwrap()
    }
}

/// Completeness of the process stream in a span of the wall clock.
fn completeness(node: &Node, since: &str, until: &str) -> Value {
    let agents = node.lines(&["agents", "--json", "--since", since, "--until", until]);
    assert_eq!(agents.len(), 1, "{agents:?}");
    let reports = agents[0]["completeness"].as_array().unwrap();
    let report = reports.iter().find(|report| report["stream"] == "process");
    report.unwrap().clone()
}

fn is_set() {
    // One sensor at a time.
    end_shared();
    // Certificates that are valid whatever the clock will be.
    set_ahead(-40 * DAY);
    let mut node = Node::new();
    node.kill();
    set_ahead(40 * DAY);
    node.start();
    let state = state_folder();
    let config = node.sensor_config(state.path()) + "retry_max = \"1s\"\n";
    let mut told = Told::default();

    let sensor = start(&config);
    told.seen_programs("before", &sensor);
    set_ahead(HOUR);
    told.seen_programs("hour", &sensor);
    set_ahead(-DAY);
    told.seen_programs("day", &sensor);
    node.wait_for(told.last());
    sensor.stop().assert_clean();

    // While it does not run.
    set_ahead(HOUR);
    let sensor = start(&config);
    told.seen_programs("restarted", &sensor);
    node.wait_for(told.last());

    // While packets wait, beyond the age at which they would go: also for a sensor and a node that start with that clock.
    node.kill();
    told.seen_programs("waiting", &sensor);
    sensor.stop().assert_clean();
    set_ahead(30 * DAY);
    let sensor = start(&config);
    told.seen_programs("month", &sensor);
    set_ahead(-30 * DAY);
    told.seen_programs("back", &sensor);
    node.start();
    node.wait_for(told.last());

    // Beyond all but the month, so that no time of before comes again.
    set_ahead(2 * DAY);
    told.seen_programs("after", &sensor);
    node.wait_for(told.last());

    // Once, in order, and by both clocks where it was.
    let events = node.events();
    assert_once_in_order(&events);
    assert_eq!(runs(&events), told.marks);
    let mut times: BTreeMap<&str, &str> = BTreeMap::new();
    let mut before = 0;
    for event in events.iter().filter(|event| event["type"] == "exec") {
        let Some((mark, (wall, boot))) = event["process"]["argv"][1]
            .as_str()
            .and_then(|mark| told.spans.get_key_value(mark))
        else {
            continue;
        };
        let time = event["time"].as_str().unwrap();
        let time_boot = i128::from(event["time_boot_ns"].as_u64().unwrap());
        assert!(boot.contains(&time_boot), "{mark}: {time_boot} in {boot:?}");
        assert!(before < time_boot, "{mark}: {time_boot} after {before}");
        before = time_boot;
        let wall_ns = time_ns(time).unwrap();
        assert!(wall.contains(&wall_ns), "{mark}: {time} in {wall:?}");
        times.insert(mark, time);
    }
    assert_eq!(times.len(), told.marks.len());

    // The node says of each time that it has everything of it; of the month, that it may come again.
    let patience = Place::here().patience();
    for phase in ["before", "hour", "day", "restarted", "waiting", "back"] {
        let time = |number| times[format!("delivery-{phase}-{number}").as_str()];
        let (first, last) = (time(0), time(PROGRAMS - 1));
        wait_for(&format!("{phase} to be complete"), patience, || {
            let report = completeness(&node, first, last);
            let open = report["findings"].as_array().unwrap();
            let late = open.iter().any(|finding| finding["finding"] == "not_yet");
            assert!(late || report["complete"] == true, "{phase}: {report:#}");
            (!late).then_some(())
        });
    }
    let all = completeness(&node, "365d", NEVER);
    let mut found: Vec<&str> = all["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["finding"].as_str().unwrap())
        .collect();
    found.sort_unstable();
    // Between the runs nobody watched, by the clock of before and by that of after, and the node says so; nothing else is to be told.
    found.dedup();
    assert_eq!(found, ["blind", "not_yet", "unknown"], "{all:#}");
    sensor.stop().assert_clean();
}
