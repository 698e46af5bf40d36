//! Where this engine does better than cr-sqlite 0.16.3, seen from the outside: one or more tests for each defect of the
//! reference that is fixed here. None of it changes the file format or what peers exchange.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use crr::{Merge, MergeOptions};
use rusqlite::Connection;
use site::{EMPTY, FOO, OwnedChange, P, Site, site, unhex};

/// The largest number that a peer may send.
const LARGEST: i64 = 1 << 52;

// ---- D1: changing a primary key ----

#[test]
fn a_row_keeps_its_columns_at_a_peer_when_its_key_changes_after_a_sync() {
    let (a, b) = (Site::new("A", FOO), Site::new("B", FOO));
    a.run("INSERT INTO foo VALUES(1,2,3)");
    b.pull_from(&a, 0);
    let seen = a.db_version();
    a.run("UPDATE foo SET a=7");
    b.pull_from(&a, seen);
    assert_eq!(b.rows("foo"), ["7, 2, 3"]);
}

#[test]
fn the_author_of_a_cell_gets_it_back_when_someone_else_moves_it_to_another_key() {
    let (a, b) = (Site::new("A", FOO), Site::new("B", FOO));
    a.run("INSERT INTO foo VALUES(1,2,3)");
    b.pull_from(&a, 0);
    let seen = b.db_version();
    b.run("UPDATE foo SET a=7");
    a.pull_from(&b, seen);
    assert_eq!(a.rows("foo"), ["7, 2, 3"]);
}

#[test]
fn the_row_that_a_key_change_overwrites_is_overwritten_at_peers_too() {
    let (a, b) = (Site::new("A", FOO), Site::new("B", FOO));
    a.run("INSERT INTO foo VALUES(1,2,3); INSERT INTO foo VALUES(2,4,5)");
    b.pull_from(&a, 0);
    a.run("UPDATE OR REPLACE foo SET a=2 WHERE a=1");
    b.pull_from(&a, 0);
    a.pull_from(&b, 0);
    assert_eq!(a.rows("foo"), ["2, 2, 3"]);
    assert_eq!(b.rows("foo"), ["2, 2, 3"]);
}

#[test]
fn every_change_of_a_statement_that_moves_many_rows_has_a_seq_of_its_own() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3),(2,4,5),(3,6,7); UPDATE foo SET a=a+10");
    let seqs: Vec<i64> = a.pull(1, None).iter().map(|change| change.seq).collect();
    assert_eq!(seqs, (0..12).collect::<Vec<i64>>());
}

// ---- D2: failures and the caller's transaction ----

#[test]
fn a_refused_as_crr_leaves_the_transaction_around_it_alone() {
    let a = Site::new("A", FOO);
    a.run("CREATE TABLE bad(a PRIMARY KEY NOT NULL, b UNIQUE)");
    a.run("BEGIN; INSERT INTO foo VALUES(1,2,3)");
    let error = a.error("SELECT crsql_as_crr('bad')");
    assert!(error.contains("bad"), "{error}");
    assert!(!a.conn.is_autocommit(), "the transaction is gone");
    a.run("INSERT INTO foo VALUES(2,4,5); COMMIT");
    assert_eq!(a.rows("foo"), ["1, 2, 3", "2, 4, 5"]);
    assert_eq!(a.db_version(), 1);
}

#[test]
fn a_refused_as_crr_through_the_native_interface_leaves_the_transaction_alone_too() {
    let a = Site::new("A", FOO);
    a.run("CREATE TABLE bad(a, b)");
    let tx = a.transaction();
    a.run("INSERT INTO foo VALUES(1,2,3)");
    a.crr().as_crr("bad").unwrap_err();
    tx.commit().unwrap();
    assert_eq!(a.rows("foo"), ["1, 2, 3"]);
}

/// Inside a transaction that has written, a call fails, and the transaction goes on as if it had not been made.
#[track_caller]
fn fails_and_leaves_the_transaction_alone(schema: &str, call: &str, named: &str) {
    let a = Site::new("A", &format!("{FOO} {schema}"));
    a.run("BEGIN; INSERT INTO foo VALUES(1,2,3)");
    let before = a.query("SELECT * FROM sqlite_schema");
    let error = a.error(call);
    assert!(error.contains(named), "{call}: {error}");
    assert!(!a.conn.is_autocommit(), "{call}: the transaction is gone");
    assert_eq!(a.query("SELECT * FROM sqlite_schema"), before, "{call}");
    a.run("PRAGMA query_only = OFF; UPDATE foo SET c = 4; INSERT INTO foo VALUES(2,4,5); COMMIT");
    assert!(a.conn.is_autocommit());
    assert_eq!(a.rows("foo"), ["1, 2, 4", "2, 4, 5"], "{call}");
    assert_eq!(a.db_version(), 1, "{call}");
    assert_eq!(a.changes().len(), 4, "{call}");
}

