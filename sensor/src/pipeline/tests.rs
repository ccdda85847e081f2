use std::path::Path;
use std::time::Instant;

use sensor_common::layout::KernelLayout;
use serde_json::Value;

use super::*;
use crate::config::OutputFormat;
use crate::enrich::container::{ContainerFacts, Places};
use crate::enrich::process::tests::{Exec, describer};
use crate::enrich::process::{Describer, Limits};
use crate::enrich::user::Users;
use crate::enrich::user::tests::serve;
use crate::sink::SinkHandle;
use crate::sink::file::{Rotation, spawn};

fn sink(path: &Path) -> SinkHandle {
    let rotation = Rotation {
        bytes: Some(1 << 20),
        age: Some(Duration::from_secs(3600)),
        keep: 1,
    };
    spawn(
        path,
        rotation,
        Box::new(|| 0),
        1 << 20,
        Box::new(|_| {}),
        &crate::confine::Confinement::default(),
    )
    .unwrap()
}

fn pipeline(folder: &Path, users: Users) -> Pipeline {
    let mut describer = describer(&folder.join("proc"), true);
    describer.users = users;
    pipeline_of(folder, describer, Duration::ZERO)
}

fn pipeline_of(folder: &Path, describer: Describer, hold: Duration) -> Pipeline {
    let limits = Limits {
        budget_bytes: 1 << 20,
        grace: Duration::from_secs(30),
    };
    Pipeline::new(Parts {
        layout: KernelLayout::EMPTY,
        clock: Arc::new(Clock::fixed(0, 10_000_000)),
        live: false,
        events: [v1::EventType::Exec].into(),
        backends: Backends::new(),
        own_child: None,
        host: None,
        table: ProcessTable::new(limits, [7; 16], false, describer),
        hashes: None,
        closes: None,
        filter: Filter::compile(&[]).unwrap(),
        output: Output::new(
            OutputFormat::Json,
            false,
            v1::Agent::default(),
            v1::Host::default(),
            sink(&folder.join("events.json")),
        ),
        packets: None,
        reorder: (Duration::ZERO, 100),
        hold,
    })
}

