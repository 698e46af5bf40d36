//! What makes a run fail: never slowness, always something that is missing or wrong.

use std::io;
use std::time::Duration;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Fault {
    /// The socket broke, or never came to be.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The server answered the upgrade with something else.
    #[error("the server refused the upgrade: {0}")]
    Refused(String),
    /// The server closed a connection.
    #[error("the server closed a connection: {code} {reason}")]
    Closed {
        /// The close code; 1005 if there was none.
        code: u16,
        /// What the server says about it.
        reason: String,
    },
    /// The server closed a connection without a word.
    #[error("the server dropped a connection")]
    Dropped,
    /// Nothing more comes.
    #[error("missing after {waited:?} without any news: {what}")]
    Missing {
        /// What should have come.
        what: String,
        /// How long nothing came.
        waited: Duration,
    },
    /// Something came that is no part of the protocol, or of what was written.
    #[error("wrong: {0}")]
    Wrong(String),
    /// The machine that measures, or the server's program, is not as needed.
    #[error("{0}")]
    Setup(String),
}

impl Fault {
    /// Whether a real client would take it for a server that is busy, and come again.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Refused(_) | Self::Closed { .. } | Self::Dropped)
    }
}

impl From<tokio::task::JoinError> for Fault {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Setup(format!("a task of the generator failed: {error}"))
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Setup(format!("SQLite: {error}"))
    }
}

impl From<crr::Error> for Fault {
    fn from(error: crr::Error) -> Self {
        Self::Setup(format!("the engine: {error}"))
    }
}
