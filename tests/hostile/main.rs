//! A thousand connections of each kind that means no good, to a server in a process of its own: what they make it hold is bounded, and
//! given back; and whoever means well is served meanwhile.

#![cfg(target_os = "linux")]
#![allow(clippy::async_yields_async, reason = "an attack connects first, and goes on when all are connected")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod attack;
#[allow(dead_code, unused_imports, reason = "shared with the tests in `tests/sync`, and neither uses all of it")]
#[path = "../sync/fixture/mod.rs"]
mod fixture;
mod kinds;
mod list;
#[allow(dead_code, reason = "shared with the tests in `tests/stacks`, and neither uses all of it")]
#[path = "../stacks/process.rs"]
mod process;
mod storm;
mod target;
