//! The floor: the writes that a merge comes to, by themselves.

use rusqlite::{Connection, Statement, params};

use crate::data::{Batch, Row};

/// Prepared statements on a database without the engine.
pub(crate) struct Floor<'c> {
    conn: &'c Connection,
    insert_row: Statement<'c>,
    insert_key: Statement<'c>,
    insert_entry: Statement<'c>,
    update_row: Statement<'c>,
    update_amount: Statement<'c>,
    upsert_entry: Statement<'c>,
}

impl<'c> Floor<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Floor<'c> {
        let prepare = |sql| conn.prepare(sql).unwrap();
        Floor {
            conn,
            insert_row: prepare("INSERT INTO item (id, amount, title, price) VALUES (?, ?, ?, ?)"),
            insert_key: prepare("INSERT INTO item__crsql_pks (id) VALUES (?)"),
            insert_entry: prepare("INSERT INTO item__crsql_clock VALUES (?, ?, ?, ?, 0, ?)"),
            update_row: prepare("UPDATE item SET amount = ?2, title = ?3, price = ?4 WHERE id = ?1"),
            update_amount: prepare("UPDATE item SET amount = ?2 WHERE id = ?1"),
            upsert_entry: prepare(
                "INSERT INTO item__crsql_clock VALUES (?, ?, ?, ?, 0, ?) ON CONFLICT DO UPDATE SET
                 col_version = excluded.col_version, db_version = excluded.db_version,
                 site_id = excluded.site_id, seq = excluded.seq",
            ),
        }
    }

    /// Writes rows that aren't there.
    pub(crate) fn insert(&mut self, batch: &Batch) {
        let transaction = self.conn.unchecked_transaction().unwrap();
        let mut seqs = 0..;
        for row in &batch.rows {
            self.insert_row.execute(params![row.id, row.amount, row.title, row.price]).unwrap();
            self.insert_key.execute([&row.id]).unwrap();
            let key = self.conn.last_insert_rowid();
            write_entries(&mut self.insert_entry, batch, row, key, &mut seqs);
        }
        transaction.commit().unwrap();
    }

    /// Writes rows that are there.
    pub(crate) fn update(&mut self, batch: &Batch) {
        let transaction = self.conn.unchecked_transaction().unwrap();
        let mut seqs = 0..;
        for row in &batch.rows {
            match batch.columns {
                1 => self.update_amount.execute(params![row.id, row.amount]).unwrap(),
                _ => self.update_row.execute(params![row.id, row.amount, row.title, row.price]).unwrap(),
            };
            write_entries(&mut self.upsert_entry, batch, row, row.lookaside, &mut seqs);
        }
        transaction.commit().unwrap();
    }
}

fn write_entries(write: &mut Statement<'_>, batch: &Batch, row: &Row, key: i64, seqs: &mut impl Iterator<Item = i64>) {
    for ((column, _), seq) in row.cells().into_iter().take(batch.columns).zip(seqs) {
        write.execute((key, column, batch.col_version, batch.db_version, seq)).unwrap();
    }
}
