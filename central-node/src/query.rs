//! Finding events: criteria, and the search. The index of terms names packets that may hold a match; each is opened, and its events
//! decide. What has no term (patterns, networks) is looked for in every packet of the span of time.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use rusqlite::Connection;
use sensor_proto::packet::{Limits, OpenedPacket, open};
use sensor_proto::v1;
use uuid::Uuid;

use crate::account::signed;
use crate::completeness::Span;
use crate::store::read::{self, PacketRow};
use crate::store::{PART_PACKETS, StoreError};
use crate::term::{self, TermKind, visit, visit_numbers};

/// One way to match.
#[derive(Clone, Debug)]
enum Test {
    /// The value is this.
    Is(TermKind, Vec<u8>),
    /// The number is this.
    Number(TermKind, u32),
    /// The value is like this.
    Like(TermKind, GlobMatcher),
    /// The address is in this network.
    Network(ipnet::IpNet),
}

/// Alternatives: one of them matches.
#[derive(Clone, Debug, Default)]
pub struct Criterion {
    tests: Vec<Test>,
}

/// Why a criterion is none.
#[derive(Debug, thiserror::Error)]
pub enum CriterionError {
    /// A pattern that cannot be.
    #[error("pattern `{pattern}`")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        source: globset::Error,
    },
    /// Not hexadecimal of the length of a digest.
    #[error("`{0}` is no MD5, SHA-1 or SHA-256 in hexadecimal")]
    Hash(String),
    /// Neither an address nor a network.
    #[error("`{0}` is no address (192.0.2.1, 2001:db8::1) or network (192.0.2.0/24)")]
    Address(String),
}

impl Criterion {
    fn text(&mut self, kind: TermKind, text: &str) -> Result<(), CriterionError> {
        if !text.contains(['*', '?', '[', '{']) {
            self.tests.push(Test::Is(kind, text.as_bytes().to_vec()));
            return Ok(());
        }
        let glob = GlobBuilder::new(text)
            .build()
            .map_err(|source| CriterionError::Pattern {
                pattern: text.to_owned(),
                source,
            })?;
        self.tests.push(Test::Like(kind, glob.compile_matcher()));
        Ok(())
    }

    /// The acting process: its public identity, the path of its program, or its name; path and name may be patterns.
    ///
    /// # Errors
    /// [`CriterionError::Pattern`].
    pub fn process(&mut self, text: &str) -> Result<(), CriterionError> {
        if let Ok(unique_pid) = Uuid::try_parse(text) {
            let value = unique_pid.as_bytes().to_vec();
            self.tests.push(Test::Is(TermKind::UniquePid, value));
            return Ok(());
        }
        let kind = if text.contains('/') {
            TermKind::ProcessPath
        } else {
            TermKind::ProcessName
        };
        self.text(kind, text)
    }

    /// Path of a file that the event is about; may be a pattern, in which `*` stands for slashes, too.
    ///
    /// # Errors
    /// [`CriterionError::Pattern`].
    pub fn path(&mut self, text: &str) -> Result<(), CriterionError> {
        self.text(TermKind::Path, text)
    }

    /// A digest in hexadecimal.
    ///
    /// # Errors
    /// [`CriterionError::Hash`].
    pub fn hash(&mut self, text: &str) -> Result<(), CriterionError> {
        let wrong = || CriterionError::Hash(text.to_owned());
        let digits: Option<Vec<u8>> = text
            .chars()
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect();
        let digits = digits
            .filter(|digits| matches!(digits.len(), 32 | 40 | 64))
            .ok_or_else(wrong)?;
        let pairs = digits.chunks(2);
        let bytes = pairs.map(|pair| pair.iter().fold(0, |byte, digit| (byte << 4) | digit));
        self.tests.push(Test::Is(TermKind::Hash, bytes.collect()));
        Ok(())
    }

