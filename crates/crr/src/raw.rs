//! The few things that rusqlite's safe interface doesn't offer.
#![allow(unsafe_code, reason = "a second handle on the connection, and what rusqlite doesn't tell about it")]

use std::ffi::{c_int, c_void};
use std::mem;

use rusqlite::vtab::{Module, TransactionVTab, sqlite3_vtab};
use rusqlite::{Connection, Result, ffi};

/// A second, non-owning `Connection` on the same SQLite handle, for SQL that runs inside callbacks of the first.
///
/// It has a statement cache of its own, which has to be flushed before the handle can be closed.
///
/// # Safety
///
/// The result must not be used after `conn` was closed, nor on another thread than `conn` at the same time.
pub(crate) unsafe fn second_handle(conn: &Connection) -> Result<Connection> {
    // SAFETY: the handle is open, and the caller keeps to the two conditions above, which are those of `from_handle`.
    unsafe { Connection::from_handle(conn.handle()) }
}

/// A number that changes whenever this connection commits a write to the main database, and whenever it first notices a
/// commit of another connection, which is when it next begins to read.
pub(crate) fn content_stamp(conn: &Connection) -> Result<u32> {
    let mut stamp: u32 = 0;
    // SAFETY: the handle is open as long as `conn` is; the schema name is a C string; for this operation SQLite writes one
    // 32-bit number to the pointer and keeps neither.
    let code = unsafe {
        ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_DATA_VERSION,
            (&raw mut stamp).cast::<c_void>(),
        )
    };
    if code == ffi::SQLITE_OK { Ok(stamp) } else { Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)) }
}

/// Whether the main database's file is no longer at its path. A database without a file stays where it is.
pub(crate) fn has_moved(conn: &Connection) -> Result<bool> {
    let mut moved: c_int = 0;
    // SAFETY: the handle is open as long as `conn` is; the schema name is a C string; for this operation a file writes one int
    // to the pointer and doesn't keep it.
    let code = unsafe {
        ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_HAS_MOVED,
            (&raw mut moved).cast::<c_void>(),
        )
    };
    match code {
        ffi::SQLITE_OK => Ok(moved != 0),
        // A file system that doesn't know this operation, such as that of databases in memory.
        ffi::SQLITE_NOTFOUND | ffi::SQLITE_ERROR => Ok(false),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Has the system write the main database's file to the disk.
pub(crate) fn sync_database(conn: &Connection) -> Result<()> {
    sync_file(conn, ffi::SQLITE_FCNTL_FILE_POINTER)
}

/// Has the system write the main database's log to the disk, or its journal if it has no log.
pub(crate) fn sync_log(conn: &Connection) -> Result<()> {
    sync_file(conn, ffi::SQLITE_FCNTL_JOURNAL_POINTER)
}

fn sync_file(conn: &Connection, which: c_int) -> Result<()> {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the handle is open as long as `conn` is; the schema name is a C string; for these two operations SQLite writes one
    // pointer to the pointer, to a file that lives as long as the connection, or null.
    let code =
        unsafe { ffi::sqlite3_file_control(conn.handle(), c"main".as_ptr(), which, (&raw mut file).cast::<c_void>()) };
    if code != ffi::SQLITE_OK || file.is_null() {
        return Ok(());
    }
    // SAFETY: the file is SQLite's, as above. It has no methods if it isn't open.
    let methods = unsafe { (*file).pMethods };
    if methods.is_null() {
        return Ok(());
    }
    // SAFETY: the methods of an open file are a constant table of the file system that opened it.
    let Some(sync) = (unsafe { (*methods).xSync }) else { return Ok(()) };
    // SAFETY: the file is open. Nobody uses it at the same time: only this connection does, and a `Connection` can't be shared
    // between threads.
    let code = unsafe { sync(file, ffi::SQLITE_SYNC_NORMAL) };
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)) }
}

/// Whether this connection is in a transaction that writes to the main database.
///
/// rusqlite offers this with the bindings of its own SQLite only; the function is older than that.
pub(crate) fn is_writing(conn: &Connection) -> bool {
    // SAFETY: the handle is open as long as `conn` is, and the schema name is a C string.
    let state = unsafe { ffi::sqlite3_txn_state(conn.handle(), c"main".as_ptr()) };
    state == ffi::SQLITE_TXN_WRITE
}

/// How many arguments a function may have on this connection.
pub(crate) fn most_function_arguments(conn: &Connection) -> usize {
    // SAFETY: the handle is open as long as `conn` is; a negative number asks for the limit and leaves it as it is.
    let limit = unsafe { ffi::sqlite3_limit(conn.handle(), ffi::SQLITE_LIMIT_FUNCTION_ARG, -1) };
    usize::try_from(limit).unwrap_or(0)
}

/// What SQLite calls when a savepoint is opened or rolled back to, with its number.
type OnSavepoint = unsafe extern "C" fn(*mut sqlite3_vtab, c_int) -> c_int;

/// A module whose tables, once they were written to in a transaction, are told when part of it is rolled back.
pub(crate) const fn with_savepoints<'v, T: TransactionVTab<'v>>(
    module: Module<'v, T>,
    rolled_back_to: OnSavepoint,
) -> Module<'v, T> {
    const { assert!(size_of::<Module<'v, T>>() == size_of::<ffi::sqlite3_module>()) };
    // SAFETY: rusqlite's type is SQLite's with the table's type added: `repr(transparent)`.
    let mut inner: ffi::sqlite3_module = unsafe { mem::transmute_copy(&module) };
    // From this version on, there are callbacks for savepoints. Without the first one SQLite wouldn't call the other.
    inner.iVersion = 2;
    inner.xSavepoint = Some(savepoint_opened);
    inner.xRollbackTo = Some(rolled_back_to);
    // SAFETY: as above.
    unsafe { mem::transmute_copy(&inner) }
}

unsafe extern "C" fn savepoint_opened(_: *mut sqlite3_vtab, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stamp_grows_by_one_with_each_commit_of_ours_and_changes_with_those_of_others() {
        let folder = tempfile::tempdir().unwrap();
        for journal in ["wal", "delete", "truncate", "persist"] {
            let path = folder.path().join(journal);
            let (a, b) = (Connection::open(&path).unwrap(), Connection::open(&path).unwrap());
            a.query_row(&format!("PRAGMA journal_mode={journal}"), [], |_| Ok(())).unwrap();
            a.execute_batch("CREATE TABLE t(x)").unwrap();
            let read = |conn: &Connection| conn.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
            read(&a);
            read(&b);
            let (of_a, of_b) = (content_stamp(&a).unwrap(), content_stamp(&b).unwrap());
            a.execute_batch("INSERT INTO t VALUES (1)").unwrap();
            assert_eq!(content_stamp(&a).unwrap(), of_a + 1, "{journal}");
            read(&a);
            assert_eq!(content_stamp(&a).unwrap(), of_a + 1, "{journal}");
            read(&b);
            assert_ne!(content_stamp(&b).unwrap(), of_b, "{journal}");
            a.execute_batch("BEGIN; INSERT INTO t VALUES (1); ROLLBACK").unwrap();
            read(&a);
            assert_eq!(content_stamp(&a).unwrap(), of_a + 1, "{journal}");
        }
    }
}
