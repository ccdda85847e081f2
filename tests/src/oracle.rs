//! What the kernel itself says about processes and files, in the words of the schema: /proc, stat(2), statx(2), statfs(2), digests
//! of the content.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};
use rustix::time::{ClockId, clock_gettime};
use sensor_proto::identity;
use serde_json::Value;

use crate::coverage::Expected;
use crate::program;

/// A clock tick, as /proc counts time.
const TICK_NS: u64 = 10_000_000;
/// How far the offset between the clocks may move between two looks at it.
const CLOCK_TOLERANCE_NS: i128 = 50_000_000;
/// Value of a login user that was never set.
const NOT_SET: u32 = u32::MAX;

/// Fields of a process that nothing else tells.
pub const PROCESS_UNCOMPARABLE: &[(&str, &str)] = &[
    (
        "image.generation",
        "no file system call tells it but an ioctl that safe code cannot make; it is compared through unique_id",
    ),
    ("script_chain.generation", "as image.generation"),
];

/// Fields of a file that nothing else tells.
pub const FILE_UNCOMPARABLE: &[(&str, &str)] = &[(
    "file.generation",
    "no file system call tells it but an ioctl that safe code cannot make; it is compared through unique_id",
)];

/// One look at both clocks, nanoseconds: the wall clock's and the boot clock's.
#[must_use]
pub fn clocks() -> (i128, i128) {
    let ns = |clock| {
        let time = clock_gettime(clock);
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    (ns(ClockId::Realtime), ns(ClockId::Boottime))
}

/// Text of /proc/sys/kernel/random/boot_id.
#[must_use]
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    text.trim().to_owned()
}

/// A field of /proc/PID/stat, counted from 1 as in proc(5).
#[must_use]
pub fn stat_field(pid: u32, number: usize) -> String {
    let text = fs::read(format!("/proc/{pid}/stat")).unwrap();
    let text = String::from_utf8_lossy(&text);
    // The name, field 2, may hold blanks and brackets.
    let (_, rest) = text.rsplit_once(") ").unwrap();
    rest.split(' ').nth(number - 3).unwrap().trim().to_owned()
}

/// The line of /proc/PID/status with that name.
#[must_use]
pub fn status_field(pid: u32, name: &str) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/status")).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {name} in status"));
    line.split_whitespace().map(str::to_owned).collect()
}

/// Start of a process in clock ticks since boot.
#[must_use]
pub fn start_ticks(pid: u32) -> u64 {
    stat_field(pid, 22).parse().unwrap()
}

/// Public identity of a process that runs, or has ended and was not waited for.
#[must_use]
pub fn unique_pid(pid: u32) -> String {
    identity::unique_pid(&boot_id(), pid, start_ticks(pid)).to_string()
}

/// Kernel bytes as the JSON view has them, once read as JSON.
#[must_use]
pub fn shown(bytes: &[u8]) -> String {
    bytes
        .utf8_chunks()
        .flat_map(|chunk| {
            let wrong = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
            std::iter::once(chunk.valid().to_owned()).chain(wrong)
        })
        .collect()
}

/// A path as the JSON view has it.
#[must_use]
pub fn shown_path(path: &Path) -> String {
    shown(path.as_os_str().as_bytes())
}

/// Name of a user by /etc/passwd.
#[must_use]
pub fn user_name(id: u32) -> Option<String> {
    named_in("/etc/passwd", id, 0)
}

/// Name of a group by /etc/group.
#[must_use]
pub fn group_name(id: u32) -> Option<String> {
    named_in("/etc/group", id, 0)
}

fn named_in(file: &str, id: u32, field: usize) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let number: u32 = fields.get(2)?.parse().ok()?;
        (number == id).then(|| fields.get(field).map(|name| (*name).to_owned()))?
    })
}

