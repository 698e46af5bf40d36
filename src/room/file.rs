//! The file that a room's database is in, told from another one that takes its place while the room is open.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::Connection;

use super::RoomName;
use crate::error::Error;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct OpenFile {
    room: RoomName,
    path: PathBuf,
    real_path: PathBuf,
    identity: Identity,
}

impl OpenFile {
    /// The file at `path`, which `conn` has open.
    pub(super) fn of(room: &RoomName, path: &Path, conn: &Connection) -> Result<Self, Error> {
        let replaced = || Error::FileReplaced { room: room.clone() };
        let identity = Identity::of(path).map_err(|_| replaced())?;
        let real_path = match conn.path() {
            Some(real_path) => real_path.into(),
            None => path.canonicalize().map_err(|_| replaced())?,
        };
        let file = Self { room: room.clone(), path: path.to_owned(), real_path, identity };
        file.check_reader(conn)?;
        Ok(file)
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The same as SQLite has found it, which follows links where the system has them: beside it is the log.
    pub(super) fn real_path(&self) -> &Path {
        &self.real_path
    }

    /// Whether the file is still at its path: what is written into it otherwise, nobody would find. Blocks on the file system.
    pub(super) fn check(&self) -> Result<(), Error> {
        match Identity::of(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            _ => Err(Error::FileReplaced { room: self.room.clone() }),
        }
    }

    /// The same, and whether `conn` has that file open, and not another one that was there meanwhile.
    pub(super) fn check_reader(&self, conn: &Connection) -> Result<(), Error> {
        self.check()?;
        match crr::file::has_moved(conn) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Error::FileReplaced { room: self.room.clone() }),
            Err(error) => Err(Error::engine(&self.room, error)),
        }
    }
}

/// What tells a file from another one at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    /// Where the file system knows: numbers of files are used again.
    created: Option<SystemTime>,
}

impl Identity {
    #[cfg(unix)]
    fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = path.metadata()?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), created: metadata.created().ok() })
    }

    /// Elsewhere, an open file can't be replaced.
    #[cfg(not(unix))]
    fn of(path: &Path) -> std::io::Result<Self> {
        path.metadata().map(|_| Self { device: 0, inode: 0, created: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn whoever_opened_another_file_at_the_same_path_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("room"), folder.path().join("aside"));
        let room = RoomName::parse("room").unwrap();
        let open = || {
            let conn = Connection::open(&path).unwrap();
            conn.execute_batch("CREATE TABLE t (x)").unwrap();
            conn
        };
        let first = open();
        let file = OpenFile::of(&room, &path, &first).unwrap();
        std::fs::rename(&path, &aside).unwrap();
        assert!(file.check().is_err());
        let second = open();
        assert!(file.check().is_err());
        assert!(OpenFile::of(&room, &path, &first).is_err());
        // The first one is back, which the second connection can't know.
        std::fs::rename(&aside, &path).unwrap();
        file.check_reader(&first).unwrap();
        assert!(file.check_reader(&second).is_err());
    }
}
