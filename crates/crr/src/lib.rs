//! Conflict-free replicated relations: a CRDT engine over [`rusqlite`].
//!
//! A table becomes a **CRR**, and from then on every write to it is tracked: each cell has a version and an author, each row
//! a causal length that tells its lives and deaths apart. What was written since some version can be read as a list of
//! [`Change`]s, sent to other copies of the database by any means, and merged there. Copies that have merged the same
//! changes, in whatever order and however often, hold the same rows.
//!
//! Files and merge results are those of cr-sqlite 0.16; files of 0.15 and later can be opened.
//!
//! # Examples
//!
//! Two databases, and what one wrote carried to the other:
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use crr::{ChangesQuery, Merge, MergeOptions};
//! use rusqlite::Connection;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let open = || -> crr::Result<Connection> {
//!     let conn = Connection::open_in_memory()?;
//!     let crr = crr::load(&conn)?;
//!     conn.execute_batch("CREATE TABLE todo (id TEXT PRIMARY KEY NOT NULL, title TEXT, done INTEGER DEFAULT 0)")?;
//!     crr.as_crr("todo")?;
//!     Ok(conn)
//! };
//! let (here, mut there) = (open()?, open()?);
//! here.execute("INSERT INTO todo (id, title) VALUES ('a', 'write the docs')", [])?;
//!
//! // Changes borrow from the database while they are handed out. A program that sends them encodes them here.
//! let tx = there.transaction()?;
//! let mut merge = Merge::new(&tx, MergeOptions::default())?;
//! crr::Crr::of(&here)?.read_changes(&ChangesQuery::default(), |change| {
//!     merge.changeset(std::iter::once(change)).expect("these changes are good");
//!     ControlFlow::Continue(())
//! })?;
//! tx.commit()?;
//!
//! let title: String = there.query_row("SELECT title FROM todo WHERE id = 'a'", [], |row| row.get(0))?;
//! assert_eq!(title, "write the docs");
//! # Ok(())
//! # }
//! ```
//!
//! The same in SQL, as the official clients do it, and then a server's merge, which bounds what strangers can do:
//!
//! ```
//! use crr::{Change, Merge, MergeOptions, SiteId};
//! use rusqlite::Connection;
//! use rusqlite::types::ValueRef;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut conn = Connection::open_in_memory()?;
//! crr::load(&conn)?;
//! conn.execute_batch(
//!     "CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b);
//!      SELECT crsql_as_crr('foo');
//!      INSERT INTO foo VALUES (1, 'ours');
//!      INSERT INTO crsql_changes VALUES ('foo', x'010901', 'b', 'theirs', 2, 5, zeroblob(16), 1, 0);",
//! )?;
//! let b: String = conn.query_row("SELECT val FROM crsql_changes WHERE db_version > 4", [], |row| row.get(0))?;
//! assert_eq!(b, "theirs");
//!
//! let greedy = Change {
//!     table: "foo",
//!     pk: &[1, 9, 1],
//!     cid: "b",
//!     val: ValueRef::Text(b"for ever"),
//!     col_version: 1 << 40,
//!     db_version: 6,
//!     site_id: Some(SiteId::from_bytes([7; 16])),
//!     cl: 1,
//!     seq: 0,
//! };
//! let tx = conn.transaction()?;
//! let refused = Merge::new(&tx, MergeOptions::server(1 << 20))?.changeset([greedy].into_iter()).unwrap_err();
//! assert!(refused.is_refused());
//! # Ok(())
//! # }
//! ```
//!
//! # The model
//!
//! Every copy of a database is a **site**, with a random id of 16 bytes. A site counts its transactions that change a CRR:
//! that is its **db_version**. A change carries the db_version that it has in the copy it is read from, and **seq**, its place
//! within that version. So whoever remembers how far it has seen a site's versions asks for what comes after; these
//! positions are kept in the database ([`Crr::position`]).
//!
//! The unit of merging is the cell. Each has a **col_version**, which counts how often it was written. Of two writes of one
//! cell
//!
//! 1. the one in the later life of its row wins. The **causal length** counts a row's births and deaths: 1 alive, 2 deleted,
//!    3 alive again;
//! 2. then the one with the higher col_version: who wrote more often has seen more;
//! 3. then the greater value: by type (integer, real, text, blob, NULL from great to small), and within a type by size or
//!    bytes. The copies need no clock on the wall, and no judge.
//!
//! A delete is a change too, of the row's **sentinel** (`cid` is `-1`); it stays behind as a tombstone. A write to a row that
//! another copy deletes meanwhile is lost with the row; one that inserts the row again begins a new life.
//!
//! What is recorded lies beside the table, in `<table>__crsql_clock` (one entry a cell that was written, and the sentinels)
//! and `<table>__crsql_pks` (the keys, once). Values are not recorded: they are in the table.
//!
//! # A sync loop
//!
//! Each copy pulls from each other one, in any order and as often as it likes:
//!
//! 1. `seen = target.position(source.site_id())`
//! 2. read from the source, in one read transaction, the changes after `seen` whose author isn't the target;
//! 3. merge them into the target, in one write transaction;
//! 4. in the same transaction, set the position to the source's [`stored_db_version`](Crr::stored_db_version).
//!
//! `examples/two_files.rs` in this crate's folder does that with two files, in thirty lines.
//! Over a network, changes are encoded between 2 and 3; the sync server `tower-sqlite-sync` is that, grown up.
//!
//! # Guarantees
//!
//! - Merging is idempotent, commutative and associative: order, repetition and detours don't matter.
//! - A merge that fails leaves no trace but in its own transaction, and a changeset that is refused has moved no clock.
//! - A db_version is used once, whatever is rolled back, however many connections and processes write, and whoever takes the
//!   connection's hooks.
//! - A peer's numbers, names and keys are checked before they are believed; none makes this crate panic.
//!
//! # Limits
//!
//! - Every connection that writes to a CRR must have the engine loaded. Without it, the write fails.
//! - Only the main database of a connection is tracked. Don't write to CRRs of an ATTACHed one: their triggers would record the
//!   writes in the main database, if it has a CRR of the same name, and fail otherwise. Reading them is fine.
//! - UNIQUE and foreign keys hold for one copy; merged rows of several may break them. So CRRs can't have foreign keys, nor
//!   UNIQUE indexes besides their key. Keys can't be NULL, and should be random ids, not counters.
//! - All changes of one db_version have to be merged in one transaction, or a reader may see half of somebody's.
//! - Tombstones stay for good.
//! - Reading holds 65,536 entries at most, about 72 bytes each. A db_version with more is sorted in a temporary file of SQLite's,
//!   which takes twice as long.
//! - Copies must have the same schema, or agree on which changes they exchange: one that names an unknown table or column
//!   is refused.
//!
//! # Architecture
//!
//! ```text
//!  application's SQL ──▶ table ──triggers──▶ local ──────────────┐
//!                                                                ▼
//!  INSERT INTO crsql_changes ─▶ changes_vtab ─▶ merge ──▶ table, clock table, lookaside
//!  Merge::changeset ────────────────────────────▲                │
//!                                                                ▼
//!  SELECT … FROM crsql_changes ◀─ changes_vtab ◀────────────── read
//!  Crr::read_changes ◀─────────────────────────────────────────┘
//! ```
//!
//! | module | one job |
//! |---|---|
//! | `load`, `functions`, `hooks`, `changes_vtab` | what a connection gets: system tables, SQL functions, hooks, `crsql_changes` |
//! | `statements` | prepared statements at hand |
//! | `state` | what lives beside the database; how callbacks reach it |
//! | `version` | `db_version` and `seq`, which no transaction shares with another |
//! | `newest` | in which CRRs a reader has to look for what is new |
//! | `schema`, `table` | which tables are CRRs, and the SQL that works on each |
//! | `as_crr`, `triggers`, `backfill` | making a table a CRR |
//! | `alter` | changing the definition of a CRR |
//! | `migrate` | bringing a database to a schema |
//! | `clset` | a virtual table that makes a CRR |
//! | `fractional` | lists in an order of the application's choice |
//! | `local` | tracking local writes |
//! | `read`, `spill` | changes in the order of versions; versions too large to be held |
//! | `merge` | changes of others: checked, decided a row at a time, written |
//! | `digest` | whether two copies hold the same |
//! | `value`, `pack`, `unpack_vtab` | the order of values, columns' affinity, packed keys |
//! | `peers`, `settings` | what is kept about other sites, and settings |
//!
//! State that could go stale (which tables are CRRs, the versions in them) is checked against the database before each use;
//! everything else is read when it is needed. So other connections, other processes and rollbacks need no care.
//!
//! # Differences from cr-sqlite
//!
//! Files and changes are those of cr-sqlite 0.16.3, and both engines may work on one file. What follows is different on
//! purpose. None of it shows in the file format, and peers with either engine exchange changes.
//!
//! Rows and keys:
//!
//! - A row whose primary key changes arrives at peers with all its columns, also if they had the row before, and if it
//!   overwrote another one.
//! - A change with an even causal length deletes the row, whatever else it says, and stores that causal length.
//! - Keys that are malformed, have too few or too many columns, or hold a NULL are refused; in cr-sqlite some of them end the
//!   process.
//! - Keys get the affinity of their columns before they are looked up. A key column with a collation that takes different
//!   texts for the same can't become part of a CRR; tables that are CRRs already go on.
//! - Tables and columns may have any name that SQLite takes, but for a column named `-1`.
//! - Tables that only look like the engine's (`notes12crsql_clock`) are the application's.
//!
//! Numbers:
//!
//! - A value is compared as its column would store it, so that ties between `5` and `5.0` come out alike everywhere.
//! - Incoming versions, causal lengths and seqs have bounds (0 to 2^52); nobody can exhaust a clock with one change.
//! - Changes without effect write nothing at all.
//! - `crsql_rows_impacted()` starts again after a rollback, too.
//!
//! Tables come and go:
//!
//! - The version of a database never goes back, also if CRRs are dropped or made tables again, and a dropped CRR keeps
//!   nobody from reading the others. One that is created anew doesn't take over the entries of the old one.
//! - CRRs made inside a transaction, or by other connections, are known at once.
//! - There may be more than 500 CRRs.
//! - Rows deleted while a table is altered are deleted at peers; rows that come back there come back. Rows filled in while
//!   the database is at version 0 are recorded at version 1: peers never ask for version 0.
//!
//! Failures:
//!
//! - What fails undoes its own work only; a transaction of the caller's stays open. This holds for `crsql_as_crr`,
//!   `crsql_as_table`, `crsql_begin_alter`, `crsql_commit_alter`, `crsql_fract_as_ordered` and `crsql_automigrate`.
//! - A merge that a CHECK constraint refuses is an error and leaves no entry for a row that isn't there.
//! - `crsql_automigrate` says what is wrong. It drops indexes before the columns they are on, compares whole indexes, views
//!   and triggers, keeps all of a new column's definition, and refuses what would lose data: another primary key, or a name
//!   in another case. A table created and tracked on one line of the schema stays.
//! - `crsql_fract_key_between` of equal or empty keys, `crsql_as_crr(NULL)` and the like are errors, not crashes. Composite
//!   keys can be ordered.
//! - [`load()`] inside a transaction that might be rolled back is refused if there is something to set up.
//!
//! Reading:
//!
//! - `crsql_changes` honours any ORDER BY.
//! - After `crsql_finalize()` the connection can still be used.

