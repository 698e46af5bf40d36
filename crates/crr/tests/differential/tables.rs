//! Tables that scenarios work on, as far as one has to know them to write statements.

use crate::random::Random;
use crate::sql::{identifier, list, literal};

/// What a column stores: what its declared type makes of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Untyped,
    Integer,
    Real,
    Text,
    Blob,
    Numeric,
}

/// A column, and how it is declared after its name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) declared: String,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Table {
    pub(crate) name: String,
    /// In the table's order, those of the key included.
    pub(crate) columns: Vec<Column>,
    /// The names of the key's columns, in the key's order.
    pub(crate) keys: Vec<String>,
    pub(crate) without_rowid: bool,
    /// Columns with an index.
    pub(crate) indexed: Vec<String>,
    /// The column that a generated one is computed from.
    pub(crate) computed_from: Option<String>,
}

/// The reference can't back-fill tables whose names need quotes (D12).
const TABLE_NAMES: [&str; 4] = ["t", "Items", "größe", "T_2"];
/// Nor columns with quotes in their names (D12), here and below.
const KEY_NAMES: [&str; 5] = ["id", "Key", "k 2", "order", "clé"];
/// Each is of one kind at all sites: the reference compares a value as it comes from a column of another kind (D25).
const COLUMN_NAMES: [(&str, Kind); 12] = [
    ("b", Kind::Untyped),
    ("c", Kind::Untyped),
    ("n", Kind::Integer),
    ("select", Kind::Integer),
    ("r", Kind::Real),
    ("naïve", Kind::Real),
    ("Name", Kind::Text),
    ("a.b", Kind::Text),
    ("1st", Kind::Blob),
    ("x-y", Kind::Blob),
    ("my col", Kind::Numeric),
    ("%", Kind::Numeric),
];

impl Table {
    /// A table with a name that none of `others` has.
    pub(crate) fn random(random: &mut Random, others: &[Table]) -> Table {
        let taken: Vec<&str> = others.iter().map(|table| table.name.as_str()).collect();
        let names: Vec<&str> = TABLE_NAMES.into_iter().filter(|name| !taken.contains(name)).collect();
        let name = (*random.pick(&names)).to_owned();
        let mut table = Table {
            name,
            columns: vec![],
            keys: vec![],
            without_rowid: random.chance(30),
            indexed: vec![],
            computed_from: None,
        };

        let mut names = KEY_NAMES.to_vec();
        for _ in 0..random.weighted(&[(6, 1), (3, 2), (1, 3)]) {
            let name = names.remove(random.below(names.len())).to_owned();
            let kind = *random.pick(&[
                Kind::Untyped,
                Kind::Integer,
                Kind::Integer,
                Kind::Text,
                Kind::Text,
                Kind::Blob,
                Kind::Real,
                Kind::Numeric,
            ]);
            let declared = format!("{} NOT NULL", kind.declared(random));
            table.keys.push(name.clone());
            table.columns.push(Column { name, kind, declared });
        }
        for _ in 0..random.weighted(&[(1, 0), (2, 1), (3, 2), (3, 3), (1, 5)]) {
            let column = table.new_column(random);
            // Between the columns of the key, too.
            let at = random.between(1, table.columns.len());
            table.columns.insert(at, column);
        }
        if random.chance(40) {
            let keys = table.keys.len();
            table.keys.rotate_left(random.below(keys));
        }
        if random.chance(30) {
            table.indexed.extend(table.columns_besides_key().first().map(|column| column.name.clone()));
        }
        if random.chance(15) {
            table.computed_from = Some(random.pick(&table.columns).name.clone());
        }
        table
    }

    /// A column that the table doesn't have.
    pub(crate) fn new_column(&self, random: &mut Random) -> Column {
        let (name, kind) = *random.pick(&self.free_names());
        let name = name.to_owned();
        let mut declared = kind.declared(random);
        match random.below(10) {
            0..=4 => {}
            5 => declared += &format!(" CHECK ({} IS NOT {})", identifier(&name), kind.refused()),
            6..=7 => declared += &format!(" DEFAULT {}", kind.default(random)),
            8 => declared += &format!(" NOT NULL DEFAULT {}", kind.default(random)),
            _ => declared += " COLLATE NOCASE",
        }
        Column { name, kind, declared }
    }

    /// Names that no column has.
    pub(crate) fn free_names(&self) -> Vec<(&'static str, Kind)> {
        let is_free = |name: &str| self.columns.iter().all(|column| column.name != name);
        COLUMN_NAMES.into_iter().filter(|(name, _)| is_free(name)).collect()
    }

    pub(crate) fn columns_besides_key(&self) -> Vec<&Column> {
        self.columns.iter().filter(|column| !self.keys.contains(&column.name)).collect()
    }

    /// The key's columns, in the key's order.
    pub(crate) fn key_columns(&self) -> Vec<&Column> {
        self.keys.iter().filter_map(|key| self.columns.iter().find(|column| column.name == *key)).collect()
    }

