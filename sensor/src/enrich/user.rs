//! Names of users and groups, without the name service of the C library.
//!
//! A process's users are named by passwd and group of its own root: the host's, or, where its mount namespace has other
//! files, those, with ids translated into its user namespace. What the host's files do not name, systemd's user database is asked for,
//! by a thread of its own; until it answers, and where nothing does, the number stands alone.
//!
//! Files are bounded and untrusted: a container writes its own. Roots on file systems that another process or host
//! answers for (FUSE, NFS, ...) are not entered.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sensor_proto::v1;

use super::background::Background;
use super::recent::Recent;
use crate::procfs::{IdRange, LazyProcess, Mount, OpenFile, ProcError, ProcessDir};

/// Where systemd answers for every user database of the host.
pub const VARLINK_SOCKET: &str = "/run/systemd/userdb/io.systemd.Multiplexer";

/// passwd and group files beyond this are not read.
const FILE_MAX_BYTES: usize = 8 << 20;
/// Entries of one file that are kept.
const FILE_MAX_ENTRIES: usize = 65_536;
/// Names beyond this are passed over; the kernel and useradd(8) allow far less.
const NAME_MAX_BYTES: usize = 256;
/// Files are looked at again for changes after this time.
const RECHECK: Duration = Duration::from_secs(1);
/// Mount and user namespaces that are remembered.
const NAMESPACES: usize = 1024;
/// Answers of the user database that are remembered.
const ANSWERS: usize = 4096;
/// How long a name from the user database is believed, and how long that there is none.
const POSITIVE: Duration = Duration::from_secs(600);
const NEGATIVE: Duration = Duration::from_secs(60);
/// Questions that may wait.
const QUEUE: usize = 256;
/// The user database has this long to answer one question.
const VARLINK_TIMEOUT: Duration = Duration::from_secs(2);
/// An answer beyond this is none.
const VARLINK_MAX_BYTES: usize = 64 << 10;
/// Types of file systems whose reads may wait for another process or host.
const REMOTE: &[&[u8]] = &[
    b"fuse",
    b"nfs",
    b"cifs",
    b"smb",
    b"9p",
    b"ceph",
    b"afs",
    b"autofs",
    b"lustre",
    b"gfs",
    b"ocfs",
    b"coda",
    b"gluster",
    b"virtiofs",
    b"beegfs",
    b"gpfs",
    b"orangefs",
    b"vboxsf",
    b"vmhgfs",
];

/// A user as a file or the user database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    name: String,
    domain: Option<String>,
    /// Primary group, for users.
    gid: Option<u32>,
}

/// Which content a file has: no two differ in it while any program plays fair.
type Content = (u64, u64, u64, i64, u64);

/// The names of one root.
#[derive(Debug, Default)]
struct Tables {
    users: HashMap<u32, Name>,
    groups: HashMap<u32, Name>,
    content: [Option<Content>; 2],
}

/// A question to the user database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Question {
    User(u32),
    Group(u32),
}

/// Ids of a user namespace as they appear here.
#[derive(Debug)]
struct IdMaps {
    users: Vec<IdRange>,
    groups: Vec<IdRange>,
}

/// Whose view counts: the namespaces of a process, and the process itself if its files must be read.
#[derive(Debug)]
pub struct View<'a> {
    /// Inode number of its mount namespace; `None`: not known, the host's names count.
    pub mnt_ns: Option<u32>,
    /// Inode number of its user namespace; `None`: not known, ids are not translated.
    pub user_ns: Option<u32>,
    /// The process.
    pub process: LazyProcess<'a>,
}

/// Counts and lengths, for `sensor status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsersGauge {
    /// Mount namespaces, user namespaces and answers that are remembered.
    pub entries: usize,
    /// Forgotten since their caches were full.
    pub evicted: u64,
    /// Questions on their way to the user database.
    pub waiting: usize,
    /// Questions not asked since too many were waiting.
    pub refused: u64,
}

/// All names that are known.
#[derive(Debug)]
pub struct Users {
    root: PathBuf,
    host_mnt_ns: Option<u32>,
    host_user_ns: Option<u32>,
    host: Arc<Tables>,
    checked: Option<Instant>,
    by_mnt_ns: Recent<u32, (Instant, Arc<Tables>)>,
    id_maps: Recent<u32, Arc<IdMaps>>,
    varlink: Option<Background<Question, Option<Name>>>,
    answers: Recent<Question, (Instant, Option<Name>)>,
    /// Answers taken in.
    answered: u64,
    /// A name was wanted of which the user database has not spoken yet.
    unanswered: bool,
}

