//! Completeness: of a stream and a span of time, whether every event is here, and if not, what is missing and why.
//!
//! The proof is in what packets carry: consecutive sequence numbers, the digest chain, the account of losses since the run began,
//! tombstones of packets that were given up, blind intervals. A packet speaks for the time from the one before it up to its own
//! last event (a heartbeat: up to the time it names). Between two packets of one run, the difference of their accounts is what was
//! lost meanwhile, whether or not packets between them are missing.
//!
//! Never complete across a blind interval or a gap that nothing explains, before the first packet, or after the last. When times
//! are in doubt, they are taken wider: what waits in the agent may be older than what left it.
//!
//! Wall clocks are set. Each packet tells its offset from the boot clock, which is not: what lies between two packets of one boot
//! is taken by the clock of both, and a time that the clock jumped over is no gap. Between two boots only the wall clock joins
//! them: one that goes on before the time at which the other ended was set back, and what is before that time, once the clock
//! jumps over it, was blind.
//!
//! Pure: fed with [`Summary`] in the order of sequences.

use std::collections::BTreeMap;

use sensor_proto::v1;

use crate::account::{DoesNotAddUp, Origin, Summary, signed};
use crate::clock::SECOND_NS;

/// Findings kept of one stream; beyond that they are counted. Each is told as it is, none is merged.
const FINDINGS_MAX: usize = 10_000;

/// An event waits in an agent at most so long before it is sealed or counted as lost; its windows are far shorter
/// (`hold`, `reorder`, the age of a packet). Where something waited when an account was drawn up, what follows may be so much older.
const HOLD_NS: i64 = 10 * SECOND_NS;

/// An agent that runs makes a packet durable at least every minute, be it a heartbeat: one that was reset ended at most so long after
/// the last that it has.
const RESET_NS: i64 = 120 * SECOND_NS;

/// A span of wall-clock time: both ends in it, ns since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Beginning.
    pub from_ns: i64,
    /// End.
    pub to_ns: i64,
}

impl Span {
    /// All time.
    pub const ALL: Self = Self {
        from_ns: i64::MIN,
        to_ns: i64::MAX,
    };

    fn meets(self, from_ns: i64, to_ns: i64) -> bool {
        from_ns <= self.to_ns && to_ns >= self.from_ns
    }
}

/// What keeps a stream from being complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// So many were lost on the host.
    Lost {
        /// Event type or record kind.
        name: String,
        /// Where.
        origin: Origin,
        /// Why.
        cause: String,
        /// How many.
        count: u64,
    },
    /// The agent gave packets up before they were delivered.
    Evicted {
        /// First of them.
        first: i64,
        /// Last of them.
        last: i64,
        /// Why.
        cause: v1::TombstoneCause,
        /// Events in them; none where the agent could not tell.
        count: Option<u64>,
    },
    /// This node refused packets for good.
    Rejected {
        /// First of them.
        first: i64,
        /// Last of them.
        last: i64,
    },
    /// Packets are not here and nothing says why: on their way, or lost.
    Missing {
        /// First of them.
        first: i64,
        /// Last of them.
        last: i64,
        /// Events in them, by the account of the packet after them; none where it cannot tell.
        count: Option<u64>,
    },
    /// Nobody watched.
    Blind {
        /// The sensor was stopped in order.
        after_clean_stop: bool,
    },
    /// A packet does not follow from the one before it, its account went back, or the events that are here, given up and missing do
    /// not add up to those that it counts: the stream contradicts itself.
    Contradiction {
        /// Sequence of the packet.
        sequence: i64,
    },
    /// Packets of the same identity with other content: two machines write as one.
    Conflict {
        /// Sequence of the packets.
        sequence: i64,
    },
    /// Before the first packet, between epochs, across runs of which packets are not here, or forgotten.
    Unknown,
    /// After the last packet.
    NotYet,
}

/// One finding, with the time that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub what: What,
    /// From then: ns since 1970.
    pub from_ns: i64,
    /// Up to then.
    pub to_ns: i64,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The span of time.
    pub span: Span,
    /// One event type, by name; all where absent.
    pub event_type: Option<v1::EventType>,
}

