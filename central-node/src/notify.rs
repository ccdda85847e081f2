//! What the service manager is told: `sd_notify(3)`, a datagram to the unix socket that the environment names. Refuses to fail:
//! without such a socket it does nothing, and one that cannot be reached costs the notice, not the node.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where to write; set by the service manager.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Deliveries are taken from now on, at this address.
pub(crate) fn ready(address: &std::net::SocketAddr) {
    tell(&format!("READY=1\nSTATUS=listening on {address}"));
}

/// The node ends.
pub(crate) fn stopping() {
    tell("STOPPING=1\nSTATUS=storing what was taken");
}

fn tell(message: &str) {
    let Some(name) = std::env::var_os(SOCKET).filter(|name| !name.is_empty()) else {
        return;
    };
    if let Err(error) = send(&name, message) {
        tracing::warn!(%error, "the service manager is not told");
    }
}

/// An abstract name begins with `@`.
fn send(name: &OsStr, message: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A service manager that does not read is not waited for.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("central-node-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(abstract_name.as_bytes()).unwrap();
        for (socket, name) in [
            (
                UnixDatagram::bind(&path).unwrap(),
                path.clone().into_os_string(),
            ),
            (
                UnixDatagram::bind_addr(&address).unwrap(),
                format!("@{abstract_name}").into(),
            ),
        ] {
            send(&name, "READY=1").unwrap();
            let mut bytes = [0; 32];
            let length = socket.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"READY=1");
        }
        send(OsStr::new("/nowhere/at/all"), "READY=1").unwrap_err();
    }
}
