//! How many of each kind there are at a time, up to a limit.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts what there is, by key. A key of which there is nothing takes no memory.
#[derive(Debug)]
pub(crate) struct Tally<K: Hash + Eq> {
    limit: usize,
    counts: Mutex<HashMap<K, usize>>,
}

/// One of those that are counted; no longer when it is dropped.
#[derive(Debug)]
pub(crate) struct Counted<K: Hash + Eq> {
    tally: Arc<Tally<K>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Tally<K> {
    /// Up to `limit` of each key.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, counts: Mutex::default() })
    }

    /// One more, unless there are as many as there may be.
    pub(crate) fn count(self: &Arc<Self>, key: K) -> Option<Counted<K>> {
        if self.limit == 0 {
            return None;
        }
        {
            let mut counts = self.locked();
            let count = counts.entry(key.clone()).or_default();
            *count = count.checked_add(1).filter(|count| *count <= self.limit)?;
        }
        Some(Counted { tally: self.clone(), key })
    }
}

impl<K: Hash + Eq> Tally<K> {
    fn locked(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.tally.locked();
        if let Some(count) = counts.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_a_limit_of_its_own_and_nothing_is_kept_of_what_is_gone() {
        let tally = Tally::new(2);
        let first = tally.count("a").unwrap();
        let second = tally.count("a").unwrap();
        assert!(tally.count("a").is_none());
        let other = tally.count("b").unwrap();
        drop(first);
        let third = tally.count("a").unwrap();
        drop((second, third, other));
        assert!(tally.locked().is_empty());
        assert!(Tally::new(0).count("a").is_none());
    }
}