/// What has been written until now.
fn events(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("events.json")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn wait(folder: &Path, pipeline: &mut Pipeline, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        pipeline.round();
        pipeline.advance();
        let events = events(folder);
        if events.len() >= count {
            return events;
        }
        assert!(Instant::now() < deadline, "{events:#?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_name_that_comes_late_is_told_by_a_patch() {
    let folder = tempfile::tempdir().unwrap();
    let (answer, wait_for_leave) = std::sync::mpsc::sync_channel::<()>(16);
    let socket = serve(folder.path(), move |request| {
        wait_for_leave.recv().unwrap();
        let reply = match request["parameters"]["uid"].as_u64() {
            Some(61_184) => serde_json::json!(
                {"parameters": {"record": {"userName": "dynamic", "uid": 61_184, "gid": 61_184}}}),
            _ => {
                serde_json::json!({"error": "io.systemd.UserDatabase.NoRecordFound", "parameters": {}})
            }
        };
        let mut bytes = reply.to_string().into_bytes();
        bytes.push(0);
        bytes
    });
    let users = Users::new(folder.path().into(), None, Some(socket)).unwrap();
    let mut pipeline = pipeline(folder.path(), users);
    let exec = |tgid: u32, time: u64| {
        let mut exec = Exec::new((tgid, time), (1, 1), time, b"/bin/x");
        exec.uid = 61_184;
        exec.bytes()
    };
    let second = 1_000_000_000;
    pipeline.sample(&exec(7, second));
    let told = wait(folder.path(), &mut pipeline, 1);
    // Nobody has answered yet: the event has not waited.
    assert_eq!(told.len(), 1);
    let user = "/process/credentials/real_user";
    assert_eq!(told[0].pointer(user).unwrap()["id"], 61_184);
    assert_eq!(told[0].pointer(user).unwrap().get("name"), None);
    for _ in 0..2 {
        answer.send(()).unwrap();
    }
    let told = wait(folder.path(), &mut pipeline, 2);
    let patch = &told[1]["patch"];
    assert_eq!(told[1]["type"], "patch");
    assert_eq!(
        (&patch["of"], &patch["of_type"]),
        (&told[0]["id"], &Value::from("exec"))
    );
    assert_eq!(told[1]["process"]["pid"], 7);
    let credentials = &patch["process"]["credentials"];
    assert_eq!(credentials["real_user"]["name"], "dynamic");
    assert_eq!(credentials["effective_user"]["name"], "dynamic");
    // The next program of that user has its name at once, and nothing is owed.
    pipeline.sample(&exec(8, 2 * second));
    let told = wait(folder.path(), &mut pipeline, 3);
    assert_eq!(told[2]["type"], "exec");
    assert_eq!(told[2].pointer(user).unwrap()["name"], "dynamic");
    let (mut ledger, output) = pipeline.finish(Duration::ZERO);
    // The reader's side: there was none.
    ledger.reader(Row::Kind(RecordKind::Exec), 2, 0);
    assert_eq!(ledger.imbalances(None), []);
    output.into_sink().close_and_join(Duration::from_secs(60));
    let patches = events(folder.path()).into_iter();
    assert_eq!(patches.filter(|event| event["type"] == "patch").count(), 1);
}

const CONTAINER: &str = "3f1b0a8c5d7e9f2a4b6c8d0e1f3a5b7c9d1e3f5a7b9c1d3e5f7a9b1c3d5e7f9a";
const SECOND: u64 = 1_000_000_000;

/// What Docker knows of the container.
fn put_docker(root: &Path) {
    let folder = root.join(format!("var/lib/docker/containers/{CONTAINER}"));
    std::fs::create_dir_all(&folder).unwrap();
    let state = r#"{"Name":"/web","Config":{"Image":"nginx:1.27","Labels":{"app":"shop"}}}"#;
    std::fs::write(folder.join("config.v2.json"), state).unwrap();
}

/// Process 7, started in the first second, in the container.
fn put_process(root: &Path) {
    let folder = root.join("proc/7");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(
        folder.join("stat"),
        "7 (x) S 1 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 100 0",
    )
    .unwrap();
    std::fs::write(folder.join("cgroup"), format!("0::/docker/{CONTAINER}\n")).unwrap();
}

fn exec_of(tgid: u32, start: u64, cgroup_id: u64) -> Vec<u8> {
    let mut exec = Exec::new((tgid, start), (1, 1), start, b"/bin/x");
    exec.cgroup_id = cgroup_id;
    exec.bytes()
}

#[test]
fn an_event_has_the_facts_of_its_container() {
    let folder = tempfile::tempdir().unwrap();
    put_docker(folder.path());
    put_process(folder.path());
    let mut describer = describer(&folder.path().join("proc"), true);
    describer.containers = ContainerFacts::patient(folder.path());
    // The clock of records stands still: nothing but the answer lets the event go. Should the thread that reads be held up for longer
    // than it is waited for, they follow as a patch.
    let mut pipeline = pipeline_of(folder.path(), describer, Duration::from_secs(10));
    pipeline.sample(&exec_of(7, SECOND, 0));
    let told = wait(folder.path(), &mut pipeline, 1);
    let container = &told[0]["process"]["container"];
    assert_eq!(container["id"], CONTAINER);
    let facts = if container["image"].is_null() {
        let told = wait(folder.path(), &mut pipeline, 2);
        told[1]["patch"]["process"]["container"].clone()
    } else {
        container.clone()
    };
    assert_eq!(facts["image"], "nginx:1.27");
    assert_eq!(facts["name"], "web");
    assert_eq!(facts["labels"][0]["value"], "shop");
    assert_eq!(facts["absent"], Value::Null);
    pipeline.finish(Duration::ZERO);
}

#[test]
fn facts_that_come_late_are_told_by_a_patch() {
    let folder = tempfile::tempdir().unwrap();
    put_process(folder.path());
    let mut describer = describer(&folder.path().join("proc"), true);
    describer.containers = ContainerFacts::patient(folder.path());
    let mut pipeline = pipeline_of(folder.path(), describer, Duration::from_secs(10));
    pipeline.sample(&exec_of(7, SECOND, 0));
    // There is no file yet, and the event does not wait for one.
    let told = wait(folder.path(), &mut pipeline, 1);
    let container = &told[0]["process"]["container"];
    assert_eq!(container["id"], CONTAINER);
    assert_eq!(container["absent"]["image"], "pending");
    put_docker(folder.path());
    pipeline.table.describer.containers.again_now();
    let told = wait(folder.path(), &mut pipeline, 2);
    assert_eq!(told[1]["type"], "patch");
    let patch = &told[1]["patch"];
    assert_eq!(
        (&patch["of"], &patch["of_type"]),
        (&told[0]["id"], &Value::from("exec"))
    );
    let container = &patch["process"]["container"];
    assert_eq!(container["image"], "nginx:1.27");
    assert_eq!(container["absent"], Value::Null);
    // What comes after it has them at once.
    let again = Exec::new((7, SECOND), (1, 1), 2 * SECOND, b"/bin/y");
    pipeline.sample(&again.bytes());
    let told = wait(folder.path(), &mut pipeline, 3);
    assert_eq!(told[2]["process"]["container"]["name"], "web");
    pipeline.finish(Duration::ZERO);
}

#[test]
fn the_container_of_an_ended_process_is_told_by_patches() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = tempfile::tempdir().unwrap();
    put_docker(folder.path());
    let cgroups = folder.path().join("cgroup");
    let cgroup = cgroups.join(format!("docker/{CONTAINER}"));
    std::fs::create_dir_all(&cgroup).unwrap();
    let mut describer = describer(&folder.path().join("proc"), true);
    describer.places = Places::new(Some(cgroups), Vec::new()).unwrap();
    describer.containers = ContainerFacts::patient(folder.path());
    let mut pipeline = pipeline_of(folder.path(), describer, Duration::ZERO);
    let id = std::fs::metadata(&cgroup).unwrap().ino();
    pipeline.sample(&exec_of(9, SECOND, id));
    let deadline = Instant::now() + Duration::from_secs(60);
    let image = "/patch/process/container/image";
    let told = loop {
        let told = wait(folder.path(), &mut pipeline, 1);
        if told.iter().any(|event| event.pointer(image).is_some()) {
            break told;
        }
        assert!(Instant::now() < deadline, "{told:#?}");
    };
    assert_eq!(told[0]["process"]["absent"]["cgroup_path"], "pending");
    let last = told.last().unwrap();
    assert_eq!(last.pointer(image).unwrap(), "nginx:1.27");
    assert_eq!(last["patch"]["of"], told[0]["id"]);
    assert!(told.iter().skip(1).all(|event| event["type"] == "patch"));
    pipeline.finish(Duration::ZERO);
}

#[test]
fn a_reader_of_files_that_hangs_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    put_process(folder.path());
    let mut describer = describer(&folder.path().join("proc"), true);
    let (gate, hung) = std::sync::mpsc::sync_channel::<()>(0);
    describer.containers = ContainerFacts::of_reader(move || {
        if hung.recv().is_err() {
            // The test is over.
        }
    });
    let mut pipeline = pipeline_of(folder.path(), describer, Duration::from_secs(3600));
    for exec in 0..20 {
        let time = SECOND + exec;
        let bytes = Exec::new((7, SECOND), (1, 1), time, b"/bin/x").bytes();
        pipeline.sample(&bytes);
    }
    let told = wait(folder.path(), &mut pipeline, 20);
    for event in &told {
        let absent = &event["process"]["container"]["absent"];
        assert_eq!(absent["image"], "pending");
    }
    drop(gate);
    pipeline.finish(Duration::ZERO);
}
