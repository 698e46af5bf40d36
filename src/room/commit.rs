//! One transaction of a room's writer: from changesets, or an application's closure, to a durable commit that the feed shows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crr::{Crr, Merge, MergeOptions};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::watch;

use super::convert;
use super::feed::Feed;
use super::frame::Frame;
use super::schema::{ResidentSchema, StoredSchema};
use super::writer::{Applied, Changeset, Outcome, Queued};
use super::{Ending, Parts, RoomName, migration};
use crate::applied::{AppliedChangeset, Observer};
use crate::error::Error;

/// A transaction of the application.
pub(super) type WriteJob = Box<dyn FnOnce(&Transaction<'_>) -> Verdict + Send>;

/// What is to become of the application's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Commit,
    RollBack,
}

/// What a transaction needs to know, on whichever thread it runs.
#[derive(Debug)]
pub(super) struct Commit {
    room: RoomName,
    feed: Arc<Feed>,
    schema: watch::Sender<StoredSchema>,
    ending: Arc<Ending>,
    observer: Arc<Observer>,
    max_frame_bytes: usize,
}

impl Commit {
    pub(super) fn new(room: RoomName, parts: Parts, observer: Arc<Observer>, max_frame_bytes: usize) -> Self {
        let Parts { feed, schema, ending } = parts;
        Self { room, feed, schema, ending, observer, max_frame_bytes }
    }

    /// Merges what is queued in one transaction. If a changeset is refused, each gets a transaction of its own, so that only the
    /// one at fault fails. (A savepoint for each would cost every batch what only a bad one needs.) Other errors, such as a full
    /// disk or a lock that somebody holds, would meet each of them.
    ///
    /// Those that clients with another schema have queued are left: their connections are closing, and their changes may not fit.
    pub(super) fn changesets(&self, conn: &mut Connection, batch: Vec<Queued>) {
        let version = self.schema.borrow().version();
        let changesets: Vec<&Changeset> = batch
            .iter()
            .map(|queued| &queued.changeset)
            .filter(|changeset| changeset.schema_version == version)
            .collect();
        if changesets.is_empty() {
            return;
        }
        let outcomes = match self.together(conn, &changesets) {
            Ok(outcomes) => outcomes,
            Err(error) if error.is_refused() && changesets.len() > 1 => {
                tracing::debug!(room = %self.room, changesets = changesets.len(), %error, "batch rolled back, merging one by one");
                changesets.iter().map(|changeset| self.alone(conn, changeset)).collect()
            }
            Err(error) => self.failed(error, changesets.len()),
        };
        for (changeset, outcome) in changesets.into_iter().zip(outcomes) {
            let applied = self.applied(changeset, &outcome);
            // A connection that is gone no longer asks.
            drop(changeset.reply.send(outcome));
            if let Some(applied) = applied {
                self.observer.tell(&applied);
            }
        }
    }

    /// What the application is told of a changeset, if it changed anything.
    fn applied(&self, changeset: &Changeset, outcome: &Outcome) -> Option<AppliedChangeset> {
        match outcome {
            Outcome::Applied(applied) if applied.changes > 0 => Some(AppliedChangeset {
                room: self.room.clone(),
                site: convert::engine_site(changeset.sender),
                changes: applied.changes,
                db_version: applied.db_version,
            }),
            _ => None,
        }
    }

    /// Migrates the room. From then on nobody is shown anything encoded before.
    pub(super) fn migrate(&self, conn: &mut Connection, resident: &ResidentSchema) -> Result<(), Error> {
        let migrated = migration::migrate(conn, &self.room, resident)?;
        // In this order: clients with the schema of before leave before there is anything new to see.
        self.schema.send_replace(migrated.schema);
        self.feed.restart(migrated.now);
        Ok(())
    }

