//! A new client comes to a room where much has happened.

use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::client::{Client, Nothing};
use crate::fault::Fault;
use crate::figure::{Figure, Unit};
use crate::ledger::Ledger;
use crate::rows::new_site;
use crate::scenario::ingest::fill;
use crate::statistics::{Times, float, rate};
use crate::usage::Peak;

/// New clients that come to the open room; the median of their times counts.
const ROUNDS: usize = 5;

/// Runs it.
pub(crate) async fn run(bench: &mut Bench, changes: usize) -> Result<Vec<Figure>, Fault> {
    let room = bench.room(0);
    let seen = fill(bench, &room, changes).await?.seen;
    // What the server keeps of the import is not what a new client takes.
    bench.target.restart().await?;
    let idle = bench.memory();
    let peak = bench.target.process.map(Peak::watch);

    // The first one finds the room closed. Then somebody is there who has everything, as in a room that is used.
    let cold = catch_up(bench, &room, changes).await?;
    let mut nothing = Nothing;
    let resident = Client::join(&bench.target.address, &room, new_site()?, seen, &mut nothing, bench.patience).await?;
    let meter = bench.meter();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push(catch_up(bench, &room, changes).await?.took);
    }
    let most = peak.and_then(|peak| peak.most());
    let meters = meter.figures();
    drop(resident);

    let took = Times::of(times).percentile(50);
    let mut figures = vec![
        Figure::seconds("until a new client has everything", took).at_most(0.8 * float(changes) / 1e6),
        Figure::seconds("until the first one has, the room being closed", cold.took),
        Figure::new("changes", rate(changes, took), Unit::PerSecond),
        Figure::mebibytes("bytes", u64::try_from(cold.bytes).unwrap_or(u64::MAX)),
        Figure::count("messages", cold.messages),
    ];
    if let (Some(idle), Some(most)) = (idle, most) {
        figures.push(Figure::mebibytes("server's peak over idle", most.saturating_sub(idle)).at_most(64.0));
    }
    figures.extend(meters);
    Ok(figures)
}

struct CaughtUp {
    took: Duration,
    bytes: usize,
    messages: usize,
}

/// From before the connection to the last change.
async fn catch_up(bench: &Bench, room: &str, changes: usize) -> Result<CaughtUp, Fault> {
    let mut notes = Ledger::of_cells(0..changes);
    let site = new_site()?;
    let start = Instant::now();
    let mut client = Client::join(&bench.target.address, room, site, None, &mut notes, bench.patience).await?;
    client.collect(&mut notes, bench.patience).await?;
    Ok(CaughtUp { took: start.elapsed(), bytes: client.bytes(), messages: client.messages() })
}