impl Users {
    /// Names by the files below `root` (the host's: `/`), then by the user database at `varlink`, if given. `host` is the
    /// process whose namespaces are the host's: the first one, or under a scope the sensor itself, since nothing of the
    /// first may be read then; `None`: every process has the host's names.
    ///
    /// # Errors
    /// What the system says if it has no room for a thread.
    pub fn new(
        root: PathBuf,
        host: Option<&ProcessDir>,
        varlink: Option<PathBuf>,
    ) -> std::io::Result<Self> {
        let varlink = varlink
            .map(|socket| {
                Background::spawn("userdb", QUEUE, move |question| {
                    // Not there, too slow, or no name: the number stands alone, and is asked for again later.
                    ask(&socket, *question).ok().flatten()
                })
            })
            .transpose()?;
        let namespace = |name| host.and_then(|host| host.namespace(name).ok());
        Ok(Self {
            root,
            host_mnt_ns: namespace("mnt"),
            host_user_ns: namespace("user"),
            host: Arc::new(Tables::default()),
            checked: None,
            by_mnt_ns: Recent::new(NAMESPACES),
            id_maps: Recent::new(NAMESPACES),
            varlink,
            answers: Recent::new(ANSWERS),
            answered: 0,
            unanswered: false,
        })
    }

    /// Adds names to users and groups of a process.
    pub fn name_credentials(&mut self, credentials: &mut v1::Credentials, view: &mut View<'_>) {
        let users = [
            &mut credentials.real_user,
            &mut credentials.effective_user,
            &mut credentials.saved_user,
            &mut credentials.fs_user,
        ];
        for user in users.into_iter().flatten() {
            self.name_user(user, view);
        }
        let groups = [
            &mut credentials.real_group,
            &mut credentials.effective_group,
            &mut credentials.saved_group,
            &mut credentials.fs_group,
        ];
        for group in groups
            .into_iter()
            .flatten()
            .chain(&mut credentials.supplementary_groups)
        {
            self.name_group(group, view);
        }
        // People log in to the host, whatever namespaces they enter then.
        let Some(login) = &mut credentials.login_user else {
            return;
        };
        let Some(name) = self.host_name(Question::User(login.id)) else {
            return;
        };
        if let Some(gid) = name.gid {
            let group = self.host_name(Question::Group(gid));
            credentials.login_group = Some(v1::Group {
                id: gid,
                name: group.map(|group| group.name),
            });
        }
        login.name = Some(name.name);
        login.domain = name.domain;
    }

    /// Adds the names of a file's owners, as the process sees them.
    pub fn name_file(&mut self, file: &mut v1::FileInfo, view: &mut View<'_>) {
        if let Some(user) = &mut file.owner_user {
            self.name_user(user, view);
        }
        if let Some(group) = &mut file.owner_group {
            self.name_group(group, view);
        }
    }

    fn name_user(&mut self, user: &mut v1::User, view: &mut View<'_>) {
        if user.name.is_none()
            && let Some(name) = self.find(Question::User(user.id), view)
        {
            user.name = Some(name.name);
            user.domain = name.domain;
        }
    }

    fn name_group(&mut self, group: &mut v1::Group, view: &mut View<'_>) {
        if group.name.is_none() {
            group.name = self
                .find(Question::Group(group.id), view)
                .map(|name| name.name);
        }
    }

    /// Takes in what the user database has answered; how many answers that has been in all.
    pub fn settle(&mut self) -> u64 {
        while let Some((question, name)) = self.varlink.as_mut().and_then(Background::answer) {
            self.answers.keep(question, (Instant::now(), name));
            self.answered = self.answered.saturating_add(1);
        }
        self.answered
    }

    /// Whether, since this was asked last, a name was wanted that may still come.
    pub fn take_unanswered(&mut self) -> bool {
        std::mem::take(&mut self.unanswered)
    }

