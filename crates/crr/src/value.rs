//! Values: their order among each other, and what columns make of them.

use std::cmp::Ordering;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::sql::Bind;
use crate::state::Engine;

/// The order by which concurrent writes are decided: INTEGER > REAL > TEXT > BLOB > NULL, the type before the value.
/// Texts and blobs compare by bytes. Every peer has to use the same order.
pub(crate) fn order(a: ValueRef<'_>, b: ValueRef<'_>) -> Ordering {
    match (a, b) {
        (ValueRef::Integer(a), ValueRef::Integer(b)) => a.cmp(&b),
        // SQLite stores NaN as NULL, so there is always an order.
        (ValueRef::Real(a), ValueRef::Real(b)) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        (ValueRef::Text(a), ValueRef::Text(b)) | (ValueRef::Blob(a), ValueRef::Blob(b)) => a.cmp(b),
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

fn rank(value: ValueRef<'_>) -> u8 {
    match value {
        ValueRef::Null => 0,
        ValueRef::Blob(_) => 1,
        ValueRef::Text(_) => 2,
        ValueRef::Real(_) => 3,
        ValueRef::Integer(_) => 4,
    }
}

/// What a column does to values before it stores them.
/// See [Datatypes in SQLite](https://sqlite.org/datatype3.html#determination_of_column_affinity).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affinity {
    Text,
    Numeric,
    Integer,
    Real,
    /// None: values stay as they are.
    Blob,
}

impl Affinity {
    /// The affinity of a column declared with this type.
    pub(crate) fn of(declared: &str, strict: bool) -> Affinity {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if strict && declared == "ANY" {
            Affinity::Blob
        } else if has("INT") {
            Affinity::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Affinity::Text
        } else if has("BLOB") || declared.is_empty() {
            Affinity::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }

    /// A column with this affinity in the private database of [`Engine::stored_as`].
    fn column(self) -> &'static str {
        match self {
            Affinity::Text => "t",
            Affinity::Numeric => "n",
            Affinity::Integer => "i",
            Affinity::Real => "r",
            Affinity::Blob => "b",
        }
    }
}

/// A value with its bytes. Unlike rusqlite's, it keeps texts that aren't UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OwnedValue {
    Null,
    Integer(i64),
    Real(f64),
    Text(Box<[u8]>),
    Blob(Box<[u8]>),
}

impl From<ValueRef<'_>> for OwnedValue {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => OwnedValue::Null,
            ValueRef::Integer(number) => OwnedValue::Integer(number),
            ValueRef::Real(number) => OwnedValue::Real(number),
            ValueRef::Text(bytes) => OwnedValue::Text(bytes.into()),
            ValueRef::Blob(bytes) => OwnedValue::Blob(bytes.into()),
        }
    }
}

impl OwnedValue {
    pub(crate) fn get(&self) -> ValueRef<'_> {
        match self {
            OwnedValue::Null => ValueRef::Null,
            OwnedValue::Integer(number) => ValueRef::Integer(*number),
            OwnedValue::Real(number) => ValueRef::Real(*number),
            OwnedValue::Text(bytes) => ValueRef::Text(bytes),
            OwnedValue::Blob(bytes) => ValueRef::Blob(bytes),
        }
    }
}

/// A value that is borrowed unless a column made another one of it.
#[derive(Clone, Debug)]
pub(crate) enum CellValue<'a> {
    Borrowed(ValueRef<'a>),
    Made(OwnedValue),
}

impl CellValue<'_> {
    pub(crate) fn get(&self) -> ValueRef<'_> {
        match self {
            CellValue::Borrowed(value) => *value,
            CellValue::Made(value) => value.get(),
        }
    }
}

