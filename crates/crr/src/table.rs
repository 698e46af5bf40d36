//! One CRR: its columns, and the SQL that works on it and on its two side tables.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rusqlite::{Connection, OptionalExtension};

use crate::schema::{CLOCK_SUFFIX, LOOKASIDE_SUFFIX};
use crate::value::Affinity;
use crate::{Error, Result, sql};

/// The most clock entries that one statement writes.
pub(crate) const MAX_ENTRIES: usize = 32;

/// The most statements for sets of columns that are remembered. A table with more is unusual.
const MAX_SETS: usize = 256;

/// A CRR, as one connection works on it.
#[derive(Debug)]
pub(crate) struct Table {
    definition: Arc<Definition>,
    /// Statements that write sets of columns, by their positions.
    sets: Mutex<HashMap<Box<[usize]>, Arc<SetSql>>>,
    /// Statements that write 1, 2, … clock entries.
    entry_writes: [OnceLock<EntrySql>; MAX_ENTRIES],
}

impl Deref for Table {
    type Target = Definition;

    fn deref(&self) -> &Definition {
        &self.definition
    }
}

/// What a CRR is. Its SQL is made once; parameters are numbered, a row's key first.
#[derive(Debug)]
pub(crate) struct Definition {
    /// The name that changes carry: the spelling given when the table became a CRR.
    pub(crate) name: String,
    /// The primary key's columns, in the key's order.
    pub(crate) keys: Vec<Column>,
    /// The other columns, in the table's order. Generated columns are left out.
    pub(crate) columns: Vec<Column>,
    /// Positions in `columns`, sorted by name.
    sorted: Vec<usize>,
    /// Whether the key is the rowid.
    pub(crate) rowid_key: bool,
    /// How the key's columns compare; none if the key is the rowid.
    collations: Vec<String>,
    /// What the key's uniqueness looks like in an ON CONFLICT clause.
    conflict_target: String,
    pub(crate) sql: TableSql,
}

/// One column of a CRR.
#[derive(Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) affinity: Affinity,
    /// It takes no NULL, and may say what it takes instead.
    pub(crate) not_null: bool,
}

/// The statements of a CRR that are always the same.
#[derive(Debug)]
pub(crate) struct TableSql {
    /// key… → lookaside key
    pub(crate) find_key: String,
    /// key… → inserts the lookaside row, if it is new
    pub(crate) insert_key: String,
    /// key… → lookaside key, and col_name, col_version, db_version, site_id, seq of its entries, NULL if it has none
    pub(crate) known: String,
    /// lookaside key → col_name, col_version, db_version, site_id, seq of its entries
    pub(crate) entries: String,
    /// lookaside key, col_name, col_version of all entries, a row's together
    pub(crate) all_entries: String,
    /// key… → the columns of the row
    pub(crate) row: String,
    /// key… → deletes the row
    pub(crate) delete_row: String,
    /// lookaside key → deletes all its entries
    pub(crate) delete_entries: String,
    /// lookaside key → deletes its entries but the sentinel
    pub(crate) delete_column_entries: String,
    /// lookaside key, version, first seq → one entry for each column, of a row without any; see [`EntrySql::insert`]
    pub(crate) insert_all_columns: String,
    /// lookaside key, version, first seq → one entry for each column: 1, or one more
    pub(crate) upsert_all_columns: String,
    /// lookaside key, version, seq, column → the column's entry: 1, or one more
    pub(crate) upsert_column: String,
    /// lookaside key, col_name, col_version, db_version, site_id, seq → the entry, if it is there, as given
    pub(crate) update_entry: String,
    /// The same, whether it is there or not.
    pub(crate) replace_entry: String,
    /// lookaside key, version, seq, first value → the sentinel: the value, or alive (again)
    pub(crate) upsert_alive: String,
    /// lookaside key, version, seq → the sentinel, if there is one: alive (again)
    pub(crate) bump_alive: String,
    /// lookaside key, version, seq → the sentinel: 2, or one more
    pub(crate) upsert_dead: String,
    /// from, to → moves the column entries of a lookaside key
    pub(crate) move_entries: String,
    /// lookaside key, version, seq, column → stamps the column's entry, if there is one
    pub(crate) stamp_entry: String,
    /// lookaside key → its sentinel's col_version, and whether it has column entries
    pub(crate) life: String,
    /// lookaside key, column → the col_version of its entry
    pub(crate) entry_version: String,
    /// after, how many → the version of the entry that comes so many entries after a version
    pub(crate) version_ahead: String,
    /// after, up to → lookaside keys, one for each entry
    pub(crate) keys_between: String,
    /// lookaside key → key…, columns… of its row; the columns are NULL if the row is gone
    pub(crate) keyed_row: String,
}

