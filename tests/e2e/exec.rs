//! A process executes a program.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sensor_tests::coverage::Expected;
use sensor_tests::harness::{ALLOWED_VARIABLES, Options, Sensor, end_shared, with_shared};
use sensor_tests::oracle;
use sensor_tests::place::Place;
use sensor_tests::program::{Program, hex};
use sensor_tests::runner::Test;
use sensor_tests::trigger::Running;
use serde_json::{Value, json};

use crate::common::{aged, check_file, envelope, exec_of, folder, words};

pub(crate) const TESTS: &[Test] = &[
    Test::new("exec::every_field", every_field),
    Test::new("exec::scripts_and_their_interpreters", scripts),
    Test::new("exec::from_a_memfd", memfd),
    Test::new("exec::of_a_deleted_file", deleted),
    Test::new("exec::of_a_set_user_id_file", set_user_id),
    Test::new("exec::of_a_file_with_capabilities", file_capabilities),
    Test::new("exec::without_a_fork", without_fork),
    Test::new("exec::from_another_thread", from_thread),
    Test::new("exec::long_arguments_and_environment", long_arguments),
    Test::new("exec::secrets_do_not_leave", secrets),
    Test::new("exec::names_that_are_not_utf8", wild_names),
    Test::new("exec::users_groups_terminal_namespaces", identity),
    Test::new("exec::parents_and_ancestors", ancestors),
    Test::new("exec::in_a_container", container),
    Test::new("exec::by_a_relative_name", relative_name),
    Test::new(
        "exec::of_a_user_whom_only_the_user_database_knows",
        late_user,
    ),
];

/// A program that waits, as a file that is old enough.
fn program(folder: &Path, name: impl AsRef<OsStr>) -> std::path::PathBuf {
    let path = folder.join(name.as_ref());
    Program::Wait(0).write(&path, name.as_ref().as_bytes());
    aged(&path);
    path
}

/// What must be told of the call itself.
fn call(event: &Value, filename: &str, calling_tid: Option<u32>) {
    let mut expected = Expected::new("Exec", &[]);
    let process = &event["process"];
    expected.is("previous.unique_pid", process["unique_pid"].clone());
    expected.is("previous.exec_id", process["exec_id"].as_u64().unwrap() - 1);
    expected.is("previous.pid", process["pid"].clone());
    expected.none("previous.tid");
    expected.is("previous.start_boot_ns", process["start_boot_ns"].clone());
    expected.none("previous.out_of_scope");
    expected.is("filename", filename);
    expected.none("filename_truncated");
    expected.maybe("calling_tid", calling_tid);
    expected.check(&event["exec"]);
}

/// Compares everything about a program that waits, which a trigger became.
fn whole(
    sensor: &Sensor,
    pid: u32,
    began: (i128, i128),
    image: &str,
    exec_id: u32,
) -> (Value, Expected) {
    let event = exec_of(sensor, pid, image);
    let mut expected = oracle::process(pid, began, &ALLOWED_VARIABLES, &[]);
    expected.is("exec_id", exec_id);
    (event, expected)
}

fn every_field() {
    with_shared(|sensor| {
        let folder = folder();
        let path = program(folder.path(), "program");
        let began = oracle::clocks();
        let child = Running::of(
            Command::new(&path)
                .args(["one", "two words", ""])
                .env_clear()
                .env("PATH", "/bin")
                .env("LD_EXAMPLE", "x=y")
                .env("SSH_TOKEN", "not to be told")
                .env("SSH_CONNECTION", "203.0.113.9 51022 192.0.2.1 22")
                .env("EXAMPLE", "withheld")
                .current_dir(folder.path()),
        );
        let event = exec_of(sensor, child.pid(), &oracle::shown_path(&path));
        let expected = oracle::process(child.pid(), began, &ALLOWED_VARIABLES, &["SSH_TOKEN"]);
        expected.check(&event["process"]);
        oracle::check_unique_id(&event["process"]["image"], &path);
        call(&event, &oracle::shown_path(&path), None);
        let mut around = envelope(&event, child.pid(), child.pid(), "process", began);
        around.is("backend", "tracepoint");
        around.check(&event);
        // What the JSON view tells of the parent beside its identity.
        let parent = &event["process"]["parent"];
        let own = std::env::current_exe().unwrap();
        assert_eq!(
            parent["image"]["path"],
            oracle::shown_path(&own),
            "{parent:#}"
        );
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(parent["comm"], comm.trim_end());
        child.finish_well();
    });
}

