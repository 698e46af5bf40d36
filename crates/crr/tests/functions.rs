//! The SQL functions of the engine: what they return, what they refuse, and from where they may be called.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use rusqlite::ffi;
use rusqlite::functions::FunctionFlags;
use site::{EMPTY, FOO, Site};

#[test]
fn functions_may_be_called_from_where_the_reference_allows_it() {
    let a = Site::new("A", EMPTY);
    let innocuous = [
        "crsql_after_delete",
        "crsql_after_insert",
        "crsql_after_update",
        "crsql_config_get",
        "crsql_db_version",
        "crsql_fract_fix_conflict_return_old_key",
        "crsql_fract_key_between",
        "crsql_get_seq",
        "crsql_increment_and_get_seq",
        "crsql_internal_sync_bit",
        "crsql_next_db_version",
        "crsql_rows_impacted",
        "crsql_sha",
        "crsql_site_id",
    ];
    let ordinary = [
        "crsql_as_crr",
        "crsql_as_table",
        "crsql_automigrate",
        "crsql_config_set",
        "crsql_digest",
        "crsql_pack_columns",
    ];
    let direct_only = ["crsql_begin_alter", "crsql_commit_alter", "crsql_finalize", "crsql_fract_as_ordered"];
    let deterministic =
        ["crsql_as_crr", "crsql_config_get", "crsql_fract_key_between", "crsql_get_seq", "crsql_sha", "crsql_site_id"];
    let flags = |name: &str| -> FunctionFlags {
        let sql = "SELECT DISTINCT flags FROM pragma_function_list WHERE name = ?";
        FunctionFlags::from_bits_retain(a.conn.query_one(sql, [name], |row| row.get(0)).unwrap())
    };
    for name in innocuous {
        assert!(flags(name).contains(FunctionFlags::SQLITE_INNOCUOUS), "{name}");
    }
    for name in ordinary {
        assert!(!flags(name).intersects(FunctionFlags::SQLITE_INNOCUOUS | FunctionFlags::SQLITE_DIRECTONLY), "{name}");
    }
    for name in direct_only {
        assert!(flags(name).contains(FunctionFlags::SQLITE_DIRECTONLY), "{name}");
    }
    for name in [&innocuous[..], &ordinary, &direct_only].concat() {
        let expected = deterministic.contains(&name);
        assert_eq!(flags(name).contains(FunctionFlags::SQLITE_DETERMINISTIC), expected, "{name}");
    }
    let all = a.query("SELECT DISTINCT name FROM pragma_function_list WHERE name LIKE 'crsql!_%' ESCAPE '!'");
    assert_eq!(all.len(), innocuous.len() + ordinary.len() + direct_only.len(), "{all:?}");
}

#[test]
fn a_direct_only_function_is_refused_in_a_view() {
    let a = Site::new("A", EMPTY);
    a.run("CREATE VIEW v AS SELECT crsql_finalize()");
    a.error("SELECT * FROM v");
}

#[test]
fn an_ordinary_function_is_refused_in_a_view_when_the_schema_is_not_trusted() {
    let a = Site::new("A", EMPTY);
    a.run("CREATE VIEW v AS SELECT crsql_pack_columns(1) AS packed; SELECT * FROM v; PRAGMA trusted_schema = off");
    a.error("SELECT * FROM v");
}

#[test]
fn functions_refuse_a_wrong_number_of_arguments() {
    let a = Site::new("A", EMPTY);
    for call in [
        "crsql_as_crr()",
        "crsql_as_table()",
        "crsql_as_table('main', 'foo')",
        "crsql_begin_alter()",
        "crsql_commit_alter()",
        "crsql_automigrate()",
        "crsql_automigrate('', '', '')",
        "crsql_fract_as_ordered()",
        "crsql_fract_as_ordered('foo')",
        "crsql_fract_key_between('a0')",
        "crsql_fract_fix_conflict_return_old_key('foo', 'b', -1)",
        "crsql_sha(1)",
        "crsql_db_version(1)",
        "crsql_site_id(1)",
        "crsql_get_seq(1)",
        "crsql_increment_and_get_seq(1)",
        "crsql_rows_impacted(1)",
        "crsql_config_set('merge-equal-values')",
        "crsql_config_get()",
        "crsql_after_insert()",
        "crsql_after_update()",
        "crsql_after_delete()",
    ] {
        a.error(&format!("SELECT {call}"));
    }
}

