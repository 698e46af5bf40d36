//! Both engines on the same files, in turn.

use std::path::Path;

use crate::engine::{Answer, Engine, Insertion};
use crate::ours::Ours;
use crate::reference::Reference;
use crate::scenario::SITES;

/// Opens each database with this engine and the reference alternately. Sites begin with different ones, so that the two also
/// sync with each other.
#[derive(Debug)]
pub(crate) struct Alternating {
    ours: Ours,
    reference: Reference,
    turns: [Turn; SITES],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Turn {
    Ours,
    Reference,
}

impl Alternating {
    pub(crate) fn start() -> Alternating {
        Alternating { ours: Ours::default(), reference: Reference::start(), turns: [Turn::Ours; SITES] }
    }

    fn engine(&self, site: usize) -> &dyn Engine {
        match self.turns[site] {
            Turn::Ours => &self.ours,
            Turn::Reference => &self.reference,
        }
    }

    fn engine_mut(&mut self, site: usize) -> &mut dyn Engine {
        match self.turns[site] {
            Turn::Ours => &mut self.ours,
            Turn::Reference => &mut self.reference,
        }
    }
}

impl Engine for Alternating {
    fn open(&mut self, site: usize, file: &Path) {
        self.turns[site] = if site.is_multiple_of(2) { Turn::Ours } else { Turn::Reference };
        self.engine_mut(site).open(site, file);
    }

    fn close(&mut self, site: usize, file: &Path) {
        self.engine_mut(site).close(site, file);
    }

    fn reopen(&mut self, site: usize, file: &Path) {
        self.close(site, file);
        self.turns[site] = match self.turns[site] {
            Turn::Ours => Turn::Reference,
            Turn::Reference => Turn::Ours,
        };
        self.engine_mut(site).open(site, file);
    }

    fn run(&mut self, site: usize, statements: &[String]) -> Vec<Answer> {
        self.engine_mut(site).run(site, statements)
    }

    fn merge(&mut self, site: usize, changes: &[Insertion]) -> Vec<Answer> {
        self.engine_mut(site).merge(site, changes)
    }

    fn defined(&mut self, site: usize) {
        self.engine_mut(site).defined(site);
    }

    fn is_in_transaction(&self, site: usize) -> bool {
        self.engine(site).is_in_transaction(site)
    }
}