/// Name of a user for fields at or below `path`.
pub fn user(expected: &mut Expected, path: &str, id: u32) {
    expected.is(&format!("{path}.id"), id);
    expected.maybe(&format!("{path}.name"), user_name(id));
    expected.none(&format!("{path}.domain"));
}

/// Name of a group for fields at or below `path`.
pub fn group(expected: &mut Expected, path: &str, id: u32) {
    expected.is(&format!("{path}.id"), id);
    expected.maybe(&format!("{path}.name"), group_name(id));
}

/// What must be told of a process that runs and executed its program between `began` and now, by its parent's fork and
/// one exec. Its environment is compared with what `allowed` lets through; the values of `redacted` must not be told.
pub fn process(pid: u32, began: (i128, i128), allowed: &[&str], redacted: &[&str]) -> Expected {
    let now = clocks();
    let mut expected = Expected::new("Process", PROCESS_UNCOMPARABLE);
    expected.is("unique_pid", unique_pid(pid));
    expected.is("exec_id", 1);
    expected.is("pid", pid);
    let ns_pid = status_field(pid, "NSpid");
    expected.is("ns_pid", ns_pid.last().unwrap().parse::<u32>().unwrap());
    started(&mut expected, "start_boot_ns", pid);
    let start = i128::from(start_ticks(pid) * TICK_NS) + now.0 - now.1;
    expected.between(
        "start_time",
        start - CLOCK_TOLERANCE_NS,
        start + i128::from(TICK_NS) + CLOCK_TOLERANCE_NS,
    );
    expected.between(
        "exec_time",
        began.0 - CLOCK_TOLERANCE_NS,
        now.0 + CLOCK_TOLERANCE_NS,
    );
    expected.none("end_time");
    expected.is("type", "exec");
    let image = PathBuf::from(format!("/proc/{pid}/exe"));
    let path = fs::read_link(&image).unwrap();
    file(&mut expected, "image", &image, &path);
    expected.holds("image.hashes.source", |source| {
        if source == "proc_exe" || source == "path" {
            Ok(())
        } else {
            Err(format!("{source} is no way to a program"))
        }
    });
    expected.none("script_chain");
    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap();
    expected.is("comm", shown(comm.trim_ascii_end()));
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    expected.all("argv", strings(&arguments).map(shown));
    expected.is("argv_true_bytes", arguments.len());
    expected.none("argv_truncated");
    expected.none("argv_redacted");
    environment(&mut expected, pid, allowed, redacted);
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    expected.is("working_directory", shown_path(&folder));
    expected.none("working_directory_truncated");
    credentials(&mut expected, pid);
    for (field, line) in [
        ("effective", "CapEff"),
        ("permitted", "CapPrm"),
        ("inheritable", "CapInh"),
        ("bounding", "CapBnd"),
        ("ambient", "CapAmb"),
    ] {
        expected.all(&format!("capabilities.{field}"), status_field(pid, line));
    }
    session(&mut expected, pid);
    for name in ["mnt", "pid", "net", "uts", "ipc", "user", "cgroup", "time"] {
        let inode = fs::metadata(format!("/proc/{pid}/ns/{name}")).map(|meta| meta.ino());
        expected.maybe(&format!("namespaces.{name}"), inode.ok());
    }
    cgroup(&mut expected, pid);
    let parent: u32 = stat_field(pid, 4).parse().unwrap();
    expected.is("parent.unique_pid", unique_pid(parent));
    expected.holds("parent.exec_id", |value| {
        value
            .as_u64()
            .map(drop)
            .ok_or_else(|| "no number".to_owned())
    });
    expected.is("parent.pid", parent);
    expected.none("parent.tid");
    started(&mut expected, "parent.start_boot_ns", parent);
    expected.none("parent.out_of_scope");
    expected.is("fileless", false);
    expected.is("secure_exec", false);
    expected.is("ptraced", false);
    expected.none("kernel_thread");
    expected.none("snapshot");
    expected
}

