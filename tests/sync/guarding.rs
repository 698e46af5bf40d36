//! A guard sees what clients write before it is merged, and what it objects to is not applied.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tower_sqlite_sync::{AuthRequest, Denied, Grant, Objection, ProposedChanges, Refuse, SyncConfig};
use tower_sqlite_sync_wire::Value;

use crate::fixture::{Client, ClientOptions, Server, cell, cells, row_of};

const ROWS: &str = "SELECT a, b FROM foo ORDER BY a";

/// Tokens are identities; `reader` may only read.
async fn by_name(request: AuthRequest) -> Result<Grant, Denied> {
    let grant = if request.token() == Some("reader") { Grant::read_only() } else { Grant::read_write() };
    Ok(request.token().map_or(grant.clone(), |name| grant.with_identity(name)))
}

fn as_user(name: &'static str) -> ClientOptions {
    ClientOptions { token: Some(name), ..Default::default() }
}

/// Objects to whatever says so, and panics at what says that.
async fn examine(proposed: ProposedChanges) -> Result<(), Objection> {
    tokio::task::yield_now().await;
    for change in proposed.changes() {
        match change.val {
            Value::Text("bad") => return Err(Objection::new("nothing bad, please")),
            Value::Text("worse") => panic!("s3cret"),
            Value::Text("late") => std::future::pending().await,
            _ => {}
        }
    }
    Ok(())
}

async fn server(change: impl FnOnce(SyncConfig) -> SyncConfig) -> Server {
    Server::with_both(change, |layer| layer.guard(examine)).await
}

#[tokio::test]
async fn a_guard_sees_who_writes_what_and_where_and_nothing_of_readers() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = {
        let seen = seen.clone();
        move |proposed: ProposedChanges| {
            let rows: Vec<u8> = proposed.changes().iter().map(|change| row_of(&change)).collect();
            let identity = proposed.identity().map(str::to_owned);
            seen.lock().unwrap().push((proposed.room().to_string(), proposed.site(), identity, rows));
            async { Ok(()) }
        }
    };
    let server = Server::with_layer(|layer| layer.authorize(by_name).guard(sees)).await;
    let mut reader = Client::join_with(&server, "r", 3, as_user("reader")).await;
    reader.push(0, &[cell(9, "b", Value::Integer(9), 1)]).await;
    let mut ada = Client::join_with(&server, "r", 1, as_user("ada")).await;
    ada.push(0, &[cell(1, "b", Value::Integer(1), 1), cell(2, "b", Value::Integer(2), 1)]).await;
    server.has("r", ROWS, &["1|1", "2|2"]).await;
    let mut nobody = Client::join(&server, "s", 2).await;
    nobody.push(0, &[cell(3, "b", Value::Integer(3), 1)]).await;
    server.has("s", ROWS, &["3|3"]).await;
    let site = |n| crr::SiteId::from_bytes([n; 16]);
    let expected =
        [("r".to_owned(), site(1), Some("ada".to_owned()), vec![1, 2]), ("s".to_owned(), site(2), None, vec![3])];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test]
async fn what_the_guard_objects_to_is_not_applied_and_the_close_says_why() {
    let server = server(|config| config).await;
    let mut client = Client::join(&server, "r", 1).await;
    client.push(0, &[cell(1, "b", Value::Text("good"), 1)]).await;
    server.has("r", ROWS, &["1|'good'"]).await;
    client.push(1, &[cell(2, "b", Value::Text("good"), 2), cell(3, "b", Value::Text("bad"), 2)]).await;
    assert_eq!(client.closed().await, (1008, "changes refused: nothing bad, please".to_owned()));
    assert_eq!(server.rows("r", ROWS).await, ["1|'good'"]);

    let mut client = Client::back(&server, "r", 1).await;
    let start = Instant::now();
    client.start_streaming().await;
    assert!(start.elapsed() >= Duration::from_secs(1), "it is asked for its changes later");
}

#[tokio::test]
async fn what_the_guard_objects_to_can_be_reverted() {
    let server = server(|config| config.with_refuse(Refuse::Revert)).await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    server.write("r", "INSERT INTO foo VALUES (1, 'good')").await;
    let mut client = Client::join(&server, "r", 1).await;
    client.changes().await;
    let bad = tower_sqlite_sync_wire::Change { col_version: 2, ..cell(1, "b", Value::Text("bad"), 1) };
    client.push(0, &[bad, cell(2, "b", Value::Text("good"), 1)]).await;
    assert_eq!(client.gather(2).await, ["1.b='good'", "2.-1=NULL"]);
    client.push(1, &[cell(3, "b", Value::Text("good"), 2)]).await;
    server.has("r", ROWS, &["1|'good'", "3|'good'"]).await;
}

#[tokio::test]
async fn a_guard_that_panics_or_never_answers_ends_that_connection_only() {
    let server = server(|config| config.with_queue_wait(Duration::from_millis(50))).await;
    let mut bystander = Client::join(&server, "r", 9).await;
    for (n, text, code) in [(1, "worse", 1011), (2, "late", 1013)] {
        let mut client = Client::join(&server, "r", n).await;
        client.push(0, &[cell(1, "b", Value::Text(text), 1)]).await;
        let (found, reason) = client.closed().await;
        assert_eq!(found, code, "{reason}");
        assert!(!reason.contains("s3cret"), "{reason}");
    }
    bystander.push(0, &[cell(1, "b", Value::Text("good"), 1)]).await;
    server.has("r", ROWS, &["1|'good'"]).await;
}

#[tokio::test]
async fn clones_of_a_layer_have_a_guard_each() {
    let guarded = Server::with_layer(|layer| {
        let _unguarded = layer.clone().guard(async |_proposed: ProposedChanges| Ok(()));
        layer.guard(examine)
    })
    .await;
    let mut client = Client::join(&guarded, "r", 1).await;
    client.push(0, &[cell(1, "b", Value::Text("bad"), 1)]).await;
    assert_eq!(client.closed().await.0, 1008);
    let mut other = Client::join(&guarded, "r", 2).await;
    guarded.write("r", "INSERT INTO foo VALUES (1, 'bad')").await;
    assert_eq!(cells(&other.changes().await), ["1.b='bad'"], "server code isn't asked");
}
