//! What the runs came to: a line of JSON each, and a table at the end.

use serde_json::{Value, json};

use crate::case::Case;
use crate::figure::Figure;

/// One case, run against a server and against the floor.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) case: Case,
    /// What the server did, or why the run is worth nothing.
    pub(crate) server: Result<Vec<Figure>, String>,
    /// What the floor did; `None` if nobody asked.
    pub(crate) floor: Option<Result<Vec<Figure>, String>>,
}

impl Run {
    /// Whether nothing was missing or wrong.
    pub(crate) fn is_correct(&self) -> bool {
        self.server.is_ok() && !matches!(self.floor, Some(Err(_)))
    }

    /// As one line of JSON.
    pub(crate) fn json(&self) -> String {
        let figures = self.server.iter().flatten().map(|figure| self.figure(figure));
        json!({
            "scenario": self.case.scenario(),
            "size": self.case.to_string(),
            "correct": self.is_correct(),
            "fault": self.server.as_ref().err(),
            "floor_fault": self.floor.as_ref().and_then(|floor| floor.as_ref().err()),
            "figures": figures.collect::<Value>(),
        })
        .to_string()
    }

    fn figure(&self, figure: &Figure) -> Value {
        json!({
            "name": figure.name,
            "value": figure.value,
            "unit": figure.unit.name(),
            "floor": self.on_floor(figure).map(|floor| floor.value),
            "of_floor": self.of_floor(figure),
            "goal": figure.goal.map(|goal| goal.show(figure.unit)),
            "met": figure.met(),
        })
    }

    /// The rows of the table.
    fn rows(&self) -> Vec<[String; 5]> {
        let alone = |text: String| [text, String::new(), String::new(), String::new(), String::new()];
        let mut rows = vec![alone(format!("{}: {}", self.case.scenario(), self.case))];
        for (who, outcome) in [("server", Some(&self.server)), ("floor", self.floor.as_ref())] {
            if let Some(Err(fault)) = outcome {
                rows.push(alone(format!("  FAILED ({who}): {fault}")));
            }
        }
        for figure in self.server.iter().flatten() {
            let floor = self.on_floor(figure).map(|floor| figure.unit.show(floor.value)).unwrap_or_default();
            let ratio = self.of_floor(figure).map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let goal = match (figure.goal, figure.met()) {
                (Some(goal), Some(true)) => format!("{}  met", goal.show(figure.unit)),
                (Some(goal), _) => format!("{}  MISSED", goal.show(figure.unit)),
                (None, _) => String::new(),
            };
            rows.push([format!("  {}", figure.name), figure.unit.show(figure.value), floor, ratio, goal]);
        }
        rows
    }

    fn on_floor(&self, figure: &Figure) -> Option<&Figure> {
        let floor = self.floor.as_ref()?.as_ref().ok()?;
        floor.iter().find(|other| other.name == figure.name)
    }

    fn of_floor(&self, figure: &Figure) -> Option<f64> {
        let ratio = figure.value / self.on_floor(figure)?.value;
        ratio.is_finite().then_some(ratio)
    }
}

/// All runs, for people.
pub(crate) fn table(runs: &[Run]) -> String {
    let head = ["", "server", "floor", "ratio", "goal"].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(runs.iter().flat_map(Run::rows)).collect();
    let mut table = String::new();
    for [name, server, floor, ratio, goal] in rows {
        let line = format!("{name:<56} {server:>14} {floor:>14} {ratio:>7}  {goal}");
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Unit;

    fn run(server: Result<Vec<Figure>, String>, floor: Option<Result<Vec<Figure>, String>>) -> Run {
        Run { case: Case::Rooms { rooms: 5 }, server, floor }
    }

    #[test]
    fn a_run_is_a_line_of_json_and_some_of_the_table() {
        let figure = |value| vec![Figure::new("rooms begun", value, Unit::PerSecond).at_least(600.0)];
        let run = run(Ok(figure(500.0)), Some(Ok(figure(2_000.0))));
        let json: Value = serde_json::from_str(&run.json()).unwrap();
        assert_eq!((&json["scenario"], &json["correct"]), (&json!("rooms"), &json!(true)));
        let figure = &json["figures"][0];
        assert_eq!((&figure["value"], &figure["floor"]), (&json!(500.0), &json!(2_000.0)));
        assert_eq!((&figure["of_floor"], &figure["unit"], &figure["met"]), (&json!(0.25), &json!("/s"), &json!(false)));
        let table = table(&[run]);
        let words: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(words, ["rooms", "begun", "500.0/s", "2,000/s", "0.25", "≥", "600.0/s", "MISSED"]);
    }

    #[test]
    fn what_is_wrong_with_either_makes_the_run_worthless() {
        let wrong = || Err("missing".to_owned());
        assert!(run(Ok(Vec::new()), None).is_correct());
        assert!(!run(wrong(), None).is_correct());
        assert!(!run(Ok(Vec::new()), Some(wrong())).is_correct());
        let shown = table(&[run(wrong(), None)]);
        assert!(shown.contains("FAILED (server): missing"), "{shown}");
    }
}
