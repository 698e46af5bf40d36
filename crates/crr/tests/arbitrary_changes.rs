//! Whatever values somebody inserts into `crsql_changes`, alone or inside a transaction, or has a server merge: no panic, no
//! damage, no clock beyond its bounds, and nothing left behind by what fails.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use crr::{Change, Merge, MergeOptions, SiteId};
use proptest::prelude::*;
use rusqlite::types::{Value, ValueRef};
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

/// A change that fits the schema, so that most get as far as being merged.
fn fitting() -> impl Strategy<Value = Vec<Value>> {
    let text = |text: &str| Value::Text(text.to_owned());
    let rowid = (text("foo"), vec![&b"\x01\x09\x01"[..], b"\x01\x09\x02", b"\x01\x01"], vec!["b", "c", "-1"]);
    let pair = (text("pair"), vec![&b"\x02\x0c\x01\x01\x0b\x01a"[..], b"\x02\x04\x03"], vec!["z", "-1"]);
    let picky =
        (text("picky"), vec![&b"\x01\x09\x01"[..], b"\x01\x0b\x01x", b"\x01\x02\x7f\xf0\0\0\0\0\0\0"], vec!["n", "-1"]);
    let place = prop::sample::select(vec![rowid, pair, picky]).prop_flat_map(move |(table, keys, columns)| {
        (Just(table), prop::sample::select(keys), prop::sample::select(columns))
    });
    let number = || (0i64..6).prop_map(Value::Integer);
    let site = prop::sample::select(vec![Value::Null, Value::Blob(vec![7; 16]), Value::Blob(vec![8; 16])]);
    let numbers = (number(), number(), site, number(), number());
    (place, anything(), numbers).prop_map(|((table, pk, cid), val, (col_version, db_version, site, cl, seq))| {
        vec![table, Value::Blob(pk.to_vec()), Value::Text(cid.to_owned()), val, col_version, db_version, site, cl, seq]
    })
}

/// What is good in one field, or just beyond it, put into any.
fn misplaced() -> impl Strategy<Value = Value> {
    let bounds = vec![-1, 7, 1 << 20, 1 << 24, 1 << 52, (1 << 52) + 1, 1 << 53, i64::MAX, i64::MIN];
    let names = vec!["foo", "FOO", "plain", "none", "crsql_site_id", "foo__crsql_clock", "a", "x", "-1", ""];
    let keys =
        vec![&b""[..], b"\x00", b"\x01\x05", b"\x01\x09\x01\x00", b"\x02\x09\x01\x09\x01", b"\x01\xfc\x01", b"\xff"];
    prop_oneof![
        anything(),
        prop::sample::select(bounds).prop_map(Value::Integer),
        prop::sample::select(names).prop_map(|name| Value::Text(name.to_owned())),
        prop::sample::select(keys).prop_map(|key| Value::Blob(key.to_vec())),
    ]
}

/// A change, one in six with a field that is something else.
fn change() -> impl Strategy<Value = Vec<Value>> {
    (fitting(), prop::option::weighted(0.17, (0..9_usize, misplaced()))).prop_map(|(mut change, odd)| {
        if let Some((field, value)) = odd {
            change[field] = value;
        }
        change
    })
}

/// A row for `crsql_changes` as a decoder hands it to the native merge, whose types leave less to get wrong.
fn decoded(row: &[Value]) -> Change<'_> {
    let number = |at: usize| if let Value::Integer(number) = row[at] { number } else { 1 };
    let text = |at: usize| if let Value::Text(text) = &row[at] { text.as_str() } else { "" };
    Change {
        table: text(0),
        pk: if let Value::Blob(pk) = &row[1] { pk } else { &[] },
        cid: text(2),
        val: ValueRef::from(&row[3]),
        col_version: number(4),
        db_version: number(5),
        site_id: match &row[6] {
            Value::Blob(id) => id.as_slice().try_into().ok().map(SiteId::from_bytes),
            _ => None,
        },
        cl: number(7),
        seq: number(8),
    }
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
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

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

    #[test]
    fn arbitrary_changesets_do_no_damage_to_a_server(changesets in prop::collection::vec(prop::collection::vec(change(), 0..6), 1..12)) {
        const FRAME: usize = 200;
        /// How far a changeset may raise the clock, and what its frames add.
        const LEAP: i64 = (1 << 24) + 100;

        let mut conn = Connection::open_in_memory().unwrap();
        crr::load(&conn).unwrap();
        conn.execute_batch(SCHEMA).unwrap();
        for rows in changesets {
            let before = (contents(&conn), version(&conn));
            let tx = conn.transaction().unwrap();
            let merged = Merge::new(&tx, MergeOptions::server(FRAME)).unwrap().changeset(rows.iter().map(|row| decoded(row)));
            match merged {
                Ok(merged) => {
                    tx.commit().unwrap();
                    prop_assert_eq!(merged.applied + merged.no_ops, u64::try_from(rows.len()).unwrap());
                    prop_assert!(version(&conn) <= before.1 + LEAP, "{} leaps to {}", before.1, version(&conn));
                }
                Err(error) => {
                    prop_assert!(error.is_refused(), "{}", error);
                    // What checks refuse has written nothing yet; what breaks a constraint is for the caller to take back.
                    if !matches!(error, crr::Error::Constraint { .. }) {
                        prop_assert_eq!(&contents(&tx), &before.0, "left behind by {:?}: {}", &rows, error);
                    }
                    tx.rollback().unwrap();
                    prop_assert_eq!((contents(&conn), version(&conn)), before);
                }
            }
        }
        let sound: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        prop_assert_eq!(sound, "ok");
        clocks_are_sane(&conn);
    }
}

fn version(conn: &Connection) -> i64 {
    conn.query_row("SELECT crsql_db_version()", [], |row| row.get(0)).unwrap()
}
