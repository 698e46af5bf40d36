//! `crsql_changes`, the table through which SQL reads and merges changes.
#![allow(unsafe_code, reason = "rusqlite's traits for virtual tables are unsafe to implement")]

use std::borrow::Cow;
use std::ffi::{CStr, c_int};
use std::sync::Arc;

use rusqlite::types::{Null, ValueRef};
use rusqlite::vtab::{
    Context, CreateVTab, Filters, IndexConstraintOp, IndexInfo, Inserts, Module, TransactionVTab, UpdateVTab, Updates,
    VTab, VTabConnection, VTabCursor, VTabKind, sqlite3_vtab, sqlite3_vtab_cursor,
};
use rusqlite::{Connection, Result, ffi};

use crate::callback::{guarded, misuse};
use crate::functions::integer;
use crate::read::{Entry, Scan, pack_key};
use crate::sql::Bind;
use crate::state::{Engine, SharedEngine};
use crate::table::Table;
use crate::value::OwnedValue;
use crate::{Change, ChangesQuery, Error, SiteId, merge, raw};

/// The reference declares `site_id` NOT NULL. It can be NULL, if the file lacks an author, and SQLite believes declarations.
const DECLARATION: &CStr = c"CREATE TABLE crsql_changes (
    \"table\" TEXT NOT NULL,
    pk BLOB NOT NULL,
    cid TEXT NOT NULL,
    val ANY,
    col_version INTEGER NOT NULL,
    db_version INTEGER NOT NULL,
    site_id BLOB,
    cl INTEGER NOT NULL,
    seq INTEGER NOT NULL
)";

const DB_VERSION: c_int = 5;
const SITE_ID: c_int = 6;
const SEQ: c_int = 8;

/// Rowids of one CRR's changes stay below this times its position plus one.
const ROWIDS_PER_TABLE: i64 = 10_000_000_000_000;

/// Registers the table, and makes SQLite connect to it.
pub(crate) fn register(conn: &Connection, engine: &SharedEngine) -> Result<()> {
    const MODULE: Module<'static, ChangesTable> = raw::with_savepoints(Module::update_module_with_tx(), rolled_back_to);
    conn.create_module(c"crsql_changes", &MODULE, Some(Arc::clone(engine)))?;
    // From here on there is a table to disconnect from when the connection closes, which is when statements are let go.
    conn.prepare("SELECT 1 FROM crsql_changes")?;
    Ok(())
}

#[repr(C)]
struct ChangesTable {
    /// SQLite's part; has to be the first.
    base: sqlite3_vtab,
    engine: SharedEngine,
}

// SAFETY: the struct is `repr(C)` and begins with a `sqlite3_vtab`.
unsafe impl<'vtab> VTab<'vtab> for ChangesTable {
    type Aux = SharedEngine;
    type Cursor = ChangesCursor;

    fn connect(
        _: &mut VTabConnection,
        engine: Option<&SharedEngine>,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[&[u8]],
    ) -> Result<(Cow<'static, CStr>, Self)> {
        let engine = Arc::clone(engine.ok_or(Error::NotLoaded)?);
        engine.keep_statements();
        Ok((Cow::Borrowed(DECLARATION), ChangesTable { base: sqlite3_vtab::default(), engine }))
    }

    fn best_index(&self, info: &mut IndexInfo) -> Result<bool> {
        guarded(|| {
            plan(info);
            Ok(true)
        })
    }

    fn open(&'vtab mut self) -> Result<ChangesCursor> {
        Ok(ChangesCursor {
            base: sqlite3_vtab_cursor::default(),
            engine: Arc::clone(&self.engine),
            scan: None,
            at: 0,
            run: Run::default(),
        })
    }
}

impl Drop for ChangesTable {
    fn drop(&mut self) {
        self.engine.forget_statements();
    }
}

impl CreateVTab<'_> for ChangesTable {
    const KIND: VTabKind = VTabKind::EponymousOnly;
}

impl UpdateVTab<'_> for ChangesTable {
    fn delete(&mut self, _: ValueRef<'_>) -> Result<()> {
        Err(misuse("changes can't be deleted"))
    }

    fn insert(&mut self, arguments: &Inserts<'_>) -> Result<i64> {
        guarded(|| {
            merge_one(&self.engine, arguments)?;
            Ok(self.engine.db().last_insert_rowid())
        })
    }

    fn update(&mut self, _: &Updates<'_>) -> Result<()> {
        Err(misuse("changes can't be updated"))
    }
}

