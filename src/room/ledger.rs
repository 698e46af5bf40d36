//! A folder's ledger: up to which db_version each of its rooms may have been shown to clients.
//!
//! A database that went back in time (a copy put in its place, a log that was lost) looks like any other, and using db_versions
//! again that clients have passed makes them miss changes for ever. The ledger is a small database beside the rooms, in which
//! versions are *reserved* ahead, in blocks, and synced before any of them is shown. Beside that it keeps what really *was shown*,
//! soon and without syncing: that survives the end of the process, if not always that of the machine.
//!
//! | when a room is opened again | it is |
//! |---|---|
//! | under an id that the room had before it [forked](super::lineage) | an earlier file |
//! | behind what was shown | an earlier file |
//! | not closed, the machine started anew, and commits not synced ([`Durability::Os`](crate::Durability::Os)) | perhaps an earlier file |
//! | not closed, and another file is in its place | perhaps an earlier file |
//! | not closed, and more than a block is reserved, or all that there are | perhaps an earlier file |
//! | not closed, otherwise | the same; versions go on above what was reserved |
//! | closed | the same |
//!
//! A ledger that is lost means that nothing is known, as for a folder of another server.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior};
use tower_sqlite_sync_wire::SiteId;

use crate::Durability;

/// Beside the rooms. No room's name starts with a dot.
const FILE: &str = ".sync-ledger";

/// Versions that are reserved at a time: one synced commit for so many.
const BLOCK: i64 = 1_000;

/// No db_version passes this: JavaScript counts no further.
pub(super) const LAST_VERSION: i64 = 1 << 53;

/// How much later than it was shown a version may be in the ledger.
const LAG: Duration = Duration::from_millis(5);

/// How long another process may hold the ledger.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// `current` is false for ids that the room had before it forked.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS shown (
    file TEXT NOT NULL,
    site BLOB NOT NULL,
    current INTEGER NOT NULL,
    reserved INTEGER NOT NULL,
    shown INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    synced INTEGER NOT NULL,
    boot TEXT,
    inode INTEGER,
    PRIMARY KEY (file, site)
) WITHOUT ROWID";

/// The ledgers of the folders that have open rooms.
#[derive(Debug, Default)]
pub(crate) struct Ledgers {
    folders: Mutex<HashMap<PathBuf, Weak<Ledger>>>,
}

impl Ledgers {
    /// The page of the room in the file at `path`.
    pub(super) fn page(&self, path: &Path, durability: Durability) -> Page {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut folders = locked(&self.folders);
        folders.retain(|_, ledger| ledger.strong_count() > 0);
        let known = folders.get(&folder).and_then(Weak::upgrade);
        let ledger = known.unwrap_or_else(|| {
            let ledger = Arc::new(Ledger::new(folder.join(FILE)));
            folders.insert(folder, Arc::downgrade(&ledger));
            ledger
        });
        let file = path.file_name().map(|name| name.to_string_lossy().into()).unwrap_or_default();
        ledger.pages.fetch_add(1, Ordering::Relaxed);
        Page {
            ledger,
            file,
            path: path.to_owned(),
            synced: durability.is_synced(),
            reserved: AtomicI64::new(-1),
            left: AtomicBool::new(false),
        }
    }
}

/// What the ledger has about one room.
#[derive(Debug)]
pub(super) struct Page {
    ledger: Arc<Ledger>,
    file: Arc<str>,
    path: PathBuf,
    synced: bool,
    /// Up to here; −1 as long as nothing is.
    reserved: AtomicI64,
    left: AtomicBool,
}

/// What a file that is opened is to the clients of its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finding {
    /// The one that they know, or one that they don't know at all.
    Known,
    /// The one that they know, but for versions up to this one, of which nothing is certain.
    Above(i64),
    /// An earlier one.
    WentBack,
}

