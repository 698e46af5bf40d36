//! A server that is asked to stop: everybody is told, what is queued is committed, and after a while it stops in any case.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tower_sqlite_sync_wire::{Change, Value};

use crate::fixture::{Client, Server, cell, soon, until};
use crate::idle::open_files;

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test]
async fn a_shutdown_leaves_no_task_and_no_file_open() {
    let server = Server::start().await;
    let before = tasks();
    let mut clients = Vec::new();
    for n in 1..=5 {
        let room = format!("room-{}", n % 2);
        let mut client = Client::join(&server, &room, n).await;
        client.push(0, &[cell(n, "b", Value::Integer(1), 1)]).await;
        clients.push(client);
    }
    // Rooms that nobody uses any more are open, too.
    server.rooms.create_room("unused", "main.sql").await.unwrap();
    let rooms = server.rooms.clone();
    let shutdown = tokio::spawn(async move { rooms.shutdown().await });
    for client in &mut clients {
        assert_eq!(client.closed().await.0, 1001);
        client.gone().await;
    }
    soon("the shutdown", shutdown).await.unwrap();
    assert_eq!(open_files(server.folder.path()), [""; 0]);
    until("the tasks to end", async || tasks() == before).await;
}

#[tokio::test]
async fn peers_that_do_not_answer_keep_neither_tasks_nor_files_beyond_the_grace() {
    let server = Server::with(|config| config.with_shutdown_grace(Duration::from_millis(200))).await;
    let before = tasks();
    let deaf: Vec<TcpStream> = vec![
        Client::join(&server, "r", 1).await.into_stream(),
        Client::join(&server, "r", 2).await.into_stream(),
        Client::connect(&server, "r", 3).await.into_stream(),
    ];
    let begun = Instant::now();
    soon("the shutdown", server.rooms.shutdown()).await;
    assert!(begun.elapsed() < Duration::from_millis(1_500), "{:?}", begun.elapsed());
    assert_eq!(open_files(server.folder.path()), [""; 0]);
    until("the tasks to end", async || tasks() == before).await;
    assert!(begun.elapsed() < Duration::from_millis(1_900), "connections are cut: {:?}", begun.elapsed());
    drop(deaf);
}

/// A message of so many rows.
async fn push_rows(client: &mut Client, rows: u32) {
    let keys: Vec<[u8; 6]> = (0..rows)
        .map(|k| {
            let [a, b, c, d] = k.to_be_bytes();
            [1, 0x21, a | 1, b, c, d]
        })
        .collect();
    let changes: Vec<Change<'_>> =
        keys.iter().map(|key| Change { pk: key, ..cell(1, "b", Value::Text("much"), 1) }).collect();
    client.push(0, &changes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_merge_is_finished_if_there_is_time_and_given_up_as_a_whole_if_there_is_not() {
    // Before there is a server: the one of the round before may take a moment to go.
    let before = tasks();
    for (grace, rows, kept) in [(Duration::from_secs(60), 60_000, "60000"), (Duration::from_millis(300), 300_000, "0")]
    {
        let server = Server::with(|config| config.with_shutdown_grace(grace)).await;
        let mut client = Client::join(&server, "r", 1).await;
        push_rows(&mut client, rows).await;
        let log = server.file("r-wal");
        let grown = || std::fs::metadata(&log).map_or(0, |log| log.len());
        let at = grown();
        // The merge spills pages into the log once the cache is full; by then it has begun.
        until("the merge to begin", async || grown() > at).await;
        let begun = Instant::now();
        soon("the shutdown", server.rooms.shutdown()).await;
        let took = begun.elapsed();
        assert!(took < grace * 2 + Duration::from_secs(2), "{took:?}");
        assert_eq!(open_files(server.folder.path()), [""; 0]);
        client.gone().await;
        let (file, _folder) = (server.file("r"), server.folder.clone());
        drop(server);
        until("the tasks to end", async || tasks() == before).await;
        let conn = rusqlite::Connection::open(file).unwrap();
        let count = |sql| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap().to_string();
        assert_eq!(count("SELECT count(*) FROM foo"), kept, "{took:?}");
        let position = count("SELECT count(*) FROM crsql_tracked_peers");
        assert_eq!(position, if kept == "0" { "0" } else { "1" }, "together with the position");
    }
}

#[tokio::test]
async fn a_closure_of_the_application_that_does_not_end_delays_a_shutdown_no_longer_than_the_grace() {
    let server = Server::with(|config| config.with_shutdown_grace(Duration::from_millis(100))).await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (started, running) = tokio::sync::oneshot::channel();
    let rooms = server.rooms.clone();
    let write = tokio::spawn(async move {
        let write = move |tx: &rusqlite::Transaction<'_>| {
            tx.execute("INSERT INTO foo (a, b) VALUES (1, 'x')", [])?;
            started.send(()).unwrap();
            released.recv().ok();
            Ok(())
        };
        rooms.write("r", write).await
    });
    running.await.unwrap();
    soon("the shutdown", server.rooms.shutdown()).await;
    drop(release);
    drop(write.await.unwrap());
    until("the files to be closed", async || open_files(server.folder.path()).is_empty()).await;
}
