//! How far this database has seen its peers: `crsql_tracked_peers`, whole-database entries of what was received.

use rusqlite::{OptionalExtension, params};

use crate::{Crr, Position, Result, SiteId};

impl Crr<'_> {
    /// The position up to which changes of `site` were received; `(0, 0)` if it was never heard of.
    pub fn position(&self, site: SiteId) -> Result<Position> {
        let mut statement = self.engine.db().prepare_cached(
            "SELECT version, seq FROM main.crsql_tracked_peers WHERE site_id = ?1 AND tag = 0 AND event = 0",
        )?;
        let position = statement
            .query_row([site.as_bytes().as_slice()], |row| {
                Ok(Position { db_version: row.get(0)?, seq: row.get::<_, Option<i64>>(1)?.unwrap_or(0) })
            })
            .optional()?;
        Ok(position.unwrap_or_default())
    }

    /// Moves the position of `site` forward. A position behind the one that is known changes nothing.
    pub fn set_position(&self, site: SiteId, to: Position) -> Result<()> {
        let _writes = self.engine.own_writes();
        self.engine
            .db()
            .prepare_cached(
                "INSERT INTO main.crsql_tracked_peers (site_id, version, seq, tag, event) VALUES (?1, ?2, ?3, 0, 0)
                 ON CONFLICT (site_id, tag, event) DO UPDATE SET version = excluded.version, seq = excluded.seq
                 WHERE (excluded.version, excluded.seq) > (version, coalesce(seq, 0))",
            )?
            .execute(params![site.as_bytes().as_slice(), to.db_version, to.seq])?;
        Ok(())
    }

    /// Forgets how far `site` was seen, as if it had never been heard of: what it sends next starts from the beginning.
    ///
    /// For a site whose database went back in time: it uses versions again that were received from it before, for other changes.
    pub fn forget_position(&self, site: SiteId) -> Result<()> {
        let _writes = self.engine.own_writes();
        self.engine
            .db()
            .prepare_cached("DELETE FROM main.crsql_tracked_peers WHERE site_id = ?1 AND tag = 0 AND event = 0")?
            .execute([site.as_bytes().as_slice()])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::{Position, SiteId, load};

    #[test]
    fn a_position_only_moves_forward() {
        let conn = Connection::open_in_memory().unwrap();
        let crr = load(&conn).unwrap();
        let site = SiteId::from_bytes([7; 16]);
        let at = |db_version, seq| Position { db_version, seq };
        assert_eq!(crr.position(site).unwrap(), at(0, 0));
        for (to, then) in [
            (at(5, 3), at(5, 3)),
            (at(4, 9), at(5, 3)),
            (at(5, 2), at(5, 3)),
            (at(5, 4), at(5, 4)),
            (at(6, 0), at(6, 0)),
        ] {
            crr.set_position(site, to).unwrap();
            assert_eq!(crr.position(site).unwrap(), then);
        }
        let other = SiteId::from_bytes([8; 16]);
        assert_eq!(crr.position(other).unwrap(), at(0, 0));
        crr.set_position(other, at(3, 0)).unwrap();
        crr.forget_position(site).unwrap();
        assert_eq!((crr.position(site).unwrap(), crr.position(other).unwrap()), (at(0, 0), at(3, 0)));
        crr.set_position(site, at(2, 0)).unwrap();
        assert_eq!(crr.position(site).unwrap(), at(2, 0));
    }
}
