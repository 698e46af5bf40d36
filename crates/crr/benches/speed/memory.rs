//! Memory: what merging and reading take, whatever there is to merge or to read.
//!
//! Each figure is the growth of a process of its own, from when it has opened the database, and holds the changes that it is
//! to merge, to its peak.

use std::path::Path;
use std::process::{Command, Stdio};

use crr::{Change, ChangesQuery, Crr, Merge, MergeOptions};
use rusqlite::Connection;
use tempfile::tempdir;

use crate::data::{Keys, Scale, batches, database, open};
use crate::read::read;
use crate::report::{Goal, Report};

/// The argument that makes this program a process to be measured. Its task, a folder and a number of changes follow.
pub(crate) const TASK: &str = "--memory-of";

/// What is measured, in an order in which each finds its database.
const TASKS: [(&str, Task); 4] = [
    ("merging one changeset", merge_one),
    ("reading its one version", read_one),
    ("merging one changeset a version", merge_many),
    ("reading these versions", read_many),
];

/// Prepares, and returns the kibibytes that it was using before the work and those of its peak.
type Task = fn(&Path, usize) -> Option<[f64; 2]>;

pub(crate) fn run(report: &mut Report, scale: &Scale) {
    let sizes = [scale.some, scale.some * 10];
    let folders = sizes.map(|_| tempdir().unwrap());
    for (name, _) in TASKS {
        let [few, many] = [0, 1].map(|at| growth_of(name, folders[at].path(), sizes[at]));
        let (Some(few), Some(many)) = (few, many) else {
            println!("memory is measured on Linux only");
            return;
        };
        let name = format!("memory of {name}: {}, times {}", sizes[1], sizes[0]);
        report.sizes(&name, many, few, Goal::AtMost(1.5));
    }
}

/// How much a process grows with a task, in kibibytes.
fn growth_of(task: &str, folder: &Path, changes: usize) -> Option<f64> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([TASK, task])
        .arg(folder)
        .arg(changes.to_string())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(child.status.success(), "{task}: {}", child.status);
    String::from_utf8(child.stdout).unwrap().trim().parse().ok()
}

/// The process that is measured.
pub(crate) fn child(mut arguments: impl Iterator<Item = String>) {
    let mut next = || arguments.next().unwrap();
    let (name, folder, changes) = (next(), next(), next());
    let (_, task) = TASKS.into_iter().find(|(known, _)| *known == name).unwrap();
    if let Some([before, peak]) = task(Path::new(&folder), changes.parse().unwrap()) {
        println!("{}", peak - before);
    }
}

/// Everything in one version.
fn merge_one(folder: &Path, changes: usize) -> Option<[f64; 2]> {
    let (conn, batches) = (database(folder, "one"), batches(Keys::Ordered, changes, 1));
    let before = kibibytes("VmRSS")?;
    let all = batches.iter().flat_map(|batch| batch.changes());
    let all = all.zip(0..).map(|(change, seq)| Change { db_version: 1, seq, ..change });
    merge(&conn, all);
    Some([before, kibibytes("VmHWM")?])
}

fn merge_many(folder: &Path, changes: usize) -> Option<[f64; 2]> {
    let (conn, batches) = (database(folder, "many"), batches(Keys::Ordered, changes, 1));
    let before = kibibytes("VmRSS")?;
    batches.iter().for_each(|batch| merge(&conn, batch.changes()));
    Some([before, kibibytes("VmHWM")?])
}

fn merge<'a>(conn: &Connection, changes: impl Iterator<Item = Change<'a>> + Clone) {
    let transaction = conn.unchecked_transaction().unwrap();
    Merge::new(&transaction, MergeOptions::default()).unwrap().changeset(changes).unwrap();
    transaction.commit().unwrap();
}

fn read_one(folder: &Path, changes: usize) -> Option<[f64; 2]> {
    read_all(folder, "one", changes)
}

fn read_many(folder: &Path, changes: usize) -> Option<[f64; 2]> {
    read_all(folder, "many", changes)
}

fn read_all(folder: &Path, name: &str, changes: usize) -> Option<[f64; 2]> {
    let conn = open(folder, name);
    crr::load(&conn).unwrap();
    Crr::of(&conn).unwrap().stored_db_version().unwrap();
    let before = kibibytes("VmRSS")?;
    let read = read(&conn, &ChangesQuery::default()).changes;
    assert!(read <= changes && read > changes * 9 / 10, "{read} of {changes}");
    Some([before, kibibytes("VmHWM")?])
}

/// What the kernel says of this process: `VmRSS` is the memory that it uses now, `VmHWM` the most that it has used.
fn kibibytes(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
