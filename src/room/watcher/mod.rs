//! Hears when files of open rooms are written to, by whomever.
//!
//! Events only say that a room should look. Whether there is anything to see, its writer finds out.

#[cfg(target_os = "linux")]
mod inotify;
#[cfg(any(test, not(target_os = "linux")))]
mod portable;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

#[cfg(target_os = "linux")]
use self::inotify::Listener as System;
#[cfg(not(target_os = "linux"))]
use notify::RecommendedWatcher as System;

/// What SQLite appends to a database's name for the files beside it.
const SUFFIXES: [&str; 3] = ["-wal", "-journal", "-shm"];

/// The files that are watched, by their folders and names, with a count of what happened to each.
type Files = HashMap<PathBuf, HashMap<OsString, watch::Sender<u64>>>;

/// Watches the folders of the rooms that are open.
#[derive(Debug)]
pub(crate) struct Watcher<S: Source = System> {
    files: Arc<Mutex<Files>>,
    folders: Mutex<Folders<S>>,
}

#[derive(Debug)]
struct Folders<S> {
    /// Made when the first room is opened; `None` inside if the system can't.
    source: Option<Option<S>>,
    watched: HashMap<PathBuf, Folder>,
}

/// What tells of the files in folders, from when it is started until it is dropped.
pub(crate) trait Source: Sized {
    type Error: Display;

    /// Begins to tell `ear` of what is watched.
    fn start(ear: Ear) -> Result<Self, Self::Error>;

    /// Watches a folder. Once more, if it is watched already, or another one has come to its place.
    fn watch(&mut self, folder: &Path) -> Result<(), Self::Error>;

    /// Tells no more of a folder, which may be gone.
    fn unwatch(&mut self, folder: &Path);
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
pub(crate) struct Watched<S: Source = System> {
    watcher: Arc<Watcher<S>>,
    file: PathBuf,
    /// Counts up at each event.
    pub(crate) events: watch::Receiver<u64>,
}

impl<S: Source> Default for Watcher<S> {
    fn default() -> Self {
        Self { files: Arc::default(), folders: Mutex::new(Folders { source: None, watched: HashMap::new() }) }
    }
}

impl<S: Source> Watcher<S> {
    /// Watches a database file and those beside it. `None` if the system can't.
    pub(crate) fn watch(self: &Arc<Self>, file: &Path) -> Option<Watched<S>> {
        // Events come with the folder's real path. What SQLite writes beside a file is where the file really is, not a link to it.
        let file = match file.canonicalize() {
            Ok(file) => file,
            Err(_) => file.parent()?.canonicalize().ok()?.join(file.file_name()?),
        };
        let (folder, name) = (file.parent()?.to_owned(), file.file_name()?.to_owned());
        let mut folders = locked(&self.folders);
        let Folders { source, watched } = &mut *folders;
        let source = source.get_or_insert_with(|| start(Ear { files: self.files.clone() })).as_mut()?;
        let identity = Identity::of(&folder);
        // Where it can't be told, no other folder takes the place of one with open files.
        let can_tell = identity.is_some() || cfg!(not(unix));
        if !watched.get(&folder).is_some_and(|known| can_tell && known.identity == identity)
            && let Err(error) = source.watch(&folder)
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
            if let Some(Some(source)) = &mut folders.source {
                source.unwatch(folder);
            }
        }
    }
}

impl<S: Source> Drop for Watched<S> {
    fn drop(&mut self) {
        self.watcher.unwatch(&self.file);
    }
}

fn start<S: Source>(ear: Ear) -> Option<S> {
    S::start(ear).inspect_err(|error| tracing::warn!(%error, "files can't be watched")).ok()
}

/// Tells rooms what happened to their files.
#[derive(Debug)]
pub(crate) struct Ear {
    files: Arc<Mutex<Files>>,
}

impl Ear {
    /// Something happened to a file. False if it belongs to no database that is watched.
    fn file(&self, folder: &Path, name: &OsStr) -> bool {
        let files = locked(&self.files);
        let events = files.get(folder).and_then(|here| here.get(database_of(name)));
        events.map(happened).is_some()
    }

    /// A folder was moved or removed, and its files with it.
    fn folder(&self, folder: &Path) {
        locked(&self.files).get(folder).into_iter().flat_map(HashMap::values).for_each(happened);
    }

    /// Nobody knows what happened.
    fn lost(&self) {
        locked(&self.files).values().flat_map(HashMap::values).for_each(happened);
    }
}

fn happened(events: &watch::Sender<u64>) {
    events.send_modify(|count| *count += 1);
}

