//! Reading changes.

use std::ops::ControlFlow;

use crr::{ChangesQuery, Crr};
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tempfile::tempdir;

use crate::data::{AUTHOR, COLUMNS, Keys, Scale, batches, database};
use crate::measure::{Rounds, in_turns, median, time};
use crate::merge::merge;
use crate::report::{Goal, Report};

/// Changes that a peer is behind when it catches up.
const BEHIND: i64 = 100;

/// Times that a catch-up is measured.
const CATCH_UPS: usize = 400;

pub(crate) fn run(report: &mut Report, scale: &Scale) {
    for keys in [Keys::Ordered, Keys::Random] {
        let goal = |goal| if let Keys::Ordered = keys { goal } else { Goal::Stated };
        let folder = tempdir().unwrap();
        let conn = filled(folder.path(), keys, scale.some);
        let all = ChangesQuery::default();
        let changes = read(&conn, &all).changes;
        assert_eq!(read(&conn, &all), read_as_reference(&conn, &all), "both read the same");
        let rounds = Rounds::play(scale.rounds, |_| {
            in_turns(&[all, all], |all| read(&conn, all), |all| read_as_reference(&conn, all))
        });
        report.rates(
            &format!("read {changes}, {keys}, of the reference's query"),
            changes * 2,
            &rounds,
            goal(Goal::AtLeast(2.0)),
        );
        let rounds = Rounds::play(scale.rounds, |_| {
            in_turns(&[all, all], |all| read_by_sql(&conn, all), |all| read_as_reference(&conn, all))
        });
        report.rates(&format!("read {changes} by SQL, {keys}, of that query"), changes * 2, &rounds, Goal::Stated);
    }
    catch_up(report, scale);
}

/// What it costs to be a little behind, and to be new, in databases of different size.
fn catch_up(report: &mut Report, scale: &Scale) {
    let folder = tempdir().unwrap();
    let large = filled(&folder.path().join("large"), Keys::Ordered, scale.many);
    let small = filled(&folder.path().join("small"), Keys::Ordered, 10_000);
    for conn in [&large, &small] {
        for number in 0..BEHIND {
            conn.execute("INSERT INTO item (id, amount) VALUES ('late ' || ?1, ?1)", [number]).unwrap();
        }
    }
    let behind = |conn| {
        let query = ChangesQuery::default().after(Crr::of(conn).unwrap().stored_db_version().unwrap() - BEHIND / 3);
        let read = read(conn, &query).changes as i64;
        assert!(BEHIND - COLUMNS as i64 <= read && read <= BEHIND);
        query
    };
    let (of_large, of_small) = (behind(&large), behind(&small));
    let duel = in_turns(&[(); CATCH_UPS], |()| read(&large, &of_large), |()| read(&small, &of_small));
    let micros = |times: &[std::time::Duration]| median(times.iter().map(|time| time.as_secs_f64() * 1e6).collect());
    let name = format!("catch up on {BEHIND} of {}, times that of 10000", scale.many);
    report.times(&name, micros(&duel.ours), micros(&duel.theirs), Goal::AtMost(1.5));

    let everything = ChangesQuery::default();
    let others = everything.exclude(AUTHOR);
    let read_others = time(|| assert_eq!(read(&large, &others).changes, 3 * BEHIND as usize));
    let read_all = time(|| read(&large, &everything));
    let micros = |time: std::time::Duration| time.as_secs_f64() * 1e6;
    report.times(
        "  from 0 without an author of 99 %, times that with",
        micros(read_others),
        micros(read_all),
        Goal::Stated,
    );
}

/// A database with about so many changes, all merged.
fn filled(folder: &std::path::Path, keys: Keys, changes: usize) -> Connection {
    std::fs::create_dir_all(folder).unwrap();
    let conn = database(folder, "filled");
    batches(keys, changes, 1).iter().for_each(|batch| merge(&conn, batch));
    conn
}

/// What was read, as far as whoever sends changes has to look at it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) changes: usize,
    bytes: usize,
    numbers: i64,
}

