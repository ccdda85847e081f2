//! A kernel module was loaded, or failed to be.
//!
//! Three hooks in the caller's task, joined by thread: where the file is read (`security_kernel_read_file`), or taken
//! from memory (`security_kernel_load_data`); `module_load(mod)`, which names a module that is accepted; and the return
//! of `load_module`, which says how it ended.

use core::mem::MaybeUninit;

use aya_ebpf::macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe};
use aya_ebpf::programs::{
    BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext,
};
use sensor_common::counter::KernelCounter;
use sensor_common::layout::Field;
use sensor_common::record::{ModuleLoadRecord, Text, module_flag};

use crate::emit::{PATH_BYTES, Scratch, lost, tailed};
use crate::map::ModuleCall;
use crate::path::{Bounded, Looped, Walker};
use crate::read::{self, Access, Object, Probed, Typed};
use crate::task::{self, Current, Place};
use crate::{file, layout, map};

#[btf_tracepoint(function = "module_load")]
pub(crate) fn module_tp(context: BtfTracePointContext) -> Option<()> {
    let module = Object::new(context.arg(0))?;
    let call = call()?;
    call.taints = Typed::number(module, Field::ModuleTaints).unwrap_or(0);
    read::string(module, Field::ModuleName, &mut call.name);
    call.flags |= u64::from(module_flag::ANNOUNCED);
    Some(())
}

/// `security_kernel_read_file(file, id, contents)`.
#[fentry(function = "security_kernel_read_file")]
pub(crate) fn readfile_fe(context: FEntryContext) -> Option<()> {
    let id: u64 = context.arg(1);
    read_from::<Typed>(Object::new(context.arg(0))?, id as u32)
}

#[kprobe(function = "security_kernel_read_file")]
pub(crate) fn readfile_kp(context: ProbeContext) -> Option<()> {
    let id: u64 = context.arg(1)?;
    read_from::<Probed>(Object::new(context.arg(0)?)?, id as u32)
}

/// `security_kernel_load_data(id, contents)`.
#[fentry(function = "security_kernel_load_data")]
pub(crate) fn loaddata_fe(context: FEntryContext) -> Option<()> {
    let id: u64 = context.arg(0);
    taken_from_memory(id as u32)
}

#[kprobe(function = "security_kernel_load_data")]
pub(crate) fn loaddata_kp(context: ProbeContext) -> Option<()> {
    let id: u64 = context.arg(0)?;
    taken_from_memory(id as u32)
}

/// `load_module(info, uargs, flags)`.
#[fexit(function = "load_module")]
pub(crate) fn module_fx_b(context: FExitContext) -> Option<()> {
    let result: u64 = context.arg(3);
    returned::<Bounded>(result as i32)
}

#[fexit(function = "load_module")]
pub(crate) fn module_fx_l(context: FExitContext) -> Option<()> {
    let result: u64 = context.arg(3);
    returned::<Looped>(result as i32)
}

#[kretprobe(function = "load_module")]
pub(crate) fn module_rp_b(context: RetProbeContext) -> Option<()> {
    returned::<Bounded>(context.ret())
}

#[kretprobe(function = "load_module")]
pub(crate) fn module_rp_l(context: RetProbeContext) -> Option<()> {
    returned::<Looped>(context.ret())
}

/// The entry of the current thread's call, made if there is none.
#[inline(always)]
fn call() -> Option<&'static mut ModuleCall> {
    let thread = task::thread_key();
    if let Some(call) = map::lookup(&map::MODULE_CALLS, thread) {
        return Some(call);
    }
    begin()
}

/// A new, empty entry for the current thread.
#[inline(always)]
fn begin() -> Option<&'static mut ModuleCall> {
    let thread = task::thread_key();
    let mut place = MaybeUninit::uninit();
    if !map::insert(
        &map::MODULE_CALLS,
        thread,
        read::zeroed::<ModuleCall>(&mut place),
    ) {
        lost::<ModuleLoadRecord>(KernelCounter::LostMapFull);
        return None;
    }
    map::lookup(&map::MODULE_CALLS, thread)
}

#[inline(always)]
fn read_from<A: Access>(file: Object, id: u32) -> Option<()> {
    if Some(id) != layout::value(Field::ReadingModule) {
        return None;
    }
    let call = begin()?;
    if let Some(inode) = A::pointer(file, Field::FileInode) {
        file::identify::<A>(inode, &mut call.file);
        call.flags = u64::from(module_flag::FILE_KNOWN);
    }
    let place = file::place::<A>(file);
    call.mount = place.mount;
    call.dentry = place.dentry;
    Some(())
}

#[inline(always)]
fn taken_from_memory(id: u32) -> Option<()> {
    if Some(id) != layout::value(Field::LoadingModule) {
        return None;
    }
    begin()?.flags = u64::from(module_flag::FROM_MEMORY);
    Some(())
}

#[inline(always)]
fn returned<W: Walker>(result: i32) -> Option<()> {
    let thread = task::thread_key();
    let call = map::lookup(&map::MODULE_CALLS, thread)?;
    report::<W>(map::SCRATCH_MODULE.get_ptr_mut(0), call, result);
    map::remove(&map::MODULE_CALLS, thread);
    Some(())
}

#[inline(always)]
fn report<W: Walker>(scratch: Option<*mut Scratch<PATH_BYTES>>, call: &ModuleCall, result: i32) {
    tailed::<ModuleLoadRecord, PATH_BYTES>(scratch, Current, |draft| {
        let record = draft.record();
        record.file = call.file;
        record.taints = call.taints;
        record.flags = call.flags as u32;
        record.name = call.name;
        if result < 0 {
            record.error = result.unsigned_abs();
        }
        record.path = Text {
            len: 0,
            true_len: Text::ABSENT,
        };
        let place = Place {
            mount: call.mount,
            dentry: call.dentry,
        };
        if is_file(place, call.file.inode) {
            let path = draft.push_path::<W>(place, task::current_root());
            draft.record().path = path;
        }
    });
}

/// Whether the dentry is still the file's: another thread may have closed it while the module was loaded.
#[inline(always)]
fn is_file(place: Place, inode: u64) -> bool {
    Object::from_address(place.dentry)
        .and_then(|dentry| Probed::pointer(dentry, Field::DentryInode))
        .and_then(|found| Probed::number::<u64>(found, Field::InodeIno))
        == Some(inode)
}

/// The return of (f)init_module(2), where no other hook saw the call; `file`: the one that it was given.
#[inline(always)]
pub(super) fn syscall_returned<W: Walker>(
    scratch: Option<*mut Scratch<PATH_BYTES>>,
    file: Option<Object>,
    result: i32,
) -> Option<()> {
    let call = call()?;
    call.flags &= u64::from(module_flag::ANNOUNCED);
    match file {
        Some(file) => {
            if let Some(inode) = Probed::pointer(file, Field::FileInode) {
                file::identify::<Probed>(inode, &mut call.file);
                call.flags |= u64::from(module_flag::FILE_KNOWN);
            }
            let place = file::place::<Probed>(file);
            call.mount = place.mount;
            call.dentry = place.dentry;
        }
        None => call.flags |= u64::from(module_flag::FROM_MEMORY),
    }
    report::<W>(scratch, call, result);
    map::remove(&map::MODULE_CALLS, task::thread_key());
    Some(())
}
