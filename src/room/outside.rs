//! What other processes write into a room's file, while the room is open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::watcher::Watched;
use super::writer::WriterQueue;
use super::{Ending, RoomName};
use crate::error::Error;

/// The least time between two looks: our own commits are told of, too.
const INTERVAL: Duration = Duration::from_millis(20);

/// How soon a look is repeated that could not be finished, because another process held a lock.
const RETRY: Duration = Duration::from_millis(100);

/// How often a file is looked into that should be watched and can't be.
const UNWATCHED: Duration = Duration::from_secs(1);

/// Has the room's writer look into the file when something may have been written.
#[derive(Debug)]
pub(super) struct Outside {
    room: RoomName,
    path: PathBuf,
    /// Which file it was when the room was opened.
    identity: Option<Identity>,
    watched: Option<Watched>,
    poll: Option<Duration>,
    queue: WriterQueue,
    ending: Arc<Ending>,
}

impl Outside {
    /// `watched` is `None` if the file can't be watched, or need not.
    pub(super) fn new(
        room: &RoomName,
        path: PathBuf,
        watched: Option<Watched>,
        (watch, poll): (bool, Duration),
        queue: WriterQueue,
        ending: Arc<Ending>,
    ) -> Self {
        let fallback = (watch && watched.is_none()).then_some(UNWATCHED);
        let poll = Some(poll).filter(|poll| !poll.is_zero()).or(fallback);
        Self { room: room.clone(), identity: Identity::of(&path).ok(), path, watched, poll, queue, ending }
    }

    /// Works until the room ends.
    pub(super) async fn run(mut self) {
        let ending = self.ending.clone();
        tokio::select! {
            () = ending.wait() => {}
            () = self.look_again_and_again() => {}
        }
    }

    async fn look_again_and_again(&mut self) {
        // At once: what was committed between opening the room and watching its file, nothing tells of.
        loop {
            if let Err(error) = self.check().await {
                return self.ending.fail(&error);
            }
            loop {
                match self.queue.look().await {
                    Ok(true) => break,
                    Ok(false) => sleep(RETRY).await,
                    Err(Error::GoingAway) => return,
                    Err(error) => return self.ending.fail(&error),
                }
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

    /// Whether the file is still the one that was opened: what is written into another one, nobody would find.
    async fn check(&self) -> Result<(), Error> {
        let path = self.path.clone();
        let identity = tokio::task::spawn_blocking(move || Identity::of(&path).ok()).await;
        match identity {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) => Err(Error::FileReplaced { room: self.room.clone() }),
            Err(_) => Err(Error::GoingAway),
        }
    }
}

/// What tells a file from another one at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64);

impl Identity {
    #[cfg(unix)]
    fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        path.metadata().map(|metadata| Self(metadata.dev(), metadata.ino()))
    }

    /// Elsewhere, an open file can't be replaced.
    #[cfg(not(unix))]
    fn of(path: &Path) -> std::io::Result<Self> {
        path.metadata().map(|_| Self(0, 0))
    }
}
