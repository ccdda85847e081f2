//! Hosts that lack something, and files that are not as they should be: the sensor works with what there is, or says in one clear
//! line what is in its way.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use sensor_tests::harness::{Options, Sensor, end_shared, run_to_end};
use sensor_tests::place::Place;
use sensor_tests::program::Program;
use sensor_tests::runner::Test;
use sensor_tests::trigger::Running;
use sensor_tests::{oracle, wait_for};

use crate::common::{exec_of, exit_of, folder, wait_until_told, words};

pub(crate) const TESTS: &[Test] = &[
    Test::in_guest("conditions::the_root_is_read_only", read_only_root),
    Test::in_guest("conditions::nowhere_for_its_lock", nowhere_for_its_lock),
    Test::in_guest("conditions::folders_that_are_missing", missing_folders),
    Test::in_guest("conditions::a_configuration_for_all_to_write", open_config),
    Test::in_guest("conditions::no_journal", no_journal),
    Test::in_guest("cgroup1::containers_are_told", version_1),
    Test::in_guest("cgroup1::a_scope_is_refused", no_scope),
];

/// Words that run a program in a mount namespace of its own, after these commands of a shell.
fn after(commands: &str) -> Vec<OsString> {
    let script = format!("set -e; {commands}; exec \"$@\"");
    [
        "/bin/busybox",
        "unshare",
        "-m",
        "/bin/busybox",
        "sh",
        "-c",
        &script,
        "sh",
    ]
    .map(OsString::from)
    .to_vec()
}

/// Runs the sensor to its end after these commands of a shell; its exit code and log.
fn fails_after(commands: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut sensor = after(commands);
    sensor.push(Place::here().sensor.clone().into());
    let (program, rest) = sensor.split_first().unwrap();
    let output = sensor_tests::trigger::command_in(&Place::here().outside, Path::new(program))
        .args(rest)
        .args(["run", "--backend", &Place::here().backend])
        .args(arguments)
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"");
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    (output.status.code(), log)
}

/// A program's run and end are told, and the account closes.
fn tells(sensor: Sensor) -> Vec<String> {
    let folder = folder();
    let program = Program::Wait(0).place(folder.path(), "program", b"");
    let child = Running::of(&mut std::process::Command::new(&program));
    let pid = child.pid();
    let event = exec_of(&sensor, pid, &oracle::shown_path(&program));
    child.finish_well();
    exit_of(&sensor, &event["process"]["unique_pid"]);
    let end = sensor.stop();
    end.assert_clean();
    end.log
}

/// With nothing but `/run` to write to it watches; what should be spooled is kept in memory, and it says so.
fn read_only_root() {
    end_shared();
    let commands = "mount -t tmpfs tmpfs /run; mount -o remount,bind,ro /";
    let log = tells(Sensor::start(Options {
        wrapper: after(commands),
        ..Options::default()
    }));
    assert!(!log.iter().any(|line| line.contains("ERROR")), "{log:#?}");
    // The host of the address refuses; packets wait for it.
    let sink = "[sink.away]\ntype = \"otlp\"\nprotocol = \"http\"\ntls = false\naddress = \"127.0.0.1:9\"\n";
    let sensor = Sensor::start(Options {
        wrapper: after(commands),
        config: format!("{sink}[state]\ndirectory = \"/var/lib/sensor-none\"\n"),
        ..Options::default()
    });
    sensor.wait_log("why the spool is in memory", |line| {
        line.contains("packets are kept in memory")
            && line.contains("/var/lib/sensor-none")
            && line.contains("ead-only file system")
    });
    let folder = folder();
    wait_until_told(&sensor, folder.path());
    // What nobody took and the disk does not have is not waiting: it is lost, and the end says so.
    let end = sensor.stop();
    let log = end.log.join("\n");
    assert_eq!(end.status.code(), Some(74), "{log}");
    assert!(log.contains("neither delivered nor spooled"), "{log}");
    let ledger = end.ledger.expect("a ledger").0;
    assert_eq!(ledger["imbalances"], serde_json::json!([]), "{ledger:#}");
    let account = &ledger["sinks"]["away"];
    assert!(account["sealed"].as_u64() > Some(0), "{account}");
    assert_eq!(
        account["lost"]["spool_unsaved"], account["sealed"],
        "{account}"
    );
    assert_eq!(account["waiting"], 0, "{account}");
}

fn nowhere_for_its_lock() {
    end_shared();
    let (code, log) = fails_after("mount -t tmpfs -o ro tmpfs /run", &[]);
    assert_eq!(code, Some(74), "{log}");
    assert_eq!(log.trim_end().lines().count(), 1, "{log}");
    assert!(
        log.contains("/run/sensor") && log.contains("Read-only file system"),
        "{log}"
    );
}

