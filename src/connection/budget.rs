//! Bytes that all connections of a layer may hold together, of one kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Budget {
    all: usize,
    left: AtomicUsize,
}

impl Budget {
    /// A budget of so many bytes.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { all: bytes, left: AtomicUsize::new(bytes) })
    }

    /// Takes so many bytes, if they are there. They have to be given back.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let taken = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// Whether little is left of it.
    pub(super) fn is_short(&self) -> bool {
        self.left.load(Ordering::Relaxed) < self.all / 8
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes so many bytes, if they are there, until what is returned is dropped. What needs more than there ever is takes all.
    pub(super) fn share(&self, bytes: usize) -> Option<Share<'_>> {
        let bytes = bytes.min(self.all);
        // Not `then_some`: a share that is made gives back when it is dropped.
        self.take(bytes).then(|| Share { budget: self, bytes })
    }

    /// The same, for what can do without: half of the budget is left to others.
    pub(super) fn share_of_plenty(&self, bytes: usize) -> Option<Share<'_>> {
        let taken = |left: usize| left.checked_sub(bytes).filter(|rest| *rest >= self.all / 2);
        let is_taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok();
        is_taken.then(|| Share { budget: self, bytes })
    }
}

/// A part of a [`Budget`].
#[derive(Debug)]
pub(super) struct Share<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_given_back_when_it_is_dropped() {
        let budget = Budget::new(10);
        assert!(!budget.is_short());
        let share = budget.share(10).unwrap();
        assert!(budget.is_short());
        drop(share);
        let share = budget.share(8).unwrap();
        for _ in 0..5 {
            assert!(budget.share(3).is_none());
        }
        assert!(budget.share(2).is_some());
        assert!(budget.share(100).is_none());
        drop(share);
        assert!(budget.share(100).is_some());
    }

    #[test]
    fn what_can_do_without_leaves_half_to_others() {
        let budget = Budget::new(10);
        let share = budget.share_of_plenty(5).unwrap();
        assert!(budget.share_of_plenty(1).is_none());
        assert!(budget.share(5).is_some());
        drop(share);
        assert!(budget.share_of_plenty(6).is_none());
        assert!(budget.share_of_plenty(5).is_some());
    }
}
