//! A room's connections: one that writes and a few that read, from deadpool-sqlite, with their pragmas.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_sqlite::{Config, Hook, HookError, InteractError, Object, Pool, PoolError, Runtime};
use rusqlite::{Connection, InterruptHandle, OptionalExtension};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{RoomName, log};
use crate::config::SyncConfig;
use crate::error::Error;

/// Readers of one room: enough to overlap a catch-up with the feed, few enough for many rooms.
const READERS: usize = 2;

/// How long reads that are under way are waited for when a room closes. Those of connections are as short as a frame.
const READS_END: Duration = Duration::from_secs(1);

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

    fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Memory => None,
        }
    }
}

/// The connection that writes a room. There is one, for as long as the room is open.
#[derive(Debug)]
pub(crate) struct WriteConnection {
    object: Object,
    room: RoomName,
    interrupter: Interrupter,
}

/// The log as the last process has left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    Sound,
    /// The database may be an earlier one than clients knew.
    Damaged,
}

/// Gives up what a room's writer does and has to do, but for closing the database.
#[derive(Clone)]
pub(crate) struct Interrupter {
    handle: Arc<InterruptHandle>,
    given_up: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
}

impl Interrupter {
    fn new(handle: InterruptHandle) -> Self {
        Self { handle: Arc::new(handle), given_up: Arc::default(), closing: Arc::default() }
    }

    /// Gives up. A statement that runs now fails; between two statements this does nothing, so call it again until the
    /// database is closed.
    pub(crate) fn interrupt(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        if !self.closing.load(Ordering::Relaxed) {
            self.handle.interrupt();
        }
    }

    /// Whether nothing is to be begun any more.
    pub(crate) fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Interrupter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupter").field("given_up", &self.given_up).finish_non_exhaustive()
    }
}

impl WriteConnection {
    /// Opens the database, creates it if it is missing, loads the engine, and has `begin` do what comes first, all on one thread. Whether
    /// the file `is_ours` says whether it was made just now, so that nothing can be wrong with it.
    ///
    /// If `begin` fails, the database is closed, as it should be, before this returns.
    pub(crate) async fn open<T: Send + 'static>(
        room: &RoomName,
        location: &Location,
        config: &SyncConfig,
        is_ours: bool,
        begin: impl FnOnce(&mut Connection, Log) -> Result<T, Error> + Send + 'static,
    ) -> Result<(Self, T), Error> {
        let object = pool(location, 1, None)?.get().await.map_err(|error| pool_error(room, error))?;
        let (busy_timeout, synchronous) = (config.busy_timeout(), config.durability().synchronous());
        let (name, file) = (room.clone(), location.file().map(Path::to_owned));
        let prepare = move |conn: &Connection| {
            // Before anything is written.
            let log = match &file {
                Some(file) if !is_ours => Log::of(conn, file)?,
                _ => Log::Sound,
            };
            conn.busy_timeout(busy_timeout)?;
            if !is_ours {
                refuse_foreign(conn)?;
            }
            // The journal mode answers with a row; a memory database answers that it has its own.
            conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
            conn.pragma_update(None, "synchronous", synchronous)?;
            // Statement journals of the triggers would otherwise go to files.
            conn.pragma_update(None, "temp_store", "MEMORY")?;
            crr::load(conn)?;
            Ok(log)
        };
        let begun = object.interact(move |conn| {
            let log = prepare(conn).map_err(|error| unusable(&name, error))?;
            let begun = begin(conn, log);
            if begun.is_err() {
                // What is wrong with the file may be in the way of closing it properly, too.
                drop(close(conn));
            }
            begun.map(|begun| (begun, conn.get_interrupt_handle()))
        });
        let (begun, handle) = begun.await.map_err(|error| interact_error(room, &error))??;
        Ok((Self { object, room: room.clone(), interrupter: Interrupter::new(handle) }, begun))
    }

    /// What gives up the connection's work.
    pub(crate) fn interrupter(&self) -> &Interrupter {
        &self.interrupter
    }

    /// The room.
    pub(crate) fn room(&self) -> &RoomName {
        &self.room
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
        let closing = self.interrupter.closing.clone();
        let closed = self.run(move |conn| {
            closing.store(true, Ordering::Relaxed);
            close(conn)
        });
        closed.await?.map_err(|error| Error::sqlite(&room, error))
    }
}

/// Writes the log back and closes the database. The pool would close the connection later, on a thread of its own; whoever waits for the
/// room to be closed must be able to rely on it.
fn close(conn: &mut Connection) -> rusqlite::Result<()> {
    let checkpoint = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    let conn = std::mem::replace(conn, Connection::open_in_memory()?);
    conn.close().map_err(|(_, error)| error)?;
    checkpoint
}

impl Log {
    /// That of the database file, which `conn` has not read yet.
    fn of(conn: &Connection, file: &Path) -> rusqlite::Result<Self> {
        conn.busy_timeout(Duration::ZERO)?;
        if conn.execute_batch("BEGIN IMMEDIATE").is_err() {
            // A process that is at work has been through the log; other errors come again when the file is used.
            return Ok(Self::Sound);
        }
        let log = log::path_of(file);
        let damaged = log::is_damaged(&log);
        conn.execute_batch("ROLLBACK")?;
        match damaged {
            Ok(false) => Ok(Self::Sound),
            Ok(true) => {
                tracing::warn!(
                    log = %log.display(),
                    "the log is damaged: what was written last may be lost; clients are asked for what they have of it"
                );
                Ok(Self::Damaged)
            }
            Err(error) => {
                tracing::warn!(log = %log.display(), %error, "the log can't be read");
                Ok(Self::Damaged)
            }
        }
    }
}

