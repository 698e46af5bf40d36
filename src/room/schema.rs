//! Schemas: the files in the schema folder, and the name and version that a room's database records.
//!
//! A schema's version is not a number that grows but the hash of its text, so that client and server agree on a version
//! exactly when they have the same text.

use std::fmt;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tower_sqlite_sync_wire::schema_version;

use super::RoomName;
use crate::error::Error;

/// The version of a half-made file, which has a schema's name but no version. It is no text's hash that anyone has met, so it
/// matches nobody.
const UNKNOWN_VERSION: i64 = 0;

/// The longest schema name, in bytes.
const MAX_NAME: usize = 128;

/// A file name in the schema folder: letters, digits, `_`, `-` and `.`, not starting with a dot, and not a number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SchemaName(String);

impl SchemaName {
    /// Parses a name as it came from a client.
    ///
    /// # Errors
    ///
    /// [`Error::SchemaUnknown`] with what is wrong with the name. A name that reads as a number is refused because the
    /// column that stores it would turn it into one.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let reason = if name.is_empty() {
            "a name is needed"
        } else if name.len() > MAX_NAME {
            "a name has at most 128 bytes"
        } else if !name.chars().all(plain) || name.starts_with('.') {
            "a name has letters, digits, '_', '-' and '.', and doesn't start with a dot"
        } else if name.parse::<f64>().is_ok() {
            "a name that is a number can't be stored"
        } else {
            return Ok(Self(name.to_owned()));
        };
        let shown: String = name.chars().take(32).collect();
        Err(Error::SchemaUnknown { schema: shown, reason: reason.to_owned() })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A schema as the schema folder has it now.
#[derive(Debug, Clone)]
pub(crate) struct ResidentSchema {
    pub(crate) name: SchemaName,
    pub(crate) version: i64,
    text: String,
}

impl ResidentSchema {
    /// Reads the file of that name. Blocks on the file system.
    pub(crate) fn read(folder: &Path, name: SchemaName) -> Result<Self, Error> {
        let bytes = std::fs::read(folder.join(name.as_str())).map_err(|error| Error::SchemaUnknown {
            schema: name.to_string(),
            reason: match error.kind() {
                std::io::ErrorKind::NotFound => "put a file of that name into the server's schema folder".to_owned(),
                kind => format!("the file can't be read ({kind})"),
            },
        })?;
        // What clients hash is the text as JavaScript decodes it: a byte-order mark stays, bad bytes become U+FFFD.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { version: schema_version(&text), name, text })
    }

    /// A schema that no file has.
    #[cfg(test)]
    pub(crate) fn of_text(name: &str, text: &str) -> Self {
        let name = SchemaName(name.to_owned());
        Self { version: schema_version(text), name, text: text.to_owned() }
    }

    /// Name and version.
    pub(crate) fn stamp(&self) -> WantedSchema {
        WantedSchema { name: self.name.clone(), version: self.version }
    }

    /// The text as SQLite takes it, which does not know byte-order marks.
    pub(crate) fn sql(&self) -> &str {
        self.text.trim_start_matches('\u{feff}')
    }

    /// The file, if its version is the one wanted. Blocks on the file system.
    pub(crate) fn read_version(folder: &Path, wanted: &WantedSchema) -> Result<Self, Error> {
        let resident = Self::read(folder, wanted.name.clone())?;
        if resident.version == wanted.version {
            Ok(resident)
        } else {
            Err(Error::SchemaNotResident {
                schema: wanted.name.clone(),
                wanted: wanted.version,
                resident: resident.version,
            })
        }
    }
}

/// The schema that a client says it has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WantedSchema {
    pub(crate) name: SchemaName,
    pub(crate) version: i64,
}

/// The schema that a room's database says it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredSchema {
    name: String,
    version: i64,
}

