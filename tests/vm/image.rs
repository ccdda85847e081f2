//! The sensor's container image, run as the DaemonSet says. For guests of `cargo xtask vm`, which have the unpacked image in /image, the
//! rendered overlay in /etc/sensor-vm/overlay.json, and neither a kubelet nor a container runtime: what these would do with
//! the manifest (namespaces, mounts, capabilities, environment, probes) is done here.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends by panicking, at the line where it went wrong"
)]
#![expect(clippy::print_stderr, reason = "why no test can run is told there")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set, set_no_new_privs};
use sensor_tests::place::{Place, remove_cgroup};
use sensor_tests::runner::{self, Test};
use sensor_tests::wait_for;
use serde_json::Value;

const IMAGE: &str = "/image";
const OVERLAY: &str = "/etc/sensor-vm/overlay.json";
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where the kubelet would keep volumes.
const VOLUMES: &str = "/tmp/volumes";
const NODE: &str = "node-7";
/// The sensor's container and pod, and those of a program that it watches.
const OWN: (&str, &str) = (
    "3f1b0a8c5d7e9f2a4b6c8d0e1f3a5b7c9d1e3f5a7b9c1d3e5f7a9b1c3d5e7f9a",
    "0f9e8d7c-6b5a-4938-2716-050403020100",
);
const WATCHED: (&str, &str) = (
    "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90",
    "11111111-2222-4333-8444-555555555555",
);
/// A user that only the host knows.
const USER: &str = "tester";
/// UUIDv5 of the sensor's namespace for agents and the guest's machine id, 5e4502a1-f0c6-4b7d-9b3f-6d2c8a917e40.
const AGENT: &str = "c461c6c5-cca2-5d1d-b9bb-916a763aed25";
/// First argument of this program when it is to become a container; a capability that the container does not get may follow.
const CONTAINER: &str = "--container";

const TESTS: [Test; 3] = [
    Test::in_guest("image::it_sees_the_host_as_the_manifest_says", watches),
    Test::in_guest("image::without_a_capability_it_says_so", capabilities),
    Test::in_guest("image::a_wrong_configuration_is_named", configuration),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|first| first == CONTAINER) {
        become_container(words.get(1).map(String::as_str));
    }
    let place = match Place::enter() {
        Ok(place) => place,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(101);
        }
    };
    make_volumes();
    for one in [OWN, WATCHED] {
        fs::create_dir_all(format!("{CGROUPS}{}", scope_of(one))).unwrap();
    }
    let last = Test::in_guest("image::nothing_runs_any_more", nothing_runs);
    ExitCode::from(runner::run(&TESTS, &words, place, last, || 0))
}

fn documents() -> Vec<Value> {
    serde_json::from_slice(&fs::read(OVERLAY).expect("the rendered overlay")).expect("JSON")
}

fn of_kind(kind: &str) -> Value {
    let found = documents()
        .into_iter()
        .find(|document| document["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind}"))
}

