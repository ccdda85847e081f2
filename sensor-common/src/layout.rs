//! `KernelLayout`: where the running kernel keeps the fields that the programs read.
//!
//! The daemon resolves every [`Field`] from the kernel's BTF and hands the table over as one frozen read-only global;
//! the verifier folds it to constants and prunes what this kernel lacks. There is no fallback offset: a field that does
//! not resolve is [`ABSENT`], and what depends on it is absent from the records, with its reason.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of a field that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// The table, one `u32` per [`Field`]: a byte offset, a bit offset, an enumerator's value or a size, as
/// [`Field::source`] says; [`ABSENT`] where it did not resolve.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct KernelLayout {
    /// Indexed by `Field as usize`.
    pub values: [u32; Field::COUNT],
}

impl KernelLayout {
    /// A table in which nothing resolved.
    pub const EMPTY: Self = Self {
        values: [ABSENT; Field::COUNT],
    };

    /// Value of `field`, or `None` where this kernel has none.
    #[must_use]
    pub fn value(&self, field: Field) -> Option<u32> {
        self.values
            .get(field as usize)
            .copied()
            .filter(|value| *value != ABSENT)
    }

    /// Whether the running kernel has it.
    #[must_use]
    pub fn has(&self, field: Field) -> bool {
        self.value(field).is_some()
    }
}

/// Where in BTF a field's value comes from. Alternatives are tried in order; the first that resolves counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Byte offset of `struct.member[.member...]`; `size` must be the member's size in bytes (0: any).
    Member {
        /// Alternatives, for renames.
        paths: &'static [&'static str],
        /// Bytes that the programs read at once.
        size: u32,
    },
    /// Offset in bits of a bit field.
    Bit {
        /// `struct.member`.
        path: &'static str,
    },
    /// Value of an enumerator, `enum.NAME`.
    Enumerator {
        /// `enum.NAME`.
        path: &'static str,
    },
    /// Size in bytes of a struct.
    Size {
        /// Its name.
        name: &'static str,
    },
}

const fn m(paths: &'static [&'static str], size: u32) -> Source {
    Source::Member { paths, size }
}

