//! The program: killed, out of room, asked.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use central_node::certificate::CA;
use central_node::testing::{Maker, Place, Seen};
use sensor_proto::v1;
use sensor_proto::v1::deliver_response::Message;
use uuid::Uuid;

use super::agent::{Delivery, acked, client};

pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_central-node");

/// A node as a process; killed when dropped.
pub(super) struct Served {
    child: Child,
    address: SocketAddr,
}

impl Served {
    pub(super) fn start(folder: &Path, data: &Path, config: &str) -> Self {
        let file = folder.join("central-node.toml");
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .arg("--data")
            .arg(data)
            .arg("--certificate")
            .arg(folder.join("server.pem"))
            .arg("--key")
            .arg(folder.join("server.key"))
            .arg("--client-ca")
            .arg(folder.join(CA))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap();
        Self {
            address: address.parse().unwrap(),
            child,
        }
    }

    /// Asks it to stop, and waits until it has, in order.
    pub(super) async fn terminate(self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let ended = tokio::task::spawn_blocking(move || {
            let mut served = self;
            served.child.wait()
        });
        let status = tokio::time::timeout(super::agent::LONG, ended).await;
        let status = status.unwrap().unwrap().unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(super) fn ask(args: &[&str], data: &Path) -> Output {
    Command::new(PROGRAM)
        .args(args)
        .arg("--data")
        .arg(data)
        .output()
        .unwrap()
}

/// Lines of JSON that a command prints.
pub(super) fn lines(args: &[&str], data: &Path) -> Vec<serde_json::Value> {
    let output = ask(args, data);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(super) async fn deliver(
    served: &Served,
    place: &Place,
    folder: &Path,
    agent_id: Uuid,
) -> Delivery {
    let pair = place.agent(agent_id).unwrap();
    let mut client = client(served.address, &folder.join(CA), Some(&pair))
        .await
        .unwrap();
    Delivery::begin(&mut client, agent_id, Vec::new())
        .await
        .unwrap()
}

pub(super) fn sealed(maker: &mut Maker, events: u32) -> Vec<u8> {
    let mut seen = Seen::default();
    for pid in 1..=events {
        maker.exec(&mut seen, pid, &format!("/usr/bin/program-{pid}"));
    }
    maker.seal(seen).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_once_after_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let (place, data) = (
        Place::new(folder.path()).unwrap(),
        folder.path().join("data"),
    );
    let agent_id = Uuid::new_v4();
    let mut maker = Maker::new(agent_id, v1::Stream::Process);
    let packets: Vec<_> = (0..120).map(|_| sealed(&mut maker, 20)).collect();
    let mut acks = std::collections::BTreeSet::new();
    let mut unacked: Vec<usize> = (0..packets.len()).collect();
    // Killed in the middle of a stream of packets, after another number of acks each time.
    for kill_after in [1usize, 7, 20, 40] {
        let served = Served::start(folder.path(), &data, "");
        let mut delivery = deliver(&served, &place, folder.path(), agent_id).await;
        for index in unacked.iter().take(64) {
            delivery.send(packets[*index].clone()).await;
            if acks.len() >= kill_after {
                break;
            }
            if let Message::Ack(ack) = delivery.answer().await.unwrap() {
                acks.insert(ack.sequence);
            }
        }
        served.kill();
        unacked.retain(|index| !acks.contains(&(u64::try_from(*index).unwrap() + 1)));
    }
    let stored = lines(&["export"], &data);
    let mut counters: Vec<u64> = Vec::new();
    for line in &stored {
        let id = line["event"]["id"].as_str().unwrap();
        counters.push(id.rsplit('/').next().unwrap().parse().unwrap());
    }
    let unique: std::collections::BTreeSet<_> = counters.iter().copied().collect();
    assert_eq!(unique.len(), counters.len(), "an event is there twice");
    for sequence in &acks {
        for counter in (sequence - 1) * 20 + 1..=sequence * 20 {
            assert!(
                unique.contains(&counter),
                "packet {sequence} was acknowledged"
            );
        }
    }
    // The agent sends again what it has no ack of, and everything else, too: each event is there once.
    let served = Served::start(folder.path(), &data, "");
    let mut delivery = deliver(&served, &place, folder.path(), agent_id).await;
    for (index, packet) in packets.iter().enumerate() {
        let status = acked(&delivery.deliver(packet.clone()).await);
        if acks.contains(&(u64::try_from(index).unwrap() + 1)) {
            assert_eq!(status, v1::AckStatus::Duplicate);
        }
    }
    assert_eq!(lines(&["export"], &data).len(), 120 * 20);
    let agents = lines(&["agents", "--json", "--since", "36500d"], &data);
    let stream = &agents[0]["completeness"][0];
    assert_eq!(stream["events"], 120 * 20);
    let found: Vec<_> = stream["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["finding"].as_str().unwrap())
        .collect();
    assert_eq!(found, ["unknown", "not_yet"]);
}

/// A small file system of its own; unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    /// None where mounting is not permitted.
    fn new(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = rustix::mount::mount(
            "none",
            folder.path(),
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(
                std::ffi::CString::new(format!("size={bytes}"))
                    .unwrap()
                    .as_c_str(),
            ),
        );
        match mounted {
            Ok(()) => Some(Self(folder)),
            Err(rustix::io::Errno::PERM) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
        assert_eq!(unmounted, Ok(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_disk_agents_are_told_to_wait_and_go_on_when_there_is_room() {
    let Some(small) = Small::new(24 << 20) else {
        // Mounting needs root; the end-to-end suites run as root.
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (place, data) = (
        Place::new(folder.path()).unwrap(),
        small.0.path().join("data"),
    );
    for reserve in ["4MiB", "0B"] {
        let ballast = small.0.path().join("ballast");
        let served = Served::start(
            folder.path(),
            &data,
            &format!("[store]\nreserve = '{reserve}'\n"),
        );
        let agent_id = Uuid::new_v4();
        let mut delivery = deliver(&served, &place, folder.path(), agent_id).await;
        let mut maker = Maker::new(agent_id, v1::Stream::Process);
        let packet = sealed(&mut maker, 2_000);
        // Everything that is free.
        let mut file = std::fs::File::create(&ballast).unwrap();
        let block = vec![1; 64 << 10];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        let Message::Refusal(refusal) = delivery.deliver(packet.clone()).await else {
            panic!("stored on a full disk");
        };
        assert_eq!(refusal.reason(), v1::RefusalReason::Store);
        assert!(refusal.retry_after_ms.is_some());
        drop(file);
        std::fs::remove_file(&ballast).unwrap();
        assert_eq!(
            acked(&delivery.deliver(packet).await),
            v1::AckStatus::Stored
        );
        let id = agent_id.to_string();
        let stored = lines(&["query", "--limit", "0", "--agent", &id], &data);
        assert_eq!(stored.len(), 2_000);
        served.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_by_every_criterion() {
    let folder = tempfile::tempdir().unwrap();
    let (place, data) = (
        Place::new(folder.path()).unwrap(),
        folder.path().join("data"),
    );
    let served = Served::start(folder.path(), &data, "");
    let agent_id = Uuid::new_v4();
    let mut delivery = deliver(&served, &place, folder.path(), agent_id).await;
    let mut processes = Maker::new(agent_id, v1::Stream::Process);
    let mut bulk = Maker {
        stream: v1::Stream::Bulk,
        counter: 1_000_000,
        ..processes.clone()
    };
    for round in 0..10u32 {
        let mut seen = Seen::default();
        processes.exec(&mut seen, 100 + round, "/usr/bin/curl");
        processes.exit(&mut seen, 100 + round, "/usr/bin/curl");
        processes.exec(&mut seen, 200 + round, "/usr/bin/vi");
        let packet = processes.seal(seen).unwrap();
        assert_eq!(
            acked(&delivery.deliver(packet).await),
            v1::AckStatus::Stored
        );
        let mut seen = Seen::default();
        let address = [192, 0, 2, u8::try_from(round).unwrap()];
        bulk.connect(&mut seen, 100 + round, "/usr/bin/curl", address, 443);
        bulk.create(
            &mut seen,
            200 + round,
            "/usr/bin/vi",
            &format!("/etc/file-{round}"),
        );
        let packet = bulk.seal(seen).unwrap();
        assert_eq!(
            acked(&delivery.deliver(packet).await),
            v1::AckStatus::Stored
        );
    }
    let hash: String = central_node::packet::digest(b"/etc/file-3")
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let id = agent_id.to_string();
    for (criteria, count) in [
        (vec![], 50),
        (vec!["--type", "exec"], 20),
        (vec!["--type", "exec", "--type", "exit"], 30),
        (vec!["--process", "curl"], 30),
        (vec!["--process", "/usr/bin/vi"], 20),
        (vec!["--process", "cur*"], 30),
        (vec!["--process", "curl", "--type", "connect"], 10),
        (vec!["--path", "/etc/file-3"], 1),
        (vec!["--path", "/etc/*"], 10),
        (vec!["--path", "/etc/file-3", "--path", "/etc/file-4"], 2),
        (vec!["--hash", &hash], 1),
        (vec!["--address", "192.0.2.7"], 1),
        (vec!["--address", "192.0.2.0/30"], 4),
        (vec!["--address", "192.0.2.7", "--process", "vi"], 0),
        (vec!["--port", "443"], 10),
        (vec!["--user", "alice"], 50),
        (vec!["--user", "1000", "--type", "exit"], 10),
        (vec!["--user", "bob"], 0),
        (vec!["--host", "host-of-a-test"], 50),
        (vec!["--host", "another"], 0),
        (vec!["--agent", &id], 50),
        (vec!["--since", "1m"], 0),
        (vec!["--until", "1m"], 50),
    ] {
        for limit in ["0", "1000"] {
            let mut args = vec!["query", "--limit", limit];
            args.extend(&criteria);
            assert_eq!(lines(&args, &data).len(), count, "{args:?}");
        }
    }
    // The newest, in the order of their time.
    let all = lines(&["query", "--limit", "0", "--type", "exec"], &data);
    let newest = lines(&["query", "--limit", "3", "--type", "exec"], &data);
    assert_eq!(newest, all[17..]);
    // An export goes on where the one before ended.
    let whole = lines(&["export"], &data);
    let first = lines(&["export", "--limit", "7"], &data);
    let position = first[6]["position"].as_str().unwrap();
    let rest = lines(&["export", "--after", position], &data);
    assert_eq!([first, rest].concat(), whole);
    // For people.
    let table = ask(
        &["query", "--table", "--port", "443", "--limit", "1"],
        &data,
    );
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("192.0.2.9:443") && table.contains("curl"),
        "{table}"
    );
    let table = String::from_utf8(ask(&["agents"], &data).stdout).unwrap();
    assert!(table.contains(&id), "{table}");
}

#[test]
fn errors_have_their_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let code = |args: &[&str]| ask(args, folder.path()).status.code();
    assert_eq!(code(&["query"]), Some(2), "there is no store");
    assert_eq!(code(&["query", "--hash", "xyz"]), Some(2));
    assert_eq!(code(&["query", "--since", "yesterday"]), Some(2));
    assert_eq!(code(&["serve"]), Some(2), "there are no certificates");
    std::fs::write(folder.path().join("central-node.db"), b"something else").unwrap();
    assert_eq!(code(&["query"]), Some(70), "a file that is no store");
    std::fs::remove_file(folder.path().join("central-node.db")).unwrap();
    let connection = central_node::store::create(folder.path()).unwrap();
    assert_eq!(code(&["query"]), Some(0));
    connection
        .pragma_update(None, "user_version", central_node::store::VERSION + 1)
        .unwrap();
    let output = ask(&["query"], folder.path());
    assert_eq!(output.status.code(), Some(70), "a newer store");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("use a newer one"), "{text}");
}

#[test]
fn certificates_are_made_once_and_keys_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let make = |agent: &str| {
        Command::new(PROGRAM)
            .args(["certificates", "--agent", agent, "--folder"])
            .arg(folder.path())
            .output()
            .unwrap()
    };
    let id = Uuid::new_v4().to_string();
    assert!(make(&id).status.success());
    let authority = std::fs::read(folder.path().join(CA)).unwrap();
    assert_eq!(make(&id).status.code(), Some(2), "nothing is overwritten");
    assert!(make("new").status.success());
    assert_eq!(std::fs::read(folder.path().join(CA)).unwrap(), authority);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "key") {
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
    }
}
