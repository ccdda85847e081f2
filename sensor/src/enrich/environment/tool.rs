//! Secrets told by what stands before them: options of known tools (`mysql -pSECRET`, `curl -u user:SECRET`), also in command lines
//! within an argument (`sh -c`). Refuses to know names that tell secrets anywhere: those are in `name`.

use super::{MASK, NAME_MAX_BYTES, Policy};

/// What to do with one argument because of the option that it is, or that stood before it.
pub(super) enum Verdict {
    Keep,
    /// Keep this many bytes, mask the rest.
    MaskFrom(usize),
}

/// What stands before decides what the next argument is.
#[derive(Default)]
pub(super) struct Habits {
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
    pub(super) fn next(&mut self, policy: &Policy, string: &[u8], spaced: bool) -> Verdict {
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
pub(super) fn command(policy: &Policy, text: &[u8]) -> Option<Vec<u8>> {
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
