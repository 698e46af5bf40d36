//! How much of the room each site has said that it has seen, and how much the room has of it: a site that has seen less than before
//! went back in time.
//!
//! A client whose database was restored from a backup keeps its site id, and uses its own db_versions again for other changes. The
//! room has a position for it that is ahead of them, so they would never be asked for; and what it has lost of its own is never
//! sent to it, because it is its author. Both are mended by forgetting the position.
//!
//! A client that was never sent anything announces nothing that could fall, and says the same whenever it reconnects before its page
//! is loaded again. If the room has only a [few](FEW) changes of it, they are asked for each time, because that costs nothing. Others
//! are sent one of their own changes, so that they have a position from the next page on.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension};
use tokio::time::Instant;
use tower_sqlite_sync_wire::SiteId;

/// In the room's own database, where the positions of the sites are. `changes` counts what a site has sent since its position was
/// last forgotten, up to [`MANY`].
const TABLE: &str = "CREATE TABLE IF NOT EXISTS crsql_sync_announced (
    site_id BLOB PRIMARY KEY NOT NULL,
    db_version INTEGER NOT NULL,
    changes INTEGER NOT NULL
) WITHOUT ROWID";

/// Sites that are remembered. What they have announced is written with the next commit, and not worth one of its own.
const MOST: usize = 10_000;

/// So many changes of a site are worth nothing to ask for again. They are some ten kilobytes.
const FEW: i64 = 256;

/// More than a few, and not counted any further.
const MANY: i64 = FEW + 1;

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

/// What the database has of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// How much of the room it had seen when it was last here.
    seen: i64,
    changes: i64,
}

impl Announced {
    /// Takes note of what a site says that it has seen, over a connection that began at `arrived`. `before` is what the database
    /// [has](known) of that.
    ///
    /// A connection that is older than one that was heard already says nothing: the client is no longer at its other end.
    pub(super) fn note(&self, site: SiteId, seen: i64, arrived: Instant, before: Option<Known>) -> Standing {
        let mut notes = self.locked();
        let noted = notes.get(&site).copied();
        if noted.is_some_and(|noted| arrived < noted.arrived) {
            return Standing::GoesOn;
        }
        let written = before.map(|before| before.seen);
        let announced = noted.map(|noted| noted.seen).or(written);
        if noted.is_none() && notes.len() >= MOST {
            notes.retain(|_, note| !note.written);
        }
        if noted.is_some() || notes.len() < MOST {
            let written = written == Some(seen) && noted.is_none_or(|noted| noted.written);
            notes.insert(site, Note { seen, arrived, written });
        }
        match before {
            _ if announced.is_some_and(|announced| seen < announced) => Standing::WentBack,
            Some(Known { changes: 1..=FEW, .. }) if seen == 0 => Standing::MayHaveGoneBack,
            _ if seen == 0 => Standing::Untold,
            _ => Standing::GoesOn,
        }
    }

    /// Writes what is new, inside a transaction that is committed anyway. What is returned is to be given to
    /// [`written`](Self::written) then.
    pub(super) fn write(&self, conn: &Connection) -> rusqlite::Result<Vec<(SiteId, i64)>> {
        let unwritten: Vec<_> =
            self.locked().iter().filter(|(_, note)| !note.written).map(|(site, note)| (*site, note.seen)).collect();
        if !unwritten.is_empty() {
            conn.execute_batch(TABLE)?;
            let mut write = conn.prepare_cached(
                "INSERT INTO crsql_sync_announced VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET db_version = excluded.db_version",
            )?;
            for (site, seen) in &unwritten {
                write.execute((site.as_bytes().as_slice(), seen, MANY))?;
            }
        }
        Ok(unwritten)
    }

