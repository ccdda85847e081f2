//! The account of every event: what was attempted, delivered, filtered on purpose, lost and why.
//!
//! Three identities per row (design: promise 1); each term is a counter of its own, none is derived from the others:
//! - kernel: `attempted = submitted + filtered + throttled + lost`
//! - hand-over: `submitted = received + unread`, `received = decoded + lost in the reader`
//! - daemon: `decoded + synthesised = sealed + filtered + merged + lost + waiting`
//! - sinks: `sealed = acked + lost + waiting`, per sink
//!
//! This module counts and compares; it never decides what happens to an event.

use std::collections::BTreeMap;
use std::fmt;

use sensor_common::counter::KernelCounter;
use sensor_common::record::RecordKind;
use serde::Serialize;

/// Rows of the ledger: one per record kind, and those that only the daemon makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    /// A record kind and, where it has one, its event type.
    Kind(RecordKind),
    /// Patch events: made by the daemon.
    Patch,
    /// Aggregates of events that a rule merges: made by the daemon.
    Aggregate,
    /// Samples that are not records.
    Unknown,
}

impl Row {
    /// How many rows there are.
    pub const COUNT: usize = RecordKind::ALL.len() + 3;

    fn index(self) -> usize {
        match self {
            Self::Kind(kind) => usize::try_from(kind.slot()).unwrap_or(Self::COUNT),
            Self::Patch => RecordKind::ALL.len(),
            Self::Aggregate => RecordKind::ALL.len() + 1,
            Self::Unknown => RecordKind::ALL.len() + 2,
        }
    }

    /// Every row, in the order of print.
    pub fn all() -> impl Iterator<Item = Self> {
        RecordKind::ALL.iter().map(|kind| Self::Kind(*kind)).chain([
            Self::Patch,
            Self::Aggregate,
            Self::Unknown,
        ])
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kind(kind) => kind.name(),
            Self::Patch => "patch",
            Self::Aggregate => "aggregate",
            Self::Unknown => "unknown",
        }
    }
}

/// Cause of what the reader drops when its queue is full.
pub const QUEUE_FULL: &str = "queue_full";
/// Rule by which records of the self-test's child are left out.
pub const SELF_TEST: &str = "self_test";

/// Counts by cause.
pub type Causes = BTreeMap<String, u64>;

/// The kernel's terms of one row, summed over CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KernelAccount {
    /// Something to report was found.
    pub attempted: u64,
    /// Records put into the ring.
    pub submitted: u64,
    /// Dropped on purpose, by rule.
    pub filtered: Causes,
    /// Over the rate of its process.
    pub throttled: u64,
    /// Lost, by cause.
    pub lost: Causes,
}

impl KernelAccount {
    /// From one kind's counters in [`KernelCounter`] order; missing ones count as 0.
    #[must_use]
    pub fn from_counters(values: &[u64]) -> Self {
        let mut account = Self::default();
        for (counter, value) in KernelCounter::ALL.iter().zip(values) {
            let name = counter.name().to_owned();
            match counter {
                KernelCounter::Attempted => account.attempted = *value,
                KernelCounter::Submitted => account.submitted = *value,
                KernelCounter::Throttled => account.throttled = *value,
                KernelCounter::FilteredScope
                | KernelCounter::FilteredSelf
                | KernelCounter::FilteredRule => {
                    if *value > 0 {
                        account.filtered.insert(name, *value);
                    }
                }
                KernelCounter::LostRingFull
                | KernelCounter::LostMapFull
                | KernelCounter::LostReadFailed => {
                    if *value > 0 {
                        account.lost.insert(name, *value);
                    }
                }
            }
        }
        account
    }

    fn accounted(&self) -> u64 {
        self.submitted + sum(&self.filtered) + self.throttled + sum(&self.lost)
    }
}

