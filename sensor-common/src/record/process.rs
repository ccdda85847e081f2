//! Records of the process family.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{FileIdentity, Header, Text};

/// Who did it, as the kernel had it at that moment (`task->cred`, `task->loginuid`, `task->sessionid`).
/// Ids are in the initial user namespace; [`crate::UNKNOWN`]: not observed (and for `loginuid` and `session_id`: never set).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Subject {
    /// Id of the task's cgroup in the version 2 hierarchy (`css_set.dfl_cgrp->kn->id`). 0: not observed.
    pub cgroup_id: u64,
    /// Real user.
    pub uid: u32,
    /// Real group.
    pub gid: u32,
    /// Effective user.
    pub euid: u32,
    /// Effective group.
    pub egid: u32,
    /// Saved user.
    pub suid: u32,
    /// Saved group.
    pub sgid: u32,
    /// File system user.
    pub fsuid: u32,
    /// File system group.
    pub fsgid: u32,
    /// Audit login user.
    pub loginuid: u32,
    /// Audit session.
    pub session_id: u32,
    /// Bits of [`subject_flag`].
    pub flags: u32,
    /// Inode number of the mount namespace. 0: not observed.
    pub mnt_ns: u32,
    /// `task->comm`, NUL-padded.
    pub comm: [u8; 16],
}
const _: () = assert!(
    size_of::<Subject>() == 72,
    "layout changed: bump ABI_VERSION"
);

/// Bits of [`Subject::flags`].
pub mod subject_flag {
    /// The work was done by an io_uring worker (`PF_IO_WORKER`) for the process named.
    pub const IO_URING: u32 = 1 << 0;
    /// A kernel thread (`PF_KTHREAD`).
    pub const KERNEL_THREAD: u32 = 1 << 1;
    /// A 32-bit compat system call.
    pub const COMPAT: u32 = 1 << 2;
    /// Under ptrace.
    pub const TRACED: u32 = 1 << 3;
}

/// Indices into [`ExecRecord::namespaces`].
pub mod namespace {
    /// Mount.
    pub const MNT: usize = 0;
    /// Pid (the one that the process is in).
    pub const PID: usize = 1;
    /// Network.
    pub const NET: usize = 2;
    /// Host name.
    pub const UTS: usize = 3;
    /// System V IPC.
    pub const IPC: usize = 4;
    /// User.
    pub const USER: usize = 5;
    /// Cgroup.
    pub const CGROUP: usize = 6;
    /// Time.
    pub const TIME: usize = 7;
    /// How many.
    pub const COUNT: usize = 8;
}

/// A process replaced its program (`sched_process_exec`): credentials, memory and file are the final ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ExecRecord {
    /// `pid` equals `tgid` here (exec leaves one thread); see `old_pid`.
    pub header: Header,
    /// Who, after the exec.
    pub subject: Subject,
    /// The file that runs: the ELF image, for a script its interpreter (`bprm->file`).
    pub file: FileIdentity,
    /// Capability sets after the exec: effective, permitted, inheritable, bounding, ambient.
    pub capabilities: [u64; 5],
    /// `start_boottime` of the parent's thread group leader. 0: not observed.
    pub parent_start_boot_ns: u64,
    /// `tgid` of `real_parent`. 0: none or not observed.
    pub parent_tgid: u32,
    /// Thread that called exec.
    pub old_pid: u32,
    /// Process group, in the initial pid namespace. 0: not observed.
    pub process_group: u32,
    /// POSIX session, in the initial pid namespace. 0: not observed.
    pub session: u32,
    /// The process's id in its own pid namespace. 0: not observed.
    pub ns_pid: u32,
    /// Controlling terminal as `MKDEV(major, minor)` (major << 20 | minor). 0: none.
    pub tty_device: u32,
    /// Bits of [`exec_flag`].
    pub flags: u32,
    /// Reserved.
    pub _pad: u32,
    /// Inode numbers of the namespaces, indexed by [`namespace`]. 0: not observed.
    pub namespaces: [u32; namespace::COUNT],
    /// `tty->name`, NUL-padded.
    pub tty: [u8; 24],
    /// Path of `bprm->file` in the process's view, up to its root.
    pub path: Text,
    /// `bprm->filename`: what was passed to execve; for a script the script.
    pub filename: Text,
    /// `bprm->interp`: differs from `filename` for scripts and binfmt_misc.
    pub interpreter: Text,
    /// Path of the working directory.
    pub working_directory: Text,
    /// `mm->arg_start..arg_end`: NUL-terminated strings.
    pub arguments: Text,
    /// `mm->env_start..env_end`: NUL-terminated strings.
    pub environment: Text,
}
const _: () = assert!(
    size_of::<ExecRecord>() == 368,
    "layout changed: bump ABI_VERSION"
);

