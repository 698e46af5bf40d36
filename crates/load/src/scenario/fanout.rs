//! One client writes small messages; many read them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tower_sqlite_sync_wire::SiteId;

use crate::bench::{Bench, SentAt, Timed, all};
use crate::client::Client;
use crate::fault::Fault;
use crate::figure::{Figure, Unit};
use crate::ledger::Ledger;
use crate::rows::write;
use crate::statistics::{Times, float, rate};
use crate::storage::paced_commits;

/// How often it is tried how long a commit takes.
const COMMITS: usize = 100;

/// So many messages a second: how long until each reader has each.
pub(crate) async fn paced(
    bench: &mut Bench,
    readers: usize,
    per_second: usize,
    messages: usize,
) -> Result<Vec<Figure>, Fault> {
    let (mut writer, readings, sent) = begin(bench, readers, messages).await?;
    let frames = frames(writer.site, messages);
    let meter = bench.meter();
    let period = Duration::from_secs(1).div_f64(float(per_second.max(1)));
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for (row, frame) in frames.iter().enumerate() {
        ticks.tick().await;
        writer.look().await?;
        sent.stamp(row);
        writer.send(frame).await?;
    }
    let times = all(readings).await?.into_iter().flat_map(|received| received.times);
    let times = Times::of(times.map(|(_, took)| took).collect());
    let meters = meter.figures();
    let folder = bench.folder.clone();
    let commits = tokio::task::spawn_blocking(move || paced_commits(&folder, period, COMMITS)).await??;
    let (median, commit) = (times.percentile(50), Times::of(commits).percentile(50));
    // The floor passes on what it has not stored.
    let stored = if bench.target.is_floor() { median.saturating_add(commit) } else { median };
    let mut figures = vec![
        Figure::millis("from send to receipt, p50", median).at_most(1.5),
        Figure::millis("the same with a synced commit, which the floor lacks", stored),
        Figure::millis("a synced commit by plain SQLite alone, p50", commit),
        Figure::millis("from send to receipt, p99", times.percentile(99)).at_most(5.0),
        Figure::millis("from send to receipt, longest", times.max()),
        Figure::count("deliveries", times.len()),
    ];
    figures.extend(meters);
    Ok(figures)
}

/// All messages at once: how many deliveries a second.
pub(crate) async fn flat_out(bench: &mut Bench, readers: usize, messages: usize) -> Result<Vec<Figure>, Fault> {
    let (mut writer, readings, _) = begin(bench, readers, messages).await?;
    let frames = frames(writer.site, messages).concat();
    let meter = bench.meter();
    writer.send(&frames).await?;
    let received = all(readings).await?;
    let deliveries = readers.saturating_mul(messages);
    let took = received.iter().map(|received| received.at).max().unwrap_or(meter.start).duration_since(meter.start);
    let mut figures = vec![
        Figure::new("deliveries", rate(deliveries, took), Unit::PerSecond).at_least(1_000_000.0),
        Figure::seconds("time", took),
        Figure::count("messages received", received.iter().map(|received| received.messages).sum()),
    ];
    figures.extend(meter.figures());
    Ok(figures)
}

/// What one reader got.
#[derive(Debug)]
struct Reading {
    times: Vec<(Duration, Duration)>,
    messages: usize,
    at: Instant,
    /// Stays connected until all have everything: a server that loses clients has less to do.
    _client: Client,
}

type Begun = (Client, JoinSet<Result<Reading, Fault>>, Arc<SentAt>);

async fn begin(bench: &Bench, readers: usize, messages: usize) -> Result<Begun, Fault> {
    let writer = bench.join(&bench.room(0)).await?;
    let clients = bench.join_many(readers, |_| 0).await?;
    let sent = SentAt::new(messages);
    let mut readings = JoinSet::new();
    for mut client in clients {
        let mut notes = Timed::new(Ledger::of_rows(0..messages), sent.clone());
        let patience = bench.patience;
        readings.spawn(async move {
            client.collect(&mut notes, patience).await?;
            let at = Instant::now();
            Ok(Reading { times: notes.times, messages: client.messages(), at, _client: client })
        });
    }
    Ok((writer, readings, sent))
}

fn frames(site: SiteId, messages: usize) -> Vec<Vec<u8>> {
    (0..messages).zip(0..).map(|(row, since)| write(site, row, since)).collect()
}
