//! What a database consists of, as far as a migration looks at it.

use std::collections::{BTreeMap, HashSet};

use rusqlite::Connection;

use crate::Result;
use crate::triggers::INSERT_SUFFIX;

/// The objects of a database's main schema, by name. The engine's and SQLite's own are left out.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) tables: BTreeMap<String, CatalogTable>,
    /// Those made by CREATE INDEX.
    pub(crate) indexes: BTreeMap<String, Dependent>,
    pub(crate) views: BTreeMap<String, Dependent>,
    pub(crate) triggers: BTreeMap<String, Dependent>,
}

#[derive(Debug)]
pub(crate) struct CatalogTable {
    pub(crate) sql: String,
    pub(crate) is_virtual: bool,
    pub(crate) is_crr: bool,
    /// In the table's order; none if it is virtual.
    pub(crate) columns: Vec<String>,
    /// The columns of the primary key, in the key's order.
    pub(crate) keys: Vec<String>,
}

/// An index, a view or a trigger.
#[derive(Debug)]
pub(crate) struct Dependent {
    /// The table that it belongs to; a view's own name.
    pub(crate) table: String,
    pub(crate) sql: String,
}

impl Catalog {
    pub(crate) fn read(db: &Connection) -> Result<Catalog> {
        let shadows: HashSet<String> = db
            .prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'shadow'")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        let mut catalog = Catalog::default();
        let mut crrs = HashSet::new();
        // Indexes of constraints have no text.
        let mut statement =
            db.prepare("SELECT type, name, tbl_name, sql FROM main.sqlite_schema WHERE sql IS NOT NULL")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (kind, name, table, sql): (String, String, String, String) =
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            if kind == "trigger"
                && let Some(table) = name.strip_suffix(INSERT_SUFFIX)
            {
                crrs.insert(table.to_ascii_lowercase());
            }
            if is_internal(&name) || is_internal(&table) || shadows.contains(&table) {
                continue;
            }
            match kind.as_str() {
                "table" => {
                    let table = CatalogTable::read(db, &name, sql)?;
                    catalog.tables.insert(name, table);
                }
                "index" => drop(catalog.indexes.insert(name, Dependent { table, sql })),
                "view" => drop(catalog.views.insert(name, Dependent { table, sql })),
                _ => drop(catalog.triggers.insert(name, Dependent { table, sql })),
            }
        }
        for (name, table) in &mut catalog.tables {
            table.is_crr = crrs.contains(&name.to_ascii_lowercase());
        }
        Ok(catalog)
    }
}

impl CatalogTable {
    fn read(db: &Connection, name: &str, sql: String) -> Result<CatalogTable> {
        let is_virtual = sql.get(..14).is_some_and(|start| start.eq_ignore_ascii_case("CREATE VIRTUAL"));
        let mut table = CatalogTable { sql, is_virtual, is_crr: false, columns: Vec::new(), keys: Vec::new() };
        if is_virtual {
            // Its columns are its module's affair, and the module may not be there.
            return Ok(table);
        }
        let mut keys: BTreeMap<i64, String> = BTreeMap::new();
        let mut statement = db.prepare_cached("SELECT name, pk FROM pragma_table_xinfo(?1, 'main') ORDER BY cid")?;
        let mut rows = statement.query([name])?;
        while let Some(row) = rows.next()? {
            let column: String = row.get(0)?;
            let place: i64 = row.get(1)?;
            if place > 0 {
                keys.insert(place, column.clone());
            }
            table.columns.push(column);
        }
        table.keys = keys.into_values().collect();
        Ok(table)
    }
}

/// Whether an object is SQLite's or the engine's.
fn is_internal(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.starts_with("sqlite_") || name.starts_with("crsql_") || name.contains("__crsql_")
}
