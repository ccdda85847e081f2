//! A process ended; and how it began (fork).

use std::ffi::OsStr;
use std::process::Command;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sensor_tests::coverage::Expected;
use sensor_tests::harness::{Options, Sensor, end_shared, with_shared};
use sensor_tests::oracle;
use sensor_tests::place::Place;
use sensor_tests::program::Program;
use sensor_tests::runner::Test;
use sensor_tests::trigger::Running;
use serde_json::Value;

use crate::common::{aged, exec_of, exit_of, folder, words};

pub(crate) const TESTS: &[Test] = &[
    Test::new("exit::every_field", every_field),
    Test::new("exit::by_a_signal", by_signal),
    Test::new("exit::with_a_core_dump", core_dump),
    Test::new("exit::when_the_first_thread_ends_first", leader_ends_first),
    Test::new("exit::processor_time", processor_time),
    Test::new("exit::fork_tells_the_child", fork),
    Test::new("exit::of_a_whole_family", family),
];

fn send(child: &Running, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.pid()).unwrap()), signal).unwrap();
}

/// Starts a program that waits and gives it with its exec event.
fn started(sensor: &Sensor, program: Program, folder: &std::path::Path) -> (Running, Value) {
    let path = program.place(folder, "program", b"");
    aged(&path);
    let child = Running::of(&mut Command::new(&path));
    let event = exec_of(sensor, child.pid(), &oracle::shown_path(&path));
    (child, event)
}

/// What must be told of an end, but for how it was.
fn expected(event: &Value, begun_boot_ns: i128) -> Expected {
    let mut expected = Expected::new("Exit", &[]);
    let now = oracle::clocks().1;
    let start = i128::from(event["process"]["start_boot_ns"].as_u64().unwrap());
    let end = i128::from(event["time_boot_ns"].as_u64().unwrap());
    assert!((begun_boot_ns..=now).contains(&end), "{event:#}");
    expected.between("run_duration_ns", end - start, end - start);
    expected.between("user_duration_ns", 0, end - start + 20_000_000);
    expected.between("system_duration_ns", 0, end - start + 20_000_000);
    expected.none("core_dumped");
    expected
}

fn every_field() {
    with_shared(|sensor| {
        let folder = folder();
        let (child, began) = started(sensor, Program::Wait(42), folder.path());
        let before = oracle::clocks();
        let pid = child.pid();
        assert_eq!(child.finish().code(), Some(42));
        let event = exit_of(sensor, &began["process"]["unique_pid"]);
        let mut expected = expected(&event, before.1);
        expected.is("code", 42);
        expected.none("signal");
        expected.check(&event["exit"]);
        // What it was is told as at its exec, but for its end.
        assert_eq!(event["process"]["pid"], pid);
        let (mut then, mut now) = (began["process"].clone(), event["process"].clone());
        let end = now["end_time"].take();
        assert_eq!(end, event["time"]);
        then["end_time"].take();
        assert_eq!(now, then);
        assert_eq!(event["lane"], "process");
        assert_eq!(event["backend"], "tracepoint");
    });
}

fn by_signal() {
    with_shared(|sensor| {
        let folder = folder();
        let (child, began) = started(sensor, Program::Wait(0), folder.path());
        let before = oracle::clocks();
        send(&child, Signal::SIGKILL);
        child.finish();
        let event = exit_of(sensor, &began["process"]["unique_pid"]);
        let mut expected = expected(&event, before.1);
        expected.none("code");
        expected.is("signal", 9);
        expected.check(&event["exit"]);
    });
}