/// The daemon's terms of one row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DaemonAccount {
    /// Samples that the reader took out of a ring or a recording.
    pub received: u64,
    /// Lost between ring and decoder, by cause.
    pub lost_in_reader: Causes,
    /// Records that were parsed.
    pub decoded: u64,
    /// Events that the daemon made itself.
    pub synthesised: u64,
    /// Events handed to the sinks.
    pub sealed: u64,
    /// Dropped on purpose, by rule.
    pub filtered: Causes,
    /// Records that became part of another event.
    pub merged: u64,
    /// Lost after decoding, by cause.
    pub lost: Causes,
    /// On the way, by place.
    pub waiting: Causes,
}

impl DaemonAccount {
    fn accounted(&self) -> u64 {
        self.sealed + sum(&self.filtered) + self.merged + sum(&self.lost) + sum(&self.waiting)
    }
}

/// One sink's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SinkAccount {
    /// Events handed to it.
    pub sealed: u64,
    /// Events that it promised to be safe.
    pub acked: u64,
    /// Events that it lost, by cause.
    pub lost: Causes,
    /// Events on the way.
    pub waiting: u64,
}

impl SinkAccount {
    /// With so many of the events that waited lost for this cause.
    #[must_use]
    pub fn gone(mut self, cause: &str, events: u64) -> Self {
        let events = events.min(self.waiting);
        if events > 0 {
            self.waiting = self.waiting.saturating_sub(events);
            let lost = self.lost.entry(cause.to_owned()).or_default();
            *lost = lost.saturating_add(events);
        }
        self
    }
}

/// One row, all sides of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Absent when the records come from a recording without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelAccount>,
    /// The daemon's.
    pub daemon: DaemonAccount,
}

/// Something that does not add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Imbalance {
    /// Row or sink.
    pub row: String,
    /// Which identity.
    pub identity: &'static str,
    /// Its left side.
    pub left: u64,
    /// Its right side.
    pub right: u64,
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} identity open: {} != {}",
            self.row, self.identity, self.left, self.right
        )
    }
}

/// The whole account.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ledger {
    rows: BTreeMap<&'static str, Account>,
    sinks: BTreeMap<String, SinkAccount>,
    /// Samples of no known kind, by cause.
    decode_errors: Causes,
    /// Beside the identities: what the kernel itself skipped at most, by program (`recursion_misses`).
    unseen_at_most: BTreeMap<String, Option<u64>>,
    /// Sequence numbers missing per lane: a cross-check of the kernel's loss counters.
    sequence_gaps: Causes,
    /// Gauges and counters of bounded places (caches, tables, pools), by name.
    places: Causes,
    #[serde(skip)]
    hot: Vec<Hot>,
}

/// Counters that are bumped per event, by row index.
#[derive(Clone, Copy, Debug, Default)]
struct Hot {
    decoded: u64,
    synthesised: u64,
    sealed: u64,
    merged: u64,
}

fn sum(causes: &Causes) -> u64 {
    causes.values().sum()
}

impl Ledger {
    /// An empty account with every row present.
    #[must_use]
    pub fn new() -> Self {
        Self {
            rows: Row::all()
                .map(|row| (row.name(), Account::default()))
                .collect(),
            hot: vec![Hot::default(); Row::COUNT],
            ..Self::default()
        }
    }

    fn row(&mut self, row: Row) -> &mut Account {
        self.rows.entry(row.name()).or_default()
    }

    fn hot(&mut self, row: Row, bump: impl FnOnce(&mut Hot)) {
        if let Some(hot) = self.hot.get_mut(row.index()) {
            bump(hot);
        }
    }

    /// A record was parsed.
    pub fn decoded(&mut self, row: Row) {
        self.hot(row, |hot| hot.decoded += 1);
    }

    /// The daemon made an event itself.
    pub fn synthesised(&mut self, row: Row) {
        self.hot(row, |hot| hot.synthesised += 1);
    }

    /// An event went to the sinks.
    pub fn sealed(&mut self, row: Row) {
        self.hot(row, |hot| hot.sealed += 1);
    }

    /// A record became part of another event.
    pub fn merged(&mut self, row: Row) {
        self.hot(row, |hot| hot.merged += 1);
    }

