//! Definitions as they are written: SQLite keeps the text of each CREATE statement, and its pragmas tell less than the text
//! does (no CHECK, no COLLATE, no REFERENCES, and no difference between `5` and `(5)`).

/// The parts of a CREATE TABLE statement.
#[derive(Debug)]
pub(crate) struct TableDefinition<'s> {
    columns: Vec<ColumnDefinition<'s>>,
    /// Table constraints and options, in normal form.
    rest: Vec<Vec<String>>,
}

/// A column, as written.
#[derive(Debug)]
pub(crate) struct ColumnDefinition<'s> {
    name: String,
    text: &'s str,
    normal: Vec<String>,
}

impl<'s> TableDefinition<'s> {
    /// Takes a statement apart. What isn't a list of columns in parentheses has no columns.
    pub(crate) fn parse(sql: &'s str) -> TableDefinition<'s> {
        let tokens = tokens(sql);
        let mut parsed = TableDefinition { columns: Vec::new(), rest: Vec::new() };
        let Some(open) = tokens.iter().position(|token| token.text == "(") else { return parsed };
        let mut depth = 0_usize;
        let mut part = Vec::new();
        for (at, token) in tokens.iter().enumerate().skip(open) {
            match token.text {
                "(" => depth += 1,
                ")" => depth -= 1,
                _ => {}
            }
            let ends = depth == 0 || depth == 1 && token.text == ",";
            if at == open {
                continue;
            } else if ends {
                parsed.add(sql, std::mem::take(&mut part));
            } else {
                part.push(*token);
            }
            if depth == 0 {
                parsed.rest.push(tokens.iter().skip(at + 1).map(Token::normal).collect());
                break;
            }
        }
        parsed
    }

    /// The column of this name.
    pub(crate) fn column(&self, name: &str) -> Option<&ColumnDefinition<'s>> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether the two differ in anything but their columns.
    pub(crate) fn differs_besides_columns(&self, other: &TableDefinition<'_>) -> bool {
        self.rest != other.rest
    }

    /// Adds what stands between two commas.
    fn add(&mut self, sql: &'s str, part: Vec<Token<'s>>) {
        let (Some(first), Some(last)) = (part.first(), part.last()) else { return };
        let normal: Vec<String> = part.iter().map(Token::normal).collect();
        let constraint = ["constraint", "primary", "unique", "check", "foreign"];
        if !first.is_quoted() && normal.first().is_some_and(|word| constraint.contains(&word.as_str())) {
            self.rest.push(normal);
            return;
        }
        let text = sql.get(first.start..last.start + last.text.len()).unwrap_or_default();
        self.columns.push(ColumnDefinition { name: first.unquoted(), text, normal });
    }
}

impl ColumnDefinition<'_> {
    /// As it is written, name included.
    pub(crate) fn text(&self) -> &str {
        self.text
    }

    /// Whether the two say something different, not only in another way.
    pub(crate) fn differs(&self, other: &ColumnDefinition<'_>) -> bool {
        self.normal != other.normal
    }
}

/// Whether two statements are the same but for spaces, comments, quotes and case.
pub(crate) fn same(a: &str, b: &str) -> bool {
    tokens(a).iter().map(Token::normal).eq(tokens(b).iter().map(Token::normal))
}

/// A word, a quoted name, a string, or one other character.
#[derive(Clone, Copy, Debug)]
struct Token<'s> {
    text: &'s str,
    start: usize,
}

impl Token<'_> {
    fn is_quoted(&self) -> bool {
        self.text.starts_with(['"', '`', '[', '\''])
    }

    /// The name that it is.
    fn unquoted(&self) -> String {
        let Some(quote) = self.text.chars().next().filter(|_| self.is_quoted()) else { return self.text.to_owned() };
        let inside = self.text.get(1..self.text.len().saturating_sub(1)).unwrap_or_default();
        match quote {
            '[' => inside.to_owned(),
            quote => inside.replace(&format!("{quote}{quote}"), &quote.to_string()),
        }
    }

    /// What it means: names and keywords in lower case and without quotes, strings as they are.
    fn normal(&self) -> String {
        if self.text.starts_with('\'') { self.text.to_owned() } else { self.unquoted().to_ascii_lowercase() }
    }
}

