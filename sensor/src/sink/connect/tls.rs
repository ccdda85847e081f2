//! TLS to a receiver: rustls with aws-lc-rs, the one provider of the whole program. A server is believed when its
//! certificate comes from a configured authority, when its public key is pinned, or both, as configured; never without either.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use uuid::Uuid;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use super::{FileError, read_public, read_secret};
use crate::config::TlsConfig;

/// Certificates in one file.
const MAX_CERTIFICATES: usize = 1_000;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of ours.
    #[error("own certificates")]
    File(#[from] FileError),
    /// Certificate and key are not usable with each other.
    #[error("own certificate and key cannot be used")]
    Own(#[source] rustls::Error),
    /// No authority in the file is usable.
    #[error("ca_file: no usable authority")]
    Authorities(#[source] rustls::client::VerifierBuilderError),
    /// The name that the certificate must have is none.
    #[error("`{0}` is no name that a certificate can have")]
    Name(String),
    /// The other side's certificate is not believed.
    #[error("the receiver's certificate is not believed")]
    Certificate(#[source] rustls::Error),
    /// The handshake failed otherwise: no TLS, no common version, our certificate refused.
    #[error("TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    /// The other side does not speak HTTP/2.
    #[error("the receiver does not speak HTTP/2")]
    NoHttp2,
}

impl TlsError {
    /// A word for the status.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::File(_) | Self::Own(_) | Self::Authorities(_) | Self::Name(_) => {
                "own_certificate"
            }
            Self::Certificate(_) => "certificate",
            Self::Handshake(_) | Self::NoHttp2 => "tls",
        }
    }
}

/// The provider; also made the process's default, once, so that no other can be chosen by accident.
fn provider() -> Arc<CryptoProvider> {
    if let Some(provider) = CryptoProvider::get_default() {
        return Arc::clone(provider);
    }
    // Who comes second gets back what it brought; the default stands then.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    CryptoProvider::get_default().map_or_else(
        || Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        Arc::clone,
    )
}

/// Our own certificate, for what the central node is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// SHA-256 of its DER.
    pub sha256: [u8; 32],
    /// End of its validity, ns since 1970; `None` if it cannot be read from it.
    pub not_after_ns: Option<i64>,
    /// Agent that it was given to; `None` if it names none.
    pub agent_id: Option<Uuid>,
}

/// Reads and digests our own certificate.
pub fn own_certificate(path: &Path) -> Result<OwnCertificate, FileError> {
    let chain = certificates(path, "certificate_file")?;
    let first = chain.first().ok_or(FileError::Content {
        what: "certificate_file",
        why: "no certificate in it",
    })?;
    Ok(OwnCertificate {
        sha256: Sha256::digest(first.as_ref()).into(),
        not_after_ns: not_after(first.as_ref()),
        agent_id: agent_id(first.as_ref()),
    })
}

fn certificates(
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read_public(path, what)?;
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        // The parser's error may quote the text.
        let certificate = certificate.map_err(|_quoted| FileError::Content {
            what,
            why: "not PEM",
        })?;
        if found.len() == MAX_CERTIFICATES {
            return Err(FileError::Content {
                what,
                why: "too many certificates",
            });
        }
        found.push(certificate);
    }
    if found.is_empty() {
        return Err(FileError::Content {
            what,
            why: "no certificate in it",
        });
    }
    Ok(found)
}

/// Shakes hands over an open connection. Files are read anew, so that renewed certificates are used.
pub async fn connect(
    stream: TcpStream,
    config: &TlsConfig,
    alpn: &[&[u8]],
) -> Result<TlsStream<TcpStream>, TlsError> {
    let name = ServerName::try_from(config.server_name.clone())
        .map_err(|_invalid| TlsError::Name(config.server_name.clone()))?;
    let client = client_config(config, alpn)?;
    let stream = TlsConnector::from(Arc::new(client))
        .connect(name, stream)
        .await
        .map_err(handshake)?;
    let http2_only = alpn == [b"h2".as_slice()];
    if http2_only && stream.get_ref().1.alpn_protocol().is_none() {
        return Err(TlsError::NoHttp2);
    }
    Ok(stream)
}

fn handshake(error: std::io::Error) -> TlsError {
    let certificate = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .filter(|inner| matches!(inner, rustls::Error::InvalidCertificate(_)));
    match certificate {
        Some(inner) => TlsError::Certificate(inner.clone()),
        None => TlsError::Handshake(error),
    }
}

