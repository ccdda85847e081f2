//! What was hashed already, by content identity.
//!
//! Two generations: when the young one is full it becomes the old one, and what the old one still held is evicted;
//! a hit in the old one moves it to the young one. So an entry in use stays, with no list to keep.

use std::collections::HashMap;

use sensor_common::record::FileIdentity;

/// Content identity: equal keys mean equal content, on file systems where every write moves `ctime`
/// (see [`super::fs::FsClass`]), if the content was read later than one granule of time after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ContentKey {
    device: u32,
    generation: u32,
    inode: u64,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

impl ContentKey {
    /// The key of an identity; `None` if its device or inode was not observed.
    pub(super) fn of(identity: &FileIdentity) -> Option<Self> {
        if identity.inode == 0 || identity.device == 0 {
            return None;
        }
        Some(Self {
            device: identity.device,
            generation: identity.generation,
            inode: identity.inode,
            size: identity.size,
            mtime_ns: identity.mtime_ns,
            ctime_ns: identity.ctime_ns,
        })
    }
}

#[derive(Debug)]
pub(super) struct Cache<V> {
    young: HashMap<ContentKey, V>,
    old: HashMap<ContentKey, V>,
    generation_entries: usize,
    evicted: u64,
}

impl<V: Clone> Cache<V> {
    /// A cache of at most `entries`.
    pub(super) fn new(entries: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_entries: entries / 2,
            evicted: 0,
        }
    }

    pub(super) fn find(&mut self, key: &ContentKey) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let value = self.old.remove(key)?;
        self.insert(*key, value.clone());
        Some(value)
    }

    pub(super) fn insert(&mut self, key: ContentKey, value: V) {
        if self.generation_entries == 0 {
            return;
        }
        if self.young.len() >= self.generation_entries && !self.young.contains_key(&key) {
            let evicted = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            let evicted = u64::try_from(evicted.len()).unwrap_or(u64::MAX);
            self.evicted = self.evicted.saturating_add(evicted);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &ContentKey) {
        self.young.remove(key);
        self.old.remove(key);
    }

    pub(super) fn len(&self) -> usize {
        self.young.len().saturating_add(self.old.len())
    }

    /// Entries that went for want of room.
    pub(super) const fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(inode: u64) -> ContentKey {
        let identity = FileIdentity {
            inode,
            device: 1,
            ..FileIdentity::default()
        };
        ContentKey::of(&identity).unwrap()
    }

    #[test]
    fn bounded_and_what_is_used_stays() {
        let mut cache = Cache::new(8);
        cache.insert(key(1), 1);
        for inode in 2..=1000 {
            cache.insert(key(inode), inode);
            assert!(cache.len() <= 8);
            assert_eq!(cache.find(&key(1)), Some(1), "in use at {inode}");
            assert_eq!(cache.find(&key(inode)), Some(inode));
        }
        let len = u64::try_from(cache.len()).unwrap();
        assert_eq!(cache.evicted() + len, 1000);
        assert_eq!(cache.find(&key(2)), None);
        cache.remove(&key(1));
        assert_eq!(cache.find(&key(1)), None);
    }

    #[test]
    fn any_part_of_the_identity_matters() {
        let base = FileIdentity {
            inode: 1,
            size: 2,
            mtime_ns: 3,
            ctime_ns: 4,
            device: 5,
            generation: 6,
            ..FileIdentity::default()
        };
        let mut others = [base; 6];
        others[0].inode = 9;
        others[1].size = 9;
        others[2].mtime_ns = 9;
        others[3].ctime_ns = 9;
        others[4].device = 9;
        others[5].generation = 9;
        for other in others {
            assert_ne!(ContentKey::of(&base), ContentKey::of(&other));
        }
        // Mode and owner are not content.
        let chmod = FileIdentity {
            mode: 0o777,
            uid: 7,
            ..base
        };
        assert_eq!(ContentKey::of(&base), ContentKey::of(&chmod));
        assert_eq!(ContentKey::of(&FileIdentity::default()), None);
    }
}
