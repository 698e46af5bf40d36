//! Connections close as if nothing had been loaded into them. SQLite takes away a file's log when its last connection is
//! closed: where no log is left, nothing was kept open.

use crate::hosts::{FOO, Folder, library, load_extension};

/// Leaves statements of all kinds prepared inside the engine.
const WORK: &str = "
    INSERT INTO foo VALUES (1, 2, 3), (2, 3, 4);
    UPDATE foo SET b = 5;
    UPDATE foo SET a = 7 WHERE a = 2;
    DELETE FROM foo WHERE a = 1;
    INSERT INTO crsql_changes VALUES ('foo', x'010903', 'c', '5', 1, 7, zeroblob(16), 1, 0);
    INSERT INTO crsql_changes VALUES ('foo', x'010903', 'c', '6', 1, 7, zeroblob(16), 1, 0);";

#[test]
fn a_connection_closes_without_being_finalized() {
    let folder = Folder::new();
    let lines = folder.python(&format!(
        "
for finalize in [False, True]:
    for at_end in ['pass', 'conn.execute(\"SELECT * FROM crsql_changes\").fetchone()', 'conn.execute(\"BEGIN IMMEDIATE\")']:
        name = f'db{{finalize}}{{len(at_end)}}'
        conn = connect(name, isolation_level=None)
        conn.execute('PRAGMA journal_mode = WAL')
        conn.executescript(\"\"\"{FOO}{WORK}\"\"\")
        print(conn.execute('SELECT count(*) FROM crsql_changes').fetchone(), os.path.exists(name + '-wal'))
        if finalize: conn.execute('SELECT crsql_finalize()')
        exec(at_end)
        conn.close()
        print(os.path.exists(name + '-wal'))
"
    ));
    assert_eq!(lines, ["(6,) True", "False"].repeat(6));
}

#[test]
fn a_connection_that_is_closed_while_it_is_busy_stays_usable() {
    let folder = Folder::new();
    let conn = folder.plain("db");
    load_extension(&conn, &library()).unwrap();
    conn.execute_batch(&format!("PRAGMA journal_mode = WAL; {FOO}{WORK}")).unwrap();
    // SQLite refuses, after it has disconnected the virtual tables.
    let mut forgotten = std::ptr::null_mut();
    // SAFETY: the handle is open, the text is a C string, and the statement is finalised below.
    #[allow(unsafe_code, reason = "rusqlite's own statements borrow the connection")]
    unsafe {
        use rusqlite::ffi;
        let prepared =
            ffi::sqlite3_prepare_v2(conn.handle(), c"SELECT 1".as_ptr(), -1, &raw mut forgotten, std::ptr::null_mut());
        assert_eq!(prepared, ffi::SQLITE_OK);
    }
    let (conn, _busy) = conn.close().unwrap_err();
    conn.execute_batch("INSERT INTO foo VALUES (9, 9, 9); UPDATE foo SET b = 10 WHERE a = 9").unwrap();
    let cells: i64 = conn.query_row("SELECT count(*) FROM crsql_changes", [], |row| row.get(0)).unwrap();
    assert_eq!(cells, 8);
    // SAFETY: it was prepared above and nothing else knows it.
    #[allow(unsafe_code, reason = "as above")]
    unsafe {
        rusqlite::ffi::sqlite3_finalize(forgotten);
    }
    conn.close().unwrap();
    assert!(!folder.file("db-wal").exists());
}

#[test]
fn asking_for_the_engine_keeps_nothing_open() {
    let folder = Folder::new();
    let lines = folder.python(&format!(
        "
conn = connect('db', isolation_level=None)
conn.execute('PRAGMA journal_mode = WAL')
conn.executescript(\"\"\"{FOO}{WORK}\"\"\")
conn.execute('SELECT crr_hand_over()')
conn.close()
print(os.path.exists('db-wal'))
"
    ));
    assert_eq!(lines, ["False"]);
}
