//! What the CRRs of a database are, as its definitions say. Databases of the same definitions share it: a process may have thousands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rusqlite::Connection;

use crate::schema::CLOCK_SUFFIX;
use crate::table::{self, Definition};
use crate::{Result, raw, sql};

/// How many tables one query for the newest versions covers: a query has at most 2,000 columns, unless the application says less.
const TABLES_PER_QUERY: usize = 100;

/// Definitions that are kept, those of which a database was read last.
const MOST: usize = 16;

/// Of longer ones nothing is kept.
const MAX_TEXT: usize = 1 << 20;

/// The last definitions that were asked for.
static KNOWN: Mutex<Vec<Arc<Definitions>>> = Mutex::new(Vec::new());

/// The CRRs, in the order of their clock tables.
#[derive(Debug)]
pub(crate) struct Definitions {
    /// `None` if they are one database's only.
    text: Option<String>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) by_name: HashMap<String, usize>,
    /// Queries for the newest versions, each of one row, with a column for each of the next tables.
    pub(crate) newest_of_many: Vec<String>,
}

/// A clock table, and what it is the clock of.
#[derive(Debug)]
pub(crate) struct Entry {
    name: String,
    /// A query for the newest version in the clock table; without a row if it is empty.
    pub(crate) newest: String,
    /// Read when first needed. `None` inside if the table, or its lookaside, is gone.
    definition: OnceLock<Option<Arc<Definition>>>,
}

impl Definitions {
    /// Those of a database.
    pub(crate) fn of(db: &Connection) -> Result<Arc<Definitions>> {
        // What is being changed is for nobody else.
        let before = if raw::is_writing(db) { None } else { text(db)? };
        if let Some(known) = before.as_deref().and_then(find) {
            return Ok(known);
        }
        let mut read = Definitions::read(db)?;
        // Neither is what another process has changed meanwhile.
        if before.is_some() && before == text(db)? {
            read.text = before;
            return Ok(keep(read));
        }
        Ok(Arc::new(read))
    }

    /// The CRR of a clock table, read from a database that has, or had a moment ago, these definitions.
    pub(crate) fn table(&self, db: &Connection, entry: &Entry) -> Result<Option<Arc<Definition>>> {
        if let Some(definition) = entry.definition.get() {
            return Ok(definition.clone());
        }
        let definition = Definition::read_crr(db, &entry.name)?.map(Arc::new);
        if self.text.is_none() || text(db)? == self.text {
            return Ok(entry.definition.get_or_init(|| definition).clone());
        }
        Ok(definition)
    }

    fn read(db: &Connection) -> Result<Definitions> {
        // The names may be anything, so the columns are looked at too.
        let mut statement = db.prepare(&format!(
            "SELECT name FROM main.sqlite_schema AS tables
             WHERE type = 'table' AND name GLOB '?*{CLOCK_SUFFIX}' AND
                   (SELECT count(*) FROM pragma_table_info(tables.name, 'main')
                    WHERE name IN ('key', 'col_name', 'col_version', 'db_version', 'site_id', 'seq')) = 6
             ORDER BY rowid"
        ))?;
        let clocks: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let entries: Vec<Entry> =
            clocks.iter().filter_map(|clock| clock.strip_suffix(CLOCK_SUFFIX)).map(Entry::new).collect();
        let newest_of_many = entries
            .chunks(TABLES_PER_QUERY)
            .map(|entries| format!("SELECT {}", sql::join(entries, ", ", |entry| format!("({})", entry.newest))))
            .collect();
        let by_name = entries.iter().enumerate().map(|(at, entry)| (entry.name.clone(), at)).collect();
        Ok(Definitions { text: None, entries, by_name, newest_of_many })
    }
}

impl Entry {
    fn new(name: &str) -> Entry {
        Entry {
            name: name.to_owned(),
            newest: format!("SELECT db_version FROM {} ORDER BY db_version DESC LIMIT 1", table::clock(name)),
            definition: OnceLock::new(),
        }
    }
}

