//! The lines and messages of the NATS protocol that a publisher needs. Everything that a server says has a limit: a line or
//! a message that is longer is refused unread, whatever length it announces.

use std::io;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest line; the `INFO` of a large cluster names all its members.
const MAX_LINE: usize = 64 << 10;
/// Longest message: acknowledgements and answers about a stream.
const MAX_MESSAGE: usize = 64 << 10;
/// Bytes that are read at once, about.
const READ: usize = 4 << 10;
/// Bytes of the buffers that are kept when they are empty.
const KEPT: usize = 64 << 10;

/// Why the server is not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection ended.
    #[error("the server closed the connection")]
    Closed,
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// It is not what the protocol allows here.
    #[error("{0}")]
    Protocol(&'static str),
}

/// What the server tells of itself; the rest of it is not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Info {
    /// Longest message with its headers, bytes.
    #[serde(default)]
    pub(super) max_payload: Option<u64>,
    /// It speaks TLS only.
    #[serde(default)]
    pub(super) tls_required: bool,
    /// It speaks TLS if asked to.
    #[serde(default)]
    pub(super) tls_available: bool,
    /// Messages can have headers.
    #[serde(default)]
    pub(super) headers: bool,
    /// What is to be signed.
    #[serde(default)]
    pub(super) nonce: String,
    /// It is about to stop.
    #[serde(default)]
    pub(super) ldm: bool,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Info(Info),
    Ping,
    Pong,
    Ok,
    /// `-ERR`, without its quotation marks.
    Error(String),
    Message {
        subject: String,
        /// Status line of the headers, as a number.
        status: Option<u16>,
        payload: Vec<u8>,
    },
}

/// What comes in.
#[derive(Debug)]
pub(super) struct Framer<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Up to here it is read.
    at: usize,
}

impl<R: AsyncRead + Unpin> Framer<R> {
    pub(super) const fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            at: 0,
        }
    }

    /// The reader, for TLS. What came already was not encrypted and would be taken for what is.
    pub(super) fn into_inner(self) -> Result<R, WireError> {
        if self.at < self.buffer.len() {
            return Err(WireError::Protocol("plain text before the handshake"));
        }
        Ok(self.reader)
    }

    /// The next frame; may be dropped while it waits.
    pub(super) async fn next(&mut self) -> Result<Frame, WireError> {
        loop {
            let unread = self.buffer.get(self.at..).unwrap_or_default();
            if let Some((frame, length)) = parse(unread)? {
                self.at += length;
                return Ok(frame);
            }
            // What is left is the beginning of one frame, which has a limit.
            self.buffer.drain(..self.at);
            self.at = 0;
            if self.buffer.is_empty() {
                self.buffer.shrink_to(KEPT);
            }
            self.buffer.reserve(READ);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Err(WireError::Closed);
            }
        }
    }
}

/// The first frame and its length; none: it is not complete.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Frame, usize)>, WireError> {
    let end = bytes
        .windows(2)
        .take(MAX_LINE)
        .position(|two| two == b"\r\n");
    let Some(end) = end else {
        if bytes.len() > MAX_LINE {
            return Err(WireError::Protocol("a line without end"));
        }
        return Ok(None);
    };
    let line = bytes.get(..end).unwrap_or_default();
    let line = std::str::from_utf8(line)
        .map_err(|_not_text| WireError::Protocol("a line that is no text"))?;
    let (word, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let length = end + 2;
    let frame = match word.to_ascii_uppercase().as_str() {
        "INFO" => Frame::Info(
            serde_json::from_str(rest)
                .map_err(|_quoted| WireError::Protocol("an INFO that makes no sense"))?,
        ),
        "PING" => Frame::Ping,
        "PONG" => Frame::Pong,
        "+OK" => Frame::Ok,
        "-ERR" => Frame::Error(rest.trim().trim_matches('\'').to_owned()),
        "MSG" => return message(bytes, rest, length, false),
        "HMSG" => return message(bytes, rest, length, true),
        _ => {
            return Err(WireError::Protocol(
                "a word that the protocol does not have",
            ));
        }
    };
    Ok(Some((frame, length)))
}

/// `<subject> <sid> [reply] [<header bytes>] <total bytes>`
fn message(
    bytes: &[u8],
    rest: &str,
    begin: usize,
    headers: bool,
) -> Result<Option<(Frame, usize)>, WireError> {
    let wrong = WireError::Protocol("a message whose line makes no sense");
    let mut words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let mut number = || words.pop().and_then(|word| word.parse::<usize>().ok());
    let Some(total) = number() else {
        return Err(wrong);
    };
    let head = if headers { number() } else { Some(0) };
    let (Some(head), Some(subject), 2..=3) = (head, words.first(), words.len()) else {
        return Err(wrong);
    };
    if head > total {
        return Err(wrong);
    }
    if total > MAX_MESSAGE {
        return Err(WireError::Protocol(
            "a message that is too long for an answer",
        ));
    }
    let Some(body) = bytes.get(begin..begin + total + 2) else {
        return Ok(None);
    };
    let (header, payload) = body.split_at(head);
    let Some(payload) = payload.strip_suffix(b"\r\n") else {
        return Err(WireError::Protocol(
            "a message that does not end where it should",
        ));
    };
    let frame = Frame::Message {
        subject: (*subject).to_owned(),
        status: status(header),
        payload: payload.to_vec(),
    };
    Ok(Some((frame, begin + total + 2)))
}

/// `NATS/1.0 503`
fn status(header: &[u8]) -> Option<u16> {
    let line = header.strip_prefix(b"NATS/1.0")?.trim_ascii_start();
    std::str::from_utf8(line.get(..3)?).ok()?.parse().ok()
}

/// What goes out.
#[derive(Debug)]
pub(super) struct Output<W> {
    writer: W,
    buffer: Vec<u8>,
    /// Up to here it is written.
    at: usize,
    /// Written and not flushed.
    held: bool,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    pub(super) const fn new(writer: W) -> Self {
        Self {
            writer,
            buffer: Vec::new(),
            at: 0,
            held: false,
        }
    }

    /// Bytes that wait.
    pub(super) const fn waiting(&self) -> usize {
        self.buffer.len() - self.at
    }

    /// There is something to do for [`Output::drain`].
    pub(super) const fn is_busy(&self) -> bool {
        self.waiting() > 0 || self.held
    }

    /// Appends; [`Output::drain`] writes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Appends a message with headers, which are whole lines; the answer comes to `reply`.
    pub(super) fn publish(&mut self, subject: &str, reply: &str, headers: &str, payload: &[u8]) {
        let head = format!("NATS/1.0\r\n{headers}\r\n");
        let total = head.len() + payload.len();
        self.push(format!("HPUB {subject} {reply} {} {total}\r\n{head}", head.len()).as_bytes());
        self.push(payload);
        self.push(b"\r\n");
    }

    /// Writes all that waits; may be dropped while it waits.
    pub(super) async fn drain(&mut self) -> io::Result<()> {
        while let Some(rest) = self.buffer.get(self.at..).filter(|rest| !rest.is_empty()) {
            let written = self.writer.write(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.at += written;
            self.held = true;
        }
        self.buffer.clear();
        self.buffer.shrink_to(KEPT);
        self.at = 0;
        self.writer.flush().await?;
        self.held = false;
        Ok(())
    }
}
