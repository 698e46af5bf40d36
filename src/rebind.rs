//! Sites that pass from one identity to another: a device on which somebody else logs in.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crr::SiteId;

use crate::hook::{self, Failure};
use crate::room::RoomName;

/// A client announces a site in a room where another identity has written from it; what the hook given to
/// [`SyncLayer::rebind`](crate::SyncLayer::rebind) decides about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebinding {
    /// The room.
    pub room: RoomName,
    /// The site: one copy of the room's database, on one device.
    pub site: SiteId,
    /// Whose it is so far.
    pub from: Arc<str>,
    /// Who comes from it now; `None` is somebody without an identity.
    pub to: Option<Arc<str>>,
}

type Answer = Pin<Box<dyn Future<Output = bool> + Send>>;
type Decide = dyn Fn(Rebinding) -> Answer + Send + Sync;

/// The hook as the layer keeps it. Without one, a site stays whose it is.
#[derive(Clone, Default)]
pub(crate) struct Rebind(Option<Arc<Decide>>);

impl Rebind {
    pub(crate) fn new<F, Fut>(hook: F) -> Self
    where
        F: Fn(Rebinding) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        Self(Some(Arc::new(move |rebinding| Box::pin(hook(rebinding)))))
    }

    /// Asks the hook, which may take so long.
    pub(crate) async fn ask(&self, limit: Duration, rebinding: Rebinding) -> Result<bool, Failure> {
        match &self.0 {
            Some(decide) => hook::ask(limit, async { decide(rebinding).await }).await,
            None => Ok(false),
        }
    }
}

impl fmt::Debug for Rebind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rebind").field(&self.0.is_some()).finish()
    }
}
