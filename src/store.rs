//! Where rooms live, and who writes them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::SyncConfig;
use crate::primary::Primary;
use crate::room::RoomName;

/// Says where a room's database is and where its writes go: [`SyncLayer::with_store`](crate::SyncLayer::with_store).
///
/// Without one, every room is in a file of the database folder, or in memory. An application's own may give each customer a
/// folder, or leave the writing to another process ([`Home::Replica`]):
///
/// ```
/// use std::path::PathBuf;
///
/// use tower_sqlite_sync::{Home, RoomName, RoomStore, SyncConfig, SyncLayer};
///
/// /// A room `customer.name` lives in the customer's folder.
/// #[derive(Debug)]
/// struct ByCustomer(PathBuf);
///
/// impl RoomStore for ByCustomer {
///     fn home(&self, room: &RoomName) -> Home {
///         let (customer, name) = room.as_str().split_once('.').unwrap_or(("shared", room.as_str()));
///         Home::file(self.0.join(customer).join(name))
///     }
/// }
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let layer = SyncLayer::with_store(SyncConfig::default(), ByCustomer(PathBuf::from("/var/lib/rooms")));
/// # drop(layer);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait RoomStore: fmt::Debug + Send + Sync + 'static {
    /// Where a room is now. Asked when it is opened, so it should only look, not wait.
    ///
    /// If rooms move while they are open, call [`SyncHandle::reopen`](crate::SyncHandle::reopen).
    fn home(&self, room: &RoomName) -> Home;
}

/// Where a room's database is, and who writes it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Home {
    /// In memory, until the room is closed.
    Memory,
    /// In a file that this process writes.
    #[non_exhaustive]
    File {
        /// The file. Folders above it are made when the room is created.
        path: PathBuf,
        /// The epoch in which it is written, if there are any.
        epoch: Option<Epoch>,
    },
    /// In a file that another process writes.
    #[non_exhaustive]
    Replica {
        /// The copy that is read here.
        path: PathBuf,
        /// Who writes it.
        primary: Arc<dyn Primary>,
    },
}

impl Home {
    /// A file that this process writes, and no other before it but with this file as it is.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File { path: path.into(), epoch: None }
    }

    /// A file that this process writes since `epoch` began. A room that was last written in another epoch
    /// [forks](crate::SyncHandle::fork) before it serves: this copy may lack what the process before has shown to clients.
    pub fn file_in_epoch(path: impl Into<PathBuf>, epoch: Epoch) -> Self {
        Self::File { path: path.into(), epoch: Some(epoch) }
    }

    /// A copy of a file that `primary` writes.
    pub fn replica(path: impl Into<PathBuf>, primary: Arc<dyn Primary>) -> Self {
        Self::Replica { path: path.into(), primary }
    }
}

impl Home {
    /// The file, if it is one.
    pub(crate) fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Memory => None,
            Self::File { path, .. } | Self::Replica { path, .. } => Some(path),
        }
    }
}

/// A time in which one process writes rooms: from when it became their only writer to when it ceased to be. A random id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch([u8; 16]);

impl Epoch {
    /// The epoch with these bytes, which no other one has.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Every room in a file of one folder, under its own name.
#[derive(Debug, Clone)]
pub struct LocalFiles {
    folder: PathBuf,
}

impl LocalFiles {
    /// Rooms in `folder`, which is made when the first room is created.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }
}

impl RoomStore for LocalFiles {
    fn home(&self, room: &RoomName) -> Home {
        Home::file(self.folder.join(room.as_str()))
    }
}

/// Every room in memory, for as long as it is open.
#[derive(Debug, Clone, Copy, Default)]
pub struct InMemory;

impl RoomStore for InMemory {
    fn home(&self, _: &RoomName) -> Home {
        Home::Memory
    }
}

/// What `db_folder` and `memory` say.
pub(crate) fn configured(config: &SyncConfig) -> Arc<dyn RoomStore> {
    match config.memory() {
        true => Arc::new(InMemory),
        false => Arc::new(LocalFiles::new(config.db_folder())),
    }
}
