//! Loading the engine: what it sets up, what it upgrades and what it refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use crr::{Crr, SiteId};
use rusqlite::{Connection, OpenFlags};
use site::{FOO, Site, site};

#[test]
fn a_new_database_gets_the_system_tables_and_a_random_site_id() {
    let conn = Connection::open_in_memory().unwrap();
    let id = crr::load(&conn).unwrap().site_id().unwrap();
    // UUID version 4, variant 1.
    assert_eq!(id.as_bytes()[6] >> 4, 4);
    assert_eq!(id.as_bytes()[8] >> 6, 2);
    let other = Connection::open_in_memory().unwrap();
    assert_ne!(crr::load(&other).unwrap().site_id().unwrap(), id);

    let new = Site { conn, id };
    new.query_is("SELECT key, value, typeof(value) FROM crsql_master", &["'crsqlite_version', 160300, 'integer'"]);
    new.query_is("SELECT ordinal FROM crsql_site_id", &["0"]);
    let columns = |table: &str| {
        let columns = "name, type, coalesce(dflt_value, '-'), pk";
        new.query(&format!("SELECT {columns} FROM pragma_table_info('{table}')"))
    };
    assert_eq!(
        columns("crsql_tracked_peers"),
        [
            "'site_id', 'BLOB', '-', 1",
            "'version', 'INTEGER', '-', 0",
            "'seq', 'INTEGER', '0', 0",
            "'tag', 'INTEGER', '-', 2",
            "'event', 'INTEGER', '-', 3",
        ]
    );
    assert_eq!(columns("crsql_master"), ["'key', 'TEXT', '-', 1", "'value', 'ANY', '-', 0"]);
    assert_eq!(columns("crsql_site_id"), ["'site_id', 'BLOB', '-', 0", "'ordinal', 'INTEGER', '-', 1"]);
    new.error("INSERT INTO crsql_tracked_peers VALUES (NULL, 1, 0, 0, 0)");
    new.error("INSERT INTO crsql_tracked_peers VALUES (x'00', NULL, 0, 0, 0)");
    new.error("INSERT INTO crsql_tracked_peers VALUES (x'00', 1, 0, NULL, 0)");
    new.error("INSERT INTO crsql_tracked_peers VALUES (x'00', 1, 0, 0, NULL)");
    new.query_is(
        "SELECT name, strict, wr FROM pragma_table_list WHERE name LIKE 'crsql%' AND type = 'table' ORDER BY 1",
        &["'crsql_master', 0, 0", "'crsql_site_id', 0, 0", "'crsql_tracked_peers', 1, 0"],
    );
    new.query_is(r#"SELECT name, "unique" FROM pragma_index_list('crsql_site_id')"#, &["'crsql_site_id_site_id', 1"]);
    new.query_is("SELECT name FROM pragma_index_info('crsql_site_id_site_id')", &["'site_id'"]);
}

#[test]
fn a_crr_has_the_side_tables_and_triggers_of_the_reference() {
    let t = Site::new("A", site::T);
    let columns = |table: &str| {
        t.query(&format!(
            r#"SELECT name, type, "notnull", coalesce(dflt_value, '-'), pk FROM pragma_table_info('{table}')"#
        ))
    };
    assert_eq!(
        columns("t__crsql_clock"),
        [
            "'key', 'INTEGER', 1, '-', 1",
            "'col_name', 'TEXT', 1, '-', 2",
            "'col_version', 'INTEGER', 1, '-', 0",
            "'db_version', 'INTEGER', 1, '-', 0",
            "'site_id', 'INTEGER', 1, '0', 0",
            "'seq', 'INTEGER', 1, '-', 0",
        ]
    );
    assert_eq!(
        columns("t__crsql_pks"),
        ["'__crsql_key', 'INTEGER', 0, '-', 1", "'y', '', 0, '-', 0", "'x', '', 0, '-', 0"]
    );
    t.query_is(
        "SELECT name, strict, wr FROM pragma_table_list WHERE name LIKE 't\\_\\_%' ESCAPE '\\' ORDER BY 1",
        &["'t__crsql_clock', 1, 1", "'t__crsql_pks', 0, 0"],
    );
    t.query_is("SELECT name FROM pragma_index_info('t__crsql_clock_dbv_idx')", &["'db_version'"]);
    t.query_is("SELECT name FROM pragma_index_info('t__crsql_pks_pks')", &["'y'", "'x'"]);
    t.query_is(
        "SELECT name FROM sqlite_schema WHERE type = 'trigger' ORDER BY 1",
        &["'t__crsql_dtrig'", "'t__crsql_itrig'", "'t__crsql_utrig'"],
    );
    for trigger in t.query("SELECT sql FROM sqlite_schema WHERE type = 'trigger'") {
        let flat: String = trigger.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("FOR EACH ROW") && flat.contains("crsql_internal_sync_bit() = 0"), "{flat}");
        assert!(flat.contains("VALUES") || flat.contains("values"), "{flat}");
    }
}

