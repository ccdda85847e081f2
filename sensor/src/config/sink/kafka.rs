//! `type = "kafka"`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SinkTable;
use super::remote::{RemoteConfig, SinkFormat};
use crate::config::{Checks, ConfigProblem};

/// Keys beside those of every kind and of every receiver elsewhere.
pub(super) const KEYS: [&str; 13] = [
    "address",
    "addresses",
    "tls",
    "ca_file",
    "pins",
    "server_name",
    "certificate_file",
    "key_file",
    "credentials_file",
    "format",
    "topic",
    "sasl",
    "compression",
];
/// Longest name of a topic (Kafka's `Topic.MAX_NAME_LENGTH`).
const MAX_TOPIC: usize = 249;

/// How a name and a password are shown to a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// As they are; only inside TLS.
    #[serde(rename = "plain")]
    Plain,
    /// SCRAM-SHA-256: the password stays here.
    #[serde(rename = "scram_sha_256")]
    ScramSha256,
    /// SCRAM-SHA-512: the password stays here.
    #[serde(rename = "scram_sha_512")]
    ScramSha512,
}

/// How batches of records are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KafkaCompression {
    /// They are not.
    None,
    /// With zstd, which brokers have from 2.1 on; older ones get them as they are.
    Zstd,
}

/// A Kafka cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct KafkaConfig {
    /// Where it is, and how it is trusted.
    pub remote: RemoteConfig,
    /// Where records go.
    pub topic: String,
    /// What a record is.
    pub format: SinkFormat,
    /// How batches are compressed.
    pub compression: KafkaCompression,
    /// How we are known, and the file with `user:password`.
    pub sasl: Option<(SaslMechanism, PathBuf)>,
}

fn is_topic(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_TOPIC).contains(&name.len()) && name.bytes().all(legal) && name != "." && name != ".."
}

pub(super) fn check(
    key: &dyn Fn(&str) -> String,
    table: &SinkTable,
    checks: &mut Checks,
) -> KafkaConfig {
    let remote = RemoteConfig::check(key, table, checks);
    let topic = table.topic.clone().unwrap_or_default();
    if table.topic.is_none() {
        checks.wrong(key(""), ConfigProblem::Missing("`topic`"));
    } else if !is_topic(&topic) {
        checks.wrong(key("topic"), ConfigProblem::NotATopic(topic.clone()));
    }
    let format = table.format.unwrap_or_default();
    let compression = match (format, table.compression) {
        (SinkFormat::Native, Some(KafkaCompression::Zstd)) => {
            // Packets are compressed as they are.
            checks.wrong(
                key("compression"),
                ConfigProblem::Contradicts("`format = \"native\"`"),
            );
            KafkaCompression::None
        }
        (SinkFormat::Native, _) => KafkaCompression::None,
        (SinkFormat::Json | SinkFormat::Ecs | SinkFormat::Ocsf, typed) => {
            typed.unwrap_or(KafkaCompression::Zstd)
        }
    };
    let file = checks.absolute(&key("credentials_file"), table.credentials_file.clone());
    let sasl = match (table.sasl, file) {
        (Some(mechanism), Some(file)) => Some((mechanism, file)),
        (Some(_), None) => {
            if table.credentials_file.is_none() {
                checks.wrong(key("sasl"), ConfigProblem::Missing("`credentials_file`"));
            }
            None
        }
        (None, Some(_)) => {
            checks.wrong(key("credentials_file"), ConfigProblem::Missing("`sasl`"));
            None
        }
        (None, None) => None,
    };
    if table.sasl == Some(SaslMechanism::Plain) && table.tls == Some(false) {
        checks.wrong(key("sasl"), ConfigProblem::Contradicts("`tls = false`"));
    }
    KafkaConfig {
        remote,
        topic,
        format,
        compression,
        sasl,
    }
}
