//! From the sensor through its spool to JetStream of a real nats-server, which is killed in the middle. What arrived is read back from
//! the stream by another client than the sensor's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use async_nats::jetstream;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sensor_proto::packet::{Limits, open};
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::wait_for;
use serde_json::Value;
use tempfile::TempDir;

use crate::delivery::{assert_once_in_order, run, runs, sensor, state_folder};

const REASON: &str = "nats-server is installed for this machine only";

pub(crate) const TESTS: &[Test] = &[
    Test::on_host("receivers_nats::packets_over_tls", packets_over_tls, REASON),
    Test::on_host(
        "receivers_nats::events_with_the_least_rights",
        events_with_the_least_rights,
        REASON,
    ),
];

/// Programs that run before, during and after an outage.
const PROGRAMS: u64 = 20;
/// The pair that the server's documentation has.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
const USER: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

/// Users of the server: the sensor with as few rights as it needs, and the one who reads.
struct Users {
    sensor: String,
    publishes: &'static [&'static str],
}

/// A nats-server with a folder of its own.
struct Server {
    program: PathBuf,
    folder: TempDir,
    users: Users,
    tls: bool,
    /// Port of the first start, kept at later ones.
    port: Option<u16>,
    child: Option<Child>,
}

/// A message as the stream has it.
struct Stored {
    subject: String,
    id: String,
    payload: Vec<u8>,
}

