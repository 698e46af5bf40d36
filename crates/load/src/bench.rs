//! What all scenarios need: a server, patience, and clients by the hundred.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::{Client, Nothing};
use crate::fault::Fault;
use crate::figure::{Figure, Unit};
use crate::ledger::{Ledger, Notes};
use crate::rows::{COLUMNS, new_site};
use crate::skim::Skimmed;
use crate::target::Target;
use crate::usage::Process;

/// Clients that connect at the same time where connecting isn't what is measured.
const JOINING: usize = 64;

/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

/// One run against one server.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) target: Target,
    /// How long nothing may come.
    pub(crate) patience: Duration,
    /// Where files may be.
    pub(crate) folder: PathBuf,
    /// No two runs against one server use the same rooms.
    run: String,
}

impl Bench {
    pub(crate) fn new(target: Target, patience: Duration, folder: PathBuf) -> Result<Self, Fault> {
        let [a, b, c, d, ..] = *new_site()?.as_bytes();
        Ok(Self { target, patience, folder, run: format!("{:08x}", u32::from_be_bytes([a, b, c, d])) })
    }

    /// A room of this run.
    pub(crate) fn room(&self, number: usize) -> String {
        format!("load_{}_{number}", self.run)
    }

    /// A new client of a room in which nothing is.
    pub(crate) async fn join(&self, room: &str) -> Result<Client, Fault> {
        Client::join(&self.target.address, room, new_site()?, None, &mut Nothing, self.patience).await
    }

    /// Many of them, each in the room with the number that `room` says; in order.
    pub(crate) async fn join_many(&self, count: usize, room: impl Fn(usize) -> usize) -> Result<Vec<Client>, Fault> {
        let places = Arc::new(Semaphore::new(JOINING));
        let mut joining = JoinSet::new();
        for number in 0..count {
            let (address, room, patience, places) =
                (self.target.address.clone(), self.room(room(number)), self.patience, places.clone());
            joining.spawn(async move {
                let _place = places.acquire().await;
                let joined = Client::join(&address, &room, new_site()?, None, &mut Nothing, patience).await?;
                Ok((number, joined))
            });
        }
        let mut joined = all(joining).await?;
        joined.sort_unstable_by_key(|(number, _)| *number);
        Ok(joined.into_iter().map(|(_, client)| client).collect())
    }

    /// Measures processor time from now on.
    pub(crate) fn meter(&self) -> Meter {
        let processes = [self.target.process, Some(Process::this())];
        Meter { start: Instant::now(), processes, before: processes.map(|process| process?.cpu()) }
    }

    /// Bytes that the server has in memory, if it is known.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.target.process?.memory()
    }
}

/// What all tasks return, or the first failure.
pub(crate) async fn all<T: 'static>(mut tasks: JoinSet<Result<T, Fault>>) -> Result<Vec<T>, Fault> {
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(result) = tasks.join_next().await {
        results.push(result??);
    }
    Ok(results)
}

/// Processor time of the server and of the generator.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) start: Instant,
    processes: [Option<Process>; 2],
    before: [Option<Duration>; 2],
}

impl Meter {
    /// What both used, in seconds.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let names = ["server's processor time", "generator's processor time"];
        let used = self.processes.iter().zip(self.before).map(|(process, before)| Some((*process)?.cpu()? - before?));
        names.into_iter().zip(used).filter_map(|(name, used)| Some(Figure::seconds(name, used?))).collect()
    }

    /// Percent of one core that the server has used.
    pub(crate) fn server_load(&self) -> Option<Figure> {
        let [server, _] = self.processes;
        let used = server?.cpu()?.saturating_sub(self.before.first().copied()??);
        let percent = 100.0 * used.as_secs_f64() / self.start.elapsed().as_secs_f64().max(1e-9);
        Some(Figure::new("server's processor load", percent, Unit::Percent))
    }
}

/// When each row was sent.
#[derive(Debug)]
pub(crate) struct SentAt {
    start: Instant,
    nanos: Vec<AtomicU64>,
}

impl SentAt {
    pub(crate) fn new(rows: usize) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), nanos: (0..rows).map(|_| AtomicU64::new(0)).collect() })
    }

    /// Time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// A row is being sent now.
    pub(crate) fn stamp(&self, row: usize) {
        if let Some(at) = self.nanos.get(row) {
            at.store(u64::try_from(self.now().as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
        }
    }

    fn of(&self, row: usize) -> Duration {
        self.nanos.get(row).map_or(Duration::ZERO, |at| Duration::from_nanos(at.load(Ordering::Acquire)))
    }
}

/// Notes of rows with the time that each took.
#[derive(Debug)]
pub(crate) struct Timed {
    pub(crate) ledger: Ledger,
    sent: Arc<SentAt>,
    /// When each row was sent, and how long it took.
    pub(crate) times: Vec<(Duration, Duration)>,
}

impl Timed {
    pub(crate) fn new(ledger: Ledger, sent: Arc<SentAt>) -> Self {
        Self { ledger, sent, times: Vec::new() }
    }
}

impl Notes for Timed {
    fn note(&mut self, message: &Skimmed<'_>) -> Result<(), Fault> {
        let now = self.sent.now();
        self.ledger.note_each(message, |cell| {
            let sent = self.sent.of(cell / COLUMNS.len());
            self.times.push((sent, now.saturating_sub(sent)));
        })
    }

    fn missing(&self) -> usize {
        self.ledger.missing()
    }

    fn missed(&self) -> String {
        self.ledger.missed()
    }
}

/// Says now and then how far something is.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    said: Instant,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        Self { what, total, said: Instant::now() }
    }

    pub(crate) fn at(&mut self, done: usize) {
        if self.said.elapsed() >= PROGRESS {
            self.said = Instant::now();
            eprintln!("    {}: {done} of {}", self.what, self.total);
        }
    }
}
