//! The same operations on this engine and on cr-sqlite itself, and what both then have, field by field.
//!
//! A seed makes a scenario: three sites with the same tables, which write, exchange changes, alter their tables. Each step
//! is run on both engines, as SQL, and then everything that the databases hold is compared: changes, rows, the internal
//! tables, and whether statements failed. The reference is the WASM build from npm, in Node. Where it has defects that are
//! mended here, [`mend`] says which and how the comparison deals with them.
//!
//! A second test has both engines work on the same files in turn, and compares that with this engine alone.
//!
//! `cargo xtask differential` runs them. One seed alone:
//!
//! ```sh
//! DIFFERENTIAL_START=42 DIFFERENTIAL_SEEDS=1 cargo test --release -p crr --test differential -- --ignored
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod alternating;
mod at_rest;
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

use alternating::Alternating;
use play::Stage;
use reference::Reference;
use scenario::Scenario;
use shrink::shrink;

#[test]
#[ignore = "needs Node and the packages of tests/interop: cargo xtask differential"]
fn both_engines_hold_the_same_after_every_step() {
    let stage = || Stage::new("the reference", Reference::start());
    Trial { test: "hold_the_same", seeds: 2000, scenario: generate::scenario }.run(stage);
}

#[test]
#[ignore = "needs Node and the packages of tests/interop: cargo xtask differential"]
fn a_file_that_both_engines_write_in_turn_is_as_if_one_had_written_it() {
    let stage = || Stage::new("both in turn", Alternating::start());
    Trial { test: "in_turn", seeds: 800, scenario: generate::scenario_of_files }.run(stage);
}

/// Many scenarios.
struct Trial {
    /// What of its name tells the test from others.
    test: &'static str,
    /// How many seeds are tried, unless `DIFFERENTIAL_SEEDS` says otherwise.
    seeds: u64,
    scenario: fn(u64) -> Scenario,
}

impl Trial {
    /// Plays the scenario of each seed. Each worker does so on a stage of its own.
    fn run(&self, stage: impl Fn() -> Stage + Sync) {
        let first = number("DIFFERENTIAL_START").unwrap_or(0);
        let end = first + number("DIFFERENTIAL_SEEDS").unwrap_or(self.seeds);
        let (next, merged) = (AtomicU64::new(first), AtomicUsize::new(0));
        let failure = thread::scope(|scope| {
            let workers = thread::available_parallelism().map_or(1, usize::from);
            let work = || {
                let mut stage = stage();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return None;
                    }
                    let scenario = (self.scenario)(seed);
                    match stage.play(&scenario) {
                        Ok(changes) => merged.fetch_add(changes, Ordering::Relaxed),
                        Err(difference) => {
                            // Nobody else has to begin another one.
                            next.store(end, Ordering::Relaxed);
                            let first = difference.to_string();
                            let (scenario, difference) = shrink(&mut stage, scenario, difference);
                            return Some(format!(
                                "seed {seed}: {first}\nmade small:\n{scenario}\n{difference}\n{}",
                                self.command(seed)
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
        println!("{}: {} seeds, {} changes merged", self.test, end - first, merged.into_inner());
    }

    /// What runs one seed alone.
    fn command(&self, seed: u64) -> String {
        format!(
            "DIFFERENTIAL_START={seed} DIFFERENTIAL_SEEDS=1 cargo test --release -p crr --test differential -- --ignored {}",
            self.test
        )
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text}, which is no number")))
}