impl Page {
    /// What is known of the file with that site id, which ends at `version`. Blocks.
    pub(super) fn examine(&self, site: SiteId, version: i64) -> rusqlite::Result<Finding> {
        let entry = again_if_damaged(|| self.ledger.read(&self.file, site)).map_err(|error| of_the_ledger(&error))?;
        let found = Found { version, boot: boot(), inode: inode(&self.path) };
        Ok(entry.map_or(Finding::Known, |entry| entry.judge(&found)))
    }

    /// The last version that was ever shown under that site id. `None` if that isn't certain. Blocks.
    pub(super) fn last_shown(&self, site: SiteId) -> rusqlite::Result<Option<i64>> {
        let entry = again_if_damaged(|| self.ledger.read(&self.file, site)).map_err(|error| of_the_ledger(&error))?;
        Ok(entry.filter(|entry| entry.closed).map(|entry| entry.shown))
    }

    /// Makes sure that versions up to `version` are reserved for this site, before they are shown. Blocks, once in a while for long.
    pub(super) fn reserve(&self, site: SiteId, version: i64) -> rusqlite::Result<()> {
        if version <= self.reserved.load(Ordering::Relaxed) {
            return Ok(());
        }
        let reserved = version.saturating_add(BLOCK);
        let reservation = || Reservation {
            file: self.file.clone(),
            site,
            reserved,
            shown: version,
            synced: self.synced,
            boot: boot(),
            inode: inode(&self.path),
        };
        again_if_damaged(|| self.ledger.reserve(reservation())).map_err(|error| of_the_ledger(&error))?;
        self.reserved.store(reserved, Ordering::Relaxed);
        Ok(())
    }

    /// Notes what was shown, a little later.
    pub(super) fn shown(&self, site: SiteId, version: i64) {
        self.ledger.note(&self.file, site, version);
    }

    /// Notes that the file was closed as it should be. Blocks.
    pub(super) fn close(&self, site: SiteId, version: i64) -> rusqlite::Result<()> {
        self.ledger.close(&self.file, site, version).map_err(|error| of_the_ledger(&error))
    }

    /// Says that the room is closed. The last of a folder's rooms closes the ledger's files. May block.
    pub(super) fn leave(&self) {
        if !self.left.swap(true, Ordering::Relaxed) && self.ledger.pages.fetch_sub(1, Ordering::Relaxed) == 1 {
            *locked(&self.ledger.conn) = None;
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.leave();
    }
}

/// One folder's.
#[derive(Debug)]
struct Ledger {
    path: PathBuf,
    /// Opened at the first use.
    conn: Mutex<Option<Connection>>,
    /// Those of open rooms.
    pages: AtomicUsize,
    /// Those who wait for a synced commit: one of them makes it for all.
    waiting: Mutex<Vec<(Reservation, Done)>>,
    notes: Mutex<HashMap<Arc<str>, (SiteId, i64)>>,
}

/// Where it is said that a reservation is durable.
type Done = SyncSender<Result<(), Arc<rusqlite::Error>>>;

#[derive(Debug)]
struct Reservation {
    file: Arc<str>,
    site: SiteId,
    reserved: i64,
    shown: i64,
    synced: bool,
    boot: Option<String>,
    inode: Option<i64>,
}

impl Ledger {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            conn: Mutex::default(),
            pages: AtomicUsize::new(0),
            waiting: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    fn read(&self, file: &str, site: SiteId) -> rusqlite::Result<Option<Entry>> {
        self.with(|conn| {
            let sql =
                "SELECT current, reserved, shown, closed, synced, boot, inode FROM shown WHERE file = ?1 AND site = ?2";
            conn.query_row(sql, (file, site.as_bytes().as_slice()), |row| {
                Ok(Entry {
                    current: row.get(0)?,
                    reserved: row.get(1)?,
                    shown: row.get(2)?,
                    closed: row.get(3)?,
                    synced: row.get(4)?,
                    boot: row.get(5)?,
                    inode: row.get(6)?,
                })
            })
            .optional()
        })
    }

