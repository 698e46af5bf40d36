//! The way to a room's writer: work in the order in which it came, in a queue of bounded bytes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower_sqlite_sync_wire as wire;

use super::RoomName;
use super::commit::{Verdict, WriteJob};
use super::schema::ResidentSchema;
use super::writer::{Changeset, Outcome};
use crate::config::SyncConfig;
use crate::error::Error;

/// Bytes of changesets that one transaction takes before what is left waits for the next: a bound on how long a small write waits
/// behind large ones.
const BATCH_BYTES: usize = 8 << 20;

/// Bytes of changesets that each room may have queued however much the others have, so that a busy room doesn't keep a quiet one
/// waiting.
const OWN_BYTES: usize = 1 << 20;

/// The most bytes that a queue can count.
const MAX_WEIGHT: usize = u32::MAX as usize >> 3;

/// A read, of a connection, or why there is none.
pub(super) type ReadJob = Box<dyn FnOnce(Result<&mut Connection, Error>) + Send>;

/// What a look for what other processes have written has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sighting {
    /// Nothing that wasn't known.
    Nothing,
    /// They have committed since the last look.
    News,
    /// One of them may be about to commit: look again.
    Unfinished,
}

/// Where it is said what was found.
pub(super) type Looked = oneshot::Sender<Result<Sighting, Error>>;

/// Work for the writer, in the order in which it came.
pub(super) enum Job {
    Changeset(Queued),
    /// A transaction of the application.
    Write(WriteJob, oneshot::Sender<Result<(), Error>>),
    /// A read; memory rooms have no other connection to read from.
    Read(ReadJob),
    /// Look for what other processes have written.
    Look(Looked),
    Migrate(ResidentSchema, oneshot::Sender<Result<(), Error>>),
    /// Forget how far the room has this site's changes.
    Forget(wire::SiteId, oneshot::Sender<Result<(), Error>>),
    /// Be awake, for somebody reads the room.
    Stir,
    Close(oneshot::Sender<Result<(), Error>>),
}

impl Job {
    /// Tells whoever waits for it why it can't be done. Who has gone away doesn't ask any more.
    pub(super) fn fail(self, error: Error) {
        match self {
            Self::Write(_, done) | Self::Migrate(_, done) | Self::Forget(_, done) | Self::Close(done) => {
                drop(done.send(Err(error)));
            }
            Self::Changeset(queued) => drop(queued.changeset.reply.send(Outcome::Failed(error))),
            Self::Read(job) => job(Err(error)),
            Self::Look(done) => drop(done.send(Err(error))),
            Self::Stir => {}
        }
    }
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
            Self::Stir => "Stir",
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
    sleep: Arc<Sleep>,
    /// Whether the writer has gone, and with it its connection.
    gone: CancellationToken,
}

impl WriterQueue {
    /// A queue, and where the work in it comes out.
    pub(super) fn new(room: &RoomName, config: &SyncConfig, bytes_of_all: QueueBytes) -> (Self, Jobs) {
        let (send, jobs) = mpsc::channel(config.queue_changesets().clamp(1, Semaphore::MAX_PERMITS));
        let gone = CancellationToken::new();
        let sleep = Arc::<Sleep>::default();
        let jobs = Jobs { jobs, sleep: sleep.clone(), _gone: gone.clone().drop_guard() };
        let queue = Self {
            jobs: send,
            bytes: QueueBytes::new(config.queue_bytes()),
            own_bytes: QueueBytes::new(OWN_BYTES),
            bytes_of_all,
            wait: config.queue_wait(),
            room: room.clone(),
            sleep,
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
        let room = self.room.clone();
        let job = Box::new(move |conn: Result<&mut Connection, Error>| {
            let result = match conn {
                Ok(conn) => job(conn).map(|result| result.map_err(|source| Error::sqlite(&room, source))),
                Err(error) => Some(Err(error)),
            };
            if let Some(result) = result {
                drop(send.send(result));
            }
        });
        self.jobs.send(Job::Read(job)).await.map_err(|_| Error::GoingAway)?;
        receive.await.map_err(|_| Error::Panicked { room: self.room.clone() })?
    }

    /// Shows what other processes have committed.
    pub(super) async fn look(&self) -> Result<Sighting, Error> {
        let (done, looked) = oneshot::channel();
        self.jobs.send(Job::Look(done)).await.map_err(|_| Error::GoingAway)?;
        looked.await.map_err(|_| Error::GoingAway)?
    }

    /// Wakes a writer that sleeps, or is about to.
    pub(super) fn stir(&self) {
        // If the queue is full, there is work to wake it.
        if self.sleep.load() != Sleep::UP {
            drop(self.jobs.try_send(Job::Stir));
        }
    }

    /// Whether the writer has its database open.
    pub(super) fn is_awake(&self) -> bool {
        self.sleep.load() != Sleep::SOUND
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

/// Whether a writer sleeps.
#[derive(Debug, Default)]
struct Sleep(AtomicU8);

impl Sleep {
    const UP: u8 = 0;
    /// It is about to close its database.
    const NEAR: u8 = 1;
    const SOUND: u8 = 2;

    fn load(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn store(&self, sleep: u8) {
        self.0.store(sleep, Ordering::Relaxed);
    }
}

/// Where a queue's work comes out. Who holds it is the room's writer.
#[derive(Debug)]
pub(super) struct Jobs {
    jobs: mpsc::Receiver<Job>,
    sleep: Arc<Sleep>,
    _gone: DropGuard,
}

impl Jobs {
    /// The next one, or `None` if there will be none.
    pub(super) async fn recv(&mut self) -> Option<Job> {
        self.jobs.recv().await
    }

    /// Says that whoever works is about to sleep, so that it is to be woken when somebody reads the room.
    pub(super) fn falls_asleep(&self) {
        self.sleep.store(Sleep::NEAR);
    }

    /// Says that it has closed its database.
    pub(super) fn sleeps(&self) {
        self.sleep.store(Sleep::SOUND);
    }

    /// Says that it works.
    pub(super) fn is_up(&self) {
        self.sleep.store(Sleep::UP);
    }

    /// The next one, if it is there already.
    pub(super) fn next_now(&mut self) -> Option<Job> {
        self.jobs.try_recv().ok()
    }

    /// `first` and the changesets queued behind it, up to a bound. A job of another kind that comes up is `next`.
    pub(super) fn batch(&mut self, first: Queued, next: &mut Option<Job>) -> Vec<Queued> {
        let mut bytes = first.changeset.changes.byte_len();
        let mut batch = vec![first];
        while bytes < BATCH_BYTES {
            match self.next_now() {
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

    /// Takes no more.
    pub(super) fn close(&mut self) {
        self.jobs.close();
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