/// The statements for one set of columns. Parameters: key…, values of the set….
#[derive(Debug)]
pub(crate) struct SetSql {
    /// Sets the columns of a row that is there.
    pub(crate) update: String,
    /// Makes the row with these columns, or sets them in the row that is there.
    pub(crate) upsert: String,
}

/// The statements that write one number of clock entries. Parameters: lookaside key; then for each entry col_name,
/// col_version, db_version, site_id, seq.
#[derive(Debug)]
pub(crate) struct EntrySql {
    /// Entries that aren't there yet. Fails if they are, after having written those before the one that is.
    ///
    /// OR FAIL spares SQLite the journal that it needs to take back the first of several rows when a later one fails.
    pub(crate) insert: String,
}

impl Definition {
    /// Reads the CRR `name`. `None` if its table or its lookaside is gone.
    pub(crate) fn read_crr(db: &Connection, name: &str) -> Result<Option<Definition>> {
        let mut lookaside = db.prepare_cached("SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1")?;
        if !lookaside.exists([format!("{name}{LOOKASIDE_SUFFIX}")])? {
            return Ok(None);
        }
        Definition::read(db, name)
    }

    /// Reads a table, which needn't be a CRR yet. `None` if there is none of this name.
    fn read(db: &Connection, name: &str) -> Result<Option<Definition>> {
        let strict: Option<bool> = db
            .prepare_cached("SELECT strict FROM pragma_table_list(?1) WHERE schema = 'main' AND type = 'table'")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        let Some(strict) = strict else { return Ok(None) };

        let mut statement =
            db.prepare_cached("SELECT name, type, pk, \"notnull\" FROM pragma_table_info(?1, 'main') ORDER BY cid")?;
        let mut rows = statement.query([name])?;
        let (mut keys, mut columns) = (Vec::new(), Vec::new());
        while let Some(row) = rows.next()? {
            let declared: String = row.get(1)?;
            let affinity = Affinity::of(&declared, strict);
            let column = Column { name: row.get(0)?, affinity, not_null: row.get(3)? };
            match row.get(2)? {
                0 => columns.push(column),
                place => keys.push((i64::from(place), column)),
            }
        }
        keys.sort_by_key(|(place, _)| *place);
        let keys: Vec<Column> = keys.into_iter().map(|(_, column)| column).collect();

        let collations = key_collations(db, name)?;
        let conflict_target = sql::join(keys.iter().enumerate(), ", ", |(at, key)| match collations.get(at) {
            Some(collation) => format!("{} COLLATE {}", sql::identifier(&key.name), sql::identifier(collation)),
            None => sql::identifier(&key.name),
        });
        let mut sorted: Vec<usize> = (0..columns.len()).collect();
        sorted.sort_by_key(|at| columns.get(*at).map(|column| &column.name));
        Ok(Some(Definition {
            name: name.to_owned(),
            sql: TableSql::new(name, &keys, &columns),
            keys,
            columns,
            sorted,
            rowid_key: collations.is_empty(),
            collations,
            conflict_target,
        }))
    }

