//! Changing the definition of a CRR: its triggers step aside, the application alters the table, and then the clock entries
//! are made to fit what the table has become.

use rusqlite::{Connection, OptionalExtension, params};

use crate::backfill::Stamp;
use crate::state::Engine;
use crate::table::{self, Table};
use crate::{Error, Result, sql, triggers};

/// What becomes of the entries of rows that are no longer in their table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departed {
    /// They were deleted: they get tombstones, which travel to the peers.
    Bury,
    /// Their table was dropped, which is nothing that peers take part in.
    Forget,
}

/// Runs `change` between [`begin_alter`](Engine::begin_alter) and [`commit_alter`](Engine::commit_alter).
pub(crate) fn alter<T, E: From<Error>>(
    engine: &Engine,
    conn: &Connection,
    name: &str,
    change: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    engine.begin_alter(name)?;
    let open = Open { engine };
    let changed = change(conn)?;
    open.commit(name)?;
    Ok(changed)
}

/// An alteration under way, abandoned if this is dropped.
struct Open<'e> {
    engine: &'e Engine,
}

impl Open<'_> {
    fn commit(self, name: &str) -> Result<()> {
        let engine = self.engine;
        // From here on the engine itself undoes what fails.
        std::mem::forget(self);
        engine.commit_alter(name)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.engine.abandon_alter();
    }
}

impl Engine {
    /// Opens a savepoint, and so a transaction if none is open, and stops tracking writes to the table.
    pub(crate) fn begin_alter(&self, name: &str) -> Result<()> {
        let db = self.db();
        db.execute_batch("SAVEPOINT alter_crr")?;
        triggers::drop_all(db, name).inspect_err(|_| self.abandon_alter())
    }

    /// Makes the entries fit the altered table, tracks it again, and closes the savepoint.
    ///
    /// On failure everything since [`begin_alter`](Self::begin_alter) is undone, and a transaction around it stays open.
    pub(crate) fn commit_alter(&self, name: &str) -> Result<()> {
        let never_begun =
            Error::Misuse { function: "crsql_commit_alter", reason: "crsql_begin_alter was not called before" };
        let db = self.db();
        if db.is_autocommit() {
            return Err(never_begun);
        }
        // There is no way to ask whether the savepoint is there, so that the work must be undone if it turns out not to be.
        db.execute_batch("SAVEPOINT crr")?;
        let finished = self.finish_alter(db, name);
        // This closes the inner savepoint too.
        let finished = finished.and_then(|()| db.execute_batch("RELEASE alter_crr").map_err(|_| never_begun));
        match finished {
            Ok(()) if db.is_autocommit() => self.refresh_schema(),
            Ok(()) => Ok(()),
            Err(error) => {
                let _ = db.execute_batch("ROLLBACK TO crr; RELEASE crr");
                self.abandon_alter();
                Err(error)
            }
        }
    }

    /// Undoes everything since [`begin_alter`](Self::begin_alter).
    pub(crate) fn abandon_alter(&self) {
        // If SQLite has already rolled everything back, or nothing was begun, there is nothing to undo.
        let _ = self.db().execute_batch("ROLLBACK TO alter_crr; RELEASE alter_crr");
    }

    fn finish_alter(&self, db: &Connection, name: &str) -> Result<()> {
        // Peers are expected to migrate by themselves, so what a migration fills in is as old as the database. But nobody ever
        // asks for version 0.
        let version = self.current_version()?.max(1);
        self.keep_version()?;
        let table = self.suitable_table(name)?;
        if !self.schema()?.has_clock(name) {
            table.check_key_collations()?;
        }
        self.reconcile(&table, Departed::Bury)?;
        triggers::drop_all(db, name)?;
        self.track(&table, Stamp::At(version))
    }

    /// Makes the entries of a table fit it. Nothing happens to a table that has none.
    pub(crate) fn reconcile(&self, table: &Table, departed: Departed) -> Result<()> {
        let (db, name) = (self.db(), &table.name);
        let (base, clock, lookaside) = (table::base(name), table::clock(name), table::lookaside(name));
        if !has_same_key(db, table)? {
            // Nothing tells which old key is which new one.
            db.execute_batch(&format!("DROP TABLE IF EXISTS {clock}; DROP TABLE IF EXISTS {lookaside}"))?;
            return Ok(());
        }
        let same_key = sql::join(&table.keys, " AND ", |key| {
            let key = sql::identifier(&key.name);
            format!("t.{key} = p.{key}")
        });
        let gone = format!("NOT EXISTS (SELECT 1 FROM {base} AS t WHERE {same_key})");
        let dead = "col_name = '-1' AND col_version % 2 = 0";

        // Before columns go: a row that was known by them only is still one that peers have.
        if departed == Departed::Bury {
            let deleted = format!(
                "SELECT p.__crsql_key FROM {lookaside} AS p
                 WHERE {gone} AND EXISTS (SELECT 1 FROM {clock} WHERE key = p.__crsql_key)
                       AND NOT EXISTS (SELECT 1 FROM {clock} WHERE key = p.__crsql_key AND {dead})
                 ORDER BY p.__crsql_key"
            );
            for key in keys(db, &deleted)? {
                let stamp = (key, self.next_version(0)?, self.clock.take_seq()?);
                db.prepare_cached(&table.sql.upsert_dead)?.execute(stamp)?;
            }
        }
        let columns = sql::join(&table.columns, ", ", |column| sql::literal(&column.name));
        db.execute_batch(&format!(
            "DELETE FROM {clock} WHERE col_name <> '-1' AND col_name NOT IN ({columns});
             DELETE FROM {clock} WHERE NOT ({dead}) AND key IN (SELECT p.__crsql_key FROM {lookaside} AS p WHERE {gone});
             DELETE FROM {lookaside} WHERE __crsql_key NOT IN (SELECT key FROM {clock});"
        ))?;

        let reborn = format!(
            "SELECT p.__crsql_key FROM {clock} AS c JOIN {lookaside} AS p ON p.__crsql_key = c.key JOIN {base} AS t ON {same_key}
             WHERE c.{dead} ORDER BY p.__crsql_key"
        );
        for key in keys(db, &reborn)? {
            let version = self.next_version(0)?;
            db.prepare_cached(&table.sql.bump_alive)?.execute((key, version, self.clock.take_seq()?))?;
            if !table.is_key_only() {
                let first = self.clock.take_seqs(table.columns.len())?;
                db.prepare_cached(&table.sql.upsert_all_columns)?.execute((key, version, first))?;
            }
        }
        Ok(())
    }

