//! Small writes in many rooms, at a steady pace, first by themselves and then while one room takes a large import.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::bench::{Bench, SentAt, Timed, all};
use crate::client::Client;
use crate::fault::Fault;
use crate::figure::{Figure, Unit};
use crate::ledger::{Ledger, Notes};
use crate::rows::{CHUNK, write};
use crate::scenario::ingest::Import;
use crate::skim::Skimmed;
use crate::statistics::{Times, float, rate};

/// The first writes, which find everything cold, don't count. Neither do those that wait behind them.
const WARM_UP: Duration = Duration::from_secs(2);

/// No import takes longer, in seconds.
const LONGEST: usize = 300;

/// How small writes and the import go together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mix {
    /// Rooms with small writes.
    pub(crate) rooms: usize,
    /// Small writes a second, in all rooms together.
    pub(crate) per_second: usize,
    /// How long they have the server for themselves.
    pub(crate) alone: Duration,
    /// Changes that are imported into another room.
    pub(crate) import: usize,
}

/// Runs it.
pub(crate) async fn run(bench: &mut Bench, mix: Mix) -> Result<Vec<Figure>, Fault> {
    let writers = bench.join_many(mix.rooms, |number| number).await?;
    let readers = bench.join_many(mix.rooms, |number| number).await?;
    let import = Import::prepare(bench, &bench.room(mix.rooms), mix.import).await?;

    let most = mix.per_second.saturating_mul(LONGEST);
    let (sent, total) = (SentAt::new(most), Arc::new(AtomicUsize::new(usize::MAX)));
    let mut readings = JoinSet::new();
    for (number, mut reader) in readers.into_iter().enumerate() {
        let mut notes = OpenEnd {
            timed: Timed::new(Ledger::of_every(mix.rooms, number, most), sent.clone()),
            room: number,
            rooms: mix.rooms,
            total: total.clone(),
        };
        let patience = bench.patience;
        readings.spawn(async move {
            reader.collect(&mut notes, patience).await?;
            Ok((reader, notes.timed.times))
        });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let pace = Pace { per_second: mix.per_second, most, sent: sent.clone(), total, stop: stop.clone() };
    let writing = tokio::spawn(pace.keep(writers));

    let warm_up = WARM_UP.min(mix.alone);
    sleep(mix.alone.saturating_add(warm_up)).await;
    let meter = bench.meter();
    let begin = sent.now();
    let imported = import.run(bench).await;
    let end = sent.now();
    let meters = meter.figures();
    stop.store(true, Ordering::Release);
    let writes = writing.await??;
    let imported = imported?;
    let times: Vec<(Duration, Duration)> = all(readings).await?.into_iter().flat_map(|(_, times)| times).collect();

    let within = |from: Duration, to: Duration| {
        let sent_then = times.iter().filter(|(sent, _)| *sent >= from && *sent < to);
        Times::of(sent_then.map(|(_, took)| *took).collect())
    };
    let (alone, during) = (within(warm_up, begin), within(begin, end));
    let times_alone = during.percentile(99).as_secs_f64() / alone.percentile(99).as_secs_f64().max(1e-9);
    let messages = during.len().saturating_add(mix.import.div_ceil(CHUNK));
    let mut figures = vec![
        Figure::new("p99 during the import, times without", times_alone, Unit::Ratio).at_most(5.0),
        Figure::millis("small writes without import, p50", alone.percentile(50)),
        Figure::millis("small writes without import, p99", alone.percentile(99)),
        Figure::millis("small writes during the import, p50", during.percentile(50)),
        Figure::millis("small writes during the import, p99", during.percentile(99)),
        Figure::millis("small writes during the import, longest", during.max()),
        Figure::new("imported meanwhile", rate(mix.import, imported.took), Unit::PerSecond),
        Figure::new(
            "small writes of all messages",
            100.0 * float(during.len()) / float(messages.max(1)),
            Unit::Percent,
        ),
        Figure::count("small writes", writes),
    ];
    figures.extend(meters);
    Ok(figures)
}

/// The small writes: each of the rooms in turn.
struct Pace {
    per_second: usize,
    most: usize,
    sent: Arc<SentAt>,
    total: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Pace {
    /// Writes until it is stopped. Returns how much it wrote.
    async fn keep(self, mut writers: Vec<Client>) -> Result<usize, Fault> {
        let mut ticks = interval(Duration::from_secs(1).div_f64(float(self.per_second.max(1))));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let rooms = writers.len();
        let mut row = 0_usize;
        let mut last = self.most;
        while row < last {
            for writer in &mut writers {
                ticks.tick().await;
                writer.look().await?;
                self.sent.stamp(row);
                let since = i64::try_from(row / rooms.max(1)).unwrap_or(i64::MAX);
                writer.send(&write(writer.site, row, since)).await?;
                row = row.saturating_add(1);
            }
            let stopped = self.stop.load(Ordering::Acquire);
            if !stopped && row.saturating_add(rooms.saturating_mul(2)) > self.most {
                return Err(Fault::Setup(format!("the import takes longer than {LONGEST} s")));
            }
            if stopped && last == self.most {
                // Readers are told how many there will be before the last ones come, so that these wake them.
                last = row.saturating_add(rooms);
                self.total.store(last, Ordering::Release);
            }
        }
        Ok(row)
    }
}

/// Notes of a room's small writes, of which nobody knows yet how many there will be.
#[derive(Debug)]
struct OpenEnd {
    timed: Timed,
    room: usize,
    rooms: usize,
    total: Arc<AtomicUsize>,
}

impl Notes for OpenEnd {
    fn note(&mut self, message: &Skimmed<'_>) -> Result<(), Fault> {
        self.timed.note(message)
    }

    fn missing(&self) -> usize {
        let total = self.total.load(Ordering::Acquire);
        let mine = total.saturating_sub(self.room).div_ceil(self.rooms.max(1));
        mine.saturating_sub(self.timed.ledger.seen())
    }

    fn missed(&self) -> String {
        format!("{} small writes in room {}", self.missing(), self.room)
    }
}
