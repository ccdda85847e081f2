//! The way through an HTTP proxy: CONNECT, with Basic credentials from a file. The target's name is handed to the proxy and not looked up here.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{FileError, read_secret};
use crate::config::HostPort;

/// Longest answer of a proxy, headers and all.
const MAX_ANSWER_BYTES: usize = 8 << 10;

/// Why the proxy does not connect. Never holds credentials nor what the proxy wrote beyond its status.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The credentials cannot be used.
    #[error("proxy credentials")]
    Credentials(#[source] FileError),
    /// The proxy closed or failed.
    #[error("the proxy does not answer")]
    Io(#[source] io::Error),
    /// Not HTTP, or an endless head.
    #[error("the proxy's answer is no HTTP")]
    NotHttp,
    /// The proxy wants credentials, or others.
    #[error("the proxy refuses the credentials (status 407)")]
    Unauthorised,
    /// The proxy does not connect there.
    #[error("the proxy does not connect to the receiver (status {0})")]
    Refused(u16),
}

/// Asks the proxy at the other end for the target; the stream is the target's from then on.
pub async fn tunnel(
    mut stream: TcpStream,
    target: &HostPort,
    credentials: Option<&Path>,
) -> Result<TcpStream, ProxyError> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(path) = credentials {
        let bytes = read_secret(path, "proxy_credentials_file").map_err(ProxyError::Credentials)?;
        let credentials = bytes.trim_ascii();
        if !credentials.contains(&b':') || credentials.iter().any(u8::is_ascii_control) {
            return Err(ProxyError::Credentials(FileError::Content {
                what: "proxy_credentials_file",
                why: "it is not user:password on one line",
            }));
        }
        request.push_str("Proxy-Authorization: Basic ");
        request.push_str(&STANDARD.encode(credentials));
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(ProxyError::Io)?;
    let mut answer = Vec::new();
    // Byte by byte up to the empty line: what follows belongs to the target.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= MAX_ANSWER_BYTES {
            return Err(ProxyError::NotHttp);
        }
        answer.push(stream.read_u8().await.map_err(ProxyError::Io)?);
    }
    match status(&answer).ok_or(ProxyError::NotHttp)? {
        200..=299 => Ok(stream),
        407 => Err(ProxyError::Unauthorised),
        status => Err(ProxyError::Refused(status)),
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
