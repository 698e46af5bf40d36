//! The newest version in each clock table: where a reader has to look.
//!
//! Asking hundreds of tables takes longer than reading a few changes, so the answers are kept. They are those of a content
//! stamp. At another one, all tables are asked again, unless it was our own commits that led there. After those, and inside a
//! transaction that writes, only the tables that the engine may have written to are asked again, if nobody else has written:
//!
//! - Before the engine writes to a clock table, it looks the CRR up by its name, which [marks](crate::schema::Schema::table) it.
//! - SQLite counts the rows that the statements of a connection write. The engine counts which of them it wrote itself, and
//!   with each call of its triggers the row that it is called for. If SQLite counts more or fewer than that, somebody else has
//!   written, or a statement was taken back: then all tables are asked, as after a commit of another connection. So whoever
//!   writes to a clock table by hand is noticed, unless a statement that failed before, in the same transaction, has fired
//!   the engine's triggers for exactly as many rows.
//!
//! What a rollback takes back leaves marks on tables that needn't be asked, which does no harm.

use std::cell::Cell;
use std::sync::Arc;

use rusqlite::OptionalExtension;

use crate::schema::Schema;
use crate::state::Engine;
use crate::{Result, raw};

/// The newest versions, and what tells whether they are the database's.
#[derive(Debug)]
pub(crate) struct Newest {
    schema: Arc<Schema>,
    /// By the position of the clock table; `None` if it is empty. Out of date where the table is marked.
    versions: Vec<Option<i64>>,
    /// The content stamp that we know of, our own commits since included.
    stamp: u32,
    /// Whether there were any.
    followed: bool,
    /// [`Engine::rows_of_others`] when all versions were up to date.
    rows_of_others: u64,
}

impl Newest {
    /// What is left of it after a commit to the main database, with the content stamp before it.
    pub(crate) fn committed(self, stamp: u32) -> Option<Newest> {
        (self.stamp == stamp).then(|| Newest { stamp: stamp.wrapping_add(1), followed: true, ..self })
    }

    /// What is left of it after a rollback, with the content stamp after it. Nothing if a commit has failed that was told of.
    pub(crate) fn rolled_back(self, stamp: u32) -> Option<Newest> {
        (self.stamp == stamp).then_some(self)
    }
}

/// How many rows were written by the engine or are known to it, as SQLite counts them.
#[derive(Debug, Default)]
pub(crate) struct KnownRows {
    count: Cell<u64>,
    /// Whether there is an [`OwnWrites`], which counts whatever is written.
    counting: Cell<bool>,
}

/// While it lives, what the connection writes is the engine's.
#[derive(Debug)]
pub(crate) struct OwnWrites<'e> {
    engine: &'e Engine,
    /// SQLite's count at the beginning; `None` if another one counts already.
    before: Option<u64>,
}

impl Drop for OwnWrites<'_> {
    fn drop(&mut self) {
        let Some(before) = self.before else { return };
        let known = &self.engine.known_rows;
        known.count.set(known.count.get().wrapping_add(self.engine.db().total_changes().wrapping_sub(before)));
        known.counting.set(false);
    }
}