/// Start of a process by the boot clock: /proc tells it to a tick.
fn started(expected: &mut Expected, path: &str, pid: u32) {
    let start = i128::from(start_ticks(pid) * TICK_NS);
    expected.between(path, start, start + i128::from(TICK_NS) - 1);
}

fn strings(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .strip_suffix(b"\0")
        .into_iter()
        .flat_map(|bytes| bytes.split(|byte| *byte == 0))
}

fn environment(expected: &mut Expected, pid: u32, allowed: &[&str], redacted: &[&str]) {
    let all = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let (mut told, mut withheld) = (Vec::new(), 0);
    for variable in strings(&all) {
        let mut halves = variable.splitn(2, |byte| *byte == b'=');
        let name = shown(halves.next().unwrap_or_default());
        let value = halves.next().map(shown);
        let fits = |pattern: &&str| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == **pattern,
        };
        if allowed.iter().any(fits) {
            told.push((name, value));
        } else {
            withheld += 1;
        }
    }
    let secret = |name: &String| redacted.contains(&name.as_str());
    expected.all(
        "environment.name",
        told.iter().map(|(name, _)| name.clone()),
    );
    expected.all(
        "environment.value",
        told.iter()
            .filter(|(name, _)| !secret(name))
            .filter_map(|(_, value)| value.clone()),
    );
    expected.all(
        "environment.redacted",
        told.iter().filter(|(name, _)| secret(name)).map(|_| true),
    );
    expected.is("environment_true_bytes", all.len());
    expected.none("environment_truncated");
    expected.is("environment_withheld", withheld);
}

fn credentials(expected: &mut Expected, pid: u32) {
    let ids = |line| -> Vec<u32> {
        let words = status_field(pid, line);
        words.iter().map(|word| word.parse().unwrap()).collect()
    };
    let (users, groups) = (ids("Uid"), ids("Gid"));
    for (index, (of_user, of_group)) in [
        ("real_user", "real_group"),
        ("effective_user", "effective_group"),
        ("saved_user", "saved_group"),
    ]
    .iter()
    .enumerate()
    {
        user(
            expected,
            &format!("credentials.{of_user}"),
            *users.get(index).unwrap(),
        );
        group(
            expected,
            &format!("credentials.{of_group}"),
            *groups.get(index).unwrap(),
        );
    }
    assert_eq!(
        users.get(1),
        users.get(3),
        "the tests change no fsuid alone"
    );
    expected.none("credentials.fs_user");
    expected.none("credentials.fs_group");
    let further = ids("Groups");
    expected.all("credentials.supplementary_groups.id", further.clone());
    expected.all(
        "credentials.supplementary_groups.name",
        further.iter().filter_map(|id| group_name(*id)),
    );
    match login_user(pid) {
        Some(id) => {
            user(expected, "credentials.login_user", id);
            let primary = named_in("/etc/passwd", id, 3).map(|group| group.parse::<u32>().unwrap());
            match primary {
                Some(id) => group(expected, "credentials.login_group", id),
                None => expected.none("credentials.login_group"),
            }
        }
        None => {
            expected.none("credentials.login_user");
            expected.none("credentials.login_group");
        }
    }
}

/// User who logged in, where the kernel keeps that and somebody did.
#[must_use]
pub fn login_user(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|id| *id != NOT_SET)
}

