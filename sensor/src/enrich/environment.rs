//! Arguments and environment: split into strings, reduced to what may leave the host.
//!
//! Of the environment only variables whose names are allowed are kept. In what is kept, values that look like secrets are
//! replaced by [`MASK`], and where is said. The rules look for names (`--password`, `DB_TOKEN`), for the habits
//! of known tools (`mysql -p`), and for forms that secrets have (keys, tokens, passwords in URLs). They cannot know every
//! secret: a password as a bare argument of an unknown tool looks like any other word.
//!
//! Work is linear in the length of the input, and the number of strings is limited ([`MAX_STRINGS`]).

use std::borrow::Cow;

use regex::bytes::{Regex, RegexSet};
use sensor_proto::v1::EnvironmentVariable;

mod name;
mod tool;

use name::{pairs, secret_name};
use tool::{Habits, Verdict, command};

/// What stands in the place of a secret.
pub const MASK: &[u8] = b"***";

/// Most arguments, and most variables, that are kept of one process. 32 KiB of empty strings would otherwise
/// grow to megabytes.
pub const MAX_STRINGS: usize = 8192;

/// Longest name of an option or variable that is looked at for secret words.
const NAME_MAX_BYTES: usize = 128;

/// Forms that secrets have, wherever they stand. The first group is what is masked, without one the whole match.
const PATTERNS: &[&str] = &[
    // scheme://user:password@host
    r"(?-u)[A-Za-z][A-Za-z0-9+.-]{0,30}://[^/\s:@]*:([^/\s]+)@",
    // access key ids of AWS
    r"(?-u)\b((?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16})\b",
    // HTTP authorization, in a header or alone
    r#"(?i-u)\bauthorization["']?\s*[:=]\s*["']?(?:(?:basic|bearer|token|digest|negotiate|apikey)\s+)?([^'"\r\n]+)"#,
    r"(?i-u)\bbearer\s+([A-Za-z0-9._~+/=-]{8,})",
    // a private key in PEM form, whole or cut
    r"(?s-u)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(.+?)(?:-----END|\z)",
    // tokens that carry the mark of their maker
    r"(?-u)\b(gh[pousr]_[A-Za-z0-9]{30,})",
    r"(?-u)\b(github_pat_[A-Za-z0-9_]{22,})",
    r"(?-u)\b(glpat-[A-Za-z0-9_-]{20,})",
    r"(?-u)\b(xox[abeoprs]-[A-Za-z0-9-]{10,})",
    r"(?-u)\b(sk-[A-Za-z0-9_-]{20,})",
    r"(?-u)\b([rs]k_live_[A-Za-z0-9]{16,})",
    r"(?-u)\b(AIza[A-Za-z0-9_-]{35})",
    r"(?-u)\b(ya29\.[A-Za-z0-9_-]{20,})",
    r"(?-u)\b(npm_[A-Za-z0-9]{36})",
    r"(?-u)\b(hv[sb]\.[A-Za-z0-9_-]{20,})",
    r"(?-u)\b(eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+)",
];

/// Why a policy cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A built-in form is refused by the library of regular expressions.
    #[error("the built-in form `{pattern}` cannot be used")]
    Pattern {
        /// The form.
        pattern: &'static str,
        /// What the library said.
        source: Box<regex::Error>,
    },
}

/// What is kept and what is masked. Made once from the configuration.
#[derive(Debug)]
pub struct Policy {
    exact: std::collections::HashSet<Vec<u8>>,
    globs: Vec<Vec<u8>>,
    redact: Vec<Vec<u8>>,
    any: RegexSet,
    each: Vec<Regex>,
}

/// Arguments as they may leave the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// The arguments, the program's own name first.
    pub strings: Vec<Vec<u8>>,
    /// Positions of those of which something was masked.
    pub redacted: Vec<u32>,
    /// There were more than [`MAX_STRINGS`].
    pub cut: bool,
}

/// Environment as it may leave the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Environment {
    /// Variables whose names are allowed.
    pub variables: Vec<EnvironmentVariable>,
    /// How many variables were there and are not kept.
    pub withheld: u32,
    /// There were more than [`MAX_STRINGS`] allowed ones.
    pub cut: bool,
    /// Address and port of the remote end from `SSH_CONNECTION`, whether that name is allowed or not.
    pub remote: Option<(std::net::IpAddr, u16)>,
}

impl Policy {
    /// Keeps variables of the names in `allow`; masks, beside what the built-in rules say, the values of the names in
    /// `redact` (in any case). In both `*` stands for any bytes.
    ///
    /// # Errors
    /// [`PolicyError`] if a built-in form is refused.
    pub fn new<A: AsRef<str>, R: AsRef<str>>(
        allow: &[A],
        redact: &[R],
    ) -> Result<Self, PolicyError> {
        let (globs, exact): (Vec<_>, Vec<_>) = allow
            .iter()
            .map(|name| name.as_ref().as_bytes().to_vec())
            .partition(|name| name.contains(&b'*'));
        let fail = |pattern| {
            move |source| PolicyError::Pattern {
                pattern,
                source: Box::new(source),
            }
        };
        let each = PATTERNS
            .iter()
            .map(|pattern| Regex::new(pattern).map_err(fail(pattern)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            exact: exact.into_iter().collect(),
            globs,
            redact: redact
                .iter()
                .map(|name| name.as_ref().to_ascii_lowercase().into_bytes())
                .collect(),
            any: RegexSet::new(PATTERNS).map_err(fail("all of them"))?,
            each,
        })
    }

