//! The package as an administrator meets it, in a guest with a Debian of its own (`system = "debian"` in kernels.toml). Run there
//! only: it installs and purges.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown};
    use std::os::unix::process::CommandExt as _;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output, Stdio};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::sync_channel;
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    use nix::sys::signal::Signal;
    use nix::unistd::Pid;
    use serde_json::Value;
    use sha2::{Digest as _, Sha256};

    const EVENTS: &str = "/var/log/sensor/events.jsonl";
    const CONFIGURATION: &str = "/etc/sensor/sensor.toml";
    const UNIT: &str = "/usr/lib/systemd/system/sensor.service";
    /// The central node's package.
    const NODE: &str = "sensor-central-node";
    const NODE_UNIT: &str = "/usr/lib/systemd/system/central-node.service";
    /// The key of the service, and its store as the service's own user has it.
    const NODE_KEY: &str = "/etc/central-node/tls/server.key";
    const NODE_STORE: &str = "/var/lib/private/central-node/central-node.db";
    const README: &str = include_str!("../../README.md");
    /// Longer lines are cut in the transcript: an event is some thousand characters.
    const TRANSCRIPT_COLUMNS: usize = 150;
    /// The user of the base system who is nobody special.
    const TESTER: u32 = 1000;
    /// CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_LEASE.
    const CAPABILITIES: u64 = 1 << 39 | 1 << 38 | 1 << 19 | 1 << 2 | 1 << 28;
    /// The machine is emulated, and others use it too.
    const PATIENCE: Duration = Duration::from_secs(240);
    /// What an auditor would begin to frown at; 10 is the worst.
    const MOST_EXPOSED: f32 = 4.0;
    /// The same for a service that needs nothing of the host.
    const MOST_EXPOSED_NODE: f32 = 1.5;

    /// How long an upgrade leaves the host unwatched at most, as docs/packages.md states it.
    const STATED_GAP: Duration = Duration::from_secs(20);

    fn package(name: &str) -> String {
        let folder = std::env::var("SENSOR_PACKAGES").expect("this runs in a guest only");
        format!("{folder}/{name}.deb")
    }

    fn attempt(words: &[&str]) -> Output {
        let (program, arguments) = words.split_first().unwrap();
        Command::new(program)
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    fn run(words: &[&str]) -> String {
        let output = attempt(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Says something to who started the guest, whether or not the test passes.
    fn tell(text: &str) {
        channel("told", text);
    }

    fn channel(kind: &str, text: &str) {
        let channel = fs::OpenOptions::new().write(true).open("/dev/ttyS1");
        // In one call, so that no line of another comes between.
        channel
            .unwrap()
            .write_all(format!("{kind} {text}\n").as_bytes())
            .unwrap();
    }

    /// Adds to the transcript that is left where the guest was started.
    fn transcript(text: &str) {
        for line in text.trim_end().lines() {
            let cut: String = line.chars().take(TRANSCRIPT_COLUMNS).collect();
            let more = if cut.len() < line.len() { " [...]" } else { "" };
            channel("transcript", &format!("{}{more}", cut.trim_end()));
        }
    }

    /// Types a command in a folder, as root; its end and what it said go to the transcript.
    fn typed(folder: &Path, command: &str) -> String {
        let output = Command::new("/bin/sh")
            .args(["-c", &format!("exec 2>&1; {command}")])
            .current_dir(folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        transcript(&format!("\n# {command}\n{said}"));
        assert!(output.status.success(), "{command}: {output:?}");
        said
    }

    fn property(name: &str) -> String {
        property_of("sensor.service", name)
    }

    fn property_of(unit: &str, name: &str) -> String {
        run(&["systemctl", "show", "--value", "--property", name, unit])
    }

    fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look() {
                return found;
            }
            if Instant::now() > deadline {
                let log = run(&["journalctl", "--no-pager", "--lines=60", "--unit=sensor"]);
                panic!("never: {what}\n{log}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn active() {
        wait("the service is active", || {
            (property("ActiveState") == "active").then_some(())
        });
    }

    /// None of our units: Debian's own may lack what this guest has not.
    fn nothing_failed() {
        let failed = run(&[
            "systemctl",
            "list-units",
            "--failed",
            "--no-legend",
            "--plain",
            "sensor.service",
            "central-node.service",
        ]);
        assert_eq!(failed, "");
    }

    /// As before anything was installed.
    fn clean() {
        attempt(&["systemctl", "stop", "sensor.service"]);
        attempt(&["dpkg", "--purge", "sensor", NODE]);
        for left in [
            "/run/systemd/system/sensor.service.d",
            "/etc/systemd/system/sensor.service",
        ] {
            if Path::new(left).is_dir() {
                fs::remove_dir_all(left).unwrap();
            } else if Path::new(left).exists() {
                fs::remove_file(left).unwrap();
            }
        }
        run(&["systemctl", "daemon-reload"]);
        attempt(&["systemctl", "reset-failed", "sensor.service"]);
    }

    fn events() -> String {
        let bytes = fs::read(EVENTS).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn seen(part: &str) -> bool {
        events().lines().any(|line| line.contains(part))
    }

    /// The same, in the exec of a program: its exit names it, too.
    fn executed(part: &str) -> bool {
        events()
            .lines()
            .any(|line| line.starts_with("{\"type\":\"exec\"") && line.contains(part))
    }

    /// Runs programs until one is reported: those before the sensor was ready are not.
    fn an_exec_is_reported(mark: &str) {
        wait("an exec is reported", || {
            run(&["/bin/echo", mark]);
            seen(mark).then_some(())
        });
    }

    /// Programs that run one after another while something else is done.
    struct Ticks {
        stop: Arc<AtomicBool>,
        thread: JoinHandle<Vec<Instant>>,
    }

    impl Ticks {
        fn start() -> Self {
            let stop = Arc::new(AtomicBool::new(false));
            let thread = std::thread::spawn({
                let stop = Arc::clone(&stop);
                move || {
                    let mut times = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        times.push(Instant::now());
                        run(&["/bin/echo", &format!("tick-{}.", times.len() - 1)]);
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    times
                }
            });
            Self { stop, thread }
        }

        /// Ends them; the longest time between two that were reported, among them the first and the last.
        fn longest_gap(self) -> Duration {
            self.stop.store(true, Ordering::Relaxed);
            let times = self.thread.join().unwrap();
            let last = times.len() - 1;
            wait("the last tick is reported", || {
                executed(&format!("tick-{last}.")).then_some(())
            });
            let text = events();
            let reported: Vec<Instant> = times
                .iter()
                .enumerate()
                .filter(|(number, _)| {
                    let mark = format!("tick-{number}.");
                    text.lines()
                        .any(|line| line.starts_with("{\"type\":\"exec\"") && line.contains(&mark))
                })
                .map(|(_, time)| *time)
                .collect();
            assert_eq!(reported.first(), times.first(), "the first is not reported");
            let gaps = reported.windows(2).map(|pair| pair[1] - pair[0]);
            gaps.max().unwrap()
        }
    }

    fn hex(bytes: &[u8]) -> String {
        Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn hashed(digest: &str) -> bool {
        events()
            .lines()
            .any(|line| line.contains(digest) && line.contains("\"verified\""))
    }

    fn status() -> Value {
        wait("the sensor answers", || {
            let output = attempt(&["sensor", "status", "--json"]);
            serde_json::from_slice(&output.stdout).ok()
        })
    }

    fn installed(name: &str) {
        run(&["dpkg", "--install", &package(name)]);
        active();
    }

    #[test]
    fn a_package_is_installed_upgraded_removed_and_purged() {
        clean();
        let began = Instant::now();
        installed("sensor");
        an_exec_is_reported("first-mark");
        tell(&format!(
            "the first event {} s after `dpkg --install` began",
            began.elapsed().as_secs()
        ));
        assert_eq!(property("UnitFileState"), "enabled");
        assert_eq!(property("Type"), "notify");
        for (path, mode) in [
            (CONFIGURATION, 0o640),
            ("/etc/sensor", 0o750),
            ("/var/lib/sensor", 0o700),
            ("/var/log/sensor", 0o700),
            (EVENTS, 0o600),
            ("/run/sensor", 0o700),
        ] {
            let found = fs::metadata(path).unwrap().permissions().mode() & 0o7777;
            assert_eq!(found, mode, "{path}");
        }

        // A configuration of the administrator's, and a receiver that is never there, so that there is a spool.
        let mine = format!("{}\n# mine\n", fs::read_to_string(CONFIGURATION).unwrap());
        fs::write(CONFIGURATION, &mine).unwrap();
        let sink = format!(
            "[sink.away]\ntype = \"central_node\"\naddress = \"127.0.0.1:9\"\npins = [\"{}\"]\n\
             certificate_file = \"/etc/sensor/tls/agent.pem\"\nkey_file = \"/etc/sensor/tls/agent.key\"\n",
            "0".repeat(64)
        );
        fs::write("/etc/sensor/conf.d/10-sink.toml", &sink).unwrap();
        run(&["sensor", "config", "check"]);
        run(&["systemctl", "restart", "sensor"]);
        an_exec_is_reported("second-mark");
        let waiting = |status: &Value| {
            status["sinks"][0]["account"]["waiting_packets"]
                .as_u64()
                .unwrap_or_default()
        };
        let before = wait("packets wait in the spool", || {
            let status = status();
            (waiting(&status) > 0).then_some(status)
        });
        let pid = property("MainPID");

        let ticks = Ticks::start();
        installed("sensor-newer");
        an_exec_is_reported("upgraded-mark");
        let gap = ticks.longest_gap();
        tell(&format!(
            "unwatched during the upgrade: {:.1} s, between two programs that were reported",
            gap.as_secs_f32()
        ));
        assert!(gap <= STATED_GAP, "{gap:?}");
        let version = run(&["dpkg-query", "--show", "--showformat=${Version}", "sensor"]);
        assert!(version.contains("upgrade"), "{version}");
        assert_ne!(property("MainPID"), pid, "not restarted");
        assert_eq!(fs::read_to_string(CONFIGURATION).unwrap(), mine);
        assert_eq!(
            fs::read_to_string("/etc/sensor/conf.d/10-sink.toml").unwrap(),
            sink
        );
        an_exec_is_reported("third-mark");
        let after = status();
        for field in ["agent_id", "epoch"] {
            assert_eq!(before["spool"][field], after["spool"][field], "{field}");
        }
        assert!(waiting(&after) >= waiting(&before), "{before:#} {after:#}");

        run(&["dpkg", "--remove", "sensor"]);
        assert_ne!(property("ActiveState"), "active");
        for gone in ["/usr/sbin/sensor", UNIT] {
            assert!(!Path::new(gone).exists(), "{gone}");
        }
        assert_eq!(fs::read_to_string(CONFIGURATION).unwrap(), mine);
        assert!(seen("third-mark"));
        assert!(fs::read_dir("/var/lib/sensor").unwrap().count() > 0);

        run(&["dpkg", "--purge", "sensor"]);
        for gone in ["/etc/sensor", "/var/lib/sensor", "/var/log/sensor"] {
            assert!(!Path::new(gone).exists(), "{gone}");
        }
        nothing_failed();
        let links = Path::new("/etc/systemd/system/multi-user.target.wants/sensor.service");
        assert!(
            links.symlink_metadata().is_err(),
            "a link to the unit is left"
        );
    }

    #[test]
    fn the_service_sees_everything_with_five_capabilities() {
        clean();
        installed("sensor");
        an_exec_is_reported("mark");
        let pid = property("MainPID");
        let process = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = process.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name}"))
                .trim()
                .to_owned()
        };
        for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
            let found = u64::from_str_radix(&field(set), 16).unwrap();
            assert_eq!(found & !CAPABILITIES, 0, "{set} {found:x}");
        }
        assert_eq!(field("NoNewPrivs:"), "1");
        assert_eq!(field("Seccomp:"), "2");
        let said = property("StatusText");
        assert!(said.starts_with("watching 5 event types by "), "{said}");
        assert!(!said.contains("missing"), "{said}");
        tell(&format!("status text: {said}"));

        // A program that only its owner may read.
        let folder = Path::new("/home/tester/private");
        fs::create_dir_all(folder).unwrap();
        let mut program = fs::read("/bin/true").unwrap();
        program.extend(b"of the tester");
        let tool = folder.join("tool");
        fs::write(&tool, &program).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        for path in [Path::new("/home/tester"), folder, &tool] {
            chown(path, Some(TESTER), Some(TESTER)).unwrap();
        }
        let digest = hex(&program);
        wait("the program of another is hashed", || {
            let ran = Command::new(&tool)
                .uid(TESTER)
                .gid(TESTER)
                .status()
                .unwrap();
            assert!(ran.success());
            hashed(&digest).then_some(())
        });
        // Files, wherever they are made.
        for place in ["/tmp", "/home/tester", "/dev/shm", "/var/tmp", "/root"] {
            let mut turn = 0;
            wait(&format!("a file in {place} is hashed"), || {
                turn += 1;
                let path = PathBuf::from(place).join(format!("made-{turn}"));
                let content = format!("{} {turn}", path.display());
                // With its mode from the start: a later change of it would be a file that has drifted.
                let file = fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path);
                file.unwrap().write_all(content.as_bytes()).unwrap();
                let until = Instant::now() + Duration::from_secs(20);
                while Instant::now() < until {
                    if hashed(&hex(content.as_bytes())) {
                        return Some(());
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                let name = path.display().to_string();
                for line in events().lines().filter(|line| line.contains(&name)) {
                    println!("{line}");
                }
                None
            });
        }
        clean();
    }

    #[test]
    fn rules_are_reloaded_or_refused_as_a_whole() {
        clean();
        installed("sensor");
        let pid = property("MainPID");
        let rules = "/etc/sensor/conf.d/20-rules.toml";
        let rule = |action: &str| {
            format!(
                "[[filter.rule]]\nid = \"quiet\"\naction = \"{action}\"\nevent = [\"exec\"]\ncommand_line = [\"quiet-mark\"]\n"
            )
        };
        fs::write(rules, rule("exclude")).unwrap();
        run(&["systemctl", "reload", "sensor"]);
        run(&["/bin/echo", "quiet-mark"]);
        an_exec_is_reported("loud-mark");
        assert!(!executed("quiet-mark"), "the rule is not in force");
        fs::write(rules, rule("nonsense")).unwrap();
        let output = attempt(&["systemctl", "reload", "sensor"]);
        assert!(!output.status.success(), "{output:?}");
        active();
        assert_eq!(property("MainPID"), pid);
        run(&["/bin/echo", "quiet-mark"]);
        an_exec_is_reported("louder-mark");
        assert!(!executed("quiet-mark"), "the old rule is not in force");
        clean();
    }

    #[test]
    fn a_sensor_that_hangs_is_started_again() {
        clean();
        let folder = Path::new("/run/systemd/system/sensor.service.d");
        fs::create_dir_all(folder).unwrap();
        fs::write(
            folder.join("watchdog.conf"),
            "[Service]\nWatchdogSec=20\nTimeoutAbortSec=1\n",
        )
        .unwrap();
        installed("sensor");
        let pid = property("MainPID");
        // Signs of life come, longer than the watchdog waits: one every quarter of that.
        for _ in 0..5 {
            let last = property("WatchdogTimestampMonotonic");
            wait("a sign of life", || {
                (property("WatchdogTimestampMonotonic") != last).then_some(())
            });
        }
        assert_eq!(
            (property("NRestarts"), property("MainPID")),
            ("0".to_owned(), pid.clone())
        );
        let process = Pid::from_raw(pid.parse().unwrap());
        nix::sys::signal::kill(process, Signal::SIGSTOP).unwrap();
        wait("it is started again", || {
            (property("NRestarts") == "1").then_some(())
        });
        active();
        assert_ne!(property("MainPID"), pid);
        an_exec_is_reported("after-the-hang");
        let log = run(&["journalctl", "--no-pager", "--unit=sensor"]);
        assert!(log.contains("Watchdog timeout"), "{log}");
        clean();
    }

    /// The unit is right, and how exposed the service is; 10 is the worst.
    fn sound(unit: &str, most_exposed: f32) {
        let verdict = attempt(&["systemd-analyze", "verify", "--man=no", unit]);
        let said = [verdict.stdout, verdict.stderr].concat();
        assert!(
            verdict.status.success() && said.is_empty(),
            "{}",
            String::from_utf8_lossy(&said)
        );
        let table = run(&[
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            unit,
        ]);
        let last = table.lines().last().unwrap();
        for line in table
            .lines()
            .filter(|line| line.starts_with('✗') || *line == last)
        {
            tell(line);
        }
        // "→ Overall exposure level for sensor.service: 3.0 OK :-)"
        let level = last
            .split_whitespace()
            .find_map(|word| word.parse::<f32>().ok());
        assert!(level.unwrap() < most_exposed, "{last}");
    }

    #[test]
    fn the_unit_is_sound_and_little_exposed() {
        clean();
        installed("sensor");
        sound(UNIT, MOST_EXPOSED);
        clean();
    }

    /// The commands of the README's part about the package.
    fn readme() -> Vec<&'static str> {
        let (_, part) = README.split_once("As a service, from the package").unwrap();
        let block = part.lines().skip_while(|line| !line.starts_with("    "));
        let commands: Vec<&str> = block
            .take_while(|line| line.starts_with("    "))
            .filter_map(|line| line.trim().split("  ").next())
            .collect();
        assert!(commands.len() >= 3, "{commands:?}");
        commands
    }

    /// Follows the README, and docs/packages.md where the README ends. What is typed and answered becomes the transcript.
    #[test]
    fn a_new_user_follows_the_readme() {
        clean();
        // As after `cargo xtask dist` in a clone.
        let clone = Path::new("/root/sensor");
        let dist = clone.join("target/dist");
        fs::create_dir_all(&dist).unwrap();
        let made = |name: &str| {
            let file = package(name);
            let version = run(&["dpkg-deb", "--field", &file, "Version"]);
            let path = dist.join(format!("sensor_{version}_amd64.deb"));
            fs::copy(file, &path).unwrap();
            path
        };
        let first = made("sensor");
        let began = Instant::now();
        for command in readme() {
            if command.starts_with("tail -f ") {
                let line = followed(command);
                transcript(&format!("\n# {command}\n{line}\n^C"));
                transcript(&format!(
                    "\n  (there {} s after `dpkg --install` began, on emulated processors)",
                    began.elapsed().as_secs()
                ));
            } else {
                typed(clone, command);
            }
        }
        assert_eq!(property("ActiveState"), "active");
        let said = typed(clone, "sensor status");
        assert!(said.contains("exec"), "{said}");
        typed(clone, "sensor doctor");

        fs::remove_file(first).unwrap();
        made("sensor-newer");
        transcript("\n  (`cargo xtask dist` of a newer version)");
        typed(clone, "dpkg --install target/dist/sensor_*.deb");
        active();
        typed(clone, "systemctl is-active sensor");
        typed(clone, "dpkg --remove sensor");
        typed(clone, "ls /etc/sensor /var/log/sensor");
        typed(clone, "dpkg --purge sensor");
        typed(
            clone,
            "ls -d /etc/sensor /var/lib/sensor /var/log/sensor || true",
        );
        assert!(!Path::new("/etc/sensor").exists());
        nothing_failed();
    }

    /// Types `tail -f`, runs programs until the exec of one is shown, and gives that line.
    fn followed(command: &str) -> String {
        let mut tail = Command::new("/bin/sh")
            .args(["-c", &format!("exec {command}")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(tail.stdout.take().unwrap());
        let (sender, shown) = sync_channel(1);
        let reader = std::thread::spawn(move || {
            let found = lines
                .lines()
                .map_while(Result::ok)
                .find(|line| line.starts_with("{\"type\":\"exec\"") && line.contains("a-new-user"));
            // Nobody waits any more where the test has failed.
            drop(sender.send(found));
        });
        let line = wait("an exec is shown", || {
            run(&["/bin/echo", "a-new-user"]);
            shown.recv_timeout(Duration::from_secs(1)).ok()
        });
        tail.kill().unwrap();
        tail.wait().unwrap();
        reader.join().unwrap();
        line.expect("tail ended before an exec was shown")
    }

    #[test]
    fn the_central_node_is_a_service_that_sensors_deliver_to() {
        clean();
        let of = |name: &str| property_of("central-node.service", name);
        let install = |name: &str| run(&["dpkg", "--install", &package(name)]);
        // Without a certificate it waits, and nothing has failed.
        install(NODE);
        assert_eq!(of("UnitFileState"), "enabled");
        assert_eq!(of("ActiveState"), "inactive");
        nothing_failed();
        let folder = "/etc/central-node/tls";
        let made = run(&[
            "central-node",
            "certificates",
            "--folder",
            folder,
            "--agent",
            "new",
        ]);
        let agent: Vec<&str> = made
            .lines()
            .find_map(|line| line.strip_prefix("agent"))
            .unwrap()
            .split_whitespace()
            .collect();
        let mode = fs::metadata(NODE_KEY).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        run(&["systemctl", "start", "central-node"]);
        assert_eq!(of("ActiveState"), "active");
        assert_eq!(of("StatusText"), "listening on 127.0.0.1:7443");
        let process = fs::read_to_string(format!("/proc/{}/status", of("MainPID"))).unwrap();
        for line in [
            "CapPrm:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(process.contains(line), "{line} in {process}");
        }
        assert!(!process.contains("\nUid:\t0"), "{process}");
        sound(NODE_UNIT, MOST_EXPOSED_NODE);

        // The sensor's side, as docs/quick-start.md has it.
        installed("sensor");
        for (from, to) in [
            ("/etc/central-node/tls/ca.pem", "ca.pem"),
            (agent[0], "agent.pem"),
            (agent[1], "agent.key"),
        ] {
            run(&[
                "install",
                "-m",
                "600",
                from,
                &format!("/etc/sensor/tls/{to}"),
            ]);
        }
        fs::write(
            "/etc/sensor/conf.d/20-node.toml",
            "[sink.node]\ntype = \"central_node\"\naddress = \"127.0.0.1:7443\"\n\
             ca_file = \"/etc/sensor/tls/ca.pem\"\ncertificate_file = \"/etc/sensor/tls/agent.pem\"\n\
             key_file = \"/etc/sensor/tls/agent.key\"\n",
        )
        .unwrap();
        run(&["sensor", "config", "check"]);
        run(&["systemctl", "restart", "sensor"]);
        let stored = |mark: &str| {
            wait("an exec is in the store", || {
                run(&["/bin/echo", mark]);
                let found = run(&["central-node", "query", "--type", "exec", "--limit", "0"]);
                found.contains(mark).then_some(())
            });
        };
        stored("before-the-upgrade");

        let configuration = "/etc/central-node/central-node.toml";
        let mine = format!("{}\n# mine\n", fs::read_to_string(configuration).unwrap());
        fs::write(configuration, &mine).unwrap();
        let pid = of("MainPID");
        install(&format!("{NODE}-newer"));
        assert_eq!(of("ActiveState"), "active");
        assert_ne!(of("MainPID"), pid, "not restarted");
        assert_eq!(fs::read_to_string(configuration).unwrap(), mine);
        stored("after-the-upgrade");
        let found = run(&["central-node", "query", "--type", "exec", "--limit", "0"]);
        assert!(found.contains("before-the-upgrade"), "the store was lost");

        run(&["dpkg", "--remove", NODE]);
        assert_ne!(of("ActiveState"), "active");
        assert!(!Path::new("/usr/bin/central-node").exists());
        for kept in [configuration, NODE_KEY, NODE_STORE] {
            assert!(Path::new(kept).exists(), "{kept}");
        }
        run(&["dpkg", "--purge", NODE]);
        for gone in [
            "/etc/central-node",
            "/var/lib/central-node",
            "/var/lib/private/central-node",
        ] {
            assert!(Path::new(gone).symlink_metadata().is_err(), "{gone}");
        }
        clean();
        nothing_failed();
    }

    #[test]
    fn the_program_installs_itself_where_there_is_no_package() {
        clean();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        run(&["dpkg-deb", "--extract", &package("sensor"), &path]);
        let program = format!("{path}/usr/sbin/sensor");
        for _ in 0..2 {
            run(&[&program, "install"]);
        }
        run(&["systemctl", "enable", "--now", "sensor"]);
        active();
        an_exec_is_reported("installed-by-itself");
        let verdict = attempt(&[
            "systemd-analyze",
            "verify",
            "--man=no",
            "/etc/systemd/system/sensor.service",
        ]);
        assert!(
            verdict.status.success() && verdict.stderr.is_empty(),
            "{verdict:?}"
        );
        run(&["/usr/local/sbin/sensor", "uninstall"]);
        assert_ne!(property("ActiveState"), "active");
        assert!(Path::new(CONFIGURATION).exists() && seen("installed-by-itself"));
        run(&[&program, "uninstall", "--purge"]);
        for gone in [
            "/etc/sensor",
            "/var/lib/sensor",
            "/var/log/sensor",
            "/usr/local/sbin/sensor",
        ] {
            assert!(!Path::new(gone).exists(), "{gone}");
        }
        // A package forbids it.
        installed("sensor");
        let output = attempt(&[&program, "install"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        clean();
    }
}
