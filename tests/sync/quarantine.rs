//! Clients whose changes can't be applied: listed, and let go on without them if an operator says so.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tower_sqlite_sync::{Changeset, Error, RefusedSite, Verdict};
use tower_sqlite_sync_wire::{Change, Changes, Message, Position, SiteId, Value, schema_version};

use crate::fixture::{Client, Server, cell, cells, until, versions};

const ROWS: &str = "SELECT a, b FROM foo ORDER BY a";

fn site(n: u8) -> crr::SiteId {
    crr::SiteId::from_bytes([n; 16])
}

/// What the table `picky` refuses, in row `k`.
fn unfit(k: u8, db_version: i64) -> Change<'static> {
    Change { table: "picky", ..cell(k, "v", Value::Number(100.0), db_version) }
}

fn path(server: &Server, name: &str) -> PathBuf {
    server.folder.path().join(name)
}

async fn position(server: &Server, n: u8) -> Vec<String> {
    let sql = format!("SELECT version FROM crsql_tracked_peers WHERE site_id = x'{}'", format!("{n:02x}").repeat(16));
    server.rows("r", &sql).await
}

fn the_refused(server: &Server) -> RefusedSite {
    let refused = server.rooms.refused_sites();
    assert_eq!(refused.len(), 1, "{refused:?}");
    refused[0].clone()
}

