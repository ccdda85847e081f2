//! The spool between threads: one appends, one syncs, each sink reads and acknowledges.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::entry::Now;
use super::storage::{Disk, Storage};
use super::{Spool, Unsaved};

/// Called when there may be something new to read; must not block, nor use the spool.
type Bell = Box<dyn Fn() + Send + Sync>;

/// A handle; clones are the same spool. The lock is held for writing into the page cache, for reading, and for cursors; not
/// while the disk syncs segments.
pub struct SharedSpool<S: Storage = Disk> {
    shared: Arc<Shared<S>>,
}

struct Shared<S: Storage> {
    spool: Mutex<Option<Spool<S>>>,
    bells: Mutex<Vec<Bell>>,
    /// One sync at a time.
    syncing: Mutex<()>,
}

impl<S: Storage> Clone for SharedSpool<S> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<S: Storage> fmt::Debug for SharedSpool<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSpool").finish_non_exhaustive()
    }
}

impl<S: Storage> SharedSpool<S> {
    /// Shares a spool.
    #[must_use]
    pub fn new(spool: Spool<S>) -> Self {
        Self {
            shared: Arc::new(Shared {
                spool: Mutex::new(Some(spool)),
                bells: Mutex::new(Vec::new()),
                syncing: Mutex::new(()),
            }),
        }
    }

    /// Uses the spool; `None` after it was closed. Nothing slow belongs in here.
    pub fn with<T>(&self, action: impl FnOnce(&mut Spool<S>) -> T) -> Option<T> {
        lock(&self.shared.spool).as_mut().map(action)
    }

    /// Adds something to call after each sync, and after packets went to memory: a sink looks for news then.
    pub fn on_news(&self, bell: impl Fn() + Send + Sync + 'static) {
        lock(&self.shared.bells).push(Box::new(bell));
    }

    /// [`Spool::sync`], with the lock released while the disk works; then the bells ring.
    pub fn sync(&self, now: Now) {
        let one_at_a_time = lock(&self.shared.syncing);
        if let Some(sync) = self.with(|spool| spool.begin_sync()) {
            let result = sync.run();
            // Closed in the meantime: that synced too.
            let _closed = self.with(|spool| spool.finish_sync(&sync, result, now));
        }
        drop(one_at_a_time);
        self.ring();
    }

    /// Rings the bells.
    pub fn ring(&self) {
        for bell in lock(&self.shared.bells).iter() {
            bell();
        }
    }

    /// [`Spool::close`]; later uses find nothing.
    ///
    /// # Errors
    /// [`Unsaved`].
    pub fn close(&self, now: Now) -> Result<(), Unsaved> {
        let spool = lock(&self.shared.spool).take();
        spool.map_or(Ok(()), |spool| spool.close(now))
    }
}

/// A thread that panicked inside leaves the spool as it was between two calls, or with a packet not counted; recovery finds
/// the truth at the next opening.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
