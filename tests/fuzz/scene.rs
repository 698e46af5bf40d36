//! The server, those who mean well, and what is left in its file.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use tower_sqlite_sync_wire::{Change, Value};

use crate::fixture::{Client, ClientOptions, Replica, SCHEMA, cell, soon};
use crate::process::Example;

/// The room in which everything happens.
pub(crate) const ROOM: &str = "fuzzed";

/// The tables of the schema that are synced, with their keys and their other columns.
const TABLES: [(&str, &str, &[&str]); 3] =
    [("foo", "a", &["b"]), ("typed", "id", &["r", "i", "t", "n", "x"]), ("picky", "id", &["v"])];

/// How far a changeset may take the room's version, and that of a cell.
const LEAP: i64 = 1 << 24;

/// How far a changeset may take the causal length of a row.
const LIVES: i64 = 1 << 20;

/// The largest number that is taken from a client.
const LARGEST: i64 = 1 << 52;

/// The example server, with two clients in that room and two in another.
pub(crate) struct Scene {
    server: Example,
    pairs: [Pair; 2],
}

struct Pair {
    author: Client,
    reader: Client,
    written: i64,
}

impl Scene {
    pub(crate) async fn start() -> Self {
        let server = Example::launch("server", SCHEMA, |command| {
            command
                .args(["--listen", "127.0.0.1:0"])
                .env("RUST_LOG", "error")
                .env("TOWER_SQLITE_SYNC_ADDRESS_REFUSALS", "1000000000")
                .env("TOWER_SQLITE_SYNC_MAX_MESSAGE_BYTES", "1000000")
        })
        .await;
        let pairs = [Pair::enter(server.address, ROOM).await, Pair::enter(server.address, "quiet").await];
        Self { server, pairs }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// In either room, what one writes reaches the other.
    pub(crate) async fn goes_on(&mut self) {
        for pair in &mut self.pairs {
            pair.goes_on().await;
        }
        let log = std::fs::read_to_string(self.server.folder().join("log")).unwrap();
        assert_eq!(log, "", "nothing is a fault of the server's, and no thread panicked");
    }

    /// After so many changesets at most, the file is sound, its numbers are within bounds, and a new client can take it all.
    pub(crate) async fn is_sound(&mut self, changesets: usize) {
        self.goes_on().await;
        let mut replica = Replica::new(79);
        replica.connect(self.address(), ROOM).await;
        let marker = format!("SELECT count(*) FROM foo WHERE a = '{}'", self.pairs[0].last_key());
        while replica.conn.query_row(&marker, [], |row| row.get::<_, i64>(0)).unwrap() == 0 {
            let message = replica.receive().await;
            replica.handle(message, false).await;
        }

        let file = self.server.folder().join("dbs").join(ROOM);
        let file = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let check: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        let (theirs, ours) = (cells(&replica.conn), cells(&file));
        let unwritten = [&replica.conn, &file].map(unwritten_since_revived);
        assert!(ours.len() > 20, "{ours:?}");
        assert_eq!(
            theirs.keys().collect::<Vec<_>>(),
            ours.keys().collect::<Vec<_>>(),
            "the rows of a new client, and all"
        );
        for (cell, value) in &ours {
            assert!(
                theirs[cell] == *value || unwritten.iter().all(|unwritten| unwritten.contains(cell)),
                "a new client has {:?} for {cell:?}, which is {value}",
                theirs[cell]
            );
        }
        let sites = file.query_row("SELECT count(*) FROM crsql_tracked_peers", [], |row| row.get::<_, i64>(0)).unwrap();
        println!("something was taken of {sites} sites");
        clocks_are_within_bounds(&file, i64::try_from(changesets).unwrap() + self.pairs[0].written);
    }
}

impl Pair {
    async fn enter(address: SocketAddr, room: &str) -> Self {
        let mut author = Client::connect_with(address, room, 1, ClientOptions::default()).await;
        let mut reader = Client::connect_with(address, room, 2, ClientOptions::default()).await;
        author.enter().await;
        reader.enter().await;
        Self { author, reader, written: 0 }
    }

