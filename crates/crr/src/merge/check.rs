//! What can be said against a change before anything is written.

use std::sync::Arc;

use rusqlite::OptionalExtension;
use rusqlite::types::ValueRef;

use crate::change::SENTINEL;
use crate::pack::{self, KeyError};
use crate::schema::Schema;
use crate::sql::bind_all;
use crate::state::Engine;
use crate::table::Table;
use crate::value::CellValue;
use crate::{Change, Error, MergeOptions, Result};

/// No number of a change may be larger. Leaves ours room below 2^53.
const MAX_INCOMING: i64 = 1 << 52;

/// The check of one changeset.
pub(super) struct Check<'e, 'a> {
    engine: &'e Engine,
    schema: &'e Schema,
    options: &'e MergeOptions,
    /// The table of the last change.
    table: Option<Arc<Table>>,
    /// The key of the last change, which was good.
    pk: &'a [u8],
    key: Key<'a>,
}

impl<'e, 'a> Check<'e, 'a> {
    pub(super) fn new(engine: &'e Engine, schema: &'e Schema, options: &'e MergeOptions) -> Self {
        // Empty is never a good key.
        Check { engine, schema, options, table: None, pk: &[], key: Key::default() }
    }

    /// Checks one change.
    pub(super) fn change(&mut self, change: &Change<'a>) -> Result<()> {
        let table = match self.table.take() {
            Some(table) if table.name == change.table => table,
            _ => {
                self.pk = &[];
                self.schema.table(self.engine.db(), change.table)?
            }
        };
        numbers(change)?;
        if change.cid != SENTINEL && table.column(change.cid.as_bytes()).is_none() {
            return Err(Error::UnknownColumn { table: change.table.to_owned(), column: change.cid.to_owned() });
        }
        if self.pk != change.pk || change.pk.is_empty() {
            self.key.unpack(self.engine, &table, change.pk)?;
            self.pk = change.pk;
        }
        self.leaps(&table, change)?;
        self.table = Some(table);
        Ok(())
    }

    /// Checks how far ahead of the local numbers those of the change are. The database is only asked about numbers that
    /// are beyond the bound by themselves.
    fn leaps(&self, table: &Table, change: &Change<'_>) -> Result<()> {
        let beyond = |value: i64, bound: Option<i64>| bound.filter(|bound| value > *bound);
        let cl_bound = beyond(change.cl, self.options.max_cl_ahead);
        let version_bound = beyond(change.col_version, self.options.max_col_version_ahead);
        if cl_bound.is_none() && version_bound.is_none() {
            return Ok(());
        }
        let local = self.local(table, change)?;
        if let Some(bound) = cl_bound {
            within(change, "cl", change.cl, 0, local.cl.saturating_add(bound))?;
        }
        if let Some(bound) = version_bound {
            // A sentinel's version is its causal length. A column's begins again with each life.
            let known = match change.cid == SENTINEL || change.cl % 2 == 0 {
                true => local.cl,
                false if change.cl > local.cl => 0,
                false => local.col_version,
            };
            within(change, "col_version", change.col_version, 0, known.saturating_add(bound))?;
        }
        Ok(())
    }

    fn local(&self, table: &Table, change: &Change<'_>) -> Result<Local> {
        let db = self.engine.db();
        let mut find = db.prepare_cached(&table.sql.find_key)?;
        bind_all(&mut find, 1, self.key.iter())?;
        let Some(lookaside): Option<i64> = find.raw_query().next()?.map(|row| row.get(0)).transpose()? else {
            return Ok(Local::default());
        };
        let (sentinel, has_columns): (Option<i64>, bool) =
            db.prepare_cached(&table.sql.life)?.query_row([lookaside], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let col_version = db
            .prepare_cached(&table.sql.entry_version)?
            .query_row((lookaside, change.cid), |row| row.get(0))
            .optional()?;
        Ok(Local { cl: sentinel.unwrap_or(i64::from(has_columns)), col_version: col_version.unwrap_or(0) })
    }
}

/// What the database has of the row and the column of a change.
#[derive(Default)]
struct Local {
    cl: i64,
    col_version: i64,
}

fn numbers(change: &Change<'_>) -> Result<()> {
    for (field, value) in
        [("col_version", change.col_version), ("db_version", change.db_version), ("cl", change.cl), ("seq", change.seq)]
    {
        within(change, field, value, 0, MAX_INCOMING)?;
    }
    Ok(())
}

fn within(change: &Change<'_>, field: &'static str, value: i64, least: i64, most: i64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let (table, column) = (change.table.to_owned(), change.cid.to_owned());
    Err(Error::OutOfBounds { table, column, field, value, least, most })
}

/// A primary key, unpacked.
#[derive(Debug, Default)]
pub(super) struct Key<'a> {
    /// As it came; only kept for its memory.
    packed: Vec<ValueRef<'a>>,
    /// As the table's columns store it.
    columns: Vec<CellValue<'a>>,
}

impl<'a> Key<'a> {
    /// Replaces it by another one of the table's.
    pub(super) fn unpack(&mut self, engine: &Engine, table: &Table, pk: &'a [u8]) -> Result<()> {
        let malformed = |reason| Error::MalformedKey { table: table.name.clone(), reason };
        self.columns.clear();
        pack::unpack(pk, &mut self.packed).map_err(malformed)?;
        if self.packed.len() != table.keys.len() {
            return Err(malformed(KeyError::Columns { found: self.packed.len(), wanted: table.keys.len() }));
        }
        for (value, column) in self.packed.iter().zip(&table.keys) {
            let value = engine.stored_as(column.affinity, *value)?;
            match value.get() {
                ValueRef::Null => return Err(malformed(KeyError::Null)),
                ValueRef::Integer(_) => {}
                _ if table.rowid_key => return Err(malformed(KeyError::NotAnInteger)),
                _ => {}
            }
            self.columns.push(value);
        }
        Ok(())
    }

    /// One of its columns; NULL if there are fewer.
    pub(super) fn column(&self, at: usize) -> ValueRef<'_> {
        self.columns.get(at).map_or(ValueRef::Null, CellValue::get)
    }

    /// Its columns, in the key's order.
    pub(super) fn iter(&self) -> impl Iterator<Item = ValueRef<'_>> {
        self.columns.iter().map(CellValue::get)
    }
}
