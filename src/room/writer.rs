//! The one writer of a room: it takes what is queued, commits it together, shows it to the feed, and answers.
//!
//! N clients cost one synced commit, not N. The writer, and not a connection, decides whether a changeset continues what the room
//! has from its sender: the position is read inside the transaction that moves it. So nothing that follows a changeset that
//! failed can move the position over it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower_sqlite_sync_wire as wire;

use super::commit::{Commit, Verdict, WriteJob};
use super::database::WriteConnection;
use super::schema::ResidentSchema;
use super::{Ending, Parts, RoomName, Surroundings};
use crate::config::SyncConfig;
use crate::error::Error;
use crate::primary::Rights;

/// Bytes of changesets that one transaction takes before what is left waits for the next: a bound on how long a small write waits
/// behind large ones.
const BATCH_BYTES: usize = 8 << 20;

/// Bytes of changesets that each room may have queued however much the others have, so that a busy room doesn't keep a quiet one
/// waiting.
const OWN_BYTES: usize = 1 << 20;

/// How long a writer without work keeps at hand what it had for the last: statements are prepared again in less than a millisecond,
/// and take some hundred kilobytes. A thousand rooms that begin within seconds would otherwise all have theirs.
const RESTLESS: Duration = Duration::from_millis(500);

/// The most bytes that a queue can count.
const MAX_WEIGHT: usize = u32::MAX as usize >> 3;

/// Changes of one client, on their way into the database.
#[derive(Debug)]
pub(crate) struct Changeset {
    pub(crate) sender: wire::SiteId,
    pub(crate) since: wire::Position,
    pub(crate) changes: wire::ChangeList,
    /// The version of the schema that the client has.
    pub(crate) schema_version: i64,
    /// What the client may have applied.
    pub(crate) rights: Arc<Rights>,
    /// A guard objects: the client's copy is to return to what the room has.
    pub(crate) is_refused: bool,
    /// Where the outcome goes, in the order in which changesets were queued.
    pub(crate) reply: mpsc::UnboundedSender<Outcome>,
}

impl Changeset {
    /// Whether it is to be reverted, or would be refused if it had an effect throughout.
    pub(super) fn is_in_question(&self) -> bool {
        let goes_beyond = || self.changes.iter().any(|change| !self.rights.may_write(change.table));
        self.is_refused || self.rights.tables.is_some() && goes_beyond()
    }
}

/// What became of a changeset.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is durable, position included.
    Applied(Applied),
    /// It starts behind what the room has from its sender, which is this; nothing was applied.
    Gap(wire::Position),
    /// It was not applied and won't be.
    Failed(Error),
}

/// A changeset that was merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The `since` of the changeset.
    pub(crate) since: wire::Position,
    /// What the room now has from the sender.
    pub(crate) position: wire::Position,
    /// It created rows without all of their columns: the sender's engine changed a primary key and thinks that we know the rest.
    pub(crate) partial_rows: bool,
    /// How many of its changes are now in the database.
    pub(crate) changes: u64,
    /// The room's db_version with them.
    pub(crate) db_version: i64,
}

/// Work for the writer, in the order in which it came.
pub(super) enum Job {
    Changeset(Queued),
    /// A transaction of the application.
    Write(WriteJob, oneshot::Sender<Result<(), Error>>),
    /// A read; memory rooms have no other connection to read from.
    Read(Box<dyn FnOnce(&mut Connection) + Send>),
    /// Look for what other processes have written; answers whether none of them is about to commit.
    Look(oneshot::Sender<Result<bool, Error>>),
    Migrate(ResidentSchema, oneshot::Sender<Result<(), Error>>),
    /// Forget how far the room has this site's changes.
    Forget(wire::SiteId, oneshot::Sender<Result<(), Error>>),
    Close(oneshot::Sender<Result<(), Error>>),
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Changeset(_) => "Changeset",
            Self::Write(..) => "Write",
            Self::Read(_) => "Read",
            Self::Look(_) => "Look",
            Self::Migrate(..) => "Migrate",
            Self::Forget(..) => "Forget",
            Self::Close(_) => "Close",
        })
    }
}

