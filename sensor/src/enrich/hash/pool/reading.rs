//! The threads that read.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use sensor_common::record::FileIdentity;
use sensor_proto::v1::HashVerdict;

use super::{Busy, Follower, GRACE, Remembered, Shared, Ticket};
use crate::confine::Role;
use crate::enrich::file::FileFacts;
use crate::enrich::hash::cache::ContentKey;
use crate::enrich::hash::count::add;
use crate::enrich::hash::digest::Digests;
use crate::enrich::hash::fs::FsClass;
use crate::enrich::hash::guard::Guard;
use crate::enrich::hash::identity::{self, Match};
use crate::enrich::hash::judge::{Claim, Proof, empty, judged};
use crate::enrich::hash::read::{self, CHUNK_BYTES, Reading, Terms};
use crate::enrich::hash::{HashResult, Released, What, Writers};
use crate::kernel::sys;

/// How reading for a claim, and for those who follow it, ended.
#[derive(Debug)]
enum Outcome {
    Read {
        digests: Digests,
        facts: Arc<FileFacts>,
        proof: Proof,
        identity: FileIdentity,
    },
    Without(HashVerdict),
    Stopped,
}

impl Shared {
    pub(super) fn read_loop(self: &Arc<Self>) {
        self.confinement.enter(Role::HashRead);
        // Refused only if someone made it nicer before: then it is as wished.
        let _refused = rustix::process::setpriority_process(None, self.config.nice);
        let mut buffer = vec![0_u8; CHUNK_BYTES];
        let abandoned = Arc::new(AtomicBool::new(false));
        loop {
            let (serial, claim, file, key, deadline) = {
                let mut state = self.state();
                let pinned = loop {
                    if state.stopping {
                        return;
                    }
                    let now = Instant::now();
                    let ready = state.ready.iter_mut().find_map(|queue| {
                        let (at, _) = queue.first_key_value()?;
                        if at.0 > now {
                            return None;
                        }
                        queue.pop_first()
                    });
                    if let Some((_, pinned)) = ready {
                        break pinned;
                    }
                    let next = state
                        .ready
                        .iter()
                        .filter_map(|queue| queue.first_key_value().map(|(at, _)| at.0))
                        .min();
                    state = self.wait(&self.read_work, state, next);
                };
                let serial = state.serial();
                let deadline = Instant::now() + self.config.timeout;
                let busy = Busy {
                    ticket: pinned.ticket,
                    deadline: deadline + GRACE,
                    opening: false,
                    leads: pinned.leads,
                    abandoned: Arc::clone(&abandoned),
                };
                state.busy.insert(serial, busy);
                (serial, pinned.claim, pinned.file, pinned.key, deadline)
            };
            let outcome = self.read(&claim, &file, key, deadline, &mut buffer, &abandoned);
            drop(file);
            let mut state = self.state();
            let Some(busy) = state.busy.remove(&serial) else {
                return;
            };
            state.pinned = state.pinned.saturating_sub(1);
            let followers = busy
                .leads
                .and_then(|key| state.in_flight.remove(&key))
                .unwrap_or_default();
            drop(state);
            self.open_work.notify_one();
            for Follower { ticket, claim } in followers {
                self.finish(ticket, claim, &outcome);
            }
            self.finish(busy.ticket, claim, &outcome);
        }
    }

