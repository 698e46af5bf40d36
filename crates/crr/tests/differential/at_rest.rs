//! What a file holds while no engine has it open.

use std::path::Path;

use rusqlite::Connection;

use crate::cell::Cell;

/// A file, seen without an engine.
pub(crate) struct AtRest {
    /// What SQLite finds wrong with it. Not the reference's SQLite, 3.44.0, which takes defaults that are real numbers for
    /// NULLs.
    pub(crate) flaws: Vec<Vec<Cell>>,
    /// Names and bodies of triggers, without whitespace, as the engine left them: while the reference runs, some are mended.
    pub(crate) triggers: Vec<Vec<Cell>>,
}

impl AtRest {
    pub(crate) fn of(file: &Path) -> AtRest {
        let conn = Connection::open(file).unwrap();
        let texts = |sql: &str| -> Vec<Vec<String>> {
            let mut statement = conn.prepare(sql).unwrap();
            let width = statement.column_count();
            let rows = statement.query_map([], |row| (0..width).map(|at| row.get(at)).collect());
            rows.unwrap().collect::<rusqlite::Result<_>>().unwrap()
        };
        let mut flaws = texts("PRAGMA integrity_check");
        flaws.retain(|line| line[0] != "ok");
        let mut triggers =
            texts("SELECT name, substr(sql, instr(sql, 'BEGIN')) FROM sqlite_schema WHERE type = 'trigger'");
        for trigger in &mut triggers {
            trigger[1].retain(|char| !char.is_whitespace());
        }
        AtRest { flaws: cells(flaws), triggers: cells(triggers) }
    }
}

fn cells(rows: Vec<Vec<String>>) -> Vec<Vec<Cell>> {
    rows.into_iter().map(|row| row.into_iter().map(|text| Cell::Text(text.into_bytes())).collect()).collect()
}