/// Client `n` connects, sends these changes without being asked, and is closed.
async fn refused(server: &Server, n: u8, changes: &[Change<'_>]) {
    let mut client = Client::connect(server, "r", n).await;
    client.announce(&[]).await;
    client.push(0, changes).await;
    let (code, reason) = client.closed().await;
    assert_eq!(code, 1008, "{reason}");
}

fn read(file: &std::path::Path) -> Changes {
    match Message::decode(fs::read(file).unwrap().into()).unwrap() {
        Message::Changes(changes) => changes,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_whose_changes_are_refused_is_listed_until_they_are_applied() {
    let server = Server::start().await;
    assert_eq!(server.rooms.refused_sites(), []);
    refused(&server, 1, &[cell(1, "b", Value::Integer(1), 1), unfit(2, 2)]).await;
    let first = the_refused(&server);
    assert_eq!((first.room.as_str(), first.site, first.times), ("r", site(1), 1));
    assert_eq!((first.table.as_deref(), first.after, first.up_to), (Some("picky"), 0, 2));
    assert!(first.reason.contains("CHECK") && first.quarantine.is_none(), "{first:?}");

    refused(&server, 1, &[cell(1, "b", Value::Integer(1), 1), unfit(2, 2), cell(3, "b", Value::Null, 3)]).await;
    let second = the_refused(&server);
    assert_eq!((second.times, second.since, second.up_to), (2, first.since, 3));
    assert!(second.last >= first.last);
    assert_eq!(server.rows("r", ROWS).await, Vec::<String>::new(), "nothing of it goes through");

    // It is asked for its changes later, and has thought better of it.
    let waiting = Instant::now();
    let mut client = Client::join(&server, "r", 1).await;
    assert!(waiting.elapsed() >= Duration::from_millis(1_900), "{:?}", waiting.elapsed());
    client.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    server.has("r", ROWS, &["1|1"]).await;
    until("it to be forgotten", async || server.rooms.refused_sites().is_empty()).await;
}

#[tokio::test]
async fn transactions_that_can_not_be_applied_are_set_aside_and_all_others_are_applied() {
    let server = Server::start().await;
    let mut reader = Client::join(&server, "r", 9).await;
    let mut changes = vec![
        cell(1, "b", Value::Integer(1), 1),
        cell(2, "b", Value::Integer(2), 2),
        Change { seq: 1, ..unfit(1, 2) },
        cell(3, "b", Value::Integer(3), 3),
        unfit(2, 4),
        Change { table: "none", ..cell(5, "b", Value::Null, 5) },
    ];
    refused(&server, 1, &changes).await;
    let file = path(&server, "aside");
    server.rooms.quarantine("r", site(1), &file).await.unwrap();
    assert_eq!(the_refused(&server).quarantine.as_ref(), Some(&file));
    assert!(!file.exists());

    let asked = Instant::now();
    let mut client = Client::join(&server, "r", 1).await;
    assert!(asked.elapsed() < Duration::from_millis(1_900), "it need not wait any longer");
    changes.push(cell(6, "b", Value::Integer(6), 6));
    client.push(0, &changes).await;
    until("its position to move", async || position(&server, 1).await == ["6"]).await;
    assert_eq!(server.rows("r", ROWS).await, ["1|1", "3|3", "6|6"]);
    assert_eq!(reader.gather(3).await, ["1.b=1", "3.b=3", "6.b=6"]);
    let aside = read(&file);
    assert_eq!((aside.sender, aside.since), (SiteId::from_bytes([1; 16]), Position::START));
    assert_eq!(versions(&aside), [2, 4, 5]);
    assert_eq!(cells(&aside), ["2.b=2", "picky.1.v=100.0", "picky.2.v=100.0", "none.5.b=NULL"]);
    until("it to be forgotten", async || server.rooms.refused_sites().is_empty()).await;

    client.push(6, &[cell(7, "b", Value::Text("later"), 7)]).await;
    assert_eq!(cells(&reader.changes().await), ["7.b='later'"]);
    client.close().await;
    let mut again = Client::connect(&server, "r", 1).await;
    again.announce(&[]).await;
    assert_eq!(again.start_streaming().await.since, Position::at(7), "what was set aside isn't asked for again");
}

#[tokio::test]
async fn what_was_refused_after_the_order_is_not_set_aside() {
    let server = Server::start().await;
    refused(&server, 1, &[unfit(1, 2)]).await;
    let file = path(&server, "aside");
    server.rooms.quarantine("r", site(1), &file).await.unwrap();
    let changes = [unfit(1, 2), cell(1, "b", Value::Integer(1), 3), unfit(2, 4), cell(2, "b", Value::Integer(2), 5)];
    refused(&server, 1, &changes).await;
    assert_eq!(versions(&read(&file)), [2]);
    assert_eq!(position(&server, 1).await, ["3"]);
    assert_eq!(server.rows("r", ROWS).await, ["1|1"]);
    let left = the_refused(&server);
    assert_eq!((left.after, left.up_to, left.times, left.quarantine), (3, 5, 1, None));

    server.rooms.quarantine("r", site(1), path(&server, "aside-too")).await.unwrap();
    let mut client = Client::join(&server, "r", 1).await;
    client.push(3, &changes[2..]).await;
    until("its position to move", async || position(&server, 1).await == ["5"]).await;
    assert_eq!(server.rows("r", ROWS).await, ["1|1", "2|2"]);
    assert_eq!(versions(&read(&path(&server, "aside-too"))), [4]);
}

#[tokio::test]
async fn later_changes_are_applied_on_what_the_room_has() {
    let server = Server::start().await;
    let row = |cid, val, db_version| Change { table: "typed", ..cell(1, cid, val, db_version) };
    let first = [
        row("t", Value::Text("name"), 1),
        Change { seq: 1, ..row("i", Value::Integer(5), 1) },
        Change { seq: 2, ..unfit(1, 1) },
    ];
    refused(&server, 1, &first).await;
    server.rooms.quarantine("r", site(1), path(&server, "aside")).await.unwrap();
    let mut client = Client::join(&server, "r", 1).await;
    client.push(0, &first).await;
    client.push(1, &[Change { col_version: 2, ..row("i", Value::Integer(6), 2) }]).await;
    server.has("r", "SELECT id, t, i FROM typed", &["1|NULL|6"]).await;
    client.push(2, &[Change { col_version: 2, ..row("t", Value::Text("again"), 3) }]).await;
    server.has("r", "SELECT id, t, i FROM typed", &["1|'again'|6"]).await;
    let dead = Change { cid: Change::SENTINEL, val: Value::Null, col_version: 2, cl: 2, ..row("", Value::Null, 4) };
    client.push(3, &[dead]).await;
    server.has("r", "SELECT count(*) FROM typed", &["0"]).await;
}

#[tokio::test]
async fn what_was_set_aside_can_be_applied_when_the_schema_has_been_mended() {
    let old = "CREATE TABLE IF NOT EXISTS foo (a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('foo');";
    let new = "CREATE TABLE IF NOT EXISTS foo (a PRIMARY KEY NOT NULL, b, c); SELECT crsql_as_crr('foo');";
    let server = Server::start().await;
    server.publish(old);
    let join = async |version| {
        let mut client = Client::connect(&server, "r", 1).await;
        client.announce_schema("main.sql", version, &[]).await;
        client
    };
    let changes = [cell(1, "c", Value::Integer(1), 1)];
    let mut client = join(schema_version(old)).await;
    client.push(0, &changes).await;
    assert_eq!(client.closed().await.0, 1008);
    let file = path(&server, "aside");
    server.rooms.quarantine("r", site(1), &file).await.unwrap();
    let mut client = join(schema_version(old)).await;
    client.push(0, &changes).await;
    until("it to be set aside", async || file.exists()).await;

    let aside = read(&file);
    let changeset = |schema_version| Changeset {
        site: site(1),
        since: crr::Position::default(),
        schema_version,
        changes: aside.changes.clone(),
        rights: Arc::default(),
        is_refused: false,
    };
    let verdict = server.rooms.apply("r", changeset(schema_version(old))).await.unwrap();
    assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
    let version = server.publish(new);
    join(version).await.start_streaming().await;
    let verdict = server.rooms.apply("r", changeset(version)).await.unwrap();
    assert!(matches!(verdict, Verdict::Applied { changes: 1, .. }), "{verdict:?}");
    assert_eq!(server.rows("r", "SELECT a, b, c FROM foo").await, ["1|NULL|1"]);
}

#[tokio::test]
async fn changes_that_can_not_be_written_to_their_file_stay_where_they_are() {
    let server = Server::start().await;
    let nobody = server.rooms.quarantine("r", site(1), path(&server, "aside")).await;
    assert!(matches!(nobody, Err(Error::NotRefused { .. })), "{nobody:?}");
    let changes = [unfit(1, 1), cell(1, "b", Value::Integer(1), 2)];
    refused(&server, 1, &changes).await;
    for taken in [server.folder.path().join("schemas"), path(&server, "none/aside")] {
        assert!(matches!(server.rooms.quarantine("r", site(1), taken).await, Err(Error::Io { .. })));
    }
    let folder = path(&server, "folder");
    fs::create_dir(&folder).unwrap();
    server.rooms.quarantine("r", site(1), folder.join("aside")).await.unwrap();
    fs::remove_dir(&folder).unwrap();
    refused(&server, 1, &changes).await;
    assert_eq!(position(&server, 1).await, Vec::<String>::new());
    assert_eq!(the_refused(&server).quarantine, None, "it has to be ordered again");

    fs::create_dir(&folder).unwrap();
    server.rooms.quarantine("r", site(1), folder.join("aside")).await.unwrap();
    Client::join(&server, "r", 1).await.push(0, &changes).await;
    until("its position to move", async || position(&server, 1).await == ["2"]).await;
    assert_eq!(server.rows("r", ROWS).await, ["1|1"]);
}
