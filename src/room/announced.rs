//! How much of the room each site has said that it has seen: a site that has seen less than before went back in time.
//!
//! A client whose database was restored from a backup keeps its site id, and uses its own db_versions again for other changes. The
//! room has a position for it that is ahead of them, so they would never be asked for; and what it has lost of its own is never
//! sent to it, because it is its author. Both are mended by forgetting the position, once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension};
use tower_sqlite_sync_wire::SiteId;

/// In the room's own database, where the positions of the sites are.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS crsql_sync_announced (
    site_id BLOB PRIMARY KEY NOT NULL,
    db_version INTEGER NOT NULL
) WITHOUT ROWID";

/// Sites that may wait to be written. They are with the next commit, and not worth one of their own.
const MOST_UNWRITTEN: usize = 10_000;

/// A site that says it has seen nothing may have gone back to before it was first sent anything. If the room has only this many
/// db_versions of it, it isn't worth finding out: asking for all of them costs nothing.
const FEW: i64 = 16;

/// What was announced and is not written yet.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    unwritten: Mutex<HashMap<SiteId, i64>>,
}

impl Announced {
    /// Takes note of what a site says that it has seen. `before` is what the database has of it.
    pub(super) fn note(&self, site: SiteId, seen: i64, before: &Before) -> Standing {
        let mut unwritten = self.locked();
        let announced = unwritten.get(&site).copied().or(before.announced);
        if announced != Some(seen) && (unwritten.len() < MOST_UNWRITTEN || unwritten.contains_key(&site)) {
            unwritten.insert(site, seen);
        }
        if announced.is_some_and(|announced| seen < announced) {
            Standing::WentBack
        } else if seen == 0 && (1..=FEW).contains(&before.received) {
            Standing::Young
        } else {
            Standing::GoesOn
        }
    }

    /// Writes what is new, inside a transaction that is committed anyway. What is returned is to be given to
    /// [`written`](Self::written) then.
    pub(super) fn write(&self, conn: &Connection) -> rusqlite::Result<Vec<(SiteId, i64)>> {
        let unwritten: Vec<_> = self.locked().iter().map(|(site, seen)| (*site, *seen)).collect();
        if !unwritten.is_empty() {
            conn.execute_batch(TABLE)?;
            let mut write = conn.prepare_cached("INSERT OR REPLACE INTO crsql_sync_announced VALUES (?1, ?2)")?;
            for (site, seen) in &unwritten {
                write.execute((site.as_bytes().as_slice(), seen))?;
            }
        }
        Ok(unwritten)
    }

    /// What was written is committed.
    pub(super) fn written(&self, written: &[(SiteId, i64)]) {
        let mut unwritten = self.locked();
        for (site, seen) in written {
            if unwritten.get(site) == Some(seen) {
                unwritten.remove(site);
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<SiteId, i64>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a database has of a site that announces itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Before {
    /// How much of the room it had seen when it was last here.
    pub(super) announced: Option<i64>,
    /// The db_version up to which the room has its changes.
    pub(super) received: i64,
}

impl Before {
    pub(super) fn read(conn: &Connection, site: crr::SiteId) -> crr::Result<Self> {
        let received = crr::Crr::of(conn)?.position(site)?.db_version;
        let exists = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'crsql_sync_announced')";
        let exists: bool = conn.prepare_cached(exists)?.query_row([], |row| row.get(0))?;
        let announced = match exists {
            true => conn
                .prepare_cached("SELECT db_version FROM crsql_sync_announced WHERE site_id = ?1")?
                .query_row([site.as_bytes().as_slice()], |row| row.get(0))
                .optional()?,
            false => None,
        };
        Ok(Self { announced, received })
    }
}

/// Forgets everything: the room has become another site, of which nobody has seen anything.
pub(super) fn forget_all(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("DROP TABLE IF EXISTS crsql_sync_announced")
}

/// Whether a site is where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    GoesOn,
    /// It says nothing by which one could tell. It is asked for the little that there can be, whatever the room has of it.
    Young,
    /// It has seen less of the room than before: its database is, or may be, an earlier one.
    WentBack,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: SiteId = SiteId::from_bytes([1; 16]);
    const OTHER: SiteId = SiteId::from_bytes([2; 16]);

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        crr::load(&conn).unwrap();
        conn
    }

    fn before(conn: &Connection) -> Before {
        Before::read(conn, crr::SiteId::from_bytes([1; 16])).unwrap()
    }

    #[test]
    fn a_site_that_has_seen_less_than_before_went_back_once() {
        let conn = database();
        let announced = Announced::default();
        let note = |seen| announced.note(SITE, seen, &before(&conn));
        assert_eq!([note(5), note(5), note(9)], [Standing::GoesOn; 3]);
        assert_eq!([note(7), note(7)], [Standing::WentBack, Standing::GoesOn]);
    }

    #[test]
    fn what_was_written_is_remembered_by_the_file() {
        let conn = database();
        let announced = Announced::default();
        announced.note(SITE, 9, &before(&conn));
        let written = announced.write(&conn).unwrap();
        announced.note(OTHER, 3, &before(&conn));
        announced.written(&written);
        assert_eq!(announced.write(&conn).unwrap(), [(OTHER, 3)]);
        assert_eq!(before(&conn), Before { announced: Some(9), received: 0 });
        assert_eq!(Announced::default().note(SITE, 8, &before(&conn)), Standing::WentBack);
        forget_all(&conn).unwrap();
        assert_eq!(Announced::default().note(SITE, 8, &before(&conn)), Standing::GoesOn);
    }

    #[test]
    fn one_that_has_seen_nothing_is_asked_for_the_little_that_the_room_has_of_it() {
        let announced = Announced::default();
        let note = |seen, received| announced.note(SITE, seen, &Before { announced: None, received });
        assert_eq!(note(0, 0), Standing::GoesOn, "it is new");
        assert_eq!(note(0, FEW), Standing::Young);
        assert_eq!(note(0, FEW + 1), Standing::GoesOn);
        assert_eq!(note(1, FEW), Standing::GoesOn);
    }

    #[test]
    fn made_up_sites_take_no_more_memory_than_the_bound() {
        let announced = Announced::default();
        for n in 0..=MOST_UNWRITTEN as u128 {
            announced.note(SiteId::from_bytes(n.to_be_bytes()), 1, &Before { announced: None, received: 0 });
        }
        assert_eq!(announced.locked().len(), MOST_UNWRITTEN);
    }
}
