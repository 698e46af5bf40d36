//! Frames: what both ends of a link read and write once they trust each other.
//!
//! A frame is its length (u32, big-endian: the bytes that follow), its kind (one byte), and, but for a ping, the id of the request
//! (u64) and a body.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Bytes of a kind, and of a kind with an id.
const KIND_LEN: usize = 1;
const HEAD_LEN: usize = KIND_LEN + 8;

/// Room for the next read, in bytes: enough for many small frames, and never so much that memory follows what was promised and not
/// what has come.
const LEAST_PIECE: usize = 4 << 10;
const MOST_PIECE: usize = 64 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The one at the other end is alive.
    Ping,
    /// The body is a request.
    Request,
    /// The body is the answer to the request with this id.
    Response,
    /// The request with this id can't be understood; the body says why.
    Error,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Ping, Self::Request, Self::Response, Self::Error].into_iter().find(|kind| kind.byte() == byte)
    }

    fn byte(self) -> u8 {
        match self {
            Self::Ping => 1,
            Self::Request => 2,
            Self::Response => 3,
            Self::Error => 4,
        }
    }
}

/// A frame without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// The request; 0 for a ping.
    pub(super) id: u64,
    /// Bytes of the body, which follows.
    pub(super) body_len: usize,
}

/// Reads frames. Every byte that comes is a sign of life.
#[derive(Debug)]
pub(super) struct FrameReader<R> {
    read: R,
    /// Bytes that came with others and are not looked at yet.
    buffer: BytesMut,
    silence: Duration,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(read: R, silence: Duration) -> Self {
        Self { read, buffer: BytesMut::new(), silence }
    }

    /// The start of the next frame. Its body is to be [read](Self::body) or [skipped](Self::skip) before the next one's.
    ///
    /// # Errors
    ///
    /// If nothing came for as long as a peer may be silent, the connection ended, or this is no frame.
    pub(super) async fn head(&mut self) -> io::Result<Head> {
        self.fill(4).await?;
        let len = usize::try_from(self.buffer.get_u32()).unwrap_or(usize::MAX);
        self.fill(KIND_LEN).await?;
        let byte = self.buffer.get_u8();
        let kind = Kind::from_byte(byte).ok_or_else(|| invalid("a frame of an unknown kind"))?;
        if kind == Kind::Ping {
            return if len == KIND_LEN {
                Ok(Head { kind, id: 0, body_len: 0 })
            } else {
                Err(invalid("a ping of a wrong length"))
            };
        }
        let body_len = len.checked_sub(HEAD_LEN).ok_or_else(|| invalid("a frame that is too short for its id"))?;
        self.fill(8).await?;
        Ok(Head { kind, id: self.buffer.get_u64(), body_len })
    }

    /// The body of the frame whose head came last.
    pub(super) async fn body(&mut self, head: Head) -> io::Result<Bytes> {
        self.fill(head.body_len).await?;
        Ok(self.buffer.split_to(head.body_len).freeze())
    }

    /// Reads over the body of the frame whose head came last.
    pub(super) async fn skip(&mut self, head: Head) -> io::Result<()> {
        let mut left = head.body_len;
        while left > 0 {
            self.fill(1).await?;
            let here = left.min(self.buffer.len());
            self.buffer.advance(here);
            left -= here;
        }
        Ok(())
    }

