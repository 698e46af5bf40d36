//! Local writes: what the triggers of a CRR call for each row that an application writes.

use std::sync::Arc;

use rusqlite::functions::Context;
use rusqlite::types::ValueRef;
use rusqlite::{OptionalExtension, params};

use crate::sql::{bind_all, is_conflict};
use crate::state::Engine;
use crate::statements::Statements;
use crate::table::Table;
use crate::{Error, Result, value};

/// Some consecutive arguments of a trigger's call.
#[derive(Clone, Copy)]
struct Arguments<'a> {
    context: &'a Context<'a>,
    first: usize,
    count: usize,
}

impl<'a> Arguments<'a> {
    fn iter(self) -> impl Iterator<Item = ValueRef<'a>> {
        (self.first..self.first + self.count).map(|at| self.context.get_raw(at))
    }

    /// Whether the two differ anywhere.
    fn differs_from(self, other: Arguments<'a>) -> bool {
        self.iter().zip(other.iter()).any(|(a, b)| value::order(a, b).is_ne())
    }
}

/// `crsql_after_insert(table, NEW.key…)`
pub(crate) fn after_insert(engine: &Engine, context: &Context<'_>) -> Result<()> {
    let table = table(engine, context)?;
    let [new] = arguments(context, "crsql_after_insert", [table.keys.len()])?;
    let _writes = engine.own_writes_for_a_row();
    track(engine, &table, |mut row| {
        let (key, existed) = row.create_or_find_key(new)?;
        if table.is_key_only() {
            return row.upsert_alive(key, 1);
        }
        if existed {
            row.execute(&table.sql.bump_alive, key)?;
        }
        let first = engine.clock.take_seqs(table.columns.len())?;
        let parameters = (key, row.version, first);
        if !existed {
            let inserted = row.statements.get(&table.sql.insert_all_columns)?.execute(parameters);
            if !inserted.as_ref().is_err_and(is_conflict) {
                inserted?;
                return Ok(());
            }
            // Entries of a row that lost its lookaside key.
        }
        row.statements.get(&table.sql.upsert_all_columns)?.execute(parameters)?;
        Ok(())
    })
}

/// `crsql_after_delete(table, OLD.key…)`
pub(crate) fn after_delete(engine: &Engine, context: &Context<'_>) -> Result<()> {
    let table = table(engine, context)?;
    let [old] = arguments(context, "crsql_after_delete", [table.keys.len()])?;
    // A row that is replaced by another one isn't counted by SQLite. With recursive triggers, it may be one of those.
    let _writes = match engine.has_recursive_triggers()? {
        true => engine.own_writes(),
        false => engine.own_writes_for_a_row(),
    };
    track(engine, &table, |mut row| {
        let key = row.find_or_create_key(old)?;
        row.execute(&table.sql.upsert_dead, key)?;
        row.statements.get(&table.sql.delete_column_entries)?.execute([key])?;
        Ok(())
    })
}

/// `crsql_after_update(table, NEW.key…, OLD.key…, NEW.column…, OLD.column…)`
pub(crate) fn after_update(engine: &Engine, context: &Context<'_>) -> Result<()> {
    let table = table(engine, context)?;
    let (keys, columns) = (table.keys.len(), table.columns.len());
    let [new, old, new_columns, old_columns] =
        arguments(context, "crsql_after_update", [keys, keys, columns, columns])?;
    let _writes = engine.own_writes_for_a_row();
    // A version is taken even if nothing changed, as the reference does.
    track(engine, &table, |mut row| {
        let key = row.find_or_create_key(new)?;
        if new.differs_from(old) {
            let old_key = row.find_or_create_key(old)?;
            row.change_key(old_key, key)?;
        }
        for ((column, new), old) in table.columns.iter().zip(new_columns.iter()).zip(old_columns.iter()) {
            if value::order(new, old).is_ne() {
                let seq = engine.clock.take_seq()?;
                let upsert = row.statements.get(&table.sql.upsert_column)?;
                upsert.execute(params![key, row.version, seq, column.name])?;
            }
        }
        Ok(())
    })
}

fn table(engine: &Engine, context: &Context<'_>) -> Result<Arc<Table>> {
    let name = if context.is_empty() { ValueRef::Null } else { context.get_raw(0) };
    engine.table(name.as_str().unwrap_or_default())
}

/// Splits the arguments after the table's name into groups. An error if there aren't exactly as many: the table was altered
/// after its triggers were made.
fn arguments<'a, const N: usize>(
    context: &'a Context<'a>,
    function: &'static str,
    counts: [usize; N],
) -> Result<[Arguments<'a>; N]> {
    if context.len() != 1 + counts.iter().sum::<usize>() {
        return Err(Error::Misuse { function, reason: "the number of arguments doesn't fit the table's columns" });
    }
    let mut first = 1;
    Ok(counts.map(|count| {
        let group = Arguments { context, first, count };
        first += count;
        group
    }))
}

