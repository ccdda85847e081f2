//! `cargo xtask vm`: boots the kernels of tests/vm/kernels.toml in QEMU and runs suites of crate sensor-tests there.

mod guest;
mod image;
mod matrix;
mod packages;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::command::{quiet, tail};
use crate::place::{Place, Toolchain};
use crate::vm::guest::{Boot, Outcome};
use crate::vm::image::Image;
pub(crate) use crate::vm::matrix::Backend;
use crate::vm::matrix::{Cell, Matrix, Selection};
use crate::vm::packages::{KernelFiles, Programs};

/// Loaded before a suite starts: what the suites need beyond the kernel image.
const MODULES_LOADED: [&str; 1] = ["overlay"];
/// Left for tests to load, in /lib/test-modules; none of them is loaded by the guest itself.
const MODULES_KEPT: [&str; 2] = ["dummy", "loop"];
/// Commands of busybox in the guest's PATH.
const APPLETS: [&str; 32] = [
    "cat", "chmod", "chown", "cp", "cut", "date", "dd", "echo", "env", "false", "head", "id",
    "kill", "ln", "ls", "mkdir", "mkfifo", "mknod", "mount", "mv", "nc", "nice", "rm", "sed",
    "setsid", "sh", "sleep", "stat", "su", "touch", "true", "umount",
];
/// Tests that take longer are named, since the whole has a limit.
const SLOW_MILLISECONDS: u64 = 20_000;
/// How much of the logs of a failed guest is shown.
const SHOWN_LINES: usize = 60;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernels by version, as in tests/vm/kernels.toml: `5.10,7.x`; `all` for all.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    kernels: Vec<String>,
    /// Suites by name; without it those of each kernel's role.
    #[arg(long, value_delimiter = ',')]
    suite: Vec<String>,
    /// Only these backends of the suites that have backends.
    #[arg(long, value_enum, value_delimiter = ',')]
    backend: Vec<Backend>,
    /// Every suite on every kernel, whatever its role.
    #[arg(long)]
    full: bool,
    /// Guests at a time.
    #[arg(long)]
    jobs: Option<usize>,
    /// Arguments for the test harness, such as the name of a test.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// What to run, from the command line or from `cargo xtask test`.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    selection: Selection,
    jobs: Option<usize>,
    arguments: Vec<String>,
}

impl Plan {
    /// What the roles of tests/vm/kernels.toml say, or everything.
    pub(crate) fn by_role(full: bool) -> Self {
        Self {
            selection: Selection {
                full,
                ..Selection::default()
            },
            ..Self::default()
        }
    }
}

/// A row of the summary.
#[derive(Debug)]
pub(crate) struct Row {
    /// Version in the matrix, and the release that booted.
    pub(crate) kernel: String,
    pub(crate) suite: String,
    /// `-` for suites without.
    pub(crate) backend: &'static str,
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) ignored: usize,
    pub(crate) seconds: u64,
}

/// The task: prints rows, fails if any test failed.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<()> {
    let plan = Plan {
        selection: Selection {
            kernels: args.kernels.clone(),
            suites: args.suite.clone(),
            backends: args.backend.clone(),
            full: args.full,
        },
        jobs: args.jobs,
        arguments: args.arguments.clone(),
    };
    let rows = guests(place, &plan)?;
    let passed: usize = rows.iter().map(|row| row.passed).sum();
    let failed: usize = rows.iter().map(|row| row.failed).sum();
    println!("{passed} passed, {failed} failed");
    ensure!(
        failed == 0,
        "{failed} failed; logs are in {}",
        logs(place).display()
    );
    Ok(())
}

/// Runs the cells of a plan and prints a line for each as it ends.
pub(crate) fn guests(place: &Place, plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let cells = Matrix::read(place)?.cells(&plan.selection)?;
    fs::create_dir_all(logs(place))?;
    fs::create_dir_all(place.target.join("vm/run"))?;
    let binaries = Binaries::build(
        place,
        cells.iter().map(|cell| cell.suite.test.as_str()).collect(),
    )?;
    let programs = Programs::find(place)?;
    let mut kernels = BTreeMap::new();
    for cell in &cells {
        if !kernels.contains_key(&cell.kernel.version) {
            let files = KernelFiles::find(place, &cell.kernel)?;
            let folder = place.target.join("vm/modules").join(&files.release);
            let loaded = files.modules(&programs, &MODULES_LOADED, &folder.join("loaded"))?;
            let kept = files.modules(&programs, &MODULES_KEPT, &folder.join("kept"))?;
            kernels.insert(
                cell.kernel.version.clone(),
                Prepared {
                    files,
                    loaded,
                    kept,
                },
            );
        }
    }
    let jobs = plan.jobs.unwrap_or_else(default_jobs).max(1);
    let queue = Mutex::new(cells.iter());
    let rows = Mutex::new(Vec::new());
    let work = || -> anyhow::Result<()> {
        loop {
            let next = queue.lock().map_err(poisoned)?.next();
            let Some(cell) = next else { return Ok(()) };
            let kernel = kernels
                .get(&cell.kernel.version)
                .context("a prepared kernel")?;
            let log = logs(place).join(log_name(cell));
            let initrd = place
                .target
                .join("vm/run")
                .join(log_name(cell))
                .with_extension("cpio");
            fs::write(
                &initrd,
                binaries.image(&programs, kernel, cell, &plan.arguments)?,
            )?;
            let outcome = guest::boot(&Boot {
                programs: &programs,
                kernel: &kernel.files,
                command_line: &cell.kernel.command_line,
                initrd: &initrd,
                timeout: Duration::from_secs(cell.suite.timeout_seconds),
                log: log.clone(),
            })?;
            fs::remove_file(&initrd)?;
            show(cell, &outcome, &log);
            rows.lock().map_err(poisoned)?.push(row(cell, &outcome));
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_panic| Err(anyhow::anyhow!("a guest's thread panicked")))
        })
    })?;
    rows.into_inner().map_err(poisoned)
}

