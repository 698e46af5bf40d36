//! Clients whose changes can't be applied: who they are, why, and a way past what is in their way.
//!
//! A client sends the same changes until they are applied; it can't know better. So one that breaks a constraint of the room's schema
//! keeps all later changes of that client out: its connection is closed (1008) each time, and it is asked for its changes later each
//! time. Usually the schema is at fault, and once it is mended the changes are applied. If they never can be, an operator sets
//! them aside.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crr::SiteId;

use crate::error::Error;
use crate::handle::SyncHandle;
use crate::room::{RoomName, blocking, wire_site};

/// Sites that are remembered. If there are more, those that were refused longest ago are forgotten until they come again.
const MAX_SITES: usize = 1_000;

/// The longest text that is remembered of a reason or a table's name, which is a peer's, in bytes.
const MAX_TEXT: usize = 300;

/// A client whose changes can't be applied, as [`SyncHandle::refused_sites`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedSite {
    /// The room.
    pub room: RoomName,
    /// The client.
    pub site: SiteId,
    /// Who it is, as its grant names it.
    pub identity: Option<Arc<str>>,
    /// When its changes were refused for the first time.
    pub since: SystemTime,
    /// And for the last.
    pub last: SystemTime,
    /// How often.
    pub times: u64,
    /// Why, the last time. It names tables and columns, and no values.
    pub reason: String,
    /// The table of the change that is at fault, if the reason is about one. The name is the client's and may be cut.
    pub table: Option<String>,
    /// The room has the client's changes up to this db_version of the client's.
    pub after: i64,
    /// What was refused last goes up to this db_version of the client's.
    pub up_to: i64,
    /// Where the changes are going to be set aside, if that was [ordered](SyncHandle::quarantine).
    pub quarantine: Option<PathBuf>,
}

impl SyncHandle {
    /// The clients whose changes can't be applied, in rooms that this process writes. One that has got something applied since is
    /// no longer among them. At most 1,000 are remembered, and none beyond the end of the process: those that still matter
    /// come again within two minutes.
    #[must_use]
    pub fn refused_sites(&self) -> Vec<RefusedSite> {
        self.hub().rooms().quarantine().list()
    }

    /// Lets a [refused](Self::refused_sites) client go on without the changes that can't be applied: the next time that it sends them,
    /// they are written into a new file at `path`, and the client's position moves past them.
    ///
    /// The changes are taken apart into the client's transactions (its db_versions). Those that can be applied are. Those that can't,
    /// up to the last one that had been refused when this was called (`up_to`), are set aside whole. So no change is lost that could
    /// have been applied, and none that the operator could not know of. This returns at once; it is done when the client is no
    /// longer among [`refused_sites`](Self::refused_sites), or has another reason there. If it can't be done, the log says why, and it has to be
    /// ordered again.
    ///
    /// The file is synced before the position moves: after a crash in between, the client is refused again and the file is there.
    /// It holds one binary message, [`wire::Message::Changes`](crate::wire::Message::Changes), as the client might have sent it. When they can be
    /// applied after all, [`apply`](Self::apply) does it:
    ///
    /// ```no_run
    /// use tower_sqlite_sync::crr::{Position, SiteId};
    /// use tower_sqlite_sync::wire::Message;
    /// use tower_sqlite_sync::{Changeset, Rights, SyncHandle, Verdict};
    ///
    /// # async fn run(rooms: SyncHandle, schema_version: i64) -> Result<(), Box<dyn std::error::Error>> {
    /// for refused in rooms.refused_sites() {
    ///     println!("{} in {}, {} times: {}", refused.site, refused.room, refused.times, refused.reason);
    ///     rooms.quarantine(refused.room.as_str(), refused.site, format!("/var/lib/aside/{}", refused.site)).await?;
    /// }
    ///
    /// // Another day, with another schema:
    /// let Message::Changes(aside) = Message::decode(std::fs::read("/var/lib/aside/…")?.into())? else { return Ok(()) };
    /// let site = SiteId::from_bytes(*aside.sender.as_bytes());
    /// let since = Position::default();
    /// // Whose site it is (`RefusedSite::identity`), and any table.
    /// let rights = Rights { identity: Some("ada".into()), ..Rights::default() }.into();
    /// let changeset = Changeset { site, since, schema_version, changes: aside.changes, rights, is_refused: false };
    /// match rooms.apply("my-room", changeset).await? {
    ///     Verdict::Applied { .. } => println!("applied"),
    ///     verdict => println!("not applied: {verdict:?}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// What the client still has and the room doesn't stays different until somebody writes it again. The client's later changes are
    /// applied on what the room has: a cell that is written again arrives; of a row whose insert was set aside, only the columns
    /// that were written later do, and the others have their defaults; a delete deletes. A client that sends all that it has
    /// once more (because the room [forked](Self::fork), or because it changed a primary key) may be refused once more.
    ///
    /// # Errors
    ///
    /// [`Error::NotRefused`] if the client isn't among those that are refused; [`Error::Io`] if there is something at `path`, or no
    /// folder for it.
    pub async fn quarantine(&self, room: &str, site: SiteId, path: impl Into<PathBuf>) -> Result<(), Error> {
        let (name, path) = (self.name(room)?, path.into());
        let fit = {
            let (room, path) = (name.clone(), path.clone());
            move || {
                let problem = match path.parent() {
                    _ if path.exists() => std::io::ErrorKind::AlreadyExists,
                    Some(folder) if folder.as_os_str().is_empty() || folder.is_dir() => return Ok(()),
                    _ => std::io::ErrorKind::NotADirectory,
                };
                Err(Error::Io { room, action: "changes can't be set aside", source: problem.into() })
            }
        };
        blocking(fit).await?;
        if !self.hub().rooms().quarantine().order_for(&name, site, path) {
            return Err(Error::NotRefused { room: name, site });
        }
        // It need not wait any longer to be asked.
        self.hub().refusals().forgive(&name, wire_site(site));
        Ok(())
    }
}

