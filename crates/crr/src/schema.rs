//! Which tables are CRRs. The answer is cached, and checked against the database before each use.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rusqlite::Connection;

use crate::definitions::Definitions;
use crate::state::Engine;
use crate::table::Table;
use crate::{Error, Result, raw};

/// Ends the name of a CRR's clock table.
pub(crate) const CLOCK_SUFFIX: &str = "__crsql_clock";
/// Ends the name of a CRR's lookaside table.
pub(crate) const LOOKASIDE_SUFFIX: &str = "__crsql_pks";

/// The CRRs of a database, in the order of their clock tables.
#[derive(Debug)]
pub(crate) struct Schema {
    definitions: Arc<Definitions>,
    states: Vec<State>,
}

/// A CRR, as one connection works on it.
#[derive(Debug, Default)]
struct State {
    /// Whether the clock table may have been written to.
    marked: AtomicBool,
    /// `None` inside if the table, or its lookaside, is gone.
    table: OnceLock<Option<Arc<Table>>>,
}

impl Schema {
    fn read(db: &Connection) -> Result<Schema> {
        let definitions = Definitions::of(db)?;
        let states = definitions.entries.iter().map(|_| State::default()).collect();
        Ok(Schema { definitions, states })
    }

    /// The CRR of this name: exact, case included. Marks it: whoever asks for one by its name may write to it.
    pub(crate) fn table(&self, db: &Connection, name: &str) -> Result<Arc<Table>> {
        let at = self.definitions.by_name.get(name);
        if let Some(state) = at.and_then(|at| self.states.get(*at)) {
            state.marked.store(true, Ordering::Relaxed);
        }
        let table = at.map(|at| self.table_at(db, *at)).transpose()?.flatten();
        table.ok_or_else(|| Error::UnknownTable { table: name.to_owned() })
    }

    /// Whether there is a clock table for a table of this name.
    pub(crate) fn has_clock(&self, name: &str) -> bool {
        self.definitions.by_name.contains_key(name)
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// All CRRs.
    pub(crate) fn tables(&self, db: &Connection) -> Result<Vec<Arc<Table>>> {
        (0..self.len()).filter_map(|at| self.table_at(db, at).transpose()).collect()
    }

    /// The CRR of the clock table at a position.
    pub(crate) fn table_at(&self, db: &Connection, at: usize) -> Result<Option<Arc<Table>>> {
        let (Some(entry), Some(state)) = (self.definitions.entries.get(at), self.states.get(at)) else {
            return Ok(None);
        };
        if let Some(table) = state.table.get() {
            return Ok(table.clone());
        }
        let table = self.definitions.table(db, entry)?.map(|definition| Arc::new(Table::new(definition)));
        Ok(state.table.get_or_init(|| table).clone())
    }

    /// How many clock tables there are; those without a table included.
    pub(crate) fn len(&self) -> usize {
        self.states.len()
    }

    /// Queries for the newest versions in all clock tables, each of one row, with a column for each of the next tables.
    pub(crate) fn newest_of_many(&self) -> &[String] {
        &self.definitions.newest_of_many
    }

    /// A query for the newest version in each clock table that is marked; `None` for the others.
    pub(crate) fn newest_of_marked(&self) -> impl Iterator<Item = Option<&str>> {
        let entries = self.definitions.entries.iter().zip(&self.states);
        entries.map(|(entry, state)| state.marked.load(Ordering::Relaxed).then_some(entry.newest.as_str()))
    }

    /// Takes all marks away.
    pub(crate) fn unmark(&self) {
        self.states.iter().for_each(|state| state.marked.store(false, Ordering::Relaxed));
    }
}

/// A schema, and what tells whether it is still the database's.
#[derive(Debug)]
pub(crate) struct CachedSchema {
    schema: Arc<Schema>,
    /// SQLite's counter of schema changes.
    cookie: i64,
    trust: Trust,
}

/// Whether the counter alone proves that a cached schema is the database's.
///
/// It doesn't inside a write transaction: ROLLBACK TO can take the counter back, and other statements bring it to the same
/// number again. Then the definitions themselves are compared, by their hash.
#[derive(Clone, Copy, Debug)]
enum Trust {
    Proven,
    /// Read in the write transaction under way.
    Provisional(u64),
    /// Read in a write transaction that was committed since.
    Committed(u64),
}

impl CachedSchema {
    /// What is left of it after a commit.
    pub(crate) fn committed(self) -> CachedSchema {
        let trust = match self.trust {
            Trust::Provisional(print) => Trust::Committed(print),
            trust => trust,
        };
        CachedSchema { trust, ..self }
    }

    /// What is left of it after a rollback.
    pub(crate) fn rolled_back(self) -> Option<CachedSchema> {
        matches!(self.trust, Trust::Proven).then_some(self)
    }
}

impl Engine {
    /// The CRRs as they are now.
    pub(crate) fn schema(&self) -> Result<Arc<Schema>> {
        self.refresh_schema()?;
        let schema = self.schema.borrow().as_ref().map(|cached| Arc::clone(&cached.schema));
        schema.ok_or(Error::NotLoaded)
    }

    /// The CRR of this name, as it is now.
    pub(crate) fn table(&self, name: &str) -> Result<Arc<Table>> {
        self.schema()?.table(self.db(), name)
    }

    /// Reads the schema again if it may have changed. Always reads from the database, so that commits of other connections
    /// are noticed.
    pub(crate) fn refresh_schema(&self) -> Result<()> {
        let cookie: i64 = self.with_statements(|statements| {
            statements.get("PRAGMA main.schema_version")?.query_row([], |row| row.get(0))
        })?;
        let known = self.schema.borrow().as_ref().map(|cached| (cached.cookie, cached.trust));
        match known {
            Some((known, Trust::Proven)) if known == cookie => return Ok(()),
            Some((known, Trust::Provisional(print))) if known == cookie && print == self.fingerprint()? => {
                return Ok(());
            }
            Some((known, Trust::Committed(print))) if known == cookie && print == self.fingerprint()? => {
                if let Some(cached) = self.schema.borrow_mut().as_mut() {
                    cached.trust = Trust::Proven;
                }
                return Ok(());
            }
            _ => {}
        }
        let trust = match raw::is_writing(self.db()) {
            true => Trust::Provisional(self.fingerprint()?),
            false => Trust::Proven,
        };
        let schema = Arc::new(Schema::read(self.db())?);
        *self.schema.borrow_mut() = Some(CachedSchema { schema, cookie, trust });
        Ok(())
    }

    /// A hash of all definitions.
    pub(crate) fn fingerprint(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        let mut statement = self.db().prepare_cached("SELECT sql FROM main.sqlite_schema ORDER BY rowid")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            row.get_ref(0)?.as_str_or_null().ok().flatten().hash(&mut hasher);
        }
        Ok(hasher.finish())
    }
}