fn scripts() {
    with_shared(|sensor| {
        let folder = folder();
        let image = program(folder.path(), "interpreter");
        let inner = folder.path().join("inner");
        fs::write(&inner, format!("#!{} first\n", image.display())).unwrap();
        let outer = folder.path().join("outer");
        fs::write(&outer, format!("#!{}\nnothing\n", inner.display())).unwrap();
        for script in [&inner, &outer] {
            fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
            aged(script);
        }
        for chain in [vec![&inner], vec![&outer, &inner]] {
            let began = oracle::clocks();
            let child = Running::of(Command::new(chain[0]).arg("last").env_clear());
            let event = exec_of(sensor, child.pid(), &oracle::shown_path(&image));
            let mut expected = oracle::process(child.pid(), began, &ALLOWED_VARIABLES, &[]);
            expected.is("type", "script_exec");
            expected.skip("script_chain", "each file is compared by itself");
            expected.check(&event["process"]);
            call(&event, &oracle::shown_path(chain[0]), None);
            let told = event["process"]["script_chain"].as_array();
            let told = told.unwrap_or_else(|| panic!("no chain: {event:#}"));
            if !Place::here().sees_vfs() {
                // Only the name that was called is known here, and it is said that the rest is not.
                assert_eq!(told[0]["path"], oracle::shown_path(chain[0]), "{told:#?}");
                assert_eq!(
                    told[0]["absent"]["inode"], "not_on_this_backend",
                    "{told:#?}"
                );
                assert!(told[0]["hashes"].is_null(), "{told:#?}");
                child.finish_well();
                continue;
            }
            assert_eq!(told.len(), chain.len(), "{told:#?}");
            for (file, path) in told.iter().zip(&chain) {
                check_file(file, path, path, &["path"]);
            }
            child.finish_well();
        }
    });
}

fn memfd() {
    with_shared(|sensor| {
        let folder = folder();
        let path = program(folder.path(), "program");
        let began = oracle::clocks();
        let mut child = Running::start(
            [
                words(&["step", "exec-memfd"], &path),
                vec![OsStr::new("name"), OsStr::new("argument")],
            ]
            .concat(),
        );
        child.step();
        child.go();
        let event = sensor.expect("the exec of the memfd", |event| {
            event["type"] == "exec"
                && event["process"]["pid"] == child.pid()
                && event["process"]["exec_id"] == 2
        });
        let event = sensor.settled(&event);
        let mut expected = oracle::process(child.pid(), began, &ALLOWED_VARIABLES, &[]);
        expected.is("exec_id", 2);
        expected.is("fileless", true);
        // Written a moment ago: its digests may be called racy, but they are right.
        crate::common::one_of(&mut expected, "image.hashes.verdict", &["verified", "racy"]);
        expected.check(&event["process"]);
        child.finish_well();
    });
}

fn deleted() {
    with_shared(|sensor| {
        let folder = folder();
        let path = program(folder.path(), "program");
        let began = oracle::clocks();
        let mut child = Running::start(
            [
                words(&["step", "exec-deleted"], &path),
                vec![OsStr::new("name")],
            ]
            .concat(),
        );
        child.step();
        child.go();
        let (event, mut expected) =
            whole(sensor, child.pid(), began, &oracle::shown_path(&path), 2);
        expected.is("fileless", true);
        // The removal of its name has just changed its ctime.
        crate::common::one_of(&mut expected, "image.hashes.verdict", &["verified", "racy"]);
        expected.check(&event["process"]);
        child.finish_well();
    });
}

