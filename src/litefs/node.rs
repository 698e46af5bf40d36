//! One node of a cluster whose rooms LiteFS replicates: the store that says where its rooms' writes go, and the primary's side.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower_sqlite_sync_wire as wire;

use super::link::{self, LinkError, PrimaryLink, Turn};
use super::position::{self, TxId};
use super::position_watch::PositionWatch;
use super::request::{Answer, Request};
use super::role::{Role, RoleWatch, Term};
use super::{LiteFsConfig, LiteFsSecret};
use crate::connection::Close;
use crate::error::Error;
use crate::handle::SyncHandle;
use crate::primary::{Changeset, Opening, Primary, PrimaryFuture, PrimaryUnavailable, Refusal, Verdict};
use crate::room::{RoomName, SchemaName, engine_site};
use crate::store::{Epoch, Home, RoomStore};

/// How soon a change of role is tried again for which there were no random numbers.
const RETRY: Duration = Duration::from_secs(1);

/// Characters of a room's name that are logged if it may be none.
const LOGGED_NAME: usize = 128;

/// A node of a cluster whose rooms LiteFS replicates: the [`RoomStore`] of its [`SyncLayer`](crate::SyncLayer).
///
/// LiteFS makes one node the primary, which may write; the others have copies. On the primary, rooms are files as without LiteFS. On
/// the others, clients read from the copy, and what they write is handed to the primary, over one connection between the nodes, and
/// counts as applied once the primary has committed it. If another node becomes the primary, rooms are opened anew everywhere, and
/// [fork](SyncHandle::fork) there, since the new primary's copy may lack what the old one had shown: clients bring it back.
///
/// ```no_run
/// use tower_sqlite_sync::{LiteFs, LiteFsConfig, LiteFsSecret, SyncConfig, SyncLayer};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let secret = LiteFsSecret::new(&std::env::var("CLUSTER_SECRET")?)?;
/// let config = LiteFsConfig::default().with_secret(secret).with_app_name("notes");
/// let litefs = LiteFs::start("/litefs", config).await?;
/// let layer = SyncLayer::with_store(SyncConfig::default(), litefs.clone());
/// litefs.join(layer.handle()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LiteFs {
    node: Arc<Node>,
}

/// Which node of a cluster writes its rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhoIsPrimary {
    /// This one.
    ThisNode,
    /// Another one.
    #[non_exhaustive]
    Other {
        /// Its name, as LiteFS has it.
        id: String,
        /// Where it takes forwarded writes: host and port.
        address: String,
    },
    /// LiteFS names none now, or can't be asked.
    Nobody,
}

struct Node {
    folder: PathBuf,
    secret: LiteFsSecret,
    config: LiteFsConfig,
    role: RoleWatch,
    positions: PositionWatch,
    link: PrimaryLink,
    standing: watch::Sender<Standing>,
    /// Whether it was logged that LiteFS doesn't know a room here.
    missed: AtomicBool,
}

/// What the node is, as its rooms are opened: changes just before they are closed.
#[derive(Debug, Clone)]
struct Standing {
    term: Term,
    /// The same for those who write rooms.
    epoch: Epoch,
}

impl LiteFs {
    /// A node over the folder that LiteFS mounts. To be called inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// If the configuration has no secret or [can't work](LiteFsConfig::validate), or the system has no random numbers.
    pub async fn start(folder: impl Into<PathBuf>, config: LiteFsConfig) -> io::Result<Self> {
        config.validate().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let no_secret = || io::Error::new(io::ErrorKind::InvalidInput, "set the secret that all LiteFS nodes have");
        let secret = config.secret().cloned().ok_or_else(no_secret)?;
        let folder = folder.into();
        let role = RoleWatch::start(&folder).await;
        let standing = Standing { term: role.subscribe().borrow().clone(), epoch: new_epoch()? };
        let node = Node {
            positions: PositionWatch::start(&folder),
            link: PrimaryLink::new(secret.clone(), config.clone()),
            standing: watch::Sender::new(standing),
            missed: AtomicBool::new(false),
            folder,
            secret,
            config,
            role,
        };
        node.aim();
        Ok(Self { node: Arc::new(node) })
    }

    /// Who LiteFS says is the primary, as the last look at its files found it.
    #[must_use]
    pub fn primary(&self) -> WhoIsPrimary {
        match self.node.role.subscribe().borrow().role.clone() {
            Role::Primary => WhoIsPrimary::ThisNode,
            Role::Replica { primary: Some(id) } => WhoIsPrimary::Other { address: self.node.config.address(&id), id },
            Role::Replica { primary: None } => WhoIsPrimary::Nobody,
        }
    }

