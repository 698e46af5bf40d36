//! How connections end: each with its code and a reason, and with nobody else noticing.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
use tower_sqlite_sync::SyncConfig;
use tower_sqlite_sync_wire::{
    AnnouncePresence, ApplyChangesOnPrimary, ApplyChangesOnPrimaryResponse, Changes, CreateDbOnPrimary,
    CreateDbOnPrimaryResponse, ErrResponse, Message, Position, SiteId, StartStreaming, Value, schema_version,
};

use crate::fixture::{Client, ClientOptions, Random, SCHEMA, Server, cell, cells, soon, until};

const TOKEN: &str = "s3cret-token";

/// A server with a client in room `r` that must not notice what happens to others.
struct Scene {
    server: Server,
    bystander: Client,
    written: u8,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|config| config).await
    }

    async fn with(change: impl FnOnce(SyncConfig) -> SyncConfig) -> Self {
        let server = Server::with(change).await;
        let bystander = Client::join(&server, "r", 100).await;
        Self { server, bystander, written: 0 }
    }

    async fn connect(&self, n: u8) -> Client {
        self.connect_to("r", n, false).await
    }

    async fn connect_to(&self, room: &str, n: u8, text: bool) -> Client {
        let options = ClientOptions { text, token: Some(TOKEN), ..Default::default() };
        Client::connect_with(self.server.address, room, n, options).await
    }

    async fn join(&self, n: u8) -> Client {
        let options = ClientOptions { token: Some(TOKEN), ..Default::default() };
        Client::join_with(&self.server, "r", n, options).await
    }

    /// The client is closed like that; the others go on.
    async fn sees(&mut self, client: &mut Client, code: u16, said: &str) {
        let close = client.closed().await;
        self.expect(&close, code, said).await;
    }

    async fn expect(&mut self, (found, reason): &(u16, String), code: u16, said: &str) {
        assert_eq!(*found, code, "{reason}");
        assert!(reason.contains(said), "{reason:?} should say {said:?}");
        let folder = self.server.folder.path().to_str().unwrap();
        assert!(!reason.is_empty() && reason.len() <= 123, "{reason}");
        assert!(!reason.contains(folder) && !reason.contains(TOKEN), "{reason}");
        self.goes_on().await;
    }

    async fn goes_on(&mut self) {
        self.written += 1;
        self.server.write("r", &format!("INSERT INTO foo (a, b) VALUES ({}, 'x')", self.written)).await;
        assert_eq!(cells(&self.bystander.changes().await), [format!("{}.b='x'", self.written)]);
    }
}

/// A frame that no client library would send.
fn raw(opcode: OpCode, is_final: bool, payload: &[u8]) -> WsMessage {
    let header = FrameHeader { is_final, opcode, ..FrameHeader::default() };
    WsMessage::Frame(Frame::from_payload(header, Bytes::copy_from_slice(payload)))
}

#[tokio::test]
async fn a_first_message_that_does_not_decode_is_malformed() {
    let mut scene = Scene::new().await;
    for garbage in [&b""[..], b"\x63", b"\x01", b"\x01\x02\x03", &[1; 17], &[0xff; 500]] {
        let mut client = scene.connect(1).await;
        client.send_frame(WsMessage::binary(garbage.to_vec())).await;
        scene.sees(&mut client, 1007, "byte").await;
    }
    for garbage in ["", "{", "null", "[]", r#"{"type":"hello"}"#, r#"{"type":"announcePresence"}"#] {
        let mut client = scene.connect(1).await;
        client.send_frame(WsMessage::text(garbage)).await;
        scene.sees(&mut client, 1007, "").await;
    }
}

#[tokio::test]
async fn a_later_message_that_does_not_decode_is_malformed() {
    let mut scene = Scene::new().await;
    let client = scene.join(1).await;
    let Message::Changes(changes) = client.changes_message(0, &[cell(1, "b", Value::Text("secret"), 1)]) else {
        unreachable!()
    };
    let whole = Message::Changes(changes).encode();
    for garbage in [whole.slice(..whole.len() - 1), [&whole[..], b"\0"].concat().into()] {
        let mut client = scene.join(1).await;
        client.send_frame(WsMessage::Binary(garbage)).await;
        let close = client.closed().await;
        assert!(!close.1.contains("secret"));
        scene.expect(&close, 1007, "byte").await;
    }
    client.close().await;
}

