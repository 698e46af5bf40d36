//! Rooms: one database each, opened once, with one writer, one feed and a few readers.
//!
//! ```text
//!  connections ──changesets──▶ writer ──commit──▶ feed ──frames──▶ connections
//!                                │                  ▲
//!                                ▼                  │ what left the window
//!                            database ──────────▶ readers
//! ```

mod bounds;
mod commit;
mod convert;
mod database;
mod ending;
mod feed;
mod follow;
mod forward;
mod frame;
mod large;
mod lineage;
mod migration;
mod name;
mod outside;
mod refused_schemas;
mod registry;
mod schema;
mod submit;
mod watcher;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::{Connection, Transaction};
use tokio::sync::{Semaphore, watch};
use tower_sqlite_sync_wire as wire;

pub(crate) use self::convert::engine_site;
pub(crate) use self::ending::Ending;
pub(crate) use self::feed::Pull;
pub(crate) use self::frame::{Frame, Selection};
use self::lineage::Lineage;
pub(crate) use self::lineage::Origin;
pub use self::name::{RoomName, RoomNameError};
pub(crate) use self::registry::{Lease, Registry};
pub use self::schema::SchemaName;
pub(crate) use self::schema::WantedSchema;
pub(crate) use self::submit::Submitted;
pub(crate) use self::writer::{Applied, Changeset, Outcome};

use self::bounds::Bounds;
use self::database::{Location, ReadConnections, WriteConnection};
use self::feed::Feed;
use self::follow::{Follower, Sight};
use self::forward::Forwarder;
use self::large::LargeFrames;
use self::outside::Outside;
use self::schema::{ResidentSchema, StoredSchema};
use self::watcher::Watcher;
use self::writer::{QueueBytes, Writer, WriterQueue};
use crate::applied::Observer;
use crate::config::SyncConfig;
use crate::connection::Close;
use crate::error::Error;
use crate::primary::Primary;
use crate::store::{Epoch, Home};

/// An open room.
#[derive(Debug)]
pub(crate) struct Room {
    name: RoomName,
    site: wire::SiteId,
    lineage: Lineage,
    /// Changes when the room is migrated.
    schema: watch::Sender<StoredSchema>,
    feed: Arc<Feed>,
    queue: WriterQueue,
    reads: Reads,
    ending: Arc<Ending>,
    /// And not by another process.
    is_written_here: bool,
    large: LargeFrames,
    /// Places for clients that bring back what the room may have lost.
    uploads: Arc<Semaphore>,
    bounds: Bounds,
    max_frame_bytes: usize,
    connections: AtomicUsize,
}

/// What all rooms of a layer share.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// Who is told of what clients write.
    pub(crate) observer: Arc<Observer>,
    watcher: Arc<Watcher>,
    queued: QueueBytes,
}

impl Surroundings {
    fn new(config: &SyncConfig) -> Self {
        Self { observer: Arc::default(), watcher: Arc::default(), queued: QueueBytes::new(config.queues_bytes()) }
    }
}

/// Where a room is read.
#[derive(Debug)]
enum Reads {
    /// From connections of its own.
    Pool(ReadConnections),
    /// From the writer's: a memory database belongs to one connection.
    Writer,
}

/// What a room is opened for.
#[derive(Debug, Clone)]
pub(crate) enum Purpose {
    /// A client with that schema; a room without a schema gets it, and one with another version of it is migrated.
    Client(WantedSchema),
    /// The application wants a room that exists, whatever its schema.
    Existing,
    /// The application wants a room with the schema that the schema folder has under that name.
    Create(SchemaName),
}

