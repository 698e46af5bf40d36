//! The floor: a server of nothing but tokio-tungstenite. It passes the messages of a room on to the room's other connections, as
//! they are, and keeps them for those that come later. What it takes for a scenario is what sockets take on this machine.
//!
//! It knows enough of the protocol to be spoken to: it answers the announce, and goes on where a client says that it is.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};
use tower_sqlite_sync_wire::{AnnouncePresence, Message, Position, SiteId, StartStreaming};

use crate::fault::Fault;
use crate::skim::Skimmed;

/// As small as the buffers of the server that it is compared with.
const READ_BUFFER: usize = 4 << 10;
const WRITE_BUFFER: usize = 16 << 10;

/// Connections that may wait to be accepted. A client whose first packet is dropped comes again after a second.
const BACKLOG: u32 = 4_096;

/// Messages that are taken from a room at a time.
const BATCH: usize = 64;

/// The site that the floor is. Messages go on under the names of their writers.
const NOBODY: SiteId = SiteId::from_bytes([0xff; 16]);

const PROTOCOL: &str = "sec-websocket-protocol";

#[derive(Debug, Default)]
struct Floor {
    rooms: Mutex<HashMap<String, Arc<Room>>>,
    connections: AtomicUsize,
    messages: AtomicUsize,
    /// The message that is lost, counted from 1.
    lose: Option<usize>,
}

#[derive(Debug)]
struct Room {
    log: Mutex<Log>,
    length: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Log {
    entries: Vec<Entry>,
    /// How far each site has got: a message of the generator is one db_version.
    sites: HashMap<SiteId, i64>,
}

/// A message, and the connection that it came from.
#[derive(Debug, Clone)]
struct Entry {
    from: usize,
    message: Bytes,
}

/// Serves until the process ends. `lose` is the number of a message that is lost, to see whether it is missed.
pub(crate) async fn serve(listen: SocketAddr, lose: Option<usize>) -> Result<(), Fault> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(listen)?;
    let listener = socket.listen(BACKLOG)?;
    println!("listening on http://{}", listener.local_addr()?);
    let floor = Arc::new(Floor { lose, ..Floor::default() });
    loop {
        let (stream, _) = listener.accept().await?;
        let floor = floor.clone();
        tokio::spawn(async move {
            // A client that goes is no news.
            drop(floor.connection(stream).await);
        });
    }
}

impl Floor {
    async fn connection(&self, stream: TcpStream) -> Result<(), WsError> {
        stream.set_nodelay(true)?;
        let mut room = String::new();
        let mut socket = accept(stream, &mut room).await?;
        let Some(presence) = announced(&mut socket).await? else { return Ok(()) };
        let room = self.room(&room);
        let me = self.connections.fetch_add(1, Ordering::Relaxed);
        let since = Position::at(room.position(presence.sender));
        let start = StartStreaming { since, exclude_sites: vec![NOBODY], local_only: false };
        socket.send(WsMessage::Binary(Message::StartStreaming(start).encode())).await?;
        let mut next = room.place(&presence);
        let mut length = room.length.subscribe();
        loop {
            length.mark_unchanged();
            loop {
                let batch = room.from(next);
                if batch.is_empty() {
                    break;
                }
                next = next.saturating_add(batch.len());
                for entry in batch.into_iter().filter(|entry| entry.from != me) {
                    socket.feed(WsMessage::Binary(entry.message)).await?;
                }
            }
            socket.flush().await?;
            tokio::select! {
                message = socket.next() => match message.transpose()? {
                    Some(WsMessage::Binary(message)) => self.append(&room, Entry { from: me, message }),
                    Some(WsMessage::Close(_)) | None => return Ok(()),
                    Some(_) => {}
                },
                _ = length.changed() => {}
            }
        }
    }

    fn room(&self, name: &str) -> Arc<Room> {
        let mut rooms = locked(&self.rooms);
        let new = || Arc::new(Room { log: Mutex::default(), length: watch::Sender::new(0) });
        rooms.entry(name.to_owned()).or_insert_with(new).clone()
    }

    fn append(&self, room: &Room, entry: Entry) {
        let number = self.messages.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut log = locked(&room.log);
        if let Some((sender, since)) = head(&entry.message) {
            log.sites.insert(sender, since.saturating_add(1));
        }
        if self.lose == Some(number) {
            return;
        }
        log.entries.push(entry);
        let length = log.entries.len();
        drop(log);
        room.length.send_replace(length);
    }
}

impl Room {
    /// Where a client goes on that has seen some of it.
    fn place(&self, presence: &AnnouncePresence) -> usize {
        // Whoever wrote them: there is one writer a room.
        let seen = presence.last_seens.iter().map(|(_, position)| position.db_version).max().unwrap_or_default();
        let known = |entry: &&Entry| head(&entry.message).is_some_and(|(_, since)| since < seen);
        locked(&self.log).entries.iter().take_while(known).count()
    }

    /// How far it has a site's messages.
    fn position(&self, site: SiteId) -> i64 {
        locked(&self.log).sites.get(&site).copied().unwrap_or_default()
    }

    fn from(&self, place: usize) -> Vec<Entry> {
        locked(&self.log).entries.iter().skip(place).take(BATCH).cloned().collect()
    }
}

/// Who sent a message, and what it follows.
fn head(message: &[u8]) -> Option<(SiteId, i64)> {
    Skimmed::read(message).ok().flatten().map(|changes| (changes.sender, changes.since))
}

async fn accept(stream: TcpStream, room: &mut String) -> Result<WebSocketStream<TcpStream>, WsError> {
    #[expect(clippy::result_large_err, reason = "the type that tungstenite wants")]
    let greet = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        if let Some(subprotocol) = request.headers().get(PROTOCOL) {
            let decoded = STANDARD_NO_PAD.decode(subprotocol.as_bytes()).unwrap_or_default();
            *room = String::from_utf8_lossy(&decoded).into_owned();
            response.headers_mut().insert(PROTOCOL, subprotocol.clone());
        }
        Ok(response)
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(None)
        .max_frame_size(None);
    accept_hdr_async_with_config(stream, greet, Some(config)).await
}

async fn announced(socket: &mut WebSocketStream<TcpStream>) -> Result<Option<AnnouncePresence>, WsError> {
    while let Some(message) = socket.next().await.transpose()? {
        if let WsMessage::Binary(message) = message {
            return Ok(match Message::decode(message) {
                Ok(Message::AnnouncePresence(presence)) => Some(presence),
                _ => None,
            });
        }
    }
    Ok(None)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
