//! Another node becomes the primary, because the one before was killed or ended.

use std::time::{Duration, Instant};

use crate::cluster::{A, B, C, Cluster};
use crate::fixture::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_while_clients_write_takes_nothing_with_it_thirty_times() {
    let cluster = Cluster::start().await;
    let people = [cluster.person(1, A), cluster.person(2, B), cluster.person(3, C), cluster.person(4, B)];
    for person in &people {
        person.write();
    }
    for round in 0..30 {
        let (primary, next) = (round % 3, (round + 1) % 3);
        for person in &people {
            person.write();
            person.write();
        }
        // Sometimes it is killed while it is just being asked, and sometimes when a client has had an answer.
        if round % 2 == 0 {
            let rows = people[0].written().len();
            until("a client to have something of the others", async || people[1].rows().await.len() > rows).await;
        }
        cluster.kill(primary);
        people[round % people.len()].write();
        cluster.promote(next);
        cluster.start_server(primary).await;
        people[(round + 1) % people.len()].write();
    }
    cluster.agree(&people.each_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_primary_had_shown_and_not_replicated_comes_back_from_clients() {
    let cluster = Cluster::start().await;
    let (author, witness, other) = (cluster.person(1, A), cluster.person(2, A), cluster.person(3, B));
    author.write();
    cluster.agree(&[&author, &witness, &other]).await;
    for node in [B, C] {
        cluster.connect(node, false);
    }
    let forwarded = other.write();
    author.write();
    let key = author.write();
    author.change(key, "changed");
    until("the witness to see it all", async || {
        let rows = witness.rows().await;
        rows.len() == 4 && rows.contains(&(key, "changed".to_owned())) && rows.iter().any(|row| row.0 == forwarded)
    })
    .await;
    cluster.kill(A);
    cluster.promote(B);
    // The author stays away; what it wrote comes back from who has seen it.
    witness.go_to(cluster.address(B));
    cluster.connect(C, true);
    cluster.has(B, 4).await;
    other.write();
    cluster.connect(A, true);
    cluster.start_server(A).await;
    cluster.agree(&[&author, &witness, &other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_of_which_a_killed_primary_had_replicated_nothing_comes_back_from_clients() {
    let cluster = Cluster::start().await;
    for node in [B, C] {
        cluster.connect(node, false);
    }
    let (author, other) = (cluster.person(1, A), cluster.person(2, A));
    author.write();
    other.has(1).await;
    cluster.kill(A);
    cluster.connect(C, true);
    cluster.promote(B);
    other.go_to(cluster.address(C));
    let late = cluster.person(3, B);
    late.write();
    cluster.connect(A, true);
    cluster.start_server(A).await;
    cluster.agree(&[&author, &other, &late]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_muted_and_not_closed_after_a_promotion_and_get_everything() {
    let cluster = Cluster::start().await;
    let (author, near, far) = (cluster.person(1, B), cluster.reader(2, A), cluster.reader(3, C));
    author.write();
    cluster.agree(&[&author, &near, &far]).await;
    for round in 0..2 {
        let (primary, next) = ([A, B][round], [B, A][round]);
        cluster.demote_to(next);
        author.write();
        cluster.agree(&[&author, &near, &far]).await;
        assert!(cluster.log(primary).contains("has changed"), "its role has changed");
    }
    for reader in [&near, &far] {
        let closes = reader.closes();
        assert!(closes.iter().all(|(code, _)| [1001, 1013].contains(code)), "{closes:?}");
        assert!(closes.len() <= 4, "it is not closed again and again: {closes:?}");
    }
}

/// It may have left in the middle of what it was being sent, and have passed cells that had been written again and are lost there.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_all_that_each_new_primary_has_once() {
    let cluster = Cluster::start().await;
    let (author, at_b, at_c) = (cluster.person(1, C), cluster.person(2, B), cluster.person(3, C));
    for _row in 0..200 {
        author.write();
    }
    cluster.agree(&[&author, &at_b, &at_c]).await;
    for person in [&at_b, &at_c] {
        person.reload();
        person.streams().await;
    }
    let before = [at_b.received().await, at_c.received().await];
    for (primary, next) in [(A, B), (B, C), (C, A)] {
        cluster.kill(primary);
        cluster.promote(next);
        cluster.start_server(primary).await;
        for person in [&at_b, &at_c] {
            person.write();
        }
        cluster.agree(&[&author, &at_b, &at_c]).await;
        // All of what it has is older than what it announced when it was loaded.
        for person in [&at_b, &at_c] {
            person.reload();
            person.streams().await;
        }
    }
    for (person, before) in [&at_b, &at_c].into_iter().zip(before) {
        let again = person.received().await - before;
        assert!(
            (600..800).contains(&again),
            "client {} got {again} changes of three primaries that had 200 rows",
            person.n
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_asked_to_end_ends_soon_and_its_clients_go_on_elsewhere() {
    let cluster = Cluster::start().await;
    let (author, other) = (cluster.person(1, A), cluster.person(2, C));
    author.write();
    cluster.agree(&[&author, &other]).await;
    let took = cluster.terminate(A).await;
    assert!(took.as_secs() < 8, "{took:?}");
    assert_eq!(author.closes().last().map(|close| close.0), Some(1001));
    cluster.promote(C);
    author.go_to(cluster.address(B));
    author.write();
    other.write();
    cluster.start_server(A).await;
    cluster.agree(&[&author, &other]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_that_is_being_opened_when_the_primary_changes_does_not_hold_the_others_up() {
    let cluster = Cluster::start().await;
    let author = cluster.person(1, A);
    author.write();
    for node in [B, C] {
        cluster.has(node, 1).await;
        cluster.connect(node, false);
    }
    for _commit in 0..10 {
        let key = author.write();
        until("the commit", async || cluster.rows(A, "r").is_some_and(|rows| rows.iter().any(|row| row.0 == key)))
            .await;
    }
    // It waits for a copy of ten more transactions, which no copy will ever have.
    let waiting = cluster.person(2, C);
    until("node C to ask", async || cluster.log(C).contains("site announced")).await;
    cluster.kill(A);
    cluster.promote(B);
    cluster.connect(C, true);
    let begun = Instant::now();
    waiting.streams().await;
    assert!(begun.elapsed() < Duration::from_secs(30), "it need not wait for the time limit of requests");
    waiting.write();
    author.go_to(cluster.address(B));
    cluster.connect(A, true);
    cluster.start_server(A).await;
    cluster.agree(&[&author, &waiting]).await;
}
