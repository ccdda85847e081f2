//! Everything that the daemon reads from `/proc` and from cgroup folders, and how it opens small files of other software.
//!
//! A process is read through one descriptor of its folder ([`ProcessDir`]): once opened, all reads are of that very
//! process, or fail, whoever gets its pid next. Every read has a size limit. Nothing here keeps or interprets
//! anything; nothing here waits for a file system of the process (its root is entered by [`ProcessDir::root_file`]
//! only, which says what it refuses).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub mod parse;

pub use parse::{CapabilitySets, CgroupLine, IdRange, Malformed, Mount, NOT_SET, Stat, Status};

/// `/proc/PID/stat`: the longest name of a kernel thread and 51 numbers stay well below.
const STAT_MAX_BYTES: usize = 4096;
/// `/proc/PID/status`: 65,536 groups (NGROUPS_MAX) of up to 11 bytes and the rest.
const STATUS_MAX_BYTES: usize = 1 << 20;
/// `/proc/PID/cgroup`: a line per hierarchy, each at most PATH_MAX.
const CGROUP_MAX_BYTES: usize = 64 << 10;
/// `/proc/PID/mountinfo`: hosts of containers have thousands of mounts.
const MOUNTINFO_MAX_BYTES: usize = 8 << 20;
/// `/proc/PID/uid_map`: 340 lines of 33 bytes.
const ID_MAP_MAX_BYTES: usize = 64 << 10;
/// `/proc/stat`: its interrupt line grows with the number of interrupts.
const SYSTEM_STAT_MAX_BYTES: usize = 1 << 20;
/// `cgroup.procs` of one cgroup.
const CGROUP_PROCS_MAX_BYTES: usize = 4 << 20;
/// Folders below a cgroup that are looked into for processes or for an id.
const CGROUP_MAX_FOLDERS: usize = 65_536;
/// Depth of cgroups below the first.
const CGROUP_MAX_DEPTH: usize = 64;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// The process has ended, or the file does not exist (a kernel thread has no `exe`).
    #[error("{what} is gone")]
    Gone {
        /// File below `/proc/PID` or `/proc`.
        what: &'static str,
    },
    /// The kernel refuses it: CAP_SYS_PTRACE is missing, or a security module objects.
    #[error("reading {what} is not permitted")]
    NotPermitted {
        /// File below `/proc/PID` or `/proc`.
        what: &'static str,
    },
    /// The file does not look as the kernel writes it.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The file is larger than the limit for its kind.
    #[error("{what} is longer than {limit_bytes} bytes")]
    TooLarge {
        /// File below `/proc/PID` or `/proc`.
        what: &'static str,
        /// The limit, in bytes.
        limit_bytes: usize,
    },
    /// There are more entries than the limit for their kind.
    #[error("{what} has more than {limit} entries")]
    TooMany {
        /// Folder.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The file lies where it is not read: on another mount, behind a link out of the root, or it is no regular file.
    #[error("{what} is refused: {reason}")]
    Refused {
        /// File.
        what: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Anything else.
    #[error("reading {what} failed")]
    Failed {
        /// File below `/proc/PID` or `/proc`.
        what: &'static str,
        /// What the system call said.
        source: std::io::Error,
    },
}

impl ProcError {
    fn new(what: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::NOENT | Errno::SRCH => Self::Gone { what },
            Errno::ACCESS | Errno::PERM => Self::NotPermitted { what },
            Errno::XDEV => Self::Refused {
                what,
                reason: "it lies on another mount",
            },
            Errno::LOOP => Self::Refused {
                what,
                reason: "it is reached by a link of the kernel",
            },
            other => Self::Failed {
                what,
                source: other.into(),
            },
        }
    }
}

/// Bytes that were read, and whether there are more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    /// The first bytes, up to the limit.
    pub bytes: Vec<u8>,
    /// The file goes on.
    pub truncated: bool,
}

/// The namespaces of a process, in the order of `sensor_common::record::namespace`.
pub const NAMESPACES: [&str; 8] = ["mnt", "pid", "net", "uts", "ipc", "user", "cgroup", "time"];

/// A `/proc`.
#[derive(Clone, Debug)]
pub struct Proc {
    root: PathBuf,
}

impl Default for Proc {
    fn default() -> Self {
        Self::new("/proc")
    }
}

impl Proc {
    /// The `/proc` mounted at `root`: another than `/proc` for the host's, seen from a container, and in tests.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Opens the folder of a process.
    ///
    /// # Errors
    /// [`ProcError::Gone`] if there is none.
    pub fn process(&self, pid: u32) -> Result<ProcessDir, ProcError> {
        let mut path = self.root.clone();
        path.push(pid.to_string());
        ProcessDir::open(&path)
    }

