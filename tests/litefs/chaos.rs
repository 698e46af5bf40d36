//! Whatever happens, in whichever order.

use std::time::Duration;

use crate::cluster::{A, B, C, Cluster};
use crate::fixture::Random;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_nothing_is_lost() {
    for seed in seeds() {
        eprintln!("seed {seed}");
        let mut random = Random::new(seed);
        let cluster = Cluster::start().await;
        let people = [cluster.person(1, A), cluster.person(2, B), cluster.person(3, C), cluster.person(4, A)];
        let mut primary = Some(A);
        let mut is_up = [true; 3];
        for _step in 0..40 {
            let (node, other) = (random.below(3), random.below(3));
            match random.below(12) {
                0 if is_up[node] && is_up.iter().filter(|up| **up).count() > 1 => {
                    cluster.kill(node);
                    is_up[node] = false;
                    primary = primary.filter(|primary| *primary != node);
                }
                1 | 2 if !is_up[node] => {
                    cluster.start_server(node).await;
                    is_up[node] = true;
                }
                3 | 4 if is_up[node] && primary != Some(node) => {
                    cluster.promote(node);
                    primary = Some(node);
                }
                5 => {
                    cluster.dismiss();
                    primary = None;
                }
                6 => cluster.connect(node, random.one_in(3)),
                7 => cluster.link(node, other).hold(),
                8 => cluster.link(node, other).cut(),
                9 => cluster.link(node, other).mend(),
                10 => people[random.below(4)].reload(),
                _ => people[random.below(4)].go_to(cluster.address(node)),
            }
            people[random.below(4)].write();
            people[random.below(4)].write();
            if random.one_in(3) {
                // So that some of it comes somewhere before the next thing happens.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        for node in [A, B, C] {
            if !is_up[node] {
                cluster.start_server(node).await;
            }
            cluster.connect(node, true);
            [A, B, C].iter().for_each(|other| cluster.link(node, *other).mend());
        }
        if primary.is_none() {
            cluster.promote(B);
        }
        cluster.agree(&people.each_ref()).await;
    }
}

/// The same one in every run, or those that are asked for, as in `CHAOS_SEEDS=1..100`.
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("CHAOS_SEEDS").ok();
    let parsed = asked.as_deref().and_then(|seeds| {
        let (from, to) = seeds.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    assert_eq!(asked.is_some(), parsed.is_some(), "CHAOS_SEEDS is a range such as 1..100");
    parsed.unwrap_or(1..3)
}
