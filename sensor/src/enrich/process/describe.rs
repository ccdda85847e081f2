//! What a process is, in the words of the schema: from its exec record, from its parent, or from `/proc`.

use std::sync::Arc;

use sensor_common::layout::{Field, KernelLayout};
use sensor_common::record::{
    ExecRecord, ForkRecord, Header, Parsed, ScriptRecord, Subject, Text, exec_flag, namespace,
    subject_flag,
};
use sensor_proto::field::process as number;
use sensor_proto::v1::{self, AbsentReason};

use crate::clock::Clock;
use crate::enrich::container::{ContainerFacts, Places};
use crate::enrich::environment::Policy;
use crate::enrich::user::{Users, View};
use crate::event::{self, Context};
use crate::procfs::{LazyProcess, NOT_SET, Proc, ProcError, ProcessDir, Stat};

/// Arguments and environment that are read from `/proc`, each; what an exec record carries at most.
const TEXT_MAX_BYTES: usize = sensor_common::record::ARGS_MAX;
/// `CLONE_VFORK` of clone(2).
const CLONE_VFORK: u64 = 0x4000;
/// Flags of clone(2) by which parent and child share more than after fork(2): memory, root and working directory, open files,
/// signal handlers, and the namespaces.
const CLONE_SHARES: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x7e02_0080;

/// Makes descriptions of processes. Its parts are those of the running daemon, or of a replay.
#[derive(Debug)]
pub struct Describer {
    /// Where processes are read.
    pub proc: Proc,
    /// Times.
    pub clock: Arc<Clock>,
    /// Which fields the kernel's records have.
    pub layout: KernelLayout,
    /// What of arguments and environment may be kept.
    pub policy: Policy,
    /// Cgroups and containers.
    pub places: Places,
    /// What is known of containers beyond that.
    pub containers: ContainerFacts,
    /// Names of users and groups.
    pub users: Users,
    /// Reads `/proc` and files of names at all; false in a replay, whose processes are not here.
    pub live: bool,
    /// Something that the last description wanted may still come: see [`Describer::take_owing`].
    pub owing: bool,
}