#[test]
fn a_refused_alteration_leaves_the_transaction_around_it_alone() {
    fails_and_leaves_the_transaction_alone("", "PRAGMA query_only = ON; SELECT crsql_begin_alter('foo')", "readonly");
    fails_and_leaves_the_transaction_alone(
        "",
        "SELECT crsql_begin_alter('foo'); CREATE UNIQUE INDEX u ON foo(b); SELECT crsql_commit_alter('foo')",
        "unique index",
    );
    fails_and_leaves_the_transaction_alone("", "SELECT crsql_commit_alter('foo')", "crsql_begin_alter");
}

#[test]
fn a_refused_ordering_leaves_the_transaction_around_it_alone() {
    fails_and_leaves_the_transaction_alone("", "SELECT crsql_fract_as_ordered('foo', 'missing')", "missing");
}

#[test]
fn a_refused_migration_leaves_the_transaction_around_it_alone() {
    for (schema, named) in [
        ("CREATE TABEL", "syntax"),
        ("CREATE TABLE IF NOT EXISTS foo(b INTEGER PRIMARY KEY NOT NULL)", "primary key"),
        ("CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b)", "already exists"),
        ("CREATE TABLE IF NOT EXISTS foo(a INTEGER PRIMARY KEY NOT NULL, c, d); INSERT INTO foo VALUES(1,1,1)", "foo"),
    ] {
        fails_and_leaves_the_transaction_alone("", &format!("SELECT crsql_automigrate('{schema}')"), named);
    }
}

// ---- D4: the order of crsql_changes ----

#[test]
fn changes_come_in_the_order_that_was_asked_for() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,'x','y'); INSERT INTO foo VALUES(2,'b','a')");
    let order = |by: &str| a.query(&format!("SELECT val FROM crsql_changes ORDER BY {by}"));
    assert_eq!(order("db_version DESC, seq ASC"), ["'b'", "'a'", "'x'", "'y'"]);
    assert_eq!(order("db_version ASC, seq DESC"), ["'y'", "'x'", "'a'", "'b'"]);
    assert_eq!(order("db_version DESC, seq DESC"), ["'a'", "'b'", "'y'", "'x'"]);
    assert_eq!(order("val"), ["'a'", "'b'", "'x'", "'y'"]);
    assert_eq!(order("val DESC"), ["'y'", "'x'", "'b'", "'a'"]);
    assert_eq!(order("rowid, cid"), ["'x'", "'y'", "'b'", "'a'"]);
    assert_eq!(order("pk DESC, cid"), ["'b'", "'a'", "'x'", "'y'"]);
}

// ---- D5: deletes store their causal length ----

#[test]
fn a_row_deleted_by_a_column_entry_stays_deleted_for_later_reads_and_writes() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    b.merge("foo 010901 b 9 1 4 X 2 0");
    b.query_is("SELECT cid, cl, col_version FROM crsql_changes", &["'-1', 2, 2"]);
    b.run("INSERT INTO foo VALUES(1,5,6)");
    b.query_is("SELECT DISTINCT cl FROM crsql_changes", &["3"]);
    // What the peer sent before is older than the new life.
    b.merge("foo 010901 b 9 1 4 X 2 0");
    assert_eq!(b.rows("foo"), ["1, 5, 6"]);
}

// ---- D6: rows that come back inside an alteration ----

#[test]
fn a_row_that_was_deleted_and_is_inserted_again_inside_an_alteration_lives_at_peers_too() {
    let (a, b) = (Site::new("A", FOO), Site::new("B", FOO));
    a.run("INSERT INTO foo VALUES(1,2,3); DELETE FROM foo");
    b.pull_from(&a, 0);
    let seen = a.db_version();
    a.run("SELECT crsql_begin_alter('foo'); INSERT INTO foo VALUES(1,5,6); SELECT crsql_commit_alter('foo')");
    a.query_is("SELECT DISTINCT cl FROM crsql_changes", &["3"]);
    b.pull_from(&a, seen);
    assert_eq!(b.rows("foo"), ["1, 5, 6"]);
    a.run("UPDATE foo SET b = 7");
    b.pull_from(&a, seen);
    assert_eq!(b.rows("foo"), ["1, 7, 6"]);
}

// ---- D7: rows_impacted ----

#[test]
fn rows_impacted_starts_again_after_a_rollback() {
    let b = Site::new("B", FOO);
    b.run("BEGIN");
    b.merge("foo 010901 b 1 1 1 X 1 0");
    b.query_is("SELECT crsql_rows_impacted()", &["1"]);
    b.run("ROLLBACK; BEGIN");
    b.merge("foo 010902 b 1 1 1 X 1 0");
    b.query_is("SELECT crsql_rows_impacted()", &["1"]);
    b.run("COMMIT");
}

// ---- D8: tables that become CRRs while a connection is open ----

#[test]
fn a_table_made_a_crr_inside_a_transaction_can_be_written_there() {
    let a = Site::new("A", FOO);
    a.run(
        "BEGIN;
         INSERT INTO foo VALUES(1,2,3);
         CREATE TABLE late(a PRIMARY KEY NOT NULL, b);
         SELECT crsql_as_crr('late');
         INSERT INTO late VALUES(1,2)",
    );
    a.merge("late 010902 b 3 1 1 X 1 0");
    a.run("COMMIT");
    assert_eq!(a.rows("late"), ["1, 2", "2, 3"]);
    a.query_is("SELECT count(*) FROM crsql_changes WHERE \"table\" = 'late'", &["2"]);
}

