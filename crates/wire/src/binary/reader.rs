use super::{DecodeError, DecodeErrorKind, MAX_VAR_INT};
use crate::{Position, SiteId};

/// Reads primitives from the front of a message. After an error its place is unspecified.
///
/// Each method takes the name of what it reads, for the error.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, len: bytes.len() }
    }

    /// How many bytes have been read.
    pub(crate) const fn offset(&self) -> usize {
        self.len - self.rest.len()
    }

    /// Expects the end.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeErrorKind::TrailingBytes(left).at(self.offset())),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        let [byte] = self.array(expected)?;
        Ok(byte)
    }

    pub(crate) fn bool(&mut self, expected: &'static str) -> Result<bool, DecodeError> {
        let start = self.offset();
        match self.u8(expected)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(DecodeErrorKind::NotABoolean { expected, found }.at(start)),
        }
    }

    #[inline]
    pub(crate) fn i64(&mut self, expected: &'static str) -> Result<i64, DecodeError> {
        self.array(expected).map(i64::from_be_bytes)
    }

    pub(crate) fn f64(&mut self, expected: &'static str) -> Result<f64, DecodeError> {
        self.array(expected).map(f64::from_be_bytes)
    }

    pub(crate) fn site(&mut self, expected: &'static str) -> Result<SiteId, DecodeError> {
        self.array(expected).map(SiteId::from_bytes)
    }

    pub(crate) fn position(&mut self) -> Result<Position, DecodeError> {
        Ok(Position {
            db_version: self.i64("the db_version of a position")?,
            seq: self.var_int("the seq of a position")?,
        })
    }

    #[inline]
    pub(crate) fn var_int(&mut self, expected: &'static str) -> Result<i64, DecodeError> {
        const MORE: u8 = 0x80;
        const NEGATIVE: u8 = 0x40;

        let start = self.offset();
        let first = self.u8(expected)?;
        let mut magnitude = u64::from(first & 0x3f);
        if first & MORE != 0 {
            magnitude |= self.groups(6, start, expected)?;
        }
        // Of a magnitude up to 2^53 − 1 neither the cast nor the negation can overflow.
        let magnitude = magnitude.cast_signed();
        Ok(if first & NEGATIVE == 0 { magnitude } else { -magnitude })
    }

    #[inline]
    fn var_uint(&mut self, expected: &'static str) -> Result<u64, DecodeError> {
        // Most lengths are below 128.
        if let [first @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*first));
        }
        let start = self.offset();
        self.groups(0, start, expected)
    }

    /// The 7-bit groups of a variable-length integer that starts at `start`, the first of which is shifted by `shift`.
    fn groups(&mut self, mut shift: u32, start: usize, expected: &'static str) -> Result<u64, DecodeError> {
        let mut number = 0;
        loop {
            let byte = self.u8(expected)?;
            number |= u64::from(byte & 0x7f) << shift;
            if number > MAX_VAR_INT {
                return Err(DecodeErrorKind::IntegerTooLarge { expected }.at(start));
            }
            if byte == 0 && shift != 0 {
                return Err(DecodeErrorKind::IntegerTooLong { expected }.at(start));
            }
            if byte & 0x80 == 0 {
                return Ok(number);
            }
            shift += 7;
            // No group may start above the highest bit, and so no shift can lose one.
            if MAX_VAR_INT >> shift == 0 {
                return Err(DecodeErrorKind::IntegerTooLarge { expected }.at(start));
            }
        }
    }

    /// The number of entries of a list, of at least `entry` bytes each.
    pub(crate) fn count(&mut self, expected: &'static str, entry: usize) -> Result<usize, DecodeError> {
        let start = self.offset();
        let count = self.var_uint(expected)?;
        let possible = self.rest.len() / entry;
        match usize::try_from(count) {
            Ok(count) if count <= possible => Ok(count),
            _ => Err(DecodeErrorKind::CountTooLarge { expected, count, possible }.at(start)),
        }
    }

    #[inline]
    pub(crate) fn bytes(&mut self, expected: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.var_uint(expected)?;
        let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let Some((bytes, rest)) = split else {
            return Err(self.unexpected_end(expected));
        };
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    pub(crate) fn string(&mut self, expected: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes(expected)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let start = self.offset() - bytes.len();
            DecodeErrorKind::NotUtf8 { expected }.at(start + error.valid_up_to())
        })
    }

    #[inline]
    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((array, rest)) = self.rest.split_first_chunk() else {
            return Err(self.unexpected_end(expected));
        };
        self.rest = rest;
        Ok(*array)
    }

    #[cold]
    fn unexpected_end(&self, expected: &'static str) -> DecodeError {
        DecodeErrorKind::UnexpectedEnd { expected }.at(self.offset())
    }
}