    /// Counts and lengths.
    #[must_use]
    pub fn gauge(&self) -> UsersGauge {
        UsersGauge {
            entries: self.by_mnt_ns.len() + self.id_maps.len() + self.answers.len(),
            evicted: self.by_mnt_ns.evicted() + self.id_maps.evicted() + self.answers.evicted(),
            waiting: self.varlink.as_ref().map_or(0, Background::waiting),
            refused: self.varlink.as_ref().map_or(0, Background::refused),
        }
    }

    fn find(&mut self, question: Question, view: &mut View<'_>) -> Option<Name> {
        let (Some(mnt_ns), Some(host)) = (view.mnt_ns, self.host_mnt_ns) else {
            return self.host_name(question);
        };
        if mnt_ns == host {
            return self.host_name(question);
        }
        self.look_at_host();
        let tables = self.tables(mnt_ns, view)?;
        if tables.content == self.host.content {
            // A private view of the host's own files, as services have it.
            return self.host_name(question);
        }
        let question = match view.user_ns.filter(|ns| Some(*ns) != self.host_user_ns) {
            Some(user_ns) => self.translate(question, user_ns, view)?,
            None => question,
        };
        tables.find(question).cloned()
    }

    fn host_name(&mut self, question: Question) -> Option<Name> {
        self.look_at_host();
        if let Some(name) = self.host.find(question) {
            return Some(name.clone());
        }
        self.settle();
        let varlink = self.varlink.as_mut()?;
        let known = self.answers.find(&question);
        let fresh = known.is_some_and(|(since, name)| {
            since.elapsed() < if name.is_some() { POSITIVE } else { NEGATIVE }
        });
        // An old name is better than none while the new answer is on its way.
        let name = known.and_then(|(_, name)| name.clone());
        if !fresh {
            varlink.ask(&question);
            self.unanswered |= name.is_none();
        }
        name
    }

    fn look_at_host(&mut self) {
        if self
            .checked
            .is_some_and(|checked| checked.elapsed() < RECHECK)
        {
            return;
        }
        self.checked = Some(Instant::now());
        let open = |path: &str| crate::procfs::open_file(&self.root.join(path), "names");
        if let Some(tables) = self.host.reread(open) {
            self.host = Arc::new(tables);
        }
    }

    /// The tables of another mount namespace: remembered, looked at again if the process is still there.
    fn tables(&mut self, mnt_ns: u32, view: &mut View<'_>) -> Option<Arc<Tables>> {
        let known = self.by_mnt_ns.find(&mnt_ns);
        if let Some((checked, tables)) = known
            && checked.elapsed() < RECHECK
        {
            return Some(Arc::clone(tables));
        }
        let old = known.map(|(_, tables)| Arc::clone(tables));
        let Some(process) = view.process.open() else {
            return old;
        };
        let tables = match &old {
            None if root_is_remote(process) => Some(Tables::default()),
            None => Tables::default().reread(|path| process.root_file(path, "names")),
            // A root that was not entered stays so.
            Some(old) if old.content == [None; 2] => None,
            Some(old) => old.reread(|path| process.root_file(path, "names")),
        };
        let tables = match (tables, old) {
            (Some(tables), _) => Arc::new(tables),
            (None, Some(old)) => old,
            (None, None) => Arc::new(Tables::default()),
        };
        self.by_mnt_ns
            .keep(mnt_ns, (Instant::now(), Arc::clone(&tables)));
        Some(tables)
    }

    /// The id inside a user namespace; `None` if it has none there, or its map is not known.
    fn translate(
        &mut self,
        question: Question,
        user_ns: u32,
        view: &mut View<'_>,
    ) -> Option<Question> {
        let maps = match self.id_maps.find(&user_ns) {
            Some(maps) => Arc::clone(maps),
            None => {
                let process = view.process.open()?;
                let maps = Arc::new(IdMaps {
                    users: process.uid_map().ok()?,
                    groups: process.gid_map().ok()?,
                });
                // Empty until it is written, once.
                if !maps.users.is_empty() && !maps.groups.is_empty() {
                    self.id_maps.keep(user_ns, Arc::clone(&maps));
                }
                maps
            }
        };
        match question {
            Question::User(id) => inside(&maps.users, id).map(Question::User),
            Question::Group(id) => inside(&maps.groups, id).map(Question::Group),
        }
    }
}