/// The answer for one stream.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// What is not as it should be; empty: complete.
    pub findings: Vec<Finding>,
    /// Findings beyond those listed.
    pub more: u64,
    /// From here on the stream is accounted for, but for what the findings tell: ns since 1970. Absent: no packet.
    pub accounted_from_ns: Option<i64>,
    /// Up to here: ns since 1970. Absent: no packet.
    pub accounted_to_ns: Option<i64>,
    /// Events in the packets that were looked at.
    pub events: u64,
    /// Calls that the kernel skipped at most, in the packets that were looked at: beside the account, since a skipped call may have been no event.
    pub unseen_at_most: u64,
}

impl Report {
    /// Whether every event of the span is here.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.findings.is_empty() && self.more == 0
    }

    /// Events that were lost on the host and are known by number.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let lost = self.findings.iter().map(|finding| match &finding.what {
            What::Lost { count, .. } => *count,
            What::Evicted { count, .. } => count.unwrap_or_default(),
            What::Rejected { .. }
            | What::Missing { .. }
            | What::Blind { .. }
            | What::Contradiction { .. }
            | What::Conflict { .. }
            | What::Unknown
            | What::NotYet => 0,
        });
        lost.fold(0, u64::saturating_add)
    }
}

/// Puts the reports of a stream's epochs together: what none of them accounts for is unknown, and after the last not there yet.
#[must_use]
pub fn join(question: &Question, epochs: Vec<Report>) -> Report {
    let mut all = Report::default();
    let mut accounted = Vec::new();
    for report in epochs {
        accounted.extend(report.accounted_from_ns.zip(report.accounted_to_ns));
        all.findings.extend(report.findings);
        all.more = all.more.saturating_add(report.more);
        all.events = all.events.saturating_add(report.events);
        all.unseen_at_most = all.unseen_at_most.saturating_add(report.unseen_at_most);
    }
    accounted.sort_unstable();
    all.accounted_from_ns = accounted.first().map(|(from_ns, _)| *from_ns);
    all.accounted_to_ns = accounted.iter().map(|(_, to_ns)| *to_ns).max();
    let mut find = |what, from_ns: i64, to_ns: i64| {
        if from_ns <= to_ns && question.span.meets(from_ns, to_ns) {
            all.findings.push(Finding {
                what,
                from_ns,
                to_ns,
            });
        }
    };
    let mut reached: Option<i64> = None;
    for (from_ns, to_ns) in accounted {
        let after = reached.map_or(i64::MIN, |reached| reached.saturating_add(1));
        find(What::Unknown, after, from_ns.saturating_sub(1));
        reached = Some(reached.map_or(to_ns, |reached| reached.max(to_ns)));
    }
    match reached {
        None => find(What::Unknown, i64::MIN, i64::MAX),
        Some(reached) => find(What::NotYet, reached.saturating_add(1), i64::MAX),
    }
    all.findings
        .sort_by_key(|finding| (finding.from_ns, finding.to_ns));
    all
}

/// Judges one stream of one epoch.
#[derive(Debug)]
pub struct Judge {
    question: Question,
    report: Report,
    /// Sequences up to here were given up by this node's retention: nothing is known of them, and nothing is missing.
    floor: i64,
    /// Explanations that came in later packets, by sequence: tombstones tell of packets before them.
    tombstones: Vec<v1::Tombstone>,
    rejected: Vec<i64>,
    gaps: Vec<Gap>,
    last: Option<Summary>,
    epoch: [u8; 16],
    stream: i32,
    forgotten: bool,
    /// Everything up to here is in the packets so far, or accounted for by them: ns since boot, of the boot of the last packet.
    settled_boot_ns: i64,
    /// The same by the wall clock of the last packet: ns since 1970.
    settled_ns: i64,
    /// From here on the boot of the last packet is accounted for: ns since boot.
    since_boot_ns: i64,
    /// A boot before ended at this time, which the clock has not reached since: ns since 1970.
    behind_ns: Option<i64>,
}

/// Packets that are not here.
#[derive(Clone, Copy, Debug)]
struct Gap {
    first: i64,
    last: i64,
    from_ns: i64,
    to_ns: i64,
    /// Events in them of what is asked, where the packet after them tells.
    count: Option<u64>,
}

