//! Values as they are compared: exactly, with their types.

use std::fmt;

use rusqlite::types::ValueRef;

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cell {
    Null,
    Integer(i64),
    /// The bits of a double.
    Real(u64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Cell {
    /// Reads the form in which the reference's process sends values.
    pub(crate) fn parse(text: &str) -> Cell {
        let (kind, rest) = text.split_at(1);
        match kind {
            "n" => Cell::Null,
            "i" => Cell::Integer(rest.parse().unwrap()),
            "r" => Cell::Real(rest.parse().unwrap()),
            "t" => Cell::Text(unhex(rest)),
            "b" => Cell::Blob(unhex(rest)),
            _ => panic!("{text} is no value"),
        }
    }

    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Cell::Integer(number) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Cell::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

impl From<ValueRef<'_>> for Cell {
    fn from(value: ValueRef<'_>) -> Cell {
        match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(number) => Cell::Integer(number),
            ValueRef::Real(number) => Cell::Real(number.to_bits()),
            ValueRef::Text(text) => Cell::Text(text.to_vec()),
            ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
        }
    }
}

/// As an SQL literal.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Null => f.write_str("NULL"),
            Cell::Integer(number) => write!(f, "{number}"),
            Cell::Real(bits) => match f64::from_bits(*bits) {
                f64::INFINITY => f.write_str("9e999"),
                f64::NEG_INFINITY => f.write_str("-9e999"),
                number => write!(f, "{number:?}"),
            },
            Cell::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if !text.contains('\0') => write!(f, "'{}'", text.replace('\'', "''")),
                _ => write!(f, "CAST(x'{}' AS TEXT)", hex(bytes)),
            },
            Cell::Blob(bytes) => write!(f, "x'{}'", hex(bytes)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn a_value_reads_as_it_was_sent() {
    assert_eq!(Cell::parse("i-5").to_string(), "-5");
    assert_eq!(Cell::parse(&format!("r{}", 1.5_f64.to_bits())).to_string(), "1.5");
    assert_eq!(Cell::parse("t6127").to_string(), "'a'''");
    assert_eq!(Cell::parse("t610062").to_string(), "CAST(x'610062' AS TEXT)");
    assert_eq!(Cell::parse("b00ff").to_string(), "x'00ff'");
    assert_eq!(Cell::parse("n"), Cell::Null);
}
