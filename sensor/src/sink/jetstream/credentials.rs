//! Who we are to a NATS server: the fields of `CONNECT`. Secrets come from a file that only its owner may read, anew for every
//! connection; errors never have anything of its content.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::SigningKey;
use serde_json::{Map, Value};

use crate::config::Authentication;
use crate::sink::connect::{FileError, read_secret};

/// Name of the key, for errors.
const WHAT: &str = "credentials_file";
/// First byte of a seed, with the lower bits free: it reads as `S`.
const SEED: u8 = 18 << 3;
/// What stands before the 32 bytes of a seed of Ed25519 in PKCS #8 (RFC 8410).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

const fn wrong(why: &'static str) -> FileError {
    FileError::Content { what: WHAT, why }
}

/// Fields for `CONNECT`; the nonce is the server's.
pub(super) fn fields(
    kind: Authentication,
    path: &Path,
    nonce: &str,
) -> Result<Map<String, Value>, FileError> {
    let bytes = read_secret(path, WHAT)?;
    let text = std::str::from_utf8(&bytes).map_err(|_quoted| wrong("not text"))?;
    let fields = match kind {
        Authentication::Password => {
            let (user, password) = one_line(text)?
                .split_once(':')
                .ok_or(wrong("it is not user:password on one line"))?;
            vec![("user", user.to_owned()), ("pass", password.to_owned())]
        }
        Authentication::Token => vec![("auth_token", one_line(text)?.to_owned())],
        Authentication::Nkey => {
            let key = Nkey::read(one_line(text)?)?;
            vec![("nkey", key.public()?), ("sig", key.sign(nonce)?)]
        }
        Authentication::Credentials => {
            let jwt = section(text, "NATS USER JWT").ok_or(wrong("no JWT of a user in it"))?;
            let seed = section(text, "USER NKEY SEED").ok_or(wrong("no seed in it"))?;
            let signature = Nkey::read(seed)?.sign(nonce)?;
            vec![("jwt", jwt.to_owned()), ("sig", signature)]
        }
    };
    let fields = fields.into_iter();
    Ok(fields
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect())
}

fn one_line(text: &str) -> Result<&str, FileError> {
    let line = text.trim();
    if line.is_empty() || line.contains(char::is_control) {
        return Err(wrong("it is not one line"));
    }
    Ok(line)
}

/// The line after `-----BEGIN <title>-----`.
fn section<'t>(text: &'t str, title: &str) -> Option<&'t str> {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.trim_matches('-').strip_prefix("BEGIN ") == Some(title))?;
    lines
        .find(|line| !line.is_empty())
        .filter(|line| !line.starts_with('-'))
}

/// A key pair as NATS writes them.
struct Nkey {
    key: Arc<dyn SigningKey>,
    /// Whose it is: a user, an account, ..; the first byte of the public key's text.
    role: u8,
}

impl Nkey {
    fn read(seed: &str) -> Result<Self, FileError> {
        let wrong = || wrong("no seed of an nkey in it");
        let bytes = base32_decode(seed.as_bytes()).ok_or_else(wrong)?;
        let bytes: [u8; 36] = bytes.try_into().map_err(|_length| wrong())?;
        let [first, second, secret @ .., low, high] = bytes;
        let checked: Vec<u8> = [&[first, second], secret.as_slice()].concat();
        if first & 0xf8 != SEED || crc16(&checked).to_le_bytes() != [low, high] {
            return Err(wrong());
        }
        let der = [PKCS8.as_slice(), &secret].concat();
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(der)).map_err(|_unusable| wrong())?;
        Ok(Self {
            key,
            role: (first & 7) << 5 | second >> 3,
        })
    }

    fn public(&self) -> Result<String, FileError> {
        let wrong = || wrong("its public key is not known");
        let spki = self.key.public_key().ok_or_else(wrong)?;
        let key = spki.as_ref().last_chunk::<32>().ok_or_else(wrong)?;
        let mut bytes = [&[self.role], key.as_slice()].concat();
        bytes.extend(crc16(&bytes).to_le_bytes());
        Ok(base32_encode(&bytes))
    }

    fn sign(&self, nonce: &str) -> Result<String, FileError> {
        let signer = self.key.choose_scheme(&[SignatureScheme::ED25519]);
        let signature = signer.and_then(|signer| signer.sign(nonce.as_bytes()).ok());
        let signature = signature.ok_or(wrong("its key does not sign"))?;
        Ok(URL_SAFE_NO_PAD.encode(signature))
    }
}

