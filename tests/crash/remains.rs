//! What is left of a room when its server has died.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use crate::ledger::Ledger;

/// The rows of table `foo`. A row may have come without its value, for a while.
pub(crate) type Rows = BTreeMap<String, String>;

/// The rows in a database.
pub(crate) fn rows(conn: &Connection) -> Rows {
    let mut statement = conn.prepare_cached("SELECT a, b FROM foo").unwrap();
    let rows =
        statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, Option<String>>(1)?.unwrap_or_default()))).unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}

/// The rows in a file that a server has open.
pub(crate) fn rows_of(file: &Path) -> Rows {
    rows(&Connection::open(file).unwrap())
}

/// Checks a dead server's file, in a copy: the next server finds it untouched.
pub(crate) fn check(file: &Path, ledger: &Ledger) {
    if !file.exists() {
        assert_eq!(ledger.last_shown(), 0, "{} is gone", file.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("room");
    std::fs::copy(file, &copy).unwrap();
    let log = file.with_file_name(format!("{}-wal", file.file_name().unwrap().display()));
    if log.exists() {
        std::fs::copy(log, folder.path().join("room-wal")).unwrap();
    }
    let conn = Connection::open(&copy).unwrap();
    check_connection(&conn);
    if !conn.table_exists(None, "foo").unwrap() {
        assert_eq!(ledger.last_shown(), 0, "the schema is gone");
        return;
    }
    for (n, site) in ledger.sites() {
        let position = conn
            .query_row(
                "SELECT version FROM crsql_tracked_peers WHERE site_id = ?1",
                [site.as_bytes().as_slice()],
                |row| row.get::<_, i64>(0),
            )
            .optional()
            .unwrap()
            .unwrap_or(0);
        assert!(position >= ledger.safe(n), "client {n} was told {}, the file has {position}", ledger.safe(n));
        // Who was never sent anything is asked once more for the little that it wrote, before it is told that anything is safe.
        if position == 0 && ledger.safe(n) == 0 {
            continue;
        }
        let counter: Option<String> = conn
            .query_row("SELECT b FROM foo WHERE a = ?1", [format!("counter {n}")], |row| row.get(0))
            .optional()
            .unwrap();
        let expected = ledger.written_at(n, position).map(|number| format!("{n}:{number}"));
        assert_eq!(counter, expected, "client {n}: its changes and its position {position} are one transaction");
    }
    let last: i64 =
        conn.query_row("SELECT ifnull(max(db_version), 0) FROM foo__crsql_clock", [], |row| row.get(0)).unwrap();
    assert!(last >= ledger.last_shown(), "the file ends at {last}, {} was shown", ledger.last_shown());
}

/// The file is sound.
pub(crate) fn check_integrity(file: &Path) {
    check_connection(&Connection::open(file).unwrap());
}

fn check_connection(conn: &Connection) {
    let found: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
}
