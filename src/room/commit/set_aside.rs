//! Changesets that can't be applied, and what an operator wants done with them.
//!
//! A changeset that is refused is taken apart into its db_versions, which are the transactions of the client that wrote it. Those that
//! can be applied are. The others are written into a file, and only once that is synced the client's position moves past them. In
//! between, a crash leaves a position before the first of them: the client sends it all again, and what was applied is applied again.

use std::iter::Peekable;
use std::path::Path;

use crr::{Crr, Merge, MergeOptions};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tower_sqlite_sync_wire as wire;

use super::super::staged::Staged;
use super::super::writer::{Applied, Changeset, Outcome};
use super::super::{announced, convert};
use super::{Commit, last_version, merge_within};
use crate::error::Error;
use crate::quarantine::{Order, Refused};

/// Changes of one db_version after the other.
#[derive(Clone)]
struct Versions<'a> {
    changes: Peekable<wire::ChangeIter<'a>>,
}

/// Neighbouring changes of one db_version.
#[derive(Clone)]
struct Version<'a> {
    db_version: i64,
    changes: Vec<wire::Change<'a>>,
}

impl<'a> Versions<'a> {
    fn of(changes: &'a wire::ChangeList) -> Self {
        Self { changes: changes.iter().peekable() }
    }
}

impl<'a> Iterator for Versions<'a> {
    type Item = Version<'a>;

    fn next(&mut self) -> Option<Version<'a>> {
        let first = self.changes.next()?;
        let db_version = first.db_version;
        let mut changes = vec![first];
        while let Some(next) = self.changes.next_if(|next| next.db_version == db_version) {
            changes.push(next);
        }
        Some(Version { db_version, changes })
    }
}

/// What was applied of a changeset so far.
#[derive(Default)]
struct Progress {
    changes: u64,
    partial_rows: bool,
    db_version: i64,
}

/// How far a run of db_versions could be merged.
enum Run {
    /// To its end; this is what became of it.
    Merged(Progress),
    /// So many could, and the next one was refused. Nothing is in the database.
    Refused(usize, crr::Error),
}

/// What is done with a changeset that was ordered to be set aside.
enum Done {
    All(Applied),
    /// Up to something that can't be applied either, and about which there is no order.
    UpTo(wire::Position, crr::Error),
}

impl Commit {
    /// What becomes of a changeset that was refused: it is remembered, and set aside if an operator has ordered that.
    pub(super) fn refused(&self, conn: &mut Connection, changeset: &Changeset, error: crr::Error) -> Outcome {
        let site = convert::engine_site(changeset.sender);
        let remember = |position: wire::Position, error: &crr::Error| {
            let up_to = changeset.changes.iter().map(|change| change.db_version).max().unwrap_or(0);
            self.quarantine.refused(
                &self.room,
                site,
                &Refused { identity: changeset.rights.identity.clone(), after: position.db_version, up_to, error },
            );
        };
        let position = Crr::of(conn).and_then(|crr| crr.position(site)).map_or(changeset.since, convert::wire_position);
        remember(position, &error);
        let Some(order) = self.quarantine.order(&self.room, site) else { return self.failed_alone(error) };
        match self.set_aside(conn, changeset, position, &order) {
            Ok(Done::All(applied)) => {
                self.quarantine.forget(&self.room, site);
                Outcome::Applied(applied)
            }
            Ok(Done::UpTo(position, error)) => {
                self.quarantine.forget(&self.room, site);
                remember(position, &error);
                self.failed_alone(error)
            }
            Err(failure) => {
                tracing::error!(room = %self.room, %site, error = %failure, "a changeset can't be set aside: order it again");
                self.quarantine.cancel(&self.room, site);
                self.failed_alone(error)
            }
        }
    }

    fn failed_alone(&self, error: crr::Error) -> Outcome {
        self.failed(error, 1).pop().unwrap_or(Outcome::Failed(Error::GoingAway))
    }