fn core_dump() {
    use std::os::unix::process::ExitStatusExt as _;
    with_shared(|sensor| {
        let folder = folder();
        let path = Program::Wait(0).place(folder.path(), "program", b"");
        aged(&path);
        let mut steps = words(&["core-unlimited", "chdir"], folder.path());
        steps.extend(words(&["exec"], &path));
        let child = Running::start(steps);
        let began = exec_of(sensor, child.pid(), &oracle::shown_path(&path));
        let before = oracle::clocks();
        // Not SIGQUIT: shells start what runs in the background with that one ignored.
        send(&child, Signal::SIGABRT);
        let status = child.finish();
        let event = exit_of(sensor, &began["process"]["unique_pid"]);
        let mut expected = expected(&event, before.1);
        expected.none("code");
        expected.is("signal", 6);
        // A host may send its core dumps to a program of its own.
        assert!(status.core_dumped() || !Place::here().guest, "{status}");
        if status.core_dumped() {
            expected.is("core_dumped", true);
        }
        expected.check(&event["exit"]);
    });
}

fn leader_ends_first() {
    with_shared(|sensor| {
        let folder = folder();
        let (child, began) = started(sensor, Program::LeaderEndsFirst, folder.path());
        let stat = child.pid();
        sensor_tests::wait_for(
            "the end of the first thread",
            Place::here().patience(),
            || (oracle::stat_field(stat, 3) == "Z").then_some(()),
        );
        let before = oracle::clocks();
        let early = sensor.all_from(0, |event| {
            event["type"] == "exit" && event["process"]["pid"] == child.pid()
        });
        assert_eq!(early, Vec::<Value>::new(), "the process goes on");
        let pid = child.pid();
        let status = child.finish();
        let event = exit_of(sensor, &began["process"]["unique_pid"]);
        let mut expected = expected(&event, before.1);
        // Which of both codes a parent sees differs between kernels (5 before 6.1, then 7 or 0).
        let told = event["exit"]["code"].as_u64();
        assert!(matches!(told, Some(5 | 7 | 0)), "{event:#}");
        expected.maybe("code", told);
        expected.none("signal");
        expected.check(&event["exit"]);
        assert!(status.code().is_some(), "{status}");
        let all = sensor.all_from(0, |event| {
            event["type"] == "exit" && event["process"]["pid"] == pid
        });
        assert_eq!(all.len(), 1, "{all:#?}");
    });
}

fn processor_time() {
    with_shared(|sensor| {
        let used = || {
            let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
            let ns = |time: nix::sys::time::TimeVal| {
                i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_usec()) * 1_000
            };
            (ns(usage.user_time()), ns(usage.system_time()))
        };
        let own = oracle::shown_path(&std::env::current_exe().unwrap());
        let before = used();
        let mut child = Running::start(["step", "burn", "600"]);
        child.step();
        let began = exec_of(sensor, child.pid(), &own);
        child.go();
        child.finish_well();
        let after = used();
        let event = exit_of(sensor, &began["process"]["unique_pid"]);
        let told = |field: &str| i128::from(event["exit"][field].as_u64().unwrap());
        let (user, system) = (told("user_duration_ns"), told("system_duration_ns"));
        let (real_user, real_system) = (after.0 - before.0, after.1 - before.1);
        // The kernel counts user and system time in ticks and scales them when it is asked; the sum is what is measured.
        let (sum, real_sum) = (user + system, real_user + real_system);
        let tolerance = 60_000_000 + real_sum / 5;
        // An emulated machine that waits for the processor misses ticks: less is told then.
        let least = if Place::here().guest {
            0
        } else {
            real_sum - tolerance
        };
        assert!(
            (least..=real_sum + tolerance).contains(&sum),
            "{sum} ns told, {real_sum} ns by rusage: {event:#}"
        );
        // On a busy machine the two halves of the time are not both its own.
        assert!(user >= 20_000_000, "{user} ns of user time");
        assert!(system >= 20_000_000, "{system} ns of system time");
    });
}

