//! Workers against a server in this process, which is told how to misbehave. Everything waits on conditions.

#![expect(
    clippy::unused_result_ok,
    clippy::wildcard_enum_match_arm,
    reason = "a server that misbehaves does not care whether it is heard"
)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use super::*;
use crate::config::sink::{SinkTable, check_for_tests};
use crate::config::{ReceiverConfig, SinkConfig};
use crate::sink::delivery::tests::{Host, LONG, Pki, check_account, start, wait};
use crate::sink::delivery::{Delivery, State};
use crate::sink::messages::tests::entry;
use crate::spool::Stream as Lane;

/// How the server behaves from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Good,
    /// Says what is no INFO.
    Garbage,
    /// A line that never ends.
    EndlessLine,
    /// Takes the connection and says nothing.
    Dumb,
    /// Offers no TLS.
    NoTls,
    /// Something in plain text behind INFO, before TLS.
    Injects,
    /// Takes tiny messages only.
    Tiny,
    /// Has no headers.
    NoHeaders,
    /// Refuses us.
    Denies,
    /// Never acknowledges.
    Silent,
    /// Acknowledges for another stream.
    OtherStream,
    /// Acknowledges without a place.
    NoPlace,
    /// Acknowledges twice.
    Twice,
    /// Acknowledges what was never sent.
    NeverSent,
    /// Answers with what is no JSON.
    Nonsense,
    /// Announces an answer of a gigabyte.
    EnormousAnswer,
    /// No stream takes it.
    NoResponders,
    /// The stream takes nothing now.
    Full,
    /// The stream takes no message so long.
    TooLong,
    /// Announces its end.
    LameDuck,
    /// Ends the connection after the first message.
    Hangs,
}

#[derive(Clone, Debug)]
struct Stored {
    subject: String,
    id: String,
    payload: Vec<u8>,
}

#[derive(Clone)]
struct Server {
    manner: Arc<Mutex<Manner>>,
    stored: Arc<Mutex<Vec<Stored>>>,
    connects: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    fn manner(&self) -> Manner {
        *self.manner.lock().unwrap()
    }

    fn be(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn stored(&self) -> Vec<Stored> {
        self.stored.lock().unwrap().clone()
    }

    async fn serve(self, mut tcp: tokio::net::TcpStream, tls: Option<tokio_rustls::TlsAcceptor>) {
        let offers = tls.is_some() && self.manner() != Manner::NoTls;
        let info = json!({
            "server_id": "test",
            "max_payload": if self.manner() == Manner::Tiny { 1_000 } else { 1 << 20 },
            "headers": self.manner() != Manner::NoHeaders,
            "tls_required": offers,
            "nonce": "n",
        });
        let first = match self.manner() {
            Manner::Garbage => "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned(),
            Manner::Injects => format!("INFO {info}\r\nPING\r\n"),
            Manner::Dumb => return std::future::pending().await,
            Manner::EndlessLine => {
                while tcp.write_all(&[b'x'; 4096]).await.is_ok() {}
                return;
            }
            _ => format!("INFO {info}\r\n"),
        };
        tcp.write_all(first.as_bytes()).await.ok();
        let stream: Stream = match tls {
            Some(acceptor) if offers => match acceptor.accept(tcp).await {
                Ok(stream) => Box::new(stream),
                Err(_) => return,
            },
            _ => Box::new(tcp),
        };
        let mut stream = BufReader::new(stream);
        let mut sequence = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let answer = match words[0] {
                "CONNECT" => {
                    let told = line.strip_prefix("CONNECT ").unwrap();
                    let told = serde_json::from_str(told).unwrap();
                    self.connects.lock().unwrap().push(told);
                    String::new()
                }
                "PING" if self.manner() == Manner::Denies => {
                    "-ERR 'Authorization Violation\u{1b}[31m'\r\n".to_owned()
                }
                // Now and then a question of the server's own.
                "PING" => "+OK\r\nPING\r\nPONG\r\n".to_owned(),
                "HPUB" => {
                    let head: usize = words[3].parse().unwrap();
                    let mut body = vec![0; words[4].parse::<usize>().unwrap() + 2];
                    if stream.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    sequence += 1;
                    let Some(answer) = self.published(words[1], words[2], head, &body, sequence)
                    else {
                        return;
                    };
                    answer
                }
                _ => String::new(),
            };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            stream.flush().await.ok();
        }
    }

