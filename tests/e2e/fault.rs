//! What goes wrong is said in a clear message and with the documented exit code, and nothing is left behind.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use nix::sys::signal::Signal;
use sensor_tests::harness::{Options, Sensor, end_shared, run_to_end};
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::trigger::{self, Running};
use sensor_tests::{oracle, wait_for};
use serde_json::Value;

use crate::common::{folder, names_in, wait_until_told, words};

pub(crate) const TESTS: &[Test] = &[
    Test::new("fault::without_privilege", without_privilege),
    Test::new("fault::a_second_instance", second_instance),
    Test::new("fault::a_wrong_configuration_key", wrong_key),
    Test::new("fault::a_wrong_command_line", wrong_command_line),
    Test::new("fault::a_scope_that_is_no_cgroup", no_cgroup),
    Test::new("fault::standard_output_is_closed", output_closed),
    Test::new("fault::standard_output_is_full", output_full),
    Test::in_guest("fault::the_disk_is_full", disk_full),
    Test::new("fault::nothing_stays_in_the_kernel", nothing_stays),
    Test::new("fault::a_start_after_a_kill", start_after_kill),
    Test::new("fault::signals_drain_what_is_in_flight", drain),
    Test::new("fault::the_duration_ends_it", duration),
    Test::new("fault::rules_are_counted_and_read_again", rules),
];

fn no_panic(log: &str) {
    assert!(!log.contains("panicked"), "{log}");
}

/// Arguments that any start of the sensor on this machine must have.
fn scope_words() -> Vec<String> {
    let place = Place::here();
    let mut words = vec!["--backend".to_owned(), place.backend.clone()];
    if !place.guest {
        words.extend([
            "--scope-cgroup".to_owned(),
            place.scope.display().to_string(),
        ]);
    }
    words
}

fn run_with(arguments: &[&str]) -> (std::process::ExitStatus, String, String) {
    let words = scope_words();
    let mut all = arguments.to_vec();
    all.extend(words.iter().map(String::as_str));
    run_to_end(&all)
}

fn without_privilege() {
    let folder = folder();
    let sensor = folder.path().join("sensor");
    fs::copy(&Place::here().sensor, &sensor).unwrap();
    fs::set_permissions(&sensor, fs::Permissions::from_mode(0o755)).unwrap();
    let mut steps = words(&["uid", "1000,1000,1000", "exec"], &sensor);
    let scope = scope_words();
    steps.push(OsStr::new("run"));
    steps.extend(scope.iter().map(OsStr::new));
    let output = trigger::command(steps)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{log}");
    assert_eq!(log.trim_end().lines().count(), 1, "{log}");
    assert!(log.contains("CAP_"), "no capability is named: {log}");
    assert_eq!(output.stdout, b"");
    no_panic(&log);
}

fn second_instance() {
    end_shared();
    let first = Sensor::start(Options::default());
    let (status, output, log) = run_with(&["run"]);
    assert_eq!(status.code(), Some(6), "{log}");
    assert!(
        log.contains(&first.pid().to_string()),
        "it does not say which runs: {log}"
    );
    assert_eq!(output, "");
    no_panic(&log);
    // The first goes on.
    let folder = folder();
    wait_until_told(&first, folder.path());
    first.stop().assert_clean();
}

fn wrong_key() {
    let folder = folder();
    let path = folder.path().join("sensor.toml");
    fs::write(&path, "[hash]\nmd5 = true\nthread = 3\n").unwrap();
    for command in [vec!["run"], vec!["config", "check"]] {
        let mut arguments = command.clone();
        arguments.extend(["--config", path.to_str().unwrap()]);
        let (status, _, log) = if command == ["run"] {
            run_with(&arguments)
        } else {
            let (status, output, log) = run_to_end(&arguments);
            (status, String::new(), output + &log)
        };
        assert_eq!(status.code(), Some(2), "{log}");
        for part in ["sensor.toml:3", "thread", "threads"] {
            assert!(log.contains(part), "no {part:?} in: {log}");
        }
        no_panic(&log);
    }
}

fn wrong_command_line() {
    for (arguments, part) in [
        (vec!["run", "--backend", "magic"], "syscall-exit"),
        (vec!["run", "--events", "nonsense"], "file_create"),
        (vec!["run", "--no-such-flag"], "--no-such-flag"),
        (vec!["frobnicate"], "frobnicate"),
    ] {
        let (status, _, log) = run_to_end(&arguments);
        assert_eq!(status.code(), Some(2), "{log}");
        assert!(log.contains(part), "{log}");
    }
}

fn no_cgroup() {
    let folder = folder();
    let path = folder.path().to_str().unwrap();
    let backend = &Place::here().backend;
    let arguments = ["run", "--backend", backend, "--scope-cgroup", path];
    let (status, output, log) = run_to_end(&arguments);
    assert!(matches!(status.code(), Some(2 | 4)), "{status}: {log}");
    assert!(log.contains(path) && log.contains("cgroup"), "{log}");
    assert_eq!(output, "");
    no_panic(&log);
}

