//! A connection to a receiver: name, address, proxy, TLS. Refuses the system's resolver (NSS), the system's authorities, the
//! environment's proxies, and every server that neither an authority nor a pin vouches for.
//!
//! All of it together has one time limit. What goes wrong has a short word for the status ([`ConnectError::word`]) and a text
//! without secrets.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::config::HostPort;
use crate::procfs::{ProcError, open_file};

pub mod name;
pub mod proxy;
pub mod tls;

pub use name::{NameError, Names};
pub use proxy::ProxyError;
pub use tls::TlsError;

use crate::config::ProxyConfig;

/// While one address does not answer, the next is tried beside it after this time (RFC 8305 says 250 ms).
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;
/// Certificates, keys and credentials beyond this are not read.
const MAX_FILE_BYTES: usize = 1 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("name {host} not resolved")]
    Name {
        /// The name.
        host: String,
        /// Why.
        source: NameError,
    },
    /// No address answered.
    #[error("{address} not reached")]
    Unreachable {
        /// Where to.
        address: HostPort,
        /// What the last attempt said.
        source: io::Error,
    },
    /// It took too long.
    #[error("no connection within {0:?}")]
    TimedOut(Duration),
    /// The proxy does not connect.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The other side's certificate, our own, or the handshake.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl ConnectError {
    /// A word for the status: which part it was.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Name { .. } => "name",
            Self::Unreachable { .. } => "unreachable",
            Self::TimedOut(_) => "timeout",
            Self::Proxy(_) => "proxy",
            Self::Tls(error) => error.word(),
        }
    }
}

/// Why a file with a secret or a certificate is not used. Never holds its content.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error(transparent)]
    Unreadable(#[from] ProcError),
    /// Group or others may read it.
    #[error("{what}: group or others may read it (mode {mode:o}); make it 0600")]
    Open {
        /// Which.
        what: &'static str,
        /// Its permissions.
        mode: u32,
    },
    /// Somebody else owns it, who may read and change it.
    #[error("{what}: it belongs to user {owner}, neither root nor the sensor's")]
    Owner {
        /// Which.
        what: &'static str,
        /// Who.
        owner: u32,
    },
    /// It holds nothing of the kind.
    #[error("{what}: {why}")]
    Content {
        /// Which.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
}

/// A small file for everybody to read.
fn read_public(path: &Path, what: &'static str) -> Result<Vec<u8>, FileError> {
    Ok(open_file(path, what)?.read(MAX_FILE_BYTES)?)
}

/// Without the privilege to read others' files, the usual reason for a refusal is whose it is.
fn foreign(path: &Path, what: &'static str, error: ProcError) -> FileError {
    let owner = std::fs::metadata(path).map(|meta| meta.uid());
    match (error, owner) {
        (ProcError::NotPermitted { .. }, Ok(owner))
            if owner != 0 && owner != geteuid().as_raw() =>
        {
            FileError::Owner { what, owner }
        }
        (error, _) => FileError::Unreadable(error),
    }
}

/// A file that only its owner may read.
pub(super) fn read_secret(path: &Path, what: &'static str) -> Result<Vec<u8>, FileError> {
    let file = open_file(path, what).map_err(|error| foreign(path, what, error))?;
    let mode = file.stat.st_mode & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::Open { what, mode });
    }
    let owner = file.stat.st_uid;
    if owner != 0 && owner != geteuid().as_raw() {
        return Err(FileError::Owner { what, owner });
    }
    Ok(file.read(MAX_FILE_BYTES)?)
}

/// A TCP connection to the target, through the proxy if there is one. The caller limits the time.
pub async fn tcp(
    target: &HostPort,
    proxy: Option<&ProxyConfig>,
    names: &Names,
) -> Result<TcpStream, ConnectError> {
    match proxy {
        None => direct(target, names).await,
        Some(config) => {
            let stream = direct(&config.address, names).await?;
            Ok(proxy::tunnel(stream, target, config.credentials_file.as_deref()).await?)
        }
    }
}

async fn direct(target: &HostPort, names: &Names) -> Result<TcpStream, ConnectError> {
    let addresses = names
        .addresses(&target.host)
        .await
        .map_err(|source| ConnectError::Name {
            host: target.host.clone(),
            source,
        })?;
    let stream = first(interleaved(addresses), target.port)
        .await
        .map_err(|source| ConnectError::Unreachable {
            address: target.clone(),
            source,
        })?;
    stream
        .set_nodelay(true)
        .map_err(|source| ConnectError::Unreachable {
            address: target.clone(),
            source,
        })?;
    Ok(stream)
}

/// Families in turn, beginning with that of the first address.
fn interleaved(addresses: Vec<IpAddr>) -> VecDeque<IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == first_is_v4);
    let mut mixed = VecDeque::new();
    while let Some(address) = one.pop_front() {
        mixed.push_back(address);
        mixed.extend(other.pop_front());
    }
    mixed.extend(other);
    mixed.truncate(MAX_ADDRESSES);
    mixed
}

/// The first address that answers; each next one begins when the one before failed or had its head start.
async fn first(mut addresses: VecDeque<IpAddr>, port: u16) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(address) = addresses.pop_front() {
            attempts.spawn(TcpStream::connect(SocketAddr::new(address, port)));
        }
        let head_start = async {
            if addresses.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(HEAD_START).await;
        };
        tokio::select! {
            ended = attempts.join_next() => match ended {
                // The set stops the others when it is dropped.
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => last = error,
                Some(Err(error)) => last = io::Error::other(error),
                None if addresses.is_empty() => return Err(last),
                None => {}
            },
            () = head_start => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn families_take_turns() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mixed = interleaved(vec![
            ip("::1"),
            ip("::2"),
            ip("10.0.0.1"),
            ip("::3"),
            ip("10.0.0.2"),
        ]);
        assert_eq!(
            mixed,
            [
                ip("::1"),
                ip("10.0.0.1"),
                ip("::2"),
                ip("10.0.0.2"),
                ip("::3")
            ]
        );
    }

    #[tokio::test]
    async fn an_address_that_refuses_gives_way_to_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let addresses = ["127.0.0.2", "127.0.0.1"].map(|text| text.parse().unwrap());
        let stream = first(addresses.into(), port).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap().ip().to_string(), "127.0.0.1");
        drop(listener);
        let error = first(addresses.into(), port).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        first(VecDeque::new(), port).await.unwrap_err();
    }

    #[test]
    fn secrets_are_for_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "secret word").unwrap();
        if geteuid().is_root() {
            let foreign = folder.path().join("foreign");
            std::fs::write(&foreign, "secret word").unwrap();
            std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&foreign, Some(1_000), None).unwrap();
            let error = read_secret(&foreign, "key_file").unwrap_err();
            assert_eq!(
                error.to_string(),
                "key_file: it belongs to user 1000, neither root nor the sensor's"
            );
        }
        for (mode, may) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            match read_secret(&path, "key_file") {
                Ok(bytes) => assert!(may && bytes == b"secret word", "{mode:o}"),
                Err(error) => {
                    assert!(!may, "{mode:o}");
                    let text = format!("{error} {error:?}");
                    assert!(
                        text.contains("key_file") && !text.contains("secret word"),
                        "{text}"
                    );
                }
            }
        }
    }
}
