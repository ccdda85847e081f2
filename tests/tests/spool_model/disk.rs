//! A file system in memory that forgets what was not synced, tears writes, fails on demand, and stops in the middle of an
//! operation.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sensor::spool::storage::{Fingerprint, ReadAt, Storage, StorageFile};

/// Random numbers that come again with the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }

    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

/// What is wrong with the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Nothing grows; what is there can be overwritten and removed.
    Full,
    /// Nothing changes.
    ReadOnly,
    /// Writes seem to work; syncs fail, and what they should have written never gets to the disk.
    SyncFails,
    /// Reads of segments fail.
    ReadFails,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Cut(usize),
}

#[derive(Clone, Debug, Default)]
struct Node {
    content: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                let end = at + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*at..end].copy_from_slice(bytes);
            }
            Self::Cut(length) => content.resize(*length, 0),
        }
    }
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Folder(PathBuf),
    NoFolder(PathBuf),
}

#[derive(Clone, Debug, Default)]
struct Names {
    files: BTreeMap<PathBuf, u64>,
    folders: BTreeSet<PathBuf>,
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link(path, inode) => {
                self.files.insert(path.clone(), *inode);
            }
            NameChange::Unlink(path) => {
                self.files.remove(path);
            }
            NameChange::Folder(path) => {
                self.folders.insert(path.clone());
            }
            NameChange::NoFolder(path) => {
                self.folders.remove(path);
            }
        }
    }
}

#[derive(Debug)]
struct Inner {
    nodes: BTreeMap<u64, Node>,
    names: Names,
    durable_names: Names,
    pending_names: BTreeMap<PathBuf, Vec<NameChange>>,
    next_inode: u64,
    random: Random,
    fault: Fault,
    /// Changes of the disk so far, and the one in which everything stops.
    changes: u64,
    stop_at: Option<u64>,
    stopped: bool,
}

/// The file system; clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct World(Arc<Mutex<Inner>>);

/// A file of it.
#[derive(Debug)]
pub(crate) struct WorldFile {
    world: World,
    inode: u64,
    segment: bool,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

impl Inner {
    /// Counts a change; false if everything stops in this one.
    fn tick(&mut self) -> io::Result<bool> {
        if self.stopped {
            return Err(errno(EIO));
        }
        self.changes += 1;
        if self.stop_at.is_some_and(|stop| self.changes >= stop) {
            self.stopped = true;
            return Ok(false);
        }
        if self.fault == Fault::ReadOnly {
            return Err(errno(EROFS));
        }
        Ok(true)
    }

    fn rename(&mut self, folder: &Path, change: NameChange) -> io::Result<()> {
        // In the change that is the last one it is open whether it happened.
        let whole = self.tick()?;
        if whole || self.random.one_in(2) {
            self.names.apply(&change);
            self.pending_names
                .entry(folder.to_owned())
                .or_default()
                .push(change);
        }
        if whole { Ok(()) } else { Err(errno(EIO)) }
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            nodes: BTreeMap::new(),
            names: Names::default(),
            durable_names: Names::default(),
            pending_names: BTreeMap::new(),
            next_inode: 100,
            random: Random::new(seed),
            fault: Fault::None,
            changes: 0,
            stop_at: None,
            stopped: false,
        })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy with a life of its own.
    pub(crate) fn fork(&self) -> Self {
        let inner = self.inner();
        Self(Arc::new(Mutex::new(Inner {
            nodes: inner.nodes.clone(),
            names: inner.names.clone(),
            durable_names: inner.durable_names.clone(),
            pending_names: inner.pending_names.clone(),
            random: inner.random.clone(),
            ..*inner
        })))
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        self.inner().fault = fault;
    }

    pub(crate) fn fault(&self) -> Fault {
        self.inner().fault
    }

    /// Stops everything in the `changes`th change from now.
    pub(crate) fn stop_in(&self, changes: u64) {
        let mut inner = self.inner();
        inner.stop_at = Some(inner.changes + changes);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.inner().stopped
    }

