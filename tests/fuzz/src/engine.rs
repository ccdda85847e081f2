//! The loop: change an input that led somewhere new, run it, keep it if it leads somewhere new itself.
//!
//! A panic is caught and its input written down. What cannot be caught (an abort, memory beyond the limit, a loop without
//! end) ends the process; the input that was running then lies in the file `running`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::coverage;
use crate::mutate::{Random, Sources, mutate};
use crate::targets::Target;

/// One input may take so long; much more than any needs, so that a busy machine is not taken for a loop without end.
const HANG: Duration = Duration::from_secs(60);
/// Exit code after a hang.
pub const HUNG: i32 = 79;
/// Inputs that are kept in memory; beyond them a random one gives way.
const CORPUS_MAX: usize = 8192;
/// The time is looked at after so many runs.
const ROUND: u64 = 64;

/// How to fuzz.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long.
    pub time: Duration,
    /// Where the generator begins.
    pub seed: u64,
    /// Where inputs are kept from run to run, and where `running` and crashes are written.
    pub folder: PathBuf,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inputs run.
    pub runs: u64,
    /// Edges that were taken, of so many.
    pub edges: (usize, usize),
    /// Inputs that led somewhere new.
    pub corpus: usize,
    /// File with an input that panics, and what the panic said.
    pub found: Option<(PathBuf, String)>,
}

/// An input and what running it compared.
#[derive(Clone, Debug, Default)]
struct Entry {
    bytes: Vec<u8>,
    compared: Vec<(u64, u64)>,
}

/// Which counts of which edge were seen: a bit per order of magnitude, as AFL and libFuzzer have it.
struct Seen(Vec<u8>);

impl Seen {
    /// Takes the counters of a run in; whether one of them is new.
    fn take(&mut self) -> bool {
        let counters = coverage::counters();
        self.0.resize(counters.len(), 0);
        let mut new = false;
        for (seen, counter) in self.0.iter_mut().zip(counters) {
            let count = counter.load(Ordering::Relaxed);
            if count == 0 {
                continue;
            }
            let bit = match count {
                1..=3 => count - 1,
                4..=7 => 3,
                8..=15 => 4,
                16..=31 => 5,
                32..=127 => 6,
                _ => 7,
            };
            new |= *seen & (1 << bit) == 0;
            *seen |= 1 << bit;
        }
        new
    }

    fn edges(&self) -> (usize, usize) {
        (
            self.0.iter().filter(|seen| **seen != 0).count(),
            self.0.len(),
        )
    }
}

/// Runs a target until its time is over or it panics.
///
/// # Errors
/// The folder cannot be written, or the program is not instrumented.
pub fn fuzz(target: &Target, settings: &Settings) -> anyhow::Result<Report> {
    ensure!(
        !coverage::counters().is_empty(),
        "this program has no coverage counters: start it by `cargo xtask fuzz`"
    );
    let corpus_folder = settings.folder.join("corpus");
    fs::create_dir_all(&corpus_folder)
        .with_context(|| format!("cannot make {}", corpus_folder.display()))?;
    let running = Running::create(&settings.folder)?;
    watch(Arc::clone(&running.began));
    // Panics of the target are reported once, by this engine.
    panic::set_hook(Box::new(|_| {}));
    let mut random = Random::new(settings.seed);
    let mut seen = Seen(Vec::new());
    let mut corpus: Vec<Entry> = Vec::new();
    let mut report = Report::default();
    let mut seeds = (target.seeds)();
    seeds.push(Vec::new());
    seeds.extend(kept(&corpus_folder)?);
    let deadline = Instant::now() + settings.time;
    for mut seed in seeds {
        seed.truncate(target.max_bytes);
        report.runs += 1;
        if let Err(said) = running.run(target, &seed)? {
            report.found = Some((crash(&settings.folder, &seed)?, said));
            return Ok(report);
        }
        if seen.take() || corpus.is_empty() {
            corpus.push(Entry {
                bytes: seed,
                compared: coverage::compared(),
            });
        }
    }
    while report.runs % ROUND != 0 || Instant::now() < deadline {
        report.runs += 1;
        let entry = random.one(&corpus).cloned().unwrap_or_default();
        let other = random.one(&corpus).cloned().unwrap_or_default();
        let mut input = entry.bytes;
        let sources = Sources {
            words: target.words,
            compared: &entry.compared,
            other: &other.bytes,
        };
        mutate(&mut input, &mut random, sources, target.max_bytes);
        if random.below(8) > 0 {
            (target.repair)(&mut input);
        }
        if let Err(said) = running.run(target, &input)? {
            report.found = Some((crash(&settings.folder, &input)?, said));
            break;
        }
        if seen.take() {
            keep(&corpus_folder, &input)?;
            let entry = Entry {
                bytes: input,
                compared: coverage::compared(),
            };
            if corpus.len() < CORPUS_MAX {
                corpus.push(entry);
            } else {
                let at = random.below(corpus.len());
                if let Some(slot) = corpus.get_mut(at) {
                    *slot = entry;
                }
            }
        }
    }
    report.edges = seen.edges();
    report.corpus = corpus.len();
    Ok(report)
}

