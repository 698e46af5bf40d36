//! One socket: announce → inbound and outbound halves → close code.
//!
//! ```text
//!   socket ──▶ inbound ──changesets──▶ writer        feed ──frames──▶ outbound ──▶ socket
//!                 └───────────────── errands ──────────────────────────▲
//! ```

mod ahead;
#[cfg(test)]
mod autobahn;
mod backoff;
mod budget;
mod close;
mod dialect;
mod discreet;
mod errands;
mod inbound;
mod intake;
mod liveness;
mod outbound;
mod own_wake;
mod pieces;
mod upload;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tower_sqlite_sync_wire::{AnnouncePresence, Message, Position, SiteId, StartStreaming};
use tracing::{Instrument, Span, field};

pub(crate) use self::budget::Budget;
pub(crate) use self::close::Close;
use self::dialect::Dialect;
use self::discreet::Discreet;
use self::errands::{Errand, Errands};
use self::inbound::Inbound;
use self::liveness::{Liveness, Watched};
use self::outbound::{Cursor, Outbound};
use self::own_wake::OwnWake;
use self::pieces::Pieces;
use self::upload::Upload;
use crate::config::SyncConfig;
use crate::grant::{Access, Grant};
use crate::guard::Guard;
use crate::hub::{Admission, Hub};
use crate::primary::Rights;
use crate::rebind::{Rebind, Rebinding};
use crate::refusals::Refusals;
use crate::room::{Lease, Purpose, Recollection, Room, RoomName, SchemaName, Standing, WantedSchema, engine_site};
use crate::sessions::Present;
use crate::tally::Counted;

/// What tungstenite reads at a time: [`Pieces`] has read ahead for it.
const READ_BUFFER: usize = 128;

/// How much is gathered before it is written to the socket.
const WRITE_BUFFER: usize = 16 << 10;

/// What is read at a time of that which nobody hears any more.
const SCRAP: usize = 4 << 10;

/// How long a peer may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A site id that no site has, since it is no random UUID: excluding it excludes nothing.
const NOBODY: SiteId = SiteId::from_bytes([0xff; 16]);

/// A socket of ours, under its layers.
type Socket<IO> = Discreet<WebSocketStream<Pieces<Watched<IO>>>>;

/// Who was let in, where to, and with which rights.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) room: RoomName,
    pub(crate) admission: Admission,
    pub(crate) grant: Grant,
    pub(crate) present: Present,
    pub(crate) guard: Guard,
    pub(crate) rebind: Rebind,
    /// Its place among the room's connections.
    pub(crate) _place: Counted<RoomName>,
}

/// How a connection comes to its end.
#[derive(Debug)]
pub(crate) enum End {
    /// We close it.
    Close(Close),
    /// The peer closed it, with this code if it gave one.
    Left(Option<u16>),
    /// It broke.
    Gone,
}

/// What both halves of a session know.
struct Session<'a> {
    dialect: Dialect,
    room: Arc<Room>,
    /// The client's.
    schema: WantedSchema,
    client: SiteId,
    access: Access,
    rights: Arc<Rights>,
    guard: &'a Guard,
    config: &'a SyncConfig,
    refusals: &'a Refusals,
    liveness: &'a Liveness,
    /// For what is on its way to clients.
    sending: &'a Budget,
    /// From the inbound half to the outbound one.
    errands: Errands,
}

/// A client that has announced itself, and its place in the room.
struct Arrived<'a> {
    lease: Lease,
    session: Session<'a>,
    start: Box<Message>,
    begin: Cursor,
    standing: Standing,
    /// It knows the room only as a site that it was before, so that it sends everything that it has of it.
    brings_back: bool,
}

/// Serves an upgraded socket until it ends.
pub(crate) async fn serve<IO>(hub: &Hub, guest: &Guest, io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send,
{
    let span =
        tracing::info_span!("connection", room = %guest.room, identity = guest.grant.identity(), site = field::Empty);
    let meters = hub.rooms().meters();
    let _open = meters.connection();
    async {
        let liveness = Arc::new(Liveness::new(hub.intake()));
        let (mut sink, mut stream) = socket(io, &liveness, hub.config()).await.split();
        let end = converse(hub, guest, &liveness, &mut sink, &mut stream).await;
        if let End::Close(close) = &end {
            meters.closed(close);
            if close.blames_the_peer() {
                hub.blame(&guest.admission);
            }
        }
        Box::pin(part(end, hub, sink, stream)).await;
    }
    .instrument(span)
    .await;
}

/// Makes messages of the bytes of an upgraded connection.
async fn socket<IO>(io: IO, liveness: &Arc<Liveness>, config: &SyncConfig) -> Socket<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let limit = config.max_message_bytes();
    let io = Pieces::new(Watched::new(io, liveness.clone()), limit);
    let limit = Some(limit);
    let websocket = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        // A frame of ours waits until the socket has taken the one before. Beyond that, answers to pings of a peer that
        // doesn't read must not pile up.
        .max_write_buffer_size(config.max_frame_bytes().saturating_add(4 * WRITE_BUFFER))
        .max_message_size(limit)
        .max_frame_size(limit);
    Discreet::new(WebSocketStream::from_raw_socket(io, Role::Server, Some(websocket)).await)
}

