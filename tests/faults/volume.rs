//! A small disk, in a mount namespace that only one test sees.
//!
//! The test binary runs itself again for such a test, through `unshare`. As root, and where users may have namespaces of their own,
//! nothing else is needed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Set in the process that may mount.
const INSIDE: &str = "TOWER_SQLITE_SYNC_TEST_MOUNTS";

/// Runs a test where it may mount. Call it first thing, from the test's own thread.
pub(crate) fn with_mounts(test: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
        return;
    }
    let as_root: &[&str] = &["--mount"];
    let as_anybody: &[&str] = &["--user", "--map-root-user", "--mount"];
    let works = |flags: &&&[&str]| {
        let tried = Command::new("unshare").args(**flags).arg("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let Some(flags) = [as_root, as_anybody].iter().find(works).copied() else {
        assert!(std::env::var_os("CI").is_none(), "this test needs `unshare --mount`");
        eprintln!("left out: this test needs `unshare --mount`, as root or with user namespaces");
        return;
    };
    let name = std::thread::current().name().unwrap().to_owned();
    let inside = Command::new("unshare")
        .args(flags)
        .args(["--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inside.stdout);
    assert!(
        inside.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&inside.stderr)
    );
}

/// See the module's documentation.
pub(crate) struct Volume {
    folder: TempDir,
}

impl Volume {
    /// An empty disk of that size.
    pub(crate) fn new(mebibytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        mount(&["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"], folder.path());
        Self { folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all the space that is left.
    pub(crate) fn fill(&self) {
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        let zeros = [0; 4096];
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
    }

    /// Gives it back.
    pub(crate) fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    /// Lets nobody write, or lets everybody.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        mount(&["-o", if read_only { "remount,ro" } else { "remount,rw" }], self.path());
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // The namespace takes the mount with it in any case.
        drop(Command::new("umount").arg("--lazy").arg(self.path()).status());
    }
}

fn mount(arguments: &[&str], at: &Path) {
    assert!(Command::new("mount").args(arguments).arg(at).status().unwrap().success());
}
