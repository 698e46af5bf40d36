//! `clset`, a second way to make a CRR: `CREATE VIRTUAL TABLE x_schema USING clset(<definition>)` makes the table `x`.
//!
//! The virtual table itself holds nothing. It stands for the definition; dropping it drops the CRR.
#![allow(unsafe_code, reason = "rusqlite's traits for virtual tables are unsafe to implement")]

use std::borrow::Cow;
use std::ffi::{CStr, c_int};
use std::sync::Arc;

use rusqlite::vtab::{
    Context, CreateVTab, Filters, IndexInfo, Module, VTab, VTabConnection, VTabCursor, VTabKind, sqlite3_vtab,
};
use rusqlite::{Connection, Result, ffi};

use crate::Error;
use crate::backfill::Stamp;
use crate::callback::{guarded, misuse};
use crate::state::{Engine, SharedEngine};
use crate::table;

const DECLARATION: &CStr = c"CREATE TABLE clset (alteration TEXT HIDDEN, schema TEXT HIDDEN)";

/// Ends the name of a virtual table; what comes before is the CRR's.
const SUFFIX: &str = "_schema";

/// Registers the module.
pub(crate) fn register(conn: &Connection, engine: &SharedEngine) -> Result<()> {
    const MODULE: Module<'static, SchemaTable> = Module::read_only_module();
    conn.create_module(c"clset", &MODULE, Some(Arc::clone(engine)))
}

#[repr(C)]
struct SchemaTable {
    /// SQLite's part; has to be the first.
    base: sqlite3_vtab,
    engine: SharedEngine,
    /// The CRR's name.
    name: String,
}

// SAFETY: the struct is `repr(C)` and begins with a `sqlite3_vtab`.
unsafe impl VTab<'_> for SchemaTable {
    type Aux = SharedEngine;
    type Cursor = Unreadable;

    fn connect(
        _: &mut VTabConnection,
        engine: Option<&SharedEngine>,
        _: &[u8],
        database: &[u8],
        table: &[u8],
        _: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self)> {
        guarded(|| {
            let engine = Arc::clone(engine.ok_or(Error::NotLoaded)?);
            if database != b"main" {
                return Err(misuse("a clset table has to be in the main database"));
            }
            let name = std::str::from_utf8(table)?.strip_suffix(SUFFIX).filter(|name| !name.is_empty());
            let name = name.ok_or_else(|| misuse("the name of a clset table has to end in _schema"))?.to_owned();
            Ok((Cow::Borrowed(DECLARATION), SchemaTable { base: sqlite3_vtab::default(), engine, name }))
        })
    }

    fn best_index(&self, _: &mut IndexInfo) -> Result<bool> {
        Err(misuse("a clset table can't be read"))
    }

    fn open(&mut self) -> Result<Unreadable> {
        Err(misuse("a clset table can't be read"))
    }
}

impl CreateVTab<'_> for SchemaTable {
    const KIND: VTabKind = VTabKind::Default;

    fn create(
        db: &mut VTabConnection,
        engine: Option<&SharedEngine>,
        module: &[u8],
        database: &[u8],
        table: &[u8],
        arguments: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self)> {
        let (declaration, table) = Self::connect(db, engine, module, database, table, arguments)?;
        guarded(|| Ok(create_crr(&table.engine, &table.name, arguments)?))?;
        Ok((declaration, table))
    }

    fn destroy(&self) -> Result<()> {
        // Without a message: SQLite doesn't ask for the one of a table that can't be dropped, and nobody would free it.
        guarded(|| Ok(drop_crr(&self.engine, &self.name)?)).map_err(|error| {
            let code = error.sqlite_extended_error_code().unwrap_or(ffi::SQLITE_ERROR);
            rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
        })
    }
}

/// Creates the table and makes it a CRR. No savepoint can be opened inside a statement that writes, and none is needed: if
/// this fails, the statement fails, and SQLite takes back all that it wrote.
fn create_crr(engine: &Engine, name: &str, definition: &[&[u8]]) -> crate::Result<()> {
    let definition: Vec<&str> =
        definition.iter().copied().map(std::str::from_utf8).collect::<Result<_, _>>().map_err(rusqlite::Error::from)?;
    engine.db().execute(&format!("CREATE TABLE {} ({})", table::base(name), definition.join(", ")), [])?;
    let table = engine.suitable_table(name)?;
    engine.track(&table, Stamp::Next)
}

fn drop_crr(engine: &Engine, name: &str) -> crate::Result<()> {
    engine.keep_version()?;
    engine.db().execute_batch(&format!(
        "DROP TABLE {}; DROP TABLE IF EXISTS {}; DROP TABLE IF EXISTS {};",
        table::base(name),
        table::clock(name),
        table::lookaside(name),
    ))?;
    Ok(())
}

/// The cursor of a table that can't be opened.
enum Unreadable {}

// SAFETY: there are no values of this type, so that none of its functions is ever called.
unsafe impl VTabCursor for Unreadable {
    fn filter(&mut self, _: c_int, _: Option<&str>, _: &Filters<'_>) -> Result<()> {
        match *self {}
    }

    fn next(&mut self) -> Result<()> {
        match *self {}
    }

    fn eof(&self) -> bool {
        match *self {}
    }

    fn column(&self, _: &mut Context, _: c_int) -> Result<()> {
        match *self {}
    }

    fn rowid(&self) -> Result<i64> {
        match *self {}
    }
}
