//! The future of a response, from the inner service or from us.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use pin_project_lite::pin_project;

use crate::body::SyncBody;

pin_project! {
    /// The future of [`SyncService`](crate::SyncService).
    #[must_use = "futures do nothing unless polled"]
    pub struct SyncFuture<F> {
        #[pin]
        source: Source<F>,
    }
}

pin_project! {
    #[project = SourceProj]
    enum Source<F> {
        Inner { #[pin] future: F },
        // Boxed, so that the common case does not carry the size of the rare one.
        Ours { answer: Pin<Box<dyn Future<Output = Response<Bytes>> + Send>> },
    }
}

impl<F> SyncFuture<F> {
    pub(crate) fn pass(future: F) -> Self {
        Self { source: Source::Inner { future } }
    }

    pub(crate) fn answer(answer: impl Future<Output = Response<Bytes>> + Send + 'static) -> Self {
        Self { source: Source::Ours { answer: Box::pin(answer) } }
    }
}

impl<F, B, E> Future for SyncFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<SyncBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().source.project() {
            SourceProj::Inner { future } => ready!(future.poll(cx)).map(|response| response.map(SyncBody::inner)),
            SourceProj::Ours { answer } => Ok(ready!(answer.as_mut().poll(cx)).map(SyncBody::ours)),
        })
    }
}

impl<F> fmt::Debug for SyncFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncFuture").finish_non_exhaustive()
    }
}
