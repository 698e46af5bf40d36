//! Rooms: one database each, opened once, with one writer, one feed and a few readers.
//!
//! ```text
//!  connections ──changesets──▶ writer ──commit──▶ feed ──frames──▶ connections
//!                                │                  ▲
//!                                ▼                  │ what left the window
//!                            database ──────────▶ readers
//! ```

mod announced;
mod arrival;
mod awake;
mod backup;
mod bounds;
mod commit;
mod convert;
mod damaged;
mod database;
mod ending;
mod feed;
mod file;
mod follow;
mod forward;
mod founding;
mod frame;
mod large;
mod ledger;
mod lineage;
mod log;
mod migration;
mod name;
mod opening;
mod outside;
mod queue;
mod reading;
mod recollection;
mod refused_schemas;
mod registry;
mod replaced;
mod restore;
mod schema;
mod sites;
mod staged;
mod stamp;
mod submit;
mod watcher;
mod writer;
mod yielding;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::{Connection, Transaction};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower_sqlite_sync_wire as wire;

pub(crate) use self::announced::Standing;
pub(crate) use self::convert::{engine_site, wire_site};
pub(crate) use self::ending::Ending;
pub(crate) use self::feed::Pull;
pub(crate) use self::frame::{Frame, Selection};
use self::lineage::Lineage;
pub(crate) use self::lineage::Origin;
pub use self::name::{RoomName, RoomNameError};
pub(crate) use self::recollection::Recollection;
pub(crate) use self::registry::{Lease, Registry};
pub use self::schema::SchemaName;
pub(crate) use self::schema::WantedSchema;
pub(crate) use self::submit::Submitted;
pub(crate) use self::writer::{Applied, Changeset, Outcome};

use self::announced::Announced;
use self::arrival::Arrival;
use self::awake::Awake;
use self::bounds::Bounds;
use self::commit::Commit;
use self::database::{Expected, Interrupter, Location, ReadConnections, WriteConnection, WriteOptions, on_a_thread};
use self::feed::Feed;
use self::file::OpenFile;
use self::follow::Follower;
use self::forward::Forwarder;
use self::founding::Founders;
use self::large::LargeFrames;
use self::ledger::{Ledgers, Page};
use self::opening::{Begun, Opened, Opening, prepare};
use self::outside::Outside;
use self::queue::{QueueBytes, WriterQueue};
use self::schema::{ResidentSchema, StoredSchema};
use self::watcher::Watcher;
use self::writer::{Bed, Writer};
use crate::applied::Observer;
use crate::config::SyncConfig;
use crate::connection::Close;
use crate::error::Error;
use crate::meters::{Meters, Up};
use crate::primary::Primary;
use crate::quarantine::Quarantine;
use crate::store::Home;

/// How long it takes the writer to come to a small read, before opening another connection is the lesser evil.
const WRITER_PATIENCE: Duration = Duration::from_secs(1);

/// How often a writer is interrupted that is given up: it may be between two statements.
const INTERRUPTS: Duration = Duration::from_millis(2);

/// How long a writer may take to notice that it is given up, to roll back and to close its database.
const GIVING_UP: Duration = Duration::from_secs(1);

/// An open room.
#[derive(Debug)]
pub(crate) struct Room {
    name: RoomName,
    lineage: Lineage,
    parts: Parts,
    queue: WriterQueue,
    reads: Reads,
    /// And not by another process.
    is_written_here: bool,
    large: LargeFrames,
    /// Places for clients that bring back what the room may have lost.
    uploads: Arc<Semaphore>,
    bounds: Bounds,
    max_frame_bytes: usize,
    connections: AtomicUsize,
    /// The room was made just now, and nobody has written to it.
    is_blank: AtomicBool,
    meters: Arc<Meters>,
    _open: Up,
}

/// What all rooms of a layer share.
#[derive(Debug)]
pub(crate) struct Surroundings {
    /// Who is told of what clients write.
    pub(crate) observer: Arc<Observer>,
    /// Whose changes can't be applied.
    pub(crate) quarantine: Arc<Quarantine>,
    watcher: Arc<Watcher>,
    founders: Arc<Founders>,
    pub(crate) meters: Arc<Meters>,
    ledgers: Ledgers,
    queued: QueueBytes,
    awake: Arc<Awake>,
}

