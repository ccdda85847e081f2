//! A connection was tried or made.

use std::ffi::OsStr;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};

use sensor_tests::coverage::Expected;
use sensor_tests::harness::{Sensor, with_shared};
use sensor_tests::oracle;
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::trigger::Running;
use serde_json::Value;

use crate::common::{envelope, folder};

pub(crate) const TESTS: &[Test] = &[
    Test::new("connect::tcp_established", tcp_established),
    Test::new("connect::tcp_over_ipv6", tcp_over_ipv6),
    Test::new("connect::tcp_to_a_mapped_address", tcp_mapped),
    Test::new("connect::tcp_refused", tcp_refused),
    Test::new("connect::tcp_timed_out", tcp_timed_out),
    Test::new("connect::tcp_unreachable", tcp_unreachable),
    Test::new("connect::tcp_without_waiting", tcp_without_waiting),
    Test::new("connect::udp", udp),
    Test::new("connect::unix_by_path", unix_path),
    Test::new("connect::unix_by_abstract_name", unix_abstract),
    Test::new("connect::unix_datagram", unix_datagram),
    Test::new("connect::unix_that_fails", unix_failing),
];

/// The outgoing connection of a process, with its result once that is known.
fn of(sensor: &Sensor, child: &Running) -> Value {
    sensor.expect(&format!("the connection of {}", child.pid()), |event| {
        event["type"] == "connect"
            && event["process"]["pid"] == child.pid()
            && event["connect"]["direction"] == "outbound"
    })
}

/// What must be told of a TCP connection, by what the process itself sees.
fn expected(facts: &Value, family: &str, kind: &str, transport: &str, protocol: u32) -> Expected {
    let mut expected = Expected::new("Connect", &[]);
    expected.is("family", family);
    expected.is("socket_type", kind);
    expected.is("transport", transport);
    expected.is("protocol", protocol);
    expected.is("direction", "outbound");
    for end in ["local", "remote"] {
        expected.none(&format!("{end}.scope_id"));
        expected.none(&format!("{end}.unix_path"));
        expected.none(&format!("{end}.unix_abstract"));
        if !facts[end].is_null() {
            expected.is(&format!("{end}.address"), facts[end]["address"].clone());
            expected.is(&format!("{end}.port"), facts[end]["port"].clone());
        }
    }
    expected.none("errno");
    cookie(&mut expected, facts);
    expected.none("peer");
    expected
}

/// The process has asked for the socket's number before it connected: if one is told, it is that.
fn cookie(expected: &mut Expected, facts: &Value) {
    let number = facts["cookie"].clone();
    expected.optional("socket_cookie", number);
}

/// The duration of a handshake: not longer than the call took; not on every backend.
fn duration(expected: &mut Expected, event: &Value, facts: &Value) {
    if event["connect"]["duration_ns"].is_null() && !Place::here().sees_vfs() {
        expected.none("duration_ns");
    } else {
        let took = i128::from(facts["took_ns"].as_u64().unwrap());
        expected.between("duration_ns", 0, took);
    }
}

fn tcp(address: &str, family: &'static str) {
    with_shared(|sensor| {
        let listener = TcpListener::bind(address).unwrap();
        let mut place = listener.local_addr().unwrap().to_string();
        if family == "inet6" && address.starts_with("0.0.0.0") {
            place = place.replace("0.0.0.0", "[::ffff:127.0.0.1]");
        }
        let began = oracle::clocks();
        let child = Running::start(["tcp", &place, "step"]);
        let facts = child.step();
        assert_eq!(facts["errno"], 0, "{facts}");
        let event = of(sensor, &child);
        let mut body = expected(&facts, family, "stream", "tcp", 6);
        body.is("result", "established");
        duration(&mut body, &event, &facts);
        body.check(&event["connect"]);
        let mut around = envelope(&event, child.pid(), child.pid(), "network", began);
        around.is("backend", sensor.backend("connect"));
        around.check(&event);
        child.finish_well();
    });
}

fn tcp_established() {
    tcp("127.0.0.1:0", "inet");
}

fn tcp_over_ipv6() {
    tcp("[::1]:0", "inet6");
}

fn tcp_mapped() {
    tcp("0.0.0.0:0", "inet6");
}

