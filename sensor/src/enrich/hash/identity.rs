//! Which file an open descriptor is, in the terms of the kernel's identity, and whether it is the one of the event.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp};
use sensor_common::record::FileIdentity;

use super::fs::{self, EXFAT_MAGIC, FAT_MAGIC};
use crate::kernel::sys;
use crate::procfs::ProcessDir;

/// Longest that the kernel's coarse clock stands still (HZ is at least 100): a change within it may leave `ctime` as it is.
const TICK_NS: i64 = 10_000_000;
/// The same for file systems that keep whole seconds (FAT: two).
const SECONDS_NS: i64 = 2_000_000_000;

/// Time within which two changes can have the same `ctime`, in ns.
pub(super) fn granule_ns(identity: &FileIdentity) -> i64 {
    let whole = |ns: i64| ns.checked_rem(1_000_000_000) == Some(0);
    // ext2 to ext4 keep fractions only in inodes that have room for them, and on any the clock may stand at a whole second.
    let perhaps_seconds = whole(identity.ctime_ns)
        && whole(identity.mtime_ns)
        && !fs::keeps_nanoseconds(identity.fs_magic);
    if perhaps_seconds || matches!(identity.fs_magic, FAT_MAGIC | EXFAT_MAGIC) {
        SECONDS_NS
    } else {
        TICK_NS
    }
}

/// Whether the file can have changed at `wall_ns` or later without moving `ctime` from what it is.
pub(super) fn within_granule(identity: &FileIdentity, wall_ns: i64) -> bool {
    wall_ns.saturating_sub(identity.ctime_ns) < granule_ns(identity)
}

/// An open file as statx(2) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `device` is `st_dev` as it stands; generation and version are 0.
    pub(crate) identity: FileIdentity,
    /// Mount through which it was opened. 0: not known.
    pub(crate) mount_id: u64,
}

/// Asks for the identity of an open file, of any kind, also opened with `O_PATH`.
///
/// A file system that can hang is asked for as little as possible: attributes from its cache, and its kind only if the
/// file does not lie on the device of `expected`, which says the kind already.
pub(crate) fn observe(file: BorrowedFd<'_>, expected: Option<&FileIdentity>) -> io::Result<Seen> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let statx = rustix::fs::statx(file, "", flags, wanted)?;
    let device = kernel_device(statx.stx_dev_major, statx.stx_dev_minor);
    let magic = match expected {
        Some(expected) if expected.device == device && expected.fs_magic != 0 => expected.fs_magic,
        _ => u64::try_from(rustix::fs::fstatfs(file)?.f_type).unwrap_or(0),
    };
    Ok(seen(&statx, magic))
}

/// As [`observe`], of a file whose file system is known.
pub(crate) fn observe_again(file: BorrowedFd<'_>, before: &Seen) -> io::Result<Seen> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let statx = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted)?;
    Ok(seen(&statx, before.identity.fs_magic))
}

fn nanoseconds(at: StatxTimestamp) -> i64 {
    at.tv_sec
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(at.tv_nsec))
}

fn seen(statx: &Statx, fs_magic: u64) -> Seen {
    let mount_known = StatxFlags::from_bits_retain(statx.stx_mask).contains(StatxFlags::MNT_ID);
    Seen {
        identity: FileIdentity {
            inode: statx.stx_ino,
            size: statx.stx_size,
            mtime_ns: nanoseconds(statx.stx_mtime),
            ctime_ns: nanoseconds(statx.stx_ctime),
            fs_magic,
            version: 0,
            device: kernel_device(statx.stx_dev_major, statx.stx_dev_minor),
            generation: 0,
            mode: u32::from(statx.stx_mode),
            uid: statx.stx_uid,
            gid: statx.stx_gid,
            nlink: statx.stx_nlink,
        },
        mount_id: if mount_known { statx.stx_mnt_id } else { 0 },
    }
}

/// A device number as the kernel keeps it in `s_dev`.
const fn kernel_device(major: u32, minor: u32) -> u32 {
    (major << 20) | (minor & 0xf_ffff)
}

/// The same of a `st_dev`.
pub(super) fn device_of(st_dev: u64) -> u32 {
    kernel_device(rustix::fs::major(st_dev), rustix::fs::minor(st_dev))
}