fn fork() {
    with_shared(|sensor| {
        let folder = folder();
        let path = Program::Wait(3).place(folder.path(), "program", b"");
        let mut steps = words(&["step", "spawn", "3"], &path);
        steps.push(OsStr::new("step"));
        let mut child = Running::start(steps);
        child.step();
        let began = oracle::clocks();
        child.go();
        child.step();
        let shown = oracle::shown_path(&path);
        let is_exec =
            |event: &Value| event["type"] == "exec" && event["process"]["image"]["path"] == shown;
        sensor.expect_count(0, "execs", 3, is_exec);
        for exec in sensor.all_from(0, is_exec) {
            let process = &exec["process"];
            let event = sensor.expect("the fork before an exec", |event| {
                event["type"] == "fork"
                    && event["fork"]["child"]["unique_pid"] == process["unique_pid"]
            });
            let mut around =
                crate::common::envelope(&event, child.pid(), child.pid(), "process", began);
            around.is("backend", "tracepoint");
            around.check(&event);
            let mut expected = Expected::new("Fork", &[]);
            expected.is("child.unique_pid", process["unique_pid"].clone());
            expected.is("child.exec_id", 0);
            expected.is("child.pid", process["pid"].clone());
            expected.none("child.tid");
            expected.is("child.start_boot_ns", process["start_boot_ns"].clone());
            expected.none("child.out_of_scope");
            // posix_spawn shares memory and waits: CLONE_VM and CLONE_VFORK.
            expected.holds("clone_flags", |flags| {
                let flags = flags
                    .as_str()
                    .and_then(|text| u64::from_str_radix(text, 16).ok())
                    .ok_or_else(|| format!("{flags} is no set of bits"))?;
                if flags & 0x4100 == 0x4100 {
                    Ok(())
                } else {
                    Err(format!("{flags:#x} lacks CLONE_VM or CLONE_VFORK"))
                }
            });
            if event["fork"]["clone_flags"].is_null() {
                assert_eq!(
                    event["fork"]["absent"]["clone_flags"], "not_on_this_backend",
                    "{event:#}"
                );
                expected.forget("clone_flags");
                expected.none("clone_flags");
            }
            expected.check(&event["fork"]);
            let end = exit_of(sensor, &process["unique_pid"]);
            assert_eq!(end["exit"]["code"], 3);
            let time = |event: &Value| event["time_boot_ns"].as_u64().unwrap();
            assert!(time(&event) < time(&exec), "fork before exec");
            assert!(time(&exec) < time(&end), "exec before exit");
        }
        child.finish_well();
    });
}

/// Every process that begins ends, each told once, in the order of time.
fn family() {
    end_shared();
    // A machine that stands still for longer than the window tells what came late out of order.
    let sensor = Sensor::start(Options {
        config: "[reorder]\nwindow = \"2s\"\n".to_owned(),
        ..Options::default()
    });
    let folder = folder();
    let path = Program::Wait(0).place(folder.path(), "program", b"family");
    let mark = sensor.mark();
    let shown = oracle::shown_path(&path);
    Running::start(words(&["spawn", "20"], &path)).finish_well();
    let ours = |event: &Value| event["process"]["image"]["path"] == shown;
    sensor.expect_count(mark, "ends", 20, |event| {
        event["type"] == "exit" && ours(event)
    });
    let execs = sensor.all_from(mark, |event| event["type"] == "exec" && ours(event));
    let exits = sensor.all_from(mark, |event| event["type"] == "exit" && ours(event));
    assert_eq!((execs.len(), exits.len()), (20, 20));
    let keys = |events: &[Value]| {
        let mut keys: Vec<String> = events
            .iter()
            .map(|event| event["process"]["unique_pid"].to_string())
            .collect();
        keys.sort();
        keys.dedup();
        keys
    };
    assert_eq!(keys(&execs).len(), 20);
    assert_eq!(keys(&execs), keys(&exits));
    let times: Vec<u64> = sensor
        .all_from(mark, |event| event["type"] != "patch")
        .iter()
        .map(|event| event["time_boot_ns"].as_u64().unwrap())
        .collect();
    assert!(times.is_sorted(), "events are not in the order of time");
    sensor.stop().assert_clean();
}