/// Bits of [`ExecRecord::flags`].
pub mod exec_flag {
    /// `bprm->secureexec`: set-id, file capabilities or LSM transition.
    pub const SECURE: u32 = 1 << 0;
    /// `filename` and `interp` differ.
    pub const INTERPRETED: u32 = 1 << 1;
    /// A page of the arguments could not be read; what follows it is missing.
    pub const ARGUMENTS_PARTIAL: u32 = 1 << 2;
    /// The same for the environment.
    pub const ENVIRONMENT_PARTIAL: u32 = 1 << 3;
    /// A script round was reported before this exec ([`super::ScriptRecord`]).
    pub const SCRIPT_SEEN: u32 = 1 << 4;
}

/// One `#!` round of an exec that is under way (`security_bprm_check`): the script, or an interpreter that is one.
/// Comes before the [`ExecRecord`] of the same `tgid`; void when that exec fails.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ScriptRecord {
    /// The process that calls exec; `pid` is the calling thread.
    pub header: Header,
    /// Who, before the exec.
    pub subject: Subject,
    /// The script.
    pub file: FileIdentity,
    /// Its path in the process's view.
    pub path: Text,
}
const _: () = assert!(
    size_of::<ScriptRecord>() == 192,
    "layout changed: bump ABI_VERSION"
);

/// A process ended: its last thread exited (`sched_process_exit` with `signal->live` 0).
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ExitRecord {
    /// `pid` is the last thread, which need not be the leader.
    pub header: Header,
    /// Who, at the end.
    pub subject: Subject,
    /// User time of all threads in ns (`signal->utime` and what is not yet in it).
    pub user_ns: u64,
    /// System time likewise.
    pub system_ns: u64,
    /// Time on a CPU of all threads in ns (`sum_exec_runtime`).
    pub cpu_ns: u64,
    /// Bytes that the last thread and `signal->ioac` read from storage. [`u64::MAX`]: not observed.
    pub read_bytes: u64,
    /// Bytes written likewise.
    pub write_bytes: u64,
    /// Wait status: bits 0-6 signal, 7 core dump, 8-15 exit code. [`crate::UNKNOWN`]: not observed.
    pub status: u32,
    /// `tgid` of the parent at the end. 0: not observed.
    pub parent_tgid: u32,
}
const _: () = assert!(
    size_of::<ExitRecord>() == 160,
    "layout changed: bump ABI_VERSION"
);

/// A process was made (`task_newtask` without `CLONE_THREAD`). The header and the subject are the creator's.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ForkRecord {
    /// The creator.
    pub header: Header,
    /// Who.
    pub subject: Subject,
    /// `start_boottime` of the child.
    pub child_start_boot_ns: u64,
    /// `clone(2)` flags. [`u64::MAX`]: not observed.
    pub clone_flags: u64,
    /// `start_boottime` of the child's parent (the creator's parent under `CLONE_PARENT`).
    pub parent_start_boot_ns: u64,
    /// The child's process id.
    pub child_tgid: u32,
    /// The child's id in its own pid namespace. 0: not observed.
    pub child_ns_pid: u32,
    /// The child's parent.
    pub parent_tgid: u32,
    /// Reserved.
    pub _pad: u32,
}
const _: () = assert!(
    size_of::<ForkRecord>() == 152,
    "layout changed: bump ABI_VERSION"
);
