//! Bringing a room's database from one version of its schema to another.
//!
//! The schema folder has one version of each schema, so there is one direction. The first client that comes with that version has
//! the room migrated, while it is open or before it is opened. Also one that may not write: it can choose neither the version nor
//! another moment than the next client would, and a room that has only readers would be closed to all of them for ever.

use std::time::Instant;

use crr::{Crr, MigrationPlan};
use rusqlite::{Connection, TransactionBehavior};

use super::RoomName;
use super::database::refuse_impostor;
use super::schema::{ResidentSchema, StoredSchema};
use crate::error::Error;

/// A database that has been migrated.
#[derive(Debug)]
pub(crate) struct Migrated {
    pub(crate) schema: StoredSchema,
    /// The db_version up to which everything is durable.
    pub(crate) now: i64,
}

/// Migrates the database to `resident` and records that, in one transaction: on failure nothing is changed. Does nothing if another
/// process has done it.
pub(crate) fn migrate(conn: &mut Connection, room: &RoomName, resident: &ResidentSchema) -> Result<Migrated, Error> {
    run(conn, room, resident).map_err(|source| Error::schema_refused(room, &resident.name, source))
}

fn run(conn: &mut Connection, room: &RoomName, resident: &ResidentSchema) -> crr::Result<Migrated> {
    let begun = Instant::now();
    let schema = StoredSchema::of(resident);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let crr = Crr::of(&tx)?;
    let stored = StoredSchema::read(&tx)?;
    if stored.as_ref() == Some(&schema) {
        let now = crr.stored_db_version()?;
        tx.commit()?;
        return Ok(Migrated { schema, now });
    }
    let plan = crr.plan_migration(resident.sql())?;
    tell(room, stored.as_ref(), &schema, &plan);
    crr.migrate(&plan)?;
    schema.record(&tx)?;
    refuse_impostor(&tx)?;
    let now = crr.stored_db_version()?;
    tx.commit()?;
    tracing::info!(%room, %schema, elapsed = ?begun.elapsed(), "room migrated");
    Ok(Migrated { schema, now })
}

/// Tells the operator what is about to happen.
fn tell(room: &RoomName, from: Option<&StoredSchema>, to: &StoredSchema, plan: &MigrationPlan) {
    let from = from.map(tracing::field::display);
    tracing::info!(%room, from, %to, steps = plan.steps().len(), "migrating the room");
    for step in plan.steps() {
        tracing::info!(%room, %step, "migration step");
    }
    for difference in plan.kept() {
        tracing::warn!(%room, %difference, "a migration can't change this");
    }
    for reason in plan.refused() {
        tracing::warn!(%room, %reason, "migration refused");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::schema;

    const V1: &str = "CREATE TABLE IF NOT EXISTS foo (a INTEGER PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('foo');";

    fn room() -> RoomName {
        RoomName::parse("r").unwrap()
    }

    fn stored(conn: &Connection) -> Option<StoredSchema> {
        StoredSchema::read(conn).unwrap()
    }

    fn columns(conn: &Connection) -> String {
        conn.query_row("SELECT group_concat(name) FROM pragma_table_info('foo')", [], |row| row.get(0)).unwrap()
    }

    /// A database with the first version and a row.
    fn database() -> Connection {
        let mut conn = Connection::open_in_memory().unwrap();
        crr::load(&conn).unwrap();
        schema::apply(&mut conn, &room(), &ResidentSchema::of_text("main.sql", V1)).unwrap();
        conn.execute_batch("INSERT INTO foo VALUES (1, 2)").unwrap();
        conn
    }

    #[test]
    fn schema_and_version_change_together() {
        let mut conn = database();
        let second = ResidentSchema::of_text("main.sql", &format!("\u{feff}{}", V1.replace(", b", ", b, c DEFAULT 5")));
        let migrated = migrate(&mut conn, &room(), &second).unwrap();
        assert_eq!((stored(&conn).as_ref(), migrated.now), (Some(&migrated.schema), 1));
        assert_eq!(columns(&conn), "a,b,c");
        let again = migrate(&mut conn, &room(), &second).unwrap();
        assert_eq!(again.schema, migrated.schema);
    }

    #[test]
    fn a_migration_that_fails_half_way_changes_nothing() {
        let mut conn = database();
        let before = stored(&conn);
        let failing = format!("{}; INSERT INTO foo (a) VALUES (1);", V1.replace(", b", ", c"));
        let error = migrate(&mut conn, &room(), &ResidentSchema::of_text("main.sql", &failing)).unwrap_err();
        assert!(matches!(error, Error::SchemaRefused { .. }));
        assert!(error.close().reason().contains("UNIQUE constraint failed: foo.a"), "{}", error.close());
        assert_eq!((stored(&conn), columns(&conn)), (before, "a,b".to_owned()));
        assert!(conn.is_autocommit());
    }
}
