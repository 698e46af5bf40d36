//! The hook that sees what clients write.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tower_sqlite_sync::{AppliedChangeset, SyncLayer};
use tower_sqlite_sync_wire::Value;

use crate::fixture::{Client, Server, cell, cells, soon};

/// Tells a channel what it is told.
fn observe(layer: SyncLayer) -> (SyncLayer, mpsc::UnboundedReceiver<AppliedChangeset>) {
    let (send, receive) = mpsc::unbounded_channel();
    (layer.on_applied(move |applied| drop(send.send(applied.clone()))), receive)
}

async fn next(applied: &mut mpsc::UnboundedReceiver<AppliedChangeset>) -> (String, u8, u64, i64) {
    let applied = soon("an applied changeset", applied.recv()).await.unwrap();
    (applied.room.to_string(), applied.site.as_bytes()[0], applied.changes, applied.db_version)
}

#[tokio::test]
async fn it_is_told_of_each_changeset_with_its_room_its_site_and_how_much_of_it_was_new() {
    let mut seen = None;
    let server = Server::with_layer(|layer| {
        let (layer, receive) = observe(layer);
        seen = Some(receive);
        layer
    })
    .await;
    let mut seen = seen.unwrap();
    let mut client = Client::join(&server, "r", 1).await;
    let two = [cell(1, "b", Value::Number(1.0), 1), cell(2, "b", Value::Number(1.0), 2)];
    client.push(0, &two).await;
    assert_eq!(next(&mut seen).await, ("r".to_owned(), 1, 2, 2));

    let mut other = Client::join(&server, "s", 2).await;
    other.push(0, &two[..1]).await;
    assert_eq!(next(&mut seen).await, ("s".to_owned(), 2, 1, 1));

    // What is known already is not told; what the server writes, it knows.
    client.push(0, &two).await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (9, 'ours')").await;
    client.push(2, &[cell(3, "b", Value::Number(1.0), 3)]).await;
    assert_eq!(next(&mut seen).await, ("r".to_owned(), 1, 1, 4));
}

#[tokio::test]
async fn what_it_is_told_of_can_be_read() {
    let mut seen = None;
    let server = Server::with_layer(|layer| {
        let (layer, receive) = observe(layer);
        seen = Some(receive);
        layer
    })
    .await;
    let mut client = Client::join(&server, "r", 1).await;
    client.push(0, &[cell(1, "b", Value::Text("hello"), 1)]).await;
    let (room, _site, _changes, db_version) = next(seen.as_mut().unwrap()).await;
    let changed = format!("SELECT cid, val FROM crsql_changes WHERE db_version = {db_version}");
    assert_eq!(server.rows(&room, &changed).await, ["'b'|'hello'"]);
}

#[tokio::test]
async fn a_panic_in_it_ends_neither_the_connection_nor_the_room() {
    let told = Arc::new(AtomicUsize::new(0));
    let server = Server::with_layer(|layer| {
        let told = told.clone();
        layer.on_applied(move |_applied| {
            told.fetch_add(1, Ordering::SeqCst);
            panic!("the hook falls over");
        })
    })
    .await;
    let mut author = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    author.push(0, &[cell(1, "b", Value::Text("one"), 1)]).await;
    assert_eq!(cells(&reader.changes().await), ["1.b='one'"]);
    author.push(1, &[cell(2, "b", Value::Text("two"), 2)]).await;
    assert_eq!(cells(&reader.changes().await), ["2.b='two'"]);
    crate::fixture::until("the hook", async || told.load(Ordering::SeqCst) == 2).await;
}
