//! Who we are to a broker: SASL with a name and a password, PLAIN (RFC 4616) or SCRAM (RFC 5802, RFC 7677). With SCRAM the broker
//! proves that it knows the password too, and never sees it. Refuses a broker that asks for the work of a day.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::SaslMechanism;
use crate::sink::delivery::{Fault, printable};

/// RFC 7677 asks for 4,096 at least; Kafka has at most 16,384.
const ITERATIONS: std::ops::RangeInclusive<u32> = 4_096..=100_000;
/// Bytes of chance in our part of the nonce.
const NONCE_BYTES: usize = 24;

/// A name and a password. Its `Debug` does not tell the password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    user: String,
    password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// `user:password` on one line; none: it is not.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (user, password) = std::str::from_utf8(bytes.trim_ascii())
            .ok()?
            .split_once(':')?;
        let plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
        (plain(user) && plain(password)).then(|| Self {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
}

/// Name of a mechanism in the protocol.
pub(super) const fn name(mechanism: SaslMechanism) -> &'static str {
    match mechanism {
        SaslMechanism::Plain => "PLAIN",
        SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
        SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
    }
}

/// What is said next.
#[derive(Debug)]
pub(super) enum Exchange {
    /// Everything was said; the broker's last word is empty.
    Plain,
    /// The broker answers with its nonce and the salt.
    Greeted(Scram),
    /// The broker answers with its proof.
    Proven {
        /// What it must be.
        key: Box<hmac::Key>,
        /// Of this.
        message: String,
    },
    /// Both are known to each other.
    Done,
}

impl Exchange {
    /// The first message, and what comes after it.
    pub(super) fn begin(
        mechanism: SaslMechanism,
        credentials: &Credentials,
    ) -> Result<(Vec<u8>, Self), Fault> {
        let algorithms = match mechanism {
            SaslMechanism::Plain => {
                let Credentials { user, password } = credentials;
                return Ok((format!("\0{user}\0{password}").into_bytes(), Self::Plain));
            }
            SaslMechanism::ScramSha256 => Algorithms {
                digest: &digest::SHA256,
                hmac: hmac::HMAC_SHA256,
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256,
            },
            SaslMechanism::ScramSha512 => Algorithms {
                digest: &digest::SHA512,
                hmac: hmac::HMAC_SHA512,
                pbkdf2: pbkdf2::PBKDF2_HMAC_SHA512,
            },
        };
        let mut chance = [0; NONCE_BYTES];
        rand::fill(&mut chance).map_err(|error| Fault::of("refused", &error))?;
        let scram = Scram::new(algorithms, credentials, STANDARD.encode(chance));
        let first = format!("n,,{}", scram.first);
        Ok((first.into_bytes(), Self::Greeted(scram)))
    }

    /// Takes the broker's answer; none: there is nothing more to say.
    pub(super) fn answer(self, answer: &[u8]) -> Result<(Option<Vec<u8>>, Self), Fault> {
        match self {
            Self::Plain | Self::Done => Ok((None, Self::Done)),
            Self::Greeted(scram) => {
                let (last, key, message) = scram.prove(text(answer)?)?;
                let key = Box::new(key);
                Ok((Some(last.into_bytes()), Self::Proven { key, message }))
            }
            Self::Proven { key, message } => {
                let answer = text(answer)?;
                if let Some(error) = attribute(answer, "e") {
                    return Err(Fault::new(
                        "refused",
                        format!("SCRAM: {}", printable(error)),
                    ));
                }
                let proof = attribute(answer, "v").and_then(|proof| STANDARD.decode(proof).ok());
                let proof = proof.ok_or_else(|| Fault::protocol("SCRAM: an end without proof"))?;
                hmac::verify(&key, message.as_bytes(), &proof).map_err(|_unspecified| {
                    Fault::new("refused", "SCRAM: the broker does not know the password")
                })?;
                Ok((None, Self::Done))
            }
        }
    }
}

fn text(answer: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(answer)
        .map_err(|_other| Fault::protocol("SCRAM: an answer that is no text"))
}

fn attribute<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let mut attributes = message.split(',').filter_map(|part| part.split_once('='));
    attributes
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

struct Algorithms {
    digest: &'static digest::Algorithm,
    hmac: hmac::Algorithm,
    pbkdf2: pbkdf2::Algorithm,
}

/// SCRAM, begun.
pub(super) struct Scram {
    algorithms: Algorithms,
    password: String,
    nonce: String,
    /// Our first message without its head.
    first: String,
}

impl fmt::Debug for Scram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scram").finish_non_exhaustive()
    }
}

impl Scram {
    fn new(algorithms: Algorithms, credentials: &Credentials, nonce: String) -> Self {
        let user = credentials.user.replace('=', "=3D").replace(',', "=2C");
        Self {
            algorithms,
            password: credentials.password.clone(),
            first: format!("n={user},r={nonce}"),
            nonce,
        }
    }

