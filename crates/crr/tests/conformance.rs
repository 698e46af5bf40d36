//! The conformance cases of the engine: small histories and the exact change rows they leave.
//!
//! Every case was run on cr-sqlite 0.16.3. Where a case says what "the reference" does, that is a defect that this
//! engine doesn't share; the number in parentheses is the defect's.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use site::{EMPTY, FOO, P, Site, T};

// ---- Local writes ----

#[test]
fn c01_an_insert_writes_one_entry_per_non_key_column_and_no_sentinel() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    a.changes_are(
        "foo 010901 b 2 1 1 A 1 0
         foo 010901 c 3 1 1 A 1 1",
    );
}

#[test]
fn c02_several_rows_in_one_transaction_share_a_db_version_and_seq_counts_up() {
    let a = Site::new("A", FOO);
    a.run(
        "BEGIN;
         INSERT INTO foo VALUES(1,2,3);
         INSERT INTO foo VALUES(2,4,5);
         COMMIT",
    );
    a.changes_are(
        "foo 010901 b 2 1 1 A 1 0
         foo 010901 c 3 1 1 A 1 1
         foo 010902 b 4 1 1 A 1 2
         foo 010902 c 5 1 1 A 1 3",
    );
}

#[test]
fn c03_each_transaction_gets_the_next_db_version_and_seq_restarts_at_0() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         INSERT INTO foo VALUES(2,4,5)",
    );
    a.changes_are(
        "foo 010901 b 2 1 1 A 1 0
         foo 010901 c 3 1 1 A 1 1
         foo 010902 b 4 1 2 A 1 0
         foo 010902 c 5 1 2 A 1 1",
    );
}

#[test]
fn c04_an_update_touches_only_changed_columns() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         UPDATE foo SET b=9, c=3",
    );
    a.changes_are(
        "foo 010901 c 3 1 1 A 1 1
         foo 010901 b 9 2 2 A 1 0",
    );
}

#[test]
fn c05_a_no_op_update_writes_nothing_but_uses_up_a_db_version_in_this_connection() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         UPDATE foo SET b=2",
    );
    a.query_is("SELECT crsql_db_version()", &["2"]);
    a.run("UPDATE foo SET b=5");
    a.changes_are(
        "foo 010901 c 3 1 1 A 1 1
         foo 010901 b 5 2 3 A 1 0",
    );
}

#[test]
fn c06_two_updates_of_one_column_in_one_transaction_raise_col_version_by_2_and_keep_the_last_seq() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         BEGIN;
         UPDATE foo SET b=7;
         UPDATE foo SET b=8;
         COMMIT",
    );
    a.changes_are(
        "foo 010901 c 3 1 1 A 1 1
         foo 010901 b 8 3 2 A 1 1",
    );
}

#[test]
fn c07_integer_1_to_real_1_in_an_untyped_column_counts_as_a_change() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,1,0);
         UPDATE foo SET b=1.0",
    );
    a.changes_are(
        "foo 010901 c 0 1 1 A 1 1
         foo 010901 b 1.0 2 2 A 1 0",
    );
}

#[test]
fn c08_a_delete_leaves_only_the_sentinel_with_cl_2() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         DELETE FROM foo",
    );
    a.changes_are("foo 010901 -1 NULL 2 2 A 2 0");
    a.query_is("SELECT * FROM foo__crsql_pks", &["1, 1"]);
}

#[test]
fn c09_insert_and_delete_in_one_transaction_leave_the_sentinel() {
    let a = Site::new("A", FOO);
    a.run(
        "BEGIN;
         INSERT INTO foo VALUES(1,2,3);
         DELETE FROM foo;
         COMMIT",
    );
    a.changes_are("foo 010901 -1 NULL 2 1 A 2 2");
}

#[test]
fn c10_a_re_insert_after_a_delete_has_sentinel_3_and_columns_restart_at_1() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         UPDATE foo SET b=7;
         DELETE FROM foo;
         INSERT INTO foo VALUES(1,5,6)",
    );
    a.changes_are(
        "foo 010901 -1 NULL 3 4 A 3 0
         foo 010901 b 5 1 4 A 3 1
         foo 010901 c 6 1 4 A 3 2",
    );
}

#[test]
fn c11_insert_delete_insert_delete_gives_cl_4() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         DELETE FROM foo;
         INSERT INTO foo VALUES(1,2,3);
         DELETE FROM foo",
    );
    a.changes_are("foo 010901 -1 NULL 4 4 A 4 0");
}

#[test]
fn c12_insert_or_replace_on_a_live_row_with_no_sentinel_raises_every_column_and_seq_starts_at_1() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         INSERT OR REPLACE INTO foo VALUES(1,2,4)",
    );
    a.changes_are(
        "foo 010901 b 2 2 2 A 1 1
         foo 010901 c 4 2 2 A 1 2",
    );
}

