//! The layer: what an application puts around its service.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use tower_layer::Layer;

use crate::address::AddressHook;
use crate::applied::AppliedChangeset;
use crate::auth::{Authorize, Hook};
use crate::config::SyncConfig;
use crate::guard::{ChangeGuard, Guard};
use crate::handle::SyncHandle;
use crate::hub::Hub;
use crate::rebind::{Rebind, Rebinding};
use crate::service::SyncService;
use crate::store::RoomStore;
use crate::upgrade::Entrance;

/// Makes an HTTP server a sync hub.
///
/// All shared state (rooms, limits, connections) is made in [`SyncLayer::new`]; clones of a layer and all the services
/// that it makes share it. So one layer may be put around several routers, also with several hooks.
///
/// # Where to put it
///
/// Around everything, so that it sees every request with its whole path: `Router::layer` on the outermost router, or
/// `ServiceBuilder::layer` in front of a hyper service. In axum,
///
/// - `Router::route_layer` runs for routes that exist only: without a route at the sync path, requests for it are 404;
/// - a layer on a router inside `Router::nest` sees the path without the part that the nesting matched, so
///   [`SyncConfig::path`] is compared with that rest; and there too it needs a route at the sync path, because the
///   outer router's fallback takes what the nested one doesn't know.
///
/// Layers that read or add headers, set time limits, compress or look who is calling may be outside or inside of it; what
/// they put into the request's extensions, the hook finds in [`AuthRequest::extensions`](crate::AuthRequest::extensions)
/// if they are outside. Time limits for requests don't end sessions.
///
/// The server must hand over upgraded connections, as `axum::serve` does. With hyper, that is
/// `http1::Connection::with_upgrades` or hyper-util's `serve_connection_with_upgrades`. tonic's own `Server` never does:
/// make its routes an axum router with `Routes::into_axum_router`, and serve that (`examples/tonic` does so).
///
/// Over HTTP/2, clients ask for WebSockets by extended CONNECT (RFC 8441) if the server offers it: `axum::serve` does with
/// axum's feature `http2`, hyper and hyper-util with `http2::Builder::enable_connect_protocol`.
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use tower_sqlite_sync::{SyncConfig, SyncLayer};
///
/// # async fn run() -> std::io::Result<()> {
/// let app = Router::new()
///     .route("/", get(async || "hello"))
///     .layer(SyncLayer::new(SyncConfig::default()));
/// axum::serve(tokio::net::TcpListener::bind("127.0.0.1:8080").await?, app).await
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct SyncLayer {
    // One pointer: axum clones the layer and makes a service of it for every request to a router without its state.
    entrance: Arc<Entrance>,
}

impl SyncLayer {
    /// Makes a hub with this configuration. Everybody may read and write every room until
    /// [`authorize`](Self::authorize) says otherwise.
    ///
    /// # Panics
    ///
    /// If no layer can work with the configuration: [`SyncConfig::validate`] says so beforehand. One that serde has read is
    /// valid.
    #[track_caller]
    pub fn new(config: SyncConfig) -> Self {
        require(&config);
        Self { entrance: Arc::new(Entrance::new(Hub::new(config))) }
    }

    /// The same, with rooms where `store` says: `db_folder` and `memory` of the configuration don't count then.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new) does.
    #[track_caller]
    pub fn with_store(config: SyncConfig, store: impl RoomStore) -> Self {
        require(&config);
        Self { entrance: Arc::new(Entrance::new(Hub::with_store(config, Arc::new(store)))) }
    }

    /// The application's own way to the rooms: to read and write them, and to shut the layer down.
    pub fn handle(&self) -> SyncHandle {
        SyncHandle::new(self.entrance.hub.clone())
    }

    /// Asks this hook about every request for a room, instead of the one before.
    pub fn authorize(self, hook: impl Authorize) -> Self {
        self.with(|entrance| entrance.hook = Arc::new(Hook::new(hook)))
    }

    /// Shows this guard what clients write before it is merged, instead of the one before. Clones of the layer may have one each.
    pub fn guard(self, guard: impl ChangeGuard) -> Self {
        self.with(|entrance| entrance.guard = Guard::new(guard))
    }