impl Engine {
    /// What a column of this affinity stores when it is given `value`.
    pub(crate) fn stored_as<'a>(&self, affinity: Affinity, value: ValueRef<'a>) -> rusqlite::Result<CellValue<'a>> {
        Ok(match (affinity, value) {
            (_, ValueRef::Real(number)) if number.is_nan() => CellValue::Borrowed(ValueRef::Null),
            (Affinity::Blob, _) | (_, ValueRef::Null | ValueRef::Blob(_)) => CellValue::Borrowed(value),
            (Affinity::Text, ValueRef::Text(_))
            | (Affinity::Integer | Affinity::Numeric, ValueRef::Integer(_))
            | (Affinity::Real, ValueRef::Real(_)) => CellValue::Borrowed(value),
            #[allow(clippy::cast_precision_loss, reason = "SQLite rounds in the same way")]
            (Affinity::Real, ValueRef::Integer(number)) => CellValue::Borrowed(ValueRef::Real(number as f64)),
            // Texts that are numbers and numbers as text: the rules and the digits are SQLite's, so SQLite does it.
            _ => CellValue::Made(self.ask_sqlite(affinity, value)?),
        })
    }

    fn ask_sqlite(&self, affinity: Affinity, value: ValueRef<'_>) -> rusqlite::Result<OwnedValue> {
        let db = match self.columns.get() {
            Some(db) => db,
            None => {
                let db = Connection::open_in_memory()?;
                db.execute_batch(
                    "CREATE TABLE columns (id INTEGER PRIMARY KEY, t TEXT, n NUMERIC, i INTEGER, r REAL, b BLOB)",
                )?;
                self.columns.get_or_init(|| db)
            }
        };
        let column = affinity.column();
        db.prepare_cached(&format!("INSERT OR REPLACE INTO columns (id, {column}) VALUES (1, ?1)"))?
            .execute([Bind(value)])?;
        // RETURNING would be one statement less, but SQLite 3.40 returns the whole numbers of REAL columns as integers.
        db.prepare_cached(&format!("SELECT {column} FROM columns"))?
            .query_one([], |row| row.get_ref(0).map(OwnedValue::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::types::Value;

    #[test]
    fn the_type_decides_before_the_value() {
        let ascending = [
            ValueRef::Null,
            ValueRef::Blob(b""),
            ValueRef::Blob(b"\xff"),
            ValueRef::Text(b""),
            ValueRef::Text(b"Z"),
            ValueRef::Text(b"a"),
            ValueRef::Text(b"ab"),
            ValueRef::Text(b"b"),
            ValueRef::Real(f64::NEG_INFINITY),
            ValueRef::Real(0.0),
            ValueRef::Real(f64::INFINITY),
            ValueRef::Integer(i64::MIN),
            ValueRef::Integer(-5),
            ValueRef::Integer(i64::MAX),
        ];
        for (at, a) in ascending.iter().enumerate() {
            for (bt, b) in ascending.iter().enumerate() {
                assert_eq!(order(*a, *b), at.cmp(&bt), "{a:?} {b:?}");
            }
        }
        assert_eq!(order(ValueRef::Real(-0.0), ValueRef::Real(0.0)), Ordering::Equal);
    }

    #[test]
    fn affinity_follows_sqlites_rules() {
        for (declared, affinity) in [
            ("INT", Affinity::Integer),
            ("bigint unsigned", Affinity::Integer),
            ("FLOATING POINT", Affinity::Integer),
            ("varchar(10)", Affinity::Text),
            ("CLOB", Affinity::Text),
            ("BLOB", Affinity::Blob),
            ("", Affinity::Blob),
            ("DOUBLE PRECISION", Affinity::Real),
            ("NUMERIC", Affinity::Numeric),
            ("ANY", Affinity::Numeric),
            ("DATETIME", Affinity::Numeric),
        ] {
            assert_eq!(Affinity::of(declared, false), affinity, "{declared}");
        }
        assert_eq!(Affinity::of("ANY", true), Affinity::Blob);
    }

    #[test]
    fn values_become_what_a_column_stores() {
        let conn = Connection::open_in_memory().unwrap();
        let engine = Engine::new(&conn).unwrap();
        let types = ["TEXT", "NUMERIC", "INTEGER", "REAL", "BLOB"];
        let texts = ["5", " 5 ", "5.0", "5.5", "1e3", "abc", "", "0x10", "9223372036854775808", "1e999"];
        let numbers = [0.1, -0.0, 5.0, 5.5, 1e18, 9.3e18, 1e300, f64::INFINITY];
        let values = texts
            .map(|text| Value::Text(text.to_owned()))
            .into_iter()
            .chain(numbers.map(Value::Real))
            .chain([0, -7, i64::MAX, i64::MIN].map(Value::Integer))
            .chain([Value::Null, Value::Blob(vec![53])]);
        for value in values {
            for declared in types {
                let affinity = Affinity::of(declared, false);
                let found = Value::try_from(engine.stored_as(affinity, ValueRef::from(&value)).unwrap().get()).unwrap();
                conn.execute_batch(&format!("CREATE TEMP TABLE x (x {declared})")).unwrap();
                conn.execute("INSERT INTO x VALUES (?)", [&value]).unwrap();
                let wanted: Value = conn.query_row("SELECT x FROM x", [], |row| row.get(0)).unwrap();
                conn.execute_batch("DROP TABLE x").unwrap();
                assert_eq!(found, wanted, "{value:?} in a {declared} column");
            }
        }
    }
}
