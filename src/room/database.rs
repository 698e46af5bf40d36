//! A room's connections: one that writes, and a few that read, from deadpool-sqlite; with their pragmas.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use deadpool_sqlite::{Config, Hook, HookError, InteractError, Object, Pool, PoolError, QueueMode, Runtime};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, InterruptHandle, OpenFlags, OptionalExtension, Transaction};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::file::OpenFile;
use super::stamp::Stamp;
use super::{RoomName, log};
use crate::Durability;
use crate::config::SyncConfig;
use crate::error::Error;

/// Readers of one room: two for one that catches up, and one for whoever else wants something; few enough for many rooms.
const READERS: usize = 3;

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

/// The connection that writes a room. There is one at a time, for as long as the room is open and awake.
#[derive(Debug)]
pub(crate) struct WriteConnection {
    /// Empty once it is closed.
    conn: Arc<Mutex<Option<Connection>>>,
    room: RoomName,
    interrupter: Interrupter,
}

/// How a room's database is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteOptions {
    busy_timeout: Duration,
    durability: Durability,
    /// Not if it is opened only to be closed as it should be.
    can_be_given_up: bool,
}

impl WriteOptions {
    /// As `config` says.
    pub(crate) fn of(config: &SyncConfig) -> Self {
        Self { busy_timeout: config.busy_timeout(), durability: config.durability(), can_be_given_up: true }
    }

    /// The same, for a database that is opened only to be closed as it should be.
    pub(crate) fn to_close(self) -> Self {
        Self { can_be_given_up: false, ..self }
    }
}

/// What is expected to be where a room's database is.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    /// A database, or nothing: then one is created.
    Anything,
    /// A file that was made just now, so that nothing can be wrong with it.
    Ours,
    /// This file, with that stamp if it was closed by us and nobody has written to it since.
    Known(Arc<OpenFile>, Option<Stamp>),
}

/// The log as the last process has left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Log {
    Sound,
    /// The database may be an earlier one than clients knew.
    Damaged,
}

/// Gives up what a room's writer does and has to do, but for closing the database.
#[derive(Clone, Default)]
pub(crate) struct Interrupter {
    /// Of the connection that is open, or was last.
    handle: Arc<Mutex<Option<InterruptHandle>>>,
    given_up: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
}

impl Interrupter {
    /// Gives up. A statement that runs now fails; between two statements this does nothing, so call it again until the
    /// database is closed.
    pub(crate) fn interrupt(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        if !self.closing.load(Ordering::Relaxed)
            && let Some(handle) = &*locked(&self.handle)
        {
            handle.interrupt();
        }
    }

    /// Whether nothing is to be begun any more.
    pub(crate) fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// A connection was opened, which this interrupts from now on.
    fn opened(&self, conn: &Connection) {
        *locked(&self.handle) = Some(conn.get_interrupt_handle());
        self.closing.store(false, Ordering::Relaxed);
    }

    /// The connection is being closed, which must not be interrupted.
    pub(super) fn closing(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Interrupter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupter").field("given_up", &self.given_up).finish_non_exhaustive()
    }
}

impl WriteConnection {
    /// Opens the database, loads the engine, and has `begin` do what comes first. Blocks.
    ///
    /// If `begin` fails, the database is closed before this returns.
    pub(crate) fn open<T>(
        room: &RoomName,
        location: &Location,
        options: WriteOptions,
        expected: &Expected,
        interrupter: Interrupter,
        begin: impl FnOnce(&mut Connection, Log) -> Result<T, Error>,
    ) -> Result<(Self, T), Error> {
        let is_ours = match expected {
            Expected::Anything => false,
            Expected::Ours => true,
            Expected::Known(file, stamp) => {
                file.check()?;
                stamp.is_some() && *stamp == Stamp::of(file.real_path())
            }
        };
        let is_known = matches!(expected, Expected::Known(..));
        let prepared = prepare(location, options, is_known, is_ours);
        let (mut conn, log) = prepared.map_err(|error| unusable(room, error))?;
        if options.can_be_given_up {
            interrupter.opened(&conn);
        }
        match begin(&mut conn, log) {
            Ok(begun) => Ok((Self { conn: Arc::new(Mutex::new(Some(conn))), room: room.clone(), interrupter }, begun)),
            Err(error) => {
                interrupter.closing();
                // What is wrong with the file may be in the way of that, too. A room that slept still ends as it should.
                drop(if is_known { leave(conn) } else { close(conn) });
                Err(error)
            }
        }
    }

    /// What gives up the connection's work.
    pub(crate) fn interrupter(&self) -> &Interrupter {
        &self.interrupter
    }

    /// The room.
    pub(crate) fn room(&self) -> &RoomName {
        &self.room
    }