#[test]
fn loading_twice_changes_nothing() {
    let a = Site::new("A", FOO);
    a.run("INSERT INTO foo VALUES(1,2,3); BEGIN; INSERT INTO foo VALUES(2,4,5)");
    crr::load(&a.conn).unwrap();
    a.run("INSERT INTO foo VALUES(3,6,7); COMMIT");
    assert_eq!(a.crr().site_id().unwrap(), site("A"));
    assert_eq!(a.db_version(), 2);
    a.query_is("SELECT count(*), max(seq) FROM crsql_changes WHERE db_version = 2", &["4, 3"]);
}

#[test]
fn a_file_keeps_its_site_id_and_its_versions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let first = Site::on(Connection::open(&path).unwrap(), site("A"), FOO);
    first.run("INSERT INTO foo VALUES(1,2,3)");
    drop(first);
    let conn = Connection::open(&path).unwrap();
    crr::load(&conn).unwrap();
    let again = Site { conn, id: site("A") };
    assert_eq!(again.crr().site_id().unwrap(), site("A"));
    assert_eq!(again.db_version(), 1);
    again.run("INSERT INTO foo VALUES(2,2,3)");
    assert_eq!(again.db_version(), 2);
}

#[test]
fn the_engine_is_not_there_before_it_is_loaded() {
    let conn = Connection::open_in_memory().unwrap();
    assert!(Crr::of(&conn).is_err());
    assert!(conn.query_row("SELECT crsql_site_id()", [], |_| Ok(())).is_err());
    crr::load(&conn).unwrap();
    assert!(Crr::of(&conn).is_ok());
}

