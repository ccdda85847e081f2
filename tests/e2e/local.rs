//! Files and standard output behind the spool: a sensor that is killed, a disk that is full, and nothing that was durable is
//! missing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};
use sensor_tests::harness::{Options, Sensor, run_to_end};
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::wait_for;
use serde_json::Value;

use crate::delivery::{run, runs, sensor, state_folder};

const REASON: &str = "a sink takes packets, which are the same on every kernel";

pub(crate) const TESTS: &[Test] = &[
    Test::on_host("local::killed_in_the_middle", killed_in_the_middle, REASON),
    Test::on_host("local::a_full_disk", a_full_disk, REASON),
    Test::on_host("local::standard_output", standard_output, REASON),
];

/// How often the sensor is killed.
const KILLS: usize = 3;
/// Programs that run before something must have arrived, and between that and the kill.
const PROGRAMS: usize = 20;

/// Whole lines of a file and of those that were set aside; what stands behind the last of all is told apart.
fn lines(path: &Path) -> (Vec<Value>, String) {
    let aside = (1..).map(|number| PathBuf::from(format!("{}.{number}", path.display())));
    let mut files: Vec<PathBuf> = aside.take_while(|path| path.exists()).collect();
    files.reverse();
    files.push(path.to_owned());
    let (mut events, mut torn) = (Vec::new(), String::new());
    for file in files {
        assert_eq!(torn, "", "a torn line before {}", file.display());
        let text = fs::read_to_string(&file).unwrap_or_default();
        let (whole, rest) = text.rsplit_once('\n').unwrap_or(("", &text));
        events.extend(
            whole
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap()),
        );
        torn = rest.to_owned();
    }
    (events, torn)
}

fn ids(events: &[Value]) -> BTreeSet<String> {
    let ids = events.iter().map(|event| event["id"].as_str());
    ids.map(|id| id.unwrap().to_owned()).collect()
}

/// Events of packets or of a segment; what is torn at its end is left out.
fn decoded(path: &Path) -> Vec<Value> {
    let (_status, said, _log) = run_to_end(&["decode", path.to_str().unwrap()]);
    said.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Events that the spool has.
fn spooled(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(spooled(&path));
        } else if path.extension().is_some_and(|end| end == "seg") {
            found.extend(ids(&decoded(&path)));
        }
    }
    found
}

fn programs(round: &str) {
    for number in 0..PROGRAMS {
        run(&format!("delivery-{round}-{number}"));
    }
}

/// Waits until a run is in the file.
fn wait_for_run(path: &Path, mark: &str) {
    let limit = Place::here().patience() * 3;
    wait_for(&format!("{mark} in the file"), limit, || {
        let known = runs(&lines(path).0);
        known.iter().any(|known| known == mark).then_some(())
    });
}

fn killed_in_the_middle() {
    let (state, folder) = (state_folder(), state_folder());
    let (text, packets) = (folder.path().join("events"), folder.path().join("packets"));
    let config = format!(
        "[state]\ndirectory = {:?}\n\
         [sink.lines]\ntype = \"file\"\npath = {text:?}\nrotate_size = \"64KiB\"\nkeep = 10000\n\
         [sink.packets]\ntype = \"file\"\npath = {packets:?}\nformat = \"native\"\n",
        state.path(),
    );
    let (mut durable, mut arrived) = (BTreeSet::new(), Vec::new());
    for round in 0..KILLS {
        let current = sensor(&config);
        programs(&format!("{round}-before"));
        // What comes after it is on its way when the sensor is killed.
        let mark = format!("delivery-{round}-before-{}", PROGRAMS - 1);
        wait_for_run(&text, &mark);
        arrived.push(mark);
        programs(&format!("{round}-after"));
        // Dropping it kills it.
        drop(current);
        durable.extend(spooled(&state.path().join("spool")));
        durable.extend(ids(&lines(&text).0));
    }
    let last = sensor(&config);
    run("delivery-last");
    wait_for_run(&text, "delivery-last");
    last.stop().assert_clean();
    // One that takes longer than the end of a run allows goes on in the next.
    let rest = sensor(&config);
    wait_for("every packet", Place::here().patience() * 3, || {
        ids(&decoded(&packets)).is_superset(&durable).then_some(())
    });
    let end = rest.stop();
    let ledger = end.assert_clean();
    for sink in ["lines", "packets"] {
        let account = &ledger.0["sinks"][sink];
        assert_eq!(account["lost"], serde_json::json!({}), "{sink}: {account}");
    }
    let (events, torn) = lines(&text);
    assert_eq!(torn, "", "a torn line at the end");
    let found = ids(&events);
    let missing: Vec<&String> = durable.difference(&found).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let known = runs(&events);
    for mark in arrived {
        assert!(known.contains(&mark), "{mark}");
    }
    assert!(text.with_extension("1").exists(), "nothing was set aside");
    let (status, _, log) = run_to_end(&["decode", packets.to_str().unwrap()]);
    assert!(status.success(), "{log}");
}