impl Describer {
    fn context(&self) -> Context<'_> {
        Context {
            layout: &self.layout,
            wall_minus_boot_ns: self.clock.offset_ns(),
        }
    }

    /// A script that an exec opened on its way.
    #[must_use]
    pub fn script(&self, record: &Parsed<'_, ScriptRecord>) -> v1::FileInfo {
        event::file_info(&self.context(), &record.head.file, record.text(0))
    }

    /// The program that a process has just executed. Identity (`unique_pid`, `exec_id`) and parent are the table's.
    #[must_use]
    pub fn exec(&self, record: &Parsed<'_, ExecRecord>, scripts: Vec<v1::FileInfo>) -> v1::Process {
        let context = self.context();
        let head = &record.head;
        let mut absent = Vec::new();
        let mut note = |field, reason| absent.push(v1::Absent::new(field, reason));
        let image = event::file_info(&context, &head.file, record.text(0));
        let directory = record.text(3);
        if directory.text.absent() {
            note(number::WORKING_DIRECTORY, AbsentReason::ReadFailed);
        }
        let (arguments, environment) = (record.text(4), record.text(5));
        if arguments.text.absent() {
            note(number::ARGV, AbsentReason::ReadFailed);
        }
        if environment.text.absent() {
            note(number::ENVIRONMENT, AbsentReason::ReadFailed);
        }
        let mut process = self.begin(&head.header, &head.subject);
        let fileless = self
            .layout
            .has(Field::InodeNlink)
            .then_some(head.file.nlink == 0 && head.file.mode != 0);
        let kind = if container_init(head.ns_pid, head.header.tgid) {
            v1::ProcessType::ContainerInit
        } else if scripts.is_empty() && head.flags & exec_flag::INTERPRETED == 0 {
            v1::ProcessType::Exec
        } else {
            v1::ProcessType::ScriptExec
        };
        process.set_type(kind);
        process.exec_time_ns = Some(self.clock.wall_ns(head.header.time_boot_ns));
        process.image = Some(image);
        process.script_chain = scripts;
        process.ns_pid = (head.ns_pid != 0).then_some(head.ns_pid);
        process.working_directory = event::text(directory);
        process.working_directory_truncated = directory.text.truncated();
        process.capabilities = self.capabilities(head);
        process.namespaces = Some(namespaces(|index| {
            head.namespaces
                .get(index)
                .copied()
                .filter(|inode| *inode != 0)
        }));
        if let Some(session) = &mut process.session {
            session.sid = (head.session != 0).then_some(head.session);
            session.tty = event::padded(&head.tty).map(terminal_name);
            session.tty_device =
                (head.tty_device != 0).then(|| event::user_device(head.tty_device));
        }
        process.secure_exec = Some(head.flags & exec_flag::SECURE != 0);
        process.ptraced = Some(head.subject.flags & subject_flag::TRACED != 0);
        process.fileless = fileless;
        if !arguments.text.absent() {
            let partial = head.flags & exec_flag::ARGUMENTS_PARTIAL != 0;
            self.take_arguments(
                &mut process,
                arguments.bytes,
                partial || arguments.text.truncated(),
            );
            process.argv_true_bytes = true_bytes(arguments.text);
        }
        if !environment.text.absent() {
            let partial = head.flags & exec_flag::ENVIRONMENT_PARTIAL != 0;
            self.take_environment(
                &mut process,
                environment.bytes,
                partial || environment.text.truncated(),
            );
            process.environment_true_bytes = true_bytes(environment.text);
        }
        process.absent = absent;
        process
    }

    /// A process that was forked: its parent's program, not executed anew.
    #[must_use]
    pub fn fork(&self, parent: &v1::Process, record: &ForkRecord) -> v1::Process {
        let mut process = v1::Process {
            pid: record.child_tgid,
            exec_id: 0,
            ns_pid: (record.child_ns_pid != 0).then_some(record.child_ns_pid),
            start_boot_ns: record.child_start_boot_ns,
            start_time_ns: self.clock.wall_ns(record.child_start_boot_ns),
            exec_time_ns: None,
            end_time_ns: None,
            snapshot: false,
            ..parent.clone()
        };
        let flags = record.clone_flags;
        process.set_type(if record.subject.flags & subject_flag::KERNEL_THREAD != 0 {
            v1::ProcessType::KernelThread
        } else if container_init(record.child_ns_pid, record.child_tgid) {
            v1::ProcessType::ContainerInit
        } else if flags == u64::MAX {
            v1::ProcessType::Fork
        } else if flags & CLONE_VFORK != 0 {
            v1::ProcessType::Vfork
        } else if flags & CLONE_SHARES != 0 {
            v1::ProcessType::Clone
        } else {
            v1::ProcessType::Fork
        });
        // The creator may act under other users than those that it executed with.
        let credentials = credentials(&record.subject);
        if !same_ids(process.credentials.as_ref(), &credentials) {
            process.credentials = Some(credentials);
        }
        process
    }

    /// What header and subject of any record tell of a process that is not known otherwise.
    #[must_use]
    pub fn minimal(&self, header: &Header, subject: &Subject) -> v1::Process {
        let mut process = self.begin(header, subject);
        process.snapshot = true;
        for field in [number::IMAGE, number::ARGV, number::WORKING_DIRECTORY] {
            process
                .absent
                .push(v1::Absent::new(field, AbsentReason::EventLost));
        }
        process
    }

    /// A process from `/proc`, as it is now.
    pub fn snapshot(&mut self, folder: &ProcessDir, stat: &Stat) -> v1::Process {
        let start_boot_ns = self.clock.ticks_to_boot_ns(stat.start_ticks);
        let mut process = v1::Process {
            pid: stat.pid,
            start_boot_ns,
            start_time_ns: self.clock.wall_ns(start_boot_ns),
            comm: Some(stat.comm.clone()),
            kernel_thread: stat.kernel_thread(),
            snapshot: true,
            ..v1::Process::default()
        };
        let mut absent = Vec::new();
        if stat.kernel_thread() {
            process.set_type(v1::ProcessType::KernelThread);
        } else {
            self.snapshot_program(folder, &mut process, &mut absent);
        }
        match folder.status() {
            Ok(status) => {
                let login = folder.login_uid().unwrap_or(NOT_SET);
                process.ns_pid = status.ns_pid;
                process.ptraced = Some(status.tracer_pid != 0);
                process.capabilities = status.capabilities.map(|sets| v1::Capabilities {
                    effective: Some(sets.effective),
                    permitted: Some(sets.permitted),
                    inheritable: Some(sets.inheritable),
                    bounding: Some(sets.bounding),
                    ambient: Some(sets.ambient),
                });
                process.credentials = Some(ids_to_credentials(status.uid, status.gid, login));
                if let Some(credentials) = &mut process.credentials {
                    credentials.supplementary_groups =
                        status.groups.into_iter().map(group).collect();
                }
            }
            Err(error) => absent.push(missing(number::CREDENTIALS, &error)),
        }
        let remote = process.session.take();
        process.session = Some(v1::Session {
            audit_id: folder.session_id().ok().filter(|id| *id != NOT_SET),
            sid: (stat.session != 0).then_some(stat.session),
            tty_device: (stat.tty_device != 0).then_some(stat.tty_device),
            ..remote.unwrap_or_default()
        });
        process.namespaces = Some(namespaces(|index| {
            let name = crate::procfs::NAMESPACES.get(index)?;
            folder.namespace(name).ok()
        }));
        match self.places.read(folder) {
            Ok(Some(place)) => {
                process.cgroup_path = Some(place.path);
                process.container = place.container;
            }
            Ok(None) => {}
            Err(error) => absent.push(missing(number::CGROUP_PATH, &error)),
        }
        process.absent = absent;
        self.complete(&mut process, true);
        process
    }

    fn snapshot_program(
        &self,
        folder: &ProcessDir,
        process: &mut v1::Process,
        absent: &mut Vec<v1::Absent>,
    ) {
        match folder.executable_path() {
            Ok(path) => process.image = Some(snapshot_image(folder, path)),
            Err(error) => absent.push(missing(number::IMAGE, &error)),
        }
        process.fileless = process.image.as_ref().map(|image| image.links == Some(0));
        match folder.cmdline(TEXT_MAX_BYTES) {
            Ok(read) => self.take_arguments(process, &read.bytes, read.truncated),
            Err(error) => absent.push(missing(number::ARGV, &error)),
        }
        match folder.environ(TEXT_MAX_BYTES) {
            Ok(read) => self.take_environment(process, &read.bytes, read.truncated),
            Err(error) => absent.push(missing(number::ENVIRONMENT, &error)),
        }
        match folder.working_directory() {
            Ok(path) => process.working_directory = Some(path),
            Err(error) => absent.push(missing(number::WORKING_DIRECTORY, &error)),
        }
    }

    /// Takes in what was answered in the background; how many answers that has been in all.
    pub fn settle(&mut self) -> u64 {
        let places = self.places.settle();
        let containers = self.containers.settle();
        places
            .saturating_add(containers)
            .saturating_add(self.users.settle())
    }

    /// Whether the process that was completed last lacks a name, its place or facts of its container that may still come; once.
    pub fn take_owing(&mut self) -> bool {
        std::mem::take(&mut self.owing)
    }

    /// Adds what has come since a process was completed. What was promised and does not come has its reason then.
    pub fn complete_late(&mut self, process: &mut v1::Process) {
        process
            .absent
            .retain(|absent| absent.field != number::CGROUP_PATH);
        self.complete(process, true);
    }

    /// Adds what a record does not tell: the place, the facts of the container, the names of users and groups, and, unless
    /// `groups_known`, the further groups.
    pub fn complete(&mut self, process: &mut v1::Process, groups_known: bool) {
        // What was asked for others is not of this process.
        self.users.take_unanswered();
        self.places.take_unanswered();
        self.containers.take_unanswered();
        self.owing = false;
        let ticks = self.clock.ticks(process.start_boot_ns);
        let mut lazy = LazyProcess::new(&self.proc, process.pid, ticks);
        let mut found = None;
        if process.cgroup_path.is_none() {
            let id = process.cgroup_id.unwrap_or(0);
            found = self.places.known(id).or_else(|| {
                let folder = if self.live { lazy.open() } else { None };
                self.places.of(id, folder)
            });
            match &found {
                Some(place) => {
                    process.cgroup_path = Some(place.path.clone());
                    process.container.clone_from(&place.container);
                }
                None => {
                    let reason = if self.places.take_unanswered() {
                        self.owing = true;
                        AbsentReason::Pending
                    } else {
                        self.gone()
                    };
                    process
                        .absent
                        .push(v1::Absent::new(number::CGROUP_PATH, reason));
                }
            }
        }
        self.containers.complete(process, found.as_deref());
        self.owing |= self.containers.take_unanswered();
        let reason = self.gone();
        if !groups_known && let Some(credentials) = &mut process.credentials {
            let folder = if self.live { lazy.open() } else { None };
            match folder.and_then(|folder| folder.status().ok()) {
                Some(status) => {
                    credentials.supplementary_groups =
                        status.groups.into_iter().map(group).collect();
                }
                None => credentials.absent.push(v1::Absent::new(
                    sensor_proto::field::credentials::SUPPLEMENTARY_GROUPS,
                    reason,
                )),
            }
        }
        if self.live {
            let namespaces = process.namespaces.as_ref();
            let mut view = View {
                mnt_ns: namespaces.and_then(|namespaces| namespaces.mnt),
                user_ns: namespaces.and_then(|namespaces| namespaces.user),
                process: lazy,
            };
            if let Some(credentials) = &mut process.credentials {
                self.users.name_credentials(credentials, &mut view);
            }
            for file in process.image.iter_mut().chain(&mut process.script_chain) {
                self.users.name_file(file, &mut view);
            }
        }
        self.owing |= self.users.take_unanswered();
    }

    /// Adds the names of users and groups to credentials with which a process acted.
    pub fn name_credentials(&mut self, credentials: &mut v1::Credentials, process: &v1::Process) {
        if self.live {
            let (users, mut view) = self.view(process);
            users.name_credentials(credentials, &mut view);
        }
    }

    /// Adds the names of a file's owners, as a process sees them.
    pub fn name_file(&mut self, file: &mut v1::FileInfo, process: &v1::Process) {
        if self.live {
            let (users, mut view) = self.view(process);
            users.name_file(file, &mut view);
        }
    }

    fn view(&mut self, process: &v1::Process) -> (&mut Users, View<'_>) {
        let ticks = self.clock.ticks(process.start_boot_ns);
        let namespaces = process.namespaces.as_ref();
        let view = View {
            mnt_ns: namespaces.and_then(|namespaces| namespaces.mnt),
            user_ns: namespaces.and_then(|namespaces| namespaces.user),
            process: LazyProcess::new(&self.proc, process.pid, ticks),
        };
        (&mut self.users, view)
    }

    const fn gone(&self) -> AbsentReason {
        if self.live {
            AbsentReason::ProcessGone
        } else {
            AbsentReason::NotCollected
        }
    }

    /// What every record tells.
    fn begin(&self, header: &Header, subject: &Subject) -> v1::Process {
        v1::Process {
            pid: header.tgid,
            start_boot_ns: header.start_boot_ns,
            start_time_ns: self.clock.wall_ns(header.start_boot_ns),
            comm: event::padded(&subject.comm),
            credentials: Some(credentials(subject)),
            session: Some(v1::Session {
                audit_id: event::id(subject.session_id),
                ..v1::Session::default()
            }),
            cgroup_id: (subject.cgroup_id != 0).then_some(subject.cgroup_id),
            namespaces: Some(v1::Namespaces {
                mnt: (subject.mnt_ns != 0).then_some(subject.mnt_ns),
                ..v1::Namespaces::default()
            }),
            kernel_thread: subject.flags & subject_flag::KERNEL_THREAD != 0,
            ..v1::Process::default()
        }
    }

    fn capabilities(&self, head: &ExecRecord) -> Option<v1::Capabilities> {
        let [effective, permitted, inheritable, bounding, ambient] = head.capabilities;
        let known = |field, value| self.layout.has(field).then_some(value);
        let sets = v1::Capabilities {
            effective: known(Field::CredCapEffective, effective),
            permitted: known(Field::CredCapPermitted, permitted),
            inheritable: known(Field::CredCapInheritable, inheritable),
            bounding: known(Field::CredCapBounding, bounding),
            ambient: known(Field::CredCapAmbient, ambient),
        };
        (sets != v1::Capabilities::default()).then_some(sets)
    }

    fn take_arguments(&self, process: &mut v1::Process, bytes: &[u8], truncated: bool) {
        let arguments = self.policy.arguments(bytes);
        process.argv = arguments.strings;
        process.argv_redacted = arguments.redacted;
        process.argv_truncated = truncated || arguments.cut;
    }

    fn take_environment(&self, process: &mut v1::Process, bytes: &[u8], truncated: bool) {
        let environment = self.policy.environment(bytes);
        process.environment = environment.variables;
        process.environment_withheld = Some(environment.withheld);
        process.environment_truncated = truncated || environment.cut;
        if let Some((address, port)) = environment.remote {
            let session = process.session.get_or_insert_default();
            session.remote_port = Some(port.into());
            session.remote_address = Some(match address {
                std::net::IpAddr::V4(address) => address.octets().to_vec(),
                std::net::IpAddr::V6(address) => address.octets().to_vec(),
            });
        }
    }
}

