//! Recorded histories: random writes and pulls between two or three sites, run once on cr-sqlite 0.16.3.
//!
//! Each line of `data/crr-traces.jsonl` holds a schema, the ids of the sites, the steps, and what each site held afterwards.
//! Replaying the steps here, through SQL and through the native interface, has to end in the same state, clocks included.
//! The histories of `data/crr-traces-pkmove.jsonl` change primary keys. The recorded engine doesn't converge on them, so they
//! carry no outcome: here all sites have to end with the same rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use std::collections::BTreeMap;

use crr::{Merge, MergeOptions, SiteId};
use rusqlite::types::{Value, ValueRef};
use serde::Deserialize;

use site::{OwnedChange, Site, canonical, unhex};

#[test]
fn every_trace_replayed_through_sql_ends_in_the_recorded_state() {
    let traces = traces(include_str!("data/crr-traces.jsonl"));
    assert_eq!(traces.len(), 300);
    for trace in &traces {
        trace.replay(Lane::Sql).is_as_recorded();
    }
}

#[test]
fn every_trace_replayed_through_the_native_merge_ends_in_the_recorded_state() {
    let traces = traces(include_str!("data/crr-traces.jsonl"));
    assert_eq!(traces.len(), 300);
    for trace in &traces {
        trace.replay(Lane::Native).is_as_recorded();
    }
}

#[test]
fn every_trace_with_key_changes_converges_through_sql() {
    let traces = traces(include_str!("data/crr-traces-pkmove.jsonl"));
    assert_eq!(traces.len(), 60);
    for trace in &traces {
        trace.replay(Lane::Sql).converges();
    }
}

#[test]
fn every_trace_with_key_changes_converges_through_the_native_merge() {
    let traces = traces(include_str!("data/crr-traces-pkmove.jsonl"));
    assert_eq!(traces.len(), 60);
    for trace in &traces {
        trace.replay(Lane::Native).converges();
    }
}

/// The way by which changes are read and merged.
#[derive(Clone, Copy, Debug)]
enum Lane {
    /// `SELECT … FROM crsql_changes` and `INSERT INTO crsql_changes`.
    Sql,
    /// `Crr::read_changes` and `Merge`.
    Native,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    id: String,
    schema: Vec<String>,
    sites: Vec<String>,
    steps: Vec<Step>,
    #[serde(default)]
    after: Vec<Recorded>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Step {
    /// A local transaction.
    Write {
        site: usize,
        tx: Vec<String>,
        #[serde(default)]
        rollback: bool,
    },
    /// One site pulls what is new at another since it last did, and merges it in one transaction.
    Pull { from: usize, to: usize, mode: Mode },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// The changes arrive as the sender's, whoever wrote them.
    Hub,
    /// The changes keep their authors.
    Relay,
}

/// What one site held at the end.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    db_version: i64,
    changes: Vec<RecordedChange>,
    rows: BTreeMap<String, Vec<Vec<Tagged>>>,
}

/// The nine fields of a change.
type RecordedChange = (String, String, String, Tagged, i64, i64, String, i64, i64);

/// A value and its type: `i`, `r`, `t` or `b`; none for NULL. Numbers are text, so that JSON can't touch them.
type Tagged = Option<(char, String)>;

impl Trace {
    fn replay(&self, lane: Lane) -> Replay<'_> {
        let schema: String = self.schema.iter().map(|s| format!("{s};\n")).collect();
        let sites: Vec<Site> = self
            .sites
            .iter()
            .map(|id| SiteId::from_bytes(unhex(id).try_into().unwrap()))
            .map(|id| Site::with_id(id, &schema))
            .collect();
        let mut replay = Replay { trace: self, lane, pulled: vec![vec![0; sites.len()]; sites.len()], sites };
        for step in &self.steps {
            match step {
                Step::Write { site, tx, rollback } => replay.write(*site, tx, *rollback),
                Step::Pull { from, to, mode } => {
                    replay.pull(*from, *to, *mode);
                }
            }
        }
        replay
    }

    /// The mode of the trace's pulls; a trace doesn't mix them.
    fn mode(&self) -> Mode {
        let modes = self.steps.iter().find_map(|step| match step {
            Step::Pull { mode, .. } => Some(*mode),
            Step::Write { .. } => None,
        });
        modes.unwrap_or(Mode::Relay)
    }
}

#[derive(Debug)]
struct Replay<'t> {
    trace: &'t Trace,
    lane: Lane,
    sites: Vec<Site>,
    /// `pulled[to][from]`: the version of `from` that `to` has seen.
    pulled: Vec<Vec<i64>>,
}