mod alter;
mod as_crr;
mod backfill;
mod callback;
mod change;
mod changes_vtab;
mod clset;
mod definitions;
mod digest;
mod error;
pub mod file;
mod fractional;
mod functions;
mod hooks;
mod load;
mod local;
mod merge;
mod migrate;
mod newest;
mod pack;
mod peers;
mod raw;
mod read;
mod schema;
mod settings;
mod site;
mod spill;
mod sql;
mod state;
mod statements;
mod table;
mod triggers;
mod unpack_vtab;
mod value;
mod version;

use rusqlite::Connection;

pub use crate::change::{Change, ChangesQuery};
pub use crate::digest::Digest;
pub use crate::error::{Error, Result};
pub use crate::fractional::key_between;
pub use crate::merge::{Merge, MergeOptions, Merged, Winners};
pub use crate::migrate::{MigrationNote, MigrationPlan, MigrationStep};
pub use crate::pack::KeyError;
pub use crate::site::{Position, SiteId};
/// The version of rusqlite whose types appear in this interface.
pub use rusqlite;

/// Loads the engine into a connection: its functions, the table `crsql_changes`, its hooks, and the system tables of the
/// file if they are missing. A second load of the same connection does nothing.
///
/// The engine takes the connection's commit hook and rollback hook; hooks set before are lost. If the application sets its
/// own afterwards, versions are still never used twice, but they may skip some, and `seq` no longer starts at 0.
///
/// # Errors
///
/// If the file was made by an engine that is too old or its system tables are damaged; if tables have to be created and
/// can't be, because the file is read-only or because a transaction is open that could take them back.
pub fn load(conn: &Connection) -> Result<Crr<'_>> {
    match Crr::of(conn) {
        Err(Error::NotLoaded) => Ok(Crr { conn, engine: load::load(conn)? }),
        known => known,
    }
}