fn a_full_disk() {
    let (state, disk) = (state_folder(), state_folder());
    let small = Some("size=64k,mode=0700");
    let plain = MsFlags::empty();
    mount(Some("tmpfs"), disk.path(), Some("tmpfs"), plain, small).unwrap();
    let path = disk.path().join("events");
    let config = format!(
        "[state]\ndirectory = {:?}\n[sink.lines]\ntype = \"file\"\npath = {path:?}\nretry_max = \"1s\"\n",
        state.path(),
    );
    let sensor = sensor(&config);
    // Each of them is two events of a kilobyte and more.
    programs("full-0");
    programs("full-1");
    programs("full-2");
    sensor.wait_log("the full disk", |line| {
        line.contains("No space left on device")
    });
    run("delivery-full-last");
    let large = Some("size=64m");
    mount(
        Some("tmpfs"),
        disk.path(),
        Some("tmpfs"),
        MsFlags::MS_REMOUNT,
        large,
    )
    .unwrap();
    wait_for_run(&path, "delivery-full-last");
    let end = sensor.stop();
    let ledger = end.assert_clean();
    let account = &ledger.0["sinks"]["lines"];
    assert_eq!(account["lost"], serde_json::json!({}), "{account}");
    let (events, torn) = lines(&path);
    assert_eq!(torn, "");
    // What was written in part was taken back: everything is there once.
    assert_eq!(ids(&events).len(), events.len());
    let acked = usize::try_from(account["acked"].as_u64().unwrap()).unwrap();
    assert_eq!(events.len(), acked, "{account}");
    let mut wanted: Vec<String> = (0..3)
        .flat_map(|round| (0..PROGRAMS).map(move |n| format!("delivery-full-{round}-{n}")))
        .collect();
    wanted.push("delivery-full-last".to_owned());
    assert_eq!(runs(&events), wanted);
    umount(disk.path()).unwrap();
}

fn standard_output() {
    let state = state_folder();
    let sensor = Sensor::start(Options {
        events: "exec,exit".to_owned(),
        config: format!(
            "[state]\ndirectory = {:?}\n[sink.out]\ntype = \"stdout\"\nformat = \"json\"\n",
            state.path()
        ),
        ..Options::default()
    });
    let mark = run("delivery-to-stdout").mark;
    sensor.expect("the program", |event| {
        runs(std::slice::from_ref(event)) == [mark.as_str()]
    });
    let end = sensor.stop();
    let ledger = end.assert_clean();
    // The sink has standard output for itself.
    assert_eq!(ledger.0["sinks"]["output"]["sealed"], 0, "{:#}", ledger.0);
    assert_eq!(ids(&end.events).len(), end.events.len());
    let acked = ledger.0["sinks"]["out"]["acked"].as_u64().unwrap();
    assert_eq!(acked, u64::try_from(end.events.len()).unwrap());
}
