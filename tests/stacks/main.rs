//! The layer in the servers that people build: on every one of them clients sync, and whatever else is served there is still served.
//! One module a stack.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod axum;
mod examples;
#[allow(dead_code, unused_imports, reason = "shared with the tests in `tests/sync`, and neither uses all of it")]
#[path = "../sync/fixture/mod.rs"]
mod fixture;
mod http2;
mod hyper;
mod layers;
mod process;
mod session;
mod tls;
