//! Programs that lack a name, their place or facts of their container which were asked for in the background, and what has
//! come of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use sensor_proto::v1;

use super::{ProcessImage, ProcessKey};

/// Programs that are waited for; more than the queues of questions hold, since one user can have many.
const CAPACITY: usize = 4096;

/// Programs to look at again when answers have come.
#[derive(Debug, Default)]
pub(super) struct Owing {
    programs: HashMap<ProcessKey, u32>,
    /// In the order in which they came; keys that are no longer there are passed over.
    order: VecDeque<ProcessKey>,
    answered: u64,
    forgotten: u64,
}

impl Owing {
    /// This program lacks something. The oldest is forgotten when there are too many.
    pub(super) fn add(&mut self, key: ProcessKey, exec_id: u32) {
        if self.programs.insert(key, exec_id).is_some() {
            return;
        }
        self.order.push_back(key);
        while self.order.len() > CAPACITY {
            if let Some(oldest) = self.order.pop_front()
                && self.programs.remove(&oldest).is_some()
            {
                self.forgotten = self.forgotten.saturating_add(1);
            }
        }
    }

    pub(super) fn has(&self, key: ProcessKey, exec_id: u32) -> bool {
        !self.programs.is_empty() && self.programs.get(&key) == Some(&exec_id)
    }

    /// All of them if answers have come since the last time, of which there have been so many in all. They are no longer
    /// waited for.
    pub(super) fn due(&mut self, answered: u64) -> Vec<(ProcessKey, u32)> {
        if self.programs.is_empty() || answered == self.answered {
            return Vec::new();
        }
        self.answered = answered;
        let programs = std::mem::take(&mut self.programs);
        std::mem::take(&mut self.order)
            .into_iter()
            .filter_map(|key| Some((key, *programs.get(&key)?)))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.programs.len()
    }

    pub(super) const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// A program of which more is known now.
#[derive(Debug)]
pub struct Settled {
    /// Its row as it is now.
    pub image: Arc<ProcessImage>,
    /// What is new in it.
    pub patch: v1::ProcessPatch,
    /// The executed file, if its owners have names now.
    pub file: Option<v1::FileInfo>,
}

impl Settled {
    /// `None`: nothing that events tell is new.
    pub(super) fn new(before: &ProcessImage, image: Arc<ProcessImage>) -> Option<Self> {
        let (old, new) = (&before.process, &image.process);
        let changed = |same: bool| !same;
        let mut patch = v1::ProcessPatch::default();
        if changed(old.credentials == new.credentials) {
            patch.credentials.clone_from(&new.credentials);
        }
        if changed(old.cgroup_path == new.cgroup_path) {
            patch.cgroup_path.clone_from(&new.cgroup_path);
        }
        if changed(old.container == new.container) {
            patch.container.clone_from(&new.container);
        }
        let place = sensor_proto::field::process::CGROUP_PATH;
        let reason = |process: &v1::Process| {
            let absent = process.absent.iter().find(|absent| absent.field == place);
            absent.map(|absent| absent.reason())
        };
        if let Some(why) = reason(new)
            && Some(why) != reason(old)
        {
            patch.absent.push(v1::Absent::new(
                sensor_proto::field::process_patch::CGROUP_PATH,
                why,
            ));
        }
        let file = if old.image == new.image {
            None
        } else {
            new.image.clone()
        };
        if patch == v1::ProcessPatch::default() && file.is_none() {
            return None;
        }
        Some(Self { image, patch, file })
    }

    /// Adds to another row of the same program what is new.
    pub fn apply(&self, process: &mut v1::Process) {
        let new = &self.image.process;
        process.credentials.clone_from(&new.credentials);
        process.cgroup_path.clone_from(&new.cgroup_path);
        process.container.clone_from(&new.container);
        process.absent.clone_from(&new.absent);
        if let (Some(file), Some(named)) = (&mut process.image, &new.image) {
            file.owner_user.clone_from(&named.owner_user);
            file.owner_group.clone_from(&named.owner_group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tgid: u32) -> ProcessKey {
        ProcessKey {
            tgid,
            start_ticks: 1,
        }
    }

    #[test]
    fn looked_at_when_answers_have_come_and_no_more_than_so_many() {
        let mut owing = Owing::default();
        owing.add(key(1), 1);
        owing.add(key(1), 2);
        owing.add(key(2), 1);
        assert!(owing.has(key(1), 2) && !owing.has(key(1), 1));
        assert_eq!(owing.due(0), []);
        assert_eq!(owing.due(1), [(key(1), 2), (key(2), 1)]);
        owing.add(key(1), 2);
        assert_eq!(owing.due(1), []);
        let many = u32::try_from(CAPACITY).unwrap();
        for tgid in 2..=many + 1 {
            owing.add(key(tgid), 1);
        }
        assert_eq!((owing.len(), owing.forgotten()), (CAPACITY, 1));
        assert!(!owing.has(key(1), 2));
    }
}