/// The configuration for rustls.
pub fn client_config(config: &TlsConfig, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let chain = match &config.ca_file {
        None => None,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(path, "ca_file")?);
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                    .build()
                    .map_err(TlsError::Authorities)?;
            Some(verifier)
        }
    };
    if chain.is_none() && config.pins.is_empty() {
        // The configuration's check says so first; nothing is believed without either.
        return Err(TlsError::File(FileError::Content {
            what: "ca_file",
            why: "neither it nor pins are given",
        }));
    }
    let verifier = Verifier {
        chain,
        pins: config.pins.clone(),
        provider: Arc::clone(&provider),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Own)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut client = match &config.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate, "certificate_file")?;
            let text = read_secret(key, "key_file")?;
            // The parser's error may quote the text.
            let key =
                PrivateKeyDer::from_pem_slice(&text).map_err(|_quoted| FileError::Content {
                    what: "key_file",
                    why: "no private key in it",
                })?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(TlsError::Own)?
        }
    };
    client.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(client)
}

/// Believes a server by authority, by pin, or by both.
#[derive(Debug)]
struct Verifier {
    /// Absent: there are pins, and they alone count.
    chain: Option<Arc<WebPkiServerVerifier>>,
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

/// The certificate's key is not one of those that the configuration names.
#[derive(Debug, thiserror::Error)]
#[error("its public key (SHA-256 {0}) is not among the pins")]
struct NotPinned(String);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(chain) = &self.chain {
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        }
        if self.pins.is_empty() {
            return match self.chain {
                Some(_) => Ok(ServerCertVerified::assertion()),
                None => Err(CertificateError::UnknownIssuer.into()),
            };
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let digest: [u8; 32] = Sha256::digest(parsed.subject_public_key_info().as_ref()).into();
        // That the server has the key is proven by the signature of the handshake, below.
        if self.pins.contains(&digest) {
            Ok(ServerCertVerified::assertion())
        } else {
            let shown: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            Err(CertificateError::Other(OtherError(Arc::new(NotPinned(shown)))).into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// `validity.notAfter` of a certificate (RFC 5280, 4.1), ns since 1970; an end beyond 2262 is that of 2262.
fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = parsed.validity().not_after.timestamp();
    Some(seconds.saturating_mul(1_000_000_000))
}

/// The agent that a certificate belongs to, as the central node reads it: its one subject alternative name
/// `urn:uuid:<agent id>`, else its common name, if that is a UUID. `None`: it names none, or several.
fn agent_id(certificate: &[u8]) -> Option<Uuid> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut named = Vec::new();
    for extension in parsed.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            let uris = names.general_names.iter().filter_map(|name| {
                if let GeneralName::URI(uri) = name {
                    uri.strip_prefix("urn:uuid:")
                } else {
                    None
                }
            });
            named.extend(uris.filter_map(|id| Uuid::try_parse(id).ok()));
        }
    }
    if named.is_empty() {
        let names = parsed.subject().iter_common_name();
        let names = names.filter_map(|name| name.as_str().ok());
        named.extend(names.filter_map(|name| Uuid::try_parse(name).ok()));
    }
    match named.as_slice() {
        [agent_id] => Some(*agent_id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_end_of_validity_is_read() {
        for (year, month, day, expected) in [
            (2026, 11, 22, 1_795_305_600_i64),
            (2000, 2, 29, 951_782_400),
            (2049, 12, 31, 2_524_521_600),
            (2050, 1, 1, 2_524_608_000),
            (4096, 1, 1, 67_090_464_000),
        ] {
            let mut parameters = rcgen::CertificateParams::new(vec!["node".to_owned()]).unwrap();
            parameters.not_after = rcgen::date_time_ymd(year, month, day);
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = parameters.self_signed(&key).unwrap();
            let found = not_after(certificate.der());
            assert_eq!(
                found,
                Some(expected.saturating_mul(1_000_000_000)),
                "{year}-{month}-{day}"
            );
        }
    }

    #[test]
    fn the_agent_is_read() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let by = |common_name: &str, names: &[String]| {
            let mut parameters = rcgen::CertificateParams::default();
            parameters
                .distinguished_name
                .push(rcgen::DnType::CommonName, common_name);
            parameters.subject_alt_names = names
                .iter()
                .map(|name| rcgen::SanType::URI(name.as_str().try_into().unwrap()))
                .collect();
            let key = rcgen::KeyPair::generate().unwrap();
            agent_id(parameters.self_signed(&key).unwrap().der())
        };
        let urn = |id: Uuid| format!("urn:uuid:{id}");
        assert_eq!(by("host", &[urn(one)]), Some(one));
        assert_eq!(by(&two.to_string(), &[urn(one)]), Some(one));
        assert_eq!(by(&two.to_string(), &[]), Some(two));
        assert_eq!(by("host", &[]), None);
        assert_eq!(by("host", &[urn(one), urn(two)]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            not_after(&bytes);
            agent_id(&bytes);
        }
    }
}
