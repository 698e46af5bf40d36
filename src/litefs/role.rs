//! Whether this process may write: what LiteFS says in the file `.primary` of the database folder.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio_util::task::AbortOnDropHandle;

/// The file that LiteFS shows on replicas only. Its first line is the primary's id or host name.
const PRIMARY_FILE: &str = ".primary";

/// How often the file is read. LiteFS is a FUSE file system, where a change that comes from another node raises no event here.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes of the file that are looked at. No host name is longer than 253.
const MAX_BYTES: u64 = 1024;

/// What this node is in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// It writes.
    Primary,
    /// It forwards writes to the primary with this id, if it knows one.
    Replica { primary: Option<String> },
}

impl Role {
    /// The role that `folder` gives.
    ///
    /// # Errors
    ///
    /// If it can't be told. Only a file that is not there makes a primary: two nodes that write are worse than none.
    fn read(folder: &Path) -> io::Result<Self> {
        let mut text = String::new();
        match File::open(folder.join(PRIMARY_FILE)) {
            Ok(file) => file.take(MAX_BYTES).read_to_string(&mut text)?,
            // Where LiteFS has not mounted its folder yet, everything is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder.is_dir() => return Ok(Self::Primary),
            Err(error) => return Err(error),
        };
        let line = text.lines().next().unwrap_or_default().trim();
        Ok(Self::Replica { primary: (!line.is_empty()).then(|| line.to_owned()) })
    }
}

/// A time in which the role of this node was the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) role: Role,
    /// Counts up. A node that was the primary, was a replica for a moment, and is the primary again has come to another term: its files
    /// may be others by now.
    number: u64,
}

/// Follows the role of this node for as long as it lives.
#[derive(Debug)]
pub(crate) struct RoleWatch {
    reader: Arc<RoleReader>,
    _polling: AbortOnDropHandle<()>,
}

impl RoleWatch {
    /// Reads the role in `folder`, and then again whenever it may have changed.
    ///
    /// A role that can't be read at first is that of a replica without a primary.
    pub(crate) async fn start(folder: impl Into<PathBuf>) -> Self {
        let reader = Arc::new(RoleReader {
            folder: folder.into(),
            term: watch::Sender::new(Term { role: Role::Replica { primary: None }, number: 0 }),
            failing: Mutex::new(false),
        });
        reader.read().await;
        let polling = AbortOnDropHandle::new(tokio::spawn(reader.clone().poll()));
        Self { reader, _polling: polling }
    }

    /// The term as it was last read, and the latest one whenever there was another.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Term> {
        self.reader.term.subscribe()
    }

    /// Reads the role now: something failed that can mean that it has changed.
    pub(crate) async fn recheck(&self) -> Role {
        self.reader.read().await
    }
}

#[derive(Debug)]
struct RoleReader {
    folder: PathBuf,
    term: watch::Sender<Term>,
    /// Whether the last reading failed, so that a failure is logged once. Its lock keeps an older reading from being published
    /// after a newer one.
    failing: Mutex<bool>,
}

impl RoleReader {
    async fn poll(self: Arc<Self>) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            self.read().await;
        }
    }

    async fn read(&self) -> Role {
        let mut failing = self.failing.lock().await;
        let folder = self.folder.clone();
        let read = tokio::task::spawn_blocking(move || Role::read(&folder)).await.unwrap_or_else(|e| Err(e.into()));
        match read {
            Ok(role) => {
                *failing = false;
                let changed = self.term.send_if_modified(|term| {
                    let changed = term.role != role;
                    if changed {
                        *term = Term { role: role.clone(), number: term.number + 1 };
                    }
                    changed
                });
                if changed {
                    tracing::info!(folder = %self.folder.display(), ?role, "this node's role in LiteFS");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut *failing, true) {
                    let path = self.folder.join(PRIMARY_FILE);
                    tracing::error!(path = %path.display(), %error, "the role can't be read and stays what it was");
                }
            }
        }
        self.term.borrow().role.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn replica_of(primary: &str) -> Role {
        Role::Replica { primary: Some(primary.to_owned()) }
    }

    #[test]
    fn a_node_without_the_file_is_primary() {
        let folder = TempDir::new().unwrap();
        assert_eq!(Role::read(folder.path()).unwrap(), Role::Primary);
    }

    #[test]
    fn the_first_line_trimmed_names_the_primary() {
        let folder = TempDir::new().unwrap();
        for (text, role) in [
            ("node-a", replica_of("node-a")),
            ("node-a\n", replica_of("node-a")),
            (" node-a \r\nsomething else\n", replica_of("node-a")),
            ("", Role::Replica { primary: None }),
            ("\nnode-a", Role::Replica { primary: None }),
        ] {
            fs::write(folder.path().join(PRIMARY_FILE), text).unwrap();
            assert_eq!(Role::read(folder.path()).unwrap(), role, "{text:?}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_makes_nobody_primary() {
        let folder = TempDir::new().unwrap();
        assert!(Role::read(&folder.path().join("not mounted")).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_role_follows_the_file() {
        let folder = TempDir::new().unwrap();
        let watch = RoleWatch::start(folder.path()).await;
        let mut term = watch.subscribe();
        assert_eq!(term.borrow_and_update().role, Role::Primary);
        for primary in ["a", "b"] {
            fs::write(folder.path().join("new"), primary).unwrap();
            fs::rename(folder.path().join("new"), folder.path().join(PRIMARY_FILE)).unwrap();
            term.changed().await.unwrap();
            assert_eq!(term.borrow_and_update().role, replica_of(primary));
        }
        fs::remove_file(folder.path().join(PRIMARY_FILE)).unwrap();
        term.changed().await.unwrap();
        assert_eq!(term.borrow_and_update().role, Role::Primary);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_looks_late_sees_that_the_role_was_another_one_meanwhile() {
        let folder = TempDir::new().unwrap();
        let watch = RoleWatch::start(folder.path()).await;
        let term = watch.subscribe();
        let before = term.borrow().clone();
        fs::write(folder.path().join(PRIMARY_FILE), "a").unwrap();
        watch.recheck().await;
        fs::remove_file(folder.path().join(PRIMARY_FILE)).unwrap();
        watch.recheck().await;
        assert_eq!((&term.borrow().role, &before.role), (&Role::Primary, &Role::Primary));
        assert_ne!(*term.borrow(), before);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recheck_sees_the_file_at_once() {
        let folder = TempDir::new().unwrap();
        let watch = RoleWatch::start(folder.path()).await;
        fs::write(folder.path().join(PRIMARY_FILE), "a").unwrap();
        assert_eq!(watch.recheck().await, replica_of("a"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_cannot_be_read_makes_nobody_primary() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(PRIMARY_FILE);
        fs::create_dir(&path).unwrap();
        let watch = RoleWatch::start(folder.path()).await;
        assert_eq!(watch.subscribe().borrow().role, Role::Replica { primary: None });

        fs::remove_dir(&path).unwrap();
        fs::write(&path, "a").unwrap();
        assert_eq!(watch.recheck().await, replica_of("a"));
        fs::write(&path, [0xff]).unwrap();
        assert_eq!(watch.recheck().await, replica_of("a"), "what is no text leaves the role as it was");
    }
}
