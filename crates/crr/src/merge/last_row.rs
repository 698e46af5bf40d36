//! The row of the change that was last inserted into `crsql_changes`.
//!
//! The changes of a row mostly come one after another, each in a statement of its own. What the first has read and written
//! of the row's clock is remembered for the next, which is true as long as
//!
//! - the transaction goes on, and none of it is rolled back: `crsql_changes` is told of that by SQLite,
//! - the connection writes nothing else: SQLite counts the rows,
//! - the CRR is the same: a change of the schema makes a new [`Table`].

use std::cell::Cell;
use std::sync::Arc;

use super::clock::RowClock;
use crate::table::Table;

/// See the module.
#[derive(Default)]
pub(crate) struct LastRow {
    known: Cell<Option<Known>>,
    count: Cell<Count>,
}

struct Known {
    table: Arc<Table>,
    pk: Vec<u8>,
    clock: RowClock,
}

/// How far the rows that a connection writes were counted.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    /// What SQLite had counted when the last row was true.
    written: u64,
    /// How many changes the statement under way had inserted: SQLite counts them at its end.
    uncounted: u64,
}

impl LastRow {
    /// The clock of a row, if it is the last one and nothing else was written since. `written` is what SQLite counts now.
    pub(super) fn take(&self, table: &Arc<Table>, pk: &[u8], written: u64) -> Option<RowClock> {
        let known = self.known.take();
        let Count { written: before, uncounted } = self.count.get();
        let (alone, uncounted) = match written.wrapping_sub(before) {
            0 => (true, uncounted),
            since => (since == uncounted, 0),
        };
        self.count.set(Count { written, uncounted });
        let known = known.filter(|known| alone && Arc::ptr_eq(&known.table, table) && known.pk == pk)?;
        Some(known.clock)
    }

    /// Remembers the clock of a row, as a change that is being inserted has left it in the database.
    pub(super) fn remember(&self, table: Arc<Table>, pk: &[u8], clock: RowClock, written: u64) {
        self.known.set(Some(Known { table, pk: pk.to_vec(), clock }));
        self.count.set(Count { written, uncounted: self.count.get().uncounted.wrapping_add(1) });
    }

    /// Nothing is sure any more.
    pub(crate) fn forget(&self) {
        self.known.take();
    }
}
