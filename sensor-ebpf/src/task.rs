//! Who did it: the current task, or one that was kept.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf};
use sensor_common::UNKNOWN;
use sensor_common::counter::KernelCounter;
use sensor_common::layout::Field;
use sensor_common::map::feature;
use sensor_common::record::{Header, Subject, subject_flag};

use crate::read::{self, Access, Object, Probed, Typed};
use crate::{filter, layout};

/// `task->flags`: include/linux/sched.h, the same on every kernel.
const PF_IO_WORKER: u32 = 0x10;
const PF_KTHREAD: u32 = 0x20_0000;
/// `thread_info.status` on x86: inside a 32-bit system call.
const TS_COMPAT: u32 = 2;

/// On whose behalf a record is made.
pub(crate) trait Actor: Copy {
    /// The counter under which its doings are dropped.
    fn verdict(self) -> Option<KernelCounter>;
    /// Fills in who it is.
    fn describe(self, header: &mut Header, subject: &mut Subject);
}

/// The current task.
#[derive(Clone, Copy)]
pub(crate) struct Current;

impl Actor for Current {
    #[inline(always)]
    fn verdict(self) -> Option<KernelCounter> {
        filter::verdict()
    }

    #[inline(always)]
    fn describe(self, header: &mut Header, subject: &mut Subject) {
        if layout::feature(feature::TASK_BTF) {
            describe::<Typed>(current_typed(), header, subject);
        } else {
            describe::<Probed>(current_probed(), header, subject);
        }
    }
}

/// The current task where the hook gives it as an argument: typed on every kernel.
#[derive(Clone, Copy)]
pub(crate) struct CurrentArgument(pub(crate) Object);

impl Actor for CurrentArgument {
    #[inline(always)]
    fn verdict(self) -> Option<KernelCounter> {
        filter::verdict()
    }

    #[inline(always)]
    fn describe(self, header: &mut Header, subject: &mut Subject) {
        describe::<Typed>(Some(self.0), header, subject);
    }
}

/// A task that was described, and let through, when what is reported now began.
#[derive(Clone, Copy)]
pub(crate) struct Kept<'a> {
    pub(crate) header: &'a Header,
    pub(crate) subject: &'a Subject,
}

impl Actor for Kept<'_> {
    #[inline(always)]
    fn verdict(self) -> Option<KernelCounter> {
        None
    }

    #[inline(always)]
    fn describe(self, header: &mut Header, subject: &mut Subject) {
        header.tgid = self.header.tgid;
        header.pid = self.header.pid;
        header.start_boot_ns = self.header.start_boot_ns;
        *subject = *self.subject;
    }
}

/// Key of the tables of calls that are under way: one per thread.
#[inline(always)]
pub(crate) fn thread_key() -> u64 {
    bpf_get_current_pid_tgid()
}

#[inline(always)]
fn current_typed() -> Option<Object> {
    // SAFETY: no argument; only called where the kernel has it (TASK_BTF), elsewhere the verifier prunes it.
    Object::new(unsafe { bpf_get_current_task_btf() }.cast_const().cast())
}

#[inline(always)]
fn current_probed() -> Option<Object> {
    // SAFETY: no argument, no condition.
    Object::from_address(unsafe { bpf_get_current_task() })
}

/// A pointer of the current task, as an object for [`Probed`].
#[inline(always)]
pub(crate) fn current_pointer(field: Field) -> Option<Object> {
    if layout::feature(feature::TASK_BTF) {
        Typed::pointer(current_typed()?, field)
    } else {
        Probed::pointer(current_probed()?, field)
    }
}

/// A number of the current task.
#[inline(always)]
pub(crate) fn current_number<T: read::Number>(field: Field) -> Option<T> {
    if layout::feature(feature::TASK_BTF) {
        Typed::number(current_typed()?, field)
    } else {
        Probed::number(current_probed()?, field)
    }
}

/// Whether the current task is inside a 32-bit system call.
#[inline(always)]
pub(crate) fn in_compat_syscall() -> bool {
    current_number::<u32>(Field::TaskThreadStatus).unwrap_or(0) & TS_COMPAT != 0
}

/// A mount and a dentry: `struct path`.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Address of the `struct vfsmount`.
    pub(crate) mount: u64,
    /// Address of the `struct dentry`.
    pub(crate) dentry: u64,
}

/// The root of the current task, where its paths end.
#[inline(always)]
pub(crate) fn current_root() -> Place {
    let root = if layout::feature(feature::TASK_BTF) {
        current_typed().and_then(root::<Typed>)
    } else {
        current_probed().and_then(root::<Probed>)
    };
    // Without a root a walk ends at the mount that hangs nowhere, and says so.
    root.unwrap_or(Place {
        mount: 0,
        dentry: 0,
    })
}

#[inline(always)]
fn root<A: Access>(task: Object) -> Option<Place> {
    let fs = A::pointer(task, Field::TaskFs)?;
    Some(Place {
        mount: A::number(fs, Field::FsRootMnt)?,
        dentry: A::number(fs, Field::FsRootDentry)?,
    })
}

