//! The scenarios, and in which sizes they are run.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

use crate::bench::Bench;
use crate::fault::Fault;
use crate::figure::Figure;
use crate::scenario::mixed::Mix;
use crate::scenario::{catchup, fanout, idle, ingest, mixed, rooms, storm};

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// One client writes as much as the server takes, another one reads it.
    Ingest,
    /// One client writes small messages, many read them: at a steady pace, and as fast as it goes.
    Fanout,
    /// A new client comes to a room with many changes.
    Catchup,
    /// Many new rooms of two clients each.
    Rooms,
    /// Many connections on which nothing happens.
    Idle,
    /// Many clients come back at once, each lacking a part of its room.
    Storm,
    /// Small writes in many rooms while another room takes a large import.
    Mixed,
}

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scale {
    /// What the goals are for.
    Full,
    /// A tenth of it, roughly.
    Quick,
    /// As little as shows that it works.
    Tiny,
}

/// One scenario in one size.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Case {
    Ingest { changes: usize },
    Paced { readers: usize, per_second: usize, messages: usize },
    FlatOut { readers: usize, messages: usize },
    Catchup { changes: usize },
    Rooms { rooms: usize },
    Idle { connections: usize, rooms: usize, watch: Duration },
    Storm { clients: usize, rooms: usize, changes: usize },
    Mixed(Mix),
}

impl Scenario {
    /// Its cases.
    pub(crate) fn cases(self, scale: Scale) -> Vec<Case> {
        let pick = |full: usize, quick: usize, tiny: usize| match scale {
            Scale::Full => full,
            Scale::Quick => quick,
            Scale::Tiny => tiny,
        };
        let seconds = |full: u64, tiny: u64| match scale {
            Scale::Tiny => Duration::from_millis(tiny),
            Scale::Full | Scale::Quick => Duration::from_secs(full),
        };
        let small = pick(100_000, 100_000, 3_000);
        let large = (scale == Scale::Full).then_some(1_000_000);
        let sizes = || std::iter::once(small).chain(large);
        match self {
            Self::Ingest => sizes().map(|changes| Case::Ingest { changes }).collect(),
            Self::Catchup => sizes().map(|changes| Case::Catchup { changes }).collect(),
            Self::Fanout => vec![
                Case::Paced { readers: pick(100, 100, 3), per_second: 50, messages: pick(500, 100, 5) },
                Case::FlatOut { readers: pick(500, 100, 3), messages: pick(2_000, 2_000, 20) },
            ],
            Self::Rooms => vec![Case::Rooms { rooms: pick(1_000, 200, 3) }],
            Self::Idle => [1, pick(100, 10, 2)]
                .map(|rooms| Case::Idle { connections: pick(5_000, 500, 6), rooms, watch: seconds(5, 50) })
                .to_vec(),
            Self::Storm => {
                let (clients, rooms) = (pick(2_000, 200, 6), pick(100, 10, 2));
                vec![Case::Storm { clients, rooms, changes: pick(1_000, 1_000, 20) }]
            }
            Self::Mixed => vec![Case::Mixed(Mix {
                rooms: pick(100, 100, 3),
                per_second: pick(800, 800, 100),
                alone: seconds(5, 200),
                import: pick(1_000_000, 100_000, 3_000),
            })],
        }
    }
}

impl Case {
    /// Runs it against a server.
    pub(crate) async fn run(self, bench: &mut Bench) -> Result<Vec<Figure>, Fault> {
        match self {
            Self::Ingest { changes } => ingest::run(bench, changes).await,
            Self::Paced { readers, per_second, messages } => fanout::paced(bench, readers, per_second, messages).await,
            Self::FlatOut { readers, messages } => fanout::flat_out(bench, readers, messages).await,
            Self::Catchup { changes } => catchup::run(bench, changes).await,
            Self::Rooms { rooms } => rooms::run(bench, rooms).await,
            Self::Idle { connections, rooms, watch } => idle::run(bench, connections, rooms, watch).await,
            Self::Storm { clients, rooms, changes } => storm::run(bench, clients, rooms, changes).await,
            Self::Mixed(mix) => mixed::run(bench, mix).await,
        }
    }

    /// The scenario that it is of.
    pub(crate) fn scenario(self) -> &'static str {
        match self {
            Self::Ingest { .. } => "ingest",
            Self::Paced { .. } | Self::FlatOut { .. } => "fanout",
            Self::Catchup { .. } => "catchup",
            Self::Rooms { .. } => "rooms",
            Self::Idle { .. } => "idle",
            Self::Storm { .. } => "storm",
            Self::Mixed(_) => "mixed",
        }
    }
}

impl fmt::Display for Case {
    /// Its size.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ingest { changes } | Self::Catchup { changes } => write!(f, "{changes} changes"),
            Self::Paced { readers, per_second, messages } => {
                write!(f, "{messages} messages at {per_second}/s to {readers} readers")
            }
            Self::FlatOut { readers, messages } => write!(f, "{messages} messages flat out to {readers} readers"),
            Self::Rooms { rooms } => write!(f, "{rooms} rooms"),
            Self::Idle { connections, rooms, .. } => write!(f, "{connections} connections in {rooms} rooms"),
            Self::Storm { clients, rooms, changes } => {
                write!(f, "{clients} clients in {rooms} rooms, each lacking half of {changes} changes")
            }
            Self::Mixed(mix) => {
                write!(f, "{} small writes/s in {} rooms, {} changes in one", mix.per_second, mix.rooms, mix.import)
            }
        }
    }
}
