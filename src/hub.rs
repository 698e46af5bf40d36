//! All that the connections of a layer share. It is made once, in [`SyncLayer::new`](crate::SyncLayer::new): axum makes a service of
//! a layer for every route.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::SyncConfig;
use crate::connection::IntakeBudget;
use crate::refusals::Refusals;
use crate::room::Registry;
use crate::sessions::Sessions;
use crate::store::{self, RoomStore};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Hub {
    config: SyncConfig,
    rooms: Arc<Registry>,
    refusals: Refusals,
    sessions: Arc<Sessions>,
    places: Arc<Semaphore>,
    intake: Arc<IntakeBudget>,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// Connections that have not closed in time are dropped.
    overtime: CancellationToken,
}

/// A connection's place under `max_connections`; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    _place: OwnedSemaphorePermit,
}

/// Why no further connection is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// There are as many as there may be.
    #[error("too many connections (max_connections): try again later")]
    TooManyConnections,
    /// The layer is shutting down.
    #[error("the server is going away: try again later")]
    ShuttingDown,
}

impl Hub {
    /// A hub with rooms where the configuration says.
    pub(crate) fn new(config: SyncConfig) -> Arc<Self> {
        let store = store::configured(&config);
        Self::with_store(config, store)
    }

    /// A hub with rooms where `store` says.
    pub(crate) fn with_store(config: SyncConfig, store: Arc<dyn RoomStore>) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(config.max_connections().min(Semaphore::MAX_PERMITS)));
        let rooms = Arc::new(Registry::new(config.clone(), store));
        // The largest message must be able to come.
        let intake = IntakeBudget::new(config.uploads_bytes().max(config.max_message_bytes()));
        Arc::new(Self {
            config,
            rooms,
            refusals: Refusals::default(),
            sessions: Arc::default(),
            places,
            intake,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            overtime: CancellationToken::new(),
        })
    }

    /// The layer's configuration.
    pub(crate) fn config(&self) -> &SyncConfig {
        &self.config
    }

    /// The open rooms.
    pub(crate) fn rooms(&self) -> &Arc<Registry> {
        &self.rooms
    }

    /// The sites whose changes were refused.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The connections that were let in.
    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// What incomplete messages of all connections may take.
    pub(crate) fn intake(&self) -> Arc<IntakeBudget> {
        self.intake.clone()
    }

    /// A place for one more connection.
    pub(crate) fn admit(&self) -> Result<Admission, Refused> {
        if self.closing.is_cancelled() {
            return Err(Refused::ShuttingDown);
        }
        match self.places.clone().try_acquire_owned() {
            Ok(place) => Ok(Admission { _place: place }),
            Err(_) => Err(Refused::TooManyConnections),
        }
    }

    /// Runs a connection. A shutdown waits for it.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let overtime = self.overtime.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = connection => {}
                () = overtime.cancelled() => {}
            }
        });
    }

    /// Waits until the layer shuts down.
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Closes all connections (1001), waits for them within `shutdown_grace`, then closes all rooms: what was queued is committed,
    /// if that takes no longer than `shutdown_grace` either, and the logs are written back into the database files.
    pub(crate) async fn shut_down(&self) {
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(self.config.shutdown_grace(), self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "connections did not close in time (shutdown_grace)");
            self.overtime.cancel();
            self.tasks.wait().await;
        }
        self.rooms.close(Instant::now() + self.config.shutdown_grace()).await;
    }
}