// ---- Versions ----

#[test]
fn crsql_db_version_stays_where_it_was_until_the_commit() {
    let a = Site::new("A", FOO);
    a.query_is("SELECT crsql_db_version()", &["0"]);
    a.run("BEGIN; INSERT INTO foo VALUES(1,2,3)");
    a.query_is("SELECT crsql_db_version(), crsql_next_db_version()", &["0, 1"]);
    a.run("COMMIT");
    a.query_is("SELECT crsql_db_version()", &["1"]);
}

#[test]
fn crsql_next_db_version_is_the_same_throughout_a_transaction_unless_raised() {
    let a = Site::new("A", FOO);
    a.run("BEGIN");
    a.query_is("SELECT crsql_next_db_version(), crsql_next_db_version()", &["1, 1"]);
    a.query_is("SELECT crsql_next_db_version(7)", &["7"]);
    a.query_is("SELECT crsql_next_db_version(3)", &["7"]);
    a.query_is("SELECT crsql_next_db_version()", &["7"]);
    a.run("INSERT INTO foo VALUES(1,2,3); COMMIT");
    a.query_is("SELECT crsql_db_version(), crsql_next_db_version()", &["7, 8"]);
}

#[test]
fn a_pending_version_is_dropped_by_a_rollback() {
    let a = Site::new("A", FOO);
    a.run("BEGIN; INSERT INTO foo VALUES(1,2,3); SELECT crsql_next_db_version(50); ROLLBACK");
    a.query_is("SELECT crsql_next_db_version()", &["1"]);
}

#[test]
fn a_version_asked_for_outside_a_transaction_waits_for_the_next_write() {
    let a = Site::new("A", FOO);
    a.run("SELECT crsql_next_db_version(10); INSERT INTO foo VALUES(1,2,3)");
    a.query_is("SELECT crsql_db_version()", &["10"]);
}

#[test]
fn crsql_next_db_version_cannot_be_raised_past_the_largest_version() {
    let a = Site::new("A", FOO);
    let outcome = a.try_run("SELECT crsql_next_db_version(9223372036854775807)");
    a.run("INSERT INTO foo VALUES(1,2,3); INSERT INTO foo VALUES(2,2,3)");
    let versions = a.query("SELECT min(db_version) > 0, count(DISTINCT db_version) FROM crsql_changes");
    assert_eq!(versions, ["1, 2"], "after {outcome:?}");
}

// ---- Sequence numbers ----

#[test]
fn sequence_numbers_count_up_in_a_transaction_and_start_again_after_it() {
    let a = Site::new("A", FOO);
    a.run("BEGIN");
    a.query_is("SELECT crsql_get_seq()", &["0"]);
    a.query_is("SELECT crsql_get_seq()", &["0"]);
    a.query_is("SELECT crsql_increment_and_get_seq()", &["0"]);
    a.query_is("SELECT crsql_increment_and_get_seq()", &["1"]);
    a.query_is("SELECT crsql_get_seq()", &["2"]);
    a.run("INSERT INTO foo VALUES(1,2,3); COMMIT");
    a.changes_are("foo 010901 b 2 1 1 A 1 2\nfoo 010901 c 3 1 1 A 1 3");
    a.query_is("SELECT crsql_get_seq()", &["0"]);
}

// ---- Identity ----

