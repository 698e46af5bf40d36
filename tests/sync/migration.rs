//! Rooms whose schema gets a new version: who migrates them and when, what becomes of those who are connected, and that a migration
//! that can't be done changes nothing for anybody.

use std::sync::mpsc;

use futures_util::future::join_all;
use tower_sqlite_sync::{Error, SyncConfig};
use tower_sqlite_sync_wire::{Change, Position, Value, schema_version};

use crate::fixture::{Client, ClientOptions, Server, cell, cells, last_version, soon};

const V1: &str = "
    CREATE TABLE IF NOT EXISTS foo (a INTEGER PRIMARY KEY NOT NULL, b, c);
    SELECT crsql_as_crr('foo');
    CREATE TABLE IF NOT EXISTS gone (a INTEGER PRIMARY KEY NOT NULL, b);
    SELECT crsql_as_crr('gone');";

/// Without `foo.c` and `gone`, with `foo.d` and `bar`.
const V2: &str = "
    CREATE TABLE IF NOT EXISTS foo (a INTEGER PRIMARY KEY NOT NULL, b, d DEFAULT 'none');
    SELECT crsql_as_crr('foo');
    CREATE TABLE IF NOT EXISTS bar (a INTEGER PRIMARY KEY NOT NULL, b);
    SELECT crsql_as_crr('bar');";

const ROWS: &str = "SELECT * FROM foo ORDER BY a";
const STAMP: &str = "SELECT key, value FROM crsql_master WHERE key LIKE 'schema%' ORDER BY key";

/// A server with the first version, and a room with a row of a client's.
async fn server() -> (Server, Client) {
    server_with(|config| config).await
}

async fn server_with(change: impl FnOnce(SyncConfig) -> SyncConfig) -> (Server, Client) {
    let server = Server::with(change).await;
    server.publish(V1);
    let mut author = join(&server, 1, V1, &[]).await;
    author.push(0, &[cell(1, "b", Value::Number(2.0), 1), cell(1, "c", Value::Number(3.0), 1)]).await;
    server.has("r", ROWS, &["1|2|3"]).await;
    (server, author)
}

/// Connects site `n` to the room, with a schema and what it has seen of the server.
async fn announce(server: &Server, n: u8, schema: &str, seen: &[i64]) -> Client {
    let mut client = Client::connect(server, "r", n).await;
    let seen: Vec<_> = seen.iter().map(|version| (site(server), *version)).collect();
    client.announce_schema("main.sql", schema_version(schema), &seen).await;
    client
}

async fn join(server: &Server, n: u8, schema: &str, seen: &[i64]) -> Client {
    let mut client = announce(server, n, schema, seen).await;
    client.server = client.start_streaming().await.exclude_sites[0];
    client
}

/// The site id of the server's database.
fn site(server: &Server) -> tower_sqlite_sync_wire::SiteId {
    let conn = rusqlite::Connection::open(server.file("r")).unwrap();
    let id = conn.query_row("SELECT site_id FROM crsql_site_id WHERE ordinal = 0", [], |row| row.get(0));
    tower_sqlite_sync_wire::SiteId::from_bytes(id.unwrap())
}

/// The client is closed because of its schema, with a reason that says so and nothing that it shouldn't.
async fn refused(server: &Server, client: &mut Client, said: &str) {
    let (code, reason) = client.closed().await;
    assert_eq!(code, 4400, "{reason}");
    assert!(reason.contains(said), "{reason:?} should say {said:?}");
    assert!(reason.len() <= 123 && !reason.contains(server.folder.path().to_str().unwrap()), "{reason}");
}

fn stamp(schema: &str) -> [String; 2] {
    ["'schema_name'|'main.sql'".to_owned(), format!("'schema_version'|{}", schema_version(schema))]
}

// ---- Migrating ----

