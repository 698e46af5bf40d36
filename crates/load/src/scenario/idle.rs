//! Clients that are connected, and that is all.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::bench::{Bench, all};
use crate::fault::Fault;
use crate::figure::{Figure, Unit};
use crate::ledger::Ledger;
use crate::rows::write;
use crate::statistics::float;

/// Lets what connecting has started come to its end.
const SETTLE: Duration = Duration::from_secs(2);

/// More than this share of a core is work, not chance: a clock tick of the kernel is 10 ms.
const NO_LOAD: f64 = 1.0;

/// Runs it: the connections are spread over the rooms.
pub(crate) async fn run(
    bench: &mut Bench,
    connections: usize,
    rooms: usize,
    watch: Duration,
) -> Result<Vec<Figure>, Fault> {
    let writers = bench.join_many(rooms, |number| number).await?;
    let before = bench.memory();
    let readers = bench.join_many(connections, |number| number % rooms.max(1)).await?;
    sleep(SETTLE.min(watch)).await;
    let after = bench.memory();
    let meter = bench.meter();
    sleep(watch).await;
    let load = meter.server_load();

    // Nobody was forgotten: each hears of a row.
    let mut readings = JoinSet::new();
    for mut reader in readers {
        let patience = bench.patience;
        readings.spawn(async move {
            reader.collect(&mut Ledger::of_rows(0..1), patience).await?;
            Ok(reader)
        });
    }
    for mut writer in writers {
        writer.look().await?;
        writer.send(&write(writer.site, 0, 0)).await?;
        // It stays connected until everybody has heard of it.
        readings.spawn(async move { Ok(writer) });
    }
    all(readings).await?;

    let mut figures = Vec::new();
    if let (Some(before), Some(after)) = (before, after) {
        let grown = float(usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX));
        let each =
            Figure::new("server's memory a connection", grown / float(connections.max(1)) / 1024.0, Unit::Kibibytes);
        figures.push(if rooms == 1 { each.at_most(6.0) } else { each });
    }
    figures.extend(load.map(|load| load.at_most(NO_LOAD)));
    Ok(figures)
}
