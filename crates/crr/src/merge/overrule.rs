//! Overruling: a row whose changes have won stays as it was, and its clock becomes one that wins over them.
//!
//! The clock is the one that the row would have if the changes were merged and it were then written back: a column that was set
//! is set once more; a row that was made is deleted; one that was deleted is made again, with all its columns.

use super::clock::{Author, Entry, RowClock};
use super::row::RowState;
use super::session::Session;
use crate::Result;

impl RowState<'_> {
    /// Takes back what the changes decided so far have made of the row, which had the clock `before`.
    pub(super) fn overrule(&mut self, session: &mut Session<'_, '_, '_>, before: RowClock) -> Result<()> {
        let version = session.next_version(0)?;
        let stamp = |col_version: i64, stored: bool| -> Result<Entry> {
            let seq = session.engine.clock.take_seq()?;
            Ok(Entry { col_version, db_version: version, author: Author::LOCAL, seq, stored, dirty: true })
        };
        if self.clock.cl == before.cl {
            for entry in self.clock.entries.iter_mut().flatten().filter(|entry| entry.dirty) {
                *entry = stamp(entry.col_version.saturating_add(1), entry.stored)?;
            }
        } else {
            let cl = next_life(before.cl, self.clock.cl);
            let sentinel = Some(stamp(cl, before.sentinel.is_some())?);
            let mut entries = before.entries;
            if cl % 2 != 0 {
                for entry in &mut entries {
                    *entry = Some(stamp(1, entry.is_some())?);
                }
            }
            self.clock = RowClock { lookaside: before.lookaside, cl, sentinel, entries };
        }
        (self.delete, self.create) = (false, false);
        self.values.fill(None);
        self.authors.clear();
        Ok(())
    }
}

/// The causal length of a row that is to be as alive as it was at `before`, although it has come to `reached`, which is more.
fn next_life(before: i64, reached: i64) -> i64 {
    match (before % 2 != 0, reached % 2 != 0) {
        // Dead it was and dead it is.
        (false, false) => reached,
        // Columns of the life that was reached must not win over those of the one before: neither lives on.
        (true, true) => reached.saturating_add(2),
        _ => reached.saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_life_is_newer_than_the_one_reached_unless_both_are_deaths() {
        assert_eq!([next_life(0, 1), next_life(2, 3)], [2, 4], "made, and dead again");
        assert_eq!([next_life(1, 2), next_life(3, 8)], [3, 9], "deleted, and alive again");
        assert_eq!(next_life(1, 3), 5, "replaced, and back");
        assert_eq!([next_life(0, 2), next_life(4, 6)], [2, 6], "dead anyway");
    }
}