/// Where a stream stands in the store.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// Epoch.
    pub epoch: [u8; 16],
    /// Number of the stream.
    pub stream: i32,
    /// Sequences up to here were given up by retention, or lie before what is looked at.
    pub floor: i64,
    /// Retention has forgotten what was up to the floor: nothing is known of that time.
    pub forgotten: bool,
    /// Sequences of packets that were refused for good, ascending.
    pub rejected: Vec<i64>,
}

impl Judge {
    /// Begins with a stream.
    #[must_use]
    pub fn new(question: Question, frame: Frame) -> Self {
        Self {
            question,
            report: Report::default(),
            floor: frame.floor,
            tombstones: Vec::new(),
            rejected: frame.rejected,
            gaps: Vec::new(),
            last: None,
            epoch: frame.epoch,
            stream: frame.stream,
            forgotten: frame.forgotten,
            settled_boot_ns: i64::MIN,
            settled_ns: i64::MIN,
            since_boot_ns: i64::MIN,
            behind_ns: None,
        }
    }

    /// Takes the next packet that is stored; in ascending order of sequences.
    pub fn packet(&mut self, packet: Summary) {
        let same_boot = self
            .last
            .as_ref()
            .is_some_and(|last| last.boot == packet.boot);
        let (begin_ns, end_ns) = self.between(&packet, same_boot);
        let expected = self.last.as_ref().map_or_else(
            || self.floor.saturating_add(1),
            |last| last.sequence.saturating_add(1),
        );
        let same_run = self
            .last
            .as_ref()
            .is_some_and(|last| last.run == packet.run);
        let between = match &self.last {
            Some(last) if same_run => packet.between(last),
            Some(_) | None => Ok(None),
        };
        if packet.sequence > expected {
            // Without a packet before, the gap begins where the epoch does, which is not known.
            let from_ns = if self.last.is_some() || self.floor > 0 {
                begin_ns
            } else {
                i64::MIN
            };
            self.gap(Gap {
                first: expected,
                last: packet.sequence.saturating_sub(1),
                from_ns,
                to_ns: end_ns,
                count: between.clone().ok().flatten().map(|counts| {
                    let asked = self.question.event_type.map(i32::from);
                    counts
                        .into_iter()
                        .filter(|(number, _)| asked.is_none_or(|asked| asked == *number))
                        .fold(0u64, |sum, (_, count)| sum.saturating_add(count))
                }),
            });
        }
        if packet.sequence > expected && self.last.is_some() && !same_run {
            // Whole runs may lie between: what they lost, and when nobody watched, stood in the packets that are not here.
            self.find(What::Unknown, begin_ns, end_ns);
        }
        if self.last.is_none() {
            // The packet that comes first tells of the time since it, when it follows others; else of its run.
            // Hooks were attached some time after the run began: the first event is the first proof.
            let first_ns = packet.wall_ns(packet.first_boot_ns.min(packet.last_boot_ns));
            let from_ns = match &packet.account.blind {
                _ if self.forgotten => end_ns,
                Some(blind) => blind.to_time_ns,
                None => first_ns,
            };
            self.report.accounted_from_ns = Some(from_ns);
        }
        self.clock(&packet, same_boot);
        if let Some(blind) = &packet.account.blind {
            self.blind(&packet, blind, same_boot);
        }
        self.losses(&packet, same_run, begin_ns, end_ns);
        let adds_up = match between {
            Err(DoesNotAddUp) => false,
            Ok(Some(between)) => packet.sequence > expected || between.is_empty(),
            Ok(None) => true,
        };
        if packet.chain_broken
            || !adds_up
            || self
                .last
                .as_ref()
                .is_some_and(|last| last.run == packet.run && last.at_boot_ns > packet.at_boot_ns)
        {
            let sequence = packet.sequence;
            self.find(What::Contradiction { sequence }, begin_ns, end_ns);
        }
        if packet.conflict {
            let sequence = packet.sequence;
            self.find(What::Conflict { sequence }, begin_ns, end_ns);
        }
        self.tombstones.extend(
            packet
                .account
                .tombstones
                .iter()
                .filter(|stone| stone.epoch == self.epoch && stone.stream == self.stream)
                .cloned(),
        );
        if self.question.span.meets(begin_ns, end_ns) {
            let counts = packet.counts.iter().map(|(_, count)| *count);
            self.report.events = counts.fold(self.report.events, u64::saturating_add);
            let before = match &self.last {
                Some(last) if same_run => last.account.unseen_at_most,
                Some(_) | None => 0,
            };
            let unseen = packet.account.unseen_at_most.saturating_sub(before);
            self.report.unseen_at_most = self.report.unseen_at_most.saturating_add(unseen);
        }
        self.settled_boot_ns = if packet.account.waiting == 0 {
            packet.last_boot_ns
        } else {
            let first_ns = packet.first_boot_ns.min(packet.last_boot_ns);
            let before_ns = if same_run {
                self.settled_boot_ns
            } else {
                i64::MIN
            };
            first_ns.saturating_sub(HOLD_NS).max(before_ns)
        };
        self.settled_ns = packet.wall_ns(self.settled_boot_ns);
        self.last = Some(packet);
    }