/// A changeset that was refused.
#[derive(Debug)]
pub(crate) struct Refused<'e> {
    /// Who its sender is.
    pub(crate) identity: Option<Arc<str>>,
    /// What the room has from its sender.
    pub(crate) after: i64,
    /// The last db_version in it.
    pub(crate) up_to: i64,
    pub(crate) error: &'e crr::Error,
}

/// What an operator wants done with a client's changes that can't be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// The file that they go to.
    pub(crate) path: PathBuf,
    /// The last db_version that may be set aside.
    pub(crate) up_to: i64,
}

/// The clients whose changes can't be applied, in all rooms of a layer.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    sites: Mutex<HashMap<(RoomName, SiteId), Entry>>,
}

#[derive(Debug)]
struct Entry {
    identity: Option<Arc<str>>,
    since: SystemTime,
    last: SystemTime,
    times: u64,
    reason: String,
    table: Option<String>,
    after: i64,
    up_to: i64,
    order: Option<Order>,
}

impl Quarantine {
    /// Remembers that a changeset was refused.
    pub(crate) fn refused(&self, room: &RoomName, site: SiteId, refused: &Refused<'_>) {
        let now = SystemTime::now();
        let mut sites = self.locked();
        let key = (room.clone(), site);
        if sites.len() >= MAX_SITES && !sites.contains_key(&key) {
            let longest_ago = sites.iter().min_by_key(|(_, entry)| (entry.order.is_some(), entry.last));
            if let Some(key) = longest_ago.map(|(key, _)| key.clone()) {
                sites.remove(&key);
            }
        }
        let before = sites.remove(&key);
        let (since, times, order) = before.map_or((now, 0, None), |before| (before.since, before.times, before.order));
        let entry = Entry {
            identity: refused.identity.clone(),
            since,
            last: now,
            times: times.saturating_add(1),
            reason: cut(&refused.error.to_string()),
            table: refused.error.table().map(cut),
            after: refused.after,
            up_to: refused.up_to,
            order,
        };
        sites.insert(key, entry);
    }

    /// Forgets the site if the room now has more of its changes than when they were refused.
    pub(crate) fn applied(&self, room: &RoomName, site: SiteId, position: i64) {
        let mut sites = self.locked();
        if sites.is_empty() {
            return;
        }
        let key = (room.clone(), site);
        if sites.get(&key).is_some_and(|entry| position > entry.after) {
            sites.remove(&key);
        }
    }

    /// Forgets the site, and what was ordered about it.
    pub(crate) fn forget(&self, room: &RoomName, site: SiteId) {
        self.locked().remove(&(room.clone(), site));
    }

    /// What is to be done with what can't be applied of that site.
    pub(crate) fn order(&self, room: &RoomName, site: SiteId) -> Option<Order> {
        self.locked().get(&(room.clone(), site)).and_then(|entry| entry.order.clone())
    }