fn set_user_id() {
    with_shared(|sensor| {
        let folder = folder();
        let path = program(folder.path(), "program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
        aged(&path);
        let began = oracle::clocks();
        let child = Running::start(words(
            &["gid", "1000,1000,1000", "uid", "1000,1000,1000", "exec"],
            &path,
        ));
        let (event, mut expected) =
            whole(sensor, child.pid(), began, &oracle::shown_path(&path), 2);
        expected.is("secure_exec", true);
        expected.check(&event["process"]);
        let credentials = &event["process"]["credentials"];
        assert_eq!(credentials["real_user"]["id"], 1000, "{credentials:#}");
        assert_eq!(credentials["effective_user"]["id"], 0, "{credentials:#}");
        child.finish_well();
    });
}

fn file_capabilities() {
    with_shared(|sensor| {
        let folder = folder();
        let path = program(folder.path(), "program");
        // Version 2 of the attribute, in force at once: CAP_NET_RAW (13) permitted, CAP_CHOWN (0) inheritable.
        let words_of = [0x0200_0001_u32, 1 << 13, 1, 0, 0];
        let value: Vec<u8> = words_of
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        rustix::fs::setxattr(
            &path,
            "security.capability",
            &value,
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        aged(&path);
        let began = oracle::clocks();
        let child = Running::start(words(&["uid", "1000,1000,1000", "exec"], &path));
        let (event, mut expected) =
            whole(sensor, child.pid(), began, &oracle::shown_path(&path), 2);
        expected.is("secure_exec", true);
        expected.check(&event["process"]);
        assert_eq!(
            event["process"]["capabilities"]["effective"],
            "0000000000002000"
        );
        child.finish_well();
    });
}

fn without_fork() {
    with_shared(|sensor| {
        let folder = folder();
        let (first, second) = (
            program(folder.path(), "first"),
            program(folder.path(), "second"),
        );
        let began = oracle::clocks();
        let mut child = Running::start(words(&["step", "exec"], &first));
        child.step();
        let own = oracle::shown_path(&std::env::current_exe().unwrap());
        let before = exec_of(sensor, child.pid(), &own);
        child.go();
        let (event, expected) = whole(sensor, child.pid(), began, &oracle::shown_path(&first), 2);
        expected.check(&event["process"]);
        call(&event, &oracle::shown_path(&first), None);
        assert_eq!(
            event["exec"]["previous"]["exec_id"],
            before["process"]["exec_id"]
        );
        assert_eq!(
            event["process"]["unique_pid"],
            before["process"]["unique_pid"]
        );
        child.finish_well();
        // Another process of the same program is another process.
        let other = Running::of(&mut Command::new(&second));
        let event = exec_of(sensor, other.pid(), &oracle::shown_path(&second));
        assert_ne!(
            event["process"]["unique_pid"],
            before["process"]["unique_pid"]
        );
        assert_eq!(event["process"]["exec_id"], 1);
        other.finish_well();
    });
}

fn from_thread() {
    with_shared(|sensor| {
        let folder = folder();
        let path = program(folder.path(), "program");
        let began = oracle::clocks();
        let child = Running::start(words(&["exec-from-thread"], &path));
        let (event, expected) = whole(sensor, child.pid(), began, &oracle::shown_path(&path), 2);
        expected.check(&event["process"]);
        let thread = event["exec"]["calling_tid"]
            .as_u64()
            .map(|tid| u32::try_from(tid).unwrap());
        assert!(thread.is_some_and(|tid| tid != child.pid()), "{event:#}");
        call(&event, &oracle::shown_path(&path), thread);
        assert_eq!(event["process"]["tid"], child.pid());
        let exits = sensor.all_from(0, |event| {
            event["type"] == "exit" && event["process"]["pid"] == child.pid()
        });
        assert_eq!(exits, Vec::<Value>::new(), "the end of a thread is no exit");
        child.finish_well();
    });
}

fn long_arguments() {
    with_shared(|sensor| {
        let folder = folder();
        let path = program(folder.path(), "program");
        let began = oracle::clocks();
        let long: Vec<String> = ["a", "b", "c", "d", "e"]
            .iter()
            .map(|text| text.repeat(10_000))
            .collect();
        let child = Running::of(
            Command::new(&path)
                .args(&long)
                .env_clear()
                .env("PATH", "/bin")
                .env("LD_LONG", "v".repeat(50_000)),
        );
        let event = exec_of(sensor, child.pid(), &oracle::shown_path(&path));
        let process = &event["process"];
        let mut expected = oracle::process(child.pid(), began, &ALLOWED_VARIABLES, &[]);
        expected.is("argv_truncated", true);
        expected.skip("argv", "a part of them is compared below");
        expected.is("environment_truncated", true);
        expected.skip("environment", "a part of it is compared below");
        expected.skip("environment_withheld", "what was cut is not counted");
        expected.check(process);
        let told: Vec<&str> = process["argv"]
            .as_array()
            .unwrap()
            .iter()
            .map(|text| text.as_str().unwrap())
            .collect();
        let told = told.join("\0");
        let all = format!("{}\0{}", path.display(), long.join("\0"));
        assert!(
            all.starts_with(&told),
            "the arguments are not the first part of what was given"
        );
        assert!(told.len() > 31 * 1024, "only {} bytes", told.len());
        child.finish_well();
    });
}

fn secrets() {
    with_shared(|sensor| {
        let folder = folder();
        let path = program(folder.path(), "program");
        let child = Running::of(
            Command::new(&path)
                .args(["--password=hunter2-a", "--api-key", "hunter2-b", "plain"])
                .env_clear()
                .env("LD_API_KEY", "hunter2-c")
                .env("UNRELATED", "hunter2-d"),
        );
        let event = exec_of(sensor, child.pid(), &oracle::shown_path(&path));
        let process = &event["process"];
        assert!(
            !event.to_string().contains("hunter2"),
            "a secret is told: {process:#}"
        );
        assert_eq!(process["argv"].as_array().unwrap().len(), 5, "{process:#}");
        assert_eq!(process["argv"][4], "plain");
        assert_eq!(process["argv_redacted"], json!([1, 3]), "{process:#}");
        assert_eq!(process["environment"][0]["name"], "LD_API_KEY");
        assert_eq!(process["environment"][0]["redacted"], true);
        assert_eq!(process["environment_withheld"], 1);
        // The length tells nothing of the secret but its length; it is that of the kernel.
        let pid = child.pid();
        let length = fs::read(format!("/proc/{pid}/cmdline")).unwrap().len();
        assert_eq!(process["argv_true_bytes"], length);
        child.finish_well();
        // Nor is it told at the end.
        let end = crate::common::exit_of(sensor, &process["unique_pid"]);
        assert!(
            !end.to_string().contains("hunter2"),
            "a secret is told: {end:#}"
        );
    });
}

fn wild_names() {
    with_shared(|sensor| {
        let folder = folder();
        let name = OsString::from_vec(b"caf\xe9 \x01\x1b[31m\n'\"\\\xff".to_vec());
        let path = program(folder.path(), &name);
        let began = oracle::clocks();
        let argument = OsString::from_vec(b"\xc3\x28\t\x7f".to_vec());
        let child = Running::of(
            Command::new(&path)
                .arg(&argument)
                .env_clear()
                .current_dir(folder.path()),
        );
        let event = exec_of(sensor, child.pid(), &oracle::shown_path(&path));
        let expected = oracle::process(child.pid(), began, &ALLOWED_VARIABLES, &[]);
        expected.check(&event["process"]);
        let raw = hex(path.as_os_str().as_bytes());
        assert_eq!(event["process"]["image"]["path_raw"], raw);
        assert_eq!(
            event["process"]["argv_raw"],
            json!([raw, hex(argument.as_bytes())])
        );
        assert_eq!(event["exec"]["filename_raw"], raw);
        child.finish_well();
    });
}

fn identity() {
    with_shared(|sensor| {
        let folder = folder();
        let path = program(folder.path(), "program");
        let terminal = nix::pty::openpty(None, None).unwrap();
        let slave = nix::unistd::ttyname(&terminal.slave).unwrap();
        let began = oracle::clocks();
        let terminal_words = words(&["loginuid", "1000", "setsid", "tty"], &slave);
        let rest = words(
            &[
                "groups",
                "50,1000",
                "unshare",
                "mnt,uts,ipc,net,cgroup",
                "gid",
                "7,8,9",
                "uid",
                "1,2,3",
                "chdir",
                "/etc",
                "exec",
            ],
            &path,
        );
        let child = Running::start([terminal_words, rest].concat());
        let (event, mut expected) =
            whole(sensor, child.pid(), began, &oracle::shown_path(&path), 2);
        // Real and effective ids differ, which the kernel takes for raised privileges.
        expected.is("secure_exec", true);
        expected.check(&event["process"]);
        let process = &event["process"];
        assert_eq!(process["credentials"]["effective_user"]["id"], 2);
        assert_eq!(process["working_directory"], "/etc");
        assert_eq!(
            json!(format!(
                "/dev/{}",
                process["session"]["tty"].as_str().unwrap()
            )),
            oracle::shown_path(&slave)
        );
        let own = oracle::stat_field(std::process::id(), 6);
        assert_ne!(
            process["session"]["sid"],
            json!(own.parse::<u32>().unwrap())
        );
        if oracle::login_user(child.pid()).is_none() {
            let reason = &process["credentials"]["absent"]["login_user"];
            assert_eq!(reason, "not_set", "{process:#}");
        }
        child.finish_well();
        drop(terminal);
    });
}

fn ancestors() {
    with_shared(|sensor| {
        let folder = folder();
        let path = program(folder.path(), "program");
        let shown = oracle::shown_path(&path);
        let mut child = Running::start(
            [
                words(&["step", "spawn", "1"], &path),
                vec![OsStr::new("step")],
            ]
            .concat(),
        );
        child.step();
        let own = oracle::shown_path(&std::env::current_exe().unwrap());
        let middle = exec_of(sensor, child.pid(), &own);
        child.go();
        child.step();
        let event = sensor.expect("the exec of the grandchild", |event| {
            event["type"] == "exec" && event["process"]["image"]["path"] == shown
        });
        let process = &event["process"];
        let parent = &process["parent"];
        for field in ["unique_pid", "pid", "start_boot_ns", "exec_id", "argv"] {
            assert_eq!(
                parent[field], middle["process"][field],
                "{field} of {parent:#}"
            );
        }
        assert_eq!(parent["image"]["path"], own);
        let above = &process["ancestors"][0];
        assert_eq!(above["pid"], std::process::id(), "{process:#}");
        assert_eq!(above["unique_pid"], oracle::unique_pid(std::process::id()));
        assert_eq!(above["path"], own);
        child.finish_well();
    });
}

/// What Docker's own file says of a container stands in the first event of what runs in it, but for what must not leave the host.
fn container() {
    end_shared();
    let (folder, docker) = (folder(), folder());
    let id = "3f4e".repeat(16);
    let (image_id, digest) = ("1a".repeat(32), "2b".repeat(32));
    let state = docker.path().join("containers").join(&id);
    fs::create_dir_all(&state).unwrap();
    let written = json!({
        "ID": id, "Name": "/k8s_cart_cart-7d9_shop_uid_0", "Image": format!("sha256:{image_id}"),
        "ImageManifest": {"digest": format!("sha256:{digest}"), "size": 1234},
        "Config": {
            "Image": "registry.example/shop/cart:2", "Env": ["TOKEN=hunter2"],
            "Labels": {
                "app": "shop", "owner": "a@example.com", "io.kubernetes.container.name": "cart",
                "io.kubernetes.pod.name": "cart-7d9", "io.kubernetes.pod.namespace": "shop",
                "io.kubernetes.pod.uid": "6f1c1bd2-5b0f-4f64-9d6b-0f4f5f0c0f11",
            },
        },
    });
    fs::write(state.join("config.v2.json"), written.to_string()).unwrap();
    let sensor = Sensor::start(Options {
        config: format!(
            "[container]\ndocker = [{:?}]\nlabels = [\"app\"]\n",
            docker.path()
        ),
        ..Options::default()
    });
    let path = program(folder.path(), "program");
    let group = Place::here().scope.join(format!("docker-{id}.scope"));
    fs::create_dir(&group).unwrap();
    let began = oracle::clocks();
    let child = Running::start([words(&["cgroup"], &group), words(&["exec"], &path)].concat());
    let (event, mut expected) = whole(&sensor, child.pid(), began, &oracle::shown_path(&path), 2);
    expected.forget("container");
    expected.is("container.id", id);
    expected.is("container.runtime", "docker");
    expected.is("container.name", "cart");
    expected.is("container.image", "registry.example/shop/cart:2");
    expected.is("container.image_id", format!("sha256:{image_id}"));
    expected.is("container.image_digest", format!("sha256:{digest}"));
    expected.is("container.pod_id", "6f1c1bd2-5b0f-4f64-9d6b-0f4f5f0c0f11");
    expected.is("container.pod_name", "cart-7d9");
    expected.is("container.pod_namespace", "shop");
    expected.is("container.labels.name", "app");
    expected.is("container.labels.value", "shop");
    expected.none("container.labels.redacted");
    expected.is("container.labels_withheld", 1);
    expected.none("container.labels_truncated");
    expected.check(&event["process"]);
    child.finish_well();
    let end = sensor.stop();
    let ledger = end.assert_clean();
    assert_eq!(ledger.0["places"]["containers.found"], 1, "{:#}", ledger.0);
    assert_eq!(
        ledger.0["places"]["containers.unreadable"], 0,
        "{:#}",
        ledger.0
    );
    assert!(
        !end.events
            .iter()
            .any(|event| event.to_string().contains("hunter2"))
    );
    sensor_tests::place::remove_cgroup(&group);
}

fn relative_name() {
    with_shared(|sensor| {
        let folder = folder();
        let path = program(folder.path(), "program");
        let mut words = words(&["chdir"], folder.path());
        words.extend(["exec", "./program"].map(OsStr::new));
        let began = oracle::clocks();
        let child = Running::start(words);
        let (event, expected) = whole(sensor, child.pid(), began, &oracle::shown_path(&path), 2);
        expected.check(&event["process"]);
        call(&event, "./program", None);
        child.finish_well();
    });
}

const USER_DATABASE: &str = "/run/systemd/userdb";

/// Removes what it made, however the test ends.
struct UserDatabase(bool);

impl Drop for UserDatabase {
    fn drop(&mut self) {
        let folder = Path::new(USER_DATABASE);
        drop(fs::remove_file(folder.join("io.systemd.Multiplexer")));
        drop(fs::remove_dir(folder));
        if self.0 {
            drop(folder.parent().map(fs::remove_dir));
        }
    }
}

/// The event does not wait for a name that comes late: a patch brings it.
fn late_user() {
    let database = Path::new(USER_DATABASE);
    let socket = database.join("io.systemd.Multiplexer");
    if socket.exists() {
        println!("this host's own user database answers: left to hosts without systemd");
        return;
    }
    let id = 61_184;
    let made = !database.parent().unwrap().exists();
    fs::create_dir_all(database).unwrap();
    let _removed = UserDatabase(made);
    let listener = UnixListener::bind(&socket).unwrap();
    let (answer, seen) = std::sync::mpsc::sync_channel::<()>(1);
    std::thread::spawn(move || {
        // Nobody is named before the exec has been told; but the sensor waits for an answer for two seconds only.
        // Until the answer is given or was never asked for.
        let _given = seen.recv_timeout(Duration::from_secs(1));
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut request = Vec::new();
            stream.read_until(0, &mut request).unwrap();
            request.pop();
            let request: Value = serde_json::from_slice(&request).unwrap();
            let asked = &request["parameters"];
            let reply = if asked["uid"] == id {
                json!({"parameters": {"record": {"userName": "late-user", "uid": id, "gid": id}}})
            } else if asked["gid"] == id {
                json!({"parameters": {"record": {"groupName": "late-group", "gid": id}}})
            } else {
                json!({"error": "io.systemd.UserDatabase.NoRecordFound", "parameters": {}})
            };
            let stream = stream.get_mut();
            // Who asked may have given up.
            drop(stream.write_all(format!("{reply}\0").as_bytes()));
        }
    });
    with_shared(|sensor| {
        let folder = folder();
        let program = Program::Wait(0).place(folder.path(), "program", b"");
        let ids = format!("{id},{id},{id}");
        let mut steps = ["gid", &ids, "uid", &ids, "exec"].map(OsStr::new).to_vec();
        steps.push(program.as_os_str());
        let child = Running::start(steps);
        let shown = oracle::shown_path(&program);
        let event = sensor.expect("the exec of a user without a name", |event| {
            event["type"] == "exec" && event["process"]["image"]["path"] == shown
        });
        let users = &event["process"]["credentials"];
        assert_eq!(users["real_user"]["id"], id, "{users:#}");
        // Else it was told late itself, with its name.
        let late = answer.send(()).is_ok() && users["real_user"]["name"].is_null();
        println!("by a patch: {late}");
        let event = sensor.patched(&event, |event| {
            let users = &event["process"]["credentials"];
            users["real_user"]["name"] == "late-user"
                && users["effective_group"]["name"] == "late-group"
        });
        let users = &event["process"]["credentials"];
        assert_eq!(users["saved_user"]["name"], "late-user", "{users:#}");
        assert_eq!(users["real_group"]["name"], "late-group", "{users:#}");
        child.finish_well();
    });
}
