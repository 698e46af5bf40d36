//! Everybody comes back at once, as after a restart of the server: all are served in turn.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;

use crate::attack::ALONE;
use crate::fixture::{Client, ClientOptions, soon};
use crate::kinds::site;
use crate::target::Target;

const CLIENTS: usize = 2_000;
const ROOMS: usize = 400;

#[tokio::test]
async fn two_thousand_clients_that_reconnect_at_once_are_all_served_in_turn() {
    let _alone = ALONE.lock().await;
    let mut target = Target::start(&[]).await;
    let address = target.address();
    let coming = join_all((0..CLIENTS).map(|n| come_in(address, n)));
    let served = tokio::select! {
        served = soon("everybody to be served", coming) => served,
        () = async { loop { target.works().await } } => unreachable!(),
    };
    println!("{} tries for {CLIENTS} clients", served.iter().map(|(_, tries)| tries).sum::<usize>());
    assert!(served.iter().all(|(_, tries)| *tries < 10), "nobody is refused again and again");
    target.works().await;
}

/// Connects and announces itself as vlcn's clients do, which come back after one to three seconds for as long as they are refused; the
/// client, and how often it took.
async fn come_in(address: SocketAddr, n: usize) -> (Client, usize) {
    let room = format!("storm-{}", n % ROOMS);
    for tries in 1.. {
        if let Ok(mut client) = Client::try_connect(address, &room, 0, ClientOptions::default()).await {
            client.site = site(n);
            client.announce(&[]).await;
            if client.admitted().await.is_ok() {
                return (client, tries);
            }
        }
        tokio::time::sleep(Duration::from_secs(1) + Duration::from_millis(u64::try_from(n).unwrap())).await;
    }
    unreachable!()
}
