//! The lease goes to and fro, or to nobody.

use crate::cluster::{A, B, C, Cluster};
use crate::fixture::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_the_interim_primary_never_opened_loses_nothing() {
    let cluster = Cluster::start().await;
    let (author, witness) = (cluster.person(1, A), cluster.person(2, A));
    author.write();
    cluster.agree(&[&author, &witness]).await;
    // B gets the lease and lacks the last commits; nobody comes to it. A's file goes back to what B has.
    cluster.connect(B, false);
    cluster.connect(C, false);
    author.write();
    author.write();
    witness.has(3).await;
    author.leave();
    witness.leave();
    cluster.connect(C, true);
    cluster.demote_to(B);
    until("A to have what B has", async || cluster.rows(A, "r").is_some_and(|rows| rows.len() == 1)).await;
    until("A to know", async || cluster.log(A).contains("now=Replica")).await;
    cluster.connect(B, true);
    cluster.demote_to(A);
    // Under the versions that the others have passed.
    let late = cluster.person(3, A);
    late.write();
    late.write();
    cluster.has(C, 3).await;
    author.go_to(cluster.address(C));
    witness.go_to(cluster.address(A));
    cluster.agree(&[&author, &witness, &late]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_comes_and_goes_faster_than_rooms_are_closed_loses_nothing() {
    let cluster = Cluster::start().await;
    let people = [cluster.person(1, A), cluster.person(2, B), cluster.person(3, C)];
    for round in 0..12 {
        for person in &people {
            person.write();
        }
        if round % 3 == 0 {
            people[0].has(3 * (round + 1)).await;
        }
        cluster.demote_to([B, A, C][round % 3]);
        if round % 2 == 0 {
            cluster.demote_to([A, C, B][round % 3]);
        }
    }
    cluster.agree(&people.each_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_has_the_lease_clients_are_told_to_come_again_and_then_lose_nothing() {
    let cluster = Cluster::start().await;
    let (at_a, at_b) = (cluster.person(1, A), cluster.person(2, B));
    at_a.write();
    cluster.agree(&[&at_a, &at_b]).await;
    cluster.dismiss();
    at_a.write();
    at_b.write();
    let new = cluster.person_in("new", 3, C);
    new.write();
    for person in [&at_a, &at_b, &new] {
        until("a refusal", async || person.closes().iter().any(|(code, _)| *code == 1013)).await;
    }
    let closes: Vec<(u16, String)> = [&at_a, &at_b, &new].iter().flat_map(|person| person.closes()).collect();
    assert!(closes.iter().all(|(code, _)| [1001, 1013].contains(code)), "{closes:?}");
    cluster.promote(B);
    cluster.agree(&[&at_a, &at_b]).await;
    cluster.agree(&[&new]).await;
}
