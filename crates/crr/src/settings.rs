//! Settings that are kept in the file. They are read when they are needed, so that a rollback, or another connection, can
//! change them.

use rusqlite::OptionalExtension;
use rusqlite::types::Value;

use crate::state::Engine;
use crate::{Error, Result};

/// The setting that lets the larger site id win between equal values, if it is 1.
pub(crate) const MERGE_EQUAL_VALUES: &str = "merge-equal-values";

impl Engine {
    /// The setting [`MERGE_EQUAL_VALUES`]; 0 if it was never set.
    pub(crate) fn merge_equal_values(&self) -> Result<i64> {
        let value: Option<Value> = self
            .db()
            .prepare_cached("SELECT value FROM main.crsql_master WHERE key = 'config.' || ?1")?
            .query_row([MERGE_EQUAL_VALUES], |row| row.get(0))
            .optional()?;
        match value {
            None => Ok(0),
            Some(Value::Integer(value)) => Ok(value),
            Some(_) => Err(Error::DamagedFile { reason: "the setting merge-equal-values isn't an integer" }),
        }
    }

    /// Stores the setting [`MERGE_EQUAL_VALUES`].
    pub(crate) fn set_merge_equal_values(&self, value: &Value) -> Result<()> {
        self.db()
            .prepare_cached("INSERT OR REPLACE INTO main.crsql_master (key, value) VALUES ('config.' || ?1, ?2)")?
            .execute((MERGE_EQUAL_VALUES, value))?;
        Ok(())
    }
}
