//! The example server, which is killed and started again.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::fixture::{Random, SCHEMA, soon, until};

/// See the module's documentation.
pub(crate) struct Process {
    folder: TempDir,
    address: SocketAddr,
    child: Child,
}

impl Process {
    /// The first life, on a free port.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with these in its environment in its first life.
    pub(crate) async fn start_with(environment: &[(&str, &OsStr)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("schemas")).unwrap();
        std::fs::write(folder.path().join("schemas/main.sql"), SCHEMA).unwrap();
        let (child, address) = spawn(folder.path(), "127.0.0.1:0", environment).await;
        Self { folder, address: address.expect("the server says where it listens"), child }
    }

    /// Where it listens, in each of its lives.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file of a room.
    pub(crate) fn file(&self, room: &str) -> PathBuf {
        self.folder.path().join("dbs").join(room)
    }

    /// Lets it live for a while and kills it, sometimes while it is about to end by itself.
    pub(crate) async fn live_and_die(&mut self, random: &mut Random) {
        // Some die before they have opened a room.
        let lifetime = if random.one_in(8) { random.below(40) } else { 50 + random.below(600) };
        tokio::time::sleep(Duration::from_millis(u64::try_from(lifetime).unwrap())).await;
        if random.one_in(6) {
            self.signal("-TERM");
            tokio::time::sleep(Duration::from_millis(u64::try_from(random.below(30)).unwrap())).await;
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The next life.
    pub(crate) async fn restart(&mut self) {
        // Somebody else may have taken the port for a moment: free ones are handed out to whoever asks.
        until("the port to be free", async || {
            let (child, address) = spawn(self.folder.path(), &self.address.to_string(), &[]).await;
            self.child = child;
            address == Some(self.address)
        })
        .await;
    }

    /// Has it end by itself.
    pub(crate) async fn end(&mut self) {
        self.signal("-TERM");
        until("the server to end", async || self.child.try_wait().unwrap().is_some()).await;
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }
}

/// Starts the server; the address is `None` if it ended instead of listening.
async fn spawn(folder: &Path, listen: &str, environment: &[(&str, &OsStr)]) -> (Child, Option<SocketAddr>) {
    // `cargo test` builds the examples too, unless it is told which tests to build.
    let binary = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/server");
    let mut child = Command::new(&binary)
        .args(["--listen", listen])
        .current_dir(folder)
        // Small, so that few changes are many frames, and what is older than a moment is read from the file.
        .env("TOWER_SQLITE_SYNC_MAX_FRAME_BYTES", "2000")
        .env("TOWER_SQLITE_SYNC_FEED_WINDOW_BYTES", "6000")
        .env("TOWER_SQLITE_SYNC_ROOM_IDLE", "0.2")
        .env("RUST_LOG", "warn")
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(File::options().create(true).append(true).open(folder.join("log")).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo build --examples` makes it", binary.display()));
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut lines = lines.map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("listening on http://")?.parse().ok());
        send.send(address).ok();
        // What else it prints must not fill the pipe.
        lines.for_each(drop);
    });
    let address = soon("the server to listen", receive).await.unwrap();
    (child, address)
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(100).collect();
            eprintln!("{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}
