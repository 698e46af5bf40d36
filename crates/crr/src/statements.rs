//! Statements at hand.

use std::cell::Cell;
use std::fmt;

use rusqlite::{CachedStatement, Connection, Result};

/// How many are kept at hand. Merging into one table, or writing to it, takes half of them.
const CAPACITY: usize = 16;

self_cell::self_cell!(
    /// A connection with some statements at hand.
    pub(crate) struct Prepared {
        owner: Connection,
        #[not_covariant]
        dependent: AtHand,
    }
);

/// What is at hand between two uses.
struct AtHand<'c> {
    shelf: Cell<Shelf<'c>>,
    /// Whether anything is.
    kept: Cell<bool>,
}

#[derive(Default)]
struct Shelf<'c> {
    statements: Vec<Kept<'c>>,
    /// How often a statement was asked for.
    requests: u64,
}

struct Kept<'c> {
    text: Box<str>,
    statement: CachedStatement<'c>,
    /// Which request was the last for it.
    asked: u64,
}

impl Prepared {
    pub(crate) fn on(db: Connection) -> Prepared {
        Prepared::new(db, |_| AtHand { shelf: Cell::default(), kept: Cell::new(true) })
    }

    pub(crate) fn db(&self) -> &Connection {
        self.borrow_owner()
    }

    /// Works with the statements at hand. Whoever is called back meanwhile, by a trigger say, begins with none.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Statements<'_>) -> R) -> R {
        self.with_dependent(|db, at_hand| {
            let shelf = at_hand.shelf.take();
            let mut statements = Statements { db, before: shelf.requests, shelf };
            let done = work(&mut statements);
            if at_hand.kept.get() {
                at_hand.shelf.set(statements.put_back());
            }
            done
        })
    }

    /// Has none at hand any more.
    pub(crate) fn let_go(&self) {
        self.with_dependent(|_, at_hand| drop(at_hand.shelf.take()));
    }

    /// Sets whether what is used from now on stays at hand. SQLite may ask us to let go and then not close, after all.
    pub(crate) fn keep(&self, yes: bool) {
        self.with_dependent(|_, at_hand| at_hand.kept.set(yes));
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

/// Prepared statements that are used again and again.
///
/// The connection keeps what it has prepared, too. But each time it hands a statement out, it hashes and copies the text, and
/// that takes as long as writing a small row. Here, texts are only compared.
pub(crate) struct Statements<'c> {
    db: &'c Connection,
    shelf: Shelf<'c>,
    /// The requests before those of this use.
    before: u64,
}

impl<'c> Statements<'c> {
    /// The statement with this text. If there is no room, it takes that of the one that was not asked for for longest.
    pub(crate) fn get(&mut self, sql: &str) -> Result<&mut CachedStatement<'c>> {
        self.shelf.requests += 1;
        let asked = self.shelf.requests;
        let kept = &mut self.shelf.statements;
        let wanted = match kept.iter().position(|kept| *kept.text == *sql) {
            Some(at) => Kept { asked, ..kept.swap_remove(at) },
            None => Kept { text: sql.into(), statement: self.db.prepare_cached(sql)?, asked },
        };
        if kept.len() >= CAPACITY
            && let Some(oldest) = kept.iter().map(|kept| kept.asked).min()
        {
            kept.retain(|kept| kept.asked != oldest);
        }
        Ok(&mut kept.push_mut(wanted).statement)
    }

    /// Frees the values that are bound.
    fn put_back(mut self) -> Shelf<'c> {
        for kept in self.shelf.statements.iter_mut().filter(|kept| kept.asked > self.before) {
            kept.statement.clear_bindings();
        }
        self.shelf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared() -> Prepared {
        Prepared::on(Connection::open_in_memory().unwrap())
    }

    fn texts(prepared: &Prepared) -> Vec<String> {
        prepared.with(|statements| statements.shelf.statements.iter().map(|kept| kept.text.to_string()).collect())
    }

    #[test]
    fn the_statement_that_was_not_asked_for_for_longest_makes_room() {
        let prepared = prepared();
        let select = |number| format!("SELECT {number}");
        prepared.with(|statements| {
            for number in 0..CAPACITY {
                statements.get(&select(number)).unwrap();
            }
        });
        prepared.with(|statements| {
            statements.get(&select(0)).unwrap();
            statements.get(&select(CAPACITY)).unwrap();
        });
        let kept = texts(&prepared);
        assert_eq!(kept.len(), CAPACITY);
        assert!(kept.contains(&select(0)) && kept.contains(&select(CAPACITY)) && !kept.contains(&select(1)));
    }

    #[test]
    fn bound_values_are_freed_after_use() {
        let prepared = prepared();
        prepared.with(|statements| {
            let select = statements.get("SELECT ?1 IS NULL").unwrap();
            assert!(!select.query_row([1], |row| row.get::<_, bool>(0)).unwrap());
        });
        prepared.with(|statements| {
            let mut rows = statements.get("SELECT ?1 IS NULL").unwrap().raw_query();
            assert!(rows.next().unwrap().unwrap().get::<_, bool>(0).unwrap());
        });
    }

    #[test]
    fn a_use_within_a_use_begins_with_none_and_takes_none_away() {
        let prepared = prepared();
        prepared.with(|outer| {
            outer.get("SELECT 1").unwrap();
            prepared.with(|inner| assert!(inner.shelf.statements.is_empty() && inner.get("SELECT 2").is_ok()));
            assert!(outer.get("SELECT 1").is_ok());
        });
        assert_eq!(texts(&prepared), ["SELECT 1"]);
    }

    #[test]
    fn nothing_stays_at_hand_if_nothing_is_kept() {
        let prepared = prepared();
        prepared.with(|statements| assert!(statements.get("SELECT 1").is_ok()));
        prepared.keep(false);
        prepared.let_go();
        assert!(texts(&prepared).is_empty());
        prepared.with(|statements| assert!(statements.get("SELECT 1").is_ok()));
        assert!(texts(&prepared).is_empty());
        prepared.keep(true);
        prepared.with(|statements| assert!(statements.get("SELECT 1").is_ok()));
        assert_eq!(texts(&prepared), ["SELECT 1"]);
    }

    #[test]
    fn a_text_that_is_no_statement_changes_nothing() {
        let prepared = prepared();
        prepared.with(|statements| {
            statements.get("SELECT 1").unwrap();
            assert!(statements.get("SELEKT").is_err());
        });
        assert_eq!(texts(&prepared), ["SELECT 1"]);
    }
}