/// What the programs read from kernel objects.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `task_struct.tgid`
    TaskTgid,
    /// `task_struct.pid`
    TaskPid,
    /// `task_struct.real_parent`
    TaskRealParent,
    /// `task_struct.group_leader`
    TaskGroupLeader,
    /// `task_struct.start_boottime`
    TaskStartBoottime,
    /// `task_struct.cred`
    TaskCred,
    /// `task_struct.mm`
    TaskMm,
    /// `task_struct.fs`
    TaskFs,
    /// `task_struct.files`
    TaskFiles,
    /// `task_struct.nsproxy`
    TaskNsproxy,
    /// `task_struct.signal`
    TaskSignal,
    /// `task_struct.thread_pid`
    TaskThreadPid,
    /// `task_struct.cgroups`
    TaskCgroups,
    /// `task_struct.flags`
    TaskFlags,
    /// `task_struct.ptrace`
    TaskPtrace,
    /// `task_struct.comm`
    TaskComm,
    /// `task_struct.loginuid.val`
    TaskLoginuid,
    /// `task_struct.sessionid`
    TaskSessionid,
    /// `task_struct.exit_code`
    TaskExitCode,
    /// `task_struct.utime`
    TaskUtime,
    /// `task_struct.stime`
    TaskStime,
    /// `task_struct.se.sum_exec_runtime`
    TaskSumExecRuntime,
    /// `task_struct.ioac.read_bytes`
    TaskIoReadBytes,
    /// `task_struct.ioac.write_bytes`
    TaskIoWriteBytes,
    /// `task_struct.thread_info.status`
    TaskThreadStatus,
    /// `cred.uid.val`
    CredUid,
    /// `cred.gid.val`
    CredGid,
    /// `cred.suid.val`
    CredSuid,
    /// `cred.sgid.val`
    CredSgid,
    /// `cred.euid.val`
    CredEuid,
    /// `cred.egid.val`
    CredEgid,
    /// `cred.fsuid.val`
    CredFsuid,
    /// `cred.fsgid.val`
    CredFsgid,
    /// `cred.cap_inheritable`
    CredCapInheritable,
    /// `cred.cap_permitted`
    CredCapPermitted,
    /// `cred.cap_effective`
    CredCapEffective,
    /// `cred.cap_bset`
    CredCapBounding,
    /// `cred.cap_ambient`
    CredCapAmbient,
    /// `cred.user_ns`
    CredUserNs,
    /// `css_set.dfl_cgrp`
    CssSetDflCgrp,
    /// `cgroup.kn`
    CgroupKn,
    /// `kernfs_node.id`
    KernfsNodeId,
    /// `signal_struct.live.counter`
    SignalLive,
    /// `signal_struct.flags`
    SignalFlags,
    /// `signal_struct.group_exit_code`
    SignalGroupExitCode,
    /// `signal_struct.tty`
    SignalTty,
    /// `signal_struct.utime`
    SignalUtime,
    /// `signal_struct.stime`
    SignalStime,
    /// `signal_struct.sum_sched_runtime`
    SignalSumSchedRuntime,
    /// `signal_struct.pids`
    SignalPids,
    /// `signal_struct.ioac.read_bytes`
    SignalIoReadBytes,
    /// `signal_struct.ioac.write_bytes`
    SignalIoWriteBytes,
    /// `pid_type.PIDTYPE_PGID`
    PidTypePgid,
    /// `pid_type.PIDTYPE_SID`
    PidTypeSid,
    /// `pid.level`
    PidLevel,
    /// `pid.numbers`
    PidNumbers,
    /// `sizeof upid`
    UpidSize,
    /// `upid.nr`
    UpidNr,
    /// `upid.ns`
    UpidNs,
    /// `tty_struct.name`
    TtyName,
    /// `tty_struct.index`
    TtyIndex,
    /// `tty_struct.driver`
    TtyDriver,
    /// `tty_driver.major`
    TtyDriverMajor,
    /// `tty_driver.minor_start`
    TtyDriverMinorStart,
    /// `mm_struct.arg_start`
    MmArgStart,
    /// `mm_struct.arg_end`
    MmArgEnd,
    /// `mm_struct.env_start`
    MmEnvStart,
    /// `mm_struct.env_end`
    MmEnvEnd,
    /// `nsproxy.mnt_ns`
    NsproxyMntNs,
    /// `nsproxy.net_ns`
    NsproxyNetNs,
    /// `nsproxy.uts_ns`
    NsproxyUtsNs,
    /// `nsproxy.ipc_ns`
    NsproxyIpcNs,
    /// `nsproxy.cgroup_ns`
    NsproxyCgroupNs,
    /// `nsproxy.time_ns`
    NsproxyTimeNs,
    /// `mnt_namespace.ns.inum`
    MntNsInum,
    /// `pid_namespace.ns.inum`
    PidNsInum,
    /// `net.ns.inum`
    NetInum,
    /// `uts_namespace.ns.inum`
    UtsNsInum,
    /// `ipc_namespace.ns.inum`
    IpcNsInum,
    /// `user_namespace.ns.inum`
    UserNsInum,
    /// `cgroup_namespace.ns.inum`
    CgroupNsInum,
    /// `time_namespace.ns.inum`
    TimeNsInum,
    /// `fs_struct.root.mnt`
    FsRootMnt,
    /// `fs_struct.root.dentry`
    FsRootDentry,
    /// `fs_struct.pwd.mnt`
    FsPwdMnt,
    /// `fs_struct.pwd.dentry`
    FsPwdDentry,
    /// `path.mnt`
    PathMnt,
    /// `path.dentry`
    PathDentry,
    /// `file.f_path.mnt`
    FilePathMnt,
    /// `file.f_path.dentry`
    FilePathDentry,
    /// `file.f_inode`
    FileInode,
    /// `file.f_mode`
    FileMode,
    /// `file.f_flags`
    FileFlags,
    /// `file.private_data`
    FilePrivateData,
    /// `file.f_cred`
    FileCred,
    /// `inode.i_mode`
    InodeMode,
    /// `inode.i_ino`
    InodeIno,
    /// `inode.i_sb`
    InodeSb,
    /// `inode.i_size`
    InodeSize,
    /// `inode.i_uid.val`
    InodeUid,
    /// `inode.i_gid.val`
    InodeGid,
    /// `inode.i_nlink`
    InodeNlink,
    /// `inode.i_rdev`
    InodeRdev,
    /// `inode.i_generation`
    InodeGeneration,
    /// `inode.i_version.counter`
    InodeVersion,
    /// `inode.i_writecount.counter`
    InodeWritecount,
    /// `inode.i_mtime.tv_sec`
    InodeMtimeSec,
    /// `inode.i_mtime.tv_nsec`
    InodeMtimeNsecLong,
    /// `inode.i_mtime_nsec`
    InodeMtimeNsecInt,
    /// `inode.i_ctime.tv_sec`
    InodeCtimeSec,
    /// `inode.i_ctime.tv_nsec`
    InodeCtimeNsecLong,
    /// `inode.i_ctime_nsec`
    InodeCtimeNsecInt,
    /// `super_block.s_dev`
    SbDev,
    /// `super_block.s_magic`
    SbMagic,
    /// `dentry.d_parent`
    DentryParent,
    /// `dentry.d_name.name`
    DentryName,
    /// `dentry.d_name.len`
    DentryNameLen,
    /// `dentry.d_inode`
    DentryInode,
    /// `mount.mnt_parent`
    MountParent,
    /// `mount.mnt_mountpoint`
    MountMountpoint,
    /// `mount.mnt`
    MountMnt,
    /// `vfsmount.mnt_root`
    VfsmountRoot,
    /// `linux_binprm.file`
    BprmFile,
    /// `linux_binprm.filename`
    BprmFilename,
    /// `linux_binprm.interp`
    BprmInterp,
    /// `linux_binprm.buf`
    BprmBuf,
    /// `linux_binprm.secureexec`
    BprmSecureexec,
    /// `files_struct.fdt`
    FilesFdt,
    /// `fdtable.fd`
    FdtableFd,
    /// `fdtable.max_fds`
    FdtableMaxFds,
    /// `socket.sk`
    SocketSk,
    /// `socket.type`
    SocketType,
    /// `sock.__sk_common.skc_family`
    SockFamily,
    /// `sock.__sk_common.skc_state`
    SockState,
    /// `sock.__sk_common.skc_dport`
    SockDport,
    /// `sock.__sk_common.skc_num`
    SockNum,
    /// `sock.__sk_common.skc_daddr`
    SockDaddr,
    /// `sock.__sk_common.skc_rcv_saddr`
    SockRcvSaddr,
    /// `sock.__sk_common.skc_v6_daddr`
    SockV6Daddr,
    /// `sock.__sk_common.skc_v6_rcv_saddr`
    SockV6RcvSaddr,
    /// `sock.__sk_common.skc_net.net`
    SockNet,
    /// `sock.sk_protocol`
    SockProtocol,
    /// `sock.sk_type`
    SockType,
    /// `sock.sk_err`
    SockErr,
    /// `sock.sk_socket`
    SockSocket,
    /// `unix_sock.peer`
    UnixPeer,
    /// `unix_sock.addr`
    UnixAddr,
    /// `unix_address.len`
    UnixAddressLen,
    /// `unix_address.name`
    UnixAddressName,
    /// `module.name`
    ModuleName,
    /// `module.taints`
    ModuleTaints,
    /// `kernel_read_file_id.READING_MODULE`
    ReadingModule,
    /// `kernel_load_data_id.LOADING_MODULE`
    LoadingModule,
    /// `pt_regs.orig_ax`
    RegsOrigAx,
    /// `pt_regs.di`
    RegsDi,
    /// `pt_regs.si`
    RegsSi,
    /// `pt_regs.bx`
    RegsBx,
    /// `pt_regs.cx`
    RegsCx,
    /// `socket.state`
    SocketState,
    /// `signal_struct.nr_threads`
    SignalNrThreads,
}