/// The engine of one connection. Cheap to get: ask [`Crr::of`] whenever it is needed.
#[derive(Debug)]
pub struct Crr<'c> {
    conn: &'c Connection,
    engine: state::SharedEngine,
}

impl<'c> Crr<'c> {
    /// The engine that was loaded into `conn`.
    ///
    /// # Errors
    ///
    /// [`Error::NotLoaded`] if [`load`](crate::load()) was never called for it.
    pub fn of(conn: &'c Connection) -> Result<Crr<'c>> {
        Ok(Crr { conn, engine: functions::engine_of(conn)? })
    }

    /// Begins a merge inside the transaction that is open, as [`Merge::new`] does.
    ///
    /// # Errors
    ///
    /// If no transaction is open.
    pub fn merge(&self, options: MergeOptions) -> Result<Merge<'c>> {
        Merge::with(self.conn, self.engine.clone(), options)
    }

    /// Has `write` write into tables of the caller's that have nothing to do with CRRs. The engine need not ask all of them what is new
    /// afterwards, as it does when it sees that somebody else has written.
    ///
    /// What `write` does to CRRs is tracked as ever. It must not write to the engine's own tables by hand.
    pub fn aside<T>(&self, write: impl FnOnce(&Connection) -> T) -> T {
        let _writes = self.engine.own_writes();
        write(self.conn)
    }

