//! What the sensor gives up once it watches is really gone, thread by thread, and with what the packaged unit gives it everything
//! works.
//!
//! What is refused is tried by this program, started again with [`FLAG`]: it confines itself by the sensor's own code.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use landlock::{AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _};
use nix::sys::socket::{AddressFamily, SockFlag, SockType};
use rustix::thread::CapabilitySet;
use sensor::confine::{self, Confinement, Places, Role};
use sensor_tests::harness::{Options, Sensor, end_shared, run_to_end};
use sensor_tests::oracle;
use sensor_tests::place::Place;
use sensor_tests::program::{Program, sha256};
use sensor_tests::runner::Test;
use sensor_tests::trigger::{self, Running};
use serde_json::Value;

use crate::common::{aged, created, exec_of, exit_of, folder};

pub(crate) const TESTS: &[Test] = &[
    Test::new("confine::every_thread_has_what_it_needs", threads),
    Test::new("confine::the_units_capabilities_are_enough", unit),
    Test::new("confine::switched_off", switched_off),
    Test::new("confine::what_is_refused_to_the_process", process),
    Test::new("confine::what_ends_the_process", killed),
    Test::new("confine::hashing_threads_cannot_write", hashing),
    Test::new(
        "confine::landlock_hides_processes",
        landlock_hides_processes,
    ),
    Test::new("confine::delivering_threads_have_one_folder", delivering),
];

/// First argument of this program when it confines itself.
const FLAG: &str = "--confined";
/// The unit as it is packaged.
const UNIT: &str = include_str!("../../packaging/systemd/sensor.service");
/// Somebody else.
const OTHER: u32 = 1000;

/// The kernel has Landlock, with version 2 at least; those of guests that can have it do.
fn landlock() -> bool {
    let found = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)
        .is_ok();
    assert!(
        found || std::env::var_os("SENSOR_GUEST").is_none() || release() < (5, 19),
        "a kernel that should have Landlock has none"
    );
    found
}

fn release() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().unwrap().parse().unwrap();
    (next(), next())
}

fn status_of(folder: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(folder.join("status")).unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn set(status: &BTreeMap<String, String>, name: &str) -> CapabilitySet {
    CapabilitySet::from_bits_retain(u64::from_str_radix(&status[name], 16).unwrap())
}

/// Names and states of all threads of a process.
fn threads_of(pid: u32) -> Vec<(String, BTreeMap<String, String>)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            let status = status_of(&task.unwrap().path());
            (status["Name"].clone(), status)
        })
        .collect()
}

/// What the sensor may keep, and BPF where the kernel wants it for maps.
fn documented() -> CapabilitySet {
    let kept = CapabilitySet::SYS_PTRACE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::LEASE;
    let strict = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled");
    let strict = strict.is_ok_and(|value| value.trim() != "0");
    if release() < (5, 19) && strict {
        kept | CapabilitySet::BPF
    } else {
        kept
    }
}

/// What each thread has; `bounded`: the bounding set, too, could be given up.
fn check_threads(pid: u32, bounded: bool) {
    let kept = documented();
    let all = threads_of(pid);
    for (name, status) in &all {
        let expected = match name.as_str() {
            "hash-open" | "hash-read" | "hash-watch" => kept - CapabilitySet::BPF,
            "reader" => kept & CapabilitySet::BPF,
            "sinks" | "spool" | "control" | "metrics" | "sink-file" | "sink-stdout" => {
                CapabilitySet::empty()
            }
            _ => kept,
        };
        for field in ["CapEff", "CapPrm"] {
            assert_eq!(set(status, field), expected, "{field} of {name}");
        }
        for field in ["CapInh", "CapAmb"] {
            assert_eq!(
                set(status, field),
                CapabilitySet::empty(),
                "{field} of {name}"
            );
        }
        if bounded {
            assert_eq!(set(status, "CapBnd"), kept, "CapBnd of {name}");
        }
        assert_eq!(status["NoNewPrivs"], "1", "{name}");
        assert_eq!(status["Seccomp"], "2", "{name}");
        let filters = if name.starts_with("hash-") { "2" } else { "1" };
        assert_eq!(status["Seccomp_filters"], filters, "{name}");
    }
    for name in [
        "hash-open",
        "hash-read",
        "hash-watch",
        "reader",
        "pipeline",
        "control",
        "close-watch",
    ] {
        assert!(
            all.iter().any(|(found, _)| found == name),
            "no thread {name}"
        );
    }
}