/// From the announce to the end.
///
/// Most connections are idle most of the time, and there may be many: what is not going on takes no memory. So whatever is rare, or
/// soon over, has its future in a box.
async fn converse<W, R>(hub: &Hub, guest: &Guest, liveness: &Liveness, sink: &mut W, stream: &mut R) -> End
where
    W: Sink<WsMessage, Error = WsError> + Unpin,
    R: Stream<Item = Result<WsMessage, WsError>> + Unpin,
{
    let mut leaving = pin!(leaving(hub, guest));
    let arrived = tokio::select! {
        end = &mut leaving => Err(end),
        arrived = Box::pin(arrive(hub, guest, liveness, stream)) => arrived,
    };
    let Arrived { lease: _lease, session, start, begin, standing, brings_back } = match arrived {
        Ok(arrived) => *arrived,
        Err(end) => return end,
    };
    let _connected = session.room.connected();
    let mut inbound = Inbound::new(stream, &session);
    let mut outbound = Outbound::new(sink, &session, begin);
    match standing {
        Standing::WentBack | Standing::MayHaveGoneBack => outbound.include_its_own(session.room.now()),
        Standing::Untold => outbound.give_it_a_position(),
        Standing::GoesOn => {}
    }
    // All but what wakes with each change.
    let others = async {
        tokio::select! {
            biased;
            close = session.room.ending().ended() => End::Close(close),
            close = session.room.outgrown(&session.schema) => End::Close(close),
            end = &mut leaving => end,
            end = receive(&session, &mut inbound, start, brings_back) => end,
        }
    };
    tokio::select! {
        // In this order: whoever must go is sent nothing more, and StartStreaming is queued before the first changes are.
        biased;
        end = OwnWake::new(others) => end,
        end = outbound.run() => end,
    }
}

/// Waits until a client must go, whatever it does.
async fn leaving(hub: &Hub, guest: &Guest) -> End {
    tokio::select! {
        () = hub.closing() => End::Close(Close::going_away()),
        close = guest.present.told_to_go() => End::Close(close),
        () = guest.grant.expired() => End::Close(Close::expired()),
    }
}

/// From the announce to a place in the room.
async fn arrive<'a, R>(
    hub: &'a Hub,
    guest: &'a Guest,
    liveness: &'a Liveness,
    stream: &mut R,
) -> Result<Box<Arrived<'a>>, End>
where
    R: Stream<Item = Result<WsMessage, WsError>> + Unpin,
{
    let config = hub.config();
    let arrived = Instant::now();
    let announced = timeout(config.announce_timeout(), announce(stream, config, liveness)).await;
    let (dialect, presence) = match announced {
        Ok(announced) => announced?,
        Err(_) => return Err(Close::protocol("announce yourself sooner (announce_timeout)").into()),
    };
    Span::current().record("site", field::display(presence.sender));
    let (lease, schema) = enter(hub, guest, &presence).await?;
    let client = presence.sender;
    guest.present.announced(engine_site(client));
    let (mut rebinds, mut standing, mut since) = (None, Standing::GoesOn, Position::MUTE);
    // One that may not write is muted: nothing is newer than what we claim to have. Nothing is done as its site, whose ever it is.
    if guest.grant.access() == Access::ReadWrite {
        let mut known = lease.recall(client).await?;
        rebinds = taken_over(hub, guest, &known, client).await?;
        standing = greet(&lease, &presence, &mut known, arrived).await?;
        since = known.position;
    }
    let session = Session {
        dialect,
        room: lease.clone(),
        schema,
        client,
        access: guest.grant.access(),
        rights: Arc::new(rights(&guest.grant, rebinds, config)),
        guard: &guest.guard,
        config,
        refusals: hub.refusals(),
        liveness,
        sending: hub.sending(),
        errands: Errands::default(),
    };
    // From where on we lack its changes.
    let start = StartStreaming { since, exclude_sites: vec![session.room.site()], local_only: false };
    let start = Box::new(Message::StartStreaming(start));
    let (begin, brings_back) = (seen(&session.room, &presence), brings_back(&session.room, &presence));
    Ok(Box::new(Arrived { lease, session, start, begin, standing, brings_back }))
}

