//! Three servers, processes of their own, on a cluster of which the tests play LiteFS: they copy what the primary commits to the others,
//! promote and demote nodes, kill servers, and cut what connects them. Clients write and read all the while, with the habits of vlcn's.
//! Whatever happens, in the end all clients and all nodes have the same, and nothing that anybody wrote or saw is lost.

// LiteFS runs on Linux only.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod access;
mod chaos;
mod cluster;
#[allow(dead_code, unused_imports, reason = "shared with the tests in `tests/sync`, and neither uses all of it")]
#[path = "../sync/fixture/mod.rs"]
mod fixture;
mod flapping;
mod link;
mod links;
mod node;
mod operation;
mod person;
mod promotion;
mod replication;