/// The tokens of a statement that SQLite has accepted. Spaces and comments are left out.
fn tokens(sql: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut start = 0;
    while let Some(rest) = sql.get(start..).filter(|rest| !rest.is_empty()) {
        let (length, counts) = token(rest);
        if counts {
            tokens.push(Token { text: rest.get(..length).unwrap_or_default(), start });
        }
        start += length;
    }
    tokens
}

/// The length of what `rest` begins with, at least one character, and whether it is a token.
fn token(rest: &str) -> (usize, bool) {
    let first = rest.chars().next().unwrap_or_default();
    let to_end_of = |end: &str| rest.find(end).map_or(rest.len(), |at| at + end.len());
    let while_chars = |part: fn(char) -> bool| rest.find(|c| !part(c)).unwrap_or(rest.len());
    match first {
        _ if rest.starts_with("--") => (to_end_of("\n"), false),
        _ if rest.starts_with("/*") => (to_end_of("*/"), false),
        c if c.is_ascii_whitespace() => (while_chars(|c| c.is_ascii_whitespace()), false),
        '[' => (to_end_of("]"), true),
        '"' | '`' | '\'' => (quoted(rest, first), true),
        c if is_word(c) => (while_chars(is_word), true),
        c => (c.len_utf8(), true),
    }
}

/// SQLite takes every character that isn't ASCII as part of a name; the dot keeps numbers together.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '.') || !c.is_ascii()
}

/// The length of what is in quotes, in which doubled quotes stand for one.
fn quoted(rest: &str, quote: char) -> usize {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return at + c.len_utf8();
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_as_they_are_written_and_constraints_are_no_columns() {
        let sql = "CREATE TABLE \"a(b\" (id TEXT PRIMARY KEY NOT NULL, -- the key, (of course)
                   \"say \"\"hi\"\"\" TEXT DEFAULT ('a, b)' || upper('c')) /* , */ COLLATE NOCASE,
                   [check] INT CHECK ([check] > 0),
                   `é` REFERENCES other (x),
                   \"primary\",
                   PRIMARY KEY (id), CONSTRAINT c CHECK (id <> '')) STRICT";
        let parsed = TableDefinition::parse(sql);
        let columns: Vec<(&str, &str)> = parsed.columns.iter().map(|c| (c.name.as_str(), c.text)).collect();
        assert_eq!(
            columns,
            [
                ("id", "id TEXT PRIMARY KEY NOT NULL"),
                ("say \"hi\"", "\"say \"\"hi\"\"\" TEXT DEFAULT ('a, b)' || upper('c')) /* , */ COLLATE NOCASE"),
                ("check", "[check] INT CHECK ([check] > 0)"),
                ("é", "`é` REFERENCES other (x)"),
                ("primary", "\"primary\""),
            ]
        );
        assert_eq!(parsed.rest.len(), 3);
    }

    #[test]
    fn spaces_comments_quotes_and_case_make_no_difference_but_strings_and_order_do() {
        assert!(same("CREATE INDEX i ON t(a, b)", "create  index \"i\" on [t] (A,--\nb /**/)"));
        assert!(!same("CREATE INDEX i ON t(a) WHERE a > 'x'", "CREATE INDEX i ON t(a) WHERE a > 'X'"));
        assert!(!same("CREATE INDEX i ON t(a, b)", "CREATE INDEX i ON t(b, a)"));
        let (a, b) = ("CREATE TABLE t(a INT DEFAULT 5, b)", "CREATE TABLE t(a int default (5), B)");
        let (a, b) = (TableDefinition::parse(a), TableDefinition::parse(b));
        assert!(a.column("a").unwrap().differs(b.column("a").unwrap()));
        assert!(!a.differs_besides_columns(&b));
        assert!(b.column("b").is_none());
    }

    #[test]
    fn text_that_ends_anywhere_is_read_without_harm() {
        let sql = "CREATE TABLE t(a DEFAULT 'it''s', \"b\"\"c\" CHECK ((1)), [d], `e` -- f\n, g /* h */) STRICT, WITHOUT ROWID";
        for end in 0..=sql.len() {
            TableDefinition::parse(&sql[..end]);
            assert!(same(&sql[..end], &sql[..end]));
        }
        TableDefinition::parse("CREATE TABLE t)(");
    }
}
