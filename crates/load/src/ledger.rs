//! What a client should get, and what of it has come.

use std::ops::Range;

use crate::fault::Fault;
use crate::rows::COLUMNS;
use crate::skim::Skimmed;

/// Takes note of messages.
pub(crate) trait Notes {
    /// A message came.
    fn note(&mut self, message: &Skimmed<'_>) -> Result<(), Fault>;

    /// Of how many cells nothing was heard yet.
    fn missing(&self) -> usize;

    /// What is missing, for people.
    fn missed(&self) -> String;
}

/// The cells that a client should get, each once at least.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    first: usize,
    stride: usize,
    length: usize,
    seen: Vec<u64>,
    missing: usize,
    /// Cells that came again, or that nobody waited for.
    pub(crate) extra: usize,
    /// The db_version of the server that it was taken to.
    pub(crate) version: i64,
}

impl Ledger {
    /// Cells of an import.
    pub(crate) fn of_cells(cells: Range<usize>) -> Self {
        Self::new(cells.start, 1, cells.len())
    }

    /// The first cells of rows, which are written by themselves.
    pub(crate) fn of_rows(rows: Range<usize>) -> Self {
        Self::new(rows.start.saturating_mul(COLUMNS.len()), COLUMNS.len(), rows.len())
    }

    /// The first cells of every `step`-th row from the row `first` on, below the row `end`.
    pub(crate) fn of_every(step: usize, first: usize, end: usize) -> Self {
        let columns = COLUMNS.len();
        let length = end.saturating_sub(first).div_ceil(step.max(1));
        Self::new(first.saturating_mul(columns), step.max(1).saturating_mul(columns), length)
    }

    fn new(first: usize, stride: usize, length: usize) -> Self {
        Self { first, stride, length, seen: vec![0; length.div_ceil(64)], missing: length, extra: 0, version: 0 }
    }

    /// Notes a cell: whether it is one that was waited for, and the first time that it came.
    fn tick(&mut self, cell: usize) -> bool {
        let place = cell.checked_sub(self.first).filter(|offset| offset.is_multiple_of(self.stride));
        let place = place.map(|offset| offset / self.stride).filter(|place| *place < self.length);
        let bit = place.and_then(|place| Some((self.seen.get_mut(place / 64)?, 1 << (place % 64))));
        match bit {
            Some((word, bit)) if *word & bit == 0 => {
                *word |= bit;
                self.missing = self.missing.saturating_sub(1);
                true
            }
            _ => {
                self.extra = self.extra.saturating_add(1);
                false
            }
        }
    }

    /// How many came.
    pub(crate) fn seen(&self) -> usize {
        self.length.saturating_sub(self.missing)
    }

    /// Notes a message, and tells of each cell that came for the first time.
    pub(crate) fn note_each(&mut self, message: &Skimmed<'_>, mut new: impl FnMut(usize)) -> Result<(), Fault> {
        self.version = message.each_cell(|cell| {
            if self.tick(cell) {
                new(cell);
            }
        })?;
        Ok(())
    }
}

impl Notes for Ledger {
    fn note(&mut self, message: &Skimmed<'_>) -> Result<(), Fault> {
        self.note_each(message, |_| {})
    }

    fn missing(&self) -> usize {
        self.missing
    }

    fn missed(&self) -> String {
        let first = (0..self.length).find(|place| {
            let word = self.seen.get(place / 64).copied().unwrap_or_default();
            word & (1 << (place % 64)) == 0
        });
        let first = first.map(|place| place.saturating_mul(self.stride).saturating_add(self.first));
        match first {
            Some(first) => format!("{} of {} changes, the first of them cell {first}", self.missing, self.length),
            None => "nothing".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_counts_once() {
        let mut ledger = Ledger::of_cells(100..300);
        assert_eq!(ledger.missing(), 200);
        assert!(ledger.tick(100) && ledger.tick(299) && !ledger.tick(100));
        assert!(!ledger.tick(99) && !ledger.tick(300));
        assert_eq!((ledger.missing(), ledger.seen(), ledger.extra), (198, 2, 3));
        assert_eq!(ledger.missed(), "198 of 200 changes, the first of them cell 101");
    }

    #[test]
    fn of_rows_only_the_first_cell_counts() {
        let mut ledger = Ledger::of_rows(2..4);
        assert!(!ledger.tick(9) && !ledger.tick(16));
        assert!(ledger.tick(8) && ledger.tick(12));
        assert_eq!((ledger.missing(), ledger.missed().as_str()), (0, "nothing"));
    }

    #[test]
    fn of_every_third_row_the_others_don_t_count() {
        let mut ledger = Ledger::of_every(3, 1, 8);
        assert_eq!(ledger.missing(), 3, "rows 1, 4 and 7");
        assert!(!ledger.tick(0) && !ledger.tick(8) && !ledger.tick(40));
        assert!(ledger.tick(4) && ledger.tick(16) && ledger.tick(28));
        assert_eq!(ledger.missing(), 0);
    }

    #[test]
    fn one_that_is_lost_is_not_made_up_for_by_one_that_comes_twice() {
        let mut ledger = Ledger::of_cells(0..3);
        for cell in [0, 1, 1] {
            ledger.tick(cell);
        }
        assert_eq!(ledger.missing(), 1);
    }
}
