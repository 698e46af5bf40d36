//! Tower middleware that makes an HTTP server a sync hub for local-first SQLite applications.
//!
//! Browser and mobile applications keep a [cr-sqlite](https://vlcn.io) database on the device, work offline, and sync through a
//! server. This crate is that server's part: put [`SyncLayer`] around an axum or hyper service, and WebSocket upgrades on the sync
//! path become sync sessions; every other request reaches the service untouched. Unmodified `@vlcn.io/ws-client` clients connect.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower_sqlite_sync::{SyncConfig, SyncLayer};
//!
//! # async fn run() -> std::io::Result<()> {
//! let app = Router::new()
//!     .route("/", get(async || "hello"))
//!     .layer(SyncLayer::new(SyncConfig::default()));
//! axum::serve(tokio::net::TcpListener::bind("127.0.0.1:8080").await?, app).await
//! # }
//! ```
//!
//! With a hook that decides who may enter, settings of your own, and a handle to the rooms:
//!
//! ```
//! use std::time::Duration;
//! use tower_sqlite_sync::{AuthRequest, Denied, Grant, SyncConfig, SyncLayer};
//!
//! let config = SyncConfig::default()
//!     .with_db_folder("/var/lib/rooms")
//!     .with_schema_folder("/etc/rooms/schemas")
//!     .with_heartbeat(Duration::from_secs(20));
//! let layer = SyncLayer::new(config).authorize(|request: AuthRequest| async move {
//!     match (request.token(), request.room().as_str()) {
//!         (Some("s3cret"), _) => Ok(Grant::read_write()),
//!         (_, "lobby") => Ok(Grant::read_only()),
//!         _ => Err(Denied::unauthorized("log in first")),
//!     }
//! });
//! let rooms = layer.handle(); // reads and writes rooms from server code, and shuts them down
//! let layer = layer.on_applied(|applied| println!("{} changes in {}", applied.changes, applied.room));
//! ```
//!
//! # Rooms, schemas, clients
//!
//! A *room* is one SQLite database on the server, `<db_folder>/<room>`; the client names its room in the handshake. A *schema* is a
//! file in the schema folder, with `CREATE TABLE` statements and `SELECT crsql_as_crr('table')` for each table that is to be synced;
//! the client names it when it announces itself, and must have the same text. The first client of a new room creates it with that
//! schema. From then on every copy of the room, the server's included, is a replica that merges the others' changes by the rules of
//! the [`crr`] engine, so that all come to the same rows whatever the order.
//!
//! # Who may do what
//!
//! The hook given to [`SyncLayer::authorize`] answers each request with a [`Grant`]: to read, or to write all tables or some of them; as
//! whom; until when. Rights are checked for every change that has an effect, in the transaction that would apply it. A guard
//! ([`SyncLayer::guard`]) sees what clients write before, and may object. What becomes of changes that are not allowed is for the
//! operator to say: the client is closed, or its copy is made to return to what the room has ([`Refuse`]). A site, one copy of a room's
//! database on one device, belongs to the first identity that writes from it ([`SyncLayer::rebind`] makes exceptions), and
//! [`SyncHandle::disconnect`] closes whom you want out.
//!
//! # What is promised
//!
//! - A client is shown no change that a power loss could take back, and no change is lost that a client believes is safe: changes
//!   and the position they move commit together, and with `synchronous=FULL` (unless [`Durability::Os`] is chosen).
//! - Nothing is applied out of order: what follows a gap is refused, and the client is asked to continue from the gap.
//! - Whatever a peer sends, at most its own connection ends, with a code and a reason.
//! - Cost follows what is new: one commit for many clients, one encoding for all of them, no backlog for slow ones.
//!
//! # Architecture
//!
//! ```text
//! client ──ws──▶ connection: inbound ──changesets──▶ room: writer ──one transaction a batch──▶ database
//!                                                               │ committed and synced
//!                                                               ▼
//! client ◀──ws── connection: outbound ◀───frames─── room: feed (read once, encoded once)
//! ```
//!
//! A room has one writer, which takes what is queued and commits it together; one feed, which keeps the last encoded changes; and
//! connections that pull from the feed when their socket can take more. A connection that fell behind reads the database in
//! bounded frames until it has caught up. Rooms in which nothing happens sleep, with their databases closed, until something does
//! ([`awake_rooms`](SyncConfig::with_awake_rooms)).
//!
//! # How a connection ends
//!
//! | code | meaning | what to do |
//! |---|---|---|
//! | 1001 | the server goes away | connect again |
//! | 1002 | a message that doesn't belong there, or no answer to pings | mend the client |
//! | 1003 | a text frame in a binary session, or the other way round | keep to the kind of frame of the announce |
//! | 1007 | a message that doesn't decode | mend the client |
//! | 1008 | changes that are [not allowed](Refuse), or that the room's schema refuses | the reason names table and column, or is the guard's |
//! | 1008 | the grant has expired | connect again with a new token |
//! | 1008 | the site id is the server's, or [another identity's](Grant::with_identity) | log in as who it is, or begin with a new database |
//! | 1009 | a message, value or key over a limit | raise the limit, which the reason names |
//! | 1011 | the server's fault | read its log |
//! | 1013 | a limit, a full disk or a lock, or a [primary](Primary) that can't be reached | try again later |
//! | any | what server code says in [`SyncHandle::disconnect`] | as the reason says |
//! | 4400 | schema unknown, or another version | install the same schema text at client and server |
//!
//! Before the upgrade, refusals are HTTP responses with a reason: 400 (bad subprotocol or room name), 401 and 403 (the hook; 401 also for
//! a grant that has expired already, 403 also for [pages of other hosts](Origins)), 426 (no WebSocket that we speak, or a server that can't
//! upgrade; over HTTP/2 it is 501), 429 (limits for one address), 503 (limits, shutting down); the last two with `Retry-After`.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod address;
mod applied;
mod auth;
mod backup;
mod body;
pub mod config;
mod config_error;
mod connection;
mod durability;
mod error;
mod fault;
pub mod from_ws_server;
mod future;
mod grant;
mod guard;
mod handle;
mod handshake;
mod hook;
mod hub;
mod layer;
mod litefs;
mod meters;
pub mod observing;
pub mod on_litefs;
mod origin;
pub mod performance;
mod primary;
mod quarantine;
mod rate;
mod rebind;
mod refusals;
mod rejection;
mod room;
mod service;
mod sessions;
mod store;
mod tally;
mod upgrade;

pub use applied::AppliedChangeset;
pub use auth::{AuthRequest, Authorize, Denied};
pub use body::SyncBody;
pub use config::{PathPattern, PathPatternError, SyncConfig};
pub use config_error::ConfigError;
pub use durability::Durability;
pub use error::Error;
pub use future::SyncFuture;
pub use grant::{Access, Grant, Refuse};
pub use guard::{ChangeGuard, Objection, ProposedChanges};
pub use handle::{RoomStatus, SyncHandle};
pub use layer::SyncLayer;
pub use litefs::{LiteFs, LiteFsConfig, LiteFsSecret, LiteFsSecretError, WhoIsPrimary};
pub use origin::{Origin, OriginError, Origins};
pub use primary::{Changeset, Opening, Primary, PrimaryFuture, PrimaryUnavailable, Refusal, Rights, Verdict};
pub use quarantine::RefusedSite;
pub use rebind::Rebinding;
pub use room::{RoomName, RoomNameError, SchemaName};
pub use service::SyncService;
pub use sessions::ConnectionFilter;
pub use store::{Epoch, Home, InMemory, LocalFiles, RoomStore};

pub use crr;
pub use rusqlite;
pub use tower_sqlite_sync_wire as wire;