impl Tables {
    fn find(&self, question: Question) -> Option<&Name> {
        match question {
            Question::User(id) => self.users.get(&id),
            Question::Group(id) => self.groups.get(&id),
        }
    }

    /// The tables anew if a file is another than before; `None` if both are the same. A file that cannot be read is empty.
    fn reread(&self, open: impl Fn(&str) -> Result<OpenFile, ProcError>) -> Option<Self> {
        let files = ["etc/passwd", "etc/group"].map(|path| open(path).ok());
        let content = [0, 1].map(|index: usize| files.get(index)?.as_ref().map(content));
        if content == self.content {
            return None;
        }
        let [passwd, group] = files.map(|file| {
            file.and_then(|file| file.read(FILE_MAX_BYTES).ok())
                .unwrap_or_default()
        });
        Some(Self {
            users: entries(&passwd, true),
            groups: entries(&group, false),
            content,
        })
    }
}

fn content(file: &OpenFile) -> Content {
    let stat = &file.stat;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let ns = stat.st_mtime_nsec;
    (stat.st_dev, stat.st_ino, size, stat.st_mtime, ns)
}

/// `name:password:id[:group:...]` lines; the first of an id counts, as in getpwuid(3).
fn entries(bytes: &[u8], users: bool) -> HashMap<u32, Name> {
    let mut found = HashMap::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        if found.len() == FILE_MAX_ENTRIES {
            break;
        }
        let mut fields = line.split(|&byte| byte == b':');
        let (Some(name), Some(_), Some(id)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        // Lines that begin with a sign include other sources.
        if name.is_empty()
            || name.len() > NAME_MAX_BYTES
            || matches!(name.first(), Some(b'+' | b'-' | b'#'))
        {
            continue;
        }
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u32>().ok();
        let Some(id) = number(id) else {
            continue;
        };
        let gid = if users {
            fields.next().and_then(number)
        } else {
            None
        };
        found
            .entry(id)
            .or_insert_with(|| Name::new(&String::from_utf8_lossy(name), gid));
    }
    found
}

impl Name {
    /// A name with its domain apart: `name@domain` or `DOMAIN\name`.
    fn new(whole: &str, gid: Option<u32>) -> Self {
        let parts = whole
            .split_once('\\')
            .map(|(domain, name)| (name, domain))
            .or_else(|| whole.split_once('@'))
            .filter(|(name, domain)| !name.is_empty() && !domain.is_empty());
        let (name, domain) = match parts {
            Some((name, domain)) => (name, Some(domain.to_owned())),
            None => (whole, None),
        };
        Self {
            name: name.to_owned(),
            domain,
            gid,
        }
    }
}

fn inside(map: &[IdRange], outside: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = outside.checked_sub(range.outside)?;
        (offset < range.count).then(|| range.inside.checked_add(offset))?
    })
}

/// Whether asking for files of this root may wait for another process or host. What cannot be told counts as remote.
fn root_is_remote(process: &ProcessDir) -> bool {
    let Ok(mounts) = process.mountinfo() else {
        return true;
    };
    // The last one mounted there is the one that is seen.
    let root = mounts.iter().rev().find(|mount| mount.mount_point == b"/");
    root.is_none_or(|root| REMOTE.iter().any(|kind| root.fs_type.starts_with(kind)))
}

/// Whether asking for this path, on which there is no symbolic link, may wait for another process or host. What cannot be told
/// counts as remote.
pub(crate) fn is_remote(mounts: &[Mount], path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    // The deepest, and of several there the last, is the one that is seen.
    let seen = mounts
        .iter()
        .map(|mount| {
            (
                Path::new(std::ffi::OsStr::from_bytes(&mount.mount_point)),
                mount,
            )
        })
        .filter(|(point, _)| path.starts_with(point))
        .max_by_key(|(point, _)| point.components().count());
    seen.is_none_or(|(_, mount)| REMOTE.iter().any(|kind| mount.fs_type.starts_with(kind)))
}

#[derive(serde::Deserialize)]
struct Reply {
    error: Option<String>,
    parameters: Option<ReplyParameters>,
}

#[derive(serde::Deserialize)]
struct ReplyParameters {
    record: Option<Record>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    user_name: Option<String>,
    group_name: Option<String>,
    realm: Option<String>,
    gid: Option<u32>,
}