    /// The position of a column among those that are not part of the key.
    pub(crate) fn column(&self, name: &[u8]) -> Option<usize> {
        let found = self.sorted.binary_search_by(|at| self.column_name(*at).cmp(name)).ok()?;
        self.sorted.get(found).copied()
    }

    /// The same, for names that come in order, as those of clock entries do. `next` is where in that order one is looked for first.
    pub(crate) fn next_column(&self, name: &[u8], next: &mut usize) -> Option<usize> {
        let found = match self.sorted.get(*next) {
            Some(at) if self.column_name(*at) == name => *next,
            _ => self.sorted.binary_search_by(|at| self.column_name(*at).cmp(name)).ok()?,
        };
        *next = found + 1;
        self.sorted.get(found).copied()
    }

    fn column_name(&self, at: usize) -> &[u8] {
        self.columns.get(at).map_or(&[], |column| column.name.as_bytes())
    }

    /// Whether all texts in its key are different that differ in their bytes. Those of tables that became CRRs here are.
    pub(crate) fn compares_keys_by_bytes(&self) -> bool {
        self.collations.iter().all(|name| name.eq_ignore_ascii_case("BINARY"))
    }

    /// Refuses a key whose column takes different texts for the same: peers tell keys apart by their bytes.
    pub(crate) fn check_key_collations(&self) -> Result<()> {
        let folding = self.keys.iter().zip(&self.collations).find(|(_, name)| !name.eq_ignore_ascii_case("BINARY"));
        let Some((key, collation)) = folding else { return Ok(()) };
        Err(Error::Unsuitable {
            table: self.name.clone(),
            reason: format!(
                "its key column {} has the collation {collation}; peers compare keys byte by byte",
                key.name
            ),
        })
    }

    /// Whether it has nothing but its key.
    pub(crate) fn is_key_only(&self) -> bool {
        self.columns.is_empty()
    }
}

impl Table {
    /// What it is, which connections share.
    pub(crate) fn definition(&self) -> &Arc<Definition> {
        &self.definition
    }

    /// Reads a table, which needn't be a CRR yet. `None` if there is none of this name.
    pub(crate) fn read(db: &Connection, name: &str) -> Result<Option<Table>> {
        Ok(Definition::read(db, name)?.map(|definition| Table::new(Arc::new(definition))))
    }

    /// The table of that definition.
    pub(crate) fn new(definition: Arc<Definition>) -> Table {
        Table { definition, sets: Mutex::default(), entry_writes: [const { OnceLock::new() }; MAX_ENTRIES] }
    }

    /// The statements that write these columns, given by position.
    pub(crate) fn set(&self, columns: &[usize]) -> Arc<SetSql> {
        // A poisoned map is as good as any: entries are only ever added whole.
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get(columns) {
            return Arc::clone(known);
        }
        if sets.len() >= MAX_SETS {
            sets.clear();
        }
        let made = Arc::new(self.make_set(columns));
        sets.insert(columns.into(), Arc::clone(&made));
        made
    }

    /// The statements that write `count` clock entries, 1 to [`MAX_ENTRIES`].
    pub(crate) fn write_entries(&self, count: usize) -> Option<&EntrySql> {
        let slot = self.entry_writes.get(count.checked_sub(1)?)?;
        Some(slot.get_or_init(|| self.make_entry_writes(count)))
    }

    fn make_set(&self, columns: &[usize]) -> SetSql {
        let base = base(&self.name);
        let set: Vec<String> =
            columns.iter().filter_map(|at| self.columns.get(*at)).map(|column| sql::identifier(&column.name)).collect();
        let keys: Vec<String> = self.keys.iter().map(|key| sql::identifier(&key.name)).collect();
        let names = sql::join(keys.iter().chain(&set), ", ", String::clone);
        let params = sql::join(1..=keys.len() + set.len(), ", ", |at| format!("?{at}"));
        let assignments = sql::join(set.iter().zip(keys.len() + 1..), ", ", |(name, at)| format!("{name} = ?{at}"));
        let key_is = sql::join(keys.iter().zip(1..), " AND ", |(name, at)| format!("{name} = ?{at}"));
        let resolution = match set.is_empty() {
            true => "NOTHING".to_owned(),
            false => format!("UPDATE SET {}", sql::join(&set, ", ", |name| format!("{name} = excluded.{name}"))),
        };
        SetSql {
            update: format!("UPDATE {base} SET {assignments} WHERE {key_is}"),
            upsert: format!(
                "INSERT INTO {base} ({names}) VALUES ({params}) ON CONFLICT ({}) DO {resolution}",
                self.conflict_target
            ),
        }
    }

