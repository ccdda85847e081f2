//! Two folders for an operator: `quarantine` has the damaged parts of segments, `rejected` the packets that a sink refused
//! for good, each a segment of its own that `sensor decode` reads, beside the reason. Both are bounded: the oldest file
//! goes for the newest.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use super::entry::{Counts, Entry};
use super::log::{Log, make_folders};
use super::segment::{Mark, SegmentHeader, Stamp, encode_record, read_full};
use super::storage::{Storage, StorageFile};

const DAMAGED: &str = "quarantine";
const REJECTED: &str = "rejected";
const COPY_BYTES: usize = 64 << 10;
/// Longest reason that is kept, bytes.
const REASON_MAX_BYTES: usize = 4096;

/// One folder.
#[derive(Debug)]
struct Folder {
    path: &'static str,
    limit_bytes: u64,
    /// By age, as far as names tell.
    files: VecDeque<(String, u64)>,
    bytes: u64,
}

impl Folder {
    fn open<S: Storage>(storage: &S, path: &'static str, limit_bytes: u64) -> Self {
        let mut names = storage.names(Path::new(path)).unwrap_or_default();
        names.sort();
        let mut folder = Self {
            path,
            limit_bytes,
            files: VecDeque::new(),
            bytes: 0,
        };
        for name in names {
            let length = storage
                .open(&Path::new(path).join(&name), false)
                .and_then(|file| file.length())
                .unwrap_or(0);
            folder.bytes = folder.bytes.saturating_add(length);
            folder.files.push_back((name, length));
        }
        folder
    }

    /// Makes a file and room for it. Gives false for one that is there already.
    fn add<S: Storage>(
        &mut self,
        storage: &S,
        name: &str,
        bytes: u64,
        fill: impl FnOnce(&S::File) -> io::Result<()>,
    ) -> io::Result<bool> {
        if bytes > self.limit_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        make_folders(storage, Path::new(self.path))?;
        while self.bytes.saturating_add(bytes) > self.limit_bytes {
            let Some((oldest, length)) = self.files.pop_front() else {
                break;
            };
            self.bytes = self.bytes.saturating_sub(length);
            match storage.remove(&Path::new(self.path).join(oldest)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        let path = Path::new(self.path).join(name);
        let file = match storage.create(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(error),
        };
        if let Err(error) = fill(&file).and_then(|()| file.sync()) {
            // Half a file helps nobody; the error is the one to tell.
            let _gone = storage.remove(&path);
            return Err(error);
        }
        self.files.push_back((name.to_owned(), bytes));
        self.bytes = self.bytes.saturating_add(bytes);
        storage.sync_folder(Path::new(self.path))?;
        Ok(true)
    }
}

/// Both folders.
#[derive(Debug)]
pub(super) struct Quarantine {
    damaged: Folder,
    rejected: Folder,
    /// Damaged parts that could not be kept.
    pub(super) damaged_unsaved: u64,
    /// Refused packets that could not be kept.
    pub(super) rejected_unsaved: u64,
}

impl Quarantine {
    pub(super) fn open<S: Storage>(storage: &S, damaged_bytes: u64, rejected_bytes: u64) -> Self {
        Self {
            damaged: Folder::open(storage, DAMAGED, damaged_bytes),
            rejected: Folder::open(storage, REJECTED, rejected_bytes),
            damaged_unsaved: 0,
            rejected_unsaved: 0,
        }
    }

    /// Bytes in `quarantine` and in `rejected`.
    pub(super) const fn bytes(&self) -> (u64, u64) {
        (self.damaged.bytes, self.rejected.bytes)
    }

    /// Copies a damaged part of a segment; false if that did not work.
    pub(super) fn keep<S: Storage>(
        &mut self,
        storage: &S,
        log: &Log<S::File>,
        segment: &str,
        from: u64,
        to: u64,
    ) -> bool {
        let name = format!(
            "{:08}-{}-{}-{from}.damaged",
            log.ordinal,
            log.stream.name(),
            segment.trim_end_matches(".seg")
        );
        let bytes = to.saturating_sub(from);
        let source = log.folder.join(segment);
        let kept = self.damaged.add(storage, &name, bytes, |file| {
            copy(&storage.open(&source, false)?, from, bytes, file)
        });
        if kept.is_err() {
            self.damaged_unsaved = self.damaged_unsaved.saturating_add(1);
        }
        kept.is_ok()
    }

    /// Sets a refused packet aside; false if that did not work.
    pub(super) fn set_aside<S: Storage>(
        &mut self,
        storage: &S,
        sink: &str,
        reason: &str,
        entry: &Entry,
        (agent_id, stamp): ([u8; 16], Stamp),
    ) -> bool {
        let header = SegmentHeader {
            agent_id,
            epoch: entry.id.epoch,
            stream: entry.id.stream,
            marker: u64::from_le_bytes(*b"rejected"),
            start: Mark {
                sequence: entry.id.sequence.saturating_sub(1),
                digest: [0; 32],
                totals: Counts::new(),
            },
            stamp,
            last_event_boot_ns: 0,
            last_event_boot: [0; 16],
            last_sealed_ns: 0,
        };
        let mut bytes = header.encode();
        bytes.extend(encode_record(header.marker, entry, &entry.counts, &stamp));
        let stem = format!(
            "{:020}-{sink}-{}-{}-{}",
            stamp.wall_ns,
            entry.id.epoch,
            entry.id.stream.name(),
            entry.id.sequence
        );
        let end = (0..=REASON_MAX_BYTES.min(reason.len()))
            .rev()
            .find(|end| reason.is_char_boundary(*end));
        let reason = end.and_then(|end| reason.get(..end)).unwrap_or_default();
        let files = [
            (format!("{stem}.reason"), reason.as_bytes()),
            (format!("{stem}.seg"), &bytes),
        ];
        for (name, content) in files {
            let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
            let kept = self
                .rejected
                .add(storage, &name, length, |file| file.write_at(content, 0));
            if kept.is_err() {
                self.rejected_unsaved = self.rejected_unsaved.saturating_add(1);
                return false;
            }
        }
        true
    }
}

fn copy<F: StorageFile>(source: &F, from: u64, bytes: u64, to: &F) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut done = 0_u64;
    while done < bytes {
        let wanted = usize::try_from(bytes.saturating_sub(done))
            .unwrap_or(COPY_BYTES)
            .min(COPY_BYTES);
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        let length = match read_full(source, part, from.saturating_add(done)) {
            Ok(0) => break,
            Ok(length) => length,
            // What cannot be read stands there as zeros.
            Err(_) => {
                part.fill(0);
                wanted
            }
        };
        to.write_at(part.get(..length).unwrap_or_default(), done)?;
        done = done.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }
    Ok(())
}
