//! What a merge says that has won is what is read afterwards.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;

use crr::{Change, ChangesQuery, Crr, Merge, MergeOptions, SiteId};
use proptest::collection::vec;
use proptest::prelude::*;
use rusqlite::Connection;
use rusqlite::types::{Value, ValueRef};

const SCHEMA: &str = "
    CREATE TABLE each (id INTEGER PRIMARY KEY NOT NULL, t TEXT, n NUMERIC, i INTEGER, r REAL, b);
    CREATE TABLE pair (x TEXT NOT NULL, y REAL NOT NULL, v, PRIMARY KEY (y, x)) WITHOUT ROWID;
    CREATE TABLE firm (id ANY PRIMARY KEY NOT NULL, a ANY, r REAL) STRICT;
    CREATE TABLE bare (id BLOB PRIMARY KEY NOT NULL);
    CREATE TABLE free (id PRIMARY KEY NOT NULL, v NOT NULL ON CONFLICT REPLACE DEFAULT 5);
    CREATE TABLE real (id REAL PRIMARY KEY NOT NULL, v);
    CREATE TABLE log (x);
    SELECT crsql_as_crr('each'), crsql_as_crr('pair'), crsql_as_crr('firm'), crsql_as_crr('bare');
    SELECT crsql_as_crr('free'), crsql_as_crr('real');
    INSERT INTO free VALUES (1, 1), (2.0, 1);
    INSERT INTO real VALUES (0.0, 1);
    INSERT INTO each VALUES (1, 'a', 2, 3, 4.5, x'06'), (2, 'b', 2, 3, 4.5, x'06');
    INSERT INTO pair VALUES ('a', 1, 2);
    DELETE FROM each WHERE id = 2;";

/// Each changes something that a merge was about to leave, or does not.
const TRIGGERS: [&str; 6] = [
    "",
    "CREATE TRIGGER raises AFTER UPDATE ON each BEGIN UPDATE each SET t = 'raised' WHERE id = new.id; END",
    "CREATE TRIGGER other AFTER INSERT ON pair BEGIN UPDATE each SET b = 'other' WHERE id = 1; END",
    "CREATE TRIGGER ignores BEFORE INSERT ON each BEGIN SELECT RAISE(IGNORE) WHERE new.id > 2; END",
    "CREATE TRIGGER keeps BEFORE DELETE ON each BEGIN SELECT RAISE(IGNORE); END",
    "CREATE TRIGGER notes AFTER INSERT ON firm BEGIN INSERT INTO log VALUES (new.id); END",
];

/// A change with all that it borrows.
#[derive(Clone, Debug)]
struct Owned {
    table: String,
    pk: Vec<u8>,
    cid: String,
    val: Value,
    /// The blob is a text, if only by its type.
    is_text: bool,
    numbers: [i64; 4],
    site: u8,
}

impl Owned {
    fn get(&self) -> Change<'_> {
        let [col_version, db_version, cl, seq] = self.numbers;
        Change {
            table: &self.table,
            pk: &self.pk,
            cid: &self.cid,
            val: match &self.val {
                Value::Blob(bytes) if self.is_text => ValueRef::Text(bytes),
                val => ValueRef::from(val),
            },
            col_version,
            db_version,
            site_id: Some(SiteId::from_bytes([self.site; 16])),
            cl,
            seq,
        }
    }
}

/// A change in full, a number by its bits.
fn shown(change: &Change<'_>) -> String {
    let val = match change.val {
        ValueRef::Real(number) => format!("Real({:x})", number.to_bits()),
        other => format!("{other:?}"),
    };
    format!("{change:?} {:?} {val}", change.pk)
}

fn database(encoding: &str, trigger: &str) -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(&format!("PRAGMA encoding = '{encoding}'")).unwrap();
    crr::load(&conn).unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    conn.execute_batch(trigger).unwrap();
    conn
}

