//! Writing what the changes of a row came to.

use super::clock::{Author, Entry};
use super::row::RowState;
use super::session::Session;
use crate::change::SENTINEL;
use crate::sql::{Bind, bind_all, is_conflict};
use crate::table::{MAX_ENTRIES, Table};
use crate::{Error, Result};

use rusqlite::Statement;
use rusqlite::types::ValueRef;

/// What an entry takes on the wire beside names, key and value: lengths, numbers and the author.
const ENTRY_OVERHEAD: usize = 48;

impl RowState<'_> {
    /// Writes the row, then its clock. The order matters: see [`merge_in_statement`](super::merge_in_statement).
    pub(super) fn write(&mut self, session: &mut Session<'_, '_, '_>, table: &Table) -> Result<()> {
        if session.weighs() {
            self.weigh(session, table)?;
        }
        let before = session.engine.db().total_changes();
        let rows = self.write_row(session, table)?;
        self.disturbed = session.engine.db().total_changes().wrapping_sub(before) != rows;
        let is_new = self.clock.lookaside.is_none();
        let key = match self.clock.lookaside {
            Some(key) => key,
            None => self.create_lookaside(session, table)?,
        };
        for site in &self.authors {
            session.sites.ordinal(session.engine, session.statements, *site)?;
        }
        let was_known = self.write_entries(session, table, key)?;
        self.disturbed |= !was_known;
        self.clock.lookaside = Some(key);
        session.wrote(table, self, (rows, is_new))?;
        self.clock.written(key);
        Ok(())
    }

    /// Tells the session how much travels again because of this row.
    fn weigh(&mut self, session: &mut Session<'_, '_, '_>, table: &Table) -> Result<()> {
        let key: usize = self.key.iter().map(length).sum();
        let head = ENTRY_OVERHEAD + table.name.len() + key;
        // Zeroed columns travel with the values they have.
        let zeroed = |(entry, value): (&Option<Entry>, &Option<ValueRef<'_>>)| {
            value.is_none() && entry.is_some_and(|entry| entry.dirty)
        };
        if self.clock.entries.iter().zip(&self.values).any(zeroed) {
            self.read_stored(session.engine, table)?;
        }
        if let Some(sentinel) = self.clock.sentinel.filter(|entry| entry.dirty) {
            session.weigh(sentinel.db_version, head + SENTINEL.len());
        }
        for (at, column) in table.columns.iter().enumerate() {
            let Some(entry) = self.clock.entries.get(at).copied().flatten().filter(|entry| entry.dirty) else {
                continue;
            };
            let value = self.values.get(at).copied().flatten().or_else(|| self.stored_value(at));
            session.weigh(entry.db_version, head + column.name.len() + value.map_or(0, length));
        }
        Ok(())
    }

    /// Writes the row; returns how many rows that came to.
    fn write_row(&self, session: &mut Session<'_, '_, '_>, table: &Table) -> Result<u64> {
        let refused = |error| Error::of_row_write(&table.name, error);
        let key = || self.key.iter();
        let mut written = 0;
        if self.delete {
            let statement = session.statements.get(&table.sql.delete_row)?;
            bind_all(statement, 1, key())?;
            written += statement.raw_execute().map_err(refused)?;
        }
        let set: Vec<usize> =
            (0..self.values.len()).filter(|at| matches!(self.values.get(*at), Some(Some(_)))).collect();
        if set.is_empty() && !self.create {
            return Ok(written as u64);
        }
        let values = || self.values.iter().flatten().copied();
        let sql = table.set(&set);
        if self.was_alive && !self.delete && !set.is_empty() {
            let statement = session.statements.get(&sql.update)?;
            bind_all(statement, 1, key().chain(values()))?;
            written += statement.raw_execute().map_err(refused)?;
            if written > 0 {
                return Ok(written as u64);
            }
        }
        let statement = session.statements.get(&sql.upsert)?;
        bind_all(statement, 1, key().chain(values()))?;
        written += statement.raw_execute().map_err(refused)?;
        Ok(written as u64)
    }

    /// Gives the row a lookaside key. It may have got one meanwhile: a trigger of the application's can merge, too.
    fn create_lookaside(&self, session: &mut Session<'_, '_, '_>, table: &Table) -> Result<i64> {
        let insert = session.statements.get(&table.sql.insert_key)?;
        bind_all(insert, 1, self.key.iter())?;
        if insert.raw_execute()? > 0 {
            return Ok(session.engine.db().last_insert_rowid());
        }
        let find = session.statements.get(&table.sql.find_key)?;
        bind_all(find, 1, self.key.iter())?;
        let mut rows = find.raw_query();
        Ok(rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?.get(0)?)
    }

    /// False if there were entries that the clock does not have.
    fn write_entries(&self, session: &mut Session<'_, '_, '_>, table: &Table, key: i64) -> Result<bool> {
        let mut was_known = true;
        if self.delete && self.clock.lookaside.is_some() {
            session.statements.get(&table.sql.delete_entries)?.execute([key])?;
        }
        let columns = table.columns.iter().zip(&self.clock.entries);
        let columns = columns.filter_map(|(column, entry)| Some((column.name.as_str(), (*entry)?)));
        let sentinel = self.clock.sentinel.map(|entry| (SENTINEL, entry));
        let mut new: Vec<Row<'_>> = Vec::new();
        for (name, entry) in sentinel.into_iter().chain(columns).filter(|(_, entry)| entry.dirty) {
            let ordinal = match entry.author {
                Author::Ordinal(ordinal) => ordinal,
                Author::Site(site) => session.sites.ordinal(session.engine, session.statements, site)?,
            };
            let row = (name, entry, ordinal);
            if !entry.stored {
                new.push(row);
            } else if write_rows(session.statements.get(&table.sql.update_entry)?, key, &[row])? == 0 {
                // A trigger of the application's has removed it meanwhile.
                new.push(row);
            }
        }
        for rows in new.chunks(MAX_ENTRIES) {
            let Some(sql) = table.write_entries(rows.len()) else { continue };
            let inserted = write_rows(session.statements.get(&sql.insert)?, key, rows);
            if !inserted.as_ref().is_err_and(is_conflict) {
                inserted?;
                continue;
            }
            was_known = false;
            // Entries of a row that lost its lookaside key, or that a trigger has merged meanwhile. One by one: SQLite would
            // keep a journal to take back the first of several if a later one failed.
            let replace = session.statements.get(&table.sql.replace_entry)?;
            for row in rows {
                write_rows(replace, key, std::slice::from_ref(row))?;
            }
        }
        Ok(was_known)
    }
}

