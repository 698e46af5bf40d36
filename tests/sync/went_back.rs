//! Databases that are earlier than they were, of the server and of clients, and nobody says so: they are recognised.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use tempfile::TempDir;
use tower_sqlite_sync::{Durability, SyncConfig};
use tower_sqlite_sync_wire::{Change, Message, Position, SiteId, Value};

use crate::fixture::{Client, ClientOptions, Server, cell, cells, folder, last_version, until};

const ROWS: &str = "SELECT a FROM foo ORDER BY a";

/// A server of whose room `r` a client has seen three rows, with what is on its disk.
struct Life {
    server: Server,
    site: SiteId,
    shown: i64,
}

async fn life(durability: Durability) -> Life {
    let server = Server::with(|config| config.with_durability(durability)).await;
    let mut writer = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    let mut shown = 0;
    for row in 1..=3 {
        writer.push(i64::from(row) - 1, &[cell(row, "b", Value::Integer(1), row.into())]).await;
        shown = last_version(&reader.changes().await);
    }
    until("the ledger to have it", async || noted(server.folder.path()) == shown).await;
    Life { server, site: reader.server, shown }
}

/// What the ledger says was shown.
fn noted(folder: &Path) -> i64 {
    ledger(folder).query_row("SELECT shown FROM shown WHERE file = 'r' AND current", [], |row| row.get(0)).unwrap()
}

fn ledger(folder: &Path) -> Connection {
    Connection::open(folder.join("dbs/.sync-ledger")).unwrap()
}

/// The disk as it would be found after the process was killed now.
fn killed(server: &Server) -> (Arc<TempDir>, SyncConfig) {
    use std::os::unix::fs::MetadataExt;
    let (copy, config) = folder();
    std::fs::create_dir(copy.path().join("dbs")).unwrap();
    for name in ["r", "r-wal", ".sync-ledger", ".sync-ledger-wal"] {
        std::fs::copy(server.file(name), copy.path().join("dbs").join(name)).unwrap();
    }
    // It is not another file, for this.
    let inode = copy.path().join("dbs/r").metadata().unwrap().ino().cast_signed();
    ledger(copy.path()).execute("UPDATE shown SET inode = ?1", [inode]).unwrap();
    (Arc::new(copy), config)
}

/// The client that has seen everything comes back. Whether the room is another site now, and from where its changes are wanted.
async fn comes_back(server: &Server, life: &Life) -> (Client, bool, Position) {
    let mut reader = Client::connect_with(server.address, "r", 2, ClientOptions::default()).await;
    reader.announce(&[(life.site, life.shown)]).await;
    let start = reader.start_streaming().await;
    reader.server = start.exclude_sites[0];
    let forked = reader.server != life.site;
    (reader, forked, start.since)
}

#[tokio::test]
async fn a_room_that_was_not_closed_goes_on_above_what_may_have_been_shown() {
    for durability in [Durability::Full, Durability::Os] {
        let life = life(durability).await;
        let (folder, config) = killed(&life.server);
        let server = Server::on(folder, config.with_durability(durability)).await;
        let (mut reader, forked, _) = comes_back(&server, &life).await;
        assert!(!forked, "nothing is missing");
        server.write("r", "INSERT INTO foo VALUES (9, 9)").await;
        let changes = reader.changes().await;
        assert_eq!((cells(&changes), changes.since), (vec!["9.b=9".to_owned()], Position::at(life.shown)));
        assert!(last_version(&changes) > life.shown + 900, "{}", last_version(&changes));
        assert_eq!(server.rows("r", ROWS).await, ["1", "2", "3", "9"]);
    }
}

#[tokio::test]
async fn a_room_that_was_closed_goes_on_where_it_was() {
    let life = life(Durability::Full).await;
    let server = life.server.restart().await;
    server.write("r", "INSERT INTO foo VALUES (9, 9)").await;
    let mut reader = Client::connect(&server, "r", 2).await;
    reader.announce(&[(life.site, life.shown)]).await;
    assert_eq!(reader.start_streaming().await.exclude_sites, [life.site]);
    assert_eq!(last_version(&reader.changes().await), life.shown + 1);
}

