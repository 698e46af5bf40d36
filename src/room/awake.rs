//! Which rooms' databases stay open while nothing happens in them.
//!
//! An open database takes some 200 KiB and three file descriptors; a room whose clients are quiet needs neither. So only those that had
//! work last stay awake. Of the others the databases are closed until there is work, which then takes a millisecond or two longer.
//!
//! How many stay awake is no fixed number: who is woken soon should not have been sent to sleep. Each that is makes it one more, and as long
//! as none is, it falls again to what is [set](crate::SyncConfig::with_awake_rooms). If that is none, it stays so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Who is woken sooner should have stayed awake.
const GOOD_SLEEP: Duration = Duration::from_secs(10);

/// Which part is taken back at a time, of what was too many.
const SETTLING: usize = 4;

/// The rooms of a layer that are awake without work.
#[derive(Debug)]
pub(crate) struct Awake {
    at_least: usize,
    rooms: Mutex<Rooms>,
}

#[derive(Debug)]
struct Rooms {
    most: usize,
    /// When `most` was last changed.
    changed: Instant,
    /// By when their work ended.
    idle: BTreeMap<u64, oneshot::Sender<()>>,
    next: u64,
}

impl Rooms {
    /// Takes back a part of what `most` is above `at_least`, if nobody was woken soon for a while.
    fn settle(&mut self, at_least: usize, now: Instant) {
        if self.most > at_least && now.duration_since(self.changed) > GOOD_SLEEP {
            self.most -= (self.most - at_least).div_ceil(SETTLING);
            self.changed = now;
        }
    }
}

/// A room's place among those that are awake without work.
#[derive(Debug)]
pub(super) struct Idle {
    awake: Arc<Awake>,
    number: u64,
    told: oneshot::Receiver<()>,
}

impl Awake {
    /// At least so many stay awake.
    pub(super) fn new(at_least: usize) -> Self {
        let rooms = Rooms { most: at_least, changed: Instant::now(), idle: BTreeMap::new(), next: 0 };
        Self { at_least, rooms: Mutex::new(rooms) }
    }

    /// A room has no more work. If too many have none, the one that has had none for longest is told to sleep.
    pub(super) fn idle(self: &Arc<Self>) -> Idle {
        let (tell, told) = oneshot::channel();
        let mut rooms = self.locked();
        rooms.settle(self.at_least, Instant::now());
        let number = rooms.next;
        rooms.next += 1;
        rooms.idle.insert(number, tell);
        while rooms.idle.len() > rooms.most
            && let Some((_, tell)) = rooms.idle.pop_first()
        {
            // If nobody hears it, the room has just been given work.
            tell.send(()).unwrap_or_default();
        }
        drop(rooms);
        Idle { awake: self.clone(), number, told }
    }

    /// There is work for a room that slept for so long.
    pub(super) fn woken(&self, slept: Duration) {
        if self.at_least > 0 && slept < GOOD_SLEEP {
            let mut rooms = self.locked();
            rooms.most = rooms.most.saturating_add(1);
            rooms.changed = Instant::now();
        }
    }

    fn locked(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// Waits until the room is told to sleep.
    pub(super) async fn told_to_sleep(&mut self) {
        if (&mut self.told).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.awake.locked().idle.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_told(idle: &mut Idle) -> bool {
        idle.told_to_sleep().now_or_never().is_some()
    }

    #[test]
    fn the_rooms_whose_work_ended_first_are_told_to_sleep() {
        let awake = Arc::new(Awake::new(2));
        let [mut a, mut b, mut c] = [(); 3].map(|()| awake.idle());
        assert_eq!([&mut a, &mut b, &mut c].map(is_told), [true, false, false]);
        // It has work again, and no more of it.
        drop(b);
        let mut b = awake.idle();
        assert_eq!([&mut b, &mut c].map(is_told), [false, false]);
        let mut d = awake.idle();
        assert_eq!([&mut b, &mut c, &mut d].map(is_told), [false, true, false]);
    }

    #[test]
    fn rooms_that_have_work_are_not_counted() {
        let awake = Arc::new(Awake::new(1));
        for _ in 0..5 {
            let mut idle = awake.idle();
            assert!(!is_told(&mut idle));
        }
        assert!(awake.locked().idle.is_empty());
    }

    #[test]
    fn who_is_woken_soon_makes_more_stay_awake_for_a_while() {
        let most = |at_least, slept: &[u64], settled: u32| {
            let awake = Awake::new(at_least);
            slept.iter().for_each(|seconds| awake.woken(Duration::from_secs(*seconds)));
            let mut rooms = awake.locked();
            let begun = rooms.changed;
            for n in 1..=settled {
                rooms.settle(at_least, begun + (GOOD_SLEEP + Duration::from_secs(1)) * n);
            }
            rooms.most
        };
        assert_eq!([most(2, &[], 0), most(2, &[1, 9], 0), most(2, &[1, 9, 10], 0)], [2, 4, 4]);
        assert_eq!([most(2, &[1; 20], 1), most(2, &[1; 20], 2), most(2, &[1; 20], 20)], [17, 13, 2]);
        assert_eq!(most(0, &[1, 1], 0), 0);
    }
}
