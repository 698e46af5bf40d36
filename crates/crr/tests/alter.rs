//! Changing the definition of a CRR: what happens to its entries, to writes inside the alteration, and to everything when it
//! fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use proptest::prelude::*;
use rusqlite::Connection;
use site::{EMPTY, FOO, P, Site, site};

/// Alters `foo` with some statements.
fn alter(site: &Site, sql: &str) {
    site.crr().alter("foo", |conn| conn.execute_batch(sql)).unwrap();
}

// ---- What becomes of the entries ----

#[test]
fn sites_that_alter_a_table_alike_go_on_syncing_both_ways() {
    let (a, b) = (Site::new("A", FOO), Site::new("B", FOO));
    a.run("INSERT INTO foo VALUES(1,2,3),(2,4,5)");
    b.pull_from(&a, 0);
    for site in [&a, &b] {
        alter(site, "ALTER TABLE foo DROP COLUMN c; ALTER TABLE foo ADD COLUMN d DEFAULT 'none'");
    }
    let (seen_a, seen_b) = (a.db_version(), b.db_version());
    a.run("UPDATE foo SET d = 'a' WHERE a = 1");
    b.run("UPDATE foo SET d = 'b' WHERE a = 2; INSERT INTO foo VALUES(3,6,'new')");
    b.pull_from(&a, seen_a);
    a.pull_from(&b, seen_b);
    assert_eq!(a.rows("foo"), ["1, 2, 'a'", "2, 4, 'b'", "3, 6, 'new'"]);
    assert_eq!(b.rows("foo"), a.rows("foo"));
}

#[test]
fn a_rebuilt_table_keeps_its_history() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3); UPDATE foo SET b = 4; INSERT INTO foo VALUES(2,5,6); DELETE FROM foo WHERE a = 2");
    let before = a.changes();
    alter(
        &a,
        "CREATE TABLE rebuilt(a INTEGER PRIMARY KEY NOT NULL, c TEXT, b);
         INSERT INTO rebuilt SELECT a, c, b FROM foo;
         DROP TABLE foo;
         ALTER TABLE rebuilt RENAME TO foo",
    );
    let retyped = |line: &String| line.replace("c 3", "c '3'");
    assert_eq!(a.changes(), before.iter().map(retyped).collect::<Vec<_>>());
    a.run("UPDATE foo SET b = 7");
    assert_eq!(a.changes().last().unwrap(), "foo 010901 b 7 3 5 A 1 0");
}

#[test]
fn the_order_of_a_key_may_change_without_losing_history() {
    let a = Site::new("A", P);
    a.run("INSERT INTO p VALUES(1,2),(3,4); DELETE FROM p WHERE a = 3");
    a.crr()
        .alter("p", |conn| {
            conn.execute_batch(
                "CREATE TABLE n(a NOT NULL, b NOT NULL, PRIMARY KEY(b,a));
                 INSERT INTO n SELECT * FROM p; DROP TABLE p; ALTER TABLE n RENAME TO p",
            )
        })
        .unwrap();
    a.changes_are(
        "p 0209020901 -1 NULL 1 1 A 1 0
         p 0209040903 -1 NULL 2 2 A 2 0",
    );
    a.run("INSERT INTO p VALUES(5,6)");
    assert_eq!(a.changes().last().unwrap(), "p 0209060905 -1 NULL 1 3 A 1 0");
}

#[test]
fn a_table_that_loses_its_last_column_gets_sentinels_for_its_rows() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    alter(&a, "ALTER TABLE foo DROP COLUMN b; ALTER TABLE foo DROP COLUMN c");
    a.changes_are("foo 010901 -1 NULL 1 1 A 1 0");
}

#[test]
fn a_row_known_only_by_a_column_that_goes_is_recorded_anew() {
    let b = Site::new("B", FOO);
    b.merge("foo 010901 b 2 1 5 X 1 0");
    alter(&b, "ALTER TABLE foo DROP COLUMN b");
    b.changes_are("foo 010901 c NULL 1 5 B 1 0");
}

#[test]
fn rows_inserted_inside_an_alteration_are_recorded_at_the_current_version() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    alter(&a, "INSERT INTO foo VALUES(2,4,5)");
    a.changes_are(
        "foo 010901 b 2 1 1 A 1 0
         foo 010902 b 4 1 1 A 1 0
         foo 010901 c 3 1 1 A 1 1
         foo 010902 c 5 1 1 A 1 1",
    );
}