/// All that a database's tables are made of. `None` if that isn't all: what a virtual table is, its module says.
fn text(db: &Connection) -> Result<Option<String>> {
    let sql =
        "SELECT type, name, tbl_name, sql, type = 'table' AND rootpage = 0 FROM main.sqlite_schema ORDER BY rowid";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut text = String::new();
    while let Some(row) = rows.next()? {
        if row.get(4)? {
            return Ok(None);
        }
        for at in 0..4 {
            // Indexes that SQLite makes by itself have no text.
            let Ok(part) = row.get_ref(at)?.as_str_or_null() else { return Ok(None) };
            let part = part.unwrap_or_default();
            // With its length, so that no two databases have the same.
            text.push_str(&part.len().to_string());
            text.push(':');
            text.push_str(part);
        }
        if text.len() > MAX_TEXT {
            return Ok(None);
        }
    }
    Ok(Some(text))
}

fn find(text: &str) -> Option<Arc<Definitions>> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let at = known.iter().rposition(|known| known.text.as_deref() == Some(text))?;
    let found = known.remove(at);
    known.push(found.clone());
    Some(found)
}

/// Keeps definitions, unless somebody else was first.
fn keep(read: Definitions) -> Arc<Definitions> {
    if let Some(known) = read.text.as_deref().and_then(find) {
        return known;
    }
    let read = Arc::new(read);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if known.len() >= MOST {
        known.remove(0);
    }
    known.push(read.clone());
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(sql: &str) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        crate::load(&conn).unwrap();
        conn.execute_batch(sql).unwrap();
        conn
    }

    #[test]
    fn databases_of_the_same_definitions_share_them_and_others_do_not() {
        let foo = "CREATE TABLE shared (a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('shared');";
        let other = foo.replace("b)", "c)");
        let [one, two, three] = [foo, foo, &other].map(database);
        let [a, b, c] = [&one, &two, &three].map(|conn| Definitions::of(conn).unwrap());
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &c));
        let columns = |conn: &Connection, of: &Definitions| {
            let table = of.table(conn, &of.entries[0]).unwrap().unwrap();
            table.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!([columns(&one, &a), columns(&two, &b), columns(&three, &c)], [["b"], ["b"], ["c"]]);
    }

    #[test]
    fn what_is_read_after_a_change_is_for_nobody_else() {
        let sql = "CREATE TABLE late (a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('late');";
        let [one, two] = [sql, sql].map(database);
        let before = Definitions::of(&one).unwrap();
        one.execute_batch("ALTER TABLE late ADD COLUMN c").unwrap();
        let count = |conn| before.table(conn, &before.entries[0]).unwrap().unwrap().columns.len();
        assert_eq!([count(&one), count(&two), count(&one)], [2, 1, 1]);
    }

    #[test]
    fn what_is_read_inside_a_transaction_that_writes_is_for_nobody_else() {
        let sql = "CREATE TABLE inside (a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('inside');";
        let (one, two) = (database(sql), database(sql));
        one.execute_batch("BEGIN; CREATE TABLE plain_inside (x)").unwrap();
        let within = Definitions::of(&one).unwrap();
        one.execute_batch("ROLLBACK").unwrap();
        two.execute_batch("CREATE TABLE plain_inside (x)").unwrap();
        assert!(!Arc::ptr_eq(&within, &Definitions::of(&two).unwrap()));
    }

    #[test]
    fn databases_with_virtual_tables_share_nothing() {
        let [one, two] = ["CREATE VIRTUAL TABLE v USING fts5 (x)"; 2].map(database);
        assert!(!Arc::ptr_eq(&Definitions::of(&one).unwrap(), &Definitions::of(&two).unwrap()));
    }

    #[test]
    fn only_the_last_ones_are_kept() {
        for n in 0..2 * MOST {
            Definitions::of(&database(&format!("CREATE TABLE many_{n} (x)"))).unwrap();
        }
        assert!(KNOWN.lock().unwrap().len() <= MOST);
    }
}
