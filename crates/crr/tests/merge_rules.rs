//! Random changes, well formed or not so well, in any order: the engine against the rules of merging, written down once more
//! in the plainest way. Through SQL one by one, and through the native merge in changesets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crr::{Merge, MergeOptions, SiteId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use rusqlite::types::Value;
use site::{FOO, OwnedChange, Site, canonical, site};

const SCHEMA: &str = "
    CREATE TABLE foo(a INTEGER PRIMARY KEY NOT NULL, b, c DEFAULT 'd', r REAL);
    SELECT crsql_as_crr('foo');";

const COLUMNS: [&str; 3] = ["b", "c", "r"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_change_has_the_effect_that_the_rules_give_it(transactions in vec(vec(change(), 1..12), 1..5)) {
        let mut rules = Rules::default();
        let (by_sql, native) = (Site::new("B", SCHEMA), Site::new("B", SCHEMA));
        for changes in &transactions {
            by_sql.insert(changes);

            let tx = native.transaction();
            let mut merge = Merge::new(&tx, MergeOptions::default()).unwrap();
            let merged = merge.changeset(changes.iter().map(OwnedChange::borrowed)).unwrap();
            tx.commit().unwrap();

            let outcomes: Vec<Outcome> = changes.iter().map(|change| rules.merge(change)).collect();
            rules.commit();
            let count = |wanted: fn(Outcome) -> bool| -> u64 {
                outcomes.iter().filter(|outcome| wanted(**outcome)).count().try_into().unwrap()
            };
            prop_assert_eq!(merged.no_ops, count(|outcome| outcome == Outcome::NoOp));
            prop_assert_eq!(merged.applied, count(|outcome| outcome != Outcome::NoOp));
            prop_assert_eq!(merged.won_by_value, count(|outcome| outcome == Outcome::WonByValue));
            prop_assert_eq!(merged.db_version, rules.committed);

            for site in [&by_sql, &native] {
                prop_assert_eq!(site.rows("foo"), rules.rows());
                prop_assert_eq!(canonical(site.changes()), canonical(rules.changes()));
                prop_assert_eq!(site.db_version(), rules.committed);
                prop_assert_eq!(site.crr().stored_db_version().unwrap(), rules.committed);
            }
            let side_tables = ["foo__crsql_clock", "foo__crsql_pks", "crsql_site_id"];
            for table in side_tables {
                prop_assert_eq!(native.rows(table), by_sql.rows(table));
            }
        }
    }
}

/// A change of one of three rows, with small numbers so that they meet.
fn change() -> impl Strategy<Value = OwnedChange> {
    let values = vec![
        Value::Null,
        Value::Integer(1),
        Value::Integer(-5),
        Value::Real(1.0),
        Value::Real(2.5),
        Value::Text("a".into()),
        Value::Text("B".into()),
        Value::Blob(vec![0]),
    ];
    (
        (1..4_u8, select(vec!["-1", "-1", "b", "c", "r"]), select(values)),
        (0..4_i64, 0..12_i64, select(vec![None, Some("X"), Some("Y"), Some("B"), Some("C")])),
        (prop_oneof![4 => Just(1_i64), 4 => 2..4_i64, 1 => 0..7_i64], 0..4_i64),
    )
        .prop_map(|((key, cid, val), (col_version, db_version, author), (cl, seq))| OwnedChange {
            table: "foo".to_owned(),
            pk: vec![1, 9, key],
            cid: cid.to_owned(),
            val,
            // Usually the causal length, but nothing makes a sender say so.
            col_version: if cid == "-1" && seq > 0 { cl } else { col_version },
            db_version,
            site_id: author.map(site),
            cl,
            seq,
        })
}

/// The state of a site, as far as merging goes.
#[derive(Debug, Default)]
struct Rules {
    rows: BTreeMap<u8, Row>,
    committed: i64,
    pending: i64,
}

#[derive(Debug, Default)]
struct Row {
    entries: BTreeMap<String, Entry>,
    /// `None` while the row is dead.
    values: Option<BTreeMap<&'static str, Value>>,
}

#[derive(Clone, Debug)]
struct Entry {
    col_version: i64,
    db_version: i64,
    author: SiteId,
    seq: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    NoOp,
    Won,
    WonByValue,
}