#[test]
fn crsql_site_id_is_the_local_id_and_may_be_used_in_a_default_or_a_trigger() {
    let a = Site::new("A", EMPTY);
    a.query_is("SELECT crsql_site_id(), typeof(crsql_site_id())", &["A, 'blob'"]);
    a.run("CREATE TABLE mine(a, by DEFAULT (crsql_site_id())); INSERT INTO mine(a) VALUES(1)");
    a.query_is("SELECT by FROM mine", &["A"]);
    a.run("CREATE VIEW me AS SELECT crsql_site_id() AS id; PRAGMA trusted_schema = off");
    a.query_is("SELECT id FROM me", &["A"]);
}

// ---- The sync bit ----

#[test]
fn the_sync_bit_is_set_by_one_argument_and_read_otherwise() {
    let a = Site::new("A", EMPTY);
    a.query_is("SELECT crsql_internal_sync_bit()", &["0"]);
    a.query_is("SELECT crsql_internal_sync_bit(1)", &["1"]);
    a.query_is("SELECT crsql_internal_sync_bit()", &["1"]);
    a.query_is("SELECT crsql_internal_sync_bit(0, 0)", &["1"]);
    a.query_is("SELECT crsql_internal_sync_bit(0)", &["0"]);
    let other = Site::new("B", EMPTY);
    a.run("SELECT crsql_internal_sync_bit(1)");
    other.query_is("SELECT crsql_internal_sync_bit()", &["0"]);
}

// ---- Triggers' functions ----

#[test]
fn the_functions_of_the_triggers_refuse_unknown_tables_and_misfitting_arguments() {
    let a = Site::new("A", FOO);
    for call in [
        "crsql_after_insert('nope', 1)",
        "crsql_after_update('nope', 1, 1)",
        "crsql_after_delete('nope', 1)",
        "crsql_after_insert(NULL, 1)",
        "crsql_after_insert('foo')",
        "crsql_after_insert('foo', 1, 2)",
        "crsql_after_delete('foo')",
        "crsql_after_delete('foo', 1, 2)",
        "crsql_after_update('foo', 1, 1)",
        "crsql_after_update('foo', 1, 1, 2, 3, 2)",
    ] {
        a.error(&format!("SELECT {call}"));
    }
    a.no_changes();
    a.query_is("SELECT count(*) FROM foo__crsql_pks", &["0"]);
}

#[test]
fn the_functions_of_the_triggers_return_0() {
    let a = Site::new("A", FOO);
    a.query_is("SELECT crsql_after_insert('foo', 1)", &["0"]);
    a.query_is("SELECT crsql_after_update('foo', 1, 1, 5, 6, 2, 3)", &["0"]);
    a.query_is("SELECT crsql_after_delete('foo', 1)", &["0"]);
}

// ---- Packed columns ----

#[test]
fn crsql_pack_columns_writes_the_bytes_of_the_reference() {
    let a = Site::new("A", EMPTY);
    for (values, bytes) in [
        ("1", "010901"),
        ("0", "0101"),
        ("-1", "0141ffffffffffffffff"),
        ("-128", "0141ffffffffffffff80"),
        ("127", "01097f"),
        ("128", "010980"),
        ("200", "0109c8"),
        ("255", "0109ff"),
        ("256", "01110100"),
        ("32767", "01117fff"),
        ("65535", "0111ffff"),
        ("65536", "0119010000"),
        ("16777215", "0119ffffff"),
        ("16777216", "012101000000"),
        ("2147483647", "01217fffffff"),
        ("2147483648", "012180000000"),
        ("4294967295", "0121ffffffff"),
        ("4294967296", "01290100000000"),
        ("9223372036854775807", "01417fffffffffffffff"),
        ("-9223372036854775807 - 1", "01418000000000000000"),
        ("1.5", "01023ff8000000000000"),
        ("-1.5", "0102bff8000000000000"),
        ("0.1", "01023fb999999999999a"),
        ("9e999", "01027ff0000000000000"),
        ("''", "0103"),
        ("x''", "0104"),
        ("NULL", "0105"),
        ("'é'", "010b02c3a9"),
        ("x'00ff'", "010c0200ff"),
        ("12, 'str', x'010203'", "03090c0b037374720c03010203"),
        ("'a' || char(0) || 'b'", "010b03610062"),
        ("", "00"),
    ] {
        a.query_is(&format!("SELECT crsql_pack_columns({values})"), &[&format!("x'{bytes}'")]);
    }
    a.query_is(
        "SELECT substr(hex(crsql_pack_columns(replace(hex(zeroblob(35000)), '0', 'a'))), 1, 14)",
        &["'011B0111706161'"],
    );
    a.query_is("SELECT substr(hex(crsql_pack_columns(zeroblob(200))), 1, 8)", &["'010CC800'"]);
}