#[test]
fn a_table_made_a_crr_and_rolled_back_is_forgotten() {
    let a = Site::new("A", FOO);
    a.run(
        "BEGIN;
         CREATE TABLE late(a PRIMARY KEY NOT NULL, b);
         SELECT crsql_as_crr('late');
         INSERT INTO late VALUES(1,2);
         ROLLBACK",
    );
    let error = a.refusal("late 010902 b 3 1 1 X 1 0");
    assert!(error.contains("late"), "{error}");
    a.run("INSERT INTO foo VALUES(1,2,3)");
    a.query_is("SELECT DISTINCT \"table\" FROM crsql_changes", &["'foo'"]);
    assert_eq!(a.crr().tables().unwrap(), ["foo"]);
}

#[test]
fn a_connection_that_only_reads_sees_the_tables_that_another_connection_makes_crrs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let writer = Site::on(Connection::open(&path).unwrap(), site("A"), FOO);
    let reader = Connection::open(&path).unwrap();
    crr::load(&reader).unwrap();
    let reader = Site { conn: reader, id: site("A") };
    reader.no_changes();
    writer
        .run("CREATE TABLE late(a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('late'); INSERT INTO late VALUES(1,2)");
    reader.changes_are("late 010901 b 2 1 1 A 1 0");
    assert_eq!(reader.read(0, None).len(), 1);
    reader.merge("late 010902 b 3 1 1 X 1 0");
    assert_eq!(writer.rows("late"), ["1, 2", "2, 3"]);
}

// ---- D9: automigrate ----

/// Migrates through SQL.
fn automigrate(site: &Site, schema: &str) -> rusqlite::Result<String> {
    site.conn.query_row("SELECT crsql_automigrate(?)", [schema], |row| row.get(0))
}

#[test]
fn a_migration_that_cannot_be_done_is_an_error_that_names_the_table_and_leaves_no_transaction_open() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    // The reference returns normally, with the text "not an error".
    let refused = automigrate(&a, "CREATE TABLE IF NOT EXISTS foo(z INTEGER PRIMARY KEY NOT NULL, b, c)").unwrap_err();
    assert!(refused.to_string().contains("foo") && refused.to_string().contains("primary key"), "{refused}");
    assert!(a.conn.is_autocommit());
    // The reference leaves its savepoint open, with half of the migration done.
    let failed = automigrate(&a, "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b)").unwrap_err();
    assert!(failed.to_string().contains("foo"), "{failed}");
    assert!(a.conn.is_autocommit());
    a.query_is("SELECT * FROM foo", &["1, 2, 3"]);
    assert_eq!(a.changes().len(), 2);
}

#[test]
fn a_table_made_and_tracked_on_one_line_of_the_schema_is_not_dropped() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    let line = "CREATE TABLE IF NOT EXISTS foo(a INTEGER PRIMARY KEY NOT NULL, b, c, d); SELECT crsql_as_crr('foo');";
    assert_eq!(automigrate(&a, line).unwrap(), "migration complete");
    a.query_is("SELECT * FROM foo", &["1, 2, 3, NULL"]);
}

#[test]
fn a_migration_drops_indexed_columns_and_remakes_changed_indexes() {
    let a = Site::new("A", &format!("{FOO} CREATE INDEX on_b ON foo(b); CREATE INDEX on_c ON foo(c)"));
    let schema = "CREATE TABLE IF NOT EXISTS foo(a INTEGER PRIMARY KEY NOT NULL, c, d);
                  SELECT crsql_as_crr('foo');
                  CREATE INDEX IF NOT EXISTS on_c ON foo(d, c)";
    automigrate(&a, schema).unwrap();
    a.query_is("SELECT name FROM pragma_index_info('on_c')", &["'d'", "'c'"]);
    a.query_is("SELECT count(*) FROM sqlite_schema WHERE name = 'on_b'", &["0"]);
}

#[test]
fn a_migration_keeps_defaults_in_parentheses_and_constraints_of_new_columns() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    let schema = "CREATE TABLE IF NOT EXISTS foo(a INTEGER PRIMARY KEY NOT NULL, b, c, d DEFAULT (-(5)) CHECK (d < 0));
                  SELECT crsql_as_crr('foo')";
    automigrate(&a, schema).unwrap();
    a.query_is("SELECT d FROM foo", &["-5"]);
    a.error("UPDATE foo SET d = 1");
}

#[test]
fn a_column_spelled_in_another_case_is_not_dropped_with_its_data() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    let schema = "CREATE TABLE IF NOT EXISTS foo(a INTEGER PRIMARY KEY NOT NULL, B, c)";
    let refused = automigrate(&a, schema).unwrap_err().to_string();
    assert!(refused.contains("column b B"), "{refused}");
    a.query_is("SELECT b FROM foo", &["2"]);
}

