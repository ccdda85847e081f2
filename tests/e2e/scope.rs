//! A scoped sensor tells, reads and opens nothing outside its cgroup.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sensor_tests::harness::{Options, Sensor, end_shared};
use sensor_tests::oracle;
use sensor_tests::place::Place;
use sensor_tests::program::Program;
use sensor_tests::runner::Test;
use sensor_tests::trigger::{Running, command_in};
use serde_json::Value;

use crate::common::{aged, created, exec_of, folder, wait_until_told, words};

pub(crate) const TESTS: &[Test] = &[
    Test::new("scope::nothing_outside_is_told", nothing_outside_is_told),
    Test::new("scope::a_parent_outside_is_a_number", parent_outside),
    Test::on_host(
        "scope::nothing_outside_is_opened",
        nothing_outside_is_opened,
        "guests have no tracer",
    ),
    Test::on_host(
        "scope::a_sensor_in_a_pid_namespace_of_its_own",
        own_pid_namespace,
        "guests have no unshare of util-linux",
    ),
];

fn scoped() -> Options {
    end_shared();
    Options {
        scope: Some(Place::here().scope.clone()),
        ..Options::default()
    }
}

fn nothing_outside_is_told() {
    let sensor = Sensor::start(scoped());
    let folder = folder();
    let inside = Program::Wait(0).place(folder.path(), "inside", b"");
    let outside = Program::Wait(0).place(folder.path(), "outside", b"");
    let file = folder.path().join("file-outside");
    let place = &Place::here().outside;
    // Moved out before it becomes the program.
    let child = Running::of(&mut command_in(place, &outside));
    let mut steps = words(&["cgroup"], place);
    steps.extend(words(&["open"], &file));
    steps.extend(["write", "x", "close", "tcp", "127.0.0.1:1", "step"].map(OsStr::new));
    let writer = Running::start(steps);
    writer.step();
    let told = Running::of(&mut Command::new(&inside));
    exec_of(&sensor, told.pid(), &oracle::shown_path(&inside));
    wait_until_told(&sensor, folder.path());
    let (outside, file) = (oracle::shown_path(&outside), oracle::shown_path(&file));
    let about = |event: &Value| {
        event["process"]["image"]["path"] == outside
            || event["file_create"]["file"]["path"] == file
            || (event["type"] == "connect" && event["process"]["pid"] == writer.pid())
    };
    assert_eq!(sensor.all_from(0, about), Vec::<Value>::new());
    let (pid, writer_pid) = (child.pid(), writer.pid());
    child.finish_well();
    writer.finish_well();
    told.finish_well();
    wait_until_told(&sensor, folder.path());
    let end = sensor.stop();
    end.assert_clean();
    let ends = end.events.iter().filter(|event| {
        event["type"] == "exit"
            && (event["process"]["pid"] == pid || event["process"]["pid"] == writer_pid)
    });
    assert_eq!(
        ends.collect::<Vec<_>>(),
        Vec::<&Value>::new(),
        "their ends are told"
    );
}

fn parent_outside() {
    let sensor = Sensor::start(scoped());
    let folder = folder();
    // Made by this program itself, which was there before the sensor and whose parent is not in the cgroup.
    let path = folder.path().join("file");
    fs::write(&path, "x").unwrap();
    let event = created(&sensor, &oracle::shown_path(&path));
    let process = &event["process"];
    assert_eq!(process["pid"], std::process::id(), "{process:#}");
    assert_eq!(
        process["unique_pid"],
        oracle::unique_pid(std::process::id())
    );
    assert_eq!(process["snapshot"], true, "{process:#}");
    let parent = process["parent"].as_object().unwrap();
    assert_eq!(parent["out_of_scope"], true, "{process:#}");
    assert_eq!(
        parent["pid"],
        std::os::unix::process::parent_id(),
        "{process:#}"
    );
    for name in parent.keys() {
        assert!(
            [
                "pid",
                "out_of_scope",
                "start_boot_ns",
                "exec_id",
                "unique_pid"
            ]
            .contains(&name.as_str()),
            "{name} is told of a parent outside: {process:#}"
        );
    }
    assert!(process["ancestors"].is_null(), "{process:#}");
    sensor.stop().assert_clean();
}

/// Numbers of all processes that are now outside the watched cgroup.
fn outsiders() -> BTreeSet<u32> {
    let group = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = group
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap()
        .to_owned();
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| !oracle::in_cgroup(*pid, &own))
        .collect()
}

