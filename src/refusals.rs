//! Sites whose changes were refused, and for how long they are not asked for them again.
//!
//! A client that is closed because of a changeset connects again within seconds and sends the same changeset again. It can't know
//! better, so the waiting is ours: it goes on receiving, but is asked for its changes later each time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tower_sqlite_sync_wire::SiteId;

use crate::room::RoomName;

const FIRST_DELAY: Duration = Duration::from_secs(2);
const LONGEST_DELAY: Duration = Duration::from_secs(120);

/// Sites that are remembered. Whoever makes up more of them than this only shortens their own waiting.
const MAX_SITES: usize = 10_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    sites: Mutex<HashMap<(RoomName, SiteId), Refusal>>,
}

#[derive(Debug, Clone, Copy)]
struct Refusal {
    until: Instant,
    delay: Duration,
}

impl Refusals {
    /// How long the site has still to wait before it is asked for its changes.
    pub(crate) fn wait(&self, room: &RoomName, site: SiteId) -> Duration {
        let refusal = self.locked().get(&(room.clone(), site)).copied();
        refusal.map_or(Duration::ZERO, |refusal| refusal.until.saturating_duration_since(Instant::now()))
    }

    /// Remembers that a changeset of the site was refused.
    pub(crate) fn refuse(&self, room: &RoomName, site: SiteId) {
        let now = Instant::now();
        let mut sites = self.locked();
        let key = (room.clone(), site);
        let before = sites.get(&key).map(|refusal| refusal.delay.saturating_mul(2));
        if before.is_none() && sites.len() >= MAX_SITES {
            sites.retain(|_, refusal| refusal.until + LONGEST_DELAY > now);
            if sites.len() >= MAX_SITES {
                sites.clear();
            }
        }
        let delay = before.unwrap_or(FIRST_DELAY).min(LONGEST_DELAY);
        sites.insert(key, Refusal { until: now + delay, delay });
    }

    /// Forgets the site: a changeset of it was applied.
    pub(crate) fn forgive(&self, room: &RoomName, site: SiteId) {
        let mut sites = self.locked();
        if !sites.is_empty() {
            sites.remove(&(room.clone(), site));
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<(RoomName, SiteId), Refusal>> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: SiteId = SiteId::from_bytes([1; 16]);

    #[tokio::test(start_paused = true)]
    async fn a_site_waits_longer_each_time_until_something_of_it_is_applied() {
        let refusals = Refusals::default();
        let (room, other) = (RoomName::parse("a").unwrap(), RoomName::parse("b").unwrap());
        assert_eq!(refusals.wait(&room, SITE), Duration::ZERO);
        refusals.refuse(&room, SITE);
        assert_eq!(refusals.wait(&room, SITE).as_secs(), 2);
        assert_eq!(refusals.wait(&other, SITE), Duration::ZERO, "other rooms have nothing to do with it");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(refusals.wait(&room, SITE), Duration::ZERO);
        refusals.refuse(&room, SITE);
        assert_eq!(refusals.wait(&room, SITE).as_secs(), 4);
        for _ in 0..10 {
            refusals.refuse(&room, SITE);
        }
        assert_eq!(refusals.wait(&room, SITE), LONGEST_DELAY);
        refusals.forgive(&room, SITE);
        assert_eq!(refusals.wait(&room, SITE), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn made_up_sites_take_no_more_memory_than_the_bound() {
        let refusals = Refusals::default();
        let room = RoomName::parse("a").unwrap();
        for i in 0..(MAX_SITES as u128 + 5) {
            refusals.refuse(&room, SiteId::from_bytes(i.to_be_bytes()));
        }
        assert!(refusals.locked().len() <= MAX_SITES);
    }
}
