//! Clock entries for rows that were there before their table was a CRR.

use rusqlite::{OptionalExtension, params};

use crate::change::SENTINEL;
use crate::state::Engine;
use crate::table::{self, Table};
use crate::{Result, sql};

/// The version at which missing entries are written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stamp {
    /// The next one, which is taken only if an entry is missing: peers are to get them.
    Next,
    /// This one: peers are expected to make the same entries themselves.
    At(i64),
}

impl Stamp {
    fn version(self, engine: &Engine) -> Result<i64> {
        match self {
            Stamp::Next => engine.next_version(0),
            Stamp::At(version) => Ok(version),
        }
    }
}

/// Gives entries to all rows and cells that lack them, as written here.
pub(crate) fn fill(engine: &Engine, table: &Table, stamp: Stamp) -> Result<()> {
    let lookaside = table::lookaside(&table.name);
    let last_key: Option<i64> =
        engine.db().query_row(&format!("SELECT max(__crsql_key) FROM {lookaside}"), [], |row| row.get(0))?;
    fill_new_rows(engine, table, last_key.unwrap_or(0), stamp)?;
    if last_key.is_some() {
        for position in 0..table.columns.len() {
            fill_column(engine, table, position, stamp)?;
        }
    }
    Ok(())
}

/// Rows without a lookaside key get one, and an entry for each column, NULLs and defaults included.
fn fill_new_rows(engine: &Engine, table: &Table, last_key: i64, stamp: Stamp) -> Result<()> {
    let (base, lookaside, clock) = (table::base(&table.name), table::lookaside(&table.name), table::clock(&table.name));
    let keys = sql::join(&table.keys, ", ", |key| sql::identifier(&key.name));
    let order = sql::join(1..=table.keys.len(), ", ", |at| at.to_string());
    // In this order the new keys are consecutive numbers, so that seqs can be computed from them.
    let rows = engine.db().execute(
        &format!(
            "INSERT INTO {lookaside} ({keys})
             SELECT {keys} FROM {base} EXCEPT SELECT {keys} FROM {lookaside} ORDER BY {order}"
        ),
        [],
    )?;
    if rows == 0 {
        return Ok(());
    }
    let columns: Vec<&str> = match table.is_key_only() {
        true => vec![SENTINEL],
        false => table.columns.iter().map(|column| column.name.as_str()).collect(),
    };
    let version = stamp.version(engine)?;
    let first_seq = engine.clock.take_seqs(rows.saturating_mul(columns.len()))?;
    let width = columns.len();
    let columns =
        sql::join(columns.iter().enumerate(), ", ", |(at, column)| format!("({at}, {})", sql::literal(column)));
    engine.db().execute(
        &format!(
            "INSERT OR IGNORE INTO {clock} (key, col_name, col_version, db_version, site_id, seq)
             SELECT p.__crsql_key, c.column2, 1, ?2, 0, ?3 + (p.__crsql_key - ?1 - 1) * {width} + c.column1
             FROM {lookaside} AS p CROSS JOIN (VALUES {columns}) AS c WHERE p.__crsql_key > ?1"
        ),
        params![last_key, version, first_seq],
    )?;
    Ok(())
}

/// Cells without an entry, in rows that have a key, get one, unless their value is the column's default.
fn fill_column(engine: &Engine, table: &Table, position: usize, stamp: Stamp) -> Result<()> {
    let Some(column) = table.columns.get(position) else { return Ok(()) };
    let db = engine.db();
    let (required, default): (bool, Option<String>) = db
        .query_row(
            "SELECT \"notnull\", dflt_value FROM pragma_table_info(?1, 'main') WHERE name = ?2",
            [&table.name, &column.name],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?
        .unwrap_or_default();
    let name = sql::identifier(&column.name);
    let differs = match (default, required) {
        (Some(default), _) => format!("t.{name} IS NOT ({default})"),
        (None, false) => format!("t.{name} IS NOT NULL"),
        (None, true) => "true".to_owned(),
    };
    let same_key = sql::join(&table.keys, " AND ", |key| {
        let key = sql::identifier(&key.name);
        format!("t.{key} = p.{key}")
    });
    let keys: Vec<i64> = db
        .prepare(&format!(
            "SELECT p.__crsql_key FROM {} AS t JOIN {} AS p ON {same_key}
             WHERE {differs} AND
                   NOT EXISTS (SELECT 1 FROM {} AS c WHERE c.key = p.__crsql_key AND c.col_name = ?1)",
            table::base(&table.name),
            table::lookaside(&table.name),
            table::clock(&table.name),
        ))?
        .query_map([&column.name], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for key in keys {
        let version = stamp.version(engine)?;
        let seq = engine.clock.take_seq()?;
        db.prepare_cached(&table.sql.upsert_column)?.execute(params![key, version, seq, column.name])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::load;

    #[test]
    fn a_column_without_entries_gets_them_where_it_differs_from_its_default() {
        let conn = Connection::open_in_memory().unwrap();
        let crr = load(&conn).unwrap();
        conn.execute_batch("CREATE TABLE t(a PRIMARY KEY NOT NULL, z)").unwrap();
        crr.as_crr("t").unwrap();
        conn.execute_batch("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)").unwrap();
        crr.alter("t", |conn| {
            conn.execute_batch(
                "ALTER TABLE t ADD COLUMN b DEFAULT 5;
                 ALTER TABLE t ADD COLUMN c;
                 UPDATE t SET b = 6, c = 7 WHERE a = 2;
                 UPDATE t SET b = NULL, c = 'x' WHERE a = 3;",
            )
        })
        .unwrap();
        let entries: Vec<(i64, String)> = conn
            .prepare("SELECT key, col_name FROM t__crsql_clock WHERE col_name <> 'z' ORDER BY seq")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        let named = |key, name: &str| (key, name.to_owned());
        assert_eq!(entries, [named(2, "b"), named(3, "b"), named(2, "c"), named(3, "c")]);
    }
}
