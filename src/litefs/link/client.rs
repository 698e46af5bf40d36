//! The replica's end: one connection to the primary, over which all its requests go.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::MAX_WEIGHT;
use super::backoff::Backoff;
use super::frame::{FrameReader, FrameWriter, Kind};
use super::handshake::{self, HandshakeError};
use super::log_limit::LogLimit;
use super::off_the_runtime;
use crate::litefs::request::{Answer, BodyError, Request};
use crate::litefs::{LiteFsConfig, LiteFsSecret};

/// A request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("no primary is known: try again when LiteFS has one")]
    NoPrimary,
    /// It may have been done or not. Merging is idempotent, so it can be sent again.
    #[error("the connection to the primary was lost")]
    Lost,
    #[error("the primary did not answer in time")]
    Deadline,
    #[error("a message of {bytes} bytes is over the limit of {limit} (max_frame_bytes)")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the primary can't read the request: {reason}")]
    Refused { reason: String },
    #[error("the primary's answer can't be read: {0}")]
    Malformed(#[from] BodyError),
}

/// The way to the primary. It is called when there is something to ask, and called again after it was lost.
#[derive(Debug)]
pub(crate) struct PrimaryLink {
    primary: watch::Sender<Option<String>>,
    queue: mpsc::Sender<Queued>,
    /// Requests that are waited for.
    places: Semaphore,
    /// Bytes of requests that are not yet sent.
    bytes: Arc<Semaphore>,
    config: LiteFsConfig,
    _calling: AbortOnDropHandle<()>,
}

impl PrimaryLink {
    /// A link to nobody, until it is [told](Self::retarget) of a primary.
    pub(crate) fn new(secret: LiteFsSecret, config: LiteFsConfig) -> Self {
        let (queue, queued) = mpsc::channel(config.pending_requests().clamp(1, Semaphore::MAX_PERMITS));
        let (primary, address) = watch::channel(None);
        let caller = Caller { secret, config: config.clone(), queue: queued, log: LogLimit::default() };
        Self {
            primary,
            queue,
            places: Semaphore::new(config.pending_requests().clamp(1, Semaphore::MAX_PERMITS)),
            bytes: Arc::new(Semaphore::new(config.link_bytes().clamp(1, MAX_WEIGHT))),
            config,
            _calling: AbortOnDropHandle::new(tokio::spawn(caller.run(address))),
        }
    }

    /// Says where the primary is now: host and port, or nowhere. If that is somewhere else, what waits for an answer is
    /// [lost](LinkError::Lost).
    pub(crate) fn retarget(&self, address: Option<String>) {
        self.primary.send_if_modified(|current| {
            let changed = *current != address;
            *current = address;
            changed
        });
    }

    /// Asks the primary, and waits for its answer until `deadline`. While the primary can't be reached the request waits too.
    pub(crate) async fn request(&self, request: Request, deadline: Instant) -> Result<Answer, LinkError> {
        let asked = async {
            let _place = self.places.acquire().await.map_err(|_| LinkError::Lost)?;
            let weight = request.byte_len().clamp(1, self.config.link_bytes().clamp(1, MAX_WEIGHT));
            let weight = u32::try_from(weight).unwrap_or(u32::MAX);
            let bytes = self.bytes.clone().acquire_many_owned(weight).await.map_err(|_| LinkError::Lost)?;
            let (reply, answer) = oneshot::channel();
            self.queue.send(Queued { request, reply, _bytes: bytes }).await.map_err(|_| LinkError::Lost)?;
            // It is dropped unanswered with the connection that it was, or was to be, sent on.
            answer.await.unwrap_or(Err(LinkError::Lost))
        };
        timeout_at(deadline, asked).await.unwrap_or(Err(LinkError::Deadline))
    }
}

type Reply = oneshot::Sender<Result<Answer, LinkError>>;

/// A request that is not yet sent.
#[derive(Debug)]
struct Queued {
    request: Request,
    reply: Reply,
    _bytes: OwnedSemaphorePermit,
}

/// The task behind the link.
#[derive(Debug)]
struct Caller {
    secret: LiteFsSecret,
    config: LiteFsConfig,
    queue: mpsc::Receiver<Queued>,
    log: LogLimit,
}

impl Caller {
    async fn run(mut self, mut primary: watch::Receiver<Option<String>>) {
        loop {
            let address = primary.borrow_and_update().clone();
            let serve = async {
                match address {
                    Some(address) => self.ask(&address).await,
                    None => self.refuse().await,
                }
            };
            tokio::select! {
                // First: what was asked after the target had changed is for the new one.
                biased;
                changed = primary.changed() => if changed.is_err() { return },
                () = serve => return,
            }
        }
    }

    /// Answers while there is no primary.
    async fn refuse(&mut self) {
        while let Some(queued) = self.queue.recv().await {
            // Whoever asked may have gone away.
            drop(queued.reply.send(Err(LinkError::NoPrimary)));
        }
    }