    fn read(
        &self,
        claim: &Claim,
        file: &OwnedFd,
        key: Option<ContentKey>,
        deadline: Instant,
        buffer: &mut [u8],
        abandoned: &AtomicBool,
    ) -> Outcome {
        let memory = FsClass::of(claim.identity.fs_magic) == FsClass::Memory;
        let mut guarded = None;
        if memory && let Some(key) = key {
            let mut store = self.store();
            if store.guard.is_none() {
                store.guard = Guard::new(self.config.watches);
            }
            if let Some(guard) = &mut store.guard
                && guard.watch(file.as_fd(), key)
            {
                guarded = Some((key, self.wall_now_ns()));
            }
        }
        let began_ns = self.wall_now_ns();
        let terms = Terms {
            algorithms: self.config.algorithms,
            file_bytes: self.config.file_bytes,
            deadline,
            changed_from: claim
                .expected
                .filter(|_| claim.matched != Some(Match::Same)),
        };
        let stop = || abandoned.load(Ordering::Relaxed) || self.stopping.load(Ordering::Relaxed);
        let (content, before, whole, open) =
            match read::read(file.as_fd(), &claim.seen, &terms, buffer, stop) {
                Reading::Done {
                    content,
                    before,
                    whole,
                    file,
                } => (content, before, whole, file),
                Reading::Replaced => return Outcome::Without(HashVerdict::Drifted),
                Reading::TooLarge => return Outcome::Without(HashVerdict::TooLarge),
                Reading::Unreadable => return Outcome::Without(HashVerdict::Unreadable),
                Reading::Timeout => return Outcome::Without(HashVerdict::Timeout),
                Reading::Abandoned => return Outcome::Stopped,
            };
        add(&self.counters.read_files, 1);
        add(&self.counters.read_bytes, before.identity.size);
        let still_frozen = claim
            .frozen
            .as_ref()
            .is_some_and(|frozen| self.opener.runs(&frozen.process, frozen.start, &claim.seen));
        let writers = self.writers(claim, &open);
        let whole = whole && identity::unchanged(&claim.seen, &before);
        let settled = !identity::within_granule(&before.identity, began_ns);
        let quiet = writers == Writers::Gone
            && guarded.is_some_and(|(key, _)| {
                let mut store = self.store();
                store
                    .guard
                    .as_mut()
                    .is_some_and(|guard| guard.is_quiet(&key))
            });
        let proof = Proof {
            whole,
            settled,
            still_frozen,
            quiet,
            quiet_since_event: false,
            writers,
        };
        // Remembered under the identity that the open file had, if nothing could have changed unseen.
        if whole
            && settled
            && let Some(key) = key
        {
            let watched_wall_ns = match (memory, guarded) {
                (false, _) => Some(0),
                (true, Some((_, since))) if quiet => Some(since),
                (true, _) => None,
            };
            if let Some(watched_wall_ns) = watched_wall_ns
                && writers == Writers::Gone
            {
                let remembered = Remembered {
                    digests: content.digests,
                    facts: Arc::clone(&content.facts),
                    source: claim.source,
                    watched_wall_ns,
                };
                self.store().cache.insert(key, remembered);
            }
        }
        let mut identity = before.identity;
        identity.device = claim.identity.device;
        identity.generation = claim.identity.generation;
        if identity.generation == 0 {
            identity = identity::with_generation(identity, &open);
        }
        Outcome::Read {
            digests: content.digests,
            facts: content.facts,
            proof,
            identity,
        }
    }

    /// Whether a writer is left after reading: for created files, and where one could go on writing through a mapping
    /// that he has already written through, which moves no time until the page was written back.
    ///
    /// Programs, interpreters, scripts and modules need no asking on ordinary file systems: the kernel opened them such
    /// that a writer would have made that fail, and the first write of a later one moves `ctime`.
    fn writers(&self, claim: &Claim, file: &OwnedFd) -> Writers {
        let class = FsClass::of(claim.identity.fs_magic);
        let same = claim.matched == Some(Match::Same);
        let opened_by_kernel = claim.what != What::Created
            && class == FsClass::Plain
            && same
            && self.executables_frozen;
        if opened_by_kernel {
            return Writers::Gone;
        }
        if self.config.leases
            && let Ok(left) = sys::open_for_writing(file.as_fd())
        {
            return if left { Writers::Left } else { Writers::Gone };
        }
        match class {
            FsClass::Plain if claim.what == What::Created && same => claim.writers,
            // Its leases say little: the writer may hold the file underneath. What is remembered is looked up by the
            // times of the open file only.
            FsClass::Overlay if claim.what == What::Created => claim.writers,
            FsClass::Overlay => Writers::Gone,
            FsClass::Plain | FsClass::Memory | FsClass::Remote | FsClass::Kernel => {
                Writers::Unknown
            }
        }
    }

    fn finish(&self, ticket: Ticket, claim: Claim, outcome: &Outcome) {
        match outcome {
            Outcome::Without(verdict) => {
                let result = HashResult {
                    source: claim.source,
                    identity: Some(claim.identity),
                    default_acl: claim.default_acl,
                    ..empty(*verdict)
                };
                self.give(ticket, result);
            }
            Outcome::Stopped => self.release(ticket, Released::Stopped),
            Outcome::Read {
                digests,
                facts,
                proof,
                identity,
            } => {
                let result = HashResult {
                    digests: Some(*digests),
                    facts: Some(Arc::clone(facts)),
                    identity: Some(*identity),
                    ..judged(claim, proof)
                };
                self.give(ticket, result);
            }
        }
    }
}