/// Makes events until the sensor has ended.
fn events_until_it_ends(sensor: Sensor) -> sensor_tests::harness::End {
    let folder = folder();
    let pid = sensor.pid();
    let mut count = 0;
    wait_for(
        "the end of a sensor that cannot write",
        Place::here().patience(),
        || {
            count += 1;
            fs::write(folder.path().join(count.to_string()), "x").unwrap();
            (oracle::stat_field(pid, 3) == "Z").then_some(())
        },
    );
    sensor.wait()
}

fn output_closed() {
    end_shared();
    let (read, write) = std::io::pipe().unwrap();
    let sensor = Sensor::start(Options {
        output: Some(File::from(std::os::fd::OwnedFd::from(write))),
        ..Options::default()
    });
    drop(read);
    let end = events_until_it_ends(sensor);
    let log = end.log.join("\n");
    assert_eq!(end.status.code(), Some(74), "{}: {log}", end.status);
    no_panic(&log);
}

/// Room may come back: events wait, and those that are left at the end are counted as lost.
fn output_full() {
    end_shared();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let sensor = Sensor::start(Options {
        output: Some(full),
        ..Options::default()
    });
    let folder = folder();
    fs::write(folder.path().join("file"), "x").unwrap();
    sensor.wait_log("word of the full device", |line| {
        line.contains("No space left on device")
    });
    let end = sensor.stop();
    let log = end.log.join("\n");
    no_panic(&log);
    assert_eq!(end.status.code(), Some(74), "{}: {log}", end.status);
    let ledger = end.ledger.expect("a ledger");
    assert_eq!(
        ledger.0["imbalances"],
        serde_json::json!([]),
        "{:#}",
        ledger.0
    );
    let sink = &ledger.0["sinks"]["output"];
    assert_eq!(sink["acked"], 0, "{sink}");
    assert_eq!(sink["lost"]["output_unfinished"], sink["sealed"], "{sink}");
    assert!(
        sink["sealed"].as_u64().is_some_and(|sealed| sealed > 0),
        "{sink}"
    );
}

/// A file on a disk that fills up: events wait, then are lost and counted, and the sensor goes on.
fn disk_full() {
    use nix::mount::{MsFlags, mount, umount};
    end_shared();
    let disk = folder();
    let plain = MsFlags::empty();
    let options = Some("size=64k");
    mount(Some("tmpfs"), disk.path(), Some("tmpfs"), plain, options).unwrap();
    let path = disk.path().join("events");
    let sensor = Sensor::start(Options {
        config: format!("[output]\npath = {path:?}\nbuffer = \"64KiB\"\n"),
        output: Some(File::options().write(true).open("/dev/null").unwrap()),
        ..Options::default()
    });
    let folder = folder();
    Running::start(["flood", "2000", folder.path().to_str().unwrap(), "f"]).finish_well();
    let end = sensor.stop();
    let log = end.log.join("\n");
    no_panic(&log);
    assert_eq!(end.status.code(), Some(74), "{}: {log}", end.status);
    let ledger = end.ledger.expect("a ledger");
    assert_eq!(
        ledger.0["imbalances"],
        serde_json::json!([]),
        "{:#}",
        ledger.0
    );
    let sink = &ledger.0["sinks"]["output"];
    let lost = sink["lost"]["output_full"].as_u64();
    assert!(lost.is_some_and(|lost| lost > 0), "{sink}");
    // What is on the disk is whole lines.
    let text = fs::read_to_string(&path).unwrap();
    let last = text.lines().last().unwrap_or_default();
    let whole = text
        .lines()
        .filter(|line| serde_json::from_str::<Value>(line).is_ok());
    assert!(
        whole.count() + 1 >= text.lines().count(),
        "torn lines, the last one {last}"
    );
    let told = end
        .log
        .iter()
        .filter(|line| line.contains("No space left on device"));
    assert_eq!(told.count(), 1, "{:#?}", end.log);
    umount(disk.path()).unwrap();
}

/// Numbers of the programs and maps that a process holds.
fn held(pid: u32) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
        // One that was closed meanwhile holds nothing.
        let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for line in text.lines() {
            let number = |name: &str| {
                line.strip_prefix(name)
                    .and_then(|rest| rest.trim().parse::<u32>().ok())
            };
            programs.extend(number("prog_id:"));
            maps.extend(number("map_id:"));
        }
    }
    (programs, maps)
}

