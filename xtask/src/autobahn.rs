//! The Autobahn cases for WebSocket servers: kosoku, a Python package that runs them, against an echo server in the library's tests.

use std::env::consts::EXE_SUFFIX;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::installed::Installed;
use crate::report::Report;
use crate::rust::{cargo, root, target_folder};

const INSTALL: &str = "autobahn packages";
const TESTS: &str = "autobahn cases";

/// The oldest Python that kosoku runs in.
const OLDEST_PYTHON: &str = "3.10";

/// Lets Python say whether it is new enough, and can make an environment with pip in it.
const ASK_PYTHON: &str = "\
import ensurepip, sys, venv
assert sys.version_info >= (3, 10)";

/// Installs the program that has the cases, and runs the test that it is for.
pub(crate) fn run(report: &mut Report) {
    let python = match find_python() {
        Ok(python) => python,
        Err(missing) => return report.left_out(TESTS, missing),
    };
    let folder = match target_folder() {
        Ok(target) => target.join("autobahn"),
        Err(error) => return report.failed(TESTS, format!("there is no place for its reports: {error}")),
    };
    let Some(program) = install(report, python, &folder.join("venv")) else { return };
    let reports = folder.join("reports");
    if let Err(error) = remove(&reports) {
        return report.failed(TESTS, format!("{} can't be removed: {error}", reports.display()));
    }
    let mut command = cargo();
    command.args(["test", "--package", "tower-sqlite-sync", "--lib", "--", "--ignored", "--nocapture"]);
    command.arg("connection::autobahn").env("KOSOKU", program).env("KOSOKU_REPORTS", &reports);
    // A filter that no test's name matches is no failure to cargo.
    if report.run(TESTS, &mut command) && !reports.join("index.json").exists() {
        report.failed(TESTS, "no case was run");
    }
}

/// The program that has the cases, installed anew if the list of packages has changed. `None` if it can't be had: the report then
/// says why.
fn install(report: &mut Report, python: &str, environment: &Path) -> Option<PathBuf> {
    let programs = environment.join(if cfg!(windows) { "Scripts" } else { "bin" });
    let program = |name: &str| programs.join(format!("{name}{EXE_SUFFIX}"));
    let list = root().join("tests").join("autobahn").join("requirements.txt");
    let installed = Installed { copy: environment.join("installed-from.txt"), list };
    if !installed.up_to_date() {
        let mut make = Command::new(python);
        make.args(["-m", "venv", "--clear"]).arg(environment);
        let mut fill = Command::new(program("python"));
        fill.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
        fill.arg("--requirement").arg(&installed.list);
        if !(report.run(INSTALL, &mut make) && report.run(INSTALL, &mut fill)) {
            return None;
        }
        if let Err(error) = installed.remember() {
            report.failed(INSTALL, format!("{} can't be written: {error}", installed.copy.display()));
            return None;
        }
    }
    Some(program("kosoku"))
}

fn find_python() -> Result<&'static str, String> {
    let programs = ["python3", "python"];
    let can = |program: &&str| {
        let mut ask = Command::new(program);
        ask.args(["-c", ASK_PYTHON]).stdout(Stdio::null()).stderr(Stdio::null());
        ask.status().is_ok_and(|status| status.success())
    };
    programs.into_iter().find(can).ok_or_else(|| {
        let tried = programs.join(", ");
        format!("no Python of {OLDEST_PYTHON} or newer has venv and pip (tried {tried}; apt: python3-venv)")
    })
}

/// What is there is from an earlier run.
fn remove(reports: &Path) -> io::Result<()> {
    match fs::remove_dir_all(reports) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
