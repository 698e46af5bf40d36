//! Reading changes, in the order of their versions.
//!
//! The clock tables are read in ranges of versions: at least one version, and otherwise about [`BATCH`] entries. For each row
//! with an entry in the range, one scan of its entries gives their clocks and, with the sentinel, its causal length. Only
//! these numbers are held and sorted; keys and values are fetched when a change is handed out. A range with more than [`MOST`]
//! entries is made shorter. If it is a single version, it is sorted outside of memory.

use std::collections::HashMap;
use std::mem;
use std::ops::ControlFlow;
use std::sync::Arc;

use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, OptionalExtension, Row, Statement, Transaction, TransactionBehavior};

use crate::change::SENTINEL;
use crate::pack::Packer;
use crate::spill::Spill;
use crate::state::Engine;
use crate::table::Table;
use crate::{Change, ChangesQuery, Crr, Error, Result, SiteId};

/// About how many entries are read at a time.
const BATCH: i64 = 1024;

/// How many entries are held at most.
const MOST: usize = 1 << 16;

/// How many authors' site ids are remembered. Few databases have more.
const MOST_SITES: usize = 4096;

/// site id → the ordinal it has in the database
pub(crate) const ORDINAL_OF_SITE: &str = "SELECT ordinal FROM main.crsql_site_id WHERE site_id = ?1";

impl Crr<'_> {
    /// Hands changes to `each`, in the order of (`db_version`, `seq`), until it breaks off or there are no more.
    ///
    /// What was overwritten is gone: there is one change for each cell's last write, and one for each row's last death or
    /// return. Outside a transaction, the read makes its own, so that all changes are of the same moment.
    ///
    /// # Errors
    ///
    /// If SQLite can't read, or can't write the temporary file in which a version of more than 65,536 changes is sorted.
    pub fn read_changes<F>(&self, query: &ChangesQuery, mut each: F) -> Result<()>
    where
        F: FnMut(Change<'_>) -> ControlFlow<()>,
    {
        if !self.conn.is_autocommit() {
            return read(&self.engine, query, &mut each);
        }
        let transaction = Transaction::new_unchecked(self.conn, TransactionBehavior::Deferred)?;
        read(&self.engine, query, &mut each)?;
        Ok(transaction.commit()?)
    }
}

fn read(engine: &Engine, query: &ChangesQuery, each: &mut dyn FnMut(Change<'_>) -> ControlFlow<()>) -> Result<()> {
    let mut scan = Scan::new(engine, query)?;
    let mut pk = Vec::new();
    // One statement a table, kept for the whole walk.
    let mut statements: Vec<Option<CachedStatement<'_>>> = scan.newer.iter().map(|_| None).collect();
    // Usually the author of the next entry, too.
    let mut author: Option<(i64, Option<SiteId>)> = None;
    while scan.next_batch(engine)? {
        let entries = mem::take(&mut scan.entries);
        for run in entries.chunk_by(Entry::same_row) {
            let Some((first, at)) = run.first().and_then(|entry| Some((entry, scan.position(entry)?))) else {
                continue;
            };
            let (Some((_, table)), Some(statement)) = (scan.newer.get(at), statements.get_mut(at)) else { continue };
            let table = Arc::clone(table);
            let statement = match statement {
                Some(known) => known,
                new => new.insert(engine.db().prepare_cached(&table.sql.keyed_row)?),
            };
            let mut rows = statement.query([first.key])?;
            let Some(row) = rows.next()? else { continue };
            pack_key(&table, &mut pk, |at| Ok(row.get_ref(at)?))?;
            for entry in run {
                let site_id = match author {
                    Some((ordinal, id)) if ordinal == entry.ordinal => id,
                    _ => scan.site(engine, entry.ordinal)?.and_then(SiteId::from_slice),
                };
                author = Some((entry.ordinal, site_id));
                if each(entry.change(&table, &pk, entry.value(&table, row)?, site_id)).is_break() {
                    return Ok(());
                }
            }
        }
        scan.entries = entries;
    }
    Ok(())
}

/// Packs the key of a row, of whose columns `column` is asked.
pub(crate) fn pack_key<'r>(
    table: &Table,
    pk: &mut Vec<u8>,
    column: impl Fn(usize) -> Result<ValueRef<'r>>,
) -> Result<()> {
    let unfit = || Error::DamagedFile { reason: "a primary key is too large" };
    pk.clear();
    let mut packer = Packer::new(pk, u8::try_from(table.keys.len()).map_err(|_| unfit())?);
    for at in 0..table.keys.len() {
        packer.push(column(at)?).ok_or_else(unfit)?;
    }
    Ok(())
}

