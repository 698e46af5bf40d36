//! The first commit to a log, with one sync.
//!
//! SQLite syncs the header of a log before anything follows it, and then what was committed: if the frames of an earlier log are still in
//! the file, they must not come to follow a header that reached the disk late. In a file that was made just now there are none. Whatever
//! part of such a log outlives a power loss, its checksums say how far it is whole, and nobody was told of more. So one sync of all of it
//! does: a quarter of those that a new room takes are saved. <https://sqlite.org/fileformat2.html#walformat>
//!
//! What that costs:
//!
//! - Until the sync, other connections see what may yet be lost. Clients are shown nothing that the feed has not come to; what server code
//!   reads from a new room while its first changes come may be a sync ahead of that.
//! - A power loss may leave frames without a header. [`log`](super::super::log) then takes the log for damaged, and the room forks, though
//!   nobody knew of anything in it.
//! - A file system that shows, after a power loss, what other files had where it has written nothing yet (ext4 with `data=writeback`), may
//!   show the log of a room that was removed.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

/// SQLite neither writes the log back after a commit nor syncs. In this order: if only the first is done, no harm is.
const WITHOUT_SYNCS: &str = "PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = OFF";

/// As it is otherwise: the log is written back when it has this many pages, which is SQLite's default.
const WITH_SYNCS: &str = "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 1000";

/// How often this is tried if a connection is interrupted that is given up.
const ATTEMPTS: usize = 10;

/// What became of a transaction.
#[derive(Debug)]
pub(super) struct First<T> {
    /// What it came to.
    pub(super) outcome: crr::Result<T>,
    /// If this is an error, what was committed may not be durable.
    pub(super) synced: crr::Result<()>,
}

/// The connection doesn't sync its commits any more. It must neither commit nor write back its log.
#[derive(Debug)]
pub(super) struct Unsynced(pub(super) crr::Error);

/// Runs a transaction, and has `sync` make durable what it has committed. `None`, and nothing was done, if there is something in the log
/// already.
///
/// `conn` syncs each commit, and its database file is synced as it is. `log` is the path of its log, which is there and was made for
/// it, so that there was no power loss since. If the transaction panics, so does this, unless there is worse to tell.
pub(super) fn commit<T>(
    conn: &mut Connection,
    log: &Path,
    sync: impl FnOnce(&Connection) -> crr::Result<()>,
    transact: impl FnOnce(Transaction<'_>) -> crr::Result<T>,
) -> Result<Option<First<T>>, Unsynced> {
    if !is_empty(log) {
        return Ok(None);
    }
    let run = || -> crr::Result<Option<T>> {
        conn.execute_batch(WITHOUT_SYNCS)?;
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // From here on, nobody else writes to it.
        if is_empty(log) { transact(tx).map(Some) } else { Ok(None) }
    };
    let outcome = catch_unwind(AssertUnwindSafe(run));
    sync_again(conn)?;
    let outcome = match outcome.unwrap_or_else(|panic| resume_unwind(panic)) {
        Ok(None) => return Ok(None),
        Ok(Some(done)) => Ok(done),
        Err(error) => Err(error),
    };
    let synced = if is_empty(log) { Ok(()) } else { sync(conn) };
    Ok(Some(First { outcome, synced }))
}

/// Has each commit synced again.
fn sync_again(conn: &Connection) -> Result<(), Unsynced> {
    let is_interrupted = |error: &rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted);
    let mut restored = conn.execute_batch(WITH_SYNCS);
    for _ in 1..ATTEMPTS {
        if !restored.as_ref().is_err_and(is_interrupted) {
            break;
        }
        restored = conn.execute_batch(WITH_SYNCS);
    }
    restored.map_err(|error| Unsynced(error.into()))
}

