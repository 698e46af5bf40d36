//! Rooms that are closed, and whose file was replaced or went back in time while they were open: the next open forks them.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::RoomName;

/// Rooms that are remembered.
const MAX_ROOMS: usize = 10_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    rooms: Mutex<HashSet<RoomName>>,
}

impl Replaced {
    /// Remembers a room until it is [forgotten](Self::forget). False if there are too many.
    pub(super) fn remember(&self, room: &RoomName) -> bool {
        let mut rooms = self.locked();
        let is_remembered = rooms.len() < MAX_ROOMS || rooms.contains(room);
        if is_remembered {
            rooms.insert(room.clone());
        }
        is_remembered
    }

    /// Whether a room is remembered.
    pub(super) fn includes(&self, room: &RoomName) -> bool {
        self.locked().contains(room)
    }

    /// Forgets a room: it has been forked, or its file is new.
    pub(super) fn forget(&self, room: &RoomName) {
        self.locked().remove(room);
    }

    /// Forgets all rooms, and says which they were.
    pub(super) fn take(&self) -> HashSet<RoomName> {
        std::mem::take(&mut self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, HashSet<RoomName>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_remembered_until_it_is_forgotten_and_not_too_many_are() {
        let (replaced, room) = (Replaced::default(), |n: usize| RoomName::parse(&format!("r{n}")).unwrap());
        assert!((0..MAX_ROOMS).all(|n| replaced.remember(&room(n))));
        assert!(!replaced.remember(&room(MAX_ROOMS)));
        assert!(replaced.remember(&room(1)), "again");
        assert!(replaced.includes(&room(1)) && !replaced.includes(&room(MAX_ROOMS)));
        replaced.forget(&room(1));
        assert!(!replaced.includes(&room(1)) && replaced.remember(&room(MAX_ROOMS)));
        assert_eq!(replaced.take().len(), MAX_ROOMS);
        assert!(!replaced.includes(&room(2)));
    }
}
