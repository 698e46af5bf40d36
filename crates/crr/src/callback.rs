//! What the callbacks of all our virtual tables need.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::{Error, Result, ffi};

/// Keeps a panic from unwinding into C.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Error::UnwindingPanic))
}

/// An error of a program that uses a virtual table as it can't be used.
pub(crate) fn misuse(message: &str) -> Error {
    failure(ffi::SQLITE_MISUSE, message)
}

/// An error with a code of SQLite's.
pub(crate) fn failure(code: std::ffi::c_int, message: impl Into<String>) -> Error {
    Error::SqliteFailure(ffi::Error::new(code), Some(message.into()))
}
