//! Migration: what a schema's text makes of a database that is there already, as a plan and in effect.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod site;

use crr::{Error, MigrationPlan};
use proptest::prelude::*;
use site::{EMPTY, Site};

/// Two CRRs, an index, and a table that is none.
const V1: &str = "
    CREATE TABLE IF NOT EXISTS task (id TEXT PRIMARY KEY NOT NULL, title TEXT, done INTEGER DEFAULT 0);
    SELECT crsql_as_crr('task');
    CREATE TABLE IF NOT EXISTS label (id TEXT PRIMARY KEY NOT NULL, text);
    SELECT crsql_as_crr('label');
    CREATE TABLE IF NOT EXISTS local (key PRIMARY KEY, value);
    CREATE INDEX IF NOT EXISTS by_title ON task (title);";

fn plan(site: &Site, schema: &str) -> MigrationPlan {
    site.crr().plan_migration(schema).unwrap()
}

/// Migrates, and asserts that nothing is left to do.
#[track_caller]
fn migrate(site: &Site, schema: &str) {
    site.crr().migrate(&plan(site, schema)).unwrap();
    assert_eq!(plan(site, schema).steps(), []);
}

/// The steps of a plan, a line each.
fn steps(site: &Site, schema: &str) -> Vec<String> {
    plan(site, schema).steps().iter().map(ToString::to_string).collect()
}

fn columns(site: &Site, table: &str) -> Vec<String> {
    site.query(&format!("SELECT group_concat(name) FROM pragma_table_info('{table}')"))
}

/// All that a failed migration may not touch.
fn everything(site: &Site) -> (Vec<String>, Vec<String>, Vec<String>) {
    let master = site.query("SELECT * FROM crsql_master");
    (site.query("SELECT type, name, sql FROM sqlite_schema"), site.changes(), master)
}

/// A site at [`V1`], with a row in each table.
fn first_version() -> Site {
    let a = Site::new("A", V1);
    a.run(
        "INSERT INTO task (id, title) VALUES ('t', 'write');
         INSERT INTO label VALUES ('l', 'urgent');
         INSERT INTO local VALUES ('k', 'v')",
    );
    a
}

// ---- Plans ----

#[test]
fn a_plan_tells_all_that_will_be_done_and_does_nothing() {
    let a = first_version();
    let before = everything(&a);
    let planned = plan(
        &a,
        "CREATE TABLE IF NOT EXISTS task (id TEXT PRIMARY KEY NOT NULL, done INTEGER DEFAULT 0, due TEXT COLLATE NOCASE);
         SELECT crsql_as_crr('task');
         CREATE TABLE IF NOT EXISTS local (key PRIMARY KEY, value);
         CREATE TABLE IF NOT EXISTS person (id TEXT PRIMARY KEY NOT NULL, name TEXT);
         SELECT crsql_as_crr('person')",
    );
    let expected = "\
- index by_title on task
- table label
- column task.title
+ column task: due TEXT COLLATE NOCASE
+ table person
+ tracking of table person";
    assert_eq!(planned.to_string(), expected);
    assert_eq!(planned.refused(), []);
    assert_eq!(everything(&a), before);
}

#[test]
fn a_plan_for_the_schema_that_is_there_has_nothing_to_do() {
    let a = first_version();
    assert_eq!(plan(&a, V1).to_string(), "nothing to change");
    let spelled_otherwise =
        V1.replace("TEXT", "text").replace("CREATE INDEX", "create  /* ! */ index").replace("by_title", "[by_title]");
    assert_eq!(plan(&a, &spelled_otherwise).to_string(), "nothing to change");
}

