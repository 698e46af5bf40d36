//! Loading the engine into a connection: the system tables, then the functions, the module and the hooks.

use std::sync::Arc;

use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use crate::settings::{MERGE_EQUAL_VALUES, merge_equal_values};
use crate::state::{Engine, SharedEngine};
use crate::{Error, Result, SiteId, changes_vtab, clset, functions, hooks, raw, unpack_vtab};

/// The engine version whose files we write, as `MMmmppbb`.
const VERSION: i64 = 160_300;

/// The oldest engine whose files can be opened.
const OLDEST_VERSION: i64 = 150_000;

const TRACKED_PEERS: &str = "
    CREATE TABLE IF NOT EXISTS main.crsql_tracked_peers (
        site_id BLOB NOT NULL,
        version INTEGER NOT NULL,
        seq INTEGER DEFAULT 0,
        tag INTEGER,
        event INTEGER,
        PRIMARY KEY (site_id, tag, event)
    ) STRICT;";

const MASTER: &str = "CREATE TABLE main.crsql_master (key TEXT PRIMARY KEY, value ANY);";

const SITE_IDS: &str = "
    CREATE TABLE main.crsql_site_id (site_id BLOB NOT NULL, ordinal INTEGER PRIMARY KEY);
    CREATE UNIQUE INDEX main.crsql_site_id_site_id ON crsql_site_id (site_id);";

/// The oldest SQLite that has all we use (STRICT tables, `pragma_table_list`), as SQLite numbers its versions.
const OLDEST_SQLITE: i32 = 3_037_000;

/// Loads the engine into a connection without it.
pub(crate) fn load(conn: &Connection) -> Result<SharedEngine> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(Error::OldSqlite { found: rusqlite::version() });
    }
    if !conn.is_autocommit() {
        return if is_set_up(conn)? { attach(conn) } else { Err(Error::InTransaction) };
    }
    // A first look without a write lock: usually, and in read-only files necessarily, there is nothing to do.
    let reading = Transaction::new_unchecked(conn, TransactionBehavior::Deferred)?;
    if is_set_up(&reading)? {
        let engine = attach(&reading)?;
        reading.finish()?;
        return Ok(engine);
    }
    reading.finish()?;
    let writing = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    set_up(&writing)?;
    if !is_current(&writing)? {
        return Err(Error::DamagedFile { reason: "its system tables can't be completed" });
    }
    writing.commit()?;
    attach(conn)
}

/// Gives a connection to a database that is set up its engine.
fn attach(conn: &Connection) -> Result<SharedEngine> {
    let engine = Arc::new(Engine::new(conn)?);
    engine.refresh_schema()?;
    functions::register(conn, &engine)?;
    changes_vtab::register(conn, &engine)?;
    clset::register(conn, &engine)?;
    unpack_vtab::register(conn)?;
    hooks::register(conn, &engine);
    Ok(engine)
}

/// Whether all system tables are there and current.
fn is_set_up(conn: &Connection) -> Result<bool> {
    let tables: i64 = conn.query_row(
        "SELECT count(*) FROM main.sqlite_schema
         WHERE type = 'table' AND name IN ('crsql_tracked_peers', 'crsql_master', 'crsql_site_id')",
        [],
        |row| row.get(0),
    )?;
    Ok(tables == 3 && is_current(conn)?)
}

/// Whether what is in the system tables is complete and current. An error if the file is too old, or something in them can't be used.
fn is_current(conn: &Connection) -> Result<bool> {
    // One statement for all: to prepare one takes longer than what it does.
    let mut statement = conn.prepare(
        "SELECT (SELECT value FROM main.crsql_master WHERE key = 'crsqlite_version'),
                (SELECT value FROM main.crsql_master WHERE key = 'config.' || ?1),
                (SELECT site_id FROM main.crsql_site_id WHERE ordinal = 0)",
    )?;
    let mut rows = statement.query([MERGE_EQUAL_VALUES])?;
    let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    let version = supported_version(row.get_ref(0)?)?;
    merge_equal_values(row.get_ref(1)?)?;
    let site = row.get_ref(2)?;
    if site == ValueRef::Null {
        return Ok(false);
    }
    read_site_id(site)?;
    Ok(version >= VERSION)
}

