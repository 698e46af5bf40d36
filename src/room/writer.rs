//! The one writer of a room: it takes what is queued, commits it together, shows it to the feed, and answers.
//!
//! N clients cost one synced commit, not N. The writer, and not a connection, decides whether a changeset continues what the room
//! has from its sender: the position is read inside the transaction that moves it. So nothing that follows a changeset that
//! failed can move the position over it.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tower_sqlite_sync_wire as wire;

use super::awake::Awake;
use super::commit::Commit;
use super::database::{
    self, Expected, Interrupter, Location, ReadConnections, WriteConnection, WriteOptions, on_a_thread,
};
use super::file::OpenFile;
use super::queue::{Job, Jobs, Looked, Sighting};
use super::stamp::Stamp;
use super::{Ending, RoomName};
use crate::error::Error;
use crate::meters::Up;
use crate::primary::Rights;

/// How long a writer without work keeps at hand what it had for the last: statements are prepared again in less than a millisecond,
/// and take some hundred kilobytes. A thousand rooms that begin within seconds would otherwise all have theirs.
const RESTLESS: Duration = Duration::from_millis(500);

/// How long a room stays awake in which [others were at work](leave) when it fell asleep.
const UNDISTURBED: Duration = Duration::from_secs(10);

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

/// The task behind the queue.
#[derive(Debug)]
pub(crate) struct Writer {
    room: RoomName,
    database: Database,
    interrupter: Interrupter,
    jobs: Jobs,
    commit: Arc<Commit>,
    ending: Arc<Ending>,
    /// `None` if the database stays open for as long as the room is.
    bed: Option<Bed>,
    /// Before this it doesn't sleep.
    awake_until: Instant,
}

/// A room's database, as its writer has it.
#[derive(Debug)]
enum Database {
    Open(WriteConnection, Up),
    Asleep(Asleep),
}

/// A database that was closed until there is work.
#[derive(Debug)]
struct Asleep {
    since: Instant,
    stamp: Option<Stamp>,
}

/// How a writer without work goes on.
enum Idleness {
    /// With this job, or to its end.
    Over(Option<Job>),
    Sleep,
}

/// What a room needs to sleep, and to wake up.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) awake: Arc<Awake>,
    pub(super) file: Arc<OpenFile>,
    pub(super) readers: ReadConnections,
    pub(super) options: WriteOptions,
}