    pub(crate) fn changes(&self) -> u64 {
        self.inner().changes
    }

    /// The process is gone; what it had written is not.
    pub(crate) fn kill(&self) {
        let mut inner = self.inner();
        inner.stopped = false;
        inner.stop_at = None;
    }

    /// The power is gone: of what was not synced some is there, some not, and some in part.
    pub(crate) fn cut_power(&self) {
        self.kill();
        let mut inner = self.inner();
        let Inner {
            nodes,
            names,
            durable_names,
            pending_names,
            random,
            ..
        } = &mut *inner;
        for changes in std::mem::take(pending_names).values() {
            let kept = random.below(changes.len() + 1);
            for change in &changes[..kept] {
                durable_names.apply(change);
            }
        }
        let folders = durable_names.folders.clone();
        durable_names.files.retain(|path, _| {
            let folder = parent(path);
            folder.as_os_str().is_empty() || folders.contains(&folder)
        });
        *names = durable_names.clone();
        let alive: BTreeSet<u64> = names.files.values().copied().collect();
        nodes.retain(|inode, _| alive.contains(inode));
        for node in nodes.values_mut() {
            for change in std::mem::take(&mut node.pending) {
                match (random.below(3), change) {
                    (0, change) => change.apply(&mut node.durable),
                    (1, Change::Write(at, bytes)) => {
                        let kept = random.below(bytes.len() + 1);
                        Change::Write(at, bytes[..kept].to_vec()).apply(&mut node.durable);
                    }
                    (_, _) => {}
                }
            }
            node.content = node.durable.clone();
        }
    }

    /// Files and their lengths.
    pub(crate) fn files(&self) -> Vec<(PathBuf, usize)> {
        let inner = self.inner();
        inner
            .names
            .files
            .iter()
            .map(|(path, inode)| (path.clone(), inner.nodes[inode].content.len()))
            .collect()
    }

    /// Changes a byte where it lies.
    pub(crate) fn flip(&self, path: &Path, at: usize, by: u8) {
        let mut inner = self.inner();
        let inode = inner.names.files[path];
        let node = inner.nodes.get_mut(&inode).unwrap();
        node.content[at] ^= by;
        if let Some(byte) = node.durable.get_mut(at) {
            *byte ^= by;
        }
    }

    /// What a file has.
    pub(crate) fn content(&self, path: &Path) -> Vec<u8> {
        let inner = self.inner();
        inner.nodes[&inner.names.files[path]].content.clone()
    }

    /// A file goes, and nobody knows why.
    pub(crate) fn lose(&self, path: &Path) {
        let mut inner = self.inner();
        inner.names.files.remove(path);
        inner.durable_names.files.remove(path);
    }

    fn file(&self, path: &Path, inode: u64) -> WorldFile {
        WorldFile {
            world: self.clone(),
            inode,
            segment: path.extension().is_some_and(|extension| extension == "seg"),
        }
    }
}

impl ReadAt for WorldFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let inner = self.world.inner();
        if inner.stopped || (inner.fault == Fault::ReadFails && self.segment) {
            return Err(errno(EIO));
        }
        inner.nodes.get(&self.inode).map_or(Ok(0), |node| {
            node.content.as_slice().read_at(buffer, offset)
        })
    }
}

