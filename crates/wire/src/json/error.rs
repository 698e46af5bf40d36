use serde_json::error::Category;

/// A text frame is not a message.
///
/// It says what was expected and where, but not what was found: cell values do not leave the frame by way of a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {expectation}")]
pub struct JsonError {
    expectation: Box<str>,
    line: usize,
    column: usize,
}

impl JsonError {
    /// The line where it is wrong, from 1.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }

    /// The column where it is wrong, in bytes from 1: at or just behind the fault.
    #[must_use]
    pub const fn column(&self) -> usize {
        self.column
    }
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let place = format!(" at line {line} column {column}");
        let text = text.strip_suffix(&place).unwrap_or(&text);
        let expectation = match error.classify() {
            Category::Data => without_found(text),
            // What the parser itself says quotes nothing.
            Category::Syntax | Category::Eof | Category::Io => text,
        };
        Self { expectation: expectation.into(), line, column }
    }
}

/// What serde's message about bad data says of our side.
///
/// It says `invalid type: string "secret", expected a thing`, or `unknown field ..., expected ...`: what stands last
/// is ours and holds no such comma; what stands before can hold anything.
fn without_found(text: &str) -> &str {
    if text.ends_with(", there are no fields") {
        return "expected no further field";
    }
    match text.rfind(", expected ") {
        Some(comma) => text.get(comma + 2..).unwrap_or_default(),
        None => text,
    }
}
