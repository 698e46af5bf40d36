//! The examples run, and do what the README says of them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{ClientOptions, SCHEMA, soon};
use crate::http2::Browser;
use crate::process::Example;
use crate::session::{page, sync, syncs};

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

#[tokio::test]
async fn hyper_serves_its_page_and_its_rooms_over_http_1_and_http_2() {
    let example = Example::start("hyper", SCHEMA).await;
    assert_eq!(page(example.address, "/").await, (200, "hello".into()));
    assert_eq!(page(example.address, "/none").await, (404, "there is no such page".into()));
    syncs(example.address, ClientOptions::default()).await;

    let mut browser = Browser::connect(example.address).await;
    assert_eq!(browser.get("/").await.text, "hello");
    let mut author = browser.open("two", 1, ClientOptions::default()).await;
    let mut reader = browser.open("two", 2, ClientOptions::default()).await;
    sync(&mut author, &mut reader).await;
}

#[tokio::test]
async fn hyper_does_not_wait_for_ever_for_a_request() {
    let example = Example::start("hyper", SCHEMA).await;
    let starts = ["", "G", "GET / HTTP/1.1\r\nHost:", "PRI * HT"].map(async |start| {
        let mut io = TcpStream::connect(example.address).await.unwrap();
        io.write_all(start.as_bytes()).await.unwrap();
        let mut response = String::new();
        soon("the end", io.read_to_string(&mut response)).await.unwrap();
        assert!(response.is_empty() || response.starts_with("HTTP/1.1 408"), "{start}: {response}");
    });
    futures_util::future::join_all(starts).await;
}
