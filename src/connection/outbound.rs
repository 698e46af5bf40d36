//! What goes to a client: it pulls from the feed when its socket can take more, so there is no backlog to overflow.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Sink, SinkExt};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tower_sqlite_sync_wire::{Position, SiteId};

use super::ahead::{Ahead, Extract};
use super::backoff::Backoff;
use super::errands::Errand;
use super::{Close, End, NOBODY, Session};
use crate::config::SyncConfig;
use crate::meters::Source;
use crate::room::{Frame, Pull, Selection, engine_site};

/// So long after a burst of changes, a probe asks the client whether it has them.
const PROBE_DELAY: Duration = Duration::from_secs(1);

/// How soon, and how late, a client that asks for changes again gets them again.
const REWIND_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Bytes of a message that are copied to be written to the socket, and that every client can be sent at a time.
pub(super) const FRAGMENT: usize = 64 << 10;

/// How soon a large message is tried again, when too much is under way to others.
const SENDING_DELAY: Duration = Duration::from_millis(250);

/// How long a socket may take nothing of a message while others have to wait for what it holds.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);

const TOO_SLOW: &str = "this client reads too slowly (slow_reader_timeout)";

/// Asks a socket whether it is done with something.
type PollSink<S> = fn(&mut S, &mut Context<'_>) -> Poll<Result<(), WsError>>;

/// The sending half of a session.
pub(super) struct Outbound<'a, S> {
    sink: &'a mut S,
    session: &'a Session<'a>,
    /// Where the client was when it announced itself.
    begin: Cursor,
    cursor: Cursor,
    /// Up to this db_version the client is sent also what it wrote itself.
    own_upto: i64,
    /// The client was never sent anything, and has written.
    untold: bool,
    timers: Timers,
    rewinds: Backoff<Position>,
    /// What comes next has so many bytes, and waits until they may be under way.
    large: Option<usize>,
    /// What comes next, while the client catches up.
    ahead: Ahead<'a>,
}

/// How far a connection is in the room's changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// Everything up to this db_version was sent, or was the client's own, or was seen when the room was another site.
    pub(super) read: i64,
    /// The position that the last message took the client to. The client's own changes move `read` over it.
    pub(super) sent: Position,
}

impl Cursor {
    pub(super) fn at(position: Position) -> Self {
        Self { read: position.db_version, sent: position }
    }
}

/// When something is due though nothing happens.
#[derive(Debug)]
struct Timers {
    /// Wakes when something may be due.
    alarm: Pin<Box<Sleep>>,
    ping: Instant,
    probe: Option<Instant>,
    /// No changes are sent before this.
    resume: Option<Instant>,
}

impl Timers {
    fn new(config: &SyncConfig) -> Self {
        let ping = Instant::now() + config.heartbeat();
        Self { alarm: Box::pin(sleep_until(ping)), ping, probe: None, resume: None }
    }

    /// Sets the alarm, unless it wakes soon enough: what each message puts off must not move a timer each time.
    fn arm(&mut self) {
        let due = [self.probe, self.resume].into_iter().flatten().fold(self.ping, Instant::min);
        if self.alarm.is_elapsed() || due < self.alarm.deadline() {
            self.alarm.as_mut().reset(due);
        }
    }

    /// Whether changes must wait.
    fn paused(&mut self) -> bool {
        self.resume = self.resume.filter(|resume| *resume > Instant::now());
        self.resume.is_some()
    }

    fn pause(&mut self, delay: Duration) {
        if !delay.is_zero() {
            self.resume = self.resume.max(Some(Instant::now() + delay));
        }
    }
}