impl Writer {
    /// A writer over `conn`. It works once [`run`](Self::run) is polled.
    pub(super) fn new(
        room: &RoomName,
        conn: WriteConnection,
        jobs: Jobs,
        commit: Commit,
        ending: Arc<Ending>,
        bed: Option<Bed>,
    ) -> Self {
        let (interrupter, commit) = (conn.interrupter().clone(), Arc::new(commit));
        Self {
            room: room.clone(),
            database: Database::Open(conn, commit.meters().awake()),
            interrupter,
            jobs,
            commit,
            ending,
            bed,
            awake_until: Instant::now(),
        }
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
            let worked = match job {
                Job::Close(done) => {
                    self.jobs.close();
                    drop(done.send(self.close().await));
                    return;
                }
                // Whoever waits for it is told by its being dropped.
                _ if self.interrupter.has_given_up() => continue,
                Job::Look(done) if self.is_undisturbed().await => {
                    drop(done.send(Ok(Sighting::Nothing)));
                    continue;
                }
                job => self.work(job, &mut next).await,
            };
            match worked {
                Ok(()) => {}
                Err(Error::GoingAway) if self.ending.has_ended() => break,
                Err(error) => {
                    self.ending.fail(&error);
                    break;
                }
            }
        }
        let ending = self.ending.clone();
        if let Err(error) = self.close().await {
            ending.fail(&error);
        }
    }

    /// Does a job, and with a changeset those behind it. A job of another kind that comes up is `next`.
    async fn work(&mut self, job: Job, next: &mut Option<Job>) -> Result<(), Error> {
        if let Err(error) = self.wake().await {
            self.commit.note(&error);
            match job {
                // It is looked again, unless the room has ended.
                Job::Look(done) if !self.ending.has_ended() => drop(done.send(Ok(Sighting::Unfinished))),
                Job::Look(done) => drop(done.send(Err(Error::GoingAway))),
                job => job.fail(error),
            }
            return Ok(());
        }
        let Database::Open(conn, _) = &self.database else { return Ok(()) };
        let commit = self.commit.clone();
        match job {
            Job::Changeset(queued) => {
                let batch = self.jobs.batch(queued, next);
                conn.run(move |conn| commit.changesets(conn, batch)).await?
            }
            Job::Write(job, done) => {
                let result = conn.run(move |conn| commit.write(conn, job)).await;
                result.map(|result| drop(done.send(result)))
            }
            Job::Read(job) => conn.run(|conn| job(Ok(conn))).await,
            Job::Look(done) => look(conn, &commit, done).await,
            Job::Migrate(resident, done) => {
                let result = conn.run(move |conn| commit.migrate(conn, &resident)).await;
                result.map(|result| drop(done.send(result)))
            }
            Job::Forget(site, done) => {
                let result = conn.run(move |conn| commit.forget(conn, site)).await;
                result.map(|result| drop(done.send(result)))
            }
            Job::Stir | Job::Close(_) => Ok(()),
        }
    }

    /// The next job. While there is none, the database may be closed.
    async fn next(&mut self) -> Option<Job> {
        while matches!(self.database, Database::Open(..)) {
            match self.idle().await {
                Idleness::Over(job) => return job,
                Idleness::Sleep => self.fall_asleep().await,
            }
        }
        self.jobs.recv().await
    }

    /// Waits for a job while the database is open. It keeps no more memory meanwhile than it must. (To look is no work: our own commits
    /// have it done, too.)
    async fn idle(&mut self) -> Idleness {
        let Database::Open(conn, _) = &self.database else { return Idleness::Sleep };
        if let Some(job) = self.jobs.next_now() {
            return Idleness::Over(Some(job));
        }
        let mut told_to_sleep = pin!(told_to_sleep(self.bed.as_ref(), self.awake_until));
        let (mut restless, mut is_restless) = (pin!(sleep(RESTLESS)), true);
        loop {
            tokio::select! {
                biased;
                job = self.jobs.recv() => match job {
                    Some(Job::Look(done)) => {
                        if let Err(error) = look(conn, &self.commit, done).await {
                            self.ending.fail(&error);
                            return Idleness::Over(None);
                        }
                    }
                    job => return Idleness::Over(job),
                },
                () = &mut told_to_sleep => return Idleness::Sleep,
                () = &mut restless, if is_restless => {
                    is_restless = false;
                    rest(conn).await;
                }
            }
        }
    }

    /// Opens the database again, if it was closed.
    async fn wake(&mut self) -> Result<(), Error> {
        let Database::Asleep(Asleep { since, .. }) = self.database else { return Ok(()) };
        if let Some(bed) = &self.bed {
            bed.awake.woken(since.elapsed());
        }
        self.open_again(|options| options).await?;
        tracing::debug!(room = %self.room, slept = ?since.elapsed(), "room awake");
        Ok(())
    }

    async fn open_again(&mut self, options: impl FnOnce(WriteOptions) -> WriteOptions) -> Result<(), Error> {
        let (Database::Asleep(asleep), Some(bed)) = (&self.database, &self.bed) else { return Ok(()) };
        let (room, location) = (self.room.clone(), Location::File(bed.file.path().to_owned()));
        let expected = Expected::Known(bed.file.clone(), asleep.stamp.clone());
        let (options, interrupter, commit) = (options(bed.options), self.interrupter.clone(), self.commit.clone());
        let open = move || {
            let woken = |conn: &mut Connection, log| commit.woken(conn, log);
            WriteConnection::open(&room, &location, options, &expected, interrupter, woken)
        };
        let (conn, ()) = on_a_thread(&self.room, open).await??;
        self.database = Database::Open(conn, self.commit.meters().awake());
        self.jobs.is_up();
        Ok(())
    }

    /// Closes the database until there is work, unless somebody reads it: then others are to sleep first.
    async fn fall_asleep(&mut self) {
        let Some(bed) = &self.bed else { return };
        // Before readers are looked for: whoever comes to read after that has the writer wake up, which sees to it that they are closed.
        self.jobs.falls_asleep();
        let Some(resting) = bed.readers.rest().await else {
            self.jobs.is_up();
            self.awake_until = Instant::now() + RESTLESS;
            return;
        };
        let asleep = Database::Asleep(Asleep { since: Instant::now(), stamp: None });
        let Database::Open(conn, _up) = std::mem::replace(&mut self.database, asleep) else { return };
        let (commit, file) = (self.commit.clone(), bed.file.clone());
        let left = conn.end(move |conn, interrupter| leave(conn, interrupter, &commit, &file));
        let left = left.await.and_then(|left| left.map_err(|error| Error::sqlite(&self.room, error)));
        drop(resting);
        let stamp = left.unwrap_or_else(|error| {
            tracing::warn!(room = %self.room, %error, "room asleep, but its database could not be closed as it should be");
            None
        });
        tracing::debug!(room = %self.room, "room asleep");
        if stamp.is_none() {
            // Whatever happens to its file wakes it.
            self.awake_until = Instant::now() + UNDISTURBED;
        }
        self.database = Database::Asleep(Asleep { since: Instant::now(), stamp });
        self.jobs.sleeps();
    }

    /// Whether the room sleeps, and nobody has written to its file since.
    async fn is_undisturbed(&self) -> bool {
        let (Database::Asleep(Asleep { stamp: Some(stamp), .. }), Some(bed)) = (&self.database, &self.bed) else {
            return false;
        };
        let file = bed.file.clone();
        let found =
            tokio::task::spawn_blocking(move || file.check().ok().and_then(|()| Stamp::of(file.real_path()))).await;
        found.is_ok_and(|found| found.as_ref() == Some(stamp))
    }

    /// Closes the database for good, with nothing left in its log.
    async fn close(mut self) -> Result<(), Error> {
        if let Err(error) = self.open_again(WriteOptions::to_close).await {
            self.commit.note(&error);
            let commit = self.commit;
            drop(tokio::task::spawn_blocking(move || commit.closed(false)).await);
            return Err(error);
        }
        let Database::Open(conn, _up) = self.database else { return Err(Error::GoingAway) };
        let commit = self.commit;
        let closed = conn.end(move |mut conn, interrupter| {
            if commit.is_unsynced() {
                let left = database::leave(conn);
                commit.closed(false);
                return left;
            }
            commit.finish(&mut conn);
            interrupter.closing();
            let closed = database::close(conn);
            commit.closed(closed.is_ok());
            closed
        });
        closed.await?.map_err(|error| Error::sqlite(&self.room, error))
    }
}