fn session(expected: &mut Expected, pid: u32) {
    let audit = fs::read_to_string(format!("/proc/{pid}/sessionid"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .filter(|id: &u32| *id != NOT_SET);
    expected.maybe("session.audit_id", audit);
    // 0: the session of the kernel itself, in which a guest's process 1 begins.
    let leader: u32 = stat_field(pid, 6).parse().unwrap();
    expected.maybe("session.sid", (leader != 0).then_some(leader));
    let terminal: u32 = stat_field(pid, 7).parse().unwrap();
    let (major, minor) = (
        terminal >> 8 & 0xfff,
        terminal & 0xff | terminal >> 12 & 0xfff00,
    );
    let name = match major {
        0 => None,
        136..=143 => Some(format!("pts/{}", (major - 136) * 256 + minor)),
        _ => panic!("a terminal that the tests do not make: {major}:{minor}"),
    };
    expected.maybe("session.tty", name);
    expected.maybe("session.tty_device", (terminal != 0).then_some(terminal));
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let remote = strings(&environment)
        .find_map(|variable| variable.strip_prefix(b"SSH_CONNECTION="))
        .map(|value| {
            shown(value)
                .split(' ')
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
    let part = |index: usize| remote.as_ref().and_then(|words| words.get(index).cloned());
    expected.maybe("session.remote_address", part(0));
    expected.maybe(
        "session.remote_port",
        part(1).map(|port| port.parse::<u32>().unwrap()),
    );
}

fn cgroup(expected: &mut Expected, pid: u32) {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .expect("cgroup v2");
    expected.is("cgroup_path", path);
    let folder = crate::place::cgroup2_mount()
        .unwrap()
        .join(path.trim_start_matches('/'));
    expected.is("cgroup_id", fs::metadata(folder).unwrap().ino());
    expected.none("container");
}

/// What must be told of a regular file and its content: `view` opens it, `path` is its name. The source of the hashes is left open.
pub fn file(expected: &mut Expected, prefix: &str, view: &Path, path: &Path) {
    let mut content = Vec::new();
    let mut opened = File::open(view).unwrap();
    opened.read_to_end(&mut content).unwrap();
    inode(expected, prefix, &opened.metadata().unwrap(), view, path);
    let at = |name: &str| format!("{prefix}.{name}");
    expected.is(&at("content_type"), content_type(&content));
    expected.is(&at("hashes.md5"), program::md5(&content));
    expected.none(&at("hashes.sha1"));
    expected.is(&at("hashes.sha256"), program::sha256(&content));
    expected.is(&at("hashes.verdict"), "verified");
    statx(expected, prefix, view);
}

/// What must be told of a file of another kind, which is never opened: no content, no hashes, nothing that only statx(2) tells.
pub fn special(expected: &mut Expected, prefix: &str, path: &Path) {
    let meta = fs::symlink_metadata(path).unwrap();
    inode(expected, prefix, &meta, path, path);
    for name in [
        "content_type",
        "hashes",
        "btime",
        "unique_id",
        "attributes",
        "capabilities",
        "acl",
    ] {
        expected.none(&format!("{prefix}.{name}"));
    }
}

fn inode(expected: &mut Expected, prefix: &str, meta: &fs::Metadata, view: &Path, path: &Path) {
    let at = |name: &str| format!("{prefix}.{name}");
    let shown = shown_path(path);
    expected.is(
        &at("path"),
        shown.strip_suffix(" (deleted)").unwrap_or(&shown),
    );
    for name in [
        "path_truncated",
        "path_true_bytes",
        "link_target",
        "overlay",
        "default_acl",
    ] {
        expected.none(&at(name));
    }
    if meta.nlink() == 0 {
        expected.is(&at("unlinked"), true);
    } else {
        expected.none(&at("unlinked"));
    }
    expected.is(&at("device"), kernel_device(meta.dev()));
    expected.is(&at("inode"), meta.ino());
    let kind = match meta.mode() & 0o170_000 {
        0o100_000 => "regular",
        0o040_000 => "directory",
        0o120_000 => "symlink",
        0o010_000 => "fifo",
        0o140_000 => "socket",
        0o020_000 => "character_device",
        0o060_000 => "block_device",
        other => panic!("kind {other:o}"),
    };
    expected.is(&at("type"), kind);
    expected.is(&at("mode"), meta.mode());
    user(expected, &at("owner_user"), meta.uid());
    group(expected, &at("owner_group"), meta.gid());
    expected.is(&at("size"), meta.size());
    expected.is(&at("links"), meta.nlink());
    let exactly =
        |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let changed = exactly(meta.mtime(), meta.mtime_nsec());
    expected.between(&at("mtime"), changed, changed);
    let changed = exactly(meta.ctime(), meta.ctime_nsec());
    expected.between(&at("ctime"), changed, changed);
    expected.is(&at("fs_magic"), magic(view));
}

/// Magic number of the file system that holds the file, or its folder where the file itself must not be opened.
fn magic(view: &Path) -> u64 {
    let place = if view.exists() {
        view
    } else {
        view.parent().unwrap()
    };
    let kind = rustix::fs::statfs(place).unwrap().f_type;
    u64::try_from(kind).unwrap() & 0xffff_ffff
}

/// Whether the file lies on a file system whose times do not tell every write: tmpfs or ramfs.
#[must_use]
pub fn in_memory(view: &Path) -> bool {
    matches!(magic(view), 0x0102_1994 | 0x8584_58f6)
}

fn statx(expected: &mut Expected, prefix: &str, view: &Path) {
    let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let known = rustix::fs::statx(rustix::fs::CWD, view, AtFlags::empty(), flags).unwrap();
    let at = |name: &str| format!("{prefix}.{name}");
    if StatxFlags::from_bits_retain(known.stx_mask).contains(StatxFlags::BTIME) {
        let made = i128::from(known.stx_btime.tv_sec) * 1_000_000_000
            + i128::from(known.stx_btime.tv_nsec);
        expected.between(&at("btime"), made, made);
    } else {
        expected.none(&at("btime"));
    }
    expected.is(
        &at("attributes"),
        format!("{:016x}", known.stx_attributes.bits()),
    );
    // The recipe of docs/events.md, with the one part that only the event itself knows left to `check_unique_id`.
    expected.holds(&at("unique_id"), |value| match value.as_str() {
        Some(text) if text.len() == 36 => Ok(()),
        _ => Err(format!("{value} is no UUID")),
    });
    file_capabilities(expected, &at("capabilities"), view);
    let list = access_list(view, "system.posix_acl_access");
    expected.maybe(&at("acl"), list);
}

/// An access list as getfacl(1) would print it, on one line; `None`: there is none.
#[must_use]
pub fn access_list(path: &Path, attribute: &str) -> Option<String> {
    let mut value = vec![0_u8; 64 << 10];
    let length = rustix::fs::getxattr(path, attribute, &mut value).ok()?;
    let entries = value.get(4..length).unwrap().chunks_exact(8);
    let lines: Vec<String> = entries
        .map(|entry| {
            let number = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            let id = u32::from(number(6)) << 16 | u32::from(number(4));
            let who = match number(0) {
                0x01 => "user:".to_owned(),
                0x02 => format!("user:{id}"),
                0x04 => "group:".to_owned(),
                0x08 => format!("group:{id}"),
                0x10 => "mask:".to_owned(),
                0x20 => "other:".to_owned(),
                tag => panic!("tag {tag} in the access list of {}", path.display()),
            };
            let may = number(2);
            let letter = |bit, letter| if may & bit == bit { letter } else { '-' };
            let rights = [letter(4, 'r'), letter(2, 'w'), letter(1, 'x')];
            format!("{who}:{}", rights.iter().collect::<String>())
        })
        .collect();
    Some(lines.join(","))
}

fn file_capabilities(expected: &mut Expected, path: &str, view: &Path) {
    let mut buffer = vec![0_u8; 64];
    let Ok(length) = rustix::fs::getxattr(view, "security.capability", &mut buffer) else {
        return expected.none(path);
    };
    buffer.truncate(length);
    let word = |index: usize| {
        let bytes = buffer.get(index * 4..index * 4 + 4).unwrap();
        u32::from_le_bytes(bytes.try_into().unwrap())
    };
    let set = |low: u32, high: u32| format!("{:016x}", u64::from(high) << 32 | u64::from(low));
    expected.is(&format!("{path}.permitted"), set(word(1), word(3)));
    expected.is(&format!("{path}.inheritable"), set(word(2), word(4)));
    if word(0) & 1 == 1 {
        expected.is(&format!("{path}.effective"), true);
    } else {
        expected.none(&format!("{path}.effective"));
    }
    let root = (word(0) >> 24 == 3).then(|| word(5));
    expected.maybe(&format!("{path}.root_uid"), root);
}

/// Compares the identity of a file by its recipe, with the generation that the event gives.
pub fn check_unique_id(told: &Value, view: &Path) {
    let stat = rustix::fs::stat(view).unwrap();
    let fs = rustix::fs::statfs(view).unwrap();
    let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let known = rustix::fs::statx(rustix::fs::CWD, view, AtFlags::empty(), flags).unwrap();
    let made = StatxFlags::from_bits_retain(known.stx_mask)
        .contains(StatxFlags::BTIME)
        .then(|| known.stx_btime.tv_sec * 1_000_000_000 + i64::from(known.stx_btime.tv_nsec));
    let generation = told["generation"]
        .as_u64()
        .map(|generation| u32::try_from(generation).unwrap());
    let wanted = identity::file_unique_id(
        fs_id(&fs),
        kernel_device(stat.st_dev),
        stat.st_ino,
        generation,
        made,
    );
    assert_eq!(told["unique_id"], wanted.to_string(), "{told:#}");
}

/// f_fsid as one number, low word first. The type hides its two words, but not from `Debug`.
fn fs_id(fs: &rustix::fs::StatFs) -> u64 {
    let text = format!("{:?}", fs.f_fsid);
    let words: Vec<i64> = text
        .split(|c: char| !c.is_ascii_digit() && c != '-')
        .filter_map(|word| word.parse().ok())
        .collect();
    let word = |index: usize| {
        let value = words.get(words.len() - 2 + index).expect("two words");
        u64::from(u32::try_from(value & 0xffff_ffff).unwrap())
    };
    word(0) | word(1) << 32
}

/// Device number in the form that the kernel gives to users.
#[must_use]
pub fn kernel_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

fn content_type(content: &[u8]) -> &'static str {
    match content {
        [] => "empty",
        [0x7f, b'E', b'L', b'F', ..] => match content.get(16) {
            Some(1) => "elf_relocatable",
            Some(2) => "elf_executable",
            Some(3) => "elf_shared",
            _ => "other",
        },
        [b'#', b'!', ..] => "script",
        _ => "other",
    }
}

/// Number of a process in a cgroup directory: whether that directory or one below holds it.
#[must_use]
pub fn in_cgroup(pid: u32, path: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| {
        text.lines()
            .filter_map(|line| line.strip_prefix("0::"))
            .any(|own| own == path || own.starts_with(&format!("{path}/")))
    })
}

/// Resident memory of a process that is its own (not the rings that it shares with the kernel), in bytes.
#[must_use]
pub fn own_resident_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let (mut total, mut shared) = (0, false);
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if first.contains('-') && !first.ends_with(':') {
            shared = line.contains("anon_inode:bpf-map") || line.contains("bpf_map");
        } else if let Some(size) = line.strip_prefix("Rss:") {
            let kilobytes: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
            if !shared {
                total += kilobytes * 1024;
            }
        }
    }
    total
}

/// Processor time that a process has used, in clock ticks.
#[must_use]
pub fn processor_ticks(pid: u32) -> u64 {
    [14, 15]
        .iter()
        .map(|number| stat_field(pid, *number).parse::<u64>().unwrap())
        .sum()
}

/// The last part of a path, for tests that look for a file by its name.
#[must_use]
pub fn ends_with(event: &Value, pointer: &str, name: &str) -> bool {
    event
        .pointer(pointer)
        .and_then(Value::as_str)
        .is_some_and(|path| Path::new(path).file_name() == Some(OsStr::new(name)))
}
