//! `type = "otlp"`: log records to an OpenTelemetry receiver.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    HostPort, NOWHERE, ProxyConfig, RemoteConfig, SinkFormat, SinkTable, TlsConfig, proxy,
};
use crate::config::Form;
use crate::config::{Checks, ConfigProblem};

/// Requests on the way at once: enough for a receiver on another continent at some megabytes a second each.
pub const OTLP_REQUESTS: usize = 4;
/// Each takes a megabyte of memory before it is compressed.
const MAX_REQUESTS: usize = 64;
/// Where receivers of OTLP over HTTP take logs.
const LOGS_PATH: &str = "/v1/logs";
/// Where receivers of OTLP over gRPC do, which is not to be chosen.
const GRPC_PATH: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
/// Longest path.
const MAX_PATH: usize = 1_024;

/// How OTLP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtlpProtocol {
    /// gRPC over HTTP/2; port 4317 by custom.
    Grpc,
    /// Protobuf over HTTP/2 or HTTP/1.1; port 4318 by custom.
    Http,
}

/// An OTLP receiver.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpConfig {
    /// Where it listens.
    pub address: HostPort,
    /// How it is trusted; none: plain text, as the configuration says so.
    pub tls: Option<TlsConfig>,
    /// Way through a proxy.
    pub proxy: Option<ProxyConfig>,
    /// Time for name, connection, proxy and TLS together.
    pub connect_timeout: Duration,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// Path of the requests.
    pub path: String,
    /// File with further headers.
    pub headers_file: Option<PathBuf>,
    /// Form of the body of log records.
    pub form: Form,
    /// Requests are compressed with gzip.
    pub gzip: bool,
    /// Requests on the way at most.
    pub requests: usize,
}

impl OtlpConfig {
    /// Keys that it takes, beside those of every kind.
    pub(super) const KEYS: [&'static str; 15] = [
        "address",
        "tls",
        "ca_file",
        "pins",
        "server_name",
        "certificate_file",
        "key_file",
        "proxy",
        "proxy_credentials_file",
        "protocol",
        "path",
        "headers_file",
        "format",
        "gzip",
        "requests",
    ];

    pub(super) fn check(
        key: &dyn Fn(&str) -> String,
        table: &SinkTable,
        checks: &mut Checks,
    ) -> Self {
        let remote = RemoteConfig::check(key, table, checks);
        let address = remote.addresses.first().cloned().unwrap_or(NOWHERE);
        let protocol = table.protocol.unwrap_or_else(|| {
            checks.wrong(key(""), ConfigProblem::Missing("`protocol`"));
            OtlpProtocol::Grpc
        });
        let format = table.format.unwrap_or(SinkFormat::Json);
        let form = format.form().unwrap_or_else(|| {
            checks.wrong(
                key("format"),
                ConfigProblem::Contradicts("`type = \"otlp\"`"),
            );
            Form::Json
        });
        let requests = table.requests.unwrap_or(OTLP_REQUESTS);
        checks.range(&key("requests"), requests, 1..=MAX_REQUESTS);
        Self {
            tls: remote.tls(&address),
            address,
            proxy: proxy(key, table, checks),
            connect_timeout: remote.connect_timeout,
            protocol,
            path: path(key, table, protocol, checks),
            headers_file: checks.absolute(&key("headers_file"), table.headers_file.clone()),
            form,
            gzip: table.gzip.unwrap_or(true),
            requests,
        }
    }
}

fn path(
    key: &dyn Fn(&str) -> String,
    table: &SinkTable,
    protocol: OtlpProtocol,
    checks: &mut Checks,
) -> String {
    match (&table.path, protocol) {
        (None, OtlpProtocol::Http) => LOGS_PATH.to_owned(),
        (None, OtlpProtocol::Grpc) => GRPC_PATH.to_owned(),
        (Some(path), OtlpProtocol::Http) => {
            let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte);
            if !path.starts_with('/') || path.len() > MAX_PATH || !path.bytes().all(plain) {
                checks.wrong(key("path"), ConfigProblem::NotAPath(path.clone()));
            }
            path.clone()
        }
        (Some(_), OtlpProtocol::Grpc) => {
            checks.wrong(
                key("path"),
                ConfigProblem::Contradicts("`protocol = \"grpc\"`"),
            );
            GRPC_PATH.to_owned()
        }
    }
}