fn wait_until_gone(programs: &BTreeSet<u32>, maps: &BTreeSet<u32>) {
    assert!(
        !programs.is_empty() && !maps.is_empty(),
        "the sensor held nothing"
    );
    wait_for(
        "the kernel to be rid of every program and map",
        Place::here().patience(),
        || {
            let left = aya::programs::loaded_programs()
                .flatten()
                .any(|program| programs.contains(&program.id()))
                || aya::maps::loaded_maps()
                    .flatten()
                    .any(|map| maps.contains(&map.id()));
            (!left).then_some(())
        },
    );
    let pinned: Vec<_> = fs::read_dir("/sys/fs/bpf")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    assert!(
        !pinned
            .iter()
            .any(|path: &std::path::PathBuf| path.to_string_lossy().contains("sensor")),
        "{pinned:?}"
    );
}

fn nothing_stays() {
    end_shared();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let sensor = Sensor::start(Options::default());
        let (programs, maps) = held(sensor.pid());
        sensor.signal(signal);
        sensor.wait().assert_clean();
        wait_until_gone(&programs, &maps);
    }
}

fn start_after_kill() {
    end_shared();
    let sensor = Sensor::start(Options::default());
    let (programs, maps) = held(sensor.pid());
    sensor.signal(Signal::SIGKILL);
    let end = sensor.wait();
    assert_eq!(end.status.code(), None, "{}", end.status);
    wait_until_gone(&programs, &maps);
    let folder = folder();
    let sensor = Sensor::start(Options::default());
    wait_until_told(&sensor, folder.path());
    sensor.stop().assert_clean();
}

fn drain() {
    end_shared();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let sensor = Sensor::start(Options::default());
        let folder = folder();
        Running::start(["flood", "500", folder.path().to_str().unwrap(), "f"]).finish_well();
        sensor.signal(signal);
        let end = sensor.wait();
        let ledger = end.assert_clean();
        let paths = end
            .events
            .iter()
            .filter(|event| event["type"] == "file_create")
            .filter_map(|event| event["file_create"]["file"]["path"].as_str());
        let told = names_in(paths, folder.path());
        assert_eq!(told.len(), 500, "{signal}");
        assert_eq!(ledger.lost("file_create"), 0);
        // The summary for people names what was seen.
        assert!(
            end.log.iter().any(|line| line.starts_with("file_create")),
            "{:#?}",
            end.log
        );
    }
}

fn duration() {
    end_shared();
    let begun = std::time::Instant::now();
    let (status, _, log) = run_with(&["run", "--format", "json", "--duration", "1s"]);
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
    no_panic(&log);
}

fn rules() {
    end_shared();
    let folder = folder();
    let rule = |pattern: &str| {
        format!(
            "[[filter.rule]]\nid = \"quiet\"\naction = \"exclude\"\nevent = [\"file_create\"]\nfile_path = [\"{pattern}\"]\n"
        )
    };
    let quiet = folder.path().join("quiet");
    fs::create_dir(&quiet).unwrap();
    let sensor = Sensor::start(Options {
        config: rule(&format!("{}/**", quiet.display())),
        ..Options::default()
    });
    let write = |name: &str| {
        let path = quiet.join(name);
        fs::write(&path, "x").unwrap();
        oracle::shown_path(&path)
    };
    let told = |shown: &str| {
        let shown = shown.to_owned();
        sensor.all_from(0, move |event| {
            event["file_create"]["file"]["path"] == shown
        })
    };
    let first = write("first");
    wait_until_told(&sensor, folder.path());
    assert_eq!(told(&first), Vec::<Value>::new());
    // All or nothing: a wrong file changes nothing and says so.
    let config = sensor.config();
    fs::write(
        &config,
        "[[filter.rule]]\nid = \"quiet\"\naction = \"explode\"\n",
    )
    .unwrap();
    sensor.signal(Signal::SIGHUP);
    sensor.wait_log("a refused reload", |line| {
        line.contains("explode") || line.contains("reload")
    });
    let second = write("second");
    wait_until_told(&sensor, folder.path());
    assert_eq!(told(&second), Vec::<Value>::new());
    // Rules only: of the rest it says what needs a restart.
    fs::write(
        &config,
        format!("{}[hash]\nmd5 = false\n", rule("/nowhere/**")),
    )
    .unwrap();
    sensor.signal(Signal::SIGHUP);
    sensor.wait_log("what needs a restart", |line| {
        line.contains("restart") && line.contains("hash.md5")
    });
    let mut count = 0;
    wait_for("the new rules", Place::here().patience(), || {
        count += 1;
        let shown = write(&format!("third-{count}"));
        wait_until_told(&sensor, folder.path());
        (!told(&shown).is_empty()).then_some(())
    });
    let end = sensor.stop();
    let ledger = end.assert_clean();
    let counted = ledger.0["rows"]["file_create"]["daemon"]["filtered"]["quiet"].as_u64();
    assert!(
        counted.is_some_and(|counted| counted >= 2),
        "{:#}",
        ledger.0
    );
}