    /// Asks this hook, instead of the one before, whether a site that is one identity's may become another's. Without one, it may not,
    /// and the client is closed with 1008.
    ///
    /// A guest who logs in has the same database as before, and a device may be handed on. It is asked about clients that may write,
    /// when they announce themselves, and if it says yes, the site is the new identity's with the first change that it writes; only
    /// whoever comes without an identity takes nothing over, and is let in this once. If it panics, the client is closed with 1011;
    /// if it takes longer than [`SyncConfig::upgrade_timeout`], with 1013.
    ///
    /// ```
    /// use tower_sqlite_sync::{Rebinding, SyncConfig, SyncLayer};
    ///
    /// // Guests, whose identities begin so, may become users.
    /// let layer = SyncLayer::new(SyncConfig::default())
    ///     .rebind(async |site: Rebinding| site.from.starts_with("guest:") && site.to.is_some());
    /// ```
    pub fn rebind<F, Fut>(self, hook: F) -> Self
    where
        F: Fn(Rebinding) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        self.with(|entrance| entrance.rebind = Rebind::new(hook))
    }

    /// Lets this closure say where a request comes from, for the limits that count by address
    /// ([`max_address_connections`](SyncConfig::max_address_connections), [`address_refusals`](SyncConfig::address_refusals)). Without
    /// it, or where it says `None`, they don't apply.
    ///
    /// Only the application knows. Where clients connect directly, it is the peer of the connection, which axum puts into the
    /// extensions:
    ///
    /// ```no_run
    /// use std::net::SocketAddr;
    ///
    /// use axum::{Router, extract::ConnectInfo};
    /// use tower_sqlite_sync::{SyncConfig, SyncLayer};
    ///
    /// # async fn run() -> std::io::Result<()> {
    /// let sync = SyncLayer::new(SyncConfig::default())
    ///     .remote_address(|head| Some(head.extensions.get::<ConnectInfo<SocketAddr>>()?.ip()));
    /// let app = Router::new().layer(sync).into_make_service_with_connect_info::<SocketAddr>();
    /// axum::serve(tokio::net::TcpListener::bind("0.0.0.0:8080").await?, app).await
    /// # }
    /// ```
    ///
    /// Behind a proxy, everybody comes from there, and the address is in a header that the proxy sets. Believe no more of it than
    /// your proxies wrote: with one proxy that appends to `X-Forwarded-For`, the last entry.
    ///
    /// ```
    /// use tower_sqlite_sync::{SyncConfig, SyncLayer};
    ///
    /// let sync = SyncLayer::new(SyncConfig::default()).remote_address(|head| {
    ///     let forwarded = head.headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    ///     forwarded.rsplit(',').next()?.trim().parse().ok()
    /// });
    /// ```
    pub fn remote_address(self, hook: impl Fn(&Parts) -> Option<IpAddr> + Send + Sync + 'static) -> Self {
        self.with(|entrance| entrance.address = AddressHook::new(hook))
    }

    fn with(self, change: impl FnOnce(&mut Entrance)) -> Self {
        let mut entrance = Entrance::clone(&self.entrance);
        change(&mut entrance);
        Self { entrance: Arc::new(entrance) }
    }

    /// Tells this closure, instead of the one before, of every client's changes that were merged into a room. All clones of the layer
    /// share it. What the application writes itself through [`SyncHandle::write`] is not told.
    ///
    /// It is told when they are durable, in the order in which each room's were committed, and not of those that changed nothing. The
    /// room's writer waits for it, so it should only pass on what it sees, to a channel for instance, and may not wait for a write of
    /// its own. A panic in it is logged, and changes nothing for the client (unless the program is built with `panic = "abort"`). If
    /// the process is killed between a commit and the call, there is no call.
    ///
    /// ```
    /// use tower_sqlite_sync::{SyncConfig, SyncLayer};
    ///
    /// let (seen, _news) = tokio::sync::mpsc::channel(100);
    /// let layer = SyncLayer::new(SyncConfig::default()).on_applied(move |applied| {
    ///     if seen.try_send(applied.clone()).is_err() {
    ///         eprintln!("too much news of room {}", applied.room);
    ///     }
    /// });
    /// ```
    pub fn on_applied(self, hook: impl Fn(&AppliedChangeset) + Send + Sync + 'static) -> Self {
        self.entrance.hub.rooms().observer().set(hook);
        self
    }
}

/// Lets nobody go on with settings that would fail later: at the first client, or only under load.
#[track_caller]
fn require(config: &SyncConfig) {
    if let Err(error) = config.validate() {
        panic!("this SyncConfig can't work: {error}");
    }
}

impl<S> Layer<S> for SyncLayer {
    type Service = SyncService<S>;

    fn layer(&self, inner: S) -> SyncService<S> {
        SyncService::new(inner, Arc::clone(&self.entrance))
    }
}

impl fmt::Debug for SyncLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncLayer").field("config", self.entrance.hub.config()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "this SyncConfig can't work: heartbeat can't be 0")]
    fn a_layer_that_could_not_work_is_not_made() {
        drop(SyncLayer::new(SyncConfig::default().with_heartbeat(std::time::Duration::ZERO)));
    }
}
