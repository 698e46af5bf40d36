//! A server with a room to hit and another one that must not notice.

use std::sync::Arc;

use tempfile::TempDir;
use tower_sqlite_sync::{Home, RoomName, RoomStore, SyncConfig};
use tower_sqlite_sync_wire::{Change, Position, Value};

use crate::fixture::{Client, Server, cell, cells};
use crate::log;

/// See the module's documentation. The room `r` is hit.
pub(crate) struct Scene {
    pub(crate) server: Server,
    bystander: Client,
    written: u8,
}

/// Rooms in one folder, but for `r`, which may be elsewhere.
#[derive(Debug)]
struct Apart {
    others: TempDir,
    r: std::path::PathBuf,
}

impl RoomStore for Apart {
    fn home(&self, room: &RoomName) -> Home {
        let name = room.as_str();
        Home::file(if name.starts_with('r') { self.r.join(name) } else { self.others.path().join(name) })
    }
}

impl Scene {
    /// A scene with all rooms in one folder.
    pub(crate) async fn new(change: impl FnOnce(SyncConfig) -> SyncConfig) -> Self {
        log::keep();
        let server = Server::with(change).await;
        Self::of(server).await
    }

    /// A scene with rooms whose names begin with `r` in a folder of their own.
    pub(crate) async fn apart(folder: &std::path::Path, change: impl FnOnce(SyncConfig) -> SyncConfig) -> Self {
        log::keep();
        let store = Apart { others: tempfile::tempdir().unwrap(), r: folder.to_owned() };
        let (schemas, _) = crate::fixture::folder();
        let server = Server::with_store(Arc::new(schemas), change, store).await;
        Self::of(server).await
    }

    async fn of(server: Server) -> Self {
        let bystander = Client::join(&server, "other", 100).await;
        Self { server, bystander, written: 0 }
    }

    /// Connects and announces itself; what the server says comes next.
    pub(crate) async fn announce(&self, room: &str, n: u8) -> Client {
        let mut client = Client::connect(&self.server, room, n).await;
        client.announce(&[]).await;
        client
    }

    /// Site `n` is closed with this code and reason, and the other room goes on.
    pub(crate) async fn refuses(&mut self, room: &str, n: u8, code: u16, said: &str) {
        let mut client = self.announce(room, n).await;
        self.closes(&mut client, code, said).await;
    }

    /// A client is closed with this code and reason, and the other room goes on.
    pub(crate) async fn closes(&mut self, client: &mut Client, code: u16, said: &str) {
        let (found, reason) = client.closed().await;
        assert_eq!(found, code, "{reason}");
        assert!(reason.contains(said), "{reason:?} should say {said:?}");
        assert!(!reason.contains('/'), "{reason} names a path");
        self.goes_on().await;
    }

    /// The other room does.
    pub(crate) async fn goes_on(&mut self) {
        self.written += 1;
        self.server.write("other", &format!("INSERT INTO foo (a, b) VALUES ({}, 'x')", self.written)).await;
        assert_eq!(cells(&self.bystander.changes().await), [format!("{}.b='x'", self.written)]);
    }

    /// Site `n` connects and is told that the room has its changes up to `since`.
    pub(crate) async fn joins_at(&self, room: &str, n: u8, since: i64) -> Client {
        let mut client = match since {
            0 => self.announce(room, n).await,
            _ => Client::back(&self.server, room, n).await,
        };
        let start = client.start_streaming().await;
        assert_eq!(start.since, Position::at(since));
        client.server = start.exclude_sites[0];
        client
    }
}

/// Row `k` with this text, as the client's transaction `version`.
pub(crate) fn row(k: u8, text: &str, version: i64) -> Change<'_> {
    cell(k, "b", Value::Text(text), version)
}
