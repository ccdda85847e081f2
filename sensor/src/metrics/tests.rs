//! The server over real sockets, and every metric of a status.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde_json::json;

use super::*;

fn whole() -> Value {
    json!({
        "version": "1.2.3", "uptime_seconds": 60, "hooks": "exec=tracepoint exit=tracepoint module_load=none",
        "process": {"cpu_seconds": 1.5, "resident_memory_bytes": 4096, "open_fds": 12, "start_time_seconds": 1_700_000_000},
        "ledger": {
            "rows": {"exec": {
                "kernel": {"attempted": 10, "submitted": 8, "filtered": {"self": 1}, "throttled": 0, "lost": {"ring_full": 1}},
                "daemon": {"received": 8, "lost_in_reader": {"queue_full": 1}, "decoded": 7, "synthesised": 1, "sealed": 5,
                    "filtered": {"a \"rule\"": 1}, "merged": 0, "lost": {"hold": 1}, "waiting": {"reorder": 1}}}},
            "decode_errors": {"short": 2}, "unseen_at_most": {"exec": 3, "openat": null}, "sequence_gaps": {"process": 4},
            "places": {"process_table_bytes": 5}, "imbalances": ["one"]},
        "spool": {"state": "memory", "streams": {"process": {"disk_bytes": 6, "memory_bytes": 7, "oldest_age_seconds": 8}},
            "evicted": {"spool_bytes": 9}, "disk_failures": 1, "read_errors": 0, "tombstones_dropped": 0,
            "quarantine_bytes": 10, "rejected_bytes": 11},
        "sinks": [{"name": "node", "kind": "central_node", "state": "delivering", "sessions": 2, "acked_packets": 3,
            "acked_bytes": 400, "rejected_packets": 0, "gaps": 0, "sync_faults": 1, "lag_seconds": 5, "in_flight_packets": 1,
            "last_ack_ns": 1_500_000_000_000_000_000_u64, "faults": {"silent": 2},
            "account": {"sealed": {"exec": 5}, "acked": {"exec": 4}, "rejected": {}, "waiting": {"exec": 1},
                "evicted": {"spool_age": 1}, "waiting_packets": 1, "false_acks": 0}}],
    })
}

/// Samples of an exposition by their text, and the types of the families.
fn samples(text: &str) -> (BTreeMap<&str, f64>, BTreeMap<&str, &str>) {
    let (mut samples, mut types) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').unwrap();
            assert_eq!(types.insert(name, kind), None, "{name} twice");
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let value = value.parse().unwrap();
            assert_eq!(samples.insert(sample, value), None, "{sample} twice");
        }
    }
    (samples, types)
}