/// The database that a file belongs to.
fn database_of(name: &OsStr) -> &OsStr {
    let database = name.to_str().and_then(|name| SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)));
    database.map_or(name, OsStr::new)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn files_beside_a_database_belong_to_it() {
        for (name, database) in
            [("room", "room"), ("room-wal", "room"), ("a.b-c-journal", "a.b-c"), ("r-shm", "r"), ("wal", "wal")]
        {
            assert_eq!(database_of(OsStr::new(name)), database);
        }
    }

    async fn hears<S: Source>(watched: &mut Watched<S>) {
        tokio::time::timeout(Duration::from_secs(10), watched.events.changed()).await.unwrap().unwrap();
    }

    async fn a_write_to_one_database_is_heard_by_it_alone<S: Source>() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Arc::new(Watcher::<S>::default());
        let mut one = watcher.watch(&folder.path().join("one")).unwrap();
        let two = watcher.watch(&folder.path().join("two.x")).unwrap();
        std::fs::write(folder.path().join("one-wal"), "something").unwrap();
        hears(&mut one).await;
        assert!(!two.events.has_changed().unwrap());
        drop((one, two));
        assert!(locked(&watcher.files).is_empty());
        assert!(locked(&watcher.folders).watched.is_empty());
    }

    async fn databases_hear_that_their_folder_is_moved<S: Source>() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = folder.path().join("rooms");
        std::fs::create_dir(&rooms).unwrap();
        let watcher = Arc::new(Watcher::<S>::default());
        let mut watched = watcher.watch(&rooms.join("room")).unwrap();
        std::fs::rename(rooms, folder.path().join("elsewhere")).unwrap();
        hears(&mut watched).await;
    }

    async fn databases_in_a_folder_that_took_the_place_of_another_are_heard<S: Source>() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = folder.path().join("rooms");
        std::fs::create_dir(&rooms).unwrap();
        let watcher = Arc::new(Watcher::<S>::default());
        let mut first = watcher.watch(&rooms.join("room")).unwrap();
        std::fs::rename(&rooms, folder.path().join("elsewhere")).unwrap();
        std::fs::create_dir(&rooms).unwrap();
        let second = watcher.watch(&rooms.join("other")).unwrap();
        hears(&mut first).await;
        let mut third = watcher.watch(&rooms.join("third")).unwrap();
        drop((first, second));
        std::fs::write(rooms.join("third"), "something").unwrap();
        hears(&mut third).await;
    }

    async fn a_database_that_is_watched_again_is_still_heard_when_the_first_watch_ends<S: Source>() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Arc::new(Watcher::<S>::default());
        let file = folder.path().join("room");
        let first = watcher.watch(&file).unwrap();
        let mut second = watcher.watch(&file).unwrap();
        drop(first);
        std::fs::write(&file, "something").unwrap();
        hears(&mut second).await;
    }

    async fn a_database_that_comes_and_goes_is_heard<S: Source>() {
        let folder = tempfile::tempdir().unwrap();
        let (file, elsewhere) = (folder.path().join("room"), folder.path().join("elsewhere"));
        std::fs::write(&elsewhere, "something").unwrap();
        let comes = || std::fs::rename(&elsewhere, &file).unwrap();
        let goes = || std::fs::remove_file(&file).unwrap();
        for change in [&comes as &dyn Fn(), &goes] {
            // Each has a watcher of its own, for one change may be told of twice.
            let watcher = Arc::new(Watcher::<S>::default());
            let mut watched = watcher.watch(&file).unwrap();
            change();
            hears(&mut watched).await;
        }
    }

    async fn a_listener_ends_with_its_watcher<S: Source>() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Arc::new(Watcher::<S>::default());
        let files = Arc::downgrade(&watcher.files);
        drop(watcher.watch(&folder.path().join("room")).unwrap());
        drop(watcher);
        tokio::time::timeout(Duration::from_secs(10), async {
            while files.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }

    /// Each of the above, by what this system has, and by what others have.
    macro_rules! by_each_source {
        ($($test:ident),*) => {
            mod by_this_system {
                $(#[tokio::test]
                async fn $test() {
                    super::$test::<super::System>().await;
                })*
            }

            mod by_notify {
                $(#[tokio::test]
                async fn $test() {
                    super::$test::<notify::RecommendedWatcher>().await;
                })*
            }
        };
    }

    by_each_source!(
        a_write_to_one_database_is_heard_by_it_alone,
        databases_hear_that_their_folder_is_moved,
        databases_in_a_folder_that_took_the_place_of_another_are_heard,
        a_database_that_is_watched_again_is_still_heard_when_the_first_watch_ends,
        a_database_that_comes_and_goes_is_heard,
        a_listener_ends_with_its_watcher
    );
}