/// SQLite tells a table that was written to what becomes of the transaction.
impl TransactionVTab<'_> for ChangesTable {
    fn begin(&mut self) -> Result<()> {
        self.engine.last_row.forget();
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.engine.last_row.forget();
        Ok(())
    }

    fn rollback(&mut self) -> Result<()> {
        self.engine.last_row.forget();
        Ok(())
    }
}

/// The transaction is rolled back to a savepoint, or a statement to its beginning.
unsafe extern "C" fn rolled_back_to(table: *mut sqlite3_vtab, _: c_int) -> c_int {
    let forgotten = guarded(|| {
        // SAFETY: SQLite calls this for connected tables of this module only, which all begin with their `sqlite3_vtab`. The
        // engine in them is never replaced.
        let engine = unsafe { &(*table.cast::<ChangesTable>()).engine };
        engine.last_row.forget();
        Ok(())
    });
    if forgotten.is_ok() { ffi::SQLITE_OK } else { ffi::SQLITE_ERROR }
}

/// Merges the change in the arguments: the old rowid, the new rowid, then the columns.
fn merge_one(engine: &Engine, arguments: &Inserts<'_>) -> crate::Result<()> {
    let mut values = arguments.iter().skip(2);
    let mut next = || values.next().unwrap_or(ValueRef::Null);
    let (table, pk, cid, val) = (next(), next(), next(), next());
    let (col_version, db_version, site_id, cl, seq) = (next(), next(), next(), next(), next());
    let change = Change {
        table: text("table", table)?,
        pk: match pk {
            ValueRef::Null => &[],
            pk => pk.as_blob().map_err(|_| Error::WrongType { field: "pk" })?,
        },
        cid: text("cid", cid)?,
        val,
        col_version: integer(col_version),
        db_version: integer(db_version),
        site_id: match site_id {
            ValueRef::Null | ValueRef::Blob(&[]) => None,
            id => {
                let id = id.as_bytes().map_err(|_| Error::WrongType { field: "site_id" })?;
                Some(SiteId::from_slice(id).ok_or(Error::SiteIdLength { length: id.len() })?)
            }
        },
        cl: integer(cl),
        seq: integer(seq),
    };
    merge::merge_in_statement(engine, change)
}

/// A text; NULL reads as empty.
fn text<'a>(field: &'static str, value: ValueRef<'a>) -> Result<&'a str, Error> {
    match value {
        ValueRef::Null => Ok(""),
        value => value.as_str().map_err(|_| Error::WrongType { field }),
    }
}

/// Takes over what narrows the versions; SQLite checks it again, and everything else.
fn plan(info: &mut IndexInfo) {
    let mut used = String::new();
    let mut has_site = false;
    for (constraint, mut usage) in info.constraints_and_usages() {
        if !constraint.is_usable() {
            continue;
        }
        has_site |= constraint.column() == SITE_ID;
        let operator = match constraint.operator() {
            IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GT => '>',
            IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GE => 'g',
            IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LT => '<',
            IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LE => 'l',
            IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ | IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_IS => '=',
            _ => continue,
        };
        if constraint.column() == DB_VERSION {
            used.push(operator);
            usage.set_argv_index(c_int::try_from(used.len()).unwrap_or(0));
        }
    }
    let has_version = !used.is_empty();
    // The numbers are the reference's; they show in EXPLAIN QUERY PLAN.
    info.set_idx_num(c_int::from(has_version) * 2 + c_int::from(has_site) * 4);
    info.set_estimated_cost(match (has_version, has_site) {
        (true, true) => 1.0,
        (true, false) => 10.0,
        (false, _) => 2_147_483_647.0,
    });
    info.set_idx_str(&used);
    let ours = [DB_VERSION, SEQ];
    let in_order = info.num_of_order_by() <= ours.len()
        && info.order_bys().zip(ours).all(|(term, column)| term.column() == column && !term.is_order_by_desc());
    info.set_order_by_consumed(in_order);
}

/// Applies a constraint on `db_version`.
fn narrow(query: &mut ChangesQuery, operator: char, version: i64) {
    let (above, most) = match operator {
        '>' => (version, i64::MAX),
        'g' => (version.saturating_sub(1), i64::MAX),
        '<' => (i64::MIN, version.saturating_sub(1)),
        'l' => (i64::MIN, version),
        _ => (version.saturating_sub(1), version),
    };
    query.after = query.after.max(above);
    query.up_to = Some(query.up_to.map_or(most, |up_to| up_to.min(most)));
}

#[repr(C)]
struct ChangesCursor {
    /// SQLite's part; has to be the first.
    base: sqlite3_vtab_cursor,
    engine: SharedEngine,
    /// `None` once there are no more changes.
    scan: Option<Scan>,
    /// Position of the current change in the scan's batch.
    at: usize,
    run: Run,
}