/// How an open file compares with the one of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The same inode with the same size and times.
    Same,
    /// The same inode; only its change time moved: a write of the same length with the modification time put back, or a
    /// mere change of name, mode, owner or links.
    ChangeTime,
    /// The same inode with other content.
    Content,
    /// Another file.
    Other,
}

/// Compares by inode, generation, size and times; the device is [`Devices::establish`]'s matter.
pub(super) fn compare(expected: &FileIdentity, seen: &FileIdentity) -> Match {
    let generations = (expected.generation, seen.generation);
    let reused = generations.0 != 0 && generations.1 != 0 && generations.0 != generations.1;
    if expected.inode != seen.inode || reused {
        Match::Other
    } else if expected.size != seen.size || expected.mtime_ns != seen.mtime_ns {
        Match::Content
    } else if expected.ctime_ns != seen.ctime_ns {
        Match::ChangeTime
    } else {
        Match::Same
    }
}

/// Whether content may have changed between two looks at one open file.
pub(super) fn unchanged(before: &Seen, after: &Seen) -> bool {
    compare(&before.identity, &after.identity) == Match::Same
}

/// Whether an open file can be the one that had this identity once, however it was changed since: the inode number is not
/// used again, as far as the file system tells (by generation, and by birth, which does not come after a `ctime`).
/// The file was opened for reading.
pub(crate) fn same_file(expected: &FileIdentity, file: impl AsFd) -> bool {
    if expected.generation != 0
        && let Ok(generation) = sys::inode_generation(file.as_fd())
    {
        return generation == expected.generation;
    }
    let Ok(statx) = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME) else {
        return false;
    };
    let known = StatxFlags::from_bits_retain(statx.stx_mask).contains(StatxFlags::BTIME);
    !known || nanoseconds(statx.stx_btime) <= expected.ctime_ns
}

/// Where the device of a mount stands once it was looked up.
const DEVICES_KEPT: usize = 256;
/// How long a looked-up device is believed: numbers of anonymous devices are used again after an unmount.
const DEVICE_AGE: Duration = Duration::from_secs(10);

/// Devices of mounts. The kernel's `s_dev` is what mountinfo says, not `st_dev`: btrfs subvolumes and overlay layers have
/// device numbers of their own in stat(2).
#[derive(Debug, Default)]
pub(super) struct Devices {
    known: Mutex<HashMap<(u32, u64), (u32, Instant)>>,
}

/// Whether a file lies on the device of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDevice {
    Yes,
    No,
    /// The mount cannot be looked up any more, or the event does not say.
    Unknown,
}

impl Devices {
    /// Whether `seen` lies on `expected`; `viewer` is the process through whose mounts it was opened.
    pub(super) fn establish(
        &self,
        expected: u32,
        seen: &Seen,
        viewer: Option<&ProcessDir>,
    ) -> OnDevice {
        if expected == 0 {
            return OnDevice::Unknown;
        }
        if seen.identity.device == expected {
            return OnDevice::Yes;
        }
        match self.of_mount(seen, viewer) {
            Some(device) if device == expected => OnDevice::Yes,
            Some(_) => OnDevice::No,
            None => OnDevice::Unknown,
        }
    }

    /// The device that the kernel has for the file; `st_dev` if the mount is not found.
    pub(super) fn of_mount(&self, seen: &Seen, viewer: Option<&ProcessDir>) -> Option<u32> {
        if seen.mount_id == 0 {
            return None;
        }
        let key = (seen.identity.device, seen.mount_id);
        let now = Instant::now();
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((device, at)) = known.get(&key)
            && now.duration_since(*at) < DEVICE_AGE
        {
            return Some(*device);
        }
        let mounts = viewer?.mountinfo().ok()?;
        let mount = mounts
            .iter()
            .find(|mount| u64::from(mount.id) == seen.mount_id)?;
        let device = kernel_device(mount.device.0, mount.device.1);
        if known.len() >= DEVICES_KEPT {
            known.clear();
        }
        known.insert(key, (device, now));
        Some(device)
    }
}

