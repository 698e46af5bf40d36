//! A thousand connections that do the same.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};

use crate::target::Target;

/// How many connections attack.
const CONNECTIONS: usize = 1_000;

/// How many are made at a time.
const AT_A_TIME: usize = 50;

/// How long an attack goes on once all are there.
const LASTS: Duration = Duration::from_secs(1);

/// What the allocator may keep of an attack that is over, in KiB: blocks that are partly in use.
const LEFT_OVER: u64 = 16 << 10;

/// One attack at a time: the others would slow down what has to be prompt.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Attacks a server with connections that `attack` makes, and that go on while what it returns is polled. None may cost more than
/// `most` KiB, and nothing is left of them when they are gone: a second wave finds the server as the first one did. Others are
/// served meanwhile.
pub(crate) async fn survives<F, G>(settings: &[(&str, &str)], most: u64, attack: impl Fn(SocketAddr, usize) -> F)
where
    F: Future<Output = G>,
    G: Future<Output = ()>,
{
    let _alone = ALONE.lock().await;
    let mut target = Target::start(settings).await;
    target.fill("big", 60).await;
    target.works().await;
    let before = target.resident();
    let first = wave(&mut target, &attack).await;
    let each = first.saturating_sub(before) / CONNECTIONS as u64;
    println!("{before} KiB before, {first} KiB during the attack: {each} KiB a connection");
    assert!(each <= most, "{each} KiB a connection");
    target.gives_back(before + first.saturating_sub(before) / 4 + LEFT_OVER).await;
    let second = wave(&mut target, &attack).await;
    assert!(second <= first + first / 4 + LEFT_OVER, "{first} KiB the first time, {second} KiB the second");
    target.works().await;
}

/// One attack; the most that the server held, in KiB.
async fn wave<F, G>(target: &mut Target, attack: impl Fn(SocketAddr, usize) -> F) -> u64
where
    F: Future<Output = G>,
    G: Future<Output = ()>,
{
    let address = target.address();
    let arriving = stream::iter(0..CONNECTIONS).map(|n| attack(address, n)).buffer_unordered(AT_A_TIME);
    let mut attackers: FuturesUnordered<G> = arriving.collect().await;
    let attacking = async {
        while attackers.next().await.is_some() {}
        std::future::pending::<()>().await;
    };
    let mut most = 0;
    let watching = async {
        let end = Instant::now() + LASTS;
        while Instant::now() < end {
            most = most.max(target.resident());
            target.works().await;
            most = most.max(target.resident());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = attacking => {}
    }
    most
}
