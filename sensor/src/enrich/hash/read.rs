//! Reading one open file to its end, and what can be said of its content afterwards.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;
use sensor_common::record::FileIdentity;

use super::digest::{Algorithms, Digests, Hasher};
use super::identity::{self, Seen};
use super::open::open_for_reading;
use crate::enrich::file::{self, FileFacts, HEAD_BYTES};

/// Bytes read at a time: large enough that system calls do not matter, small enough for the cache of a core.
pub(super) const CHUNK_BYTES: usize = 128 << 10;

/// A content that was read.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) digests: Digests,
    pub(super) facts: Arc<FileFacts>,
}

/// How reading ended.
#[derive(Debug)]
pub(super) enum Reading {
    /// At the end of the file. `before` is the file when reading began; `whole`: it did not change while it was read.
    Done {
        content: Content,
        before: Seen,
        whole: bool,
        file: OwnedFd,
    },
    /// It is not the file that was meant.
    Replaced,
    /// Larger than the limit.
    TooLarge,
    /// Opening or reading failed.
    Unreadable,
    /// It took longer than allowed.
    Timeout,
    /// The pool is stopping, or has given this thread up.
    Abandoned,
}

/// Terms of one reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) algorithms: Algorithms,
    pub(super) file_bytes: u64,
    pub(super) deadline: Instant,
    /// The identity of the event, if the file does not have it any more.
    pub(super) changed_from: Option<FileIdentity>,
}

/// Reads the file behind `pinned` (opened with `O_PATH`). `abandoned` is asked between chunks.
pub(super) fn read(
    pinned: BorrowedFd<'_>,
    seen: &Seen,
    terms: &Terms,
    buffer: &mut [u8],
    abandoned: impl Fn() -> bool,
) -> Reading {
    let Ok(file) = open_for_reading(pinned) else {
        return Reading::Unreadable;
    };
    // The inode number may be another file's by now: its digests would be of nothing that the event is about.
    if let Some(expected) = terms.changed_from
        && !identity::same_file(&expected, &file)
    {
        return Reading::Replaced;
    }
    let Ok(before) = identity::observe_again(file.as_fd(), seen) else {
        return Reading::Unreadable;
    };
    if before.identity.size > terms.file_bytes {
        return Reading::TooLarge;
    }
    let mut hasher = Hasher::new(terms.algorithms);
    let mut head = Vec::new();
    let mut length = 0_u64;
    loop {
        let chunk = match rustix::io::read(&file, &mut *buffer) {
            Ok(0) => break,
            Ok(count) => buffer.get(..count).unwrap_or_default(),
            Err(Errno::INTR) => continue,
            Err(_) => return Reading::Unreadable,
        };
        if length == 0 {
            head.extend_from_slice(chunk.get(..HEAD_BYTES).unwrap_or(chunk));
        }
        length = length.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if length > terms.file_bytes {
            return Reading::TooLarge;
        }
        hasher.update(chunk);
        if abandoned() {
            return Reading::Abandoned;
        }
        if Instant::now() >= terms.deadline {
            return Reading::Timeout;
        }
    }
    let facts = Arc::new(file::facts(file.as_fd(), Some(&head)));
    let Ok(after) = identity::observe_again(file.as_fd(), seen) else {
        return Reading::Unreadable;
    };
    let whole = identity::unchanged(&before, &after) && length == before.identity.size;
    Reading::Done {
        content: Content {
            digests: hasher.finish(),
            facts,
        },
        before,
        whole,
        file,
    }
}