/// One clock entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Position of the CRR among all.
    pub(crate) table: usize,
    /// The row's lookaside key.
    pub(crate) key: i64,
    /// Position of the column; `None` for the sentinel.
    pub(crate) column: Option<usize>,
    pub(crate) col_version: i64,
    pub(crate) db_version: i64,
    /// The author's ordinal.
    pub(crate) ordinal: i64,
    pub(crate) cl: i64,
    pub(crate) seq: i64,
}

impl Entry {
    /// Whether the two are about the same row.
    pub(crate) fn same_row(&self, other: &Entry) -> bool {
        self.table == other.table && self.key == other.key
    }

    /// The column's name, or the sentinel's.
    pub(crate) fn cid<'t>(&self, table: &'t Table) -> &'t str {
        self.column.and_then(|at| table.columns.get(at)).map_or(SENTINEL, |column| column.name.as_str())
    }

    /// The value, from the row of [`keyed_row`](crate::table::TableSql::keyed_row).
    pub(crate) fn value<'r>(&self, table: &Table, row: &'r Row<'_>) -> Result<ValueRef<'r>> {
        match self.column {
            Some(column) => Ok(row.get_ref(table.keys.len() + column)?),
            None => Ok(ValueRef::Null),
        }
    }

    fn change<'a>(&self, table: &'a Table, pk: &'a [u8], val: ValueRef<'a>, site_id: Option<SiteId>) -> Change<'a> {
        Change {
            table: &table.name,
            pk,
            cid: self.cid(table),
            val,
            col_version: self.col_version,
            db_version: self.db_version,
            site_id,
            cl: self.cl,
            seq: self.seq,
        }
    }
}

/// A walk through the clock entries, batch by batch. Holds nothing of SQLite's between batches.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The CRRs that have something new, and their positions: of many, most have nothing.
    newer: Vec<(usize, Arc<Table>)>,
    /// Everything up to this version is done.
    after: i64,
    up_to: i64,
    /// The ordinal whose entries are left out.
    exclude: Option<i64>,
    /// The entries of the batch, in order.
    pub(crate) entries: Vec<Entry>,
    /// Site ids by ordinal, as far as they were met.
    sites: HashMap<i64, Option<Box<[u8]>>>,
    /// How many entries of one table end a batch.
    range: i64,
    /// How many entries are held at most.
    most: usize,
    /// Rows of the batch: positions in `newer`, and lookaside keys.
    rows: Vec<(usize, i64)>,
    /// A version that was too large to be held, before `after`.
    spilled: Option<Spill>,
}

impl Scan {
    pub(crate) fn new(engine: &Engine, query: &ChangesQuery) -> Result<Scan> {
        let (schema, stored, positions) = engine.newest(|schema, versions| {
            let newer = versions.iter().enumerate().filter(|(_, newest)| **newest > Some(query.after));
            let positions: Vec<usize> = newer.map(|(at, _)| at).collect();
            (Arc::clone(schema), versions.iter().copied().max().flatten(), positions)
        })?;
        let mut newer = Vec::new();
        for at in positions {
            newer.extend(schema.table_at(engine.db(), at)?.map(|table| (at, table)));
        }
        // What is written while this walks has later versions: without an end, they would never stop.
        let stored = stored.unwrap_or(0);
        let exclude = query.exclude.map(|site| ordinal(engine, site)).transpose()?.flatten();
        Ok(Scan {
            newer,
            after: query.after,
            up_to: query.up_to.map_or(stored, |up_to| up_to.min(stored)),
            exclude,
            entries: Vec::new(),
            sites: HashMap::new(),
            range: BATCH,
            most: MOST,
            rows: Vec::new(),
            spilled: None,
        })
    }

    pub(crate) fn table(&self, entry: &Entry) -> Option<Arc<Table>> {
        self.newer.get(self.position(entry)?).map(|(_, table)| Arc::clone(table))
    }

    /// Where in `newer` the entry's table is.
    fn position(&self, entry: &Entry) -> Option<usize> {
        self.newer.binary_search_by_key(&entry.table, |(at, _)| *at).ok()
    }

    /// Fills `entries` with the next that there are. False if there are none.
    pub(crate) fn next_batch(&mut self, engine: &Engine) -> Result<bool> {
        self.entries.clear();
        while self.entries.is_empty() {
            if let Some(version) = &mut self.spilled {
                version.take(BATCH, &mut self.entries)?;
                if self.entries.is_empty() {
                    self.spilled = None;
                }
                continue;
            }
            if self.after >= self.up_to {
                return Ok(false);
            }
            let end = self.end_of_batch(engine)?;
            if self.find_rows(engine, end)? {
                self.read_rows(engine, end)?;
                self.range = (self.range * 2).min(BATCH);
            } else if self.range > 1 && !self.is_one_version(end) {
                self.range /= 2;
                continue;
            } else {
                self.spilled = Some(self.spill_version(engine, end)?);
            }
            self.after = end;
        }
        Ok(true)
    }

