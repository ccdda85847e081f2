//! Reaching the file of an event: by the process that has it, else by its path in the roots that can see it.
//!
//! Everything is opened with `O_PATH` first, which reads nothing, wakes no FIFO or device and no automount; only a regular
//! file on a file system that is read is opened again, for reading.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sensor_common::record::FileIdentity;
use sensor_proto::v1::HashSource;

use super::identity::{self, Devices, Match, OnDevice, Seen};
use super::{Place, ProcessStart, RefusedFileSystems, What};
use crate::enrich::file::descriptor_path;
use crate::kernel::sys;
use crate::procfs::{Proc, ProcError, ProcessDir};

/// File systems that find a file by inode number and generation: ext2 to ext4, XFS, F2FS.
const HANDLE_MAGICS: [u64; 3] = [0xef53, 0x5846_5342, 0xf2f5_2010];

/// A file that was reached, opened with `O_PATH`.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) file: OwnedFd,
    pub(crate) source: HashSource,
    pub(crate) seen: Seen,
    /// How it compares with the event; `None`: the event says nothing.
    pub(super) matched: Option<Match>,
    /// Whether it lies on the device of the event.
    pub(super) device: OnDevice,
    /// The process whose executable it is, if it was reached that way.
    pub(super) process: Option<Arc<ProcessDir>>,
    /// Default access list of the folder that it was reached through, for created files.
    pub(crate) default_acl: Option<String>,
}

impl Reached {
    /// Whether it lies on the device of the event.
    pub(crate) fn on_device(&self) -> bool {
        self.device == OnDevice::Yes
    }
}

/// Why no file was reached. Ordered: what says more comes later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unreached {
    /// It has no name (any more) that can be reached.
    Gone,
    /// Opening failed, or it is no regular file.
    Unreadable,
    /// It lies on a file system that is not read.
    Refused,
    /// The name is that of another file now.
    Replaced,
}

/// What opening needs to know.
#[derive(Debug)]
pub(crate) struct Opener {
    proc: Proc,
    tick_ns: u64,
    own_mount_namespace: Option<u32>,
    own: Option<ProcessDir>,
    pub(super) devices: Devices,
    refused: RefusedFileSystems,
}

impl Opener {
    /// `tick_ns`: length of a clock tick; `refused`: file systems that are not read.
    pub(crate) fn new(proc: Proc, tick_ns: u64, refused: RefusedFileSystems) -> Self {
        let own = proc.own().ok();
        if let Err(errno) = openat2_works() {
            // ENOSYS where systemd's RestrictSUIDSGID forbids it, EPERM below old profiles of container runtimes.
            tracing::error!(%errno, "openat2 is refused: scripts and created files are not hashed");
        }
        Self {
            own_mount_namespace: own.as_ref().and_then(|own| own.namespace("mnt").ok()),
            own,
            proc,
            tick_ns: tick_ns.max(1),
            devices: Devices::default(),
            refused,
        }
    }

    /// Whether files of this kind of file system are read.
    pub(crate) fn reads(&self, magic: u64) -> bool {
        self.refused.reads(magic)
    }

    /// The folder of a process, if it is still the one that started then. It stays that one's, whoever gets the pid next.
    fn process(&self, start: ProcessStart) -> Option<Arc<ProcessDir>> {
        let process = self.proc.process(start.tgid).ok()?;
        self.is_alive(&process, start).then(|| Arc::new(process))
    }

    /// A process through whose root the paths of `place` can be meant.
    fn fallback(&self, place: &Place) -> Option<Arc<ProcessDir>> {
        let process = self.process(place.fallback?)?;
        let same = place.mount_namespace == 0
            || process.namespace("mnt").ok() == Some(place.mount_namespace);
        same.then_some(process)
    }

    fn is_alive(&self, process: &ProcessDir, start: ProcessStart) -> bool {
        let ticks = start.start_boot_ns.checked_div(self.tick_ns).unwrap_or(0);
        process
            .stat()
            .is_ok_and(|stat| stat.start_ticks == ticks && !matches!(stat.state, b'Z' | b'X'))
    }

    /// Whether `file` is, right now, the executable of a process that runs it.
    pub(super) fn runs(&self, process: &ProcessDir, start: ProcessStart, seen: &Seen) -> bool {
        let executable = process.executable_stat();
        executable.is_ok_and(|stat| {
            stat.st_ino == seen.identity.inode
                && identity::device_of(stat.st_dev) == seen.identity.device
        }) && self.is_alive(process, start)
    }