impl StoredSchema {
    /// Reads `crsql_master`; `None` if no schema was applied yet.
    pub(crate) fn read(conn: &Connection) -> rusqlite::Result<Option<Self>> {
        let value = |key: &str| {
            conn.query_row(
                "SELECT CAST(value AS TEXT), CAST(value AS INTEGER) FROM crsql_master WHERE key = ?1",
                [key],
                |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)),
            )
            .optional()
        };
        let Some((name, _)) = value("schema_name")? else { return Ok(None) };
        let version = value("schema_version")?.map_or(UNKNOWN_VERSION, |(_, version)| version);
        Ok(Some(Self { name, version }))
    }

    /// What a database says that has this schema.
    pub(crate) fn of(resident: &ResidentSchema) -> Self {
        Self { name: resident.name.to_string(), version: resident.version }
    }

    /// The version.
    pub(crate) fn version(&self) -> i64 {
        self.version
    }

    /// Whether it is another version of that schema, which a migration may bring up to date.
    pub(crate) fn is_other_version_of(&self, wanted: &WantedSchema) -> bool {
        self.name == wanted.name.as_str() && self.version != wanted.version && self.version != UNKNOWN_VERSION
    }

    /// Records the schema in the database.
    pub(crate) fn record(&self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut record = tx.prepare("INSERT OR REPLACE INTO crsql_master (key, value) VALUES (?1, ?2)")?;
        record.execute(("schema_name", &self.name))?;
        record.execute(("schema_version", self.version))?;
        Ok(())
    }

    /// Whether a client with that schema may use the room.
    pub(crate) fn admit(&self, room: &RoomName, wanted: &WantedSchema) -> Result<(), Error> {
        if self.name == wanted.name.as_str() && self.version == wanted.version {
            return Ok(());
        }
        Err(Error::SchemaMismatch {
            room: room.clone(),
            stored: self.to_string(),
            wanted: format!("{} {}", wanted.name, wanted.version),
        })
    }
}

impl fmt::Display for StoredSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// Applies a schema to a database that has none, and records it, in one transaction: on failure nothing is changed.
pub(crate) fn apply(conn: &mut Connection, room: &RoomName, schema: &ResidentSchema) -> Result<StoredSchema, Error> {
    let applied = StoredSchema::of(schema);
    let mut run = || -> rusqlite::Result<()> {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(schema.sql())?;
        applied.record(&tx)?;
        tx.commit()
    };
    run().map_err(|source| Error::schema_refused(room, &schema.name, source.into()))?;
    tracing::info!(%room, schema = %schema.name, version = schema.version, "schema applied");
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        crr::load(&conn).unwrap();
        conn
    }

    fn schema(text: &str) -> ResidentSchema {
        ResidentSchema::of_text("main.sql", text)
    }

    fn room() -> RoomName {
        RoomName::parse("r").unwrap()
    }

    #[test]
    fn names_that_are_no_plain_file_names_or_read_as_numbers_are_refused() {
        for bad in ["", "../main.sql", "a/b", "a\\b", ".hidden", "12", "1e5", "-3.5", "é.sql", &"x".repeat(129)] {
            assert!(SchemaName::parse(bad).is_err(), "{bad}");
        }
        for good in ["main.sql", "v2", "2024-schema.sql", "a_b-c.d"] {
            assert!(SchemaName::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn an_applied_schema_is_recorded_and_admits_its_clients_only() {
        let mut conn = database();
        assert_eq!(StoredSchema::read(&conn).unwrap(), None);
        let schema = schema("CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('foo');");
        let stored = apply(&mut conn, &room(), &schema).unwrap();
        assert_eq!(StoredSchema::read(&conn).unwrap(), Some(stored.clone()));

        let wanted = WantedSchema { name: schema.name.clone(), version: schema.version };
        stored.admit(&room(), &wanted).unwrap();
        let newer = WantedSchema { version: schema.version.wrapping_add(1), ..wanted.clone() };
        assert!(matches!(stored.admit(&room(), &newer), Err(Error::SchemaMismatch { .. })));
        let other = WantedSchema { name: SchemaName::parse("other.sql").unwrap(), ..wanted };
        assert!(matches!(stored.admit(&room(), &other), Err(Error::SchemaMismatch { .. })));
    }

    #[test]
    fn a_schema_that_fails_half_way_changes_nothing() {
        let mut conn = database();
        let schema = schema("CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('missing');");
        assert!(matches!(apply(&mut conn, &room(), &schema), Err(Error::SchemaRefused { .. })));
        assert_eq!(StoredSchema::read(&conn).unwrap(), None);
        let tables: i64 =
            conn.query_row("SELECT count(*) FROM sqlite_master WHERE name = 'foo'", [], |r| r.get(0)).unwrap();
        assert_eq!(tables, 0);
    }

    #[test]
    fn the_file_must_have_the_version_that_the_client_has() {
        let folder = tempfile::tempdir().unwrap();
        let text = "CREATE TABLE foo (a);";
        std::fs::write(folder.path().join("main.sql"), text).unwrap();
        let name = SchemaName::parse("main.sql").unwrap();
        let wanted = WantedSchema { name: name.clone(), version: schema_version(text) };
        assert_eq!(ResidentSchema::read_version(folder.path(), &wanted).unwrap().version, wanted.version);

        let stale = WantedSchema { name, version: 1 };
        assert!(matches!(ResidentSchema::read_version(folder.path(), &stale), Err(Error::SchemaNotResident { .. })));
        let missing = SchemaName::parse("none.sql").unwrap();
        assert!(matches!(ResidentSchema::read(folder.path(), missing), Err(Error::SchemaUnknown { .. })));
    }
}