/// Asks a client for its changes, and receives them.
async fn receive<R>(session: &Session<'_>, inbound: &mut Inbound<'_, R>, start: Box<Message>, brings_back: bool) -> End
where
    R: Stream<Item = Result<WsMessage, WsError>> + Unpin,
{
    match Box::pin(ask(session, inbound, start, brings_back)).await {
        Ok(upload) => inbound.run(upload).await,
        Err(end) => end,
    }
}

/// Asks a client for its changes, once it is time to. It has a place among those that bring back what they have of the room, if it is
/// one of them.
async fn ask<R>(
    session: &Session<'_>,
    inbound: &mut Inbound<'_, R>,
    start: Box<Message>,
    brings_back: bool,
) -> Result<Option<Upload>, End>
where
    R: Stream<Item = Result<WsMessage, WsError>> + Unpin,
{
    let wait = session.refusals.wait(session.room.name(), session.client);
    if !wait.is_zero() {
        tracing::info!(?wait, "changes of this site were refused, asking for them later");
        inbound.wait_for(sleep(wait)).await?;
    }
    let mut upload = None;
    if session.access == Access::ReadWrite && brings_back {
        inbound.expect_others_work();
        upload = inbound.wait_for(Upload::wait(session.room.uploads())).await?;
    }
    session.errands.push(Errand::Send(start)).await;
    Ok(upload)
}

/// The end of a conversation, which a shutdown may cut short.
async fn part<IO>(end: End, hub: &Hub, mut sink: SplitSink<Socket<IO>, WsMessage>, mut stream: SplitStream<Socket<IO>>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let parting = async {
        match end {
            End::Close(close) => {
                tracing::info!(code = close.code(), reason = close.reason(), "connection closed");
                if !say_goodbye(&close, &mut sink, &mut stream).await
                    && let Ok(socket) = sink.reunite(stream)
                {
                    linger(socket.into_inner().into_inner().into_inner().into_inner()).await;
                }
            }
            End::Left(code) => {
                tracing::info!(code, "connection closed by the client");
                // Answers the client's close.
                drop(timeout(CLOSE_TIMEOUT, sink.close()).await);
            }
            End::Gone => tracing::info!("connection lost"),
        }
    };
    tokio::select! {
        () = parting => {}
        () = hub.overtime() => {}
    }
}

/// Whose the site was so far that a client announces, if that is another identity and it may be taken over.
async fn taken_over(hub: &Hub, guest: &Guest, known: &Recollection, client: SiteId) -> Result<Option<Arc<str>>, End> {
    let to = guest.grant.shared_identity();
    let Some(from) = known.holder.as_deref().filter(|holder| to.as_deref() != Some(holder)) else {
        return Ok(None);
    };
    let from: Arc<str> = from.into();
    let rebinding = Rebinding { room: guest.room.clone(), site: engine_site(client), from: from.clone(), to };
    match guest.rebind.ask(hub.config().upgrade_timeout(), rebinding).await {
        Ok(true) => Ok(Some(from)),
        Ok(false) => Err(Close::site_taken().into()),
        Err(failure) => Err(failure.close("rebind").into()),
    }
}

/// What a client with this grant may have applied.
fn rights(grant: &Grant, rebinds: Option<Arc<str>>, config: &SyncConfig) -> Rights {
    Rights {
        identity: grant.shared_identity(),
        rebinds,
        tables: grant.shared_tables(),
        refuse: grant.refuse().unwrap_or(config.refuse()),
        brings_back: false,
    }
}

/// The first message, which must be an announce; its kind of frame is the session's.
async fn announce<R>(
    stream: &mut R,
    config: &SyncConfig,
    liveness: &Liveness,
) -> Result<(Dialect, AnnouncePresence), End>
where
    R: Stream<Item = Result<WsMessage, WsError>> + Unpin,
{
    loop {
        let message = match stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(inbound::socket_error(&error, config, liveness)),
            None => return Err(End::Gone),
        };
        match message {
            WsMessage::Ping(payload) | WsMessage::Pong(payload) => liveness.control_frame(payload.len()),
            WsMessage::Close(frame) => return Err(inbound::left(frame.as_ref())),
            message => {
                let dialect = Dialect::of(&message);
                let decoded = dialect.decode(message)?;
                liveness.message_gone();
                return match decoded {
                    Message::AnnouncePresence(presence) => Ok((dialect, presence)),
                    other => {
                        let reason = format!("the first message is an announce, not {}", other.name());
                        Err(Close::protocol(&reason).into())
                    }
                };
            }
        }
    }
}

