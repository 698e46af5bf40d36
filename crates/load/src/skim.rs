//! Which cells a message of changes brings, found without decoding what they hold.

use tower_sqlite_sync_wire::SiteId;

use crate::fault::Fault;
use crate::rows::COLUMNS;

const CHANGES: u8 = 2;

/// A message of changes of which only the head was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Skimmed<'a> {
    /// Who sent it.
    pub(crate) sender: SiteId,
    /// The db_version that it follows.
    pub(crate) since: i64,
    /// How many changes it has.
    pub(crate) count: usize,
    body: &'a [u8],
}

impl<'a> Skimmed<'a> {
    /// Reads the head; `None` if the message is another one.
    pub(crate) fn read(message: &'a [u8]) -> Result<Option<Self>, Fault> {
        let mut rest = message;
        if array(&mut rest) != Some([CHANGES]) {
            return Ok(None);
        }
        let mut head = || {
            let sender = SiteId::from_bytes(array(&mut rest)?);
            let since = i64::from_be_bytes(array(&mut rest)?);
            skip_var(&mut rest)?;
            let count = usize::try_from(var_uint(&mut rest)?).ok()?;
            Some((sender, since, count))
        };
        let (sender, since, count) = head().ok_or_else(|| cut_off("the head of a message"))?;
        Ok(Some(Self { sender, since, count, body: rest }))
    }

    /// Tells the number of each cell, in order, and returns the db_version of the last one, or `since` if there is none.
    pub(crate) fn each_cell(&self, mut cell: impl FnMut(usize)) -> Result<i64, Fault> {
        let (mut rest, mut version) = (self.body, self.since);
        for _ in 0..self.count {
            let (number, db_version) = change(&mut rest).ok_or_else(|| cut_off("a change that was not written"))?;
            cell(number);
            version = db_version;
        }
        if rest.is_empty() { Ok(version) } else { Err(Fault::Wrong("bytes behind the last change".to_owned())) }
    }
}

/// The cell and the db_version of the change at the front.
fn change(rest: &mut &[u8]) -> Option<(usize, i64)> {
    let _table = string(rest)?;
    // A packed key of one text: its length and kind, its own length, and then 16 hexadecimal digits.
    let (_, digits) = string(rest)?.split_first_chunk::<3>()?;
    let row = hexadecimal(<&[u8; 16]>::try_from(digits).ok()?)?;
    let first = *string(rest)?.first()?;
    let column = COLUMNS.iter().position(|column| column.as_bytes().first() == Some(&first))?;
    match array(rest)? {
        [0] => {}
        [1 | 2] => drop(array::<8>(rest)?),
        [3 | 5] => drop(string(rest)?),
        [4] => drop(array::<1>(rest)?),
        _ => return None,
    }
    let _col_version = array::<8>(rest)?;
    let db_version = i64::from_be_bytes(array(rest)?);
    if array(rest)? != [0] {
        array::<16>(rest)?;
    }
    let _cl = array::<8>(rest)?;
    skip_var(rest)?;
    Some((row.checked_mul(COLUMNS.len())?.checked_add(column)?, db_version))
}

fn hexadecimal(digits: &[u8; 16]) -> Option<usize> {
    digits.iter().try_fold(0_usize, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number.checked_mul(16)? | usize::from(value))
    })
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (array, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*array)
}

fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(var_uint(rest)?).ok()?;
    let (string, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(string)
}

fn var_uint(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for group in 0..9 {
        let [byte] = array(rest)?;
        number |= u64::from(byte & 0x7f) << (7 * group);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Skips an integer of variable length: its last byte is the first one without the top bit.
fn skip_var(rest: &mut &[u8]) -> Option<()> {
    while array::<1>(rest)? >= [0x80] {}
    Some(())
}

fn cut_off(what: &str) -> Fault {
    Fault::Wrong(format!("{what} can't be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_sqlite_sync_wire::{Change, Changes, Message, Position, StartStreaming, Value};

    fn change_of<'a>(pk: &'a [u8], cid: &'a str, val: Value<'a>, db_version: i64, seq: i64) -> Change<'a> {
        let site = (seq % 2 == 1).then(|| SiteId::from_bytes([9; 16]));
        Change { table: "item", pk, cid, val, col_version: 1, db_version, site, cl: 1, seq }
    }

    fn encoded(changes: &[Change<'_>]) -> Vec<u8> {
        let message = Changes {
            sender: SiteId::from_bytes([7; 16]),
            since: Position { db_version: 5, seq: 300 },
            changes: changes.iter().copied().collect(),
        };
        Message::Changes(message).encode().to_vec()
    }

    #[test]
    fn cells_are_told_whatever_their_values() {
        let pk = [&[1, 11, 16][..], b"00000000000000ff"].concat();
        let long = "x".repeat(300);
        let values = [
            Value::Null,
            Value::Integer(-1),
            Value::Number(1.5),
            Value::Text(&long),
            Value::Boolean(true),
            Value::Blob(b"xyz"),
        ];
        let written: Vec<_> =
            values.iter().zip(0..).map(|(val, n)| change_of(&pk, "price", *val, 6, n * 100)).collect();
        let message = encoded(&written);
        let skimmed = Skimmed::read(&message).unwrap().unwrap();
        assert_eq!((skimmed.since, skimmed.count), (5, values.len()));
        let mut cells = Vec::new();
        assert_eq!(skimmed.each_cell(|cell| cells.push(cell)).unwrap(), 6);
        assert_eq!(cells, vec![255 * 4 + 2; values.len()]);
    }

    #[test]
    fn a_message_that_is_cut_off_or_too_long_is_a_fault() {
        let pk = [&[1, 11, 16][..], b"0000000000000001"].concat();
        let message = encoded(&[change_of(&pk, "title", Value::Text("milk"), 6, 1)]);
        let told = |bytes: &[u8]| Skimmed::read(bytes)?.map_or(Ok(0), |skimmed| skimmed.each_cell(|_| {}));
        assert_eq!(told(&message).unwrap(), 6);
        for length in 1..message.len() {
            assert!(told(&message[..length]).is_err(), "{length}");
        }
        assert!(told(&[&message[..], &[0]].concat()).is_err());
        assert!(told(&encoded(&[change_of(b"\x01\x09\x01", "title", Value::Null, 6, 1)])).is_err());
    }

    #[test]
    fn other_messages_are_not_changes() {
        let start = StartStreaming { since: Position::START, exclude_sites: Vec::new(), local_only: false };
        assert!(Skimmed::read(&Message::StartStreaming(start).encode()).unwrap().is_none());
        assert!(Skimmed::read(&[]).unwrap().is_none());
    }
}
