//! The clock of one row.

use super::check::Key;
use crate::change::SENTINEL;
use crate::sql::bind_all;
use crate::statements::Statements;
use crate::table::Table;
use crate::{Change, Result, SiteId};

/// A row's clock: its lookaside key, its causal length, and its entries.
#[derive(Clone, Debug, Default)]
pub(super) struct RowClock {
    /// The lookaside key, if the row is known.
    pub(super) lookaside: Option<i64>,
    pub(super) cl: i64,
    pub(super) sentinel: Option<Entry>,
    /// Entries by column.
    pub(super) entries: Vec<Option<Entry>>,
}

impl RowClock {
    /// Replaces it by what the database has of the row with this key.
    pub(super) fn read(&mut self, statements: &mut Statements<'_>, table: &Table, key: &Key<'_>) -> Result<()> {
        (self.lookaside, self.cl, self.sentinel) = (None, 0, None);
        self.entries.clear();
        self.entries.resize(table.columns.len(), None);
        let known = statements.get(&table.sql.known)?;
        bind_all(known, 1, key.iter())?;
        let mut rows = known.raw_query();
        while let Some(row) = rows.next()? {
            self.lookaside = Some(row.get(0)?);
            let Some(col_version) = row.get(2)? else { continue };
            // Also for an entry of a column that is gone.
            self.cl = self.cl.max(1);
            let entry = Entry {
                col_version,
                db_version: row.get(3)?,
                author: Author::Ordinal(row.get(4)?),
                seq: row.get(5)?,
                stored: true,
                dirty: false,
            };
            let name = row.get_ref(1)?.as_bytes().unwrap_or_default();
            if name == SENTINEL.as_bytes() {
                self.sentinel = Some(entry);
            } else if let Some(slot) = table.column(name).and_then(|at| self.entries.get_mut(at)) {
                *slot = Some(entry);
            }
        }
        if let Some(sentinel) = self.sentinel {
            self.cl = sentinel.col_version;
        }
        Ok(())
    }

    /// Notes that all of it was written under this lookaside key.
    pub(super) fn written(&mut self, lookaside: i64) {
        self.lookaside = Some(lookaside);
        for entry in self.entries.iter_mut().chain([&mut self.sentinel]).flatten() {
            (entry.stored, entry.dirty) = (true, false);
        }
    }
}

/// The author of a clock entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// As the entry in the database has it.
    Ordinal(i64),
    /// As a change has it.
    Site(SiteId),
}

impl Author {
    /// This database.
    pub(super) const LOCAL: Author = Author::Ordinal(0);

    pub(super) fn of(change: &Change<'_>) -> Author {
        change.site_id.map_or(Author::LOCAL, Author::Site)
    }
}

/// A clock entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) col_version: i64,
    pub(super) db_version: i64,
    pub(super) author: Author,
    pub(super) seq: i64,
    /// Whether the database has it, perhaps with other numbers.
    pub(super) stored: bool,
    /// Whether it has to be written.
    pub(super) dirty: bool,
}

impl Entry {
    /// What a change that won makes of an entry.
    pub(super) fn won_by(change: &Change<'_>, before: Option<Entry>, db_version: i64, author: Author) -> Entry {
        let stored = before.is_some_and(|before| before.stored);
        Entry { col_version: change.col_version, db_version, author, seq: change.seq, stored, dirty: true }
    }

    /// The sentinel of a row that a change gave a new causal length.
    pub(super) fn raised_by(change: &Change<'_>, before: Option<Entry>, db_version: i64) -> Entry {
        Entry { col_version: change.cl, ..Entry::won_by(change, before, db_version, Author::of(change)) }
    }
}
