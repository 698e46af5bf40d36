//! The same operations on this engine and on cr-sqlite itself, and what both then have, field by field.
//!
//! A seed makes a scenario: three sites with the same tables, which write, exchange changes, alter their tables. Each step
//! is run on both engines, as SQL, and then everything that the databases hold is compared: changes, rows, the internal
//! tables, and whether statements failed. The reference is the WASM build from npm, in Node. Where it has defects that are
//! mended here, [`mend`] says which and how the comparison deals with them.
//!
//! `cargo xtask differential` runs it. One seed alone:
//!
//! ```sh
//! DIFFERENTIAL_START=42 DIFFERENTIAL_SEEDS=1 cargo test --release -p crr --test differential -- --ignored
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod cell;
mod engine;
mod evolve;
mod generate;
mod mend;
mod observe;
mod ours;
mod play;
mod random;
mod reference;
mod scenario;
mod shrink;
mod sql;
mod tables;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use ours::Ours;
use play::Stage;
use reference::Reference;
use shrink::shrink;

/// How many seeds are tried, unless `DIFFERENTIAL_SEEDS` says otherwise.
const SEEDS: u64 = 2000;

#[test]
#[ignore = "needs Node and the packages of tests/interop: cargo xtask differential"]
fn both_engines_hold_the_same_after_every_step() {
    let first = number("DIFFERENTIAL_START").unwrap_or(0);
    let end = first + number("DIFFERENTIAL_SEEDS").unwrap_or(SEEDS);
    let (next, merged) = (AtomicU64::new(first), AtomicUsize::new(0));
    let failure = thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let work = || {
            let (mut ours, mut reference) = (Ours::default(), Reference::start());
            let mut stage = Stage::new(&mut ours, &mut reference);
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    return None;
                }
                let scenario = generate::scenario(seed);
                match stage.play(&scenario) {
                    Ok(changes) => merged.fetch_add(changes, Ordering::Relaxed),
                    Err(difference) => {
                        // Nobody else has to begin another one.
                        next.store(end, Ordering::Relaxed);
                        let first = difference.to_string();
                        let (scenario, difference) = shrink(&mut stage, scenario, difference);
                        return Some(format!(
                            "seed {seed}: {first}\nmade small:\n{scenario}\n{difference}\n{}",
                            command(seed)
                        ));
                    }
                };
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().unwrap()).next()
    });
    if let Some(failure) = failure {
        panic!("{failure}");
    }
    println!("{} seeds, {} changes merged", end - first, merged.into_inner());
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text}, which is no number")))
}

/// What runs one seed alone.
fn command(seed: u64) -> String {
    format!(
        "DIFFERENTIAL_START={seed} DIFFERENTIAL_SEEDS=1 cargo test --release -p crr --test differential -- --ignored"
    )
}
