//! How fast the engine is, measured against what SQLite itself needs. `cargo bench -p crr --bench speed`
//!
//! The floor is plain rusqlite: prepared statements that write the same rows to the same tables, in the same transactions,
//! and decide nothing. Engine and floor run in one process on files with the pragmas of the server's writer, and take turns
//! at each transaction, so that whatever else the machine does meets both alike. A round gives one ratio; the median of the
//! rounds is printed beside its goal.
//!
//! The files are in the folder for temporary files, which TMPDIR names. On a disk, much of the time goes to commits, which
//! are the same on both sides; with `TMPDIR=/dev/shm` they are nearly free, and the ratios are those of the engine alone.
//!
//! `-- --quick` takes fewer rounds and a tenth of the changes; any other word picks the groups with that name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    missing_docs
)]

mod data;
mod floor;
mod local;
mod measure;
mod memory;
mod merge;
mod read;
mod report;
mod tables;

use crate::data::Scale;
use crate::report::Report;

/// Measures some related things.
type Group = fn(&mut Report, &Scale);

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|argument| argument == memory::TASK).is_some() {
        return memory::child(arguments);
    }
    let mut scale = Scale::full();
    let mut wanted = Vec::new();
    for argument in arguments {
        match argument.as_str() {
            "--quick" => scale = Scale::quick(),
            // Cargo says this to every benchmark.
            "--bench" => {}
            word => wanted.push(word.to_owned()),
        }
    }
    let groups: [(&str, Group); 5] = [
        ("merge", merge::run),
        ("local", local::run),
        ("read", read::run),
        ("tables", tables::run),
        ("memory", memory::run),
    ];
    let mut report = Report::default();
    for (name, run) in groups {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            run(&mut report, &scale);
        }
    }
    report.finish();
}
