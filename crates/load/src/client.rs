//! One socket of one site. It sends what was written before, and takes note of what comes.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tower_sqlite_sync_wire::{AnnouncePresence, Message, Position, SiteId};

use crate::address::Address;
use crate::fault::Fault;
use crate::ledger::Notes;
use crate::rows::{SCHEMA_NAME, SCHEMA_VERSION};
use crate::skim::Skimmed;
use crate::websocket::{self, Frames, Received};

/// What is read at once. It is the same memory for all connections of a thread.
const SCRATCH: usize = 256 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// A connected client.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    frames: Frames,
    /// Who it is.
    pub(crate) site: SiteId,
    session: Session,
}

/// What is known of the other side.
#[derive(Debug, Default)]
struct Session {
    server: Option<SiteId>,
    started: Option<Position>,
    pings: Vec<Vec<u8>>,
    messages: usize,
    bytes: usize,
}

/// How far a client has seen a server.
pub(crate) type Seen = (SiteId, i64);

impl Client {
    /// Connects, announces itself, and waits until it is told where to start. Changes that come before go into the notes.
    pub(crate) async fn join(
        address: &Address,
        room: &str,
        site: SiteId,
        seen: Option<Seen>,
        notes: &mut impl Notes,
        patience: Duration,
    ) -> Result<Self, Fault> {
        let joining = async {
            let mut client = Self::connect(address, room, site).await?;
            let announce = Message::AnnouncePresence(AnnouncePresence {
                sender: site,
                last_seens: seen.into_iter().map(|(site, version)| (site, Position::at(version))).collect(),
                schema_name: SCHEMA_NAME.to_owned(),
                schema_version: *SCHEMA_VERSION,
            });
            client.send(&websocket::frame(&announce.encode())).await?;
            while client.session.started.is_none() {
                client.receive(notes).await?;
            }
            Ok(client)
        };
        let late = || Fault::Missing { what: format!("StartStreaming in room {room}"), waited: patience };
        timeout(patience, joining).await.unwrap_or_else(|_| Err(late()))
    }

    async fn connect(address: &Address, room: &str, site: SiteId) -> Result<Self, Fault> {
        let mut stream = TcpStream::connect(address.socket).await?;
        stream.set_nodelay(true)?;
        stream.write_all(websocket::request(&address.host, &address.path, room).as_bytes()).await?;
        let mut client = Self { stream, frames: Frames::default(), site, session: Session::default() };
        let mut head = Vec::new();
        loop {
            poll_fn(|cx| {
                client.poll_bytes(cx, |_, bytes| {
                    head.extend_from_slice(bytes);
                    Ok(())
                })
            })
            .await?;
            if let Some(length) = websocket::response(&head)? {
                let Self { frames, session, .. } = &mut client;
                let rest = head.get(length..).unwrap_or_default();
                // The client speaks first: nothing of the protocol can be here yet.
                frames.take(rest, |received| session.on(received, |_| Ok(())))?;
                return Ok(client);
            }
        }
    }

    /// Sends a frame.
    pub(crate) async fn send(&mut self, frame: &[u8]) -> Result<(), Fault> {
        if let Err(error) = self.stream.write_all(frame).await {
            // The server says why before it closes.
            return Err(self.last_words().await.unwrap_or(Fault::Io(error)));
        }
        Ok(())
    }

    async fn last_words(&mut self) -> Option<Fault> {
        let listening = async {
            loop {
                if let Err(fault @ Fault::Closed { .. }) = self.receive(&mut Nothing).await {
                    return fault;
                }
            }
        };
        timeout(Duration::from_secs(1), listening).await.ok()
    }

    /// Takes what has come, if anything has, without waiting: a client that only writes has to answer pings too.
    pub(crate) async fn look(&mut self) -> Result<(), Fault> {
        while let Poll::Ready(read) = poll_fn(|cx| Poll::Ready(self.poll_receive(cx, &mut Nothing))).await {
            read?;
        }
        self.answer_pings().await
    }

