//! Messages that don't continue what was there, and changesets that can't be applied.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use tower_sqlite_sync_wire::{Change, Message, Position, StartStreaming, Value};

use crate::fixture::{Client, Server, cell, cells, last_version, sentinel};

const ROWS: &str = "SELECT a, b FROM foo ORDER BY a";

/// The position that the room has from a site.
async fn position(server: &Server, site: u8) -> Vec<String> {
    let sql =
        format!("SELECT version FROM crsql_tracked_peers WHERE site_id = x'{}'", format!("{site:02x}").repeat(16));
    server.rows("r", &sql).await
}

/// Keeps a room's writer busy until it is dropped or told.
async fn busy(server: &Server) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (started, running) = tokio::sync::oneshot::channel();
    let rooms = server.rooms.clone();
    tokio::spawn(async move {
        let hold = move |_: &rusqlite::Transaction<'_>| {
            started.send(()).unwrap();
            released.recv().ok();
            Ok(())
        };
        rooms.write("r", hold).await
    });
    running.await.unwrap();
    release
}

#[tokio::test]
async fn what_follows_a_gap_is_not_applied_and_asked_for_again() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    author.push(0, &[cell(1, "b", Value::Number(1.0), 2)]).await;
    reader.changes().await;

    author.push(10, &[cell(2, "b", Value::Number(2.0), 11)]).await;
    let start = author.start_streaming().await;
    assert_eq!(start, StartStreaming { since: Position::at(2), exclude_sites: vec![author.server], local_only: false });
    assert_eq!(server.rows("r", ROWS).await, ["1|1"]);
    assert_eq!(position(&server, 1).await, ["2"]);

    author.push(2, &[cell(3, "b", Value::Number(3.0), 10), cell(2, "b", Value::Number(2.0), 11)]).await;
    assert_eq!(reader.gather(2).await, ["3.b=3", "2.b=2"]);
    assert_eq!(position(&server, 1).await, ["11"]);
}

#[tokio::test]
async fn messages_under_way_behind_a_gap_are_answered_by_one_start_streaming() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let release = busy(&server).await;
    let behind = (10..30).map(|v| author.changes_message(v, &[cell(1, "b", Value::Number(1.0), v + 1)])).collect();
    author.send_all(behind).await;
    drop(release);
    assert_eq!(author.start_streaming().await.since, Position::START);
    server.write("r", "INSERT INTO foo (a, b) VALUES (9, 'next')").await;
    assert_eq!(cells(&author.changes().await), ["9.b='next'"], "and not a second StartStreaming");
}

#[tokio::test]
async fn a_client_that_does_not_listen_is_told_again_but_not_at_full_speed() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let start = Instant::now();
    author.push(5, &[cell(1, "b", Value::Number(1.0), 6)]).await;
    assert_eq!(author.start_streaming().await.since, Position::START);
    let (mut sent, mut told) = (0, false);
    while !told {
        author.push(5, &[cell(1, "b", Value::Number(1.0), 6)]).await;
        sent += 1;
        tokio::select! {
            message = author.next() => {
                assert!(matches!(message, Message::StartStreaming(_)), "{message:?}");
                told = true;
            }
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?} and {sent} messages", start.elapsed());
}

#[tokio::test]
async fn after_a_gap_was_filled_the_next_gap_is_answered_at_once() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    for v in 0..20 {
        author.push(v + 100, &[cell(1, "b", Value::Number(1.0), v + 101)]).await;
        assert_eq!(author.start_streaming().await.since, Position::at(v));
        author.push(v, &[cell(1, "b", Value::Number(1.0), v + 1)]).await;
    }
}

#[tokio::test]
async fn a_position_inside_a_db_version_is_a_gap() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let Message::Changes(mut changes) = author.changes_message(0, &[cell(1, "b", Value::Number(1.0), 1)]) else {
        unreachable!()
    };
    changes.since = Position { db_version: 0, seq: 1 };
    author.send(Message::Changes(changes)).await;
    assert_eq!(author.start_streaming().await.since, Position::START);
}

