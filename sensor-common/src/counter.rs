//! Kernel-side counters: index and name of every one.
//!
//! They live in one per-CPU array of `u64`, [`COUNTER_COUNT`] long. The identity of the kernel side, per record kind:
//! `attempted = submitted + filtered + throttled + lost`, each term a counter of its own.

use crate::record::RecordKind;

/// What can become of an attempted record, and the attempt itself.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KernelCounter {
    /// A program found something to report.
    Attempted = 0,
    /// The record is in its ring.
    Submitted = 1,
    /// Outside the scoped cgroup.
    FilteredScope = 2,
    /// The sensor's own doing.
    FilteredSelf = 3,
    /// Dropped by a rule that was lowered into the kernel.
    FilteredRule = 4,
    /// Over the rate of its process; part of an aggregate instead.
    Throttled = 5,
    /// Lost: the ring was full.
    LostRingFull = 6,
    /// Lost: a kernel table that the event needs was full.
    LostMapFull = 7,
    /// Lost: a kernel object could not be read.
    LostReadFailed = 8,
}

impl KernelCounter {
    /// How many there are per record kind.
    pub const COUNT: u32 = 9;
    /// All of them, in index order.
    pub const ALL: [Self; 9] = [
        Self::Attempted,
        Self::Submitted,
        Self::FilteredScope,
        Self::FilteredSelf,
        Self::FilteredRule,
        Self::Throttled,
        Self::LostRingFull,
        Self::LostMapFull,
        Self::LostReadFailed,
    ];

    /// Name in the ledger; losses and filters by their cause.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attempted => "attempted",
            Self::Submitted => "submitted",
            Self::FilteredScope => "scope",
            Self::FilteredSelf => "self",
            Self::FilteredRule => "rule",
            Self::Throttled => "throttled",
            Self::LostRingFull => "ring_full",
            Self::LostMapFull => "map_full",
            Self::LostReadFailed => "read_failed",
        }
    }

    /// Index of this counter for `kind` in the counter array.
    #[must_use]
    pub const fn index(self, kind: RecordKind) -> u32 {
        kind.slot() * Self::COUNT + self as u32
    }
}

/// Slots for record kinds; room for those to come.
pub const KIND_SLOTS: u32 = 32;

/// Length of the counter array.
pub const COUNTER_COUNT: u32 = KIND_SLOTS * KernelCounter::COUNT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_the_table_and_fit() {
        for (position, kind) in RecordKind::ALL.iter().enumerate() {
            assert_eq!(kind.slot() as usize, position);
            assert!(kind.slot() < KIND_SLOTS);
            assert!(KernelCounter::LostReadFailed.index(*kind) < COUNTER_COUNT);
        }
        for (position, counter) in KernelCounter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, position);
        }
    }
}
