//! What happens in a test: steps that each site takes.

use std::fmt;

use crate::engine::Insertion;

/// How many sites take part.
pub(crate) const SITES: usize = 3;

/// The steps of a test, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scenario {
    pub(crate) steps: Vec<Step>,
    /// Whether the databases are also compared inside transactions.
    pub(crate) watch: bool,
}

/// What one site does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) site: usize,
    pub(crate) action: Action,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// A statement.
    Sql(String),
    /// Statements that create something or make a CRR.
    Define(Vec<String>),
    /// Statements between `crsql_begin_alter` and `crsql_commit_alter` of a table.
    Alter { table: String, statements: Vec<String> },
    /// `crsql_automigrate` to a schema of these statements.
    Migrate(Vec<String>),
    /// BEGIN, what is done inside, and COMMIT or ROLLBACK.
    Transaction { body: Vec<Action>, commit: bool },
    /// SAVEPOINT, what is done inside, perhaps ROLLBACK TO, and RELEASE.
    Savepoint { body: Vec<Action>, keep: bool },
    /// The changes of another site are read there and merged here, in one transaction.
    Pull(Pull),
    /// A change that no site has made.
    Forged(Insertion),
    /// The database is closed and opened again.
    Reopen,
}

/// How changes come from another site.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pull {
    pub(crate) from: usize,
    pub(crate) since: Since,
    /// Whether changes of the one who pulls are left out.
    pub(crate) exclude: bool,
    pub(crate) author: Author,
    pub(crate) delivery: Delivery,
    pub(crate) commit: bool,
}

/// Where a pull begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Since {
    /// Where the last one ended, or so many versions after it, or before it.
    Last(i64),
    Zero,
}

/// Whom a change is said to be from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Author {
    /// Whoever wrote it.
    Kept,
    /// The site that it came from, as the vlcn server does.
    Sender,
    /// Nobody, which is the one who merges.
    Nobody,
}

/// What becomes of changes on their way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Delivery {
    Whole,
    /// Only so many of a hundred arrive, the first ones.
    Cut(usize),
    /// Every other one is lost.
    Holes,
    Reversed,
    Twice,
}

impl Scenario {
    /// All lists of steps and statements, outermost first. Any part of any of them may be left out.
    pub(crate) fn shorter(&self) -> Vec<Scenario> {
        let mut shorter = Vec::new();
        for steps in cuts(&self.steps) {
            shorter.push(Scenario { steps, watch: self.watch });
        }
        for (at, step) in self.steps.iter().enumerate() {
            for action in step.action.shorter() {
                let mut steps = self.steps.clone();
                steps[at].action = action;
                shorter.push(Scenario { steps, watch: self.watch });
            }
        }
        shorter
    }
}

impl Action {
    pub(crate) fn alters(&self) -> bool {
        matches!(self, Action::Alter { .. })
    }

    fn shorter(&self) -> Vec<Action> {
        match self {
            Action::Define(statements) => cuts(statements).into_iter().map(Action::Define).collect(),
            Action::Alter { table, statements } => cuts(statements)
                .into_iter()
                .map(|statements| Action::Alter { table: table.clone(), statements })
                .collect(),
            Action::Transaction { body, commit } => {
                shorter_bodies(body).into_iter().map(|body| Action::Transaction { body, commit: *commit }).collect()
            }
            Action::Savepoint { body, keep } => {
                let mut shorter: Vec<Action> =
                    shorter_bodies(body).into_iter().map(|body| Action::Savepoint { body, keep: *keep }).collect();
                if let [only] = body.as_slice() {
                    shorter.push(only.clone());
                }
                shorter
            }
            Action::Sql(_) | Action::Migrate(_) | Action::Pull(_) | Action::Forged(_) | Action::Reopen => Vec::new(),
        }
    }
}

fn shorter_bodies(body: &[Action]) -> Vec<Vec<Action>> {
    let mut shorter = cuts(body);
    for (at, action) in body.iter().enumerate() {
        for action in action.shorter() {
            let mut body = body.to_vec();
            body[at] = action;
            shorter.push(body);
        }
    }
    shorter
}

/// The list without some of its items: large parts first, then single ones.
fn cuts<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    let mut cuts = Vec::new();
    let mut size = items.len() / 2;
    while size > 0 {
        for start in (0..items.len()).step_by(size).rev() {
            let end = items.len().min(start + size);
            cuts.push([&items[..start], &items[end..]].concat());
        }
        size /= 2;
    }
    cuts
}

/// As SQL that can be read, and nearly run.
impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Step { site, action } in &self.steps {
            writeln!(f, "-- site {site}\n{action}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Sql(sql) => write!(f, "{sql};"),
            Action::Define(statements) => write!(f, "{};", statements.join(";\n")),
            Action::Alter { table, statements } => {
                writeln!(f, "SELECT crsql_begin_alter('{table}');")?;
                statements.iter().try_for_each(|sql| writeln!(f, "{sql};"))?;
                write!(f, "SELECT crsql_commit_alter('{table}');")
            }
            Action::Migrate(statements) => {
                let schema = statements.iter().map(|sql| format!("{sql};\n")).collect::<String>();
                write!(f, "SELECT crsql_automigrate('{}');", schema.replace('\'', "''"))
            }
            Action::Transaction { body, commit } => {
                writeln!(f, "BEGIN;")?;
                body.iter().try_for_each(|action| writeln!(f, "{action}"))?;
                f.write_str(if *commit { "COMMIT;" } else { "ROLLBACK;" })
            }
            Action::Savepoint { body, keep } => {
                writeln!(f, "SAVEPOINT s;")?;
                body.iter().try_for_each(|action| writeln!(f, "{action}"))?;
                f.write_str(if *keep { "RELEASE s;" } else { "ROLLBACK TO s; RELEASE s;" })
            }
            Action::Pull(pull) => write!(f, "-- {pull:?}"),
            Action::Forged(change) => write!(f, "{};", change.sql),
            Action::Reopen => f.write_str("-- close and open again"),
        }
    }
}
