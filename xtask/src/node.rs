//! Node, and the real vlcn packages that tests run in it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::installed::Installed;
use crate::report::Report;
use crate::rust::root;

const INSTALL: &str = "npm packages";

/// The oldest Node that the tests run in, as in `tests/interop/package.json`.
const OLDEST_NODE: (u32, u32) = (20, 10);

/// The folder with the packages for a step, installed anew if the lock file has changed. `None` if they can't be had: the
/// report then says why.
pub(crate) fn packages(report: &mut Report, step: &'static str) -> Option<PathBuf> {
    if let Err(missing) = find_node().and_then(|()| find_npm()) {
        report.left_out(step, missing);
        return None;
    }
    let folder = root().join("tests").join("interop");
    let installed = Installed {
        list: folder.join("package-lock.json"),
        copy: folder.join("node_modules").join(".installed-from.json"),
    };
    if !installed.up_to_date() {
        if !report.run(INSTALL, npm().args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&folder))
        {
            return None;
        }
        if let Err(error) = installed.remember() {
            report.failed(INSTALL, format!("{} can't be written: {error}", installed.copy.display()));
            return None;
        }
    }
    Some(folder)
}

fn find_node() -> Result<(), String> {
    let (major, minor) = OLDEST_NODE;
    let wanted = format!("install Node {major}.{minor} or newer, with npm (https://nodejs.org)");
    let text = version_of(Command::new("node")).ok_or_else(|| format!("node is missing; {wanted}"))?;
    match parse_version(&text) {
        Some(version) if version >= OLDEST_NODE => Ok(()),
        Some(_) => Err(format!("node is {}, which is too old; {wanted}", text.trim())),
        None => Err(format!("`node --version` says {:?}, which is no version; {wanted}", text.trim())),
    }
}

fn find_npm() -> Result<(), String> {
    version_of(npm())
        .map(|_version| ())
        .ok_or_else(|| "npm is missing; it comes with Node (https://nodejs.org)".to_owned())
}

pub(crate) fn npm() -> Command {
    Command::new(if cfg!(windows) { "npm.cmd" } else { "npm" })
}

fn version_of(mut program: Command) -> Option<String> {
    let output = program.arg("--version").stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Major and minor number of a version as Node prints it: `v20.11.1`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix('v')?.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse_version("v20.11.1\n"), Some((20, 11)));
        assert!(parse_version("v20.9.0") < Some(OLDEST_NODE));
        assert!(parse_version("v100.0.0") > Some(OLDEST_NODE));
        for text in ["", "20.11.1", "v20", "vx.y"] {
            assert_eq!(parse_version(text), None, "{text:?}");
        }
    }
}