/// The executed file as `/proc` shows it; opens nothing.
fn snapshot_image(folder: &ProcessDir, path: Vec<u8>) -> v1::FileInfo {
    let stat = folder.executable_stat().ok();
    let deleted = stat.is_some_and(|stat| stat.st_nlink == 0);
    let path = match path.strip_suffix(b" (deleted)") {
        Some(bare) if deleted => bare.to_vec(),
        Some(_) | None => path,
    };
    let mut info = v1::FileInfo {
        path: Some(path),
        unlinked: deleted,
        ..v1::FileInfo::default()
    };
    let Some(stat) = stat else {
        for field in [
            sensor_proto::field::file_info::INODE,
            sensor_proto::field::file_info::DEVICE,
        ] {
            info.absent
                .push(v1::Absent::new(field, AbsentReason::ReadFailed));
        }
        return info;
    };
    let time = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
    let nanoseconds = |ns| i64::try_from(ns).unwrap_or(0);
    // The kernel's own device number may differ on file systems with several (btrfs, overlayfs).
    info.device = u32::try_from(stat.st_dev).ok();
    info.inode = Some(stat.st_ino);
    info.mode = Some(stat.st_mode);
    info.set_type(v1::FileType::from_mode(stat.st_mode));
    info.owner_user = Some(user(stat.st_uid));
    info.owner_group = Some(group(stat.st_gid));
    info.size = u64::try_from(stat.st_size).ok();
    info.links = u32::try_from(stat.st_nlink).ok();
    info.mtime_ns = Some(time(stat.st_mtime, nanoseconds(stat.st_mtime_nsec)));
    info.ctime_ns = Some(time(stat.st_ctime, nanoseconds(stat.st_ctime_nsec)));
    info
}