    /// Our proof, and the key and message of the broker's.
    fn prove(self, answer: &str) -> Result<(String, hmac::Key, String), Fault> {
        let broken = |what: &str| Fault::protocol(format!("SCRAM: {what}"));
        if let Some(error) = attribute(answer, "e") {
            return Err(Fault::new(
                "refused",
                format!("SCRAM: {}", printable(error)),
            ));
        }
        let nonce = attribute(answer, "r")
            .filter(|nonce| nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce))
            .ok_or_else(|| broken("the broker's nonce does not begin with ours"))?;
        let salt = attribute(answer, "s").and_then(|salt| STANDARD.decode(salt).ok());
        let salt = salt.ok_or_else(|| broken("no salt"))?;
        let iterations: u32 = attribute(answer, "i")
            .and_then(|count| count.parse().ok())
            .ok_or_else(|| broken("no count of iterations"))?;
        let iterations = NonZeroU32::new(iterations)
            .filter(|count| ITERATIONS.contains(&count.get()))
            .ok_or_else(|| broken(&format!("{iterations} iterations are not done")))?;

        let Algorithms {
            digest: hash,
            hmac: algorithm,
            pbkdf2: stretch,
        } = self.algorithms;
        let mut salted = vec![0; hash.output_len];
        pbkdf2::derive(
            stretch,
            iterations,
            &salt,
            self.password.as_bytes(),
            &mut salted,
        );
        let salted = hmac::Key::new(algorithm, &salted);
        let client = hmac::sign(&salted, b"Client Key");
        let stored = digest::digest(hash, client.as_ref());
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{answer},{without_proof}", self.first);
        let stored = hmac::Key::new(algorithm, stored.as_ref());
        let signature = hmac::sign(&stored, message.as_bytes());
        let pairs = client.as_ref().iter().zip(signature.as_ref());
        let proof: Vec<u8> = pairs.map(|(one, other)| one ^ other).collect();
        let last = format!("{without_proof},p={}", STANDARD.encode(proof));
        let server = hmac::sign(&salted, b"Server Key");
        Ok((last, hmac::Key::new(algorithm, server.as_ref()), message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials::read(b"user:pencil\n").unwrap()
    }

    fn greeted(nonce: &str) -> Exchange {
        let algorithms = Algorithms {
            digest: &digest::SHA256,
            hmac: hmac::HMAC_SHA256,
            pbkdf2: pbkdf2::PBKDF2_HMAC_SHA256,
        };
        Exchange::Greeted(Scram::new(algorithms, &credentials(), nonce.to_owned()))
    }

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const ANSWER: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    /// The example of RFC 7677, section 3.
    #[test]
    fn the_example_of_the_standard() {
        let (said, next) = greeted(NONCE).answer(ANSWER.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(said.unwrap()).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let (said, next) = next
            .answer(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
            .unwrap();
        assert!(said.is_none() && matches!(next, Exchange::Done));
    }

    #[test]
    fn a_broker_that_does_not_know_the_password_is_not_believed() {
        for (last, word) in [
            ("v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "refused"),
            ("v=", "refused"),
            ("", "protocol"),
            ("v", "protocol"),
            ("e=invalid-proof", "refused"),
        ] {
            let (_, next) = greeted(NONCE).answer(ANSWER.as_bytes()).unwrap();
            let fault = next.answer(last.as_bytes()).unwrap_err();
            assert_eq!(fault.word, word, "{last}: {fault}");
        }
    }

    #[test]
    fn answers_that_make_no_sense_end_it() {
        for answer in [
            "",
            "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=?,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4294967295",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==",
        ] {
            let fault = greeted(NONCE).answer(answer.as_bytes()).unwrap_err();
            assert_eq!(fault.word, "protocol", "{answer}: {fault}");
        }
        let fault = greeted(NONCE).answer(b"\xff").unwrap_err();
        assert_eq!(fault.word, "protocol");
        let fault = greeted(NONCE).answer(b"e=unknown-user").unwrap_err();
        assert_eq!(fault.word, "refused");
    }

    #[test]
    fn names_are_escaped_and_passwords_are_not_shown() {
        let odd = Credentials::read(b"a=b,c:d:e,f=").unwrap();
        let (first, exchange) = Exchange::begin(SaslMechanism::ScramSha512, &odd).unwrap();
        let first = String::from_utf8(first).unwrap();
        assert!(first.starts_with("n,,n=a=3Db=2Cc,r="), "{first}");
        let shown = format!("{odd:?} {exchange:?}");
        assert!(!shown.contains("d:e"), "{shown}");
        let (first, _) = Exchange::begin(SaslMechanism::Plain, &odd).unwrap();
        assert_eq!(first, b"\0a=b,c\0d:e,f=");
        for bytes in [&b""[..], b"user", b":x", b"x:", b"a:b\nc:d", b"\xff:x"] {
            assert_eq!(Credentials::read(bytes), None, "{bytes:?}");
        }
    }
}