/// A changeset with the place that it takes in the queue, which it gives back when it is done.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) changeset: Changeset,
    pub(super) since: Instant,
    _place: OwnedSemaphorePermit,
    _place_in_all: OwnedSemaphorePermit,
}

/// Bytes that changesets may take.
#[derive(Debug, Clone)]
pub(crate) struct QueueBytes {
    free: Arc<Semaphore>,
    most: usize,
}

impl QueueBytes {
    /// So many, or as many as can be counted.
    pub(super) fn new(bytes: usize) -> Self {
        let most = bytes.clamp(1, MAX_WEIGHT);
        Self { free: Arc::new(Semaphore::new(most)), most }
    }

    /// Waits for a place. What is larger than all there is takes all there is.
    async fn place(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Error> {
        let weight = u32::try_from(bytes.clamp(1, self.most)).unwrap_or(u32::MAX);
        self.free.clone().acquire_many_owned(weight).await.map_err(|_| Error::GoingAway)
    }

    /// A place, if there is one.
    fn place_now(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let weight = u32::try_from(bytes.max(1)).ok()?;
        self.free.clone().try_acquire_many_owned(weight).ok()
    }
}

/// The way to a room's writer.
#[derive(Debug, Clone)]
pub(crate) struct WriterQueue {
    jobs: mpsc::Sender<Job>,
    bytes: QueueBytes,
    own_bytes: QueueBytes,
    /// What the queues of all rooms share.
    bytes_of_all: QueueBytes,
    wait: Duration,
    room: RoomName,
    /// Whether the writer has gone, and with it its connection.
    gone: CancellationToken,
}

impl WriterQueue {
    /// A queue, and where the work in it comes out.
    pub(super) fn new(room: &RoomName, config: &SyncConfig, bytes_of_all: QueueBytes) -> (Self, Jobs) {
        let (send, jobs) = mpsc::channel(config.queue_changesets().clamp(1, Semaphore::MAX_PERMITS));
        let gone = CancellationToken::new();
        let jobs = Jobs { jobs, _gone: gone.clone().drop_guard() };
        let queue = Self {
            jobs: send,
            bytes: QueueBytes::new(config.queue_bytes()),
            own_bytes: QueueBytes::new(OWN_BYTES),
            bytes_of_all,
            wait: config.queue_wait(),
            room: room.clone(),
            gone,
        };
        (queue, jobs)
    }

    /// Queues a changeset. Its outcome comes on its own channel.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if there was no place for it in time, [`Error::GoingAway`] if the room is closed.
    pub(crate) async fn merge(&self, changeset: Changeset) -> Result<(), Error> {
        let bytes = changeset.changes.byte_len();
        let queued = async {
            // In this order: a room that is slow waits for itself first, and leaves to the others what is for all.
            let place = self.bytes.place(bytes).await?;
            let place_in_all = match self.own_bytes.place_now(bytes) {
                Some(place) => place,
                None => self.bytes_of_all.place(bytes).await?,
            };
            let queued = Queued { changeset, since: Instant::now(), _place: place, _place_in_all: place_in_all };
            self.jobs.send(Job::Changeset(queued)).await.map_err(|_| Error::GoingAway)
        };
        match timeout(self.wait, queued).await {
            Ok(result) => result,
            Err(_) => Err(Error::Busy { room: self.room.clone() }),
        }
    }

