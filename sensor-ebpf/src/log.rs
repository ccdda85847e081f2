//! What became of each record, as log lines: only in objects that `cargo xtask build-ebpf --log` makes.

use sensor_common::counter::KernelCounter;
use sensor_common::record::RecordKind;

/// Tells the outcome of an attempt. What is left out on purpose, and attempts themselves, are only counted.
#[cfg(feature = "log")]
#[inline(always)]
pub(crate) fn outcome(kind: RecordKind, counter: KernelCounter) {
    match counter {
        KernelCounter::Submitted => aya_log_ebpf::debug!((), "{} submitted", kind.name()),
        KernelCounter::LostRingFull
        | KernelCounter::LostMapFull
        | KernelCounter::LostReadFailed => {
            aya_log_ebpf::warn!((), "{} lost: {}", kind.name(), counter.name());
        }
        KernelCounter::Attempted
        | KernelCounter::Throttled
        | KernelCounter::FilteredScope
        | KernelCounter::FilteredSelf
        | KernelCounter::FilteredRule => {}
    }
}

/// Objects without logs do nothing here.
#[cfg(not(feature = "log"))]
#[inline(always)]
pub(crate) fn outcome(_kind: RecordKind, _counter: KernelCounter) {}
