//! Carrying out a plan.

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Connection};

use super::{MigrationPlan, MigrationStep};
use crate::state::Engine;
use crate::{Error, Result, fractional, sql, table};

impl Engine {
    /// Carries out a plan: all of it or nothing. A transaction of the caller's stays open in either case.
    pub(crate) fn migrate(&self, plan: &MigrationPlan) -> Result<()> {
        if !plan.refused.is_empty() {
            return Err(Error::MigrationRefused { reasons: sql::join(&plan.refused, "; ", ToString::to_string) });
        }
        self.atomically(|db| {
            if self.fingerprint()? != plan.fingerprint {
                return Err(Error::OutdatedPlan);
            }
            if !self.schema()?.is_empty() {
                self.keep_version()?;
            }
            for steps in
                plan.steps.chunk_by(|a, b| a.altered_table().is_some() && a.altered_table() == b.altered_table())
            {
                self.take(db, steps).map_err(|error| failed(steps, error))?;
            }
            run_script(db, &plan.schema).map_err(|error| Error::MigrationFailed {
                step: "running the schema, which has to say IF NOT EXISTS".to_owned(),
                reason: reason(&error),
                source: Box::new(error),
            })
        })
    }

    /// Takes one step, or all steps that change the columns of one table.
    fn take(&self, db: &Connection, steps: &[MigrationStep]) -> Result<()> {
        let Some(first) = steps.first() else { return Ok(()) };
        match first {
            MigrationStep::DropIndex { index, .. } => drop_object(db, "INDEX", index),
            MigrationStep::DropTrigger { trigger } => drop_object(db, "TRIGGER", trigger),
            MigrationStep::DropView { view } => drop_object(db, "VIEW", view),
            MigrationStep::DropTable { table } => {
                self.as_table(table)?;
                // If it was an ordered table. SQLite alters no table while there is a view of one that is gone.
                drop_object(db, "VIEW", &fractional::view_name(table))?;
                drop_object(db, "TABLE", table)
            }
            MigrationStep::DropColumn { table, .. } | MigrationStep::AddColumn { table, .. } => {
                self.change_columns(db, table, steps)
            }
            // The schema itself does these.
            MigrationStep::CreateTable { .. }
            | MigrationStep::TrackTable { .. }
            | MigrationStep::CreateIndex { .. }
            | MigrationStep::CreateView { .. }
            | MigrationStep::CreateTrigger { .. } => Ok(()),
        }
    }

    fn change_columns(&self, db: &Connection, table: &str, steps: &[MigrationStep]) -> Result<()> {
        let crr = self.crr_name(table)?;
        let is_crr = self.schema()?.has_clock(&crr);
        if is_crr {
            self.begin_alter(&crr)?;
        }
        let altered = (|| {
            // The triggers and the view of an ordered table name its columns. Whoever made them makes them again.
            drop_object(db, "VIEW", &fractional::view_name(table))?;
            if steps.iter().any(|step| matches!(step, MigrationStep::DropColumn { .. })) {
                for trigger in fractional::position_trigger_names(table) {
                    drop_object(db, "TRIGGER", &trigger)?;
                }
            }
            let base = table::base(table);
            for step in steps {
                match step {
                    MigrationStep::DropColumn { column, .. } => {
                        db.execute_batch(&format!("ALTER TABLE {base} DROP COLUMN {}", sql::identifier(column)))?;
                    }
                    MigrationStep::AddColumn { definition, .. } => {
                        db.execute_batch(&format!("ALTER TABLE {base} ADD COLUMN {definition}"))?;
                    }
                    _ => {}
                }
            }
            Ok(())
        })();
        match (is_crr, &altered) {
            (true, Ok(())) => self.commit_alter(&crr),
            (true, Err(_)) => {
                self.abandon_alter();
                altered
            }
            (false, _) => altered,
        }
    }
}

/// Runs all statements of a text, each to its end.
pub(super) fn run_script(db: &Connection, text: &str) -> Result<()> {
    let mut script = Batch::new(db, text);
    while let Some(mut statement) = script.next()? {
        let mut rows = statement.raw_query();
        while rows.next()?.is_some() {}
    }
    Ok(())
}

/// What went wrong, without the statement's text, which may be long.
pub(super) fn reason(error: &Error) -> String {
    match error {
        Error::Sqlite(source) => match &**source {
            // The bindings of older versions don't have it, nor the text.
            #[cfg(feature = "bundled")]
            rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
            other => other.to_string(),
        },
        other => other.to_string(),
    }
}

fn drop_object(db: &Connection, kind: &str, name: &str) -> Result<()> {
    Ok(db.execute_batch(&format!("DROP {kind} IF EXISTS main.{}", sql::identifier(name)))?)
}

fn failed(steps: &[MigrationStep], error: Error) -> Error {
    Error::MigrationFailed {
        step: sql::join(steps, ", ", ToString::to_string),
        reason: reason(&error),
        source: Box::new(error),
    }
}
