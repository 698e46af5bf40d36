//! Which identity a site of the room is.
//!
//! Whoever may announce any site id can move the position that the room has for another's, and the other's changes are missing for
//! ever. So the first identity that writes from a site has it to itself. It is remembered in the room's own database, in the
//! transaction that applies what it writes.

use rusqlite::{Connection, OptionalExtension};
use tower_sqlite_sync_wire::SiteId;

use crate::primary::Rights;

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS crsql_sync_sites (
        number INTEGER PRIMARY KEY,
        site_id BLOB NOT NULL UNIQUE,
        identity TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS crsql_sync_sites_identity ON crsql_sync_sites (identity, number);";

/// How many sites of one identity are remembered, the last ones. Who makes up more forgets only their own.
const MOST: i64 = 1_000;

/// Whose the site is. To be asked in a transaction that has read something: then SQLite knows of the tables that others have made.
pub(super) fn holder(conn: &Connection, site: SiteId) -> rusqlite::Result<Option<String>> {
    if !conn.table_exists(Some(c"main"), c"crsql_sync_sites")? {
        return Ok(None);
    }
    conn.prepare_cached("SELECT identity FROM main.crsql_sync_sites WHERE site_id = ?1")?
        .query_row([site.as_bytes().as_slice()], |row| row.get(0))
        .optional()
}

/// Whether somebody with these rights may write from the site.
pub(super) fn admits(holder: Option<&str>, rights: &Rights) -> bool {
    holder.is_none_or(|holder| [&rights.identity, &rights.rebinds].into_iter().flatten().any(|name| **name == *holder))
}

/// Remembers that the site is that identity's, if there is one.
pub(super) fn bind(tx: &Connection, site: SiteId, holder: Option<&str>, rights: &Rights) -> rusqlite::Result<()> {
    let Some(identity) = rights.identity.as_deref().filter(|identity| holder != Some(identity)) else { return Ok(()) };
    tx.execute_batch(TABLE)?;
    tx.execute(
        "INSERT OR REPLACE INTO crsql_sync_sites (site_id, identity) VALUES (?1, ?2)",
        (site.as_bytes().as_slice(), identity),
    )?;
    tx.execute(
        "DELETE FROM crsql_sync_sites WHERE number IN (
             SELECT number FROM crsql_sync_sites WHERE identity = ?1 ORDER BY number DESC LIMIT -1 OFFSET ?2)",
        (identity, MOST),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn rights(identity: Option<&str>, rebinds: Option<&str>) -> Rights {
        Rights { identity: identity.map(Arc::from), rebinds: rebinds.map(Arc::from), ..Rights::default() }
    }

    fn site(n: u64) -> SiteId {
        SiteId::from_bytes((u128::from(n) << 64).to_be_bytes())
    }

    #[test]
    fn a_site_is_whose_it_is() {
        assert!(admits(None, &rights(None, None)) && admits(None, &rights(Some("ada"), None)));
        assert!(admits(Some("ada"), &rights(Some("ada"), None)));
        for other in [None, Some("grace")] {
            assert!(!admits(Some("ada"), &rights(other, None)));
            assert!(!admits(Some("ada"), &rights(other, Some("guest"))));
            assert!(admits(Some("ada"), &rights(other, Some("ada"))));
        }
    }

    #[test]
    fn the_first_identity_is_remembered_and_another_one_takes_its_place() {
        let conn = Connection::open_in_memory().unwrap();
        let bound = |rights: &Rights| {
            let before = holder(&conn, site(1)).unwrap();
            bind(&conn, site(1), before.as_deref(), rights).unwrap();
            holder(&conn, site(1)).unwrap()
        };
        assert_eq!(bound(&rights(None, None)), None, "nobody has it");
        assert_eq!(bound(&rights(Some("guest"), None)).as_deref(), Some("guest"));
        assert_eq!(bound(&rights(Some("ada"), Some("guest"))).as_deref(), Some("ada"));
        assert_eq!(bound(&rights(None, Some("ada"))).as_deref(), Some("ada"), "who has no name takes nothing away");
    }

    #[test]
    fn a_holder_that_another_process_has_written_is_found_by_a_transaction_that_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let (mut ours, theirs) = (Connection::open(&path).unwrap(), Connection::open(&path).unwrap());
        ours.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        ours.execute_batch("CREATE TABLE t (x)").unwrap();
        let mut found = || {
            let tx = ours.transaction().unwrap();
            tx.prepare_cached("SELECT count(*) FROM t").unwrap().query_row([], |_| Ok(())).unwrap();
            holder(&tx, site(1)).unwrap()
        };
        assert_eq!(found(), None);
        bind(&theirs, site(1), None, &rights(Some("ada"), None)).unwrap();
        assert_eq!(found().as_deref(), Some("ada"));
        theirs.execute_batch("DROP TABLE crsql_sync_sites").unwrap();
        assert_eq!(found(), None);
    }

    #[test]
    fn who_makes_up_sites_forgets_only_their_own() {
        let conn = Connection::open_in_memory().unwrap();
        let most = u64::try_from(MOST).unwrap();
        let tx = conn.unchecked_transaction().unwrap();
        bind(&tx, site(0), None, &rights(Some("ada"), None)).unwrap();
        for n in 1..=most + 1 {
            bind(&tx, site(n), None, &rights(Some("mallory"), None)).unwrap();
        }
        let known = |n| holder(&tx, site(n)).unwrap();
        assert_eq!([known(0).as_deref(), known(1).as_deref()], [Some("ada"), None]);
        assert_eq!(known(2).as_deref(), Some("mallory"));
        let rows: i64 = tx.query_row("SELECT count(*) FROM crsql_sync_sites", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, MOST + 1);
    }
}
