//! The files beneath a database, past SQLite's transactions.

use rusqlite::Connection;

use crate::{Result, raw};

/// Makes durable whatever was committed to the main database before, by whichever connection of whichever process.
///
/// A commit of another process may not be: with `synchronous=NORMAL`, SQLite leaves it to the system when a commit in
/// write-ahead mode reaches the disk. This has it written now. It takes no lock, waits for none, and writes nothing itself.
/// (SQLite's own ways do: a checkpoint syncs only as far as there is something to check in, and a commit needs something to
/// write.)
///
/// A database in memory has no files, and needs none.
///
/// # Errors
///
/// If the disk fails.
pub fn sync(conn: &Connection) -> Result<()> {
    // The log first: what is lacking in the database file, it has.
    sync_log(conn)?;
    Ok(raw::sync_database(conn)?)
}

/// Makes durable what the main database's log has, whoever committed it. That is all there is if nothing was written to the
/// database file since that was synced; if that isn't sure, use [`sync`].
///
/// # Errors
///
/// If the disk fails.
pub fn sync_log(conn: &Connection) -> Result<()> {
    Ok(raw::sync_log(conn)?)
}

/// Whether the main database's file is no longer where it was opened: it was renamed or removed, or another one was put in its
/// place. What is written into it, nobody else will find.
///
/// # Errors
///
/// If the system can't tell.
pub fn has_moved(conn: &Connection) -> Result<bool> {
    Ok(raw::has_moved(conn)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let conn = Connection::open(folder.path().join("room")).unwrap();
        (folder, conn)
    }

    #[test]
    fn a_database_can_be_synced_in_each_journal_mode_and_whoever_holds_locks() {
        let (folder, conn) = room();
        let other = Connection::open(folder.path().join("room")).unwrap();
        for mode in ["DELETE", "PERSIST", "WAL"] {
            conn.pragma_update(None, "journal_mode", mode).unwrap();
            conn.execute_batch("CREATE TABLE IF NOT EXISTS t (x); INSERT INTO t VALUES (1)").unwrap();
            sync(&conn).unwrap();
        }
        other.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (2)").unwrap();
        sync(&conn).unwrap();
        conn.execute_batch("BEGIN; SELECT * FROM t").unwrap();
        sync(&conn).unwrap();
        sync(&Connection::open(folder.path().join("new")).unwrap()).unwrap();
    }

    #[test]
    fn a_database_without_a_file_needs_no_sync_and_does_not_move() {
        for name in [":memory:", "", "file:shared?mode=memory&cache=shared"] {
            let conn = Connection::open(name).unwrap();
            conn.execute_batch("CREATE TABLE t (x)").unwrap();
            sync(&conn).unwrap();
            assert!(!has_moved(&conn).unwrap(), "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_was_removed_or_replaced_has_moved() {
        let (folder, conn) = room();
        conn.execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(!has_moved(&conn).unwrap());
        let (file, elsewhere) = (folder.path().join("room"), folder.path().join("elsewhere"));
        std::fs::rename(&file, &elsewhere).unwrap();
        assert!(has_moved(&conn).unwrap());
        std::fs::copy(&elsewhere, &file).unwrap();
        assert!(has_moved(&conn).unwrap());
        std::fs::rename(&elsewhere, &file).unwrap();
        assert!(!has_moved(&conn).unwrap());
    }
}
