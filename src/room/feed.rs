//! A room's stream of committed changes: read once and encoded once for all its connections.
//!
//! ```text
//!            window: encoded frames                not encoded yet
//!   ───────┬────────┬────────┬────────┬ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┐
//!        start    frame    frame     head                    now
//! ```
//!
//! Connections pull. One that has read up to `head` while `now` is ahead encodes the next frame for everybody; one that has
//! fallen behind `start` reads the database for itself until it has caught up. So there is no backlog a connection, and a slow
//! one costs nothing but its own reads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::frame::Frame;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Feed {
    window: Mutex<Window>,
    now: watch::Sender<i64>,
    /// Held while a frame is being encoded, so that it is encoded once.
    encoding: tokio::sync::Mutex<()>,
    max_bytes: usize,
}

#[derive(Debug)]
struct Window {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    head: i64,
}

/// What a connection that has read up to some db_version finds.
#[derive(Debug)]
pub(crate) enum Pull {
    /// There is nothing newer.
    UpToDate,
    /// The next frames, one behind the other: at least one, and together no more than was asked for.
    Frames(Vec<Arc<Frame>>),
    /// What follows is committed but not encoded yet: [`Feed::encode`] it.
    Unencoded,
    /// What follows has left the window, or never was in it: read the database up to here.
    Behind(i64),
}

impl Feed {
    /// A feed of a room whose database ends at `now`; its window may hold `max_bytes` of encoded changes.
    pub(crate) fn new(now: i64, max_bytes: usize) -> Self {
        let window = Window { frames: VecDeque::new(), bytes: 0, head: now };
        Self {
            window: Mutex::new(window),
            now: watch::Sender::new(now),
            encoding: tokio::sync::Mutex::new(()),
            max_bytes,
        }
    }

    /// The db_version up to which changes are durable and may be shown.
    pub(crate) fn now(&self) -> i64 {
        *self.now.borrow()
    }

    /// Wakes whenever [`now`](Self::now) grows.
    pub(crate) fn subscribe(&self) -> watch::Receiver<i64> {
        self.now.subscribe()
    }

    /// Says that everything up to `now` is durable.
    pub(crate) fn advance(&self, now: i64) {
        self.now.send_if_modified(|current| {
            let newer = now > *current;
            *current = (*current).max(now);
            newer
        });
    }

    /// Adds a frame and says that everything up to its end is durable. A frame that doesn't continue the window is dropped: what
    /// lies between is encoded when somebody asks for it.
    pub(crate) fn publish(&self, frame: Frame) {
        let upto = frame.upto;
        self.append(Arc::new(frame));
        self.advance(upto);
    }

    /// Forgets all frames, because they no longer fit the schema, and says that everything up to `now` is durable. A frame that is
    /// being encoded meanwhile continues the old window, and is dropped.
    pub(crate) fn restart(&self, now: i64) {
        let mut window = self.locked();
        *window = Window { frames: VecDeque::new(), bytes: 0, head: now };
        drop(window);
        self.advance(now);
    }

    /// The db_version up to which frames are encoded.
    pub(crate) fn head(&self) -> i64 {
        self.locked().head
    }

    /// What follows db_version `read`, in about `max_bytes`.
    pub(crate) fn pull(&self, read: i64, max_bytes: usize) -> Pull {
        let now = self.now();
        if read >= now {
            return Pull::UpToDate;
        }
        let window = self.locked();
        if read == window.head {
            return Pull::Unencoded;
        }
        let next = window.frames.partition_point(|frame| frame.after < read);
        let mut bytes = 0;
        let fits = |frame: &&Arc<Frame>| {
            let first = bytes == 0;
            bytes += frame.byte_len();
            first || bytes <= max_bytes
        };
        let frames: Vec<Arc<Frame>> = window.frames.iter().skip(next).take_while(fits).cloned().collect();
        match frames.first() {
            Some(frame) if frame.after == read => Pull::Frames(frames),
            // Between two borders, or before the window: the end of the window is a border to come back at.
            _ => Pull::Behind(if window.head > read { window.head } else { now }),
        }
    }

    /// Encodes what follows `head` with `read(head, now)`, unless somebody else has just done so.
    pub(crate) async fn encode<E>(
        &self,
        head: i64,
        read: impl AsyncFnOnce(i64, i64) -> Result<Arc<Frame>, E>,
    ) -> Result<(), E> {
        let _alone = self.encoding.lock().await;
        if self.head() != head {
            return Ok(());
        }
        let frame = read(head, self.now()).await?;
        self.append(frame);
        Ok(())
    }

