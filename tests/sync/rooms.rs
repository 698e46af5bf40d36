//! Rooms: opened once, closed when idle, kept apart; and the application's own way to them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rusqlite::Connection;
use tower_sqlite_sync::Error;
use tower_sqlite_sync_wire::{Message, Position, SiteId, Value};

use crate::fixture::{Client, ClientOptions, Server, cell, cells, soon, until};

const ROWS: &str = "SELECT a, b FROM foo ORDER BY a";

fn options(token: &'static str) -> ClientOptions {
    ClientOptions { token: Some(token), ..Default::default() }
}

/// Waits until no room is open.
async fn all_closed(server: &Server) {
    until("the rooms to close", async || server.rooms.rooms().is_empty()).await;
}

#[tokio::test]
async fn a_hundred_first_announces_open_a_room_once() {
    let server = Server::start().await;
    std::fs::write(
        server.folder.path().join("schemas/once.sql"),
        "CREATE TABLE foo (a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('foo');
         CREATE TABLE applied (n); INSERT INTO applied VALUES (1);",
    )
    .unwrap();
    let text = std::fs::read_to_string(server.folder.path().join("schemas/once.sql")).unwrap();
    let version = tower_sqlite_sync_wire::schema_version(&text);
    let joining = (1..=100).map(|n| {
        let server = &server;
        async move {
            let mut client = Client::connect(server, "r", n).await;
            client.announce_schema("once.sql", version, &[]).await;
            let start = client.start_streaming().await;
            (client, start.exclude_sites[0])
        }
    });
    let clients = join_all(joining).await;
    assert!(clients.iter().all(|(_, site)| *site == clients[0].1), "all see one server");
    assert_eq!(server.rows("r", "SELECT count(*) FROM applied").await, ["1"]);
    assert_eq!(server.connections("r"), 100);
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    for (mut client, _) in clients {
        assert_eq!(cells(&client.changes().await), ["1.b='x'"]);
    }
}

#[tokio::test]
async fn a_room_whose_file_was_no_database_works_once_the_file_is_one() {
    let server = Server::start().await;
    std::fs::create_dir(server.folder.path().join("dbs")).unwrap();
    std::fs::write(
        server.file("r"),
        "this is no database, and longer than a header of a hundred bytes would be, to be sure of it",
    )
    .unwrap();
    for _ in 0..3 {
        let mut client = Client::connect(&server, "r", 1).await;
        client.announce(&[]).await;
        let (code, reason) = client.closed().await;
        assert_eq!(code, 1011, "{reason}");
        assert!(!reason.contains(server.folder.path().to_str().unwrap()), "{reason}");
    }
    assert!(server.rooms.rooms().is_empty());
    std::fs::remove_file(server.file("r")).unwrap();
    Client::join(&server, "r", 1).await;
}

#[tokio::test]
async fn a_room_whose_file_is_a_folder_is_refused_and_forgotten() {
    let server = Server::start().await;
    std::fs::create_dir_all(server.file("r")).unwrap();
    let mut client = Client::connect(&server, "r", 1).await;
    client.announce(&[]).await;
    assert_eq!(client.closed().await.0, 1011);
    std::fs::remove_dir(server.file("r")).unwrap();
    Client::join(&server, "r", 1).await;
}

#[tokio::test]
async fn a_failed_announce_does_not_spoil_the_room_for_those_who_wait_for_it() {
    let server = Server::start().await;
    let joining = (1..=40).map(|n| {
        let server = &server;
        async move {
            let mut client = Client::connect(server, "r", n).await;
            if n % 2 == 0 {
                client.announce_schema("none.sql", 1, &[]).await;
                assert_eq!(client.closed().await.0, 4400);
            } else {
                client.announce(&[]).await;
                client.start_streaming().await;
            }
        }
    });
    soon("all of them", join_all(joining)).await;
    assert_eq!(server.rooms.rooms().len(), 1);
}