    /// The daemon's own folder.
    ///
    /// # Errors
    /// As [`Proc::process`].
    pub fn own(&self) -> Result<ProcessDir, ProcError> {
        ProcessDir::open(&self.root.join("self"))
    }

    /// Every process there is.
    ///
    /// # Errors
    /// [`ProcError`] if the folder cannot be read.
    pub fn process_ids(&self) -> Result<Vec<u32>, ProcError> {
        let fail = |errno| ProcError::new("/proc", errno);
        let folder = open_folder(&self.root).map_err(fail)?;
        let mut all = Vec::new();
        for entry in Dir::new(folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if let Some(pid) = std::str::from_utf8(name)
                .ok()
                .and_then(|text| text.parse().ok())
            {
                all.push(pid);
            }
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Identity of this boot: `/proc/sys/kernel/random/boot_id`, 16 bytes.
    ///
    /// # Errors
    /// [`ProcError`] if it cannot be read or is no UUID.
    pub fn boot_id(&self) -> Result<[u8; 16], ProcError> {
        let bytes = read_file(&self.root.join("sys/kernel/random/boot_id"), "boot_id", 64)?;
        Ok(parse::uuid("boot_id", &bytes)?)
    }

    /// `btime` of `/proc/stat`: when the host was booted, in whole seconds since 1970.
    ///
    /// # Errors
    /// [`ProcError`] if it cannot be read or has no such line.
    pub fn boot_time_seconds(&self) -> Result<u64, ProcError> {
        let bytes = read_file(&self.root.join("stat"), "stat", SYSTEM_STAT_MAX_BYTES)?;
        Ok(parse::boot_time_seconds(&bytes)?)
    }
}

/// The folder of one process. All reads are of the process that had the pid when it was opened.
#[derive(Debug)]
pub struct ProcessDir {
    folder: OwnedFd,
}

impl ProcessDir {
    fn open(path: &Path) -> Result<Self, ProcError> {
        match open_folder(path) {
            Ok(folder) => Ok(Self { folder }),
            Err(errno) => Err(ProcError::new("process", errno)),
        }
    }

    /// `stat`: identity, parent, session, terminal, start.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn stat(&self) -> Result<Stat, ProcError> {
        Ok(Stat::parse(&self.read("stat", STAT_MAX_BYTES)?)?)
    }

    /// Resident memory in bytes, what is mapped from rings and files too: the second number of `statm`.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn resident_bytes(&self) -> Result<u64, ProcError> {
        let bytes = self.read("statm", STAT_MAX_BYTES)?;
        let pages = parse::resident_pages(&bytes)?;
        let page = u64::try_from(rustix::param::page_size()).unwrap_or_default();
        Ok(pages.saturating_mul(page))
    }

    /// How many descriptors are open: entries of `fd`.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn open_descriptors(&self) -> Result<usize, ProcError> {
        let fail = |errno| ProcError::new("fd", errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(&self.folder, "fd", flags, Mode::empty()).map_err(fail)?;
        let mut count = 0;
        for entry in Dir::new(folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if !entry.file_name().to_bytes().starts_with(b".") {
                count += 1;
            }
        }
        // The one that the folder was read with.
        Ok(usize::saturating_sub(count, 1))
    }