/// What the DaemonSet says of its pods, and of the sensor's container.
fn pod() -> (Value, Value) {
    let pod = of_kind("DaemonSet")["spec"]["template"]["spec"].clone();
    let container = pod["containers"][0].clone();
    (pod, container)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn granted(container: &Value) -> CapabilitySet {
    let names = list(&container["securityContext"]["capabilities"]["add"]);
    let set = |name| CapabilitySet::from_name(text(name)).expect("a capability");
    names.iter().map(set).collect()
}

fn scope_of((container, pod): (&str, &str)) -> String {
    let pod = pod.replace('-', "_");
    format!("/kubepods.slice/kubepods-pod{pod}.slice/cri-containerd-{container}.scope")
}

fn bind(flags: MsFlags, from: &Path, to: &Path) {
    let nothing: Option<&str> = None;
    mount(Some(from), to, nothing, flags, nothing)
        .unwrap_or_else(|error| panic!("mount {} {}: {error}", from.display(), to.display()));
}

fn filesystem(kind: &str, to: &Path, flags: MsFlags) {
    let options: Option<&str> = None;
    mount(Some(kind), to, Some(kind), flags, options)
        .unwrap_or_else(|error| panic!("mount {kind} {}: {error}", to.display()));
}

/// Does what a container runtime does for the pod of the DaemonSet, then becomes the program of the image.
fn become_container(withheld: Option<&str>) -> ! {
    let (pod, container) = pod();
    let root = Path::new(IMAGE);
    fs::write(format!("{CGROUPS}{}/cgroup.procs", scope_of(OWN)), "0").unwrap();
    // Process ids and network are the host's; the rest is the container's own, its cgroups too.
    assert_eq!(pod["hostPID"], true);
    assert_eq!(pod["hostNetwork"], true);
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .unwrap();
    rustix::system::sethostname(b"sensor-x7k2p").unwrap();
    mount_all(&pod, &container, root);
    nix::unistd::chroot(root).unwrap();
    nix::unistd::chdir("/").unwrap();
    for path in ["/etc/written", "/host/written"] {
        fs::write(path, "").expect_err("must not be writable");
    }

    let mut kept = granted(&container);
    kept.remove(withheld.map_or(CapabilitySet::empty(), |name| {
        CapabilitySet::from_name(name).expect("a capability")
    }));
    for capability in CapabilitySet::all().difference(kept).iter() {
        match remove_capability_from_bounding_set(capability) {
            // A kernel that is too old to know it.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => panic!("{capability:?}: {error}"),
        }
    }
    assert_eq!(
        container["securityContext"]["allowPrivilegeEscalation"],
        false
    );
    set_no_new_privs(true).unwrap();
    let mut command = Command::new("/usr/sbin/sensor");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin");
    command.args(list(&container["args"]).iter().map(text));
    for variable in list(&container["env"]) {
        let value = variable["value"].as_str().unwrap_or_else(|| {
            assert_eq!(
                variable["valueFrom"]["fieldRef"]["fieldPath"],
                "spec.nodeName"
            );
            NODE
        });
        command.env(text(&variable["name"]), value);
    }
    // As uid 0 it gets what the bounding set has left.
    let error = command.exec();
    panic!("/usr/sbin/sensor: {error}");
}

/// The mounts of a container, in the mount namespace of this process.
fn mount_all(pod: &Value, container: &Value, root: &Path) {
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    bind(
        MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        Path::new("none"),
        Path::new("/"),
    );
    bind(MsFlags::MS_BIND, root, root);
    for asked in list(&container["volumeMounts"]) {
        let name = text(&asked["name"]);
        let volume = list(&pod["volumes"])
            .iter()
            .find(|volume| volume["name"] == name);
        let volume = volume.unwrap_or_else(|| panic!("no volume {name}"));
        let source = match volume["hostPath"]["path"].as_str() {
            Some(path) => PathBuf::from(path),
            None => Path::new(VOLUMES).join(name),
        };
        let target = root.join(text(&asked["mountPath"]).trim_start_matches('/'));
        assert!(
            target.is_dir(),
            "{}: the image has no such folder",
            target.display()
        );
        bind(MsFlags::MS_BIND | MsFlags::MS_REC, &source, &target);
        if asked["readOnly"] == true {
            bind(read_only, &source, &target);
        }
    }
    // Runtimes make these where an image has none.
    for folder in ["proc", "sys", "dev"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    filesystem("proc", &root.join("proc"), MsFlags::empty());
    filesystem("sysfs", &root.join("sys"), MsFlags::MS_RDONLY);
    filesystem("cgroup2", &root.join("sys/fs/cgroup"), MsFlags::MS_RDONLY);
    filesystem("devtmpfs", &root.join("dev"), MsFlags::empty());
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    bind(read_only, root, root);
}

/// Makes the volumes of the pod that are not the host's: as the kubelet does, with files behind two symbolic links.
fn make_volumes() {
    let (pod, _) = pod();
    for volume in list(&pod["volumes"]) {
        let folder = Path::new(VOLUMES).join(text(&volume["name"]));
        if let Some(name) = volume["configMap"]["name"].as_str() {
            let map = of_kind("ConfigMap");
            assert_eq!(map["metadata"]["name"], name);
            let data = folder.join("..2026_11_22");
            fs::create_dir_all(&data).unwrap();
            symlink("..2026_11_22", folder.join("..data")).unwrap();
            for (file, content) in map["data"].as_object().unwrap() {
                fs::write(data.join(file), text(content)).unwrap();
                symlink(Path::new("..data").join(file), folder.join(file)).unwrap();
            }
        } else if volume["hostPath"]["type"] == "DirectoryOrCreate" {
            fs::create_dir_all(text(&volume["hostPath"]["path"])).unwrap();
        } else {
            // What else there is would have to be made as well.
            assert!(volume["hostPath"]["path"].is_string(), "{volume}");
        }
    }
}

/// A container that runs.
struct Container {
    process: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    reader: JoinHandle<()>,
    account: JoinHandle<String>,
}

impl Container {
    fn start(withheld: Option<&str>) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg(CONTAINER)
            .args(withheld)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::<Value>::new()));
        let (out, into) = (process.stdout.take().unwrap(), Arc::clone(&lines));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                let line = line.unwrap();
                into.lock()
                    .unwrap()
                    .push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        });
        let mut err = process.stderr.take().unwrap();
        let account = std::thread::spawn(move || {
            let mut text = String::new();
            err.read_to_string(&mut text).unwrap();
            text
        });
        Self {
            process,
            lines,
            reader,
            account,
        }
    }

    /// Waits for its end; gives how it ended and what it said.
    fn end(mut self) -> (ExitStatus, String) {
        let status = wait_for("the end of the container", patience(), || {
            self.process.try_wait().unwrap()
        });
        self.reader.join().unwrap();
        let account = self.account.join().unwrap();
        // No event went astray as a line that is none.
        let lines = self.lines.lock().unwrap();
        assert!(lines.iter().all(Value::is_object), "{lines:?}");
        (status, account)
    }
}