#[test]
fn c13_insert_or_replace_on_a_live_row_that_has_a_sentinel_raises_cl_from_3_to_5() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         DELETE FROM foo;
         INSERT INTO foo VALUES(1,2,3);
         INSERT OR REPLACE INTO foo VALUES(1,2,4)",
    );
    a.changes_are(
        "foo 010901 -1 NULL 5 4 A 5 0
         foo 010901 b 2 2 4 A 5 1
         foo 010901 c 4 2 4 A 5 2",
    );
}

#[test]
fn c14_insert_or_replace_with_recursive_triggers_on_behaves_as_delete_and_insert() {
    let a = Site::new("A", FOO);
    a.run(
        "PRAGMA recursive_triggers=1;
         INSERT INTO foo VALUES(1,2,3);
         INSERT OR REPLACE INTO foo VALUES(1,4,5)",
    );
    a.changes_are(
        "foo 010901 -1 NULL 3 2 A 3 1
         foo 010901 b 4 1 2 A 3 2
         foo 010901 c 5 1 2 A 3 3",
    );
}

#[test]
fn c15_an_upsert_that_updates_is_an_update() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         INSERT INTO foo VALUES(1,9,9) ON CONFLICT DO UPDATE SET b=excluded.b",
    );
    a.changes_are(
        "foo 010901 c 3 1 1 A 1 1
         foo 010901 b 9 2 2 A 1 0",
    );
}

#[test]
fn c16_insert_or_ignore_on_an_existing_row_does_nothing() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         INSERT OR IGNORE INTO foo VALUES(1,9,9)",
    );
    a.query_is("SELECT crsql_db_version()", &["1"]);
    a.changes_are(
        "foo 010901 b 2 1 1 A 1 0
         foo 010901 c 3 1 1 A 1 1",
    );
}

#[test]
fn c17_a_primary_key_change_kills_the_old_key_and_stamps_the_moved_entries() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         UPDATE foo SET a=7",
    );
    // The reference leaves db_version 1 and the old seqs on the moved entries (D1).
    a.changes_are(
        "foo 010901 -1 NULL 2 2 A 2 0
         foo 010907 -1 NULL 1 2 A 1 1
         foo 010907 b 2 1 2 A 1 2
         foo 010907 c 3 1 2 A 1 3",
    );
}

#[test]
fn c18_a_primary_key_change_with_a_column_change_stamps_both() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         UPDATE foo SET a=7, b=9",
    );
    // The reference leaves db_version 1 on c (D1).
    a.changes_are(
        "foo 010901 -1 NULL 2 2 A 2 0
         foo 010907 -1 NULL 1 2 A 1 1
         foo 010907 c 3 1 2 A 1 3
         foo 010907 b 9 2 2 A 1 4",
    );
}

#[test]
fn c19_a_primary_key_change_onto_a_dead_key_resurrects_it() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         INSERT INTO foo VALUES(2,4,5);
         DELETE FROM foo WHERE a=2;
         UPDATE foo SET a=2 WHERE a=1",
    );
    // The reference leaves db_version 1 on the moved entries (D1).
    a.changes_are(
        "foo 010901 -1 NULL 2 4 A 2 0
         foo 010902 -1 NULL 3 4 A 3 1
         foo 010902 b 2 1 4 A 3 2
         foo 010902 c 3 1 4 A 3 3",
    );
}

#[test]
fn c20_update_or_replace_onto_a_live_key_starts_a_new_life_of_that_key() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         INSERT INTO foo VALUES(2,4,5);
         UPDATE OR REPLACE foo SET a=2 WHERE a=1",
    );
    // The reference gives the overwritten key cl 1, so that its peers keep (4, 5) (D1).
    a.changes_are(
        "foo 010901 -1 NULL 2 3 A 2 0
         foo 010902 -1 NULL 3 3 A 3 1
         foo 010902 b 2 1 3 A 3 2
         foo 010902 c 3 1 3 A 3 3",
    );
}

#[test]
fn c21_an_insert_into_a_key_only_table_writes_a_sentinel_with_version_1() {
    let a = Site::new("A", P);
    a.run("INSERT INTO p VALUES(1,2)");
    a.changes_are("p 0209010902 -1 NULL 1 1 A 1 0");
}

#[test]
fn c22_insert_or_replace_in_a_key_only_table_goes_from_1_to_3() {
    let a = Site::new("A", P);
    a.run(
        "INSERT INTO p VALUES(1,2);
         INSERT OR REPLACE INTO p VALUES(1,2)",
    );
    a.changes_are("p 0209010902 -1 NULL 3 2 A 3 0");
}