#[test]
fn a_load_inside_a_transaction_does_not_break_the_connection_when_that_is_rolled_back() {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch("BEGIN; CREATE TABLE mine(a)").unwrap();
    let loaded = crr::load(&conn).is_ok();
    conn.execute_batch("ROLLBACK").unwrap();
    assert!(!loaded, "the tables would have gone with the transaction");
    let crr = crr::load(&conn).unwrap();
    let id = crr.site_id().unwrap();
    let a = Site { conn, id };
    a.run(FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    assert_eq!(a.changes().len(), 2);
}

// ---- Versions of the file format ----

#[test]
fn files_of_the_engines_before_this_one_are_upgraded_and_newer_ones_left_alone() {
    for (stored, after) in [
        ("150000", "160300"),
        ("150100", "160300"),
        ("160000", "160300"),
        ("160299", "160300"),
        ("160300", "160300"),
        ("160301", "160301"),
        ("170000", "170000"),
    ] {
        let conn = with_version(stored);
        crr::load(&conn).unwrap();
        let version: i64 = conn
            .query_row("SELECT value FROM crsql_master WHERE key = 'crsqlite_version'", [], |row| row.get(0))
            .unwrap();
        assert_eq!(version.to_string(), after, "from {stored}");
    }
}

#[test]
fn files_older_than_0_15_are_refused_and_left_as_they_are() {
    for stored in ["149999", "140000", "130200", "0", "-1", "'no number'", "NULL"] {
        let conn = with_version(stored);
        let error = crr::load(&conn).unwrap_err();
        assert!(!error.to_string().is_empty());
        let unchanged: bool = conn
            .query_row(
                &format!("SELECT value IS {stored} FROM crsql_master WHERE key = 'crsqlite_version'"),
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert!(unchanged, "{stored}");
    }
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch("CREATE TABLE crsql_master (key TEXT PRIMARY KEY, value ANY)").unwrap();
    assert!(crr::load(&conn).is_err(), "no version at all");
}

fn with_version(version: &str) -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(&format!(
        "CREATE TABLE crsql_master (key TEXT PRIMARY KEY, value ANY);
         INSERT INTO crsql_master VALUES ('crsqlite_version', {version})"
    ))
    .unwrap();
    conn
}

// ---- Contents that cannot be used ----

#[test]
fn a_site_id_that_is_not_16_bytes_long_is_refused() {
    for id in ["x''", "x'00'", "zeroblob(15)", "zeroblob(17)"] {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&format!(
            "CREATE TABLE crsql_site_id (site_id BLOB NOT NULL, ordinal INTEGER PRIMARY KEY);
             CREATE UNIQUE INDEX crsql_site_id_site_id ON crsql_site_id (site_id);
             INSERT INTO crsql_site_id VALUES ({id}, 0)"
        ))
        .unwrap();
        assert!(crr::load(&conn).is_err(), "{id}");
    }
}

#[test]
fn an_old_file_without_a_row_of_its_own_gets_an_id() {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(
        "CREATE TABLE crsql_site_id (site_id BLOB NOT NULL, ordinal INTEGER PRIMARY KEY);
         CREATE UNIQUE INDEX crsql_site_id_site_id ON crsql_site_id (site_id);
         INSERT INTO crsql_site_id VALUES (zeroblob(16), 1)",
    )
    .unwrap();
    let id = crr::load(&conn).unwrap().site_id().unwrap();
    assert_ne!(id, SiteId::from_bytes([0; 16]));
}

#[test]
fn settings_are_read_and_a_wrong_one_is_refused() {
    for (settings, accepted) in [
        ("('config.merge-equal-values', 1)", true),
        ("('config.merge-equal-values', 0)", true),
        // As `crsql_config_set` may have left it: the same as 0.
        ("('config.merge-equal-values', NULL)", true),
        ("('config.merge-equal-values', 'yes')", false),
        ("('config.merge-equal-values', 1.5)", false),
        ("('config.something-else', 'yes')", true),
    ] {
        let conn = with_version("160300");
        conn.execute_batch(&format!("INSERT INTO crsql_master VALUES {settings}")).unwrap();
        assert_eq!(crr::load(&conn).is_ok(), accepted, "{settings}");
    }
    let conn = with_version("160300");
    conn.execute_batch("INSERT INTO crsql_master VALUES ('config.merge-equal-values', 1)").unwrap();
    crr::load(&conn).unwrap();
    let value: i64 = conn.query_row("SELECT crsql_config_get('merge-equal-values')", [], |row| row.get(0)).unwrap();
    assert_eq!(value, 1);
}

// ---- Read-only files ----

#[test]
fn a_read_only_file_can_be_read_if_nothing_has_to_be_set_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let a = Site::on(Connection::open(&path).unwrap(), site("A"), FOO);
    a.run("INSERT INTO foo VALUES(1,2,3)");
    a.merge("foo 010902 b 1 1 1 X 1 0");

    let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    crr::load(&conn).unwrap();
    let reader = Site { conn, id: site("A") };
    assert_eq!(reader.crr().site_id().unwrap(), site("A"));
    assert_eq!(reader.changes(), a.changes());
    assert_eq!(reader.read(0, None), a.read(0, None));
    assert_eq!(reader.db_version(), 2);
    reader.error("INSERT INTO foo VALUES(3,2,3)");
    reader.refusal("foo 010903 b 1 1 1 X 1 0");
    reader.conn.close().map_err(|(_, error)| error).unwrap();
}

