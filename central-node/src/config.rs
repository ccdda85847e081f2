//! Configuration: as typed ([`ConfigFile`]), and as meant ([`Config`]).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::clock::parse_duration;
use crate::packet::Limits;
use crate::store::retention::Retention;

/// `central-node.toml` as typed. Every key but the three of `[tls]` has a default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigFile {
    /// `[server]`: where to listen, and limits.
    pub server: ServerTable,
    /// `[tls]`: certificates.
    pub tls: TlsTable,
    /// `[store]`: where and how long packets are kept.
    pub store: StoreTable,
}

/// `[server]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTable {
    /// Address and port. Port 0: the system picks one; it is printed.
    pub listen: SocketAddr,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections of one agent at once.
    pub max_connections_per_agent: usize,
    /// Longest packet.
    pub max_packet: String,
    /// Longest packet without its compression.
    pub max_body: String,
    /// Bytes of packets of one connection that may be on the way.
    pub window: String,
    /// When agents synchronise again.
    pub sync_period: String,
}

impl Default for ServerTable {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7443)),
            max_connections: 1_024,
            max_connections_per_agent: 4,
            max_packet: "4MiB".to_owned(),
            max_body: "16MiB".to_owned(),
            window: "8MiB".to_owned(),
            sync_period: "5m".to_owned(),
        }
    }
}

/// `[tls]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsTable {
    /// The server's certificate with its chain, PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, PEM; for nobody else to read.
    pub key: Option<PathBuf>,
    /// Authorities that agents' certificates are from, PEM.
    pub client_ca: Option<PathBuf>,
    /// Lists of revoked certificates, PEM.
    pub client_crl: Vec<PathBuf>,
}

/// `[store]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreTable {
    /// The data folder.
    pub folder: PathBuf,
    /// Events are kept so long after they arrived.
    pub age: String,
    /// The store uses at most so much.
    pub bytes: String,
    /// Headers and accounts are kept so long.
    pub account_age: String,
    /// With less free on the disk nothing is stored.
    pub reserve: String,
}

impl Default for StoreTable {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("/var/lib/central-node"),
            age: "30d".to_owned(),
            bytes: "20GiB".to_owned(),
            account_age: "180d".to_owned(),
            reserve: "64MiB".to_owned(),
        }
    }
}

/// What was asked for on the command line: stands above the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--data`
    pub folder: Option<PathBuf>,
    /// `--certificate`
    pub certificate: Option<PathBuf>,
    /// `--key`
    pub key: Option<PathBuf>,
    /// `--client-ca`
    pub client_ca: Option<PathBuf>,
}

/// The configuration as meant.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address and port.
    pub listen: SocketAddr,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections of one agent at once.
    pub max_connections_per_agent: usize,
    /// Bounds of packets.
    pub limits: Limits,
    /// Bytes of packets of one connection that may be on the way.
    pub window_bytes: usize,
    /// When agents synchronise again.
    pub sync_period: Duration,
    /// Certificates.
    pub tls: TlsFiles,
    /// The data folder.
    pub folder: PathBuf,
    /// What is kept.
    pub retention: Retention,
    /// With fewer free bytes nothing is stored.
    pub reserve_bytes: u64,
}

/// Files of certificates.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate with its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities of agents.
    pub client_ca: PathBuf,
    /// Lists of revoked certificates.
    pub client_crl: Vec<PathBuf>,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: cannot read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no TOML, or has a key that does not exist.
    #[error("{path}: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        problem: String,
    },
    /// Values that do not fit; all of them.
    #[error("{}", .0.join("\n"))]
    Values(Vec<String>),
}

/// A body of real events takes some times its length when it is decoded.
const MEMORY_PER_BODY: usize = 8;