#[test]
fn values_of_old_columns_that_change_inside_an_alteration_are_not_recorded() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    alter(&a, "UPDATE foo SET b = 9");
    a.changes_are("foo 010901 b 9 1 1 A 1 0\nfoo 010901 c 3 1 1 A 1 1");
}

#[test]
fn nothing_changes_when_nothing_was_altered() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3); INSERT INTO foo VALUES(2,4,5); DELETE FROM foo WHERE a = 1");
    let before = (a.changes(), a.query("SELECT * FROM foo__crsql_pks"), a.db_version());
    alter(&a, "");
    assert_eq!((a.changes(), a.query("SELECT * FROM foo__crsql_pks"), a.db_version()), before);
}

#[test]
fn an_ordinary_table_that_is_altered_becomes_a_crr() {
    let a = Site::new("A", "CREATE TABLE foo(a PRIMARY KEY NOT NULL); INSERT INTO foo VALUES(1)");
    alter(&a, "ALTER TABLE foo ADD COLUMN b DEFAULT 5");
    assert_eq!(a.crr().tables().unwrap(), ["foo"]);
    // The reference records it at version 0, for which no peer ever asks.
    a.changes_are("foo 010901 b 5 1 1 A 1 0");
}

#[test]
fn names_that_need_quoting_are_no_obstacle() {
    let a = Site::new("A", r#"CREATE TABLE "o'br ""x"""("the key" PRIMARY KEY NOT NULL, "50%", "a.b")"#);
    let name = "o'br \"x\"";
    a.crr().as_crr(name).unwrap();
    a.run(r#"INSERT INTO "o'br ""x""" VALUES(1,2,3),(2,3,4)"#);
    a.crr()
        .alter(name, |conn| {
            conn.execute_batch(
                r#"ALTER TABLE "o'br ""x""" DROP COLUMN "50%";
                   ALTER TABLE "o'br ""x""" ADD COLUMN "it's" DEFAULT 'it''s';
                   DELETE FROM "o'br ""x""" WHERE "the key" = 2"#,
            )
        })
        .unwrap();
    a.run(r#"UPDATE "o'br ""x""" SET "it's" = 9"#);
    a.query_is("SELECT cid, val, cl FROM crsql_changes", &["'a.b', 3, 1", "'-1', NULL, 2", "'it's', 9, 1"]);
}

#[test]
fn tables_without_rowid_and_with_generated_columns_can_be_altered() {
    let schema = "CREATE TABLE foo(a TEXT NOT NULL, b, c AS (b || '!'), PRIMARY KEY(a)) WITHOUT ROWID;
                  SELECT crsql_as_crr('foo'); INSERT INTO foo(a, b) VALUES('x', 1), ('y', 2)";
    let a = Site::new("A", schema);
    alter(
        &a,
        "ALTER TABLE foo ADD COLUMN d DEFAULT 0; ALTER TABLE foo ADD COLUMN e AS (d + 1); ALTER TABLE foo DROP COLUMN c;
         DELETE FROM foo WHERE a = 'y'",
    );
    a.run("UPDATE foo SET d = 4");
    assert_eq!(a.rows("foo"), ["'x', 1, 4, 5"]);
    a.changes_are(
        "foo 010b0178 b 1 1 1 A 1 0
         foo 010b0179 -1 NULL 2 2 A 2 0
         foo 010b0178 d 4 1 3 A 1 0",
    );
}

// ---- Inside and around ----

#[test]
fn writes_between_begin_and_commit_are_not_tracked_and_other_tables_are() {
    let a = Site::new("A", &format!("{FOO} {P}"));
    a.run("SELECT crsql_begin_alter('foo'); INSERT INTO foo VALUES(1,2,3); INSERT INTO p VALUES(1,2)");
    a.changes_are("p 0209010902 -1 NULL 1 1 A 1 0");
    a.run("ROLLBACK");
    a.no_changes();
    a.run("INSERT INTO foo VALUES(1,2,3)");
    assert_eq!(a.changes().len(), 2, "the triggers are back");
}

#[test]
fn two_tables_can_be_altered_at_once() {
    let a = Site::new("A", &format!("{FOO} {P}"));
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         SELECT crsql_begin_alter('foo');
         SELECT crsql_begin_alter('p');
         ALTER TABLE foo ADD COLUMN d;
         ALTER TABLE p ADD COLUMN d;
         SELECT crsql_commit_alter('p');
         SELECT crsql_commit_alter('foo')",
    );
    assert!(a.conn.is_autocommit());
    a.run("UPDATE foo SET d = 1; INSERT INTO p VALUES(1,2,3)");
    assert_eq!(a.changes().len(), 4);
}

#[test]
fn an_alteration_is_part_of_the_transaction_around_it() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    let before = (a.changes(), a.query("SELECT sql FROM sqlite_schema"));
    let tx = a.transaction();
    a.run("UPDATE foo SET b = 4");
    alter(&a, "ALTER TABLE foo ADD COLUMN d; DELETE FROM foo");
    a.run("INSERT INTO foo VALUES(2,4,5,6)");
    assert!(!a.conn.is_autocommit());
    tx.rollback().unwrap();
    assert_eq!((a.changes(), a.query("SELECT sql FROM sqlite_schema")), before);
    a.run("UPDATE foo SET c = 5");
    assert_eq!(a.changes().last().unwrap(), "foo 010901 c 5 2 2 A 1 0");
}

#[test]
fn another_connection_sees_the_altered_table_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let a = Site::on(Connection::open(&path).unwrap(), site("A"), FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    let conn = Connection::open(&path).unwrap();
    crr::load(&conn).unwrap();
    let other = Site { conn, id: site("A") };
    assert_eq!(other.changes().len(), 2);
    alter(&a, "ALTER TABLE foo DROP COLUMN c; ALTER TABLE foo ADD COLUMN d");
    other.changes_are("foo 010901 b 2 1 1 A 1 0");
    other.run("UPDATE foo SET d = 4");
    other.merge("foo 010901 d 5 2 9 X 1 0");
    assert_eq!(a.changes(), ["foo 010901 b 2 1 1 A 1 0", "foo 010901 d 5 2 9 X 1 0"]);
    let error = other.refusal("foo 010901 c 5 2 9 X 1 0");
    assert!(error.contains("foo") && error.contains('c'), "{error}");
}

// ---- Failures ----

#[test]
fn a_table_altered_without_saying_so_cannot_be_written_past_its_clock() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3); ALTER TABLE foo ADD COLUMN d");
    a.error("UPDATE foo SET d = 1");
    assert_eq!(a.changes().len(), 2, "what was there can still be read");
    alter(&a, "");
    a.run("UPDATE foo SET d = 1");
    assert_eq!(a.changes().len(), 3);
}