    /// `status`: users, groups, capabilities, pid in its own namespace.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn status(&self) -> Result<Status, ProcError> {
        Ok(Status::parse(&self.read("status", STATUS_MAX_BYTES)?)?)
    }

    /// `cmdline`: the arguments, each closed by a NUL, as the process itself may have changed them since its exec.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn cmdline(&self, limit_bytes: usize) -> Result<Limited, ProcError> {
        self.read_limited("cmdline", limit_bytes)
    }

    /// `environ`: the environment at exec, each variable closed by a NUL.
    ///
    /// # Errors
    /// [`ProcError`], by what failed; needs CAP_SYS_PTRACE for other users' processes.
    pub fn environ(&self, limit_bytes: usize) -> Result<Limited, ProcError> {
        self.read_limited("environ", limit_bytes)
    }

    /// Working directory, in the process's view; ends in ` (deleted)` if it is.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn working_directory(&self) -> Result<Vec<u8>, ProcError> {
        self.link("cwd")
    }

    /// Path of the executed file, in the process's view; ends in ` (deleted)` if it has no name any more.
    ///
    /// # Errors
    /// [`ProcError::Gone`] also for kernel threads, which have none.
    pub fn executable_path(&self) -> Result<Vec<u8>, ProcError> {
        self.link("exe")
    }

    /// What stat(2) says of the executed file itself, even if it was unlinked or replaced; opens nothing.
    ///
    /// # Errors
    /// [`ProcError::Gone`] also for kernel threads, which have none.
    pub fn executable_stat(&self) -> Result<rustix::fs::Stat, ProcError> {
        rustix::fs::statat(&self.folder, "exe", AtFlags::empty())
            .map_err(|errno| ProcError::new("exe", errno))
    }

    /// The executed file itself, even if it was unlinked or replaced, opened with `O_PATH`: good for stat(2), and for
    /// opening it again.
    ///
    /// # Errors
    /// [`ProcError::Gone`] also for kernel threads and for processes that have ended but were not waited for.
    pub fn executable_handle(&self) -> Result<OwnedFd, ProcError> {
        self.handle("exe", OFlags::empty())
    }

    /// Its root folder, opened with `O_PATH`.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn root_handle(&self) -> Result<OwnedFd, ProcError> {
        self.handle("root", OFlags::DIRECTORY)
    }

    /// Its working directory, opened with `O_PATH`.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn working_directory_handle(&self) -> Result<OwnedFd, ProcError> {
        self.handle("cwd", OFlags::DIRECTORY)
    }

    /// `loginuid`: who logged in, [`NOT_SET`] if nobody did.
    ///
    /// # Errors
    /// [`ProcError::Gone`] also where the kernel was built without audit.
    pub fn login_uid(&self) -> Result<u32, ProcError> {
        Ok(parse::number("loginuid", &self.read("loginuid", 64)?)?)
    }

    /// `sessionid`: audit session, [`NOT_SET`] if there is none.
    ///
    /// # Errors
    /// [`ProcError::Gone`] also where the kernel was built without audit.
    pub fn session_id(&self) -> Result<u32, ProcError> {
        Ok(parse::number("sessionid", &self.read("sessionid", 64)?)?)
    }

    /// `cgroup`: its place in every hierarchy.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn cgroup(&self) -> Result<Vec<CgroupLine>, ProcError> {
        Ok(parse::cgroup(&self.read("cgroup", CGROUP_MAX_BYTES)?)?)
    }

    /// Inode number of one of its [`NAMESPACES`].
    ///
    /// # Errors
    /// [`ProcError::Gone`] also where the kernel was built without this kind.
    pub fn namespace(&self, name: &'static str) -> Result<u32, ProcError> {
        let path = format!("ns/{name}");
        let link = rustix::fs::readlinkat(&self.folder, path, Vec::with_capacity(64))
            .map_err(|errno| ProcError::new("ns", errno))?;
        Ok(parse::namespace_link(link.to_bytes())?)
    }

    /// `mountinfo`: every mount in its view.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn mountinfo(&self) -> Result<Vec<Mount>, ProcError> {
        Ok(parse::mountinfo(
            &self.read("mountinfo", MOUNTINFO_MAX_BYTES)?,
        )?)
    }

    /// `uid_map`: how user ids of its user namespace appear here. Empty until someone writes it.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn uid_map(&self) -> Result<Vec<IdRange>, ProcError> {
        Ok(parse::id_map(&self.read("uid_map", ID_MAP_MAX_BYTES)?)?)
    }

    /// `gid_map`, likewise for groups.
    ///
    /// # Errors
    /// [`ProcError`], by what failed.
    pub fn gid_map(&self) -> Result<Vec<IdRange>, ProcError> {
        Ok(parse::id_map(&self.read("gid_map", ID_MAP_MAX_BYTES)?)?)
    }

    /// A regular file below the process's own root, opened there and nowhere else: symbolic links are followed inside
    /// the root only, other mounts are not entered.
    ///
    /// The file system of the root is asked and may keep the caller waiting if it is remote: look at
    /// [`ProcessDir::mountinfo`] first.
    ///
    /// # Errors
    /// [`ProcError::Refused`] for what is reached through another mount or is no regular file.
    pub fn root_file(&self, path: &str, what: &'static str) -> Result<OpenFile, ProcError> {
        let fail = |errno| ProcError::new(what, errno);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(&self.folder, "root", flags, Mode::empty()).map_err(fail)?;
        open_beneath(&root, path, what)
    }

    fn handle(&self, name: &'static str, kind: OFlags) -> Result<OwnedFd, ProcError> {
        rustix::fs::openat(
            &self.folder,
            name,
            OFlags::PATH | OFlags::CLOEXEC | kind,
            Mode::empty(),
        )
        .map_err(|errno| ProcError::new(name, errno))
    }

    fn link(&self, name: &'static str) -> Result<Vec<u8>, ProcError> {
        rustix::fs::readlinkat(&self.folder, name, Vec::with_capacity(256))
            .map(std::ffi::CString::into_bytes)
            .map_err(|errno| ProcError::new(name, errno))
    }

    fn read_limited(&self, name: &'static str, limit_bytes: usize) -> Result<Limited, ProcError> {
        let file = rustix::fs::openat(
            &self.folder,
            name,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| ProcError::new(name, errno))?;
        read_limited(&file, name, limit_bytes)
    }

    fn read(&self, name: &'static str, limit_bytes: usize) -> Result<Vec<u8>, ProcError> {
        whole(self.read_limited(name, limit_bytes)?, name, limit_bytes)
    }
}

