//! The load generator, against the example server as a process of its own, or against one that runs already.

use std::env::consts::EXE_SUFFIX;

use crate::report::Report;
use crate::rust::{cargo, target_folder};

const SERVER: &str = "load server";
const LOAD: &str = "load";

/// Builds both, optimised, and measures. The arguments are the generator's.
pub(crate) fn run(report: &mut Report, arguments: &[&str]) {
    let mut load = cargo();
    load.args(["run", "--quiet", "--release", "--package", "load", "--"]).args(arguments);
    if !names_a_server(arguments) {
        if !report.run(SERVER, cargo().args(["build", "--release", "--example", "server"])) {
            return;
        }
        match target_folder() {
            Ok(target) => {
                let server = target.join("release").join("examples").join(format!("server{EXE_SUFFIX}"));
                // The folder for temporary files may be in memory, where no commit takes time.
                load.arg("--server").arg(server).arg("--folder").arg(target.join("tmp"));
            }
            Err(error) => return report.failed(SERVER, format!("where it was built is not to be found: {error}")),
        }
    }
    report.run(LOAD, &mut load);
}

/// Whether the generator is told what to measure, or only asked how it is told.
fn names_a_server(arguments: &[&str]) -> bool {
    let is = |argument: &str, flag: &str| argument == flag || argument.starts_with(&format!("{flag}="));
    arguments.iter().any(|argument| ["--url", "--server", "--help", "-h"].into_iter().any(|flag| is(argument, flag)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_built_unless_one_is_named() {
        assert!(!names_a_server(&[]));
        assert!(!names_a_server(&["ingest", "--scale", "quick"]));
        assert!(names_a_server(&["ingest", "--url", "ws://127.0.0.1:1/sync"]));
        assert!(names_a_server(&["--url=ws://127.0.0.1:1/sync"]));
        assert!(names_a_server(&["--help"]));
    }
}