impl Surroundings {
    fn new(config: &SyncConfig) -> Self {
        Self {
            observer: Arc::default(),
            quarantine: Arc::default(),
            watcher: Arc::default(),
            founders: Arc::default(),
            meters: Meters::new(),
            ledgers: Ledgers::default(),
            queued: QueueBytes::new(config.queues_bytes()),
            awake: Arc::new(Awake::new(config.awake_rooms())),
        }
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
        let (watch, poll) = (config.watch_files(), config.poll_files());
        let (options, interrupter) = (WriteOptions::of(config), Interrupter::default());
        let page = match &location {
            Location::File(path) if epoch.is_none() => Some(surroundings.ledgers.page(path, config.durability())),
            _ => None,
        };
        // Whoever copies what SQLite writes to other nodes would miss a file that comes whole.
        let founders = epoch.is_none().then(|| surroundings.founders.clone());
        let open = {
            let (room, config, purpose, location) = (name.clone(), config.clone(), purpose.clone(), location.clone());
            let watcher = surroundings.watcher.clone();
            move || -> Result<_, Error> {
                let begun = prepare(&room, &location, &config, &purpose, founders.as_deref())?;
                // Before the file is read, so that nothing is missed in between.
                let watched = match &location {
                    Location::File(path) if watch => watcher.watch(path),
                    _ => None,
                };
                let is_ours = matches!(begun, Begun::Now(_));
                let expected = if is_ours { Expected::Ours } else { Expected::Anything };
                let name = room.clone();
                let opening = Opening { room, config, purpose, origin, epoch, page, resident: begun.into_schema() };
                let begin = |conn: &mut Connection, log| {
                    let opened = opening.run(conn, log)?;
                    match &location {
                        Location::File(path) => opened.in_file(&name, path, conn),
                        Location::Memory => Ok(opened),
                    }
                };
                let (conn, opened) = WriteConnection::open(&name, &location, options, &expected, interrupter, begin)?;
                Ok((conn, opened, watched, is_ours))
            }
        };
        let (conn, opened, watched, is_ours) = on_a_thread(name, open).await??;
        let reads = match &location {
            Location::File(_) => Reads::Pool(ReadConnections::new(name, &location, config.busy_timeout())),
            Location::Memory => Reads::Writer,
        };
        let interrupter = Some(conn.interrupter().clone());
        let parts = Parts { interrupter, ..Parts::new(name, config, &opened) };
        let (queue, jobs) = WriterQueue::new(name, config, surroundings.queued.clone());
        let commit = Commit::new(name, config, &parts, surroundings, opened.commits_of_others, is_ours);
        let bed = match (&location, &reads) {
            // Who copies what SQLite writes to other nodes knows what to make of an open database, and less of one that comes and goes.
            (Location::File(_), Reads::Pool(readers)) if epoch.is_none() => parts.file.clone().map(|file| Bed {
                awake: surroundings.awake.clone(),
                file,
                readers: readers.clone(),
                options,
            }),
            _ => None,
        };
        tokio::spawn(Writer::new(name, conn, jobs, commit, parts.ending.clone(), bed).run());
        if matches!(location, Location::File(_)) && (watch || !poll.is_zero()) {
            let outside = Outside::new(&parts, watched, (watch, poll), queue.clone());
            tokio::spawn(outside.run());
        }
        let room = Self::of(name, config, opened, parts, queue, reads, surroundings);
        room.is_blank.store(is_ours, Ordering::Relaxed);
        Ok(room)
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
        let mut changed = primary.changed(name);
        if let Some(schema) = &schema {
            forward::open(name, &*primary, schema, patience).await?;
        }
        let reads = ReadConnections::new(name, &Location::File(path.clone()), config.busy_timeout());
        let arrival = Arrival { room: name, path: &path, reads: &reads };
        let opened = match &schema {
            Some(schema) => arrival.wait(schema, &mut changed, patience).await?,
            None => arrival.look().await?,
        };
        let parts = Parts::new(name, config, &opened);
        let follower = Follower::new(name, reads.clone(), &parts);
        let (queue, jobs) = WriterQueue::new(name, config, surroundings.queued.clone());
        let forwarder = Forwarder::new(name, primary, jobs, follower.clone(), parts.ending.clone(), patience);
        tokio::spawn(follower.run(changed));
        tokio::spawn(forwarder.run());
        Ok(Self::of(name, config, opened, parts, queue, Reads::Pool(reads), surroundings))
    }