/// Whether nothing was ever written to a log.
fn is_empty(log: &Path) -> bool {
    log.metadata().is_ok_and(|metadata| metadata.len() == 0)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// A database whose log is empty.
    fn database() -> (tempfile::TempDir, Connection, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("CREATE TABLE t (x)").unwrap();
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        conn.execute_batch(WITH_SYNCS).unwrap();
        // To see that it is in that mode, SQLite has made the log.
        conn.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
        (folder, conn, path.with_file_name("db-wal"))
    }

    fn insert(tx: Transaction<'_>) -> crr::Result<()> {
        tx.execute("INSERT INTO t VALUES (zeroblob(8000000))", [])?;
        Ok(tx.commit()?)
    }

    fn never(_: &Connection) -> crr::Result<()> {
        unreachable!("nothing was committed")
    }

    fn pragma(conn: &Connection, name: &str) -> i64 {
        conn.pragma_query_value(None, name, |row| row.get(0)).unwrap()
    }

    fn is_as_before(conn: &Connection) -> bool {
        pragma(conn, "synchronous") == 2 && pragma(conn, "wal_autocheckpoint") == 1000
    }

    #[test]
    fn what_is_committed_is_synced_once_and_not_written_back_before() {
        let (_folder, mut conn, log) = database();
        let before = log.with_file_name("db").metadata().unwrap().len();
        let syncs = Cell::new(0);
        let sync = |conn: &Connection| {
            syncs.set(syncs.get() + 1);
            assert!(is_as_before(conn) && log.metadata().unwrap().len() > 8_000_000);
            assert_eq!(log.with_file_name("db").metadata().unwrap().len(), before);
            Ok(())
        };
        let transact = |tx: Transaction<'_>| {
            assert_eq!(pragma(&tx, "synchronous"), 0);
            insert(tx)
        };
        let first = commit(&mut conn, &log, sync, transact).unwrap().unwrap();
        assert!(first.outcome.is_ok() && first.synced.is_ok() && syncs.get() == 1);
    }

    #[test]
    fn that_it_could_not_be_synced_is_said() {
        let (_folder, mut conn, log) = database();
        let sync = |_: &Connection| Err(rusqlite::Error::InvalidQuery.into());
        let first = commit(&mut conn, &log, sync, insert).unwrap().unwrap();
        assert!(first.outcome.is_ok() && first.synced.is_err());
    }

    #[test]
    fn a_log_in_which_there_is_something_is_left_to_sqlite() {
        static IS_WAITING: AtomicBool = AtomicBool::new(false);
        let (_folder, mut conn, log) = database();
        insert(conn.transaction().unwrap()).unwrap();
        assert!(commit(&mut conn, &log, never, insert).unwrap().is_none());

        // Another process comes first.
        let (folder, mut conn, log) = database();
        let mut other = Connection::open(folder.path().join("db")).unwrap();
        let tx = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        tx.execute("INSERT INTO t VALUES (1)", []).unwrap();
        conn.busy_handler(Some(|_| {
            IS_WAITING.store(true, Ordering::Relaxed);
            true
        }))
        .unwrap();
        std::thread::scope(|scope| {
            let committing = scope.spawn(|| commit(&mut conn, &log, never, insert));
            while !IS_WAITING.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            tx.commit().unwrap();
            assert!(committing.join().unwrap().unwrap().is_none());
        });
        assert!(is_as_before(&conn));
    }

    #[test]
    fn each_commit_is_synced_again_also_if_nothing_came_of_the_first() {
        let (_folder, mut conn, log) = database();
        let failing = |_: Transaction<'_>| -> crr::Result<()> { Err(rusqlite::Error::InvalidQuery.into()) };
        let failed = commit(&mut conn, &log, never, failing).unwrap().unwrap();
        assert!(failed.outcome.is_err() && failed.synced.is_ok() && is_as_before(&conn));
        let leaving = |tx: Transaction<'_>| Ok(tx.rollback()?);
        let left = commit(&mut conn, &log, never, leaving).unwrap().unwrap();
        assert!(left.outcome.is_ok() && left.synced.is_ok() && is_as_before(&conn));
        let panicking = |_: Transaction<'_>| -> crr::Result<()> { panic!("a bug") };
        assert!(catch_unwind(AssertUnwindSafe(|| commit(&mut conn, &log, never, panicking))).is_err());
        assert!(is_as_before(&conn));
    }

    #[test]
    fn a_connection_that_does_not_sync_again_is_not_to_be_used() {
        let (_folder, mut conn, log) = database();
        // While a transaction is open, SQLite doesn't change that.
        let staying = |tx: Transaction<'_>| {
            std::mem::forget(tx);
            Ok(())
        };
        assert!(matches!(commit(&mut conn, &log, never, staying), Err(Unsynced(_))));
    }
}
