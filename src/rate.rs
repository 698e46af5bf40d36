//! How often something may happen: a token bucket.
//!
//! It is written down as one moment (the "generic cell rate algorithm"), so that nothing has to refill it. That is little enough to
//! have here: the crates for it keep clocks of their own, which tests can't stop.

use std::time::Duration;

use tokio::time::Instant;

/// A number of events a second, and how many may come at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    interval: Duration,
    burst: Duration,
}

/// When events of one source came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// By then all of them would have come at the allowed rate. In the past, it means nothing.
    even: Instant,
}

impl Rate {
    /// So many events a second, but no fewer than one, and as many at once as come in `burst` seconds.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, burst: interval.saturating_mul(per_second.max(1).saturating_mul(burst)) }
    }
}

impl Bucket {
    /// Nothing has happened yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { even: now }
    }

    /// How long an event has to wait, if it were to come now.
    pub(crate) fn wait(&self, rate: Rate, now: Instant) -> Duration {
        (self.even.max(now) + rate.interval).saturating_duration_since(now + rate.burst)
    }

    /// Counts an event.
    pub(crate) fn count(&mut self, rate: Rate, now: Instant) {
        self.even = self.even.max(now) + rate.interval;
    }

    /// Whether it is as if nothing had ever happened.
    pub(crate) fn is_even(&self, now: Instant) -> bool {
        self.even <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_may_come_at_once_and_then_one_an_interval() {
        let rate = Rate::new(4, 2);
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        for _ in 0..8 {
            assert_eq!(bucket.wait(rate, now), Duration::ZERO);
            bucket.count(rate, now);
        }
        assert_eq!(bucket.wait(rate, now), Duration::from_millis(250));
        bucket.count(rate, now);
        assert_eq!(bucket.wait(rate, now), Duration::from_millis(500));
        let later = now + Duration::from_millis(500);
        assert_eq!(bucket.wait(rate, later), Duration::ZERO);
        let much_later = now + Duration::from_secs(100);
        assert!(bucket.is_even(much_later) && !bucket.is_even(later));
        bucket.count(rate, much_later);
        assert_eq!(bucket.wait(rate, much_later), Duration::ZERO, "what was not used is not saved beyond the burst");
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_is_slower_than_one_a_second() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        bucket.count(Rate::new(0, 1), now);
        assert_eq!(bucket.wait(Rate::new(0, 1), now), Duration::from_secs(1));
    }
}
