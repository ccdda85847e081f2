//! The reorder window: puts records of different lanes and CPUs into the order of the kernel's boot clock.
//!
//! A record waits until it is older than the window, so that one that was written earlier and read later still comes
//! first. Bounded by count: when full, the oldest goes out early and is counted. It never drops anything.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// An item and its place in time.
#[derive(Debug)]
struct Entry<T> {
    time_boot_ns: u64,
    arrival: u64,
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
    arrivals: u64,
    released_early: u64,
}

impl<T> Reorder<T> {
    /// A window of `window_ns` for at most `capacity` items.
    pub(crate) fn new(window_ns: u64, capacity: usize) -> Self {
        Self {
            heap: BinaryHeap::new(),
            window_ns,
            capacity: capacity.max(1),
            arrivals: 0,
            released_early: 0,
        }
    }

    /// Adds an item.
    pub(crate) fn push(&mut self, time_boot_ns: u64, item: T) {
        self.arrivals += 1;
        self.heap.push(Entry {
            time_boot_ns,
            arrival: self.arrivals,
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
            if self.heap.len() <= self.capacity {
                return None;
            }
            self.released_early += 1;
        }
        self.heap.pop().map(|entry| entry.item)
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
        let mut reorder = Reorder::new(50, 100);
        reorder.push(20, 2);
        reorder.push(10, 1);
        reorder.push(20, 3);
        assert_eq!(reorder.next_due(), Some(60));
        assert!(drain(&mut reorder, 59).is_empty());
        assert_eq!(drain(&mut reorder, 60), [1]);
        assert_eq!(drain(&mut reorder, u64::MAX), [2, 3]);
    }

    #[test]
    fn a_full_window_lets_the_oldest_go_early_and_counts_it() {
        let mut reorder = Reorder::new(50, 2);
        for time in [30, 10, 20] {
            reorder.push(time, u32::try_from(time).unwrap());
        }
        assert_eq!(drain(&mut reorder, 0), [10]);
        assert_eq!(reorder.released_early(), 1);
        assert_eq!(reorder.items().count(), 2);
    }
}
