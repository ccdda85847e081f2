//! A process replaced its program: `sched_process_exec(task, old_pid, bprm)`.
//!
//! Credentials, memory and file are the final ones here, and the pages of the arguments are resident.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use sensor_common::layout::Field;
use sensor_common::map::feature;
use sensor_common::record::{ExecRecord, Text, exec_flag, namespace};

use crate::emit::{Draft, EXEC_BYTES, tailed};
use crate::path::{Bounded, Looped, Walker};
use crate::read::{self, Access, Object, Probed, Typed};
use crate::task::{self, CurrentArgument, Place};
use crate::{file, layout, map};

#[btf_tracepoint(function = "sched_process_exec")]
pub(crate) fn exec_b(context: BtfTracePointContext) -> Option<()> {
    exec::<Bounded>(&context)
}

#[btf_tracepoint(function = "sched_process_exec")]
pub(crate) fn exec_l(context: BtfTracePointContext) -> Option<()> {
    exec::<Looped>(&context)
}

#[inline(always)]
fn exec<W: Walker>(context: &BtfTracePointContext) -> Option<()> {
    let task = Object::new(context.arg(0))?;
    let old_pid: u32 = context.arg(1);
    let bprm = Object::new(context.arg(2))?;
    let scratch = map::SCRATCH_EXEC.get_ptr_mut(map::processor());
    tailed::<ExecRecord, EXEC_BYTES>(scratch, CurrentArgument(task), |draft| {
        identify(draft.record(), task, bprm, old_pid);
        name::<W>(draft, task, bprm);
        arguments(draft, task);
        script(draft.record());
    });
    Some(())
}

/// Everything but the strings.
#[inline(always)]
fn identify(record: &mut ExecRecord, task: Object, bprm: Object, old_pid: u32) {
    record.old_pid = old_pid;
    if let Some(inode) = Typed::pointer(bprm, Field::BprmFile)
        .and_then(|file| Typed::pointer(file, Field::FileInode))
    {
        file::identify::<Typed>(inode, &mut record.file);
    }
    if let Some(parent) = Typed::pointer(task, Field::TaskRealParent) {
        record.parent_tgid = Typed::number(parent, Field::TaskTgid).unwrap_or(0);
        record.parent_start_boot_ns = task::start_boot_ns::<Typed>(parent);
    }
    if let Some(cred) = Typed::pointer(task, Field::TaskCred) {
        // A struct whose members changed from two halves to one whole: no typed load fits both.
        let set = |field| Probed::number(cred, field).unwrap_or(0);
        record.capabilities = [
            set(Field::CredCapEffective),
            set(Field::CredCapPermitted),
            set(Field::CredCapInheritable),
            set(Field::CredCapBounding),
            set(Field::CredCapAmbient),
        ];
        record.namespaces[namespace::USER] = Typed::pointer(cred, Field::CredUserNs)
            .and_then(|user| Typed::number(user, Field::UserNsInum))
            .unwrap_or(0);
    }
    if let Some(proxy) = Typed::pointer(task, Field::TaskNsproxy) {
        let inum = |of, inum| {
            Typed::pointer(proxy, of)
                .and_then(|namespace| Typed::number(namespace, inum))
                .unwrap_or(0)
        };
        record.namespaces[namespace::MNT] = inum(Field::NsproxyMntNs, Field::MntNsInum);
        record.namespaces[namespace::NET] = inum(Field::NsproxyNetNs, Field::NetInum);
        record.namespaces[namespace::UTS] = inum(Field::NsproxyUtsNs, Field::UtsNsInum);
        record.namespaces[namespace::IPC] = inum(Field::NsproxyIpcNs, Field::IpcNsInum);
        record.namespaces[namespace::CGROUP] = inum(Field::NsproxyCgroupNs, Field::CgroupNsInum);
        record.namespaces[namespace::TIME] = inum(Field::NsproxyTimeNs, Field::TimeNsInum);
    }
    let (id, inum) = task::own_namespace(task);
    record.ns_pid = id;
    record.namespaces[namespace::PID] = inum;
    if let Some(signal) = Typed::pointer(task, Field::TaskSignal) {
        record.process_group = group(signal, Field::PidTypePgid);
        record.session = group(signal, Field::PidTypeSid);
        if let Some(tty) = Typed::pointer(signal, Field::SignalTty) {
            terminal(record, tty);
        }
    }
    if secure(bprm) {
        record.flags |= exec_flag::SECURE;
    }
}

