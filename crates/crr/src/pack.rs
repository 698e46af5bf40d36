//! Packed columns: the form in which primary keys travel.
//!
//! One byte for the number of columns. Then, for each column, a type byte and a payload. The low three bits of the type
//! byte are the type, the upper five a byte count *n*:
//!
//! | type | bits | *n* | payload |
//! |---|---|---|---|
//! | integer | 1 | bytes of the number | *n* bytes, big-endian, **zero**-extended: negative numbers take all 8 |
//! | real | 2 | 0 | 8 bytes, IEEE 754, big-endian |
//! | text | 3 | bytes of the length | length in *n* bytes, big-endian, then UTF-8 |
//! | blob | 4 | bytes of the length | length in *n* bytes, big-endian, then the bytes |
//! | NULL | 5 | 0 | none |

use rusqlite::types::ValueRef;

const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;
const NULL: u8 = 5;

/// Why a packed key is malformed, or doesn't fit its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It ends before it says it does, or is empty.
    #[error("it ends too early")]
    Short,
    /// It goes on after its last column.
    #[error("it goes on after its last column")]
    Trailing,
    /// A column has an unknown type.
    #[error("a column has the unknown type {0}")]
    Type(u8),
    /// A number or a length is wider than 8 bytes.
    #[error("a number is {0} bytes wide")]
    Width(u8),
    /// A text isn't UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
    /// It has another number of columns than the table's primary key.
    #[error("it has {found} columns, the primary key has {wanted}")]
    Columns {
        /// The columns of the packed key.
        found: usize,
        /// The columns of the table's primary key.
        wanted: usize,
    },
    /// A column is NULL.
    #[error("a column is NULL")]
    Null,
    /// The table's key is its rowid, and this isn't an integer.
    #[error("the table's key is an integer, this is not")]
    NotAnInteger,
}

/// Appends packed columns to a buffer.
#[derive(Debug)]
pub(crate) struct Packer<'b> {
    out: &'b mut Vec<u8>,
}

impl<'b> Packer<'b> {
    /// Begins a packed key of `columns` columns.
    pub(crate) fn new(out: &'b mut Vec<u8>, columns: u8) -> Packer<'b> {
        out.push(columns);
        Packer { out }
    }

    /// Appends one column. `None` if it is longer than the format can say (4 GiB).
    pub(crate) fn push(&mut self, value: ValueRef<'_>) -> Option<()> {
        match value {
            ValueRef::Null => self.out.push(NULL),
            ValueRef::Integer(number) => self.number(INTEGER, &number.to_be_bytes()),
            ValueRef::Real(number) => {
                self.out.push(REAL);
                self.out.extend_from_slice(&number.to_be_bytes());
            }
            ValueRef::Text(bytes) => self.bytes(TEXT, bytes)?,
            ValueRef::Blob(bytes) => self.bytes(BLOB, bytes)?,
        }
        Some(())
    }

    /// A type byte with the width of a number, and the number without its leading zero bytes.
    fn number(&mut self, kind: u8, big_endian: &[u8]) {
        let significant = big_endian.iter().position(|byte| *byte != 0).unwrap_or(big_endian.len());
        let payload = big_endian.get(significant..).unwrap_or_default();
        let width = u8::try_from(payload.len()).unwrap_or(u8::MAX);
        self.out.push(width << 3 | kind);
        self.out.extend_from_slice(payload);
    }

    fn bytes(&mut self, kind: u8, bytes: &[u8]) -> Option<()> {
        let length = u32::try_from(bytes.len()).ok()?;
        self.number(kind, &length.to_be_bytes());
        self.out.extend_from_slice(bytes);
        Some(())
    }
}

/// Reads all columns of a packed key into `columns`, replacing what was there. Strict: see [`KeyError`].
pub(crate) fn unpack<'a>(packed: &'a [u8], columns: &mut Vec<ValueRef<'a>>) -> Result<(), KeyError> {
    columns.clear();
    let mut rest = packed;
    let count = take(&mut rest, 1)?.first().copied().ok_or(KeyError::Short)?;
    for _ in 0..count {
        columns.push(column(&mut rest)?);
    }
    if rest.is_empty() { Ok(()) } else { Err(KeyError::Trailing) }
}

fn column<'a>(rest: &mut &'a [u8]) -> Result<ValueRef<'a>, KeyError> {
    let head = take(rest, 1)?.first().copied().ok_or(KeyError::Short)?;
    let (kind, width) = (head & 7, head >> 3);
    match kind {
        INTEGER => Ok(ValueRef::Integer(number(rest, width)?.cast_signed())),
        // The reference ignores the width here; nothing writes one.
        REAL => {
            let bytes = take(rest, 8)?.try_into().map_err(|_| KeyError::Short)?;
            Ok(ValueRef::Real(f64::from_be_bytes(bytes)))
        }
        TEXT => {
            let bytes = bytes(rest, width)?;
            std::str::from_utf8(bytes).map_err(|_| KeyError::Utf8)?;
            Ok(ValueRef::Text(bytes))
        }
        BLOB => Ok(ValueRef::Blob(bytes(rest, width)?)),
        NULL => Ok(ValueRef::Null),
        unknown => Err(KeyError::Type(unknown)),
    }
}

fn bytes<'a>(rest: &mut &'a [u8], width: u8) -> Result<&'a [u8], KeyError> {
    let length = number(rest, width)?;
    take(rest, usize::try_from(length).map_err(|_| KeyError::Short)?)
}

