//! What the engine remembers on a connection, and how long that is true: rollbacks, other connections on the same file,
//! other threads, replaced hooks, closing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::thread;

use crr::{ChangesQuery, Crr, Merge, MergeOptions, Position};
use rusqlite::Connection;
use site::{FOO, OwnedChange, P, Site, changeset, site};
use tempfile::TempDir;

/// A database file that several connections open.
struct File {
    folder: TempDir,
}

impl File {
    /// A new file of site B, with its first connection.
    fn new(schema: &str) -> (File, Site) {
        let file = File { folder: tempfile::tempdir().unwrap() };
        let first = Site::on(file.plain(), site("B"), schema);
        (file, first)
    }

    /// One more connection with the engine loaded.
    fn open(&self) -> Site {
        let conn = self.plain();
        crr::load(&conn).unwrap();
        Site { conn, id: site("B") }
    }

    /// One more connection without the engine.
    fn plain(&self) -> Connection {
        Connection::open(self.folder.path().join("db")).unwrap()
    }
}

/// The ways in which a change is merged.
const WAYS: [fn(&Site, &str); 2] = [|site, line| site.merge(line), merge_natively];

// ---- Rollbacks ----

#[test]
fn a_connection_that_rested_goes_on_where_it_was() {
    for merge in WAYS {
        let b = Site::new("B", FOO);
        merge(&b, "foo 010901 b 1 1 1 X 1 0");
        b.run("INSERT INTO foo VALUES (2, 2, NULL)");
        b.crr().rest().unwrap();
        merge(&b, "foo 010903 b 3 1 2 X 1 0");
        b.run("UPDATE foo SET b = 5 WHERE a = 2");
        b.crr().rest().unwrap();
        assert_eq!(b.rows("foo"), ["1, 1, NULL", "2, 5, NULL", "3, 3, NULL"]);
        assert_eq!(b.crr().stored_db_version().unwrap(), 4);
    }
}

#[test]
fn a_site_met_in_a_rolled_back_merge_is_met_again() {
    for merge in WAYS {
        let b = Site::new("B", FOO);
        b.run("BEGIN");
        b.try_merge("foo 010901 b 1 1 1 X 1 0").unwrap();
        b.run("ROLLBACK");
        merge(&b, "foo 010902 b 1 1 1 Y 1 0");
        merge(&b, "foo 010901 b 1 1 1 X 1 0");
        b.changes_are("foo 010902 b 1 1 1 Y 1 0\nfoo 010901 b 1 1 2 X 1 0");
        b.query_is("SELECT ordinal, site_id FROM crsql_site_id ORDER BY 1", &["0, B", "1, Y", "2, X"]);
    }
}

#[test]
fn a_site_and_a_key_rolled_back_to_a_savepoint_are_made_again() {
    let b = Site::new("B", FOO);
    b.run("BEGIN; SAVEPOINT s");
    b.merge("foo 010901 b 1 1 1 X 1 0");
    b.run("ROLLBACK TO s; RELEASE s");
    b.merge("foo 010902 b 1 1 1 Y 1 0");
    b.merge("foo 010901 b 1 1 1 X 1 0");
    b.run("COMMIT");
    b.changes_are("foo 010901 b 1 1 1 X 1 0\nfoo 010902 b 1 1 1 Y 1 0");
    assert_eq!(b.rows("foo"), ["1, 1, NULL", "2, 1, NULL"]);
}

