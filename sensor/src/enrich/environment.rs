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

/// What to do with one argument because of the option that it is, or that stood before it.
enum Verdict {
    Keep,
    /// Keep this many bytes, mask the rest.
    MaskFrom(usize),
}

/// What stands before decides what the next argument is.
#[derive(Default)]
struct Habits {
    tool: Option<&'static Tool>,
    login: bool,
    next: Next,
}

#[derive(Clone, Copy, Default)]
enum Next {
    #[default]
    Ordinary,
    /// The whole argument is a secret, unless it is an option itself.
    Secret,
    /// What follows the first such byte is.
    After(u8),
}

/// A tool that takes secrets by short options.
struct Tool {
    names: &'static [&'static str],
    /// Options whose value, in the next argument or attached, is a secret.
    separate: &'static [&'static str],
    /// Options whose value can only be attached (alone they ask).
    attached: &'static [&'static str],
    /// Options whose value is `user<byte>secret`.
    pair: &'static [(&'static str, u8)],
    /// Only with the subcommand `login`.
    login: bool,
    /// Runs another command: its own options end at the first argument that is none.
    runs: bool,
}

static NOTHING: Tool = NO_HABITS;

const NO_HABITS: Tool = Tool {
    names: &[],
    separate: &[],
    attached: &[],
    pair: &[],
    login: false,
    runs: false,
};

const TOOLS: &[Tool] = &[
    Tool {
        names: &[
            "mysql",
            "mysqldump",
            "mysqladmin",
            "mysqlimport",
            "mysqlshow",
            "mysqlcheck",
            "mysqlslap",
            "mariadb",
            "mariadb-dump",
            "mariadb-admin",
            "mariadb-import",
            "mariadb-show",
            "mariadb-check",
            "mycli",
            "7z",
            "7za",
            "7zr",
        ],
        attached: &["-p"],
        ..NO_HABITS
    },
    Tool {
        names: &["sshpass"],
        separate: &["-p"],
        runs: true,
        ..NO_HABITS
    },
    Tool {
        names: &[
            "mongo",
            "mongosh",
            "mongodump",
            "mongorestore",
            "mongoexport",
            "rdesktop",
            "useradd",
            "usermod",
        ],
        separate: &["-p"],
        ..NO_HABITS
    },
    Tool {
        names: &["curl"],
        pair: &[
            ("-u", b':'),
            ("--user", b':'),
            ("-U", b':'),
            ("--proxy-user", b':'),
        ],
        ..NO_HABITS
    },
    Tool {
        names: &["http", "https", "xh"],
        pair: &[("-a", b':'), ("--auth", b':')],
        ..NO_HABITS
    },
    Tool {
        names: &["redis-cli", "keydb-cli", "valkey-cli"],
        separate: &["-a"],
        ..NO_HABITS
    },
    Tool {
        names: &[
            "ldapsearch",
            "ldapadd",
            "ldapmodify",
            "ldapdelete",
            "ldapwhoami",
            "ldapcompare",
            "ldapmodrdn",
        ],
        separate: &["-w"],
        ..NO_HABITS
    },
    Tool {
        names: &["ldappasswd"],
        separate: &["-w", "-s", "-a"],
        ..NO_HABITS
    },
    Tool {
        names: &["smbclient", "rpcclient", "smbget", "net"],
        pair: &[("-U", b'%'), ("--user", b'%')],
        ..NO_HABITS
    },
    Tool {
        names: &["zip", "unzip", "zipcloak", "sqlcmd", "bcp", "ipmitool"],
        separate: &["-P"],
        ..NO_HABITS
    },
    Tool {
        names: &[
            "snmpget",
            "snmpwalk",
            "snmpset",
            "snmpbulkwalk",
            "snmpbulkget",
            "snmpgetnext",
            "snmptrap",
        ],
        separate: &["-c", "-A", "-X"],
        ..NO_HABITS
    },
    Tool {
        names: &["openssl"],
        separate: &["-k", "-K"],
        ..NO_HABITS
    },
    Tool {
        names: &["xfreerdp", "wlfreerdp"],
        attached: &["/p:"],
        ..NO_HABITS
    },
    Tool {
        names: &[
            "docker", "podman", "buildah", "skopeo", "nerdctl", "helm", "az", "oras", "crane",
        ],
        separate: &["-p"],
        login: true,
        ..NO_HABITS
    },
];

