//! What a package manager installed, with a copy of the file that it was installed from.

use std::fs;
use std::io;
use std::path::PathBuf;

/// See the module's documentation.
pub(crate) struct Installed {
    /// Says what to install.
    pub(crate) list: PathBuf,
    /// Its copy, in the folder of what was installed, so that it goes when that does.
    pub(crate) copy: PathBuf,
}

impl Installed {
    /// Compares contents, not times: a fresh checkout has new times and an old list.
    pub(crate) fn up_to_date(&self) -> bool {
        match (fs::read(&self.list), fs::read(&self.copy)) {
            (Ok(list), Ok(copy)) => list == copy,
            _ => false,
        }
    }

    /// Says that all of the list is installed now.
    pub(crate) fn remember(&self) -> io::Result<()> {
        fs::copy(&self.list, &self.copy).map(|_bytes| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_installed_again_when_their_list_changes() {
        let folder = tempfile::tempdir().unwrap();
        let packages = folder.path().join("packages");
        let installed = Installed { list: folder.path().join("list"), copy: packages.join("list") };
        fs::write(&installed.list, "one").unwrap();
        assert!(!installed.up_to_date());
        fs::create_dir(&packages).unwrap();
        installed.remember().unwrap();
        assert!(installed.up_to_date());
        fs::write(&installed.list, "two").unwrap();
        assert!(!installed.up_to_date());
    }
}