#[test]
fn c23_a_key_change_in_a_key_only_table_moves_the_sentinel() {
    let a = Site::new("A", P);
    a.run(
        "INSERT INTO p VALUES(1,2);
         UPDATE p SET b=3",
    );
    a.changes_are(
        "p 0209010902 -1 NULL 2 2 A 2 0
         p 0209010903 -1 NULL 1 2 A 1 1",
    );
}

#[test]
fn c24_a_composite_key_is_packed_in_primary_key_order_not_column_order() {
    let a = Site::new("A", T);
    a.run("INSERT INTO t VALUES('x',x'00ff',1)");
    a.changes_are("t 020c0200ff0b0178 z 1 1 1 A 1 0");
}

#[test]
fn c25_null_columns_still_get_entries() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo(a) VALUES(1);
         UPDATE foo SET b=1;
         UPDATE foo SET b=NULL",
    );
    a.changes_are(
        "foo 010901 c NULL 1 1 A 1 1
         foo 010901 b NULL 3 3 A 1 0",
    );
}

#[test]
fn c26_a_rollback_restores_db_version_and_seq() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         BEGIN;
         INSERT INTO foo VALUES(2,4,5);
         ROLLBACK",
    );
    a.query_is("SELECT crsql_db_version(), crsql_get_seq()", &["1, 0"]);
    a.run("INSERT INTO foo VALUES(3,6,7)");
    a.changes_are(
        "foo 010901 b 2 1 1 A 1 0
         foo 010901 c 3 1 1 A 1 1
         foo 010903 b 6 1 2 A 1 0
         foo 010903 c 7 1 2 A 1 1",
    );
}

#[test]
fn c27_rollback_to_keeps_the_sequence_numbers_consumed() {
    let a = Site::new("A", FOO);
    a.run(
        "BEGIN;
         INSERT INTO foo VALUES(1,2,3);
         SAVEPOINT s;
         INSERT INTO foo VALUES(2,4,5);
         ROLLBACK TO s;
         INSERT INTO foo VALUES(3,6,7);
         COMMIT",
    );
    a.changes_are(
        "foo 010901 b 2 1 1 A 1 0
         foo 010901 c 3 1 1 A 1 1
         foo 010903 b 6 1 1 A 1 4
         foo 010903 c 7 1 1 A 1 5",
    );
}

#[test]
fn c28_crsql_next_db_version_with_a_number_raises_the_pending_version() {
    let a = Site::new("A", FOO);
    a.run("BEGIN");
    a.query_is("SELECT crsql_next_db_version(10)", &["10"]);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         COMMIT",
    );
    a.query_is("SELECT crsql_db_version()", &["10"]);
    a.changes_are(
        "foo 010901 b 2 1 10 A 1 0
         foo 010901 c 3 1 10 A 1 1",
    );
}

#[test]
fn c29_nothing_is_tracked_while_the_sync_bit_is_on() {
    let a = Site::new("A", FOO);
    a.run(
        "SELECT crsql_internal_sync_bit(1);
         INSERT INTO foo VALUES(1,2,3);
         SELECT crsql_internal_sync_bit(0)",
    );
    a.no_changes();
    a.query_is("SELECT * FROM foo", &["1, 2, 3"]);
}

// ---- Conversion and alteration ----

#[test]
fn c30_as_crr_on_a_filled_table_back_fills_at_the_next_db_version_nulls_included() {
    let a = Site::new("A", EMPTY);
    a.run(
        "CREATE TABLE foo(a PRIMARY KEY NOT NULL, b, c);
         INSERT INTO foo VALUES(1,'x',NULL),(2,NULL,5);
         SELECT crsql_as_crr('foo')",
    );
    a.query_is("SELECT crsql_db_version()", &["1"]);
    a.changes_are(
        "foo 010901 b 'x' 1 1 A 1 0
         foo 010901 c NULL 1 1 A 1 1
         foo 010902 b NULL 1 1 A 1 2
         foo 010902 c 5 1 1 A 1 3",
    );
}

#[test]
fn c31_as_crr_on_a_filled_key_only_table_back_fills_sentinels() {
    let a = Site::new("A", EMPTY);
    a.run(
        "CREATE TABLE p(a PRIMARY KEY NOT NULL);
         INSERT INTO p VALUES(1),(2);
         SELECT crsql_as_crr('p')",
    );
    a.changes_are(
        "p 010901 -1 NULL 1 1 A 1 0
         p 010902 -1 NULL 1 1 A 1 1",
    );
}