impl Habits {
    fn next(&mut self, policy: &Policy, string: &[u8], spaced: bool) -> Verdict {
        match std::mem::take(&mut self.next) {
            Next::Secret if !string.starts_with(b"-") && !string.is_empty() => {
                return Verdict::MaskFrom(0);
            }
            Next::After(byte) => {
                if let Some(at) = string.iter().position(|found| *found == byte) {
                    return Verdict::MaskFrom(at + 1);
                }
            }
            Next::Secret | Next::Ordinary => {}
        }
        if !string.starts_with(b"-") {
            if let Some(rest) = string.strip_prefix(b"pass:")
                && !rest.is_empty()
            {
                return Verdict::MaskFrom(5);
            }
            if spaced {
                return Verdict::Keep;
            }
            match self.tool {
                None => {
                    self.tool = tool(string);
                    return Verdict::Keep;
                }
                Some(before) if before.runs => {
                    self.tool = tool(string).or(Some(&NOTHING));
                    return Verdict::Keep;
                }
                Some(_) => {}
            }
            self.login |= string == b"login";
        }
        if let Some(verdict) = self.short(string) {
            return verdict;
        }
        // `--name value`; `--name=value` is found by its equals sign.
        if string.starts_with(b"-")
            && string.len() <= NAME_MAX_BYTES
            && !string.contains(&b'=')
            && policy.secret(string, b"")
        {
            self.next = Next::Secret;
        }
        Verdict::Keep
    }

    fn short(&mut self, string: &[u8]) -> Option<Verdict> {
        let tool = self.tool.filter(|tool| !tool.login || self.login)?;
        for option in tool.attached {
            if let Some(rest) = string.strip_prefix(option.as_bytes())
                && !rest.is_empty()
            {
                return Some(Verdict::MaskFrom(option.len()));
            }
        }
        for option in tool.separate {
            match string.strip_prefix(option.as_bytes()) {
                Some([]) => {
                    self.next = Next::Secret;
                    return Some(Verdict::Keep);
                }
                // `-pass` of openssl is an option of its own; `-pSECRET` of sshpass is none.
                Some(_) if option.len() == 2 && !longer_option(tool, string) => {
                    return Some(Verdict::MaskFrom(2));
                }
                Some(_) | None => {}
            }
        }
        for &(option, byte) in tool.pair {
            let Some(rest) = string.strip_prefix(option.as_bytes()) else {
                continue;
            };
            if rest.is_empty() {
                self.next = Next::After(byte);
                return Some(Verdict::Keep);
            }
            let attached = option.len() == 2 || rest.starts_with(b"=");
            if attached && let Some(at) = rest.iter().position(|found| *found == byte) {
                return Some(Verdict::MaskFrom(option.len() + at + 1));
            }
        }
        None
    }
}

/// Tools whose options are words after one dash do not attach values to one letter.
fn longer_option(tool: &Tool, string: &[u8]) -> bool {
    tool.login
        || string.starts_with(b"--")
        || tool.names.iter().any(|name| {
            matches!(
                *name,
                "openssl" | "sqlcmd" | "rdesktop" | "useradd" | "usermod"
            )
        })
}

fn tool(string: &[u8]) -> Option<&'static Tool> {
    let name = string.rsplit(|&byte| byte == b'/').next()?;
    TOOLS.iter().find(|tool| {
        tool.names
            .iter()
            .any(|candidate| candidate.as_bytes() == name)
    })
}

