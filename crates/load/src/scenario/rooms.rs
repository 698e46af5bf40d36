//! Many rooms of two clients each, all of them new.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::address::Address;
use crate::bench::{Bench, all};
use crate::client::{Client, Nothing};
use crate::fault::Fault;
use crate::figure::{Figure, Unit};
use crate::ledger::Ledger;
use crate::rows::{new_site, write};
use crate::statistics::{Times, rate};
use crate::storage::new_rooms;

/// Rooms that begin at the same time: more only wait for each other.
const AT_A_TIME: usize = 32;

/// Runs it.
pub(crate) async fn run(bench: &mut Bench, rooms: usize) -> Result<Vec<Figure>, Fault> {
    let idle = bench.memory();
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    let meter = bench.meter();
    let mut pairs = JoinSet::new();
    for number in 0..rooms {
        let (address, room, patience) = (bench.target.address.clone(), bench.room(number), bench.patience);
        let places = places.clone();
        pairs.spawn(async move {
            let _place = places.acquire().await;
            let start = Instant::now();
            let clients = pair(&address, &room, patience).await?;
            Ok((start.elapsed(), clients))
        });
    }
    let pairs = all(pairs).await?;
    let took = meter.start.elapsed();
    let meters = meter.figures();
    let all_open = bench.memory();
    let times = Times::of(pairs.iter().map(|(took, _)| *took).collect());
    let begun = rate(rooms, took);
    let mut figures = vec![
        Figure::new("rooms begun", begun, Unit::PerSecond).at_least(600.0),
        Figure::millis("until both clients of a room are in sync, p50", times.percentile(50)),
        Figure::millis("until both clients of a room are in sync, p99", times.percentile(99)),
    ];
    if let (Some(idle), Some(open)) = (idle, all_open) {
        figures
            .push(Figure::mebibytes("server's memory over idle, all open", open.saturating_sub(idle)).at_most(100.0));
    }
    if !bench.target.is_floor() {
        let folder = bench.folder.clone();
        let sqlite = rate(rooms, tokio::task::spawn_blocking(move || new_rooms(&folder, rooms)).await??);
        figures.push(Figure::new("plain SQLite alone, without clients", sqlite, Unit::PerSecond));
        figures.push(Figure::new("server, of plain SQLite alone", begun / sqlite, Unit::Ratio));
    }
    figures.extend(meters);
    Ok(figures)
}

/// Two clients connect to a room; what one writes the other one gets.
async fn pair(address: &Address, room: &str, patience: Duration) -> Result<(Client, Client), Fault> {
    let (mut one, mut other) = (Nothing, Nothing);
    let (mut writer, mut reader) = tokio::try_join!(
        Client::join(address, room, new_site()?, None, &mut one, patience),
        Client::join(address, room, new_site()?, None, &mut other, patience),
    )?;
    writer.send(&write(writer.site, 0, 0)).await?;
    reader.collect(&mut Ledger::of_rows(0..1), patience).await?;
    Ok((writer, reader))
}