impl StorageFile for WorldFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut inner = self.world.inner();
        let whole = inner.tick()?;
        let at = usize::try_from(offset).unwrap();
        let Inner {
            nodes,
            random,
            fault,
            ..
        } = &mut *inner;
        // A removed file that is still open: nobody will see it again.
        let Some(node) = nodes.get_mut(&self.inode) else {
            return Ok(());
        };
        let full = *fault == Fault::Full && at + bytes.len() > node.content.len();
        let written = if whole && !full {
            bytes.len()
        } else {
            random.below(bytes.len() + 1)
        };
        let change = Change::Write(at, bytes[..written].to_vec());
        change.apply(&mut node.content);
        node.pending.push(change);
        match (whole, full) {
            (true, false) => Ok(()),
            (true, true) => Err(errno(ENOSPC)),
            (false, _) => Err(errno(EIO)),
        }
    }

    fn length(&self) -> io::Result<u64> {
        let inner = self.world.inner();
        Ok(inner
            .nodes
            .get(&self.inode)
            .map_or(0, |node| u64::try_from(node.content.len()).unwrap()))
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut inner = self.world.inner();
        let whole = inner.tick()?;
        let change = Change::Cut(usize::try_from(length).unwrap());
        if let Some(node) = inner.nodes.get_mut(&self.inode) {
            change.apply(&mut node.content);
            node.pending.push(change);
        }
        if whole { Ok(()) } else { Err(errno(EIO)) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.world.inner();
        if inner.stopped {
            return Err(errno(EIO));
        }
        if inner.fault != Fault::ReadOnly && !inner.tick()? {
            return Err(errno(EIO));
        }
        let fails = inner.fault == Fault::SyncFails;
        let Some(node) = inner.nodes.get_mut(&self.inode) else {
            return Ok(());
        };
        let pending = std::mem::take(&mut node.pending);
        if fails {
            return if pending.is_empty() {
                Ok(())
            } else {
                Err(errno(EIO))
            };
        }
        for change in pending {
            change.apply(&mut node.durable);
        }
        Ok(())
    }
}

impl Storage for World {
    type File = WorldFile;

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let inner = self.inner();
        if inner.stopped {
            return Err(errno(EIO));
        }
        Ok(inner
            .names
            .files
            .keys()
            .chain(&inner.names.folders)
            .filter(|path| path.parent() == Some(folder))
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect())
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        if inner.names.folders.contains(folder) {
            return Ok(());
        }
        if inner.fault == Fault::Full {
            return Err(errno(ENOSPC));
        }
        inner.rename(&parent(folder), NameChange::Folder(folder.to_owned()))
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        if inner.fault != Fault::ReadOnly && !inner.tick()? {
            return Err(errno(EIO));
        }
        if inner.fault == Fault::SyncFails {
            return Err(errno(EIO));
        }
        for change in inner.pending_names.remove(folder).unwrap_or_default() {
            inner.durable_names.apply(&change);
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<WorldFile> {
        let mut inner = self.inner();
        if inner.names.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let folder = parent(path);
        if !folder.as_os_str().is_empty() && !inner.names.folders.contains(&folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if inner.fault == Fault::Full {
            return Err(errno(ENOSPC));
        }
        inner.next_inode += 1;
        let inode = inner.next_inode;
        inner.nodes.insert(inode, Node::default());
        inner.rename(&folder, NameChange::Link(path.to_owned(), inode))?;
        drop(inner);
        Ok(self.file(path, inode))
    }

    fn open(&self, path: &Path, write: bool) -> io::Result<WorldFile> {
        let inner = self.inner();
        if inner.stopped {
            return Err(errno(EIO));
        }
        let inode = *inner.names.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        if write && inner.fault == Fault::ReadOnly {
            return Err(errno(EROFS));
        }
        drop(inner);
        Ok(self.file(path, inode))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        if !inner.names.files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.rename(&parent(path), NameChange::Unlink(path.to_owned()))
    }

    fn remove_folder(&self, folder: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        let inside = |path: &PathBuf| path.parent() == Some(folder);
        if inner.names.files.keys().any(inside) || inner.names.folders.iter().any(inside) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        inner.rename(&parent(folder), NameChange::NoFolder(folder.to_owned()))
    }

    fn fingerprint(&self, path: &Path) -> io::Result<Fingerprint> {
        let inner = self.inner();
        let inode = inner.names.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Fingerprint {
            inode: *inode,
            birth_ns: 0,
        })
    }

    fn random(&self) -> io::Result<[u8; 16]> {
        let mut inner = self.inner();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&inner.random.next().to_le_bytes());
        bytes[8..].copy_from_slice(&inner.random.next().to_le_bytes());
        Ok(bytes)
    }
}
