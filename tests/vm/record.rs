//! Makes the streams of golden/: `sensor record` watches a small scenario, with each backend in a guest, with the one
//! that works natively on a host. Prints each recording in lines `recording NAME HEX`, which `cargo xtask golden --record`
//! collects from the logs.
//!
//! Nothing of the machine gets into a recording: only the scenario's own processes are in the scope, they run a copy of
//! this program from a folder in /tmp with an environment of their own, and the header's boot id and clock are replaced.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    reason = "a test ends by panicking, at the line where it went wrong"
)]
#![expect(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "recordings leave the guest on standard output"
)]

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sensor::recording::{Header, Recorder, Recording};
use sensor_tests::harness::{Options, Sensor};
use sensor_tests::place::Place;
use sensor_tests::program::hex;
use sensor_tests::runner::{self, Test};
use sensor_tests::trigger::{self, Running};

/// The scenario's folder; its paths stand in the recordings.
const FOLDER: &str = "/tmp/sensor-golden";
/// What stands in the place of the host's boot id.
const BOOT_ID: &str = "00000000-0000-4000-8000-000000000001";
/// What stands in the place of the host's boot time: 2026-01-01T00:00:00Z, ns since 1970.
const BOOT_TIME_NS: i64 = 1_767_225_600_000_000_000;
/// A secret in the environment and the arguments of a program of the scenario: recorded, and never to be told by a replay.
const SECRET: &str = "hunter2-of-the-golden-scenario";
/// Bytes of a recording on one line.
const LINE_BYTES: usize = 2048;

fn main() -> ExitCode {
    trigger::dispatch();
    // Working directories are recorded too.
    std::env::set_current_dir("/").unwrap();
    let place = match Place::enter() {
        Ok(place) => place,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(101);
        }
    };
    let words: Vec<String> = std::env::args().skip(1).collect();
    let tests = [Test::new("record::every_backend", every_backend)];
    let last = Test::new("record::folder_is_removed", || {
        fs::remove_dir_all(FOLDER).unwrap();
    });
    let code = runner::run(&tests, &words, place, last, || 0);
    place.leave();
    ExitCode::from(code)
}

fn every_backend() {
    let place = Place::here();
    // It must not be there: nothing of somebody else's is to be used or removed.
    fs::create_dir(FOLDER).unwrap();
    let program = Path::new(FOLDER).join("trigger");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    trigger::use_program(program);
    let backends = if place.guest {
        vec!["fentry", "kprobe", "syscall-exit"]
    } else {
        vec![place.backend.as_str()]
    };
    for backend in backends {
        let folder = Path::new(FOLDER).join("files");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        let file = Path::new(FOLDER).join(backend);
        let script = folder.join("script");
        fs::write(&script, "#!/bin/sh\nexit 3\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let sensor = Sensor::start(Options {
            backend: backend.to_owned(),
            scope: Some(place.scope.clone()),
            record: Some(file.clone()),
            ..Options::default()
        });
        programs(&script);
        files(&folder);
        connections(&folder);
        if place.guest {
            modules(&folder);
        }
        sensor.stop().assert_clean();
        print(backend, &neutral(&file));
        fs::remove_dir_all(&folder).unwrap();
    }
}

fn run<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) {
    Running::start(words).finish_well();
}

/// A script with arguments and secrets, ends by code and by signal, forks, an exec by another thread.
fn programs(script: &Path) {
    let token = format!("--token={SECRET}");
    let words = ["exec".as_ref(), script.as_os_str(), "two words".as_ref()];
    let mut command = trigger::command(words);
    command
        .arg(token)
        .env("SSH_TOKEN", SECRET)
        .env("LANG", "C.UTF-8");
    assert_eq!(Running::of(&mut command).finish().code(), Some(3));
    let status = Running::start(["exec", "/bin/sh", "-c", "exit 7"]).finish();
    assert_eq!(status.code(), Some(7));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let waits = Running::start(["step"]);
        waits.step();
        let pid = Pid::from_raw(i32::try_from(waits.pid()).unwrap());
        kill(pid, signal).unwrap();
        assert_eq!(waits.finish().code(), None);
    }
    run(["spawn", "2", "/bin/true"]);
    run(["exec-from-thread", "/bin/true"]);
}

