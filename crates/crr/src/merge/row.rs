//! One row and the changes that want to change it: who wins.

use std::cmp::Ordering;

use rusqlite::types::ValueRef;

use super::check::Key;
use super::clock::{Author, Entry, RowClock};
use super::session::Session;
use crate::change::SENTINEL;
use crate::sql::bind_all;
use crate::state::Engine;
use crate::table::Table;
use crate::value::{self, CellValue, OwnedValue};
use crate::{Change, Error, Result, SiteId};

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Win {
    /// It lost, or is known.
    No,
    /// It deleted the row.
    Delete,
    /// A sentinel made or revived the row.
    Raise,
    /// It set a column.
    Set,
    /// It set a column, having won by its value.
    SetByValue,
    /// It revived the row and set a column.
    ReviveAndSet,
}

impl Win {
    /// How much it counts in `crsql_rows_impacted()`.
    pub(super) fn impact(self) -> i64 {
        match self {
            Win::No => 0,
            Win::Delete | Win::Raise | Win::Set | Win::SetByValue => 1,
            Win::ReviveAndSet => 2,
        }
    }
}

/// A row's values in the database.
#[derive(Debug, Default)]
enum Stored {
    #[default]
    NotRead,
    Missing,
    Values(Vec<OwnedValue>),
}

/// A row as the changes decided so far leave it.
#[derive(Debug, Default)]
pub(super) struct RowState<'a> {
    pub(super) key: Key<'a>,
    pub(super) clock: RowClock,
    /// Whether the database has the row, as far as its entries tell.
    pub(super) was_alive: bool,
    /// Values to write, by column, as they came.
    pub(super) values: Vec<Option<ValueRef<'a>>>,
    stored: Stored,
    /// The row that the database has is to be deleted, with all its entries, before anything else.
    pub(super) delete: bool,
    /// There has to be a row in the end, even if no value is written.
    pub(super) create: bool,
    /// Authors whose changes won, in order.
    pub(super) authors: Vec<SiteId>,
    /// Whether more was written with the row than the row: triggers of the application's may have written to its clock.
    pub(super) disturbed: bool,
}

impl<'a> RowState<'a> {
    /// Begins with what the database has. `known` is the row's clock, if it needn't be read.
    pub(super) fn load(
        &mut self,
        session: &mut Session<'_, '_, 'a>,
        table: &Table,
        pk: &'a [u8],
        known: Option<RowClock>,
    ) -> Result<()> {
        self.key.unpack(session.engine, table, pk)?;
        match known {
            Some(clock) => self.clock = clock,
            None => self.clock.read(session.statements, table, &self.key)?,
        }
        self.was_alive = self.clock.cl % 2 != 0;
        self.values.clear();
        self.values.resize(table.columns.len(), None);
        self.stored = Stored::NotRead;
        (self.delete, self.create, self.disturbed) = (false, false, false);
        self.authors.clear();
        Ok(())
    }

    /// Whether the row is made, or columns of it are set.
    pub(super) fn sets_row(&self) -> bool {
        self.create || self.values.iter().any(Option::is_some)
    }

    /// Whether anything has to be written.
    pub(super) fn has_changed(&self) -> bool {
        self.delete || self.sets_row()
    }

    /// Decides one change, and takes it over if it wins.
    pub(super) fn decide(
        &mut self,
        session: &mut Session<'_, '_, 'a>,
        table: &Table,
        change: &Change<'a>,
    ) -> Result<Win> {
        if change.cl < self.clock.cl {
            return Ok(Win::No);
        }
        let ahead = change.cl > self.clock.cl;
        // Whatever its column, a change of an even life is the row's death.
        if change.cl % 2 == 0 {
            return if ahead { self.delete(session, change) } else { Ok(Win::No) };
        }
        if change.cid == SENTINEL {
            return if ahead { self.raise(session, change) } else { Ok(Win::No) };
        }
        let column = table
            .column(change.cid.as_bytes())
            .ok_or_else(|| Error::UnknownColumn { table: table.name.clone(), column: change.cid.to_owned() })?;
        if !ahead {
            return self.compare(session, table, column, change);
        }
        // A first life needs no sentinel.
        let revives = self.clock.cl != 0 || change.cl > 1;
        if revives {
            self.revive(session, change)?;
        }
        self.clock.cl = change.cl;
        self.set(session, column, change, Author::of(change))?;
        Ok(if revives { Win::ReviveAndSet } else { Win::Set })
    }

    fn delete(&mut self, session: &mut Session<'_, '_, 'a>, change: &Change<'a>) -> Result<Win> {
        let version = session.next_version(change.db_version)?;
        self.won(change);
        self.clock.entries.fill(None);
        self.values.fill(None);
        (self.delete, self.create) = (true, false);
        self.clock.sentinel = Some(Entry::raised_by(change, None, version));
        self.clock.cl = change.cl;
        Ok(Win::Delete)
    }

    fn raise(&mut self, session: &mut Session<'_, '_, 'a>, change: &Change<'a>) -> Result<Win> {
        self.revive(session, change)?;
        self.clock.cl = change.cl;
        Ok(Win::Raise)
    }