    /// Takes part in the cluster, until `rooms` shuts down: takes forwarded writes on the configured port, and follows what LiteFS
    /// makes of this node.
    ///
    /// # Errors
    ///
    /// If the port can't be listened on.
    pub async fn join(&self, rooms: SyncHandle) -> io::Result<()> {
        let port = self.node.config.port();
        let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
            Ok(listener) => listener,
            // There are systems without IPv6.
            Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?,
        };
        self.join_on(rooms, listener);
        Ok(())
    }

    /// The same, with writes of other nodes taken from `listener`.
    pub fn join_on(&self, rooms: SyncHandle, listener: TcpListener) {
        let over = CancellationToken::new();
        let (node, handle, ended) = (self.node.clone(), rooms.clone(), over.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = node.follow_role(&handle) => {}
                () = handle.closing() => {}
            }
            ended.cancel();
        });
        let (secret, config) = (self.node.secret.clone(), self.node.config.clone());
        let node = self.node.clone();
        let handler = move |request, turn| {
            let (node, rooms) = (node.clone(), rooms.clone());
            async move { node.answer(&rooms, request, turn).await }
        };
        tokio::spawn(link::serve(listener, secret, config, handler, over));
    }
}

impl fmt::Debug for LiteFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiteFs").field("folder", &self.node.folder).finish_non_exhaustive()
    }
}

impl RoomStore for LiteFs {
    fn home(&self, room: &RoomName) -> Home {
        let path = self.node.folder.join(room.as_str());
        let standing = self.node.standing();
        match standing.term.role {
            Role::Primary => Home::file_in_epoch(path, standing.epoch),
            Role::Replica { .. } => {
                let primary = ThePrimary { node: self.node.clone(), term: standing.term };
                Home::replica(path, Arc::new(primary))
            }
        }
    }
}

impl Node {
    fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Has the link call whoever is the primary.
    fn aim(&self) {
        self.link.retarget(match self.standing().term.role {
            Role::Replica { primary: Some(id) } => Some(self.config.address(&id)),
            Role::Replica { primary: None } | Role::Primary => None,
        });
    }

    /// Opens all rooms anew whenever the role changes. A node that is no longer the primary closes its files before it forwards.
    async fn follow_role(&self, rooms: &SyncHandle) {
        let mut terms = self.role.subscribe();
        loop {
            let term = terms.borrow_and_update().clone();
            let before = self.standing().term;
            if term != before {
                tracing::info!(before = ?before.role, now = ?term.role, "this node's role in the cluster has changed");
                let Ok(epoch) = new_epoch() else {
                    tokio::time::sleep(RETRY).await;
                    continue;
                };
                self.standing.send_replace(Standing { term, epoch });
                self.link.retarget(None);
                rooms.reopen().await;
                self.aim();
            }
            if terms.changed().await.is_err() {
                return;
            }
        }
    }

    /// What another node asks. Its next request about the same room may begin once `turn` is dropped.
    async fn answer(&self, rooms: &SyncHandle, request: Request, turn: Turn) -> Answer {
        if let Role::Replica { primary } = self.role.recheck().await {
            return Answer::NotPrimary { believed: primary };
        }
        let room = request.room().to_owned();
        let answered = match request {
            Request::OpenRoom { schema_name, schema_version, .. } => {
                match rooms.open_room(&room, &schema_name, schema_version).await {
                    Ok(Opening::Opened) => Ok(Answer::Opened { txid: self.txid(&room).await }),
                    Ok(Opening::Refused(refusal)) => Ok(failed(refusal)),
                    Err(error) => Err(error),
                }
            }
            Request::Apply { sender, since, schema_version, changes, rights, is_refused, .. } => {
                let since = crr::Position { db_version: since.db_version, seq: since.seq };
                let site = engine_site(sender);
                let changeset = Changeset { site, since, schema_version, changes, rights, is_refused };
                let submitted = rooms.submit(&room, changeset).await;
                drop(turn);
                let applied = async { submitted?.verdict().await };
                match applied.await {
                    Ok(Verdict::Applied { position, partial_rows, changes, db_version }) => {
                        Ok(Answer::Applied { position: wire_position(position), partial_rows, changes, db_version })
                    }
                    Ok(Verdict::Gap(position)) => Ok(Answer::Gap { position: wire_position(position) }),
                    Ok(Verdict::Refused(refusal)) => Ok(failed(refusal)),
                    Err(error) => Err(error),
                }
            }
        };
        match answered {
            Ok(answer) => answer,
            // It is about to be another's.
            Err(Error::NotPrimary { .. } | Error::GoingAway) => Answer::NotPrimary { believed: None },
            Err(error) => {
                // A name as it came may be long.
                let room: String = room.chars().take(LOGGED_NAME).collect();
                tracing::warn!(room, %error, "a request of another node failed");
                failed(error.close().to_refusal())
            }
        }
    }

    /// How far the room is replicated once everything so far is. A room that LiteFS hasn't noticed yet is nowhere behind.
    async fn txid(&self, room: &str) -> TxId {
        let Ok(name) = RoomName::parse_wide(room) else { return TxId(0) };
        match position::read(&self.folder, &name).await {
            Ok(Some(txid)) => txid,
            Ok(None) => {
                if !self.missed.swap(true, Ordering::Relaxed) {
                    let file = position::path(&self.folder, &name);
                    tracing::warn!(
                        room = %name, missing = %file.display(),
                        "LiteFS has no position of a room that is written here: if it comes to no other node, this folder is not the one \
                         which LiteFS mounts (said once)"
                    );
                }
                TxId(0)
            }
            Err(error) => {
                tracing::warn!(%error, "replicas can't be told how far to wait");
                TxId(0)
            }
        }
    }
}

