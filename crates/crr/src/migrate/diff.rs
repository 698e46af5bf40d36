//! Comparing what is here with what a schema makes.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::apply::{reason, run_script};
use super::catalog::{Catalog, CatalogTable, Dependent};
use super::definition::{self, TableDefinition};
use super::{MigrationNote, MigrationPlan, MigrationStep};
use crate::state::Engine;
use crate::{Error, Result, load, sql, table};

/// Plans the way from what is here to what `schema` makes of an empty database. `cleanup` is run there at the end.
pub(crate) fn plan(engine: &Engine, schema: &str, cleanup: Option<&str>) -> Result<MigrationPlan> {
    let db = engine.db();
    let fingerprint = engine.fingerprint()?;
    let here = Catalog::read(db)?;
    let there = described_by(schema, cleanup)?;
    let mut diff = Diff { db, here: &here, there: &there, steps: Vec::new(), kept: Vec::new(), refused: Vec::new() };
    diff.dependents();
    diff.tables()?;
    diff.creations();
    Ok(MigrationPlan {
        steps: diff.steps,
        kept: diff.kept,
        refused: diff.refused,
        schema: schema.to_owned(),
        fingerprint,
    })
}

/// What a schema makes of an empty database, which knows the engine's functions.
fn described_by(schema: &str, cleanup: Option<&str>) -> Result<Catalog> {
    let empty = Connection::open_in_memory()?;
    load::load(&empty)?;
    let catalog = (|| {
        empty.execute_batch("SAVEPOINT migration")?;
        run_script(&empty, schema)?;
        // Fails if the schema begins or ends transactions: that would tear the migration apart.
        empty.execute_batch("RELEASE migration")?;
        Catalog::read(&empty)
    })();
    let catalog = catalog.and_then(|catalog| {
        run_script(&empty, cleanup.unwrap_or_default())?;
        Ok(catalog)
    });
    catalog.map_err(|error| Error::InvalidSchema { reason: reason(&error), source: Box::new(error) })
}

/// A plan being made.
struct Diff<'a> {
    db: &'a Connection,
    here: &'a Catalog,
    there: &'a Catalog,
    steps: Vec<MigrationStep>,
    kept: Vec<MigrationNote>,
    refused: Vec<MigrationNote>,
}