    fn published(
        &self,
        subject: &str,
        reply: &str,
        head: usize,
        body: &[u8],
        sequence: u64,
    ) -> Option<String> {
        let headers = std::str::from_utf8(&body[..head]).unwrap();
        assert!(
            headers.contains("Nats-Expected-Stream: TEST\r\n"),
            "{headers}"
        );
        let id = headers
            .lines()
            .find_map(|line| line.strip_prefix("Nats-Msg-Id: "))
            .unwrap();
        let message =
            |reply: &str, text: &str| format!("MSG {reply} 1 {}\r\n{text}\r\n", text.len());
        let ack = message(
            reply,
            &format!("{{\"stream\":\"TEST\",\"seq\":{sequence}}}"),
        );
        let error = |code: u64| {
            message(
                reply,
                &format!(
                    "{{\"error\":{{\"code\":400,\"err_code\":{code},\"description\":\"no\\u001b[31m\"}},\"stream\":\"TEST\",\"seq\":0}}"
                ),
            )
        };
        Some(match self.manner() {
            Manner::Silent => String::new(),
            Manner::Hangs => return None,
            Manner::OtherStream => message(reply, "{\"stream\":\"OTHER\",\"seq\":1}"),
            Manner::NoPlace => message(reply, "{\"stream\":\"TEST\",\"seq\":0}"),
            Manner::NeverSent => {
                message(&format!("{reply}0000"), "{\"stream\":\"TEST\",\"seq\":1}")
            }
            Manner::Nonsense => message(reply, "OK"),
            Manner::EnormousAnswer => format!("MSG {reply} 1 1073741824\r\nxxxx"),
            Manner::NoResponders => format!("HMSG {reply} 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"),
            Manner::Full => error(10_077),
            Manner::TooLong => error(MESSAGE_TOO_LONG),
            Manner::LameDuck => "INFO {\"ldm\":true}\r\n".to_owned(),
            _ => {
                self.stored.lock().unwrap().push(Stored {
                    subject: subject.to_owned(),
                    id: id.to_owned(),
                    payload: body[head..body.len() - 2].to_vec(),
                });
                match self.manner() {
                    Manner::Twice => format!("{ack}{ack}"),
                    _ => ack,
                }
            }
        })
    }
}

struct Served {
    server: Server,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Served {
    fn new(manner: Manner, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let server = Server {
            manner: Arc::new(Mutex::new(manner)),
            stored: Arc::default(),
            connects: Arc::default(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = server.clone();
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(accepting.clone().serve(tcp, tls.clone()));
            }
        });
        Self {
            server,
            address,
            _runtime: runtime,
        }
    }
}

/// A sink as its table says.
fn sink(address: SocketAddr, more: &str) -> SinkConfig {
    let table: SinkTable = toml::from_str(&format!(
        "type = \"jetstream\"\naddress = \"{address}\"\nstream = \"TEST\"\nwindow = \"256KiB\"\nconnect_timeout = \"5s\"\nack_timeout = \"2s\"\nretry_max = \"1s\"\n{more}"
    ))
    .unwrap();
    let sink = check_for_tests(table);
    assert!(matches!(sink.receiver, ReceiverConfig::JetStream(_)));
    sink
}

fn encrypted(pki: &Pki) -> String {
    let path = |name| pki.path(name).display().to_string();
    format!(
        "ca_file = \"{}\"\nserver_name = \"node.test\"\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n",
        path("ca.pem"),
        path("ca-agent.pem"),
        path("ca-agent.key")
    )
}

fn finish(host: &Host, served: &Served, delivery: Delivery, sealed: &[Vec<u8>]) {
    let all = u64::try_from(sealed.len()).unwrap();
    let done = wait(&delivery, "all", |health| health.acked_packets >= all);
    assert!(matches!(done.state, State::Delivering { .. }), "{done:?}");
    // By id, the last word: what was stored before a fault comes again under the same id.
    let by_id: BTreeMap<u64, Vec<u8>> = served
        .server
        .stored()
        .into_iter()
        .map(|stored| {
            assert!(stored.subject.ends_with(".process"), "{stored:?}");
            let sequence = stored.id.rsplit('/').next().unwrap().parse().unwrap();
            (sequence, stored.payload)
        })
        .collect();
    assert!(by_id.into_values().eq(sealed.iter().cloned()));
    check_account(host, all, 0);
    delivery.stop(LONG);
}

/// The server misbehaves, the sink says so with this word, and all arrives when the server behaves.
fn misbehaves(manner: Manner, word: &str, pki: Option<&Pki>) {
    let host = Host::new();
    let served = Served::new(manner, pki.map(|pki| pki.server("ca")));
    let sealed = host.seal(Lane::Process, 20, 1_000);
    let more = pki.map_or("tls = false\n".to_owned(), encrypted);
    let delivery = start(&host, sink(served.address, &more));
    let seen = wait(&delivery, word, |health| health.faults.contains_key(word));
    let text = seen.last_fault.unwrap();
    assert!(
        text.len() < 1_500 && !text.contains(char::is_control),
        "{text}"
    );
    served.server.be(Manner::Good);
    finish(&host, &served, delivery, &sealed);
}

