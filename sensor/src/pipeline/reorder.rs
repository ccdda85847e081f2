//! The reorder window: puts records of different lanes and CPUs into the order of the kernel's boot clock.
//!
//! A record waits until it is older than the window, so that one that was written earlier and read later still comes
//! first. Bounded by count and bytes: when full, the oldest goes out early and is counted. One that comes later than the
//! window is wide, when younger ones have gone, is let through out of order and counted, too. It never drops anything.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// An item and its place in time.
#[derive(Debug)]
struct Entry<T> {
    time_boot_ns: u64,
    arrival: u64,
    bytes: usize,
    item: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    /// Reversed: the heap gives the oldest first, at equal times the one that arrived first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time_boot_ns, other.arrival).cmp(&(self.time_boot_ns, self.arrival))
    }
}

/// The window.
#[derive(Debug)]
pub(crate) struct Reorder<T> {
    heap: BinaryHeap<Entry<T>>,
    window_ns: u64,
    capacity: usize,
    capacity_bytes: usize,
    bytes: usize,
    arrivals: u64,
    /// Time of the youngest that has gone.
    passed_boot_ns: u64,
    released_early: u64,
    late: u64,
}

impl<T> Reorder<T> {
    /// A window of `window_ns` for at most `capacity` items of together `capacity_bytes`.
    pub(crate) fn new(window_ns: u64, capacity: usize, capacity_bytes: usize) -> Self {
        Self {
            heap: BinaryHeap::new(),
            window_ns,
            capacity: capacity.max(1),
            capacity_bytes,
            bytes: 0,
            arrivals: 0,
            passed_boot_ns: 0,
            released_early: 0,
            late: 0,
        }
    }

    /// Adds an item of so many bytes.
    pub(crate) fn push(&mut self, time_boot_ns: u64, bytes: usize, item: T) {
        self.arrivals += 1;
        if time_boot_ns < self.passed_boot_ns {
            self.late += 1;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.heap.push(Entry {
            time_boot_ns,
            arrival: self.arrivals,
            bytes,
            item,
        });
    }

    /// The oldest item if it is due at `now_boot_ns`, or if there are too many.
    pub(crate) fn pop_due(&mut self, now_boot_ns: u64) -> Option<T> {
        let due = self
            .heap
            .peek()?
            .time_boot_ns
            .saturating_add(self.window_ns)
            <= now_boot_ns;
        if !due {
            if self.heap.len() <= self.capacity && self.bytes <= self.capacity_bytes {
                return None;
            }
            self.released_early += 1;
        }
        let entry = self.heap.pop()?;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        self.passed_boot_ns = self.passed_boot_ns.max(entry.time_boot_ns);
        Some(entry.item)
    }

    /// Gives back the memory that a burst took.
    pub(crate) fn shrink(&mut self) {
        self.heap.shrink_to_fit();
    }

    /// When the oldest item is due.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.heap
            .peek()
            .map(|entry| entry.time_boot_ns.saturating_add(self.window_ns))
    }

    /// Everything that waits, in no order.
    pub(crate) fn items(&self) -> impl Iterator<Item = &T> {
        self.heap.iter().map(|entry| &entry.item)
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Items that came when a younger one had already gone: they went on out of order.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    /// How often an item left early because there were too many.
    pub(crate) fn released_early(&self) -> u64 {
        self.released_early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(reorder: &mut Reorder<u32>, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| reorder.pop_due(now)).collect()
    }

    #[test]
    fn late_arrivals_come_out_in_order_of_time() {
        let mut reorder = Reorder::new(50, 100, usize::MAX);
        reorder.push(20, 8, 2);
        reorder.push(10, 8, 1);
        reorder.push(20, 8, 3);
        assert_eq!(reorder.next_due(), Some(60));
        assert!(drain(&mut reorder, 59).is_empty());
        assert_eq!(drain(&mut reorder, 60), [1]);
        assert_eq!(drain(&mut reorder, u64::MAX), [2, 3]);
    }

    #[test]
    fn a_full_window_lets_the_oldest_go_early_and_counts_it() {
        let mut reorder = Reorder::new(50, 2, usize::MAX);
        for time in [30, 10, 20] {
            reorder.push(time, 8, u32::try_from(time).unwrap());
        }
        assert_eq!(drain(&mut reorder, 0), [10]);
        assert_eq!(reorder.released_early(), 1);
        assert_eq!(reorder.items().count(), 2);
    }

    #[test]
    fn a_window_full_of_bytes_lets_the_oldest_go_early() {
        let mut reorder = Reorder::new(50, 100, 100);
        reorder.push(10, 60, 1);
        reorder.push(20, 40, 2);
        assert!(drain(&mut reorder, 0).is_empty());
        reorder.push(30, 30, 3);
        assert_eq!(drain(&mut reorder, 0), [1]);
        assert_eq!((reorder.bytes(), reorder.released_early()), (70, 1));
    }

    #[test]
    fn who_comes_after_a_younger_one_has_gone_is_counted() {
        let mut reorder = Reorder::new(50, 100, usize::MAX);
        reorder.push(100, 8, 1);
        assert_eq!(drain(&mut reorder, 150), [1]);
        reorder.push(99, 8, 2);
        reorder.push(100, 8, 3);
        reorder.push(101, 8, 4);
        assert_eq!(drain(&mut reorder, 200), [2, 3, 4]);
        assert_eq!(reorder.late(), 1);
    }
}