#[test]
fn a_read_only_file_that_is_new_or_old_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("new");
    Connection::open(&new).unwrap().execute_batch("CREATE TABLE mine(a)").unwrap();
    let old = folder.path().join("old");
    let conn = Connection::open(&old).unwrap();
    crr::load(&conn).unwrap();
    conn.execute("UPDATE crsql_master SET value = 150000 WHERE key = 'crsqlite_version'", []).unwrap();
    drop(conn);
    for path in [new, old] {
        let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        assert!(crr::load(&conn).is_err(), "{path:?}");
    }
}

#[test]
fn a_copy_takes_a_new_site_id_and_keeps_its_rows_and_versions() {
    let conn = Connection::open_in_memory().unwrap();
    let crr = crr::load(&conn).unwrap();
    conn.execute_batch("CREATE TABLE foo (a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('foo')").unwrap();
    conn.execute_batch("INSERT INTO foo VALUES (1, 2)").unwrap();
    let change = |author: crr::SiteId, key: u8| {
        let sql = "INSERT INTO crsql_changes VALUES ('foo', ?1, 'b', 5, 1, 1, ?2, 1, 0)";
        conn.execute(sql, (vec![1, 9, key], author.as_bytes())).unwrap();
    };
    let author = |key: i64| -> Vec<u8> {
        let sql = "SELECT site_id FROM crsql_changes WHERE pk = crsql_pack_columns(?1)";
        conn.query_row(sql, [key], |row| row.get(0)).unwrap()
    };
    let former = crr.site_id().unwrap();
    conn.execute_batch("BEGIN").unwrap();
    change(former, 2);
    let new = crr.take_new_site_id().unwrap();
    // What others still have of the former site is not the new one's.
    change(former, 3);
    conn.execute_batch("COMMIT").unwrap();

    assert_ne!(new, former);
    assert_eq!(crr.site_id().unwrap(), new);
    assert_eq!([author(1), author(2), author(3)], [new, new, former].map(|site| site.as_bytes().to_vec()));
    assert_eq!(crr.db_version().unwrap(), 2);
}

#[test]
fn a_new_site_id_that_is_rolled_back_is_none() {
    let conn = Connection::open_in_memory().unwrap();
    let crr = crr::load(&conn).unwrap();
    let former = crr.site_id().unwrap();
    conn.execute_batch("BEGIN").unwrap();
    crr.take_new_site_id().unwrap();
    conn.execute_batch("ROLLBACK").unwrap();
    assert_eq!(crr.site_id().unwrap(), former);
}

#[test]
fn a_new_site_id_that_is_rolled_back_to_a_savepoint_is_no_authors() {
    let conn = Connection::open_in_memory().unwrap();
    let crr = crr::load(&conn).unwrap();
    conn.execute_batch("CREATE TABLE foo (a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('foo')").unwrap();
    let change = |author: SiteId, key: u8| {
        let sql = "INSERT INTO crsql_changes VALUES ('foo', ?1, 'b', 5, 1, 1, ?2, 1, 0)";
        conn.execute(sql, (vec![1, 9, key], author.as_bytes())).unwrap();
    };
    conn.execute_batch("BEGIN; SAVEPOINT s").unwrap();
    let passing = crr.take_new_site_id().unwrap();
    change(passing, 1);
    conn.execute_batch("ROLLBACK TO s").unwrap();
    change(passing, 2);
    conn.execute_batch("COMMIT").unwrap();
    let author: Vec<u8> = conn.query_row("SELECT site_id FROM crsql_changes", [], |row| row.get(0)).unwrap();
    assert_eq!(author, passing.as_bytes());
}
