//! Files that are earlier than what clients have seen: the room becomes another site, and nobody misses or repeats anything.

use std::time::Duration;

use tokio_tungstenite::tungstenite::Message as WsMessage;
use tower_sqlite_sync::{Error, SyncConfig};
use tower_sqlite_sync_wire::{Message, Position, SiteId, Value};

use crate::fixture::{Client, ClientOptions, Replica, Server, cell, cells, last_version, soon, until};

/// A server whose room `r` had its file copied back after its clients had seen two more db_versions.
struct Restored {
    server: Server,
    former: SiteId,
    /// The last db_version in the file.
    stored: i64,
    /// The last one that clients had seen.
    shown: i64,
}

async fn restored() -> Restored {
    restored_with(|config| config).await
}

async fn restored_with(change: impl FnOnce(SyncConfig) -> SyncConfig) -> Restored {
    let server = Server::with(change).await;
    let mut writer = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    writer.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    let stored = last_version(&reader.changes().await);
    let former = reader.server;
    server.rooms.shutdown().await;
    std::fs::copy(server.file("r"), server.file("copy")).unwrap();

    let server = server.restart().await;
    let mut writer = Client::back(&server, "r", 1).await;
    writer.start_streaming().await;
    let mut reader = Client::join(&server, "r", 2).await;
    writer.push(1, &[cell(2, "b", Value::Integer(2), 2)]).await;
    writer.push(2, &[cell(3, "b", Value::Integer(3), 3)]).await;
    assert_eq!(reader.gather(3).await.len(), 3);
    let shown = server.rooms.rooms()[0].db_version;
    server.rooms.shutdown().await;
    std::fs::copy(server.file("copy"), server.file("r")).unwrap();

    let server = server.restart().await;
    server.rooms.fork("r").await.unwrap();
    Restored { server, former, stored, shown }
}

#[tokio::test]
async fn a_client_that_has_seen_more_than_the_restored_file_gets_what_is_new_in_it_and_nothing_else() {
    let Restored { server, former, stored, shown } = restored().await;
    assert!(stored < shown);
    let mut reader = Client::connect_with(server.address, "r", 2, ClientOptions::default()).await;
    reader.announce(&[(former, shown)]).await;
    let start = reader.start_streaming().await;
    assert_ne!(start.exclude_sites, [former], "the room is another site");

    // Under the db_version that the reader has passed at the former site.
    let mut writer = Client::join(&server, "r", 1).await;
    writer.push(1, &[cell(4, "b", Value::Integer(4), 2)]).await;
    let changes = reader.changes().await;
    assert_eq!((changes.since, changes.sender), (Position::START, start.exclude_sites[0]));
    assert_eq!(cells(&changes), ["4.b=4"]);
}

#[tokio::test]
async fn a_client_that_had_not_seen_all_that_was_lost_gets_all_that_the_file_has() {
    let Restored { server, former, stored, shown } = restored().await;
    for seen in [stored - 1, stored, shown - 1] {
        let mut reader = Client::connect_with(server.address, "r", 2, ClientOptions::default()).await;
        reader.announce(&[(former, seen)]).await;
        reader.start_streaming().await;
        assert_eq!(cells(&reader.changes().await), ["1.b=1"]);
    }
}

#[tokio::test]
async fn a_client_that_left_before_a_cell_that_was_written_again_gets_it_from_the_file_that_is_restored() {
    let server = Server::start().await;
    let mut early = Client::join(&server, "r", 1).await;
    let former = early.server;
    server.write("r", "INSERT INTO foo VALUES (1, 'first')").await;
    let stored = last_version(&early.changes().await);
    server.write("r", "INSERT INTO foo VALUES (2, 'x')").await;
    let backup = server.folder.path().join("backup");
    server.rooms.backup("r", &backup).await.unwrap();
    // It moves to the end. Who reads from the beginning now, and leaves in between, has the row without it, and says that it has seen it.
    server.write("r", "UPDATE foo SET b = 'second' WHERE a = 1").await;
    server.rooms.restore("r", &backup).await.unwrap();
    let mut late = Client::connect_with(server.address, "r", 2, ClientOptions::default()).await;
    late.announce(&[(former, stored)]).await;
    late.start_streaming().await;
    assert_eq!(late.gather(2).await, ["1.b='first'", "2.b='x'"]);
}

#[tokio::test]
async fn clients_of_a_room_that_forks_although_it_seems_to_have_all_get_everything() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let former = client.server;
    server.write("r", "INSERT INTO foo VALUES (1, 'x')").await;
    let seen = last_version(&client.changes().await);
    // The ledger may be as old as the file, and know of nothing that came after it.
    server.rooms.fork("r").await.unwrap();
    let mut client = Client::connect_with(server.address, "r", 2, ClientOptions::default()).await;
    client.announce(&[(former, seen)]).await;
    client.start_streaming().await;
    assert_eq!(cells(&client.changes().await), ["1.b='x'"]);
}

#[tokio::test]
async fn what_the_file_has_lost_comes_back_from_a_client_that_has_seen_it() {
    let Restored { server, former, shown, .. } = restored().await;
    let mut reader = Client::connect_with(server.address, "r", 2, ClientOptions::default()).await;
    reader.announce(&[(former, shown)]).await;
    let start = reader.start_streaming().await;
    assert_eq!(start.since, Position::START, "the file has nothing of this client");
    assert!(!start.exclude_sites.contains(&former), "what it got from the former site is asked for, too");
}