    /// An address of either end, or the network that one is in.
    ///
    /// # Errors
    /// [`CriterionError::Address`].
    pub fn address(&mut self, text: &str) -> Result<(), CriterionError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let value = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            self.tests.push(Test::Is(TermKind::Address, value));
            return Ok(());
        }
        let network = text
            .parse()
            .map_err(|_error| CriterionError::Address(text.to_owned()))?;
        self.tests.push(Test::Network(network));
        Ok(())
    }

    /// A port of either end.
    pub fn port(&mut self, port: u16) {
        let test = Test::Number(TermKind::Port, u32::from(port));
        self.tests.push(test);
    }

    /// A user, by number or name; the name may be a pattern.
    ///
    /// # Errors
    /// [`CriterionError::Pattern`].
    pub fn user(&mut self, text: &str) -> Result<(), CriterionError> {
        if let Ok(id) = text.parse() {
            self.tests.push(Test::Number(TermKind::UserId, id));
            return Ok(());
        }
        self.text(TermKind::User, text)
    }

    /// Terms of all alternatives; none where one of them has no term.
    fn terms(&self) -> Option<Vec<i64>> {
        self.tests
            .iter()
            .map(|test| match test {
                Test::Is(kind, value) => Some(term::number(*kind, value)),
                Test::Number(kind, value) => Some(term::number(*kind, &value.to_be_bytes())),
                Test::Like(..) | Test::Network(_) => None,
            })
            .collect()
    }

    fn matches(&self, event: &v1::Event, packet: &OpenedPacket) -> bool {
        let mut found = false;
        visit(event, packet, &mut |kind, value| {
            found |= self.tests.iter().any(|test| match test {
                Test::Is(of, is) => *of == kind && is == value,
                Test::Like(of, glob) => {
                    *of == kind && glob.is_match(Path::new(OsStr::from_bytes(value)))
                }
                Test::Network(network) => {
                    kind == TermKind::Address
                        && address(value).is_some_and(|a| network.contains(&a))
                }
                Test::Number(..) => false,
            });
        });
        visit_numbers(event, packet, &mut |kind, value| {
            found |= self
                .tests
                .iter()
                .any(|test| matches!(test, Test::Number(of, is) if *of == kind && *is == value));
        });
        found
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// What is asked: all of it must hold.
#[derive(Clone, Debug)]
pub struct Criteria {
    /// When.
    pub span: Span,
    /// Whose; empty: anyone's.
    pub agents: Vec<Uuid>,
    /// On which hosts, by name; empty: any.
    pub hosts: Vec<String>,
    /// Of which types; empty: any.
    pub types: Vec<v1::EventType>,
    /// What else.
    pub criteria: Vec<Criterion>,
}

impl Default for Criteria {
    fn default() -> Self {
        Self {
            span: Span::ALL,
            agents: Vec::new(),
            hosts: Vec::new(),
            types: Vec::new(),
            criteria: Vec::new(),
        }
    }
}

/// Where an event stands in the order of arrival: packet, and number within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the packet.
    pub packet: i64,
    /// Number of the event in it, from 0.
    pub index: usize,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.packet, self.index)
    }
}

impl std::str::FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once(':').and_then(|(packet, index)| {
            Some(Self {
                packet: packet.parse().ok()?,
                index: index.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| format!("`{text}` is no position: they look like `17:3`"))
    }
}

/// A match.
#[derive(Debug)]
pub struct Match<'a> {
    /// Where it stands.
    pub position: Position,
    /// The event.
    pub event: &'a v1::Event,
    /// Its packet.
    pub packet: &'a OpenedPacket,
}

/// In which order packets are searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they arrived, after a position.
    After(Option<Position>),
    /// The newest packets first; within a packet, the last event first.
    NewestFirst,
}

/// Why a search ended early.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Who takes the matches failed.
    #[error("writing failed")]
    Output(#[from] std::io::Error),
}

