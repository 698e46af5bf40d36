//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// A delay that doubles with each attempt that failed, up to a bound. A random part of it keeps the replicas of a primary that comes
/// back from calling it all at once.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The attempt led somewhere: the next one is a first one again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The attempt failed; this is the time until the next one: between half of the delay and all of it.
    pub(super) fn next(&mut self) -> Duration {
        let delay = self.first.saturating_mul(2_u32.saturating_pow(self.failures)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        // Without random numbers there is no handshake either; the delay may be regular then.
        let random = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
        delay.mul_f64(0.5 + 0.5 * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_bound_and_start_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));
        for most in [100, 200, 400, 500, 500] {
            let delay = backoff.next().as_millis();
            assert!((most / 2..=most).contains(&delay), "{delay} of {most}");
        }
        backoff.reset();
        assert!(backoff.next().as_millis() <= 100);
    }
}
