//! The engine as a loadable extension, in programs that aren't ours: the `sqlite3` shell and Python, and one in Rust.
//!
//! `cargo xtask extension` builds the library, finds the programs, and runs these tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod closing;
mod files;
mod hosts;
mod loading;
mod processes;
mod refusals;
mod values;
