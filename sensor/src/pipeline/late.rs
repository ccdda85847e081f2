//! What is late: hashes that were asked for, and created files that are not closed yet.
//!
//! Remembers which event waits for what. Every hash job that the pool accepts gives one result, so that what is kept for
//! hashes is bounded by the pool; created files are bounded here, the oldest is forgotten and counted.

use std::collections::{HashMap, VecDeque};

use sensor_common::record::{FileCloseRecord, FileCreateRecord};
use sensor_proto::v1;

use super::hold::Ticket;
use crate::enrich::hash::HashResult;

/// Which file of an event a hash is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// What a process executes.
    Image,
    /// A file on the way to it, by position.
    Script(u32),
    /// The file that was created; a hook tells of its close.
    Created,
    /// The file that was created; the daemon watches for its last writer.
    Watched,
    /// The file of a kernel module.
    Module,
}

impl Slot {
    /// As the schema names it.
    pub(super) fn schema(self) -> (v1::FileSlot, Option<u32>) {
        match self {
            Self::Image => (v1::FileSlot::Image, None),
            Self::Script(index) => (v1::FileSlot::Script, Some(index)),
            Self::Created | Self::Watched => (v1::FileSlot::Created, None),
            Self::Module => (v1::FileSlot::Module, None),
        }
    }
}

/// An event that has left, to which a patch refers.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Its id.
    pub(super) id: v1::EventId,
    /// Its type.
    pub(super) event_type: v1::EventType,
    /// Who acted.
    pub(super) process: Option<v1::ProcessRef>,
    /// Which file it is about, for events that are about one.
    pub(super) file: Option<FileNumbers>,
}

/// What says which file it is: a patch alone tells it, and the file's unique id is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileNumbers {
    device: Option<u32>,
    inode: Option<u64>,
    generation: Option<u32>,
}

impl FileNumbers {
    /// Of the file of an event.
    pub(super) fn of(file: &v1::FileInfo) -> Self {
        Self {
            device: file.device,
            inode: file.inode,
            generation: file.generation,
        }
    }

    /// The beginning of a patch.
    pub(super) fn info(self) -> v1::FileInfo {
        v1::FileInfo {
            device: self.device,
            inode: self.inode,
            generation: self.generation,
            ..v1::FileInfo::default()
        }
    }
}

/// Who waits for the result of a hash job.
#[derive(Debug)]
pub(super) enum Target {
    /// The record is still in the reorder window.
    Early,
    /// An event in the hold.
    Held(Ticket, Slot),
    /// An event that has left without it.
    Sent(Sent, Slot),
    /// A created file whose event left before it was closed; the file as it was at the close.
    SentClosed(Sent, Box<v1::FileInfo>),
    /// Nobody any more: the event was filtered.
    Nobody,
}

/// Created, open for writing: (`file_key`, time of the creation).
pub(super) type FileKey = (u64, u64);

/// A created file that is not closed yet.
#[derive(Debug)]
pub(super) struct OpenCreated {
    /// Path in the view of its creator.
    pub(super) path: Option<Vec<u8>>,
    /// Its event, once there is one.
    pub(super) event: Option<Created>,
}

/// Where the event of a created file is.
#[derive(Clone, Debug)]
pub(super) enum Created {
    /// In the hold.
    Held(Ticket),
    /// Gone to the sinks.
    Sent(Sent),
    /// Dropped on purpose.
    Dropped,
}

/// Everything that is waited for.
#[derive(Debug)]
pub(super) struct Late {
    targets: HashMap<u64, Target>,
    arrived: HashMap<u64, HashResult>,
    next_token: u64,
    open: HashMap<FileKey, OpenCreated>,
    open_order: VecDeque<FileKey>,
    open_capacity: usize,
    forgotten: u64,
}

impl Late {
    /// Remembers at most `open_capacity` created files that are still open.
    pub(super) fn new(open_capacity: usize) -> Self {
        Self {
            targets: HashMap::new(),
            arrived: HashMap::new(),
            next_token: 0,
            open: HashMap::new(),
            open_order: VecDeque::new(),
            open_capacity: open_capacity.max(1),
            forgotten: 0,
        }
    }

    /// A fresh token for a hash job.
    pub(super) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Somebody waits for `token`.
    pub(super) fn expect(&mut self, token: u64, target: Target) {
        self.targets.insert(token, target);
    }

    /// The event of `token` goes on to another place; gives the result instead if it is there already.
    pub(super) fn redirect(&mut self, token: u64, target: Target) -> Option<HashResult> {
        if let Some(result) = self.arrived.remove(&token) {
            self.targets.remove(&token);
            return Some(result);
        }
        self.targets.insert(token, target);
        None
    }

    /// A result has come: who waits for it. It is kept if its record is still in the reorder window.
    pub(super) fn arrive(&mut self, result: HashResult) -> Option<(Target, HashResult)> {
        match self.targets.remove(&result.token) {
            Some(Target::Early) => {
                self.targets.insert(result.token, Target::Early);
                self.arrived.insert(result.token, result);
                None
            }
            Some(target) => Some((target, result)),
            None => None,
        }
    }

    /// Whether a result is still to come.
    pub(super) fn expecting(&self) -> bool {
        self.targets.len() > self.arrived.len()
    }

    /// A file was created and is open for writing.
    pub(super) fn created(&mut self, record: &FileCreateRecord, path: Option<Vec<u8>>) {
        let key = (record.file_key, record.header.time_boot_ns);
        while self.open.len() >= self.open_capacity {
            let Some(oldest) = self.open_order.pop_front() else {
                break;
            };
            if self.open.remove(&oldest).is_some() {
                self.forgotten += 1;
            }
        }
        self.open.insert(key, OpenCreated { path, event: None });
        self.open_order.push_back(key);
        if self.open_order.len() > self.open_capacity.saturating_mul(2) {
            self.open_order.retain(|key| self.open.contains_key(key));
        }
    }

    /// The created file of a close, as long as it is known.
    pub(super) fn open_file(&mut self, key: FileKey) -> Option<&mut OpenCreated> {
        self.open.get_mut(&key)
    }

    /// The file of a close was closed.
    pub(super) fn closed(&mut self, record: &FileCloseRecord) -> Option<OpenCreated> {
        self.open.remove(&(record.file_key, record.created_boot_ns))
    }

    /// Gives back the memory that a burst took.
    pub(super) fn shrink(&mut self) {
        self.targets.shrink_to_fit();
        self.arrived.shrink_to_fit();
        self.open.shrink_to_fit();
        self.open_order.shrink_to_fit();
    }

    /// Created files that are open.
    pub(super) fn open_files(&self) -> usize {
        self.open.len()
    }

    /// Created files that were forgotten since there were too many.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
