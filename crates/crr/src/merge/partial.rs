//! Rows that a sentinel made or revived, and that did not get all their columns.

use std::collections::HashMap;

/// How many rows are remembered as long as columns of theirs are missing.
const MOST: usize = 1 << 16;

/// The rows of one changeset.
#[derive(Debug)]
pub(super) struct PartialRows<'a> {
    /// By table and packed key.
    waiting: HashMap<(&'a str, &'a [u8]), Waiting>,
    /// How many may wait.
    most: usize,
    /// How many were given up, since there were too many.
    given_up: usize,
}

/// A row that waits for columns.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The causal length that it was raised to.
    cl: i64,
    missing: usize,
}

impl Default for PartialRows<'_> {
    fn default() -> Self {
        PartialRows { waiting: HashMap::new(), most: MOST, given_up: 0 }
    }
}

impl<'a> PartialRows<'a> {
    /// A sentinel raised a row with so many columns.
    pub(super) fn raised(&mut self, table: &'a str, pk: &'a [u8], cl: i64, columns: usize) {
        if columns == 0 {
            return;
        }
        if self.waiting.len() >= self.most {
            self.given_up = self.given_up.saturating_add(self.waiting.len());
            self.waiting.clear();
        }
        self.waiting.insert((table, pk), Waiting { cl, missing: columns });
    }

    /// A column of a row was set.
    pub(super) fn set(&mut self, table: &'a str, pk: &'a [u8], cl: i64) {
        let Some(waiting) = self.waiting.get_mut(&(table, pk)).filter(|waiting| cl >= waiting.cl) else { return };
        waiting.missing = waiting.missing.saturating_sub(1);
        if waiting.missing == 0 {
            self.waiting.remove(&(table, pk));
        }
    }

    /// A row was deleted: it misses nothing any more.
    pub(super) fn deleted(&mut self, table: &'a str, pk: &'a [u8]) {
        self.waiting.remove(&(table, pk));
    }

    /// How many there are, or more: rows that were given up count even if they got their columns later.
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.given_up.saturating_add(self.waiting.len())).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_partial_until_it_has_all_columns_or_is_deleted() {
        let mut rows = PartialRows::default();
        rows.raised("t", &[1], 1, 2);
        rows.raised("t", &[2], 3, 1);
        rows.raised("keys_only", &[1], 1, 0);
        rows.set("t", &[1], 1);
        rows.set("t", &[2], 1);
        rows.set("other", &[1], 1);
        assert_eq!(rows.count(), 2);
        rows.set("t", &[1], 1);
        assert_eq!(rows.count(), 1);
        rows.deleted("t", &[2]);
        assert_eq!(rows.count(), 0);
    }

    #[test]
    fn when_too_many_wait_they_count_as_partial_for_good() {
        let mut rows = PartialRows { most: 2, ..PartialRows::default() };
        let keys: Vec<[u8; 1]> = (0..5).map(|key| [key]).collect();
        for key in &keys {
            rows.raised("t", key, 1, 1);
            assert!(rows.waiting.len() <= 2);
        }
        for key in &keys {
            rows.set("t", key, 1);
        }
        assert_eq!(rows.count(), 4);
    }
}
