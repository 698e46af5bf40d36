//! Whatever a connection has read before, and whoever has written since: it reads what is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use crr::{Crr, Merge, MergeOptions, Position};
use proptest::collection::vec;
use proptest::prelude::*;
use rusqlite::Connection;
use site::{OwnedChange, Site, changeset, site};
use tempfile::TempDir;

const SCHEMA: &str = "
    CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c);
    CREATE TABLE bar(a INTEGER PRIMARY KEY NOT NULL, b, c CHECK (c < 100));
    CREATE TABLE baz(a INTEGER PRIMARY KEY NOT NULL, b, c);
    CREATE TABLE plain(a);
    SELECT crsql_as_crr('foo');
    SELECT crsql_as_crr('bar');
    SELECT crsql_as_crr('baz');
    INSERT INTO foo VALUES(1,2,3);
    INSERT INTO bar VALUES(1,2,3);
    INSERT INTO baz VALUES(1,2,3);";

/// A database file, and a connection that has read all of it.
struct Warmed {
    folder: TempDir,
    one: Site,
}

impl Warmed {
    fn new() -> Warmed {
        let folder = tempfile::tempdir().unwrap();
        let conn = Connection::open(folder.path().join("db")).unwrap();
        conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        conn.pragma_update(None, "synchronous", "OFF").unwrap();
        let one = Site::on(conn, site("B"), SCHEMA);
        one.read(0, None);
        Warmed { folder, one }
    }

    /// One more connection.
    fn open(&self) -> Site {
        let conn = Connection::open(self.folder.path().join("db")).unwrap();
        conn.pragma_update(None, "synchronous", "OFF").unwrap();
        crr::load(&conn).unwrap();
        Site { conn, id: site("B") }
    }

    /// Asserts that the warmed connection reads what a fresh one does, from wherever.
    #[track_caller]
    fn reads_as_a_fresh_one(&self) {
        let fresh = self.open();
        let newest = fresh.crr().stored_db_version().unwrap();
        // Backwards: what is newest comes first, before anything else can make the connection look.
        for after in (0..=newest).rev() {
            assert_eq!(self.one.read(after, None), fresh.read(after, None), "after {after} of {newest}");
            assert_eq!(self.one.pull(after, None), fresh.pull(after, None), "after {after} of {newest}");
        }
        assert_eq!(self.one.crr().stored_db_version().unwrap(), newest);
        assert_eq!(self.one.crr().tables().unwrap(), fresh.crr().tables().unwrap());
    }
}

/// Asserts that a connection reads what its clock tables hold, an open transaction included.
#[track_caller]
fn reads_what_is_stored(site: &Site) {
    let mut stored: Vec<(i64, i64, String)> = Vec::new();
    for table in site.crr().tables().unwrap() {
        let mut entries = site.conn.prepare(&format!("SELECT db_version, seq FROM {table}__crsql_clock")).unwrap();
        let entries = entries.query_map([], |row| Ok((row.get(0)?, row.get(1)?, table.clone()))).unwrap();
        stored.extend(entries.map(Result::unwrap));
    }
    stored.sort();
    let versions: std::collections::BTreeSet<i64> = stored.iter().map(|(version, ..)| *version).collect();
    for after in versions.into_iter().rev().flat_map(|version| [version, version - 1]) {
        let seen = site.read(after, None).into_iter().map(|change| (change.db_version, change.seq, change.table));
        let mut seen: Vec<_> = seen.collect();
        assert!(seen.is_sorted_by_key(|(version, seq, _)| (*version, *seq)), "{seen:?}");
        seen.sort();
        assert_eq!(seen, stored.iter().filter(|entry| entry.0 > after).cloned().collect::<Vec<_>>(), "after {after}");
    }
}

fn merge_natively(target: &Site, lines: &str) {
    let tx = target.transaction();
    let changes = changeset(lines);
    let mut merge = Merge::new(&tx, MergeOptions::server(1000)).unwrap();
    merge.changeset(changes.iter().map(OwnedChange::borrowed)).unwrap();
    Crr::of(&tx).unwrap().set_position(site("X"), Position { db_version: 1, seq: 0 }).unwrap();
    tx.commit().unwrap();
}

#[test]
fn after_commits_of_its_own() {
    let file = Warmed::new();
    file.one.run("INSERT INTO foo VALUES(2,2,3)");
    file.reads_as_a_fresh_one();
    file.one.run("BEGIN; UPDATE bar SET b = 7; DELETE FROM foo; COMMIT; INSERT INTO baz VALUES(2,2,3)");
    file.reads_as_a_fresh_one();
    merge_natively(&file.one, "foo 010905 b 1 1 1 X 1 0\nbaz 010905 b 1 1 1 X 1 1");
    file.reads_as_a_fresh_one();
    file.one.merge("bar 010905 b 1 1 60 X 1 0");
    file.reads_as_a_fresh_one();
}