/// Id of a process group or session, in the initial pid namespace.
#[inline(always)]
fn group(signal: Object, kind: Field) -> u32 {
    let (Some(pids), Some(kind), Some(numbers)) = (
        layout::offset(Field::SignalPids),
        layout::offset(kind),
        layout::offset(Field::PidNumbers),
    ) else {
        return 0;
    };
    Probed::follow(signal, pids + kind * size_of::<u64>())
        .and_then(|pid| pid.within(numbers))
        .and_then(|number| Probed::number(number, Field::UpidNr))
        .unwrap_or(0)
}

#[inline(always)]
fn terminal(record: &mut ExecRecord, tty: Object) {
    read::string(tty, Field::TtyName, &mut record.tty);
    let Some(driver) = Typed::pointer(tty, Field::TtyDriver) else {
        return;
    };
    let (Some(major), Some(minor), Some(index)) = (
        Typed::number::<u32>(driver, Field::TtyDriverMajor),
        Typed::number::<u32>(driver, Field::TtyDriverMinorStart),
        Typed::number::<u32>(tty, Field::TtyIndex),
    ) else {
        return;
    };
    record.tty_device = (major << 20) | minor.wrapping_add(index);
}

/// `bprm->secureexec`, one bit of a byte.
#[inline(always)]
fn secure(bprm: Object) -> bool {
    let Some(bit) = layout::offset(Field::BprmSecureexec) else {
        return false;
    };
    Probed::load::<u8>(bprm, bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 != 0)
}

/// The strings that say what runs.
#[inline(always)]
fn name<W: Walker>(draft: &mut Draft<ExecRecord, EXEC_BYTES>, task: Object, bprm: Object) {
    let root = task::current_root();
    draft.record().path = ABSENT;
    if let Some(file) = Typed::pointer(bprm, Field::BprmFile) {
        let path = draft.push_path::<W>(file::place::<Typed>(file), root);
        draft.record().path = path;
    }
    let filename = Typed::number::<u64>(bprm, Field::BprmFilename);
    let interpreter = Typed::number::<u64>(bprm, Field::BprmInterp);
    let text = draft.push_string(filename);
    draft.record().filename = text;
    if interpreter != filename {
        let text = draft.push_string(interpreter);
        draft.record().interpreter = text;
        draft.record().flags |= exec_flag::INTERPRETED;
    }
    draft.record().working_directory = ABSENT;
    if let Some(fs) = Typed::pointer(task, Field::TaskFs) {
        let place = Place {
            mount: Typed::number(fs, Field::FsPwdMnt).unwrap_or(0),
            dentry: Typed::number(fs, Field::FsPwdDentry).unwrap_or(0),
        };
        let path = draft.push_path::<W>(place, root);
        draft.record().working_directory = path;
    }
}

/// Arguments and environment, as the new program got them.
#[inline(always)]
fn arguments(draft: &mut Draft<ExecRecord, EXEC_BYTES>, task: Object) {
    draft.record().arguments = ABSENT;
    draft.record().environment = ABSENT;
    let Some(mm) = Typed::pointer(task, Field::TaskMm) else {
        return;
    };
    if let (Some(start), Some(end)) = (
        Typed::number(mm, Field::MmArgStart),
        Typed::number(mm, Field::MmArgEnd),
    ) {
        let read = draft.push_user(start, end);
        draft.record().arguments = read.text;
        if read.partial {
            draft.record().flags |= exec_flag::ARGUMENTS_PARTIAL;
        }
    }
    if let (Some(start), Some(end)) = (
        Typed::number(mm, Field::MmEnvStart),
        Typed::number(mm, Field::MmEnvEnd),
    ) {
        let read = draft.push_user(start, end);
        draft.record().environment = read.text;
        if read.partial {
            draft.record().flags |= exec_flag::ENVIRONMENT_PARTIAL;
        }
    }
}

/// Whether a script round of this exec was reported, by the thread that called it.
#[inline(always)]
fn script(record: &mut ExecRecord) {
    if !layout::feature(feature::SCRIPT_PROBE) || record.flags & exec_flag::INTERPRETED == 0 {
        return;
    }
    let thread = u64::from(record.header.tgid) << 32 | u64::from(record.old_pid);
    if map::lookup(&map::SCRIPT_CALLS, thread).is_some() {
        record.flags |= exec_flag::SCRIPT_SEEN;
        map::remove(&map::SCRIPT_CALLS, thread);
    }
}

const ABSENT: Text = Text {
    len: 0,
    true_len: Text::ABSENT,
};
