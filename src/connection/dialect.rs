//! The two forms of a session: binary frames, as vlcn's clients speak, and JSON in text frames, for reading and writing by hand.

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as WsFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tower_sqlite_sync_wire::{Message, Position, SiteId};

use super::Close;
use crate::room::Selection;

/// Bytes from which on a message takes long to decode.
const LARGE: usize = 256 << 10;

/// The announce's kind of frame fixes the session's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Binary,
    Json,
}

impl Dialect {
    /// The dialect of a first message.
    pub(super) fn of(message: &WsMessage) -> Self {
        if message.is_text() { Self::Json } else { Self::Binary }
    }

    /// Decodes a data message; a large one on a thread that may block, for everything else on this one would wait.
    pub(super) async fn decode_off_the_runtime(self, message: WsMessage) -> Result<Message, Close> {
        if message.len() <= LARGE {
            return self.decode(message);
        }
        let decoding = tokio::task::spawn_blocking(move || self.decode(message));
        decoding.await.unwrap_or_else(|_| Err(Close::going_away()))
    }

    /// Decodes a data message.
    pub(super) fn decode(self, message: WsMessage) -> Result<Message, Close> {
        match (self, message) {
            (Self::Binary, WsMessage::Binary(bytes)) => {
                Message::decode(bytes).map_err(|error| Close::malformed(&error.to_string()))
            }
            (Self::Json, WsMessage::Text(text)) => {
                Message::from_json(&text).map_err(|error| Close::malformed(&error.to_string()))
            }
            (Self::Binary, _) => Err(Close::unsupported("this session is binary, since its announce was")),
            (Self::Json, _) => Err(Close::unsupported("this session is JSON text, since its announce was")),
        }
    }

    /// Encodes a message.
    pub(super) fn encode(self, message: &Message) -> WsMessage {
        match self {
            Self::Binary => WsMessage::Binary(message.encode()),
            Self::Json => WsMessage::text(message.to_json()),
        }
    }

    /// Encodes what was selected for a connection as a message of changes, cut into frames of `fragment` bytes.
    pub(super) fn changes(
        self,
        selection: &Selection,
        sender: SiteId,
        since: Position,
        fragment: usize,
    ) -> Result<Vec<WsMessage>, Close> {
        match self {
            Self::Binary => Ok(frames(Data::Binary, selection.message(sender, since, fragment))),
            Self::Json => match selection.json(sender, since) {
                Ok(text) => Ok(frames(Data::Text, pieces(text.into(), fragment))),
                Err(error) => {
                    tracing::error!(%error, "our own changes don't decode");
                    Err(Close::internal("changes can't be shown as JSON; use binary frames"))
                }
            },
        }
    }
}

/// One message; if it has several fragments, in continuation frames.
pub(super) fn frames(kind: Data, mut fragments: Vec<Bytes>) -> Vec<WsMessage> {
    let Some(last) = fragments.pop() else { return Vec::new() };
    if fragments.is_empty() {
        return vec![WsMessage::Frame(WsFrame::message(last, OpCode::Data(kind), true))];
    }
    let kinds = std::iter::once(kind).chain(std::iter::repeat(Data::Continue));
    let open = fragments.into_iter().zip(kinds).map(|(part, kind)| WsFrame::message(part, OpCode::Data(kind), false));
    open.chain([WsFrame::message(last, OpCode::Data(Data::Continue), true)]).map(WsMessage::Frame).collect()
}

/// `text` in fragments, which may end inside of a character (RFC 6455 §5.6).
pub(super) fn pieces(mut text: Bytes, fragment: usize) -> Vec<Bytes> {
    let fragment = fragment.max(1);
    let mut pieces = Vec::new();
    while text.len() > fragment {
        pieces.push(text.split_to(fragment));
    }
    pieces.push(text);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_message_goes_out_in_continuation_frames() {
        let frames = frames(Data::Binary, [&b"abc"[..], b"def", b"gh"].map(Bytes::from_static).to_vec());
        let parts: Vec<(Vec<u8>, bool, OpCode)> = frames
            .into_iter()
            .map(|frame| match frame {
                WsMessage::Frame(frame) => {
                    let header = frame.header().clone();
                    (frame.into_payload().to_vec(), header.is_final, header.opcode)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            parts,
            [
                (b"abc".to_vec(), false, OpCode::Data(Data::Binary)),
                (b"def".to_vec(), false, OpCode::Data(Data::Continue)),
                (b"gh".to_vec(), true, OpCode::Data(Data::Continue)),
            ]
        );
    }

    #[test]
    fn text_is_cut_wherever_a_frame_is_full() {
        assert_eq!(pieces("aébc".into(), 2), [&b"a\xc3"[..], b"\xa9b", b"c"]);
        assert_eq!(pieces("ab".into(), 2), ["ab"]);
    }

    #[test]
    fn a_frame_of_the_other_kind_is_refused() {
        let text = WsMessage::text(Message::Ping.to_json());
        assert_eq!(Dialect::of(&text), Dialect::Json);
        assert_eq!(Dialect::Binary.decode(text.clone()).unwrap_err().code(), 1003);
        assert!(matches!(Dialect::Json.decode(text), Ok(Message::Ping)));
        assert_eq!(Dialect::Json.decode(Dialect::Binary.encode(&Message::Ping)).unwrap_err().code(), 1003);
    }

    #[test]
    fn garbage_is_malformed() {
        assert_eq!(Dialect::Binary.decode(WsMessage::binary(vec![99])).unwrap_err().code(), 1007);
        assert_eq!(Dialect::Json.decode(WsMessage::text("{")).unwrap_err().code(), 1007);
    }
}
