//! `crsql_changes` as a table: its columns, filters, order, and what it refuses; and the native reading beside it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use std::ops::ControlFlow;

use crr::ChangesQuery;
use rusqlite::types::Value;
use site::{EMPTY, FOO, OwnedChange, P, Site, T, site};

/// B with changes of its own, of X and of Y, a deleted and a revived row.
fn mixed() -> Site {
    let b = Site::new("B", &format!("{FOO} {P}"));
    b.run("INSERT INTO foo VALUES(1,'one',1.5); INSERT INTO p VALUES('k', x'00')");
    b.merge("foo 010902 b 'two' 3 7 X 1 4");
    b.merge("foo 010902 c NULL 1 7 Y 1 5");
    b.run("INSERT INTO foo VALUES(3,3,3); DELETE FROM foo WHERE a = 3; INSERT INTO foo VALUES(3,4,4)");
    b.merge("foo 010904 -1 NULL 2 2 X 2 0");
    b
}

/// What the side tables of a CRR say, joined in plain SQL.
fn side_tables(site: &Site, table: &str, keys: &[&str], columns: &[&str]) -> Vec<String> {
    let packed: Vec<String> = keys.iter().map(|key| format!("p.{key}")).collect();
    let same: Vec<String> = keys.iter().map(|key| format!("t.{key} IS p.{key}")).collect();
    let values: String = columns.iter().map(|column| format!(" WHEN '{column}' THEN t.{column}")).collect();
    let mut lines: Vec<String> = site.query(&format!(
        "SELECT '{table}', crsql_pack_columns({packed}), c.col_name, CASE c.col_name{values} WHEN '' THEN 0 END,
                    c.col_version, c.db_version, s.site_id, coalesce(z.col_version, 1), c.seq
             FROM {table}__crsql_clock AS c JOIN {table}__crsql_pks AS p ON p.__crsql_key = c.key
                  LEFT JOIN {table} AS t ON {same}
                  LEFT JOIN crsql_site_id AS s ON s.ordinal = c.site_id
                  LEFT JOIN {table}__crsql_clock AS z ON z.key = c.key AND z.col_name = '-1'",
        packed = packed.join(", "),
        same = same.join(" AND "),
    ));
    lines.sort();
    lines
}

/// What a reading says, in the same form.
fn read_rows(changes: &[OwnedChange], table: &str) -> Vec<String> {
    let of_table = changes.iter().filter(|change| change.table == table);
    let mut lines: Vec<String> = of_table
        .map(|change| {
            let site_id = change.site_id.map_or(Value::Null, |id| Value::Blob(id.as_bytes().to_vec()));
            let fields = [
                Value::Text(change.table.clone()),
                Value::Blob(change.pk.clone()),
                Value::Text(change.cid.clone()),
                change.val.clone(),
                Value::Integer(change.col_version),
                Value::Integer(change.db_version),
                site_id,
                Value::Integer(change.cl),
                Value::Integer(change.seq),
            ];
            fields.iter().map(|field| site::literal(field.into())).collect::<Vec<_>>().join(", ")
        })
        .collect();
    lines.sort();
    lines
}

// ---- Both readings against the side tables ----

#[test]
fn both_readings_say_what_the_side_tables_say() {
    let b = mixed();
    for changes in [b.pull(0, None), b.read(0, None)] {
        assert_eq!(read_rows(&changes, "foo"), side_tables(&b, "foo", &["a"], &["b", "c"]));
        assert_eq!(read_rows(&changes, "p"), side_tables(&b, "p", &["a", "b"], &[]));
    }
}

#[test]
fn thousands_of_changes_in_few_versions_and_many_versions_are_all_read_once_and_in_order() {
    let b = Site::new("B", &format!("{FOO} {P}"));
    let numbers = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 3000)";
    b.run(&format!(
        "BEGIN; {numbers} INSERT INTO foo SELECT i, i, -i FROM n; {numbers} INSERT INTO p SELECT i, 'x' FROM n; COMMIT"
    ));
    for row in 1..=300 {
        b.run(&format!("UPDATE foo SET b = 'again' WHERE a % 300 = {row}; DELETE FROM p WHERE a = {row} * 7"));
    }
    b.run("UPDATE foo SET c = 'last' WHERE a % 2");
    for changes in [b.pull(0, None), b.read(0, None)] {
        assert!(changes.is_sorted_by_key(|change| (change.db_version, change.seq)));
        assert_eq!(read_rows(&changes, "foo"), side_tables(&b, "foo", &["a"], &["b", "c"]));
        assert_eq!(read_rows(&changes, "p"), side_tables(&b, "p", &["a", "b"], &[]));
    }
}

