//! A session that goes well: announce, StartStreaming, changes both ways.

use std::time::{Duration, Instant};

use tower_sqlite_sync_wire::{Change, Changes, Message, Position, SiteId, StartStreaming, Value};

use crate::fixture::{Client, ClientOptions, Server, cell, cells, last_version, row_of, versions};

/// Inserts rows `from..=to` into `foo`, each with a text of `bytes` characters, in one transaction.
fn insert_rows(from: usize, to: usize, bytes: usize) -> String {
    format!(
        "WITH RECURSIVE k(i) AS (SELECT {from} UNION ALL SELECT i + 1 FROM k WHERE i < {to})
         INSERT INTO foo (a, b) SELECT i, printf('%.*c', {bytes}, 'x') FROM k"
    )
}

#[tokio::test]
async fn a_client_that_has_nothing_is_told_to_start_at_the_beginning_and_to_leave_out_the_servers_changes() {
    let server = Server::start().await;
    let mut client = Client::connect(&server, "r", 1).await;
    client.announce(&[]).await;
    let start = client.start_streaming().await;
    let site =
        server.rooms.read("r", |conn| conn.query_row("SELECT crsql_site_id()", [], |row| row.get(0))).await.unwrap();
    let server_site = SiteId::from_bytes(site);
    assert_eq!(start, StartStreaming { since: Position::START, exclude_sites: vec![server_site], local_only: false });
}

#[tokio::test]
async fn changes_reach_the_other_clients_in_order_and_without_holes() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    let two = Change { seq: 1, ..cell(7, "b", Value::Text("two"), 1) };
    author.push(0, &[cell(1, "b", Value::Number(1.0), 1), two]).await;
    let first = reader.changes().await;
    assert_eq!((first.sender, first.since), (reader.server, Position::START));
    assert_eq!(cells(&first), ["1.b=1", "7.b='two'"]);
    assert!(first.changes.iter().all(|change| change.site.is_none()));

    author.push(1, &[cell(2, "b", Value::Number(2.5), 2)]).await;
    let second = reader.changes().await;
    assert_eq!(second.since, Position::at(last_version(&first)));
    assert_eq!(cells(&second), ["2.b=2.5"]);
    assert!(last_version(&second) > last_version(&first));
}

#[tokio::test]
async fn the_position_that_a_client_is_told_is_where_its_last_changes_ended() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    author.push(0, &[cell(1, "b", Value::Number(1.0), 1), cell(2, "b", Value::Number(1.0), 27)]).await;
    reader.changes().await;
    author.close().await;
    let mut author = Client::back(&server, "r", 1).await;
    assert_eq!(author.start_streaming().await.since, Position::at(27));
}

#[tokio::test]
async fn a_client_is_not_sent_its_own_changes_and_still_sees_no_hole() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    author.push(0, &[cell(1, "b", Value::Number(1.0), 1)]).await;
    reader.changes().await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (2, 'ours')").await;
    let ours = author.changes().await;
    assert_eq!((ours.since, cells(&ours)), (Position::START, vec!["2.b='ours'".to_owned()]));

    author.push(1, &[cell(3, "b", Value::Number(3.0), 9)]).await;
    reader.changes().await;
    reader.changes().await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (4, 'ours again')").await;
    let again = author.changes().await;
    assert_eq!(again.since, Position::at(last_version(&ours)), "its own changes lie between");
    assert_eq!(cells(&again), ["4.b='ours again'"]);
}

#[tokio::test]
async fn an_author_is_sent_what_another_made_of_its_cell() {
    let server = Server::start().await;
    let mut one = Client::join(&server, "r", 1).await;
    let mut two = Client::join(&server, "r", 2).await;
    one.push(0, &[cell(1, "b", Value::Text("one"), 1)]).await;
    two.changes().await;
    two.push(0, &[Change { col_version: 2, ..cell(1, "b", Value::Text("two"), 5) }]).await;
    assert_eq!(cells(&one.changes().await), ["1.b='two'"]);
}