/// Two guests and a compiler may share two processors.
fn patience() -> Duration {
    Place::here().patience() * 2
}

/// Runs a program in a cgroup until it ends.
fn run_in(scope: &str, program: &str) {
    let script = format!("echo 0 > {CGROUPS}{scope}/cgroup.procs && exec {program}");
    let status = Command::new("/bin/sh")
        .args(["-c", &script])
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// What a probe of the container says.
fn probe(container: &Value, name: &str, sensor: &Child) -> Output {
    let command = list(&container[name]["exec"]["command"]);
    assert!(!command.is_empty(), "no {name}");
    Command::new("/bin/busybox")
        .arg("chroot")
        .arg(format!("/proc/{}/root", sensor.id()))
        .args(command.iter().map(text))
        .output()
        .unwrap()
}

/// Without one of these it ends, with code 3, and says which it is.
fn capabilities() {
    for (withheld, told) in [
        ("BPF", "CAP_BPF missing"),
        ("PERFMON", "CAP_PERFMON missing"),
    ] {
        let (status, account) = Container::start(Some(withheld)).end();
        assert_eq!(status.code(), Some(3), "{withheld}: {account}");
        assert!(account.contains(told), "{withheld}: {account}");
    }
    // The memory of maps counts as locked before Linux 5.11.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if release.starts_with("5.10.") {
        let (status, account) = Container::start(Some("SYS_RESOURCE")).end();
        assert_eq!(status.code(), Some(3), "{account}");
        assert!(account.contains("not enough locked memory"), "{account}");
    }
}

fn configuration() {
    let file = Path::new(VOLUMES).join("config/90-wrong.toml");
    fs::write(&file, "[output]\nformat = \"yaml\"\n").unwrap();
    let (status, account) = Container::start(None).end();
    fs::remove_file(&file).unwrap();
    assert_eq!(status.code(), Some(2), "{account}");
    assert!(
        account.contains("/etc/sensor/conf.d/90-wrong.toml") && account.contains("output.format"),
        "{account}"
    );
}