/// An entry as it is written: its column, itself, and its author's ordinal.
type Row<'a> = (&'a str, Entry, i64);

/// Writes entries and their authors' ordinals with one statement.
fn write_rows(statement: &mut Statement<'_>, key: i64, rows: &[Row<'_>]) -> rusqlite::Result<usize> {
    statement.raw_bind_parameter(1, key)?;
    for ((name, entry, ordinal), first) in rows.iter().zip((2..).step_by(5)) {
        statement.raw_bind_parameter(first, Bind(ValueRef::Text(name.as_bytes())))?;
        statement.raw_bind_parameter(first + 1, entry.col_version)?;
        statement.raw_bind_parameter(first + 2, entry.db_version)?;
        statement.raw_bind_parameter(first + 3, ordinal)?;
        statement.raw_bind_parameter(first + 4, entry.seq)?;
    }
    statement.raw_execute()
}

/// How many bytes a value takes, roughly.
pub(super) fn length(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 8,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::load;

    #[test]
    fn a_row_is_merged_where_entries_without_a_lookaside_key_are_in_the_way() {
        let conn = Connection::open_in_memory().unwrap();
        let crr = load(&conn).unwrap();
        conn.execute_batch("CREATE TABLE foo (a PRIMARY KEY NOT NULL, b)").unwrap();
        crr.as_crr("foo").unwrap();
        conn.execute_batch(
            "INSERT INTO foo VALUES (1, 2);
             DELETE FROM foo__crsql_pks;
             INSERT INTO crsql_changes VALUES ('foo', x'010909', 'b', 5, 3, 7, zeroblob(16), 1, 0);",
        )
        .unwrap();
        let entry = conn.query_row("SELECT key, col_version, db_version, site_id FROM foo__crsql_clock", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        });
        assert_eq!(entry.unwrap(), (1, 3, 7, 1));
    }
    #[test]
    fn an_entry_that_a_trigger_removed_meanwhile_is_written_again() {
        let conn = Connection::open_in_memory().unwrap();
        let crr = load(&conn).unwrap();
        conn.execute_batch("CREATE TABLE foo (a PRIMARY KEY NOT NULL, b)").unwrap();
        crr.as_crr("foo").unwrap();
        conn.execute_batch(
            "INSERT INTO foo VALUES (1, 2);
             CREATE TRIGGER forget AFTER UPDATE ON foo BEGIN DELETE FROM foo__crsql_clock; END;
             INSERT INTO crsql_changes VALUES ('foo', x'010901', 'b', 5, 3, 7, zeroblob(16), 1, 0);",
        )
        .unwrap();
        let entry = conn.query_row("SELECT key, col_version, db_version, site_id FROM foo__crsql_clock", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        });
        assert_eq!(entry.unwrap(), (1, 3, 7, 1));
    }
}
