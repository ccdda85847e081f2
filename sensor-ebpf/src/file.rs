//! Which file it is.

use sensor_common::layout::Field;
use sensor_common::record::FileIdentity;

use crate::read::{Access, Object};
use crate::task::Place;

/// `file->f_mode`: include/linux/fs.h, the same on every kernel.
pub(crate) const FMODE_WRITE: u32 = 0x2;
pub(crate) const FMODE_CREATED: u32 = 0x10_0000;
/// The inner open of a stacked file system.
pub(crate) const FMODE_NOACCOUNT: u32 = 0x2000_0000;

/// `inode->i_mode`: include/uapi/linux/stat.h.
pub(crate) const S_IFMT: u32 = 0o170_000;
pub(crate) const S_IFSOCK: u32 = 0o140_000;
pub(crate) const S_IFREG: u32 = 0o100_000;

const NSEC_PER_SEC: i64 = 1_000_000_000;
/// Kernels with multigrain timestamps keep "was queried" in the top bit of the ctime's nanoseconds.
const NSEC_MASK: u32 = 0x7fff_ffff;

/// Fills `identity` from an inode.
#[inline(always)]
pub(crate) fn identify<A: Access>(inode: Object, identity: &mut FileIdentity) {
    identity.inode = A::number(inode, Field::InodeIno).unwrap_or(0);
    identity.size = A::number(inode, Field::InodeSize).unwrap_or(0);
    identity.mtime_ns = time::<A>(
        inode,
        Field::InodeMtimeSec,
        Field::InodeMtimeNsecLong,
        Field::InodeMtimeNsecInt,
    );
    identity.ctime_ns = time::<A>(
        inode,
        Field::InodeCtimeSec,
        Field::InodeCtimeNsecLong,
        Field::InodeCtimeNsecInt,
    );
    identity.version = A::number(inode, Field::InodeVersion).unwrap_or(0);
    identity.generation = A::number(inode, Field::InodeGeneration).unwrap_or(0);
    identity.mode = u32::from(A::number::<u16>(inode, Field::InodeMode).unwrap_or(0));
    identity.uid = A::number(inode, Field::InodeUid).unwrap_or(sensor_common::UNKNOWN);
    identity.gid = A::number(inode, Field::InodeGid).unwrap_or(sensor_common::UNKNOWN);
    identity.nlink = A::number(inode, Field::InodeNlink).unwrap_or(0);
    if let Some(superblock) = A::pointer(inode, Field::InodeSb) {
        identity.device = A::number(superblock, Field::SbDev).unwrap_or(0);
        identity.fs_magic = A::number(superblock, Field::SbMagic).unwrap_or(0);
    }
}

#[inline(always)]
fn time<A: Access>(inode: Object, seconds: Field, long: Field, int: Field) -> i64 {
    let Some(seconds) = A::number::<i64>(inode, seconds) else {
        return 0;
    };
    let nanoseconds = match A::number::<i64>(inode, long) {
        Some(nanoseconds) => nanoseconds as u32,
        None => A::number::<u32>(inode, int).unwrap_or(0),
    };
    seconds
        .wrapping_mul(NSEC_PER_SEC)
        .wrapping_add(i64::from(nanoseconds & NSEC_MASK))
}

/// Where an open file is.
#[inline(always)]
pub(crate) fn place<A: Access>(file: Object) -> Place {
    Place {
        mount: A::number(file, Field::FilePathMnt).unwrap_or(0),
        dentry: A::number(file, Field::FilePathDentry).unwrap_or(0),
    }
}