#[tokio::test]
async fn the_first_client_with_the_new_version_migrates_a_room_that_nobody_has_open() {
    let (server, author) = server().await;
    author.close().await;
    let server = server.restart().await;
    server.publish(V2);
    let mut first = join(&server, 2, V2, &[]).await;
    assert_eq!(cells(&first.changes().await), ["1.b=2"], "the column that is gone is not sent");
    assert_eq!(server.rows("r", ROWS).await, ["1|2|'none'"]);
    assert_eq!(server.rows("r", STAMP).await, stamp(V2));

    let mut second = join(&server, 3, V2, &[1]).await;
    first
        .push(0, &[cell(1, "d", Value::Text("new"), 1), Change { table: "bar", ..cell(7, "b", Value::Null, 1) }])
        .await;
    assert_eq!(cells(&second.changes().await), ["1.d='new'", "bar.7.b=NULL"]);
    server.write("r", "UPDATE foo SET d = 'server'").await;
    assert_eq!(cells(&first.changes().await), ["1.d='server'"]);

    let server = server.restart().await;
    assert_eq!(server.rows("r", ROWS).await, ["1|2|'server'"]);
    join(&server, 4, V2, &[]).await;
}

#[tokio::test]
async fn a_file_that_is_about_to_be_written_migrates_no_room_whoever_has_its_version() {
    let (server, author) = server().await;
    for (text, why) in [("", "is empty"), ("-- Tables:\n", "no table a CRR"), ("CREATE TABLE a (b);", "no table a CRR")]
    {
        server.publish(text);
        let mut early = announce(&server, 2, text, &[]).await;
        refused(&server, &mut early, why).await;
    }
    assert_eq!(server.rows("r", ROWS).await, ["1|2|3"]);
    assert_eq!(server.rows("r", STAMP).await, stamp(V1));
    assert_eq!(server.connections("r"), 1);
    server.publish(V2);
    join(&server, 2, V2, &[]).await;
    drop(author);
}

#[tokio::test]
async fn a_room_is_migrated_while_others_are_connected_and_they_are_told_to_get_the_new_schema() {
    let (server, mut author) = server().await;
    let mut reader = join(&server, 2, V1, &[]).await;
    assert_eq!(cells(&reader.changes().await), ["1.b=2", "1.c=3"]);
    server.publish(V2);
    let mut late = join(&server, 3, V1, &[1]).await;

    let mut new = join(&server, 4, V2, &[]).await;
    assert_eq!(cells(&new.changes().await), ["1.b=2"], "frames of before the migration are not sent");
    for client in [&mut author, &mut reader, &mut late] {
        refused(&server, client, "bring the schema up to date").await;
    }
    refused(&server, &mut announce(&server, 1, V1, &[]).await, "install the same text").await;
    assert_eq!(server.rows("r", STAMP).await, stamp(V2));

    // A client that was upgraded goes on where it was.
    let mut author = announce(&server, 1, V2, &[1]).await;
    assert_eq!(author.start_streaming().await.since, Position::at(1));
    author.push(1, &[cell(2, "d", Value::Text("x"), 5)]).await;
    assert_eq!(cells(&new.changes().await), ["2.d='x'"]);
    new.push(0, &[cell(3, "d", Value::Text("y"), 1)]).await;
    assert_eq!(cells(&author.changes().await), ["3.d='y'"]);
}

#[tokio::test]
async fn clients_with_the_old_version_are_served_until_one_with_the_new_one_comes() {
    let (server, mut author) = server().await;
    server.publish(V2);
    let mut reader = join(&server, 2, V1, &[1]).await;
    author.push(1, &[Change { col_version: 2, ..cell(1, "c", Value::Number(4.0), 2) }]).await;
    assert_eq!(cells(&reader.changes().await), ["1.c=4"]);
    assert_eq!(server.rows("r", STAMP).await, stamp(V1));
}

#[tokio::test]
async fn many_clients_with_the_new_version_at_once_migrate_the_room_once() {
    let (server, _author) = server().await;
    // The migration fails if it is done twice.
    let once = format!("{V2} CREATE TABLE IF NOT EXISTS applied (n PRIMARY KEY); INSERT INTO applied VALUES (1);");
    server.publish(&once);
    let joining = (10..60).map(|n| join(&server, n, &once, &[]));
    let mut clients = join_all(joining).await;
    assert_eq!(server.rows("r", "SELECT * FROM applied").await, ["1"]);
    server.write("r", "INSERT INTO foo (a, b) VALUES (9, 9)").await;
    for client in &mut clients {
        assert_eq!(client.gather(3).await, ["1.b=2", "9.b=9", "9.d='none'"]);
    }
}

