//! The live view as somebody at a terminal has it: a shell in a pseudo terminal starts the sensor, keys are pressed, the
//! terminal is resized, and after every way out it is as it was.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{Pid, tcgetpgrp};
use rustix::event::{PollFd, PollFlags, Timespec};
use sensor_tests::harness::end_shared;
use sensor_tests::place::Place;
use sensor_tests::runner::Test;
use sensor_tests::trigger;

const REASON: &str = "a terminal is the same on every kernel";

pub(crate) const TESTS: &[Test] = &[Test::on_host("view::at_a_terminal", at_a_terminal, REASON)];

/// What the shell asks with.
const PROMPT: &str = "shell-is-ready> ";

/// A terminal with a shell in it, and who sits there.
struct Terminal {
    master: File,
    /// Keeps the terminal's modes readable.
    slave: OwnedFd,
    emulator: vt100::Parser,
    shell: Child,
}

fn cells(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("a size")
}

impl Terminal {
    fn new(columns: u16, rows: u16) -> Self {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let OpenptyResult { master, slave } = openpty(&size, None).expect("a terminal");
        rustix::io::ioctl_fionbio(&master, true).expect("a terminal");
        let end = || Stdio::from(slave.try_clone().expect("a descriptor"));
        // A session of its own, whose terminal this is: keys become signals, jobs are stopped and go on.
        let mut command = trigger::command_in(&Place::here().outside, Path::new("/usr/bin/setsid"));
        command
            .args(["--ctty", "--wait", "/bin/sh", "-i"])
            .env("PS1", PROMPT)
            .env("TERM", "xterm-256color")
            .env("LANG", "C.UTF-8")
            .env_remove("LC_ALL")
            .env_remove("LC_CTYPE")
            .env_remove("ENV")
            .env_remove("SENSOR_LOG")
            .env_remove("NO_COLOR")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        let shell = command.spawn().expect("a shell");
        Self {
            master: master.into(),
            slave,
            emulator: vt100::Parser::new(cells(rows), cells(columns), 1_000),
            shell,
        }
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("a terminal");
    }

    fn contents(&self) -> String {
        self.emulator.screen().contents()
    }

    fn read(&mut self) {
        let mut piece = [0; 4096];
        while let Ok(count) = self.master.read(&mut piece) {
            if count == 0 {
                break;
            }
            self.emulator
                .process(piece.get(..count).expect("what was read"));
        }
    }

    /// Waits until the screen is as wanted.
    fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        let end = Instant::now() + Place::here().patience() * 2;
        loop {
            self.read();
            if wanted(&self.contents()) {
                return;
            }
            assert!(
                Instant::now() < end,
                "waited in vain for {what}; the screen:\n{}",
                self.contents()
            );
            let mut waiting = [PollFd::new(&self.master, PollFlags::IN)];
            let time = Timespec {
                tv_sec: 0,
                tv_nsec: 20_000_000,
            };
            rustix::event::poll(&mut waiting, Some(&time)).expect("a terminal");
        }
    }

    fn resize(&mut self, columns: u16, rows: u16) {
        self.read();
        self.emulator
            .screen_mut()
            .set_size(cells(rows), cells(columns));
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.master, size).expect("a terminal");
    }

    /// The job that has the terminal.
    fn job(&self) -> Pid {
        tcgetpgrp(&self.master).expect("a terminal with jobs")
    }

    /// Whether lines are edited and echoed by the terminal, as it was at the start.
    fn ordinary(&self) -> bool {
        let modes = tcgetattr(&self.slave).expect("a terminal").local_flags;
        modes.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Waits until the shell has the terminal again, as it was.
    fn back_in_the_shell(&mut self, how: &str) {
        self.until(&format!("the shell after {how}"), |text| {
            text.trim_end().ends_with(PROMPT.trim_end())
        });
        assert!(self.ordinary(), "the terminal's modes after {how}");
        assert!(bars(&self.contents()) == 0, "{how}:\n{}", self.contents());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A test that failed leaves a sensor running in it. A terminal without a session has no job: group 0 would be our own.
        let Ok(None) = self.shell.try_wait() else {
            return;
        };
        if let Ok(job) = tcgetpgrp(&self.master)
            && job.as_raw() > 1
            && let Err(errno) = kill(job, Signal::SIGTERM)
        {
            eprintln!("job {job} of the terminal stays: {errno}");
        }
        drop((self.shell.kill(), self.shell.wait()));
    }
}