#[tokio::test]
async fn an_idle_room_closes_its_files_and_opens_again_with_what_was_in_it() {
    let server = Server::with(|config| config.with_room_idle(Duration::ZERO)).await;
    let mut author = Client::join(&server, "r", 1).await;
    let site = author.server;
    author.push(0, &[cell(1, "b", Value::Text("kept"), 40)]).await;
    server.has("r", ROWS, &["1|'kept'"]).await;
    assert!(server.file("r-wal").exists());
    author.close().await;
    all_closed(&server).await;
    until("the log to go", async || !server.file("r-wal").exists()).await;

    let mut reader = Client::connect(&server, "r", 2).await;
    reader.announce(&[]).await;
    let start = reader.start_streaming().await;
    assert_eq!(start.exclude_sites, [site], "it is the same site");
    assert_eq!(cells(&reader.changes().await), ["1.b='kept'"]);
    let mut author = Client::back(&server, "r", 1).await;
    assert_eq!(author.start_streaming().await.since, Position::at(40));
}

#[tokio::test]
async fn a_room_that_nobody_uses_makes_place_for_another_and_comes_back() {
    let server = Server::with(|config| config.with_max_rooms(2)).await;
    let mut first = Client::join(&server, "first", 1).await;
    let busy = Client::join(&server, "busy", 2).await;
    first.push(0, &[cell(1, "b", Value::Text("kept"), 1)]).await;
    server.has("first", ROWS, &["1|'kept'"]).await;
    first.close().await;
    until("nobody to use the first room", async || server.connections("first") == 0).await;
    let third = Client::join(&server, "third", 3).await;
    let open: Vec<String> = server.rooms.rooms().iter().map(|status| status.name.to_string()).collect();
    assert_eq!((open.len(), open.contains(&"first".to_owned())), (2, false), "{open:?}");

    third.close().await;
    until("nobody to use the third room", async || server.connections("third") == 0).await;
    assert_eq!(cells(&Client::join(&server, "first", 4).await.changes().await), ["1.b='kept'"]);
    busy.close().await;
}

#[tokio::test]
async fn rooms_in_memory_make_place_for_nobody() {
    let server = Server::with(|config| config.with_memory(true).with_max_rooms(1)).await;
    Client::join(&server, "first", 1).await.close().await;
    until("nobody to use the room", async || server.connections("first") == 0).await;
    let mut other = Client::connect(&server, "other", 2).await;
    other.announce(&[]).await;
    assert_eq!(other.closed().await.0, 1013);
}

