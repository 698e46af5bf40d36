//! What connects the nodes breaks.

use std::time::Duration;

use crate::cluster::{A, B, C, Cluster};

#[tokio::test(flavor = "multi_thread")]
async fn a_forward_that_is_lost_between_two_others_leaves_no_hole() {
    let cluster = Cluster::start().await;
    let (author, reader) = (cluster.person(1, B), cluster.person(2, A));
    author.write();
    cluster.agree(&[&author, &reader]).await;
    for _round in 0..3 {
        author.write();
        cluster.link(B, A).hold();
        author.write();
        author.write();
        // It is under way: nothing else is to be waited for.
        tokio::time::sleep(Duration::from_millis(50)).await;
        cluster.link(B, A).cut();
        cluster.link(B, A).mend();
        author.write();
        cluster.agree(&[&author, &reader]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_cut_off_for_a_while_catches_up_both_ways() {
    let cluster = Cluster::start().await;
    let (far, near, third) = (cluster.person(1, C), cluster.person(2, A), cluster.person(3, B));
    far.write();
    cluster.agree(&[&far, &near, &third]).await;
    cluster.connect(C, false);
    cluster.link(C, A).cut();
    for _row in 0..20 {
        far.write();
        near.write();
    }
    third.has(21).await;
    cluster.link(C, A).mend();
    cluster.has(A, 41).await;
    cluster.connect(C, true);
    cluster.agree(&[&far, &near, &third]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_only_some_nodes_reach_serves_those_and_then_all() {
    let cluster = Cluster::start().await;
    let (far, near) = (cluster.person(1, C), cluster.person(2, B));
    far.write();
    near.write();
    cluster.agree(&[&far, &near]).await;
    cluster.link(C, A).hold();
    far.write();
    near.write();
    cluster.has(B, 3).await;
    cluster.demote_to(B);
    cluster.agree(&[&far, &near]).await;
}
