//! What is compared of a database.

use crate::cell::Cell;
use crate::engine::{Demand, Engine};
use crate::play::position;
use crate::sql::identifier;

/// All fields of all changes.
pub(crate) const SELECT_CHANGES: &str =
    r#"SELECT "table", pk, cid, val, col_version, db_version, site_id, cl, seq FROM crsql_changes"#;

const CHANGES: &str = "crsql_changes";

/// Definitions of tables.
pub(crate) const SELECT_DEFINITIONS: &str = "SELECT t.name, c.*
     FROM sqlite_schema AS t JOIN pragma_table_xinfo(t.name) AS c WHERE t.type = 'table'";

/// What to ask a database for, to see everything that it holds.
pub(crate) struct Queries {
    /// What each of them is about.
    subjects: Vec<String>,
    sql: Vec<String>,
}

impl Queries {
    /// Those that fit a site's schema.
    pub(crate) fn of(engine: &mut dyn Engine, site: usize) -> Queries {
        let mut queries = vec![
            // First, so that tables that only one of two databases has are seen here. Indexes of constraints come and go with
            // their tables.
            (
                "sqlite_schema".to_owned(),
                "SELECT type, name, tbl_name FROM sqlite_schema WHERE sql IS NOT NULL".to_owned(),
            ),
            (CHANGES.to_owned(), SELECT_CHANGES.to_owned()),
            (
                "version, seq and sync bit".to_owned(),
                "SELECT crsql_db_version(), crsql_get_seq(), crsql_internal_sync_bit()".to_owned(),
            ),
        ];
        for row in engine.run_one(site, "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL") {
            let table = row[0].text().unwrap();
            // The version of the engine is its own.
            let part = if table == "crsql_master" { " WHERE key <> 'crsqlite_version'" } else { "" };
            queries.push((table.to_owned(), format!("SELECT * FROM {}{part}", identifier(table))));
        }
        let (subjects, sql) = queries.into_iter().unzip();
        Queries { subjects, sql }
    }

    /// Everything that a database holds, each with what it is.
    pub(crate) fn observe(&self, engine: &mut dyn Engine, site: usize) -> Vec<(&str, Vec<Vec<Cell>>)> {
        let answers = engine.run(site, &self.sql);
        let mut found = vec![("transaction", vec![vec![Cell::Integer(engine.is_in_transaction(site).into())]])];
        for (subject, answer) in self.subjects.iter().zip(answers) {
            // A failure is compared too: something that the other engine will hardly have.
            let rows = answer.unwrap_or_else(|error| vec![vec![Cell::Text(error.into_bytes())]]);
            let in_order = subject != CHANGES || rows.is_sorted_by_key(|row| position(row));
            found.push((subject, rows));
            if subject == CHANGES {
                found.push(("whether crsql_changes is in order", vec![vec![Cell::Integer(in_order.into())]]));
            }
        }
        found
    }
}
