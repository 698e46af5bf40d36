//! Schemas: the files in the schema folder, and the name and version that a room's database records.
//!
//! A schema's version is not a number that grows but the hash of its text, so that client and server agree on a version
//! exactly when they have the same text.
//!
//! A schema file may be in the middle of being written: most tools cut it to nothing and then write it in pieces. Each piece is
//! another schema with a version of its own, and whoever says that he has that version would have a room made or migrated by it,
//! with tables missing or dropped. So a text counts only once its file is left alone, an empty one never does, and neither
//! does one without anything to sync. That leaves a writer who pauses for long, between two statements; one who renames the
//! finished file into place can't be met half-way.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use tower_sqlite_sync_wire::schema_version;

use super::RoomName;
use super::database::refuse_impostor;
use crate::error::Error;

/// The version of a half-made file, which has a schema's name but no version. It is no text's hash that anyone has met, so it
/// matches nobody.
const UNKNOWN_VERSION: i64 = 0;

/// The longest schema name, in bytes.
const MAX_NAME: usize = 128;

/// How long ago a file was written that may be in the middle of it. There are file systems that tell time in steps of 2 seconds.
const JUST_NOW: Duration = Duration::from_secs(3);

/// How long a file that was just written is left alone before it is looked at again, and how often.
const PAUSE: Duration = Duration::from_millis(100);
const LOOKS: usize = 20;

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
    /// Reads the file of that name, once nobody writes it. Blocks on the file system.
    pub(crate) fn read(folder: &Path, name: SchemaName) -> Result<Self, Error> {
        Self::look(folder, name)?.settled(folder, || std::thread::sleep(PAUSE))?.with_crrs()
    }

    /// The same, if its version is the one wanted. One that is not is refused at once: there may be many who want it, every second.
    pub(crate) fn read_version(folder: &Path, wanted: &WantedSchema) -> Result<Self, Error> {
        let seen = Self::look(folder, wanted.name.clone())?.of_version(wanted)?;
        seen.settled(folder, || std::thread::sleep(PAUSE))?.of_version(wanted)?.with_crrs()
    }

    /// The same, of a version that was read before. Its text is whole, and makes something to sync.
    pub(super) fn read_known_version(folder: &Path, wanted: &WantedSchema) -> Result<Self, Error> {
        Self::look(folder, wanted.name.clone())?.of_version(wanted)
    }

    /// Reads the file as it is at this moment.
    fn look(folder: &Path, name: SchemaName) -> Result<Self, Error> {
        let unknown = |reason: String| Error::SchemaUnknown { schema: name.to_string(), reason };
        let bytes = std::fs::read(folder.join(name.as_str())).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                unknown("put a file of that name into the server's schema folder".to_owned())
            }
            kind => unknown(format!("the file can't be read ({kind})")),
        })?;
        // What clients hash is the text as JavaScript decodes it: a byte-order mark stays, bad bytes become U+FFFD.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let schema = Self { version: schema_version(&text), name: name.clone(), text };
        if schema.sql().trim().is_empty() {
            return Err(unknown("its file is empty: write the schema's text into it".to_owned()));
        }
        Ok(schema)
    }

    /// Looks again until the text is the same after a `pause`, unless the file has been left alone for a while.
    fn settled(self, folder: &Path, mut pause: impl FnMut()) -> Result<Self, Error> {
        let mut seen = self;
        for _ in 0..LOOKS {
            if !was_just_written(&folder.join(seen.name.as_str())) {
                return Ok(seen);
            }
            pause();
            let again = Self::look(folder, seen.name.clone())?;
            if again.text == seen.text {
                return Ok(seen);
            }
            seen = again;
        }
        let reason = "its file is being written all the time: try again later".to_owned();
        Err(Error::SchemaUnknown { schema: seen.name.to_string(), reason })
    }

    /// Refuses a text that makes nothing that could be synced, by running it in a database of its own. If it can't be run, whoever
    /// applies it says why.
    fn with_crrs(self) -> Result<Self, Error> {
        let tables = || -> crr::Result<Vec<String>> {
            let scratch = Connection::open_in_memory()?;
            let crr = crr::load(&scratch)?;
            scratch.execute_batch(self.sql())?;
            crr.tables()
        };
        if tables().is_ok_and(|tables| tables.is_empty()) {
            let reason = "it makes no table a CRR (SELECT crsql_as_crr('table')): is its text complete?".to_owned();
            return Err(Error::SchemaUnknown { schema: self.name.to_string(), reason });
        }
        Ok(self)
    }

    fn of_version(self, wanted: &WantedSchema) -> Result<Self, Error> {
        if self.version == wanted.version {
            return Ok(self);
        }
        let (wanted, resident) = (wanted.version, self.version);
        Err(Error::SchemaNotResident { schema: self.name, wanted, resident })
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
}

/// Whether that may be so: if the file system doesn't say, it may.
fn was_just_written(file: &Path) -> bool {
    let Ok(written) = file.metadata().and_then(|metadata| metadata.modified()) else { return true };
    // The clock may be behind the one of the file system.
    let ago = SystemTime::now().duration_since(written).unwrap_or_else(|ahead| ahead.duration());
    ago < JUST_NOW
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
        let sql = "SELECT CAST(value AS TEXT), CAST(value AS INTEGER) FROM crsql_master WHERE key = ?1";
        let mut value = conn.prepare_cached(sql)?;
        let mut value =
            |key: &str| value.query_row([key], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).optional();
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
    run(conn, schema).map_err(|source| Error::schema_refused(room, &schema.name, source.into()))?;
    tracing::info!(%room, schema = %schema.name, version = schema.version, "schema applied");
    Ok(applied)
}