    /// Runs the application's closure in a transaction.
    pub(super) fn write(&self, conn: &mut Connection, job: WriteJob) -> Result<(), Error> {
        let tx = conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| Error::sqlite(&self.room, error))?;
        // Should it panic, nothing is committed, and whoever waits for its result is told.
        let verdict = catch_unwind(AssertUnwindSafe(|| job(&tx))).unwrap_or(Verdict::RollBack);
        if verdict == Verdict::RollBack {
            return tx.rollback().map_err(|error| Error::sqlite(&self.room, error));
        }
        let now = durable_version(tx).map_err(|error| Error::engine(&self.room, error))?;
        self.show(conn, now);
        Ok(())
    }

    fn alone(&self, conn: &mut Connection, changeset: &Changeset) -> Outcome {
        let outcomes = self.together(conn, &[changeset]).unwrap_or_else(|error| self.failed(error, 1));
        outcomes.into_iter().next().unwrap_or(Outcome::Failed(Error::GoingAway))
    }

    /// What an error means for each of so many changesets that it met.
    fn failed(&self, error: crr::Error, changesets: usize) -> Vec<Outcome> {
        let (refused, source) = (error.is_refused(), Arc::new(error));
        let failed = |source| match refused {
            true => Error::Changeset { room: self.room.clone(), source },
            false => Error::engine_shared(&self.room, source),
        };
        std::iter::repeat_n(source, changesets).map(failed).map(Outcome::Failed).collect()
    }

    fn together(&self, conn: &mut Connection, changesets: &[&Changeset]) -> crr::Result<Vec<Outcome>> {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // A db_version ends with the row that takes it over the bound. Half a frame leaves room for that row.
        let options = MergeOptions::server(self.max_frame_bytes / 2);
        let mut merge = Merge::new(&tx, options)?;
        let outcomes = changesets
            .iter()
            .map(|changeset| merge_one(&tx, &mut merge, changeset))
            .collect::<crr::Result<Vec<_>>>()?;
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Applied(_))) {
            let now = durable_version(tx)?;
            self.show(conn, now);
        }
        Ok(outcomes)
    }

    /// Shows the feed what is durable up to `now`.
    fn show(&self, conn: &mut Connection, now: i64) {
        let shown = self.feed.now();
        if now < shown {
            self.ending.fail(&Error::WentBack { room: self.room.clone(), stored: now, shown });
            return;
        }
        // The usual, small commit is encoded while it is still in the cache. If others wait to be encoded, or this one is large, the
        // connections have it encoded at their pace.
        if now > shown && self.feed.head() == shown {
            match read_frame(conn, shown, now, self.max_frame_bytes) {
                Ok(frame) => self.feed.publish(frame),
                Err(error) => tracing::warn!(room = %self.room, %error, "what was committed can't be read back yet"),
            }
        }
        self.feed.advance(now);
    }
}

/// Merges a changeset if it continues what the room has from its sender, and moves the sender's position, which is read here, inside
/// the transaction.
fn merge_one(tx: &Transaction<'_>, merge: &mut Merge<'_>, changeset: &Changeset) -> crr::Result<Outcome> {
    let crr = Crr::of(tx)?;
    let sender = convert::engine_site(changeset.sender);
    let position = crr.position(sender)?;
    if convert::engine_position(changeset.since) > position {
        return Ok(Outcome::Gap(convert::wire_position(position)));
    }
    let merged = merge.changeset(changeset.changes.iter().map(|change| convert::incoming(change, sender)))?;
    let end = changeset.changes.iter().map(|change| change.db_version).max().unwrap_or(position.db_version);
    let position = position.max(crr::Position { db_version: end, seq: 0 });
    crr.set_position(sender, position)?;
    Ok(Outcome::Applied(Applied {
        since: changeset.since,
        position: convert::wire_position(position),
        partial_rows: merged.partial_rows > 0,
        changes: merged.applied,
        db_version: merged.db_version,
    }))
}

/// Commits and says up to which db_version everything is durable now. The version is read before the commit: what another process
/// commits after ours is not synced by it.
fn durable_version(tx: Transaction<'_>) -> crr::Result<i64> {
    let now = Crr::of(&tx)?.stored_db_version()?;
    tx.commit()?;
    Ok(now)
}

fn read_frame(conn: &mut Connection, after: i64, upto: i64, max_bytes: usize) -> crr::Result<Frame> {
    let tx = conn.transaction()?;
    let frame = Frame::read(&tx, after, upto, None, max_bytes)?;
    tx.commit()?;
    Ok(frame)
}