fn check_layers(pid: u32) {
    let mut words = vec!["status".to_owned(), "--json".to_owned()];
    if !Place::here().guest {
        let scope = Place::here().scope.display().to_string();
        words.extend(["--scope-cgroup".to_owned(), scope]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (status, output, log) = run_to_end(&words);
    assert_eq!(status.code(), Some(0), "{log}");
    let told: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(told["pid"], pid);
    let layers = told["confinement"].as_array().unwrap();
    let names: Vec<&str> = layers
        .iter()
        .map(|layer| layer["layer"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "non_dumpable",
            "no_new_privs",
            "capabilities",
            "seccomp",
            "landlock"
        ]
    );
    for layer in layers {
        let expected = layer["layer"] != "landlock" || landlock();
        assert_eq!(layer["in_force"], expected, "{layer:#}");
    }
}

fn threads() {
    end_shared();
    let folder = folder();
    let config = format!(
        "[state]\ndirectory = {:?}\n[output]\npath = {:?}\n\
         [sink.away]\ntype = \"central_node\"\naddress = \"127.0.0.1:9\"\npins = [\"{}\"]\n\
         certificate_file = \"/nonexistent/agent.pem\"\nkey_file = \"/nonexistent/agent.key\"\n",
        folder.path().join("state"),
        folder.path().join("events.jsonl"),
        "0".repeat(64)
    );
    let sensor = Sensor::start(Options {
        config,
        ..Options::default()
    });
    // It answers when all threads run.
    check_layers(sensor.pid());
    check_threads(sensor.pid(), true);
    let names = threads_of(sensor.pid());
    for name in ["sinks", "spool", "sink-file"] {
        assert!(
            names.iter().any(|(found, _)| found == name),
            "no thread {name}"
        );
    }
    sensor.stop().assert_clean();
}

fn switched_off() {
    end_shared();
    let sensor = Sensor::start(Options {
        config: "[confine]\nenabled = false\n".to_owned(),
        ..Options::default()
    });
    let own = status_of(Path::new("/proc/self"));
    for (name, status) in threads_of(sensor.pid()) {
        assert_eq!(status["CapEff"], own["CapEff"], "{name}");
        assert_eq!(status["NoNewPrivs"], own["NoNewPrivs"], "{name}");
        assert_eq!(status["Seccomp"], own["Seccomp"], "{name}");
    }
    let log = sensor.log().join("\n");
    assert!(log.contains("not confined, as configured"), "{log}");
    sensor.stop().assert_clean();
}

/// The capabilities that the packaged unit leaves.
fn of_the_unit() -> CapabilitySet {
    let line = UNIT
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let mut all = CapabilitySet::empty();
    for name in line.unwrap().split_whitespace() {
        let name = name.strip_prefix("CAP_").unwrap();
        all |= CapabilitySet::from_name(name).unwrap();
    }
    all
}

/// Digest of a file of an event, which must be the right one and not be doubted.
fn check_hash(file: &Value, content: &[u8], path: &Path) {
    let hashes = &file["hashes"];
    assert_eq!(hashes["sha256"], sha256(content), "{file:#}");
    // In memory there is nothing to tell that a mapping was not written.
    let fine =
        hashes["verdict"] == "verified" || (oracle::in_memory(path) && hashes["verdict"] == "racy");
    assert!(fine, "{file:#}");
}

fn unit() {
    end_shared();
    let unit = of_the_unit();
    let bits = unit.bits().to_string();
    let own = std::env::current_exe().unwrap();
    let wrapper = vec![
        own.into_os_string(),
        trigger::FLAG.into(),
        "bounded".into(),
        bits.into(),
        "exec".into(),
    ];
    let sensor = Sensor::start(Options {
        wrapper,
        ..Options::default()
    });
    check_layers(sensor.pid());
    check_threads(sensor.pid(), false);
    for (name, status) in threads_of(sensor.pid()) {
        assert_eq!(set(&status, "CapBnd"), unit, "{name}");
    }
    assert!(
        sensor
            .hooks()
            .iter()
            .all(|(kind, hook)| hook != "none" || !Place::here().sees_vfs() || kind == "script"),
        "{:?}",
        sensor.hooks()
    );

    // A program, and a file, that only their owner may read, in a folder that only he may enter.
    let folder = folder();
    let private = folder.path().join("private");
    fs::create_dir(&private).unwrap();
    let program = Program::Wait(0).place(&private, "tool", b"of another");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    for path in [&private, &program] {
        chown(path, Some(OTHER), Some(OTHER)).unwrap();
    }
    aged(&program);
    let child = Running::of(
        Command::new(&program)
            .env_clear()
            .env("LD_EXAMPLE", "seen")
            .current_dir(&private)
            .uid(OTHER)
            .gid(OTHER),
    );
    let event = exec_of(&sensor, child.pid(), &oracle::shown_path(&program));
    let process = &event["process"];
    check_hash(&process["image"], &fs::read(&program).unwrap(), &program);
    assert_eq!(
        process["working_directory"],
        oracle::shown_path(&private),
        "{process:#}"
    );
    assert!(
        process["environment"].to_string().contains("seen"),
        "{process:#}"
    );
    let unique_pid = process["unique_pid"].clone();
    child.finish_well();
    exit_of(&sensor, &unique_pid);

    let made = private.join("made");
    let made_text = made.to_str().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let child = Running::start([
        "uid",
        "1000,1000,1000",
        "umask",
        "63",
        "open",
        made_text,
        "write",
        "private",
        "close",
        "step",
        "tcp",
        &address,
        "step",
    ]);
    child.step();
    let mut child = child;
    child.go();
    child.step();
    let event = created(&sensor, &oracle::shown_path(&made));
    let event = sensor.closed(&event);
    check_hash(&event["file_create"]["file"], b"private", &made);
    sensor.expect("the connect", |event| {
        event["type"] == "connect" && event["process"]["pid"] == child.pid()
    });
    child.finish_well();
    sensor.stop().assert_clean();
}

/// This program as one that confines itself and tries things; `how` says which, `folder` is where.
fn confined(how: &str, folder: &Path) -> Output {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own).arg(FLAG).arg(how).arg(folder).output();
    output.unwrap()
}

/// What came of each attempt: 0 or an errno.
fn attempts(how: &str, folder: &Path) -> BTreeMap<String, i32> {
    let output = confined(how, folder);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

const NOTHING: i32 = 0;
const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EAFNOSUPPORT: i32 = 97;
const SIGSYS: i32 = 31;

fn check(found: &BTreeMap<String, i32>, expected: &[(&str, i32)]) {
    let expected: BTreeMap<String, i32> = expected
        .iter()
        .map(|(name, errno)| ((*name).to_owned(), *errno))
        .collect();
    assert_eq!(*found, expected);
}

fn process() {
    let folder = prepared();
    check(
        &attempts("process", folder.path()),
        &[
            ("capabilities back", EPERM),
            ("chown", EPERM),
            ("fork", EPERM),
            ("link", EPERM),
            ("mkfifo", EPERM),
            ("mount", EPERM),
            ("netlink socket", EAFNOSUPPORT),
            ("signal to the parent", EPERM),
            ("socket", NOTHING),
            ("symlink", EPERM),
            ("thread", NOTHING),
            ("unshare files", EPERM),
            ("user id", EPERM),
            ("who the parent is", NOTHING),
            ("write", NOTHING),
            ("write by the other's leave", EACCES),
        ],
    );
}

fn killed() {
    let folder = prepared();
    for how in ["exec", "module"] {
        let output = confined(how, folder.path());
        assert_eq!(output.status.signal(), Some(SIGSYS), "{how}: {output:?}");
    }
}

fn hashing() {
    let folder = prepared();
    for how in ["opens", "reads"] {
        check(
            &attempts(how, folder.path()),
            &[
                ("bind udp", EPERM),
                ("chmod", EPERM),
                ("connect unix", EPERM),
                ("create", EPERM),
                ("cut what is open", EPERM),
                ("mkdir", EPERM),
                ("open to truncate", EPERM),
                ("open to write", EPERM),
                ("read the other's", NOTHING),
                ("rename", EPERM),
                ("unlink", EPERM),
                ("who the parent is", NOTHING),
                ("write to what is open", EPERM),
            ],
        );
    }
    assert_eq!(fs::read(folder.path().join("own")).unwrap(), b"content");
}

fn delivering() {
    let folder = prepared();
    let confined = landlock();
    let elsewhere = if confined { EACCES } else { NOTHING };
    // From version 4 on, Linux 6.7.
    let bind = if confined && release() >= (6, 7) {
        EACCES
    } else {
        NOTHING
    };
    check(
        &attempts("delivers", folder.path()),
        &[
            ("bind tcp", bind),
            ("read elsewhere", NOTHING),
            ("read the other's", EACCES),
            ("rename in the state", NOTHING),
            ("unlink elsewhere", elsewhere),
            ("who the parent is", EACCES),
            ("write elsewhere", elsewhere),
            ("write to the state", NOTHING),
        ],
    );
}

/// Why threads that follow processes are not under Landlock: they would see none, whatever their capabilities. Where this does not
/// hold any more, the sensor could do more (docs/decisions/0045-confinement.md).
fn landlock_hides_processes() {
    let folder = prepared();
    let hidden = if landlock() { EACCES } else { NOTHING };
    check(
        &attempts("landlocked", folder.path()),
        &[("who oneself is", NOTHING), ("who the parent is", hidden)],
    );
}

/// A folder with a file of its own, one of another, a folder that the other owns, and one for state.
fn prepared() -> tempfile::TempDir {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("own"), "content").unwrap();
    fs::write(path("others"), "content").unwrap();
    fs::set_permissions(path("others"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(path("others-folder")).unwrap();
    for name in ["others", "others-folder"] {
        chown(path(name), Some(OTHER), Some(OTHER)).unwrap();
    }
    for name in ["state", "state/first", "state/second"] {
        fs::create_dir(path(name)).unwrap();
    }
    folder
}

/// Becomes the program that tries things, if it is asked to.
pub(crate) fn dispatch() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [flag, how, folder] = words.as_slice() else {
        return;
    };
    if flag != FLAG {
        return;
    }
    let folder = PathBuf::from(folder);
    if how == "landlocked" {
        tell(&of_one_under_landlock());
    }
    let places = Places {
        output: None,
        state: Some(folder.join("state")),
        files: Vec::new(),
    };
    let confinement = Confinement::begin(confine::hide_memory(), &places, &[]);
    for layer in confinement.layers() {
        let fine = layer.in_force || (layer.layer == "landlock" && !landlock());
        assert!(fine, "{layer:?}");
    }
    let found = match how.as_str() {
        "process" => of_the_process(&folder),
        "exec" => {
            let error = Command::new("/proc/self/exe").exec();
            panic!("it lives: {error}");
        }
        "module" => {
            let name = c"nonexistent";
            let result = nix::kmod::delete_module(name, nix::kmod::DeleteModuleFlags::O_NONBLOCK);
            panic!("it lives: {result:?}");
        }
        "opens" => as_thread(confinement, Role::HashOpen, folder, of_a_hashing_thread),
        "reads" => as_thread(confinement, Role::HashRead, folder, of_a_hashing_thread),
        "delivers" => as_thread(confinement, Role::Delivery, folder, of_a_delivering_thread),
        other => panic!("{other}"),
    };
    tell(&found);
}

fn tell(found: &Found) -> ! {
    println!("{}", serde_json::to_string(found).unwrap());
    std::process::exit(0);
}

/// With every capability.
fn of_one_under_landlock() -> Found {
    if landlock() {
        let rules = Ruleset::default().handle_access(AccessFs::Refer).unwrap();
        rules.create().unwrap().restrict_self().unwrap();
    }
    Found::from([
        ("who oneself is", errno(fs::read_link("/proc/self/exe"))),
        ("who the parent is", parent()),
    ])
}

type Found = BTreeMap<&'static str, i32>;

fn as_thread(
    confinement: Confinement,
    role: Role,
    folder: PathBuf,
    tries: fn(&Path, File) -> Found,
) -> Found {
    // Open before, as the log is.
    let open = OpenOptions::new().append(true).open(folder.join("own"));
    let thread = std::thread::spawn(move || {
        confinement.enter(role);
        tries(&folder, open.unwrap())
    });
    thread.join().unwrap()
}

fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => NOTHING,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

/// The parent has every capability: who may look is decided by one's own.
fn parent() -> i32 {
    let parent = std::os::unix::process::parent_id();
    errno(fs::read_link(format!("/proc/{parent}/exe")))
}

fn of_the_process(folder: &Path) -> Found {
    let own = folder.join("own");
    let all = CapabilitySet::from_bits_retain(1 << 1 | 1 << 21);
    let sets = rustix::thread::CapabilitySets {
        effective: all,
        permitted: all,
        inheritable: CapabilitySet::empty(),
    };
    let parent_id = i32::try_from(std::os::unix::process::parent_id()).unwrap();
    let parent_id = nix::unistd::Pid::from_raw(parent_id);
    let socket = |family| {
        let result = nix::sys::socket::socket(family, SockType::Datagram, SockFlag::empty(), None);
        errno(result.map_err(io::Error::from))
    };
    let of = |result: nix::Result<()>| errno(result.map_err(io::Error::from));
    assert_eq!(
        rustix::process::dumpable_behavior().unwrap(),
        rustix::process::DumpableBehavior::NotDumpable
    );
    let root = nix::unistd::Uid::from_raw(0);
    let none = nix::mount::MsFlags::empty();
    let nothing: Option<&str> = None;
    Found::from([
        (
            "capabilities back",
            errno(rustix::thread::set_capabilities(None, sets).map_err(io::Error::from)),
        ),
        ("chown", errno(chown(&own, Some(0), Some(0)))),
        ("fork", errno(Command::new("/bin/true").spawn())),
        ("link", errno(fs::hard_link(&own, folder.join("linked")))),
        (
            "mkfifo",
            of(nix::unistd::mkfifo(
                &folder.join("fifo"),
                nix::sys::stat::Mode::S_IRUSR,
            )),
        ),
        (
            "mount",
            of(nix::mount::mount(
                nothing,
                folder,
                Some("tmpfs"),
                none,
                nothing,
            )),
        ),
        ("netlink socket", socket(AddressFamily::Netlink)),
        (
            "signal to the parent",
            of(nix::sys::signal::kill(parent_id, None)),
        ),
        ("socket", socket(AddressFamily::Inet)),
        (
            "symlink",
            errno(std::os::unix::fs::symlink(&own, folder.join("symlink"))),
        ),
        (
            "thread",
            errno(std::thread::Builder::new().spawn(|| ()).map(|thread| {
                thread.join().unwrap();
            })),
        ),
        (
            "unshare files",
            of(nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)),
        ),
        ("user id", of(nix::unistd::setuid(root))),
        ("who the parent is", parent()),
        ("write", errno(fs::write(&own, "content"))),
        (
            "write by the other's leave",
            errno(fs::write(folder.join("others-folder/new"), "")),
        ),
    ])
}

fn of_a_hashing_thread(folder: &Path, mut open: File) -> Found {
    let own = folder.join("own");
    let mode = fs::Permissions::from_mode(0o600);
    Found::from([
        ("bind udp", errno(UdpSocket::bind("127.0.0.1:0"))),
        ("chmod", errno(fs::set_permissions(&own, mode))),
        (
            "connect unix",
            errno(UnixDatagram::unbound().and_then(|socket| socket.connect(&own))),
        ),
        ("create", errno(File::create(folder.join("new")))),
        ("cut what is open", errno(open.set_len(0))),
        ("mkdir", errno(fs::create_dir(folder.join("new")))),
        (
            "open to truncate",
            errno(OpenOptions::new().write(true).truncate(true).open(&own)),
        ),
        (
            "open to write",
            errno(OpenOptions::new().append(true).open(&own)),
        ),
        ("read the other's", errno(fs::read(folder.join("others")))),
        ("rename", errno(fs::rename(&own, folder.join("renamed")))),
        ("unlink", errno(fs::remove_file(&own))),
        ("who the parent is", parent()),
        ("write to what is open", errno(open.write_all(b"more"))),
    ])
}

fn of_a_delivering_thread(folder: &Path, _open: File) -> Found {
    let state = folder.join("state");
    let written = fs::write(state.join("first/packet"), "packet");
    Found::from([
        ("bind tcp", errno(TcpListener::bind("127.0.0.1:0"))),
        ("read elsewhere", errno(fs::read(folder.join("own")))),
        ("read the other's", errno(fs::read(folder.join("others")))),
        ("write to the state", errno(written)),
        (
            "rename in the state",
            errno(fs::rename(
                state.join("first/packet"),
                state.join("second/packet"),
            )),
        ),
        (
            "unlink elsewhere",
            errno(fs::remove_file(folder.join("own"))),
        ),
        ("who the parent is", parent()),
        (
            "write elsewhere",
            errno(fs::write(folder.join("elsewhere"), "")),
        ),
    ])
}