// ---- D10: malformed keys ----

/// Keys that no encoder makes, for a table with one key column.
const MALFORMED: [(&str, &str); 16] = [
    ("", "empty"),
    ("00", "no columns"),
    ("01", "no type byte"),
    ("0109", "no payload"),
    ("014100000000000000", "short integer"),
    ("0149000000000000000001", "integer of nine bytes"),
    ("01f90102", "integer of 31 bytes"),
    ("01023ff8", "short real"),
    ("010b05616263", "short text"),
    ("010c05616263", "short blob"),
    ("0123ffffffff", "text of 4 GiB"),
    ("010b02c328", "text that is not UTF-8"),
    ("0100", "type 0"),
    ("0106", "type 6"),
    ("0107", "type 7"),
    ("01090100", "trailing byte"),
];

#[test]
fn a_malformed_key_is_refused_and_leaves_nothing_behind() {
    let schema = "CREATE TABLE k(a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('k')";
    let b = Site::new("B", schema);
    for (pk, what) in MALFORMED {
        let mut change = OwnedChange::parse("k 010901 b 1 1 1 X 1 0");
        change.pk = unhex(pk);
        assert!(b.insert_one(&change).is_err(), "through SQL: {what}");

        let tx = b.transaction();
        let outcome = Merge::new(&tx, MergeOptions::default()).unwrap().changeset([change.borrowed()].into_iter());
        assert!(outcome.is_err_and(|error| error.is_refused()), "natively: {what}");
        tx.commit().unwrap();
    }
    b.no_changes();
    b.query_is("SELECT count(*) FROM k", &["0"]);
    b.query_is("SELECT count(*) FROM k__crsql_pks", &["0"]);
    assert_eq!(b.db_version(), 0);
}

#[test]
fn a_key_with_the_wrong_number_of_columns_or_a_null_is_refused() {
    let b = Site::new("B", &format!("{FOO} {P}"));
    for change in [
        "p 010901 -1 NULL 1 1 X 1 0",         // one of two
        "p 03090109020903 -1 NULL 1 1 X 1 0", // three of two
        "p 02090105 -1 NULL 1 1 X 1 0",       // (1, NULL)
        "p 020505 -1 NULL 1 1 X 1 0",         // (NULL, NULL)
        "foo 0209010902 b 1 1 1 X 1 0",       // two of one
        "foo 0105 b 1 1 1 X 1 0",             // NULL: SQLite would make up a rowid
        "foo 00 b 1 1 1 X 1 0",               // none: likewise
        "foo 0105 -1 NULL 2 1 X 2 0",         // a delete
    ] {
        b.refusal(change);
    }
    b.no_changes();
    b.query_is("SELECT (SELECT count(*) FROM foo), (SELECT count(*) FROM p)", &["0, 0"]);
}

#[test]
fn a_key_with_a_needlessly_wide_integer_is_the_same_key() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(5,2,3)");
    b.merge("foo 01410000000000000005 b 9 2 1 X 1 0");
    b.query_is("SELECT * FROM foo", &["5, 9, 3"]);
    b.query_is("SELECT DISTINCT hex(pk) FROM crsql_changes", &["'010905'"]);
}

// ---- D11: no-ops ----

#[test]
fn a_merge_without_effect_writes_nothing_at_all() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3); DELETE FROM foo");
    let changes = ["foo 010901 b 9 9 40 Y 1 0", "foo 010955 b 9 1 40 Y 0 0"].map(OwnedChange::parse);
    b.insert(&changes);

    let before = b.conn.total_changes();
    let tx = b.transaction();
    let merged = Merge::new(&tx, MergeOptions::default()).unwrap().changeset(changes.iter().map(OwnedChange::borrowed));
    assert_eq!(merged.unwrap().no_ops, 2);
    tx.commit().unwrap();
    assert_eq!(b.conn.total_changes(), before);

    b.query_is("SELECT count(*) FROM foo__crsql_pks", &["1"]);
    b.query_is("SELECT count(*) FROM crsql_site_id", &["1"]);
    assert_eq!(b.db_version(), 2);
}

// ---- D12: names that need quoting ----

