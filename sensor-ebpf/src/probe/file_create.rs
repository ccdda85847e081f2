//! A file was created.
//!
//! By open: `security_file_open(file)` with `FMODE_CREATED`. Otherwise (mknod, mkdir, symlink, link, bind of a unix
//! socket): `security_path_*` gives the directory's mount and the new dentry, and `security_d_instantiate(dentry,
//! inode)` with the same dentry in the same thread is the success. An open that creates a file passes
//! `security_path_mknod` and `security_d_instantiate` as well, but not `vfs_create`, which mknod of a regular file does.

use aya_ebpf::macros::{fentry, kprobe};
use aya_ebpf::programs::{FEntryContext, ProbeContext};
use sensor_common::counter::KernelCounter;
use sensor_common::layout::Field;
use sensor_common::map::feature;
use sensor_common::record::{FileCloseRecord, FileCreateRecord, create, file_flag};

use crate::emit::{ABSENT_TEXT, Draft, NAMES_BYTES, PATH_BYTES, Scratch, lost, start_of, tailed};
use crate::file::{self, FMODE_CREATED, FMODE_NOACCOUNT, FMODE_WRITE, S_IFMT, S_IFREG};
use crate::path::{Bounded, Looped, Walker};
use crate::read::{Access, Object, Probed, Typed};
use crate::task::{self, Current, Place};
use crate::{layout, map};

/// Of a kept call: mknod of a regular file, or an open that creates one; not a value of [`create`].
const PERHAPS_OPEN: u32 = 0;

#[fentry(function = "security_file_open")]
pub(crate) fn fopen_fe_b(context: FEntryContext) -> Option<()> {
    opened::<Bounded, Typed>(Object::new(context.arg(0))?)
}

#[fentry(function = "security_file_open")]
pub(crate) fn fopen_fe_l(context: FEntryContext) -> Option<()> {
    opened::<Looped, Typed>(Object::new(context.arg(0))?)
}

#[kprobe(function = "security_file_open")]
pub(crate) fn fopen_kp_b(context: ProbeContext) -> Option<()> {
    opened::<Bounded, Probed>(Object::new(context.arg(0)?)?)
}

#[kprobe(function = "security_file_open")]
pub(crate) fn fopen_kp_l(context: ProbeContext) -> Option<()> {
    opened::<Looped, Probed>(Object::new(context.arg(0)?)?)
}

/// `security_path_mknod(dir, dentry, mode, dev)`.
#[fentry(function = "security_path_mknod")]
pub(crate) fn mknod_fe(context: FEntryContext) -> Option<()> {
    let mode: u64 = context.arg(2);
    making::<Typed>(
        Object::new(context.arg(0))?,
        context.arg(1),
        mknod_how(mode as u32),
    )
}

#[kprobe(function = "security_path_mknod")]
pub(crate) fn mknod_kp(context: ProbeContext) -> Option<()> {
    let mode: u64 = context.arg(2)?;
    making::<Probed>(
        Object::new(context.arg(0)?)?,
        context.arg(1)?,
        mknod_how(mode as u32),
    )
}

/// `vfs_create`, whose dentry is the second argument or the third, behind the mount's id map (5.12 to 6.18).
#[fentry(function = "vfs_create")]
pub(crate) fn vcreate_fe(context: FEntryContext) -> Option<()> {
    regular_file(context.arg(1), context.arg(2))
}

#[kprobe(function = "vfs_create")]
pub(crate) fn vcreate_kp(context: ProbeContext) -> Option<()> {
    regular_file(context.arg(1)?, context.arg(2)?)
}

/// `security_path_mkdir(dir, dentry, mode)`.
#[fentry(function = "security_path_mkdir")]
pub(crate) fn mkdir_fe(context: FEntryContext) -> Option<()> {
    making::<Typed>(Object::new(context.arg(0))?, context.arg(1), create::MKDIR)
}

#[kprobe(function = "security_path_mkdir")]
pub(crate) fn mkdir_kp(context: ProbeContext) -> Option<()> {
    making::<Probed>(
        Object::new(context.arg(0)?)?,
        context.arg(1)?,
        create::MKDIR,
    )
}

