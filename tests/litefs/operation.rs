//! Nothing happens but that clients write, at all nodes.

use crate::cluster::{A, B, C, Cluster};

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_all_nodes_have_what_each_of_them_writes_in_a_room_created_through_a_replica() {
    let cluster = Cluster::start().await;
    let first = cluster.person(3, C);
    first.write();
    first.streams().await;
    let people = [first, cluster.person(1, A), cluster.person(2, B)];
    for _round in 0..10 {
        for person in &people {
            person.write();
        }
    }
    let key = people[1].write();
    people[1].change(key, "at last");
    cluster.agree(&people.each_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_changes_at_once_are_forwarded_as_well() {
    let cluster = Cluster::start().await;
    let (author, reader) = (cluster.person(1, B), cluster.person(2, C));
    author.streams().await;
    author.write_many(100_000);
    author.write();
    cluster.agree(&[&author, &reader]).await;
}