    fn set_aside(
        &self,
        conn: &mut Connection,
        changeset: &Changeset,
        position: wire::Position,
        order: &Order,
    ) -> Result<Done, Error> {
        let engine = |error| Error::engine(&self.room, error);
        let mut progress = Progress { db_version: self.parts.feed.now(), ..Progress::default() };
        let mut aside = wire::ChangeListBuilder::default();
        let mut end = position;
        let mut stopped = None;
        let mut rest = Versions::of(&changeset.changes);
        loop {
            let moves = aside.is_empty();
            let run = self.merge_run(conn, changeset, rest.clone(), moves)?;
            let (fitting, error) = match run {
                Run::Merged(merged) => {
                    progress.add(&merged);
                    end = rest.fold(end, |end, version| end.max(wire::Position::at(version.db_version)));
                    break;
                }
                Run::Refused(fitting, error) => (fitting, error),
            };
            if fitting > 0 {
                match self.merge_run(conn, changeset, rest.clone().take(fitting), moves)? {
                    Run::Merged(merged) => progress.add(&merged),
                    // It could a moment ago.
                    Run::Refused(_, error) => return Err(engine(error)),
                }
                end = rest
                    .by_ref()
                    .take(fitting)
                    .fold(end, |end, version| end.max(wire::Position::at(version.db_version)));
            }
            let Some(unfit) = rest.next() else { break };
            if unfit.db_version > order.up_to {
                stopped = Some(error);
                break;
            }
            tracing::warn!(
                room = %self.room, site = %changeset.sender, db_version = unfit.db_version, %error,
                "a transaction of a client can't be applied and is set aside"
            );
            unfit.changes.into_iter().for_each(|change| aside.push(change));
            end = end.max(wire::Position::at(unfit.db_version));
        }
        if !aside.is_empty() {
            let message = wire::Changes { sender: changeset.sender, since: changeset.since, changes: aside.finish() };
            write(&order.path, &wire::Message::Changes(message).encode()).map_err(|source| Error::Io {
                room: self.room.clone(),
                action: "changes can't be set aside",
                source,
            })?;
        }
        self.move_position(conn, changeset.sender, end)?;
        if let Some(error) = stopped {
            return Ok(Done::UpTo(end, error));
        }
        Ok(Done::All(Applied {
            since: changeset.since,
            position: end,
            partial_rows: progress.partial_rows,
            changes: progress.changes,
            db_version: progress.db_version,
        }))
    }

    /// Merges db_versions in one transaction, if all of them can be. The sender's position moves with them only if `moves`.
    fn merge_run<'a>(
        &self,
        conn: &mut Connection,
        changeset: &Changeset,
        versions: impl Iterator<Item = Version<'a>>,
        moves: bool,
    ) -> Result<Run, Error> {
        let engine = |error| Error::engine(&self.room, error);
        let sender = convert::engine_site(changeset.sender);
        let tx = self.begin(conn)?;
        let mut merge = Merge::new(&tx, MergeOptions::server(self.max_frame_bytes / 2)).map_err(engine)?;
        let mut progress = Progress { db_version: self.parts.feed.now(), ..Progress::default() };
        let mut position = crr::Position::default();
        for (at, version) in versions.enumerate() {
            let changes = version.changes.iter().map(|change| convert::incoming(*change, sender));
            match merge_within(&changeset.rights, &mut merge, changes, changeset.is_refused) {
                Ok(merged) => progress.add(&Progress {
                    changes: merged.applied,
                    partial_rows: merged.partial_rows > 0,
                    db_version: merged.db_version,
                }),
                // What is in the transaction is dropped with it.
                Err(error) if error.is_refused() => return Ok(Run::Refused(at, error)),
                Err(error) => return Err(engine(error)),
            }
            position = position.max(crr::Position { db_version: version.db_version, seq: 0 });
        }
        if moves {
            Crr::of(&tx).and_then(|crr| crr.set_position(sender, position)).map_err(engine)?;
        }
        let now = last_version(tx).map_err(engine)?;
        self.committed(conn, now, None)?;
        Ok(Run::Merged(progress))
    }

    fn move_position(&self, conn: &mut Connection, sender: wire::SiteId, to: wire::Position) -> Result<(), Error> {
        let engine = |error| Error::engine(&self.room, error);
        let (site, to) = (convert::engine_site(sender), convert::engine_position(to));
        let tx = self.begin(conn)?;
        Crr::of(&tx).and_then(|crr| crr.set_position(site, to)).map_err(engine)?;
        // What was set aside would be refused again, with nobody there to set it aside again.
        announced::never_ask_again(&tx, sender).map_err(|error| Error::sqlite(&self.room, error))?;
        let now = last_version(tx).map_err(engine)?;
        self.committed(conn, now, None)
    }

    /// A transaction, unless another process has made something else of the room: the writer finds that out with its next one.
    fn begin<'c>(&self, conn: &'c mut Connection) -> Result<Transaction<'c>, Error> {
        let engine = |error| Error::engine(&self.room, error);
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate);
        let tx = tx.map_err(|error| Error::sqlite(&self.room, error))?;
        match self.is_another_room(&tx).map_err(engine)? {
            false => Ok(tx),
            true => Err(Error::GoingAway),
        }
    }
}

impl Progress {
    fn add(&mut self, more: &Progress) {
        self.changes = self.changes.saturating_add(more.changes);
        self.partial_rows |= more.partial_rows;
        self.db_version = self.db_version.max(more.db_version);
    }
}

/// Writes a new file, whole and synced.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if path.exists() {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    let staged = Staged::beside(path)?;
    std::fs::write(staged.path(), bytes)?;
    staged.settle(None)
}
