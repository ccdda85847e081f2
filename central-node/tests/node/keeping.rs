//! What is kept and what is given up, how the node stops, and what the commands do with bad input and with readers that go.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use central_node::store::{self, retention};
use central_node::testing::{Maker, Place, Seen};
use sensor_proto::v1;
use tempfile::TempDir;
use uuid::Uuid;

use super::agent::{LONG, acked};
use super::program::{PROGRAM, Served, ask, deliver, lines, sealed};

/// Waits until a condition holds.
fn wait(what: &str, condition: impl Fn() -> bool) {
    let until = std::time::Instant::now() + LONG;
    while !condition() {
        assert!(std::time::Instant::now() < until, "{what}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

struct World {
    folder: TempDir,
    place: Place,
    data: PathBuf,
    agent_id: Uuid,
    maker: Maker,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let agent_id = Uuid::new_v4();
        Self {
            place: Place::new(folder.path()).unwrap(),
            data: folder.path().join("data"),
            folder,
            agent_id,
            maker: Maker::new(agent_id, v1::Stream::Process),
        }
    }

    fn serve(&self, config: &str) -> Served {
        Served::start(self.folder.path(), &self.data, config)
    }

    async fn store(&self, served: &Served, packets: &[Vec<u8>]) {
        let mut delivery = deliver(served, &self.place, self.folder.path(), self.agent_id).await;
        for packet in packets {
            let status = acked(&delivery.deliver(packet.clone()).await);
            assert_eq!(status, v1::AckStatus::Stored);
        }
    }

    /// Numbers of the events that are there, in the order of their arrival.
    fn counters(&self) -> Vec<u64> {
        let id = |line: &serde_json::Value| {
            let id = line["event"]["id"].as_str().unwrap().to_owned();
            id.rsplit('/').next().unwrap().parse().unwrap()
        };
        lines(&["export"], &self.data).iter().map(id).collect()
    }

    fn stream(&self) -> serde_json::Value {
        let agents = lines(&["agents", "--json", "--since", "36500d"], &self.data);
        agents[0]["streams"][0].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_when_they_are_too_old_and_their_account_later() {
    let mut world = World::new();
    let packets: Vec<_> = (0..3).map(|_| sealed(&mut world.maker, 10)).collect();
    let served = world.serve("");
    world.store(&served, &packets).await;
    served.terminate().await;
    assert_eq!(world.counters().len(), 30);
    // No agent is there: it happens all the same.
    let served = world.serve("[store]\nage = '1s'\n");
    wait("events go", || world.counters().is_empty());
    let stream = world.stream();
    assert_eq!(
        (&stream["packets"], &stream["events"]),
        (&3.into(), &30.into())
    );
    assert_eq!(stream["forgotten_to_sequence"], 0);
    served.terminate().await;
    let served = world.serve("[store]\nage = '1s'\naccount_age = '1s'\n");
    wait("accounts go", || {
        world.stream()["forgotten_to_sequence"] == 3
    });
    // What was stored once is not stored again.
    let mut delivery = deliver(&served, &world.place, world.folder.path(), world.agent_id).await;
    let status = acked(&delivery.deliver(packets[1].clone()).await);
    assert_eq!(status, v1::AckStatus::Duplicate);
    assert_eq!(world.counters(), Vec::<u64>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_events_go_when_there_are_too_many() {
    const LIMIT: u64 = 2 << 20;
    let mut world = World::new();
    // Few events with long names: what is searched by goes in groups of many packets, and later.
    let packets: Vec<_> = (0..300)
        .map(|_| {
            let mut seen = Seen::default();
            for pid in 1..=10 {
                let words = std::iter::repeat_with(|| Uuid::new_v4().simple().to_string());
                let path = format!("/usr/bin/{}", words.take(60).collect::<String>());
                world.maker.exec(&mut seen, pid, &path);
            }
            world.maker.seal(seen).unwrap()
        })
        .collect();
    let bytes: usize = packets.iter().map(Vec::len).sum();
    assert!(
        u64::try_from(bytes).unwrap() > LIMIT,
        "{bytes} bytes are no test"
    );
    let served = world.serve(&format!("[store]\nbytes = '{}MiB'\n", LIMIT >> 20));
    world.store(&served, &packets).await;
    let used = || retention::used_bytes(&store::open(&world.data).unwrap()).unwrap();
    wait("room is made", || used() <= LIMIT);
    let kept = world.counters();
    let (first, last) = (kept[0], *kept.last().unwrap());
    assert_eq!(last, 300 * 10, "the newest are there");
    assert!(first > 1, "nothing went");
    assert_eq!(kept, (first..=last).collect::<Vec<_>>(), "the oldest went");
    served.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_stores_what_was_taken_and_closes_the_store() {
    let mut world = World::new();
    let packets: Vec<_> = (0..40).map(|_| sealed(&mut world.maker, 50)).collect();
    let served = world.serve("");
    let mut delivery = deliver(&served, &world.place, world.folder.path(), world.agent_id).await;
    for packet in &packets {
        delivery.send(packet.clone()).await;
    }
    // In the middle of it.
    acked(&delivery.answer().await.unwrap());
    served.terminate().await;
    let mut acks = 1;
    let end = loop {
        match delivery.answer().await {
            Ok(answer) => {
                acked(&answer);
                acks += 1;
            }
            Err(status) => break status,
        }
    };
    assert!(
        matches!(
            end.code(),
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled
        ) || acks == packets.len(),
        "{end:?}"
    );
    // Nothing is left to be recovered, and no other process has to.
    let log = world.data.join("central-node.db-wal");
    let length = log.metadata().map_or(0, |metadata| metadata.len());
    assert_eq!(length, 0, "the log was not taken over into the store");
    let connection = store::open(&world.data).unwrap();
    let check: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    let stored = world.counters().len();
    assert!(
        stored >= acks * 50 && stored.is_multiple_of(50),
        "{stored}, {acks}"
    );
    // It goes on where it stopped.
    let served = world.serve("");
    let mut delivery = deliver(&served, &world.place, world.folder.path(), world.agent_id).await;
    for packet in &packets {
        acked(&delivery.deliver(packet.clone()).await);
    }
    assert_eq!(world.counters().len(), 40 * 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_ends_a_question_without_noise() {
    let mut world = World::new();
    // Much more than a pipe holds.
    let packets: Vec<_> = (0..4).map(|_| sealed(&mut world.maker, 500)).collect();
    let served = world.serve("");
    world.store(&served, &packets).await;
    for words in [
        &["export"][..],
        &["query", "--limit", "0"],
        &["query", "--limit", "100000"],
        &["query", "--table", "--limit", "0"],
    ] {
        let mut child = Command::new(PROGRAM)
            .args(words)
            .arg("--data")
            .arg(&world.data)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::with_capacity(64, child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(!line.is_empty());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
    }
}

#[test]
fn settings_that_can_be_none_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    drop(store::create(folder.path()).unwrap());
    let file = folder.path().join("filter.toml");
    let set = |file: &Path| {
        let file = file.to_str().unwrap();
        ask(&["settings", "set", "--all", file], folder.path())
    };
    let good = "[[filter.rule]]\nid = 'quiet'\naction = 'exclude'\nevent = ['exec']\n";
    std::fs::write(&file, good).unwrap();
    let output = set(&file);
    assert!(output.status.success(), "{output:?}");
    let shown = || {
        let output = ask(&["settings", "show"], folder.path());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let before = shown();
    assert!(before.contains("id = 'quiet'"), "{before}");
    let long = format!("# {}\n", "x".repeat(600 << 10));
    for (content, named) in [
        (&b"[[filter.rule]\n"[..], "filter.toml"),
        (b"\xff\xfe", "utf-8"),
        (b"[output]\nformat = 'json'\n", "`output`"),
        (b"filter = 3\n", "`filter`"),
        (b"[filter]\nrule = 3\n", "`filter.rule`"),
        (b"[filter]\nrule = [3]\n", "`filter.rule`"),
        (b"[filter]\nrules_file = '/etc/x'\n", "`filter.rules_file`"),
        (long.as_bytes(), "longer than"),
    ] {
        std::fs::write(&file, content).unwrap();
        let output = set(&file);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(
            text.contains("filter.toml") && text.contains(named),
            "{named}: {text}"
        );
        assert!(output.stdout.is_empty());
        assert_eq!(shown(), before);
    }
    for (words, status) in [
        (vec!["settings", "set", "--all", "/nonexistent.toml"], 2),
        (
            vec!["settings", "set", "--agent", "me", file.to_str().unwrap()],
            2,
        ),
        (vec!["settings", "set", file.to_str().unwrap()], 2),
    ] {
        let output = ask(&words, folder.path());
        assert_eq!(output.status.code(), Some(status), "{words:?}");
        assert!(!output.stderr.is_empty(), "{words:?}");
        assert_eq!(shown(), before);
    }
    // Nothing is made where there is no store.
    std::fs::write(&file, good).unwrap();
    let empty = tempfile::tempdir().unwrap();
    let output = ask(
        &["settings", "set", "--all", file.to_str().unwrap()],
        empty.path(),
    );
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
}