/// Fills in the generation, where the file system tells. The file was opened for reading.
pub(super) fn with_generation(mut identity: FileIdentity, file: impl AsFd) -> FileIdentity {
    if let Ok(generation) = sys::inode_generation(file.as_fd()) {
        identity.generation = generation;
    }
    identity
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;

    use super::super::fs::FsClass;
    use super::*;
    use crate::procfs::Proc;

    #[test]
    fn observes_what_stat_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        let file = File::open(&path).unwrap();
        let seen = observe(file.as_fd(), None).unwrap();
        let stat = file.metadata().unwrap();
        assert_eq!(seen.identity.inode, stat.ino());
        assert_eq!(seen.identity.size, 5);
        assert_eq!(
            seen.identity.mtime_ns,
            stat.mtime() * 1_000_000_000 + stat.mtime_nsec()
        );
        assert_eq!(
            seen.identity.ctime_ns,
            stat.ctime() * 1_000_000_000 + stat.ctime_nsec()
        );
        assert_eq!(seen.identity.mode, stat.mode());
        assert_ne!(seen.identity.fs_magic, 0);
        assert_eq!(observe_again(file.as_fd(), &seen).unwrap(), seen);
        // The mount's device, by mountinfo, is st_dev on a plain file system.
        let own = Proc::default().own().unwrap();
        let devices = Devices::default();
        if FsClass::of(seen.identity.fs_magic) != FsClass::Overlay
            && seen.identity.fs_magic != 0x9123_683e
        {
            assert_eq!(
                devices.of_mount(&seen, Some(&own)),
                Some(seen.identity.device)
            );
        }
        assert_eq!(
            devices.establish(seen.identity.device, &seen, None),
            OnDevice::Yes
        );
        assert_eq!(devices.establish(0, &seen, None), OnDevice::Unknown);
        assert_eq!(
            Devices::default().establish(12345, &seen, None),
            OnDevice::Unknown
        );
        assert_eq!(
            Devices::default().establish(12345, &seen, Some(&own)),
            OnDevice::No
        );
    }

    #[test]
    fn comparisons() {
        let base = FileIdentity {
            inode: 1,
            size: 2,
            mtime_ns: 3,
            ctime_ns: 4,
            generation: 5,
            ..FileIdentity::default()
        };
        let check = |other: FileIdentity, expected| assert_eq!(compare(&base, &other), expected);
        check(base, Match::Same);
        check(
            FileIdentity {
                ctime_ns: 9,
                ..base
            },
            Match::ChangeTime,
        );
        check(
            FileIdentity {
                mtime_ns: 9,
                ..base
            },
            Match::Content,
        );
        check(FileIdentity { size: 9, ..base }, Match::Content);
        check(FileIdentity { inode: 9, ..base }, Match::Other);
        check(
            FileIdentity {
                generation: 9,
                ..base
            },
            Match::Other,
        );
        check(
            FileIdentity {
                generation: 0,
                ..base
            },
            Match::Same,
        );
    }

    #[test]
    fn granules() {
        let at = |ctime_ns, fs_magic| FileIdentity {
            ctime_ns,
            fs_magic,
            ..FileIdentity::default()
        };
        let fine = at(1_000_000_001, 0xef53);
        assert!(within_granule(&fine, 1_000_000_001));
        assert!(within_granule(&fine, 1_009_999_999));
        assert!(!within_granule(&fine, 1_010_000_001));
        // The clock was put back: nothing is proven.
        assert!(within_granule(&fine, 5));
        assert!(within_granule(&at(1_000_000_000, 0xef53), 2_900_000_000));
        assert!(!within_granule(&at(1_000_000_000, 0xef53), 3_000_000_000));
        // A fraction in the other time, or the kind of file system, says that it stood at a whole second by chance.
        let finer = FileIdentity {
            mtime_ns: 1,
            ..at(1_000_000_000, 0xef53)
        };
        for identity in [finer, at(1_000_000_000, 0x0102_1994)] {
            assert!(within_granule(&identity, 1_009_999_999));
            assert!(!within_granule(&identity, 1_010_000_000));
        }
        assert!(within_granule(&at(1_000_000_001, FAT_MAGIC), 2_900_000_000));
    }
}
