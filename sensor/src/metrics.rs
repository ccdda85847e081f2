//! What the sensor answers for itself over HTTP: `/metrics` in the text format of Prometheus, `/healthz` and `/readyz` for who
//! restarts it. It listens on loopback or on a unix socket, on a thread of its own; a question goes to the main thread as those of
//! the control socket do, so that it is answered only while main thread and pipeline work.

mod exposition;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, oneshot};

use crate::config::MetricsAddress;
use crate::confine::{Confinement, Role};

/// Connections that are served at the same time; further ones are closed at once.
const MAX_CONNECTIONS: usize = 8;
/// Longest head of a request.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Time for a head to arrive.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// Time for a connection as a whole: the answer is waited for, and must be taken.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time after which an address that could not be had is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// What is told to who was asked for a version of the text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Gives the status of the sensor, as `sensor status --json` has it; called from threads of the server.
pub type Status = Arc<dyn Fn() -> Result<Value, String> + Send + Sync>;

/// The listening side; ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers at this address. One that cannot be had now is told in the log and tried again: the sensor watches all the same.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start(
        address: MetricsAddress,
        status: Status,
        confinement: &Confinement,
    ) -> io::Result<Self> {
        let confined = confinement.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2)
            .thread_name("metrics")
            .on_thread_start({
                let confined = confined.clone();
                move || confined.enter(Role::Metrics)
            })
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || {
                confined.enter(Role::Metrics);
                runtime.block_on(async {
                    tokio::select! {
                        () = serve(&address, status) => {}
                        // The sender may be gone without a word, which means the same.
                        _ = stopped => {}
                    }
                });
                // A question to the main thread may still be open there.
                runtime.shutdown_background();
                if let MetricsAddress::Unix(path) = &address {
                    drop(fs::remove_file(path));
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the metrics panicked");
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn bind(address: &MetricsAddress) -> io::Result<Self> {
        match address {
            MetricsAddress::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            MetricsAddress::Unix(path) => {
                // What a killed sensor left; anything but a socket is somebody else's and stays.
                if fs::symlink_metadata(path).is_ok_and(|old| old.file_type().is_socket()) {
                    fs::remove_file(path)?;
                }
                let listener = UnixListener::bind(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
                Ok(Self::Unix(listener))
            }
        }
    }
}

async fn serve(address: &MetricsAddress, status: Status) {
    let mut told = false;
    let listener = loop {
        match Listener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !told {
                    tracing::error!(%address, %error, "metrics cannot be had there, it is tried again every {RETRY:?}");
                    told = true;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    tracing::info!(%address, "metrics");
    let shared = Arc::new(Shared {
        status,
        refused: AtomicU64::new(0),
    });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let taken = match &listener {
            Listener::Tcp(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| spawn(stream, &places, &shared)),
            Listener::Unix(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| spawn(stream, &places, &shared)),
        };
        if let Err(error) = taken {
            tracing::debug!(%error, "the metrics do not accept");
            // Out of descriptors, perhaps: the next attempt would fail at once.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

struct Shared {
    status: Status,
    /// Connections that found no place.
    refused: AtomicU64,
}

/// Serves one connection, if there is a place.
fn spawn<S>(stream: S, places: &Arc<Semaphore>, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let service = service_fn(|request: Request<Incoming>| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(&request, &shared).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_PATIENCE)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        match tokio::time::timeout(PATIENCE, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection to the metrics"),
            Err(_slow) => tracing::debug!("a connection to the metrics took too long"),
        }
        drop(place);
    });
}

async fn answer(request: &Request<Incoming>, shared: &Arc<Shared>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !["/metrics", "/healthz", "/readyz"].contains(&path) {
        return text(
            StatusCode::NOT_FOUND,
            "/metrics, /healthz and /readyz are here\n",
        );
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        refusal
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    let status = Arc::clone(&shared.status);
    // The main thread is waited for.
    let status = tokio::task::spawn_blocking(move || status())
        .await
        .unwrap_or_else(|error| Err(format!("the question failed: {error}")));
    let status = match status {
        Ok(status) => status,
        Err(why) => return text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")),
    };
    match path {
        "/metrics" => match exposition::of(&status, shared.refused.load(Ordering::Relaxed)) {
            Ok(metrics) => text(StatusCode::OK, &metrics),
            Err(error) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                &format!("the metrics cannot be written: {error}\n"),
            ),
        },
        // Who is asked here has attached its programs.
        _ => text(
            StatusCode::OK,
            &format!(
                "ok: {}\n",
                status
                    .pointer("/hooks")
                    .and_then(Value::as_str)
                    .unwrap_or("-")
            ),
        ),
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}

#[cfg(test)]
mod tests;
