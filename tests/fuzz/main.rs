//! Sessions that real clients had, changed at random, against the example server: as messages, and as the bytes of their frames.
//!
//! Whatever comes, the process lives, those who mean well go on in the same room and in another one, the file stays sound, no clock
//! leaves its bounds, and a new client can still take all that the server took.
//!
//! `FUZZ_SEED` repeats what was sent, but for the timing; `FUZZ_SESSIONS` tries more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod bytes;
mod exchange;
#[allow(dead_code, unused_imports, reason = "shared with the tests in `tests/sync`, and neither uses all of it")]
#[path = "../sync/fixture/mod.rs"]
mod fixture;
mod frame;
mod messages;
#[allow(dead_code, reason = "shared with the tests in `tests/stacks`, and neither uses all of it")]
#[path = "../stacks/process.rs"]
mod process;
mod recording;
mod scene;

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream};

use exchange::{Sent, exchange};
use fixture::Random;
use recording::Recording;
use scene::{ROOM, Scene};

/// How many sessions there are unless `FUZZ_SESSIONS` says otherwise.
const SESSIONS: u64 = 300;

/// How many sessions there are between two looks at those who mean well.
const BETWEEN_LOOKS: u64 = 50;

/// How many sessions go on at a time.
const AT_A_TIME: usize = 8;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

/// Has sessions with a server that `make` makes of recorded ones.
async fn fuzz(make: impl Fn(&mut Random, &Recording) -> Sent) {
    let seed = setting("FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let sessions = setting("FUZZ_SESSIONS").unwrap_or(SESSIONS);
    println!("FUZZ_SEED={seed} FUZZ_SESSIONS={sessions}");
    let mut scene = Scene::start().await;
    let recording = Recording::of(scene.address(), ROOM).await;
    let (mut ends, mut changesets) = (BTreeMap::<_, u32>::new(), recording.changesets());
    let mut done = 0;
    while done < sessions {
        let upto = sessions.min(done + BETWEEN_LOOKS);
        let (recording, make, address) = (&recording, &make, scene.address());
        let mut going = stream::iter(done..upto)
            .map(|n| async move {
                let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(n));
                let sent = make(&mut random, recording);
                let end = exchange(address, ROOM, &mut random, &sent).await;
                (end, sent.changesets)
            })
            .buffer_unordered(AT_A_TIME);
        while let Some((end, sent)) = going.next().await {
            *ends.entry(end).or_default() += 1;
            changesets += sent;
        }
        scene.goes_on().await;
        done = upto;
    }
    println!("how they ended: {ends:?}");
    scene.is_sound(changesets).await;
}
