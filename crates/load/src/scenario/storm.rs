//! All clients come back at once, after a while in which their rooms went on without them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower_sqlite_sync_wire::SiteId;

use crate::address::Address;
use crate::bench::{Bench, all};
use crate::client::{Client, Nothing, Seen};
use crate::fault::Fault;
use crate::figure::Figure;
use crate::ledger::Ledger;
use crate::rows::{import, new_site};
use crate::statistics::Times;

/// Rooms that are filled at the same time.
const FILLING: usize = 16;

/// A client that doesn't get in comes again after this at the soonest, and after three times this at the latest.
const RETRY: Duration = Duration::from_secs(1);

/// Runs it: each client lacks the later half of its room's changes.
pub(crate) async fn run(bench: &mut Bench, clients: usize, rooms: usize, changes: usize) -> Result<Vec<Figure>, Fault> {
    let half = changes / 2;
    let seen = fill(bench, rooms, half, changes).await?;
    // What makes all clients come back at once is a server that has gone.
    bench.target.restart().await?;

    let barrier = Arc::new(Barrier::new(clients.saturating_add(1)));
    let mut returning = JoinSet::new();
    for (number, (room, seen)) in (0..clients).zip(seen.iter().cycle()) {
        let guest = Returning {
            address: bench.target.address.clone(),
            room: bench.room(*room),
            site: new_site()?,
            seen: *seen,
            missing: Ledger::of_cells(half..changes),
            patience: bench.patience,
            hurry: u32::try_from(number).unwrap_or_default(),
        };
        let barrier = barrier.clone();
        returning.spawn(async move {
            barrier.wait().await;
            guest.come_back().await
        });
    }
    barrier.wait().await;
    let meter = bench.meter();
    let back = all(returning).await?;
    let meters = meter.figures();
    let times = Times::of(back.iter().map(|back| back.at.duration_since(meter.start)).collect());
    let mut figures = vec![
        Figure::seconds("until all are in sync", times.max()).at_most(3.0),
        Figure::seconds("until one is, p50", times.percentile(50)),
        Figure::seconds("until one is, p99", times.percentile(99)),
        Figure::count("attempts that failed", back.iter().map(|back| back.failed).sum()),
    ];
    figures.extend(meters);
    Ok(figures)
}

/// Fills the rooms, and says where their clients were at half time.
async fn fill(bench: &Bench, rooms: usize, half: usize, changes: usize) -> Result<Vec<(usize, Seen)>, Fault> {
    let places = Arc::new(Semaphore::new(FILLING));
    let mut filling = JoinSet::new();
    for number in 0..rooms {
        let (address, room, patience) = (bench.target.address.clone(), bench.room(number), bench.patience);
        let places = places.clone();
        filling.spawn(async move {
            let _place = places.acquire().await;
            let site = new_site()?;
            let mut reader = Client::join(&address, &room, new_site()?, None, &mut Nothing, patience).await?;
            let mut writer = Client::join(&address, &room, site, None, &mut Nothing, patience).await?;
            let mut notes = Ledger::of_cells(0..half);
            writer.send(&import(site, 0..half, half, 0).concat()).await?;
            reader.collect(&mut notes, patience).await?;
            let server = reader.server().ok_or_else(|| Fault::Wrong("changes of nobody".to_owned()))?;
            let seen = (server, notes.version);
            writer.send(&import(site, half..changes, changes, 1).concat()).await?;
            reader.collect(&mut Ledger::of_cells(half..changes), patience).await?;
            Ok((number, seen))
        });
    }
    all(filling).await
}

/// A client that comes back.
struct Returning {
    address: Address,
    room: String,
    site: SiteId,
    seen: Seen,
    missing: Ledger,
    patience: Duration,
    /// Spreads the retries.
    hurry: u32,
}

struct Back {
    at: Instant,
    failed: usize,
    _client: Client,
}

impl Returning {
    /// Tries again and again, as the clients in browsers do, but not for ever.
    async fn come_back(mut self) -> Result<Back, Fault> {
        let begin = Instant::now();
        let mut failed = 0_usize;
        loop {
            match self.attempt().await {
                Ok(client) => return Ok(Back { at: Instant::now(), failed, _client: client }),
                Err(fault) if !fault.is_passing() || begin.elapsed() >= self.patience => return Err(fault),
                Err(_) => failed = failed.saturating_add(1),
            }
            // Chosen once, between one and three times the least.
            sleep(RETRY + RETRY.saturating_mul(self.hurry % 100) / 50).await;
        }
    }

    async fn attempt(&mut self) -> Result<Client, Fault> {
        let Self { address, room, site, seen, missing, patience, .. } = self;
        let mut client = Client::join(address, room, *site, Some(*seen), missing, *patience).await?;
        client.collect(missing, *patience).await?;
        Ok(client)
    }
}
