//! Conflict-free replicated relations: a CRDT engine over [`rusqlite`].

mod as_crr;
mod backfill;
mod change;
mod changes_vtab;
mod error;
mod functions;
mod load;
mod local;
mod merge;
mod pack;
mod peers;
mod raw;
mod read;
mod schema;
mod settings;
mod site;
mod sql;
mod state;
mod table;
mod triggers;
mod value;
mod version;

use rusqlite::Connection;

pub use crate::change::{Change, ChangesQuery};
pub use crate::error::{Error, Result};
pub use crate::merge::{Merge, MergeOptions, Merged};
pub use crate::pack::KeyError;
pub use crate::site::{Position, SiteId};
/// The version of rusqlite whose types appear in this interface.
pub use rusqlite;

/// Loads the engine into a connection: its functions, the table `crsql_changes`, its hooks, and the system tables of the
/// file if they are missing. A second load of the same connection does nothing.
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
    /// [`Error::NotLoaded`] if [`load`] was never called for it.
    pub fn of(conn: &'c Connection) -> Result<Crr<'c>> {
        Ok(Crr { conn, engine: functions::engine_of(conn)? })
    }

    /// The id of this database, as the file has it.
    pub fn site_id(&self) -> Result<SiteId> {
        self.engine.site_id()
    }

    /// The version of this database; inside a transaction, the one before it. Remembered between commits, so it counts
    /// versions that were taken by transactions which then wrote no change.
    pub fn db_version(&self) -> Result<i64> {
        self.engine.current_version()
    }

    /// The highest version in storage, what the transaction under way has written included.
    pub fn stored_db_version(&self) -> Result<i64> {
        self.engine.stored_version()
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
}
