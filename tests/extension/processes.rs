//! Several processes, and several threads, on one file.

use std::thread;

use crate::hosts::{CHANGES, FOO, Folder, texts};

#[test]
fn processes_that_write_one_file_together_share_no_version() {
    let folder = Folder::new();
    folder.shell("db", &format!("PRAGMA journal_mode = WAL;\n{FOO}"));
    thread::scope(|scope| {
        scope.spawn(|| {
            let inserts: String =
                (0..100).map(|n| format!("INSERT INTO foo VALUES ({}, 'shell', {n});\n", 1000 + n)).collect();
            folder.shell("db", &inserts)
        });
        scope.spawn(|| {
            folder.python(
                "
conn = connect('db', isolation_level=None)
for n in range(100):
    conn.execute('BEGIN IMMEDIATE')
    conn.execute('INSERT INTO foo VALUES (?, ?, ?)', (2000 + n, 'python', n))
    conn.execute('COMMIT')
",
            )
        });
        scope.spawn(|| {
            let conn = folder.native("db");
            for n in 0..100 {
                conn.execute("INSERT INTO foo VALUES (?1, 'native', ?2)", [3000 + n, n]).unwrap();
            }
        });
    });
    let shared = "SELECT count(*), count(DISTINCT db_version), max(db_version),
                         (SELECT count(*) FROM (SELECT 1 FROM crsql_changes GROUP BY db_version HAVING count(*) <> 2))
                  FROM crsql_changes;";
    assert_eq!(folder.shell("db", shared), ["600|300|300|0"]);
    assert_eq!(folder.shell("db", CHANGES), texts(&folder.native("db"), CHANGES));
    assert_eq!(folder.shell("db", "PRAGMA integrity_check;"), ["ok"]);
}

#[test]
fn a_process_sees_tables_and_versions_that_another_one_makes() {
    let folder = Folder::new();
    let conn = folder.native("db");
    folder.shell("db", &format!("{FOO}\nINSERT INTO foo VALUES (1, 2, 3);"));
    conn.execute_batch("UPDATE foo SET b = 4").unwrap();
    assert_eq!(folder.shell("db", "SELECT crsql_db_version();"), ["2"]);
    folder.shell("db", "CREATE TABLE bar (x PRIMARY KEY NOT NULL); SELECT crsql_as_crr('bar');");
    conn.execute_batch("INSERT INTO bar VALUES ('x')").unwrap();
    assert_eq!(folder.shell("db", "SELECT \"table\", cid, db_version FROM crsql_changes;").pop().unwrap(), "bar|-1|3");
}

#[test]
fn threads_may_share_a_connection_that_locks() {
    let folder = Folder::new();
    let lines = folder.python(&format!(
        "
conn = connect('db', isolation_level=None, check_same_thread=False)
conn.executescript(\"\"\"{FOO}\"\"\")
def work(thread):
    for n in range(100):
        conn.execute('INSERT INTO foo VALUES (?, ?, ?)', (thread * 1000 + n, thread, n))
        conn.execute('SELECT max(db_version) FROM crsql_changes').fetchone()
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(conn.execute('SELECT count(*), max(db_version) <= 400 FROM crsql_changes').fetchone())
print(conn.execute('PRAGMA integrity_check').fetchone())
conn.close()
"
    ));
    assert_eq!(lines, ["(800, 1)", "('ok',)"]);
}
