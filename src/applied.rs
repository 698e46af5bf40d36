//! What the application sees of clients' writes: a hook that is told of each changeset that was merged.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};

use crr::SiteId;

use crate::room::RoomName;

/// Changes of a client that were merged into a room and are durable, as the hook given to
/// [`SyncLayer::on_applied`](crate::SyncLayer::on_applied) sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppliedChangeset {
    /// The room.
    pub room: RoomName,
    /// The client that sent them. It may have got them from others, as after a backup was restored here.
    pub site: SiteId,
    /// How many of them are now in the database; what the room knew already, or knows better, isn't counted.
    pub changes: u64,
    /// The room's db_version with them. Reading `crsql_changes` up to it through [`SyncHandle::read`](crate::SyncHandle::read) shows
    /// what they were.
    pub db_version: i64,
}

type Hook = dyn Fn(&AppliedChangeset) + Send + Sync;

/// The hook as the rooms of a layer keep it: one for all, which may be given when some are open.
#[derive(Default)]
pub(crate) struct Observer(RwLock<Option<Arc<Hook>>>);

impl Observer {
    /// Tells this hook instead of the one before.
    pub(crate) fn set(&self, hook: impl Fn(&AppliedChangeset) + Send + Sync + 'static) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(hook));
    }

    /// Tells the hook. Should it panic, the changes are no less applied.
    pub(crate) fn tell(&self, applied: &AppliedChangeset) {
        let hook = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook
            && catch_unwind(AssertUnwindSafe(|| hook(applied))).is_err()
        {
            tracing::error!(room = %applied.room, "the hook for applied changesets panicked");
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}