    /// The last version of the next batch: that of the first table to have enough entries.
    fn end_of_batch(&self, engine: &Engine) -> Result<i64> {
        let mut end = self.up_to;
        if self.is_one_version(end) {
            return Ok(end);
        }
        for (_, table) in &self.newer {
            let version: Option<i64> = engine
                .db()
                .prepare_cached(&table.sql.version_ahead)?
                .query_row((self.after, self.range - 1), |row| row.get(0))
                .optional()?;
            end = version.map_or(end, |version| version.min(end));
        }
        Ok(end)
    }

    /// Whether a batch up to `end` can't be made smaller.
    fn is_one_version(&self, end: i64) -> bool {
        end <= self.after.saturating_add(1)
    }

    /// Fills `rows` with the rows that have entries with versions up to `end`. False if there are too many entries.
    fn find_rows(&mut self, engine: &Engine, end: i64) -> Result<bool> {
        self.rows.clear();
        let mut entries = 0;
        for (at, (_, table)) in self.newer.iter().enumerate() {
            let mut statement = engine.db().prepare_cached(&table.sql.keys_between)?;
            let mut found = statement.query((self.after, end))?;
            while let Some(row) = found.next()? {
                entries += 1;
                if entries > self.most {
                    return Ok(false);
                }
                let row = (at, row.get(0)?);
                if self.rows.last() != Some(&row) {
                    self.rows.push(row);
                }
            }
        }
        self.rows.sort_unstable();
        self.rows.dedup();
        Ok(true)
    }

    /// Fills `entries` with those of `rows` that have versions up to `end`, in order.
    fn read_rows(&mut self, engine: &Engine, end: i64) -> Result<()> {
        for rows in self.rows.chunk_by(|(one, _), (other, _)| one == other) {
            let Some((position, table)) = rows.first().and_then(|(at, _)| self.newer.get(*at)) else { continue };
            let mut statement = engine.db().prepare_cached(&table.sql.entries)?;
            for (_, key) in rows {
                self.wanted(end).read_row(&mut statement, *position, table, *key, &mut self.entries)?;
            }
        }
        self.entries.sort_by_key(|entry| (entry.db_version, entry.seq));
        Ok(())
    }

    /// Sorts the entries of the next version, which is `version`, outside of memory.
    fn spill_version(&self, engine: &Engine, version: i64) -> Result<Spill> {
        let wanted = self.wanted(version);
        Spill::sort(version, |sorted| {
            let mut entries = Vec::new();
            for (position, table) in &self.newer {
                let mut statement = engine.db().prepare_cached(&table.sql.entries)?;
                let mut keys = engine.db().prepare_cached(&table.sql.keys_between)?;
                let mut keys = keys.query((self.after, version))?;
                let mut last = None;
                while let Some(row) = keys.next()? {
                    let key = row.get(0)?;
                    // The entries of one version are in the order of their keys.
                    if last.replace(key) != Some(key) {
                        wanted.read_row(&mut statement, *position, table, key, &mut entries)?;
                        entries.drain(..).try_for_each(|entry| sorted.push(&entry))?;
                    }
                }
            }
            Ok(())
        })
    }

    fn wanted(&self, end: i64) -> Wanted {
        Wanted { after: self.after, end, exclude: self.exclude }
    }

    /// The site id with this ordinal, as the file has it.
    pub(crate) fn site(&mut self, engine: &Engine, ordinal: i64) -> Result<Option<&[u8]>> {
        if !self.sites.contains_key(&ordinal) {
            if self.sites.len() >= MOST_SITES {
                self.sites.clear();
            }
            let id: Option<Vec<u8>> = engine
                .db()
                .prepare_cached("SELECT site_id FROM main.crsql_site_id WHERE ordinal = ?1")?
                .query_row([ordinal], |row| row.get(0))
                .optional()?;
            self.sites.insert(ordinal, id.map(Vec::into_boxed_slice));
        }
        Ok(self.known_site(ordinal))
    }

    /// The same for an ordinal that was asked for before.
    pub(crate) fn known_site(&self, ordinal: i64) -> Option<&[u8]> {
        self.sites.get(&ordinal).and_then(Option::as_deref)
    }
}

/// Which entries of a row a batch takes.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    after: i64,
    end: i64,
    exclude: Option<i64>,
}