    /// Runs `job` in a transaction of its own, commits it if it succeeds, and shows its changes to the clients.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let (send, receive) = oneshot::channel();
        let (done, committed) = oneshot::channel();
        let job = Box::new(move |tx: &Transaction<'_>| {
            let result = job(tx);
            let verdict = if result.is_ok() { Verdict::Commit } else { Verdict::RollBack };
            // Whoever asked may have gone away; what was written stays.
            drop(send.send(result));
            verdict
        });
        self.jobs.send(Job::Write(job, done)).await.map_err(|_| Error::GoingAway)?;
        committed.await.map_err(|_| Error::GoingAway)??;
        let result = receive.await.map_err(|_| Error::Panicked { room: self.room.clone() })?;
        result.map_err(|source| Error::sqlite(&self.room, source))
    }

    /// Runs the application's `job`, which may not write, on the writer's connection.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.run(move |conn| read_only(conn, job)).await
    }

    /// Runs a `job` of ours, which only reads, on the writer's connection.
    pub(crate) async fn peek<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.run(move |conn| catch_unwind(AssertUnwindSafe(|| in_transaction(conn, job))).ok()).await
    }

    /// Runs `job` on the writer's connection. It gives `None` if it panicked.
    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Option<rusqlite::Result<T>> + Send + 'static,
    ) -> Result<T, Error> {
        let (send, receive) = oneshot::channel();
        let job = Box::new(move |conn: &mut Connection| {
            if let Some(result) = job(conn) {
                drop(send.send(result));
            }
        });
        self.jobs.send(Job::Read(job)).await.map_err(|_| Error::GoingAway)?;
        let result = receive.await.map_err(|_| Error::Panicked { room: self.room.clone() })?;
        result.map_err(|source| Error::sqlite(&self.room, source))
    }

    /// Shows what other processes have committed. False if one of them may be about to commit: look again.
    pub(super) async fn look(&self) -> Result<bool, Error> {
        let (done, looked) = oneshot::channel();
        self.jobs.send(Job::Look(done)).await.map_err(|_| Error::GoingAway)?;
        looked.await.map_err(|_| Error::GoingAway)?
    }

    /// Migrates the room. What clients with the schema of before have queued behind is not applied.
    pub(crate) async fn migrate(&self, resident: ResidentSchema) -> Result<(), Error> {
        let (done, migrated) = oneshot::channel();
        self.jobs.send(Job::Migrate(resident, done)).await.map_err(|_| Error::GoingAway)?;
        migrated.await.map_err(|_| Error::GoingAway)?
    }

    /// Forgets how far the room has a site's changes, behind what is queued.
    pub(super) async fn forget(&self, site: wire::SiteId) -> Result<(), Error> {
        let (done, forgotten) = oneshot::channel();
        self.jobs.send(Job::Forget(site, done)).await.map_err(|_| Error::GoingAway)?;
        forgotten.await.map_err(|_| Error::GoingAway)?
    }

    /// Waits until everything queued so far is committed, writes the log back into the database file and closes it. Waits for that also
    /// if somebody else has begun it.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close(done)).await.is_ok()
            && let Ok(closed) = closed.await
        {
            return closed;
        }
        self.gone.cancelled().await;
        Ok(())
    }
}

/// Where a queue's work comes out. Who holds it is the room's writer.
#[derive(Debug)]
pub(super) struct Jobs {
    jobs: mpsc::Receiver<Job>,
    _gone: DropGuard,
}

impl Jobs {
    /// The next one, or `None` if there will be none.
    pub(super) async fn recv(&mut self) -> Option<Job> {
        self.jobs.recv().await
    }

    /// The next one, if it is there already.
    fn next_now(&mut self) -> Option<Job> {
        self.jobs.try_recv().ok()
    }

    /// Takes no more.
    pub(super) fn close(&mut self) {
        self.jobs.close();
    }
}

/// The task behind the queue.
#[derive(Debug)]
pub(crate) struct Writer {
    conn: WriteConnection,
    jobs: Jobs,
    commit: Arc<Commit>,
    ending: Arc<Ending>,
}

impl Writer {
    /// A writer over `conn`, and the way to it. It works once [`run`](Self::run) is polled.
    pub(crate) fn new(
        conn: WriteConnection,
        room: &RoomName,
        config: &SyncConfig,
        parts: &Parts,
        surroundings: &Surroundings,
        commits_of_others: i64,
    ) -> (Self, WriterQueue) {
        let (queue, jobs) = WriterQueue::new(room, config, surroundings.queued.clone());
        let commit = Arc::new(Commit::new(room, config, parts, surroundings, commits_of_others));
        (Self { conn, jobs, commit, ending: parts.ending.clone() }, queue)
    }

