//! Settings that are kept in the file. They are read when they are needed, so that a rollback, or another connection, can
//! change them.

use rusqlite::OptionalExtension;
use rusqlite::types::{Value, ValueRef};

use crate::state::Engine;
use crate::{Error, Result};

/// The setting that lets the larger site id win between equal values, if it is 1.
pub(crate) const MERGE_EQUAL_VALUES: &str = "merge-equal-values";

/// The setting [`MERGE_EQUAL_VALUES`], by what the file has; 0 if that is nothing.
pub(crate) fn merge_equal_values(value: ValueRef<'_>) -> Result<i64> {
    match value {
        ValueRef::Null => Ok(0),
        ValueRef::Integer(value) => Ok(value),
        _ => Err(Error::DamagedFile { reason: "the setting merge-equal-values isn't an integer" }),
    }
}

impl Engine {
    /// The setting [`MERGE_EQUAL_VALUES`]; 0 if it was never set.
    pub(crate) fn merge_equal_values(&self) -> Result<i64> {
        let value: Option<Value> = self
            .db()
            .prepare_cached("SELECT value FROM main.crsql_master WHERE key = 'config.' || ?1")?
            .query_row([MERGE_EQUAL_VALUES], |row| row.get(0))
            .optional()?;
        merge_equal_values(value.as_ref().map_or(ValueRef::Null, ValueRef::from))
    }

    /// Stores the setting [`MERGE_EQUAL_VALUES`].
    pub(crate) fn set_merge_equal_values(&self, value: &Value) -> Result<()> {
        self.db()
            .prepare_cached("INSERT OR REPLACE INTO main.crsql_master (key, value) VALUES ('config.' || ?1, ?2)")?
            .execute((MERGE_EQUAL_VALUES, value))?;
        Ok(())
    }
}
