//! The Rust half of `cargo xtask test`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::report::Report;

/// Format, lints, documentation and tests of the workspace, warnings being errors.
pub(crate) fn check(report: &mut Report) {
    check_style(report, "format", "clippy", root());
    report.run("docs", cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"));
    report.run("tests", cargo().args(["test", "--workspace"]));
}

/// Format and lints of the workspace in `folder`, as steps of these names.
pub(crate) fn check_style(report: &mut Report, format: &'static str, clippy: &'static str, folder: &Path) {
    if has_component("fmt") {
        report.run(format, cargo().args(["fmt", "--all", "--check"]).current_dir(folder));
    } else {
        report.left_out(format, "rustfmt is missing; install it with `rustup component add rustfmt`");
    }
    if has_component("clippy") {
        let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        report.run(clippy, cargo().args(arguments).current_dir(folder));
    } else {
        report.left_out(clippy, "clippy is missing; install it with `rustup component add clippy`");
    }
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

/// What cargo builds into: this program is in a profile's folder of it.
pub(crate) fn target_folder() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.parent().and_then(|profile| profile.parent());
    target.map(PathBuf::from).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, program.display().to_string()))
}

fn has_component(subcommand: &str) -> bool {
    let status = cargo().args([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