/// RFC 4648, without padding.
fn base32_decode(text: &[u8]) -> Option<Vec<u8>> {
    let (mut bits, mut held) = (0_u32, 0_u32);
    let mut out = Vec::new();
    for byte in text {
        let value = ALPHABET.iter().position(|known| known == byte)?;
        bits = (bits << 5 | u32::try_from(value).ok()?) & 0xfff;
        held += 5;
        if held >= 8 {
            held -= 8;
            let [.., byte] = (bits >> held).to_be_bytes();
            out.push(byte);
        }
    }
    Some(out)
}

fn base32_encode(bytes: &[u8]) -> String {
    let (mut bits, mut held) = (0_u32, 0_u32);
    let mut out = String::new();
    let mut put = |value: u32| {
        let index = usize::try_from(value & 31).unwrap_or_default();
        out.extend(ALPHABET.get(index).map(|byte| char::from(*byte)));
    };
    for byte in bytes {
        bits = (bits << 8 | u32::from(*byte)) & 0xfff;
        held += 8;
        while held >= 5 {
            held -= 5;
            put(bits >> held);
        }
    }
    if held > 0 {
        put(bits << (5 - held));
    }
    out
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            let carry = crc & 0x8000 != 0;
            let shifted = crc << 1;
            if carry { shifted ^ 0x1021 } else { shifted }
        })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const SEED_TEXT: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

    fn read(kind: Authentication, text: &str) -> Result<Map<String, Value>, FileError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
        fields(kind, file.path(), "nonce")
    }

    #[test]
    fn every_kind_is_read() {
        let read = |kind, text: &str| Value::from(read(kind, text).unwrap());
        assert_eq!(
            read(Authentication::Password, "me:pass:word\n"),
            serde_json::json!({"user": "me", "pass": "pass:word"})
        );
        assert_eq!(
            read(Authentication::Token, " t0ken\n"),
            serde_json::json!({"auth_token": "t0ken"})
        );
        // The pair that the server's documentation has.
        let nkey = read(Authentication::Nkey, SEED_TEXT);
        assert_eq!(
            nkey["nkey"],
            "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
        );
        assert_eq!(nkey["sig"].as_str().unwrap().len(), 86);
        let file = format!(
            "-----BEGIN NATS USER JWT-----\nthe.jwt.here\n------END NATS USER JWT------\n\n************************* IMPORTANT *************************\n\n-----BEGIN USER NKEY SEED-----\n{SEED_TEXT}\n------END USER NKEY SEED------\n"
        );
        let both = read(Authentication::Credentials, &file);
        assert_eq!(both["jwt"], "the.jwt.here");
        assert_eq!(both["sig"], nkey["sig"]);
    }

    #[test]
    fn what_is_wrong_is_told_without_the_content() {
        let damaged = SEED_TEXT.replace("UAHU", "UAHV");
        for (kind, text) in [
            (Authentication::Password, "geheim"),
            (Authentication::Password, "geheim:a\nb"),
            (Authentication::Token, "geheim\u{7}"),
            (Authentication::Token, "\n"),
            (Authentication::Nkey, "geheim"),
            (Authentication::Nkey, &damaged),
            (
                Authentication::Nkey,
                "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
            ),
            (Authentication::Credentials, "geheim"),
            (
                Authentication::Credentials,
                "-----BEGIN NATS USER JWT-----\ngeheim\n",
            ),
        ] {
            let error = read(kind, text).unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(told.contains("credentials_file"), "{told}");
            assert!(!told.contains("geheim") && !told.contains("UAH"), "{told}");
        }
        let open = tempfile::NamedTempFile::new().unwrap();
        std::fs::set_permissions(open.path(), std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = fields(Authentication::Token, open.path(), "").unwrap_err();
        assert!(matches!(error, FileError::Open { .. }), "{error:?}");
    }
}
