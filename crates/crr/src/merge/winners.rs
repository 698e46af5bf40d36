//! The changes that have won, as they would be read back from the database after the transaction.
//!
//! Whoever sends on what was merged needs just those, and reading them takes longer than merging a few. They are only kept where it
//! is sure what the database has of them:
//!
//! - Each row was written once in the transaction. What a later change makes of one may replace what an earlier one has left.
//! - Nothing but the row was written with it. A trigger of the application's may have changed it, or one before it.
//! - The values were given, and are stored as given, or as something that their columns' affinity says.
//! - The key is that of a new row, or can be equal to no other one.
//!
//! It takes the engine's own tables for what the engine has made of them: without triggers, and without entries of a row that has
//! no key in the lookaside.

use std::sync::Arc;

use rusqlite::types::ValueRef;

use super::clock::{Author, Entry};
use super::row::RowState;
use super::write::length;
use crate::change::SENTINEL;
use crate::read::pack_key;
use crate::state::Engine;
use crate::table::{Column, Definition, Table};
use crate::value::{Affinity, CellValue, OwnedValue};
use crate::{Change, Result, SiteId};

/// How many bytes of keys and values are kept at most.
const MOST_BYTES: usize = 1 << 16;

/// The changes that have won in a merge, as [`read_changes`](crate::Crr::read_changes) would hand them out after it, in the same
/// order.
#[derive(Debug, Default)]
pub struct Winners {
    after: i64,
    rows: Vec<Row>,
    entries: Vec<Winner>,
    bytes: usize,
}

#[derive(Debug)]
struct Row {
    table: Arc<Definition>,
    lookaside: i64,
    pk: Vec<u8>,
    cl: i64,
}

/// An entry that was written.
#[derive(Debug)]
struct Winner {
    /// Its row's position.
    row: usize,
    /// `None` for the sentinel.
    column: Option<usize>,
    val: OwnedValue,
    col_version: i64,
    db_version: i64,
    site_id: SiteId,
    seq: i64,
}

impl Winners {
    /// The `db_version` that the database had before the transaction: all of them come after it.
    pub fn after(&self) -> i64 {
        self.after
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing has won.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Each of them, in the order of (`db_version`, `seq`).
    pub fn iter(&self) -> impl Iterator<Item = Change<'_>> {
        self.entries.iter().filter_map(|winner| {
            let row = self.rows.get(winner.row)?;
            let column = winner.column.and_then(|at| row.table.columns.get(at));
            Some(Change {
                table: &row.table.name,
                pk: &row.pk,
                cid: column.map_or(SENTINEL, |column| &column.name),
                val: winner.val.get(),
                col_version: winner.col_version,
                db_version: winner.db_version,
                site_id: Some(winner.site_id),
                cl: row.cl,
                seq: winner.seq,
            })
        })
    }

