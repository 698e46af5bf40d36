//! The changes of one message.

use std::{fmt, iter::FusedIterator};

use bytes::{Bytes, BytesMut};

use crate::{
    Change,
    binary::{DecodeError, Reader},
};

/// Changes in their encoded form, checked once and then read any number of times.
///
/// It keeps the bytes that came in and hands out [`Change`]s that borrow from them: an upload of 100 MiB stays 100 MiB.
/// Cloning is cheap. A list that was decoded shares the memory of its whole message.
///
/// ```
/// use tower_sqlite_sync_wire::{Change, ChangeList, Value};
///
/// let change = Change {
///     table: "foo",
///     pk: &[1, 9, 1],
///     cid: "b",
///     val: Value::Integer(5),
///     col_version: 1,
///     db_version: 2,
///     site: None,
///     cl: 1,
///     seq: 0,
/// };
/// let list: ChangeList = [change].into_iter().collect();
/// assert_eq!(list.len(), 1);
/// assert_eq!(list.iter().next(), Some(change));
/// ```
#[derive(Clone, Default)]
pub struct ChangeList {
    len: usize,
    // Exactly `len` changes that `Reader::change` has accepted, or that `Change::encode_into` wrote.
    encoded: Bytes,
}

impl ChangeList {
    /// `len` changes that are already encoded, with nothing before, between or behind them.
    ///
    /// # Errors
    ///
    /// When `encoded` is anything else than `len` valid changes. The offset counts from the start of `encoded`.
    pub fn from_encoded(len: usize, encoded: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(&encoded);
        for _ in 0..len {
            reader.change()?;
        }
        reader.finish()?;
        Ok(Self { len, encoded })
    }

    /// How many changes there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes they take on the wire.
    #[must_use]
    pub const fn byte_len(&self) -> usize {
        self.encoded.len()
    }

    /// The changes as they stand on the wire, without their count.
    #[must_use]
    pub const fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The changes, in the order of the message.
    #[must_use]
    pub fn iter(&self) -> ChangeIter<'_> {
        ChangeIter { reader: Reader::new(&self.encoded), left: self.len }
    }

    /// The next `len` changes of `reader`, which reads `message`.
    pub(crate) fn read(len: usize, reader: &mut Reader<'_>, message: &Bytes) -> Result<Self, DecodeError> {
        let start = reader.offset();
        for _ in 0..len {
            reader.change()?;
        }
        let encoded = message.slice(start..reader.offset());
        Ok(Self { len, encoded })
    }
}

impl fmt::Debug for ChangeList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeList").field("len", &self.len).field("byte_len", &self.byte_len()).finish()
    }
}

impl PartialEq for ChangeList {
    fn eq(&self, other: &Self) -> bool {
        // Equal bytes are the usual case. Unequal ones can mean the same: a seq of −0 is read as 0.
        self.len == other.len && (self.encoded == other.encoded || self.iter().eq(other.iter()))
    }
}

impl Eq for ChangeList {}

impl<'a> FromIterator<Change<'a>> for ChangeList {
    fn from_iter<I: IntoIterator<Item = Change<'a>>>(changes: I) -> Self {
        let mut list = ChangeListBuilder::default();
        for change in changes {
            list.push(change);
        }
        list.finish()
    }
}

impl<'a> IntoIterator for &'a ChangeList {
    type Item = Change<'a>;
    type IntoIter = ChangeIter<'a>;

    fn into_iter(self) -> ChangeIter<'a> {
        self.iter()
    }
}

/// A [`ChangeList`] in the making, for a source of changes that can fail.
///
/// ```
/// use tower_sqlite_sync_wire::{Change, ChangeListBuilder, Value};
///
/// let mut list = ChangeListBuilder::default();
/// for seq in 0..3 {
///     list.push(Change {
///         table: "foo",
///         pk: &[1, 9, 1],
///         cid: Change::SENTINEL,
///         val: Value::Null,
///         col_version: 1,
///         db_version: 2,
///         site: None,
///         cl: 1,
///         seq,
///     });
/// }
/// assert_eq!(list.finish().len(), 3);
/// ```
#[derive(Default)]
pub struct ChangeListBuilder {
    len: usize,
    encoded: BytesMut,
}

impl ChangeListBuilder {
    /// Appends a change.
    pub fn push(&mut self, change: Change<'_>) {
        change.encode_into(&mut self.encoded);
        self.len += 1;
    }

    /// How many changes there are so far.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none so far.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes they take so far.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.encoded.len()
    }

    /// The list.
    #[must_use]
    pub fn finish(self) -> ChangeList {
        ChangeList { len: self.len, encoded: self.encoded.freeze() }
    }
}

impl fmt::Debug for ChangeListBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeListBuilder").field("len", &self.len).field("byte_len", &self.byte_len()).finish()
    }
}

/// The changes of a [`ChangeList`].
#[derive(Clone)]
pub struct ChangeIter<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl fmt::Debug for ChangeIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeIter").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<'a> Iterator for ChangeIter<'a> {
    type Item = Change<'a>;

    fn next(&mut self) -> Option<Change<'a>> {
        self.left = self.left.checked_sub(1)?;
        let change = self.reader.change();
        debug_assert!(change.is_ok(), "a ChangeList holds only checked changes");
        change.ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for ChangeIter<'_> {}

impl FusedIterator for ChangeIter<'_> {}
