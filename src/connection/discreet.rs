//! A socket whose library keeps its log to itself.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Sink, Stream};
use tracing::dispatcher::{Dispatch, with_default};
use tracing::level_filters::LevelFilter;

/// A stream and sink of messages that logs nothing.
///
/// At its most talkative, tungstenite logs every frame in full: tokens and cells that must be in no log. Nothing that it
/// says in between is missed, because its errors are logged by whoever gets them.
#[derive(Debug)]
pub(super) struct Discreet<S> {
    socket: S,
    /// Where its log goes: nowhere.
    nowhere: Dispatch,
}

impl<S: Unpin> Discreet<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, nowhere: Dispatch::none() }
    }

    pub(super) fn into_inner(self) -> S {
        self.socket
    }

    fn quietly<T>(self: Pin<&mut Self>, work: impl FnOnce(Pin<&mut S>) -> T) -> T {
        let Self { socket, nowhere } = self.get_mut();
        // It has nothing to say above these levels, and to silence it takes longer than most that it does.
        match LevelFilter::current() < LevelFilter::DEBUG {
            true => work(Pin::new(socket)),
            false => with_default(nowhere, || work(Pin::new(socket))),
        }
    }
}

impl<S: Stream + Unpin> Stream for Discreet<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.quietly(|socket| socket.poll_next(cx))
    }
}

impl<M, S: Sink<M> + Unpin> Sink<M> for Discreet<S> {
    type Error = S::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.quietly(|socket| socket.poll_ready(cx))
    }

    fn start_send(self: Pin<&mut Self>, message: M) -> Result<(), S::Error> {
        self.quietly(|socket| socket.start_send(message))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.quietly(|socket| socket.poll_flush(cx))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.quietly(|socket| socket.poll_close(cx))
    }
}
