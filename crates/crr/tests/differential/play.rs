//! A scenario played on two engines, compared after every step.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::at_rest::AtRest;
use crate::cell::Cell;
use crate::engine::{Answer, Demand, Engine, Insertion};
use crate::mend;
use crate::observe::{self, Queries};
use crate::ours::Ours;
use crate::scenario::{Action, Author, Delivery, Pull, SITES, Scenario, Since};
use crate::sql::literal;

/// The first difference between two engines.
#[derive(Debug)]
pub(crate) struct Difference {
    /// After which step.
    pub(crate) step: usize,
    /// In what: a table, or the outcome of a statement.
    pub(crate) what: String,
    /// The statement.
    sql: Option<String>,
    ours: Vec<String>,
    other: Vec<String>,
    /// Which engine the other one is.
    other_name: &'static str,
}

impl Difference {
    /// Whether it is of the same kind.
    pub(crate) fn is_like(&self, other: &Difference) -> bool {
        let verb =
            |difference: &Difference| difference.sql.as_ref().map(|sql| sql.chars().take(20).collect::<String>());
        self.what == other.what && verb(self) == verb(other)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "after step {}, in {}", self.step, self.what)?;
        self.sql.iter().try_for_each(|sql| writeln!(f, "  {sql}"))?;
        self.ours.iter().try_for_each(|line| writeln!(f, "  only ours: {line}"))?;
        self.other.iter().try_for_each(|line| writeln!(f, "  only {}: {line}", self.other_name))
    }
}

/// This engine, another one that it is compared with, and the files that their databases begin with.
pub(crate) struct Stage {
    ours: Lane,
    other: Lane,
    files: TempDir,
}

/// One engine with its files.
struct Lane {
    name: &'static str,
    engine: Box<dyn Engine>,
}

/// The id of a site.
fn site_id(site: usize) -> String {
    format!("x'{}'", ["a1", "b2", "c3"][site].repeat(16))
}

impl Stage {
    pub(crate) fn new(other_name: &'static str, other: impl Engine + 'static) -> Stage {
        let mut stage = Stage {
            ours: Lane { name: "ours", engine: Box::new(Ours::default()) },
            other: Lane { name: other_name, engine: Box::new(other) },
            files: tempfile::tempdir().unwrap(),
        };
        for site in 0..SITES {
            for lane in [&mut stage.ours, &mut stage.other] {
                let file = lane.empty_file(stage.files.path(), site);
                lane.engine.open(site, &file);
                // An engine keeps the id that it finds when it opens a file.
                lane.engine.run_one(site, &format!("UPDATE crsql_site_id SET site_id = {}", site_id(site)));
                lane.engine.close(site, &file);
            }
        }
        stage
    }

    /// Plays a scenario on new databases. The number of changes that were merged.
    pub(crate) fn play(&mut self, scenario: &Scenario) -> Result<usize, Difference> {
        let folder = self.files.path();
        for site in 0..SITES {
            for lane in [&mut self.ours, &mut self.other] {
                let file = lane.file(folder, site);
                fs::copy(lane.empty_file(folder, site), &file).unwrap();
                lane.engine.open(site, &file);
            }
        }
        let mut play = Play { stage: self, step: 0, watch: scenario.watch, last: [[0; SITES]; SITES], merged: 0 };
        let played = play.steps(scenario);
        let merged = play.merged;
        let folder = self.files.path();
        for site in 0..SITES {
            for lane in [&mut self.ours, &mut self.other] {
                let file = lane.file(folder, site);
                lane.engine.close(site, &file);
            }
        }
        played.map(|()| merged)
    }
}

impl Lane {
    fn empty_file(&self, folder: &Path, site: usize) -> PathBuf {
        folder.join(format!("empty-{}-{site}.db", self.name))
    }

    fn file(&self, folder: &Path, site: usize) -> PathBuf {
        folder.join(format!("{}-{site}.db", self.name))
    }
}

struct Play<'s> {
    stage: &'s mut Stage,
    step: usize,
    /// Whether to look into transactions too. Looking makes engines read, which could hide something.
    watch: bool,
    /// The version up to which a site has read each of the others.
    last: [[i64; SITES]; SITES],
    merged: usize,
}

