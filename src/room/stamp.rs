//! What tells whether anybody has written to a database since it was closed.
//!
//! Who writes adds to the log, or begins it anew; it comes into the file when somebody writes it back, and vanishes when the last one
//! closes it. All that shows in lengths, times and numbers of the two files.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, SystemTime};

use filetime::FileTime;

use super::log;

/// More than any file system takes for the same time.
const OVER: Duration = Duration::from_secs(5);

/// What a database's files were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    database: FileStamp,
    /// `None` if there is none.
    log: Option<FileStamp>,
}

impl Stamp {
    /// Stamps a database, so that whatever is written to it from now on shows: file systems count time in milliseconds or seconds,
    /// within which another process may write, but never with the time that the files are given here, which is over. `None` if that
    /// can't be: only the owner of a file says when it was written.
    ///
    /// `file` is no link: the log is beside what a link leads to.
    pub(super) fn put(file: &Path) -> Option<Self> {
        let time = FileTime::from(SystemTime::now().checked_sub(OVER)?);
        filetime::set_file_mtime(file, time).ok()?;
        let log = log::path_of(file);
        match filetime::set_file_mtime(&log, time) {
            Err(error) if error.kind() != ErrorKind::NotFound => None,
            _ => Self::of(file),
        }
    }

    /// The stamp of a database as it is. `None` if it isn't there, or if the system doesn't tell.
    pub(super) fn of(file: &Path) -> Option<Self> {
        let log = match log::path_of(file).metadata() {
            Ok(metadata) => Some(FileStamp::of(&metadata)?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(_) => return None,
        };
        Some(Self { database: FileStamp::of(&file.metadata().ok()?)?, log })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    len: u64,
    modified: SystemTime,
    /// Device and number, where there are such.
    identity: Option<(u64, u64)>,
}

impl FileStamp {
    fn of(metadata: &Metadata) -> Option<Self> {
        Some(Self { len: metadata.len(), modified: metadata.modified().ok()?, identity: identity(metadata) })
    }
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rusqlite::Connection;
    use rusqlite::config::DbConfig;

    use super::*;

    fn open(path: &Path) -> Connection {
        let conn = Connection::open(path).unwrap();
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        conn
    }

    #[test]
    fn whatever_another_process_does_to_a_database_shows_however_soon() {
        for leaves_a_log in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("db");
            let conn = open(&path);
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, leaves_a_log).unwrap();
            conn.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
            conn.close().unwrap();
            let stamp = || {
                let stamp = Stamp::put(&path).unwrap();
                assert_eq!(Stamp::of(&path), Some(stamp.clone()));
                Some(stamp)
            };
            assert_eq!(stamp().unwrap().log.is_some(), leaves_a_log);
            for _ in 0..10 {
                let before = stamp();
                open(&path).execute_batch("UPDATE t SET x = x + 1").unwrap();
                assert_ne!(Stamp::of(&path), before);
            }
            // Who has it open, and begins the log anew.
            let conn = open(&path);
            for _ in 0..10 {
                let before = stamp();
                conn.execute_batch("UPDATE t SET x = x + 1").unwrap();
                assert_ne!(Stamp::of(&path), before);
                conn.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
            }
        }
    }

    #[test]
    fn another_file_shows_and_so_does_none() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("db"), folder.path().join("other"));
        open(&path).execute_batch("CREATE TABLE t (x)").unwrap();
        let stamp = Stamp::put(&path).unwrap();
        fs::copy(&path, &other).unwrap();
        filetime::set_file_mtime(&other, FileTime::from(stamp.database.modified)).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(Stamp::of(&path) == Some(stamp), cfg!(not(unix)));
        fs::remove_file(&path).unwrap();
        assert_eq!([Stamp::of(&path), Stamp::put(&path)], [None, None]);
    }
}