    /// The id of this database, as the file has it.
    pub fn site_id(&self) -> Result<SiteId> {
        self.engine.site_id()
    }

    /// Lets go of the memory that the connection needs to be fast: prepared statements, and pages in its cache. They come back when
    /// they are needed. For connections that stay open with nothing to do.
    ///
    /// # Errors
    ///
    /// If SQLite fails.
    pub fn rest(&self) -> Result<()> {
        self.engine.let_go_of_statements();
        Ok(self.engine.db().execute_batch("PRAGMA shrink_memory")?)
    }

    /// Makes this database a new site, with a random id, which is returned. Its rows and versions stay; what it wrote itself
    /// counts as the new site's.
    ///
    /// A copy of a database has the id of the original, and its file is that of an earlier moment. If both are written to, both
    /// use the same versions for different changes, and peers that have seen the one's skip the other's. So a copy that is to
    /// be written to, or a backup that takes the place of the original, takes a new id first.
    ///
    /// Inside a transaction, the id is the new one once it is committed.
    ///
    /// # Errors
    ///
    /// If SQLite can't write.
    pub fn take_new_site_id(&self) -> Result<SiteId> {
        self.engine.take_new_site_id()
    }

    /// The version of this database; inside a transaction, the one before it. Counts a version that was taken by a
    /// transaction which then wrote no change, until the next commit: to follow changes, go by
    /// [`stored_db_version`](Self::stored_db_version).
    pub fn db_version(&self) -> Result<i64> {
        self.engine.current_version()
    }

