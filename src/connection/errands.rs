//! What the inbound half of a session wants of the outbound one. A channel would do, but takes kilobytes on each connection, of which
//! most never have anything to say.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tower_sqlite_sync_wire::{Message, Position};

/// Errands that may wait for the outbound half.
const MOST: usize = 32;

/// Something for the outbound half to do.
#[derive(Debug)]
pub(super) enum Errand {
    Send(Box<Message>),
    /// The client says that it lacks what follows this position.
    Rewind(Position),
}

/// A queue between two futures of one task.
#[derive(Debug, Default)]
pub(super) struct Errands {
    queue: Mutex<VecDeque<Errand>>,
    queued: Notify,
    taken: Notify,
}

impl Errands {
    /// Queues an errand, once there is a place for it.
    pub(super) async fn push(&self, errand: Errand) {
        let mut errand = Some(errand);
        while let Some(waiting) = errand.take().and_then(|errand| self.try_push(errand)) {
            self.taken.notified().await;
            errand = Some(waiting);
        }
    }

    /// Gives it back if there is no place for it.
    fn try_push(&self, errand: Errand) -> Option<Errand> {
        let mut queue = self.locked();
        if queue.len() >= MOST {
            return Some(errand);
        }
        queue.push_back(errand);
        drop(queue);
        self.queued.notify_one();
        None
    }

    /// The next errand, if there is one.
    pub(super) fn take(&self) -> Option<Errand> {
        let mut queue = self.locked();
        let errand = queue.pop_front()?;
        if queue.is_empty() {
            *queue = VecDeque::new();
        }
        drop(queue);
        self.taken.notify_one();
        Some(errand)
    }

    /// Waits until there may be one. Cancel-safe.
    pub(super) async fn queued(&self) {
        self.queued.notified().await;
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<Errand>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn errands_come_in_order_and_so_many_at_a_time() {
        let errands = Errands::default();
        let rewind = |n: usize| Errand::Rewind(Position::at(i64::try_from(n).unwrap()));
        let pushing = async {
            for n in 0..3 * MOST {
                errands.push(rewind(n)).await;
            }
        };
        let taking = async {
            for n in 0..3 * MOST {
                let taken = loop {
                    assert!(errands.locked().len() <= MOST);
                    match errands.take() {
                        Some(taken) => break taken,
                        None => errands.queued().await,
                    }
                };
                assert!(
                    matches!(taken, Errand::Rewind(position) if position == Position::at(i64::try_from(n).unwrap()))
                );
            }
        };
        tokio::join!(pushing, taking);
        assert_eq!(errands.locked().capacity(), 0, "nothing is kept for those to come");
    }
}
