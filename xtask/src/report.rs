//! What was run and how it went: a line when a step starts, and a summary of all of them at the end.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// The steps so far. One that fails does not keep the next from running: a summary says more than the first failure.
pub(crate) struct Report {
    ci: bool,
    steps: Vec<Step>,
}

struct Step {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed(String),
    LeftOut(String),
}

impl Report {
    /// On a CI server, what is left out counts as failed.
    pub(crate) fn new(ci: bool) -> Self {
        Self { ci, steps: Vec::new() }
    }

    /// Runs a command as a step, its output going where ours goes. Whether it succeeded.
    pub(crate) fn run(&mut self, name: &'static str, command: &mut Command) -> bool {
        println!("\n==> {name}: {}", shown(command));
        let start = Instant::now();
        let outcome = match command.status() {
            Ok(status) if status.success() => Outcome::Passed,
            Ok(status) => Outcome::Failed(status.to_string()),
            Err(error) => Outcome::Failed(format!("it could not be started: {error}")),
        };
        let passed = outcome == Outcome::Passed;
        self.steps.push(Step { name, outcome, took: start.elapsed() });
        passed
    }

    /// Notes a step that failed before there was a command to run.
    pub(crate) fn failed(&mut self, name: &'static str, reason: impl Into<String>) {
        self.note(name, Outcome::Failed(reason.into()));
    }

    /// Notes a step that can't run here; the reason says what to install.
    pub(crate) fn left_out(&mut self, name: &'static str, reason: impl Into<String>) {
        self.note(name, Outcome::LeftOut(reason.into()));
    }

    fn note(&mut self, name: &'static str, outcome: Outcome) {
        let step = Step { name, outcome, took: Duration::ZERO };
        println!("\n==> {}", step.line());
        self.steps.push(step);
    }

    /// Prints the summary. Success is that nothing failed, and on a CI server that nothing was left out.
    pub(crate) fn conclude(&self) -> ExitCode {
        println!("\nSummary");
        for step in &self.steps {
            println!("  {}", step.line());
        }
        if self.succeeded() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn succeeded(&self) -> bool {
        self.steps.iter().all(|step| match step.outcome {
            Outcome::Passed => true,
            Outcome::Failed(_) => false,
            Outcome::LeftOut(_) => !self.ci,
        })
    }
}

impl Step {
    fn line(&self) -> String {
        let Self { name, outcome, took } = self;
        match outcome {
            Outcome::Passed => format!("passed    {name} ({:.1} s)", took.as_secs_f64()),
            Outcome::Failed(reason) => format!("FAILED    {name}: {reason}"),
            Outcome::LeftOut(reason) => format!("LEFT OUT  {name}: {reason}"),
        }
    }
}

/// A command as one would type it, without the folder of the program.
fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_stem().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ci: bool, outcomes: &[Outcome]) -> Report {
        let steps = outcomes.iter().cloned().map(|outcome| Step { name: "step", outcome, took: Duration::ZERO });
        Report { ci, steps: steps.collect() }
    }

    #[test]
    fn a_missing_tool_is_a_failure_on_ci_only() {
        let left_out = [Outcome::Passed, Outcome::LeftOut("install it".to_owned())];
        assert!(report(false, &left_out).succeeded());
        assert!(!report(true, &left_out).succeeded());
    }

    #[test]
    fn one_failed_step_fails_the_whole() {
        let steps = [Outcome::Passed, Outcome::Failed("exit status: 1".to_owned()), Outcome::Passed];
        assert!(!report(false, &steps).succeeded());
        assert!(report(true, &[Outcome::Passed]).succeeded());
    }

    #[test]
    fn a_program_that_can_not_be_started_fails_its_step() {
        let mut report = report(false, &[]);
        assert!(!report.run("step", &mut Command::new("no-program-has-this-name")));
        assert!(!report.succeeded());
    }

    #[test]
    fn commands_are_shown_as_they_are_typed() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.args(["fmt", "--all"]);
        assert_eq!(shown(&command), "cargo fmt --all");
    }
}
