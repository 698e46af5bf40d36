//! Many CRRs in one database.

use std::time::Duration;

use crr::{ChangesQuery, Crr};
use rusqlite::Connection;
use tempfile::tempdir;

use crate::data::{Scale, create_table, open};
use crate::measure::{in_turns, median};
use crate::read::read;
use crate::report::{Goal, Report};

const TABLES: usize = 600;

/// Rows of the whole database.
const ROWS: usize = 6_000;

/// Rows that are new: 102 changes.
const NEW: usize = 34;

/// Times that reading is measured.
const READS: usize = 200;

pub(crate) fn run(report: &mut Report, _: &Scale) {
    let folder = tempdir().unwrap();
    let one = filled(open(folder.path(), "one"), 1);
    let many = filled(open(folder.path(), "many"), TABLES);
    for (name, last_tables) in [("in one of them", 1), ("in as many as there are rows", NEW)] {
        let newest = |conn: &Connection, tables| {
            let before = Crr::of(conn).unwrap().stored_db_version().unwrap();
            write(conn, NEW, tables);
            ChangesQuery::default().after(before)
        };
        let (of_one, of_many) = (newest(&one, 1), newest(&many, last_tables));
        let duel = in_turns(
            &[(); READS],
            |()| assert_eq!(read(&many, &of_many).changes, 3 * NEW),
            |()| assert_eq!(read(&one, &of_one).changes, 3 * NEW),
        );
        let micros = |times: &[Duration]| median(times.iter().map(|time| time.as_secs_f64() * 1e6).collect());
        let name = format!("read {} of {TABLES} CRRs, {name}, times one", 3 * NEW);
        report.times(&name, micros(&duel.ours), micros(&duel.theirs), Goal::AtMost(3.0));
    }
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

/// Writes rows to some tables in turn, in one transaction.
fn write(conn: &Connection, rows: usize, tables: usize) {
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
}