/// Tracks a write to a row of `table`, which was looked up just before: that has refreshed the schema.
fn track(engine: &Engine, table: &Table, work: impl FnOnce(Row<'_, '_>) -> Result<()>) -> Result<()> {
    let version = engine.next_version_after_refresh(0)?;
    engine.last_row.forget();
    engine.with_statements(|statements| work(Row { engine, statements, table, version }))
}

/// A row being tracked, at the version of its transaction.
struct Row<'e, 'c> {
    engine: &'e Engine,
    statements: &'e mut Statements<'c>,
    table: &'e Table,
    version: i64,
}

impl Row<'_, '_> {
    /// The lookaside key of a primary key that most likely has one.
    fn find_or_create_key(&mut self, primary_key: Arguments<'_>) -> Result<i64> {
        match self.find_key(primary_key)? {
            Some(key) => Ok(key),
            None => Ok(self.create_or_find_key(primary_key)?.0),
        }
    }

    /// The lookaside key of a primary key that most likely has none, and whether it had one.
    fn create_or_find_key(&mut self, primary_key: Arguments<'_>) -> Result<(i64, bool)> {
        let insert = self.statements.get(&self.table.sql.insert_key)?;
        bind_all(insert, 1, primary_key.iter())?;
        if insert.raw_execute()? == 1 {
            return Ok((self.engine.db().last_insert_rowid(), false));
        }
        Ok((self.find_key(primary_key)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?, true))
    }

    fn find_key(&mut self, primary_key: Arguments<'_>) -> Result<Option<i64>> {
        let find = self.statements.get(&self.table.sql.find_key)?;
        bind_all(find, 1, primary_key.iter())?;
        Ok(find.raw_query().next()?.map(|row| row.get(0)).transpose()?)
    }

    /// Runs a statement about one entry of `key`, with the version and a fresh seq.
    fn execute(&mut self, sql: &str, key: i64) -> Result<()> {
        let seq = self.engine.clock.take_seq()?;
        self.statements.get(sql)?.execute((key, self.version, seq))?;
        Ok(())
    }

    /// Writes the sentinel of a row that is alive: `first` if it has none.
    fn upsert_alive(&mut self, key: i64, first: i64) -> Result<()> {
        let seq = self.engine.clock.take_seq()?;
        self.statements.get(&self.table.sql.upsert_alive)?.execute((key, self.version, seq, first))?;
        Ok(())
    }

    /// The row moved from one key to another: the old key dies, and the new one gets its entries.
    ///
    /// All column entries of the new key are stamped as written now and here: only so do they travel to peers that are
    /// past the version they were written at, and back to those who wrote them. That includes entries of a row that was
    /// overwritten and that the moved row has no entry for: their values are the moved row's now.
    fn change_key(&mut self, old_key: i64, key: i64) -> Result<()> {
        let sql = &self.table.sql;
        let (sentinel, has_columns) = self
            .statements
            .get(&sql.life)?
            .query_row([key], |row| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, bool>(1)?)))
            .optional()?
            .unwrap_or_default();
        self.execute(&sql.upsert_dead, old_key)?;
        // A live row without a sentinel was overwritten: at cl 1 the moved cells would only tie with its own.
        let overwrites = sentinel.is_none() && has_columns;
        self.upsert_alive(key, if overwrites { 3 } else { 1 })?;
        self.statements.get(&sql.move_entries)?.execute((old_key, key))?;
        let stamp = self.statements.get(&sql.stamp_entry)?;
        for column in &self.table.columns {
            let seq = self.engine.clock.seq();
            if stamp.execute(params![key, self.version, seq, column.name])? > 0 {
                self.engine.clock.take_seq()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::load;

    #[test]
    fn a_row_is_tracked_where_entries_without_a_lookaside_key_are_in_the_way() {
        let conn = Connection::open_in_memory().unwrap();
        let crr = load(&conn).unwrap();
        conn.execute_batch("CREATE TABLE foo (a PRIMARY KEY NOT NULL, b, c)").unwrap();
        crr.as_crr("foo").unwrap();
        conn.execute_batch(
            "INSERT INTO foo VALUES (1, 2, 3);
             DELETE FROM foo__crsql_pks;
             DELETE FROM foo__crsql_clock WHERE col_name = 'b';
             INSERT INTO foo VALUES (9, 4, 5);",
        )
        .unwrap();
        let versions: Vec<(i64, String, i64)> = conn
            .prepare("SELECT key, col_name, db_version FROM foo__crsql_clock")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        assert_eq!(versions, [(1, "b".to_owned(), 2), (1, "c".to_owned(), 2)]);
    }
}
