//! Which agent a client certificate belongs to: its one subject alternative name `urn:uuid:<agent id>`, else its common name.
//! Refuses to judge whether the certificate is valid: TLS did.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

use crate::clock::SECOND_NS;

/// The one who speaks on a connection, from the certificate that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Identity of the agent.
    pub agent_id: Uuid,
    /// SHA-256 of the certificate (DER).
    pub certificate: [u8; 32],
    /// End of the certificate's validity, ns since 1970: the connection ends then too.
    pub not_after_ns: i64,
}

/// Why a certificate names no agent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeerError {
    /// The client showed none.
    #[error("no client certificate")]
    Missing,
    /// It cannot be read.
    #[error("the client certificate cannot be read")]
    Unreadable,
    /// Neither a name `urn:uuid:` nor a common name that is a UUID.
    #[error("the client certificate names no agent id (urn:uuid:<agent id>)")]
    NoAgentId,
    /// Several agent ids: it could write as each of them.
    #[error("the client certificate names several agent ids")]
    Ambiguous,
}

/// Reads the agent's identity from its certificate.
///
/// # Errors
/// [`PeerError`].
pub fn peer(certificate: &[u8]) -> Result<Peer, PeerError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_error| PeerError::Unreadable)?;
    let mut named = Vec::new();
    for extension in parsed.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            for name in &names.general_names {
                if let GeneralName::URI(uri) = name
                    && let Some(id) = uri.strip_prefix("urn:uuid:")
                {
                    named.extend(Uuid::try_parse(id).ok());
                }
            }
        }
    }
    if named.is_empty() {
        named.extend(
            parsed
                .subject()
                .iter_common_name()
                .filter_map(|name| name.as_str().ok())
                .filter_map(|name| Uuid::try_parse(name).ok()),
        );
    }
    let agent_id = match named.as_slice() {
        [] => return Err(PeerError::NoAgentId),
        [agent_id] => *agent_id,
        [_, _, ..] => return Err(PeerError::Ambiguous),
    };
    Ok(Peer {
        agent_id,
        certificate: Sha256::digest(certificate).into(),
        not_after_ns: parsed
            .validity()
            .not_after
            .timestamp()
            .saturating_mul(SECOND_NS),
    })
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_name: &str, uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.subject_alt_names = uris
            .iter()
            .map(|uri| SanType::URI(Ia5String::try_from(*uri).unwrap()))
            .collect();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_name_comes_before_the_common_name() {
        let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
        let by = |name: &str, uris: &[&str]| peer(&certificate(name, uris)).map(|p| p.agent_id);
        assert_eq!(by("host", &[&format!("urn:uuid:{a}")]), Ok(a));
        assert_eq!(by(&b.to_string(), &[&format!("urn:uuid:{a}")]), Ok(a));
        assert_eq!(by(&b.to_string(), &[]), Ok(b));
        assert_eq!(by(&b.to_string(), &["https://example.org/"]), Ok(b));
    }

    #[test]
    fn who_cannot_be_told_is_refused() {
        let by = |name: &str, uris: &[&str]| peer(&certificate(name, uris));
        assert_eq!(by("host", &[]), Err(PeerError::NoAgentId));
        assert_eq!(by("host", &["urn:uuid:nobody"]), Err(PeerError::NoAgentId));
        let two = [Uuid::new_v4(), Uuid::new_v4()].map(|id| format!("urn:uuid:{id}"));
        let two = two.each_ref().map(String::as_str);
        assert_eq!(by("host", &two), Err(PeerError::Ambiguous));
        assert_eq!(peer(b"garbage"), Err(PeerError::Unreadable));
    }
}
