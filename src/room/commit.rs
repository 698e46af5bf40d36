//! One transaction of a room's writer: from changesets, or an application's closure, to a durable commit that the feed shows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crr::{Crr, Merge, MergeOptions};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::convert;
use super::follow::Sight;
use super::frame::Frame;
use super::schema::ResidentSchema;
use super::writer::{Applied, Changeset, Outcome, Queued};
use super::{Parts, RoomName, migration, sites};
use crate::applied::{AppliedChangeset, Observer};
use crate::error::Error;
use crate::grant::Refuse;

/// A transaction of the application.
pub(super) type WriteJob = Box<dyn FnOnce(&Transaction<'_>) -> Verdict + Send>;

/// What is to become of the application's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Commit,
    RollBack,
}

/// What is to become of a changeset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It is merged if its sender's rights allow it, and reverted if a guard objects to it.
    AsAllowed,
    /// It is reverted.
    Overrule,
}

/// What a transaction needs to know, on whichever thread it runs.
#[derive(Debug)]
pub(super) struct Commit {
    room: RoomName,
    parts: Parts,
    observer: Arc<Observer>,
    max_frame_bytes: usize,
    /// SQLite's count of the commits of others, at the last look.
    commits_of_others: AtomicI64,
}

impl Commit {
    pub(super) fn new(room: RoomName, parts: Parts, observer: Arc<Observer>, max_frame_bytes: usize) -> Self {
        Self { room, parts, observer, max_frame_bytes, commits_of_others: AtomicI64::new(0) }
    }

    /// Merges what is queued in one transaction. If a changeset is refused, each gets a transaction of its own, so that only the
    /// one at fault fails. (A savepoint for each would cost every batch what only a bad one needs.) Other errors, such as a full
    /// disk or a lock that somebody holds, would meet each of them.
    ///
    /// What its sender's rights may not cover has a transaction of its own from the start, so that whoever sends such things doesn't
    /// make those of others be merged twice.
    ///
    /// Those that clients with another schema have queued are left: their connections are closing, and their changes may not fit.
    pub(super) fn changesets(&self, conn: &mut Connection, batch: Vec<Queued>) {
        let version = self.parts.schema.borrow().version();
        let changesets: Vec<(&Changeset, bool)> = batch
            .iter()
            .map(|queued| &queued.changeset)
            .filter(|changeset| changeset.schema_version == version)
            .map(|changeset| (changeset, changeset.is_in_question()))
            .collect();
        for run in changesets.chunk_by(|(_, before), (_, after)| !before && !after) {
            let run: Vec<&Changeset> = run.iter().map(|(changeset, _)| *changeset).collect();
            self.run(conn, &run);
        }
    }

    /// Merges changesets in one transaction if they can be, and answers.
    fn run(&self, conn: &mut Connection, changesets: &[&Changeset]) {
        let outcomes = match changesets {
            [one] => vec![self.alone(conn, one)],
            several => match self.together(conn, several, Manner::AsAllowed) {
                Ok(outcomes) => outcomes,
                Err(error) if error.is_refused() => {
                    tracing::debug!(room = %self.room, changesets = several.len(), %error, "batch rolled back, merging one by one");
                    several.iter().map(|changeset| self.alone(conn, changeset)).collect()
                }
                Err(error) => self.failed(error, several.len()),
            },
        };
        for (changeset, outcome) in changesets.iter().zip(outcomes) {
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
        self.parts.schema.send_replace(migrated.schema);
        self.parts.feed.restart(migrated.now);
        Ok(())
    }

    /// Shows what other processes have committed, once it is durable. False if one of them is in the way.
    pub(super) fn look(&self, conn: &mut Connection) -> Result<bool, Error> {
        match self.try_look(conn) {
            Ok(Some(())) => Ok(true),
            Ok(None) => Err(Error::NoSuchRoom { room: self.room.clone() }),
            Err(error) if error.is_busy() => Ok(false),
            Err(error) => Err(Error::engine(&self.room, error)),
        }
    }

    /// `None` if the file is no longer a room.
    fn try_look(&self, conn: &mut Connection) -> crr::Result<Option<()>> {
        let commits = conn.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        if commits == self.commits_of_others.load(Ordering::Relaxed) {
            return Ok(Some(()));
        }
        let tx = conn.transaction()?;
        let Some(sight) = Sight::of(&tx)? else { return Ok(None) };
        tx.commit()?;
        // Another server answers our commit with one of its own, to make it durable. That one needs no answer.
        if self.is_news(&sight) {
            sync(conn)?;
            tracing::debug!(room = %self.room, now = sight.now, "another process has written");
            self.parts.follow(&sight);
            self.show(conn, sight.now);
        }
        self.commits_of_others.store(commits, Ordering::Relaxed);
        Ok(Some(()))
    }

    fn is_news(&self, sight: &Sight) -> bool {
        let Parts { site, feed, schema, .. } = &self.parts;
        sight.now != feed.now() || sight.site != *site || sight.schema != *schema.borrow()
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
        let mut outcomes = self.together(conn, &[changeset], Manner::AsAllowed);
        if let Err(crr::Error::NotPermitted { table }) = &outcomes
            && changeset.rights.refuse == Refuse::Revert
        {
            tracing::info!(room = %self.room, site = %changeset.sender, table, "changes reverted: their sender may not write to the table");
            outcomes = self.together(conn, &[changeset], Manner::Overrule);
        }
        let outcomes = outcomes.unwrap_or_else(|error| self.failed(error, 1));
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

    fn together(&self, conn: &mut Connection, changesets: &[&Changeset], manner: Manner) -> crr::Result<Vec<Outcome>> {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // A db_version ends with the row that takes it over the bound. Half a frame leaves room for that row.
        let options = MergeOptions::server(self.max_frame_bytes / 2);
        let mut merge = Merge::new(&tx, options)?;
        let outcomes = changesets
            .iter()
            .map(|changeset| merge_one(&self.room, &tx, &mut merge, changeset, manner))
            .collect::<crr::Result<Vec<_>>>()?;
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Applied(_))) {
            let now = durable_version(tx)?;
            self.show(conn, now);
        }
        Ok(outcomes)
    }

