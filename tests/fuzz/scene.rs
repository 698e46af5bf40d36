//! The server, those who mean well, and what is left in its file.

use std::net::SocketAddr;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use tower_sqlite_sync_wire::{Change, Value};

use crate::fixture::{Client, ClientOptions, Replica, SCHEMA, cell, soon};
use crate::process::Example;

/// The room in which everything happens.
pub(crate) const ROOM: &str = "fuzzed";

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
        let (theirs, ours) = (rows(&replica.conn), rows(&file));
        assert!(ours.len() > 10, "{ours:?}");
        let (lacks, has) = (without(&ours, &theirs), without(&theirs, &ours));
        let known = revived_without_values(&file);
        assert_eq!(lacks.len(), has.len(), "a new client lacks {lacks:?} and has {has:?}");
        for row in lacks {
            assert!(known.contains(&row), "a new client lacks {row}, and has {has:?}");
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

/// The rows of all tables.
fn rows(conn: &Connection) -> Vec<String> {
    let mut rows: Vec<String> = ["foo", "typed", "picky"].iter().flat_map(|table| selected(conn, table, "")).collect();
    rows.sort();
    rows
}

/// Rows of a table, with numbers as JavaScript sees them: there, 5 and 5.0 are one.
fn selected(conn: &Connection, table: &str, condition: &str) -> Vec<String> {
    #[allow(clippy::cast_precision_loss)]
    let written = |value: ValueRef<'_>| match value {
        ValueRef::Integer(i) if i.unsigned_abs() < 1 << 53 => format!("{:?}", i as f64),
        ValueRef::Real(x) => format!("{x:?}"),
        other => format!("{other:?}"),
    };
    let mut statement = conn.prepare(&format!("SELECT {table}.* FROM {table} {condition}")).unwrap();
    let columns = statement.column_count();
    let found = statement.query_map([], |row| {
        let cells: Vec<String> = (0..columns).map(|at| written(row.get_ref(at).unwrap())).collect();
        Ok(format!("{table} {}", cells.join("|")))
    });
    found.unwrap().map(Result::unwrap).collect()
}

/// The rows of `foo` that were deleted and revived by their sentinel alone. Over the row that it has, a sentinel sets the versions to 0
/// and leaves the values, as in cr-sqlite: a client that has seen the row, but not its death, has values that the file has no more. (Who
/// inserts a row again writes all of its columns. A sentinel alone is what only fuzzing sends.)
fn revived_without_values(conn: &Connection) -> Vec<String> {
    let entry = |which: &str| format!("SELECT 1 FROM foo__crsql_clock AS c WHERE c.key = p.__crsql_key AND {which}");
    let (revived, written) =
        (entry("col_name = '-1' AND col_version >= 3"), entry("col_name = 'b' AND col_version > 0"));
    let condition = format!(
        "JOIN foo__crsql_pks AS p ON p.a IS foo.a WHERE b IS NULL AND EXISTS ({revived}) AND NOT EXISTS ({written})"
    );
    selected(conn, "foo", &condition)
}

/// Those of `rows` that are not among `others`.
fn without(rows: &[String], others: &[String]) -> Vec<String> {
    rows.iter().filter(|row| !others.contains(row)).cloned().collect()
}

/// No number is larger than so many changesets can have made it.
fn clocks_are_within_bounds(conn: &Connection, changesets: i64) {
    let largest = |what: &str, from: &str| {
        let sql = format!("SELECT coalesce(min({what}), 0), coalesce(max({what}), 0) FROM {from}");
        let (least, most): (i64, i64) = conn.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert!(least >= 0, "{what} in {from}: {least}");
        most
    };
    for table in ["foo", "typed", "picky"] {
        let clock = format!("{table}__crsql_clock");
        assert!(largest("db_version", &clock) <= changesets * LEAP);
        assert!(largest("col_version", &format!("{clock} WHERE col_name <> '-1'")) <= changesets * LEAP);
        assert!(largest("col_version", &format!("{clock} WHERE col_name = '-1'")) <= changesets * LIVES);
        assert!(largest("seq", &clock) < LARGEST);
    }
    assert!(largest("version", "crsql_tracked_peers") <= LARGEST);
    assert!(largest("seq", "crsql_tracked_peers") <= LARGEST);
}
