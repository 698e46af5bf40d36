//! The application's own way to the rooms.

use std::fmt;
use std::sync::Arc;

use rusqlite::{Connection, Transaction};

use crate::connection::Close;
use crate::error::Error;
use crate::hub::Hub;
use crate::primary::{Changeset, Opening, Verdict};
use crate::room::{Purpose, Room, RoomName, SchemaName, Submitted, WantedSchema};
use crate::sessions::ConnectionFilter;

/// Reads and writes rooms from server code, lists them, and shuts the layer down.
///
/// Got from [`SyncLayer::handle`](crate::SyncLayer::handle); cheap to clone. What is written here are changes like any client's:
/// connected clients get them at once, the others when they connect.
///
/// ```
/// use tower_sqlite_sync::{SyncConfig, SyncLayer};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// # let folder = tempfile::tempdir()?;
/// # std::fs::write(folder.path().join("todo.sql"),
/// #     "CREATE TABLE todo (id INTEGER PRIMARY KEY NOT NULL, title TEXT); SELECT crsql_as_crr('todo');")?;
/// # let config = SyncConfig::default().with_db_folder(folder.path().join("dbs")).with_schema_folder(folder.path());
/// let layer = SyncLayer::new(config);
/// let rooms = layer.handle();
///
/// rooms.create_room("lobby", "todo.sql").await?;
/// rooms.write("lobby", |tx| tx.execute("INSERT INTO todo (id, title) VALUES (1, 'say hello')", [])).await?;
/// let title: String =
///     rooms.read("lobby", |conn| conn.query_row("SELECT title FROM todo WHERE id = 1", [], |row| row.get(0))).await?;
/// assert_eq!(title, "say hello");
/// rooms.shutdown().await;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SyncHandle {
    hub: Arc<Hub>,
}

/// An open room, as [`SyncHandle::rooms`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoomStatus {
    /// The room's name.
    pub name: RoomName,
    /// Clients that are connected to it and have announced themselves.
    pub connections: usize,
    /// The db_version up to which its changes are durable and shown to clients.
    pub db_version: i64,
    /// Whether its database is open. If nothing happens in a room, and [enough others](crate::SyncConfig::with_awake_rooms) are awake, it
    /// is closed until something does.
    pub is_awake: bool,
}

impl SyncHandle {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// Opens a room, and creates it with the schema file of that name if it doesn't exist. A file that is just being written is
    /// waited for, up to two seconds.
    ///
    /// # Errors
    ///
    /// A bad room name, an unknown or unusable schema, a room that has another schema, a limit, or a failing database.
    pub async fn create_room(&self, room: &str, schema: &str) -> Result<(), Error> {
        let purpose = Purpose::Create(SchemaName::parse(schema)?);
        self.hub.rooms().enter(&self.name(room)?, &purpose).await?;
        Ok(())
    }

