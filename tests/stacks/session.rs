//! What every stack must be good for.

use std::net::SocketAddr;

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_sqlite_sync::SyncConfig;
use tower_sqlite_sync_wire::Value;

use crate::fixture::{Client, ClientOptions, cell, cells, folder, soon};

/// Settings for rooms in memory, of the usual schema, which is in the folder.
pub(crate) fn memory() -> (TempDir, SyncConfig) {
    let (folder, config) = folder();
    (folder, config.with_memory(true))
}

/// Two clients enter a room, and what one of them writes reaches the other.
pub(crate) async fn syncs(address: SocketAddr, options: ClientOptions) {
    let mut author = Client::connect_with(address, "r", 1, options).await;
    let mut reader = Client::connect_with(address, "r", 2, options).await;
    sync(&mut author, &mut reader).await;
}

/// What `author` writes reaches `reader`; neither has announced itself.
pub(crate) async fn sync<A, B>(author: &mut Client<A>, reader: &mut Client<B>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    author.enter().await;
    reader.enter().await;
    author.push(0, &[cell(1, "b", Value::Text("hello"), 1)]).await;
    assert_eq!(cells(&reader.changes().await), ["1.b='hello'"]);
}

/// What is served at a path: the status and the body.
pub(crate) async fn page(address: SocketAddr, path: &str) -> (u16, String) {
    let (head, body) = exchange(address, &format!("GET {path} HTTP/1.1\r\n")).await;
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

/// Head and body of the response to a request that starts with these lines.
pub(crate) async fn exchange(address: SocketAddr, lines: &str) -> (String, String) {
    exchange_with(address, lines, "").await
}

/// As [`exchange`], with a body whose length the lines tell.
pub(crate) async fn exchange_with(address: SocketAddr, lines: &str, body: &str) -> (String, String) {
    let mut response = Vec::new();
    let exchange = async {
        let mut io = TcpStream::connect(address).await.unwrap();
        let request = format!("{lines}Host: localhost\r\nConnection: close\r\n\r\n{body}");
        io.write_all(request.as_bytes()).await.unwrap();
        io.read_to_end(&mut response).await.unwrap();
    };
    soon("the response", exchange).await;
    let response = String::from_utf8_lossy(&response);
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}
