//! `cargo xtask vm`: boots the kernels of tests/vm/kernels.toml in QEMU and runs suites of crate sensor-tests there.

mod debian;
mod disk;
mod guest;
mod image;
pub(crate) mod packages;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::command::tail;
use crate::containers::Container;
use crate::harness::{Tally, print_failures};
use crate::matrix::{Backend, Cell, Matrix, Selection, System};
use crate::place::Place;
use crate::static_programs::StaticPrograms;
use crate::test::{Row, summary};
use crate::vm::guest::{Boot, Outcome};
use crate::vm::image::Image;
use crate::vm::packages::{KernelFiles, Programs};

/// Loaded before a suite starts: what the suites need beyond the kernel image.
const MODULES_LOADED: [&str; 1] = ["overlay"];
/// Left for tests to load, in /lib/test-modules; none of them is loaded by the guest itself.
const MODULES_KEPT: [&str; 2] = ["dummy", "loop"];
/// Loaded beside them in guests with a disk.
const MODULES_OF_DISKS: [&str; 2] = ["virtio_pci", "virtio_blk"];
/// Commands of busybox in the guest's PATH.
const APPLETS: [&str; 32] = [
    "cat", "chmod", "chown", "cp", "cut", "date", "dd", "echo", "env", "false", "head", "id",
    "kill", "ln", "ls", "mkdir", "mkfifo", "mknod", "mount", "mv", "nc", "nice", "rm", "sed",
    "setsid", "sh", "sleep", "stat", "su", "touch", "true", "umount",
];
/// Tests that take longer are named, since the whole has a limit.
const SLOW_MILLISECONDS: u64 = 20_000;
/// How much of the end of the logs of a failed guest is shown, beside what the failed tests said.
const SHOWN_LINES: usize = 30;

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
    /// Variables for the suites, `NAME=VALUE`.
    variables: Vec<String>,
    /// Beyond each suite's own time.
    more_seconds: u64,
}

impl Plan {
    /// What a selection says.
    pub(crate) fn of(selection: Selection) -> Self {
        Self {
            selection,
            ..Self::default()
        }
    }

