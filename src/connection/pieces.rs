//! Cuts the frames that a peer sends, before the WebSocket library sees them.
//!
//! tungstenite makes its read buffer as large as a frame says that it is, and never smaller again: a connection that has uploaded
//! 100 MiB in one frame, as clients do, would hold them for as long as it lives. A message may come in as many frames as one likes
//! (RFC 6455 §5.4), so a large frame is handed on as several; what tungstenite gathers of them is given back with the message.
//!
//! It is here that the socket is read ahead, so that tungstenite can do with a buffer for a few small frames: it fills that with
//! zeros at each read, and keeps it. What is read ahead takes memory only for as long as it is there: most connections are idle most
//! of the time.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of payload in a piece: a multiple of four, so that each begins with the first byte of the mask, and what 16 bits can say.
/// tungstenite keeps a buffer of that size once it has seen a piece.
const PIECE: u16 = 4 << 10;

/// What is read from the socket at a time.
const AHEAD: usize = 8 << 10;

/// The bits of a header's first two bytes (RFC 6455 §5.2).
const FIN: u8 = 0x80;
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const LENGTH_16: u8 = 126;
const LENGTH_64: u8 = 127;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Pieces<IO> {
    io: IO,
    /// What was read and not handed on yet.
    ahead: Bytes,
    /// A frame that is larger than this is handed on as it is, for tungstenite to refuse.
    most: u64,
    /// What came of a header that is not complete yet.
    coming: Header,
    /// What is to be handed on of a header.
    going: Header,
    /// Bytes of payload to be handed on before the next header.
    payload: u64,
    /// What follows then, if the frame is not over.
    rest: Option<Rest>,
}

/// A frame that was handed on in part.
#[derive(Debug, Clone, Copy)]
struct Rest {
    left: u64,
    is_final: bool,
    mask: Option<[u8; 4]>,
}

/// Up to 14 bytes, taken away from the front.
#[derive(Debug, Default, Clone, Copy)]
struct Header {
    bytes: [u8; 14],
    start: usize,
    end: usize,
}

impl Header {
    fn push(&mut self, bytes: &[u8]) {
        for (free, byte) in self.bytes.iter_mut().skip(self.end).zip(bytes) {
            *free = *byte;
            self.end += 1;
        }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }
}

/// What a complete header says.
struct Frame {
    first: u8,
    length: u64,
    mask: Option<[u8; 4]>,
}

impl Frame {
    /// `None` if there is less than a header.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (length, rest) = match second & LENGTH {
            LENGTH_16 => rest.split_first_chunk().map(|(length, rest)| (u16::from_be_bytes(*length).into(), rest))?,
            LENGTH_64 => rest.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest))?,
            short => (short.into(), rest),
        };
        let mask = if second & MASKED == 0 { None } else { Some(*rest.first_chunk()?) };
        Some(Self { first, length, mask })
    }
}

impl<IO: AsyncRead> Pieces<IO> {
    /// Leaves frames of more than `most` bytes as they are.
    pub(super) fn new(io: IO, most: usize) -> Self {
        Self {
            io,
            ahead: Bytes::new(),
            most: u64::try_from(most).unwrap_or(u64::MAX),
            coming: Header::default(),
            going: Header::default(),
            payload: 0,
            rest: None,
        }
    }

    pub(super) fn into_inner(self) -> IO {
        self.io
    }

    /// A header is complete.
    fn begin(&mut self, frame: &Frame) {
        let header = std::mem::take(&mut self.coming);
        if frame.first & CONTROL != 0 || frame.length <= PIECE.into() || frame.length > self.most {
            self.going = header;
            self.payload = frame.length;
            return;
        }
        let rest = Rest { left: frame.length, is_final: frame.first & FIN != 0, mask: frame.mask };
        self.piece(frame.first & !FIN, rest);
    }

    /// Makes a piece of what is left of a frame. `first` is its first byte if it isn't the last one.
    fn piece(&mut self, first: u8, rest: Rest) {
        let length = u16::try_from(rest.left).map_or(PIECE, |left| left.min(PIECE));
        let left = rest.left.saturating_sub(length.into());
        let is_final = rest.is_final && left == 0;
        let masked = if rest.mask.is_some() { MASKED } else { 0 };
        self.going = Header::default();
        self.going.push(&[if is_final { first | FIN } else { first }, masked | LENGTH_16]);
        self.going.push(&length.to_be_bytes());
        self.going.push(rest.mask.as_ref().map_or(&[], |mask| mask.as_slice()));
        self.payload = length.into();
        self.rest = (left > 0).then_some(Rest { left, ..rest });
    }
}