#[test]
fn tables_and_columns_may_have_any_name() {
    for (table, column) in [
        ("a b", "c d"),
        ("x.y", "x.y"),
        ("50%", "%s"),
        ("say \"hi\"", "say \"hi\""),
        ("o'brien", "o'brien"),
        ("[x]", "[x]"),
        ("`x`", "`x`"),
        ("select", "from"),
        ("naïve", "日本"),
        ("2nd", "1st"),
        ("semi;colon", "--comment"),
        ("new\nline", "tab\t"),
    ] {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let (t, c) = (quoted(table), quoted(column));
        let key = quoted(&format!("key {column}"));
        let schema = format!("CREATE TABLE {t} ({key} PRIMARY KEY NOT NULL, {c} DEFAULT 'none')");

        let a = Site::new("A", &schema);
        a.run(&format!("INSERT INTO {t} VALUES (0, 'filled before')"));
        a.crr().as_crr(table).unwrap();
        a.run(&format!(
            "INSERT INTO {t} VALUES (1, 'one'), (2, 'two'), (3, 'three');
             UPDATE {t} SET {c} = 'TWO' WHERE {key} = 2;
             UPDATE {t} SET {key} = 4 WHERE {key} = 3;
             DELETE FROM {t} WHERE {key} = 1;"
        ));

        let through_sql = Site::new("B", &schema);
        through_sql.conn.query_row("SELECT crsql_as_crr(?)", [table], |_| Ok(())).unwrap();
        through_sql.pull_from(&a, 0);

        let natively = Site::new("C", &schema);
        natively.crr().as_crr(table).unwrap();
        let changes = a.read(0, None);
        let tx = natively.transaction();
        Merge::new(&tx, MergeOptions::default()).unwrap().changeset(changes.iter().map(OwnedChange::borrowed)).unwrap();
        tx.commit().unwrap();

        for copy in [&a, &through_sql, &natively] {
            let rows = copy.query(&format!("SELECT * FROM {t} ORDER BY 1"));
            assert_eq!(rows, ["0, 'filled before'", "2, 'TWO'", "4, 'three'"], "{table}");
            assert_eq!(copy.changes(), a.changes(), "{table}");
            assert_eq!(copy.crr().tables().unwrap(), [table]);
        }
    }
}

// ---- D13: the name of the sentinel ----

