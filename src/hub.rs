//! All that the connections of a layer share. It is made once, in [`SyncLayer::new`](crate::SyncLayer::new): axum makes a service of
//! a layer for every route.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::{Network, Unwelcome};
use crate::config::SyncConfig;
use crate::connection::Budget;
use crate::refusals::Refusals;
use crate::room::{Registry, RoomName};
use crate::sessions::Sessions;
use crate::store::{self, RoomStore};
use crate::tally::{Counted, Tally};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Hub {
    config: SyncConfig,
    rooms: Arc<Registry>,
    refusals: Refusals,
    sessions: Arc<Sessions>,
    places: Arc<Semaphore>,
    in_rooms: Arc<Tally<RoomName>>,
    from_networks: Arc<Tally<Network>>,
    unwelcome: Unwelcome,
    hook_calls: Semaphore,
    intake: Arc<Budget>,
    sending: Arc<Budget>,
    tasks: TaskTracker,
    closing: CancellationToken,
    /// Connections that have not closed in time are dropped.
    overtime: CancellationToken,
}

/// A connection's place under the limits; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    network: Option<Network>,
    _place: OwnedSemaphorePermit,
    _from_network: Option<Counted<Network>>,
}

/// Why no further connection is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// There are as many as there may be.
    #[error("too many connections (max_connections): try again later")]
    TooManyConnections,
    /// The room has as many as it may.
    #[error("too many connections to this room (max_room_connections): try again later")]
    TooManyToTheRoom,
    /// The address has as many as it may.
    #[error("too many connections from your address (max_address_connections): close some, or try again later")]
    TooManyFromTheAddress,
    /// Too many connections of the address were refused a short while ago.
    #[error("too many refused connections from your address (address_refusals): mend the client, or try again later")]
    Unwelcome(Duration),
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
        let intake = Budget::new(config.uploads_bytes().max(config.max_message_bytes()));
        let sending = Budget::new(config.sending_bytes());
        let in_rooms = Tally::new(config.max_room_connections());
        let from_networks = Tally::new(config.max_address_connections());
        let unwelcome = Unwelcome::new(config.address_refusals());
        let hook_calls = Semaphore::new(config.hook_calls().clamp(1, Semaphore::MAX_PERMITS));
        Arc::new(Self {
            config,
            rooms,
            refusals: Refusals::default(),
            sessions: Arc::default(),
            places,
            in_rooms,
            from_networks,
            unwelcome,
            hook_calls,
            intake,
            sending,
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
    pub(crate) fn intake(&self) -> Arc<Budget> {
        self.intake.clone()
    }

    /// What is on its way to clients may take.
    pub(crate) fn sending(&self) -> &Budget {
        &self.sending
    }

    /// A place for one more connection, from a network if that is known.
    pub(crate) fn admit(&self, network: Option<Network>) -> Result<Admission, Refused> {
        if self.closing.is_cancelled() {
            return Err(Refused::ShuttingDown);
        }
        if let Some(wait) = network.and_then(|network| self.unwelcome.wait(network)) {
            return Err(Refused::Unwelcome(wait));
        }
        let from_network = match network {
            Some(network) => Some(self.from_networks.count(network).ok_or(Refused::TooManyFromTheAddress)?),
            None => None,
        };
        let place = self.places.clone().try_acquire_owned().map_err(|_| Refused::TooManyConnections)?;
        Ok(Admission { network, _place: place, _from_network: from_network })
    }

    /// A place for one more connection to a room.
    pub(crate) fn admit_to(&self, room: &RoomName) -> Result<Counted<RoomName>, Refused> {
        self.in_rooms.count(room.clone()).ok_or(Refused::TooManyToTheRoom)
    }

    /// Remembers that a connection was refused through its client's fault.
    pub(crate) fn blame(&self, admission: &Admission) {
        if let Some(network) = admission.network {
            self.unwelcome.refused(network);
        }
    }

    /// Waits for its turn to ask the hook.
    pub(crate) async fn hook_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.hook_calls.acquire().await.ok()
    }

    /// Runs a connection, which ends when it is [time](Self::closing) to, and has ended by [overtime](Self::overtime). A shutdown waits
    /// for it.
    pub(crate) fn spawn(&self, connection: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(connection);
    }

    /// Waits until the layer shuts down.
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Waits until connections that are still closing are dropped.
    pub(crate) async fn overtime(&self) {
        self.overtime.cancelled().await;
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
