//! Standard output: a terminal, a pipe or a file that the shell opened. Refuses to buffer: a line that was counted as
//! delivered has left the process.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use crate::confine::Confinement;
use crate::format::pretty::{Look, color_wanted, utf8_wanted};
use crate::sink::{Listener, SinkHandle, Target};

/// How long a descriptor that does not block is waited for at a time.
const POLL: Duration = Duration::from_millis(100);

struct Descriptor(OwnedFd);

/// Starts the sink; its queue takes so many bytes.
///
/// # Errors
/// When standard output was closed before the start, or the thread cannot be started.
pub fn spawn(
    capacity_bytes: usize,
    listener: Listener,
    confinement: &Confinement,
) -> io::Result<SinkHandle> {
    let descriptor = rustix::stdio::stdout().try_clone_to_owned()?;
    SinkHandle::spawn(
        "sink-stdout",
        Descriptor(descriptor),
        capacity_bytes,
        listener,
        confinement,
    )
}

impl Target for Descriptor {
    fn begin(&mut self, _length: usize, _listener: &Listener) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.0, bytes) {
                // Whoever shares the terminal or pipe may have made it non-blocking.
                Err(rustix::io::Errno::AGAIN) => {
                    let mut waiting = [PollFd::new(&self.0, PollFlags::OUT)];
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

/// Whether the terminal that TERM names is good for more than text.
pub fn capable() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// How the live view looks by the environment: with colours on a terminal that has them, unless NO_COLOR says otherwise; in ASCII
/// where the locale is not one of UTF-8.
pub fn look(terminal: bool) -> Look {
    let variable = |name: &str| std::env::var_os(name);
    Look {
        color: terminal && capable() && color_wanted(variable("NO_COLOR").as_deref()),
        ascii: !utf8_wanted(variable),
        tree: true,
        wide: false,
        width: None,
        height: None,
    }
}

/// Columns and rows of the terminal at this moment; none where there is none, or it does not know.
pub fn size() -> (Option<usize>, Option<usize>) {
    let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdout()) else {
        return (None, None);
    };
    let known = |count: u16| Some(usize::from(count)).filter(|count| *count > 0);
    (known(size.ws_col), known(size.ws_row))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, pipe};
    use std::sync::mpsc;

    use sensor_proto::v1::EventType;

    use super::*;
    use crate::sink::{Batch, Notice, OUTPUT_CLOSED, total};

    fn batch(line: &str) -> Batch {
        let mut batch = Batch {
            lines: line.as_bytes().to_vec(),
            ..Batch::default()
        };
        batch.count(EventType::Exec);
        batch
    }

    fn sink(descriptor: OwnedFd) -> (SinkHandle, mpsc::Receiver<Notice>) {
        let (tell, notices) = mpsc::channel();
        let listener: Listener = Box::new(move |notice| drop(tell.send(notice)));
        let sink = SinkHandle::spawn(
            "test",
            Descriptor(descriptor),
            1 << 20,
            listener,
            &Confinement::default(),
        )
        .unwrap();
        (sink, notices)
    }

    #[test]
    fn a_reader_that_has_gone_closes_the_sink() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let (sink, notices) = sink(writer.into());
        sink.send(batch("line\n"));
        let Notice::Closed(error) = notices.recv().unwrap() else {
            panic!("not told")
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let account = total(sink.close_and_join(Duration::from_secs(20)).values());
        assert_eq!((account.acked, account.lost[OUTPUT_CLOSED]), (0, 1));
    }

    /// A descriptor that does not block, and a reader slower than the writer: nothing is lost, torn or told.
    #[test]
    fn a_descriptor_that_does_not_block_is_waited_for() {
        let (mut reader, writer) = pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let (sink, notices) = sink(writer.into());
        let long = "x".repeat(300_000) + "\n";
        sink.send(batch(&long));
        sink.send(batch("short\n"));
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        let account = total(sink.close_and_join(Duration::from_secs(20)).values());
        assert_eq!(account.acked, 2);
        assert_eq!(reading.join().unwrap(), long + "short\n");
        notices.try_recv().unwrap_err();
    }

    #[test]
    fn a_full_device_is_tried_again() {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let (sink, notices) = sink(full.into());
        sink.send(batch("line\n"));
        let Notice::Failing(error) = notices.recv().unwrap() else {
            panic!("not told")
        };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let account = total(sink.close_and_join(Duration::from_millis(100)).values());
        assert_eq!((account.sealed, account.acked), (1, 0));
    }
}