impl Rules {
    fn merge(&mut self, change: &OwnedChange) -> Outcome {
        let key = change.pk[2];
        let next = (self.committed + 1).max(self.pending).max(change.db_version);
        let val = stored_as(&change.cid, &change.val);
        let winner = |col_version| Entry {
            col_version,
            db_version: next,
            author: change.site_id.unwrap_or(site("B")),
            seq: change.seq,
        };
        let row = self.rows.entry(key).or_default();
        let local_cl = row.cl();
        if change.cl < local_cl || (change.cl == local_cl && (change.cl % 2 == 0 || change.cid == "-1")) {
            return Outcome::NoOp;
        }
        if change.cl % 2 == 0 {
            *row = Row { entries: [("-1".to_owned(), winner(change.cl))].into(), values: None };
            self.pending = next;
            return Outcome::Won;
        }
        let ahead = change.cl > local_cl;
        let mut outcome = Outcome::Won;
        if !ahead && let Some(entry) = row.entries.get(&change.cid) {
            match change.col_version.cmp(&entry.col_version) {
                Ordering::Less => return Outcome::NoOp,
                Ordering::Greater => {}
                Ordering::Equal => {
                    let current = &row.values.as_ref().unwrap()[change.cid.as_str()];
                    if order(&val, current) != Ordering::Greater {
                        return Outcome::NoOp;
                    }
                    outcome = Outcome::WonByValue;
                }
            }
        }
        if change.cid == "-1" || (ahead && (local_cl != 0 || change.cl > 1)) {
            for (_, entry) in row.entries.iter_mut().filter(|(cid, _)| *cid != "-1") {
                (entry.col_version, entry.db_version) = (0, next);
            }
            row.entries.insert("-1".to_owned(), winner(change.cl));
        }
        let defaults = || COLUMNS.map(|c| (c, if c == "c" { Value::Text("d".into()) } else { Value::Null })).into();
        let values = row.values.get_or_insert_with(defaults);
        if let Some(column) = COLUMNS.into_iter().find(|column| *column == change.cid) {
            values.insert(column, val);
            row.entries.insert(change.cid.clone(), winner(change.col_version));
        }
        self.pending = next;
        outcome
    }

    fn commit(&mut self) {
        self.committed = self.committed.max(self.pending);
        self.pending = 0;
    }

    fn rows(&self) -> Vec<String> {
        let alive = self.rows.iter().filter_map(|(key, row)| Some((key, row.values.as_ref()?)));
        let line = |(key, values): (&u8, &BTreeMap<&str, Value>)| {
            let cells: Vec<String> = COLUMNS.iter().map(|column| site::literal((&values[column]).into())).collect();
            format!("{key}, {}", cells.join(", "))
        };
        let mut lines: Vec<String> = alive.map(line).collect();
        lines.sort();
        lines
    }

    fn changes(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (key, row) in &self.rows {
            for (cid, entry) in &row.entries {
                let val = row.values.as_ref().and_then(|values| values.get(cid.as_str()));
                let change = OwnedChange {
                    table: "foo".to_owned(),
                    pk: vec![1, 9, *key],
                    cid: cid.clone(),
                    val: val.cloned().unwrap_or(Value::Null),
                    col_version: entry.col_version,
                    db_version: entry.db_version,
                    site_id: Some(entry.author),
                    cl: row.cl(),
                    seq: entry.seq,
                };
                lines.push(change.line());
            }
        }
        lines
    }
}

impl Row {
    fn cl(&self) -> i64 {
        match self.entries.get("-1") {
            Some(sentinel) => sentinel.col_version,
            None => i64::from(!self.entries.is_empty()),
        }
    }
}

/// What the columns make of the values that are used here.
fn stored_as(cid: &str, val: &Value) -> Value {
    match val {
        Value::Integer(1) if cid == "r" => Value::Real(1.0),
        Value::Integer(-5) if cid == "r" => Value::Real(-5.0),
        _ => val.clone(),
    }
}

/// INTEGER > REAL > TEXT > BLOB > NULL, then the value.
fn order(one: &Value, other: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Null => 0,
        Value::Blob(_) => 1,
        Value::Text(_) => 2,
        Value::Real(_) => 3,
        Value::Integer(_) => 4,
    };
    match (one, other) {
        (Value::Integer(one), Value::Integer(other)) => one.cmp(other),
        (Value::Real(one), Value::Real(other)) => one.total_cmp(other),
        (Value::Text(one), Value::Text(other)) => one.as_bytes().cmp(other.as_bytes()),
        (Value::Blob(one), Value::Blob(other)) => one.cmp(other),
        _ => rank(one).cmp(&rank(other)),
    }
}

/// Versions of the new life begin at 0, whoever has the values: as in cr-sqlite. Whoever inserts the row again writes all of its columns,
/// and then all copies have those.
#[test]
fn a_row_revived_by_its_sentinel_alone_keeps_its_values_where_its_death_was_not_seen() {
    let (seen, unseen) = (Site::new("B", FOO), Site::new("A", FOO));
    for site in [&seen, &unseen] {
        site.merge("foo 010901 b 1 1 1 X 1 0");
    }
    seen.merge("foo 010901 -1 NULL 2 2 X 2 0");
    for site in [&seen, &unseen] {
        site.merge("foo 010901 -1 NULL 3 3 X 3 0");
    }
    assert_eq!(
        (seen.rows("foo"), unseen.rows("foo")),
        (vec!["1, NULL, NULL".to_owned()], vec!["1, 1, NULL".to_owned()])
    );
    for site in [&seen, &unseen] {
        site.merge("foo 010901 b 7 1 4 X 3 0");
    }
    assert_eq!(seen.rows("foo"), unseen.rows("foo"));
}
