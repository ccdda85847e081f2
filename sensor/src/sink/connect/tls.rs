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
    if !alpn.is_empty() && stream.get_ref().1.alpn_protocol().is_none() {
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

/// A DER element with this tag at the beginning: its content and what follows.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = digits.iter().try_fold(0_usize, |length, digit| {
            length.checked_mul(256)?.checked_add(usize::from(*digit))
        })?;
        (length, rest)
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

/// `validity.notAfter` of a certificate (RFC 5280, 4.1), ns since 1970.
fn not_after(certificate: &[u8]) -> Option<i64> {
    const SEQUENCE: u8 = 0x30;
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (to_be_signed, _) = element(certificate, SEQUENCE)?;
    let rest = element(to_be_signed, 0xa0).map_or(to_be_signed, |(_version, rest)| rest);
    let (_serial, rest) = element(rest, 0x02)?;
    let (_algorithm, rest) = element(rest, SEQUENCE)?;
    let (_issuer, rest) = element(rest, SEQUENCE)?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some(not_after)
}

/// A UTCTime or GeneralizedTime as ns since 1970, and what follows.
fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse::<i64>().ok();
    let (year, rest, after) = match element(bytes, 0x17) {
        Some((text, after)) => {
            let (year, rest) = text.split_at_checked(2)?;
            let year = number(year)?;
            (
                if year < 50 { 2000 + year } else { 1900 + year },
                rest,
                after,
            )
        }
        None => {
            let (text, after) = element(bytes, 0x18)?;
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)?, rest, after)
        }
    };
    let mut parts = rest.strip_suffix(b"Z")?.chunks(2).map(number);
    let mut part = || parts.next().flatten();
    let (month, day, hour, minute, second) = (part()?, part()?, part()?, part()?, part()?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970 of a date of the Gregorian calendar, years beginning in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    // Nanoseconds end in 2262; a later end is none.
    Some((seconds.saturating_mul(1_000_000_000), after))
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

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            not_after(&bytes);
            time(&bytes);
        }
    }
}
