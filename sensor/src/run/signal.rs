//! Signals as a file descriptor: stop, reload, print statistics. No handler runs in any thread.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What the main thread was woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// SIGINT or SIGTERM.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR1.
    Statistics,
    /// SIGTSTP: Ctrl-Z. Only with a live view on a terminal, as the next two.
    Suspend,
    /// SIGCONT.
    Continued,
    /// SIGWINCH.
    Resized,
    /// Another thread rang [`Bell`].
    Bell,
    /// The time is up.
    Timeout,
}

/// Lets another thread wake the main thread.
#[derive(Debug)]
pub(crate) struct Bell(EventFd);

impl Bell {
    /// Makes one.
    ///
    /// # Errors
    /// eventfd(2).
    pub(crate) fn new() -> Result<Self, Errno> {
        EventFd::new().map(Self)
    }

    /// Wakes the main thread; rings that are not heard yet are one ring.
    pub(crate) fn ring(&self) {
        if let Err(errno) = self.0.write(1) {
            tracing::debug!(%errno, "the bell did not ring");
        }
    }
}

/// The blocked signals of this process.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Blocks the signals in this thread and those that it starts from now on, and reads them instead; with those of a terminal
    /// if there is a live view on one.
    ///
    /// # Errors
    /// pthread_sigmask(3), signalfd(2).
    pub(crate) fn block(terminal: bool) -> Result<Self, Errno> {
        let mut set = SigSet::empty();
        if terminal {
            set.add(Signal::SIGTSTP);
            set.add(Signal::SIGCONT);
            set.add(Signal::SIGWINCH);
        }
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGUSR1,
            // Breaks of file leases are asked for by the hash pool, not waited for.
            Signal::SIGIO,
            // A file at its size limit: the write fails and is told, the process lives on.
            Signal::SIGXFSZ,
        ] {
            set.add(signal);
        }
        set.thread_block()?;
        let descriptor =
            SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { descriptor })
    }

    /// Stops the process as SIGTSTP does to those that do not catch it, until SIGCONT. Returns at once where nobody is there to
    /// go on with it (a session without a shell): the kernel then stops nobody.
    ///
    /// # Errors
    /// raise(3), pthread_sigmask(3).
    pub(crate) fn suspend(&self) -> Result<(), Errno> {
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTSTP);
        raise(Signal::SIGTSTP)?;
        stop.thread_unblock()?;
        stop.thread_block()
    }

    /// Waits for a signal, the bell or `until`.
    ///
    /// # Errors
    /// poll(2), read(2).
    pub(crate) fn wait(&self, bell: &Bell, until: Option<Instant>) -> Result<Wake, Errno> {
        loop {
            while let Some(info) = self.descriptor.read_signal()? {
                match i32::try_from(info.ssi_signo)
                    .ok()
                    .and_then(|s| Signal::try_from(s).ok())
                {
                    Some(Signal::SIGINT | Signal::SIGTERM) => return Ok(Wake::Stop),
                    Some(Signal::SIGHUP) => return Ok(Wake::Reload),
                    Some(Signal::SIGUSR1) => return Ok(Wake::Statistics),
                    Some(Signal::SIGTSTP) => return Ok(Wake::Suspend),
                    Some(Signal::SIGCONT) => return Ok(Wake::Continued),
                    Some(Signal::SIGWINCH) => return Ok(Wake::Resized),
                    _ => {}
                }
            }
            let timeout = match until {
                None => PollTimeout::NONE,
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(Wake::Timeout);
                    }
                    // Rounded up, so that no wait of a fraction of a millisecond spins.
                    let left = left.saturating_add(Duration::from_micros(999));
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut descriptors = [
                PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN),
                PollFd::new(bell.0.as_fd(), PollFlags::POLLIN),
            ];
            match nix::poll::poll(&mut descriptors, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
            let rang = descriptors.get(1).and_then(PollFd::any).unwrap_or(false);
            if rang {
                bell.0.read()?;
                return Ok(Wake::Bell);
            }
        }
    }
}
