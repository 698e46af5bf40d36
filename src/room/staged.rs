//! Files that come to their place whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempPath;

/// What SQLite may leave beside a database.
pub(super) const BESIDE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// How the name of a file ends that is being made.
const UNFINISHED: &str = ".partial";

/// A file that nobody has written to for so long was left by a process that died.
const ABANDONED: Duration = Duration::from_secs(3_600);

/// A file that is being made beside its place. It vanishes unless it gets there.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    place: PathBuf,
    /// How the names of files end that may be beside it.
    beside: &'static [&'static str],
    is_settled: bool,
}

impl Staged {
    /// As [`near`](Self::near), after [sweeping](Self::sweep).
    pub(super) fn beside(place: &Path) -> io::Result<Self> {
        Self::sweep(place);
        Self::near(place)
    }

    /// Removes what others have left unfinished around `place`.
    pub(super) fn sweep(place: &Path) {
        sweep(folder_of(place));
    }

    /// A name for the file, which nothing has yet. It starts with a dot: no room has such a name.
    pub(super) fn near(place: &Path) -> io::Result<Self> {
        if place.file_name().is_none() {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        let random = getrandom::u64().map_err(io::Error::other)?;
        let path = place.with_file_name(format!(".{random:016x}{UNFINISHED}"));
        Ok(Self { path, place: place.to_owned(), beside: &BESIDE, is_settled: false })
    }

    /// A file of these bytes, which outlive a power loss. SQLite is not to open it before it is in its place.
    pub(super) fn of(place: &Path, bytes: &[u8]) -> io::Result<Self> {
        let mut staged = Self::near(place)?;
        staged.beside = &[];
        let mut file = File::options().write(true).create_new(true).open(&staged.path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(staged)
    }

    /// Where it is being made.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the file in its place, where it takes that of another one at once. When this returns, it outlives a power loss.
    pub(super) fn settle(mut self, permissions: Option<Permissions>) -> io::Result<()> {
        if let Some(permissions) = permissions {
            fs::set_permissions(&self.path, permissions)?;
        }
        File::open(&self.path)?.sync_all()?;
        fs::rename(&self.path, &self.place)?;
        self.is_settled = true;
        sync_folder(&self.place)
    }

    /// Puts the file in its place, if nothing is there. That it is there outlives a power loss once its [folder is synced](sync_folder).
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] if something is there, and others where that can't be made sure.
    pub(super) fn settle_first(mut self) -> io::Result<()> {
        TempPath::try_from_path(&self.path)?.persist_noclobber(&self.place)?;
        self.is_settled = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // If something can't be removed, nothing takes it for more than it is.
        if !self.is_settled {
            drop(fs::remove_file(&self.path));
        }
        for suffix in self.beside {
            drop(fs::remove_file(beside(&self.path, suffix)));
        }
    }
}

/// Removes what processes have left that died. What can't be removed harms nobody.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_abandoned = |entry: &fs::DirEntry| {
            let written = entry.metadata().and_then(|metadata| metadata.modified()).ok()?;
            Some(SystemTime::now().duration_since(written).ok()? > ABANDONED)
        };
        if entry.file_name().to_str().is_some_and(is_unfinished) && is_abandoned(&entry) == Some(true) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Whether it is the name of a file that is being made here, or of one beside it.
fn is_unfinished(name: &str) -> bool {
    let name = BESIDE.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
    let random = name.strip_prefix('.').and_then(|name| name.strip_suffix(UNFINISHED));
    random.is_some_and(|random| random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The name of a file that SQLite keeps beside a database.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Where a file really is, if there is a link to it at `path`. There SQLite has its log, and the link is to stay one.
pub(super) fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes durable which files there are around `path`.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder_of(path))?.sync_all()?;
    }
    // Elsewhere folders can't be opened, and need not be synced.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_takes_the_place_of_another_one_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("place");
        fs::write(&place, "old").unwrap();
        let staged = Staged::beside(&place).unwrap();
        fs::write(staged.path(), "new").unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "old");
        staged.settle(None).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "new");
        assert_eq!(names(folder.path()), ["place"]);
    }

    #[test]
    fn what_does_not_get_to_its_place_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let staged = Staged::beside(&folder.path().join("place")).unwrap();
        fs::write(staged.path(), "half").unwrap();
        for suffix in BESIDE {
            fs::write(beside(staged.path(), suffix), "half").unwrap();
        }
        drop(staged);
        assert_eq!(names(folder.path()), [""; 0]);
        assert!(Staged::beside(Path::new("/")).is_err());
    }

    #[test]
    fn what_was_left_long_ago_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, age: Duration| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let left = ".0123456789abcdef.partial";
        for name in [left, ".0123456789abcdef.partial-journal"] {
            make(name, ABANDONED + Duration::from_secs(60));
        }
        let others = [".0123456789abcdeg.partial", ".my.partial", "0123456789abcdef.partial", ".sync-ledger", "room"];
        for name in others {
            make(name, ABANDONED * 100);
        }
        let young = ".fedcba9876543210.partial";
        make(young, ABANDONED / 2);
        Staged::beside(&folder.path().join("place")).unwrap();
        let mut kept = Vec::from(others);
        kept.push(young);
        kept.sort_unstable();
        assert_eq!(names(folder.path()), kept);
    }
}
