//! The programs that load the extension, each test's in a folder of its own.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rusqlite::{Connection, LoadExtensionGuard};
use tempfile::TempDir;

/// One table with a key, an untyped and a typed column.
pub(crate) const FOO: &str =
    "CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b, c REAL); SELECT crsql_as_crr('foo');";

/// All changes of a database, one text each. Values are packed: not every version of SQLite prints all digits of a number.
pub(crate) const CHANGES: &str = r#"SELECT "table" || ' ' || hex(pk) || ' ' || cid || ' ' || hex(crsql_pack_columns(val))
    || ' ' || col_version || ' ' || db_version || ' ' || hex(site_id) || ' ' || cl || ' ' || seq FROM crsql_changes ORDER BY db_version, seq;"#;

/// The library under test.
pub(crate) fn library() -> PathBuf {
    setting("CRR_EXTENSION").into()
}

/// The Python with an `sqlite3` that can load extensions.
fn python_program() -> OsString {
    setting("CRR_PYTHON")
}

fn setting(variable: &str) -> OsString {
    std::env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} isn't set; run these tests with `cargo xtask extension`"))
}

/// A folder for database files.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a script in the `sqlite3` shell, which has the extension loaded and a database open. Its lines of output.
    #[track_caller]
    pub(crate) fn shell(&self, name: &str, script: &str) -> Vec<String> {
        self.try_shell(&[], name, script).unwrap_or_else(|error| panic!("{script}\n{error}"))
    }

    /// The message with which a script fails there.
    #[track_caller]
    pub(crate) fn shell_error(&self, name: &str, script: &str) -> String {
        match self.try_shell(&[], name, script) {
            Ok(lines) => panic!("{script}\ndid not fail: {lines:?}"),
            Err(error) => error,
        }
    }

    /// The same with options for the shell, and either outcome.
    pub(crate) fn try_shell(&self, options: &[&str], name: &str, script: &str) -> Result<Vec<String>, String> {
        self.plain_shell(options, name, &format!(".load {}\n{script}\n", library().display()))
    }

    /// The same without the extension. The script ends at its first error.
    pub(crate) fn plain_shell(&self, options: &[&str], name: &str, script: &str) -> Result<Vec<String>, String> {
        let mut command = Command::new("sqlite3");
        // Whatever the user's own shell reads when it starts is not in this home.
        command.env("HOME", self.0.path()).args(["-batch", "-bail"]).args(options).arg(self.file(name));
        run(&mut command, &format!(".timeout 60000\n{script}\n"))
    }

    /// Runs a script in Python, which has `connect(name)` for a connection with the extension. Its lines of output.
    #[track_caller]
    pub(crate) fn python(&self, script: &str) -> Vec<String> {
        let script = format!("{PYTHON}{script}");
        let mut command = Command::new(python_program());
        command.current_dir(self.0.path()).arg("-").env("CRR_EXTENSION", library());
        run(&mut command, &script).unwrap_or_else(|error| panic!("{script}\n{error}"))
    }

    /// A connection of this process, whose SQLite is rusqlite's, with the engine linked in.
    pub(crate) fn native(&self, name: &str) -> Connection {
        let conn = self.plain(name);
        crr::load(&conn).unwrap();
        conn
    }

    /// The same without the engine.
    pub(crate) fn plain(&self, name: &str) -> Connection {
        let conn = Connection::open(self.file(name)).unwrap();
        conn.busy_timeout(std::time::Duration::from_secs(60)).unwrap();
        conn
    }
}

/// What Python's scripts begin with.
const PYTHON: &str = "
import os, sqlite3, threading

def connect(name, **options):
    conn = sqlite3.connect(name, timeout=60, **options)
    load(conn)
    return conn

def load(conn):
    conn.enable_load_extension(True)
    conn.load_extension(os.environ['CRR_EXTENSION'])
    conn.enable_load_extension(False)

";

/// Loads the extension into a connection of this process.
pub(crate) fn load_extension(conn: &Connection, library: &Path) -> rusqlite::Result<()> {
    // SAFETY: the library is ours, and no other SQL runs meanwhile.
    #[allow(unsafe_code, reason = "rusqlite can't know what a library does")]
    unsafe {
        let _guard = LoadExtensionGuard::new(conn)?;
        conn.load_extension(library, None::<&str>)
    }
}

/// The rows of a query with one column of texts.
pub(crate) fn texts(conn: &Connection, sql: &str) -> Vec<String> {
    let mut statement = conn.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

/// Runs a program with this input. Its output, or what it says is wrong. Panics if a signal ended it: nothing is worse.
fn run(command: &mut Command, input: &str) -> Result<Vec<String>, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A program that ends early doesn't read everything.
    let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code().is_some(), "{command:?} crashed: {}\n{errors}", output.status);
    // Of an error in a statement, older shells tell on their exit only with -bail; a failing .load they don't tell at all.
    if !output.status.success() || errors.contains("rror: ") || errors.contains("rror near line") {
        return Err(errors);
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}
