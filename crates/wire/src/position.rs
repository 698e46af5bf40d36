//! How far one site has seen another.

use serde::{Deserialize, Serialize};

use crate::json::integer;

/// A place in a site's stream of changes: all changes up to and including it have been seen.
///
/// Ordered by `db_version`, then `seq`. In JSON it is the pair `[db_version, seq]`.
///
/// Positions of vlcn peers are whole db_versions, with `seq` 0: a db_version is never split over two messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(from = "Pair", into = "Pair")]
pub struct Position {
    /// The db_version of the sending site.
    pub db_version: i64,
    /// The place within that db_version. Its magnitude is at most 2^53 − 1 on the wire;
    /// the encoders replace a larger one by that bound.
    pub seq: i64,
}

impl Position {
    /// Before the first change: nothing has been seen.
    pub const START: Self = Self::at(0);

    /// Behind every change. A client that is told to stream from here sends nothing.
    pub const MUTE: Self = Self::at(i64::MAX);

    /// The end of a whole db_version: `(db_version, 0)`.
    #[must_use]
    pub const fn at(db_version: i64) -> Self {
        Self { db_version, seq: 0 }
    }
}

/// The JSON shape of a position.
#[derive(Serialize, Deserialize)]
#[serde(expecting = "a position: [db_version, seq]")]
struct Pair(#[serde(with = "integer")] i64, #[serde(with = "integer::var_int")] i64);

impl From<Pair> for Position {
    fn from(Pair(db_version, seq): Pair) -> Self {
        Self { db_version, seq }
    }
}

impl From<Position> for Pair {
    fn from(position: Position) -> Self {
        Self(position.db_version, position.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_ordered_by_db_version_and_then_by_seq() {
        let seq = |db_version, seq| Position { db_version, seq };
        let ascending = [seq(-1, 9), Position::START, seq(0, 1), Position::at(1), seq(1, 2), Position::MUTE];
        assert!(ascending.is_sorted_by(|a, b| a < b));
        assert_eq!(Position::default(), Position::START);
    }
}
