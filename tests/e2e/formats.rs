//! Real events in ECS and OCSF, against the schemas of both.

use std::net::TcpListener;

use sensor_tests::harness::{Options, Sensor};
use sensor_tests::oracle;
use sensor_tests::program::Program;
use sensor_tests::runner::Test;
use sensor_tests::trigger::Running;
use sensor_tests::views::{ecs_problems, ocsf_problems};
use serde_json::Value;

use crate::common::folder;

const REASON: &str = "a view is a function of the event: it is the same on every kernel";

pub(crate) const TESTS: &[Test] = &[
    Test::on_host("formats::ecs", ecs, REASON),
    Test::on_host("formats::ocsf", ocsf, REASON),
];

/// Does something of every type but modules, waits until it is told, and checks every line.
fn check(
    format: &'static str,
    problems: fn(&Value) -> Vec<String>,
    exec: fn(&Value, &str) -> bool,
    exit: fn(&Value, u32) -> bool,
    connect: fn(&Value, u64) -> bool,
    create: fn(&Value, &str) -> bool,
) {
    let sensor = Sensor::start(Options {
        format,
        ..Options::default()
    });
    let folder = folder();
    let program = Program::Wait(0).place(folder.path(), "program", b"");
    let told = oracle::shown_path(&program);
    let running = Running::of(&mut std::process::Command::new(&program));
    let pid = running.pid();
    sensor.expect("the exec", |event| exec(event, &told));
    running.finish_well();
    sensor.expect("the exit", |event| exit(event, pid));
    sensor.expect("the creation", |event| create(event, &told));
    // A port that was just given up, and one that answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for place in [open, closed] {
        Running::start(["tcp", &place.to_string()]).finish_well();
        sensor.expect("the connection", |event| {
            connect(event, u64::from(place.port()))
        });
    }
    let broken = sensor.broken_lines();
    assert!(broken.is_empty(), "{broken:?}");
    let end = sensor.stop();
    end.assert_clean();
    assert!(end.events.len() >= 5, "{}", end.events.len());
    for event in &end.events {
        let problems = problems(event);
        assert!(problems.is_empty(), "{problems:#?}\n{event:#}");
    }
}

fn ecs() {
    check(
        "ecs",
        ecs_problems,
        |event, path| event["event"]["action"] == "exec" && event["process"]["executable"] == path,
        |event, pid| event["event"]["action"] == "exit" && event["process"]["pid"] == pid,
        |event, port| event["event"]["action"] == "connect" && event["destination"]["port"] == port,
        |event, path| event["event"]["action"] == "file_create" && event["file"]["path"] == path,
    );
}

fn ocsf() {
    check(
        "ocsf",
        ocsf_problems,
        |event, path| event["type_uid"] == 100_701 && event["process"]["file"]["path"] == path,
        |event, pid| event["type_uid"] == 100_702 && event["process"]["pid"] == pid,
        |event, port| event["class_uid"] == 4001 && event["dst_endpoint"]["port"] == port,
        |event, path| event["type_uid"] == 100_101 && event["file"]["path"] == path,
    );
}
