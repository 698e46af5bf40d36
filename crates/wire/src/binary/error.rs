use std::fmt;

/// A binary frame is not a message.
///
/// It says what is wrong and where, and holds no content of the frame but a number such as the tag: it may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeError {
    kind: DecodeErrorKind,
    offset: usize,
}

impl DecodeError {
    /// What is wrong.
    #[must_use]
    pub const fn kind(&self) -> DecodeErrorKind {
        self.kind
    }

    /// Where it is wrong, in bytes from the start: the first byte of the item that is at fault.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.offset, self.kind)
    }
}

impl std::error::Error for DecodeError {}

/// What is wrong with a binary frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The frame ends too early. An empty frame has no tag.
    #[error("expected {expected}, but the message ends")]
    UnexpectedEnd {
        /// What should be there.
        expected: &'static str,
    },
    /// The first byte is no message's tag.
    #[error("expected a message tag from 1 to 11, found {0}")]
    UnknownTag(u8),
    /// A value starts with a byte that is no value type.
    #[error("expected a value type from 0 to 5, found {0}")]
    UnknownValueType(u8),
    /// A site that may be missing starts with another byte than 0 or 5.
    #[error("expected 0 or 5 before a change's site, found {0}")]
    UnknownSiteMarker(u8),
    /// A boolean is another byte than 0 or 1.
    #[error("expected 0 or 1 for {expected}, found {found}")]
    NotABoolean {
        /// What should be there.
        expected: &'static str,
        /// The byte.
        found: u8,
    },
    /// A variable-length integer is above 2^53 − 1.
    #[error("{expected} is above 2^53 - 1")]
    IntegerTooLarge {
        /// What should be there.
        expected: &'static str,
    },
    /// A variable-length integer has more bytes than it needs.
    #[error("{expected} is written in more bytes than it needs")]
    IntegerTooLong {
        /// What should be there.
        expected: &'static str,
    },
    /// A text is not UTF-8. The offset is that of the first byte that does not fit.
    #[error("{expected} is not UTF-8")]
    NotUtf8 {
        /// What should be there.
        expected: &'static str,
    },
    /// A list has more entries than the rest of the frame can hold.
    #[error("{expected} is {count}, but the rest of the message holds at most {possible}")]
    CountTooLarge {
        /// What should be there.
        expected: &'static str,
        /// The count on the wire.
        count: u64,
        /// The largest count that could be true.
        possible: usize,
    },
    /// The message is over, and the frame is not.
    #[error("expected the end of the message, but {0} bytes are left")]
    TrailingBytes(usize),
}

impl DecodeErrorKind {
    pub(crate) const fn at(self, offset: usize) -> DecodeError {
        DecodeError { kind: self, offset }
    }
}