/// Name of a terminal below /dev: the kernel's own name of a pseudo-terminal lacks the folder.
fn terminal_name(name: Vec<u8>) -> Vec<u8> {
    match name.strip_prefix(b"pts") {
        Some(number) if !number.is_empty() && number.iter().all(u8::is_ascii_digit) => {
            [&b"pts/"[..], number].concat()
        }
        _ => name,
    }
}

/// Process 1 of a pid namespace that is not the initial one.
const fn container_init(ns_pid: u32, pid: u32) -> bool {
    ns_pid == 1 && pid != 1
}

fn true_bytes(text: Text) -> Option<u64> {
    (text.true_len != Text::LONGER && !text.absent()).then_some(text.true_len.into())
}

fn missing(field: u32, error: &ProcError) -> v1::Absent {
    let reason = match error {
        ProcError::Gone { .. } => AbsentReason::ProcessGone,
        ProcError::NotPermitted { .. } => AbsentReason::NotPermitted,
        ProcError::TooLarge { .. } | ProcError::TooMany { .. } => AbsentReason::Truncated,
        ProcError::Malformed(_) | ProcError::Refused { .. } | ProcError::Failed { .. } => {
            AbsentReason::ReadFailed
        }
    };
    v1::Absent::new(field, reason)
}

fn namespaces(inode: impl Fn(usize) -> Option<u32>) -> v1::Namespaces {
    v1::Namespaces {
        mnt: inode(namespace::MNT),
        pid: inode(namespace::PID),
        net: inode(namespace::NET),
        uts: inode(namespace::UTS),
        ipc: inode(namespace::IPC),
        user: inode(namespace::USER),
        cgroup: inode(namespace::CGROUP),
        time: inode(namespace::TIME),
    }
}

