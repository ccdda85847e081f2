//! A connection to one broker: names by our resolver, TLS as configured, SASL, and one question at a time. Refuses frames beyond a
//! bound, answers to what was not asked, and anything that is said unasked.

use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::sasl::{Credentials, Exchange};
use super::wire::{self, Metadata, Produced, Reader, Request, Versions};
use crate::config::{HostPort, SaslMechanism, TlsConfig};
use crate::sink::connect::{self, ConnectError, Names};
use crate::sink::delivery::{Fault, printable};

/// Longest answer: the metadata of some ten thousand partitions.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Messages of one SASL exchange; none needs more than two.
const MAX_SASL_ROUNDS: usize = 4;

/// What a connection reads and writes.
trait Socket: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Socket for T {}

/// A connection, ready to be asked.
#[derive(Debug)]
pub(super) struct Broker {
    socket: Box<dyn Socket>,
    correlation: i32,
    versions: Versions,
    /// For people.
    address: HostPort,
}

impl Broker {
    /// Connects and makes itself known. The caller limits the time.
    pub(super) async fn connect(
        address: &HostPort,
        tls: Option<&TlsConfig>,
        sasl: Option<(SaslMechanism, &Credentials)>,
        names: &Names,
    ) -> Result<Self, Fault> {
        let refused = |error: ConnectError| Fault::of(error.word(), &error);
        let stream = connect::tcp(address, None, names).await.map_err(refused)?;
        let socket: Box<dyn Socket> = match tls {
            None => Box::new(stream),
            Some(tls) => {
                let stream = connect::tls::connect(stream, tls, &[]).await;
                Box::new(stream.map_err(|error| refused(error.into()))?)
            }
        };
        let mut broker = Self {
            socket,
            correlation: 0,
            versions: Versions { produce: 0 },
            address: address.clone(),
        };
        broker.versions = broker.ask_versions().await?;
        if let Some((mechanism, credentials)) = sasl {
            broker.authenticate(mechanism, credentials).await?;
        }
        Ok(broker)
    }

    /// Version of `Produce` that it takes.
    pub(super) const fn produce_version(&self) -> i16 {
        self.versions.produce
    }

    /// What it can do; also a question to a broker that has nothing else to say.
    pub(super) async fn ask_versions(&mut self) -> Result<Versions, Fault> {
        let answer = self.ask(wire::API_VERSIONS, 0, |_request| {}).await?;
        wire::versions(&answer)
    }

    async fn authenticate(
        &mut self,
        mechanism: SaslMechanism,
        credentials: &Credentials,
    ) -> Result<(), Fault> {
        let name = super::sasl::name(mechanism);
        let version = wire::SASL_HANDSHAKE_VERSION;
        let answer = self
            .ask(wire::SASL_HANDSHAKE, version, |request| request.text(name))
            .await?;
        let broken = wire::broken("SaslHandshake");
        let mut reader = Reader::new(&answer);
        let error = reader.i16().map_err(&broken)?;
        if error != 0 {
            let offered = reader.list(Reader::text).map_err(&broken)?;
            let offered: Vec<String> = offered.into_iter().flatten().collect();
            let mut fault = wire::fault(error, name);
            fault.why.push_str("; the broker offers ");
            fault.why.push_str(&printable(&offered.join(", ")));
            return Err(fault);
        }
        let (mut message, mut exchange) = Exchange::begin(mechanism, credentials)?;
        for _ in 0..MAX_SASL_ROUNDS {
            let answer = self
                .ask(wire::SASL_AUTHENTICATE, 0, |request| {
                    request.bytes(&message)
                })
                .await?;
            let broken = wire::broken("SaslAuthenticate");
            let mut reader = Reader::new(&answer);
            let error = reader.i16().map_err(&broken)?;
            let told = reader.text().map_err(&broken)?;
            if error != 0 {
                let mut fault = wire::fault(error, name);
                if let Some(told) = told {
                    fault.why.push_str(": ");
                    fault.why.push_str(&printable(&told));
                }
                return Err(fault);
            }
            let next;
            (next, exchange) = exchange.answer(reader.bytes().map_err(&broken)?)?;
            match next {
                Some(next) => message = next,
                None => return Ok(()),
            }
        }
        Err(Fault::protocol("SASL has no end"))
    }

    /// The cluster and the topic, as this broker knows them.
    pub(super) async fn metadata(&mut self, topic: &str) -> Result<Metadata, Fault> {
        let answer = self
            .ask(wire::METADATA, wire::METADATA_VERSION, |request| {
                wire::metadata_request(request, topic);
            })
            .await?;
        Metadata::read(&answer, topic)
    }

    /// Appends a batch. An answer in time is the caller's to wait for.
    pub(super) async fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        batch: &[u8],
    ) -> Result<Produced, Fault> {
        let version = self.versions.produce;
        let answer = self
            .ask(wire::PRODUCE, version, |request| {
                wire::produce_request(request, topic, partition, batch);
            })
            .await?;
        Produced::read(&answer, version, topic, partition)
    }

    /// Ends when the broker closes the connection, or says what it was not asked. May be dropped while it waits.
    pub(super) async fn broken(&mut self) -> Fault {
        match self.socket.read(&mut [0]).await {
            Ok(0) => self.closed(),
            Ok(_) => Fault::protocol("the broker speaks unasked"),
            Err(error) => self.failed(&error),
        }
    }

    async fn ask(
        &mut self,
        api: i16,
        version: i16,
        write: impl FnOnce(&mut Request),
    ) -> Result<Vec<u8>, Fault> {
        self.correlation = self.correlation.wrapping_add(1);
        let mut request = Request::new(api, version, self.correlation);
        write(&mut request);
        let written = self.socket.write_all(&request.finish()).await;
        // Written: in a TLS session that may mean "in a buffer".
        let flushed = match written {
            Ok(()) => self.socket.flush().await,
            Err(error) => Err(error),
        };
        flushed.map_err(|error| self.failed(&error))?;
        let mut length = [0; 4];
        let read = self.socket.read_exact(&mut length).await;
        read.map_err(|error| self.failed(&error))?;
        if let [0x15, 0x03, ..] = length {
            // An alert of TLS where a length should be.
            return Err(Fault::new(
                "tls",
                "the broker wants TLS: `tls = false` is wrong here",
            ));
        }
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(4..=MAX_ANSWER_BYTES).contains(&length) {
            return Err(Fault::protocol(format!("an answer of {length} bytes")));
        }
        let mut answer = vec![0; length];
        let read = self.socket.read_exact(&mut answer).await;
        read.map_err(|error| self.failed(&error))?;
        let to = answer.first_chunk().map(|bytes| i32::from_be_bytes(*bytes));
        if to != Some(self.correlation) {
            return Err(Fault::protocol("an answer to what was not asked"));
        }
        answer.drain(..4);
        Ok(answer)
    }

    fn closed(&self) -> Fault {
        Fault::new(
            "closed",
            format!("{} has closed the connection", self.address),
        )
    }

    fn failed(&self, error: &io::Error) -> Fault {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.closed();
        }
        Fault::new("closed", format!("{}: {error}", self.address))
    }
}