    fn reserve(&self, reservation: Reservation) -> rusqlite::Result<()> {
        let (done, outcome) = sync_channel(1);
        locked(&self.waiting).push((reservation, done));
        let written = self.with(|conn| {
            // It may be done already: whoever had the connection wrote for all who waited.
            let waiting = std::mem::take(&mut *locked(&self.waiting));
            if waiting.is_empty() {
                return Ok(());
            }
            let committed = write(conn, waiting.iter().map(|(reservation, _)| reservation)).map_err(Arc::new);
            for (_, done) in waiting {
                // Whoever waits has not gone away, or doesn't care.
                drop(done.send(committed.clone()));
            }
            committed.map_err(|error| shared(&error))
        });
        match outcome.try_recv() {
            Ok(done) => done.map_err(|error| shared(&error)),
            // The ledger can't be opened.
            Err(_) => written.and(Err(rusqlite::Error::InvalidQuery)),
        }
    }

    fn note(self: &Arc<Self>, file: &Arc<str>, site: SiteId, version: i64) {
        let mut notes = locked(&self.notes);
        let first = notes.is_empty();
        notes.insert(file.clone(), (site, version));
        drop(notes);
        if first && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let ledger = self.clone();
            runtime.spawn(async move {
                tokio::time::sleep(LAG).await;
                drop(tokio::task::spawn_blocking(move || ledger.write_notes()).await);
            });
        }
    }

    fn write_notes(&self) {
        let notes = std::mem::take(&mut *locked(&self.notes));
        if notes.is_empty() {
            return;
        }
        let written = self.with(|conn| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (file, (site, version)) in &notes {
                // If it is more than it was closed with, another server has it open.
                tx.prepare_cached(
                    "UPDATE shown SET closed = closed AND ?3 <= shown, shown = max(shown, ?3) WHERE file = ?1 AND site = ?2",
                )?
                .execute((&**file, site.as_bytes().as_slice(), version))?;
            }
            tx.commit()
        });
        if let Err(error) = written {
            tracing::warn!(ledger = %self.path.display(), %error, "what was shown can't be noted");
        }
    }

    fn close(&self, file: &str, site: SiteId, version: i64) -> rusqlite::Result<()> {
        locked(&self.notes).remove(file);
        self.with(|conn| {
            conn.prepare_cached(
                "UPDATE shown SET shown = max(shown, ?3), closed = TRUE WHERE file = ?1 AND site = ?2",
            )?
            .execute((file, site.as_bytes().as_slice(), version))?;
            Ok(())
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let mut slot = locked(&self.conn);
        if slot.as_ref().is_some_and(|conn| matches!(crr::file::has_moved(conn), Ok(true))) {
            // What is written there, nobody would find.
            tracing::error!(
                ledger = %self.path.display(),
                "the ledger is gone, and another one is begun: files of rooms that went back in time may not be recognised until they are written again"
            );
            *slot = None;
        }
        let conn = match &mut *slot {
            Some(conn) => conn,
            empty => empty.insert(self.open()?),
        };
        let done = work(conn);
        if done.as_ref().is_err_and(is_damaged) {
            // Whoever opens it next puts it aside.
            *slot = None;
        }
        done
    }

    /// Opens the ledger, or a new one if it is none any more.
    fn open(&self) -> rusqlite::Result<Connection> {
        match open(&self.path) {
            Err(error) if is_damaged(&error) => {
                let aside = self.path.with_extension("damaged");
                tracing::error!(
                    ledger = %self.path.display(), aside = %aside.display(), %error,
                    "the ledger is damaged and put aside: files of rooms that went back in time are not recognised until they are opened again"
                );
                let moved = std::fs::rename(&self.path, &aside);
                for suffix in ["-wal", "-shm"] {
                    let mut beside = self.path.clone().into_os_string();
                    beside.push(suffix);
                    // It may not be there.
                    drop(std::fs::remove_file(beside));
                }
                if moved.is_err() { Err(error) } else { open(&self.path) }
            }
            opened => opened,
        }
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open(path)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    conn.execute_batch(TABLE)?;
    // A damaged page would be met later, and fail rooms whose own files are sound.
    let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(code, Some(found)));
    }
    Ok(conn)
}

