//! Statements at hand.

use rusqlite::{CachedStatement, Connection, Result};

/// How many are kept at hand. Merging into one table, or reading it, takes half of them.
const CAPACITY: usize = 16;

/// Prepared statements that are used again and again, as long as this lives.
///
/// The connection keeps what it has prepared, too. But each time it hands a statement out, it hashes and copies the text, and
/// that takes as long as writing a small row. Here, texts are only compared.
pub(crate) struct Statements<'c> {
    db: &'c Connection,
    at_hand: Vec<(Box<str>, CachedStatement<'c>)>,
}

impl<'c> Statements<'c> {
    pub(crate) fn new(db: &'c Connection) -> Statements<'c> {
        Statements { db, at_hand: Vec::new() }
    }

    /// The statement with this text. The one that was not used for longest makes room for it.
    pub(crate) fn get(&mut self, sql: &str) -> Result<&mut CachedStatement<'c>> {
        let known = match self.at_hand.iter().position(|(text, _)| **text == *sql) {
            Some(at) => self.at_hand.remove(at),
            None => (sql.into(), self.db.prepare_cached(sql)?),
        };
        if self.at_hand.len() >= CAPACITY {
            self.at_hand.remove(0);
        }
        let (_, statement) = self.at_hand.push_mut(known);
        Ok(statement)
    }
}
