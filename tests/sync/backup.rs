//! Backups: made while clients write, whole or not at all, and put back without anybody missing anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use rusqlite::{Connection, Row};
use tokio::sync::watch;
use tower_sqlite_sync::{
    Changeset, Error, Home, Opening, Primary, PrimaryFuture, PrimaryUnavailable, RoomName, RoomStore, SchemaName,
    Verdict,
};
use tower_sqlite_sync_wire::{Position, SiteId, Value};

use crate::fixture::{Client, Replica, Server, cell, cells, last_version, until};

const ROWS: &str = "SELECT a, b FROM foo ORDER BY a";

fn path(server: &Server, name: &str) -> PathBuf {
    server.folder.path().join(name)
}

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    crr::load(&conn).unwrap();
    conn
}

/// Makes a file that is no room.
type Make<'a> = Box<dyn Fn(&Path) + 'a>;

/// The names of what is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn digest(server: &Server, room: &str) -> Vec<String> {
    server.rows(room, "SELECT hex(crsql_digest())").await
}

// ---- Backing up ----

#[tokio::test]
async fn a_backup_is_one_file_that_holds_the_room_as_it_was() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    client.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    server.write("r", "INSERT INTO foo VALUES (2, 'x')").await;
    server.has("r", ROWS, &["1|1", "2|'x'"]).await;
    let folder = path(&server, "backups");
    fs::create_dir(&folder).unwrap();
    server.rooms.backup("r", folder.join("r")).await.unwrap();
    let before = digest(&server, "r").await;
    server.write("r", "DELETE FROM foo").await;

    assert_eq!(names(&folder), ["r"]);
    let mut copy = fs::metadata(folder.join("r")).unwrap().permissions();
    assert_eq!(copy, fs::metadata(server.file("r")).unwrap().permissions());
    copy.set_readonly(true);
    fs::set_permissions(folder.join("r"), copy).unwrap();
    let conn = open(&folder.join("r"));
    let found: String = conn.query_row("SELECT hex(crsql_digest())", [], |row| row.get(0)).unwrap();
    assert_eq!([format!("'{found}'")], before[..]);
    let positions: i64 = conn.query_row("SELECT max(version) FROM crsql_tracked_peers", [], |row| row.get(0)).unwrap();
    assert_eq!(positions, 1, "what the room has from its clients is in it");
}

#[tokio::test]
async fn a_backup_is_of_one_moment_while_clients_write() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let writing = async {
        for v in 1.. {
            let both =
                [1, 2].map(|k| tower_sqlite_sync_wire::Change { col_version: v, ..cell(k, "b", Value::Integer(v), v) });
            client.push(v - 1, &both).await;
            if v % 20 == 0 {
                server.has("r", "SELECT max(version) FROM crsql_tracked_peers", &[&v.to_string()]).await;
            }
        }
    };
    let backups = async {
        until("the first write", async || server.rows("r", ROWS).await.len() == 2).await;
        for n in 0..20 {
            let backup = path(&server, &n.to_string());
            server.rooms.backup("r", &backup).await.unwrap();
            let conn = open(&backup);
            let (different, position): (i64, i64) = conn
                .query_row(
                    "SELECT count(DISTINCT b), max(b) = (SELECT max(version) FROM crsql_tracked_peers) FROM foo",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .unwrap();
            assert_eq!((different, position), (1, 1));
        }
    };
    tokio::select! {
        () = writing => {}
        () = backups => {}
    }
}

