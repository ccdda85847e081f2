//! What digests are worth: the one place where a verdict is made of what was seen.

use std::sync::Arc;

use sensor_common::record::FileIdentity;
use sensor_proto::v1::{HashSource, HashVerdict};

use super::fs::FsClass;
use super::identity::{self, Match, OnDevice, Seen};
use super::{HashResult, ProcessStart, What, Writers};
use crate::procfs::ProcessDir;

/// What the judgement needs to know of a job whose file is open.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) what: What,
    pub(super) expected: Option<FileIdentity>,
    pub(super) event_wall_ns: i64,
    pub(super) writers: Writers,
    pub(super) source: HashSource,
    /// The file when it was opened.
    pub(super) seen: Seen,
    pub(super) matched: Option<Match>,
    pub(super) device: OnDevice,
    /// It was the executable of a running process when it was opened: nobody wrote it since the event.
    pub(super) frozen: Option<Frozen>,
    pub(super) default_acl: Option<String>,
    /// The file when it was opened, as results tell it.
    pub(super) identity: FileIdentity,
}

#[derive(Clone, Debug)]
pub(super) struct Frozen {
    pub(super) process: Arc<ProcessDir>,
    pub(super) start: ProcessStart,
}

/// How the content of a claim came to be known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    /// It did not change from when the claim's file was opened until it was read to its end.
    pub(super) whole: bool,
    /// Reading began more than one granule after `ctime`.
    pub(super) settled: bool,
    /// The program still ran when reading ended.
    pub(super) still_frozen: bool,
    /// No writer closed the file while it was read, and none is left (memory file systems).
    pub(super) quiet: bool,
    /// The same since before the event.
    pub(super) quiet_since_event: bool,
    /// What a lease said after reading.
    pub(super) writers: Writers,
}

pub(super) const fn empty(verdict: HashVerdict) -> HashResult {
    HashResult {
        token: 0,
        verdict,
        source: HashSource::Unspecified,
        digests: None,
        identity: None,
        facts: None,
        default_acl: None,
        cached: false,
        released: None,
    }
}

pub(super) fn judged(claim: Claim, proof: &Proof) -> HashResult {
    HashResult {
        source: claim.source,
        identity: Some(claim.identity),
        verdict: judge(&claim, proof),
        default_acl: claim.default_acl,
        ..empty(HashVerdict::Unspecified)
    }
}

/// What digests of a claim's file are worth.
fn judge(claim: &Claim, proof: &Proof) -> HashVerdict {
    let created = claim.what == What::Created;
    if created && proof.writers == Writers::Left {
        return HashVerdict::Open;
    }
    let frozen = claim.frozen.is_some();
    let Some(expected) = &claim.expected else {
        return if proof.whole {
            HashVerdict::Racy
        } else {
            HashVerdict::Drifted
        };
    };
    let same = match claim.matched {
        Some(Match::Same) => true,
        // Only the change time moved: no write, if none was possible.
        Some(Match::ChangeTime) => frozen,
        Some(Match::Content | Match::Other) | None => false,
    };
    if !same || !(proof.whole || proof.still_frozen) {
        return HashVerdict::Drifted;
    }
    if created && proof.writers == Writers::Unknown {
        return HashVerdict::Open;
    }
    let memory = FsClass::of(claim.identity.fs_magic) == FsClass::Memory;
    let event_settled = frozen
        || proof.quiet_since_event
        || !identity::within_granule(expected, claim.event_wall_ns)
        // The event is the close itself: it follows the last write at once.
        || created;
    let reading_settled = proof.settled || proof.still_frozen;
    let writes_told = !memory
        || proof.quiet_since_event
        || proof.still_frozen
        || (proof.quiet && (frozen || created));
    if claim.device == OnDevice::Yes && event_settled && reading_settled && writes_told {
        HashVerdict::Verified
    } else {
        HashVerdict::Racy
    }
}