#[test]
fn every_number_of_the_status_is_a_metric() {
    let text = exposition::of(&whole(), 7).unwrap();
    let (samples, types) = samples(&text);
    for (sample, expected) in [
        (r#"sensor_build_info{version="1.2.3"}"#, 1.0),
        (
            r#"sensor_event_type_watched{type="exec",hook="tracepoint"}"#,
            1.0,
        ),
        (
            r#"sensor_event_type_watched{type="module_load",hook="none"}"#,
            0.0,
        ),
        (
            r#"sensor_kernel_records_attempted_total{type="exec"}"#,
            10.0,
        ),
        (r#"sensor_events_delivered_total{type="exec"}"#, 5.0),
        (
            r#"sensor_events_filtered_total{type="exec",side="kernel",rule="self"}"#,
            1.0,
        ),
        (
            r#"sensor_events_filtered_total{type="exec",side="daemon",rule="a \"rule\""}"#,
            1.0,
        ),
        (
            r#"sensor_events_lost_total{type="exec",side="kernel"}"#,
            1.0,
        ),
        (
            r#"sensor_events_lost_by_cause_total{type="exec",side="reader",cause="queue_full"}"#,
            1.0,
        ),
        (r#"sensor_events_waiting{type="exec",place="reorder"}"#, 1.0),
        (r#"sensor_program_skipped_total{program="exec"}"#, 3.0),
        (r#"sensor_sequence_gaps_total{lane="process"}"#, 4.0),
        (r#"sensor_place{place="process_table_bytes"}"#, 5.0),
        ("sensor_ledger_imbalances", 1.0),
        ("sensor_spool_on_disk", 0.0),
        (
            r#"sensor_spool_bytes{stream="process",place="memory"}"#,
            7.0,
        ),
        (
            r#"sensor_spool_events_evicted_total{cause="spool_bytes"}"#,
            9.0,
        ),
        // Nothing yet: there all the same.
        (
            r#"sensor_spool_events_evicted_total{cause="spool_memory"}"#,
            0.0,
        ),
        (
            r#"sensor_sink_events_evicted_total{sink="node",cause="spool_age"}"#,
            1.0,
        ),
        (
            r#"sensor_sink_delivering{sink="node",kind="central_node"}"#,
            1.0,
        ),
        (
            r#"sensor_sink_events_acknowledged_total{sink="node",type="exec"}"#,
            4.0,
        ),
        (
            r#"sensor_sink_events_rejected_total{sink="node",type="exec"}"#,
            0.0,
        ),
        (
            r#"sensor_sink_last_acknowledgement_timestamp_seconds{sink="node"}"#,
            1.5e9,
        ),
        (
            r#"sensor_sink_faults_total{sink="node",fault="silent"}"#,
            2.0,
        ),
        ("sensor_metrics_connections_refused_total", 7.0),
        ("process_cpu_seconds_total", 1.5),
        ("process_open_fds", 12.0),
    ] {
        assert_eq!(samples.get(sample), Some(&expected), "{sample} in\n{text}");
    }
    // What the kernel does not count is absent, not 0.
    assert!(!text.contains("openat"), "{text}");
    for (name, kind) in types {
        assert_eq!(
            name.ends_with("_total"),
            kind == "counter",
            "{name}: {kind}"
        );
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
    }
}

#[test]
fn a_status_of_anything_is_an_exposition() {
    for status in [
        json!(null),
        json!([1]),
        json!({"ledger": 3, "sinks": [1], "spool": {}}),
    ] {
        samples(&exposition::of(&status, 0).unwrap());
    }
}

fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a request and reads to the end of the connection.
fn ask(mut stream: impl io::Read + io::Write, line: &str) -> String {
    stream
        .write_all(
            format!("{line} HTTP/1.1\r\nHost: sensor\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn over_tcp_each_path_has_its_answer() {
    let address = free_address();
    let server = Server::start(
        MetricsAddress::Tcp(address),
        Arc::new(|| Ok(whole())),
        &Confinement::default(),
    )
    .unwrap();
    for (line, status, body) in [
        ("GET /metrics", "200", "sensor_ledger_imbalances 1"),
        ("GET /healthz", "200", "ok: exec=tracepoint"),
        ("GET /readyz?verbose", "200", "ok: "),
        ("GET /", "404", "/metrics"),
        ("POST /metrics", "405", "GET and HEAD"),
    ] {
        let answer = ask(connect(address), line);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{line}: {answer}"
        );
        assert!(answer.contains(body), "{line}: {answer}");
    }
    let head = ask(connect(address), "HEAD /metrics");
    assert!(
        head.to_ascii_lowercase()
            .contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    let garbage = {
        let mut stream = connect(address);
        stream
            .write_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
    drop(server);
    TcpStream::connect(address).unwrap_err();
}

#[test]
fn a_pipeline_that_does_not_answer_is_not_healthy() {
    let address = free_address();
    let status: Status = Arc::new(|| Err("the pipeline does not answer".to_owned()));
    let _server = Server::start(
        MetricsAddress::Tcp(address),
        status,
        &Confinement::default(),
    )
    .unwrap();
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = ask(connect(address), &format!("GET {path}"));
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("the pipeline does not answer"), "{answer}");
    }
}

#[test]
fn connections_beyond_the_places_are_closed() {
    let address = free_address();
    let _server = Server::start(
        MetricsAddress::Tcp(address),
        Arc::new(|| Ok(whole())),
        &Confinement::default(),
    )
    .unwrap();
    // They say nothing, and each has a place as long as it is waited for.
    let silent: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(|_| connect(address)).collect();
    let mut refused = connect(address);
    let mut nothing = Vec::new();
    // Closed without a word; unread bytes of ours can make it a reset.
    drop(refused.write_all(b"GET /healthz HTTP/1.1\r\nHost: sensor\r\n\r\n"));
    drop(refused.read_to_end(&mut nothing));
    assert_eq!(nothing, b"");
    drop(silent);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut stream = connect(address);
        let mut answer = String::new();
        let said = stream
            .write_all(b"GET /metrics HTTP/1.0\r\n\r\n")
            .and_then(|()| stream.read_to_string(&mut answer));
        if said.is_ok() && answer.contains("sensor_metrics_connections_refused_total") {
            assert!(
                !answer.contains("connections_refused_total 0\n"),
                "{answer}"
            );
            return;
        }
        assert!(Instant::now() < deadline, "no place became free");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_unix_socket_is_the_users_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.sock");
    // One that a killed sensor left.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = Server::start(
        MetricsAddress::Unix(path.clone()),
        Arc::new(|| Ok(whole())),
        &Confinement::default(),
    )
    .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let stream = loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(ask(stream, "GET /healthz").starts_with("HTTP/1.1 200 "));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    drop(server);
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_in_the_way_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.sock");
    fs::write(&path, "somebody's").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let bound = runtime.block_on(Listener::bind(&MetricsAddress::Unix(path.clone())));
    assert_eq!(bound.err().unwrap().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(fs::read(&path).unwrap(), b"somebody's");
}
