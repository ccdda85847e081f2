//! Process 1 of a test guest: prepares a small Linux system, runs one program, tells how it ended, powers off. In guests with a
//! Debian of their own, where systemd is process 1, it is a service and does the same without the preparation.
//!
//! It reads `/etc/sensor-vm/job` (`key=value` lines: `timeout`, `module`, `env`, `argument`) and speaks to
//! `cargo xtask vm` over the second serial line, where no kernel message can come between:
//! `boot RELEASE`, `out MILLISECONDS LINE`, `end exit=CODE` and `failed REASON`. Suites may write `told TEXT` and
//! `transcript LINE` there themselves.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

const JOB: &str = "/etc/sensor-vm/job";
const CHANNEL: &str = "/dev/ttyS1";
/// How often the state of the program is looked at when it writes nothing.
const TICK: Duration = Duration::from_millis(20);
/// Lines in flight between the program and the serial line; the program waits when it is full.
const LINES: usize = 256;

/// What to run.
#[derive(Debug, Default)]
struct Job {
    timeout: Duration,
    modules: Vec<String>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
}

fn main() {
    let started = Instant::now();
    // A developer's machine has no such file, and must not be powered off at the end.
    if !alone() && !Path::new(JOB).exists() {
        return;
    }
    let mounted = if alone() {
        // Otherwise the tests would run in session 0, which is none.
        if nix::unistd::setsid().is_err() {
            return;
        }
        mount_all()
    } else {
        Ok(())
    };
    let Ok(mut channel) = OpenOptions::new().write(true).open(CHANNEL) else {
        return;
    };
    let told = match mounted.and_then(|()| run(&mut channel, started)) {
        Ok(()) => Ok(()),
        Err(error) => {
            writeln!(
                channel,
                "failed {}",
                format!("{error:#}").replace('\n', "; ")
            )
        }
    };
    // Closing waits until the line has sent everything.
    drop(channel);
    if told.is_ok() {
        nix::unistd::sync();
    }
    // Should it be refused, the kernel panics for want of a process 1, which ends the guest too.
    let Err(_) = reboot(RebootMode::RB_POWER_OFF);
}

fn run(channel: &mut File, started: Instant) -> anyhow::Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    writeln!(channel, "boot {}", release.trim())?;
    let job = parse(&fs::read_to_string(JOB).context(JOB)?)?;
    for module in &job.modules {
        let file = File::open(module).with_context(|| module.clone())?;
        let flags = if module.ends_with(".xz") {
            COMPRESSED
        } else {
            ModuleInitFlags::empty()
        };
        match finit_module(&file, &CString::default(), flags) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => bail!("module {module}: {error}"),
        }
    }
    if alone() {
        network_up()?;
    }
    let code = supervise(channel, &job, started)?;
    writeln!(channel, "end exit={code}")?;
    Ok(())
}

/// `MODULE_INIT_COMPRESSED_FILE`, which nix does not name.
const COMPRESSED: ModuleInitFlags = ModuleInitFlags::from_bits_retain(4);

fn parse(text: &str) -> anyhow::Result<Job> {
    let mut job = Job::default();
    for line in text.lines() {
        let (key, value) = line
            .split_once('=')
            .with_context(|| format!("line {line:?}"))?;
        match key {
            "timeout" => job.timeout = Duration::from_secs(value.parse()?),
            "module" => job.modules.push(value.to_owned()),
            "env" => {
                let (name, value) = value.split_once('=').with_context(|| line.to_owned())?;
                job.environment.push((name.to_owned(), value.to_owned()));
            }
            "argument" => job.arguments.push(value.to_owned()),
            _ => bail!("unknown key {key:?}"),
        }
    }
    Ok(job)
}

/// Word of the kernel's command line that asks for cgroups of version 1, and none of version 2.
const CGROUPS_1: &str = "sensor_vm.cgroups=1";

fn mount_all() -> anyhow::Result<()> {
    let plain = MsFlags::empty();
    let mut old_cgroups = false;
    for (kind, place, options) in [
        ("proc", "/proc", ""),
        ("sysfs", "/sys", ""),
        ("devtmpfs", "/dev", ""),
        ("devpts", "/dev/pts", ""),
        ("tmpfs", "/dev/shm", "mode=1777"),
        ("tmpfs", "/tmp", "mode=1777"),
        ("tmpfs", "/run", "mode=755"),
        ("cgroup2", "/sys/fs/cgroup", ""),
        ("bpf", "/sys/fs/bpf", ""),
        ("debugfs", "/sys/kernel/debug", ""),
        ("tracefs", "/sys/kernel/tracing", ""),
        ("securityfs", "/sys/kernel/security", ""),
    ] {
        if matches!(place, "/dev/pts" | "/dev/shm") {
            fs::create_dir_all(place)?;
        }
        if kind == "cgroup2" && old_cgroups {
            mount_old_cgroups(Path::new(place))?;
            continue;
        }
        mount(Some(kind), place, Some(kind), plain, Some(options))
            .with_context(|| format!("cannot mount {place}"))?;
        if kind == "proc" {
            let words = fs::read_to_string("/proc/cmdline")?;
            old_cgroups = words.split_whitespace().any(|word| word == CGROUPS_1);
        }
    }
    // What udev makes: without it some security modules (TOMOYO, active on 5.10) refuse programs that have no name.
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        symlink(target, link).with_context(|| format!("cannot link {link}"))?;
    }
    Ok(())
}