/// Merges changesets in one transaction. What is said to have won, and what is read; `None` if they are refused.
fn merge(conn: &mut Connection, changesets: &[Vec<Owned>], most: usize) -> Option<(Option<Vec<String>>, Vec<String>)> {
    let after = Crr::of(conn).unwrap().stored_db_version().unwrap();
    let tx = conn.transaction().unwrap();
    let mut merge = Merge::new(&tx, MergeOptions::server(400).winners(most)).unwrap();
    for changes in changesets {
        merge.changeset(changes.iter().map(Owned::get)).ok()?;
    }
    let won = merge.winners().map(|winners| {
        assert_eq!(winners.after(), after);
        winners.iter().map(|change| shown(&change)).collect()
    });
    tx.commit().unwrap();
    let mut read = Vec::new();
    let query = ChangesQuery { after, ..ChangesQuery::default() };
    let each = |change: Change<'_>| {
        read.push(shown(&change));
        ControlFlow::Continue(())
    };
    Crr::of(conn).unwrap().read_changes(&query, each).unwrap();
    Some((won, read))
}

fn value() -> impl Strategy<Value = Value> {
    let numbers = prop::sample::select(vec![0.0, -0.0, 5.0, 5.5, 1e18, 9.3e18, f64::INFINITY, f64::NAN]);
    let texts =
        prop::sample::select(vec!["", "5", " 5.0", "1e3", "abc", "a\0b", "\u{feff}mark", "\u{ffff}", "\u{1ffff}"]);
    prop_oneof![
        Just(Value::Null),
        (-3..3_i64).prop_map(Value::Integer),
        any::<i64>().prop_map(Value::Integer),
        numbers.prop_map(Value::Real),
        texts.prop_map(|text| Value::Text(text.to_owned())),
        vec(any::<u8>(), 0..4).prop_map(Value::Blob),
    ]
}