#[test]
fn a_table_with_a_column_named_like_the_sentinel_cannot_become_a_crr() {
    let a = Site::new("A", r#"CREATE TABLE odd(a PRIMARY KEY NOT NULL, "-1")"#);
    let error = a.error("SELECT crsql_as_crr('odd')");
    assert!(error.contains("odd") && error.contains("-1"), "{error}");
    a.query_is("SELECT count(*) FROM sqlite_master WHERE name LIKE 'odd%crsql%'", &["0"]);
}

// ---- D14: keys and the affinity of their columns ----

#[test]
fn a_key_is_the_same_however_a_peer_bound_it() {
    let schema = "CREATE TABLE i(a INTEGER NOT NULL, b, PRIMARY KEY (a)); SELECT crsql_as_crr('i');
                  CREATE TABLE t(a TEXT PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('t')";
    let b = Site::new("B", schema);
    b.run("INSERT INTO i VALUES(5, 1); INSERT INTO t VALUES('5', 1)");
    b.merge("i 010b0135 b 2 2 9 X 1 0"); // '5'
    b.merge("i 01024014000000000000 b 3 3 9 X 1 0"); // 5.0
    b.merge("t 010905 b 2 2 9 X 1 0"); // 5
    assert_eq!(b.rows("i"), ["5, 3"]);
    assert_eq!(b.rows("t"), ["'5', 2"]);
    b.query_is("SELECT count(*) FROM crsql_changes", &["2"]);
    b.query_is(
        "SELECT a, typeof(a) FROM i__crsql_pks UNION ALL SELECT a, typeof(a) FROM t__crsql_pks",
        &["5, 'integer'", "'5', 'text'"],
    );
}

#[test]
fn an_integer_key_that_is_no_integer_is_refused() {
    let b = Site::new("B", FOO);
    b.refusal("foo 010b0161 b 1 1 1 X 1 0");
    b.refusal("foo 01023ff8000000000000 b 1 1 1 X 1 0");
    b.no_changes();
    b.query_is("SELECT count(*) FROM foo__crsql_pks", &["0"]);
}

#[test]
fn a_key_that_takes_different_texts_for_the_same_is_refused() {
    let a = Site::new("A", "CREATE TABLE folded(a TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, b)");
    let error = a.error("SELECT crsql_as_crr('folded')");
    assert!(error.contains("folded") && error.contains("NOCASE"), "{error}");
    a.error("SELECT crsql_begin_alter('folded'); SELECT crsql_commit_alter('folded')");
    a.query_is("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'folded__%'", &["0"]);
}

#[test]
fn a_file_in_which_the_reference_tracks_such_a_key_goes_on_working() {
    let a = Site::new("A", "CREATE TABLE folded(a TEXT PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('folded')");
    a.run(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = replace(sql, 'TEXT', 'TEXT COLLATE NOCASE') WHERE name = 'folded';
         PRAGMA writable_schema = RESET;
         REINDEX;
         INSERT INTO folded VALUES('x', 1);
         SELECT crsql_as_crr('folded');
         SELECT crsql_begin_alter('folded'); ALTER TABLE folded ADD COLUMN c; SELECT crsql_commit_alter('folded');
         UPDATE folded SET c = 2",
    );
    a.changes_are("folded 010b0178 b 1 1 1 A 1 0\nfolded 010b0178 c 2 1 2 A 1 0");
}

// ---- D15: many tables ----

#[test]
fn six_hundred_crrs_can_be_written_read_and_merged() {
    let crr = |n: usize| format!("CREATE TABLE t{n}(a INTEGER PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('t{n}');");
    let all: String = (0..600).map(crr).collect();
    let a = Site::new("A", &format!("BEGIN; {all} COMMIT"));
    let b = Site::new("B", &[0, 300, 599].map(crr).concat());
    a.run("BEGIN; INSERT INTO t0 VALUES(1,2); INSERT INTO t300 VALUES(3,4); INSERT INTO t599 VALUES(5,6); COMMIT");
    assert_eq!(a.db_version(), 1);
    b.pull_from(&a, 0);
    b.run("UPDATE t599 SET b = 7");
    a.pull_from(&b, 1);
    a.changes_are(
        "t0 010901 b 2 1 1 A 1 0
         t300 010903 b 4 1 1 A 1 1
         t599 010905 b 7 2 2 B 1 0",
    );
    assert_eq!(a.read(0, None), b.read(0, None));
    assert_eq!(a.crr().stored_db_version().unwrap(), 2);
    assert_eq!(a.crr().tables().unwrap().len(), 600);
}

// ---- D16: versions that would go back ----

#[test]
fn the_version_stored_by_a_migration_counts_when_no_crr_is_left() {
    let a = Site::new("A", EMPTY);
    a.run("INSERT INTO crsql_master (key, value) VALUES ('pre_compact_dbversion', 7)");
    assert_eq!(a.crr().stored_db_version().unwrap(), 7);
}

#[test]
fn versions_go_on_when_a_table_stops_being_a_crr_and_becomes_one_again() {
    let (a, b) = (Site::new("A", FOO), Site::new("B", FOO));
    a.run("INSERT INTO foo VALUES(1,2,3); UPDATE foo SET b = 4; UPDATE foo SET b = 5");
    b.pull_from(&a, 0);
    let seen = a.db_version();
    a.run(
        "SELECT crsql_as_table('foo'); UPDATE foo SET b = 6; SELECT crsql_as_crr('foo'); INSERT INTO foo VALUES(2,2,3)",
    );
    assert_eq!(a.crr().stored_db_version().unwrap(), seen + 2);
    b.pull_from(&a, seen);
    b.query_is("SELECT a FROM foo", &["1", "2"]);
}

#[test]
fn a_failing_as_table_leaves_the_transaction_around_it_alone() {
    let a = Site::new("A", FOO);
    a.run("BEGIN; INSERT INTO foo VALUES(1,2,3)");
    // SQLite drops no table that is being read.
    let mut reading = a.conn.prepare("SELECT * FROM foo__crsql_clock").unwrap();
    let mut rows = reading.raw_query();
    rows.next().unwrap().unwrap();
    a.error("SELECT crsql_as_table('foo')");
    drop(rows);
    a.run("INSERT INTO foo VALUES(2,4,5); COMMIT");
    assert_eq!(a.changes().len(), 4);
}

#[test]
fn a_dropped_crr_does_not_stop_the_others() {
    let a = Site::new("A", &format!("{FOO} {P}"));
    a.run("INSERT INTO p VALUES(1,2); INSERT INTO foo VALUES(1,2,3); DROP TABLE foo");
    a.changes_are("p 0209010902 -1 NULL 1 1 A 1 0");
    assert_eq!(a.read(0, None).len(), 1);
    a.run("INSERT INTO p VALUES(3,4)");
    a.query_is("SELECT max(db_version) FROM crsql_changes", &["3"]);
    assert_eq!(a.crr().tables().unwrap(), ["p"]);
}

#[test]
fn a_table_dropped_by_a_migration_takes_its_clock_along_and_the_version_stays() {
    let (a, b) = (Site::new("A", &format!("{FOO} {P}")), Site::new("B", FOO));
    a.run("INSERT INTO foo VALUES(1,2,3); INSERT INTO p VALUES(1,2); INSERT INTO p VALUES(3,4)");
    let seen = a.db_version();
    let schema = "CREATE TABLE IF NOT EXISTS foo(a INTEGER PRIMARY KEY NOT NULL, b, c); SELECT crsql_as_crr('foo')";
    automigrate(&a, schema).unwrap();
    a.query_is("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'p!_!_crsql%' ESCAPE '!'", &["0"]);
    assert_eq!(a.crr().stored_db_version().unwrap(), seen);
    a.run("UPDATE foo SET b = 9");
    b.pull_from(&a, seen);
    b.query_is("SELECT b FROM foo", &["9"]);
}

#[test]
fn a_crr_dropped_and_made_again_does_not_take_over_the_entries_of_the_old_one() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3),(2,4,5); UPDATE foo SET b = 7; DROP TABLE foo");
    a.run(FOO);
    a.no_changes();
    a.run("INSERT INTO foo VALUES(1,5,6)");
    a.changes_are("foo 010901 b 5 1 3 A 1 0\nfoo 010901 c 6 1 3 A 1 1");
}

// ---- D17: fractional ordering ----