    /// A long run: what a variable tells the suites to do takes more time than theirs.
    pub(crate) fn long(selection: Selection, variable: String, more_seconds: u64) -> Self {
        Self {
            selection,
            variables: vec![variable],
            more_seconds,
            ..Self::default()
        }
    }

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

/// The task: prints rows, fails if any test failed.
pub(crate) fn run(place: &Place, args: &Args) -> anyhow::Result<bool> {
    let started = Instant::now();
    let plan = Plan {
        selection: Selection {
            kernels: args.kernels.clone(),
            suites: args.suite.clone(),
            backends: args.backend.clone(),
            full: args.full,
        },
        jobs: args.jobs,
        arguments: args.arguments.clone(),
        ..Plan::default()
    };
    Ok(summary(&guests(place, &plan)?, started) == 0)
}

/// Runs the cells of a plan and prints a line for each as it ends.
pub(crate) fn guests(place: &Place, plan: &Plan) -> anyhow::Result<Vec<Row>> {
    let mut cells = Matrix::read(place)?.cells(&plan.selection)?;
    for cell in &mut cells {
        cell.suite.timeout_seconds += plan.more_seconds;
        cell.suite.variables.clone_from(&plan.variables);
    }
    fs::create_dir_all(logs(place))?;
    fs::create_dir_all(place.target.join("vm/run"))?;
    let built = StaticPrograms::build(
        place,
        &cells.iter().map(|cell| cell.suite.test.as_str()).collect(),
    )?;
    let programs = Programs::find(place)?;
    let mut kernels = BTreeMap::new();
    for cell in &cells {
        if !kernels.contains_key(&cell.kernel.version) {
            let files = KernelFiles::find(place, &cell.kernel)?;
            let folder = place.target.join("vm/modules").join(&files.release);
            let loaded = files.modules(&programs, &MODULES_LOADED, &folder.join("loaded"))?;
            let kept = files.modules(&programs, &MODULES_KEPT, &folder.join("kept"))?;
            let resets =
                |other: &Cell| other.suite.reset && other.kernel.version == cell.kernel.version;
            let disk = if cells.iter().any(resets) {
                files.modules(&programs, &MODULES_OF_DISKS, &folder.join("disk"))?
            } else {
                Vec::new()
            };
            kernels.insert(
                cell.kernel.version.clone(),
                Prepared {
                    files,
                    loaded,
                    kept,
                    disk,
                },
            );
        }
    }
    let container = cells
        .iter()
        .any(|cell| cell.suite.image)
        .then(|| Container::prepare(place, &built))
        .transpose()?;
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
            let (system, init) = match cell.suite.system {
                System::Small => (
                    file_system(
                        &built,
                        &programs,
                        kernel,
                        cell,
                        container.as_ref().filter(|_| cell.suite.image),
                        &plan.arguments,
                    )?,
                    "/init",
                ),
                System::Debian => (
                    debian::file_system(place, &built, cell, &plan.arguments)?,
                    debian::INIT,
                ),
            };
            fs::write(&initrd, system)?;
            let boot = Boot {
                programs: &programs,
                kernel: &kernel.files,
                command_line: &format!("{} {}", cell.kernel.command_line, cell.suite.command_line),
                memory_mib: cell.suite.memory_mib,
                initrd: &initrd,
                init,
                timeout: Duration::from_secs(cell.suite.timeout_seconds),
                log: log.clone(),
                disk: None,
            };
            let outcome = if cell.suite.reset {
                let disk = initrd.with_extension("disk");
                disk::make(place, &disk)?;
                let outcome = guest::boot_twice(&Boot {
                    disk: Some(&disk),
                    ..boot
                });
                fs::remove_file(&disk)?;
                outcome?
            } else {
                guest::boot(&boot)?
            };
            fs::remove_file(&initrd)?;
            let row = row(cell, &outcome);
            show(&row, &outcome.tally, &log);
            rows.lock().map_err(poisoned)?.push(row);
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

/// What a cell's test program said, when it ran last.
pub(crate) fn results_log(place: &Place, cell: &Cell) -> PathBuf {
    logs(place)
        .join(log_name(cell))
        .with_extension("results.log")
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
    let unbooted = format!("{} (did not boot)", cell.kernel.version);
    Row::new(
        outcome.release.as_ref().unwrap_or(&unbooted),
        &cell.suite.name,
        cell.backend.map_or("-", Backend::name),
        &outcome.tally,
        outcome.seconds,
    )
}

fn show(row: &Row, tally: &Tally, log: &Path) {
    row.print();
    for (test, milliseconds) in &tally.tests {
        if *milliseconds >= SLOW_MILLISECONDS {
            println!("  {test} took {} s", milliseconds / 1000);
        }
    }
    let results = fs::read(log.with_extension("results.log")).unwrap_or_default();
    for told in String::from_utf8_lossy(&results)
        .lines()
        .filter_map(|line| line.strip_prefix("told "))
    {
        println!("  {told}");
    }
    let transcript: String = String::from_utf8_lossy(&results)
        .lines()
        .filter_map(|line| line.trim_end_matches('\r').strip_prefix("transcript"))
        .map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line)))
        .collect();
    if !transcript.is_empty() {
        let path = log.with_extension("transcript.txt");
        match fs::write(&path, transcript) {
            Ok(()) => println!("  transcript: {}", path.display()),
            Err(error) => println!("  {}: {error}", path.display()),
        }
    }
    if tally.failed > 0 {
        for problem in &tally.problems {
            println!("  {problem}");
        }
        let text = |extension: &str| {
            let path = log.with_extension(extension);
            let text = fs::read(&path).unwrap_or_default();
            (path, String::from_utf8_lossy(&text).into_owned())
        };
        let (results, said) = text("results.log");
        print_failures(&said.lines().filter_map(guest::said).collect::<Vec<_>>());
        let (console, kernel) = text("console.log");
        for (path, text) in [(results, said), (console, kernel)] {
            println!("--- the end of {}", path.display());
            print!("{}", tail(&text, SHOWN_LINES));
        }
    }
}

struct Prepared {
    files: KernelFiles,
    loaded: Vec<PathBuf>,
    kept: Vec<PathBuf>,
    disk: Vec<PathBuf>,
}

/// The file system for one cell.
fn file_system(
    built: &StaticPrograms,
    programs: &Programs,
    kernel: &Prepared,
    cell: &Cell,
    container: Option<&Container>,
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
    image.copy("/init", 0o755, &built.init)?;
    image.copy("/usr/bin/sensor", 0o755, &built.sensor)?;
    if cell.suite.central_node {
        image.copy("/usr/bin/central-node", 0o755, &built.node)?;
    }
    let test = format!("/usr/lib/sensor-tests/{}", cell.suite.test);
    image.copy(&test, 0o755, built.test(&cell.suite.test)?)?;
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
    if let Some(container) = container {
        image.tree("/image", &container.root)?;
        image.text("/etc/sensor-vm/overlay.json", 0o644, &container.overlay)?;
    }

    let mut job = format!("timeout={}\n", cell.suite.timeout_seconds);
    let none = Vec::new();
    let disk = if cell.suite.reset {
        &kernel.disk
    } else {
        &none
    };
    for (files, folder) in [
        (&kernel.loaded, "/lib/modules-loaded"),
        (disk, "/lib/modules-loaded"),
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
    for variable in &cell.suite.variables {
        job.push_str(&format!("env={variable}\n"));
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