    /// Sends what is queued to the primary at `address`, over as many connections as it takes.
    async fn ask(&mut self, address: &str) {
        let mut backoff = Backoff::new(self.config.reconnect_first(), self.config.reconnect_longest());
        while let Some(first) = self.queue.recv().await {
            let stream = loop {
                match self.connect(address).await {
                    Ok(stream) => break stream,
                    Err(error) => self.warn(address, &error, "the primary can't be reached"),
                }
                sleep(backoff.next()).await;
            };
            tracing::debug!(address, "connected to the primary");
            let pending = Mutex::new(Pending::default());
            let (read, write) = stream.into_split();
            let lost = tokio::select! {
                lost = send_requests(&mut self.queue, &self.config, write, first, &pending) => lost,
                lost = receive_answers(&self.config, read, &pending) => lost,
            };
            match lost {
                Ok(()) => return,
                Err(error) => self.warn(address, &error, "the connection to the primary is lost"),
            }
            // One that accepts connections and answers nothing is not called at full speed.
            if locked(&pending).answered {
                backoff.reset();
            } else {
                drop(pending);
                sleep(backoff.next()).await;
            }
        }
    }

    async fn connect(&self, address: &str) -> Result<TcpStream, HandshakeError> {
        let limit = self.config.link_handshake_timeout();
        let mut stream = timeout(limit, TcpStream::connect(address)).await.map_err(|_| HandshakeError::Timeout)??;
        stream.set_nodelay(true)?;
        handshake::call(&mut stream, &self.secret, limit).await?;
        Ok(stream)
    }

    fn warn(&self, address: &str, error: &dyn std::error::Error, what: &'static str) {
        if let Some(suppressed) = self.log.admit() {
            tracing::warn!(address, error = %error, suppressed, "{what}");
        }
    }
}

/// Sends what is queued, and signs of life, until the link is dropped.
async fn send_requests(
    queue: &mut mpsc::Receiver<Queued>,
    config: &LiteFsConfig,
    write: impl AsyncWrite + Unpin,
    first: Queued,
    pending: &Mutex<Pending>,
) -> io::Result<()> {
    // A primary that works on as much as it may reads nothing more until it is done with something.
    let stall = config.request_timeout().saturating_add(config.link_silence());
    let mut writer = FrameWriter::new(write, stall);
    let mut heartbeat = interval(config.link_heartbeat());
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ids = 0..u64::MAX;
    let mut next = Some(first);
    loop {
        // What nobody waits for any more isn't sent.
        if let Some((queued, id)) = next.take().filter(|queued| !queued.reply.is_closed()).zip(ids.next()) {
            let Queued { request, reply, _bytes: held } = queued;
            // Here, so that a request that takes long to encode isn't overtaken by those that were asked after it.
            let body = off_the_runtime(request.byte_len(), move || request.encode()).await?;
            let limit = config.max_frame_bytes();
            if body.len() <= limit {
                locked(pending).insert(id, reply, config.pending_requests());
                writer.frame(Kind::Request, id, body).await?;
            } else {
                // Whoever asked may have gone away.
                drop(reply.send(Err(LinkError::TooLarge { bytes: body.len(), limit })));
            }
            drop(held);
        }
        tokio::select! {
            queued = queue.recv() => match queued {
                Some(queued) => next = Some(queued),
                None => return Ok(()),
            },
            _ = heartbeat.tick() => writer.ping().await?,
        }
    }
}

async fn receive_answers(
    config: &LiteFsConfig,
    read: impl AsyncRead + Unpin,
    pending: &Mutex<Pending>,
) -> io::Result<()> {
    let limit = config.max_frame_bytes();
    let mut reader = FrameReader::new(read, config.link_silence());
    loop {
        let head = reader.head().await?;
        let answer = match head.kind {
            Kind::Ping => continue,
            Kind::Request => return Err(io::Error::new(io::ErrorKind::InvalidData, "the primary asks us")),
            Kind::Response | Kind::Error if head.body_len > limit => {
                reader.skip(head).await?;
                Err(LinkError::TooLarge { bytes: head.body_len, limit })
            }
            Kind::Response => Answer::decode(reader.body(head).await?).map_err(LinkError::Malformed),
            Kind::Error => {
                let reason = String::from_utf8_lossy(&reader.body(head).await?).into_owned();
                Err(LinkError::Refused { reason })
            }
        };
        locked(pending).answer(head.id, answer);
    }
}

/// Requests that were sent on one connection.
#[derive(Debug, Default)]
struct Pending {
    replies: HashMap<u64, Reply>,
    answered: bool,
}

impl Pending {
    /// Remembers who waits. At most `places` do; others are those who gave up, and are forgotten when there are as many of them.
    fn insert(&mut self, id: u64, reply: Reply, places: usize) {
        if self.replies.len() >= places.saturating_mul(2) {
            self.replies.retain(|_, reply| !reply.is_closed());
        }
        self.replies.insert(id, reply);
    }

    fn answer(&mut self, id: u64, answer: Result<Answer, LinkError>) {
        self.answered = true;
        if let Some(reply) = self.replies.remove(&id) {
            // Whoever asked may have gone away.
            drop(reply.send(answer));
        }
    }
}

fn locked(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}