    /// Begins a new life. Columns of a life before keep their values, at version 0: whatever the new life writes, wins.
    fn revive(&mut self, session: &mut Session<'_, '_, 'a>, change: &Change<'a>) -> Result<()> {
        let version = session.next_version(change.db_version)?;
        self.won(change);
        for entry in self.clock.entries.iter_mut().flatten() {
            (entry.col_version, entry.db_version, entry.dirty) = (0, version, true);
        }
        self.create = true;
        self.clock.sentinel = Some(Entry::raised_by(change, self.clock.sentinel, version));
        Ok(())
    }

    /// Decides a column's change in the life that the row is in.
    fn compare(
        &mut self,
        session: &mut Session<'_, '_, 'a>,
        table: &Table,
        column: usize,
        change: &Change<'a>,
    ) -> Result<Win> {
        let Some(entry) = self.clock.entries.get(column).copied().flatten() else {
            self.set(session, column, change, Author::of(change))?;
            return Ok(Win::Set);
        };
        match change.col_version.cmp(&entry.col_version) {
            Ordering::Less => return Ok(Win::No),
            Ordering::Greater => {
                self.set(session, column, change, Author::of(change))?;
                return Ok(Win::Set);
            }
            Ordering::Equal => {}
        }
        let engine = session.engine;
        let incoming = stored_as(engine, table, column, change.val)?;
        match value::order(incoming.get(), self.value(engine, table, column)?.get()) {
            Ordering::Less => Ok(Win::No),
            Ordering::Greater => {
                let author = match session.options.ties_become_local {
                    true => Author::LOCAL,
                    false => Author::of(change),
                };
                self.set(session, column, change, author)?;
                Ok(Win::SetByValue)
            }
            Ordering::Equal if session.merges_equal_values()? => {
                let theirs = change.site_id.as_ref().map(|site| site.as_bytes().as_slice()).unwrap_or_default();
                if theirs <= author_bytes(engine, entry.author)?.as_slice() {
                    return Ok(Win::No);
                }
                self.set(session, column, change, Author::of(change))?;
                Ok(Win::Set)
            }
            Ordering::Equal => Ok(Win::No),
        }
    }

    fn set(
        &mut self,
        session: &mut Session<'_, '_, 'a>,
        column: usize,
        change: &Change<'a>,
        author: Author,
    ) -> Result<()> {
        let version = session.next_version(change.db_version)?;
        if let Author::Site(_) = author {
            self.won(change);
        }
        if let Some(entry) = self.clock.entries.get_mut(column) {
            *entry = Some(Entry::won_by(change, *entry, version, author));
        }
        if let Some(value) = self.values.get_mut(column) {
            *value = Some(change.val);
        }
        Ok(())
    }

    fn won(&mut self, change: &Change<'_>) {
        if let Some(site) = change.site_id.filter(|site| self.authors.last() != Some(site)) {
            self.authors.push(site);
        }
    }

    /// The value that a column of the row has now: one that has won, or the one in the database.
    fn value(&mut self, engine: &Engine, table: &Table, column: usize) -> Result<CellValue<'_>> {
        if let Some(value) = self.values.get(column).copied().flatten() {
            return stored_as(engine, table, column, value);
        }
        self.read_stored(engine, table)?;
        let value = self.stored_value(column).map(CellValue::Borrowed);
        value.ok_or_else(|| Error::MissingRow { table: table.name.clone() })
    }

    /// The value in the database, if the row was read and is there.
    pub(super) fn stored_value(&self, column: usize) -> Option<ValueRef<'_>> {
        match &self.stored {
            Stored::Values(values) => values.get(column).map(OwnedValue::get),
            Stored::NotRead | Stored::Missing => None,
        }
    }

    /// Reads the row's values from the database, once.
    pub(super) fn read_stored(&mut self, engine: &Engine, table: &Table) -> Result<()> {
        if !matches!(self.stored, Stored::NotRead) {
            return Ok(());
        }
        let mut statement = engine.db().prepare_cached(&table.sql.row)?;
        bind_all(&mut statement, 1, self.key.iter())?;
        let mut rows = statement.raw_query();
        self.stored = match rows.next()? {
            None => Stored::Missing,
            Some(row) => {
                let values = (0..table.columns.len()).map(|at| Ok(row.get_ref(at)?.into()));
                Stored::Values(values.collect::<Result<_>>()?)
            }
        };
        Ok(())
    }
}

fn stored_as<'a>(engine: &Engine, table: &Table, column: usize, value: ValueRef<'a>) -> Result<CellValue<'a>> {
    match table.columns.get(column) {
        Some(column) => Ok(engine.stored_as(column.affinity, value)?),
        None => Ok(CellValue::Borrowed(value)),
    }
}

fn author_bytes(engine: &Engine, author: Author) -> Result<Vec<u8>> {
    match author {
        Author::Site(site) => Ok(site.as_bytes().to_vec()),
        Author::Ordinal(ordinal) => {
            let mut statement =
                engine.db().prepare_cached("SELECT site_id FROM main.crsql_site_id WHERE ordinal = ?1")?;
            let mut rows = statement.query([ordinal])?;
            Ok(rows.next()?.map(|row| row.get(0)).transpose()?.unwrap_or_default())
        }
    }
}