    /// From where on a packet tells of something, and up to when: ns since 1970, by all clocks that it may have been.
    fn between(&self, packet: &Summary, same_boot: bool) -> (i64, i64) {
        let end_boot_ns = packet.at_boot_ns.max(packet.last_boot_ns);
        let end_ns = packet.wall_ns(end_boot_ns);
        let (began_ns, ended_ns) = match &self.last {
            Some(last) if same_boot => (
                self.settled_ns.min(packet.wall_ns(self.settled_boot_ns)),
                last.wall_ns(end_boot_ns),
            ),
            Some(_) => (self.settled_ns, self.settled_ns),
            None => of_run(packet, end_ns),
        };
        (began_ns.min(end_ns), ended_ns.max(end_ns))
    }

    /// Follows the wall clock to a packet.
    fn clock(&mut self, packet: &Summary, same_boot: bool) {
        let reached_ns = packet.wall_ns(packet.at_boot_ns);
        if !same_boot {
            let first_ns = packet.first_boot_ns.min(packet.last_boot_ns);
            let blind = packet.account.blind.as_ref();
            self.since_boot_ns = blind.map_or(first_ns, |blind| signed(blind.to_boot_ns));
        } else {
            let settled_ns = packet.wall_ns(self.settled_boot_ns);
            // Set back: from there on it goes through times that are accounted for once more.
            let again_ns = packet.wall_ns(self.settled_boot_ns.max(self.since_boot_ns));
            self.account_from(again_ns);
            if let Some(behind_ns) = self.behind_ns
                && self.settled_ns < behind_ns
                && settled_ns > behind_ns
            {
                let after_clean_stop = false;
                self.find(What::Blind { after_clean_stop }, behind_ns, settled_ns);
            }
        }
        self.behind_ns = self.behind_ns.filter(|behind_ns| *behind_ns > reached_ns);
    }

    /// The account reaches back to this time, too.
    fn account_from(&mut self, time_ns: i64) {
        let from_ns = self.report.accounted_from_ns;
        self.report.accounted_from_ns = from_ns.map(|from_ns| from_ns.min(time_ns));
    }

