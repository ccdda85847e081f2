//! `type = "file"` and `type = "stdout"`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::remote::SinkFormat;
use super::{ReceiverConfig, SinkConfig, SinkTable};
use crate::config::file::{OUTPUT_KEEP, OUTPUT_ROTATE_AGE, OUTPUT_ROTATE_SIZE};
use crate::config::{Checks, ConfigProblem};

/// Keys of files, beside those of every kind.
pub(super) const FILE_KEYS: [&str; 5] = ["path", "format", "rotate_size", "rotate_age", "keep"];
/// Keys of standard output.
pub(super) const STDOUT_KEYS: [&str; 1] = ["format"];
/// Most files set aside that are kept.
const MAX_KEEP: u32 = 10_000;

/// A file behind the spool.
#[derive(Clone, Debug, PartialEq)]
pub struct FileSinkConfig {
    /// The file.
    pub path: PathBuf,
    /// What is written.
    pub format: SinkFormat,
    /// Size at which it is set aside.
    pub rotate_bytes: Option<u64>,
    /// Age at which it is set aside.
    pub rotate_age: Option<Duration>,
    /// Files set aside that are kept.
    pub keep: usize,
}

/// A line per event unless something else is asked for.
pub(super) fn format(table: &SinkTable) -> SinkFormat {
    table.format.unwrap_or(SinkFormat::Json)
}

pub(super) fn check(
    key: &dyn Fn(&str) -> String,
    table: &SinkTable,
    checks: &mut Checks,
) -> FileSinkConfig {
    let typed = table.path.as_deref().map(PathBuf::from);
    if typed.is_none() {
        checks.wrong(key(""), ConfigProblem::Missing("`path`"));
    }
    let size = table.rotate_size.unwrap_or(OUTPUT_ROTATE_SIZE).bytes();
    let age = table.rotate_age.unwrap_or(OUTPUT_ROTATE_AGE).duration();
    FileSinkConfig {
        path: checks.absolute(&key("path"), typed).unwrap_or_default(),
        format: format(table),
        rotate_bytes: Some(size).filter(|bytes| *bytes > 0),
        rotate_age: Some(age).filter(|age| !age.is_zero()),
        keep: checks.count(&key("keep"), table.keep.unwrap_or(OUTPUT_KEEP), MAX_KEEP),
    }
}

/// Two writers of one file would tear each other's lines, and standard output is one.
pub(super) fn apart(
    sinks: &BTreeMap<String, SinkConfig>,
    output: Option<&Path>,
    checks: &mut Checks,
) {
    let mut paths: BTreeSet<&Path> = output.into_iter().collect();
    let mut stdout = false;
    for (name, sink) in sinks {
        match &sink.receiver {
            ReceiverConfig::File(file) if !paths.insert(&file.path) => {
                let problem = ConfigProblem::Contradicts(
                    "another sink or `output.path`, which have this file",
                );
                checks.wrong(format!("sink.{name}.path"), problem);
            }
            ReceiverConfig::Stdout(_) if std::mem::replace(&mut stdout, true) => {
                let problem = ConfigProblem::Contradicts("another sink of type `stdout`");
                checks.wrong(format!("sink.{name}.type"), problem);
            }
            ReceiverConfig::File(_)
            | ReceiverConfig::Stdout(_)
            | ReceiverConfig::CentralNode(_)
            | ReceiverConfig::JetStream(_)
            | ReceiverConfig::Kafka(_)
            | ReceiverConfig::Otlp(_) => {}
        }
    }
}