fn set_up(conn: &Connection) -> Result<()> {
    conn.execute_batch(TRACKED_PEERS)?;
    if !table_exists(conn, "crsql_master")? {
        conn.execute_batch(MASTER)?;
        conn.execute("INSERT INTO main.crsql_master VALUES ('crsqlite_version', ?1)", [VERSION])?;
    } else if checked_version(conn)? < VERSION {
        conn.execute("UPDATE main.crsql_master SET value = ?1 WHERE key = 'crsqlite_version'", [VERSION])?;
    }
    if !table_exists(conn, "crsql_site_id")? {
        conn.execute_batch(SITE_IDS)?;
    }
    if !has_own_site_id(conn)? {
        let id = random_site_id(conn)?;
        conn.execute("INSERT INTO main.crsql_site_id (site_id, ordinal) VALUES (?1, 0)", [id.as_bytes().as_slice()])?;
    }
    Ok(())
}

fn random_site_id(conn: &Connection) -> Result<SiteId> {
    let random = conn.prepare_cached("SELECT randomblob(16)")?.query_row([], |row| row.get(0))?;
    Ok(SiteId::from_random_bytes(random))
}

fn table_exists(conn: &Connection, name: &str) -> Result<bool> {
    Ok(conn.prepare("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1")?.exists([name])?)
}

/// The version of the engine that the file was last written by.
fn checked_version(conn: &Connection) -> Result<i64> {
    let value: Option<Value> = conn
        .query_row("SELECT value FROM main.crsql_master WHERE key = 'crsqlite_version'", [], |row| row.get(0))
        .optional()?;
    supported_version(value.as_ref().map_or(ValueRef::Null, ValueRef::from))
}

fn supported_version(value: ValueRef<'_>) -> Result<i64> {
    let found = if let ValueRef::Integer(version) = value { version } else { 0 };
    if found < OLDEST_VERSION { Err(Error::UnsupportedVersion { found }) } else { Ok(found) }
}

fn has_own_site_id(conn: &Connection) -> Result<bool> {
    Ok(conn.prepare("SELECT 1 FROM main.crsql_site_id WHERE ordinal = 0")?.exists([])?)
}

const NO_SITE_ID: Error = Error::DamagedFile { reason: "it has no site id of its own" };

fn read_site_id(value: ValueRef<'_>) -> Result<SiteId> {
    let id = value.as_blob().ok().and_then(SiteId::from_slice);
    id.ok_or(Error::DamagedFile { reason: "its site id isn't 16 bytes long" })
}

impl Engine {
    /// Makes this database another site than it was.
    pub(crate) fn take_new_site_id(&self) -> Result<SiteId> {
        let id = random_site_id(self.db())?;
        let mut replace = self.db().prepare_cached("UPDATE main.crsql_site_id SET site_id = ?1 WHERE ordinal = 0")?;
        let replaced = replace.execute([id.as_bytes().as_slice()])?;
        if replaced == 0 {
            return Err(NO_SITE_ID);
        }
        // What the id that it had stood for.
        self.authors.changed(raw::content_stamp(self.db())?);
        self.last_row.forget();
        Ok(id)
    }

    /// The id of this database, as the file has it.
    pub(crate) fn site_id(&self) -> Result<SiteId> {
        let mut statement = self.db().prepare_cached("SELECT site_id FROM main.crsql_site_id WHERE ordinal = 0")?;
        let mut rows = statement.query([])?;
        let row = rows.next()?.ok_or(NO_SITE_ID)?;
        read_site_id(row.get_ref(0)?)
    }
}
