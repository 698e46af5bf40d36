//! Backups of rooms, and rooms from backups.

use std::path::PathBuf;

use crate::error::Error;
use crate::handle::SyncHandle;

impl SyncHandle {
    /// Writes a copy of a room's database, as it is at one moment, into a file, while clients go on.
    ///
    /// The file is a room like any other: [`restore`](Self::restore) takes it, and so does every program that reads SQLite files. It
    /// comes to its place whole, and synced; one that is there already is replaced at once. If the disk is full or the process
    /// dies, what was there stays. (A crash may leave a file behind whose name starts with a dot and ends with `.partial`. After an
    /// hour, the next backup or restore into that folder removes it.)
    ///
    /// Rooms in memory and [copies of rooms](crate::Home::Replica) can be backed up as well. Reading takes as long as the disk takes.
    ///
    /// ```
    /// use tower_sqlite_sync::{SyncConfig, SyncLayer};
    ///
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let folder = tempfile::tempdir()?;
    /// # std::fs::write(folder.path().join("todo.sql"),
    /// #     "CREATE TABLE todo (id INTEGER PRIMARY KEY NOT NULL, title TEXT); SELECT crsql_as_crr('todo');")?;
    /// # let config = SyncConfig::default().with_db_folder(folder.path().join("dbs")).with_schema_folder(folder.path());
    /// # let yesterday = folder.path().join("lobby-yesterday");
    /// let rooms = SyncLayer::new(config).handle();
    /// rooms.create_room("lobby", "todo.sql").await?;
    /// rooms.write("lobby", |tx| tx.execute("INSERT INTO todo (id, title) VALUES (1, 'keep this')", [])).await?;
    /// rooms.backup("lobby", &yesterday).await?;
    ///
    /// rooms.write("lobby", |tx| tx.execute("DELETE FROM todo", [])).await?; // oh no
    /// rooms.restore("lobby", &yesterday).await?;
    /// let rows: i64 = rooms.read("lobby", |conn| conn.query_row("SELECT count(*) FROM todo", [], |row| row.get(0))).await?;
    /// assert_eq!(rows, 1);
    /// # rooms.shutdown().await;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRoom`] or a failure to open the room; [`Error::Io`] if the file can't be written, or if there is a database in
    /// use in its place (with a `-wal` or `-journal` beside it); [`Error::Sqlite`] if the disk is full.
    pub async fn backup(&self, room: &str, path: impl Into<PathBuf>) -> Result<(), Error> {
        let room = self.name(room)?;
        self.hub().rooms().backup(&room, path.into()).await
    }

    /// Puts a copy of a file, such as [`backup`](Self::backup) has written, in the place of a room's database. A room that doesn't
    /// exist comes to be.
    ///
    /// First the file is looked through: it must be an undamaged room, with a schema. Then the room's connections are closed (1001),
    /// and the file takes its place at once: a crash leaves either the old or the new. It does so as another site, as with
    /// [`fork`](Self::fork): clients that have seen more than the file has bring it back, and get what is new in it. So what clients
    /// wrote since the backup is not lost as long as one of them has it; and what a *client* deleted since is deleted again when it
    /// comes. To keep a room as it was then, give the file to a room of another name.
    ///
    /// In folders of LiteFS, files can't be replaced: there, use `litefs import`, and then [`fork`](Self::fork).
    ///
    /// # Errors
    ///
    /// [`Error::UnfitFile`] if the file is no room: then nobody was disturbed. [`Error::NoFile`] if the room lives in memory,
    /// [`Error::NotPrimary`] if another process writes it. [`Error::Sqlite`] (busy) if another process has the room's file open for
    /// longer than [`busy_timeout`](crate::SyncConfig::busy_timeout), [`Error::Io`] if it can't be replaced: then the room is what it
    /// was.
    pub async fn restore(&self, room: &str, path: impl Into<PathBuf>) -> Result<(), Error> {
        let room = self.name(room)?;
        let (rooms, path) = (self.hub().rooms().clone(), path.into());
        // Not to be left half-way, whether or not somebody still waits for it.
        let restoring = tokio::spawn(async move { rooms.restore(&room, path).await });
        restoring.await.unwrap_or(Err(Error::GoingAway))
    }
}
