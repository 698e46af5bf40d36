//! What goes wrong around a server: disks that are full or read-only, files that are damaged, locked or gone, ends in the middle of work.
//! The room that is hit says so to its clients, other rooms go on, and once the cause is gone it goes on too, without a restart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]
#![cfg(target_os = "linux")]

mod disks;
mod files;
#[allow(dead_code, unused_imports, reason = "shared with the tests in `tests/sync`, and neither uses all of it")]
#[path = "../sync/fixture/mod.rs"]
mod fixture;
mod idle;
mod log;
mod scene;
mod shutdown;
mod volume;
