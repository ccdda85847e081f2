//! The machine is reset in the middle: QEMU is killed some time after this suite has said so, and boots again with the same disk,
//! where the sensor's state and the central node's store are. What was durable arrives, once and in order; of the rest the node
//! says from when to when it is blind.
//!
//! The first boot writes down, durably, what it is about to run and what it knows to be durable; the second reads that.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MsFlags, mount, umount};
use sensor_tests::coverage::time_ns;
use sensor_tests::harness::{Sensor, end_shared, run_to_end};
use sensor_tests::oracle;
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::wait_for;
use serde_json::Value;

use crate::clock::set_ahead;
use crate::delivery::{Node, assert_once_in_order, blind, run, runs, sensor};

pub(crate) const TESTS: &[Test] = &[Test::in_guest("reset::of_the_machine", of_the_machine)];

/// The guest's disk, made by `cargo xtask vm`.
const DISK: &str = "/dev/vda";
const PLACE: &str = "/mnt/disk";
/// What `cargo xtask vm` waits for.
const NOW: &str = "reset now";
/// Programs before the node goes, after that, and in the second boot.
const PROGRAMS: usize = 10;
/// By how much the clock is ahead after the reset: what waits is not old for that.
const AHEAD: i64 = 25 * 24 * 3_600;

fn of_the_machine() {
    // One sensor at a time.
    end_shared();
    fs::create_dir_all(PLACE).unwrap();
    mount(
        Some(DISK),
        PLACE,
        Some("ext4"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap_or_else(|error| panic!("{DISK}: {error}: this runs in guests of the suite reset"));
    let place = Path::new(PLACE);
    let diary = place.join("diary");
    if diary.exists() {
        after_the_reset(place, &fs::read_to_string(&diary).unwrap());
        umount(PLACE).unwrap();
    } else {
        before_the_reset(place, &diary);
    }
}

fn private(folder: PathBuf) -> PathBuf {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .unwrap();
    folder
}

/// The node and the configuration of its sensor, both on the disk.
fn open(place: &Path) -> (Node, String) {
    let node = Node::in_folder(&private(place.join("node")));
    let config = node.sensor_config(&private(place.join("state")));
    (node, config)
}

/// What survives the reset: a line of it is on the disk before anything else is done.
struct Diary(File);

impl Diary {
    fn note(&mut self, line: &str) {
        writeln!(self.0, "{line}").unwrap();
        self.0.sync_all().unwrap();
    }

    /// Runs a program that is written down before.
    fn run(&mut self, mark: &str) {
        let time = oracle::clocks().0;
        self.note(&format!("run {mark} {time}"));
        run(mark);
    }
}

/// Last packet of the process stream that the sensor has on the disk.
fn durable() -> u64 {
    let (status, said, log) = run_to_end(&["status", "--json"]);
    assert!(status.success(), "{log}");
    let said: Value = serde_json::from_str(&said).unwrap();
    said["spool"]["streams"]["process"]["durable_sequence"]
        .as_u64()
        .unwrap_or_else(|| panic!("no durable_sequence in {said:#}"))
}

fn before_the_reset(place: &Path, diary: &Path) {
    let file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .open(diary)
        .unwrap();
    File::open(place).unwrap().sync_all().unwrap();
    let mut diary = Diary(file);
    let (mut node, config) = open(place);
    let sensor = sensor(&config);
    for number in 0..PROGRAMS {
        diary.run(&format!("delivery-first-{number}"));
    }
    let last = format!("delivery-first-{}", PROGRAMS - 1);
    node.wait_for(&last);
    diary.note(&format!("arrived {last}"));
    // From here on nothing is taken: it waits on the disk.
    node.kill();
    let before = durable();
    for number in 0..PROGRAMS {
        diary.run(&format!("delivery-waiting-{number}"));
    }
    let patience = Place::here().patience();
    let reached = wait_for("packets that wait on the disk", patience, || {
        Some(durable()).filter(|durable| *durable > before)
    });
    diary.note(&format!("durable {reached}"));
    println!("{NOW}");
    // Until the end, of which nothing here knows.
    endure(&mut diary, &sensor);
}

fn endure(diary: &mut Diary, sensor: &Sensor) -> ! {
    for number in 0_u64.. {
        diary.run(&format!("delivery-then-{number}"));
        if number % 16 == 15 {
            diary.note(&format!("durable {}", durable()));
        }
        assert!(
            !sensor.log().iter().any(|line| line.contains("panicked")),
            "{:?}",
            sensor.log()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    unreachable!("numbers end")
}

fn after_the_reset(place: &Path, diary: &str) {
    let mut told = Vec::new();
    let (mut arrived, mut durable) = (BTreeSet::new(), 0_u64);
    // Its last line may be a part of one.
    let whole = diary.rsplit_once('\n').unwrap().0;
    for line in whole.lines() {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["run", mark, time] => told.push(((*mark).to_owned(), time.parse::<i128>().unwrap())),
            ["arrived", _] => arrived = told.iter().map(|(mark, _)| mark.clone()).collect(),
            ["durable", number] => durable = number.parse().unwrap(),
            words => panic!("{words:?}"),
        }
    }
    assert!(durable > 0 && arrived.len() == PROGRAMS, "{diary}");
    set_ahead(AHEAD);
    let began = oracle::clocks().0;
    let (node, config) = open(place);
    // The node has what it has acknowledged, without anybody's help.
    let stored: BTreeSet<String> = runs(&node.events()).into_iter().collect();
    assert!(stored.is_superset(&arrived), "{stored:?}");

    let second = sensor(&config);
    let mut after = Vec::new();
    for number in 0..PROGRAMS {
        let mark = format!("delivery-second-{number}");
        run(&mark);
        after.push(mark);
    }
    node.wait_for(after.last().unwrap());
    second.stop().assert_clean();

    let events = node.events();
    assert_once_in_order(&events);
    let stored = runs(&events);
    let known: BTreeSet<&String> = stored.iter().collect();
    assert_eq!(known.len(), stored.len(), "a run is there twice");
    let order: Vec<&String> = told
        .iter()
        .map(|(mark, _)| mark)
        .chain(&after)
        .filter(|mark| known.contains(mark))
        .collect();
    assert_eq!(stored.iter().collect::<Vec<_>>(), order);
    assert!(after.iter().all(|mark| known.contains(mark)), "{stored:?}");

    // What is not there was not seen by anybody, and the node says so.
    let blind = blind(&node);
    // A packet may be sealed, and durable, a moment after the last program was written down.
    let last = told.last().unwrap().1 + 5_000_000_000;
    let across = blind
        .iter()
        .find(|(from, to)| *from != i128::MIN && *from <= last && began <= *to);
    let across = *across.unwrap_or_else(|| panic!("{last}..{began} is not in {blind:?}"));
    let mut missing = 0;
    let ends = told.iter().skip(1).map(|(_, time)| *time).chain([began]);
    for ((mark, time), end) in told.iter().zip(ends) {
        if !known.contains(mark) {
            missing += 1;
            // It was written down before it ran, and had ended before the next was.
            assert!(
                *time <= across.1 && end >= across.0,
                "{mark} at {time} is missing, and nobody says so: {blind:?}"
            );
        }
    }

    // Every packet that the sensor had on the disk is here, and the chain holds.
    let agents = node.lines(&["agents", "--json", "--since", "365d"]);
    assert_eq!(agents.len(), 1, "{agents:?}");
    let rows = agents[0]["streams"].as_array().unwrap();
    let process: Vec<&Value> = rows
        .iter()
        .filter(|row| row["stream"] == "process")
        .collect();
    for row in &process {
        assert_eq!(row["lowest_sequence"], 1, "{row:#}");
        assert_eq!(row["highest_sequence"], row["packets"], "{row:#}");
        for key in [
            "conflicts",
            "chain_broken",
            "account_went_back",
            "repeated_events",
        ] {
            assert_eq!(row[key], 0, "{key}: {row:#}");
        }
    }
    let highest = process[0]["highest_sequence"].as_u64().unwrap();
    assert!(highest >= durable, "{highest} of {durable} are here");
    let findings = agents[0]["completeness"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|report| report["findings"].as_array().unwrap());
    for finding in findings {
        let kind = finding["finding"].as_str().unwrap();
        assert!(
            matches!(kind, "blind" | "unknown" | "not_yet"),
            "{finding:#}"
        );
    }
    // From before to after it is never called complete.
    let time = |mark: &str| {
        let of = |event: &&Value| event["type"] == "exec" && event["process"]["argv"][1] == mark;
        let event = events.iter().find(of).unwrap();
        event["time"].as_str().unwrap().to_owned()
    };
    let (from, to) = (time("delivery-first-0"), time(&after[0]));
    assert!(time_ns(&from) < time_ns(&to));
    let agents = node.lines(&["agents", "--json", "--since", &from, "--until", &to]);
    assert_eq!(agents[0]["complete"], false, "{agents:#?}");
    println!(
        "{} programs before the reset: {missing} not stored, within the blind span of {} s",
        told.len(),
        (across.1 - across.0) / 1_000_000_000
    );
}
