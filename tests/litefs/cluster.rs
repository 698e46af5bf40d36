//! Three nodes and what connects them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use crate::fixture::until;
use crate::link::Link;
use crate::node::Node;
use crate::person::Person;
use crate::replication::Copies;

/// Everything that clients write goes into this table.
pub(crate) const ROWS: &str = "SELECT a, b FROM foo ORDER BY a";

pub(crate) const A: usize = 0;
pub(crate) const B: usize = 1;
pub(crate) const C: usize = 2;

const IDS: [&str; 3] = ["node-a", "node-b", "node-c"];
const SECRET: &str = "known to the nodes and nobody else";

/// The cluster. Node A begins as the primary.
pub(crate) struct Cluster {
    litefs: Arc<Mutex<LiteFs>>,
    /// From each node to each.
    links: Vec<Vec<Link>>,
    replication: Option<JoinHandle<()>>,
}

/// LiteFS on all nodes. Its lock is held while a transaction is copied: a role never changes in the middle of one.
struct LiteFs {
    nodes: Vec<Node>,
    copies: Vec<Copies>,
    /// Whether a node gets what the primary commits.
    connected: [bool; 3],
    primary: Option<usize>,
    commits: u64,
    over: bool,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::with_secrets([SECRET; 3]).await
    }

    /// A cluster in which node C has another secret.
    pub(crate) async fn with_a_stranger() -> Self {
        Self::with_secrets([SECRET, SECRET, "of another cluster altogether"]).await
    }

    async fn with_secrets(secrets: [&'static str; 3]) -> Self {
        let nodes: Vec<Node> = IDS.into_iter().zip(secrets).map(|(id, secret)| Node::new(id, secret)).collect();
        let mut links = Vec::new();
        for _from in &nodes {
            let mut ways = Vec::new();
            for _to in &nodes {
                ways.push(Link::new().await);
            }
            links.push(ways);
        }
        let litefs = LiteFs {
            copies: nodes.iter().map(|_| Copies::default()).collect(),
            nodes,
            connected: [true; 3],
            primary: None,
            commits: 0,
            over: false,
        };
        let mut cluster = Self { litefs: Arc::new(Mutex::new(litefs)), links, replication: None };
        cluster.promote(A);
        for node in [A, B, C] {
            cluster.start_server(node).await;
        }
        let litefs = cluster.litefs.clone();
        cluster.replication = Some(std::thread::spawn(move || {
            while litefs.lock().unwrap().replicate() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }));
        cluster
    }

    /// A client of room `r` at a node, which may write.
    pub(crate) fn person(&self, n: u8, node: usize) -> Person {
        self.person_in("r", n, node)
    }

    /// A client of another room.
    pub(crate) fn person_in(&self, room: &'static str, n: u8, node: usize) -> Person {
        Person::start(n, room, self.locked().nodes[node].address(), true)
    }

    /// A client that may only read.
    pub(crate) fn reader(&self, n: u8, node: usize) -> Person {
        Person::start(n, "r", self.locked().nodes[node].address(), false)
    }

    /// The way from one node to another.
    pub(crate) fn link(&self, from: usize, to: usize) -> &Link {
        &self.links[from][to]
    }

    /// Starts the server of a node; LiteFS is there before it.
    pub(crate) async fn start_server(&self, node: usize) {
        let others: Vec<(&str, SocketAddr)> =
            IDS.into_iter().zip(&self.links[node]).map(|(id, link)| (id, link.address)).collect();
        let launch = self.locked().nodes[node].launch(&others);
        // It takes a moment, during which LiteFS goes on.
        let server = launch.start().await;
        self.links.iter().for_each(|ways| ways[node].lead_to(server.forwards));
        self.locked().nodes[node].install(server);
    }

    /// Kills a server. If it was the primary's, there is none any more.
    pub(crate) fn kill(&self, node: usize) {
        let mut litefs = self.locked();
        litefs.nodes[node].kill();
        if litefs.primary == Some(node) {
            litefs.dismiss();
        }
    }

    /// Ends a server as an operator does. Returns how long that took.
    pub(crate) async fn terminate(&self, node: usize) -> Duration {
        let server = self.locked().nodes[node].dismiss_server();
        let took = server.terminate().await;
        let mut litefs = self.locked();
        if litefs.primary == Some(node) {
            litefs.replicate();
            litefs.dismiss();
        }
        took
    }

    /// Takes the lease from the primary: none of the nodes may write, and none knows of a primary.
    pub(crate) fn dismiss(&self) {
        self.locked().dismiss();
    }

    /// Makes a node the primary, and the others its replicas.
    pub(crate) fn promote(&self, node: usize) {
        self.locked().promote(node);
    }

    /// The same while all live: LiteFS hands the lease over.
    pub(crate) fn demote_to(&self, node: usize) {
        self.locked().promote(node);
    }

    /// Where clients find a node.
    pub(crate) fn address(&self, node: usize) -> watch::Receiver<Option<SocketAddr>> {
        self.locked().nodes[node].address()
    }

    /// Lets a node get what the primary commits, or not.
    pub(crate) fn connect(&self, node: usize, connected: bool) {
        self.locked().connected[node] = connected;
    }

    /// What the server of a node has logged.
    pub(crate) fn log(&self, node: usize) -> String {
        self.locked().nodes[node].log()
    }

    /// Where a node's server takes what others forward.
    pub(crate) fn forwards(&self, node: usize) -> SocketAddr {
        self.locked().nodes[node].forwards().unwrap()
    }

    /// The rows of a room at a node.
    pub(crate) fn rows(&self, node: usize, room: &str) -> Option<Vec<(i64, String)>> {
        self.locked().copies[node].rows(room, ROWS)
    }

    /// Waits until a node has so many rows of room `r`.
    pub(crate) async fn has(&self, node: usize, count: usize) {
        until(&format!("node {node} to have {count} rows"), async || {
            self.rows(node, "r").is_some_and(|rows| rows.len() == count)
        })
        .await;
    }

    /// Waits until all nodes and all these people, who are of one room, have the same rows: those that they wrote themselves.
    pub(crate) async fn agree(&self, people: &[&Person]) {
        let room = people[0].room;
        let mut written: Vec<(i64, String)> = people.iter().flat_map(|person| person.written()).collect();
        written.sort();
        let mut missing = String::new();
        let agree = async {
            loop {
                missing.clear();
                for node in [A, B, C] {
                    missing += &difference(IDS[node], self.rows(node, room).unwrap_or_default(), &written);
                }
                for person in people {
                    missing += &difference(&format!("client {}", person.n), person.rows().await, &written);
                }
                if missing.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), agree).await.is_ok();
        assert!(in_time, "they don't come to agree:\n{missing}");
    }

    fn locked(&self) -> MutexGuard<'_, LiteFs> {
        self.litefs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.locked().over = true;
        let ended = self.replication.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

impl LiteFs {
    /// One turn of replication. False when the test is over.
    fn replicate(&mut self) -> bool {
        if let Some(primary) = self.primary {
            self.copies[primary].capture(&self.nodes[primary], &mut self.commits);
            let original = std::mem::take(&mut self.copies[primary]);
            for replica in [A, B, C] {
                if replica != primary && self.connected[replica] {
                    self.copies[replica].follow(&self.nodes[replica], &original);
                }
            }
            self.copies[primary] = original;
        }
        !self.over
    }

    fn dismiss(&mut self) {
        self.primary = None;
        for node in &self.nodes {
            node.set_read_only(true);
            node.set_primary(None);
        }
    }

    fn promote(&mut self, primary: usize) {
        self.primary = Some(primary);
        for (at, node) in self.nodes.iter().enumerate() {
            if at != primary {
                node.set_read_only(true);
                node.set_primary(Some(IDS[primary]));
            }
        }
        self.nodes[primary].set_primary(None);
        self.nodes[primary].set_read_only(false);
    }
}

/// What of `written` isn't in `rows`, and the other way round.
fn difference(whose: &str, rows: Vec<(i64, String)>, written: &[(i64, String)]) -> String {
    if rows == written {
        return String::new();
    }
    let lost: Vec<_> = written.iter().filter(|row| rows.binary_search(row).is_err()).take(5).collect();
    let other: Vec<_> = rows.iter().filter(|row| written.binary_search(row).is_err()).take(5).collect();
    format!("{whose} has {} of {} rows; lacks {lost:?}, has otherwise {other:?}\n", rows.len(), written.len())
}