#[tokio::test]
async fn changes_that_come_before_start_streaming_are_held_and_applied() {
    let server = Server::start().await;
    let mut reader = Client::join(&server, "r", 2).await;
    let mut author = Client::connect(&server, "r", 1).await;
    author.announce(&[]).await;
    author.push(0, &[cell(1, "b", Value::Number(1.0), 1)]).await;
    author.push(1, &[cell(2, "b", Value::Number(2.0), 2)]).await;
    assert_eq!(author.start_streaming().await.since, Position::START);
    assert_eq!(reader.gather(2).await, ["1.b=1", "2.b=2"]);
}

#[tokio::test]
async fn start_streaming_comes_before_the_changes() {
    let server = Server::start().await;
    let mut author = Client::join(&server, "r", 1).await;
    author.push(0, &[cell(1, "b", Value::Number(1.0), 1)]).await;
    server.has("r", "SELECT a FROM foo", &["1"]).await;
    for n in 2..12 {
        let mut late = Client::connect(&server, "r", n).await;
        late.announce(&[]).await;
        assert!(matches!(late.next().await, Message::StartStreaming(_)));
        assert_eq!(cells(&late.changes().await), ["1.b=1"]);
    }
}

#[tokio::test]
async fn an_empty_message_and_one_that_asks_for_another_sites_changes_do_nothing() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    client.push(77, &[]).await;
    let someone = tower_sqlite_sync_wire::RejectChanges { whose: client.site, since: Position::START };
    client.send(Message::RejectChanges(someone)).await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'still here')").await;
    assert_eq!(cells(&client.changes().await), ["1.b='still here'"]);
}

#[tokio::test]
async fn two_tabs_of_one_site_share_its_position_and_get_what_others_write() {
    let server = Server::start().await;
    let mut first = Client::join(&server, "r", 1).await;
    let mut second = Client::join(&server, "r", 1).await;
    let mut reader = Client::join(&server, "r", 2).await;
    first.push(0, &[cell(1, "b", Value::Number(1.0), 1)]).await;
    assert_eq!(cells(&reader.changes().await), ["1.b=1"]);
    second.push(1, &[cell(2, "b", Value::Number(2.0), 2)]).await;
    assert_eq!(cells(&reader.changes().await), ["2.b=2"]);
    server.write("r", "INSERT INTO foo (a, b) VALUES (3, 'ours')").await;
    for tab in [&mut first, &mut second] {
        assert_eq!(cells(&tab.changes().await), ["3.b='ours'"], "and nothing that the site wrote itself");
    }
}

#[tokio::test]
async fn a_stale_position_brings_everything_behind_it_again() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    for k in 1..=3 {
        server.write("r", &format!("INSERT INTO foo (a, b) VALUES ({k}, 'x')")).await;
        client.changes().await;
    }
    let room = client.server;
    client.close().await;

    let mut client = Client::connect(&server, "r", 1).await;
    client.announce(&[(SiteId::from_bytes([9; 16]), 3), (room, 1)]).await;
    client.start_streaming().await;
    let again = client.changes().await;
    assert_eq!(again.since, Position::at(1));
    assert_eq!(cells(&again), ["2.b='x'", "3.b='x'"]);
    assert_eq!(versions(&again), [2, 3], "whole db_versions");
}

#[tokio::test]
async fn a_position_that_the_server_never_reached_brings_everything() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    client.changes().await;
    for claimed in [1_000, i64::MAX, -1, i64::MIN] {
        let mut late = Client::connect(&server, "r", 2).await;
        late.announce(&[(client.server, claimed)]).await;
        late.start_streaming().await;
        let everything = late.changes().await;
        assert_eq!((everything.since, cells(&everything)), (Position::START, vec!["1.b='x'".to_owned()]));
    }
}

