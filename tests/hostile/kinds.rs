//! The kinds of hostile connections, and what one of each may cost the server.

#![allow(clippy::async_yields_async, reason = "an attack arrives, and then goes on")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tower_sqlite_sync_wire::{Change, SiteId, Value};

use crate::attack::survives;
use crate::fixture::{Client, ClientOptions, cell};
use crate::target::fill;

/// A connection that buffers as little as the system allows.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address).await.unwrap()
}

async fn connect(address: SocketAddr, room: &str, n: usize) -> Client {
    let mut client = Client::over(narrow(address).await, "localhost", room, 0, ClientOptions::default()).await.unwrap();
    client.site = site(n);
    client
}

/// Sites that nobody else is.
pub(crate) fn site(n: usize) -> SiteId {
    SiteId::from_bytes((1_000_000 + n as u128).to_be_bytes())
}

/// Does nothing, and holds on to what it is given.
async fn hold<T>(_held: T) {
    std::future::pending().await
}

/// The head of a masked binary frame with so long a payload.
fn head(len: u64) -> Vec<u8> {
    [&[0x82, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat()
}

#[tokio::test]
async fn who_never_announces_itself() {
    survives(&[("ANNOUNCE_TIMEOUT", "60")], 24, async |address, n| hold(connect(address, "big", n).await)).await;
}

#[tokio::test]
async fn who_announces_itself_and_never_reads() {
    survives(&[("SENDING_BYTES", "16000000")], 150, async |address, n| {
        if n == 0 {
            fill(address, "big", 60).await;
        }
        let mut client = connect(address, "big", n).await;
        client.announce(&[]).await;
        hold(client)
    })
    .await;
}

/// A value that is larger than what is sent at a time is read by each of them, from where it says that it is.
#[tokio::test]
async fn who_waits_for_a_large_value_and_never_reads() {
    survives(&[("SENDING_BYTES", "16000000")], 150, async |address, n| {
        let mut client = connect(address, "large", n).await;
        if n == 0 {
            client.enter().await;
            let text = "x".repeat(2_000_000);
            client.push(0, &[cell(1, "b", Value::Text(&text), 2_000)]).await;
            return hold(client);
        }
        client.enter().await;
        let server = client.server;
        let mut client = connect(address, "large", n).await;
        client.announce(&[(server, i64::try_from(n).unwrap())]).await;
        hold(client)
    })
    .await;
}

#[tokio::test]
async fn who_claims_a_frame_of_a_gibibyte() {
    survives(&[], 24, async |address, n| {
        let mut client = connect(address, "big", n).await;
        client.announce(&[]).await;
        let mut stream = client.into_stream();
        stream.write_all(&head(1 << 30)).await.unwrap();
        hold(stream)
    })
    .await;
}

#[tokio::test]
async fn who_claims_a_frame_of_the_largest_size_and_sends_little_of_it() {
    survives(&[], 24, async |address, n| {
        let mut client = connect(address, "empty", n).await;
        client.enter().await;
        let mut stream = client.into_stream();
        stream.write_all(&head(100 << 20)).await.unwrap();
        hold(stream)
    })
    .await;
}

#[tokio::test]
async fn who_dribbles() {
    survives(&[("ANNOUNCE_TIMEOUT", "2")], 24, async |address, n| {
        let mut stream = connect(address, "big", n).await.into_stream();
        async move {
            stream.write_all(&head(60)).await.unwrap();
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn who_sends_changes_and_never_waits() {
    survives(&[], 48, async |address, n| {
        let mut client = connect(address, "busy", n).await;
        client.enter().await;
        let text = "x".repeat(1_000);
        async move {
            for version in 1..=20 {
                let message = client.changes_message(version - 1, &[cell(1, "b", Value::Text(&text), version)]);
                if client.try_send_frame(WsMessage::Binary(message.encode())).await.is_err() {
                    return;
                }
            }
            hold(client).await;
        }
    })
    .await;
}

/// Nothing hostile: what a client has uploaded is not kept for as long as it stays.
#[tokio::test]
async fn who_has_uploaded_much_and_stays() {
    // Of the 600 that each has sent; some of them still wait for the writer.
    survives(&[("QUEUES_BYTES", "4000000")], 450, async |address, n| {
        let mut client = Client::connect_with(address, "uploads", 0, ClientOptions::default()).await;
        client.site = site(n);
        client.enter().await;
        // Of which the room keeps one.
        let text = "x".repeat(600_000);
        let row = cell(1, "b", Value::Text(&text), 1);
        client.push(0, &[Change { cl: 2, cid: Change::SENTINEL, ..row }]).await;
        async move {
            loop {
                client.message().await;
            }
        }
    })
    .await;
}

/// More comes than the room's writer can take: what is complete and waits for it must count as well as what is not complete yet.
#[tokio::test]
async fn who_sends_much_at_once() {
    let settings = [
        ("SENDING_BYTES", "12000000"),
        ("UPLOADS_BYTES", "12000000"),
        ("QUEUES_BYTES", "3000000"),
        ("MAX_MESSAGE_BYTES", "2000000"),
    ];
    survives(&settings, 400, async |address, n| {
        let mut client = connect(address, "busy", n).await;
        client.enter().await;
        let text = "x".repeat(600_000);
        async move {
            let message = client.changes_message(0, &[cell(1, "b", Value::Text(&text), 1)]);
            drop(client.try_send_frame(WsMessage::Binary(message.encode())).await);
            hold(client).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_pings_and_never_reads() {
    survives(&[], 24, async |address, n| {
        let mut client = connect(address, "empty", n).await;
        client.enter().await;
        async move { while client.try_send_frame(WsMessage::Ping(Bytes::from_static(&[7; 125]))).await.is_ok() {} }
    })
    .await;
}

#[tokio::test]
async fn who_never_ends_its_request() {
    survives(&[], 64, async |address, _| {
        let mut stream = narrow(address).await;
        stream.write_all(b"GET /sync HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nSec-Web").await.unwrap();
        async move { drop(stream.read_u8().await) }
    })
    .await;
}