/// Tries once more if the ledger was found damaged: then it is a new one.
fn again_if_damaged<T>(attempt: impl Fn() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    match attempt() {
        Err(error) if is_damaged(&error) => attempt(),
        done => done,
    }
}

/// Writes reservations in one synced commit.
fn write<'r>(conn: &mut Connection, reservations: impl Iterator<Item = &'r Reservation>) -> rusqlite::Result<()> {
    conn.pragma_update(None, "synchronous", "FULL")?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for Reservation { file, site, reserved, shown, synced, boot, inode } in reservations {
        let site = site.as_bytes().as_slice();
        tx.prepare_cached("UPDATE shown SET current = FALSE WHERE file = ?1 AND site <> ?2 AND current")?
            .execute((&**file, site))?;
        tx.prepare_cached(
            "INSERT INTO shown VALUES (?1, ?2, TRUE, ?3, ?4, FALSE, ?5, ?6, ?7)
             ON CONFLICT DO UPDATE SET current = TRUE, reserved = max(reserved, excluded.reserved), shown = max(shown, excluded.shown),
                 closed = FALSE, synced = excluded.synced, boot = excluded.boot, inode = excluded.inode",
        )?
        .execute((&**file, site, reserved, shown, synced, boot, inode))?;
    }
    tx.commit()?;
    conn.pragma_update(None, "synchronous", "NORMAL")
}

/// What the ledger says of one file under one site id.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    current: bool,
    reserved: i64,
    shown: i64,
    closed: bool,
    synced: bool,
    boot: Option<String>,
    inode: Option<i64>,
}

/// The file as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    version: i64,
    boot: Option<String>,
    inode: Option<i64>,
}

impl Entry {
    /// See the table in the module's documentation.
    fn judge(&self, found: &Found) -> Finding {
        let lost_unsynced = !self.synced && self.boot != found.boot;
        let is_another_file = self.inode != found.inode;
        // Nobody reserves more than a block. A number that is nonsense must not become the room's clock; a fork needs no versions above.
        let can_go_on_above = self.reserved <= self.shown.saturating_add(BLOCK) && self.reserved < LAST_VERSION;
        if !self.current || found.version < self.shown || (!self.closed && (lost_unsynced || is_another_file)) {
            Finding::WentBack
        } else if self.closed || found.version >= self.reserved {
            Finding::Known
        } else if can_go_on_above {
            Finding::Above(self.reserved)
        } else {
            Finding::WentBack
        }
    }
}

/// Tells one start of the machine from another.
fn boot() -> Option<String> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    BOOT.get_or_init(|| read().map(|id| id.trim().to_owned())).clone()
}

#[cfg(unix)]
fn inode(path: &Path) -> Option<i64> {
    use std::os::unix::fs::MetadataExt;
    path.metadata().ok().map(|metadata| metadata.ino().cast_signed())
}