#[test]
fn committing_an_alteration_that_was_not_begun_is_an_error() {
    let a = Site::new("A", FOO);
    let error = a.error("SELECT crsql_commit_alter('foo')");
    assert!(error.contains("crsql_begin_alter"), "{error}");
    a.run("BEGIN; INSERT INTO foo VALUES(1,2,3)");
    let error = a.error("SELECT crsql_commit_alter('foo')");
    assert!(error.contains("crsql_begin_alter"), "{error}");
    a.run("COMMIT");
    a.run("UPDATE foo SET b = 3");
    a.changes_are("foo 010901 c 3 1 1 A 1 1\nfoo 010901 b 3 2 2 A 1 0");
}

#[test]
fn a_commit_that_is_refused_can_be_begun_again() {
    let a = Site::new("A", FOO);
    a.run("SELECT crsql_begin_alter('foo'); CREATE UNIQUE INDEX u ON foo(b)");
    let error = a.error("SELECT crsql_commit_alter('foo')");
    assert!(error.contains("foo") && error.contains("unique"), "{error}");
    assert!(a.conn.is_autocommit(), "the transaction that begin_alter opened is over");
    a.run("SELECT crsql_begin_alter('foo'); CREATE INDEX u ON foo(b); SELECT crsql_commit_alter('foo')");
    a.run("INSERT INTO foo VALUES(1,2,3)");
    assert_eq!(a.changes().len(), 2);
}

// ---- Whatever happens ----

/// A step of an alteration, or between two.
#[derive(Clone, Debug)]
enum Step {
    Insert(u8),
    Update(u8, usize),
    Delete(u8),
    Add(usize),
    Drop(usize),
}