#[tokio::test]
async fn replaying_old_messages_changes_nothing_and_moves_no_position_back() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    let messages: Vec<Message> = (0..5)
        .map(|v| {
            let change = Change { col_version: v + 1, ..cell(1, "b", Value::Integer(v), v + 1) };
            author.changes_message(v, &[change])
        })
        .collect();
    author.send_all(messages.clone()).await;
    server.has("r", ROWS, &["1|4"]).await;
    author.send_all(messages.clone()).await;
    // A replay that ends before the end: what comes next still continues what is here.
    author.send_all(messages[..2].to_vec()).await;
    author.push(5, &[cell(2, "b", Value::Text("end"), 6)]).await;
    server.has("r", ROWS, &["1|4", "2|'end'"]).await;
    assert_eq!(position(&server, 1).await, ["6"]);
    // What was overwritten before it was read is never sent: one change a cell is the least, five the most.
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "2.b='end'") {
        seen.extend(cells(&reader.changes().await));
    }
    assert!(seen.len() <= 6, "{seen:?}");
}

#[tokio::test]
async fn the_position_is_that_of_the_newest_change_wherever_it_stands_in_its_message() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    author.push(0, &[cell(1, "b", Value::Number(1.0), 9), cell(2, "b", Value::Number(2.0), 4)]).await;
    author.push(9, &[cell(3, "b", Value::Number(3.0), 10)]).await;
    server.has("r", ROWS, &["1|1", "2|2", "3|3"]).await;
    assert_eq!(position(&server, 1).await, ["10"]);
}

#[tokio::test]
async fn a_rejection_brings_the_changes_again_and_without_holes() {
    let server = Server::start().await;
    let mut reader = Client::join(&server, "r", 1).await;
    for k in 1..=5 {
        server.write("r", &format!("INSERT INTO foo (a, b) VALUES ({k}, 'x')")).await;
        reader.changes().await;
    }
    reader.reject(2).await;
    let again = reader.changes().await;
    assert_eq!(again.since, Position::at(2));
    let mut rows = cells(&again);
    let mut at = last_version(&again);
    while rows.len() < 3 {
        let next = reader.changes().await;
        assert_eq!(next.since, Position::at(at));
        (at, rows) = (last_version(&next), [rows, cells(&next)].concat());
    }
    assert_eq!(rows, ["3.b='x'", "4.b='x'", "5.b='x'"]);
    server.write("r", "INSERT INTO foo (a, b) VALUES (6, 'x')").await;
    assert_eq!(reader.changes().await.since, Position::at(5));
}

#[tokio::test]
async fn a_rejection_of_what_was_never_sent_is_ignored() {
    let server = Server::start().await;
    let mut reader = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    reader.changes().await;
    for since in [1, 2, i64::MAX] {
        reader.reject(since).await;
    }
    server.write("r", "INSERT INTO foo (a, b) VALUES (2, 'x')").await;
    assert_eq!(reader.changes().await.since, Position::at(1));
}

#[tokio::test]
async fn a_rejection_of_the_impossible_brings_everything() {
    let server = Server::start().await;
    let mut reader = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    reader.changes().await;
    reader.reject(i64::MIN).await;
    let again = reader.changes().await;
    assert!(again.since <= Position::START, "{:?}", again.since);
    assert_eq!(cells(&again), ["1.b='x'"]);
}