/// Bottom lines on the screen.
fn bars(text: &str) -> usize {
    text.lines()
        .filter(|line| line.contains("/s  lost "))
        .count()
}

fn bar_below(text: &str) -> bool {
    bars(text) == 1
        && text
            .lines()
            .last()
            .is_some_and(|line| line.contains("/s  lost "))
}

/// Runs a program in the watched cgroup, in which this one is.
fn run(program: &str) {
    let status = Command::new("/bin/sh")
        .args(["-c", &format!("{program}; :")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("a shell");
    assert!(status.success());
}

fn at_a_terminal() {
    // Only one sensor of a scope may run.
    end_shared();
    let place = Place::here();
    let mut terminal = Terminal::new(120, 24);
    terminal.until("the shell", |text| text.contains(PROMPT.trim_end()));
    let start = format!(
        "clear; {} run --scope-cgroup {} --backend {} --events exec,exit\r",
        place.sensor.display(),
        place.scope.display(),
        place.backend
    );
    let started = |terminal: &mut Terminal| {
        terminal.press(&start);
        terminal.until("the bottom line", bar_below);
        assert!(!terminal.ordinary(), "keys come one by one");
    };

    started(&mut terminal);
    run("/usr/bin/id");
    terminal.until("a program, its parent and its verdict", |text| {
        let line = text
            .lines()
            .find(|line| line.contains("exec") && line.contains("id["));
        line.is_some_and(|line| line.contains('└') && line.contains("verified")) && bar_below(text)
    });
    for (columns, rows) in [(80, 24), (60, 10), (40, 3), (200, 40), (120, 24)] {
        terminal.resize(columns, rows);
        run("/usr/bin/id");
        terminal.until("one bottom line", bar_below);
    }
    terminal.press(" ");
    terminal.until("the pause", |text| text.contains("PAUSED"));
    run("/usr/bin/whoami");
    terminal.until("events that wait", |text| {
        text.contains("PAUSED, ") && !text.contains("PAUSED, 0") && !text.contains("whoami[")
    });
    terminal.press(" ");
    terminal.until("what waited", |text| {
        text.contains("whoami[") && bar_below(text)
    });
    terminal.press("/uname\r");
    terminal.until("the filter", |text| text.contains("only 'uname'"));
    run("/usr/bin/id; /usr/bin/uname");
    terminal.until("what was asked for", |text| text.contains("uname["));
    // Escape is a key of its own when nothing follows at once.
    terminal.press("\x1b");
    terminal.until("no filter", |text| !text.contains("only 'uname'"));
    terminal.press("?");
    terminal.until("the help", |text| text.contains("verdicts"));

    // Stopped, and on again.
    terminal.press("\x1a");
    terminal.back_in_the_shell("Ctrl-Z");
    terminal.press("clear; fg\r");
    terminal.until("the bottom line again", bar_below);
    assert!(!terminal.ordinary());
    // The rules are read again, and the log stands above the bottom line.
    kill(terminal.job(), Signal::SIGHUP).expect("a sensor");
    terminal.until("the log", |text| {
        text.contains("filter rules reloaded") && bar_below(text)
    });

    // Each way out; the account has room on the larger screen.
    terminal.resize(160, 50);
    terminal.press("q");
    terminal.until("the account", |text| text.contains("sink output"));
    terminal.back_in_the_shell("q");
    let said = terminal.contents();
    assert!(!said.contains("account not closed"), "{said}");
    assert!(said.contains(" 0 lost"), "{said}");
    for (how, end) in [("Ctrl-C", None), ("SIGTERM", Some(Signal::SIGTERM))] {
        started(&mut terminal);
        match end {
            None => terminal.press("\x03"),
            Some(signal) => kill(terminal.job(), signal).expect("a sensor"),
        }
        terminal.until("the account", |text| text.contains("sink output"));
        terminal.back_in_the_shell(how);
    }
    terminal.press("exit\r");
    let status = terminal.shell.wait().expect("a shell");
    assert!(status.success(), "{status}");
}
