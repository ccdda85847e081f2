//! Real runtimes, and what the packaged service tells of their containers; in a guest with a Debian of its own. Run there only.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::{Child, Command, Output, Stdio};
    use std::time::{Duration, Instant};

    use serde_json::Value;

    const EVENTS: &str = "/var/log/sensor/events.jsonl";
    const IMAGE: &str = "localhost/shop/cart:2";
    /// The machine is emulated, and others use it too.
    const PATIENCE: Duration = Duration::from_secs(300);

    fn attempt(words: &[&str]) -> Output {
        let (program, arguments) = words.split_first().unwrap();
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    fn run(words: &[&str]) -> String {
        let output = attempt(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            if Instant::now() > deadline {
                let log = run(&["journalctl", "--no-pager", "--lines=60", "--unit=sensor"]);
                let near: Vec<String> = containers().map(|(_, one)| one.to_string()).collect();
                let status = attempt(&["sensor", "status", "--json"]);
                panic!(
                    "never: {what}\n{log}\n{}\n{}",
                    near.join("\n"),
                    String::from_utf8_lossy(&status.stdout)
                );
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn events() -> Vec<Value> {
        let bytes = fs::read(EVENTS).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // The last line may be on its way.
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// What is told of containers, by events and by patches, with the event's type.
    fn containers() -> impl Iterator<Item = (String, Value)> {
        events().into_iter().flat_map(|event| {
            ["/process/container", "/patch/process/container"]
                .map(|path| event.pointer(path).cloned())
                .into_iter()
                .flatten()
                .map(|told| (event["type"].as_str().unwrap_or_default().to_owned(), told))
                .collect::<Vec<_>>()
        })
    }

    /// The container of this id, once its image is told or it is told why it is not.
    fn told(id: &str) -> Value {
        wait("the container is told", || {
            containers()
                .filter(|(_, told)| told["id"] == id)
                .find(|(_, told)| {
                    let why = told["absent"]["image"].as_str();
                    !told["image"].is_null() || why.is_some_and(|why| why != "pending")
                })
                .map(|(_, told)| told)
        })
    }

    /// The program of a container is reported as what it is.
    fn executed(id: &str, argument: &str) {
        wait("the exec is reported", || {
            let events = events();
            events
                .iter()
                .any(|event| {
                    let process = &event["process"];
                    event["type"] == "exec"
                        && process["argv"][1] == argument
                        && process["container"]["id"] == id
                })
                .then_some(())
        });
    }

    /// A daemon, ended with the test.
    struct Daemon(Child);

    impl Drop for Daemon {
        fn drop(&mut self) {
            // It may have ended by itself.
            let _gone = self.0.kill();
            let _gone = self.0.wait();
        }
    }

    /// The service of the package runs, and an image of one program is there.
    fn prepare() {
        if Path::new("/image.tar").exists() {
            return;
        }
        let packages = std::env::var("SENSOR_PACKAGES").expect("this runs in a guest only");
        run(&["dpkg", "--install", &format!("{packages}/sensor.deb")]);
        wait("the service reports", || {
            run(&["/bin/echo", "first-mark"]);
            let told = events();
            (!told.is_empty()).then_some(())
        });
        for (path, text) in [
            // The root of the guest is the first file system, which cannot be exchanged.
            (
                "/etc/containers/containers.conf",
                "[engine]\nno_pivot_root = true\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"crun\"\n\
                 [containers]\nseccomp_profile = \"unconfined\"\nlog_driver = \"k8s-file\"\n",
            ),
            (
                "/etc/containers/storage.conf",
                "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"\n",
            ),
            (
                "/etc/containers/policy.json",
                "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}\n",
            ),
        ] {
            fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        for folder in ["bin", "proc", "sys", "dev", "etc", "run", "tmp"] {
            fs::create_dir_all(Path::new("/cart").join(folder)).unwrap();
        }
        fs::copy("/bin/busybox", "/cart/bin/busybox").unwrap();
        run(&["tar", "-C", "/cart", "-cf", "/cart.tar", "."]);
        run(&["podman", "import", "/cart.tar", IMAGE]);
        run(&[
            "podman",
            "save",
            "--format",
            "oci-archive",
            "--output",
            "/image.tar",
            IMAGE,
        ]);
    }

    #[test]
    fn a_container_of_podman() {
        prepare();
        let id = run(&[
            "podman",
            "run",
            "--detach",
            "--name",
            "cart",
            "--network=none",
            IMAGE,
            "/bin/busybox",
            "sleep",
            "4711",
        ]);
        let inspect = |what: &str| {
            let format = format!("{{{{.{what}}}}}");
            run(&["podman", "image", "inspect", "--format", &format, IMAGE])
        };
        let (image_id, digest) = (inspect("Id"), inspect("Digest"));
        executed(&id, "sleep");
        let told = told(&id);
        assert_eq!(told["runtime"], "podman", "{told}");
        assert_eq!(told["name"], "cart", "{told}");
        assert_eq!(told["image"], IMAGE, "{told}");
        assert_eq!(told["image_id"], format!("sha256:{image_id}"), "{told}");
        assert_eq!(told["image_digest"], digest, "{told}");
        assert!(told["absent"].is_null(), "{told}");
        run(&["podman", "rm", "--force", "--time=0", "cart"]);

        // One that is gone as soon as it has run.
        let out = run(&[
            "podman",
            "run",
            "--rm",
            "--name=short",
            "--network=none",
            IMAGE,
            "/bin/busybox",
            "echo",
            "here",
        ]);
        assert_eq!(out, "here");
        wait("the short one is told", || {
            containers()
                .any(|(_, told)| told["name"] == "short" && told["image"] == IMAGE)
                .then_some(())
        });
    }

    #[test]
    fn a_container_of_containerd() {
        prepare();
        fs::create_dir_all("/etc/containerd").unwrap();
        fs::write(
            "/etc/containerd/config.toml",
            "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
        )
        .unwrap();
        let log = fs::File::create("/containerd.log").unwrap();
        let daemon = Command::new("containerd")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        let _daemon = Daemon(daemon.unwrap());
        wait("containerd answers", || {
            attempt(&["ctr", "version"]).status.success().then_some(())
        });
        run(&[
            "ctr",
            "images",
            "import",
            "--snapshotter=native",
            "--index-name",
            IMAGE,
            "/image.tar",
        ]);
        let start = |id: &str, further: &[&str]| {
            let mut words = vec![
                "ctr",
                "run",
                "--detach",
                "--no-pivot",
                "--snapshotter=native",
            ];
            words.extend(further);
            words.extend([IMAGE, id, "/bin/busybox", "sleep", "4712"]);
            run(&words);
        };
        // As the kubelet has containerd run it; the folder of its cgroup does not tell who runs it.
        let of_pod = "a1b2c3d4e5f60718293a4b5c6d7e8f90".repeat(2);
        start(
            &of_pod,
            &[
                "--annotation=io.kubernetes.cri.container-name=cart",
                "--annotation=io.kubernetes.cri.image-name=localhost/shop/cart:2",
                "--annotation=io.kubernetes.cri.sandbox-name=cart-7d9",
                "--annotation=io.kubernetes.cri.sandbox-namespace=shop",
            ],
        );
        executed(&of_pod, "sleep");
        let found = told(&of_pod);
        assert_eq!(found["runtime"], "containerd", "{found}");
        assert_eq!(found["name"], "cart", "{found}");
        assert_eq!(found["image"], IMAGE, "{found}");
        assert_eq!(found["pod_name"], "cart-7d9", "{found}");
        assert_eq!(found["pod_namespace"], "shop", "{found}");
        // By hand nothing is known of it, which is said.
        let plain = "0f9e8d7c6b5a49382716050403020100".repeat(2);
        start(&plain, &[]);
        executed(&plain, "sleep");
        let found = told(&plain);
        assert_eq!(found["runtime"], "containerd", "{found}");
        assert_eq!(found["absent"]["image"], "not_set", "{found}");
        for id in [&of_pod, &plain] {
            run(&["ctr", "tasks", "kill", "--signal=KILL", id]);
        }
        let status: Value = serde_json::from_str(&run(&["sensor", "status", "--json"])).unwrap();
        let places = &status["ledger"]["places"];
        assert!(places["containers.found"].as_u64() >= Some(2), "{places}");
        assert_eq!(places["containers.unreadable"], 0, "{places}");
    }
}
