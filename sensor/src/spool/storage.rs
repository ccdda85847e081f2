//! What the spool asks of a file system. The second implementation is the one of the model test
//! (`tests/tests/spool_model.rs`), which loses what was not synced.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, StatxFlags};

/// Entries of one folder that are looked at; the spool itself makes fewer.
const NAMES_MAX: usize = 65_536;

/// Reading at a place: files, and byte strings in tests and fuzzing.
pub trait ReadAt {
    /// Reads some bytes at an offset; 0 at the end.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for &[u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..))
            .unwrap_or_default();
        let length = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        Ok(length)
    }
}

/// An open file.
pub trait StorageFile: ReadAt + Send + Sync + Debug + Sized {
    /// Writes all bytes at an offset.
    ///
    /// # Errors
    /// What the system says; some of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Length, bytes.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self) -> io::Result<u64>;

    /// Cuts it.
    ///
    /// # Errors
    /// What the system says.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Makes content and length durable (fdatasync).
    ///
    /// # Errors
    /// What the system says; what was written since the last success may be gone then, even if a later call succeeds.
    fn sync(&self) -> io::Result<()>;
}

/// Which file it is, for as long as it is not copied: a restored or copied file has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Inode number.
    pub inode: u64,
    /// When the inode came into being, ns since 1970; 0 where the file system does not say.
    pub birth_ns: i64,
}

/// A file system below one folder. Paths are relative to that folder.
pub trait Storage: Send + Sync + Debug {
    /// Its files.
    type File: StorageFile;

    /// Names in a folder, without order; a folder that is not there has none.
    ///
    /// # Errors
    /// What the system says.
    fn names(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Makes a folder (0700) if it is not there; its parent is.
    ///
    /// # Errors
    /// What the system says.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;

    /// Makes names in a folder durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Makes a file (0600) that was not there.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Opens a file that is there, for reading and, if asked, writing.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self, path: &Path, write: bool) -> io::Result<Self::File>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder.
    ///
    /// # Errors
    /// What the system says.
    fn remove_folder(&self, folder: &Path) -> io::Result<()>;

    /// Which file it is.
    ///
    /// # Errors
    /// What the system says.
    fn fingerprint(&self, path: &Path) -> io::Result<Fingerprint>;

    /// 128 random bits.
    ///
    /// # Errors
    /// What the system says.
    fn random(&self) -> io::Result<[u8; 16]>;
}

/// A folder of the host, locked: two processes never have the same one.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    /// The lock goes with the descriptor. Where there is no folder: why it could not be made.
    lock: Result<File, io::Error>,
}

/// Why a state directory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process has it.
    #[error("the state directory {path:?} is in use by another process")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It is there and cannot be opened, or is not a folder.
    #[error("state directory {path:?}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Disk {
    /// Takes the folder, which is made (0700) if it is not there, and locks it. A folder that cannot be made, on a
    /// read-only file system say, is no error: everything fails then, and the spool falls back to memory.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn lock(root: &Path) -> Result<Self, DiskError> {
        let error = |source| DiskError::Io {
            path: root.to_owned(),
            source,
        };
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root);
        let folder = match (File::open(root), made) {
            (Ok(folder), _) => folder,
            (Err(source), Err(refused)) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    root: root.to_owned(),
                    lock: Err(refused),
                });
            }
            (Err(source), _) => return Err(error(source)),
        };
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(DiskError::InUse {
                    path: root.to_owned(),
                });
            }
            Err(errno) => return Err(error(errno.into())),
        }
        // Somebody may have made it with other rights; what cannot be changed stays as it is.
        let private = rustix::fs::fchmod(&folder, rustix::fs::Mode::from_raw_mode(0o700));
        if let Err(errno) = private {
            tracing::warn!(path = ?root, error = %errno, "rights of the state directory cannot be narrowed");
        }
        Ok(Self {
            root: root.to_owned(),
            lock: Ok(folder),
        })
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// What cannot be made since the folder itself could not is told by why that could not.
    fn made<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| match &self.lock {
            Err(refused) if error.kind() == io::ErrorKind::NotFound => {
                io::Error::new(refused.kind(), format!("{:?}: {refused}", self.root))
            }
            Ok(_) | Err(_) => error,
        })
    }
}

impl ReadAt for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

impl StorageFile for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.size())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl Storage for Disk {
    type File = File;

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.at(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries.take(NAMES_MAX) {
            // Names that are not text are not ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        let made = fs::DirBuilder::new().mode(0o700).create(self.at(folder));
        match self.made(made) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(self.at(folder))?.sync_all()
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let created = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.at(path));
        self.made(created)
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(rustix_nofollow())
            .open(self.at(path))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir(self.at(folder))
    }

    fn fingerprint(&self, path: &Path) -> io::Result<Fingerprint> {
        let stat = rustix::fs::statx(
            rustix::fs::CWD,
            self.at(path),
            AtFlags::SYMLINK_NOFOLLOW,
            StatxFlags::INO | StatxFlags::BTIME,
        )?;
        let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let birth_ns = if has_birth {
            stat.stx_btime
                .tv_sec
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(stat.stx_btime.tv_nsec))
        } else {
            0
        };
        Ok(Fingerprint {
            inode: stat.stx_ino,
            birth_ns,
        })
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        let length = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        if length == bytes.len() {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// `O_NOFOLLOW` as the standard library takes it.
fn rustix_nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
}