/// The folder of one process, opened when first asked for, and only if the process is the one that was meant.
#[derive(Debug)]
pub struct LazyProcess<'a> {
    proc: &'a Proc,
    pid: u32,
    start_ticks: u64,
    state: LazyState,
}

#[derive(Debug)]
enum LazyState {
    Unopened,
    Open(ProcessDir, Box<Stat>),
    Gone,
}

impl<'a> LazyProcess<'a> {
    /// The process that has this pid and started at this tick.
    #[must_use]
    pub const fn new(proc: &'a Proc, pid: u32, start_ticks: u64) -> Self {
        Self {
            proc,
            pid,
            start_ticks,
            state: LazyState::Unopened,
        }
    }

    /// Its folder; `None` if it has ended, or its pid belongs to another by now.
    pub fn open(&mut self) -> Option<&ProcessDir> {
        self.open_with_stat().map(|(folder, _)| folder)
    }

    /// Its folder and what `stat` said, to keep.
    #[must_use]
    pub fn into_open(mut self) -> Option<(ProcessDir, Box<Stat>)> {
        self.open_with_stat()?;
        match self.state {
            LazyState::Open(folder, stat) => Some((folder, stat)),
            LazyState::Unopened | LazyState::Gone => None,
        }
    }

    fn open_with_stat(&mut self) -> Option<(&ProcessDir, &Stat)> {
        if matches!(self.state, LazyState::Unopened) {
            let opened = self.proc.process(self.pid).and_then(|folder| {
                let stat = folder.stat()?;
                Ok((folder, stat))
            });
            self.state = match opened {
                Ok((folder, stat)) if stat.start_ticks == self.start_ticks => {
                    LazyState::Open(folder, Box::new(stat))
                }
                Ok(_) | Err(_) => LazyState::Gone,
            };
        }
        match &self.state {
            LazyState::Open(folder, stat) => Some((folder, stat)),
            LazyState::Unopened | LazyState::Gone => None,
        }
    }
}

/// A regular file that was opened, with the identity and the size that it had then.
#[derive(Debug)]
pub struct OpenFile {
    file: OwnedFd,
    what: &'static str,
    /// What stat(2) said.
    pub stat: rustix::fs::Stat,
}

impl OpenFile {
    /// The whole content.
    ///
    /// # Errors
    /// [`ProcError::TooLarge`] beyond the limit.
    pub fn read(&self, limit_bytes: usize) -> Result<Vec<u8>, ProcError> {
        let read = read_limited(&self.file, self.what, limit_bytes)?;
        whole(read, self.what, limit_bytes)
    }
}

fn open_beneath(root: impl AsFd, path: &str, what: &'static str) -> Result<OpenFile, ProcError> {
    let fail = |errno| ProcError::new(what, errno);
    // O_NONBLOCK: a FIFO in the place of the file must not hold us.
    let file = rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
    )
    .map_err(fail)?;
    regular(file, what)
}

/// A folder of other software on the host, and what lies in it: no link leads out of it, no other mount is entered.
#[derive(Debug)]
pub struct Folder(OwnedFd);

impl Folder {
    /// The folder at `path` below `root`, where absolute links count from `root` as well. Without `links` a link on the way is
    /// refused: the path is then what it says.
    ///
    /// # Errors
    /// [`ProcError::Gone`] if there is none.
    pub fn open(root: &Path, path: &Path, links: bool) -> Result<Self, ProcError> {
        let fail = |errno| ProcError::new("folder", errno);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, flags, Mode::empty()).map_err(fail)?;
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if !links {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        let folder =
            rustix::fs::openat2(root, path, flags, Mode::empty(), resolve).map_err(fail)?;
        Ok(Self(folder))
    }

    /// A regular file in it.
    ///
    /// # Errors
    /// [`ProcError::Refused`] for what is reached through another mount or is no regular file.
    pub fn file(&self, path: &str, what: &'static str) -> Result<OpenFile, ProcError> {
        open_beneath(&self.0, path, what)
    }

