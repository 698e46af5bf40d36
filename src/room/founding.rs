//! A new room's file: a copy of a database that has the room's schema already, under a site id of its own.
//!
//! To have SQLite make a file, run a schema in it and switch its journal takes some ten milliseconds and a dozen syncs. All rooms of
//! one schema begin alike but for their site id, so their beginning is made once, in memory, and written as one file, which comes to
//! its place whole.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crr::SiteId;
use rusqlite::Connection;

use super::announced;
use super::schema::{self, ResidentSchema, WantedSchema};
use super::staged::{BESIDE, Staged, beside};

/// Schemas whose beginnings are kept, the last ones.
const MOST: usize = 8;

/// Where a database file says how it is written and read: in write-ahead mode (<https://www.sqlite.org/fileformat2.html>, 1.3.3).
const MODE: std::ops::Range<usize> = 18..20;
const WRITE_AHEAD: [u8; 2] = [2, 2];

/// Bytes of a site id.
const SITE_ID: usize = 16;

/// Makes the files of new rooms.
#[derive(Debug, Default)]
pub(super) struct Founders {
    founders: Mutex<Vec<Arc<Founder>>>,
    swept: OnceLock<()>,
}

impl Founders {
    /// Makes a new room's file, if it can. Blocks.
    pub(super) fn found(&self, file: &Path, resident: &ResidentSchema) -> Founding {
        self.try_to(file, resident).unwrap_or(Founding::LeftToSqlite)
    }

    fn try_to(&self, file: &Path, resident: &ResidentSchema) -> io::Result<Founding> {
        if BESIDE.iter().any(|suffix| beside(file, suffix).exists()) {
            // Of a file that was removed. SQLite knows that they don't belong to one that it makes itself.
            return Ok(Founding::LeftToSqlite);
        }
        let founder = self.founder(resident);
        let Some(beginning) = &founder.beginning else { return Ok(Founding::LeftToSqlite) };
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let bytes = beginning.file_of(SiteId::from_random_bytes(random));
        self.swept.get_or_init(|| Staged::sweep(file));
        match Staged::of(file, &bytes)?.settle_first() {
            Ok(()) => Ok(Founding::Made),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Founding::ByAnother),
            Err(error) => Err(error),
        }
    }

    /// Whether files with this schema were made before, so that its text is known to make something to sync.
    pub(super) fn know(&self, schema: &WantedSchema) -> bool {
        self.locked().iter().any(|founder| founder.schema == *schema)
    }

    fn founder(&self, resident: &ResidentSchema) -> Arc<Founder> {
        let schema = resident.stamp();
        let mut founders = self.locked();
        if let Some(founder) = founders.iter().find(|founder| founder.schema == schema) {
            return founder.clone();
        }
        if founders.len() >= MOST {
            founders.remove(0);
        }
        let founder = Arc::new(Founder::new(resident));
        founders.push(founder.clone());
        founder
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Founder>>> {
        self.founders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a new room's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Founding {
    /// It is there.
    Made,
    /// Another process was first.
    ByAnother,
    /// It can't be copied, or not here: on some file systems, no file is put only where nothing is. It has to be made the long way,
    /// which also says what is wrong, if something is.
    LeftToSqlite,
}

/// The beginning of rooms with one schema.
#[derive(Debug)]
struct Founder {
    schema: WantedSchema,
    /// `None` if rooms with this schema don't begin alike, or not at all.
    beginning: Option<Beginning>,
}

impl Founder {
    fn new(resident: &ResidentSchema) -> Self {
        Self { schema: resident.stamp(), beginning: begin(resident).ok().flatten() }
    }
}

/// A database file in which only the site id differs from room to room.
#[derive(Debug)]
struct Beginning {
    bytes: Vec<u8>,
    /// Where in them the site id is.
    places: Vec<usize>,
}

impl Beginning {
    /// That of a database. `None` if the file is not all that it takes.
    fn of(conn: &Connection) -> crr::Result<Option<Self>> {
        let site = crr::Crr::of(conn)?.site_id()?;
        let mut bytes = conn.serialize("main")?.to_vec();
        let Some(mode) = bytes.get_mut(MODE) else { return Ok(None) };
        mode.copy_from_slice(&WRITE_AHEAD);
        let places = bytes.windows(SITE_ID).enumerate().filter(|(_, bytes)| bytes == site.as_bytes());
        let places = places.map(|(at, _)| at).collect();
        let beginning = Self { bytes, places };
        let is_whole = beginning.is_sound_for(SiteId::from_bytes([0; 16]))?;
        Ok(is_whole.then_some(beginning))
    }

    /// The file of a room that is this site: its id is wherever the other one was, in the table and in its index. (Of one row, an index
    /// is in order whatever the row is.)
    fn file_of(&self, site: SiteId) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for at in &self.places {
            if let Some(id) = bytes.get_mut(*at..).and_then(<[u8]>::first_chunk_mut) {
                *id = *site.as_bytes();
            }
        }
        bytes
    }

    /// Whether SQLite finds nothing wrong with the file of a room that is this site, and the engine that site in it.
    fn is_sound_for(&self, site: SiteId) -> crr::Result<bool> {
        let mut file = self.file_of(site);
        // A database in memory has no log.
        file.get_mut(MODE).into_iter().flatten().for_each(|mode| *mode = 1);
        let mut conn = Connection::open_in_memory()?;
        conn.deserialize_read_exact("main", file.as_slice(), file.len(), true)?;
        // A schema may use the engine's functions.
        let found = crr::load(&conn)?.site_id()?;
        let integrity: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        Ok(integrity == "ok" && found == site)
    }
}

