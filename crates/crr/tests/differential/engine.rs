//! What runs the SQL of a scenario.

use std::path::Path;

use crate::cell::Cell;

/// What a statement gave: its rows, or why it failed.
pub(crate) type Answer = Result<Vec<Vec<Cell>>, String>;

/// An insertion into `crsql_changes`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Insertion {
    /// The table that the change is about.
    pub(crate) table: String,
    /// The version that it carries.
    pub(crate) db_version: i64,
    pub(crate) sql: String,
}

/// Runs SQL on the databases of some sites.
pub(crate) trait Engine {
    /// Opens the database in a file, or a new one that will be written there.
    fn open(&mut self, site: usize, file: &Path);

    /// Closes a site's database, and leaves it in a file.
    fn close(&mut self, site: usize, file: &Path);

    /// Closes a site's database and opens it again.
    fn reopen(&mut self, site: usize, file: &Path) {
        self.close(site, file);
        self.open(site, file);
    }

    /// Runs statements, each whether or not those before it failed.
    fn run(&mut self, site: usize, statements: &[String]) -> Vec<Answer>;

    /// Inserts changes, inside a transaction.
    fn merge(&mut self, site: usize, changes: &[Insertion]) -> Vec<Answer>;

    /// Called after something was created or altered.
    fn defined(&mut self, site: usize);

    /// Whether a transaction is open.
    fn is_in_transaction(&self, site: usize) -> bool;
}

/// What has to work, and says so otherwise.
pub(crate) trait Demand {
    fn run_one(&mut self, site: usize, sql: &str) -> Vec<Vec<Cell>>;
}

impl<E: Engine + ?Sized> Demand for E {
    fn run_one(&mut self, site: usize, sql: &str) -> Vec<Vec<Cell>> {
        let answer = self.run(site, &[sql.to_owned()]).pop().unwrap();
        answer.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}