    /// Names of the folders in a folder in it, at most `limit`.
    ///
    /// # Errors
    /// [`ProcError::TooMany`] beyond the limit.
    pub fn folders(
        &self,
        path: &str,
        what: &'static str,
        limit: usize,
    ) -> Result<Vec<String>, ProcError> {
        let fail = |errno| ProcError::new(what, errno);
        let folder = rustix::fs::openat2(
            &self.0,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
        )
        .map_err(fail)?;
        let mut names = Vec::new();
        for entry in Dir::new(folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_str().ok();
            let Some(name) = name.filter(|name| !name.starts_with('.')) else {
                continue;
            };
            if names.len() == limit {
                return Err(ProcError::TooMany { what, limit });
            }
            names.push(name.to_owned());
        }
        Ok(names)
    }
}

/// A regular file by its path, for the host's own files.
///
/// # Errors
/// [`ProcError::Refused`] for what is no regular file.
pub fn open_file(path: &Path, what: &'static str) -> Result<OpenFile, ProcError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| ProcError::new(what, errno))?;
    regular(file, what)
}

fn regular(file: OwnedFd, what: &'static str) -> Result<OpenFile, ProcError> {
    let stat = rustix::fs::fstat(&file).map_err(|errno| ProcError::new(what, errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(ProcError::Refused {
            what,
            reason: "it is no regular file",
        });
    }
    Ok(OpenFile { file, what, stat })
}

/// A small file by its path, for what lies outside `/proc` (`/etc/machine-id`).
///
/// # Errors
/// [`ProcError::TooLarge`] beyond the limit.
pub fn read_file(
    path: &Path,
    what: &'static str,
    limit_bytes: usize,
) -> Result<Vec<u8>, ProcError> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| ProcError::new(what, errno))?;
    whole(read_limited(&file, what, limit_bytes)?, what, limit_bytes)
}

/// The processes in a cgroup (version 2) and in those below it, each once.
///
/// # Errors
/// [`ProcError`] if the first folder cannot be read; folders that vanish meanwhile are passed over.
pub fn cgroup_processes(cgroup: &Path) -> Result<Vec<u32>, ProcError> {
    let mut all = read_cgroup_processes(&open_folder_of("cgroup", cgroup)?)?;
    walk_cgroups(cgroup, |_relative, folder, _inode| {
        // A cgroup that was removed, or a threaded one, which lists its processes in its domain.
        if let Ok(more) = read_cgroup_processes(folder) {
            all.extend(more);
        }
        true
    })?;
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Path of the cgroup with this id, from `mount` (where a version 2 hierarchy is mounted), with a leading slash; `None` if
/// there is none below it. Walks the whole hierarchy: not for the event path.
///
/// # Errors
/// [`ProcError`] if the first folder cannot be read.
pub fn cgroup_path(mount: &Path, cgroup_id: u64) -> Result<Option<Vec<u8>>, ProcError> {
    let top = open_folder_of("cgroup", mount)?;
    let stat = rustix::fs::fstat(&top).map_err(|errno| ProcError::new("cgroup", errno))?;
    if stat.st_ino == cgroup_id {
        return Ok(Some(b"/".to_vec()));
    }
    let mut found = None;
    walk_cgroups(mount, |relative, _folder, inode| {
        if inode == cgroup_id {
            found = Some(relative.to_vec());
        }
        found.is_none()
    })?;
    Ok(found)
}

/// Where version 2 of the cgroups is mounted in the daemon's view, whole or as far up as it can be seen; `None` if it is not.
/// In a cgroup namespace (the usual one of containers) the host's mount shows more than the container's own.
///
/// # Errors
/// [`ProcError`] if the mounts cannot be read.
pub fn cgroup2_mount(own: &ProcessDir) -> Result<Option<PathBuf>, ProcError> {
    Ok(highest_cgroup2_mount(own)?.map(|(_levels, mount)| mount))
}

/// The mount of version 2 whose root is highest, the first of several, and how many levels that is above the root of the
/// daemon's cgroup namespace.
fn highest_cgroup2_mount(own: &ProcessDir) -> Result<Option<(usize, PathBuf)>, ProcError> {
    use std::os::unix::ffi::OsStringExt as _;
    let mut highest: Option<(usize, PathBuf)> = None;
    for mount in own.mountinfo()? {
        if mount.fs_type == b"cgroup2"
            && let Some(levels) = levels_above(&mount.root)
            && highest.as_ref().is_none_or(|(most, _)| levels > *most)
        {
            let point = std::ffi::OsString::from_vec(mount.mount_point);
            highest = Some((levels, point.into()));
        }
    }
    Ok(highest)
}

/// `/`: 0, `/..`: 1, `/../..`: 2; `None` for what is below the root of the namespace, or beside it.
fn levels_above(root: &[u8]) -> Option<usize> {
    if root == b"/" {
        return Some(0);
    }
    let mut levels = 0;
    for part in root.strip_prefix(b"/")?.split(|&byte| byte == b'/') {
        if part != b".." {
            return None;
        }
        levels += 1;
    }
    Some(levels)
}

/// Path, from the hierarchy's root, of the cgroup that the daemon's cgroup namespace begins at. `None`: there is no such
/// namespace, or nothing shows what is above it. Looks for the daemon's own process in every cgroup: once, at start.
///
/// # Errors
/// [`ProcError`] if mounts, own place or cgroups cannot be read.
pub fn cgroup_namespace_root(own: &ProcessDir) -> Result<Option<Vec<u8>>, ProcError> {
    let Some((1.., mount)) = highest_cgroup2_mount(own)? else {
        return Ok(None);
    };
    let lines = own.cgroup()?;
    let Some(inside) = lines.iter().find(|line| line.hierarchy == 0) else {
        return Ok(None);
    };
    cgroup_of_process(&mount, std::process::id())
        .map(|found| found.and_then(|path| without_tail(&path, &inside.path)))
}

/// Path of the cgroup below `mount` that has this process.
fn cgroup_of_process(mount: &Path, pid: u32) -> Result<Option<Vec<u8>>, ProcError> {
    let mut found = None;
    walk_cgroups(mount, |relative, folder, _inode| {
        if read_cgroup_processes(folder).is_ok_and(|all| all.contains(&pid)) {
            found = Some(relative.to_vec());
        }
        found.is_none()
    })?;
    Ok(found)
}

/// `/a/b/c` without `/c`; without `/` it is whole.
fn without_tail(path: &[u8], tail: &[u8]) -> Option<Vec<u8>> {
    let tail = if tail == b"/" { b"" } else { tail };
    path.strip_suffix(tail).map(<[u8]>::to_vec)
}

fn read_cgroup_processes(folder: &OwnedFd) -> Result<Vec<u32>, ProcError> {
    let what = "cgroup.procs";
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, what, flags, Mode::empty())
        .map_err(|errno| ProcError::new(what, errno))?;
    let read = read_limited(&file, what, CGROUP_PROCS_MAX_BYTES)?;
    let bytes = whole(read, what, CGROUP_PROCS_MAX_BYTES)?;
    Ok(parse::process_ids(&bytes)?)
}

