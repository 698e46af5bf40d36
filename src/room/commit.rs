//! One transaction of a room's writer: from changesets, or an application's closure, to a durable commit that the feed shows.

mod first;
mod set_aside;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crr::{Crr, Merge, MergeOptions, Merged, Winners};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tower_sqlite_sync_wire as wire;

use self::first::{First, Unsynced};
use super::convert;
use super::database::Log;
use super::follow::{Sight, commits_of_others};
use super::frame::Frame;
use super::lineage::Lineage;
use super::queue::{Queued, Sighting};
use super::schema::ResidentSchema;
use super::writer::{Applied, Changeset, Outcome};
use super::{Origin, Parts, RoomName, Surroundings, announced, log, migration, sites, yielding};
use crate::Durability;
use crate::applied::{AppliedChangeset, Observer};
use crate::config::SyncConfig;
use crate::connection::Close;
use crate::error::Error;
use crate::grant::Refuse;
use crate::meters::Meters;
use crate::primary::Rights;
use crate::quarantine::Quarantine;

/// How many changes are shown without being read back. If there are more, reading takes little of the time.
const MOST_WINNERS: usize = 64;

/// No count of commits.
const UNKNOWN: i64 = -1;

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

/// The room has ended, and its writer is to stop.
struct Over;

/// What became of changesets in a transaction.
enum Transacted {
    /// They are merged, this is the room's db_version with them, and what has won, if that needn't be read.
    Committed(Vec<Outcome>, i64, Option<Winners>),
    /// None was merged.
    Nothing(Vec<Outcome>),
    /// As [`is_another_room`](Commit::is_another_room) says.
    AnotherRoom,
}

/// What a transaction needs to know, on whichever thread it runs.
#[derive(Debug)]
pub(super) struct Commit {
    room: RoomName,
    parts: Parts,
    observer: Arc<Observer>,
    quarantine: Arc<Quarantine>,
    meters: Arc<Meters>,
    max_frame_bytes: usize,
    busy_timeout: Duration,
    durability: Durability,
    /// SQLite's count of the commits of others, at the last look.
    commits_of_others: AtomicI64,
    /// Whether any were [followed](Self::follow) since the last look.
    has_followed_others: AtomicBool,
    /// Whether the next changesets may be the first in the log of a room that was just made, and each commit is to be synced.
    may_begin_log: AtomicBool,
    /// Whether nothing may be committed any more.
    is_over: AtomicBool,
    /// Whether the connection doesn't sync any more.
    is_unsynced: AtomicBool,
}

impl Commit {
    /// `commits_of_others` is what it was when the database was opened, and `is_blank` whether that was just made and left as it was.
    pub(super) fn new(
        room: &RoomName,
        config: &SyncConfig,
        parts: &Parts,
        surroundings: &Surroundings,
        commits_of_others: i64,
        is_blank: bool,
    ) -> Self {
        let (observer, quarantine) = (surroundings.observer.clone(), surroundings.quarantine.clone());
        let meters = surroundings.meters.clone();
        let (max_frame_bytes, busy_timeout) = (config.max_frame_bytes(), config.busy_timeout());
        Self {
            room: room.clone(),
            parts: parts.clone(),
            observer,
            quarantine,
            meters,
            max_frame_bytes,
            busy_timeout,
            durability: config.durability(),
            commits_of_others: AtomicI64::new(commits_of_others),
            has_followed_others: AtomicBool::new(false),
            may_begin_log: AtomicBool::new(is_blank && config.durability().is_synced()),
            is_over: AtomicBool::new(false),
            is_unsynced: AtomicBool::new(false),
        }
    }

    /// Merges what is queued in one transaction. If a changeset is refused, each gets a transaction of its own, so that only the
    /// one at fault fails. (A savepoint for each would cost every batch what only a bad one needs.) Other errors, such as a full
    /// disk or a lock that somebody holds, would meet each of them.
    ///
    /// What its sender's rights may not cover has a transaction of its own from the start, so that whoever sends such things doesn't
    /// make those of others be merged twice.
    ///
    /// Those that clients with another schema have queued are left: their connections are closing, and their changes may not fit. So
    /// are all if another process has just migrated the room, or made it another site.
    ///
    /// # Errors
    ///
    /// [`Error::GoingAway`] if the room has ended, and nothing may be committed any more.
    pub(super) fn changesets(&self, conn: &mut Connection, batch: Vec<Queued>) -> Result<(), Error> {
        let version = self.parts.schema.borrow().version();
        batch.iter().for_each(|queued| self.meters.waited(queued.since));
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
        if self.is_over.load(Ordering::Relaxed) { Err(Error::GoingAway) } else { Ok(()) }
    }

