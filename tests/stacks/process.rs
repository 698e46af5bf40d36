//! An example as a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

use crate::fixture::soon;

/// A running example; it is killed when it is dropped.
pub(crate) struct Example {
    pub(crate) address: SocketAddr,
    /// The lines that it printed before it said that.
    #[allow(dead_code, reason = "for tests of the examples")]
    pub(crate) said: Vec<String>,
    /// Where it runs: with `schemas/main.sql`, and `dbs` once there is a room.
    folder: TempDir,
    child: Child,
}

impl Example {
    /// Starts an example that takes the address to listen on as its argument, in a folder that has this schema.
    pub(crate) async fn start(name: &str, schema: &str) -> Self {
        Self::start_with(name, schema, &[]).await
    }

    /// As [`start`](Self::start), with more arguments.
    pub(crate) async fn start_with(name: &str, schema: &str, arguments: &[&Path]) -> Self {
        Self::launch(name, schema, |command| command.arg("127.0.0.1:0").args(arguments)).await
    }

    /// Starts an example in a folder that has this schema, with the arguments and settings that `prepare` gives it.
    pub(crate) async fn launch(name: &str, schema: &str, prepare: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("schemas")).unwrap();
        std::fs::write(folder.path().join("schemas/main.sql"), schema).unwrap();
        let binary = binary(name);
        let mut child = prepare(&mut Command::new(&binary))
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; `cargo build --examples` makes it", binary.display()));
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (send, receive) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut said = Vec::new();
            let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
                let address = line.strip_prefix("listening on ").and_then(|url| url.split_once("://"));
                let address = address.and_then(|(_, address)| address.parse::<SocketAddr>().ok());
                said.push(line);
                address
            });
            send.send((address, said)).ok();
            // What else it prints must not fill the pipe.
            lines.for_each(drop);
        });
        let (address, said) = soon("the example to listen", receive).await.unwrap();
        Self { said, address: address.expect("the example says where it listens"), folder, child }
    }

    /// What an example says that can't start.
    #[allow(dead_code, reason = "for tests of the examples")]
    pub(crate) async fn fails(name: &str, prepare: impl FnOnce(&mut Command) -> &mut Command) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary(name));
        prepare(&mut command).current_dir(folder.path());
        let running = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = soon("the example to end", running).await.unwrap();
        assert!(!output.status.success(), "{name}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The process.
    #[allow(dead_code, reason = "for tests of what it holds")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The folder it runs in.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Interrupts it as Ctrl-C does, and waits until it has ended by itself.
    #[cfg(unix)]
    pub(crate) async fn interrupt(&mut self) -> ExitStatus {
        let process = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &process]).status().unwrap().success());
        let mut ended = None;
        crate::fixture::until("the example to end", async || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        ended.unwrap()
    }
}

/// `cargo test` builds the examples too, unless it is told which tests to build.
fn binary(name: &str) -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples").join(name)
}

impl Drop for Example {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
    }
}
