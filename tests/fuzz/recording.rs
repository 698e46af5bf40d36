//! What a real client sends, written down on its way.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tower_sqlite_sync_wire::{SiteId, Value};

use crate::fixture::{Client, ClientOptions, Random, Replica, cell, soon};
use crate::frame::Frame;

/// The sessions of one site, and whose they are.
#[derive(Debug)]
pub(crate) struct Recording {
    sessions: Vec<Vec<Frame>>,
    site: SiteId,
    /// The room's site.
    pub(crate) server: SiteId,
}

impl Recording {
    /// Has a client with a database use a room, twice: the second time it says what it has seen.
    pub(crate) async fn of(server: SocketAddr, room: &str) -> Self {
        let mut other = Client::connect_with(server, room, 77, ClientOptions::default()).await;
        other.enter().await;
        other.push(0, &[cell(100, "b", Value::Text("of another"), 1)]).await;

        let mut replica = Replica::new(78);
        let first = Wiretap::between(server).await;
        write(
            &replica,
            "INSERT INTO foo (a, b) VALUES (1, 'one'), (2, 2), ('three', 3.5), (x'04', x'00ff'), (5, NULL);
             INSERT INTO typed (id, r, i, t, n, x) VALUES (1, 1.5, 2, 'three', 4, x'05'), (-2, 0, -1, '', 1e300, x'');
             INSERT INTO picky (id, v) VALUES (1, 5), (2, 99)",
        );
        replica.connect(first.address, room).await;
        while !replica.is_streaming() || replica.received == 0 {
            let message = replica.receive().await;
            replica.handle(message, false).await;
        }
        for sql in [
            "UPDATE foo SET b = b || '!' WHERE a < 3; DELETE FROM foo WHERE a = 5",
            "INSERT INTO foo (a, b) VALUES (5, 'again'); UPDATE picky SET v = v - 1",
            "UPDATE foo SET a = 6 WHERE a = 1; DELETE FROM typed WHERE id = 1",
            "UPDATE foo SET b = printf('%.*c', 3000, 'x') WHERE a = 2",
        ] {
            write(&replica, sql);
            replica.push(false).await;
        }
        let frames = first.end(&mut replica).await;

        let second = Wiretap::between(server).await;
        replica.reload();
        replica.connect(second.address, room).await;
        while !replica.is_streaming() {
            let message = replica.receive().await;
            replica.handle(message, false).await;
        }
        write(&replica, "INSERT INTO foo (a, b) VALUES (7, 'later')");
        replica.push(false).await;
        let later = second.end(&mut replica).await;
        Self { sessions: vec![frames, later], site: replica.site(), server: other.server }
    }

    /// One of the sessions, as another site had it.
    pub(crate) fn session(&self, random: &mut Random, site: SiteId) -> Vec<Frame> {
        // The second goes on where the first ended, which for other sites is a gap.
        let mut frames = self.sessions[usize::from(random.one_in(4))].clone();
        for frame in &mut frames {
            for at in 0..frame.payload.len().saturating_sub(15) {
                if frame.payload[at..].starts_with(self.site.as_bytes()) {
                    frame.payload[at..at + 16].copy_from_slice(site.as_bytes());
                }
            }
        }
        frames
    }

    /// How many changesets there are in it, at most, with that of the other client.
    pub(crate) fn changesets(&self) -> usize {
        1 + self.sessions.iter().map(Vec::len).sum::<usize>()
    }
}

fn write(replica: &Replica, sql: &str) {
    replica.conn.execute_batch(&format!("BEGIN; {sql}; COMMIT")).unwrap();
}

/// Stands between a client and the server.
struct Wiretap {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Wiretap {
    async fn between(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let hear = heard.clone();
        let task = tokio::spawn(async move {
            let (mut client, mut upstream) = listener.accept().await.unwrap().0.into_split();
            let (mut downstream, mut server) = TcpStream::connect(server).await.unwrap().into_split();
            let there = async {
                let mut buffer = vec![0; 4096];
                while let Ok(len @ 1..) = client.read(&mut buffer).await {
                    hear.lock().unwrap().extend(&buffer[..len]);
                    server.write_all(&buffer[..len]).await.unwrap();
                }
                server.shutdown().await.ok();
            };
            let back = tokio::io::copy(&mut downstream, &mut upstream);
            // The client may be gone before the server has said all.
            drop(tokio::join!(there, back));
        });
        Self { address, heard, task }
    }

    /// Ends the client's session; what it has sent.
    async fn end(self, replica: &mut Replica) -> Vec<Frame> {
        replica.disconnect();
        soon("the client to be gone", self.task).await.unwrap();
        let heard = self.heard.lock().unwrap();
        let head = heard.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
        let frames = Frame::all_in(&heard[head + 4..]);
        assert!(frames.len() > 1, "a session");
        frames
    }
}