#[tokio::test]
async fn a_session_in_text_frames_goes_on_beside_one_in_binary_frames() {
    let server = Server::start().await;
    let mut binary = Client::join(&server, "r", 1).await;
    let mut text = Client::join_with(&server, "r", 2, ClientOptions { text: true, ..Default::default() }).await;
    assert_eq!(text.server, binary.server);
    let emoji = Change { seq: 1, ..cell(7, "b", Value::Text("😀"), 1) };
    binary.push(0, &[cell(1, "b", Value::Integer(i64::MAX), 1), emoji]).await;
    assert_eq!(cells(&text.changes().await), ["1.b=9223372036854775807", "7.b='😀'"]);
    text.push(0, &[cell(2, "b", Value::Blob(b"\x00\xff"), 1)]).await;
    assert_eq!(cells(&binary.changes().await), ["2.b=x[00, ff]"]);
}

#[tokio::test]
async fn a_large_catch_up_comes_in_bounded_frames_that_end_between_db_versions() {
    const MAX: usize = 20_000;
    let mut server = Server::with(|config| config.with_max_frame_bytes(MAX)).await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    for k in 0..60 {
        server.write("r", &insert_rows(k * 10 + 1, k * 10 + 10, 100)).await;
    }
    for from in ["what is kept for live connections", "the database"] {
        let options = ClientOptions { max_frame: Some(MAX), ..Default::default() };
        let mut client = Client::join_with(&server, "r", 1, options).await;
        let (mut frames, mut rows, mut since) = (0, 0, Position::START);
        while rows < 600 {
            let frame = client.changes().await;
            assert_eq!(frame.since, since);
            assert!(Message::Changes(frame.clone()).encode().len() <= MAX, "from {from}");
            assert_eq!(frame.changes.len() % 10, 0, "whole db_versions");
            since = Position::at(last_version(&frame));
            (frames, rows) = (frames + 1, rows + frame.changes.len());
        }
        assert!(frames >= 4, "{frames} from {from}");
        server = server.restart().await;
    }
}

#[tokio::test]
async fn nothing_is_missing_of_a_catch_up_over_changes_that_are_now_small_and_now_large() {
    const MAX: usize = 10_000;
    const ROWS: usize = 500;
    let server = Server::with(|config| config.with_max_frame_bytes(MAX).with_feed_window_bytes(1)).await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    // What is read ahead goes by how large the changes before were. Each run is several frames.
    for row in 0..ROWS {
        let size = if row % 250 < 200 { 100 } else { 4_000 };
        server.write("r", &insert_rows(row + 1, row + 1, size)).await;
    }
    let options = ClientOptions { max_frame: Some(MAX), ..Default::default() };
    let mut client = Client::join_with(&server, "r", 1, options).await;
    let (mut received, mut since) = (Vec::new(), Position::START);
    while received.len() < ROWS {
        let frame = client.changes().await;
        assert_eq!(frame.since, since);
        assert!(!frame.changes.is_empty(), "a probe: the server takes itself to be done after {}", received.len());
        since = Position::at(last_version(&frame));
        received.extend(versions(&frame));
    }
    assert!(received.into_iter().eq(1..=500));
}

#[tokio::test]
async fn a_db_version_that_is_larger_than_a_frame_comes_as_one_message_in_continuation_frames() {
    const MAX: usize = 10_000;
    let server = Server::with(|config| config.with_max_frame_bytes(MAX)).await;
    server.rooms.create_room("r", "main.sql").await.unwrap();
    server.write("r", &insert_rows(1, 500, 100)).await;
    let options = ClientOptions { max_frame: Some(MAX), ..Default::default() };
    let mut catching_up = Client::join_with(&server, "r", 1, options).await;
    let whole = catching_up.changes().await;
    assert_eq!((whole.changes.len(), versions(&whole)), (500, vec![1]));

    server.write("r", &insert_rows(501, 1000, 100)).await;
    let live = catching_up.changes().await;
    assert_eq!((live.changes.len(), versions(&live)), (500, vec![2]));
}