    /// An event was dropped on purpose.
    pub fn filtered(&mut self, row: Row, rule: &str) {
        bump(&mut self.row(row).daemon.filtered, rule, 1);
    }

    /// An event was lost in the daemon.
    pub fn lost(&mut self, row: Row, cause: &str) {
        bump(&mut self.row(row).daemon.lost, cause, 1);
    }

    /// A sample was no record; `row` is the kind that it claims to be.
    pub fn decode_error(&mut self, row: Row, reason: &str) {
        bump(&mut self.decode_errors, reason, 1);
        bump(&mut self.row(row).daemon.lost_in_reader, "decode_error", 1);
    }

    /// What the reader took and what it had to drop for a full queue, by kind slot and in all.
    pub fn reader(&mut self, row: Row, received: u64, queue_full: u64) {
        let daemon = &mut self.row(row).daemon;
        daemon.received = received;
        if queue_full > 0 {
            daemon
                .lost_in_reader
                .insert(QUEUE_FULL.to_owned(), queue_full);
        }
    }

    /// What happened to records before they were recorded: `queue_full` dropped by the reader, `self_test` left out on
    /// purpose. After [`Self::reader`], which says what was read of the recording.
    pub fn recorded(&mut self, row: Row, queue_full: u64, self_test: u64) {
        let daemon = &mut self.row(row).daemon;
        daemon.received = daemon
            .received
            .saturating_add(queue_full)
            .saturating_add(self_test);
        if queue_full > 0 {
            bump(&mut daemon.lost_in_reader, QUEUE_FULL, queue_full);
        }
        if self_test > 0 {
            bump(&mut daemon.filtered, SELF_TEST, self_test);
            self.hot(row, |hot| {
                hot.decoded = hot.decoded.saturating_add(self_test);
            });
        }
    }

    /// How many events are at a place on the way.
    pub fn waiting(&mut self, row: Row, place: &str, count: u64) {
        let waiting = &mut self.row(row).daemon.waiting;
        if count == 0 {
            waiting.remove(place);
        } else {
            waiting.insert(place.to_owned(), count);
        }
    }

    /// The kernel's counters of one kind.
    pub fn kernel(&mut self, kind: RecordKind, account: KernelAccount) {
        self.row(Row::Kind(kind)).kernel = Some(account);
    }

    /// One sink's account.
    pub fn sink(&mut self, name: &str, account: SinkAccount) {
        self.sinks.insert(name.to_owned(), account);
    }

    /// What a program missed at most; `None`: its kernel does not say.
    pub fn unseen(&mut self, program: &str, misses: Option<u64>) {
        self.unseen_at_most.insert(program.to_owned(), misses);
    }

    /// What each program missed at most.
    #[must_use]
    pub fn unseen_at_most(&self) -> &BTreeMap<String, Option<u64>> {
        &self.unseen_at_most
    }

    /// Missing sequence numbers of a lane.
    pub fn sequence_gap(&mut self, lane: &str, missing: u64) {
        if missing > 0 {
            self.sequence_gaps.insert(lane.to_owned(), missing);
        }
    }

    /// A gauge or counter of a bounded place.
    pub fn place(&mut self, name: &str, value: u64) {
        self.places.insert(name.to_owned(), value);
    }

    /// The account of one row with the hot counters merged in.
    #[must_use]
    pub fn account(&self, row: Row) -> Account {
        let mut account = self.rows.get(row.name()).cloned().unwrap_or_default();
        if let Some(hot) = self.hot.get(row.index()) {
            account.daemon.decoded = hot.decoded;
            account.daemon.synthesised = hot.synthesised;
            account.daemon.sealed = hot.sealed;
            account.daemon.merged = hot.merged;
        }
        account
    }