#[test]
fn sites_rolled_back_to_a_savepoint_are_made_again_beside_one_that_was_there() {
    let b = Site::new("B", FOO);
    b.merge("foo 010901 b 1 1 1 X 1 0");
    b.run("BEGIN");
    b.merge("foo 010902 b 1 1 1 X 1 0");
    b.run("SAVEPOINT s");
    b.merge("foo 010903 b 1 1 1 Y 1 0");
    b.merge("foo 010904 b 1 1 1 Y 1 0");
    b.merge("foo 010905 b 1 1 1 X 1 0");
    b.run("ROLLBACK TO s");
    b.merge("foo 010903 b 1 1 1 C 1 0");
    b.merge("foo 010904 b 1 1 1 Y 1 0");
    b.merge("foo 010905 b 1 1 1 X 1 0");
    b.run("ROLLBACK TO s; COMMIT");
    b.query_is("SELECT ordinal, site_id FROM crsql_site_id ORDER BY 1", &["0, B", "1, X"]);
    b.merge("foo 010904 b 1 1 1 Y 1 0");
    b.merge("foo 010903 b 1 1 1 C 1 0");
    b.merge("foo 010905 b 1 1 1 X 1 0");
    b.query_is("SELECT ordinal, site_id FROM crsql_site_id ORDER BY 1", &["0, B", "1, X", "2, Y", "3, C"]);
    b.query_is(
        "SELECT pk, site_id FROM crsql_changes ORDER BY 1",
        &["x'010901', X", "x'010902', X", "x'010903', C", "x'010904', Y", "x'010905', X"],
    );
}

#[test]
fn a_native_merge_rolled_back_to_a_savepoint_is_forgotten() {
    let b = Site::new("B", FOO);
    let tx = b.transaction();
    b.run("SAVEPOINT s");
    merge_within(&b, "foo 010901 b 1 1 1 X 1 0");
    b.run("ROLLBACK TO s; RELEASE s");
    merge_within(&b, "foo 010902 b 1 1 1 Y 1 0");
    merge_within(&b, "foo 010901 b 1 1 1 X 1 0");
    tx.commit().unwrap();
    b.changes_are("foo 010901 b 1 1 1 X 1 0\nfoo 010902 b 1 1 1 Y 1 0");
    assert_eq!(b.rows("foo"), ["1, 1, NULL", "2, 1, NULL"]);
}

#[test]
fn a_rolled_back_local_write_gives_its_version_and_its_key_back() {
    let b = Site::new("B", FOO);
    b.run("BEGIN; INSERT INTO foo VALUES(1,2,3); ROLLBACK; INSERT INTO foo VALUES(2,4,5)");
    b.changes_are("foo 010902 b 4 1 1 B 1 0\nfoo 010902 c 5 1 1 B 1 1");
    b.query_is("SELECT * FROM foo__crsql_pks", &["1, 2"]);
}

#[test]
fn a_rollback_caused_by_a_conflict_resets_the_version_and_the_sequence() {
    let b = Site::new("B", "CREATE TABLE k(a PRIMARY KEY NOT NULL, b CHECK (b > 0)); SELECT crsql_as_crr('k')");
    b.run("INSERT INTO k VALUES(1, 1); BEGIN; INSERT INTO k VALUES(2, 2)");
    b.error("INSERT OR ROLLBACK INTO k VALUES(3, -3)");
    assert!(b.conn.is_autocommit());
    b.run("INSERT INTO k VALUES(4, 4)");
    b.changes_are("k 010901 b 1 1 1 B 1 0\nk 010904 b 4 1 2 B 1 0");
}

#[test]
fn a_site_and_a_key_met_in_a_statement_that_failed_are_met_again() {
    let b = Site::new("B", FOO);
    b.run("BEGIN");
    b.error(
        "INSERT INTO crsql_changes VALUES
         ('foo', x'010901', 'b', 1, 1, 1, x'00000000000000000000000000000001', 1, 0),
         ('foo', x'010902', 'zz', 1, 1, 1, x'00000000000000000000000000000001', 1, 1)",
    );
    b.merge("foo 010903 b 1 1 1 Y 1 0");
    b.merge("foo 010901 b 1 1 1 X 1 0");
    b.run("COMMIT");
    b.changes_are("foo 010903 b 1 1 1 Y 1 0\nfoo 010901 b 1 1 1 X 1 0");
    assert_eq!(b.rows("foo"), ["1, 1, NULL", "3, 1, NULL"]);
}