    /// Works until the room is closed or its connection is lost.
    pub(crate) async fn run(mut self) {
        let mut next = None;
        loop {
            let job = match next.take() {
                Some(job) => job,
                None => match self.next().await {
                    Some(job) => job,
                    None => break,
                },
            };
            if self.conn.interrupter().has_given_up() && !matches!(job, Job::Close(_)) {
                // Whoever waits for it is told by its being dropped.
                continue;
            }
            let worked = match job {
                Job::Changeset(queued) => {
                    let batch = self.batch(queued, &mut next);
                    let commit = self.commit.clone();
                    self.conn.run(move |conn| commit.changesets(conn, batch)).await
                }
                Job::Write(job, done) => {
                    let commit = self.commit.clone();
                    let result = self.conn.run(move |conn| commit.write(conn, job)).await;
                    result.map(|result| drop(done.send(result)))
                }
                Job::Read(job) => self.conn.run(job).await,
                Job::Look(done) => {
                    let commit = self.commit.clone();
                    let result = self.conn.run(move |conn| commit.look(conn)).await;
                    result.map(|result| drop(done.send(result)))
                }
                Job::Migrate(resident, done) => {
                    let commit = self.commit.clone();
                    let result = self.conn.run(move |conn| commit.migrate(conn, &resident)).await;
                    result.map(|result| drop(done.send(result)))
                }
                Job::Forget(site, done) => {
                    let commit = self.commit.clone();
                    let result = self.conn.run(move |conn| commit.forget(conn, site)).await;
                    result.map(|result| drop(done.send(result)))
                }
                Job::Close(done) => {
                    self.jobs.close();
                    drop(done.send(self.close().await));
                    return;
                }
            };
            if let Err(error) = worked {
                self.ending.fail(&error);
                break;
            }
        }
        let ending = self.ending.clone();
        if let Err(error) = self.close().await {
            ending.fail(&error);
        }
    }

    /// The next job. While there is none, the connection keeps no more memory than it must.
    async fn next(&mut self) -> Option<Job> {
        if let Ok(job) = timeout(RESTLESS, self.jobs.recv()).await {
            return job;
        }
        let rested = self.conn.run(|conn| {
            conn.flush_prepared_statement_cache();
            crr::Crr::of(conn).and_then(|crr| crr.rest())
        });
        if let Ok(Err(error)) = rested.await {
            tracing::debug!(room = %self.conn.room(), %error, "an idle connection keeps its memory");
        }
        self.jobs.recv().await
    }

    async fn close(self) -> Result<(), Error> {
        let commit = self.commit.clone();
        if let Ok(Err(error)) = self.conn.run(move |conn| commit.finish(conn)).await {
            tracing::warn!(room = %self.conn.room(), %error, "what sites have announced is forgotten");
        }
        let closed = self.conn.close().await;
        let (commit, soundly) = (self.commit, closed.is_ok());
        // It only tells the next one who opens the file that nothing happened.
        drop(tokio::task::spawn_blocking(move || commit.closed(soundly)).await);
        closed
    }

    /// `first` and the changesets queued behind it, up to a bound. A job of another kind that comes up is `next`.
    fn batch(&mut self, first: Queued, next: &mut Option<Job>) -> Vec<Queued> {
        let mut bytes = first.changeset.changes.byte_len();
        let mut batch = vec![first];
        while bytes < BATCH_BYTES {
            match self.jobs.next_now() {
                Some(Job::Changeset(queued)) => {
                    bytes = bytes.saturating_add(queued.changeset.changes.byte_len());
                    batch.push(queued);
                }
                Some(other) => {
                    *next = Some(other);
                    break;
                }
                None => break,
            }
        }
        batch
    }
}

/// Runs `job` in a read transaction.
fn in_transaction<T>(conn: &mut Connection, job: impl FnOnce(&Connection) -> T) -> rusqlite::Result<T> {
    let tx = conn.transaction()?;
    let result = job(&tx);
    tx.finish()?;
    Ok(result)
}

/// Runs `job` in a read transaction, on a connection that may not write meanwhile, which has all its statements prepared again. `None` if
/// it panics, which may not take the room's only writing connection with it.
fn read_only<T>(conn: &mut Connection, job: impl FnOnce(&Connection) -> T) -> Option<rusqlite::Result<T>> {
    let read = |conn: &mut Connection| {
        conn.pragma_update(None, "query_only", true)?;
        in_transaction(conn, job)
    };
    let result = catch_unwind(AssertUnwindSafe(|| read(conn))).ok();
    match conn.pragma_update(None, "query_only", false) {
        Ok(()) => result,
        Err(error) => Some(Err(error)),
    }
}
