//! Linux tells of files by inotify (inotify(7)). It is asked for writes, and for files that come and go: not for their being opened and
//! closed and having their attributes changed, which for a new room is more than half of all.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};

use super::{Ear, Source, locked};

/// Bytes of events that are taken at once: some thousand.
const BUFFER: usize = 64 << 10;

/// What is watched so that something can be unwatched in the end, which wakes the thread.
const LIFELINE: &str = "/";

/// The folders that are watched.
type Folders = HashMap<WatchDescriptor, PathBuf>;

/// A thread that listens, until this is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    watches: Watches,
    folders: Arc<Mutex<Folders>>,
    lifeline: WatchDescriptor,
}

impl Source for Listener {
    type Error = io::Error;

    fn start(ear: Ear) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let mut watches = inotify.watches();
        let lifeline = watches.add(LIFELINE, WatchMask::DELETE_SELF)?;
        let folders = Arc::<Mutex<Folders>>::default();
        let (heard_of, end) = (folders.clone(), lifeline.clone());
        thread::Builder::new().name("room-watcher".to_owned()).spawn(move || listen(inotify, ear, &heard_of, &end))?;
        Ok(Self { watches, folders, lifeline })
    }

    fn watch(&mut self, folder: &Path) -> io::Result<()> {
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
        let added = self.watches.add(folder, mask)?;
        folders.insert(added.clone(), folder.to_owned());
        let former = folders.extract_if(|known, path| path == folder && *known != added);
        let former: Vec<_> = former.map(|(former, _)| former).collect();
        drop(folders);
        former.into_iter().for_each(|former| self.end(former));
        Ok(())
    }

    fn unwatch(&mut self, folder: &Path) {
        let here: Vec<_> = locked(&self.folders).extract_if(|_, path| path == folder).map(|(here, _)| here).collect();
        here.into_iter().for_each(|here| self.end(here));
    }
}

impl Listener {
    fn end(&mut self, watch: WatchDescriptor) {
        if watch != self.lifeline {
            // A folder that is gone is no longer watched.
            drop(self.watches.remove(watch));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.watches.remove(self.lifeline.clone()));
    }
}

fn listen(mut inotify: Inotify, mut ear: Ear, folders: &Mutex<Folders>, lifeline: &WatchDescriptor) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let events = match inotify.read_events_blocking(&mut buffer) {
            Ok(events) => events,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::error!(%error, "files of rooms are no longer watched");
                return;
            }
        };
        let mut folders = locked(folders);
        for event in events {
            let is_over = event.mask.contains(EventMask::IGNORED);
            if is_over && event.wd == *lifeline {
                return;
            }
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                ear.lost();
            }
            if let Some(folder) = folders.get(&event.wd) {
                match event.name {
                    Some(name) => drop(ear.file(folder, name)),
                    // It is moved or removed.
                    None => ear.folder(folder),
                }
            }
            if is_over {
                folders.remove(&event.wd);
            }
        }
        drop(folders);
        ear.gather();
    }
}
