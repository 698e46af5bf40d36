//! Turning a table into a CRR, and back.

use rusqlite::{Connection, OptionalExtension};

use crate::alter::Departed;
use crate::backfill::Stamp;
use crate::change::SENTINEL;
use crate::schema::{CLOCK_SUFFIX, LOOKASIDE_SUFFIX};
use crate::state::Engine;
use crate::table::{self, Table};
use crate::{Error, Result, backfill, raw, sql, triggers};

impl Engine {
    /// Makes the table a CRR of that name. Nothing happens if it is one already, but the conditions are checked again.
    ///
    /// Does all of it or nothing, and leaves a transaction of the caller's open in either case.
    pub(crate) fn as_crr(&self, name: &str) -> Result<()> {
        let name = &self.crr_name(name)?;
        self.atomically(|db| {
            let table = self.suitable_table(name)?;
            if triggers::is_crr(db, name)? {
                return Ok(());
            }
            table.check_key_collations()?;
            // Of a table that was dropped and created anew. The list of CRRs looks closer, but is dear inside a transaction.
            if has_clock(db, name)? && self.schema()?.has_clock(name) {
                self.keep_version()?;
                self.reconcile(&table, Departed::Forget)?;
            }
            triggers::drop_all(db, name)?;
            self.track(&table, Stamp::Next)
        })
    }

    /// The table, if it meets all conditions of a CRR.
    pub(crate) fn suitable_table(&self, name: &str) -> Result<Table> {
        suitable_table(self.db(), name)
    }

    /// Creates what tracking needs, and gives entries to what has none. The table must have no triggers of ours.
    pub(crate) fn track(&self, table: &Table, stamp: Stamp) -> Result<()> {
        create_side_tables(self.db(), table)?;
        triggers::create(self.db(), table)?;
        backfill::fill(self, table, stamp)
    }

    /// Makes a CRR an ordinary table again. Its rows stay; clocks and tombstones go. Nothing happens if it is none.
    pub(crate) fn as_table(&self, name: &str) -> Result<()> {
        let name = &self.crr_name(name)?;
        self.atomically(|db| {
            if self.schema()?.has_clock(name) {
                self.keep_version()?;
            }
            triggers::drop_all(db, name)?;
            for side_table in [table::clock(name), table::lookaside(name)] {
                db.execute_batch(&format!("DROP TABLE IF EXISTS {side_table}"))?;
            }
            Ok(())
        })
    }

    /// The name that the database itself uses for a table, which may differ from `name` by case.
    pub(crate) fn stored_name(&self, name: &str) -> Result<String> {
        let mut statement = self
            .db()
            .prepare_cached("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE")?;
        Ok(statement.query_row([name], |row| row.get(0)).optional()?.unwrap_or_else(|| name.to_owned()))
    }

    /// Runs `work` in a savepoint of its own.
    pub(crate) fn atomically<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let db = self.db();
        db.execute_batch("SAVEPOINT crr")?;
        match work(db) {
            Ok(done) => {
                db.execute_batch("RELEASE crr")?;
                if db.is_autocommit() {
                    // This proves the schema. Inside the next transaction it would have to be proved at each use.
                    self.refresh_schema()?;
                }
                Ok(done)
            }
            Err(error) => {
                // If SQLite has already rolled everything back, there is no savepoint left: the first error tells more.
                let _ = db.execute_batch("ROLLBACK TO crr; RELEASE crr");
                Err(error)
            }
        }
    }
}