impl<IO: AsyncRead + Unpin> Pieces<IO> {
    /// What was read ahead; nothing at the end of the stream.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.ahead.is_empty() {
            let mut scratch = [MaybeUninit::uninit(); AHEAD];
            let mut read = ReadBuf::uninit(&mut scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            self.ahead = Bytes::copy_from_slice(read.filled());
        }
        Poll::Ready(Ok(&self.ahead))
    }

    /// So many bytes of what was read ahead are handed on.
    fn consume(&mut self, bytes: usize) {
        self.ahead.advance(bytes.min(self.ahead.len()));
        if self.ahead.is_empty() {
            self.ahead = Bytes::new();
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Pieces<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if !this.going.bytes().is_empty() {
                let length = this.going.bytes().len().min(buf.remaining());
                buf.put_slice(this.going.bytes().get(..length).unwrap_or_default());
                this.going.start = this.going.start.saturating_add(length);
                return Poll::Ready(Ok(()));
            }
            if this.payload > 0 {
                let most = usize::try_from(this.payload).map_or(buf.remaining(), |left| left.min(buf.remaining()));
                let ahead = ready!(this.poll_ahead(cx))?;
                let part = ahead.get(..most).unwrap_or(ahead);
                let length = part.len();
                buf.put_slice(part);
                this.consume(length);
                this.payload = this.payload.saturating_sub(u64::try_from(length).unwrap_or(u64::MAX));
                return Poll::Ready(Ok(()));
            }
            if let Some(rest) = this.rest.take() {
                this.piece(0, rest);
                continue;
            }
            let Some(byte) = ready!(this.poll_ahead(cx))?.first().copied() else {
                return Poll::Ready(Ok(()));
            };
            this.consume(1);
            this.coming.push(&[byte]);
            if let Some(frame) = Frame::parse(this.coming.bytes()) {
                this.begin(&frame);
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Pieces<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    /// What is handed on of these bytes.
    async fn handed_on(bytes: &[u8], most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        Pieces::new(bytes, most).read_to_end(&mut out).await.unwrap();
        out
    }

    fn masked(first: u8, length: &[u8], payload: usize) -> Vec<u8> {
        [&[first], length, b"mask", &vec![7; payload]].concat()
    }

    #[tokio::test]
    async fn a_large_frame_becomes_several_with_the_same_mask() {
        let large = masked(0x82, &[0xff, 0, 0, 0, 0, 0, 0, 0x20, 0x01], 0x2001);
        let pieces = [
            masked(0x02, &[0xfe, 0x10, 0], 0x1000),
            masked(0x00, &[0xfe, 0x10, 0], 0x1000),
            masked(0x80, &[0xfe, 0, 1], 1),
        ];
        assert!(handed_on(&large, 1 << 20).await == pieces.concat());
        let open = masked(0x00, &[0xfe, 0x10, 4], 0x1004);
        let pieces = [masked(0x00, &[0xfe, 0x10, 0], 0x1000), masked(0x00, &[0xfe, 0, 4], 4)];
        assert!(handed_on(&open, 1 << 20).await == pieces.concat(), "the message goes on");
    }

    #[tokio::test]
    async fn small_frames_control_frames_and_those_that_are_refused_stay_as_they_are() {
        for (frame, most) in [
            (masked(0x82, &[0xfe, 0x10, 0], 0x1000), 1 << 20),
            (masked(0x89, &[0xfe, 0x10, 1], 0x1001), 1 << 20),
            (masked(0x82, &[0xfe, 0x20, 0], 0x2000), 0x1fff),
            (masked(0x82, &[0xff; 9], 10), 1 << 20),
            (vec![0x82, 0xfe, 0], 1 << 20),
        ] {
            let mut expected = frame.clone();
            if frame.len() < 4 {
                expected.clear();
            }
            assert!(handed_on(&frame, most).await == expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn messages_come_as_they_were_sent(
            messages in prop::collection::vec((any::<bool>(), 0usize..100_000, any::<u8>()), 1..6),
            pipe in 1usize..70_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (there, here) = tokio::io::duplex(pipe);
                let mut client = WebSocketStream::from_raw_socket(there, Role::Client, None).await;
                let mut server =
                    WebSocketStream::from_raw_socket(Pieces::new(here, 1 << 20), Role::Server, None).await;
                let sent: Vec<Message> = messages
                    .iter()
                    .map(|(text, length, byte)| match text {
                        true => Message::text("é".repeat(*length)),
                        false => Message::binary(vec![*byte; *length]),
                    })
                    .collect();
                let sending = async {
                    for message in &sent {
                        client.send(message.clone()).await.unwrap();
                    }
                };
                let receiving = async {
                    for message in &sent {
                        assert!(server.next().await.unwrap().unwrap() == *message);
                    }
                };
                tokio::join!(sending, receiving);
            });
        }
    }

    #[tokio::test]
    async fn what_was_read_takes_no_memory_once_it_is_handed_on() {
        let (mut there, here) = tokio::io::duplex(100_000);
        let mut pieces = Pieces::new(here, 1 << 20);
        let frames = [masked(0x82, &[0xfe, 0x10, 0], 0x1000), masked(0x82, &[0xfe, 0, 200], 200)].concat();
        there.write_all(&frames).await.unwrap();
        let mut read = vec![0; frames.len()];
        pieces.read_exact(&mut read).await.unwrap();
        assert!(read == frames);
        assert_eq!(pieces.ahead.as_ptr(), Bytes::new().as_ptr(), "nothing is allocated");
    }

    #[tokio::test]
    async fn what_is_written_goes_through() {
        let (mut there, here) = tokio::io::duplex(100);
        Pieces::new(here, 10).write_all(b"hello").await.unwrap();
        let mut read = String::new();
        there.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "hello");
    }
}