    /// Waits for bytes, and takes note of the messages that they complete.
    pub(crate) async fn receive(&mut self, notes: &mut impl Notes) -> Result<(), Fault> {
        poll_fn(|cx| self.poll_receive(cx, notes)).await?;
        self.answer_pings().await
    }

    /// Receives until nothing is missing. It waits as long as news come, and for `patience` without any.
    pub(crate) async fn collect(&mut self, notes: &mut impl Notes, patience: Duration) -> Result<(), Fault> {
        let mut missing = notes.missing();
        let mut news = Instant::now();
        let mut alarm = pin!(sleep(patience));
        while notes.missing() > 0 {
            let received = tokio::select! {
                biased;
                received = self.receive(notes) => received,
                () = alarm.as_mut() => {
                    if notes.missing() == missing && news.elapsed() >= patience {
                        return Err(Fault::Missing { what: notes.missed(), waited: patience });
                    }
                    alarm.as_mut().reset(Instant::now() + patience);
                    Ok(())
                }
            };
            received?;
            if notes.missing() < missing {
                missing = notes.missing();
                news = Instant::now();
            }
        }
        Ok(())
    }

    /// Where the server said that its stream starts.
    pub(crate) fn started(&self) -> Option<Position> {
        self.session.started
    }

    /// The server's site, once it sent a message of changes.
    pub(crate) fn server(&self) -> Option<SiteId> {
        self.session.server
    }

    /// Messages of changes so far.
    pub(crate) fn messages(&self) -> usize {
        self.session.messages
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.session.bytes
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, notes: &mut impl Notes) -> Poll<Result<(), Fault>> {
        self.poll_bytes(cx, |client, bytes| {
            let Self { frames, session, .. } = client;
            frames.take(bytes, |received| session.on(received, |message| notes.note(message)))
        })
    }

    /// Reads into the memory that the thread's connections share, so that an idle one has none.
    fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&mut Self, &[u8]) -> Result<(), Fault>,
    ) -> Poll<Result<(), Fault>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            match buffer.filled() {
                [] => Poll::Ready(Err(Fault::Dropped)),
                bytes => Poll::Ready(take(self, bytes)),
            }
        })
    }

    async fn answer_pings(&mut self) -> Result<(), Fault> {
        while let Some(payload) = self.session.pings.pop() {
            self.stream.write_all(&websocket::pong(&payload)).await?;
        }
        Ok(())
    }
}

impl Session {
    fn on(
        &mut self,
        received: Received<'_>,
        mut note: impl FnMut(&Skimmed<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let message = match received {
            Received::Message(message) => message,
            Received::Ping(payload) => {
                self.pings.push(payload.to_vec());
                return Ok(());
            }
            Received::Close(code, reason) => return Err(Fault::Closed { code, reason }),
        };
        if let Some(changes) = Skimmed::read(message)? {
            // An empty one only asks whether everything has come.
            if changes.count > 0 {
                self.server = Some(changes.sender);
                self.messages = self.messages.saturating_add(1);
                self.bytes = self.bytes.saturating_add(message.len());
                note(&changes)?;
            }
            return Ok(());
        }
        match Message::decode(message.to_vec().into()) {
            Ok(Message::StartStreaming(start)) if self.started.is_none() => {
                self.started = Some(start.since);
                Ok(())
            }
            Ok(Message::StartStreaming(start)) => {
                Err(Fault::Wrong(format!("the server wants changes again, from {}", start.since.db_version)))
            }
            Ok(other) => Err(Fault::Wrong(format!("the server sent {}", other.name()))),
            Err(error) => Err(Fault::Wrong(format!("a message that can't be decoded: {error}"))),
        }
    }
}

/// The notes of a client that should get nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nothing;

impl Notes for Nothing {
    fn note(&mut self, message: &Skimmed<'_>) -> Result<(), Fault> {
        Err(Fault::Wrong(format!("{} changes for a client that should get none", message.count)))
    }

    fn missing(&self) -> usize {
        0
    }

    fn missed(&self) -> String {
        "nothing".to_owned()
    }
}