/// The table, if it meets all conditions of a CRR. They are checked in the reference's order.
fn suitable_table(db: &Connection, name: &str) -> Result<Table> {
    let unsuitable = |reason: &str| Err(Error::Unsuitable { table: name.to_owned(), reason: reason.to_owned() });
    let Some(table) = Table::read(db, name)? else { return unsuitable("there is no such table") };

    if exists(db, "SELECT 1 FROM pragma_index_list(?1, 'main') WHERE origin <> 'pk' AND \"unique\"", name)? {
        return unsuitable("it has a unique index besides its primary key; concurrent writes could break it");
    }
    let declared: i64 = db.query_row(
        "SELECT count(*) FROM pragma_table_info(?1, 'main') WHERE pk > 0 AND \"notnull\"",
        [name],
        |row| row.get(0),
    )?;
    if declared == 0 {
        return unsuitable("it needs a primary key that is declared NOT NULL");
    }
    if usize::try_from(declared) != Ok(table.keys.len()) {
        return unsuitable("all columns of its primary key must be declared NOT NULL");
    }
    let definition: String = db.query_row(
        "SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
        [name],
        |row| row.get(0),
    )?;
    if definition.to_ascii_lowercase().contains("autoincrement") {
        return unsuitable("its definition contains AUTOINCREMENT; two sites would make the same keys");
    }
    if exists(db, "SELECT 1 FROM pragma_foreign_key_list(?1, 'main')", name)? {
        return unsuitable("it has a foreign key; what it points to may arrive later");
    }
    let required: Option<String> = db
        .query_row(
            "SELECT name FROM pragma_table_xinfo(?1, 'main')
             WHERE pk = 0 AND \"notnull\" AND dflt_value IS NULL LIMIT 1",
            [name],
            |row| row.get(0),
        )
        .optional()?;
    if let Some(column) = required {
        return unsuitable(&format!("column {column} is NOT NULL without a default; rows arrive column by column"));
    }
    if table.keys.iter().chain(&table.columns).any(|column| column.name == SENTINEL) {
        return unsuitable("it has a column named -1, the name of the row's own entry");
    }
    if table.keys.iter().any(|key| key.name.eq_ignore_ascii_case("__crsql_key")) {
        return unsuitable("it has a key column named __crsql_key, a name of the engine's");
    }
    if u8::try_from(table.keys.len()).is_err() {
        return unsuitable("its primary key has more than 255 columns");
    }
    let (arguments, most) = (triggers::most_arguments(&table), raw::most_function_arguments(db));
    if arguments > most {
        let reason = "it has too many columns for this SQLite: tracking updates takes a function with";
        return unsuitable(&format!("{reason} {arguments} arguments, and {most} is the limit"));
    }
    Ok(table)
}

/// Whether there is a table with the name of the table's clock.
fn has_clock(db: &Connection, name: &str) -> Result<bool> {
    let clock = format!("{name}{CLOCK_SUFFIX}");
    exists(db, "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1", &clock)
}

fn exists(db: &Connection, sql: &str, table: &str) -> Result<bool> {
    Ok(db.prepare(sql)?.exists([table])?)
}

