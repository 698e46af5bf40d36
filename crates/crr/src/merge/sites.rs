//! Ordinals of authors: what clock entries have in place of site ids.

use std::cell::Cell;
use std::collections::HashMap;

use rusqlite::OptionalExtension;

use crate::read::ORDINAL_OF_SITE;
use crate::state::Engine;
use crate::statements::Statements;
use crate::{Result, SiteId, raw};

/// How many authors are remembered. Few databases have more.
const MOST: usize = 4096;

/// Ordinals that were looked up. Good for one changeset: a later rollback may take an ordinal back.
#[derive(Debug, Default)]
pub(super) struct Sites {
    /// The last author, and, once there was another, those before.
    last: Option<(SiteId, i64)>,
    known: HashMap<SiteId, i64>,
}

impl Sites {
    /// The ordinal of a site, which gets one if it has none.
    pub(super) fn ordinal(&mut self, engine: &Engine, statements: &mut Statements<'_>, site: SiteId) -> Result<i64> {
        if let Some((_, ordinal)) = self.last.filter(|(last, _)| *last == site) {
            return Ok(ordinal);
        }
        let ordinal = match self.known.get(&site) {
            Some(ordinal) => *ordinal,
            None => find_or_create(engine, statements, site)?,
        };
        if self.known.len() >= MOST {
            self.known.clear();
        }
        self.known.extend(self.last.replace((site, ordinal)));
        Ok(ordinal)
    }
}

/// What a connection remembers of authors between changesets, of which there may be one for each change.
#[derive(Debug, Default)]
pub(crate) struct Authors {
    found: Cell<Option<Found>>,
    /// The content stamp at which an author was last added, or became another.
    added_at: Cell<Option<u32>>,
}

impl Authors {
    /// Ordinals stand for other sites now, at least until the transaction under way, which has this stamp, is rolled back.
    pub(crate) fn changed(&self, stamp: u32) {
        self.found.take();
        self.added_at.set(Some(stamp));
    }
}

/// An author whose ordinal was there when the transaction under way began: no savepoint takes it back.
#[derive(Clone, Copy, Debug)]
struct Found {
    site: SiteId,
    ordinal: i64,
    /// The content stamp. A transaction doesn't change it before it ends, and then for good.
    stamp: u32,
}

fn find_or_create(engine: &Engine, statements: &mut Statements<'_>, site: SiteId) -> Result<i64> {
    let stamp = raw::content_stamp(engine.db())?;
    let authors = &engine.authors;
    if let Some(found) = authors.found.get().filter(|found| found.site == site && found.stamp == stamp) {
        return Ok(found.ordinal);
    }
    let id = [site.as_bytes().as_slice()];
    if let Some(ordinal) = statements.get(ORDINAL_OF_SITE)?.query_row(id, |row| row.get(0)).optional()? {
        if authors.added_at.get() != Some(stamp) {
            authors.found.set(Some(Found { site, ordinal, stamp }));
        }
        return Ok(ordinal);
    }
    let insert = statements.get("INSERT INTO main.crsql_site_id (site_id) VALUES (?1) RETURNING ordinal")?;
    let ordinal = insert.query_row(id, |row| row.get(0))?;
    authors.added_at.set(Some(stamp));
    Ok(ordinal)
}
