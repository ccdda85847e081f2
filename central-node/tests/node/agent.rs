//! The agent's side: a client that says what a test wants it to say.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use central_node::certificate::Pair;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sensor_proto::v1;
use sensor_proto::v1::central_node_client::CentralNodeClient;
use sensor_proto::v1::deliver_response::Message;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use uuid::Uuid;

/// Whatever is waited for comes within this time, or never.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The client's side of TLS; with no certificate where none is given.
pub(crate) async fn connect(
    address: SocketAddr,
    ca: &Path,
    own: Option<&Pair>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        Some(pair) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// A gRPC client over such a connection.
pub(crate) async fn client(
    address: SocketAddr,
    ca: &Path,
    own: Option<&Pair>,
) -> Result<CentralNodeClient<Channel>, tonic::transport::Error> {
    windowed(address, ca, own, None).await
}

/// The same, with room for so many bytes of unread answers of a request.
///
/// The client's HTTP/2 ends a connection (`too_many_data_frames`) when too many small frames lie unread in it: about 15,000
/// acknowledgements with the windows that it has by itself, and none of the node's doing. With a small window the node has to
/// stop long before that.
pub(crate) async fn windowed(
    address: SocketAddr,
    ca: &Path,
    own: Option<&Pair>,
    window_bytes: Option<u32>,
) -> Result<CentralNodeClient<Channel>, tonic::transport::Error> {
    let (ca, own) = (ca.to_owned(), own.cloned());
    let connector = tower::service_fn(move |_uri| {
        let (ca, own) = (ca.clone(), own.clone());
        async move {
            let stream = connect(address, &ca, own.as_ref()).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let channel = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(window_bytes)
        .connect_with_connector(connector)
        .await?;
    Ok(CentralNodeClient::new(channel).max_encoding_message_size(256 << 20))
}

/// A delivery under way.
pub(crate) struct Delivery {
    requests: mpsc::Sender<v1::DeliverRequest>,
    answers: Streaming<v1::DeliverResponse>,
    pub(crate) welcome: v1::Welcome,
}

impl Delivery {
    /// Says hello and waits for the welcome.
    pub(crate) async fn begin(
        client: &mut CentralNodeClient<Channel>,
        agent_id: Uuid,
        positions: Vec<v1::StreamPosition>,
    ) -> Result<Self, Status> {
        let (requests, out) = mpsc::channel(8);
        let hello = v1::DeliverRequest {
            hello: Some(v1::Hello {
                agent_id: agent_id.as_bytes().to_vec(),
                agent_version: "0.1.0".to_owned(),
                schema_version: sensor_proto::SCHEMA_VERSION,
                positions,
            }),
            packet: None,
        };
        requests.send(hello).await.unwrap();
        let mut answers = client.deliver(ReceiverStream::new(out)).await?.into_inner();
        match answers.message().await?.and_then(|answer| answer.message) {
            Some(Message::Welcome(welcome)) => Ok(Self {
                requests,
                answers,
                welcome,
            }),
            other => panic!("no welcome but {other:?}"),
        }
    }

    pub(crate) async fn send(&self, packet: Vec<u8>) {
        let request = v1::DeliverRequest {
            hello: None,
            packet: Some(packet),
        };
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn answer(&mut self) -> Result<Message, Status> {
        let answer = tokio::time::timeout(LONG, self.answers.message());
        let answer = answer.await.unwrap_or_else(|_| panic!("no answer came"))?;
        answer
            .and_then(|answer| answer.message)
            .ok_or_else(|| Status::unknown("the stream ended"))
    }

    /// Sends nothing more; what was sent is still answered.
    pub(crate) fn finish(self) -> Streaming<v1::DeliverResponse> {
        drop(self.requests);
        self.answers
    }

    /// Sends a packet and waits for its answer.
    pub(crate) async fn deliver(&mut self, packet: Vec<u8>) -> Message {
        self.send(packet).await;
        self.answer().await.unwrap()
    }
}

/// The status of an acknowledgement.
pub(crate) fn acked(message: &Message) -> v1::AckStatus {
    match message {
        Message::Ack(ack) => ack.status(),
        other @ (Message::Welcome(_) | Message::Refusal(_)) => panic!("no ack but {other:?}"),
    }
}

/// The reason of a refusal for good.
pub(crate) fn refused(message: &Message) -> v1::RefusalReason {
    match message {
        Message::Refusal(refusal) => {
            assert_eq!(refusal.retry_after_ms, None);
            refusal.reason()
        }
        other @ (Message::Welcome(_) | Message::Ack(_)) => panic!("no refusal but {other:?}"),
    }
}