#[test]
fn c32_as_crr_twice_is_a_no_op() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         SELECT crsql_as_crr('foo')",
    );
    a.changes_are(
        "foo 010901 b 2 1 1 A 1 0
         foo 010901 c 3 1 1 A 1 1",
    );
}

#[test]
fn c33_as_table_removes_tracking_and_keeps_data() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         SELECT crsql_as_table('foo')",
    );
    // The reference goes back to 0 (D16).
    a.query_is("SELECT crsql_db_version()", &["1"]);
    a.no_changes();
    a.query_is("SELECT * FROM foo", &["1, 2, 3"]);
}

#[test]
fn c34_added_columns_need_no_entries_until_they_differ_from_their_default() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         SELECT crsql_begin_alter('foo');
         ALTER TABLE foo ADD COLUMN d;
         ALTER TABLE foo ADD COLUMN e DEFAULT 5;
         UPDATE foo SET d=1;
         SELECT crsql_commit_alter('foo')",
    );
    a.query_is("SELECT crsql_db_version()", &["1"]);
    a.changes_are(
        "foo 010901 b 2 1 1 A 1 0
         foo 010901 d 1 1 1 A 1 0
         foo 010901 c 3 1 1 A 1 1",
    );
    a.query_is("SELECT * FROM crsql_master", &["'crsqlite_version', 160300", "'pre_compact_dbversion', 1"]);
}

#[test]
fn c35_dropping_a_column_drops_its_entries_and_db_version_does_not_go_back() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         UPDATE foo SET c=4;
         SELECT crsql_begin_alter('foo');
         ALTER TABLE foo DROP COLUMN c;
         SELECT crsql_commit_alter('foo')",
    );
    a.query_is("SELECT crsql_db_version(), crsql_next_db_version()", &["2, 3"]);
    a.changes_are("foo 010901 b 2 1 1 A 1 0");
}

#[test]
fn c36_a_renamed_column_is_dropped_and_back_filled_at_the_current_db_version() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         INSERT INTO foo VALUES(2,NULL,3);
         SELECT crsql_begin_alter('foo');
         ALTER TABLE foo RENAME b TO bb;
         SELECT crsql_commit_alter('foo')",
    );
    a.changes_are(
        "foo 010901 c 3 1 1 A 1 1
         foo 010901 bb 2 1 2 A 1 0
         foo 010902 c 3 1 2 A 1 1",
    );
}

#[test]
fn c37_rows_deleted_inside_an_alter_get_tombstones_and_old_tombstones_stay() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         INSERT INTO foo VALUES(2,2,3);
         DELETE FROM foo WHERE a=2;
         SELECT crsql_begin_alter('foo');
         DELETE FROM foo WHERE a=1;
         SELECT crsql_commit_alter('foo')",
    );
    // In the reference the row vanishes without a tombstone (D18).
    a.changes_are(
        "foo 010902 -1 NULL 2 3 A 2 0
         foo 010901 -1 NULL 2 4 A 2 0",
    );
}

#[test]
fn c38_a_changed_primary_key_rebuilds_all_entries_and_tombstones_are_lost() {
    let a = Site::new("A", EMPTY);
    a.run(
        "CREATE TABLE t(a NOT NULL,b NOT NULL,c,PRIMARY KEY(a,b));
         SELECT crsql_as_crr('t');
         INSERT INTO t VALUES(1,2,3);
         INSERT INTO t VALUES(4,5,6);
         DELETE FROM t WHERE a=4;
         SELECT crsql_begin_alter('t');
         CREATE TABLE n(a PRIMARY KEY NOT NULL,b,c);
         INSERT INTO n SELECT * FROM t;
         DROP TABLE t;
         ALTER TABLE n RENAME TO t;
         SELECT crsql_commit_alter('t')",
    );
    a.changes_are(
        "t 010901 b 2 1 3 A 1 0
         t 010901 c 3 1 3 A 1 1",
    );
}

#[test]
fn c39_a_key_only_table_that_gains_a_column_keeps_its_sentinels() {
    let a = Site::new("A", P);
    a.run(
        "INSERT INTO p VALUES(1,2);
         SELECT crsql_begin_alter('p');
         ALTER TABLE p ADD COLUMN d DEFAULT 7;
         SELECT crsql_commit_alter('p');
         UPDATE p SET d=8",
    );
    a.changes_are(
        "p 0209010902 -1 NULL 1 1 A 1 0
         p 0209010902 d 8 1 2 A 1 0",
    );
}

// ---- Merging ----

#[test]
fn c40_a_new_row_comes_from_a_peer() {
    let b = Site::new("B", FOO);
    b.merge("foo 010901 b 2 5 9 X 1 3");
    b.changes_are("foo 010901 b 2 5 9 X 1 3");
    b.query_is("SELECT * FROM foo", &["1, 2, NULL"]);
    b.query_is("SELECT ordinal, site_id FROM crsql_site_id", &["0, B", "1, X"]);
    b.query_is("SELECT crsql_db_version()", &["9"]);
}

