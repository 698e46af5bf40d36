//! Nodes of a cluster on LiteFS, which the tests play: they copy what the primary commits to the others, with the files by which LiteFS tells
//! who is the primary and how far a copy has come.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::Backup;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tower_sqlite_sync::{LiteFs, LiteFsConfig, LiteFsSecret};
use tower_sqlite_sync_wire::{SiteId, Value};

use crate::fixture::{Client, ClientOptions, SCHEMA, Server, cell, cells, last_version, until};

const ROWS: &str = "SELECT a, b FROM foo ORDER BY a";

struct Node {
    folder: Arc<TempDir>,
    server: Server,
}

impl Node {
    fn dbs(&self) -> std::path::PathBuf {
        self.folder.path().join("dbs")
    }

    /// Makes it a replica of the node with this id, or the primary.
    fn follow(&self, primary: Option<&str>) {
        let file = self.dbs().join(".primary");
        match primary {
            Some(id) => {
                std::fs::write(self.dbs().join("new"), format!("{id}\n")).unwrap();
                std::fs::rename(self.dbs().join("new"), file).unwrap();
            }
            None => std::fs::remove_file(file).unwrap(),
        }
    }
}

/// Two nodes; `a` begins as the primary.
struct Cluster {
    a: Node,
    b: Node,
    replication: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

async fn cluster() -> Cluster {
    let listeners = [
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    let [at_a, at_b] = [0, 1].map(|n| listeners[n].local_addr().unwrap());
    let secret = LiteFsSecret::new("the secret of both nodes").unwrap();
    let config = LiteFsConfig::default().with_secret(secret).with_address("a", at_a).with_address("b", at_b);
    let mut nodes = Vec::new();
    for (listener, primary) in listeners.into_iter().zip([None, Some("a")]) {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.path().join("schemas")).unwrap();
        std::fs::write(folder.path().join("schemas/main.sql"), SCHEMA).unwrap();
        std::fs::create_dir(folder.path().join("dbs")).unwrap();
        if let Some(primary) = primary {
            std::fs::write(folder.path().join("dbs/.primary"), primary).unwrap();
        }
        let litefs = LiteFs::start(folder.path().join("dbs"), config.clone()).await.unwrap();
        let server = Server::with_store(folder.clone(), |config| config, litefs.clone()).await;
        litefs.join_on(server.rooms.clone(), listener);
        nodes.push(Node { folder, server });
    }
    let b = nodes.pop().unwrap();
    let a = nodes.pop().unwrap();
    let mut cluster = Cluster { a, b, replication: None, stop: Arc::default() };
    cluster.replicate(true);
    cluster
}

impl Cluster {
    /// Replicates room `r` from `a` to `b`, or the other way round, until it is stopped.
    fn replicate(&mut self, from_a: bool) {
        self.stop = Arc::default();
        let stop = self.stop.clone();
        let (from, to) = if from_a { (self.a.dbs(), self.b.dbs()) } else { (self.b.dbs(), self.a.dbs()) };
        self.replication = Some(tokio::task::spawn_blocking(move || {
            let mut shipped = None;
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
                ship(&from, &to, &mut shipped);
            }
        }));
    }

    async fn stop_replication(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.replication.take().unwrap().await.unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Copies the room's database if it has changed, and then its position.
fn ship(from: &Path, to: &Path, shipped: &mut Option<(Connection, i64)>) {
    if !from.join("r").exists() {
        return;
    }
    let (source, seen) = shipped.get_or_insert_with(|| {
        let conn = Connection::open(from.join("r")).unwrap();
        conn.busy_timeout(Duration::from_secs(10)).unwrap();
        (conn, -1)
    });
    let version: i64 = source.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap();
    let is_room = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'foo__crsql_clock')";
    if version == *seen || !source.query_row(is_room, [], |row| row.get::<_, bool>(0)).unwrap() {
        return;
    }
    *seen = version;
    let mut target = Connection::open(to.join("r")).unwrap();
    target.busy_timeout(Duration::from_secs(10)).unwrap();
    Backup::new(source, &mut target).unwrap().run_to_completion(10_000, Duration::from_millis(5), None).unwrap();
    for folder in [from, to] {
        let before = std::fs::read_to_string(folder.join("r-pos")).unwrap_or_default();
        let txid = u64::from_str_radix(before.split('/').next().unwrap(), 16).unwrap_or(0) + 1;
        std::fs::write(folder.join("new-pos"), format!("{txid:016x}/0\n")).unwrap();
        std::fs::rename(folder.join("new-pos"), folder.join("r-pos")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_nodes_see_each_others_changes() {
    let cluster = cluster().await;
    let mut at_a = Client::join(&cluster.a.server, "r", 1).await;
    let mut at_b = Client::join(&cluster.b.server, "r", 2).await;
    let mut beside_b = Client::join(&cluster.b.server, "r", 3).await;
    at_b.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    assert_eq!(cells(&at_a.changes().await), ["1.b=1"]);
    assert_eq!(cells(&beside_b.changes().await), ["1.b=1"]);
    at_a.push(0, &[cell(2, "b", Value::Integer(2), 1)]).await;
    assert_eq!(cells(&at_b.changes().await), ["2.b=2"]);
    assert_eq!(cells(&beside_b.changes().await), ["2.b=2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_a_client_of_the_replica_asks_for_is_created_at_the_primary() {
    let cluster = cluster().await;
    let at_b = Client::join(&cluster.b.server, "r", 2).await;
    let at_a = Client::join(&cluster.a.server, "r", 1).await;
    assert_eq!(at_a.server, at_b.server);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_old_primary_had_shown_and_not_replicated_comes_back_from_a_client_of_the_new_one() {
    let mut cluster = cluster().await;
    let mut at_a = Client::join(&cluster.a.server, "r", 1).await;
    let mut reader = Client::join(&cluster.a.server, "r", 2).await;
    let former: SiteId = at_a.server;
    at_a.push(0, &[cell(1, "b", Value::Integer(1), 1)]).await;
    reader.changes().await;
    until("the first row to be replicated", async || {
        let conn = Connection::open(cluster.b.dbs().join("r")).ok();
        conn.and_then(|conn| conn.query_row("SELECT count(*) FROM foo", [], |row| row.get(0)).ok()) == Some(1)
    })
    .await;
    cluster.stop_replication().await;
    at_a.push(1, &[cell(2, "b", Value::Integer(2), 2)]).await;
    let seen = last_version(&reader.changes().await);
    cluster.a.server.rooms.shutdown().await;
    cluster.b.follow(None);

    let writes = async || cluster.b.server.rooms.write("r", |_| Ok(())).await.is_ok();
    until("node b to be the primary", writes).await;

    // The reader has what the new primary lacks, and is asked for it.
    let mut reader = Client::connect_with(cluster.b.server.address, "r", 2, ClientOptions::default()).await;
    reader.announce(&[(former, seen)]).await;
    let start = reader.start_streaming().await;
    assert_ne!(start.exclude_sites, [former], "the room is another site");
    reader.push(0, &[cell(2, "b", Value::Integer(2), 1)]).await;
    cluster.b.server.has("r", ROWS, &["1|1", "2|2"]).await;
}

#[tokio::test]
async fn a_node_needs_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    assert!(LiteFs::start(folder.path(), LiteFsConfig::default()).await.is_err());
}