/// A big-endian number of `width` bytes, zero-extended.
fn number(rest: &mut &[u8], width: u8) -> Result<u64, KeyError> {
    if width > 8 {
        return Err(KeyError::Width(width));
    }
    let bytes = take(rest, usize::from(width))?;
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], KeyError> {
    let (taken, left) = rest.split_at_checked(count).ok_or(KeyError::Short)?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rusqlite::types::Value;

    fn pack(values: &[ValueRef<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut packer = Packer::new(&mut out, values.len().try_into().unwrap());
        for value in values {
            packer.push(*value).unwrap();
        }
        out
    }

    fn unpacked(packed: &[u8]) -> Result<Vec<Value>, KeyError> {
        let mut columns = Vec::new();
        unpack(packed, &mut columns)?;
        Ok(columns.into_iter().map(|value| Value::try_from(value).unwrap()).collect())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02X}")).collect()
    }

    #[test]
    fn integers_are_as_short_as_they_can_be_and_negative_ones_take_eight_bytes() {
        for (number, packed) in [
            (1, "010901"),
            (0, "0101"),
            (-1, "0141FFFFFFFFFFFFFFFF"),
            (-128, "0141FFFFFFFFFFFFFF80"),
            (127, "01097F"),
            (128, "010980"),
            (200, "0109C8"),
            (255, "0109FF"),
            (256, "01110100"),
            (32767, "01117FFF"),
            (65535, "0111FFFF"),
            (65536, "0119010000"),
            (16_777_215, "0119FFFFFF"),
            (16_777_216, "012101000000"),
            (2_147_483_647, "01217FFFFFFF"),
            (2_147_483_648, "012180000000"),
            (4_294_967_295, "0121FFFFFFFF"),
            (4_294_967_296, "01290100000000"),
            (i64::MAX, "01417FFFFFFFFFFFFFFF"),
            (i64::MIN, "01418000000000000000"),
        ] {
            let bytes = pack(&[ValueRef::Integer(number)]);
            assert_eq!(hex(&bytes), packed, "{number}");
            assert_eq!(unpacked(&bytes).unwrap(), [Value::Integer(number)]);
        }
    }

    #[test]
    fn other_types_pack_as_the_format_says() {
        for (values, packed) in [
            (vec![ValueRef::Real(1.5)], "01023FF8000000000000"),
            (vec![ValueRef::Real(-1.5)], "0102BFF8000000000000"),
            (vec![ValueRef::Real(0.1)], "01023FB999999999999A"),
            (vec![ValueRef::Real(-0.0)], "01028000000000000000"),
            (vec![ValueRef::Real(f64::INFINITY)], "01027FF0000000000000"),
            (vec![ValueRef::Text(b"")], "0103"),
            (vec![ValueRef::Blob(b"")], "0104"),
            (vec![ValueRef::Null], "0105"),
            (vec![ValueRef::Text("é".as_bytes())], "010B02C3A9"),
            (vec![ValueRef::Blob(&[0, 255])], "010C0200FF"),
            (vec![ValueRef::Text(b"a\0b")], "010B03610062"),
            (
                vec![ValueRef::Integer(12), ValueRef::Text(b"str"), ValueRef::Blob(&[1, 2, 3])],
                "03090C0B037374720C03010203",
            ),
            (vec![], "00"),
        ] {
            let bytes = pack(&values);
            assert_eq!(hex(&bytes), packed);
            let values: Vec<Value> = values.into_iter().map(|value| Value::try_from(value).unwrap()).collect();
            assert_eq!(unpacked(&bytes).unwrap(), values);
        }
        assert!(hex(&pack(&[ValueRef::Text(&[b'a'; 70_000])])).starts_with("011B0111706161"));
        assert!(hex(&pack(&[ValueRef::Blob(&[7; 200])])).starts_with("010CC80707"));
    }

    #[test]
    fn a_needlessly_wide_number_reads_as_the_number() {
        assert_eq!(unpacked(b"\x01\x41\0\0\0\0\0\0\0\x05").unwrap(), [Value::Integer(5)]);
        assert_eq!(unpacked(b"\x01\x13\0\x01a").unwrap(), [Value::Text("a".into())]);
    }

    #[test]
    fn malformed_keys_are_errors() {
        for (packed, error) in [
            (&b""[..], KeyError::Short),
            (b"\x01", KeyError::Short),
            (b"\x01\x09", KeyError::Short),
            (b"\x01\x02\0\0\0\0\0\0\0", KeyError::Short),
            (b"\x01\x0b\x02a", KeyError::Short),
            (b"\x01\x43\xff\xff\xff\xff\xff\xff\xff\xff", KeyError::Short),
            (b"\x01\x49\0\0\0\0\0\0\0\0\x01", KeyError::Width(9)),
            (b"\x01\xfc\x01", KeyError::Width(31)),
            (b"\x01\x00", KeyError::Type(0)),
            (b"\x01\x06", KeyError::Type(6)),
            (b"\x01\x07", KeyError::Type(7)),
            (b"\x01\x0b\x01\xff", KeyError::Utf8),
            (b"\x01\x01\0", KeyError::Trailing),
            (b"\0\0", KeyError::Trailing),
        ] {
            assert_eq!(unpacked(packed), Err(error), "{packed:?}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            (0i64..70_000).prop_map(Value::Integer),
            any::<f64>().prop_filter("NaN is not equal to itself", |n| !n.is_nan()).prop_map(Value::Real),
            any::<String>().prop_map(Value::Text),
            any::<Vec<u8>>().prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks_to_the_same(values in prop::collection::vec(any_value(), 0..8)) {
            let borrowed: Vec<ValueRef<'_>> = values.iter().map(ValueRef::from).collect();
            let packed = pack(&borrowed);
            prop_assert_eq!(unpacked(&packed).unwrap(), values);
            for end in 0..packed.len() {
                prop_assert!(unpacked(&packed[..end]).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            let _ = unpacked(&bytes);
        }
    }
}
