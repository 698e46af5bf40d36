//! What other processes write into a room's file, while the room is open.

use std::time::Duration;

use tokio::time::sleep;

use super::Parts;
use super::queue::WriterQueue;
use super::watcher::Watched;
use crate::error::Error;

/// The least time between two looks: our own commits are told of, too.
const INTERVAL: Duration = Duration::from_millis(20);

/// How soon, and how late, a look is repeated while another process is about to commit. What it writes is told of before the
/// commit can be seen, and the commit itself is not.
const RETRIES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// How often a file is looked into that should be watched and can't be.
const UNWATCHED: Duration = Duration::from_secs(1);

/// Has the room's writer look into the file when something may have been written.
#[derive(Debug)]
pub(super) struct Outside {
    parts: Parts,
    watched: Option<Watched>,
    poll: Option<Duration>,
    queue: WriterQueue,
}

impl Outside {
    /// `watched` is `None` if the file can't be watched, or need not.
    pub(super) fn new(
        parts: &Parts,
        watched: Option<Watched>,
        (watch, poll): (bool, Duration),
        queue: WriterQueue,
    ) -> Self {
        let fallback = (watch && watched.is_none()).then_some(UNWATCHED);
        let poll = Some(poll).filter(|poll| !poll.is_zero()).or(fallback);
        Self { parts: parts.clone(), watched, poll, queue }
    }

    /// Works until the room ends.
    pub(super) async fn run(mut self) {
        let ending = self.parts.ending.clone();
        tokio::select! {
            () = ending.wait() => {}
            () = self.look_again_and_again() => {}
        }
    }

    async fn look_again_and_again(&mut self) {
        // The first events are those of the room's being opened.
        sleep(INTERVAL).await;
        loop {
            if let Some(watched) = &mut self.watched {
                watched.events.mark_unchanged();
            }
            match self.look().await {
                Ok(()) => {}
                Err(Error::GoingAway) => return,
                Err(error) => return self.parts.ending.fail(&error),
            }
            sleep(INTERVAL).await;
            self.next().await;
        }
    }

    /// Waits for the next reason to look.
    async fn next(&mut self) {
        let told = async {
            match &mut self.watched {
                Some(watched) => watched.events.changed().await.is_ok(),
                None => false,
            }
        };
        let told = async {
            if !told.await {
                std::future::pending::<()>().await;
            }
        };
        let polled = async {
            match self.poll {
                Some(interval) => sleep(interval).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = told => {}
            () = polled => {}
        }
    }

    /// Has the writer look until there is no more to come.
    async fn look(&self) -> Result<(), Error> {
        let mut delay = RETRIES.0;
        while !self.queue.look().await? {
            sleep(delay).await;
            delay = delay.saturating_mul(2).min(RETRIES.1);
        }
        Ok(())
    }
}
