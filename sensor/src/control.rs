//! The control socket: `sensor status` and `sensor reload` speak with the daemon through it. A unix socket that only the
//! daemon's own user may use (0600 in a folder of 0700, and the kernel is asked who is at the other end), one question and one answer
//! per connection, a line of JSON each, both bounded in length and time. Refuses to wait for the pipeline: a question goes to the
//! main thread, and whoever asked too late gets an error.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::confine::{Confinement, Role};

/// Longest question.
const MAX_REQUEST_BYTES: usize = 4 << 10;
/// Longest answer.
const MAX_RESPONSE_BYTES: usize = 4 << 20;
/// Time for a question to arrive, and for an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time that a client waits: the daemon measures rates for a second, and its pipeline may be busy.
const CLIENT_PATIENCE: Duration = Duration::from_secs(20);

/// What can be asked of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How it stands.
    Status,
    /// Read the filter rules again.
    Reload,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// What was asked for.
    Ok(Value),
    /// Why not, for people.
    Error(String),
}

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No daemon listens there.
    #[error("no sensor is running (nobody listens at {0:?})")]
    NotRunning(PathBuf),
    /// The socket is another user's.
    #[error("only the sensor's own user may ask it (socket {0:?})")]
    NotPermitted(PathBuf),
    /// The scope cannot be looked at.
    #[error("scope {path:?}")]
    Scope {
        /// The cgroup.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation failed.
    #[error("the sensor does not answer")]
    Io(#[source] io::Error),
    /// The answer is no answer.
    #[error("the sensor's answer is not understood")]
    Malformed(#[source] serde_json::Error),
}

/// Where the socket of an instance is: that of the whole host, or of a scoped cgroup.
///
/// # Errors
/// stat(2) of the cgroup.
pub fn socket_path(folder: &Path, scope: Option<&Path>) -> Result<PathBuf, ControlError> {
    let name = match scope {
        None => "control.sock".to_owned(),
        Some(path) => {
            let metadata = fs::metadata(path).map_err(|source| ControlError::Scope {
                path: path.to_owned(),
                source,
            })?;
            format!("control-scope-{}.sock", metadata.ino())
        }
    };
    Ok(folder.join(name))
}

/// Answers questions; called from the server's thread.
pub type Answer = Box<dyn Fn(Request) -> Result<Value, String> + Send>;

/// The listening side; the socket goes when it is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at this path. A socket that a killed daemon left is replaced: the caller holds the instance's lock.
    ///
    /// # Errors
    /// bind(2), chmod(2), eventfd(2), or the thread.
    pub fn start(path: &Path, answer: Answer, confinement: &Confinement) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        // The folder is 0700, so nobody else came in between.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::new(EventFd::new()?);
        let (stopped, confined) = (Arc::clone(&stop), confinement.clone());
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                confined.enter(Role::Control);
                serve(&listener, &stopped, &answer);
            })?;
        Ok(Self {
            path: path.to_owned(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A descriptor that cannot be written to leaves the thread to the end of the process.
        let told = self.stop.write(1).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| told)
            && thread.join().is_err()
        {
            tracing::error!("the thread of the control socket panicked");
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the control socket is not removed");
        }
    }
}

fn serve(listener: &UnixListener, stop: &EventFd, answer: &Answer) {
    loop {
        let mut descriptors = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match nix::poll::poll(&mut descriptors, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "the control socket is given up");
                return;
            }
        }
        if descriptors.get(1).and_then(PollFd::any).unwrap_or(false) {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if let Err(error) = converse(stream, answer) {
                    tracing::debug!(%error, "a question at the control socket");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, "the control socket does not accept");
                // Out of descriptors, perhaps: poll would say at once that somebody waits.
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn converse(mut stream: UnixStream, answer: &Answer) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let peer = getsockopt(&stream, PeerCredentials)?;
    if peer.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    let line = read_line(&mut stream, MAX_REQUEST_BYTES, PATIENCE)?;
    let response = match serde_json::from_slice(&line) {
        Ok(request) => match answer(request) {
            Ok(value) => Response::Ok(value),
            Err(why) => Response::Error(why),
        },
        Err(error) => Response::Error(format!("the question is not understood: {error}")),
    };
    let mut text = serde_json::to_vec(&response)?;
    if text.len() > MAX_RESPONSE_BYTES {
        let long = Response::Error(format!("the answer has {} bytes, too many", text.len()));
        text = serde_json::to_vec(&long)?;
    }
    text.push(b'\n');
    // A client that does not read is left after each buffer's time; there are few buffers in an answer.
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&text)
}

