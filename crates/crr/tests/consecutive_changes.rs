//! Changes that are inserted into `crsql_changes` one after another, with all that can come between them. What the engine
//! remembers from one to the next must not show: a native merge, which remembers nothing, does the same.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use crr::{Merge, MergeOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use site::{FOO, OwnedChange, Site, changeset};

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_between_two_changes_is_seen(steps in vec(step(), 1..30)) {
        let schema = format!("{FOO} {}", FOO.replace("foo", "bar"));
        let (sql, native) = (Site::new("B", &schema), Site::new("B", &schema));
        // Most go on inside one transaction.
        for copy in [&sql, &native] {
            copy.run("CREATE TABLE other(x UNIQUE); BEGIN");
        }
        for step in &steps {
            let outcomes = [step.take(&sql, Merging::BySql), step.take(&native, Merging::Natively)];
            prop_assert_eq!(outcomes[0], outcomes[1], "{:?}", step);
        }
        for copy in [&sql, &native] {
            let _ = copy.try_run("COMMIT");
        }
        for dump in [
            "SELECT * FROM foo ORDER BY a",
            "SELECT * FROM foo__crsql_pks ORDER BY 1",
            "SELECT * FROM foo__crsql_clock ORDER BY key, col_name",
            "SELECT * FROM bar__crsql_clock ORDER BY key, col_name",
            "SELECT * FROM crsql_site_id ORDER BY ordinal",
            "SELECT * FROM other ORDER BY x",
        ] {
            prop_assert_eq!(sql.query(dump), native.query(dump), "{}", dump);
        }
        sql.query_is("PRAGMA integrity_check", &["'ok'"]);
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// One change, as a line.
    Change(String),
    /// Statements that can come between.
    Run(&'static str),
}

#[derive(Clone, Copy)]
enum Merging {
    BySql,
    Natively,
}

impl Step {
    /// Whether it succeeded.
    fn take(&self, copy: &Site, merging: Merging) -> bool {
        match (self, merging) {
            (Step::Change(line), Merging::BySql) => copy.try_merge(line).is_ok(),
            (Step::Change(line), Merging::Natively) => merge_natively(copy, line),
            (Step::Run(statements), _) => copy.try_run(statements).is_ok(),
        }
    }
}

fn merge_natively(copy: &Site, line: &str) -> bool {
    // A statement that inserts into `crsql_changes` writes, whether its change wins or not.
    let savepoint = if copy.conn.is_autocommit() { "BEGIN IMMEDIATE" } else { "SAVEPOINT of_the_merge" };
    copy.run(savepoint);
    let changes = changeset(line);
    let mut merge = Merge::new(&copy.conn, MergeOptions::default()).unwrap();
    let merged = merge.changeset(changes.iter().map(OwnedChange::borrowed)).is_ok();
    drop(merge);
    match (savepoint, merged) {
        ("BEGIN IMMEDIATE", true) => copy.run("COMMIT"),
        ("BEGIN IMMEDIATE", false) => copy.run("ROLLBACK"),
        (_, true) => copy.run("RELEASE of_the_merge"),
        (_, false) => copy.run("ROLLBACK TO of_the_merge; RELEASE of_the_merge"),
    }
    merged
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => change().prop_map(Step::Change), 2 => between().prop_map(Step::Run)]
}

/// A change of one of few rows.
fn change() -> impl Strategy<Value = String> {
    let (rows, columns) =
        (select(&["foo 010901", "foo 010901", "foo 010902", "bar 010901"]), select(&["b", "c", "-1"]));
    let numbers = (0..4_i64, 1..5_i64, 1..9_i64, 1..5_i64, 0..3_i64);
    (rows, columns, numbers, select(&["X", "Y"])).prop_map(
        |(row, column, (val, version, db_version, cl, seq), author)| match column == "-1" || cl % 2 == 0 {
            true => format!("{row} -1 NULL {cl} {db_version} {author} {cl} {seq}"),
            false => format!("{row} {column} {val} {version} {db_version} {author} {cl} {seq}"),
        },
    )
}

fn between() -> impl Strategy<Value = &'static str> {
    select(&[
        "SAVEPOINT s",
        "SAVEPOINT s",
        "ROLLBACK TO s",
        "ROLLBACK TO s",
        "RELEASE s",
        "COMMIT; BEGIN",
        "ROLLBACK; BEGIN",
        "COMMIT",
        "INSERT INTO foo VALUES (1, 7, 7)",
        "REPLACE INTO foo VALUES (1, 8, 8)",
        "UPDATE foo SET b = b + 1",
        "UPDATE foo SET a = 3 - a WHERE a = 1",
        "DELETE FROM foo WHERE a = 1",
        "DELETE FROM foo",
        "UPDATE foo__crsql_clock SET col_version = col_version + 2",
        "DELETE FROM foo__crsql_clock WHERE col_name = 'b'",
        "DELETE FROM foo__crsql_clock",
        "INSERT INTO other VALUES (1), (2), (1)",
        "INSERT OR FAIL INTO other VALUES (3), (4), (3)",
        "INSERT INTO other SELECT 100 + count(*) FROM other",
        "CREATE TRIGGER forget AFTER UPDATE ON foo BEGIN DELETE FROM foo__crsql_clock WHERE col_name = 'b'; END",
        "DROP TRIGGER forget",
        "SELECT crsql_as_table('foo'); SELECT crsql_as_crr('foo')",
        "SELECT crsql_begin_alter('foo'); SELECT crsql_commit_alter('foo')",
    ])
}

#[test]
fn changes_of_one_statement_and_of_many_come_to_the_same() {
    let source = Site::new("A", FOO);
    source.run("INSERT INTO foo VALUES (1, 2, 3), (2, 4, 5); UPDATE foo SET c = 9; DELETE FROM foo WHERE a = 2");
    source.run("INSERT INTO foo VALUES (2, 6, 7)");
    let lines: Vec<String> = source.pull(0, None).iter().map(OwnedChange::line).collect();
    let (one, many) = (Site::new("B", FOO), Site::new("B", FOO));
    for copy in [&one, &many] {
        copy.run("BEGIN");
    }
    for _ in 0..2 {
        one.merge_at_once(&lines);
        lines.iter().for_each(|line| many.merge(line));
    }
    for copy in [&one, &many] {
        copy.run("COMMIT");
    }
    assert_eq!(one.rows("foo"), ["1, 2, 9", "2, 6, 7"]);
    assert_eq!(one.rows("foo"), many.rows("foo"));
    assert_eq!(one.changes(), many.changes());
}
