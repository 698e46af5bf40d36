//! Frames that are larger than they should be, because a single db_version is: held once for all who are being sent them.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::frame::Frame;

/// The large frames that connections hold now. Each reads for itself, since it leaves out what its own site wrote; but most find
/// the same, and those that read slowly would hold a copy each.
#[derive(Debug, Default)]
pub(super) struct LargeFrames(Mutex<Vec<Weak<Frame>>>);

impl LargeFrames {
    /// This frame, with the changes of one that somebody holds already, if they are the same.
    pub(super) fn share(&self, frame: Frame) -> Arc<Frame> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|other| other.strong_count() > 0);
        for other in held.iter().filter_map(Weak::upgrade) {
            if *other == frame {
                return other;
            }
            if let Some(sharing) = frame.sharing(&other) {
                return Self::hold(&mut held, sharing);
            }
        }
        Self::hold(&mut held, frame)
    }

    fn hold(held: &mut Vec<Weak<Frame>>, frame: Frame) -> Arc<Frame> {
        let frame = Arc::new(frame);
        held.push(Arc::downgrade(&frame));
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_the_same_holds_the_same() {
        let large = LargeFrames::default();
        let first = large.share(Frame::of_size(1, 2, 100));
        assert!(Arc::ptr_eq(&first, &large.share(Frame::of_size(1, 2, 100))));
        assert!(!Arc::ptr_eq(&first, &large.share(Frame::of_size(1, 3, 100))));
        let from_elsewhere = large.share(Frame::of_size(0, 2, 100));
        assert_eq!(from_elsewhere.after, 0);
        assert!(from_elsewhere.shares_with(&first), "wherever it begins");
        drop(first);
        let again = large.share(Frame::of_size(1, 2, 100));
        assert_eq!(Arc::strong_count(&again), 1, "nobody but its users holds a frame");
    }
}
