//! Reading ahead: what a client that catches up is sent next is read while what it is sent now is on its way.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;
use tower_sqlite_sync_wire::SiteId;

use super::budget::Share;
use crate::error::Error;
use crate::room::{Frame, Room};

/// What is read from a room's database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extract {
    pub(super) after: i64,
    /// The last db_version that may be read: another reading may be asked for more.
    pub(super) upto: i64,
    pub(super) left_out: SiteId,
    pub(super) max_bytes: usize,
}

impl Extract {
    pub(super) async fn read(self, room: &Room) -> Result<Arc<Frame>, Error> {
        room.read_frame(self.after, self.upto, Some(self.left_out), self.max_bytes).await
    }

    /// Whether what is read for this one does for the other: it may end sooner.
    fn begins(self, other: Self) -> bool {
        self.upto <= other.upto && Self { upto: other.upto, ..self } == other
    }
}

/// A frame that is being read before it is needed.
#[derive(Debug)]
pub(super) struct Ahead<'a> {
    extract: Extract,
    reading: AbortOnDropHandle<Result<Arc<Frame>, Error>>,
    /// Its place among what is on its way to clients.
    share: Share<'a>,
}

impl<'a> Ahead<'a> {
    pub(super) fn begin(room: &Arc<Room>, extract: Extract, share: Share<'a>) -> Self {
        let room = room.clone();
        let reading = AbortOnDropHandle::new(tokio::spawn(async move { extract.read(&room).await }));
        Self { extract, reading, share }
    }

    /// The frame, if it is the one that is wanted now.
    pub(super) async fn take(self, wanted: Extract) -> Option<(Result<Arc<Frame>, Error>, Share<'a>)> {
        if !self.extract.begins(wanted) {
            return None;
        }
        Some((self.reading.await.unwrap_or(Err(Error::GoingAway)), self.share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_ahead_does_if_nothing_but_the_end_has_changed() {
        let read = Extract { after: 3, upto: 7, left_out: SiteId::from_bytes([1; 16]), max_bytes: 100 };
        assert!(read.begins(read) && read.begins(Extract { upto: 9, ..read }));
        for other in [
            Extract { after: 4, ..read },
            Extract { upto: 6, ..read },
            Extract { left_out: SiteId::from_bytes([2; 16]), ..read },
            Extract { max_bytes: 50, ..read },
        ] {
            assert!(!read.begins(other));
        }
    }
}
