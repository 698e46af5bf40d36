//! Who isn't of the cluster, or can't do what is asked of it.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_sqlite_sync::{LiteFs, LiteFsConfig, LiteFsSecret, SyncConfig, SyncLayer};

use crate::cluster::{A, B, C, Cluster};
use crate::fixture::{Random, soon, until};
use crate::node::QUEUE_WAIT;

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_node_with_another_secret_are_told_to_come_later_and_its_operator_why() {
    let cluster = Cluster::with_a_stranger().await;
    let (at_a, at_b, at_c) = (cluster.person(1, A), cluster.person(2, B), cluster.person(3, C));
    at_a.write();
    at_b.write();
    at_c.write();
    at_a.has(2).await;
    at_b.has(2).await;
    let begun = Instant::now();
    until("a close", async || !at_c.closes().is_empty()).await;
    let closes = at_c.closes();
    assert_eq!(
        closes[0],
        (1013, "the room's primary can't be reached, or the copy here is late: try again later".to_owned())
    );
    assert!(begun.elapsed() < Duration::from_secs(30), "{QUEUE_WAIT:?} is the limit that was set");
    assert!(cluster.log(C).contains("does it have the same secret?"));
    assert!(cluster.log(A).contains("the other end has another secret"));
    at_c.go_to(cluster.address(B));
    cluster.agree(&[&at_a, &at_b, &at_c]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_for_other_nodes_disturbs_nobody() {
    let cluster = Cluster::start().await;
    let (at_a, at_b) = (cluster.person(1, A), cluster.person(2, B));
    at_a.write();
    cluster.agree(&[&at_a, &at_b]).await;
    let mut random = Random::new(7);
    let mut idle = Vec::new();
    for length in [0, 1, 41, 73, 5_000] {
        let mut stream = TcpStream::connect(cluster.forwards(A)).await.unwrap();
        // It may hang up before it has read all.
        drop(stream.write_all(&random.bytes(length)).await);
        let mut answer = Vec::new();
        if length > 41 {
            drop(soon("the node to hang up", stream.read_to_end(&mut answer)).await);
            assert!(answer.is_empty(), "a stranger is told nothing");
        } else {
            idle.push(stream);
        }
        at_b.write();
    }
    cluster.agree(&[&at_a, &at_b]).await;
    assert!(cluster.log(A).contains("a connection to the port of the LiteFS nodes is refused"));
}

#[tokio::test]
async fn a_node_needs_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    assert!(LiteFs::start(folder.path(), LiteFsConfig::default()).await.is_err());
}

#[tokio::test]
async fn a_layer_that_is_not_on_litefs_runs_nothing_for_it() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let folder = tempfile::tempdir().unwrap();
    let config = SyncConfig::default().with_db_folder(folder.path());
    let before = tasks();
    let layer = SyncLayer::new(config.clone());
    assert_eq!(tasks(), before);
    let secret = LiteFsSecret::new("known to the nodes and nobody else").unwrap();
    let litefs = LiteFs::start(folder.path(), LiteFsConfig::default().with_secret(secret)).await.unwrap();
    assert!(tasks() > before, "those that look at what LiteFS says begin with LiteFs");
    drop(layer);
    drop(litefs);
}
