//! A thousand connections that do the same.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep_until};

use crate::target::Target;

/// How many connections attack.
const CONNECTIONS: usize = 1_000;

/// How many are made at a time.
const AT_A_TIME: usize = 50;

/// How long an attack goes on once all are there.
const LASTS: Duration = Duration::from_millis(500);

/// What the allocator may keep of an attack that is over, in KiB: blocks that are partly in use.
const LEFT_OVER: u64 = 32 << 10;

/// One attack at a time: the others would slow down what has to be prompt.
pub(crate) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Attacks a server, twice, with connections that `attack` makes, and that go on while what it returns is polled. None may cost more
/// than `most` KiB, and little is left of them when they are gone. Others are served meanwhile.
pub(crate) async fn survives<F, G>(settings: &[(&str, &str)], most: u64, attack: impl Fn(SocketAddr, usize) -> F)
where
    F: Future<Output = G>,
    G: Future<Output = ()>,
{
    let _alone = ALONE.lock().await;
    let mut target = Target::start(settings).await;
    target.works().await;
    let before = target.resident();
    for _wave in 0..2 {
        let during = wave(&mut target, &attack).await;
        let each = during.saturating_sub(before) / CONNECTIONS as u64;
        println!("{before} KiB before, {during} KiB during the attack: {each} KiB a connection");
        assert!(each <= most, "{each} KiB a connection");
        target.gives_back(before + during.saturating_sub(before) / 4 + LEFT_OVER).await;
    }
    target.works().await;
}

/// One attack; the most that the server held, in KiB.
async fn wave<F, G>(target: &mut Target, attack: impl Fn(SocketAddr, usize) -> F) -> u64
where
    F: Future<Output = G>,
    G: Future<Output = ()>,
{
    let address = target.address();
    let attacking = async {
        let mut arriving = pin!(stream::iter(0..CONNECTIONS).map(|n| attack(address, n)).buffer_unordered(AT_A_TIME));
        let mut there = FuturesUnordered::new();
        let mut end = None;
        loop {
            tokio::select! {
                arrived = arriving.next(), if end.is_none() => match arrived {
                    Some(attacker) => there.push(attacker),
                    None => end = Some(Instant::now() + LASTS),
                },
                Some(()) = there.next() => {}
                () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => return,
            }
        }
    };
    let mut most = 0;
    let watching = async {
        loop {
            most = most.max(target.resident());
            target.works().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = attacking => {}
    }
    most.max(target.resident())
}
