//! The differential tests of the engine: the same operations on ours and, in Node, on the real one.

use crate::node::packages;
use crate::report::Report;
use crate::rust::cargo;

const TESTS: &str = "differential tests";

/// Runs the tests, optimised: they try many seeds.
pub(crate) fn run(report: &mut Report) {
    if packages(report, TESTS).is_some() {
        report.run(
            TESTS,
            cargo().args([
                "test",
                "--release",
                "-p",
                "crr",
                "--test",
                "differential",
                "--",
                "--ignored",
                "--nocapture",
            ]),
        );
    }
}
