//! From a request for a room to a served socket: the steps between, in their order, each with its refusal.
//!
//! The form of the request comes first (400, 426, 501), then the page that sent it (403), then the room's name (400), a place among
//! the connections (429 if it is its address that has too many, 503), the application's hook (its own statuses, 500 if it panics, 503 if it
//! takes too long), a place among those of the room (503), and last what the HTTP server can
//! do (426, 501). The hook comes after the name because it gets a [`RoomName`], which exists for good names only; a bad
//! name says nothing about the server's rooms, so answering it before asking who calls gives nothing away. And it comes
//! after the place, so that a crowd at the door costs no database look-ups; but before the place in the room,
//! which strangers must not take from those who may enter.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::address::AddressHook;
use crate::auth::{AuthRequest, Hook};
use crate::connection::{self, Guest};
use crate::grant::Grant;
use crate::guard::Guard;
use crate::handshake::{Handshake, Transport};
use crate::hub::{Hub, Refused};
use crate::rebind::Rebind;
use crate::rejection::Rejection;
use crate::room::RoomName;

/// What to do about a server that can't hand over its connections.
const SERVE_WITH_UPGRADES: &str = "serve the application with `axum::serve`, or with hyper and its upgrades on \
     (`with_upgrades`, `serve_connection_with_upgrades`); tonic's own `Server` never hands over a connection, so make its \
     routes an axum router (`Routes::into_axum_router`)";

/// The most of a refused room name that goes into the log, in characters.
const LOGGED_NAME: usize = 64;

/// When a place may have become free.
const RETRY: Duration = Duration::from_secs(4);

/// Answers requests for rooms.
#[derive(Clone)]
pub(crate) struct Entrance {
    pub(crate) hub: Arc<Hub>,
    pub(crate) hook: Arc<Hook>,
    pub(crate) address: AddressHook,
    pub(crate) guard: Guard,
    pub(crate) rebind: Rebind,
}

impl Entrance {
    /// Lets in everybody, from wherever they come.
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        let (hook, address) = (Arc::default(), AddressHook::default());
        Self { hub, hook, address, guard: Guard::default(), rebind: Rebind::default() }
    }

    /// The response to a request for a WebSocket on one of our paths. If it lets the client in, a task that serves the
    /// socket waits for it.
    pub(crate) async fn receive(self: Arc<Self>, transport: Transport, head: Parts) -> Response<Bytes> {
        self.let_in(transport, head).await.unwrap_or_else(|rejection| {
            self.hub.rooms().meters().rejected(&rejection);
            rejection.into_response()
        })
    }

    async fn let_in(&self, transport: Transport, mut head: Parts) -> Result<Response<Bytes>, Rejection> {
        let Handshake { room, token, accepted } =
            Handshake::parse(transport, &head.headers).inspect_err(|rejection| {
                debug!(reason = rejection.reason(), "handshake refused");
            })?;
        self.hub.config().origins().admit(&head.uri, &head.headers).map_err(|reason| {
            info!(status = 403, %reason, "handshake of a page refused");
            Rejection::new(StatusCode::FORBIDDEN, reason)
        })?;
        let room = self.room(&room)?;
        let refused = |rejection: &Rejection| {
            info!(%room, status = rejection.status().as_u16(), reason = rejection.reason(), "refused");
        };
        let network = self.address.network(&head);
        let admission = self.hub.admit(network).map_err(Rejection::from).inspect_err(refused)?;
        // The hook gets the extensions, and must not get hold of the connection through them.
        let on_upgrade = head.extensions.remove::<OnUpgrade>();
        let grant = self.ask_hook(AuthRequest::new(room.clone(), token, head)).await.inspect_err(|rejection| {
            refused(rejection);
            if rejection.status().is_client_error() {
                self.hub.blame(&admission);
            }
        })?;
        let in_room = self.hub.admit_to(&room).map_err(Rejection::from).inspect_err(refused)?;
        let Some(on_upgrade) = on_upgrade else {
            warn!(%room, "the HTTP server offers no upgrade for this connection: {SERVE_WITH_UPGRADES}");
            return Err(
                transport.not_available(format!("this server can't hand over the connection: {SERVE_WITH_UPGRADES}"))
            );
        };
        let present = self.hub.sessions().enter(room.clone(), grant.shared_identity());
        let (guard, rebind) = (self.guard.clone(), self.rebind.clone());
        let guest = Box::new(Guest { room, admission, grant, present, guard, rebind, _place: in_room });
        self.hub.spawn(take_over(Arc::clone(&self.hub), guest, on_upgrade));
        Ok(accepted)
    }

    fn room(&self, name: &str) -> Result<RoomName, Rejection> {
        let parse = if self.hub.config().wide_room_names() { RoomName::parse_wide } else { RoomName::parse };
        parse(name).map_err(|reason| {
            let start: String = name.chars().take(LOGGED_NAME).collect();
            info!(room = ?start, status = 400, %reason, "refused");
            Rejection::bad_request(reason.to_string())
        })
    }

    async fn ask_hook(&self, request: AuthRequest) -> Result<Grant, Rejection> {
        let room = request.room().clone();
        let decide = async {
            let _turn = self.hub.hook_turn().await;
            self.hook.decide(request).await
        };
        match timeout(self.hub.config().upgrade_timeout(), decide).await {
            Ok(Ok(Ok(grant))) if grant.has_expired() => {
                Err(Rejection::new(StatusCode::UNAUTHORIZED, "what would let you in has expired: get a new token"))
            }
            Ok(Ok(Ok(grant))) => Ok(grant),
            Ok(Ok(Err(denied))) => Err(denied.into_rejection()),
            Ok(Err(_panicked)) => {
                error!(%room, "the authorization hook panicked");
                Err(Rejection::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed to decide who you are"))
            }
            Err(_elapsed) => Err(Rejection::unavailable("the server took too long to decide who you are; try again")),
        }
    }
}

impl From<Refused> for Rejection {
    fn from(refused: Refused) -> Self {
        let reason = refused.to_string();
        match refused {
            Refused::TooManyFromTheAddress => Self::too_many(reason, RETRY),
            Refused::Unwelcome(wait) => Self::too_many(reason, wait),
            Refused::TooManyConnections | Refused::TooManyToTheRoom | Refused::ShuttingDown => {
                Self::unavailable(reason)
            }
        }
    }
}

/// Serves the socket once the HTTP server has sent the response that lets the client in, and let go of it.
async fn take_over(hub: Arc<Hub>, guest: Box<Guest>, on_upgrade: OnUpgrade) {
    let room = &guest.room;
    // A server that keeps the connection to itself, or a client that stops reading, must not hold a place for ever.
    let taking = async {
        tokio::select! {
            taken = timeout(hub.config().upgrade_timeout(), on_upgrade) => Some(taken),
            () = hub.overtime() => None,
        }
    };
    let Some(taken) = Box::pin(taking).await else { return };
    match taken {
        Ok(Ok(upgraded)) => connection::serve(&hub, &guest, TokioIo::new(upgraded)).await,
        Ok(Err(error)) if error.is_canceled() => {
            info!(%room, %error, "the connection ended before it became a WebSocket; if all do, {SERVE_WITH_UPGRADES}");
        }
        Ok(Err(error)) => warn!(%room, %error, "the HTTP server kept the connection: {SERVE_WITH_UPGRADES}"),
        Err(_elapsed) => {
            warn!(%room, "the HTTP server has not handed over the connection in time; {SERVE_WITH_UPGRADES}")
        }
    }
}