/// Creations of every kind, and opens that are none.
fn files(folder: &Path) {
    let at = |name: &str| folder.join(name).into_os_string();
    let written = at("written");
    let words = |words: &[&str]| -> Vec<OsString> { words.iter().map(OsString::from).collect() };
    let mut steps = words(&["open"]);
    steps.push(written.clone());
    steps.extend(words(&["write", "some content", "close", "open"]));
    steps.push(written.clone());
    steps.extend(words(&["close", "creat"]));
    steps.push(at("not utf8 \u{1b}[2J"));
    steps.extend(words(&["close", "openat2"]));
    steps.push(at("by-openat2"));
    steps.extend(words(&["close", "tmpfile"]));
    steps.push(folder.into());
    steps.extend(words(&["write", "had no name", "link-unnamed"]));
    steps.extend([at("named"), "close".into()]);
    run(steps);
    let mut steps = vec!["mkdir".into(), at("below")];
    for kind in ["fifo", "null", "regular"] {
        steps.extend(["mknod".into(), kind.into(), at(kind)]);
    }
    steps.extend(["symlink".into(), "to/somewhere".into(), at("pointer")]);
    steps.extend(["link".into(), written, at("below/second")]);
    steps.extend(["bind".into(), at("socket")]);
    run(steps);
    let mut steps = words(&["groups", "50", "gid", "50,50,50", "uid", "1000,1000,1000"]);
    steps.extend(["open".into(), at("of another user"), "write".into()]);
    steps.extend(words(&["x", "unlink"]));
    steps.extend([at("of another user"), "close".into()]);
    run(steps);
}

/// Accepted, refused, connected without a word, by path.
fn connections(folder: &Path) {
    let listeners = ["127.0.0.1:0", "[::1]:0"].map(|place| TcpListener::bind(place).unwrap());
    for listener in &listeners {
        run(["tcp", &listener.local_addr().unwrap().to_string()]);
    }
    let [closed, _] = listeners;
    let refuses = closed.local_addr().unwrap().to_string();
    drop(closed);
    run(["tcp", &refuses]);
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    run(["udp", &datagrams.local_addr().unwrap().to_string()]);
    let path = folder.join("listens");
    let _listener = UnixListener::bind(&path).unwrap();
    run(["unix".as_ref(), "stream".as_ref(), path.as_os_str()]);
    run(["unix", "datagram", "@sensor-golden-nobody"]);
}

/// From a file, from memory, and what is none.
fn modules(folder: &Path) {
    let module = OsStr::new("/lib/test-modules/dummy.ko");
    let none = folder.join("none.ko");
    fs::write(&none, "no module").unwrap();
    let mut steps = Vec::new();
    for how in ["module-file", "module-memory"] {
        steps.extend([OsStr::new(how), module, OsStr::new("numdummies=1")]);
        steps.extend(["module-remove", "dummy"].map(OsStr::new));
    }
    steps.extend([OsStr::new("module-file"), none.as_os_str(), OsStr::new("")]);
    run(steps);
}

/// The recording without what tells this host from another.
fn neutral(file: &Path) -> Vec<u8> {
    let mut recording = Recording::open(file).unwrap();
    let header = recording.header();
    let release = &header.kernel_release;
    let header = Header {
        boot_id: BOOT_ID.to_owned(),
        wall_minus_boot_ns: BOOT_TIME_NS,
        kernel_release: if Place::here().guest {
            release.clone()
        } else {
            // Who built it says more than is needed here.
            let end = release.find(|c: char| !c.is_ascii_digit() && c != '.');
            release.chars().take(end.unwrap_or(release.len())).collect()
        },
        ..header.clone()
    };
    let path = file.with_extension("neutral");
    let mut recorder = Recorder::create(&path, &header).unwrap();
    let mut sample = Vec::new();
    let mut records = 0;
    while recording.next_record(&mut sample).unwrap() {
        recorder.write(&sample).unwrap();
        records += 1;
    }
    assert!(records > 20, "{records} records");
    recorder.finish(recording.footer().unwrap()).unwrap();
    fs::read(path).unwrap()
}

fn print(backend: &str, recording: &[u8]) {
    let compressed = zstd::bulk::compress(recording, 19).unwrap();
    for part in compressed.chunks(LINE_BYTES) {
        println!("recording {backend} {}", hex(part));
    }
}
