//! `central-node settings`

use std::path::PathBuf;

use super::{Streams, store_status};
use crate::args::{SettingsArgs, SettingsCommand};
use crate::clock::rfc3339;
use crate::config::read_bounded;
use crate::exit::ExitStatus;
use crate::store;
use crate::store::write::{self, FILTER};

/// A document of filters is text that people write.
const DOCUMENT_BYTES_MAX: u64 = 512 << 10;

/// Why a document is not set.
#[derive(Debug, thiserror::Error)]
enum DocumentError {
    #[error("{path}: cannot read")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: {problem}")]
    Content { path: PathBuf, problem: String },
}

/// Sets or shows settings.
pub fn run(args: &SettingsArgs, streams: &mut Streams<'_>) -> ExitStatus {
    let document = match &args.command {
        SettingsCommand::Set { file, .. } => match document(file) {
            Ok(document) => Some(document),
            Err(error) => return streams.fail(&error, ExitStatus::Usage),
        },
        SettingsCommand::Show => None,
    };
    let connection = match store::open(&args.data) {
        Ok(connection) => connection,
        Err(error) => return streams.fail(&error, store_status(&error)),
    };
    let lines = match (&args.command, document) {
        (SettingsCommand::Set { agent, .. }, Some(document)) => {
            let agent = agent.map(|agent| *agent.as_bytes());
            write::set_settings(&connection, agent, FILTER, &document)
                .map(|version| vec![format!("{FILTER} version {version}")])
        }
        (SettingsCommand::Set { .. } | SettingsCommand::Show, _) => {
            write::all_settings(&connection).map(|all| {
                all.into_iter()
                    .map(|set| {
                        let whose = set
                            .agent
                            .map_or_else(|| "all".to_owned(), |agent| agent.to_string());
                        format!(
                            "# {} version {} for {whose}, set {}\n{}",
                            set.kind,
                            set.version,
                            rfc3339(set.set_ns),
                            set.document
                        )
                    })
                    .collect()
            })
        }
    };
    match lines {
        Ok(lines) => {
            let written = lines
                .iter()
                .try_for_each(|line| writeln!(streams.out, "{line}"));
            streams.written(written)
        }
        Err(error) => streams.fail(&error, store_status(&error)),
    }
}

/// Reads a document and looks whether it can be one: TOML with `[[filter.rule]]` tables and nothing else. What rules mean, the
/// agent judges.
fn document(path: &std::path::Path) -> Result<String, DocumentError> {
    let content = |problem: String| DocumentError::Content {
        path: path.to_owned(),
        problem,
    };
    let bytes = read_bounded(path, DOCUMENT_BYTES_MAX).map_err(|source| DocumentError::Read {
        path: path.to_owned(),
        source,
    })?;
    let text = String::from_utf8(bytes).map_err(|error| content(error.to_string()))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| content(error.to_string()))?;
    for (key, value) in &table {
        if key != "filter" {
            return Err(content(format!(
                "`{key}`: only [[filter.rule]] tables are settings"
            )));
        }
        let table = value
            .as_table()
            .ok_or_else(|| content("`filter` is no table".to_owned()))?;
        for (key, value) in table {
            let tables = value
                .as_array()
                .is_some_and(|array| array.iter().all(toml::Value::is_table));
            if key != "rule" || !tables {
                return Err(content(format!(
                    "`filter.{key}`: only [[filter.rule]] tables are settings"
                )));
            }
        }
    }
    Ok(text)
}