#[cfg(not(unix))]
fn inode(_: &Path) -> Option<i64> {
    None
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

/// The same failure, said of the ledger: whoever reads of it in the log would look at the room's file. That one isn't damaged.
fn of_the_ledger(error: &rusqlite::Error) -> rusqlite::Error {
    let code = match error.sqlite_error() {
        Some(code) if !is_damaged(error) => *code,
        _ => rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
    };
    rusqlite::Error::SqliteFailure(code, Some(format!("the ledger beside it, {FILE}: {error}")))
}

/// The same failure for one more who waited for it.
fn shared(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => rusqlite::Error::SqliteFailure(*code, text.clone()),
        other => rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
            Some(other.to_string()),
        ),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SiteId = SiteId::from_bytes([1; 16]);
    const B: SiteId = SiteId::from_bytes([2; 16]);

    fn entry() -> Entry {
        let boot = Some("boot".to_owned());
        Entry { current: true, reserved: 1010, shown: 10, closed: true, synced: true, boot, inode: Some(1) }
    }

    fn found(version: i64) -> Found {
        Found { version, boot: Some("boot".to_owned()), inode: Some(1) }
    }

    #[test]
    fn a_file_that_was_closed_is_known_unless_it_is_behind_what_was_shown() {
        assert_eq!(entry().judge(&found(10)), Finding::Known);
        assert_eq!(entry().judge(&found(9)), Finding::WentBack);
        assert_eq!(entry().judge(&found(11)), Finding::Known, "another process has written");
        let moved = Found { inode: Some(2), boot: None, ..found(10) };
        assert_eq!(entry().judge(&moved), Finding::Known, "on another machine");
        assert_eq!(Entry { synced: false, ..entry() }.judge(&moved), Finding::Known, "closing syncs");
    }

    #[test]
    fn a_file_that_was_not_closed_goes_on_above_what_was_reserved() {
        let open = Entry { closed: false, ..entry() };
        assert_eq!(open.judge(&found(10)), Finding::Above(1010));
        assert_eq!(open.judge(&found(9)), Finding::WentBack);
        assert_eq!(open.judge(&found(1010)), Finding::Known, "nothing is in doubt");
        let restarted = Found { boot: Some("another".to_owned()), ..found(10) };
        assert_eq!(open.judge(&restarted), Finding::Above(1010));
        assert_eq!(Entry { synced: false, ..open.clone() }.judge(&restarted), Finding::WentBack);
        assert_eq!(
            Entry { synced: false, ..open.clone() }.judge(&found(10)),
            Finding::Above(1010),
            "only the process ended"
        );
        assert_eq!(open.judge(&Found { inode: Some(2), ..found(10) }), Finding::WentBack);
    }

    #[test]
    fn a_reservation_that_nobody_can_have_made_or_above_which_there_are_no_versions_makes_a_fork() {
        let open = Entry { closed: false, ..entry() };
        assert_eq!(Entry { reserved: 1011, ..open.clone() }.judge(&found(10)), Finding::WentBack);
        assert_eq!(Entry { reserved: i64::MAX, shown: i64::MAX, ..open.clone() }.judge(&found(10)), Finding::WentBack);
        let last = Entry { reserved: LAST_VERSION - 1, shown: LAST_VERSION - 1001, ..open.clone() };
        assert_eq!(last.judge(&found(LAST_VERSION - 500)), Finding::Above(LAST_VERSION - 1));
        let past = Entry { reserved: LAST_VERSION + 500, shown: LAST_VERSION - 500, ..open };
        assert_eq!(past.judge(&found(LAST_VERSION - 500)), Finding::WentBack);
        assert_eq!(Entry { closed: true, ..past }.judge(&found(LAST_VERSION - 500)), Finding::Known);
    }

    #[test]
    fn a_file_from_before_a_fork_is_an_earlier_one() {
        assert_eq!(Entry { current: false, ..entry() }.judge(&found(10)), Finding::WentBack);
    }

    #[test]
    fn what_was_reserved_and_shown_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r");
        std::fs::write(&path, "a room").unwrap();
        let page = || Ledgers::default().page(&path, Durability::Full);
        let first = page();
        assert_eq!(first.examine(A, 5).unwrap(), Finding::Known, "nothing is known of it");
        first.reserve(A, 5).unwrap();
        first.shown(A, 7);
        first.ledger.write_notes();
        assert_eq!(page().examine(A, 7).unwrap(), Finding::Above(1005));
        assert_eq!(page().examine(A, 6).unwrap(), Finding::WentBack);
        assert_eq!(page().examine(B, 1).unwrap(), Finding::Known);
        assert_eq!(page().last_shown(A).unwrap(), None, "there may be more, not noted yet");
        first.close(A, 8).unwrap();
        assert_eq!(page().examine(A, 8).unwrap(), Finding::Known);
        assert_eq!(page().examine(A, 7).unwrap(), Finding::WentBack);
        assert_eq!(page().last_shown(A).unwrap(), Some(8));
        first.shown(A, 8);
        first.ledger.write_notes();
        assert_eq!(page().last_shown(A).unwrap(), Some(8), "it was closed with that");
        first.shown(A, 9);
        first.ledger.write_notes();
        assert_eq!(page().last_shown(A).unwrap(), None, "another server goes on");
        page().reserve(B, 8).unwrap();
        assert_eq!(page().examine(A, 8).unwrap(), Finding::WentBack, "the room has become B");
    }

    #[test]
    fn those_who_wait_for_a_reservation_share_a_commit() {
        let folder = tempfile::tempdir().unwrap();
        let ledgers = Ledgers::default();
        std::thread::scope(|scope| {
            for n in 0..16 {
                let page = ledgers.page(&folder.path().join(n.to_string()), Durability::Full);
                scope.spawn(move || {
                    for version in 0..20 {
                        page.reserve(A, version * 2 * BLOCK).unwrap();
                    }
                });
            }
        });
        let page = ledgers.page(&folder.path().join("3"), Durability::Full);
        assert_eq!(page.ledger.read("3", A).unwrap().unwrap().reserved, 38 * BLOCK + BLOCK);
    }

    #[test]
    fn a_damaged_ledger_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "not a database, but long enough to be looked at".repeat(100))
            .unwrap();
        let page = Ledgers::default().page(&folder.path().join("r"), Durability::Full);
        page.reserve(A, 5).unwrap();
        assert!(folder.path().join(".sync-ledger.damaged").exists());
    }

    #[test]
    fn a_ledger_with_a_damaged_page_is_put_aside_when_it_is_opened_and_when_it_is_met() {
        let folder = tempfile::tempdir().unwrap();
        let (room, ledger) = (folder.path().join("r"), folder.path().join(FILE));
        let page = || Ledgers::default().page(&room, Durability::Full);
        let fill = |page: &Page| {
            let rows = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
                INSERT INTO shown SELECT i, zeroblob(16), TRUE, i, i, TRUE, TRUE, NULL, NULL FROM n;
                PRAGMA wal_checkpoint(TRUNCATE)";
            page.ledger.with(|conn| conn.execute_batch(rows)).unwrap();
        };
        let damage = || {
            let mut bytes = std::fs::read(&ledger).unwrap();
            bytes[4096..].fill(0xff);
            std::fs::write(&ledger, bytes).unwrap();
        };
        let first = page();
        fill(&first);
        first.leave();
        damage();
        page().reserve(A, 5).unwrap();
        assert_eq!(page().examine(A, 4).unwrap(), Finding::WentBack, "a new one works");

        let open = page();
        fill(&open);
        damage();
        open.ledger.with(|conn| conn.execute_batch("PRAGMA shrink_memory")).unwrap();
        assert_eq!(open.examine(A, 4).unwrap(), Finding::Known, "nothing is known any more");
        open.reserve(A, 7).unwrap();
        assert_eq!(page().examine(A, 6).unwrap(), Finding::WentBack);
    }

    #[test]
    fn a_ledger_that_is_removed_while_it_is_open_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let page = || Ledgers::default().page(&folder.path().join("r"), Durability::Full);
        for left in [&[][..], &["-wal", "-shm"]] {
            let open = page();
            open.reserve(A, 5).unwrap();
            for suffix in ["", "-wal", "-shm"].iter().filter(|suffix| !left.contains(suffix)) {
                std::fs::remove_file(folder.path().join(format!("{FILE}{suffix}"))).unwrap();
            }
            open.reserve(A, 5 + 2 * BLOCK).unwrap();
            assert_eq!(page().examine(A, 5).unwrap(), Finding::WentBack, "{left:?}");
        }
    }

    #[test]
    fn a_ledger_that_cannot_be_written_is_an_error_for_each_who_waits() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(FILE)).unwrap();
        let ledgers = Ledgers::default();
        let page = ledgers.page(&folder.path().join("r"), Durability::Full);
        for failed in [page.reserve(A, 5), page.reserve(A, 5), page.examine(A, 5).map(drop)] {
            assert!(failed.unwrap_err().to_string().starts_with("the ledger beside it, .sync-ledger: "));
        }
    }
}
