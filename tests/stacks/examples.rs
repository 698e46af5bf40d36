//! The examples run, and do what the README says of them.

use crate::fixture::{ClientOptions, SCHEMA};
use crate::process::Example;
use crate::session::{page, syncs};

#[tokio::test]
async fn axum_serves_its_page_and_its_rooms() {
    let example = Example::start("axum", SCHEMA).await;
    assert_eq!(page(example.address, "/").await, (200, "hello".into()));
    syncs(example.address, ClientOptions::default()).await;
}

#[cfg(unix)]
#[tokio::test]
async fn axum_leaves_nothing_in_the_log_of_a_room_when_it_is_interrupted() {
    let mut example = Example::start("axum", SCHEMA).await;
    syncs(example.address, ClientOptions::default()).await;
    let rooms = example.folder().join("dbs");
    assert!(rooms.join("r-wal").exists());
    assert!(example.interrupt().await.success());
    assert!(rooms.join("r").exists() && !rooms.join("r-wal").exists());
}
