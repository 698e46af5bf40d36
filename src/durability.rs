//! What has to happen to a change before clients are shown it.

use serde::{Deserialize, Serialize};

/// What has to happen to a change before clients are shown it: [`SyncConfig::durability`](crate::SyncConfig::durability). In a
/// configuration file `"full"` or `"os"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Durability {
    /// It is on the disk (SQLite's `synchronous=FULL`): it survives the loss of power. One sync for all that is committed
    /// together, so that many clients pay for it little each. (The file system must not show what it has not written yet: ext4 with
    /// `data=writeback` does.)
    #[default]
    Full,
    /// The operating system has it (`synchronous=NORMAL`): it survives the end of the process, however it ends, but not that of
    /// the machine. Then the last seconds of a room may be gone, though clients have seen them.
    ///
    /// Nothing is lost that a client still has: a room that wasn't closed before the machine went down
    /// [forks](crate::SyncHandle::fork) when it is opened again, and its clients bring back what they have; each sends all of it
    /// once. What server code wrote, and no client was shown, is lost.
    Os,
}

impl Durability {
    /// As SQLite has it.
    pub(crate) fn synchronous(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Os => "NORMAL",
        }
    }

    /// Whether a commit is on the disk.
    pub(crate) fn is_synced(self) -> bool {
        self == Self::Full
    }
}