/// `security_path_symlink(dir, dentry, old_name)`, where the kernel has copied the old name.
#[fentry(function = "security_path_symlink")]
pub(crate) fn symlink_fe(context: FEntryContext) -> Option<()> {
    making::<Typed>(
        Object::new(context.arg(0))?,
        context.arg(1),
        create::SYMLINK,
    )?;
    map::keep_given(task::thread_key(), context.arg(2));
    Some(())
}

#[kprobe(function = "security_path_symlink")]
pub(crate) fn symlink_kp(context: ProbeContext) -> Option<()> {
    making::<Probed>(
        Object::new(context.arg(0)?)?,
        context.arg(1)?,
        create::SYMLINK,
    )?;
    map::keep_given(task::thread_key(), context.arg(2)?);
    Some(())
}

/// `security_path_link(old_dentry, new_dir, new_dentry)`.
#[fentry(function = "security_path_link")]
pub(crate) fn link_fe(context: FEntryContext) -> Option<()> {
    let how = link_how::<Typed>(Object::new(context.arg(0))?)?;
    making::<Typed>(Object::new(context.arg(1))?, context.arg(2), how)?;
    map::keep_given(task::thread_key(), context.arg(0));
    Some(())
}

#[kprobe(function = "security_path_link")]
pub(crate) fn link_kp(context: ProbeContext) -> Option<()> {
    let how = link_how::<Probed>(Object::new(context.arg(0)?)?)?;
    making::<Probed>(Object::new(context.arg(1)?)?, context.arg(2)?, how)?;
    map::keep_given(task::thread_key(), context.arg(0)?);
    Some(())
}

#[fentry(function = "security_d_instantiate")]
pub(crate) fn dinst_fe_b(context: FEntryContext) -> Option<()> {
    made::<Bounded, Typed>(context.arg(0), Object::new(context.arg(1))?)
}

#[fentry(function = "security_d_instantiate")]
pub(crate) fn dinst_fe_l(context: FEntryContext) -> Option<()> {
    made::<Looped, Typed>(context.arg(0), Object::new(context.arg(1))?)
}

#[kprobe(function = "security_d_instantiate")]
pub(crate) fn dinst_kp_b(context: ProbeContext) -> Option<()> {
    made::<Bounded, Probed>(context.arg(0)?, Object::new(context.arg(1)?)?)
}

#[kprobe(function = "security_d_instantiate")]
pub(crate) fn dinst_kp_l(context: ProbeContext) -> Option<()> {
    made::<Looped, Probed>(context.arg(0)?, Object::new(context.arg(1)?)?)
}

#[inline(always)]
fn opened<W: Walker, A: Access>(file: Object) -> Option<()> {
    let mode = A::number::<u32>(file, Field::FileMode)?;
    if mode & (FMODE_CREATED | FMODE_NOACCOUNT) != FMODE_CREATED {
        return None;
    }
    let scratch = map::SCRATCH_OPEN.get_ptr_mut(0);
    report_open::<W, A, true>(scratch, file, mode);
    Some(())
}

/// Reports a file that an open created; `FOLLOW`: and keeps it for the report of its close, if that is probed.
#[inline(always)]
pub(super) fn report_open<W: Walker, A: Access, const FOLLOW: bool>(
    scratch: Option<*mut Scratch<PATH_BYTES>>,
    file: Object,
    mode: u32,
) {
    let mut kept = false;
    let emitted = tailed::<FileCreateRecord, PATH_BYTES>(scratch, Current, |draft| {
        let record = draft.record();
        record.how = create::OPEN;
        record.open_flags = A::number(file, Field::FileFlags).unwrap_or(0);
        if mode & FMODE_WRITE != 0 {
            record.flags |= file_flag::WRITABLE;
        }
        if let Some(inode) = A::pointer(file, Field::FileInode) {
            file::identify::<A>(inode, &mut record.file);
        }
        push_path::<W, _>(draft, file::place::<A>(file));
        if FOLLOW && mode & FMODE_WRITE != 0 && layout::feature(feature::FILE_CLOSE_PROBE) {
            kept = keep(draft.record(), file);
        }
    });
    if kept && !emitted {
        // Its beginning is counted as lost: its end has nothing to belong to.
        map::remove(&map::OPEN_FILES, file.address());
    }
}

