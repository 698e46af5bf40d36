//! `crsql_unpack_columns`, the table-valued function that takes packed columns apart.
#![allow(unsafe_code, reason = "rusqlite's traits for virtual tables are unsafe to implement")]

use std::borrow::Cow;
use std::ffi::{CStr, c_int};

use rusqlite::types::{Null, ValueRef};
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConnection, VTabCursor, sqlite3_vtab,
    sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Result, ffi};

use crate::callback::{failure, guarded, misuse};
use crate::pack;
use crate::sql::Bind;
use crate::value::OwnedValue;

const DECLARATION: &CStr = c"CREATE TABLE crsql_unpack_columns (cell ANY, package BLOB HIDDEN)";

const CELL: c_int = 0;
const PACKAGE: c_int = 1;

/// Registers the table.
pub(crate) fn register(conn: &Connection) -> Result<()> {
    const MODULE: Module<'static, UnpackTable> = Module::eponymous_only_module();
    conn.create_module(c"crsql_unpack_columns", &MODULE, None)
}

#[repr(C)]
struct UnpackTable {
    /// SQLite's part; has to be the first.
    base: sqlite3_vtab,
}

// SAFETY: the struct is `repr(C)` and begins with a `sqlite3_vtab`.
unsafe impl VTab<'_> for UnpackTable {
    type Aux = ();
    type Cursor = UnpackCursor;

    fn connect(
        _: &mut VTabConnection,
        _: Option<&()>,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self)> {
        Ok((Cow::Borrowed(DECLARATION), UnpackTable { base: sqlite3_vtab::default() }))
    }

    fn best_index(&self, info: &mut IndexInfo) -> Result<bool> {
        guarded(|| plan(info))
    }

    fn open(&mut self) -> Result<UnpackCursor> {
        Ok(UnpackCursor { base: sqlite3_vtab_cursor::default(), package: Vec::new(), cells: Vec::new(), at: 0 })
    }
}

/// Asks for the package; without it there is nothing to show.
fn plan(info: &mut IndexInfo) -> Result<bool> {
    let mut is_named = false;
    for (constraint, mut usage) in info.constraints_and_usages() {
        if constraint.column() == PACKAGE && constraint.operator() == IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ {
            is_named = true;
            if constraint.is_usable() {
                usage.set_argv_index(1);
                usage.set_omit(true);
                info.set_estimated_cost(1.0);
                return Ok(true);
            }
        }
    }
    // In a join, SQLite tries other orders until the package is known.
    if is_named { Ok(false) } else { Err(misuse("crsql_unpack_columns needs a package")) }
}

#[repr(C)]
struct UnpackCursor {
    /// SQLite's part; has to be the first.
    base: sqlite3_vtab_cursor,
    package: Vec<u8>,
    cells: Vec<OwnedValue>,
    at: usize,
}

// SAFETY: the struct is `repr(C)` and begins with a `sqlite3_vtab_cursor`.
unsafe impl VTabCursor for UnpackCursor {
    fn filter(&mut self, _: c_int, _: Option<&str>, arguments: &Filters<'_>) -> Result<()> {
        guarded(|| {
            (self.at, self.package, self.cells) = (0, Vec::new(), Vec::new());
            match arguments.iter().next() {
                // Nothing equals NULL.
                None | Some(ValueRef::Null) => {}
                Some(ValueRef::Blob(package) | ValueRef::Text(package)) => {
                    self.package = package.to_vec();
                    self.cells = unpack(package)?;
                }
                Some(_) => return Err(failure(ffi::SQLITE_ERROR, "crsql_unpack_columns: the package isn't a blob")),
            }
            Ok(())
        })
    }

    fn next(&mut self) -> Result<()> {
        self.at = self.at.saturating_add(1);
        Ok(())
    }

    fn eof(&self) -> bool {
        self.at >= self.cells.len()
    }

    fn column(&self, context: &mut Context, column: c_int) -> Result<()> {
        guarded(|| match (column, self.cells.get(self.at)) {
            (CELL, Some(cell)) => context.set_result(&Bind(cell.get())),
            (PACKAGE, Some(_)) => context.set_result(&Bind(ValueRef::Blob(&self.package))),
            _ => context.set_result(&Null),
        })
    }

    fn rowid(&self) -> Result<i64> {
        Ok(i64::try_from(self.at).unwrap_or(i64::MAX))
    }
}

fn unpack(package: &[u8]) -> Result<Vec<OwnedValue>> {
    let mut columns = Vec::new();
    pack::unpack(package, &mut columns)
        .map_err(|reason| failure(ffi::SQLITE_ERROR, format!("crsql_unpack_columns: malformed package: {reason}")))?;
    Ok(columns.into_iter().map(OwnedValue::from).collect())
}