#[test]
fn c41_replaying_the_same_change_is_a_no_op() {
    let b = Site::new("B", FOO);
    b.merge("foo 010901 b 2 5 9 X 1 3");
    b.merge("foo 010901 b 2 5 9 X 1 3");
    b.query_is("SELECT crsql_db_version()", &["9"]);
    b.changes_are("foo 010901 b 2 5 9 X 1 3");
}

#[test]
fn c42_a_merge_takes_the_larger_of_the_next_local_and_the_incoming_db_version() {
    let b = Site::new("B", FOO);
    b.run(
        "INSERT INTO foo VALUES(5,5,5);
         UPDATE foo SET b=6;
         UPDATE foo SET b=7",
    );
    b.merge("foo 010901 b 2 1 1 X 1 0");
    b.merge("foo 010901 c 3 1 20 X 1 1");
    b.changes_are(
        "foo 010905 c 5 1 1 B 1 1
         foo 010905 b 7 3 3 B 1 0
         foo 010901 b 2 1 4 X 1 0
         foo 010901 c 3 1 20 X 1 1",
    );
}

#[test]
fn c43_many_changes_in_one_transaction_share_one_db_version_that_may_rise_part_way() {
    let b = Site::new("B", FOO);
    b.run("BEGIN");
    b.merge("foo 010901 b 2 1 3 X 1 0");
    b.merge("foo 010902 b 2 1 8 X 1 0");
    b.merge("foo 010903 b 2 1 4 X 1 0");
    b.run("COMMIT");
    b.query_is("SELECT crsql_db_version()", &["8"]);
    b.changes_are(
        "foo 010901 b 2 1 3 X 1 0
         foo 010902 b 2 1 8 X 1 0
         foo 010903 b 2 1 8 X 1 0",
    );
}

#[test]
fn c44_a_merge_and_a_local_write_in_one_transaction_share_a_db_version() {
    let b = Site::new("B", FOO);
    b.run("BEGIN");
    b.merge("foo 010901 b 2 1 1 X 1 7");
    b.run(
        "INSERT INTO foo VALUES(2,4,5);
         COMMIT",
    );
    b.changes_are(
        "foo 010902 b 4 1 1 B 1 0
         foo 010902 c 5 1 1 B 1 1
         foo 010901 b 2 1 1 X 1 7",
    );
}

#[test]
fn c45_a_lower_col_version_loses() {
    let b = Site::new("B", FOO);
    b.run(
        "INSERT INTO foo VALUES(1,2,3);
         UPDATE foo SET b=1",
    );
    b.merge("foo 010901 b 99 1 50 Y 1 0");
    b.changes_are(
        "foo 010901 c 3 1 1 B 1 1
         foo 010901 b 1 2 2 B 1 0",
    );
}

#[test]
fn c46_a_higher_col_version_wins_even_with_a_smaller_value() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    b.merge("foo 010901 b -9 2 1 X 1 0");
    b.changes_are(
        "foo 010901 c 3 1 1 B 1 1
         foo 010901 b -9 2 2 X 1 0",
    );
}

#[test]
fn c47_at_equal_col_version_the_larger_value_wins() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    b.merge("foo 010901 b 3 1 1 X 1 0");
    b.merge("foo 010901 c 2 1 1 Y 1 0");
    b.changes_are(
        "foo 010901 c 3 1 1 B 1 1
         foo 010901 b 3 1 2 X 1 0",
    );
}

#[test]
fn c48_equal_col_version_and_equal_value_is_a_no_op_whatever_the_site() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    b.merge("foo 010901 b 2 1 40 Y 1 0");
    b.query_is("SELECT crsql_db_version()", &["1"]);
    b.changes_are(
        "foo 010901 b 2 1 1 B 1 0
         foo 010901 c 3 1 1 B 1 1",
    );
}

#[test]
fn c49_with_merge_equal_values_the_larger_site_id_takes_the_entry() {
    let b = Site::new("B", FOO);
    b.query_is("SELECT crsql_config_set('merge-equal-values',1)", &["1"]);
    b.merge("foo 010901 b 5 1 1 X 1 0");
    b.merge("foo 010901 b 5 1 7 Y 1 2");
    b.merge("foo 010901 b 5 1 9 X 1 0");
    b.changes_are("foo 010901 b 5 1 7 Y 1 2");
}

