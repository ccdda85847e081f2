//! An OTLP receiver: log records over gRPC or HTTP. A packet becomes one or more requests (`sensor/src/sink/otlp/record.rs`), several of
//! which are on the way at once; it is acknowledged when all of them are. What the answers mean stands in
//! `sensor/src/sink/otlp/verdict.rs`, the connection in `sensor/src/sink/otlp/http.rs`.
//!
//! Memory: the requests on the way and two more, each of about a megabyte before compression.

use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::task::JoinSet;

use crate::config::{OtlpConfig, OtlpProtocol};
use crate::sink::connect::{ConnectError, FileError, Names, read_secret};
use crate::sink::delivery::{Fault, Outcome, Terms};
use crate::sink::messages::Tally;
use crate::sink::piped::{Outcomes, Packets, Piped};
use crate::spool::{PACKET_MAX_BYTES, PacketId};

mod http;
mod record;
mod verdict;

use http::Link;
use record::{Making, Part, Unpacking};
use verdict::Verdict;

/// Headers in one file.
const MAX_HEADERS: usize = 64;
/// A value shorter than this is no secret that could be told from other text.
const LEAST_SECRET: usize = 4;

/// An OTLP receiver, with what it takes to connect.
#[derive(Debug)]
pub struct Otlp {
    config: Arc<OtlpConfig>,
    names: Arc<Names>,
}

impl Otlp {
    /// With this configuration.
    #[must_use]
    pub fn new(config: OtlpConfig) -> Self {
        Self {
            config: Arc::new(config),
            names: Arc::new(Names::default()),
        }
    }

    /// Connects.
    pub(super) async fn open(&mut self) -> Result<(Piped, Terms), Fault> {
        let mut work = Work {
            config: Arc::clone(&self.config),
            names: Arc::clone(&self.names),
            headers: HeaderMap::new(),
            secrets: Vec::new(),
            drivers: JoinSet::new(),
        };
        let link = work.connect().await?;
        let terms = Terms {
            window_bytes: usize::MAX,
            max_packet_bytes: PACKET_MAX_BYTES,
        };
        let session = Piped::start(|packets, outcomes| work.run(link, packets, outcomes));
        Ok((session, terms))
    }
}

/// What a session works with.
#[derive(Debug)]
struct Work {
    config: Arc<OtlpConfig>,
    names: Arc<Names>,
    headers: HeaderMap,
    /// Values of headers from the file; never told.
    secrets: Vec<String>,
    /// Connections: the one in use, and those before it that still have answers to give.
    drivers: JoinSet<()>,
}

/// A request's end.
type Landing = (PacketId, usize, Result<http::Answer, Fault>);

impl Work {
    /// A new connection, with the headers as they now stand in their file.
    async fn connect(&mut self) -> Result<Link, Fault> {
        self.headers = headers(&self.config, &mut self.secrets)?;
        while self.drivers.try_join_next().is_some() {}
        let limit = self.config.connect_timeout;
        let opening = Link::open(
            &self.config,
            self.headers.clone(),
            &self.names,
            &mut self.drivers,
        );
        tokio::time::timeout(limit, opening)
            .await
            .map_err(|_elapsed| Fault::of("timeout", &ConnectError::TimedOut(limit)))?
    }

    async fn run(mut self, link: Link, mut packets: Packets, outcomes: Outcomes) -> Fault {
        let fault = match self.deliver(link, &mut packets, &outcomes).await {
            Err(fault) => fault,
            Ok(()) => Fault::new("closed", "the session is over"),
        };
        Fault {
            why: self.without_secrets(fault.why),
            ..fault
        }
    }