    /// Whether there is anything to [write](Self::write).
    pub(super) fn has_unwritten(&self) -> bool {
        self.locked().values().any(|note| !note.written)
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

/// Makes the table in a new database, where that costs least: later it would have every statement prepared again.
pub(super) fn prepare(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch(TABLE)
}

/// What the database has of a site, as far as that is written.
pub(super) fn known(conn: &Connection, site: SiteId) -> rusqlite::Result<Option<Known>> {
    if !exists(conn)? {
        return Ok(None);
    }
    conn.prepare_cached("SELECT db_version, changes FROM main.crsql_sync_announced WHERE site_id = ?1")?
        .query_row([site.as_bytes().as_slice()], |row| Ok(Known { seen: row.get(0)?, changes: row.get(1)? }))
        .optional()
}

/// Counts what a site has sent. `is_new` says whether the room had nothing of it before.
pub(super) fn count(tx: &Connection, site: SiteId, is_new: bool, changes: usize) -> rusqlite::Result<()> {
    if !exists(tx)? {
        tx.execute_batch(TABLE)?;
    }
    let changes = i64::try_from(changes).unwrap_or(MANY).min(MANY);
    // Of others nobody knows how much there was before they were counted.
    let begin = if is_new { changes } else { MANY };
    tx.prepare_cached(
        "INSERT INTO main.crsql_sync_announced VALUES (?1, 0, ?2)
         ON CONFLICT DO UPDATE SET changes = min(changes + ?3, ?4) WHERE changes < ?4",
    )?
    .execute((site.as_bytes().as_slice(), begin, changes, MANY))?;
    Ok(())
}

/// Has the site never be asked again for what it has sent, unless it is known that it went back: not all of it was applied.
pub(super) fn never_ask_again(tx: &Connection, site: SiteId) -> rusqlite::Result<()> {
    count(tx, site, false, usize::MAX)
}

/// The position of the site is forgotten: what it has sent is counted from now on.
pub(super) fn begin_again(tx: &Connection, site: SiteId) -> rusqlite::Result<()> {
    tx.execute_batch(TABLE)?;
    tx.prepare_cached("UPDATE crsql_sync_announced SET changes = 0 WHERE site_id = ?1")?
        .execute([site.as_bytes().as_slice()])?;
    Ok(())
}

/// Whether there is the table, in a transaction that has read something: then SQLite knows of the tables that others have made.
fn exists(conn: &Connection) -> rusqlite::Result<bool> {
    conn.table_exists(Some(c"main"), c"crsql_sync_announced")
}

/// Forgets everything: the room has become another site, of which nobody has seen anything.
pub(super) fn forget_all(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("DROP TABLE IF EXISTS crsql_sync_announced")
}

/// Whether a site is where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    GoesOn,
    /// It was never sent anything, so nobody would see it go back.
    Untold,
    /// The same, and it has written so little that it may be asked for all of it.
    MayHaveGoneBack,
    /// It has seen less of the room than before: its database is, or may be, an earlier one.
    WentBack,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SITE: SiteId = SiteId::from_bytes([1; 16]);
    const OTHER: SiteId = SiteId::from_bytes([2; 16]);

    /// The room has that much of a site which has seen `seen` of it.
    fn known_as(seen: i64, changes: i64) -> Option<Known> {
        Some(Known { seen, changes })
    }

    #[test]
    fn a_site_that_has_seen_less_than_before_went_back_once() {
        let announced = Announced::default();
        let note = |seen| announced.note(SITE, seen, Instant::now(), None);
        assert_eq!([note(5), note(5), note(9)], [Standing::GoesOn; 3]);
        assert_eq!([note(7), note(7)], [Standing::WentBack, Standing::GoesOn]);
    }

    #[test]
    fn a_site_that_has_seen_nothing_is_asked_for_a_few_changes_and_told_something_if_there_are_more() {
        let announced = Announced::default();
        let note = |seen, changes| announced.note(SITE, seen, Instant::now(), known_as(0, changes));
        assert_eq!([note(0, 1), note(0, FEW), note(0, FEW)], [Standing::MayHaveGoneBack; 3], "each time");
        assert_eq!([note(0, MANY), note(0, 0)], [Standing::Untold; 2]);
        assert_eq!(note(1, 1), Standing::GoesOn);
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
    fn what_a_site_sends_is_counted_from_the_beginning_or_not_at_all() {
        let conn = Connection::open_in_memory().unwrap();
        let changes = |site| known(&conn, site).unwrap().unwrap().changes;
        count(&conn, SITE, true, 3).unwrap();
        count(&conn, SITE, false, 4).unwrap();
        count(&conn, OTHER, false, 1).unwrap();
        assert_eq!([changes(SITE), changes(OTHER)], [7, MANY]);
        let announced = Announced::default();
        announced.note(SITE, 9, Instant::now(), known(&conn, SITE).unwrap());
        announced.write(&conn).unwrap();
        assert_eq!(known(&conn, SITE).unwrap(), known_as(9, 7), "whatever it announces");
        count(&conn, SITE, false, usize::MAX).unwrap();
        assert_eq!(changes(SITE), MANY);
        begin_again(&conn, SITE).unwrap();
        count(&conn, SITE, true, 5).unwrap();
        assert_eq!(changes(SITE), 5);
        never_ask_again(&conn, SITE).unwrap();
        assert_eq!(changes(SITE), MANY);
    }

    #[test]
    fn what_was_written_is_remembered_by_the_file() {
        let conn = Connection::open_in_memory().unwrap();
        let announced = Announced::default();
        let note =
            |announced: &Announced, site, seen| announced.note(site, seen, Instant::now(), known(&conn, site).unwrap());
        note(&announced, SITE, 9);
        let written = announced.write(&conn).unwrap();
        note(&announced, OTHER, 3);
        announced.written(&written);
        assert_eq!(announced.write(&conn).unwrap(), [(OTHER, 3)]);
        assert_eq!(known(&conn, SITE).unwrap(), known_as(9, MANY));
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