/// Why the user database gave no answer.
#[derive(Debug, thiserror::Error)]
enum VarlinkError {
    /// The socket.
    #[error("talking to the user database failed")]
    Socket(#[source] std::io::Error),
    /// Longer than allowed, or not finished in time.
    #[error("the answer of the user database did not end in time or size")]
    Endless,
    /// Not what the interface says.
    #[error("the answer of the user database cannot be read")]
    Malformed(#[source] serde_json::Error),
}

/// One question to the user database; `None` if it says that there is no such record.
fn ask(socket: &Path, question: Question) -> Result<Option<Name>, VarlinkError> {
    let (method, key, id) = match question {
        Question::User(id) => ("GetUserRecord", "uid", id),
        Question::Group(id) => ("GetGroupRecord", "gid", id),
    };
    let request = serde_json::json!({
        "method": format!("io.systemd.UserDatabase.{method}"),
        "parameters": { key: id, "service": "io.systemd.Multiplexer" },
    });
    let mut message = request.to_string().into_bytes();
    message.push(0);
    let deadline = Instant::now() + VARLINK_TIMEOUT;
    let mut stream = UnixStream::connect(socket).map_err(VarlinkError::Socket)?;
    stream
        .set_write_timeout(Some(VARLINK_TIMEOUT))
        .map_err(VarlinkError::Socket)?;
    stream.write_all(&message).map_err(VarlinkError::Socket)?;
    let mut answer = Vec::new();
    let mut step = [0; 4096];
    loop {
        let left = deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
            .ok_or(VarlinkError::Endless)?;
        stream
            .set_read_timeout(Some(left))
            .map_err(VarlinkError::Socket)?;
        let count = stream.read(&mut step).map_err(VarlinkError::Socket)?;
        let read = step.get(..count).unwrap_or_default();
        if let Some(end) = read.iter().position(|byte| *byte == 0) {
            answer.extend_from_slice(read.get(..end).unwrap_or_default());
            break;
        }
        answer.extend_from_slice(read);
        if count == 0 || answer.len() > VARLINK_MAX_BYTES {
            return Err(VarlinkError::Endless);
        }
    }
    let reply: Reply = serde_json::from_slice(&answer).map_err(VarlinkError::Malformed)?;
    if reply.error.is_some() {
        return Ok(None);
    }
    let record = reply.parameters.and_then(|parameters| parameters.record);
    Ok(record.and_then(|record| {
        let (name, gid) = match question {
            Question::User(_) => (record.user_name?, record.gid),
            Question::Group(_) => (record.group_name?, None),
        };
        if name.is_empty() || name.len() > NAME_MAX_BYTES {
            return None;
        }
        let mut name = Name::new(&name, gid);
        name.domain = name.domain.or(record.realm);
        Some(name)
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::procfs::Proc;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n+nis::::::\nsecond:x:0:0::/:\n\
        alice:x:1000:100:A:/home/a:/bin/sh\nbroken:x:no:0::/:\nCORP\\bob:x:1001:100::/:\ncarol@corp.example:x:1002:100::/:\n";

    /// A host root and a fake `/proc` with process 1 (namespaces 10 and 20).
    fn host(passwd: &str) -> (tempfile::TempDir, Proc) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(
            folder.path().join("etc/group"),
            "root:x:0:\nusers:x:100:alice,bob\n",
        )
        .unwrap();
        let proc = folder.path().join("proc");
        process(&proc, 1, 10, 20, 1);
        (folder, Proc::new(proc))
    }

    fn process(proc: &Path, pid: u32, mnt: u32, user: u32, start: u64) {
        let folder = proc.join(pid.to_string());
        std::fs::create_dir_all(folder.join("ns")).unwrap();
        std::os::unix::fs::symlink(format!("mnt:[{mnt}]"), folder.join("ns/mnt")).unwrap();
        std::os::unix::fs::symlink(format!("user:[{user}]"), folder.join("ns/user")).unwrap();
        let stat = format!("{pid} (x) S 0 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0");
        std::fs::write(folder.join("stat"), stat).unwrap();
    }

    /// A container's process: pid 7, namespaces 11 and 21, ids from 100000.
    fn container(folder: &Path, fs_type: &str) {
        let proc = folder.join("proc");
        process(&proc, 7, 11, 21, 5);
        let map = "0 100000 65536\n";
        std::fs::write(proc.join("7/uid_map"), map).unwrap();
        std::fs::write(proc.join("7/gid_map"), map).unwrap();
        std::fs::write(
            proc.join("7/mountinfo"),
            format!("1 1 0:1 / / rw - {fs_type} x rw\n"),
        )
        .unwrap();
        std::fs::create_dir_all(proc.join("7/root/etc")).unwrap();
        std::fs::write(
            proc.join("7/root/etc/passwd"),
            "app:x:33:33::/:\nroot:x:0:0::/:\n",
        )
        .unwrap();
        std::fs::write(proc.join("7/root/etc/group"), "web:x:33:\n").unwrap();
    }

    fn view(proc: &Proc, pid: u32, mnt: u32, user: u32, start: u64) -> View<'_> {
        View {
            mnt_ns: Some(mnt),
            user_ns: Some(user),
            process: LazyProcess::new(proc, pid, start),
        }
    }

    fn user(id: u32) -> Option<v1::User> {
        Some(v1::User {
            id,
            ..v1::User::default()
        })
    }

    fn name_of(users: &mut Users, id: u32, view: &mut View<'_>) -> Option<String> {
        users.find(Question::User(id), view).map(|name| name.name)
    }

    #[test]
    fn names_of_the_host() {
        let (folder, proc) = host(PASSWD);
        let mut users = Users::new(
            folder.path().to_path_buf(),
            proc.process(1).ok().as_ref(),
            None,
        )
        .unwrap();
        let mut credentials = v1::Credentials {
            real_user: user(1000),
            effective_user: user(0),
            saved_user: user(1001),
            fs_user: user(5555),
            login_user: user(1002),
            real_group: Some(v1::Group {
                id: 100,
                name: None,
            }),
            ..v1::Credentials::default()
        };
        users.name_credentials(&mut credentials, &mut view(&proc, 1, 10, 20, 1));
        let name = |user: &Option<v1::User>| user.as_ref().unwrap().name.clone();
        let domain = |user: &Option<v1::User>| user.as_ref().unwrap().domain.clone();
        assert_eq!(name(&credentials.real_user).as_deref(), Some("alice"));
        assert_eq!(name(&credentials.effective_user).as_deref(), Some("root"));
        assert_eq!(name(&credentials.saved_user).as_deref(), Some("bob"));
        assert_eq!(domain(&credentials.saved_user).as_deref(), Some("CORP"));
        assert_eq!(name(&credentials.fs_user), None);
        assert_eq!(name(&credentials.login_user).as_deref(), Some("carol"));
        assert_eq!(
            domain(&credentials.login_user).as_deref(),
            Some("corp.example")
        );
        assert_eq!(
            credentials.real_group.unwrap().name.as_deref(),
            Some("users")
        );
        let login_group = credentials.login_group.unwrap();
        assert_eq!(
            (login_group.id, login_group.name.as_deref()),
            (100, Some("users"))
        );
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let (folder, proc) = host(PASSWD);
        let mut users = Users::new(
            folder.path().to_path_buf(),
            proc.process(1).ok().as_ref(),
            None,
        )
        .unwrap();
        let mut at = view(&proc, 1, 10, 20, 1);
        assert_eq!(name_of(&mut users, 7, &mut at), None);
        std::fs::write(folder.path().join("etc/passwd"), "new:x:7:7::/:\n").unwrap();
        // Not looked at again within the second.
        assert_eq!(name_of(&mut users, 7, &mut at), None);
        users.checked = None;
        assert_eq!(name_of(&mut users, 7, &mut at).as_deref(), Some("new"));
        assert_eq!(name_of(&mut users, 1000, &mut at), None);
    }

    #[test]
    fn a_container_has_names_of_its_own() {
        let (folder, proc) = host(PASSWD);
        container(folder.path(), "overlay");
        let mut users = Users::new(
            folder.path().to_path_buf(),
            proc.process(1).ok().as_ref(),
            None,
        )
        .unwrap();
        let mut inside = view(&proc, 7, 11, 21, 5);
        assert_eq!(
            name_of(&mut users, 100_033, &mut inside).as_deref(),
            Some("app")
        );
        assert_eq!(
            name_of(&mut users, 100_000, &mut inside).as_deref(),
            Some("root")
        );
        // Not in its map: the host's user has no name in there.
        assert_eq!(name_of(&mut users, 1000, &mut inside), None);
        let group = users.find(Question::Group(100_033), &mut inside).unwrap();
        assert_eq!(group.name, "web");
        // The same namespaces, when the process is gone: what was read is remembered.
        let mut gone = view(&proc, 99, 11, 21, 5);
        assert_eq!(
            name_of(&mut users, 100_033, &mut gone).as_deref(),
            Some("app")
        );
        // A container without a user namespace of its own.
        let mut plain = view(&proc, 7, 11, 20, 5);
        assert_eq!(name_of(&mut users, 33, &mut plain).as_deref(), Some("app"));
        // Another process by now.
        let mut other = view(&proc, 7, 12, 21, 6);
        assert_eq!(name_of(&mut users, 100_033, &mut other), None);
    }

    #[test]
    fn a_remote_root_is_not_entered() {
        let (folder, proc) = host(PASSWD);
        container(folder.path(), "fuse.sshfs");
        let mut users = Users::new(
            folder.path().to_path_buf(),
            proc.process(1).ok().as_ref(),
            None,
        )
        .unwrap();
        assert_eq!(
            name_of(&mut users, 100_033, &mut view(&proc, 7, 11, 21, 5)),
            None
        );
    }

    #[test]
    fn a_private_view_of_the_hosts_files_is_the_host() {
        let (folder, proc) = host(PASSWD);
        container(folder.path(), "ext4");
        for file in ["passwd", "group"] {
            let own = folder.path().join("proc/7/root/etc").join(file);
            std::fs::remove_file(&own).unwrap();
            std::fs::hard_link(folder.path().join("etc").join(file), own).unwrap();
        }
        let mut users = Users::new(
            folder.path().to_path_buf(),
            proc.process(1).ok().as_ref(),
            None,
        )
        .unwrap();
        // Even in a user namespace: uid 1000 is alice, not whom 1000 would be inside.
        assert_eq!(
            name_of(&mut users, 1000, &mut view(&proc, 7, 11, 21, 5)).as_deref(),
            Some("alice")
        );
    }

    #[test]
    fn hostile_files_are_bounded() {
        let mut text = format!(
            "{}:x:1:1::/:\n\u{1}\u{7}bell:x:2:2::/:\n",
            "n".repeat(NAME_MAX_BYTES + 1)
        )
        .into_bytes();
        text.extend_from_slice(b"\xff\xfe:x:3:3::/:\n:::\n::\n:x:4:4\nx:x:99999999999:0::/:\n");
        let found = entries(&text, true);
        assert_eq!(found.len(), 2);
        assert_eq!(found[&2].name, "\u{1}\u{7}bell");
        assert_eq!(found[&3].name, "\u{fffd}\u{fffd}");
        let many: String = (0..FILE_MAX_ENTRIES + 5)
            .map(|id| format!("u{id}:x:{id}:0::/:\n"))
            .collect();
        assert_eq!(entries(many.as_bytes(), true).len(), FILE_MAX_ENTRIES);
    }

    #[test]
    fn ranges_of_ids() {
        let map = [
            IdRange {
                inside: 0,
                outside: 1000,
                count: 1,
            },
            IdRange {
                inside: 1,
                outside: 100_000,
                count: 65_536,
            },
        ];
        assert_eq!(inside(&map, 1000), Some(0));
        assert_eq!(inside(&map, 100_000), Some(1));
        assert_eq!(inside(&map, 165_535), Some(65_536));
        assert_eq!(inside(&map, 165_536), None);
        assert_eq!(inside(&map, 0), None);
        assert_eq!(
            inside(
                &[IdRange {
                    inside: u32::MAX,
                    outside: 0,
                    count: 9
                }],
                5
            ),
            None
        );
    }

    /// Answers each request with what `reply` makes of it.
    pub(crate) fn serve(
        folder: &Path,
        reply: impl Fn(&serde_json::Value) -> Vec<u8> + Send + 'static,
    ) -> PathBuf {
        let socket = folder.join("userdb");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                let mut byte = [1];
                while byte[0] != 0 && stream.read(&mut byte).unwrap() == 1 {
                    request.push(byte[0]);
                }
                request.pop();
                let request = serde_json::from_slice(&request).unwrap();
                // In two pieces: an answer need not come at once.
                let answer = reply(&request);
                let (first, second) = answer.split_at(answer.len() / 2);
                stream.write_all(first).unwrap();
                stream.flush().unwrap();
                stream.write_all(second).unwrap();
            }
        });
        socket
    }