/// The words of a command line within an argument, by the rules for arguments; `None` if nothing is masked.
fn command(policy: &Policy, text: &[u8]) -> Option<Vec<u8>> {
    let mut habits = Habits::default();
    let mut out = Vec::with_capacity(text.len());
    let mut masked = false;
    let mut rest = text;
    while !rest.is_empty() {
        let blank = |byte: &u8| byte.is_ascii_whitespace();
        let gap = rest
            .iter()
            .position(|byte| !blank(byte))
            .unwrap_or(rest.len());
        let (space, tail) = rest.split_at(gap);
        let length = tail.iter().position(blank).unwrap_or(tail.len());
        let (word, tail) = tail.split_at(length);
        out.extend_from_slice(space);
        rest = tail;
        // A new command begins: what the words before meant is over.
        if matches!(word, b"|" | b"||" | b"&&" | b";" | b"&") {
            habits = Habits::default();
        }
        let quotes = word
            .iter()
            .take_while(|byte| matches!(byte, b'"' | b'\''))
            .count();
        let (open, bare) = word.split_at(quotes);
        match habits.next(policy, bare, false) {
            Verdict::MaskFrom(at) if bare.get(at..) != Some(MASK) && !bare.is_empty() => {
                masked = true;
                out.extend_from_slice(open);
                out.extend_from_slice(bare.get(..at).unwrap_or_default());
                out.extend_from_slice(MASK);
                // The rest of a quoted value goes with it.
                if let Some(quote) = open.first().or(bare.get(at))
                    && matches!(quote, b'"' | b'\'')
                {
                    let inner = bare.get(at..).unwrap_or_default();
                    let closed = inner
                        .iter()
                        .skip(usize::from(open.is_empty()))
                        .any(|b| b == quote);
                    if !closed {
                        let end = rest.iter().position(|b| b == quote);
                        rest = rest
                            .get(end.map_or(rest.len(), |at| at + 1)..)
                            .unwrap_or_default();
                    }
                    out.push(*quote);
                }
            }
            Verdict::MaskFrom(_) | Verdict::Keep => out.extend_from_slice(word),
        }
        if matches!(word.last(), Some(b';' | b'|' | b'&')) {
            habits = Habits::default();
        }
    }
    masked.then_some(out)
}