    /// Opens the file of `place`, trying one way after the other until one leads to the file of the event.
    pub(crate) fn reach(
        &self,
        what: What,
        place: &Place,
        expected: Option<&FileIdentity>,
    ) -> Result<Reached, Unreached> {
        let mut best = Unreached::Gone;
        let mut changed = None;
        let mut accept = |found: Result<Reached, Unreached>| match found {
            Ok(reached) if reached.matched != Some(Match::Content) => Some(reached),
            Ok(reached) => {
                // The same inode with other content: no other way leads to better.
                changed.get_or_insert(reached);
                None
            }
            Err(reason) => {
                best = best.max(reason);
                None
            }
        };
        let process = place.process.and_then(|start| self.process(start));
        if what == What::Executed
            && let Some(process) = &process
        {
            let found = self.executable(process, expected);
            if let Some(reached) = accept(found) {
                return Ok(reached);
            }
        }
        if let Some(path) = &place.path {
            if let Some(process) = &process
                && let Some(reached) = accept(self.by_process(what, process, path, expected))
            {
                return Ok(reached);
            }
            if path.starts_with(b"/")
                && let Some(fallback) = self.fallback(place)
                && let Some(reached) = accept(self.by_process(what, &fallback, path, expected))
            {
                return Ok(reached);
            }
            if path.starts_with(b"/")
                && self.own_view(place, expected)
                && let Some(reached) = accept(self.by_own_root(what, path, expected))
            {
                return Ok(reached);
            }
        }
        if changed.is_none()
            && matches!(best, Unreached::Gone | Unreached::Replaced)
            && let Some(expected) = expected
            && let Some(reached) = self.by_inode(place, process.as_deref(), expected)
        {
            return Ok(reached);
        }
        changed.ok_or(best)
    }