fn nothing_runs() {
    for one in [OWN, WATCHED] {
        let folder = format!("{CGROUPS}{}", scope_of(one));
        wait_for("the last process of the container", patience(), || {
            let left = fs::read_to_string(format!("{folder}/cgroup.procs")).unwrap();
            left.is_empty().then_some(())
        });
        remove_cgroup(Path::new(&folder));
    }
}

fn watches() {
    let (_, container) = pod();
    let mut sensor = Container::start(None);
    // The probes are what Kubernetes would go by.
    let mut last = String::new();
    wait_for("the start-up probe", patience(), || {
        let ended = sensor.process.try_wait().unwrap();
        let answer = probe(&container, "startupProbe", &sensor.process);
        last = format!("{ended:?} {answer:?}");
        (ended.is_some() || answer.status.success()).then_some(())
    });
    if sensor.process.try_wait().unwrap().is_some() {
        panic!("{:?}\n{last}", sensor.end());
    }
    let answer = probe(&container, "livenessProbe", &sensor.process);
    assert!(answer.status.success(), "{answer:?}");

    let status = fs::read_to_string(format!("/proc/{}/status", sensor.process.id())).unwrap();
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{set}:\t")));
        let bits = u64::from_str_radix(line.unwrap(), 16).unwrap();
        // It may give up more, never have more.
        assert_eq!(bits & !granted(&container).bits(), 0, "{set}: {bits:x}");
    }

    let event = wait_for("the event of the watched program", patience(), || {
        // Once more each time: the first ones may come before the hooks.
        run_in(&scope_of(WATCHED), &format!("su {USER} -c /bin/true"));
        let lines = sensor.lines.lock().unwrap();
        let fits = |event: &&Value| {
            event["type"] == "exec"
                && event["process"]["container"]["id"] == WATCHED.0
                && event["process"]["credentials"]["real_user"]["id"] == 1000
        };
        lines.iter().find(fits).cloned()
    });
    let process = &event["process"];
    assert_eq!(process["container"]["pod_id"], WATCHED.1, "{event}");
    assert_eq!(process["container"]["runtime"], "containerd", "{event}");
    // From the root of the hierarchy, although the sensor's own cgroup namespace shows it from elsewhere.
    assert_eq!(
        process["cgroup_path"],
        scope_of(WATCHED).as_str(),
        "{event}"
    );
    assert_eq!(process["image"]["path"], "/bin/busybox", "{event}");
    assert_eq!(
        process["credentials"]["real_user"]["name"], USER,
        "the host's names of users: {event}"
    );
    assert_eq!(event["host"]["name"], NODE, "{event}");
    assert_eq!(
        event["host"]["os"]["id"], "guest",
        "the host's os-release: {event}"
    );
    assert_eq!(event["agent"]["id"], AGENT, "the host's machine id");
    wait_for("a hash of what ran", patience(), || {
        run_in(&scope_of(WATCHED), "/bin/true");
        let lines = sensor.lines.lock().unwrap();
        let hashed = |event: &Value| {
            event["process"]["container"]["id"] == WATCHED.0
                && event["process"]["image"]["hashes"]["verdict"] == "verified"
        };
        lines.iter().any(hashed).then_some(())
    });

    // Another pod on this node, and a sensor of the host itself: both are told who runs.
    let holder = format!("already running as process {}", sensor.process.id());
    let (status, account) = Container::start(None).end();
    assert_eq!(status.code(), Some(6), "{account}");
    assert!(account.contains(&holder), "{account}");
    let host = Command::new(&Place::here().sensor)
        .args(["run", "--format", "json"])
        .output()
        .unwrap();
    let account = String::from_utf8_lossy(&host.stderr);
    assert_eq!(host.status.code(), Some(6), "{account}");
    assert!(account.contains(&holder), "{account}");

    kill(
        Pid::from_raw(i32::try_from(sensor.process.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    let (status, account) = sensor.end();
    assert!(status.success(), "{status}\n{account}");
    assert!(account.contains("sink output"), "{account}");
    assert!(!account.contains("account not closed"), "{account}");
}