    /// CREATE TABLE and CREATE INDEX.
    pub(crate) fn create(&self) -> Vec<String> {
        let columns = self.columns.iter().map(|column| format!("{} {}", identifier(&column.name), column.declared));
        let computed =
            self.computed_from.iter().map(|column| format!("\"computed\" AS (typeof({}))", identifier(column)));
        let columns = columns.chain(computed);
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {} ({}, PRIMARY KEY ({})){}",
            identifier(&self.name),
            list(columns),
            list(self.keys.iter().map(|key| identifier(key))),
            if self.without_rowid { " WITHOUT ROWID" } else { "" }
        );
        let mut statements = vec![create];
        statements.extend(self.indexed.iter().map(|column| {
            let index = identifier(&format!("{} by {column}", self.name));
            format!("CREATE INDEX IF NOT EXISTS {index} ON {} ({})", identifier(&self.name), identifier(column))
        }));
        statements
    }

    /// Whether a column can't be dropped before something else is.
    pub(crate) fn needs(&self, column: &str) -> bool {
        self.computed_from.as_deref() == Some(column) || self.indexed.iter().any(|indexed| indexed == column)
    }

    /// A trigger of the application's, which also runs during merges. It writes to a table that migrations leave alone.
    pub(crate) fn count_insertions(&self) -> String {
        format!(
            "CREATE TRIGGER {} AFTER INSERT ON {} BEGIN
                 INSERT INTO crsql_tracked_peers VALUES (CAST({} AS BLOB), 1, 0, 0, 0)
                 ON CONFLICT DO UPDATE SET version = version + 1;
             END",
            identifier(&format!("{} counts", self.name)),
            identifier(&self.name),
            literal(&self.name)
        )
    }

    pub(crate) fn as_crr(&self) -> String {
        format!("SELECT crsql_as_crr({})", literal(&self.name))
    }
}

impl Kind {
    fn declared(self, random: &mut Random) -> String {
        let types: &[&str] = match self {
            Kind::Untyped => &[""],
            Kind::Integer => &["INTEGER", "INT", "BIGINT"],
            Kind::Real => &["REAL", "DOUBLE"],
            Kind::Text => &["TEXT", "VARCHAR(10)"],
            Kind::Blob => &["BLOB"],
            Kind::Numeric => &["NUMERIC", "BOOLEAN"],
        };
        (*random.pick(types)).to_owned()
    }

    fn default(self, random: &mut Random) -> String {
        let values: &[&str] = match self {
            Kind::Untyped => &["5", "'x'", "-1.5", "x'00'"],
            Kind::Integer => &["0", "-7"],
            Kind::Real => &["1.5", "0"],
            Kind::Text => &["''", "'it''s'"],
            Kind::Blob => &["x''", "x'ff'"],
            Kind::Numeric => &["3", "2.5"],
        };
        (*random.pick(values)).to_owned()
    }

    /// A value that a CHECK constraint doesn't let in.
    fn refused(self) -> &'static str {
        match self {
            Kind::Untyped | Kind::Integer => "5",
            Kind::Real => "1.5",
            Kind::Text => "'y'",
            Kind::Blob => "x'ff'",
            Kind::Numeric => "2.5",
        }
    }

    /// A key, from so few that sites use the same ones.
    pub(crate) fn key(self, random: &mut Random) -> String {
        let keys: &[&str] = match self {
            Kind::Untyped => &["1", "1.0", "'1'", "'a'", "x'61'", "0.5"],
            Kind::Integer => &["1", "2", "3", "-1", "200", "4294967296"],
            Kind::Real => &["0.5", "1.5", "-2.25", "3.0"],
            Kind::Text => &["'a'", "'b'", "''", "'é'", "'A'"],
            Kind::Blob => &["x''", "x'00'", "x'00ff'", "x'61'"],
            Kind::Numeric => &["1", "2.5", "'a'", "7"],
        };
        (*random.pick(keys)).to_owned()
    }

    /// A key that [`key`](Self::key) never is.
    pub(crate) fn other_key(self, number: usize) -> String {
        match self {
            Kind::Integer | Kind::Numeric | Kind::Untyped => format!("{}", 1000 + number),
            Kind::Real => format!("{}.5", 1000 + number),
            Kind::Text => format!("'other {number}'"),
            Kind::Blob => format!("x'ffff{number:04}'"),
        }
    }

    /// A value as a column of this kind stores it.
    pub(crate) fn stored(self, random: &mut Random) -> String {
        let values: &[&str] = match self {
            Kind::Untyped => {
                let kind = *random.pick(&[Kind::Integer, Kind::Real, Kind::Text, Kind::Blob]);
                return kind.stored(random);
            }
            Kind::Integer => {
                &["0", "1", "5", "-5", "255", "256", "-9223372036854775808", "9223372036854775807", "NULL"]
            }
            Kind::Real => &["0.0", "1.5", "-2.5", "7.0", "1e300", "9e999", "0.1", "NULL"],
            Kind::Text => &["'x'", "'y'", "'xyz'", "''", "'éa'", "'X'", "'it''s'", "NULL"],
            Kind::Blob => &["x''", "x'ff'", "x'00'", "x'0001'", "NULL"],
            Kind::Numeric => &["1", "2.5", "-3", "'q'", "NULL"],
        };
        (*random.pick(values)).to_owned()
    }

    /// A value that an application may write: also one that the column converts.
    pub(crate) fn written(self, random: &mut Random) -> String {
        if !random.chance(15) {
            return self.stored(random);
        }
        let values: &[&str] = match self {
            Kind::Untyped => &["NULL"],
            Kind::Integer => &["'7'", "3.0", "'x'"],
            Kind::Real => &["7", "-1", "'2.5'"],
            Kind::Text => &["5", "-1", "CAST(x'610062' AS TEXT)"],
            Kind::Blob => &["'text'", "5", "1.5"],
            Kind::Numeric => &["'3'", "3.0", "'2.5'"],
        };
        (*random.pick(values)).to_owned()
    }
}
