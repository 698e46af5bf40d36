//! What is measured: a server that was started for it, one that runs already, or the floor.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::process::Command;

use crate::address::Address;
use crate::fault::Fault;
use crate::program::Program;
use crate::rows::{SCHEMA, SCHEMA_NAME};
use crate::usage::Process;

/// Bounds of the example server that the scenarios go beyond: all their clients come from one address, and the largest room has a
/// writer besides its 5,000 readers.
const ROOM_FOR_ALL: [(&str, &str); 2] =
    [("TOWER_SQLITE_SYNC_MAX_ADDRESS_CONNECTIONS", "10000"), ("TOWER_SQLITE_SYNC_MAX_ROOM_CONNECTIONS", "10000")];

/// The servers that there are to measure.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// The example server, or another with its flags.
    Program(PathBuf),
    /// One that was started by somebody else; without its process id, what it uses isn't known.
    Running(Address, Option<u32>),
    /// This program, as a server that only moves frames.
    Floor,
}

/// A server under test.
#[derive(Debug)]
pub(crate) struct Target {
    kind: Kind,
    pub(crate) address: Address,
    pub(crate) process: Option<Process>,
    started: Option<(Program, TempDir)>,
}

impl Target {
    /// Starts it if need be; what it stores is in a new folder inside `folder`.
    pub(crate) async fn start(kind: &Kind, folder: &Path) -> Result<Self, Fault> {
        if let Kind::Running(address, pid) = kind {
            return Ok(Self {
                kind: kind.clone(),
                address: address.clone(),
                process: pid.map(Process::of),
                started: None,
            });
        }
        fs::create_dir_all(folder)?;
        let folder = TempDir::with_prefix_in("load-", folder)?;
        fs::create_dir(folder.path().join("schemas"))?;
        fs::write(folder.path().join("schemas").join(SCHEMA_NAME), SCHEMA)?;
        Self::run(kind, folder).await
    }

    async fn run(kind: &Kind, folder: TempDir) -> Result<Self, Fault> {
        let mut command = match kind {
            Kind::Program(program) => {
                let mut command = Command::new(program);
                command.envs(ROOM_FOR_ALL);
                command.args(["--listen", "127.0.0.1:0"]);
                command.arg("--db-folder").arg(folder.path().join("dbs"));
                command.arg("--schema-folder").arg(folder.path().join("schemas"));
                command
            }
            Kind::Floor | Kind::Running(..) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("floor");
                command
            }
        };
        let program = Program::start(&mut command, folder.path()).await?;
        let address = format!("ws://{}/sync", program.authority).parse().map_err(Fault::Setup)?;
        let process = program.pid().map(Process::of);
        Ok(Self { kind: kind.clone(), address, process, started: Some((program, folder)) })
    }

    /// Stops the server and starts it again over the same databases, so that it has nothing in memory. One that can't be started
    /// again goes on.
    pub(crate) async fn restart(&mut self) -> Result<(), Fault> {
        if let Kind::Program(_) = self.kind
            && let Some((program, folder)) = self.started.take()
        {
            program.stop().await;
            *self = Self::run(&self.kind.clone(), folder).await?;
        }
        Ok(())
    }

    /// Whether it is the floor, and no server to measure.
    pub(crate) fn is_floor(&self) -> bool {
        matches!(self.kind, Kind::Floor)
    }

    /// Stops what was started.
    pub(crate) async fn stop(self) {
        if let Some((program, _folder)) = self.started {
            program.stop().await;
        }
    }

    /// The end of its log, if it is known.
    pub(crate) fn last_lines(&self) -> Option<String> {
        self.started.as_ref().map(|(program, _)| program.last_lines())
    }
}
