//! Whatever values somebody inserts into `crsql_changes`, alone or inside a transaction: no panic, no damage, no clock beyond
//! its bounds, and nothing left behind by a statement that fails.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

const SCHEMA: &str = "
    CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b, c);
    CREATE TABLE pair (x TEXT NOT NULL, y BLOB NOT NULL, z REAL DEFAULT 1.5, PRIMARY KEY (y, x)) WITHOUT ROWID;
    CREATE TABLE picky (id PRIMARY KEY NOT NULL, n INTEGER NOT NULL DEFAULT 0 CHECK (n < 100));
    CREATE TABLE plain (id INTEGER PRIMARY KEY, v);
    SELECT crsql_as_crr('foo');
    SELECT crsql_as_crr('pair');
    SELECT crsql_as_crr('picky');
    INSERT INTO foo VALUES (1, 2, 3), (2, 'two', NULL);
    INSERT INTO pair VALUES ('a', x'01', 2.5);
    INSERT INTO picky VALUES (1, 5);
    DELETE FROM foo WHERE a = 2;";

/// Everything that is stored, but for the schema.
fn contents(conn: &Connection) -> Vec<Vec<Value>> {
    let tables: Vec<String> = conn
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    let mut rows = Vec::new();
    for table in tables {
        let mut statement = conn.prepare(&format!("SELECT '{table}', * FROM \"{table}\"")).unwrap();
        let columns = statement.column_count();
        let found = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect()).unwrap();
        rows.extend(found.collect::<rusqlite::Result<Vec<Vec<Value>>>>().unwrap());
    }
    rows
}

fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>().prop_filter("SQLite stores NaN as NULL", |x| !x.is_nan()).prop_map(Value::Real),
        any::<String>().prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..24).prop_map(Value::Blob),
    ]
}

/// One of some values that fit, or seldom anything.
fn mostly(fitting: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop_oneof![9 => fitting, 1 => anything()]
}

fn text(choices: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop::sample::select(choices).prop_map(|text| Value::Text(text.to_owned()))
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => (0i64..6).prop_map(Value::Integer),
        1 => prop::sample::select(vec![-1, 1 << 52, (1 << 52) + 1, 1 << 53, i64::MAX, i64::MIN]).prop_map(Value::Integer),
    ]
}

fn key() -> impl Strategy<Value = Value> {
    let known: Vec<Vec<u8>> = [
        &b"\x01\x09\x01"[..],
        b"\x01\x09\x02",
        b"\x02\x0c\x01\x01\x0b\x01a",
        b"\x01\x0b\x01x",
        b"\x01\x05",
        b"\x00",
        b"",
    ]
    .map(<[u8]>::to_vec)
    .to_vec();
    (prop::sample::select(known), prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()))).prop_map(
        |(mut key, damage)| {
            if let Some((at, byte)) = damage
                && !key.is_empty()
            {
                let at = at.index(key.len());
                key[at] = byte;
            }
            Value::Blob(key)
        },
    )
}

fn change() -> impl Strategy<Value = Vec<Value>> {
    (
        mostly(text(&["foo", "pair", "picky", "plain", "none", "crsql_site_id"])),
        mostly(key()),
        mostly(text(&["b", "c", "z", "n", "a", "-1", "none"])),
        anything(),
        mostly(number()),
        mostly(number()),
        mostly(prop_oneof![Just(Value::Null), Just(Value::Blob(vec![7; 16])), Just(Value::Blob(vec![8; 16]))]),
        mostly(number()),
        mostly(number()),
    )
        .prop_map(|(table, pk, cid, val, col_version, db_version, site, cl, seq)| {
            vec![table, pk, cid, val, col_version, db_version, site, cl, seq]
        })
}

/// No stored number is one that could poison a clock.
fn clocks_are_sane(conn: &Connection) {
    for table in ["foo", "pair", "picky"] {
        let insane: i64 = conn
            .query_row(
                &format!(
                    "SELECT count(*) FROM {table}__crsql_clock
                     WHERE col_version NOT BETWEEN 0 AND 9007199254740992
                        OR db_version NOT BETWEEN 1 AND 9007199254740992
                        OR seq NOT BETWEEN 0 AND 9007199254740992
                        OR typeof(col_version) || typeof(db_version) || typeof(seq) <> 'integerintegerinteger'"
                ),
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(insane, 0, "{table}");
    }
    let (now, next): (i64, i64) = conn
        .query_row("SELECT crsql_db_version(), crsql_next_db_version()", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert!(0 < now && now < next, "{now} {next}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_changes_do_no_damage(changes in prop::collection::vec(change(), 1..24), in_transaction: bool) {
        let conn = Connection::open_in_memory().unwrap();
        let _crr = crr::load(&conn).unwrap();
        conn.execute_batch(SCHEMA).unwrap();
        if in_transaction {
            conn.execute_batch("BEGIN").unwrap();
        }
        for change in changes {
            let before = contents(&conn);
            let insert = "INSERT INTO crsql_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
            if conn.execute(insert, params_from_iter(&change)).is_err() {
                prop_assert_eq!(&contents(&conn), &before, "left behind by {:?}", change);
                prop_assert_eq!(conn.is_autocommit(), !in_transaction);
            }
        }
        if in_transaction {
            conn.execute_batch("COMMIT").unwrap();
        }
        let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        prop_assert_eq!(sound, "ok");
        clocks_are_sane(&conn);
        // Local writes are tracked as before, above everything that is stored.
        let stored: i64 = conn.query_row("SELECT crsql_db_version()", [], |row| row.get(0)).unwrap();
        conn.execute_batch("INSERT INTO foo VALUES (77, 'local', NULL)").unwrap();
        let local: i64 = conn
            .query_row("SELECT max(db_version) FROM crsql_changes WHERE \"table\" = 'foo' AND val = 'local'", [], |row| row.get(0))
            .unwrap();
        prop_assert!(local > stored, "{} {}", local, stored);
        let count: i64 = conn.query_row("SELECT count(*) FROM crsql_changes", [], |row| row.get(0)).unwrap();
        prop_assert!(count > 0);
    }
}
