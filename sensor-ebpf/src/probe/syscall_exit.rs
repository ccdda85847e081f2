//! The backend of last resort: `sys_exit(regs, ret)`, where neither trampolines nor kprobes work.
//!
//! It sees file creation by open, connect and module loads when the system call returns, and takes the facts from
//! kernel objects, never from user memory. The descriptor may be another file's by then if a second thread was quick:
//! rare, and why the other hooks come first. socketcall(2) of 32-bit programs keeps its descriptor in user memory and
//! is not seen. System call numbers are those of x86-64.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use sensor_common::layout::Field;
use sensor_common::record::RecordKind;

use super::{connect, file_create, module_load};
use crate::file::{FMODE_CREATED, FMODE_NOACCOUNT, S_IFMT, S_IFSOCK};
use crate::path::{Bounded, Looped, Walker};
use crate::read::{Access, Object, Probed, Typed};
use crate::{layout, map, task};

/// Set in the number of an x32 system call.
const X32: u64 = 0x4000_0000;

/// What a system call does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Open,
    Connect,
    ModuleFromFile,
    ModuleFromMemory,
}

#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn sysexit_b(context: BtfTracePointContext) -> Option<()> {
    returned::<Bounded>(&context)
}

#[btf_tracepoint(function = "sys_exit")]
pub(crate) fn sysexit_l(context: BtfTracePointContext) -> Option<()> {
    returned::<Looped>(&context)
}

#[inline(always)]
fn returned<W: Walker>(context: &BtfTracePointContext) -> Option<()> {
    let regs = Object::new(context.arg(0))?;
    let number = Typed::number::<u64>(regs, Field::RegsOrigAx)? & !X32;
    // Both tables first: whether the call is a 32-bit one costs more to ask.
    if native(number).is_none() && compat(number).is_none() {
        return None;
    }
    let result: i64 = context.arg(1);
    let in_compat = task::in_compat_syscall();
    let call = if in_compat {
        compat(number)
    } else {
        native(number)
    }?;
    let scratch = map::SCRATCH_SYSCALL_EXIT.get_ptr_mut(0);
    if call == Call::Open {
        if !layout::syscall_exit(RecordKind::FileCreate) || result < 0 {
            return None;
        }
        let file = file_of(result as u64)?;
        let mode = Probed::number::<u32>(file, Field::FileMode)?;
        if mode & (FMODE_CREATED | FMODE_NOACCOUNT) == FMODE_CREATED {
            file_create::report_open::<W, Probed, false>(scratch, file, mode);
        }
        return None;
    }
    let argument = if in_compat {
        Typed::number::<u64>(regs, Field::RegsBx)
    } else {
        Typed::number::<u64>(regs, Field::RegsDi)
    };
    if call == Call::Connect {
        if !layout::syscall_exit(RecordKind::Connect) {
            return None;
        }
        let socket = socket_of(file_of(argument?)?)?;
        return connect::syscall_returned(scratch, socket, result as i32);
    }
    if !layout::syscall_exit(RecordKind::ModuleLoad) {
        return None;
    }
    let file = if call == Call::ModuleFromFile {
        Some(file_of(argument?)?)
    } else {
        None
    };
    module_load::syscall_returned::<W>(scratch, file, result as i32)
}

/// arch/x86/entry/syscalls/syscall_64.tbl
#[inline(always)]
fn native(number: u64) -> Option<Call> {
    match number {
        2 | 85 | 257 | 437 => Some(Call::Open),
        42 => Some(Call::Connect),
        313 => Some(Call::ModuleFromFile),
        175 => Some(Call::ModuleFromMemory),
        _ => None,
    }
}

/// arch/x86/entry/syscalls/syscall_32.tbl
#[inline(always)]
fn compat(number: u64) -> Option<Call> {
    match number {
        5 | 8 | 295 | 437 => Some(Call::Open),
        362 => Some(Call::Connect),
        350 => Some(Call::ModuleFromFile),
        128 => Some(Call::ModuleFromMemory),
        _ => None,
    }
}

/// The file behind a descriptor of the current task.
#[inline(always)]
fn file_of(descriptor: u64) -> Option<Object> {
    let descriptor = descriptor & 0xffff_ffff;
    let table = Probed::pointer(task::current_pointer(Field::TaskFiles)?, Field::FilesFdt)?;
    if descriptor >= u64::from(Probed::number::<u32>(table, Field::FdtableMaxFds)?) {
        return None;
    }
    let files = Probed::pointer(table, Field::FdtableFd)?;
    Probed::follow(files, descriptor as usize * size_of::<u64>())
}

/// The `struct socket` behind a file.
#[inline(always)]
fn socket_of(file: Object) -> Option<Object> {
    let inode = Probed::pointer(file, Field::FileInode)?;
    let mode = u32::from(Probed::number::<u16>(inode, Field::InodeMode)?);
    if mode & S_IFMT != S_IFSOCK {
        return None;
    }
    Probed::pointer(file, Field::FilePrivateData)
}
