//! This engine.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::cell::Cell;
use crate::engine::{Answer, Engine, Insertion};

/// `crr`, through SQL.
#[derive(Debug, Default)]
pub(crate) struct Ours {
    databases: HashMap<usize, Connection>,
}

impl Engine for Ours {
    fn open(&mut self, site: usize, file: &Path) {
        let conn = Connection::open(file).unwrap();
        // The bundled SQLite has foreign keys on by default, the reference's off.
        conn.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY; PRAGMA foreign_keys = OFF")
            .unwrap();
        // Nor does the reference's take a name that it doesn't know for a text.
        for quoted_texts in [DbConfig::SQLITE_DBCONFIG_DQS_DML, DbConfig::SQLITE_DBCONFIG_DQS_DDL] {
            conn.set_db_config(quoted_texts, false).unwrap();
        }
        crr::load(&conn).unwrap();
        self.databases.insert(site, conn);
    }

    fn close(&mut self, site: usize, _: &Path) {
        self.databases.remove(&site).unwrap().close().unwrap();
    }

    fn run(&mut self, site: usize, statements: &[String]) -> Vec<Answer> {
        let conn = &self.databases[&site];
        statements.iter().map(|sql| run(conn, sql).map_err(|error| error.to_string())).collect()
    }

    fn merge(&mut self, site: usize, changes: &[Insertion]) -> Vec<Answer> {
        let statements: Vec<String> = changes.iter().map(|change| change.sql.clone()).collect();
        self.run(site, &statements)
    }

    fn defined(&mut self, _: usize) {}

    fn is_in_transaction(&self, site: usize) -> bool {
        !self.databases[&site].is_autocommit()
    }
}

fn run(conn: &Connection, sql: &str) -> rusqlite::Result<Vec<Vec<Cell>>> {
    let mut statement = conn.prepare(sql)?;
    let width = statement.column_count();
    let mut rows = statement.raw_query();
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((0..width).map(|at| Ok(row.get_ref(at)?.into())).collect::<rusqlite::Result<_>>()?);
    }
    Ok(found)
}