/// Calls `each` with every match until it wants no more (`false`).
///
/// # Errors
/// [`SearchError`].
pub fn search(
    connection: &Connection,
    criteria: &Criteria,
    order: Order,
    each: &mut dyn FnMut(&Match<'_>) -> std::io::Result<bool>,
) -> Result<(), SearchError> {
    let mut parts = read::parts(connection, criteria.span)?;
    let after = match order {
        Order::After(after) => after,
        Order::NewestFirst => {
            parts.reverse();
            None
        }
    };
    for part in parts {
        let first = part.saturating_mul(PART_PACKETS);
        let last = first.saturating_add(PART_PACKETS).saturating_sub(1);
        if after.is_some_and(|after| after.packet > last) {
            continue;
        }
        let candidates = candidates(connection, criteria, part)?;
        let begin = after.map_or(first, |after| after.packet.max(first));
        let mut steps = Steps::new(candidates, order, begin, last);
        while let Some(row) = steps.next(connection, criteria.span)? {
            if !wanted(criteria, &row) {
                continue;
            }
            if !search_packet(connection, criteria, order, &row, each)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Packets of a group that may hold a match; none: all of them.
fn candidates(
    connection: &Connection,
    criteria: &Criteria,
    part: i64,
) -> Result<Option<BTreeSet<i64>>, StoreError> {
    let mut all: Option<BTreeSet<i64>> = None;
    for criterion in &criteria.criteria {
        let Some(terms) = criterion.terms() else {
            continue;
        };
        let mut packets = BTreeSet::new();
        for term in terms {
            packets.extend(read::with_term(connection, part, term)?);
        }
        all = Some(match all {
            None => packets,
            Some(all) => all.intersection(&packets).copied().collect(),
        });
    }
    Ok(all)
}

/// Walks over the packets of a group.
struct Steps {
    candidates: Option<BTreeSet<i64>>,
    descending: bool,
    /// Packets within these bounds are still to come.
    low: i64,
    high: i64,
}

impl Steps {
    fn new(candidates: Option<BTreeSet<i64>>, order: Order, low: i64, high: i64) -> Self {
        Self {
            candidates,
            descending: order == Order::NewestFirst,
            low,
            high,
        }
    }

    fn next(
        &mut self,
        connection: &Connection,
        span: Span,
    ) -> Result<Option<PacketRow>, StoreError> {
        while self.low <= self.high {
            let (mut low, mut high) = (self.low, self.high);
            if let Some(candidates) = &self.candidates {
                let mut left = candidates.range(low..=high);
                let next = if self.descending {
                    left.next_back()
                } else {
                    left.next()
                };
                let Some(next) = next else { return Ok(None) };
                (low, high) = (*next, *next);
            }
            let row = if self.descending {
                read::packet_before(connection, high.saturating_add(1), low, span)?
            } else {
                read::next_packet(connection, low.saturating_sub(1), high, span)?
            };
            // A candidate outside of the span, or given up meanwhile: on to the next.
            let passed = match &row {
                Some(row) => row.packet,
                None if self.candidates.is_none() => return Ok(None),
                None => low,
            };
            if self.descending {
                self.high = passed.saturating_sub(1);
            } else {
                self.low = passed.saturating_add(1);
            }
            if row.is_some() {
                return Ok(row);
            }
        }
        Ok(None)
    }
}

fn wanted(criteria: &Criteria, row: &PacketRow) -> bool {
    let any = |empty: bool, holds: bool| empty || holds;
    any(
        criteria.agents.is_empty(),
        criteria.agents.contains(&row.agent_id),
    ) && any(
        criteria.hosts.is_empty(),
        criteria.hosts.contains(&row.host),
    ) && any(
        criteria.types.is_empty(),
        criteria
            .types
            .iter()
            .any(|wanted| row.counts.contains_key(&i32::from(*wanted))),
    )
}

/// Returns whether more is wanted.
fn search_packet(
    connection: &Connection,
    criteria: &Criteria,
    order: Order,
    row: &PacketRow,
    each: &mut dyn FnMut(&Match<'_>) -> std::io::Result<bool>,
) -> Result<bool, SearchError> {
    // It was opened before it was stored: a larger limit takes what was taken then.
    let limits = Limits {
        packet_bytes: usize::MAX,
        body_bytes: 256 << 20,
        memory_bytes: 2 << 30,
    };
    let opened = match open(&row.bytes, &limits) {
        Ok(opened) => opened,
        Err(error) => {
            tracing::error!(packet = row.packet, %error, "a stored packet does not open");
            return Ok(true);
        }
    };
    let mut indices: Vec<usize> = (0..opened.events().len()).collect();
    if order == Order::NewestFirst {
        indices.reverse();
    }
    for index in indices {
        let position = Position {
            packet: row.packet,
            index,
        };
        if matches!(order, Order::After(Some(after)) if position <= after) {
            continue;
        }
        let Some(event) = opened.events().get(index) else {
            continue;
        };
        if !holds(criteria, event, &opened) {
            continue;
        }
        let counter = signed(event.id.as_ref().map_or(0, |id| id.counter));
        if row.repeated > 0 && !read::owns_event(connection, row.epoch, counter, row.packet)? {
            continue;
        }
        let found = Match {
            position,
            event,
            packet: &opened,
        };
        if !each(&found)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(criteria: &Criteria, event: &v1::Event, packet: &OpenedPacket) -> bool {
    (criteria.span.from_ns..=criteria.span.to_ns).contains(&event.time_ns)
        && (criteria.types.is_empty() || criteria.types.contains(&event.event_type()))
        && criteria
            .criteria
            .iter()
            .all(|criterion| criterion.matches(event, packet))
}
