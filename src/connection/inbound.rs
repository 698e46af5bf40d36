//! What comes from a client: its changes on their way to the room's writer, and its requests for changes of ours.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tower_sqlite_sync_wire::{ChangeList, Changes, Message, Position, RejectChanges, SiteId, StartStreaming};

use super::errands::Errand;
use super::intake::Refusal;
use super::liveness::Liveness;
use super::upload::Upload;
use super::{Close, End, NOBODY, Session};
use crate::config::SyncConfig;
use crate::error::Error;
use crate::grant::{Access, Refuse};
use crate::guard::ProposedChanges;
use crate::primary::Rights;
use crate::room::{Applied, Changeset, Outcome, engine_site};

/// Changesets of one connection that the writer may hold: enough to keep it busy while the next one is on the wire.
const MAX_IN_FLIGHT: usize = 16;

/// How many it may hold if they are small, so that they are committed together.
const MAX_SMALL_IN_FLIGHT: usize = 256;

/// Bytes that the small ones have together.
const SMALL_BYTES: usize = 64 << 10;

/// How soon, and how late, a client that doesn't continue where it was told to is told again.
const RESTART_DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What a connection has to do something about.
enum Step {
    Frame(WsMessage),
    Outcome(Outcome),
}

/// The receiving half of a session.
pub(super) struct Inbound<'a, S> {
    stream: &'a mut S,
    session: &'a Session<'a>,
    outcomes: Outcomes,
    restart: Option<Restart>,
    retelling: bool,
    /// The next changes are all that the client has of a room that forked, the work of others too.
    brings_back: bool,
    /// Changes that came before they were asked for.
    unasked: Option<Box<Message>>,
}

/// What becomes of the changesets that the writer has. Most connections have sent none, and the way to them takes kilobytes: it is
/// there only for as long as something is under way.
#[derive(Debug, Default)]
struct Outcomes {
    way: Option<(mpsc::UnboundedSender<Outcome>, mpsc::UnboundedReceiver<Outcome>)>,
    /// The bytes of each changeset that is under way, in their order.
    in_flight: VecDeque<usize>,
    bytes: usize,
}

impl Outcomes {
    /// Whether no more may be under way.
    fn are_many(&self) -> bool {
        let most = if self.bytes < SMALL_BYTES { MAX_SMALL_IN_FLIGHT } else { MAX_IN_FLIGHT };
        self.in_flight.len() >= most
    }

    /// Where the outcome of the next changeset goes.
    fn reply(&mut self) -> mpsc::UnboundedSender<Outcome> {
        self.way.get_or_insert_with(mpsc::unbounded_channel).0.clone()
    }

