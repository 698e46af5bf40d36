//! As much of RFC 6455 as a client needs that counts what it gets: frames are read where the socket put them, and written once.
//!
//! Why not the library that the server uses: with two cores for both, what the generator costs is missing in the figures. A
//! library keeps a buffer a connection, allocates a message each, and copies it there; here all connections of a thread share
//! one buffer, and a frame that is complete in it is never copied.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::fault::Fault;

/// The key of every handshake. It is there to defeat caches, of which there are none on the way.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What RFC 6455 §1.3 answers to this key.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The mask of every frame: a client must have one, and the server's work is the same with any.
const MASK: [u8; 4] = [0x5a, 0x13, 0xc7, 0x2e];

/// No message may be longer.
const LONGEST: u64 = 1 << 30;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The request that asks for a WebSocket to a room.
pub(crate) fn request(host: &str, path: &str, room: &str) -> String {
    let subprotocol = STANDARD_NO_PAD.encode(format!("room={room}"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    )
}

/// Reads the answer from the front of what came: how long it is, or `None` if it is not complete.
pub(crate) fn response(received: &[u8]) -> Result<Option<usize>, Fault> {
    const END: &[u8] = b"\r\n\r\n";
    let Some(end) = received.windows(END.len()).position(|window| window == END) else {
        return match received.len() {
            0..0x4000 => Ok(None),
            _ => Err(Fault::Wrong("the answer to the upgrade has no end".to_owned())),
        };
    };
    let head = String::from_utf8_lossy(received.get(..end).unwrap_or_default());
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        return Err(Fault::Refused(status.to_owned()));
    }
    let accepted = lines
        .filter_map(|line| line.split_once(':'))
        .any(|(name, value)| name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT);
    if !accepted {
        return Err(Fault::Wrong("the upgrade was accepted with another key".to_owned()));
    }
    Ok(Some(end.saturating_add(END.len())))
}

/// A message in one frame, as a client writes it.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    client_frame(BINARY, payload)
}

/// The answer to a ping.
pub(crate) fn pong(payload: &[u8]) -> Vec<u8> {
    client_frame(PONG, payload)
}

fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len().saturating_add(14));
    frame.push(FIN | opcode);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..126), _) => frame.push(MASKED | length),
        (_, Ok(length)) => {
            frame.push(MASKED | 126);
            frame.extend(length.to_be_bytes());
        }
        _ => {
            frame.push(MASKED | 127);
            frame.extend(u64::try_from(payload.len()).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received<'a> {
    /// A whole binary message.
    Message(&'a [u8]),
    /// A ping that wants an answer.
    Ping(&'a [u8]),
    /// The end, with its code (1005 for none) and reason.
    Close(u16, String),
}

/// Finds messages in what a server sends.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// A frame that is not complete yet.
    rest: Vec<u8>,
    /// The fragments of a message that is not complete yet.
    fragments: Option<Vec<u8>>,
}

impl Frames {
    /// Takes bytes as they come, and hands out what they complete.
    pub(crate) fn take<F>(&mut self, bytes: &[u8], mut hand_out: F) -> Result<(), Fault>
    where
        F: FnMut(Received<'_>) -> Result<(), Fault>,
    {
        if self.rest.is_empty() {
            let left = self.read(bytes, &mut hand_out)?;
            self.rest.extend_from_slice(left);
            return Ok(());
        }
        let mut gathered = std::mem::take(&mut self.rest);
        gathered.extend_from_slice(bytes);
        let left = self.read(&gathered, &mut hand_out)?.len();
        gathered.drain(..gathered.len().saturating_sub(left));
        self.rest = gathered;
        Ok(())
    }

    /// Reads whole frames; returns what is left.
    fn read<'b, F>(&mut self, mut bytes: &'b [u8], hand_out: &mut F) -> Result<&'b [u8], Fault>
    where
        F: FnMut(Received<'_>) -> Result<(), Fault>,
    {
        while let Some(head) = Head::read(bytes)? {
            let whole = bytes.split_at_checked(head.length).and_then(|(_, after)| after.split_at_checked(head.payload));
            let Some((payload, after)) = whole else { break };
            bytes = after;
            match head.opcode {
                BINARY if head.last && self.fragments.is_none() => hand_out(Received::Message(payload))?,
                BINARY if self.fragments.is_none() => self.fragments = Some(payload.to_vec()),
                CONTINUATION => {
                    let Some(mut message) = self.fragments.take() else {
                        return Err(Fault::Wrong("a message begins with a continuation".to_owned()));
                    };
                    message.extend_from_slice(payload);
                    match head.last {
                        true => hand_out(Received::Message(&message))?,
                        false => self.fragments = Some(message),
                    }
                }
                PING => hand_out(Received::Ping(payload))?,
                PONG => {}
                CLOSE => {
                    let (code, reason) = payload.split_first_chunk().unwrap_or((&[0x03, 0xed], &[]));
                    let reason = String::from_utf8_lossy(reason).into_owned();
                    hand_out(Received::Close(u16::from_be_bytes(*code), reason))?;
                }
                TEXT => return Err(Fault::Wrong("a text message".to_owned())),
                other => return Err(Fault::Wrong(format!("a frame with opcode {other} here"))),
            }
        }
        Ok(bytes)
    }
}

/// The head of a frame.
#[derive(Debug)]
struct Head {
    last: bool,
    opcode: u8,
    /// Bytes of the head itself.
    length: usize,
    /// Bytes behind it.
    payload: usize,
}

impl Head {
    /// The head at the front of `bytes`, if all of it is there.
    fn read(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let Some(([first, second], rest)) = bytes.split_first_chunk() else { return Ok(None) };
        if first & 0x70 != 0 || second & MASKED != 0 {
            return Err(Fault::Wrong("a frame that no server may send".to_owned()));
        }
        let long = match second {
            126 => rest.first_chunk().map(|length| (u64::from(u16::from_be_bytes(*length)), 4)),
            127 => rest.first_chunk().map(|length| (u64::from_be_bytes(*length), 10)),
            short => Some((u64::from(*short), 2)),
        };
        let Some((payload, length)) = long else { return Ok(None) };
        let payload = usize::try_from(payload.min(LONGEST)).unwrap_or(usize::MAX);
        Ok(Some(Self { last: first & FIN != 0, opcode: first & 0x0f, length, payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame as a server writes it.
    fn server_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..126 => frame.push(u8::try_from(length).unwrap()),
            length @ 126..0x1_0000 => {
                frame.push(126);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    fn messages(frames: &mut Frames, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        let taken = frames.take(bytes, |received| {
            if let Received::Message(message) = received {
                messages.push(message.to_vec());
            }
            Ok(())
        });
        taken.unwrap();
        messages
    }

    #[test]
    fn a_frame_of_ours_is_masked_and_has_its_length() {
        for (length, head) in [(0, 6), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
            let payload: Vec<u8> = (0..=255).cycle().take(length).collect();
            let written = frame(&payload);
            assert_eq!(written.len(), head + length);
            let unmasked: Vec<u8> = written[head..].iter().zip(MASK.iter().cycle()).map(|(a, b)| a ^ b).collect();
            assert_eq!((written[0], written[1] & MASKED, unmasked), (0x82, MASKED, payload));
        }
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_however_the_bytes_come_in(
            lengths in prop::collection::vec(prop_oneof![0..200_usize, 65_500..65_600_usize], 1..8),
            pieces in prop::collection::vec(1..70_000_usize, 1..8),
        ) {
            let sent: Vec<Vec<u8>> = lengths.iter().map(|length| (0..=255).cycle().take(*length).collect()).collect();
            let stream: Vec<u8> = sent.iter().flat_map(|message| {
                let (one, two) = message.split_at(message.len() / 3);
                [server_frame(BINARY, one), server_frame(FIN | PING, b"hi"), server_frame(FIN, two)].concat()
            }).collect();
            let (mut frames, mut received, mut rest) = (Frames::default(), Vec::new(), &stream[..]);
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                received.extend(messages(&mut frames, now));
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(received, sent);
        }
    }

    #[test]
    fn a_close_has_its_code_and_reason() {
        let mut closes = Vec::new();
        for payload in [&b"\x03\xf5later"[..], b""] {
            let frame = server_frame(FIN | CLOSE, payload);
            Frames::default()
                .take(&frame, |received| {
                    closes.push(format!("{received:?}"));
                    Ok(())
                })
                .unwrap();
        }
        assert_eq!(closes, [r#"Close(1013, "later")"#, r#"Close(1005, "")"#]);
    }

    #[test]
    fn what_no_server_may_send_is_a_fault() {
        let masked = frame(b"hello");
        for bytes in [&masked[..], &server_frame(FIN, b"x"), &server_frame(FIN | TEXT, b"x"), &[0xc2, 0]] {
            assert!(Frames::default().take(bytes, |_| Ok(())).is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn an_answer_is_read_up_to_its_end() {
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\nrest");
        assert_eq!(response(answer.as_bytes()).unwrap(), Some(answer.len() - 4));
        assert_eq!(response(&answer.as_bytes()[..50]).unwrap(), None);
        assert!(
            matches!(response(b"HTTP/1.1 503 Busy\r\n\r\n"), Err(Fault::Refused(status)) if status.contains("503"))
        );
        assert!(response(b"HTTP/1.1 101 Fine\r\n\r\n").is_err());
    }
}
