//! Copies of a room's database in files of their own, made while it is written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, ffi};

use super::staged::{self, Staged};
use super::{Purpose, Registry, RoomName, blocking};
use crate::error::Error;
use crate::store::Home;

impl Registry {
    /// Copies a room's database, as it is at one moment, into a file at `to`: all of it, or nothing is changed there.
    pub(crate) async fn backup(self: &Arc<Self>, name: &RoomName, to: PathBuf) -> Result<(), Error> {
        let room = self.enter(name, &Purpose::Existing).await?;
        let path = match self.home(name) {
            Home::Memory => None,
            Home::File { path, .. } | Home::Replica { path, .. } => Some(path),
        };
        let (name, timeout) = (name.clone(), self.config().busy_timeout());
        let open = self.open_rooms();
        let open: Vec<PathBuf> = open.iter().filter_map(|room| room.file().map(Path::to_owned)).collect();
        match path {
            // A connection of its own: those of the room are for its clients.
            Some(path) => {
                blocking(move || {
                    let conn = open_to_read(&path, timeout).map_err(|error| Error::sqlite(&name, error))?;
                    back_up(&name, &conn, Some(&path), &to, &open)
                })
                .await
            }
            None => room.read(move |conn| back_up(&name, conn, None, &to, &open)).await?,
        }
    }
}

/// Opens a database in which nothing is to be changed.
pub(super) fn open_to_read(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(busy_timeout)?;
    Ok(conn)
}

/// Backs up the room, which is in `file`, while these rooms' files are `open`.
fn back_up(room: &RoomName, from: &Connection, file: Option<&Path>, to: &Path, open: &[PathBuf]) -> Result<(), Error> {
    let io = |action| move |source| Error::Io { room: room.clone(), action, source };
    let to = &staged::resolved(to);
    // Its log would be taken for that of the backup, and whoever has it open would write into nowhere.
    let in_use = |suffix| staged::beside(to, suffix).exists();
    // Rooms that sleep may have no log.
    let is_open = file.into_iter().chain(open.iter().map(PathBuf::as_path)).any(|file| is_same_file(file, to));
    if is_open || in_use("-wal") || in_use("-journal") {
        let source = io::ErrorKind::AlreadyExists.into();
        return Err(io("a backup can't take the place of a database that is in use")(source));
    }
    let failed = io("the backup can't be written");
    let staged = Staged::beside(to).map_err(&failed)?;
    // SQLite would only say that it can't open the database.
    drop(fs::File::create_new(staged.path()).map_err(&failed)?);
    copy(from, staged.path(), |_| Ok(())).map_err(|error| Error::sqlite(room, error))?;
    let permissions = file.map(fs::metadata).transpose().map_err(&failed)?.map(|metadata| metadata.permissions());
    staged.settle(permissions).map_err(failed)
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Copies a database, page by page, into a new file, which is not synced yet.
pub(super) fn copy(
    from: &Connection,
    to: &Path,
    prepare: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut conn = Connection::open(to)?;
    // What isn't finished is thrown away, so nothing need be undone, and it is synced as a whole.
    conn.query_row("PRAGMA journal_mode = OFF", [], |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "OFF")?;
    prepare(&conn)?;
    // In one step: a writer in between would make it begin again. Writers of a database with a write-ahead log don't wait for it.
    let copied = Backup::new(from, &mut conn)?.step(-1)?;
    if copied != StepResult::Done {
        return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None));
    }
    // One file, which is read without writing beside it. A room that is opened has a write-ahead log again.
    conn.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    conn.close().map_err(|(_, error)| error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_leaves_nothing_half_behind() {
        let folder = tempfile::tempdir().unwrap();
        let from = Connection::open(folder.path().join("from")).unwrap();
        from.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(1000000))")
            .unwrap();
        let place = folder.path().join("backup");
        fs::write(&place, "the one before").unwrap();
        let staged = Staged::beside(&place).unwrap();
        let full = copy(&from, staged.path(), |conn| conn.query_row("PRAGMA max_page_count = 50", [], |_| Ok(())));
        assert_eq!(full.unwrap_err().sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
        drop(staged);
        assert_eq!(fs::read_to_string(&place).unwrap(), "the one before");
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| !name.to_str().unwrap().starts_with('.')), "{names:?}");
    }
}
