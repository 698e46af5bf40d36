//! Limits: what is just within is served, what is beyond is told which setting says no.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tower_sqlite_sync::{AuthRequest, Denied, Grant, SyncConfig, SyncLayer};
use tower_sqlite_sync_wire::{Change, ChangeList, Value, schema_version};

use crate::fixture::{Client, ClientOptions, PIPE, Piped, SCHEMA, Server, cell, cells, folder, soon, until};

/// A refusal before the upgrade, which says when to come back.
fn refused(result: Result<Client, WsError>) -> (StatusCode, String) {
    let Err(WsError::Http(response)) = result else { panic!("let in, or broken") };
    let retry: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(retry > 0);
    let reason = String::from_utf8(response.body().clone().unwrap_or_default()).unwrap();
    (response.status(), reason)
}

fn says(result: Result<Client, WsError>, status: StatusCode, setting: &str) {
    let (found, reason) = refused(result);
    assert_eq!(found, status, "{reason}");
    assert!(reason.contains(setting), "{reason:?} should name {setting}");
}

async fn enter(server: &Server, room: &str, n: u8) -> Result<Client, WsError> {
    let mut client = Client::try_connect(server.address, room, n, ClientOptions::default()).await?;
    client.enter().await;
    Ok(client)
}

/// A server that believes clients where they come from.
async fn with_addresses(change: impl FnOnce(SyncConfig) -> SyncConfig) -> Server {
    Server::with_both(change, |layer| {
        layer.remote_address(|head| head.headers.get("x-from")?.to_str().ok()?.parse::<IpAddr>().ok())
    })
    .await
}

async fn from(server: &Server, address: &'static str, n: u8) -> Result<Client, WsError> {
    let headers: &[_] = vec![("x-from", address)].leak();
    Client::try_connect(server.address, "r", n, ClientOptions { headers, ..Default::default() }).await
}

#[tokio::test]
async fn a_room_takes_as_many_connections_as_it_may_and_one_more_when_one_leaves() {
    let server = Server::with(|config| config.with_max_room_connections(2)).await;
    let first = enter(&server, "r", 1).await.unwrap();
    let _second = enter(&server, "r", 2).await.unwrap();
    says(enter(&server, "r", 3).await, StatusCode::SERVICE_UNAVAILABLE, "max_room_connections");
    let _elsewhere = enter(&server, "other", 3).await.unwrap();
    first.close().await;
    until("a free place", async || enter(&server, "r", 3).await.is_ok()).await;
}

#[tokio::test]
async fn an_address_takes_as_many_connections_as_it_may_and_an_ipv6_network_is_one() {
    let server = with_addresses(|config| config.with_max_address_connections(2)).await;
    let first = from(&server, "2001:db8::1", 1).await.unwrap();
    let _second = from(&server, "2001:db8::2", 2).await.unwrap();
    says(from(&server, "2001:db8::3", 3).await, StatusCode::TOO_MANY_REQUESTS, "max_address_connections");
    let _other = from(&server, "2001:db8:0:1::1", 3).await.unwrap();
    let mut unknown = Vec::new();
    for n in 10..15 {
        unknown.push(from(&server, "somewhere", n).await.unwrap());
    }
    first.close().await;
    until("a free place", async || from(&server, "2001:db8::3", 3).await.is_ok()).await;
}

#[tokio::test]
async fn an_address_whose_connections_are_refused_again_and_again_is_answered_429_before_anything_else() {
    let server = with_addresses(|config| config.with_address_refusals(1)).await;
    let mut good = from(&server, "192.0.2.1", 1).await.unwrap();
    good.enter().await;
    for _ in 0..10 {
        let mut client = from(&server, "192.0.2.1", 2).await.unwrap();
        client.send_frame(WsMessage::binary(vec![99])).await;
        assert_eq!(client.closed().await.0, 1007);
    }
    says(from(&server, "192.0.2.1", 2).await, StatusCode::TOO_MANY_REQUESTS, "address_refusals");
    drop(from(&server, "192.0.2.2", 3).await.unwrap());
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    assert_eq!(cells(&good.changes().await), ["1.b='x'"], "who is there stays");
    until("it to be let in again", async || from(&server, "192.0.2.1", 2).await.is_ok()).await;
}