/// As systemd did before version 2: a hierarchy of its own without a controller, and one for each controller.
fn mount_old_cgroups(base: &Path) -> anyhow::Result<()> {
    let plain = MsFlags::empty();
    mount(Some("tmpfs"), base, Some("tmpfs"), plain, Some("mode=755"))?;
    for (name, options) in [
        ("systemd", "none,name=systemd"),
        ("memory", "memory"),
        ("pids", "pids"),
    ] {
        let place = base.join(name);
        fs::create_dir(&place)?;
        mount(Some("cgroup"), &place, Some("cgroup"), plain, Some(options))
            .with_context(|| format!("cannot mount {}", place.display()))?;
    }
    Ok(())
}

fn network_up() -> anyhow::Result<()> {
    let status = Command::new("/bin/busybox")
        .args(["ip", "link", "set", "lo", "up"])
        .status()?;
    anyhow::ensure!(
        status.success(),
        "cannot bring the loopback interface up: {status}"
    );
    Ok(())
}

/// Runs the program, forwards what it writes line by line, and gives its exit code; 124 if it took too long.
fn supervise(channel: &mut File, job: &Job, started: Instant) -> anyhow::Result<i32> {
    let (program, arguments) = job.arguments.split_first().context("no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
        .env("HOME", "/root")
        .env("RUST_BACKTRACE", "1")
        .envs(job.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/root")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let main = Pid::from_raw(i32::try_from(child.id())?);
    let (sender, lines) = mpsc::sync_channel(LINES);
    if let Some(pipe) = child.stdout.take() {
        forward(pipe, sender.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        forward(pipe, sender);
    }
    let deadline = Instant::now() + job.timeout;
    let mut code = None;
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => {
                let mut message = format!("out {} ", started.elapsed().as_millis()).into_bytes();
                message.extend(line);
                message.push(b'\n');
                channel.write_all(&message)?;
            }
            // Both ends of the pipes are closed: nobody who could write is left.
            Err(RecvTimeoutError::Disconnected) if code.is_some() => break,
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(TICK),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(status) = reap(main)? {
            code = code.or(Some(exit_code(status)));
            // What it left behind would keep the pipes open. From process 1 this is everyone but us.
            end_all(main);
        }
        if code.is_none() && Instant::now() > deadline {
            code = Some(124);
            end_all(main);
        }
    }
    Ok(code.unwrap_or(124))
}

/// Whether this is process 1, and the guest has nothing but what is done here.
fn alone() -> bool {
    std::process::id() == 1
}

/// Ends the program and, in a guest of its own, everyone else.
fn end_all(main: Pid) {
    let whom = if alone() { Pid::from_raw(-1) } else { main };
    match kill(whom, Signal::SIGKILL) {
        // Nobody else is left.
        Ok(()) | Err(_) => {}
    }
}

/// Takes every child that ended; gives the status of `main` if it was among them.
fn reap(main: Pid) -> anyhow::Result<Option<ExitStatus>> {
    let mut found = None;
    loop {
        let (pid, raw) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code << 8),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                let number: i32 = signal as i32;
                (pid, number)
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(found),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error).context("cannot wait"),
        };
        if pid == main {
            found = Some(ExitStatus::from_raw(raw));
        }
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Sends the lines of a pipe; ends with the pipe.
fn forward(pipe: impl Read + Send + 'static, sender: mpsc::SyncSender<Vec<u8>>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            while line
                .last()
                .is_some_and(|last| matches!(last, b'\n' | b'\r'))
            {
                line.pop();
            }
            if sender.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_and_unknown_keys_are_refused() {
        let job =
            parse("timeout=5\nmodule=/m.ko\nenv=A=b=c\nargument=/bin/t\nargument=-x").unwrap();
        assert_eq!(job.timeout, Duration::from_secs(5));
        assert_eq!(job.environment, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(job.arguments, ["/bin/t", "-x"]);
        parse("what=1").unwrap_err();
    }
}
