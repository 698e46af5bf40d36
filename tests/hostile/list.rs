//! One connection for each trick that is known: it is refused or closed with a reason, or does no harm, and nobody else notices.
//!
//! `README.md` says which test has which.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tower_sqlite_sync_wire::{
    ApplyChangesOnPrimary, ApplyChangesOnPrimaryResponse, Change, Changes, CreateDbOnPrimary,
    CreateDbOnPrimaryResponse, ErrResponse, Message, Position, SiteId, StartStreaming, Value,
};

use crate::attack::ALONE;
use crate::fixture::{Client, ClientOptions, cell, cells, sentinel, soon};
use crate::kinds::site;
use crate::target::Target;

const ROOM: &str = "good";

/// How far ahead of the room's a version may be.
const AHEAD: i64 = 1 << 24;

impl Target {
    /// A stranger, who has not announced itself.
    async fn stranger(&self, n: usize) -> Client {
        let mut client = Client::connect_with(self.address(), ROOM, 0, ClientOptions::default()).await;
        client.site = site(n);
        client
    }

    /// One who was let in.
    async fn guest(&self, n: usize) -> Client {
        let mut client = self.stranger(n).await;
        client.enter().await;
        client
    }

    /// A connection ends like that, and nobody else notices.
    async fn closes(&mut self, what: &str, client: &mut Client, code: u16, said: &str) {
        let (found, reason) = client.closed().await;
        assert_eq!(found, code, "{what}: {reason}");
        assert!(reason.contains(said) && !reason.is_empty(), "{what}: {reason:?} should say {said:?}");
        self.is_well().await;
    }
}

/// A change of what no test but one writes.
fn change(k: u8) -> Change<'static> {
    cell(k, "b", Value::Text("hostile"), 1)
}

#[tokio::test]
async fn requests_that_do_not_say_which_room_are_refused() {
    let mut target = Target::start(&[]).await;
    let cases = [
        ("none", "", "say which room"),
        ("empty", "Sec-WebSocket-Protocol:\r\n", "say which room"),
        ("no base64", "Sec-WebSocket-Protocol: !!!\r\n", "does not decode"),
        ("no room", "Sec-WebSocket-Protocol: YXV0aD0x\r\n", "names no room"),
        ("two in a line", "Sec-WebSocket-Protocol: cm9vbT1nb29k, cm9vbT1nb29k\r\n", "exactly one"),
        (
            "two lines",
            "Sec-WebSocket-Protocol: cm9vbT1nb29k\r\nSec-WebSocket-Protocol: cm9vbT1nb29k\r\n",
            "exactly one",
        ),
    ];
    for (what, header, said) in cases {
        let response = soon(what, ask(target.address(), header)).await;
        assert!(response.starts_with("HTTP/1.1 400 ") && response.contains(said), "{what}: {response}");
        target.is_well().await;
    }
}