#[test]
fn after_commits_of_another_connection() {
    let file = Warmed::new();
    let two = file.open();
    two.run("INSERT INTO foo VALUES(2,2,3)");
    file.reads_as_a_fresh_one();
    two.run("INSERT INTO bar VALUES(2,2,3)");
    file.one.run("INSERT INTO baz VALUES(2,2,3)");
    file.reads_as_a_fresh_one();
    file.one.run("INSERT INTO baz VALUES(3,2,3)");
    two.run("INSERT INTO bar VALUES(3,2,3)");
    file.one.run("BEGIN; INSERT INTO foo VALUES(3,2,3)");
    reads_what_is_stored(&file.one);
    file.one.run("COMMIT");
    file.reads_as_a_fresh_one();
}

#[test]
fn after_a_rollback() {
    let file = Warmed::new();
    for rolled_back in ["INSERT INTO foo VALUES(2,2,3)", "UPDATE bar__crsql_clock SET db_version = 50"] {
        file.one.run("BEGIN");
        file.one.run(rolled_back);
        reads_what_is_stored(&file.one);
        file.one.run("ROLLBACK");
        file.reads_as_a_fresh_one();
        file.one.run("BEGIN");
        file.one.run(rolled_back);
        file.one.run("ROLLBACK; INSERT OR IGNORE INTO bar VALUES(3,2,3)");
        file.reads_as_a_fresh_one();
    }
}

#[test]
fn after_a_rollback_to_a_savepoint() {
    let file = Warmed::new();
    for rolled_back in ["INSERT INTO foo VALUES(2,2,3)", "UPDATE bar__crsql_clock SET db_version = 50"] {
        file.one.run("BEGIN; UPDATE baz SET b = b + 1; SAVEPOINT s");
        file.one.run(rolled_back);
        reads_what_is_stored(&file.one);
        file.one.run("ROLLBACK TO s");
        reads_what_is_stored(&file.one);
        file.one.run("UPDATE bar SET b = b + 1");
        reads_what_is_stored(&file.one);
        file.one.run("COMMIT");
        file.reads_as_a_fresh_one();
    }
}

#[test]
fn after_a_commit_that_failed() {
    let file = Warmed::new();
    file.one.conn.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).unwrap();
    file.one.conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    let two = file.open();
    for end in ["COMMIT", "ROLLBACK"] {
        file.reads_as_a_fresh_one();
        file.one.run("BEGIN; INSERT OR REPLACE INTO foo VALUES(2,2,3)");
        let reader = two.transaction();
        two.query("SELECT * FROM foo");
        file.one.error("COMMIT");
        reader.commit().unwrap();
        file.one.run(end);
        two.run("UPDATE bar SET b = b + 1");
        file.reads_as_a_fresh_one();
    }
}

#[test]
fn after_clock_entries_were_changed_by_hand() {
    let file = Warmed::new();
    for sql in [
        "UPDATE foo__crsql_clock SET db_version = 20",
        "DELETE FROM bar__crsql_clock",
        "BEGIN; INSERT INTO foo VALUES(2,2,3); UPDATE baz__crsql_clock SET db_version = 30; COMMIT",
        "BEGIN; UPDATE baz__crsql_clock SET db_version = 40; INSERT INTO foo VALUES(3,2,3); COMMIT",
        "UPDATE foo__crsql_clock SET db_version = 2; INSERT INTO baz VALUES(4,2,3)",
    ] {
        file.one.run(sql);
        file.reads_as_a_fresh_one();
    }
}

#[test]
fn after_clock_entries_were_changed_by_hand_beside_replaced_rows_and_triggers_of_the_applications() {
    let file = Warmed::new();
    file.one.run(
        "PRAGMA recursive_triggers = 1;
         CREATE TRIGGER copy AFTER INSERT ON foo BEGIN INSERT OR REPLACE INTO baz VALUES(new.a, new.b, new.c); END",
    );
    file.reads_as_a_fresh_one();
    for sql in [
        "INSERT INTO foo VALUES(2,2,3), (3,2,3)",
        "REPLACE INTO foo VALUES(2,2,3), (3,2,3)",
        "BEGIN; REPLACE INTO foo VALUES(2,2,3); UPDATE bar__crsql_clock SET db_version = 60; COMMIT",
    ] {
        file.one.run(sql);
        file.reads_as_a_fresh_one();
    }
}