#[tokio::test]
async fn clients_bring_back_what_they_have_in_turns_and_receive_meanwhile() {
    let Restored { server, former, shown, .. } = restored_with(|config| config.with_fork_uploads(1)).await;
    let returning = async |n| {
        let mut client = Client::connect_with(server.address, "r", n, ClientOptions::default()).await;
        client.announce(&[(former, shown)]).await;
        client
    };
    let mut first = returning(2).await;
    first.start_streaming().await;
    // It has been asked and hasn't answered: the next one is asked later, and gets what is new.
    let mut second = returning(3).await;
    let received = async {
        until("the second client to be there", async || server.connections("r") == 2).await;
        server.write("r", "INSERT INTO foo VALUES (5, 'news')").await;
        cells(&second.changes().await)
    };
    // Its pings are signs of life, for which it is waited for.
    let alive = async {
        loop {
            first.send_frame(WsMessage::Ping("still here".into())).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        received = received => assert_eq!(received, ["5.b='news'"]),
        () = alive => unreachable!(),
    }
    first.push(0, &[cell(2, "b", Value::Integer(2), 1)]).await;
    assert_eq!(asked_and_sent(&mut second).await, ["2.b=2"]);

    // One that has nothing to bring back doesn't say so.
    let mut third = returning(4).await;
    asked_and_sent(&mut third).await;
    // Who has not known the room before waits for nobody.
    Client::join(&server, "r", 5).await;
}

/// What the client receives around being asked for what it has.
async fn asked_and_sent(client: &mut Client) -> Vec<String> {
    let (mut asked, mut received) = (false, Vec::new());
    while !asked || received.is_empty() {
        match client.next().await {
            Message::StartStreaming(_) => asked = true,
            Message::Changes(changes) => received.extend(cells(&changes)),
            other => panic!("{other:?}"),
        }
    }
    received
}

#[tokio::test]
async fn replicas_of_a_restored_room_converge() {
    let server = Server::start().await;
    let (mut a, mut b) = (Replica::new(1), Replica::new(2));
    settle(&server, [&mut a, &mut b], "INSERT INTO foo VALUES (1, 'kept')", 1).await;
    server.rooms.shutdown().await;
    std::fs::copy(server.file("r"), server.file("copy")).unwrap();
    let server = server.restart().await;
    settle(&server, [&mut a, &mut b], "INSERT INTO foo VALUES (2, 'lost')", 2).await;
    server.rooms.shutdown().await;
    std::fs::copy(server.file("copy"), server.file("r")).unwrap();
    let server = server.restart().await;
    server.rooms.fork("r").await.unwrap();
    settle(&server, [&mut a, &mut b], "INSERT INTO foo VALUES (3, 'new')", 3).await;
}

/// The first replica writes; both are connected until they and the server have so many rows.
async fn settle(server: &Server, replicas: [&mut Replica; 2], sql: &str, rows: i64) {
    let [writer, reader] = replicas;
    for replica in [&mut *writer, &mut *reader] {
        replica.reload();
        replica.connect(server.address, "r").await;
    }
    writer.conn.execute_batch(sql).unwrap();
    let count =
        |replica: &Replica| replica.conn.query_row("SELECT count(*) FROM foo", [], |row| row.get::<_, i64>(0)).unwrap();
    until(&format!("both replicas to have {rows} rows"), async || {
        for replica in [&mut *writer, &mut *reader] {
            if let Ok(message) = tokio::time::timeout(Duration::from_millis(5), replica.receive()).await {
                replica.handle(message, false).await;
            }
        }
        count(writer) == rows && count(reader) == rows
    })
    .await;
    let there = server.rows("r", "SELECT count(*) FROM foo").await;
    assert_eq!(there, [rows.to_string()]);
    writer.disconnect();
    reader.disconnect();
}

#[tokio::test]
async fn connected_clients_are_told_to_come_back() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let former = client.server;
    server.rooms.fork("r").await.unwrap();
    assert_eq!(client.closed().await.0, 1001);
    assert_ne!(Client::join(&server, "r", 1).await.server, former);
}

#[tokio::test]
async fn only_a_room_with_a_file_can_fork() {
    let server = Server::with(|config| config.with_memory(true)).await;
    assert!(matches!(server.rooms.fork("r").await, Err(Error::NoFile { .. })));
    let server = Server::start().await;
    assert!(matches!(server.rooms.fork("r").await, Err(Error::NoSuchRoom { .. })));
}

#[tokio::test]
async fn a_room_whose_file_went_back_forks_also_if_its_clients_stay_away_for_a_while() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let former = client.server;
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (2, 'x')").await;
    client.gather(2).await;
    // What a restored backup looks like from inside.
    server.rooms.write("r", |tx| tx.execute_batch("DELETE FROM foo__crsql_clock WHERE db_version = 2")).await.unwrap();
    client.closed().await;
    client.gone().await;
    until("the room to be closed", async || server.rooms.rooms().is_empty()).await;
    assert_ne!(Client::join(&server, "r", 1).await.server, former);
}

#[tokio::test]
async fn a_room_whose_file_went_back_forks_before_anything_is_written_into_it() {
    let server = Server::with(|config| config.with_watch_files(false)).await;
    let mut client = Client::join(&server, "r", 1).await;
    let former = client.server;
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (2, 'x')").await;
    client.gather(2).await;
    // What a restored backup looks like from inside. What is written next would have the db_version that clients have passed.
    let other = rusqlite::Connection::open(server.file("r")).unwrap();
    crr::load(&other).unwrap();
    other.execute_batch("DELETE FROM foo__crsql_clock WHERE db_version = 2").unwrap();
    client.push(0, &[cell(3, "b", Value::Integer(3), 1)]).await;
    assert_eq!(soon("a close", client.closed()).await.0, 1001);
    let mut client = Client::connect(&server, "r", 1).await;
    client.announce(&[(former, 2)]).await;
    assert_ne!(client.start_streaming().await.exclude_sites, [former]);
}