/// Visits every folder below `top` (path from it with a leading slash, descriptor, inode number) until `visit` says false.
fn walk_cgroups(
    top: &Path,
    mut visit: impl FnMut(&[u8], &OwnedFd, u64) -> bool,
) -> Result<(), ProcError> {
    let fail = |errno| ProcError::new("cgroup", errno);
    let first = open_folder_of("cgroup", top)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Paths wait, not descriptors: a cgroup can have thousands of children.
    let mut waiting = vec![(Vec::new(), 0_usize)];
    let mut seen = 0_usize;
    while let Some((path, depth)) = waiting.pop() {
        let here = match path.strip_prefix(b"/") {
            Some(relative) => rustix::fs::openat(&first, relative, flags, Mode::empty()),
            None => open_folder(top),
        };
        let Some(entries) = here.ok().and_then(|folder| Dir::new(folder).ok()) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name().to_bytes();
            if entry.file_type() != FileType::Directory || name == b"." || name == b".." {
                continue;
            }
            seen += 1;
            if seen > CGROUP_MAX_FOLDERS {
                return Err(ProcError::TooMany {
                    what: "cgroup",
                    limit: CGROUP_MAX_FOLDERS,
                });
            }
            let mut below = path.clone();
            below.push(b'/');
            below.extend_from_slice(name);
            let relative = below.strip_prefix(b"/").unwrap_or_default();
            let Ok(folder) = rustix::fs::openat(&first, relative, flags, Mode::empty()) else {
                continue;
            };
            let inode = rustix::fs::fstat(&folder).map_err(fail)?.st_ino;
            if !visit(&below, &folder, inode) {
                return Ok(());
            }
            if depth < CGROUP_MAX_DEPTH {
                waiting.push((below, depth + 1));
            }
        }
    }
    Ok(())
}

fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn open_folder_of(what: &'static str, path: &Path) -> Result<OwnedFd, ProcError> {
    open_folder(path).map_err(|errno| ProcError::new(what, errno))
}