impl Diff<'_> {
    /// Indexes, triggers and views that have to go: first of all, because they keep columns from being dropped.
    fn dependents(&mut self) {
        let (here, there) = (self.here, self.there);
        for index in missing(&here.indexes, &there.indexes) {
            let table = here.indexes.get(&index).map(|index| index.table.clone()).unwrap_or_default();
            // Those of tables that go, go with them.
            if there.tables.contains_key(&table) {
                self.steps.push(MigrationStep::DropIndex { index, table });
            }
        }
        // Those that the schema doesn't speak of are none of its business.
        let known = |name: &String, there: &BTreeMap<String, Dependent>| there.contains_key(name);
        for trigger in missing(&here.triggers, &there.triggers).filter(|name| known(name, &there.triggers)) {
            self.steps.push(MigrationStep::DropTrigger { trigger });
        }
        for view in self.renewed_views() {
            self.steps.push(MigrationStep::DropView { view });
        }
    }

    /// Views that go and are created again: all that the schema has, if one of them changes, since they may build on it.
    fn renewed_views(&self) -> Vec<String> {
        let known = |name: &&String| self.there.views.contains_key(*name);
        if missing(&self.here.views, &self.there.views).any(|name| known(&&name)) {
            self.here.views.keys().filter(known).cloned().collect()
        } else {
            Vec::new()
        }
    }

    fn tables(&mut self) -> Result<()> {
        let here = self.here;
        // Dropping a virtual table may drop others, as clset does.
        for (name, table) in here.tables.iter().filter(|(_, table)| table.is_virtual) {
            self.present_table(name, table)?;
        }
        for (name, table) in here.tables.iter().filter(|(_, table)| !table.is_virtual) {
            self.present_table(name, table)?;
        }
        Ok(())
    }

    /// A table that is here.
    fn present_table(&mut self, name: &str, table: &CatalogTable) -> Result<()> {
        let there = self.there;
        if let Some(wanted) = there.tables.get(name) {
            return self.table(name, table, wanted);
        }
        match there.tables.keys().find(|other| other.eq_ignore_ascii_case(name)) {
            Some(other) => self.refuse(name, format!("the schema spells it {other}; a table can't be renamed")),
            None => self.steps.push(MigrationStep::DropTable { table: name.to_owned() }),
        }
        Ok(())
    }

    /// A table that is here and in the schema.
    fn table(&mut self, name: &str, table: &CatalogTable, wanted: &CatalogTable) -> Result<()> {
        if table.is_virtual || wanted.is_virtual {
            if table.is_virtual != wanted.is_virtual {
                self.refuse(name, "a table can't become a virtual one, nor the other way round".to_owned());
            } else if !definition::same(&table.sql, &wanted.sql) {
                self.keep(name, "it stays as it is; a virtual table can't be altered".to_owned());
            }
            return Ok(());
        }
        if table.keys != wanted.keys {
            let (from, to) = (table.keys.join(", "), wanted.keys.join(", "));
            self.refuse(name, format!("its primary key ({from}) can't become ({to}); peers address rows by it"));
            return Ok(());
        }
        let respelled = table.columns.iter().find_map(|column| {
            let same = |other: &&String| other.eq_ignore_ascii_case(column) && *other != column;
            wanted.columns.iter().find(same).map(|other| (column, other))
        });
        if let Some((column, other)) = respelled {
            self.refuse(name, format!("the schema spells column {column} {other}; a column can't be renamed"));
            return Ok(());
        }
        self.columns(name, table, wanted)?;
        if table.is_crr && !wanted.is_crr {
            self.keep(name, "it stays a CRR, although the schema doesn't make it one".to_owned());
        }
        Ok(())
    }

    /// The columns of a table that is here and in the schema.
    fn columns(&mut self, name: &str, table: &CatalogTable, wanted: &CatalogTable) -> Result<()> {
        let (from, to) = (TableDefinition::parse(&table.sql), TableDefinition::parse(&wanted.sql));
        let (stay, go): (Vec<&String>, Vec<&String>) =
            table.columns.iter().partition(|column| wanted.columns.contains(column));
        let mut new: Vec<(&str, &str)> = Vec::new();
        for column in wanted.columns.iter().filter(|column| !table.columns.contains(column)) {
            match to.column(column) {
                Some(defined) => new.push((column, defined.text())),
                None => self.refuse(name, format!("the definition of its new column {column} can't be told")),
            }
        }
        self.rehearse_drops(name, table, &go)?;
        self.rehearse_additions(name, &stay, &new)?;
        for column in stay {
            if let (Some(here), Some(there)) = (from.column(column), to.column(column))
                && here.differs(there)
            {
                self.keep(name, format!("column {column} stays `{}`; the schema says `{}`", here.text(), there.text()));
            }
        }
        if from.differs_besides_columns(&to) {
            self.keep(name, "its constraints and options stay; the schema's differ".to_owned());
        }
        for column in go {
            self.steps.push(MigrationStep::DropColumn { table: name.to_owned(), column: column.clone() });
        }
        for (column, definition) in new {
            self.steps.push(MigrationStep::AddColumn {
                table: name.to_owned(),
                column: column.to_owned(),
                definition: definition.to_owned(),
            });
        }
        Ok(())
    }

    /// Whether SQLite lets the columns go is tried with an empty table.
    fn rehearse_drops(&mut self, name: &str, table: &CatalogTable, columns: &[&String]) -> Result<()> {
        if columns.is_empty() {
            return Ok(());
        }
        let stage = Connection::open_in_memory()?;
        if stage.execute_batch(&table.sql).is_err() {
            // It uses what only this connection knows. The migration itself will tell.
            return Ok(());
        }
        let dropped = |index: &str| {
            self.steps
                .iter()
                .any(|step| matches!(step, MigrationStep::DropIndex { index: dropped, .. } if dropped == index))
        };
        for (index, Dependent { table, sql }) in &self.here.indexes {
            if table.eq_ignore_ascii_case(name) && !dropped(index) {
                drop(stage.execute_batch(sql));
            }
        }
        for column in columns {
            let drop = format!("ALTER TABLE {} DROP COLUMN {}", table::base(name), sql::identifier(column));
            if let Err(error) = stage.execute_batch(&drop) {
                self.refuse(name, format!("column {column} can't be dropped: {}", reason(&error.into())));
            }
        }
        Ok(())
    }

    /// Whether SQLite takes the new columns is tried with a table that has the old ones, and a row if there are any here.
    fn rehearse_additions(&mut self, name: &str, old: &[&String], new: &[(&str, &str)]) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let stage = Connection::open_in_memory()?;
        let base = table::base(name);
        let columns = sql::join(old, ", ", |column| sql::identifier(column));
        stage.execute_batch(&format!("PRAGMA ignore_check_constraints = ON; CREATE TABLE {base} ({columns})"))?;
        if self.db.prepare(&format!("SELECT 1 FROM {base}"))?.exists([])? {
            stage.execute_batch(&format!("INSERT INTO {base} DEFAULT VALUES"))?;
        }
        for (column, definition) in new {
            if let Err(error) = stage.execute_batch(&format!("ALTER TABLE {base} ADD COLUMN {definition}")) {
                self.refuse(name, format!("column {column} can't be added: {}", reason(&error.into())));
            }
        }
        Ok(())
    }

    /// What the schema itself creates.
    fn creations(&mut self) {
        let (here, there) = (self.here, self.there);
        for (name, table) in &there.tables {
            if !here.tables.keys().any(|known| known.eq_ignore_ascii_case(name)) {
                self.steps.push(MigrationStep::CreateTable { table: name.clone() });
            }
            if table.is_crr && !here.tables.get(name).is_some_and(|known| known.is_crr) {
                self.steps.push(MigrationStep::TrackTable { table: name.clone() });
            }
        }
        for index in missing(&there.indexes, &here.indexes) {
            let table = there.indexes.get(&index).map(|index| index.table.clone()).unwrap_or_default();
            self.steps.push(MigrationStep::CreateIndex { index, table });
        }
        let new_views = there.views.keys().filter(|name| !here.views.contains_key(*name)).cloned();
        for view in new_views.chain(self.renewed_views()) {
            self.steps.push(MigrationStep::CreateView { view });
        }
        for trigger in missing(&there.triggers, &here.triggers) {
            self.steps.push(MigrationStep::CreateTrigger { trigger });
        }
    }

    fn keep(&mut self, table: &str, text: String) {
        self.kept.push(MigrationNote { table: table.to_owned(), text });
    }

    fn refuse(&mut self, table: &str, text: String) {
        self.refused.push(MigrationNote { table: table.to_owned(), text });
    }
}

/// Those of `some` that aren't the same, or aren't at all, among `others`.
fn missing<'a>(
    some: &'a BTreeMap<String, Dependent>,
    others: &'a BTreeMap<String, Dependent>,
) -> impl Iterator<Item = String> + 'a {
    let same = |name, sql| others.get(name).is_some_and(|other| definition::same(&other.sql, sql));
    some.iter().filter(move |(name, object)| !same(*name, object.sql.as_str())).map(|(name, _)| name.clone())
}