#[tokio::test]
async fn a_room_can_be_migrated_again_and_again() {
    let (server, mut before) = server().await;
    let mut schema = V1.to_owned();
    for n in 0..5u8 {
        let column = format!("extra{n}");
        schema = schema.replace(", c)", &format!(", {column}, c)"));
        server.publish(&schema);
        let mut client = join(&server, 10 + n, &schema, &[]).await;
        refused(&server, &mut before, "main.sql").await;
        client.push(0, &[cell(1, &column, Value::Number(f64::from(n)), 1)]).await;
        server.has("r", &format!("SELECT {column} FROM foo"), &[&n.to_string()]).await;
        before = client;
    }
}

#[tokio::test]
async fn a_room_in_memory_keeps_its_rows_when_it_is_migrated() {
    let server = Server::with(|config| config.with_memory(true)).await;
    server.publish(V1);
    let mut author = Client::connect(&server, "r", 1).await;
    author.announce_schema("main.sql", schema_version(V1), &[]).await;
    let known = author.start_streaming().await.exclude_sites;
    author.push(0, &[cell(1, "b", Value::Number(2.0), 1)]).await;
    server.has("r", ROWS, &["1|2|NULL"]).await;

    server.publish(V2);
    let mut new = Client::connect(&server, "r", 2).await;
    new.announce_schema("main.sql", schema_version(V2), &[]).await;
    assert_eq!(new.start_streaming().await.exclude_sites, known, "it is the same database");
    assert_eq!(cells(&new.changes().await), ["1.b=2"]);
    refused(&server, &mut author, "main.sql").await;
    server.write("r", "UPDATE foo SET d = 'x'").await;
    assert_eq!(cells(&new.changes().await), ["1.d='x'"]);
}

#[tokio::test]
async fn clients_get_what_the_migration_itself_writes_and_no_version_is_used_twice() {
    let (server, author) = server().await;
    author.close().await;
    server.write("r", "INSERT INTO gone VALUES (1, 2)").await;
    let seen = last_version(&join(&server, 2, V1, &[]).await.changes().await);
    // The newest version belongs to the table that goes.
    let seeded = format!("{V2} INSERT OR IGNORE INTO bar VALUES (5, 'seed');");
    server.publish(&seeded);
    let mut new = join(&server, 2, &seeded, &[seen]).await;
    let seed = new.changes().await;
    assert_eq!((seed.since, cells(&seed)), (Position::at(seen), vec!["bar.5.b='seed'".to_owned()]));
    assert!(last_version(&seed) > seen);
}

#[tokio::test]
async fn what_a_client_with_the_old_version_sends_while_the_room_is_being_migrated_is_not_applied() {
    let (server, mut author) = server().await;
    server.publish(V2);
    // The writer is busy, so that the migration and what the author sends queue up behind each other.
    let (let_go, held) = mpsc::channel::<()>();
    let (begun, busy) = tokio::sync::oneshot::channel();
    let rooms = server.rooms.clone();
    let writing = tokio::spawn(async move {
        rooms
            .write("r", move |_| {
                begun.send(()).unwrap();
                held.recv().unwrap();
                Ok(())
            })
            .await
    });
    soon("the writer to be busy", busy).await.unwrap();
    let mut new = announce(&server, 2, V2, &[]).await;
    // Its announce is in the queue once the room is locked for others.
    let mut waiting = announce(&server, 3, V2, &[]).await;
    crate::fixture::until("the migration to be queued", async || server.rooms.rooms().is_empty()).await;
    let update = Change { col_version: 2, ..cell(1, "b", Value::Text("lost?"), 2) };
    author.push(1, &[update]).await;
    author.reject(1).await;
    let_go.send(()).unwrap();
    writing.await.unwrap().unwrap();
    new.start_streaming().await;
    waiting.start_streaming().await;
    refused(&server, &mut author, "main.sql").await;

    // It has not been counted either: the author sends it again.
    let mut author = announce(&server, 1, V2, &[1]).await;
    let since = author.start_streaming().await.since;
    if since == Position::at(1) {
        author.push(1, &[update]).await;
    }
    server.has("r", ROWS, &["1|'lost?'|'none'"]).await;
}

// ---- Not migrating ----

#[tokio::test]
async fn a_version_that_the_schema_folder_does_not_have_is_refused_and_nobody_notices() {
    let (server, mut author) = server().await;
    refused(&server, &mut announce(&server, 2, V2, &[]).await, "install the same text").await;
    let mut other = Client::connect(&server, "r", 2).await;
    std::fs::write(server.folder.path().join("schemas/other.sql"), V2).unwrap();
    other.announce_schema("other.sql", schema_version(V2), &[]).await;
    refused(&server, &mut other, "other.sql").await;
    server.write("r", "UPDATE foo SET c = 9").await;
    assert_eq!(cells(&author.changes().await), ["1.c=9"]);
    assert_eq!(server.rows("r", STAMP).await, stamp(V1));
}

