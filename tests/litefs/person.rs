//! A client that is there for the whole of a test, and comes back by itself whenever its connection ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::ROWS;
use crate::fixture::{ClientOptions, Replica, until};
use crate::node::WRITER;

/// How soon a client comes back. Real ones take one to three seconds.
const RECONNECT: Duration = Duration::from_millis(100);

type Task = Box<dyn FnOnce(&mut Replica) + Send>;

/// What becomes of a client's connections.
#[derive(Debug, Default)]
struct Story {
    /// How they were ended by the server: code and reason.
    closes: Vec<(u16, String)>,
    /// What it wrote, with the values that are there in the end.
    written: Vec<(i64, String)>,
}

/// See the module's documentation.
pub(crate) struct Person {
    pub(crate) n: u8,
    pub(crate) room: &'static str,
    tasks: mpsc::UnboundedSender<Task>,
    /// Which node it goes to.
    place: watch::Sender<watch::Receiver<Option<SocketAddr>>>,
    story: Arc<Mutex<Story>>,
    _living: AbortOnDropHandle<()>,
}

impl Person {
    /// A client that goes to the server at `address` whenever there is one.
    pub(crate) fn start(n: u8, room: &'static str, address: watch::Receiver<Option<SocketAddr>>, writes: bool) -> Self {
        let (tasks, to_do) = mpsc::unbounded_channel();
        let (place, at) = watch::channel(address);
        let story = Arc::new(Mutex::new(Story::default()));
        let token = writes.then_some(WRITER);
        let living = tokio::spawn(live(Replica::new(n), room, token, at, to_do, story.clone()));
        Self { n, room, tasks, place, story, _living: AbortOnDropHandle::new(living) }
    }

    /// Writes a row that nobody else writes, and says which.
    pub(crate) fn write(&self) -> i64 {
        let mut story = self.story.lock().unwrap();
        let key = i64::from(self.n) * 1_000_000 + i64::try_from(story.written.len()).unwrap();
        let value = format!("by {}", self.n);
        story.written.push((key, value.clone()));
        self.run(move |replica| {
            replica.conn.execute("INSERT INTO foo VALUES (?1, ?2)", (key, value)).unwrap();
        });
        key
    }

    /// Writes so many rows in one transaction.
    pub(crate) fn write_many(&self, count: i64) {
        let mut story = self.story.lock().unwrap();
        let first = i64::from(self.n) * 1_000_000 + i64::try_from(story.written.len()).unwrap();
        story.written.extend((first..first + count).map(|key| (key, "one of many".to_owned())));
        self.run(move |replica| {
            let sql = "WITH RECURSIVE k (k) AS (VALUES (?1) UNION ALL SELECT k + 1 FROM k WHERE k + 1 < ?2)
                INSERT INTO foo SELECT k, 'one of many' FROM k";
            replica.conn.execute(sql, [first, first + count]).unwrap();
        });
    }

    /// Writes another value into a row of its own.
    pub(crate) fn change(&self, key: i64, value: &str) {
        let mut story = self.story.lock().unwrap();
        let row = story.written.iter_mut().find(|(written, _)| *written == key).unwrap();
        value.clone_into(&mut row.1);
        let value = value.to_owned();
        self.run(move |replica| {
            replica.conn.execute("UPDATE foo SET b = ?2 WHERE a = ?1", (key, value)).unwrap();
        });
    }

    /// Goes away, for the time being.
    pub(crate) fn leave(&self) {
        self.go_to(watch::channel(None).1);
    }

    /// Loads the page again: from now on it announces what it has.
    pub(crate) fn reload(&self) {
        self.run(Replica::reload);
    }

    /// Goes to another node.
    pub(crate) fn go_to(&self, address: watch::Receiver<Option<SocketAddr>>) {
        self.place.send_replace(address);
        self.run(Replica::disconnect);
    }

    /// What it has written, as it is in the end.
    pub(crate) fn written(&self) -> Vec<(i64, String)> {
        self.story.lock().unwrap().written.clone()
    }

    /// How the server has ended its connections.
    pub(crate) fn closes(&self) -> Vec<(u16, String)> {
        self.story.lock().unwrap().closes.clone()
    }

    /// Its rows.
    pub(crate) async fn rows(&self) -> Vec<(i64, String)> {
        self.ask(|replica| {
            let mut statement = replica.conn.prepare(ROWS).unwrap();
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            rows.collect::<rusqlite::Result<_>>().unwrap()
        })
        .await
    }

    /// How many changes came to it so far.
    pub(crate) async fn received(&self) -> usize {
        self.ask(|replica| replica.received).await
    }

    /// Whether it is connected and was told where to start.
    pub(crate) async fn is_streaming(&self) -> bool {
        self.ask(|replica| replica.is_streaming()).await
    }

    /// Waits until it is connected and was told where to start.
    pub(crate) async fn streams(&self) {
        until(&format!("client {} to be let in", self.n), async || self.is_streaming().await).await;
    }

    /// Waits until it has so many rows.
    pub(crate) async fn has(&self, count: usize) {
        until(&format!("client {} to have {count} rows", self.n), async || self.rows().await.len() == count).await;
    }

    fn run(&self, task: impl FnOnce(&mut Replica) + Send + 'static) {
        assert!(self.tasks.send(Box::new(task)).is_ok(), "client {} is alive", self.n);
    }

    async fn ask<T: Send + 'static>(&self, task: impl FnOnce(&mut Replica) -> T + Send + 'static) -> T {
        let (send, receive) = oneshot::channel();
        self.run(move |replica| drop(send.send(task(replica))));
        receive.await.unwrap()
    }
}

async fn live(
    mut replica: Replica,
    room: &'static str,
    token: Option<&'static str>,
    place: watch::Receiver<watch::Receiver<Option<SocketAddr>>>,
    mut tasks: mpsc::UnboundedReceiver<Task>,
    story: Arc<Mutex<Story>>,
) {
    let mut next = Instant::now();
    loop {
        let is_connected = replica.is_connected();
        tokio::select! {
            task = tasks.recv() => match task {
                Some(task) => {
                    task(&mut replica);
                    drop(replica.try_push(false).await);
                }
                None => return,
            },
            received = replica.receive_or_end() => match received {
                Ok(message) => drop(replica.try_handle(message, false).await),
                Err(close) => story.lock().unwrap().closes.extend(close),
            },
            () = sleep_until(next), if !is_connected => {
                let address = *place.borrow().borrow();
                if let Some(address) = address {
                    // A server that is being killed may refuse.
                    drop(replica.try_connect(address, room, ClientOptions { token, ..Default::default() }).await);
                }
                next = Instant::now() + RECONNECT;
            }
        }
    }
}
