use std::path::Path;
use std::time::Instant;

use sensor_common::layout::KernelLayout;
use serde_json::Value;

use super::*;
use crate::config::OutputFormat;
use crate::enrich::process::Limits;
use crate::enrich::process::tests::{Exec, describer};
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
        hold: Duration::ZERO,
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