impl Engine {
    /// Tells that the engine writes, until the guard is dropped.
    pub(crate) fn own_writes(&self) -> OwnWrites<'_> {
        let counting = self.known_rows.counting.replace(true);
        OwnWrites { engine: self, before: (!counting).then(|| self.db().total_changes()) }
    }

    /// The same on behalf of one row that a statement of the application's writes.
    pub(crate) fn own_writes_for_a_row(&self) -> OwnWrites<'_> {
        let known = &self.known_rows;
        if !known.counting.get() {
            known.count.set(known.count.get().wrapping_add(1));
        }
        self.own_writes()
    }

    /// Whether triggers also fire for rows that others replace.
    pub(crate) fn has_recursive_triggers(&self) -> Result<bool> {
        self.with_statements(|statements| {
            Ok(statements.get("PRAGMA recursive_triggers")?.query_row([], |row| row.get(0))?)
        })
    }

    /// A number that changes if somebody else writes with a statement of this connection.
    fn rows_of_others(&self) -> u64 {
        self.db().total_changes().wrapping_sub(self.known_rows.count.get())
    }

    /// Shows the CRRs as they are now, and the newest version in the clock table of each, what the transaction under way
    /// has written included.
    pub(crate) fn newest<T>(&self, look: impl FnOnce(&Arc<Schema>, &[Option<i64>]) -> T) -> Result<T> {
        // This reads, so that a commit of another connection shows in the stamp.
        let schema = self.schema()?;
        let (stamp, rows_of_others) = (raw::content_stamp(self.db())?, self.rows_of_others());
        let writing = raw::is_writing(self.db());
        let is_good = |known: &Newest| {
            let unwritten = !writing && !known.followed;
            let ours = unwritten || known.rows_of_others == rows_of_others;
            ours && known.stamp == stamp && Arc::ptr_eq(&known.schema, &schema)
        };
        let mut known = self.newest.take();
        let seen = match &mut known {
            Some(known) if is_good(known) => {
                self.ask_marked(&schema, &mut known.versions)?;
                if !writing {
                    (known.followed, known.rows_of_others) = (false, rows_of_others);
                }
                look(&schema, &known.versions)
            }
            _ => {
                let versions = self.ask_all(&schema)?;
                let seen = look(&schema, &versions);
                // A transaction may yet take back what it has written.
                if !writing {
                    let schema = Arc::clone(&schema);
                    known = Some(Newest { schema, versions, stamp, followed: false, rows_of_others });
                }
                seen
            }
        };
        if !writing {
            schema.unmark();
        }
        self.newest.replace(known);
        Ok(seen)
    }

    fn ask_all(&self, schema: &Schema) -> Result<Vec<Option<i64>>> {
        let mut versions = Vec::with_capacity(schema.len());
        for sql in schema.newest_of_many() {
            let mut statement = self.db().prepare_cached(sql)?;
            let count = statement.column_count();
            let mut rows = statement.query([])?;
            let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            for at in 0..count {
                versions.push(row.get(at)?);
            }
        }
        Ok(versions)
    }

    fn ask_marked(&self, schema: &Schema, versions: &mut [Option<i64>]) -> Result<()> {
        for (sql, version) in schema.newest_of_marked().zip(versions) {
            if let Some(sql) = sql {
                *version = self.db().prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rusqlite::Connection;
    use rusqlite::types::ValueRef;

    use crate::state::SharedEngine;
    use crate::{Change, Crr, Merge, MergeOptions, Position, SiteId, functions, load};

    /// A connection to a database with the CRRs a, b and c.
    struct Site {
        conn: Connection,
        engine: SharedEngine,
    }

    impl Site {
        fn open(path: &Path) -> Site {
            let conn = Connection::open(path).unwrap();
            let crr = load(&conn).unwrap();
            for table in ["a", "b", "c"] {
                conn.execute_batch(&format!(
                    "CREATE TABLE IF NOT EXISTS {table} (x INTEGER PRIMARY KEY NOT NULL, y, z)"
                ))
                .unwrap();
                crr.as_crr(table).unwrap();
            }
            conn.execute_batch("CREATE TABLE IF NOT EXISTS plain (x)").unwrap();
            let engine = functions::engine_of(&conn).unwrap();
            Site { conn, engine }
        }

        fn run(&self, sql: &str) {
            self.conn.execute_batch(sql).unwrap();
        }

        /// The tables that are asked when the newest versions are needed.
        fn asked(&self) -> String {
            const UNASKED: Option<i64> = Some(-1);
            if let Some(known) = self.engine.newest.borrow_mut().as_mut() {
                known.versions.fill(UNASKED);
            }
            let asked = |(at, version)| (version != UNASKED).then(|| ["a", "b", "c"][at]);
            self.engine.newest(|_, versions| versions.iter().copied().enumerate().filter_map(asked).collect()).unwrap()
        }

        fn merge(&self, table: &str) {
            let tx = self.conn.unchecked_transaction().unwrap();
            let author = SiteId::from_bytes([7; 16]);
            let change = Change {
                table,
                pk: &[1, 9, 70],
                cid: "y",
                val: ValueRef::Null,
                col_version: 1,
                db_version: 1,
                site_id: Some(author),
                cl: 1,
                seq: 0,
            };
            Merge::new(&tx, MergeOptions::default()).unwrap().changeset([change].into_iter()).unwrap();
            Crr::of(&tx).unwrap().set_position(author, Position { db_version: 1, seq: 0 }).unwrap();
            tx.commit().unwrap();
        }
    }

    #[test]
    fn only_tables_that_our_own_transactions_wrote_to_are_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::open(&folder.path().join("db"));
        assert_eq!(site.asked(), "abc");
        assert_eq!(site.asked(), "");
        for (sql, asked) in [
            ("INSERT INTO a VALUES (1, 2, 3), (2, 2, 3), (3, 2, 3)", "a"),
            ("UPDATE a SET y = 5, z = 6; DELETE FROM a WHERE x = 3; REPLACE INTO a VALUES (2, 3, 4), (9, 3, 4)", "a"),
            ("UPDATE b SET y = 5", ""),
            ("BEGIN; INSERT INTO a VALUES (4, 2, 3); INSERT INTO c VALUES (4, 2, 3); COMMIT", "ac"),
            ("INSERT INTO a VALUES (5, 2, 3); INSERT INTO b VALUES (5, 2, 3)", "ab"),
            ("BEGIN; INSERT INTO a VALUES (6, 2, 3); ROLLBACK", "a"),
            ("BEGIN; INSERT INTO b VALUES (6, 2, 3); SAVEPOINT s; DELETE FROM c; ROLLBACK TO s; COMMIT", "bc"),
            ("BEGIN IMMEDIATE; COMMIT", ""),
            ("BEGIN IMMEDIATE; ROLLBACK", ""),
        ] {
            site.run(sql);
            assert_eq!(site.asked(), asked, "{sql}");
            assert_eq!(site.asked(), "", "{sql}");
        }
        site.merge("b");
        assert_eq!(site.asked(), "b");
    }

    #[test]
    fn a_merge_through_sql_is_our_own() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::open(&folder.path().join("db"));
        site.asked();
        site.run(
            "INSERT INTO crsql_changes VALUES
                 ('b', x'010902', 'y', 1, 1, 1, zeroblob(16), 1, 0), ('b', x'010903', '-1', NULL, 3, 1, zeroblob(16), 3, 1)",
        );
        assert_eq!([site.asked(), site.asked()], ["b", ""]);
    }

    #[test]
    fn what_is_written_aside_has_no_table_asked_but_those_that_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::open(&folder.path().join("db"));
        site.asked();
        let crr = Crr::of(&site.conn).unwrap();
        let aside = |sql: &str| crr.aside(|conn| conn.execute_batch(sql)).unwrap();
        aside("INSERT INTO plain VALUES (1), (2); DELETE FROM plain");
        assert_eq!(site.asked(), "");
        site.run("BEGIN; INSERT INTO a VALUES (1, 2, 3)");
        aside("INSERT INTO plain VALUES (3); INSERT INTO c VALUES (1, 2, 3)");
        assert_eq!(site.asked(), "ac");
        site.run("COMMIT; INSERT INTO plain VALUES (4)");
        assert_eq!(site.asked(), "abc", "somebody else has written");
    }

    #[test]
    fn inside_a_transaction_the_tables_that_it_wrote_to_are_asked_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::open(&folder.path().join("db"));
        site.asked();
        site.run("BEGIN; INSERT INTO a VALUES (1, 2, 3)");
        assert_eq!([site.asked(), site.asked()], ["a", "a"]);
        site.run("UPDATE a SET y = 4; INSERT INTO c VALUES (1, 2, 3)");
        assert_eq!([site.asked(), site.asked()], ["ac", "ac"]);
        site.run("COMMIT");
        assert_eq!([site.asked(), site.asked()], ["ac", ""]);
    }

    #[test]
    fn all_tables_are_asked_when_somebody_else_has_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let (site, other) = (Site::open(&path), Site::open(&path));
        for sql in [
            "UPDATE b__crsql_clock SET db_version = 7",
            "INSERT INTO a VALUES (2, 2, 3); UPDATE b__crsql_clock SET db_version = 8",
            "BEGIN; INSERT INTO a VALUES (3, 2, 3); DELETE FROM b__crsql_clock WHERE col_name = 'y'; COMMIT",
            "BEGIN; INSERT INTO a VALUES (4, 2, 3); INSERT INTO plain VALUES (1); COMMIT",
            "SELECT crsql_as_table('c'); SELECT crsql_as_crr('c')",
        ] {
            site.run("INSERT OR IGNORE INTO b VALUES (1, 2, 3)");
            site.asked();
            site.run(sql);
            assert_eq!([site.asked(), site.asked()], ["abc", ""], "{sql}");
        }
        site.run("BEGIN; INSERT INTO a VALUES (5, 2, 3); UPDATE b__crsql_clock SET db_version = 9");
        assert_eq!([site.asked(), site.asked()], ["abc", "abc"]);
        site.run("COMMIT");
        assert_eq!([site.asked(), site.asked()], ["abc", ""]);

        other.merge("c");
        assert_eq!([site.asked(), site.asked()], ["abc", ""]);
        other.merge("a");
        site.run("INSERT INTO b VALUES (6, 2, 3)");
        assert_eq!([site.asked(), site.asked()], ["abc", ""]);
    }

    #[test]
    fn a_statement_that_fails_half_way_makes_all_tables_be_asked() {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::open(&folder.path().join("db"));
        site.asked();
        site.run("BEGIN; INSERT INTO a VALUES (1, 2, 3)");
        site.conn.execute_batch("INSERT INTO a VALUES (2, 2, 3), (1, 2, 3)").unwrap_err();
        assert_eq!(site.asked(), "abc");
        site.run("COMMIT");
        assert_eq!([site.asked(), site.asked()], ["abc", ""]);
    }
}
