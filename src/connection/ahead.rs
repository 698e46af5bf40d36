//! Reading ahead: what a client that catches up is sent next is read while what it is sent now is on its way, by two readers side by
//! side.
//!
//! ```text
//!   sent          now         1st reading     2nd reading
//!   ─────────┬───────────┬───────────────┬───────────────┬ ─ ─ ─ ▶ db_versions
//! ```
//!
//! A frame ends where it is full, which is known when it was read. The second reading must know before where the first one ends, so
//! each has its last db_version from the outset: the one that nearly fills a frame if the changes are as dense as those before.
//! Where they are denser, a reading ends sooner, and what the one behind it has read is dropped.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;
use tower_sqlite_sync_wire::SiteId;

use super::budget::{Budget, Share};
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

    /// The part of it that nearly fills a frame, if there are as many bytes in a db_version as in those of `frame`.
    fn portion(self, frame: &Frame) -> Self {
        let versions = u128::try_from(frame.upto.saturating_sub(frame.after)).unwrap_or_default();
        let bytes = u128::try_from(frame.byte_len()).unwrap_or_default();
        let most = u128::try_from(self.max_bytes - self.max_bytes / 8).unwrap_or_default();
        let fitting = versions.saturating_mul(most).checked_div(bytes).unwrap_or(u128::MAX);
        let fitting = i64::try_from(fitting).unwrap_or(i64::MAX).max(1);
        Self { upto: self.upto.min(self.after.saturating_add(fitting)), ..self }
    }
}

/// Frames that are being read before they are needed, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Ahead<'a> {
    readings: VecDeque<Reading<'a>>,
}

#[derive(Debug)]
struct Reading<'a> {
    extract: Extract,
    frame: AbortOnDropHandle<Result<Arc<Frame>, Error>>,
    /// Its place among what is on its way to clients.
    share: Share<'a>,
}

impl<'a> Ahead<'a> {
    /// Has what follows `frame` of `extract` read in so many readings, as far as there is a place for it that others don't need.
    pub(super) fn follow<F>(
        &mut self,
        frame: &Frame,
        extract: Extract,
        readings: usize,
        sending: &'a Budget,
        read: impl Fn(Extract) -> F,
    ) where
        F: Future<Output = Result<Arc<Frame>, Error>> + Send + 'static,
    {
        if self.readings.front().is_some_and(|next| next.extract.after != frame.upto) {
            // The frame has ended sooner than was thought.
            self.readings.clear();
        }
        let mut after = self.readings.back().map_or(frame.upto, |last| last.extract.upto);
        while self.readings.len() < readings && after < extract.upto {
            let Some(share) = sending.share_of_plenty(extract.max_bytes) else { break };
            let extract = Extract { after, ..extract }.portion(frame);
            after = extract.upto;
            let frame = AbortOnDropHandle::new(tokio::spawn(read(extract)));
            self.readings.push_back(Reading { extract, frame, share });
        }
    }

    /// The next frame, if it is the one that is wanted now. Otherwise everything is dropped that was read.
    pub(super) async fn take(&mut self, wanted: Extract) -> Option<(Result<Arc<Frame>, Error>, Share<'a>)> {
        match self.readings.pop_front() {
            Some(next) if next.extract.begins(wanted) => {
                Some((next.frame.await.unwrap_or(Err(Error::GoingAway)), next.share))
            }
            _ => {
                self.readings.clear();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTRACT: Extract = Extract { after: 3, upto: 7, left_out: SiteId::from_bytes([1; 16]), max_bytes: 100 };

    #[test]
    fn what_was_read_ahead_does_if_nothing_but_the_end_has_changed() {
        let read = EXTRACT;
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

    /// Reads one byte a db_version, and two from the tenth on.
    async fn read(extract: Extract) -> Result<Arc<Frame>, Error> {
        let weight = |version: i64| if version < 10 { 1 } else { 2 };
        let (mut upto, mut bytes) = (extract.after, 0);
        while upto < extract.upto && bytes + weight(upto + 1) <= extract.max_bytes {
            upto += 1;
            bytes += weight(upto);
        }
        Ok(Arc::new(Frame::of_size(extract.after, upto, bytes)))
    }

    #[tokio::test]
    async fn all_but_the_first_frame_are_read_ahead_also_where_changes_become_denser() {
        let (budget, mut ahead, mut here, mut not_ahead) = (Budget::new(1_000), Ahead::default(), 0, Vec::new());
        while here < 60 {
            let wanted = Extract { after: here, upto: 60, max_bytes: 10, ..EXTRACT };
            let frame = match ahead.take(wanted).await {
                Some((frame, _share)) => frame.unwrap(),
                None => {
                    not_ahead.push(here);
                    read(wanted).await.unwrap()
                }
            };
            assert_eq!(frame.after, here);
            ahead.follow(&frame, wanted, 2, &budget, read);
            here = frame.upto;
        }
        assert_eq!((here, not_ahead), (60, vec![0]));
    }

    #[tokio::test]
    async fn readings_take_no_more_than_there_is_for_them_and_give_it_back() {
        let (budget, mut ahead) = (Budget::new(40), Ahead::default());
        let (wanted, frame) = (Extract { upto: 1_000, max_bytes: 10, ..EXTRACT }, Frame::of_size(0, 3, 3));
        ahead.follow(&frame, wanted, 1, &budget, read);
        assert_eq!(ahead.readings.len(), 1);
        ahead.follow(&frame, wanted, 5, &budget, read);
        assert_eq!(ahead.readings.len(), 2, "half of the budget is left to others");
        assert!(ahead.take(Extract { after: 4, ..wanted }).await.is_none());
        assert!(ahead.readings.is_empty() && budget.share(40).is_some());
    }

    #[test]
    fn a_reading_ends_where_a_frame_would_be_nearly_full() {
        let ends = |frame: Frame| Extract { after: 50, upto: 1_000, max_bytes: 80, ..EXTRACT }.portion(&frame).upto;
        assert_eq!(ends(Frame::of_size(40, 50, 20)), 50 + 35, "two bytes a version");
        assert_eq!(ends(Frame::of_size(40, 41, 500)), 51, "a version is not cut");
        assert_eq!(ends(Frame::of_size(0, 50, 1)), 1_000);
        assert_eq!(ends(Frame::of_size(0, 50, 0)), 1_000, "those may all be the client's own");
        assert_eq!(ends(Frame::of_size(0, i64::MAX, 1)), 1_000);
    }
}