#[tokio::test]
async fn a_room_whose_log_was_deleted_forks() {
    let life = life(Durability::Full).await;
    life.server.write("r", "PRAGMA user_version = 1").await;
    let (folder, config) = killed(&life.server);
    // Everything since the room was opened was only there.
    std::fs::remove_file(folder.path().join("dbs/r-wal")).unwrap();
    let server = Server::on(folder, config).await;
    let mut reader = Client::connect(&server, "r", 2).await;
    reader.announce(&[(life.site, life.shown)]).await;
    let start = reader.start_streaming().await;
    assert_ne!(start.exclude_sites, [life.site]);
    assert_eq!(start.since, Position::START);
}

#[tokio::test]
async fn a_room_whose_unsynced_commits_a_power_loss_took_forks_and_one_with_synced_ones_does_not() {
    for (durability, forks) in [(Durability::Os, true), (Durability::Full, false)] {
        let life = life(durability).await;
        let (folder, config) = killed(&life.server);
        // What was noted without syncing may have gone, too.
        ledger(folder.path()).execute("UPDATE shown SET boot = 'another', shown = 0", []).unwrap();
        if forks {
            let wal = std::fs::OpenOptions::new().write(true).open(folder.path().join("dbs/r-wal")).unwrap();
            let length = wal.metadata().unwrap().len();
            wal.set_len(length - 2 * 4120).unwrap();
        }
        let server = Server::on(folder, config.with_durability(durability)).await;
        let (mut reader, forked, since) = comes_back(&server, &life).await;
        assert_eq!(forked, forks, "{durability:?}");
        if forks {
            assert_eq!(since, Position::START, "and what is missing is asked for");
            assert!(server.rows("r", ROWS).await.len() < 3, "something is missing");
            let all = [1, 2, 3].map(|row| cell(row, "b", Value::Integer(1), row.into()));
            reader.push(0, &all).await;
            server.has("r", ROWS, &["1", "2", "3"]).await;
        }
    }
}

#[tokio::test]
async fn a_file_that_was_copied_back_by_hand_forks_also_if_nobody_says_so() {
    let life = life(Durability::Full).await;
    life.server.rooms.shutdown().await;
    std::fs::copy(life.server.file("r"), life.server.file("copy")).unwrap();
    let server = life.server.restart().await;
    let site = Client::join(&server, "r", 5).await.server;
    assert_eq!(site, life.site);
    server.write("r", "INSERT INTO foo VALUES (9, 9)").await;
    server.rooms.shutdown().await;
    std::fs::copy(server.file("copy"), server.file("r")).unwrap();
    let server = server.restart().await;
    let second = Client::join(&server, "r", 5).await.server;
    assert_ne!(second, site);

    // The same copy once more: it is under the id that the room had before, and ends where it ended.
    server.rooms.shutdown().await;
    std::fs::copy(server.file("copy"), server.file("r")).unwrap();
    let server = server.restart().await;
    let third = Client::join(&server, "r", 5).await.server;
    assert!(third != second && third != site);
    let server = server.restart().await;
    assert_eq!(Client::join(&server, "r", 5).await.server, third, "and that is that");
}

#[tokio::test]
async fn a_client_that_went_back_is_asked_for_everything_once_and_gets_back_what_it_wrote() {
    let server = Server::start().await;
    let mut other = Client::join(&server, "r", 9).await;
    let mut client = Client::join(&server, "r", 1).await;
    let rows: Vec<_> = (1..=20).map(|row| cell(row, "b", Value::Integer(1), row.into())).collect();
    client.push(0, &rows).await;
    assert_eq!(other.gather(20).await.len(), 20);
    other.push(0, &[cell(50, "b", Value::Integer(1), 1)]).await;
    let seen = last_version(&client.changes().await);
    client.close().await;
    let site = other.server;
    let announces = async |seen: i64| {
        let mut client = Client::connect(&server, "r", 1).await;
        client.announce(&[(site, seen)]).await;
        let since = client.start_streaming().await.since;
        (client, since)
    };
    // It is loaded again, and has seen everything.
    let (client, since) = announces(seen).await;
    assert_eq!(since, Position::at(20));
    client.close().await;

    // Its database is restored from a backup in which it had written five rows and seen nothing of them in the room.
    let server_then = 2;
    let (mut client, since) = announces(server_then).await;
    assert_eq!(since, Position::START, "its versions mean other changes now");
    let back = cells(&client.changes().await);
    assert!(back.contains(&"20.b=1".to_owned()) && back.contains(&"50.b=1".to_owned()), "{back:?}");

    // What it writes under a version that it had used before is taken, from here and after the next reconnect.
    client.push(0, &[cell(1, "b", Value::Integer(1), 1), cell(60, "b", Value::Integer(6), 6)]).await;
    assert_eq!(cells(&other.changes().await), ["60.b=6"]);
    client.close().await;
    let (mut client, since) = announces(seen).await;
    assert_eq!(since, Position::at(6), "once");
    client.push(6, &[cell(61, "b", Value::Integer(6), 7)]).await;
    assert_eq!(cells(&other.changes().await), ["61.b=6"]);
}

