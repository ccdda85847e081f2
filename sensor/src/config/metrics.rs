//! The table `[metrics]`: where the sensor answers for itself. Off unless an address is given.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Checks, ConfigProblem};

/// What stands before the path of a unix socket.
const UNIX: &str = "unix:";
/// Longest path of a socket: `sun_path` of unix(7), less its final zero.
const MAX_SOCKET_PATH: usize = 107;

/// `[metrics]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsTable {
    /// Where HTTP is answered: `/metrics` for Prometheus, `/healthz` (the pipeline answers), `/readyz` (events are watched).
    /// `127.0.0.1:9464`, or `unix:/run/sensor/metrics.sock` for a socket that only the sensor's own user may use. Without it
    /// nothing listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Allows addresses beyond loopback in `listen`. There is neither a password nor encryption: who reaches it learns how many
    /// events of which type this host has, and the names of rules and sinks.
    pub remote: bool,
}

/// Where HTTP is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket; absolute.
    Unix(PathBuf),
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// Checks the table; `None`: nothing listens.
pub(super) fn check(table: MetricsTable, checks: &mut Checks) -> Option<MetricsAddress> {
    const KEY: &str = "metrics.listen";
    let listen = table.listen?;
    if let Some(path) = listen.strip_prefix(UNIX) {
        if path.len() > MAX_SOCKET_PATH {
            let (value, least) = (format!("{} bytes", path.len()), "1".to_owned());
            let most = MAX_SOCKET_PATH.to_string();
            checks.wrong(KEY, ConfigProblem::OutOfRange { value, least, most });
        }
        return checks
            .absolute(KEY, Some(PathBuf::from(path)))
            .map(MetricsAddress::Unix);
    }
    match listen.parse::<SocketAddr>() {
        Err(_) => checks.wrong(KEY, ConfigProblem::NotAListener(listen)),
        Ok(address) if !table.remote && !loopback(address.ip()) => {
            checks.wrong(KEY, ConfigProblem::NotLoopback(address.ip()));
        }
        Ok(address) => return Some(MetricsAddress::Tcp(address)),
    }
    None
}

fn loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::config::file::ConfigFile;

    fn listen(text: &str) -> Result<Option<MetricsAddress>, String> {
        let file: ConfigFile = toml::from_str(&format!("[metrics]\n{text}")).unwrap();
        match Config::try_from(file) {
            Ok(config) => Ok(config.metrics),
            Err(problems) => Err(format!("{}: {}", problems[0].key, problems[0].problem)),
        }
    }

    #[test]
    fn nothing_listens_unless_told_to() {
        assert_eq!(listen(""), Ok(None));
        assert_eq!(
            listen("listen = '[::1]:9464'")
                .unwrap()
                .unwrap()
                .to_string(),
            "http://[::1]:9464"
        );
        assert_eq!(
            listen("listen = 'unix:/run/sensor/metrics.sock'"),
            Ok(Some(MetricsAddress::Unix(PathBuf::from(
                "/run/sensor/metrics.sock"
            ))))
        );
        let everywhere = listen("listen = '0.0.0.0:9464'\nremote = true").unwrap();
        assert_eq!(everywhere.unwrap().to_string(), "http://0.0.0.0:9464");
    }

    #[test]
    fn what_is_no_place_to_listen_is_named() {
        for (text, expected) in [
            (
                "listen = 'localhost:9464'",
                "metrics.listen: `localhost:9464` is neither address:port nor unix:/path",
            ),
            (
                "listen = 'unix:run/metrics.sock'",
                "metrics.listen: run/metrics.sock is not an absolute path",
            ),
            (
                "listen = '0.0.0.0:9464'",
                "metrics.listen: 0.0.0.0 is not a loopback address; `metrics.remote = true` allows others",
            ),
        ] {
            assert_eq!(listen(text), Err(expected.to_owned()));
        }
        let long = format!("listen = 'unix:/{}'", "a".repeat(107));
        assert!(listen(&long).unwrap_err().contains("108 bytes"));
    }
}
