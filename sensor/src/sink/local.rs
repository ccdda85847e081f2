//! Files and standard output behind the spool: a packet is acknowledged when all of it is written and, in a file, durable.
//! What cannot be written is taken back as far as it can be, and the worker offers it again, after a pause.
//!
//! All work is done on threads that may block, one at a time: a disk or a reader that hangs costs one thread, and the session
//! after it is refused until that thread is back. Refuses files that hold something else than the sink writes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::FileType;
use sensor_proto::packet::{Limits, open};

use crate::clock::Clock;
use crate::config::{FileSinkConfig, SinkFormat};
use crate::format::packet::write;
use crate::sink::delivery::{Fault, Outcome, Terms, printable};
use crate::sink::file::{Appender, Rotation, Tail};
use crate::sink::piped::{Outcomes, Packets, Piped};
use crate::sink::{Listener, Notice, Target as _};
use crate::spool::{Entry, PACKET_MAX_BYTES, PacketId};

/// Packets between two syncs of the disk at most.
const BATCH: usize = 64;
/// Bytes of lines that are written at once.
const PART_BYTES: usize = 256 << 10;
/// What a pipe that has room at all takes without blocking (POSIX: `PIPE_BUF`).
const PIPE_BYTES: usize = 4_096;
/// How long a reader is waited for before it is looked whether the session goes on.
const POLL: Duration = Duration::from_millis(100);
/// Opening a file may take so long; on a file system that hangs it takes for ever.
const OPEN: Duration = Duration::from_secs(15);

/// Word of faults of the file or descriptor.
const OUTPUT: &str = "output";

/// A file or standard output.
#[derive(Debug)]
pub struct Local {
    place: Arc<Mutex<Place>>,
    format: SinkFormat,
}

/// Where bytes go.
#[derive(Debug)]
enum Place {
    File(Box<Journal>),
    Descriptor(Descriptor),
}

impl Local {
    /// A file, made when it is first written to.
    #[must_use]
    pub fn file(config: FileSinkConfig, clock: Arc<Clock>) -> Self {
        Self {
            format: config.format,
            place: Arc::new(Mutex::new(Place::File(Box::new(Journal {
                config,
                clock,
                appender: None,
            })))),
        }
    }

    /// Standard output.
    #[must_use]
    pub fn stdout(format: SinkFormat) -> Self {
        Self::descriptor(format, rustix::stdio::stdout().try_clone_to_owned())
    }

    fn descriptor(format: SinkFormat, descriptor: io::Result<OwnedFd>) -> Self {
        let place = Place::Descriptor(Descriptor {
            descriptor,
            rest: Vec::new(),
        });
        Self {
            format,
            place: Arc::new(Mutex::new(place)),
        }
    }

    /// Opens the file.
    pub(super) async fn open(&mut self) -> Result<(Piped, Terms), Fault> {
        let over = Over::default();
        let (place, flag) = (Arc::clone(&self.place), Arc::clone(&over.0));
        let opening = tokio::task::spawn_blocking(move || lock(&place)?.prepare(&flag));
        let opened = tokio::time::timeout(OPEN, opening).await;
        opened
            .map_err(|_elapsed| Fault::new("timeout", format!("not open within {OPEN:?}")))?
            .map_err(|error| Fault::of("closed", &error))??;
        let (place, format) = (Arc::clone(&self.place), self.format);
        let session = Piped::start(|packets, outcomes| run(place, format, packets, outcomes));
        let terms = Terms {
            window_bytes: usize::MAX,
            max_packet_bytes: PACKET_MAX_BYTES,
        };
        Ok((session, terms))
    }
}

/// Says on its end, however that comes, that the session is over.
#[derive(Debug, Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn is_over(over: &AtomicBool) -> bool {
    over.load(Ordering::Relaxed)
}

fn ended() -> Fault {
    Fault::new("closed", "the session is over")
}

/// The place, unless a thread of an earlier session still sits in a system call on it.
fn lock(place: &Mutex<Place>) -> Result<MutexGuard<'_, Place>, Fault> {
    match place.try_lock() {
        Ok(place) => Ok(place),
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => Err(Fault::new(
            "silent",
            "what was begun before has not come back from the system",
        )),
    }
}

