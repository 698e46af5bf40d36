//! The process that writes a room, as one that only has a copy of it sees it.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crr::{Position, SiteId};
use tokio::sync::watch;
use tower_sqlite_sync_wire::ChangeList;

use crate::grant::Refuse;
use crate::room::{RoomName, SchemaName};

/// What a [`Primary`] answers in time.
pub type PrimaryFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, PrimaryUnavailable>> + Send + 'a>>;

/// Writes rooms of which this process has a copy.
///
/// On the other side, [`SyncHandle::open_room`](crate::SyncHandle::open_room) and
/// [`SyncHandle::apply`](crate::SyncHandle::apply) do what is asked for here. How the two find each other, and how the file
/// comes here, is the implementation's business.
pub trait Primary: fmt::Debug + Send + Sync + 'static {
    /// Sees to it that the room exists with this version of the schema, created or migrated if need be, and waits until the copy here
    /// has it.
    fn open<'a>(&'a self, room: &'a RoomName, schema: &'a SchemaName, version: i64) -> PrimaryFuture<'a, Opening>;

    /// Has a client's changeset applied. It may be asked again if the answer is lost: applying is idempotent.
    fn apply<'a>(&'a self, room: &'a RoomName, changeset: &'a Changeset) -> PrimaryFuture<'a, Verdict>;

    /// Counts up whenever the copy of the room may have changed.
    fn changed(&self, room: &RoomName) -> watch::Receiver<u64>;
}

/// The primary can't be asked now, or what it has done didn't come here. It is asked again, for a while.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the primary was waited for in vain: {reason}")]
pub struct PrimaryUnavailable {
    /// Why, for the log. Clients are only told to come back later.
    pub reason: String,
}

/// Changes of one client, on their way to the primary.
#[derive(Debug, Clone)]
pub struct Changeset {
    /// The client.
    pub site: SiteId,
    /// What the changes continue: the primary must have the client's changes up to here.
    pub since: Position,
    /// The version of the schema that the client has.
    pub schema_version: i64,
    /// The changes.
    pub changes: ChangeList,
    /// What the client may have applied. Whoever applies the changeset checks it, inside the transaction: only there it shows which
    /// changes have an effect.
    pub rights: Arc<Rights>,
    /// A guard objects to it where the client is connected, and the client's copy is to return to what the room has.
    pub is_refused: bool,
}

/// What a client may have applied, as the process knows it that the client is connected to. The default is everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rights {
    /// Who the client is. Its site is that identity's from now on, and must not be another's.
    pub identity: Option<Arc<str>>,
    /// Whose the site may have been so far, besides.
    pub rebinds: Option<Arc<str>>,
    /// The tables that it may write to; `None` is all of them.
    pub tables: Option<Arc<BTreeSet<String>>>,
    /// What becomes of a changeset that is not allowed.
    pub refuse: Refuse,
    /// The client brings back what it has of a room that [forked](crate::SyncHandle::fork), the work of others too. Of tables that it may
    /// not write, it is left to those who may: nothing is applied, and nothing reverted, for then they would come too late.
    pub brings_back: bool,
}

impl Rights {
    /// Whether changes to that table may have an effect.
    #[must_use]
    pub fn may_write(&self, table: &str) -> bool {
        self.tables.as_ref().is_none_or(|tables| tables.contains(table))
    }
}

/// What became of opening a room at its primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// It is there, and here.
    Opened,
    /// It can't be opened: its clients are closed with this code and reason.
    Refused(Refusal),
}

/// What became of a changeset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is durable at the primary.
    Applied {
        /// What the room now has from the client.
        position: Position,
        /// It created rows without all of their columns.
        partial_rows: bool,
        /// How many of its changes are now in the database.
        changes: u64,
        /// The room's db_version with them.
        db_version: i64,
    },
    /// It doesn't continue what the room has from the client, which is this. Nothing was applied.
    Gap(Position),
    /// It was not applied and won't be.
    Refused(Refusal),
}

/// Why the primary refuses something, as a client's connection is closed for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The close code.
    pub code: u16,
    /// The reason; at most 123 bytes are shown.
    pub reason: String,
}