/// Reads up to the end of a line, or of the stream.
fn read_line(stream: &mut UnixStream, longest: usize, patience: Duration) -> io::Result<Vec<u8>> {
    let until = Instant::now() + patience;
    let mut line = Vec::new();
    let mut chunk = [0; 16 << 10];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let read = chunk.get(..count).unwrap_or_default();
        let end = read.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(read.get(..end.unwrap_or(count)).unwrap_or_default());
        if line.len() > longest {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        if end.is_some() || count == 0 {
            return Ok(line);
        }
    }
}

/// Asks the daemon that listens at this path.
///
/// # Errors
/// [`ControlError`].
pub fn ask(path: &Path, request: Request) -> Result<Response, ControlError> {
    let mut stream = UnixStream::connect(path).map_err(|error| {
        let kind = error.kind();
        if kind == io::ErrorKind::NotFound || kind == io::ErrorKind::ConnectionRefused {
            ControlError::NotRunning(path.to_owned())
        } else if kind == io::ErrorKind::PermissionDenied {
            ControlError::NotPermitted(path.to_owned())
        } else {
            ControlError::Io(error)
        }
    })?;
    let mut line = serde_json::to_vec(&request).map_err(ControlError::Malformed)?;
    line.push(b'\n');
    stream
        .set_write_timeout(Some(PATIENCE))
        .map_err(ControlError::Io)?;
    stream.write_all(&line).map_err(ControlError::Io)?;
    let answer =
        read_line(&mut stream, MAX_RESPONSE_BYTES, CLIENT_PATIENCE).map_err(ControlError::Io)?;
    serde_json::from_slice(&answer).map_err(ControlError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(folder: &Path) -> (Server, PathBuf) {
        let path = socket_path(folder, None).unwrap();
        let answer = |request| match request {
            Request::Status => Ok(serde_json::json!({"rows": 3})),
            Request::Reload => Err("rule 2 is wrong".to_owned()),
        };
        (
            Server::start(&path, Box::new(answer), &Confinement::default()).unwrap(),
            path,
        )
    }

    #[test]
    fn questions_are_answered() {
        let folder = tempfile::tempdir().unwrap();
        let (server, path) = server(folder.path());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let ok = Response::Ok(serde_json::json!({"rows": 3}));
        assert_eq!(ask(&path, Request::Status).unwrap(), ok);
        let error = Response::Error("rule 2 is wrong".to_owned());
        assert_eq!(ask(&path, Request::Reload).unwrap(), error);
        drop(server);
        let error = ask(&path, Request::Status).unwrap_err();
        assert!(matches!(error, ControlError::NotRunning(_)), "{error}");
    }

    #[test]
    fn what_a_killed_daemon_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = socket_path(folder.path(), None).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        let error = ask(&path, Request::Status).unwrap_err();
        assert!(matches!(error, ControlError::NotRunning(_)), "{error}");
        let (_server, path) = server(folder.path());
        ask(&path, Request::Status).unwrap();
    }

    #[test]
    fn scopes_have_sockets_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |scope| socket_path(folder.path(), scope).unwrap();
        let paths = [path(None), path(Some(one.path())), path(Some(two.path()))];
        assert!(paths[0] != paths[1] && paths[1] != paths[2]);
        socket_path(folder.path(), Some(Path::new("/nonexistent"))).unwrap_err();
    }

    #[test]
    fn bad_questions_hurt_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let (_server, path) = server(folder.path());
        let say = |bytes: &[u8]| {
            let mut stream = UnixStream::connect(&path).unwrap();
            // The other side may have hung up already.
            drop(stream.write_all(bytes));
            drop(stream.shutdown(std::net::Shutdown::Write));
            let mut answer = String::new();
            drop(stream.read_to_string(&mut answer));
            answer
        };
        for bad in [&b"nonsense\n"[..], b"{\"request\":\"halt\"}\n", b"\n", b""] {
            assert!(say(bad).contains("not understood"), "{bad:?}");
        }
        assert_eq!(say(&[b'x'; MAX_REQUEST_BYTES + 1]), "");
        // Somebody who says nothing is left after a while, and others are served.
        let silent = UnixStream::connect(&path).unwrap();
        let ok = Response::Ok(serde_json::json!({"rows": 3}));
        assert_eq!(ask(&path, Request::Status).unwrap(), ok);
        drop(silent);
    }
}
