//! The table that is printed.

use crate::measure::{Duel, Rounds};

/// What a ratio has to reach.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Nothing: the figure is of interest by itself.
    Stated,
}

/// Prints lines as they come, and counts goals.
#[derive(Default)]
pub(crate) struct Report {
    goals: usize,
    met: usize,
}

impl Report {
    /// A line about two rates of so many `pieces` a round, and their ratio.
    pub(crate) fn rates(&mut self, name: &str, pieces: usize, rounds: &Rounds, goal: Goal) {
        let rates = format!("{:>9.0}/s {:>9.0}/s", rounds.our_rate(pieces), rounds.their_rate(pieces));
        self.line(name, &rates, rounds.median(Duel::speedup), goal);
    }

    /// A line about two durations in microseconds, and how many times the first is the second.
    pub(crate) fn times(&mut self, name: &str, ours: f64, theirs: f64, goal: Goal) {
        self.line(name, &format!("{ours:>9.0} µs {theirs:>9.0} µs"), ours / theirs, goal);
    }

    /// A line about two amounts of memory in kibibytes, and how many times the first is the second.
    pub(crate) fn sizes(&mut self, name: &str, ours: f64, theirs: f64, goal: Goal) {
        self.line(name, &format!("{ours:>8.0} KiB {theirs:>7.0} KiB"), ours / theirs, goal);
    }

    /// A line about a ratio.
    pub(crate) fn ratio(&mut self, name: &str, ratio: f64, goal: Goal) {
        self.line(name, "", ratio, goal);
    }

    fn line(&mut self, name: &str, figures: &str, ratio: f64, goal: Goal) {
        if self.goals == 0 {
            println!("{:<58} {:>11} {:>11} {:>6}  goal", "", "engine", "against", "ratio");
        }
        let (sign, bound, excess) = match goal {
            Goal::AtLeast(bound) => ("≥", bound, bound / ratio),
            Goal::AtMost(bound) => ("≤", bound, ratio / bound),
            Goal::Stated => {
                println!("{name:<58} {figures:>23} {ratio:>6.2}");
                return;
            }
        };
        self.goals += 1;
        let verdict = match excess <= 1.0 {
            true => "met".to_owned(),
            false => format!("missed by {:.0} %", (excess - 1.0) * 100.0),
        };
        self.met += usize::from(excess <= 1.0);
        println!("{name:<58} {figures:>23} {ratio:>6.2}  {sign} {bound:.2} {verdict}");
    }

    /// The last line.
    pub(crate) fn finish(&self) {
        println!("{} of {} goals met", self.met, self.goals);
    }
}
