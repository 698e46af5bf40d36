//! The table that is measured, its rows, and the changes that make them.

use std::fmt;
use std::path::Path;

use crr::{Change, SiteId};
use rusqlite::Connection;
use rusqlite::types::ValueRef;

/// How much is measured.
pub(crate) struct Scale {
    /// Changes where the size of the database doesn't matter.
    pub(crate) some: usize,
    /// Changes where it does.
    pub(crate) many: usize,
    /// Rounds of the former.
    pub(crate) rounds: usize,
    /// Rounds of the latter.
    pub(crate) long_rounds: usize,
}

impl Scale {
    pub(crate) fn full() -> Scale {
        Scale { some: 100_000, many: 1_000_000, rounds: 7, long_rounds: 3 }
    }

    pub(crate) fn quick() -> Scale {
        Scale { some: 50_000, many: 100_000, rounds: 3, long_rounds: 1 }
    }
}

/// Rows a transaction: about 1,000 changes.
const ROWS: usize = 334;

/// Changes of a new row: one for each column beside the key.
pub(crate) const COLUMNS: usize = 3;

/// Who writes the changes that are merged.
pub(crate) const AUTHOR: SiteId = SiteId::from_bytes([7; 16]);

/// The order in which keys come.
#[derive(Clone, Copy)]
pub(crate) enum Keys {
    Ordered,
    Random,
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Keys::Ordered => "ordered keys",
            Keys::Random => "random keys",
        })
    }
}

impl Keys {
    fn text(self, number: usize) -> String {
        let number = number as u64;
        format!("{:016x}", if let Keys::Random = self { scatter(number) } else { number })
    }
}

/// A bijection of numbers without visible order (the finalizer of splitmix64).
fn scatter(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// One row, by value.
pub(crate) struct Row {
    /// The lookaside key that it gets where rows are written in order.
    pub(crate) lookaside: i64,
    pub(crate) id: String,
    pub(crate) pk: Vec<u8>,
    pub(crate) amount: i64,
    pub(crate) title: String,
    pub(crate) price: f64,
}

impl Row {
    fn new(keys: Keys, number: usize, edition: i64) -> Row {
        let id = keys.text(number);
        Row {
            lookaside: number as i64 + 1,
            pk: [&[1, 1 << 3 | 3, id.len() as u8], id.as_bytes()].concat(),
            id,
            amount: number as i64 * 10 + edition,
            title: format!("edition {edition} of item {number}"),
            price: number as f64 + edition as f64 / 8.0,
        }
    }

    /// Its columns beside the key, by name.
    pub(crate) fn cells(&self) -> [(&str, ValueRef<'_>); COLUMNS] {
        [
            ("amount", ValueRef::Integer(self.amount)),
            ("title", ValueRef::Text(self.title.as_bytes())),
            ("price", ValueRef::Real(self.price)),
        ]
    }
}

/// The rows of one transaction.
pub(crate) struct Batch {
    pub(crate) rows: Vec<Row>,
    pub(crate) db_version: i64,
    pub(crate) col_version: i64,
    /// How many columns of each row are written.
    pub(crate) columns: usize,
}

impl Batch {
    /// How many changes it is.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() * self.columns
    }

    /// As a peer sends it.
    pub(crate) fn changes(&self) -> impl Iterator<Item = Change<'_>> + Clone {
        let cells =
            self.rows.iter().flat_map(|row| row.cells().into_iter().take(self.columns).map(move |cell| (row, cell)));
        cells.zip(0..).map(|((row, (cid, val)), seq)| Change {
            table: "item",
            pk: &row.pk,
            cid,
            val,
            col_version: self.col_version,
            db_version: self.db_version,
            site_id: Some(AUTHOR),
            cl: 1,
            seq,
        })
    }
}

/// About `changes` changes, cut into transactions. The `edition` of a row is its content and its column version.
pub(crate) fn batches(keys: Keys, changes: usize, edition: i64) -> Vec<Batch> {
    let transactions = (changes / (ROWS * COLUMNS)).max(1);
    let batch = |at: usize| Batch {
        rows: (at * ROWS..(at + 1) * ROWS).map(|number| Row::new(keys, number, edition)).collect(),
        db_version: edition * 1_000_000 + at as i64,
        col_version: edition,
        columns: COLUMNS,
    };
    (0..transactions).map(batch).collect()
}

/// A new database with the table, as the server opens the one it writes to.
pub(crate) fn database(folder: &Path, name: &str) -> Connection {
    let conn = open(folder, name);
    let crr = crr::load(&conn).unwrap();
    create_table(&conn, "item");
    crr.as_crr("item").unwrap();
    conn
}

/// The same without the engine: the same tables, but nothing tracks.
pub(crate) fn plain_database(folder: &Path, name: &str) -> Connection {
    drop(database(folder, name));
    let conn = open(folder, name);
    conn.execute_batch(
        "DROP TRIGGER item__crsql_itrig; DROP TRIGGER item__crsql_utrig; DROP TRIGGER item__crsql_dtrig",
    )
    .unwrap();
    conn
}

/// Creates the table under another name.
pub(crate) fn create_table(conn: &Connection, name: &str) {
    conn.execute_batch(&format!(
        "CREATE TABLE {name} (id TEXT PRIMARY KEY NOT NULL, amount INTEGER, title TEXT, price REAL)"
    ))
    .unwrap();
}

/// Opens a database with the pragmas of the server's writer.
pub(crate) fn open(folder: &Path, name: &str) -> Connection {
    let conn = Connection::open(folder.join(name)).unwrap();
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    conn.pragma_update(None, "synchronous", "FULL").unwrap();
    conn.pragma_update(None, "temp_store", "MEMORY").unwrap();
    conn
}
