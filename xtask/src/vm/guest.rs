//! Boots one guest and reads what it says. The protocol's other end is tests/vm/init.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::harness::Tally;
use crate::vm::packages::{KernelFiles, Programs};

/// Time for booting and powering off on a loaded machine, beside the suite's own.
const BOOT_TIME: Duration = Duration::from_secs(120);
const TICK: Duration = Duration::from_millis(50);
/// What a suite says when it may be reset.
const RESET: &str = "reset now";
/// It is, at most so long afterwards, in milliseconds.
const RESET_WITHIN: u64 = 4_000;
/// The test system's answer to a program that took too long.
const TIMED_OUT: i32 = 124;

/// What a boot needs.
#[derive(Debug)]
pub(crate) struct Boot<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) kernel: &'a KernelFiles,
    pub(crate) command_line: &'a str,
    /// Memory.
    pub(crate) memory_mib: u32,
    pub(crate) initrd: &'a Path,
    /// Process 1, a path in the initrd.
    pub(crate) init: &'a str,
    pub(crate) timeout: Duration,
    /// Path of the logs, without extension.
    pub(crate) log: PathBuf,
    /// A file that is its disk.
    pub(crate) disk: Option<&'a Path>,
}

/// How a suite went in a guest.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The kernel release that really booted, if it did.
    pub(crate) release: Option<String>,
    pub(crate) tally: Tally,
    /// From start of QEMU to its end.
    pub(crate) seconds: u64,
}

/// Boots, waits for the end, reads the result.
pub(crate) fn boot(boot: &Boot<'_>) -> anyhow::Result<Outcome> {
    run(boot, None).map(|(outcome, _)| outcome)
}

/// Boots, kills QEMU at a moment of chance after the suite has said that it may be, boots again with the same disk, and gives how
/// that went. What the guest had written and waited for (fdatasync) is in the file, whatever QEMU's cache mode: it is this
/// machine's to write it to its own disk, and this machine goes on.
pub(crate) fn boot_twice(boot: &Boot<'_>) -> anyhow::Result<Outcome> {
    let after =
        Duration::from_millis(RandomState::new().hash_one(boot.log.as_os_str()) % RESET_WITHIN);
    let first = Boot {
        log: boot.log.with_file_name(format!(
            "{}-before",
            boot.log.file_name().unwrap_or_default().to_string_lossy()
        )),
        ..*boot
    };
    let (mut before, reset) = run(&first, Some(after))?;
    if !reset {
        before.tally.fail("the guest was not reset".to_owned());
        fs::copy(
            first.log.with_extension("results.log"),
            boot.log.with_extension("results.log"),
        )?;
        return Ok(before);
    }
    println!(
        "  reset {} ms after the suite had said {RESET:?}",
        after.as_millis()
    );
    let mut outcome = self::boot(boot)?;
    outcome.seconds += before.seconds;
    Ok(outcome)
}

/// Boots and waits for the end, or kills QEMU so long after the suite has said that it may be; whether that came.
fn run(boot: &Boot<'_>, reset_after: Option<Duration>) -> anyhow::Result<(Outcome, bool)> {
    let console = boot.log.with_extension("console.log");
    let channel = boot.log.with_extension("results.log");
    let errors = boot.log.with_extension("qemu.log");
    for stale in [&console, &channel] {
        File::create(stale)?;
    }
    let started = Instant::now();
    let mut qemu = boot.programs.qemu()?;
    if let Some(disk) = boot.disk {
        qemu.arg("-drive")
            .arg(format!("file={},format=raw,if=virtio", disk.display()));
    }
    let mut qemu = qemu
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-nic",
            "none",
        ])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            &boot.memory_mib.to_string(),
        ])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", channel.display()))
        .arg("-kernel")
        .arg(&boot.kernel.image)
        .arg("-initrd")
        .arg(boot.initrd)
        .arg("-append")
        // no_timer_check: on a busy machine the emulated timer comes too late for a test that the kernel does at its start.
        .arg(format!(
            "console=ttyS0 rdinit={} no_timer_check panic=-1 oops=panic {}",
            boot.init, boot.command_line
        ))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors)?)
        .spawn()
        .context("cannot start QEMU")?;
    let deadline = started + boot.timeout + BOOT_TIME;
    let mut hung = false;
    let mut reset_at = None;
    let status = loop {
        if let Some(status) = qemu.try_wait()? {
            break status;
        }
        if let Some(after) = reset_after {
            if reset_at.is_none() && may_reset(&fs::read(&channel)?) {
                reset_at = Some(Instant::now() + after);
            }
            if reset_at.is_some_and(|at| Instant::now() >= at) {
                qemu.kill()?;
                qemu.wait()?;
                let outcome = Outcome {
                    seconds: started.elapsed().as_secs(),
                    ..Outcome::default()
                };
                return Ok((outcome, true));
            }
        }
        if Instant::now() > deadline {
            hung = true;
            qemu.kill()?;
        }
        std::thread::sleep(TICK);
    };
    let text = String::from_utf8_lossy(&fs::read(&channel)?).into_owned();
    let mut outcome = read(&text);
    outcome.seconds = started.elapsed().as_secs();
    if hung {
        outcome.tally.fail(format!(
            "the guest did not end within {} s",
            (deadline - started).as_secs()
        ));
    } else if !status.success() {
        let said = fs::read_to_string(&errors)?;
        outcome
            .tally
            .fail(format!("QEMU: {status}: {}", said.trim()));
    }
    Ok((outcome, false))
}

