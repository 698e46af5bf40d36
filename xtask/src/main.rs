//! The project's own chores. `cargo xtask test` is everything that has to pass before a commit is shared.

mod autobahn;
mod differential;
mod extension;
mod installed;
mod interop;
mod load;
mod node;
mod report;
mod rust;

use std::process::ExitCode;

use report::Report;

const HELP: &str = "\
Usage: cargo xtask <COMMAND>

Commands:
  test               Check format, lints and documentation, run all Rust tests, then the four below
  test --no-node     The same without the differential and the interop tests
  autobahn           Only the Autobahn cases for WebSocket servers, from a Python package
  differential       Only the differential tests: random operations on our engine and on cr-sqlite itself, also in turn
  interop            Only the interop tests: the real vlcn clients in Node against the example server
  extension          Only the loadable extension, in the sqlite3 shell and in Python, and the engine on the system's SQLite
  valgrind           The loadable extension in the sqlite3 shell under valgrind
  load [SCENARIO]... Measure the example server under load: ingest, fanout, catchup, rooms, idle, storm, mixed [default: all]
                     --url URL [--pid PID] measures another one; --scale quick takes a tenth; load --help lists the rest
  help               Print this text

DIFFERENTIAL_SEEDS=100000 makes the differential tests long, DIFFERENTIAL_START=2000 begins with another seed.

Needs rustfmt and clippy (rustup component add rustfmt clippy); differential and interop tests need Node 20.10 or newer with
npm, those of the extension the sqlite3 shell, a Python whose sqlite3 can load extensions, and SQLite's development files,
the Autobahn cases Python 3.10 or newer with venv and pip.
A part whose tool is missing is left out, and the summary says so. With CI=true in the environment it fails instead.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut report = Report::new(on_ci());
    match args.as_slice() {
        ["test"] => {
            rust::check(&mut report);
            autobahn::run(&mut report);
            extension::run(&mut report);
            differential::run(&mut report);
            interop::run(&mut report);
        }
        ["test", "--no-node"] => {
            rust::check(&mut report);
            autobahn::run(&mut report);
            extension::run(&mut report);
        }
        ["autobahn"] => autobahn::run(&mut report),
        ["differential"] => differential::run(&mut report),
        ["interop"] => interop::run(&mut report),
        ["extension"] => extension::run(&mut report),
        ["valgrind"] => extension::valgrind(&mut report),
        ["load", arguments @ ..] => load::run(&mut report, arguments),
        ["help" | "--help" | "-h"]
        | ["test" | "autobahn" | "differential" | "interop" | "extension" | "valgrind", "--help" | "-h"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        [] => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
        other => {
            eprintln!("cargo xtask does not know `{}`\n\n{HELP}", other.join(" "));
            return ExitCode::from(2);
        }
    }
    report.conclude()
}

fn on_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}
