//! The order in which requests about one room are begun.
//!
//! Each request is worked on in a task of its own, so a later one could overtake an earlier one before either is in the room's queue.
//! Changesets of one client build on each other: the one that came first would then look like a gap.

use std::collections::HashMap;

use tokio::sync::oneshot;

/// Who was the last to come, for each room. One connection has one of these.
#[derive(Debug, Default)]
pub(super) struct Turns {
    last: HashMap<String, oneshot::Receiver<Never>>,
}

/// A request that has lined up.
#[derive(Debug)]
pub(super) struct Waiting {
    before: Option<oneshot::Receiver<Never>>,
    turn: Turn,
}

/// Held while a request is being begun. When it is dropped, the next one about the same room may begin.
#[derive(Debug)]
pub(crate) struct Turn {
    _next: oneshot::Sender<Never>,
}

/// What is never said: that a turn is over is told by its being dropped.
#[derive(Debug)]
enum Never {}

impl Turns {
    /// Behind all that came for the same room.
    pub(super) fn line_up(&mut self, room: &str) -> Waiting {
        let (next, over) = oneshot::channel();
        let before = self.last.insert(room.to_owned(), over);
        Waiting { before, turn: Turn { _next: next } }
    }

    /// Forgets rooms in which nobody waits. To be called now and then.
    pub(super) fn tidy(&mut self) {
        self.last.retain(|_, over| matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
    }
}

impl Waiting {
    /// Waits until the one before has begun, or was given up.
    pub(super) async fn turn(self) -> Turn {
        if let Some(before) = self.before {
            drop(before.await);
        }
        self.turn
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn requests_about_a_room_begin_in_the_order_in_which_they_came() {
        let mut turns = Turns::default();
        let [first, second, third] = std::array::from_fn(|_| turns.line_up("a"));
        let other = turns.line_up("b");
        let mut third = std::pin::pin!(third.turn());
        assert!(third.as_mut().now_or_never().is_none());
        let first = first.turn().await;
        let mut second = Box::pin(second.turn());
        assert!(second.as_mut().now_or_never().is_none());
        other.turn().await;
        drop(first);
        let second = second.await;
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        third.await;
    }

    #[tokio::test]
    async fn one_that_is_given_up_holds_nobody_up() {
        let mut turns = Turns::default();
        let [first, second] = std::array::from_fn(|_| turns.line_up("a"));
        drop(first);
        second.turn().await;
    }

    #[tokio::test]
    async fn rooms_in_which_nobody_waits_are_forgotten() {
        let mut turns = Turns::default();
        let busy = turns.line_up("busy");
        drop(turns.line_up("idle"));
        turns.tidy();
        assert_eq!(turns.last.keys().collect::<Vec<_>>(), ["busy"]);
        drop(busy);
        turns.tidy();
        assert!(turns.last.is_empty());
    }
}
