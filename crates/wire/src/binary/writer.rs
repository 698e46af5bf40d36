use bytes::{BufMut, BytesMut};

use super::MAX_VAR_INT;
use crate::{Position, SiteId};

/// What the format has beyond the fixed-width primitives of [`BufMut`].
pub(super) trait Writer {
    fn put_bool(&mut self, value: bool);
    fn put_site(&mut self, site: SiteId);
    fn put_position(&mut self, position: Position);
    /// Writes a varUint: the length of a text or a list.
    fn put_count(&mut self, count: usize);
    /// Writes a varInt. A magnitude above 2^53 − 1 is replaced by that bound: it comes from a damaged database at
    /// most, and no peer could read it, nor anything behind it.
    fn put_var_int(&mut self, value: i64);
    fn put_byte_string(&mut self, bytes: &[u8]);
    fn put_string(&mut self, text: &str);
}

impl Writer for BytesMut {
    fn put_bool(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }

    fn put_site(&mut self, site: SiteId) {
        self.put_slice(site.as_bytes());
    }

    fn put_position(&mut self, position: Position) {
        self.put_i64(position.db_version);
        self.put_var_int(position.seq);
    }

    #[inline]
    fn put_count(&mut self, count: usize) {
        put_groups(self, count as u64);
    }

    #[inline]
    fn put_var_int(&mut self, value: i64) {
        let sign = if value < 0 { 0x40 } else { 0 };
        let magnitude = value.unsigned_abs().min(MAX_VAR_INT);
        let more = if magnitude > 0x3f { 0x80 } else { 0 };
        self.put_u8(more | sign | low_byte(magnitude) & 0x3f);
        if magnitude > 0x3f {
            put_groups(self, magnitude >> 6);
        }
    }

    #[inline]
    fn put_byte_string(&mut self, bytes: &[u8]) {
        self.put_count(bytes.len());
        self.put_slice(bytes);
    }

    #[inline]
    fn put_string(&mut self, text: &str) {
        self.put_byte_string(text.as_bytes());
    }
}

/// Groups of 7 bits, least significant first.
fn put_groups(out: &mut BytesMut, mut number: u64) {
    while number > 0x7f {
        out.put_u8(low_byte(number) | 0x80);
        number >>= 7;
    }
    out.put_u8(low_byte(number));
}

fn low_byte(number: u64) -> u8 {
    let [low, ..] = number.to_le_bytes();
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        binary::{DecodeErrorKind, Reader},
        hex::{self, Hex},
    };

    fn encoded(put: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        put(&mut out);
        Hex(&out).to_string()
    }

    #[test]
    fn counts_are_written_in_seven_bit_groups() {
        let table = [
            (0, "00"),
            (1, "01"),
            (127, "7f"),
            (128, "8001"),
            (300, "ac02"),
            (16_383, "ff7f"),
            (16_384, "808001"),
            (1 << 32, "8080808010"),
            ((1 << 53) - 1, "ffffffffffffff0f"),
        ];
        for (number, bytes) in table {
            assert_eq!(encoded(|out| put_groups(out, number)), bytes, "{number}");
        }
    }

    #[test]
    fn signed_integers_are_sign_and_magnitude_both_ways() {
        let table = [
            (0, "00"),
            (63, "3f"),
            (64, "8001"),
            (127, "bf01"),
            (128, "8002"),
            (300, "ac04"),
            (8191, "bf7f"),
            (8192, "808001"),
            (2_147_483_647, "bfffffff0f"),
            ((1 << 53) - 1, "bfffffffffffff1f"),
            (-1, "41"),
            (-63, "7f"),
            (-64, "c001"),
            (-300, "ec04"),
            (1 - (1 << 53), "ffffffffffffff1f"),
        ];
        for (number, bytes) in table {
            assert_eq!(encoded(|out| out.put_var_int(number)), bytes, "{number}");
            let bytes = hex::decode(bytes).unwrap();
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.var_int("it"), Ok(number));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_signed_integer_beyond_what_peers_can_read_is_replaced_by_the_bound() {
        for (number, bytes) in
            [(i64::MAX, "bfffffffffffff1f"), (1 << 53, "bfffffffffffff1f"), (i64::MIN, "ffffffffffffff1f")]
        {
            assert_eq!(encoded(|out| out.put_var_int(number)), bytes);
        }
    }

    #[test]
    fn minus_zero_is_read_as_zero() {
        assert_eq!(Reader::new(&[0x40]).var_int("it"), Ok(0));
    }

    #[test]
    fn a_signed_integer_that_is_too_large_or_too_long_is_refused() {
        let expected = "it";
        let large = DecodeErrorKind::IntegerTooLarge { expected }.at(0);
        let long = DecodeErrorKind::IntegerTooLong { expected }.at(0);
        let table = [
            ("80808080808080 20", large),
            ("c0808080808080 20", large),
            ("ffffffffffffffffffff7f", large),
            ("80808080808080808080", large),
            ("8000", long),
            ("c000", long),
            ("80 80 00", long),
        ];
        for (bytes, error) in table {
            let bytes = hex::decode(&bytes.replace(' ', "")).unwrap();
            assert_eq!(Reader::new(&bytes).var_int(expected), Err(error), "{bytes:x?}");
        }
    }
}