#[test]
fn rows_of_a_table_with_a_composite_key_can_share_an_order_key() {
    let schema = "CREATE TABLE item(list, id NOT NULL, sub NOT NULL, ord, PRIMARY KEY (id, sub));
                  SELECT crsql_as_crr('item');
                  SELECT crsql_fract_as_ordered('item', 'ord', 'list');
                  INSERT INTO item VALUES('x', 1, 1, 1), ('x', 1, 2, 1), ('x', 2, 1, 1), ('y', 2, 2, 'a!');
                  UPDATE item SET ord = 'a!' WHERE list = 'x' AND (id, sub) <> (1, 1)";
    let a = Site::new("A", schema);
    a.run("INSERT INTO item_fractindex (list, id, sub, after_id, after_sub) VALUES('x', 9, 9, 2, 1)");
    a.query_is("SELECT id, sub FROM item WHERE list = 'x' ORDER BY ord", &["1, 1", "2, 1", "9, 9", "1, 2"]);
    a.query_is("SELECT ord FROM item WHERE list = 'y'", &["'a!'"]);
}

#[test]
fn there_is_no_order_key_between_equal_or_empty_keys() {
    let a = Site::new("A", EMPTY);
    for keys in ["'a0', 'a0'", "'', ''", "'', NULL", "NULL, ''", "'a0', ''"] {
        let error = a.error(&format!("SELECT crsql_fract_key_between({keys})"));
        assert!(error.contains("order key"), "{keys}: {error}");
    }
}

// ---- D18: rows deleted inside an alteration ----

#[test]
fn rows_deleted_inside_an_alteration_are_deleted_at_peers_too() {
    let (a, b) = (Site::new("A", FOO), Site::new("B", FOO));
    a.run("INSERT INTO foo VALUES(1,2,3),(2,4,5)");
    b.pull_from(&a, 0);
    let seen = a.db_version();
    a.run("SELECT crsql_begin_alter('foo'); DELETE FROM foo WHERE a = 1; SELECT crsql_commit_alter('foo')");
    b.pull_from(&a, seen);
    assert_eq!(b.rows("foo"), ["2, 4, 5"]);
    a.pull_from(&b, 0);
    assert_eq!(a.rows("foo"), ["2, 4, 5"], "it does not come back");
}

#[test]
fn rows_inserted_inside_an_alteration_of_a_new_database_are_not_lost() {
    let (a, b) = (Site::new("A", FOO), Site::new("B", FOO));
    a.run("SELECT crsql_begin_alter('foo'); INSERT INTO foo VALUES(1,2,3); SELECT crsql_commit_alter('foo')");
    b.pull_from(&a, 0);
    assert_eq!(b.rows("foo"), ["1, 2, 3"]);
}

// ---- D19: loading inside a transaction is tested in loading.rs ----

// ---- D20: functions with one argument ----

#[test]
fn the_name_of_a_table_is_enough_to_convert_and_alter_it() {
    let a = Site::new("A", "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b)");
    a.query_is("SELECT crsql_as_crr('foo')", &["'OK'"]);
    a.query_is("SELECT crsql_begin_alter('foo')", &["'OK'"]);
    a.run("ALTER TABLE foo ADD COLUMN c");
    a.query_is("SELECT crsql_commit_alter('foo')", &["NULL"]);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    assert_eq!(a.changes().len(), 2);
}

// ---- D21: as_crr(NULL) ----

#[test]
fn as_crr_of_nothing_is_an_error() {
    let a = Site::new("A", EMPTY);
    a.error("SELECT crsql_as_crr(NULL)");
    a.error("SELECT crsql_as_crr('main', NULL)");
    a.error("SELECT crsql_as_crr()");
    a.error("SELECT crsql_as_crr('')");
    a.error("SELECT crsql_as_crr('no_such_table')");
    a.run("SELECT 1");
}

// ---- D22: defaults that break a CHECK ----

#[test]
fn reviving_a_row_whose_defaults_break_a_check_fails_and_leaves_no_sentinel() {
    let schema = "CREATE TABLE strict_one(a PRIMARY KEY NOT NULL, b NOT NULL DEFAULT 0 CHECK (b > 0));
                  SELECT crsql_as_crr('strict_one')";
    let b = Site::new("B", schema);
    b.run("BEGIN");
    let error = b.refusal("strict_one 010901 -1 NULL 1 4 X 1 0");
    assert!(error.contains("strict_one") || error.contains("CHECK"), "{error}");
    b.run("COMMIT");
    b.no_changes();
    b.query_is("SELECT count(*) FROM strict_one__crsql_pks", &["0"]);
}

// ---- D23: tables that only look like ours ----

#[test]
fn an_applications_own_tables_may_look_like_clock_tables() {
    let a = Site::new("A", FOO);
    a.run(
        "CREATE TABLE notes12crsql_clock (a, b);
         CREATE TABLE loud__CRSQL_CLOCK (a, b);
         CREATE TABLE ledger__crsql_clock (entry TEXT);
         INSERT INTO foo VALUES(1,2,3)",
    );
    assert_eq!(a.db_version(), 1);
    assert_eq!(a.changes().len(), 2);
    assert_eq!(a.read(0, None).len(), 2);
    assert_eq!(a.crr().stored_db_version().unwrap(), 1);
    assert_eq!(a.crr().tables().unwrap(), ["foo"]);
    a.merge("foo 010902 b 1 1 1 X 1 0");
}