impl Room {
    /// Opens a room where it lives, creates what is missing, and starts its writer.
    pub(crate) async fn open(
        name: &RoomName,
        home: Home,
        config: &SyncConfig,
        purpose: &Purpose,
        origin: Origin,
        surroundings: &Surroundings,
    ) -> Result<Arc<Self>, Error> {
        let (location, epoch) = match home {
            Home::Memory => (Location::Memory, None),
            Home::File { path, epoch } => (Location::File(path), epoch),
            Home::Replica { path, primary } => {
                return Self::open_replica(name, path, primary, config, purpose, surroundings).await;
            }
        };
        let resident = prepare(name, &location, config, purpose).await?;
        let conn = WriteConnection::open(name, &location, config.busy_timeout()).await?;
        let opened = {
            let (name, config, purpose) = (name.clone(), config.clone(), purpose.clone());
            conn.run(move |conn| Opened::read(conn, &name, &config, &purpose, origin, epoch, resident)).await?
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                conn.close().await?;
                return Err(error);
            }
        };
        let reads = match &location {
            Location::File(_) => Reads::Pool(ReadConnections::new(name, &location, config.busy_timeout())?),
            Location::Memory => Reads::Writer,
        };
        let parts = Parts::new(name, config, &opened);
        let (writer, queue) = Writer::new(conn, name, config, &parts, surroundings);
        tokio::spawn(writer.run());
        let (watch, poll) = (config.watch_files(), config.poll_files());
        if let Location::File(path) = location
            && (watch || !poll.is_zero())
        {
            let watched = if watch { surroundings.watcher.watch(&path) } else { None };
            let outside = Outside::new(name, path, watched, (watch, poll), queue.clone(), parts.ending.clone());
            tokio::spawn(outside.run());
        }
        Ok(Self::of(name, config, opened, parts, queue, reads, true))
    }

    /// Opens the copy of a room that another process writes.
    async fn open_replica(
        name: &RoomName,
        path: PathBuf,
        primary: Arc<dyn Primary>,
        config: &SyncConfig,
        purpose: &Purpose,
        surroundings: &Surroundings,
    ) -> Result<Arc<Self>, Error> {
        let patience = config.queue_wait();
        let schema = match purpose {
            Purpose::Client(wanted) => Some(wanted.clone()),
            Purpose::Create(schema) => {
                let (folder, schema) = (config.schema_folder().to_owned(), schema.clone());
                Some(blocking(move || ResidentSchema::read(&folder, schema)).await?.stamp())
            }
            Purpose::Existing => None,
        };
        // Asked for before it is opened, so that nothing is missed in between.
        let changed = primary.changed(name);
        if let Some(schema) = &schema {
            forward::open(name, &*primary, schema, patience).await?;
        }
        let location = Location::File(path.clone());
        let exists = blocking(move || Ok(path.exists())).await?;
        let missing = || Error::NoSuchRoom { room: name.clone() };
        if !exists {
            return Err(missing());
        }
        let reads = ReadConnections::new(name, &location, config.busy_timeout())?;
        let opened = reads.run(Opened::look).await?.map_err(|error| Error::engine(name, error))?.ok_or_else(missing)?;
        if let Some(schema) = &schema {
            opened.schema.admit(name, schema)?;
        }
        let parts = Parts::new(name, config, &opened);
        let follower = Follower::new(name, reads.clone(), &parts);
        let (queue, jobs) = WriterQueue::new(name, config, surroundings.queued.clone());
        let forwarder = Forwarder::new(name, primary, jobs, follower.clone(), parts.ending.clone(), patience);
        tokio::spawn(follower.run(changed));
        tokio::spawn(forwarder.run());
        Ok(Self::of(name, config, opened, parts, queue, Reads::Pool(reads), false))
    }

    fn of(
        name: &RoomName,
        config: &SyncConfig,
        opened: Opened,
        parts: Parts,
        queue: WriterQueue,
        reads: Reads,
        is_written_here: bool,
    ) -> Arc<Self> {
        tracing::info!(room = %name, site = %opened.site, schema = %opened.schema, db_version = opened.now, "room opened");
        Arc::new(Self {
            name: name.clone(),
            site: opened.site,
            lineage: opened.lineage,
            schema: parts.schema,
            feed: parts.feed,
            queue,
            reads,
            ending: parts.ending,
            is_written_here,
            large: LargeFrames::default(),
            uploads: Arc::new(Semaphore::new(config.fork_uploads().clamp(1, Semaphore::MAX_PERMITS))),
            bounds: Bounds::new(config),
            max_frame_bytes: config.max_frame_bytes(),
            connections: AtomicUsize::new(0),
        })
    }

    /// The room's name.
    pub(crate) fn name(&self) -> &RoomName {
        &self.name
    }

    /// The site id of the room's database, which clients know the server by.
    pub(crate) fn site(&self) -> wire::SiteId {
        self.site
    }

    /// The sites that the database was before.
    pub(crate) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Places for clients that bring back what they have of the room, since it became this site.
    pub(crate) fn uploads(&self) -> Arc<Semaphore> {
        self.uploads.clone()
    }

    /// Whether the room outlives its being open.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.reads, Reads::Pool(_))
    }

    /// Whether a room that is open serves that purpose, or does so once it is migrated.
    pub(crate) async fn admit(&self, purpose: &Purpose, config: &SyncConfig) -> Result<(), Error> {
        let stored = self.schema.borrow().clone();
        let folder = config.schema_folder().to_owned();
        match purpose.clone() {
            Purpose::Client(wanted) if stored.is_other_version_of(&wanted) => {
                let resident = blocking(move || ResidentSchema::read_version(&folder, &wanted)).await?;
                self.queue.migrate(resident).await
            }
            Purpose::Client(wanted) => stored.admit(&self.name, &wanted),
            Purpose::Existing => Ok(()),
            Purpose::Create(name) => {
                let resident = blocking(move || ResidentSchema::read(&folder, name)).await?;
                stored.admit(&self.name, &resident.stamp())
            }
        }
    }

    /// Waits until the room has another schema than a client has, and says how the client's connection closes: changes of either
    /// side may name what the other doesn't have.
    pub(crate) async fn outgrown(&self, schema: &WantedSchema) -> Close {
        let refusal = |stored: &StoredSchema| stored.admit(&self.name, schema).err();
        let mut stored = self.schema.subscribe();
        let outgrown = stored.wait_for(|stored| refusal(stored).is_some()).await;
        let refused = outgrown.ok().and_then(|stored| refusal(&stored));
        refused.map_or_else(Close::going_away, |error| error.close())
    }

    /// The db_version up to which changes may be shown.
    pub(crate) fn now(&self) -> i64 {
        self.feed.now()
    }

    /// Wakes whenever [`now`](Self::now) grows.
    pub(crate) fn subscribe(&self) -> watch::Receiver<i64> {
        self.feed.subscribe()
    }

    /// What the feed has behind db_version `read`, in about one message.
    pub(crate) fn pull(&self, read: i64) -> Pull {
        self.feed.pull(read, self.max_frame_bytes)
    }

    /// Encodes, for all connections, what follows `head`.
    pub(crate) async fn encode(&self, head: i64) -> Result<(), Error> {
        self.feed.encode(head, async |after, upto| self.read_frame(after, upto, None, self.max_frame_bytes).await).await
    }

    /// Reads what follows `after`, up to `upto` at most, without what `exclude` wrote, in about `max_bytes`.
    pub(crate) async fn read_frame(
        &self,
        after: i64,
        upto: i64,
        exclude: Option<wire::SiteId>,
        max_bytes: usize,
    ) -> Result<Arc<Frame>, Error> {
        let exclude = exclude.map(engine_site);
        let frame = self.read(move |conn| Frame::read(conn, after, upto, exclude, max_bytes)).await?;
        let frame = frame.map_err(|error| Error::engine(&self.name, error))?;
        Ok(if frame.byte_len() > max_bytes { self.large.share(frame) } else { Arc::new(frame) })
    }

    /// What the room has from `site`.
    pub(crate) async fn position(&self, site: wire::SiteId) -> Result<wire::Position, Error> {
        let position = self.read(move |conn| crr::Crr::of(conn)?.position(engine_site(site))).await?;
        position.map(convert::wire_position).map_err(|error| Error::engine(&self.name, error))
    }

    /// Runs `job` in a read transaction.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        match &self.reads {
            Reads::Pool(connections) => connections.run(job).await,
            Reads::Writer => self.queue.read(job).await,
        }
    }

    /// Queues a changeset for the writer, unless it is too large: then its outcome comes at once.
    pub(crate) async fn merge(&self, changeset: Changeset) -> Result<(), Error> {
        if let Err(error) = self.bounds.check(&self.name, &changeset.changes).await {
            // A connection that is gone no longer asks.
            drop(changeset.reply.send(Outcome::Failed(error)));
            return Ok(());
        }
        self.queue.merge(changeset).await
    }

    /// Whether this process writes the room, and no other.
    pub(crate) fn is_written_here(&self) -> bool {
        self.is_written_here
    }

    /// Runs the application's `job` in a write transaction.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        self.queue.write(job).await
    }

    /// Why and when the room's connections must go.
    pub(crate) fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Counts a connection, until what is returned is dropped.
    pub(crate) fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(self.clone())
    }

    /// How many connections the room has.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Commits what is queued, closes the database, and leaves nothing in its log.
    pub(crate) async fn close(&self) {
        self.ending.end(Close::going_away());
        if let Reads::Pool(connections) = &self.reads {
            connections.close();
        }
        match self.queue.close().await {
            Ok(()) => tracing::info!(room = %self.name, "room closed"),
            Err(error) => tracing::error!(room = %self.name, %error, "room closed, but its log is not written back"),
        }
    }
}

