//! Linux tells of files by inotify (inotify(7)). It is asked for writes, and for files that come and go: not for their being opened and
//! closed and having their attributes changed, which for a new room is more than half of all.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};

use super::{Ear, Source, locked};

/// Bytes of events that are taken at once.
const BUFFER: usize = 64 << 10;

/// So many events fill the buffer, and more may wait.
const MANY: usize = BUFFER / 64;

/// For so long events are gathered before the next are asked for: the system makes one of several that are alike, and a commit is a dozen
/// writes.
const GATHER: Duration = Duration::from_millis(20);

/// One of these is watched so that something can be unwatched in the end, which wakes the thread. A process may not be allowed to watch
/// each of them.
const LIFELINES: [&str; 3] = ["/", "/proc/self", "/dev"];

/// The folders that are watched: each may have several paths, and a path may have led to several of them.
type Folders = HashMap<WatchDescriptor, Vec<PathBuf>>;

/// A thread that listens, until this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    watches: Watches,
    folders: Arc<Mutex<Folders>>,
    lifeline: WatchDescriptor,
    over: Arc<AtomicBool>,
}

impl Source for Listener {
    type Error = io::Error;

    fn start(ear: Ear) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut watches = inotify.watches();
        let lifeline = LIFELINES.iter().find_map(|path| watches.add(path, WatchMask::DELETE_SELF).ok());
        let lifeline = lifeline.ok_or_else(io::Error::last_os_error)?;
        let (folders, over) = (Arc::<Mutex<Folders>>::default(), Arc::<AtomicBool>::default());
        let listener = Self { watches, folders: folders.clone(), lifeline, over: over.clone() };
        let listen = move || {
            listen(inotify, &ear, &folders, &over);
            // Whoever comes after an error hears that nothing is watched.
            over.store(true, Ordering::Relaxed);
        };
        thread::Builder::new().name("room-watcher".to_owned()).spawn(listen)?;
        Ok(listener)
    }

    fn watch(&mut self, folder: &Path) -> io::Result<()> {
        if self.over.load(Ordering::Relaxed) {
            return Err(io::Error::other("the system has stopped telling of files"));
        }
        let mask = WatchMask::MODIFY
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::MASK_ADD
            | WatchMask::ONLYDIR;
        // Held meanwhile, so that no event comes of a folder that isn't known yet.
        let mut folders = locked(&self.folders);
        let paths = folders.entry(self.watches.add(folder, mask)?).or_default();
        if !paths.iter().any(|path| path == folder) {
            paths.push(folder.to_owned());
        }
        Ok(())
    }

    fn unwatch(&mut self, folder: &Path) {
        let mut folders = locked(&self.folders);
        folders.values_mut().for_each(|paths| paths.retain(|path| path != folder));
        for (watch, _) in folders.extract_if(|_, paths| paths.is_empty()) {
            if watch != self.lifeline {
                // A folder that is gone is no longer watched.
                drop(self.watches.remove(watch));
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        drop(self.watches.remove(self.lifeline.clone()));
    }
}

fn listen(mut inotify: Inotify, ear: &Ear, folders: &Mutex<Folders>, over: &AtomicBool) {
    let mut buffer = vec![0; BUFFER];
    while !over.load(Ordering::Relaxed) {
        let events = match inotify.read_events_blocking(&mut buffer) {
            Ok(events) => events,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::error!(%error, "files of rooms are no longer watched");
                ear.lost();
                return;
            }
        };
        let mut count = 0;
        let mut folders = locked(folders);
        for event in events {
            count += 1;
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                ear.lost();
            }
            for folder in folders.get(&event.wd).into_iter().flatten() {
                match event.name {
                    Some(name) => drop(ear.file(folder, name)),
                    // It is moved or removed.
                    None => ear.folder(folder),
                }
            }
            if event.mask.contains(EventMask::IGNORED) {
                folders.remove(&event.wd);
            }
        }
        drop(folders);
        if count < MANY {
            thread::sleep(GATHER);
        }
    }
}
