//! Percentiles, and numbers as floats.

use std::time::Duration;

/// Times, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// Of any times.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The time that so many percent of them don't exceed, by the nearest rank; zero if there are none.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let rank = self.0.len().saturating_mul(percent.min(100)).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// The longest.
    pub(crate) fn max(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A count as a float. Above 2^53 it is rounded, which no figure here shows.
#[expect(clippy::cast_precision_loss, reason = "figures are rounded anyway")]
pub(crate) fn float(number: usize) -> f64 {
    number as f64
}

/// How many a second.
pub(crate) fn rate(number: usize, time: Duration) -> f64 {
    float(number) / time.as_secs_f64().max(1e-9)
}

/// How many changes had come at some times.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Vec<(Duration, usize)>);

impl Trace {
    /// So many had come by then; times and counts grow.
    pub(crate) fn push(&mut self, at: Duration, count: usize) {
        self.0.push((at, count));
    }

    /// The rate of the last tenth, of that of the first one.
    pub(crate) fn stamina(&self, total: usize) -> f64 {
        let tenth = total / 10;
        let first = self.reached(tenth);
        let last = self.reached(total).saturating_sub(self.reached(total.saturating_sub(tenth)));
        first.as_secs_f64() / last.as_secs_f64().max(1e-9)
    }

    /// When so many had come, in a straight line between messages.
    fn reached(&self, count: usize) -> Duration {
        let mut before = (Duration::ZERO, 0);
        for &(at, seen) in &self.0 {
            if seen >= count {
                let part = float(count.saturating_sub(before.1)) / float(seen.saturating_sub(before.1)).max(1.0);
                return before.0 + at.saturating_sub(before.0).mul_f64(part);
            }
            before = (at, seen);
        }
        before.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(times: impl IntoIterator<Item = u64>) -> Times {
        Times::of(times.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn percentiles_are_by_the_nearest_rank() {
        let times = millis((1..=200).rev());
        for (percent, expected) in [(0, 1), (1, 2), (50, 100), (99, 198), (100, 200), (101, 200)] {
            assert_eq!(times.percentile(percent).as_millis(), expected, "{percent}");
        }
        assert_eq!((times.max().as_millis(), times.len()), (200, 200));
        assert_eq!(millis([7]).percentile(50), millis([7]).percentile(99));
    }

    #[test]
    fn no_times_have_no_percentile() {
        assert_eq!(millis([]).percentile(99), Duration::ZERO);
        assert_eq!(millis([]).max(), Duration::ZERO);
    }

    #[test]
    fn the_last_tenth_is_compared_with_the_first() {
        let mut steady = Trace::default();
        (1..=10).for_each(|n| steady.push(Duration::from_millis(n), usize::try_from(n).unwrap() * 10));
        assert!((steady.stamina(100) - 1.0).abs() < 1e-9);

        let mut tiring = Trace::default();
        tiring.push(Duration::from_secs(1), 20);
        tiring.push(Duration::from_secs(2), 80);
        tiring.push(Duration::from_secs(4), 100);
        // The first tenth took half a second, the last one a whole.
        assert!((tiring.stamina(100) - 0.5).abs() < 1e-9);
    }
}