#[test]
fn a_local_statement_that_fails_half_way_leaves_no_clock_behind() {
    let b = Site::new("B", "CREATE TABLE k(a PRIMARY KEY NOT NULL, b CHECK (b > 0)); SELECT crsql_as_crr('k')");
    b.run("BEGIN");
    b.error("INSERT INTO k VALUES(1, 1), (2, -1)");
    b.run("INSERT INTO k VALUES(2, 2); INSERT INTO k VALUES(1, 1); COMMIT");
    b.query_is("SELECT hex(pk), val, col_version, cl FROM crsql_changes", &["'010902', 2, 1, 1", "'010901', 1, 1, 1"]);
    b.query_is("SELECT a FROM k__crsql_pks ORDER BY a", &["1", "2"]);
}

// ---- Two connections on one file ----

#[test]
fn connections_on_one_file_never_use_a_version_twice() {
    let (file, one) = File::new(FOO);
    let two = file.open();
    for row in 0..10 {
        let writer = if row % 2 == 0 { &one } else { &two };
        writer.run(&format!("INSERT INTO foo(a, b) VALUES({row}, {row})"));
        assert_eq!(one.db_version(), row + 1);
        assert_eq!(two.db_version(), row + 1);
        assert_eq!(one.crr().stored_db_version().unwrap(), row + 1);
    }
    one.query_is("SELECT count(DISTINCT db_version), max(db_version) FROM crsql_changes", &["10, 10"]);
    assert_eq!(one.changes(), two.changes());
}

#[test]
fn ordinals_and_keys_given_by_another_connection_are_seen() {
    for merge in WAYS {
        let (file, one) = File::new(FOO);
        let two = file.open();
        // `one` has given X and key 1 the number 1, then takes it back.
        one.run("BEGIN");
        one.merge("foo 010901 b 1 1 1 X 1 0");
        one.run("ROLLBACK");
        // `two` gives that number to others.
        merge(&two, "foo 010902 b 1 1 1 Y 1 0");
        merge(&one, "foo 010901 b 1 1 1 X 1 0");
        merge(&two, "foo 010902 c 1 1 1 X 1 0");
        merge(&one, "foo 010901 c 1 1 1 Y 1 0");
        for connection in [&one, &two] {
            connection.changes_are(
                "foo 010902 b 1 1 1 Y 1 0
                 foo 010901 b 1 1 2 X 1 0
                 foo 010902 c 1 1 3 X 1 0
                 foo 010901 c 1 1 4 Y 1 0",
            );
        }
        assert_eq!(one.rows("foo"), ["1, 1, 1", "2, 1, 1"]);
    }
}

#[test]
fn a_site_forgotten_by_another_connection_gets_a_new_ordinal() {
    let (file, one) = File::new(FOO);
    one.merge("foo 010901 b 1 1 1 X 1 0");
    file.plain().execute("DELETE FROM crsql_site_id WHERE ordinal = 1", []).unwrap();
    one.merge("foo 010902 b 1 1 1 Y 1 0");
    one.merge("foo 010903 b 1 1 1 X 1 0");
    one.query_is("SELECT ordinal, site_id FROM crsql_site_id ORDER BY 1", &["0, B", "1, Y", "2, X"]);
}

#[test]
fn a_write_of_a_version_by_another_connection_is_seen_in_the_next_transaction() {
    let (file, one) = File::new(FOO);
    let two = file.open();
    one.run("INSERT INTO foo VALUES(1,2,3)");
    two.merge("foo 010902 b 1 1 50 X 1 0");
    one.run("INSERT INTO foo VALUES(3,2,3)");
    one.query_is("SELECT max(db_version) FROM crsql_changes", &["51"]);
}