impl Field {
    /// How many there are.
    pub const COUNT: usize = 160;

    /// All of them, in index order.
    pub const ALL: [Self; Self::COUNT] = [
        Self::TaskTgid,
        Self::TaskPid,
        Self::TaskRealParent,
        Self::TaskGroupLeader,
        Self::TaskStartBoottime,
        Self::TaskCred,
        Self::TaskMm,
        Self::TaskFs,
        Self::TaskFiles,
        Self::TaskNsproxy,
        Self::TaskSignal,
        Self::TaskThreadPid,
        Self::TaskCgroups,
        Self::TaskFlags,
        Self::TaskPtrace,
        Self::TaskComm,
        Self::TaskLoginuid,
        Self::TaskSessionid,
        Self::TaskExitCode,
        Self::TaskUtime,
        Self::TaskStime,
        Self::TaskSumExecRuntime,
        Self::TaskIoReadBytes,
        Self::TaskIoWriteBytes,
        Self::TaskThreadStatus,
        Self::CredUid,
        Self::CredGid,
        Self::CredSuid,
        Self::CredSgid,
        Self::CredEuid,
        Self::CredEgid,
        Self::CredFsuid,
        Self::CredFsgid,
        Self::CredCapInheritable,
        Self::CredCapPermitted,
        Self::CredCapEffective,
        Self::CredCapBounding,
        Self::CredCapAmbient,
        Self::CredUserNs,
        Self::CssSetDflCgrp,
        Self::CgroupKn,
        Self::KernfsNodeId,
        Self::SignalLive,
        Self::SignalFlags,
        Self::SignalGroupExitCode,
        Self::SignalTty,
        Self::SignalUtime,
        Self::SignalStime,
        Self::SignalSumSchedRuntime,
        Self::SignalPids,
        Self::SignalIoReadBytes,
        Self::SignalIoWriteBytes,
        Self::PidTypePgid,
        Self::PidTypeSid,
        Self::PidLevel,
        Self::PidNumbers,
        Self::UpidSize,
        Self::UpidNr,
        Self::UpidNs,
        Self::TtyName,
        Self::TtyIndex,
        Self::TtyDriver,
        Self::TtyDriverMajor,
        Self::TtyDriverMinorStart,
        Self::MmArgStart,
        Self::MmArgEnd,
        Self::MmEnvStart,
        Self::MmEnvEnd,
        Self::NsproxyMntNs,
        Self::NsproxyNetNs,
        Self::NsproxyUtsNs,
        Self::NsproxyIpcNs,
        Self::NsproxyCgroupNs,
        Self::NsproxyTimeNs,
        Self::MntNsInum,
        Self::PidNsInum,
        Self::NetInum,
        Self::UtsNsInum,
        Self::IpcNsInum,
        Self::UserNsInum,
        Self::CgroupNsInum,
        Self::TimeNsInum,
        Self::FsRootMnt,
        Self::FsRootDentry,
        Self::FsPwdMnt,
        Self::FsPwdDentry,
        Self::PathMnt,
        Self::PathDentry,
        Self::FilePathMnt,
        Self::FilePathDentry,
        Self::FileInode,
        Self::FileMode,
        Self::FileFlags,
        Self::FilePrivateData,
        Self::FileCred,
        Self::InodeMode,
        Self::InodeIno,
        Self::InodeSb,
        Self::InodeSize,
        Self::InodeUid,
        Self::InodeGid,
        Self::InodeNlink,
        Self::InodeRdev,
        Self::InodeGeneration,
        Self::InodeVersion,
        Self::InodeWritecount,
        Self::InodeMtimeSec,
        Self::InodeMtimeNsecLong,
        Self::InodeMtimeNsecInt,
        Self::InodeCtimeSec,
        Self::InodeCtimeNsecLong,
        Self::InodeCtimeNsecInt,
        Self::SbDev,
        Self::SbMagic,
        Self::DentryParent,
        Self::DentryName,
        Self::DentryNameLen,
        Self::DentryInode,
        Self::MountParent,
        Self::MountMountpoint,
        Self::MountMnt,
        Self::VfsmountRoot,
        Self::BprmFile,
        Self::BprmFilename,
        Self::BprmInterp,
        Self::BprmBuf,
        Self::BprmSecureexec,
        Self::FilesFdt,
        Self::FdtableFd,
        Self::FdtableMaxFds,
        Self::SocketSk,
        Self::SocketType,
        Self::SockFamily,
        Self::SockState,
        Self::SockDport,
        Self::SockNum,
        Self::SockDaddr,
        Self::SockRcvSaddr,
        Self::SockV6Daddr,
        Self::SockV6RcvSaddr,
        Self::SockNet,
        Self::SockProtocol,
        Self::SockType,
        Self::SockErr,
        Self::SockSocket,
        Self::UnixPeer,
        Self::UnixAddr,
        Self::UnixAddressLen,
        Self::UnixAddressName,
        Self::ModuleName,
        Self::ModuleTaints,
        Self::ReadingModule,
        Self::LoadingModule,
        Self::RegsOrigAx,
        Self::RegsDi,
        Self::RegsSi,
        Self::RegsBx,
        Self::RegsCx,
        Self::SocketState,
        Self::SignalNrThreads,
    ];

