//! One changeset on its way in: versions, counts, and which rows stay partial.

use std::sync::Arc;

use super::Merged;
use super::partial::PartialRows;
use super::row::{RowState, Win};
use super::sites::Sites;
use super::winners::Winning;
use crate::schema::Schema;
use crate::state::Engine;
use crate::statements::Statements;
use crate::table::Table;
use crate::version::{MAX_VERSION, next_after};
use crate::{Change, Error, MergeOptions, Result};

/// What was written under the current version, across the changesets of one merge.
#[derive(Debug, Default)]
pub(super) struct Volume {
    version: i64,
    bytes: usize,
}

impl Volume {
    /// Counts an entry written under a version.
    fn add(&mut self, version: i64, bytes: usize) {
        if version > self.version {
            (self.version, self.bytes) = (version, 0);
        }
        if version == self.version {
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }
}

/// What the changesets of one merge leave for those that follow, or for whoever began it.
#[derive(Debug)]
pub(super) struct Traces<'e> {
    pub(super) volume: &'e mut Volume,
    pub(super) winning: &'e mut Winning,
}

/// What becomes of changes that win.
#[derive(Clone, Copy)]
pub(super) enum Manner<'e> {
    /// They are written.
    Accept,
    /// They are written, unless this says no to their table.
    AcceptIn(&'e dyn Fn(&str) -> bool),
    /// The row stays as it is, under a clock that wins over them.
    Overrule,
}

impl Manner<'_> {
    fn permits(self, table: &Table) -> bool {
        match self {
            Manner::AcceptIn(may_write) => may_write(&table.name),
            Manner::Accept | Manner::Overrule => true,
        }
    }
}

/// The merge of one changeset.
pub(super) struct Session<'e, 'c, 'a> {
    pub(super) engine: &'e Engine,
    pub(super) options: &'e MergeOptions,
    pub(super) sites: Sites,
    pub(super) statements: &'e mut Statements<'c>,
    traces: Traces<'e>,
    manner: Manner<'e>,
    merged: Merged,
    /// The database's version before the transaction.
    current: i64,
    /// The version of the transaction, as far as changes have won. Published when they are written.
    pending: i64,
    /// Where the next version begins at least.
    floor: i64,
    /// The setting of that name, once it was needed.
    merge_equal_values: Option<i64>,
    partial: PartialRows<'a>,
    table: Option<Arc<Table>>,
    /// Whether changes of that table may win.
    permitted: bool,
    /// The row under way; kept for its buffers.
    row: RowState<'a>,
}

impl<'e, 'c, 'a> Session<'e, 'c, 'a> {
    /// To be called just after the schema was refreshed.
    pub(super) fn new(
        engine: &'e Engine,
        statements: &'e mut Statements<'c>,
        options: &'e MergeOptions,
        traces: Traces<'e>,
        manner: Manner<'e>,
    ) -> Result<Self> {
        let current = engine.current_version_after_refresh()?;
        traces.winning.begin(current);
        Ok(Session {
            engine,
            options,
            sites: Sites::default(),
            statements,
            traces,
            manner,
            merged: Merged::default(),
            current,
            pending: engine.clock.pending().unwrap_or(0),
            floor: 0,
            merge_equal_values: None,
            partial: PartialRows::default(),
            table: None,
            permitted: true,
            row: RowState::default(),
        })
    }

