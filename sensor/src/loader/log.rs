//! What the programs log, passed on to the daemon's own log; for objects that were built with logs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::LoadError;

/// Name that `cargo xtask build-ebpf --log` gives it.
const FILE_NAME: &str = "sensor-log.bpf.o";
/// An object is a few hundred KiB.
const MAX_BYTES: usize = 64 << 20;
/// Time between two looks at the log's ring: it holds some hundred lines, what finds no room is not logged.
const PERIOD: Duration = Duration::from_millis(20);

/// An eBPF object whose programs log.
#[derive(Debug)]
pub struct LogObject {
    bytes: Vec<u8>,
}

impl LogObject {
    /// Reads the one that was named, else the one beside this program or in the build folder that it lies in.
    ///
    /// # Errors
    /// [`LoadError::NoLogObject`].
    pub fn read(named: Option<&Path>) -> Result<Self, LoadError> {
        let tried = match named {
            Some(path) => vec![path.to_owned()],
            None => beside(std::env::current_exe().ok().as_deref()),
        };
        let mut first = None;
        for path in &tried {
            let read = crate::procfs::open_file(path, "object with logs")
                .and_then(|file| file.read(MAX_BYTES));
            match read {
                Ok(bytes) => return Ok(Self { bytes }),
                Err(error) => first = first.or(Some(error)),
            }
        }
        match first {
            Some(source) => Err(LoadError::NoLogObject { tried, source }),
            None => Err(LoadError::Log(
                "this program's own path is not known".into(),
            )),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where the object with logs of a program lies: beside it, or in the build folder: `target/release/sensor` or
/// `target/TRIPLE/release/sensor` and `target/ebpf`.
fn beside(program: Option<&Path>) -> Vec<PathBuf> {
    let Some(folder) = program.and_then(Path::parent) else {
        return Vec::new();
    };
    let mut places = vec![folder.join(FILE_NAME)];
    let builds = folder.ancestors().skip(1).take(2);
    places.extend(builds.map(|build| build.join("ebpf").join(FILE_NAME)));
    places
}

/// The thread that passes on what the programs log; ends when this is dropped.
#[derive(Debug)]
pub struct ProgramLog {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// aya's reader of the log's ring.
struct Follower(Box<dyn FnMut() + Send>);

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Follower")
    }
}

impl ProgramLog {
    pub(super) fn follow(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        let mut logger = EbpfLogger::init(ebpf).map_err(|error| LoadError::Log(error.into()))?;
        let mut follower = Follower(Box::new(move || logger.flush()));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("program-log".to_owned())
            .spawn(move || {
                while !stopped.load(Ordering::Acquire) {
                    (follower.0)();
                    std::thread::park_timeout(PERIOD);
                }
                (follower.0)();
            })
            .map_err(|error| LoadError::Log(error.into()))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for ProgramLog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the programs' log ended with a line that is none");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looked_for_beside_the_program_and_in_its_build_folder() {
        let places = beside(Some(Path::new("/x/target/triple/release/sensor")));
        let shown: Vec<_> = places.iter().map(|place| place.to_str().unwrap()).collect();
        assert_eq!(
            shown,
            [
                "/x/target/triple/release/sensor-log.bpf.o",
                "/x/target/triple/ebpf/sensor-log.bpf.o",
                "/x/target/ebpf/sensor-log.bpf.o",
            ]
        );
    }

    #[test]
    fn without_one_it_is_said_how_to_make_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.o");
        let error = LogObject::read(Some(&path)).unwrap_err().to_string();
        for part in ["none.o", "build-ebpf --log", "--ebpf-log="] {
            assert!(error.contains(part), "{error}");
        }
    }
}
