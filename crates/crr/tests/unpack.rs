//! `crsql_unpack_columns`: packed columns as rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use proptest::prelude::*;
use rusqlite::params_from_iter;
use rusqlite::types::Value;
use site::{EMPTY, FOO, Site, T};

#[test]
fn each_packed_column_is_a_row_in_its_place() {
    let a = Site::new("A", EMPTY);
    let packed = "crsql_pack_columns(1, 'two', 3.5, NULL, x'05', -6)";
    let cells = ["0, 1", "1, 'two'", "2, 3.5", "3, NULL", "4, x'05'", "5, -6"];
    a.query_is(&format!("SELECT rowid, cell FROM crsql_unpack_columns({packed})"), &cells);
    a.query_is(&format!("SELECT rowid, cell FROM crsql_unpack_columns WHERE package = {packed}"), &cells);
    a.query_is("SELECT count(*) FROM crsql_unpack_columns(crsql_pack_columns())", &["0"]);
    a.query_is("SELECT count(*) FROM crsql_unpack_columns(NULL)", &["0"]);
}

#[test]
fn the_keys_of_changes_can_be_unpacked_in_a_join() {
    let a = Site::new("A", &format!("{FOO} {T}"));
    a.run("INSERT INTO foo VALUES(7,1,2); INSERT INTO t VALUES('x',x'00ff',1)");
    a.query_is(
        "SELECT cid, u.rowid, cell FROM crsql_changes AS c JOIN crsql_unpack_columns(c.pk) AS u ORDER BY db_version, seq, u.rowid",
        &["'b', 0, 7", "'c', 0, 7", "'z', 0, x'00ff'", "'z', 1, 'x'"],
    );
    a.query_is(
        "SELECT cid FROM crsql_unpack_columns AS u, crsql_changes AS c WHERE u.package = c.pk AND u.cell = 'x'",
        &["'z'"],
    );
}

#[test]
fn cells_can_be_filtered_and_the_package_be_seen() {
    let a = Site::new("A", EMPTY);
    a.query_is("SELECT cell FROM crsql_unpack_columns(crsql_pack_columns(1, 2, 3)) WHERE cell > 1", &["2", "3"]);
    a.query_is("SELECT package FROM crsql_unpack_columns(x'010901')", &["x'010901'"]);
    a.query_is("SELECT * FROM crsql_unpack_columns(x'010901')", &["1"]);
    a.query_is("SELECT cell FROM crsql_unpack_columns(crsql_pack_columns(1, 2, 3)) WHERE rowid = 1", &["2"]);
    a.query_is("SELECT cell FROM crsql_unpack_columns(crsql_pack_columns(1, 2, 3)) ORDER BY cell DESC LIMIT 1", &["3"]);
}

#[test]
fn without_a_package_it_cannot_be_read() {
    let a = Site::new("A", EMPTY);
    for query in ["SELECT * FROM crsql_unpack_columns", "SELECT cell FROM crsql_unpack_columns WHERE package > x'01'"] {
        let error = a.error(query);
        assert!(error.contains("package"), "{query}: {error}");
    }
    a.error("CREATE VIRTUAL TABLE u USING crsql_unpack_columns");
    a.error("INSERT INTO crsql_unpack_columns VALUES (1)");
}

#[test]
fn what_is_not_packed_columns_is_an_error_that_says_so() {
    let a = Site::new("A", EMPTY);
    for package in
        ["x''", "x'01'", "x'0109'", "x'0149000000000000000001'", "x'0107'", "x'01090100'", "x'010b02c328'", "7", "1.5"]
    {
        let error = a.error(&format!("SELECT * FROM crsql_unpack_columns({package})"));
        assert!(error.contains("crsql_unpack_columns"), "{package}: {error}");
    }
    a.query_is("SELECT cell FROM crsql_unpack_columns(x'010901')", &["1"]);
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        (-70_000i64..70_000).prop_map(Value::Integer),
        any::<f64>().prop_filter("NaN is NULL", |x| !x.is_nan()).prop_map(Value::Real),
        ".{0,20}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Value::Blob),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_packed_is_unpacked(values in prop::collection::vec(value(), 0..12)) {
        let a = Site::new("A", EMPTY);
        let places = vec!["?"; values.len()].join(", ");
        let mut query = a
            .conn
            .prepare(&format!("SELECT cell FROM crsql_unpack_columns(crsql_pack_columns({places}))"))
            .unwrap();
        let cells: Vec<Value> = query
            .query_map(params_from_iter(&values), |row| row.get(0))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        prop_assert_eq!(cells, values);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(package in prop::collection::vec(any::<u8>(), 0..40)) {
        let a = Site::new("A", EMPTY);
        let mut query = a.conn.prepare("SELECT cell FROM crsql_unpack_columns(?)").unwrap();
        let cells: rusqlite::Result<Vec<Value>> =
            query.query_map([&package], |row| row.get(0)).unwrap().collect();
        if let Ok(cells) = cells {
            prop_assert_eq!(cells.len(), usize::from(package[0]));
        }
    }
}
