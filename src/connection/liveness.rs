//! Signs of life of a socket, taken where bytes move: a long upload over a thin line is alive though no message is complete,
//! and takes memory.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::budget::Budget;
use super::intake::{Intake, Refusal};

/// When a socket last moved bytes in each direction.
#[derive(Debug)]
pub(super) struct Liveness {
    start: Instant,
    read_millis: AtomicU64,
    written_millis: AtomicU64,
    /// We are not reading, so that silence means nothing.
    held: AtomicBool,
    intake: Mutex<Intake>,
}

impl Liveness {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self {
            intake: Mutex::new(Intake::new(budget)),
            start: Instant::now(),
            read_millis: AtomicU64::new(0),
            written_millis: AtomicU64::new(0),
            held: AtomicBool::new(false),
        }
    }

    /// Says that a message was complete, and no longer takes memory here.
    pub(super) fn message_gone(&self) {
        self.intake().complete();
    }

    /// Says that a control frame with so long a payload came.
    pub(super) fn control_frame(&self, payload: usize) {
        self.intake().control_frame(payload);
    }

    /// Why the peer may not send more, if so.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.intake().refusal()
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the peer has sent no byte, while we were reading.
    pub(super) fn silence(&self) -> Duration {
        if self.held.load(Ordering::Relaxed) { Duration::ZERO } else { self.since(&self.read_millis) }
    }

    /// Says that we stop reading for a while; reading goes on when what is returned is dropped.
    pub(super) fn hold(&self) -> Held<'_> {
        self.held.store(true, Ordering::Relaxed);
        Held(self)
    }

    /// Waits until the socket has taken no byte for as long as `limit` says, counted from now. It may say something else each second.
    pub(super) async fn stalled(&self, limit: impl Fn() -> Duration) {
        self.stamp(&self.written_millis);
        loop {
            let quiet = self.since(&self.written_millis);
            let Some(left) = limit().checked_sub(quiet).filter(|left| !left.is_zero()) else { return };
            tokio::time::sleep(left.min(Duration::from_secs(1))).await;
        }
    }

    fn since(&self, millis: &AtomicU64) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(millis.load(Ordering::Relaxed)))
    }

    fn stamp(&self, millis: &AtomicU64) {
        // 2^64 milliseconds outlast any process.
        millis.store(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// See [`Liveness::hold`].
pub(super) struct Held<'a>(&'a Liveness);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.stamp(&self.0.read_millis);
        self.0.held.store(false, Ordering::Relaxed);
    }
}

/// A socket whose [`Liveness`] is kept.
#[derive(Debug)]
pub(super) struct Watched<IO> {
    io: IO,
    liveness: Arc<Liveness>,
}

impl<IO> Watched<IO> {
    pub(super) fn new(io: IO, liveness: Arc<Liveness>) -> Self {
        Self { io, liveness }
    }

    pub(super) fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let received = buf.filled().len().saturating_sub(before);
        if received > 0 {
            self.liveness.stamp(&self.liveness.read_millis);
            let taken = self.liveness.intake().receive(received);
            taken.map_err(|_| io::Error::other("the peer may not send more"))?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.liveness.stamp(&self.liveness.written_millis);
        Poll::Ready(Ok(written))
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
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.liveness.stamp(&self.liveness.written_millis);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn a_byte_ends_the_silence() {
        let (mut peer, ours) = tokio::io::duplex(64);
        let liveness = Arc::new(Liveness::new(Budget::new(usize::MAX)));
        let mut ours = Watched::new(ours, liveness.clone());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(liveness.silence().as_secs(), 5);
        peer.write_all(b"x").await.unwrap();
        ours.read_u8().await.unwrap();
        assert_eq!(liveness.silence().as_secs(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_means_nothing_while_we_do_not_read() {
        let liveness = Liveness::new(Budget::new(usize::MAX));
        let held = liveness.hold();
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(liveness.silence(), Duration::ZERO);
        drop(held);
        assert_eq!(liveness.silence().as_secs(), 0);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(liveness.silence().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_bytes_now_and_then_is_not_stalled() {
        let liveness = Arc::new(Liveness::new(Budget::new(usize::MAX)));
        let (ours, mut peer) = tokio::io::duplex(1);
        let mut ours = Watched::new(ours, liveness.clone());
        let start = Instant::now();
        let writing = async {
            ours.write_all(b"ab").await.unwrap();
            std::future::pending::<()>().await;
        };
        let reading = async {
            tokio::time::sleep(Duration::from_secs(8)).await;
            peer.read_u8().await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = writing => unreachable!(),
            () = reading => unreachable!(),
            () = liveness.stalled(|| Duration::from_secs(10)) => {}
        }
        assert_eq!(start.elapsed().as_secs(), 18);
    }
}