#[tokio::test]
async fn rooms_that_close_and_open_all_the_time_lose_nothing() {
    let server = Server::with(|config| config.with_room_idle(Duration::ZERO)).await;
    let writing = (1..=8).map(|n| {
        let server = &server;
        async move {
            for v in 0..10 {
                let mut client = Client::connect(server, "r", n).await;
                client.announce(&[]).await;
                assert!(client.start_streaming().await.since <= Position::at(v));
                let change =
                    tower_sqlite_sync_wire::Change { col_version: v + 1, ..cell(n, "b", Value::Integer(v), v + 1) };
                client.push(0, &[change]).await;
                client.close().await;
            }
        }
    });
    soon("all of them", join_all(writing)).await;
    let rows: Vec<String> = (1..=8).map(|n| format!("{n}|9")).collect();
    server.has("r", ROWS, &rows.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn rooms_do_not_mix() {
    let server = Server::start().await;
    let mut one = Client::join(&server, "one", 1).await;
    let mut two = Client::join(&server, "two.b-c_d", 1).await;
    assert_ne!(one.server, two.server);
    server.write("one", "INSERT INTO foo (a, b) VALUES (1, 'one')").await;
    server.write("two.b-c_d", "INSERT INTO foo (a, b) VALUES (1, 'two')").await;
    assert_eq!(cells(&one.changes().await), ["1.b='one'"]);
    assert_eq!(cells(&two.changes().await), ["1.b='two'"]);
    assert!(server.file("one").exists() && server.file("two.b-c_d").exists());
}

#[tokio::test]
async fn rooms_in_memory_are_shared_and_vanish_when_nobody_uses_them() {
    let server = Server::with(|config| config.with_memory(true).with_room_idle(Duration::ZERO)).await;
    let mut author = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    let before = author.server;
    author.push(0, &[cell(1, "b", Value::Number(1.0), 1)]).await;
    assert_eq!(cells(&reader.changes().await), ["1.b=1"]);
    let mut late = Client::join(&server, "r", 3).await;
    assert_eq!(cells(&late.changes().await), ["1.b=1"]);
    reader.reject(0).await;
    assert_eq!(cells(&reader.changes().await), ["1.b=1"]);
    assert_eq!(server.rows("r", ROWS).await, ["1|1"]);
    for client in [author, reader, late] {
        client.close().await;
    }
    all_closed(&server).await;
    assert!(!server.folder.path().join("dbs").exists(), "no file was made");
    assert_ne!(Client::join(&server, "r", 1).await.server, before, "a new database");
}

#[tokio::test]
async fn the_reference_name_for_a_memory_room_needs_wide_names() {
    let server = Server::with(|config| config.with_wide_room_names(true)).await;
    let mut one = Client::join(&server, ":memory:", 1).await;
    let mut two = Client::join(&server, ":memory:", 2).await;
    one.push(0, &[cell(1, "b", Value::Number(1.0), 1)]).await;
    assert_eq!(cells(&two.changes().await), ["1.b=1"]);
    let mut spaced = Client::join(&server, "a room: é", 1).await;
    server.write("a room: é", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    assert_eq!(cells(&spaced.changes().await), ["1.b='x'"]);
    let files: Vec<_> =
        std::fs::read_dir(server.folder.path().join("dbs")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!files.iter().any(|name| name.to_str().unwrap().contains("memory")), "{files:?}");

    let strict = Server::start().await;
    assert!(Client::try_connect(strict.address, ":memory:", 1, ClientOptions::default()).await.is_err());
}

#[tokio::test]
async fn a_restart_keeps_the_site_id_the_rows_and_the_positions() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let site = author.server;
    author.push(0, &[cell(1, "b", Value::Text("kept"), 9)]).await;
    server.has("r", ROWS, &["1|'kept'"]).await;
    let server = server.restart().await;
    let mut author = Client::connect(&server, "r", 1).await;
    author.announce(&[(site, 9)]).await;
    let start = author.start_streaming().await;
    assert_eq!((start.since, start.exclude_sites), (Position::at(9), vec![site]));
    server.write("r", "INSERT INTO foo (a, b) VALUES (2, 'new')").await;
    let news = author.changes().await;
    assert_eq!((news.since, cells(&news)), (Position::at(9), vec!["2.b='new'".to_owned()]));
}

#[tokio::test]
async fn the_application_makes_reads_and_writes_rooms_and_lists_them() {
    let server = Server::start().await;
    let missing = server.rooms.read("none", |_| Ok(())).await;
    assert!(matches!(missing, Err(Error::NoSuchRoom { .. })), "{missing:?}");
    assert!(matches!(server.rooms.write("none", |_| Ok(())).await, Err(Error::NoSuchRoom { .. })));
    assert!(matches!(server.rooms.create_room("r", "none.sql").await, Err(Error::SchemaUnknown { .. })));
    assert!(matches!(server.rooms.create_room("../r", "main.sql").await, Err(Error::RoomName(_))));
    std::fs::write(server.folder.path().join("schemas/begun.sql"), "").unwrap();
    assert!(matches!(server.rooms.create_room("r", "begun.sql").await, Err(Error::SchemaUnknown { .. })));
    assert!(!server.folder.path().join("dbs").exists(), "nothing was made");

    server.rooms.create_room("r", "main.sql").await.unwrap();
    server.rooms.create_room("r", "main.sql").await.unwrap();
    server.rooms.create_room("a", "main.sql").await.unwrap();
    let insert = "INSERT INTO foo (a, b) VALUES (1, 2) RETURNING a";
    let id = server.rooms.write("r", |tx| tx.query_row(insert, [], |row| row.get::<_, i64>(0)));
    assert_eq!(id.await.unwrap(), 1);
    assert_eq!(server.rows("r", ROWS).await, ["1|2"]);
    let listed: Vec<(String, usize, i64)> = server
        .rooms
        .rooms()
        .into_iter()
        .map(|room| (room.name.to_string(), room.connections, room.db_version))
        .collect();
    assert_eq!(listed, [("a".to_owned(), 0, 0), ("r".to_owned(), 0, 1)]);
}

#[tokio::test]
async fn a_read_can_not_write() {
    let server = Server::start().await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    let written = server.rooms.read("r", |conn| conn.execute("INSERT INTO foo (a, b) VALUES (1, 2)", [])).await;
    assert!(matches!(written, Err(Error::Sqlite { .. })), "{written:?}");
    assert_eq!(server.rows("r", ROWS).await, [""; 0]);
}

#[tokio::test]
async fn a_read_of_a_memory_room_can_not_write_either() {
    let server = Server::with(|config| config.with_memory(true)).await;
    let mut client = Client::join(&server, "r", 1).await;
    let written = server.rooms.read("r", |conn| conn.execute("INSERT INTO foo (a, b) VALUES (1, 2)", [])).await;
    assert!(matches!(written, Err(Error::Sqlite { .. })), "{written:?}");
    server.write("r", "INSERT INTO foo (a, b) VALUES (2, 'x')").await;
    assert_eq!(cells(&client.changes().await), ["2.b='x'"]);
}

#[tokio::test]
async fn a_closure_that_fails_or_panics_is_rolled_back_and_hurts_nobody() {
    for memory in [false, true] {
        let server = Server::with(|config| config.with_memory(memory)).await;
        let mut client = Client::join(&server, "r", 1).await;
        let failed = server.rooms.write("r", |tx| {
            tx.execute("INSERT INTO foo (a, b) VALUES (1, 'lost')", [])?;
            tx.execute("INSERT INTO none VALUES (1)", [])
        });
        assert!(matches!(failed.await, Err(Error::Sqlite { .. })));
        let panicked = server.rooms.write("r", |tx| -> rusqlite::Result<()> {
            tx.execute("INSERT INTO foo (a, b) VALUES (2, 'lost')", [])?;
            panic!("a fault of the application");
        });
        assert!(matches!(panicked.await, Err(Error::Panicked { .. })));
        let read = server.rooms.read("r", |_| -> rusqlite::Result<()> { panic!("another one") });
        assert!(matches!(read.await, Err(Error::Panicked { .. })));
        server.write("r", "INSERT INTO foo (a, b) VALUES (3, 'kept')").await;
        assert_eq!(server.rows("r", ROWS).await, ["3|'kept'"], "memory {memory}");
        let news = client.changes().await;
        assert_eq!((news.since, cells(&news)), (Position::START, vec!["3.b='kept'".to_owned()]));
    }
}

#[tokio::test]
async fn a_closure_that_ends_its_transaction_itself_loses_no_ones_changes() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let ended = server.rooms.write("r", |tx| tx.execute_batch("INSERT INTO foo (a, b) VALUES (1, 'x'); COMMIT")).await;
    drop(ended);
    server.write("r", "INSERT INTO foo (a, b) VALUES (2, 'y')").await;
    assert_eq!(client.gather(2).await, ["1.b='x'", "2.b='y'"]);
}

#[tokio::test]
async fn whoever_stops_waiting_for_a_write_takes_nothing_back() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (started, running) = tokio::sync::oneshot::channel();
    let write = server.rooms.write("r", move |tx| {
        started.send(()).unwrap();
        released.recv().ok();
        tx.execute("INSERT INTO foo (a, b) VALUES (1, 'x')", [])
    });
    tokio::select! {
        _ = write => unreachable!(),
        started = running => started.unwrap(),
    }
    drop(release);
    assert_eq!(cells(&client.changes().await), ["1.b='x'"]);
}