    /// Runs `job` on a thread that may block. After one that panics, the connection is good for nothing but being closed.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let conn = self.conn.clone();
        on_a_thread(&self.room, move || locked(&conn).as_mut().map(job)).await?.ok_or(Error::GoingAway)
    }

    /// Has `end` bring the connection to its end, as it should be: whoever waits for that must be able to rely on it.
    pub(crate) async fn end<T: Send + 'static>(
        self,
        end: impl FnOnce(Connection, &Interrupter) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (conn, interrupter) = (self.conn.clone(), self.interrupter.clone());
        let ended = on_a_thread(&self.room, move || locked(&conn).take().map(|conn| end(conn, &interrupter)));
        ended.await?.ok_or(Error::GoingAway)
    }
}

impl Drop for WriteConnection {
    fn drop(&mut self) {
        if self.conn.try_lock().is_ok_and(|conn| conn.is_none()) {
            return;
        }
        // A job may be at work with it, and closing blocks. Outside of a runtime nobody minds.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let conn = self.conn.clone();
            drop(runtime.spawn_blocking(move || drop(locked(&conn).take())));
        }
    }
}

/// Opens a database to write it, with the engine, and says how the last process has left its log. `is_known` if there must be a file;
/// `is_ours` if nobody else has written to it, at least since we have.
fn prepare(
    location: &Location,
    options: WriteOptions,
    is_known: bool,
    is_ours: bool,
) -> crr::Result<(Connection, Log)> {
    let create = if is_known { OpenFlags::empty() } else { OpenFlags::SQLITE_OPEN_CREATE };
    let flags = OpenFlags::default() & !OpenFlags::SQLITE_OPEN_CREATE | create;
    let conn = Connection::open_with_flags(location.path(), flags)?;
    // Before anything is written.
    let log = match location.file() {
        Some(file) if !is_ours => Log::of(&conn, file)?,
        _ => Log::Sound,
    };
    conn.busy_timeout(options.busy_timeout)?;
    if !is_ours {
        refuse_foreign(&conn)?;
    }
    // The journal mode answers with a row; a memory database answers that it has its own.
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", options.durability.synchronous())?;
    // Statement journals of the triggers would otherwise go to files.
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    crr::load(&conn)?;
    Ok((conn, log))
}

/// Runs what blocks.
pub(super) async fn on_a_thread<T: Send + 'static>(
    room: &RoomName,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.is_panic() {
        true => Error::Panicked { room: room.clone() },
        false => Error::GoingAway,
    })
}

/// Writes the log back into the database and closes it.
pub(super) fn close(conn: Connection) -> rusqlite::Result<()> {
    let written = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    conn.close().map_err(|(_, error)| error)?;
    written
}

/// Closes the database and leaves the log to whoever opens it next, which is soon done.
pub(super) fn leave(conn: Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.close().map_err(|(_, error)| error)
}

impl Log {
    /// That of the database file, which `conn` has not read yet.
    fn of(conn: &Connection, file: &Path) -> rusqlite::Result<Self> {
        conn.busy_timeout(Duration::ZERO)?;
        if conn.execute_batch("BEGIN IMMEDIATE").is_err() {
            // A process that is at work has been through the log; other errors come again when the file is used.
            return Ok(Self::Sound);
        }
        // Beside what a link leads to.
        let log = log::path_of(conn.path().map_or(file, Path::new));
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
/// NOT EXISTS` is content with it.) A trigger's table has the name that the trigger gives it, capitals and all.
const IMPOSTOR: &str = r"
    WITH systems (name) AS (
        SELECT name FROM sqlite_schema
        WHERE name COLLATE NOCASE IN ('crsql_master', 'crsql_site_id', 'crsql_tracked_peers')
            OR name LIKE 'crsql\_sync\_%' ESCAPE '\' OR name LIKE '%\_\_crsql\_clock' ESCAPE '\' OR name LIKE '%\_\_crsql\_pks' ESCAPE '\'
    )
    SELECT type || ' ' || name FROM sqlite_schema
    WHERE (name IN systems AND (type = 'view' OR rootpage = 0 OR (type = 'index' AND tbl_name COLLATE NOCASE NOT IN systems)))
        OR (type = 'trigger' AND tbl_name COLLATE NOCASE IN systems)
        OR (name = 'crsql_changes' COLLATE NOCASE)
    LIMIT 1";

/// A file of another application must not become a room by the accident of its name, and neither must one that was made up.
pub(super) fn refuse_foreign(conn: &Connection) -> rusqlite::Result<()> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema) AND NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'crsql_master')";
    if conn.query_row(sql, [], |row| row.get(0))? {
        return Err(refused("the file is another application's database, without the tables of cr-sqlite".to_owned()));
    }
    match impostor(conn)? {
        Some(impostor) => Err(refused(format!("the file is not as cr-sqlite makes it: it never makes the {impostor}"))),
        None => Ok(()),
    }
}