/// The same, for whichever room.
pub(super) fn run(conn: &mut Connection, schema: &ResidentSchema) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(schema.sql())?;
    refuse_impostor(&tx)?;
    StoredSchema::of(schema).record(&tx)?;
    tx.commit()
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
    fn a_schema_that_touches_the_engines_tables_is_refused() {
        let tables = "CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('foo');";
        for (touching, named) in [
            ("CREATE TRIGGER meddler AFTER INSERT ON foo__crsql_clock BEGIN DELETE FROM foo; END", "trigger meddler"),
            ("CREATE TRIGGER meddler AFTER INSERT ON FOO__crsql_Clock BEGIN DELETE FROM foo; END", "trigger meddler"),
            (
                "CREATE TRIGGER meddler AFTER INSERT ON CRSQL_tracked_peers BEGIN DELETE FROM foo; END",
                "trigger meddler",
            ),
            ("CREATE VIEW crsql_sync_x AS SELECT 1", "view crsql_sync_x"),
            ("CREATE TABLE Crsql_Changes (x)", "table Crsql_Changes"),
        ] {
            let mut conn = database();
            let refused = apply(&mut conn, &room(), &schema(&format!("{tables} {touching};"))).unwrap_err();
            assert!(matches!(refused, Error::SchemaRefused { .. }) && refused.to_string().contains(named), "{refused}");
            assert_eq!(StoredSchema::read(&conn).unwrap(), None);
        }
        let harmless = "CREATE TRIGGER own AFTER INSERT ON foo BEGIN UPDATE foo SET b = 1 WHERE a = new.a; END;
                        CREATE INDEX foo_b ON foo (b); CREATE VIEW clocks AS SELECT * FROM foo__crsql_clock;";
        apply(&mut database(), &room(), &schema(&format!("{tables} {harmless}"))).unwrap();
    }

    /// A folder with a schema file that was just written, and its name.
    fn folder(text: &str) -> (tempfile::TempDir, SchemaName) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("main.sql"), text).unwrap();
        (folder, SchemaName::parse("main.sql").unwrap())
    }

    #[test]
    fn a_file_that_is_being_written_counts_once_it_is_left_alone() {
        const WHOLE: &str = "CREATE TABLE foo (a); CREATE TABLE bar (b);";
        let mut begun = 10;
        let (folder, name) = folder(&WHOLE[..begun]);
        let write_on = || {
            begun = (begun + 15).min(WHOLE.len());
            std::fs::write(folder.path().join("main.sql"), &WHOLE[..begun]).unwrap();
        };
        let seen = ResidentSchema::look(folder.path(), name).unwrap();
        assert_eq!(seen.settled(folder.path(), write_on).unwrap().text, WHOLE);
    }

    #[test]
    fn a_file_that_is_never_left_alone_is_refused_in_the_end() {
        let (folder, name) = folder("SELECT 0");
        let mut pauses = 0;
        let write_on = || {
            pauses += 1;
            std::fs::write(folder.path().join("main.sql"), format!("SELECT {pauses}")).unwrap();
        };
        let seen = ResidentSchema::look(folder.path(), name).unwrap();
        let error = seen.settled(folder.path(), write_on).unwrap_err();
        assert!(error.to_string().contains("being written"), "{error}");
    }

    #[test]
    fn a_file_that_was_left_alone_for_a_while_is_not_waited_for() {
        let (folder, name) = folder("SELECT 1");
        let file = std::fs::File::options().write(true).open(folder.path().join("main.sql")).unwrap();
        for time in [SystemTime::now() - 2 * JUST_NOW, SystemTime::now() + 2 * JUST_NOW, SystemTime::UNIX_EPOCH] {
            file.set_modified(time).unwrap();
            let seen = ResidentSchema::look(folder.path(), name.clone()).unwrap();
            seen.settled(folder.path(), || panic!("nothing to wait for")).unwrap();
        }
    }

    #[test]
    fn a_text_with_nothing_to_sync_is_no_schema_whoever_asks() {
        let empty = ["", "\n \t", "\u{feff}\r\n"].map(|text| (text, "is empty"));
        let part =
            ["-- Tables:", "CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL);"].map(|text| (text, "no table a CRR"));
        for (text, what) in empty.into_iter().chain(part) {
            let (folder, name) = folder(text);
            let wanted = WantedSchema { name: name.clone(), version: schema_version(text) };
            for read in
                [ResidentSchema::read_version(folder.path(), &wanted), ResidentSchema::read(folder.path(), name)]
            {
                let error = read.unwrap_err();
                assert!(error.about_the_schema().is_some() && error.to_string().contains(what), "{error}");
            }
        }
    }

    #[test]
    fn the_file_must_have_the_version_that_the_client_has() {
        let text = "CREATE TABLE foo (a PRIMARY KEY NOT NULL); SELECT crsql_as_crr('foo')";
        let (folder, name) = folder(text);
        let wanted = WantedSchema { name: name.clone(), version: schema_version(text) };
        assert_eq!(ResidentSchema::read_version(folder.path(), &wanted).unwrap().version, wanted.version);

        let stale = WantedSchema { name, version: 1 };
        assert!(matches!(ResidentSchema::read_version(folder.path(), &stale), Err(Error::SchemaNotResident { .. })));
        let missing = SchemaName::parse("none.sql").unwrap();
        assert!(matches!(ResidentSchema::read(folder.path(), missing), Err(Error::SchemaUnknown { .. })));
    }
}