// ---- D24 and D26: numbers out of bounds ----

#[test]
fn a_version_near_the_maximum_does_not_poison_the_clock() {
    let b = Site::new("B", FOO);
    b.refusal(&format!("foo 010901 b 9 1 {} X 1 0", i64::MAX));
    b.refusal(&format!("foo 010901 b 9 1 {} X 1 0", LARGEST + 1));
    b.no_changes();
    b.run("INSERT INTO foo VALUES(1,2,3)");
    assert_eq!(b.db_version(), 1);
}

#[test]
fn the_largest_version_a_peer_may_send_still_leaves_room_for_local_writes() {
    let b = Site::new("B", FOO);
    b.merge(&format!("foo 010901 b 9 1 {LARGEST} X 1 0"));
    b.run("INSERT INTO foo VALUES(2,2,3)");
    assert_eq!(b.db_version(), LARGEST + 1);
    assert_eq!(b.pull(LARGEST, None).len(), 2);
}

#[test]
fn negative_numbers_are_refused() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    for change in [
        "foo 010901 b 9 -1 4 X 1 0",
        "foo 010909 b 9 -1 4 X 1 0",
        "foo 010901 b 9 2 -1 X 1 0",
        "foo 010901 b 9 2 4 X 1 -1",
        "foo 010901 b 9 2 4 X -1 0",
        "foo 010901 -1 NULL -2 4 X 2 0",
    ] {
        b.refusal(change);
    }
    b.changes_are("foo 010901 b 2 1 1 B 1 0\nfoo 010901 c 3 1 1 B 1 1");
    b.query_is("SELECT count(*) FROM foo__crsql_pks", &["1"]);
}

#[test]
fn numbers_above_2_to_the_52_are_refused_and_2_to_the_52_is_not() {
    let over = LARGEST + 1;
    let b = Site::new("B", FOO);
    b.refusal(&format!("foo 010901 b 9 {over} 4 X 1 0"));
    b.refusal(&format!("foo 010901 b 9 1 4 X {over} 0"));
    b.refusal(&format!("foo 010901 b 9 1 4 X 1 {over}"));
    b.no_changes();
    b.merge(&format!("foo 010901 b 9 {LARGEST} 4 X 1 0"));
    b.merge(&format!("foo 010902 -1 NULL {LARGEST} 4 X {LARGEST} 0"));
    // Both can still be written.
    b.run("UPDATE foo SET b = 10; INSERT INTO foo VALUES(2,2,3)");
    b.query_is("SELECT max(col_version), max(cl) FROM crsql_changes", &[&format!("{over}, {over}")]);
}

#[test]
fn version_zero_of_a_zeroed_column_is_accepted() {
    let b = Site::new("B", FOO);
    b.merge("foo 010901 b 9 0 4 X 1 0");
    assert_eq!(b.rows("foo"), ["1, 9, NULL"]);
}

// ---- D25: ties between differently bound numbers ----

#[test]
fn an_incoming_number_is_compared_as_the_column_would_store_it() {
    let schema = "CREATE TABLE n(a PRIMARY KEY NOT NULL, r REAL, i INTEGER, t TEXT, u NUMERIC, x);
                  SELECT crsql_as_crr('n');
                  INSERT INTO n VALUES(1, 7.0, 5, '7', 5, 7.5)";
    for (cid, incoming, kept) in [
        ("r", "5", "7.0"), // raw: INTEGER beats REAL
        ("r", "7", "7.0"), // raw: wins each time it is replayed
        ("r", "8", "8.0"),
        ("i", "7.0", "7"), // raw: REAL loses to INTEGER
        ("i", "'9'", "9"),
        ("i", "4.0", "5"),
        ("t", "5", "'7'"), // raw: any number beats text
        ("t", "8", "'8'"),
        ("u", "6.0", "6"),
        ("u", "'4'", "5"),
        ("x", "7", "7"), // untyped: nothing changes, INTEGER beats REAL
        ("x", "'9'", "7.5"),
    ] {
        for natively in [false, true] {
            let b = Site::new("B", schema);
            let before = b.query(&format!("SELECT {cid} FROM n")).remove(0);
            let change = format!("n 010901 {cid} {incoming} 1 9 X 1 0");
            if natively {
                let tx = b.transaction();
                let change = OwnedChange::parse(&change);
                Merge::new(&tx, MergeOptions::default()).unwrap().changeset([change.borrowed()].into_iter()).unwrap();
                tx.commit().unwrap();
            } else {
                b.merge(&change);
            }
            assert_eq!(b.query(&format!("SELECT {cid} FROM n")), [kept], "{change}, natively: {natively}");
            let won = kept != before;
            assert_eq!(b.db_version(), if won { 9 } else { 1 }, "{change}, natively: {natively}");
        }
    }
}
