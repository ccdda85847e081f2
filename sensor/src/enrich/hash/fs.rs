//! Kinds of file systems: which are read, and what their times are worth.

/// Every kind that is known by name, with its magic number (statfs(2)) and what it is.
#[rustfmt::skip]
const KINDS: [(&str, u64, FsClass); 62] = [
    ("ext2", 0xef53, FsClass::Plain),
    ("ext3", 0xef53, FsClass::Plain),
    ("ext4", 0xef53, FsClass::Plain),
    ("xfs", 0x5846_5342, FsClass::Plain),
    ("btrfs", 0x9123_683e, FsClass::Plain),
    ("f2fs", 0xf2f5_2010, FsClass::Plain),
    ("bcachefs", 0xca45_1a4e, FsClass::Plain),
    ("zfs", 0x2fc1_2fc1, FsClass::Plain),
    ("nilfs2", 0x3434, FsClass::Plain),
    ("jfs", 0x3153_464a, FsClass::Plain),
    ("reiserfs", 0x5265_4973, FsClass::Plain),
    ("vfat", FAT_MAGIC, FsClass::Plain),
    ("exfat", EXFAT_MAGIC, FsClass::Plain),
    ("ntfs3", 0x7366_746e, FsClass::Plain),
    ("udf", 0x1501_3346, FsClass::Plain),
    ("iso9660", 0x9660, FsClass::Plain),
    ("squashfs", 0x7371_7368, FsClass::Plain),
    ("erofs", 0xe0f5_e1e2, FsClass::Plain),
    ("overlay", 0x794c_7630, FsClass::Overlay),
    ("tmpfs", 0x0102_1994, FsClass::Memory),
    ("ramfs", 0x8584_58f6, FsClass::Memory),
    ("hugetlbfs", 0x9584_58f6, FsClass::Memory),
    ("fuse", 0x6573_5546, FsClass::Remote),
    ("fuseblk", 0x6573_5546, FsClass::Remote),
    ("virtiofs", 0x6573_5546, FsClass::Remote),
    ("nfs", 0x6969, FsClass::Remote),
    ("nfs4", 0x6969, FsClass::Remote),
    ("cifs", 0xff53_4d42, FsClass::Remote),
    ("smb3", 0xfe53_4d42, FsClass::Remote),
    ("smbfs", 0x517b, FsClass::Remote),
    ("9p", 0x0102_1997, FsClass::Remote),
    ("afs", 0x5346_414f, FsClass::Remote),
    ("kafs", 0x6b41_4653, FsClass::Remote),
    ("ceph", 0x00c3_6400, FsClass::Remote),
    ("coda", 0x7375_7245, FsClass::Remote),
    ("ocfs2", 0x7461_636f, FsClass::Remote),
    ("gfs2", 0x0116_1970, FsClass::Remote),
    ("lustre", 0x0bd0_0bd0, FsClass::Remote),
    ("orangefs", 0x2003_0528, FsClass::Remote),
    ("vboxsf", 0x786f_4256, FsClass::Remote),
    ("autofs", 0x0187, FsClass::Remote),
    ("proc", 0x9fa0, FsClass::Kernel),
    ("sysfs", 0x6265_6572, FsClass::Kernel),
    ("debugfs", 0x6462_6720, FsClass::Kernel),
    ("tracefs", 0x7472_6163, FsClass::Kernel),
    ("securityfs", 0x7363_6673, FsClass::Kernel),
    ("cgroup", 0x0027_e0eb, FsClass::Kernel),
    ("cgroup2", 0x6367_7270, FsClass::Kernel),
    ("bpf", 0xcafe_4a11, FsClass::Kernel),
    ("configfs", 0x6265_6570, FsClass::Kernel),
    ("devpts", 0x1cd1, FsClass::Kernel),
    ("mqueue", 0x1980_0202, FsClass::Kernel),
    ("binfmt_misc", 0x4249_4e4d, FsClass::Kernel),
    ("pstore", 0x6165_676c, FsClass::Kernel),
    ("efivarfs", 0xde5e_81e4, FsClass::Kernel),
    ("nsfs", 0x6e73_6673, FsClass::Kernel),
    ("pipefs", 0x5049_5045, FsClass::Kernel),
    ("sockfs", 0x534f_434b, FsClass::Kernel),
    ("selinuxfs", 0xf97c_ff8c, FsClass::Kernel),
    ("smackfs", 0x4341_5d53, FsClass::Kernel),
    ("rpc_pipefs", 0x6759_6969, FsClass::Kernel),
    ("nfsd", 0x6e66_7364, FsClass::Kernel),
];