#[tokio::test]
async fn a_backup_that_fails_leaves_the_one_before_and_nothing_else() {
    let server = Server::start().await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    server.write("r", "INSERT INTO foo VALUES (1, 'old')").await;
    let folder = path(&server, "backups");
    fs::create_dir_all(folder.join("a-folder")).unwrap();
    server.rooms.backup("r", folder.join("r")).await.unwrap();
    assert!(matches!(server.rooms.backup("r", folder.join("a-folder")).await, Err(Error::Io { .. })));
    assert!(matches!(server.rooms.backup("r", folder.join("none/r")).await, Err(Error::Io { .. })));
    assert!(matches!(server.rooms.backup("none", folder.join("r")).await, Err(Error::NoSuchRoom { .. })));
    assert_eq!(names(&folder), ["a-folder", "r"]);

    server.write("r", "UPDATE foo SET b = 'new'").await;
    let row = |conn: Connection| conn.query_row("SELECT b FROM foo", [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(row(open(&folder.join("r"))), "old");
    server.rooms.backup("r", folder.join("r")).await.unwrap();
    assert_eq!(row(open(&folder.join("r"))), "new", "one that succeeds takes its place");
}

#[tokio::test]
async fn a_backup_takes_the_place_of_no_database_in_use() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    Client::join(&server, "other", 1).await;
    for file in [server.file("r"), server.file("other"), server.folder.path().join("dbs/../dbs/r")] {
        let refused = server.rooms.backup("r", file).await.unwrap_err();
        assert!(refused.to_string().contains("in use"), "{refused}");
    }
    server.write("r", "INSERT INTO foo VALUES (1, 'x')").await;
    assert_eq!(cells(&client.changes().await), ["1.b='x'"]);
    assert!(names(&path(&server, "dbs")).iter().all(|name| !name.starts_with('.') || name.starts_with(".sync-ledger")));
}

#[tokio::test]
async fn a_room_in_memory_can_be_backed_up_but_not_restored() {
    let server = Server::with(|config| config.with_memory(true)).await;
    let _client = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo VALUES (1, 'x')").await;
    let backup = path(&server, "backup");
    server.rooms.backup("r", &backup).await.unwrap();
    assert!(matches!(server.rooms.restore("r", &backup).await, Err(Error::NoFile { .. })));
    server.write("r", "INSERT INTO foo VALUES (2, 'x')").await;

    let server = Server::start().await;
    server.rooms.restore("r", &backup).await.unwrap();
    assert_eq!(server.rows("r", ROWS).await, ["1|'x'"], "a room with a file can be made of it");
}

// ---- Restoring ----

/// A server whose room `r` was restored while clients 1 and 2 had seen two more db_versions than the backup has.
struct Restored {
    server: Server,
    former: SiteId,
    /// The last db_version in the backup.
    stored: i64,
    /// The last one that clients had seen.
    shown: i64,
}

async fn restored() -> Restored {
    let server = Server::start().await;
    let mut writer = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    writer.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    let stored = last_version(&reader.changes().await);
    let former = reader.server;
    let backup = path(&server, "backup");
    server.rooms.backup("r", &backup).await.unwrap();
    writer.push(1, &[cell(2, "b", Value::Integer(2), 2)]).await;
    writer.push(2, &[cell(3, "b", Value::Integer(3), 3)]).await;
    assert_eq!(reader.gather(2).await.len(), 2);
    let shown = server.rooms.rooms()[0].db_version;
    server.rooms.restore("r", &backup).await.unwrap();
    for client in [&mut writer, &mut reader] {
        let (code, reason) = client.closed().await;
        assert!(code == 1001 && reason.contains("replaced"), "{code} {reason}");
    }
    assert!(names(&path(&server, "dbs")).iter().all(|name| !name.starts_with('.') || name.starts_with(".sync-ledger")));
    assert_eq!(server.rows("r", ROWS).await, ["1|1"]);
    Restored { server, former, stored, shown }
}

#[tokio::test]
async fn a_client_that_has_seen_more_than_the_backup_misses_nothing_and_is_asked_for_what_was_lost() {
    let Restored { server, former, stored, shown } = restored().await;
    assert!(stored < shown);
    let mut reader = Client::connect(&server, "r", 2).await;
    reader.announce(&[(former, shown)]).await;
    let start = reader.start_streaming().await;
    assert_eq!(start.since, Position::START);
    assert!(!start.exclude_sites.contains(&former), "what it got from the former site is asked for, too");

    // Under a db_version that the reader has passed at the former site.
    let mut writer = Client::connect(&server, "r", 1).await;
    writer.announce(&[(former, shown)]).await;
    assert_eq!(writer.start_streaming().await.since, Position::at(1), "the backup has this much of it");
    writer.push(1, &[cell(4, "b", Value::Integer(4), 4)]).await;
    let changes = reader.changes().await;
    assert_eq!((changes.since, changes.sender), (Position::START, start.exclude_sites[0]));
    assert_eq!(cells(&changes), ["4.b=4"]);
    reader.push(0, &[cell(2, "b", Value::Integer(2), 5), cell(3, "b", Value::Integer(3), 6)]).await;
    server.has("r", ROWS, &["1|1", "2|2", "3|3", "4|4"]).await;
}

#[tokio::test]
async fn a_client_that_has_seen_no_more_than_the_backup_gets_all_of_it_and_what_comes_after_it() {
    let Restored { server, former, stored, .. } = restored().await;
    let mut away = Client::connect(&server, "r", 3).await;
    away.announce(&[(former, stored)]).await;
    away.start_streaming().await;
    // It may have left before it came to what had been written again.
    assert_eq!(cells(&away.changes().await), ["1.b=1"]);
    server.write("r", "INSERT INTO foo VALUES (5, 'news')").await;
    assert_eq!(cells(&away.changes().await), ["5.b='news'"]);
    let mut new = Client::join(&server, "r", 4).await;
    assert_eq!(new.gather(2).await, ["1.b=1", "5.b='news'"]);
}

#[tokio::test]
async fn replicas_that_are_connected_while_a_room_is_restored_converge_and_nothing_is_lost() {
    let server = Server::start().await;
    let (mut a, mut b) = (Replica::new(1), Replica::new(2));
    settle(&server, [&mut a, &mut b], "INSERT INTO foo VALUES (1, 'kept'), (9, 'deleted later')", 2).await;
    server.rooms.backup("r", path(&server, "backup")).await.unwrap();
    settle(&server, [&mut a, &mut b], "INSERT INTO foo VALUES (2, 'lost'); DELETE FROM foo WHERE a = 9", 2).await;
    a.connect(server.address, "r").await;
    server.rooms.restore("r", path(&server, "backup")).await.unwrap();
    settle(&server, [&mut a, &mut b], "INSERT INTO foo VALUES (3, 'new')", 3).await;
    let there = server.rows("r", "SELECT lower(hex(crsql_digest()))").await;
    for replica in [&a, &b] {
        let here = crr::Crr::of(&replica.conn).unwrap().digest().unwrap();
        assert_eq!(there, [format!("'{here}'")]);
    }
}

/// The first replica writes; both are connected until they and the server have so many rows.
async fn settle(server: &Server, replicas: [&mut Replica; 2], sql: &str, rows: i64) {
    let [writer, reader] = replicas;
    for replica in [&mut *writer, &mut *reader] {
        replica.reload();
        replica.connect(server.address, "r").await;
    }
    writer.conn.execute_batch(sql).unwrap();
    let digest = |replica: &Replica| crr::Crr::of(&replica.conn).unwrap().digest().unwrap();
    until(&format!("both replicas to have {rows} rows"), async || {
        for replica in [&mut *writer, &mut *reader] {
            if let Ok(message) = tokio::time::timeout(std::time::Duration::from_millis(5), replica.receive()).await {
                replica.handle(message, false).await;
            }
        }
        let there = server.rows("r", "SELECT lower(hex(crsql_digest()))").await;
        digest(writer) == digest(reader) && there == [format!("'{}'", digest(writer))]
    })
    .await;
    assert_eq!(server.rows("r", "SELECT count(*) FROM foo").await, [rows.to_string()]);
    writer.disconnect();
    reader.disconnect();
}

#[tokio::test]
async fn a_file_that_is_no_room_is_refused_and_nobody_is_disturbed() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    server
        .write("r", "INSERT INTO foo SELECT value, hex(zeroblob(500)) FROM json_each('[1,2,3,4,5,6,7,8,9,10,11,12]')")
        .await;
    client.gather(12).await;
    let good = path(&server, "good");
    server.rooms.backup("r", &good).await.unwrap();

    let files: [(&str, Make<'_>, &str); 6] = [
        ("empty", Box::new(|file| fs::write(file, "").unwrap()), "no schema"),
        (
            "text",
            Box::new(|file| fs::write(file, "not a database, but long enough ".repeat(99)).unwrap()),
            "not a database",
        ),
        (
            "foreign",
            Box::new(|file| Connection::open(file).unwrap().execute_batch("CREATE TABLE t (x)").unwrap()),
            "another application",
        ),
        ("without a schema", Box::new(|file| drop(open(file))), "no schema"),
        ("cut", Box::new(|file| fs::write(file, &fs::read(&good).unwrap()[..20_000]).unwrap()), ""),
        (
            "damaged",
            Box::new(|file| {
                let mut bytes = fs::read(&good).unwrap();
                bytes[4096..].chunks_mut(4096).skip(3).for_each(|page| page[8..40].fill(0xee));
                fs::write(file, bytes).unwrap();
            }),
            "damaged",
        ),
    ];
    for (what, make, said) in &files {
        let file = path(&server, what);
        make(&file);
        match server.rooms.restore("r", &file).await {
            Err(Error::UnfitFile { reason, .. }) => assert!(reason.contains(said), "{what}: {reason}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    assert!(matches!(server.rooms.restore("r", path(&server, "none")).await, Err(Error::Io { .. })));
    server.write("r", "INSERT INTO foo VALUES (99, 'x')").await;
    assert_eq!(cells(&client.changes().await), ["99.b='x'"]);
    assert!(names(&path(&server, "dbs")).iter().all(|name| !name.starts_with('.') || name.starts_with(".sync-ledger")));
}

#[tokio::test]
async fn a_room_that_is_damaged_or_gone_is_restored() {
    let server = Server::start().await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    server.write("r", "INSERT INTO foo VALUES (1, 'x')").await;
    let backup = path(&server, "backup");
    server.rooms.backup("r", &backup).await.unwrap();
    server.rooms.shutdown().await;
    for damage in ["garbage", ""] {
        let server = Server::start().await;
        fs::create_dir(path(&server, "dbs")).unwrap();
        fs::write(server.file("r"), damage.repeat(1000)).unwrap();
        if damage.is_empty() {
            fs::remove_file(server.file("r")).unwrap();
        }
        fs::write(server.file("r-wal"), "what is left of the log").unwrap();
        server.rooms.restore("r", &backup).await.unwrap();
        assert_eq!(server.rows("r", ROWS).await, ["1|'x'"]);
        Client::join(&server, "r", 1).await;
    }
}

#[tokio::test]
async fn every_room_that_is_made_of_a_backup_is_a_site_of_its_own() {
    let server = Server::start().await;
    let mut sites = vec![Client::join(&server, "r", 1).await.server];
    let backup = path(&server, "backup");
    server.rooms.backup("r", &backup).await.unwrap();
    for room in ["r", "r", "copy"] {
        server.rooms.restore(room, &backup).await.unwrap();
        sites.push(Client::join(&server, room, 1).await.server);
    }
    sites.sort();
    sites.dedup();
    assert_eq!(sites.len(), 4);
}

#[tokio::test]
async fn a_room_whose_file_another_process_has_open_stays_what_it_is() {
    let server = Server::with(|config| config.with_busy_timeout(std::time::Duration::from_millis(100))).await;
    let client = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo VALUES (1, 'x')").await;
    let backup = path(&server, "backup");
    server.rooms.backup("r", &backup).await.unwrap();
    let other = open(&server.file("r"));
    other.execute_batch("INSERT INTO foo VALUES (2, 'theirs')").unwrap();
    let refused = server.rooms.restore("r", &backup).await.unwrap_err();
    assert!(refused.to_string().contains("locked"), "{refused}");
    assert_eq!(server.rows("r", ROWS).await, ["1|'x'", "2|'theirs'"]);
    assert_eq!(Client::join(&server, "r", 1).await.server, client.server);
    drop(other);
    server.rooms.restore("r", &backup).await.unwrap();
    assert_eq!(server.rows("r", ROWS).await, ["1|'x'"]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_room_whose_file_is_a_link_is_restored_where_it_really_is_and_so_is_a_backup_written() {
    let server = Server::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let (real, link) = (elsewhere.path().join("real"), server.file("r"));
    Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo VALUES (1, 'x')").await;
    server.rooms.backup("r", &real).await.unwrap();
    server.rooms.shutdown().await;
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let backup = path(&server, "backup");
    std::os::unix::fs::symlink(elsewhere.path().join("backup"), &backup).unwrap();
    fs::write(elsewhere.path().join("backup"), "the one before").unwrap();

    let server = server.restart().await;
    server.rooms.backup("r", &backup).await.unwrap();
    server.write("r", "INSERT INTO foo VALUES (2, 'y')").await;
    let in_use = server.rooms.backup("r", elsewhere.path().join("real")).await.unwrap_err();
    assert!(in_use.to_string().contains("in use"), "{in_use}");
    server.rooms.restore("r", &backup).await.unwrap();
    assert_eq!(server.rows("r", ROWS).await, ["1|'x'"]);
    server.rooms.shutdown().await;
    assert!(link.is_symlink() && backup.is_symlink());
    assert_eq!(names(elsewhere.path()), ["backup", "real"]);
}

#[tokio::test]
async fn what_is_restored_or_forked_is_so_although_nobody_waits_for_it_any_more() {
    let server = Server::start().await;
    Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo VALUES (1, 'x')").await;
    let backup = path(&server, "backup");
    server.rooms.backup("r", &backup).await.unwrap();
    server.write("r", "INSERT INTO foo VALUES (2, 'y')").await;
    // Which site the room is, and how many rows it has. Nothing while it is being closed.
    let look = async || {
        let sql = "SELECT hex(crsql_site_id()), (SELECT count(*) FROM foo)";
        let row = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
        server.rooms.read("r", move |conn| conn.query_row(sql, [], row)).await.ok()
    };
    let (first, rows) = look().await.unwrap();
    assert_eq!(rows, 2);

    assert!(server.rooms.restore("r", &backup).now_or_never().is_none());
    let mut restored = first.clone();
    until("the backup to be in its place", async || {
        let Some((site, rows)) = look().await else { return false };
        restored = site;
        rows == 1
    })
    .await;
    assert_ne!(restored, first);

    assert!(server.rooms.fork("r").now_or_never().is_none());
    until("the room to fork", async || look().await.is_some_and(|(site, _)| site != restored)).await;
    assert_eq!(server.rows("r", ROWS).await, ["1|'x'"]);
}

/// A primary that is never there: all that matters is that this process doesn't write.
#[derive(Debug)]
struct Elsewhere;

impl Primary for Elsewhere {
    fn open<'a>(&'a self, _: &'a RoomName, _: &'a SchemaName, _: i64) -> PrimaryFuture<'a, Opening> {
        Box::pin(async { Err(PrimaryUnavailable { reason: "away".to_owned() }) })
    }

    fn apply<'a>(&'a self, _: &'a RoomName, _: &'a Changeset) -> PrimaryFuture<'a, Verdict> {
        Box::pin(async { Err(PrimaryUnavailable { reason: "away".to_owned() }) })
    }

    fn changed(&self, _: &RoomName) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}

/// Rooms of which this process has copies.
#[derive(Debug)]
struct Copies(PathBuf);

impl RoomStore for Copies {
    fn home(&self, room: &RoomName) -> Home {
        Home::replica(self.0.join(room.as_str()), Arc::new(Elsewhere))
    }
}

#[tokio::test]
async fn a_copy_of_a_room_can_be_backed_up_but_not_restored() {
    let server = Server::start().await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    server.write("r", "INSERT INTO foo VALUES (1, 'x')").await;
    server.rooms.shutdown().await;
    let copies = Copies(path(&server, "dbs"));
    let server = Server::with_store(server.folder.clone(), |config| config, copies).await;
    let backup = path(&server, "backup");
    server.rooms.backup("r", &backup).await.unwrap();
    assert!(matches!(server.rooms.restore("r", &backup).await, Err(Error::NotPrimary { .. })));
    let rows: i64 = open(&backup).query_row("SELECT count(*) FROM foo", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}
