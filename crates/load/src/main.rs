//! A load generator for servers that speak the vlcn sync protocol: this project's, the one it replaces, or any other.
//!
//! ```sh
//! cargo xtask load                        # all scenarios, against the example server
//! cargo xtask load ingest fanout          # some of them
//! cargo xtask load --scale quick          # a tenth of it
//! cargo xtask load --url ws://127.0.0.1:8080/sync --pid 4711
//! ```
//!
//! Each run prints a line of JSON; a table with the goals comes at the end. The exit code tells whether everything that was sent
//! came, to everybody that it was for: being slow is no failure.
//!
//! | scenario | what happens |
//! |---|---|
//! | `ingest` | one client writes changes in messages of 1,000, another one reads them |
//! | `fanout` | one client writes single changes, many read them: 50 a second, and all at once |
//! | `catchup` | new clients come to a room where much has happened |
//! | `rooms` | new rooms of two clients each; one writes a row, the other one gets it |
//! | `idle` | connections on which nothing happens |
//! | `storm` | the server was restarted, and all clients come back at once, each lacking half of its room |
//! | `mixed` | small writes in many rooms at a steady pace, without and with a large import into another one |
//!
//! # The floor
//!
//! A figure says more beside what is possible. So each scenario is run twice, on the same machine in the same minute: against the
//! server, and against one that does nothing but pass frames on with tokio-tungstenite (a process of its own too, this program
//! started again). For `ingest` there are two more: the engine without a server, and plain SQLite that writes the same rows.
//! For `fanout` and `rooms` there is what plain SQLite takes to store what the floor only passes on.
//!
//! Where the server is better than the floor it sends fewer frames: it puts into one what was committed together.
//!
//! # What the generator costs
//!
//! It shares the processors with the server, so what it does is missing there. All frames are written before the clock starts.
//! Readers find frames themselves in one buffer that all of a thread's connections share, and skim changes: of each they read the
//! row, the column and the db_version, for every cell has to come; values they skip. (That values arrive unchanged is what the
//! project's tests are for.) The figures hold the processor time of both, so that nobody has to guess.
//!
//! # Other servers
//!
//! A server that is given by `--url` needs `crates/load/load.sql` in its schema folder, and room for as many connections as the
//! scenario has. It isn't restarted: what it has in memory stays there, and the figures of `catchup` and `storm` are better for it.
//!
//! # How it is made
//!
//! ```text
//! args ─▶ main ─▶ case ─▶ scenario/* ─▶ client ─▶ websocket ─▶ skim ─▶ ledger
//!           │       └──▶ bench, rows, statistics
//!           ├─▶ target ─▶ program (the server, or floor), usage (its memory and time)
//!           └─▶ report ─▶ figure
//! ```

#![forbid(unsafe_code)]

mod address;
mod args;
mod bench;
mod case;
mod client;
mod fault;
mod figure;
mod floor;
mod ledger;
mod program;
mod report;
mod rows;
mod scenario;
mod skim;
mod statistics;
mod storage;
mod target;
mod usage;
mod websocket;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use crate::args::{Command, Measure, Role};
use crate::bench::Bench;
use crate::case::Case;
use crate::fault::Fault;
use crate::figure::Figure;
use crate::report::{Run, table};
use crate::target::{Kind, Target};

fn main() -> ExitCode {
    let command = Command::parse();
    // More is wanted than a shell usually grants; what is refused shows when connections are.
    drop(rlimit::increase_nofile_limit(u64::MAX));
    let outcome = match command.role {
        Some(Role::Floor { listen, lose }) => {
            runtime(0).and_then(|runtime| runtime.block_on(floor::serve(listen, lose))).map(|()| true)
        }
        None => runtime(command.measure.threads).and_then(|runtime| runtime.block_on(measure(&command.measure))),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("error: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// A runtime with so many threads; 0 are as many as a server takes.
fn runtime(threads: usize) -> Result<Runtime, Fault> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    Ok(builder.enable_all().build()?)
}

/// Runs what was asked for; whether nothing was missing or wrong.
async fn measure(measure: &Measure) -> Result<bool, Fault> {
    let kind = measure.kind().ok_or_else(|| Fault::Setup("no server to measure".to_owned()))?;
    let mut runs = Vec::new();
    for case in measure.scenarios().into_iter().flat_map(|scenario| scenario.cases(measure.scale)) {
        let server = attempt(case, &kind, measure).await;
        let floor = match measure.no_floor {
            true => None,
            false => Some(attempt(case, &Kind::Floor, measure).await),
        };
        let run = Run { case, server, floor };
        println!("{}", run.json());
        runs.push(run);
    }
    println!("\n{}", table(&runs));
    Ok(runs.iter().all(Run::is_correct))
}

async fn attempt(case: Case, kind: &Kind, measure: &Measure) -> Result<Vec<Figure>, String> {
    let who = match kind {
        Kind::Floor => "floor",
        Kind::Program(_) | Kind::Running(..) => "server",
    };
    eprintln!("{}: {case} ({who})", case.scenario());
    let target = Target::start(kind, &measure.folder()).await.map_err(|fault| fault.to_string())?;
    let mut bench = Bench::new(target, measure.patience, measure.folder()).map_err(|fault| fault.to_string())?;
    let result = case.run(&mut bench).await.map_err(|fault| fault.to_string());
    if let (Err(fault), Some(log)) = (&result, bench.target.last_lines()) {
        eprintln!("    {fault}\n{log}");
    }
    bench.target.stop().await;
    result
}
