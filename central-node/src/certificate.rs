//! Certificates for a first try and for tests: an authority, a server's certificate, agents' certificates. A fleet has an
//! authority of its own; the node asks only that an agent's certificate names the agent id.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::config::read_bounded;

/// File of the authority's certificate.
pub const CA: &str = "ca.pem";
/// File of the authority's key.
pub const CA_KEY: &str = "ca.key";
/// File of the server's certificate.
pub const SERVER: &str = "server.pem";
/// File of the server's key.
pub const SERVER_KEY: &str = "server.key";

/// Clocks of agents may be behind: certificates are valid from so long ago.
const BEFORE: Duration = Duration::hours(1);
/// A certificate and a key are a page of text each.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read or written.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Making or reading a certificate failed.
    #[error("certificate")]
    Make(#[from] rcgen::Error),
    /// Only one of the authority's two files is there.
    #[error("{folder}: only one of {CA} and {CA_KEY} is there")]
    HalfAuthority {
        /// The folder.
        folder: PathBuf,
    },
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key, PKCS#8.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

/// An authority: signs certificates.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

fn validity(params: &mut CertificateParams, from: OffsetDateTime, length: Duration) {
    params.not_before = from.saturating_sub(BEFORE);
    params.not_after = from.saturating_add(length);
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn new(length: Duration) -> Result<(Self, Pair), CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "sensor authority for a first try");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, now(), length);
        let pair = Pair {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        };
        let authority = Self {
            certificate: pair.certificate.clone(),
            issuer: Issuer::new(params, key),
        };
        Ok((authority, pair))
    }

    /// The authority of a folder, made where there is none.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn open(folder: &Path, length: Duration) -> Result<Self, CertificateError> {
        let (certificate, key) = (folder.join(CA), folder.join(CA_KEY));
        match (certificate.exists(), key.exists()) {
            (true, true) => {
                let certificate = read(&certificate)?;
                let key = KeyPair::from_pem(&read(&key)?)?;
                Ok(Self {
                    issuer: Issuer::from_ca_cert_pem(&certificate, key)?,
                    certificate,
                })
            }
            (false, false) => {
                let (authority, pair) = Self::new(length)?;
                pair.write(&certificate, &key)?;
                Ok(authority)
            }
            (true, false) | (false, true) => Err(CertificateError::HalfAuthority {
                folder: folder.to_owned(),
            }),
        }
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A server's certificate for names and addresses.
    ///
    /// # Errors
    /// [`CertificateError::Make`], for a name that is none.
    pub fn server(&self, names: &[String], length: Duration) -> Result<Pair, CertificateError> {
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "central node");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, now(), length)
    }

    /// An agent's certificate, valid from now.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn agent(&self, agent_id: Uuid, length: Duration) -> Result<Pair, CertificateError> {
        self.agent_from(agent_id, now(), length)
    }

    /// An agent's certificate, valid from an hour before `from`.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn agent_from(
        &self,
        agent_id: Uuid,
        from: OffsetDateTime,
        length: Duration,
    ) -> Result<Pair, CertificateError> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, agent_id.to_string());
        let name = Ia5String::try_from(format!("urn:uuid:{agent_id}"))?;
        params.subject_alt_names = vec![SanType::URI(name)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, from, length)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        from: OffsetDateTime,
        length: Duration,
    ) -> Result<Pair, CertificateError> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, from, length);
        Ok(Pair {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Pair {
    /// Writes both; the key is 0600. What is there is never overwritten.
    ///
    /// # Errors
    /// [`CertificateError::File`].
    pub fn write(&self, certificate: &Path, key: &Path) -> Result<(), CertificateError> {
        write(key, &self.key, 0o600)?;
        write(certificate, &self.certificate, 0o644)
    }
}

/// Makes the folder, 0700.
///
/// # Errors
/// [`CertificateError::File`].
pub fn folder(path: &Path) -> Result<(), CertificateError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| CertificateError::File {
            path: path.to_owned(),
            source,
        })
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(crate::clock::now_ns()))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CertificateError> {
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            // An empty key after a power cut would have to be found out and made anew.
            file.sync_all()
        });
    written.map_err(|source| CertificateError::File {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<String, CertificateError> {
    let file = |source| CertificateError::File {
        path: path.to_owned(),
        source,
    };
    let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(file)?;
    String::from_utf8(bytes)
        .map_err(|error| file(io::Error::new(io::ErrorKind::InvalidData, error)))
}