#[test]
fn c50_an_integer_beats_a_real() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,9.5,1)");
    b.merge("foo 010901 b -5 1 1 X 1 0");
    b.merge("foo 010901 c 99.5 1 1 X 1 0");
    b.changes_are(
        "foo 010901 c 1 1 1 B 1 1
         foo 010901 b -5 1 2 X 1 0",
    );
}

#[test]
fn c51_real_beats_text_beats_blob_beats_null() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,NULL,'zzz')");
    b.merge("foo 010901 b x'ff' 1 1 X 1 0");
    b.merge("foo 010901 b '' 1 2 X 1 0");
    b.merge("foo 010901 b -1000000000.0 1 3 X 1 0");
    b.merge("foo 010901 c x'ffff' 1 3 X 1 1");
    b.changes_are(
        "foo 010901 c 'zzz' 1 1 B 1 1
         foo 010901 b -1000000000.0 1 4 X 1 0",
    );
}

#[test]
fn c52_text_compares_by_utf_8_bytes() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,'Z','ab')");
    b.merge("foo 010901 b 'a' 1 1 X 1 0");
    b.merge("foo 010901 c 'b' 1 1 X 1 0");
    b.changes_are(
        "foo 010901 b 'a' 1 2 X 1 0
         foo 010901 c 'b' 1 3 X 1 0",
    );
}

#[test]
fn c53_a_delete_merges_over_a_live_row() {
    let b = Site::new("B", FOO);
    b.run(
        "INSERT INTO foo VALUES(1,2,3);
         UPDATE foo SET b=5",
    );
    b.merge("foo 010901 -1 NULL 2 1 X 2 4");
    b.changes_are("foo 010901 -1 NULL 2 3 X 2 4");
    b.query_is("SELECT * FROM foo", &[]);
    b.query_is("SELECT * FROM foo__crsql_clock", &["1, '-1', 2, 3, 1, 4"]);
}

#[test]
fn c54_a_delete_of_a_row_never_seen_is_remembered() {
    let b = Site::new("B", FOO);
    b.merge("foo 010901 -1 NULL 2 4 X 2 0");
    b.changes_are("foo 010901 -1 NULL 2 4 X 2 0");
    b.query_is("SELECT * FROM foo__crsql_pks", &["1, 1"]);
}

#[test]
fn c55_a_delete_at_the_same_cl_is_a_no_op() {
    let b = Site::new("B", FOO);
    b.run(
        "INSERT INTO foo VALUES(1,2,3);
         DELETE FROM foo",
    );
    b.merge("foo 010901 -1 NULL 2 40 Y 2 0");
    b.changes_are("foo 010901 -1 NULL 2 2 B 2 0");
}

#[test]
fn c56_a_lower_cl_is_ignored_entirely() {
    let b = Site::new("B", FOO);
    b.run(
        "INSERT INTO foo VALUES(1,2,3);
         DELETE FROM foo",
    );
    b.merge("foo 010901 b 9 99 40 Y 1 0");
    b.merge("foo 010955 b 9 1 40 Y 0 0");
    b.changes_are("foo 010901 -1 NULL 2 2 B 2 0");
    // The reference also keeps a key for the row it has not created (D11).
    b.query_is("SELECT * FROM foo__crsql_pks", &["1, 1"]);
}

#[test]
fn c57_a_sentinel_with_a_higher_odd_cl_over_a_live_row_zeroes_the_columns_and_keeps_the_values() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    b.merge("foo 010901 -1 NULL 3 1 X 3 2");
    b.changes_are(
        "foo 010901 b 2 0 2 B 3 0
         foo 010901 c 3 0 2 B 3 1
         foo 010901 -1 NULL 3 2 X 3 2",
    );
    b.query_is("SELECT * FROM foo", &["1, 2, 3"]);
}

#[test]
fn c58_a_column_with_a_higher_odd_cl_over_a_live_row_raises_the_sentinel_and_zeroes_the_other_columns() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    b.merge("foo 010901 b 9 1 1 X 3 5");
    b.changes_are(
        "foo 010901 c 3 0 2 B 3 1
         foo 010901 -1 NULL 3 2 X 3 5
         foo 010901 b 9 1 2 X 3 5",
    );
    b.query_is("SELECT * FROM foo", &["1, 9, 3"]);
}

#[test]
fn c59_a_column_with_a_higher_odd_cl_brings_a_dead_row_back() {
    let b = Site::new("B", FOO);
    b.run(
        "INSERT INTO foo VALUES(1,2,3);
         DELETE FROM foo",
    );
    b.merge("foo 010901 b 9 4 1 X 3 5");
    b.changes_are(
        "foo 010901 -1 NULL 3 3 X 3 5
         foo 010901 b 9 4 3 X 3 5",
    );
    b.query_is("SELECT * FROM foo", &["1, 9, NULL"]);
}