/// Consecutive changes of one row, the current one among them.
#[derive(Default)]
struct Run {
    table: Option<Arc<Table>>,
    /// The end of the run in the batch.
    end: usize,
    pk: Vec<u8>,
    /// The values of the changes of the run; the last is that of the last change.
    values: Vec<OwnedValue>,
}

// SAFETY: the struct is `repr(C)` and begins with a `sqlite3_vtab_cursor`.
unsafe impl VTabCursor for ChangesCursor {
    fn filter(&mut self, _: c_int, operators: Option<&str>, arguments: &Filters<'_>) -> Result<()> {
        guarded(|| {
            let mut query = ChangesQuery { after: i64::MIN, ..ChangesQuery::default() };
            for (operator, value) in operators.unwrap_or_default().chars().zip(arguments.iter()) {
                // Anything else than an integer is left to SQLite.
                if let ValueRef::Integer(version) = value {
                    narrow(&mut query, operator, version);
                }
            }
            self.scan = Some(Scan::new(&self.engine, &query)?);
            self.at = 0;
            self.run = Run::default();
            Ok(self.settle()?)
        })
    }

    fn next(&mut self) -> Result<()> {
        guarded(|| {
            self.at += 1;
            Ok(self.settle()?)
        })
    }

    fn eof(&self) -> bool {
        self.scan.is_none()
    }

    fn column(&self, context: &mut Context, column: c_int) -> Result<()> {
        guarded(|| {
            let (Some(scan), Some(table), Some(entry)) = (&self.scan, &self.run.table, self.entry()) else {
                return context.set_result(&Null);
            };
            match column {
                0 => context.set_result(&table.name),
                1 => context.set_result(&self.run.pk),
                2 => context.set_result(&entry.cid(table)),
                3 => context.set_result(&self.value()),
                4 => context.set_result(&entry.col_version),
                DB_VERSION => context.set_result(&entry.db_version),
                SITE_ID => context.set_result(&scan.known_site(entry.ordinal)),
                7 => context.set_result(&entry.cl),
                SEQ => context.set_result(&entry.seq),
                _ => context.set_result(&Null),
            }
        })
    }

    fn rowid(&self) -> Result<i64> {
        guarded(|| {
            let rowid = self.entry().and_then(|entry| {
                let table = i64::try_from(entry.table).ok()?;
                table.checked_mul(ROWIDS_PER_TABLE)?.checked_add(entry.key.rem_euclid(ROWIDS_PER_TABLE))
            });
            Ok(rowid.unwrap_or(0))
        })
    }
}

impl ChangesCursor {
    fn entry(&self) -> Option<&Entry> {
        self.scan.as_ref()?.entries.get(self.at)
    }

    fn value(&self) -> Bind<'_> {
        let value = self.run.values.len().checked_sub(self.run.end - self.at).and_then(|at| self.run.values.get(at));
        Bind(value.map_or(ValueRef::Null, OwnedValue::get))
    }

    /// Goes forward, if it has to, to a change that can be shown, and fetches what is shown of its row.
    fn settle(&mut self) -> crate::Result<()> {
        while let Some(scan) = &mut self.scan {
            let Some(entry) = scan.entries.get(self.at).copied() else {
                if scan.next_batch(&self.engine)? {
                    self.at = 0;
                } else {
                    self.scan = None;
                }
                self.run = Run::default();
                continue;
            };
            if self.at >= self.run.end {
                let followers = scan.entries.iter().skip(self.at).take_while(|other| entry.same_row(other)).count();
                self.run.end = self.at + followers;
                self.run.table = scan.table(&entry);
                let entries = scan.entries.get(self.at..self.run.end).unwrap_or_default();
                if !fetch(&self.engine, &mut self.run, entries)? {
                    // An entry without a lookaside row can't be named.
                    self.at = self.run.end;
                    continue;
                }
            }
            scan.site(&self.engine, entry.ordinal)?;
            return Ok(());
        }
        Ok(())
    }
}

/// Fetches key and values of a run. False if there is no key.
fn fetch(engine: &Engine, run: &mut Run, entries: &[Entry]) -> crate::Result<bool> {
    run.values.clear();
    let (Some(table), Some(first)) = (&run.table, entries.first()) else { return Ok(false) };
    let mut statement = engine.db().prepare_cached(&table.sql.keyed_row)?;
    let mut rows = statement.query([first.key])?;
    let Some(row) = rows.next()? else { return Ok(false) };
    pack_key(table, &mut run.pk, |at| Ok(row.get_ref(at)?))?;
    for entry in entries {
        run.values.push(entry.value(table, row)?.into());
    }
    Ok(true)
}
