//! The Rust half of `cargo xtask test`.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::report::Report;

/// Format, lints, documentation and tests of the workspace, warnings being errors.
pub(crate) fn check(report: &mut Report) {
    if has_component("fmt") {
        report.run("format", cargo().args(["fmt", "--all", "--check"]));
    } else {
        report.left_out("format", "rustfmt is missing; install it with `rustup component add rustfmt`");
    }
    if has_component("clippy") {
        report.run("clippy", cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]));
    } else {
        report.left_out("clippy", "clippy is missing; install it with `rustup component add clippy`");
    }
    report.run("docs", cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"));
    report.run("tests", cargo().args(["test", "--workspace"]));
}

/// The cargo that runs this program, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

fn has_component(subcommand: &str) -> bool {
    let status = cargo().args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