#[test]
fn a_plan_names_what_it_refuses_and_why_and_is_not_carried_out() {
    let a = first_version();
    let before = everything(&a);
    for (from, to, reason) in [
        (
            "task (id TEXT PRIMARY KEY NOT NULL,",
            "task (uid TEXT PRIMARY KEY NOT NULL,",
            "primary key (id) can't become (uid)",
        ),
        ("task (id TEXT", "Task (id TEXT", "the schema spells it Task"),
        ("title TEXT", "Title TEXT", "spells column title Title"),
        ("done INTEGER", "stars NOT NULL, done INTEGER", "column stars can't be added"),
        ("done INTEGER", "at DEFAULT CURRENT_TIMESTAMP, done INTEGER", "column at can't be added"),
        ("done INTEGER", "doubled AS (done * 2) STORED, done INTEGER", "column doubled can't be added"),
        (
            "local (key PRIMARY KEY, value)",
            "local (key PRIMARY KEY, value, other UNIQUE)",
            "column other can't be added",
        ),
    ] {
        let schema = V1.replace(from, to).replace("crsql_as_crr('task')", "crsql_db_version()");
        assert_ne!(schema, V1);
        let planned = plan(&a, &schema);
        let refused: Vec<String> = planned.refused().iter().map(ToString::to_string).collect();
        assert!(refused.iter().any(|line| line.contains(reason)), "{to}: {refused:?}");
        assert!(planned.to_string().contains(reason));

        let error = a.crr().migrate(&planned).unwrap_err();
        assert!(matches!(error, Error::MigrationRefused { .. }));
        assert!(error.to_string().contains(reason), "{error}");
        a.conn.query_row("SELECT crsql_automigrate(?)", [&schema], |_| Ok(())).unwrap_err();
        assert_eq!(everything(&a), before, "{to}");
        assert!(a.conn.is_autocommit());
    }
}

#[test]
fn a_column_that_may_not_be_dropped_is_refused_in_the_plan() {
    let a = Site::new("A", "CREATE TABLE IF NOT EXISTS t (a PRIMARY KEY NOT NULL, b, c CHECK (c < b), d UNIQUE)");
    let refused = |schema: &str| plan(&a, schema).refused().iter().map(ToString::to_string).collect::<Vec<_>>();
    let of_d = refused("CREATE TABLE IF NOT EXISTS t (a PRIMARY KEY NOT NULL, b, c CHECK (c < b))");
    assert!(of_d[0].starts_with("table t: column d can't be dropped: "), "{of_d:?}");
    let of_b = refused("CREATE TABLE IF NOT EXISTS t (a PRIMARY KEY NOT NULL, c CHECK (c < 5), d UNIQUE)");
    assert!(of_b[0].starts_with("table t: column b can't be dropped: "), "{of_b:?}");
}

#[test]
fn differences_that_stay_are_named_and_do_not_stop_a_migration() {
    let a = first_version();
    let schema = V1
        .replace("title TEXT", "title VARCHAR(20) DEFAULT 'none'")
        .replace("text);", "text) WITHOUT ROWID;")
        .replace("SELECT crsql_as_crr('label');", "")
        .replace("done INTEGER DEFAULT 0", "done INTEGER DEFAULT 0, due TEXT");
    let planned = plan(&a, &schema);
    let kept: Vec<String> = planned.kept().iter().map(ToString::to_string).collect();
    assert_eq!(
        kept,
        [
            "table label: its constraints and options stay; the schema's differ",
            "table label: it stays a CRR, although the schema doesn't make it one",
            "table task: column title stays `title TEXT`; the schema says `title VARCHAR(20) DEFAULT 'none'`",
        ]
    );
    a.crr().migrate(&planned).unwrap();
    assert_eq!(columns(&a, "task"), ["'id,title,done,due'"]);
    assert_eq!(a.crr().tables().unwrap(), ["task", "label"]);
}

#[test]
fn a_plan_made_before_something_changed_is_refused() {
    let a = first_version();
    let planned = plan(&a, &V1.replace("title TEXT,", "").replace("task (title)", "task (done)"));
    a.run("CREATE INDEX other ON task (done)");
    assert!(matches!(a.crr().migrate(&planned), Err(Error::OutdatedPlan)));
    assert_eq!(columns(&a, "task"), ["'id,title,done'"]);
    let planned = plan(&a, &V1.replace("title TEXT,", "").replace("task (title)", "task (done)"));
    a.run("INSERT INTO task (id) VALUES ('u')");
    a.crr().migrate(&planned).unwrap();
    assert_eq!(a.rows("task"), ["'t', 0", "'u', 0"], "rows don't make a plan outdated");
}

