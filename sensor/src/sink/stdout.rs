//! Standard output: a terminal, a pipe or a file that the shell opened. Refuses to buffer: a line that was counted as
//! delivered has left the process.

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::sink::{Listener, SinkHandle, Target};

/// How long a descriptor that does not block is waited for at a time.
const POLL: Duration = Duration::from_millis(100);

struct Stdout;

/// Starts the sink; its queue takes so many bytes.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(capacity_bytes: usize, listener: Listener) -> io::Result<SinkHandle> {
    SinkHandle::spawn("sink-stdout", Stdout, capacity_bytes, listener)
}

impl Target for Stdout {
    fn begin(&mut self, _length: usize, _listener: &Listener) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stdout = rustix::stdio::stdout();
        loop {
            match rustix::io::write(stdout, bytes) {
                // Whoever shares the terminal or pipe may have made it non-blocking.
                Err(rustix::io::Errno::AGAIN) => {
                    let mut waiting = [PollFd::from_borrowed_fd(stdout, PollFlags::OUT)];
                    let time = rustix::event::Timespec::try_from(POLL).ok();
                    match rustix::event::poll(&mut waiting, time.as_ref()) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                written => return Ok(written?),
            }
        }
    }

    fn take_back(&mut self, _written: usize) {}

    fn is_final(&self, error: &io::Error) -> bool {
        let number = error
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error);
        matches!(
            number,
            // The reader has gone; never opened, or not for writing; the terminal hung up.
            Some(rustix::io::Errno::PIPE | rustix::io::Errno::BADF | rustix::io::Errno::IO)
        )
    }
}

/// Whether standard output is a terminal.
pub fn is_terminal() -> bool {
    rustix::termios::isatty(rustix::stdio::stdout())
}

/// Columns of the terminal at this moment; none where there is none, or it does not know.
pub fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}
