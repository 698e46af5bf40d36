//! Asking the application's hooks: whatever one does, it ends what it was asked about, and nothing else.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;

use crate::connection::Close;

/// A hook that gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It panicked. The payload is left out: it may quote a secret, and the panic hook has reported it.
    Panicked,
    /// It took too long.
    TooSlow,
}

impl Failure {
    /// How the connection that it was asked about ends.
    pub(crate) fn close(self, hook: &'static str) -> Close {
        match self {
            Self::Panicked => {
                tracing::error!(hook, "a hook panicked");
                Close::internal("the server failed to decide whether this is allowed")
            }
            Self::TooSlow => {
                tracing::warn!(hook, "a hook took too long");
                Close::try_again("the server took too long to decide whether this is allowed: try again later")
            }
        }
    }
}

/// The hook's answer, if there is one within `limit`. What it does before its first wait belongs inside `answer`, too.
pub(crate) async fn ask<T>(limit: Duration, answer: impl Future<Output = T>) -> Result<T, Failure> {
    // Whatever state a panic leaves behind is behind the hook's own `&self`, so it guards it itself; ours is dropped here.
    match timeout(limit, AssertUnwindSafe(answer).catch_unwind()).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_payload)) => Err(Failure::Panicked),
        Err(_elapsed) => Err(Failure::TooSlow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hook_that_panics_or_waits_for_ever_gives_no_answer() {
        let limit = Duration::from_secs(5);
        assert_eq!(ask(limit, async { 1 }).await, Ok(1));
        assert_eq!(
            ask(limit, async { if limit.is_zero() { 1 } else { panic!("s3cret") } }).await,
            Err(Failure::Panicked)
        );
        assert_eq!(ask(limit, std::future::pending::<()>()).await, Err(Failure::TooSlow));
        let reasons = [Failure::Panicked, Failure::TooSlow].map(|failure| failure.close("a hook").code());
        assert_eq!(reasons, [1011, 1013]);
    }
}