#[tokio::test]
async fn a_migration_that_cannot_be_done_refuses_its_client_and_the_others_go_on() {
    for (text, said) in [
        (
            V1.replace("foo (a INTEGER PRIMARY KEY NOT NULL", "foo (id INTEGER PRIMARY KEY NOT NULL"),
            "table foo: its primary key (a)",
        ),
        (V1.replace("b, c", "B, c"), "table foo: the schema spells column b B"),
        (V1.replace("b, c", "b, c, e UNIQUE").replace("SELECT crsql_as_crr('foo');", ""), "column e can't be added"),
        (V2.replace("IF NOT EXISTS ", ""), "table foo already exists"),
        (format!("{V2} INSERT INTO foo (a) VALUES (1);"), "UNIQUE constraint failed: foo.a"),
        (format!("{V2} CREATE TABEL nonsense;"), "syntax error"),
        (format!("{V2} CREATE TABLE bad (a); SELECT crsql_as_crr('bad');"), "table bad can't become a CRR"),
    ] {
        let (server, mut author) = server().await;
        server.publish(&text);
        refused(&server, &mut announce(&server, 2, &text, &[]).await, said).await;
        // Again: it isn't tried again, and the answer is the same.
        refused(&server, &mut announce(&server, 2, &text, &[]).await, said).await;
        assert_eq!(server.rows("r", STAMP).await, stamp(V1), "{said}");
        server.write("r", "UPDATE foo SET c = 9").await;
        assert_eq!(cells(&author.changes().await), ["1.c=9"], "{said}");
        author.push(1, &[cell(2, "c", Value::Number(1.0), 2)]).await;
        server.has("r", ROWS, &["1|2|9", "2|NULL|1"]).await;
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('bar', 'bad', 'gone')";
        assert_eq!(server.rows("r", tables).await, ["1"], "{said}");

        // Closed, it is the same.
        author.close().await;
        let server = server.restart().await;
        refused(&server, &mut announce(&server, 2, &text, &[]).await, said).await;
        join(&server, 1, V1, &[]).await;
        assert_eq!(server.rows("r", STAMP).await, stamp(V1), "{said}");
    }
}

#[tokio::test]
async fn a_schema_that_was_mended_is_tried_at_once() {
    let (server, _author) = server().await;
    let broken = V2.replace("d DEFAULT 'none'", "d UNIQUE");
    server.publish(&broken);
    refused(&server, &mut announce(&server, 2, &broken, &[]).await, "").await;
    server.publish(V2);
    join(&server, 2, V2, &[]).await;
}

#[tokio::test]
async fn the_application_opens_rooms_of_any_version_and_does_not_migrate_them() {
    let (server, author) = server().await;
    author.close().await;
    let server = server.restart().await;
    server.publish(V2);
    assert_eq!(server.rows("r", ROWS).await, ["1|2|3"]);
    let created = server.rooms.create_room("r", "main.sql").await;
    assert!(matches!(created, Err(Error::SchemaMismatch { .. })), "{created:?}");
    assert_eq!(server.rows("r", STAMP).await, stamp(V1));
}

#[tokio::test]
async fn a_file_with_a_schema_name_and_no_version_is_refused() {
    let (server, author) = server().await;
    author.close().await;
    server.write("r", "DELETE FROM crsql_master WHERE key = 'schema_version'").await;
    let server = server.restart().await;
    server.publish(V2);
    refused(&server, &mut announce(&server, 2, V2, &[]).await, "main.sql").await;
    assert_eq!(server.rows("r", ROWS).await, ["1|2|3"]);
}

#[tokio::test]
async fn a_client_that_may_only_read_brings_the_room_up_to_date_too() {
    let (server, _author) = server().await;
    server.publish(V2);
    let options = ClientOptions { token: Some("reader"), ..Default::default() };
    let mut reader = Client::connect_with(server.address, "r", 2, options).await;
    reader.announce_schema("main.sql", schema_version(V2), &[]).await;
    reader.start_streaming().await;
    assert_eq!(cells(&reader.changes().await), ["1.b=2"]);
}
