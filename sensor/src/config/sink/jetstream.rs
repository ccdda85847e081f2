//! NATS JetStream as a receiver: where packets or events are published, and who we are to the server.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RemoteConfig, SinkFormat, SinkTable};
use crate::config::{Checks, ConfigProblem};

/// Where messages go unless the configuration says otherwise.
const SUBJECT: &str = "sensor.{agent}.{stream}";
/// Longest template, so that a subject with its placeholders filled fits any server's line.
const MAX_SUBJECT: usize = 200;
/// Longest name of a stream (the server's limit).
const MAX_STREAM: usize = 255;

/// How the receiver is told who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Authentication {
    /// `user:password` on one line.
    Password,
    /// A token on one line.
    Token,
    /// The seed of an nkey on one line.
    Nkey,
    /// A file of credentials as `nsc` makes it: a JWT and the seed that belongs to it.
    Credentials,
}

/// A JetStream server or cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct JetStreamConfig {
    /// Where it is and how it is trusted.
    pub remote: RemoteConfig,
    /// What is sent.
    pub format: SinkFormat,
    /// Where it is published.
    pub subject: Subject,
    /// Stream that must take it.
    pub stream: String,
    /// Make the stream if it does not exist.
    pub create_stream: bool,
    /// Who we are; none: nobody.
    pub credentials: Option<(Authentication, PathBuf)>,
}

/// A part of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Agent,
    Stream,
    Type,
}

/// Template of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject(Vec<Piece>);

impl Subject {
    /// Reads a template; `types`: there is an event, whose type can stand in it.
    pub(crate) fn parse(typed: &str, types: bool) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut rest = typed;
        while let Some((text, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}')?;
            pieces.push(Piece::Text(text.to_owned()));
            pieces.push(match name {
                "agent" => Piece::Agent,
                "stream" => Piece::Stream,
                "type" if types => Piece::Type,
                _ => return None,
            });
            rest = after;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        let subject = Self(pieces);
        let filled = subject.fill("a", "s", "t");
        let sound = |token: &str| {
            !token.is_empty()
                && token
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"*>{}$".contains(&byte))
        };
        (typed.len() <= MAX_SUBJECT && filled.split('.').all(sound)).then_some(subject)
    }

    /// With everything in its place.
    #[must_use]
    pub fn fill(&self, agent: &str, stream: &str, event_type: &str) -> String {
        let pieces = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text,
            Piece::Agent => agent,
            Piece::Stream => stream,
            Piece::Type => event_type,
        });
        pieces.collect()
    }

    /// What a stream must listen to for all that it can be.
    #[must_use]
    pub fn pattern(&self) -> String {
        // Only a whole token can be any: `a-{agent}` becomes `*`.
        let filled = self.fill("*", "*", "*");
        let tokens = filled
            .split('.')
            .map(|token| if token.contains('*') { "*" } else { token });
        tokens.collect::<Vec<_>>().join(".")
    }
}

impl JetStreamConfig {
    /// Keys of this kind, beside those of every kind.
    pub(super) const KEYS: [&'static str; 14] = [
        "address",
        "addresses",
        "tls",
        "ca_file",
        "pins",
        "server_name",
        "certificate_file",
        "key_file",
        "authentication",
        "credentials_file",
        "format",
        "subject",
        "stream",
        "create_stream",
    ];

    pub(super) fn check(
        key: &dyn Fn(&str) -> String,
        table: &SinkTable,
        checks: &mut Checks,
    ) -> Self {
        let format = table.format.unwrap_or_default();
        let typed = table.subject.as_deref().unwrap_or(SUBJECT);
        let subject = Subject::parse(typed, format.form().is_some()).unwrap_or_else(|| {
            checks.wrong(key("subject"), ConfigProblem::NotASubject(typed.to_owned()));
            Subject(Vec::new())
        });
        let stream = table.stream.clone().unwrap_or_default();
        if table.stream.is_none() {
            checks.wrong(key(""), ConfigProblem::Missing("`stream`"));
        } else if !is_stream(&stream) {
            checks.wrong(key("stream"), ConfigProblem::NotAStream(stream.clone()));
        }
        let file = checks.absolute(&key("credentials_file"), table.credentials_file.clone());
        let credentials = match (table.authentication, file) {
            (Some(kind), Some(file)) => Some((kind, file)),
            (None, None) => None,
            (Some(_), None) => {
                checks.wrong(
                    key("authentication"),
                    ConfigProblem::Missing("`credentials_file`"),
                );
                None
            }
            (None, Some(_)) => {
                checks.wrong(
                    key("credentials_file"),
                    ConfigProblem::Missing("`authentication`"),
                );
                None
            }
        };
        Self {
            remote: RemoteConfig::check(key, table, checks),
            format,
            subject,
            stream,
            create_stream: table.create_stream.unwrap_or_default(),
            credentials,
        }
    }
}

/// Graphic ASCII without what subjects and paths are made of: the name is a token of a subject and a folder of the server.
fn is_stream(name: &str) -> bool {
    (1..=MAX_STREAM).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b".*>/\\$\"".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn subjects_are_filled_and_their_patterns_take_them() {
        let subject = Subject::parse(SUBJECT, false).unwrap();
        assert_eq!(subject.fill("a-b", "bulk", ""), "sensor.a-b.bulk");
        assert_eq!(subject.pattern(), "sensor.*.*");
        let subject = Subject::parse("x.s-{stream}.{type}.y", true).unwrap();
        assert_eq!(subject.fill("a", "bulk", "exec"), "x.s-bulk.exec.y");
        assert_eq!(subject.pattern(), "x.*.*.y");
        assert_eq!(Subject::parse("one", true).unwrap().pattern(), "one");
        for wrong in [
            "",
            ".",
            "a.",
            "a..b",
            "a b",
            "a.*",
            "a.>",
            "$JS.API",
            "{host}",
            "{agent",
            "a}",
            "ä",
            "{{agent}}",
        ] {
            assert_eq!(Subject::parse(wrong, true), None, "{wrong}");
        }
        assert_eq!(Subject::parse("{type}", false), None);
        assert_eq!(Subject::parse(&"x".repeat(201), true), None);
    }

    proptest! {
        #[test]
        fn what_is_a_subject_stays_one_line(text in ".{0,40}", types: bool) {
            if let Some(subject) = Subject::parse(&text, types) {
                let filled = subject.fill("a", "b", "c");
                prop_assert!(!filled.contains(|c: char| c.is_whitespace() || c.is_control()));
            }
        }
    }
}
