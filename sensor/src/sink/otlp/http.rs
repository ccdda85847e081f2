//! One HTTP connection to a receiver: HTTP/2 where TLS agrees on it or gRPC needs it, else HTTP/1.1, over which requests go one
//! after another. Answers are small; longer ones, and long headers, are refused unread.
//!
//! It never pings: servers of gRPC end connections that are pinged more often than they like (every five minutes, by
//! default), and a receiver that has died is found by the worker, which waits for acknowledgements.

use std::error::Error as _;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::config::{OtlpConfig, OtlpProtocol};
use crate::sink::connect::{self, ConnectError, Names};
use crate::sink::delivery::{Fault, PROTOCOL};

/// A response message or an error's text; longer answers are refused.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// Headers of an answer, and what is read ahead of it.
const MAX_HEADER_BYTES: usize = 16 << 10;
/// Bytes of answers that may come before they are read.
const RECEIVE_WINDOW: u32 = 64 << 10;

/// What a request was answered with.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What came after the body; gRPC has its verdict there.
    pub(super) trailers: HeaderMap,
}

#[derive(Clone, Debug)]
enum Sender {
    Http1(Arc<Mutex<http1::SendRequest<Full<Bytes>>>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// An open connection, with all that its requests have in common.
#[derive(Clone, Debug)]
pub(super) struct Link {
    sender: Sender,
    uri: Uri,
    headers: HeaderMap,
}

impl Link {
    /// Connects. `drivers` move its bytes as long as they are kept.
    pub(super) async fn open(
        config: &OtlpConfig,
        headers: HeaderMap,
        names: &Names,
        drivers: &mut JoinSet<()>,
    ) -> Result<Self, Fault> {
        let refused = |error: ConnectError| Fault::of(error.word(), &error);
        let address = &config.address;
        let stream = connect::tcp(address, config.proxy.as_ref(), names)
            .await
            .map_err(refused)?;
        let grpc = config.protocol == OtlpProtocol::Grpc;
        let (scheme, sender) = match &config.tls {
            None => ("http", handshake(stream, grpc, drivers).await?),
            Some(tls) => {
                let offered: &[&[u8]] = if grpc {
                    &[b"h2"]
                } else {
                    &[b"h2", b"http/1.1"]
                };
                let stream = connect::tls::connect(stream, tls, offered)
                    .await
                    .map_err(|error| refused(error.into()))?;
                let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                ("https", handshake(stream, agreed, drivers).await?)
            }
        };
        // HTTP/1.1 names the path only, and the host in a header.
        let (uri, mut headers) = (format!("{scheme}://{address}{}", config.path), headers);
        let uri = match &sender {
            Sender::Http1(_) => {
                let host = HeaderValue::from_str(&address.to_string());
                headers.insert(
                    header::HOST,
                    host.map_err(|error| Fault::of("name", &error))?,
                );
                config.path.parse::<Uri>()
            }
            Sender::Http2(_) => uri.parse(),
        };
        Ok(Self {
            sender,
            uri: uri.map_err(|error| Fault::of("name", &error))?,
            headers,
        })
    }

    /// Whether requests can still be sent; the other side may end a connection that does nothing.
    pub(super) fn is_open(&self) -> bool {
        match &self.sender {
            // Who holds the lock is sending.
            Sender::Http1(sender) => sender.try_lock().is_ok_and(|sender| !sender.is_closed()),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Requests at once.
    pub(super) const fn at_once(&self, wanted: usize) -> usize {
        match self.sender {
            Sender::Http1(_) => 1,
            Sender::Http2(_) => wanted,
        }
    }

    /// Sends a request and reads its answer.
    pub(super) async fn post(self, body: Bytes) -> Result<Answer, Fault> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        let closed = |error: hyper::Error| fault(&error);
        let response = match self.sender {
            Sender::Http1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await.map_err(closed)?;
                let response = sender.send_request(request).await.map_err(closed)?;
                // The connection is free for the next request when this body is read.
                return answer(response).await;
            }
            Sender::Http2(mut sender) => {
                sender.ready().await.map_err(closed)?;
                sender.send_request(request).await.map_err(closed)?
            }
        };
        answer(response).await
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http2: bool,
    drivers: &mut JoinSet<()>,
) -> Result<Sender, Fault> {
    let stream = TokioIo::new(stream);
    // What ends the connection is told to the requests on it.
    if http2 {
        let (sender, driver) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(RECEIVE_WINDOW)
            .initial_connection_window_size(RECEIVE_WINDOW)
            .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
            .handshake(stream)
            .await
            .map_err(|error| fault(&error))?;
        drivers.spawn(async move { drop(driver.await) });
        Ok(Sender::Http2(sender))
    } else {
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(MAX_HEADER_BYTES)
            .handshake(stream)
            .await
            .map_err(|error| fault(&error))?;
        drivers.spawn(async move { drop(driver.await) });
        Ok(Sender::Http1(Arc::new(Mutex::new(sender))))
    }
}

async fn answer(response: hyper::Response<Incoming>) -> Result<Answer, Fault> {
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = incoming.frame().await {
        match frame.map_err(|error| fault(&error))?.into_data() {
            Ok(data) => {
                if body.len().saturating_add(data.len()) > MAX_ANSWER_BYTES {
                    return Err(Fault::protocol(format!(
                        "an answer of over {MAX_ANSWER_BYTES} bytes"
                    )));
                }
                body.extend_from_slice(&data);
            }
            Err(frame) => {
                if let Ok(found) = frame.into_trailers() {
                    trailers = found;
                }
            }
        }
    }
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.into(),
        trailers,
    })
}

/// What cannot be parsed is no HTTP; the rest are connections that end.
fn fault(error: &hyper::Error) -> Fault {
    let http2 = error.source().and_then(|cause| cause.downcast_ref());
    // Found by our side, not told by the other.
    let broken = error.is_parse() || http2.is_some_and(h2::Error::is_library);
    Fault::of(if broken { PROTOCOL } else { "closed" }, error)
}