fn poisoned<T>(_: std::sync::PoisonError<T>) -> anyhow::Error {
    anyhow::anyhow!("another guest's thread panicked")
}

/// TCG translates in one thread for long stretches, so that a second guest finds time on two cores.
fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(8))
}

fn logs(place: &Place) -> PathBuf {
    place.target.join("vm/logs")
}

/// Dots would be taken for an extension.
fn log_name(cell: &Cell) -> String {
    let backend = cell.backend.map_or("none", Backend::name);
    format!(
        "{}-{}-{backend}",
        cell.kernel.version.replace('.', "_"),
        cell.suite.name
    )
}

fn row(cell: &Cell, outcome: &Outcome) -> Row {
    Row {
        kernel: outcome
            .release
            .clone()
            .unwrap_or_else(|| format!("{} (did not boot)", cell.kernel.version)),
        suite: cell.suite.name.clone(),
        backend: cell.backend.map_or("-", Backend::name),
        passed: outcome.passed,
        failed: outcome.failed,
        ignored: outcome.ignored,
        seconds: outcome.seconds,
    }
}

fn show(cell: &Cell, outcome: &Outcome, log: &Path) {
    let row = row(cell, outcome);
    println!(
        "linux {:<28} {:<12} {:<13} {:>3} passed {:>3} failed {:>3} ignored {:>5} s",
        row.kernel, row.suite, row.backend, row.passed, row.failed, row.ignored, row.seconds
    );
    for (test, milliseconds) in &outcome.tests {
        if *milliseconds >= SLOW_MILLISECONDS {
            println!("  {test} took {} s", milliseconds / 1000);
        }
    }
    if outcome.failed > 0 {
        for problem in &outcome.problems {
            println!("  {problem}");
        }
        for extension in ["results.log", "console.log"] {
            let path = log.with_extension(extension);
            let text = fs::read(&path).unwrap_or_default();
            println!("--- the end of {}", path.display());
            print!("{}", tail(&String::from_utf8_lossy(&text), SHOWN_LINES));
        }
    }
}

struct Prepared {
    files: KernelFiles,
    loaded: Vec<PathBuf>,
    kept: Vec<PathBuf>,
}

/// Statically linked programs for the guest, without debug information.
struct Binaries {
    init: PathBuf,
    sensor: PathBuf,
    tests: BTreeMap<String, PathBuf>,
}

/// One line of cargo's `--message-format=json`, as far as it matters.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<MessageTarget>,
}

#[derive(Deserialize)]
struct MessageTarget {
    name: String,
}

impl Binaries {
    fn build(place: &Place, tests: BTreeSet<&str>) -> anyhow::Result<Self> {
        let toolchain = Toolchain::find(place)?;
        let programs = static_build(
            place,
            &toolchain,
            &[
                "build",
                "--package",
                "sensor",
                "--package",
                "sensor-vm-init",
                "--bins",
            ],
        )?;
        let mut arguments = vec!["test", "--no-run", "--package", "sensor-tests"];
        for test in &tests {
            arguments.extend(["--test", test]);
        }
        let built = static_build(place, &toolchain, &arguments)?;
        let one = |of: &BTreeMap<String, PathBuf>, name: &str| {
            of.get(name)
                .cloned()
                .with_context(|| format!("cargo built no program {name}"))
        };
        Ok(Self {
            init: one(&programs, "sensor-vm-init")?,
            sensor: one(&programs, "sensor")?,
            tests: tests
                .iter()
                .map(|name| Ok(((*name).to_owned(), one(&built, name)?)))
                .collect::<anyhow::Result<_>>()?,
        })
    }