    /// A changeset with so many bytes is under way.
    fn expect(&mut self, bytes: usize) {
        self.in_flight.push_back(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The next one; for ever if nothing is under way. Cancel-safe.
    async fn next(&mut self) -> Option<Outcome> {
        let Some((_, outcomes)) = &mut self.way else { return std::future::pending().await };
        let outcome = outcomes.recv().await;
        self.bytes = self.bytes.saturating_sub(self.in_flight.pop_front().unwrap_or_default());
        if self.in_flight.is_empty() {
            *self = Self::default();
        }
        outcome
    }
}

/// The client was told to continue from elsewhere, and has not yet.
#[derive(Debug)]
struct Restart {
    told: Instant,
    delay: Duration,
}

impl<'a, S> Inbound<'a, S>
where
    S: Stream<Item = Result<WsMessage, WsError>> + Unpin,
{
    pub(super) fn new(stream: &'a mut S, session: &'a Session<'a>) -> Self {
        Self {
            stream,
            session,
            outcomes: Outcomes::default(),
            restart: None,
            retelling: false,
            brings_back: false,
            unasked: None,
        }
    }

    /// Takes the first changes for all that the client has of a room that forked.
    pub(super) fn expect_others_work(&mut self) {
        self.brings_back = true;
    }

    /// Lets the client wait for `something` before it is asked for its changes. It is heard meanwhile; changes that it sends
    /// unasked are kept for [`run`](Self::run).
    pub(super) async fn wait_for<T>(&mut self, something: impl Future<Output = T>) -> Result<T, End> {
        let mut something = std::pin::pin!(something);
        loop {
            let received = tokio::select! {
                biased;
                came = &mut something => return Ok(came),
                received = receive(self.stream, self.session.config, self.session.liveness) => received?,
            };
            match self.session.dialect.decode_off_the_runtime(received).await? {
                changes @ Message::Changes(_) => {
                    self.unasked = Some(Box::new(changes));
                    let _held = self.session.liveness.hold();
                    return Ok(something.await);
                }
                other => {
                    self.on_message(other).await?;
                    self.session.liveness.message_gone();
                }
            }
        }
    }

    /// Receives until the connection must end, and says why. `upload` is the place that the client has among those that bring back
    /// what they have of the room, if it is one of them.
    pub(super) async fn run(&mut self, mut upload: Option<Upload>) -> End {
        if let Some(message) = self.unasked.take()
            && let Err(end) = Box::pin(self.on_unasked(message)).await
        {
            return end;
        }
        loop {
            let step = match self.next(&mut upload).await {
                // What is done with it takes more memory than waiting for it, and seldom happens.
                Ok(Step::Frame(frame)) => Box::pin(self.on_frame(frame)).await,
                Ok(Step::Outcome(outcome)) => match self.on_outcome(outcome) {
                    Ok(None) => Ok(()),
                    Ok(Some(start)) => {
                        let start = Errand::Send(Box::new(Message::StartStreaming(start)));
                        Box::pin(self.session.errands.push(start)).await;
                        Ok(())
                    }
                    Err(end) => Err(end),
                },
                Err(end) => Err(end),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Waits for what comes next.
    async fn next(&mut self, upload: &mut Option<Upload>) -> Result<Step, End> {
        if self.outcomes.are_many() {
            let _held = self.session.liveness.hold();
            return self.outcomes.next().await.map(Step::Outcome).ok_or(End::Gone);
        }
        loop {
            tokio::select! {
                Some(outcome) = self.outcomes.next() => {
                    *upload = None;
                    return Ok(Step::Outcome(outcome));
                }
                received = receive(self.stream, self.session.config, self.session.liveness) => return received.map(Step::Frame),
                () = over(upload.as_ref(), self.session.liveness) => *upload = None,
            }
        }
    }

    async fn on_frame(&mut self, frame: WsMessage) -> Result<(), End> {
        let message = {
            let _held = self.session.liveness.hold();
            self.session.dialect.decode_off_the_runtime(frame).await?
        };
        self.on_message(message).await?;
        // Not before: what waits for a place in the room's queue takes as much memory as what is still coming.
        self.session.liveness.message_gone();
        Ok(())
    }

    async fn on_unasked(&mut self, message: Box<Message>) -> Result<(), End> {
        self.on_message(*message).await?;
        self.session.liveness.message_gone();
        Ok(())
    }

    async fn on_message(&mut self, message: Message) -> Result<(), End> {
        tracing::debug!(message = message.name(), "message received");
        match message {
            Message::Changes(changes) => self.on_changes(changes).await,
            Message::RejectChanges(RejectChanges { whose, since }) => {
                if whose == self.session.room.site() {
                    self.session.errands.push(Errand::Rewind(since)).await;
                }
                Ok(())
            }
            Message::AnnouncePresence(_) => Err(Close::protocol("a connection announces itself once").into()),
            other => Err(Close::protocol(&format!("a client doesn't send {}", other.name())).into()),
        }
    }

    async fn on_changes(&mut self, Changes { sender, since, changes }: Changes) -> Result<(), End> {
        if sender != self.session.client {
            return Err(Close::policy("changes must come from the site that was announced").into());
        }
        if changes.is_empty() {
            return Ok(());
        }
        if self.session.access == Access::ReadOnly {
            tracing::info!(changes = changes.len(), "changes of a read-only client dropped");
            return Ok(());
        }
        tracing::debug!(changes = changes.len(), since = since.db_version, "changes received");
        let _held = self.session.liveness.hold();
        let mut rights = self.session.rights.clone();
        if std::mem::take(&mut self.brings_back) {
            Arc::make_mut(&mut rights).brings_back = true;
        }
        let is_refused = self.is_objected_to(&changes, &rights).await?;
        let bytes = changes.byte_len();
        let (schema_version, reply) = (self.session.schema.version, self.outcomes.reply());
        let changeset = Changeset { sender, since, changes, schema_version, rights, is_refused, reply };
        self.session.room.merge(changeset).await.map_err(|error| refused(&error))?;
        self.outcomes.expect(bytes);
        Ok(())
    }

    /// Shows changes to the guard; whether they are to be reverted. The work of others never is: it would be lost also to those who
    /// bring it back later.
    async fn is_objected_to(&self, changes: &ChangeList, rights: &Rights) -> Result<bool, End> {
        let propose = || {
            let (room, site) = (self.session.room.name().clone(), engine_site(self.session.client));
            ProposedChanges::new(room, site, rights.identity.clone(), changes.clone())
        };
        match self.session.guard.ask(self.session.config.queue_wait(), propose).await {
            Ok(Ok(())) => Ok(false),
            Ok(Err(objection)) => {
                tracing::warn!(%objection, refuse = ?rights.refuse, "the guard objects to changes");
                match rights.refuse {
                    Refuse::Revert if !rights.brings_back => Ok(true),
                    Refuse::Revert | Refuse::Close => {
                        self.session.refusals.refuse(self.session.room.name(), self.session.client);
                        Err(Close::policy(&format!("changes refused: {objection}")).into())
                    }
                }
            }
            Err(failure) => Err(failure.close("guard").into()),
        }
    }

    /// What the client is told of it, if anything.
    fn on_outcome(&mut self, outcome: Outcome) -> Result<Option<StartStreaming>, End> {
        match outcome {
            Outcome::Applied(applied) => Ok(self.on_applied(applied)),
            Outcome::Gap(position) => Ok(self.on_gap(position)),
            Outcome::Failed(error) => {
                if error.is_refusal() {
                    self.session.refusals.refuse(self.session.room.name(), self.session.client);
                }
                Err(refused(&error))
            }
        }
    }

    fn on_applied(&mut self, applied: Applied) -> Option<StartStreaming> {
        self.restart = None;
        self.session.refusals.forgive(self.session.room.name(), self.session.client);
        if applied.partial_rows && !self.retelling {
            // The client's engine changed a primary key: it sends the new row's key, but not the columns that it takes for known.
            tracing::info!("rows came without all their columns, asking the client for everything once");
            self.retelling = true;
            return Some(start_streaming(Position::START, NOBODY));
        }
        if self.retelling && applied.since == Position::START {
            self.retelling = false;
            return Some(start_streaming(applied.position, self.session.room.site()));
        }
        None
    }

    /// The changeset doesn't continue what the room has. Clients can't handle a rejection; a second StartStreaming makes them send
    /// again from there. Others that were under way meanwhile have the same gap.
    fn on_gap(&mut self, position: Position) -> Option<StartStreaming> {
        let now = Instant::now();
        let delay = match &self.restart {
            None => RESTART_DELAYS.0,
            Some(restart) if now >= restart.told + restart.delay => {
                restart.delay.saturating_mul(2).min(RESTART_DELAYS.1)
            }
            Some(_) => return None,
        };
        tracing::info!(position = position.db_version, "changes don't continue what is here, asking for them again");
        self.restart = Some(Restart { told: now, delay });
        Some(start_streaming(position, self.session.room.site()))
    }
}

fn start_streaming(since: Position, exclude: SiteId) -> StartStreaming {
    StartStreaming { since, exclude_sites: vec![exclude], local_only: false }
}

/// The next message of the protocol, not decoded yet. Cancel-safe.
pub(super) async fn receive<S>(stream: &mut S, config: &SyncConfig, liveness: &Liveness) -> Result<WsMessage, End>
where
    S: Stream<Item = Result<WsMessage, WsError>> + Unpin,
{
    loop {
        match stream.next().await {
            // The answer to a ping is sent by the socket itself.
            Some(Ok(WsMessage::Ping(payload) | WsMessage::Pong(payload))) => liveness.control_frame(payload.len()),
            Some(Ok(WsMessage::Close(frame))) => return Err(left(frame.as_ref())),
            None => return Err(End::Gone),
            Some(Ok(message)) => return Ok(message),
            Some(Err(error)) => return Err(socket_error(&error, config, liveness)),
        }
    }
}

/// Waits until a client that was asked for what it has need not be waited for; for ever if there is none.
async fn over(upload: Option<&Upload>, liveness: &Liveness) {
    match upload {
        Some(upload) => Box::pin(upload.over(liveness)).await,
        None => std::future::pending().await,
    }
}

/// The end that a client's close brings.
pub(super) fn left(frame: Option<&CloseFrame>) -> End {
    End::Left(frame.map(|frame| frame.code.into()))
}

/// What a failing socket means.
pub(super) fn socket_error(error: &WsError, config: &SyncConfig, liveness: &Liveness) -> End {
    tracing::debug!(%error, "socket failed");
    match error {
        WsError::Io(_) => match liveness.refusal() {
            Some(Refusal::Unannounced) => Close::too_big_before_announce().into(),
            Some(Refusal::Exhausted) => Close::try_again("too many uploads at a time (uploads_bytes)").into(),
            None => End::Gone,
        },
        WsError::Capacity(_) => {
            let limit = config.max_message_bytes();
            Close::too_big(&format!("a message may have {limit} bytes (max_message_bytes)")).into()
        }
        WsError::Utf8(_) => Close::malformed("text frames are UTF-8").into(),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        WsError::Protocol(_) => Close::protocol("broken WebSocket framing").into(),
        _ => End::Gone,
    }
}

fn refused(error: &Error) -> End {
    tracing::warn!(%error, "changes not applied");
    End::Close(error.close())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_changesets_may_be_under_way_by_the_hundred_and_large_ones_may_not() {
        for (bytes, most) in [(0, MAX_SMALL_IN_FLIGHT), (100, MAX_SMALL_IN_FLIGHT), (SMALL_BYTES, MAX_IN_FLIGHT)] {
            let mut outcomes = Outcomes::default();
            let mut replies = Vec::new();
            while !outcomes.are_many() {
                replies.push(outcomes.reply());
                outcomes.expect(bytes);
            }
            assert_eq!(replies.len(), most, "{bytes} bytes each");
            for reply in replies {
                reply.send(Outcome::Gap(Position::START)).unwrap();
                assert!(outcomes.next().await.is_some());
                assert!(!outcomes.are_many());
            }
            assert!(outcomes.way.is_none() && outcomes.in_flight.capacity() == 0, "nothing is kept");
        }
    }

    #[test]
    fn a_large_changeset_among_small_ones_makes_them_wait() {
        let mut outcomes = Outcomes::default();
        (0..MAX_IN_FLIGHT).for_each(|_| outcomes.expect(1));
        assert!(!outcomes.are_many());
        outcomes.expect(SMALL_BYTES);
        assert!(outcomes.are_many());
    }
}