    /// A time in which nobody watched, as the first packet after it tells.
    fn blind(&mut self, packet: &Summary, blind: &v1::BlindInterval, same_boot: bool) {
        let after_clean_stop = blind.after_clean_stop;
        let what = What::Blind { after_clean_stop };
        let from_ns = match (blind.from_time_ns, &self.last) {
            // What was seen last may have been waiting in the agent when it was killed.
            (Some(from_ns), Some(_)) => from_ns.min(self.settled_ns),
            (Some(from_ns), None) => from_ns,
            (None, Some(_)) => self.settled_ns,
            // Before the account begins: told by `join`, which knows the epoch before.
            (None, None) => blind.to_time_ns,
        };
        let to_boot_ns = signed(blind.to_boot_ns);
        // The clock may have been set since the run began.
        let to_ns = blind.to_time_ns.max(packet.wall_ns(to_boot_ns));
        let since_boot_ns = match (&blind.from_boot_id, blind.from_boot_ns) {
            (Some(boot), Some(from_boot_ns)) if *boot == packet.boot => {
                let from_boot_ns = signed(from_boot_ns);
                Some(if same_boot {
                    from_boot_ns.min(self.settled_boot_ns)
                } else {
                    from_boot_ns
                })
            }
            (Some(_) | None, _) => None,
        };
        if let Some(since_boot_ns) = since_boot_ns {
            // By the clock as it was before, and as it is after: one time unless it was set.
            let length_ns = to_boot_ns.saturating_sub(since_boot_ns);
            let before = (from_ns, from_ns.saturating_add(length_ns));
            let to_ns = blind.to_time_ns;
            let after = (to_ns.saturating_sub(length_ns), to_ns);
            if before.1 < after.0 || after.1 < before.0 {
                self.find(what.clone(), before.0, before.1);
                self.find(what, after.0, after.1);
            } else {
                self.find(what, before.0.min(after.0), before.1.max(after.1));
            }
            return;
        }
        let booted_ns = to_ns.saturating_sub(to_boot_ns);
        if blind.from_boot_id.is_some() && booted_ns < from_ns {
            // The clock of this boot is behind that of the boot before: by the one up to the reset, by the other from the boot on.
            self.find(what.clone(), booted_ns, to_ns);
            self.find(what, from_ns, from_ns.saturating_add(RESET_NS));
            self.account_from(to_ns);
            self.behind_ns = Some(from_ns);
        } else {
            self.find(what, from_ns, to_ns);
        }
    }

    /// Losses since the packet before, or since the run began.
    fn losses(&mut self, packet: &Summary, same_run: bool, begin_ns: i64, end_ns: i64) {
        let before = match &self.last {
            Some(last) if same_run => last.account.counters(),
            Some(_) | None => BTreeMap::new(),
        };
        // The packets of the run before those that are looked at told of the rest.
        let counts_from_run = same_run || self.last.is_some() || self.floor == 0;
        let mut backwards = false;
        let now = packet.account.counters();
        for ((name, origin, cause), count) in &now {
            let had = before
                .get(&(name.clone(), *origin, cause.clone()))
                .copied()
                .unwrap_or_default();
            let Some(lost) = count.checked_sub(had) else {
                backwards = true;
                continue;
            };
            if lost > 0 && counts_from_run && self.concerns(name) {
                let what = What::Lost {
                    name: name.clone(),
                    origin: Origin::try_from(*origin).unwrap_or(Origin::Unspecified),
                    cause: cause.clone(),
                    count: lost,
                };
                let (from_ns, to_ns) = if same_run {
                    (begin_ns, end_ns)
                } else {
                    of_run(packet, end_ns)
                };
                self.find(what, from_ns, to_ns);
            }
        }
        backwards |= before.keys().any(|key| !now.contains_key(key));
        if backwards {
            let sequence = packet.sequence;
            self.find(What::Contradiction { sequence }, begin_ns, end_ns);
        }
    }

    /// Whether a row of the account says something about what is asked. Rows that are no event types (a script that an exec
    /// began with, a close that completes a creation) may concern any.
    fn concerns(&self, name: &str) -> bool {
        let Some(asked) = self.question.event_type else {
            return true;
        };
        v1::EventType::from_short_name(name).is_none_or(|named| named == asked)
    }

    fn gap(&mut self, gap: Gap) {
        if self.question.span.meets(gap.from_ns, gap.to_ns) {
            if self.gaps.len() < FINDINGS_MAX {
                self.gaps.push(gap);
            } else {
                self.report.more = self.report.more.saturating_add(1);
            }
        }
    }

