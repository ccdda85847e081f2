//! The terminal: its modes, which are given back on every way out, and writing that never waits.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios};

/// A descriptor of the terminal of our own, so that it can be made non-blocking without doing so for everybody who shares it.
const OWN: &str = "/proc/self/fd/1";

/// The terminal of standard input and output.
#[derive(Debug)]
pub(super) struct Terminal {
    input: OwnedFd,
    output: OwnedFd,
    /// Its modes before they were changed; none: they are as they were.
    before: Mutex<Option<Termios>>,
}

impl Terminal {
    /// # Errors
    /// Standard input or output is closed.
    pub(super) fn open() -> io::Result<Self> {
        let input = rustix::stdio::stdin().try_clone_to_owned()?;
        let output = rustix::stdio::stdout();
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let own = rustix::fs::openat(CWD, OWN, flags, Mode::empty())
            .ok()
            .filter(|own| rustix::termios::isatty(own));
        let output = match own {
            Some(own) => own,
            // A terminal of another mount namespace: writes may wait then, in this thread only.
            None => output.try_clone_to_owned()?,
        };
        Ok(Self::of(input, output))
    }

    pub(super) const fn of(input: OwnedFd, output: OwnedFd) -> Self {
        Self {
            input,
            output,
            before: Mutex::new(None),
        }
    }

    fn before(&self) -> MutexGuard<'_, Option<Termios>> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// Whether the terminal is ours at the moment, not that of another job of the shell. One that knows no jobs is.
    pub(super) fn foreground(&self) -> bool {
        rustix::termios::tcgetpgrp(&self.input)
            .map_or(true, |group| group == rustix::process::getpgrp())
    }

    /// Keys come one by one and are not echoed. Ctrl-C and Ctrl-Z stay signals.
    pub(super) fn take(&self) -> io::Result<()> {
        let mut before = self.before();
        let now = rustix::termios::tcgetattr(&self.input)?;
        let mut keys = now.clone();
        keys.local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN);
        keys.special_codes[SpecialCodeIndex::VMIN] = 1;
        keys.special_codes[SpecialCodeIndex::VTIME] = 0;
        // Ctrl-\ would leave these modes behind.
        keys.special_codes[SpecialCodeIndex::VQUIT] = 0;
        rustix::termios::tcsetattr(&self.input, OptionalActions::Now, &keys)?;
        before.get_or_insert(now);
        Ok(())
    }

    /// Gives the modes back. Does nothing while another job has the terminal: its modes are that one's.
    pub(super) fn release(&self) {
        let Some(before) = self.before().take() else {
            return;
        };
        if self.foreground()
            && let Err(error) =
                rustix::termios::tcsetattr(&self.input, OptionalActions::Now, &before)
        {
            tracing::debug!(%error, "the terminal's modes are not as they were");
        }
    }

    /// Columns and rows; none where it does not know.
    pub(super) fn size(&self) -> (Option<usize>, Option<usize>) {
        let Ok(size) = rustix::termios::tcgetwinsize(&self.output) else {
            return (None, None);
        };
        let known = |count: u16| Some(usize::from(count)).filter(|count| *count > 0);
        (known(size.ws_col), known(size.ws_row))
    }

    /// Writes what it takes now; 0: nothing.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::write(&self.output, bytes) {
            Ok(count) => Ok(count),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what was typed; empty: nothing.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = [0; 256];
        match rustix::io::read(&self.input, &mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(bytes.get(..count).unwrap_or_default().to_vec()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use nix::pty::openpty;

    use super::*;

    #[test]
    fn modes_are_given_back() {
        let pty = openpty(None, None).unwrap();
        let (input, output) = (pty.slave.try_clone().unwrap(), pty.slave);
        let probe = input.try_clone().unwrap();
        let modes = || rustix::termios::tcgetattr(&probe).unwrap().local_modes;
        let before = modes();
        assert!(before.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
        let terminal = Terminal::of(input, output);
        assert_eq!(terminal.size(), (None, None), "a terminal without a size");
        for _ in 0..2 {
            terminal.take().unwrap();
            terminal.take().unwrap();
            assert!(!modes().intersects(LocalModes::ICANON | LocalModes::ECHO));
            assert!(modes().contains(LocalModes::ISIG));
            terminal.release();
            assert_eq!(modes(), before);
            terminal.release();
        }
        terminal.take().unwrap();
        drop(terminal);
        assert_eq!(modes(), before);
    }

    #[test]
    fn a_panic_gives_them_back() {
        let pty = openpty(None, None).unwrap();
        let probe = pty.slave.try_clone().unwrap();
        let modes = || rustix::termios::tcgetattr(&probe).unwrap().local_modes;
        let before = modes();
        let terminal = Terminal::of(pty.slave.try_clone().unwrap(), pty.slave);
        let ended = std::thread::spawn(move || {
            terminal.take().unwrap();
            panic!("as a test");
        });
        ended.join().unwrap_err();
        assert_eq!(modes(), before);
    }
}
