//! Files that the extension can't work on: it says why, and the host lives on.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::hosts::{CHANGES, FOO, Folder};

#[test]
fn what_is_no_database_is_refused() {
    let folder = Folder::new();
    let noise: Vec<u8> = (0..8192_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    fs::write(folder.file("encrypted"), noise).unwrap();
    let error = folder.shell_error("encrypted", "");
    assert!(error.contains("file is not a database"), "{error}");
}

#[test]
fn a_file_of_an_engine_that_is_too_old_is_refused() {
    let folder = Folder::new();
    folder.shell("db", "UPDATE crsql_master SET value = 140000 WHERE key = 'crsqlite_version';");
    let error = folder.shell_error("db", "");
    assert!(error.contains("engine version 140000"), "{error}");
}

#[test]
fn an_open_transaction_is_in_the_way_of_a_new_file_only() {
    let folder = Folder::new();
    let lines = folder.python(
        "
conn = sqlite3.connect('db', isolation_level=None)
conn.execute('BEGIN')
try: load(conn)
except sqlite3.OperationalError as error: print(error)
conn.execute('ROLLBACK')
load(conn)
conn.execute('BEGIN')
print(conn.execute('SELECT crsql_next_db_version()').fetchone())
conn.execute('ROLLBACK')
other = sqlite3.connect('db', isolation_level=None)
other.execute('BEGIN')
load(other)
print(other.execute('SELECT crsql_next_db_version()').fetchone())
",
    );
    let message = "error during initialization: the crr engine can't set up its tables inside an open transaction";
    assert_eq!(lines, [message, "(1,)", "(1,)"]);
}

#[test]
fn a_read_only_file_is_read_and_not_written() {
    let folder = Folder::new();
    folder.shell("db", &format!("{FOO}\nINSERT INTO foo VALUES (1, 2, 3);"));
    let read = folder.try_shell(&["-readonly"], "db", CHANGES).unwrap();
    assert_eq!(read, folder.shell("db", CHANGES));
    for write in [
        "INSERT INTO foo(a) VALUES (2);",
        "INSERT INTO crsql_changes VALUES ('foo', x'010902', 'b', 1, 1, 1, zeroblob(16), 1, 0);",
        "SELECT crsql_as_crr('foo');",
        "SELECT crsql_config_set('merge-equal-values', 1);",
    ] {
        let error = folder.try_shell(&["-readonly"], "db", write);
        // That the table is a CRR already takes no write to find out.
        if !write.contains("as_crr") {
            assert!(error.unwrap_err().contains("readonly"), "{write}");
        }
    }
    assert_eq!(folder.shell("db", CHANGES), read);
}

#[test]
fn a_read_only_file_without_the_engines_tables_is_refused() {
    let folder = Folder::new();
    folder.plain_shell(&[], "db", "CREATE TABLE foo (a);").unwrap();
    let error = folder.try_shell(&["-readonly"], "db", "").unwrap_err();
    assert!(error.contains("readonly"), "{error}");
}

#[test]
fn a_damaged_file_never_crashes_its_host() {
    let folder = Folder::new();
    let rows = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 300)";
    folder.shell(
        "good",
        &format!(
            "{FOO}\n{rows} INSERT INTO foo SELECT n, hex(randomblob(20)), n FROM n; DELETE FROM foo WHERE a < 50;"
        ),
    );
    let size = fs::metadata(folder.file("good")).unwrap().len();

    for seed in 0..60_u64 {
        fs::copy(folder.file("good"), folder.file("bad")).unwrap();
        damage(&folder.file("bad"), size, seed);
        // Whether each of these fails is the damage's affair. That the shell ends by itself, `try_shell` asserts.
        for script in [
            CHANGES,
            "UPDATE foo SET b = 'new' WHERE a % 7 = 0;",
            "INSERT INTO crsql_changes VALUES ('foo', x'010960', 'b', 'peer', 9, 9, zeroblob(16), 1, 0);",
            "SELECT crsql_begin_alter('foo'); ALTER TABLE foo ADD COLUMN d; SELECT crsql_commit_alter('foo');",
        ] {
            let _ = folder.try_shell(&[], "bad", script);
        }
    }
}

/// Overwrites a few bytes of a file, or cuts it.
fn damage(path: &Path, size: u64, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut file: File = OpenOptions::new().read(true).write(true).open(path).unwrap();
    if seed % 10 == 0 {
        file.set_len(random(size)).unwrap();
        return;
    }
    for _ in 0..1 + random(12) {
        // Half of the hits go to the heads of pages, where most harm is done.
        let at = if random(2) == 0 { random(size / 4096) * 4096 + random(108) } else { random(size) };
        let mut byte = [0];
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut byte).unwrap();
        byte[0] ^= 1 << random(8);
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&byte).unwrap();
    }
}

#[test]
fn a_refused_change_is_an_error_that_the_host_can_handle() {
    let folder = Folder::new();
    let lines = folder.python(&format!(
        "
conn = connect('db', isolation_level=None)
conn.executescript(\"\"\"{FOO}\"\"\")
conn.execute('BEGIN')
conn.execute('INSERT INTO foo VALUES (1, 2, 3)')
for change in [
    ('nope', b'\\x01\\x09\\x01', 'b', 1, 1, 1, bytes(16), 1, 0),
    ('foo', b'', 'b', 1, 1, 1, bytes(16), 1, 0),
    ('foo', b'\\x01\\x09\\x01', 'zz', 1, 1, 1, bytes(16), 1, 0),
    ('foo', b'\\x01\\x09\\x01', 'b', 1, -1, 1, bytes(16), 1, 0),
    ('foo', b'\\x01\\x09\\x01', 'b', 1, 1, 2**62, bytes(16), 1, 0),
    ('foo', b'\\x01\\x09\\x01', 'b', 1, 1, 1, bytes(17), 1, 0),
]:
    try: conn.execute('INSERT INTO crsql_changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)', change)
    except sqlite3.Error as error: print(error)
conn.execute('COMMIT')
print(conn.execute('SELECT count(*), max(db_version) FROM crsql_changes').fetchone())
"
    ));
    assert_eq!(
        lines,
        [
            "table nope is not a CRR in this database",
            "table foo: malformed key: it ends too early",
            "table foo has no column zz that a change can set",
            "table foo, column b: col_version -1 is out of bounds (0 to 4503599627370496)",
            "table foo, column b: db_version 4611686018427387904 is out of bounds (0 to 4503599627370496)",
            "crsql_changes: the site id is 17 bytes long instead of 16",
            "(2, 1)"
        ]
    );
}