fn change() -> impl Strategy<Value = Owned> {
    let each =
        ("each", vec![&b"\x01\x09\x01"[..], b"\x01\x09\x02", b"\x01\x09\x03"], vec!["t", "n", "i", "r", "b", "-1"]);
    // A whole number in a REAL key, as an integer and as what the column makes of it.
    let pair = ("pair", vec![&b"\x02\x09\x01\x0b\x01a"[..], b"\x02\x02\x3f\xf0\0\0\0\0\0\0\x0b\x01a"], vec!["v", "-1"]);
    let firm = ("firm", vec![&b"\x01\x09\x01"[..], b"\x01\x0b\x01x"], vec!["a", "r", "-1"]);
    let bare = ("bare", vec![&b"\x01\x0c\x01\x01"[..], b"\x01\x09\x01"], vec!["-1"]);
    // Equal to what is there, or not.
    let (one, two) = (&b"\x01\x02\x3f\xf0\0\0\0\0\0\0"[..], &b"\x01\x09\x02"[..]);
    let free = ("free", vec![one, two, b"\x01\x09\x01", b"\x01\x0b\x03\xef\xbf\xbf"], vec!["v", "-1"]);
    let real = ("real", vec![&b"\x01\x02\x80\0\0\0\0\0\0\0"[..], b"\x01\x01", two], vec!["v", "-1"]);
    let place =
        prop::sample::select(vec![each, pair, firm, bare, free, real]).prop_flat_map(|(table, keys, columns)| {
            (Just(table), prop::sample::select(keys), prop::sample::select(columns))
        });
    let numbers = prop::array::uniform4(0..5_i64);
    (place, value(), any::<bool>(), numbers, 6..9_u8).prop_map(|((table, pk, cid), val, is_text, numbers, site)| {
        Owned { table: table.to_owned(), pk: pk.to_vec(), cid: cid.to_owned(), val, is_text, numbers, site }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_has_won_is_what_is_read(
        transactions in vec(vec(vec(change(), 1..5), 1..4), 1..5),
        trigger in prop::sample::select(TRIGGERS.to_vec()),
        utf_16 in any::<bool>(),
        most in prop::sample::select(vec![3, 100]),
    ) {
        let mut conn = database(if utf_16 { "UTF-16" } else { "UTF-8" }, trigger);
        for changesets in &transactions {
            if let Some((Some(won), read)) = merge(&mut conn, changesets, most) {
                prop_assert_eq!(won, read);
            }
        }
    }
}

fn cell(id: u8, cid: &str, val: Value, col_version: i64) -> Owned {
    let (table, pk, cid) = ("each".to_owned(), vec![1, 9, id], cid.to_owned());
    Owned { table, pk, cid, val, is_text: false, numbers: [col_version, 1, 1, 0], site: 7 }
}

fn at(seq: i64, change: Owned) -> Owned {
    let [col_version, db_version, cl, _] = change.numbers;
    Owned { numbers: [col_version, db_version, cl, seq], ..change }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn the_usual_changes_needn_t_be_read() {
    let new = || vec![at(0, cell(5, "t", text("x"), 1)), at(1, cell(5, "i", Value::Integer(1), 1))];
    let dead = Owned { numbers: [2, 2, 2, 4], cid: "-1".to_owned(), ..cell(1, "t", Value::Null, 2) };
    let alive = Owned { numbers: [3, 2, 3, 5], cid: "-1".to_owned(), ..cell(2, "t", Value::Null, 3) };
    let cases: [(&str, Vec<Vec<Owned>>); 6] = [
        ("a new row", vec![new()]),
        ("a cell of a row that is there", vec![vec![cell(1, "r", Value::Real(0.5), 2)]]),
        ("a row's death", vec![vec![dead.clone()]]),
        ("a row's return", vec![vec![alive]]),
        ("what two clients sent", vec![new(), vec![at(2, cell(6, "b", Value::Null, 1)), dead]]),
        ("nothing", vec![vec![cell(1, "t", text("old"), 0)]]),
    ];
    for (what, changesets) in cases {
        let (won, read) = merge(&mut database("UTF-8", ""), &changesets, 10).unwrap();
        assert_eq!(won, Some(read.clone()), "{what}");
        assert_eq!(read.is_empty(), what == "nothing", "{what}");
    }
}

#[test]
fn what_is_not_sure_has_to_be_read() {
    let new = |id| cell(id, "t", text("x"), 1);
    let large = cell(5, "b", Value::Blob(vec![1; 1 << 16]), 1);
    let dead = Owned { numbers: [2, 2, 2, 0], cid: "-1".to_owned(), ..cell(1, "t", Value::Null, 2) };
    let alive = Owned { numbers: [3, 2, 3, 1], ..dead.clone() };
    let back = Owned { numbers: [1, 2, 3, 2], ..cell(1, "t", text("back"), 1) };
    let given =
        |table: &str, pk: &[u8], val| Owned { table: table.to_owned(), pk: pk.to_vec(), ..cell(1, "v", val, 2) };
    let cases: [(&str, usize, &str, Vec<Vec<Owned>>); 12] = [
        ("a key that equals one that is there", 10, "", vec![vec![given("free", b"\x01\x09\x02", text("x"))]]),
        ("another zero", 10, "", vec![vec![given("real", b"\x01\x02\x80\0\0\0\0\0\0\0", text("x"))]]),
        ("a NULL that becomes a default", 10, "", vec![vec![given("free", b"\x01\x0b\x01x", Value::Null)]]),
        ("nobody asked", 0, "", vec![vec![new(5)]]),
        ("too many", 1, "", vec![vec![new(5), at(1, new(6))]]),
        ("too large", 10, "", vec![vec![large]]),
        ("a row twice", 10, "", vec![vec![new(5)], vec![cell(5, "t", text("y"), 2)]]),
        ("a row that dies and is back", 10, "", vec![vec![dead, alive, back]]),
        ("another value than given", 10, "", vec![vec![cell(5, "i", text("7"), 1)]]),
        ("two with the same numbers", 10, "", vec![vec![new(5), new(6)]]),
        ("a trigger", 10, TRIGGERS[1], vec![vec![cell(1, "t", text("x"), 2)]]),
        ("a row that a trigger keeps out", 10, TRIGGERS[3], vec![vec![new(5)]]),
    ];
    for (what, most, trigger, changesets) in cases {
        let (won, read) = merge(&mut database("UTF-8", trigger), &changesets, most).unwrap();
        assert!(won.is_none() && !read.is_empty(), "{what}: {won:?}");
    }
}
