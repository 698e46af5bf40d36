//! One number for what a database holds, to compare copies by.
//!
//! Copies that have merged the same changes hold the same rows and the same clocks, but not the same bytes: each numbers its
//! versions itself, and knows other authors by other ordinals. The digest is made of what is the same.
//!
//! [`Crr::digest`] has the definition.
//!
//! A sum needs no order and no memory, and that of a database is the sum of those of its tables. SHA-256 makes it certain that two
//! copies that differ by accident or by a fault have different sums; every platform has it. It isn't proof against somebody who
//! chooses the contents of a database for the sake of its digest: sums can be made to meet. Such a one could as well write what he
//! likes.

use std::fmt;

use rusqlite::types::ValueRef;
use rusqlite::{CachedStatement, Row, Statement};
use sha2::{Digest as _, Sha256};

use crate::change::SENTINEL;
use crate::pack::Packer;
use crate::read::pack_key;
use crate::state::Engine;
use crate::table::Table;
use crate::{Crr, Error, Result};

/// The largest whole number that every copy can tell from its neighbours, in JavaScript too (2^53 − 1).
const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;

/// What a database or a table holds, in 32 bytes: [`Crr::digest`]. Printed as 64 lower-case hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The bytes of the digest, a big-endian number.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Adds the hash of one change.
    fn add(&mut self, hash: &[u8]) {
        let mut carry = 0;
        for (digit, more) in self.0.iter_mut().zip(hash).rev() {
            let sum = u16::from(*digit) + u16::from(*more) + carry;
            let [high, low] = sum.to_be_bytes();
            *digit = low;
            carry = u16::from(high);
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Crr<'_> {
    /// The digest of all CRRs: equal on all copies that have merged the same changes, in whatever order and however often, and
    /// different on others. In SQL it is `crsql_digest()`, a blob.
    ///
    /// It tells nothing about tables that are no CRRs, about positions, and about who wrote what when. Copies must have the same
    /// schema: a column that only one of them has counts once it was written.
    ///
    /// All is read, one row at a time, at one moment: about a million cells a second. Writers need not wait meanwhile, if the
    /// database has a write-ahead log.
    ///
    /// # Definition
    ///
    /// 1. Take the fields `table`, `pk`, `cid`, `col_version`, `cl` and `val` of every change in `crsql_changes`. Leave out the sentinel
    ///    (`cid` is `-1`) of a row whose `cl` is 1, unless it is the row's only change: some copies have it and some don't.
    /// 2. Where a value, or a column of a key, is a REAL that is whole and not greater than 2^53 − 1 in magnitude, take the INTEGER
    ///    instead. Clients in JavaScript bind whole numbers as either.
    /// 3. Pack the six fields, in this order: `crsql_pack_columns(table, pk, cid, col_version, cl, val)`.
    /// 4. Take the SHA-256 of each, as a big-endian number of 256 bits.
    /// 5. Add them up, modulo 2^256. The sum, big-endian, is the digest; that of nothing is 0. So the digest of a database is the sum
    ///    of those of its tables.
    ///
    /// It finds copies that differ by accident or by a fault. It isn't proof against somebody who chooses what is written for the
    /// sake of the digest, since sums can be made to meet.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let conn = rusqlite::Connection::open_in_memory()?;
    /// let crr = crr::load(&conn)?;
    /// conn.execute_batch("CREATE TABLE foo (a INTEGER PRIMARY KEY NOT NULL, b); SELECT crsql_as_crr('foo');")?;
    /// let before = crr.digest()?;
    /// conn.execute_batch("INSERT INTO foo VALUES (1, 2)")?;
    /// assert_ne!(crr.digest()?, before);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If SQLite can't read.
    pub fn digest(&self) -> Result<Digest> {
        self.engine.digest()
    }

    /// The [`digest`](Self::digest) of one CRR. In SQL it is `crsql_digest('table')`.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTable`] if there is no such CRR.
    pub fn table_digest(&self, table: &str) -> Result<Digest> {
        self.engine.table_digest(table)
    }
}

impl Engine {
    pub(crate) fn digest(&self) -> Result<Digest> {
        self.at_one_moment(|digest| {
            let tables = self.schema()?.tables(self.db())?;
            tables.iter().try_for_each(|table| add_table(self, table, digest))
        })
    }

    pub(crate) fn table_digest(&self, name: &str) -> Result<Digest> {
        let name = self.crr_name(name)?;
        self.at_one_moment(|digest| {
            let tables = self.schema()?.tables(self.db())?;
            let table = tables.iter().find(|table| table.name == name);
            add_table(self, table.ok_or(Error::UnknownTable { table: name.clone() })?, digest)
        })
    }

    /// A statement that isn't finished keeps SQLite reading what there was when it began, also where no transaction can be begun:
    /// in a function.
    fn at_one_moment(&self, add: impl FnOnce(&mut Digest) -> Result<()>) -> Result<Digest> {
        let mut begin = self.db().prepare_cached("SELECT 1 FROM main.sqlite_schema")?;
        let mut held = begin.query([])?;
        held.next()?;
        let mut digest = Digest::default();
        add(&mut digest)?;
        Ok(digest)
    }
}

fn add_table(engine: &Engine, table: &Table, digest: &mut Digest) -> Result<()> {
    let mut rows = engine.db().prepare_cached(&table.sql.keyed_row)?;
    let mut entries: CachedStatement<'_> = engine.db().prepare_cached(&table.sql.all_entries)?;
    let mut entries = entries.query([])?;
    let mut row: Option<RowEntries> = None;
    let mut packed = Packed::default();
    while let Some(entry) = entries.next()? {
        let key = entry.get(0)?;
        if row.as_ref().is_some_and(|row| row.key != key)
            && let Some(complete) = row.take()
        {
            complete.add_to(digest, table, &mut rows, &mut packed)?;
        }
        row.get_or_insert_with(|| RowEntries::new(key)).push(table, entry)?;
    }
    row.map_or(Ok(()), |last| last.add_to(digest, table, &mut rows, &mut packed))
}

/// The clock entries of one row.
struct RowEntries {
    key: i64,
    /// The sentinel's, if there is one.
    life: Option<i64>,
    /// Positions of columns, and their versions.
    columns: Vec<(usize, i64)>,
}

impl RowEntries {
    fn new(key: i64) -> RowEntries {
        RowEntries { key, life: None, columns: Vec::new() }
    }

    fn push(&mut self, table: &Table, entry: &Row<'_>) -> Result<()> {
        let (name, version) = (entry.get_ref(1)?.as_bytes().unwrap_or_default(), entry.get(2)?);
        if name == SENTINEL.as_bytes() {
            self.life = Some(version);
        } else if let Some(column) = table.column(name) {
            self.columns.push((column, version));
        }
        Ok(())
    }

    fn add_to(self, digest: &mut Digest, table: &Table, rows: &mut Statement<'_>, packed: &mut Packed) -> Result<()> {
        let mut rows = rows.query([self.key])?;
        // Without its key, nobody is sent it.
        let Some(row) = rows.next()? else { return Ok(()) };
        packed.set_key(table, row)?;
        let cl = self.life.unwrap_or(1);
        if let Some(life) = self.life
            && (cl != 1 || self.columns.is_empty())
        {
            digest.add(&packed.hash(table, SENTINEL, life, cl, ValueRef::Null)?);
        }
        for (at, version) in self.columns {
            let Some(column) = table.columns.get(at) else { continue };
            digest.add(&packed.hash(table, &column.name, version, cl, row.get_ref(table.keys.len() + at)?)?);
        }
        Ok(())
    }
}

/// What is hashed, in buffers that are used again and again.
#[derive(Default)]
struct Packed {
    key: Vec<u8>,
    change: Vec<u8>,
}

impl Packed {
    fn set_key(&mut self, table: &Table, row: &Row<'_>) -> Result<()> {
        pack_key(table, &mut self.key, |at| Ok(normal(row.get_ref(at)?)))
    }

    fn hash(&mut self, table: &Table, cid: &str, col_version: i64, cl: i64, val: ValueRef<'_>) -> Result<[u8; 32]> {
        self.change.clear();
        let mut packer = Packer::new(&mut self.change, 6);
        let fields = [
            ValueRef::Text(table.name.as_bytes()),
            ValueRef::Blob(&self.key),
            ValueRef::Text(cid.as_bytes()),
            ValueRef::Integer(col_version),
            ValueRef::Integer(cl),
            normal(val),
        ];
        for field in fields {
            packer.push(field).ok_or(Error::DamagedFile { reason: "a value is too large" })?;
        }
        Ok(Sha256::digest(&self.change).into())
    }
}

/// The form of a number that all copies share.
fn normal(value: ValueRef<'_>) -> ValueRef<'_> {
    match value {
        ValueRef::Real(number) if number.fract() == 0.0 && number.abs() <= MAX_SAFE_INTEGER =>
        {
            #[allow(clippy::cast_possible_truncation, reason = "whole and within 53 bits, as just tested")]
            ValueRef::Integer(number as i64)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_added_as_numbers_of_256_bits() {
        let number = |low: u8, high: u8| {
            let mut bytes = [0; 32];
            (bytes[31], bytes[0]) = (low, high);
            bytes
        };
        let mut sum = Digest::default();
        sum.add(&number(0xff, 1));
        sum.add(&number(2, 3));
        let mut expected = number(1, 4);
        expected[30] = 1;
        assert_eq!(sum.0, expected);
        let mut full = Digest([0xff; 32]);
        full.add(&number(2, 0));
        assert_eq!(full.0, number(1, 0), "what is over 2^256 is gone");
    }

    #[test]
    fn whole_numbers_have_one_form() {
        assert_eq!(normal(ValueRef::Real(-0.0)), ValueRef::Integer(0));
        assert_eq!(normal(ValueRef::Real(MAX_SAFE_INTEGER)), ValueRef::Integer((1 << 53) - 1));
        for other in [0.5, -MAX_SAFE_INTEGER - 1.0, f64::INFINITY] {
            assert_eq!(normal(ValueRef::Real(other)), ValueRef::Real(other));
        }
    }
}
