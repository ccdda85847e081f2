//! What instrumented code tells while it runs: which edges it took, and what it compared.
//!
//! LLVM's SanitizerCoverage calls these functions and counts in a section of bytes; `cargo xtask fuzz` turns it on for the
//! crates of the sensor and not for this one, so that nothing here calls itself. The names are LLVM's, and nobody else has
//! them:
//! <https://clang.llvm.org/docs/SanitizerCoverage.html>.
#![expect(
    unsafe_code,
    reason = "the instrumentation calls functions by name and hands out memory by address"
)]

use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};

static START: AtomicPtr<AtomicU8> = AtomicPtr::new(ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Comparisons that are remembered of one run; older ones are written over.
const COMPARED: usize = 64;
static LEFT: [AtomicU64; COMPARED] = [const { AtomicU64::new(0) }; COMPARED];
static RIGHT: [AtomicU64; COMPARED] = [const { AtomicU64::new(0) }; COMPARED];
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// Cases of one switch that are remembered.
const CASES: usize = 16;

/// A counter per edge of the instrumented code; empty if none is.
#[must_use]
pub fn counters() -> &'static [AtomicU8] {
    let start = START.load(Ordering::Relaxed);
    if start.is_null() {
        return &[];
    }
    let length = LENGTH.load(Ordering::Relaxed);
    // SAFETY: the instrumentation gave begin and end of a section of this program, which stays where it is; the code under
    // test counts there on the thread that reads here.
    unsafe { slice::from_raw_parts(start, length) }
}

/// Forgets the run before.
pub fn reset() {
    for counter in counters() {
        counter.store(0, Ordering::Relaxed);
    }
    NEXT.store(0, Ordering::Relaxed);
}

/// What was compared since the last [`reset`]: both sides, unequal, the newest of them.
#[must_use]
pub fn compared() -> Vec<(u64, u64)> {
    let count = NEXT.load(Ordering::Relaxed).min(COMPARED);
    let pairs = LEFT.iter().zip(&RIGHT).take(count);
    let mut pairs: Vec<_> = pairs
        .map(|(left, right)| (left.load(Ordering::Relaxed), right.load(Ordering::Relaxed)))
        .filter(|(left, right)| left != right)
        .collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

fn note(left: u64, right: u64) {
    let at = NEXT.fetch_add(1, Ordering::Relaxed) % COMPARED;
    if let (Some(one), Some(other)) = (LEFT.get(at), RIGHT.get(at)) {
        one.store(left, Ordering::Relaxed);
        other.store(right, Ordering::Relaxed);
    }
}

/// Before `main`, by the instrumented code: where its counters are.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut AtomicU8, stop: *mut AtomicU8) {
    START.store(start, Ordering::Relaxed);
    LENGTH.store(stop.addr().saturating_sub(start.addr()), Ordering::Relaxed);
}

/// The table of code addresses, which is not needed.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_pcs_init(_start: *const usize, _stop: *const usize) {}

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_cmp1(_left: u8, _right: u8) {}

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_const_cmp1(_left: u8, _right: u8) {}

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_cmp2(left: u16, right: u16) {
    note(left.into(), right.into());
}

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_const_cmp2(left: u16, right: u16) {
    note(left.into(), right.into());
}

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_cmp4(left: u32, right: u32) {
    note(left.into(), right.into());
}

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_const_cmp4(left: u32, right: u32) {
    note(left.into(), right.into());
}

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_cmp8(left: u64, right: u64) {
    note(left, right);
}

#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_const_cmp8(left: u64, right: u64) {
    note(left, right);
}

/// A value and the table of a switch: number of cases, bits of the value, the cases.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_trace_switch(value: u64, table: *const u64) {
    // SAFETY: the instrumentation's table begins with the number of its cases.
    let count = unsafe { ptr::read(table) };
    let count = usize::try_from(count).unwrap_or(0).min(CASES);
    // SAFETY: so many cases lie behind the two first words.
    let cases = unsafe { slice::from_raw_parts(table.wrapping_add(2), count) };
    for case in cases {
        note(value, *case);
    }
}