    fn append(&self, frame: Arc<Frame>) {
        let mut window = self.locked();
        if frame.after != window.head {
            return;
        }
        window.head = frame.upto;
        window.bytes += frame.footprint();
        window.frames.push_back(frame);
        while window.bytes > self.max_bytes {
            let Some(oldest) = window.frames.pop_front() else { break };
            window.bytes -= oldest.footprint();
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(after: i64, upto: i64) -> Frame {
        let bytes = usize::try_from(upto - after).unwrap();
        Frame::of_size(after, upto, bytes)
    }

    fn bounds(pull: Pull) -> Vec<(i64, i64)> {
        match pull {
            Pull::Frames(frames) => frames.iter().map(|frame| (frame.after, frame.upto)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_published_frame_is_pulled_by_whoever_has_read_up_to_it() {
        let feed = Feed::new(10, 1000);
        assert!(matches!(feed.pull(10, 100), Pull::UpToDate));
        feed.publish(frame(10, 12));
        feed.publish(frame(12, 13));
        assert_eq!(bounds(feed.pull(10, 100)), [(10, 12), (12, 13)]);
        assert_eq!(bounds(feed.pull(12, 100)), [(12, 13)]);
        assert!(matches!(feed.pull(13, 100), Pull::UpToDate));
    }

    #[test]
    fn what_was_published_meanwhile_is_pulled_together_up_to_a_bound() {
        let feed = Feed::new(10, 1000);
        feed.publish(frame(10, 12));
        feed.publish(frame(12, 15));
        feed.publish(frame(15, 16));
        assert_eq!(bounds(feed.pull(10, 5)), [(10, 12), (12, 15)]);
        assert_eq!(bounds(feed.pull(10, 1)), [(10, 12)], "a frame that is too large alone is not cut");
    }

    #[test]
    fn whoever_is_between_borders_or_behind_the_window_reads_the_database_up_to_its_end() {
        let feed = Feed::new(10, frame(10, 14).footprint());
        feed.publish(frame(10, 14));
        assert!(matches!(feed.pull(12, 100), Pull::Behind(14)));
        feed.publish(frame(14, 18));
        assert!(matches!(feed.pull(10, 100), Pull::Behind(18)), "the first frame has left the window");
        assert_eq!(bounds(feed.pull(14, 100)), [(14, 18)]);
        assert!(matches!(feed.pull(0, 100), Pull::Behind(18)));
    }

    #[tokio::test]
    async fn what_was_only_announced_is_encoded_once() {
        let feed = Feed::new(10, 1000);
        feed.advance(30);
        assert!(matches!(feed.pull(10, 100), Pull::Unencoded));
        let read = async |head, now| Ok::<_, ()>(Arc::new(frame(head, (head + 8).min(now))));
        feed.encode(10, read).await.unwrap();
        feed.encode(10, async |_, _| -> Result<Arc<Frame>, ()> { panic!("encoded twice") }).await.unwrap();
        assert_eq!(bounds(feed.pull(10, 100)), [(10, 18)]);
        assert!(matches!(feed.pull(18, 100), Pull::Unencoded));
    }

    #[test]
    fn a_frame_that_leaves_a_hole_is_not_taken() {
        let feed = Feed::new(10, 1000);
        feed.advance(20);
        feed.publish(frame(20, 21));
        assert_eq!(feed.now(), 21);
        assert!(matches!(feed.pull(10, 100), Pull::Unencoded), "what lies between must be encoded first");
        assert!(matches!(feed.pull(20, 100), Pull::Behind(21)));
    }

    #[tokio::test]
    async fn frames_of_before_a_restart_are_not_shown_after_it() {
        let feed = Feed::new(10, 1000);
        feed.publish(frame(10, 12));
        feed.advance(15);
        let read = async |head, now| {
            feed.restart(15);
            Ok::<_, ()>(Arc::new(frame(head, now)))
        };
        feed.encode(12, read).await.unwrap();
        assert!(matches!(feed.pull(10, 100), Pull::Behind(15)));
        assert!(matches!(feed.pull(12, 100), Pull::Behind(15)));
        feed.publish(frame(15, 16));
        assert_eq!(bounds(feed.pull(15, 100)), [(15, 16)]);
    }

    #[test]
    fn now_never_goes_back() {
        let feed = Feed::new(10, 1000);
        let mut changes = feed.subscribe();
        feed.advance(9);
        assert_eq!(feed.now(), 10);
        assert!(!changes.has_changed().unwrap());
        feed.advance(11);
        assert_eq!(*changes.borrow_and_update(), 11);
    }
}