// ---- Columns ----

#[test]
fn the_table_has_nine_visible_columns() {
    let a = Site::new("A", EMPTY);
    a.query_is(
        r#"SELECT name, type, "notnull", hidden FROM pragma_table_xinfo('crsql_changes')"#,
        &[
            "'table', 'TEXT', 1, 0",
            "'pk', 'BLOB', 1, 0",
            "'cid', 'TEXT', 1, 0",
            "'val', 'ANY', 0, 0",
            "'col_version', 'INTEGER', 1, 0",
            "'db_version', 'INTEGER', 1, 0",
            // The reference says NOT NULL, so that SQLite takes `site_id IS NULL` to be false without looking.
            "'site_id', 'BLOB', 0, 0",
            "'cl', 'INTEGER', 1, 0",
            "'seq', 'INTEGER', 1, 0",
        ],
    );
}

#[test]
fn a_database_without_crrs_has_no_changes() {
    let a = Site::new("A", EMPTY);
    a.no_changes();
    assert!(a.read(0, None).is_empty());
    assert!(a.crr().tables().unwrap().is_empty());
}

#[test]
fn all_entries_of_a_row_share_a_rowid() {
    let b = mixed();
    b.query_is("SELECT count(DISTINCT rowid) = count(DISTINCT \"table\" || hex(pk)) FROM crsql_changes", &["1"]);
    b.query_is(
        "SELECT DISTINCT rowid / 10000000000000, rowid % 10000000000000 FROM crsql_changes WHERE pk = x'010902'",
        &["0, 2"],
    );
}

#[test]
fn an_entry_whose_site_is_unknown_has_none() {
    let b = mixed();
    b.run("DELETE FROM crsql_site_id WHERE ordinal = 1");
    b.query_is("SELECT count(*) FROM crsql_changes WHERE site_id IS NULL", &["2"]);
    assert_eq!(b.read(0, None).iter().filter(|change| change.site_id.is_none()).count(), 2);
}

#[test]
fn an_entry_without_a_key_is_left_out() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3),(2,4,5); DELETE FROM foo__crsql_pks WHERE a = 1");
    assert_eq!(a.changes().len(), 2);
    assert_eq!(a.read(0, None).len(), 2);
}

#[test]
fn keys_are_read_in_the_order_of_the_primary_key() {
    let a = Site::new("A", T);
    a.run("INSERT INTO t VALUES('x', x'00ff', 1)");
    assert_eq!(a.read(0, None)[0].pk, site::unhex("020c0200ff0b0178"));
}

// ---- Filters ----

