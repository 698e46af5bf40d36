//! One client writes as much as the server takes; another one reads it.

use std::time::{Duration, Instant};

use tower_sqlite_sync_wire::SiteId;

use crate::bench::{Bench, Progress};
use crate::client::{Client, Seen};
use crate::fault::Fault;
use crate::figure::{Figure, Unit};
use crate::ledger::{Ledger, Notes};
use crate::rows::{CHUNK, import};
use crate::skim::Skimmed;
use crate::statistics::{Trace, rate};
use crate::storage::Storage;

/// From here on a run is long enough to see whether the server tires.
const LONG: usize = 500_000;

/// Runs it.
pub(crate) async fn run(bench: &mut Bench, changes: usize) -> Result<Vec<Figure>, Fault> {
    let imported = fill(bench, &bench.room(0), changes).await?;
    let long = changes >= LONG;
    let speed = rate(changes, imported.took);
    let goal = if long { 180_000.0 } else { 200_000.0 };
    let mut figures = vec![Figure::new("changes stored and received", speed, Unit::PerSecond).at_least(goal)];
    let stamina = Figure::new("speed of the last tenth, of the first", imported.trace.stamina(changes), Unit::Ratio);
    figures.push(if long { stamina.at_least(0.8) } else { stamina });
    if !bench.target.is_floor() {
        let folder = bench.folder.clone();
        let storage = tokio::task::spawn_blocking(move || Storage::measure(&folder, changes)).await??;
        let engine = rate(changes, storage.engine);
        let sqlite = rate(changes, storage.sqlite);
        figures.push(Figure::new("engine alone", engine, Unit::PerSecond));
        figures.push(Figure::new("plain SQLite alone", sqlite, Unit::PerSecond));
        figures.push(Figure::new("server, of the engine alone", speed / engine, Unit::Ratio));
        figures.push(Figure::new("server, of plain SQLite alone", speed / sqlite, Unit::Ratio));
    }
    figures.extend(imported.meters);
    Ok(figures)
}

/// An import that has come through.
#[derive(Debug)]
pub(crate) struct Imported {
    /// From the first byte that was sent until the reader had everything.
    pub(crate) took: Duration,
    pub(crate) trace: Trace,
    pub(crate) meters: Vec<Figure>,
    /// Where the reader is now.
    pub(crate) seen: Option<Seen>,
}

/// An import that can start at once.
#[derive(Debug)]
pub(crate) struct Import {
    room: String,
    changes: usize,
    frames: Vec<Vec<u8>>,
    reader: Client,
    writer: Client,
}

impl Import {
    /// Writes all messages, and connects those who send and read them.
    pub(crate) async fn prepare(bench: &Bench, room: &str, changes: usize) -> Result<Self, Fault> {
        let (reader, writer) = (bench.join(room).await?, bench.join(room).await?);
        let frames = import(writer.site, 0..changes, CHUNK, 0);
        Ok(Self { room: room.to_owned(), changes, frames, reader, writer })
    }

    /// Sends everything, and waits until it has come back.
    pub(crate) async fn run(self, bench: &Bench) -> Result<Imported, Fault> {
        let Self { room, changes, frames, mut reader, mut writer } = self;
        let (meter, patience, site) = (bench.meter(), bench.patience, writer.site);
        let mut notes = Progressing::new(changes, meter.start);
        let reading = tokio::spawn(async move {
            reader.collect(&mut notes, patience).await?;
            Ok::<_, Fault>((reader, notes))
        });
        for frame in &frames {
            writer.send(frame).await?;
        }
        let (reader, notes) = reading.await??;
        let meters = meter.figures();
        drop(writer);
        remembered(bench, &room, site, frames.len()).await?;
        let seen = reader.server().map(|server| (server, notes.ledger.version));
        Ok(Imported { took: notes.latest, trace: notes.trace, meters, seen })
    }
}

/// Writes so many changes into a room, while another client reads them.
pub(crate) async fn fill(bench: &Bench, room: &str, changes: usize) -> Result<Imported, Fault> {
    Import::prepare(bench, room, changes).await?.run(bench).await
}

/// Asks the server how far it has the writer's changes: all of them, since others have seen them.
async fn remembered(bench: &Bench, room: &str, site: SiteId, messages: usize) -> Result<(), Fault> {
    let mut notes = Anything;
    let again = Client::join(&bench.target.address, room, site, None, &mut notes, bench.patience).await?;
    let (at, sent) = (again.started().map(|since| since.db_version), i64::try_from(messages).ok());
    match at == sent {
        true => Ok(()),
        false => Err(Fault::Wrong(format!("the server has {at:?} of the writer's messages, not all {messages}"))),
    }
}

/// Notes of an import, with the times.
#[derive(Debug)]
struct Progressing {
    ledger: Ledger,
    start: Instant,
    trace: Trace,
    /// When the last changes came.
    latest: Duration,
    progress: Progress,
}

impl Progressing {
    fn new(changes: usize, start: Instant) -> Self {
        let progress = Progress::new("changes", changes);
        let ledger = Ledger::of_cells(0..changes);
        Self { ledger, start, trace: Trace::default(), latest: Duration::ZERO, progress }
    }
}

impl Notes for Progressing {
    fn note(&mut self, message: &Skimmed<'_>) -> Result<(), Fault> {
        self.ledger.note(message)?;
        self.latest = self.start.elapsed();
        self.trace.push(self.latest, self.ledger.seen());
        self.progress.at(self.ledger.seen());
        Ok(())
    }

    fn missing(&self) -> usize {
        self.ledger.missing()
    }

    fn missed(&self) -> String {
        self.ledger.missed()
    }
}

/// The notes of somebody who doesn't care.
#[derive(Debug, Clone, Copy)]
struct Anything;

impl Notes for Anything {
    fn note(&mut self, _: &Skimmed<'_>) -> Result<(), Fault> {
        Ok(())
    }

    fn missing(&self) -> usize {
        0
    }

    fn missed(&self) -> String {
        String::new()
    }
}