impl Replay<'_> {
    fn write(&mut self, site: usize, statements: &[String], rollback: bool) {
        let site = &self.sites[site];
        site.run("BEGIN");
        for statement in statements {
            site.run(statement);
        }
        site.run(if rollback { "ROLLBACK" } else { "COMMIT" });
    }

    /// The number of changes that travelled.
    fn pull(&mut self, from: usize, to: usize, mode: Mode) -> usize {
        let since = std::mem::replace(&mut self.pulled[to][from], self.sites[from].crr().stored_db_version().unwrap());
        let (from, to) = (&self.sites[from], &self.sites[to]);
        let mut changes = match self.lane {
            Lane::Sql => from.pull(since, Some(to.id)),
            Lane::Native => from.read(since, Some(to.id)),
        };
        if let Mode::Hub = mode {
            for change in &mut changes {
                change.site_id = Some(from.id);
            }
        }
        match self.lane {
            Lane::Sql => to.insert(&changes),
            Lane::Native => {
                let tx = to.transaction();
                let mut merge = Merge::new(&tx, MergeOptions::default()).unwrap();
                merge.changeset(changes.iter().map(OwnedChange::borrowed)).unwrap();
                tx.commit().unwrap();
            }
        }
        changes.len()
    }

    fn is_as_recorded(&self) {
        assert_eq!(self.sites.len(), self.trace.after.len());
        for (at, (site, recorded)) in self.sites.iter().zip(&self.trace.after).enumerate() {
            let place = format!("trace {}, site {at}, {:?}", self.trace.id, self.lane);
            let changes = match self.lane {
                Lane::Sql => site.pull(0, None),
                Lane::Native => site.read(0, None),
            };
            assert!(changes.is_sorted_by_key(|change| (change.db_version, change.seq)), "{place}");
            let changes = changes.iter().map(OwnedChange::line).collect();
            let expected = recorded.changes.iter().map(line).collect();
            assert_eq!(canonical(changes), canonical(expected), "{place}");
            for (table, rows) in &recorded.rows {
                let mut rows: Vec<String> = rows.iter().map(|row| row_line(row)).collect();
                rows.sort();
                assert_eq!(site.rows(table), rows, "{place}, table {table}");
            }
            assert_eq!(site.db_version(), recorded.db_version, "{place}");
        }
    }

    /// Exchanges until nothing new travels, then compares the sites' rows.
    fn converges(mut self) {
        let mode = self.trace.mode();
        let pairs: Vec<(usize, usize)> = (0..self.sites.len())
            .flat_map(|from| (0..self.sites.len()).map(move |to| (from, to)))
            .filter(|(from, to)| from != to)
            .collect();
        let mut rounds = 0;
        while pairs.iter().map(|(from, to)| self.pull(*from, *to, mode)).sum::<usize>() > 0 {
            rounds += 1;
            assert!(rounds < 10, "trace {} never settles", self.trace.id);
        }
        let tables = self.sites[0].crr().tables().unwrap();
        for table in &tables {
            let rows = self.sites[0].rows(table);
            for site in &self.sites[1..] {
                let place = format!("trace {}, table {table}, {:?}", self.trace.id, self.lane);
                assert_eq!(site.rows(table), rows, "{place}");
            }
        }
    }
}

fn traces(lines: &str) -> Vec<Trace> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn line(change: &RecordedChange) -> String {
    let (table, pk, cid, val, col_version, db_version, site_id, cl, seq) = change;
    let change = OwnedChange {
        table: table.clone(),
        pk: unhex(pk),
        cid: cid.clone(),
        val: value(val),
        col_version: *col_version,
        db_version: *db_version,
        site_id: Some(SiteId::from_bytes(unhex(site_id).try_into().unwrap())),
        cl: *cl,
        seq: *seq,
    };
    change.line()
}

fn row_line(row: &[Tagged]) -> String {
    let cells: Vec<String> = row.iter().map(|cell| site::literal(ValueRef::from(&value(cell)))).collect();
    cells.join(", ")
}

fn value(tagged: &Tagged) -> Value {
    match tagged {
        None => Value::Null,
        Some(('i', number)) => Value::Integer(number.parse().unwrap()),
        Some(('r', number)) => Value::Real(number.parse().unwrap()),
        Some(('t', text)) => Value::Text(text.clone()),
        Some(('b', digits)) => Value::Blob(unhex(digits)),
        Some((tag, _)) => panic!("unknown tag {tag}"),
    }
}