#[test]
fn crsql_pack_columns_keeps_the_sign_of_zero() {
    let a = Site::new("A", EMPTY);
    let bytes: Vec<u8> = a.conn.query_row("SELECT crsql_pack_columns(?)", [-0.0], |row| row.get(0)).unwrap();
    assert_eq!(site::hex(&bytes), "01028000000000000000");
}

// ---- Settings ----

#[test]
fn merge_equal_values_is_the_one_setting() {
    let a = Site::new("A", EMPTY);
    a.query_is("SELECT crsql_config_get('merge-equal-values')", &["0"]);
    a.query_is("SELECT crsql_config_set('merge-equal-values', 1)", &["1"]);
    a.query_is("SELECT crsql_config_get('merge-equal-values')", &["1"]);
    a.query_is("SELECT value FROM crsql_master WHERE key = 'config.merge-equal-values'", &["1"]);
    a.query_is("SELECT crsql_config_set('merge-equal-values', 0)", &["0"]);
    a.query_is("SELECT value FROM crsql_master WHERE key = 'config.merge-equal-values'", &["0"]);
    a.error("SELECT crsql_config_set('something-else', 1)");
    a.error("SELECT crsql_config_get('something-else')");
    a.error("SELECT crsql_config_get(NULL)");
    a.query_is("SELECT count(*) FROM crsql_master WHERE key LIKE 'config.%'", &["1"]);
}

#[test]
fn only_1_switches_merge_equal_values_on() {
    let b = Site::new("B", FOO);
    b.run("SELECT crsql_config_set('merge-equal-values', 2)");
    b.merge("foo 010901 b 5 1 1 X 1 0");
    b.merge("foo 010901 b 5 1 7 Y 1 2");
    b.changes_are("foo 010901 b 5 1 1 X 1 0");
}

#[test]
fn a_setting_rolled_back_is_not_in_force() {
    let b = Site::new("B", FOO);
    b.run("BEGIN; SELECT crsql_config_set('merge-equal-values', 1); ROLLBACK");
    b.query_is("SELECT crsql_config_get('merge-equal-values')", &["0"]);
    b.merge("foo 010901 b 5 1 1 X 1 0");
    b.merge("foo 010901 b 5 1 7 Y 1 2");
    b.changes_are("foo 010901 b 5 1 1 X 1 0");
}

// ---- rows_impacted ----

#[test]
fn rows_impacted_is_0_outside_a_merging_transaction() {
    let b = Site::new("B", FOO);
    b.query_is("SELECT crsql_rows_impacted()", &["0"]);
    b.run("INSERT INTO foo VALUES(1,2,3)");
    b.query_is("SELECT crsql_rows_impacted()", &["0"]);
    b.run("BEGIN");
    b.merge("foo 010901 -1 NULL 2 1 X 2 0");
    b.query_is("SELECT crsql_rows_impacted()", &["1"]);
    b.run("COMMIT");
    b.query_is("SELECT crsql_rows_impacted()", &["0"]);
}

// ---- Tables ----

