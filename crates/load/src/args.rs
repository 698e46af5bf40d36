//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::address::Address;
use crate::case::{Scale, Scenario};
use crate::target::Kind;

/// Measures a sync server, and on the same machine what moving the same frames takes without one.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Command {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,

    #[command(flatten)]
    pub(crate) measure: Measure,
}

/// What this program can be instead.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// The server that the others are compared with.
    #[command(hide = true)]
    Floor {
        /// Where to listen; port 0 takes a free one.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,

        /// Loses the message with this number, counted from 1.
        #[arg(long)]
        lose: Option<usize>,
    },
}

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    /// The scenarios to run, one after the other [default: all].
    #[arg(value_enum)]
    pub(crate) scenarios: Vec<Scenario>,

    /// A server that runs already, as ws://HOST:PORT/PATH. It has the generator's load.sql in its schema folder.
    #[arg(long)]
    url: Option<Address>,

    /// The process of that server, if it is on this machine: its memory and processor time are measured.
    #[arg(long, requires = "url", conflicts_with = "server")]
    pid: Option<u32>,

    /// A server's program: it is started for each run, with the flags of the project's example `server`.
    #[arg(long, value_name = "PROGRAM", conflicts_with = "url", required_unless_present = "url")]
    server: Option<PathBuf>,

    /// How much is done.
    #[arg(long, value_enum, default_value = "full")]
    pub(crate) scale: Scale,

    /// Leave out the floor.
    #[arg(long)]
    pub(crate) no_floor: bool,

    /// A run fails if it has to wait that many seconds without any news.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub(crate) patience: Duration,

    /// Threads of the generator. It shares the machine with the server: more of them may measure less.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,

    /// Where databases may be; a folder on a disk [default: that of temporary files].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Measure {
    /// The server to measure. Clap has seen to it that there is one.
    pub(crate) fn kind(&self) -> Option<Kind> {
        match (&self.url, &self.server) {
            (Some(url), _) => Some(Kind::Running(url.clone(), self.pid)),
            (None, Some(program)) => Some(Kind::Program(program.clone())),
            (None, None) => None,
        }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// The scenarios, each once.
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        let wanted = |scenario: &Scenario| self.scenarios.is_empty() || self.scenarios.contains(scenario);
        Scenario::value_variants().iter().copied().filter(wanted).collect()
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        Command::try_parse_from(line.split(' ')).map_err(|error| error.to_string())
    }

    #[test]
    fn a_running_server_is_named_by_its_url() {
        let command = parse("load ingest storm --url ws://127.0.0.1:9/sync --pid 4711 --patience 1.5").unwrap();
        let measure = command.measure;
        assert_eq!(measure.scenarios(), [Scenario::Ingest, Scenario::Storm]);
        assert_eq!(measure.patience.as_millis(), 1_500);
        let kind = format!("{:?}", measure.kind());
        assert!(kind.contains("/sync") && kind.contains("4711"), "{kind}");
    }

    #[test]
    fn without_a_scenario_all_are_run_in_full() {
        let measure = parse("load --server x").unwrap().measure;
        assert_eq!(measure.scenarios().len(), 7);
        assert_eq!((measure.scale, measure.no_floor), (Scale::Full, false));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "load",
            "load nonsense --server x",
            "load --server x --url ws://127.0.0.1:9/",
            "load --server x --pid 1",
            "load --url http://127.0.0.1/",
            "load --server x --patience -1",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_floor_is_a_role_of_its_own() {
        let command = parse("load floor --lose 3").unwrap();
        assert!(matches!(command.role, Some(Role::Floor { lose: Some(3), .. })), "{command:?}");
    }
}
