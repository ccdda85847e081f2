//! The hold: events in order that wait a short while for what is late (a hash, the close of a created file).
//!
//! The queue keeps its order: an event leaves when it and all before it are complete or over their time. Bounded by
//! count and bytes: when full, the oldest leaves incomplete and is counted. It never drops anything.

use std::collections::VecDeque;

/// Names an event in the hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
struct Slot<T> {
    item: T,
    /// How many things it still waits for.
    waits: u32,
    /// Boot clock at which it leaves all the same.
    deadline_ns: u64,
    bytes: usize,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Hold<T> {
    queue: VecDeque<Slot<T>>,
    /// Ticket of the front.
    first: u64,
    bytes: usize,
    capacity: usize,
    capacity_bytes: usize,
    released_early: u64,
}

impl<T> Hold<T> {
    /// An empty hold for at most `capacity` events of together `capacity_bytes`.
    pub(crate) fn new(capacity: usize, capacity_bytes: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            first: 0,
            bytes: 0,
            capacity: capacity.max(1),
            capacity_bytes,
            released_early: 0,
        }
    }

    /// Adds an event of so many bytes that waits for `waits` things until `deadline_ns` at the latest.
    pub(crate) fn push(&mut self, item: T, waits: u32, deadline_ns: u64, bytes: usize) -> Ticket {
        let ticket = Ticket(self.next_ticket());
        self.bytes = self.bytes.saturating_add(bytes);
        self.queue.push_back(Slot {
            item,
            waits,
            deadline_ns,
            bytes,
        });
        ticket
    }

    fn next_ticket(&self) -> u64 {
        self.first + u64::try_from(self.queue.len()).unwrap_or(u64::MAX)
    }

    fn slot(&mut self, ticket: Ticket) -> Option<&mut Slot<T>> {
        let position = ticket.0.checked_sub(self.first)?;
        self.queue.get_mut(usize::try_from(position).ok()?)
    }

    /// The event of a ticket, if it has not left.
    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        self.slot(ticket).map(|slot| &mut slot.item)
    }

    /// One of the things that it waited for has come.
    pub(crate) fn arrived(&mut self, ticket: Ticket) {
        if let Some(slot) = self.slot(ticket) {
            slot.waits = slot.waits.saturating_sub(1);
        }
    }

    /// One of the things that they waited for has come, for all events of which `came` says so.
    pub(crate) fn arrived_where(&mut self, mut came: impl FnMut(&mut T) -> bool) {
        for slot in &mut self.queue {
            if came(&mut slot.item) {
                slot.waits = slot.waits.saturating_sub(1);
            }
        }
    }

    /// The front, if it waits for nothing, is over its time at `now_ns`, or if there are too many.
    pub(crate) fn pop_ready(&mut self, now_ns: u64) -> Option<(Ticket, T)> {
        let front = self.queue.front()?;
        if front.waits > 0 && front.deadline_ns > now_ns {
            if self.queue.len() <= self.capacity && self.bytes <= self.capacity_bytes {
                return None;
            }
            self.released_early += 1;
        }
        let ticket = Ticket(self.first);
        self.first += 1;
        let slot = self.queue.pop_front()?;
        self.bytes = self.bytes.saturating_sub(slot.bytes);
        Some((ticket, slot.item))
    }

    /// Gives back the memory that a burst took.
    pub(crate) fn shrink(&mut self) {
        self.queue.shrink_to_fit();
    }

    /// When the front leaves at the latest.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.queue.front().map(|slot| slot.deadline_ns)
    }

    /// Everything in the hold, in order.
    pub(crate) fn items(&self) -> impl Iterator<Item = &T> {
        self.queue.iter().map(|slot| &slot.item)
    }

    /// The same, to be changed.
    pub(crate) fn items_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.queue.iter_mut().map(|slot| &mut slot.item)
    }

    /// Events in the hold.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of the events in the hold.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How often an event left incomplete because there were too many.
    pub(crate) fn released_early(&self) -> u64 {
        self.released_early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_while_the_front_waits() {
        let mut hold = Hold::new(10, usize::MAX);
        let first = hold.push("first", 2, 100, 8);
        hold.push("second", 0, 100, 8);
        assert_eq!(hold.pop_ready(50), None);
        hold.arrived(first);
        assert_eq!(hold.pop_ready(50), None);
        hold.arrived(first);
        assert_eq!(hold.pop_ready(50).map(|(_, item)| item), Some("first"));
        assert_eq!(hold.get_mut(first), None);
        assert_eq!(hold.pop_ready(50).map(|(_, item)| item), Some("second"));
        assert_eq!(hold.len(), 0);
    }

    #[test]
    fn nobody_waits_beyond_the_deadline_or_the_capacity() {
        let mut hold = Hold::new(1, usize::MAX);
        hold.push(1, 1, 100, 8);
        assert_eq!(hold.pop_ready(99), None);
        assert_eq!(hold.next_deadline(), Some(100));
        hold.push(2, 1, 200, 8);
        assert_eq!(hold.pop_ready(0).map(|(_, item)| item), Some(1));
        assert_eq!(hold.released_early(), 1);
        assert_eq!(hold.pop_ready(199), None);
        assert_eq!(hold.pop_ready(200).map(|(_, item)| item), Some(2));
        assert_eq!(hold.released_early(), 1);
    }

    #[test]
    fn tickets_stay_valid_while_others_leave() {
        let mut hold = Hold::new(10, usize::MAX);
        hold.push(1, 0, 0, 8);
        let second = hold.push(2, 1, 100, 8);
        hold.pop_ready(0);
        *hold.get_mut(second).unwrap() = 22;
        hold.arrived(second);
        assert_eq!(hold.pop_ready(0).map(|(_, item)| item), Some(22));
    }

    #[test]
    fn the_hold_is_bounded_in_bytes() {
        let mut hold = Hold::new(10, 100);
        hold.push(1, 1, 100, 60);
        hold.push(2, 1, 100, 40);
        assert_eq!(hold.pop_ready(0), None);
        hold.push(3, 1, 100, 1);
        assert_eq!(hold.pop_ready(0).map(|(_, item)| item), Some(1));
        assert_eq!((hold.bytes(), hold.released_early()), (41, 1));
        assert_eq!(hold.pop_ready(0), None);
        // One that is larger than all room leaves at once.
        hold.push(4, 1, 100, 1000);
        let left = std::iter::from_fn(|| hold.pop_ready(0)).count();
        assert_eq!((left, hold.bytes()), (3, 0));
    }
}
