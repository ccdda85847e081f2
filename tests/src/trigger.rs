//! Things that the sensor must report, done by processes of their own: this program, started again with `--trigger`.
//!
//! A trigger does one step after another. `step` tells the test what the trigger knows (its own view of what it did, as
//! one JSON line on standard output) and waits for a line on standard input, so that the test can look at /proc meanwhile.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow};
use nix::sched::CloneFlags;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage,
    UnixAddr, sockopt,
};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{Gid, Uid};
use rustix::thread::CapabilitySet;
use serde_json::{Value, json};

use crate::place::Place;

/// First argument of this program when it is a trigger.
pub const FLAG: &str = "--trigger";
/// The whole environment of a trigger.
const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";
/// Exit code of a trigger that could not do what it was asked to.
const FAILED: i32 = 99;

/// A trigger, or a program that one became, with its two pipes.
#[derive(Debug)]
pub struct Running {
    child: Child,
    input: Option<ChildStdin>,
    facts: Receiver<String>,
}

impl Running {
    /// Starts this program as a trigger in the watched cgroup, with `words` as its steps.
    pub fn start<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Self {
        Self::of(&mut command(words))
    }

    /// Starts a command with pipes for input and output.
    pub fn of(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, facts) = sync_channel(64);
        let output = child.stdout.take().expect("a pipe");
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            input: child.stdin.take(),
            child,
            facts,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What its next step tells.
    pub fn step(&self) -> Value {
        match self.facts.recv_timeout(Place::here().patience()) {
            Ok(line) => {
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
            }
            Err(_) => panic!("trigger {} told nothing", self.pid()),
        }
    }

    /// Lets it go on.
    pub fn go(&mut self) {
        let input = self.input.as_mut().expect("its input is open");
        input.write_all(b"\n").expect("a trigger that waits");
    }

    /// Lets it go on to its end.
    pub fn finish(mut self) -> ExitStatus {
        drop(self.input.take());
        let status = self.child.wait().expect("a child");
        assert_ne!(
            status.code(),
            Some(FAILED),
            "the trigger failed, see its message"
        );
        status
    }

    /// Lets it go on to its end, which must be a good one.
    pub fn finish_well(self) {
        let status = self.finish();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.input.take());
        // A test that failed may leave it waiting for more.
        if let Ok(None) = self.child.try_wait() {
            drop((self.child.kill(), self.child.wait()));
        }
    }
}

/// The command that starts this program as a trigger, with a small environment.
pub fn command<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Command {
    let mut command = Command::new(own_path());
    command
        .arg0("sensor-trigger")
        .arg(FLAG)
        .args(words)
        .env_clear()
        .env("PATH", PATH);
    command
}

/// A command that runs `program` in cgroup `folder`; its process is moved there before the program begins.
pub fn command_in(folder: &Path, program: &Path) -> Command {
    let mut command = Command::new(own_path());
    command
        .arg(FLAG)
        .arg("cgroup")
        .arg(folder)
        .arg("exec")
        .arg(program);
    command
}

fn own_path() -> PathBuf {
    PROGRAM
        .get()
        .cloned()
        .unwrap_or_else(|| std::env::current_exe().expect("own path"))
}

/// A copy of this program that is started as triggers instead; once, before the first.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// From now on `program`, a copy of this one, is what triggers are: their paths stand in records.
pub fn use_program(program: PathBuf) {
    assert!(
        PROGRAM.set(program).is_ok(),
        "triggers have a program already"
    );
}

/// Becomes the trigger that the command line asks for; returns if it asks for none.
pub fn dispatch() {
    let mut words = std::env::args_os().skip(1);
    if words.next().as_deref() != Some(OsStr::new(FLAG)) {
        return;
    }
    let mut state = State::default();
    let mut words: VecDeque<OsString> = words.collect();
    while let Some(word) = words.pop_front() {
        if let Err(error) = state.step(&word, &mut words) {
            eprintln!("trigger {}: {error:#}", word.display());
            std::process::exit(FAILED);
        }
    }
    std::process::exit(0);
}