/// Whether the suite has said that the guest may be reset.
fn may_reset(channel: &[u8]) -> bool {
    let text = String::from_utf8_lossy(channel);
    text.lines().any(|line| said(line) == Some(RESET))
}

/// What the suite wrote, of a line of the guest's result channel.
pub(crate) fn said(line: &str) -> Option<&str> {
    let rest = line.trim_end_matches('\r').strip_prefix("out ")?;
    Some(rest.split_once(' ').map_or("", |(_, said)| said))
}

/// Reads the lines of the guest's result channel.
fn read(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut ended = None;
    let mut before = None;
    let mut told = false;
    for line in text.lines() {
        let (kind, rest) = line
            .trim_end_matches('\r')
            .split_once(' ')
            .unwrap_or((line, ""));
        match kind {
            "boot" => outcome.release = Some(rest.to_owned()),
            "out" => {
                let (time, said) = rest.split_once(' ').unwrap_or((rest, ""));
                let time: u64 = time.parse().unwrap_or(0);
                outcome
                    .tally
                    .line(said, time.saturating_sub(before.unwrap_or(time)));
                before = Some(time);
            }
            "end" => {
                ended = rest
                    .strip_prefix("exit=")
                    .and_then(|code| code.parse().ok())
            }
            "failed" => {
                told = true;
                outcome.tally.fail(format!("the guest's process 1: {rest}"));
            }
            _ => {}
        }
    }
    match ended {
        Some(TIMED_OUT) => outcome
            .tally
            .fail("the suite took too long and was ended".to_owned()),
        Some(code) => outcome.tally.ended(Some(code)),
        // Process 1 has said why.
        None if told => {}
        None => outcome
            .tally
            .fail("the guest died before the suite ended".to_owned()),
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, passed: usize, failed: usize, problem: &str) {
        let outcome = read(text);
        assert_eq!(
            (outcome.tally.passed, outcome.tally.failed),
            (passed, failed),
            "{outcome:?}"
        );
        assert_eq!(outcome.tally.problems.join("|"), problem);
    }

    #[test]
    fn a_good_run_is_counted() {
        let text = "boot 6.1.0\r\nout 100 running 2 tests\r\nout 400 test a::b ... ok\r\nout 1500 test c ... ok\r\nend exit=0\r\n";
        check(text, 2, 0, "");
        let outcome = read(text);
        assert_eq!(outcome.release.as_deref(), Some("6.1.0"));
        assert_eq!(outcome.tally.tests[1], ("c".to_owned(), 1100));
    }

    #[test]
    fn a_failed_test_is_named() {
        check(
            "boot 6\nout 1 test a ... ok\nout 2 test b ... FAILED\nend exit=101\n",
            1,
            1,
            "test b failed",
        );
    }

    #[test]
    fn a_guest_is_reset_when_its_suite_says_so() {
        assert!(may_reset(b"boot 6.1\r\nout 7 x\r\nout 9 reset now\r\n"));
        for text in ["", "reset now", "out 9 reset nowhere", "told reset now"] {
            assert!(!may_reset(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn nothing_counts_as_good_by_silence() {
        check("", 0, 1, "the guest died before the suite ended");
        check(
            "boot 6\nout 1 test a ... ok\n",
            1,
            1,
            "the guest died before the suite ended",
        );
        check("boot 6\nend exit=0\n", 0, 1, "no test ran");
        check(
            "boot 6\nout 1 test a ... ok\nend exit=134\n",
            1,
            1,
            "the test program ended with code 134",
        );
        check(
            "boot 6\nend exit=124\n",
            0,
            1,
            "the suite took too long and was ended",
        );
        check(
            "boot 6\nfailed cannot mount /sys\n",
            0,
            1,
            "the guest's process 1: cannot mount /sys",
        );
    }
}