#[test]
fn functions_that_take_a_table_say_ok_or_nothing() {
    let a = Site::new("A", "CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b)");
    a.query_is("SELECT crsql_as_crr('main', 'foo')", &["'OK'"]);
    a.query_is("SELECT crsql_as_crr('foo', 'and', 'more')", &["'OK'"]);
    a.query_is("SELECT crsql_begin_alter('main', 'foo')", &["'OK'"]);
    a.query_is("SELECT crsql_commit_alter('main', 'foo')", &["NULL"]);
    a.query_is("SELECT crsql_fract_as_ordered('foo', 'b')", &["NULL"]);
    a.query_is("SELECT crsql_as_table('foo')", &["NULL"]);
    a.query_is("SELECT crsql_as_table('foo')", &["NULL"]);
    a.query_is("SELECT crsql_as_table('no_such_table')", &["NULL"]);
    assert_eq!(a.crr().tables().unwrap(), Vec::<String>::new());
}

#[test]
fn a_name_that_is_no_text_names_no_table() {
    let a = Site::new("A", FOO);
    for function in ["crsql_as_crr", "crsql_as_table", "crsql_begin_alter", "crsql_commit_alter"] {
        for name in ["NULL", "1", "x'00ff'"] {
            let error = a.error(&format!("SELECT {function}({name})"));
            assert!(error.contains(function), "{error}");
        }
    }
    assert!(a.conn.is_autocommit());
}

// ---- The build, and the end ----

#[test]
fn crsql_sha_tells_the_build() {
    let a = Site::new("A", EMPTY);
    a.query_is("SELECT crsql_sha() = crsql_sha(), length(crsql_sha()) > 0", &["1, 1"]);
}

/// The statements that are prepared on a connection.
fn open_statements(site: &Site) -> usize {
    // SAFETY: the connection is open, and nobody else uses it.
    #[allow(unsafe_code, reason = "rusqlite doesn't list statements")]
    let next = |after| unsafe { ffi::sqlite3_next_stmt(site.conn.handle(), after) };
    std::iter::successors(Some(next(std::ptr::null_mut())), |last| Some(next(*last)))
        .take_while(|statement| !statement.is_null())
        .count()
}

#[test]
fn crsql_finalize_leaves_no_statement_open() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    a.merge("foo 010901 b 1 5 1 X 5 0");
    a.conn.flush_prepared_statement_cache();
    assert!(open_statements(&a) > 0);
    a.run("SELECT crsql_finalize()");
    assert_eq!(open_statements(&a), 0);
}

#[test]
fn a_connection_that_was_busy_when_it_should_close_closes_later() {
    let a = Site::new("A", FOO);
    // SAFETY: the first attempt to close fails, so that the connection stays open; the second is rusqlite's. The statement is
    // finalized before.
    #[allow(unsafe_code, reason = "rusqlite doesn't close a connection that has statements")]
    unsafe {
        let (handle, mut reading) = (a.conn.handle(), std::ptr::null_mut());
        let prepared =
            ffi::sqlite3_prepare_v2(handle, c"SELECT 1".as_ptr(), -1, &raw mut reading, std::ptr::null_mut());
        assert_eq!(prepared, ffi::SQLITE_OK);
        assert_eq!(ffi::sqlite3_close(handle), ffi::SQLITE_BUSY);
        a.run("INSERT INTO foo VALUES(1,2,3)");
        ffi::sqlite3_finalize(reading);
    }
    a.conn.close().map_err(|(_, error)| error).unwrap();
}

#[test]
fn crsql_finalize_lets_go_of_statements_and_the_connection_closes() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    a.query_is("SELECT crsql_finalize()", &["'finalized'"]);
    a.query_is("SELECT crsql_finalize('whatever', 2)", &["'finalized'"]);
    // In the reference most functions fail from here on.
    a.run("UPDATE foo SET b = 4");
    assert_eq!(a.changes().len(), 2);
    a.run("SELECT crsql_finalize()");
    a.conn.close().unwrap();
}