/// Masks the values of `name=value`, `name: value` and `"name": "value"` whose names tell a secret.
fn pairs<'a>(policy: &Policy, text: &'a [u8]) -> Cow<'a, [u8]> {
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
fn secret_name(name: &[u8], value: &[u8]) -> bool {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::file::{ENVIRONMENT_ALLOW, ENVIRONMENT_REDACT};

    fn policy() -> &'static Policy {
        static POLICY: std::sync::LazyLock<Policy> = std::sync::LazyLock::new(|| {
            Policy::new(ENVIRONMENT_ALLOW, ENVIRONMENT_REDACT).unwrap()
        });
        &POLICY
    }

    fn joined(strings: &[&str]) -> Vec<u8> {
        strings
            .iter()
            .flat_map(|s| [s.as_bytes(), b"\0"].concat())
            .collect()
    }

    /// Arguments and what must become of them.
    fn check(before: &[&str], after: &[&str]) {
        let out = policy().arguments(&joined(before));
        let strings: Vec<_> = out
            .strings
            .iter()
            .map(|s| String::from_utf8_lossy(s).into_owned())
            .collect();
        assert_eq!(strings, after, "of {before:?}");
        let changed: Vec<u32> = before
            .iter()
            .zip(after)
            .enumerate()
            .filter(|(_, (a, b))| a != b)
            .map(|(index, _)| u32::try_from(index).unwrap())
            .collect();
        assert_eq!(out.redacted, changed, "of {before:?}");
    }

    fn untouched(arguments: &[&str]) {
        check(arguments, arguments);
    }

    #[test]
    fn options_that_name_a_secret() {
        check(&["x", "--password=hunter2"], &["x", "--password=***"]);
        check(
            &["x", "--password", "hunter2", "b"],
            &["x", "--password", "***", "b"],
        );
        check(&["x", "--db-password", "p"], &["x", "--db-password", "***"]);
        check(&["x", "--dbPassword=p"], &["x", "--dbPassword=***"]);
        check(
            &["x", "--token", "abc", "--api-key=k"],
            &["x", "--token", "***", "--api-key=***"],
        );
        check(
            &["x", "-Djavax.net.ssl.keyStorePassword=changeit"],
            &["x", "-Djavax.net.ssl.keyStorePassword=***"],
        );
        check(
            &["x", "--client-secret", "s"],
            &["x", "--client-secret", "***"],
        );
        check(
            &["env", "PGPASSWORD=p", "psql"],
            &["env", "PGPASSWORD=***", "psql"],
        );
        check(&["x", "--private-key=MIIE"], &["x", "--private-key=***"]);
        check(
            &["gpg", "--passphrase", "p"],
            &["gpg", "--passphrase", "***"],
        );
        check(
            &["x", "AWS_SECRET_ACCESS_KEY=a/b+c"],
            &["x", "AWS_SECRET_ACCESS_KEY=***"],
        );
        check(
            &["x", "--oauth2-bearer", "tok"],
            &["x", "--oauth2-bearer", "***"],
        );
    }

    #[test]
    fn habits_of_known_tools() {
        check(
            &["/usr/bin/mysql", "-uroot", "-phunter2"],
            &["/usr/bin/mysql", "-uroot", "-p***"],
        );
        check(&["mysql", "-p", "database"], &["mysql", "-p", "database"]);
        check(&["sudo", "mysql", "-px"], &["sudo", "mysql", "-p***"]);
        check(
            &["sshpass", "-p", "x", "ssh", "host"],
            &["sshpass", "-p", "***", "ssh", "host"],
        );
        check(
            &["sshpass", "-px", "ssh", "-p", "22"],
            &["sshpass", "-p***", "ssh", "-p", "22"],
        );
        check(
            &["curl", "-u", "me:x", "http://h/"],
            &["curl", "-u", "me:***", "http://h/"],
        );
        check(&["curl", "--user=me:x"], &["curl", "--user=me:***"]);
        check(&["curl", "-ume:x"], &["curl", "-ume:***"]);
        check(
            &["curl", "-u", "me", "http://h:80/"],
            &["curl", "-u", "me", "http://h:80/"],
        );
        check(
            &["redis-cli", "-a", "x", "ping"],
            &["redis-cli", "-a", "***", "ping"],
        );
        check(&["smbclient", "-U", "me%x"], &["smbclient", "-U", "me%***"]);
        check(
            &["openssl", "rsa", "-passin", "pass:x"],
            &["openssl", "rsa", "-passin", "pass:***"],
        );
        check(
            &["docker", "login", "-u", "a", "-p", "x"],
            &["docker", "login", "-u", "a", "-p", "***"],
        );
        check(
            &["unzip", "-P", "x", "a.zip"],
            &["unzip", "-P", "***", "a.zip"],
        );
    }

    #[test]
    fn forms_that_secrets_have() {
        check(
            &["x", "https://me:pw@h/p?q"],
            &["x", "https://me:***@h/p?q"],
        );
        check(
            &["x", "postgres://u:p@ss@h:5432/d"],
            &["x", "postgres://u:***@h:5432/d"],
        );
        check(
            &["x", "https://h/?a=1&token=abc&b=2"],
            &["x", "https://h/?a=1&token=***&b=2"],
        );
        check(&["x", "AKIAIOSFODNN7EXAMPLE"], &["x", "***"]);
        check(
            &["curl", "-H", "Authorization: Bearer abc.def"],
            &["curl", "-H", "Authorization: Bearer ***"],
        );
        check(
            &["curl", "-H", "authorization: Basic dXNlcjpwdw=="],
            &["curl", "-H", "authorization: Basic ***"],
        );
        check(
            &["curl", "-H", "X-Api-Key: 12345"],
            &["curl", "-H", "X-Api-Key: ***"],
        );
        check(
            &["curl", "-H", "X-Vault-Token: s.123"],
            &["curl", "-H", "X-Vault-Token: ***"],
        );
        check(
            &["x", r#"{"user":"a","password":"p w","n":1}"#],
            &["x", r#"{"user":"a","password":"***","n":1}"#],
        );
        check(
            &["x", "Server=h;UID=sa;PWD=x;Db=d"],
            &["x", "Server=h;UID=sa;PWD=***;Db=d"],
        );
        check(
            &["x", "host=h password=x user=u"],
            &["x", "host=h password=*** user=u"],
        );
        check(
            &["x", "user=a,password=x,uid=0"],
            &["x", "user=a,password=***,uid=0"],
        );
        check(
            &[
                "x",
                "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
            ],
            &[
                "x",
                "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----",
            ],
        );
        check(
            &["x", "-----BEGIN PRIVATE KEY-----\nMII"],
            &["x", "-----BEGIN PRIVATE KEY-----***"],
        );
        let jwt = format!("eyJ{}.eyJ{}.sig", "hbGciOiJI", "zdWIiOiIx");
        check(&["x", &jwt], &["x", "***"]);
        let github = format!("ghp_{}", "a".repeat(36));
        check(
            &["x", &format!("https://{github}@github.com/a")],
            &["x", "https://***@github.com/a"],
        );
    }

    #[test]
    fn command_lines_within_an_argument() {
        check(
            &["sh", "-c", "mysql -u root -phunter2 db"],
            &["sh", "-c", "mysql -u root -p*** db"],
        );
        check(
            &["sh", "-c", "x --password 'my pw' y"],
            &["sh", "-c", "x --password '***' y"],
        );
        check(
            &["sh", "-c", "x --password \"pw\" y"],
            &["sh", "-c", "x --password \"***\" y"],
        );
        check(
            &["sh", "-c", "export TOKEN=abc; run"],
            &["sh", "-c", "export TOKEN=***; run"],
        );
        check(
            &["sh", "-c", "sshpass -p x ssh h; ssh -p 22 h"],
            &["sh", "-c", "sshpass -p *** ssh h; ssh -p 22 h"],
        );
    }

    #[test]
    fn ordinary_arguments_stay_as_they_are() {
        untouched(&["ls", "-la", "/etc/passwd", ""]);
        untouched(&["ssh", "-p", "22", "user@host"]);
        untouched(&["docker", "run", "-p", "80:80", "image:tag"]);
        untouched(&["mkdir", "-p", "/a/b"]);
        untouched(&["cp", "-pr", "a", "b"]);
        untouched(&["passwd", "root"]);
        untouched(&["grep", "-r", "password", "."]);
        untouched(&["kubectl", "get", "secret", "name"]);
        untouched(&["x", "--password-file", "/run/secrets/p", "--token-file=/t"]);
        untouched(&["x", "--no-password", "file", "--ask-pass", "b"]);
        untouched(&[
            "x",
            "--pass-through",
            "yes",
            "--max-tokens",
            "100",
            "--tokenizer",
            "bpe",
        ]);
        untouched(&["x", "--password", "--verbose"]);
        untouched(&["docker", "login", "--password-stdin", "registry:5000"]);
        untouched(&[
            "ansible",
            "--private-key",
            "/home/a/.ssh/id",
            "--key",
            "a.pem",
        ]);
        untouched(&["ansible", "--private-key=~/.ssh/id"]);
        untouched(&["sort", "-k", "2", "--key=1"]);
        untouched(&[
            "git",
            "clone",
            "ssh://git@host:22/a.git",
            "git@host:a/b.git",
        ]);
        untouched(&["curl", "http://host:8080/a@b", "http://[::1]:80/"]);
        untouched(&["rsync", "a", "host:/token:x"]);
        untouched(&["java", "-Dcom.sun.x=1", "-cp", "a.jar:b.jar", "Main"]);
        untouched(&[
            "env",
            "PWD=/tmp",
            "PATH=/bin:/sbin",
            "SSH_AUTH_SOCK=/run/s",
            "x",
        ]);
        untouched(&["mount", "-o", "uid=0,gid=0,mode=0700", "/dev/sda1", "/mnt"]);
        untouched(&["sh", "-c", "for i in 1 2; do echo $i; done"]);
        untouched(&["openssl", "req", "-keyout", "k.pem", "-pass"]);
        untouched(&["ps", "-p", "1", "-o", "pid="]);
        untouched(&["gpg", "--list-secret-keys", "x"]);
    }

    #[test]
    fn splitting() {
        let policy = policy();
        assert_eq!(policy.arguments(b""), Arguments::default());
        assert_eq!(policy.arguments(b"\0").strings, [b""]);
        assert_eq!(
            policy.arguments(b"a\0\0b\0").strings,
            [&b"a"[..], b"", b"b"]
        );
        assert_eq!(policy.arguments(b"a\0cut").strings, [&b"a"[..], b"cut"]);
        assert_eq!(policy.arguments(b"\xff\xfe\0").strings, [b"\xff\xfe"]);
        let many = policy.arguments(&vec![0; MAX_STRINGS + 1]);
        assert_eq!((many.strings.len(), many.cut), (MAX_STRINGS, true));
        assert!(!policy.arguments(&vec![0; MAX_STRINGS]).cut);
    }

    #[test]
    fn environment_is_reduced_to_the_allowed_names() {
        let out = policy().environment(
            b"PATH=/bin\0SECRET_PLAN=x\0LD_PRELOAD=/tmp/x.so\0HOME=\0container\0\0\
              SSH_CONNECTION=2001:db8::7 5022 10.0.0.1 22\0EDITOR=vi\0MY=1\0",
        );
        let names: Vec<_> = out
            .variables
            .iter()
            .map(|v| String::from_utf8_lossy(&v.name).into_owned())
            .collect();
        assert_eq!(
            names,
            [
                "PATH",
                "LD_PRELOAD",
                "HOME",
                "container",
                "SSH_CONNECTION",
                "EDITOR"
            ]
        );
        assert_eq!(out.withheld, 2);
        assert_eq!(out.variables[2].value.as_deref(), Some(&b""[..]));
        assert_eq!(out.variables[3].value, None);
        assert!(!out.variables[3].redacted);
        assert_eq!(out.remote, Some(("2001:db8::7".parse().unwrap(), 5022)));
    }

    #[test]
    fn the_remote_end_is_read_even_where_its_name_is_not_allowed() {
        let policy = Policy::new::<&str, &str>(&[], &[]).unwrap();
        let out = policy.environment(b"SSH_CONNECTION=fe80::1%eth0 1 fe80::2 22\0");
        assert_eq!(out.remote, Some(("fe80::1".parse().unwrap(), 1)));
        assert_eq!((out.variables.len(), out.withheld), (0, 1));
        assert_eq!(
            policy.environment(b"SSH_CONNECTION=nonsense\0").remote,
            None
        );
    }

    #[test]
    fn allowed_variables_with_secrets() {
        let policy = Policy::new(&["*"], &["*CORP*ID"]).unwrap();
        let one = |text: &str| policy.environment(text.as_bytes()).variables.remove(0);
        let gone = one("DB_PASSWORD=x");
        assert_eq!((gone.value, gone.redacted), (None, true));
        let part = one("http_proxy=http://me:x@proxy:3128");
        assert_eq!(
            part.value.as_deref(),
            Some(&b"http://me:***@proxy:3128"[..])
        );
        assert!(part.redacted);
        assert_eq!(one("X_Corp_Staff_Id=7").value, None);
        assert!(!one("CORP_IDS=7").redacted);
        for plain in [
            "PWD=/tmp",
            "SSH_ASKPASS=/usr/bin/ask",
            "SSH_AUTH_SOCK=/a",
            "KEYBOARD=de",
            "TOKEN_FILE=/t",
        ] {
            assert!(!one(plain).redacted, "{plain}");
        }
        for secret in [
            "MYSQL_PWD=x",
            "GITHUB_TOKEN=x",
            "SSHPASS=x",
            "APP_KEY=x",
            "PASSWORD_2=x",
            "apiKey=x",
        ] {
            assert_eq!(one(secret).value, None, "{secret}");
        }
    }

    #[test]
    fn globs() {
        for (glob, text, is) in [
            ("LD_*", "LD_PRELOAD", true),
            ("LD_*", "XLD_", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("*a*b*", "xxaybz", true),
            ("*a*b*", "ba", false),
            ("a*a", "a", false),
            ("a*a", "aba", true),
        ] {
            assert_eq!(
                matches_glob(glob.as_bytes(), text.as_bytes()),
                is,
                "{glob} {text}"
            );
        }
    }

    #[test]
    fn a_large_hostile_input_takes_linear_time() {
        let policy = policy();
        let time = |bytes: &[u8]| {
            let start = std::time::Instant::now();
            drop(policy.arguments(bytes));
            drop(policy.environment(bytes));
            start.elapsed()
        };
        for unit in [
            &b"://:"[..],
            b"=",
            b"a=",
            b"eyJ",
            b"-----BEGIN PRIVATE KEY-----",
            b"password ",
            b"Authorization:",
            b"' --password ",
        ] {
            let long = unit.repeat((64 << 10) / unit.len());
            let took = time(&long);
            // Quadratic work would take a minute and more.
            assert!(
                took < std::time::Duration::from_secs(10),
                "{took:?} for {unit:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let policy = policy();
            let arguments = policy.arguments(&bytes);
            prop_assert!(arguments.redacted.len() <= arguments.strings.len());
            drop(policy.environment(&bytes));
        }

        #[test]
        fn the_secret_never_survives(secret in "[a-zA-Z0-9]{12,20}", option in "--(password|token|db-passwd|client-secret|api-key)") {
            let policy = policy();
            for line in [format!("x\0{option}\0{secret}\0"), format!("x\0{option}={secret}\0"),
                format!("sh\0-c\0x {option} {secret} y\0"), format!("sh\0-c\0x {option}='{secret}'\0")] {
                let out = policy.arguments(line.as_bytes()).strings.concat();
                prop_assert!(!out.windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", line);
            }
        }
    }
}
