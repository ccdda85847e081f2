//! Records of the file family.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Header, Subject, Text};

/// Which file, and which content, as the kernel's inode had it at that moment.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct FileIdentity {
    /// `i_ino`. 0: not observed.
    pub inode: u64,
    /// `i_size` in bytes.
    pub size: u64,
    /// Modification time, ns since the epoch.
    pub mtime_ns: i64,
    /// Change time, ns since the epoch (the multigrain "queried" bit removed).
    pub ctime_ns: i64,
    /// `s_magic`: file system type as in statfs(2).
    pub fs_magic: u64,
    /// Raw `i_version`; meaningful only for comparison on one kernel. 0: not observed.
    pub version: u64,
    /// `s_dev` as the kernel has it: major << 20 | minor. The device of the mount, not always `st_dev`.
    pub device: u32,
    /// `i_generation`. 0: the file system keeps none.
    pub generation: u32,
    /// `i_mode`: type and permissions.
    pub mode: u32,
    /// Owner, in the initial user namespace.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// `i_nlink`; 0: the file has no name any more (or never had: memfd, O_TMPFILE).
    pub nlink: u32,
}
const _: () = assert!(
    size_of::<FileIdentity>() == 72,
    "layout changed: bump ABI_VERSION"
);

/// How a file came into being: values of [`FileCreateRecord::how`].
pub mod create {
    /// open(2), creat(2), openat2(2), io_uring: `FMODE_CREATED`.
    pub const OPEN: u32 = 1;
    /// mknod(2), or bind(2) of a unix socket.
    pub const MKNOD: u32 = 2;
    /// mkdir(2).
    pub const MKDIR: u32 = 3;
    /// symlink(2).
    pub const SYMLINK: u32 = 4;
    /// link(2): a further name of an existing file.
    pub const LINK: u32 = 5;
    /// link of a file without a name (`O_TMPFILE`).
    pub const LINK_UNNAMED: u32 = 6;
}

/// Bits of [`FileCreateRecord::flags`] and [`FileCloseRecord::flags`].
pub mod file_flag {
    /// A [`super::FileCloseRecord`] with the same `file_key` follows when the last reference is gone.
    pub const CLOSE_FOLLOWS: u32 = 1 << 0;
    /// The path ends at a detached mount or at the walk's limit: its head is missing.
    pub const PATH_DETACHED: u32 = 1 << 1;
    /// Another writer still has the file open.
    pub const WRITERS_LEFT: u32 = 1 << 2;
    /// The file was opened for writing.
    pub const WRITABLE: u32 = 1 << 3;
}

/// A file was created.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct FileCreateRecord {
    /// The creator.
    pub header: Header,
    /// Who.
    pub subject: Subject,
    /// The file as it is at this moment.
    pub file: FileIdentity,
    /// Joins this record with its [`FileCloseRecord`]; opaque. 0: none follows.
    pub file_key: u64,
    /// `f_flags` of the open. 0 for the other ways.
    pub open_flags: u32,
    /// A value of [`create`].
    pub how: u32,
    /// Bits of [`file_flag`].
    pub flags: u32,
    /// `i_rdev` as the kernel has it, major << 20 | minor: the device that a device node stands for. 0 for other files.
    pub node_device: u32,
    /// Path in the process's view, up to its root.
    pub path: Text,
    /// [`create::SYMLINK`]: the target as it was written; [`create::LINK`]: the path that the file already had. Empty
    /// for the other ways.
    pub other: Text,
}
const _: () = assert!(
    size_of::<FileCreateRecord>() == 224,
    "layout changed: bump ABI_VERSION"
);

/// The last reference to a file that was created and open for writing is gone (`__fput`).
/// May run in any task: header and subject are the creator's, as kept since.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct FileCloseRecord {
    /// The creator; `time_boot_ns` is the time of the close.
    pub header: Header,
    /// Who created it.
    pub subject: Subject,
    /// The file as it is at the close.
    pub file: FileIdentity,
    /// As in the [`FileCreateRecord`].
    pub file_key: u64,
    /// `time_boot_ns` of the [`FileCreateRecord`].
    pub created_boot_ns: u64,
    /// `i_writecount` when the record was made: 1 means that this was the last writer.
    pub writers: u32,
    /// Bits of [`file_flag`].
    pub flags: u32,
}
const _: () = assert!(
    size_of::<FileCloseRecord>() == 208,
    "layout changed: bump ABI_VERSION"
);