/// A configuration is a page of text; more is a mistake.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_bounded(path, FILE_BYTES_MAX).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let syntax = |problem: String| ConfigError::Syntax {
            path: path.to_owned(),
            problem,
        };
        let text = String::from_utf8(text).map_err(|error| syntax(error.to_string()))?;
        toml::from_str(&text).map_err(|error| syntax(error.to_string()))
    }

    /// The configuration as meant.
    ///
    /// # Errors
    /// [`ConfigError::Values`] with everything that is wrong.
    pub fn meant(self, overrides: &Overrides) -> Result<Config, ConfigError> {
        let mut wrong = Vec::new();
        let server = &self.server;
        let packet_bytes = size(&mut wrong, "server.max_packet", &server.max_packet);
        let body_bytes = size(&mut wrong, "server.max_body", &server.max_body);
        let window_bytes = size(&mut wrong, "server.window", &server.window);
        let bytes = size(&mut wrong, "store.bytes", &self.store.bytes);
        let reserve = size(&mut wrong, "store.reserve", &self.store.reserve);
        let sync_period = span(&mut wrong, "server.sync_period", &server.sync_period);
        let age = span(&mut wrong, "store.age", &self.store.age);
        let account_age = span(&mut wrong, "store.account_age", &self.store.account_age);
        if wrong.is_empty() {
            let mut at_least = |holds: bool, text: &str| {
                if !holds {
                    wrong.push(text.to_owned());
                }
            };
            at_least(
                packet_bytes >= 64 << 10,
                "server.max_packet: at least 64KiB, agents seal packets of that length",
            );
            at_least(
                packet_bytes <= 64 << 20 && body_bytes <= 256 << 20,
                "server.max_packet: at most 64MiB, server.max_body: at most 256MiB",
            );
            at_least(
                body_bytes >= packet_bytes,
                "server.max_body: not less than server.max_packet",
            );
            at_least(
                window_bytes >= packet_bytes,
                "server.window: not less than server.max_packet",
            );
            at_least(
                account_age >= age,
                "store.account_age: not less than store.age",
            );
            at_least(
                server.max_connections > 0 && server.max_connections_per_agent > 0,
                "server.max_connections, server.max_connections_per_agent: at least 1",
            );
        }
        let mut file = |key: &str, flag: &Option<PathBuf>, typed: &Option<PathBuf>| {
            flag.clone().or_else(|| typed.clone()).unwrap_or_else(|| {
                wrong.push(format!(
                    "tls.{key}: missing (`central-node certificates` makes one for a first try)"
                ));
                PathBuf::new()
            })
        };
        let tls = TlsFiles {
            certificate: file("certificate", &overrides.certificate, &self.tls.certificate),
            key: file("key", &overrides.key, &self.tls.key),
            client_ca: file("client_ca", &overrides.client_ca, &self.tls.client_ca),
            client_crl: self.tls.client_crl,
        };
        if !wrong.is_empty() {
            return Err(ConfigError::Values(wrong));
        }
        let folder = overrides.folder.clone().unwrap_or(self.store.folder);
        Ok(Config {
            listen: overrides.listen.unwrap_or(server.listen),
            max_connections: server.max_connections,
            max_connections_per_agent: server.max_connections_per_agent,
            limits: Limits {
                packet_bytes: fit(packet_bytes),
                body_bytes: fit(body_bytes),
                memory_bytes: fit(body_bytes).saturating_mul(MEMORY_PER_BODY),
            },
            window_bytes: fit(window_bytes),
            sync_period,
            tls,
            folder,
            retention: Retention {
                age,
                bytes,
                account_age,
            },
            reserve_bytes: reserve,
        })
    }
}

/// Reads a file that must not be longer.
///
/// # Errors
/// Those of reading, and `InvalidData` for a longer one.
pub fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
        return Ok(bytes);
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::InvalidData,
        format!("longer than {limit} bytes"),
    ))
}

fn fit(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn size(wrong: &mut Vec<String>, key: &str, text: &str) -> u64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.strip_prefix(digits).unwrap_or_default() {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit));
    bytes.unwrap_or_else(|| {
        wrong.push(format!("{key}: `{text}` is no size: say `64MiB`, `20GiB`"));
        0
    })
}

fn span(wrong: &mut Vec<String>, key: &str, text: &str) -> Duration {
    parse_duration(text).unwrap_or_else(|_error| {
        wrong.push(format!(
            "{key}: `{text}` is no length of time: say `5m`, `30d`"
        ));
        Duration::ZERO
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(text: &str) -> Result<Config, ConfigError> {
        toml::from_str::<ConfigFile>(text)
            .unwrap()
            .meant(&Overrides::default())
    }

    const TLS: &str = "[tls]\ncertificate = 'a'\nkey = 'b'\nclient_ca = 'c'\n";

    #[test]
    fn three_files_are_a_good_configuration() {
        let config = meant(TLS).unwrap();
        assert_eq!(config.retention.bytes, 20 << 30);
        assert_eq!(config.sync_period, Duration::from_secs(300));
        assert_eq!(config.tls.client_ca, Path::new("c"));
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let text = "[server]\nmax_packet = '4MB'\nsync_period = 'often'\n[store]\nbytes = '-1GiB'";
        let error = meant(text).unwrap_err().to_string();
        for key in [
            "server.max_packet",
            "server.sync_period",
            "store.bytes",
            "tls.certificate",
            "tls.key",
            "tls.client_ca",
        ] {
            assert!(error.contains(key), "{key} is not in: {error}");
        }
        let small = format!("[server]\nwindow = '1MiB'\n{TLS}");
        assert!(
            meant(&small)
                .unwrap_err()
                .to_string()
                .contains("server.window")
        );
    }

    #[test]
    fn the_packaged_file_has_every_key_with_its_default() {
        let text = include_str!("../../packaging/central-node.toml");
        let packaged = toml::from_str::<ConfigFile>(text).unwrap();
        assert!(packaged.tls.key.as_ref().unwrap().ends_with("server.key"));
        packaged.clone().meant(&Overrides::default()).unwrap();
        let every: Vec<&str> = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
                _ => line,
            })
            .collect();
        let every: toml::Table = every.join("\n").parse().unwrap();
        let tables = [("server", 7), ("tls", 4), ("store", 5)];
        for (table, keys) in tables {
            assert_eq!(every[table].as_table().unwrap().len(), keys, "{table}");
        }
        assert_eq!(every.len(), tables.len());
        let every: ConfigFile = every.try_into().unwrap();
        assert_eq!(format!("{every:?}"), format!("{packaged:?}"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        toml::from_str::<ConfigFile>("[server]\nport = 1").unwrap_err();
        toml::from_str::<ConfigFile>("[servers]").unwrap_err();
    }

    #[test]
    fn flags_stand_above_the_file() {
        let overrides = Overrides {
            folder: Some(PathBuf::from("/x")),
            key: Some(PathBuf::from("/k")),
            ..Overrides::default()
        };
        let file: ConfigFile = toml::from_str(TLS).unwrap();
        let config = file.meant(&overrides).unwrap();
        assert_eq!(config.folder, Path::new("/x"));
        assert_eq!(config.tls.key, Path::new("/k"));
    }
}