#[tokio::test]
async fn all_connections_together_have_a_limit_that_says_when_to_come_back() {
    let server = Server::with(|config| config.with_max_connections(1)).await;
    let _only = enter(&server, "r", 1).await.unwrap();
    says(enter(&server, "r", 2).await, StatusCode::SERVICE_UNAVAILABLE, "max_connections");
}

#[tokio::test]
async fn rooms_opened_faster_than_they_may_be_wait_their_turn_and_then_are_refused() {
    let server = Server::with(|config| config.with_rooms_per_second(1)).await;
    let start = Instant::now();
    let mut clients = Vec::new();
    for n in 1..=7 {
        let mut client = Client::connect(&server, &format!("r{n}"), n).await;
        client.announce(&[]).await;
        clients.push(client);
    }
    // One at once, and one a second for five seconds, in whichever order they came.
    let outcomes = futures_util::future::join_all(clients.iter_mut().map(async |client| client.admitted().await)).await;
    let refused: Vec<&(u16, String)> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert_eq!(refused.len(), 1, "{outcomes:?}");
    assert_eq!(refused[0].0, 1013);
    assert!(refused[0].1.contains("rooms_per_second"), "{}", refused[0].1);
    assert!(start.elapsed() >= Duration::from_millis(4_900), "the sixth room waited");
}

#[tokio::test]
async fn many_rooms_are_opened_in_turn_though_one_at_a_time() {
    let server = Server::with(|config| config.with_room_opens(1)).await;
    let entered = (1..=30).map(|n| {
        let server = &server;
        async move { enter(server, &format!("r{n}"), n).await }
    });
    let entered = futures_util::future::join_all(entered).await;
    assert!(entered.iter().all(Result::is_ok));
}