impl Seen {
    fn see(&mut self, texts: [&[u8]; 3], val: ValueRef<'_>, site_id: Option<&[u8]>, numbers: [i64; 4]) {
        self.changes += 1;
        let val = match val {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
            ValueRef::Null => 0,
            ValueRef::Integer(_) | ValueRef::Real(_) => 8,
        };
        self.bytes += texts.iter().map(|text| text.len()).sum::<usize>() + val + site_id.map_or(0, <[u8]>::len);
        self.numbers = numbers.iter().fold(self.numbers, |sum, number| sum.wrapping_add(*number));
    }
}

/// Reads through the native interface.
pub(crate) fn read(conn: &Connection, query: &ChangesQuery) -> Seen {
    let mut seen = Seen::default();
    let see = |change: crr::Change<'_>| {
        seen.see(
            [change.table.as_bytes(), change.pk, change.cid.as_bytes()],
            change.val,
            change.site_id.as_ref().map(|site| site.as_bytes().as_slice()),
            [change.col_version, change.db_version, change.cl, change.seq],
        );
        ControlFlow::Continue(())
    };
    Crr::of(conn).unwrap().read_changes(query, see).unwrap();
    seen
}

/// Reads `crsql_changes`.
fn read_by_sql(conn: &Connection, query: &ChangesQuery) -> Seen {
    let mut seen = Seen::default();
    let mut select = conn.prepare_cached("SELECT * FROM crsql_changes WHERE db_version > ?1").unwrap();
    let mut rows = select.query([query.after]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let bytes = |at| row.get_ref(at).unwrap().as_bytes().unwrap();
        let number = |at| row.get::<_, i64>(at).unwrap();
        let numbers = [number(4), number(5), number(7), number(8)];
        seen.see([bytes(0), bytes(1), bytes(2)], row.get_ref(3).unwrap(), Some(bytes(6)), numbers);
    }
    seen
}

/// Reads by a query of the shape that cr-sqlite uses: clock entries joined to keys, authors and sentinels, in the order of
/// versions, and then the value of each, by its row's key.
fn read_as_reference(conn: &Connection, query: &ChangesQuery) -> Seen {
    let mut seen = Seen::default();
    let mut select = conn
        .prepare_cached(
            "SELECT * FROM (
                 SELECT 'item' AS tbl, crsql_pack_columns(keys.id) AS pk, entry.col_name AS cid, entry.col_version,
                        entry.db_version AS db_version, author.site_id AS site_id,
                        coalesce(sentinel.col_version, 1) AS cl, entry.seq AS seq, keys.id AS id
                 FROM item__crsql_clock AS entry
                 JOIN item__crsql_pks AS keys ON keys.__crsql_key = entry.key
                 LEFT JOIN crsql_site_id AS author ON author.ordinal = entry.site_id
                 LEFT JOIN item__crsql_clock AS sentinel ON sentinel.key = entry.key AND sentinel.col_name = '-1'
             ) WHERE db_version > ?1 ORDER BY db_version, seq",
        )
        .unwrap();
    let mut values = ["amount", "title", "price"]
        .map(|column| (column, conn.prepare_cached(&format!("SELECT {column} FROM item WHERE id IS ?1")).unwrap()));
    let mut rows = select.query([query.after]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let bytes = |at| row.get_ref(at).unwrap().as_bytes().unwrap();
        let number = |at| row.get::<_, i64>(at).unwrap();
        let numbers = [number(3), number(4), number(6), number(7)];
        let (_, value) = values.iter_mut().find(|(column, _)| column.as_bytes() == bytes(2)).unwrap();
        let mut value = value.query([row.get_ref(8).unwrap().as_str().unwrap()]).unwrap();
        let val = value.next().unwrap().unwrap().get_ref(0).unwrap();
        seen.see([bytes(0), bytes(1), bytes(2)], val, Some(bytes(5)), numbers);
    }
    seen
}