    /// Merges changesets in one transaction if they can be, and answers.
    fn run(&self, conn: &mut Connection, changesets: &[&Changeset]) {
        if self.is_over.load(Ordering::Relaxed) {
            return;
        }
        let begun = Instant::now();
        let outcomes = match changesets {
            [one] => self.alone(conn, one).into_iter().collect::<Vec<_>>(),
            several => match self.together(conn, several, Manner::AsAllowed) {
                Ok(outcomes) => outcomes,
                Err(error) if error.is_refused() => {
                    tracing::debug!(room = %self.room, changesets = several.len(), %error, "batch rolled back, merging one by one");
                    several.iter().map_while(|changeset| self.alone(conn, changeset)).collect()
                }
                Err(error) => self.failed(error, several.len()),
            },
        };
        let changes = outcomes.iter().map(|outcome| match outcome {
            Outcome::Applied(applied) => applied.changes,
            _ => 0,
        });
        self.meters.merged(changesets.len(), changes.sum(), begun.elapsed());
        for (changeset, outcome) in changesets.iter().zip(outcomes) {
            if matches!(outcome, Outcome::Failed(_)) {
                self.meters.changeset_refused();
            }
            if let Outcome::Applied(Applied { position, .. }) = outcome {
                self.quarantine.applied(&self.room, convert::engine_site(changeset.sender), position.db_version);
            }
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
        let engine = |error| Error::engine(&self.room, error);
        self.follow(conn).map_err(engine)?;
        if self.parts.ending.origin() == Origin::Earlier {
            return Err(Error::GoingAway);
        }
        let migrated = migration::migrate(conn, &self.room, resident)?;
        self.check_file()?;
        self.reserve(migrated.now)?;
        // One of them may have done it.
        if self.have_others_committed(conn).map_err(engine)? {
            return self.follow(conn).map_err(engine);
        }
        // In this order: clients with the schema of before leave before there is anything new to see.
        self.parts.schema.send_replace(migrated.schema);
        self.parts.feed.restart(migrated.now);
        Ok(())
    }

    /// Shows what other processes have committed, once it is durable.
    pub(super) fn look(&self, conn: &mut Connection) -> Result<Sighting, Error> {
        self.check_file()?;
        let looked = self.is_nobody_writing(conn).and_then(|is_all| {
            self.follow(conn)?;
            Ok(match self.has_followed_others.swap(false, Ordering::Relaxed) {
                _ if !is_all => Sighting::Unfinished,
                true => Sighting::News,
                false => Sighting::Nothing,
            })
        });
        match looked {
            Err(error) if error.is_busy() => Ok(Sighting::Unfinished),
            looked => {
                looked.map_err(|error| Error::engine(&self.room, error)).inspect_err(|error| self.parts.note(error))
            }
        }
    }

    /// Whether the write lock is free. Whoever holds it has written to the log already, of which the file system told, and will
    /// end its commit in shared memory, of which nothing tells.
    fn is_nobody_writing(&self, conn: &mut Connection) -> crr::Result<bool> {
        conn.busy_timeout(Duration::ZERO)?;
        // Not committed: to the engine that would be a commit of which nothing is known, and it would look everything up again.
        let locked = conn.transaction_with_behavior(TransactionBehavior::Immediate).and_then(Transaction::rollback);
        conn.busy_timeout(self.busy_timeout)?;
        match locked.map_err(crr::Error::from) {
            Ok(()) => Ok(true),
            Err(error) if error.is_busy() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether other processes have committed since this was last [followed](Self::follow); in a transaction, before it began.
    fn have_others_committed(&self, conn: &Connection) -> crr::Result<bool> {
        Ok(commits_of_others(conn)? != self.commits_of_others.load(Ordering::Relaxed))
    }

    /// Whether all that other processes have committed until now was [followed](Self::follow), and none of them is about to commit: its
    /// changes are in the log then, and nothing but shared memory tells when they count.
    pub(super) fn has_followed(&self, conn: &mut Connection) -> bool {
        let Ok(lock) = conn.transaction_with_behavior(TransactionBehavior::Immediate) else { return false };
        let has_followed = matches!(self.have_others_committed(&lock), Ok(false));
        has_followed && lock.finish().is_ok()
    }

    /// Takes note of an error that a job met.
    pub(super) fn note(&self, error: &Error) {
        self.parts.note(error);
    }

    /// Takes over what other processes have committed, and shows it once it is durable.
    fn follow(&self, conn: &mut Connection) -> crr::Result<()> {
        let commits = commits_of_others(conn)?;
        if commits == self.commits_of_others.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.has_followed_others.store(true, Ordering::Relaxed);
        let tx = conn.transaction()?;
        let (sight, lineage) = (Sight::of(&tx)?, Lineage::read(&tx)?);
        tx.commit()?;
        let Some(sight) = sight else {
            self.parts.ending.fail(&Error::NoSuchRoom { room: self.room.clone() });
            return Ok(());
        };
        let is_news = self.is_news(&sight);
        if is_news && self.durability.is_synced() {
            crr::file::sync(conn)?;
        }
        // Otherwise, whoever is about to write finds the same again.
        if sight.site == self.parts.site && sight.now >= self.parts.feed.now() {
            self.commits_of_others.store(commits, Ordering::Relaxed);
        }
        if sight.site != self.parts.site {
            tracing::warn!(room = %self.room, site = %sight.site, "another process has made the room another site");
            match lineage.includes(self.parts.site) {
                true => self.parts.ending.end(Close::forked()),
                // Another database was copied into the file, of which clients may have seen more than it has.
                false => self.parts.ending.fail(&Error::FileReplaced { room: self.room.clone() }),
            }
        } else if is_news && self.reserve(sight.now).is_ok() {
            tracing::debug!(room = %self.room, now = sight.now, "another process has written");
            self.parts.follow(&sight);
            self.show(conn, sight.now, None);
        }
        Ok(())
    }

    fn is_news(&self, sight: &Sight) -> bool {
        let Parts { site, feed, schema, .. } = &self.parts;
        sight.now != feed.now() || sight.site != *site || sight.schema != *schema.borrow()
    }

    /// Runs the application's closure in a transaction.
    pub(super) fn write(&self, conn: &mut Connection, job: WriteJob) -> Result<(), Error> {
        let (sqlite, engine) = (|error| Error::sqlite(&self.room, error), |error| Error::engine(&self.room, error));
        // Another schema is no obstacle, if it is known.
        self.follow(conn).map_err(engine)?;
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sqlite)?;
        if self.is_another_room(&tx).map_err(engine)? {
            tx.rollback().map_err(sqlite)?;
            self.follow(conn).map_err(engine)?;
            return Err(match self.parts.ending.has_ended() {
                true => Error::GoingAway,
                false => Error::Busy { room: self.room.clone() },
            });
        }
        // Should it panic, nothing is committed, and whoever waits for its result is told.
        let verdict = catch_unwind(AssertUnwindSafe(|| job(&tx))).unwrap_or(Verdict::RollBack);
        if verdict == Verdict::RollBack {
            return tx.rollback().map_err(|error| Error::sqlite(&self.room, error));
        }
        let now = last_version(tx).map_err(|error| Error::engine(&self.room, error))?;
        self.committed(conn, now, None)
    }

    /// `None` if it is left, as [`changesets`](Self::changesets) may leave all.
    fn alone(&self, conn: &mut Connection, changeset: &Changeset) -> Option<Outcome> {
        let mut outcomes = self.together(conn, &[changeset], Manner::AsAllowed);
        if let Err(crr::Error::NotPermitted { table }) = &outcomes
            && changeset.rights.refuse == Refuse::Revert
        {
            tracing::info!(room = %self.room, site = %changeset.sender, table, "changes reverted: their sender may not write to the table");
            outcomes = self.together(conn, &[changeset], Manner::Overrule);
        }
        match outcomes {
            Ok(outcomes) => outcomes.into_iter().next(),
            Err(error) if error.is_refused() => Some(self.refused(conn, changeset, error)),
            Err(error) => self.failed(error, 1).pop(),
        }
    }

    /// What an error means for each of so many changesets that it met.
    fn failed(&self, error: crr::Error, changesets: usize) -> Vec<Outcome> {
        let (refused, source) = (error.is_refused(), Arc::new(error));
        if !refused {
            self.parts.note(&Error::engine_shared(&self.room, source.clone()));
        }
        let failed = |source| match refused {
            true => Error::Changeset { room: self.room.clone(), source },
            false => Error::engine_shared(&self.room, source),
        };
        std::iter::repeat_n(source, changesets).map(failed).map(Outcome::Failed).collect()
    }

    fn together(&self, conn: &mut Connection, changesets: &[&Changeset], manner: Manner) -> crr::Result<Vec<Outcome>> {
        if self.is_over.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let merge = |tx: Transaction<'_>| self.merge(tx, changesets, manner);
        let transacted = match self.begin_log(conn, merge) {
            Ok(Some(outcome)) => outcome?,
            Ok(None) => merge(conn.transaction_with_behavior(TransactionBehavior::Immediate)?)?,
            Err(Over) => return Ok(Vec::new()),
        };
        match transacted {
            Transacted::Nothing(outcomes) => Ok(outcomes),
            Transacted::Committed(outcomes, now, winners) => match self.committed(conn, now, winners.as_ref()) {
                Ok(()) => Ok(outcomes),
                Err(_) => {
                    let replaced = || Outcome::Failed(Error::FileReplaced { room: self.room.clone() });
                    Ok(std::iter::repeat_with(replaced).take(changesets.len()).collect())
                }
            },
            Transacted::AnotherRoom => {
                self.follow(conn)?;
                Ok(Vec::new())
            }
        }
    }

    /// Merges changesets, and commits if anything comes of that.
    fn merge(&self, tx: Transaction<'_>, changesets: &[&Changeset], manner: Manner) -> crr::Result<Transacted> {
        if self.is_another_room(&tx)? {
            tx.rollback()?;
            return Ok(Transacted::AnotherRoom);
        }
        // A db_version ends with the row that takes it over the bound. Half a frame leaves room for that row.
        let options = MergeOptions::server(self.max_frame_bytes / 2).winners(MOST_WINNERS);
        let crr = Crr::of(&tx)?;
        let mut merge = crr.merge(options)?;
        let outcomes = changesets
            .iter()
            .map(|changeset| merge_one(&self.room, &tx, &crr, &mut merge, changeset, manner))
            .collect::<crr::Result<Vec<_>>>()?;
        if !outcomes.iter().any(|outcome| matches!(outcome, Outcome::Applied(_))) {
            return Ok(Transacted::Nothing(outcomes));
        }
        let winners = merge.winners();
        let written = crr.aside(|tx| self.parts.announced.write(tx))?;
        let now = crr.stored_db_version()?;
        tx.commit()?;
        self.parts.announced.written(&written);
        Ok(Transacted::Committed(outcomes, now, winners))
    }

    /// Runs a transaction if it is to be the first in the log of a room that was just made. What it came to; `None` if it is not the first.
    fn begin_log<T>(
        &self,
        conn: &mut Connection,
        transact: impl FnOnce(Transaction<'_>) -> crr::Result<T>,
    ) -> Result<Option<crr::Result<T>>, Over> {
        let file = match &self.parts.file {
            Some(file) if self.may_begin_log.swap(false, Ordering::Relaxed) => file,
            _ => return Ok(None),
        };
        match first::commit(conn, &log::path_of(file.real_path()), crr::file::sync_log, transact) {
            Ok(None) => Ok(None),
            Ok(Some(First { outcome, synced: Ok(()) })) => Ok(Some(outcome)),
            // It is committed. Closing the database writes it once more, into the file, and syncs that.
            Ok(Some(First { synced: Err(error), .. })) => Err(self.end(error)),
            Err(Unsynced(error)) => {
                self.is_unsynced.store(true, Ordering::Relaxed);
                Err(self.end(error))
            }
        }
    }

    /// Ends the room because of what is committed and may not be durable: nobody may be told of it, nor build on it.
    fn end(&self, error: crr::Error) -> Over {
        self.is_over.store(true, Ordering::Relaxed);
        let error = Error::engine(&self.room, error);
        self.parts.note(&error);
        self.parts.ending.fail(&error);
        Over
    }

    /// Whether the database must be left as it is: what would be written back is not synced.
    pub(super) fn is_unsynced(&self) -> bool {
        self.is_unsynced.load(Ordering::Relaxed)
    }

    /// Whether another process has just made the room another site, given it another schema, or put an earlier database into its
    /// file. Nothing may be written into that one before it forks: it would be under db_versions that clients have passed, and come
    /// as far as they have seen, so that nobody would notice.
    ///
    /// A room that has ended may have done so because of what was seen in it: that is no news any more, and what was queued before
    /// must not be merged into it.
    fn is_another_room(&self, tx: &Transaction<'_>) -> crr::Result<bool> {
        let Parts { site, feed, schema, ending, .. } = &self.parts;
        if ending.origin() == Origin::Earlier {
            return Ok(true);
        }
        if !ending.has_ended() && !self.have_others_committed(tx)? {
            return Ok(false);
        }
        let is_known =
            |sight: Sight| sight.site == *site && sight.now >= feed.now() && sight.schema == *schema.borrow();
        Ok(!Sight::of(tx)?.is_some_and(is_known))
    }

    /// Shows the feed what we have committed, up to `now`, and what others have. `winners` is what has won in it, if that is known.
    ///
    /// # Errors
    ///
    /// [`Error::FileReplaced`] if it went into a file that nobody will find: nothing is shown, and the room ends.
    fn committed(&self, conn: &mut Connection, now: i64, winners: Option<&Winners>) -> Result<(), Error> {
        self.check_file()?;
        let shown = match self.have_others_committed(conn) {
            Ok(false) => {
                self.show(conn, now, winners);
                return Ok(());
            }
            // Ours is durable. But without anything to write, it has not made theirs so.
            Ok(true) => self.follow(conn),
            Err(error) => Err(error),
        };
        if let Err(error) = shown {
            // What is committed is committed, but it can't be shown.
            self.parts.ending.fail(&Error::engine(&self.room, error));
        }
        Ok(())
    }

    fn check_file(&self) -> Result<(), Error> {
        self.parts.check_file().inspect_err(|error| self.parts.ending.fail(error))
    }

    /// Shows the feed what is durable up to `now`, which holds nothing of others that they were not [followed](Self::follow) in. `winners`
    /// is what has won in the last transaction, if that is known.
    fn show(&self, conn: &mut Connection, now: i64, winners: Option<&Winners>) {
        let shown = self.parts.feed.now();
        if now < shown {
            self.parts.ending.fail(&Error::WentBack { room: self.room.clone(), stored: now, shown });
            return;
        }
        if self.reserve(now).is_err() {
            return;
        }
        // The usual, small commit is encoded while it is still in the cache. If others wait to be encoded, or this one is large, the
        // connections have it encoded at their pace.
        if now > shown && self.parts.feed.head() == shown {
            let frame = match winners.filter(|winners| winners.after() == shown) {
                Some(winners) => Ok(Some(Frame::of(winners, shown, now, self.max_frame_bytes))),
                None => self.read_frame(conn, shown, now),
            };
            match frame {
                Ok(Some(frame)) => self.parts.feed.publish(frame),
                Ok(None) => {}
                Err(error) => tracing::warn!(room = %self.room, %error, "what was committed can't be read back yet"),
            }
        }
        self.parts.feed.advance(now);
        if let Some(page) = &self.parts.page {
            page.shown(self.parts.site, now);
        }
    }

    /// Reserves versions before they are shown. If they can't be, the room ends: what is committed is committed, and is shown when it is
    /// opened again.
    fn reserve(&self, now: i64) -> Result<(), Error> {
        let reserved = self.parts.reserve(now).map_err(|error| Error::sqlite(&self.room, error));
        reserved.inspect_err(|error| self.parts.ending.fail(error))
    }

    /// Forgets how far the room has a site's changes, because its database went back.
    pub(super) fn forget(&self, conn: &mut Connection, site: wire::SiteId) -> Result<(), Error> {
        let forget = |conn: &mut Connection| -> crr::Result<()> {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            Crr::of(&tx)?.forget_position(convert::engine_site(site))?;
            announced::begin_again(&tx, site)?;
            let written = self.parts.announced.write(&tx)?;
            tx.commit()?;
            self.parts.announced.written(&written);
            Ok(())
        };
        forget(conn).map_err(|error| Error::engine(&self.room, error))
    }

    /// Where what goes on is counted.
    pub(super) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Takes over what has become of the file of a room that slept.
    pub(super) fn woken(&self, conn: &mut Connection, log: Log) -> Result<(), Error> {
        if log == Log::Damaged {
            // By another process, which can't have had it open for long.
            return Err(Error::FileReplaced { room: self.room.clone() });
        }
        if let Some(file) = &self.parts.file {
            file.check_reader(conn)?;
        }
        self.commits_of_others.store(UNKNOWN, Ordering::Relaxed);
        self.follow(conn).map_err(|error| Error::engine(&self.room, error))
    }

    /// The last commit, before the database is closed.
    pub(super) fn finish(&self, conn: &mut Connection) {
        if !self.parts.announced.has_unwritten() {
            return;
        }
        let finish = |conn: &mut Connection| -> rusqlite::Result<()> {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let written = self.parts.announced.write(&tx)?;
            tx.commit()?;
            self.parts.announced.written(&written);
            Ok(())
        };
        if let Err(error) = finish(conn) {
            tracing::warn!(room = %self.room, %error, "what sites have announced is not written");
        }
    }

    /// Notes in the ledger that the database is closed, and whether as it should be. Blocks.
    pub(super) fn closed(&self, soundly: bool) {
        let Parts { page: Some(page), site, feed, ending, .. } = &self.parts else { return };
        if soundly
            && ending.origin() == Origin::Same
            && !ending.is_damaged()
            && let Err(error) = page.close(*site, feed.now())
        {
            tracing::warn!(room = %self.room, %error, "it can't be noted that the room was closed");
        }
        page.leave();
    }

    /// `None` if others have committed again: what they replaced may be durable, and what they put there may not be.
    fn read_frame(&self, conn: &mut Connection, after: i64, upto: i64) -> crr::Result<Option<Frame>> {
        let tx = conn.transaction()?;
        let frame = Frame::read(&tx, after, upto, None, self.max_frame_bytes)?;
        let is_ours = !self.have_others_committed(&tx)?;
        tx.commit()?;
        Ok(is_ours.then_some(frame))
    }
}

/// Merges a changeset if it continues what the room has from its sender, and moves the sender's position, which is read here, inside
/// the transaction.
fn merge_one(
    room: &RoomName,
    tx: &Transaction<'_>,
    crr: &Crr<'_>,
    merge: &mut Merge<'_>,
    changeset: &Changeset,
    manner: Manner,
) -> crr::Result<Outcome> {
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
    let changes = changeset.changes.iter().enumerate().map(|(number, change)| {
        yielding::after_change(number);
        convert::incoming(change, sender)
    });
    let merged = merge_within(rights, merge, changes, overrules)?;
    let (is_new, count) = (position == crr::Position::default(), changeset.changes.len());
    crr.aside(|tx| match overrules {
        true => announced::never_ask_again(tx, changeset.sender),
        false => announced::count(tx, changeset.sender, is_new, count),
    })?;
    let end = changeset.changes.iter().map(|change| change.db_version).max().unwrap_or(position.db_version);
    let position = position.max(crr::Position { db_version: end, seq: 0 });
    crr.set_position(sender, position)?;
    crr.aside(|tx| sites::bind(tx, changeset.sender, holder.as_deref(), rights))?;
    Ok(Outcome::Applied(Applied {
        since: changeset.since,
        position: convert::wire_position(position),
        partial_rows: merged.partial_rows > 0,
        changes: if overrules { 0 } else { merged.applied },
        db_version: merged.db_version,
    }))
}

/// Merges changes as far as their sender's rights allow it, or has their sender take the room's rows instead.
fn merge_within<'c>(
    rights: &Rights,
    merge: &mut Merge<'_>,
    changes: impl Iterator<Item = crr::Change<'c>> + Clone,
    overrules: bool,
) -> crr::Result<Merged> {
    match rights.tables {
        _ if overrules => merge.overrule(changes),
        Some(_) if rights.brings_back => merge.changeset(changes.filter(|change| rights.may_write(change.table))),
        Some(_) => merge.changeset_within(changes, &|table| rights.may_write(table)),
        None => merge.changeset(changes),
    }
}

/// Commits and says up to which db_version there is anything. The version is read before the commit: what another process commits
/// after ours is not made durable by it.
fn last_version(tx: Transaction<'_>) -> crr::Result<i64> {
    let now = Crr::of(&tx)?.stored_db_version()?;
    tx.commit()?;
    Ok(now)
}
