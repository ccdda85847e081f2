//! The host, the agent, and what `sensor doctor` says of this machine.

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