/// What a trigger holds between its steps.
#[derive(Default)]
struct State {
    /// Open files, the last one opened on top.
    files: Vec<File>,
    sockets: Vec<OwnedFd>,
    /// Told at the next step, then forgotten.
    facts: serde_json::Map<String, Value>,
}

/// The words that are left; each step takes those that it needs.
trait Words {
    fn text(&mut self) -> anyhow::Result<String>;
    fn path(&mut self) -> anyhow::Result<PathBuf>;
    fn number(&mut self) -> anyhow::Result<u32>;
    fn numbers(&mut self) -> anyhow::Result<Vec<u32>>;
}

impl Words for VecDeque<OsString> {
    fn text(&mut self) -> anyhow::Result<String> {
        let word = self.path()?.into_os_string();
        word.into_string()
            .map_err(|word| anyhow::anyhow!("{} is no text", word.display()))
    }

    fn path(&mut self) -> anyhow::Result<PathBuf> {
        self.pop_front()
            .map(PathBuf::from)
            .ok_or_else(|| anyhow::anyhow!("a word is missing"))
    }

    fn number(&mut self) -> anyhow::Result<u32> {
        Ok(self.text()?.parse()?)
    }

    fn numbers(&mut self) -> anyhow::Result<Vec<u32>> {
        let text = self.text()?;
        Ok(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
    }
}

impl State {
    fn step(&mut self, word: &OsStr, words: &mut VecDeque<OsString>) -> anyhow::Result<()> {
        match word.to_str().unwrap_or_default() {
            "step" => self.tell()?,
            "cgroup" => fs::write(words.path()?.join("cgroup.procs"), "0")?,
            "burn" => burn(Duration::from_millis(words.number()?.into())),
            "exec" => return Err(exec(words)?),
            "exec-from-thread" => {
                let mut words = std::mem::take(words);
                let error = std::thread::spawn(move || exec(&mut words))
                    .join()
                    .map_err(|_panic| anyhow::anyhow!("the thread panicked"))?;
                return Err(error?);
            }
            "exec-memfd" => exec_memfd(&fs::read(words.path()?)?, words)?,
            "exec-deleted" => exec_deleted(&words.path()?, words)?,
            "spawn" => self.spawn(words)?,
            word => {
                if !self.identity(word, words)?
                    && !self.file(word, words)?
                    && !self.socket(word, words)?
                    && !self.module(word, words)?
                {
                    anyhow::bail!("no such step");
                }
            }
        }
        Ok(())
    }

    /// Tells what is known and waits for a line, or the end of the input.
    fn tell(&mut self) -> anyhow::Result<()> {
        let facts = Value::Object(std::mem::take(&mut self.facts));
        let mut output = std::io::stdout().lock();
        writeln!(output, "{facts}")?;
        output.flush()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        Ok(())
    }

    fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Runs a program to its end as a child: `spawn COUNT PROGRAM`.
    fn spawn(&mut self, words: &mut VecDeque<OsString>) -> anyhow::Result<()> {
        let (count, program) = (words.number()?, words.path()?);
        for _ in 0..count {
            Command::new(&program).stdin(Stdio::null()).status()?;
        }
        Ok(())
    }

