//! Files that are restored although nobody made them as a backup: what can't be a room is refused, with the reason, before the room is
//! touched; and what is merely unusual works.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use tower_sqlite_sync::Error;
use tower_sqlite_sync_wire::Value;

use crate::fixture::{Client, SCHEMA, Server, cell, cells, soon};

const ROWS: &str = "SELECT a, b FROM foo ORDER BY a";

/// A server with a room `r`, a client in it, and a backup of it.
async fn scene() -> (Server, Client, PathBuf) {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo VALUES (1, 'x')").await;
    client.gather(1).await;
    let good = server.folder.path().join("good");
    server.rooms.backup("r", &good).await.unwrap();
    (server, client, good)
}

/// Makes a file of a good one.
type Make<'a> = &'a dyn Fn(&Path, &Path);

/// Runs statements in a file, without the engine.
fn after(file: &Path, sql: &str) {
    Connection::open(file).unwrap().execute_batch(sql).unwrap();
}

/// Copies a database in the middle of a transaction, with the journal that would undo it.
fn copy_half_way(good: &Path, file: &Path) {
    let (busy, journal) = (file.with_extension("busy"), file.with_extension("busy-journal"));
    fs::copy(good, &busy).unwrap();
    let conn = Connection::open(&busy).unwrap();
    conn.execute_batch("PRAGMA cache_size = 1; BEGIN; CREATE TABLE big (x)").unwrap();
    conn.execute_batch("INSERT INTO big SELECT zeroblob(100000) FROM json_each('[1, 2, 3]')").unwrap();
    fs::copy(busy, file).unwrap();
    let mut beside = file.as_os_str().to_owned();
    beside.push("-journal");
    fs::copy(journal, beside).unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn what_is_no_file_or_not_made_by_the_engine_is_refused_and_nobody_is_disturbed() {
    let (server, mut client, good) = scene().await;
    let link = |to: &'static str| move |_: &Path, file: &Path| std::os::unix::fs::symlink(to, file).unwrap();
    let part =
        |bytes: usize| move |good: &Path, file: &Path| fs::write(file, &fs::read(good).unwrap()[..bytes]).unwrap();
    let files: [(&str, Make<'_>, &str); 7] = [
        ("fifo", &|_, file| assert!(Command::new("mkfifo").arg(file).status().unwrap().success()), "it is no file"),
        ("device", &link("/dev/zero"), "it is no file"),
        ("folder", &|_, file| fs::create_dir(file).unwrap(), "it is no file"),
        ("byte", &part(1), "it has no schema"),
        ("header", &part(100), "it is damaged"),
        ("page", &part(4096), "it is damaged"),
        ("half-way", &copy_half_way, "it is in the middle of a transaction"),
    ];
    let statements = [
        (
            "ALTER TABLE crsql_master RENAME TO m;
             CREATE VIEW crsql_master AS SELECT * FROM m UNION ALL SELECT * FROM crsql_master",
            "the view crsql_master",
        ),
        ("CREATE VIEW crsql_sync_sites AS SELECT 1", "the view crsql_sync_sites"),
        ("CREATE INDEX crsql_sync_lineage ON foo (b)", "the index crsql_sync_lineage"),
        (
            "CREATE TABLE crsql_sync_lineage (generation INTEGER PRIMARY KEY, site_id, db_version, shown);
             INSERT INTO crsql_sync_lineage VALUES (1, 'short', 'x', 'y')",
            "site_id",
        ),
        ("CREATE TRIGGER t AFTER UPDATE ON crsql_site_id BEGIN DELETE FROM crsql_site_id; END", "the trigger t"),
        ("CREATE TRIGGER t AFTER INSERT ON foo__crsql_clock BEGIN DELETE FROM foo; END", "the trigger t"),
        (
            "ALTER TABLE foo__crsql_clock RENAME TO c; CREATE VIEW foo__crsql_clock AS SELECT * FROM c",
            "the view foo__crsql_clock",
        ),
        ("CREATE TABLE crsql_changes (x)", "the table crsql_changes"),
        ("UPDATE crsql_site_id SET site_id = x'00' WHERE ordinal = 0", "its site id isn't 16 bytes long"),
        ("UPDATE foo__crsql_clock SET db_version = 9223372036854775807", "its db_versions are used up"),
        ("UPDATE crsql_master SET value = x'ff' WHERE key = 'schema_name'", "utf-8"),
    ];
    let refused = async |file: &Path, said: &str| match soon(said, server.rooms.restore("r", file)).await {
        Err(Error::UnfitFile { reason, .. }) => assert!(reason.contains(said), "{}: {reason}", file.display()),
        other => panic!("{}: {other:?}", file.display()),
    };
    for (name, make, said) in files {
        let file = server.folder.path().join(name);
        make(&good, &file);
        refused(&file, said).await;
    }
    for (n, (sql, said)) in statements.into_iter().enumerate() {
        let file = server.folder.path().join(format!("made-up-{n}"));
        fs::copy(&good, &file).unwrap();
        after(&file, sql);
        refused(&file, said).await;
    }
    server.write("r", "INSERT INTO foo VALUES (99, 'x')").await;
    assert_eq!(cells(&client.changes().await), ["99.b='x'"]);
    let left = fs::read_dir(server.folder.path().join("dbs")).unwrap();
    let left = left.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().ends_with(".partial"));
    assert_eq!(left.count(), 0);
}

#[tokio::test]
async fn a_file_with_a_log_beside_it_or_other_pages_is_restored_with_all_that_is_in_it() {
    let (server, _client, good) = scene().await;
    let file = |name: &str| {
        let file = server.folder.path().join(name);
        fs::copy(&good, &file).unwrap();
        file
    };
    let logged = file("logged");
    let open = Connection::open(&logged).unwrap();
    crr::load(&open).unwrap();
    open.execute_batch("PRAGMA journal_mode = WAL; INSERT INTO foo VALUES (2, 'in the log')").unwrap();
    let large = file("large");
    after(&large, "PRAGMA page_size = 65536; VACUUM");
    for (file, rows) in [(&logged, &["1|'x'", "2|'in the log'"][..]), (&large, &["1|'x'"])] {
        server.rooms.restore("r", file).await.unwrap();
        assert_eq!(server.rows("r", ROWS).await, rows);
        let (mut writer, mut reader) = (Client::join(&server, "r", 2).await, Client::join(&server, "r", 3).await);
        reader.gather(rows.len()).await;
        writer.push(0, &[cell(9, "b", Value::Text("new"), 1)]).await;
        assert_eq!(cells(&reader.changes().await), ["9.b='new'"]);
    }
}

#[tokio::test]
async fn a_file_in_utf_16_is_restored_and_ties_come_out_as_in_the_others() {
    let (server, _client, good) = scene().await;
    let file = server.folder.path().join("utf-16");
    let conn = Connection::open(&file).unwrap();
    conn.execute_batch("PRAGMA encoding = 'UTF-16le'").unwrap();
    crr::load(&conn).unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    // In UTF-16, this is less than U+FF5E; in UTF-8 and in JavaScript's messages it is more.
    conn.execute_batch("INSERT INTO foo VALUES (1, '\u{10000}'), (2, '\u{ff5e}')").unwrap();
    let stamp = Connection::open(&good).unwrap();
    for key in ["schema_name", "schema_version"] {
        let sql = "SELECT value FROM crsql_master WHERE key = ?1";
        let value: rusqlite::types::Value = stamp.query_row(sql, [key], |row| row.get(0)).unwrap();
        conn.execute("INSERT OR REPLACE INTO crsql_master VALUES (?1, ?2)", (key, value)).unwrap();
    }
    drop(conn);
    server.rooms.restore("r", &file).await.unwrap();
    let mut client = Client::join(&server, "r", 2).await;
    client.push(0, &[cell(1, "b", Value::Text("\u{ff5e}"), 1), cell(2, "b", Value::Text("\u{10000}"), 2)]).await;
    server.has("r", ROWS, &["1|'\u{10000}'", "2|'\u{10000}'"]).await;
}