    /// Makes sure that the database's version can't go back when clock entries are removed.
    pub(crate) fn keep_version(&self) -> Result<()> {
        let version = self.current_version()?.max(self.stored_version()?);
        self.db()
            .prepare_cached(
                "INSERT OR REPLACE INTO main.crsql_master (key, value) VALUES ('pre_compact_dbversion', ?1)",
            )?
            .execute([version])?;
        Ok(())
    }

    /// The name under which a table is a CRR, which may differ from `name` by case; `name` itself if it is none.
    pub(crate) fn crr_name(&self, name: &str) -> Result<String> {
        let mut statement = self
            .db()
            .prepare_cached("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE")?;
        let clock: Option<String> =
            statement.query_row([format!("{name}{}", crate::schema::CLOCK_SUFFIX)], |row| row.get(0)).optional()?;
        let spelled = clock.as_deref().and_then(|clock| clock.get(..name.len()));
        Ok(spelled.unwrap_or(name).to_owned())
    }
}

/// Whether the table's lookaside has the columns of its primary key, whatever their order.
fn has_same_key(db: &Connection, table: &Table) -> Result<bool> {
    let mut statement = db.prepare("SELECT name FROM pragma_index_info(?1, 'main')")?;
    let index = format!("{}{}_pks", table.name, crate::schema::LOOKASIDE_SUFFIX);
    let mut tracked = statement.query_map([index], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    let mut keys: Vec<&str> = table.keys.iter().map(|key| key.name.as_str()).collect();
    tracked.sort_unstable();
    keys.sort_unstable();
    Ok(tracked == keys)
}

fn keys(db: &Connection, sql: &str) -> Result<Vec<i64>> {
    Ok(db.prepare(sql)?.query_map(params![], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::{Crr, Error, load};

    fn database(conn: &Connection) -> Crr<'_> {
        let crr = load(conn).unwrap();
        conn.execute_batch(
            "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c);
             SELECT crsql_as_crr('foo');
             INSERT INTO foo VALUES (1, 2, 3);",
        )
        .unwrap();
        crr
    }

    fn definitions(conn: &Connection) -> Vec<Option<String>> {
        let mut statement = conn.prepare("SELECT sql FROM sqlite_schema ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
    }

    #[test]
    fn an_alteration_that_fails_or_panics_leaves_everything_as_it_was() {
        let conn = Connection::open_in_memory().unwrap();
        let crr = database(&conn);
        let before = definitions(&conn);
        let failed = crr.alter("foo", |conn| {
            conn.execute_batch("ALTER TABLE foo ADD COLUMN d; ALTER TABLE foo DROP COLUMN missing")
        });
        assert!(failed.unwrap_err().to_string().contains("missing"));
        assert_eq!(definitions(&conn), before);

        let unsuitable = crr.alter("foo", |conn| Ok(conn.execute_batch("CREATE UNIQUE INDEX u ON foo(b)")?));
        assert!(matches!(unsuitable, Err(Error::Unsuitable { .. })));
        assert_eq!(definitions(&conn), before);

        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            crr.alter("foo", |conn| -> rusqlite::Result<()> {
                conn.execute_batch("DELETE FROM foo")?;
                panic!("a bug of the application's")
            })
        }));
        assert!(panicked.is_err());
        assert!(conn.is_autocommit());
        assert_eq!(definitions(&conn), before);
        conn.execute_batch("UPDATE foo SET b = 9").unwrap();
        assert_eq!(crr.stored_db_version().unwrap(), 2);
    }

    #[test]
    fn the_name_may_be_written_in_another_case() {
        let conn = Connection::open_in_memory().unwrap();
        let crr = database(&conn);
        crr.alter("FOO", |conn| conn.execute_batch("ALTER TABLE foo ADD COLUMN d")).unwrap();
        conn.execute_batch("UPDATE foo SET d = 1; SELECT crsql_begin_alter('Foo')").unwrap();
        conn.execute_batch("ALTER TABLE foo DROP COLUMN d; SELECT crsql_commit_alter('fOO'); UPDATE foo SET b = 1")
            .unwrap();
        assert_eq!(crr.tables().unwrap(), ["foo"]);
        assert_eq!(crr.stored_db_version().unwrap(), 3);
    }
}
