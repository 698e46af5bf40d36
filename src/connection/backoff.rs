//! Waiting longer each time something is asked for again, and not at all once there was progress.

use std::time::Duration;

/// The delay before the next attempt at something that has a position.
#[derive(Debug)]
pub(super) struct Backoff<P> {
    first: Duration,
    most: Duration,
    delay: Duration,
    at: Option<P>,
}

impl<P: PartialOrd> Backoff<P> {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, delay: Duration::ZERO, at: None }
    }

    /// How long to wait with the attempt from `position`: not at all at first and after progress, then doubling.
    pub(super) fn next(&mut self, position: P) -> Duration {
        let progress = self.at.as_ref().is_none_or(|at| position > *at);
        self.at = Some(position);
        if progress {
            self.delay = Duration::ZERO;
            return Duration::ZERO;
        }
        self.delay = self.delay.saturating_mul(2).clamp(self.first, self.most);
        self.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_bound_and_progress_resets_them() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let mut millis = |position| backoff.next(position).as_millis();
        assert_eq!([millis(5), millis(5), millis(4), millis(5), millis(6), millis(6)], [0, 100, 200, 0, 0, 100]);
        assert_eq!([millis(6), millis(6), millis(6)], [200, 300, 300]);
    }
}