#[tokio::test]
async fn a_reader_is_muted_and_what_it_sends_all_the_same_is_dropped() {
    let server = Server::start().await;
    let mut reader = Client::connect_with(server.address, "r", 1, options("reader")).await;
    reader.announce(&[]).await;
    let start = reader.start_streaming().await;
    assert_eq!(start.since, Position { db_version: i64::MAX, seq: 0 });
    reader.push(0, &[cell(1, "b", Value::Text("not allowed"), 1)]).await;
    let forged = tower_sqlite_sync_wire::Change { table: "none", ..cell(1, "b", Value::Null, 1) };
    reader.push(i64::MAX, &[forged]).await;
    let mut writer = Client::join(&server, "r", 2).await;
    writer.push(0, &[cell(2, "b", Value::Text("allowed"), 1)]).await;
    assert_eq!(cells(&reader.changes().await), ["2.b='allowed'"]);
    server.write("r", "INSERT INTO foo (a, b) VALUES (3, 'ours')").await;
    assert_eq!(cells(&reader.changes().await), ["3.b='ours'"]);
    assert_eq!(server.rows("r", ROWS).await, ["2|'allowed'", "3|'ours'"]);
    assert_eq!(server.rows("r", "SELECT count(*) FROM crsql_tracked_peers WHERE site_id = zeroblob(0) || x'01010101010101010101010101010101'").await, ["0"]);
}