pub(super) const FAT_MAGIC: u64 = 0x4d44;
pub(super) const EXFAT_MAGIC: u64 = 0x2011_bab0;

/// File systems whose every inode has room for nanoseconds, whatever it was made with.
const NANOSECOND_KINDS: [&str; 7] = ["tmpfs", "ramfs", "xfs", "btrfs", "f2fs", "bcachefs", "zfs"];

/// Whether times that are whole seconds are so by chance alone.
pub(super) fn keeps_nanoseconds(magic: u64) -> bool {
    KINDS
        .iter()
        .any(|(name, known, _)| *known == magic && NANOSECOND_KINDS.contains(name))
}

/// How far a file system's times tell whether content changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FsClass {
    /// Every write moves `ctime`, also through a mapping.
    Plain,
    /// The kernel's identity is of the overlay's inode; the content lies in another file, which can be written from
    /// outside. Times must be read of the open file.
    Overlay,
    /// A writer who maps a page and reads it first then writes it without moving any time (measured: tmpfs, 6.18).
    /// Times prove nothing unless writers are known to have been absent.
    Memory,
    /// Can keep a reader waiting for ever.
    Remote,
    /// Not content.
    Kernel,
}

impl FsClass {
    /// By magic number; what is not known is taken for an ordinary file system.
    pub(super) fn of(magic: u64) -> Self {
        KINDS
            .iter()
            .find(|(_, known, _)| *known == magic)
            .map_or(Self::Plain, |(_, _, class)| *class)
    }
}

/// The kinds of file systems that are not read. Interfaces of the kernel never are, whatever this says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFileSystems {
    magics: Vec<u64>,
}

/// A kind of file system that the sensor does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown file system type {name:?}")]
pub struct UnknownFileSystem {
    /// As it was written.
    pub name: String,
}

impl Default for RefusedFileSystems {
    /// Those that can keep a reader waiting for ever, or whose server decides what is read.
    fn default() -> Self {
        let remote = KINDS
            .iter()
            .filter(|(_, _, class)| *class == FsClass::Remote);
        Self {
            magics: remote.map(|(_, magic, _)| *magic).collect(),
        }
    }
}

impl RefusedFileSystems {
    /// By the names that mount(8) uses.
    ///
    /// # Errors
    /// [`UnknownFileSystem`] with the first name that is not known.
    pub fn by_name<S: AsRef<str>>(names: &[S]) -> Result<Self, UnknownFileSystem> {
        let magic = |name: &S| {
            let name = name.as_ref();
            let known = KINDS.iter().find(|(known, _, _)| *known == name);
            known
                .map(|(_, magic, _)| *magic)
                .ok_or_else(|| UnknownFileSystem {
                    name: name.to_owned(),
                })
        };
        Ok(Self {
            magics: names.iter().map(magic).collect::<Result<_, _>>()?,
        })
    }

    /// Whether files of this kind are read.
    pub(super) fn reads(&self, magic: u64) -> bool {
        FsClass::of(magic) != FsClass::Kernel && !self.magics.contains(&magic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        for (magic, class) in [
            (0xef53, FsClass::Plain),
            (0x5846_5342, FsClass::Plain),
            (0x0102_1994, FsClass::Memory),
            (0x794c_7630, FsClass::Overlay),
            (0x6969, FsClass::Remote),
            (0x6573_5546, FsClass::Remote),
            (0xff53_4d42, FsClass::Remote),
            (0x9fa0, FsClass::Kernel),
        ] {
            assert_eq!(FsClass::of(magic), class, "{magic:#x}");
        }
        let magic = rustix::fs::statfs("/proc").unwrap().f_type;
        assert_eq!(FsClass::of(u64::try_from(magic).unwrap()), FsClass::Kernel);
    }

    #[test]
    fn names() {
        let default = RefusedFileSystems::default();
        assert!(!default.reads(0x6969) && !default.reads(0x9fa0) && default.reads(0xef53));
        let named = RefusedFileSystems::by_name(&["ext4", "fuse"]).unwrap();
        assert!(!named.reads(0xef53) && !named.reads(0x6573_5546));
        assert!(named.reads(0x6969) && !named.reads(0x9fa0));
        let none = RefusedFileSystems::by_name::<&str>(&[]).unwrap();
        assert!(none.reads(0x6969) && !none.reads(0x9fa0));
        let error = RefusedFileSystems::by_name(&["ext4", "ext5"]).unwrap_err();
        assert_eq!(error.name, "ext5");
        // Every name of the default configuration is known.
        RefusedFileSystems::by_name(&crate::config::file::HASH_REFUSED_FILESYSTEMS).unwrap();
    }
}
