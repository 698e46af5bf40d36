//! The service: takes requests for rooms out of the stream, and hands on all others.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use crate::body::SyncBody;
use crate::future::SyncFuture;
use crate::handshake::Transport;
use crate::upgrade::Entrance;

/// Answers WebSocket upgrades on the sync path, and passes every other request to the inner service untouched: with its
/// body, headers and extensions as they came. Made by [`SyncLayer`](crate::SyncLayer).
#[derive(Clone)]
pub struct SyncService<S> {
    inner: S,
    entrance: Arc<Entrance>,
}

impl<S> SyncService<S> {
    pub(crate) fn new(inner: S, entrance: Arc<Entrance>) -> Self {
        Self { inner, entrance }
    }

    /// How a request asks for a room, if it does.
    fn transport<B>(&self, request: &Request<B>) -> Option<Transport> {
        // Headers before the path: the regular expression is the dear part, and few requests are upgrades.
        Transport::of(request).filter(|_| self.entrance.hub.config().path().matches(request.uri().path()))
    }
}

impl<S, B, R> Service<Request<B>> for SyncService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<SyncBody<R>>;
    type Error = S::Error;
    type Future = SyncFuture<S::Future>;

    // A request for a room leaves the inner service ready and unused, which it must bear: readiness may be reserved and
    // then dropped.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.transport(&request) {
            None => SyncFuture::pass(self.inner.call(request)),
            Some(transport) => {
                let (head, _body) = request.into_parts();
                SyncFuture::answer(Arc::clone(&self.entrance).receive(transport, head))
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for SyncService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
