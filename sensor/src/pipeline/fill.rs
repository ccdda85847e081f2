//! Puts late facts of files where they belong in an event or a patch.

use std::sync::Arc;

use sensor_common::record::{Text, TextRef};
use sensor_proto::v1::event::Body;
use sensor_proto::{field, v1};

use super::EarlyHash;
use super::late::Slot;
use crate::enrich::close_watch::CloseEnd;
use crate::enrich::file::FileFacts;
use crate::enrich::hash::{HashResult, Released};
use crate::event;
use crate::event::Context;

/// The file that a patch tells.
pub(super) fn part_file(part: &mut v1::patch::Part) -> Option<&mut v1::FileInfo> {
    match part {
        v1::patch::Part::File(patch) => patch.file.as_mut(),
        v1::patch::Part::ClosedFile(file) => Some(file),
        v1::patch::Part::Process(_) | v1::patch::Part::Connect(_) => None,
    }
}

/// A hash that is there, or the reason why there is none and none will come.
#[derive(Debug)]
pub(super) enum Ready {
    Known(Box<v1::Hashes>, Arc<FileFacts>),
    Refused,
}

impl Ready {
    pub(super) fn of(hash: EarlyHash) -> Option<Self> {
        match hash {
            EarlyHash::Known(hashes, facts) => Some(Self::Known(hashes, facts)),
            EarlyHash::Refused => Some(Self::Refused),
            EarlyHash::None | EarlyHash::Asked(_) => None,
        }
    }

    pub(super) fn put(self, file: &mut v1::FileInfo) {
        unawait(file);
        match self {
            Self::Known(hashes, facts) => {
                file.hashes = Some(*hashes);
                put_facts(file, &facts);
            }
            Self::Refused => file.absent.push(v1::Absent::new(
                field::file_info::HASHES,
                v1::AbsentReason::ReleasedEarly,
            )),
        }
    }
}

pub(super) fn sort(
    hash: EarlyHash,
    slot: Slot,
    waits: &mut Vec<(u64, Slot)>,
    ready: &mut Vec<(Slot, Ready)>,
) {
    match hash {
        EarlyHash::Asked(token) => waits.push((token, slot)),
        EarlyHash::None | EarlyHash::Known(..) | EarlyHash::Refused => {
            ready.extend(Ready::of(hash).map(|hash| (slot, hash)));
        }
    }
}

pub(super) fn process_file(process: &mut v1::Process, slot: Slot) -> Option<&mut v1::FileInfo> {
    match slot {
        Slot::Image => process.image.as_mut(),
        Slot::Script(index) => process.script_chain.get_mut(usize::try_from(index).ok()?),
        Slot::Created | Slot::Watched | Slot::Module => None,
    }
}

pub(super) fn event_file(event: &mut v1::Event, slot: Slot) -> Option<&mut v1::FileInfo> {
    match (&mut event.body, slot) {
        (Some(Body::FileCreate(body)), Slot::Created | Slot::Watched) => body.file.as_mut(),
        (Some(Body::ModuleLoad(body)), Slot::Module) => body.file.as_mut(),
        _ => None,
    }
}

/// The hash follows.
pub(super) fn await_hash(file: &mut v1::FileInfo) {
    file.absent.push(v1::Absent::new(
        field::file_info::HASHES,
        v1::AbsentReason::Pending,
    ));
}

fn unawait(file: &mut v1::FileInfo) {
    file.absent
        .retain(|gap| gap.field != field::file_info::HASHES);
}

pub(super) fn put_hash(file: &mut v1::FileInfo, result: &HashResult) {
    unawait(file);
    match result.message() {
        Some(hashes) => file.hashes = Some(hashes),
        None => file.absent.push(v1::Absent::new(
            field::file_info::HASHES,
            v1::AbsentReason::ReleasedEarly,
        )),
    }
    if let Some(facts) = &result.facts {
        put_facts(file, facts);
    }
    file.default_acl.clone_from(&result.default_acl);
}

/// The file as it was when its last writer had gone, where the hash pool or the watch saw it.
pub(super) fn put_final(context: &Context<'_>, file: &mut v1::FileInfo, result: &HashResult) {
    let Some(identity) = &result.identity else {
        return;
    };
    let path = TextRef {
        bytes: b"",
        text: Text {
            len: 0,
            true_len: Text::ABSENT,
        },
    };
    let last = event::file_info(context, identity, path);
    // Of a patch these are all that says which file it is.
    file.device = file.device.or(last.device);
    file.inode = file.inode.or(last.inode);
    file.generation = file.generation.or(last.generation);
    event::merge_closed(file, last);
}

/// The result for a created file that nobody could open.
pub(super) fn unread(token: u64, end: CloseEnd) -> HashResult {
    let (verdict, released) = match end {
        CloseEnd::Gone => (v1::HashVerdict::Gone, None),
        CloseEnd::Replaced => (v1::HashVerdict::Drifted, None),
        CloseEnd::Unreadable => (v1::HashVerdict::Unreadable, None),
        CloseEnd::RefusedFs => (v1::HashVerdict::RefusedFs, None),
        CloseEnd::StillOpen => (v1::HashVerdict::Open, None),
        CloseEnd::Stopped => (v1::HashVerdict::Unspecified, Some(Released::Stopped)),
        CloseEnd::Lease | CloseEnd::Notified | CloseEnd::Quiet | CloseEnd::Displaced => {
            (v1::HashVerdict::Unspecified, Some(Released::QueueFull))
        }
    };
    HashResult {
        token,
        verdict,
        source: v1::HashSource::Unspecified,
        digests: None,
        identity: None,
        facts: None,
        default_acl: None,
        cached: false,
        released,
    }
}

/// What the open file said of itself beyond its hash.
fn put_facts(file: &mut v1::FileInfo, facts: &FileFacts) {
    file.btime_ns = facts.btime_ns;
    file.attributes = Some(facts.attributes);
    file.set_content_type(facts.content);
    file.capabilities = facts.capabilities;
    file.acl.clone_from(&facts.acl);
    if let (Some(device), Some(inode)) = (file.device, file.inode) {
        let id = sensor_proto::identity::file_unique_id(
            facts.fs_id,
            device,
            inode,
            file.generation.filter(|generation| *generation != 0),
            facts.btime_ns,
        );
        file.unique_id = Some(id.as_bytes().to_vec());
    }
}