fn whole(read: Limited, what: &'static str, limit_bytes: usize) -> Result<Vec<u8>, ProcError> {
    if read.truncated {
        return Err(ProcError::TooLarge { what, limit_bytes });
    }
    Ok(read.bytes)
}

fn read_limited(
    file: impl AsFd,
    what: &'static str,
    limit_bytes: usize,
) -> Result<Limited, ProcError> {
    // One byte more than the limit tells "just as long" from "longer".
    let most = limit_bytes.saturating_add(1);
    let mut bytes = Vec::new();
    let mut step = [0_u8; 4096];
    while bytes.len() < most {
        let room = step.len().min(most - bytes.len());
        let into = step.get_mut(..room).unwrap_or_default();
        match rustix::io::read(&file, into) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(step.get(..count).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(ProcError::new(what, errno)),
        }
    }
    let truncated = bytes.len() > limit_bytes;
    bytes.truncate(limit_bytes);
    Ok(Limited { bytes, truncated })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake() -> (tempfile::TempDir, Proc) {
        let folder = tempfile::tempdir().unwrap();
        let proc = Proc::new(folder.path());
        (folder, proc)
    }

    #[test]
    fn this_process_reads_itself_through_the_real_folder() {
        let own = Proc::default().own().unwrap();
        let stat = own.stat().unwrap();
        assert_eq!(stat.pid, std::process::id());
        assert!(stat.start_ticks > 0);
        assert!(!stat.kernel_thread());
        let status = own.status().unwrap();
        assert_eq!(status.uid[0], rustix::process::getuid().as_raw());
        assert!(status.capabilities.is_some());
        assert_eq!(
            own.executable_path().unwrap(),
            std::env::current_exe()
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        );
        assert_eq!(
            own.working_directory().unwrap(),
            std::env::current_dir()
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        );
        assert!(own.namespace("mnt").unwrap() > 0);
        own.cgroup().unwrap();
        assert!(
            own.mountinfo()
                .unwrap()
                .iter()
                .any(|mount| mount.mount_point == b"/")
        );
        assert!(!own.cmdline(32 << 10).unwrap().bytes.is_empty());
        assert!(own.cmdline(1).unwrap().truncated);
        assert!(!own.uid_map().unwrap().is_empty());
        assert!(Proc::default().process_ids().unwrap().contains(&stat.pid));
        assert_ne!(Proc::default().boot_id().unwrap(), [0; 16]);
        assert!(Proc::default().boot_time_seconds().unwrap() > 0);
        assert!(own.executable_stat().unwrap().st_size > 0);
    }

    #[test]
    fn the_root_of_the_own_cgroup_namespace_is_found_where_the_host_shows_it() {
        let (folder, proc) = fake();
        let (tree, own) = (folder.path().join("tree"), folder.path().join("self"));
        let pod = tree.join("kubepods.slice/pod");
        for (group, processes) in [
            (tree.join("system.slice/ssh.service"), "1\n2\n".to_owned()),
            (pod.join("pause"), "3\n".to_owned()),
            (pod.join("sensor"), format!("4\n{}\n", std::process::id())),
        ] {
            std::fs::create_dir_all(&group).unwrap();
            std::fs::write(group.join("cgroup.procs"), processes).unwrap();
        }
        std::fs::create_dir(&own).unwrap();
        let check = |roots: &[&str], inside: &str, namespace: Option<&str>, mount: &str| {
            let lines: String = roots
                .iter()
                .zip(["/sys/fs/cgroup", tree.to_str().unwrap()])
                .map(|(root, point)| format!("30 25 0:26 {root} {point} ro - cgroup2 cgroup2 rw\n"))
                .collect();
            std::fs::write(own.join("mountinfo"), lines).unwrap();
            std::fs::write(own.join("cgroup"), format!("0::{inside}\n")).unwrap();
            let process = proc.own().unwrap();
            let found = cgroup_namespace_root(&process).unwrap();
            assert_eq!(found.as_deref(), namespace.map(str::as_bytes), "{roots:?}");
            let shown = cgroup2_mount(&process).unwrap().unwrap();
            assert_eq!(shown, Path::new(mount), "{roots:?}");
        };
        let whole = tree.to_str().unwrap();
        check(
            &["/", "/../../.."],
            "/",
            Some("/kubepods.slice/pod/sensor"),
            whole,
        );
        check(
            &["/", "/../.."],
            "/sensor",
            Some("/kubepods.slice/pod"),
            whole,
        );
        // No namespace, or none that the mounts show more of; a part of the hierarchy is no mount of it.
        check(&["/"], "/kubepods.slice/pod/sensor", None, "/sys/fs/cgroup");
        check(&["/", "/../beside"], "/", None, "/sys/fs/cgroup");
        check(&["/", "/below"], "/", None, "/sys/fs/cgroup");
    }

    #[test]
    fn what_is_not_there_is_gone() {
        let (_folder, proc) = fake();
        assert!(matches!(
            proc.process(1),
            Err(ProcError::Gone { what: "process" })
        ));
        std::fs::create_dir(proc.root.join("1")).unwrap();
        let process = proc.process(1).unwrap();
        assert!(matches!(
            process.stat(),
            Err(ProcError::Gone { what: "stat" })
        ));
        assert!(matches!(
            process.executable_path(),
            Err(ProcError::Gone { what: "exe" })
        ));
        assert!(matches!(
            process.namespace("mnt"),
            Err(ProcError::Gone { what: "ns" })
        ));
    }

    #[test]
    fn too_large_and_malformed_files_say_so() {
        let (_folder, proc) = fake();
        std::fs::create_dir(proc.root.join("1")).unwrap();
        std::fs::write(proc.root.join("1/stat"), vec![b'x'; STAT_MAX_BYTES + 1]).unwrap();
        std::fs::write(proc.root.join("1/loginuid"), "minus one").unwrap();
        let process = proc.process(1).unwrap();
        assert!(matches!(
            process.stat(),
            Err(ProcError::TooLarge { what: "stat", .. })
        ));
        std::fs::write(proc.root.join("1/stat"), vec![b'x'; STAT_MAX_BYTES]).unwrap();
        let error = process.stat().unwrap_err();
        assert_eq!(error.to_string(), "malformed stat: comm");
        assert_eq!(
            process.login_uid().unwrap_err().to_string(),
            "malformed loginuid: number"
        );
    }

    #[test]
    fn a_process_is_read_through_its_own_folder_even_when_the_pid_is_used_again() {
        let (folder, proc) = fake();
        std::fs::create_dir(proc.root.join("7")).unwrap();
        std::fs::write(proc.root.join("7/loginuid"), "1").unwrap();
        let old = proc.process(7).unwrap();
        std::fs::rename(proc.root.join("7"), folder.path().join("old")).unwrap();
        std::fs::create_dir(proc.root.join("7")).unwrap();
        std::fs::write(proc.root.join("7/loginuid"), "2").unwrap();
        assert_eq!(old.login_uid().unwrap(), 1);
        assert_eq!(proc.process(7).unwrap().login_uid().unwrap(), 2);
    }

    #[test]
    fn files_of_a_root_stay_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(folder.path().join("secret"), "outside").unwrap();
        std::fs::write(root.join("inside"), "inside").unwrap();
        std::os::unix::fs::symlink("../../secret", root.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("/inside", root.join("etc/group")).unwrap();
        let open = |path, what| open_beneath(open_folder(&root).unwrap(), path, what);
        assert!(matches!(
            open("etc/passwd", "passwd"),
            Err(ProcError::Gone { .. })
        ));
        let group = open("etc/group", "group").unwrap();
        assert_eq!(group.read(64).unwrap(), b"inside");
        assert!(matches!(group.read(64), Ok(rest) if rest.is_empty()));
        nix::unistd::mkfifo(&root.join("etc/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(
            open("etc/fifo", "fifo"),
            Err(ProcError::Refused { what: "fifo", .. })
        ));
        let through_process = Proc::default().own().unwrap();
        through_process.root_file("etc/passwd", "passwd").unwrap();
    }

    #[test]
    fn a_tree_of_cgroups_is_walked() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a.slice/b.scope");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(folder.path().join("cgroup.procs"), "1\n").unwrap();
        std::fs::write(folder.path().join("a.slice/cgroup.procs"), "0\n5\n").unwrap();
        std::fs::write(deep.join("cgroup.procs"), "5\n9\n").unwrap();
        assert_eq!(cgroup_processes(folder.path()).unwrap(), [1, 5, 9]);
        let inode = rustix::fs::stat(&deep).unwrap().st_ino;
        let path = cgroup_path(folder.path(), inode).unwrap();
        assert_eq!(path.as_deref(), Some(b"/a.slice/b.scope".as_slice()));
        let top = rustix::fs::stat(folder.path()).unwrap().st_ino;
        assert_eq!(
            cgroup_path(folder.path(), top).unwrap().as_deref(),
            Some(b"/".as_slice())
        );
        assert_eq!(cgroup_path(folder.path(), u64::MAX).unwrap(), None);
        assert!(matches!(
            cgroup_processes(&folder.path().join("none")),
            Err(ProcError::Gone { what: "cgroup" })
        ));
    }
}
