//! What the service manager is told, and when it wants to hear from us again: `sd_notify(3)`, a datagram to the unix socket that
//! the environment names. Refuses to decide when the sensor is ready or alive; without such a socket it does nothing.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::Duration;

/// Where to write; set by the service manager.
const SOCKET: &str = "NOTIFY_SOCKET";
/// Microseconds after which the service manager takes silence for a hang.
const WATCHDOG: &str = "WATCHDOG_USEC";
/// The process that this is meant for.
const WATCHDOG_PID: &str = "WATCHDOG_PID";
/// A service manager that does not read is not waited for longer: the datagram is given up, and told.
const PATIENCE: Duration = Duration::from_secs(1);
/// Signs of life within the time that the service manager waits: three may be late.
const SIGNS_PER_WAIT: u32 = 4;
/// How often the status is brought up to date where no sign of life is asked for.
const STATUS_EVERY: Duration = Duration::from_secs(30);
/// No more often than this, whatever the service manager asks for.
const SHORTEST: Duration = Duration::from_millis(500);

/// Why the service manager cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// Neither a path nor an abstract name.
    #[error("NOTIFY_SOCKET names no unix socket: {0:?}")]
    Address(PathBuf),
    /// The socket cannot be reached.
    #[error("the service manager's socket cannot be reached")]
    Socket(#[source] io::Error),
}

/// What the environment says about a service manager.
#[derive(Clone, Copy, Debug, Default)]
pub struct Environment<'e> {
    /// `NOTIFY_SOCKET`.
    pub socket: Option<&'e OsStr>,
    /// `WATCHDOG_USEC`.
    pub watchdog_usec: Option<&'e OsStr>,
    /// `WATCHDOG_PID`.
    pub watchdog_pid: Option<&'e OsStr>,
}

/// The way to the service manager; without one, every call does nothing.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    every: Option<Duration>,
}

impl Notifier {
    /// As this process's environment says. What is wrong with it is logged and costs the notices, not the events.
    #[must_use]
    pub fn from_environment() -> Self {
        let (socket, usec, pid) = (
            env::var_os(SOCKET),
            env::var_os(WATCHDOG),
            env::var_os(WATCHDOG_PID),
        );
        let environment = Environment {
            socket: socket.as_deref(),
            watchdog_usec: usec.as_deref(),
            watchdog_pid: pid.as_deref(),
        };
        Self::new(environment).unwrap_or_else(|error| {
            tracing::error!(%error, source = error_source(&error), "the service manager is not told");
            Self {
                socket: None,
                every: None,
            }
        })
    }

    /// As `environment` says.
    ///
    /// # Errors
    /// [`NotifyError`]: there is a socket and it cannot be used.
    pub fn new(environment: Environment<'_>) -> Result<Self, NotifyError> {
        let Some(name) = environment.socket.filter(|name| !name.is_empty()) else {
            return Ok(Self {
                socket: None,
                every: None,
            });
        };
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
            [b'/', ..] => SocketAddr::from_pathname(name),
            _ => return Err(NotifyError::Address(name.into())),
        };
        let connect = || {
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address?)?;
            socket.set_write_timeout(Some(PATIENCE))?;
            Ok(socket)
        };
        let wait = watchdog(environment);
        Ok(Self {
            socket: Some(connect().map_err(NotifyError::Socket)?),
            every: Some(wait.map_or(STATUS_EVERY, |wait| (wait / SIGNS_PER_WAIT).max(SHORTEST))),
        })
    }

    /// How often [`Notifier::alive`] is due; `None`: nobody listens.
    #[must_use]
    pub const fn every(&self) -> Option<Duration> {
        self.every
    }

    /// What goes on before the sensor is ready.
    pub fn starting(&self, status: &str) {
        self.tell(&[], status);
    }

    /// All that was asked for works, after a start or a reload.
    pub fn ready(&self, status: &str) {
        self.tell(&["READY=1"], status);
    }

    /// The configuration is read again; [`Notifier::ready`] follows. `monotonic_us` is now, by CLOCK_MONOTONIC.
    pub fn reloading(&self, monotonic_us: u64) {
        let now = format!("MONOTONIC_USEC={monotonic_us}");
        self.tell(&["RELOADING=1", &now], "reading the filter rules again");
    }

    /// A sign of life: whoever sends it has just had an answer from everything that must not hang.
    pub fn alive(&self, status: &str) {
        self.tell(&["WATCHDOG=1"], status);
    }

    /// The sensor ends.
    pub fn stopping(&self, status: &str) {
        self.tell(&["STOPPING=1"], status);
    }

    fn tell(&self, assignments: &[&str], status: &str) {
        let Some(socket) = &self.socket else {
            return;
        };
        let mut message = assignments.join("\n");
        if !message.is_empty() {
            message.push('\n');
        }
        message.push_str("STATUS=");
        // A new line would begin another assignment.
        message.push_str(&status.replace('\n', " "));
        if let Err(error) = socket.send(message.as_bytes()) {
            tracing::warn!(%error, "the service manager does not take a notice");
        }
    }
}