/// Keeps the creator until the close.
#[inline(always)]
fn keep(record: &mut FileCreateRecord, file: Object) -> bool {
    let kept = map::insert(&map::OPEN_FILES, file.address(), start_of(record));
    if kept {
        record.file_key = file.address();
        record.flags |= file_flag::CLOSE_FOLLOWS;
    } else {
        lost::<FileCloseRecord>(KernelCounter::LostMapFull);
    }
    kept
}

#[inline(always)]
fn push_path<W: Walker, const BYTES: usize>(
    draft: &mut Draft<FileCreateRecord, BYTES>,
    place: Place,
) {
    let path = draft.push_path::<W>(place, task::current_root());
    draft.record().path = path;
    if path.truncated() {
        draft.record().flags |= file_flag::PATH_DETACHED;
    }
}

/// Keeps a name that the current thread is about to make.
#[inline(always)]
fn making<A: Access>(directory: Object, dentry: u64, how: u32) -> Option<()> {
    let mount = A::number(directory, Field::PathMnt)?;
    let displaced = map::keep_path_call(task::thread_key(), mount, dentry, how);
    if displaced.is_some_and(|how| how != PERHAPS_OPEN) {
        lost::<FileCreateRecord>(KernelCounter::LostMapFull);
    }
    Some(())
}

#[inline(always)]
fn mknod_how(mode: u32) -> u32 {
    match mode & S_IFMT {
        0 | S_IFREG => PERHAPS_OPEN,
        _ => create::MKNOD,
    }
}

#[inline(always)]
fn link_how<A: Access>(old: Object) -> Option<u32> {
    let inode = A::pointer(old, Field::DentryInode)?;
    Some(match A::number::<u32>(inode, Field::InodeNlink)? {
        0 => create::LINK_UNNAMED,
        _ => create::LINK,
    })
}

/// mknod of a regular file goes on: it was no open.
#[inline(always)]
fn regular_file(second: u64, third: u64) -> Option<()> {
    let thread = task::thread_key();
    let (dentry, (mount, how)) = match map::kept_path_call(thread, second) {
        Some(kept) => (second, kept),
        None => (third, map::kept_path_call(thread, third)?),
    };
    if how == PERHAPS_OPEN {
        map::keep_path_call(thread, mount, dentry, create::MKNOD);
    }
    Some(())
}

#[inline(always)]
fn made<W: Walker, A: Access>(dentry: u64, inode: Object) -> Option<()> {
    let thread = task::thread_key();
    let (mount, how) = map::kept_path_call(thread, dentry)?;
    let given = if matches!(how, create::SYMLINK | create::LINK) {
        map::kept_given(thread)
    } else {
        None
    };
    map::forget_path_call(thread);
    if how == PERHAPS_OPEN {
        return None;
    }
    let scratch = map::SCRATCH_MADE.get_ptr_mut(0);
    tailed::<FileCreateRecord, NAMES_BYTES>(scratch, Current, |draft| {
        draft.record().how = how;
        draft.record().node_device = A::number(inode, Field::InodeRdev).unwrap_or(0);
        file::identify::<A>(inode, &mut draft.record().file);
        push_path::<W, _>(draft, Place { mount, dentry });
        if how == create::SYMLINK {
            push_target(draft, given);
        } else if how == create::LINK {
            push_old_name::<W>(draft, mount, given);
        }
    });
    Some(())
}

/// The target of a symbolic link, as it was written.
#[inline(always)]
fn push_target(draft: &mut Draft<FileCreateRecord, NAMES_BYTES>, target: Option<u64>) {
    let mut text = draft.push_string(target);
    if !text.absent() {
        // The kernel takes no longer one than fits into a piece with its NUL.
        text.true_len = text.len;
    }
    draft.record().other = text;
}

/// The path of the name that the file already had. It is under the same mount as the new one, else link(2) fails.
#[inline(always)]
fn push_old_name<W: Walker>(
    draft: &mut Draft<FileCreateRecord, NAMES_BYTES>,
    mount: u64,
    dentry: Option<u64>,
) {
    let text = match dentry {
        Some(dentry) => draft.push_path::<W>(Place { mount, dentry }, task::current_root()),
        None => ABSENT_TEXT,
    };
    draft.record().other = text;
}
