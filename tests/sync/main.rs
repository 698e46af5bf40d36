//! The middleware over real sockets: axum servers on free ports, clients that speak the wire format by hand, and clients that keep a
//! database of their own as vlcn's do. One module a behaviour, one process for all: they share nothing but the code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod backup;
mod closing;
mod convergence;
mod disconnecting;
mod durability;
#[allow(dead_code, unused_imports, reason = "shared with the tests in `tests/stacks`, and neither uses all of it")]
mod fixture;
mod forking;
mod gaps;
mod guarding;
mod hostile_files;
mod identities;
mod limits;
mod migration;
mod numbers;
mod observing;
mod outside;
mod quarantine;
mod readme;
mod rights;
mod rooms;
mod session;
mod sleeping;
mod stores;
mod times;
mod went_back;
