//! The version clock: one `db_version` a transaction, and `seq` inside it.
//!
//! The current version is the highest that storage holds, and is cached. The cache is good as long as the database's content
//! stamp is the one it was read at, or the one that our own commit, of which the commit hook told, has made of it. So a
//! version is never used twice, even where an application replaced the hooks: the stamp doesn't fit, and storage is read.

use std::cell::Cell;

use rusqlite::OptionalExtension;

use crate::state::Engine;
use crate::{Error, Result, raw};

/// No version of ours passes this: JavaScript counts no further.
pub(crate) const MAX_VERSION: i64 = 1 << 53;

/// The part of the clock that lives in memory.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    committed: Cell<Option<Committed>>,
    /// The version of the transaction under way.
    pending: Cell<Option<i64>>,
    /// The next seq of the transaction under way.
    seq: Cell<i64>,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    version: i64,
    /// The content stamp at which `version` is the database's.
    stamp: u32,
}

impl Clock {
    /// A transaction is being committed. `stamp` is the content stamp before it, if the commit will change the main
    /// database's: SQLite adds one to it when the commit is done.
    ///
    /// If the transaction took no version, storage decides, as in the reference: a version that was taken before, without
    /// a change being written, is forgotten. Whoever follows changes has to go by the stored version.
    pub(crate) fn committed(&self, stamp: Option<u32>) {
        let version = self.pending.take();
        self.committed
            .set(version.zip(stamp).map(|(version, stamp)| Committed { version, stamp: stamp.wrapping_add(1) }));
        self.seq.set(0);
    }

    /// The transaction was rolled back, and `stamp` is the content stamp again. It may have been on its way to a commit that
    /// failed after the hook; what the hook made of it must not be believed when the stamp grows for another reason.
    pub(crate) fn rolled_back(&self, stamp: Option<u32>) {
        self.committed.set(self.committed.get().filter(|committed| Some(committed.stamp) == stamp));
        self.pending.set(None);
        self.seq.set(0);
    }

    /// The version of the transaction under way, if it has taken one.
    pub(crate) fn pending(&self) -> Option<i64> {
        self.pending.get()
    }

    /// Raises the version of the transaction under way.
    pub(crate) fn raise_pending(&self, version: i64) {
        self.pending.set(self.pending.get().max(Some(version)));
    }

    /// The seq that the next entry will get.
    pub(crate) fn seq(&self) -> i64 {
        self.seq.get()
    }

    /// Takes `count` seqs; returns the first.
    pub(crate) fn take_seqs(&self, count: usize) -> Result<i64> {
        let first = self.seq.get();
        let count = i64::try_from(count).map_err(|_| Error::ClockExhausted)?;
        self.seq.set(first.checked_add(count).ok_or(Error::ClockExhausted)?);
        Ok(first)
    }

    /// Takes one seq.
    pub(crate) fn take_seq(&self) -> Result<i64> {
        self.take_seqs(1)
    }
}

impl Engine {
    /// The version of the database. Inside a transaction: the one before it.
    pub(crate) fn current_version(&self) -> Result<i64> {
        self.refresh_schema()?;
        self.current_version_after_refresh()
    }

    /// The same, just after [`refresh_schema`](Engine::refresh_schema): it has read, so that a commit of another connection
    /// shows in the stamp.
    pub(crate) fn current_version_after_refresh(&self) -> Result<i64> {
        let stamp = raw::content_stamp(self.db())?;
        if let Some(committed) = self.clock.committed.get().filter(|committed| committed.stamp == stamp) {
            return Ok(committed.version);
        }
        let version = self.read_version()?;
        self.clock.committed.set(Some(Committed { version, stamp }));
        Ok(version)
    }

    /// Takes the version of the transaction under way, at least `at_least`.
    pub(crate) fn next_version(&self, at_least: i64) -> Result<i64> {
        self.refresh_schema()?;
        self.next_version_after_refresh(at_least)
    }

    /// The same, just after [`refresh_schema`](Engine::refresh_schema).
    pub(crate) fn next_version_after_refresh(&self, at_least: i64) -> Result<i64> {
        let least = next_after(self.current_version_after_refresh()?)?;
        let next = least.max(self.clock.pending().unwrap_or(0)).max(at_least);
        if next > MAX_VERSION {
            return Err(Error::ClockExhausted);
        }
        self.clock.raise_pending(next);
        Ok(next)
    }

    /// The version as storage has it, what the transaction under way has written included.
    pub(crate) fn stored_version(&self) -> Result<i64> {
        self.refresh_schema()?;
        self.read_version()
    }

    /// Has storage say that no version up to `to` is free. The key is the one under which the reference keeps the version when
    /// it compacts clock tables, so that it keeps to it as well.
    pub(crate) fn raise_stored_version(&self, to: i64) -> Result<()> {
        if to > MAX_VERSION {
            return Err(Error::ClockExhausted);
        }
        let _writes = self.own_writes();
        self.db()
            .prepare_cached(
                "INSERT INTO main.crsql_master (key, value) VALUES ('pre_compact_dbversion', ?1)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE CAST(value AS INTEGER) < excluded.value",
            )?
            .execute([to])?;
        Ok(())
    }

    fn read_version(&self) -> Result<i64> {
        let compacted: Option<i64> = self
            .db()
            .prepare_cached("SELECT CAST(value AS INTEGER) FROM main.crsql_master WHERE key = 'pre_compact_dbversion'")?
            .query_row([], |row| row.get(0))
            .optional()?
            .flatten();
        let newest = self.newest(|_, versions| versions.iter().copied().max().flatten())?;
        Ok(newest.into_iter().chain(compacted).fold(0, i64::max))
    }
}

/// The version after this one.
pub(crate) fn next_after(version: i64) -> Result<i64> {
    version.checked_add(1).filter(|next| *next <= MAX_VERSION).ok_or(Error::ClockExhausted)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use crate::{functions, load};

    #[test]
    fn a_write_lock_that_is_given_back_leaves_the_version_known() {
        let folder = tempfile::tempdir().unwrap();
        let conn = Connection::open(folder.path().join("db")).unwrap();
        load(&conn).unwrap();
        conn.execute_batch("CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('foo');")
            .unwrap();
        let engine = functions::engine_of(&conn).unwrap();
        let known = |sql: &str| {
            conn.execute_batch(sql).unwrap();
            engine.clock.committed.get().map(|committed| committed.version)
        };
        assert_eq!(known("INSERT INTO foo VALUES (1, 2)"), Some(1));
        assert_eq!(known("BEGIN IMMEDIATE; ROLLBACK"), Some(1));
        assert_eq!(known("BEGIN IMMEDIATE; COMMIT"), None, "storage decides");
    }
}