    /// Shows the feed what is durable up to `now`.
    fn show(&self, conn: &mut Connection, now: i64) {
        let shown = self.parts.feed.now();
        if now < shown {
            self.parts.ending.fail(&Error::WentBack { room: self.room.clone(), stored: now, shown });
            return;
        }
        // The usual, small commit is encoded while it is still in the cache. If others wait to be encoded, or this one is large, the
        // connections have it encoded at their pace.
        if now > shown && self.parts.feed.head() == shown {
            match read_frame(conn, shown, now, self.max_frame_bytes) {
                Ok(frame) => self.parts.feed.publish(frame),
                Err(error) => tracing::warn!(room = %self.room, %error, "what was committed can't be read back yet"),
            }
        }
        self.parts.feed.advance(now);
    }
}

/// Merges a changeset if it continues what the room has from its sender, and moves the sender's position, which is read here, inside
/// the transaction.
fn merge_one(
    room: &RoomName,
    tx: &Transaction<'_>,
    merge: &mut Merge<'_>,
    changeset: &Changeset,
    manner: Manner,
) -> crr::Result<Outcome> {
    let crr = Crr::of(tx)?;
    let sender = convert::engine_site(changeset.sender);
    let position = crr.position(sender)?;
    if convert::engine_position(changeset.since) > position {
        return Ok(Outcome::Gap(convert::wire_position(position)));
    }
    let rights = &changeset.rights;
    let holder = sites::holder(tx, changeset.sender)?;
    if !sites::admits(holder.as_deref(), rights) {
        return Ok(Outcome::Failed(Error::SiteTaken { room: room.clone() }));
    }
    let overrules = manner == Manner::Overrule || changeset.is_refused;
    let changes = changeset.changes.iter().map(|change| convert::incoming(change, sender));
    let merged = match rights.tables {
        _ if overrules => merge.overrule(changes)?,
        Some(_) if rights.brings_back => merge.changeset(changes.filter(|change| rights.may_write(change.table)))?,
        Some(_) => merge.changeset_within(changes, &|table| rights.may_write(table))?,
        None => merge.changeset(changes)?,
    };
    let end = changeset.changes.iter().map(|change| change.db_version).max().unwrap_or(position.db_version);
    let position = position.max(crr::Position { db_version: end, seq: 0 });
    crr.set_position(sender, position)?;
    sites::bind(tx, changeset.sender, holder.as_deref(), rights)?;
    Ok(Outcome::Applied(Applied {
        since: changeset.since,
        position: convert::wire_position(position),
        partial_rows: merged.partial_rows > 0,
        changes: if overrules { 0 } else { merged.applied },
        db_version: merged.db_version,
    }))
}

/// Makes durable what other processes have committed, whatever their `synchronous` is. A checkpoint syncs the log, unless there is
/// a reader in its way; a commit of ours does so in any case.
fn sync(conn: &mut Connection) -> rusqlite::Result<()> {
    let all = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let (busy, log, checkpointed): (bool, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(!busy && log == checkpointed)
    })?;
    if !all {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(
            "CREATE TABLE IF NOT EXISTS crsql_sync_syncs (id INTEGER PRIMARY KEY CHECK (id = 0), count INTEGER NOT NULL);
             INSERT INTO crsql_sync_syncs VALUES (0, 1) ON CONFLICT DO UPDATE SET count = count + 1;",
        )?;
        tx.commit()?;
    }
    Ok(())
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
