//! Rooms that nobody uses hold nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::fixture::{Client, Server, cell, until};
use tower_sqlite_sync::SyncConfig;
use tower_sqlite_sync_wire::Value;

/// The files below a folder that this process has open, deleted ones too.
pub(crate) fn open_files(folder: &Path) -> Vec<String> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = links.filter_map(|link| std::fs::read_link(link.unwrap().path()).ok());
    targets.filter(|target| target.starts_with(folder)).map(|target| target.display().to_string()).collect()
}

#[tokio::test]
async fn of_five_thousand_rooms_no_more_are_open_than_may_be() {
    const ROOMS: usize = 5_000;
    const OPEN: usize = 20;
    // The disk is no part of this.
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL); SELECT crsql_as_crr('t')";
    let server =
        Server::with(|config| config.with_db_folder(memory.path()).with_max_rooms(OPEN).with_watch_files(false)).await;
    std::fs::write(server.folder.path().join("schemas/small.sql"), schema).unwrap();
    server.rooms.create_room("first", "small.sql").await.unwrap();
    server.rooms.reopen().await;
    let first = std::fs::read(memory.path().join("first")).unwrap();
    let begun = Instant::now();
    for room in 0..ROOMS {
        let name = format!("room-{room}");
        std::fs::write(memory.path().join(&name), &first).unwrap();
        server.rooms.create_room(&name, "small.sql").await.unwrap();
        // A page of memory that nobody needs any more.
        if let Some(past) = room.checked_sub(2 * OPEN) {
            drop(std::fs::remove_file(memory.path().join(format!("room-{past}"))));
        }
        if room % 100 == 0 {
            assert!(server.rooms.rooms().len() <= OPEN);
            let files = open_files(memory.path());
            assert!(files.len() <= 5 * OPEN, "{files:#?}");
        }
    }
    println!("{ROOMS} rooms, {OPEN} open at a time, in {:?}", begun.elapsed());
    server.rooms.shutdown().await;
    assert_eq!(open_files(memory.path()), [""; 0]);
}

#[tokio::test]
async fn an_idle_room_leaves_no_file_open_and_no_task() {
    let server = Server::with(|config| config.with_room_idle(Duration::ZERO)).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..3 {
        let mut client = Client::join(&server, "r", 1).await;
        // A reader is opened too.
        let mut other = Client::join(&server, "r", 2).await;
        client.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
        assert_eq!(server.rows("r", "SELECT count(*) FROM foo").await.len(), 1);
        other.reject(0).await;
        assert!(!open_files(server.folder.path()).is_empty());
        client.close().await;
        other.close().await;
        until("the files to be closed", async || open_files(server.folder.path()).is_empty()).await;
        until("the tasks to end", async || tasks() == before).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_changes_are_held_back_for_it_takes_what_waits_with_it() {
    let hour = Duration::from_secs(3_600);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let change = |config: SyncConfig| {
        let config = config.with_room_idle(Duration::ZERO).with_slow_reader_timeout(hour);
        config.with_notify_interval(hour)
    };
    let server = Server::with(change).await;
    let before = tasks();
    // The next message is due in an hour, or as soon as the socket takes the one before.
    for bytes in [10, 16 << 20] {
        let mut client = Client::join(&server, "r", 1).await;
        let insert = format!("INSERT OR REPLACE INTO foo (a, b) VALUES (1, randomblob({bytes}))");
        server.write("r", &insert).await;
        if bytes == 10 {
            client.changes().await;
        }
        server.write("r", &insert).await;
        drop(client);
        until("the files to be closed", async || open_files(server.folder.path()).is_empty()).await;
        until("the tasks to end", async || tasks() == before).await;
    }
}

#[tokio::test]
async fn a_client_that_comes_while_its_room_is_being_closed_finds_it_as_it_was() {
    let server = Server::with(|config| config.with_room_idle(Duration::ZERO).with_max_rooms(1)).await;
    let mut seen = Vec::new();
    for version in 0..30 {
        // Another room takes the only place as soon as nobody uses this one.
        let other = server.rooms.create_room("other", "main.sql");
        let mut client = Client::connect(&server, "r", 1).await;
        let coming = async {
            loop {
                client.announce(&seen).await;
                match client.try_message().await {
                    Ok(_) => break,
                    Err(_) => client = Client::connect(&server, "r", 1).await,
                }
            }
            client
        };
        let (_, mut client) = tokio::join!(other, coming);
        client.push(version, &[cell(u8::try_from(version).unwrap() + 1, "b", Value::Integer(1), version + 1)]).await;
        client.close().await;
        seen = vec![(server.site("r").await, 1)];
    }
    let mut reader = Client::connect(&server, "r", 2).await;
    until("the place to be free", async || {
        reader.announce(&[]).await;
        let joined = reader.try_message().await.is_ok();
        if !joined {
            reader = Client::connect(&server, "r", 2).await;
        }
        joined
    })
    .await;
    assert_eq!(reader.gather(30).await.len(), 30);
}
