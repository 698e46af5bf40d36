//! One node: a folder that LiteFS would mount, and a server on it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::watch;

use crate::fixture::{SCHEMA, soon, until};

/// The token of clients that may write.
pub(crate) const WRITER: &str = "writer";

/// How long a node has its clients wait for a primary that can't be reached.
pub(crate) const QUEUE_WAIT: Duration = Duration::from_secs(4);

/// A node of the cluster.
pub(crate) struct Node {
    pub(crate) id: &'static str,
    root: TempDir,
    secret: &'static str,
    server: Option<Server>,
    /// Where clients find it; `None` while there is no server.
    address: watch::Sender<Option<SocketAddr>>,
    /// Starts of a server so far.
    starts: usize,
}

/// A running server; it is killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    /// Where it takes what others forward.
    pub(crate) forwards: SocketAddr,
    /// Where it takes clients.
    clients: SocketAddr,
}

/// A server that is about to be started.
pub(crate) struct Launch {
    command: Command,
}

impl Node {
    pub(crate) fn new(id: &'static str, secret: &'static str) -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["mount", "schemas", "new"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("schemas/main.sql"), SCHEMA).unwrap();
        Self { id, root, secret, server: None, address: watch::Sender::new(None), starts: 0 }
    }

    /// What LiteFS mounts.
    pub(crate) fn mount(&self) -> PathBuf {
        self.root.path().join("mount")
    }

    /// Where files are made before they are moved into the mount, whole.
    pub(crate) fn workshop(&self) -> PathBuf {
        self.root.path().join("new")
    }

    /// Has its server's writes fail, or not.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        let mark = self.root.path().join("read-only");
        match read_only {
            true => fs::write(mark, "").unwrap(),
            false => drop(fs::remove_file(mark)),
        }
    }

    /// Writes what LiteFS says of who is the primary.
    pub(crate) fn set_primary(&self, primary: Option<&str>) {
        let file = self.mount().join(".primary");
        match primary {
            Some(id) => {
                let new = self.workshop().join(".primary");
                fs::write(&new, format!("{id}\n")).unwrap();
                fs::rename(new, file).unwrap();
            }
            None => drop(fs::remove_file(file)),
        }
    }

    /// Prepares to start its server, which finds the others at these addresses.
    pub(crate) fn launch(&mut self, others: &[(&str, SocketAddr)]) -> Launch {
        assert!(self.server.is_none());
        let addresses: serde_json::Map<_, _> =
            others.iter().map(|(id, address)| ((*id).to_owned(), address.to_string().into())).collect();
        let settings = serde_json::json!({
            "sync": { "queue_wait": QUEUE_WAIT.as_secs(), "busy_timeout": 5, "room_idle": 2 },
            "litefs": { "addresses": addresses, "reconnect_longest": 0.3, "link_silence": 10 },
        });
        let root = self.root.path();
        fs::write(root.join("settings.json"), settings.to_string()).unwrap();
        self.starts += 1;
        // `cargo test` builds the examples too, unless it is told which tests to build.
        let binary = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/litefs");
        let mut command = Command::new(&binary);
        command
            .args(["--listen", "127.0.0.1:0", "--forwards", "127.0.0.1:0", "--config", "settings.json", "--folder"])
            .arg(self.mount())
            .current_dir(root)
            .env("CLUSTER_SECRET", self.secret)
            .env("WRITE_TOKEN", WRITER)
            .env("RUST_LOG", std::env::var("NODE_LOG").unwrap_or_else(|_| "info".to_owned()))
            .env("NO_COLOR", "1")
            .env("GUARD_FOLDER", self.mount())
            .env("GUARD_MARK", root.join("read-only"))
            .env("LD_PRELOAD", guard())
            .stdout(Stdio::piped())
            .stderr(File::create(self.log_file(self.starts)).unwrap());
        Launch { command }
    }

    /// Takes its server for the running one.
    pub(crate) fn install(&mut self, server: Server) {
        self.address.send_replace(Some(server.clients));
        self.server = Some(server);
    }

    /// Where its server takes what others forward.
    pub(crate) fn forwards(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(|server| server.forwards)
    }

    /// Where clients find its server.
    pub(crate) fn address(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.address.subscribe()
    }

    /// Kills its server, which can do nothing about it.
    pub(crate) fn kill(&mut self) {
        // It is killed where it is dropped.
        drop(self.dismiss_server());
    }

    /// Its server, which is about to end by itself.
    pub(crate) fn dismiss_server(&mut self) -> Server {
        self.address.send_replace(None);
        self.server.take().unwrap()
    }

    /// What its servers have logged so far.
    pub(crate) fn log(&self) -> String {
        (1..=self.starts).map(|start| fs::read_to_string(self.log_file(start)).unwrap_or_default()).collect()
    }

    fn log_file(&self, start: usize) -> PathBuf {
        self.root.path().join(format!("log-{start}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.id, self.log());
        }
    }
}

impl Launch {
    /// Starts it, and waits until it listens.
    pub(crate) async fn start(mut self) -> Server {
        let mut child = self.command.spawn().unwrap_or_else(|error| {
            panic!("{}: {error}; `cargo build --examples` makes it", self.command.get_program().display())
        });
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (send, receive) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let addresses = lines.map_while(Result::ok).filter_map(|line| {
                let address = line.rsplit([' ', '/']).next()?;
                address.parse::<SocketAddr>().ok()
            });
            send.send(addresses.take(2).collect::<Vec<_>>()).ok();
        });
        let addresses = soon("the server to listen", receive).await.unwrap();
        let [forwards, clients] = addresses[..] else { panic!("the server did not start") };
        Server { child, forwards, clients }
    }
}

impl Server {
    /// Asks it to end, and waits until it has. Returns how long that took.
    pub(crate) async fn terminate(mut self) -> Duration {
        let process = self.child.id().to_string();
        let begun = Instant::now();
        assert!(Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
        until("the server to end", async || {
            self.child.try_wait().unwrap().is_some_and(|status| {
                assert!(status.success());
                true
            })
        })
        .await;
        begun.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The library that makes a mount read-only, built once.
fn guard() -> &'static Path {
    static GUARD: OnceLock<PathBuf> = OnceLock::new();
    GUARD.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/litefs/guard.c");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (new, library) = (folder.join(format!("guard-{}", std::process::id())), folder.join("guard.so"));
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut compile = Command::new(compiler);
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&new).arg(source).arg("-ldl");
        assert!(compile.status().unwrap().success(), "the C compiler that SQLite needs builds tests/litefs/guard.c");
        // Whole, for tests that run at the same time in another process.
        fs::rename(new, &library).unwrap();
        library
    })
}
