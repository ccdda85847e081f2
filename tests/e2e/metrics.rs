//! What the sensor tells of itself, scraped by a real Prometheus, and its metrics and alert rules judged by promtool.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use sensor_tests::harness::{Options, Sensor, end_shared};
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::wait_for;
use serde_json::Value;
use tempfile::TempDir;

const REASON: &str = "Prometheus is fetched for this machine only";

pub(crate) const TESTS: &[Test] = &[
    Test::on_host("metrics::scraped_by_prometheus", scraped, REASON),
    Test::on_host("metrics::alert_rules", alert_rules, REASON),
    Test::new("metrics::port_in_use", port_in_use),
];

/// Programs that run while it is scraped.
const PROGRAMS: u64 = 10;

fn tool(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!("{variable} is not set: `cargo xtask test` sets it, `cargo xtask receivers` prints it")
    })
}

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/prometheus")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// The body of an answer, or `None` if it is not `200`.
fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200")?;
    Some(body.to_owned())
}

fn sensor(port: u16) -> Sensor {
    Sensor::start(Options {
        config: format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n"),
        ..Options::default()
    })
}

/// A Prometheus that scrapes the sensor.
struct Prometheus {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Prometheus {
    fn start(target: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [\"{}\"]\nscrape_configs:\n\
             - job_name: sensor\n  static_configs: [{{targets: [\"127.0.0.1:{target}\"]}}]\n",
            rules().join("sensor-alerts.yml").display()
        );
        fs::write(&config, text).unwrap();
        let port = free_port();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(tool("SENSOR_PROMETHEUS"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            child,
            port,
            folder,
        }
    }

    /// The value of the only sample of a query, if there is one.
    fn value(&self, query: &str) -> Option<f64> {
        let answer = get(self.port, &format!("/api/v1/query?query={query}"))?;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let result = answer["data"]["result"].as_array()?;
        assert!(result.len() <= 1, "{answer:#}");
        result.first()?["value"][1].as_str()?.parse().ok()
    }

    fn wait<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(what, Place::here().patience(), look)
        }));
        found.unwrap_or_else(|_panic| {
            let log = fs::read_to_string(self.folder.path().join("log"));
            panic!(
                "waited in vain for {what}; the log of Prometheus:\n{}",
                log.unwrap_or_default()
            )
        })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop((self.child.kill(), self.child.wait()));
    }
}

fn scraped() {
    end_shared();
    let port = free_port();
    let sensor = sensor(port);
    let ready = wait_for("readiness", Place::here().patience(), || {
        get(port, "/readyz")
    });
    assert!(
        ready.starts_with("ok: ") && ready.contains("exec=tracepoint"),
        "{ready}"
    );
    assert!(get(port, "/healthz").is_some_and(|body| body.starts_with("ok")));
    let prometheus = Prometheus::start(port);
    prometheus.wait("a first scrape", || {
        prometheus
            .value("up{job=\"sensor\"}")
            .filter(|up| *up >= 1.0)
    });
    let before = prometheus.wait("execs", || {
        prometheus.value("sensor_events_delivered_total{type=\"exec\"}")
    });
    for _ in 0..PROGRAMS {
        assert!(Command::new("/bin/true").status().unwrap().success());
    }
    let expected = before + Value::from(PROGRAMS).as_f64().unwrap();
    prometheus.wait("the execs to be scraped", || {
        let count = prometheus.value("sensor_events_delivered_total{type=\"exec\"}")?;
        (count >= expected).then_some(())
    });
    // Nothing else runs in the cgroup but what this test starts.
    assert_eq!(prometheus.value("sensor_ledger_imbalances"), Some(0.0));
    assert_eq!(prometheus.value("sum(sensor_events_lost_total)"), Some(0.0));
    assert!(
        prometheus
            .value("process_resident_memory_bytes")
            .is_some_and(|bytes| bytes > 1e6)
    );
    let rules: Value = serde_json::from_str(
        &prometheus.wait("the alert rules", || get(prometheus.port, "/api/v1/rules")),
    )
    .unwrap();
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 5, "{rules:#?}");

    let metrics = get(port, "/metrics").unwrap();
    let mut check = Command::new(tool("SENSOR_PROMTOOL"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.as_bytes())
        .unwrap();
    clean(&check.wait_with_output().unwrap(), "");
    drop(prometheus);
    sensor.stop().assert_clean();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
}

/// It succeeded, and said no more than this.
fn clean(output: &Output, expected: &str) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        expected.is_empty() == said.is_empty() && said.contains(expected),
        "{said}"
    );
}

fn alert_rules() {
    let promtool = |words: [&str; 3]| {
        Command::new(tool("SENSOR_PROMTOOL"))
            .args(words)
            .current_dir(rules())
            .output()
            .unwrap()
    };
    clean(
        &promtool(["check", "rules", "sensor-alerts.yml"]),
        "SUCCESS",
    );
    clean(
        &promtool(["test", "rules", "sensor-alerts.test.yml"]),
        "SUCCESS",
    );
}

/// The sensor watches all the same, and says so; the metrics come once the port is free.
fn port_in_use() {
    end_shared();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let sensor = sensor(port);
    sensor.wait_log("a word about the port", |line| {
        line.contains("metrics cannot be had there") && line.contains("in use")
    });
    drop(listener);
    let body = wait_for("the metrics", Place::here().patience(), || {
        get(port, "/metrics")
    });
    assert!(body.contains("\nsensor_build_info{"), "{body}");
    sensor.stop().assert_clean();
}