#[test]
fn a_schema_that_cannot_be_run_is_an_error_that_says_why() {
    let a = first_version();
    let before = everything(&a);
    for (schema, reason) in [
        ("CREATE TABEL x", "syntax"),
        ("SELECT crsql_as_crr('none')", "none"),
        ("CREATE TABLE x (a); SELECT crsql_as_crr('x')", "NOT NULL"),
        ("BEGIN; CREATE TABLE x (a); COMMIT", "transaction"),
        ("COMMIT", "schema"),
        ("CREATE TABLE x (a); ROLLBACK", "schema"),
    ] {
        let error = a.crr().plan_migration(schema).unwrap_err();
        assert!(matches!(error, Error::InvalidSchema { .. }), "{schema}: {error:?}");
        assert!(error.to_string().contains(reason), "{schema}: {error}");
        let error = a.conn.query_row("SELECT crsql_automigrate(?)", [schema], |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains(reason), "{schema}: {error}");
        assert_eq!(everything(&a), before, "{schema}");
    }
}

// ---- Tables and columns ----

#[test]
fn columns_come_and_go_and_rows_keep_the_rest_with_its_history() {
    let a = first_version();
    a.run("UPDATE task SET done = 1");
    migrate(
        &a,
        &V1.replace("title TEXT, done INTEGER DEFAULT 0", "done INTEGER DEFAULT 0, due DEFAULT ('soon')")
            .replace("(title)", "(done)"),
    );
    assert_eq!(a.rows("task"), ["'t', 1, 'soon'"]);
    a.changes_are(
        "label 010b016c text 'urgent' 1 2 A 1 0
         task 010b0174 done 1 2 3 A 1 0",
    );
}

