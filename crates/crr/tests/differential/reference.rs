//! The real engine: the WASM build from npm in a process of Node's, driven by JSON lines.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cell::Cell;
use crate::engine::{Answer, Demand, Engine, Insertion};
use crate::mend;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop/reference.js");

/// cr-sqlite 0.16.0, with the defects mended that would make every comparison after them pointless: see [`mend`].
#[derive(Debug)]
pub(crate) struct Reference {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Whether a site has a transaction open.
    in_transaction: BTreeMap<usize, bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ran {
    in_transaction: bool,
    answers: Vec<Said>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Rows(Vec<Vec<String>>),
    Error(String),
}

impl Reference {
    pub(crate) fn start() -> Reference {
        let mut process = Command::new("node")
            .arg(PROGRAM)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("Node can't be started: {error}; these tests need it, and npm"));
        let requests = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Reference { process, requests, answers, in_transaction: BTreeMap::new() }
    }

    fn ask(&mut self, request: &Value) -> String {
        // In one piece: each piece would wake the process. One that has died says why on stderr.
        self.requests
            .write_all(format!("{request}\n").as_bytes())
            .unwrap_or_else(|error| panic!("the reference died ({error}) at {request}"));
        let mut answer = String::new();
        let length = self.answers.read_line(&mut answer).unwrap();
        assert!(length > 0, "the reference died of {request}; `cargo xtask interop` installs the packages it needs");
        answer
    }

    /// Runs statements in one of the forms in which the process takes them.
    fn run_all(&mut self, site: usize, statements: &Value) -> Vec<Answer> {
        let answer = self.ask(&json!(["run", site, statements]));
        let ran: Ran = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        self.in_transaction.insert(site, ran.in_transaction);
        ran.answers
            .into_iter()
            .map(|said| match said {
                Said::Rows(rows) => {
                    Ok(rows.into_iter().map(|row| row.iter().map(|cell| Cell::parse(cell)).collect()).collect())
                }
                Said::Error(error) => Err(error),
            })
            .collect()
    }

    /// Puts the triggers back that the engine had made.
    fn restore_triggers(&mut self, site: usize) {
        for row in self.run_one(site, mend::SELECT_CRRS) {
            let table = row[0].text().unwrap();
            let trigger = self.update_trigger(site, table);
            if let Some(original) = mend::replaced(&trigger) {
                self.run_one(site, &mend::drop_update_trigger(table));
                self.run_one(site, original);
            }
        }
    }

    /// The text of a CRR's update trigger.
    fn update_trigger(&mut self, site: usize, table: &str) -> String {
        let rows = self.run_one(site, &mend::select_update_trigger(table));
        let text = rows.first().and_then(|row| row[0].text());
        text.unwrap_or_default().to_owned()
    }
}

impl Engine for Reference {
    fn open(&mut self, site: usize, file: &Path) {
        self.ask(&json!(["open", site, file]));
        self.in_transaction.insert(site, false);
        self.defined(site);
    }

    fn close(&mut self, site: usize, file: &Path) {
        if self.is_in_transaction(site) {
            self.run_one(site, "ROLLBACK");
        }
        self.restore_triggers(site);
        self.ask(&json!(["close", site, file]));
        self.in_transaction.remove(&site);
    }

    fn run(&mut self, site: usize, statements: &[String]) -> Vec<Answer> {
        self.run_all(site, &json!(statements))
    }

    fn merge(&mut self, site: usize, changes: &[Insertion]) -> Vec<Answer> {
        let statements = changes.iter().flat_map(|change| {
            let [succeeded, failed] = [true, false].map(|succeeded| mend::after_change(&change.table, succeeded));
            let insertion = json!({ "sql": change.sql, "succeeded": succeeded, "failed": failed });
            [json!(mend::BEFORE_CHANGE), insertion]
        });
        // Of each pair the first answer is the savepoint's.
        self.run_all(site, &statements.collect()).into_iter().skip(1).step_by(2).collect()
    }

    fn defined(&mut self, site: usize) {
        for row in self.run_one(site, mend::SELECT_CRRS) {
            let table = row[0].text().unwrap().to_owned();
            // Each write that takes no version makes the engine forget one that was taken in vain.
            if !self.run_one(site, &mend::select_version_0(&table)).is_empty() {
                self.run_one(site, &mend::raise_version_0(&table));
            }
            let original = self.update_trigger(site, &table);
            if original.is_empty() || mend::replaced(&original).is_some() {
                continue;
            }
            let columns = self.run_one(site, &mend::select_columns(&table));
            for sql in mend::update_trigger(&table, &original, &columns) {
                self.run_one(site, &sql);
            }
        }
    }

    fn is_in_transaction(&self, site: usize) -> bool {
        self.in_transaction[&site]
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