/// Finds what goes by the name of a table of the engine's or of ours and is something else, or has a trigger. (SQLite's `CREATE TABLE IF
/// NOT EXISTS` is content with it.)
const IMPOSTOR: &str = r"
    WITH systems (name) AS (
        SELECT name FROM sqlite_schema WHERE name IN ('crsql_master', 'crsql_site_id', 'crsql_tracked_peers')
            OR name LIKE 'crsql\_sync\_%' ESCAPE '\' OR name LIKE '%\_\_crsql\_clock' ESCAPE '\' OR name LIKE '%\_\_crsql\_pks' ESCAPE '\'
    )
    SELECT type || ' ' || name FROM sqlite_schema
    WHERE (name IN systems AND (type = 'view' OR rootpage = 0 OR (type = 'index' AND tbl_name NOT IN systems)))
        OR (type = 'trigger' AND tbl_name IN systems)
        OR (name = 'crsql_changes')
    LIMIT 1";

/// A file of another application must not become a room by the accident of its name, and neither must one that was made up.
pub(super) fn refuse_foreign(conn: &Connection) -> rusqlite::Result<()> {
    let refuse = |reason| {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR);
        Err(rusqlite::Error::SqliteFailure(code, Some(reason)))
    };
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema) AND NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'crsql_master')";
    if conn.query_row(sql, [], |row| row.get(0))? {
        return refuse("the file is another application's database, without the tables of cr-sqlite".to_owned());
    }
    match conn.query_row(IMPOSTOR, [], |row| row.get::<_, String>(0)).optional()? {
        Some(impostor) => refuse(format!("the file is not as cr-sqlite makes it: it never makes the {impostor}")),
        None => Ok(()),
    }
}

/// The connections that read a room, opened when needed.
#[derive(Debug, Clone)]
pub(crate) struct ReadConnections {
    pool: Pool,
    room: RoomName,
    /// One permit for each connection, which a job holds until it has ended.
    idle: Arc<Semaphore>,
}

impl ReadConnections {
    /// Prepares to open up to a few connections.
    pub(crate) fn new(room: &RoomName, location: &Location, busy_timeout: Duration) -> Result<Self, Error> {
        let hook = Hook::async_fn(move |object, _| {
            Box::pin(async move {
                let prepared = object.interact(move |conn| {
                    conn.busy_timeout(busy_timeout)?;
                    conn.pragma_update(None, "query_only", true)?;
                    crr::load(conn).map(drop)
                });
                match prepared.await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(crr::Error::Sqlite(source))) => Err(HookError::Backend(*source)),
                    Ok(Err(error)) => Err(HookError::message(error.to_string())),
                    Err(error) => Err(HookError::message(error.to_string())),
                }
            })
        });
        let pool = pool(location, READERS, Some(hook))?;
        Ok(Self { pool, room: room.clone(), idle: Arc::new(Semaphore::new(READERS)) })
    }

    /// Runs `job` on a thread that may block, inside one read transaction.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let permit = self.idle.clone().acquire_owned().await.map_err(|_| Error::GoingAway)?;
        let object = self.pool.get().await.map_err(|error| pool_error(&self.room, error))?;
        let result = object.interact(move |conn| {
            let _permit = permit;
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

    /// Whether there are any yet.
    pub(crate) fn are_open(&self) -> bool {
        self.pool.status().size > 0
    }

    /// Lets no further job in, and closes the connections once their jobs have ended. One that takes long is not waited for; its
    /// connection is closed when it ends.
    pub(crate) async fn close(&self) {
        let all = u32::try_from(READERS).unwrap_or(u32::MAX);
        let ended = timeout(READS_END, self.idle.acquire_many(all)).await;
        self.idle.close();
        if let Ok(Ok(_all)) = ended {
            while self.pool.status().available > 0
                && let Ok(object) = self.pool.get().await
            {
                // As with the writer's, here and now.
                let closed = object.interact(|conn| Connection::open_in_memory().map(|empty| *conn = empty));
                drop(closed.await);
                drop(Object::take(object));
            }
        }
        self.pool.close();
    }
}

fn pool(location: &Location, size: usize, hook: Option<Hook>) -> Result<Pool, Error> {
    let builder = match Config::new(location.path()).builder(Runtime::Tokio1) {
        Ok(builder) => builder.max_size(size),
        Err(never) => match never {},
    };
    let builder = match hook {
        Some(hook) => builder.post_create(hook),
        None => builder,
    };
    builder.build().map_err(|_| Error::GoingAway)
}

/// What it means that a database can't be prepared.
fn unusable(room: &RoomName, error: crr::Error) -> Error {
    match error {
        crr::Error::Sqlite(source) => Error::sqlite(room, *source),
        error => Error::Unusable { room: room.clone(), reason: error.to_string().into() },
    }
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