#[test]
fn all_of_a_new_columns_definition_is_kept() {
    let a = first_version();
    let due = r#""due date" TEXT NOT NULL DEFAULT (',') COLLATE NOCASE CHECK ("due date" <> 'never')"#;
    migrate(&a, &V1.replace("done INTEGER", &format!("{due}, done INTEGER")));
    a.query_is(r#"SELECT "due date" FROM task"#, &["','"]);
    a.error(r#"UPDATE task SET "due date" = 'never'"#);
    a.run(r#"UPDATE task SET "due date" = 'Soon'"#);
    a.query_is(r#"SELECT count(*) FROM task WHERE "due date" = 'sOON'"#, &["1"]);
    a.query_is(
        "SELECT sql LIKE '%' || ? || '%' FROM sqlite_schema WHERE name = 'task'"
            .replace('?', &format!("'{}'", due.replace('\'', "''")))
            .as_str(),
        &["1"],
    );
}

#[test]
fn a_new_column_needs_no_entries_and_what_is_written_to_it_travels() {
    let (a, b) = (first_version(), Site::new("B", V1));
    b.pull_from(&a, 0);
    let v2 = V1.replace("done INTEGER DEFAULT 0", "done INTEGER DEFAULT 0, due TEXT");
    migrate(&a, &v2);
    migrate(&b, &v2);
    let seen = b.db_version();
    assert_eq!(a.pull(seen, None), []);
    a.run("UPDATE task SET due = 'now'");
    b.pull_from(&a, seen);
    assert_eq!(b.rows("task"), ["'t', 'write', 0, 'now'"]);
    assert_eq!(a.db_version(), seen + 1);
}

#[test]
fn tables_come_and_go() {
    let a = first_version();
    migrate(
        &a,
        "CREATE TABLE IF NOT EXISTS task (id TEXT PRIMARY KEY NOT NULL, title TEXT, done INTEGER DEFAULT 0);
         SELECT crsql_as_crr('task');
         CREATE TABLE IF NOT EXISTS person (id TEXT PRIMARY KEY NOT NULL, name TEXT);
         SELECT crsql_as_crr('person')",
    );
    assert_eq!(a.crr().tables().unwrap(), ["task", "person"]);
    a.query_is("SELECT name FROM sqlite_schema WHERE name LIKE '%label%' OR name LIKE '%local%'", &[]);
    a.run("INSERT INTO person VALUES ('p', 'Ada')");
    assert_eq!(a.changes().last().unwrap(), "person 010b0170 name 'Ada' 1 3 A 1 0");
}

#[test]
fn a_table_that_was_there_becomes_a_crr_with_its_rows() {
    let a = first_version();
    let v2 = V1.replace(
        "local (key PRIMARY KEY, value);",
        "local (key PRIMARY KEY NOT NULL, value); SELECT crsql_as_crr('local');",
    );
    let refused = a.crr().migrate(&plan(&a, &v2)).unwrap_err().to_string();
    assert!(refused.contains("local") && refused.contains("NOT NULL"), "the key was declared otherwise: {refused}");

    let b = Site::new(
        "B",
        "CREATE TABLE IF NOT EXISTS local (key PRIMARY KEY NOT NULL, value); INSERT INTO local VALUES (1, 2)",
    );
    let v2 = "CREATE TABLE IF NOT EXISTS local (key PRIMARY KEY NOT NULL, value, more DEFAULT 5); SELECT crsql_as_crr('local')";
    assert_eq!(steps(&b, v2), ["+ column local: more DEFAULT 5", "+ tracking of table local"]);
    migrate(&b, v2);
    b.changes_are("local 010901 value 2 1 1 B 1 0\nlocal 010901 more 5 1 1 B 1 1");
}

#[test]
fn an_empty_database_is_brought_to_the_schema_too() {
    let a = Site::new("A", EMPTY);
    migrate(&a, V1);
    assert_eq!(a.crr().tables().unwrap(), ["task", "label"]);
}

#[test]
fn rows_that_the_schema_inserts_are_there_once_and_tracked() {
    let schema = format!("{V1}; INSERT OR IGNORE INTO label VALUES ('d', 'default')");
    let a = Site::new("A", EMPTY);
    migrate(&a, &schema);
    migrate(&a, &schema);
    a.changes_are("label 010b0164 text 'default' 1 1 A 1 0");
}

#[test]
fn the_engines_tables_and_those_of_the_server_are_left_alone() {
    let a = first_version();
    a.run("CREATE TABLE crsql_sync_lineage (a); INSERT INTO crsql_sync_lineage VALUES (1)");
    a.run("INSERT INTO crsql_tracked_peers VALUES (zeroblob(16), 7, 0, 0, 0)");
    migrate(&a, "CREATE TABLE IF NOT EXISTS other (a)");
    a.query_is("SELECT * FROM crsql_sync_lineage", &["1"]);
    a.query_is("SELECT version FROM crsql_tracked_peers", &["7"]);
    assert_eq!(a.crr().stored_db_version().unwrap(), 2);
}

#[test]
fn a_full_text_index_and_its_shadow_tables_stay_and_go_together() {
    let schema = format!("{V1}; CREATE VIRTUAL TABLE IF NOT EXISTS found USING fts5 (title)");
    let a = Site::new("A", EMPTY);
    migrate(&a, &schema);
    a.run("INSERT INTO found VALUES ('write the docs')");
    migrate(&a, &schema);
    a.query_is("SELECT title FROM found WHERE found MATCH 'docs'", &["'write the docs'"]);
    migrate(&a, V1);
    a.query_is("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'found%'", &["0"]);
}

// ---- Indexes, views, triggers ----

#[test]
fn an_index_whose_columns_change_is_made_again() {
    let a = first_version();
    let v2 = V1.replace("task (title)", "task (title, done) WHERE done = 0");
    assert_eq!(steps(&a, &v2), ["- index by_title on task", "+ index by_title on task"]);
    migrate(&a, &v2);
    a.query_is("SELECT name FROM pragma_index_info('by_title')", &["'title'", "'done'"]);
}

#[test]
fn a_column_goes_with_the_index_on_it() {
    let a = first_version();
    let v2 = V1.replace("title TEXT, ", "").replace("CREATE INDEX IF NOT EXISTS by_title ON task (title);", "");
    migrate(&a, &v2);
    assert_eq!(columns(&a, "task"), ["'id,done'"]);
}

#[test]
fn views_and_triggers_follow_the_schema_and_those_it_does_not_know_stay() {
    let schema = |view: &str, trigger: &str| {
        format!(
            "{V1};
             CREATE VIEW IF NOT EXISTS short AS SELECT {view} AS shown FROM task;
             CREATE VIEW IF NOT EXISTS shorter AS SELECT substr(shown, 1, 1) AS shown FROM short;
             CREATE TRIGGER IF NOT EXISTS noted AFTER INSERT ON task BEGIN
                 INSERT INTO local VALUES ({trigger}, 'noted');
             END"
        )
    };
    let a = first_version();
    a.run("CREATE VIEW own AS SELECT count(*) AS n FROM label");
    migrate(&a, &schema("title", "NEW.title"));
    let v2 = schema("id", "NEW.id").replace("title TEXT, ", "").replace("task (title)", "task (done)");
    assert_eq!(
        steps(&a, &v2),
        [
            "- index by_title on task",
            "- trigger noted",
            "- view short",
            "- view shorter",
            "- column task.title",
            "+ index by_title on task",
            "+ view short",
            "+ view shorter",
            "+ trigger noted",
        ]
    );
    migrate(&a, &v2);
    a.run("INSERT INTO task (id) VALUES ('xyz')");
    a.query_is("SELECT shown FROM shorter", &["'t'", "'x'"]);
    a.query_is("SELECT key FROM local WHERE value = 'noted'", &["'xyz'"]);
    a.query_is("SELECT n FROM own", &["1"]);
}

#[test]
fn a_view_unknown_to_the_schema_that_needs_a_column_stops_the_migration() {
    let a = first_version();
    a.run("CREATE VIEW own AS SELECT title FROM task");
    let before = everything(&a);
    let v2 = V1.replace("title TEXT, ", "").replace("(title)", "(done)");
    let error = a.crr().migrate(&plan(&a, &v2)).unwrap_err();
    assert!(matches!(error, Error::MigrationFailed { .. }));
    assert!(error.to_string().contains("column task.title") && error.to_string().contains("own"), "{error}");
    assert_eq!(everything(&a), before);
}

#[test]
fn an_ordered_table_can_change_its_columns_and_go() {
    let ordered = |columns: &str| {
        format!(
            "CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY NOT NULL, {columns});
             SELECT crsql_as_crr('item');
             SELECT crsql_fract_as_ordered('item', 'ord', 'list');
             CREATE TABLE IF NOT EXISTS other (id INTEGER PRIMARY KEY NOT NULL, a, b);
             SELECT crsql_as_crr('other')"
        )
    };
    let a = Site::new("A", &ordered("list, ord, note"));
    a.run("INSERT INTO item VALUES (1, 'x', 1, 'n'), (2, 'x', 1, 'm')");
    migrate(&a, &ordered("list, ord, due"));
    a.run("INSERT INTO item_fractindex (id, list, due, after_id) VALUES (3, 'x', 'now', 1)");
    a.query_is("SELECT id FROM item ORDER BY ord", &["1", "3", "2"]);

    let unordered = "CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY NOT NULL, list);
         SELECT crsql_as_crr('item');
         CREATE TABLE IF NOT EXISTS other (id INTEGER PRIMARY KEY NOT NULL, a, b);
         SELECT crsql_as_crr('other')";
    migrate(&a, unordered);
    a.query_is("SELECT name FROM sqlite_schema WHERE name LIKE '%fractindex%'", &[]);
    a.run("INSERT INTO item VALUES (4, 'x')");

    migrate(&a, &ordered("list, ord"));
    let only_other =
        "CREATE TABLE IF NOT EXISTS other (id INTEGER PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('other')";
    migrate(&a, only_other);
    a.query_is("SELECT count(*) FROM sqlite_schema WHERE name LIKE '%item%'", &["0"]);
}

#[test]
fn a_table_made_by_clset_goes_with_its_definition() {
    let a = Site::new(
        "A",
        "CREATE VIRTUAL TABLE IF NOT EXISTS item_schema USING clset (id INTEGER PRIMARY KEY NOT NULL, x)",
    );
    a.run("INSERT INTO item VALUES (1, 2)");
    migrate(&a, "CREATE TABLE IF NOT EXISTS other (a)");
    a.query_is("SELECT name FROM sqlite_schema WHERE name LIKE '%item%'", &[]);
    assert_eq!(a.crr().stored_db_version().unwrap(), 1);
}

// ---- All or nothing ----

#[test]
fn a_migration_that_fails_at_its_last_statement_leaves_everything_as_it_was() {
    let a = first_version();
    let before = everything(&a);
    // Fails only over rows that are there.
    let v2 = format!(
        "{}; CREATE TABLE late (a); INSERT INTO local VALUES ('k', 'again')",
        V1.replace("title TEXT", "name TEXT").replace("(title)", "(name)")
    );
    let planned = plan(&a, &v2);
    let error = a.crr().migrate(&planned).unwrap_err();
    assert!(matches!(error, Error::MigrationFailed { .. }), "{error}");
    assert!(error.to_string().contains("UNIQUE constraint failed: local.key"), "{error}");
    assert_eq!(everything(&a), before);
    assert!(a.conn.is_autocommit());

    a.run("BEGIN; INSERT INTO label VALUES ('m', 'mine')");
    a.crr().migrate(&planned).unwrap_err();
    assert!(!a.conn.is_autocommit(), "the transaction is the caller's");
    a.run("COMMIT; UPDATE task SET title = 'goes on'");
    assert_eq!(a.changes().len(), before.1.len() + 1);
}

#[test]
fn a_schema_that_does_not_say_if_not_exists_is_told_so() {
    let a = first_version();
    let error = a.crr().migrate(&plan(&a, &V1.replace("IF NOT EXISTS ", ""))).unwrap_err().to_string();
    assert!(error.contains("IF NOT EXISTS") && error.contains("task"), "{error}");
}

#[test]
fn a_migration_is_committed_and_rolled_back_with_the_transaction_around_it() {
    let a = first_version();
    let before = everything(&a);
    let v2 = V1.replace("done INTEGER DEFAULT 0", "done INTEGER DEFAULT 0, due TEXT");
    let tx = a.transaction();
    migrate(&a, &v2);
    a.run("INSERT INTO crsql_master VALUES ('schema_version', 2); UPDATE task SET due = 'now'");
    tx.rollback().unwrap();
    assert_eq!(everything(&a), before);

    let tx = a.transaction();
    migrate(&a, &v2);
    a.run("INSERT INTO crsql_master VALUES ('schema_version', 2)");
    tx.commit().unwrap();
    assert_eq!(columns(&a, "task"), ["'id,title,done,due'"]);
    a.query_is("SELECT value FROM crsql_master WHERE key = 'schema_version'", &["2"]);
}

// ---- Through SQL ----

#[test]
fn crsql_automigrate_does_what_the_native_plan_says() {
    let (a, b) = (first_version(), first_version());
    let v2 = V1.replace("title TEXT", "name TEXT DEFAULT 'x'").replace("(title)", "(name)");
    migrate(&a, &v2);
    b.query_is(&format!("SELECT crsql_automigrate('{}')", v2.replace('\'', "''")), &["'migration complete'"]);
    assert_eq!(everything(&a), everything(&b));
}

#[test]
fn crsql_automigrate_runs_its_cleanup_in_the_trial_database_only() {
    let a = first_version();
    let v1 = V1.replace('\'', "''");
    a.query_is(&format!("SELECT crsql_automigrate('{v1}', 'SELECT crsql_finalize()')"), &["'migration complete'"]);
    a.query_is(&format!("SELECT crsql_automigrate('{v1}', 'DROP TABLE local')"), &["'migration complete'"]);
    assert_eq!(a.rows("local"), ["'k', 'v'"]);
    a.error(&format!("SELECT crsql_automigrate('{v1}', 'SELECT nonsense')"));
    assert!(a.conn.is_autocommit());
}

#[test]
fn crsql_automigrate_refuses_what_is_no_schema() {
    let a = Site::new("A", EMPTY);
    for call in [
        "crsql_automigrate()",
        "crsql_automigrate(NULL)",
        "crsql_automigrate(1)",
        "crsql_automigrate('', 1)",
        "crsql_automigrate('', '', '')",
    ] {
        let error = a.error(&format!("SELECT {call}"));
        assert!(error.contains("crsql_automigrate"), "{call}: {error}");
    }
}

// ---- Whatever schemas ----

const NAMES: [&str; 3] = ["r", "s", "t"];
const DEFINITIONS: [&str; 6] = [
    "x",
    "y INTEGER DEFAULT 5",
    "z TEXT NOT NULL DEFAULT ('a, b')",
    "\"q r\" REAL",
    "w COLLATE NOCASE",
    "g AS (1 + 1)",
];

/// A table of a schema: its columns, whether it is a CRR, and which of its columns are indexed.
fn table() -> impl Strategy<Value = Option<(Vec<usize>, bool, bool)>> {
    let columns = prop::sample::subsequence((0..DEFINITIONS.len()).collect::<Vec<_>>(), 0..=DEFINITIONS.len());
    prop::option::weighted(0.8, (columns.prop_shuffle(), prop::bool::weighted(0.8), any::<bool>()))
}

fn schema() -> impl Strategy<Value = String> {
    prop::collection::vec(table(), NAMES.len()).prop_map(|tables| {
        let written = tables.iter().zip(NAMES).filter_map(|(table, name)| Some((table.as_ref()?, name)));
        let statements = written.map(|((columns, is_crr, indexed), name)| {
            let columns: Vec<&str> = columns.iter().map(|at| DEFINITIONS[*at]).collect();
            let list: String = columns.iter().map(|definition| format!(", {definition}")).collect();
            let mut text = format!("CREATE TABLE IF NOT EXISTS {name} (id INTEGER PRIMARY KEY NOT NULL{list});\n");
            if *is_crr {
                text += &format!("SELECT crsql_as_crr('{name}');\n");
            }
            if let Some(last) = columns.last().filter(|definition| *indexed && !definition.starts_with(['"', 'g'])) {
                let column = last.split(' ').next().unwrap();
                text += &format!("CREATE INDEX IF NOT EXISTS i_{name} ON {name} ({column});\n");
            }
            text
        });
        statements.collect()
    })
}

/// Tables, their columns in no order, and indexes.
fn shape(site: &Site) -> Vec<String> {
    site.query(
        "SELECT m.name, x.name FROM sqlite_schema AS m, pragma_table_xinfo(m.name) AS x
         WHERE m.type = 'table' AND m.name NOT LIKE '%crsql%'
         UNION ALL SELECT tbl_name, sql FROM sqlite_schema WHERE type = 'index' AND name LIKE 'i_%' ORDER BY 1, 2",
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn from_any_schema_to_any_other_and_nothing_that_stays_is_lost(schemas in prop::collection::vec(schema(), 2..5)) {
        let a = Site::new("A", EMPTY);
        let mut version = 0;
        for (round, schema) in schemas.iter().enumerate() {
            let id = round + 1;
            let before: Vec<Vec<String>> = NAMES.iter().map(|name| ids(&a, name)).collect();
            a.crr().migrate(&plan(&a, schema)).unwrap();
            prop_assert_eq!(steps(&a, schema), Vec::<String>::new());
            prop_assert_eq!(shape(&a), shape(&Site::new("B", schema)));
            prop_assert!(a.crr().stored_db_version().unwrap() >= version);
            for (name, before) in NAMES.iter().zip(before) {
                let after = ids(&a, name);
                prop_assert!(after == before || after.is_empty(), "{} lost rows", name);
                drop(a.conn.execute_batch(&format!("INSERT INTO {name} (id) VALUES ({id})")));
            }
            version = a.crr().stored_db_version().unwrap();
        }
        let newcomer = Site::new("B", schemas.last().unwrap());
        for name in a.crr().tables().unwrap() {
            newcomer.crr().as_crr(&name).unwrap();
        }
        newcomer.pull_from(&a, 0);
        for name in a.crr().tables().unwrap() {
            prop_assert_eq!(ids(&newcomer, &name), ids(&a, &name));
        }
    }
}

/// The keys of a table; none if there is no such table.
fn ids(site: &Site, table: &str) -> Vec<String> {
    site.try_query(&format!("SELECT id FROM {table} ORDER BY id")).unwrap_or_default()
}