    /// Delivers until a fault, or until nobody gives or takes any more.
    async fn deliver(
        &mut self,
        mut link: Link,
        packets: &mut Packets,
        outcomes: &Outcomes,
    ) -> Result<(), Fault> {
        let making = Making {
            form: self.config.form,
            protocol: self.config.protocol,
            gzip: self.config.gzip,
        };
        let mut tally = Tally::default();
        let mut flights: JoinSet<Landing> = JoinSet::new();
        let mut unpacking: Option<(PacketId, Unpacking)> = None;
        loop {
            let room = flights.len() < link.at_once(self.config.requests);
            let idle = unpacking.is_none();
            let part = async {
                match &mut unpacking {
                    Some((id, parts)) => (*id, parts.next().await),
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                Some(ended) = flights.join_next() => {
                    let (id, records, answer) = ended.map_err(|error| Fault::of("closed", &error))?;
                    self.landed(&mut tally, id, records, &answer?)?
                }
                (id, part) = part, if room => match part {
                    Part::Request(made) => {
                        if !link.is_open() && flights.is_empty() {
                            // It was ended while there was nothing to say; no fault, and nothing is lost by it.
                            link = self.connect().await?;
                        }
                        tally.sent(id);
                        let link = link.clone();
                        flights.spawn(async move { (id, made.records, link.post(made.bytes).await) });
                        None
                    }
                    Part::End => {
                        unpacking = None;
                        tally.whole(id).map(|outcome| (id, outcome))
                    }
                    Part::Unreadable(why) => {
                        unpacking = None;
                        // Of what was sent of it the last answer is waited for.
                        let refused = tally.refused(id, why, false);
                        refused.or_else(|| tally.whole(id)).map(|outcome| (id, outcome))
                    }
                },
                packet = packets.recv(), if idle && room => match packet {
                    Some(packet) => {
                        unpacking = Some((packet.id, Unpacking::begin(making, packet)));
                        None
                    }
                    None => return Ok(()),
                },
            };
            if let Some(outcome) = told
                && outcomes.send(outcome).await.is_err()
            {
                return Ok(());
            }
        }
    }

    /// What an answer makes of its packet.
    fn landed(
        &self,
        tally: &mut Tally,
        id: PacketId,
        records: usize,
        answer: &http::Answer,
    ) -> Result<Option<(PacketId, Outcome)>, Fault> {
        let verdict = match self.config.protocol {
            OtlpProtocol::Grpc => verdict::of_grpc(answer),
            OtlpProtocol::Http => verdict::of_http(answer),
        }?;
        let outcome = match verdict {
            Verdict::Accepted { warning } => {
                if let Some(warning) = warning {
                    let warning = self.without_secrets(warning);
                    tracing::debug!(?id, warning, "accepted with a warning");
                }
                tally.acked(id)
            }
            Verdict::Partly { rejected, why } => {
                let why = format!("{rejected} of {records} log records refused: {why}");
                tally.refused(id, self.without_secrets(why), true)
            }
            Verdict::Refused { why } => tally.refused(id, self.without_secrets(why), true),
            // The worker ends the session and offers again what was not acknowledged.
            Verdict::Later { why, after } => Some(Outcome::Retry {
                why: self.without_secrets(why),
                after,
            }),
        };
        Ok(outcome.map(|outcome| (id, outcome)))
    }

    /// A receiver may tell us our own headers.
    fn without_secrets(&self, mut text: String) -> String {
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "(redacted)");
            }
        }
        text
    }
}

/// What every request has in its head; `secrets` are the values from the file.
fn headers(config: &OtlpConfig, secrets: &mut Vec<String>) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    secrets.clear();
    if let Some(path) = &config.headers_file {
        let refused = |error: FileError| Fault::of("credentials", &error);
        let text = read_secret(path, WHAT).map_err(refused)?;
        for (name, value) in parse(&text).map_err(refused)? {
            if let Ok(value) = value.to_str() {
                // A token is a secret without the word before it, too.
                let parts = value.split_whitespace().chain([value]);
                secrets.extend(
                    parts
                        .filter(|part| part.len() >= LEAST_SECRET)
                        .map(str::to_owned),
                );
            }
            headers.append(name, value);
        }
        // The longest first, so that none leaves a rest of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    }
    let mut ours = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    ours(
        header::USER_AGENT,
        concat!("sensor/", env!("CARGO_PKG_VERSION")),
    );
    match config.protocol {
        OtlpProtocol::Grpc => {
            ours(header::CONTENT_TYPE, "application/grpc");
            ours(header::TE, "trailers");
            if config.gzip {
                ours(HeaderName::from_static("grpc-encoding"), "gzip");
            }
        }
        OtlpProtocol::Http => {
            ours(header::CONTENT_TYPE, "application/x-protobuf");
            if config.gzip {
                ours(header::CONTENT_ENCODING, "gzip");
            }
        }
    }
    Ok(headers)
}

const WHAT: &str = "headers_file";

/// Lines `Name: value`; empty ones and those that begin with `#` do not count. Errors never quote the text.
fn parse(text: &[u8]) -> Result<Vec<(HeaderName, HeaderValue)>, FileError> {
    let wrong = |why| FileError::Content { what: WHAT, why };
    let mut found = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or_else(|| wrong("a line is no `Name: value`"))?;
        let (name, value) = line.split_at(colon);
        let name = HeaderName::from_bytes(name.trim_ascii())
            .map_err(|_quoted| wrong("a header's name is none"))?;
        if [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
            header::HOST,
        ]
        .contains(&name)
        {
            return Err(wrong("a header belongs to the connection"));
        }
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        let mut value = HeaderValue::from_bytes(value)
            .map_err(|_quoted| wrong("a header's value cannot be sent"))?;
        value.set_sensitive(true);
        if found.len() == MAX_HEADERS {
            return Err(wrong("too many headers"));
        }
        found.push((name, value));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
