//! Ordinals of authors, as far as one changeset needs them.

use std::collections::HashMap;

use crate::state::Engine;
use crate::{Result, SiteId, read};

/// Ordinals that were looked up. Good for one changeset: a later rollback may take an ordinal back.
#[derive(Debug, Default)]
pub(super) struct Sites {
    known: HashMap<SiteId, i64>,
    last: Option<(SiteId, i64)>,
}

impl Sites {
    /// The ordinal of a site, which gets one if it has none.
    pub(super) fn ordinal(&mut self, engine: &Engine, site: SiteId) -> Result<i64> {
        if let Some((_, ordinal)) = self.last.filter(|(last, _)| *last == site) {
            return Ok(ordinal);
        }
        let ordinal = match self.known.get(&site) {
            Some(ordinal) => *ordinal,
            None => find_or_create(engine, site)?,
        };
        self.known.insert(site, ordinal);
        self.last = Some((site, ordinal));
        Ok(ordinal)
    }
}

fn find_or_create(engine: &Engine, site: SiteId) -> Result<i64> {
    if let Some(ordinal) = read::ordinal(engine, site)? {
        return Ok(ordinal);
    }
    engine
        .db()
        .prepare_cached("INSERT INTO main.crsql_site_id (site_id) VALUES (?1)")?
        .execute([site.as_bytes().as_slice()])?;
    Ok(engine.db().last_insert_rowid())
}
