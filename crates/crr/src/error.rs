//! What can go wrong, and whose fault it is.

use rusqlite::ffi;

use crate::pack::KeyError;

/// The result of the engine's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the engine. Messages name tables, columns and reasons; never cell values or keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine was never loaded into this connection: call [`load`](crate::load()).
    #[error("the crr engine isn't loaded into this connection")]
    NotLoaded,

    /// Another copy of the engine is loaded into this connection, for instance as a loadable extension. It works through SQL;
    /// the native interface can't reach it.
    #[error("another copy of the crr engine is loaded into this connection")]
    LoadedElsewhere,

    /// This program runs with a SQLite that is too old for the engine.
    #[error("the crr engine needs SQLite 3.37.0 or newer, and this is SQLite {found}")]
    OldSqlite {
        /// SQLite's version.
        found: &'static str,
    },

    /// [`load`](crate::load()) has tables to create, and the caller has a transaction open that could take them back.
    #[error("the crr engine can't set up its tables inside an open transaction")]
    InTransaction,

    /// A [`Merge`](crate::Merge) needs a transaction of the caller's around it.
    #[error("a merge needs an open transaction")]
    NoTransaction,

    /// The file was made by an engine that is too old to read.
    #[error("the database was made by engine version {found}; the oldest that can be opened is 150000")]
    UnsupportedVersion {
        /// The version the file names, as `MMmmppbb`; 0 if it names none.
        found: i64,
    },

    /// The file's system tables don't hold what they should.
    #[error("the database's system tables are damaged: {reason}")]
    DamagedFile {
        /// What is wrong.
        reason: &'static str,
    },

    /// A table can't become a CRR.
    #[error("table {table} can't become a CRR: {reason}")]
    Unsuitable {
        /// The table.
        table: String,
        /// Which condition it breaks.
        reason: String,
    },

    /// A table can't be kept in an order.
    #[error("table {table} can't be ordered: {reason}")]
    Unorderable {
        /// The table.
        table: String,
        /// What it lacks.
        reason: String,
    },

    /// A key of a fractional order is malformed, or there is no key where one is wanted.
    #[error("no order key: {reason}")]
    OrderKey {
        /// Why there is none.
        reason: &'static str,
    },

    /// A function was called in a way that it doesn't know.
    #[error("{function}: {reason}")]
    Misuse {
        /// The SQL function.
        function: &'static str,
        /// What is wrong with the call.
        reason: &'static str,
    },

    /// A change, or a trigger, names a table that is no CRR here.
    #[error("table {} is not a CRR in this database", shown(.table))]
    UnknownTable {
        /// The table.
        table: String,
    },

    /// A change names a column that its table lacks, or that is part of the primary key.
    #[error("table {} has no column {} that a change can set", shown(.table), shown(.column))]
    UnknownColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },

    /// A change's packed key is malformed or doesn't fit its table.
    #[error("table {table}: malformed key: {reason}")]
    MalformedKey {
        /// The table.
        table: String,
        /// What is wrong with the key.
        reason: KeyError,
    },

    /// A change carries a number out of its bounds.
    #[error("table {}, column {}: {field} {value} is out of bounds ({least} to {most})", shown(.table), shown(.column))]
    OutOfBounds {
        /// The table.
        table: String,
        /// The column, or `-1` for the row's sentinel.
        column: String,
        /// Which number of the change it is.
        field: &'static str,
        /// The number.
        value: i64,
        /// The smallest number allowed.
        least: i64,
        /// The largest number allowed here and now.
        most: i64,
    },

    /// A changeset has an effect on a table that it [may not write](crate::Merge::changeset_within).
    #[error("table {table} may not be written to")]
    NotPermitted {
        /// The table.
        table: String,
    },

    /// A change row given to `crsql_changes` has a field of the wrong type.
    #[error("crsql_changes: {field} has the wrong type")]
    WrongType {
        /// The column of `crsql_changes`.
        field: &'static str,
    },

    /// A site id is neither absent nor 16 bytes long.
    #[error("crsql_changes: the site id is {length} bytes long instead of 16")]
    SiteIdLength {
        /// Its length in bytes.
        length: usize,
    },

    /// SQLite or a trigger of the application's refused the row that a change makes.
    #[error("table {table}: the row that a change makes breaks a constraint: {reason}")]
    Constraint {
        /// The table.
        table: String,
        /// The constraint, as far as it can be told without naming values.
        reason: String,
        /// SQLite's error.
        source: Box<rusqlite::Error>,
    },

    /// There are clock entries for a row that isn't there: something wrote to the table behind the engine's back.
    #[error("table {table}: there are clock entries for a row that is missing")]
    MissingRow {
        /// The table.
        table: String,
    },

    /// A schema doesn't run even in an empty database, begins or ends transactions, or makes a CRR of an unsuitable table.
    #[error("the schema doesn't run in an empty database: {reason}")]
    InvalidSchema {
        /// What is wrong.
        reason: String,
        /// The error in full.
        source: Box<Error>,
    },

    /// The database differs from the schema in a way that no migration can change.
    #[error("the database can't be migrated to the schema: {reasons}")]
    MigrationRefused {
        /// All of the plan's reasons.
        reasons: String,
    },

    /// A step of a migration failed. Everything was undone.
    #[error("the migration failed at: {step}: {reason}")]
    MigrationFailed {
        /// The step.
        step: String,
        /// What is wrong.
        reason: String,
        /// The error in full.
        source: Box<Error>,
    },

    /// The database's definitions have changed since a migration was planned.
    #[error("the database has changed since the migration was planned")]
    OutdatedPlan,

    /// The database has used up its versions (2^53).
    #[error("the database's version clock is exhausted")]
    ClockExhausted,

    /// SQLite failed: busy, full, corrupt, interrupted, out of memory, or an error in the engine's own SQL.
    #[error(transparent)]
    Sqlite(Box<rusqlite::Error>),
}