#[tokio::test]
async fn a_shutdown_commits_what_is_queued_and_leaves_one_file() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let (release, released) = std::sync::mpsc::channel::<()>();
    let rooms = server.rooms.clone();
    let (started, running) = tokio::sync::oneshot::channel();
    let hold = tokio::spawn(async move {
        let hold = move |tx: &rusqlite::Transaction<'_>| {
            started.send(()).unwrap();
            released.recv().ok();
            tx.execute("INSERT INTO foo (a, b) VALUES (1, 'held')", [])
        };
        rooms.write("r", hold).await
    });
    running.await.unwrap();
    let queued: Vec<_> = (2..=5)
        .map(|k| {
            let rooms = server.rooms.clone();
            tokio::spawn(async move {
                rooms.write("r", move |tx| tx.execute("INSERT INTO foo (a, b) VALUES (?1, 'queued')", [k])).await
            })
        })
        .collect();
    author.push(0, &[cell(6, "b", Value::Text("pushed"), 1)]).await;
    // A yield for each of the tasks, so that they have queued their writes.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    let rooms = server.rooms.clone();
    let shutdown = tokio::spawn(async move { rooms.shutdown().await });
    assert_eq!(author.closed().await.0, 1001);
    drop(release);
    soon("the shutdown", shutdown).await.unwrap();
    assert!(hold.await.unwrap().is_ok());
    for write in queued {
        assert!(write.await.unwrap().is_ok());
    }
    assert!(!server.file("r-wal").exists() && !server.file("r-shm").exists(), "one file is left");
    let conn = Connection::open(server.file("r")).unwrap();
    let rows: i64 =
        conn.query_row("SELECT count(*) FROM foo WHERE b IN ('held', 'queued')", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 5);
    assert!(matches!(server.rooms.write("r", |_| Ok(())).await, Err(Error::GoingAway)));
}

#[tokio::test]
async fn what_another_process_writes_is_sent_after_the_next_commit_here() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let other = Connection::open(server.file("r")).unwrap();
    crr::load(&other).unwrap();
    other.execute("INSERT INTO foo (a, b) VALUES (1, 'theirs')", []).unwrap();
    server.write("r", "INSERT INTO foo (a, b) VALUES (2, 'ours')").await;
    assert_eq!(client.gather(2).await, ["1.b='theirs'", "2.b='ours'"]);
}

#[tokio::test]
async fn a_file_that_went_back_in_time_ends_the_room_and_the_next_clients_get_what_is_there() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (2, 'x')").await;
    client.gather(2).await;
    // What a restored backup looks like from inside.
    server.rooms.write("r", |tx| tx.execute_batch("DELETE FROM foo__crsql_clock WHERE db_version = 2")).await.unwrap();
    assert_eq!(client.closed().await.0, 1001);
    let mut client = Client::join(&server, "r", 1).await;
    assert_eq!(cells(&client.changes().await), ["1.b='x'"]);
}

#[tokio::test]
async fn one_layer_serves_many_rooms_at_once() {
    let server = Arc::new(Server::start().await);
    let talking = (0..30).map(|r| {
        let server = server.clone();
        async move {
            let room = format!("room-{r}");
            let mut author = Client::join(&server, &room, 1).await;
            let mut reader = Client::join(&server, &room, 2).await;
            author.push(0, &[cell(1, "b", Value::Integer(r), 1)]).await;
            assert_eq!(cells(&reader.changes().await), [format!("1.b={r}")]);
        }
    });
    soon("all of them", join_all(talking)).await;
}

#[tokio::test]
async fn a_site_id_that_looks_like_the_servers_of_another_room_is_like_any_other() {
    let server = Server::start().await;
    let other = Client::join(&server, "other", 1).await.server;
    let mut client = Client::connect(&server, "r", 1).await;
    client.site = other;
    client.announce(&[(SiteId::from_bytes([7; 16]), 5)]).await;
    assert!(matches!(client.next().await, Message::StartStreaming(_)));
}
