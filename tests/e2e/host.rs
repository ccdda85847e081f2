//! The host, the agent, and what `sensor doctor` says of this machine.

use std::collections::BTreeMap;
use std::fs;

use sensor_tests::harness::{run_to_end, with_shared};
use sensor_tests::oracle;
use sensor_tests::place::Place;
use sensor_tests::program::Program;
use sensor_tests::runner::Test;
use sensor_tests::trigger::Running;
use serde_json::{Value, json};

use crate::common::{aged, exec_of, folder};

pub(crate) const TESTS: &[Test] = &[
    Test::new("host::host_and_agent", host_and_agent),
    Test::new("host::doctor_tells_the_hooks", doctor),
    Test::in_guest("host::hooks_are_those_of_the_matrix", hooks),
    Test::new("host::the_time_of_the_start_is_told", start_time),
];

fn host_and_agent() {
    with_shared(|sensor| {
        let folder = folder();
        let program = Program::Wait(0).place(folder.path(), "program", b"");
        aged(&program);
        let child = Running::of(&mut std::process::Command::new(&program));
        let event = exec_of(sensor, child.pid(), &oracle::shown_path(&program));
        let host = &event["host"];
        let read = |path: &str| fs::read_to_string(path).unwrap().trim().to_owned();
        let name = read("/proc/sys/kernel/hostname");
        assert_eq!(host["name"], name.split('.').next().unwrap());
        assert_eq!(host["boot_id"], oracle::boot_id());
        assert_eq!(host["os"]["type"], "linux");
        assert_eq!(
            host["os"]["kernel_release"],
            read("/proc/sys/kernel/osrelease")
        );
        assert_eq!(
            host["os"]["kernel_version"],
            read("/proc/sys/kernel/version")
        );
        assert_eq!(host["os"]["architecture"], std::env::consts::ARCH);
        let release = read("/etc/os-release");
        let of = |key: &str| {
            release
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map_or(Value::Null, |value| json!(value.trim_matches('"')))
        };
        assert_eq!(host["os"]["id"], of("ID"));
        assert_eq!(host["os"]["name"], of("NAME"));
        assert_eq!(host["os"]["version"], of("VERSION_ID"));
        assert_eq!(host["os"]["full_name"], of("PRETTY_NAME"));
        let (wall, boot) = oracle::clocks();
        let told = sensor_tests::coverage::number_of(&host["boot_time"]).unwrap();
        assert!((told - (wall - boot)).abs() < 50_000_000, "{host:#}");
        let agent = &event["agent"];
        assert_eq!(agent["schema_version"], sensor_proto::SCHEMA_VERSION);
        assert_eq!(agent["id"].as_str().unwrap().len(), 36);
        assert_eq!(agent["epoch"].as_str().unwrap().len(), 32);
        assert!(agent["version"].is_string(), "{agent:#}");
        // Two events of one run are of one agent, and no id comes twice.
        let all = sensor.all_from(0, |event| event["id"].is_string());
        let mut ids: Vec<&str> = all
            .iter()
            .map(|event| event["id"].as_str().unwrap())
            .collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "an id came twice");
        child.finish_well();
    });
}

fn doctor() {
    let backend = &Place::here().backend;
    let (status, output, log) = run_to_end(&["doctor", "--json"]);
    assert_eq!(status.code(), Some(0), "{log}");
    let told: Value = serde_json::from_str(&output).expect("one JSON value");
    let text = told.to_string();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(text.contains(kernel.trim()), "no kernel release in {text}");
    for event in [
        "exec",
        "exit",
        "fork",
        "file_create",
        "connect",
        "module_load",
    ] {
        assert!(
            text.contains(&format!("\"{event}\"")),
            "no {event} in {text}"
        );
    }
    if !Place::here().guest && backend == "syscall-exit" {
        // What this kind of hook cannot see is said.
        for blind in ["mknod", "mkdir", "symlink", "link", "io_uring"] {
            assert!(
                text.contains(blind),
                "doctor is silent about {blind}: {text}"
            );
        }
    }
}

/// What the sensor chose, and what doctor says that it would, is what tests/vm/kernels.toml states for this kernel.
fn hooks() {
    let path =
        std::env::var("SENSOR_EXPECTED_HOOKS").expect("the matrix states the hooks of every guest");
    let stated: BTreeMap<String, String> =
        toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let named = |hook: &str| {
        let missing = hook == "none";
        if missing { "missing" } else { hook }.to_owned()
    };
    let chosen: BTreeMap<String, String> = with_shared(|sensor| {
        let hooks = sensor.hooks().into_iter();
        hooks.map(|(kind, hook)| (kind, named(&hook))).collect()
    });
    assert_eq!(chosen, stated, "the sensor's choice is not the one stated");
    let folder = folder();
    let config = folder.path().join("sensor.toml");
    let backend = &Place::here().backend;
    fs::write(&config, format!("[loader]\nbackend = \"{backend}\"\n")).unwrap();
    let arguments = ["doctor", "--json", "--config", config.to_str().unwrap()];
    let (status, output, log) = run_to_end(&arguments);
    assert_eq!(status.code(), Some(0), "{log}");
    let told: Value = serde_json::from_str(&output).expect("one JSON value");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kinds = told["kinds"].as_array().expect("kinds");
    let advised: BTreeMap<String, String> = kinds
        .iter()
        .map(|line| (text(&line["kind"]), named(&text(&line["hook"]))))
        .collect();
    assert_eq!(advised, stated, "doctor's choice is not the one stated");
    // Whatever this kernel refused, it says why; a forced backend leaves the others out by itself.
    for line in kinds {
        let silent = line["refused"].as_array().is_none_or(Vec::is_empty);
        assert!(
            backend != "auto" || line["hook"] != "none" || !silent,
            "missing without a reason: {line:#}"
        );
    }
}

fn start_time() {
    with_shared(|sensor| {
        let log = sensor.log();
        let told = log.iter().find_map(|line| {
            line.split_once("after_ms=")?
                .1
                .split(' ')
                .next()?
                .parse::<u64>()
                .ok()
        });
        let lived =
            oracle::clocks().1 / 1_000_000 - i128::from(oracle::start_ticks(sensor.pid())) * 10;
        let told = told.unwrap_or_else(|| panic!("the start's duration is not told: {log:#?}"));
        assert!(
            told > 0 && i128::from(told) <= lived + 10,
            "{told} ms of {lived} ms"
        );
    });
}
