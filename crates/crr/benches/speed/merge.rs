//! Merging the changes of others.

use crr::{Merge, MergeOptions};
use rusqlite::{Connection, params};
use tempfile::tempdir;

use crate::data::{AUTHOR, Batch, Keys, Scale, batches, database, plain_database};
use crate::floor::Floor;
use crate::measure::{Duel, Rounds, in_turns};
use crate::report::{Goal, Report};

/// The server's largest frame.
const FRAME: usize = 1 << 20;

pub(crate) fn run(report: &mut Report, scale: &Scale) {
    for keys in [Keys::Ordered, Keys::Random] {
        let goal = |goal| if let Keys::Ordered = keys { goal } else { Goal::Stated };

        let some = batches(keys, scale.some, 1);
        let changes = total(&some);
        let rounds = Rounds::play(scale.rounds, |_| new_rows(&some, merge));
        report.rates(&format!("merge {changes} new, {keys}, of the floor"), changes, &rounds, goal(Goal::AtLeast(0.6)));

        let many = batches(keys, scale.many, 1);
        let changes = total(&many);
        let rounds = Rounds::play(scale.long_rounds, |_| new_rows(&many, merge));
        report.rates(&format!("merge {changes} new, {keys}, of the floor"), changes, &rounds, goal(Goal::AtLeast(0.6)));
        report.ratio("  last tenth / first, of the floor's", rounds.median(Duel::stamina), goal(Goal::AtLeast(0.8)));
        drop(many);

        let changes = total(&some);
        let rounds = Rounds::play(scale.rounds, |_| known_rows(&some, &some, &some));
        report.rates(&format!("merge replays, {keys}, of new rows"), changes, &rounds, goal(Goal::AtLeast(1.0)));
        let rounds = Rounds::play(scale.rounds, |_| known_rows(&batches(keys, scale.some, 2), &some, &some));
        report.rates(&format!("merge losers, {keys}, of new rows"), changes, &rounds, goal(Goal::AtLeast(1.0)));

        let mut newer = batches(keys, scale.some, 2);
        let rounds = Rounds::play(scale.rounds, |_| updates(&some, &newer));
        report.rates(&format!("merge updates, {keys}, of the floor"), changes, &rounds, goal(Goal::AtLeast(0.55)));
        newer.iter_mut().for_each(|batch| batch.columns = 1);
        let changes = total(&newer);
        let rounds = Rounds::play(scale.rounds, |_| updates(&some, &newer));
        report.rates(
            &format!("merge updates of one column, {keys}, of the floor"),
            changes,
            &rounds,
            goal(Goal::AtLeast(0.55)),
        );

        let changes = total(&some);
        let rounds = Rounds::play(scale.rounds, |_| new_rows(&some, merge_by_sql));
        report.rates(&format!("merge new by SQL, {keys}, of the floor"), changes, &rounds, goal(Goal::AtLeast(0.3)));
    }
}

/// Rows that neither database has.
fn new_rows(batches: &[Batch], merge: fn(&Connection, &Batch)) -> Duel {
    let folder = tempdir().unwrap();
    let (ours, theirs) = (database(folder.path(), "ours"), plain_database(folder.path(), "theirs"));
    let mut floor = Floor::new(&theirs);
    in_turns(batches, |batch| merge(&ours, batch), |batch| floor.insert(batch))
}

/// Changes without effect on a database that has `known`, against new rows in an empty one.
fn known_rows(known: &[Batch], changes: &[Batch], new: &[Batch]) -> Duel {
    let folder = tempdir().unwrap();
    let (full, empty) = (database(folder.path(), "full"), database(folder.path(), "empty"));
    known.iter().for_each(|batch| merge(&full, batch));
    let work: Vec<(&Batch, &Batch)> = changes.iter().zip(new).collect();
    in_turns(&work, |(batch, _)| merge(&full, batch), |(_, batch)| merge(&empty, batch))
}

/// Newer values for rows that both databases have.
fn updates(known: &[Batch], newer: &[Batch]) -> Duel {
    let folder = tempdir().unwrap();
    let (ours, theirs) = (database(folder.path(), "ours"), plain_database(folder.path(), "theirs"));
    let mut floor = Floor::new(&theirs);
    for batch in known {
        merge(&ours, batch);
        floor.insert(batch);
    }
    in_turns(newer, |batch| merge(&ours, batch), |batch| floor.update(batch))
}

/// Merges a batch as the server does.
pub(crate) fn merge(conn: &Connection, batch: &Batch) {
    let transaction = conn.unchecked_transaction().unwrap();
    Merge::new(&transaction, MergeOptions::server(FRAME)).unwrap().changeset(batch.changes()).unwrap();
    transaction.commit().unwrap();
}

fn merge_by_sql(conn: &Connection, batch: &Batch) {
    let transaction = conn.unchecked_transaction().unwrap();
    let mut insert =
        transaction.prepare_cached("INSERT INTO crsql_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)").unwrap();
    for change in batch.changes() {
        let parameters = params![
            change.table,
            change.pk,
            change.cid,
            rusqlite::types::ToSqlOutput::Borrowed(change.val),
            change.col_version,
            change.db_version,
            AUTHOR.as_bytes(),
            change.cl,
            change.seq,
        ];
        insert.execute(parameters).unwrap();
    }
    drop(insert);
    transaction.commit().unwrap();
}

fn total(batches: &[Batch]) -> usize {
    batches.iter().map(Batch::len).sum()
}
