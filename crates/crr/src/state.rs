//! What the engine keeps for one connection, beside the database.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;

use rusqlite::Connection;

use crate::hooks::Ticket;
use crate::merge::{Authors, LastRow};
use crate::newest::{KnownRows, Newest, OwnWrites};
use crate::raw;
use crate::schema::CachedSchema;
use crate::statements::{Prepared, Statements};
use crate::version::Clock;

/// Statements kept prepared. A CRR in steady use needs a dozen.
const STATEMENTS: usize = 512;

/// The state of the engine on one connection. Lives in the connection's registered functions, module and hooks.
///
/// Nothing here may stay borrowed while SQL runs: SQL fires triggers, and they call back.
pub(crate) struct Engine {
    /// A second handle on the connection.
    prepared: Prepared,
    pub(crate) clock: Clock,
    pub(crate) schema: RefCell<Option<CachedSchema>>,
    pub(crate) authors: Authors,
    pub(crate) last_row: LastRow,
    pub(crate) newest: RefCell<Option<Newest>>,
    pub(crate) known_rows: KnownRows,
    /// Not 0 while writes to CRRs are not to be tracked.
    pub(crate) sync_bit: Cell<i64>,
    /// Winning changes of the current transaction.
    pub(crate) rows_impacted: Cell<i64>,
    /// A private database that tells what a column would make of a value.
    pub(crate) columns: OnceCell<Connection>,
    /// By what its hooks find it.
    pub(crate) ticket: OnceCell<Ticket>,
}

impl Engine {
    pub(crate) fn new(conn: &Connection) -> rusqlite::Result<Engine> {
        // SAFETY: the engine is only reached from callbacks of `conn` and through `Crr` and `Merge`, which borrow `conn`; so
        // never after it was closed, and never from two threads.
        #[allow(unsafe_code, reason = "see above")]
        let db = unsafe { raw::second_handle(conn) }?;
        db.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(Engine {
            prepared: Prepared::on(db),
            clock: Clock::default(),
            schema: RefCell::default(),
            authors: Authors::default(),
            last_row: LastRow::default(),
            newest: RefCell::default(),
            known_rows: KnownRows::default(),
            sync_bit: Cell::new(0),
            rows_impacted: Cell::new(0),
            columns: OnceCell::new(),
            ticket: OnceCell::new(),
        })
    }

    pub(crate) fn db(&self) -> &Connection {
        self.prepared.db()
    }

    /// Works with the statements at hand, for what is done row by row.
    pub(crate) fn with_statements<R>(&self, work: impl FnOnce(&mut Statements<'_>) -> R) -> R {
        self.prepared.with(work)
    }

    /// Lets go of all prepared statements, until new ones are needed.
    pub(crate) fn let_go_of_statements(&self) {
        self.prepared.let_go();
        self.db().flush_prepared_statement_cache();
    }

    /// Lets go of all prepared statements, and keeps no new ones: open statements keep SQLite from closing.
    pub(crate) fn forget_statements(&self) {
        self.db().set_prepared_statement_cache_capacity(0);
        self.prepared.keep(false);
        self.let_go_of_statements();
    }

    /// The opposite of [`forget_statements`](Self::forget_statements).
    pub(crate) fn keep_statements(&self) {
        self.db().set_prepared_statement_cache_capacity(STATEMENTS);
        self.prepared.keep(true);
    }

    /// Stops tracking until the guard is dropped: the engine writes.
    pub(crate) fn untracked(&self) -> Untracked<'_> {
        Untracked { engine: self, before: self.sync_bit.replace(1), _writes: self.own_writes() }
    }

    /// The commit hook.
    pub(crate) fn committed(&self) {
        // The hook also tells of commits to other databases of the connection.
        let main = raw::is_writing(self.db());
        let stamp = raw::content_stamp(self.db()).ok();
        self.clock.committed(stamp.filter(|_| main));
        if main {
            let newest = self.newest.take();
            self.newest.replace(newest.zip(stamp).and_then(|(newest, stamp)| newest.committed(stamp)));
        }
        self.rows_impacted.set(0);
        let schema = self.schema.take();
        self.schema.replace(schema.map(CachedSchema::committed));
    }

    /// The rollback hook.
    pub(crate) fn rolled_back(&self) {
        let stamp = raw::content_stamp(self.db()).ok();
        self.clock.rolled_back(stamp);
        let newest = self.newest.take();
        self.newest.replace(newest.zip(stamp).and_then(|(newest, stamp)| newest.rolled_back(stamp)));
        self.rows_impacted.set(0);
        let schema = self.schema.take();
        self.schema.replace(schema.and_then(CachedSchema::rolled_back));
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("clock", &self.clock).finish_non_exhaustive()
    }
}

// SAFETY: an engine belongs to one `rusqlite::Connection` and is reached in two ways only: from callbacks that SQLite makes
// for that connection, and through `Crr` and `Merge`, which hold a shared borrow of it. `Connection` can be sent but not
// shared, so that at any time one thread at most is in either. Whatever moves the connection to another thread makes what
// was written here visible there.
#[allow(unsafe_code, reason = "see above")]
unsafe impl Send for Engine {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "see above")]
unsafe impl Sync for Engine {}

/// While it lives, writes to CRRs are not tracked.
#[derive(Debug)]
pub(crate) struct Untracked<'e> {
    engine: &'e Engine,
    before: i64,
    _writes: OwnWrites<'e>,
}

impl Drop for Untracked<'_> {
    fn drop(&mut self) {
        self.engine.sync_bit.set(self.before);
    }
}

/// The engine as its callbacks hold it.
pub(crate) type SharedEngine = Arc<Engine>;