    /// Everything that does not add up. `unread` is how many submitted records are still in rings, when that is known
    /// to be none (after a drain) pass 0, else `None` and the hand-over is not compared.
    #[must_use]
    pub fn imbalances(&self, unread: Option<u64>) -> Vec<Imbalance> {
        let mut open = Vec::new();
        let mut compare = |row: &str, identity, left, right| {
            if left != right {
                open.push(Imbalance {
                    row: row.to_owned(),
                    identity,
                    left,
                    right,
                });
            }
        };
        let mut submitted = 0;
        let mut received = 0;
        for row in Row::all() {
            let account = self.account(row);
            let daemon = &account.daemon;
            if let Some(kernel) = &account.kernel {
                compare(row.name(), "kernel", kernel.attempted, kernel.accounted());
                submitted += kernel.submitted;
            }
            received += daemon.received;
            if !matches!(row, Row::Patch | Row::Aggregate) {
                compare(
                    row.name(),
                    "reader",
                    daemon.received,
                    daemon.decoded + sum(&daemon.lost_in_reader),
                );
            }
            if row != Row::Unknown {
                let made = daemon.decoded + daemon.synthesised;
                compare(row.name(), "daemon", made, daemon.accounted());
            }
        }
        let has_kernel = Row::all().any(|row| self.account(row).kernel.is_some());
        if let (Some(unread), true) = (unread, has_kernel) {
            compare("all", "hand-over", submitted, received + unread);
        }
        for (name, sink) in &self.sinks {
            compare(
                name,
                "sink",
                sink.sealed,
                sink.acked + sum(&sink.lost) + sink.waiting,
            );
        }
        open
    }

    /// Records lost anywhere, kernel, reader, daemon and sinks together.
    #[must_use]
    pub fn lost_in_all(&self) -> u64 {
        Row::all()
            .map(|row| {
                let account = self.account(row);
                account.kernel.map_or(0, |kernel| sum(&kernel.lost))
                    + sum(&account.daemon.lost_in_reader)
                    + sum(&account.daemon.lost)
            })
            .sum::<u64>()
            + self.sinks.values().map(|sink| sum(&sink.lost)).sum::<u64>()
    }

    /// The whole account as one JSON object: `rows`, `sinks`, `decode_errors`, `unseen_at_most`, `sequence_gaps`,
    /// `places`, `imbalances`.
    #[must_use]
    pub fn to_json(&self, unread: Option<u64>) -> serde_json::Value {
        let rows: BTreeMap<_, _> = Row::all()
            .map(|row| (row.name(), self.account(row)))
            .collect();
        serde_json::json!({
            "rows": rows,
            "sinks": self.sinks,
            "decode_errors": self.decode_errors,
            "unseen_at_most": self.unseen_at_most,
            "sequence_gaps": self.sequence_gaps,
            "places": self.places,
            "imbalances": self.imbalances(unread),
        })
    }
}

impl fmt::Display for Ledger {
    /// The summary table: a line per row in which anything happened.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8}  causes",
            "type", "seen", "delivered", "filtered", "merged", "lost", "waiting"
        )?;
        for row in Row::all() {
            let account = self.account(row);
            let daemon = &account.daemon;
            let mut filtered = daemon.filtered.clone();
            let mut lost = daemon.lost.clone();
            for (cause, count) in &daemon.lost_in_reader {
                bump(&mut lost, cause, *count);
            }
            let mut seen = daemon.received + daemon.synthesised;
            if let Some(kernel) = &account.kernel {
                seen = kernel.attempted + daemon.synthesised;
                for (rule, count) in &kernel.filtered {
                    bump(&mut filtered, rule, *count);
                }
                for (cause, count) in &kernel.lost {
                    bump(&mut lost, cause, *count);
                }
            }
            let waiting = sum(&daemon.waiting);
            if seen + sum(&lost) + waiting == 0 {
                continue;
            }
            write!(
                f,
                "{:<12} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8} ",
                row.name(),
                seen,
                daemon.sealed,
                sum(&filtered),
                daemon.merged,
                sum(&lost),
                waiting
            )?;
            for (cause, count) in filtered.iter().chain(&lost).chain(&daemon.waiting) {
                write!(f, " {cause}={count}")?;
            }
            writeln!(f)?;
        }
        for (name, sink) in &self.sinks {
            writeln!(
                f,
                "sink {name}: {} sealed, {} acknowledged, {} lost, {} waiting",
                sink.sealed,
                sink.acked,
                sum(&sink.lost),
                sink.waiting
            )?;
        }
        for (program, misses) in &self.unseen_at_most {
            if let Some(misses) = misses.filter(|misses| *misses > 0) {
                writeln!(
                    f,
                    "unseen at most {misses} by {program} (the kernel skipped the program)"
                )?;
            }
        }
        Ok(())
    }
}