/// The same for what a schema has made: nobody could open the room again.
pub(super) fn refuse_impostor(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    match impostor(tx)? {
        Some(impostor) => Err(refused(format!("the {impostor} would be in the way of the engine's own tables"))),
        None => Ok(()),
    }
}

fn impostor(conn: &Connection) -> rusqlite::Result<Option<String>> {
    conn.query_row(IMPOSTOR, [], |row| row.get(0)).optional()
}

fn refused(reason: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR), Some(reason))
}

/// The connections that read a room, opened when needed.
#[derive(Debug, Clone)]
pub(crate) struct ReadConnections {
    room: RoomName,
    location: Location,
    busy_timeout: Duration,
    /// Made when it is first needed: most rooms never do, and deadpool asks the system for the number of processors for each.
    pool: Arc<OnceLock<Pool>>,
    /// One permit for each connection, which a job holds until it has ended.
    idle: Arc<Semaphore>,
}

impl ReadConnections {
    /// Prepares to open up to a few connections.
    pub(crate) fn new(room: &RoomName, location: &Location, busy_timeout: Duration) -> Self {
        let (room, location) = (room.clone(), location.clone());
        Self { room, location, busy_timeout, pool: Arc::default(), idle: Arc::new(Semaphore::new(READERS)) }
    }

    fn pool(&self) -> Result<&Pool, Error> {
        if let Some(pool) = self.pool.get() {
            return Ok(pool);
        }
        let busy_timeout = self.busy_timeout;
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
        let config = match Config::new(self.location.path()).builder(Runtime::Tokio1) {
            Ok(config) => config,
            Err(never) => match never {},
        };
        // The one that was used last has the most pages at hand.
        let pool = config
            .max_size(READERS)
            .queue_mode(QueueMode::Lifo)
            .post_create(hook)
            .build()
            .map_err(|_| Error::GoingAway)?;
        Ok(self.pool.get_or_init(|| pool))
    }

    /// Runs `job` on a thread that may block, inside one read transaction.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.run_once(|| {}, job).await
    }

    /// The same, and does what is to be done once nobody can [rest](Self::rest) the connections before the job has ended.
    pub(crate) async fn run_once<T: Send + 'static>(
        &self,
        begun: impl FnOnce(),
        job: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        // Both the job and the connection are to come to their end.
        let permit = Arc::new(self.idle.clone().acquire_owned().await.map_err(|_| Error::GoingAway)?);
        begun();
        let object = self.pool()?.get().await.map_err(|error| pool_error(&self.room, error))?;
        let permit_of_job = permit.clone();
        let result = object.interact(move |conn| {
            let _permit = permit_of_job;
            let tx = conn.transaction()?;
            let result = job(&tx);
            tx.finish()?;
            Ok(result)
        });
        let result = result.await;
        drop(object);
        drop(permit);
        result.map_err(|error| interact_error(&self.room, &error))?.map_err(|error| Error::sqlite(&self.room, error))
    }

    /// How many there are, or may be, that have nothing to do.
    pub(crate) fn idle(&self) -> usize {
        self.idle.available_permits()
    }

    /// Whether there are any yet.
    pub(crate) fn are_open(&self) -> bool {
        self.pool.get().is_some_and(|pool| pool.status().size > 0)
    }

    /// Closes the connections, and lets no job in before what is returned is dropped. `None` if one of them is at work.
    pub(crate) async fn rest(&self) -> Option<SemaphorePermit<'_>> {
        let all = u32::try_from(READERS).unwrap_or(u32::MAX);
        let resting = self.idle.try_acquire_many(all).ok()?;
        self.close_idle().await;
        Some(resting)
    }

    /// Lets no further job in, and closes the connections once their jobs have ended. One that takes long is not waited for; its
    /// connection is closed when it ends.
    pub(crate) async fn close(&self) {
        let all = u32::try_from(READERS).unwrap_or(u32::MAX);
        let ended = timeout(READS_END, self.idle.acquire_many(all)).await;
        self.idle.close();
        if let Ok(Ok(_all)) = ended {
            self.close_idle().await;
        }
        if let Some(pool) = self.pool.get() {
            pool.close();
        }
    }

    /// Closes those that are open, while no job has one.
    async fn close_idle(&self) {
        let Some(pool) = self.pool.get() else { return };
        while pool.status().available > 0
            && let Ok(object) = pool.get().await
        {
            // As with the writer's, here and now. The pool would do it later, on a thread of its own.
            let closed = object.interact(|conn| Connection::open_in_memory().map(|empty| *conn = empty));
            drop(closed.await);
            drop(Object::take(object));
        }
    }
}

/// What it means that a database can't be prepared.
fn unusable(room: &RoomName, error: crr::Error) -> Error {
    match error {
        crr::Error::Sqlite(source) => Error::sqlite(room, *source),
        error => Error::Unusable { room: room.clone(), reason: error.to_string() },
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
