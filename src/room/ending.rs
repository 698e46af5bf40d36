//! Why and when a room's connections must go.

use std::sync::OnceLock;

use tokio_util::sync::CancellationToken;

use super::{Origin, RoomName};
use crate::connection::Close;
use crate::error::Error;

/// A room that ends tells each of its connections how to close. The first reason counts.
#[derive(Debug)]
pub(crate) struct Ending {
    room: RoomName,
    reason: OnceLock<Close>,
    /// Whether the file is, or may be, behind what clients were shown.
    went_back: OnceLock<()>,
    token: CancellationToken,
}

impl Ending {
    pub(crate) fn new(room: RoomName) -> Self {
        Self { room, reason: OnceLock::new(), went_back: OnceLock::new(), token: CancellationToken::new() }
    }

    /// The room's name.
    pub(crate) fn room(&self) -> &RoomName {
        &self.room
    }

    /// Ends the room because it can't go on. The next client that asks for it opens it anew.
    pub(crate) fn fail(&self, error: &Error) {
        tracing::error!(room = %self.room, %error, "room failed");
        if let Error::WentBack { .. } | Error::FileReplaced { .. } = error {
            self.went_back.get_or_init(|| ());
        }
        self.end(error.close());
    }

    /// Ends the room if its file is not, or no longer, the one that clients know.
    pub(crate) fn fail_if_replaced(&self, error: &Error) {
        if let Error::WentBack { .. } | Error::FileReplaced { .. } = error {
            self.fail(error);
        }
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

    /// What the file is to whoever opens it next.
    pub(crate) fn origin(&self) -> Origin {
        if self.went_back.get().is_some() { Origin::Earlier } else { Origin::Same }
    }

    /// Waits for the end.
    pub(crate) async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// Waits for the end, and says how connections close.
    pub(crate) async fn ended(&self) -> Close {
        self.token.cancelled().await;
        self.reason.get().cloned().unwrap_or_else(Close::going_away)
    }
}