#[test]
fn every_filter_finds_what_a_copy_of_the_table_finds() {
    let b = mixed();
    b.run("CREATE TEMP TABLE copy AS SELECT * FROM crsql_changes");
    let own = "crsql_site_id()";
    let x = "x'00000000000000000000000000000001'";
    let conditions = [
        "db_version > 2".to_owned(),
        "db_version >= 7".to_owned(),
        "db_version = 7".to_owned(),
        "db_version < 7".to_owned(),
        "db_version <= 2".to_owned(),
        "db_version <> 7".to_owned(),
        "db_version IS 7".to_owned(),
        "db_version IS NOT 7".to_owned(),
        "db_version IS NULL".to_owned(),
        "db_version IS NOT NULL".to_owned(),
        "db_version > '2'".to_owned(),
        "db_version > 2.5".to_owned(),
        "db_version > NULL".to_owned(),
        "db_version > 9223372036854775807".to_owned(),
        "db_version > -9223372036854775808".to_owned(),
        "db_version > 1 AND db_version <= 8".to_owned(),
        "db_version > 1 AND db_version > 7".to_owned(),
        "db_version BETWEEN 2 AND 7".to_owned(),
        "db_version IN (1, 7)".to_owned(),
        format!("site_id IS {own}"),
        format!("site_id IS NOT {own}"),
        format!("site_id = {x}"),
        format!("site_id <> {x}"),
        "site_id IS NULL".to_owned(),
        "site_id IS NOT NULL".to_owned(),
        "site_id IS NOT x''".to_owned(),
        format!("site_id > {x}"),
        format!("db_version > 1 AND site_id IS NOT {own}"),
        format!("db_version > 1 AND site_id IS NOT {x} AND cid <> '-1'"),
        "cid = 'b'".to_owned(),
        "cid = '-1'".to_owned(),
        "cid > 'b'".to_owned(),
        "cid LIKE 'B'".to_owned(),
        "cid GLOB '[ab]'".to_owned(),
        "cid IN ('b', 'c')".to_owned(),
        "cid IS NOT 'b'".to_owned(),
        "cl = 2".to_owned(),
        "cl > 1".to_owned(),
        "cl % 2 = 1".to_owned(),
        "col_version >= 3".to_owned(),
        "col_version = 1 AND cl = 1".to_owned(),
        "seq = 0".to_owned(),
        "seq > 0 AND seq < 5".to_owned(),
        r#""table" = 'p'"#.to_owned(),
        r#""table" = 'foo' AND cid = 'b'"#.to_owned(),
        "pk = x'010902'".to_owned(),
        "val = 'two'".to_owned(),
        "val IS NULL".to_owned(),
        "val > 2 OR cl = 2".to_owned(),
        "rowid IS NOT NULL".to_owned(),
        "1 = 0".to_owned(),
    ];
    for condition in conditions {
        let on = |table: &str| {
            let condition = if table == "copy" { condition.replace("rowid", "1") } else { condition.clone() };
            b.query(&format!(r#"SELECT * FROM {table} WHERE {condition} ORDER BY "table", pk, cid"#))
        };
        assert_eq!(on("crsql_changes"), on("copy"), "{condition}");
    }
}

#[test]
fn limits_offsets_joins_and_aggregates_work() {
    let b = mixed();
    let all = b.query("SELECT cid, seq FROM crsql_changes");
    assert_eq!(b.query("SELECT cid, seq FROM crsql_changes LIMIT 3"), all[..3]);
    assert_eq!(b.query("SELECT cid, seq FROM crsql_changes LIMIT 2 OFFSET 2"), all[2..4]);
    b.query_is(
        r#"SELECT count(*) FROM crsql_changes AS one JOIN crsql_changes AS other ON other.db_version = one.db_version
           AND other.seq = one.seq AND other.pk = one.pk AND other.cid = one.cid"#,
        &[&all.len().to_string()],
    );
    b.query_is(
        r#"SELECT "table", count(*), max(db_version) FROM crsql_changes GROUP BY 1 ORDER BY 1"#,
        &["'foo', 8, 12", "'p', 1, 2"],
    );
}

#[test]
fn the_default_order_is_by_version_and_sequence() {
    let b = mixed();
    let order = |changes: &[OwnedChange]| changes.iter().map(|c| (c.db_version, c.seq)).collect::<Vec<_>>();
    assert!(order(&b.pull(0, None)).is_sorted());
    assert!(order(&b.read(0, None)).is_sorted());
}

// ---- What the table refuses ----

#[test]
fn changes_cannot_be_updated_or_deleted() {
    let b = mixed();
    let before = b.changes();
    b.error("UPDATE crsql_changes SET val = 1");
    b.error("DELETE FROM crsql_changes");
    b.run("DELETE FROM crsql_changes WHERE false");
    assert_eq!(b.changes(), before);
}

#[test]
fn the_table_cannot_be_created_under_another_name() {
    let a = Site::new("A", EMPTY);
    a.error("CREATE VIRTUAL TABLE other USING crsql_changes");
}

#[test]
fn a_long_table_or_column_name_is_refused() {
    let b = Site::new("B", FOO);
    let long = "x".repeat(2049);
    b.refusal(&format!("{long} 010901 b 1 1 1 X 1 0"));
    b.refusal(&format!("foo 010901 {long} 1 1 1 X 1 0"));
}

#[test]
fn a_change_with_missing_columns_has_no_effect_or_is_refused() {
    let b = Site::new("B", FOO);
    b.try_run("INSERT INTO crsql_changes (\"table\", pk, cid, val) VALUES ('foo', x'010901', 'b', 1)").ok();
    b.no_changes();
    assert!(b.rows("foo").is_empty());
    b.error("INSERT INTO crsql_changes (pk, cid, val, cl) VALUES (x'010901', 'b', 1, 1)");
    b.error("INSERT INTO crsql_changes (\"table\", cid, val, col_version, db_version, cl, seq) VALUES ('foo', 'b', 1, 1, 1, 1, 0)");
    b.no_changes();
}

#[test]
fn insert_or_ignore_does_not_hide_errors() {
    let b = Site::new("B", FOO);
    b.error("INSERT OR IGNORE INTO crsql_changes VALUES ('nope', x'010901', 'b', 1, 1, 1, NULL, 1, 0)");
}

#[test]
fn a_statement_that_inserts_many_changes_fails_as_a_whole() {
    let b = Site::new("B", FOO);
    b.run("BEGIN");
    b.error(
        "INSERT INTO crsql_changes VALUES
         ('foo', x'010901', 'b', 1, 1, 30, x'00000000000000000000000000000001', 1, 0),
         ('foo', x'010902', 'zz', 1, 1, 30, x'00000000000000000000000000000001', 1, 1)",
    );
    b.run("COMMIT");
    b.no_changes();
    assert!(b.rows("foo").is_empty());
    b.query_is("SELECT count(*) FROM crsql_site_id", &["1"]);
}

// ---- The native reading ----

#[test]
fn the_native_reading_yields_what_the_table_yields() {
    let b = mixed();
    let same = |since: i64, exclude: Option<&str>| {
        let exclude = exclude.map(site);
        let native = b.read(since, exclude).iter().map(OwnedChange::line).collect();
        let table = b.pull(since, exclude).iter().map(OwnedChange::line).collect();
        assert_eq!(site::canonical(native), site::canonical(table), "since {since}, not of {exclude:?}");
    };
    for since in -1..=13 {
        for exclude in [None, Some("B"), Some("X"), Some("Y"), Some("C")] {
            same(since, exclude);
        }
    }
}

#[test]
fn the_native_reading_ends_where_it_is_told_to() {
    let b = mixed();
    let last = b.db_version();
    for after in 0..=last {
        for up_to in 0..=last {
            let mut seen = Vec::new();
            let query = ChangesQuery { after, up_to: Some(up_to), ..ChangesQuery::default() };
            b.crr()
                .read_changes(&query, |change| {
                    seen.push(OwnedChange::from(change).line());
                    ControlFlow::Continue(())
                })
                .unwrap();
            let mut expected = b.read(after, None);
            expected.retain(|change| change.db_version <= up_to);
            assert_eq!(seen, expected.iter().map(OwnedChange::line).collect::<Vec<_>>(), "({after}, {up_to}]");
        }
    }
}

#[test]
fn the_native_reading_stops_when_it_is_told_to() {
    let b = mixed();
    let all = b.read(0, None);
    for wanted in 1..=all.len() {
        let mut seen = Vec::new();
        b.crr()
            .read_changes(&ChangesQuery::default(), |change| {
                seen.push(OwnedChange::from(change));
                if seen.len() == wanted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        assert_eq!(seen, all[..wanted]);
    }
}

#[test]
fn the_native_reading_keeps_types_and_bytes() {
    let a = Site::new("A", FOO);
    a.conn
        .execute(
            "INSERT INTO foo VALUES (1, ?, ?), (2, ?, ?), (3, ?, ?)",
            rusqlite::params!["a\0b é 日本", vec![0_u8, 255], i64::MIN, -0.0_f64, f64::INFINITY, ""],
        )
        .unwrap();
    let values: Vec<_> = a.read(0, None).into_iter().map(|change| change.val).collect();
    use Value::{Blob, Integer, Real, Text};
    assert_eq!(
        values,
        [
            Text("a\0b é 日本".to_owned()),
            Blob(vec![0, 255]),
            Integer(i64::MIN),
            Real(-0.0),
            Real(f64::INFINITY),
            Text(String::new()),
        ]
    );
    let b = Site::new("B", FOO);
    b.insert(&a.read(0, None));
    assert_eq!(b.rows("foo"), a.rows("foo"));
}