/// The task of a session.
async fn run(
    place: Arc<Mutex<Place>>,
    format: SinkFormat,
    mut packets: Packets,
    outcomes: Outcomes,
) -> Fault {
    let over = Over::default();
    loop {
        let mut batch = Vec::new();
        if packets.recv_many(&mut batch, BATCH).await == 0 {
            return ended();
        }
        let (place, flag) = (Arc::clone(&place), Arc::clone(&over.0));
        let writing =
            tokio::task::spawn_blocking(move || lock(&place)?.take(format, &batch, &flag));
        let settled = match writing.await {
            Ok(Ok(settled)) => settled,
            Ok(Err(fault)) => return fault,
            Err(error) => return Fault::of("closed", &error),
        };
        for outcome in settled {
            if outcomes.send(outcome).await.is_err() {
                return ended();
            }
        }
    }
}

impl Place {
    /// Makes it ready for the beginning of a packet.
    fn prepare(&mut self, over: &AtomicBool) -> Result<(), Fault> {
        match self {
            Self::File(journal) => journal.open().map(drop),
            Self::Descriptor(descriptor) => descriptor.complete(over),
        }
    }

    /// Writes packets, all of them or none, as far as the place allows that.
    fn take(
        &mut self,
        format: SinkFormat,
        packets: &[Entry],
        over: &AtomicBool,
    ) -> Result<Vec<(PacketId, Outcome)>, Fault> {
        match self {
            Self::File(journal) => {
                let appender = journal.open()?;
                let before = appender.place();
                let written = write_all(format, packets, over, &mut |part| {
                    append(appender, part).map_err(|error| Fault::of(OUTPUT, &error))
                });
                let synced = written.and_then(|outcomes| {
                    appender
                        .sync()
                        .map_err(|error| Fault::of(OUTPUT, &error))
                        .map(|()| outcomes)
                });
                if synced.is_err() {
                    // The next opening cuts off what this does not reach, and finds out whether the file can be used at all.
                    if let Err(error) = appender.set_back(before) {
                        tracing::debug!(%error, "what was written in part stays");
                    }
                    journal.appender = None;
                }
                synced
            }
            Self::Descriptor(descriptor) => write_all(format, packets, over, &mut |part| {
                descriptor.write(part, format == SinkFormat::Native, over)
            }),
        }
    }
}