impl<'a, S> Outbound<'a, S>
where
    S: Sink<WsMessage, Error = WsError> + Unpin,
{
    /// The sending half for a client that is at `begin`.
    pub(super) fn new(sink: &'a mut S, session: &'a Session<'a>, begin: Cursor) -> Self {
        Self {
            sink,
            session,
            begin,
            cursor: begin,
            own_upto: 0,
            untold: false,
            timers: Timers::new(session.config),
            rewinds: Backoff::new(REWIND_DELAYS.0, REWIND_DELAYS.1),
            large: None,
            ahead: Ahead::default(),
        }
    }

    /// Has the client sent also what it wrote itself, up to this db_version, because it may have lost it.
    pub(super) fn include_its_own(&mut self, upto: i64) {
        self.own_upto = upto;
    }

    /// Has the client sent a change of its own, should there be no other: it takes a position from it, which falls if its database
    /// goes back.
    pub(super) fn give_it_a_position(&mut self) {
        self.untold = true;
    }

    /// Whose changes the client isn't sent next.
    fn left_out(&self) -> SiteId {
        if self.cursor.read < self.own_upto { NOBODY } else { self.session.client }
    }

    /// Sends until the connection must end, and says why.
    pub(super) async fn run(&mut self) -> End {
        let mut now = self.session.room.subscribe();
        loop {
            now.mark_unchanged();
            if let Err(end) = self.send_what_is_there().await {
                return end;
            }
            self.timers.arm();
            let is_due = tokio::select! {
                () = self.session.errands.queued() => false,
                changed = now.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return End::Close(Close::going_away()),
                },
                () = &mut self.timers.alarm => true,
            };
            if is_due && let Err(end) = Box::pin(self.on_time()).await {
                return end;
            }
        }
    }

    /// Does errands and sends changes until there are none, and flushes once.
    async fn send_what_is_there(&mut self) -> Result<(), End> {
        loop {
            while let Some(errand) = self.session.errands.take() {
                self.run_errand(errand).await?;
            }
            if self.timers.paused() {
                break;
            }
            match self.session.room.pull(self.cursor.read) {
                // What the client has written may be in the database, and not shown yet: then there is nothing to send so far.
                Pull::UpToDate if self.untold && self.cursor.read > 0 => Box::pin(self.send_the_last_change()).await?,
                Pull::UpToDate => break,
                Pull::Frames(frames) => {
                    let bytes = frames.iter().map(|frame| frame.byte_len()).sum();
                    match self.session.sending.share(bytes) {
                        Some(_share) => self.send_frames(&frames, Source::Feed).await?,
                        None if bytes <= FRAGMENT => self.send_frames(&frames, Source::Feed).await?,
                        None => {
                            let upto = frames.last().map_or(self.cursor.read, |frame| frame.upto);
                            Box::pin(self.catch_up(upto)).await?;
                        }
                    }
                }
                // Boxed: they take more memory than all the rest, and most connections are up to date most of the time.
                Pull::Unencoded => Box::pin(self.session.room.encode(self.cursor.read)).await?,
                Pull::Behind(upto) => Box::pin(self.catch_up(upto)).await?,
            }
        }
        // Whoever waits, for whatever reason, keeps nothing that others may need meanwhile.
        self.ahead = Ahead::default();
        self.flush().await
    }

    /// Sends what the database has, up to `upto` at most: as much as a frame may have, unless clients that don't take what they are sent
    /// hold too much already. What follows is read meanwhile. A db_version that is larger than what everybody may be sent waits until
    /// they don't.
    async fn catch_up(&mut self, upto: i64) -> Result<(), End> {
        let Session { room, config, sending, .. } = self.session;
        let usual = config.max_frame_bytes();
        let extract = Extract { after: self.cursor.read, upto, left_out: self.left_out(), max_bytes: usual };
        let (frame, mut share, most) = match self.ahead.take(extract).await {
            Some((frame, share)) => (frame?, Some(share), usual),
            None => {
                let wanted = self.large.unwrap_or(usual);
                let share = sending.share(wanted);
                let (max_bytes, most) = match &share {
                    Some(_) => (usual, wanted),
                    None if self.large.is_some() => {
                        self.timers.pause(SENDING_DELAY);
                        return Ok(());
                    }
                    None => (usual.min(FRAGMENT), usual.min(FRAGMENT)),
                };
                (Extract { max_bytes, ..extract }.read(room).await?, share, most)
            }
        };
        if frame.byte_len() > most {
            // Neither what it has already nor what is read ahead of it is to be in its way.
            self.ahead = Ahead::default();
            drop(share.take());
            share = sending.share(frame.byte_len());
            if share.is_none() {
                self.large = Some(frame.byte_len());
                self.timers.pause(SENDING_DELAY);
                return Ok(());
            }
        }
        self.large = None;
        // Not for who has nearly everything, or waits after each message; nor behind a db_version that is more than a frame, as the next
        // one may be.
        if (usual / 2..=usual).contains(&frame.byte_len()) && config.notify_interval().is_zero() {
            let readings = if room.idle_readers() > 1 { 2 } else { 1 };
            self.ahead.follow(&frame, extract, readings, sending, |extract| {
                let room = room.clone();
                async move { extract.read(&room).await }
            });
        }
        self.send_frames(&[frame], Source::Database).await
    }

    /// Sends as one message what the client lacks of neighbouring frames.
    async fn send_frames(&mut self, frames: &[Arc<Frame>], source: Source) -> Result<(), End> {
        if let Some(selection) = Selection::of(frames, engine_site(self.left_out())) {
            self.send_changes(&selection).await?;
            self.session.room.meters().sent(selection.count(), source);
            self.cursor.sent = Position::at(selection.last_version());
            self.timers.probe = Some(Instant::now() + PROBE_DELAY);
            self.timers.pause(self.session.config.notify_interval());
        }
        self.cursor.read = frames.last().map_or(self.cursor.read, |frame| frame.upto);
        Ok(())
    }

    async fn send_the_last_change(&mut self) -> Result<(), End> {
        self.untold = false;
        let Session { room, config, .. } = self.session;
        let (upto, max_bytes) = (self.cursor.read, config.max_frame_bytes());
        if self.cursor.sent > Position::START {
            return Ok(());
        }
        let frame = room.read_frame(upto.saturating_sub(1), upto, None, max_bytes).await?;
        if frame.byte_len() <= max_bytes
            && let Some(selection) = frame.last()
        {
            self.send_changes(&selection).await?;
            self.cursor.sent = Position::at(selection.last_version());
        }
        Ok(())
    }

    async fn send_changes(&mut self, selection: &Selection) -> Result<(), End> {
        let (sender, fragment) = (self.session.room.site(), self.session.config.max_frame_bytes().min(FRAGMENT));
        for message in self.session.dialect.changes(selection, sender, self.cursor.sent, fragment)? {
            self.ready().await?;
            self.give(message)?;
        }
        tracing::debug!(changes = selection.count(), since = self.cursor.sent.db_version, "changes sent");
        Ok(())
    }

    async fn run_errand(&mut self, errand: Errand) -> Result<(), End> {
        match errand {
            Errand::Send(message) => {
                tracing::debug!(message = message.name(), "message sent");
                self.ready().await?;
                self.give(self.session.dialect.encode(&message))?;
                self.flush().await
            }
            Errand::Rewind(position) => {
                self.rewind(position);
                Ok(())
            }
        }
    }

    /// Goes back to where the client says it is. One that doesn't get any further waits longer each time.
    fn rewind(&mut self, position: Position) {
        if position >= self.cursor.sent {
            return;
        }
        let delay = self.rewinds.next(position);
        tracing::info!(
            from = self.cursor.sent.db_version,
            to = position.db_version,
            ?delay,
            "client asks for changes again"
        );
        self.large = None;
        self.cursor = if position == self.begin.sent { self.begin } else { Cursor::at(position) };
        self.timers.pause(delay);
    }

    async fn on_time(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.timers.probe.is_some_and(|probe| probe <= now) {
            self.timers.probe = None;
            self.probe().await?;
        }
        if self.timers.ping <= now {
            let heartbeat = self.session.config.heartbeat();
            if self.session.liveness.silence() >= heartbeat.saturating_mul(2) {
                return Err(End::Close(Close::protocol("no answer to pings (heartbeat)")));
            }
            self.timers.ping = now + heartbeat;
            self.ready().await?;
            self.give(WsMessage::Ping(bytes::Bytes::new()))?;
            self.probe().await?;
        }
        self.flush().await
    }

    /// An empty message from where the client should be. A client that failed to apply something, of which it says nothing, answers
    /// that it is not there yet; others take no notice.
    async fn probe(&mut self) -> Result<(), End> {
        if self.cursor.sent == Position::START {
            return Ok(());
        }
        let nothing = Selection::nothing(self.cursor.sent.db_version);
        self.send_changes(&nothing).await
    }

    /// Waits until the socket can be [given](Self::give) a message.
    async fn ready(&mut self) -> Result<(), End> {
        let Session { config, sending, .. } = self.session;
        if !self.is_done(Self::poll_ready).await? {
            let limit = || {
                let usual = config.slow_reader_timeout();
                if sending.is_short() { usual.min(SHORT_PATIENCE) } else { usual }
            };
            Box::pin(self.wait(Self::poll_ready, limit)).await?;
        }
        Ok(())
    }

    fn give(&mut self, message: WsMessage) -> Result<(), End> {
        self.sink.start_send_unpin(message).map_err(|_| End::Gone)
    }

    async fn flush(&mut self) -> Result<(), End> {
        if !self.is_done(Self::poll_flush).await? {
            let config = self.session.config;
            Box::pin(self.wait(Self::poll_flush, || config.slow_reader_timeout())).await?;
        }
        Ok(())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        self.sink.poll_ready_unpin(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WsError>> {
        self.sink.poll_flush_unpin(cx)
    }

    /// Whether the socket takes it at once, as nearly always. What it takes to wait for one that doesn't is not there until then.
    fn is_done(&mut self, poll: PollSink<Self>) -> impl Future<Output = Result<bool, End>> {
        poll_fn(move |cx| match poll(self, cx) {
            Poll::Ready(done) => Poll::Ready(done.map(|()| true).map_err(|_| End::Gone)),
            Poll::Pending => Poll::Ready(Ok(false)),
        })
    }

    /// Waits for the socket, but not for longer than `limit` says.
    async fn wait(&mut self, poll: PollSink<Self>, limit: impl Fn() -> Duration) -> Result<(), End> {
        let liveness = self.session.liveness;
        tokio::select! {
            biased;
            done = poll_fn(|cx| poll(self, cx)) => done.map_err(|_| End::Gone),
            () = liveness.stalled(limit) => Err(End::Close(Close::try_again(TOO_SLOW))),
        }
    }
}
