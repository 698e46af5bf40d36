//! Turning tables into CRRs: what is refused, and what is recorded of the rows that are there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use rusqlite::limits::Limit;
use site::{EMPTY, FOO, Site};

#[test]
fn tables_that_cannot_be_kept_in_sync_are_refused_and_left_as_they_were() {
    for (why, table) in [
        ("a UNIQUE constraint", "bad(a PRIMARY KEY NOT NULL, b UNIQUE)"),
        ("a table UNIQUE constraint", "bad(a PRIMARY KEY NOT NULL, b, c, UNIQUE (b, c))"),
        ("no primary key", "bad(a NOT NULL, b)"),
        ("a nullable key", "bad(a PRIMARY KEY, b)"),
        ("a nullable rowid key", "bad(a INTEGER PRIMARY KEY, b)"),
        ("a half nullable key", "bad(a NOT NULL, b, PRIMARY KEY (a, b))"),
        ("AUTOINCREMENT", "bad(a INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, b)"),
        ("a foreign key", "bad(a PRIMARY KEY NOT NULL, b REFERENCES foo(a))"),
        ("a table foreign key", "bad(a PRIMARY KEY NOT NULL, b, FOREIGN KEY (b) REFERENCES foo(a))"),
        ("NOT NULL without default", "bad(a PRIMARY KEY NOT NULL, b NOT NULL)"),
    ] {
        let a = Site::new("A", FOO);
        a.run(&format!("CREATE TABLE {table}"));
        let error = a.error("SELECT crsql_as_crr('bad')");
        assert!(error.contains("bad"), "{why}: {error}");
        let native = a.crr().as_crr("bad").unwrap_err().to_string();
        assert!(native.contains("bad"), "{why}: {native}");
        a.query_is("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'bad%crsql%'", &["0"]);
        a.run("INSERT INTO foo VALUES(1,2,3)");
        assert_eq!(a.changes().len(), 2, "{why}");
    }
}

#[test]
fn a_unique_index_is_refused_even_a_partial_one() {
    for index in ["CREATE UNIQUE INDEX i ON bad(b)", "CREATE UNIQUE INDEX i ON bad(b) WHERE b > 0"] {
        let a = Site::new("A", EMPTY);
        a.run(&format!("CREATE TABLE bad(a PRIMARY KEY NOT NULL, b); {index}"));
        a.error("SELECT crsql_as_crr('bad')");
        a.run("DROP INDEX i; SELECT crsql_as_crr('bad')");
    }
}

#[test]
fn tables_within_the_rules_are_taken() {
    for table in [
        "good(a PRIMARY KEY NOT NULL)",
        "good(a INTEGER PRIMARY KEY NOT NULL, b)",
        "good(a PRIMARY KEY NOT NULL, b NOT NULL DEFAULT 1)",
        "good(a PRIMARY KEY NOT NULL, b NOT NULL DEFAULT NULL)",
        "good(a PRIMARY KEY, b) WITHOUT ROWID",
        "good(a NOT NULL, b NOT NULL, c, PRIMARY KEY (b, a)) WITHOUT ROWID",
        "good(a TEXT PRIMARY KEY NOT NULL, b INTEGER) STRICT",
        "good(a PRIMARY KEY NOT NULL, b CHECK (b > 0))",
    ] {
        let a = Site::new("A", EMPTY);
        a.run(&format!("CREATE TABLE {table}"));
        a.query_is("SELECT crsql_as_crr('good')", &["'OK'"]);
        assert_eq!(a.crr().tables().unwrap(), ["good"], "{table}");
    }
}

#[test]
fn views_virtual_tables_and_the_engines_own_tables_are_refused() {
    let a = Site::new("A", FOO);
    a.run("CREATE VIEW v AS SELECT * FROM foo");
    for name in ["v", "crsql_changes", "crsql_master", "sqlite_schema", "foo__crsql_clock"] {
        a.error(&format!("SELECT crsql_as_crr('{name}')"));
    }
    a.run("INSERT INTO foo VALUES(1,2,3)");
    assert_eq!(a.changes().len(), 2);
}

#[test]
fn the_schema_may_be_named() {
    let a = Site::new("A", "CREATE TABLE one(a PRIMARY KEY NOT NULL); CREATE TABLE two(a PRIMARY KEY NOT NULL)");
    a.query_is("SELECT crsql_as_crr('main', 'one')", &["'OK'"]);
    a.query_is("SELECT crsql_as_crr('two')", &["'OK'"]);
    assert_eq!(a.crr().tables().unwrap().len(), 2);
}

#[test]
fn a_table_becomes_a_crr_inside_a_transaction_and_can_be_rolled_back() {
    let a = Site::new("A", "CREATE TABLE t(a PRIMARY KEY NOT NULL, b)");
    a.run("BEGIN; SELECT crsql_as_crr('t'); INSERT INTO t VALUES(1,2); ROLLBACK");
    a.query_is("SELECT count(*) FROM sqlite_schema WHERE name LIKE 't\\_\\_crsql%' ESCAPE '\\'", &["0"]);
    a.run("INSERT INTO t VALUES(1,2); SELECT crsql_as_crr('t')");
    a.changes_are("t 010901 b 2 1 1 A 1 0");
}

