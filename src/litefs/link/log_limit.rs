//! Keeping what others can cause at will from filling the log.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Lets a line through now and then, and counts the others.
#[derive(Debug, Default)]
pub(super) struct LogLimit(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// Whether a line may be logged now: how many were not since the last one, or `None` if it is too early.
    pub(super) fn admit(&self) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            lines.suppressed = lines.suppressed.saturating_add(1);
            return None;
        }
        lines.last = Some(Instant::now());
        Some(std::mem::take(&mut lines.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_is_let_through_and_the_others_are_counted() {
        let limit = LogLimit::default();
        assert_eq!([limit.admit(), limit.admit(), limit.admit()], [Some(0), None, None]);
        tokio::time::advance(INTERVAL).await;
        assert_eq!([limit.admit(), limit.admit()], [Some(2), None]);
    }
}