/// Creates the clock table and the lookaside with their indexes, where they are missing.
fn create_side_tables(db: &Connection, table: &Table) -> Result<()> {
    let name = &table.name;
    let keys = sql::join(&table.keys, ", ", |key| sql::identifier(&key.name));
    db.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {clock} (
             key INTEGER NOT NULL,
             col_name TEXT NOT NULL,
             col_version INTEGER NOT NULL,
             db_version INTEGER NOT NULL,
             site_id INTEGER NOT NULL DEFAULT 0,
             seq INTEGER NOT NULL,
             PRIMARY KEY (key, col_name)
         ) WITHOUT ROWID, STRICT;
         CREATE INDEX IF NOT EXISTS main.{clock_index} ON {clock_name} (db_version);
         CREATE TABLE IF NOT EXISTS {lookaside} (__crsql_key INTEGER PRIMARY KEY, {keys});
         CREATE UNIQUE INDEX IF NOT EXISTS main.{lookaside_index} ON {lookaside_name} ({keys});",
        clock = table::clock(name),
        clock_name = sql::identifier(&format!("{name}{}", CLOCK_SUFFIX)),
        clock_index = sql::identifier(&format!("{name}{}_dbv_idx", CLOCK_SUFFIX)),
        lookaside = table::lookaside(name),
        lookaside_name = sql::identifier(&format!("{name}{LOOKASIDE_SUFFIX}")),
        lookaside_index = sql::identifier(&format!("{name}{LOOKASIDE_SUFFIX}_pks")),
    ))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::load;

    #[test]
    fn unsuitable_tables_are_refused_with_a_reason_and_left_as_they_were() {
        for (definition, reason) in [
            ("CREATE TABLE t(a PRIMARY KEY NOT NULL, b UNIQUE)", "unique"),
            ("CREATE TABLE t(a PRIMARY KEY NOT NULL, b); CREATE UNIQUE INDEX u ON t(b) WHERE b > 1", "unique"),
            ("CREATE TABLE t(a, b)", "NOT NULL"),
            ("CREATE TABLE t(a PRIMARY KEY, b)", "NOT NULL"),
            ("CREATE TABLE t(a INTEGER PRIMARY KEY, b)", "NOT NULL"),
            ("CREATE TABLE t(a NOT NULL, b, c, PRIMARY KEY(a, b))", "all columns"),
            ("CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, b)", "AUTOINCREMENT"),
            ("CREATE TABLE o(a); CREATE TABLE t(a PRIMARY KEY NOT NULL, b REFERENCES o(a))", "foreign key"),
            ("CREATE TABLE t(a PRIMARY KEY NOT NULL, b NOT NULL)", "column b"),
            ("CREATE TABLE t(a PRIMARY KEY NOT NULL, b, c NOT NULL AS (b))", "column c"),
            ("CREATE TABLE t(__crsql_key PRIMARY KEY NOT NULL, b)", "__crsql_key"),
            ("CREATE TABLE t(a NOT NULL, b, PRIMARY KEY(a COLLATE NOCASE))", "NOCASE"),
            ("CREATE TABLE t(a TEXT COLLATE RTRIM, b TEXT, PRIMARY KEY(b, a)) WITHOUT ROWID", "RTRIM"),
            ("CREATE VIEW t AS SELECT 1 AS a", "no such table"),
        ] {
            let conn = Connection::open_in_memory().unwrap();
            let crr = load(&conn).unwrap();
            conn.execute_batch(definition).unwrap();
            let objects = |conn: &Connection| -> i64 {
                conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap()
            };
            let before = objects(&conn);
            let error = crr.as_crr("t").unwrap_err().to_string();
            assert!(error.contains("table t ") && error.contains(reason), "{definition}: {error}");
            assert_eq!(objects(&conn), before, "{definition}");
            assert!(conn.is_autocommit());
        }
    }

    #[test]
    fn suitable_tables_are_accepted() {
        for definition in [
            "CREATE TABLE t(a PRIMARY KEY NOT NULL, b NOT NULL DEFAULT NULL)",
            "CREATE TABLE t(a, b, PRIMARY KEY(a, b)) WITHOUT ROWID",
            "CREATE TABLE t(a PRIMARY KEY NOT NULL, b, c AS (b))",
            "CREATE TABLE t(a TEXT PRIMARY KEY NOT NULL, b ANY, c INT) STRICT",
            "CREATE TABLE t(a TEXT COLLATE NOCASE NOT NULL, b, PRIMARY KEY(a COLLATE BINARY))",
            "CREATE TABLE t(a TEXT PRIMARY KEY NOT NULL, b COLLATE NOCASE)",
            "CREATE TABLE t(a INTEGER PRIMARY KEY DESC NOT NULL, b)",
        ] {
            let conn = Connection::open_in_memory().unwrap();
            let crr = load(&conn).unwrap();
            conn.execute_batch(definition).unwrap();
            crr.as_crr("t").unwrap();
            conn.execute_batch("INSERT INTO t(a, b) VALUES (1, 2); UPDATE t SET b = 3; DELETE FROM t").unwrap();
            assert_eq!(crr.tables().unwrap(), ["t"], "{definition}");
        }
    }

    #[test]
    fn a_crr_made_a_table_again_keeps_its_rows_and_the_databases_version() {
        let conn = Connection::open_in_memory().unwrap();
        let crr = load(&conn).unwrap();
        let objects = || conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0)).unwrap();
        conn.execute_batch("CREATE TABLE t(a PRIMARY KEY NOT NULL, b)").unwrap();
        let before = objects();
        crr.as_crr("t").unwrap();
        conn.execute_batch("INSERT INTO t VALUES (1, 2); UPDATE t SET b = 3").unwrap();
        conn.query_row("SELECT crsql_as_table('t')", [], |_| Ok(())).unwrap();
        assert_eq!((objects(), crr.tables().unwrap()), (before, vec![]));
        assert_eq!(crr.db_version().unwrap(), 2);
        conn.execute_batch("UPDATE t SET b = 4").unwrap();
        crr.as_table("t").unwrap();
        crr.as_crr("t").unwrap();
        assert_eq!(crr.db_version().unwrap(), 3);
    }

    #[test]
    fn the_native_call_uses_the_name_that_the_table_was_made_with_and_sql_the_one_it_is_given() {
        let conn = Connection::open_in_memory().unwrap();
        let crr = load(&conn).unwrap();
        conn.execute_batch("CREATE TABLE Foo(a PRIMARY KEY NOT NULL); CREATE TABLE bar(a PRIMARY KEY NOT NULL)")
            .unwrap();
        crr.as_crr("foo").unwrap();
        conn.query_row("SELECT crsql_as_crr('main', 'BAR')", [], |_| Ok(())).unwrap();
        assert_eq!(crr.tables().unwrap(), ["Foo", "BAR"]);
    }
}
