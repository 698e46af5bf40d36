//! The clients: some write at random, one watches.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crr::Crr;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};
use tower_sqlite_sync_wire::Message;

use crate::World;
use crate::fixture::{Client, ClientOptions, Random, Replica};
use crate::remains::rows;

/// The site number of the observer, which is the author of nothing.
pub(crate) const OBSERVER: u8 = 0;

/// How long to wait before trying a server again that is not there.
const RETRY: Duration = Duration::from_millis(5);

/// A client with a database of its own. All that it writes says who wrote it, and when.
pub(crate) struct Writer {
    n: u8,
    replica: Replica,
    world: World,
    random: Random,
    /// How many transactions it has written.
    written: u64,
    /// The server's life that it is connected to.
    life: usize,
}

impl Writer {
    pub(crate) fn new(n: u8, world: World, random: Random) -> Self {
        let replica = Replica::new(n);
        world.ledger.lock().unwrap().introduce(n, replica.site());
        Self { n, replica, world, random, written: 0, life: 0 }
    }

    /// Writes and syncs until there is calm, and then only syncs, until it is told to stop.
    pub(crate) async fn live(mut self) -> Self {
        while !self.world.stop.load(Ordering::Relaxed) {
            if let Err(error) = self.step().await {
                self.world.ledger.lock().unwrap().lost_connection(&error);
                self.replica.disconnect();
                tokio::time::sleep(RETRY).await;
            }
        }
        self
    }

    async fn step(&mut self) -> Result<(), WsError> {
        let calm = self.world.calm.load(Ordering::Relaxed);
        if !self.replica.is_connected() {
            // One that was not loaded again announces where it was at its start, and is shown old changes again.
            if !self.random.one_in(4) {
                self.replica.reload();
            }
            self.life = self.world.life.load(Ordering::Relaxed);
            self.replica.try_connect(self.world.address, self.world.room, ClientOptions::default()).await?;
        }
        let patience = Duration::from_millis(if calm { 20 } else { u64::try_from(self.random.below(12)).unwrap() });
        if let Ok(message) = tokio::time::timeout(patience, self.replica.try_receive()).await {
            let message = message?;
            self.record(&message);
            self.replica.try_handle(message, false).await?;
        }
        if calm {
            self.world.ledger.lock().unwrap().report(self.n, rows(&self.replica.conn));
            return Ok(());
        }
        for _ in 0..self.random.below(3) {
            self.write();
        }
        match self.random.below(60) {
            0 => self.replica.disconnect(),
            _ => self.replica.try_push(false).await?,
        }
        Ok(())
    }

    fn record(&self, message: &Message) {
        let mut ledger = self.world.ledger.lock().unwrap();
        match message {
            Message::Changes(changes) => ledger.shown(self.n, self.life, changes),
            Message::StartStreaming(start) => ledger.told(self.n, start),
            _ => {}
        }
    }

    /// One transaction: its number, and something that only this client writes once, or that all write, or much.
    fn write(&mut self) {
        let Self { n, random, .. } = self;
        self.written += 1;
        let value = format!("{n}:{}", self.written);
        let tx = self.replica.conn.unchecked_transaction().unwrap();
        let put = |key: &str| {
            let sql = "INSERT INTO foo (a, b) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET b = excluded.b";
            tx.execute(sql, [key, &value]).unwrap();
        };
        put(&format!("counter {n}"));
        match random.below(30) {
            0..8 => put(&format!("once {value}")),
            8 => (0..60).for_each(|row| put(&format!("many {n} {row}"))),
            9..13 => {
                tx.execute("DELETE FROM foo WHERE a = ?1", [format!("shared {}", random.below(5))]).unwrap();
            }
            _ => put(&format!("shared {}", random.below(5))),
        }
        tx.commit().unwrap();
        let db_version = Crr::of(&self.replica.conn).unwrap().stored_db_version().unwrap();
        self.world.ledger.lock().unwrap().wrote(self.n, db_version, self.written);
    }
}

/// A client that reads everything from the beginning in each of the server's lives, and so sees whole db_versions.
pub(crate) struct Observer {
    world: World,
}

impl Observer {
    pub(crate) fn new(world: World) -> Self {
        Self { world }
    }

    /// Watches until it is told to stop.
    pub(crate) async fn live(self) {
        while !self.world.stop.load(Ordering::Relaxed) {
            if let Err(error) = self.watch().await {
                self.world.ledger.lock().unwrap().lost_connection(&error);
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn watch(&self) -> Result<(), WsError> {
        let life = self.world.life.load(Ordering::Relaxed);
        let options = ClientOptions::default();
        let mut client = Client::try_connect(self.world.address, self.world.room, OBSERVER, options).await?;
        client.try_send_frame(WsMessage::Binary(client.announcement(&[]).encode())).await?;
        while !self.world.stop.load(Ordering::Relaxed) {
            let Ok(message) = tokio::time::timeout(Duration::from_millis(100), client.try_message()).await else {
                continue;
            };
            if let Message::Changes(changes) = message? {
                self.world.ledger.lock().unwrap().shown(OBSERVER, life, &changes);
            }
        }
        Ok(())
    }
}
