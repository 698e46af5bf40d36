//! Rooms in which nothing happens sleep: their databases are closed, and nobody notices.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use tower_sqlite_sync::Error;
use tower_sqlite_sync_wire::Value;

use crate::fixture::{Client, Server, cell, cells, until};

/// A server whose rooms sleep as soon as they have no work.
async fn sleepy() -> Server {
    Server::with(|config| config.with_awake_rooms(0)).await
}

fn is_awake(server: &Server, room: &str) -> bool {
    let rooms = server.rooms.rooms();
    rooms.iter().find(|status| status.name.as_str() == room).unwrap().is_awake
}

async fn asleep(server: &Server, room: &str) {
    until("the room to sleep", async || !is_awake(server, room)).await;
}

/// A connection as another process has one.
fn another_process(server: &Server, room: &str) -> Connection {
    let conn = Connection::open(server.file(room)).unwrap();
    crr::load(&conn).unwrap();
    conn
}

/// Makes a room whose file is a link to `file` in another folder.
#[cfg(unix)]
async fn linked(server: &Server, room: &str) -> tempfile::TempDir {
    Client::join(server, "r", 1).await.close().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("file");
    Connection::open(server.file("r")).unwrap().execute("VACUUM INTO ?1", [file.to_str().unwrap()]).unwrap();
    std::os::unix::fs::symlink(&file, server.file(room)).unwrap();
    elsewhere
}

#[tokio::test]
async fn who_writes_wakes_the_room_and_everybody_gets_it() {
    let server = sleepy().await;
    let mut writer = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    for n in 1..=5 {
        asleep(&server, "r").await;
        let version = i64::from(n);
        writer.push(version - 1, &[cell(n, "b", Value::Integer(version), version)]).await;
        assert_eq!(cells(&reader.changes().await), [format!("{n}.b={n}")]);
    }
    asleep(&server, "r").await;
    let mut late = Client::join(&server, "r", 3).await;
    assert_eq!(late.gather(5).await, ["1.b=1", "2.b=2", "3.b=3", "4.b=4", "5.b=5"]);
}

#[tokio::test]
async fn rooms_that_had_work_last_stay_awake() {
    let server = Server::with(|config| config.with_awake_rooms(2)).await;
    let mut clients = Vec::new();
    for room in ["a", "b", "c"] {
        clients.push(Client::join(&server, room, 1).await);
        server.write(room, "INSERT INTO foo VALUES (1, 2)").await;
    }
    asleep(&server, "a").await;
    assert!(is_awake(&server, "b") && is_awake(&server, "c"));
    // It is woken so soon that one more stays awake.
    server.write("a", "INSERT INTO foo VALUES (3, 4)").await;
    clients.push(Client::join(&server, "d", 1).await);
    asleep(&server, "b").await;
    assert!(["a", "c", "d"].iter().all(|room| is_awake(&server, room)));
}

#[tokio::test]
async fn the_application_reads_and_writes_a_room_that_sleeps() {
    let server = sleepy().await;
    let mut client = Client::join(&server, "r", 1).await;
    asleep(&server, "r").await;
    server.write("r", "INSERT INTO foo VALUES (1, 2)").await;
    assert_eq!(cells(&client.changes().await), ["1.b=2"]);
    asleep(&server, "r").await;
    assert_eq!(server.rows("r", "SELECT * FROM foo").await, ["1|2"]);
    // What it was read with is closed, too, once the room has woken up for it: until then it may look asleep.
    #[cfg(target_os = "linux")]
    until("the file to be closed", async || !is_open_here(&server.file("r"))).await;
    asleep(&server, "r").await;
}

/// Whether this process has a file open.
#[cfg(target_os = "linux")]
fn is_open_here(file: &std::path::Path) -> bool {
    let file = file.canonicalize().unwrap();
    let mut open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link == file))
}