    /// The file by its inode number and generation, if it was renamed: what is written under another name first and
    /// renamed when done is the habit of editors, package managers and browsers. Found in the folder's file system, where
    /// that has handles of this kind.
    fn by_inode(
        &self,
        place: &Place,
        process: Option<&ProcessDir>,
        expected: &FileIdentity,
    ) -> Option<Reached> {
        if expected.generation == 0 || !HANDLE_MAGICS.contains(&expected.fs_magic) {
            return None;
        }
        let inode = u32::try_from(expected.inode).ok()?;
        let path = place
            .path
            .as_deref()
            .filter(|path| path.starts_with(b"/"))?;
        let cut = path.iter().rposition(|&byte| byte == b'/')?;
        let folder = path.get(..=cut)?;
        let base = match process {
            Some(process) => process.root_handle().ok()?,
            None => match self.fallback(place) {
                Some(fallback) => fallback.root_handle().ok()?,
                None if self.own_view(place, Some(expected)) => own_root().ok()?,
                None => return None,
            },
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let folder = rustix::fs::openat2(&base, folder, flags, Mode::empty(), resolve).ok()?;
        let file = sys::open_inode(folder.as_fd(), inode, expected.generation).ok()?;
        // On the folder's file system: only if that is the one of the event is it the file.
        let reached = self.examine(file, HashSource::Path, Some(expected), None, process);
        reached
            .ok()
            .filter(|reached| reached.seen.identity.device == expected.device)
    }

    /// Whether a path of the event can be meant in the daemon's own root. A process in the same mount namespace may
    /// still have another root: without an identity to compare with, only its own root will do.
    fn own_view(&self, place: &Place, expected: Option<&FileIdentity>) -> bool {
        expected.is_some()
            && (place.mount_namespace == 0
                || Some(place.mount_namespace) == self.own_mount_namespace)
    }

    fn executable(
        &self,
        process: &Arc<ProcessDir>,
        expected: Option<&FileIdentity>,
    ) -> Result<Reached, Unreached> {
        let file = process.executable_handle().map_err(|error| {
            if matches!(error, ProcError::Gone { .. }) {
                Unreached::Gone
            } else {
                Unreached::Unreadable
            }
        })?;
        let mut reached = self.examine(file, HashSource::ProcExe, expected, None, Some(process))?;
        reached.process = Some(Arc::clone(process));
        Ok(reached)
    }

    fn by_process(
        &self,
        what: What,
        process: &ProcessDir,
        path: &[u8],
        expected: Option<&FileIdentity>,
    ) -> Result<Reached, Unreached> {
        let absolute = path.starts_with(b"/");
        let base = if absolute {
            process.root_handle()
        } else {
            process.working_directory_handle()
        }
        .map_err(|_error| Unreached::Gone)?;
        let resolve = if absolute {
            ResolveFlags::IN_ROOT
        } else if expected.is_some() {
            // May leave the folder by `..`, and even the root by a link: the identity tells.
            ResolveFlags::empty()
        } else {
            ResolveFlags::BENEATH
        };
        self.by_path(what, base.as_fd(), path, resolve, expected, Some(process))
    }

    fn by_own_root(
        &self,
        what: What,
        path: &[u8],
        expected: Option<&FileIdentity>,
    ) -> Result<Reached, Unreached> {
        let root = own_root().map_err(unreached)?;
        let own = self.own.as_ref();
        self.by_path(
            what,
            root.as_fd(),
            path,
            ResolveFlags::IN_ROOT,
            expected,
            own,
        )
    }

    fn by_path(
        &self,
        what: What,
        base: BorrowedFd<'_>,
        path: &[u8],
        resolve: ResolveFlags,
        expected: Option<&FileIdentity>,
        viewer: Option<&ProcessDir>,
    ) -> Result<Reached, Unreached> {
        let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if what != What::Created {
            let file = rustix::fs::openat2(base, path, flags, Mode::empty(), resolve)
                .map_err(unreached)?;
            return self.examine(file, HashSource::Path, expected, None, viewer);
        }
        // The folder first: new files take its default access list over.
        flags |= OFlags::NOFOLLOW;
        let cut = path.iter().rposition(|&byte| byte == b'/');
        let name = path.get(cut.map_or(0, |cut| cut + 1)..).unwrap_or_default();
        let folder = match cut {
            Some(0) => b"/",
            Some(cut) => path.get(..cut).unwrap_or_default(),
            None => b".",
        };
        let folder_flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
        let folder = rustix::fs::openat2(base, folder, folder_flags, Mode::empty(), resolve)
            .map_err(unreached)?;
        let file = rustix::fs::openat(&folder, name, flags, Mode::empty()).map_err(unreached)?;
        let mut reached = self.examine(file, HashSource::Path, expected, None, viewer)?;
        reached.default_acl = crate::enrich::file::default_access_list(folder.as_fd());
        Ok(reached)
    }

    /// Looks at what was opened: it must be a regular file on a file system that is read, and the one expected.
    /// `device`: what was found out about it before; `viewer`: the process through whose mounts it was opened.
    pub(super) fn examine(
        &self,
        file: OwnedFd,
        source: HashSource,
        expected: Option<&FileIdentity>,
        device: Option<OnDevice>,
        viewer: Option<&ProcessDir>,
    ) -> Result<Reached, Unreached> {
        let seen =
            identity::observe(file.as_fd(), expected).map_err(|_error| Unreached::Unreadable)?;
        let matched = expected.map(|expected| identity::compare(expected, &seen.identity));
        if matched == Some(Match::Other) {
            return Err(Unreached::Replaced);
        }
        let device = match expected {
            _ if device == Some(OnDevice::Yes) => OnDevice::Yes,
            Some(expected) => self.devices.establish(expected.device, &seen, viewer),
            None => OnDevice::Unknown,
        };
        if device == OnDevice::No {
            return Err(Unreached::Replaced);
        }
        let regular = FileType::from_raw_mode(seen.identity.mode) == FileType::RegularFile;
        if !regular {
            return Err(Unreached::Unreadable);
        }
        if !self.reads(seen.identity.fs_magic) {
            return Err(Unreached::Refused);
        }
        Ok(Reached {
            file,
            source,
            seen,
            matched,
            device,
            process: None,
            default_acl: None,
        })
    }
}

/// Opens a regular file for reading that was reached with `O_PATH`, without moving its access time where permitted.
pub(crate) fn open_for_reading(file: impl AsFd) -> Result<OwnedFd, Errno> {
    let path = descriptor_path(file);
    // O_NONBLOCK: someone who holds a write lease on the file must not hold us.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match rustix::fs::open(&path, flags | OFlags::NOATIME, Mode::empty()) {
        // Neither owner nor CAP_FOWNER.
        Err(Errno::PERM) => rustix::fs::open(&path, flags, Mode::empty()),
        opened => opened,
    }
}

/// Whether openat2(2) is there and allowed; without it no path is followed safely.
fn openat2_works() -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(own_root()?, "/", flags, Mode::empty(), resolve).map(drop)
}

fn own_root() -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty())
}

fn unreached(errno: Errno) -> Unreached {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::SRCH => Unreached::Gone,
        _ => Unreached::Unreadable,
    }
}
