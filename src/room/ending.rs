//! Why and when a room's connections must go.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

use super::RoomName;
use crate::connection::Close;
use crate::error::Error;

/// A room that ends tells each of its connections how to close. The first reason counts.
#[derive(Debug)]
pub(crate) struct Ending {
    room: RoomName,
    reason: OnceLock<Close>,
    token: CancellationToken,
}

impl Ending {
    pub(crate) fn new(room: RoomName) -> Self {
        Self { room, reason: OnceLock::new(), token: CancellationToken::new() }
    }

    /// Ends the room because it can't go on. The next client that asks for it opens it anew.
    pub(crate) fn fail(&self, error: &Error) {
        tracing::error!(room = %self.room, %error, "room failed");
        self.end(error.close());
    }

    /// Ends the room.
    pub(crate) fn end(&self, close: Close) {
        // A later reason is a consequence of the first.
        drop(self.reason.set(close));
        self.token.cancel();
    }

    /// Whether the room has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits for the end, and says how connections close.
    pub(crate) async fn ended(&self) -> Close {
        self.token.cancelled().await;
        self.reason.get().cloned().unwrap_or_else(Close::going_away)
    }
}