/// What rooms with the schema begin with; `None` if the schema fills its tables, with what may be meant to differ from room to room.
fn begin(resident: &ResidentSchema) -> crr::Result<Option<Beginning>> {
    let mut conn = Connection::open_in_memory()?;
    crr::load(&conn)?;
    schema::run(&mut conn, resident)?;
    announced::prepare(&conn)?;
    let is_filled = {
        let mut tables = conn.prepare(
            "SELECT name FROM sqlite_schema
             WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT IN ('crsql_master', 'crsql_site_id')",
        )?;
        let tables = tables.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
        let filled = |table: &String| {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM \"{}\")", table.replace('"', "\"\""));
            conn.query_row(&sql, [], |row| row.get::<_, bool>(0))
        };
        tables.iter().map(filled).collect::<rusqlite::Result<Vec<_>>>()?.contains(&true)
    };
    if is_filled { Ok(None) } else { Beginning::of(&conn) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tempfile::TempDir;

    use super::*;

    const TEXT: &str = "CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('foo');";

    fn schema(text: &str) -> ResidentSchema {
        ResidentSchema::of_text("main.sql", text)
    }

    fn names(folder: &TempDir) -> usize {
        std::fs::read_dir(folder.path()).unwrap().count()
    }

    #[test]
    fn each_file_is_a_room_of_its_own_with_the_schema() {
        let (folder, founders, schema) = (tempfile::tempdir().unwrap(), Founders::default(), schema(TEXT));
        let mut sites = HashSet::new();
        for room in ["a", "b", "c"] {
            let path = folder.path().join(room);
            assert_eq!(founders.found(&path, &schema), Founding::Made);
            assert_eq!(names(&folder), sites.len() + 1, "and nothing beside it");
            let conn = Connection::open(&path).unwrap();
            let text = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
            assert_eq!([text("PRAGMA journal_mode"), text("PRAGMA integrity_check")], ["wal", "ok"]);
            let crr = crr::load(&conn).unwrap();
            assert_eq!(crr.tables().unwrap(), ["foo"]);
            assert_eq!(schema::StoredSchema::read(&conn).unwrap(), Some(schema::StoredSchema::of(&schema)));
            conn.execute_batch("INSERT INTO foo VALUES (1, 2)").unwrap();
            assert_eq!(crr.stored_db_version().unwrap(), 1);
            assert!(sites.insert(crr.site_id().unwrap()));
            conn.close().unwrap();
        }
        assert!(founders.know(&schema.stamp()));
    }

    #[test]
    fn a_schema_may_use_what_the_engine_has() {
        let (folder, founders) = (tempfile::tempdir().unwrap(), Founders::default());
        let checked = schema(
            "CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b CHECK (length(crsql_site_id()) = 16));
             SELECT crsql_as_crr('foo');",
        );
        assert_eq!(founders.found(&folder.path().join("r"), &checked), Founding::Made);
    }

    #[test]
    fn a_room_that_is_there_stays_as_it_is() {
        let (folder, founders) = (tempfile::tempdir().unwrap(), Founders::default());
        let path = folder.path().join("r");
        std::fs::write(&path, "something").unwrap();
        assert_eq!(founders.found(&path, &schema(TEXT)), Founding::ByAnother);
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), names(&folder)), ("something", 1));
    }

    #[test]
    fn what_a_removed_file_has_left_is_not_for_a_copy() {
        for suffix in BESIDE {
            let (folder, founders) = (tempfile::tempdir().unwrap(), Founders::default());
            let path = folder.path().join("r");
            std::fs::write(beside(&path, suffix), "something").unwrap();
            assert_eq!(founders.found(&path, &schema(TEXT)), Founding::LeftToSqlite, "{suffix}");
        }
    }

    #[test]
    fn schemas_that_fill_their_tables_or_fail_are_run_for_each_room() {
        let (folder, founders) = (tempfile::tempdir().unwrap(), Founders::default());
        let path = folder.path().join("r");
        for more in ["INSERT INTO foo VALUES (random(), 1);", "CREATE VIRTUAL TABLE f USING fts5 (x);", "no SQL"] {
            let schema = schema(&format!("{TEXT} {more}"));
            assert_eq!(founders.found(&path, &schema), Founding::LeftToSqlite, "{more}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn only_the_last_schemas_are_kept() {
        let founders = Founders::default();
        let schemas: Vec<_> = (0..=MOST).map(|n| schema(&format!("{TEXT} -- {n}"))).collect();
        schemas.iter().for_each(|schema| drop(founders.founder(schema)));
        assert!(!founders.know(&schemas[0].stamp()) && founders.know(&schemas[1].stamp()));
        assert_eq!(founders.locked().len(), MOST);
    }
}