#[test]
fn packets_arrive_once_and_in_order() {
    let pki = Pki::new();
    let host = Host::new();
    let served = Served::new(Manner::Good, Some(pki.server("ca")));
    let sealed = host.seal(Lane::Process, 300, 3_000);
    let delivery = start(&host, sink(served.address, &encrypted(&pki)));
    wait(&delivery, "all", |health| health.acked_packets >= 300);
    let stored = served.server.stored();
    let payloads: Vec<_> = stored.iter().map(|stored| stored.payload.clone()).collect();
    assert!(payloads == sealed);
    let agent = Uuid::from_bytes([0; 16]);
    assert!(stored[0].id.ends_with("/process/1"), "{stored:?}");
    assert!(stored[0].subject.starts_with("sensor.") && !stored[0].subject.contains('{'));
    assert_ne!(stored[0].subject, format!("sensor.{agent}.process"));
    finish(&host, &served, delivery, &sealed);
}

#[test]
fn a_server_that_is_none_is_told_from_one_that_refuses() {
    misbehaves(Manner::Garbage, "protocol", None);
    misbehaves(Manner::EndlessLine, "protocol", None);
    misbehaves(Manner::Tiny, "protocol", None);
    misbehaves(Manner::NoHeaders, "protocol", None);
    misbehaves(Manner::Denies, "refused", None);
    misbehaves(Manner::LameDuck, "closed", None);
    misbehaves(Manner::Hangs, "closed", None);
}

#[test]
fn plain_text_is_not_taken_for_tls() {
    let pki = Pki::new();
    misbehaves(Manner::NoTls, "tls", Some(&pki));
    misbehaves(Manner::Injects, "protocol", Some(&pki));
    // The other way round: a server that wants TLS gets no word in plain text.
    let host = Host::new();
    let served = Served::new(Manner::Good, Some(pki.server("ca")));
    let delivery = start(&host, sink(served.address, "tls = false\n"));
    wait(&delivery, "tls", |health| health.faults.contains_key("tls"));
    assert!(served.server.connects.lock().unwrap().is_empty());
    delivery.stop(LONG);
}

#[test]
fn a_wrong_certificate_gets_no_word() {
    let pki = Pki::new();
    let host = Host::new();
    let served = Served::new(Manner::Good, Some(pki.server("other")));
    let delivery = start(&host, sink(served.address, &encrypted(&pki)));
    let word = "certificate";
    wait(&delivery, word, |health| health.faults.contains_key(word));
    assert!(served.server.connects.lock().unwrap().is_empty());
    delivery.stop(LONG);
}

#[test]
fn a_dumb_server_costs_the_time_to_connect() {
    let host = Host::new();
    let (dumb, good) = (
        Served::new(Manner::Dumb, None),
        Served::new(Manner::Good, None),
    );
    let sealed = host.seal(Lane::Process, 5, 1_000);
    let mut sink = sink(dumb.address, "tls = false\n");
    let ReceiverConfig::JetStream(config) = &mut sink.receiver else {
        unreachable!()
    };
    config.remote.connect_timeout = Duration::from_millis(300);
    // The next member of the cluster is tried in the same attempt.
    config.remote.addresses.push(HostPort {
        host: "127.0.0.1".to_owned(),
        port: good.address.port(),
    });
    let delivery = start(&host, sink);
    let done = wait(&delivery, "all", |health| health.acked_packets == 5);
    assert!(done.faults.is_empty(), "{done:?}");
    finish(&host, &good, delivery, &sealed);
}

#[test]
fn acknowledgements_that_lie_end_the_session() {
    for manner in [
        Manner::OtherStream,
        Manner::NoPlace,
        Manner::Twice,
        Manner::NeverSent,
        Manner::Nonsense,
        Manner::EnormousAnswer,
    ] {
        misbehaves(manner, "protocol", None);
    }
}

#[test]
fn a_stream_that_does_not_take_it_is_tried_again() {
    misbehaves(Manner::NoResponders, "no_stream", None);
    misbehaves(Manner::Full, "retry", None);
    misbehaves(Manner::Silent, "silent", None);
}

