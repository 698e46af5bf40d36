//! The triggers that track writes to a CRR. They are part of the file format: both engines' files name the same functions.

use rusqlite::Connection;

use crate::table::{Column, Table};
use crate::{Result, sql};

pub(crate) const INSERT_SUFFIX: &str = "__crsql_itrig";
const UPDATE_SUFFIX: &str = "__crsql_utrig";
const DELETE_SUFFIX: &str = "__crsql_dtrig";

/// Whether the table is a CRR: it has an insert trigger of the right name.
pub(crate) fn is_crr(db: &Connection, table: &str) -> Result<bool> {
    let mut statement = db.prepare_cached("SELECT 1 FROM main.sqlite_schema WHERE type = 'trigger' AND name = ?1")?;
    Ok(statement.exists([format!("{table}{INSERT_SUFFIX}")])?)
}

/// Creates the three triggers.
pub(crate) fn create(db: &Connection, table: &Table) -> Result<()> {
    let prefixed = |prefix: &str, columns: &[Column]| -> String {
        columns.iter().map(|column| format!(", {prefix}.{}", sql::identifier(&column.name))).collect()
    };
    let (keys, columns) = (&table.keys, &table.columns);
    let new_keys = prefixed("NEW", keys);
    let old_keys = prefixed("OLD", keys);
    let update = [&new_keys, &old_keys, &prefixed("NEW", columns), &prefixed("OLD", columns)];
    let update: String = update.into_iter().map(String::as_str).collect();
    for (suffix, event, function, arguments) in [
        (INSERT_SUFFIX, "INSERT", "crsql_after_insert", &new_keys),
        (UPDATE_SUFFIX, "UPDATE", "crsql_after_update", &update),
        (DELETE_SUFFIX, "DELETE", "crsql_after_delete", &old_keys),
    ] {
        db.execute_batch(&format!(
            "CREATE TRIGGER main.{trigger} AFTER {event} ON {on} FOR EACH ROW WHEN crsql_internal_sync_bit() = 0
             BEGIN
                 VALUES ({function}({name}{arguments}));
             END",
            trigger = sql::identifier(&format!("{}{suffix}", table.name)),
            on = sql::identifier(&table.name),
            name = sql::literal(&table.name),
        ))?;
    }
    Ok(())
}

/// How many arguments the function of the update trigger takes: the table's name, and all columns twice.
pub(crate) fn most_arguments(table: &Table) -> usize {
    1 + 2 * (table.keys.len() + table.columns.len())
}

/// Drops the triggers, those of old engines (`table_keycolumn__crsql_utrig`) included.
pub(crate) fn drop_all(db: &Connection, table: &str) -> Result<()> {
    let own = [INSERT_SUFFIX, UPDATE_SUFFIX, DELETE_SUFFIX].map(|suffix| format!("{table}{suffix}"));
    let mut old = db.prepare_cached(
        "SELECT triggers.name FROM main.sqlite_schema AS triggers, pragma_table_info(?1, 'main') AS columns
         WHERE triggers.type = 'trigger' AND triggers.name = ?1 || '_' || columns.name || ?2",
    )?;
    let old = old.query_map([table, UPDATE_SUFFIX], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    for trigger in own.into_iter().chain(old) {
        db.execute_batch(&format!("DROP TRIGGER IF EXISTS main.{}", sql::identifier(&trigger)))?;
    }
    Ok(())
}