fn nothing_outside_is_opened() {
    let tracer = std::env::var_os("SENSOR_STRACE")
        .map_or_else(|| PathBuf::from("/usr/bin/strace"), PathBuf::from);
    assert!(
        tracer.is_file(),
        "{} is not there: `cargo xtask test` fetches strace; or name it in SENSOR_STRACE",
        tracer.display()
    );
    let folder = folder();
    let trace = folder.path().join("trace");
    let mut wrapper: Vec<OsString> = vec![tracer.into()];
    wrapper.extend(
        [
            "-f",
            "-y",
            "-qq",
            "-s",
            "4096",
            "-e",
            "trace=%file,ptrace,pidfd_open,pidfd_getfd,process_vm_readv,kcmp",
            "-e",
            "signal=none",
            "-o",
        ]
        .map(OsString::from),
    );
    wrapper.push(trace.clone().into());
    // One that is outside from before the sensor starts, and does what it does while it watches.
    let program = Program::Wait(0).place(folder.path(), "program", b"");
    aged(&program);
    let foreign = folder.path().join("foreign");
    let mut steps = words(&["cgroup"], &Place::here().outside);
    steps.extend(words(&["step", "spawn", "3"], &program));
    steps.extend(words(&["open"], &foreign));
    steps.extend(["write", "x", "close", "tcp", "127.0.0.1:1", "step"].map(OsStr::new));
    let mut outside = Running::start(steps);
    outside.step();
    let before = outsiders();
    assert!(before.contains(&outside.pid()));
    let sensor = Sensor::start(Options {
        wrapper,
        ..scoped()
    });
    let tracer_pid = sensor.pid();
    let tracee =
        fs::read_to_string(format!("/proc/{tracer_pid}/task/{tracer_pid}/children")).unwrap();
    let own: u32 = tracee
        .split_whitespace()
        .next()
        .expect("the traced sensor")
        .parse()
        .unwrap();
    outside.go();
    outside.step();
    let mut pids = BTreeSet::new();
    for _ in 0..5 {
        let child = Running::of(&mut Command::new(&program));
        exec_of(&sensor, child.pid(), &oracle::shown_path(&program));
        pids.insert(child.pid());
        child.finish_well();
    }
    let file = trace.with_extension("file");
    let mut steps = words(&["open"], &file);
    steps.extend(["write", "x", "close", "tcp", "127.0.0.1:1", "step"].map(OsStr::new));
    let writer = Running::start(steps);
    writer.step();
    pids.insert(writer.pid());
    wait_until_told(&sensor, folder.path());
    writer.finish_well();
    outside.finish_well();
    // Whoever was seen inside by the sensor itself may be looked at.
    let told: BTreeSet<u32> = sensor
        .all_from(0, |_| true)
        .iter()
        .flat_map(|event| {
            [
                event["process"]["pid"].as_u64(),
                event["fork"]["child"]["pid"].as_u64(),
            ]
        })
        .flatten()
        .map(|pid| u32::try_from(pid).unwrap())
        .collect();
    // The tracer passes signals on only to itself: the sensor is told to end directly.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(own).unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let end = sensor.wait();
    assert_eq!(end.status.code(), Some(0), "{}", end.log.join("\n"));
    let text = String::from_utf8_lossy(&fs::read(&trace).unwrap()).into_owned();
    assert!(
        text.contains("/sys/kernel/btf/vmlinux"),
        "the trace is empty"
    );
    let mut wrong = Vec::new();
    let mut looked = BTreeSet::new();
    // The sensor itself, its threads, and the child with which it tests itself.
    let traced: BTreeSet<u32> = text
        .lines()
        .filter_map(|line| line.split(' ').next()?.parse().ok())
        .collect();
    for line in text.lines() {
        for pid in processes_named(line) {
            looked.insert(pid);
            let inside = pid == std::process::id() || pids.contains(&pid) || told.contains(&pid);
            if !traced.contains(&pid) && (!inside || before.contains(&pid)) {
                wrong.push(line);
            }
        }
    }
    assert_eq!(
        wrong,
        Vec::<&str>::new(),
        "processes outside were looked at"
    );
    assert!(
        looked.contains(&std::process::id()),
        "the trace shows no look at this program, which is inside: {looked:?}"
    );
}

/// Process ids behind `/proc/` in a line of the trace.
fn processes_named(line: &str) -> Vec<u32> {
    line.split("/proc/")
        .skip(1)
        .filter_map(|rest| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        })
        .collect()
}

/// It does not know its own number there, and must not tell its own doings all the same: here, the files that it begins.
fn own_pid_namespace() {
    let folder = folder();
    let output = folder.path().join("events.json");
    let scope = Place::here().scope.join("cgroup.procs");
    let script = format!(
        "echo $$ > {} && exec unshare --pid --fork --mount-proc \"$@\"",
        scope.display()
    );
    let program = Program::Wait(0).place(folder.path(), "program", b"");
    aged(&program);
    let sensor = Sensor::start(Options {
        wrapper: ["sh", "-c", &script, "sh"].map(OsString::from).to_vec(),
        config: format!(
            "[output]\npath = \"{}\"\nrotate_size = \"64KiB\"\n",
            output.display()
        ),
        ..scoped()
    });
    let outer = sensor.pid();
    let inner = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
    let inner: i32 = inner.split_whitespace().next().unwrap().parse().unwrap();
    let files = || {
        let names = fs::read_dir(folder.path()).unwrap();
        let paths = names.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.to_str().unwrap().contains("events"))
            .collect::<Vec<_>>()
    };
    sensor_tests::wait_for("a second file", Place::here().patience(), || {
        Running::of(&mut Command::new(&program)).finish_well();
        (files().len() > 2).then_some(())
    });
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(inner),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let end = sensor.wait();
    let ledger = end.assert_clean();
    let own = &ledger.0["rows"]["file_create"]["kernel"]["filtered"]["self"];
    assert!(own.as_u64() > Some(0), "{:#}", ledger.0);
    let mut execs = 0;
    for path in files() {
        for line in fs::read_to_string(path).unwrap().lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            execs += usize::from(event["type"] == "exec");
            let created = event["file_create"]["file"]["path"].as_str();
            let ours = created.is_some_and(|path| Path::new(path).starts_with(folder.path()));
            assert!(!ours, "it tells of itself: {event:#}");
        }
    }
    assert!(execs > 0, "nothing was told");
    assert!(
        end.log.iter().any(|line| line.contains("pid namespace")),
        "{:#?}",
        end.log
    );
}
