//! Hears when files of open rooms are written to, by whomever.
//!
//! Events only say that a room should look. Whether there is anything to see, its writer finds out.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;

/// What SQLite appends to a database's name for the files beside it.
const SUFFIXES: [&str; 3] = ["-wal", "-journal", "-shm"];

/// For so long events are gathered before the next are asked for.
const GATHER: Duration = Duration::from_millis(20);

/// The files that are watched, by their folders and names, with a count of what happened to each.
type Files = HashMap<PathBuf, HashMap<OsString, watch::Sender<u64>>>;

/// Watches the folders of the rooms that are open.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    files: Arc<Mutex<Files>>,
    folders: Mutex<Folders>,
}

#[derive(Debug, Default)]
struct Folders {
    /// Made when the first room is opened; `None` inside if the system can't.
    watcher: Option<Option<RecommendedWatcher>>,
    watched: HashMap<PathBuf, Folder>,
}

/// A folder that is watched.
#[derive(Debug, Default)]
struct Folder {
    /// How many open rooms it has.
    rooms: usize,
    /// Which folder it was when it was last asked for; another one may have come to its place since.
    identity: Option<Identity>,
}

/// What no other folder at the same path has: numbers of files are used again, but not at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    created: SystemTime,
}

impl Identity {
    /// `None` where that can't be told.
    #[cfg(unix)]
    fn of(folder: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = folder.metadata().ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino(), created: metadata.created().ok()? })
    }

    #[cfg(not(unix))]
    fn of(_: &Path) -> Option<Self> {
        None
    }
}

/// A file that is watched, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    watcher: Arc<Watcher>,
    file: PathBuf,
    /// Counts up at each event.
    pub(crate) events: watch::Receiver<u64>,
}

impl Watcher {
    /// Watches a database file and those beside it. `None` if the system can't.
    pub(crate) fn watch(self: &Arc<Self>, file: &Path) -> Option<Watched> {
        // Events come with the folder's real path. What SQLite writes beside a file is where the file really is, not a link to it.
        let file = match file.canonicalize() {
            Ok(file) => file,
            Err(_) => file.parent()?.canonicalize().ok()?.join(file.file_name()?),
        };
        let (folder, name) = (file.parent()?.to_owned(), file.file_name()?.to_owned());
        let mut folders = locked(&self.folders);
        let Folders { watcher, watched } = &mut *folders;
        let watcher = watcher.get_or_insert_with(|| start(self.files.clone())).as_mut()?;
        let identity = Identity::of(&folder);
        // Watching a folder twice is watching it once. But each time, another thread has to answer.
        if !watched.get(&folder).is_some_and(|known| known.identity.is_some() && known.identity == identity)
            && let Err(error) = watcher.watch(&folder, RecursiveMode::NonRecursive)
        {
            tracing::warn!(folder = %folder.display(), %error, "the folder can't be watched");
            return None;
        }
        // A room that is opened again may be watched before it is no longer watched from the time before.
        let events = locked(&self.files).entry(folder.clone()).or_default().entry(name).or_default().subscribe();
        let folder = watched.entry(folder).or_default();
        folder.rooms += 1;
        folder.identity = identity;
        Some(Watched { watcher: self.clone(), file, events })
    }

    fn unwatch(&self, file: &Path) {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else { return };
        let mut files = locked(&self.files);
        if let Some(here) = files.get_mut(folder) {
            if here.get(name).is_some_and(|events| events.receiver_count() <= 1) {
                here.remove(name);
            }
            if here.is_empty() {
                files.remove(folder);
            }
        }
        drop(files);
        let mut folders = locked(&self.folders);
        let Some(known) = folders.watched.get_mut(folder) else { return };
        known.rooms = known.rooms.saturating_sub(1);
        if known.rooms == 0 {
            folders.watched.remove(folder);
            if let Some(Some(watcher)) = &mut folders.watcher {
                // A folder that is gone is no longer watched.
                drop(watcher.unwatch(folder));
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watcher.unwatch(&self.file);
    }
}

fn start(files: Arc<Mutex<Files>>) -> Option<RecommendedWatcher> {
    let mut gathered = Instant::now();
    let tell = move |event: notify::Result<notify::Event>| {
        tell(&files, event);
        // While this waits, the system makes one of several that are alike: a commit is a dozen writes.
        if gathered.elapsed() >= GATHER {
            thread::sleep(GATHER);
            gathered = Instant::now();
        }
    };
    notify::recommended_watcher(tell).inspect_err(|error| tracing::warn!(%error, "files can't be watched")).ok()
}

/// Tells whom an event concerns.
fn tell(files: &Mutex<Files>, event: notify::Result<notify::Event>) {
    match event {
        Ok(event) if event.kind.is_access() => {}
        Ok(event) => {
            let files = locked(files);
            if event.need_rescan() {
                // Events were lost.
                files.values().flat_map(HashMap::values).for_each(happened);
            }
            for path in event.paths {
                let database = database_of(&path);
                let here = database.parent().and_then(|folder| files.get(folder));
                if let Some(events) = here.zip(database.file_name()).and_then(|(here, name)| here.get(name)) {
                    happened(events);
                } else if let Some(all) = files.get(&path) {
                    // A folder that is moved or removed takes its files along, which are told nothing of it.
                    all.values().for_each(happened);
                }
            }
        }
        Err(error) => tracing::warn!(%error, "watching the files of rooms failed"),
    }
}

fn happened(events: &watch::Sender<u64>) {
    events.send_modify(|count| *count += 1);
}

/// The database that a file belongs to.
fn database_of(path: &Path) -> PathBuf {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let database = SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix));
    database.map_or_else(|| path.to_owned(), |database| path.with_file_name(database))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_beside_a_database_belong_to_it() {
        for (path, database) in [
            ("/dbs/room", "/dbs/room"),
            ("/dbs/room-wal", "/dbs/room"),
            ("/dbs/a.b-c-journal", "/dbs/a.b-c"),
            ("/dbs/r-shm", "/dbs/r"),
            ("/dbs/wal", "/dbs/wal"),
        ] {
            assert_eq!(database_of(Path::new(path)), Path::new(database));
        }
    }

    #[tokio::test]
    async fn a_write_to_one_database_is_heard_by_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Arc::new(Watcher::default());
        let mut one = watcher.watch(&folder.path().join("one")).unwrap();
        let two = watcher.watch(&folder.path().join("two.x")).unwrap();
        std::fs::write(folder.path().join("one-wal"), "something").unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(10), one.events.changed()).await.unwrap().unwrap();
        assert!(!two.events.has_changed().unwrap());
        drop((one, two));
        assert!(locked(&watcher.files).is_empty());
        assert!(locked(&watcher.folders).watched.is_empty());
    }

    #[tokio::test]
    async fn databases_hear_that_their_folder_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = folder.path().join("rooms");
        std::fs::create_dir(&rooms).unwrap();
        let watcher = Arc::new(Watcher::default());
        let mut watched = watcher.watch(&rooms.join("room")).unwrap();
        std::fs::rename(rooms, folder.path().join("elsewhere")).unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(10), watched.events.changed()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_database_that_is_watched_again_is_still_heard_when_the_first_watch_ends() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Arc::new(Watcher::default());
        let file = folder.path().join("room");
        let first = watcher.watch(&file).unwrap();
        let mut second = watcher.watch(&file).unwrap();
        drop(first);
        std::fs::write(&file, "something").unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(10), second.events.changed()).await.unwrap().unwrap();
    }
}