#[tokio::test]
async fn what_another_process_writes_is_shown() {
    let server = sleepy().await;
    let mut client = Client::join(&server, "r", 1).await;
    for row in 1..=20 {
        asleep(&server, "r").await;
        another_process(&server, "r").execute("INSERT INTO foo VALUES (?1, 2)", [row]).unwrap();
        assert_eq!(cells(&client.changes().await), [format!("{row}.b=2")]);
    }
    // One that has it open is not kept from anything.
    let other = another_process(&server, "r");
    for row in 21..=40 {
        other.execute("INSERT INTO foo VALUES (?1, 2)", [row]).unwrap();
        assert_eq!(cells(&client.changes().await), [format!("{row}.b=2")]);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn where_a_file_is_a_link_what_is_written_beside_the_real_one_is_shown() {
    let server = sleepy().await;
    let _elsewhere = linked(&server, "link").await;
    let mut client = Client::join(&server, "link", 1).await;
    let other = another_process(&server, "link");
    for row in 1..=5 {
        asleep(&server, "link").await;
        // Only the log shows it, while that process has the file open.
        other.execute("INSERT INTO foo VALUES (?1, 2)", [row]).unwrap();
        assert_eq!(cells(&client.changes().await), [format!("{row}.b=2")]);
    }
}

#[tokio::test]
async fn without_being_told_it_is_shown_with_our_next_commit() {
    let server = Server::with(|config| config.with_awake_rooms(0).with_watch_files(false)).await;
    let mut client = Client::join(&server, "r", 1).await;
    asleep(&server, "r").await;
    another_process(&server, "r").execute("INSERT INTO foo VALUES (1, 2)", []).unwrap();
    server.write("r", "INSERT INTO foo VALUES (3, 4)").await;
    assert_eq!(client.gather(2).await, ["1.b=2", "3.b=4"]);
}

#[tokio::test]
async fn a_room_that_is_closed_asleep_is_the_same_when_it_is_opened_again() {
    let server = sleepy().await;
    let mut client = Client::join(&server, "r", 1).await;
    let site = client.server;
    client.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    server.has("r", "SELECT * FROM foo", &["1|1"]).await;
    asleep(&server, "r").await;
    let server = server.restart().await;
    assert!(!server.file("r-wal").exists(), "all is in the file");
    let mut client = Client::join(&server, "r", 2).await;
    assert_eq!(client.server, site);
    assert_eq!(cells(&client.changes().await), ["1.b=1"]);
}

#[tokio::test]
async fn a_room_whose_file_is_gone_or_another_one_is_not_written() {
    for replace in [false, true] {
        // Nothing tells of it before the room is woken.
        let server = Server::with(|config| config.with_awake_rooms(0).with_watch_files(false)).await;
        let mut client = Client::join(&server, "r", 1).await;
        let former = client.server;
        asleep(&server, "r").await;
        let file = server.file("r");
        if replace {
            let copy = server.file("copy");
            std::fs::copy(&file, &copy).unwrap();
            std::fs::remove_file(&file).unwrap();
            std::fs::rename(copy, &file).unwrap();
        } else {
            std::fs::remove_file(&file).unwrap();
        }
        let written = server.rooms.write("r", |tx| tx.execute_batch("INSERT INTO foo VALUES (1, 1)")).await;
        assert!(matches!(written, Err(Error::FileReplaced { .. })), "{written:?}");
        assert_eq!(client.closed().await.0, 1001);
        assert_eq!(file.exists(), replace);
        let client = Client::join(&server, "r", 1).await;
        assert_ne!(client.server, former);
        assert_eq!(server.rows("r", "SELECT * FROM foo").await, [""; 0]);
    }
}

#[tokio::test]
async fn an_earlier_database_in_its_file_forks_it() {
    for is_watched in [true, false] {
        let server = Server::with(|config| config.with_awake_rooms(0).with_watch_files(is_watched)).await;
        let mut client = Client::join(&server, "r", 1).await;
        let former = client.server;
        asleep(&server, "r").await;
        let earlier = std::fs::read(server.file("r")).unwrap();
        server.write("r", "INSERT INTO foo VALUES (1, 1)").await;
        client.changes().await;
        asleep(&server, "r").await;
        std::fs::write(server.file("r"), earlier).unwrap();
        std::fs::remove_file(server.file("r-wal")).unwrap();
        if !is_watched {
            let written = server.rooms.write("r", |tx| tx.execute_batch("INSERT INTO foo VALUES (2, 2)")).await;
            assert!(written.is_err());
        }
        assert_eq!(client.closed().await.0, 1001);
        assert_ne!(Client::join(&server, "r", 1).await.server, former);
        assert_eq!(server.rows("r", "SELECT * FROM foo").await, [""; 0]);
    }
}

#[tokio::test]
async fn a_backup_takes_not_the_place_of_a_room_that_sleeps() {
    let server = sleepy().await;
    let _clients = [Client::join(&server, "r", 1).await, Client::join(&server, "other", 1).await];
    asleep(&server, "other").await;
    let refused = server.rooms.backup("r", server.file("other")).await.unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
}

#[tokio::test]
async fn what_another_process_is_about_to_commit_while_the_room_falls_asleep_is_shown() {
    let server = sleepy().await;
    let mut client = Client::join(&server, "r", 1).await;
    let other = another_process(&server, "r");
    for row in 1..=5 {
        other.execute_batch(&format!("BEGIN IMMEDIATE; INSERT INTO foo VALUES ({row}, 2)")).unwrap();
        asleep(&server, "r").await;
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(cells(&client.changes().await), [format!("{row}.b=2")]);
    }
}

#[tokio::test]
async fn a_room_that_can_not_be_woken_now_can_later_and_its_clients_stay() {
    let server = Server::with(|config| config.with_awake_rooms(0).with_busy_timeout(Duration::from_millis(10))).await;
    let mut client = Client::join(&server, "r", 1).await;
    asleep(&server, "r").await;
    let other = another_process(&server, "r");
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; INSERT INTO foo VALUES (1, 2)").unwrap();
    let written = server.rooms.write("r", |tx| tx.execute_batch("INSERT INTO foo VALUES (3, 4)")).await;
    assert!(written.unwrap_err().to_string().contains("locked"));
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    server.write("r", "INSERT INTO foo VALUES (5, 6)").await;
    assert_eq!(cells(&client.changes().await), ["5.b=6"]);
}

#[tokio::test]
async fn another_site_or_schema_that_another_process_gave_the_room_is_noticed() {
    for (sql, code) in [
        ("UPDATE crsql_site_id SET site_id = randomblob(16) WHERE ordinal = 0", 1001),
        ("UPDATE crsql_master SET value = 7 WHERE key = 'schema_version'", 4400),
    ] {
        let server = sleepy().await;
        let mut client = Client::join(&server, "r", 1).await;
        asleep(&server, "r").await;
        another_process(&server, "r").execute_batch(sql).unwrap();
        assert_eq!(client.closed().await.0, code, "{sql}");
    }
}

#[tokio::test]
async fn a_room_whose_log_was_damaged_forks() {
    let server = Server::with(|config| config.with_awake_rooms(0).with_watch_files(false)).await;
    forks_with_a_damaged_log(&server, "r", &server.file("r-wal")).await;
}

#[cfg(unix)]
#[tokio::test]
async fn so_does_one_whose_file_is_a_link() {
    let server = Server::with(|config| config.with_awake_rooms(0).with_watch_files(false)).await;
    let elsewhere = linked(&server, "link").await;
    forks_with_a_damaged_log(&server, "link", &elsewhere.path().join("file-wal")).await;
}

async fn forks_with_a_damaged_log(server: &Server, room: &str, log: &Path) {
    let mut client = Client::join(server, room, 1).await;
    let former = client.server;
    for row in 1..=3 {
        server.write(room, &format!("INSERT INTO foo VALUES ({row}, 2)")).await;
        client.changes().await;
    }
    asleep(server, room).await;
    let mut bytes = std::fs::read(log).unwrap();
    bytes[100] ^= 1;
    std::fs::write(log, bytes).unwrap();
    let written = server.rooms.write(room, |tx| tx.execute_batch("INSERT INTO foo VALUES (4, 2)")).await;
    assert!(matches!(written, Err(Error::FileReplaced { .. })), "{written:?}");
    assert_eq!(client.closed().await.0, 1001);
    assert_ne!(Client::join(server, room, 1).await.server, former);
}

#[tokio::test]
async fn a_room_that_sleeps_is_forked_backed_up_and_restored() {
    let server = sleepy().await;
    let mut client = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo VALUES (1, 2)").await;
    client.changes().await;
    asleep(&server, "r").await;
    let copy = server.folder.path().join("copy");
    server.rooms.backup("r", copy.clone()).await.unwrap();
    server.rooms.fork("r").await.unwrap();
    assert_eq!(client.closed().await.0, 1001);
    let mut client = Client::join(&server, "r", 2).await;
    assert_eq!(cells(&client.changes().await), ["1.b=2"]);
    server.write("r", "INSERT INTO foo VALUES (3, 4)").await;
    client.changes().await;
    asleep(&server, "r").await;
    server.rooms.restore("r", copy).await.unwrap();
    assert_eq!(client.closed().await.0, 1001);
    assert_eq!(server.rows("r", "SELECT * FROM foo").await, ["1|2"]);
}