/// Folders of its own it makes; one that is named for its output must be there.
fn missing_folders() {
    end_shared();
    let base = folder();
    let missing = base.path().join("none/events.json");
    let config = base.path().join("sensor.toml");
    fs::write(&config, format!("[output]\npath = {missing:?}\n")).unwrap();
    let config = config.to_str().unwrap().to_owned();
    let (code, log) = fails_after("true", &["--config", &config]);
    assert_eq!(code, Some(74), "{log}");
    assert!(
        log.contains(missing.to_str().unwrap()) && log.contains("No such file or directory"),
        "{log}"
    );
    let (code, log) = fails_after("true", &["--config", &format!("{config}.none")]);
    assert_eq!(code, Some(2), "{log}");
    assert!(
        log.contains("sensor.toml.none") && log.contains("No such file or directory"),
        "{log}"
    );
    let state = base.path().join("a/b/state");
    tells(Sensor::start(Options {
        wrapper: after("rm -rf /run/sensor"),
        config: format!(
            "[state]\ndirectory = {state:?}\n[sink.away]\ntype = \"otlp\"\nprotocol = \"http\"\ntls = false\naddress = \"127.0.0.1:9\"\n"
        ),
        ..Options::default()
    }));
    assert_eq!(
        fs::metadata(&state).unwrap().permissions().mode() & 0o7777,
        0o700
    );
}

fn open_config() {
    let folder = folder();
    let config = folder.path().join("sensor.toml");
    fs::write(&config, "").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o666)).unwrap();
    let config = config.to_str().unwrap();
    let (code, log) = fails_after("true", &["--config", config]);
    assert_eq!(code, Some(2), "{log}");
    assert_eq!(
        log.trim_end(),
        format!("{config}: anybody may write it (mode 666); take that away: chmod o-w")
    );
}

/// A journal that is named and not there changes nothing: lines go to standard error, as a person reads them.
fn no_journal() {
    end_shared();
    let log = tells(Sensor::start(Options {
        wrapper: after("export JOURNAL_STREAM=8:999999"),
        ..Options::default()
    }));
    assert!(
        !log.iter().any(|line| line.starts_with('<')),
        "priorities for a journal: {log:#?}"
    );
}

const DOCKER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Hierarchies of version 1 only: containers are told by their paths there, for processes that can still be asked.
fn version_1() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(
        !mounts.lines().any(|line| line.contains(" cgroup2 ")),
        "version 2 is mounted: {mounts}"
    );
    let base = Path::new("/sys/fs/cgroup");
    let groups: Vec<_> = ["systemd", "memory", "pids"]
        .iter()
        .map(|name| base.join(name).join("docker").join(DOCKER))
        .collect();
    for group in &groups {
        fs::create_dir_all(group).unwrap();
    }
    end_shared();
    let sensor = Sensor::start(Options::default());
    let folder = folder();
    let program = Program::Wait(0).place(folder.path(), "program", b"");
    let mut steps = Vec::new();
    for group in &groups {
        steps.extend(words(&["cgroup"], group));
    }
    steps.extend(words(&["exec"], &program));
    let child = Running::start(steps);
    let event = exec_of(&sensor, child.pid(), &oracle::shown_path(&program));
    let process = &event["process"];
    assert_eq!(process["container"]["id"], DOCKER, "{process:#}");
    assert_eq!(process["container"]["runtime"], "docker", "{process:#}");
    assert_eq!(
        process["cgroup_path"],
        format!("/docker/{DOCKER}"),
        "{process:#}"
    );
    child.finish_well();
    exit_of(&sensor, &process["unique_pid"]);
    // One that is in no container.
    let plain = Program::Wait(0).place(folder.path(), "plain", b"");
    let child = Running::of(&mut std::process::Command::new(&plain));
    let event = exec_of(&sensor, child.pid(), &oracle::shown_path(&plain));
    assert!(event["process"]["container"].is_null(), "{event:#}");
    child.finish_well();
    let end = sensor.stop();
    end.assert_clean();
    wait_for("empty cgroups", Place::here().patience(), || {
        groups
            .iter()
            .all(|group| fs::remove_dir(group).is_ok() || !group.exists())
            .then_some(())
    });
}

fn no_scope() {
    end_shared();
    let scope = "/sys/fs/cgroup/systemd";
    let (status, _, log) = run_to_end(&["run", "--scope-cgroup", scope]);
    assert!(matches!(status.code(), Some(2 | 4)), "{status}: {log}");
    assert!(log.contains(scope), "{log}");
    assert!(log.contains("cgroup"), "{log}");
}