/// Gives the bytes of packets, in parts that end with a line or a packet.
fn write_all(
    format: SinkFormat,
    packets: &[Entry],
    over: &AtomicBool,
    part: &mut dyn FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<Vec<(PacketId, Outcome)>, Fault> {
    let mut outcomes = Vec::with_capacity(packets.len());
    let mut lines = Vec::new();
    for packet in packets {
        if is_over(over) {
            return Err(ended());
        }
        let outcome = match format.form() {
            None => {
                part(&packet.bytes)?;
                Outcome::Acked
            }
            Some(form) => match open(&packet.bytes, &Limits::default()) {
                Ok(opened) => {
                    for event in opened.events() {
                        write(form, &opened, event, &mut lines);
                        lines.push(b'\n');
                        if lines.len() >= PART_BYTES {
                            part(&lines)?;
                            lines.clear();
                        }
                    }
                    Outcome::Acked
                }
                Err(error) => Outcome::Rejected {
                    why: printable(&error.to_string()),
                },
            },
        };
        outcomes.push((packet.id, outcome));
    }
    if !lines.is_empty() {
        part(&lines)?;
    }
    Ok(outcomes)
}

/// A file with those that were set aside.
#[derive(Debug)]
struct Journal {
    config: FileSinkConfig,
    clock: Arc<Clock>,
    /// Open since something was written.
    appender: Option<Appender>,
}

impl Journal {
    fn open(&mut self) -> Result<&mut Appender, Fault> {
        // Rights and owner are looked at again after a fault only; a file that was removed is made anew when it is written to.
        let appender = match self.appender.take() {
            Some(appender) => appender,
            None => {
                let rotation = Rotation {
                    bytes: self.config.rotate_bytes,
                    age: self.config.rotate_age,
                    keep: self.config.keep,
                };
                let clock = Arc::clone(&self.clock);
                let now = Box::new(move || clock.wall_now_ns().unwrap_or_default());
                let tail = match self.config.format {
                    SinkFormat::Native => Tail::CutPacket,
                    SinkFormat::Json | SinkFormat::Ecs | SinkFormat::Ocsf => Tail::CutLine,
                };
                Appender::open_with(&self.config.path, rotation, now, tail)
                    .map_err(|error| Fault::of(OUTPUT, &error))?
            }
        };
        Ok(self.appender.insert(appender))
    }
}

/// Appends whole lines or packets; what is set aside before is durable.
fn append(appender: &mut Appender, bytes: &[u8]) -> io::Result<()> {
    let listener: Listener = Box::new(|notice| {
        if let Notice::NotRotated(error) = notice {
            tracing::error!(%error, "a file cannot be set aside, it grows on");
        }
    });
    if appender.due(bytes.len()) {
        appender.sync()?;
    }
    appender.begin(bytes.len(), &listener)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match appender.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Standard output: a pipe, a terminal, or a file that somebody else opened.
#[derive(Debug)]
struct Descriptor {
    /// None if it was closed before the start.
    descriptor: io::Result<OwnedFd>,
    /// What a line or packet lacks of which the beginning was written: it goes first.
    rest: Vec<u8>,
}

impl Descriptor {
    /// Writes what is missing of what was begun.
    fn complete(&mut self, over: &AtomicBool) -> Result<(), Fault> {
        let rest = std::mem::take(&mut self.rest);
        let (written, why) = self.try_write(&rest, over)?;
        self.keep(rest.get(written..).unwrap_or_default(), &why);
        why.map_or(Ok(()), |why| Err(why.fault()))
    }

    /// Writes lines, or something that must not be torn anywhere.
    fn write(&mut self, bytes: &[u8], whole: bool, over: &AtomicBool) -> Result<(), Fault> {
        let (written, why) = self.try_write(bytes, over)?;
        let (before, after) = bytes.split_at_checked(written).unwrap_or((bytes, &[]));
        let torn = !before.is_empty() && (whole || !before.ends_with(b"\n"));
        let line = after.iter().position(|byte| *byte == b'\n');
        let length = match line {
            _ if !torn => 0,
            Some(place) if !whole => place + 1,
            Some(_) | None => after.len(),
        };
        self.keep(after.get(..length).unwrap_or_default(), &why);
        why.map_or(Ok(()), |why| Err(why.fault()))
    }

    fn try_write(&self, bytes: &[u8], over: &AtomicBool) -> Result<(usize, Option<Why>), Fault> {
        match &self.descriptor {
            Ok(descriptor) => Ok(write_to(descriptor, bytes, over)),
            Err(error) => Err(Fault::of(OUTPUT, error)),
        }
    }

    /// What was not written of something that was begun waits; not for a reader that comes later, who begins with a line of his own.
    fn keep(&mut self, rest: &[u8], why: &Option<Why>) {
        if *why != Some(Why::Failed(rustix::io::Errno::PIPE)) {
            self.rest = rest.to_vec();
        }
    }
}

/// Why not all was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The session is over.
    Over,
    /// What the system said.
    Failed(rustix::io::Errno),
}

impl Why {
    fn fault(self) -> Fault {
        match self {
            Self::Over => ended(),
            Self::Failed(rustix::io::Errno::PIPE) => Fault::new(OUTPUT, "the reader has gone"),
            Self::Failed(error) => Fault::of(OUTPUT, &error),
        }
    }
}

/// Writes, and says how much was written and why not all.
fn write_to(descriptor: &OwnedFd, bytes: &[u8], over: &AtomicBool) -> (usize, Option<Why>) {
    let regular = rustix::fs::fstat(descriptor)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let most = if regular { PART_BYTES } else { PIPE_BYTES };
    let time = rustix::event::Timespec::try_from(POLL).ok();
    let mut written = 0;
    loop {
        let rest = bytes.get(written..).unwrap_or_default();
        let Some(part) = rest
            .get(..most.min(rest.len()))
            .filter(|part| !part.is_empty())
        else {
            break;
        };
        if is_over(over) {
            return (written, Some(Why::Over));
        }
        let mut waiting = [PollFd::new(descriptor, PollFlags::OUT)];
        let attempt = rustix::event::poll(&mut waiting, time.as_ref()).and_then(|ready| {
            if ready == 0 {
                return Ok(0);
            }
            rustix::io::write(descriptor, part)
        });
        match attempt {
            Ok(count) => written += count,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return (written, Some(Why::Failed(error))),
        }
    }
    if regular && let Err(error) = rustix::fs::fdatasync(descriptor) {
        return (written, Some(Why::Failed(error)));
    }
    (written, None)
}

#[cfg(test)]
mod tests;