    fn of(
        name: &RoomName,
        config: &SyncConfig,
        opened: Opened,
        parts: Parts,
        queue: WriterQueue,
        reads: Reads,
        surroundings: &Surroundings,
    ) -> Arc<Self> {
        let Opened { site, schema, now, is_new, .. } = &opened;
        tracing::info!(room = %name, %site, %schema, db_version = now, is_new, "room opened");
        Arc::new(Self {
            name: name.clone(),
            lineage: opened.lineage,
            is_written_here: parts.interrupter.is_some(),
            parts,
            queue,
            reads,
            large: LargeFrames::default(),
            uploads: Arc::new(Semaphore::new(config.fork_uploads().clamp(1, Semaphore::MAX_PERMITS))),
            bounds: Bounds::new(config),
            max_frame_bytes: config.max_frame_bytes(),
            connections: AtomicUsize::new(0),
            is_blank: AtomicBool::new(false),
            _open: surroundings.meters.room(),
            meters: surroundings.meters.clone(),
        })
    }

    /// Where what goes on is counted.
    pub(crate) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// The room's name.
    pub(crate) fn name(&self) -> &RoomName {
        &self.name
    }

    /// The site id of the room's database, which clients know the server by.
    pub(crate) fn site(&self) -> wire::SiteId {
        self.parts.site
    }

    /// The sites that the database was before.
    pub(crate) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Places for clients that bring back what they have of the room, since it became this site.
    pub(crate) fn uploads(&self) -> Arc<Semaphore> {
        self.uploads.clone()
    }