#[test]
fn what_is_too_long_for_ever_is_set_aside() {
    let host = Host::new();
    let served = Served::new(Manner::TooLong, None);
    host.seal(Lane::Process, 3, 1_000);
    let delivery = start(&host, sink(served.address, "tls = false\n"));
    let seen = wait(&delivery, "set aside", |health| {
        health.rejected_packets == 3
    });
    assert!(!seen.last_rejection.unwrap().contains(char::is_control));
    served.server.be(Manner::Good);
    // Longer than the server takes: not even sent.
    host.seal(Lane::Process, 1, (1 << 20) + 1);
    wait(&delivery, "set aside", |health| {
        health.rejected_packets == 4
    });
    assert!(served.server.stored().is_empty());
    check_account(&host, 0, 4);
    delivery.stop(LONG);
}

#[test]
fn events_are_messages_and_their_packet_waits_for_all_of_them() {
    let host = Host::new();
    let served = Served::new(Manner::Good, None);
    let append = |entry: Entry| {
        let now = host.context.now();
        host.context.spool.with(|spool| {
            let id = spool.next_packet(Lane::Process).id;
            spool.append(Entry { id, ..entry }, now).unwrap();
        });
        host.context.spool.sync(now);
    };
    append(entry(1, 1_000, 2_000));
    // A heartbeat has no events.
    append(entry(2, 0, 0));
    append(entry(3, 7, 10));
    // One line of it is longer than the server takes; what else it has arrives.
    append(entry(4, 1, 2 << 20));
    append(entry(5, 2, 10));
    let more = "tls = false\nformat = \"ecs\"\nsubject = \"events.{type}\"\n";
    let mut sink = sink(served.address, more);
    // A packet of a thousand events is silent until the last of them is safe.
    sink.ack_timeout = LONG;
    let delivery = start(&host, sink);
    let done = wait(&delivery, "all", |health| {
        health.acked_packets + health.rejected_packets == 5
    });
    assert_eq!(
        (done.acked_packets, done.rejected_packets),
        (4, 1),
        "{done:?}"
    );
    assert!(
        done.last_rejection
            .unwrap()
            .contains("more than the server takes")
    );
    let stored = served.server.stored();
    assert_eq!(stored.len(), 1_009);
    for message in &stored {
        let event: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(event["event"]["id"], message.id.as_str());
        assert_eq!(message.subject, "events.exit");
    }
    delivery.stop(LONG);
}

#[test]
fn a_stop_in_the_middle_leaves_the_packet_to_the_next_run() {
    let host = Host::new();
    let served = Served::new(Manner::Silent, None);
    let sealed = host.seal(Lane::Process, 3, 1_000);
    let delivery = start(&host, sink(served.address, "tls = false\n"));
    wait(&delivery, "sent", |health| health.in_flight_packets == 3);
    assert_eq!(delivery.stop(Duration::from_millis(50))[0].acked_packets, 0);
    served.server.be(Manner::Good);
    let delivery = start(&host, sink(served.address, "tls = false\n"));
    finish(&host, &served, delivery, &sealed);
}

#[test]
fn secrets_go_to_the_server_and_nowhere_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let host = Host::new();
    let served = Served::new(Manner::Denies, None);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "me:geheim\n").unwrap();
    let mode = |mode| {
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(0o644);
    let more = format!(
        "tls = false\nauthentication = \"password\"\ncredentials_file = \"{}\"\n",
        file.path().display()
    );
    let sealed = host.seal(Lane::Process, 1, 1_000);
    let sink = sink(served.address, &more);
    assert!(!format!("{sink:?}").contains("geheim"));
    let delivery = start(&host, sink);
    let word = "credentials";
    let seen = wait(&delivery, word, |health| health.faults.contains_key(word));
    assert!(seen.last_fault.unwrap().contains("0600"));
    assert!(served.server.connects.lock().unwrap().is_empty());
    mode(0o600);
    let seen = wait(&delivery, "refused", |health| {
        health.faults.contains_key("refused")
    });
    assert!(!format!("{seen:?}").contains("geheim"));
    let connect = served.server.connects.lock().unwrap()[0].clone();
    assert_eq!(
        (&connect["user"], &connect["pass"]),
        (&json!("me"), &json!("geheim"))
    );
    served.server.be(Manner::Good);
    finish(&host, &served, delivery, &sealed);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_a_frame_or_none_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        drop(wire::parse(&bytes));
    }

    #[test]
    fn any_line_is_a_frame_or_none_or_an_error(line in "(MSG|HMSG|INFO|-ERR|PING) [a-z0-9 {}:\",]{0,40}\r\n.{0,20}") {
        if let Ok(Some((_, length))) = wire::parse(line.as_bytes()) {
            proptest::prop_assert!(length <= line.len());
        }
    }
}
