//! Files that take the place of a room's database.
//!
//! 1. The file is copied beside the room's, checked, and made another site there: so nobody is disturbed by one that is unfit, and
//!    no moment sees it as the site that clients know.
//! 2. The room is closed. SQLite writes the old database's log back into it, which also tells whether anybody else has it open.
//! 3. The copy takes its place.
//!
//! A crash leaves the old room or the new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::backup::{copy, open_to_read};
use super::database::refuse_foreign;
use super::ledger::{LAST_VERSION, Page};
use super::lineage::{self, Fork};
use super::opening::Opened;
use super::schema::StoredSchema;
use super::staged::{self, BESIDE, Staged};
use super::{Registry, RoomName, blocking};
use crate::connection::Close;
use crate::error::Error;
use crate::fault::Fault;
use crate::store::Home;

/// How soon the old database is tried again, if somebody has it open: readers of a room that was closed leave a little later.
const RETRY: Duration = Duration::from_millis(20);

impl Registry {
    /// Puts a copy of the file `from` in the place of a room's database.
    pub(crate) async fn restore(self: &Arc<Self>, name: &RoomName, from: PathBuf) -> Result<(), Error> {
        let (path, epoch) = match self.home(name) {
            Home::File { path, epoch } => (path, epoch),
            Home::Memory => return Err(Error::NoFile { room: name.clone() }),
            Home::Replica { .. } => return Err(Error::NotPrimary { room: name.clone() }),
        };
        let home = path.clone();
        let path = blocking(move || Ok(staged::resolved(&path))).await?;
        let timeout = self.config().busy_timeout();
        let staged = {
            let (name, path) = (name.clone(), path.clone());
            blocking(move || stage(&name, &from, &path, timeout)).await?
        };
        let install = {
            let (name, registry) = (name.clone(), self.clone());
            blocking(move || {
                let page = epoch.is_none().then(|| registry.page(&home));
                install(&name, staged, page.as_ref(), &path, timeout)
            })
        };
        self.while_closed(name, Close::forked(), install).await??;
        tracing::info!(room = %name, "a file took the place of the room's database");
        Ok(())
    }
}

/// A copy of the file, fit to be the room at `place`.
fn stage(room: &RoomName, from: &Path, place: &Path, busy_timeout: Duration) -> Result<(Staged, Fork), Error> {
    let io = |action| move |source| Error::Io { room: room.clone(), action, source };
    let unfit_because = |reason| Error::UnfitFile { room: room.clone(), reason };
    let sqlite = |error: rusqlite::Error| match error.sqlite_extended_error_code() {
        _ if is_damaged(&error) => unfit_because(format!("it is damaged: {error}")),
        // Its journal is beside it, and this is not the place to undo what it says.
        Some(ffi::SQLITE_READONLY_ROLLBACK) => unfit_because(
            "it is in the middle of a transaction: read it once with sqlite3, which finishes that".to_owned(),
        ),
        Some(code) if Fault::of_code(code).is_some() => Error::sqlite(room, error),
        _ => unfit_because(error.to_string()),
    };
    if !fs::metadata(from).map_err(io("the file to restore can't be read"))?.is_file() {
        return Err(unfit_because("it is no file".to_owned()));
    }
    let failed = io("the room's file can't be written");
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder).map_err(&failed)?;
    }
    let staged = Staged::beside(place).map_err(&failed)?;
    drop(fs::File::create_new(staged.path()).map_err(failed)?);
    let source = open_to_read(from, busy_timeout).map_err(sqlite)?;
    copy(&source, staged.path(), |_| Ok(())).map_err(sqlite)?;
    let mut conn = Connection::open(staged.path()).map_err(sqlite)?;
    // It is synced as a whole.
    conn.pragma_update(None, "synchronous", "OFF").map_err(sqlite)?;
    if let Some(reason) = unfit(&conn).map_err(sqlite)? {
        return Err(unfit_because(reason));
    }
    let engine = |error: crr::Error| match error.sqlite_code().and_then(Fault::of_code) {
        Some(_) => Error::engine(room, error),
        None => unfit_because(error.to_string()),
    };
    // What was shown is known once the room is closed.
    let fork = lineage::fork(&mut conn, None).map_err(engine)?;
    // What can't be read now couldn't be when the room is opened, and the old one would be gone.
    Opened::look(&conn).map_err(engine)?;
    conn.close().map_err(|(_, error)| sqlite(error))?;
    tracing::info!(
        %room, former = %fork.former, site = %fork.site, db_version = fork.db_version,
        "a file that is to be the room has become another site"
    );
    Ok((staged, fork))
}

/// Why a database can't be a room.
fn unfit(conn: &Connection) -> rusqlite::Result<Option<String>> {
    let verdict: String = conn.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if verdict != "ok" {
        return Ok(Some(format!("it is damaged: {verdict}")));
    }
    if let Err(error) = refuse_foreign(conn) {
        return Ok(Some(error.to_string()));
    }
    let is_empty = conn.query_row("SELECT NOT EXISTS (SELECT 1 FROM sqlite_schema)", [], |row| row.get(0))?;
    if is_empty || StoredSchema::read(conn)?.is_none() {
        return Ok(Some("it has no schema: no room was ever in it".to_owned()));
    }
    let version = crr::load(conn).and_then(|crr| crr.stored_db_version());
    Ok(match version {
        Ok(version) if version >= LAST_VERSION => {
            Some("its db_versions are used up: nothing could be written".to_owned())
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    })
}

/// Puts the copy in its place. The room is closed.
fn install(
    room: &RoomName,
    (staged, fork): (Staged, Fork),
    page: Option<&Page>,
    place: &Path,
    patience: Duration,
) -> Result<(), Error> {
    let sqlite = |error| Error::sqlite(room, error);
    let failed = |source| Error::Io { room: room.clone(), action: "the room's file can't be replaced", source };
    let permissions = match fs::metadata(place) {
        Ok(metadata) => Some(metadata.permissions()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    if permissions.is_some() {
        give_up(place, patience).map_err(sqlite)?;
    }
    let shown = page.and_then(|page| {
        let unread =
            |error: &_| tracing::warn!(%room, %error, "what was shown is not known: clients get the whole room");
        page.last_shown(fork.former).inspect_err(unread).unwrap_or_default()
    });
    if let Some(shown) = shown {
        let conn = Connection::open(staged.path()).map_err(sqlite)?;
        conn.pragma_update(None, "synchronous", "OFF").map_err(sqlite)?;
        lineage::amend(&conn, shown).map_err(sqlite)?;
        conn.close().map_err(|(_, error)| sqlite(error))?;
    }
    // Only a database that was damaged, or is gone, has still something beside it. It would be taken for the new one's.
    for suffix in BESIDE {
        match fs::remove_file(staged::beside(place, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    staged::sync_folder(place).map_err(failed)?;
    staged.settle(permissions).map_err(failed)
}

/// Has SQLite make the old database a single file, which it does only if nobody else has it open.
fn give_up(old: &Path, patience: Duration) -> rusqlite::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let single = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let conn = Connection::open_with_flags(old, flags)?;
            conn.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
            conn.close().map_err(|(_, error)| error)
        };
        match single() {
            Ok(()) => return Ok(()),
            // That is why it is replaced.
            Err(error) if is_damaged(&error) => return Ok(()),
            Err(error) if is_locked(&error) && Instant::now() < deadline => sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