fn error_source(error: &NotifyError) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}

/// How long the service manager waits for a sign of life, if it does and means this process.
fn watchdog(environment: Environment<'_>) -> Option<Duration> {
    let number = |text: &OsStr| text.to_str()?.parse::<u64>().ok();
    if let Some(pid) = environment.watchdog_pid
        && number(pid) != Some(u64::from(std::process::id()))
    {
        return None;
    }
    let micros = number(environment.watchdog_usec?)?;
    (micros > 0).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(socket: &OsStr) -> Environment<'_> {
        Environment {
            socket: Some(socket),
            ..Environment::default()
        }
    }

    fn received(server: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = server.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn check(server: &UnixDatagram, name: &OsStr) {
        let notifier = Notifier::new(environment(name)).unwrap();
        notifier.starting("attaching");
        notifier.ready("watching");
        notifier.reloading(17);
        notifier.alive("1 event\n2 lost");
        notifier.stopping("bye");
        for expected in [
            "STATUS=attaching",
            "READY=1\nSTATUS=watching",
            "RELOADING=1\nMONOTONIC_USEC=17\nSTATUS=reading the filter rules again",
            "WATCHDOG=1\nSTATUS=1 event 2 lost",
            "STOPPING=1\nSTATUS=bye",
        ] {
            assert_eq!(received(server), expected);
        }
    }

    #[test]
    fn a_socket_with_a_path_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let server = UnixDatagram::bind(&path).unwrap();
        check(&server, path.as_os_str());
    }

    #[test]
    fn a_socket_with_an_abstract_name_is_told() {
        let name = format!("sensor-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let server = UnixDatagram::bind_addr(&address).unwrap();
        check(&server, OsStr::new(&format!("@{name}")));
    }

    #[test]
    fn signs_of_life_are_due_as_the_service_manager_asks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _server = UnixDatagram::bind(&path).unwrap();
        let own = std::process::id().to_string();
        for (usec, pid, expected) in [
            (None, None, 30_000),
            (Some("60000000"), None, 15_000),
            (Some("60000000"), Some(own.as_str()), 15_000),
            // Meant for another process.
            (Some("60000000"), Some("1"), 30_000),
            (Some("1000"), None, 500),
            (Some("0"), None, 30_000),
            (Some("soon"), None, 30_000),
        ] {
            let notifier = Notifier::new(Environment {
                socket: Some(path.as_os_str()),
                watchdog_usec: usec.map(OsStr::new),
                watchdog_pid: pid.map(OsStr::new),
            })
            .unwrap();
            assert_eq!(
                notifier.every(),
                Some(Duration::from_millis(expected)),
                "{usec:?} {pid:?}"
            );
        }
    }

    #[test]
    fn nobody_there_is_no_fault_and_a_wrong_name_is() {
        let notifier = Notifier::new(Environment::default()).unwrap();
        notifier.ready("watching");
        assert_eq!(notifier.every(), None);
        assert!(matches!(
            Notifier::new(environment(OsStr::new("vsock:2:1234"))),
            Err(NotifyError::Address(_))
        ));
        assert!(matches!(
            Notifier::new(environment(OsStr::new("/nonexistent/notify"))),
            Err(NotifyError::Socket(_))
        ));
    }

    #[test]
    fn a_service_manager_that_went_away_costs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let server = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(environment(path.as_os_str())).unwrap();
        drop(server);
        notifier.alive("watching");
    }
}