    /// The file system for one cell.
    fn image(
        &self,
        programs: &Programs,
        kernel: &Prepared,
        cell: &Cell,
        arguments: &[String],
    ) -> anyhow::Result<Vec<u8>> {
        let mut image = Image::default();
        // Programs that give up root must still be able to walk from here.
        image.folder("/", 0o755)?;
        for folder in [
            "/proc",
            "/sys",
            "/dev",
            "/run",
            "/mnt",
            "/lib/test-modules",
            "/var/lib",
            "/var/cache",
        ] {
            image.folder(folder, 0o755)?;
        }
        image.folder("/tmp", 0o1777)?;
        image.folder("/root", 0o700)?;
        image.device("/dev/console", 0o600, (5, 1))?;
        image.copy("/init", 0o755, &self.init)?;
        image.copy("/usr/bin/sensor", 0o755, &self.sensor)?;
        let test = format!("/usr/lib/sensor-tests/{}", cell.suite.test);
        image.copy(
            &test,
            0o755,
            self.tests.get(&cell.suite.test).context("a built test")?,
        )?;
        image.copy("/bin/busybox", 0o755, &programs.busybox())?;
        for applet in APPLETS {
            image.link(&format!("/bin/{applet}"), "busybox")?;
        }
        image.text(
            "/etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n\
             tester:x:1000:1000:tester:/tmp:/bin/sh\n",
        )?;
        image.text(
            "/etc/group",
            0o644,
            "root:x:0:\nnogroup:x:65534:\ntester:x:1000:\nstaff:x:50:tester\n",
        )?;
        image.text("/etc/hostname", 0o644, "guest\n")?;
        image.text(
            "/etc/hosts",
            0o644,
            "127.0.0.1 localhost guest\n::1 localhost\n",
        )?;
        image.text(
            "/etc/machine-id",
            0o444,
            "5e4502a1f0c64b7d9b3f6d2c8a917e40\n",
        )?;
        image.text(
            "/etc/os-release",
            0o644,
            "NAME=\"sensor test guest\"\nID=guest\n",
        )?;

        let mut job = format!("timeout={}\n", cell.suite.timeout_seconds);
        for (files, folder) in [
            (&kernel.loaded, "/lib/modules-loaded"),
            (&kernel.kept, "/lib/test-modules"),
        ] {
            for file in files {
                let name = file
                    .file_name()
                    .context("a module's name")?
                    .to_string_lossy();
                image.copy(&format!("{folder}/{name}"), 0o644, file)?;
                if folder == "/lib/modules-loaded" {
                    job.push_str(&format!("module={folder}/{name}\n"));
                }
            }
        }
        let expected = cell
            .backend
            .and_then(|backend| cell.kernel.hooks.get(&backend));
        if let Some(expected) = expected {
            image.text(
                "/etc/sensor-vm/expected-hooks.toml",
                0o644,
                &toml::to_string(expected)?,
            )?;
            job.push_str("env=SENSOR_EXPECTED_HOOKS=/etc/sensor-vm/expected-hooks.toml\n");
        }
        if let Some(backend) = cell.backend {
            job.push_str(&format!("env=SENSOR_BACKEND={}\n", backend.name()));
        }
        job.push_str("env=SENSOR_GUEST=1\nenv=SENSOR_BIN=/usr/bin/sensor\n");
        job.push_str(&format!("argument={test}\nargument=--test-threads=1\n"));
        for argument in cell.suite.arguments.iter().chain(arguments) {
            job.push_str(&format!("argument={argument}\n"));
        }
        image.text("/etc/sensor-vm/job", 0o644, &job)?;
        image.finish()
    }
}

/// Runs cargo for static programs; gives their stripped copies by target name.
fn static_build(
    place: &Place,
    toolchain: &Toolchain,
    arguments: &[&str],
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let (task, rest) = arguments.split_first().context("a cargo command")?;
    let output = Command::new("cargo")
        .arg(task)
        .args([
            "--quiet",
            "--locked",
            "--release",
            "--message-format=json-render-diagnostics",
            "--target",
        ])
        .arg(&toolchain.host)
        .args(rest)
        .current_dir(&place.root)
        // No musl here: glibc links statically too. With --target, build scripts and macros stay dynamic.
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            OsString::from("-Ctarget-feature=+crt-static"),
        )
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "the guest's programs do not build ({})",
        output.status
    );
    let folder = place.target.join("vm/programs");
    fs::create_dir_all(&folder)?;
    let mut programs = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Message = serde_json::from_str(line).context("cargo's messages")?;
        if let (Some(executable), Some(target)) = (message.executable, message.target) {
            let stripped = folder.join(&target.name);
            quiet(
                Command::new("strip")
                    .arg("--strip-debug")
                    .arg("-o")
                    .arg(&stripped)
                    .arg(&executable),
            )?;
            programs.insert(target.name, stripped);
        }
    }
    Ok(programs)
}