    /// The key of the row that was written last, which nobody else writes.
    fn last_key(&self) -> String {
        format!("honest {}", self.written)
    }

    async fn goes_on(&mut self) {
        self.written += 1;
        let key = self.last_key();
        let key = [&[1, 0x0b, u8::try_from(key.len()).unwrap()], key.as_bytes()].concat();
        let change = Change { pk: &key, ..cell(1, "b", Value::Text("still here"), self.written) };
        self.author.push(self.written - 1, &[change]).await;
        soon("the change to reach the reader", async {
            while !self.reader.changes().await.changes.iter().any(|change| change.pk == key) {}
        })
        .await;
    }
}

/// A table, the key of a row, and one of its columns.
type Cell = (&'static str, String, &'static str);

/// What is in the cells of all tables, with numbers as JavaScript sees them: there, 5 and 5.0 are one. The key is a cell as well, so
/// that rows are also told apart where there is nothing else in them.
fn cells(conn: &Connection) -> BTreeMap<Cell, String> {
    let mut cells = BTreeMap::new();
    for (table, key, columns) in TABLES {
        for column in [&[key], columns].concat() {
            let sql = format!("SELECT {key}, {column} FROM {table}");
            let mut statement = conn.prepare(&sql).unwrap();
            let found = statement.query_map([], |row| Ok((written(row.get_ref(0)?), written(row.get_ref(1)?))));
            cells.extend(found.unwrap().map(Result::unwrap).map(|(row, value)| ((table, row, column), value)));
        }
    }
    cells
}

#[allow(clippy::cast_precision_loss)]
fn written(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Integer(i) if i.unsigned_abs() < 1 << 53 => format!("{:?}", i as f64),
        ValueRef::Real(x) => format!("{x:?}"),
        other => format!("{other:?}"),
    }
}

/// The cells that nobody has written since their row was deleted and revived by its sentinel alone. Over the row that it has, a sentinel
/// sets the versions to 0 and leaves the values, as in cr-sqlite, and these are others in a file that has seen the row's death, or
/// another write before it. (Who inserts a row again writes all of its columns. A sentinel alone is what only fuzzing sends.)
fn unwritten_since_revived(conn: &Connection) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (table, key, columns) in TABLES {
        for &column in columns {
            let entry = |which: &str| {
                format!("SELECT 1 FROM {table}__crsql_clock AS c WHERE c.key = p.__crsql_key AND {which}")
            };
            let revived = entry("col_name = '-1' AND col_version >= 3");
            let written_since = entry(&format!("col_name = '{column}' AND col_version > 0"));
            let sql = format!(
                "SELECT p.{key} FROM {table}__crsql_pks AS p WHERE EXISTS ({revived}) AND NOT EXISTS ({written_since})"
            );
            let mut statement = conn.prepare(&sql).unwrap();
            let found = statement.query_map([], |row| Ok(written(row.get_ref(0)?)));
            cells.extend(found.unwrap().map(|row| (table, row.unwrap(), column)));
        }
    }
    cells
}

/// No number is larger than so many changesets can have made it.
fn clocks_are_within_bounds(conn: &Connection, changesets: i64) {
    let largest = |what: &str, from: &str| {
        let sql = format!("SELECT coalesce(min({what}), 0), coalesce(max({what}), 0) FROM {from}");
        let (least, most): (i64, i64) = conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert!(least >= 0, "{what} in {from}: {least}");
        most
    };
    for (table, ..) in TABLES {
        let clock = format!("{table}__crsql_clock");
        assert!(largest("db_version", &clock) <= changesets * LEAP);
        assert!(largest("col_version", &format!("{clock} WHERE col_name <> '-1'")) <= changesets * LEAP);
        assert!(largest("col_version", &format!("{clock} WHERE col_name = '-1'")) <= changesets * LIVES);
        assert!(largest("seq", &clock) <= LARGEST);
    }
    assert!(largest("version", "crsql_tracked_peers") <= LARGEST);
    assert!(largest("seq", "crsql_tracked_peers") <= LARGEST);
}
