//! What the sinks beyond the central node share: one or several addresses, TLS unless it is refused in so many words, and
//! the form of what is sent.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HostPort, NOWHERE, SinkTable, TlsConfig, connect_time, host_port, tls};
use crate::config::Form;
use crate::config::{Checks, ConfigProblem};

/// Members of a cluster that are named; it tells of the others itself.
const MAX_ADDRESSES: usize = 16;

/// What is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkFormat {
    /// Each telemetry packet as it stands in the spool: protobuf `sensor.v1.TelemetryPacket`, with the account.
    #[default]
    Native,
    /// Each event as a JSON object in the sensor's own form.
    Json,
    /// Each event as a JSON object of the Elastic Common Schema.
    Ecs,
    /// Each event as a JSON object of the Open Cybersecurity Schema Framework.
    Ocsf,
}

impl SinkFormat {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Json => "json",
            Self::Ecs => "ecs",
            Self::Ocsf => "ocsf",
        }
    }

    /// Form of an event's line; none: packets stay whole.
    #[must_use]
    pub const fn form(self) -> Option<Form> {
        match self {
            Self::Native => None,
            Self::Json => Some(Form::Json),
            Self::Ecs => Some(Form::Ecs),
            Self::Ocsf => Some(Form::Ocsf),
        }
    }
}

/// Where a receiver is and how it is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteConfig {
    /// Where it listens: one address, or those of a cluster.
    pub addresses: Vec<HostPort>,
    /// How it is trusted; none: plain text, as the configuration says so.
    tls: Option<TlsConfig>,
    /// The certificate's name is the configuration's, not the host's.
    named: bool,
    /// Time for name, connection and TLS together.
    pub connect_timeout: Duration,
}

impl RemoteConfig {
    /// How the receiver at this address is trusted; none: plain text.
    #[must_use]
    pub fn tls(&self, address: &HostPort) -> Option<TlsConfig> {
        let mut tls = self.tls.clone()?;
        if !self.named {
            tls.server_name.clone_from(&address.host);
        }
        Some(tls)
    }

    /// For people; no secrets.
    #[must_use]
    pub fn address(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        addresses.join(",")
    }

    /// Of these addresses.
    #[cfg(test)]
    pub(crate) fn for_tests(addresses: &[std::net::SocketAddr], tls: Option<TlsConfig>) -> Self {
        let addresses = addresses.iter().map(|address| HostPort {
            host: address.ip().to_string(),
            port: address.port(),
        });
        Self {
            addresses: addresses.collect(),
            tls,
            named: true,
            connect_timeout: Duration::from_secs(60),
        }
    }

    pub(super) fn check(
        key: &dyn Fn(&str) -> String,
        table: &SinkTable,
        checks: &mut Checks,
    ) -> Self {
        let addresses = addresses(key, table, checks);
        let host = addresses.first().map_or("", |address| &address.host);
        let plain = table.tls == Some(false);
        if plain {
            let given = [
                ("ca_file", table.ca_file.is_some()),
                ("pins", !table.pins.is_empty()),
                ("server_name", table.server_name.is_some()),
                ("certificate_file", table.certificate_file.is_some()),
                ("key_file", table.key_file.is_some()),
            ];
            for (name, given) in given {
                if given {
                    checks.wrong(key(name), ConfigProblem::Contradicts("`tls = false`"));
                }
            }
        }
        Self {
            tls: (!plain).then(|| tls(key, table, host, checks)),
            addresses,
            named: table.server_name.is_some(),
            connect_timeout: connect_time(key, table, checks),
        }
    }
}

fn addresses(
    key: &dyn Fn(&str) -> String,
    table: &SinkTable,
    checks: &mut Checks,
) -> Vec<HostPort> {
    match &table.address {
        Some(typed) => {
            if !table.addresses.is_empty() {
                checks.wrong(key("addresses"), ConfigProblem::Contradicts("`address`"));
            }
            vec![host_port(&key("address"), typed, checks)]
        }
        None if table.addresses.is_empty() => {
            checks.wrong(key(""), ConfigProblem::Missing("`address`"));
            vec![NOWHERE]
        }
        None => {
            checks.range(&key("addresses"), table.addresses.len(), 1..=MAX_ADDRESSES);
            let typed = table.addresses.iter().enumerate();
            typed
                .map(|(index, typed)| {
                    host_port(&format!("{}[{index}]", key("addresses")), typed, checks)
                })
                .collect()
        }
    }
}
