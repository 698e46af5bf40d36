//! Writing to a CRR through SQL.

use rusqlite::{Connection, params};
use tempfile::tempdir;

use crate::data::{Batch, Keys, Scale, batches, database, plain_database};
use crate::floor::Floor;
use crate::measure::{Rounds, in_turns};
use crate::report::{Goal, Report};

pub(crate) fn run(report: &mut Report, scale: &Scale) {
    for keys in [Keys::Ordered, Keys::Random] {
        let goal = |goal| if let Keys::Ordered = keys { goal } else { Goal::Stated };
        let new = batches(keys, scale.some, 1);
        let mut newer = batches(keys, scale.some, 2);
        newer.iter_mut().for_each(|batch| batch.columns = 1);
        let rows = new.iter().map(|batch| batch.rows.len()).sum();

        let inserts = Rounds::play(scale.rounds, |_| {
            let folder = tempdir().unwrap();
            let (ours, theirs) = (database(folder.path(), "ours"), plain_database(folder.path(), "theirs"));
            let mut floor = Floor::new(&theirs);
            in_turns(&new, |batch| insert(&ours, batch), |batch| floor.insert(batch))
        });
        report.rates(&format!("local inserts, {keys}, of the floor"), rows, &inserts, goal(Goal::AtLeast(0.45)));

        let updates = Rounds::play(scale.rounds, |_| {
            let folder = tempdir().unwrap();
            let (ours, theirs) = (database(folder.path(), "ours"), plain_database(folder.path(), "theirs"));
            let mut floor = Floor::new(&theirs);
            for batch in &new {
                insert(&ours, batch);
                floor.insert(batch);
            }
            in_turns(&newer, |batch| update(&ours, batch), |batch| floor.update(batch))
        });
        report.rates(
            &format!("local updates of one column, {keys}, of the floor"),
            rows,
            &updates,
            goal(Goal::AtLeast(0.45)),
        );
    }
}

fn insert(conn: &Connection, batch: &Batch) {
    let transaction = conn.unchecked_transaction().unwrap();
    let mut insert = conn.prepare_cached("INSERT INTO item (id, amount, title, price) VALUES (?, ?, ?, ?)").unwrap();
    for row in &batch.rows {
        insert.execute(params![row.id, row.amount, row.title, row.price]).unwrap();
    }
    transaction.commit().unwrap();
}

fn update(conn: &Connection, batch: &Batch) {
    let transaction = conn.unchecked_transaction().unwrap();
    let mut update = conn.prepare_cached("UPDATE item SET amount = ?2 WHERE id = ?1").unwrap();
    for row in &batch.rows {
        update.execute(params![row.id, row.amount]).unwrap();
    }
    transaction.commit().unwrap();
}