impl Server {
    fn new(users: Users, tls: bool) -> Self {
        let program = std::env::var_os("SENSOR_NATS_SERVER").map(PathBuf::from);
        let program = program.expect(
            "SENSOR_NATS_SERVER is not set: `cargo xtask test` sets it, `cargo xtask receivers` prints it",
        );
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let mut server = Self {
            program,
            folder,
            users,
            tls,
            port: None,
            child: None,
        };
        server.certificates();
        server.start();
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file that only its owner may read.
    fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn certificates(&self) {
        let mut parameters = CertificateParams::new(vec![]).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = CertifiedIssuer::self_signed(parameters, key).unwrap();
        self.secret("ca.pem", &authority.pem());
        for role in ["server", "client"] {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let parameters = CertificateParams::new(names).unwrap();
            let key = KeyPair::generate().unwrap();
            let certificate = parameters.signed_by(&key, &authority).unwrap();
            self.secret(&format!("{role}.pem"), &certificate.pem());
            self.secret(&format!("{role}.key"), &key.serialize_pem());
        }
    }

    fn start(&mut self) {
        let ports = self.path("ports");
        fs::create_dir_all(&ports).unwrap();
        let port = self.port.map_or("-1".to_owned(), |port| port.to_string());
        let tls = if self.tls {
            format!(
                "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n",
                self.path("server.pem"),
                self.path("server.key"),
                self.path("ca.pem")
            )
        } else {
            String::new()
        };
        let config = format!(
            "listen: \"127.0.0.1:{port}\"\nports_file_dir: {ports:?}\njetstream {{ store_dir: {:?} }}\n{tls}\
             authorization {{ users: [\n\
             {{ {}, permissions: {{ publish: {:?}, subscribe: [\"_INBOX.>\"] }} }},\n\
             {{ user: reader, password: reader }}\n] }}\n",
            self.path("store"),
            self.users.sensor,
            self.users.publishes,
        );
        let config = self.secret("nats.conf", &config);
        let log = fs::File::create(self.path("log")).unwrap();
        let child = sensor_tests::trigger::command_in(&Place::here().outside, &self.program)
            .arg("-c")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        if self.port.is_none() {
            self.port = Some(wait_for("the port of nats-server", patience(), || {
                let entry = fs::read_dir(&ports).unwrap().next()?.unwrap();
                let told: Value = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
                let address = told["nats"][0].as_str()?;
                address.rsplit(':').next()?.parse().ok()
            }));
        }
        // A port that is listened to may not have its streams yet.
        wait_for("JetStream of nats-server", patience(), || {
            self.read(|context| async move { context.query_account().await.ok() })
        });
    }

    /// Kills it as the kernel would when memory is short.
    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks the server as the one who reads; none if it does not answer.
    fn read<T, F: Future<Output = Option<T>>>(
        &self,
        ask: impl FnOnce(jetstream::Context) -> F,
    ) -> Option<T> {
        let mut options =
            async_nats::ConnectOptions::with_user_and_password("reader".into(), "reader".into())
                .max_reconnects(1);
        if self.tls {
            options = options
                .require_tls(true)
                .add_root_certificates(self.path("ca.pem"))
                .add_client_certificate(self.path("client.pem"), self.path("client.key"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let address = format!("localhost:{}", self.port.unwrap());
        runtime.block_on(async {
            let client = options.connect(address).await.ok()?;
            let mut context = jetstream::new(client);
            context.set_timeout(Duration::from_secs(5));
            ask(context).await
        })
    }

    /// All that the stream has, in its order; none while it does not answer.
    fn stored(&self) -> Option<Vec<Stored>> {
        self.read(|context| async move {
            let mut stream = context.get_stream("EVENTS").await.ok()?;
            let last = stream.info().await.ok()?.state.last_sequence;
            let mut stored = Vec::new();
            for sequence in 1..=last {
                let message = stream.get_raw_message(sequence).await.ok()?;
                stored.push(Stored {
                    subject: message.subject.to_string(),
                    id: message.headers.get("Nats-Msg-Id")?.to_string(),
                    payload: message.payload.to_vec(),
                });
            }
            Some(stored)
        })
    }

    /// What a consumer keeps: of messages with one id the first. The others must be the same.
    fn once(&self) -> Option<Vec<Stored>> {
        let mut known: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut kept = self.stored()?;
        kept.retain(|message| match known.get(&message.id) {
            Some(before) => {
                assert!(
                    *before == message.payload,
                    "{} has two contents",
                    message.id
                );
                false
            }
            None => {
                known.insert(message.id.clone(), message.payload.clone());
                true
            }
        });
        Some(kept)
    }

    fn sink(&self, state: &Path, more: &str) -> String {
        let port = self.port.unwrap();
        format!(
            "[state]\ndirectory = {state:?}\n[sink.bus]\ntype = \"jetstream\"\naddress = \"localhost:{port}\"\nstream = \"EVENTS\"\n\
             retry_max = \"2s\"\n{more}"
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Packets are sealed after some seconds, and sinks wait before they try again.
fn patience() -> Duration {
    Place::here().patience() * 3
}

/// Runs programs while the server comes and goes, and waits until the events that are read back tell of the last of them.
fn through_an_outage(
    server: &mut Server,
    config: &str,
    events: impl Fn(&Server) -> Option<Vec<Value>>,
) -> Vec<Value> {
    let sensor = sensor(config);
    let mark = |number: u64| format!("delivery-{number}");
    let arrived = |server: &Server, last: u64| {
        wait_for(&format!("{} in the stream", mark(last)), patience(), || {
            let events = events(server)?;
            runs(&events).contains(&mark(last)).then_some(events)
        })
    };
    for number in 0..PROGRAMS {
        run(&mark(number));
    }
    // Something is there before the blow, and something is on the way.
    arrived(server, 0);
    for number in PROGRAMS..2 * PROGRAMS {
        run(&mark(number));
        if number == PROGRAMS + PROGRAMS / 2 {
            server.kill();
        }
    }
    server.start();
    for number in 2 * PROGRAMS..3 * PROGRAMS {
        run(&mark(number));
    }
    let last = 3 * PROGRAMS - 1;
    let told = arrived(server, last);
    sensor.stop().assert_clean();
    assert_once_in_order(&told);
    let wanted: Vec<String> = (0..=last).map(mark).collect();
    assert_eq!(runs(&told), wanted);
    told
}

fn packets_over_tls() {
    let users = Users {
        sensor: format!("nkey: {USER}"),
        publishes: &[
            "sensor.>",
            "$JS.API.STREAM.INFO.EVENTS",
            "$JS.API.STREAM.CREATE.EVENTS",
        ],
    };
    let mut server = Server::new(users, true);
    let seed = server.secret("seed", SEED);
    let state = state_folder();
    let config = server.sink(
        state.path(),
        &format!(
            "create_stream = true\nca_file = {:?}\ncertificate_file = {:?}\nkey_file = {:?}\nauthentication = \"nkey\"\ncredentials_file = {seed:?}\n",
            server.path("ca.pem"),
            server.path("client.pem"),
            server.path("client.key"),
        ),
    );
    // Opened as any reader of the schema would.
    let read = |server: &Server| {
        let mut events = Vec::new();
        for message in server.once()? {
            let packet = open(&message.payload, &Limits::default()).unwrap();
            for event in packet.events() {
                let mut line = Vec::new();
                packet.write_event_json(event, &mut line);
                events.push(serde_json::from_slice(&line).unwrap());
            }
        }
        Some(events)
    };
    through_an_outage(&mut server, &config, read);
    let kept = server.once().unwrap();
    let mut expected = 1;
    for message in &kept {
        let packet = open(&message.payload, &Limits::default()).unwrap();
        let header = packet.header();
        assert!(message.id.ends_with(&format!("/{}", header.sequence)));
        if message.subject.ends_with(".process") {
            assert_eq!(
                header.sequence, expected,
                "the stream has a gap or is out of order"
            );
            expected += 1;
        }
    }
    assert!(expected > 1);
    println!(
        "{} packets, {} of them stored twice",
        kept.len(),
        server.stored().unwrap().len() - kept.len()
    );
}

fn events_with_the_least_rights() {
    let users = Users {
        sensor: "user: sensor, password: secret".to_owned(),
        // It may publish; neither make the stream nor ask for it.
        publishes: &["events.>"],
    };
    let mut server = Server::new(users, false);
    let made = server.read(|context| async move {
        let config = jetstream::stream::Config {
            name: "EVENTS".to_owned(),
            subjects: vec!["events.>".to_owned()],
            ..jetstream::stream::Config::default()
        };
        context.create_stream(config).await.ok().map(drop)
    });
    assert!(made.is_some());
    let credentials = server.secret("credentials", "sensor:secret\n");
    let state = state_folder();
    let config = server.sink(
        state.path(),
        &format!(
            "tls = false\nformat = \"ecs\"\nsubject = \"events.{{agent}}.{{type}}\"\nauthentication = \"password\"\ncredentials_file = {credentials:?}\n"
        ),
    );
    // In the words of `delivery`: what is compared is that they are there, once and in order.
    let read = |server: &Server| {
        let events = server.once()?.into_iter().map(|message| {
            let event: Value = serde_json::from_slice(&message.payload).unwrap();
            assert_eq!(event["event"]["id"], message.id.as_str());
            let action = event["event"]["action"].as_str().unwrap();
            assert!(
                message.subject.ends_with(&format!(".{action}")),
                "{}",
                message.subject
            );
            serde_json::json!({
                "id": event["event"]["id"],
                "type": action,
                "process": { "argv": event["process"]["args"] },
            })
        });
        Some(events.collect())
    };
    through_an_outage(&mut server, &config, read);
}
