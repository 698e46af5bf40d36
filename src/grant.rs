//! What a connection may do in its room, as whom, and until when.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

/// How often a connection compares its grant's end with the system's clock, which may be set or stand still meanwhile.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(60);

/// What a connection may do in its room: the hook's answer to a request.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_sqlite_sync::{Grant, Refuse};
///
/// let grant = Grant::read_write()
///     .with_identity("ada")
///     .with_tables(["todo", "comment"])
///     .with_refuse(Refuse::Revert)
///     .with_expiry(SystemTime::now() + Duration::from_secs(3600));
/// assert_eq!(grant.identity(), Some("ada"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    access: Access,
    identity: Option<Arc<str>>,
    tables: Option<Arc<BTreeSet<String>>>,
    refuse: Option<Refuse>,
    expires_at: Option<SystemTime>,
}

impl Grant {
    /// Receives the room's changes and sends its own.
    #[must_use]
    pub fn read_write() -> Self {
        Self { access: Access::ReadWrite, identity: None, tables: None, refuse: None, expires_at: None }
    }

    /// Receives the room's changes; what it sends is dropped.
    ///
    /// Like any client, it may be the one for whom a room is created, or migrated to the version of its schema that the schema folder has:
    /// which version that is, nobody but the operator decides. Rooms that only the server writes have no other clients.
    #[must_use]
    pub fn read_only() -> Self {
        Self { access: Access::ReadOnly, ..Self::read_write() }
    }

    /// Says who is connecting: a user's id, for instance.
    ///
    /// The first identity that writes from a site (one copy of the room's database, on one device) has it to itself in this room:
    /// others, and those without an identity, are refused if they come from the same site to write
    /// ([`SyncLayer::rebind`](crate::SyncLayer::rebind) makes exceptions). The identity is stored in the room's database, which no
    /// client is sent, and is what [`ConnectionFilter::identity`](crate::ConnectionFilter::identity) finds.
    #[must_use]
    pub fn with_identity(mut self, identity: impl Into<Arc<str>>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// Lets it write to these tables only, named as in the schema. Without this, to all of them.
    ///
    /// What counts are changes that have an effect: clients also send what the room knows already. A changeset with an effect on any
    /// other table is not applied at all; what happens then, [`Refuse`] says.
    #[must_use]
    pub fn with_tables(mut self, tables: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.tables = Some(Arc::new(tables.into_iter().map(Into::into).collect()));
        self
    }

    /// What becomes of a changeset that is not allowed. Without this, what [`SyncConfig::refuse`](crate::SyncConfig::refuse) says.
    #[must_use]
    pub fn with_refuse(mut self, refuse: Refuse) -> Self {
        self.refuse = Some(refuse);
        self
    }

    /// Closes the connection at this time, with 1008. The client comes again and the hook is asked again, so a new token is needed.
    ///
    /// A step of the system's clock is noticed within a minute if it is forward, and otherwise makes no difference.
    #[must_use]
    pub fn with_expiry(mut self, at: SystemTime) -> Self {
        self.expires_at = Some(at);
        self
    }

    /// Whether changes from the connection are taken.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Who it is, if the hook said so.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// The tables that it may write to; `None` is all of them.
    #[must_use]
    pub fn tables(&self) -> Option<&BTreeSet<String>> {
        self.tables.as_deref()
    }

    /// What becomes of a changeset that is not allowed, if it isn't what the configuration says.
    #[must_use]
    pub fn refuse(&self) -> Option<Refuse> {
        self.refuse
    }

    /// When the connection is closed.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    pub(crate) fn shared_identity(&self) -> Option<Arc<str>> {
        self.identity.clone()
    }

    pub(crate) fn shared_tables(&self) -> Option<Arc<BTreeSet<String>>> {
        self.tables.clone()
    }

    pub(crate) fn has_expired(&self) -> bool {
        self.expires_at.is_some_and(|at| left(at).is_zero())
    }

    /// Waits until it ends; for ever if it doesn't.
    pub(crate) async fn expired(&self) {
        match self.expires_at {
            // In a box that most connections don't need.
            Some(at) => Box::pin(passed(at)).await,
            None => std::future::pending().await,
        }
    }
}

async fn passed(at: SystemTime) {
    let mut end = std::pin::pin!(sleep(left(at)));
    loop {
        tokio::select! {
            biased;
            () = &mut end => return,
            () = sleep(LOOK_AT_CLOCK) => if left(at).is_zero() { return },
        }
    }
}

fn left(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO)
}

/// The directions in which changes may flow between a connection and its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// From the room to the connection.
    ReadOnly,
    /// Both ways.
    ReadWrite,
}

/// What becomes of a changeset that its sender may not have applied: because of the [tables](Grant::with_tables) in it, or because
/// a [guard](crate::ChangeGuard) objects. Either way, nothing of it is applied.
///
/// There is an exception. What a client brings back to a room that [forked](crate::SyncHandle::fork) is the work of others too, and
/// nobody's fault: of tables that it may not write, that is dropped, and left to those who may; the rest is applied. A guard's
/// objection to it closes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refuse {
    /// The connection is closed with 1008 and a reason that names the table, or with the guard's reason.
    ///
    /// The client keeps what it wrote, comes again and sends it again, and is asked for it later each time; meanwhile nothing that
    /// it wrote later arrives either. For clients that are never refused unless something is wrong with them.
    #[default]
    Close,
    /// The client's copy is made to return to what the room has: the server answers the changes with newer ones that restore the
    /// room's rows. All clients get these; those that saw nothing of the matter see no difference. What the client writes later
    /// goes through.
    ///
    /// The whole changeset is reverted, allowed changes in it too. After a time offline, that is all that the client wrote
    /// meanwhile. What other clients write concurrently into a row that a reverted changeset deleted is lost.
    Revert,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_grant_ends_when_it_says() {
        let begun = tokio::time::Instant::now();
        Grant::read_only().with_expiry(SystemTime::now() + Duration::from_secs(3600)).expired().await;
        let elapsed = begun.elapsed().as_secs();
        assert!((3590..=3600).contains(&elapsed), "{elapsed}");
    }

    #[tokio::test]
    async fn one_that_has_ended_ends_at_once() {
        for at in [SystemTime::now(), SystemTime::UNIX_EPOCH] {
            let grant = Grant::read_write().with_expiry(at);
            assert!(grant.has_expired());
            grant.expired().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ends_that_no_clock_reaches_are_no_trouble() {
        // As far as the system's time goes.
        let far = (0..63)
            .rev()
            .map(|bit| Duration::from_secs(1 << bit))
            .fold(SystemTime::now(), |at, step| at.checked_add(step).unwrap_or(at));
        for grant in [Grant::read_write(), Grant::read_write().with_expiry(far)] {
            assert!(!grant.has_expired());
            let year = Duration::from_secs(365 * 86_400);
            assert!(tokio::time::timeout(year, grant.expired()).await.is_err());
        }
    }
}
