//! The connections of a layer, to be found by room, identity or site, and told to go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crr::SiteId;
use tokio_util::sync::CancellationToken;

use crate::connection::Close;
use crate::room::RoomName;

/// Which connections are meant: those that fit everything that is said here. The default says nothing, and means all.
///
/// ```
/// use tower_sqlite_sync::ConnectionFilter;
///
/// let of_ada_in_the_lobby = ConnectionFilter::default().identity("ada").room("lobby");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct ConnectionFilter {
    room: Option<String>,
    identity: Option<String>,
    site: Option<SiteId>,
}

impl ConnectionFilter {
    /// Those to this room.
    pub fn room(self, name: impl Into<String>) -> Self {
        Self { room: Some(name.into()), ..self }
    }

    /// Those whose [grant](crate::Grant::with_identity) says that it is them.
    pub fn identity(self, identity: impl Into<String>) -> Self {
        Self { identity: Some(identity.into()), ..self }
    }

    /// Those that have announced themselves as this site.
    pub fn site(self, site: SiteId) -> Self {
        Self { site: Some(site), ..self }
    }

    fn fits(&self, session: &Entry) -> bool {
        self.room.as_deref().is_none_or(|room| room == session.room.as_str())
            && self.identity.as_deref().is_none_or(|identity| session.identity.as_deref() == Some(identity))
            && self.site.is_none_or(|site| session.site == Some(site))
    }
}

/// All connections, from when they are let in. `max_connections` is their bound.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    entries: HashMap<u64, Entry>,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    room: RoomName,
    identity: Option<Arc<str>>,
    site: Option<SiteId>,
    leave: Arc<Leave>,
}

/// Tells one connection to go.
#[derive(Debug, Default)]
struct Leave {
    close: OnceLock<Close>,
    told: CancellationToken,
}

impl Sessions {
    /// Counts a connection in, until what is returned is dropped.
    pub(crate) fn enter(self: &Arc<Self>, room: RoomName, identity: Option<Arc<str>>) -> Present {
        let leave = Arc::new(Leave::default());
        let mut known = self.locked();
        known.last = known.last.wrapping_add(1);
        let number = known.last;
        known.entries.insert(number, Entry { room, identity, site: None, leave: leave.clone() });
        drop(known);
        Present { sessions: self.clone(), number, leave }
    }

    /// Tells those that fit how to close; how many were not told before.
    pub(crate) fn disconnect(&self, which: &ConnectionFilter, close: &Close) -> usize {
        let known = self.locked();
        let meant = known.entries.values().filter(|session| which.fits(session));
        let told = meant.filter(|session| session.leave.close.set(close.clone()).is_ok());
        told.inspect(|session| session.leave.told.cancel()).count()
    }

    fn locked(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection among them.
#[derive(Debug)]
pub(crate) struct Present {
    sessions: Arc<Sessions>,
    number: u64,
    leave: Arc<Leave>,
}

impl Present {
    /// It has announced itself.
    pub(crate) fn announced(&self, site: SiteId) {
        if let Some(entry) = self.sessions.locked().entries.get_mut(&self.number) {
            entry.site = Some(site);
        }
    }

    /// Waits until it must go, and says how.
    pub(crate) async fn told_to_go(&self) -> Close {
        self.leave.told.cancelled().await;
        self.leave.close.get().cloned().unwrap_or_else(Close::going_away)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.sessions.locked().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_fits_everything_that_is_said_is_told_once() {
        let sessions = Arc::new(Sessions::default());
        let enter = |room: &str, identity: Option<&str>, site: u8| {
            let present = sessions.enter(RoomName::parse(room).unwrap(), identity.map(Arc::from));
            present.announced(SiteId::from_bytes([site; 16]));
            present
        };
        let present =
            [enter("a", Some("ada"), 1), enter("b", Some("ada"), 2), enter("a", Some("grace"), 3), enter("a", None, 4)];
        let all = ConnectionFilter::default;
        let close = Close::disconnect(4001, "bye");
        let count = |which: ConnectionFilter| sessions.disconnect(&which, &close);
        assert_eq!(count(all().room("c")), 0);
        assert_eq!(count(all().identity("")), 0);
        assert_eq!(count(all().site(SiteId::from_bytes([2; 16])).room("a")), 0);
        assert_eq!(count(all().identity("ada").room("b")), 1);
        assert_eq!(count(all().identity("ada")), 1, "the other one knows already");
        assert_eq!(count(all().site(SiteId::from_bytes([4; 16]))), 1);
        assert_eq!(count(all()), 1);
        for present in &present {
            assert_eq!(present.told_to_go().await, close);
        }
        drop(present);
        assert_eq!(sessions.locked().entries.len(), 0);
    }
}
