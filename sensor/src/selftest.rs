//! The sensor's own record of a known child against `/proc` and stat(2): insurance against wrong offsets.
//!
//! The child is the sensor itself, started again with a hidden argument, without environment: the only process that the
//! daemon ever starts, before it drops its privileges. It waits until it is in the scope, executes itself once more
//! (that is the exec that must be recorded), and holds still while it is compared. A kind of record whose fields do not
//! match is taken out of service, with the field, both values and the reason in the coverage.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use sensor_common::UNKNOWN;
use sensor_common::layout::{Field, KernelLayout};
use sensor_common::record::{ExecRecord, Parsed, RecordKind, RecordRef, TextRef};

use crate::clock::Clock;
use crate::loader::{Loaded, Ring, Scope};
use crate::procfs::{CapabilitySets, Mount, NAMESPACES, Proc, ProcError, ProcessDir};
use crate::reader::Batch;

/// First argument of the child.
const ARGUMENT: &str = "self-test-child";
/// It waits, then executes itself.
const WAIT: &str = "wait";
/// It is compared, then ends.
const HOLD: &str = "hold";
/// The program that the child is.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// What the child ends with, so that its exit record is known.
const STATUS: u8 = 42;
/// Longest wait for a record.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two looks at the ring.
const PAUSE: Duration = Duration::from_millis(1);
/// Most bytes of other processes' records that are kept meanwhile for the reader.
const KEPT_BYTES: usize = 16 << 20;
/// Inode number of the initial pid namespace (include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u32 = 0xefff_fffc;

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Which.
    pub field: &'static str,
    /// What the record says.
    pub kernel: String,
    /// What `/proc` or stat(2) says.
    pub proc: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "field {}: kernel {}, /proc {}",
            self.field, self.kernel, self.proc
        )
    }
}

/// How the test of one kind of record ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// So many fields were compared, and all are equal.
    Passed {
        /// How many.
        fields: usize,
    },
    /// Some are not; the kind is out of service.
    Failed(Vec<Mismatch>),
    /// It could not be tested; why. The kind stays in service.
    NotRun(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { fields } => write!(f, "passed ({fields} fields)"),
            Self::Failed(mismatches) => {
                f.write_str("refused by self-test: ")?;
                for (index, mismatch) in mismatches.iter().enumerate() {
                    if index > 0 {
                        f.write_str("; ")?;
                    }
                    write!(f, "{mismatch}")?;
                }
                Ok(())
            }
            Self::NotRun(reason) => write!(f, "not run: {reason}"),
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// The child's process id in the initial pid namespace, whose records are no news; `None` without a record.
    pub child_tgid: Option<u32>,
    /// This process's id in the initial pid namespace: the parent in the child's record. `None` without a record, or where
    /// the kernel's layout did not resolve.
    pub own_tgid: Option<u32>,
    /// Of the exec record.
    pub exec: Verdict,
    /// Of the exit record.
    pub exit: Verdict,
    /// All samples that came out of the process lane meanwhile, the child's too: they belong to the reader.
    pub samples: Batch,
}

/// Why the child's own side failed; nobody reads it but a person who starts it by hand.
fn child_failed(error: &io::Error) -> ExitCode {
    drop(writeln!(io::stderr(), "self-test child: {error}"));
    ExitCode::FAILURE
}

/// The child's side: to be asked first thing in `main`. `None`: this process is no child of a self-test.
#[must_use]
pub fn child(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.nth(1)? != ARGUMENT {
        return None;
    }
    let stage = arguments.next().unwrap_or_default();
    let nonce = arguments.next().unwrap_or_default();
    let mut byte = [0_u8; 1];
    if stage == WAIT {
        if let Err(error) = io::stdin().lock().read_exact(&mut byte) {
            return Some(child_failed(&error));
        }
        let error = Command::new(OWN_PROGRAM)
            .args([OsStr::new(ARGUMENT), OsStr::new(HOLD), &nonce])
            .env_clear()
            .exec();
        return Some(child_failed(&error));
    }
    // The parent closes its end when it has seen enough.
    match io::stdin().lock().read_exact(&mut byte) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Some(child_failed(&error)),
        Ok(()) | Err(_) => Some(ExitCode::from(STATUS)),
    }
}

/// A child that does not outlive the test.
struct Known {
    child: Child,
    nonce: String,
}