#[tokio::test]
async fn the_hook_is_asked_about_as_many_requests_at_a_time_as_it_may_be_and_all_get_their_turn() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (folder, config) = folder();
    let (busy, seen) = (now.clone(), most.clone());
    let layer = SyncLayer::new(config.with_hook_calls(3)).authorize(move |_request: AuthRequest| {
        let (busy, seen) = (busy.clone(), seen.clone());
        async move {
            seen.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            busy.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, Denied>(Grant::read_write())
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().layer(layer);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let clients = (1..=60).map(|n| Client::try_connect(address, "r", n, ClientOptions::default()));
    assert!(futures_util::future::join_all(clients).await.iter().all(Result::is_ok));
    assert_eq!((now.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (0, 3));
    drop(folder);
}

/// Sends changes within a limit, which arrive, and then changes beyond it.
async fn bounded(
    change: impl FnOnce(SyncConfig) -> SyncConfig,
    within: &[Change<'_>],
    beyond: &[Change<'_>],
    setting: &str,
) {
    let server = Server::with(change).await;
    let mut reader = Client::join(&server, "r", 2).await;
    let mut author = Client::join(&server, "r", 1).await;
    author.push(0, within).await;
    assert_eq!(reader.gather(within.len()).await.len(), within.len());
    let rows = server.rows("r", "SELECT count(*), crsql_db_version() FROM foo").await;
    author.push(within[0].db_version, beyond).await;
    let (code, reason) = author.closed().await;
    assert_eq!(code, 1009, "{reason}");
    assert!(reason.contains(setting), "{reason:?} should name {setting}");
    assert_eq!(server.rows("r", "SELECT count(*), crsql_db_version() FROM foo").await, rows, "nothing was applied");
    // Asked for them at once, it would send them again for ever.
    let mut author = Client::back(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo (a, b) VALUES ('later', 'x')").await;
    author.changes().await;
    assert_eq!(author.start_streaming().await.since.db_version, within[0].db_version);
}

#[tokio::test]
async fn a_message_has_as_many_changes_as_it_may() {
    let rows = |version| (1..=11).map(|k| cell(k, "b", Value::Integer(1), version)).collect::<Vec<_>>();
    let (first, second) = (rows(1), rows(2));
    bounded(|config| config.with_max_message_changes(10), &first[..10], &second, "max_message_changes").await;
}

#[tokio::test]
async fn a_value_is_as_large_as_it_may_be_be_it_text_or_blob() {
    let text = "é".repeat(501);
    let limit = |config: SyncConfig| config.with_max_value_bytes(1_000);
    let within = [cell(1, "b", Value::Text(&text[..1_000]), 1)];
    bounded(limit, &within, &[cell(2, "b", Value::Text(&text), 2)], "max_value_bytes").await;
    let blob = [7; 1_001];
    let within = [cell(1, "b", Value::Blob(&blob[..1_000]), 1)];
    bounded(limit, &within, &[cell(2, "b", Value::Blob(&blob), 2)], "table foo").await;
}

#[tokio::test]
async fn a_key_is_as_large_as_it_may_be() {
    // Packed: one column, a text with a length in one byte, and the text.
    let packed = |length: u8| [&[1, 0x0b, length][..], &vec![b'k'; length.into()]].concat();
    let (good, bad) = (packed(97), packed(98));
    let within = [Change { pk: &good, ..cell(1, "b", Value::Integer(1), 1) }];
    let beyond = [Change { pk: &bad, ..cell(1, "b", Value::Integer(1), 2) }];
    bounded(|config| config.with_max_key_bytes(100), &within, &beyond, "max_key_bytes").await;
}

#[tokio::test]
async fn a_message_of_as_many_bytes_as_it_may_have_is_taken() {
    let server = Server::start().await;
    let probe = Client::join(&server, "r", 1).await;
    let text = "x".repeat(50_000);
    let message =
        |version, length| probe.changes_message(version - 1, &[cell(1, "b", Value::Text(&text[..length]), version)]);
    let limit = message(1, 40_000).encode().len();
    let server = Server::with(|config| config.with_max_message_bytes(limit)).await;
    let mut reader = Client::join(&server, "r", 2).await;
    let mut author = Client::join(&server, "r", 1).await;
    author.send(message(1, 40_000)).await;
    reader.changes().await;
    drop(author.try_send_frame(WsMessage::Binary(message(2, 40_001).encode())).await);
    let (code, reason) = author.closed().await;
    assert!(code == 1009 && reason.contains("max_message_bytes"), "{code} {reason}");
}

#[tokio::test]
async fn clients_of_rooms_that_are_busy_do_not_keep_a_quiet_room_waiting() {
    let server = Server::with(|config| config.with_queues_bytes(1).with_busy_timeout(Duration::from_secs(30))).await;
    let mut stuck = [Client::join(&server, "a", 1).await, Client::join(&server, "b", 1).await];
    let mut quiet = Client::join(&server, "quiet", 1).await;
    let mut reader = Client::join(&server, "quiet", 2).await;
    let locks = ["a", "b"].map(|room| rusqlite::Connection::open(server.file(room)).unwrap());
    for lock in &locks {
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    }
    let text = "x".repeat(2 << 20);
    for client in &mut stuck {
        client.push(0, &[cell(1, "b", Value::Text(&text), 1)]).await;
    }
    quiet.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    assert_eq!(cells(&reader.changes().await), ["1.b=1"]);
    drop(locks);
    for room in ["a", "b"] {
        server.has(room, "SELECT length(b) FROM foo", &["2097152"]).await;
    }
}

#[tokio::test]
async fn a_schema_that_is_not_here_is_not_looked_for_with_every_client_that_comes_again() {
    let server = Server::start().await;
    let text = format!("{SCHEMA} -- new");
    let announce = async || {
        let mut client = Client::connect(&server, "r", 1).await;
        client.announce_schema("main.sql", schema_version(&text), &[]).await;
        client.admitted().await
    };
    for _ in 0..3 {
        assert_eq!(announce().await.unwrap_err().0, 4400);
    }
    server.publish(&text);
    until("it to be looked for again", async || announce().await.is_ok()).await;
}

#[tokio::test]
async fn limits_by_address_do_not_apply_where_nobody_says_the_address() {
    let server = Server::with(|config| config.with_max_address_connections(0).with_address_refusals(0)).await;
    for n in 1..=3 {
        enter(&server, "r", n).await.unwrap();
    }
}

#[tokio::test]
async fn a_changeset_that_finds_no_place_in_the_queue_is_asked_to_come_later_and_those_before_it_are_applied() {
    let change = |config: SyncConfig| {
        let config = config.with_queue_changesets(1).with_busy_timeout(Duration::from_secs(30));
        config.with_queue_wait(Duration::from_millis(500))
    };
    let server = Server::with(change).await;
    let mut clients = Vec::new();
    for n in 1..=3 {
        clients.push(Client::join(&server, "r", n).await);
    }
    let lock = rusqlite::Connection::open(server.file("r")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    // One that waits for the lock, one in the queue, and one that waits for its place.
    for (client, row) in clients.iter_mut().zip(1..) {
        client.push(0, &[cell(row, "b", Value::Integer(1), 1)]).await;
    }
    let closed = {
        let mut ends = Vec::new();
        for client in &mut clients {
            ends.push(Box::pin(client.closed()));
        }
        futures_util::future::select_all(ends).await.0
    };
    assert!(closed.0 == 1013 && closed.1.contains("queue_wait"), "{closed:?}");
    drop(lock);
    server.has("r", "SELECT count(*) FROM foo", &["2"]).await;
}

/// Lets three clients send changes of `bytes` each to `rooms` that can't be written for a while, where two of them fit: the third one is
/// asked to come later, and those of the others are applied.
async fn two_of_three_fit(change: impl FnOnce(SyncConfig) -> SyncConfig, rooms: [&str; 3], text: &str) {
    let patience = Duration::from_secs(30);
    let server =
        Server::with(|config| change(config).with_busy_timeout(patience).with_queue_wait(Duration::from_millis(500)))
            .await;
    let mut clients = Vec::new();
    for (room, n) in rooms.into_iter().zip(1..) {
        clients.push(Client::join(&server, room, n).await);
    }
    let mut distinct = rooms.to_vec();
    distinct.dedup();
    let locks: Vec<_> = distinct.iter().map(|room| rusqlite::Connection::open(server.file(room)).unwrap()).collect();
    for lock in &locks {
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    }
    for (client, row) in clients.iter_mut().zip(1..) {
        client.push(0, &[cell(row, "b", Value::Text(text), 1)]).await;
    }
    let (code, reason) = {
        let ends = clients.iter_mut().map(|client| Box::pin(client.closed()));
        futures_util::future::select_all(ends).await.0
    };
    assert!(code == 1013 && reason.contains("queue_wait"), "{code} {reason}");
    drop(locks);
    until("two of three to be applied", async || {
        let mut applied = 0;
        for room in &distinct {
            applied += server.rows(room, "SELECT 1 FROM foo").await.len();
        }
        applied == 2
    })
    .await;
}

/// How many bytes a change with this text takes in a queue.
fn queued_bytes(text: &str) -> usize {
    [cell(1, "b", Value::Text(text), 1)].into_iter().collect::<ChangeList>().byte_len()
}

#[tokio::test]
async fn a_rooms_queue_takes_as_many_bytes_as_it_may_and_what_is_beyond_has_to_come_later() {
    let text = "x".repeat(10_000);
    let bytes = 2 * queued_bytes(&text);
    two_of_three_fit(|config| config.with_queue_bytes(bytes), ["r"; 3], &text).await;
    two_of_three_fit(|config| config.with_queue_bytes(bytes + bytes / 2 - 1), ["r"; 3], &text).await;
}

#[tokio::test]
async fn the_queues_of_all_rooms_take_as_many_bytes_as_they_may_and_what_is_beyond_has_to_come_later() {
    // More than what each room may have queued in any case.
    let text = "x".repeat(2 << 20);
    let bytes = 2 * queued_bytes(&text);
    two_of_three_fit(|config| config.with_queues_bytes(bytes), ["a", "b", "c"], &text).await;
    two_of_three_fit(|config| config.with_queues_bytes(bytes + bytes / 2 - 1), ["a", "b", "c"], &text).await;
}

#[tokio::test]
async fn changes_that_are_larger_than_the_queue_may_hold_are_taken_alone() {
    let server = Server::with(|config| config.with_queue_bytes(1).with_queues_bytes(1)).await;
    let text = "x".repeat(2 << 20);
    let mut authors = [Client::join(&server, "r", 1).await, Client::join(&server, "r", 2).await];
    for (author, row) in authors.iter_mut().zip(1..) {
        author.push(0, &[cell(row, "b", Value::Text(&text), 1)]).await;
        author.push(1, &[cell(row + 10, "b", Value::Null, 2)]).await;
    }
    server.has("r", "SELECT a FROM foo ORDER BY a", &["1", "2", "11", "12"]).await;
}

#[tokio::test]
async fn a_room_that_waits_too_long_for_others_to_be_opened_is_not_and_its_clients_are_asked_to_come_later() {
    let change = |config: SyncConfig| {
        let config = config.with_room_opens(1).with_queue_wait(Duration::from_millis(500));
        config.with_busy_timeout(Duration::from_secs(30))
    };
    let server = Server::with(change).await;
    for room in ["a", "b"] {
        server.rooms.create_room(room, "main.sql").await.unwrap();
    }
    let server = server.restart().await;
    let locks = ["a", "b"].map(|room| rusqlite::Connection::open(server.file(room)).unwrap());
    for lock in &locks {
        lock.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    }
    // Whichever comes first waits for the lock, and the other one for it.
    let mut clients = [Client::connect(&server, "a", 1).await, Client::connect(&server, "b", 2).await];
    for client in &mut clients {
        client.announce(&[]).await;
    }
    let [one, two] = &mut clients;
    let (close, first) = tokio::select! {
        close = one.closed() => (close, two),
        close = two.closed() => (close, one),
    };
    assert!(close.0 == 1013 && close.1.contains("queue_wait"), "{close:?}");
    drop(locks);
    first.start_streaming().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_to_clients_has_a_limit_beyond_which_they_are_sent_less_at_a_time() {
    const FRAME: usize = 1 << 20;
    const ROWS: usize = 15;
    // A client that catches up asks for a whole frame. Beyond the limit, it gets what every client may be sent, which is one row.
    for (sending, messages) in [(2 * FRAME, 1), (2 * FRAME - 1, ROWS)] {
        let config = |config: SyncConfig| config.with_max_frame_bytes(FRAME).with_feed_window_bytes(0);
        let server = Piped::with(|defaults| config(defaults).with_sending_bytes(sending));
        server.rooms.create_room("r", "main.sql").await.unwrap();
        for k in 1..=ROWS {
            server.write("r", &format!("INSERT INTO foo (a, b) VALUES ({k}, zeroblob({}))", PIPE / 2)).await;
        }
        let mut stuck = server.join("r", 1).await;
        // What is sent to it fills the pipe, and it takes none of it.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut reader = server.join("r", 2).await;
        let (mut came, mut rows) = (0, 0);
        while rows < ROWS {
            rows += reader.changes().await.changes.len();
            came += 1;
        }
        assert_eq!(came, messages, "with a limit of {sending}");
        assert_eq!(stuck.changes().await.changes.len(), ROWS, "who was there first has its frame");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_its_next_message_holds_nothing_of_what_others_may_be_sent() {
    const FRAME: usize = 1 << 20;
    let hour = Duration::from_secs(3_600);
    let server = Piped::with(|config| {
        let config = config.with_max_frame_bytes(FRAME).with_feed_window_bytes(0).with_notify_interval(hour);
        config.with_sending_bytes(2 * FRAME).with_heartbeat(hour).with_slow_reader_timeout(hour)
    });
    server.rooms.create_room("r", "main.sql").await.unwrap();
    for k in 1..=5 * FRAME / PIPE {
        server.write("r", &format!("INSERT INTO foo (a, b) VALUES ({k}, zeroblob({}))", PIPE / 2)).await;
    }
    // It has had a frame, and comes to the next in an hour.
    let mut waiting = server.join("r", 1).await;
    assert!(waiting.changes().await.changes.len() > 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _stuck = server.join("r", 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(server.join("r", 3).await.changes().await.changes.len() > 1, "a whole frame");
}

/// Bytes that each connection may send of a message before they count.
const FREE: usize = 256 << 10;

/// An empty ping, with a mask of zeros (RFC 6455 §5.2).
const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];

/// A part of a binary message, with a mask of zeros.
fn part(opcode: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u64::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[opcode, 0xff][..], &length, &[0; 4], bytes].concat()
}

/// The head of such a part.
const HEAD: usize = 14;

/// The kind and the payload of the next frame of the server; `None` at the end.
async fn frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let (kind, length) = (stream.read_u8().await.ok()?, stream.read_u8().await.ok()?);
    let length = match length {
        126 => stream.read_u16().await.ok()?.into(),
        127 => stream.read_u64().await.ok()?,
        length => length.into(),
    };
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    Some((kind, payload))
}

/// Waits until a ping is answered, so that everything before it was read, and was not too much.
async fn is_heard(stream: &mut TcpStream) {
    stream.write_all(&PING).await.unwrap();
    let answered = async {
        loop {
            let (kind, payload) = frame(stream).await.expect("the connection is there");
            assert_ne!(kind, 0x88, "closed: {:?}", String::from_utf8_lossy(&payload));
            if kind == 0x8a {
                return;
            }
        }
    };
    soon("the answer to a ping", answered).await;
}

#[tokio::test]
async fn messages_that_are_not_complete_take_as_many_bytes_together_as_they_may_and_not_one_more() {
    const ALL: usize = 1 << 20;
    let server = Server::with(|config| config.with_uploads_bytes(ALL).with_max_message_bytes(ALL)).await;
    let client = Client::join(&server, "r", 1).await;
    let text = "x".repeat(FREE + ALL / 2);
    let message = client.changes_message(0, &[cell(1, "b", Value::Text(&text), 1)]).encode();
    let (begin, rest) = message.split_at(FREE + ALL / 2 - HEAD);
    let mut first = client.into_stream();
    first.write_all(&part(0x02, begin)).await.unwrap();
    is_heard(&mut first).await;

    // Until it is complete, a ping is taken for a part of the message: with it, the limit is reached to the byte.
    let mut second = Client::join(&server, "r", 2).await.into_stream();
    second.write_all(&part(0x02, &vec![0; FREE + ALL / 2 - HEAD - PING.len()])).await.unwrap();
    is_heard(&mut second).await;
    let one_more = &part(0x00, b"")[..=PING.len()];
    second.write_all(one_more).await.unwrap();
    let (mut close, mut ended) = (Vec::new(), false);
    while !ended {
        match soon("the end", frame(&mut second)).await {
            Some((0x88, payload)) => close = payload,
            Some(_) => {}
            None => ended = true,
        }
    }
    let (code, reason) = close.split_at(2);
    assert_eq!(code, 1013_u16.to_be_bytes());
    assert!(String::from_utf8_lossy(reason).contains("uploads_bytes"));

    // Whoever was there first completes its message, and others can send theirs.
    first.write_all(&part(0x80, rest)).await.unwrap();
    server.has("r", "SELECT length(b) FROM foo", &[&text.len().to_string()]).await;
    for n in 3..=5 {
        let mut author = Client::join(&server, "r", n).await;
        author.push(0, &[cell(n, "b", Value::Text(&text), 1)]).await;
        server.has("r", &format!("SELECT 1 FROM foo WHERE a = {n}"), &["1"]).await;
    }
}
