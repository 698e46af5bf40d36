//! The entries of a version that is too large to be held and sorted in memory: SQLite sorts them in a temporary file.

use rusqlite::{CachedStatement, Connection, params};

use crate::Result;
use crate::read::Entry;

/// Entries of one version, in the order in which they are read.
#[derive(Debug)]
pub(crate) struct Spill {
    /// A private database in a temporary file. The application's connection might keep temporary tables in memory.
    file: Connection,
    db_version: i64,
    /// How many were taken.
    taken: i64,
}

impl Spill {
    /// Sorts what `fill` inserts, by seq. Those with the same seq stay in the order in which they come.
    pub(crate) fn sort(db_version: i64, fill: impl FnOnce(&mut Filling<'_>) -> Result<()>) -> Result<Spill> {
        let file = Connection::open("")?;
        file.execute_batch(
            "PRAGMA journal_mode = OFF;
             BEGIN;
             CREATE TABLE entry (\"table\", key, \"column\", col_version, ordinal, cl, seq)",
        )?;
        fill(&mut Filling { insert: file.prepare_cached("INSERT INTO entry VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")? })?;
        // The rows get rowids from 1 on, in their order.
        file.execute_batch(
            "CREATE TABLE sorted AS SELECT * FROM entry ORDER BY seq, rowid;
             DROP TABLE entry;
             COMMIT",
        )?;
        Ok(Spill { file, db_version, taken: 0 })
    }

    /// Adds the next `count` to `entries`, or as many as there are.
    pub(crate) fn take(&mut self, count: i64, entries: &mut Vec<Entry>) -> Result<()> {
        let mut select =
            self.file.prepare_cached("SELECT * FROM sorted WHERE rowid > ?1 AND rowid <= ?1 + ?2 ORDER BY rowid")?;
        let mut rows = select.query((self.taken, count))?;
        while let Some(row) = rows.next()? {
            entries.push(Entry {
                table: position(row.get(0)?),
                key: row.get(1)?,
                column: row.get::<_, Option<i64>>(2)?.map(position),
                col_version: row.get(3)?,
                db_version: self.db_version,
                ordinal: row.get(4)?,
                cl: row.get(5)?,
                seq: row.get(6)?,
            });
            self.taken += 1;
        }
        Ok(())
    }
}

/// Takes entries before they are sorted.
pub(crate) struct Filling<'f> {
    insert: CachedStatement<'f>,
}

impl Filling<'_> {
    pub(crate) fn push(&mut self, entry: &Entry) -> Result<()> {
        self.insert.execute(params![
            number(entry.table),
            entry.key,
            entry.column.map(number),
            entry.col_version,
            entry.ordinal,
            entry.cl,
            entry.seq,
        ])?;
        Ok(())
    }
}

/// SQLite has no unsigned numbers. Positions of tables and columns are small.
fn number(position: usize) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// The opposite of [`number`].
fn position(number: i64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
