//! A file that lines are appended to, set aside by size and age. Refuses files that are not its own: a symbolic link, something
//! that is not a regular file, or a file of another user, since whoever made it could read the events or choose where they go.

use std::fmt;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::confine::Confinement;
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

/// What a run that was killed may have left at the end of the file, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tail {
    /// Half a line that nobody will ever complete: it gets its line end.
    EndLine,
    /// Half a line that will be written again, from its beginning: it is cut off.
    CutLine,
    /// Half a packet that will be written again: it is cut off.
    CutPacket,
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
    /// What stands in it is not what the sink writes.
    #[error("{} holds something else: it would be damaged", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
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
    confinement: &Confinement,
) -> Result<SinkHandle, FileError> {
    let target = Appender::open(path, rotation, now)?;
    SinkHandle::spawn("sink-file", target, capacity_bytes, listener, confinement)
        .map_err(|source| FileError::NoThread { source })
}

pub(super) struct Appender {
    path: PathBuf,
    rotation: Rotation,
    now: Now,
    tail: Tail,
    file: File,
    /// Times that another file was begun.
    begun: u64,
    /// Its name may not be durable.
    named: bool,
    /// Length of the file.
    length: u64,
    /// When its first line was written; none while it is empty.
    begun_ns: Option<i64>,
    /// A failure to set it aside was told.
    told: bool,
}

impl fmt::Debug for Appender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appender")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Appender {
    pub(super) fn open(path: &Path, rotation: Rotation, now: Now) -> Result<Self, FileError> {
        Self::open_with(path, rotation, now, Tail::EndLine)
    }

    pub(super) fn open_with(
        path: &Path,
        rotation: Rotation,
        now: Now,
        tail: Tail,
    ) -> Result<Self, FileError> {
        let (file, length, begun_ns) = open(path, &now, tail)?;
        Ok(Self {
            path: path.to_owned(),
            rotation,
            now,
            tail,
            file,
            begun: 0,
            named: true,
            length,
            begun_ns,
            told: false,
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        let (file, length, begun_ns) =
            open(&self.path, &self.now, self.tail).map_err(io::Error::other)?;
        (self.file, self.length, self.begun_ns) = (file, length, begun_ns);
        self.begun += 1;
        self.named = true;
        Ok(())
    }

    /// Which of the files it has had this is, and its length.
    pub(super) const fn place(&self) -> (u64, u64) {
        (self.begun, self.length)
    }

    /// What is in the file is durable when it returns, and so is its name.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        if self.named {
            File::open(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
            self.named = false;
        }
        Ok(())
    }

    /// Takes back what was written since it was at that place; as far as it stands in this file.
    pub(super) fn set_back(&mut self, (begun, length): (u64, u64)) -> io::Result<()> {
        let length = if begun == self.begun { length } else { 0 };
        self.file.set_len(length)?;
        self.length = length;
        Ok(())
    }

    /// Whether the file is set aside before so many bytes are written.
    pub(super) fn due(&self, more: usize) -> bool {
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

fn open(path: &Path, now: &Now, tail: Tail) -> Result<(File, u64, Option<i64>), FileError> {
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
    match tail {
        Tail::EndLine => {
            if length > 0 && !ends_with_a_line(&mut file).map_err(failed)? {
                // What was cut off when an earlier run was killed shall not take the next line with it.
                file.write_all(b"\n").map_err(failed)?;
                length += 1;
            }
        }
        Tail::CutLine | Tail::CutPacket => {
            let whole = match tail {
                Tail::CutPacket => whole_packets(&mut file, length),
                Tail::CutLine | Tail::EndLine => whole_lines(&mut file, length),
            };
            let whole = whole.map_err(failed)?.ok_or(FileError::NotOurs {
                path: path.to_owned(),
            })?;
            if whole < length {
                tracing::info!(path = %path.display(), bytes = length - whole, "the torn end of a file is cut off");
                file.set_len(whole).map_err(failed)?;
                length = whole;
            }
        }
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

/// Bytes that are looked through at a time.
const CHUNK: u64 = 64 << 10;

/// Length of the whole lines, JSON objects, at the beginning of the file; none if it holds something else.
fn whole_lines(file: &mut File, length: u64) -> io::Result<Option<u64>> {
    let mut chunk = Vec::new();
    let mut end = length;
    let mut whole = 0;
    while end > 0 {
        let start = end.saturating_sub(CHUNK);
        chunk.clear();
        file.seek(SeekFrom::Start(start))?;
        (&*file).take(end - start).read_to_end(&mut chunk)?;
        if let Some(place) = chunk.iter().rposition(|byte| *byte == b'\n') {
            whole = start + u64::try_from(place).unwrap_or(u64::MAX) + 1;
            break;
        }
        end = start;
    }
    // Where a line may begin; a power cut can leave zeros where bytes were to be.
    for place in [0, whole] {
        let mut first = [0];
        file.seek(SeekFrom::Start(place))?;
        if place < length {
            file.read_exact(&mut first)?;
            if first != *b"{" && first != [0] {
                return Ok(None);
            }
        }
    }
    Ok(Some(whole))
}

/// Keys of the two fields of a packet on the wire: header and body, which end by their lengths.
const HEADER_KEY: u8 = (1 << 3) | 2;
const BODY_KEY: u8 = (2 << 3) | 2;

/// Length of the whole packets at the beginning of the file; none if it holds something else.
fn whole_packets(file: &mut File, length: u64) -> io::Result<Option<u64>> {
    file.seek(SeekFrom::Start(0))?;
    let mut input = BufReader::new(file);
    let (mut whole, mut place) = (0, 0);
    while place < length {
        for key in [HEADER_KEY, BODY_KEY] {
            let mut first = [0];
            if place >= length {
                return Ok(Some(whole));
            }
            input.read_exact(&mut first)?;
            match first {
                [0] => return Ok(Some(whole)),
                [first] if first == key => {}
                [_] => return Ok(None),
            }
            let Some((bytes, field)) = varint(&mut input, length - place - 1)? else {
                return Ok(Some(whole));
            };
            place = place.saturating_add(1 + bytes).saturating_add(field);
            if place > length {
                return Ok(Some(whole));
            }
            let Ok(skip) = i64::try_from(field) else {
                return Ok(None);
            };
            input.seek_relative(skip)?;
        }
        whole = place;
    }
    Ok(Some(whole))
}

/// A number of protobuf with its length; none if the file ends within.
fn varint(input: &mut impl io::Read, most: u64) -> io::Result<Option<(u64, u64)>> {
    let mut value = 0_u64;
    for (bytes, shift) in (1..=most).zip((0..63).step_by(7)) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        let [byte] = byte;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(Some((bytes, value)));
        }
    }
    Ok(None)
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