impl Error {
    /// Whether the changeset is to blame: sent again, it would fail again. Other errors are this side's.
    pub fn is_refused(&self) -> bool {
        matches!(
            self,
            Error::UnknownTable { .. }
                | Error::UnknownColumn { .. }
                | Error::MalformedKey { .. }
                | Error::OutOfBounds { .. }
                | Error::NotPermitted { .. }
                | Error::WrongType { .. }
                | Error::SiteIdLength { .. }
                | Error::Constraint { .. }
        )
    }

    /// The table of the change that is to blame, as the change names it; of a table that can't become a CRR, its name.
    pub fn table(&self) -> Option<&str> {
        match self {
            Error::Unsuitable { table, .. }
            | Error::Unorderable { table, .. }
            | Error::UnknownTable { table }
            | Error::UnknownColumn { table, .. }
            | Error::MalformedKey { table, .. }
            | Error::OutOfBounds { table, .. }
            | Error::NotPermitted { table }
            | Error::Constraint { table, .. }
            | Error::MissingRow { table } => Some(table),
            _ => None,
        }
    }

    /// Whether another connection's lock is all that is in the way. Later it may work.
    pub fn is_busy(&self) -> bool {
        let primary = self.sqlite_code().map(|code| code & 0xff);
        matches!(primary, Some(ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED))
    }

    /// SQLite's extended code, if SQLite is where the error comes from.
    pub fn sqlite_code(&self) -> Option<i32> {
        match self {
            Error::Sqlite(source) | Error::Constraint { source, .. } => source.sqlite_extended_error_code(),
            Error::InvalidSchema { source, .. } | Error::MigrationFailed { source, .. } => source.sqlite_code(),
            _ => None,
        }
    }

    /// Sorts an error of a write to an application's table: was it the row, or the machine?
    pub(crate) fn of_row_write(table: &str, source: rusqlite::Error) -> Error {
        let Some(code) = source.sqlite_error().map(|error| error.extended_code) else {
            return source.into();
        };
        let reason = match (code & 0xff, &source) {
            // The text is the application's and may be made of cell values.
            (ffi::SQLITE_CONSTRAINT, _) if code == ffi::SQLITE_CONSTRAINT_TRIGGER => "a trigger refused it".to_owned(),
            (ffi::SQLITE_CONSTRAINT | ffi::SQLITE_MISMATCH, rusqlite::Error::SqliteFailure(_, Some(text))) => {
                text.clone()
            }
            (ffi::SQLITE_CONSTRAINT | ffi::SQLITE_MISMATCH, _) => format!("SQLite error {code}"),
            (ffi::SQLITE_TOOBIG, _) => "it is too big".to_owned(),
            _ => return source.into(),
        };
        Error::Constraint { table: table.to_owned(), reason, source: Box::new(source) }
    }
}

/// A name that came from a peer, made fit for a line of a log: short, and without line breaks.
fn shown(name: &str) -> String {
    const LONGEST: usize = 80;
    let end = name.floor_char_boundary(LONGEST);
    let dots = if end < name.len() { "…" } else { "" };
    format!("{}{dots}", name.get(..end).unwrap_or_default().escape_debug())
}

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        Error::Sqlite(Box::new(source))
    }
}

/// For callbacks that SQLite calls: keeps SQLite's own code where there is one.
impl From<Error> for rusqlite::Error {
    fn from(error: Error) -> Self {
        if let Error::Sqlite(source) = error {
            return *source;
        }
        let code = error.sqlite_code().unwrap_or(ffi::SQLITE_ERROR);
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_from_a_peer_forges_no_line_of_a_log_and_floods_none() {
        let table = format!("a\n2026 ERROR forged {}", "é".repeat(1_000_000));
        let text = Error::UnknownTable { table }.to_string();
        assert!(text.starts_with("table a\\n2026 ERROR forged éé"), "{text}");
        assert!(text.len() < 200 && !text.contains('\n'), "{text}");
        let text = Error::UnknownColumn { table: "foo".to_owned(), column: "b\r".to_owned() }.to_string();
        assert_eq!(text, "table foo has no column b\\r that a change can set");
    }
}
