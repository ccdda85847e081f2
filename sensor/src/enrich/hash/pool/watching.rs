//! The thread that watches the others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sensor_proto::v1::HashVerdict;

use super::{Pinned, Shared, State, Ticket, WATCH_PERIOD, Waiting};
use crate::confine::Role;
use crate::enrich::hash::Released;
use crate::enrich::hash::count::add;
use crate::enrich::hash::judge::empty;

impl Shared {
    pub(super) fn watch_loop(self: &Arc<Self>) {
        // Threads that it starts in place of others have its limits.
        self.confinement.enter(Role::HashOpen);
        loop {
            let mut released = Vec::new();
            let mut late = Vec::new();
            let mut lost = Vec::new();
            {
                let mut state = self.state();
                if state.stopping {
                    return;
                }
                if state.is_idle() {
                    state.watching = false;
                    state = self.wait(&self.watch_work, state, None);
                } else {
                    let until = Instant::now() + WATCH_PERIOD;
                    state = self.wait(&self.watch_work, state, Some(until));
                }
                if state.stopping {
                    return;
                }
                let now = Instant::now();
                self.give_up(&mut state, now, &mut late, &mut lost);
                self.release_old(&mut state, now, &mut released);
            }
            for ticket in late {
                self.give(ticket, empty(HashVerdict::Timeout));
            }
            for ticket in released {
                self.release(ticket, Released::WaitedTooLong);
            }
            for opening in lost {
                // Without a thread in its place the pool goes on with fewer; jobs then end by waiting too long.
                let started = if opening {
                    self.spawn("hash-open", Self::open_loop)
                } else {
                    self.spawn("hash-read", Self::read_loop)
                };
                if let Err(error) = started {
                    tracing::warn!(%error, "hash thread not replaced");
                }
            }
        }
    }

    fn give_up(
        &self,
        state: &mut State,
        now: Instant,
        late: &mut Vec<Ticket>,
        lost: &mut Vec<bool>,
    ) {
        let overdue: Vec<u64> = state
            .busy
            .iter()
            .filter(|(_, busy)| busy.deadline < now)
            .map(|(serial, _)| *serial)
            .collect();
        for serial in overdue {
            let Some(busy) = state.busy.remove(&serial) else {
                continue;
            };
            busy.abandoned.store(true, Ordering::Relaxed);
            state.pinned = state.pinned.saturating_sub(1);
            add(&self.counters.stuck, 1);
            if let Some(followers) = busy.leads.and_then(|key| state.in_flight.remove(&key)) {
                late.extend(followers.into_iter().map(|follower| follower.ticket));
            }
            late.push(busy.ticket);
            if state.replaced < self.config.replacements {
                state.replaced = state.replaced.saturating_add(1);
                lost.push(busy.opening);
            }
        }
    }

    fn release_old(&self, state: &mut State, now: Instant, released: &mut Vec<Ticket>) {
        let limit = self.config.wait_limit;
        for queue in &mut state.waiting {
            while queue
                .front()
                .is_some_and(|waiting| now.duration_since(waiting.since) > limit)
            {
                released.extend(queue.pop_front().map(Waiting::ticket));
            }
        }
        let mut keys = Vec::new();
        for queue in &mut state.ready {
            let old = |pinned: &Pinned| now.duration_since(pinned.since) > limit;
            while queue
                .first_key_value()
                .is_some_and(|(_, pinned)| old(pinned))
            {
                if let Some((_, pinned)) = queue.pop_first() {
                    state.pinned = state.pinned.saturating_sub(1);
                    keys.extend(pinned.leads);
                    released.push(pinned.ticket);
                }
            }
        }
        for key in keys {
            let followers = state.in_flight.remove(&key).unwrap_or_default();
            released.extend(followers.into_iter().map(|follower| follower.ticket));
        }
    }
}