    /// Arguments from NUL-closed strings (the last may be cut and not closed).
    #[must_use]
    pub fn arguments(&self, bytes: &[u8]) -> Arguments {
        let mut out = Arguments::default();
        let mut habits = Habits::default();
        let mut strings = split(bytes);
        for (index, string) in strings.by_ref().take(MAX_STRINGS).enumerate() {
            let masked = self.argument(&mut habits, string);
            if let Cow::Owned(_) = masked {
                out.redacted.push(u32::try_from(index).unwrap_or(u32::MAX));
            }
            out.strings.push(masked.into_owned());
        }
        out.cut = strings.next().is_some();
        out
    }

    /// Environment from NUL-closed strings (the last may be cut and not closed).
    #[must_use]
    pub fn environment(&self, bytes: &[u8]) -> Environment {
        let mut out = Environment::default();
        for string in split(bytes).filter(|string| !string.is_empty()) {
            let equals = string.iter().position(|&byte| byte == b'=');
            let (name, value) = match equals {
                Some(at) => (string.get(..at).unwrap_or_default(), string.get(at + 1..)),
                None => (string, None),
            };
            if name == b"SSH_CONNECTION" {
                out.remote = value.and_then(ssh_remote);
            }
            if !self.allows(name) {
                out.withheld = out.withheld.saturating_add(1);
                continue;
            }
            if out.variables.len() == MAX_STRINGS {
                out.cut = true;
                continue;
            }
            out.variables.push(self.variable(name, value));
        }
        out
    }

    /// Whether variables of this name are kept.
    #[must_use]
    pub fn allows(&self, name: &[u8]) -> bool {
        self.exact.contains(name) || self.globs.iter().any(|glob| matches_glob(glob, name))
    }

    /// Whether the value of this name is a secret: by the built-in words or by the configuration.
    fn secret(&self, name: &[u8], value: &[u8]) -> bool {
        if secret_name(name, value) {
            return true;
        }
        if self.redact.is_empty() || name.len() > NAME_MAX_BYTES {
            return false;
        }
        let dashes = name.iter().take_while(|byte| **byte == b'-').count();
        let name = name.get(dashes..).unwrap_or_default().to_ascii_lowercase();
        self.redact.iter().any(|glob| matches_glob(glob, &name))
    }

    fn variable(&self, name: &[u8], value: Option<&[u8]>) -> EnvironmentVariable {
        let name_tells = value.is_some_and(|value| self.secret(name, value));
        let masked = match value {
            Some(_) if name_tells => None,
            Some(value) => Some(self.text(value)),
            None => None,
        };
        EnvironmentVariable {
            name: name.to_vec(),
            redacted: name_tells || matches!(masked, Some(Cow::Owned(_))),
            value: masked.map(Cow::into_owned),
        }
    }

    /// One argument; an owned result has something masked.
    fn argument<'a>(&self, habits: &mut Habits, string: &'a [u8]) -> Cow<'a, [u8]> {
        let spaced = string.iter().any(u8::is_ascii_whitespace);
        match habits.next(self, string, spaced) {
            Verdict::Keep => {}
            Verdict::MaskFrom(at) => {
                let mut masked = string.get(..at).unwrap_or_default().to_vec();
                masked.extend_from_slice(MASK);
                return Cow::Owned(masked);
            }
        }
        let text = self.text(string);
        if !spaced {
            return text;
        }
        // A command line within an argument (`sh -c`, `ssh host ...`): its words by the same rules.
        match command(self, &text) {
            Some(masked) => Cow::Owned(masked),
            None => text,
        }
    }

    /// Any text: `name=value` and `"name": "value"` by the name, then the forms that secrets have.
    fn text<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let mut out = pairs(self, text);
        let hits = self.any.matches(&out);
        if !hits.matched_any() {
            return out;
        }
        for regex in hits.iter().filter_map(|index| self.each.get(index)) {
            let mut masked = Vec::with_capacity(out.len());
            let mut done = 0;
            for captures in regex.captures_iter(&out) {
                let Some(secret) = captures.get(1).or_else(|| captures.get(0)) else {
                    continue;
                };
                if secret.is_empty() || secret.as_bytes() == MASK {
                    continue;
                }
                masked.extend_from_slice(out.get(done..secret.start()).unwrap_or_default());
                masked.extend_from_slice(MASK);
                done = secret.end();
            }
            if done > 0 {
                masked.extend_from_slice(out.get(done..).unwrap_or_default());
                out = Cow::Owned(masked);
            }
        }
        out
    }
}

/// Strings closed by NUL; what follows the last NUL is a string that was cut.
fn split(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let closed = bytes.strip_suffix(b"\0");
    let none = bytes.is_empty();
    closed
        .unwrap_or(bytes)
        .split(|&byte| byte == 0)
        .filter(move |_| !none)
}

/// Whether `text` is `glob`, in which `*` stands for any bytes.
fn matches_glob(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut here) = (0, 0);
    // Where the last `*` stands, and how much of the text it takes for now.
    let mut star: Option<(usize, usize)> = None;
    while let Some(&byte) = text.get(here) {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at + 1, here));
                at += 1;
            }
            Some(&wanted) if wanted == byte => {
                at += 1;
                here += 1;
            }
            Some(_) | None => match star {
                Some((after, taken)) => {
                    star = Some((after, taken + 1));
                    at = after;
                    here = taken + 1;
                }
                None => return false,
            },
        }
    }
    glob.get(at..)
        .is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// Address and port of the client in `SSH_CONNECTION`: `client-address client-port server-address server-port`.
fn ssh_remote(value: &[u8]) -> Option<(std::net::IpAddr, u16)> {
    let text = std::str::from_utf8(value).ok()?;
    let mut words = text.split(' ');
    let address = words.next()?;
    // A link-local address carries its interface.
    let address = address.split_once('%').map_or(address, |(bare, _)| bare);
    Some((address.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests;