impl Wanted {
    /// Adds the entries of one row. `statement` reads all that it has.
    fn read_row(
        self,
        statement: &mut Statement<'_>,
        position: usize,
        table: &Table,
        key: i64,
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        let first = entries.len();
        let (mut cl, mut next) = (1, 0);
        let mut rows = statement.query([key])?;
        while let Some(row) = rows.next()? {
            let (col_version, db_version, ordinal) = (row.get(1)?, row.get(2)?, row.get(3)?);
            let name = row.get_ref(0)?.as_bytes().unwrap_or_default();
            let column = if name == SENTINEL.as_bytes() {
                cl = col_version;
                None
            } else if let Some(column) = table.next_column(name, &mut next) {
                Some(column)
            } else {
                // The column was removed behind the engine's back: there is nothing to send.
                continue;
            };
            if db_version > self.after && db_version <= self.end && self.exclude != Some(ordinal) {
                let seq = row.get(4)?;
                entries.push(Entry { table: position, key, column, col_version, db_version, ordinal, cl, seq });
            }
        }
        entries.iter_mut().skip(first).for_each(|entry| entry.cl = cl);
        Ok(())
    }
}

/// The ordinal of a site, if it has one.
pub(crate) fn ordinal(engine: &Engine, site: SiteId) -> Result<Option<i64>> {
    let mut statement = engine.db().prepare_cached(ORDINAL_OF_SITE)?;
    Ok(statement.query_row([site.as_bytes().as_slice()], |row| row.get(0)).optional()?)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rusqlite::Connection;

    use super::*;
    use crate::{functions, load};

    /// What a walk hands out that holds at most so many entries.
    fn walk(conn: &Connection, query: &ChangesQuery, most: usize) -> Vec<Entry> {
        let engine = functions::engine_of(conn).unwrap();
        let mut scan = Scan { most, ..Scan::new(&engine, query).unwrap() };
        let mut all = Vec::new();
        while scan.next_batch(&engine).unwrap() {
            assert!(scan.spilled.is_some() || scan.entries.len() <= most);
            all.append(&mut scan.entries);
        }
        all
    }

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        load(&conn).unwrap();
        conn.execute_batch(
            "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c);
             CREATE TABLE bar(a INTEGER PRIMARY KEY NOT NULL, b);
             CREATE TABLE baz(a INTEGER PRIMARY KEY NOT NULL);
             SELECT crsql_as_crr('foo'), crsql_as_crr('bar'), crsql_as_crr('baz');",
        )
        .unwrap();
        conn
    }

    #[test]
    fn a_version_too_large_to_be_held_is_read_in_the_order_of_its_seqs() {
        let conn = database();
        conn.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5000) INSERT INTO foo SELECT i, i, i FROM n;
             UPDATE foo__crsql_clock SET seq = (key * 3001 + length(col_name)) % 7000;
             DELETE FROM foo WHERE a = 17;",
        )
        .unwrap();
        let everything = ChangesQuery::default();
        let read = walk(&conn, &everything, 100);
        assert_eq!(read.len(), 9_999);
        assert!(read.is_sorted_by_key(|entry| (entry.db_version, entry.seq)));
        assert_eq!(read, walk(&conn, &everything, MOST));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_read_does_not_depend_on_how_much_is_held(
            transactions in vec(vec((0..6_usize, 0..12_i64), 1..20), 1..12),
            ties in any::<bool>(),
            most in 1..40_usize,
            after in 0..12_i64,
            exclude in prop_oneof![Just(None), Just(Some(SiteId::from_bytes([7; 16])))],
        ) {
            let conn = database();
            for writes in transactions {
                conn.execute_batch("BEGIN").unwrap();
                for (write, row) in writes {
                    let sql = match write {
                        0 => "INSERT OR IGNORE INTO foo VALUES (?1, 2, 3)",
                        1 => "INSERT OR IGNORE INTO bar VALUES (?1, 2)",
                        2 => "INSERT OR IGNORE INTO baz VALUES (?1)",
                        3 => "UPDATE foo SET c = c + 1 WHERE a >= ?1",
                        4 => "DELETE FROM foo WHERE a = ?1",
                        _ => "INSERT INTO crsql_changes VALUES
                              ('bar', crsql_pack_columns(?1), 'b', 1, 5, 1, x'07070707070707070707070707070707', 1, 3)",
                    };
                    conn.execute(sql, [row]).unwrap();
                }
                conn.execute_batch("COMMIT").unwrap();
            }
            if ties {
                conn.execute_batch("UPDATE foo__crsql_clock SET seq = seq / 3; UPDATE bar__crsql_clock SET seq = 1").unwrap();
            }
            let query = ChangesQuery { after, exclude, ..ChangesQuery::default() };
            prop_assert_eq!(walk(&conn, &query, most), walk(&conn, &query, MOST));
        }
    }
}