fn bump(causes: &mut Causes, cause: &str, by: u64) {
    if let Some(count) = causes.get_mut(cause) {
        *count += by;
    } else {
        causes.insert(cause.to_owned(), by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXEC: Row = Row::Kind(RecordKind::Exec);

    fn kernel(attempted: u64, submitted: u64, ring_full: u64) -> KernelAccount {
        let mut values = vec![0; KernelCounter::ALL.len()];
        values[KernelCounter::Attempted as usize] = attempted;
        values[KernelCounter::Submitted as usize] = submitted;
        values[KernelCounter::LostRingFull as usize] = ring_full;
        KernelAccount::from_counters(&values)
    }

    #[test]
    fn a_closed_account_has_no_imbalance() {
        let mut ledger = Ledger::new();
        ledger.kernel(RecordKind::Exec, kernel(5, 4, 1));
        ledger.reader(EXEC, 4, 1);
        for _ in 0..3 {
            ledger.decoded(EXEC);
        }
        ledger.sealed(EXEC);
        ledger.filtered(EXEC, "quiet");
        ledger.waiting(EXEC, "hold", 1);
        ledger.sink(
            "stdout",
            SinkAccount {
                sealed: 1,
                acked: 1,
                ..SinkAccount::default()
            },
        );
        assert_eq!(ledger.imbalances(Some(0)), []);
        assert_eq!(ledger.lost_in_all(), 2);
    }

    #[test]
    fn each_identity_is_checked_by_itself() {
        let mut ledger = Ledger::new();
        ledger.kernel(RecordKind::Exec, kernel(5, 4, 0));
        ledger.reader(EXEC, 3, 0);
        ledger.decoded(EXEC);
        ledger.sink(
            "file",
            SinkAccount {
                sealed: 2,
                acked: 1,
                ..SinkAccount::default()
            },
        );
        let open: Vec<_> = ledger
            .imbalances(Some(0))
            .into_iter()
            .map(|open| open.identity)
            .collect();
        assert_eq!(open, ["kernel", "reader", "daemon", "hand-over", "sink"]);
        // Records that are still in a ring explain a difference of the hand-over.
        assert!(
            ledger
                .imbalances(Some(1))
                .iter()
                .all(|open| open.identity != "hand-over")
        );
    }

    #[test]
    fn what_a_recording_left_out_closes_its_account() {
        let mut ledger = Ledger::new();
        ledger.kernel(RecordKind::Exec, kernel(10, 8, 2));
        ledger.reader(EXEC, 5, 0);
        for _ in 0..5 {
            ledger.decoded(EXEC);
            ledger.sealed(EXEC);
        }
        assert_ne!(ledger.imbalances(Some(0)), []);
        ledger.recorded(EXEC, 2, 1);
        assert_eq!(ledger.imbalances(Some(0)), []);
        assert_eq!(ledger.lost_in_all(), 4);
    }

    #[test]
    fn the_summary_names_causes() {
        let mut ledger = Ledger::new();
        ledger.kernel(RecordKind::FileCreate, kernel(10, 7, 3));
        ledger.reader(Row::Kind(RecordKind::FileCreate), 7, 0);
        let text = ledger.to_string();
        assert!(text.contains("file_create"), "{text}");
        assert!(text.contains("ring_full=3"), "{text}");
        assert!(!text.contains("module_load"), "{text}");
    }
}
