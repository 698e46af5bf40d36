//! The primary's end: who may call, and what is done for them at a time.

use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::MAX_WEIGHT;
use super::frame::{FrameReader, FrameWriter, Head, Kind};
use super::handshake;
use super::log_limit::LogLimit;
use super::off_the_runtime;
use super::turns::{Turn, Turns, Waiting};
use crate::litefs::request::{Answer, Request};
use crate::litefs::{LiteFsConfig, LiteFsSecret};

/// Peers that haven't proven anything yet, at a time. They have no part in the places of those who have.
const MAX_HANDSHAKES: usize = 64;

/// Time before the next connection is accepted when one could not be: there are no more file descriptors, for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests of other nodes by `handler`, until `shutdown`. Then it hangs up, once what is in work is answered or
/// `link_silence` is over.
///
/// Requests of one node about one room are begun in the order in which they were sent: the next one once the handler drops its [`Turn`].
/// A handler that panics or takes longer than `request_timeout` fails its request only. It is dropped where it waits when the one who
/// asked is lost.
pub(crate) async fn serve<H, F>(
    listener: TcpListener,
    secret: LiteFsSecret,
    config: LiteFsConfig,
    handler: H,
    shutdown: CancellationToken,
) where
    H: Fn(Request, Turn) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let server = Arc::new(Server {
        secret,
        handler,
        links: Semaphore::new(config.max_links().clamp(1, Semaphore::MAX_PERMITS)),
        bytes: Arc::new(Semaphore::new(config.link_bytes().clamp(1, MAX_WEIGHT))),
        config,
        shutdown: shutdown.clone(),
        log: LogLimit::default(),
    });
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match (accepted, handshakes.clone().try_acquire_owned()) {
            (Ok((stream, peer)), Ok(place)) => drop(connections.spawn(server.clone().welcome(stream, peer, place))),
            (Ok((_, peer)), Err(_)) => server.refuse(peer, &"too many that have proven nothing yet are connected"),
            (Err(error), _) => {
                if let Some(suppressed) = server.log.admit() {
                    tracing::error!(%error, suppressed, "connections of other LiteFS nodes can't be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// What all connections share.
struct Server<H> {
    secret: LiteFsSecret,
    config: LiteFsConfig,
    handler: H,
    links: Semaphore,
    /// Bytes of requests that are being received or worked on.
    bytes: Arc<Semaphore>,
    shutdown: CancellationToken,
    log: LogLimit,
}

/// An answer on its way out, with the place that its request had.
struct Outgoing {
    kind: Kind,
    id: u64,
    body: Bytes,
    _place: OwnedSemaphorePermit,
}

impl<H, F> Server<H>
where
    H: Fn(Request, Turn) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    /// One connection, from its first byte to its end.
    async fn welcome(self: Arc<Self>, mut stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let shake = handshake::answer(&mut stream, &self.secret, self.config.link_handshake_timeout());
        let shaken = tokio::select! {
            shaken = shake => shaken,
            () = self.shutdown.cancelled() => return,
        };
        drop(place);
        if let Err(error) = shaken {
            return self.refuse(peer, &error);
        }
        let Ok(_link) = self.links.try_acquire() else {
            return self.refuse(peer, &"too many nodes are connected (max_links)");
        };
        tracing::debug!(%peer, "a LiteFS node is connected");
        match self.clone().work(stream).await {
            Ok(()) => tracing::debug!(%peer, "hung up on a LiteFS node"),
            Err(error) => tracing::info!(%peer, %error, "a LiteFS node is gone"),
        }
    }

    async fn work(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let (answers, outgoing) = mpsc::channel(self.config.link_requests().clamp(1, Semaphore::MAX_PERMITS));
        // Dropped on every way out, and the handlers in it.
        let mut handlers = JoinSet::new();
        let mut sending = std::pin::pin!(self.send_answers(write, outgoing));
        tokio::select! {
            Err(error) = self.receive_requests(read, answers, &mut handlers) => return Err(error),
            sent = &mut sending => return sent,
            () = self.shutdown.cancelled() => {}
        }
        // Nothing more is read. The sending ends when the last handler has answered.
        timeout(self.config.link_silence(), sending).await.unwrap_or(Ok(()))
    }

    /// Has requests worked on, each in a task of its own. While there are as many as there may be, nothing is read.
    async fn receive_requests(
        self: &Arc<Self>,
        read: impl AsyncRead + Unpin,
        answers: mpsc::Sender<Outgoing>,
        handlers: &mut JoinSet<()>,
    ) -> io::Result<()> {
        let limit = self.config.max_frame_bytes();
        let places = Arc::new(Semaphore::new(self.config.link_requests().clamp(1, Semaphore::MAX_PERMITS)));
        let mut reader = FrameReader::new(read, self.config.link_silence());
        let mut turns = Turns::default();
        loop {
            let place = acquire(&places, 1).await?;
            let head = next_request(&mut reader).await?;
            if head.body_len > limit {
                reader.skip(head).await?;
                let reason = format!("it has {} bytes, over the limit of {limit} (max_frame_bytes)", head.body_len);
                let outgoing = Outgoing { kind: Kind::Error, id: head.id, body: reason.into(), _place: place };
                answers.send(outgoing).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                continue;
            }
            let bytes = acquire(&self.bytes, head.body_len.min(self.config.link_bytes())).await?;
            let body = reader.body(head).await?;
            let request = match off_the_runtime(body.len(), move || Request::decode(body)).await? {
                Ok(request) => request,
                Err(error) => {
                    let body = error.to_string().into();
                    let outgoing = Outgoing { kind: Kind::Error, id: head.id, body, _place: place };
                    answers.send(outgoing).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
                    continue;
                }
            };
            let mut idle = false;
            while handlers.try_join_next().is_some() {
                idle = true;
            }
            if idle {
                turns.tidy();
            }
            let waiting = turns.line_up(request.room());
            let (server, answers) = (self.clone(), answers.clone());
            handlers.spawn(async move {
                let body = server.handle(request, waiting).await.encode();
                drop(bytes);
                // The connection may have ended meanwhile.
                drop(answers.send(Outgoing { kind: Kind::Response, id: head.id, body, _place: place }).await);
            });
        }
    }

    async fn handle(&self, request: Request, waiting: Waiting) -> Answer {
        let room = request.room().to_owned();
        let handled = AssertUnwindSafe(async { (self.handler)(request, waiting.turn().await).await }).catch_unwind();
        match timeout(self.config.request_timeout(), handled).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => {
                tracing::error!(room, "a forwarded request made its handler panic");
                Answer::Failed { code: 1011, reason: "the primary's fault: read its log".to_owned() }
            }
            Err(_) => Answer::Failed { code: 1013, reason: "the primary took too long: try again later".to_owned() },
        }
    }

    /// Sends answers and signs of life, until nobody is left who could answer.
    async fn send_answers(
        &self,
        write: impl AsyncWrite + Unpin,
        mut outgoing: mpsc::Receiver<Outgoing>,
    ) -> io::Result<()> {
        let mut writer = FrameWriter::new(write, self.config.link_silence());
        let mut heartbeat = interval(self.config.link_heartbeat());
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                outgoing = outgoing.recv() => match outgoing {
                    Some(answer) => writer.frame(answer.kind, answer.id, answer.body).await?,
                    None => return Ok(()),
                },
                _ = heartbeat.tick() => writer.ping().await?,
            }
        }
    }

    fn refuse(&self, peer: SocketAddr, reason: &dyn std::fmt::Display) {
        if let Some(suppressed) = self.log.admit() {
            tracing::warn!(%peer, %reason, suppressed, "a connection to the port of the LiteFS nodes is refused");
        }
    }
}

/// The start of the next request; the peer's signs of life are passed over.
async fn next_request(reader: &mut FrameReader<impl AsyncRead + Unpin>) -> io::Result<Head> {
    loop {
        let head = reader.head().await?;
        match head.kind {
            Kind::Ping => {}
            Kind::Request => return Ok(head),
            Kind::Response | Kind::Error => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to what was not asked"));
            }
        }
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, permits: usize) -> io::Result<OwnedSemaphorePermit> {
    let permits = u32::try_from(permits.min(MAX_WEIGHT)).unwrap_or(u32::MAX);
    semaphore.clone().acquire_many_owned(permits).await.map_err(io::Error::other)
}