    fn find(&mut self, what: What, from_ns: i64, to_ns: i64) {
        if !self.question.span.meets(from_ns, to_ns) {
            return;
        }
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(Finding {
                what,
                from_ns,
                to_ns,
            });
        } else {
            self.report.more = self.report.more.saturating_add(1);
        }
    }

    /// The answer.
    #[must_use]
    pub fn finish(mut self) -> Report {
        for gap in std::mem::take(&mut self.gaps) {
            self.explain(gap);
        }
        if self.last.is_some() {
            self.report.accounted_to_ns = Some(self.settled_ns);
        }
        self.report
            .findings
            .sort_by_key(|finding| (finding.from_ns, finding.to_ns));
        self.report
    }

    /// Tells a gap apart: given up, refused, or missing.
    fn explain(&mut self, gap: Gap) {
        let mut rest = vec![(gap.first, gap.last)];
        // Of the events that are not here, those of which nothing says what became of them; none where somebody does not tell.
        let mut count = gap.count;
        let mut stones = std::mem::take(&mut self.tombstones);
        stones.sort_by_key(|stone| stone.first_sequence);
        for stone in &stones {
            let bounds = (
                i64::try_from(stone.first_sequence).unwrap_or(i64::MAX),
                i64::try_from(stone.last_sequence).unwrap_or(i64::MAX),
            );
            let taken = take(&mut rest, bounds);
            let whole = taken.as_slice() == [bounds];
            for (first, last) in taken {
                // What it counts is of all its packets: of a part, the number is not known.
                let told = (whole && !stone.counts.is_empty()).then(|| self.counted(stone));
                let more = count.zip(told).is_some_and(|(count, told)| told > count);
                if more {
                    let sequence = gap.last.saturating_add(1);
                    self.find(What::Contradiction { sequence }, gap.from_ns, gap.to_ns);
                }
                count = count
                    .zip(told)
                    .and_then(|(count, told)| count.checked_sub(told));
                if told == Some(0) {
                    continue;
                }
                let cause = stone.cause();
                let what = What::Evicted {
                    first,
                    last,
                    cause,
                    count: told,
                };
                self.find(what, gap.from_ns, gap.to_ns);
            }
        }
        self.tombstones = stones;
        let rejected = std::mem::take(&mut self.rejected);
        let within = |sequence: &&i64| (gap.first..=gap.last).contains(*sequence);
        for sequence in rejected.iter().filter(within) {
            for (first, last) in take(&mut rest, (*sequence, *sequence)) {
                self.find(What::Rejected { first, last }, gap.from_ns, gap.to_ns);
                count = None;
            }
        }
        self.rejected = rejected;
        if rest.is_empty() && count.is_some_and(|count| count > 0) {
            // All its packets are told of, and had fewer events.
            let sequence = gap.last.saturating_add(1);
            self.find(What::Contradiction { sequence }, gap.from_ns, gap.to_ns);
        }
        // One number for several parts is none.
        let count = count.filter(|_| rest.len() == 1);
        for (first, last) in rest {
            self.find(What::Missing { first, last, count }, gap.from_ns, gap.to_ns);
        }
    }

    /// Events that a tombstone counts of what is asked.
    fn counted(&self, stone: &v1::Tombstone) -> u64 {
        let asked = |count: &&v1::TypeCount| {
            self.question
                .event_type
                .is_none_or(|asked| count.r#type == i32::from(asked))
        };
        let counts = stone.counts.iter().filter(asked).map(|count| count.count);
        counts.fold(0, u64::saturating_add)
    }
}

/// From the beginning of its run up to a packet.
fn of_run(packet: &Summary, end_ns: i64) -> (i64, i64) {
    if packet.run_began_ns <= end_ns {
        return (packet.run_began_ns, end_ns);
    }
    // The clock was set back since.
    let first_ns = packet.wall_ns(packet.first_boot_ns.min(packet.last_boot_ns));
    (first_ns.saturating_sub(HOLD_NS), packet.run_began_ns)
}

/// Takes what lies within the bounds out of ranges, and returns it.
fn take(ranges: &mut Vec<(i64, i64)>, bounds: (i64, i64)) -> Vec<(i64, i64)> {
    let (mut taken, mut left) = (Vec::new(), Vec::new());
    for (first, last) in ranges.drain(..) {
        let (from, to) = (first.max(bounds.0), last.min(bounds.1));
        if from > to {
            left.push((first, last));
            continue;
        }
        taken.push((from, to));
        if first < from {
            left.push((first, from.saturating_sub(1)));
        }
        if to < last {
            left.push((to.saturating_add(1), last));
        }
    }
    *ranges = left;
    taken
}

#[cfg(test)]
mod tests;
