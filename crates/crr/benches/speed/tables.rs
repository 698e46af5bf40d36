//! Many CRRs in one database.

use std::time::Duration;

use crr::{ChangesQuery, Crr};
use rusqlite::Connection;
use tempfile::tempdir;

use crate::data::{Scale, create_table, open};
use crate::measure::{Duel, in_turns, median, time};
use crate::read::read;
use crate::report::{Goal, Report};

const TABLES: usize = 600;

/// Rows of the whole database.
const ROWS: usize = 6_000;

/// Rows that are new: 102 changes.
const NEW: usize = 34;

/// Times that reading what doesn't change is measured.
const READS: usize = 200;

/// Times that reading what was just written is measured.
const COMMITS: usize = 60;

pub(crate) fn run(report: &mut Report, _: &Scale) {
    let folder = tempdir().unwrap();
    let one = filled(open(folder.path(), "one"), 1);
    let many = filled(open(folder.path(), "many"), TABLES);
    for (name, tables) in [("in one of them", 1), ("in as many as there are rows", NEW)] {
        let (of_one, of_many) = (write(&one, NEW, 1), write(&many, NEW, tables));
        let duel = in_turns(&[(); READS], |()| read_new(&many, &of_many), |()| read_new(&one, &of_one));
        compare(report, &format!("read {} of {TABLES} CRRs, {name}, times one", 3 * NEW), &duel, Goal::AtMost(3.0));
    }

    // Whoever reads what was just written finds other pages in SQLite's cache, and after another connection's commit none.
    compare(
        report,
        "  just committed, in one of them",
        &after_commits([&many, &one], [&many, &one]),
        Goal::AtMost(3.0),
    );
    let others = ["many", "one"].map(|name| {
        let conn = open(folder.path(), name);
        crr::load(&conn).unwrap();
        conn
    });
    let duel = after_commits([&many, &one], others.each_ref());
    compare(report, "  just committed by another connection", &duel, Goal::Stated);
}

/// Reads after each of some commits in one table.
fn after_commits([many, one]: [&Connection; 2], [many_writer, one_writer]: [&Connection; 2]) -> Duel {
    let mut duel = Duel { ours: Vec::new(), theirs: Vec::new() };
    for _ in 0..COMMITS {
        let (of_many, of_one) = (write(many_writer, NEW, 1), write(one_writer, NEW, 1));
        duel.ours.push(time(|| read_new(many, &of_many)));
        duel.theirs.push(time(|| read_new(one, &of_one)));
    }
    duel
}

fn read_new(conn: &Connection, query: &ChangesQuery) {
    assert_eq!(read(conn, query).changes, 3 * NEW);
}

fn compare(report: &mut Report, name: &str, duel: &Duel, goal: Goal) {
    let micros = |times: &[Duration]| median(times.iter().map(|time| time.as_secs_f64() * 1e6).collect());
    report.times(name, micros(&duel.ours), micros(&duel.theirs), goal);
}

/// A database with so many CRRs, and the same rows whatever their number.
fn filled(conn: Connection, tables: usize) -> Connection {
    let crr = crr::load(&conn).unwrap();
    let transaction = conn.unchecked_transaction().unwrap();
    for table in 0..tables {
        create_table(&conn, &format!("item{table}"));
    }
    transaction.commit().unwrap();
    for table in 0..tables {
        crr.as_crr(&format!("item{table}")).unwrap();
    }
    write(&conn, ROWS, tables);
    conn
}

/// Writes rows to some tables in turn, in one transaction. Returns what reads them.
fn write(conn: &Connection, rows: usize, tables: usize) -> ChangesQuery {
    let before = Crr::of(conn).unwrap().stored_db_version().unwrap();
    let transaction = conn.unchecked_transaction().unwrap();
    for row in 0..rows {
        let table = row % tables;
        conn.execute(
            &format!("INSERT INTO item{table} SELECT count(*), ?1, 'an item', 1.5 FROM item{table}"),
            [row as i64],
        )
        .unwrap();
    }
    transaction.commit().unwrap();
    ChangesQuery::default().after(before)
}
