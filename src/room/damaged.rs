//! Rooms that ended because their file is damaged: they are not opened again before the file is sound.
//!
//! A damaged file opens as long as nobody meets the damaged page, and everything that is written into it may make it worse. So the
//! next open reads all of it. Once it is sound, it is another one than clients knew, a backup or what was recovered, and forks.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::RoomName;

/// Rooms that are remembered.
const MAX_ROOMS: usize = 1_000;

/// How long after a check the file is not checked again: at least this,
const LEAST: Duration = Duration::from_millis(500);

/// and so many times as long as the check took. Clients that are refused come back within seconds.
const SHARE: u32 = 10;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Damaged {
    /// With the time before which they aren't checked again.
    rooms: Mutex<HashMap<RoomName, Instant>>,
}

impl Damaged {
    /// Remembers a room. If there are too many, one is forgotten that was to be checked anyway.
    pub(super) fn remember(&self, room: &RoomName) {
        let mut rooms = self.locked();
        if rooms.len() >= MAX_ROOMS
            && let Some(oldest) = rooms.iter().min_by_key(|(_, from)| **from).map(|(room, _)| room.clone())
        {
            rooms.remove(&oldest);
        }
        rooms.insert(room.clone(), Instant::now());
    }

    /// Whether a room is remembered, and if so, whether it may be checked now.
    pub(super) fn may_check(&self, room: &RoomName) -> Option<bool> {
        self.locked().get(room).map(|from| *from <= Instant::now())
    }

    /// A check that took so long found that the file is still damaged.
    pub(super) fn checked(&self, room: &RoomName, took: Duration) {
        if let Some(from) = self.locked().get_mut(room) {
            *from = Instant::now() + took.saturating_mul(SHARE).max(LEAST);
        }
    }

    /// Forgets a room: its file is sound.
    pub(super) fn forget(&self, room: &RoomName) {
        self.locked().remove(room);
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<RoomName, Instant>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_file_that_was_found_damaged_is_not_checked_again_for_ten_times_as_long() {
        let (damaged, room) = (Damaged::default(), RoomName::parse("r").unwrap());
        assert_eq!(damaged.may_check(&room), None);
        damaged.remember(&room);
        assert_eq!(damaged.may_check(&room), Some(true));
        damaged.checked(&room, Duration::from_secs(1));
        assert_eq!(damaged.may_check(&room), Some(false));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(damaged.may_check(&room), Some(true));
        damaged.forget(&room);
        assert_eq!(damaged.may_check(&room), None);
    }

    #[test]
    fn no_more_rooms_are_remembered_than_the_bound() {
        let damaged = Damaged::default();
        for n in 0..MAX_ROOMS + 5 {
            damaged.remember(&RoomName::parse(&format!("r{n}")).unwrap());
        }
        assert_eq!(damaged.locked().len(), MAX_ROOMS);
    }
}