#[tokio::test]
async fn a_client_that_was_never_sent_anything_is_asked_for_the_few_changes_that_it_wrote_and_sent_them() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let rows: Vec<_> = (1..=5).map(|row| cell(row, "b", Value::Integer(1), row.into())).collect();
    client.push(0, &rows).await;
    server.has("r", ROWS, &["1", "2", "3", "4", "5"]).await;
    client.close().await;

    // Its database is restored from a backup in which it had written two rows. It can't say so.
    let mut client = Client::connect(&server, "r", 1).await;
    client.announce(&[]).await;
    let (mut since, mut back) = (None, Vec::new());
    while since.is_none() || back.is_empty() {
        match client.next().await {
            Message::StartStreaming(start) => since = Some(start.since),
            Message::Changes(changes) => back = cells(&changes),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(since, Some(Position::START));
    assert_eq!(back, ["1.b=1", "2.b=1", "3.b=1", "4.b=1", "5.b=1"]);
    client.push(0, &[rows[0], rows[1], cell(6, "b", Value::Integer(6), 3)]).await;
    server.has("r", "SELECT b FROM foo WHERE a = 6", &["6"]).await;
    client.close().await;

    let mut client = Client::back(&server, "r", 1).await;
    assert_eq!(client.start_streaming().await.since, Position::at(3), "and it has what it was sent");
}

#[tokio::test]
async fn a_client_that_was_never_sent_anything_and_wrote_much_is_sent_a_change_that_tells_when_it_goes_back() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let write = |step: u8| {
        let cell =
            move |row: u8| cell(row, "b", Value::Integer(step.into()), i64::from(step - 1) * 100 + i64::from(row));
        (1..=100).map(move |row| Change { col_version: step.into(), ..cell(row) }).collect::<Vec<_>>()
    };
    client.push(0, &write(1)).await;
    client.push(100, &write(2)).await;
    client.push(200, &write(3)).await;
    server.has("r", "SELECT count(*) FROM foo WHERE b = 3", &["100"]).await;
    client.close().await;
    let announces = async |seen: &[_]| {
        let mut client = Client::connect(&server, "r", 1).await;
        client.announce(seen).await;
        let since = client.start_streaming().await.since;
        (client, since)
    };
    for _ in 0..2 {
        let (mut client, since) = announces(&[]).await;
        assert_eq!(since, Position::at(300), "it is not asked for all of it whenever it reconnects");
        let told = client.changes().await;
        assert_eq!((cells(&told), told.since), (vec!["100.b=3".to_owned()], Position::START));
        client.close().await;
    }
    let seen = last_version(&{
        let (mut client, _) = announces(&[]).await;
        client.changes().await
    });
    let site = server.site("r").await;
    assert_eq!(announces(&[(site, seen)]).await.1, Position::at(300));
    assert_eq!(announces(&[]).await.1, Position::START, "its database is an earlier one");
}

#[tokio::test]
async fn what_sites_have_announced_is_remembered_over_a_restart() {
    let server = Server::start().await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    server.write("r", "INSERT INTO foo VALUES (1, 1); INSERT INTO foo VALUES (2, 2)").await;
    let mut client = Client::join(&server, "r", 1).await;
    let site = client.server;
    client.push(0, &[cell(5, "b", Value::Integer(1), 30)]).await;
    server.has("r", ROWS, &["1", "2", "5"]).await;
    client.close().await;
    let announces = async |server: &Server, seen: i64| {
        let mut client = Client::connect(server, "r", 1).await;
        client.announce(&[(site, seen)]).await;
        client.start_streaming().await.since
    };
    assert_eq!(announces(&server, 2).await, Position::at(30));
    let server = server.restart().await;
    assert_eq!(announces(&server, 1).await, Position::START);
}
