//! Files that others made, and files for others.

use std::fs;

use rusqlite::Connection;
use tower_sqlite_sync::{SyncConfig, SyncHandle, SyncLayer};

use crate::hosts::{CHANGES, FOO, Folder, texts};

/// A server's rooms, in the folder's subfolder `dbs`.
fn server(folder: &Folder) -> SyncHandle {
    fs::write(folder.file("main.sql"), FOO).unwrap();
    let config = SyncConfig::default().with_db_folder(folder.file("dbs")).with_schema_folder(folder.file(""));
    SyncLayer::new(config).handle()
}

fn changes(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    conn.prepare(CHANGES)?.query_map([], |row| row.get(0))?.collect()
}

#[tokio::test]
async fn a_room_is_read_written_and_merged_into_while_its_server_runs() {
    let folder = Folder::new();
    let rooms = server(&folder);
    rooms.create_room("lobby", "main.sql").await.unwrap();
    rooms.write("lobby", |tx| tx.execute_batch("INSERT INTO foo VALUES (1, 'server', 1.5)")).await.unwrap();

    let seen = folder.shell("dbs/lobby", CHANGES);
    assert_eq!(seen.len(), 2);
    assert_eq!(seen, rooms.read("lobby", changes).await.unwrap());

    folder.shell(
        "dbs/lobby",
        "INSERT INTO foo VALUES (2, 'shell', 2);
         INSERT INTO crsql_changes VALUES ('foo', x'010903', 'b', 'peer', 1, 7, x'0102030405060708090a0b0c0d0e0f10', 1, 0);",
    );
    folder.python(
        "
conn = connect('dbs/lobby')
with conn: conn.execute('UPDATE foo SET c = 4 WHERE a = 1')
",
    );
    let rows = |conn: &Connection| -> rusqlite::Result<Vec<(i64, String, Option<f64>)>> {
        let mut statement = conn.prepare("SELECT a, b, c FROM foo")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
    };
    let written = [(1, "server".into(), Some(4.0)), (2, "shell".into(), Some(2.0)), (3, "peer".into(), None)];
    assert_eq!(rooms.read("lobby", rows).await.unwrap(), written);

    // The server goes on from there.
    rooms.write("lobby", |tx| tx.execute_batch("DELETE FROM foo WHERE a = 2")).await.unwrap();
    let last = rooms.read("lobby", changes).await.unwrap().pop().unwrap();
    assert!(last.starts_with("foo 010902 -1 0105 2 9 "), "{last}");
    rooms.shutdown().await;
    assert_eq!(folder.shell("dbs/lobby", CHANGES).pop().unwrap(), last);
}

#[test]
fn a_dump_is_restored_without_the_extension_and_goes_on_with_it() {
    let folder = Folder::new();
    folder.shell(
        "old",
        &format!(
            "{FOO}
             CREATE TABLE \"odd \"\"name\" (\"k 1\" TEXT NOT NULL, k2 BLOB NOT NULL, \"a'b\", PRIMARY KEY (k2, \"k 1\"));
             SELECT crsql_as_crr('odd \"name');
             INSERT INTO foo VALUES (1, 'it''s', 1e100), (2, x'00ff', NULL);
             INSERT INTO \"odd \"\"name\" VALUES ('a', x'01', 'line' || char(10) || 'feed');
             DELETE FROM foo WHERE a = 2;
             INSERT INTO crsql_changes VALUES ('foo', x'010903', 'b', 'peer', 1, 7, zeroblob(16), 1, 0);
             INSERT INTO crsql_tracked_peers VALUES (zeroblob(16), 7, 0, 0, 0);"
        ),
    );
    let (before, id) = (folder.shell("old", CHANGES), folder.shell("old", "SELECT hex(crsql_site_id());"));
    let dump = folder.shell("old", ".dump").join("\n");
    assert_eq!(folder.plain_shell(&[], "old", ".dump").unwrap().join("\n"), dump);

    folder.plain_shell(&[], "new", &dump).unwrap();
    assert_eq!(folder.shell("new", CHANGES), before);
    assert_eq!(folder.shell("new", "SELECT hex(crsql_site_id());"), id);
    assert_eq!(folder.shell("new", "PRAGMA integrity_check;"), ["ok"]);
    folder.shell("new", "INSERT INTO foo(a) VALUES (2); UPDATE \"odd \"\"name\" SET \"a'b\" = 5;");
    assert_eq!(folder.shell("new", "SELECT crsql_db_version();"), ["9"]);
    assert_eq!(texts(&folder.native("new"), CHANGES), folder.shell("new", CHANGES));
}

#[test]
fn a_write_without_the_extension_fails_and_tracks_nothing() {
    let folder = Folder::new();
    folder.shell("db", &format!("{FOO}\nINSERT INTO foo VALUES (1, 2, 3);"));
    let before = folder.shell("db", CHANGES);
    let error = folder.plain_shell(&[], "db", "UPDATE foo SET b = 9;").unwrap_err();
    assert!(error.contains("no such function: crsql_"), "{error}");
    assert_eq!(folder.shell("db", CHANGES), before);
    assert_eq!(folder.shell("db", "SELECT b FROM foo;"), ["2"]);
}

#[test]
fn hosts_take_turns_in_altering_a_table() {
    let folder = Folder::new();
    folder.shell("db", &format!("{FOO}\nINSERT INTO foo VALUES (1, 2, 3);"));
    folder.shell(
        "db",
        "SELECT crsql_begin_alter('foo'); ALTER TABLE foo ADD COLUMN d DEFAULT 'd'; SELECT crsql_commit_alter('foo');
         UPDATE foo SET d = 'shell';",
    );
    folder.native("db").execute_batch("UPDATE foo SET d = 'native'").unwrap();
    let schema = "CREATE TABLE IF NOT EXISTS foo (a INTEGER PRIMARY KEY NOT NULL, b, d DEFAULT 'd', e);
                  SELECT crsql_as_crr('foo');";
    assert_eq!(
        folder.python(&format!(
            "
conn = connect('db', isolation_level=None)
print(conn.execute('SELECT crsql_automigrate(?)', (\"\"\"{schema}\"\"\",)).fetchone()[0])
conn.execute(\"UPDATE foo SET e = 'python'\")
"
        )),
        ["migration complete"]
    );
    let cells = "SELECT cid || ' ' || quote(val) || ' ' || col_version FROM crsql_changes ORDER BY cid;";
    assert_eq!(folder.shell("db", cells), ["b 2 1", "d 'native' 2", "e 'python' 1"]);
}