    /// Reads a room's database in one read transaction, on a thread that may block.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRoom`], what `job` returns as [`Error::Sqlite`], or a failure to open the room.
    pub async fn read<T: Send + 'static>(
        &self,
        room: &str,
        job: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let name = self.name(room)?;
        let room = self.hub.rooms().enter(&name, &Purpose::Existing).await?;
        let read = room.read(job).await.and_then(|read| read.map_err(|error| Error::sqlite(&name, error)));
        read.inspect_err(|error| room.note(error))
    }

    /// Writes a room's database in a transaction, on a thread that may block. The transaction is committed if `job` succeeds;
    /// then it is durable, and on its way to the clients. It waits its turn among the clients' changes.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRoom`], what `job` returns as [`Error::Sqlite`], [`Error::Panicked`], or a failure to open the room or to
    /// commit.
    pub async fn write<T: Send + 'static>(
        &self,
        room: &str,
        job: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let room = self.hub.rooms().enter(&self.name(room)?, &Purpose::Existing).await?;
        room.write(job).await
    }

    /// Opens a room for clients with this version of a schema, as their announce does: it is created or migrated if need be.
    ///
    /// This, and [`apply`](Self::apply), is what a process offers whose rooms others have copies of; see
    /// [`Primary`](crate::Primary).
    ///
    /// # Errors
    ///
    /// A bad room name, a limit, or a failure of the room: then it may be tried again later. A schema that the room can't have is
    /// an [`Opening::Refused`].
    pub async fn open_room(&self, room: &str, schema: &str, version: i64) -> Result<Opening, Error> {
        let name = self.name(room)?;
        let entered = async {
            let wanted = WantedSchema { name: SchemaName::parse(schema)?, version };
            self.hub.rooms().enter(&name, &Purpose::Client(wanted)).await
        };
        match entered.await {
            Ok(room) if !room.is_written_here() => Err(Error::NotPrimary { room: name }),
            Ok(_) => Ok(Opening::Opened),
            Err(error) if error.about_the_schema().is_some() => Ok(Opening::Refused(error.close().to_refusal())),
            Err(error) => Err(error),
        }
    }

    /// Applies changes of a client that is connected elsewhere, as if it were connected here: they wait their turn, are checked
    /// against what the room has from the client, and are durable when this returns [`Verdict::Applied`].
    ///
    /// A client's changesets build on each other: one that is applied before this has returned for the one before may be a
    /// [`Verdict::Gap`].
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRoom`], [`Error::NotPrimary`] if the room is a copy here as well, or a failure of the room: then the
    /// changeset may be applied again later. What can never be applied is a [`Verdict::Refused`].
    pub async fn apply(&self, room: &str, changeset: Changeset) -> Result<Verdict, Error> {
        self.submit(room, changeset).await?.verdict().await
    }

    /// The first half of [`apply`](Self::apply): once it returns, what is submitted next comes after it.
    pub(crate) async fn submit(&self, room: &str, changeset: Changeset) -> Result<Submitted, Error> {
        let room = self.hub.rooms().enter(&self.name(room)?, &Purpose::Existing).await?;
        Room::submit(room, changeset).await
    }

    /// Closes all open rooms and their connections (1001). Clients come back, and find the rooms where the
    /// [`RoomStore`](crate::RoomStore) then says.
    pub async fn reopen(&self) {
        self.hub.rooms().reopen().await;
    }

    /// Closes connections with a code and a reason, and says how many: those that were let in and fit, also if they have not announced
    /// themselves yet.
    ///
    /// Clients come back within seconds. To keep somebody out, see to it first that the hook given to
    /// [`SyncLayer::authorize`](crate::SyncLayer::authorize) refuses them; a request that it is just deciding about is no connection
    /// yet. What a client sent before may still be applied. Under [`RoomStore`](crate::RoomStore)s that are several processes, each has
    /// its own connections.
    ///
    /// The code should be 1008, or 3000 to 4999 for one of your own; one that no close frame may carry becomes 1008. Of the reason, at
    /// most 123 bytes are sent.
    ///
    /// ```
    /// use tower_sqlite_sync::{ConnectionFilter, SyncConfig, SyncLayer};
    ///
    /// let rooms = SyncLayer::new(SyncConfig::default()).handle();
    /// let closed = rooms.disconnect(&ConnectionFilter::default().identity("mallory"), 1008, "your account is closed");
    /// assert_eq!(closed, 0);
    /// ```
    pub fn disconnect(&self, which: &ConnectionFilter, code: u16, reason: &str) -> usize {
        self.hub.sessions().disconnect(which, &Close::disconnect(code, reason))
    }

    /// Waits until the layer shuts down.
    pub(crate) async fn closing(&self) {
        self.hub.closing().await;
    }

    /// Tells that a room's file is an earlier one than its clients knew: a backup that was restored, or copied back by hand.
    ///
    /// The room's database becomes another site; which one it was, and up to where, is remembered in it. Connected clients are
    /// closed (1001) and come back. Clients that have seen more than the file has bring it back, and get what is new in the
    /// file. Without this, clients that have seen later db_versions than the file has would miss what is written under the same ones.
    ///
    /// Clients that had seen all that the room ever showed download nothing again. The others get the whole room: who left in the
    /// middle of a catch-up may have passed by cells that had been written again by then, and are lost in this file. So do all of them
    /// if it isn't certain what was shown. The ledger `.sync-ledger` beside the rooms has that, if it sees for itself that the file is
    /// an earlier one than the room was when it was closed; don't put an old ledger back together with rooms, but remove it.
    ///
    /// [`restore`](Self::restore) does all of that for a file that is put back. By hand: replace the file while the room is closed (the
    /// server is stopped, or nobody is connected and `room_idle` has passed), remove what SQLite may have left beside the former one
    /// (`-wal`, `-shm`: it would take them for the new one's), and call this before the first client connects. The example server does
    /// so for each `--fork ROOM`. A file that is replaced while its room is open is noticed, and the room forks by itself.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRoom`], [`Error::NoFile`] if the room lives in memory, or a failure to open the room.
    pub async fn fork(&self, room: &str) -> Result<(), Error> {
        let (rooms, room) = (self.hub.rooms().clone(), self.name(room)?);
        // Not to be left half-way, whether or not somebody still waits for it.
        let forking = tokio::spawn(async move { rooms.fork(&room).await });
        forking.await.unwrap_or(Err(Error::GoingAway))
    }

    /// The rooms that are open now. Rooms without clients are closed after a while; their files stay.
    #[must_use]
    pub fn rooms(&self) -> Vec<RoomStatus> {
        let status = |room: Arc<Room>| RoomStatus {
            name: room.name().clone(),
            connections: room.connections(),
            db_version: room.now(),
            is_awake: room.is_awake(),
        };
        let mut rooms: Vec<RoomStatus> = self.hub.rooms().open_rooms().into_iter().map(status).collect();
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        rooms
    }

    /// Shuts the layer down: connections are closed with 1001, new ones are answered 503, what is queued is committed, and the
    /// databases are closed with nothing left in their logs. What a room can't commit within `shutdown_grace` is rolled back;
    /// clients send it again.
    pub async fn shutdown(&self) {
        self.hub.shut_down().await;
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn name(&self, room: &str) -> Result<RoomName, Error> {
        let parsed =
            if self.hub.config().wide_room_names() { RoomName::parse_wide(room) } else { RoomName::parse(room) };
        Ok(parsed?)
    }
}

impl fmt::Debug for SyncHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncHandle").field("rooms", &self.rooms().len()).finish_non_exhaustive()
    }
}
