//! A small file that is rewritten in place and never lost: two halves, written in turn, each with a number and a
//! checksum. A write that is cut off leaves the half before it. The file has its full length from the start, so that it
//! can be written on a full disk.

use std::io;
use std::path::Path;

use super::codec::{Decoder, Encoder};
use super::storage::{Storage, StorageFile};

const MAGIC: &[u8; 8] = b"SENSLOT\n";
/// Magic, number, length, and the checksum at the end.
const FRAME_BYTES: usize = 8 + 8 + 4 + 4;

/// The open file.
#[derive(Debug)]
pub(super) struct SlotFile<F> {
    file: F,
    half_bytes: usize,
    generation: u64,
    /// The newer half as it was read: it may never have reached the disk, and the other half must stay until it has.
    unproven: Option<Vec<u8>>,
}

impl<F: StorageFile> SlotFile<F> {
    /// Makes the file; content and name are durable when it returns.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn create<S: Storage<File = F>>(
        storage: &S,
        path: &Path,
        half_bytes: usize,
        content: &[u8],
    ) -> io::Result<Self> {
        let file = storage.create(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut slot = Self {
            file,
            half_bytes,
            generation: 0,
            unproven: None,
        };
        let zeros = vec![0; half_bytes];
        slot.file.write_at(&zeros, 0)?;
        slot.file.write_at(&zeros, wide(half_bytes))?;
        slot.write(content)?;
        storage.sync_folder(folder)?;
        Ok(slot)
    }

    /// Opens it and gives the newer content that is whole; `None` if neither half is. For writing, its name is durable when
    /// this returns.
    ///
    /// # Errors
    /// What the system says, also that it is not there.
    pub(super) fn open<S: Storage<File = F>>(
        storage: &S,
        path: &Path,
        half_bytes: usize,
        write: bool,
    ) -> io::Result<(Self, Option<Vec<u8>>)> {
        let file = storage.open(path, write)?;
        if write {
            // Its name too may be from a process that was killed before it synced the folder.
            storage.sync_folder(path.parent().unwrap_or(Path::new("")))?;
        }
        let mut best: Option<(u64, Vec<u8>, Vec<u8>)> = None;
        for half in 0..2_usize {
            let mut bytes = vec![0; half_bytes];
            let length =
                super::segment::read_full(&file, &mut bytes, wide(half.saturating_mul(half_bytes)))
                    .unwrap_or(0);
            let Some((generation, content)) = parse(bytes.get(..length).unwrap_or_default()) else {
                continue;
            };
            if best
                .as_ref()
                .is_none_or(|(newest, _, _)| generation > *newest)
            {
                let content = content.to_vec();
                bytes.truncate(content.len().saturating_add(FRAME_BYTES));
                best = Some((generation, content, bytes));
            }
        }
        let (generation, content, unproven) = match best {
            Some((generation, content, frame)) => (generation, Some(content), Some(frame)),
            None => (0, None, None),
        };
        Ok((
            Self {
                file,
                half_bytes,
                generation,
                unproven,
            },
            content,
        ))
    }

    /// Opens it for writing, or makes it; never removes what is there, which may be the last that is whole. Then writes.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn put<S: Storage<File = F>>(
        storage: &S,
        path: &Path,
        half_bytes: usize,
        content: &[u8],
    ) -> io::Result<Self> {
        match Self::open(storage, path, half_bytes, true) {
            Ok((mut slot, _)) => {
                slot.write(content)?;
                Ok(slot)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::create(storage, path, half_bytes, content)
            }
            Err(error) => Err(error),
        }
    }

    /// Replaces the content; it is durable when this returns, else the old one is.
    ///
    /// # Errors
    /// What the system says; `FileTooLarge` if it does not fit.
    pub(super) fn write(&mut self, content: &[u8]) -> io::Result<()> {
        if content.len().saturating_add(FRAME_BYTES) > self.half_bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if let Some(frame) = &self.unproven {
            // The same bytes again: torn, they are still the same.
            self.file.write_at(frame, self.place(self.generation))?;
            self.file.sync()?;
            self.unproven = None;
        }
        let generation = self.generation.saturating_add(1);
        let mut out = Encoder::default();
        out.bytes(MAGIC)
            .u64(generation)
            .u32(u32::try_from(content.len()).unwrap_or(u32::MAX))
            .bytes(content);
        let crc = crc32c::crc32c(out.so_far());
        out.u32(crc);
        self.file.write_at(out.so_far(), self.place(generation))?;
        self.file.sync()?;
        self.generation = generation;
        Ok(())
    }

    fn place(&self, generation: u64) -> u64 {
        if generation.is_multiple_of(2) {
            0
        } else {
            wide(self.half_bytes)
        }
    }
}

fn parse(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut input = Decoder::new(bytes);
    if input.bytes(8)? != MAGIC {
        return None;
    }
    let generation = input.u64()?;
    let length = usize::try_from(input.u32()?).ok()?;
    let content = input.bytes(length)?;
    let covered = bytes.get(..length.checked_add(FRAME_BYTES.checked_sub(4)?)?)?;
    (crc32c::crc32c(covered) == input.u32()?).then_some((generation, content))
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