type Played = Result<(), Difference>;

impl Play<'_> {
    fn steps(&mut self, scenario: &Scenario) -> Played {
        for (at, step) in scenario.steps.iter().enumerate() {
            self.step = at;
            self.act(step.site, &step.action)?;
            self.observe(step.site)?;
        }
        // Every file, once more.
        (0..SITES).try_for_each(|site| self.reopen(site))
    }

    fn act(&mut self, site: usize, action: &Action) -> Played {
        match action {
            Action::Sql(sql) => self.write(site, sql),
            Action::Define(statements) => self.define(site, statements),
            Action::Alter { table, statements } => {
                let table = literal(table);
                let mut all = vec![format!("SELECT crsql_begin_alter({table})")];
                all.extend_from_slice(statements);
                all.push(format!("SELECT crsql_commit_alter({table})"));
                let written = self.written_so_far(site);
                self.define(site, &all)?;
                // Outside of a transaction, another write could make the reference forget a version taken in vain.
                if self.stage.other.engine.is_in_transaction(site) {
                    self.stage.other.engine.run_one(site, &mend::keep_version(written));
                }
                Ok(())
            }
            Action::Migrate(statements) => {
                let schema: String = statements.iter().map(|sql| format!("{sql};\n")).collect();
                // The second argument is run in the database that the schema is tried in: without it the reference can't
                // close that one, where the engine is linked in.
                self.define(
                    site,
                    &[format!("SELECT crsql_automigrate({}, 'SELECT crsql_finalize()')", literal(&schema))],
                )
            }
            Action::Transaction { body, commit } => {
                self.run(site, &["BEGIN".to_owned()])?;
                self.body(site, body)?;
                self.run(site, &[if *commit { "COMMIT" } else { "ROLLBACK" }.to_owned()])?;
                // D8: the reference goes on with what it knew of tables that a transaction altered.
                if body.iter().any(Action::alters) { self.reopen(site) } else { Ok(()) }
            }
            Action::Savepoint { body, keep } => {
                self.run(site, &["SAVEPOINT s".to_owned()])?;
                self.body(site, body)?;
                if !keep {
                    self.run(site, &["ROLLBACK TO s".to_owned()])?;
                }
                self.run(site, &["RELEASE s".to_owned()])
            }
            Action::Pull(pull) => self.pull(site, pull),
            Action::Forged(change) => self.merge(site, std::slice::from_ref(change), true),
            Action::Reopen => self.reopen(site),
        }
    }

    /// The newest version of any entry.
    fn written_so_far(&mut self, site: usize) -> i64 {
        let crrs = self.stage.other.engine.run_one(site, mend::SELECT_CRRS);
        let queries: Vec<_> = crrs.iter().map(|crr| mend::select_newest(crr[0].text().unwrap())).collect();
        let newest = self.stage.other.engine.run(site, &queries);
        newest.into_iter().filter_map(|answer| answer.unwrap()[0][0].integer()).max().unwrap_or(0)
    }

    fn reopen(&mut self, site: usize) -> Played {
        let folder = self.stage.files.path();
        let [ours, other] = [&mut self.stage.ours, &mut self.stage.other].map(|lane| {
            let file = lane.file(folder, site);
            lane.engine.reopen(site, &file);
            AtRest::of(&file)
        });
        self.equal("the flaws that SQLite finds in the file", &ours.flaws, &[])?;
        self.equal("the flaws that SQLite finds in the file", &[], &other.flaws)?;
        self.equal("the triggers of the file", &ours.triggers, &other.triggers)
    }

    /// Runs a statement of the application's, and compares how many rows it says it has changed.
    fn write(&mut self, site: usize, sql: &str) -> Played {
        let statements = [sql.to_owned(), "SELECT changes()".to_owned()];
        let [ours, other] = self.both(site, &statements);
        self.same_answer(sql, &ours[0], &other[0])?;
        // Otherwise the count is that of an earlier statement, which may have been one of the harness.
        let counts = other[0].is_ok() && ["INSERT", "UPDATE", "DELETE"].iter().any(|verb| sql.starts_with(verb));
        if counts { self.same_answer("SELECT changes()", &ours[1], &other[1]) } else { Ok(()) }
    }

    fn body(&mut self, site: usize, body: &[Action]) -> Played {
        for action in body {
            self.act(site, action)?;
            if self.watch && !action.alters() {
                self.observe(site)?;
            }
        }
        Ok(())
    }

    fn pull(&mut self, site: usize, pull: &Pull) -> Played {
        let since = match pull.since {
            Since::Last(after) => (self.last[site][pull.from] + after).max(0),
            Since::Zero => 0,
        };
        let mut query = format!("{} WHERE db_version > {since}", observe::SELECT_CHANGES);
        if pull.exclude {
            query += &format!(" AND site_id IS NOT {}", site_id(site));
        }
        let [ours, other] = self.both(pull.from, std::slice::from_ref(&query)).map(|mut answers| answers.remove(0));
        self.same_answer(&query, &ours, &other)?;
        let Ok(mut changes) = other else { return Ok(()) };
        // Changes with equal db_version and seq come in no fixed order, and both engines have to get the same one.
        changes.sort_by(|a, b| position(a).cmp(&position(b)).then_with(|| a.cmp(b)));
        let end = changes.last().map_or(since, |change| position(change).0.unwrap_or(since));
        let changes: Vec<Insertion> =
            delivered(changes, pull.delivery).iter().map(|change| insertion(change, pull)).collect();
        self.merge(site, &changes, pull.commit)?;
        if pull.commit {
            self.last[site][pull.from] = end;
        }
        Ok(())
    }

    /// Merges changes, in a transaction of their own if there is none.
    fn merge(&mut self, site: usize, changes: &[Insertion], commit: bool) -> Played {
        let nested = self.stage.other.engine.is_in_transaction(site);
        if !nested {
            self.run(site, &["BEGIN".to_owned()])?;
        }
        let before = self.impacted(site);
        let ours = self.stage.ours.engine.merge(site, changes);
        let other = self.stage.other.engine.merge(site, changes);
        self.merged += other.iter().filter(|answer| answer.is_ok()).count();
        for ((change, ours), other) in changes.iter().zip(&ours).zip(&other) {
            if !mend::is_refused_early(ours, other) {
                self.same_answer(&change.sql, ours, other)?;
            }
        }
        let failed = changes.iter().zip(&other).filter(|(_, answer)| answer.is_err());
        if let Some(newest) = failed.map(|(change, _)| change.db_version).max() {
            self.run(site, &[mend::take_version(newest)])?;
        }
        let after = self.impacted(site);
        if other.iter().all(Result::is_ok) {
            let growth = |at: usize| vec![vec![Cell::Integer(after[at] - before[at])]];
            self.equal("the growth of crsql_rows_impacted()", &growth(0), &growth(1))?;
        }
        if !nested {
            if self.watch {
                self.observe(site)?;
            }
            self.run(site, &[if commit { "COMMIT" } else { "ROLLBACK" }.to_owned()])?;
        }
        Ok(())
    }

    fn impacted(&mut self, site: usize) -> [i64; 2] {
        self.both(site, &["SELECT crsql_rows_impacted()".to_owned()])
            .map(|answers| answers[0].as_ref().unwrap()[0][0].integer().unwrap())
    }

    /// Runs statements that create or alter something.
    fn define(&mut self, site: usize, statements: &[String]) -> Played {
        let [ours, other] = self.both(site, statements);
        for (sql, (ours, other)) in statements.iter().zip(ours.iter().zip(&other)) {
            self.same_answer(sql, ours, other)?;
        }
        if other.iter().any(Result::is_err) {
            // D2: a version that was taken without a change being written outlives the rollback in the reference, and is
            // forgotten here. Both forget it.
            self.reopen(site)?;
        }
        self.stage.ours.engine.defined(site);
        self.stage.other.engine.defined(site);
        self.run(site, &[observe::SELECT_DEFINITIONS.to_owned()])
    }

    fn run(&mut self, site: usize, statements: &[String]) -> Played {
        let [ours, other] = self.both(site, statements);
        let mut answers = statements.iter().zip(ours.iter().zip(&other));
        answers.try_for_each(|(sql, (ours, other))| self.same_answer(sql, ours, other))
    }

    fn both(&mut self, site: usize, statements: &[String]) -> [Vec<Answer>; 2] {
        [self.stage.ours.engine.run(site, statements), self.stage.other.engine.run(site, statements)]
    }

    fn observe(&mut self, site: usize) -> Played {
        let Stage { ours, other, .. } = &mut *self.stage;
        let queries = Queries::of(&mut *ours.engine, site);
        let ours = queries.observe(&mut *ours.engine, site);
        let other = queries.observe(&mut *other.engine, site);
        let mut both = ours.iter().zip(&other);
        both.try_for_each(|((what, ours), (_, other))| self.equal(what, ours, other))
    }

    /// Compares what a statement gave. Errors are equal, whatever they say.
    fn same_answer(&self, sql: &str, ours: &Answer, other: &Answer) -> Played {
        let compared = match (ours, other) {
            (Ok(ours), Ok(other)) => self.equal("the rows of a statement", ours, other),
            (Err(_), Err(_)) => Ok(()),
            _ => {
                let told = |answer: &Answer| match answer {
                    Ok(_) => "success".to_owned(),
                    Err(error) => format!("failure: {error}"),
                };
                Err(self.difference("the success of a statement", vec![told(ours)], vec![told(other)]))
            }
        };
        compared.map_err(|difference| Difference { sql: Some(sql.to_owned()), ..difference })
    }

    /// Compares rows in whatever order they come.
    fn equal(&self, what: &str, ours: &[Vec<Cell>], other: &[Vec<Cell>]) -> Played {
        let sorted = |rows: &[Vec<Cell>]| {
            let mut rows = rows.to_vec();
            rows.sort();
            rows
        };
        let (ours, other) = (sorted(ours), sorted(other));
        if ours == other {
            return Ok(());
        }
        let only = |some: &[Vec<Cell>], others: &[Vec<Cell>]| {
            let mut others = others.to_vec();
            let mut only = Vec::new();
            for row in some {
                match others.iter().position(|other| other == row) {
                    Some(at) => drop(others.swap_remove(at)),
                    None => only.push(row.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
                }
            }
            only
        };
        Err(self.difference(what, only(&ours, &other), only(&other, &ours)))
    }

    fn difference(&self, what: &str, ours: Vec<String>, other: Vec<String>) -> Difference {
        Difference { step: self.step, what: what.to_owned(), sql: None, ours, other, other_name: self.stage.other.name }
    }
}

