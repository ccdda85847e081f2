//! Standard error, for lines of the log: while the view has the terminal and standard error is one, they are shown above its
//! bottom line instead of in the middle of it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Front, LOG_BYTES};

/// The view that has the terminal. One for the process, as standard error is.
static SHOWN: Mutex<Option<Arc<Front>>> = Mutex::new(None);

fn shown() -> MutexGuard<'static, Option<Arc<Front>>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn open(front: &Arc<Front>) {
    if rustix::termios::isatty(rustix::stdio::stderr()) {
        *shown() = Some(Arc::clone(front));
    }
}

pub(super) fn close() {
    drop(shown().take());
}

/// Writes to standard error, or above the bottom line of the view.
#[derive(Clone, Copy, Debug, Default)]
pub struct Console;

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let front = shown().clone();
        let Some(front) = front else {
            return io::stderr().write(bytes);
        };
        let mut asked = front.lock();
        if asked.hidden {
            drop(asked);
            return io::stderr().write(bytes);
        }
        if asked.log.len().saturating_add(bytes.len()) <= LOG_BYTES {
            asked.log.extend_from_slice(bytes);
        } else {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            asked.log_left_out = asked.log_left_out.saturating_add(length);
        }
        drop(asked);
        front.ring();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
