//! The application's say in what clients write: a hook that sees changes before they are merged.

use std::borrow::Cow;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crr::SiteId;
use tower_sqlite_sync_wire::ChangeList;

use crate::hook::{self, Failure};
use crate::room::RoomName;

/// Looks at what a client has written before it is merged, and may object. Given to [`SyncLayer::guard`](crate::SyncLayer::guard).
///
/// Asynchronous closures from [`ProposedChanges`] implement it. It is asked about each message of changes of a client that may write,
/// in the order in which they come, and the next message of that client waits for it; other clients don't, nor does the room's
/// writer. What it objects to, nothing of it is applied; what happens then, [`Refuse`](crate::Refuse) says.
///
/// It sees what the client sends, which is more than what is new: after lost connections, and after a room has
/// [forked](crate::SyncHandle::fork), clients send again what the room knows. So it should judge what changes say, and not count them;
/// and it may be asked about the same changes again. Nothing that it reads in the room's database is sure to be there still when the
/// changes are merged.
///
/// If it panics, that client is closed with 1011 (unless the program is built with `panic = "abort"`); if it takes longer than
/// [`SyncConfig::queue_wait`](crate::SyncConfig::queue_wait), with 1013.
///
/// ```
/// use tower_sqlite_sync::wire::Value;
/// use tower_sqlite_sync::{Objection, ProposedChanges, SyncConfig, SyncLayer};
///
/// let layer = SyncLayer::new(SyncConfig::default()).guard(async |proposed: ProposedChanges| {
///     for change in proposed.changes() {
///         if let Value::Text(text) = change.val && text.len() > 10_000 {
///             return Err(Objection::new("texts may have 10,000 bytes"));
///         }
///     }
///     Ok(())
/// });
/// ```
pub trait ChangeGuard: Send + Sync + 'static {
    /// Lets changes pass, or objects.
    fn examine(&self, proposed: ProposedChanges) -> impl Future<Output = Result<(), Objection>> + Send;
}

impl<F, Fut> ChangeGuard for F
where
    F: Fn(ProposedChanges) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Objection>> + Send,
{
    fn examine(&self, proposed: ProposedChanges) -> impl Future<Output = Result<(), Objection>> + Send {
        self(proposed)
    }
}

/// Changes that a client wants applied.
///
/// Its `Debug` form leaves out what they say.
#[derive(Clone)]
pub struct ProposedChanges {
    room: RoomName,
    site: SiteId,
    identity: Option<Arc<str>>,
    changes: ChangeList,
}

impl ProposedChanges {
    /// Puts some together; for tests of a guard.
    #[must_use]
    pub fn new(room: RoomName, site: SiteId, identity: Option<Arc<str>>, changes: ChangeList) -> Self {
        Self { room, site, identity, changes }
    }

    /// The room.
    #[must_use]
    pub fn room(&self) -> &RoomName {
        &self.room
    }

    /// The client's copy of the room's database.
    #[must_use]
    pub fn site(&self) -> SiteId {
        self.site
    }

    /// Who the client is, if its [grant](crate::Grant::with_identity) says so.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// The changes, as they came: not compared with the room's schema yet.
    #[must_use]
    pub fn changes(&self) -> &ChangeList {
        &self.changes
    }
}

impl fmt::Debug for ProposedChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { room, site, changes, .. } = self;
        let mut shown = f.debug_struct("ProposedChanges");
        shown.field("room", room).field("site", site).field("changes", &changes.len()).finish_non_exhaustive()
    }
}

/// Why a guard lets changes not pass.
///
/// The reason is logged, and shown to the client if it is closed; so it must hold no secret. Close frames have room for about 100
/// bytes of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Objection {
    reason: Cow<'static, str>,
}

impl Objection {
    /// An objection with its reason.
    #[must_use]
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into() }
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// The guard as the layer keeps it: its type forgotten. Without one, everything passes.
#[derive(Clone, Default)]
pub(crate) struct Guard(Option<Arc<dyn DynGuard>>);

impl Guard {
    pub(crate) fn new(guard: impl ChangeGuard) -> Self {
        Self(Some(Arc::new(guard)))
    }

    /// Asks the guard, which may take so long.
    pub(crate) async fn ask(
        &self,
        limit: Duration,
        proposed: impl FnOnce() -> ProposedChanges,
    ) -> Result<Result<(), Objection>, Failure> {
        match &self.0 {
            Some(guard) => hook::ask(limit, async { guard.examine_boxed(proposed()).await }).await,
            None => Ok(Ok(())),
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(&self.0.is_some()).finish()
    }
}

/// [`ChangeGuard`] with its future boxed.
trait DynGuard: Send + Sync {
    fn examine_boxed<'a>(
        &'a self,
        proposed: ProposedChanges,
    ) -> Pin<Box<dyn Future<Output = Result<(), Objection>> + Send + 'a>>;
}

impl<T: ChangeGuard> DynGuard for T {
    fn examine_boxed<'a>(
        &'a self,
        proposed: ProposedChanges,
    ) -> Pin<Box<dyn Future<Output = Result<(), Objection>> + Send + 'a>> {
        Box::pin(self.examine(proposed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_says_nothing_of_what_changes_say() {
        let change = tower_sqlite_sync_wire::Change {
            table: "todo",
            pk: b"\x01\x0b\x06s3cret",
            cid: "title",
            val: tower_sqlite_sync_wire::Value::Text("s3cret"),
            col_version: 1,
            db_version: 1,
            site: None,
            cl: 1,
            seq: 0,
        };
        let changes = [change].into_iter().collect();
        let room = RoomName::parse("lobby").unwrap();
        let shown = format!("{:?}", ProposedChanges::new(room, SiteId::from_bytes([1; 16]), None, changes));
        assert!(shown.contains("lobby") && !shown.contains("s3cret"), "{shown}");
    }
}
