//! The loadable extension: built in its own workspace, and tested from the programs that load it.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::report::Report;
use crate::rust::{cargo, check_style, root, target_folder};

const BUILD: &str = "extension build";
const TESTS: &str = "extension tests";
const MEMORY: &str = "extension memory";
const OLDER_SQLITE: &str = "engine on the system's SQLite";

/// What the extension runs in at the least, as SQLite numbers its versions.
const OLDEST_SQLITE: &str = "3.37";

/// Lets Python's `sqlite3` say whether it can load extensions.
const ASK_PYTHON: &str = "\
import sqlite3
sqlite3.connect(':memory:').enable_load_extension(True)
assert sqlite3.sqlite_version_info >= (3, 37)";

/// Builds the extension, checks its style, and runs the tests from the `sqlite3` shell and Python; then those of the engine
/// on the system's SQLite, which is older than the one we build in.
pub(crate) fn run(report: &mut Report) {
    check_style(report, "extension format", "extension clippy", &folder());
    test(report);
    if answers(Command::new("pkg-config").args(["--exists", &format!("sqlite3 >= {OLDEST_SQLITE}")])) {
        report.run(OLDER_SQLITE, cargo().args(["test", "--package", "crr", "--no-default-features", "--tests"]));
    } else {
        report.left_out(
            OLDER_SQLITE,
            format!("pkg-config finds no SQLite of {OLDEST_SQLITE} or newer (apt: libsqlite3-dev and pkg-config)"),
        );
    }
}

/// Runs the `sqlite3` shell with the extension under valgrind: no invalid access, and nothing lost.
pub(crate) fn valgrind(report: &mut Report) {
    if let Err(missing) = find("valgrind").and_then(|()| find("sqlite3")) {
        report.left_out(MEMORY, missing);
        return;
    }
    let Some(library) = build(report) else { return };
    let script = folder().join("tests").join("memory.sql");
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--error-exitcode=1", "--leak-check=full"]);
    command
        .args(["--show-leak-kinds=definite,indirect,possible", "--errors-for-leak-kinds=definite,indirect,possible"]);
    // Of errors in what -cmd runs, and the script makes some, the shell's exit status doesn't tell.
    command.args(["sqlite3", "-batch"]);
    command.arg("-cmd").arg(format!(".load {}", library.display()));
    command.arg("-cmd").arg(format!(".read {}", script.display()));
    report.run(MEMORY, command.arg(":memory:").stdin(Stdio::null()).stdout(Stdio::null()));
}

fn test(report: &mut Report) {
    let python = match find("sqlite3").and_then(|()| find_python()) {
        Ok(python) => python,
        Err(missing) => return report.left_out(TESTS, missing),
    };
    let Some(library) = build(report) else { return };
    let mut command = cargo();
    command.args(["test", "--test", "extension"]).env("CRR_EXTENSION", library).env("CRR_PYTHON", python);
    report.run(TESTS, &mut command);
}

/// Builds the extension as users do. Returns the library.
fn build(report: &mut Report) -> Option<PathBuf> {
    let target = match target_folder() {
        // Beside what was built of the workspace.
        Ok(target) => target.join("extension"),
        Err(error) => {
            report.failed(BUILD, format!("there is no place to build in: {error}"));
            return None;
        }
    };
    let mut command = cargo();
    command.args(["build", "--release", "--locked", "--target-dir"]).arg(&target).current_dir(folder());
    let built = report.run(BUILD, &mut command);
    built.then(|| target.join("release").join(format!("{DLL_PREFIX}crr{DLL_SUFFIX}")))
}

fn folder() -> PathBuf {
    root().join("crates").join("crr-extension")
}

fn find(program: &str) -> Result<(), String> {
    match answers(Command::new(program).arg("--version")) {
        true => Ok(()),
        false => Err(format!("{program} is missing (apt: {program})")),
    }
}

/// The first Python whose `sqlite3` can load extensions. Many that are built from source can't.
fn find_python() -> Result<&'static str, String> {
    let programs = ["python3", "/usr/bin/python3", "python"];
    let found = programs.into_iter().find(|program| answers(Command::new(program).args(["-c", ASK_PYTHON])));
    found.ok_or_else(|| {
        format!(
            "no Python has an sqlite3 of {OLDEST_SQLITE} or newer that can load extensions (tried {}; apt: python3)",
            programs.join(", ")
        )
    })
}

/// Whether a command runs and succeeds, whatever it says.
fn answers(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
