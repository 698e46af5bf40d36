//! The server is killed again and again, while clients write, and started again on the same files and the same port.
//!
//! What a client was shown, and what it was told of its own changes, is what it goes on from. So nothing of that may be gone, whenever
//! the server dies, and no db_version that a client has passed may come to mean something else.
//!
//! `CRASH_SEED` repeats what was random in a run, but for the timing; `CRASH_ROUNDS` makes it longer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]
#![cfg(unix)]

#[cfg(target_os = "linux")]
mod first_sync;
#[allow(dead_code, unused_imports, reason = "shared with the tests in `tests/sync`, and neither uses all of it")]
#[path = "../sync/fixture/mod.rs"]
mod fixture;
mod ledger;
mod life;
mod process;
mod remains;
mod steps;

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use fixture::Random;
use ledger::Ledger;
use life::{Observer, Writer};
use process::Process;

/// Each room with its number of writers.
const ROOMS: [(&str, u8); 2] = [("one", 4), ("two", 2)];

/// What the clients of one room share with the test.
#[derive(Clone)]
struct World {
    room: &'static str,
    address: SocketAddr,
    ledger: Arc<Mutex<Ledger>>,
    /// Counts the server's lives.
    life: Arc<AtomicUsize>,
    /// Nobody writes any more.
    calm: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

struct Room {
    world: World,
    clients: Vec<JoinHandle<Option<Writer>>>,
}

impl Room {
    fn start(room: &'static str, writers: u8, address: SocketAddr, random: &mut Random) -> Self {
        let world = World {
            room,
            address,
            ledger: Arc::default(),
            life: Arc::default(),
            calm: Arc::default(),
            stop: Arc::default(),
        };
        let mut clients: Vec<_> = (1..=writers)
            .map(|n| {
                let writer = Writer::new(n, world.clone(), Random::new(random.next()));
                tokio::spawn(async move { Some(writer.live().await) })
            })
            .collect();
        let observer = Observer::new(world.clone());
        clients.push(tokio::spawn(async move {
            observer.live().await;
            None
        }));
        Self { world, clients }
    }

    /// Waits until every client has what the server has, and ends them.
    async fn settle(self, process: &Process) {
        self.world.calm.store(true, Ordering::Relaxed);
        let file = process.file(self.world.room);
        let begun = Instant::now();
        while !self.world.ledger.lock().unwrap().agree(&remains::rows_of(&file)) {
            assert!(self.clients.iter().all(|client| !client.is_finished()), "a client failed");
            if begun.elapsed() > Duration::from_secs(60) {
                let difference = self.world.ledger.lock().unwrap().difference(&remains::rows_of(&file));
                panic!("room {} does not converge: {difference:#?}", self.world.room);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.world.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.world.ledger.lock().unwrap().conclude(&remains::rows_of(&file));
    }
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_the_server_is_killed_nothing_that_clients_rely_on_is_lost() {
    let seed = setting("CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let rounds = setting("CRASH_ROUNDS").unwrap_or(60);
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let mut random = Random::new(seed);
    let begun = Instant::now();

    let mut process = Process::start().await;
    let rooms = ROOMS.map(|(room, writers)| Room::start(room, writers, process.address(), &mut random));
    for _ in 0..rounds {
        process.live_and_die(&mut random).await;
        for room in &rooms {
            assert!(room.clients.iter().all(|client| !client.is_finished()), "a client of {} failed", room.world.room);
            remains::check(&process.file(room.world.room), &room.world.ledger.lock().unwrap());
            room.world.life.fetch_add(1, Ordering::Relaxed);
        }
        process.restart().await;
    }
    for room in rooms {
        let (name, ledger) = (room.world.room, room.world.ledger.clone());
        room.settle(&process).await;
        println!("room {name}: {}", ledger.lock().unwrap());
    }
    process.end().await;
    for (room, _) in ROOMS {
        assert!(!process.file(&format!("{room}-wal")).exists(), "a log is left of {room}");
        remains::check_integrity(&process.file(room));
    }
    println!("{rounds} kills in {:?}", begun.elapsed());
}
