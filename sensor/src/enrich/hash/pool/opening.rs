//! The thread that opens: newest job first.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use sensor_proto::v1::{HashSource, HashVerdict};

use super::{Busy, Follower, OPEN_LIMIT, Pinned, Shared, State, Ticket};
use crate::confine::Role;
use crate::enrich::hash::cache::ContentKey;
use crate::enrich::hash::count::add;
use crate::enrich::hash::fs::FsClass;
use crate::enrich::hash::identity::{self, OnDevice};
use crate::enrich::hash::judge::{Claim, Frozen, Proof, empty, judged};
use crate::enrich::hash::open::Unreached;
use crate::enrich::hash::{HashJob, HashResult, Released, What, Writers};

impl Shared {
    pub(super) fn open_loop(self: &Arc<Self>) {
        self.confinement.enter(Role::HashOpen);
        let abandoned = Arc::new(AtomicBool::new(false));
        loop {
            let (serial, waiting) = {
                let mut state = self.state();
                let waiting = loop {
                    if state.stopping {
                        return;
                    }
                    let newest = if state.pinned < self.config.pinned {
                        state.waiting.iter_mut().find_map(VecDeque::pop_back)
                    } else {
                        None
                    };
                    if let Some(waiting) = newest {
                        break waiting;
                    }
                    state = self.wait(&self.open_work, state, None);
                };
                state.pinned = state.pinned.saturating_add(1);
                let serial = state.serial();
                let (ticket, job, since) = waiting.split();
                let busy = Busy {
                    ticket,
                    deadline: Instant::now() + OPEN_LIMIT,
                    opening: true,
                    leads: None,
                    abandoned: Arc::clone(&abandoned),
                };
                state.busy.insert(serial, busy);
                (serial, (job, since))
            };
            let (job, since) = waiting;
            let opened = self.open(job);
            let mut state = self.state();
            let Some(busy) = state.busy.remove(&serial) else {
                return;
            };
            match opened {
                Ok((claim, file)) => self.admit(state, busy.ticket, claim, file, since),
                Err(reason) => {
                    state.pinned = state.pinned.saturating_sub(1);
                    drop(state);
                    self.give(busy.ticket, empty(verdict_of(reason)));
                }
            }
        }
    }

    fn open(&self, job: HashJob) -> Result<(Claim, OwnedFd), Unreached> {
        let expected = job.identity.filter(|identity| identity.inode != 0);
        let reached = match job.open {
            // Handed over by the watch on its last writer; look again, it may have changed meanwhile.
            Some(open) => {
                let before = open.reached;
                let mut reached = self.opener.examine(
                    before.file,
                    before.source,
                    expected.as_ref(),
                    Some(before.device),
                    None,
                )?;
                reached.default_acl = before.default_acl;
                reached
            }
            None => self.opener.reach(job.what, &job.place, expected.as_ref())?,
        };
        let mut frozen = None;
        if job.what == What::Executed
            && reached.source == HashSource::ProcExe
            && expected.is_some()
            && self.executables_frozen
            && FsClass::of(reached.seen.identity.fs_magic) != FsClass::Overlay
            && let (Some(process), Some(start)) = (reached.process, job.place.process)
            && self.opener.runs(&process, start, &reached.seen)
        {
            frozen = Some(Frozen { process, start });
        }
        let mut identity = reached.seen.identity;
        if let (Some(expected), OnDevice::Yes) = (&expected, reached.device) {
            identity.device = expected.device;
            identity.generation = expected.generation;
        }
        let claim = Claim {
            what: job.what,
            expected,
            event_wall_ns: job.event_wall_ns,
            writers: if job.what == What::Created {
                job.writers
            } else {
                Writers::Gone
            },
            source: reached.source,
            seen: reached.seen,
            matched: reached.matched,
            device: reached.device,
            frozen,
            default_acl: reached.default_acl,
            identity,
        };
        Ok((claim, reached.file))
    }

    /// Takes an opened job in: answered from the cache, joined to another of the same content, or queued for reading.
    fn admit(
        &self,
        mut state: MutexGuard<'_, State>,
        ticket: Ticket,
        claim: Claim,
        file: OwnedFd,
        since: Instant,
    ) {
        if state.stopping {
            state.pinned = state.pinned.saturating_sub(1);
            drop(state);
            self.release(ticket, Released::Stopped);
            return;
        }
        let now_ns = self.wall_now_ns();
        let mut leads = None;
        let proven = claim.device == OnDevice::Yes;
        let key = ContentKey::of(&claim.identity).filter(|_| proven);
        let memory = FsClass::of(claim.identity.fs_magic) == FsClass::Memory;
        if let Some(key) = key {
            let found = if memory {
                self.find_watched(claim.what, &key, claim.event_wall_ns)
            } else {
                self.store().cache.find(&key)
            };
            if let Some(found) = found
                && claim.writers == Writers::Gone
            {
                state.pinned = state.pinned.saturating_sub(1);
                drop(state);
                drop(file);
                self.open_work.notify_one();
                add(&self.counters.hits_open, 1);
                let proof = Proof {
                    whole: true,
                    settled: true,
                    still_frozen: claim.frozen.is_some(),
                    quiet: true,
                    quiet_since_event: memory,
                    writers: Writers::Gone,
                };
                let result = HashResult {
                    digests: Some(found.digests),
                    facts: Some(found.facts),
                    cached: true,
                    ..judged(claim, &proof)
                };
                self.give(ticket, result);
                return;
            }
            if !memory && claim.what != What::Created {
                if let Some(followers) = state.in_flight.get_mut(&key) {
                    followers.push(Follower { ticket, claim });
                    state.pinned = state.pinned.saturating_sub(1);
                    drop(state);
                    add(&self.counters.merged, 1);
                    self.open_work.notify_one();
                    return;
                }
                state.in_flight.insert(key, Vec::new());
                leads = Some(key);
            }
        }
        let granule_ns = identity::granule_ns(&claim.identity);
        let wait_ns = claim
            .identity
            .ctime_ns
            .saturating_add(granule_ns)
            .saturating_sub(now_ns)
            .saturating_add(1);
        // Further in the future than a granule: the clock was put back, waiting proves nothing.
        let wait = if (0..=granule_ns).contains(&wait_ns) {
            Duration::from_nanos(u64::try_from(wait_ns).unwrap_or(0))
        } else {
            Duration::ZERO
        };
        let rank = claim.what.rank();
        let serial = state.serial();
        let at = (Instant::now() + wait, serial);
        let pinned = Pinned {
            ticket,
            claim,
            file,
            key,
            leads,
            since,
        };
        if let Some(queue) = state.ready.get_mut(rank) {
            queue.insert(at, pinned);
        }
        drop(state);
        self.read_work.notify_one();
    }
}

const fn verdict_of(reason: Unreached) -> HashVerdict {
    match reason {
        Unreached::Gone => HashVerdict::Gone,
        Unreached::Unreadable => HashVerdict::Unreadable,
        Unreached::Refused => HashVerdict::RefusedFs,
        Unreached::Replaced => HashVerdict::Drifted,
    }
}
