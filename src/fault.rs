//! What an error of SQLite says of a room's file, and of the machine that it is on.

use std::path::Path;

use rusqlite::ffi;

use crate::error::Error;
use crate::room::RoomName;

/// A fault that no changeset, schema or closure is to blame for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Another process holds a lock.
    Locked,
    /// There is no space left.
    Full,
    /// The file can't be opened, or not be written.
    NoAccess,
    /// What is in the file is no sound database.
    Damaged,
    /// It was given up because the layer shuts down.
    Interrupted,
    /// The system failed to read or write, or to give memory.
    System,
}

impl Fault {
    /// What an extended result code says; `None` if whoever asked may be to blame.
    pub(crate) fn of_code(code: i32) -> Option<Self> {
        Some(match (code, code & 0xff) {
            // A virtual table of the application's says this of its own data.
            (ffi::SQLITE_CORRUPT_VTAB, _) => return None,
            // What the system says if it can't extend the file of the shared memory.
            (ffi::SQLITE_IOERR_SHMSIZE, _) | (_, ffi::SQLITE_FULL) => Self::Full,
            (_, ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED) => Self::Locked,
            // On a node that isn't its cluster's primary, LiteFS lets no write through.
            (ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_TRUNCATE | ffi::SQLITE_IOERR_DELETE, _) => Self::NoAccess,
            (_, ffi::SQLITE_READONLY | ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM) => Self::NoAccess,
            (_, ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB) => Self::Damaged,
            (_, ffi::SQLITE_INTERRUPT) => Self::Interrupted,
            (_, ffi::SQLITE_IOERR | ffi::SQLITE_NOMEM) => Self::System,
            _ => return None,
        })
    }

    /// Tells the operator which file it is about, and what to do. `error` is what SQLite or the engine said.
    pub(crate) fn log(self, room: &RoomName, file: &Path, error: &Error) {
        if let Some(advice) = self.advice() {
            tracing::error!(%room, file = %file.display(), %error, "{advice}");
        }
    }

    /// What the operator can do about it; `None` if it passes by itself.
    fn advice(self) -> Option<&'static str> {
        match self {
            Self::Locked | Self::Interrupted => None,
            Self::Full => Some("make space on the disk; the room goes on by itself"),
            Self::NoAccess => Some("let this process write the file and its folder; the room goes on by itself"),
            Self::Damaged => Some(
                "the file is damaged: put a backup in its place, without the files beside it that end in -wal and -shm, \
                 or what `sqlite3 FILE .recover` makes of it; clients bring back what a backup lacks",
            ),
            Self::System => Some("see what the system says of the disk, and of memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_codes_tell_a_full_disk_from_a_failing_one_and_a_damaged_file_from_a_damaged_index_of_the_application() {
        assert_eq!(Fault::of_code(ffi::SQLITE_IOERR_SHMSIZE), Some(Fault::Full));
        assert_eq!(Fault::of_code(ffi::SQLITE_IOERR_READ), Some(Fault::System));
        assert_eq!(Fault::of_code(ffi::SQLITE_IOERR_WRITE), Some(Fault::NoAccess));
        assert_eq!(Fault::of_code(ffi::SQLITE_CORRUPT_INDEX), Some(Fault::Damaged));
        assert_eq!(Fault::of_code(ffi::SQLITE_CORRUPT_VTAB), None);
        assert_eq!(Fault::of_code(ffi::SQLITE_CONSTRAINT_CHECK), None);
    }
}
