//! What a load gives a connection, and what a second one changes: nothing.

use std::fs;

use crr::Crr;

use crate::hosts::{CHANGES, FOO, Folder, library, load_extension, texts};

#[test]
fn all_hosts_have_the_same_functions_and_tables() {
    let folder = Folder::new();
    let functions = "SELECT DISTINCT name FROM pragma_function_list WHERE name LIKE 'crsql%' ORDER BY name;";
    let modules = "SELECT name FROM pragma_module_list WHERE name LIKE 'crsql%' OR name = 'clset' ORDER BY name;";
    for list in [functions, modules] {
        let native = texts(&folder.native("native"), list);
        assert_eq!(folder.shell("shell", list), native);
        assert_eq!(
            folder.python(&format!("for (name,) in connect('python').execute(\"{list}\"): print(name)")),
            native
        );
    }
}

#[test]
fn a_new_file_gets_a_site_id_of_its_own() {
    let folder = Folder::new();
    let id = folder.shell("one", "SELECT hex(crsql_site_id());");
    assert_eq!(folder.shell("one", "SELECT hex(crsql_site_id());"), id);
    assert_ne!(folder.shell("two", "SELECT hex(crsql_site_id());"), id);
    assert_eq!(Crr::of(&folder.native("one")).unwrap().site_id().unwrap().as_bytes().len() * 2, id[0].len());
}

#[test]
fn a_second_load_changes_nothing() {
    let folder = Folder::new();
    let again = format!("\n.load {}\n", library().display());
    let lines = folder.shell(
        "db",
        &format!(
            "{FOO}
             INSERT INTO foo VALUES (1, 2, 3);
             BEGIN;
             INSERT INTO foo VALUES (2, 3, 4);
             SELECT crsql_internal_sync_bit(1), crsql_next_db_version(), crsql_get_seq();
             {again}SELECT crsql_internal_sync_bit(), crsql_next_db_version(), crsql_get_seq();
             SELECT crsql_internal_sync_bit(0);
             INSERT INTO foo VALUES (3, 4, 5);
             COMMIT;
             {again}SELECT crsql_db_version(), count(*), max(seq) FROM crsql_changes;"
        ),
    );
    assert_eq!(lines, ["OK", "1|2|2", "1|2|2", "0", "2|6|3"]);
}

#[test]
fn a_copy_under_the_references_name_loads_and_is_the_same_engine() {
    let folder = Folder::new();
    let copy = folder.file(&format!("crsqlite{}", std::env::consts::DLL_SUFFIX));
    fs::copy(library(), &copy).unwrap();
    let load_copy = format!(".load {}", copy.display());
    let script = format!("{load_copy}\n{FOO}\nINSERT INTO foo VALUES (1, 2, 3);\n{CHANGES}");
    let lines = folder.plain_shell(&[], "db", &script).unwrap();
    assert_eq!(lines.len(), 3);

    // Both in one connection: the first stays.
    let script = format!("INSERT INTO foo(a) VALUES (2);\n{load_copy}\nINSERT INTO foo(a) VALUES (3);\n{CHANGES}");
    assert_eq!(folder.shell("db", &script).len(), 2 + 2 * 2);
}

#[test]
fn sql_can_load_it_too() {
    let folder = Folder::new();
    let script = format!("SELECT load_extension('{}');\n{FOO}\nSELECT crsql_db_version();", library().display());
    assert_eq!(folder.plain_shell(&[], "db", &script).unwrap(), ["", "OK", "0"]);
}

#[test]
fn one_process_loads_it_into_many_connections() {
    let folder = Folder::new();
    let lines = folder.python(&format!(
        "
conns = [connect(f'db{{n % 3}}') for n in range(9)]
for conn in conns[:3]: conn.executescript(\"\"\"{FOO}\"\"\")
for n, conn in enumerate(conns):
    with conn: conn.execute('INSERT INTO foo VALUES (?, ?, ?)', (n, 'x', 1))
    if n % 2: conn.close()
for n in range(3):
    print(connect(f'db{{n}}').execute('SELECT count(*), max(db_version) FROM crsql_changes').fetchone())
"
    ));
    assert_eq!(lines, ["(6, 3)"; 3]);
}

#[test]
fn a_rust_program_may_load_it_where_the_engine_is_linked_in() {
    let folder = Folder::new();
    let conn = folder.native("db");
    conn.execute_batch(FOO).unwrap();
    load_extension(&conn, &library()).unwrap();
    conn.execute_batch("INSERT INTO foo VALUES (1, 2, 3)").unwrap();
    assert_eq!(Crr::of(&conn).unwrap().stored_db_version().unwrap(), 1);
    conn.close().unwrap();
}

#[test]
fn the_native_interface_says_that_the_extension_was_there_first() {
    let folder = Folder::new();
    let conn = folder.plain("db");
    load_extension(&conn, &library()).unwrap();
    conn.execute_batch(FOO).unwrap();
    for found in [crr::load(&conn).map(drop), Crr::of(&conn).map(drop)] {
        assert!(matches!(found, Err(crr::Error::LoadedElsewhere)), "{found:?}");
    }
    conn.execute_batch("INSERT INTO foo VALUES (1, 2, 3)").unwrap();
    assert_eq!(texts(&conn, CHANGES).len(), 2);
    conn.close().unwrap();
}