#[test]
fn c60_a_column_of_an_unknown_row_with_cl_3_makes_up_its_sentinel() {
    let b = Site::new("B", FOO);
    b.merge("foo 010901 b 2 5 9 X 3 3");
    b.merge("foo 010901 c 7 1 9 X 3 4");
    b.changes_are(
        "foo 010901 -1 NULL 3 9 X 3 3
         foo 010901 b 2 5 9 X 3 3
         foo 010901 c 7 1 10 X 3 4",
    );
}

#[test]
fn c61_a_sentinel_with_cl_1_for_a_row_already_alive_at_cl_1_is_a_no_op() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    b.merge("foo 010901 -1 NULL 1 9 X 1 0");
    b.changes_are(
        "foo 010901 b 2 1 1 B 1 0
         foo 010901 c 3 1 1 B 1 1",
    );
}

#[test]
fn c62_a_sentinel_with_cl_1_for_an_unknown_row_of_a_table_with_columns_gives_a_row_of_defaults() {
    let b = Site::new("B", FOO);
    b.merge("foo 010901 -1 NULL 1 4 X 1 0");
    b.changes_are("foo 010901 -1 NULL 1 4 X 1 0");
    b.query_is("SELECT * FROM foo", &["1, NULL, NULL"]);
}

#[test]
fn c63_a_null_or_empty_site_id_means_local() {
    let b = Site::new("B", FOO);
    b.merge("foo 010901 b 1 1 4 NULL 1 0");
    b.merge("foo 010902 b 1 1 4 empty 1 0");
    b.merge("foo 010903 b 1 1 4 own 1 0");
    b.changes_are(
        "foo 010901 b 1 1 4 B 1 0
         foo 010902 b 1 1 5 B 1 0
         foo 010903 b 1 1 6 B 1 0",
    );
    b.query_is("SELECT key, site_id FROM foo__crsql_clock", &["1, 0", "2, 0", "3, 0"]);
}

#[test]
fn c64_a_site_id_longer_than_16_bytes_is_refused() {
    let b = Site::new("B", FOO);
    let error = b.refusal("foo 010901 b 1 1 4 zeroblob(17) 1 0");
    assert!(error.contains("site id"), "{error}");
    b.no_changes();
}

#[test]
fn c65_an_unknown_table_or_column_and_a_key_column_as_cid_are_refused() {
    let b = Site::new("B", FOO);
    for (change, culprit) in [
        ("nope 010901 b 1 1 4 X 1 0", "nope"),
        ("foo 010901 zz 1 1 4 X 1 0", "zz"),
        ("foo 010901 a 1 1 4 X 1 0", "a"),
        ("FOO 010901 b 1 1 4 X 1 0", "FOO"),
    ] {
        let error = b.refusal(change);
        assert!(error.contains(culprit), "{change}: {error}");
    }
    b.no_changes();
    b.query_is("SELECT count(*) FROM foo__crsql_pks", &["0"]);
}

#[test]
fn c66_a_delete_stores_its_cl_and_not_its_col_version() {
    let b = Site::new("B", FOO);
    b.merge("foo 010901 -1 NULL 7 4 X 4 0");
    // The reference stores 7 (D5).
    b.changes_are("foo 010901 -1 NULL 4 4 X 4 0");
}

#[test]
fn c67_a_column_entry_with_an_even_cl_is_the_delete_of_that_cl() {
    let b = Site::new("B", FOO);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    b.merge("foo 010901 b 9 1 4 X 2 0");
    // The reference stores an odd sentinel for the row it has deleted (D5).
    b.changes_are("foo 010901 -1 NULL 2 4 X 2 0");
    b.query_is("SELECT * FROM foo", &[]);
}

#[test]
fn c68_rows_impacted_counts_winners_and_a_resurrecting_column_twice() {
    let b = Site::new("B", FOO);
    b.run("BEGIN");
    b.merge("foo 010901 b 1 1 1 X 1 0");
    b.merge("foo 010901 b 1 1 1 X 1 0");
    b.merge("foo 010902 b 1 1 1 X 3 0");
    b.query_is("SELECT crsql_rows_impacted()", &["3"]);
    b.run("COMMIT");
    b.query_is("SELECT crsql_rows_impacted()", &["0"]);
}

