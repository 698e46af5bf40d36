//! Opening a room's database to write it: whether it is the one that its clients know, whether it has the schema that is wanted, and
//! from where on its changes are shown.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use tower_sqlite_sync_wire as wire;

use super::database::{Location, Log};
use super::file::OpenFile;
use super::follow::Sight;
use super::founding::{Founders, Founding};
use super::ledger::{Finding, Page};
use super::lineage::{self, Lineage};
use super::schema::{self, ResidentSchema, StoredSchema};
use super::{Origin, Purpose, RoomName, convert, migration};
use crate::config::SyncConfig;
use crate::error::Error;
use crate::store::Epoch;

/// What is known of a room before its database is opened.
pub(super) struct Opening {
    pub(super) room: RoomName,
    pub(super) config: SyncConfig,
    pub(super) purpose: Purpose,
    pub(super) origin: Origin,
    pub(super) epoch: Option<Epoch>,
    /// Where there are epochs, these say whether a file is the one that clients know, and there is no page.
    pub(super) page: Option<Page>,
    /// What to create the room with; `None` if its file is there.
    pub(super) resident: Option<ResidentSchema>,
}

impl Opening {
    /// Forks, creates or migrates the database, as need be. Blocks.
    pub(super) fn run(self, conn: &mut Connection, log: Log) -> Result<Opened, Error> {
        let Self { room, config, purpose, origin, epoch, page, resident } = self;
        let origin = match origin {
            Origin::Same if log == Log::Damaged => Origin::Earlier,
            origin => origin,
        };
        let (room, config, purpose) = (&room, &config, &purpose);
        let sqlite = |error| Error::sqlite(room, error);
        let engine = |error| Error::engine(room, error);
        let is_new = resident.is_some();
        if origin == Origin::Mended {
            check_integrity(conn).map_err(sqlite)?;
        }
        let found = Opened::read(conn, room)?;
        // A room that is created now was never known; but one that another process had begun to create may be.
        let (finding, shown) = match &resident {
            None => find(conn, found.as_ref(), page.as_ref(), epoch).map_err(engine)?,
            Some(_) => (Finding::Known, None),
        };
        let earlier = origin != Origin::Same || finding == Finding::WentBack;
        let written = conn.total_changes();
        // Before anything else is written.
        if earlier && resident.is_none() {
            let fork = lineage::fork(conn, shown).map_err(engine)?;
            tracing::warn!(
                room = %room, former = %fork.former, site = %fork.site, db_version = fork.db_version,
                "the room's database is an earlier one than its clients knew: it has become another site"
            );
        } else if let Finding::Above(reserved) = finding {
            tracing::info!(%room, reserved, "the room was not closed: its db_versions go on above what may have been shown");
            crr::Crr::of(conn).and_then(|crr| crr.raise_db_version(reserved)).map_err(engine)?;
        }
        match found.as_ref().map(|found| &found.schema) {
            Some(stored) => match purpose {
                Purpose::Client(wanted) if stored.is_other_version_of(wanted) => {
                    let resident = ResidentSchema::read_version(config.schema_folder(), wanted)?;
                    migration::migrate(conn, room, &resident)?;
                }
                Purpose::Client(wanted) => stored.admit(room, wanted)?,
                Purpose::Existing => {}
                Purpose::Create(name) => {
                    let resident = ResidentSchema::read(config.schema_folder(), name.clone())?;
                    stored.admit(room, &resident.stamp())?;
                }
            },
            None => {
                let resident = match (resident, purpose) {
                    (Some(resident), _) => resident,
                    (None, Purpose::Client(wanted)) => ResidentSchema::read_version(config.schema_folder(), wanted)?,
                    (None, Purpose::Create(name)) => ResidentSchema::read(config.schema_folder(), name.clone())?,
                    (None, Purpose::Existing) => return Err(Error::NoSuchRoom { room: room.clone() }),
                };
                schema::apply(conn, room, &resident)?;
            }
        }
        if let Some(epoch) = epoch {
            lineage::enter(conn, epoch).map_err(sqlite)?;
        }
        // Whatever was made of it has written rows.
        let opened = match found.filter(|_| conn.total_changes() == written) {
            Some(found) => found,
            None => Opened::read(conn, room)?.ok_or_else(|| Error::NoSuchRoom { room: room.clone() })?,
        };
        if config.durability().is_synced() && !is_new {
            // What another process has committed may not be durable yet.
            crr::file::sync(conn).map_err(engine)?;
        }
        if let Some(page) = &page {
            page.reserve(opened.site, opened.now).map_err(sqlite)?;
        }
        Ok(Opened { is_new, page: page.map(Arc::new), ..opened })
    }
}