    /// Reads until `len` bytes are in the buffer.
    async fn fill(&mut self, len: usize) -> io::Result<()> {
        while self.buffer.len() < len {
            let missing = len - self.buffer.len();
            self.buffer.reserve(missing.clamp(LEAST_PIECE, MOST_PIECE));
            let silent = || io::Error::new(io::ErrorKind::TimedOut, "nothing came for too long");
            let read = timeout(self.silence, self.read.read_buf(&mut self.buffer)).await.map_err(|_| silent())??;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// Writes frames.
#[derive(Debug)]
pub(super) struct FrameWriter<W> {
    write: W,
    /// How long the peer may take nothing.
    stall: Duration,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(super) fn new(write: W, stall: Duration) -> Self {
        Self { write, stall }
    }

    pub(super) async fn ping(&mut self) -> io::Result<()> {
        // Its length counts the kind only.
        self.write_all([0, 0, 0, 1, Kind::Ping.byte()].as_slice()).await
    }

    /// Writes a frame of a kind that has an id and a body.
    pub(super) async fn frame(&mut self, kind: Kind, id: u64, body: Bytes) -> io::Result<()> {
        let len = body.len().checked_add(HEAD_LEN).and_then(|len| u32::try_from(len).ok());
        let mut head = BytesMut::with_capacity(4 + HEAD_LEN);
        head.put_u32(len.ok_or_else(|| invalid("a frame of 4 GiB or more"))?);
        head.put_u8(kind.byte());
        head.put_u64(id);
        self.write_all(head.chain(body)).await
    }

    async fn write_all(&mut self, mut bytes: impl Buf) -> io::Result<()> {
        while bytes.has_remaining() {
            let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing");
            let written = timeout(self.stall, self.write.write_buf(&mut bytes)).await.map_err(|_| stalled())??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        self.write.flush().await
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio_test_io::chunked;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(5);

    /// Streams that give what they have in pieces of a size.
    mod tokio_test_io {
        use std::io;
        use std::pin::Pin;
        use std::task::{Context, Poll};

        use tokio::io::{AsyncRead, ReadBuf};

        pub(super) struct Chunked(Vec<u8>, usize);

        pub(super) fn chunked(bytes: Vec<u8>, size: usize) -> Chunked {
            Chunked(bytes, size)
        }

        impl AsyncRead for Chunked {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let len = self.1.min(self.0.len()).min(buf.remaining());
                buf.put_slice(&self.0.drain(..len).collect::<Vec<_>>());
                Poll::Ready(Ok(()))
            }
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
    }

    async fn written(frames: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut writer = FrameWriter::new(Vec::new(), SILENCE);
        for (id, body) in frames {
            writer.ping().await.unwrap();
            writer.frame(Kind::Response, *id, Bytes::copy_from_slice(body)).await.unwrap();
        }
        writer.write
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_tcp_cuts_them(
            frames in vec((any::<u64>(), vec(any::<u8>(), 0..300)), 0..6),
            size in 1_usize..400,
        ) {
            let read = async {
                let mut reader = FrameReader::new(chunked(written(&frames).await, size), SILENCE);
                let mut read = Vec::new();
                for _ in 0..frames.len() {
                    assert_eq!(reader.head().await?.kind, Kind::Ping);
                    let head = reader.head().await?;
                    assert_eq!(head.kind, Kind::Response);
                    read.push((head.id, reader.body(head).await?.to_vec()));
                }
                assert_eq!(reader.head().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
                io::Result::Ok(read)
            };
            prop_assert_eq!(block_on(read).unwrap(), frames);
        }

        #[test]
        fn a_body_can_be_skipped(before in vec(any::<u8>(), 0..300), after in vec(any::<u8>(), 0..10), size in 1_usize..400) {
            let read = async {
                let frames = [(1, before), (2, after.clone())];
                let mut reader = FrameReader::new(chunked(written(&frames).await, size), SILENCE);
                reader.head().await?;
                let skipped = reader.head().await?;
                reader.skip(skipped).await?;
                reader.head().await?;
                let head = reader.head().await?;
                reader.body(head).await
            };
            prop_assert_eq!(block_on(read).unwrap(), after);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, size in 1_usize..20) {
            block_on(async {
                let mut reader = FrameReader::new(chunked(bytes, size), SILENCE);
                while let Ok(head) = reader.head().await {
                    if reader.body(head).await.is_err() {
                        break;
                    }
                }
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_may_take_long_as_long_as_something_comes() {
        let (near, mut far) = tokio::io::duplex(64);
        let bytes = written(&[(1, vec![7; 20])]).await;
        let trickle = async {
            for byte in &bytes {
                tokio::time::sleep(SILENCE - Duration::from_millis(1)).await;
                far.write_all(&[*byte]).await.unwrap();
            }
        };
        let mut reader = FrameReader::new(near, SILENCE);
        let read = async {
            reader.head().await.unwrap();
            let head = reader.head().await.unwrap();
            reader.body(head).await.unwrap()
        };
        assert_eq!(tokio::join!(trickle, read).1, [7; 20].as_slice());
        assert_eq!(reader.head().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (near, _far) = tokio::io::duplex(64);
        let mut writer = FrameWriter::new(near, SILENCE);
        let error = writer.frame(Kind::Request, 1, Bytes::from(vec![0; 100])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