#[test]
fn after_tables_became_crrs_or_ceased_to_be() {
    let file = Warmed::new();
    let two = file.open();
    let run_both = |sql: &str| {
        for connection in [&file.one, &two] {
            connection.run(sql);
            file.reads_as_a_fresh_one();
            connection.run("UPDATE foo SET b = b + 1");
            file.reads_as_a_fresh_one();
        }
    };
    run_both("SELECT crsql_as_table('bar'); SELECT crsql_as_crr('bar')");
    run_both("BEGIN; SELECT crsql_as_table('bar'); INSERT INTO baz(b) VALUES(1); SELECT crsql_as_crr('bar'); COMMIT");
    run_both("BEGIN; SELECT crsql_as_table('bar'); INSERT INTO baz(b) VALUES(1); ROLLBACK");
    run_both("CREATE TABLE IF NOT EXISTS more(a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('more')");
    run_both("INSERT INTO more VALUES(random(), 2)");
    run_both("SELECT crsql_begin_alter('bar'); DELETE FROM bar; SELECT crsql_commit_alter('bar')");
    run_both("INSERT INTO bar(b) VALUES(1)");
    run_both("DROP TABLE IF EXISTS baz");
    two.run("SELECT crsql_as_table('more'); DROP TABLE more");
    file.one.run("BEGIN; UPDATE foo SET b = b + 1");
    reads_what_is_stored(&file.one);
    file.one.run("COMMIT");
    file.reads_as_a_fresh_one();
}

#[test]
fn in_memory() {
    let site = Site::new("B", SCHEMA);
    for sql in
        ["UPDATE foo SET b = 9", "BEGIN; UPDATE bar SET b = 9", "UPDATE baz SET b = 9", "COMMIT", "DELETE FROM foo"]
    {
        reads_what_is_stored(&site);
        site.run(sql);
        reads_what_is_stored(&site);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_anything(steps in vec((0..17_usize, 0..3_usize, any::<bool>()), 1..40)) {
        let file = Warmed::new();
        let two = file.open();
        for (number, (step, table, reads)) in steps.into_iter().enumerate() {
            let (table, another) = (["foo", "bar", "baz"][table], ["bar", "baz", "foo"][table]);
            let one = &file.one;
            // What doesn't fit, such as a COMMIT without a transaction, fails, and that is all.
            let _ = match step {
                0 => one.try_run(&format!("INSERT INTO {table} VALUES({}, 2, 3)", number + 10)),
                1 => one.try_run(&format!("INSERT INTO {table} SELECT a + 100, b, c FROM {another} WHERE a < 100")),
                2 => one.try_run(&format!("UPDATE {table} SET b = b + 1, c = {number}")),
                3 => one.try_run(&format!("DELETE FROM {table} WHERE a % 3 = 1")),
                4 => one.try_run(&format!("REPLACE INTO {table} VALUES(1, 2, 3), (2, 2, 3)")),
                5 => one.try_merge(&format!("{table} 0109{:02x} b 1 1 {number} X 1 0", 30 + number)),
                6 if one.conn.is_autocommit() => {
                    merge_natively(one, &format!("{table} 0109{:02x} b 1 1 {number} X 1 0", 30 + number));
                    Ok(())
                }
                6 | 7 => one.try_run("BEGIN"),
                8 => one.try_run("SAVEPOINT s"),
                9 => one.try_run("ROLLBACK TO s"),
                10 => one.try_run("COMMIT"),
                11 => one.try_run("ROLLBACK"),
                // One row by hand; statements that fail have written 50 by then.
                12 => one.try_run(&format!(
                    "UPDATE {table}__crsql_clock SET db_version = db_version + 3
                     WHERE (key, col_name) IN (SELECT key, col_name FROM {table}__crsql_clock LIMIT 1)"
                )),
                13 => one.try_run(
                    "WITH RECURSIVE n(i) AS (SELECT 51 UNION ALL SELECT i + 1 FROM n LIMIT 60)
                     INSERT INTO bar SELECT i + 1000, 1, i FROM n",
                ),
                14 => one.try_run("INSERT INTO plain VALUES(1)"),
                15 => one.try_run(&format!("SELECT crsql_as_table('{table}'); SELECT crsql_as_crr('{table}')")),
                _ if one.conn.is_autocommit() => two.try_run(&format!("UPDATE {table} SET b = b + 1")),
                _ => Ok(()),
            };
            if reads {
                reads_what_is_stored(one);
            }
        }
        let _ = file.one.try_run("COMMIT");
        reads_what_is_stored(&file.one);
        reads_what_is_stored(&two);
    }
}