    fn make_entry_writes(&self, count: usize) -> EntrySql {
        let rows = sql::join(0..count, ", ", |row| {
            let first = 2 + row * 5;
            format!("(?1, ?{}, ?{}, ?{}, ?{}, ?{})", first, first + 1, first + 2, first + 3, first + 4)
        });
        let entries = "(key, col_name, col_version, db_version, site_id, seq) VALUES";
        let clock = clock(&self.name);
        EntrySql { insert: format!("INSERT OR FAIL INTO {clock} {entries} {rows}") }
    }
}

impl TableSql {
    fn new(name: &str, keys: &[Column], columns: &[Column]) -> TableSql {
        let (base, clock, lookaside) = (base(name), clock(name), lookaside(name));
        let key_list = sql::join(keys, ", ", |key| sql::identifier(&key.name));
        let key_params = sql::join(1..=keys.len(), ", ", |at| format!("?{at}"));
        let key_is =
            sql::join(keys.iter().zip(1..), " AND ", |(key, at)| format!("{} = ?{at}", sql::identifier(&key.name)));
        // Without a column, there is still a row to see.
        let column_list = match columns {
            [] => "1".to_owned(),
            _ => sql::join(columns, ", ", |column| sql::identifier(&column.name)),
        };
        let entry = "(key, col_name, col_version, db_version, site_id, seq)";
        let stamp = "db_version = excluded.db_version, site_id = 0, seq = excluded.seq";
        let revived = "col_version + 1 + (col_version % 2)";
        let all_columns = sql::join(columns.iter().zip(0..), ", ", |(column, at): (&Column, usize)| {
            format!("(?1, {}, 1, ?2, 0, ?3 + {at})", sql::literal(&column.name))
        });
        let keyed_columns = columns.iter().map(|column| format!(", t.{}", sql::identifier(&column.name)));
        let keyed_columns: String = keyed_columns.collect();
        TableSql {
            find_key: format!("SELECT __crsql_key FROM {lookaside} WHERE {key_is}"),
            known: format!(
                "SELECT p.__crsql_key, c.col_name, c.col_version, c.db_version, c.site_id, c.seq
                 FROM {lookaside} AS p LEFT JOIN {clock} AS c ON c.key = p.__crsql_key WHERE {}",
                sql::join(keys.iter().zip(1..), " AND ", |(key, at)| format!(
                    "p.{} = ?{at}",
                    sql::identifier(&key.name)
                ))
            ),
            insert_key: format!("INSERT OR IGNORE INTO {lookaside} ({key_list}) VALUES ({key_params})"),
            entries: format!("SELECT col_name, col_version, db_version, site_id, seq FROM {clock} WHERE key = ?1"),
            all_entries: format!("SELECT key, col_name, col_version FROM {clock} ORDER BY key"),
            row: format!("SELECT {column_list} FROM {base} WHERE {key_is}"),
            delete_row: format!("DELETE FROM {base} WHERE {key_is}"),
            delete_entries: format!("DELETE FROM {clock} WHERE key = ?1"),
            delete_column_entries: format!("DELETE FROM {clock} WHERE key = ?1 AND col_name <> '-1'"),
            insert_all_columns: format!("INSERT OR FAIL INTO {clock} {entry} VALUES {all_columns}"),
            upsert_all_columns: format!(
                "INSERT INTO {clock} {entry} VALUES {all_columns}
                 ON CONFLICT DO UPDATE SET col_version = col_version + 1, {stamp}"
            ),
            upsert_column: format!(
                "INSERT INTO {clock} {entry} VALUES (?1, ?4, 1, ?2, 0, ?3)
                 ON CONFLICT DO UPDATE SET col_version = col_version + 1, {stamp}"
            ),
            update_entry: format!(
                "UPDATE {clock} SET col_version = ?3, db_version = ?4, site_id = ?5, seq = ?6
                 WHERE key = ?1 AND col_name = ?2"
            ),
            replace_entry: format!(
                "INSERT INTO {clock} {entry} VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                 ON CONFLICT DO UPDATE SET col_version = excluded.col_version, db_version = excluded.db_version,
                     site_id = excluded.site_id, seq = excluded.seq"
            ),
            upsert_alive: format!(
                "INSERT INTO {clock} {entry} VALUES (?1, '-1', ?4, ?2, 0, ?3)
                 ON CONFLICT DO UPDATE SET col_version = {revived}, {stamp}"
            ),
            bump_alive: format!(
                "UPDATE {clock} SET col_version = {revived}, db_version = ?2, site_id = 0, seq = ?3
                 WHERE key = ?1 AND col_name = '-1'"
            ),
            upsert_dead: format!(
                "INSERT INTO {clock} {entry} VALUES (?1, '-1', 2, ?2, 0, ?3)
                 ON CONFLICT DO UPDATE SET col_version = col_version + 1, {stamp}"
            ),
            move_entries: format!("UPDATE OR REPLACE {clock} SET key = ?2 WHERE key = ?1 AND col_name <> '-1'"),
            stamp_entry: format!(
                "UPDATE {clock} SET db_version = ?2, site_id = 0, seq = ?3 WHERE key = ?1 AND col_name = ?4"
            ),
            life: format!(
                "SELECT (SELECT col_version FROM {clock} WHERE key = ?1 AND col_name = '-1'),
                        EXISTS (SELECT 1 FROM {clock} WHERE key = ?1 AND col_name <> '-1')"
            ),
            entry_version: format!("SELECT col_version FROM {clock} WHERE key = ?1 AND col_name = ?2"),
            version_ahead: format!(
                "SELECT db_version FROM {clock} WHERE db_version > ?1 ORDER BY db_version LIMIT 1 OFFSET ?2"
            ),
            keys_between: format!("SELECT key FROM {clock} WHERE db_version > ?1 AND db_version <= ?2"),
            keyed_row: format!(
                "SELECT {}{keyed_columns} FROM {lookaside} AS p LEFT JOIN {base} AS t ON {} WHERE p.__crsql_key = ?1",
                sql::join(keys, ", ", |key| format!("p.{}", sql::identifier(&key.name))),
                sql::join(keys, " AND ", |key| {
                    let key = sql::identifier(&key.name);
                    format!("t.{key} = p.{key}")
                }),
            ),
        }
    }
}

/// A table, qualified and quoted.
pub(crate) fn base(table: &str) -> String {
    format!("main.{}", sql::identifier(table))
}

/// The clock table of a CRR, qualified and quoted.
pub(crate) fn clock(table: &str) -> String {
    format!("main.{}", sql::identifier(&format!("{table}{CLOCK_SUFFIX}")))
}

/// The lookaside table of a CRR, qualified and quoted.
pub(crate) fn lookaside(table: &str) -> String {
    format!("main.{}", sql::identifier(&format!("{table}{LOOKASIDE_SUFFIX}")))
}

/// The collations of the primary key's index; none if the key is the rowid.
fn key_collations(db: &Connection, table: &str) -> Result<Vec<String>> {
    let mut statement = db.prepare_cached(
        "SELECT info.coll FROM pragma_index_list(?1, 'main') AS list, pragma_index_xinfo(list.name, 'main') AS info
         WHERE list.origin = 'pk' AND info.key ORDER BY info.seqno",
    )?;
    Ok(statement.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}