#[tokio::test]
async fn a_large_upload_is_cut_into_db_versions_that_fit_a_frame() {
    const MAX: usize = 20_000;
    let server = Server::with(|config| config.with_max_frame_bytes(MAX)).await;
    let mut author = Client::join(&server, "r", 1).await;
    let mut live = Client::join(&server, "r", 2).await;
    let text = "x".repeat(1_000);
    let upload: Vec<Change<'_>> =
        (0..120).map(|k| Change { seq: i64::from(k), ..cell(k + 1, "b", Value::Text(&text), 1) }).collect();
    author.push(0, &upload).await;
    for reader in [&mut live, &mut Client::join(&server, "r", 3).await] {
        let (mut rows, mut since): (Vec<u8>, _) = (Vec::new(), Position::START);
        while rows.len() < 120 {
            let frame = reader.changes().await;
            let size = Message::Changes(frame.clone()).encode().len();
            assert!(size <= MAX + 2_000, "a frame ends behind the row that filled it: {size}");
            assert_eq!(frame.since, since);
            since = Position::at(last_version(&frame));
            rows.extend(frame.changes.iter().map(|change| row_of(&change)));
        }
        assert_eq!(rows, (1..=120).collect::<Vec<u8>>());
    }
}

#[tokio::test]
async fn a_slow_stream_is_not_cut_off_by_the_feeds_window() {
    let server = Server::with(|config| config.with_max_frame_bytes(5_000).with_feed_window_bytes(10_000)).await;
    let mut reader = Client::join(&server, "r", 1).await;
    for k in 0..30 {
        server.write("r", &insert_rows(k * 10 + 1, k * 10 + 10, 100)).await;
    }
    let (mut rows, mut since) = (0, Position::START);
    while rows < 300 {
        let frame = reader.changes().await;
        assert_eq!(frame.since, since);
        since = Position::at(last_version(&frame));
        rows += frame.changes.len();
    }
    assert_eq!(since, Position::at(30));
}

#[tokio::test]
async fn a_probe_follows_a_burst_and_names_the_position_that_the_client_should_have() {
    let server = Server::start().await;
    let mut client = Client::join(&server, "r", 1).await;
    let start = Instant::now();
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    assert_eq!(cells(&client.changes().await), ["1.b='x'"]);
    assert_eq!(client.probe().await, Position::at(1));
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
}

#[tokio::test]
async fn probes_come_with_heartbeats_too() {
    let server = Server::with(|config| config.with_heartbeat(Duration::from_millis(200))).await;
    let mut client = Client::join(&server, "r", 1).await;
    server.write("r", "INSERT INTO foo (a, b) VALUES (1, 'x')").await;
    client.changes().await;
    for _ in 0..3 {
        assert_eq!(client.probe().await, Position::at(1));
    }
}

#[tokio::test]
async fn a_notify_interval_gathers_changes_into_one_message() {
    let server = Server::with(|config| config.with_notify_interval(Duration::from_millis(300))).await;
    let mut client = Client::join(&server, "r", 1).await;
    for k in 1..=20 {
        server.write("r", &format!("INSERT INTO foo (a, b) VALUES ({k}, 'x')")).await;
    }
    let (mut messages, mut rows) = (0, 0);
    while rows < 20 {
        rows += client.changes().await.changes.len();
        messages += 1;
    }
    assert!(messages < 20, "{messages}");
}

#[tokio::test]
async fn the_layer_serves_sessions_around_a_plain_hyper_service() {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::service::TowerToHyperService;
    use tower::{Layer, service_fn};

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("main.sql"), crate::fixture::SCHEMA).unwrap();
    let config = tower_sqlite_sync::SyncConfig::default().with_memory(true).with_schema_folder(folder.path());
    let layer = tower_sqlite_sync::SyncLayer::new(config);
    let service = layer.layer(service_fn(async |_: http::Request<hyper::body::Incoming>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
    }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                drop(server.serve_connection_with_upgrades(TokioIo::new(socket), service).await);
            });
        }
    });
    let mut author = Client::connect_with(address, "r", 1, ClientOptions::default()).await;
    let mut reader = Client::connect_with(address, "r", 2, ClientOptions::default()).await;
    for client in [&mut author, &mut reader] {
        client.announce(&[]).await;
        client.start_streaming().await;
    }
    author.push(0, &[cell(1, "b", Value::Number(1.0), 1)]).await;
    let Changes { changes, .. } = reader.changes().await;
    assert_eq!(changes.len(), 1);
}