    /// The highest version in storage, what the transaction under way has written included.
    pub fn stored_db_version(&self) -> Result<i64> {
        self.engine.stored_version()
    }

    /// Raises the version to at least `to`, without a change: what is written next has a higher one.
    ///
    /// For a database of which peers may have seen versions that it doesn't have, because it wasn't synced before the power failed.
    /// Peers that follow by [`stored_db_version`](Self::stored_db_version) see nothing between.
    ///
    /// # Errors
    ///
    /// [`Error::ClockExhausted`] above 2^53, and if SQLite can't write.
    pub fn raise_db_version(&self, to: i64) -> Result<()> {
        self.engine.raise_stored_version(to)
    }

    /// The names of the CRRs.
    pub fn tables(&self) -> Result<Vec<String>> {
        let tables = self.engine.schema()?.tables(self.engine.db())?;
        Ok(tables.iter().map(|table| table.name.clone()).collect())
    }

    /// Makes a table a CRR, under the name by which the database knows it. Does nothing if it is one already.
    ///
    /// # Errors
    ///
    /// [`Error::Unsuitable`], with the reason, if the table can't be one. Nothing is changed then, and a transaction of the
    /// caller's stays open.
    pub fn as_crr(&self, table: &str) -> Result<()> {
        self.engine.as_crr(&self.engine.stored_name(table)?)
    }

    /// Makes a CRR an ordinary table again. Its rows stay, its history is lost; the version of the database stays as well,
    /// so that peers don't skip what is written later. Does nothing to a table that is no CRR.
    pub fn as_table(&self, table: &str) -> Result<()> {
        self.engine.as_table(&self.engine.stored_name(table)?)
    }

    /// Changes the definition of a CRR: runs `change`, which may alter the table in any way, rebuild it included, and makes
    /// its clock entries fit afterwards. All of it happens or nothing, and a transaction of the caller's stays open.
    ///
    /// Writes to the table inside `change` are not tracked as ordinary writes are. Rows deleted there are deleted at the
    /// peers too, and rows inserted under a key that was deleted come back there too. But new rows and new columns are
    /// recorded at the current version of the database, because peers are expected to run the same migration: those that
    /// have seen this version don't get them. And new values in old columns are not recorded at all. So change the
    /// definition inside, and the data after. If the columns of the primary key change, all history and all tombstones are
    /// lost.
    ///
    /// # Errors
    ///
    /// What `change` fails with; [`Error::Unsuitable`] if the table that it leaves behind can't be a CRR.
    pub fn alter<T, E: From<Error>>(
        &self,
        table: &str,
        change: impl FnOnce(&Connection) -> Result<T, E>,
    ) -> Result<T, E> {
        alter::alter(&self.engine, self.conn, &self.engine.crr_name(&self.engine.stored_name(table)?)?, change)
    }

    /// Compares the database with the one that `schema` describes, and plans the way there. Changes nothing.
    ///
    /// The schema is a text of SQL statements which is run in an empty database that knows the engine's functions. It has to
    /// say IF NOT EXISTS wherever it creates something, because a migration runs it over what is there already.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSchema`] if the text can't be run. Differences that no migration can change are no error here, but
    /// part of the plan.
    pub fn plan_migration(&self, schema: &str) -> Result<MigrationPlan> {
        migrate::plan(&self.engine, schema, None)
    }

    /// Carries out a plan: all of it or nothing. A transaction of the caller's stays open in either case, so that more can
    /// be written together with a migration, such as the version of the schema.
    ///
    /// # Errors
    ///
    /// [`Error::MigrationRefused`] if the plan has refusals, [`Error::OutdatedPlan`] if something was created or altered
    /// since it was made, [`Error::MigrationFailed`] if SQLite fails at one of its steps.
    pub fn migrate(&self, plan: &MigrationPlan) -> Result<()> {
        self.engine.migrate(plan)
    }
}