impl Known {
    fn start(nonce: String) -> io::Result<Self> {
        let child = Command::new(OWN_PROGRAM)
            .args([ARGUMENT, WAIT, &nonce])
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, nonce })
    }

    fn go(&mut self) -> io::Result<()> {
        match &mut self.child.stdin {
            Some(pipe) => pipe.write_all(b"g"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Lets it end.
    fn release(&mut self) {
        drop(self.child.stdin.take());
    }

    /// The arguments of its second exec, as the kernel keeps them.
    fn arguments(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [OWN_PROGRAM, ARGUMENT, HOLD, &self.nonce] {
            bytes.extend_from_slice(word.as_bytes());
            bytes.push(0);
        }
        bytes
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        // An ended child cannot be killed, and is then only waited for.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            tracing::debug!(%error, "the self-test's child");
        }
    }
}

/// Runs the test. The rings must not have a reader yet.
#[must_use]
pub fn run(
    loaded: &mut Loaded,
    process_ring: &mut Ring,
    scope: Option<&Scope>,
    proc: &Proc,
    clock: &Clock,
) -> Report {
    let mut samples = Batch::default();
    let untested = |reason: String, samples| Report {
        child_tgid: None,
        own_tgid: None,
        exec: Verdict::NotRun(reason.clone()),
        exit: Verdict::NotRun(reason),
        samples,
    };
    if loaded.coverage().backend(RecordKind::Exec).is_none() {
        return untested("no hook for exec".to_owned(), samples);
    }
    let begun_ns = clock.boot_ns().unwrap_or(0);
    let started = Known::start(format!("{}-{begun_ns}", std::process::id()));
    let mut known = match started {
        Ok(known) => known,
        Err(error) => return untested(format!("no child: {error}"), samples),
    };
    let admitted = scope.map_or(Ok(()), |scope| scope.admit(known.child.id()));
    if let Err(error) = admitted.and_then(|()| known.go()) {
        return untested(
            format!("the child cannot enter the scope: {error}"),
            samples,
        );
    }
    let arguments = known.arguments();
    let layout = loaded.layout().layout;
    // Whoever sees the child's arguments in /proc can run a program with the same: a record that differs may be another's, and only
    // counts if none comes that does not.
    let mut differing = None;
    let found = await_record(process_ring, &mut samples, |record| {
        let RecordRef::Exec(exec) = record else {
            return None;
        };
        if exec.text(ARGUMENTS_TEXT).bytes != arguments {
            return None;
        }
        let compared = proc
            .process(known.child.id())
            .and_then(|process| Truth::read(&process, scope, clock))
            .map(|truth| compare(exec, &truth, &arguments, begun_ns, &layout, clock));
        let verdict = match compared {
            Ok(checks) => checks.verdict(),
            Err(error) => Verdict::NotRun(format!("/proc: {error}")),
        };
        let own = exec.head.parent_tgid;
        settle(
            (exec.head.header.tgid, (own != 0).then_some(own), verdict),
            &mut differing,
        )
    });
    let found = found.or(differing);
    known.release();
    let Some((tgid, own_tgid, exec)) = found else {
        let mismatch = Mismatch {
            field: "record",
            kernel: "none came".to_owned(),
            proc: format!("process {} executed", known.child.id()),
        };
        let exec = Verdict::Failed(vec![mismatch]);
        loaded.refuse(RecordKind::Exec, &exec.to_string());
        return Report {
            child_tgid: None,
            own_tgid: None,
            exec,
            exit: Verdict::NotRun("the child was not seen".to_owned()),
            samples,
        };
    };
    let exit = if loaded.coverage().backend(RecordKind::Exit).is_some() {
        await_exit(process_ring, &mut samples, tgid)
    } else {
        Verdict::NotRun("no hook for exit".to_owned())
    };
    for (kind, verdict) in [(RecordKind::Exec, &exec), (RecordKind::Exit, &exit)] {
        if let Verdict::Failed(_) = verdict {
            loaded.refuse(kind, &verdict.to_string());
        }
    }
    Report {
        child_tgid: Some(tgid),
        own_tgid,
        exec,
        exit,
        samples,
    }
}

/// Process of the record, its parent if known, and what came of the comparison.
type Candidate = (u32, Option<u32>, Verdict);

/// Gives a candidate that the search ends with; of those that differ from the child, the first is kept.
fn settle(candidate: Candidate, differing: &mut Option<Candidate>) -> Option<Candidate> {
    if let Verdict::Failed(_) = candidate.2 {
        differing.get_or_insert(candidate);
        return None;
    }
    Some(candidate)
}

fn await_exit(ring: &mut Ring, samples: &mut Batch, tgid: u32) -> Verdict {
    let status = await_record(ring, samples, |record| {
        let RecordRef::Exit(exit) = record else {
            return None;
        };
        (exit.head.header.tgid == tgid).then_some(exit.head.status)
    });
    let expected = u32::from(STATUS) << 8;
    let mut checks = Checks::default();
    match status {
        Some(status) if status == UNKNOWN => {
            return Verdict::NotRun("this kernel's record has no status".to_owned());
        }
        Some(status) => checks.equal("status", status, expected),
        None => checks.push("record", "none came", format_args!("status {expected}")),
    }
    checks.verdict()
}

/// Takes samples out of the ring, and keeps them, until `look` finds what it wants or patience ends.
fn await_record<T>(
    ring: &mut Ring,
    samples: &mut Batch,
    mut look: impl FnMut(&RecordRef<'_>) -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        while samples.bytes() < KEPT_BYTES {
            let taken = ring.next(|sample| {
                samples.push(sample);
                RecordRef::parse(sample)
                    .ok()
                    .and_then(|record| look(&record))
            });
            match taken {
                None => break,
                Some(None) => {}
                Some(found) => return found,
            }
        }
        if Instant::now() >= deadline || samples.bytes() >= KEPT_BYTES {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Positions of the strings of an exec record.
const PATH_TEXT: usize = 0;
const FILENAME_TEXT: usize = 1;
const DIRECTORY_TEXT: usize = 3;
const ARGUMENTS_TEXT: usize = 4;
const ENVIRONMENT_TEXT: usize = 5;

/// The child as `/proc` and stat(2) have it.
#[derive(Debug)]
struct Truth {
    pid: u32,
    /// Ids of processes mean the same to us and to the kernel.
    initial_pids: bool,
    /// Ids of users likewise.
    initial_users: bool,
    parent: u32,
    process_group: u32,
    session: u32,
    start_ticks: u64,
    comm: Vec<u8>,
    tty_device: u32,
    uid: [u32; 4],
    gid: [u32; 4],
    ns_pid: Option<u32>,
    capabilities: Option<CapabilitySets>,
    loginuid: Option<u32>,
    session_id: Option<u32>,
    namespaces: [Option<u32>; NAMESPACES.len()],
    path: Vec<u8>,
    directory: Vec<u8>,
    file: rustix::fs::Stat,
    mounts: Vec<Mount>,
    scope_id: Option<u64>,
    now_boot_ns: u64,
}

impl Truth {
    fn read(process: &ProcessDir, scope: Option<&Scope>, clock: &Clock) -> Result<Self, ProcError> {
        let stat = process.stat()?;
        let status = process.status()?;
        let namespaces = NAMESPACES.map(|name| process.namespace(name).ok());
        let whole = |range: &crate::procfs::IdRange| {
            range.inside == 0 && range.outside == 0 && range.count == u32::MAX
        };
        Ok(Self {
            pid: stat.pid,
            initial_pids: namespaces.get(1).copied().flatten() == Some(INITIAL_PID_NAMESPACE),
            initial_users: process.uid_map()?.iter().any(whole)
                && process.gid_map()?.iter().any(whole),
            parent: stat.parent_pid,
            process_group: stat.process_group,
            session: stat.session,
            start_ticks: stat.start_ticks,
            comm: stat.comm,
            tty_device: stat.tty_device,
            uid: status.uid,
            gid: status.gid,
            ns_pid: status.ns_pid,
            capabilities: status.capabilities,
            loginuid: process.login_uid().ok(),
            session_id: process.session_id().ok(),
            namespaces,
            path: process.executable_path()?,
            directory: process.working_directory()?,
            file: process.executable_stat()?,
            mounts: process.mountinfo()?,
            scope_id: scope.map(Scope::id),
            now_boot_ns: clock.boot_ns().unwrap_or(u64::MAX),
        })
    }
}

/// Comparisons so far.
#[derive(Debug, Default)]
struct Checks {
    compared: usize,
    mismatches: Vec<Mismatch>,
}

impl Checks {
    fn push(&mut self, field: &'static str, kernel: impl fmt::Display, proc: impl fmt::Display) {
        self.compared = self.compared.saturating_add(1);
        self.mismatches.push(Mismatch {
            field,
            kernel: kernel.to_string(),
            proc: proc.to_string(),
        });
    }

    fn equal<T: PartialEq + fmt::Display>(&mut self, field: &'static str, kernel: T, proc: T) {
        if kernel == proc {
            self.compared = self.compared.saturating_add(1);
        } else {
            self.push(field, kernel, proc);
        }
    }

    /// Compares what both sides know.
    fn known<T: PartialEq + fmt::Display>(
        &mut self,
        field: &'static str,
        kernel: Option<T>,
        proc: Option<T>,
    ) {
        if let (Some(kernel), Some(proc)) = (kernel, proc) {
            self.equal(field, kernel, proc);
        }
    }

    /// Compares a string unless it was cut or not read.
    fn text(&mut self, field: &'static str, kernel: TextRef<'_>, proc: &[u8]) {
        if !kernel.text.truncated() && !kernel.text.absent() {
            self.equal(
                field,
                kernel.bytes.escape_ascii().to_string(),
                proc.escape_ascii().to_string(),
            );
        }
    }

    fn verdict(self) -> Verdict {
        if self.mismatches.is_empty() {
            Verdict::Passed {
                fields: self.compared,
            }
        } else {
            Verdict::Failed(self.mismatches)
        }
    }
}

fn compare(
    exec: &Parsed<'_, ExecRecord>,
    truth: &Truth,
    arguments: &[u8],
    begun_ns: u64,
    layout: &KernelLayout,
    clock: &Clock,
) -> Checks {
    let mut checks = Checks::default();
    let head = &exec.head;
    let subject = &head.subject;
    // What the layout lacks is not observed, whatever the record holds.
    let has = |field: Field| layout.has(field).then_some(());

    if truth.initial_pids {
        checks.equal("tgid", head.header.tgid, truth.pid);
        checks.equal("pid", head.header.pid, truth.pid);
        let parent = has(Field::TaskRealParent).map(|()| head.parent_tgid);
        checks.known("parent_tgid", parent, Some(truth.parent));
        let group = (head.process_group != 0).then_some(head.process_group);
        checks.known("process_group", group, Some(truth.process_group));
        let session = (head.session != 0).then_some(head.session);
        checks.known("session", session, Some(truth.session));
    }
    let ns_pid = (head.ns_pid != 0).then_some(head.ns_pid);
    checks.known("ns_pid", ns_pid, truth.ns_pid);
    checks.equal(
        "start_boot_ns (in clock ticks)",
        clock.ticks(head.header.start_boot_ns),
        truth.start_ticks,
    );
    let time = head.header.time_boot_ns;
    if time < begun_ns || time > truth.now_boot_ns {
        let span = format!("{begun_ns} to {}", truth.now_boot_ns);
        checks.push("time_boot_ns", time, span);
    }
    let comm = has(Field::TaskComm).map(|()| until_nul(&subject.comm));
    checks.known(
        "comm",
        comm.map(|comm| comm.escape_ascii().to_string()),
        Some(truth.comm.escape_ascii().to_string()),
    );
    compare_subject(&mut checks, exec, truth, layout);
    compare_file(&mut checks, exec, truth, layout);

    let kernel_namespaces = head.namespaces.iter().zip(&truth.namespaces);
    for (name, (kernel, proc)) in NAMESPACE_FIELDS.iter().zip(kernel_namespaces) {
        checks.known(name, (*kernel != 0).then_some(*kernel), *proc);
    }
    if has(Field::SignalTty).is_some() && has(Field::TtyDriverMajor).is_some() {
        checks.equal(
            "tty_device",
            head.tty_device,
            kernel_device(truth.tty_device),
        );
    }
    checks.text("path", exec.text(PATH_TEXT), &truth.path);
    checks.text("filename", exec.text(FILENAME_TEXT), OWN_PROGRAM.as_bytes());
    checks.text(
        "working_directory",
        exec.text(DIRECTORY_TEXT),
        &truth.directory,
    );
    checks.text("arguments", exec.text(ARGUMENTS_TEXT), arguments);
    checks.text("environment", exec.text(ENVIRONMENT_TEXT), b"");
    checks
}

const NAMESPACE_FIELDS: [&str; NAMESPACES.len()] = [
    "mnt_ns",
    "pid_ns",
    "net_ns",
    "uts_ns",
    "ipc_ns",
    "user_ns",
    "cgroup_ns",
    "time_ns",
];

fn compare_subject(
    checks: &mut Checks,
    exec: &Parsed<'_, ExecRecord>,
    truth: &Truth,
    layout: &KernelLayout,
) {
    let subject = &exec.head.subject;
    if truth.initial_users {
        let [uid, euid, suid, fsuid] = truth.uid;
        let [gid, egid, sgid, fsgid] = truth.gid;
        for (name, field, kernel, proc) in [
            ("uid", Field::CredUid, subject.uid, uid),
            ("euid", Field::CredEuid, subject.euid, euid),
            ("suid", Field::CredSuid, subject.suid, suid),
            ("fsuid", Field::CredFsuid, subject.fsuid, fsuid),
            ("gid", Field::CredGid, subject.gid, gid),
            ("egid", Field::CredEgid, subject.egid, egid),
            ("sgid", Field::CredSgid, subject.sgid, sgid),
            ("fsgid", Field::CredFsgid, subject.fsgid, fsgid),
        ] {
            if layout.has(field) {
                checks.equal(name, kernel, proc);
            }
        }
        let loginuid = layout.has(Field::TaskLoginuid).then_some(subject.loginuid);
        checks.known("loginuid", loginuid, truth.loginuid);
    }
    let session = layout
        .has(Field::TaskSessionid)
        .then_some(subject.session_id);
    checks.known("session_id", session, truth.session_id);
    let cgroup = (subject.cgroup_id != 0).then_some(subject.cgroup_id);
    checks.known("cgroup_id", cgroup, truth.scope_id);
    if let Some(sets) = &truth.capabilities {
        let [effective, permitted, inheritable, bounding, ambient] = exec.head.capabilities;
        for (name, field, kernel, proc) in [
            (
                "effective capabilities",
                Field::CredCapEffective,
                effective,
                sets.effective,
            ),
            (
                "permitted capabilities",
                Field::CredCapPermitted,
                permitted,
                sets.permitted,
            ),
            (
                "inheritable capabilities",
                Field::CredCapInheritable,
                inheritable,
                sets.inheritable,
            ),
            (
                "bounding capabilities",
                Field::CredCapBounding,
                bounding,
                sets.bounding,
            ),
            (
                "ambient capabilities",
                Field::CredCapAmbient,
                ambient,
                sets.ambient,
            ),
        ] {
            if layout.has(field) {
                checks.equal(name, format!("{kernel:#x}"), format!("{proc:#x}"));
            }
        }
    }
}

fn compare_file(
    checks: &mut Checks,
    exec: &Parsed<'_, ExecRecord>,
    truth: &Truth,
    layout: &KernelLayout,
) {
    let file = &exec.head.file;
    let stat = &truth.file;
    checks.equal("file inode", file.inode, stat.st_ino);
    let length = u64::try_from(stat.st_size).ok();
    checks.known("file size", Some(file.size), length);
    checks.equal("file mode", file.mode, stat.st_mode);
    let links = u32::try_from(stat.st_nlink).ok();
    checks.known("file links", Some(file.nlink), links);
    if truth.initial_users {
        checks.equal("file uid", file.uid, stat.st_uid);
        checks.equal("file gid", file.gid, stat.st_gid);
    }
    if layout.has(Field::InodeMtimeSec) {
        let mtime = nanoseconds(stat.st_mtime, stat.st_mtime_nsec);
        checks.known("file mtime_ns", Some(file.mtime_ns), mtime);
    }
    if layout.has(Field::InodeCtimeSec) {
        let ctime = nanoseconds(stat.st_ctime, stat.st_ctime_nsec);
        checks.known("file ctime_ns", Some(file.ctime_ns), ctime);
    }
    // The kernel has the device of the file system; stat(2) of some (btrfs, overlayfs) shows another one than mountinfo.
    let (major, minor) = (file.device >> 20, file.device & 0xf_ffff);
    let shown = (
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
    );
    let mounted = truth
        .mounts
        .iter()
        .any(|mount| mount.device == (major, minor));
    if !mounted {
        checks.equal(
            "file device",
            format!("{major}:{minor}"),
            format!("{}:{}", shown.0, shown.1),
        );
    }
}

fn nanoseconds(seconds: i64, nanoseconds: impl TryInto<i64>) -> Option<i64> {
    seconds
        .checked_mul(1_000_000_000)?
        .checked_add(nanoseconds.try_into().ok()?)
}

/// A device number as stat files have it (`new_encode_dev`), as the kernel has it (`MKDEV`).
fn kernel_device(shown: u32) -> u32 {
    let major = (shown >> 8) & 0xfff;
    let minor = (shown & 0xff) | ((shown >> 12) & 0xf_ff00);
    (major << 20) | minor
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use sensor_common::record::{Record as _, Text};
    use zerocopy::{FromBytes as _, IntoBytes as _};

    use super::*;

    const ARGUMENTS: &[u8] = b"/proc/self/exe\0self-test-child\0hold\0nonce\0";

    /// This process as `/proc` has it, and an exec record that says the same.
    fn pair() -> (Truth, Vec<u8>, Clock) {
        let clock = Clock::new().unwrap();
        let proc = Proc::default();
        let truth = Truth::read(&proc.own().unwrap(), None, &clock).unwrap();
        let mut head = ExecRecord::read_from_bytes(&[0; size_of::<ExecRecord>()]).unwrap();
        head.header.kind = ExecRecord::KIND as u16;
        head.header.tgid = truth.pid;
        head.header.pid = truth.pid;
        head.header.start_boot_ns = clock.ticks_to_boot_ns(truth.start_ticks);
        head.header.time_boot_ns = truth.now_boot_ns;
        head.parent_tgid = truth.parent;
        head.process_group = truth.process_group;
        head.session = truth.session;
        head.ns_pid = truth.ns_pid.unwrap_or(0);
        let [uid, euid, suid, fsuid] = truth.uid;
        let [gid, egid, sgid, fsgid] = truth.gid;
        let subject = &mut head.subject;
        (subject.uid, subject.euid, subject.suid, subject.fsuid) = (uid, euid, suid, fsuid);
        (subject.gid, subject.egid, subject.sgid, subject.fsgid) = (gid, egid, sgid, fsgid);
        subject.loginuid = truth.loginuid.unwrap_or(UNKNOWN);
        subject.session_id = truth.session_id.unwrap_or(UNKNOWN);
        subject.comm[..truth.comm.len()].copy_from_slice(&truth.comm);
        let sets = truth.capabilities.unwrap();
        head.capabilities = [
            sets.effective,
            sets.permitted,
            sets.inheritable,
            sets.bounding,
            sets.ambient,
        ];
        let file = &mut head.file;
        let stat = &truth.file;
        file.inode = stat.st_ino;
        file.size = u64::try_from(stat.st_size).unwrap();
        file.mode = stat.st_mode;
        file.nlink = u32::try_from(stat.st_nlink).unwrap();
        (file.uid, file.gid) = (stat.st_uid, stat.st_gid);
        file.mtime_ns = nanoseconds(stat.st_mtime, stat.st_mtime_nsec).unwrap();
        file.ctime_ns = nanoseconds(stat.st_ctime, stat.st_ctime_nsec).unwrap();
        file.device = (rustix::fs::major(stat.st_dev) << 20) | rustix::fs::minor(stat.st_dev);
        for (kernel, proc) in head.namespaces.iter_mut().zip(truth.namespaces) {
            *kernel = proc.unwrap_or(0);
        }
        head.tty_device = kernel_device(truth.tty_device);
        let mut tail = Vec::new();
        let mut text = |bytes: &[u8]| {
            tail.extend_from_slice(bytes);
            let len = u32::try_from(bytes.len()).unwrap();
            Text { len, true_len: len }
        };
        head.path = text(&truth.path);
        head.filename = text(OWN_PROGRAM.as_bytes());
        head.interpreter = text(OWN_PROGRAM.as_bytes());
        head.working_directory = text(&truth.directory);
        head.arguments = text(ARGUMENTS);
        head.environment = text(b"");
        head.header.size = u32::try_from(size_of::<ExecRecord>() + tail.len()).unwrap();
        let mut bytes = head.as_bytes().to_vec();
        bytes.extend_from_slice(&tail);
        (truth, bytes, clock)
    }

    fn everything() -> KernelLayout {
        KernelLayout {
            values: [0; Field::COUNT],
        }
    }

    fn verdict(truth: &Truth, bytes: &[u8], clock: &Clock) -> Verdict {
        let RecordRef::Exec(exec) = RecordRef::parse(bytes).unwrap() else {
            panic!("no exec record");
        };
        compare(&exec, truth, ARGUMENTS, 0, &everything(), clock).verdict()
    }

    #[test]
    fn equal_fields_pass_and_many_are_compared() {
        let (truth, bytes, clock) = pair();
        let Verdict::Passed { fields } = verdict(&truth, &bytes, &clock) else {
            panic!("{}", verdict(&truth, &bytes, &clock));
        };
        assert!(fields >= 30, "{fields}");
    }

    #[test]
    fn each_wrong_byte_is_told_by_its_field() {
        let (truth, bytes, clock) = pair();
        let wrong = |offset: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[offset] ^= value;
            match verdict(&truth, &bytes, &clock) {
                Verdict::Failed(mismatches) => mismatches
                    .iter()
                    .map(|mismatch| mismatch.field)
                    .collect::<Vec<_>>(),
                other @ (Verdict::Passed { .. } | Verdict::NotRun(_)) => panic!("{other}"),
            }
        };
        let file = std::mem::offset_of!(ExecRecord, file);
        let subject = std::mem::offset_of!(ExecRecord, subject);
        assert_eq!(wrong(subject + 8, 1), ["uid"]);
        assert_eq!(wrong(file, 1), ["file inode"]);
        assert_eq!(wrong(file + 8, 1), ["file size"]);
        assert_eq!(wrong(file + 24, 1), ["file ctime_ns"]);
        assert_eq!(
            wrong(std::mem::offset_of!(ExecRecord, capabilities), 1),
            ["effective capabilities"]
        );
        assert_eq!(wrong(bytes.len() - 2, 1), ["arguments"]);
        let start = std::mem::offset_of!(ExecRecord, header) + 24 + 7;
        assert_eq!(wrong(start, 1), ["start_boot_ns (in clock ticks)"]);
    }

    #[test]
    fn a_failure_reads_as_one_line_with_both_values() {
        let mut checks = Checks::default();
        checks.equal("uid", 0_u32, 1000_u32);
        checks.equal("gid", 5, 5);
        assert_eq!(
            checks.verdict().to_string(),
            "refused by self-test: field uid: kernel 0, /proc 1000"
        );
    }

    #[test]
    fn what_the_kernel_lacks_is_not_compared() {
        let (truth, mut bytes, clock) = pair();
        let uid = std::mem::offset_of!(ExecRecord, subject) + 8;
        bytes[uid..uid + 4].copy_from_slice(&UNKNOWN.to_ne_bytes());
        let RecordRef::Exec(exec) = RecordRef::parse(&bytes).unwrap() else {
            panic!("no exec record");
        };
        let mut layout = everything();
        layout.values[Field::CredUid as usize] = sensor_common::layout::ABSENT;
        let verdict = compare(&exec, &truth, ARGUMENTS, 0, &layout, &clock).verdict();
        assert!(matches!(verdict, Verdict::Passed { .. }), "{verdict}");
    }

    #[test]
    fn device_numbers_are_translated() {
        // /dev/pts/300: major 136, minor 300, as new_encode_dev writes it.
        let shown = (300 & 0xff) | (136 << 8) | ((300 & !0xff) << 12);
        assert_eq!(kernel_device(shown), (136 << 20) | 300);
        assert_eq!(kernel_device(0), 0);
    }

    #[test]
    fn a_program_with_the_same_arguments_does_not_decide() {
        let failed = |tgid| {
            let mut checks = Checks::default();
            checks.equal("uid", 1000, 0);
            (tgid, None, checks.verdict())
        };
        let mut differing = None;
        assert!(settle(failed(7), &mut differing).is_none());
        assert!(settle(failed(8), &mut differing).is_none());
        let mut checks = Checks::default();
        checks.equal("uid", 0, 0);
        let (tgid, _, verdict) = settle((9, Some(1), checks.verdict()), &mut differing).unwrap();
        assert_eq!(tgid, 9);
        assert!(matches!(verdict, Verdict::Passed { .. }), "{verdict:?}");
        // Without it, the first is told.
        assert_eq!(differing.unwrap().0, 7);
    }

    #[test]
    fn only_the_hidden_argument_makes_a_child() {
        let of = |words: &[&str]| child(words.iter().map(OsString::from));
        assert!(of(&["sensor"]).is_none());
        assert!(of(&["sensor", "run"]).is_none());
    }
}