#[test]
fn a_busy_database_is_not_the_changesets_fault() {
    let (file, one) = File::new(FOO);
    let two = file.open();
    two.conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    one.run("BEGIN IMMEDIATE");
    let tx = two.transaction();
    let changes = changeset("foo 010901 b 1 1 1 X 1 0");
    let outcome = Merge::new(&tx, MergeOptions::default())
        .and_then(|mut merge| merge.changeset(changes.iter().map(OwnedChange::borrowed)));
    assert!(!outcome.unwrap_err().is_refused());
    tx.rollback().unwrap();
    one.run("COMMIT");
    merge_natively(&two, "foo 010901 b 1 1 1 X 1 0");
    one.changes_are("foo 010901 b 1 1 1 X 1 0");
}

#[test]
fn a_version_taken_by_a_transaction_that_wrote_another_database_is_not_believed() {
    let (file, one) = File::new(FOO);
    let two = file.open();
    one.run("INSERT INTO foo VALUES(1,2,3)");
    // The commit hook is called, but the main database isn't committed.
    one.run("BEGIN; SELECT crsql_next_db_version(); CREATE TEMP TABLE elsewhere(x); COMMIT");
    two.run("INSERT INTO foo VALUES(3,2,3); INSERT INTO foo VALUES(4,2,3); INSERT INTO foo VALUES(5,2,3)");
    one.run("INSERT INTO foo VALUES(6,2,3)");
    one.query_is("SELECT DISTINCT db_version FROM crsql_changes WHERE pk = x'010906'", &["5"]);
}

#[test]
fn a_commit_that_fails_can_be_repeated() {
    let (file, one) = File::new(FOO);
    let two = file.open();
    one.conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    one.run("BEGIN; INSERT INTO foo VALUES(1,2,3)");
    let reader = two.transaction();
    two.query("SELECT * FROM foo");
    one.error("COMMIT");
    one.run("INSERT INTO foo VALUES(2,2,3)");
    reader.commit().unwrap();
    one.run("COMMIT; INSERT INTO foo VALUES(3,2,3)");
    let changes = one.pull(0, None);
    assert!(changes.is_sorted_by(|one, next| (one.db_version, one.seq) < (next.db_version, next.seq)), "{changes:?}");
    assert_eq!(changes.len(), 6);
    assert_eq!(one.db_version(), two.db_version());
}

#[test]
fn a_reader_sees_one_state_while_a_writer_goes_on() {
    let (file, one) = File::new(FOO);
    one.run("PRAGMA journal_mode = wal");
    one.run("INSERT INTO foo VALUES(1,2,3)");
    let reader = file.open();
    let snapshot = reader.transaction();
    assert_eq!(reader.read(0, None).len(), 2);
    one.run("INSERT INTO foo VALUES(2,4,5)");
    assert_eq!(reader.read(0, None).len(), 2);
    assert_eq!(reader.crr().stored_db_version().unwrap(), 1);
    snapshot.commit().unwrap();
    assert_eq!(reader.read(0, None).len(), 4);
    assert_eq!(reader.crr().stored_db_version().unwrap(), 2);
}

#[test]
fn a_connection_without_the_engine_cannot_write_past_the_clocks() {
    let (file, one) = File::new(FOO);
    let plain = file.plain();
    assert!(plain.execute("INSERT INTO foo VALUES(1,2,3)", []).is_err());
    one.no_changes();
    assert!(Crr::of(&plain).is_err());
}

// ---- Hooks ----

#[test]
fn an_application_that_takes_the_hooks_never_makes_a_version_be_used_twice() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    b.conn.commit_hook(Some(|| false)).unwrap();
    b.conn.rollback_hook(Some(|| ())).unwrap();
    b.run("INSERT INTO foo VALUES(2,2,3); INSERT INTO foo VALUES(3,2,3)");
    b.run("BEGIN; INSERT INTO foo VALUES(4,2,3); ROLLBACK; INSERT INTO foo VALUES(5,2,3)");
    b.merge("foo 010906 b 1 1 1 X 1 0");
    b.run("INSERT INTO foo VALUES(7,2,3)");
    let versions = b.query("SELECT DISTINCT db_version FROM crsql_changes GROUP BY pk");
    let distinct: BTreeSet<&String> = versions.iter().collect();
    assert_eq!(distinct.len(), 6, "{versions:?}");
    assert_eq!(b.db_version(), b.crr().stored_db_version().unwrap());
}

