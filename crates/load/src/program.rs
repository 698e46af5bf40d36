//! A server that is started here, as a process of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::fault::Fault;

/// How long a server may take to start, and to stop.
const LIMIT: Duration = Duration::from_secs(20);

/// Lines of its log that are shown if it fails.
const LAST_LINES: usize = 10;

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    log: PathBuf,
    /// Where it listens: `127.0.0.1:4711`.
    pub(crate) authority: String,
}

impl Program {
    /// Starts a server whose first line says `listening on http://`, and where. Its log goes to a file in `folder`.
    pub(crate) async fn start(command: &mut Command, folder: &Path) -> Result<Self, Fault> {
        let log = folder.join("log");
        let errors = File::options().create(true).append(true).open(&log)?;
        let shown = format!("{:?}", command.as_std().get_program());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Fault::Setup(format!("{shown} can't be started: {error}")))?;
        let mut lines =
            BufReader::new(child.stdout.take().ok_or_else(|| Fault::Setup("no output".to_owned()))?).lines();
        let first = timeout(LIMIT, lines.next_line()).await;
        let authority = match first {
            Ok(Ok(Some(line))) => line.strip_prefix("listening on http://").map(str::to_owned),
            _ => None,
        };
        // Whatever else it prints must not stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        match authority {
            Some(authority) => Ok(Self { child, log, authority }),
            None => {
                child.kill().await.ok();
                Err(Fault::Setup(format!("{shown} doesn't say where it listens\n{}", last_lines(&log))))
            }
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks it to stop, and waits.
    pub(crate) async fn stop(mut self) {
        self.ask_to_stop();
        if timeout(LIMIT, self.child.wait()).await.is_err() {
            self.child.kill().await.ok();
        }
    }

    /// The end of its log, for whoever wonders why it failed.
    pub(crate) fn last_lines(&self) -> String {
        last_lines(&self.log)
    }

    fn ask_to_stop(&mut self) {
        #[cfg(unix)]
        {
            use rustix::process::{Pid, Signal, kill_process};
            let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            if pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok()) {
                return;
            }
        }
        self.child.start_kill().ok();
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(LAST_LINES).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
