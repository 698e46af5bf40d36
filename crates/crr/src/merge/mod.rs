//! Merging: what happens to the changes of others.
//!
//! A changeset is checked as a whole before anything is written. Then consecutive changes of one row are taken together:
//! what the database has of the row is read once, the changes are decided in memory one after another, and the outcome is
//! written at once. The outcome is the one that the changes would have had one by one.

mod check;
mod clock;
mod last_row;
mod options;
mod overrule;
mod partial;
mod row;
mod session;
mod sites;
mod winners;
mod write;

use rusqlite::Connection;

pub(crate) use self::last_row::LastRow;
pub use self::options::MergeOptions;
use self::session::{Manner, Session, Traces, Volume};
pub(crate) use self::sites::Authors;
pub use self::winners::Winners;
use self::winners::Winning;
use crate::state::{Engine, SharedEngine};
use crate::{Change, Error, Result, functions};

/// How many changes of one row are taken together at most.
const GROUP: usize = 4096;

/// A merge inside a transaction of the caller's. Several changesets may be merged one after another.
#[derive(Debug)]
pub struct Merge<'t> {
    conn: &'t Connection,
    engine: SharedEngine,
    options: MergeOptions,
    volume: Volume,
    winning: Winning,
}

/// What became of a changeset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Merged {
    /// Changes that won, and are now part of the database.
    pub applied: u64,
    /// Changes without effect: older than what is there, or known.
    pub no_ops: u64,
    /// Those of `applied` that won by comparing values at equal versions.
    pub won_by_value: u64,
    /// The version of the database, the transaction under way included.
    pub db_version: i64,
    /// Rows that a sentinel made or revived, and that did not get all their columns in this changeset. A sender's engine that
    /// changed a primary key sends the new row's sentinel, but of its columns only those that it changed as well. If more than
    /// 65,536 rows wait for columns at a time, those count too that get them later.
    pub partial_rows: u64,
}

impl<'t> Merge<'t> {
    /// Begins a merge inside the open transaction of `tx`, which may be a [`rusqlite::Transaction`].
    ///
    /// # Errors
    ///
    /// If no transaction is open, or the engine wasn't [loaded](crate::load()) into the connection.
    pub fn new(tx: &'t Connection, options: MergeOptions) -> Result<Merge<'t>> {
        Merge::with(tx, functions::engine_of(tx)?, options)
    }

    pub(crate) fn with(tx: &'t Connection, engine: SharedEngine, options: MergeOptions) -> Result<Merge<'t>> {
        if tx.is_autocommit() {
            return Err(Error::NoTransaction);
        }
        let winning = Winning::new(options.winners);
        Ok(Merge { conn: tx, engine, options, volume: Volume::default(), winning })
    }

    /// Merges one changeset, in its order. It is walked twice: checked first, then merged.
    ///
    /// # Errors
    ///
    /// If a check fails, nothing was written and no clock was moved. If SQLite fails afterwards (a constraint of the
    /// application's, a full disk), part of the changeset is in the transaction: the caller has to roll it back.
    /// [`Error::is_refused`] tells whether the changeset is to blame.
    pub fn changeset<'a>(&mut self, changes: impl Iterator<Item = Change<'a>> + Clone) -> Result<Merged> {
        self.walk(changes, Manner::Accept)
    }

    /// Merges one changeset as [`changeset`](Self::changeset) does, if nothing in it has an effect on a table that `may_write` says
    /// no to. What is known already, or known better, has none.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] names the first such table; then, as after an error of SQLite's, part of the changeset is in the
    /// transaction, and the caller has to roll it back. Otherwise as [`changeset`](Self::changeset).
    pub fn changeset_within<'a>(
        &mut self,
        changes: impl Iterator<Item = Change<'a>> + Clone,
        may_write: &dyn Fn(&str) -> bool,
    ) -> Result<Merged> {
        self.walk(changes, Manner::AcceptIn(may_write))
    }

    /// Overrules one changeset: all rows stay as they are, and their clocks become newer than the changes that would have won. So
    /// its sender, and whoever else has those changes, takes this database's rows as soon as it sees them; and the sender's later
    /// changes win again.
    ///
    /// It comes to what merging the changeset and writing the rows back would come to, but no row is written meanwhile: no
    /// constraint and no trigger of the application's is asked. A row that the changeset deletes gets another life here, so that
    /// concurrent changes to the life that ended are lost, as they are when somebody inserts it again.
    ///
    /// [`Merged::applied`] counts the changes that were overruled.
    ///
    /// # Errors
    ///
    /// As [`changeset`](Self::changeset), but for constraints.
    pub fn overrule<'a>(&mut self, changes: impl Iterator<Item = Change<'a>> + Clone) -> Result<Merged> {
        self.walk(changes, Manner::Overrule)
    }

    /// The changes that have won, if the [options](MergeOptions::winners) ask for them. They are what
    /// [`read_changes`](crate::Crr::read_changes) finds in the versions of this transaction once it is committed, if nothing but this
    /// merge has written to CRRs in it.
    ///
    /// `None` if they have to be read, because there are too many, or it isn't sure what the database has of one: so it is if one
    /// transaction writes a row twice, if a trigger of the application's changes a row, or if a column stores another value than it
    /// is given. That a savepoint was rolled back since is for the caller to know, and triggers on the engine's own tables aren't noticed.
    #[must_use]
    pub fn winners(self) -> Option<Winners> {
        self.winning.end()
    }

    fn walk<'a>(&mut self, changes: impl Iterator<Item = Change<'a>> + Clone, manner: Manner<'_>) -> Result<Merged> {
        if self.conn.is_autocommit() {
            return Err(Error::NoTransaction);
        }
        let engine = &*self.engine;
        let schema = engine.schema()?;
        let mut check = check::Check::new(engine, &schema, &self.options);
        changes.clone().try_for_each(|change| check.change(&change))?;

        let _untracked = engine.untracked();
        engine.last_row.forget();
        engine.with_statements(|statements| {
            let traces = Traces { volume: &mut self.volume, winning: &mut self.winning };
            let mut session = Session::new(engine, statements, &self.options, traces, manner)?;
            let mut group: Vec<Change<'a>> = Vec::new();
            for change in changes {
                let is_of_group = |last: &Change<'_>| last.table == change.table && last.pk == change.pk;
                if !group.last().is_some_and(is_of_group) || group.len() >= GROUP {
                    session.merge_row(&schema, &group)?;
                    group.clear();
                }
                group.push(change);
            }
            session.merge_row(&schema, &group)?;
            Ok(session.merged())
        })
    }
}

/// Merges one change for a statement that inserts it into `crsql_changes`.
///
/// If the statement fails, SQLite doesn't undo what ran inside it. So what can fail comes first: the checks, then the write
/// to the application's table, which is one statement here. The engine's own writes follow; if SQLite fails in one of those,
/// it is for reasons that end the transaction.
pub(crate) fn merge_in_statement(engine: &Engine, change: Change<'_>) -> Result<()> {
    let schema = engine.schema()?;
    let options = MergeOptions::default();
    check::Check::new(engine, &schema, &options).change(&change)?;
    let table = schema.table(engine.db(), change.table)?;
    let _writes = engine.own_writes_for_a_row();
    let (mut volume, mut winning) = (Volume::default(), Winning::new(0));
    let traces = Traces { volume: &mut volume, winning: &mut winning };
    let _untracked = engine.untracked();
    engine.with_statements(|statements| {
        Session::new(engine, statements, &options, traces, Manner::Accept)?.merge_next(table, change)
    })
}