// ---- Threads ----

#[test]
fn a_connection_moves_between_threads() {
    let (_file, one) = File::new(FOO);
    one.run("INSERT INTO foo VALUES(1,2,3)");
    let one = thread::spawn(move || {
        one.run("INSERT INTO foo VALUES(2,4,5)");
        merge_natively(&one, "foo 010903 b 1 1 1 X 1 0");
        one
    })
    .join()
    .unwrap();
    assert_eq!(one.db_version(), 3);
    assert_eq!(one.read(0, None).len(), 5);
}

#[test]
fn many_connections_on_many_threads_write_one_file() {
    let (file, one) = File::new(FOO);
    one.run("PRAGMA journal_mode = wal");
    thread::scope(|scope| {
        for writer in 0..4 {
            let connection = file.open();
            scope.spawn(move || {
                connection.conn.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
                for row in 0..10 {
                    connection
                        .run(&format!("BEGIN IMMEDIATE; INSERT INTO foo(a) VALUES({writer} * 100 + {row}); COMMIT"));
                }
            });
        }
    });
    one.query_is("SELECT count(DISTINCT db_version), max(db_version), count(*) FROM crsql_changes", &["40, 40, 80"]);
    assert_eq!(one.db_version(), 40);
}

#[test]
fn engines_on_two_connections_of_one_thread_do_not_mix() {
    let (a, b) = (Site::new("A", FOO), Site::new("B", P));
    a.run("INSERT INTO foo VALUES(1,2,3)");
    let (of_a, of_b) = (a.crr(), b.crr());
    assert_eq!(of_a.site_id().unwrap(), site("A"));
    assert_eq!(of_b.site_id().unwrap(), site("B"));
    assert_eq!(of_a.tables().unwrap(), ["foo"]);
    assert_eq!(of_b.tables().unwrap(), ["p"]);
    assert_eq!((of_a.db_version().unwrap(), of_b.db_version().unwrap()), (1, 0));
}

// ---- Nesting ----

#[test]
fn the_applications_triggers_run_in_a_merge_and_what_they_write_is_not_tracked() {
    for merge in WAYS {
        let b = Site::new("B", &format!("{FOO} {P}"));
        b.run("CREATE TRIGGER also AFTER INSERT ON foo BEGIN INSERT INTO p VALUES(NEW.a, 'seen'); END");
        merge(&b, "foo 010901 b 1 1 1 X 1 0");
        assert_eq!(b.rows("p"), ["1, 'seen'"]);
        b.changes_are("foo 010901 b 1 1 1 X 1 0");
        // A local write is tracked, the trigger's too.
        b.run("INSERT INTO foo VALUES(2,4,5)");
        b.query_is("SELECT count(*) FROM crsql_changes WHERE \"table\" = 'p'", &["1"]);
    }
}

#[test]
fn an_applications_trigger_may_ask_the_engine_in_a_merge() {
    for merge in WAYS {
        let b = Site::new("B", FOO);
        b.run(
            "CREATE TABLE log(version, sites);
             CREATE TRIGGER also AFTER UPDATE ON foo BEGIN
                 INSERT INTO log VALUES(crsql_db_version(), hex(crsql_site_id()));
             END;
             INSERT INTO foo VALUES(1,2,3)",
        );
        merge(&b, "foo 010901 b 1 2 9 X 1 0");
        b.query_is("SELECT version FROM log", &["1"]);
    }
}

#[test]
fn changes_read_in_one_table_can_be_inserted_while_the_read_goes_on() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3); INSERT INTO foo VALUES(2,4,5)");
    // Inserting the changes back is a no-op, but reader and writer are open at once.
    b.run("INSERT INTO crsql_changes SELECT * FROM crsql_changes");
    assert_eq!(b.rows("foo"), ["1, 2, 3", "2, 4, 5"]);
    assert_eq!(b.db_version(), 2);
}