#[tokio::test]
async fn a_count_that_nothing_backs_is_malformed_and_takes_no_memory() {
    let mut scene = Scene::new().await;
    let mut client = scene.join(1).await;
    let head = [&[2][..], &[1; 16], &[0; 9], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    client.send_frame(WsMessage::binary(head)).await;
    scene.sees(&mut client, 1007, "byte").await;
}

#[tokio::test]
async fn text_that_is_no_utf_8_is_malformed() {
    let mut scene = Scene::new().await;
    let mut client = scene.connect(1).await;
    client.send_frame(raw(OpCode::Data(Data::Text), true, b"\xff\xfe")).await;
    scene.sees(&mut client, 1007, "UTF-8").await;
}

#[tokio::test]
async fn changes_before_the_announce_are_out_of_place() {
    let mut scene = Scene::new().await;
    let mut client = scene.connect(1).await;
    client.push(0, &[cell(1, "b", Value::Null, 1)]).await;
    scene.sees(&mut client, 1002, "announce").await;
}

#[tokio::test]
async fn messages_that_clients_do_not_send_are_out_of_place() {
    let mut scene = Scene::new().await;
    let start = StartStreaming { since: Position::START, exclude_sites: Vec::new(), local_only: false };
    let create =
        CreateDbOnPrimary { request_id: 0, room: "x".into(), schema_name: "main.sql".into(), schema_version: 1 };
    let announce = AnnouncePresence {
        sender: SiteId::from_bytes([1; 16]),
        last_seens: Vec::new(),
        schema_name: "main.sql".into(),
        schema_version: schema_version(SCHEMA),
    };
    let apply = ApplyChangesOnPrimary {
        request_id: 0,
        sender: SiteId::from_bytes([1; 16]),
        changes: [cell(1, "b", Value::Text("smuggled"), 1)].into_iter().collect(),
        room: "r".into(),
        new_last_seen: Position::at(1),
    };
    let wrong = [
        Message::StartStreaming(start),
        Message::CreateDbOnPrimary(create),
        Message::ApplyChangesOnPrimary(apply),
        Message::CreateDbOnPrimaryResponse(CreateDbOnPrimaryResponse { request_id: 0, txid: 1 }),
        Message::ApplyChangesOnPrimaryResponse(ApplyChangesOnPrimaryResponse { request_id: 1 }),
        Message::Err(ErrResponse { request_id: 0, message: "no".into() }),
        Message::Ping,
        Message::Pong,
        Message::AnnouncePresence(announce),
    ];
    for message in wrong {
        let mut announced = scene.join(1).await;
        announced.send(message.clone()).await;
        scene.sees(&mut announced, 1002, "").await;
        if !matches!(message, Message::AnnouncePresence(_)) {
            let mut fresh = scene.connect(1).await;
            fresh.send(message).await;
            scene.sees(&mut fresh, 1002, "announce").await;
        }
    }
    assert_eq!(scene.server.rooms.rooms().len(), 1, "no other room was opened");
}

#[tokio::test]
async fn who_announces_itself_twice_at_once_uses_the_room_once_and_is_closed() {
    let mut scene = Scene::with(|config| config.with_room_idle(Duration::ZERO)).await;
    for room in ["r", "new"] {
        let mut hasty = scene.connect_to(room, 1, false).await;
        // Neither waits for the room to be open, or for the other.
        hasty.send_all(vec![hasty.announcement(&[]), hasty.announcement(&[])]).await;
        scene.sees(&mut hasty, 1002, "once").await;
        hasty.gone().await;
    }
    let (server, bystander) = (&scene.server, scene.bystander);
    bystander.close().await;
    until("the rooms to close, as nobody uses them", async || server.rooms.rooms().is_empty()).await;
}

#[tokio::test]
async fn who_is_closed_leaves_the_room_once_and_it_stays_open_for_the_others() {
    let mut scene = Scene::with(|config| config.with_room_idle(Duration::ZERO)).await;
    for round in 0..5 {
        // One closes in answer to the server's close, one is gone by then, and one leaves by itself.
        let mut faulty = scene.join(1).await;
        faulty.send(Message::Ping).await;
        scene.sees(&mut faulty, 1002, "").await;
        faulty.gone().await;
        let mut lost = scene.join(2).await;
        lost.send(Message::Ping).await;
        drop(lost);
        scene.join(3).await.close().await;
        // A room that was left once too often would have been closed under the bystander.
        let server = &scene.server;
        until("only the bystander to be there", async || server.connections("r") == 1).await;
        scene.goes_on().await;
        assert_eq!(scene.server.rooms.rooms().len(), 1, "round {round}");
    }
    let (server, bystander) = (&scene.server, scene.bystander);
    bystander.close().await;
    until("the room to close, as nobody uses it", async || server.rooms.rooms().is_empty()).await;
}

#[tokio::test]
async fn a_frame_of_the_other_kind_is_not_supported() {
    let mut scene = Scene::new().await;
    let mut binary = scene.join(1).await;
    binary.send_frame(WsMessage::text(Message::Ping.to_json())).await;
    scene.sees(&mut binary, 1003, "binary").await;

    let mut text = scene.connect_to("r", 2, true).await;
    text.announce(&[]).await;
    text.start_streaming().await;
    text.send_frame(WsMessage::Binary(Message::Ping.encode())).await;
    scene.sees(&mut text, 1003, "text").await;
}

#[tokio::test]
async fn a_client_can_neither_write_as_another_nor_be_the_server() {
    let mut scene = Scene::new().await;
    let mut forger = scene.join(1).await;
    let changes = [cell(1, "b", Value::Text("forged"), 1)].into_iter().collect();
    let sender = scene.bystander.site;
    forger.send(Message::Changes(Changes { sender, since: Position::START, changes })).await;
    scene.sees(&mut forger, 1008, "announced").await;
    assert_eq!(scene.server.rows("r", "SELECT count(*) FROM crsql_tracked_peers").await, ["0"]);

    let mut server = scene.connect(1).await;
    server.site = scene.bystander.server;
    server.announce(&[]).await;
    scene.sees(&mut server, 1008, "server's own").await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_too_big_in_one_frame_or_in_many() {
    let mut scene = Scene::with(|config| config.with_max_message_bytes(10_000)).await;
    let mut whole = scene.join(1).await;
    drop(whole.try_send_frame(WsMessage::binary(vec![2; 10_001])).await);
    scene.sees(&mut whole, 1009, "10000").await;

    let mut parts = scene.join(1).await;
    for part in 0..12 {
        let kind = if part == 0 { Data::Binary } else { Data::Continue };
        if parts.try_send_frame(raw(OpCode::Data(kind), false, &[2; 1_000])).await.is_err() {
            break;
        }
    }
    scene.sees(&mut parts, 1009, "10000").await;

    let mut first = scene.connect(1).await;
    drop(first.try_send_frame(WsMessage::binary(vec![1; 10_001])).await);
    scene.sees(&mut first, 1009, "10000").await;
}

#[tokio::test]
async fn a_schema_that_is_not_here_closes_with_4400_and_leaves_no_file() {
    let mut scene = Scene::new().await;
    let good = schema_version(SCHEMA);
    let schemas = scene.server.folder.path().join("schemas");
    std::fs::write(
        schemas.join("broken.sql"),
        "CREATE TABLE foo (a PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('bar');",
    )
    .unwrap();
    std::fs::write(scene.server.folder.path().join("secret.sql"), SCHEMA).unwrap();
    let long = "x".repeat(5_000);
    let cases = [
        ("none.sql", good),
        ("main.sql", good + 1),
        ("main.sql", 0),
        ("", good),
        ("..", good),
        ("../secret.sql", good),
        ("/etc/passwd", good),
        ("a\0b", good),
        ("12", good),
        ("1e5", good),
        ("é.sql", good),
        (&long, good),
    ];
    for (name, version) in cases {
        let mut client = scene.connect_to("new", 1, false).await;
        client.announce_schema(name, version, &[]).await;
        scene.sees(&mut client, 4400, "").await;
        assert!(!scene.server.file("new").exists(), "{name}");
    }
    let broken = std::fs::read_to_string(schemas.join("broken.sql")).unwrap();
    let mut client = scene.connect_to("new", 1, false).await;
    client.announce_schema("broken.sql", schema_version(&broken), &[]).await;
    scene.sees(&mut client, 4400, "broken.sql").await;

    let mut client = scene.connect_to("new", 1, false).await;
    client.announce(&[]).await;
    client.start_streaming().await;
    let mut other = scene.connect(2).await;
    other.announce_schema("broken.sql", schema_version(&broken), &[]).await;
    scene.sees(&mut other, 4400, "").await;
}

#[tokio::test]
async fn a_room_over_the_limit_is_asked_to_come_later() {
    let mut scene = Scene::with(|config| config.with_max_rooms(1).with_room_idle(Duration::ZERO)).await;
    let mut client = scene.connect_to("other", 1, false).await;
    client.announce(&[]).await;
    scene.sees(&mut client, 1013, "max_rooms").await;
}

#[tokio::test]
async fn who_does_not_announce_itself_in_time_is_closed() {
    let mut scene = Scene::with(|config| config.with_announce_timeout(Duration::from_millis(200))).await;
    let mut client = scene.connect(1).await;
    scene.sees(&mut client, 1002, "announce").await;

    let mut busy = scene.connect(1).await;
    let pinging = async {
        while busy.try_send_frame(WsMessage::Ping(Bytes::new())).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("pings to count as no announce", pinging).await;
    scene.goes_on().await;
}

#[tokio::test]
async fn a_peer_that_does_not_answer_pings_is_closed() {
    let mut scene = Scene::with(|config| config.with_heartbeat(Duration::from_secs(1))).await;
    let mut silent = scene.join(1).await;
    // The bystander answers, because it is being read.
    let (server, bystander) = (&scene.server, &mut scene.bystander);
    tokio::select! {
        () = until("the silent one to go", async || server.connections("r") == 1) => {}
        () = async { loop { bystander.message().await; } } => {}
    }
    scene.sees(&mut silent, 1002, "ping").await;
}

#[tokio::test]
async fn a_peer_that_reads_too_slowly_is_closed() {
    let mut scene = Scene::with(|config| config.with_slow_reader_timeout(Duration::from_millis(300))).await;
    let mut slow = scene.join(1).await;
    for _ in 0..40 {
        scene.server.write("r", "INSERT INTO foo (a, b) VALUES (hex(randomblob(8)), randomblob(1000000))").await;
        scene.bystander.changes().await;
    }
    let server = &scene.server;
    until("the slow one to go", async || server.connections("r") == 1).await;
    scene.sees(&mut slow, 1013, "slowly").await;
}

#[tokio::test]
async fn a_shutdown_tells_everybody_and_lets_nobody_in() {
    let mut scene = Scene::new().await;
    let mut fresh = scene.connect(1).await;
    let mut announced = scene.join(2).await;
    let rooms = scene.server.rooms.clone();
    let shutdown = tokio::spawn(async move { rooms.shutdown().await });
    for client in [&mut fresh, &mut announced, &mut scene.bystander] {
        let (code, reason) = client.closed().await;
        assert_eq!(code, 1001, "{reason}");
        client.gone().await;
    }
    soon("the shutdown", shutdown).await.unwrap();
    let late = Client::try_connect(scene.server.address, "r", 3, ClientOptions::default()).await;
    assert!(matches!(late, Err(WsError::Http(response)) if response.status() == StatusCode::SERVICE_UNAVAILABLE));
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever_for_peers_that_are_gone() {
    let server = Server::with(|config| config.with_shutdown_grace(Duration::from_millis(300))).await;
    let _deaf: Vec<TcpStream> =
        vec![Client::join(&server, "r", 1).await.into_stream(), Client::connect(&server, "r", 2).await.into_stream()];
    soon("the shutdown", server.rooms.shutdown()).await;
    assert!(std::fs::metadata(server.file("r-wal")).map_or(0, |wal| wal.len()) == 0);
}

#[tokio::test]
async fn a_connection_over_the_limit_is_answered_503_until_another_one_leaves() {
    let mut scene = Scene::with(|config| config.with_max_connections(2)).await;
    let second = scene.join(1).await;
    let options = ClientOptions::default();
    let refused = Client::try_connect(scene.server.address, "r", 2, options).await;
    assert!(matches!(refused, Err(WsError::Http(response)) if response.status() == StatusCode::SERVICE_UNAVAILABLE));
    scene.goes_on().await;
    second.close().await;
    let address = scene.server.address;
    until("a free place", async || Client::try_connect(address, "r", 3, options).await.is_ok()).await;
}

#[tokio::test]
async fn a_client_that_closes_is_answered() {
    let mut scene = Scene::new().await;
    scene.connect(1).await.close().await;
    scene.join(2).await.close().await;
    scene.goes_on().await;
}

#[tokio::test]
async fn broken_framing_ends_one_connection_only() {
    let mut scene = Scene::new().await;
    let masked = |first: u8, len: u8| [first, 0x80 | len, 1, 2, 3, 4];
    let frames: [(&str, Vec<u8>); 8] = [
        ("not masked", vec![0x82, 0x01, 0x07]),
        ("reserved bits", masked(0xf2, 0).to_vec()),
        ("unknown opcode", masked(0x83, 0).to_vec()),
        ("unknown control opcode", masked(0x8b, 0).to_vec()),
        ("a ping in parts", masked(0x09, 0).to_vec()),
        ("a ping that is too long", [&[0x89, 0xfe, 0, 200][..], &[7; 204]].concat()),
        ("a continuation of nothing", masked(0x80, 0).to_vec()),
        ("half a message and then another", [masked(0x02, 0), masked(0x82, 0)].concat()),
    ];
    for (what, bytes) in frames {
        for announced in [false, true] {
            let client = if announced { scene.join(1).await } else { scene.connect(1).await };
            let mut stream = client.into_stream();
            stream.write_all(&bytes).await.unwrap();
            let close = soon(what, raw_close(&mut stream)).await;
            scene.expect(&close, 1002, "").await;
        }
    }
}

#[tokio::test]
async fn a_frame_that_claims_to_be_endless_is_too_big() {
    let mut scene = Scene::new().await;
    let mut stream = scene.join(1).await.into_stream();
    stream.write_all(&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]).await.unwrap();
    let close = soon("a close", raw_close(&mut stream)).await;
    scene.expect(&close, 1009, "max_message_bytes").await;
}

#[tokio::test]
async fn a_close_with_a_code_that_is_none_ends_one_connection_only() {
    let mut scene = Scene::new().await;
    for payload in [&b"\x03"[..], b"\x00\x00", b"\x03\xee", b"\xff\xff", b"\x03\xe8\xff\xff"] {
        let mut client = scene.join(1).await;
        drop(client.try_send_frame(raw(OpCode::Control(Control::Close), true, payload)).await);
        client.gone().await;
        scene.goes_on().await;
    }
}

/// Every byte sequence that chance finds: whole messages with bytes changed, cut, doubled, out of order, in frames of all kinds.
#[tokio::test]
async fn whatever_bytes_come_the_server_lives_on() {
    let mut scene = Scene::new().await;
    let mut random = Random::new(2);
    let template = scene.join(1).await;
    let announce = Message::AnnouncePresence(AnnouncePresence {
        sender: template.site,
        last_seens: vec![(template.server, Position::at(3)), (template.site, Position::MUTE)],
        schema_name: "main.sql".into(),
        schema_version: schema_version(SCHEMA),
    })
    .encode();
    let values = [Value::Null, Value::Integer(-1), Value::Number(f64::NAN), Value::Text("text"), Value::Blob(b"\0")];
    let changes: Vec<_> = (1..=20).map(|k| cell(k, "b", values[usize::from(k) % values.len()], i64::from(k))).collect();
    let changes = template.changes_message(0, &changes).encode();
    let reject = Message::RejectChanges(tower_sqlite_sync_wire::RejectChanges {
        whose: template.server,
        since: Position::START,
    })
    .encode();
    let good = [&announce, &changes, &reject];
    for round in 0..200 {
        let mut client = scene.connect(u8::try_from(round % 90).unwrap() + 1).await;
        if random.one_in(2) {
            client.send_frame(WsMessage::Binary(announce.clone())).await;
        }
        for _ in 0..random.below(4) + 1 {
            let mut bytes = random.pick(&good).to_vec();
            match random.below(5) {
                0 => bytes.truncate(random.below(bytes.len())),
                1 => {
                    let len = random.below(300) + 1;
                    bytes = random.bytes(len);
                }
                2 => bytes.extend_from_slice(&announce),
                _ => {
                    for _ in 0..random.below(4) {
                        let at = random.below(bytes.len());
                        bytes[at] = random.next().to_le_bytes()[0];
                    }
                }
            }
            let kinds = [Data::Binary, Data::Binary, Data::Binary, Data::Text, Data::Continue];
            let frame = match random.below(12) {
                0 => raw(OpCode::Control(Control::Ping), true, &bytes[..bytes.len().min(125)]),
                1 => raw(OpCode::Data(*random.pick(&kinds)), random.one_in(2), &bytes),
                _ => WsMessage::binary(bytes),
            };
            if client.try_send_frame(frame).await.is_err() {
                break;
            }
        }
        drop(client);
    }
    until("the others to go", {
        let server = &scene.server;
        async || server.connections("r") <= 2
    })
    .await;
    scene.server.write("r", "INSERT INTO foo (a, b) VALUES ('end', 'x')").await;
    let mut last = String::new();
    while !last.ends_with(".b='x'") {
        last = cells(&scene.bystander.changes().await).pop().unwrap();
    }
    let check = scene.server.rows("r", "PRAGMA integrity_check").await;
    assert_eq!(check, ["'ok'"]);
    let newest = scene.server.rows("r", "SELECT crsql_db_version() < 17000000 * 200").await;
    assert_eq!(newest, ["1"], "no clock leapt");
    drop(template);
}

/// The close frame that a server sends, read by hand.
async fn raw_close(stream: &mut TcpStream) -> (u16, String) {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.unwrap();
        let len = match head[1] {
            126 => usize::from(stream.read_u16().await.unwrap()),
            127 => panic!("a long frame"),
            len => usize::from(len),
        };
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload).await.unwrap();
        if head[0] == 0x88 {
            let code = u16::from_be_bytes([payload[0], payload[1]]);
            return (code, String::from_utf8(payload[2..].to_vec()).unwrap());
        }
    }
}

#[tokio::test]
async fn more_than_an_announce_from_a_stranger_is_too_big() {
    let mut scene = Scene::new().await;
    let mut client = scene.connect(1).await;
    // The server closes before it has read it all.
    drop(client.try_send_frame(WsMessage::binary(vec![1; 8 << 20])).await);
    scene.sees(&mut client, 1009, "an announce").await;
}

#[tokio::test]
async fn uploads_share_a_budget() {
    let mut scene = Scene::with(|config| config.with_uploads_bytes(0).with_max_message_bytes(4 << 20)).await;
    let mut first = scene.join(1).await;
    let mut second = scene.join(2).await;
    let part = |fin| {
        let header = Frame::message(vec![0; 3 << 20], OpCode::Data(Data::Binary), fin);
        WsMessage::Frame(header)
    };
    drop(first.try_send_frame(part(false)).await);
    drop(second.try_send_frame(part(false)).await);
    let close = tokio::select! {
        close = first.closed() => close,
        close = second.closed() => close,
    };
    scene.expect(&close, 1013, "uploads").await;
}

#[tokio::test]
async fn a_lock_that_another_process_holds_is_no_fault_and_is_waited_for_once() {
    let mut scene = Scene::with(|config| config.with_busy_timeout(Duration::from_millis(300))).await;
    let mut client = scene.join(1).await;
    let other = rusqlite::Connection::open(scene.server.file("r")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    client.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    let close = client.closed().await;
    drop(other);
    scene.expect(&close, 1013, "locked").await;
}

#[tokio::test]
async fn a_file_of_another_application_is_left_alone() {
    let mut scene = Scene::new().await;
    let file = scene.server.file("foreign");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE accounts (id, secret)").unwrap();
    let mut client = scene.connect_to("foreign", 1, false).await;
    client.announce(&[]).await;
    scene.sees(&mut client, 1011, "database").await;
    let tables: i64 = rusqlite::Connection::open(&file)
        .unwrap()
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 1);
}