    /// Takes an order back.
    pub(crate) fn cancel(&self, room: &RoomName, site: SiteId) {
        if let Some(entry) = self.locked().get_mut(&(room.clone(), site)) {
            entry.order = None;
        }
    }

    /// Orders that what can't be applied goes to that file. False if nothing of the site was refused.
    fn order_for(&self, room: &RoomName, site: SiteId, path: PathBuf) -> bool {
        let mut sites = self.locked();
        let entry = sites.get_mut(&(room.clone(), site));
        entry.map(|entry| entry.order = Some(Order { path, up_to: entry.up_to })).is_some()
    }

    fn list(&self) -> Vec<RefusedSite> {
        let shown = |((room, site), entry): (&(RoomName, SiteId), &Entry)| RefusedSite {
            room: room.clone(),
            site: *site,
            identity: entry.identity.clone(),
            since: entry.since,
            last: entry.last,
            times: entry.times,
            reason: entry.reason.clone(),
            table: entry.table.clone(),
            after: entry.after,
            up_to: entry.up_to,
            quarantine: entry.order.as_ref().map(|order| order.path.clone()),
        };
        let mut sites: Vec<RefusedSite> = self.locked().iter().map(shown).collect();
        sites.sort_by(|a, b| (&a.room, a.site).cmp(&(&b.room, b.site)));
        sites
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<(RoomName, SiteId), Entry>> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: SiteId = SiteId::from_bytes([1; 16]);

    fn room() -> RoomName {
        RoomName::parse("a").unwrap()
    }

    fn refuse(quarantine: &Quarantine, site: SiteId, up_to: i64, table: &str) {
        let error = crr::Error::UnknownTable { table: table.to_owned() };
        quarantine.refused(&room(), site, &Refused { identity: None, after: 5, up_to, error: &error });
    }

    #[test]
    fn a_site_is_listed_until_something_further_of_it_is_applied() {
        let quarantine = Quarantine::default();
        refuse(&quarantine, SITE, 7, "one");
        refuse(&quarantine, SITE, 9, "two");
        let [refused] = &quarantine.list()[..] else { panic!("one site") };
        assert_eq!((refused.site, refused.times, refused.after, refused.up_to), (SITE, 2, 5, 9));
        assert_eq!(refused.table.as_deref(), Some("two"));
        assert!(refused.reason.contains("two") && refused.since <= refused.last);
        quarantine.applied(&room(), SITE, 5);
        assert_eq!(quarantine.list().len(), 1, "that was there before");
        quarantine.applied(&RoomName::parse("b").unwrap(), SITE, 9);
        assert_eq!(quarantine.list().len(), 1, "that is another room");
        quarantine.applied(&room(), SITE, 6);
        assert_eq!(quarantine.list(), []);
    }

    #[test]
    fn an_order_is_about_what_was_refused_when_it_was_given() {
        let quarantine = Quarantine::default();
        let path = PathBuf::from("aside");
        assert!(!quarantine.order_for(&room(), SITE, path.clone()), "nothing was refused");
        refuse(&quarantine, SITE, 7, "one");
        assert!(quarantine.order_for(&room(), SITE, path.clone()));
        refuse(&quarantine, SITE, 9, "one");
        assert_eq!(quarantine.order(&room(), SITE), Some(Order { path, up_to: 7 }));
        quarantine.cancel(&room(), SITE);
        assert_eq!(quarantine.order(&room(), SITE), None);
        assert_eq!(quarantine.list().len(), 1);
    }

    #[test]
    fn made_up_sites_and_names_take_no_more_memory_than_the_bound() {
        let quarantine = Quarantine::default();
        refuse(&quarantine, SITE, 7, &"é".repeat(1 << 20));
        assert!(quarantine.order_for(&room(), SITE, PathBuf::from("aside")));
        for i in 0..(MAX_SITES as u128 + 5) {
            refuse(&quarantine, SiteId::from_bytes(i.to_be_bytes()), 7, "one");
        }
        let listed = quarantine.list();
        assert_eq!(listed.len(), MAX_SITES);
        let ordered = listed.iter().find(|refused| refused.site == SITE).expect("what an operator cares for stays");
        assert!(ordered.table.as_ref().unwrap().len() <= MAX_TEXT && ordered.reason.len() <= MAX_TEXT);
    }
}
