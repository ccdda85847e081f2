//! A bounded map that forgets what was put in first.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// At most so many entries; the oldest goes when another comes.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
    capacity: usize,
    evicted: u64,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            map: HashMap::new(),
            order: VecDeque::new(),
            capacity,
            evicted: 0,
        }
    }

    pub(crate) fn find(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    /// Puts in, or puts in the place of the old; an entry keeps its age.
    pub(crate) fn keep(&mut self, key: K, value: V) {
        if self.map.insert(key.clone(), value).is_some() {
            return;
        }
        self.order.push_back(key);
        while self.order.len() > self.capacity {
            if let Some(oldest) = self.order.pop_front() {
                self.map.remove(&oldest);
                self.evicted = self.evicted.saturating_add(1);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) const fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes() {
        let mut recent = Recent::new(2);
        recent.keep(1, 'a');
        recent.keep(2, 'b');
        recent.keep(1, 'c');
        assert_eq!((recent.len(), recent.evicted()), (2, 0));
        recent.keep(3, 'd');
        assert_eq!(recent.find(&1), None);
        assert_eq!((recent.find(&2), recent.find(&3)), (Some(&'b'), Some(&'d')));
        assert_eq!((recent.len(), recent.evicted()), (2, 1));
    }
}
