//! A file was created.
//!
//! By open: `security_file_open(file)` with `FMODE_CREATED`. Otherwise (mknod, mkdir, symlink, link, bind of a unix
//! socket): `done_path_create(path, dentry)`, called `end_creating_path` since 6.18, which ends every such system call
//! with the new name's dentry. Names are created under the directory's lock and the dentry was negative before, so that
//! an inode in it now means success; opens do not pass here.

use aya_ebpf::macros::{fentry, kprobe};
use aya_ebpf::programs::{FEntryContext, ProbeContext};
use sensor_common::counter::KernelCounter;
use sensor_common::layout::Field;
use sensor_common::map::{OpenFile, feature};
use sensor_common::record::{FileCloseRecord, FileCreateRecord, create, file_flag};

use crate::emit::{Draft, PATH_BYTES, Scratch, lost, start_of, tailed};
use crate::file::{self, FMODE_CREATED, FMODE_NOACCOUNT, FMODE_WRITE};
use crate::map::LinkCall;
use crate::path::{Bounded, Looped, Walker};
use crate::read::{Access, Object, Probed, Typed};
use crate::task::{self, Current, Place};
use crate::{layout, map};

/// Pointers from here on are errors (`IS_ERR`).
const FIRST_ERROR: u64 = 0_u64.wrapping_sub(4095);

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

#[fentry(function = "done_path_create")]
pub(crate) fn made_fe_b(context: FEntryContext) -> Option<()> {
    made::<Bounded, Typed>(Object::new(context.arg(0))?, Object::new(context.arg(1))?)
}

#[fentry(function = "done_path_create")]
pub(crate) fn made_fe_l(context: FEntryContext) -> Option<()> {
    made::<Looped, Typed>(Object::new(context.arg(0))?, Object::new(context.arg(1))?)
}

#[kprobe(function = "done_path_create")]
pub(crate) fn made_kp_b(context: ProbeContext) -> Option<()> {
    made::<Bounded, Probed>(Object::new(context.arg(0)?)?, Object::new(context.arg(1)?)?)
}

#[kprobe(function = "done_path_create")]
pub(crate) fn made_kp_l(context: ProbeContext) -> Option<()> {
    made::<Looped, Probed>(Object::new(context.arg(0)?)?, Object::new(context.arg(1)?)?)
}

/// `security_path_link(old_dentry, new_dir, new_dentry)`: tells links from mknod.
#[fentry(function = "security_path_link")]
pub(crate) fn link_fe(context: FEntryContext) -> Option<()> {
    linking::<Typed>(Object::new(context.arg(0))?, Object::new(context.arg(2))?)
}

#[kprobe(function = "security_path_link")]
pub(crate) fn link_kp(context: ProbeContext) -> Option<()> {
    linking::<Probed>(Object::new(context.arg(0)?)?, Object::new(context.arg(2)?)?)
}

#[inline(always)]
fn opened<W: Walker, A: Access>(file: Object) -> Option<()> {
    let mode = A::number::<u32>(file, Field::FileMode)?;
    if mode & (FMODE_CREATED | FMODE_NOACCOUNT) != FMODE_CREATED {
        return None;
    }
    let scratch = map::SCRATCH_OPEN.get_ptr_mut(0);
    let follow = layout::feature(feature::FILE_CLOSE_PROBE) && mode & FMODE_WRITE != 0;
    report_open::<W, A>(scratch, file, mode, follow);
    Some(())
}

/// Reports a file that an open created; `follow`: its close will be reported too.
#[inline(always)]
pub(super) fn report_open<W: Walker, A: Access>(
    scratch: Option<*mut Scratch<PATH_BYTES>>,
    file: Object,
    mode: u32,
    follow: bool,
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
        push_path::<W>(draft, file::place::<A>(file));
        if follow {
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
    let (header, subject) = start_of(record);
    let kept = map::insert(
        &map::OPEN_FILES,
        file.address(),
        &OpenFile {
            header: *header,
            subject: *subject,
        },
    );
    if kept {
        record.file_key = file.address();
        record.flags |= file_flag::CLOSE_FOLLOWS;
    } else {
        lost::<FileCloseRecord>(KernelCounter::LostMapFull);
    }
    kept
}

#[inline(always)]
fn push_path<W: Walker>(draft: &mut Draft<FileCreateRecord, PATH_BYTES>, place: Place) {
    let path = draft.push_path::<W>(place, task::current_root());
    draft.record().path = path;
    if path.truncated() {
        draft.record().flags |= file_flag::PATH_DETACHED;
    }
}

#[inline(always)]
fn linking<A: Access>(old: Object, new: Object) -> Option<()> {
    let inode = A::pointer(old, Field::DentryInode)?;
    let how = match A::number::<u32>(inode, Field::InodeNlink) {
        Some(0) => create::LINK_UNNAMED,
        _ => create::LINK,
    };
    let call = LinkCall {
        dentry: new.address(),
        how: u64::from(how),
    };
    if !map::insert(&map::LINK_CALLS, task::thread_key(), &call) {
        lost::<FileCreateRecord>(KernelCounter::LostMapFull);
    }
    Some(())
}

#[inline(always)]
fn made<W: Walker, A: Access>(path: Object, dentry: Object) -> Option<()> {
    if dentry.address() >= FIRST_ERROR {
        return None;
    }
    let Some(inode) = A::pointer(dentry, Field::DentryInode) else {
        // It failed.
        map::remove(&map::LINK_CALLS, task::thread_key());
        return None;
    };
    let mode = u32::from(A::number::<u16>(inode, Field::InodeMode)?);
    let how = how(dentry, mode);
    let place = Place {
        mount: A::number(path, Field::PathMnt)?,
        dentry: dentry.address(),
    };
    let scratch = map::SCRATCH_MADE.get_ptr_mut(0);
    tailed::<FileCreateRecord, PATH_BYTES>(scratch, Current, |draft| {
        draft.record().how = how;
        file::identify::<A>(inode, &mut draft.record().file);
        push_path::<W>(draft, place);
    });
    Some(())
}

/// How a name came into being that was not made by an open.
#[inline(always)]
fn how(dentry: Object, mode: u32) -> u32 {
    if mode & file::S_IFMT == file::S_IFDIR {
        return create::MKDIR;
    }
    let thread = task::thread_key();
    if let Some(call) = map::lookup(&map::LINK_CALLS, thread) {
        let mine = call.dentry == dentry.address();
        let how = call.how as u32;
        map::remove(&map::LINK_CALLS, thread);
        if mine {
            return how;
        }
    }
    if mode & file::S_IFMT == file::S_IFLNK {
        create::SYMLINK
    } else {
        create::MKNOD
    }
}
