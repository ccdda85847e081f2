//! Connections: TCP, then TLS with a client certificate, then one who is known. All before the first byte of a request is read, and
//! all bounded: handshakes at once, their time, connections, connections of one agent.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use uuid::Uuid;

use crate::agent_id::{self, Peer, PeerError};
use crate::config::{TlsFiles, read_bounded};

/// Handshakes at once: they cost processor time, and who does them is not known yet.
const HANDSHAKES: usize = 64;
/// A handshake takes so long at most.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// After a failure to accept (too many open files), the pause before trying again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Certificates and keys are pages of text; more is a mistake.
const PEM_BYTES_MAX: u64 = 4 << 20;

/// What is wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: cannot read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not have what it should.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Others can read the key.
    #[error("{path}: others can read the key (mode {mode:o}): chmod 600")]
    KeyIsPublic {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Certificate and key, or the authorities, do not work together.
    #[error("certificates do not work together: {0}")]
    Together(String),
}

fn pem(path: &Path) -> Result<Vec<u8>, TlsError> {
    read_bounded(path, PEM_BYTES_MAX).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |problem: String| TlsError::Content {
        path: path.to_owned(),
        problem,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem(path)?).collect();
    let found = found.map_err(|error| content(error.to_string()))?;
    if found.is_empty() {
        return Err(content("no certificate in it".to_owned()));
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    use std::os::unix::fs::PermissionsExt as _;
    let text = pem(path)?;
    let mode = std::fs::metadata(path)
        .map_err(|source| TlsError::Read {
            path: path.to_owned(),
            source,
        })?
        .permissions()
        .mode();
    if mode & 0o007 != 0 {
        return Err(TlsError::KeyIsPublic {
            path: path.to_owned(),
            mode: mode & 0o777,
        });
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| TlsError::Content {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

/// The server's side of TLS: 1.3 and 1.2, one provider, no connection without a certificate of one of the authorities.
///
/// # Errors
/// [`TlsError`].
pub fn tls(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let together = |error: &dyn std::fmt::Display| TlsError::Together(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.client_ca)? {
        roots.add(certificate).map_err(|error| TlsError::Content {
            path: files.client_ca.clone(),
            problem: error.to_string(),
        })?;
    }
    let mut revoked = Vec::new();
    for path in &files.client_crl {
        let lists: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(&pem(path)?).collect();
        revoked.extend(lists.map_err(|error| TlsError::Content {
            path: path.clone(),
            problem: error.to_string(),
        })?);
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .with_crls(revoked)
            .build()
            .map_err(|error| together(&error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| together(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.certificate)?, key(&files.key)?)
        .map_err(|error| together(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would not show the certificate again: it could have been revoked, or have ended, meanwhile.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// Connections of one agent at once.
    pub per_agent: usize,
}

/// A connection of a known agent. Its places are given back when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Arc<Peer>,
    _place: OwnedSemaphorePermit,
    _of_agent: OfAgent,
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connections per agent.
type Agents = Arc<Mutex<HashMap<Uuid, usize>>>;

/// One connection of an agent, counted until dropped.
#[derive(Debug)]
struct OfAgent {
    agents: Agents,
    agent_id: Uuid,
}

impl OfAgent {
    fn take(agents: &Agents, agent_id: Uuid, limit: usize) -> Option<Self> {
        let mut counts = agents.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(agent_id).or_insert(0);
        if *count >= limit {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Self {
            agents: Arc::clone(agents),
            agent_id,
        })
    }
}

impl Drop for OfAgent {
    fn drop(&mut self) {
        let mut counts = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.agent_id) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.agent_id);
            }
        }
    }
}

/// Accepts connections for ever, and hands over those of known agents. Ends when nobody takes them any more.
pub async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    bounds: Bounds,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let places = Arc::new(Semaphore::new(bounds.connections));
    let agents = Agents::default();
    loop {
        let Ok(handshake) = Arc::clone(&handshakes).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%address, "too many connections: this one is closed");
            continue;
        };
        let (acceptor, agents, connections) =
            (acceptor.clone(), Arc::clone(&agents), connections.clone());
        tokio::spawn(async move {
            let _handshake = handshake;
            match shake_hands(stream, &acceptor, &agents, bounds, place).await {
                Ok(connection) => {
                    // Nobody takes it: the node stops.
                    drop(connections.send(Ok(connection)).await);
                }
                Err(problem) => tracing::warn!(%address, problem, "connection refused"),
            }
        });
    }
}

async fn shake_hands(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    agents: &Agents,
    bounds: Bounds,
    place: OwnedSemaphorePermit,
) -> Result<Connection, String> {
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let stream = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream))
        .await
        .map_err(|_elapsed| "the handshake takes too long".to_owned())?
        .map_err(|error| error.to_string())?;
    let (_, session) = stream.get_ref();
    let certificate = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or_else(|| PeerError::Missing.to_string())?;
    let peer = agent_id::peer(certificate).map_err(|error| error.to_string())?;
    let of_agent = OfAgent::take(agents, peer.agent_id, bounds.per_agent)
        .ok_or_else(|| format!("agent {} has too many connections", peer.agent_id))?;
    Ok(Connection {
        stream,
        peer: Arc::new(peer),
        _place: place,
        _of_agent: of_agent,
    })
}
