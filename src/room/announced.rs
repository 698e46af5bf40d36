//! How much of the room each site has said that it has seen: a site that has seen less than before went back in time.
//!
//! A client whose database was restored from a backup keeps its site id, and uses its own db_versions again for other changes. The
//! room has a position for it that is ahead of them, so they would never be asked for; and what it has lost of its own is never
//! sent to it, because it is its author. Both are mended by forgetting the position, once.
//!
//! A client that was never sent anything announces nothing that could fall, and is not recognised: what it says is what it says each
//! time that it reconnects before its page is loaded again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension};
use tokio::time::Instant;
use tower_sqlite_sync_wire::SiteId;

/// In the room's own database, where the positions of the sites are.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS crsql_sync_announced (
    site_id BLOB PRIMARY KEY NOT NULL,
    db_version INTEGER NOT NULL
) WITHOUT ROWID";

/// Sites that are remembered. What they have announced is written with the next commit, and not worth one of its own.
const MOST: usize = 10_000;

/// What was announced since the room was opened.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    notes: Mutex<HashMap<SiteId, Note>>,
}

#[derive(Debug, Clone, Copy)]
struct Note {
    seen: i64,
    /// When the connection began that said so.
    arrived: Instant,
    written: bool,
}

impl Announced {
    /// Takes note of what a site says that it has seen, over a connection that began at `arrived`. `before` is what the database
    /// [has](last) of that.
    ///
    /// A connection that is older than one that was heard already says nothing: the client is no longer at its other end.
    pub(super) fn note(&self, site: SiteId, seen: i64, arrived: Instant, before: Option<i64>) -> Standing {
        let mut notes = self.locked();
        let known = notes.get(&site).copied();
        if known.is_some_and(|known| arrived < known.arrived) {
            return Standing::GoesOn;
        }
        let announced = known.map(|known| known.seen).or(before);
        if known.is_none() && notes.len() >= MOST {
            notes.retain(|_, note| !note.written);
        }
        if known.is_some() || notes.len() < MOST {
            let written = before == Some(seen) && known.is_none_or(|known| known.written);
            notes.insert(site, Note { seen, arrived, written });
        }
        if announced.is_some_and(|announced| seen < announced) { Standing::WentBack } else { Standing::GoesOn }
    }

    /// Writes what is new, inside a transaction that is committed anyway. What is returned is to be given to
    /// [`written`](Self::written) then.
    pub(super) fn write(&self, conn: &Connection) -> rusqlite::Result<Vec<(SiteId, i64)>> {
        let unwritten: Vec<_> =
            self.locked().iter().filter(|(_, note)| !note.written).map(|(site, note)| (*site, note.seen)).collect();
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
        let mut notes = self.locked();
        for (site, seen) in written {
            if let Some(note) = notes.get_mut(site) {
                note.written |= note.seen == *seen;
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<SiteId, Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much of the room a site had seen when it was last here, as far as that is written.
pub(super) fn last(conn: &Connection, site: SiteId) -> rusqlite::Result<Option<i64>> {
    let exists = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'crsql_sync_announced')";
    if !conn.prepare_cached(exists)?.query_row([], |row| row.get(0))? {
        return Ok(None);
    }
    conn.prepare_cached("SELECT db_version FROM crsql_sync_announced WHERE site_id = ?1")?
        .query_row([site.as_bytes().as_slice()], |row| row.get(0))
        .optional()
}

/// Forgets everything: the room has become another site, of which nobody has seen anything.
pub(super) fn forget_all(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("DROP TABLE IF EXISTS crsql_sync_announced")
}

/// Whether a site is where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    GoesOn,
    /// It has seen less of the room than before: its database is, or may be, an earlier one.
    WentBack,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SITE: SiteId = SiteId::from_bytes([1; 16]);
    const OTHER: SiteId = SiteId::from_bytes([2; 16]);

    #[test]
    fn a_site_that_has_seen_less_than_before_went_back_once() {
        let announced = Announced::default();
        let note = |seen| announced.note(SITE, seen, Instant::now(), None);
        assert_eq!([note(5), note(5), note(9)], [Standing::GoesOn; 3]);
        assert_eq!([note(7), note(7)], [Standing::WentBack, Standing::GoesOn]);
    }

    #[test]
    fn a_connection_that_is_heard_late_says_nothing() {
        let announced = Announced::default();
        let (first, second) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        assert_eq!(announced.note(SITE, 9, second, None), Standing::GoesOn);
        assert_eq!(announced.note(SITE, 5, first, None), Standing::GoesOn);
        assert_eq!(announced.note(SITE, 5, second, None), Standing::WentBack);
    }

    #[test]
    fn what_was_written_is_remembered_by_the_file() {
        let conn = Connection::open_in_memory().unwrap();
        let announced = Announced::default();
        let note =
            |announced: &Announced, site, seen| announced.note(site, seen, Instant::now(), last(&conn, site).unwrap());
        note(&announced, SITE, 9);
        let written = announced.write(&conn).unwrap();
        note(&announced, OTHER, 3);
        announced.written(&written);
        assert_eq!(announced.write(&conn).unwrap(), [(OTHER, 3)]);
        assert_eq!(last(&conn, SITE).unwrap(), Some(9));
        assert_eq!(note(&Announced::default(), SITE, 8), Standing::WentBack);
        forget_all(&conn).unwrap();
        assert_eq!(note(&Announced::default(), SITE, 8), Standing::GoesOn);
    }

    #[test]
    fn made_up_sites_take_no_more_memory_than_the_bound() {
        let announced = Announced::default();
        for n in 0..=MOST as u128 {
            announced.note(SiteId::from_bytes(n.to_be_bytes()), 1, Instant::now(), None);
        }
        assert_eq!(announced.locked().len(), MOST);
    }
}