    /// Where its value comes from.
    #[must_use]
    pub const fn source(self) -> Source {
        match self {
            Self::TaskTgid => m(&["task_struct.tgid"], 4),
            Self::TaskPid => m(&["task_struct.pid"], 4),
            Self::TaskRealParent => m(&["task_struct.real_parent"], 8),
            Self::TaskGroupLeader => m(&["task_struct.group_leader"], 8),
            Self::TaskStartBoottime => m(
                &["task_struct.start_boottime", "task_struct.real_start_time"],
                8,
            ),
            Self::TaskCred => m(&["task_struct.cred"], 8),
            Self::TaskMm => m(&["task_struct.mm"], 8),
            Self::TaskFs => m(&["task_struct.fs"], 8),
            Self::TaskFiles => m(&["task_struct.files"], 8),
            Self::TaskNsproxy => m(&["task_struct.nsproxy"], 8),
            Self::TaskSignal => m(&["task_struct.signal"], 8),
            Self::TaskThreadPid => m(&["task_struct.thread_pid"], 8),
            Self::TaskCgroups => m(&["task_struct.cgroups"], 8),
            Self::TaskFlags => m(&["task_struct.flags"], 4),
            Self::TaskPtrace => m(&["task_struct.ptrace"], 4),
            Self::TaskComm => m(&["task_struct.comm"], 16),
            Self::TaskLoginuid => m(&["task_struct.loginuid.val"], 4),
            Self::TaskSessionid => m(&["task_struct.sessionid"], 4),
            Self::TaskExitCode => m(&["task_struct.exit_code"], 4),
            Self::TaskUtime => m(&["task_struct.utime"], 8),
            Self::TaskStime => m(&["task_struct.stime"], 8),
            Self::TaskSumExecRuntime => m(&["task_struct.se.sum_exec_runtime"], 8),
            Self::TaskIoReadBytes => m(&["task_struct.ioac.read_bytes"], 8),
            Self::TaskIoWriteBytes => m(&["task_struct.ioac.write_bytes"], 8),
            Self::TaskThreadStatus => m(&["task_struct.thread_info.status"], 4),
            Self::CredUid => m(&["cred.uid.val"], 4),
            Self::CredGid => m(&["cred.gid.val"], 4),
            Self::CredSuid => m(&["cred.suid.val"], 4),
            Self::CredSgid => m(&["cred.sgid.val"], 4),
            Self::CredEuid => m(&["cred.euid.val"], 4),
            Self::CredEgid => m(&["cred.egid.val"], 4),
            Self::CredFsuid => m(&["cred.fsuid.val"], 4),
            Self::CredFsgid => m(&["cred.fsgid.val"], 4),
            Self::CredCapInheritable => m(&["cred.cap_inheritable"], 8),
            Self::CredCapPermitted => m(&["cred.cap_permitted"], 8),
            Self::CredCapEffective => m(&["cred.cap_effective"], 8),
            Self::CredCapBounding => m(&["cred.cap_bset"], 8),
            Self::CredCapAmbient => m(&["cred.cap_ambient"], 8),
            Self::CredUserNs => m(&["cred.user_ns"], 8),
            Self::CssSetDflCgrp => m(&["css_set.dfl_cgrp"], 8),
            Self::CgroupKn => m(&["cgroup.kn"], 8),
            Self::KernfsNodeId => m(&["kernfs_node.id"], 8),
            Self::SignalLive => m(&["signal_struct.live.counter"], 4),
            Self::SignalFlags => m(&["signal_struct.flags"], 4),
            Self::SignalGroupExitCode => m(&["signal_struct.group_exit_code"], 4),
            Self::SignalTty => m(&["signal_struct.tty"], 8),
            Self::SignalUtime => m(&["signal_struct.utime"], 8),
            Self::SignalStime => m(&["signal_struct.stime"], 8),
            Self::SignalSumSchedRuntime => m(&["signal_struct.sum_sched_runtime"], 8),
            Self::SignalPids => m(&["signal_struct.pids"], 0),
            Self::SignalIoReadBytes => m(&["signal_struct.ioac.read_bytes"], 8),
            Self::SignalIoWriteBytes => m(&["signal_struct.ioac.write_bytes"], 8),
            Self::PidTypePgid => Source::Enumerator {
                path: "pid_type.PIDTYPE_PGID",
            },
            Self::PidTypeSid => Source::Enumerator {
                path: "pid_type.PIDTYPE_SID",
            },
            Self::PidLevel => m(&["pid.level"], 4),
            Self::PidNumbers => m(&["pid.numbers"], 0),
            Self::UpidSize => Source::Size { name: "upid" },
            Self::UpidNr => m(&["upid.nr"], 4),
            Self::UpidNs => m(&["upid.ns"], 8),
            Self::TtyName => m(&["tty_struct.name"], 64),
            Self::TtyIndex => m(&["tty_struct.index"], 4),
            Self::TtyDriver => m(&["tty_struct.driver"], 8),
            Self::TtyDriverMajor => m(&["tty_driver.major"], 4),
            Self::TtyDriverMinorStart => m(&["tty_driver.minor_start"], 4),
            Self::MmArgStart => m(&["mm_struct.arg_start"], 8),
            Self::MmArgEnd => m(&["mm_struct.arg_end"], 8),
            Self::MmEnvStart => m(&["mm_struct.env_start"], 8),
            Self::MmEnvEnd => m(&["mm_struct.env_end"], 8),
            Self::NsproxyMntNs => m(&["nsproxy.mnt_ns"], 8),
            Self::NsproxyNetNs => m(&["nsproxy.net_ns"], 8),
            Self::NsproxyUtsNs => m(&["nsproxy.uts_ns"], 8),
            Self::NsproxyIpcNs => m(&["nsproxy.ipc_ns"], 8),
            Self::NsproxyCgroupNs => m(&["nsproxy.cgroup_ns"], 8),
            Self::NsproxyTimeNs => m(&["nsproxy.time_ns"], 8),
            Self::MntNsInum => m(&["mnt_namespace.ns.inum"], 4),
            Self::PidNsInum => m(&["pid_namespace.ns.inum"], 4),
            Self::NetInum => m(&["net.ns.inum"], 4),
            Self::UtsNsInum => m(&["uts_namespace.ns.inum"], 4),
            Self::IpcNsInum => m(&["ipc_namespace.ns.inum"], 4),
            Self::UserNsInum => m(&["user_namespace.ns.inum"], 4),
            Self::CgroupNsInum => m(&["cgroup_namespace.ns.inum"], 4),
            Self::TimeNsInum => m(&["time_namespace.ns.inum"], 4),
            Self::FsRootMnt => m(&["fs_struct.root.mnt"], 8),
            Self::FsRootDentry => m(&["fs_struct.root.dentry"], 8),
            Self::FsPwdMnt => m(&["fs_struct.pwd.mnt"], 8),
            Self::FsPwdDentry => m(&["fs_struct.pwd.dentry"], 8),
            Self::PathMnt => m(&["path.mnt"], 8),
            Self::PathDentry => m(&["path.dentry"], 8),
            Self::FilePathMnt => m(&["file.f_path.mnt"], 8),
            Self::FilePathDentry => m(&["file.f_path.dentry"], 8),
            Self::FileInode => m(&["file.f_inode"], 8),
            Self::FileMode => m(&["file.f_mode"], 4),
            Self::FileFlags => m(&["file.f_flags"], 4),
            Self::FilePrivateData => m(&["file.private_data"], 8),
            Self::FileCred => m(&["file.f_cred"], 8),
            Self::InodeMode => m(&["inode.i_mode"], 2),
            Self::InodeIno => m(&["inode.i_ino"], 8),
            Self::InodeSb => m(&["inode.i_sb"], 8),
            Self::InodeSize => m(&["inode.i_size"], 8),
            Self::InodeUid => m(&["inode.i_uid.val"], 4),
            Self::InodeGid => m(&["inode.i_gid.val"], 4),
            Self::InodeNlink => m(&["inode.i_nlink"], 4),
            Self::InodeRdev => m(&["inode.i_rdev"], 4),
            Self::InodeGeneration => m(&["inode.i_generation"], 4),
            Self::InodeVersion => m(&["inode.i_version.counter"], 8),
            Self::InodeWritecount => m(&["inode.i_writecount.counter"], 4),
            Self::InodeMtimeSec => m(
                &[
                    "inode.i_mtime.tv_sec",
                    "inode.__i_mtime.tv_sec",
                    "inode.i_mtime_sec",
                ],
                8,
            ),
            Self::InodeMtimeNsecLong => m(&["inode.i_mtime.tv_nsec", "inode.__i_mtime.tv_nsec"], 8),
            Self::InodeMtimeNsecInt => m(&["inode.i_mtime_nsec"], 4),
            Self::InodeCtimeSec => m(
                &[
                    "inode.i_ctime.tv_sec",
                    "inode.__i_ctime.tv_sec",
                    "inode.i_ctime_sec",
                ],
                8,
            ),
            Self::InodeCtimeNsecLong => m(&["inode.i_ctime.tv_nsec", "inode.__i_ctime.tv_nsec"], 8),
            Self::InodeCtimeNsecInt => m(&["inode.i_ctime_nsec"], 4),
            Self::SbDev => m(&["super_block.s_dev"], 4),
            Self::SbMagic => m(&["super_block.s_magic"], 8),
            Self::DentryParent => m(&["dentry.d_parent"], 8),
            Self::DentryName => m(&["dentry.d_name.name"], 8),
            Self::DentryNameLen => m(&["dentry.d_name.len"], 4),
            Self::DentryInode => m(&["dentry.d_inode"], 8),
            Self::MountParent => m(&["mount.mnt_parent"], 8),
            Self::MountMountpoint => m(&["mount.mnt_mountpoint"], 8),
            Self::MountMnt => m(&["mount.mnt"], 0),
            Self::VfsmountRoot => m(&["vfsmount.mnt_root"], 8),
            Self::BprmFile => m(&["linux_binprm.file"], 8),
            Self::BprmFilename => m(&["linux_binprm.filename"], 8),
            Self::BprmInterp => m(&["linux_binprm.interp"], 8),
            Self::BprmBuf => m(&["linux_binprm.buf"], 0),
            Self::BprmSecureexec => Source::Bit {
                path: "linux_binprm.secureexec",
            },
            Self::FilesFdt => m(&["files_struct.fdt"], 8),
            Self::FdtableFd => m(&["fdtable.fd"], 8),
            Self::FdtableMaxFds => m(&["fdtable.max_fds"], 4),
            Self::SocketSk => m(&["socket.sk"], 8),
            Self::SocketType => m(&["socket.type"], 2),
            Self::SockFamily => m(&["sock.__sk_common.skc_family"], 2),
            Self::SockState => m(&["sock.__sk_common.skc_state"], 1),
            Self::SockDport => m(&["sock.__sk_common.skc_dport"], 2),
            Self::SockNum => m(&["sock.__sk_common.skc_num"], 2),
            Self::SockDaddr => m(&["sock.__sk_common.skc_daddr"], 4),
            Self::SockRcvSaddr => m(&["sock.__sk_common.skc_rcv_saddr"], 4),
            Self::SockV6Daddr => m(&["sock.__sk_common.skc_v6_daddr"], 16),
            Self::SockV6RcvSaddr => m(&["sock.__sk_common.skc_v6_rcv_saddr"], 16),
            Self::SockNet => m(&["sock.__sk_common.skc_net.net"], 8),
            Self::SockProtocol => m(&["sock.sk_protocol"], 2),
            Self::SockType => m(&["sock.sk_type"], 2),
            Self::SockErr => m(&["sock.sk_err"], 4),
            Self::SockSocket => m(&["sock.sk_socket"], 8),
            Self::UnixPeer => m(&["unix_sock.peer"], 8),
            Self::UnixAddr => m(&["unix_sock.addr"], 8),
            Self::UnixAddressLen => m(&["unix_address.len"], 4),
            Self::UnixAddressName => m(&["unix_address.name"], 0),
            Self::ModuleName => m(&["module.name"], 56),
            Self::ModuleTaints => m(&["module.taints"], 8),
            Self::ReadingModule => Source::Enumerator {
                path: "kernel_read_file_id.READING_MODULE",
            },
            Self::LoadingModule => Source::Enumerator {
                path: "kernel_load_data_id.LOADING_MODULE",
            },
            Self::RegsOrigAx => m(&["pt_regs.orig_ax"], 8),
            Self::RegsDi => m(&["pt_regs.di"], 8),
            Self::RegsSi => m(&["pt_regs.si"], 8),
            Self::RegsBx => m(&["pt_regs.bx"], 8),
            Self::RegsCx => m(&["pt_regs.cx"], 8),
            Self::SocketState => m(&["socket.state"], 4),
            Self::SignalNrThreads => m(&["signal_struct.nr_threads"], 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_the_fields_in_index_order() {
        for (position, field) in Field::ALL.iter().enumerate() {
            assert_eq!(*field as usize, position);
        }
    }

    #[test]
    fn an_absent_field_has_no_value() {
        let mut layout = KernelLayout::EMPTY;
        assert!(!layout.has(Field::TaskTgid));
        layout.values[Field::TaskTgid as usize] = 8;
        assert_eq!(layout.value(Field::TaskTgid), Some(8));
    }
}
