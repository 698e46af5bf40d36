//! One change, borrowed from the message it came in.

use std::fmt;

use serde::Serialize;

use crate::{SiteId, json};

/// One cell of one row, or the row itself, with its clock: a row of `crsql_changes`.
///
/// It borrows from the [`ChangeList`](crate::ChangeList) that it was read from. `Debug` shows neither key nor value,
/// so that a change can be logged.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change<'a> {
    /// The table.
    pub table: &'a str,
    /// The packed primary key, opaque here.
    #[serde(serialize_with = "json::bytes::serialize")]
    pub pk: &'a [u8],
    /// The column, or [`Change::SENTINEL`] for the row itself.
    pub cid: &'a str,
    /// The cell.
    pub val: Value<'a>,
    /// The version of the cell: one more with each write.
    #[serde(serialize_with = "json::integer::serialize")]
    pub col_version: i64,
    /// The db_version of the *sender* at which it got this change.
    #[serde(serialize_with = "json::integer::serialize")]
    pub db_version: i64,
    /// The author, if it is given. vlcn peers neither send nor use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<SiteId>,
    /// The causal length of the row: odd while the row lives, even when it is deleted.
    #[serde(serialize_with = "json::integer::serialize")]
    pub cl: i64,
    /// The place within the db_version. Its magnitude is at most 2^53 − 1 on the wire;
    /// the encoders replace a larger one by that bound.
    #[serde(serialize_with = "json::integer::var_int::serialize")]
    pub seq: i64,
}

impl Change<'_> {
    /// The `cid` of a change that concerns the row itself: its creation or its deletion.
    pub const SENTINEL: &'static str = "-1";
}

impl fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Change")
            .field("table", &self.table)
            .field("pk", &format_args!("{} bytes", self.pk.len()))
            .field("cid", &self.cid)
            .field("val", &self.val)
            .field("col_version", &self.col_version)
            .field("db_version", &self.db_version)
            .field("site", &self.site)
            .field("cl", &self.cl)
            .field("seq", &self.seq)
            .finish()
    }
}

/// The value of a cell as it travels.
///
/// Two values are equal if their encodings are: numbers are compared by their bits, so that a NaN equals itself
/// and −0 differs from 0. `Debug` shows the kind and the size, never the content.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// A 64-bit integer. vlcn clients send one only if its magnitude is above 2^53 − 1.
    Integer(i64),
    /// A JavaScript number: whole ones may have been INTEGER or REAL. Its bits are kept, those of a NaN too.
    Number(f64),
    /// TEXT.
    Text(&'a str),
    /// A JavaScript boolean. SQLite has none, and vlcn clients never send it.
    Boolean(bool),
    /// BLOB.
    Blob(&'a [u8]),
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Null, Self::Null) => true,
            (Self::Integer(a), Self::Integer(b)) => a == b,
            (Self::Number(a), Self::Number(b)) => a.to_bits() == b.to_bits(),
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Boolean(a), Self::Boolean(b)) => a == b,
            (Self::Blob(a), Self::Blob(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value<'_> {}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::Integer(_) => f.write_str("Integer"),
            Self::Number(_) => f.write_str("Number"),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Boolean(_) => f.write_str("Boolean"),
            Self::Blob(bytes) => write!(f, "Blob({} bytes)", bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChangeList;

    #[test]
    fn debug_shows_neither_key_nor_value() {
        let change = Change {
            table: "foo",
            pk: b"secret key",
            cid: "b",
            val: Value::Text("secret value"),
            col_version: 1,
            db_version: 2,
            site: None,
            cl: 1,
            seq: 0,
        };
        let shown = format!("{change:?}");
        assert!(shown.contains("Text(12 bytes)"), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
        let list: ChangeList = [change].into_iter().collect();
        assert_eq!(format!("{list:?}"), "ChangeList { len: 1, byte_len: 57 }");
        for val in [Value::Integer(4711), Value::Number(4711.5), Value::Blob(b"4711")] {
            assert!(!format!("{val:?}").contains("4711"));
        }
    }

    #[test]
    fn numbers_are_compared_by_their_bits() {
        assert_eq!(Value::Number(f64::NAN), Value::Number(f64::NAN));
        assert_ne!(Value::Number(0.0), Value::Number(-0.0));
        assert_ne!(Value::Number(5.0), Value::Integer(5));
    }
}