/// Opens the room for a client that announced itself.
async fn enter(hub: &Hub, guest: &Guest, presence: &AnnouncePresence) -> Result<(Lease, WantedSchema), End> {
    let refused = |error: crate::Error| {
        tracing::warn!(%error, "announce refused");
        End::Close(error.close())
    };
    let name = SchemaName::parse(&presence.schema_name).map_err(refused)?;
    tracing::info!(schema = %name, version = presence.schema_version, "site announced");
    let wanted = WantedSchema { name, version: presence.schema_version };
    let lease = hub.rooms().enter(&guest.room, &Purpose::Client(wanted.clone())).await.map_err(refused)?;
    if lease.is_site(presence.sender) {
        return Err(Close::policy("this site id is the server's own").into());
    }
    Ok((lease, wanted))
}

/// Finds out whether the client's database went back since it was last here.
async fn greet(
    room: &Room,
    presence: &AnnouncePresence,
    known: &mut Recollection,
    arrived: Instant,
) -> Result<Standing, End> {
    let here = presence.last_seens.iter().find(|(site, _)| *site == room.site());
    let seen = match here {
        Some((_, position)) => position.db_version,
        // What it has seen of a former site says nothing of this one.
        None if room.lineage().is_known_to(&presence.last_seens) => return Ok(Standing::GoesOn),
        None => 0,
    };
    let standing = room.greet(known, seen, arrived).await?;
    if matches!(standing, Standing::WentBack | Standing::MayHaveGoneBack) {
        tracing::info!(seen, "this site's database is, or may be, an earlier one: asking it for everything");
    }
    Ok(standing)
}

/// Whether the client knows the room only as a site that it was before, so that it sends everything that it has of it.
fn brings_back(room: &Room, presence: &AnnouncePresence) -> bool {
    let knows_this_site = presence.last_seens.iter().any(|(site, _)| *site == room.site());
    !knows_this_site && room.lineage().is_known_to(&presence.last_seens)
}

/// How far the client has seen this room's changes.
fn seen(room: &Room, presence: &AnnouncePresence) -> Cursor {
    let announced = presence.last_seens.iter().find(|(site, _)| *site == room.site());
    let Some((_, seen)) = announced else {
        // The client takes changes of a site that it doesn't know from the beginning on, wherever they begin.
        return Cursor { read: room.lineage().seen(&presence.last_seens), sent: Position::START };
    };
    if seen.db_version > room.now() {
        // The file went back in time, or the client made it up. Either way it gets everything, and misses nothing.
        tracing::warn!(claimed = seen.db_version, now = room.now(), "client claims to have seen more than there is");
        return Cursor::at(Position::START);
    }
    Cursor::at((*seen).max(Position::START))
}

/// Sends the close and gives the peer a moment to answer it, so that it sees the code and not a broken connection. Whether there
/// is nothing left to read.
async fn say_goodbye<W, R>(close: &Close, sink: &mut W, stream: &mut R) -> bool
where
    W: Sink<WsMessage, Error = WsError> + Unpin,
    R: Stream<Item = Result<WsMessage, WsError>> + Unpin,
{
    let frame = CloseFrame { code: close.code().into(), reason: close.reason().into() };
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    if let Ok(Ok(())) = timeout_at(deadline, sink.send(WsMessage::Close(Some(frame)))).await {
        while let Ok(received) = timeout_at(deadline, stream.next()).await {
            match received {
                Some(Ok(_)) => {}
                Some(Err(WsError::ConnectionClosed)) | None => return true,
                Some(Err(_)) => return false,
            }
        }
    }
    true
}

/// Reads what a peer still sends although its messages are no longer heard. A socket that is dropped with unread bytes is reset,
/// and the close that was sent is lost with it.
async fn linger(mut io: impl AsyncRead + Unpin) {
    let mut scrap = vec![0; SCRAP];
    let read_all = async { while io.read(&mut scrap).await.is_ok_and(|read| read > 0) {} };
    drop(timeout(CLOSE_TIMEOUT, read_all).await);
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Close(close)
    }
}

impl From<crate::Error> for End {
    fn from(error: crate::Error) -> Self {
        tracing::warn!(%error, "connection can't go on");
        Self::Close(error.close())
    }
}
