//! What other processes write into a room's file reaches the room's clients.

use std::time::Duration;

use rusqlite::Connection;
use tower_sqlite_sync::{Error, SyncConfig};
use tower_sqlite_sync_wire::{Change, Position, Value};

use crate::fixture::{Client, ClientOptions, SCHEMA, Server, cell, cells, row_of, until};

/// A connection as another process has one: with the engine, and with whatever durability it likes.
fn another_process(server: &Server, room: &str) -> Connection {
    let conn = Connection::open(server.file(room)).unwrap();
    crr::load(&conn).unwrap();
    conn.pragma_update(None, "synchronous", "OFF").unwrap();
    conn
}

#[tokio::test]
async fn a_commit_of_another_process_is_shown_to_connected_clients() {
    let server = Server::start().await;
    for room in ["r", "with.dots-wal.db", "r-2"] {
        let mut client = Client::join(&server, room, 1).await;
        let other = another_process(&server, room);
        for row in 1..4 {
            other.execute("INSERT INTO foo VALUES (?1, 'theirs')", [row]).unwrap();
            assert_eq!(cells(&client.changes().await), [format!("{row}.b='theirs'")]);
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_room_whose_file_is_a_link_is_watched_where_it_really_is() {
    let server = Server::start().await;
    Client::join(&server, "r", 1).await.close().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("file");
    Connection::open(server.file("r")).unwrap().execute("VACUUM INTO ?1", [file.to_str().unwrap()]).unwrap();
    std::os::unix::fs::symlink(&file, server.file("link")).unwrap();
    let mut client = Client::join(&server, "link", 1).await;
    another_process(&server, "link").execute("INSERT INTO foo VALUES (1, 2)", []).unwrap();
    assert_eq!(cells(&client.changes().await), ["1.b=2"]);
}

#[tokio::test]
async fn a_file_system_that_tells_nothing_is_polled() {
    let server = Server::with(|config| config.with_watch_files(false).with_poll_files(Duration::from_millis(10))).await;
    let mut client = Client::join(&server, "r", 1).await;
    another_process(&server, "r").execute("INSERT INTO foo VALUES (1, 2)", []).unwrap();
    assert_eq!(cells(&client.changes().await), ["1.b=2"]);
}

#[tokio::test]
async fn without_either_it_is_shown_with_our_next_commit() {
    let server = Server::with(|config| config.with_watch_files(false)).await;
    let mut client = Client::join(&server, "r", 1).await;
    another_process(&server, "r").execute("INSERT INTO foo VALUES (1, 2)", []).unwrap();
    server.write("r", "INSERT INTO foo VALUES (3, 4)").await;
    assert_eq!(client.gather(2).await, ["1.b=2", "3.b=4"]);
}

#[tokio::test]
async fn a_commit_right_after_a_write_of_ours_that_changed_nothing_is_shown() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let mut writer = Client::join(&server, "r", 2).await;
    server.write("r", "INSERT INTO foo VALUES (1, 2)").await;
    client.changes().await;
    // It takes a db_version and leaves nothing under it; the other process takes the same one.
    server.write("r", "UPDATE foo SET b = b").await;
    another_process(&server, "r").execute("INSERT INTO foo VALUES (3, 4)", []).unwrap();
    assert_eq!(cells(&client.changes().await), ["3.b=4"]);
    writer.push(0, &[cell(5, "b", Value::Integer(6), 1)]).await;
    assert_eq!(cells(&client.changes().await), ["5.b=6"]);
}

#[tokio::test]
async fn both_sides_write_at_once_and_nothing_is_missed() {
    const ROWS: i64 = 60;
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let other = another_process(&server, "r");
    other.busy_timeout(Duration::from_secs(30)).unwrap();
    let theirs = tokio::task::spawn_blocking(move || {
        for row in 0..ROWS {
            other.execute("INSERT INTO foo VALUES (?1, 'theirs')", [1000 + row]).unwrap();
        }
    });
    for row in 0..ROWS {
        server.write("r", &format!("INSERT INTO foo VALUES ({row}, 'ours')")).await;
    }
    theirs.await.unwrap();
    let mut seen = 0;
    until("all rows to be shown", async || {
        seen += cells(&client.changes().await).len();
        seen >= 2 * usize::try_from(ROWS).unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_migration_by_another_process_closes_clients_with_the_schema_of_before() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let next = SCHEMA.replace("NOT NULL, b)", "NOT NULL, b, c)").replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS");
    let version = server.publish(&next);
    let other = another_process(&server, "r");
    other.query_row("SELECT crsql_automigrate(?1, '')", [&next], |_| Ok(())).unwrap();
    other.execute("UPDATE crsql_master SET value = ?1 WHERE key = 'schema_version'", [version]).unwrap();
    assert_eq!(client.closed().await.0, 4400);
    let mut client = Client::connect_with(server.address, "r", 1, ClientOptions::default()).await;
    client.announce_schema("main.sql", version, &[]).await;
    client.start_streaming().await;
}

#[tokio::test]
async fn a_room_whose_file_is_removed_is_opened_anew() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let former = client.server;
    remove(&server, "r");
    assert_eq!(client.closed().await.0, 1001);
    assert_ne!(Client::join(&server, "r", 1).await.server, former);
    assert!(server.file("r").exists());
}

#[cfg(unix)]
#[tokio::test]
async fn clients_of_a_room_whose_folder_is_moved_are_told_at_once_and_get_the_room_back_with_it() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo VALUES (1, 'x')").await;
    client.gather(1).await;
    let (rooms, moved) = (server.folder.path().join("dbs"), server.folder.path().join("moved"));
    std::fs::rename(&rooms, &moved).unwrap();
    assert_eq!(client.closed().await.0, 1001);
    assert!(!rooms.exists(), "nothing is written where the folder was");

    std::fs::rename(&moved, &rooms).unwrap();
    let mut client = Client::join(&server, "r", 1).await;
    assert_eq!(client.gather(1).await, ["1.b='x'"]);
    server.write("r", "INSERT INTO foo VALUES (2, 'y')").await;
    assert_eq!(client.gather(1).await, ["2.b='y'"]);
}

#[tokio::test]
async fn what_is_written_into_a_file_while_its_server_is_stopped_reaches_who_knows_the_room() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    client.push(0, &[cell(1, "b", Value::Text("x"), 1), cell(2, "b", Value::Text("x"), 2)]).await;
    let shown = || server.rooms.rooms()[0].db_version;
    until("what the client wrote to be shown, not only committed", async || shown() > 0).await;
    let (site, seen) = (client.server, shown());
    server.rooms.shutdown().await;

    let plain = Connection::open(server.file("r")).unwrap();
    let refused = plain.execute("INSERT INTO foo VALUES (9, 'untracked')", []).unwrap_err();
    assert!(refused.to_string().contains("crsql_internal_sync_bit"), "{refused}");
    drop(plain);
    let offline = another_process(&server, "r");
    offline.execute_batch("UPDATE foo SET b = 'offline' WHERE a = 1; DELETE FROM foo WHERE a = 2; VACUUM").unwrap();
    offline.execute_batch("PRAGMA journal_mode = DELETE; INSERT INTO foo VALUES (3, 'offline')").unwrap();
    drop(offline);

    let server = server.restart().await;
    let mut client = Client::connect(&server, "r", 1).await;
    client.announce(&[(site, seen)]).await;
    let start = client.start_streaming().await;
    assert_eq!((start.exclude_sites, start.since), (vec![site], Position::at(2)), "it is the same room");
    let news = client.gather(3).await;
    assert_eq!(news, ["1.b='offline'", "2.-1=NULL", "3.b='offline'"]);
}

/// A second server on the folder of another.
async fn beside(server: &Server) -> Server {
    let config = SyncConfig::default()
        .with_db_folder(server.folder.path().join("dbs"))
        .with_schema_folder(server.folder.path().join("schemas"));
    Server::on(server.folder.clone(), config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_that_fork_a_room_at_once_make_it_one_site_and_remember_those_that_it_was() {
    let one = Server::start().await;
    let two = beside(&one).await;
    Client::join(&one, "r", 1).await;
    one.write("r", "INSERT INTO foo VALUES (1, 'x')").await;
    let sites = "SELECT count(*), count(DISTINCT site_id) FROM crsql_sync_lineage";
    for forks in 1..=5 {
        let (first, second) = tokio::join!(one.rooms.fork("r"), two.rooms.fork("r"));
        first.unwrap();
        second.unwrap();
        assert_eq!(one.rows("r", sites).await, [format!("{0}|{0}", 2 * forks)]);
    }
    let site = "SELECT hex(crsql_site_id()), (SELECT group_concat(b) FROM foo)";
    assert_eq!(one.rows("r", site).await, two.rows("r", site).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_two_servers_on_one_folder_converge_and_then_there_is_quiet() {
    const ROUNDS: u8 = 20;
    let one = Server::start().await;
    let two = beside(&one).await;
    let mut readers = [Client::join(&one, "r", 11).await, Client::join(&two, "r", 12).await];
    let mut writers = [Client::join(&one, "r", 1).await, Client::join(&two, "r", 2).await];
    // Who reads the whole time is in the way of checkpoints.
    let other = another_process(&one, "r");
    other.execute_batch("BEGIN; SELECT * FROM foo").unwrap();
    let writing = writers.iter_mut().map(async |writer| {
        let first = writer.site.as_bytes()[0];
        for round in 0..ROUNDS {
            let version = i64::from(round);
            // One of their own, and one that both write.
            let own = cell(first + 2 * round, "b", Value::Integer(1), version + 1);
            let common = cell(100, "b", Value::Integer(version), version + 1);
            writer.push(version, &[own, Change { col_version: version + 1, seq: 1, ..common }]).await;
        }
    });
    futures_util::future::join_all(writing).await;

    for reader in &mut readers {
        let mut rows = std::collections::BTreeMap::new();
        until("a reader to have all that was written", async || {
            for change in reader.changes().await.changes.iter() {
                rows.insert(row_of(&change), format!("{:?}", change.val));
            }
            let last = format!("{:?}", Value::Integer(i64::from(ROUNDS) - 1));
            rows.len() == 1 + 2 * usize::from(ROUNDS) && rows[&100] == last
        })
        .await;
    }
    // What the one commits, the other needn't answer: with a reader in the way of checkpoints, the log only grows.
    let log = || std::fs::metadata(one.file("r-wal")).unwrap().len();
    let (servers, mut growth) = ([&one, &two], Vec::new());
    for row in 0..20 {
        let before = log();
        let (writer, reader) = (servers[row % 2], &mut readers[1 - row % 2]);
        writer.write("r", &format!("UPDATE foo SET b = 'row {row}' WHERE a = 100")).await;
        until("it to be shown", async || cells(&reader.changes().await) == [format!("100.b='row {row}'")]).await;
        growth.push(log() - before);
    }
    let least = growth.iter().min().unwrap();
    assert!(growth.iter().filter(|grown| *grown == least).count() >= 15, "{growth:?}");
}

#[tokio::test]
async fn a_client_that_joins_between_a_commit_of_another_process_and_the_next_look_misses_nothing() {
    let server = unwatched().await;
    let mut writer = Client::join(&server, "r", 1).await;
    for row in 1..=2 {
        writer.push(i64::from(row) - 1, &[cell(row, "b", Value::Integer(1), row.into())]).await;
        server.has("r", &format!("SELECT a FROM foo WHERE a = {row}"), &[&row.to_string()]).await;
    }
    // It replaces what is under the first db_version. Nothing tells of it, and nobody writes here.
    another_process(&server, "r").execute("UPDATE foo SET b = 'theirs' WHERE a = 1", []).unwrap();
    let mut client = Client::join(&server, "r", 2).await;
    assert_eq!(client.gather(2).await, ["2.b=1", "1.b='theirs'"]);
}

#[tokio::test]
async fn a_room_that_another_process_forked_is_left_by_who_knows_the_former_site() {
    for write in [false, true] {
        let server = unwatched().await;
        let mut client = Client::join(&server, "r", 1).await;
        server.write("r", "INSERT INTO foo VALUES (1, 1)").await;
        client.changes().await;
        let two = beside(&server).await;
        two.rooms.fork("r").await.unwrap();
        two.write("r", "INSERT INTO foo VALUES (2, 2)").await;
        let site = Client::join(&two, "r", 3).await.server;
        // Whoever writes finds out, and so does who reads from the beginning.
        let mut other = Client::join(&server, "r", 2).await;
        if write {
            other.push(0, &[cell(3, "b", Value::Integer(3), 1)]).await;
        }
        assert_eq!((client.closed().await.0, other.closed().await.0), (1001, 1001));
        assert_eq!(Client::join(&server, "r", 1).await.server, site, "it has not forked once more");
        let rows = server.rows("r", "SELECT a FROM foo").await;
        assert_eq!(rows, ["1", "2"], "what was written to the former site is to be sent again");
    }
}

#[tokio::test]
async fn nothing_is_written_into_a_backup_that_was_copied_into_a_rooms_file_before_the_room_forks() {
    for write in [false, true] {
        let server = unwatched().await;
        let mut writer = Client::join(&server, "r", 1).await;
        let mut reader = Client::join(&server, "r", 2).await;
        let backup = server.file("backup");
        let file = another_process(&server, "r");
        file.execute("VACUUM INTO ?1", [backup.to_str().unwrap()]).unwrap();
        for row in 1..=3 {
            writer.push(i64::from(row) - 1, &[cell(row, "b", Value::Integer(1), row.into())]).await;
        }
        reader.gather(3).await;
        let (former, seen) = (reader.server, server.rooms.rooms()[0].db_version);
        let mut target = file;
        let source = Connection::open(backup).unwrap();
        let copying = rusqlite::backup::Backup::new(&source, &mut target).unwrap();
        copying.run_to_completion(1000, Duration::ZERO, None).unwrap();
        drop(copying);

        // It would take a db_version that the reader has passed.
        if write {
            let written = server.rooms.write("r", |tx| tx.execute_batch("INSERT INTO foo VALUES (4, 4)")).await;
            assert!(written.is_err());
        } else {
            writer.push(0, &[cell(4, "b", Value::Integer(4), 4)]).await;
        }
        assert_eq!((writer.closed().await.0, reader.closed().await.0), (1001, 1001));
        let mut reader = Client::connect_with(server.address, "r", 2, ClientOptions::default()).await;
        reader.announce(&[(former, seen)]).await;
        assert_ne!(reader.start_streaming().await.exclude_sites, [former]);
        let mut writer = Client::join(&server, "r", 1).await;
        writer.push(0, &[cell(4, "b", Value::Integer(4), 4)]).await;
        assert_eq!(cells(&reader.changes().await), ["4.b=4"]);
    }
}

#[tokio::test]
async fn another_database_that_is_copied_into_a_rooms_file_is_another_site_than_both() {
    let server = Server::start().await;
    let mut sites = Vec::new();
    for room in ["r", "s"] {
        let mut client = Client::join(&server, room, 1).await;
        server.write(room, "INSERT INTO foo VALUES (1, 1)").await;
        client.changes().await;
        sites.push(client.server);
    }
    let mut client = Client::join(&server, "r", 1).await;
    let (source, mut target) = (another_process(&server, "s"), another_process(&server, "r"));
    let backup = rusqlite::backup::Backup::new(&source, &mut target).unwrap();
    backup.run_to_completion(1000, Duration::ZERO, None).unwrap();
    drop(backup);
    assert_eq!(client.closed().await.0, 1001);
    let site = Client::join(&server, "r", 1).await.server;
    assert!(!sites.contains(&site));
}

#[tokio::test]
async fn a_room_goes_on_when_another_process_makes_a_table_an_ordinary_one_or_rewrites_the_file() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo VALUES (1, 1)").await;
    client.changes().await;
    let other = another_process(&server, "r");
    other.query_row("SELECT crsql_as_table('foo')", [], |_| Ok(())).unwrap();
    other.execute_batch("VACUUM").unwrap();
    let refused = other.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()));
    assert!(refused.is_err(), "not while the room is open");
    other.execute("INSERT INTO typed (id) VALUES (1)", []).unwrap();
    assert_eq!(client.changes().await.changes.iter().next().unwrap().table, "typed");
    server.write("r", "INSERT INTO typed (id) VALUES (2)").await;
    client.changes().await;
}

// ---- Files that take the place of others ----

/// A server that hears nothing of other processes, and reads each client's changes from the file.
async fn unwatched() -> Server {
    Server::with(|config| {
        config.with_watch_files(false).with_room_idle(Duration::from_millis(1)).with_feed_window_bytes(1)
    })
    .await
}

/// Puts a copy of a room's file in its place.
fn replace(server: &Server, room: &str) {
    let (file, copy) = (server.file(room), server.file("copy"));
    Connection::open(&file).unwrap().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    std::fs::rename(copy, file).unwrap();
    remove_beside(server, room);
}

/// Removes a room's file.
fn remove(server: &Server, room: &str) {
    std::fs::remove_file(server.file(room)).unwrap();
    remove_beside(server, room);
}

/// Removes what SQLite has beside a room's file. If the room sleeps, there is nothing.
fn remove_beside(server: &Server, room: &str) {
    for suffix in ["-wal", "-shm"] {
        drop(std::fs::remove_file(server.file(&format!("{room}{suffix}"))));
    }
}

#[tokio::test]
async fn what_is_written_into_a_file_that_was_replaced_is_neither_shown_nor_kept() {
    let server = unwatched().await;
    let mut reader = Client::join(&server, "r", 1).await;
    let mut writer = Client::join(&server, "r", 2).await;
    let former = writer.server;
    replace(&server, "r");
    writer.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    assert_eq!(writer.closed().await.0, 1001);
    assert_eq!(reader.closed().await.0, 1001);
    let mut writer = Client::connect_with(server.address, "r", 2, ClientOptions::default()).await;
    writer.announce(&[]).await;
    let start = writer.start_streaming().await;
    assert_eq!(start.since, Position::START, "it is asked for again");
    assert_ne!(start.exclude_sites, [former]);

    let server = unwatched().await;
    let mut reader = Client::join(&server, "r", 1).await;
    replace(&server, "r");
    let written = server.rooms.write("r", |tx| tx.execute_batch("INSERT INTO foo VALUES (1, 1)")).await;
    assert!(matches!(written, Err(Error::FileReplaced { .. })), "{written:?}");
    assert_eq!(reader.closed().await.0, 1001);
    assert_eq!(server.rows("r", "SELECT * FROM foo").await, [""; 0]);
}

#[tokio::test]
async fn what_is_read_from_a_file_that_was_replaced_is_not_sent() {
    let server = unwatched().await;
    let mut client = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo VALUES (1, 1)").await;
    client.changes().await;
    replace(&server, "r");
    let mut late = Client::connect(&server, "r", 2).await;
    late.announce(&[]).await;
    assert_eq!(late.closed().await.0, 1001);
    assert_ne!(Client::join(&server, "r", 2).await.server, client.server);
}

#[tokio::test]
async fn a_room_forks_whose_file_was_replaced_before_it_was_closed_and_nobody_noticed() {
    for restart in [false, true] {
        let server = unwatched().await;
        let client = Client::join(&server, "r", 1).await;
        let former = client.server;
        replace(&server, "r");
        client.close().await;
        let server = if restart { server.restart().await } else { server };
        until("the room to be closed", async || server.rooms.rooms().is_empty()).await;
        let site = Client::join(&server, "r", 1).await.server;
        assert_ne!(site, former);
        let server = server.restart().await;
        assert_eq!(Client::join(&server, "r", 1).await.server, site, "once");
    }
}

#[tokio::test]
async fn a_room_forks_also_if_the_first_who_asks_for_it_finds_no_file() {
    let server = unwatched().await;
    let former = Client::join(&server, "r", 1).await.server;
    until("the room to be closed", async || server.rooms.rooms().is_empty()).await;
    let backup = server.file("backup");
    std::fs::copy(server.file("r"), &backup).unwrap();
    let client = Client::join(&server, "r", 1).await;
    remove(&server, "r");
    client.close().await;
    until("the room to be closed", async || server.rooms.rooms().is_empty()).await;
    assert!(matches!(server.rooms.write("r", |_| Ok(())).await, Err(Error::NoSuchRoom { .. })));
    std::fs::rename(backup, server.file("r")).unwrap();
    assert_ne!(Client::join(&server, "r", 1).await.server, former);
}
