//! `CREATE VIRTUAL TABLE x_schema USING clset(…)`: a table and its CRR in one statement.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use rusqlite::Connection;
use site::{EMPTY, FOO, Site, site};

const ITEM: &str =
    "CREATE VIRTUAL TABLE item_schema USING clset (id INTEGER PRIMARY KEY NOT NULL, name TEXT DEFAULT 'a, b')";

/// The names of all objects that are not the engine's own tables.
fn objects(site: &Site) -> Vec<String> {
    site.query(
        "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'crsql_%' AND name NOT LIKE 'sqlite_%' ORDER BY name",
    )
}

#[test]
fn the_table_is_made_and_is_a_crr() {
    let a = Site::new("A", ITEM);
    assert_eq!(a.crr().tables().unwrap(), ["item"]);
    a.run("INSERT INTO item (id) VALUES (1); UPDATE item SET name = 'x'");
    a.changes_are("item 010901 name 'x' 2 2 A 1 0");
    let b =
        Site::new("B", "CREATE TABLE item (id INTEGER PRIMARY KEY NOT NULL, name TEXT); SELECT crsql_as_crr('item')");
    b.pull_from(&a, 0);
    assert_eq!(b.rows("item"), ["1, 'x'"], "a peer may have made it in the other way");
}

#[test]
fn any_definition_of_a_table_can_be_given() {
    let a = Site::new(
        "A",
        "CREATE VIRTUAL TABLE \"my list_schema\" USING clset (a NOT NULL, \"b c\" NOT NULL, d CHECK (d > 0), PRIMARY KEY (\"b c\", a))",
    );
    a.run("INSERT INTO \"my list\" VALUES (1, 2, 3)");
    a.query_is("SELECT hex(pk), cid, val FROM crsql_changes", &["'0209020901', 'd', 3"]);
    a.error("INSERT INTO \"my list\" VALUES (1, 3, 0)");
}

#[test]
fn if_not_exists_makes_it_once() {
    let again = ITEM.replace("TABLE item", "TABLE IF NOT EXISTS item");
    let a = Site::new("A", ITEM);
    a.run("INSERT INTO item VALUES (1, 'x')");
    a.run(&again);
    a.error(ITEM);
    assert_eq!(a.rows("item"), ["1, 'x'"]);
}

#[test]
fn a_table_that_cannot_be_a_crr_leaves_nothing_behind() {
    let a = Site::new("A", FOO);
    let before = objects(&a);
    for (name, definition, reason) in [
        ("item_schema", "id PRIMARY KEY NOT NULL, name UNIQUE", "unique"),
        ("item_schema", "id, name", "NOT NULL"),
        ("item_schema", "id PRIMARY KEY NOT NULL, name NOT NULL", "column name"),
        ("item_schema", "id PRIMARY KEY NOT, name", "syntax"),
        ("item_schema", "", "syntax"),
        ("item", "id PRIMARY KEY NOT NULL", "_schema"),
        ("_schema", "id PRIMARY KEY NOT NULL", "_schema"),
        ("foo_schema", "id PRIMARY KEY NOT NULL", "foo"),
    ] {
        let create = format!("CREATE VIRTUAL TABLE {name} USING clset ({definition})");
        let error = a.error(&create);
        assert!(error.contains(reason), "{create}: {error}");
        assert_eq!(objects(&a), before, "{create}");

        a.run("BEGIN; INSERT INTO foo VALUES (1, 2, 3)");
        a.error(&create);
        assert!(!a.conn.is_autocommit(), "{create}");
        assert_eq!(objects(&a), before, "{create}");
        a.run("ROLLBACK");
    }
    a.run(ITEM);
}

#[test]
fn it_belongs_to_the_main_database() {
    let a = Site::new("A", "ATTACH ':memory:' AS other");
    let error = a.error(&ITEM.replace("TABLE item", "TABLE other.item"));
    assert!(error.contains("main"), "{error}");
    a.error(&ITEM.replace("TABLE item", "TABLE temp.item"));
    assert_eq!(objects(&a), Vec::<String>::new());
}

#[test]
fn the_virtual_table_itself_cannot_be_read_or_written() {
    let a = Site::new("A", ITEM);
    for statement in [
        "SELECT * FROM item_schema",
        "SELECT count(*) FROM item_schema",
        "SELECT schema FROM item_schema",
        "INSERT INTO item_schema (schema) VALUES ('id')",
        "UPDATE item_schema SET schema = 'x'",
        "DELETE FROM item_schema",
    ] {
        a.error(statement);
    }
    a.run("INSERT INTO item (id) VALUES (1)");
    assert_eq!(a.changes().len(), 1);
}

#[test]
fn dropping_it_drops_the_crr_and_the_version_does_not_go_back() {
    let a = Site::new("A", &format!("{FOO} {ITEM}"));
    a.run("INSERT INTO foo VALUES (1, 2, 3); INSERT INTO item (id) VALUES (1); INSERT INTO item (id) VALUES (2)");
    a.run("DROP TABLE item_schema");
    a.query_is("SELECT name FROM sqlite_schema WHERE name LIKE '%item%'", &[]);
    assert_eq!(a.changes().len(), 2);
    a.run("INSERT INTO foo VALUES (2, 3, 4)");
    assert_eq!(a.db_version(), 4);
}

#[test]
fn making_and_dropping_it_can_be_rolled_back() {
    let a = Site::new("A", EMPTY);
    a.run(&format!("BEGIN; {ITEM}; INSERT INTO item (id) VALUES (1); ROLLBACK"));
    assert_eq!(objects(&a), Vec::<String>::new());
    a.run(&format!("{ITEM}; INSERT INTO item (id) VALUES (1)"));
    let before = (objects(&a), a.changes());
    a.run("BEGIN; DROP TABLE item_schema; ROLLBACK");
    assert_eq!((objects(&a), a.changes()), before);
    a.run("INSERT INTO item (id) VALUES (2)");
    assert_eq!(a.db_version(), 2);
}

#[test]
fn it_cannot_be_dropped_once_its_table_is_gone() {
    let a = Site::new("A", ITEM);
    a.run("DROP TABLE item");
    a.error("DROP TABLE item_schema");
    a.run("CREATE TABLE item (a)");
    a.run("DROP TABLE item_schema");
    assert_eq!(objects(&a), Vec::<String>::new());
}

#[test]
fn a_file_with_one_is_opened_altered_and_cleared_by_another_connection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let a = Site::on(Connection::open(&path).unwrap(), site("A"), ITEM);
    a.run("INSERT INTO item (id) VALUES (1)");
    drop(a);
    let conn = Connection::open(&path).unwrap();
    crr::load(&conn).unwrap();
    let a = Site { conn, id: site("A") };
    assert_eq!(a.changes().len(), 1);
    a.crr().alter("item", |conn| conn.execute_batch("ALTER TABLE item ADD COLUMN due")).unwrap();
    a.run("UPDATE item SET due = 1");
    assert_eq!(a.changes().len(), 2);
    a.run("DROP TABLE item_schema");
    assert_eq!(objects(&a), Vec::<String>::new());
}