/// Runs one input as it would be run while fuzzing; what the panic said, if there was one.
///
/// # Errors
/// The file cannot be read.
pub fn replay(target: &Target, file: &Path) -> anyhow::Result<()> {
    let input = fs::read(file).with_context(|| file.display().to_string())?;
    if let Err(said) = caught(target, &input) {
        bail!("{}: {said}", target.name);
    }
    Ok(())
}

fn caught(target: &Target, input: &[u8]) -> Result<(), String> {
    panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        text.unwrap_or("a panic without words").to_owned()
    })
}

/// The input that is being run, for those who find the process gone.
struct Running {
    file: File,
    /// Milliseconds since `start` when the current input began.
    began: Arc<AtomicU64>,
    start: Instant,
}

impl Running {
    fn create(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("running");
        Ok(Self {
            file: File::create(&path).with_context(|| path.display().to_string())?,
            began: Arc::new(AtomicU64::new(0)),
            start: Instant::now(),
        })
    }

    fn run(&self, target: &Target, input: &[u8]) -> io::Result<Result<(), String>> {
        self.file.write_all_at(input, 0)?;
        self.file
            .set_len(u64::try_from(input.len()).unwrap_or(u64::MAX))?;
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.began.store(now, Ordering::Relaxed);
        coverage::reset();
        Ok(caught(target, input))
    }
}

/// Ends the process when one input takes too long; its input lies in the file.
#[expect(
    clippy::exit,
    clippy::print_stderr,
    reason = "nothing else ends a loop without end on another thread"
)]
fn watch(began: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut last = (u64::MAX, Instant::now());
        loop {
            std::thread::sleep(HANG / 20);
            let now = began.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            } else if last.1.elapsed() > HANG {
                eprintln!("one input runs for more than {} s", HANG.as_secs());
                std::process::exit(HUNG);
            }
        }
    });
}

/// Inputs that earlier runs kept.
fn kept(folder: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder)?.take(CORPUS_MAX) {
        inputs.push(fs::read(entry?.path())?);
    }
    Ok(inputs)
}

fn keep(folder: &Path, input: &[u8]) -> anyhow::Result<()> {
    let path = folder.join(name_of(input));
    fs::write(&path, input).with_context(|| path.display().to_string())
}

fn crash(folder: &Path, input: &[u8]) -> anyhow::Result<PathBuf> {
    let path = folder.join(format!("crash-{}", name_of(input)));
    fs::write(&path, input).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// FNV-1a of the input: equal inputs have one file.
fn name_of(input: &[u8]) -> String {
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{hash:016x}")
}