const COLUMNS: [&str; 4] = ["w", "x", "y", "z"];

fn step() -> impl Strategy<Value = Step> {
    let (row, column) = (0u8..5, 0..COLUMNS.len());
    prop_oneof![
        3 => row.clone().prop_map(Step::Insert),
        3 => (row.clone(), column.clone()).prop_map(|(row, column)| Step::Update(row, column)),
        2 => row.prop_map(Step::Delete),
        1 => column.clone().prop_map(Step::Add),
        1 => column.prop_map(Step::Drop),
    ]
}

/// Takes a step if the table allows it.
fn take(conn: &Connection, step: &Step, value: usize) {
    drop(conn.execute_batch(&match step {
        Step::Insert(row) => format!("INSERT INTO foo (a, keep) VALUES ({row}, {value})"),
        Step::Update(row, column) => format!("UPDATE foo SET {} = {value} WHERE a = {row}", COLUMNS[*column]),
        Step::Delete(row) => format!("DELETE FROM foo WHERE a = {row}"),
        Step::Add(column) => format!("ALTER TABLE foo ADD COLUMN {} DEFAULT {column}", COLUMNS[*column]),
        Step::Drop(column) => format!("ALTER TABLE foo DROP COLUMN {}", COLUMNS[*column]),
    }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_alteration_entries_fit_the_table_and_a_newcomer_gets_its_rows(
        rounds in prop::collection::vec(
            (prop::collection::vec(step(), 0..8), prop::collection::vec(step(), 0..8)), 1..4),
    ) {
        let a = Site::new("A", "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, keep); SELECT crsql_as_crr('foo')");
        let mut value = 100;
        let mut version = 0;
        for (outside, inside) in &rounds {
            for step in outside.iter().filter(|step| !matches!(step, Step::Add(_) | Step::Drop(_))) {
                value += 1;
                take(&a.conn, step, value);
            }
            a.crr().alter("foo", |conn| {
                for step in inside {
                    value += 1;
                    take(conn, step, value);
                }
                Ok::<_, crr::Error>(())
            }).unwrap();
            prop_assert!(a.crr().stored_db_version().unwrap() >= version, "the version went back");
            version = a.crr().stored_db_version().unwrap();
        }

        for (wrong, sql) in [
            ("a row without a key", "SELECT a FROM foo EXCEPT SELECT a FROM foo__crsql_pks"),
            ("a key without an entry", "SELECT __crsql_key FROM foo__crsql_pks EXCEPT SELECT key FROM foo__crsql_clock"),
            ("an entry without a key", "SELECT key FROM foo__crsql_clock EXCEPT SELECT __crsql_key FROM foo__crsql_pks"),
            ("an entry of no column", "SELECT col_name FROM foo__crsql_clock WHERE col_name <> '-1'
                 EXCEPT SELECT name FROM pragma_table_info('foo')"),
            ("a row alive and dead", "SELECT a FROM foo JOIN foo__crsql_pks USING (a) JOIN foo__crsql_clock
                 ON key = __crsql_key WHERE col_name = '-1' AND col_version % 2 = 0"),
            ("a row that is gone without a tombstone", "SELECT cid FROM crsql_changes WHERE cl % 2 = 1 AND pk NOT IN
                 (SELECT crsql_pack_columns(a) FROM foo)"),
        ] {
            prop_assert_eq!(a.query(sql), Vec::<String>::new(), "{}", wrong);
        }

        let definition: String =
            a.conn.query_row("SELECT sql FROM sqlite_schema WHERE name = 'foo'", [], |row| row.get(0)).unwrap();
        let newcomer = Site::new("B", &format!("{definition}; SELECT crsql_as_crr('foo')"));
        newcomer.pull_from(&a, 0);
        prop_assert_eq!(newcomer.rows("foo"), a.rows("foo"));
    }
}

#[test]
fn an_alteration_of_a_table_that_is_missing_is_refused() {
    let a = Site::new("A", EMPTY);
    let altered = a.crr().alter("none", |conn| conn.execute_batch("CREATE TABLE other(a)"));
    let error = altered.unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
    a.query_is("SELECT count(*) FROM sqlite_schema WHERE name = 'other'", &["0"]);
}