fn tcp_refused() {
    with_shared(|sensor| {
        // A port that was just given up.
        let place = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let child = Running::start(["tcp", &place.to_string(), "step"]);
        let facts = child.step();
        let event = of(sensor, &child);
        let mut body = expected(&facts, "inet", "stream", "tcp", 6);
        body.is("result", "refused");
        body.is("errno", facts["errno"].clone());
        remote(&mut body, &place);
        local_unless_unbound(&mut body, &event);
        duration(&mut body, &event, &facts);
        body.check(&event["connect"]);
        child.finish_well();
    });
}

fn remote(body: &mut Expected, place: &std::net::SocketAddr) {
    body.is("remote.address", place.ip().to_string());
    body.is("remote.port", place.port());
}

/// After a failure the kernel has given the port back: what is told must be loopback, if anything.
fn local_unless_unbound(body: &mut Expected, event: &Value) {
    let local = &event["connect"]["local"];
    assert!(
        local.is_null() || local["address"] == "127.0.0.1" || local["address"] == "0.0.0.0",
        "{event:#}"
    );
    body.skip("local.address", "compared above");
    body.skip(
        "local.port",
        "the kernel has taken it back when the call returns",
    );
}

fn tcp_timed_out() {
    with_shared(|sensor| {
        let mut full = Running::start(["listen-full", "step"]);
        let place = full.step()["address"].as_str().unwrap().to_owned();
        // The queue takes one more than asked for; who comes then gets no answer.
        let mut waiting = Vec::new();
        let (child, facts) = loop {
            let child = Running::start(["tcp-impatient", &place, "1500", "step"]);
            let facts = child.step();
            if facts["errno"] != 0 {
                break (child, facts);
            }
            waiting.push(child);
            assert!(waiting.len() < 8, "the queue does not fill");
        };
        assert_eq!(facts["errno"], 110, "{facts}");
        // What takes long is told as in progress first.
        let event = sensor.patched(&of(sensor, &child), |event| {
            event["connect"]["result"] != "in_progress"
        });
        let mut body = expected(&facts, "inet", "stream", "tcp", 6);
        body.is("result", "timed_out");
        body.is("errno", 110);
        remote(&mut body, &place.parse().unwrap());
        local_unless_unbound(&mut body, &event);
        duration(&mut body, &event, &facts);
        body.check(&event["connect"]);
        child.finish_well();
        for child in waiting {
            child.finish_well();
        }
        full.go();
        full.finish_well();
    });
}

fn tcp_unreachable() {
    with_shared(|sensor| {
        let child = Running::start(["loopback-down", "tcp", "192.0.2.1:80", "step"]);
        let facts = child.step();
        assert_eq!(facts["errno"], 101, "{facts}");
        let event = of(sensor, &child);
        let mut body = expected(&facts, "inet", "stream", "tcp", 6);
        body.is("result", "unreachable");
        body.is("errno", 101);
        remote(&mut body, &"192.0.2.1:80".parse().unwrap());
        if !Place::here().sees_vfs() {
            // The socket keeps no address of a host to which there is no way.
            assert_eq!(
                event["connect"]["absent"]["remote"], "not_on_this_backend",
                "{event:#}"
            );
            body.forget("remote");
            body.none("remote");
        }
        local_unless_unbound(&mut body, &event);
        duration(&mut body, &event, &facts);
        body.check(&event["connect"]);
        child.finish_well();
    });
}

fn tcp_without_waiting() {
    with_shared(|sensor| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let child = Running::start(["tcp-now", &place.to_string(), "wait-connected", "step"]);
        let facts = child.step();
        assert_eq!(facts["errno"], 115, "{facts}");
        let event = of(sensor, &child);
        if Place::here().sees_vfs() {
            let event = sensor.patched(&event, |event| event["connect"]["result"] == "established");
            assert_eq!(event["connect"]["remote"]["port"], place.port());
            assert_eq!(event["connect"]["local"]["port"], facts["local"]["port"]);
        } else {
            let result = &event["connect"]["result"];
            assert!(
                *result == "in_progress" || *result == "established",
                "{event:#}"
            );
            assert_eq!(event["connect"]["remote"]["port"], place.port());
        }
        child.finish_well();
        // And one that is refused later.
        drop(listener);
        let child = Running::start(["tcp-now", &place.to_string(), "wait-connected", "step"]);
        let facts = child.step();
        let event = of(sensor, &child);
        if Place::here().sees_vfs() && facts["errno"] == 115 {
            let event = sensor.patched(&event, |event| event["connect"]["result"] == "refused");
            assert_eq!(event["connect"]["errno"], 111, "{event:#}");
        }
        child.finish_well();
    });
}