/// One connection of a room's [count](Room::connections).
#[derive(Debug)]
pub(crate) struct Connected(Arc<Room>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a room shares with its writer, and with whoever follows its file.
#[derive(Debug, Clone)]
struct Parts {
    site: wire::SiteId,
    feed: Arc<Feed>,
    schema: watch::Sender<StoredSchema>,
    ending: Arc<Ending>,
}

impl Parts {
    fn new(name: &RoomName, config: &SyncConfig, opened: &Opened) -> Self {
        Self {
            site: opened.site,
            feed: Arc::new(Feed::new(opened.now, config.feed_window_bytes())),
            schema: watch::Sender::new(opened.schema.clone()),
            ending: Arc::new(Ending::new(name.clone())),
        }
    }
}

/// What is known of a database that was just opened.
struct Opened {
    site: wire::SiteId,
    lineage: Lineage,
    schema: StoredSchema,
    now: i64,
}

impl Opened {
    /// What a copy says that another process writes. `None` if no schema was applied yet.
    fn look(conn: &Connection) -> crr::Result<Option<Self>> {
        let Some(Sight { site, schema, now }) = Sight::of(conn)? else { return Ok(None) };
        Ok(Some(Self { site, lineage: Lineage::read(conn)?, schema, now }))
    }

    fn read(
        conn: &mut Connection,
        room: &RoomName,
        config: &SyncConfig,
        purpose: &Purpose,
        origin: Origin,
        epoch: Option<Epoch>,
        resident: Option<ResidentSchema>,
    ) -> Result<Self, Error> {
        let sqlite = |error| Error::sqlite(room, error);
        let engine = |error| Error::engine(room, error);
        let stored = StoredSchema::read(conn).map_err(sqlite)?;
        let earlier = origin == Origin::Earlier || lineage::epoch(conn).map_err(sqlite)? != epoch && epoch.is_some();
        // Before anything else is written. A room that is created now was never known.
        if earlier && stored.is_some() {
            let fork = lineage::fork(conn).map_err(engine)?;
            tracing::warn!(
                room = %room, former = %fork.former, site = %fork.site, db_version = fork.db_version,
                "the room's database is an earlier one than its clients knew: it has become another site"
            );
        }
        let schema = match stored {
            Some(stored) => match purpose {
                Purpose::Client(wanted) if stored.is_other_version_of(wanted) => {
                    let resident = ResidentSchema::read_version(config.schema_folder(), wanted)?;
                    migration::migrate(conn, room, &resident)?.schema
                }
                Purpose::Client(wanted) => {
                    stored.admit(room, wanted)?;
                    stored
                }
                Purpose::Existing => stored,
                Purpose::Create(name) => {
                    let resident = ResidentSchema::read(config.schema_folder(), name.clone())?;
                    stored.admit(room, &resident.stamp())?;
                    stored
                }
            },
            None => {
                let resident = match (resident, purpose) {
                    (Some(resident), _) => resident,
                    (None, Purpose::Client(wanted)) => ResidentSchema::read_version(config.schema_folder(), wanted)?,
                    (None, Purpose::Create(name)) => ResidentSchema::read(config.schema_folder(), name.clone())?,
                    (None, Purpose::Existing) => return Err(Error::NoSuchRoom { room: room.clone() }),
                };
                schema::apply(conn, room, &resident)?
            }
        };
        if let Some(epoch) = epoch {
            lineage::enter(conn, epoch).map_err(sqlite)?;
        }
        let crr = crr::Crr::of(conn).map_err(engine)?;
        let now = crr.stored_db_version().map_err(engine)?;
        let site = convert::wire_site(crr.site_id().map_err(engine)?);
        let lineage = Lineage::read(conn).map_err(sqlite)?;
        // What another process left in the log may not be synced yet; a checkpoint syncs it before it is shown.
        conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).map_err(sqlite)?;
        Ok(Self { site, lineage, schema, now })
    }
}

/// Before a file is created, makes sure that there is a schema to create it with: a client that is refused leaves no file behind.
async fn prepare(
    name: &RoomName,
    location: &Location,
    config: &SyncConfig,
    purpose: &Purpose,
) -> Result<Option<ResidentSchema>, Error> {
    let (name, location, purpose) = (name.clone(), location.clone(), purpose.clone());
    let schema_folder = config.schema_folder().to_owned();
    blocking(move || {
        if let Location::File(path) = &location
            && path.exists()
        {
            return Ok(None);
        }
        let resident = match purpose {
            Purpose::Client(wanted) => ResidentSchema::read_version(&schema_folder, &wanted)?,
            Purpose::Create(schema) => ResidentSchema::read(&schema_folder, schema)?,
            Purpose::Existing => return Err(Error::NoSuchRoom { room: name }),
        };
        if let Location::File(path) = &location
            && let Some(folder) = path.parent()
        {
            std::fs::create_dir_all(folder).map_err(|source| Error::Io {
                room: name,
                action: "the database folder can't be created",
                source,
            })?;
        }
        Ok(Some(resident))
    })
    .await
}

/// Runs what blocks on the file system.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::GoingAway))
}
