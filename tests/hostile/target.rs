//! The server that is attacked, and those who use it meanwhile.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use tower_sqlite_sync_wire::{Change, Value};

use crate::fixture::{Client, ClientOptions, SCHEMA, cell, cells, until};
use crate::process::Example;

/// How long a change may take from one client to another during an attack. It takes milliseconds; this is for a busy machine.
const PROMPTLY: Duration = Duration::from_secs(15);

/// The example server, with a pair of clients that sync.
pub(crate) struct Target {
    server: Example,
    author: Client,
    reader: Client,
    written: i64,
}

impl Target {
    /// Starts a server with these settings, besides those that let a thousand connections come from here.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        // A socket at each end, and some files.
        rlimit::increase_nofile_limit(16_384).unwrap();
        let given = settings.iter().map(|(name, value)| (format!("TOWER_SQLITE_SYNC_{name}"), *value));
        let server = Example::launch("server", SCHEMA, |command| {
            command
                .args(["--listen", "127.0.0.1:0"])
                .env("RUST_LOG", "error")
                // glibc keeps what was freed for as long as something behind it is in use. What is measured here is what the server
                // holds.
                .env("MALLOC_ARENA_MAX", "2")
                .env("MALLOC_MMAP_THRESHOLD_", "32768")
                .env("MALLOC_TRIM_THRESHOLD_", "32768")
                .env("TOWER_SQLITE_SYNC_MAX_ADDRESS_CONNECTIONS", "5000")
                .env("TOWER_SQLITE_SYNC_ADDRESS_REFUSALS", "1000000")
                .envs(given)
        })
        .await;
        let mut author = Client::connect_with(server.address, "good", 1, ClientOptions::default()).await;
        let mut reader = Client::connect_with(server.address, "good", 2, ClientOptions::default()).await;
        author.enter().await;
        reader.enter().await;
        Self { server, author, reader, written: 0 }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// What the author writes reaches the reader, and soon. If it is not waited for, the next call waits for that too.
    pub(crate) async fn works(&mut self) {
        let start = Instant::now();
        let written = self.written + 1;
        let value = format!("{written}");
        let change = Change { col_version: written, ..cell(1, "b", Value::Text(&value), written) };
        self.author.push(self.written, &[change]).await;
        self.written = written;
        let wanted = format!("1.b='{value}'");
        while !cells(&self.reader.changes().await).contains(&wanted) {}
        let took = start.elapsed();
        assert!(took < PROMPTLY, "a change took {took:?}");
    }

    /// Those in the room `good` go on, its file is sound, and the server has found no fault with itself.
    pub(crate) async fn is_well(&mut self) {
        self.works().await;
        let check: String = self.file("good").query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        let log = std::fs::read_to_string(self.server.folder().join("log")).unwrap();
        assert_eq!(log, "", "no error, and no panic");
    }

    /// A room's file.
    pub(crate) fn file(&self, room: &str) -> Connection {
        let file = self.folder().join("dbs").join(room);
        Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
    }

    /// The folder in which the server runs.
    pub(crate) fn folder(&self) -> &Path {
        self.server.folder()
    }

    /// What the server holds, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Waits until the server holds no more than that again, in KiB.
    pub(crate) async fn gives_back(&mut self, resident: u64) {
        until(&format!("{} KiB to become {resident}", self.resident()), async || self.resident() <= resident).await;
    }
}

/// Fills a room with so many rows of 100 kB.
pub(crate) async fn fill(address: SocketAddr, room: &str, rows: u8) {
    let mut author = Client::connect_with(address, room, 3, ClientOptions::default()).await;
    author.enter().await;
    let text = "x".repeat(100_000);
    for row in 1..=rows {
        author.push(i64::from(row) - 1, &[cell(row, "b", Value::Text(&text), row.into())]).await;
    }
    // It has all been read once the close is answered.
    author.close().await;
}