    /// The file that the room is in, as long as it is this process that writes it.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.parts.file.as_ref().map(|file| file.path())
    }

    /// Whether the room outlives its being open.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.reads, Reads::Pool(_))
    }

    /// Whether a room that is open serves that purpose, or does so once it is migrated.
    pub(crate) async fn admit(&self, purpose: &Purpose, config: &SyncConfig) -> Result<(), Error> {
        let stored = self.parts.schema.borrow().clone();
        let folder = config.schema_folder().to_owned();
        match purpose.clone() {
            Purpose::Client(wanted) if stored.is_other_version_of(&wanted) => {
                let resident = blocking(move || ResidentSchema::read_version(&folder, &wanted)).await?;
                self.is_blank.store(false, Ordering::Relaxed);
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
        let mut stored = self.parts.schema.subscribe();
        let outgrown = stored.wait_for(|stored| refusal(stored).is_some()).await;
        let refused = outgrown.ok().and_then(|stored| refusal(&stored));
        refused.map_or_else(Close::going_away, |error| error.close())
    }

    /// The db_version up to which changes may be shown.
    pub(crate) fn now(&self) -> i64 {
        self.parts.feed.now()
    }

    /// Wakes whenever [`now`](Self::now) grows.
    pub(crate) fn subscribe(&self) -> watch::Receiver<i64> {
        self.parts.feed.subscribe()
    }

    /// What the feed has behind db_version `read`, in about one message.
    pub(crate) fn pull(&self, read: i64) -> Pull {
        self.parts.feed.pull(read, self.max_frame_bytes)
    }

    /// Encodes, for all connections, what follows `head`.
    pub(crate) async fn encode(&self, head: i64) -> Result<(), Error> {
        let max_bytes = self.max_frame_bytes;
        let read = async |after, upto| self.read_frame(after, upto, None, max_bytes).await;
        self.parts.feed.encode(head, read).await
    }

    /// Whether the room's database is that site, or was.
    pub(crate) fn is_site(&self, site: wire::SiteId) -> bool {
        site == self.parts.site || self.lineage.includes(site)
    }

    /// Runs a `job` of ours, which is done at once, in a read transaction. A room that nobody reads otherwise needs no connection for it: the
    /// writer's is there, and usually has little to do.
    async fn peek<T: Send + 'static>(
        &self,
        job: impl Fn(&Connection) -> T + Clone + Send + 'static,
    ) -> Result<T, Error> {
        if let Reads::Pool(connections) = &self.reads
            && self.is_written_here
            && !connections.are_open()
            && let Ok(result) = timeout(WRITER_PATIENCE, self.queue.peek(job.clone())).await
        {
            return result;
        }
        self.read(job).await
    }

    /// How many connections have nothing to read.
    pub(crate) fn idle_readers(&self) -> usize {
        match &self.reads {
            Reads::Pool(connections) => connections.idle(),
            Reads::Writer => 0,
        }
    }

    /// Runs `job` in a read transaction.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        match &self.reads {
            Reads::Pool(connections) => connections.run_once(|| self.queue.stir(), job).await,
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
        self.is_blank.store(false, Ordering::Relaxed);
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
        self.is_blank.store(false, Ordering::Relaxed);
        self.queue.write(job).await.inspect_err(|error| self.parts.note(error))
    }

    /// Takes note of an error that a job of the application's met.
    pub(crate) fn note(&self, error: &Error) {
        self.parts.note(error);
    }

    /// Whether the room was made just now and nobody has written to it, so that it knows no site. Another process may have a moment ago,
    /// which changes nothing that can't be repeated.
    fn is_blank(&self) -> bool {
        self.is_blank.load(Ordering::Relaxed) && self.now() == 0
    }

    /// Whether the room's database is open.
    pub(crate) fn is_awake(&self) -> bool {
        self.queue.is_awake()
    }

    /// Why and when the room's connections must go.
    pub(crate) fn ending(&self) -> &Ending {
        &self.parts.ending
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

    /// As [`close`](Self::close). What is not committed at the deadline is given up, as if it had never come.
    pub(crate) async fn close_by(&self, deadline: Instant) {
        let mut closed = pin!(self.close());
        if timeout_at(deadline, &mut closed).await.is_ok() {
            return;
        }
        tracing::warn!(room = %self.name, "giving up what could not be committed in time (shutdown_grace)");
        let give_up = async {
            while let Some(interrupter) = &self.parts.interrupter {
                interrupter.interrupt();
                sleep(INTERRUPTS).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = closed => {}
            () = give_up => {}
            () = sleep(GIVING_UP) => {
                tracing::warn!(room = %self.name, "a closure of the application has not ended; the file is closed when it has");
            }
        }
    }

    /// Commits what is queued, closes the database, and leaves nothing in its log.
    pub(crate) async fn close(&self) {
        self.parts.ending.end(Close::going_away());
        if let Reads::Pool(connections) = &self.reads {
            connections.close().await;
        }
        match self.queue.close().await {
            Ok(()) => tracing::info!(room = %self.name, "room closed"),
            Err(error) => tracing::error!(room = %self.name, %error, "room closed, but its log is not written back"),
        }
        // Nobody may have noticed until now.
        let parts = self.parts.clone();
        if let Err(error) = blocking(move || parts.check_file()).await {
            self.parts.ending.fail_if_unfit(&error);
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
    /// Changes when the room is migrated.
    schema: watch::Sender<StoredSchema>,
    ending: Arc<Ending>,
    /// `None` if the room is in memory.
    file: Option<Arc<OpenFile>>,
    /// `None` where something else tells whether the file went back.
    page: Option<Arc<Page>>,
    announced: Arc<Announced>,
    /// `None` if another process writes the room.
    interrupter: Option<Interrupter>,
}

impl Parts {
    fn new(name: &RoomName, config: &SyncConfig, opened: &Opened) -> Self {
        Self {
            site: opened.site,
            feed: Arc::new(Feed::new(opened.now, config.feed_window_bytes())),
            schema: watch::Sender::new(opened.schema.clone()),
            ending: Arc::new(Ending::new(name.clone())),
            file: opened.file.clone(),
            page: opened.page.clone(),
            announced: Arc::default(),
            interrupter: None,
        }
    }

    /// Makes sure that versions up to `now` are not used again, whatever happens to the file, before they are shown. Blocks.
    fn reserve(&self, now: i64) -> rusqlite::Result<()> {
        self.page.as_ref().map_or(Ok(()), |page| page.reserve(self.site, now))
    }

    /// Tells the operator of an error that a file or the machine is to blame for. Ends the room if it can't go on with its file.
    fn note(&self, error: &Error) {
        if let (Some(fault), Some(file)) = (error.fault(), &self.file) {
            fault.log(self.ending.room(), file.path(), error);
        }
        self.ending.fail_if_unfit(error);
    }

    /// Whether the room's file is still where it was opened. Blocks on the file system.
    fn check_file(&self) -> Result<(), Error> {
        self.file.as_ref().map_or(Ok(()), |file| file.check())
    }
}

/// Runs what blocks on the file system.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::GoingAway))
}
