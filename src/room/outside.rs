//! What other processes write into a room's file, while the room is open.

use std::time::Duration;

use tokio::time::sleep;

use super::Parts;
use super::queue::{Sighting, WriterQueue};
use super::watcher::Watched;
use crate::error::Error;

/// The least time between two looks, while other processes write.
const SHORTEST: Duration = Duration::from_millis(20);

/// The most, while only our own commits are told of. What others write between two looks, the next of ours finds, too. It is also the
/// time from opening a room, which has looked at everything, to its first look: mostly, what it is told of until then is its being opened
/// and its first commits.
const LONGEST: Duration = Duration::from_millis(160);

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
        let (mut pace, mut reason) = (Pace(SHORTEST), Reason::Time);
        sleep(LONGEST).await;
        loop {
            if let Some(watched) = &mut self.watched {
                watched.events.mark_unchanged();
            }
            match self.look().await {
                Ok(found) => pace.found(found, reason),
                Err(Error::GoingAway) => return,
                Err(error) => return self.parts.ending.fail(&error),
            }
            sleep(pace.0).await;
            reason = self.next().await;
        }
    }

    /// Waits for the next reason to look.
    async fn next(&mut self) -> Reason {
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
            () = told => Reason::Told,
            () = polled => Reason::Time,
        }
    }

    /// Has the writer look until there is no more to come.
    async fn look(&self) -> Result<Sighting, Error> {
        let mut delay = RETRIES.0;
        let mut has_waited = false;
        loop {
            match self.queue.look().await? {
                Sighting::Unfinished => has_waited = true,
                // Whoever was about to commit may have rolled back. But it is at work.
                _ if has_waited => return Ok(Sighting::News),
                found => return Ok(found),
            }
            sleep(delay).await;
            delay = delay.saturating_mul(2).min(RETRIES.1);
        }
    }
}

/// Why to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Something was written, if only by us.
    Told,
    /// It is time to.
    Time,
}

/// The least time from one look to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace(Duration);

impl Pace {
    /// Adapts to what the last look has found. If it was only time to look, nothing is the usual.
    fn found(&mut self, found: Sighting, reason: Reason) {
        self.0 = match (found, reason) {
            (Sighting::Nothing, Reason::Told) => self.0.saturating_mul(2).min(LONGEST),
            (Sighting::Nothing, Reason::Time) => self.0,
            (Sighting::News | Sighting::Unfinished, _) => SHORTEST,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_told_of_nothing_but_its_own_commits_looks_less_often() {
        let mut pace = Pace(SHORTEST);
        for expected in [40, 80, 160, 160] {
            pace.found(Sighting::Nothing, Reason::Told);
            assert_eq!(pace.0, Duration::from_millis(expected));
        }
        pace.found(Sighting::News, Reason::Told);
        assert_eq!(pace.0, SHORTEST);
        pace.found(Sighting::Nothing, Reason::Time);
        assert_eq!(pace.0, SHORTEST, "who polls does so as often as it is told to");
    }
}
