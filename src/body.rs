//! The body of a response, from the inner service or from us.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The response body of [`SyncService`](crate::SyncService).
    #[derive(Debug)]
    pub struct SyncBody<B> {
        #[pin]
        source: Source<B>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = SourceProj]
    enum Source<B> {
        Inner { #[pin] body: B },
        // Empty when it was sent.
        Ours { text: Bytes },
    }
}

impl<B> SyncBody<B> {
    pub(crate) fn inner(body: B) -> Self {
        Self { source: Source::Inner { body } }
    }

    pub(crate) fn ours(text: Bytes) -> Self {
        Self { source: Source::Ours { text } }
    }
}

/// The default body of the inner service.
impl<B: Default> Default for SyncBody<B> {
    fn default() -> Self {
        Self::inner(B::default())
    }
}

impl<B> Body for SyncBody<B>
where
    B: Body,
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().source.project() {
            SourceProj::Inner { body } => body.poll_frame(cx),
            SourceProj::Ours { text } if text.is_empty() => Poll::Ready(None),
            SourceProj::Ours { text } => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text).into())))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Inner { body } => body.is_end_stream(),
            Source::Ours { text } => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Inner { body } => body.size_hint(),
            // `usize` fits `u64` on every platform that Rust has.
            Source::Ours { text } => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or(u64::MAX)),
        }
    }
}