/// What the file is to the room's clients; and if it is an earlier one, up to where anything was ever shown to them under its site id, as
/// far as that is certain.
///
/// Who only says that a file is an earlier one, or was damaged, may know of what nothing else does: that the ledger went back with it, or
/// that it was edited. And a file that was copied from another node may be from any moment of its epoch.
fn find(
    conn: &Connection,
    found: Option<&Opened>,
    page: Option<&Page>,
    epoch: Option<Epoch>,
) -> crr::Result<(Finding, Option<i64>)> {
    let (site, version) = match found {
        Some(found) => (found.site, found.now),
        None => {
            let crr = crr::Crr::of(conn)?;
            (convert::wire_site(crr.site_id()?), crr.stored_db_version()?)
        }
    };
    Ok(match (page, epoch) {
        (Some(page), _) => match page.examine(site, version)? {
            Finding::WentBack => (Finding::WentBack, page.last_shown(site)?),
            known => (known, None),
        },
        (None, Some(_)) if lineage::epoch(conn)? != epoch => (Finding::WentBack, None),
        _ => (Finding::Known, None),
    })
}

/// What is known of a database that was just opened.
pub(super) struct Opened {
    pub(super) site: wire::SiteId,
    pub(super) lineage: Lineage,
    pub(super) schema: StoredSchema,
    pub(super) now: i64,
    pub(super) commits_of_others: i64,
    /// It was made for that.
    pub(super) is_new: bool,
    pub(super) file: Option<Arc<OpenFile>>,
    pub(super) page: Option<Arc<Page>>,
}

impl Opened {
    /// What a file says at one moment. `None` if no schema was applied yet.
    pub(super) fn look(conn: &Connection) -> crr::Result<Option<Self>> {
        let Some(Sight { site, schema, now, commits_of_others }) = Sight::of(conn)? else { return Ok(None) };
        let lineage = Lineage::read(conn)?;
        Ok(Some(Self { site, lineage, schema, now, commits_of_others, is_new: false, file: None, page: None }))
    }

    /// What a file says now.
    fn read(conn: &mut Connection, room: &RoomName) -> Result<Option<Self>, Error> {
        let tx = conn.transaction().map_err(|error| Error::sqlite(room, error))?;
        let opened = Self::look(&tx).map_err(|error| Error::engine(room, error))?;
        tx.commit().map_err(|error| Error::sqlite(room, error))?;
        Ok(opened)
    }

    /// The same as [`look`](Self::look), with the file that `conn` has open.
    pub(super) fn in_file(self, room: &RoomName, path: &Path, conn: &Connection) -> Result<Self, Error> {
        let file = OpenFile::of(room, path, conn)?;
        Ok(Self { file: Some(Arc::new(file)), ..self })
    }
}

/// A room before its database is opened.
pub(super) enum Begun {
    /// It is there.
    Before,
    /// It was made just now, with this schema, by nobody else.
    Now(ResidentSchema),
    /// It is to be made, with this schema.
    Not(ResidentSchema),
}

impl Begun {
    /// What the room is created with, if it is.
    pub(super) fn into_schema(self) -> Option<ResidentSchema> {
        match self {
            Self::Before => None,
            Self::Now(resident) | Self::Not(resident) => Some(resident),
        }
    }
}

/// Before a file is created, makes sure that there is a schema to create it with: a client that is refused leaves no file behind.
/// Then creates it, if `founders` can. Blocks.
pub(super) fn prepare(
    name: &RoomName,
    location: &Location,
    config: &SyncConfig,
    purpose: &Purpose,
    founders: Option<&Founders>,
) -> Result<Begun, Error> {
    if let Location::File(path) = location
        && path.exists()
    {
        // SQLite can't tell it from a file that may not be opened now.
        return match path.is_dir() {
            true => Err(Error::Unusable { room: name.clone(), reason: "a folder is in its file's place".to_owned() }),
            false => Ok(Begun::Before),
        };
    }
    let folder = config.schema_folder();
    let resident = match purpose {
        Purpose::Client(wanted) if founders.is_some_and(|founders| founders.know(wanted)) => {
            ResidentSchema::read_known_version(folder, wanted)?
        }
        Purpose::Client(wanted) => ResidentSchema::read_version(folder, wanted)?,
        Purpose::Create(schema) => ResidentSchema::read(folder, schema.clone())?,
        Purpose::Existing => return Err(Error::NoSuchRoom { room: name.clone() }),
    };
    let Location::File(path) = location else { return Ok(Begun::Not(resident)) };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|source| Error::Io {
            room: name.clone(),
            action: "the database folder can't be created",
            source,
        })?;
    }
    Ok(match founders.map(|founders| founders.found(path, &resident)) {
        Some(Founding::Made) => Begun::Now(resident),
        Some(Founding::ByAnother) => Begun::Before,
        Some(Founding::LeftToSqlite) | None => Begun::Not(resident),
    })
}

/// Reads all of a database that was damaged.
fn check_integrity(conn: &Connection) -> rusqlite::Result<()> {
    let found: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(code, Some(found)))
}