/// The primary of one term, as this node sees it. When the term is over, nobody is asked in its name any more: the rooms are about to be
/// opened anew, and whoever asked on would hold that up.
struct ThePrimary {
    node: Arc<Node>,
    term: Term,
}

impl fmt::Debug for ThePrimary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThePrimary").field("term", &self.term).finish()
    }
}

impl ThePrimary {
    async fn ask(&self, request: Request) -> Result<Answer, PrimaryUnavailable> {
        let deadline = Instant::now() + self.node.config.request_timeout();
        let asked = self.node.link.request(request, deadline);
        let Some(answer) = self.in_term(asked).await else { return Ok(failed(Close::going_away().to_refusal())) };
        match answer {
            Ok(Answer::NotPrimary { believed }) => {
                self.node.role.recheck().await;
                Err(unavailable(format_args!("it is not the primary, and takes {believed:?} for it")))
            }
            Ok(answer) => Ok(answer),
            Err(error @ LinkError::TooLarge { .. }) => Ok(Answer::Failed { code: 1009, reason: error.to_string() }),
            Err(error) => {
                self.node.role.recheck().await;
                Err(unavailable(error))
            }
        }
    }

    /// What comes of `work`, or `None` if the term is over before.
    async fn in_term<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut standing = self.node.standing.subscribe();
        tokio::select! {
            biased;
            _ = standing.wait_for(|standing| standing.term != self.term) => None,
            done = work => Some(done),
        }
    }
}

impl Primary for ThePrimary {
    fn open<'a>(&'a self, room: &'a RoomName, schema: &'a SchemaName, version: i64) -> PrimaryFuture<'a, Opening> {
        let request = Request::OpenRoom {
            room: room.to_string(),
            schema_name: schema.as_str().to_owned(),
            schema_version: version,
        };
        Box::pin(async move {
            match self.ask(request).await? {
                Answer::Opened { txid } => {
                    let deadline = Instant::now() + self.node.config.request_timeout();
                    let here = position::wait_for(&self.node.folder, room, txid, deadline);
                    match self.in_term(here).await {
                        Some(here) => here.map(|()| Opening::Opened).map_err(unavailable),
                        None => Ok(Opening::Refused(Close::going_away().to_refusal())),
                    }
                }
                Answer::Failed { code, reason } => Ok(Opening::Refused(Refusal { code, reason })),
                _ => Err(unavailable("its answer is to another question")),
            }
        })
    }

    fn apply<'a>(&'a self, room: &'a RoomName, changeset: &'a Changeset) -> PrimaryFuture<'a, Verdict> {
        let request = Request::Apply {
            room: room.to_string(),
            sender: wire::SiteId::from_bytes(*changeset.site.as_bytes()),
            since: wire_position(changeset.since),
            schema_version: changeset.schema_version,
            changes: changeset.changes.clone(),
            rights: changeset.rights.clone(),
            is_refused: changeset.is_refused,
        };
        Box::pin(async move {
            match self.ask(request).await? {
                Answer::Applied { position, partial_rows, changes, db_version } => {
                    let position = crr::Position { db_version: position.db_version, seq: position.seq };
                    Ok(Verdict::Applied { position, partial_rows, changes, db_version })
                }
                Answer::Gap { position } => {
                    Ok(Verdict::Gap(crr::Position { db_version: position.db_version, seq: position.seq }))
                }
                Answer::Failed { code, reason } => Ok(Verdict::Refused(Refusal { code, reason })),
                _ => Err(unavailable("its answer is to another question")),
            }
        })
    }

    fn changed(&self, room: &RoomName) -> watch::Receiver<u64> {
        let mut positions = self.node.positions.follow(room);
        let mut standing = self.node.standing.subscribe();
        let term = self.term.clone();
        let changes = watch::Sender::new(0);
        let changed = changes.subscribe();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = changes.closed() => return,
                    _ = standing.wait_for(|standing| standing.term != term) => return,
                    moved = positions.changed() => match moved {
                        Ok(()) => changes.send_modify(|count| *count += 1),
                        Err(_) => return,
                    },
                }
            }
        });
        changed
    }
}

fn failed(Refusal { code, reason }: Refusal) -> Answer {
    Answer::Failed { code, reason }
}

fn unavailable(reason: impl fmt::Display) -> PrimaryUnavailable {
    PrimaryUnavailable { reason: reason.to_string() }
}

/// An epoch that no other node and no other time has.
fn new_epoch() -> io::Result<Epoch> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(Epoch::from_bytes(bytes))
}

fn wire_position(position: crr::Position) -> wire::Position {
    wire::Position { db_version: position.db_version, seq: position.seq }
}
