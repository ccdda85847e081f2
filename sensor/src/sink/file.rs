//! A file that lines are appended to, set aside by size and age. Refuses files that are not its own: a symbolic link, something
//! that is not a regular file, or a file of another user, since whoever made it could read the events or choose where they go.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sink::{Listener, Notice, SinkHandle, Target};

const MODE: u32 = 0o600;

/// When a file is set aside, and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file does not grow beyond this, unless a single batch is longer.
    pub bytes: Option<u64>,
    /// A file whose first line is older is set aside before the next.
    pub age: Option<Duration>,
    /// Files set aside that are kept.
    pub keep: usize,
}

/// The wall clock, in ns since 1970.
pub type Now = Box<dyn Fn() -> i64 + Send>;

/// Why a file cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened or made.
    #[error("cannot open {}", path.display())]
    NotOpened {
        /// The file.
        path: PathBuf,
        /// What the system call said.
        source: io::Error,
    },
    /// It is a directory, device, pipe or socket.
    #[error("{} is not a regular file", path.display())]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to another user.
    #[error("{} belongs to user {owner}", path.display())]
    NotOwned {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The sink's thread cannot be started.
    #[error("cannot start a thread")]
    NoThread {
        /// What the system call said.
        source: io::Error,
    },
}

/// Opens the file and starts the sink; its queue takes so many bytes.
///
/// # Errors
/// [`FileError`].
pub fn spawn(
    path: &Path,
    rotation: Rotation,
    now: Now,
    capacity_bytes: usize,
    listener: Listener,
) -> Result<SinkHandle, FileError> {
    let target = Appender::open(path, rotation, now)?;
    SinkHandle::spawn("sink-file", target, capacity_bytes, listener)
        .map_err(|source| FileError::NoThread { source })
}

pub(super) struct Appender {
    path: PathBuf,
    rotation: Rotation,
    now: Now,
    file: File,
    /// Length of the file.
    length: u64,
    /// When its first line was written; none while it is empty.
    begun_ns: Option<i64>,
    /// A failure to set it aside was told.
    told: bool,
}

impl Appender {
    pub(super) fn open(path: &Path, rotation: Rotation, now: Now) -> Result<Self, FileError> {
        let (file, length, begun_ns) = open(path, &now)?;
        Ok(Self {
            path: path.to_owned(),
            rotation,
            now,
            file,
            length,
            begun_ns,
            told: false,
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        let (file, length, begun_ns) = open(&self.path, &self.now).map_err(io::Error::other)?;
        (self.file, self.length, self.begun_ns) = (file, length, begun_ns);
        Ok(())
    }

    fn due(&self, more: usize) -> bool {
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        let long = |limit: u64| self.length > 0 && self.length.saturating_add(more) > limit;
        let old = |limit: Duration| {
            self.begun_ns.is_some_and(|begun| {
                let age = (self.now)().saturating_sub(begun);
                u128::try_from(age).is_ok_and(|age| age >= limit.as_nanos())
            })
        };
        self.rotation.bytes.is_some_and(long) || self.rotation.age.is_some_and(old)
    }

    /// Sets the file aside and begins a new one. On failure the old file is still the one that is written to.
    fn rotate(&mut self) -> io::Result<()> {
        let absent_is_fine = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        // Renaming replaces, so the oldest needs no removal of its own.
        for number in (1..self.rotation.keep).rev() {
            let (from, to) = (aside(&self.path, number), aside(&self.path, number + 1));
            absent_is_fine(std::fs::rename(from, to))?;
        }
        absent_is_fine(std::fs::rename(&self.path, aside(&self.path, 1)))?;
        self.reopen()
    }
}

/// `<path>.<number>`
fn aside(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn open(path: &Path, now: &Now) -> Result<(File, u64, Option<i64>), FileError> {
    let failed = |source| FileError::NotOpened {
        path: path.to_owned(),
        source,
    };
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(MODE)
        .custom_flags(flags)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular {
            path: path.to_owned(),
        });
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(FileError::NotOwned {
            path: path.to_owned(),
            owner: metadata.uid(),
        });
    }
    if metadata.mode() & 0o7777 != MODE {
        file.set_permissions(Permissions::from_mode(MODE))
            .map_err(failed)?;
    }
    let mut length = metadata.len();
    if length > 0 && !ends_with_a_line(&mut file).map_err(failed)? {
        // What was cut off when an earlier run was killed shall not take the next line with it.
        file.write_all(b"\n").map_err(failed)?;
        length += 1;
    }
    let birth = metadata.created().or_else(|_| metadata.modified()).ok();
    let birth = birth.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let birth_ns = birth.and_then(|time| i64::try_from(time.as_nanos()).ok());
    let begun_ns = (length > 0).then(|| birth_ns.unwrap_or_else(now));
    Ok((file, length, begun_ns))
}

fn ends_with_a_line(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

impl Target for Appender {
    fn begin(&mut self, length: usize, listener: &Listener) -> io::Result<()> {
        // Someone removed the file: what is appended to it now, nobody would ever read.
        if self.file.metadata()?.nlink() == 0 {
            self.reopen()?;
        }
        if self.due(length) {
            match self.rotate() {
                Ok(()) => self.told = false,
                // Too long a file is better than lost events.
                Err(error) if !self.told => {
                    self.told = true;
                    listener(Notice::NotRotated(error));
                }
                Err(_told_already) => {}
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.length = self
            .length
            .saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if self.begun_ns.is_none() {
            self.begun_ns = Some((self.now)());
        }
        Ok(count)
    }

    fn take_back(&mut self, written: usize) {
        let whole = self
            .length
            .saturating_sub(u64::try_from(written).unwrap_or(u64::MAX));
        if written > 0 && self.file.set_len(whole).is_ok() {
            self.length = whole;
        }
    }

    fn is_final(&self, _error: &io::Error) -> bool {
        false
    }
}