fn udp() {
    with_shared(|sensor| {
        for (address, family) in [("127.0.0.1:0", "inet"), ("[::1]:0", "inet6")] {
            let receiver = UdpSocket::bind(address).unwrap();
            let place = receiver.local_addr().unwrap();
            let child = Running::start(["udp", &place.to_string(), "step"]);
            let facts = child.step();
            let event = of(sensor, &child);
            let mut body = expected(&facts, family, "datagram", "udp", 17);
            body.is("result", "established");
            body.none("duration_ns");
            body.check(&event["connect"]);
            child.finish_well();
        }
    });
}

/// What must be told of a unix socket that connects.
fn unix(facts: &Value, event: &Value, kind: &str, name: &str, is_abstract: bool) -> Expected {
    let mut body = Expected::new("Connect", &[]);
    body.is("family", "unix");
    body.is("socket_type", kind);
    body.is("transport", "unix");
    body.none("protocol");
    body.is("direction", "outbound");
    body.none("local");
    for field in ["address", "port", "scope_id"] {
        body.none(&format!("remote.{field}"));
    }
    body.is("remote.unix_path", name);
    if is_abstract {
        body.is("remote.unix_abstract", true);
    } else {
        body.none("remote.unix_abstract");
    }
    body.is("result", "established");
    body.none("errno");
    body.none("duration_ns");
    cookie(&mut body, facts);
    let peer = &event["connect"]["peer"];
    if peer.is_null() {
        body.none("peer");
    } else {
        // This program listens.
        body.is("peer.pid", std::process::id());
        body.skip("peer", "its process id is compared above");
    }
    body
}

fn unix_path() {
    with_shared(|sensor| {
        let folder = folder();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let child = Running::start([
            OsStr::new("unix"),
            OsStr::new("stream"),
            path.as_os_str(),
            OsStr::new("step"),
        ]);
        let facts = child.step();
        assert_eq!(facts["errno"], 0, "{facts}");
        let event = of(sensor, &child);
        unix(&facts, &event, "stream", &oracle::shown_path(&path), false).check(&event["connect"]);
        child.finish_well();
    });
}

fn unix_abstract() {
    use std::os::linux::net::SocketAddrExt as _;
    with_shared(|sensor| {
        let name = format!("sensor-e2e-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let child = Running::start(["unix", "stream", &format!("@{name}"), "step"]);
        let facts = child.step();
        assert_eq!(facts["errno"], 0, "{facts}");
        let event = of(sensor, &child);
        unix(&facts, &event, "stream", &name, true).check(&event["connect"]);
        child.finish_well();
    });
}

fn unix_datagram() {
    with_shared(|sensor| {
        let folder = folder();
        let path = folder.path().join("socket");
        let _receiver = UnixDatagram::bind(&path).unwrap();
        let child = Running::start([
            OsStr::new("unix"),
            OsStr::new("datagram"),
            path.as_os_str(),
            OsStr::new("step"),
        ]);
        let facts = child.step();
        assert_eq!(facts["errno"], 0, "{facts}");
        let event = of(sensor, &child);
        unix(
            &facts,
            &event,
            "datagram",
            &oracle::shown_path(&path),
            false,
        )
        .check(&event["connect"]);
        child.finish_well();
    });
}

fn unix_failing() {
    with_shared(|sensor| {
        let folder = folder();
        let path = folder.path().join("nobody");
        let child = Running::start([
            OsStr::new("unix"),
            OsStr::new("stream"),
            path.as_os_str(),
            OsStr::new("step"),
        ]);
        let facts = child.step();
        assert_eq!(facts["errno"], 2, "{facts}");
        let event = of(sensor, &child);
        let connect = &event["connect"];
        assert_eq!(connect["result"], "failed", "{connect:#}");
        assert_eq!(connect["errno"], 2, "{connect:#}");
        assert_eq!(connect["family"], "unix", "{connect:#}");
        if Place::here().sees_vfs() {
            assert_eq!(
                connect["remote"]["unix_path"],
                oracle::shown_path(&path),
                "{connect:#}"
            );
        } else {
            assert_eq!(connect["remote"], Value::Null, "{connect:#}");
            assert_eq!(
                connect["absent"]["remote"], "not_on_this_backend",
                "{connect:#}"
            );
        }
        child.finish_well();
    });
}