/// `start_boottime` of the thread group leader of `task`, 0 if it cannot be read.
#[inline(always)]
pub(crate) fn start_boot_ns<A: Access>(task: Object) -> u64 {
    A::pointer(task, Field::TaskGroupLeader)
        .and_then(|leader| A::number(leader, Field::TaskStartBoottime))
        .unwrap_or(0)
}

/// The id of `task` in its own pid namespace, and that namespace's inode number; 0 if unknown.
#[inline(always)]
pub(crate) fn own_namespace(task: Object) -> (u32, u32) {
    // The index is variable, which the verifier refuses on typed pointers: every step is probed.
    let number = Probed::pointer(task, Field::TaskThreadPid).and_then(|pid| {
        let level = Probed::number::<u32>(pid, Field::PidLevel)?;
        let size = layout::offset(Field::UpidSize)?;
        let numbers = layout::offset(Field::PidNumbers)?;
        pid.within(numbers + size * level as usize)
    });
    let Some(number) = number else {
        return (0, 0);
    };
    let id = Probed::number(number, Field::UpidNr).unwrap_or(0);
    let inum = Probed::pointer(number, Field::UpidNs)
        .and_then(|namespace| Probed::number(namespace, Field::PidNsInum))
        .unwrap_or(0);
    (id, inum)
}

#[inline(always)]
fn describe<A: Access>(task: Option<Object>, header: &mut Header, subject: &mut Subject) {
    let pid_tgid = bpf_get_current_pid_tgid();
    header.tgid = (pid_tgid >> 32) as u32;
    header.pid = pid_tgid as u32;
    read::current_comm(&mut subject.comm);
    let Some(task) = task else {
        subject.loginuid = UNKNOWN;
        subject.session_id = UNKNOWN;
        without_credentials(subject);
        return;
    };
    header.start_boot_ns = start_boot_ns::<A>(task);
    subject.loginuid = A::number(task, Field::TaskLoginuid).unwrap_or(UNKNOWN);
    subject.session_id = A::number(task, Field::TaskSessionid).unwrap_or(UNKNOWN);
    match A::pointer(task, Field::TaskCred) {
        Some(cred) => credentials::<A>(cred, subject),
        None => without_credentials(subject),
    }
    subject.cgroup_id = A::pointer(task, Field::TaskCgroups)
        .and_then(|set| A::pointer(set, Field::CssSetDflCgrp))
        .and_then(|cgroup| A::pointer(cgroup, Field::CgroupKn))
        .and_then(|node| A::number(node, Field::KernfsNodeId))
        .unwrap_or(0);
    subject.mnt_ns = A::pointer(task, Field::TaskNsproxy)
        .and_then(|proxy| A::pointer(proxy, Field::NsproxyMntNs))
        .and_then(|namespace| A::number(namespace, Field::MntNsInum))
        .unwrap_or(0);
    subject.flags = flags::<A>(task);
}

#[inline(always)]
fn without_credentials(subject: &mut Subject) {
    subject.uid = UNKNOWN;
    subject.gid = UNKNOWN;
    subject.suid = UNKNOWN;
    subject.sgid = UNKNOWN;
    subject.euid = UNKNOWN;
    subject.egid = UNKNOWN;
    subject.fsuid = UNKNOWN;
    subject.fsgid = UNKNOWN;
}

#[inline(always)]
fn credentials<A: Access>(cred: Object, subject: &mut Subject) {
    subject.uid = A::number(cred, Field::CredUid).unwrap_or(UNKNOWN);
    subject.gid = A::number(cred, Field::CredGid).unwrap_or(UNKNOWN);
    subject.suid = A::number(cred, Field::CredSuid).unwrap_or(UNKNOWN);
    subject.sgid = A::number(cred, Field::CredSgid).unwrap_or(UNKNOWN);
    subject.euid = A::number(cred, Field::CredEuid).unwrap_or(UNKNOWN);
    subject.egid = A::number(cred, Field::CredEgid).unwrap_or(UNKNOWN);
    subject.fsuid = A::number(cred, Field::CredFsuid).unwrap_or(UNKNOWN);
    subject.fsgid = A::number(cred, Field::CredFsgid).unwrap_or(UNKNOWN);
}

#[inline(always)]
fn flags<A: Access>(task: Object) -> u32 {
    let mut flags = 0;
    let task_flags = A::number::<u32>(task, Field::TaskFlags).unwrap_or(0);
    if task_flags & PF_IO_WORKER != 0 {
        flags |= subject_flag::IO_URING;
    }
    if task_flags & PF_KTHREAD != 0 {
        flags |= subject_flag::KERNEL_THREAD;
    }
    if A::number::<u32>(task, Field::TaskThreadStatus).unwrap_or(0) & TS_COMPAT != 0 {
        flags |= subject_flag::COMPAT;
    }
    if A::number::<u32>(task, Field::TaskPtrace).unwrap_or(0) != 0 {
        flags |= subject_flag::TRACED;
    }
    flags
}