    /// Adds what was written of a row. False if that is not sure, or too much.
    fn add(&mut self, engine: &Engine, table: &Table, row: &RowState<'_>, is_new: bool) -> Result<bool> {
        let Some(lookaside) = row.clock.lookaside else { return Ok(false) };
        let is_of_row = |known: &Row| known.lookaside == lookaside && known.table.name == table.name;
        let mut key = table.keys.iter().zip(row.key.iter());
        let is_key_sure =
            table.compares_keys_by_bytes() && key.all(|(column, value)| is_key_stored_so(column, value, is_new));
        if !is_key_sure || self.rows.iter().any(is_of_row) {
            return Ok(false);
        }
        let mut pk = Vec::new();
        pack_key(table, &mut pk, |at| Ok(row.key.column(at)))?;
        let at = self.rows.len();
        self.bytes = self.bytes.saturating_add(pk.len());
        // As those who read it conclude.
        let cl = row.clock.sentinel.map_or(1, |sentinel| sentinel.col_version);
        self.rows.push(Row { table: table.definition().clone(), lookaside, pk, cl });

        let mut add = |column: Option<usize>, entry: &Entry, val: ValueRef<'_>| {
            let Author::Site(site_id) = entry.author else { return false };
            self.bytes = self.bytes.saturating_add(length(val));
            if self.bytes > MOST_BYTES {
                return false;
            }
            let Entry { col_version, db_version, seq, .. } = *entry;
            self.entries.push(Winner { row: at, column, val: val.into(), col_version, db_version, site_id, seq });
            true
        };
        if let Some(sentinel) = row.clock.sentinel.filter(|entry| entry.dirty)
            && !add(None, &sentinel, ValueRef::Null)
        {
            return Ok(false);
        }
        for (at, entry) in row.clock.entries.iter().enumerate() {
            let Some(entry) = entry.filter(|entry| entry.dirty) else { continue };
            let (Some(column), Some(Some(given))) = (table.columns.get(at), row.values.get(at)) else {
                return Ok(false);
            };
            let is_sure = match engine.stored_as(column.affinity, *given)? {
                CellValue::Borrowed(ValueRef::Null) if column.not_null => false,
                CellValue::Borrowed(value) => is_stored_so(value) && add(Some(at), &entry, value),
                CellValue::Made(_) => false,
            };
            if !is_sure {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether SQLite hands a value out as it was stored. It stores a zero with a sign only in some columns; and texts in UTF-16, if the file
/// says so, which it reads from what is no text, or has the characters that are none, as something else.
fn is_stored_so(value: ValueRef<'_>) -> bool {
    match value {
        ValueRef::Real(number) => number != 0.0 || number.is_sign_positive(),
        ValueRef::Text(bytes) => std::str::from_utf8(bytes).is_ok_and(|text| !text.contains(['\u{fffe}', '\u{ffff}'])),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Blob(_) => true,
    }
}

/// As an integer it is the least, -2^63.
const LEAST: f64 = -9_223_372_036_854_775_808.0;

/// Whether a value of a key is what the lookaside has of it. That of a row that was there may have come as another one that is equal:
/// 1 as 1.0, in a column that takes both, zero with a sign, and the one real that is an integer's equal and does not become it.
fn is_key_stored_so(column: &Column, value: ValueRef<'_>, is_new: bool) -> bool {
    let has_equals = match value {
        ValueRef::Integer(number) => column.affinity == Affinity::Blob || number == i64::MIN,
        ValueRef::Real(number) => column.affinity == Affinity::Blob || number == 0.0 || number == LEAST,
        ValueRef::Text(_) | ValueRef::Blob(_) | ValueRef::Null => false,
    };
    is_stored_so(value) && (is_new || !has_equals)
}

/// The winners of a merge under way.
#[derive(Debug)]
pub(super) struct Winning {
    /// `None` if they have to be read.
    winners: Option<Winners>,
    most: usize,
}

impl Winning {
    /// Keeps so many at most.
    pub(super) fn new(most: usize) -> Self {
        Winning { winners: (most > 0).then(Winners::default), most }
    }

    /// A changeset is merged into a database that had this version before the transaction.
    pub(super) fn begin(&mut self, version: i64) {
        if let Some(winners) = &mut self.winners {
            winners.after = version;
        }
    }

    /// A row was written, which came to `rows` in all; `is_new` if the database knew nothing of it.
    pub(super) fn wrote(
        &mut self,
        engine: &Engine,
        table: &Table,
        row: &RowState<'_>,
        (rows, is_new): (u64, bool),
    ) -> Result<()> {
        let Some(mut winners) = self.winners.take() else { return Ok(()) };
        // A row that is deleted has no values to be sure of.
        let is_alone = !row.disturbed && if row.delete { !row.sets_row() } else { rows == 1 };
        if is_alone && winners.add(engine, table, row, is_new)? && winners.len() <= self.most {
            self.winners = Some(winners);
        }
        Ok(())
    }

    /// All of them. `None` if they have to be read.
    pub(super) fn end(self) -> Option<Winners> {
        let mut winners = self.winners?;
        winners.entries.sort_by_key(|winner| (winner.db_version, winner.seq));
        // Of two that are equal in that, nothing here says which is read first.
        let is_strict =
            winners.entries.is_sorted_by(|one, next| (one.db_version, one.seq) < (next.db_version, next.seq));
        is_strict.then_some(winners)
    }
}
