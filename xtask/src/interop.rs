//! The interop tests: Node with the real client packages, against the example server as a process of its own.

use std::env::consts::EXE_SUFFIX;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::node::{npm, packages};
use crate::report::Report;
use crate::rust::cargo;

const SERVER: &str = "interop server";
const TESTS: &str = "interop tests";

/// Builds the server and runs the tests.
pub(crate) fn run(report: &mut Report) {
    let Some(folder) = packages(report, TESTS) else { return };
    if !report.run(SERVER, cargo().args(["build", "--example", "server"])) {
        return;
    }
    match built_server() {
        Ok(server) => {
            report.run(TESTS, npm().arg("test").current_dir(&folder).env("SYNC_SERVER", server));
        }
        Err(error) => report.failed(TESTS, format!("the server that was built is not to be found: {error}")),
    }
}

/// The example beside this program: both are built by the same profile into the same folder.
fn built_server() -> io::Result<PathBuf> {
    let server = std::env::current_exe()?.with_file_name("examples").join(format!("server{EXE_SUFFIX}"));
    fs::metadata(&server).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", server.display())))?;
    Ok(server)
}
