//! Secrets told by the name that stands before them: `DB_TOKEN=...`, `"password": "..."`.

use std::borrow::Cow;

use super::{MASK, NAME_MAX_BYTES, Policy};

/// Masks the values of `name=value`, `name: value` and `"name": "value"` whose names tell a secret.
pub(super) fn pairs<'a>(policy: &Policy, text: &'a [u8]) -> Cow<'a, [u8]> {
    let mut out: Vec<u8> = Vec::new();
    let mut done = 0;
    let mut at = 0;
    let connection = text.contains(&b';');
    while let Some(found) = text
        .get(at..)
        .and_then(|rest| rest.iter().position(|byte| matches!(byte, b'=' | b':')))
    {
        let sign = at + found;
        at = sign + 1;
        let name = name_before(text.get(..sign).unwrap_or_default());
        if name.is_empty() {
            continue;
        }
        // The name first: to look for the end of each value would take quadratic time.
        let value = text.get(at..).unwrap_or_default();
        if !secret_pair(policy, name, value, text, sign, connection) {
            continue;
        }
        let (skip, length) = value_extent(value, text.get(sign) == Some(&b':'));
        let value = value.get(skip..skip + length).unwrap_or_default();
        if value.is_empty() || value == MASK {
            continue;
        }
        out.extend_from_slice(text.get(done..at + skip).unwrap_or_default());
        out.extend_from_slice(MASK);
        done = at + skip + length;
        at = done;
    }
    if done == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(text.get(done..).unwrap_or_default());
    Cow::Owned(out)
}

/// The name that ends here: letters, digits and `_-.`, perhaps in quotes; empty if there is none.
fn name_before(head: &[u8]) -> &[u8] {
    let head = head
        .strip_suffix(b"\"")
        .or_else(|| head.strip_suffix(b"'"))
        .unwrap_or(head);
    let length = head
        .iter()
        .rev()
        .take(NAME_MAX_BYTES)
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        .count();
    head.get(head.len() - length..).unwrap_or_default()
}

/// How many bytes stand before the value, and how many it has: to the closing quote, else to a separator.
fn value_extent(value: &[u8], colon: bool) -> (usize, usize) {
    let blanks = if colon {
        value.iter().take_while(|byte| **byte == b' ').count()
    } else {
        0
    };
    let rest = value.get(blanks..).unwrap_or_default();
    if let Some((quote @ (b'"' | b'\''), inner)) = rest.split_first() {
        let length = inner
            .iter()
            .position(|byte| byte == quote)
            .unwrap_or(inner.len());
        return (blanks + 1, length);
    }
    let length = rest
        .iter()
        .position(|byte| {
            byte.is_ascii_whitespace() || matches!(byte, b'&' | b';' | b',' | b'"' | b'\'')
        })
        .unwrap_or(rest.len());
    (blanks, length)
}

/// A pair inside a longer text. `PWD` is a directory as a variable and a password in a connection string.
fn secret_pair(
    policy: &Policy,
    name: &[u8],
    value: &[u8],
    text: &[u8],
    sign: usize,
    connection: bool,
) -> bool {
    if name.eq_ignore_ascii_case(b"pwd") {
        return connection && text.get(sign) == Some(&b'=') && !value.starts_with(b"/");
    }
    // `image:tag`, `host:port`, `x:/mnt`: a colon joins many things; as a pair it has a blank or a quote.
    let quoted = sign > 0 && matches!(text.get(sign - 1), Some(b'"' | b'\''));
    let colon = text.get(sign) == Some(&b':');
    if colon && !quoted && !matches!(text.get(sign + 1), Some(b' ')) {
        return false;
    }
    let blanks = value
        .iter()
        .take(4)
        .take_while(|byte| matches!(byte, b' ' | b'"' | b'\''))
        .count();
    policy.secret(name, value.get(blanks..).unwrap_or_default())
}

/// Whether a name of an option, variable or field says that its value is a secret.
pub(super) fn secret_name(name: &[u8], value: &[u8]) -> bool {
    if name.len() > NAME_MAX_BYTES {
        return false;
    }
    let words = name_words(name);
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    while words
        .last()
        .is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_digit()))
    {
        words.pop();
    }
    let Some((last, before)) = words.split_last() else {
        return false;
    };
    // What follows tells of a secret and is none.
    const ABOUT: &[&str] = &[
        "file",
        "files",
        "path",
        "dir",
        "directory",
        "sock",
        "socket",
        "stdin",
        "fd",
        "type",
        "name",
        "names",
        "length",
        "len",
        "min",
        "max",
        "ttl",
        "expiry",
        "expires",
        "policy",
        "prompt",
        "store",
        "command",
        "cmd",
        "program",
        "helper",
        "url",
        "uri",
        "endpoint",
        "id",
        "method",
        "hint",
        "field",
        "auth",
        "authentication",
        "manager",
        "version",
        "provider",
        "only",
        "login",
        "env",
        "keys",
    ];
    const STRONG: &[&str] = &["password", "passwd", "passphrase", "secret"];
    const WEAK: &[&str] = &[
        "pass",
        "pw",
        "pat",
        "token",
        "bearer",
        "apikey",
        "authtoken",
        "accesstoken",
        "accesskey",
        "secretkey",
        "sshpass",
        "credential",
        "credentials",
        "secrets",
        "passwords",
    ];
    const KEY_OF: &[&str] = &[
        "api",
        "access",
        "secret",
        "account",
        "shared",
        "auth",
        "encryption",
        "master",
        "signing",
        "service",
        "deploy",
        "storage",
        "app",
        "application",
        "consumer",
        "client",
        "license",
        "licence",
    ];
    if ABOUT.contains(last) || matches!(words.first(), Some(&("no" | "ask" | "prompt" | "without")))
    {
        return false;
    }
    if words
        .iter()
        .any(|word| STRONG.iter().any(|strong| word.ends_with(strong)))
    {
        return true;
    }
    match (*last, before.last().copied()) {
        ("key", Some("private")) => !matches!(value.first(), None | Some(b'/' | b'.' | b'~')),
        ("key", Some(of)) => KEY_OF.contains(&of),
        // Alone it is the working directory.
        ("pwd", Some(_)) => true,
        (word, _) => WEAK.contains(&word),
    }
}

/// Words of a name in lower case: parted by what is no letter or digit, and where a capital follows a small letter.
fn name_words(name: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut small = false;
    for &byte in name {
        if !byte.is_ascii_alphanumeric() || (small && byte.is_ascii_uppercase()) {
            words.push(std::mem::take(&mut word));
        }
        if byte.is_ascii_alphanumeric() {
            word.push(char::from(byte.to_ascii_lowercase()));
        }
        small = byte.is_ascii_lowercase();
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}