fn user(id: u32) -> v1::User {
    v1::User {
        id,
        ..v1::User::default()
    }
}

fn group(id: u32) -> v1::Group {
    v1::Group {
        id,
        ..v1::Group::default()
    }
}

/// Users and groups of a subject, by number.
#[must_use]
pub fn credentials(subject: &Subject) -> v1::Credentials {
    ids_to_credentials(
        [subject.uid, subject.euid, subject.suid, subject.fsuid],
        [subject.gid, subject.egid, subject.sgid, subject.fsgid],
        subject.loginuid,
    )
}

/// In the order real, effective, saved, file system. [`sensor_common::UNKNOWN`] becomes absent.
fn ids_to_credentials(uid: [u32; 4], gid: [u32; 4], login: u32) -> v1::Credentials {
    let user = |id: u32| event::id(id).map(user);
    let group = |id: u32| event::id(id).map(group);
    let mut absent = Vec::new();
    if event::id(login).is_none() {
        absent.push(v1::Absent::new(
            sensor_proto::field::credentials::LOGIN_USER,
            AbsentReason::NotSet,
        ));
    }
    v1::Credentials {
        real_user: user(uid[0]),
        effective_user: user(uid[1]),
        saved_user: user(uid[2]),
        fs_user: user(uid[3]).filter(|_| uid[3] != uid[1]),
        real_group: group(gid[0]),
        effective_group: group(gid[1]),
        saved_group: group(gid[2]),
        fs_group: group(gid[3]).filter(|_| gid[3] != gid[1]),
        login_user: user(login),
        absent,
        ..v1::Credentials::default()
    }
}

/// Whether two credentials name the same ids, whatever the names say.
#[must_use]
pub fn same_ids(old: Option<&v1::Credentials>, new: &v1::Credentials) -> bool {
    let Some(old) = old else {
        return false;
    };
    let users = |c: &v1::Credentials| {
        [
            &c.real_user,
            &c.effective_user,
            &c.saved_user,
            &c.fs_user,
            &c.login_user,
        ]
        .map(|user| user.as_ref().map(|user| user.id))
    };
    let groups = |c: &v1::Credentials| {
        [
            &c.real_group,
            &c.effective_group,
            &c.saved_group,
            &c.fs_group,
        ]
        .map(|group| group.as_ref().map(|group| group.id))
    };
    users(old) == users(new) && groups(old) == groups(new)
}
