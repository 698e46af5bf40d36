//! A room's connections: one that writes and a few that read, from deadpool-sqlite, with their pragmas.

use std::path::{Path, PathBuf};
use std::time::Duration;

use deadpool_sqlite::{Config, Hook, HookError, InteractError, Object, Pool, PoolError, Runtime};
use rusqlite::Connection;

use super::RoomName;
use crate::error::Error;

/// Readers of one room: enough to overlap a catch-up with the feed, few enough for many rooms.
const READERS: usize = 2;

/// Where a room's database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    File(PathBuf),
    Memory,
}

impl Location {
    fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Memory => Path::new(":memory:"),
        }
    }
}

/// The connection that writes a room. There is one, for as long as the room is open.
#[derive(Debug)]
pub(crate) struct WriteConnection {
    object: Object,
    room: RoomName,
}

impl WriteConnection {
    /// Opens the database, creates it if it is missing, and loads the engine.
    pub(crate) async fn open(room: &RoomName, location: &Location, busy_timeout: Duration) -> Result<Self, Error> {
        let pool = pool(location, 1, move |conn| {
            conn.busy_timeout(busy_timeout)?;
            refuse_foreign(conn)?;
            // The journal mode answers with a row; a memory database answers that it has its own.
            conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
            // A client is shown nothing that a power loss could take back.
            conn.pragma_update(None, "synchronous", "FULL")?;
            // Statement journals of the triggers would otherwise go to files.
            conn.pragma_update(None, "temp_store", "MEMORY")
        })?;
        let object = pool.get().await.map_err(|error| pool_error(room, error))?;
        Ok(Self { object, room: room.clone() })
    }

    /// Runs `job` on a thread that may block. A job that panics loses the connection.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.object.interact(job).await.map_err(|error| interact_error(&self.room, &error))
    }

    /// Writes the log back into the database file and closes it, here and now.
    pub(crate) async fn close(self) -> Result<(), Error> {
        let room = self.room.clone();
        let closed = self.run(|conn| {
            let checkpoint = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            // The pool would close the connection later, on a thread of its own; whoever waits for the room to be closed must
            // be able to rely on it.
            let conn = std::mem::replace(conn, Connection::open_in_memory()?);
            conn.close().map_err(|(_, error)| error)?;
            checkpoint
        });
        closed.await?.map_err(|error| Error::sqlite(&room, error))
    }
}

/// A file of another application must not become a room by the accident of its name.
pub(super) fn refuse_foreign(conn: &Connection) -> rusqlite::Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema) AND NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'crsql_master')";
    if conn.query_row(sql, [], |row| row.get(0))? {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB),
            Some("the file is another application's database, without the tables of cr-sqlite".to_owned()),
        ));
    }
    Ok(())
}

/// The connections that read a room, opened when needed.
#[derive(Debug, Clone)]
pub(crate) struct ReadConnections {
    pool: Pool,
    room: RoomName,
}

impl ReadConnections {
    /// Prepares to open up to a few connections.
    pub(crate) fn new(room: &RoomName, location: &Location, busy_timeout: Duration) -> Result<Self, Error> {
        let pool = pool(location, READERS, move |conn| {
            conn.busy_timeout(busy_timeout)?;
            conn.pragma_update(None, "query_only", true)
        })?;
        Ok(Self { pool, room: room.clone() })
    }

    /// Runs `job` on a thread that may block, inside one read transaction.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let object = self.pool.get().await.map_err(|error| pool_error(&self.room, error))?;
        let result = object.interact(move |conn| {
            let tx = conn.transaction()?;
            let result = job(&tx);
            tx.finish()?;
            Ok(result)
        });
        result
            .await
            .map_err(|error| interact_error(&self.room, &error))?
            .map_err(|error| Error::sqlite(&self.room, error))
    }

    /// Lets no further job in. Idle connections are closed.
    pub(crate) fn close(&self) {
        self.pool.close();
    }
}

fn pool(
    location: &Location,
    size: usize,
    prepare: impl Fn(&Connection) -> rusqlite::Result<()> + Clone + Send + Sync + 'static,
) -> Result<Pool, Error> {
    let hook = Hook::async_fn(move |object, _| {
        let prepare = prepare.clone();
        Box::pin(async move {
            let prepared = object.interact(move |conn| {
                prepare(conn).map_err(|error| error.to_string())?;
                crr::load(conn).map(drop).map_err(|error| error.to_string())
            });
            match prepared.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(reason)) => Err(HookError::message(reason)),
                Err(error) => Err(HookError::message(error.to_string())),
            }
        })
    });
    let builder = match Config::new(location.path()).builder(Runtime::Tokio1) {
        Ok(builder) => builder,
        Err(never) => match never {},
    };
    builder.max_size(size).post_create(hook).build().map_err(|_| Error::GoingAway)
}

fn pool_error(room: &RoomName, error: PoolError) -> Error {
    match error {
        PoolError::Backend(source) => Error::sqlite(room, source),
        PoolError::Closed => Error::GoingAway,
        PoolError::PostCreateHook(HookError::Message(reason)) => {
            Error::Unusable { room: room.clone(), reason: reason.into() }
        }
        PoolError::PostCreateHook(HookError::Backend(source)) => Error::sqlite(room, source),
        PoolError::Timeout(_) | PoolError::NoRuntimeSpecified => Error::Busy { room: room.clone() },
    }
}

fn interact_error(room: &RoomName, error: &InteractError) -> Error {
    match error {
        InteractError::Panic(_) => Error::Panicked { room: room.clone() },
        InteractError::Cancelled => Error::GoingAway,
    }
}