/// Waits until a room is to sleep, which is not before `awake_until`; for ever if it has no bed.
async fn told_to_sleep(bed: Option<&Bed>, awake_until: Instant) {
    let Some(bed) = bed else { return std::future::pending().await };
    sleep_until(awake_until).await;
    bed.awake.idle().told_to_sleep().await;
}

/// Closes a database until there is work. Its stamp is of a moment at which all that others had written was [followed](Commit::follow);
/// `None` if somebody has written since, or if that can't be told.
fn leave(
    mut conn: Connection,
    interrupter: &Interrupter,
    commit: &Commit,
    file: &OpenFile,
) -> rusqlite::Result<Option<Stamp>> {
    // Another process that is writing is not waited for.
    conn.busy_timeout(Duration::ZERO)?;
    commit.finish(&mut conn);
    interrupter.closing();
    let stamp = Stamp::put(file.real_path()).filter(|_| commit.has_followed(&mut conn));
    database::leave(conn)?;
    Ok(stamp.filter(|stamp| Stamp::of(file.real_path()).as_ref() == Some(stamp)))
}

/// Looks for what other processes have written.
async fn look(conn: &WriteConnection, commit: &Arc<Commit>, done: Looked) -> Result<(), Error> {
    let commit = commit.clone();
    let looked = conn.run(move |conn| commit.look(conn)).await?;
    // Whoever has gone away doesn't ask any more.
    drop(done.send(looked));
    Ok(())
}

/// Lets go of what a connection had at hand for its last work.
async fn rest(conn: &WriteConnection) {
    let rested = conn.run(|conn| {
        conn.flush_prepared_statement_cache();
        crr::Crr::of(conn).and_then(|crr| crr.rest())
    });
    if let Ok(Err(error)) = rested.await {
        tracing::debug!(room = %conn.room(), %error, "an idle connection keeps its memory");
    }
}
