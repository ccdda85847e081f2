//! A node for tests of other crates: in this process, on a loopback port that the system picks, with certificates made for it.

mod maker;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use maker::{Maker, Seen};
use time::Duration;
use uuid::Uuid;

use crate::certificate::{self, Authority, CertificateError, Pair};
use crate::config::{Config, ConfigError, ConfigFile, Overrides};
use crate::server::{Node, StartError};

/// Name that the server's certificate is for, beside 127.0.0.1.
pub const SERVER_NAME: &str = "localhost";

/// Certificates of a test are valid so long.
const LENGTH: Duration = Duration::days(1);

/// Why a test has no node.
#[derive(Debug, thiserror::Error)]
pub enum TestingError {
    /// No certificates.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A configuration that does not fit.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Files in a folder: authority, server's certificate, configuration, data.
#[derive(Debug)]
pub struct Place {
    folder: PathBuf,
    authority: Authority,
}

impl Place {
    /// Makes certificates in a folder; takes those that are there.
    ///
    /// # Errors
    /// [`TestingError::Certificate`].
    pub fn new(folder: &Path) -> Result<Self, TestingError> {
        certificate::folder(folder)?;
        let authority = Authority::open(folder, LENGTH)?;
        let (server, key) = (
            folder.join(certificate::SERVER),
            folder.join(certificate::SERVER_KEY),
        );
        if !server.exists() {
            let names = [SERVER_NAME.to_owned(), "127.0.0.1".to_owned()];
            authority.server(&names, LENGTH)?.write(&server, &key)?;
        }
        Ok(Self {
            folder: folder.to_owned(),
            authority,
        })
    }

    /// The authority of agents and server.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A certificate for an agent.
    ///
    /// # Errors
    /// [`TestingError::Certificate`].
    pub fn agent(&self, agent_id: Uuid) -> Result<Pair, TestingError> {
        Ok(self.authority.agent(agent_id, LENGTH)?)
    }

    /// Where the node keeps its data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Overrides for this place: files, and a port that the system picks.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            folder: Some(self.data()),
            certificate: Some(self.folder.join(certificate::SERVER)),
            key: Some(self.folder.join(certificate::SERVER_KEY)),
            client_ca: Some(self.folder.join(certificate::CA)),
        }
    }

    /// The configuration of a node here.
    ///
    /// # Errors
    /// [`TestingError::Config`].
    pub fn config(&self, file: ConfigFile) -> Result<Config, TestingError> {
        Ok(file.meant(&self.overrides())?)
    }

    /// Starts a node with defaults, within the runtime of the caller.
    ///
    /// # Errors
    /// [`TestingError`].
    pub async fn start(&self) -> Result<Node, TestingError> {
        Ok(Node::start(self.config(ConfigFile::default())?).await?)
    }
}
