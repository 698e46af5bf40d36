//! How files are heard of elsewhere: as the `notify` crate finds out.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode};

use super::{Ear, Source};

/// For so long events are gathered before the next are asked for: the system may make one of several that are alike.
const GATHER: Duration = Duration::from_millis(2);

impl Source for RecommendedWatcher {
    type Error = notify::Error;

    fn start(ear: Ear) -> notify::Result<Self> {
        let mut gathered = Instant::now();
        notify::recommended_watcher(move |event| {
            tell(&ear, event);
            // It is called for each event.
            if gathered.elapsed() >= GATHER {
                thread::sleep(GATHER);
                gathered = Instant::now();
            }
        })
    }

    fn watch(&mut self, folder: &Path) -> notify::Result<()> {
        notify::Watcher::watch(self, folder, RecursiveMode::NonRecursive)
    }

    fn unwatch(&mut self, folder: &Path) {
        // A folder that is gone is no longer watched.
        drop(notify::Watcher::unwatch(self, folder));
    }
}

/// Tells whom an event concerns.
fn tell(ear: &Ear, event: notify::Result<notify::Event>) {
    match event {
        Ok(event) if event.kind.is_access() => {}
        Ok(event) => {
            if event.need_rescan() {
                ear.lost();
            }
            for path in event.paths {
                let is_heard = path.parent().zip(path.file_name()).is_some_and(|(folder, name)| ear.file(folder, name));
                if !is_heard {
                    // A folder that is moved or removed takes its files along, which are told nothing of it.
                    ear.folder(&path);
                }
            }
        }
        Err(error) => tracing::warn!(%error, "watching the files of rooms failed"),
    }
}
