//! A change: one cell, or one row's sentinel, with its clock.

use std::fmt;

use rusqlite::types::ValueRef;

use crate::SiteId;

/// The `cid` of a row's sentinel, the entry that holds its causal length.
pub(crate) const SENTINEL: &str = "-1";

/// One cell of one row, or the row's sentinel, with its clock. Borrows everything that has a length.
///
/// `Debug` leaves out the key and the value.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// The CRR's name.
    pub table: &'a str,
    /// The primary key, packed.
    pub pk: &'a [u8],
    /// The column's name, or `-1` for the sentinel.
    pub cid: &'a str,
    /// The cell's value; NULL for a sentinel.
    pub val: ValueRef<'a>,
    /// How often this column of this row was written; the causal length for a sentinel.
    pub col_version: i64,
    /// The version of the database that the change comes from.
    pub db_version: i64,
    /// The author. When merging, `None` means: ourselves. When reading, `None` means that the file doesn't say, which
    /// only happens in damaged files.
    pub site_id: Option<SiteId>,
    /// The causal length of the row: odd = alive, even = deleted.
    pub cl: i64,
    /// The order inside the `db_version`.
    pub seq: i64,
}

impl fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("table", &self.table)
            .field("cid", &self.cid)
            .field("col_version", &self.col_version)
            .field("db_version", &self.db_version)
            .field("site_id", &self.site_id)
            .field("cl", &self.cl)
            .field("seq", &self.seq)
            .finish_non_exhaustive()
    }
}

/// Which changes to read. The default is all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangesQuery {
    /// Only changes with a greater `db_version`.
    pub after: i64,
    /// Only changes with at most this `db_version`.
    pub up_to: Option<i64>,
    /// Leave out the changes of this author.
    pub exclude: Option<SiteId>,
}

impl ChangesQuery {
    /// Only changes with a greater `db_version`.
    #[must_use]
    pub fn after(mut self, db_version: i64) -> Self {
        self.after = db_version;
        self
    }

    /// Only changes with at most this `db_version`.
    #[must_use]
    pub fn up_to(mut self, db_version: i64) -> Self {
        self.up_to = Some(db_version);
        self
    }

    /// Leaves out the changes of one author.
    #[must_use]
    pub fn exclude(mut self, site: SiteId) -> Self {
        self.exclude = Some(site);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debug_form_of_a_change_shows_neither_key_nor_value() {
        let change = Change {
            table: "foo",
            pk: b"secret",
            cid: "b",
            val: ValueRef::Text(b"secret"),
            col_version: 1,
            db_version: 2,
            site_id: None,
            cl: 1,
            seq: 0,
        };
        let text = format!("{change:?}");
        assert!(text.contains("foo") && !text.contains("secret"), "{text}");
        assert!(!text.contains(&format!("{:?}", b"secret")), "{text}");
    }
}
