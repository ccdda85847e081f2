//! Names of receivers are looked up without the C library's name service: a static program that asked it would load the host's
//! modules, which belong to another C library, into itself.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::inotify;
use sensor_tests::harness::{Options, Sensor, end_shared};
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::wait_for;
use serde_json::Value;

use crate::common::folder;

pub(crate) const TESTS: &[Test] = &[Test::in_guest(
    "names::are_found_without_the_name_service",
    without_name_service,
)];

/// Folders in which the C library looks for modules.
const LIBRARIES: [&str; 6] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
];
/// Modules that the configuration names, and those that stand for them.
const MODULES: [&str; 5] = ["files", "dns", "resolve", "myhostname", "compat"];

/// A file of the guest with other content; as it was when dropped.
struct Replaced {
    path: PathBuf,
    before: Option<Vec<u8>>,
}

impl Replaced {
    fn new(path: &str, content: &[u8]) -> Self {
        let path = PathBuf::from(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let before = fs::read(&path).ok();
        fs::write(&path, content).unwrap();
        Self { path, before }
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        match &self.before {
            Some(content) => fs::write(&self.path, content).unwrap(),
            None => fs::remove_file(&self.path).unwrap(),
        }
    }
}

/// The names that a question asks for, lower case, and its whole length; none if it is none.
fn question(packet: &[u8]) -> Option<(String, u16, &[u8])> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = packet.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?);
    Some((labels.join("."), kind, packet.get(12..at + 4)?))
}

/// A name server that knows one address of one name, and remembers what it was asked.
fn serve_names(socket: &UdpSocket, known: &str, asked: &Mutex<BTreeSet<String>>) {
    const ADDRESS: u16 = 1;
    let mut packet = [0; 1_500];
    while let Ok((length, from)) = socket.recv_from(&mut packet) {
        let Some((name, kind, question)) = question(&packet[..length]) else {
            continue;
        };
        let answers = u8::from(name == known && kind == ADDRESS);
        asked.lock().unwrap().insert(name);
        // Its number, an answer without errors, one question.
        let mut reply = packet[..2].to_vec();
        reply.extend([0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]);
        reply.extend(question);
        if answers == 1 {
            // The question's name, an address, a minute.
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        socket.send_to(&reply, from).unwrap();
    }
}

/// How often one of the watched files was opened since the last question.
fn opened(watch: &OwnedFd) -> usize {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4_096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    let mut count = 0;
    while reader.next().is_ok() {
        count += 1;
    }
    count
}

fn without_name_service() {
    // One sensor at a time.
    end_shared();
    let mut replaced = vec![
        Replaced::new(
            "/etc/nsswitch.conf",
            b"passwd: files\nhosts: files resolve myhostname\n",
        ),
        Replaced::new(
            "/etc/hosts",
            b"127.0.0.1 localhost\n127.0.0.1 listed.test\n",
        ),
        Replaced::new("/etc/resolv.conf", b"nameserver 127.0.0.1\n"),
    ];
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    // Some are other names of others.
    let folders = LIBRARIES.map(|folder| {
        fs::create_dir_all(folder).unwrap();
        fs::canonicalize(folder).unwrap()
    });
    for folder in BTreeSet::from(folders) {
        for module in MODULES {
            let path = format!("{}/libnss_{module}.so.2", folder.display());
            replaced.push(Replaced::new(&path, b"of another C library"));
            inotify::add_watch(&watch, path.as_str(), inotify::WatchFlags::OPEN).unwrap();
        }
    }
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let (server, known) = (socket.try_clone().unwrap(), Arc::clone(&asked));
    // Ends with the guest.
    std::thread::spawn(move || serve_names(&server, "asked.test", &known));
    let listen = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    };
    let (listed, listed_port) = listen();
    let (by_server, server_port) = listen();
    let state = folder();
    let sink = |name: &str, host: &str, port: u16| {
        format!(
            "[sink.{name}]\ntype = \"central_node\"\naddress = \"{host}:{port}\"\nca_file = \"/none\"\n\
             certificate_file = \"/none\"\nkey_file = \"/none\"\nretry_max = \"1s\"\n"
        )
    };
    let config = [
        format!("[state]\ndirectory = {:?}\n", state.path()),
        sink("listed", "listed.test", listed_port),
        sink("asked", "asked.test", server_port),
    ]
    .concat();
    let sensor = Sensor::start(Options {
        events: "exec,exit".to_owned(),
        config,
        keep: |_| Value::Null,
        ..Options::default()
    });
    let patience = Place::here().patience();
    for (listener, name) in [(&listed, "the listed name"), (&by_server, "the asked name")] {
        let what = format!("a connection to {name}");
        wait_for(&what, patience, || listener.accept().ok());
    }
    let asked = asked.lock().unwrap().clone();
    assert!(asked.contains("asked.test"), "{asked:?}");
    assert!(!asked.contains("listed.test"), "{asked:?}");
    let maps = fs::read_to_string(format!("/proc/{}/maps", sensor.pid())).unwrap();
    assert!(!maps.contains(".so"), "a library is in the sensor:\n{maps}");
    assert_eq!(opened(&watch), 0, "a module was opened");
    // It would have been seen.
    let module = Path::new(LIBRARIES[5]).join("libnss_resolve.so.2");
    fs::read(module).unwrap();
    wait_for("the own opening", Duration::from_secs(10), || {
        (opened(&watch) > 0).then_some(())
    });
    sensor.stop().assert_clean();
}
