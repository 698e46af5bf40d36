//! Overruling: what becomes of a row's clock, and what is left of the row.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use crr::{Error, Merge, MergeOptions, Merged};
use site::{FOO, OwnedChange, P, Site};

/// Overrules changes, given as lines.
fn overrule(site: &Site, lines: &[&str]) -> Merged {
    let changes: Vec<OwnedChange> = lines.iter().map(|line| OwnedChange::parse(line)).collect();
    let tx = site.transaction();
    let merged = Merge::new(&tx, MergeOptions::default()).unwrap();
    let merged = { merged }.overrule(changes.iter().map(OwnedChange::borrowed)).unwrap();
    tx.commit().unwrap();
    merged
}

#[test]
fn a_cell_that_was_set_is_set_back_under_a_newer_version() {
    let site = Site::new("A", FOO);
    site.run("INSERT INTO foo VALUES (1, 2, 3)");
    let merged = overrule(&site, &["foo 010901 b 9 5 7 B 1 0"]);
    assert_eq!((merged.applied, merged.db_version), (1, 7));
    site.query_is("SELECT * FROM foo", &["1, 2, 3"]);
    site.changes_are(
        "foo 010901 c 3 1 1 A 1 1
         foo 010901 b 2 6 7 A 1 0",
    );
}

#[test]
fn what_is_known_is_left_alone() {
    let site = Site::new("A", FOO);
    site.run("INSERT INTO foo VALUES (1, 2, 3)");
    let merged = overrule(&site, &["foo 010901 b 2 1 1 B 1 0", "foo 010901 c 3 1 1 B 1 1"]);
    assert_eq!((merged.applied, merged.no_ops, merged.db_version), (0, 2, 1));
}

#[test]
fn a_row_that_was_made_is_dead_and_one_that_was_deleted_is_alive() {
    let site = Site::new("A", FOO);
    site.run("INSERT INTO foo VALUES (1, 2, 3)");
    overrule(&site, &["foo 010902 b 9 1 2 B 1 0", "foo 010902 c 9 1 2 B 1 1", "foo 010901 -1 NULL 2 2 B 2 2"]);
    site.query_is("SELECT * FROM foo", &["1, 2, 3"]);
    site.changes_are(
        "foo 010902 -1 NULL 2 2 A 2 0
         foo 010901 -1 NULL 3 2 A 3 1
         foo 010901 b 2 1 2 A 3 2
         foo 010901 c 3 1 2 A 3 3",
    );
}

#[test]
fn a_row_that_was_replaced_gets_a_life_after_the_one_that_replaced_it() {
    let site = Site::new("A", FOO);
    site.run("INSERT INTO foo VALUES (1, 2, 3)");
    overrule(&site, &["foo 010901 -1 NULL 3 2 B 3 0", "foo 010901 b 9 1 2 B 3 1"]);
    site.query_is("SELECT * FROM foo", &["1, 2, 3"]);
    site.changes_are(
        "foo 010901 -1 NULL 5 2 A 5 0
         foo 010901 b 2 1 2 A 5 1
         foo 010901 c 3 1 2 A 5 2",
    );
}

#[test]
fn rows_that_are_nothing_but_a_key_come_and_go_too() {
    let site = Site::new("A", P);
    site.run("INSERT INTO p VALUES (1, 1)");
    overrule(&site, &["p 0209010901 -1 NULL 2 2 B 2 0", "p 0209010902 -1 NULL 1 2 B 1 1"]);
    site.query_is("SELECT * FROM p", &["1, 1"]);
    site.changes_are(
        "p 0209010901 -1 NULL 3 2 A 3 0
         p 0209010902 -1 NULL 2 2 A 2 1",
    );
}

#[test]
fn neither_constraints_nor_triggers_have_a_say() {
    let site = Site::new(
        "A",
        "CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b INTEGER CHECK (b < 10));
         SELECT crsql_as_crr('foo');
         CREATE TABLE told (count INTEGER);
         CREATE TRIGGER tell AFTER UPDATE ON foo BEGIN INSERT INTO told VALUES (1); END;
         INSERT INTO foo VALUES (1, 2);",
    );
    overrule(&site, &["foo 010901 b 1000 2 2 B 1 0"]);
    site.query_is("SELECT * FROM foo", &["1, 2"]);
    site.query_is("SELECT * FROM told", &[]);
}

#[test]
fn a_malformed_change_is_refused_all_the_same() {
    let site = Site::new("A", FOO);
    let change = OwnedChange::parse("foo 010901 none 9 1 1 B 1 0");
    let tx = site.transaction();
    let error =
        Merge::new(&tx, MergeOptions::default()).unwrap().overrule([change.borrowed()].into_iter()).unwrap_err();
    assert!(matches!(error, Error::UnknownColumn { .. }), "{error}");
}

#[test]
fn effects_on_tables_that_may_not_be_written_are_refused_and_no_ops_are_not() {
    let site = Site::new("A", &format!("{FOO}{P}"));
    site.run("INSERT INTO foo VALUES (1, 2, 3)");
    let merge = |lines: &[&str]| {
        let changes: Vec<OwnedChange> = lines.iter().map(|line| OwnedChange::parse(line)).collect();
        let tx = site.transaction();
        let mut merge = Merge::new(&tx, MergeOptions::default()).unwrap();
        let merged = merge.changeset_within(changes.iter().map(OwnedChange::borrowed), &|table| table == "p");
        if merged.is_ok() {
            tx.commit().unwrap()
        } else {
            tx.rollback().unwrap()
        }
        merged
    };
    let known = "foo 010901 b 2 1 1 B 1 0";
    let allowed = "p 0209010901 -1 NULL 1 2 B 1 1";
    assert_eq!(merge(&[known, allowed]).unwrap().applied, 1);
    let error = merge(&["p 0209010902 -1 NULL 1 3 B 1 0", "foo 010901 b 9 2 3 B 1 1"]).unwrap_err();
    assert!(error.is_refused());
    assert_eq!(error.to_string(), "table foo may not be written to");
    site.query_is("SELECT * FROM p", &["1, 1"]);
}
