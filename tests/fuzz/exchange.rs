//! One session: some bytes, and what the server makes of them.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower_sqlite_sync_wire::Message;

use crate::fixture::{Client, ClientOptions, Random, soon};
use crate::frame::Frame;

/// The close codes that blame the peer, or ask it to come again. 1011 would be a fault of ours.
const CODES: [u16; 8] = [1001, 1002, 1003, 1007, 1008, 1009, 1013, 4400];

/// What a session sends.
pub(crate) struct Sent {
    pub(crate) bytes: Vec<u8>,
    /// How many changesets may be in it, at most.
    pub(crate) changesets: usize,
    /// All of it is whole data frames, so that no close is the echo of one.
    pub(crate) is_framed: bool,
}

/// Sends it in pieces, while reading what comes, until the server ends the connection; the code, if it said one.
pub(crate) async fn exchange(address: SocketAddr, room: &str, random: &mut Random, sent: &Sent) -> Option<u16> {
    let stream = Client::connect_with(address, room, 0, ClientOptions::default()).await.into_stream();
    let (mut from, mut to) = stream.into_split();
    let mut rest = &sent.bytes[..];
    let write = async {
        while !rest.is_empty() {
            let most = *random.pick(&[1, 7, 100, 10_000, 1_000_000]);
            let (piece, others) = rest.split_at(rest.len().min(random.below(most) + 1));
            if to.write_all(piece).await.is_err() {
                return;
            }
            rest = others;
        }
        to.shutdown().await.ok();
    };
    let mut received = Vec::new();
    // A server that closes before it has read everything may reset the connection.
    let read = from.read_to_end(&mut received);
    drop(soon("the session to end", async { tokio::join!(write, read) }).await);
    answered(&received, sent.is_framed)
}

/// Whatever came, the answer is frames of a server that knows what it says.
fn answered(received: &[u8], is_framed: bool) -> Option<u16> {
    let mut message = Vec::new();
    for frame in Frame::all_in(received) {
        assert_eq!((frame.first & 0x70, frame.mask), (0, [0; 4]), "a server neither masks nor extends");
        match frame.first & 0x0f {
            Frame::CLOSE => {
                let (code, reason) =
                    frame.payload.split_first_chunk().map(|(code, reason)| (u16::from_be_bytes(*code), reason))?;
                let reason = std::str::from_utf8(reason).unwrap();
                if is_framed {
                    assert!(CODES.contains(&code) && !reason.is_empty(), "{code} {reason:?}");
                }
                return Some(code);
            }
            opcode @ (Frame::CONTINUATION | Frame::TEXT | Frame::BINARY) => {
                message.extend(frame.payload);
                if frame.first & Frame::FIN != 0 {
                    numbers_are_sane(std::mem::take(&mut message), opcode == Frame::TEXT);
                }
            }
            _ => {}
        }
    }
    None
}

/// No number is sent that clients in JavaScript could not count on from.
fn numbers_are_sane(message: Vec<u8>, is_text: bool) {
    let sane = 0..1 << 53;
    let message = match is_text {
        true => Message::from_json(std::str::from_utf8(&message).unwrap()).unwrap(),
        false => Message::decode(Bytes::from(message)).unwrap(),
    };
    match message {
        Message::Changes(changes) => {
            for change in &changes.changes {
                let numbers = [change.col_version, change.db_version, change.cl, change.seq];
                assert!(numbers.iter().all(|number| sane.contains(number)), "{numbers:?}");
            }
        }
        Message::StartStreaming(start) => assert!(sane.contains(&start.since.db_version), "{start:?}"),
        other => panic!("a server sends no {other:?}"),
    }
}