    /// Merges changes of one row, at least one, all of the same table and key.
    pub(super) fn merge_row(&mut self, schema: &Schema, changes: &[Change<'a>]) -> Result<()> {
        let Some(first) = changes.first() else { return Ok(()) };
        let table = match self.table.take() {
            Some(table) if table.name == first.table => table,
            _ => {
                let table = schema.table(self.engine.db(), first.table)?;
                self.permitted = self.manner.permits(&table);
                table
            }
        };
        self.begin_row();
        let mut row = std::mem::take(&mut self.row);
        row.load(self, &table, first.pk, None)?;
        self.merge_into(&mut row, &table, changes)?;
        self.row = row;
        self.table = Some(table);
        Ok(())
    }

    /// Merges one change of a row that may be the last one's.
    pub(super) fn merge_next(mut self, table: Arc<Table>, change: Change<'a>) -> Result<()> {
        let engine = self.engine;
        let known = engine.last_row.take(&table, change.pk, engine.db().total_changes());
        let mut row = RowState::default();
        row.load(&mut self, &table, change.pk, known)?;
        self.merge_into(&mut row, &table, &[change])?;
        if row.clock.lookaside.is_some() && !row.disturbed {
            engine.last_row.remember(table, change.pk, row.clock, engine.db().total_changes());
        }
        Ok(())
    }

    fn merge_into(&mut self, row: &mut RowState<'a>, table: &Table, changes: &[Change<'a>]) -> Result<()> {
        let overrules = matches!(self.manner, Manner::Overrule);
        let before = overrules.then(|| row.clock.clone());
        let mut impacted = 0;
        for change in changes {
            let win = row.decide(self, table, change)?;
            impacted += win.impact();
            self.count(table, change, win)?;
        }
        if row.has_changed() {
            if let Some(before) = before {
                row.overrule(self, before)?;
            }
            row.write(self, table)?;
            self.engine.clock.raise_pending(self.pending);
            self.engine.rows_impacted.set(self.engine.rows_impacted.get().saturating_add(impacted));
        }
        Ok(())
    }

    /// What became of the changeset.
    pub(super) fn merged(&self) -> Merged {
        // A row that is overruled lacks nothing.
        let partial_rows = if matches!(self.manner, Manner::Overrule) { 0 } else { self.partial.count() };
        Merged { db_version: self.current.max(self.pending), partial_rows, ..self.merged }
    }

    /// The version for a change that won, and that carries `incoming`.
    pub(super) fn next_version(&mut self, incoming: i64) -> Result<i64> {
        let capped = match self.options.max_db_version_raise {
            Some(raise) => incoming.min(self.current.saturating_add(raise)),
            None => incoming,
        };
        let next = next_after(self.current)?.max(self.pending).max(self.floor).max(capped);
        if next > MAX_VERSION {
            return Err(Error::ClockExhausted);
        }
        self.pending = next;
        Ok(next)
    }

    /// Whether the larger site id wins between equal values.
    pub(super) fn merges_equal_values(&mut self) -> Result<bool> {
        let setting = match self.merge_equal_values {
            Some(setting) => setting,
            None => self.engine.merge_equal_values()?,
        };
        self.merge_equal_values = Some(setting);
        Ok(setting == 1)
    }

    /// Whether sizes matter.
    pub(super) fn weighs(&self) -> bool {
        self.options.version_bytes.is_some()
    }

    /// Counts an entry that is written.
    pub(super) fn weigh(&mut self, version: i64, bytes: usize) {
        self.traces.volume.add(version, bytes);
    }

    /// A row was written; see [`Winning::wrote`].
    pub(super) fn wrote(&mut self, table: &Table, row: &RowState<'_>, rows: (u64, bool)) -> Result<()> {
        self.traces.winning.wrote(self.engine, table, row, rows)
    }

    /// A version that has become too large ends before a row, never inside one.
    fn begin_row(&mut self) {
        let full = self.options.version_bytes.is_some_and(|limit| self.traces.volume.bytes > limit);
        if full && self.traces.volume.version == self.pending {
            self.floor = self.pending.saturating_add(1);
        }
    }

    fn count(&mut self, table: &Table, change: &Change<'a>, win: Win) -> Result<()> {
        if win == Win::No {
            self.merged.no_ops += 1;
            return Ok(());
        }
        if !self.permitted {
            return Err(Error::NotPermitted { table: table.name.clone() });
        }
        self.merged.applied += 1;
        self.merged.won_by_value += u64::from(win == Win::SetByValue);

        let (name, pk) = (change.table, change.pk);
        match win {
            Win::Raise => self.partial.raised(name, pk, change.cl, table.columns.len()),
            Win::Delete => self.partial.deleted(name, pk),
            _ => self.partial.set(name, pk, change.cl),
        }
        Ok(())
    }
}