#[test]
fn a_callback_that_reads_changes_may_ask_the_database() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    let mut versions = Vec::new();
    b.crr()
        .read_changes(&ChangesQuery::default(), |_| {
            versions.push(b.db_version());
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(versions, [1, 1]);
}

// ---- Closing ----

#[test]
fn a_connection_that_used_everything_closes() {
    let (file, b) = File::new(&format!("{FOO} {P}"));
    b.run("INSERT INTO foo VALUES(1,2,3); UPDATE foo SET b = 5; UPDATE foo SET a = 7; DELETE FROM foo; INSERT INTO p VALUES(1,2)");
    b.merge("foo 010901 b 1 5 1 X 5 0");
    b.refusal("foo 010901 zz 1 5 1 X 5 0");
    merge_natively(&b, "foo 010902 b 1 1 1 Y 1 0\nfoo 010902 c 1 1 1 Y 1 1\np 0209010902 -1 NULL 2 1 Y 2 2");
    assert!(!b.read(0, None).is_empty());
    assert!(!b.changes().is_empty());
    b.crr().set_position(site("X"), Position { db_version: 1, seq: 0 }).unwrap();
    b.crr().position(site("X")).unwrap();
    b.crr().tables().unwrap();
    b.crr().stored_db_version().unwrap();
    b.query(
        "SELECT crsql_db_version(), crsql_next_db_version(), crsql_site_id(), crsql_get_seq(), crsql_rows_impacted()",
    );
    b.query("SELECT crsql_pack_columns(1, 'a'), crsql_config_set('merge-equal-values', 1)");
    b.run("BEGIN; INSERT INTO p VALUES(5,6); ROLLBACK");
    b.conn.close().map_err(|(_, error)| error).unwrap();
    // And leaves nothing that keeps the file busy.
    file.plain().execute_batch("PRAGMA locking_mode = exclusive; BEGIN EXCLUSIVE; COMMIT").unwrap();
}

#[test]
fn a_connection_that_only_loaded_the_engine_closes() {
    let conn = Connection::open_in_memory().unwrap();
    crr::load(&conn).unwrap();
    conn.close().map_err(|(_, error)| error).unwrap();
}

#[test]
fn a_reading_that_stopped_early_does_not_keep_the_connection_busy() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3),(2,4,5)");
    let mut seen = 0;
    b.crr()
        .read_changes(&ChangesQuery::default(), |_| {
            seen += 1;
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(seen, 1);
    b.run("DROP TABLE IF EXISTS other; VACUUM");
    b.conn.close().map_err(|(_, error)| error).unwrap();
}

#[test]
fn a_version_that_was_raised_is_not_used_again_by_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Connection::open(folder.path().join("db")).unwrap();
    let a = Site::on(open(), site("A"), FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    a.crr().raise_db_version(1000).unwrap();
    assert_eq!((a.crr().stored_db_version().unwrap(), a.crr().db_version().unwrap()), (1000, 1000));
    a.crr().raise_db_version(10).unwrap();
    assert_eq!(a.crr().stored_db_version().unwrap(), 1000, "it never goes back");
    let b = open();
    crr::load(&b).unwrap();
    b.execute_batch("UPDATE foo SET b = 9").unwrap();
    assert_eq!(crr::Crr::of(&b).unwrap().db_version().unwrap(), 1001);
    a.run("UPDATE foo SET b = 10");
    assert_eq!(a.crr().db_version().unwrap(), 1002);
    assert!(a.crr().raise_db_version((1 << 53) + 1).is_err());
}

fn merge_natively(target: &Site, lines: &str) {
    let tx = target.transaction();
    merge_within(target, lines);
    tx.commit().unwrap();
}

/// Merges inside the transaction that is open.
fn merge_within(target: &Site, lines: &str) {
    let changes = changeset(lines);
    let mut merge = Merge::new(&target.conn, MergeOptions::default()).unwrap();
    merge.changeset(changes.iter().map(OwnedChange::borrowed)).unwrap();
}