    /// Steps that change who and where the process is.
    fn identity(&mut self, word: &str, words: &mut VecDeque<OsString>) -> anyhow::Result<bool> {
        match word {
            "loginuid" => {
                let written = fs::write("/proc/self/loginuid", words.text()?);
                self.fact("loginuid", written.is_ok());
            }
            "setsid" => drop(nix::unistd::setsid()?),
            // A session leader's first terminal becomes its controlling one.
            "tty" => {
                let path = words.path()?;
                self.files
                    .push(File::options().read(true).write(true).open(path)?);
            }
            "groups" => {
                let groups: Vec<Gid> = words.numbers()?.into_iter().map(Gid::from_raw).collect();
                nix::unistd::setgroups(&groups)?;
            }
            "gid" => {
                let [real, effective, saved] = three(words)?.map(Gid::from_raw);
                nix::unistd::setresgid(real, effective, saved)?;
            }
            "uid" => {
                let [real, effective, saved] = three(words)?.map(Uid::from_raw);
                nix::unistd::setresuid(real, effective, saved)?;
            }
            "unshare" => {
                let mut flags = CloneFlags::empty();
                for name in words.text()?.split(',') {
                    flags |= match name {
                        "mnt" => CloneFlags::CLONE_NEWNS,
                        "net" => CloneFlags::CLONE_NEWNET,
                        "uts" => CloneFlags::CLONE_NEWUTS,
                        "ipc" => CloneFlags::CLONE_NEWIPC,
                        "cgroup" => CloneFlags::CLONE_NEWCGROUP,
                        "pid" => CloneFlags::CLONE_NEWPID,
                        other => anyhow::bail!("namespace {other}"),
                    };
                }
                nix::sched::unshare(flags)?;
            }
            "chdir" => std::env::set_current_dir(words.path()?)?,
            "chroot" => {
                nix::unistd::chroot(&words.path()?)?;
                std::env::set_current_dir("/")?;
            }
            "umask" => drop(nix::sys::stat::umask(Mode::from_bits_truncate(
                words.number()?,
            ))),
            // As a service manager starts a service: `bounded BITS`, the capabilities that are left, and all the locked memory there is.
            "bounded" => {
                let left = CapabilitySet::from_bits_retain(words.text()?.parse()?);
                let unlimited = nix::sys::resource::RLIM_INFINITY;
                let limit = nix::sys::resource::Resource::RLIMIT_MEMLOCK;
                // Nothing needs it where it is refused: BPF memory counts against it before Linux 5.11 only.
                let _refused = nix::sys::resource::setrlimit(limit, unlimited, unlimited);
                for number in 0..u64::BITS {
                    let one = CapabilitySet::from_bits_retain(1 << number);
                    if left.contains(one) {
                        continue;
                    }
                    match rustix::thread::remove_capability_from_bounding_set(one) {
                        // Beyond the last that this kernel has.
                        Err(rustix::io::Errno::INVAL) => break,
                        result => result?,
                    }
                }
            }
            "core-unlimited" => {
                let unlimited = nix::sys::resource::RLIM_INFINITY;
                let limit = nix::sys::resource::Resource::RLIMIT_CORE;
                nix::sys::resource::setrlimit(limit, unlimited, unlimited)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Steps about files.
    fn file(&mut self, word: &str, words: &mut VecDeque<OsString>) -> anyhow::Result<bool> {
        let mode = Mode::from_bits_truncate(0o640);
        match word {
            "open" => {
                let path = words.path()?;
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(false)
                    .mode(0o640)
                    .open(path)?;
                self.files.push(file);
            }
            "open-new-in-folder" => {
                let (folder, name) = (File::open(words.path()?)?, words.path()?);
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
                let fd = nix::fcntl::openat(&folder, &name, flags, mode)?;
                self.files.push(File::from(fd));
            }
            "creat" => {
                let file = File::options()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o640)
                    .open(words.path()?)?;
                self.files.push(file);
            }
            "openat2" => {
                let how = OpenHow::new()
                    .flags(OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY)
                    .mode(mode);
                let fd = nix::fcntl::openat2(AT_FDCWD, &words.path()?, how)?;
                self.files.push(File::from(fd));
            }
            "read-only" => self.files.push(File::open(words.path()?)?),
            "tmpfile" => {
                let flags = OFlag::O_TMPFILE | OFlag::O_RDWR;
                let fd = nix::fcntl::open(&words.path()?, flags, mode)?;
                self.files.push(File::from(fd));
            }
            "link-unnamed" => {
                let name = format!("/proc/self/fd/{}", self.top()?.as_raw_fd());
                let target = words.path()?;
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                nix::unistd::linkat(AT_FDCWD, name.as_str(), AT_FDCWD, &target, follow)?;
            }
            "mknod" => {
                let (kind, path) = (words.text()?, words.path()?);
                let (kind, device) = match kind.as_str() {
                    "fifo" => (SFlag::S_IFIFO, 0),
                    "regular" => (SFlag::S_IFREG, 0),
                    "null" => (SFlag::S_IFCHR, nix::sys::stat::makedev(1, 3)),
                    // Nobody's device, with a minor number of more than eight bits.
                    "block" => (SFlag::S_IFBLK, nix::sys::stat::makedev(259, 70_000)),
                    other => anyhow::bail!("kind {other}"),
                };
                nix::sys::stat::mknod(&path, kind, mode, device)?;
            }
            "mkdir" => nix::unistd::mkdir(&words.path()?, Mode::from_bits_truncate(0o750))?,
            "symlink" => std::os::unix::fs::symlink(words.path()?, words.path()?)?,
            "link" => fs::hard_link(words.path()?, words.path()?)?,
            "write" => {
                let text = words.path()?;
                self.top()?.write_all(text.as_os_str().as_bytes())?;
            }
            "fill" => {
                let content = vec![b'x'; usize::try_from(words.number()?)?];
                self.top()?.write_all(&content)?;
            }
            "dup" => {
                let copy = self.top()?.try_clone()?;
                self.files.push(copy);
            }
            "close" => drop(self.files.pop()),
            "rename" => fs::rename(words.path()?, words.path()?)?,
            "unlink" => fs::remove_file(words.path()?)?,
            "map-writer" => {
                let program = words.path()?;
                self.map_writer(&program)?;
            }
            "flood" => {
                let (count, folder, prefix) = (words.number()?, words.path()?, words.text()?);
                for index in 0..count {
                    let path = folder.join(format!("{prefix}{index}"));
                    File::options().write(true).create_new(true).open(path)?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn top(&mut self) -> anyhow::Result<&mut File> {
        self.files
            .last_mut()
            .ok_or_else(|| anyhow::anyhow!("no file is open"))
    }

    /// Hands the open file to a program that maps it, closes its own descriptor, tells, and lets the program write.
    fn map_writer(&mut self, program: &Path) -> anyhow::Result<()> {
        let file = self
            .files
            .pop()
            .ok_or_else(|| anyhow::anyhow!("no file is open"))?;
        file.set_len(4096)?;
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let mut writer = Command::new(program)
            .stdin(Stdio::from(file))
            .stdout(Stdio::from(read))
            .spawn()?;
        self.fact("writer", writer.id());
        let waits = format!("/proc/{}/fd/0", writer.id());
        crate::wait_for("the writer's mapping", Duration::from_secs(30), || {
            fs::symlink_metadata(&waits).is_err().then_some(())
        });
        self.tell()?;
        drop(write);
        anyhow::ensure!(writer.wait()?.success(), "the writer failed");
        Ok(())
    }

    /// Steps about sockets.
    fn socket(&mut self, word: &str, words: &mut VecDeque<OsString>) -> anyhow::Result<bool> {
        let none: Option<SockProtocol> = None;
        match word {
            "tcp" | "tcp-now" => {
                let address = address(&words.text()?)?;
                let family = address.family().unwrap_or(AddressFamily::Inet);
                let flags = if word == "tcp" {
                    SockFlag::empty()
                } else {
                    SockFlag::SOCK_NONBLOCK
                };
                let socket = nix::sys::socket::socket(family, SockType::Stream, flags, none)?;
                self.connect(socket, &address);
            }
            "tcp-impatient" => {
                let (address, milliseconds) = (address(&words.text()?)?, words.number()?);
                let family = address.family().unwrap_or(AddressFamily::Inet);
                let flags = SockFlag::empty();
                let socket = nix::sys::socket::socket(family, SockType::Stream, flags, none)?;
                nix::sys::socket::setsockopt(&socket, sockopt::TcpUserTimeout, &milliseconds)?;
                self.connect(socket, &address);
            }
            "udp" => {
                let address = address(&words.text()?)?;
                let family = address.family().unwrap_or(AddressFamily::Inet);
                let flags = SockFlag::empty();
                let socket = nix::sys::socket::socket(family, SockType::Datagram, flags, none)?;
                self.connect(socket, &address);
            }
            "unix" => {
                let (kind, name) = (words.text()?, words.path()?);
                let kind = match kind.as_str() {
                    "stream" => SockType::Stream,
                    "datagram" => SockType::Datagram,
                    "seqpacket" => SockType::SeqPacket,
                    other => anyhow::bail!("kind {other}"),
                };
                let address = unix_address(&name)?;
                let flags = SockFlag::empty();
                let socket = nix::sys::socket::socket(AddressFamily::Unix, kind, flags, none)?;
                self.connect(socket, &address);
            }
            "bind" => {
                let address = unix_address(&words.path()?)?;
                let (kind, flags) = (SockType::Stream, SockFlag::empty());
                let socket = nix::sys::socket::socket(AddressFamily::Unix, kind, flags, none)?;
                nix::sys::socket::bind(socket.as_raw_fd(), &address)?;
                self.sockets.push(socket);
            }
            // Fills the queue of a listener that accepts nothing, so that the next one waits.
            "listen-full" => {
                let listener = nix::sys::socket::socket(
                    AddressFamily::Inet,
                    SockType::Stream,
                    SockFlag::empty(),
                    none,
                )?;
                let any = address("127.0.0.1:0")?;
                nix::sys::socket::bind(listener.as_raw_fd(), &any)?;
                nix::sys::socket::listen(&listener, Backlog::new(0)?)?;
                let bound: SockaddrStorage = nix::sys::socket::getsockname(listener.as_raw_fd())?;
                let place = bound.to_string();
                let first = std::net::TcpStream::connect(&place)?;
                self.sockets.push(first.into());
                self.sockets.push(listener);
                self.fact("address", place);
            }
            "wait-connected" => {
                let socket = self
                    .sockets
                    .last()
                    .ok_or_else(|| anyhow::anyhow!("no socket is open"))?;
                let mut watched = [nix::poll::PollFd::new(
                    socket.as_fd(),
                    nix::poll::PollFlags::POLLOUT,
                )];
                nix::poll::poll(&mut watched, nix::poll::PollTimeout::from(60_000_u16))?;
            }
            "close-socket" => drop(self.sockets.pop()),
            "loopback-down" => {
                // A new network namespace has its loopback interface down and no route.
                nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Connects and keeps the socket; tells the error and both ends as the kernel gives them.
    fn connect<A: SockaddrLike>(&mut self, socket: OwnedFd, address: &A) {
        let fd = socket.as_raw_fd();
        // The kernel numbers a socket when it is first asked to.
        let cookie = rustix::net::sockopt::socket_cookie(&socket);
        let begun = Instant::now();
        let errno = match nix::sys::socket::connect(fd, address) {
            Ok(()) => 0,
            Err(errno) => errno as i32,
        };
        let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.fact("errno", errno);
        self.fact("took_ns", took);
        self.fact("local", end(nix::sys::socket::getsockname(fd)));
        self.fact("remote", end(nix::sys::socket::getpeername(fd)));
        self.fact("cookie", cookie.ok());
        self.sockets.push(socket);
    }

    /// Steps about kernel modules.
    fn module(&mut self, word: &str, words: &mut VecDeque<OsString>) -> anyhow::Result<bool> {
        let done = match word {
            "module-file" => {
                let (file, parameters) = (File::open(words.path()?)?, words.text()?);
                let flags = nix::kmod::ModuleInitFlags::empty();
                nix::kmod::finit_module(&file, &CString::new(parameters)?, flags)
            }
            "module-memory" => {
                let (content, parameters) = (fs::read(words.path()?)?, words.text()?);
                nix::kmod::init_module(&content, &CString::new(parameters)?)
            }
            "module-remove" => {
                let name = CString::new(words.text()?)?;
                nix::kmod::delete_module(&name, nix::kmod::DeleteModuleFlags::O_NONBLOCK)
            }
            _ => return Ok(false),
        };
        self.fact("errno", done.err().map_or(0, |errno| errno as i32));
        Ok(true)
    }
}

fn three(words: &mut VecDeque<OsString>) -> anyhow::Result<[u32; 3]> {
    <[u32; 3]>::try_from(words.numbers()?)
        .map_err(|list| anyhow::anyhow!("{list:?} are not three numbers"))
}

/// Half of the time in user mode, half in the kernel, by the clock of the process.
fn burn(time: Duration) {
    let begun = Instant::now();
    let mut word = 1_u64;
    while begun.elapsed() < time / 2 {
        for _ in 0..10_000 {
            word = std::hint::black_box(word.wrapping_mul(6_364_136_223_846_793_005));
        }
    }
    let mut block = vec![0; 1 << 20];
    let Ok(mut zero) = File::open("/dev/zero") else {
        return;
    };
    while begun.elapsed() < time && zero.read_exact(&mut block).is_ok() {}
}

/// Executes the program that the words name, with the words behind it as arguments; gives the error if that fails.
/// `exec PROGRAM ARGUMENT...`; the name that the program sees is its path.
fn exec(words: &mut VecDeque<OsString>) -> anyhow::Result<anyhow::Error> {
    let program = words.path()?;
    let error = Command::new(&program).args(words.drain(..)).exec();
    Ok(anyhow::anyhow!("{}: {error}", program.display()))
}

fn exec_memfd(content: &[u8], words: &mut VecDeque<OsString>) -> anyhow::Result<()> {
    let fd =
        nix::sys::memfd::memfd_create(c"sensor-memfd", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    File::from(fd.try_clone()?).write_all(content)?;
    // A file that is open for writing is not executed: only the descriptor that is reopened for reading stays.
    let reopened = File::open(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    drop(fd);
    exec_descriptor(&reopened, words)
}

fn exec_deleted(path: &Path, words: &mut VecDeque<OsString>) -> anyhow::Result<()> {
    let file = File::open(path)?;
    fs::remove_file(path)?;
    exec_descriptor(&file, words)
}

fn exec_descriptor(file: &File, words: &mut VecDeque<OsString>) -> anyhow::Result<()> {
    let arguments: Vec<CString> = words
        .drain(..)
        .map(|word| CString::new(word.into_vec()))
        .collect::<Result<_, _>>()?;
    let environment: [CString; 0] = [];
    nix::unistd::fexecve(file, &arguments, &environment)?;
    Ok(())
}

fn address(text: &str) -> anyhow::Result<SockaddrStorage> {
    Ok(SockaddrStorage::from(text.parse::<SocketAddr>()?))
}

/// A path, or an abstract name where the text begins with `@`.
fn unix_address(name: &Path) -> anyhow::Result<UnixAddr> {
    Ok(match name.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(name)?,
    })
}

/// One end of a socket as the kernel gives it: `{address, port}` or `{path}` or `{abstract}`; null if it has none.
fn end(got: nix::Result<SockaddrStorage>) -> Value {
    let Ok(storage) = got else { return Value::Null };
    if let Some(v4) = storage.as_sockaddr_in() {
        return json!({"address": v4.ip().to_string(), "port": v4.port()});
    }
    if let Some(v6) = storage.as_sockaddr_in6() {
        return json!({"address": v6.ip().to_string(), "port": v6.port()});
    }
    if let Some(unix) = storage.as_unix_addr() {
        if let Some(path) = unix.path() {
            return json!({"path": path.to_string_lossy()});
        }
        if let Some(name) = unix.as_abstract() {
            return json!({"abstract": String::from_utf8_lossy(name)});
        }
    }
    Value::Null
}
