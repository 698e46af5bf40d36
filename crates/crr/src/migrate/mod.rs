//! Migration: bringing a database to the schema that a text describes.
//!
//! The text is run in an empty database first. What that database then consists of is compared with what is here, and the
//! outcome is a plan, which can be looked at before it is carried out.

mod apply;
mod catalog;
mod definition;
mod diff;

use std::fmt;

pub(crate) use self::diff::plan;

/// What it takes to bring a database to a schema. Made by [`Crr::plan_migration`](crate::Crr::plan_migration), carried out
/// by [`Crr::migrate`](crate::Crr::migrate).
///
/// `Display` tells it to an operator, a line for each step, difference and refusal.
#[derive(Clone, Debug)]
pub struct MigrationPlan {
    steps: Vec<MigrationStep>,
    kept: Vec<MigrationNote>,
    refused: Vec<MigrationNote>,
    /// Run at the end: it creates what is new.
    schema: String,
    /// Of the definitions that the plan was made for.
    fingerprint: u64,
}

impl MigrationPlan {
    /// What will be done, in this order. Empty if there is nothing to change, though statements of the schema that write
    /// rows are run all the same.
    pub fn steps(&self) -> &[MigrationStep] {
        &self.steps
    }

    /// Differences that stay, because a migration can't make them go: types, defaults and constraints of columns that are
    /// there already, and of tables. They don't keep the migration from being carried out.
    pub fn kept(&self) -> &[MigrationNote] {
        &self.kept
    }

    /// Why the migration can't be carried out. Empty if it can.
    pub fn refused(&self) -> &[MigrationNote] {
        &self.refused
    }
}

/// One step of a [`MigrationPlan`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MigrationStep {
    /// An index goes; it is created again if its definition has changed.
    DropIndex {
        /// The index.
        index: String,
        /// Its table.
        table: String,
    },
    /// A trigger of the application's whose definition has changed goes. The schema creates it again.
    DropTrigger {
        /// The trigger.
        trigger: String,
    },
    /// A view whose definition has changed goes. The schema creates it again.
    DropView {
        /// The view.
        view: String,
    },
    /// A table goes, with its rows.
    DropTable {
        /// The table.
        table: String,
    },
    /// A column goes, with its values.
    DropColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A column is added at the end of its table.
    AddColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The column as the schema defines it, name included.
        definition: String,
    },
    /// The schema creates a table.
    CreateTable {
        /// The table.
        table: String,
    },
    /// The schema makes a table a CRR.
    TrackTable {
        /// The table.
        table: String,
    },
    /// The schema creates an index.
    CreateIndex {
        /// The index.
        index: String,
        /// Its table.
        table: String,
    },
    /// The schema creates a view.
    CreateView {
        /// The view.
        view: String,
    },
    /// The schema creates a trigger.
    CreateTrigger {
        /// The trigger.
        trigger: String,
    },
}

impl MigrationStep {
    /// The table whose columns change.
    fn altered_table(&self) -> Option<&str> {
        match self {
            MigrationStep::DropColumn { table, .. } | MigrationStep::AddColumn { table, .. } => Some(table),
            _ => None,
        }
    }
}

/// What a [`MigrationPlan`] has to say about a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationNote {
    /// The table.
    pub table: String,
    /// What there is to say, as the end of a sentence that begins with the table.
    pub text: String,
}

impl fmt::Display for MigrationPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() && self.kept.is_empty() && self.refused.is_empty() {
            return f.write_str("nothing to change");
        }
        let steps = self.steps.iter().map(ToString::to_string);
        let kept = self.kept.iter().map(|note| format!("= {note}"));
        let refused = self.refused.iter().map(|note| format!("! {note}"));
        let lines: Vec<String> = steps.chain(kept).chain(refused).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl fmt::Display for MigrationStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MigrationStep::DropIndex { index, table } => write!(f, "- index {index} on {table}"),
            MigrationStep::DropTrigger { trigger } => write!(f, "- trigger {trigger}"),
            MigrationStep::DropView { view } => write!(f, "- view {view}"),
            MigrationStep::DropTable { table } => write!(f, "- table {table}"),
            MigrationStep::DropColumn { table, column } => write!(f, "- column {table}.{column}"),
            MigrationStep::AddColumn { table, definition, .. } => write!(f, "+ column {table}: {definition}"),
            MigrationStep::CreateTable { table } => write!(f, "+ table {table}"),
            MigrationStep::TrackTable { table } => write!(f, "+ tracking of table {table}"),
            MigrationStep::CreateIndex { index, table } => write!(f, "+ index {index} on {table}"),
            MigrationStep::CreateView { view } => write!(f, "+ view {view}"),
            MigrationStep::CreateTrigger { trigger } => write!(f, "+ trigger {trigger}"),
        }
    }
}

impl fmt::Display for MigrationNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}: {}", self.table, self.text)
    }
}