/// `db_version` and `seq` of a change.
pub(crate) fn position(change: &[Cell]) -> (Option<i64>, Option<i64>) {
    (change.get(5).and_then(Cell::integer), change.get(8).and_then(Cell::integer))
}

fn delivered(changes: Vec<Vec<Cell>>, delivery: Delivery) -> Vec<Vec<Cell>> {
    match delivery {
        Delivery::Whole => changes,
        Delivery::Cut(percent) => {
            let length = changes.len() * percent / 100;
            changes.into_iter().take(length).collect()
        }
        Delivery::Holes => changes.into_iter().step_by(2).collect(),
        Delivery::Reversed => changes.into_iter().rev().collect(),
        Delivery::Twice => [&changes[..], &changes[..]].concat(),
    }
}

fn insertion(change: &[Cell], pull: &Pull) -> Insertion {
    let mut fields: Vec<String> = change.iter().map(ToString::to_string).collect();
    match pull.author {
        Author::Kept => {}
        Author::Sender => fields[6] = site_id(pull.from),
        Author::Nobody => fields[6] = "NULL".to_owned(),
    }
    Insertion {
        table: change[0].text().unwrap().to_owned(),
        db_version: position(change).0.unwrap(),
        sql: format!("INSERT INTO crsql_changes VALUES ({})", fields.join(", ")),
    }
}
