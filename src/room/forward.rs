//! The writer of a room whose database another process writes: it hands over what is queued and passes on what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::time::{Instant, sleep};

use super::convert::{engine_position, engine_site, wire_position};
use super::follow::Follower;
use super::queue::{Job, Jobs, Queued, Sighting};
use super::writer::{Applied, Changeset, Outcome};
use super::{Ending, RoomName};
use crate::error::Error;
use crate::primary::{self, Opening, Primary, PrimaryFuture, Verdict};

/// Changesets under way to the primary.
const IN_FLIGHT: usize = 16;

/// How soon, and how late, a primary that can't be reached is asked again.
const RETRIES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The task behind the queue of a replica.
#[derive(Debug)]
pub(crate) struct Forwarder {
    room: RoomName,
    primary: Arc<dyn Primary>,
    jobs: Jobs,
    follower: Arc<Follower>,
    ending: Arc<Ending>,
    /// How long the primary may be out of reach before clients are told.
    patience: Duration,
}

impl Forwarder {
    pub(crate) fn new(
        room: &RoomName,
        primary: Arc<dyn Primary>,
        jobs: Jobs,
        follower: Arc<Follower>,
        ending: Arc<Ending>,
        patience: Duration,
    ) -> Self {
        Self { room: room.clone(), primary, jobs, follower, ending, patience }
    }

    /// Works until the room is closed.
    pub(crate) async fn run(mut self) {
        let mut under_way = FuturesOrdered::new();
        loop {
            let job = tokio::select! {
                biased;
                () = self.ending.wait() => break,
                Some((queued, outcome)) = under_way.next(), if !under_way.is_empty() => {
                    let queued: Queued = queued;
                    // A connection that is gone no longer asks.
                    drop(queued.changeset.reply.send(outcome));
                    continue;
                }
                job = self.jobs.recv(), if under_way.len() < IN_FLIGHT => match job {
                    Some(job) => job,
                    None => break,
                },
            };
            match job {
                Job::Changeset(queued) => {
                    let (room, primary, patience) = (self.room.clone(), self.primary.clone(), self.patience);
                    under_way.push_back(async move {
                        let outcome = hand_over(&room, &*primary, &queued.changeset, patience).await;
                        (queued, outcome)
                    });
                }
                Job::Write(_, done) => drop(done.send(Err(Error::NotPrimary { room: self.room.clone() }))),
                Job::Look(done) => drop(done.send(self.follower.look().await.map(|()| Sighting::News))),
                // Positions are the primary's.
                Job::Forget(_, done) => drop(done.send(Ok(()))),
                // Replicas read through connections of their own.
                job @ (Job::Read(_) | Job::Stir) => job.fail(Error::GoingAway),
                Job::Migrate(resident, done) => {
                    let stamp = resident.stamp();
                    let opened = open(&self.room, &*self.primary, &stamp, self.patience).await;
                    let migrated = match opened {
                        Ok(()) => self.follower.look().await,
                        Err(error) => Err(error),
                    };
                    drop(done.send(migrated));
                }
                Job::Close(done) => {
                    self.jobs.close();
                    // What is under way is durable at the primary or not; clients that weren't answered send it again.
                    drop(done.send(Ok(())));
                    return;
                }
            }
        }
    }
}

/// Has the primary open the room with this schema.
pub(super) async fn open(
    room: &RoomName,
    primary: &dyn Primary,
    schema: &super::WantedSchema,
    patience: Duration,
) -> Result<(), Error> {
    match persist(room, patience, || primary.open(room, &schema.name, schema.version)).await? {
        Opening::Opened => Ok(()),
        Opening::Refused(refusal) => Err(Error::RefusedByPrimary { room: room.clone(), refusal }),
    }
}

async fn hand_over(room: &RoomName, primary: &dyn Primary, changeset: &Changeset, patience: Duration) -> Outcome {
    let since = changeset.since;
    let changeset = primary::Changeset {
        site: engine_site(changeset.sender),
        since: engine_position(since),
        schema_version: changeset.schema_version,
        changes: changeset.changes.clone(),
        rights: changeset.rights.clone(),
        is_refused: changeset.is_refused,
    };
    match persist(room, patience, || primary.apply(room, &changeset)).await {
        Ok(Verdict::Applied { position, partial_rows, changes, db_version }) => {
            Outcome::Applied(Applied { since, position: wire_position(position), partial_rows, changes, db_version })
        }
        Ok(Verdict::Gap(position)) => Outcome::Gap(wire_position(position)),
        Ok(Verdict::Refused(refusal)) => Outcome::Failed(Error::RefusedByPrimary { room: room.clone(), refusal }),
        Err(error) => Outcome::Failed(error),
    }
}

/// Asks the primary again and again while it can't be reached.
async fn persist<'a, T>(
    room: &RoomName,
    patience: Duration,
    ask: impl Fn() -> PrimaryFuture<'a, T>,
) -> Result<T, Error> {
    let deadline = Instant::now() + patience;
    let mut delay = RETRIES.0;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(unavailable) if Instant::now() + delay >= deadline => {
                return Err(Error::PrimaryUnavailable { room: room.clone(), source: unavailable });
            }
            Err(unavailable) => {
                tracing::debug!(%room, %unavailable, ?delay, "asking the primary again");
                sleep(delay).await;
                delay = delay.saturating_mul(2).min(RETRIES.1);
            }
        }
    }
}
