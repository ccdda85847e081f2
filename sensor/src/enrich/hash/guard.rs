//! Watching what was hashed on a memory file system, where times do not tell every write.
//!
//! On tmpfs, who maps a page, reads it and then writes it moves neither `mtime` nor `ctime`
//! (docs/decisions/0020-hash-verdicts.md). He must open the file for writing, though, and the kernel reports the end of
//! that (`IN_CLOSE_WRITE` of inotify(7)) before the file can be executed again: executing fails with ETXTBSY while a writer
//! is left. So content hashed under a watch that saw nothing is the content of every execution until now.
//!
//! Attributes are watched as well (`IN_ATTRIB`): on 5.10 a change of extended attributes (the capabilities of a file) does
//! not move `ctime` there, and what is remembered holds them too.

use std::collections::{HashMap, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::cache::ContentKey;
use crate::enrich::file::descriptor_path;

/// Watches on the files behind cache entries.
#[derive(Debug)]
pub(super) struct Guard {
    inotify: OwnedFd,
    by_watch: HashMap<i32, ContentKey>,
    by_key: HashMap<ContentKey, i32>,
    order: VecDeque<i32>,
    limit: usize,
}

impl Guard {
    /// At most `limit` watches. `None`: this user's inotify instances are used up.
    pub(super) fn new(limit: usize) -> Option<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        Some(Self {
            inotify,
            by_watch: HashMap::new(),
            by_key: HashMap::new(),
            order: VecDeque::new(),
            limit,
        })
    }

    /// Watches a file from now on. `false`: no watch can be had.
    pub(super) fn watch(&mut self, file: BorrowedFd<'_>, key: ContentKey) -> bool {
        if self.limit == 0 {
            return false;
        }
        self.drain();
        while self.by_watch.len() >= self.limit {
            match self.order.pop_front() {
                Some(oldest) => self.forget(oldest),
                None => return false,
            }
        }
        let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MODIFY | WatchFlags::ATTRIB;
        let Ok(watch) = inotify::add_watch(&self.inotify, descriptor_path(file), flags) else {
            return false;
        };
        // The same inode gives the same number again: the key is of its content now.
        match self.by_watch.insert(watch, key) {
            Some(before) => {
                self.by_key.remove(&before);
            }
            None => self.order.push_back(watch),
        }
        self.by_key.insert(key, watch);
        true
    }

    /// Whether the file of `key` has been watched since [`Self::watch`] and nobody who could write it has closed it.
    pub(super) fn is_quiet(&mut self, key: &ContentKey) -> bool {
        if !self.by_key.contains_key(key) {
            return false;
        }
        self.drain();
        self.by_key.contains_key(key)
    }

    /// Number of watches.
    pub(super) fn len(&self) -> usize {
        self.by_watch.len()
    }

    fn drain(&mut self) {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut disturbed = Vec::new();
        let mut all = false;
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        // Ends with EAGAIN.
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                all = true;
            } else {
                disturbed.push((event.wd(), event.events().contains(ReadFlags::IGNORED)));
            }
        }
        if all {
            disturbed = self.by_watch.keys().map(|watch| (*watch, false)).collect();
        }
        for (watch, ended) in disturbed {
            if ended {
                self.remove(watch);
            } else {
                self.forget(watch);
            }
        }
    }

    fn forget(&mut self, watch: i32) {
        if self.by_watch.contains_key(&watch) {
            // Fails only if the file is gone, and the watch with it.
            let _gone = inotify::remove_watch(&self.inotify, watch);
        }
        self.remove(watch);
    }

    fn remove(&mut self, watch: i32) {
        if let Some(key) = self.by_watch.remove(&watch) {
            self.by_key.remove(&key);
            self.order.retain(|other| *other != watch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write;

    use sensor_common::record::FileIdentity;

    use super::*;
    use crate::enrich::hash::tests::{unwritten, wait_for};

    fn key(inode: u64) -> ContentKey {
        ContentKey::of(&FileIdentity {
            inode,
            device: 1,
            ..FileIdentity::default()
        })
        .unwrap()
    }

    #[test]
    fn readers_leave_it_quiet_and_writers_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        unwritten(&path);
        let file = File::open(&path).unwrap();
        let mut guard = Guard::new(4).unwrap();
        assert!(!guard.is_quiet(&key(1)));
        assert!(guard.watch(file.as_fd(), key(1)));
        assert!(guard.is_quiet(&key(1)));
        drop(std::fs::read(&path).unwrap());
        assert!(guard.is_quiet(&key(1)));
        // Opening for writing and closing is enough: what was done through a mapping is not told otherwise.
        drop(OpenOptions::new().write(true).open(&path).unwrap());
        wait_for(|| (!guard.is_quiet(&key(1))).then_some(()));
        assert_eq!(guard.len(), 0);
        assert!(guard.watch(file.as_fd(), key(1)));
        let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(guard.is_quiet(&key(1)));
        writer.write_all(b"y").unwrap();
        assert!(!guard.is_quiet(&key(1)));
    }

    #[test]
    fn a_change_of_attributes_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"x").unwrap();
        unwritten(&path);
        let file = File::open(&path).unwrap();
        let mut guard = Guard::new(4).unwrap();
        assert!(guard.watch(file.as_fd(), key(1)));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        assert!(!guard.is_quiet(&key(1)));
    }

    #[test]
    fn bounded_and_unlinked_files_are_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut guard = Guard::new(4).unwrap();
        for number in 1..=10_u64 {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, b"x").unwrap();
            unwritten(&path);
            let file = File::open(&path).unwrap();
            assert!(guard.watch(file.as_fd(), key(number)));
            assert!(guard.len() <= 4);
        }
        assert!(!guard.is_quiet(&key(6)));
        assert!(guard.is_quiet(&key(10)));
        std::fs::remove_file(folder.path().join("10")).unwrap();
        assert!(!guard.is_quiet(&key(10)));
        assert_eq!(guard.len(), 3);
    }
}
