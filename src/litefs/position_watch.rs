//! Which open rooms of a replica have moved: their position files, polled together.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::position::{self, POLL_INTERVAL, Position};
use crate::room::RoomName;

/// Wakes those who follow a room when LiteFS has brought something new of it. Rooms that nobody follows are not looked at.
#[derive(Debug)]
pub(crate) struct PositionWatch {
    followed: Arc<Followed>,
    _polling: AbortOnDropHandle<()>,
}

impl PositionWatch {
    /// Follows rooms in `folder` from now on, in a task of its own.
    pub(crate) fn start(folder: impl Into<PathBuf>) -> Self {
        let followed = Arc::new(Followed::default());
        let polling = AbortOnDropHandle::new(tokio::spawn(poll(folder.into(), followed.clone())));
        Self { followed, _polling: polling }
    }

    /// Every position of `room`, as long as the receiver lives. At first it is `None`, as for a room that isn't here yet.
    ///
    /// A position that went back is a change too: LiteFS then has replaced the file by another primary's.
    pub(crate) fn follow(&self, room: &RoomName) -> watch::Receiver<Option<Position>> {
        let receiver = self.followed.rooms().entry(room.clone()).or_default().subscribe();
        self.followed.more.notify_one();
        receiver
    }
}

#[derive(Debug, Default)]
struct Followed {
    rooms: Mutex<HashMap<RoomName, watch::Sender<Option<Position>>>>,
    more: Notify,
}

impl Followed {
    fn rooms(&self) -> MutexGuard<'_, HashMap<RoomName, watch::Sender<Option<Position>>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rooms that somebody still follows.
    fn names(&self) -> Vec<RoomName> {
        let mut rooms = self.rooms();
        rooms.retain(|_, position| position.receiver_count() > 0);
        rooms.keys().cloned().collect()
    }

    fn publish(&self, positions: Vec<(RoomName, Position)>) {
        let rooms = self.rooms();
        for (room, position) in positions {
            if let Some(followed) = rooms.get(&room) {
                followed.send_if_modified(|current| current.replace(position) != Some(position));
            }
        }
    }
}

async fn poll(folder: PathBuf, followed: Arc<Followed>) {
    loop {
        let rooms = followed.names();
        if rooms.is_empty() {
            followed.more.notified().await;
            continue;
        }
        let folder = folder.clone();
        // One hop to a blocking thread for all rooms.
        if let Ok(positions) = tokio::task::spawn_blocking(move || read_all(&folder, rooms)).await {
            followed.publish(positions);
        }
        // A new room doesn't wait for the others' turn.
        drop(tokio::time::timeout(POLL_INTERVAL, followed.more.notified()).await);
    }
}

/// The positions of those of `rooms` that have one. What can't be read is no position now; whoever opens the room is told why.
fn read_all(folder: &Path, rooms: Vec<RoomName>) -> Vec<(RoomName, Position)> {
    let read = |room: RoomName| match position::read_file(&position::path(folder, &room)) {
        Ok(position) => Some((room, position?)),
        Err(error) => {
            tracing::debug!(%room, %error, "the room's position can't be read");
            None
        }
    };
    rooms.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::litefs::position::TxId;

    fn room(name: &str) -> RoomName {
        RoomName::parse(name).unwrap()
    }

    fn write(folder: &TempDir, room: &str, txid: u64) {
        let file = folder.path().join(format!("{room}-pos"));
        fs::write(folder.path().join("new"), format!("{txid:016x}/0")).unwrap();
        fs::rename(folder.path().join("new"), file).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_wakes_its_followers_whenever_its_position_changes() {
        let folder = TempDir::new().unwrap();
        let watch = PositionWatch::start(folder.path());
        let (mut a, mut b) = (watch.follow(&room("a")), watch.follow(&room("b")));
        write(&folder, "a", 1);
        for next in [2, 3, 1] {
            a.changed().await.unwrap();
            a.borrow_and_update();
            write(&folder, "a", next);
            a.wait_for(|position| position.is_some_and(|position| position.txid == TxId(next))).await.unwrap();
            write(&folder, "a", next + 10);
        }
        assert!(!b.has_changed().unwrap(), "a room that stands still wakes nobody");
        fs::write(folder.path().join("b-pos"), "broken").unwrap();
        a.changed().await.unwrap();
        write(&folder, "b", 7);
        b.changed().await.unwrap();
        assert_eq!(b.borrow().map(|position| position.txid), Some(TxId(7)), "it can be read again after it could not");
    }

    #[tokio::test(start_paused = true)]
    async fn another_transaction_of_the_same_number_is_a_change() {
        let folder = TempDir::new().unwrap();
        write(&folder, "a", 1);
        let watch = PositionWatch::start(folder.path());
        let mut a = watch.follow(&room("a"));
        a.changed().await.unwrap();
        fs::write(folder.path().join("new"), format!("{:016x}/1", 1)).unwrap();
        fs::rename(folder.path().join("new"), folder.path().join("a-pos")).unwrap();
        a.changed().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_that_nobody_follows_any_more_is_forgotten() {
        let folder = TempDir::new().unwrap();
        write(&folder, "a", 1);
        write(&folder, "b", 1);
        let watch = PositionWatch::start(folder.path());
        let (a, mut b) = (watch.follow(&room("a")), watch.follow(&room("b")));
        drop(a);
        b.changed().await.unwrap();
        assert_eq!(watch.followed.names(), [room("b")]);
    }
}
