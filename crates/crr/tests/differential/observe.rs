//! What is compared of a database.

use crate::cell::Cell;
use crate::engine::{Demand, Engine};
use crate::play::position;
use crate::sql::identifier;

/// All fields of all changes.
pub(crate) const SELECT_CHANGES: &str =
    r#"SELECT "table", pk, cid, val, col_version, db_version, site_id, cl, seq FROM crsql_changes"#;

/// Definitions of tables.
pub(crate) const SELECT_DEFINITIONS: &str = "SELECT t.name, c.*
     FROM sqlite_schema AS t JOIN pragma_table_xinfo(t.name) AS c WHERE t.type = 'table'";

/// Everything that a database holds, by the names of what it is in.
pub(crate) struct Observation(Vec<(String, Vec<Vec<Cell>>)>);

impl Observation {
    pub(crate) fn of(engine: &mut dyn Engine, site: usize) -> Observation {
        // Indexes of constraints come and go with their tables.
        let objects = "SELECT type, name, tbl_name FROM sqlite_schema WHERE sql IS NOT NULL";
        let schema = engine.run_one(site, objects);
        let tables = schema.iter().filter(|object| object[0].text() == Some("table")).filter_map(|row| row[1].text());
        let mut queries = vec![
            ("crsql_changes".to_owned(), SELECT_CHANGES.to_owned()),
            (
                "version, seq and sync bit".to_owned(),
                "SELECT crsql_db_version(), crsql_get_seq(), crsql_internal_sync_bit()".to_owned(),
            ),
        ];
        for table in tables {
            // The version of the engine is its own.
            let part = if table == "crsql_master" { " WHERE key <> 'crsqlite_version'" } else { "" };
            queries.push((table.to_owned(), format!("SELECT * FROM {}{part}", identifier(table))));
        }
        let (names, queries): (Vec<String>, Vec<String>) = queries.into_iter().unzip();
        let answers = engine.run(site, &queries);
        let mut found = vec![
            ("sqlite_schema".to_owned(), schema),
            ("transaction".to_owned(), vec![vec![Cell::Integer(engine.is_in_transaction(site).into())]]),
        ];
        for (name, answer) in names.into_iter().zip(answers) {
            // A failure is compared too: something that the other engine will hardly have.
            let rows = answer.unwrap_or_else(|error| vec![vec![Cell::Text(error.into_bytes())]]);
            if name == "crsql_changes" {
                let in_order = rows.iter().all(|row| row.len() == 9) && rows.is_sorted_by_key(|row| position(row));
                found
                    .push(("whether crsql_changes is in order".to_owned(), vec![vec![Cell::Integer(in_order.into())]]));
            }
            found.push((name, rows));
        }
        Observation(found)
    }

    /// Pairs of what both have. Names that only one has show in `sqlite_schema`, which comes first.
    pub(crate) fn beside<'a>(
        &'a self,
        other: &'a Observation,
    ) -> impl Iterator<Item = (&'a str, &'a [Vec<Cell>], &'a [Vec<Cell>])> {
        self.0.iter().filter_map(|(name, rows)| {
            let (_, others) = other.0.iter().find(|(other, _)| other == name)?;
            Some((name.as_str(), rows.as_slice(), others.as_slice()))
        })
    }
}