#[test]
fn rows_are_recorded_in_the_order_of_their_keys() {
    let a = Site::new("A", "CREATE TABLE t(a NOT NULL, b NOT NULL, c, PRIMARY KEY (b, a))");
    a.run("INSERT INTO t VALUES(2,1,'x'),(1,2,'y'),(1,1,'z'); SELECT crsql_as_crr('t')");
    a.changes_are(
        "t 0209010901 c 'z' 1 1 A 1 0
         t 0209010902 c 'x' 1 1 A 1 1
         t 0209020901 c 'y' 1 1 A 1 2",
    );
}

#[test]
fn a_conversion_takes_the_next_version_and_other_sites_get_the_rows() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         CREATE TABLE t(a PRIMARY KEY NOT NULL, b, c DEFAULT 7);
         INSERT INTO t(a, b) VALUES('k', 'v');
         SELECT crsql_as_crr('t')",
    );
    assert_eq!(a.db_version(), 2);
    let b = Site::new(
        "B",
        &format!("{FOO} CREATE TABLE t(a PRIMARY KEY NOT NULL, b, c DEFAULT 8); SELECT crsql_as_crr('t')"),
    );
    b.pull_from(&a, 1);
    assert_eq!(b.rows("t"), ["'k', 'v', 7"]);
}

#[test]
fn converting_again_checks_again_and_changes_nothing() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    let before = a.changes();
    a.query_is("SELECT crsql_as_crr('foo')", &["'OK'"]);
    assert_eq!(a.changes(), before);
    a.run("CREATE UNIQUE INDEX late ON foo(b)");
    a.error("SELECT crsql_as_crr('foo')");
}

#[test]
fn generated_columns_are_not_tracked() {
    let a = Site::new("A", "CREATE TABLE g(a PRIMARY KEY NOT NULL, b, twice AS (b * 2), stored AS (b + 1) STORED)");
    a.run("SELECT crsql_as_crr('g'); INSERT INTO g(a, b) VALUES(1, 4); UPDATE g SET b = 5");
    a.changes_are("g 010901 b 5 2 2 A 1 0");
}

#[test]
fn the_keys_of_a_typed_table_are_recorded_with_its_affinity() {
    let a = Site::new("A", "CREATE TABLE t(a INTEGER PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('t')");
    a.run("INSERT INTO t VALUES('5', 1)");
    a.changes_are("t 010905 b 1 1 1 A 1 0");
    a.query_is("SELECT typeof(a) FROM t__crsql_pks", &["'integer'"]);
}

#[test]
fn the_name_given_in_sql_is_the_name_in_changes_whatever_the_case_of_the_table() {
    let schema = "CREATE TABLE t(a PRIMARY KEY NOT NULL, b); INSERT INTO t VALUES(1, 2); SELECT crsql_as_crr('T')";
    let (a, b) =
        (Site::new("A", schema), Site::new("B", "CREATE TABLE t(a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('T')"));
    a.run("INSERT INTO t VALUES(3, 4); UPDATE t SET b = 5 WHERE a = 1; UPDATE t SET a = 6 WHERE a = 3");
    b.pull_from(&a, 0);
    assert_eq!(b.rows("t"), ["1, 5", "6, 4"]);
    assert_eq!(b.changes(), a.changes());
    b.query_is("SELECT DISTINCT \"table\" FROM crsql_changes", &["'T'"]);
    b.refusal("t 010901 b 9 9 9 X 1 0");
}

#[test]
fn a_table_with_more_columns_than_sqlite_passes_arguments_is_refused() {
    let columns: Vec<String> = (0..63).map(|at| format!("c{at}")).collect();
    let a = Site::new("A", &format!("CREATE TABLE wide(a PRIMARY KEY NOT NULL, {})", columns.join(", ")));
    // The limit of SQLite 3.40.
    a.conn.set_limit(Limit::SQLITE_LIMIT_FUNCTION_ARG, 127).unwrap();
    assert!(a.error("SELECT crsql_as_crr('wide')").contains("too many columns for this SQLite"));
    a.run("INSERT INTO wide(a) VALUES(1); ALTER TABLE wide DROP COLUMN c62; SELECT crsql_as_crr('wide')");
    a.run("UPDATE wide SET c61 = 2");
    assert_eq!(a.changes().len(), 62);
}

#[test]
#[cfg_attr(not(feature = "bundled"), ignore = "takes a SQLite whose functions have 1000 arguments")]
fn a_table_may_have_hundreds_of_columns() {
    let columns: Vec<String> = (0..300).map(|at| format!("c{at}")).collect();
    let schema =
        format!("CREATE TABLE wide(a PRIMARY KEY NOT NULL, {}); SELECT crsql_as_crr('wide')", columns.join(", "));
    let (a, b) = (Site::new("A", &schema), Site::new("B", &schema));
    let values: Vec<String> = (0..300).map(|at| format!("'v{at}'")).collect();
    a.run(&format!("INSERT INTO wide VALUES(1, {}); UPDATE wide SET c7 = 'seven', c299 = NULL", values.join(", ")));
    b.pull_from(&a, 0);
    // A second life, so that all cells of the first are reset.
    a.run("DELETE FROM wide");
    a.run(&format!("INSERT INTO wide VALUES(1, {})", values.join(", ")));
    b.pull_from(&a, 2);
    assert_eq!(b.rows("wide"), a.rows("wide"));
    assert_eq!(b.changes(), a.changes());
    assert_eq!(b.changes().len(), 301);
}