    fn wait_for(users: &mut Users) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while users.gauge().waiting > 0 {
            users.settle();
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_user_database_is_asked_in_the_background() {
        let (folder, proc) = host(PASSWD);
        let socket = serve(folder.path(), |request| {
            let parameters = &request["parameters"];
            assert_eq!(parameters["service"], "io.systemd.Multiplexer");
            let reply = match (
                request["method"].as_str().unwrap(),
                parameters["uid"].as_u64(),
                parameters["gid"].as_u64(),
            ) {
                ("io.systemd.UserDatabase.GetUserRecord", Some(61_184), None) => serde_json::json!(
                    {"parameters": {"record": {"userName": "dynamic", "uid": 61_184, "gid": 61_184, "disposition": "dynamic"}, "incomplete": false}}),
                ("io.systemd.UserDatabase.GetUserRecord", Some(70_000), None) => serde_json::json!(
                    {"parameters": {"record": {"userName": "dora", "realm": "corp.example", "gid": 100}}}),
                ("io.systemd.UserDatabase.GetGroupRecord", None, Some(61_184)) => {
                    serde_json::json!(
                    {"parameters": {"record": {"groupName": "dynamic"}}})
                }
                _ => {
                    serde_json::json!({"error": "io.systemd.UserDatabase.NoRecordFound", "parameters": {}})
                }
            };
            let mut bytes = reply.to_string().into_bytes();
            bytes.push(0);
            bytes
        });
        let mut users = Users::new(
            folder.path().to_path_buf(),
            proc.process(1).ok().as_ref(),
            Some(socket),
        )
        .unwrap();
        let mut at = view(&proc, 1, 10, 20, 1);
        // The event does not wait.
        assert_eq!(name_of(&mut users, 61_184, &mut at), None);
        assert_eq!(users.find(Question::Group(61_184), &mut at), None);
        assert_eq!(name_of(&mut users, 70_000, &mut at), None);
        assert_eq!(name_of(&mut users, 4242, &mut at), None);
        wait_for(&mut users);
        assert_eq!(
            name_of(&mut users, 61_184, &mut at).as_deref(),
            Some("dynamic")
        );
        assert_eq!(
            users.find(Question::Group(61_184), &mut at).unwrap().name,
            "dynamic"
        );
        let dora = users.find(Question::User(70_000), &mut at).unwrap();
        assert_eq!(
            (dora.domain.as_deref(), dora.gid),
            (Some("corp.example"), Some(100))
        );
        // That there is no such user is remembered: nothing is asked again.
        assert_eq!(name_of(&mut users, 4242, &mut at), None);
        assert_eq!(users.gauge().waiting, 0);
        // Files come first.
        assert_eq!(name_of(&mut users, 1000, &mut at).as_deref(), Some("alice"));
    }

    #[test]
    fn a_bad_user_database_gives_no_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            ask(&folder.path().join("none"), Question::User(1)),
            Err(VarlinkError::Socket(_))
        ));
        let socket = serve(
            folder.path(),
            |request| match request["parameters"]["uid"].as_u64() {
                Some(1) => b"not json\0".to_vec(),
                Some(2) => vec![b' '; VARLINK_MAX_BYTES + 8192],
                Some(3) => b"{}".to_vec(),
                Some(4) => format!(
                    "{{\"parameters\":{{\"record\":{{\"userName\":\"{}\"}}}}}}\0",
                    "n".repeat(300)
                )
                .into_bytes(),
                _ => b"{}\0".to_vec(),
            },
        );
        assert!(matches!(
            ask(&socket, Question::User(1)),
            Err(VarlinkError::Malformed(_))
        ));
        assert!(matches!(
            ask(&socket, Question::User(3)),
            Err(VarlinkError::Endless)
        ));
        assert_eq!(ask(&socket, Question::User(4)).unwrap(), None);
        assert_eq!(ask(&socket, Question::User(5)).unwrap(), None);
        // The server may meet a closed socket: last.
        assert!(matches!(
            ask(&socket, Question::User(2)),
            Err(VarlinkError::Endless)
        ));
    }
}
