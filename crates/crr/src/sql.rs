//! Words of SQL: quoting, and binding values without copying them first.

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Result, Statement, ffi};

/// A name as an SQL identifier.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as an SQL literal.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What `part` makes of each item, separated by `separator`.
pub(crate) fn join<T>(items: impl IntoIterator<Item = T>, separator: &str, part: impl FnMut(T) -> String) -> String {
    items.into_iter().map(part).collect::<Vec<_>>().join(separator)
}

/// A borrowed value as a parameter.
#[derive(Debug)]
pub(crate) struct Bind<'a>(pub(crate) ValueRef<'a>);

impl ToSql for Bind<'_> {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

/// Binds values to consecutive parameters.
pub(crate) fn bind_all<'v>(
    statement: &mut Statement<'_>,
    first: usize,
    values: impl IntoIterator<Item = ValueRef<'v>>,
) -> Result<()> {
    (first..).zip(values).try_for_each(|(at, value)| statement.raw_bind_parameter(at, Bind(value)))
}

/// Whether a statement failed because a row is there already.
pub(crate) fn is_conflict(error: &rusqlite::Error) -> bool {
    error.sqlite_extended_error_code() == Some(ffi::SQLITE_CONSTRAINT_PRIMARYKEY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_inside_names_and_texts_are_doubled() {
        assert_eq!(identifier("say \"hi\""), "\"say \"\"hi\"\"\"");
        assert_eq!(literal("o'brien"), "'o''brien'");
        assert_eq!(join(["a", "b"], ", ", identifier), "\"a\", \"b\"");
    }
}
