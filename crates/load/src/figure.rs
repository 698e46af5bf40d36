//! One number that a run comes to, and what it should be.

use std::time::Duration;

use crate::statistics::float;

/// A measured number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    /// What it is, the same for server and floor.
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: Unit,
    pub(crate) goal: Option<Goal>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    PerSecond,
    Seconds,
    Milliseconds,
    Mebibytes,
    Kibibytes,
    Count,
    Ratio,
    Percent,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    pub(crate) fn new(name: &'static str, value: f64, unit: Unit) -> Self {
        Self { name, value, unit, goal: None }
    }

    pub(crate) fn seconds(name: &'static str, time: Duration) -> Self {
        Self::new(name, time.as_secs_f64(), Unit::Seconds)
    }

    pub(crate) fn millis(name: &'static str, time: Duration) -> Self {
        Self::new(name, time.as_secs_f64() * 1e3, Unit::Milliseconds)
    }

    pub(crate) fn mebibytes(name: &'static str, bytes: u64) -> Self {
        Self::new(name, float(usize::try_from(bytes).unwrap_or(usize::MAX)) / 1_048_576.0, Unit::Mebibytes)
    }

    pub(crate) fn count(name: &'static str, count: usize) -> Self {
        Self::new(name, float(count), Unit::Count)
    }

    pub(crate) fn at_least(mut self, bound: f64) -> Self {
        self.goal = Some(Goal::AtLeast(bound));
        self
    }

    pub(crate) fn at_most(mut self, bound: f64) -> Self {
        self.goal = Some(Goal::AtMost(bound));
        self
    }

    /// Whether the goal is met, if there is one.
    pub(crate) fn met(&self) -> Option<bool> {
        match self.goal? {
            Goal::AtLeast(bound) => Some(self.value >= bound),
            Goal::AtMost(bound) => Some(self.value <= bound),
        }
    }
}

impl Unit {
    /// How it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::Kibibytes => "KiB",
            Self::Percent => "%",
            Self::Count | Self::Ratio => "",
        }
    }

    /// A number with its unit, in few digits.
    pub(crate) fn show(self, value: f64) -> String {
        let gap = if matches!(self, Self::PerSecond | Self::Count | Self::Ratio) { "" } else { " " };
        let digits = match value.abs() {
            _ if self == Self::Count => 0,
            0.0..10.0 => 3,
            10.0..1_000.0 => 1,
            _ => 0,
        };
        let number = format!("{value:.digits$}");
        let (whole, fraction) = number.split_at(number.find('.').unwrap_or(number.len()));
        format!("{}{fraction}{gap}{}", grouped(whole), self.name())
    }
}

/// Digits in groups of three.
fn grouped(digits: &str) -> String {
    let mut shown = String::new();
    for (place, digit) in digits.char_indices() {
        let left = digits.len().saturating_sub(place);
        if place > 0 && left.is_multiple_of(3) && !shown.ends_with('-') {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

impl Goal {
    /// The bound with its sign.
    pub(crate) fn show(self, unit: Unit) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {}", unit.show(bound)),
            Self::AtMost(bound) => format!("≤ {}", unit.show(bound)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_have_units() {
        let table = [
            (Unit::PerSecond, 1_234_567.8, "1,234,568/s"),
            (Unit::Milliseconds, 1.23456, "1.235 ms"),
            (Unit::Seconds, 12.3456, "12.3 s"),
            (Unit::Count, 999.0, "999"),
            (Unit::Mebibytes, -1_000.0, "-1,000 MiB"),
            (Unit::Ratio, 0.5, "0.500"),
        ];
        for (unit, value, shown) in table {
            assert_eq!(unit.show(value), shown);
        }
    }

    #[test]
    fn a_goal_is_met_at_its_bound() {
        let figure = Figure::count("x", 5);
        assert_eq!(figure.met(), None);
        assert_eq!((figure.at_least(5.0).met(), figure.at_most(5.0).met()), (Some(true), Some(true)));
        assert_eq!((figure.at_least(6.0).met(), figure.at_most(4.0).met()), (Some(false), Some(false)));
    }
}