#[tokio::test]
async fn rejections_without_progress_are_obeyed_later_each_time_and_progress_resets_that() {
    let server = Server::start().await;
    let mut reader = Client::join(&server, "r", 1).await;
    for k in 1..=2 {
        server.write("r", &format!("INSERT INTO foo (a, b) VALUES ({k}, 'x')")).await;
        reader.changes().await;
    }
    let mut waits = Vec::new();
    for _ in 0..4 {
        let start = Instant::now();
        reader.reject(0).await;
        assert_eq!(reader.gather(2).await, ["1.b='x'", "2.b='x'"]);
        waits.push(start.elapsed().as_millis());
    }
    for (wait, least) in waits.iter().zip([0, 100, 200, 400]) {
        assert!(*wait >= least, "{waits:?}");
    }
    let start = Instant::now();
    reader.reject(1).await;
    assert_eq!(reader.gather(1).await, ["2.b='x'"]);
    assert!(start.elapsed() < Duration::from_millis(800), "progress, so no waiting: {:?}", start.elapsed());
}

#[tokio::test]
async fn a_changeset_that_can_not_be_applied_closes_its_connection_and_leaves_nothing_behind() {
    let good = || cell(1, "b", Value::Number(1.0), 1);
    let picky = Change { table: "picky", ..cell(2, "v", Value::Number(100.0), 1) };
    let cases = [
        ("unknown table", Change { table: "none", ..good() }, "none"),
        ("table that is no CRR", Change { table: "plain", ..good() }, "plain"),
        ("system table", Change { table: "crsql_site_id", ..good() }, "crsql_site_id"),
        ("unknown column", cell(1, "z", Value::Null, 1), "foo"),
        ("key column", cell(1, "a", Value::Null, 1), "foo"),
        ("empty key", Change { pk: &[], ..good() }, "foo"),
        ("cut key", Change { pk: &[1, 0x79, 1], ..good() }, "foo"),
        ("key of two columns", Change { pk: &[2, 9, 1, 9, 1], ..good() }, "foo"),
        ("key that is NULL", Change { pk: &[1, 5], ..good() }, "foo"),
        (
            "text for a rowid",
            Change { table: "typed", pk: &[1, 0x0b, 1, b'x'], ..cell(1, "t", Value::Null, 1) },
            "typed",
        ),
        ("check constraint", picky, "picky"),
        ("negative version", Change { col_version: -1, ..good() }, "col_version"),
        ("version far ahead", Change { col_version: 1 << 30, ..good() }, "col_version"),
        ("life far ahead", Change { cl: 1 << 30, ..good() }, "cl"),
        ("no db_version", Change { db_version: i64::MAX, ..good() }, "db_version"),
        ("negative db_version", Change { db_version: -1, ..good() }, "db_version"),
        ("negative seq", Change { seq: -1, ..good() }, "seq"),
    ];
    let server = Server::start().await;
    let mut reader = Client::join(&server, "r", 99).await;
    for (site, (what, bad, named)) in (1..).zip(cases) {
        let mut author = Client::join(&server, "r", site).await;
        author.push(0, &[good(), bad]).await;
        let (code, reason) = author.closed().await;
        assert_eq!(code, 1008, "{what}: {reason}");
        assert!(reason.contains(named) && reason.len() <= 123, "{what}: {reason}");
        assert_eq!(position(&server, site).await, Vec::<String>::new(), "{what}");
    }
    let tables = "SELECT count(*) FROM foo UNION ALL SELECT count(*) FROM typed UNION ALL SELECT count(*) FROM picky
                  UNION ALL SELECT count(*) FROM foo__crsql_clock UNION ALL SELECT count(*) FROM picky__crsql_clock";
    assert_eq!(server.rows("r", tables).await, ["0"; 5]);
    assert_eq!(server.rows("r", "SELECT crsql_db_version()").await, ["0"], "no clock was moved");
    server.write("r", "INSERT INTO foo (a, b) VALUES (9, 'next')").await;
    assert_eq!(cells(&reader.changes().await), ["9.b='next'"]);
}