#[test]
fn c69_a_concurrent_edit_converges_both_ways() {
    let a = Site::new("A", FOO);
    let b = Site::new("B", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    b.pull_from(&a, 0);
    a.run("UPDATE foo SET b=10");
    b.run("UPDATE foo SET b=20");
    b.pull_from(&a, 0);
    a.pull_from(&b, 0);
    a.changes_are(
        "foo 010901 c 3 1 1 A 1 1
         foo 010901 b 20 2 3 B 1 0",
    );
    b.changes_are(
        "foo 010901 c 3 1 1 A 1 1
         foo 010901 b 20 2 2 B 1 0",
    );
}

#[test]
fn c70_a_delete_on_a_wins_over_a_concurrent_update_on_b() {
    let a = Site::new("A", FOO);
    let b = Site::new("B", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    b.pull_from(&a, 0);
    a.run("DELETE FROM foo");
    b.run(
        "UPDATE foo SET b=20;
         UPDATE foo SET b=21",
    );
    b.pull_from(&a, 0);
    a.pull_from(&b, 0);
    a.changes_are("foo 010901 -1 NULL 2 2 A 2 0");
    b.changes_are("foo 010901 -1 NULL 2 4 A 2 0");
}

#[test]
fn c71_delete_and_re_insert_on_a_beat_updates_on_b() {
    let a = Site::new("A", FOO);
    let b = Site::new("B", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    b.pull_from(&a, 0);
    a.run(
        "DELETE FROM foo;
         INSERT INTO foo VALUES(1,0,0)",
    );
    b.run(
        "UPDATE foo SET b=20;
         UPDATE foo SET b=21",
    );
    b.pull_from(&a, 0);
    a.pull_from(&b, 0);
    a.changes_are(
        "foo 010901 -1 NULL 3 3 A 3 0
         foo 010901 b 0 1 3 A 3 1
         foo 010901 c 0 1 3 A 3 2",
    );
    b.changes_are(
        "foo 010901 -1 NULL 3 4 A 3 0
         foo 010901 b 0 1 4 A 3 1
         foo 010901 c 0 1 4 A 3 2",
    );
}

#[test]
fn c72_the_site_id_of_the_author_survives_a_relay() {
    let a = Site::new("A", FOO);
    let b = Site::new("B", FOO);
    let c = Site::new("C", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    b.pull_from(&a, 0);
    c.pull_from(&b, 0);
    c.changes_are(
        "foo 010901 b 2 1 1 A 1 0
         foo 010901 c 3 1 1 A 1 1",
    );
}

#[test]
fn c73_a_key_only_table_makes_a_round_trip() {
    let a = Site::new("A", P);
    let b = Site::new("B", P);
    a.run("INSERT INTO p VALUES(1,2)");
    b.pull_from(&a, 0);
    b.run("DELETE FROM p");
    a.pull_from(&b, 0);
    a.run("INSERT INTO p VALUES(1,2)");
    b.pull_from(&a, 0);
    b.changes_are("p 0209010902 -1 NULL 3 3 A 3 0");
    b.query_is("SELECT * FROM p", &["1, 2"]);
}

#[test]
fn c74_an_incremental_sync_after_a_key_change_brings_the_columns_along() {
    let a = Site::new("A", FOO);
    let b = Site::new("B", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    b.pull_from(&a, 0);
    a.run("UPDATE foo SET a=7");
    b.pull_from(&a, 1);
    a.query_is("SELECT * FROM foo", &["7, 2, 3"]);
    // The reference leaves (7, NULL, NULL) at B (D1).
    b.query_is("SELECT * FROM foo", &["7, 2, 3"]);
    b.changes_are(
        "foo 010901 -1 NULL 2 2 A 2 0
         foo 010907 -1 NULL 1 2 A 1 1
         foo 010907 b 2 1 2 A 1 2
         foo 010907 c 3 1 2 A 1 3",
    );
}

#[test]
fn c75_an_entry_whose_row_is_gone_is_read_with_its_cid_and_a_null_value() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         SELECT crsql_internal_sync_bit(1);
         DELETE FROM foo;
         SELECT crsql_internal_sync_bit(0)",
    );
    a.changes_are(
        "foo 010901 b NULL 1 1 A 1 0
         foo 010901 c NULL 1 1 A 1 1",
    );
}

#[test]
fn c76_merging_into_an_entry_whose_row_is_gone_fails_at_an_equal_version_and_heals_at_a_higher_one() {
    let a = Site::new("A", FOO);
    a.run(
        "INSERT INTO foo VALUES(1,2,3);
         SELECT crsql_internal_sync_bit(1);
         DELETE FROM foo;
         SELECT crsql_internal_sync_bit(0)",
    );
    let error = a.refusal("foo 010901 b 9 1 1 X 1 0");
    assert!(error.contains("foo"), "{error}");
    a.merge("foo 010901 b 9 2 1 X 1 0");
    a.changes_are(
        "foo 010901 c NULL 1 1 A 1 1
         foo 010901 b 9 2 2 X 1 0",
    );
    a.query_is("SELECT * FROM foo", &["1, 9, NULL"]);
}
