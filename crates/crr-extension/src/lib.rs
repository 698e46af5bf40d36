//! The [`crr`] engine as a loadable SQLite extension. The README says how to build and load it.
//!
//! Everything happens in [`crr::load`]; here are the functions by which SQLite finds it.

use std::ffi::{c_char, c_int};
use std::panic::catch_unwind;

use rusqlite::{Connection, Error, Result, ffi};

/// The entry point of a file named `libcrr.so`, or as this platform names it.
///
/// # Safety
///
/// For SQLite to call, with the arguments of an
/// [extension's entry point](https://sqlite.org/loadext.html#programming_loadable_extensions).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_crr_init(
    db: *mut ffi::sqlite3,
    message: *mut *mut c_char,
    api: *mut ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: the arguments are SQLite's, and the connection is used only as long as this runs: what `crr` keeps of it lives in
    // functions and modules, which SQLite drops before it frees the connection.
    catch_unwind(|| unsafe { Connection::extension_init2(db, message, api, load) }).unwrap_or(ffi::SQLITE_INTERNAL)
}

/// The entry point of a copy named `crsqlite.so`, for programs that load cr-sqlite under that name.
///
/// # Safety
///
/// As for [`sqlite3_crr_init`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sqlite3_crsqlite_init(
    db: *mut ffi::sqlite3,
    message: *mut *mut c_char,
    api: *mut ffi::sqlite3_api_routines,
) -> c_int {
    // SAFETY: the arguments are passed on as they came.
    unsafe { sqlite3_crr_init(db, message, api) }
}

/// Loads the engine, unless it is loaded. True asks SQLite to keep this library: functions and hooks point into it.
fn load(conn: Connection) -> Result<bool> {
    match crr::load(&conn) {
        // Another copy of this library will do as well.
        Ok(_) | Err(crr::Error::LoadedElsewhere) => Ok(true),
        Err(error) => {
            // Always with a message; SQLite shows the host nothing else.
            let message = error.to_string();
            let code = match Error::from(error) {
                Error::SqliteFailure(failure, _) => failure.extended_code,
                _ => ffi::SQLITE_ERROR,
            };
            Err(Error::SqliteFailure(ffi::Error::new(code), Some(message)))
        }
    }
}