/// The response to a request for a WebSocket with this header, or these, and a connection that ends with it.
async fn ask(address: SocketAddr, header: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /sync HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{header}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

#[tokio::test]
async fn rooms_that_could_be_another_file_are_refused_and_leave_none() {
    let mut target = Target::start(&[]).await;
    let long = "x".repeat(10 << 10);
    let cases = [
        ("../good", "starts with '.'"),
        ("..", "starts with '.'"),
        (".", "starts with '.'"),
        ("a/../../schemas/main.sql", "contains '/'"),
        ("a\\..\\b", "contains '\\\\'"),
        ("/dev/null", "contains '/'"),
        ("//./COM1", "contains '/'"),
        ("CON:", "contains ':'"),
        (":memory:", "contains ':'"),
        ("file:good?mode=memory", "contains ':'"),
        ("good%00", "contains '%'"),
        ("good-wal", "ends in `-wal`"),
        ("a-wal", "ends in `-wal`"),
        ("good-shm", "ends in `-shm`"),
        ("good-journal", "ends in `-journal`"),
        ("\0", "contains"),
        ("good\0", "contains"),
        ("good\0.txt", "contains"),
        ("good\r\nX: y", "contains"),
        ("'; DROP TABLE foo; --", "contains '\\''"),
        ("\"good\"", "contains '\"'"),
        (&long, "more than 128 characters"),
    ];
    for (room, said) in cases {
        match Client::try_connect(target.address(), room, 0, ClientOptions::default()).await {
            Err(WsError::Http(response)) => {
                let body = String::from_utf8(response.body().clone().unwrap_or_default()).unwrap();
                assert!(response.status() == 400 && body.contains(said), "{room:?}: {} {body}", response.status());
            }
            Err(other) => panic!("{room:?}: {other}"),
            Ok(_) => panic!("{room:?} is a room"),
        }
    }
    target.is_well().await;

    // Names of devices elsewhere, and whole names of ours: here they are files like any other.
    for room in ["CON", "nul", "aux.db", "good.db", "sqlite_schema", "x".repeat(128).as_str()] {
        let mut client = Client::connect_with(target.address(), room, 0, ClientOptions::default()).await;
        client.site = site(1);
        client.enter().await;
        client.push(0, &[change(2)]).await;
        client.heard().await;
        assert!(target.folder().join("dbs").join(room).is_file(), "{room}");
        target.is_well().await;
    }
    let mut names: Vec<_> =
        std::fs::read_dir(target.folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["dbs", "log", "schemas"], "nothing was written elsewhere");
}

#[tokio::test]
async fn messages_out_of_place_close_their_connection() {
    let mut target = Target::start(&[]).await;
    let mut early = target.stranger(1).await;
    early.push(0, &[change(2)]).await;
    target.closes("changes before the announce", &mut early, 1002, "announce").await;

    let mut hasty = target.stranger(2).await;
    hasty.send_all(vec![hasty.announcement(&[]), hasty.announcement(&[])]).await;
    target.closes("two announces at once", &mut hasty, 1002, "once").await;

    let mut twice = target.guest(3).await;
    twice.announce(&[]).await;
    target.closes("a second announce", &mut twice, 1002, "once").await;

    for message in of_servers() {
        let mut fresh = target.stranger(4).await;
        fresh.send(message.clone()).await;
        target.closes(message.name(), &mut fresh, 1002, "announce").await;
        let mut announced = target.guest(4).await;
        announced.send(message.clone()).await;
        target.closes(message.name(), &mut announced, 1002, "doesn't send").await;
    }

    let mut mixed = target.guest(5).await;
    let text = mixed.changes_message(0, &[change(2)]).to_json();
    mixed.send_frame(WsMessage::text(text)).await;
    target.closes("a text frame in a binary session", &mut mixed, 1003, "binary").await;

    let mut forger = target.guest(6).await;
    let changes = [change(2)].into_iter().collect();
    forger.send(Message::Changes(Changes { sender: site(5), since: Position::START, changes })).await;
    target.closes("another sender", &mut forger, 1008, "announced").await;

    let mut impostor = target.guest(7).await;
    impostor.site = impostor.server;
    impostor.push(0, &[change(2)]).await;
    target.closes("the server as sender", &mut impostor, 1008, "announced").await;
    assert_eq!(rows(&target, "a = 2"), 0, "nothing of it was taken");
}

/// StartStreaming, and the tags from 5 to 11.
fn of_servers() -> [Message; 8] {
    let (request_id, sender) = (0, SiteId::from_bytes([1; 16]));
    [
        Message::StartStreaming(StartStreaming {
            since: Position::START,
            exclude_sites: Vec::new(),
            local_only: false,
        }),
        Message::CreateDbOnPrimary(CreateDbOnPrimary {
            request_id,
            room: "other".into(),
            schema_name: "main.sql".into(),
            schema_version: 1,
        }),
        Message::ApplyChangesOnPrimary(ApplyChangesOnPrimary {
            request_id,
            sender,
            changes: [change(2)].into_iter().collect(),
            room: ROOM.into(),
            new_last_seen: Position::at(1),
        }),
        Message::Ping,
        Message::Pong,
        Message::CreateDbOnPrimaryResponse(CreateDbOnPrimaryResponse { request_id, txid: 1 }),
        Message::Err(ErrResponse { request_id, message: "no".into() }),
        Message::ApplyChangesOnPrimaryResponse(ApplyChangesOnPrimaryResponse { request_id }),
    ]
}

/// How many rows of `foo` are like that.
fn rows(target: &Target, which: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM foo WHERE {which}");
    target.file(ROOM).query_row(&sql, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn changes_that_can_not_be_meant_close_their_connection_and_leave_nothing() {
    let mut target = Target::start(&[]).await;
    let good = change(2);
    let cases = [
        ("the largest db_version", Change { db_version: i64::MAX, ..good }, "db_version"),
        ("a db_version that leaves no room", Change { db_version: (1 << 53) - 1, ..good }, "db_version"),
        ("a negative db_version", Change { db_version: -1, ..good }, "db_version"),
        ("a negative col_version", Change { col_version: -1, ..good }, "col_version"),
        ("the least col_version", Change { col_version: i64::MIN, ..good }, "col_version"),
        ("a col_version beyond its bound", Change { col_version: AHEAD + 1, ..good }, "col_version"),
        ("a negative life", Change { cl: -1, ..good }, "cl"),
        ("a life beyond its bound", Change { cl: (1 << 20) + 1, ..good }, "cl"),
        ("a key without bytes", Change { pk: b"", ..good }, "foo"),
        ("a key without columns", Change { pk: b"\0", ..good }, "foo"),
        ("a key that says more columns than it has", Change { pk: b"\x02\x09\x01", ..good }, "foo"),
        ("a key with too many columns", Change { pk: b"\x02\x09\x01\x09\x01", ..good }, "foo"),
        ("a key with more behind it", Change { pk: b"\x01\x09\x02\0", ..good }, "foo"),
        ("an unknown table", Change { table: "none", ..good }, "none"),
        ("a table by another name", Change { table: "foo\0", ..good }, "foo"),
        ("a name that is SQL", Change { table: "foo\"; DROP TABLE foo; --", ..good }, "DROP"),
        ("a table of the engine", Change { table: "foo__crsql_clock", ..good }, "foo__crsql_clock"),
        ("SQLite's table", Change { table: "sqlite_schema", cid: "sql", ..good }, "sqlite_schema"),
        ("an unknown column", Change { cid: "none", ..good }, "foo"),
        ("a column that is SQL", Change { cid: "b\" = 1; DROP TABLE foo; --", ..good }, "foo"),
        ("a column of the key", Change { cid: "a", ..good }, "foo"),
    ];
    for (n, (what, bad, said)) in cases.into_iter().enumerate() {
        let mut client = target.guest(100 + n).await;
        client.push(0, &[good, bad]).await;
        target.closes(what, &mut client, 1008, said).await;
        assert_eq!(rows(&target, "a <> 1"), 0, "{what}");
    }
}

#[tokio::test]
async fn encodings_that_no_message_has_close_their_connection() {
    let mut target = Target::start(&[]).await;
    let message = target.stranger(1).await.changes_message(0, &[change(2)]).encode();
    let value = message.windows(7).position(|bytes| bytes == b"hostile").unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = message.to_vec();
        bytes[at] = byte;
        Bytes::from(bytes)
    };
    let cases = [
        ("text that is no UTF-8", with(value + 3, 0xff)),
        // Two bytes before it: the type, and the length.
        ("an unknown type", with(value - 2, 6)),
        ("a length beyond the end", with(value - 1, 0x7f)),
        ("an unknown tag", with(0, 12)),
        ("nothing", Bytes::new()),
        ("a message without its last byte", message.slice(..message.len() - 1)),
        ("a message with another byte behind it", [&message[..], b"\0"].concat().into()),
    ];
    for (what, bytes) in cases {
        let mut client = target.guest(1).await;
        client.send_frame(WsMessage::Binary(bytes)).await;
        target.closes(what, &mut client, 1007, "byte").await;
    }
    assert_eq!(rows(&target, "a = 2"), 0);
}

#[tokio::test]
async fn frames_that_are_none_close_their_connection() {
    let mut target = Target::start(&[]).await;
    let cases: [(&str, &[u8]); 4] = [
        // Nobody agreed on compression (RFC 7692).
        ("a compressed frame", &[0xc2, 0x80, 1, 2, 3, 4]),
        ("a frame that is not masked", &[0x82, 0x01, 0x07]),
        ("an unknown opcode", &[0x83, 0x80, 1, 2, 3, 4]),
        ("a continuation of nothing", &[0x80, 0x80, 1, 2, 3, 4]),
    ];
    for (what, bytes) in cases {
        for is_announced in [false, true] {
            let client = if is_announced { target.guest(1).await } else { target.stranger(1).await };
            let mut stream = client.into_stream();
            stream.write_all(bytes).await.unwrap();
            let close = soon(what, rest(&mut stream)).await;
            assert!(ends_with_close(&close, 1002, "broken WebSocket framing"), "{what}: {close:x?}");
            target.is_well().await;
        }
    }
}

/// All that still comes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What it has not read may make the server's system reset the connection once the server has closed it.
    drop(stream.read_to_end(&mut bytes).await);
    bytes
}

fn ends_with_close(bytes: &[u8], code: u16, reason: &str) -> bool {
    let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
    bytes.ends_with(&[&[0x88, u8::try_from(payload.len()).unwrap()], &payload[..]].concat())
}

#[tokio::test]
async fn who_floods_the_server_with_pings_is_answered_and_may_go_on() {
    let mut target = Target::start(&[]).await;
    let mut client = target.guest(1).await;
    for _ in 0..200 {
        for _ in 0..50 {
            client.send_frame(WsMessage::Ping(Bytes::from_static(&[7; 125]))).await;
        }
        client.heard().await;
    }
    target.is_well().await;
    client.push(0, &[change(2)]).await;
    client.heard().await;
    target.is_well().await;
    assert_eq!(rows(&target, "a = 2"), 1);
}

#[tokio::test]
async fn who_is_gone_without_a_word_is_found_out() {
    // The others have to answer in time, which they may not during an attack.
    let _alone = ALONE.lock().await;
    let mut target = Target::start(&[("HEARTBEAT", "1")]).await;
    let mut silent = target.guest(1).await.into_stream();
    // Nothing here answers pings, as if the cable were cut; the others are kept busy meanwhile.
    let received = tokio::select! {
        received = soon("the server to notice", rest(&mut silent)) => received,
        () = async { loop { target.works().await } } => unreachable!(),
    };
    assert!(ends_with_close(&received, 1002, "no answer to pings (heartbeat)"), "{received:x?}");
    target.is_well().await;
}

#[tokio::test]
async fn a_version_that_leaves_no_room_is_refused_alone_of_those_that_wait_with_it() {
    let mut target = Target::start(&[]).await;
    let (mut first, mut bad, mut honest) = (target.guest(1).await, target.guest(2).await, target.guest(3).await);
    // While somebody else holds the file, the first changeset waits for it, and the others for the first.
    let lock = target.file(ROOM);
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    first.push(0, &[change(2)]).await;
    first.heard().await;
    bad.push(0, &[change(3), Change { db_version: (1 << 53) - 1, ..change(4) }]).await;
    bad.heard().await;
    honest.push(0, &[change(5)]).await;
    honest.heard().await;
    lock.execute_batch("ROLLBACK").unwrap();
    drop(lock);
    target.closes("the changeset", &mut bad, 1008, "db_version").await;
    honest.push(1, &[Change { db_version: 2, ..change(6) }]).await;
    honest.heard().await;
    target.is_well().await;
    assert_eq!(rows(&target, "a IN (2, 5, 6)"), 3);
    assert_eq!(rows(&target, "a IN (3, 4)"), 0);
    let sql = "SELECT max(db_version) FROM foo__crsql_clock";
    let version: i64 = target.file(ROOM).query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(version < 20, "no clock was moved: {version}");
}

#[tokio::test]
async fn a_version_at_its_bound_is_taken_and_can_be_edited_on() {
    let mut target = Target::start(&[]).await;
    let mut greedy = target.guest(1).await;
    let mut honest = target.guest(2).await;
    greedy.push(0, &[Change { col_version: AHEAD, ..change(2) }]).await;
    assert_eq!(cells(&honest.changes().await), ["2.b='hostile'"]);
    for n in 1..=3 {
        let value = Value::Integer(n);
        honest.push(n - 1, &[Change { col_version: AHEAD + n, db_version: n, val: value, ..change(2) }]).await;
        assert_eq!(cells(&greedy.changes().await), [format!("2.b={n}")]);
    }
    greedy.push(1, &[Change { col_version: 2 * AHEAD + 4, db_version: 2, ..change(2) }]).await;
    target.closes("one more than the bound", &mut greedy, 1008, "col_version").await;
    assert_eq!(rows(&target, "a = 2 AND b = 3"), 1);
}

#[tokio::test]
async fn odd_changes_that_are_taken_do_no_harm() {
    let mut target = Target::start(&[]).await;
    let mut client = target.guest(1).await;
    let mut since = 0;
    let mut push = async |changes: &[Change<'_>]| {
        since += 1;
        let changes: Vec<_> = changes.iter().map(|change| Change { db_version: since, ..*change }).collect();
        // Twice: a replay is harmless.
        client.push(since - 1, &changes).await;
        client.push(since - 1, &changes).await;
        client.heard().await;
    };
    push(&[cell(2, "b", Value::Number(f64::NAN), 1)]).await;
    push(&[cell(3, "b", Value::Number(f64::INFINITY), 1), cell(4, "b", Value::Text("a\0b"), 1)]).await;
    // Sentinels whose version is not their causal length, that are born dead, live on in an even life, or say a column too.
    push(&[Change { col_version: 2, ..sentinel(5, 1, 1) }]).await;
    push(&[Change { col_version: 1, ..sentinel(5, 2, 1) }]).await;
    push(&[Change { col_version: AHEAD, ..sentinel(6, 3, 1) }]).await;
    push(&[Change { val: Value::Text("a value"), ..sentinel(7, 4, 1) }]).await;
    push(&[Change { cl: 2, ..change(8) }, Change { cl: 0, ..change(9) }]).await;
    push(&[sentinel(10, 0, 1), Change { cl: 3, ..change(8) }, sentinel(10, 1, 1)]).await;
    target.is_well().await;
    let newest = "SELECT max(db_version) FROM foo__crsql_clock";
    let version: i64 = target.file(ROOM).query_row(newest, [], |row| row.get(0)).unwrap();
    assert!(version <= since + 1, "a replay takes no version: {version} after {since} changesets and an honest one");

    // Who comes now is sent nothing odd.
    let mut fresh = target.guest(2).await;
    fresh.push(0, &[Change { col_version: 1, cl: 5, ..change(7) }]).await;
    fresh.heard().await;
    target.is_well().await;
    assert_eq!(rows(&target, "a = 2 AND b IS NULL"), 1);
    assert_eq!(rows(&target, "a = 7 AND b = 'hostile'"), 1, "a row can live again");
    let mismatched = "SELECT count(*) FROM foo__crsql_clock WHERE col_name = '-1' AND col_version > 10";
    assert_eq!(target.file(ROOM).query_row(mismatched, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[tokio::test]
async fn two_frames_in_one_segment_are_both_taken() {
    let mut target = Target::start(&[]).await;
    let client = target.guest(1).await;
    let messages =
        [client.changes_message(0, &[change(2)]), client.changes_message(1, &[Change { db_version: 2, ..change(3) }])];
    let mut reader = target.guest(2).await;
    let mut segment = Vec::new();
    for message in messages {
        let payload = message.encode();
        assert!(payload.len() < 126);
        segment.extend([0x82, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0]);
        segment.extend_from_slice(&payload);
    }
    let mut stream = client.into_stream();
    stream.write_all(&segment).await.unwrap();
    assert_eq!(reader.gather(2).await, ["2.b='hostile'", "3.b='hostile'"]);
    target.is_well().await;
}

#[tokio::test]
async fn what_the_last_client_sends_when_it_leaves_is_there_for_the_next() {
    let mut target = Target::start(&[("ROOM_IDLE", "0")]).await;
    for n in 1..=60 {
        let mut client = Client::connect_with(target.address(), "lone", n, ClientOptions::default()).await;
        client.announce(&[]).await;
        client.start_streaming().await;
        // The room is closed as soon as nobody is in it, and that is while this is committed.
        client.push(0, &[cell(n, "b", Value::Integer(n.into()), 1)]).await;
        client.close().await;
    }
    let mut next = Client::connect_with(target.address(), "lone", 100, ClientOptions::default()).await;
    next.enter().await;
    assert_eq!(next.gather(60).await.len(), 60);
    target.is_well().await;
    let check: String = target.file("lone").query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}
