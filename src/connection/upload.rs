//! Clients of a room that has forked bring back what they have of it: all of them, and each of them everything. They are asked a few
//! at a time; the others go on receiving meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};

use super::liveness::Liveness;

/// A client that sends nothing for that long after it was asked has nothing that the room lacks: it doesn't say so.
const SILENCE: Duration = Duration::from_secs(3);

/// The others don't wait for one client for longer than this, however slowly it sends.
const LONGEST: Duration = Duration::from_secs(60);

/// A client's place among those that are asked at a time.
#[derive(Debug)]
pub(super) struct Upload {
    asked: Instant,
    _place: OwnedSemaphorePermit,
}

impl Upload {
    /// Waits for a place.
    pub(super) async fn wait(places: Arc<Semaphore>) -> Option<Self> {
        let place = places.acquire_owned().await.ok()?;
        Some(Self { asked: Instant::now(), _place: place })
    }

    /// Waits until the others need no longer wait for this client, though nothing of it was applied.
    pub(super) async fn over(&self, liveness: &Liveness) {
        let silent = async {
            loop {
                let quiet = liveness.silence().min(self.asked.elapsed());
                match SILENCE.checked_sub(quiet).filter(|left| !left.is_zero()) {
                    Some(left) => sleep(left).await,
                    None => return,
                }
            }
        };
        // Either way it is over.
        drop(timeout_at(self.asked + LONGEST, silent).await);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::connection::budget::Budget;
    use crate::connection::liveness::Watched;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_not_waited_for() {
        let places = Arc::new(Semaphore::new(1));
        let liveness = Liveness::new(Budget::new(usize::MAX));
        tokio::time::advance(Duration::from_secs(100)).await;
        let upload = Upload::wait(places.clone()).await.unwrap();
        let asked = Instant::now();
        upload.over(&liveness).await;
        assert_eq!(asked.elapsed(), SILENCE, "the silence before it was asked means nothing");
        drop(upload);
        assert_eq!(places.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_sends_slowly_is_waited_for_but_not_for_ever() {
        let (mut peer, ours) = tokio::io::duplex(64);
        let liveness = Arc::new(Liveness::new(Budget::new(usize::MAX)));
        let mut ours = Watched::new(ours, liveness.clone());
        let upload = Upload::wait(Arc::new(Semaphore::new(1))).await.unwrap();
        let asked = Instant::now();
        let trickle = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                peer.write_all(b"x").await.unwrap();
                ours.read_u8().await.unwrap();
            }
        };
        tokio::select! {
            () = trickle => unreachable!(),
            () = upload.over(&liveness) => {}
        }
        assert_eq!(asked.elapsed(), LONGEST);
    }
}