#[tokio::test]
async fn of_a_batch_only_the_changeset_that_fails_and_what_follows_it_is_not_applied() {
    let server = Server::start().await;
    let mut bad = Client::join(&server, "r", 1).await;
    let mut good = Client::join(&server, "r", 2).await;
    let mut reader = Client::join(&server, "r", 3).await;
    let release = busy(&server).await;
    bad.push(0, &[cell(1, "b", Value::Text("before"), 1)]).await;
    bad.push(1, &[Change { table: "picky", ..cell(2, "v", Value::Number(100.0), 2) }]).await;
    bad.push(2, &[cell(3, "b", Value::Text("after"), 3)]).await;
    good.push(0, &[cell(4, "b", Value::Text("good"), 1)]).await;
    good.push(1, &[cell(5, "b", Value::Text("good"), 2)]).await;
    drop(release);
    let (code, reason) = bad.closed().await;
    assert!(code == 1008 && reason.contains("picky"), "{code} {reason}");
    server.has("r", ROWS, &["1|'before'", "4|'good'", "5|'good'"]).await;
    assert_eq!(position(&server, 1).await, ["1"]);
    assert_eq!(position(&server, 2).await, ["2"]);
    let mut seen = reader.gather(3).await;
    seen.sort();
    assert_eq!(seen, ["1.b='before'", "4.b='good'", "5.b='good'"]);
    server.write("r", "INSERT INTO foo (a, b) VALUES (9, 'next')").await;
    assert_eq!(cells(&reader.changes().await), ["9.b='next'"]);
}

#[tokio::test]
async fn a_site_whose_changes_were_refused_goes_on_receiving_and_is_asked_for_them_later() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    author.push(0, &[Change { table: "none", ..cell(1, "b", Value::Null, 1) }]).await;
    let refused = Instant::now();
    assert_eq!(author.closed().await.0, 1008);
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;

    let mut author = Client::connect(&server, "r", 1).await;
    author.announce(&[]).await;
    assert_eq!(cells(&author.changes().await), ["1.b='x'"]);
    assert_eq!(author.start_streaming().await.since, Position::START);
    assert!(refused.elapsed() >= Duration::from_millis(1_900), "{:?}", refused.elapsed());

    let start = Instant::now();
    Client::join(&server, "r", 2).await;
    assert!(start.elapsed() < Duration::from_millis(1_900), "others don't wait");
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_can_leave() {
    let server = Server::start().await;
    for _ in 0..3 {
        let mut author = Client::connect(&server, "r", 1).await;
        author.announce(&[]).await;
        author.push(0, &[Change { table: "none", ..cell(1, "b", Value::Null, 1) }]).await;
        assert_eq!(author.closed().await.0, 1008);
    }
    let mut author = Client::connect(&server, "r", 1).await;
    author.announce(&[]).await;
    crate::fixture::until("the announce", async || server.connections("r") == 1).await;
    let left = Instant::now();
    drop(author);
    crate::fixture::until("the connection to go", async || server.connections("r") == 0).await;
    assert!(left.elapsed() < Duration::from_secs(4), "{:?}", left.elapsed());
}

#[tokio::test]
async fn rows_that_come_without_their_columns_are_asked_for_once() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    author.push(0, &[cell(1, "b", Value::Text("kept"), 1)]).await;
    author.push(1, &[sentinel(1, 2, 2), sentinel(2, 1, 2)]).await;
    let everything = author.start_streaming().await;
    assert_eq!(everything.since, Position::START);
    assert_ne!(everything.exclude_sites, [author.server], "nobody's changes are left out");
    author.push(0, &[sentinel(1, 2, 2), sentinel(2, 1, 2), cell(2, "b", Value::Text("kept"), 2)]).await;
    let normal = author.start_streaming().await;
    assert_eq!((normal.since, normal.exclude_sites), (Position::at(2), vec![author.server]));
    server.has("r", ROWS, &["2|'kept'"]).await;
    author.push(2, &[cell(3, "b", Value::Text("more"), 3)]).await;
    server.has("r", ROWS, &["2|'kept'", "3|'more'"]).await;
}
